package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// BeginRun decides what becomes of an occurrence whose workflow has begun, and stores the decision. Asked again by the
// same workflow (FirstRunID) it gives the stored decision; a queued run is considered again each time.
//
// Errors: ErrNotFound when there is no such row, or, for a slot, never was such a definition; ErrOtherWorkflow when the
// row belongs to another workflow, which then carries it out.
func (s *Store) BeginRun(ctx context.Context, b definition.Begin) (definition.Admission, error) {
	attempt := "begin run " + b.WorkflowID
	if b.RunID == "" {
		id, err := s.acceptSlot(ctx, b)
		if err != nil {
			return definition.Admission{}, err
		}
		b.RunID = id
	}
	adm, decided, err := s.beginUnlimited(ctx, b)
	if err != nil || decided {
		return adm, translate(attempt, err)
	}
	err = s.tx(ctx, attempt, func(tx pgx.Tx) error {
		adm, err = beginLimited(ctx, tx, b)
		return err
	})
	return adm, err
}

const beginColumns = runColumns + `, input, run_limit, now()`

// beginRow is a ledger row with what the decision needs.
type beginRow struct {
	run      definition.Run
	limit    int
	now      time.Time
	document string
	live     bool // the definition exists
	enabled  bool
	updated  bool // by this very statement
}

func scanBegin(row pgx.CollectableRow) (beginRow, error) {
	var r beginRow
	into := append(runFields(&r.run), &r.run.Input, &r.limit, &r.now, &r.document, &r.live, &r.enabled, &r.updated)
	err := row.Scan(into...)
	inUTC(&r.run)
	return r, err
}

// beginUnlimited is the way of nearly all runs, in one statement: an accepted row without a limit, of a definition that
// may run. Whatever else it finds (decided false) is decided by beginLimited.
func (s *Store) beginUnlimited(ctx context.Context, b definition.Begin) (definition.Admission, bool, error) {
	rows, err := s.pool.Query(ctx, `
		WITH r AS (
			SELECT `+beginColumns+`, v.document::text AS document, d.live IS NOT NULL AS live, COALESCE(d.enabled, false) AS enabled
			FROM (SELECT * FROM runs WHERE id = $1) runs
			JOIN LATERAL (SELECT document FROM definition_revisions v
			              WHERE v.definition_id = runs.definition_id AND v.revision = runs.revision) v ON true
			LEFT JOIN LATERAL (SELECT true AS live, enabled FROM definitions d
			                   WHERE d.id = runs.definition_id AND d.deleted_at IS NULL) d ON true),
		begun AS (
			UPDATE runs SET status = 'running', started_at = now(), workflow_run_id = $2 FROM r
			WHERE runs.id = $1 AND runs.status = 'accepted' AND r.live AND (r.enabled OR r.kind IN ('manual', 'backfill'))
			  AND r.run_limit = 0 AND NOT r.catch_up
			RETURNING 1)
		SELECT r.*, EXISTS (SELECT FROM begun) FROM r`, b.RunID, b.FirstRunID)
	if err != nil {
		return definition.Admission{}, false, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanBegin)
	if err != nil || !r.updated {
		return definition.Admission{}, false, err
	}
	r.run.Status, r.run.StartedAt, r.run.WorkflowRunID = definition.RunRunning, &r.now, b.FirstRunID
	adm, err := r.admission(false)
	return adm, true, err
}

// beginLimited decides under the lock of the definition's concurrency row. Locks are always taken in this order: the
// concurrency row, then runs.
func beginLimited(ctx context.Context, tx pgx.Tx, b definition.Begin) (definition.Admission, error) {
	var definitionID string
	var limit int
	var catchUp bool
	err := tx.QueryRow(ctx, `SELECT definition_id::text, run_limit, catch_up FROM runs WHERE id = $1`, b.RunID).
		Scan(&definitionID, &limit, &catchUp)
	if err != nil {
		return definition.Admission{}, err
	}
	inLine := limit > 0 || catchUp
	if inLine {
		if err := lockConcurrency(ctx, tx, definitionID); err != nil {
			return definition.Admission{}, err
		}
	}
	rows, err := tx.Query(ctx, `
		SELECT `+beginColumns+`,
		       COALESCE((SELECT document::text FROM definition_revisions v
		                 WHERE v.definition_id = runs.definition_id AND v.revision = runs.revision), ''),
		       EXISTS (SELECT FROM definitions d WHERE d.id = runs.definition_id AND d.deleted_at IS NULL),
		       EXISTS (SELECT FROM definitions d WHERE d.id = runs.definition_id AND d.deleted_at IS NULL AND d.enabled), false
		FROM runs WHERE id = $1 FOR UPDATE`, b.RunID)
	if err != nil {
		return definition.Admission{}, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanBegin)
	if err != nil {
		return definition.Admission{}, err
	}
	if r.run.Status != definition.RunAccepted && r.run.WorkflowRunID != "" && r.run.WorkflowRunID != b.FirstRunID {
		return definition.Admission{}, definition.ErrOtherWorkflow
	}
	switch {
	case r.run.Status.Final() && r.run.WorkflowRunID == "":
		// Decided and counted when the row was made, or given up by the sweeper: this workflow is the first to hear it.
		_, err := tx.Exec(ctx, `UPDATE runs SET workflow_run_id = $2 WHERE id = $1`, b.RunID, b.FirstRunID)
		if err != nil {
			return definition.Admission{}, err
		}
		return r.admission(true)
	case r.run.Status.Final(), r.run.Status == definition.RunRunning:
		return r.admission(true)
	}
	doc, err := definition.DecodeStored([]byte(r.document))
	if err != nil {
		return r.store(ctx, tx, b, definition.RunFailed, definition.ReasonRevisionUnreadable, err.Error())
	}
	load := definition.Load{}
	if inLine {
		err := tx.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE status = 'running'), count(*) FILTER (WHERE status = 'queued' AND seq < $2),
			       (SELECT count(*) FROM runs WHERE $3 AND definition_id = $1 AND catch_up AND slot_at < $4
			          AND status IN ('accepted', 'queued', 'running'))
			FROM runs WHERE definition_id = $1 AND status IN ('running', 'queued')`, definitionID, r.run.Seq, catchUp, r.run.SlotAt).
			Scan(&load.Running, &load.QueuedBefore, &load.CaughtUpBefore)
		if err != nil {
			return definition.Admission{}, err
		}
	}
	limits := doc.Limits(r.run.Kind)
	limits.Limit = limit
	status, reason := definition.Admit(
		definition.Applicant{Kind: r.run.Kind, CatchUp: catchUp, Live: r.live, Enabled: r.enabled}, limits, load)
	if status == r.run.Status {
		return r.admission(true)
	}
	adm, err := r.store(ctx, tx, b, status, reason, "")
	if err == nil && catchUp && status.Final() {
		adm.Wake, err = admitNext(ctx, tx, definitionID, limit) // it held up the ones behind it
	}
	return adm, err
}

// store writes the decision.
func (r *beginRow) store(
	ctx context.Context, tx pgx.Tx, b definition.Begin, status definition.RunStatus, reason definition.Reason, text string,
) (definition.Admission, error) {
	_, err := tx.Exec(ctx, `
		UPDATE runs SET status = $2, reason = $3, error = $4, workflow_run_id = $5,
		       started_at = CASE WHEN $2 = 'running' THEN now() ELSE started_at END,
		       finished_at = CASE WHEN $6 THEN now() ELSE finished_at END
		WHERE id = $1`, b.RunID, status, reason, bound(text), b.FirstRunID, status.Final())
	if err != nil {
		return definition.Admission{}, err
	}
	r.run.Status, r.run.Reason, r.run.Error, r.run.WorkflowRunID = status, reason, text, b.FirstRunID
	switch {
	case status == definition.RunRunning:
		r.run.StartedAt = &r.now
	case status.Final():
		r.run.FinishedAt = &r.now
	}
	return r.admission(false)
}

func (r *beginRow) admission(repeated bool) (definition.Admission, error) {
	adm := definition.Admission{Run: r.run, Repeated: repeated, Lag: r.now.Sub(r.run.AcceptedAt)}
	if r.run.SlotAt != nil {
		adm.Lag = r.now.Sub(*r.run.SlotAt)
	}
	if r.run.Status.Final() {
		return adm, nil
	}
	doc, err := definition.DecodeStored([]byte(r.document))
	if err != nil {
		return adm, fmt.Errorf("revision %d of definition %s: %w", r.run.Revision, r.run.DefinitionID, err)
	}
	adm.Document = doc
	return adm, nil
}

// FinishRun ends a run. A run that has ended already keeps its outcome, which is then returned as Repeated. For a
// limited definition the next queued runs are marked running in the same transaction; the caller tells their workflows.
func (s *Store) FinishRun(ctx context.Context, f definition.Finish) (definition.Finished, error) {
	attempt := "finish run " + f.RunID
	f.Error = bound(f.Error)
	done, err := s.finishUnlimited(ctx, f)
	if !errors.Is(err, pgx.ErrNoRows) {
		return done, translate(attempt, err)
	}
	err = s.tx(ctx, attempt, func(tx pgx.Tx) error {
		done, err = finishLimited(ctx, tx, f)
		return err
	})
	return done, err
}

const setFinished = `UPDATE runs SET status = $2, reason = $3, error = $4, finished_at = now()
	WHERE id = $1 AND status IN ('accepted', 'queued', 'running')`

func (s *Store) finishUnlimited(ctx context.Context, f definition.Finish) (definition.Finished, error) {
	rows, err := s.pool.Query(ctx, setFinished+` AND run_limit = 0 AND NOT catch_up RETURNING `+runColumns, f.RunID, f.Status, f.Reason, f.Error)
	if err != nil {
		return definition.Finished{}, err
	}
	run, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, false) })
	return definition.Finished{Run: run}, err
}

func finishLimited(ctx context.Context, tx pgx.Tx, f definition.Finish) (definition.Finished, error) {
	rows, err := tx.Query(ctx, `SELECT `+runColumns+`, run_limit FROM runs WHERE id = $1`, f.RunID)
	if err != nil {
		return definition.Finished{}, err
	}
	var limit int
	read := func(row pgx.CollectableRow) (definition.Run, error) {
		var r definition.Run
		err := row.Scan(append(runFields(&r), &limit)...)
		inUTC(&r)
		return r, err
	}
	run, err := pgx.CollectExactlyOneRow(rows, read)
	if err != nil {
		return definition.Finished{}, err
	}
	if limit > 0 || run.CatchUp {
		if err := lockConcurrency(ctx, tx, run.DefinitionID); err != nil {
			return definition.Finished{}, err
		}
	}
	rows, err = tx.Query(ctx, setFinished+` RETURNING `+runColumns+`, run_limit`, f.RunID, f.Status, f.Reason, f.Error)
	if err != nil {
		return definition.Finished{}, err
	}
	ended, err := pgx.CollectExactlyOneRow(rows, read)
	if errors.Is(err, pgx.ErrNoRows) {
		run, err = rereadRun(ctx, tx, f.RunID)
		return definition.Finished{Run: run, Repeated: true}, err
	}
	if err != nil || (limit == 0 && !run.CatchUp) {
		return definition.Finished{Run: ended}, err
	}
	wake, err := admitNext(ctx, tx, run.DefinitionID, limit)
	return definition.Finished{Run: ended, Wake: wake}, err
}

// admitNext marks the next queued runs of a definition as running, under the lock of its concurrency row, and returns their
// workflows. A run that is caught up with comes after all earlier ones, also after one whose workflow has yet to begin.
func admitNext(ctx context.Context, tx pgx.Tx, definitionID string, limit int) ([]string, error) {
	// The newest revision's limit decides how many may follow; a raised limit frees several at once.
	rows, err := tx.Query(ctx, `
		WITH room AS (
			SELECT COALESCE((SELECT v.run_limit FROM definitions d JOIN definition_revisions v
			                   ON v.definition_id = d.id AND v.revision = d.revision WHERE d.id = $1), $2) AS places,
			       (SELECT count(*) FROM runs WHERE definition_id = $1 AND status = 'running') AS running),
		next AS (
			SELECT id FROM runs q WHERE definition_id = $1 AND status = 'queued'
			  AND NOT (catch_up AND EXISTS (
			      SELECT FROM runs e WHERE e.definition_id = $1 AND e.catch_up AND e.slot_at < q.slot_at
			        AND e.status IN ('accepted', 'queued', 'running')))
			ORDER BY seq
			LIMIT (SELECT CASE WHEN places = 0 THEN 1000 ELSE GREATEST(places - running, 0) END FROM room)
			FOR UPDATE SKIP LOCKED)
		UPDATE runs SET status = 'running', started_at = now() FROM next WHERE runs.id = next.id RETURNING workflow_id`,
		definitionID, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func rereadRun(ctx context.Context, tx pgx.Tx, id string) (definition.Run, error) {
	rows, err := tx.Query(ctx, `SELECT `+runColumns+` FROM runs WHERE id = $1`, id)
	if err != nil {
		return definition.Run{}, err
	}
	return pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, false) })
}

func lockConcurrency(ctx context.Context, tx pgx.Tx, definitionID string) error {
	_, err := tx.Exec(ctx, `INSERT INTO concurrency (definition_id) VALUES ($1) ON CONFLICT DO NOTHING`, definitionID)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `SELECT FROM concurrency WHERE definition_id = $1 AND key = '' FOR UPDATE`, definitionID)
	return err
}
