package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// RunDocument returns the revision of its definition that a run carries out; ErrNotFound when there is no such run.
func (s *Store) RunDocument(ctx context.Context, runID string) (definition.Document, error) {
	attempt := "read the definition of run " + runID
	var document string
	err := s.pool.QueryRow(ctx, `
		SELECT v.document::text FROM runs JOIN definition_revisions v USING (definition_id, revision) WHERE runs.id = $1`, runID).
		Scan(&document)
	if err != nil {
		return definition.Document{}, translate(attempt, err)
	}
	doc, err := definition.DecodeStored([]byte(document))
	return doc, translate(attempt, err)
}

// begunRun and whatItReads are the parts that the two forms of BeginTask share. The results that were asked for come as arrays: a row
// each would repeat the run. That a task has begun is not worth a wait for the disk: should Postgres crash and forget it, the
// task's end writes the row.
const (
	begunRun    = `WITH r AS (SELECT ` + runColumns + `, input FROM runs WHERE id = $1), `
	whatItReads = ` LEFT JOIN LATERAL (
		SELECT array_agg(d.name), array_agg(d.status), array_agg(d.error), array_agg(d.output), array_agg(d.output_truncated)
		FROM task_results d WHERE d.run_id = $1 AND d.name = ANY($7)) reads ON true
		CROSS JOIN (SELECT set_config('synchronous_commit', 'off', true)) relaxed`
	beginTask = begunRun + `begun AS (
			INSERT INTO task_results (run_id, index, name, type, status, attempts, started_at)
			SELECT $1, $2, $3, $4, 'running', $5, now() FROM r WHERE status = 'running' AND NOT $6
			ON CONFLICT (run_id, index) DO UPDATE SET attempts = GREATEST(task_results.attempts, excluded.attempts)
			WHERE task_results.status = 'running')
		SELECT r.*, COALESCE(t.status, ''), COALESCE(t.error, ''), COALESCE(t.attempts, 0), t.output, reads.*
		FROM r LEFT JOIN task_results t ON t.run_id = $1 AND t.index = $2` + whatItReads
	// The columns of a task's row that an item's has no use for are those that $3 and $4 are for.
	beginItem = begunRun + `begun AS (
			INSERT INTO task_items (run_id, index, item, status, attempts, value)
			SELECT $1, $2, $8, 'running', $5, $9 FROM r WHERE status = 'running' AND NOT $6 AND $3::text <> '' AND $4::text <> ''
			ON CONFLICT (run_id, index, item) DO UPDATE SET attempts = GREATEST(task_items.attempts, excluded.attempts)
			WHERE task_items.status = 'running')
		SELECT r.*, COALESCE(t.status, ''), COALESCE(t.error, ''), COALESCE(t.attempts, 0), t.output, reads.*
		FROM r LEFT JOIN task_items t ON t.run_id = $1 AND t.index = $2 AND t.item = $8` + whatItReads
)

// BeginTask marks a task, or an item of one, as running and returns what its attempt needs, in one statement. What already ended is
// returned with its result, and is not to be done again. Errors: ErrNotFound for an unknown run, ErrOtherWorkflow when the run is
// not running any more.
func (s *Store) BeginTask(ctx context.Context, b definition.TaskBegin) (definition.TaskWork, error) {
	attempt := fmt.Sprintf("begin task %d of run %s", b.Index, b.RunID)
	reads := b.Reads
	if reads == nil {
		reads = []string{}
	}
	statement, args := beginTask, []any{b.RunID, b.Index, b.Name, b.Type, b.Attempt, b.Look, reads}
	if b.Item >= 0 {
		value := b.Value
		if value == nil {
			value = []byte("null")
		}
		statement, args = beginItem, append(args, b.Item, value)
	}
	rows, err := s.pool.Query(ctx, statement, args...)
	if err != nil {
		return definition.TaskWork{}, translate(attempt, err)
	}
	work, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.TaskWork, error) {
		w := definition.TaskWork{Item: b.Item}
		done := definition.TaskResult{RunID: b.RunID, Index: b.Index, Name: b.Name, Type: b.Type}
		var (
			names, statuses, texts []string
			outputs                [][]byte
			cut                    []bool
		)
		err := row.Scan(append(runFields(&w.Run), &w.Run.Input, &done.Status, &done.Error, &done.Attempts, &done.Output,
			&names, &statuses, &texts, &outputs, &cut)...)
		if err != nil {
			return w, err
		}
		inUTC(&w.Run)
		for i, name := range names {
			w.Results = append(w.Results, definition.TaskResult{RunID: b.RunID, Name: name, Error: texts[i],
				Status: definition.TaskStatus(statuses[i]), Output: outputs[i], OutputTruncated: cut[i]})
		}
		if done.Status != "" && done.Status != definition.TaskRunning {
			w.Done = &done
		}
		return w, nil
	})
	if err == nil && work.Done == nil && work.Run.Status != definition.RunRunning {
		err = definition.ErrOtherWorkflow
	}
	return work, translate(attempt, err)
}

// AddTask stores the result of a task that was not begun before, in one statement. It reports whether it did: false when the task
// has a row, or the run is not running any more.
func (s *Store) AddTask(ctx context.Context, t definition.TaskResult) (bool, error) {
	output, cut := cutOutput(t.Output, t.OutputTruncated)
	tag, err := s.pool.Exec(ctx, `
		INSERT INTO task_results (run_id, index, name, type, status, error, attempts, output, output_truncated, input, started_at,
		                          finished_at)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now(), now() FROM runs WHERE id = $1 AND status = 'running'
		ON CONFLICT DO NOTHING`,
		t.RunID, t.Index, t.Name, t.Type, t.Status, bound(t.Error), t.Attempts, output, cut, t.Input)
	return tag.RowsAffected() == 1, translate(fmt.Sprintf("add task %d of run %s", t.Index, t.RunID), err)
}

// FinishTask stores a task's result, or, with status running, its last error between two attempts. A result that is
// already final stays as it is.
func (s *Store) FinishTask(ctx context.Context, t definition.TaskResult) error {
	output, cut := cutOutput(t.Output, t.OutputTruncated)
	_, err := s.pool.Exec(ctx, `
		INSERT INTO task_results (run_id, index, name, type, status, error, attempts, output, output_truncated, input, started_at,
		                          finished_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $11, now(), CASE WHEN $10 THEN NULL ELSE now() END)
		ON CONFLICT (run_id, index) DO UPDATE
		SET status = excluded.status, error = excluded.error, attempts = GREATEST(task_results.attempts, excluded.attempts),
		    output = excluded.output, output_truncated = excluded.output_truncated, finished_at = excluded.finished_at,
		    input = COALESCE(excluded.input, task_results.input)
		WHERE task_results.status = 'running'`,
		t.RunID, t.Index, t.Name, t.Type, t.Status, bound(t.Error), t.Attempts, output, cut,
		t.Status == definition.TaskRunning, t.Input)
	return translate(fmt.Sprintf("finish task %d of run %s", t.Index, t.RunID), err)
}

// FinishItem is FinishTask for an item of a for_each task. Value is only needed for an item that was not begun.
func (s *Store) FinishItem(ctx context.Context, t definition.ItemResult) error {
	output, cut := cutOutput(t.Output, t.OutputTruncated)
	value := t.Value
	if value == nil {
		value = []byte("null")
	}
	_, err := s.pool.Exec(ctx, `
		INSERT INTO task_items (run_id, index, item, status, error, attempts, value, output, output_truncated, finished_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $10 THEN NULL ELSE now() END)
		ON CONFLICT (run_id, index, item) DO UPDATE
		SET status = excluded.status, error = excluded.error, attempts = GREATEST(task_items.attempts, excluded.attempts),
		    output = excluded.output, output_truncated = excluded.output_truncated, finished_at = excluded.finished_at
		WHERE task_items.status = 'running'`,
		t.RunID, t.Index, t.Item, t.Status, bound(t.Error), t.Attempts, value, output, cut, t.Status == definition.TaskRunning)
	return translate(fmt.Sprintf("finish item %d of task %d of run %s", t.Item, t.Index, t.RunID), err)
}

func cutOutput(output []byte, cut bool) ([]byte, bool) {
	if len(output) > definition.MaxOutput {
		return output[:definition.MaxOutput], true
	}
	return output, cut
}

// PlanItems stores how many items a for_each task has. It returns the status of each one that was begun (others have none), and what
// is left of the task's timeout.
func (s *Store) PlanItems(
	ctx context.Context, runID string, index, items int, limit time.Duration,
) (_ []definition.TaskStatus, left time.Duration, _ error) {
	attempt := fmt.Sprintf("plan the items of task %d of run %s", index, runID)
	err := s.pool.QueryRow(ctx, `
		UPDATE task_results SET items = $3, items_begun = COALESCE(items_begun, 0) WHERE run_id = $1 AND index = $2
		RETURNING started_at + $4::interval - now()`, runID, index, items, limit).Scan(&left)
	if err != nil {
		return nil, 0, translate(attempt, err)
	}
	rows, err := s.pool.Query(ctx, `SELECT item, status FROM task_items WHERE run_id = $1 AND index = $2 AND item < $3`, runID, index, items)
	if err != nil {
		return nil, 0, translate(attempt, err)
	}
	statuses := make([]definition.TaskStatus, items)
	var item int
	var status definition.TaskStatus
	_, err = pgx.ForEachRow(rows, []any{&item, &status}, func() error {
		statuses[item] = status
		return nil
	})
	return statuses, left, translate(attempt, err)
}

// FinishItems ends a for_each task: its output is the list of its items' outputs, null for an item that has none, cut to MaxOutput.
// The status is the one that is given, or else made of the items': failed when one of them failed, with the first one's error.
// A result that is final already stays, and is returned.
func (s *Store) FinishItems(ctx context.Context, t definition.TaskResult) (definition.TaskResult, error) {
	attempt := fmt.Sprintf("finish the items of task %d of run %s", t.Index, t.RunID)
	// The first statement makes the items final that the run has given up; the second must see that.
	err := s.tx(ctx, attempt, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE task_items SET status = 'canceled', finished_at = now() WHERE run_id = $1 AND index = $2 AND status = 'running'`,
			t.RunID, t.Index)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			WITH i AS (
				SELECT item, status, error, output, output_truncated AS cut,
				       sum(COALESCE(octet_length(output), 4) + 1) OVER (ORDER BY item) + 1 AS total
				FROM task_items WHERE run_id = $1 AND index = $2),
			o AS (
				SELECT '['::bytea || COALESCE(string_agg(COALESCE(output, 'null'), ','::bytea ORDER BY item)
				           FILTER (WHERE total - COALESCE(octet_length(output), 4) - 1 <= $5), '') || ']'::bytea AS output,
				       COALESCE(max(total) > $5 OR bool_or(cut), false) AS cut, count(*) AS begun,
				       count(*) FILTER (WHERE status IN ('failed', 'timed_out')) AS failed, count(*) AS n
				FROM i),
			f AS (SELECT item, error FROM i WHERE status IN ('failed', 'timed_out') ORDER BY item LIMIT 1),
			done AS (
				UPDATE task_results t
				SET output = substring(o.output FOR $5), output_truncated = o.cut, items_begun = o.begun, finished_at = now(), attempts = 1,
				    status = CASE WHEN $3 <> '' THEN $3 WHEN o.failed > 0 THEN 'failed' ELSE 'succeeded' END,
				    error = CASE WHEN $3 <> '' OR o.failed = 0 THEN $4
				                 ELSE left('item ' || f.item || ': ' || f.error, $6)
				                      || CASE WHEN o.failed > 1 THEN ' (and ' || o.failed - 1 || ' more failed)' ELSE '' END END
				FROM o LEFT JOIN f ON true
				WHERE t.run_id = $1 AND t.index = $2 AND t.status = 'running'
				RETURNING t.status, t.error)
			SELECT status, error FROM done
			UNION ALL SELECT status, error FROM task_results
			WHERE run_id = $1 AND index = $2 AND NOT EXISTS (SELECT FROM done)`,
			t.RunID, t.Index, t.Status, bound(t.Error), definition.MaxOutput, definition.MaxError/2).Scan(&t.Status, &t.Error)
	})
	return t, translate(attempt, err)
}

// PlanWait stores until when a task waits, which is settled by the first call, and returns what is left.
func (s *Store) PlanWait(ctx context.Context, runID string, index int, p definition.WaitPlan) (definition.WaitLeft, error) {
	var duration *time.Duration
	var until *time.Time
	if p.Duration > 0 {
		duration = &p.Duration
	}
	if !p.Until.IsZero() {
		until = &p.Until
	}
	var left definition.WaitLeft
	err := s.pool.QueryRow(ctx, `
		UPDATE task_results
		SET wait_until = COALESCE(wait_until, $4, started_at + $3::interval), input = COALESCE(input, $6)
		WHERE run_id = $1 AND index = $2
		RETURNING COALESCE(wait_until - now(), interval '0'), started_at + $5::interval - now()`,
		runID, index, duration, until, p.Limit, p.Input).Scan(&left.Left, &left.Limit)
	return left, translate(fmt.Sprintf("plan the wait of task %d of run %s", index, runID), err)
}

// addProgress fills in how far a running run came that is carried out anew.
func (s *Store) addProgress(ctx context.Context, adm *definition.Admission, err error) (definition.Admission, error) {
	if err != nil || adm.Run.Status != definition.RunRunning || !adm.Repeated && adm.Run.Kind != definition.KindRerun {
		return *adm, err
	}
	attempt := "read the progress of run " + adm.Run.ID
	rows, err := s.pool.Query(ctx, `
		SELECT index, status, error, COALESCE(now() - finished_at, interval '0') FROM task_results WHERE run_id = $1 ORDER BY index`,
		adm.Run.ID)
	if err != nil {
		return *adm, translate(attempt, err)
	}
	adm.Progress, err = pgx.CollectRows(rows, pgx.RowToStructByPos[definition.TaskProgress])
	return *adm, translate(attempt, err)
}

func scanTask(row pgx.CollectableRow) (definition.TaskResult, error) {
	var t definition.TaskResult
	err := row.Scan(&t.RunID, &t.Index, &t.Name, &t.Type, &t.Status, &t.Error, &t.Attempts, &t.Output, &t.OutputTruncated,
		&t.StartedAt, &t.FinishedAt)
	t.StartedAt, t.FinishedAt = t.StartedAt.UTC(), utc(t.FinishedAt)
	return t, err
}
