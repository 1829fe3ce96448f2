package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// OpenRuns returns which of these workflows have a row that is queued or running.
func (s *Store) OpenRuns(ctx context.Context, workflowIDs []string) ([]definition.Open, error) {
	var definitions, keys []string
	for _, id := range workflowIDs {
		if d, key, ok := definition.ParseWorkflowID(id); ok {
			definitions, keys = append(definitions, d), append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	rows, err := s.pool.Query(ctx, `
		SELECT r.id::text, r.workflow_id, r.definition_name
		FROM unnest($1::uuid[], $2::text[]) AS o (definition_id, key)
		JOIN runs r ON r.definition_id = o.definition_id AND r.occurrence_key = o.key
		WHERE r.status IN ('queued', 'running')`, definitions, keys)
	return collectOpen(rows, err)
}

// OverdueRuns returns running rows that should have ended, by their own timeout, longer ago than the grace.
func (s *Store) OverdueRuns(ctx context.Context, grace time.Duration, limit int) ([]definition.Open, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT id::text, workflow_id, definition_name FROM runs
		WHERE status = 'running' AND started_at + run_timeout < now() - $1::interval ORDER BY started_at LIMIT $2`, grace, limit)
	return collectOpen(rows, err)
}

func collectOpen(rows pgx.Rows, err error) ([]definition.Open, error) {
	const attempt = "look for open runs"
	if err != nil {
		return nil, translate(attempt, err)
	}
	open, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o definition.Open, err error) {
		err = row.Scan(&o.RunID, &o.WorkflowID, &o.Name)
		return o, err
	})
	return open, translate(attempt, err)
}

// CancelOpenTasks ends the tasks of a run, and their items, that are still shown as running, because nobody is left to do it.
func (s *Store) CancelOpenTasks(ctx context.Context, runID, why string) error {
	_, err := s.pool.Exec(ctx, `
		WITH items AS (
			UPDATE task_items SET status = 'canceled', error = $2, finished_at = now() WHERE run_id = $1 AND status = 'running')
		UPDATE task_results SET status = 'canceled', error = $2, finished_at = now() WHERE run_id = $1 AND status = 'running'`,
		runID, bound(why))
	return translate("cancel open tasks of run "+runID, err)
}
