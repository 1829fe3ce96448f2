package cron

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func at(t testing.TB, text string) time.Time {
	t.Helper()
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02"} {
		if v, err := time.Parse(layout, text); err == nil {
			return v.UTC()
		}
	}
	t.Fatalf("%q is no time", text)
	return time.Time{}
}

func equalTimes(a, b []time.Time) bool { return slices.EqualFunc(a, b, time.Time.Equal) }

// TestSlots compares with times worked out by hand. All are UTC; each row lists every
// slot in (from, to].
func TestSlots(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		expr, zone, from, to string
		want                 string // separated by commas
	}{
		// Day of month or day of week, never both. 2026-01-01 is a Thursday.
		{"30 4 1,15 * 5", "", "2025-12-31", "2026-02-06 12:00", "2026-01-01 04:30, 2026-01-02 04:30, 2026-01-09 04:30, " +
			"2026-01-15 04:30, 2026-01-16 04:30, 2026-01-23 04:30, 2026-01-30 04:30, 2026-02-01 04:30, 2026-02-06 04:30"},
		// A range over all days restricts by its form: every day matches.
		{"0 9 1-31 * 1", "", "2026-01-03", "2026-01-08", "2026-01-03 09:00, 2026-01-04 09:00, 2026-01-05 09:00, 2026-01-06 09:00, 2026-01-07 09:00"},
		// A step on a star does not restrict: both have to match, odd-dated Mondays.
		{"0 9 */2 * 1", "", "2026-01-01", "2026-03-31", "2026-01-05 09:00, 2026-01-19 09:00, 2026-02-09 09:00, 2026-02-23 09:00, 2026-03-09 09:00, 2026-03-23 09:00"},
		{"0 9 1 * */2", "", "2026-01-01", "2026-05-31", "2026-01-01 09:00, 2026-02-01 09:00, 2026-03-01 09:00"},
		{"0 9 * * 1", "", "2026-01-01", "2026-01-20", "2026-01-05 09:00, 2026-01-12 09:00, 2026-01-19 09:00"},
		{"0 0 29 2 *", "", "2026-01-01", "2037-01-01", "2028-02-29 00:00, 2032-02-29 00:00, 2036-02-29 00:00"},
		{"0 0 29 2 *", "", "2096-02-29", "2104-03-01", "2104-02-29 00:00"}, // 2100 is no leap year
		{"0 0 29 2 */7", "", "2026-01-01", "2060-01-01", "2032-02-29 00:00"},
		{"0 0 31 * *", "", "2026-01-01", "2026-06-01", "2026-01-31 00:00, 2026-03-31 00:00, 2026-05-31 00:00"},
		{"@every 90m", "", "2026-01-01", "2026-01-01 06:00", "2026-01-01 01:30, 2026-01-01 03:00, 2026-01-01 04:30, 2026-01-01 06:00"},
		{"@every 90m", "Asia/Kathmandu", "2026-01-01 01:31", "2026-01-01 03:10", "2026-01-01 03:00"},
		// 2026 begins 20,454 days or 490,896 hours after the epoch; 11 × 44,627 is 490,897.
		{"@every 11h", "", "2026-01-01", "2026-01-02 12:00", "2026-01-01 01:00, 2026-01-01 12:00, 2026-01-01 23:00, 2026-01-02 10:00"},

		// Berlin, 2026-03-29: at 01:00 UTC the clock goes from 02:00 to 03:00.
		{"0 * * * *", "Europe/Berlin", "2026-03-28 23:30", "2026-03-29 03:00", "2026-03-29 00:00, 2026-03-29 01:00, 2026-03-29 02:00, 2026-03-29 03:00"},
		{"30 1 * * *", "Europe/Berlin", "2026-03-28 00:00", "2026-03-31 00:00", "2026-03-28 00:30, 2026-03-29 00:30, 2026-03-29 23:30, 2026-03-30 23:30"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-28 00:00", "2026-03-30 12:00", "2026-03-28 01:30, 2026-03-29 01:00, 2026-03-30 00:30"},
		{"0 3 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-29 12:00", "2026-03-29 01:00"},
		// Berlin, 2026-10-25: at 01:00 UTC the clock goes back from 03:00 to 02:00.
		{"0 * * * *", "Europe/Berlin", "2026-10-24 23:30", "2026-10-25 03:00", "2026-10-25 00:00, 2026-10-25 01:00, 2026-10-25 02:00, 2026-10-25 03:00"},
		{"30 1 * * *", "Europe/Berlin", "2026-10-24 12:00", "2026-10-26 12:00", "2026-10-24 23:30, 2026-10-26 00:30"},
		{"30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", "2026-10-26 12:00", "2026-10-25 00:30, 2026-10-26 01:30"},
		{"30 2 * * *", "Europe/Berlin", "2026-10-25 00:30", "2026-10-26 12:00", "2026-10-26 01:30"}, // asked between the passes
		{"30 2 * * *", "Europe/Berlin", "2026-10-25 01:00", "2026-10-26 12:00", "2026-10-26 01:30"},
		{"*/30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", "2026-10-25 12:00", "2026-10-25 00:00, 2026-10-25 00:30, 2026-10-25 01:00, 2026-10-25 01:30"},
		{"*/30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-30 00:15", "2026-03-30 00:00"}, // real time: hour 2 is not there
		{"0 */2 * * *", "Europe/Berlin", "2026-03-28 22:30", "2026-03-29 04:30", "2026-03-28 23:00, 2026-03-29 02:00, 2026-03-29 04:00"},

		// New York, 2026-03-08: at 07:00 UTC from 02:00 to 03:00; 2026-11-01: at 06:00 UTC back to 01:00.
		{"30 2 * * *", "America/New_York", "2026-03-08 00:00", "2026-03-09 12:00", "2026-03-08 07:00, 2026-03-09 06:30"},
		{"15,45 2 * * *", "America/New_York", "2026-03-08 00:00", "2026-03-09 00:00", "2026-03-08 07:00"}, // two fall into one
		{"0 2,3 * * *", "America/New_York", "2026-03-08 00:00", "2026-03-09 00:00", "2026-03-08 07:00"},   // also with 03:00 itself
		{"30 2,3 * * *", "America/New_York", "2026-03-08 00:00", "2026-03-09 00:00", "2026-03-08 07:00, 2026-03-08 07:30"},
		{"30 1 * * *", "America/New_York", "2026-11-01 00:00", "2026-11-02 12:00", "2026-11-01 05:30, 2026-11-02 06:30"},
		{"59 1 1 11 *", "America/New_York", "2026-11-01 00:00", "2027-01-01", "2026-11-01 05:59"},

		// Lord Howe changes by half an hour: 2026-10-04 02:00 to 02:30 at 15:30 UTC the day
		// before; 2026-04-05 02:00 back to 01:30 at 15:00 UTC the day before.
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", "2026-10-04 20:00", "2026-10-03 15:30, 2026-10-04 15:15"},
		{"*/15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", "2026-10-04 00:00", "2026-10-03 15:30, 2026-10-03 15:45"},
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-04 00:00", "2026-04-05 20:00", "2026-04-04 14:45, 2026-04-05 15:15"},
		{"45 * * * *", "Australia/Lord_Howe", "2026-04-04 14:00", "2026-04-04 16:20", "2026-04-04 14:45, 2026-04-04 15:15, 2026-04-04 16:15"},

		// Santiago, 2026-09-06: midnight does not exist, 00:00 becomes 01:00 at 04:00 UTC.
		{"0 12 * * 0", "America/Santiago", "2026-09-05", "2026-09-08", "2026-09-06 15:00"},
		{"0 12 * * 6", "America/Santiago", "2026-09-05", "2026-09-08", "2026-09-05 16:00"},
		{"0 0 * * *", "America/Santiago", "2026-09-05", "2026-09-07 12:00", "2026-09-05 04:00, 2026-09-06 04:00, 2026-09-07 03:00"},
		{"30 0 * * 0", "America/Santiago", "2026-09-05", "2026-09-08", "2026-09-06 04:00"},
		{"30 0 * * 6", "America/Santiago", "2026-09-05", "2026-09-08", "2026-09-05 04:30"},
		{"30 23 * * 6", "America/Santiago", "2026-04-04 12:00", "2026-04-06 12:00", "2026-04-05 02:30"}, // Saturday's 23:30 comes twice
		// Havana, 2026-03-08: 00:00 becomes 01:00 at 05:00 UTC; 2026-11-01: 01:00 back to 00:00 at 05:00 UTC.
		{"0 12 * * 0", "America/Havana", "2026-03-07", "2026-03-10", "2026-03-08 16:00"},
		{"0 0 8 3 *", "America/Havana", "2026-03-07", "2026-03-10", "2026-03-08 05:00"},
		{"30 0 * * *", "America/Havana", "2026-10-31 12:00", "2026-11-02 12:00", "2026-11-01 04:30, 2026-11-02 05:30"},

		// Apia had no 2011-12-30: from the 29th's midnight, 10:00 UTC on the 30th, to the 31st.
		{"0 9 * * *", "Pacific/Apia", "2011-12-29 12:00", "2011-12-31 20:00", "2011-12-29 19:00, 2011-12-30 19:00, 2011-12-31 19:00"},
		{"0 9 30 12 *", "Pacific/Apia", "2011-12-01", "2013-01-01", "2012-12-29 19:00"},
		{"0 9 * * 5", "Pacific/Apia", "2011-12-22", "2012-01-06", "2011-12-23 19:00, 2012-01-05 19:00"}, // the 30th was a Friday
		{"0 */6 * * *", "Pacific/Apia", "2011-12-30 00:00", "2011-12-31 00:00", "2011-12-30 04:00, 2011-12-30 10:00, 2011-12-30 16:00, 2011-12-30 22:00"},

		// Casablanca is on UTC+1 except in Ramadan: 2026-02-15 02:00 UTC back, 2026-03-22 02:00 UTC forward.
		{"30 2 * * *", "Africa/Casablanca", "2026-02-14 12:00", "2026-02-16 12:00", "2026-02-15 01:30, 2026-02-16 02:30"},
		{"30 2 * * *", "Africa/Casablanca", "2026-03-21 12:00", "2026-03-23 12:00", "2026-03-22 02:00, 2026-03-23 01:30"},

		// Kathmandu is 5:45 ahead of UTC.
		{"0 9 * * *", "Asia/Kathmandu", "2026-01-01", "2026-01-02", "2026-01-01 03:15"},
		{"0 * * * *", "Asia/Kathmandu", "2026-01-01", "2026-01-01 02:00", "2026-01-01 00:15, 2026-01-01 01:15"},

		// Casey set its clock forward by three hours, 2020-10-04 00:01 to 03:01: no daylight saving.
		{"30 1 * * *", "Antarctica/Casey", "2020-10-02", "2020-10-05", "2020-10-02 17:30, 2020-10-04 14:30"},
	} {
		s := mustParse(t, tc.expr, tc.zone)
		var want []time.Time
		for text := range strings.SplitSeq(tc.want, ", ") {
			want = append(want, at(t, text))
		}
		got := s.Between(at(t, tc.from), at(t, tc.to), 1000)
		if !equalTimes(got, want) {
			t.Errorf("%q in %q, (%s, %s]\n got %v\nwant %v", tc.expr, tc.zone, tc.from, tc.to, got, want)
		}
		for _, slot := range want {
			if !s.IsSlot(slot) || s.IsSlot(slot.Add(time.Second)) || s.IsSlot(slot.Add(time.Nanosecond)) {
				t.Errorf("%q in %q: IsSlot is wrong at or after %v", tc.expr, tc.zone, slot)
			}
		}
	}
}

func TestNextIsStrict(t *testing.T) {
	t.Parallel()
	s := mustParse(t, "0 9 * * *", "")
	slot := at(t, "2026-01-01 09:00")
	for _, tc := range []struct{ after, want time.Time }{
		{slot.Add(-1), slot},
		{slot, slot.AddDate(0, 0, 1)},
		{slot.Add(1), slot.AddDate(0, 0, 1)},
		{slot.In(time.FixedZone("", 7200)), slot.AddDate(0, 0, 1)},
	} {
		if got, ok := s.Next(tc.after); !ok || !got.Equal(tc.want) {
			t.Errorf("Next(%v) = %v, %v; want %v", tc.after, got, ok, tc.want)
		}
	}
}

func TestEndsOfTime(t *testing.T) {
	t.Parallel()
	for _, expr := range []string{"0 0 1 1 *", "* * * * *", "@every 1h", "0 0 29 2 *"} {
		for _, zone := range []string{"UTC", "Europe/Berlin", "Pacific/Apia"} {
			s := mustParse(t, expr, zone)
			if got, ok := s.Next(time.Time{}.Add(-1 << 62)); !ok || got.Year() < 1 || got.Year() > 5 {
				t.Errorf("%q in %s before year 1: %v, %v", expr, zone, got, ok)
			}
			if got, ok := s.Next(time.Date(9999, 12, 31, 23, 59, 30, 0, time.UTC)); ok {
				t.Errorf("%q in %s at the end of year 9999: %v", expr, zone, got)
			}
			if got, ok := s.Next(time.Unix(1<<62, 0)); ok {
				t.Errorf("%q in %s far away: %v", expr, zone, got)
			}
		}
	}
}

func TestBetweenLimit(t *testing.T) {
	t.Parallel()
	s := mustParse(t, "* * * * *", "")
	from := at(t, "2026-01-01")
	for limit, want := range map[int]int{-1: 0, 0: 0, 1: 1, 7: 7, 1000: 60} {
		if got := len(s.Between(from, from.Add(time.Hour), limit)); got != want {
			t.Errorf("limit %d gives %d slots, want %d", limit, got, want)
		}
	}
	if got := s.Between(from, from, 10); got != nil {
		t.Errorf("an empty span has the slots %v", got)
	}
}

func BenchmarkNext(b *testing.B) {
	for _, bc := range []struct{ name, expr, zone string }{
		{"every minute", "* * * * *", "Europe/Berlin"},
		{"workdays", "0 9 * * 1-5", "Europe/Berlin"},
		{"leap day", "0 0 29 2 *", "Europe/Berlin"},
		{"leap Sunday", "0 0 29 2 */7", "Europe/Berlin"},
		{"workdays UTC", "0 9 * * 1-5", ""},
	} {
		b.Run(bc.name, func(b *testing.B) {
			s := mustParse(b, bc.expr, bc.zone)
			from := time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC)
			for b.Loop() {
				s.Next(from)
			}
		})
	}
}
