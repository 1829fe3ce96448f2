package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/failpoint"
	"github.com/activity-core/activity-core/internal/match"
)

// refresh brings the table up to date.
//
// Everything is loaded at the start, once a day, and after any failure: Postgres may have come back as another server, to
// which the old snapshot means nothing. That is also the case when its transaction ids went back.
func (r *Router) refresh(ctx context.Context) error {
	prev, limit := r.snapshot, storeTimeout
	if time.Since(r.loadedAt) > fullLoad {
		prev = ""
	}
	if prev == "" {
		limit = fullLoadTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	snapshot, changed, err := r.o.Store.ChangedDefinitions(ctx, prev)
	if err == nil && prev != "" && wentBack(prev, snapshot) {
		prev = ""
		snapshot, changed, err = r.o.Store.ChangedDefinitions(ctx, prev)
	}
	if err != nil {
		r.snapshot = ""
		return err
	}
	table := r.table.Load()
	if prev == "" {
		table, r.loadedAt = &match.Table{}, time.Now()
	}
	table, err = table.Apply(changed)
	if err != nil {
		// The faults of some definitions are no reason to stop the others.
		r.o.Log.Error("definitions cannot be matched", "error", err)
	}
	r.snapshot = snapshot
	r.table.Store(table)
	r.metrics.definitions.Set(float64(table.Len()))
	return nil
}

// wentBack reports whether the later of two snapshots ("xmin:xmax:…@server/timeline") is of another server or timeline, or knows
// fewer transactions.
func wentBack(earlier, later string) bool {
	_, serverBefore, _ := strings.Cut(earlier, "@")
	if _, serverAfter, _ := strings.Cut(later, "@"); serverBefore != serverAfter {
		return true
	}
	before, okBefore := xmax(earlier)
	after, okAfter := xmax(later)
	return !okBefore || !okAfter || after < before
}

func xmax(snapshot string) (uint64, bool) {
	parts := strings.SplitN(snapshot, ":", 3)
	if len(parts) < 2 {
		return 0, false
	}
	n, err := strconv.ParseUint(parts[1], 10, 64)
	return n, err == nil
}

// decision is what is to be done about one delivery: a dead letter when reject is set, or else a row for each definition
// that the event meets.
type decision struct {
	event       definition.Event
	occurrences []definition.Occurrence
	reject      *definition.Reject
}

// decide is the whole verdict about a delivery. It is pure. After a panic the decision holds what was found out before.
func (v *decision) decide(table *match.Table, prefix string, d *definition.Delivery) {
	if v.event, v.reject = definition.ParseMessage(d.Subject, d.Header, d.Data, prefix); v.reject != nil {
		return
	}
	met, err := table.Match(&v.event, d.PublishedAt)
	if err != nil {
		v.reject = &definition.Reject{Reason: definition.RejectNotJSON, Detail: err.Error()}
		return
	}
	for _, m := range met {
		v.occurrences = append(v.occurrences, occurrence(&v.event, m))
	}
}

// decideSafely makes a dead letter of a message at which decide panics, so that a fault of ours costs one message and not the
// router.
func (r *Router) decideSafely(table *match.Table, d *definition.Delivery) (v decision) {
	defer func() {
		if fault := recover(); fault != nil {
			r.o.Log.Error("routing a message failed", "stream_seq", d.StreamSeq, "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			v.reject = &definition.Reject{Reason: definition.RejectInternalError,
				Detail: "the router failed at this message; its log tells more"}
		}
	}()
	v.decide(table, r.o.SubjectPrefix, d)
	return v
}

func occurrence(e *definition.Event, met match.Met) definition.Occurrence {
	o := definition.Occurrence{
		DefinitionID: met.ID, Revision: met.Revision, Kind: definition.KindEvent, Key: definition.EventKey(e.ID),
		Input: e.Raw, EventID: e.ID, EventType: e.Type, TraceID: e.TraceID, Depth: e.Depth,
	}
	if met.Err != nil {
		o.ConditionError = met.Err.Error()
		return o
	}
	met.Keyer.Set(context.Background(), &o) // bounded by what the expression may cost
	return o
}

// record is what is kept of an event. The error is a fault of ours.
func record(d *definition.Delivery, e *definition.Event, matches int) (definition.EventRecord, error) {
	digest, err := match.Digest(e)
	return definition.EventRecord{
		ID: e.ID, Type: e.Type, Source: e.Source, Digest: digest,
		Stream: d.Stream, StreamSeq: d.StreamSeq, PublishedAt: d.PublishedAt, Matches: matches,
	}, err
}

func deadLetter(d *definition.Delivery, eventID string, reject *definition.Reject) definition.DeadLetter {
	return definition.DeadLetter{
		Stream: d.Stream, StreamSeq: d.StreamSeq, PublishedAt: d.PublishedAt, Subject: d.Subject, Header: d.Header, EventID: eventID,
		Reason: reject.Reason, Detail: reject.Detail,
		// Never nil: an empty message is stored as empty.
		Data: append([]byte{}, d.Data[:min(len(d.Data), definition.MaxDeadLetterData)]...), DataSize: len(d.Data),
		Deliveries: d.Deliveries,
	}
}

// reused is the verdict about an event whose id names another event.
func reused(eventID string) *definition.Reject {
	return &definition.Reject{Reason: definition.RejectEventIDReused, Detail: fmt.Sprintf("an event with the id %s and another source, type or "+
		"payload came before: an id names one event for good, so give this one its own", eventID)}
}

// routeBatch decides on each delivery, commits what was decided, and hands the new runs to the pool. It returns an error
// only when ctx ended before all was committed.
func (r *Router) routeBatch(ctx context.Context, b *batch) error {
	if err := r.retry(ctx, "look for changed definitions", &r.fault, r.refresh); err != nil {
		return err
	}
	fresh, suspects := make([]*item, 0, len(b.items)), []*item(nil)
	for i := range b.items {
		if it := &b.items[i]; it.Deliveries >= suspectDeliveries {
			suspects = append(suspects, it)
		} else {
			fresh = append(fresh, it)
		}
	}
	if err := r.routeItems(ctx, fresh); err != nil || len(suspects) == 0 {
		return err
	}
	return r.routeSuspects(ctx, suspects)
}

// routeItems decides on, commits and settles items; one that is a dead letter already is not decided on again.
func (r *Router) routeItems(ctx context.Context, items []*item) error {
	table := r.table.Load()
	rows := rows{}
	var unmatched, matched, errored float64
	for _, it := range items {
		if it.reject != nil {
			continue
		}
		failpoint.HitAt("route", it.Subject)
		verdict := r.decideSafely(table, &it.Delivery)
		it.eventID, it.reject = verdict.event.ID, verdict.reject
		switch {
		case verdict.reject != nil:
			continue
		case len(verdict.occurrences) == 0:
			unmatched++
			it.outcome = definition.OutcomeUnmatched
			if !r.o.RecordUnmatched {
				continue
			}
		default:
			matched++
			it.outcome, it.matches = definition.OutcomeRouted, len(verdict.occurrences)
		}
		for _, o := range verdict.occurrences {
			if o.ConditionError != "" {
				errored++
			}
		}
		if err := r.add(ctx, &rows, it, &verdict); err != nil {
			return err
		}
	}
	r.metrics.matched.Add(matched)
	r.metrics.unmatched.Add(unmatched)
	r.metrics.conditionErrors.Add(errored)
	if err := r.commit(ctx, &rows); err != nil {
		return err
	}
	if err := r.commitDead(ctx, items); err != nil {
		return err
	}
	now := time.Now()
	for _, it := range items {
		r.done(it, now)
	}
	return nil
}

// add puts an event and its occurrences into rows, which are committed whenever they are full.
func (r *Router) add(ctx context.Context, s *rows, it *item, verdict *decision) error {
	known, err := record(&it.Delivery, &verdict.event, len(verdict.occurrences))
	if err != nil {
		it.reject = &definition.Reject{Reason: definition.RejectInternalError, Detail: err.Error()}
		return nil
	}
	if !s.event(it, known) {
		// Which of them the id names may be settled already: storage knows, once the first of them is there.
		if err := r.commit(ctx, s); err != nil {
			return err
		}
		s.event(it, known)
	}
	for _, o := range verdict.occurrences {
		if s.full() {
			if err := r.commit(ctx, s); err != nil {
				return err
			}
			if it.reject != nil {
				return nil
			}
			s.event(it, known)
		}
		s.occurrence(it, o)
	}
	return nil
}

// rows are the events and occurrences of one transaction.
type rows struct {
	events      map[string]definition.EventRecord
	items       map[string][]*item // by event
	occurrences []definition.Occurrence
	bytes       int
}

// event adds an event, and reports false when it is another one than that which is there with its id.
func (s *rows) event(it *item, e definition.EventRecord) bool {
	if s.events == nil {
		s.events, s.items = map[string]definition.EventRecord{}, map[string][]*item{}
	}
	if there, ok := s.events[e.ID]; !ok || there.Matches < e.Matches && there.Same(&e) {
		s.events[e.ID] = e
	} else if !there.Same(&e) {
		return false
	}
	s.items[e.ID] = append(s.items[e.ID], it)
	return true
}

func (s *rows) occurrence(it *item, o definition.Occurrence) {
	s.occurrences, s.bytes = append(s.occurrences, o), s.bytes+len(o.Input)
}

func (s *rows) full() bool { return len(s.occurrences) >= maxRows || s.bytes >= maxRowBytes }

// commit records the rows and hands the new ones to the pool, which may wait for a place there.
func (r *Router) commit(ctx context.Context, s *rows) error {
	if len(s.events) == 0 {
		return nil
	}
	starts, others, err := r.record(ctx, slices.Collect(maps.Values(s.events)), s.occurrences)
	if errors.Is(err, definition.ErrNotStorable) {
		starts, others, err = r.recordSingly(ctx, s)
	}
	if err != nil {
		return err
	}
	for _, eventID := range others {
		for _, it := range s.items[eventID] {
			it.reject = reused(eventID)
		}
	}
	for _, st := range starts {
		// Two deliveries may carry the same event; either may wait for its start.
		eventID, _ := definition.ParseEventKey(st.Key)
		it := s.items[eventID][0]
		it.open.Add(1)
		select {
		case r.starts <- start{it, st}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	*s = rows{}
	return nil
}

// record tries until the rows are committed, are known to be not storable, or ctx ends. It returns the rows that are to be started,
// and the ids of events that are others than those which are recorded with their ids.
func (r *Router) record(ctx context.Context, events []definition.EventRecord, occurrences []definition.Occurrence) (
	starts []definition.Start, others []string, err error) {
	notStorable := false
	err = r.retry(ctx, "record runs", &r.fault, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		var err error
		starts, others, err = r.o.Ledger.RecordEvents(ctx, events, occurrences)
		if notStorable = errors.Is(err, definition.ErrNotStorable); notStorable {
			return nil
		}
		return err
	})
	if err == nil && notStorable {
		return nil, nil, definition.ErrNotStorable
	}
	return starts, others, err
}

// recordSingly records event by event and row by row, so that the one that is refused does not keep the others; its event becomes
// a dead letter.
func (r *Router) recordSingly(ctx context.Context, s *rows) (starts []definition.Start, others []string, err error) {
	for id, e := range s.events {
		mine := slices.DeleteFunc(slices.Clone(s.occurrences), func(o definition.Occurrence) bool { return o.EventID != id })
		parts := [][]definition.Occurrence{nil}
		if len(mine) > 0 {
			parts = slices.Collect(slices.Chunk(mine, 1))
		}
		for _, part := range parts {
			started, other, err := r.record(ctx, []definition.EventRecord{e}, part)
			switch {
			case errors.Is(err, definition.ErrNotStorable):
				what := "the event"
				if len(part) > 0 {
					what = "the run of definition " + part[0].DefinitionID + " for this event"
				}
				for _, it := range s.items[id] {
					it.reject = &definition.Reject{Reason: definition.RejectNotStorable, Detail: "the database refuses " + what}
				}
			case err != nil:
				return nil, nil, err
			}
			starts, others = append(starts, started...), append(others, other...)
		}
	}
	return starts, others, nil
}

// commitDead commits the dead letters among the items.
func (r *Router) commitDead(ctx context.Context, items []*item) error {
	var letters []definition.DeadLetter
	for _, it := range items {
		if it.reject != nil {
			letters = append(letters, deadLetter(&it.Delivery, it.eventID, it.reject))
			it.outcome = definition.OutcomeDead
		}
	}
	if len(letters) == 0 {
		return nil
	}
	err := r.retry(ctx, "store dead letters", &r.fault, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		return r.o.Store.AcceptDeadLetters(ctx, letters)
	})
	if err != nil {
		return err
	}
	for _, l := range letters {
		r.metrics.dead.WithLabelValues(l.Reason).Inc()
	}
	r.o.Log.Warn("events became dead letters", "count", len(letters), "first_stream_seq", letters[0].StreamSeq,
		"first_reason", letters[0].Reason, "first_detail", letters[0].Detail)
	return nil
}
