package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// limited is the context of a caller who is limited to the labels, given as pairs.
func limited(ctx context.Context, pairs ...string) context.Context {
	labels := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	return access.With(ctx, access.Caller{ID: "token:x", Name: "x", Role: access.Editor, Labels: labels})
}

// labelled is a definition with labels, written as in JSON.
func labelled(t *testing.T, s *Store, name, labels, more string) definition.Stored {
	t.Helper()
	return create(t, s, fmt.Sprintf(`{"name": %q, "labels": {%s}, %s}`, name, labels, more))
}

const (
	clocked = `"trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"}`
	routed  = `"trigger_config": {"trigger_type": "event", "event_type": "user.created"}`
	asking  = `"trigger_config": {"trigger_type": "manual"}, "tasks": [{"name": "ok", "type": "wait", "with": {"approval": {"message": "?"}}}]`
)

// scoped is what hangs on a definition of each kind.
type scoped struct {
	clocked, routed, asking definition.Stored
	run                     definition.Begin // waits for approval
	failed                  string
	backfill                definition.Backfill
	replay                  definition.Replay
}

func newScoped(t *testing.T, s *Store, name, labels string) scoped {
	t.Helper()
	var w scoped
	w.clocked, w.routed = labelled(t, s, name+"-clocked", labels, clocked), labelled(t, s, name+"-routed", labels, routed)
	w.asking = labelled(t, s, name+"-asking", labels, asking)
	w.failed = ended(t, s, w.asking.ID, 1, definition.RunFailed, definition.ReasonTaskFailed)
	w.run = accept(t, s, w.asking.ID, definition.KindManual, 2)
	begin(t, s, w.run)
	err := s.FinishTask(t.Context(), definition.TaskResult{RunID: w.run.RunID, Name: "ok", Type: definition.TaskWait, Status: definition.TaskRunning})
	if err != nil {
		t.Fatal(err)
	}
	occurrence := occurs(w.routed, name)
	if _, _, err := s.AcceptEvents(t.Context(), []definition.EventRecord{known(name, "{}", 1)}, []definition.Occurrence{occurrence}); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 5, 10, 0, 0, 0, time.UTC)
	w.backfill = backfill(t, s, definition.BackfillRequest{DefinitionID: w.clocked.ID, From: at, To: at.Add(time.Minute)}, false)
	w.replay = ask(t, s, false, w.routed.ID)
	return w
}

// TestScope asks every method that the API calls about what is in the scope of the caller, and about what is not: that is not there. What
// changes most comes last.
func TestScope(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mine, others := newScoped(t, s, "mine", `"team": "a", "env": "prod", "more": ""`), newScoped(t, s, "others", `"team": "a", "env": "test"`)
	both := ask(t, s, true, mine.routed.ID, others.routed.ID)
	ctx := limited(t.Context(), "team", "a", "env", "prod")
	stop := definition.StopRequest{How: definition.StopCancel}
	same := func(d definition.Document) (definition.Document, error) { return d, nil }
	var invalid *definition.InvalidError
	for _, test := range []struct {
		method string
		ask    func(scoped) error
		others error // nil: an InvalidError
	}{
		{"GetDefinition", func(w scoped) error { _, err := s.GetDefinition(ctx, w.clocked.ID); return err }, definition.ErrNotFound},
		{"UpdateDefinition", func(w scoped) error {
			_, err := s.UpdateDefinition(ctx, w.clocked.ID, definition.Change{}, same)
			return err
		}, definition.ErrNotFound},
		{"GetRunDetail", func(w scoped) error { _, err := s.GetRunDetail(ctx, w.run.RunID); return err }, definition.ErrNotFound},
		{"GetTask", func(w scoped) error { _, _, err := s.GetTask(ctx, w.run.RunID, "ok", 0, 1); return err }, definition.ErrNotFound},
		{"GetBackfill", func(w scoped) error { _, err := s.GetBackfill(ctx, w.backfill.ID); return err }, definition.ErrNotFound},
		{"GetReplay", func(w scoped) error { _, err := s.GetReplay(ctx, w.replay.ID); return err }, definition.ErrNotFound},
		{"RerunRun", func(w scoped) error { _, err := s.RerunRun(ctx, w.failed, definition.RerunStart); return err }, definition.ErrNotFound},
		{"DecideTask", func(w scoped) error {
			_, _, err := s.DecideTask(ctx, definition.Decision{RunID: w.run.RunID, Task: "ok"})
			return err
		}, definition.ErrNotFound},
		{"StopRun", func(w scoped) error { _, err := s.StopRun(ctx, w.run.RunID, stop); return err }, definition.ErrNotFound},
		{"CancelBackfill", func(w scoped) error { _, err := s.CancelBackfill(ctx, w.backfill.ID); return err }, definition.ErrNotFound},
		{"CreateBackfill", func(w scoped) error {
			_, err := s.CreateBackfill(ctx, definition.BackfillRequest{DefinitionID: w.clocked.ID, From: w.backfill.From, To: w.backfill.To,
				MaxConcurrent: 1}, false)
			return err
		}, definition.ErrNotFound},
		{"CancelReplay", func(w scoped) error { _, err := s.CancelReplay(ctx, w.replay.ID); return err }, definition.ErrNotFound},
		{"CreateReplay", func(w scoped) error {
			_, err := s.CreateReplay(ctx, definition.ReplayRequest{From: published, To: published, DefinitionIDs: []string{w.routed.ID}})
			return err
		}, nil},
		{"DeleteDefinition", func(w scoped) error { return s.DeleteDefinition(ctx, w.asking.ID) }, definition.ErrNotFound},
	} {
		if err := test.ask(others); err == nil || test.others != nil && !errors.Is(err, test.others) || test.others == nil && !errors.As(err, &invalid) {
			t.Errorf("%s of others: %v", test.method, err)
		}
		if err := test.ask(mine); err != nil {
			t.Errorf("%s: %v", test.method, err)
		}
	}
	if status := statusOf(t, s, others.run.RunID); status != "running " {
		t.Errorf("the others' run is %s", status)
	}
	if got := texts(t, s, `SELECT status || n FROM (SELECT status, count(*) n FROM replays WHERE NOT dry_run GROUP BY 1) s ORDER BY 1`); got != "canceled1, pending2" {
		t.Errorf("replays: %s", got)
	}
	if _, err := s.GetReplay(ctx, both.ID); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("a replay of which one definition is the others': %v", err)
	}

	definitions, err := s.ListDefinitions(ctx, definition.ListDefinitions{Limit: 50})
	if err != nil || len(definitions) != 2 || definitions[0].ID != mine.clocked.ID {
		t.Errorf("definitions: %d, %v", len(definitions), err)
	}
	replays, err := s.ListReplays(ctx, definition.ListReplays{Limit: 50})
	if err != nil || len(replays) != 2 || slices.ContainsFunc(replays, func(r definition.Replay) bool { return r.DefinitionIDs[0] != mine.routed.ID }) {
		t.Errorf("replays: %+v, %v", replays, err)
	}
	for id, want := range map[string]int{mine.clocked.ID: 2, others.clocked.ID: 0} {
		if list, err := s.ListBackfills(ctx, definition.ListBackfills{DefinitionID: id, Limit: 50}); err != nil || len(list) != want {
			t.Errorf("backfills: %d, want %d, %v", len(list), want, err)
		}
	}
	met, err := s.EventDefinitions(ctx, "user.created")
	if err != nil || len(met) != 1 || met[0].ID != mine.routed.ID {
		t.Errorf("definitions of an event: %+v, %v", met, err)
	}
	for id, want := range map[string]int{"mine": 1, "others": 0} {
		if h, err := s.GetEvent(ctx, id); err != nil || h.RunsTotal != want || (h.Record != nil) != (want > 0) {
			t.Errorf("event %s: %+v, %v", id, h, err)
		}
	}

	// Lists of runs, by every way in which they are written.
	for name, q := range map[string]definition.ListRuns{
		"all": {}, "by status": {Statuses: definition.RunStatuses}, "by definition": {DefinitionID: others.asking.ID},
		"by name": {Definition: "others-asking"}, "by the label": {Labels: map[string]string{"env": "prod"}},
		"by another label": {Labels: map[string]string{"env": "test"}}, "by a label of both": {Labels: map[string]string{"team": "a"}},
		"by event": {EventID: "others"}, "by backfill": {BackfillID: others.backfill.ID}, "by reason": {Reason: definition.ReasonTaskFailed},
		"by rerun": {RerunOf: others.failed}, "by event of mine": {EventID: "mine"}, "by backfill of mine": {BackfillID: mine.backfill.ID},
		"by time": {Since: published}, "by definition of mine": {DefinitionID: mine.asking.ID}, "by name of mine": {Definition: "mine-asking"},
	} {
		q.Limit = 50
		list, err := s.ListRuns(ctx, q)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all, err := s.ListRuns(t.Context(), q)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = slices.DeleteFunc(all, func(r definition.Run) bool { return strings.HasPrefix(r.DefinitionName, "others-") })
		same := func(a, b definition.Run) bool { return a.ID == b.ID }
		if !slices.EqualFunc(list, all, same) || strings.HasPrefix(name, "by ") && strings.HasSuffix(name, "mine") && len(list) == 0 {
			t.Errorf("%s: %d runs, want %d", name, len(list), len(all))
		}
		// Those that would be stopped or run again are among them.
		_, stops, err := s.StopRuns(ctx, q, stop, 50, true)
		if open := count(t, s, `SELECT count(*) FROM runs WHERE id = ANY($1) AND status IN ('accepted', 'running') AND stop_requested = ''`,
			idsOf(list)); err != nil || stops != open {
			t.Errorf("%s: %d would be stopped, want %d, %v", name, stops, open, err)
		}
		if len(q.Statuses) > 0 {
			continue
		}
		_, reruns, err := s.RerunRuns(ctx, q, definition.RerunStart, 50, true)
		if failed := count(t, s, `SELECT count(*) FROM runs WHERE id = ANY($1) AND status = 'failed' AND `+rerunnable, idsOf(list)); err != nil ||
			reruns != failed {
			t.Errorf("%s: %d would run again, want %d, %v", name, reruns, failed, err)
		}
	}
}

func idsOf(runs []definition.Run) []string {
	ids := []string{}
	for _, r := range runs {
		ids = append(ids, r.ID)
	}
	return ids
}

// TestScopeOfWrites checks that what a caller with labels writes stays in its scope, and what moves a definition to another one.
func TestScopeOfWrites(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	a, b := limited(t.Context(), "team", "a"), limited(t.Context(), "team", "b")
	refused := func(err error, field string) {
		t.Helper()
		var invalid *definition.InvalidError
		if !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != field || invalid.Fields[0].Rule != "scope" {
			t.Errorf("%v, want %s to be refused", err, field)
		}
	}
	before := count(t, s, `SELECT count(*) FROM definitions`)
	for _, labels := range []string{"", `"team": "b"`, `"Team": "a"`} {
		_, err := s.CreateDefinition(a, parse(t, `{"name": "x", "labels": {`+labels+`}, `+asking+`}`))
		refused(err, "labels.team")
	}
	if n := count(t, s, `SELECT count(*) FROM definitions`); n != before {
		t.Errorf("%d definitions were stored", n-before)
	}
	mine, err := s.CreateDefinition(a, parse(t, `{"name": "x", "labels": {"team": "a", "tier": "1"}, `+asking+`}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, patch := range []string{`{"labels": {"team": null}}`, `{"labels": {"team": "b"}}`, `{"labels": null}`} {
		_, err := s.UpdateDefinition(a, mine.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) { return d.Merge([]byte(patch)) })
		refused(err, "labels.team")
	}
	_, err = s.UpdateDefinition(a, mine.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		return d.Merge([]byte(`{"trigger_config": {"trigger_type": "event", "event_type": "run.failed"}}`))
	})
	refused(err, "trigger_config.filters.labels.team")
	changed, err := s.UpdateDefinition(a, mine.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		return d.Merge([]byte(`{"labels": {"tier": "2"}}`))
	})
	if err != nil || changed.Revision != 2 {
		t.Fatalf("revision %d, %v", changed.Revision, err)
	}

	// Somebody without limits gives it to the others, with all that hangs on it.
	run := accept(t, s, mine.ID, definition.KindManual, 1).RunID
	visible := func(ctx context.Context) string {
		_, errA := s.GetDefinition(ctx, mine.ID)
		_, errB := s.GetRunDetail(ctx, run)
		return fmt.Sprint(errA == nil, errB == nil)
	}
	if visible(a) != "true true" || visible(b) != "false false" {
		t.Errorf("before: %s, %s", visible(a), visible(b))
	}
	if err := edit(s, mine.ID, `{"labels": {"team": "b"}}`); err != nil {
		t.Fatal(err)
	}
	if visible(a) != "false false" || visible(b) != "true true" {
		t.Errorf("after: %s, %s", visible(a), visible(b))
	}
	// What is deleted keeps its labels, for its runs.
	if err := s.DeleteDefinition(b, mine.ID); err != nil {
		t.Fatal(err)
	}
	if visible(a) != "false false" || visible(b) != "false true" {
		t.Errorf("deleted: %s, %s", visible(a), visible(b))
	}
}

// TestRelabeledMeanwhile changes a definition of which somebody takes the label away at that moment: the change waits for the other one,
// and then there is nothing for it to change.
func TestRelabeledMeanwhile(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d := labelled(t, s, "x", `"team": "a"`, clocked)
	locked, goOn := make(chan struct{}), make(chan struct{})
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.UpdateDefinition(t.Context(), d.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
			close(locked)
			<-goOn
			return d.Merge([]byte(`{"labels": {"team": "b"}}`))
		})
		first <- err
	}()
	<-locked
	go func() {
		_, err := s.UpdateDefinition(limited(t.Context(), "team", "a"), d.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
			return d.Merge([]byte(`{"description": "still mine"}`))
		})
		second <- err
	}()
	testenv.Eventually(t, 10*time.Second, "the second change waits", func(ctx context.Context) (waits bool, err error) {
		err = s.pool.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
		return waits, err
	})
	close(goOn)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if err := <-second; !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("a change of what is the others' by now: %v", err)
	}
	if now, err := s.GetDefinition(t.Context(), d.ID); err != nil || now.Description != "" || now.Revision != 2 {
		t.Errorf("%+v, %v", now, err)
	}
}

// TestNoScopeCostsNothing checks that the statements for callers without labels are those without a scope.
func TestNoScopeCostsNothing(t *testing.T) {
	t.Parallel()
	for name, ctx := range map[string]context.Context{"nobody": t.Context(), "somebody": limited(t.Context())} {
		for _, condition := range []func(context.Context, string, []any) (string, []any){within, allWithin} {
			if text, args := condition(ctx, "x", []any{1}); text != "" || len(args) != 1 {
				t.Errorf("%s: %q %v", name, text, args)
			}
		}
		if text, args := listRuns(definition.ListRuns{Limit: 1}, labelsOf(ctx, nil)); strings.Contains(text, "definition_labels") || len(args) != 1 {
			t.Errorf("%s: %s %v", name, text, args)
		}
	}
	if text, args := within(limited(t.Context(), "b", "2", "a", "1"), "x", []any{0}); fmt.Sprint(args) != "[0 a 1 b 2]" ||
		!strings.HasSuffix(text, "WHERE key = $4 AND value = $5)") {
		t.Errorf("%q %v", text, args)
	}
}

// TestPagesByLabel reads lists of definitions by labels that most have, that a few have at both ends, and that none has, page by page: all
// of them are there, once and in their order.
func TestPagesByLabel(t *testing.T) {
	t.Parallel()
	const n = 1500
	s := newStore(t)
	for _, statement := range []string{
		`INSERT INTO definitions (id, name, revision, enabled, enabled_since, trigger_type, event_type, document, created_at, updated_at, deleted_at)
		SELECT gen_random_uuid(), 'd' || i, 1, i % 3 > 0, now(), CASE WHEN i % 2 = 0 THEN 'manual' ELSE 'event' END,
		       CASE WHEN i % 2 = 1 THEN 'a.' || i % 5 END,
		       '{"name":"x","enabled":true,"trigger_config":{"trigger_type":"manual"},"tasks":[]}', now(), now(), CASE WHEN i % 10 = 9 THEN now() END
		FROM generate_series(1, $1::int) i ORDER BY i`,
		`INSERT INTO definition_labels (definition_id, key, value) SELECT id, 'most', 'yes' FROM definitions WHERE seq % 7 > 0 AND seq <= $1`,
		`INSERT INTO definition_labels (definition_id, key, value) SELECT id, 'ends', CASE WHEN seq % 2 = 0 THEN 'even' ELSE 'odd' END
		FROM definitions WHERE seq <= 40 OR seq > $1 - 40`,
	} {
		execute(t, s, statement, n)
	}
	off := false
	all := definition.ListDefinitions{}
	for _, test := range []struct {
		labels []string // of the caller
		q      definition.ListDefinitions
		where  string
	}{
		{nil, all, "true"},
		{[]string{"most", "yes"}, all, "seq % 7 > 0"},
		{[]string{"ends", "even"}, all, "seq % 2 = 0 AND (seq <= 40 OR seq > $1 - 40)"},
		{[]string{"ends", "even", "most", "yes"}, all, "seq % 2 = 0 AND seq % 7 > 0 AND (seq <= 40 OR seq > $1 - 40)"},
		{[]string{"ends", "even"}, definition.ListDefinitions{Labels: map[string]string{"most": "yes"}}, "seq % 2 = 0 AND seq % 7 > 0 AND (seq <= 40 OR seq > $1 - 40)"},
		{nil, definition.ListDefinitions{Labels: map[string]string{"most": "yes"}}, "seq % 7 > 0"},
		{[]string{"ends", "even"}, definition.ListDefinitions{Labels: map[string]string{"ends": "odd"}}, "false"},
		{[]string{"ends", "none"}, all, "false"},
		{[]string{"ends", "even"}, definition.ListDefinitions{TriggerType: "manual", Enabled: &off}, "seq % 2 = 0 AND seq % 3 = 0 AND (seq <= 40 OR seq > $1 - 40)"},
		{[]string{"most", "yes"}, definition.ListDefinitions{TriggerType: "event", Enabled: &off}, "seq % 7 > 0 AND seq % 2 = 1 AND seq % 3 = 0"},
		{[]string{"most", "yes"}, definition.ListDefinitions{TriggerType: "cron"}, "false"},
		{[]string{"most", "yes"}, definition.ListDefinitions{Name: "d8"}, "seq = 8"},
		{[]string{"most", "yes"}, definition.ListDefinitions{Name: "d7"}, "false"},
		{[]string{"most", "yes"}, definition.ListDefinitions{EventType: "a.b"}, "false"},
		{nil, definition.ListDefinitions{EventType: "a.3"}, "seq % 2 = 1 AND seq % 5 = 3"},
		{nil, definition.ListDefinitions{EventType: "a.3", Enabled: &off}, "seq % 2 = 1 AND seq % 5 = 3 AND seq % 3 = 0"},
		{nil, definition.ListDefinitions{EventType: "a.3", TriggerType: "event"}, "seq % 2 = 1 AND seq % 5 = 3"},
		{nil, definition.ListDefinitions{EventType: "a.3", TriggerType: "manual"}, "false"},
		{nil, definition.ListDefinitions{EventType: "a.3", Name: "d3"}, "seq = 3"},
		{nil, definition.ListDefinitions{EventType: "a.3", Name: "d5"}, "false"},
		{[]string{"most", "yes"}, definition.ListDefinitions{EventType: "a.3"}, "seq % 7 > 0 AND seq % 2 = 1 AND seq % 5 = 3"},
		{[]string{"most", "yes"}, definition.ListDefinitions{EventType: "a.3", TriggerType: "manual"}, "false"},
		{[]string{"most", "yes", "ends", "odd"}, definition.ListDefinitions{EventType: "a.3", Enabled: &off},
			"seq % 7 > 0 AND seq % 2 = 1 AND seq % 5 = 3 AND seq % 3 = 0 AND (seq <= 40 OR seq > $1 - 40)"},
	} {
		ctx := limited(t.Context(), test.labels...)
		var got []string
		test.q.Limit = 16
		for {
			page, err := s.ListDefinitions(ctx, test.q)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page {
				got = append(got, fmt.Sprint(d.Seq))
			}
			if len(page) < test.q.Limit {
				break
			}
			test.q.AfterSeq = page[len(page)-1].Seq
		}
		want := texts(t, s, `SELECT seq::text FROM definitions WHERE deleted_at IS NULL AND $1::int > 0 AND `+test.where+` ORDER BY definitions.seq`, n)
		if strings.Join(got, ", ") != want {
			t.Errorf("%q %+v: %d definitions\n%s\nwant\n%s", test.labels, test.q, len(got), strings.Join(got, ", "), want)
		}
	}
}
