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
	const attempt = "list runs"
	walk, many, err := s.judgeDefinitions(ctx, q)
	if err != nil {
		return nil, translate(attempt, err)
	}
	sql, args := listRuns(ctx, q, many)
	if walk {
		for _, most := range []int{maxWalked / 10, maxWalked} {
			ids, found, err := s.walkRuns(ctx, q, most)
			if err != nil {
				return nil, translate(attempt, err)
			}
			if found {
				sql, args = "SELECT "+runColumns+" FROM runs WHERE id = ANY($1::uuid[]) ORDER BY seq DESC", []any{ids}
				break
			}
		}
	}
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, translate(attempt, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, false) })
	return list, translate(attempt, err)
}

// maxProbes is how many places of an index are looked at for one page, and maxWalked how many runs in a row: about a hundredth of a
// second each.
const (
	maxProbes = 10_000
	maxWalked = 10_000
)

// judgeDefinitions tells how the runs of definitions with some labels are best found. Those of a few definitions are a merge of the
// newest of each. Where there are many definitions, their runs are likely to be among the newest of all, and walk says to look there
// first; many says that a merge has to do with one look at each of them. Runs with a reason are few, and walked to in any case.
func (s *Store) judgeDefinitions(ctx context.Context, q definition.ListRuns) (walk, many bool, err error) {
	var w whereRuns
	set := w.definitions(ctx, q)
	if set == "" || few(q) || q.DefinitionID != "" || q.Definition != "" {
		return false, false, nil
	}
	statuses, kinds := states(q)
	probes := max(1, len(statuses)*len(kinds))
	var n int
	err = s.pool.QueryRow(ctx, "SELECT count(*) FROM (SELECT FROM ("+set+") d LIMIT "+w.arg(maxProbes+1)+") d", w.args...).Scan(&n)
	many = n > maxProbes/probes
	stated := len(q.Statuses) > 0 || len(q.Kinds) > 0
	return q.Reason != "" || n > maxProbes || stated && many, many, err
}

// walkRuns looks for a page among so many of the newest runs that can be on it. found is false when it would have to go on. The runs of
// each state have a walk of their own; up to the place that every walk has come to, all runs are known.
func (s *Store) walkRuns(ctx context.Context, q definition.ListRuns, most int) (ids []string, found bool, err error) {
	var w whereRuns
	from, number, order := "(VALUES (1)) walk (number)", "walk.number", bySeq
	switch {
	case q.Reason != "":
		w.states(q)
	case len(q.Statuses) > 0 || len(q.Kinds) > 0:
		statuses, kinds := states(q)
		from = "unnest(" + w.arg(kinds) + "::text[]) WITH ORDINALITY k (wanted, number), unnest(" + w.arg(statuses) +
			"::text[]) WITH ORDINALITY s (wanted, number)"
		number = "k.number * 100 + s.number"
		w.conditions = append(w.conditions, "kind = k.wanted", "status = s.wanted")
		most /= max(1, len(statuses)*len(kinds))
	default:
		order = plain
	}
	w.bounds(q, order)
	limit, length := w.arg(q.Limit), w.arg(most)
	var whole bool
	err = s.pool.QueryRow(ctx, fmt.Sprintf(`
		WITH walked AS MATERIALIZED (
			SELECT r.*, %[1]s AS walk FROM %[2]s CROSS JOIN LATERAL (
				SELECT id, seq, definition_id FROM runs WHERE %[3]s ORDER BY %[4]s LIMIT %[5]s) r
		), known AS (
			SELECT COALESCE(max(to_seq), 0) AS seq FROM (SELECT min(seq) AS to_seq FROM walked GROUP BY walk HAVING count(*) >= %[5]s) w
		)
		SELECT array(SELECT id::text FROM (SELECT * FROM walked WHERE seq >= (SELECT seq FROM known) ORDER BY seq DESC OFFSET 0) runs
		             WHERE %[6]s LIMIT %[7]s), seq = 0 FROM known`,
		number, from, w.text(), order, length, w.ofDefinitions(ctx, q), limit), w.args...).Scan(&ids, &whole)
	return ids, whole || len(ids) == q.Limit, err
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

// The order of a list is that of the index that it is to be read by (see migration 7); all of them are newest first. plain leaves the
// choice to the planner.
const (
	bySeq        = "-seq"
	byDefinition = "0 - seq"
	plain        = "seq DESC"
)

// bounds adds the conditions that bound a list in an order: its page, and the time of acceptance. That is first brought into numbers, by
// which every index is ordered; a row is written, and gets its number, no later than five minutes after its transaction began, whose
// time is that of acceptance. All of them are said in terms of the order, and the time in none of an index, so that no other index
// looks promising.
func (w *whereRuns) bounds(q definition.ListRuns, order string) {
	above, below, sign := " > ", " < ", "-"
	if order == plain {
		order, above, below, sign = "seq", " < ", " > ", ""
	}
	if q.BeforeSeq > 0 {
		w.add(order+above+sign+"?::bigint", q.BeforeSeq)
	}
	if !q.Since.IsZero() {
		w.add(`accepted_at + interval '0' >= ? AND `+order+below+sign+`COALESCE((
			SELECT seq FROM runs WHERE accepted_at < ?::timestamptz - interval '5 min' ORDER BY accepted_at DESC LIMIT 1), 0)`, q.Since)
	}
	if !q.Until.IsZero() {
		w.add(`accepted_at + interval '0' < ? AND `+order+above+sign+`COALESCE((
			SELECT seq FROM runs WHERE accepted_at >= ?::timestamptz + interval '5 min' ORDER BY accepted_at LIMIT 1),
			9223372036854775807)`, q.Until)
	}
}

// few reports whether a filter is given that leaves few runs.
func few(q definition.ListRuns) bool {
	return q.RerunOf != "" || q.BackfillID != "" || q.ReplayID != "" || q.EventID != ""
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
	sets := w.named(q)
	for _, l := range labelsOf(ctx, q) {
		w.args = append(w.args, l.key, l.value)
		sets = append(sets, fmt.Sprintf(withLabel, len(w.args)-1, len(w.args)))
	}
	// Not INTERSECT, which would read each of the sets to its end.
	if len(sets) > 1 {
		return "SELECT first.id FROM (" + sets[0] + ") first (id) WHERE first.id IN (" + strings.Join(sets[1:], ") AND first.id IN (") + ")"
	}
	return strings.Join(sets, "")
}

// named returns statements that give the ids of the definitions that a filter names.
func (w *whereRuns) named(q definition.ListRuns) (sets []string) {
	if q.DefinitionID != "" {
		sets = append(sets, "SELECT "+w.arg(q.DefinitionID)+"::uuid AS id")
	}
	if q.Definition != "" {
		sets = append(sets, "SELECT id FROM definitions WHERE name = "+w.arg(q.Definition))
	}
	return sets
}

// ofDefinitions is a condition on runs that says the same as definitions, for statements that come to the runs by another way: the labels
// of each are looked up, since there may be many definitions that have them.
func (w *whereRuns) ofDefinitions(ctx context.Context, q definition.ListRuns) string {
	conditions := []string{"true"}
	for _, set := range w.named(q) {
		conditions = append(conditions, "definition_id IN ("+set+")")
	}
	for _, l := range labelsOf(ctx, q) {
		conditions = append(conditions, fmt.Sprintf(`COALESCE((
			SELECT true FROM definition_labels l WHERE l.definition_id = runs.definition_id AND l.key = %s AND l.value = %s), false)`,
			w.arg(l.key), w.arg(l.value)))
	}
	return strings.Join(conditions, " AND ")
}

type label struct{ key, value string }

// labelsOf returns the labels that are meant, and those of the caller's scope.
func labelsOf(ctx context.Context, q definition.ListRuns) (list []label) {
	for _, labels := range []map[string]string{q.Labels, access.From(ctx).Labels} {
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			list = append(list, label{key, labels[key]})
		}
	}
	return list
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
// newest. So what is rare is found as fast as what is common, which the planner would not do by itself. Of many definitions, those are
// found first that have the newest runs, by one look at each of them and state: no other one can be on the page.
func listRuns(ctx context.Context, q definition.ListRuns, many bool) (string, []any) {
	var w whereRuns
	all := q.DefinitionID == "" && q.Definition == "" && len(labelsOf(ctx, q)) == 0
	stated := len(q.Statuses) > 0 || len(q.Kinds) > 0 || q.Reason != ""
	order := bySeq
	switch {
	case few(q), all && stated:
	case all, many && !stated:
		order = plain
	default:
		order = byDefinition
	}
	w.bounds(q, order)
	limit := " LIMIT " + w.arg(q.Limit)
	switch {
	case !few(q) && all && !stated:
		return "SELECT " + runColumns + " FROM runs WHERE " + w.text() + " ORDER BY seq DESC" + limit, w.args
	case few(q) || all && q.Reason != "":
		w.few(q)
		w.states(q)
		w.conditions = append(w.conditions, w.ofDefinitions(ctx, q))
		return "SELECT " + runColumns + " FROM runs WHERE " + w.text() + " ORDER BY " + bySeq + limit, w.args
	}
	definitions := w.definitions(ctx, q)
	var from []string
	if stated || !many {
		statuses, kinds := states(q)
		from = []string{"unnest(" + w.arg(kinds) + "::text[]) k (wanted)", "unnest(" + w.arg(statuses) + "::text[]) s (wanted)"}
		w.conditions = append(w.conditions, "kind = k.wanted", "status = s.wanted")
	}
	if q.Reason != "" {
		w.add("reason IS NOT DISTINCT FROM ?", q.Reason) // = would tempt the planner to an index of its own
	}
	newest := func(columns, from, limit string) string {
		return "SELECT " + columns + " FROM " + from + " CROSS JOIN LATERAL (SELECT runs.* FROM runs WHERE " + w.text() + " ORDER BY " + order + limit + ") runs"
	}
	if !all {
		w.conditions = append(w.conditions, "definition_id = d.wanted")
		if many {
			definitions = "SELECT wanted FROM (" + newest("d.wanted, runs.seq", strings.Join(append(from, "("+definitions+") d (wanted)"), " CROSS JOIN "), " LIMIT 1") +
				") d GROUP BY wanted ORDER BY max(seq) DESC" + limit
		}
		from = append(from, "("+definitions+") d (wanted)")
	}
	return newest(runColumns, strings.Join(from, " CROSS JOIN "), limit) + " ORDER BY seq DESC" + limit, w.args
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
