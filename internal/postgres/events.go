package postgres

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// AcceptEvents records events and commits one ledger row for each occurrence that has none yet, in one transaction. It
// returns what is needed to start the new rows, and the ids of the events that are not what is recorded under their id: these
// add no rows. Each event id may be given once, and every occurrence has to be of an event that is given. Errors: ErrUnavailable,
// and ErrNotStorable when a value of any of them is refused, in which case nothing is stored.
func (s *Store) AcceptEvents(ctx context.Context, events []definition.EventRecord, occurrences []definition.Occurrence) (
	starts []definition.Start, reused []string, err error) {
	eventArgs := eventArgs(events)
	runArgs := append(acceptArgs(occurrences), eventArgs[:4]...)
	err = retried(func() error {
		starts, reused = nil, nil
		batch := &pgx.Batch{}
		batch.Queue(acceptEvents, eventArgs...)
		batch.Queue(acceptRuns+acceptEventsJoin+acceptOrder, runArgs...)
		results := s.pool.SendBatch(ctx, batch)
		defer func() { _ = results.Close() }() // an error of it came up below
		rows, err := results.Query()
		if err != nil {
			return err
		}
		if reused, err = reusedIDs(rows, events); err != nil {
			return err
		}
		if rows, err = results.Query(); err != nil {
			return err
		}
		if starts, err = collectAccepted(rows); err != nil {
			return err
		}
		return results.Close()
	})
	return starts, reused, translate("accept events", err)
}

// reusedIDs reads the answer of acceptEvents, and returns the ids of the events that are not what is recorded under their id.
func reusedIDs(rows pgx.Rows, events []definition.EventRecord) ([]string, error) {
	given := make(map[string]*definition.EventRecord, len(events))
	for i := range events {
		given[events[i].ID] = &events[i]
	}
	var reused []string
	var known definition.EventRecord
	_, err := pgx.ForEachRow(rows, []any{&known.ID, &known.Type, &known.Source, &known.Digest}, func() error {
		if !given[known.ID].Same(&known) {
			reused = append(reused, known.ID)
		}
		return nil
	})
	return reused, err
}

// acceptEvents returns each event as it is recorded, which may be what an earlier one with its id left. A conflict writes the row
// again, and so waits for the transaction that is about to make it; it is the rare case of an event that comes twice.
const acceptEvents = `
	INSERT INTO events (event_id, type, source, digest, stream, stream_seq, published_at, matches)
	SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::bigint[], $7::timestamptz[], $8::int[])
	ON CONFLICT (event_id) DO UPDATE SET matches = CASE
		WHEN (events.type, events.source, events.digest) = (excluded.type, excluded.source, excluded.digest)
		THEN GREATEST(events.matches, excluded.matches) ELSE events.matches END
	RETURNING event_id, type, source, digest`

// acceptEventsJoin leaves out the occurrences of events that are not what is recorded. The events were written by the statement
// before, so nobody else can change them meanwhile.
const acceptEventsJoin = `
	JOIN unnest($17::text[], $18::text[], $19::text[], $20::bytea[]) AS g (event_id, type, source, digest) ON g.event_id = o.event_id
	JOIN events e ON e.event_id = g.event_id AND e.type = g.type AND e.source = g.source AND e.digest = g.digest`

// eventArgs returns the arguments of acceptEvents, sorted as in acceptArgs.
func eventArgs(events []definition.EventRecord) []any {
	sorted := slices.SortedFunc(slices.Values(events), func(a, b definition.EventRecord) int { return cmp.Compare(a.ID, b.ID) })
	n := len(sorted)
	ids, types, sources, digests := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	streams, seqs, published, matches := make([]string, n), make([]int64, n), make([]time.Time, n), make([]int32, n)
	for i, e := range sorted {
		ids[i], types[i], sources[i], digests[i] = e.ID, e.Type, e.Source, e.Digest
		streams[i], seqs[i], published[i], matches[i] = e.Stream, int64(e.StreamSeq), e.PublishedAt, int32(e.Matches)
	}
	return []any{ids, types, sources, digests, streams, seqs, published, matches}
}

// RemoveUnmatched removes some of the recorded events that matched nothing and are older than an age, and returns how many.
func (s *Store) RemoveUnmatched(ctx context.Context, age time.Duration) (int, error) {
	const most = 10_000
	tag, err := s.pool.Exec(ctx, `
		DELETE FROM events WHERE event_id IN (
			SELECT event_id FROM events WHERE matches = 0 AND recorded_at < now() - $1::interval
			ORDER BY recorded_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, age, most)
	return int(tag.RowsAffected()), translate("remove unmatched events", err)
}

// SetUnmatchedRecording notes whether events that match nothing are recorded from now on, for those who look for one.
func (s *Store) SetUnmatchedRecording(ctx context.Context, on bool) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE installation SET unmatched_since = CASE WHEN $1 THEN now() END
		WHERE (unmatched_since IS NOT NULL) <> $1`, on)
	return translate("note whether unmatched events are recorded", err)
}

// GetEvent returns what is known of an event. There is always an answer, which may be that nothing is known. An event is the whole
// installation's: a caller with labels hears of it by the runs of its scope, and not of what else became of it.
func (s *Store) GetEvent(ctx context.Context, eventID string) (definition.EventHistory, error) {
	attempt := "get event"
	h := definition.EventHistory{ID: eventID}
	var r definition.EventRecord
	var seq int64
	err := s.pool.QueryRow(ctx, `
		SELECT event_id, type, source, digest, stream, stream_seq, published_at, matches FROM events WHERE event_id = $1`, eventID).
		Scan(&r.ID, &r.Type, &r.Source, &r.Digest, &r.Stream, &seq, &r.PublishedAt, &r.Matches)
	switch {
	case err == nil:
		r.StreamSeq, r.PublishedAt = uint64(seq), r.PublishedAt.UTC()
		h.Record = &r
	case !errors.Is(err, pgx.ErrNoRows):
		return h, translate(attempt, err)
	}
	scope, args := within(ctx, "definition_id", []any{eventID})
	err = s.pool.QueryRow(ctx, `
		SELECT unmatched_since, (SELECT count(*) FROM runs WHERE event_id = $1 AND event_id <> ''`+scope+`) FROM installation`, args...).
		Scan(&h.UnmatchedSince, &h.RunsTotal)
	if err != nil {
		return h, translate(attempt, err)
	}
	h.UnmatchedSince = utc(h.UnmatchedSince)
	if h.RunsTotal > 0 {
		if h.Runs, err = s.ListRuns(ctx, definition.ListRuns{EventID: eventID, Limit: definition.MaxEventRuns}); err != nil {
			return h, err
		}
	}
	if access.From(ctx).Limited() {
		if h.RunsTotal == 0 {
			h.Record = nil
		}
		return h, nil
	}
	h.DeadLetters, err = s.ListDeadLetters(ctx, definition.ListDeadLetters{
		SelectDeadLetters: definition.SelectDeadLetters{EventID: eventID}, Limit: definition.MaxEventRuns,
	})
	return h, err
}

// EventDefinitions returns the definitions of the caller's scope with an event trigger, enabled (Live) or not, whose type is this one or a
// wildcard.
func (s *Store) EventDefinitions(ctx context.Context, eventType string) ([]definition.Routable, error) {
	scope, args := within(ctx, "id", []any{eventType})
	return s.routables(ctx, "list definitions of an event type", `
		SELECT id::text, name, revision, document::text, enabled_since, enabled FROM definitions
		WHERE deleted_at IS NULL AND trigger_type = 'event' AND (event_type = $1 OR event_type ~ '[*>]')`+scope+` ORDER BY seq`, args...)
}

func (s *Store) routables(ctx context.Context, attempt, sql string, args ...any) ([]definition.Routable, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, translate(attempt, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r definition.Routable, err error) {
		var document []byte
		if err = row.Scan(&r.ID, &r.Name, &r.Revision, &document, &r.EnabledSince, &r.Live); err == nil {
			readTrigger(&r, document)
		}
		return r, err
	})
	return list, translate(attempt, err)
}

// readTrigger fills in what a stored document's trigger says. (Postgres cannot take it out of a document that holds U+0000.) One that this version cannot read must not stop the routing of others.
func readTrigger(r *definition.Routable, document []byte) {
	t, keyer, err := definition.DecodeStoredRoute(document)
	r.EventType, r.Filters, r.Condition, r.Keyer, r.Unreadable = t.EventType, t.Filters, t.Condition, keyer, err
}
