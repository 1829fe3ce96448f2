package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/activity-core/activity-core/internal/cron"
	"github.com/activity-core/activity-core/internal/definition"
)

// How many due times are shown.
const (
	defaultFires = 10
	maxFires     = 1000
)

// localLayout is RFC 3339 with the offset in figures where it is zero too: a local time of London is not UTC.
const localLayout = "2006-01-02T15:04:05-07:00"

type firesOutput struct {
	Body Fires
}

type nextFiresInput struct {
	ID    string     `path:"id" format:"uuid" doc:"The definition's id."`
	Count countParam `query:"count" doc:"How many to return at most."`
}

type previewInput struct {
	fieldsBody[previewFields]
}

type previewFields struct {
	CronExpression string     `json:"cron_expression"`
	Timezone       string     `json:"timezone"`
	Count          *int       `json:"count"`
	From           *time.Time `json:"from"`
}

// nextFires shows the slots that will get their rows: they come from the function that judges them later.
func (a *API) nextFires(ctx context.Context, in *nextFiresInput) (*firesOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	var f faults
	count := in.Count.parse(&f)
	if err := f.err(); err != nil {
		return nil, err
	}
	stored, err := a.store.GetDefinition(ctx, id)
	if err != nil {
		return nil, missing(err, "definition", id)
	}
	if !stored.Trigger.FollowsClock() {
		return nil, noSlots(id, stored.Trigger.Type)
	}
	out, err := firesOf(&stored.Document, a.now(), count)
	if err != nil {
		return nil, fmt.Errorf("next fires of definition %s revision %d: %w", id, stored.Revision, err)
	}
	return &firesOutput{Body: out}, nil
}

// noSlots is the answer to a question about the times of a definition that has none.
func noSlots(id string, trigger definition.TriggerType) *Problem {
	return newProblem(http.StatusConflict, kindNoSlots,
		"definition %s has a trigger of type %s, which has no times of its own; cron and scheduled ones have", id, trigger)
}

// firesOf returns what is due after now by a trigger that follows the clock. It fails for a stored trigger that this version
// cannot read.
func firesOf(d *definition.Document, now time.Time, count int) (Fires, error) {
	t := &d.Trigger
	slots, err := t.Slots()
	if err != nil {
		return Fires{}, err
	}
	var times []time.Time
	if d.Enabled {
		times = upTo(count, slots.Next, now)
	}
	out := Fires{Warnings: whyFew(d, now, len(times), count)}
	if t.Jitter > 0 && len(times) > 0 {
		out.Warnings = append(out.Warnings,
			fmt.Sprintf("Each run starts up to %s later than shown, at random: the times are nominal.", t.Jitter))
	}
	if t.Type == definition.TriggerScheduled {
		at, err := t.RunTime()
		if err != nil {
			return Fires{}, err
		}
		local := at.In(location(t.Timezone))
		out.Description = fmt.Sprintf("Once, on %s (%s)", local.Format("2006-01-02 at 15:04:05"), local.Location())
		out.Fires = firesJSON(times, t.Timezone, func(time.Time) string { return cron.TimeNote(t.RunAt, t.Timezone) })
		return out, nil
	}
	schedule, err := t.Schedule()
	if err != nil {
		return Fires{}, err
	}
	out.Description = schedule.Describe()
	out.Warnings = append(out.Warnings, schedule.Warnings()...)
	out.Fires = firesJSON(times, t.Timezone, schedule.Note)
	return out, nil
}

// whyFew says why nothing, or less than was asked for, is due.
func whyFew(d *definition.Document, now time.Time, shown, count int) []string {
	out := []string{}
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !d.Enabled {
		why := ""
		if d.PauseReason != "" {
			why = " (" + d.PauseReason + ")"
		}
		warn("The definition is disabled%s: nothing is due until it is enabled, with POST /activity-definitions/{id}/resume.", why)
	}
	t := &d.Trigger
	switch start, end := t.StartAt, t.EndAt; {
	case t.Type == definition.TriggerScheduled:
		if at, err := t.RunTime(); err == nil && !at.After(now) {
			warn("run_at (%s) is past: nothing is due any more.", rfc3339(at))
		}
	case end != nil && end.Before(now):
		warn("end_at (%s) is past: nothing is due any more.", rfc3339(*end))
	case start != nil && start.After(now):
		warn("Nothing is due before start_at (%s).", rfc3339(*start))
	}
	switch end := t.EndAt; {
	case !d.Enabled || t.Type == definition.TriggerScheduled || shown == count || end != nil && end.Before(now):
	case end == nil:
		warn("No more times come before the year 10000.")
	case shown == 0:
		warn("No time of the expression comes before end_at (%s): nothing is due any more.", rfc3339(*end))
	default:
		warn("These are the last times: nothing is due after end_at (%s).", rfc3339(*end))
	}
	return out
}

// previewCron answers what an expression means, stored or not.
func (a *API) previewCron(_ context.Context, in *previewInput) (*firesOutput, error) {
	given := in.given
	var f faults
	count, from := defaultFires, a.now()
	if given.Count != nil {
		if count = *given.Count; count < 1 || count > maxFires {
			f.add("count", "range", "must be from 1 to %d", maxFires)
		}
	}
	if given.From != nil {
		if from = *given.From; from.Unix() < 0 || from.UTC().Year() > 9999 {
			f.add("from", "range", "must be in the years 1970 to 9999")
		}
	}
	var schedule *cron.Schedule
	var never string
	if given.CronExpression == "" {
		f.add("cron_expression", "required", `is required, as in "0 9 * * 1-5"`)
	} else {
		var err error
		var refused *cron.Error
		if schedule, never, err = cron.Preview(given.CronExpression, given.Timezone); errors.As(err, &refused) {
			f.add(refused.Field, refused.Rule, "%s", refused.Message)
		} else if err != nil {
			return nil, err
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	out := Fires{Description: schedule.Describe()}
	if never != "" {
		out.Fires, out.Warnings = []Fire{}, []string{never}
		return &firesOutput{Body: out}, nil
	}
	times := upTo(count, schedule.Next, from.Add(-1)) // from itself counts
	out.Fires = firesJSON(times, schedule.Zone(), schedule.Note)
	out.Warnings = append([]string{}, schedule.Warnings()...)
	if len(times) < count {
		out.Warnings = append(out.Warnings, "No more times come before the year 10000.")
	}
	return &firesOutput{Body: out}, nil
}

// upTo returns the first times after the given one, at most count of them.
func upTo(count int, next func(time.Time) (time.Time, bool), after time.Time) []time.Time {
	var times []time.Time
	for len(times) < count {
		at, ok := next(after)
		if !ok {
			break
		}
		times, after = append(times, at), at
	}
	return times
}

func firesJSON(times []time.Time, zone string, note func(time.Time) string) []Fire {
	loc := location(zone)
	out := make([]Fire, len(times))
	for i, at := range times {
		out[i] = Fire{UTC: rfc3339(at), Local: at.In(loc).Format(localLayout), Note: optional(note(at))}
	}
	return out
}

// location returns a zone whose name was checked before.
func location(zone string) *time.Location {
	if loc, err := time.LoadLocation(zone); err == nil {
		return loc
	}
	return time.UTC
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
