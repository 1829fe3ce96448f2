package cron

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests must not depend on the machine's zones
)

func mustParse(t testing.TB, expr, zone string) *Schedule {
	t.Helper()
	s, err := Parse(expr, zone)
	if err != nil {
		t.Fatalf("Parse(%q, %q): %v", expr, zone, err)
	}
	return s
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ expr, rule, says string }{
		{"", "empty", "five fields"},
		{" \t ", "empty", "five fields"},
		{strings.Repeat("0,", 99) + "0 * * * *", "too_long", "limit is 200"},
		{"*", "field_count", "1 field;"},
		{"* * * *", "field_count", "4 fields"},
		{"1 2 3 4 5 6 7 8", "field_count", "8 fields"},
		{"0 5 * * * *", "six_fields", "different things in different systems"},
		{"0 0 12 * * ?", "six_fields", "@every 30s"},
		{"0 0 5 * * * 2026", "seven_fields", "year"},
		{"TZ=UTC 0 9 * * *", "tz_prefix", `"timezone"`},
		{"CRON_TZ=Europe/Berlin 0 9 * * *", "tz_prefix", `"timezone"`},
		{"TZ=UTC", "tz_prefix", `"timezone"`},
		{"tz=", "tz_prefix", `"timezone"`},
		{"@reboot", "reboot", "by hand"},
		{"@fortnightly", "descriptor", "@weekly"},
		{"@Daily", "descriptor", "lower case"},
		{"@", "descriptor", "@weekly"},
		{"@daily 5", "descriptor", "stands alone"},
		{"@daily\t# x", "descriptor", "stands alone"},
		{"@every", "every", "90m"},
		{"@every 1d", "every", "24h"},
		{"@every 90", "every", "units"},
		{"@every 90m/5m", "every", "units"},
		{"@every 0s", "every", "shortest"},
		{"@every -5m", "every", "shortest"},
		{"@every 999ms", "every", "shortest"},
		{"@every 1.5s", "every", "whole number"},
		{"@every 8785h", "every", "366 days"},
		{"0 9 * * 5#2", "hash", "second Friday"},
		{"0 9 * * 1 # standup", "hash", "comment"},
		{"? 9 * * *", "question_mark", "write *"},
		{"0 9 ? * 1", "question_mark", "day-of-month"},
		{"0 9 L * *", "last_day", "28-31"},
		{"0 9 L-3 * *", "last_day", "28-31"},
		{"0 9 LW * *", "last_day", "28-31"},
		{"0 9 * * 5L", "last_day", "last Friday"},
		{"0 9 15W * *", "nearest_weekday", "working day"},
		{"0 9 W * *", "nearest_weekday", "working day"},
		{"~ 9 * * *", "tilde", "jitter"},
		{"0~59 9 * * *", "tilde", "jitter"},
		{"H 9 * * *", "jenkins_hash", "jitter"},
		{"H(0-30) 9 * * *", "jenkins_hash", "jitter"},
		{"H/15 9 * * *", "jenkins_hash", "jitter"},
		{"60 * * * *", "range", "0 to 59"},
		{"99999999999999999999 * * * *", "range", "0 to 59"},
		{"0 24 * * *", "range", "0 to 23"},
		{"0 0 0 * *", "range", "1 to 31"},
		{"0 0 32 * *", "range", "1 to 31"},
		{"0 0 1-32 * *", "range", "1 to 31"},
		{"0 0 * 0 *", "range", "1 to 12"},
		{"0 0 * 13 *", "range", "1 to 12"},
		{"0 0 * * 8", "range", "0 to 7"},
		{"*/0 * * * *", "step", "whole number"},
		{"*/x * * * *", "step", "whole number"},
		{"*/ * * * *", "step", "*/2"},
		{"*/-5 * * * *", "step", "whole number"},
		{"*/99999999999 * * * *", "step", "9999"},
		{"5-7/0 * * * *", "step", "5-7/2"},
		{"3/5 * * * *", "start_step", "3-59/5"},
		{"0 9 * * 1/2", "start_step", "1-6/2"},
		{"1/ * * * *", "start_step", "1-59/n"},
		{"*-5 * * * *", "star_range", "0-5"},
		{"0 0 *-5/2 * *", "star_range", "1-5"},
		{"1,,2 * * * *", "empty_item", "comma"},
		{",1 * * * *", "empty_item", "comma"},
		{"1, * * * *", "empty_item", "comma"},
		{"0 22-4 * * *", "wrap_around", "22-23,0-4"},
		{"0 0 * nov-feb *", "wrap_around", "11-12,1-2"},
		{"0 0 * * fri-mon", "wrap_around", "5-6,0-1"},
		{"0 0 * * sat-sun", "wrap_around", "6-7"},
		{"0 0 * * 7-2", "wrap_around", "0-2"},
		{"0 0 * * monday", "name", "write mon"},
		{"0 0 * * mo", "name", "write mon"},
		{"0 0 * january *", "name", "write jan"},
		{"0 0 * foo *", "name", "jan to dec"},
		{"mon * * * *", "name", "no names"},
		{"-5 * * * *", "syntax", "not understood"},
		{"5- * * * *", "syntax", "not understood"},
		{"1-2-3 * * * *", "syntax", "not understood"},
		{"*5 * * * *", "syntax", "not understood"},
		{"** * * * *", "syntax", "not understood"},
		{"1.5 * * * *", "syntax", "not understood"},
		{"+5 * * * *", "syntax", "not understood"},
		{"*/5/2 * * * *", "syntax", "not understood"},
		{"0 9\n* * *", "syntax", "one line"},
		{"0 9 * * 1–5", "syntax", "–"},
		{"0 9\u00a0* * *", "syntax", "plain ASCII"},
		{"0 9 * * \xff", "syntax", "plain ASCII"},
		{"0 0 31 2 *", "never_fires", "day 31 cannot fall in February"},
		{"0 0 30,31 2 *", "never_fires", "days 30 and 31"},
		{"0 0 31 4,6,9,11 *", "never_fires", "April, June, September and November"},
		{"0 0 31 feb */2", "never_fires", "February"},
	} {
		_, err := Parse(tc.expr, "")
		var refused *Error
		if !errors.As(err, &refused) {
			t.Errorf("Parse(%q) = %v, want a refusal %q", tc.expr, err, tc.rule)
			continue
		}
		if refused.Field != FieldExpression || refused.Rule != tc.rule || !strings.Contains(refused.Message, tc.says) {
			t.Errorf("Parse(%q) = %s/%s %q, want %s and a message with %q",
				tc.expr, refused.Field, refused.Rule, refused.Message, tc.rule, tc.says)
		}
		if strings.ContainsAny(refused.Message, "\n\r") {
			t.Errorf("Parse(%q): the message has several lines: %q", tc.expr, refused.Message)
		}
	}
}

func TestParseRefusesZones(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ zone, rule, says string }{
		{"Local", "local_zone", "machine"},
		{"local", "local_zone", "machine"},
		{"localtime", "local_zone", "machine"},
		{"Mars/Phobos", "unknown_zone", "IANA"},
		{"europe/berlin", "unknown_zone", "did you mean Europe/Berlin?"},
		{"America/New York", "unknown_zone", "did you mean America/New_York?"},
		{" Europe/Berlin", "unknown_zone", "did you mean Europe/Berlin?"},
		{"utc", "unknown_zone", "did you mean UTC?"},
		{"+02:00", "unknown_zone", "not an offset"},
		{"UTC+2", "unknown_zone", "not an offset"},
		{"Europe", "unknown_zone", "IANA"},
		{"../../../etc/passwd", "unknown_zone", "IANA"},
		{"/etc/localtime", "unknown_zone", "IANA"},
		{"posix/Europe/Berlin", "unknown_zone", "plain IANA name"},
		{"right/Europe/Berlin", "unknown_zone", "plain IANA name"},
		{"Europe/Berlin\x00", "unknown_zone", "IANA"},
		{strings.Repeat("Europe/", 100), "unknown_zone", "IANA"},
	} {
		_, err := Parse("* * * * *", tc.zone)
		var refused *Error
		if !errors.As(err, &refused) {
			t.Errorf("zone %q: %v, want a refusal", tc.zone, err)
			continue
		}
		if refused.Field != FieldZone || refused.Rule != tc.rule || !strings.Contains(refused.Message, tc.says) {
			t.Errorf("zone %q: %s/%s %q, want %s and a message with %q",
				tc.zone, refused.Field, refused.Rule, refused.Message, tc.rule, tc.says)
		}
	}
}

func TestParseAcceptsAndEquates(t *testing.T) {
	t.Parallel()
	// Expressions of one row mean the same.
	for _, same := range [][]string{
		{"0 9 * * 1-5", "  0\t9  * *  mon-fri ", "00 09 * * MON-Fri", "0 9 * * 1,2,3,4,5"},
		{"0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "@weekly", "0 0 * * */7"},
		{"0 0 * * 5-7", "0 0 * * fri,SAT,sun", "0 0 * * 0,5,6"},
		{"0 0 * * 1-7/2", "0 0 * * 0,1,3,5"},
		{"0 0 1 1 *", "@yearly", "@annually", "0 0 1 jan *"},
		{"0 0 1 * *", "@monthly"},
		{"0 0 * * *", "@daily", "@midnight", " @daily "},
		{"0 * * * *", "@hourly", "*/60 * * * *", "*/90 * * * *"},
		{"1-10/3 * * * *", "1,4,7,10 * * * *"},
		{"0 9 1-31 * 1", "0 9 * * *", "0 9 5 * 0-6"},
		{"@every 90m", "@every 1h30m", "@every   5400s", "@every\t90m"},
	} {
		start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		want := mustParse(t, same[0], "").Between(start, start.AddDate(2, 0, 0), 50)
		for _, expr := range same[1:] {
			if got := mustParse(t, expr, "").Between(start, start.AddDate(2, 0, 0), 50); !equalTimes(got, want) {
				t.Errorf("%q fires at %v, but %q at %v", expr, got, same[0], want)
			}
		}
	}
}

func TestZoneAndEvery(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{"": "UTC", "UTC": "UTC", "Asia/Kathmandu": "Asia/Kathmandu"} {
		if got := mustParse(t, "* * * * *", given).Zone(); got != want {
			t.Errorf("zone %q became %q, want %q", given, got, want)
		}
	}
	if d, ok := mustParse(t, "@every 90m", "").Every(); !ok || d != 90*time.Minute {
		t.Errorf("Every() = %v, %v; want 1h30m, true", d, ok)
	}
	if d, ok := mustParse(t, "*/5 * * * *", "").Every(); ok || d != 0 {
		t.Errorf("Every() = %v, %v; want 0, false", d, ok)
	}
	if _, err := Parse("@every 8784h", ""); err != nil {
		t.Errorf("366 days are allowed: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, expr := range []string{"0 9 * * 1-5", "*/15 0-7,22 1,15 jan-mar fri", "@every 90m", "@daily", "TZ=UTC", "0 0 29 2 *",
		"0 0 31 2 *", "0 5 * * * *", "* * * * 5#2", "30 2 * * *", "1/5 H L W ?", "*-5 ~ , / -", "0 0 29 2 */7"} {
		f.Add(expr, "Europe/Berlin", int64(1_793_000_000))
	}
	f.Add("@every 1s", "", int64(-1<<62))
	f.Add("0 0 * * 0", "America/Santiago", int64(253402300799))
	f.Fuzz(func(t *testing.T, expr, zone string, unix int64) {
		s, err := Parse(expr, zone)
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) || refused.Rule == "" || refused.Message == "" {
				t.Fatalf("Parse(%q, %q): an error without explanation: %v", expr, zone, err)
			}
			return
		}
		if s.Describe() == "" {
			t.Fatalf("%q has no description", expr)
		}
		s.Warnings()
		if _, every := s.Every(); every != (s.Calendars() == nil) {
			t.Fatalf("%q: @every or calendars, never both or neither", expr)
		}
		after := time.Unix(unix, 0)
		for range 5 {
			next, ok := s.Next(after)
			if !ok {
				if unix < maxUnix-50*366*daySeconds {
					t.Fatalf("%q in %s has no slot after %v", expr, zone, after)
				}
				return
			}
			if !next.After(after) || !s.IsSlot(next) || next.Location() != time.UTC {
				t.Fatalf("%q in %s: Next(%v) = %v", expr, zone, after, next)
			}
			s.Note(next)
			after = next
		}
	})
}
