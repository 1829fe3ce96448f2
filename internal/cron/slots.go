package cron

import (
	"math"
	"time"
)

const (
	daySeconds = 24 * 60 * 60

	// maxShift separates daylight saving from a clock that is set anew. A change
	// forward of this much or more, or back by more, starts the clock over (cronie's
	// own limits).
	maxShift = 3 * 60 * 60

	// lookBack is how long before the asked instant the walk through the zone begins,
	// to know whether that instant lies in a repeated hour: longer than any shift.
	lookBack = daySeconds
)

// The years 1 to 9999 are what RFC 3339 can write; there are no slots outside.
var (
	minUnix = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	maxUnix = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()
)

// Next returns the first slot strictly after the given instant, in UTC. It reports
// false only when there is none before the year 10000.
func (s *Schedule) Next(after time.Time) (time.Time, bool) {
	earliest := max(after.Unix(), minUnix-1) + 1 // slots lie on whole seconds
	if earliest > maxUnix {
		return time.Time{}, false
	}
	var unix int64
	var ok bool
	if s.every > 0 {
		unix, ok = ceil(earliest, s.every), true
	} else {
		unix, ok = s.nextCalendar(earliest)
	}
	if !ok || unix > maxUnix {
		return time.Time{}, false
	}
	return time.Unix(unix, 0).UTC(), true
}

// Between returns the slots in (from, to] in rising order, at most limit of them;
// none when limit is not positive.
func (s *Schedule) Between(from, to time.Time, limit int) []time.Time {
	var slots []time.Time
	for len(slots) < limit {
		t, ok := s.Next(from)
		if !ok || t.After(to) {
			break
		}
		slots = append(slots, t)
		from = t
	}
	return slots
}

// IsSlot reports whether the expression is due at exactly this instant.
func (s *Schedule) IsSlot(t time.Time) bool {
	slot, ok := s.Next(t.Add(-1))
	return ok && slot.Equal(t)
}

// stretch is a span of real time, [start, end) in Unix seconds, during which the zone
// keeps one offset. The local clock shows start+offset at its beginning.
type stretch struct {
	start, end, offset int64
	// reached is the local time up to which the clock had come before this stretch
	// began. Less than the local beginning: the clock jumped forward. More: it was
	// set back, and shows the times up to reached for the second time.
	reached int64
}

func (st stretch) localStart() int64 { return st.start + st.offset }

// skips reports whether the times in [reached, localStart) were skipped by daylight saving.
func (st stretch) skips() bool {
	gap := st.localStart() - st.reached
	return gap > 0 && gap < maxShift
}

// repeats reports whether the times in [localStart, reached) come again by daylight saving.
func (st stretch) repeats() bool {
	overlap := st.reached - st.localStart()
	return overlap > 0 && overlap <= maxShift
}

// firstStretch begins a walk at the given instant, as if clocks had never changed before.
func (s *Schedule) firstStretch(start int64) stretch {
	st := s.stretchAt(start)
	st.reached = st.localStart()
	return st
}

// following returns the stretch that comes next.
func (s *Schedule) following(st stretch) stretch {
	next := s.stretchAt(st.end)
	next.reached = st.end + st.offset
	if st.repeats() {
		// The previous change may not be made up yet.
		next.reached = max(next.reached, st.reached)
	}
	return next
}

func (s *Schedule) stretchAt(start int64) stretch {
	t := time.Unix(start, 0).In(s.loc)
	_, offset := t.Zone()
	st := stretch{start: start, end: math.MaxInt64, offset: int64(offset)}
	if _, end := t.ZoneBounds(); !end.IsZero() {
		st.end = end.Unix()
		if st.end <= start {
			// After the last change of a year in the zone's rule, the time package
			// gives the 365th day as the end, also when the year has one more.
			st.end = ceil(start+1, daySeconds)
		}
	}
	st.end = min(st.end, maxUnix+1)
	return st
}

// nextCalendar returns the first slot of the five fields at or after the instant.
//
// It walks the stretches of constant offset and looks for matching local times in
// each, so its cost depends on the number of clock changes and months between the
// instant and the slot, not on the minutes.
func (s *Schedule) nextCalendar(earliest int64) (int64, bool) {
	for st := s.firstStretch(earliest - lookBack); st.start <= maxUnix; st = s.following(st) {
		if st.end <= earliest {
			continue
		}
		from := max(st.start, earliest) + st.offset
		if !s.realTime {
			if st.skips() && st.start >= earliest {
				if _, ok := s.nextLocal(st.reached, st.localStart()); ok {
					return st.start, true
				}
			}
			if st.repeats() {
				from = max(from, st.reached)
			}
		}
		if local, ok := s.nextLocal(from, st.end+st.offset); ok {
			return local - st.offset, true
		}
	}
	return 0, false
}

// nextLocal returns the first matching local time in [from, until). Local times are
// seconds since 1970-01-01 00:00 on the local clock.
func (s *Schedule) nextLocal(from, until int64) (int64, bool) {
	from = ceil(from, 60)
	day := floorDiv(from, daySeconds)
	minuteOfDay := int((from - day*daySeconds) / 60)
	for day*daySeconds < until {
		year, month, date := time.Unix(day*daySeconds, 0).UTC().Date()
		if !s.month.has(int(month)) {
			day, minuteOfDay = s.startOfNextMonth(year, int(month)), 0
			continue
		}
		if s.matchesDay(date, weekday(day)) {
			if m, ok := s.nextMinuteOfDay(minuteOfDay); ok {
				local := day*daySeconds + int64(m)*60
				return local, local < until
			}
		}
		day, minuteOfDay = day+1, 0
	}
	return 0, false
}

// startOfNextMonth returns the day number of the first day of the next selected month.
func (s *Schedule) startOfNextMonth(year, month int) int64 {
	next, ok := s.month.next(month + 1)
	if !ok {
		next, _ = s.month.next(1)
		year++
	}
	return time.Date(year, time.Month(next), 1, 0, 0, 0, 0, time.UTC).Unix() / daySeconds
}

func (s *Schedule) matchesDay(date, weekday int) bool {
	onDate, onWeekday := s.dayOfMonth.has(date), s.dayOfWeek.has(weekday)
	if s.eitherDay {
		return onDate || onWeekday
	}
	return onDate && onWeekday
}

// nextMinuteOfDay returns the first selected minute of a day at or after the given one.
func (s *Schedule) nextMinuteOfDay(from int) (int, bool) {
	hour, minute := from/60, from%60
	if s.hour.has(hour) {
		if m, ok := s.minute.next(minute); ok {
			return hour*60 + m, true
		}
	}
	h, ok := s.hour.next(hour + 1)
	if !ok {
		return 0, false
	}
	m, _ := s.minute.next(0)
	return h*60 + m, true
}

// weekday returns the day of the week of a day number, Sunday is 0.
func weekday(day int64) int {
	return int(day + 4 - floorDiv(day+4, 7)*7) // 1970-01-01 was a Thursday
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// ceil returns the smallest multiple of unit that is at least a.
func ceil(a, unit int64) int64 { return -floorDiv(-a, unit) * unit }
