package schedule

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// What Temporal does wrong when clocks change, by reading its code (calendar.next of server 1.32.1) and by asking it.
// It steps through the fields of the local clock and turns them into an instant by time.Date, which gives some instant
// for a local time that exists twice or not at all. In the west, where clocks are never ahead of UTC, that is the first
// pass of a repeated time, and an earlier time for a skipped one. In the east, where they are never behind, it is the
// second pass, and a later time. Temporal supposes the first pass everywhere.
//
//   - A skipped hour: its times never come. Standard cron lets fixed times come once, right after it.
//   - A repeated hour, west: fixed times come in both passes. Standard cron has the first alone.
//   - A repeated hour, east: a step within the first pass lands in the second, and a step from the second pass adds an
//     hour to where it lands, so that times are lost and others come an hour late. When the hour in front of the
//     repeated one has no more times, Temporal looks at that hour again and adds an hour too.
//   - A skipped midnight, west: the weekday of that day is read off the evening before, until Temporal has come to any
//     time of that day.
//   - A skipped half-hour: the hour looks right, so its skipped times come half an hour late, and what lay in between is
//     lost.
//
// Each kind of difference has a name and a rule below. The rules say as narrowly as they can when the fault has to
// occur, so that an error of ours does not pass for one.
const (
	faultSkipped     = "skipped hour: fixed times come right after it, never in Temporal"
	faultTwice       = "repeated hour, west: a fixed time comes in the second pass too"
	faultSecondPass  = "repeated hour, east: a fixed time comes in the second pass, not in the first"
	faultHourLate    = "repeated hour, east: a time comes an hour late"
	faultFirstLost   = "repeated hour, east: a time is lost in the first pass"
	faultSecondLost  = "repeated hour, east: a time is lost in the second pass"
	faultAfterLost   = "repeated hour, east: a time is lost in the hour after"
	faultShifted     = "skipped half-hour: a time comes half an hour late"
	faultShiftedLost = "skipped half-hour: a time is lost behind a late one"
	faultGhostDay    = "skipped midnight, west: due by the weekday of the day before"
	faultLostDay     = "skipped midnight, west: not due by the weekday of the day before"
)

var allFaults = []string{faultSkipped, faultTwice, faultSecondPass, faultHourLate, faultFirstLost, faultSecondLost,
	faultAfterLost, faultShifted, faultShiftedLost, faultGhostDay, faultLostDay}

// No fault reaches further from its change: the hours around it, and the day that begins with it.
const (
	faultBefore = 3 * time.Hour
	faultAfter  = 27 * time.Hour
)

// clockChange is an instant at which a zone's offset from UTC changes.
type clockChange struct {
	at            time.Time
	before, after time.Duration
}

// clockChanges returns the changes in [from, until] as the zone database has them.
func clockChanges(loc *time.Location, from, until time.Time) []clockChange {
	offset := func(at time.Time) time.Duration {
		_, seconds := at.In(loc).Zone()
		return time.Duration(seconds) * time.Second
	}
	var out []clockChange
	for at := from.Add(-1); ; {
		_, end := at.In(loc).ZoneBounds()
		switch {
		case end.IsZero() || end.After(until):
			return out
		case !end.After(at):
			at = at.Add(24 * time.Hour) // the time package ends some years a day early
			continue
		}
		if before, after := offset(end.Add(-1)), offset(end); before != after {
			out = append(out, clockChange{at: end.UTC(), before: before, after: after})
		}
		at = end
	}
}

func (c clockChange) forward() bool       { return c.after > c.before }
func (c clockChange) west() bool          { return max(c.before, c.after) <= 0 }
func (c clockChange) size() time.Duration { return (c.after - c.before).Abs() }

// plus is an instant that far from the change.
func (c clockChange) plus(d time.Duration) time.Time { return c.at.Add(d) }

// wall is what the local clock shows, as a time in UTC; right until the change before and the one after.
func (c clockChange) wall(at time.Time) time.Time {
	if at.Before(c.at) {
		return at.UTC().Add(c.before)
	}
	return at.UTC().Add(c.after)
}

func (c clockChange) firstPass(at time.Time) bool {
	return !c.forward() && within(at, c.plus(-c.size()), c.at)
}

func (c clockChange) secondPass(at time.Time) bool {
	return !c.forward() && within(at, c.at, c.plus(c.size()))
}

func within(at, from, until time.Time) bool { return !at.Before(from) && at.Before(until) }

// matches reads one calendar as any reader of it must.
func (t times) matches(wall time.Time) bool { return t.matchesOn(wall, wall.Weekday()) }

// matchesOn is matches for a day that is taken for another weekday.
func (t times) matchesOn(wall time.Time, weekday time.Weekday) bool {
	has := func(set uint64, v int) bool { return set>>v&1 == 1 }
	return has(t.second, wall.Second()) && has(t.minute, wall.Minute()) && has(t.hour, wall.Hour()) &&
		has(t.dayOfMonth, wall.Day()) && has(t.month, int(wall.Month())) && has(t.dayOfWeek, int(weekday))
}

// first returns the first minute in [from, until) that matches.
func (t times) first(from, until time.Time) (wall time.Time, ok bool) {
	for wall = from; wall.Before(until); wall = wall.Add(time.Minute) {
		if t.matches(wall) {
			return wall, true
		}
	}
	return time.Time{}, false
}

func (q *question) matches(wall time.Time) bool {
	return slices.ContainsFunc(q.calendars, func(c times) bool { return c.matches(wall) })
}

// skipped reports whether the clock jumps over a time that matches.
func (q *question) skipped(change clockChange) bool {
	return slices.ContainsFunc(q.calendars, func(c times) bool {
		_, ok := c.first(change.plus(change.before), change.plus(change.after))
		return ok
	})
}

// everyMatch reports whether the rule holds for each calendar that makes the local time match: it is lost only if all of
// them lose it.
func (q *question) everyMatch(wall time.Time, rule func(times) bool) bool {
	return !slices.ContainsFunc(q.calendars, func(c times) bool { return c.matches(wall) && !rule(c) })
}

// audit holds our slots around a change of the clocks against what standard cron does then, minute by minute: where
// Temporal is at fault it is no measure of ours.
func (q *question) audit(change clockChange, c *comparison) {
	from, until := change.plus(-faultBefore), change.plus(faultAfter)
	if from.Before(q.from) {
		from = q.from
	}
	if until.After(c.until) {
		until = c.until
	}
	for at := from.Truncate(time.Minute).Add(time.Minute); !at.After(until); at = at.Add(time.Minute) {
		due := q.matches(change.wall(at)) && !(q.fixed && change.secondPass(at)) ||
			q.fixed && at.Equal(change.at) && q.skipped(change)
		if has := contains(c.ours, at); has != due {
			c.wrong = append(c.wrong, finding{at, fmt.Sprintf("ours: %v, by standard cron: %v", has, due)})
		}
	}
}

// explain names the fault of Temporal's at the given change of the clocks that explains why only one side has the time;
// "" if none does. Temporal finds each time from the one before, so that one is a part of most rules.
func (q *question) explain(change clockChange, c *comparison, at time.Time, ours bool) string {
	i, _ := slices.BinarySearchFunc(c.theirs, at, time.Time.Compare)
	previous := q.from
	if i > 0 {
		previous = c.theirs[i-1]
	}
	switch {
	case !change.forward() && change.west():
		// Nothing is lost, and both passes are there, unless the window begins between them.
		first := change.plus(-change.size()).Add(at.Sub(change.at))
		if !ours && q.fixed && change.secondPass(at) && q.matches(change.wall(at)) &&
			(contains(c.theirs, first) || !first.After(q.from)) {
			return faultTwice
		}
		return ""
	case !change.forward():
		return q.explainRepeatedEast(change, c, previous, at, ours)
	case ours && q.fixed && at.Equal(change.at) && q.skipped(change):
		return faultSkipped
	case at.Before(change.at) || !previous.Before(change.at):
		return "" // the other faults at a skipped hour end with the first time behind it
	case change.size() < time.Hour && at.Before(change.plus(change.size())):
		return q.explainSkippedHalfHour(change, at, ours)
	}
	return q.explainSkippedMidnight(change, at, ours)
}

func (q *question) explainRepeatedEast(change clockChange, c *comparison, previous, at time.Time, ours bool) string {
	size, wall, meant := change.size(), change.wall(at), at.Add(-time.Hour)
	// The hour of the local clock in which Temporal comes upon the repeated one: the hour before it, or the one that
	// holds the repeated half-hour.
	enters := func(at time.Time) bool { return within(at, change.plus(-2*size), change.plus(-2*size+time.Hour)) }
	firstPass, secondPass := change.firstPass, change.secondPass
	switch {
	case !ours && secondPass(at) && q.fixed && q.matches(wall) && !contains(c.theirs, at.Add(-size)):
		return faultSecondPass
	case !ours && q.matches(change.wall(meant)) &&
		(enters(previous) && enters(meant) && !firstPass(meant) ||
			secondPass(previous) && secondPass(meant) ||
			// Only where the window begins so.
			size < time.Hour && firstPass(previous) && previous.Equal(q.from) && secondPass(meant)):
		return faultHourLate
	case ours && firstPass(at):
		// In its stead comes the second pass, if nothing comes before that.
		second := at.Add(size)
		if i, _ := slices.BinarySearchFunc(c.theirs, at, time.Time.Compare); second.After(c.until) ||
			i < len(c.theirs) && !c.theirs[i].After(second) {
			return faultFirstLost
		}
	case ours && secondPass(at) && !q.fixed &&
		// What follows in the pass comes late, or the local clock was there already.
		(secondPass(previous) || firstPass(previous) && !at.After(previous.Add(size))):
		return faultSecondLost
	case ours && secondPass(previous) && within(at, change.plus(size), change.plus(size+time.Hour)) &&
		q.everyMatch(wall, func(c times) bool {
			from := change.wall(previous.Truncate(time.Minute).Add(time.Minute))
			next, ok := c.first(from, change.plus(size+change.after))
			return ok && next.Add(time.Hour).After(wall)
		}):
		return faultAfterLost
	}
	return ""
}

func (q *question) explainSkippedHalfHour(change clockChange, at time.Time, ours bool) string {
	size, wall := change.size(), change.wall(at)
	from, until := change.plus(change.before), change.plus(change.after)
	switch {
	case !ours && q.matches(wall.Add(-size)) && wall.Add(-size).Hour() == wall.Hour():
		return faultShifted
	case ours && q.everyMatch(wall, func(c times) bool {
		late, ok := c.first(from, until)
		return ok && late.Add(size).After(wall)
	}):
		return faultShiftedLost
	}
	return ""
}

func (q *question) explainSkippedMidnight(change clockChange, at time.Time, ours bool) string {
	wall, midnight := change.wall(at), change.plus(change.before)
	if !midnight.Equal(midnight.Truncate(24*time.Hour)) || !change.west() || !wall.Before(midnight.Add(24*time.Hour)) {
		return ""
	}
	yesterday := midnight.Add(-1).Weekday()
	switch {
	case !ours && slices.ContainsFunc(q.calendars, func(c times) bool {
		// A calendar that has the skipped hour reads the weekday again behind it.
		return c.matchesOn(wall, yesterday) && c.hour&1 == 0
	}):
		return faultGhostDay
	case ours && q.everyMatch(wall, func(c times) bool { return !c.matchesOn(wall, yesterday) }):
		return faultLostDay
	}
	return ""
}

// TestOracleFaults writes down what each fault looks like: what Temporal does, and what we do.
func TestOracleFaults(t *testing.T) {
	t.Parallel()
	type row struct {
		expr           string
		temporal, ours string // days and times of the local clock, with its offset
		faults         []string
	}
	windows := []struct {
		what           string
		zone, from, to string // by the local clock; from is not in the window, to is
		rows           []row
	}{
		{"the ends of a window", "UTC", "2026-01-01 00:00", "2026-01-01 02:00", []row{
			{"0 * * * *",
				"01T01:00+00:00 01T02:00+00:00",
				"01T01:00+00:00 01T02:00+00:00",
				nil},
			{"@every 40m",
				"01T00:40+00:00 01T01:20+00:00 01T02:00+00:00",
				"01T00:40+00:00 01T01:20+00:00 01T02:00+00:00",
				nil},
		}},
		{"Berlin skips 02:00 to 03:00", "Europe/Berlin", "2026-03-29 01:00", "2026-03-29 04:00", []row{
			{"30 2 * * *",
				"",
				"29T03:00+02:00",
				[]string{faultSkipped}},
			{"30 2,3 * * *",
				"29T03:30+02:00",
				"29T03:00+02:00 29T03:30+02:00",
				[]string{faultSkipped}},
			{"0 2,3 * * *",
				"29T03:00+02:00",
				"29T03:00+02:00",
				nil},
			{"0 * * * *",
				"29T03:00+02:00 29T04:00+02:00",
				"29T03:00+02:00 29T04:00+02:00",
				nil},
			{"*/30 2 * * *",
				"",
				"",
				nil},
			{"@every 1h",
				"29T03:00+02:00 29T04:00+02:00",
				"29T03:00+02:00 29T04:00+02:00",
				nil},
		}},
		{"Berlin repeats 02:00 to 03:00", "Europe/Berlin", "2026-10-25 01:00", "2026-10-25 04:00", []row{
			{"30 1 * * *",
				"25T01:30+02:00 25T02:30+02:00",
				"25T01:30+02:00",
				[]string{faultHourLate}},
			{"30 2 * * *",
				"25T02:30+01:00",
				"25T02:30+02:00",
				[]string{faultSecondPass, faultFirstLost}},
			{"30 3 * * *",
				"25T03:30+01:00",
				"25T03:30+01:00",
				nil},
			{"10,50 2 * * *",
				"25T02:10+01:00 25T03:50+01:00",
				"25T02:10+02:00 25T02:50+02:00",
				[]string{faultSecondPass, faultHourLate, faultFirstLost}},
			{"0 * * * *",
				"25T02:00+02:00 25T03:00+01:00 25T04:00+01:00",
				"25T02:00+02:00 25T02:00+01:00 25T03:00+01:00 25T04:00+01:00",
				[]string{faultSecondLost}},
			{"*/15 * * * *",
				"25T01:15+02:00 25T01:30+02:00 25T01:45+02:00 25T02:00+02:00 25T02:15+01:00 25T03:30+01:00 " +
					"25T03:45+01:00 25T04:00+01:00",
				"25T01:15+02:00 25T01:30+02:00 25T01:45+02:00 25T02:00+02:00 25T02:15+02:00 25T02:30+02:00 " +
					"25T02:45+02:00 25T02:00+01:00 25T02:15+01:00 25T02:30+01:00 25T02:45+01:00 25T03:00+01:00 " +
					"25T03:15+01:00 25T03:30+01:00 25T03:45+01:00 25T04:00+01:00",
				[]string{faultFirstLost, faultAfterLost, faultSecondLost}},
			{"*/30 2 * * *",
				"25T02:00+01:00 25T03:30+01:00",
				"25T02:00+02:00 25T02:30+02:00 25T02:00+01:00 25T02:30+01:00",
				[]string{faultHourLate, faultFirstLost, faultSecondLost}},
			{"@every 1h",
				"25T02:00+02:00 25T02:00+01:00 25T03:00+01:00 25T04:00+01:00",
				"25T02:00+02:00 25T02:00+01:00 25T03:00+01:00 25T04:00+01:00",
				nil},
		}},
		{"London repeats 01:00 to 02:00", "Europe/London", "2026-10-25 00:00", "2026-10-25 03:00", []row{
			{"30 1 * * *",
				"25T01:30+00:00",
				"25T01:30+01:00",
				[]string{faultSecondPass, faultFirstLost}},
			{"0 * * * *",
				"25T01:00+01:00 25T02:00+00:00 25T03:00+00:00",
				"25T01:00+01:00 25T01:00+00:00 25T02:00+00:00 25T03:00+00:00",
				[]string{faultSecondLost}},
		}},
		{"Sydney repeats 02:00 to 03:00", "Australia/Sydney", "2026-04-05 01:00", "2026-04-05 04:00", []row{
			{"30 1 * * *",
				"05T01:30+11:00 05T02:30+11:00",
				"05T01:30+11:00",
				[]string{faultHourLate}},
			{"0 * * * *",
				"05T02:00+11:00 05T03:00+10:00 05T04:00+10:00",
				"05T02:00+11:00 05T02:00+10:00 05T03:00+10:00 05T04:00+10:00",
				[]string{faultSecondLost}},
		}},
		{"New York skips 02:00 to 03:00", "America/New_York", "2026-03-08 01:00", "2026-03-08 04:00", []row{
			{"30 1 * * *",
				"08T01:30-05:00",
				"08T01:30-05:00",
				nil},
			{"30 2 * * *",
				"",
				"08T03:00-04:00",
				[]string{faultSkipped}},
			{"0 * * * *",
				"08T03:00-04:00 08T04:00-04:00",
				"08T03:00-04:00 08T04:00-04:00",
				nil},
		}},
		{"New York repeats 01:00 to 02:00", "America/New_York", "2026-11-01 00:00", "2026-11-01 03:00", []row{
			{"30 1 * * *",
				"01T01:30-04:00 01T01:30-05:00",
				"01T01:30-04:00",
				[]string{faultTwice}},
			{"30 2 * * *",
				"01T02:30-05:00",
				"01T02:30-05:00",
				nil},
			{"0 * * * *",
				"01T01:00-04:00 01T01:00-05:00 01T02:00-05:00 01T03:00-05:00",
				"01T01:00-04:00 01T01:00-05:00 01T02:00-05:00 01T03:00-05:00",
				nil},
			{"*/30 1 * * *",
				"01T01:00-04:00 01T01:30-04:00 01T01:00-05:00 01T01:30-05:00",
				"01T01:00-04:00 01T01:30-04:00 01T01:00-05:00 01T01:30-05:00",
				nil},
		}},
		{"Santiago's Sunday the 6th begins at 01:00", "America/Santiago", "2026-09-05 11:00", "2026-09-07 11:00", []row{
			{"0 12 * * 0",
				"",
				"06T12:00-03:00",
				[]string{faultLostDay}},
			{"0 12 * * 6",
				"05T12:00-04:00 06T12:00-03:00",
				"05T12:00-04:00",
				[]string{faultGhostDay}},
			// Both days are due; midnight is due too, behind which the weekday is read again; a date has it read again.
			{"0 12 * * 6,0",
				"05T12:00-04:00 06T12:00-03:00",
				"05T12:00-04:00 06T12:00-03:00",
				nil},
			{"0 */12 * * 6",
				"05T12:00-04:00",
				"05T12:00-04:00",
				nil},
			{"0 10,12 6 * 0",
				"06T10:00-03:00 06T12:00-03:00",
				"06T10:00-03:00 06T12:00-03:00",
				nil},
			{"0 0 * * *",
				"07T00:00-03:00",
				"06T01:00-03:00 07T00:00-03:00",
				[]string{faultSkipped}},
		}},
		{"Havana's Sunday the 8th begins at 01:00", "America/Havana", "2026-03-07 11:00", "2026-03-09 11:00", []row{
			{"0 12 * * 0",
				"",
				"08T12:00-04:00",
				[]string{faultLostDay}},
			{"0 12 * * 6",
				"07T12:00-05:00 08T12:00-04:00",
				"07T12:00-05:00",
				[]string{faultGhostDay}},
		}},
		{"Havana repeats 00:00 to 01:00", "America/Havana", "2026-10-31 11:00", "2026-11-01 11:00", []row{
			{"30 0 * * *",
				"01T00:30-04:00 01T00:30-05:00",
				"01T00:30-04:00",
				[]string{faultTwice}},
		}},
		{"Beirut's Sunday the 29th begins at 01:00", "Asia/Beirut", "2026-03-28 11:00", "2026-03-29 13:00", []row{
			{"0 12 * * 0",
				"29T12:00+03:00",
				"29T12:00+03:00",
				nil},
			{"0 12 * * 6",
				"28T12:00+02:00",
				"28T12:00+02:00",
				nil},
			{"30 0 * * 0",
				"",
				"29T01:00+03:00",
				[]string{faultSkipped}},
		}},
		{"Beirut repeats 23:00 to 24:00", "Asia/Beirut", "2026-10-24 11:00", "2026-10-25 13:00", []row{
			{"10,50 23 * * 6",
				"24T23:10+02:00 25T00:50+02:00",
				"24T23:10+03:00 24T23:50+03:00",
				[]string{faultSecondPass, faultHourLate, faultFirstLost}},
		}},
		{"Lord Howe skips 02:00 to 02:30", "Australia/Lord_Howe", "2026-10-04 01:00", "2026-10-04 03:00", []row{
			{"15 2 * * *",
				"04T02:45+11:00",
				"04T02:30+11:00",
				[]string{faultShifted, faultSkipped}},
			{"20,40 2 * * *",
				"04T02:50+11:00",
				"04T02:30+11:00 04T02:40+11:00",
				[]string{faultShifted, faultShiftedLost, faultSkipped}},
			{"*/20 * * * *",
				"04T01:20+10:30 04T01:40+10:30 04T02:30+11:00 04T02:40+11:00 04T03:00+11:00",
				"04T01:20+10:30 04T01:40+10:30 04T02:40+11:00 04T03:00+11:00",
				[]string{faultShifted}},
			{"*/15 * * * *",
				"04T01:15+10:30 04T01:30+10:30 04T01:45+10:30 04T02:30+11:00 04T02:45+11:00 04T03:00+11:00",
				"04T01:15+10:30 04T01:30+10:30 04T01:45+10:30 04T02:30+11:00 04T02:45+11:00 04T03:00+11:00",
				nil},
		}},
		{"Lord Howe repeats 01:30 to 02:00", "Australia/Lord_Howe", "2026-04-05 01:00", "2026-04-05 03:00", []row{
			{"15 2 * * *",
				"05T02:15+10:30",
				"05T02:15+10:30",
				nil},
			{"45 1 * * *",
				"05T01:45+10:30",
				"05T01:45+11:00",
				[]string{faultSecondPass, faultFirstLost}},
			{"0 * * * *",
				"05T01:30+10:30 05T02:00+10:30 05T03:00+10:30",
				"05T02:00+10:30 05T03:00+10:30",
				[]string{faultHourLate}},
			{"*/15 * * * *",
				"05T01:15+11:00 05T01:30+10:30 05T02:45+10:30 05T03:00+10:30",
				"05T01:15+11:00 05T01:30+11:00 05T01:45+11:00 05T01:30+10:30 05T01:45+10:30 05T02:00+10:30 " +
					"05T02:15+10:30 05T02:30+10:30 05T02:45+10:30 05T03:00+10:30",
				[]string{faultFirstLost, faultAfterLost, faultSecondLost}},
		}},
		{"Casablanca repeats 02:00 to 03:00", "Africa/Casablanca", "2026-02-15 01:00", "2026-02-15 04:00", []row{
			{"30 1 * * *",
				"15T01:30+01:00 15T02:30+01:00",
				"15T01:30+01:00",
				[]string{faultHourLate}},
			{"30 2 * * *",
				"15T02:30+00:00",
				"15T02:30+01:00",
				[]string{faultSecondPass, faultFirstLost}},
			{"0 * * * *",
				"15T02:00+01:00 15T03:00+00:00 15T04:00+00:00",
				"15T02:00+01:00 15T02:00+00:00 15T03:00+00:00 15T04:00+00:00",
				[]string{faultSecondLost}},
		}},
		{"Casablanca skips 02:00 to 03:00", "Africa/Casablanca", "2026-03-22 01:00", "2026-03-22 04:00", []row{
			{"30 2 * * *",
				"",
				"22T03:00+01:00",
				[]string{faultSkipped}},
		}},
		{"Apia repeats 03:00 to 04:00", "Pacific/Apia", "2020-04-05 02:00", "2020-04-05 05:00", []row{
			{"30 3 * * *",
				"05T03:30+13:00",
				"05T03:30+14:00",
				[]string{faultSecondPass, faultFirstLost}},
			{"0 * * * *",
				"05T03:00+14:00 05T04:00+13:00 05T05:00+13:00",
				"05T03:00+14:00 05T03:00+13:00 05T04:00+13:00 05T05:00+13:00",
				[]string{faultSecondLost}},
		}},
		{"Kathmandu changes nothing", "Asia/Kathmandu", "2026-03-29 00:30", "2026-03-29 04:00", []row{
			{"*/45 * * * *",
				"29T00:45+05:45 29T01:00+05:45 29T01:45+05:45 29T02:00+05:45 29T02:45+05:45 29T03:00+05:45 " +
					"29T03:45+05:45 29T04:00+05:45",
				"29T00:45+05:45 29T01:00+05:45 29T01:45+05:45 29T02:00+05:45 29T02:45+05:45 29T03:00+05:45 " +
					"29T03:45+05:45 29T04:00+05:45",
				nil},
		}},
	}
	o, pinned := newOracle(t), map[string]bool{}
	for _, window := range windows {
		loc, err := time.LoadLocation(window.zone)
		if err != nil {
			t.Fatal(err)
		}
		at := func(text string) time.Time {
			at, err := time.ParseInLocation("2006-01-02 15:04", text, loc)
			if err != nil {
				t.Fatal(err)
			}
			return at.UTC()
		}
		clock := func(all []time.Time) string {
			var out []string
			for _, at := range all {
				out = append(out, at.In(loc).Format("02T15:04-07:00"))
			}
			return strings.Join(out, " ")
		}
		for _, row := range window.rows {
			for _, fault := range row.faults {
				pinned[fault] = true
			}
			t.Run(window.what+"/"+row.expr, func(t *testing.T) {
				t.Parallel()
				q, err := ask(row.expr, window.zone, at(window.from), at(window.to))
				if err != nil {
					t.Fatal(err)
				}
				theirs, err := o.times(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				c := q.compare(theirs)
				if got := clock(theirs); got != row.temporal {
					t.Errorf("Temporal has %s\nno longer    %s", got, row.temporal)
				}
				if got := clock(c.ours); got != row.ours {
					t.Errorf("we have %s\nwant    %s", got, row.ours)
				}
				faults := slices.Sorted(maps.Keys(c.explained))
				if !slices.Equal(faults, slices.Sorted(slices.Values(row.faults))) {
					t.Errorf("explained by %q\nwant         %q", faults, row.faults)
				}
				if len(c.wrong) > 0 {
					t.Error(q.report(c))
				}
			})
		}
	}
	for _, fault := range allFaults {
		if !pinned[fault] {
			t.Errorf("no row shows: %s", fault)
		}
	}
}
