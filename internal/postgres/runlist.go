package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// GetRun returns a run with its tasks, whole; ErrNotFound when there is none. It is for our own programs: it knows no scope.
func (s *Store) GetRun(ctx context.Context, id string) (definition.Run, error) {
	attempt := "get run " + id
	rows, err := s.pool.Query(ctx, `SELECT `+runColumns+`, input FROM runs WHERE id = $1`, id)
	if err != nil {
		return definition.Run{}, translate(attempt, err)
	}
	run, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Run, error) {
		return scanRun(row, true)
	})
	if err != nil {
		return definition.Run{}, translate(attempt, err)
	}
	rows, err = s.pool.Query(ctx, `
		SELECT run_id::text, index, name, type, status, error, attempts, output, output_truncated, started_at, finished_at
		FROM task_results WHERE run_id = $1 ORDER BY index`, id)
	if err != nil {
		return definition.Run{}, translate("get tasks of run "+id, err)
	}
	run.Tasks, err = pgx.CollectRows(rows, scanTask)
	return run, translate("get tasks of run "+id, err)
}

// GetRunDetail returns a run with its place in the queue and its tasks, of whose inputs and outputs it holds the first MaxShown bytes;
// ErrNotFound when there is none.
func (s *Store) GetRunDetail(ctx context.Context, id string) (definition.RunDetail, error) {
	attempt := "get run " + id
	var d definition.RunDetail
	scope, args := within(ctx, "r.definition_id", []any{id})
	rows, err := s.pool.Query(ctx, `
		SELECT `+runColumns+`, input,
		       CASE WHEN status = 'queued' THEN 1 + (
		           SELECT count(*) FROM runs w WHERE w.definition_id = r.definition_id AND w.concurrency_key = r.concurrency_key
		             AND w.seq < r.seq AND `+waits+`) ELSE 0 END
		FROM runs r WHERE id = $1`+scope, args...)
	if err != nil {
		return d, translate(attempt, err)
	}
	d, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (d definition.RunDetail, err error) {
		err = row.Scan(append(runFields(&d.Run), &d.Input, &d.QueuePosition)...)
		inUTC(&d.Run)
		return d, err
	})
	if err != nil {
		return d, translate(attempt, err)
	}
	rows, err = s.pool.Query(ctx, selectTaskDetail+` WHERE run_id = $1 ORDER BY index`, id, definition.MaxShown)
	if err != nil {
		return d, translate("get tasks of run "+id, err)
	}
	d.Tasks, err = pgx.CollectRows(rows, scanTaskDetail)
	return d, translate("get tasks of run "+id, err)
}

// selectTaskDetail takes the most bytes of an input or output as $2.
const selectTaskDetail = `
	SELECT run_id::text, index, name, type, status, error, attempts, substring(output FOR $2::int), output_truncated, started_at,
	       finished_at, substring(input FOR $2::int), COALESCE(octet_length(input), 0), COALESCE(octet_length(output), 0), items,
	       items_begun, wait_until
	FROM task_results`

func scanTaskDetail(row pgx.CollectableRow) (t definition.TaskDetail, err error) {
	err = row.Scan(&t.RunID, &t.Index, &t.Name, &t.Type, &t.Status, &t.Error, &t.Attempts, &t.Output, &t.OutputTruncated, &t.StartedAt,
		&t.FinishedAt, &t.Input, &t.InputBytes, &t.OutputBytes, &t.Items, &t.ItemsBegun, &t.WaitUntil)
	t.StartedAt, t.FinishedAt, t.WaitUntil = t.StartedAt.UTC(), utc(t.FinishedAt), utc(t.WaitUntil)
	return t, err
}

// GetTask returns a task of a run, whole, and a page of its items from one on, in order. ErrNotFound: the run, if there is one, has no
// such task, or did not reach it.
func (s *Store) GetTask(ctx context.Context, runID, name string, fromItem, limit int) (
	definition.TaskDetail, []definition.ItemDetail, error) {
	attempt := fmt.Sprintf("get task %s of run %s", name, runID)
	scope, args := within(ctx, "(SELECT definition_id FROM runs WHERE id = $1)", []any{runID, definition.MaxOutput + 1, name})
	rows, err := s.pool.Query(ctx, selectTaskDetail+` WHERE run_id = $1 AND name = $3`+scope, args...)
	if err != nil {
		return definition.TaskDetail{}, nil, translate(attempt, err)
	}
	t, err := pgx.CollectExactlyOneRow(rows, scanTaskDetail)
	if err != nil || t.Items == nil {
		return t, nil, translate(attempt, err)
	}
	rows, err = s.pool.Query(ctx, `
		SELECT item, status, error, attempts, substring(value FOR $5::int), octet_length(value), substring(output FOR $5::int),
		       COALESCE(octet_length(output), 0), output_truncated, started_at, finished_at
		FROM task_items WHERE run_id = $1 AND index = $2 AND item >= $3 ORDER BY item LIMIT $4`,
		runID, t.Index, fromItem, limit, definition.MaxShown)
	if err != nil {
		return t, nil, translate(attempt, err)
	}
	items, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i definition.ItemDetail, err error) {
		i.RunID, i.Index = runID, t.Index
		err = row.Scan(&i.Item, &i.Status, &i.Error, &i.Attempts, &i.Value, &i.ValueBytes, &i.Output, &i.OutputBytes, &i.OutputTruncated,
			&i.StartedAt, &i.FinishedAt)
		i.StartedAt, i.FinishedAt = i.StartedAt.UTC(), utc(i.FinishedAt)
		return i, err
	})
	return t, items, translate(attempt, err)
}

// ListRuns returns a page of runs, newest first, without their tasks and inputs.
func (s *Store) ListRuns(ctx context.Context, q definition.ListRuns) ([]definition.Run, error) {
	sql, args := listRuns(ctx, q)
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, translate("list runs", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, false) })
	return list, translate("list runs", err)
}

// whereRuns collects conditions on runs, with their arguments.
type whereRuns struct {
	conditions []string
	args       []any
}

// arg returns the number of an argument.
func (w *whereRuns) arg(value any) string {
	w.args = append(w.args, value)
	return fmt.Sprintf("$%d", len(w.args))
}

func (w *whereRuns) add(condition string, value any) {
	w.conditions = append(w.conditions, strings.ReplaceAll(condition, "?", w.arg(value)))
}

func (w *whereRuns) text() string {
	if len(w.conditions) == 0 {
		return "true"
	}
	return strings.Join(w.conditions, " AND ")
}

// The order of a list is that of the index that it is to be read by (see migration 7); all of them are newest first.
const (
	bySeq        = "-seq"
	byDefinition = "0 - seq"
)

// bounds adds the conditions that bound a list in an order: its page, and the time of acceptance. That is first brought into numbers, by
// which every index is ordered; a row is written, and gets its number, no later than five minutes after its transaction began, whose
// time is that of acceptance.
func (w *whereRuns) bounds(q definition.ListRuns, order string) {
	if q.BeforeSeq > 0 {
		w.add("seq < ? AND "+order+" > -?::bigint", q.BeforeSeq)
	}
	if !q.Since.IsZero() {
		const first = `COALESCE((
			SELECT seq FROM runs WHERE accepted_at < ?::timestamptz - interval '5 min' ORDER BY accepted_at DESC LIMIT 1), 0)`
		w.add(`accepted_at >= ? AND seq > `+first+` AND `+order+` < -`+first, q.Since)
	}
	if !q.Until.IsZero() {
		const last = `COALESCE((SELECT seq FROM runs WHERE accepted_at >= ?::timestamptz + interval '5 min' ORDER BY accepted_at LIMIT 1),
			9223372036854775807)`
		w.add(`accepted_at < ? AND seq < `+last+` AND `+order+` > -`+last, q.Until)
	}
}

// few adds the conditions of which each leaves few runs.
func (w *whereRuns) few(q definition.ListRuns) {
	if q.RerunOf != "" {
		w.add("rerun_of = ?", q.RerunOf)
	}
	if q.BackfillID != "" {
		w.add("backfill_id = ?", q.BackfillID)
	}
	if q.ReplayID != "" {
		w.add("replay_id = ?", q.ReplayID)
	}
	if q.EventID != "" {
		w.add("event_id = ? AND event_id <> ''", q.EventID)
	}
}

// definitions returns a statement that gives the ids of the definitions that are meant, all of the caller's scope; "" when all there
// are may be meant.
func (w *whereRuns) definitions(ctx context.Context, q definition.ListRuns) string {
	var sets []string
	if q.DefinitionID != "" {
		sets = append(sets, "SELECT "+w.arg(q.DefinitionID)+"::uuid AS id")
	}
	if q.Definition != "" {
		sets = append(sets, "SELECT id FROM definitions WHERE name = "+w.arg(q.Definition))
	}
	for _, labels := range []map[string]string{q.Labels, access.From(ctx).Labels} {
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			w.args = append(w.args, key, labels[key])
			sets = append(sets, fmt.Sprintf(withLabel, len(w.args)-1, len(w.args)))
		}
	}
	// Not INTERSECT, which would read each of the sets to its end.
	if len(sets) > 1 {
		return "SELECT first.id FROM (" + sets[0] + ") first (id) WHERE first.id IN (" + strings.Join(sets[1:], ") AND first.id IN (") + ")"
	}
	return strings.Join(sets, "")
}

// states returns the statuses and kinds that are meant; of what has a reason, only those that may have one.
func states(q definition.ListRuns) ([]definition.RunStatus, []definition.TriggerKind) {
	statuses, kinds := q.Statuses, q.Kinds
	if len(statuses) == 0 {
		statuses = definition.RunStatuses
	}
	if q.Reason != "" {
		statuses = slices.DeleteFunc(slices.Clone(statuses), func(s definition.RunStatus) bool {
			return !s.Final() || s == definition.RunSucceeded
		})
	}
	if len(kinds) == 0 {
		kinds = definition.TriggerKinds
	}
	return statuses, kinds
}

// listRuns writes the statement of a page. What is chosen by its definition or state is a merge: of each state, of each definition, the
// newest. So what is rare is found as fast as what is common, which the planner would not do by itself.
func listRuns(ctx context.Context, q definition.ListRuns) (string, []any) {
	var w whereRuns
	order := bySeq
	definitions := w.definitions(ctx, q)
	if definitions != "" {
		order = byDefinition
	}
	w.bounds(q, order)
	limit := " LIMIT " + w.arg(q.Limit)
	few := q.RerunOf != "" || q.BackfillID != "" || q.ReplayID != "" || q.EventID != ""
	chosen := few || definitions != "" || len(q.Statuses) > 0 || len(q.Kinds) > 0 || q.Reason != ""
	switch {
	case !chosen:
		return "SELECT " + runColumns + " FROM runs WHERE " + w.text() + " ORDER BY seq DESC" + limit, w.args
	case few || definitions == "" && q.Reason != "":
		w.few(q)
		w.states(q)
		if definitions != "" {
			w.conditions = append(w.conditions, "definition_id IN ("+definitions+")")
		}
		return "SELECT " + runColumns + " FROM runs WHERE " + w.text() + " ORDER BY " + bySeq + limit, w.args
	}
	statuses, kinds := states(q)
	from := []string{"unnest(" + w.arg(kinds) + "::text[]) k (wanted)", "unnest(" + w.arg(statuses) + "::text[]) s (wanted)"}
	w.conditions = append(w.conditions, "kind = k.wanted", "status = s.wanted")
	if definitions != "" {
		from = append(from, "("+definitions+") d (wanted)")
		w.conditions = append(w.conditions, "definition_id = d.wanted")
	}
	if q.Reason != "" {
		w.add("reason IS NOT DISTINCT FROM ?", q.Reason) // = would tempt the planner to an index of its own
	}
	return fmt.Sprintf(`
		SELECT %s FROM %s CROSS JOIN LATERAL (SELECT runs.* FROM runs WHERE %s ORDER BY %s%s) runs
		ORDER BY seq DESC%s`, runColumns, strings.Join(from, " CROSS JOIN "), w.text(), order, limit, limit), w.args
}

// states adds the conditions on the state as conditions.
func (w *whereRuns) states(q definition.ListRuns) {
	if len(q.Statuses) > 0 {
		w.add("status = ANY(?)", q.Statuses)
	}
	if len(q.Kinds) > 0 {
		w.add("kind = ANY(?)", q.Kinds)
	}
	if q.Reason != "" {
		w.add("reason = ? AND reason <> ''", q.Reason)
	}
}
