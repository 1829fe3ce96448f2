package cron

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	robfig "github.com/robfig/cron/v3"
)

var seed = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a fresh one")

// newRand returns a generator of its own for the test; the seed is shown with -v and
// when the test fails.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	n := *seed
	if n == 0 {
		n = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with: go test ./internal/cron -run '^%s$' -seed %d", t.Name(), n)
	return rand.New(rand.NewPCG(n, 0))
}

// randomField writes a random legal field. Values are dense enough that most
// expressions are due within days.
func randomField(r *rand.Rand, low, high int, names []string, starStep bool) string {
	value := func(v int) string {
		if names != nil && r.IntN(3) == 0 && v-low < len(names) {
			name := names[v-low]
			if r.IntN(2) == 0 {
				name = strings.ToUpper(name)
			}
			return name
		}
		return strconv.Itoa(v)
	}
	item := func() string {
		a, b := low+r.IntN(high-low+1), low+r.IntN(high-low+1)
		if a > b {
			a, b = b, a
		}
		switch r.IntN(4) {
		case 0:
			if names != nil && b == 7 { // as the end of a range, only the number is Sunday
				return value(a) + "-7"
			}
			return value(a) + "-" + value(b)
		case 1:
			return fmt.Sprintf("%d-%d/%d", a, b, 1+r.IntN(high))
		}
		return value(a)
	}
	switch n := r.IntN(10); {
	case n < 3:
		return "*"
	case n < 5 && starStep:
		return fmt.Sprintf("*/%d", 1+r.IntN(high))
	}
	items := make([]string, 1+r.IntN(3))
	for i := range items {
		items[i] = item()
	}
	return strings.Join(items, ",")
}

// randomExpression returns a legal expression, which may still never fire.
func randomExpression(r *rand.Rand) string {
	month := "*"
	if r.IntN(4) == 0 {
		month = randomField(r, 1, 12, monthSpec.names, true)
	}
	return strings.Join([]string{
		randomField(r, 0, 59, nil, true),
		randomField(r, 0, 23, nil, true),
		randomField(r, 1, 31, nil, true),
		month,
		randomField(r, 0, 7, dayOfWeekSpec.names, true),
	}, " ")
}

// The naive side. It shares nothing with the code under test: a field is matched by
// reading its text again for every value, and slots come from a minute-by-minute
// simulation of a daemon that keeps a virtual clock, the way cronie's does.

func naiveNumber(text string, names []string, low int) int {
	for i, name := range names {
		if strings.EqualFold(name, text) {
			return i + low
		}
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		panic("naive oracle: " + text)
	}
	return n
}

func naiveField(text string, v, low, high int, names []string) bool {
	for _, item := range strings.Split(text, ",") {
		step := 1
		if i := strings.Index(item, "/"); i >= 0 {
			step, _ = strconv.Atoi(item[i+1:])
			item = item[:i]
		}
		from, to := low, high
		if item != "*" {
			ends := strings.Split(item, "-")
			from = naiveNumber(ends[0], names, low)
			to = naiveNumber(ends[len(ends)-1], names, low)
		}
		if v >= from && v <= to && (v-from)%step == 0 {
			return true
		}
	}
	return false
}

// naiveMatch reports whether the wall clock reading matches.
func naiveMatch(expr string, wall time.Time) bool {
	f := strings.Fields(expr)
	if !naiveField(f[0], wall.Minute(), 0, 59, nil) || !naiveField(f[1], wall.Hour(), 0, 23, nil) ||
		!naiveField(f[3], int(wall.Month()), 1, 12, monthSpec.names) {
		return false
	}
	date := naiveField(f[2], wall.Day(), 1, 31, nil)
	weekday := naiveField(f[4], int(wall.Weekday()), 0, 7, dayOfWeekSpec.names) ||
		wall.Weekday() == time.Sunday && naiveField(f[4], 7, 0, 7, dayOfWeekSpec.names)
	if strings.HasPrefix(f[2], "*") || strings.HasPrefix(f[4], "*") {
		return date && weekday
	}
	return date || weekday
}

// naiveSlots simulates the daemon from a day before the span, so that it has seen a
// clock change that is still being made up.
func naiveSlots(expr string, loc *time.Location, from, to time.Time) []time.Time {
	f := strings.Fields(expr)
	wild := strings.HasPrefix(f[0], "*") || strings.HasPrefix(f[1], "*")
	due := func(clock int64) bool { return naiveMatch(expr, time.Unix(clock*60, 0).UTC()) }

	var out []time.Time
	start := from.Add(-24 * time.Hour).Truncate(time.Minute)
	virtual := int64(0)
	for t := start; !t.After(to); t = t.Add(time.Minute) {
		_, offset := t.In(loc).Zone()
		clock := (t.Unix() + int64(offset)) / 60
		if t.Equal(start) {
			virtual = clock - 1
		}
		fires := false
		switch diff := clock - virtual; {
		case diff == 1 || diff > 180 || diff < -180:
			fires = due(clock)
			virtual = clock
		case diff > 1:
			fires = wild && due(clock)
			for virtual < clock {
				virtual++
				fires = fires || !wild && due(virtual)
			}
		default:
			fires = wild && due(clock)
		}
		if fires && t.After(from) {
			out = append(out, t.UTC())
		}
	}
	return out
}

// changes are instants at which the clocks of a zone change.
var changes = []struct{ zone, around string }{
	{"Europe/Berlin", "2026-03-29 01:00"}, {"Europe/Berlin", "2026-10-25 01:00"}, {"Europe/Berlin", "2041-10-27 01:00"},
	{"Europe/London", "2026-03-29 01:00"}, {"Europe/London", "2026-10-25 01:00"}, {"Europe/Dublin", "2026-10-25 01:00"},
	{"America/New_York", "2026-03-08 07:00"}, {"America/New_York", "2026-11-01 06:00"},
	{"Australia/Lord_Howe", "2026-04-04 15:00"}, {"Australia/Lord_Howe", "2026-10-03 15:30"},
	{"America/Santiago", "2026-04-05 03:00"}, {"America/Santiago", "2026-09-06 04:00"},
	{"America/Havana", "2026-03-08 05:00"}, {"America/Havana", "2026-11-01 05:00"},
	{"Africa/Cairo", "2026-04-23 22:00"}, {"Asia/Beirut", "2026-03-28 22:00"},
	{"Pacific/Apia", "2011-12-30 10:00"}, {"Pacific/Apia", "2012-03-31 14:00"},
	{"Africa/Casablanca", "2026-02-15 02:00"}, {"Africa/Casablanca", "2026-03-22 02:00"},
	{"Antarctica/Troll", "2026-03-29 01:00"}, {"Antarctica/Troll", "2026-10-25 01:00"},
	{"Antarctica/Casey", "2020-10-03 16:01"}, {"Antarctica/Casey", "2018-03-10 17:00"},
	{"Asia/Pyongyang", "2018-05-04 15:00"}, {"America/Caracas", "2016-05-01 07:00"},
	{"Asia/Kathmandu", "2026-03-29 01:00"}, {"UTC", "2028-02-29 12:00"}, {"UTC", "2040-12-31 00:00"},
	{"Europe/Berlin", "2040-12-31 00:00"}, {"America/Santiago", "2040-12-31 00:00"}, {"America/New_York", "2040-12-31 12:00"},
}

func TestSlotsEqualNaiveWalk(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	fired, checked := 0, 0
	for checked < 600 {
		expr, change := randomExpression(r), changes[r.IntN(len(changes))]
		s, err := Parse(expr, change.zone)
		if err != nil {
			if err.(*Error).Rule != "never_fires" {
				t.Fatalf("%q is legal: %v", expr, err)
			}
			continue
		}
		checked++
		// A span of one to three days, somewhere around the change.
		from := at(t, change.around).Add(-time.Duration(r.IntN(36*60)) * time.Minute)
		to := from.Add(24*time.Hour + time.Duration(r.IntN(48*60))*time.Minute)
		want := naiveSlots(expr, s.loc, from, to)
		if got := s.Between(from, to, 1<<20); !equalTimes(got, want) {
			t.Fatalf("%q in %s, (%v, %v]\n got %v\nwant %v", expr, change.zone, from, to, got, want)
		}
		fired += len(want)
	}
	t.Logf("%d expressions, %d slots", checked, fired)
	if fired < checked {
		t.Errorf("the random expressions are too sparse to prove anything: %d slots of %d expressions", fired, checked)
	}
}

// TestSlotsEqualRobfig compares with another implementation where both mean the same:
// in UTC, without a step on a star in a day field, without 7.
func TestSlotsEqualRobfig(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for range 1500 {
		month := "*"
		if r.IntN(3) == 0 {
			month = randomField(r, 1, 12, monthSpec.names, true)
		}
		expr := strings.Join([]string{
			randomField(r, 0, 59, nil, true),
			randomField(r, 0, 23, nil, true),
			randomField(r, 1, 31, nil, false),
			month,
			randomField(r, 0, 6, dayOfWeekSpec.names, false),
		}, " ")
		s, err := Parse(expr, "")
		if err != nil {
			if err.(*Error).Rule != "never_fires" {
				t.Fatalf("%q is legal: %v", expr, err)
			}
			continue
		}
		other, err := robfig.ParseStandard(expr)
		if err != nil {
			t.Fatalf("%q: %v", expr, err)
		}
		theirs := time.Date(2000+r.IntN(120), 1, 1, 0, 0, r.IntN(366*daySeconds), 0, time.UTC)
		ours := theirs
		for range 40 {
			theirs = other.Next(theirs)
			if theirs.IsZero() { // it looks ahead for five years only
				break
			}
			var ok bool
			if ours, ok = s.Next(ours); !ok || !ours.Equal(theirs) {
				t.Fatalf("%q: got %v, want %v", expr, ours, theirs)
			}
		}
	}
}

func selects(ranges []Range, v int) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool {
		return v >= r.Start && v <= r.End && (v-r.Start)%r.Step == 0
	})
}

// TestCalendarsEqualSlots expands the calendars minute by minute in UTC.
func TestCalendarsEqualSlots(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for checked := 0; checked < 250; {
		expr := randomExpression(r)
		s, err := Parse(expr, "")
		if err != nil {
			continue
		}
		checked++
		calendars := s.Calendars()
		from := time.Date(2000+r.IntN(100), time.Month(1+r.IntN(12)), 1+r.IntN(28), r.IntN(24), r.IntN(60), 0, 0, time.UTC)
		to := from.AddDate(0, 0, 8)
		var want []time.Time
		for m := from.Add(time.Minute); !m.After(to); m = m.Add(time.Minute) {
			if slices.ContainsFunc(calendars, func(c Calendar) bool {
				return selects(c.Second, 0) && selects(c.Minute, m.Minute()) && selects(c.Hour, m.Hour()) &&
					selects(c.DayOfMonth, m.Day()) && selects(c.Month, int(m.Month())) && selects(c.DayOfWeek, int(m.Weekday()))
			}) {
				want = append(want, m)
			}
		}
		if got := s.Between(from, to, 1<<20); !equalTimes(got, want) {
			t.Fatalf("%q, (%v, %v]\n got %v\nwant %v\ncalendars %+v", expr, from, to, got, want, calendars)
		}
		for _, c := range calendars {
			for _, ranges := range [][]Range{c.Second, c.Minute, c.Hour, c.DayOfMonth, c.Month, c.DayOfWeek} {
				if len(ranges) == 0 || slices.ContainsFunc(ranges, func(r Range) bool { return r.Step < 1 || r.End < r.Start }) {
					t.Fatalf("%q: ranges must be explicit: %+v", expr, c)
				}
			}
		}
	}
}
