package router

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
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

// wentBack reports whether the later of two snapshots ("xmin:xmax:…") knows fewer transactions: another timeline.
func wentBack(earlier, later string) bool {
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
	event  definition.Event
	met    []match.Met
	reject *definition.Reject
}

// decide is the whole verdict about a delivery. It is pure.
func decide(table *match.Table, prefix string, d *definition.Delivery) decision {
	event, reject := definition.ParseEnvelope(d.Data, d.Subject, prefix)
	if reject != nil {
		return decision{event: event, reject: reject}
	}
	met, err := table.Match(&event, d.PublishedAt)
	if err != nil {
		return decision{event: event, reject: &definition.Reject{Reason: definition.RejectNotJSON, Detail: err.Error()}}
	}
	return decision{event: event, met: met}
}

func occurrence(e *definition.Event, met match.Met) definition.Occurrence {
	o := definition.Occurrence{
		DefinitionID: met.ID, Revision: met.Revision, Kind: definition.KindEvent, Key: definition.EventKey(e.ID),
		Input: e.Raw, EventID: e.ID, EventType: e.Type, TraceID: e.TraceID,
	}
	if met.Err != nil {
		o.ConditionError = met.Err.Error()
	}
	return o
}

func deadLetter(d *definition.Delivery, eventID string, reject *definition.Reject) definition.DeadLetter {
	return definition.DeadLetter{
		Stream: d.Stream, StreamSeq: d.StreamSeq, PublishedAt: d.PublishedAt, Subject: d.Subject, EventID: eventID,
		Reason: reject.Reason, Detail: reject.Detail,
		// Never nil: an empty message is stored as empty.
		Data: append([]byte{}, d.Data[:min(len(d.Data), definition.MaxDeadLetterData)]...), DataSize: len(d.Data),
		Deliveries: d.Deliveries,
	}
}

// routeBatch decides on each delivery, commits what was decided, and hands the new runs to the pool. It returns an error
// only when ctx ended before all was committed.
func (r *Router) routeBatch(ctx context.Context, b *batch) error {
	if err := r.retry(ctx, "look for changed definitions", &r.fault, r.refresh); err != nil {
		return err
	}
	table := r.table.Load()
	rows := rows{}
	var unmatched, matched float64
	for i := range b.items {
		it := &b.items[i]
		verdict := decide(table, r.o.SubjectPrefix, &it.Delivery)
		switch {
		case verdict.reject != nil:
			it.reject, it.eventID = verdict.reject, verdict.event.ID
			continue
		case len(verdict.met) == 0:
			unmatched++
			it.outcome = definition.OutcomeUnmatched
			continue
		}
		matched++
		it.outcome, it.eventID = definition.OutcomeRouted, verdict.event.ID
		for _, met := range verdict.met {
			rows.add(it, occurrence(&verdict.event, met))
			if rows.full() {
				if err := r.commit(ctx, &rows); err != nil {
					return err
				}
			}
		}
	}
	r.metrics.matched.Add(matched)
	r.metrics.unmatched.Add(unmatched)
	if err := r.commit(ctx, &rows); err != nil {
		return err
	}
	if err := r.commitDead(ctx, b); err != nil {
		return err
	}
	now := time.Now()
	for i := range b.items {
		r.done(&b.items[i], now)
	}
	return nil
}

// rows are the occurrences of one statement.
type rows struct {
	occurrences []definition.Occurrence
	items       []*item // the item of each occurrence
	bytes       int
}

func (s *rows) add(it *item, o definition.Occurrence) {
	s.occurrences, s.items, s.bytes = append(s.occurrences, o), append(s.items, it), s.bytes+len(o.Input)
}

func (s *rows) full() bool { return len(s.occurrences) >= maxRows || s.bytes >= maxRowBytes }

// commit records the rows and hands the new ones to the pool, which may wait for a place there.
func (r *Router) commit(ctx context.Context, s *rows) error {
	if len(s.occurrences) == 0 {
		return nil
	}
	starts, err := r.record(ctx, s.occurrences)
	if errors.Is(err, definition.ErrNotStorable) {
		starts, err = r.recordSingly(ctx, s)
	}
	if err != nil {
		return err
	}
	// Two deliveries may carry the same event; either may wait for its start.
	type id struct{ definition, key string }
	byID := make(map[id]*item, len(s.items))
	for i, o := range s.occurrences {
		byID[id{o.DefinitionID, o.Key}] = s.items[i]
	}
	for _, s := range starts {
		it := byID[id{s.DefinitionID, s.Key}]
		it.open.Add(1)
		select {
		case r.starts <- start{it, s}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	*s = rows{}
	return nil
}

// record tries until the rows are committed, are known to be not storable, or ctx ends.
func (r *Router) record(ctx context.Context, occurrences []definition.Occurrence) (starts []definition.Start, err error) {
	notStorable := false
	err = r.retry(ctx, "record runs", &r.fault, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		var err error
		starts, err = r.o.Ledger.Record(ctx, occurrences)
		if notStorable = errors.Is(err, definition.ErrNotStorable); notStorable {
			return nil
		}
		return err
	})
	if err == nil && notStorable {
		return nil, definition.ErrNotStorable
	}
	return starts, err
}

// recordSingly records row by row, so that the one that is refused does not keep the others; its event becomes a dead
// letter.
func (r *Router) recordSingly(ctx context.Context, s *rows) ([]definition.Start, error) {
	var starts []definition.Start
	for i, o := range s.occurrences {
		started, err := r.record(ctx, []definition.Occurrence{o})
		switch {
		case errors.Is(err, definition.ErrNotStorable):
			s.items[i].reject = &definition.Reject{Reason: definition.RejectNotStorable,
				Detail: fmt.Sprintf("the database refuses the run of definition %s for this event", o.DefinitionID)}
		case err != nil:
			return nil, err
		}
		starts = append(starts, started...)
	}
	return starts, nil
}

// commitDead commits the batch's dead letters.
func (r *Router) commitDead(ctx context.Context, b *batch) error {
	var letters []definition.DeadLetter
	for i := range b.items {
		if it := &b.items[i]; it.reject != nil {
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
