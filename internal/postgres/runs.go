package postgres

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// FirstSweep is how long after acceptance the sweeper leaves a row to the process that accepted it.
const FirstSweep = 30 * time.Second

// maxSweepPause bounds the doubling pause between two tries to start a row.
const maxSweepPause = 10 * time.Minute

// AcceptRuns commits one ledger row for each occurrence that has none yet, in one statement, and returns the new ones, with what is
// needed to start them. An occurrence that cannot be run is among them, closed: its Status says so. An occurrence whose row exists
// already, and one whose definition was deleted, adds nothing. Errors: ErrUnavailable, and ErrNotStorable when a value of any of them
// is refused, in which case none is stored. Those that were asked for by hand are noted in the audit trail. A request with an Idempotency-Key makes at most one.
func (s *Store) AcceptRuns(ctx context.Context, occurrences []definition.Occurrence) ([]definition.Start, error) {
	args := acceptArgs(occurrences)
	var starts []definition.Start
	accept := func(q querier) error {
		rows, err := q.Query(ctx, acceptNoted, append(slices.Clone(args), who(ctx), definition.ActionRunTrigger)...)
		if err != nil {
			return err
		}
		starts, err = pgx.CollectRows(rows, scanAccepted)
		return err
	}
	const attempt = "accept runs"
	if _, claimed := access.ClaimFrom(ctx); !claimed {
		err := s.single(ctx, attempt, accept)
		return starts, err
	}
	err := s.tx(ctx, attempt, func(tx pgx.Tx) error {
		if err := accept(tx); err != nil || len(starts) == 0 {
			return err
		}
		return rememberMade(ctx, tx, starts[0].RunID)
	})
	return starts, err
}

// acceptRuns is the statement of acceptance, up to a further join and acceptOrder. An occurrence that cannot be run gets its row too,
// closed at once; a chain that is too deep is cut before anything else is said, or it would go on as a chain of failures.
const acceptRuns = `
	INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, reason, error, finished_at,
	                  input, event_id, event_type, trace_id, run_limit, run_timeout, workflow_id, start_after, concurrency_key, depth)
	SELECT o.id, d.id, d.name, r.revision, o.kind, o.key,
	       CASE WHEN o.depth > $15 THEN 'skipped' WHEN o.fault <> '' OR o.key_fault <> '' THEN 'failed' ELSE 'accepted' END,
	       CASE WHEN o.depth > $15 THEN 'chain_too_deep' WHEN o.fault <> '' THEN 'condition_error'
	            WHEN o.key_fault <> '' THEN 'concurrency_key_error' ELSE '' END,
	       CASE WHEN o.depth > $15 THEN 'more than ' || $15 || ' runs followed from one another by the events of their ends'
	            WHEN o.fault <> '' THEN o.fault ELSE o.key_fault END,
	       CASE WHEN o.depth > $15 OR o.fault <> '' OR o.key_fault <> '' THEN now() END,
	       o.input, o.event_id, o.event_type, o.trace_id, r.run_limit, r.run_timeout, o.workflow_id, now() + $16, o.concurrency_key,
	       o.depth
	FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::bytea[], $7::text[], $8::text[],
	            $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::int[])
	     WITH ORDINALITY AS o (id, definition_id, revision, kind, key, input, event_id, event_type, trace_id,
	                           workflow_id, fault, concurrency_key, key_fault, depth, place)
	JOIN definitions d ON d.id = o.definition_id AND d.deleted_at IS NULL
	JOIN definition_revisions r ON r.definition_id = d.id AND r.revision = COALESCE(NULLIF(o.revision, 0), d.revision)`

const acceptOnce = `
	ORDER BY o.place
	ON CONFLICT (definition_id, occurrence_key) DO NOTHING
	RETURNING `

const acceptOrder = acceptOnce + startColumns + `, status`

// acceptNoted is acceptRuns with rows of the audit trail, without the inputs: those of the runs are to be found there.
const acceptNoted = `
	WITH accepted AS (` + acceptRuns + acceptOnce + `id, definition_id, definition_name, revision, occurrence_key, run_limit, catch_up,
		run_timeout, start_attempts, first_tried_at, accepted_at, kind, status),
	noted AS (
		INSERT INTO audit (` + auditWho + `, action, target_kind, target_id, definition_id, revision, after)
		SELECT ($17::text[])[1], ($17::text[])[2], ($17::text[])[3], ($17::text[])[4], $18, 'run', id::text, definition_id, revision,
		       json_build_object('run_id', id)
		FROM accepted WHERE kind = 'manual')
	SELECT ` + startColumns + `, status FROM accepted`

// acceptArgs returns the arguments of acceptRuns. The rows are sorted: two batches that insert the same keys in different
// orders would deadlock.
func acceptArgs(occurrences []definition.Occurrence) []any {
	sorted := slices.SortedFunc(slices.Values(occurrences), func(a, b definition.Occurrence) int {
		return cmp.Or(cmp.Compare(a.DefinitionID, b.DefinitionID), cmp.Compare(a.Key, b.Key))
	})
	n := len(sorted)
	ids, definitions, revisions := make([]string, n), make([]string, n), make([]int32, n)
	kinds, keys, inputs := make([]string, n), make([]string, n), make([][]byte, n)
	eventIDs, eventTypes, traceIDs, workflows := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	faults, concurrencyKeys, keyFaults, depths := make([]string, n), make([]string, n), make([]string, n), make([]int32, n)
	for i, o := range sorted {
		ids[i], definitions[i], revisions[i] = definition.NewID(), o.DefinitionID, int32(o.Revision)
		kinds[i], keys[i], inputs[i] = string(o.Kind), o.Key, o.Input
		eventIDs[i], eventTypes[i], traceIDs[i] = o.EventID, o.EventType, o.TraceID
		workflows[i], faults[i] = definition.WorkflowID(o.DefinitionID, o.Key), bound(o.ConditionError)
		concurrencyKeys[i], keyFaults[i], depths[i] = o.ConcurrencyKey, bound(o.KeyError), int32(o.Depth)
	}
	return []any{ids, definitions, revisions, kinds, keys, inputs, eventIDs, eventTypes, traceIDs, workflows, faults, concurrencyKeys,
		keyFaults, depths, definition.MaxDepth, FirstSweep}
}

func scanAccepted(row pgx.CollectableRow) (st definition.Start, err error) {
	var status definition.RunStatus
	st, err = scanStartAnd(row, &status)
	st.Status = status
	return st, err
}

// collectAccepted returns the rows that are to be started.
func collectAccepted(rows pgx.Rows) ([]definition.Start, error) {
	starts, err := pgx.CollectRows(rows, scanAccepted)
	return slices.DeleteFunc(starts, func(st definition.Start) bool { return st.Status != definition.RunAccepted }), err
}

// ClaimUnstarted claims accepted rows whose time to be started by the sweeper has come: each gets its next time at once
// (double the pause each time), so that no other sweeper takes it meanwhile. Nothing is locked when it returns.
func (s *Store) ClaimUnstarted(ctx context.Context, limit int) ([]definition.Start, error) {
	rows, err := s.pool.Query(ctx, `
		UPDATE runs
		SET start_after = now() + LEAST($2::interval * power(2, LEAST(start_attempts, 20)), $3::interval),
		    start_attempts = start_attempts + 1, first_tried_at = COALESCE(first_tried_at, now())
		WHERE id IN (SELECT id FROM runs WHERE status = 'accepted' AND start_after <= now()
		             ORDER BY start_after LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING `+startColumns, limit, FirstSweep, maxSweepPause)
	if err != nil {
		return nil, translate("claim unstarted runs", err)
	}
	starts, err := pgx.CollectRows(rows, scanStart)
	return starts, translate("claim unstarted runs", err)
}

// ReturnUnstarted gives claimed rows back, to be claimed again after a pause: the try was none, because Temporal was away.
func (s *Store) ReturnUnstarted(ctx context.Context, runIDs []string, pause time.Duration) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE runs
		SET start_after = now() + $2, start_attempts = GREATEST(start_attempts - 1, 0),
		    first_tried_at = CASE WHEN start_attempts > 1 THEN first_tried_at END
		WHERE id = ANY($1::uuid[]) AND status = 'accepted'`, runIDs, pause)
	return translate("return unstarted runs", err)
}

// CloseUnbegun ends a row that is still accepted, whose workflow never began it. A row that is not stays as it is, and is returned as
// Repeated.
func (s *Store) CloseUnbegun(ctx context.Context, f definition.Finish) (definition.Finished, error) {
	var done definition.Finished
	f.Error = bound(f.Error)
	err := s.tx(ctx, "close run "+f.RunID, func(tx pgx.Tx) (err error) {
		done, err = finishLimited(ctx, tx, f, true)
		return err
	})
	return done, err
}

// startColumns has no timeout for a limited run: it may wait in its queue for ever.
const startColumns = `id::text, definition_id::text, definition_name, occurrence_key,
	CASE WHEN run_limit = 0 AND NOT catch_up THEN run_timeout ELSE interval '0' END, start_attempts, first_tried_at, accepted_at,
	kind`

func scanStart(row pgx.CollectableRow) (definition.Start, error) { return scanStartAnd(row) }

// scanStartAnd also scans the columns that follow those of startColumns.
func scanStartAnd(row pgx.CollectableRow, more ...any) (definition.Start, error) {
	var st definition.Start
	var first *time.Time
	err := row.Scan(append([]any{&st.RunID, &st.DefinitionID, &st.DefinitionName, &st.Key, &st.Timeout, &st.Attempts, &first,
		&st.AcceptedAt, &st.Kind}, more...)...)
	if first != nil {
		st.FirstTriedAt = *first
	}
	return st, err
}

const runColumns = `id::text, seq, definition_id::text, definition_name, revision, kind, occurrence_key, status, reason,
	error, event_id, event_type, trace_id, slot_at, catch_up, COALESCE(rerun_of::text, '') AS rerun_of,
	COALESCE(backfill_id::text, '') AS backfill_id, COALESCE(replay_id::text, '') AS replay_id,
	accepted_at, started_at, finished_at, workflow_id, workflow_run_id, concurrency_key, depth, stop_requested, stop_reason, stop_note`

// runFields returns where the columns of runColumns go.
func runFields(r *definition.Run) []any {
	return []any{&r.ID, &r.Seq, &r.DefinitionID, &r.DefinitionName, &r.Revision, &r.Kind, &r.Key, &r.Status, &r.Reason,
		&r.Error, &r.EventID, &r.EventType, &r.TraceID, &r.SlotAt, &r.CatchUp, &r.RerunOf, &r.BackfillID, &r.ReplayID,
		&r.AcceptedAt, &r.StartedAt, &r.FinishedAt, &r.WorkflowID, &r.WorkflowRunID, &r.ConcurrencyKey, &r.Depth, &r.Stop.How,
		&r.Stop.Reason, &r.Stop.Note}
}

func scanRun(row pgx.CollectableRow, withInput bool) (definition.Run, error) {
	var r definition.Run
	into := runFields(&r)
	if withInput {
		into = append(into, &r.Input)
	}
	if err := row.Scan(into...); err != nil {
		return r, err
	}
	inUTC(&r)
	return r, nil
}

func inUTC(r *definition.Run) {
	r.SlotAt, r.StartedAt, r.FinishedAt, r.AcceptedAt = utc(r.SlotAt), utc(r.StartedAt), utc(r.FinishedAt), r.AcceptedAt.UTC()
}

// bound keeps an error text within what the ledger stores, and storable: text columns refuse U+0000 and bad UTF-8.
func bound(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= definition.MaxError {
		return text
	}
	return strings.ToValidUTF8(text[:definition.MaxError-len("…")], "") + "…"
}
