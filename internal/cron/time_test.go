package cron

import (
	"errors"
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, zone, want string }{
		{"2026-12-24T18:00:00+01:00", "", "2026-12-24T17:00:00Z"},
		{"2026-12-24T18:00:00Z", "Europe/Berlin", "2026-12-24T18:00:00Z"}, // an offset says it all
		{"2026-12-24T18:00:07", "Europe/Berlin", "2026-12-24T17:00:07Z"},
		{"2026-06-24T18:00", "Europe/Berlin", "2026-06-24T16:00:00Z"},
		{"2026-06-24T18:00", "", "2026-06-24T18:00:00Z"},
		// 02:30 does not exist in Berlin on this day: the first instant after the gap.
		{"2026-03-29T02:30", "Europe/Berlin", "2026-03-29T01:00:00Z"},
		{"2026-03-29T01:59:59", "Europe/Berlin", "2026-03-29T00:59:59Z"},
		{"2026-03-29T03:00", "Europe/Berlin", "2026-03-29T01:00:00Z"},
		// 02:30 comes twice: its first pass.
		{"2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30:00Z"},
		{"2026-10-25T03:00", "Europe/Berlin", "2026-10-25T02:00:00Z"},
		// Santiago has no midnight on this day; New York is west of UTC.
		{"2026-09-06T00:15", "America/Santiago", "2026-09-06T04:00:00Z"},
		{"2026-11-01T01:30", "America/New_York", "2026-11-01T05:30:00Z"},
		{"2026-07-01T00:00", "Asia/Kathmandu", "2026-06-30T18:15:00Z"},
		{"2030-01-01T00:00", "Pacific/Apia", "2029-12-31T11:00:00Z"},
	} {
		got, err := ParseTime(tc.text, tc.zone)
		if err != nil || got.Format(time.RFC3339) != tc.want {
			t.Errorf("ParseTime(%q, %q) = %v, %v; want %s", tc.text, tc.zone, got, err, tc.want)
		}
	}
}

func TestParseTimeRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, zone, field, rule string }{
		{"", "", FieldTime, "time"},
		{"tomorrow", "", FieldTime, "time"},
		{"2026-12-24", "", FieldTime, "time"},
		{"2026-12-24 18:00", "", FieldTime, "time"},
		{"2026-13-24T18:00", "", FieldTime, "time"},
		{"2026-12-24T18:00:00.5Z", "", FieldTime, "whole_seconds"},
		{"1969-12-24T18:00:00Z", "", FieldTime, "range"},
		{"2026-12-24T18:00", "Europe/Nowhere", FieldZone, "unknown_zone"},
	} {
		_, err := ParseTime(tc.text, tc.zone)
		var refused *Error
		if !errors.As(err, &refused) || refused.Field != tc.field || refused.Rule != tc.rule {
			t.Errorf("ParseTime(%q, %q): %v; want %s of %s", tc.text, tc.zone, err, tc.rule, tc.field)
		}
	}
}

// FuzzParseTime: a legal local time is shown again by the clocks of its zone, unless it is in a gap, whose end it then is.
func FuzzParseTime(f *testing.F) {
	f.Add("2026-03-29T02:30", "Europe/Berlin")
	f.Add("2026-09-06T00:00", "America/Santiago")
	f.Add("2011-12-30T12:00", "Pacific/Apia")
	f.Add("2026-12-24T18:00:00+01:00", "UTC")
	f.Fuzz(func(t *testing.T, text, zone string) {
		at, err := ParseTime(text, zone)
		if err != nil {
			return
		}
		if _, err := time.Parse(time.RFC3339, text); err == nil {
			return
		}
		_, loc, err := loadZone(zone)
		if err != nil {
			t.Fatal(err)
		}
		want, err := time.Parse("2006-01-02T15:04:05", text)
		if err != nil {
			if want, err = time.Parse("2006-01-02T15:04", text); err != nil {
				t.Fatalf("%q was read but is in no known form", text)
			}
		}
		_, offset := at.In(loc).Zone()
		shown := at.Unix() + int64(offset)
		if shown == want.Unix() {
			return
		}
		_, before := at.Add(-time.Second).In(loc).Zone()
		if gap := at.Unix() + int64(before); gap > want.Unix() || want.Unix() > shown {
			t.Errorf("ParseTime(%q, %q) = %v", text, zone, at)
		}
	})
}
