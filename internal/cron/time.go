package cron

import (
	"strings"
	"time"
)

// FieldTime is the value of Error.Field for a single time.
const FieldTime = "run_at"

// localLayouts are the ways to write a time without an offset.
var localLayouts = []string{"2006-01-02T15:04:05", "2006-01-02T15:04"}

// ParseTime reads a single due time: an RFC 3339 time, or one without an offset, which is then a local time of the zone
// (IANA name; empty is UTC). A local time follows the rules of an expression with fixed times: one that comes twice means
// its first pass, one that does not exist means the first instant after the gap. Its errors are *Error.
func ParseTime(text, zone string) (time.Time, error) {
	refuse := func(rule, message string) (time.Time, error) {
		return time.Time{}, &Error{Field: FieldTime, Rule: rule, Message: message}
	}
	_, loc, err := loadZone(zone)
	if err != nil {
		return time.Time{}, err
	}
	at, err := time.Parse(time.RFC3339, text)
	for _, layout := range localLayouts {
		if err == nil {
			break
		}
		var local time.Time
		if local, err = time.Parse(layout, text); err == nil {
			at = fromLocal(local.Unix(), loc)
		}
	}
	switch {
	case err != nil:
		shown := text
		if len(shown) > 60 {
			shown = strings.ToValidUTF8(shown[:60], "") + "…"
		}
		return refuse("time", quote(shown)+" is not a time: write it with an offset, as in \"2026-12-24T18:00:00+01:00\", or without "+
			"one, as in \"2026-12-24T18:00\", to mean the local time of the timezone")
	case at.Nanosecond() != 0:
		return refuse("whole_seconds", "must be a whole second")
	case at.Unix() < 0 || at.Unix() > maxUnix:
		return refuse("range", "must be in the years 1970 to 9999")
	}
	return at.UTC(), nil
}

// fromLocal returns the first instant at which clocks in the zone show the local time, or the end of the gap that it is in.
func fromLocal(local int64, loc *time.Location) time.Time {
	s := Schedule{loc: loc}
	for st := s.firstStretch(local - 2*lookBack); ; st = s.following(st) {
		switch {
		case local < st.localStart():
			return time.Unix(st.start, 0) // skipped on the way here
		case local < st.end+st.offset || st.end > maxUnix:
			return time.Unix(local-st.offset, 0)
		}
	}
}
