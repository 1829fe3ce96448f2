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
				got := idsOf(list)
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
	if _, err := s.pool.Exec(ctx, "ANALYZE definitions, definition_labels"); err != nil {
		t.Fatal(err)
	}
	off, on := false, true
	for name, tt := range map[string]struct {
		q    definition.ListDefinitions
		want int
	}{
		"all":                 {definition.ListDefinitions{}, 51},
		"all, last page":      {definition.ListDefinitions{AfterSeq: n - 20}, 21},
		"type":                {definition.ListDefinitions{TriggerType: definition.TriggerManual}, 11},
		"type, last page":     {definition.ListDefinitions{TriggerType: definition.TriggerManual, AfterSeq: n - 20}, 10},
		"type of none":        {definition.ListDefinitions{TriggerType: definition.TriggerScheduled}, 0},
		"disabled":            {definition.ListDefinitions{Enabled: &off}, 10},
		"enabled":             {definition.ListDefinitions{Enabled: &on}, 51},
		"type and disabled":   {definition.ListDefinitions{TriggerType: definition.TriggerEvent, Enabled: &off}, 0},
		"event type":          {definition.ListDefinitions{EventType: "seldom"}, 1},
		"event type of none":  {definition.ListDefinitions{EventType: "never"}, 0},
		"label":               {definition.ListDefinitions{Labels: map[string]string{"team": "last"}}, 6},
		"label, first":        {definition.ListDefinitions{Labels: map[string]string{"team": "first"}}, 1},
		"label of most":       {definition.ListDefinitions{Labels: map[string]string{"team": "all"}}, 51},
		"label and type":      {definition.ListDefinitions{Labels: map[string]string{"team": "last"}, TriggerType: definition.TriggerManual}, 6},
		"label of most, type": {definition.ListDefinitions{Labels: map[string]string{"team": "all"}, TriggerType: definition.TriggerManual}, 4},
		"label of most, disabled event": {definition.ListDefinitions{
			Labels: map[string]string{"team": "all"}, TriggerType: definition.TriggerEvent, Enabled: &off}, 0},
		"label of most, event type":   {definition.ListDefinitions{Labels: map[string]string{"team": "all"}, EventType: "seldom"}, 1},
		"label of a few, event type":  {definition.ListDefinitions{Labels: map[string]string{"team": "last"}, EventType: "common"}, 0},
		"common event type, disabled": {definition.ListDefinitions{EventType: "common", Enabled: &off}, 0},
		"label of most, name":         {definition.ListDefinitions{Labels: map[string]string{"team": "all"}, Name: "d777"}, 1},
		"name":                        {definition.ListDefinitions{Name: "d777"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.q.Limit = 51
			list, err := s.ListDefinitions(ctx, tt.q)
			if err != nil || len(list) != tt.want || !slices.IsSortedFunc(list, func(a, b definition.Stored) int { return int(a.Seq - b.Seq) }) {
				t.Errorf("%d definitions, %v; want %d in order", len(list), err, tt.want)
			}
			sql, args := listDefinitions(tt.q, labelsOf(ctx, tt.q.Labels))
			for _, table := range []string{"definitions", "definition_labels"} {
				if plan, read := explainRead(ctx, t, s, table, sql, args); read > 300 {
					t.Errorf("read %d rows of %s for %d:\n%s", read, table, tt.want, plan)
				}
			}
		})
	}
}

// TestIdleDefinitions reads pages of runs of many definitions that have none, or old ones only, in the shadow of one that has nearly all.
func TestIdleDefinitions(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	const definitions, n = 300, 20_000
	for _, statement := range []string{
		`INSERT INTO definitions (id, name, revision, enabled, enabled_since, trigger_type, document, created_at, updated_at)
		SELECT gen_random_uuid(), 'd' || i, 1, true, now(), 'manual', '{}', now(), now() FROM generate_series(0, $1::int) i ORDER BY i`,
		`INSERT INTO definition_labels (definition_id, key, value)
		SELECT id, 'team', 'idle' FROM definitions WHERE name <> 'd0' AND $1::int > 0`,
	} {
		execute(t, s, statement, definitions)
	}
	// Every third definition but the first has runs: some succeeded, some failed, and some were missed, or timed out long ago.
	execute(t, s, `
		INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, reason, run_limit, run_timeout, workflow_id,
		                  start_after, finished_at)
		SELECT gen_random_uuid(), d.id, d.name, 1, 'manual', 'k' || i,
		       CASE WHEN i > 3 * $1::int THEN 'succeeded' ELSE (ARRAY['succeeded', 'failed', CASE WHEN i < $1 THEN 'timed_out' ELSE 'missed' END])[1 + i % 3] END,
		       CASE WHEN i <= 3 * $1 AND i % 3 > 0 THEN (ARRAY['task_failed', 'misfire_window'])[i % 3] ELSE '' END, 0, '1h', 'w' || i, now(), now()
		FROM generate_series(3, $2::int) i JOIN definitions d ON d.name = 'd' || CASE WHEN i > 3 * $1 THEN 0 ELSE i / 9 * 3 END ORDER BY i`,
		definitions, n)
	execute(t, s, "VACUUM ANALYZE runs, definitions, definition_labels")
	for name, tt := range map[string]struct {
		q     definition.ListRuns
		empty bool
	}{
		"all":           {definition.ListRuns{}, false},
		"last page":     {definition.ListRuns{BeforeSeq: 20}, false},
		"succeeded":     {definition.ListRuns{Statuses: []definition.RunStatus{definition.RunSucceeded}}, false},
		"timed out":     {definition.ListRuns{Statuses: []definition.RunStatus{definition.RunTimedOut}}, false},
		"reason":        {definition.ListRuns{Reason: definition.ReasonTaskFailed}, false},
		"kind":          {definition.ListRuns{Kinds: []definition.TriggerKind{definition.KindManual}}, false},
		"kind of none":  {definition.ListRuns{Kinds: []definition.TriggerKind{definition.KindCron}}, true},
		"status, kinds": {definition.ListRuns{Statuses: definition.RunStatuses, Kinds: definition.TriggerKinds}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, limit := range []int{51, 5, 1} {
				tt.q.Limit, tt.q.Labels = limit, map[string]string{"team": "idle"}
				list, err := s.ListRuns(ctx, tt.q)
				if err != nil {
					t.Fatal(err)
				}
				got := idsOf(list)
				if want := everyRun(t, s, tt.q, []label{{key: "team", value: "idle"}}); !slices.Equal(got, want) || tt.empty != (len(got) == 0) {
					t.Errorf("page of %d: %d runs, want %d", limit, len(got), len(want))
				}
				if plan, read := explain(ctx, t, s, tt.q); read > 3*definitions {
					t.Errorf("page of %d: read %d rows:\n%s", limit, read, plan)
				}
			}
		})
	}
}

// TestLabelsFollow changes definitions, as this version does and as one does that knows nothing of what labels know, and looks for them
// by a label and what else there is.
func TestLabelsFollow(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, `{"name": "d", "labels": {"team": "a"}, "trigger_config": {"trigger_type": "event", "event_type": "x.y"}}`)
	change := func(patch string) {
		t.Helper()
		_, err := s.UpdateDefinition(ctx, d.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
			return d.Merge([]byte(patch))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	found := func(want string) {
		t.Helper()
		var got []string
		on, off := true, false
		for _, q := range []definition.ListDefinitions{
			{}, {Enabled: &on}, {Enabled: &off}, {TriggerType: definition.TriggerEvent}, {TriggerType: definition.TriggerManual},
			{EventType: "x.y"}, {EventType: "x.z"},
		} {
			q.Limit, q.Labels = 10, map[string]string{"team": "a"}
			list, err := s.ListDefinitions(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(len(list)))
		}
		if got := strings.Join(got, ""); got != want {
			t.Errorf("found %s, want %s", got, want)
		}
	}
	found("1101010")
	change(`{"enabled": false}`)
	found("1011010")
	change(`{"trigger_config": {"event_type": "x.z"}}`)
	found("1011001")
	execute(t, s, `UPDATE definitions SET enabled = true, trigger_type = 'manual', event_type = NULL WHERE id = $1`, d.ID)
	found("1100100")
	execute(t, s, `UPDATE definitions SET trigger_type = 'event', event_type = 'x.y' WHERE id = $1`, d.ID)
	found("1101010")
	execute(t, s, `DELETE FROM definition_labels WHERE definition_id = $1`, d.ID)
	found("0000000")
	execute(t, s, `INSERT INTO definition_labels (definition_id, key, value) VALUES ($1, 'team', 'a')`, d.ID)
	found("1101010")
	if err := s.DeleteDefinition(ctx, d.ID); err != nil {
		t.Fatal(err)
	}
	found("0000000")
}
