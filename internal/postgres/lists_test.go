package postgres

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// TestRunsOfManyDefinitions finds pages of runs by labels in each of the ways that there are for many definitions, as if these were
// many, and compares them with what reading everything gives.
func TestRunsOfManyDefinitions(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	const n = 5000
	d := fillRuns(t, s, n)
	var newest definition.Run
	if list, err := s.ListRuns(ctx, definition.ListRuns{Limit: 1}); err != nil {
		t.Fatal(err)
	} else {
		newest = list[0]
	}
	many := func(pairs ...string) (list []label) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, label{pairs[i], pairs[i+1], maxProbes + 1})
		}
		return list
	}
	for name, tt := range map[string]struct {
		q      definition.ListRuns
		labels []label
	}{
		"common":           {definition.ListRuns{}, many("team", "t0")},
		"rare":             {definition.ListRuns{}, many("team", "t1")},
		"of nobody":        {definition.ListRuns{}, many("team", "t9")},
		"both":             {definition.ListRuns{}, many("team", "t0", "team", "t1")},
		"rare status":      {definition.ListRuns{Statuses: []definition.RunStatus{definition.RunTimedOut}}, many("team", "t0")},
		"two statuses":     {definition.ListRuns{Statuses: []definition.RunStatus{definition.RunSucceeded, definition.RunFailed}}, many("team", "t0")},
		"rare kind":        {definition.ListRuns{Kinds: []definition.TriggerKind{definition.KindRerun}}, many("team", "t1")},
		"reason":           {definition.ListRuns{Reason: definition.ReasonTaskFailed}, many("team", "t0")},
		"rare reason":      {definition.ListRuns{Reason: definition.ReasonRunTimeout}, many("team", "t1")},
		"another reason":   {definition.ListRuns{Reason: definition.ReasonRejected}, many("team", "t0")},
		"until, of status": {definition.ListRuns{Until: newest.AcceptedAt.Add(-time.Hour), Statuses: []definition.RunStatus{definition.RunFailed}}, many("team", "t0")},
		"since":            {definition.ListRuns{Since: newest.AcceptedAt.Add(-time.Minute)}, many("team", "t0")},
		"backfill":         {definition.ListRuns{BackfillID: d[0]}, many("team", "t1")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i, before := range []int64{0, 1, 30, 200, n / 2, 0, n / 2} {
				q := tt.q
				q.BeforeSeq, q.Limit = before, 51
				if i > 4 {
					q.Limit = 1 // fewer than there are definitions
				}
				want := everyRun(t, s, q, tt.labels)
				sql, args := listRuns(q, tt.labels)
				rows, err := s.pool.Query(ctx, sql, args...)
				if err != nil {
					t.Fatalf("%v: %s", err, sql)
				}
				list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, false) })
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, r := range list {
					got = append(got, r.ID)
				}
				if !slices.Equal(got, want) {
					t.Errorf("before %d: one look at each: %d runs, want %d", before, len(got), len(want))
				}
				if few(q) {
					continue
				}
				for _, most := range []int{60, 1000, 10 * n} {
					ids, found, err := s.walkRuns(ctx, q, tt.labels, most)
					if err != nil {
						t.Fatal(err)
					}
					if found && !slices.Equal(ids, want) {
						t.Errorf("before %d: a walk of %d found %d runs, want %d", before, most, len(ids), len(want))
					}
					if !found && (most == 10*n || !slices.Equal(ids, want[:min(len(ids), len(want))])) {
						t.Errorf("before %d: a walk of %d ended without an answer, or began with another: %d runs, want %d", before, most, len(ids), len(want))
					}
				}
			}
		})
	}
}

// everyRun reads all runs for a page.
func everyRun(t *testing.T, s *Store, q definition.ListRuns, labels []label) []string {
	t.Helper()
	conditions, args := []string{"true"}, []any{q.Limit}
	where := func(condition string, value any) {
		args = append(args, value)
		conditions = append(conditions, fmt.Sprintf(condition, len(args)))
	}
	for _, l := range labels {
		where("(definition_id, $%d) IN (SELECT definition_id, key || '=' || value FROM definition_labels)", l.key+"="+l.value)
	}
	if len(q.Statuses) > 0 {
		where("status = ANY($%d)", q.Statuses)
	}
	if len(q.Kinds) > 0 {
		where("kind = ANY($%d)", q.Kinds)
	}
	if q.Reason != "" {
		where("reason = $%d", q.Reason)
	}
	if !q.Since.IsZero() {
		where("accepted_at >= $%d", q.Since)
	}
	if !q.Until.IsZero() {
		where("accepted_at < $%d", q.Until)
	}
	if q.BackfillID != "" {
		where("backfill_id = $%d", q.BackfillID)
	}
	if q.BeforeSeq > 0 {
		where("seq < $%d", q.BeforeSeq)
	}
	rows, err := s.pool.Query(t.Context(), "SELECT id::text FROM runs WHERE "+strings.Join(conditions, " AND ")+" ORDER BY seq DESC LIMIT $1", args...)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestDefinitionListsByIndex checks that no filter of definitions reads many more than a page, wherever those that it leaves are.
func TestDefinitionListsByIndex(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	const n = 20_000
	create(t, s, `{"name": "first", "labels": {"team": "first"}, "trigger_config": {"trigger_type": "manual"}}`)
	// All are events, and enabled, but for the last ten.
	_, err := s.pool.Exec(ctx, `
		INSERT INTO definitions (id, name, revision, enabled, enabled_since, trigger_type, event_type, document, created_at, updated_at)
		SELECT gen_random_uuid(), 'd' || i, 1, i <= $1 - 10, now(), CASE WHEN i > $1 - 10 THEN 'manual' ELSE 'event' END,
		       CASE WHEN i > $1 - 10 THEN NULL WHEN i = $1 - 20 THEN 'seldom' ELSE 'common' END, document, now(), now()
		FROM definitions, generate_series(1, $1) i ORDER BY i`, n)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.pool.Exec(ctx, `
		INSERT INTO definition_labels (definition_id, key, value)
		SELECT id, 'team', CASE WHEN seq > $1 - 5 THEN 'last' ELSE 'all' END FROM definitions WHERE name <> 'first'`, n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(ctx, "ANALYZE definitions"); err != nil {
		t.Fatal(err)
	}
	off, on := false, true
	for name, tt := range map[string]struct {
		q    definition.ListDefinitions
		want int
	}{
		"all":                {definition.ListDefinitions{}, 51},
		"all, last page":     {definition.ListDefinitions{AfterSeq: n - 20}, 21},
		"type":               {definition.ListDefinitions{TriggerType: definition.TriggerManual}, 11},
		"type, last page":    {definition.ListDefinitions{TriggerType: definition.TriggerManual, AfterSeq: n - 20}, 10},
		"type of none":       {definition.ListDefinitions{TriggerType: definition.TriggerScheduled}, 0},
		"disabled":           {definition.ListDefinitions{Enabled: &off}, 10},
		"enabled":            {definition.ListDefinitions{Enabled: &on}, 51},
		"type and disabled":  {definition.ListDefinitions{TriggerType: definition.TriggerEvent, Enabled: &off}, 0},
		"event type":         {definition.ListDefinitions{EventType: "seldom"}, 1},
		"event type of none": {definition.ListDefinitions{EventType: "never"}, 0},
		"label":              {definition.ListDefinitions{Labels: map[string]string{"team": "last"}}, 6},
		"label, first":       {definition.ListDefinitions{Labels: map[string]string{"team": "first"}}, 1},
		"label of most":      {definition.ListDefinitions{Labels: map[string]string{"team": "all"}}, 51},
		"label and type":     {definition.ListDefinitions{Labels: map[string]string{"team": "last"}, TriggerType: definition.TriggerManual}, 6},
		"name":               {definition.ListDefinitions{Name: "d777"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.q.Limit = 51
			list, err := s.ListDefinitions(ctx, tt.q)
			if err != nil || len(list) != tt.want || !slices.IsSortedFunc(list, func(a, b definition.Stored) int { return int(a.Seq - b.Seq) }) {
				t.Errorf("%d definitions, %v; want %d in order", len(list), err, tt.want)
			}
			labels, err := s.labels(ctx, tt.q.Labels)
			if err != nil {
				t.Fatal(err)
			}
			sql, args := listDefinitions(tt.q, labels)
			if plan, read := explainRead(ctx, t, s, "definitions", sql, args); read > 300 {
				t.Errorf("read %d rows for %d:\n%s", read, tt.want, plan)
			}
		})
	}
}
