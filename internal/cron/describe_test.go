package cron

import (
	"slices"
	"strings"
	"testing"
)

func TestDescribe(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		"0 9 * * 1-5":              "At 09:00, Monday to Friday (Europe/Berlin)",
		"0 9 * * *":                "At 09:00, every day (Europe/Berlin)",
		"0 9,17 * * 1,4":           "At 09:00 and 17:00, on Mondays and Thursdays (Europe/Berlin)",
		"15,45 8-9 * * 5-7":        "At 08:15, 08:45, 09:15 and 09:45, Friday to Sunday (Europe/Berlin)",
		"0 0 * * 0-4":              "At 00:00, Monday to Thursday and Sunday (Europe/Berlin)",
		"* * * * *":                "Every minute (Europe/Berlin)",
		"*/15 * * * *":             "Every 15 minutes (Europe/Berlin)",
		"*/15 9-17 * * 1-5":        "Every 15 minutes from 09:00 to 17:59, Monday to Friday (Europe/Berlin)",
		"*/15 */6 * * *":           "Every 15 minutes of every 6th hour from 00:00 (Europe/Berlin)",
		"*/5 0,5,9 * * *":          "Every 5 minutes of the hours 00:00, 05:00 and 09:00 (Europe/Berlin)",
		"* 9 * * *":                "Every minute from 09:00 to 09:59 (Europe/Berlin)",
		"0 * * * *":                "Every hour, on the hour (Europe/Berlin)",
		"5 * * * *":                "Every hour at minute 5 (Europe/Berlin)",
		"*/7 * * * *":              "Every hour at minutes 0, 7, 14, … 56 (Europe/Berlin)",
		"0 */2 * * *":              "Every 2 hours from 00:00 at minute 0 (Europe/Berlin)",
		"0 */6 * * *":              "At 00:00, 06:00, 12:00 and 18:00, every day (Europe/Berlin)",
		"0 1-12 * * *":             "At minute 0 of every hour from 01:00 to 12:59, every day (Europe/Berlin)",
		"1-10 0 * * *":             "At minutes 1 to 10 after 00:00, every day (Europe/Berlin)",
		"1,5,9 0,2,7 * * *":        "At minutes 1, 5 and 9 of the hours 00:00, 02:00 and 07:00, every day (Europe/Berlin)",
		"0 0 1 * *":                "At 00:00, on day 1 of the month (Europe/Berlin)",
		"0 0 1 1 *":                "At 00:00, on day 1 of the month, in January (Europe/Berlin)",
		"0 0 * 6-8,12 *":           "At 00:00, in June to August and December (Europe/Berlin)",
		"30 4 1,15 * 5":            "At 04:30, on days 1 and 15 of the month and also on Fridays (Europe/Berlin)",
		"0 9 */2 * 1":              "At 09:00, on Mondays, only on days 1, 3, 5, … 31 of the month (Europe/Berlin)",
		"0 9 1-31 * 1":             "At 09:00, every day (Europe/Berlin)",
		"@weekly":                  "At 00:00, on Sundays (Europe/Berlin)",
		"@every 90m":               "Every 1 hour 30 minutes, counted from 1970-01-01 00:00 UTC",
		"@every 1h":                "Every hour, counted from 1970-01-01 00:00 UTC",
		"@every 48h":               "Every 2 days, counted from 1970-01-01 00:00 UTC",
		"@every 86399s":            "Every 23 hours 59 minutes 59 seconds, counted from 1970-01-01 00:00 UTC",
		"0 0 29 2 *":               "At 00:00, on day 29 of the month, in February (Europe/Berlin)",
		"0 12 1-7 jan,jul mon":     "At 12:00, on days 1 to 7 of the month and also on Mondays, in January and July (Europe/Berlin)",
		"*/10 * 1,2,3,10 * *":      "Every 10 minutes, on days 1 to 3 and 10 of the month (Europe/Berlin)",
		"0 10-12,14,16-18 * * */3": "At 10:00, 11:00, 12:00, 14:00, 16:00, 17:00 and 18:00, on Wednesdays, Saturdays and Sundays (Europe/Berlin)",
	} {
		if got := mustParse(t, expr, "Europe/Berlin").Describe(); got != want {
			t.Errorf("%q\n got %s\nwant %s", expr, got, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		expr, zone string
		want       []string // a part of each warning
	}{
		{"0 9 * * 1-5", "Europe/Berlin", nil},
		{"*/15 9-17 * * *", "", nil},
		{"@daily", "", nil},
		{"@every 90m", "", nil},
		{"@every 48h", "", nil},
		{"* * * * *", "", []string{"every minute of each selected hour: 1440 runs a day"}},
		{"* 9 * * *", "", []string{"60 runs a day"}},
		{"30 4 1,15 * 5", "", []string{"only one of the two"}},
		{"0 9 1-31 * 1", "", []string{"this fires every day"}},
		{"0 9 1 * 0-6", "", []string{"this fires every day"}},
		{"0 9 */2 * 1", "", []string{"match both", "start again at 1 with every month"}},
		{"*/7 * * * *", "", []string{"\"@every 7m\""}},
		{"*/90 * * * *", "", []string{"\"@every 90m\""}},
		{"0 */5 * * *", "", []string{"\"@every 5h\""}},
		{"5-10/30 * * * *", "", []string{"only 5 is selected"}},
		{"0 0 1 */5 *", "", []string{"with every year"}},
		{"0 0 * * */7", "", []string{"only 0 is selected"}},
		{"0 0 * * */2", "", []string{"with every week"}},
		{"0 0 31 * *", "", []string{"without a day 31"}},
		{"0 0 29 2 *", "", []string{"leap years"}},
		{"@every 10s", "", []string{"8640 runs a day"}},
		{"@every 1m", "", []string{"every minute: 1440 runs a day"}},
		{"@every 7h", "", []string{"does not divide a day"}},
		{"@every 1h", "Europe/Berlin", []string{"no effect"}},
		{"0 9 * * *", "Etc/GMT+5", []string{"UTC-05:00"}},
	} {
		got := mustParse(t, tc.expr, tc.zone).Warnings()
		if !slices.EqualFunc(got, tc.want, strings.Contains) {
			t.Errorf("%q in %q: warnings %q, want %q", tc.expr, tc.zone, got, tc.want)
		}
	}
}

func TestNote(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		expr, zone, slot string
		want             string // a part; "" for no note
	}{
		{"0 9 * * *", "Europe/Berlin", "2026-03-28 08:00", ""},
		{"0 9 * * *", "Europe/Berlin", "2026-03-29 07:00", ""}, // the change does not touch it
		{"30 2 * * *", "Europe/Berlin", "2026-03-29 01:00", "02:30 does not exist on this day (clocks go forward from 02:00 to 03:00)"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-30 00:30", ""},
		{"15,45 2 * * *", "Europe/Berlin", "2026-03-29 01:00", "02:15 and 02:45 do not exist"},
		{"1-20 2 * * *", "Europe/Berlin", "2026-03-29 01:00", "02:01, 02:02, 02:03, 02:04, 02:05, 02:06, 02:07 and others do not exist"},
		{"0 */2 * * *", "Europe/Berlin", "2026-03-29 02:00", "do not exist and do not fire"},
		{"0 */2 * * *", "Europe/Berlin", "2026-03-29 04:00", ""},
		{"30 2 * * *", "Europe/Berlin", "2026-10-25 00:30", "02:30 comes twice on this day (clocks go back from 03:00 to 02:00). It fires once"},
		{"30 * * * *", "Europe/Berlin", "2026-10-25 00:30", "first pass"},
		{"30 * * * *", "Europe/Berlin", "2026-10-25 01:30", "second pass"},
		{"30 * * * *", "Europe/Berlin", "2026-10-24 23:30", ""},
		{"30 * * * *", "Europe/Berlin", "2026-10-25 02:30", ""},
		{"0 0 * * *", "America/Santiago", "2026-09-06 04:00", "00:00 does not exist"},
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 15:30", "from 02:00 to 02:30"},
		{"0 9 * * *", "Pacific/Apia", "2011-12-30 19:00", "2011-12-30 00:00 to 2011-12-31 00:00"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-29 01:30", ""}, // no slot
		{"@every 1h", "Europe/Berlin", "2026-03-29 01:00", ""},
	} {
		got := mustParse(t, tc.expr, tc.zone).Note(at(t, tc.slot))
		if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%q in %s at %s: note %q, want %q", tc.expr, tc.zone, tc.slot, got, tc.want)
		}
	}
}
