package cron

import (
	"reflect"
	"testing"
)

func TestCalendars(t *testing.T) {
	t.Parallel()
	one := func(v int) []Range { return []Range{{v, v, 1}} }
	to := func(a, b, step int) []Range { return []Range{{a, b, step}} }
	anyDate, anyMonth, anyWeekday := to(1, 31, 1), to(1, 12, 1), to(0, 6, 1)
	for _, tc := range []struct {
		expr string
		want []Calendar
	}{
		{"@every 90m", nil},
		{"0 9 * * 1-5", []Calendar{{one(0), one(0), one(9), anyDate, anyMonth, to(1, 5, 1)}}},
		{"*/15 * * * *", []Calendar{{one(0), to(0, 45, 15), to(0, 23, 1), anyDate, anyMonth, anyWeekday}}},
		{"0,30 9 * 2,4 *", []Calendar{{one(0), []Range{{0, 0, 1}, {30, 30, 1}}, one(9), anyDate, []Range{{2, 2, 1}, {4, 4, 1}}, anyWeekday}}},
		{"0 9 * * 5-7", []Calendar{{one(0), one(0), one(9), anyDate, anyMonth, []Range{{0, 0, 1}, {5, 6, 1}}}}},
		// Both restricted: the union of two.
		{"30 4 1,15 * 5", []Calendar{
			{one(0), one(30), one(4), []Range{{1, 1, 1}, {15, 15, 1}}, anyMonth, anyWeekday},
			{one(0), one(30), one(4), anyDate, anyMonth, one(5)},
		}},
		// A star with a step does not restrict: one calendar, both must match.
		{"0 9 */2 * 1", []Calendar{{one(0), one(0), one(9), to(1, 31, 2), anyMonth, one(1)}}},
		{"0 9 1-31 * 1", []Calendar{{one(0), one(0), one(9), anyDate, anyMonth, anyWeekday}}},
	} {
		if got := mustParse(t, tc.expr, "Europe/Berlin").Calendars(); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q\n got %+v\nwant %+v", tc.expr, got, tc.want)
		}
	}
}
