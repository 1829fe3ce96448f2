// Package cron says when a cron expression is due. It parses, explains what it
// refuses, computes slots (due times), describes an expression in plain words and
// compiles it to structured calendars. It knows no clock, no database and no
// scheduler: the same arguments always give the same answer.
//
// An expression means what it means to Vixie cron as cronie maintains it:
//
//   - Exactly five fields: minute, hour, day of month, month, day of week. Lists,
//     ranges and steps (*/n, a-b/n); three-letter names for months and days in any
//     case; 7 is Sunday. Also @yearly, @annually, @monthly, @weekly, @daily,
//     @midnight and @hourly.
//   - A field that begins with * is not restricted, even with a step. When both day
//     fields are restricted a day need only match one of them, otherwise it has to
//     match both.
//   - Where clocks change by less than three hours (daylight saving), an expression
//     whose minute or hour begins with * follows real time: it fires at every
//     real minute whose local time matches, also in the repeated hour. Any other
//     expression names fixed times: one in the repeated hour fires at its first pass
//     only, one in the skipped hour fires at the first instant after it, and several
//     in the same skipped hour make one slot.
//   - A larger change (a country that moves across the date line) is not daylight
//     saving: the clock starts over, what was skipped stays skipped.
//
// Beyond cronie there is "@every D", which ignores the time zone and counts from
// 1970-01-01 00:00 UTC, so that its slots do not depend on when anybody looked.
//
// The fields are parsed here and not by a cron library. The common Go parser accepts
// "?", "1,,2" and "*-5", refuses 7 and ranges such as 5-7, takes "*/2" as restricted,
// reads zones out of the expression, panics on some input and computes daylight
// saving differently; every one of its answers would have to be checked first, and
// the checks are a parser. The tests use it as a second opinion where both agree.
package cron

import (
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // the zones, also in an image or on a machine without them
)

const (
	// MaxLength is the longest accepted expression in bytes.
	MaxLength = 200
	// MaxEvery is the longest period of @every.
	MaxEvery = 366 * 24 * time.Hour

	maxZoneLength = 64
)

// FieldExpression and FieldZone are the values of Error.Field.
const (
	FieldExpression = "cron_expression"
	FieldZone       = "timezone"
)

// Error says why an expression or a time zone was refused.
type Error struct {
	// Field is the input at fault: FieldExpression or FieldZone.
	Field string
	// Rule is a short word for programs, such as "six_fields" or "unknown_zone".
	Rule string
	// Message is one sentence or two for the user: what, why, and what to write instead.
	Message string
}

// Error returns the field and the message.
func (e *Error) Error() string { return e.Field + ": " + e.Message }

// Schedule is a parsed expression in its time zone. It is immutable and safe for
// concurrent use. The zero value is not usable; Parse makes one.
type Schedule struct {
	zone string
	loc  *time.Location

	// every is the period in seconds of an @every expression, else 0; then the
	// fields below are unused.
	every int64

	minute, hour, dayOfMonth, month, dayOfWeek field
	// eitherDay: both day fields are restricted, a day has to match only one.
	eitherDay bool
	// realTime: minute or hour begins with *, so the expression follows real time
	// through a change of the clocks.
	realTime bool
	// stepWarnings are about steps as they were written, which the sets do not show.
	stepWarnings []string
}

// Parse reads an expression and the IANA name of its time zone; the empty zone is
// UTC. Its errors are *Error. Zones come from the time zone database that the
// binary or the machine provides.
func Parse(expr, zone string) (*Schedule, error) {
	s, err := parseExpression(expr)
	if err != nil {
		return nil, err
	}
	s.zone, s.loc, err = loadZone(zone)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Zone returns the IANA name of the time zone, "UTC" when none was given.
func (s *Schedule) Zone() string { return s.zone }

// Every returns the period of an @every expression, and whether it is one. Its slots
// are the whole multiples of the period since 1970-01-01 00:00 UTC.
func (s *Schedule) Every() (time.Duration, bool) {
	return time.Duration(s.every) * time.Second, s.every > 0
}

// zones keeps each loaded zone once, by name: thousands of definitions share a few
// zones. Only names that exist get in, so it stays small.
var zones sync.Map // string → *time.Location

func loadZone(name string) (string, *time.Location, error) {
	if name == "" || name == "UTC" {
		return "UTC", time.UTC, nil
	}
	if loc, ok := zones.Load(name); ok {
		return name, loc.(*time.Location), nil
	}
	refuse := func(rule, message string) (string, *time.Location, error) {
		return "", nil, &Error{Field: FieldZone, Rule: rule, Message: message}
	}
	switch {
	case strings.EqualFold(name, "local"), name == "localtime":
		return refuse("local_zone", quote(name)+" depends on the machine that reads it, so the same definition "+
			"would fire at different times on different machines; name the zone, for example Europe/Berlin")
	case strings.HasPrefix(name, "posix/"), strings.HasPrefix(name, "right/"), name == "posixrules":
		return refuse("unknown_zone", quote(name)+" is a file of some machines, not the name of a time zone; "+
			"use the plain IANA name, for example Europe/Berlin")
	}
	var loc *time.Location
	if plausibleZone(name) {
		loc, _ = time.LoadLocation(name)
	}
	if loc == nil {
		hint := ""
		if better := respellZone(name); better != name && plausibleZone(better) {
			if _, err := time.LoadLocation(better); err == nil {
				hint = " (did you mean " + better + "?)"
			}
		}
		return refuse("unknown_zone", quote(name)+" is not a known time zone"+hint+
			"; use an IANA name such as Europe/Berlin or America/New_York, not an offset, or leave it empty for UTC")
	}
	kept, _ := zones.LoadOrStore(name, loc)
	return name, kept.(*time.Location), nil
}

// plausibleZone keeps odd names away from the file system that LoadLocation reads.
func plausibleZone(name string) bool {
	if name == "" || len(name) > maxZoneLength {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			i > 0 && (c == '/' || c == '_' || c == '+' || c == '-')) {
			return false
		}
	}
	return true
}

// respellZone guesses the usual capitals and underscores: "europe/berlin" and
// "america/new york" become Europe/Berlin and America/New_York, "utc" becomes UTC.
func respellZone(name string) string {
	if strings.EqualFold(strings.TrimSpace(name), "utc") {
		return "UTC"
	}
	b := []byte(strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), " ", "_"))
	for i, c := range b {
		if c >= 'a' && c <= 'z' && (i == 0 || b[i-1] == '/' || b[i-1] == '_' || b[i-1] == '-') {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}
