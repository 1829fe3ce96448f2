package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

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
	if statuses, _ := states(q); len(statuses) == 0 {
		return nil, nil // a reason, and only statuses that have none
	}
	labels, err := s.labels(ctx, q.Labels)
	if err != nil {
		return nil, translate(attempt, err)
	}
	sql, args := listRuns(q, labels)
	if worthAWalk(q, labels) {
		for _, most := range []int{maxWalked / 10, maxWalked} {
			ids, found, err := s.walkRuns(ctx, q, labels, most)
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

// maxProbes is how many places of an index are looked at for one page, and maxWalked how many runs in a row: each takes some hundredths
// of a second.
const (
	maxProbes = 10_000
	maxWalked = 5_000
)

// worthAWalk reports whether the runs of definitions with these labels are first looked for among the newest of all: where there are
// so many such definitions that a look at each takes long, that is where their runs are.
func worthAWalk(q definition.ListRuns, labels []label) bool {
	if few(q) || named(q) || len(labels) == 0 {
		return false
	}
	looks := 2
	if stated(q) {
		statuses, kinds := states(q)
		looks = len(statuses) * len(kinds)
	}
	return labels[0].definitions*looks > maxProbes
}

// walkRuns looks for a page among so many of the newest runs that can be on it. found is false when it would have to go on. The runs of
// each state have a walk of their own; up to the place that every walk has come to, all runs are known.
func (s *Store) walkRuns(ctx context.Context, q definition.ListRuns, labels []label, most int) (ids []string, found bool, err error) {
	var w whereRuns
	from, number, order := "(VALUES (1)) walk (number)", "walk.number", byState
	if stated(q) {
		statuses, kinds := states(q)
		from = "unnest(" + w.arg(kinds) + "::text[]) WITH ORDINALITY k (wanted, number), unnest(" + w.arg(statuses) +
			"::text[]) WITH ORDINALITY s (wanted, number)"
		number = "k.number * 100 + s.number"
		w.conditions = append(w.conditions, "kind = k.wanted", "status = s.wanted")
		w.reason(q)
		most /= max(1, len(statuses)*len(kinds))
	} else {
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
		number, from, w.text(), order, length, w.ofDefinitions(q, labels), limit), w.args...).Scan(&ids, &whole)
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

// The order of a list is that of the index that it is to be read by (see migrations 7 and 13); all of them are newest first. plain leaves
// the choice to the planner.
const (
	byState           = "-seq"
	byDefinition      = "-1 * seq"
	byDefinitionState = "0 - seq"
	plain             = "seq DESC"
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

// named reports whether a filter names a definition.
func named(q definition.ListRuns) bool { return q.DefinitionID != "" || q.Definition != "" }

// stated reports whether a filter of what became of the runs, or of what made them due, is given.
func stated(q definition.ListRuns) bool {
	return len(q.Statuses) > 0 || len(q.Kinds) > 0 || q.Reason != ""
}

// definitions returns a statement that gives the ids of the definitions that are meant; "" when all there are may be meant. It begins
// with those that are named, or else with those that have the first label.
func (w *whereRuns) definitions(q definition.ListRuns, labels []label) string {
	var sets []string
	if q.DefinitionID != "" {
		sets = append(sets, "SELECT "+w.arg(q.DefinitionID)+"::uuid")
	}
	if q.Definition != "" {
		sets = append(sets, "SELECT id FROM definitions WHERE name = "+w.arg(q.Definition))
	}
	var set string
	switch {
	case len(sets) == 0 && len(labels) == 0:
		return ""
	case len(sets) == 0:
		set, w.args = withLabels(labels, w.args)
		return set
	case len(sets)+len(labels) == 1:
		return sets[0]
	}
	conditions, args := hasLabels("first.id", labels, w.args)
	w.args = args
	for _, set := range sets[1:] {
		conditions = append(conditions, "first.id IN ("+set+")")
	}
	return "SELECT first.id FROM (" + sets[0] + ") first (id) WHERE " + strings.Join(conditions, " AND ")
}

// ofDefinitions is a condition on runs that says the same as definitions, for statements that come to them by another way.
func (w *whereRuns) ofDefinitions(q definition.ListRuns, labels []label) string {
	if !named(q) && len(labels) > 0 && labels[0].definitions > maxProbes {
		conditions, args := hasLabels("runs.definition_id", labels, w.args)
		w.args = args
		return strings.Join(conditions, " AND ")
	}
	if definitions := w.definitions(q, labels); definitions != "" {
		return "definition_id IN (" + definitions + ")"
	}
	return "true"
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
// newest. So what is rare is found as fast as what is common, which the planner would not do by itself. Of what a backfill, a replay, an
// event or a run led to, which is little, all is read from the newest on.
func listRuns(q definition.ListRuns, labels []label) (string, []any) {
	var w whereRuns
	all := !named(q) && len(labels) == 0
	order := byDefinition
	switch {
	case few(q), all && stated(q):
		order = byState
	case all:
		order = plain
	case stated(q):
		order = byDefinitionState
	}
	w.bounds(q, order)
	w.few(q)
	read, limit := w.text(), w.arg(q.Limit)
	w.conditions = nil
	if few(q) {
		w.states(q)
		w.conditions = append(w.conditions, w.ofDefinitions(q, labels))
		// Within COALESCE no condition looks like one of another index.
		return fmt.Sprintf("SELECT %s FROM runs WHERE %s AND COALESCE(%s, false) ORDER BY %s LIMIT %s", runColumns, read, w.text(), order, limit),
			w.args
	}
	if all && !stated(q) {
		return fmt.Sprintf("SELECT %s FROM runs WHERE %s ORDER BY %s LIMIT %s", runColumns, read, order, limit), w.args
	}
	var from []string
	state := ""
	if stated(q) {
		statuses, kinds := states(q)
		from = []string{"unnest(" + w.arg(kinds) + "::text[]) k (of_kind)", "unnest(" + w.arg(statuses) + "::text[]) s (of_status)"}
		w.conditions = []string{"kind = of_kind", "status = of_status"}
		w.reason(q)
		state = w.text()
		read += " AND " + state
	}
	with := ""
	if !all {
		read += " AND definition_id = wanted"
		definitions := "(" + w.definitions(q, labels) + ") d (wanted)"
		if !named(q) {
			with = w.best(q, definitions, from, state, read, limit)
			read += " AND " + order + " <= -" + nth("best", limit)
			definitions = "best"
			if stated(q) {
				from = []string{"states"}
			}
		}
		from = append(from, definitions)
	}
	return with + newest(runColumns, from, read, order, limit) + " ORDER BY seq DESC LIMIT " + limit, w.args
}

// best returns the beginning of a statement that finds the definitions of which a page can have runs, as best (wanted, newest): those
// whose newest runs of all that are meant are the newest, as many as the page has places. Where the runs are to have some state, that
// would be a look at each definition and state. But no definition has a newer run in some state than its newest one. So it is a look
// at each definition for that; then one at each state of those with the newest runs, four for each place; and then only of those others
// that may have a newer one than the last of these. The states that are wanted, and that any run has, are states (of_kind, of_status).
//
// from gives the states that are wanted, state is the condition of having one, and read are all conditions on the runs.
func (w *whereRuns) best(q definition.ListRuns, definitions string, from []string, state, read, limit string) string {
	w.conditions = []string{"definition_id = wanted"}
	w.bounds(q, byDefinition)
	with := "WITH latest AS MATERIALIZED (" + newest("wanted, runs.seq AS newest", []string{definitions}, w.text(), byDefinition, "1") + "), "
	found := "latest"
	if stated(q) {
		with += "states AS MATERIALIZED (" + newest("of_kind, of_status", from, state, byState, "1") + "), "
		of := func(definitions string) string {
			return newest("wanted, max(runs.seq) AS newest", []string{"states", definitions}, read, byDefinitionState, "1") + " GROUP BY wanted"
		}
		with += "ahead AS MATERIALIZED (" + of("(SELECT wanted FROM latest ORDER BY newest DESC LIMIT 4 * "+limit+"::bigint) d") + "), "
		with += "found AS (SELECT * FROM ahead UNION ALL (" + of("(SELECT wanted FROM (SELECT * FROM latest ORDER BY newest DESC OFFSET 4 * "+
			limit+"::bigint) d WHERE newest >= "+nth("ahead", limit)+") d") + ")), "
		found = "found"
	}
	return with + "best AS MATERIALIZED (SELECT * FROM " + found + " ORDER BY newest DESC LIMIT " + limit + ") "
}

// newest returns a statement that gives, for each combination of what it is from, its newest runs under conditions, in an order.
func newest(columns string, from []string, conditions, order, limit string) string {
	return fmt.Sprintf("SELECT %s FROM %s CROSS JOIN LATERAL (SELECT runs.* FROM runs WHERE %s ORDER BY %s LIMIT %s) runs",
		columns, strings.Join(from, " CROSS JOIN "), conditions, order, limit)
}

// nth returns an expression: the number of the last run that can be on a page, given the newest ones of some definitions; 0 where these
// do not fill it.
func nth(of, limit string) string {
	return "COALESCE((SELECT newest FROM " + of + " ORDER BY newest DESC LIMIT 1 OFFSET " + limit + "::bigint - 1), 0)"
}

// states adds the conditions on the state as conditions.
func (w *whereRuns) states(q definition.ListRuns) {
	if len(q.Statuses) > 0 {
		w.add("status = ANY(?)", q.Statuses)
	}
	if len(q.Kinds) > 0 {
		w.add("kind = ANY(?)", q.Kinds)
	}
	w.reason(q)
}

func (w *whereRuns) reason(q definition.ListRuns) {
	if q.Reason != "" {
		w.add("reason = ? AND reason <> ''", q.Reason)
	}
}
