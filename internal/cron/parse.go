package cron

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// field is the set of values that one field of an expression selects: bit n for n.
type field uint64

func (f field) has(v int) bool { return f>>uint(v)&1 == 1 }

// next returns the smallest selected value that is at least v.
func (f field) next(v int) (int, bool) {
	rest := f >> uint(v) << uint(v)
	return bits.TrailingZeros64(uint64(rest)), rest != 0
}

// values lists the selected values in rising order.
func (f field) values() []int {
	out := make([]int, 0, bits.OnesCount64(uint64(f)))
	for v, ok := f.next(0); ok; v, ok = f.next(v + 1) {
		out = append(out, v)
	}
	return out
}

// fieldSpec is what one of the five fields accepts.
type fieldSpec struct {
	name     string // as users read it
	low      int
	high     int
	names    []string // names[i] stands for low+i
	fullName []string // long forms, for the hint only
}

var (
	weekdayNames = []string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}
	monthNames   = []string{"January", "February", "March", "April", "May", "June", "July",
		"August", "September", "October", "November", "December"}

	minuteSpec     = fieldSpec{name: "minute", low: 0, high: 59}
	hourSpec       = fieldSpec{name: "hour", low: 0, high: 23}
	dayOfMonthSpec = fieldSpec{name: "day-of-month", low: 1, high: 31}
	monthSpec      = fieldSpec{name: "month", low: 1, high: 12, names: shortNames(monthNames), fullName: monthNames}
	dayOfWeekSpec  = fieldSpec{name: "day-of-week", low: 0, high: 7, names: shortNames(weekdayNames), fullName: weekdayNames}
)

const (
	allMinutes     = field(1)<<60 - 1
	allHours       = field(1)<<24 - 1
	allDaysOfMonth = field(1)<<32 - 2
	allMonths      = field(1)<<13 - 2
	allDaysOfWeek  = field(1)<<7 - 1
)

// descriptors are the words for common expressions.
var descriptors = map[string]string{
	"@yearly":   "0 0 1 1 *",
	"@annually": "0 0 1 1 *",
	"@monthly":  "0 0 1 * *",
	"@weekly":   "0 0 * * 0",
	"@daily":    "0 0 * * *",
	"@midnight": "0 0 * * *",
	"@hourly":   "0 * * * *",
}

const knownDescriptors = "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and @every"

func refuse(rule, format string, args ...any) *Error {
	return &Error{Field: FieldExpression, Rule: rule, Message: fmt.Sprintf(format, args...)}
}

func quote(s string) string { return strconv.Quote(s) }

// parseExpression returns a Schedule without its zone.
func parseExpression(expr string) (*Schedule, error) {
	if len(expr) > MaxLength {
		return nil, refuse("too_long", "the expression is %d bytes long, the limit is %d; "+
			"use ranges and steps instead of long lists, or several definitions", len(expr), MaxLength)
	}
	for _, r := range expr {
		if r != '\t' && (r < ' ' || r > '~') {
			return nil, refuse("syntax", "the expression contains the character %q; "+
				"write plain ASCII digits, names and * , - / separated by spaces, on one line", r)
		}
	}
	expr = strings.Trim(expr, " \t")
	if expr == "" {
		return nil, refuse("empty", "the expression is empty; write five fields (minute hour day-of-month month day-of-week), "+
			"for example \"0 9 * * 1-5\"")
	}
	if upper := strings.ToUpper(expr); strings.HasPrefix(upper, "TZ=") || strings.HasPrefix(upper, "CRON_TZ=") {
		return nil, refuse("tz_prefix", "%s inside the expression is not supported, because a definition has one time zone and "+
			"shows it; put the zone into \"timezone\" and leave only the five fields here", expr[:strings.IndexByte(expr, '=')+1])
	}
	if expr[0] == '@' {
		return parseDescriptor(expr)
	}
	if strings.Contains(expr, "#") {
		return nil, refuse("hash", "\"#\" is not supported: some systems read 5#2 as the second Friday, others as a comment and "+
			"fire every Friday; to meet the second Friday run every Friday and check the date in the task, "+
			"and put remarks into \"description\"")
	}
	parts := strings.FieldsFunc(expr, func(r rune) bool { return r == ' ' || r == '\t' })
	switch {
	case len(parts) == 6:
		return nil, refuse("six_fields", "the expression has six fields; cron has five (minute hour day-of-month month day-of-week), "+
			"and six mean different things in different systems: some put seconds first, some put a year last; "+
			"leave out the field that is not cron, or use \"@every 30s\" for periods under a minute")
	case len(parts) == 7:
		return nil, refuse("seven_fields", "the expression has seven fields; cron has five (minute hour day-of-month month day-of-week), "+
			"and seven (seconds first, year last) is another dialect; leave out the seconds and the year")
	case len(parts) != 5:
		return nil, refuse("field_count", "the expression has %s; cron has five (minute hour day-of-month month day-of-week), "+
			"for example \"0 9 * * 1-5\"", count(len(parts), "field"))
	}
	return parseFields(parts)
}

func parseDescriptor(expr string) (*Schedule, error) {
	word, rest := expr, ""
	if i := strings.IndexAny(expr, " \t"); i >= 0 {
		word, rest = expr[:i], strings.Trim(expr[i:], " \t")
	}
	switch {
	case word == "@every":
		return parseEvery(rest)
	case word == "@reboot":
		return nil, refuse("reboot", "@reboot is not supported, because services restart at any time and there is no one machine "+
			"whose start could be meant; use a time, or trigger the definition by hand or by an event")
	}
	fields, ok := descriptors[word]
	if !ok {
		return nil, refuse("descriptor", "%s is not known; known are %s, in lower case", quote(word), knownDescriptors)
	}
	if rest != "" {
		return nil, refuse("descriptor", "%s stands alone, but %s follows it; remove one of the two", word, quote(rest))
	}
	return parseFields(strings.Fields(fields))
}

func parseEvery(text string) (*Schedule, error) {
	const example = "write for example \"@every 90m\", \"@every 36h\" or \"@every 1h30m\""
	if text == "" {
		return nil, refuse("every", "@every needs a period; %s", example)
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return nil, refuse("every", "%s is not a period: it takes numbers with the units h, m and s (a day is 24h); %s",
			quote(text), example)
	case d < time.Second:
		return nil, refuse("every", "the period of @every is %s, the shortest is 1s; %s", quote(text), example)
	case d%time.Second != 0:
		return nil, refuse("every", "the period %s is not a whole number of seconds; %s", quote(text), example)
	case d > MaxEvery:
		return nil, refuse("every", "the period %s is longer than 366 days (8784h); use a calendar expression such as @yearly", quote(text))
	}
	return &Schedule{every: int64(d / time.Second)}, nil
}

func parseFields(parts []string) (*Schedule, error) {
	s := &Schedule{}
	for i, target := range []struct {
		spec *fieldSpec
		set  *field
	}{
		{&minuteSpec, &s.minute}, {&hourSpec, &s.hour}, {&dayOfMonthSpec, &s.dayOfMonth},
		{&monthSpec, &s.month}, {&dayOfWeekSpec, &s.dayOfWeek},
	} {
		set, warnings, err := target.spec.parse(parts[i])
		if err != nil {
			return nil, err
		}
		*target.set = set
		s.stepWarnings = append(s.stepWarnings, warnings...)
	}
	if s.dayOfWeek.has(7) {
		s.dayOfWeek |= 1
	}
	s.dayOfWeek &= allDaysOfWeek

	star := func(i int) bool { return parts[i][0] == '*' }
	s.eitherDay = !star(2) && !star(4)
	s.realTime = star(0) || star(1)

	if !s.everFires() {
		return nil, refuse("never_fires", "the expression never fires, because %s cannot fall in %s; choose another day or month",
			dateWords(s.dayOfMonth), monthWords(s.month))
	}
	return s, nil
}

// everFires reports whether some date matches. Each date of the calendar, the 29th of
// February too, falls on every weekday within 400 years; so only the day of the
// month can make an expression impossible, and only when a weekday cannot stand in.
func (s *Schedule) everFires() bool {
	if s.eitherDay {
		return true
	}
	for _, m := range s.month.values() {
		first, _ := s.dayOfMonth.next(1)
		if first <= longestMonth(m) {
			return true
		}
	}
	return false
}

// longestMonth returns the days of the month in a leap year.
func longestMonth(month int) int {
	switch time.Month(month) {
	case time.February:
		return 29
	case time.April, time.June, time.September, time.November:
		return 30
	}
	return 31
}

// parse reads one field, items separated by commas, and collects what is odd about
// its steps.
func (f *fieldSpec) parse(text string) (set field, warnings []string, err error) {
	for item := range strings.SplitSeq(text, ",") {
		if item == "" {
			return 0, nil, refuse("empty_item", "the %s field %s has an empty item in its list; remove the extra comma", f.name, quote(text))
		}
		low, high, step, err := f.parseItem(item)
		if err != nil {
			return 0, nil, err
		}
		for v := low; v <= high; v += step {
			set |= 1 << uint(v)
		}
		if warning := f.stepWarning(item, low, high, step); warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return set, warnings, nil
}

// parseItem reads "*", "a", "a-b", "*/n" or "a-b/n".
func (f *fieldSpec) parseItem(item string) (low, high, step int, err error) {
	base, stepText, hasStep := strings.Cut(item, "/")
	from, to, isRange := strings.Cut(base, "-")
	if err := f.dialect(item, from); err != nil {
		return 0, 0, 0, err
	}
	switch {
	case strings.Contains(stepText, "/"):
		return 0, 0, 0, f.notUnderstood(item)
	case base == "*":
		low, high = f.low, f.high
	case from == "*" && isRange:
		return 0, 0, 0, refuse("star_range", "%s in the %s field is not a range, since * already means every value; write %d-%s",
			quote(item), f.name, f.low, orElse(to, strconv.Itoa(f.high)))
	case isRange:
		if low, err = f.value(item, from); err != nil {
			return 0, 0, 0, err
		}
		if high, err = f.value(item, to); err != nil {
			return 0, 0, 0, err
		}
		if low > high {
			return 0, 0, 0, f.wrapAround(item, low, high)
		}
	default:
		if low, err = f.value(item, base); err != nil {
			return 0, 0, 0, err
		}
		high = low
		if hasStep {
			return 0, 0, 0, refuse("start_step", "%s in the %s field is a step without a range, which cron systems read differently; "+
				"write %s-%d/%s", quote(item), f.name, base, f.top(), orElse(stepText, "n"))
		}
	}
	if !hasStep {
		return low, high, 1, nil
	}
	step, ok := number(stepText)
	if !ok || step == 0 {
		return 0, 0, 0, refuse("step", "the step in %s of the %s field must be a whole number from 1 to 9999, for example %s/2",
			quote(item), f.name, base)
	}
	return low, high, step, nil
}

// dialect recognises signs of other cron dialects, each with its own way out.
func (f *fieldSpec) dialect(item, from string) error {
	if strings.ContainsRune(item, '?') {
		return refuse("question_mark", "\"?\" in the %s field comes from another cron dialect; write * instead", f.name)
	}
	if strings.ContainsRune(item, '~') {
		return refuse("tilde", "\"~\" in the %s field asks for a random value, which would make the fire times unpredictable; "+
			"write a value, and use \"jitter\" to spread the load", f.name)
	}
	word := strings.TrimLeft(strings.ToUpper(from), "0123456789")
	switch {
	case word == "H" || strings.HasPrefix(word, "H("):
		return refuse("jenkins_hash", "\"H\" in the %s field (a value chosen by hash) is not supported; "+
			"write a value, and use \"jitter\" to spread the load", f.name)
	case word == "L" || word == "LW" || word == "WL":
		return refuse("last_day", "\"L\" in the %s field (last) is not part of cron; for the last day of the month run on days 28-31, "+
			"for the last Friday run every Friday, and check the date in the task", f.name)
	case word == "W":
		return refuse("nearest_weekday", "\"W\" in the %s field (the nearest working day) is not part of cron; "+
			"write the days, or run on all working days (1-5) and check the date in the task", f.name)
	}
	return nil
}

// value reads a number or a name.
func (f *fieldSpec) value(item, text string) (int, error) {
	if n, ok := number(text); ok {
		if n < f.low || n > f.high {
			return 0, refuse("range", "the %s field takes %s, but %s asks for %d; write a value in that range", f.name, f.limits(), quote(item), n)
		}
		return n, nil
	}
	if text == "" || !letters(text) {
		if digits(text) {
			return 0, refuse("range", "the %s field takes %s, but %s asks for %s; write a value in that range", f.name, f.limits(), quote(item), text)
		}
		return 0, f.notUnderstood(item)
	}
	for i, name := range f.names {
		if strings.EqualFold(text, name) {
			return f.low + i, nil
		}
	}
	for i, name := range f.fullName {
		if len(text) > 1 && len(text) <= len(name) && strings.EqualFold(text, name[:len(text)]) {
			return 0, refuse("name", "names in the %s field have exactly three letters; write %s instead of %s", f.name, f.names[i], quote(text))
		}
	}
	if f.names == nil {
		return 0, refuse("name", "the %s field takes no names, but has %s; write %s", f.name, quote(text), f.limits())
	}
	return 0, refuse("name", "%s is no name that the %s field knows; it knows %s to %s, or write %s",
		quote(text), f.name, f.names[0], f.names[len(f.names)-1], f.limits())
}

func (f *fieldSpec) notUnderstood(item string) error {
	return refuse("syntax", "%s in the %s field is not understood; write *, a value, a range a-b, a list a,b or a step */n",
		quote(item), f.name)
}

// top is the highest value to suggest: 6 for weekdays, where 7 is Sunday again.
func (f *fieldSpec) top() int {
	if f.high == 7 {
		return 6
	}
	return f.high
}

func (f *fieldSpec) limits() string {
	if f.high == 7 {
		return "0 to 7 (0 and 7 are Sunday)"
	}
	return fmt.Sprintf("%d to %d", f.low, f.high)
}

func (f *fieldSpec) wrapAround(item string, low, high int) error {
	better := fmt.Sprintf("%d-%d,%d-%d", low, f.top(), f.low, high)
	if f.high == 7 && high == 0 && low < 7 {
		better = fmt.Sprintf("%d-7", low)
	} else if f.high == 7 && low == 7 {
		better = fmt.Sprintf("0-%d", high)
	}
	return refuse("wrap_around", "the range %s in the %s field runs backwards, and ranges do not wrap around; write %s",
		quote(item), f.name, better)
}

// number reads up to four digits.
func number(text string) (int, bool) {
	if len(text) > 4 || !digits(text) {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}

func digits(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}

func letters(text string) bool {
	for _, c := range []byte(strings.ToLower(text)) {
		if c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}

func orElse(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}
