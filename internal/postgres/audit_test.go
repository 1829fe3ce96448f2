package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

func TestAuditIsAppendOnly(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	create(t, s, manual)
	for _, statement := range []string{`UPDATE audit SET actor = 'nobody'`, `UPDATE audit SET after = NULL WHERE id = 1`, `UPDATE audit SET actor = '' WHERE false`} {
		if _, err := s.pool.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "the audit trail is append-only") {
			t.Errorf("%s: %v", statement, err)
		}
	}
	list, err := s.ListAudit(t.Context(), definition.ListAudit{Limit: 10})
	if err != nil || len(list) != 1 || list[0].Actor != "system" || list[0].ActorID != "system" || list[0].Action != definition.ActionCreate {
		t.Errorf("audit trail %+v %v", list, err)
	}
}

// fillAudit writes n rows, a second after one another, and returns the ids of three definitions. Whatever is rare is among the first 50
// rows. Documents of 1 KiB lie in between, as they do in a trail of definitions.
func fillAudit(t *testing.T, s *Store, n int) (definitions []string) {
	t.Helper()
	for i, name := range []string{"d-common", "d-rare", "d-other"} {
		doc := fmt.Sprintf(`{"name": %q, "labels": {"team": "t%d", "env": "prod"}, "trigger_config": {"trigger_type": "manual"}}`, name, i%2)
		definitions = append(definitions, create(t, s, doc).ID)
	}
	sql(t, s, `DELETE FROM audit`)
	sql(t, s, `
		INSERT INTO audit (at, actor, actor_id, action, target_kind, target_id, definition_id, revision, after)
		SELECT now() - ($1 - i) * interval '1 s',
		       CASE WHEN i <= 50 THEN 'rare' WHEN i % 3 = 0 THEN 'bob' ELSE 'ada' END, 'x',
		       CASE WHEN i <= 50 THEN 'token.revoke' WHEN i % 2 = 0 THEN 'update' ELSE 'run.cancel' END,
		       CASE WHEN i <= 50 THEN 'token' WHEN i % 2 = 0 THEN 'definition' ELSE 'run' END,
		       CASE WHEN i <= 50 THEN $3 WHEN i % 2 = 0 THEN $2 ELSE 'run-' || i % 100 END,
		       CASE WHEN i <= 50 THEN $3::uuid WHEN i % 7 = 0 THEN NULL WHEN i % 3 = 0 THEN $4::uuid ELSE $2::uuid END, 1,
		       json_build_object('filler', repeat(md5(i::text), 32))
		FROM generate_series(1, $1) i`, n, definitions[0], definitions[1], definitions[2])
	sql(t, s, `VACUUM ANALYZE audit`)
	return definitions
}

// auditIs are the conditions of a ListAudit, as they read.
func auditIs(q definition.ListAudit, e definition.AuditEntry) bool {
	return (q.DefinitionID == "" || e.DefinitionID == q.DefinitionID) && (q.Actor == "" || e.Actor == q.Actor) &&
		(q.Action == "" || e.Action == q.Action) && (q.Target.Kind == "" || e.Target.Kind == q.Target.Kind) &&
		(q.Target.ID == "" || e.Target.ID == q.Target.ID) && (q.Since.IsZero() || !e.At.Before(q.Since)) &&
		(q.Until.IsZero() || e.At.Before(q.Until)) && (q.BeforeID == 0 || e.ID < q.BeforeID)
}

// TestListAudit compares pages by random filters, of callers with and without labels, with what a look at each row gives.
func TestListAudit(t *testing.T) {
	t.Parallel()
	const n = 400
	s, ctx := newStore(t), t.Context()
	d := fillAudit(t, s, n)
	all, err := s.ListAudit(ctx, definition.ListAudit{Limit: n + 1})
	if err != nil || len(all) != n {
		t.Fatalf("%d rows, %v", len(all), err)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	some := func(values ...string) string {
		if i := r.IntN(2 * len(values)); i < len(values) {
			return values[i]
		}
		return ""
	}
	at := func() time.Time {
		if r.IntN(3) > 0 {
			return time.Time{}
		}
		return all[r.IntN(n)].At
	}
	teams := map[string][]string{"": nil, "t0": {d[0], d[2]}, "t1": {d[1]}, "t9": {}}
	for range 600 {
		q := definition.ListAudit{DefinitionID: some(d...), Actor: some("ada", "rare", "nobody"), Action: definition.Action(some("update", "token.revoke")),
			Target: definition.Target{Kind: definition.TargetKind(some("run", "token")), ID: some(d[0], d[1], "run-3")},
			Since:  at(), Until: at(), Limit: 1 + r.IntN(60)}
		if r.IntN(2) == 0 {
			q.BeforeID = all[r.IntN(n)].ID
		}
		team := some("t0", "t1", "t9")
		as := ctx
		if team != "" {
			as = access.With(ctx, access.Caller{Name: team, Labels: map[string]string{"team": team, "env": "prod"}})
		}
		var want []int64
		for _, e := range all {
			if auditIs(q, e) && (team == "" || slices.Contains(teams[team], e.DefinitionID)) && len(want) < q.Limit {
				want = append(want, e.ID)
			}
		}
		list, err := s.ListAudit(as, q)
		if err != nil {
			t.Fatalf("seed %d: %+v: %v", seed, q, err)
		}
		var got []int64
		for _, e := range list {
			got = append(got, e.ID)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: %+v of %q gives %v, want %v", seed, q, team, got, want)
		}
	}
}

// TestListAuditReadsLittle checks that no filter reads the whole trail, on its first page or its last.
func TestListAuditReadsLittle(t *testing.T) {
	t.Parallel()
	const n = 20_000
	s, ctx := newStore(t), t.Context()
	d := fillAudit(t, s, n)
	var newest int64
	var now time.Time
	if err := s.pool.QueryRow(ctx, `SELECT max(id), max(at) FROM audit`).Scan(&newest, &now); err != nil {
		t.Fatal(err)
	}
	team := func(name string) context.Context {
		return access.With(ctx, access.Caller{Name: name, Labels: map[string]string{"team": name, "env": "prod"}})
	}
	old := now.Add(-(n - 60) * time.Second)
	for name, tt := range map[string]struct {
		as    context.Context
		q     definition.ListAudit
		want  int // rows of the first page of 51
		reads int // the most rows that may be read for it
	}{
		"none":                 {ctx, definition.ListAudit{}, 51, 60},
		"common actor":         {ctx, definition.ListAudit{Actor: "ada"}, 51, 60},
		"rare actor":           {ctx, definition.ListAudit{Actor: "rare"}, 50, 60},
		"unknown actor":        {ctx, definition.ListAudit{Actor: "nobody"}, 0, 10},
		"common action":        {ctx, definition.ListAudit{Action: "update"}, 51, 60},
		"rare action":          {ctx, definition.ListAudit{Action: "token.revoke"}, 50, 60},
		"common kind":          {ctx, definition.ListAudit{Target: definition.Target{Kind: "run"}}, 51, 60},
		"rare kind":            {ctx, definition.ListAudit{Target: definition.Target{Kind: "token"}}, 50, 60},
		"common target":        {ctx, definition.ListAudit{Target: definition.Target{Kind: "definition", ID: d[0]}}, 51, 60},
		"rare target":          {ctx, definition.ListAudit{Target: definition.Target{ID: d[1]}}, 50, 60},
		"common definition":    {ctx, definition.ListAudit{DefinitionID: d[0]}, 51, 60},
		"rare definition":      {ctx, definition.ListAudit{DefinitionID: d[1]}, 50, 60},
		"actor and action":     {ctx, definition.ListAudit{Actor: "ada", Action: "update"}, 51, 200},
		"definition and actor": {ctx, definition.ListAudit{DefinitionID: d[1], Actor: "ada"}, 0, 60},
		"actor and definition": {ctx, definition.ListAudit{DefinitionID: d[0], Actor: "rare"}, 0, 60},
		"target and action":    {ctx, definition.ListAudit{Target: definition.Target{ID: d[0]}, Action: "token.revoke"}, 0, 60},
		"kind and rare action": {ctx, definition.ListAudit{Target: definition.Target{Kind: "token"}, Action: "token.revoke"}, 50, 60},
		"until long ago":       {ctx, definition.ListAudit{Until: old}, 51, 300},
		"since just now":       {ctx, definition.ListAudit{Since: now.Add(-10 * time.Second)}, 11, 300},
		"nothing since":        {ctx, definition.ListAudit{Since: now.Add(-10 * time.Second), Actor: "ada", Action: "token.revoke"}, 0, 300},
		"nothing until":        {ctx, definition.ListAudit{Until: old, Actor: "bob", Action: "token.revoke"}, 0, 300},
		"of an hour":           {ctx, definition.ListAudit{Since: now.Add(-2 * time.Hour), Until: now.Add(-time.Hour), Actor: "bob"}, 51, 300},
		"rare within an hour":  {ctx, definition.ListAudit{Since: now.Add(-2 * time.Hour), Until: now.Add(-time.Hour), Actor: "rare"}, 0, 60},
		"a team":               {team("t0"), definition.ListAudit{}, 51, 200},
		"a small team":         {team("t1"), definition.ListAudit{}, 50, 60},
		"no team":              {team("t9"), definition.ListAudit{}, 0, 10},
		"a small team's actor": {team("t1"), definition.ListAudit{Actor: "rare"}, 50, 60},
		"a small team's other": {team("t1"), definition.ListAudit{Actor: "ada"}, 0, 60},
		"a team's rare actor":  {team("t0"), definition.ListAudit{Actor: "rare"}, 0, 60},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.q.Limit = 51
			list, err := s.ListAudit(tt.as, tt.q)
			if err != nil || len(list) != tt.want {
				t.Fatalf("%d rows, want %d; %v", len(list), tt.want, err)
			}
			for place, before := range map[string]int64{"first": 0, "last": newest - n + 60} {
				tt.q.BeforeID = before
				plan, read, took := explainAudit(tt.as, t, s, tt.q)
				if strings.Contains(plan, "Seq Scan on audit") || read > tt.reads {
					t.Errorf("the %s page reads %d rows, want at most %d:\n%s", place, read, tt.reads, plan)
				}
				t.Logf("the %s page reads %d rows in %s", place, read, took)
			}
		})
	}
}

// explainAudit returns the plan of a list as it was carried out, how many rows of the trail were read for it, and how long that took.
func explainAudit(ctx context.Context, t *testing.T, s *Store, q definition.ListAudit) (plan string, read int, took string) {
	t.Helper()
	filters, err := s.auditFilters(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	statement, args := listAudit(q, filters)
	rows, err := s.pool.Query(ctx, "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) "+statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range lines {
		var each float64
		var loops, removed int
		if at := strings.Index(line, "(actual rows="); at >= 0 && strings.Contains(line, " audit") && strings.Contains(line, "Scan") {
			if _, err := fmt.Sscanf(line[at:], "(actual rows=%g loops=%d)", &each, &loops); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			read += int(each * float64(loops))
			for _, below := range lines[i+1 : min(i+4, len(lines))] {
				if _, err := fmt.Sscanf(strings.TrimSpace(below), "Rows Removed by Filter: %d", &removed); err == nil {
					read += removed * loops
				}
			}
		}
		if after, ok := strings.CutPrefix(line, "Execution Time: "); ok {
			took = after
		}
	}
	return strings.Join(lines, "\n"), read, took
}
