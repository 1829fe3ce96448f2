package cron

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// maxClockTimes is how many times of day a description spells out.
const maxClockTimes = 8

// Describe says in plain words when the expression is due, for example
// "At 09:00, Monday to Friday (Europe/Berlin)".
func (s *Schedule) Describe() string {
	if period, ok := s.Every(); ok {
		return fmt.Sprintf("Every %s, counted from 1970-01-01 00:00 UTC", periodWords(period))
	}
	parts := []string{s.describeTime()}
	if days := s.describeDays(); days != "" {
		parts = append(parts, days)
	} else if strings.HasPrefix(parts[0], "At ") && s.month == allMonths {
		parts = append(parts, "every day")
	}
	if s.month != allMonths {
		parts = append(parts, "in "+monthWords(s.month))
	}
	return fmt.Sprintf("%s (%s)", strings.Join(parts, ", "), s.zone)
}

func (s *Schedule) describeTime() string {
	minutes, hours := s.minute.values(), s.hour.values()
	if len(minutes)*len(hours) <= maxClockTimes {
		var clock []string
		for _, h := range hours {
			for _, m := range minutes {
				clock = append(clock, fmt.Sprintf("%02d:%02d", h, m))
			}
		}
		return "At " + list(clock, "and")
	}
	everyMinute, everyHour := s.minute == allMinutes, s.hour == allHours
	minuteStep, evenMinutes := s.minute.even(60)
	hourStep, evenHours := s.hour.even(24)

	hoursInRow := hours[len(hours)-1]-hours[0] == len(hours)-1

	// Hours whose minutes come at an even pace read as a span of the clock.
	hourSpan := func() string {
		if everyHour {
			return ""
		}
		if hoursInRow {
			return fmt.Sprintf(" from %02d:00 to %02d:59", hours[0], hours[len(hours)-1])
		}
		if evenHours {
			return fmt.Sprintf(" of every %s hour from 00:00", ordinal(hourStep))
		}
		return " of the hours " + hourWords(s.hour)
	}
	switch {
	case everyMinute:
		return "Every minute" + hourSpan()
	case evenMinutes && len(minutes) > 1:
		return fmt.Sprintf("Every %d minutes%s", minuteStep, hourSpan())
	case everyHour && s.minute == 1:
		return "Every hour, on the hour"
	case everyHour:
		return "Every hour at " + minuteWords(s.minute)
	case evenHours:
		return fmt.Sprintf("Every %d hours from 00:00 at %s", hourStep, minuteWords(s.minute))
	case len(hours) == 1:
		return fmt.Sprintf("At %s after %02d:00", minuteWords(s.minute), hours[0])
	case hoursInRow:
		return fmt.Sprintf("At %s of every hour from %02d:00 to %02d:59", minuteWords(s.minute), hours[0], hours[len(hours)-1])
	}
	return fmt.Sprintf("At %s of the hours %s", minuteWords(s.minute), hourWords(s.hour))
}

// describeDays returns "" when the day fields let every day through.
func (s *Schedule) describeDays() string {
	if s.everyDay() {
		return ""
	}
	dates := "on " + dateWords(s.dayOfMonth) + " of the month"
	weekdays := weekdayPhrase(s.dayOfWeek)
	switch {
	case s.eitherDay:
		return dates + " and also " + weekdays
	case s.dayOfWeek == allDaysOfWeek:
		return dates
	case s.dayOfMonth == allDaysOfMonth:
		return weekdays
	}
	return weekdays + ", only " + dates
}

// Warnings lists, one sentence each, what is legal but may surprise.
func (s *Schedule) Warnings() []string {
	var out []string
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }

	if period, ok := s.Every(); ok {
		if period <= time.Minute {
			warn("This fires every %s: %d runs a day.", periodWords(period), 24*time.Hour/period)
		}
		if (24*time.Hour)%period != 0 && period%(24*time.Hour) != 0 {
			warn("A period of %s does not divide a day, so the times of day change from one day to the next.", period)
		}
		if s.zone != "UTC" {
			warn("The time zone %s has no effect: @every counts from 1970-01-01 00:00 UTC.", s.zone)
		}
		return out
	}

	if s.minute == allMinutes {
		warn("This fires every minute of each selected hour: %d runs a day.", 60*bits.OnesCount64(uint64(s.hour)))
	}
	allDates, allWeekdays := s.dayOfMonth == allDaysOfMonth, s.dayOfWeek == allDaysOfWeek
	switch {
	case s.eitherDay && s.everyDay():
		warn("Day-of-month and day-of-week are both set and one of them lists every day, so this fires every day: " +
			"a day has to match only one of the two. Write * in the field that should not restrict.")
	case s.eitherDay:
		warn("Day-of-month and day-of-week are both set: a day has to match only one of the two, not both.")
	case !allDates && !allWeekdays:
		warn("Day-of-month and day-of-week both select days, and one of them begins with *: a day has to match both.")
	}
	if first, _ := s.dayOfMonth.next(1); !s.eitherDay && first > 28 {
		if s.month == 1<<time.February {
			warn("29 February exists in leap years only.")
		} else {
			warn("Months without a day %d are skipped.", first)
		}
	}
	if strings.HasPrefix(s.zone, "Etc/GMT+") || strings.HasPrefix(s.zone, "Etc/GMT-") {
		_, offset := time.Unix(0, 0).In(s.loc).Zone()
		warn("The zone %s counts the other way round than it looks: its clocks show UTC%+03d:00.", s.zone, offset/3600)
	}
	return append(out, s.stepWarnings...)
}

// stepWarning returns what is odd about "*/n" or "a-b/n", or "".
func (f *fieldSpec) stepWarning(item string, low, high, step int) string {
	unit := map[string]string{"minute": "m", "hour": "h"}[f.name]
	pace := ""
	if unit != "" {
		pace = fmt.Sprintf(" For a pace of %d%s write \"@every %d%s\".", step, unit, step, unit)
	}
	span := f.top() - f.low + 1
	star := item[0] == '*'
	if star {
		high = f.top() // of the two Sundays only one counts
	}
	switch {
	case step == 1:
		return ""
	case low+step > high:
		return fmt.Sprintf("The step in %s of the %s field reaches past the end, so only %d is selected.%s", item, f.name, low, pace)
	case !star, span%step == 0 && f.name != "day-of-month": // months differ in length
		return ""
	}
	return fmt.Sprintf("The steps of %s start again at %d with every %s, so the last gap is a different one.%s",
		item, f.low, f.wholeName(), pace)
}

// wholeName is the span of time in which the field runs through its values.
func (f *fieldSpec) wholeName() string {
	switch f.name {
	case "minute":
		return "hour"
	case "hour":
		return "day"
	case "day-of-month":
		return "month"
	case "month":
		return "year"
	}
	return "week"
}

// Note says what a change of the clocks means for this slot, in one sentence. It is
// empty when nothing is special or the instant is no slot.
func (s *Schedule) Note(t time.Time) string {
	if s.every > 0 || !s.IsSlot(t) {
		return ""
	}
	unix := t.Unix()
	local := unix + s.stretchAt(unix).offset
	before := s.firstStretch(unix - lookBack - 1)
	for before.end <= unix+maxShift {
		st := s.following(before)
		left, entered := before.end+before.offset, st.localStart()
		switch {
		case entered > left && st.start <= unix:
			if note := s.noteForward(st, unix, left, entered); note != "" {
				return note
			}
		case st.repeats() && local >= entered && local < left:
			return s.noteBack(unix < st.start, local, left, entered)
		}
		before = st
	}
	return ""
}

// noteForward is about a slot at or after a jump from the local time left to entered.
func (s *Schedule) noteForward(st stretch, unix, left, entered int64) string {
	if _, missed := s.nextLocal(left, entered); !missed {
		return ""
	}
	if first, ok := s.nextCalendar(st.start); !ok || first != unix {
		return ""
	}
	change := clockWords(left, entered)
	if s.realTime || !st.skips() {
		return fmt.Sprintf("Clocks go forward from %s before this slot; the times between do not exist and do not fire.", change)
	}
	var skipped []string
	for from := left; ; {
		missed, ok := s.nextLocal(from, entered)
		if !ok {
			break
		}
		if len(skipped) == maxClockTimes-1 {
			skipped = append(skipped, "others")
			break
		}
		skipped = append(skipped, localClock(missed))
		from = missed + 60
	}
	verb := "does"
	if len(skipped) > 1 {
		verb = "do"
	}
	return fmt.Sprintf("%s %s not exist on this day (clocks go forward from %s), so this fires at the first moment after the gap.",
		list(skipped, "and"), verb, change)
}

// noteBack is about a slot whose local time comes twice.
func (s *Schedule) noteBack(firstPass bool, local, left, entered int64) string {
	which := "This is the second pass; it fires at both, because the expression follows real time."
	switch {
	case !s.realTime:
		which = "It fires once, at the first pass."
	case firstPass:
		which = "This is the first pass; it fires at both, because the expression follows real time."
	}
	return fmt.Sprintf("%s comes twice on this day (clocks go back from %s). %s", localClock(local), clockWords(left, entered), which)
}

func localClock(local int64) string { return time.Unix(local, 0).UTC().Format("15:04") }

// clockWords writes "02:00 to 03:00", with dates when more than a few hours lie between.
func clockWords(from, to int64) string {
	layout := "15:04"
	if to-from >= daySeconds {
		layout = "2006-01-02 15:04"
	}
	return time.Unix(from, 0).UTC().Format(layout) + " to " + time.Unix(to, 0).UTC().Format(layout)
}

// even returns the step of two values or more that begin at 0 and go on at the same
// pace when the field, which has size values, starts again.
func (f field) even(size int) (int, bool) {
	values := f.values()
	if len(values) < 2 || values[0] != 0 {
		return 0, false
	}
	step := values[1]
	for i, v := range values {
		if v != i*step {
			return 0, false
		}
	}
	return step, len(values)*step == size
}

// phrase writes a set: runs of three or more as "a to b", long even progressions
// shortened, anything else as a list.
func phrase(f field, word func(int) string) string {
	values := f.values()
	if step, ok := progression(values); ok && step > 1 && len(values) > maxClockTimes {
		return fmt.Sprintf("%s, %s, %s, … %s", word(values[0]), word(values[1]), word(values[2]), word(values[len(values)-1]))
	}
	var words []string
	for i := 0; i < len(values); {
		end := i
		for end+1 < len(values) && values[end+1] == values[end]+1 {
			end++
		}
		if end-i >= 2 {
			words = append(words, word(values[i])+" to "+word(values[end]))
			i = end + 1
			continue
		}
		words = append(words, word(values[i]))
		i++
	}
	return list(words, "and")
}

// weekdayPhrase writes weekdays with the week beginning on Monday, so that Friday to
// Sunday is one run. The plural is used unless a run makes it odd.
func weekdayPhrase(f field) string {
	fromMonday := f>>1 | f&1<<6
	name := func(d int) string { return weekdayNames[(d+1)%7] }
	if words := phrase(fromMonday, name); strings.Contains(words, " to ") {
		return words
	}
	return "on " + phrase(fromMonday, func(d int) string { return name(d) + "s" })
}

func hourWords(f field) string {
	return phrase(f, func(h int) string { return fmt.Sprintf("%02d:00", h) })
}

func minuteWords(f field) string {
	word := "minute "
	if bits.OnesCount64(uint64(f)) > 1 {
		word = "minutes "
	}
	return word + phrase(f, func(m int) string { return strconv.Itoa(m) })
}

func monthWords(f field) string { return phrase(f, func(m int) string { return monthNames[m-1] }) }

func dateWords(f field) string {
	word := "day "
	if bits.OnesCount64(uint64(f)) > 1 {
		word = "days "
	}
	return word + phrase(f, func(d int) string { return strconv.Itoa(d) })
}

// periodWords writes a period in its largest units: "1 hour 30 minutes", "2 days".
// One of a single unit loses its number, to follow "every".
func periodWords(d time.Duration) string {
	var words []string
	units := []struct {
		name string
		size time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}}
	for _, unit := range units {
		if n := d / unit.size; n > 0 {
			if n == 1 && d == unit.size && len(words) == 0 {
				return unit.name
			}
			words = append(words, count(int(n), unit.name))
			d -= n * unit.size
		}
	}
	return strings.Join(words, " ")
}

// count writes "1 field", "2 fields".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func ordinal(n int) string {
	switch n {
	case 2:
		return "2nd"
	case 3:
		return "3rd"
	}
	return fmt.Sprintf("%dth", n)
}

// list joins words as in "a, b and c".
func list(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}

func shortNames(long []string) []string {
	short := make([]string, len(long))
	for i, name := range long {
		short[i] = strings.ToLower(name[:3])
	}
	return short
}
