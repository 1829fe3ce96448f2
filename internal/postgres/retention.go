package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// retentionBatch is the most rows that one statement removes.
	retentionBatch = 1000
	// revisionBatch is less, because each of them costs a look at the runs of its definition.
	revisionBatch = 50
)

// cut is the beginning of each statement: what is older than $1, by Postgres' clock. What tells an event from another one is kept
// for longer than the stream keeps events, with an hour for clocks that differ, and for ever while that is not known. What
// somebody may still have to do something about is kept three times as long. Routers have to have seen that a definition is gone.
const cut = `WITH cut AS (
	SELECT now() - $1::interval AS plain,
	       CASE WHEN stream_age IS NULL THEN '-infinity'::timestamptz
	            ELSE now() - GREATEST($1::interval, stream_age + interval '1 hour') END AS events,
	       now() - GREATEST($1::interval, COALESCE(stream_age, interval '0') + interval '1 hour') AS letters,
	       now() - GREATEST(3 * $1::interval, COALESCE(stream_age, interval '0') + interval '1 hour') AS undone,
	       now() - GREATEST($1::interval, interval '7 days') AS deleted
	FROM installation)`

// removals are the statements, by table: each removes a batch of at most $2 rows and returns how many it removed. Rows that
// somebody else has locked are left for the next time.
var removals = map[string]string{
	definition.TableEvents: cut + `, gone AS (
		DELETE FROM events WHERE event_id IN (
			SELECT event_id FROM events, cut WHERE recorded_at < cut.events ORDER BY recorded_at LIMIT $2 FOR UPDATE OF events SKIP LOCKED)
		RETURNING 1)
		SELECT count(*) FROM gone`,
	definition.TableDeadLetters: cut + `, gone AS (
		DELETE FROM dead_letters WHERE id IN (
			SELECT id FROM dead_letters, cut
			WHERE created_at < cut.letters AND (status IN ('routed', 'discarded') AND settled_at < cut.letters
			                                    OR status = 'open' AND created_at < cut.undone)
			ORDER BY created_at LIMIT $2 FOR UPDATE OF dead_letters SKIP LOCKED)
		RETURNING 1)
		SELECT count(*) FROM gone`,
	definition.TableReplays: cut + `, gone AS (
		DELETE FROM replays WHERE id IN (
			SELECT id FROM replays, cut WHERE status IN ('completed', 'canceled', 'failed') AND finished_at < cut.plain
			LIMIT $2 FOR UPDATE OF replays SKIP LOCKED)
		RETURNING 1)
		SELECT count(*) FROM gone`,
	definition.TableBackfills: cut + `, gone AS (
		DELETE FROM backfills WHERE id IN (
			SELECT id FROM backfills, cut WHERE status <> 'active' AND finished_at < cut.plain
			LIMIT $2 FOR UPDATE OF backfills SKIP LOCKED)
		RETURNING 1)
		SELECT count(*) FROM gone`,
	// By id, for the oldest come first: there is no index for their times.
	definition.TableAudit: cut + `, gone AS (
		DELETE FROM audit WHERE id IN (
			SELECT id FROM (SELECT id, at FROM audit ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED) oldest, cut WHERE at < cut.plain)
		RETURNING 1)
		SELECT count(*) FROM gone`,
	definition.TableAttempts: cut + `, gone AS (
		DELETE FROM delivery_attempts WHERE (stream, stream_seq, published_at) IN (
			SELECT stream, stream_seq, published_at FROM delivery_attempts, cut WHERE attempted_at < cut.letters
			LIMIT $2 FOR UPDATE OF delivery_attempts SKIP LOCKED)
		RETURNING 1)
		SELECT count(*) FROM gone`,
	// A deleted definition goes when none of its runs is left and its schedule is gone, and takes all that is its own along.
	definition.TableDefinitions: cut + `, gone AS (
		DELETE FROM definitions WHERE id IN (
			SELECT d.id FROM definitions d, cut WHERE d.deleted_at < cut.deleted
			  AND NOT EXISTS (SELECT FROM runs r WHERE r.definition_id = d.id)
			  AND NOT EXISTS (SELECT FROM schedule_sync s WHERE s.definition_id = d.id AND s.dirty)
			LIMIT $2 FOR UPDATE OF d SKIP LOCKED)
		RETURNING id),
		revisions AS (DELETE FROM definition_revisions WHERE definition_id IN (SELECT id FROM gone)),
		slots AS (DELETE FROM cron_state WHERE definition_id IN (SELECT id FROM gone)),
		schedules AS (DELETE FROM schedule_sync WHERE definition_id IN (SELECT id FROM gone)),
		keys AS (DELETE FROM concurrency WHERE definition_id IN (SELECT id FROM gone)),
		labels AS (DELETE FROM definition_labels WHERE definition_id IN (SELECT id FROM gone))
		SELECT count(*) FROM gone`,
	// A revision goes when the one after it has been in force for long, and no run is pinned to it.
	definition.TableRevisions: cut + `, gone AS (
		DELETE FROM definition_revisions WHERE (definition_id, revision) IN (
			SELECT v.definition_id, v.revision FROM definition_revisions v, cut
			WHERE v.created_at < cut.plain
			  AND (SELECT n.created_at FROM definition_revisions n WHERE n.definition_id = v.definition_id AND n.revision > v.revision
			       ORDER BY n.revision LIMIT 1) < cut.plain
			  AND NOT EXISTS (SELECT FROM runs r WHERE r.definition_id = v.definition_id AND r.revision = v.revision)
			LIMIT $2 FOR UPDATE OF v SKIP LOCKED)
		RETURNING 1)
		SELECT count(*) FROM gone`,
	// Those locks of lines that were left behind: whoever needs one makes it.
	definition.TableConcurrency: `WITH gone AS (
		DELETE FROM concurrency WHERE (definition_id, key) IN (
			SELECT c.definition_id, c.key FROM concurrency c
			WHERE c.key <> '' AND $1::interval IS NOT NULL
			  AND NOT EXISTS (SELECT FROM runs r WHERE r.definition_id = c.definition_id AND r.concurrency_key = c.key
			                    AND r.status = 'running')
			  AND NOT EXISTS (SELECT FROM runs r WHERE r.definition_id = c.definition_id AND r.concurrency_key = c.key
			                    AND (r.run_limit > 0 OR r.catch_up) AND r.status IN ('accepted', 'queued'))
			LIMIT $2 FOR UPDATE OF c SKIP LOCKED)
		RETURNING 1)
		SELECT count(*) FROM gone`,
	// Each says itself when it is over.
	definition.TableKeys: `WITH gone AS (
		DELETE FROM idempotency_keys WHERE (caller, key) IN (
			SELECT caller, key FROM idempotency_keys WHERE expires_at <= now() AND $1::interval IS NOT NULL
			ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)
		RETURNING 1)
		SELECT count(*) FROM gone`,
}

// removeRuns walks the runs in the order of their acceptance, a page at a time, and removes what is old of a page. It has come to
// its end at a page that was accepted later than what is old can have ended. A run whose end was not told yet is kept for longer.
const removeRuns = cut + `,
	page AS (SELECT seq, accepted_at FROM runs WHERE seq > $3 ORDER BY seq LIMIT $2),
	gone AS (
		DELETE FROM runs WHERE id IN (
			SELECT r.id FROM runs r, cut
			WHERE r.seq > $3 AND r.seq <= (SELECT max(seq) FROM page)
			  AND r.status IN ('succeeded', 'failed', 'timed_out', 'canceled', 'skipped', 'missed')
			  AND r.finished_at < CASE WHEN r.event_id <> '' THEN cut.events ELSE cut.plain END
			  AND (r.finished_at < cut.undone OR NOT EXISTS (SELECT FROM run_ends e WHERE e.run_id = r.id))
			FOR UPDATE OF r SKIP LOCKED)
		RETURNING id),
	ends AS (DELETE FROM run_ends WHERE run_id IN (SELECT id FROM gone))
	SELECT (SELECT count(*) FROM gone), COALESCE((SELECT max(seq) FROM page), 0),
	       COALESCE((SELECT min(accepted_at) FROM page) < (SELECT plain FROM cut), false)`

// RemoveOld removes a batch of the rows of a table, one of definition.RetentionTables, that are older than an age; from is 0 for the
// first batch, and then what the one before returned. It takes no lock that anybody who writes new rows waits for.
func (s *Store) RemoveOld(ctx context.Context, table string, age time.Duration, from int64) (definition.Removed, error) {
	attempt := "remove old rows of " + table
	var out definition.Removed
	if table == definition.TableRuns {
		err := retried(func() error {
			return s.pool.QueryRow(ctx, removeRuns, age, retentionBatch, from).Scan(&out.Rows, &out.From, &out.More)
		})
		return out, translate(attempt, err)
	}
	statement, known := removals[table]
	if !known {
		return out, fmt.Errorf("%s: no such table", attempt)
	}
	limit := retentionBatch
	if table == definition.TableRevisions {
		limit = revisionBatch
	}
	err := retried(func() error { return s.pool.QueryRow(ctx, statement, age, limit).Scan(&out.Rows) })
	out.More = out.Rows == limit
	return out, translate(attempt, err)
}

// NoteStreamAge notes how long the stream keeps events; 0 for ever.
func (s *Store) NoteStreamAge(ctx context.Context, age time.Duration) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE installation SET stream_age = NULLIF($1::interval, interval '0')
		WHERE stream_age IS DISTINCT FROM NULLIF($1::interval, interval '0')`, age)
	return translate("note how long the stream keeps events", err)
}

// KeepsEvents reports whether there are events older than an age that are kept because it is not known how long the stream keeps
// them.
func (s *Store) KeepsEvents(ctx context.Context, age time.Duration) (kept bool, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT stream_age IS NULL AND EXISTS (SELECT FROM events WHERE recorded_at < now() - $1::interval) FROM installation`, age).
		Scan(&kept)
	return kept, translate("look for events that are kept", err)
}
