package cron

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// Preview is Parse for somebody who tries expressions out: it also takes one that never fires, which Parse refuses. never
// then says why in one sentence, and is empty otherwise. Of a schedule that never fires only the description means
// anything: its warnings are about days that it does not have.
func Preview(expr, zone string) (s *Schedule, never string, err error) {
	s, err = Parse(expr, zone)
	var refused *Error
	if !errors.As(err, &refused) || refused.Rule != "never_fires" {
		return s, "", err
	}
	// The fields are legal one by one, and in some month each day exists: read them with any month, then put theirs back.
	parts := strings.Fields(expr)
	anyMonth := slices.Clone(parts)
	anyMonth[3] = "*"
	if s, err = parseFields(anyMonth); err != nil {
		return nil, "", err
	}
	if s.month, _, err = monthSpec.parse(parts[3]); err != nil {
		return nil, "", err
	}
	if s.zone, s.loc, err = loadZone(zone); err != nil {
		return nil, "", err
	}
	return s, "This never fires, because " + dateWords(s.dayOfMonth) + " cannot fall in " + monthWords(s.month) +
		". A definition with this expression is refused; choose another day or month.", nil
}

// TimeNote says what a change of the clocks means for a single due time, in one sentence: empty when nothing is special,
// when the text has an offset, and for what ParseTime refuses.
func TimeNote(text, zone string) string {
	at, err := ParseTime(text, zone)
	if err != nil {
		return ""
	}
	for _, layout := range localLayouts {
		local, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		// The expression of fixed times that is due at this minute of the local clock.
		s := &Schedule{
			minute: 1 << local.Minute(), hour: 1 << local.Hour(), dayOfMonth: 1 << local.Day(), month: 1 << local.Month(),
			dayOfWeek: allDaysOfWeek,
		}
		if s.zone, s.loc, err = loadZone(zone); err != nil {
			return ""
		}
		return s.Note(at.Truncate(time.Minute))
	}
	return ""
}
