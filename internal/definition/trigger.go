package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/condition"
	"github.com/activity-core/activity-core/internal/cron"
)

// TriggerType says what makes a definition due.
type TriggerType string

// The trigger types. Every definition can also be triggered by hand; TriggerManual ones by hand alone.
const (
	TriggerCron   TriggerType = "cron"
	TriggerEvent  TriggerType = "event"
	TriggerManual TriggerType = "manual"
	// TriggerScheduled is due once, at run_at: a cron definition with one slot.
	TriggerScheduled TriggerType = "scheduled"
)

// TriggerTypes lists every trigger type.
var TriggerTypes = []TriggerType{TriggerCron, TriggerScheduled, TriggerEvent, TriggerManual}

// Misfire policies: what becomes of a slot that is more than [LateAfter] late.
const (
	MisfireSkip     = "skip"     // recorded as missed
	MisfireCompress = "compress" // only the newest of the late ones runs
	MisfireCatchup  = "catchup"  // all run, within the misfire window
)

// Bounds of a trigger.
const (
	MaxEventType         = 200               // characters
	MaxFilters           = 50                // places that all filters name
	MaxCondition         = condition.MaxText // bytes
	MaxJitter            = 24 * time.Hour
	DefaultMisfireWindow = 24 * time.Hour
	MaxMisfireWindow     = 30 * 24 * time.Hour
)

// Trigger is the "trigger_config" of a definition: the type and the fields of that type. A field of another type is
// refused.
type Trigger struct {
	Type TriggerType `json:"trigger_type"`

	// Of cron. The expression means what standard cron means, in the zone (IANA name, default UTC).
	CronExpression string     `json:"cron_expression,omitempty"`
	StartAt        *time.Time `json:"start_at,omitempty"` // no slot before it
	EndAt          *time.Time `json:"end_at,omitempty"`   // no slot after it

	// Of scheduled: the one slot, an RFC 3339 time, or one without an offset, which the zone then gives.
	RunAt string `json:"run_at,omitempty"`

	// Of both.
	Timezone      string   `json:"timezone,omitempty"`
	MisfirePolicy string   `json:"misfire_policy,omitempty"`
	MisfireWindow Duration `json:"misfire_window,omitzero"`
	Jitter        Duration `json:"jitter,omitzero"`

	// Of event: its type, exact or with wildcards (see CheckEventPattern), and places of the payload with the values that
	// they must all have, by JSON equality (see FilterPlaces).
	EventType string                     `json:"event_type,omitempty"`
	Filters   map[string]json.RawMessage `json:"filters,omitempty"`
	// Condition is a CEL expression over the event that must be true as well; see docs/conditions.md.
	Condition string `json:"condition,omitempty"`
}

// Schedule parses the cron expression. It fails only for a trigger that did not come through validation.
func (t *Trigger) Schedule() (*cron.Schedule, error) {
	return cron.Parse(t.CronExpression, t.Timezone)
}

// RunTime returns the one slot of a scheduled trigger. It fails only for a trigger that did not come through validation.
func (t *Trigger) RunTime() (time.Time, error) {
	return cron.ParseTime(t.RunAt, t.Timezone)
}

// InWindow reports whether a time lies within StartAt and EndAt, both inclusive.
func (t *Trigger) InWindow(at time.Time) bool {
	return (t.StartAt == nil || !at.Before(*t.StartAt)) && (t.EndAt == nil || !at.After(*t.EndAt))
}

// CheckEventType tells in one sentence what is wrong with an event type; "" when nothing is.
func CheckEventType(s string) string {
	switch {
	case s == "":
		return "must not be empty"
	case len(s) > MaxEventType:
		return "must be at most 200 characters long"
	case strings.ContainsAny(s, "*>"):
		return "must be one exact type, without wildcards"
	case !isEventType(s):
		return "must be lower-case words of a-z, 0-9, _ and - joined by dots, as in user.created"
	}
	return ""
}

// CheckEventPattern tells in one sentence what is wrong with the event type of a definition or a replay, which is exact or a
// wildcard as in NATS: * stands for exactly one word, and > at the end for one or more words. It is "" when nothing is.
func CheckEventPattern(s string) string {
	if len(s) > MaxEventType || !strings.ContainsAny(s, "*>") {
		return CheckEventType(s)
	}
	words := strings.Split(s, ".")
	for i, word := range words {
		switch {
		case word == "":
			return "must not have an empty word: words are joined by single dots, as in user.*"
		case word == ">" && i < len(words)-1:
			return "may have > only as its last word, where it stands for one or more words, as in user.>"
		case word == "*" || word == ">":
		case strings.ContainsAny(word, "*>"):
			return fmt.Sprintf("has the word %q: a wildcard stands for a whole word, as in user.* or user.>", clip(word, 60))
		case !isEventType(word):
			return "must be lower-case words of a-z, 0-9, _ and -, or the wildcards * and >, joined by dots, as in user.*"
		}
	}
	return ""
}

// isEventType is written out because it is asked for each event: a regular expression would be a sixth of the parsing.
func isEventType(s string) bool {
	after := byte('.')
	for _, c := range []byte(s) {
		word := 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-'
		if !word && (c != '.' || after == '.') {
			return false
		}
		after = c
	}
	return after != '.'
}

// fieldsOf lists the fields that each trigger type may have, besides trigger_type.
var fieldsOf = map[TriggerType][]string{
	TriggerCron: {"cron_expression", "timezone", "misfire_policy", "misfire_window", "jitter", "start_at",
		"end_at"},
	TriggerScheduled: {"run_at", "timezone", "misfire_policy", "misfire_window", "jitter"},
	TriggerEvent:     {"event_type", "filters", "condition"},
	TriggerManual:    {},
}

func (t *Trigger) defaults() {
	if !t.FollowsClock() {
		return
	}
	if t.Timezone == "" {
		t.Timezone = "UTC"
	}
	if t.MisfirePolicy == "" {
		t.MisfirePolicy = MisfireSkip
	}
}

func (t *Trigger) given() []string {
	var out []string
	add := func(name string, given bool) {
		if given {
			out = append(out, name)
		}
	}
	add("cron_expression", t.CronExpression != "")
	add("run_at", t.RunAt != "")
	add("timezone", t.Timezone != "")
	add("misfire_policy", t.MisfirePolicy != "")
	add("misfire_window", t.MisfireWindow != 0)
	add("jitter", t.Jitter != 0)
	add("start_at", t.StartAt != nil)
	add("end_at", t.EndAt != nil)
	add("event_type", t.EventType != "")
	add("filters", t.Filters != nil)
	add("condition", t.Condition != "")
	return out
}

func (t *Trigger) check(f *faults) {
	const path = "trigger_config"
	allowed, known := fieldsOf[t.Type]
	switch {
	case t.Type == "":
		f.add(path+".trigger_type", "required", "is required: one of cron, scheduled, event, manual")
		return
	case !known:
		f.add(path+".trigger_type", "one_of", "%q is not a trigger type: it must be one of cron, scheduled, event, manual",
			clip(string(t.Type), 60))
		return
	}
	for _, name := range t.given() {
		if !slices.Contains(allowed, name) {
			f.add(path+"."+name, "not_of_this_type", "does not belong to a trigger of type %s", t.Type)
		}
	}
	switch t.Type {
	case TriggerCron:
		t.checkCron(path, f)
		t.checkClock(path, f)
	case TriggerScheduled:
		t.checkScheduled(path, f)
		t.checkClock(path, f)
	case TriggerEvent:
		if fault := CheckEventPattern(t.EventType); fault != "" {
			f.add(path+".event_type", "event_type", "%s", fault)
		}
		t.checkFilters(path+".filters", f)
		t.checkCondition(path+".condition", f)
	}
}

func (t *Trigger) checkCron(path string, f *faults) {
	if t.CronExpression == "" {
		f.add(path+".cron_expression", "required", "is required for a cron trigger, as in \"0 9 * * 1-5\"")
	} else if _, err := t.Schedule(); err != nil {
		addCronFault(path, err, f)
	}
	if t.StartAt != nil && t.EndAt != nil && t.EndAt.Before(*t.StartAt) {
		f.add(path+".end_at", "after_start", "must not be before start_at")
	}
}

func (t *Trigger) checkScheduled(path string, f *faults) {
	if t.RunAt == "" {
		f.add(path+".run_at", "required", "is required for a scheduled trigger, as in \"2026-12-24T18:00:00+01:00\", or "+
			"\"2026-12-24T18:00\" in the timezone")
	} else if _, err := t.RunTime(); err != nil {
		addCronFault(path, err, f)
	}
}

func (t *Trigger) checkCondition(path string, f *faults) {
	if t.Condition == "" {
		return
	}
	_, err := condition.Compile(t.Condition)
	var refused *condition.Error
	if errors.As(err, &refused) {
		f.add(path, refused.Rule, "%s", refused.Message)
	} else if err != nil {
		f.add(path, "syntax", "cannot be compiled")
	}
}

func addCronFault(path string, err error, f *faults) {
	var ce *cron.Error
	if errors.As(err, &ce) {
		f.add(path+"."+ce.Field, ce.Rule, "%s", ce.Message)
	} else {
		f.add(path, "syntax", "%s", err)
	}
}

// checkClock checks what cron and scheduled have in common.
func (t *Trigger) checkClock(path string, f *faults) {
	if !slices.Contains([]string{MisfireSkip, MisfireCompress, MisfireCatchup}, t.MisfirePolicy) {
		f.add(path+".misfire_policy", "one_of", "%q is not a misfire policy: it must be one of skip, compress, catchup",
			clip(t.MisfirePolicy, 60))
	}
	checkDuration(f, path+".jitter", t.Jitter, 0, MaxJitter)
	checkDuration(f, path+".misfire_window", t.MisfireWindow, 0, MaxMisfireWindow)
}
