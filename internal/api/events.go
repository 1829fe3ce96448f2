package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/match"
	"github.com/danielgtaylor/huma/v2"
)

// maxTestResults is the most entries of each list in the answer to a test.
const maxTestResults = 100

const cloudEventType = "application/cloudevents+json"

type testEventInput struct {
	eventBody
	At timeParam `query:"at" doc:"When the event is published. Default: now."`
}

type testedEventOutput struct {
	Body EventTest
}

type eventIDInput struct {
	EventID eventIDParam `path:"event_id" doc:"The event's id; its slashes percent-encoded or as they are." example:"order/7"`
}

type eventOutput struct {
	Body EventHistory
}

// eventBody is embedded by inputs whose body is a message of the event stream.
type eventBody struct {
	data     []byte
	mode     string // the Content-Type
	tooLarge bool   // then data is empty
}

// Resolve reads the body. What is wrong with it is for the handler to tell.
func (b *eventBody) Resolve(ctx huma.Context) []error {
	b.mode = ctx.Header("Content-Type")
	data, err := readBody(ctx, definition.MaxEvent, jsonType, cloudEventType)
	var p *Problem
	if b.tooLarge = errors.As(err, &p) && p.Status == http.StatusRequestEntityTooLarge; b.tooLarge {
		return nil
	}
	if err != nil {
		return []error{err}
	}
	b.data = data
	return nil
}

// event reads the message as a router does that gets it on the subject of its type.
func (b *eventBody) event() (definition.Event, *definition.Reject) {
	if b.tooLarge {
		return definition.Event{}, &definition.Reject{Reason: definition.RejectTooLarge,
			Detail: "the message is larger than 1 MiB, which is the most that an event may have"}
	}
	var envelope struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(b.data, &envelope) // what is wrong is found below
	const prefix = definition.DefaultSubjectPrefix
	return definition.ParseMessage(prefix+"."+envelope.Type, map[string][]string{"Content-Type": {b.mode}}, b.data, prefix)
}

// testEvent routes an event without storing or starting anything. One that would be a dead letter is an answer, too.
func (a *API) testEvent(ctx context.Context, in *testEventInput) (*testedEventOutput, error) {
	var f faults
	at := in.At.parse("at", &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	if at.IsZero() {
		at = a.now()
	}
	out := EventTest{PublishedAt: at.UTC(), Matches: []EventMatch{}, Errors: []EventFault{}, NearMisses: []NearMiss{}}
	e, fault := in.event()
	if fault != nil {
		reason := rejectReason(fault.Reason)
		out.Outcome, out.Reason, out.Detail = testDeadLetter, &reason, &fault.Detail
		return &testedEventOutput{Body: out}, nil
	}
	definitions, err := a.store.EventDefinitions(ctx, e.Type)
	if err != nil {
		return nil, err
	}
	out.Event = &TestedEvent{
		EventID: e.ID, Type: e.Type, Source: optional(e.Source), Subject: optional(e.Subject), TraceID: optional(e.TraceID),
	}
	if !e.OccurredAt.IsZero() {
		out.Event.OccurredAt = utc(&e.OccurredAt)
	}
	for _, r := range definitions {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out.add(r, match.Explain(r, &e, at))
	}
	out.finish()
	return &testedEventOutput{Body: out}, nil
}

// add puts a definition where it belongs.
func (t *EventTest) add(r definition.Routable, x match.Explanation) {
	which := EventMatch{DefinitionID: r.ID, Name: r.Name, Revision: r.Revision}
	switch {
	case x.Err != "":
		t.Errors = append(t.Errors, EventFault{which, x.Err})
	case x.Matches:
		t.Matches = append(t.Matches, which)
	default:
		t.NearMisses = append(t.NearMisses, NearMiss{which, x.Clause, x.Expected, x.Found})
	}
}

// finish sorts and counts what was found, and cuts it.
func (t *EventTest) finish() {
	slices.SortStableFunc(t.NearMisses, func(a, b NearMiss) int {
		return cmp.Or(cmp.Compare(missRank(a.FailedClause), missRank(b.FailedClause)), cmp.Compare(a.Name, b.Name))
	})
	t.Outcome = testUnmatched
	if len(t.Matches) > 0 {
		t.Outcome = testMatched
	}
	t.Matches, t.MatchesTotal, t.MatchesTruncated = cutTo(maxTestResults, t.Matches)
	t.Errors, t.ErrorsTotal, t.ErrorsTruncated = cutTo(maxTestResults, t.Errors)
	t.NearMisses, t.NearMissesTotal, t.NearMissesTruncated = cutTo(maxTestResults, t.NearMisses)
}

// missRank says how near a miss is: the more clauses hold before the one that does not, the nearer.
func missRank(clause string) int {
	switch {
	case clause == "condition":
		return 0
	case strings.HasPrefix(clause, "filters."):
		return 1
	case clause == "enabled_since":
		return 2
	case clause == "enabled":
		return 3
	}
	return 4 // of another type
}

func cutTo[T any](most int, all []T) (some []T, total int, truncated bool) {
	return all[:min(len(all), most)], len(all), len(all) > most
}

// getEvent tells what became of an event.
func (a *API) getEvent(ctx context.Context, in *eventIDInput) (*eventOutput, error) {
	var f faults
	id := in.EventID.parse("event_id", &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	h, err := a.store.GetEvent(ctx, id)
	if err != nil {
		return nil, err
	}
	if h.Record == nil && h.RunsTotal == 0 && len(h.DeadLetters) == 0 {
		return nil, unknownEvent(id, h.UnmatchedSince)
	}
	return &eventOutput{Body: eventHistoryJSON(h)}, nil
}

// unknownEvent is the answer to an id of which nothing is known. What that means depends on what is recorded.
func unknownEvent(id string, unmatchedSince *time.Time) *Problem {
	if unmatchedSince == nil {
		return newProblem(http.StatusNotFound, kindNotFound,
			"nothing is known of event %s: events that match nothing are not recorded (ACTCORE_RECORD_UNMATCHED=true on the router "+
				"turns that on), so it matched nothing, or it never came", id)
	}
	return newProblem(http.StatusNotFound, kindNotFound,
		"nothing is known of event %s: events that match nothing are recorded since %s, so it never came, or it came before that "+
			"or so long ago that its record was removed", id, rfc3339(*unmatchedSince))
}

func eventHistoryJSON(h definition.EventHistory) EventHistory {
	out := EventHistory{
		EventID: h.ID, Outcome: eventDeadLetter, Runs: make([]RunSummary, len(h.Runs)), RunsTotal: h.RunsTotal,
		DeadLetters: deadLetterSummaries(h.DeadLetters),
	}
	for i, r := range h.Runs {
		out.Runs[i] = runSummaryJSON(r)
	}
	if len(h.Runs) > 0 {
		out.Type = optional(h.Runs[0].EventType)
	}
	if r := h.Record; r != nil {
		out.Outcome = eventMatchedNothing
		out.Type, out.Source = optional(r.Type), optional(r.Source)
		out.Stream, out.StreamSeq, out.PublishedAt = optional(r.Stream), &r.StreamSeq, utc(&r.PublishedAt)
	}
	if h.RunsTotal > 0 || h.Record != nil && h.Record.Matches > 0 {
		out.Outcome = eventRouted
	}
	return out
}
