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
		return s.addProgress(ctx, &adm, translate(attempt, err))
	}
	var stops bool
	err = s.tx(ctx, attempt, func(tx pgx.Tx) error {
		adm, stops, err = beginLimited(ctx, tx, b)
		return err
	})
	if err == nil && stops && s.stops != nil {
		s.stops()
	}
	return s.addProgress(ctx, &adm, err)
}

const beginColumns = runColumns + `, input, run_limit, clock_timestamp()`

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
			WHERE runs.id = $1 AND runs.status = 'accepted' AND r.live AND (r.enabled OR r.kind IN ('manual', 'backfill', 'replay', 'rerun'))
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

// beginLimited decides under the lock of the key's concurrency row. Locks are always taken in this order: the concurrency row, then
// runs.
func beginLimited(ctx context.Context, tx pgx.Tx, b definition.Begin) (adm definition.Admission, stops bool, err error) {
	line, err := lineOf(ctx, tx, b.RunID)
	if err != nil {
		return adm, false, err
	}
	if err := line.lock(ctx, tx); err != nil {
		return adm, false, err
	}
	rows, err := tx.Query(ctx, `
		SELECT `+beginColumns+`,
		       COALESCE((SELECT document::text FROM definition_revisions v
		                 WHERE v.definition_id = runs.definition_id AND v.revision = runs.revision), ''),
		       EXISTS (SELECT FROM definitions d WHERE d.id = runs.definition_id AND d.deleted_at IS NULL),
		       EXISTS (SELECT FROM definitions d WHERE d.id = runs.definition_id AND d.deleted_at IS NULL AND d.enabled), false
		FROM runs WHERE id = $1 FOR UPDATE`, b.RunID)
	if err != nil {
		return adm, false, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanBegin)
	if err != nil {
		return adm, false, err
	}
	if r.run.Status != definition.RunAccepted && r.run.WorkflowRunID != "" && r.run.WorkflowRunID != b.FirstRunID {
		return adm, false, definition.ErrOtherWorkflow
	}
	switch {
	case r.run.Status.Final() && r.run.WorkflowRunID == "":
		// Decided and counted when the row was made, or given up before its workflow began: this one is the first to hear it.
		_, err := tx.Exec(ctx, `UPDATE runs SET workflow_run_id = $2 WHERE id = $1`, b.RunID, b.FirstRunID)
		if err != nil {
			return adm, false, err
		}
		adm, err = r.admission(true)
		return adm, false, err
	case r.run.Status.Final(), r.run.Status == definition.RunRunning:
		if line.limited() {
			if err := heard(ctx, tx, b.RunID); err != nil {
				return adm, false, err
			}
		}
		adm, err = r.admission(true)
		return adm, false, err
	}
	before := r.run.Status
	var woken []string
	status, reason, text := definition.RunFailed, definition.ReasonRevisionUnreadable, ""
	if doc, err := definition.DecodeStored([]byte(r.document)); err != nil {
		text = err.Error()
	} else if status, reason, woken, stops, err = line.admit(ctx, tx, &r, &doc); err != nil {
		return adm, false, err
	}
	if status == before {
		if err := heard(ctx, tx, b.RunID); err != nil {
			return adm, stops, err
		}
		adm, err = r.admission(true)
	} else {
		adm, err = r.store(ctx, tx, b, status, reason, text)
	}
	if err != nil || !line.limited() {
		return adm, stops, err
	}
	if status != definition.RunQueued || len(woken) > 0 {
		// Those that it replaced, or it itself until its workflow had begun, held up the ones behind them.
		next, err := line.admitNext(ctx, tx)
		if err != nil {
			return adm, stops, err
		}
		woken = append(woken, next...)
	}
	adm.Wake = woken
	if status.Final() {
		err = line.forget(ctx, tx)
	}
	return adm, stops, err
}

// store writes the decision.
func (r *beginRow) store(
	ctx context.Context, tx pgx.Tx, b definition.Begin, status definition.RunStatus, reason definition.Reason, text string,
) (definition.Admission, error) {
	// By the clock, and not by the time at which the transaction began to wait for the lock: the times tell the order of the line.
	err := tx.QueryRow(ctx, `
		UPDATE runs SET status = $2, reason = $3, error = $4, workflow_run_id = $5, wake_after = NULL,
		       started_at = CASE WHEN $2 = 'running' THEN clock_timestamp() ELSE started_at END,
		       finished_at = CASE WHEN $6 THEN clock_timestamp() ELSE finished_at END
		WHERE id = $1 RETURNING started_at, finished_at`, b.RunID, status, reason, bound(text), b.FirstRunID, status.Final()).
		Scan(&r.run.StartedAt, &r.run.FinishedAt)
	if err != nil {
		return definition.Admission{}, err
	}
	r.run.Status, r.run.Reason, r.run.Error, r.run.WorkflowRunID = status, reason, text, b.FirstRunID
	inUTC(&r.run)
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
	if r.run.StartedAt != nil {
		adm.Elapsed = r.now.Sub(*r.run.StartedAt)
	}
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
		done, err = finishLimited(ctx, tx, f, false)
		return err
	})
	return done, err
}

// setFinished ends a row. One that was asked to stop gets the reason and the words of whoever asked, if it ends by that.
const setFinished = `UPDATE runs SET status = $2, finished_at = clock_timestamp(),
	       reason = CASE WHEN $2 = 'canceled' AND stop_reason <> '' THEN stop_reason ELSE $3 END,
	       error = CASE WHEN $2 = 'canceled' AND stop_note <> '' THEN stop_note ELSE $4 END
	WHERE id = $1 AND status IN ('accepted', 'queued', 'running')`

func (s *Store) finishUnlimited(ctx context.Context, f definition.Finish) (definition.Finished, error) {
	rows, err := s.pool.Query(ctx, setFinished+` AND run_limit = 0 AND NOT catch_up RETURNING `+runColumns,
		f.RunID, f.Status, f.Reason, f.Error)
	if err != nil {
		return definition.Finished{}, err
	}
	run, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, false) })
	return definition.Finished{Run: run}, err
}

// finishLimited ends a row under the lock of its key, and lets the next ones begin. With unbegun, it ends only a row that is still
// accepted.
func finishLimited(ctx context.Context, tx pgx.Tx, f definition.Finish, unbegun bool) (definition.Finished, error) {
	line, err := lineOf(ctx, tx, f.RunID)
	if err != nil {
		return definition.Finished{}, err
	}
	if err := line.lock(ctx, tx); err != nil {
		return definition.Finished{}, err
	}
	set := setFinished
	if unbegun {
		set += ` AND status = 'accepted'`
	}
	rows, err := tx.Query(ctx, set+` RETURNING `+runColumns, f.RunID, f.Status, f.Reason, f.Error)
	if err != nil {
		return definition.Finished{}, err
	}
	ended, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, false) })
	if errors.Is(err, pgx.ErrNoRows) {
		run, err := rereadRun(ctx, tx, f.RunID)
		return definition.Finished{Run: run, Repeated: true}, err
	}
	if err != nil || !line.limited() {
		return definition.Finished{Run: ended}, err
	}
	wake, err := line.admitNext(ctx, tx)
	if err != nil {
		return definition.Finished{}, err
	}
	return definition.Finished{Run: ended, Wake: wake}, line.forget(ctx, tx)
}

func rereadRun(ctx context.Context, tx pgx.Tx, id string) (definition.Run, error) {
	rows, err := tx.Query(ctx, `SELECT `+runColumns+` FROM runs WHERE id = $1`, id)
	if err != nil {
		return definition.Run{}, err
	}
	return pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, false) })
}
