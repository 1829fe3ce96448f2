package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// BeginTask marks a task as running and returns what its attempt needs, in one statement. A task that already ended is
// returned with its result, and is not to be done again. Errors: ErrNotFound for an unknown run or task,
// ErrOtherWorkflow when the run is not running any more.
func (s *Store) BeginTask(ctx context.Context, runID string, index, try int) (definition.TaskWork, error) {
	attempt := fmt.Sprintf("begin task %d of run %s", index, runID)
	rows, err := s.pool.Query(ctx, `
		WITH r AS (
			SELECT `+runColumns+`, input, v.document FROM runs
			JOIN LATERAL (SELECT document FROM definition_revisions v
			              WHERE v.definition_id = runs.definition_id AND v.revision = runs.revision) v ON true
			WHERE id = $1),
		begun AS (
			INSERT INTO task_results (run_id, index, name, type, status, attempts, started_at)
			SELECT $1, $2::int, document -> 'tasks' -> $2::int ->> 'name', document -> 'tasks' -> $2::int ->> 'type', 'running', $3, now()
			FROM r WHERE status = 'running' AND document -> 'tasks' -> $2::int IS NOT NULL
			ON CONFLICT (run_id, index) DO UPDATE SET attempts = GREATEST(task_results.attempts, excluded.attempts)
			WHERE task_results.status = 'running')
		SELECT r.id, r.seq, r.definition_id, r.definition_name, r.revision, r.kind, r.occurrence_key, r.status, r.reason,
		       r.error, r.event_id, r.event_type, r.trace_id, r.slot_at, r.catch_up, r.rerun_of, r.backfill_id, r.replay_id,
		       r.accepted_at, r.started_at, r.finished_at, r.workflow_id, r.workflow_run_id, r.input, r.document::text,
		       COALESCE(t.status, ''), COALESCE(t.error, ''), COALESCE(t.attempts, 0), t.output
		FROM r LEFT JOIN task_results t ON t.run_id = $1 AND t.index = $2::int`, runID, index, try)
	if err != nil {
		return definition.TaskWork{}, translate(attempt, err)
	}
	work, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.TaskWork, error) {
		var (
			w        definition.TaskWork
			document string
			done     definition.TaskResult
		)
		err := row.Scan(append(runFields(&w.Run), &w.Run.Input, &document, &done.Status, &done.Error, &done.Attempts,
			&done.Output)...)
		if err != nil {
			return w, err
		}
		inUTC(&w.Run)
		doc, err := definition.DecodeStored([]byte(document))
		if err != nil {
			return w, err
		}
		if index < 0 || index >= len(doc.Tasks) {
			return w, definition.ErrNotFound
		}
		w.Task = doc.Tasks[index]
		if done.Status != "" && done.Status != definition.TaskRunning {
			done.RunID, done.Index, done.Name, done.Type = runID, index, w.Task.Name, w.Task.Type
			w.Done = &done
		}
		return w, nil
	})
	if err == nil && work.Done == nil && work.Run.Status != definition.RunRunning {
		err = definition.ErrOtherWorkflow
	}
	return work, translate(attempt, err)
}

// FinishTask stores a task's result, or, with status running, its last error between two attempts. A result that is
// already final stays as it is.
func (s *Store) FinishTask(ctx context.Context, t definition.TaskResult) error {
	output, cut := t.Output, t.OutputTruncated
	if len(output) > definition.MaxOutput {
		output, cut = output[:definition.MaxOutput], true
	}
	_, err := s.pool.Exec(ctx, `
		INSERT INTO task_results (run_id, index, name, type, status, error, attempts, output, output_truncated, started_at,
		                          finished_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now(), CASE WHEN $10 THEN NULL ELSE now() END)
		ON CONFLICT (run_id, index) DO UPDATE
		SET status = excluded.status, error = excluded.error, attempts = GREATEST(task_results.attempts, excluded.attempts),
		    output = excluded.output, output_truncated = excluded.output_truncated, finished_at = excluded.finished_at
		WHERE task_results.status = 'running'`,
		t.RunID, t.Index, t.Name, t.Type, t.Status, bound(t.Error), t.Attempts, output, cut,
		t.Status == definition.TaskRunning)
	return translate(fmt.Sprintf("finish task %d of run %s", t.Index, t.RunID), err)
}

func scanTask(row pgx.CollectableRow) (definition.TaskResult, error) {
	var t definition.TaskResult
	err := row.Scan(&t.RunID, &t.Index, &t.Name, &t.Type, &t.Status, &t.Error, &t.Attempts, &t.Output, &t.OutputTruncated,
		&t.StartedAt, &t.FinishedAt)
	t.StartedAt, t.FinishedAt = t.StartedAt.UTC(), utc(t.FinishedAt)
	return t, err
}
