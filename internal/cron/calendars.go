package cron

import "time"

// Range selects Start, Start+Step, … up to End.
type Range struct{ Start, End, Step int }

// Calendar selects the instants that match all of its fields, in the schedule's zone
// and in every year. No field is ever empty: a full range stands for "any". Days of
// the week count from Sunday, 0, to 6.
type Calendar struct {
	Second, Minute, Hour, DayOfMonth, Month, DayOfWeek []Range
}

// Calendars returns structured calendars whose union selects the same local times as
// the expression: two when both day fields restrict and a day has to match only one
// of them, otherwise one. Equal sets of times give equal calendars. It is nil for
// @every. Calendars say nothing about changes of the clock; what a scheduler makes of
// those can differ from Next, which is the truth.
func (s *Schedule) Calendars() []Calendar {
	if s.every > 0 {
		return nil
	}
	calendar := func(dayOfMonth, dayOfWeek field) Calendar {
		return Calendar{
			Second:     []Range{{Start: 0, End: 0, Step: 1}},
			Minute:     s.minute.ranges(),
			Hour:       s.hour.ranges(),
			DayOfMonth: dayOfMonth.ranges(),
			Month:      s.month.ranges(),
			DayOfWeek:  dayOfWeek.ranges(),
		}
	}
	switch {
	case !s.eitherDay:
		return []Calendar{calendar(s.dayOfMonth, s.dayOfWeek)}
	case s.everyDay():
		return []Calendar{calendar(allDaysOfMonth, allDaysOfWeek)}
	}
	return []Calendar{calendar(s.dayOfMonth, allDaysOfWeek), calendar(allDaysOfMonth, s.dayOfWeek)}
}

// everyDay reports whether the day fields let every day of a selected month through.
func (s *Schedule) everyDay() bool {
	allDates, allWeekdays := s.dayOfMonth == allDaysOfMonth, s.dayOfWeek == allDaysOfWeek
	if s.eitherDay {
		return allDates || allWeekdays
	}
	return allDates && allWeekdays
}

// ranges writes a set as one range with a step when it is an even progression of
// three values or more, else as its runs of neighbours.
func (f field) ranges() []Range {
	values := f.values()
	if step, ok := progression(values); ok {
		return []Range{{Start: values[0], End: values[len(values)-1], Step: step}}
	}
	var out []Range
	for _, v := range values {
		if n := len(out); n > 0 && out[n-1].End == v-1 {
			out[n-1].End = v
			continue
		}
		out = append(out, Range{Start: v, End: v, Step: 1})
	}
	return out
}

// progression returns the constant distance between three values or more.
func progression(values []int) (int, bool) {
	if len(values) < 3 {
		return 0, false
	}
	step := values[1] - values[0]
	for i := 2; i < len(values); i++ {
		if values[i]-values[i-1] != step {
			return 0, false
		}
	}
	return step, true
}

// At returns the calendar that selects the second of an instant, in UTC, in every year that has its date.
func At(t time.Time) Calendar {
	only := func(v int) []Range { return []Range{{Start: v, End: v, Step: 1}} }
	t = t.UTC()
	return Calendar{
		Second: only(t.Second()), Minute: only(t.Minute()), Hour: only(t.Hour()),
		DayOfMonth: only(t.Day()), Month: only(int(t.Month())), DayOfWeek: allDaysOfWeek.ranges(),
	}
}
