package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// auditOf returns the actions that were noted about runs of a definition, in order.
func auditOf(t *testing.T, s *Store, id string) []string {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `
		SELECT action || ' ' || revision || ' ' || COALESCE(after ->> 'note', '') FROM audit WHERE definition_id = $1 AND action LIKE 'run.%' AND action <> 'run.trigger'
		ORDER BY id`, id)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestStopRun(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := keyed(t, s, 1, "queue")
	running, queued, unbegun, last := acceptKeyed(t, s, id, "a", 1), acceptKeyed(t, s, id, "a", 2), acceptKeyed(t, s, id, "a", 3), acceptKeyed(t, s, id, "a", 4)
	begin(t, s, running)
	begin(t, s, queued)
	begin(t, s, last)
	cancel := definition.StopRequest{How: definition.StopCancel, Note: "enough"}

	for _, b := range []definition.Begin{unbegun, queued} {
		stopped, err := s.StopRun(ctx, b.RunID, cancel)
		if err != nil || len(stopped.Runs) != 1 || !stopped.Runs[0].Ended || len(stopped.Wake) != 0 {
			t.Fatalf("stop what waits: %+v, %v", stopped, err)
		}
		// Only a workflow that has begun has to hear of it.
		if wf := stopped.Runs[0].WorkflowID; (wf != "") != (b == queued) {
			t.Errorf("workflow to tell: %q", wf)
		}
		if got := statusOf(t, s, b.RunID); got != "canceled cancel_requested" {
			t.Errorf("what waited is %s", got)
		}
		if adm := begin(t, s, b); adm.Run.Status != definition.RunCanceled {
			t.Errorf("its workflow hears %s", adm.Run.Status)
		}
		if _, err := s.StopRun(ctx, b.RunID, cancel); !errors.Is(err, definition.ErrRunFinal) {
			t.Errorf("stop what has ended: %v", err)
		}
	}

	stopped, err := s.StopRun(ctx, running.RunID, cancel)
	if err != nil || len(stopped.Runs) != 1 || stopped.Runs[0] != (definition.Stopping{RunID: running.RunID, WorkflowID: running.WorkflowID,
		Definition: "keyed", How: definition.StopCancel, Note: "enough"}) {
		t.Fatalf("stop what runs: %+v, %v", stopped, err)
	}
	if early, err := s.ClaimStops(ctx, 10); err != nil || len(early) != 0 {
		t.Errorf("the stopper takes it from who was asked: %+v, %v", early, err)
	}
	if again, err := s.StopRun(ctx, running.RunID, cancel); err != nil || !slices.Equal(again.Runs, stopped.Runs) {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	harder, err := s.StopRun(ctx, running.RunID, definition.StopRequest{How: definition.StopTerminate})
	if err != nil || len(harder.Runs) != 1 || harder.Runs[0].How != definition.StopTerminate {
		t.Errorf("asked harder: %+v, %v", harder, err)
	}
	if softer, err := s.StopRun(ctx, running.RunID, cancel); err != nil || softer.Runs[0].How != definition.StopTerminate {
		t.Errorf("asked softer: %+v, %v", softer, err)
	}
	if _, err := s.pool.Exec(ctx, `UPDATE runs SET stop_after = now() WHERE id = $1`, running.RunID); err != nil {
		t.Fatal(err)
	}
	if due, err := s.ClaimStops(ctx, 10); err != nil || len(due) != 1 || due[0].RunID != running.RunID || due[0].How != definition.StopTerminate {
		t.Errorf("due: %+v, %v", due, err)
	}
	done, err := s.FinishRun(ctx, definition.Finish{RunID: running.RunID, Status: definition.RunCanceled, Reason: definition.ReasonCancelRequested})
	if err != nil || done.Run.Reason != definition.ReasonTerminated || !slices.Equal(done.Wake, []string{last.WorkflowID}) {
		t.Errorf("ended: %+v, %v", done, err)
	}
	if got, want := auditOf(t, s, id), []string{"run.cancel 1 enough", "run.cancel 1 enough", "run.cancel 1 enough", "run.terminate 1 "}; !slices.Equal(got, want) {
		t.Errorf("audit trail %q, want %q", got, want)
	}
	if _, err := s.StopRun(ctx, definition.NewID(), cancel); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("an unknown run: %v", err)
	}
}

// TestStopOfTheFirstLetsTheNextBegin cancels the run that holds up the others.
func TestStopOfTheFirstLetsTheNextBegin(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := keyed(t, s, 1, "queue")
	first, second := acceptKeyed(t, s, id, "a", 1), acceptKeyed(t, s, id, "a", 2)
	begin(t, s, second)
	stopped, err := s.StopRun(ctx, first.RunID, definition.StopRequest{How: definition.StopTerminate})
	if err != nil || !slices.Equal(stopped.Wake, []string{second.WorkflowID}) || statusOf(t, s, first.RunID) != "canceled terminated" {
		t.Errorf("stopped: %+v, %v", stopped, err)
	}
}

func TestStopRuns(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := keyed(t, s, 1, "queue")
	free := create(t, s, strings.Replace(manual, `"by-hand"`, `"by-hand", "labels": {"team": "x"}`, 1)).ID
	var runs []definition.Begin
	for n := range 5 {
		runs = append(runs, acceptKeyed(t, s, id, "a", n))
	}
	for _, b := range runs[:3] {
		begin(t, s, b)
	}
	loose := accept(t, s, free, definition.KindManual, 1)
	begin(t, s, accept(t, s, free, definition.KindManual, 2))
	req := definition.StopRequest{How: definition.StopCancel}

	which := definition.ListRuns{DefinitionID: id, Statuses: []definition.RunStatus{definition.RunQueued, definition.RunAccepted}}
	if _, n, err := s.StopRuns(ctx, which, req, 3, true); err != nil || n != 4 {
		t.Fatalf("counted %d, %v; want 4", n, err)
	}
	stopped, n, err := s.StopRuns(ctx, which, req, 3, false)
	if err != nil || n != 3 || stopped.Left != 1 {
		t.Fatalf("stopped %d, left %d, %v", n, stopped.Left, err)
	}
	want := []string{"running ", "canceled cancel_requested", "canceled cancel_requested", "canceled cancel_requested", "accepted "}
	for i, b := range runs {
		if got := statusOf(t, s, b.RunID); got != want[i] {
			t.Errorf("run %d is %s, want %s", i, got, want[i])
		}
	}
	if stopped, n, err = s.StopRuns(ctx, definition.ListRuns{Definition: "keyed"}, req, 10, false); err != nil || n != 2 || stopped.Left != 0 {
		t.Errorf("the rest: %d, %+v, %v", n, stopped, err)
	}
	if _, n, err = s.StopRuns(ctx, definition.ListRuns{Definition: "keyed"}, req, 10, false); err != nil || n != 0 {
		t.Errorf("asked again: %d, %v; what was asked before is left alone", n, err)
	}
	if stopped, n, err = s.StopRuns(ctx, definition.ListRuns{Labels: map[string]string{"team": "x"}}, req, 10, false); err != nil || n != 2 {
		t.Errorf("by label: %d, %+v, %v", n, stopped, err)
	}
	if got := statusOf(t, s, loose.RunID); got != "canceled cancel_requested" {
		t.Errorf("without a limit: %s", got)
	}
}

const graph = `{"name": "graph", "trigger_config": {"trigger_type": "manual"}, "tasks": [
	{"name": "a", "type": "log", "with": {"message": "a"}},
	{"name": "b", "type": "log", "needs": ["a"], "if": "false", "with": {"message": "b"}},
	{"name": "each", "type": "log", "needs": ["a"], "for_each": "tasks.a.output", "with": {"message": "${item}"}},
	{"name": "other", "type": "log", "needs": ["each"], "for_each": "tasks.each.output", "with": {"message": "${item}"}}],
	"on_failure": [{"name": "tell", "type": "log", "with": {"message": "!"}}]}`

// ended makes a run of the definition that ended in a way, with tasks.
func ended(t *testing.T, s *Store, id string, n int, status definition.RunStatus, reason definition.Reason, tasks ...definition.TaskResult) string {
	t.Helper()
	b := accept(t, s, id, definition.KindManual, n)
	begin(t, s, b)
	for _, task := range tasks {
		task.RunID = b.RunID
		if err := s.FinishTask(t.Context(), task); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.FinishRun(t.Context(), definition.Finish{RunID: b.RunID, Status: status, Reason: reason}); err != nil {
		t.Fatal(err)
	}
	return b.RunID
}

func TestRerunRun(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := create(t, s, graph).ID
	task := func(index int, name string, status definition.TaskStatus) definition.TaskResult {
		return definition.TaskResult{Index: index, Name: name, Type: "log", Status: status, Attempts: 1, Output: []byte(`["` + name + `"]`)}
	}
	failed := ended(t, s, id, 1, definition.RunFailed, definition.ReasonTaskFailed, task(0, "a", definition.TaskSucceeded),
		task(1, "b", definition.TaskSkipped), task(2, "each", definition.TaskFailed), task(3, "other", definition.TaskFailed),
		task(4, "tell", definition.TaskSucceeded))
	if _, err := s.pool.Exec(ctx, `UPDATE runs SET input = '{"n": 1}', trace_id = 'trace', depth = 3 WHERE id = $1`, failed); err != nil {
		t.Fatal(err)
	}
	for _, i := range []definition.ItemResult{
		{Index: 2, Item: 0, Status: definition.TaskSucceeded}, {Index: 2, Item: 1, Status: definition.TaskFailed},
		{Index: 3, Item: 0, Status: definition.TaskSucceeded},
	} {
		i.RunID = failed
		if err := s.FinishItem(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.UpdateDefinition(ctx, id, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		return d.Merge([]byte(`{"description": "newer"}`))
	}); err != nil {
		t.Fatal(err)
	}

	start, err := s.RerunRun(ctx, failed, definition.RerunStart)
	if err != nil || start.Status != definition.RunAccepted || start.Key != "rerun-"+failed+"-1" {
		t.Fatalf("rerun: %+v, %v", start, err)
	}
	run, err := s.GetRun(ctx, start.RunID)
	if err != nil || run.Revision != 2 || run.RerunOf != failed || run.Kind != definition.KindRerun || string(run.Input) != `{"n": 1}` ||
		run.TraceID != "trace" || run.Depth != 3 || len(run.Tasks) != 0 {
		t.Errorf("from the start: %+v, %v", run, err)
	}

	start, err = s.RerunRun(ctx, failed, definition.RerunFailed)
	if err != nil || start.Key != "rerun-"+failed+"-2" {
		t.Fatalf("rerun: %+v, %v", start, err)
	}
	if run, err = s.GetRun(ctx, start.RunID); err != nil || run.Revision != 1 || len(run.Tasks) != 2 || run.Tasks[0].Name != "a" ||
		string(run.Tasks[0].Output) != `["a"]` || run.Tasks[1].Status != definition.TaskSkipped {
		t.Errorf("from what failed: %+v, %v", run, err)
	}
	// The items of each are those of the same list again; those of other may be of another one.
	var items string
	err = s.pool.QueryRow(ctx, `SELECT string_agg(index || '/' || item, ' ' ORDER BY index, item) FROM task_items WHERE run_id = $1`, start.RunID).Scan(&items)
	if err != nil || items != "2/0" {
		t.Errorf("items %q, %v; want 2/0", items, err)
	}
	adm := begin(t, s, definition.Begin{RunID: start.RunID, WorkflowID: "w", FirstRunID: "f"})
	if adm.Run.Status != definition.RunRunning || len(adm.Progress) != 2 {
		t.Errorf("begun: %+v", adm)
	}

	if _, err := s.RerunRun(ctx, start.RunID, definition.RerunStart); !errors.Is(err, definition.ErrRunOpen) {
		t.Errorf("a run that runs: %v", err)
	}
	good := ended(t, s, id, 2, definition.RunSucceeded, "")
	if _, err := s.RerunRun(ctx, good, definition.RerunFailed); !errors.Is(err, definition.ErrRunNotFailed) {
		t.Errorf("a good run from what failed: %v", err)
	}
	if _, err := s.RerunRun(ctx, good, definition.RerunStart); err != nil {
		t.Errorf("a good run from the start: %v", err)
	}
	if _, err := s.RerunRun(ctx, definition.NewID(), definition.RerunStart); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("an unknown run: %v", err)
	}
	if got := auditOf(t, s, id); !slices.Equal(got, []string{"run.rerun 1 ", "run.rerun 1 ", "run.rerun 2 "}) {
		t.Errorf("audit trail %q", got)
	}
	if err := s.DeleteDefinition(ctx, id); err != nil {
		t.Fatal(err)
	}
	for _, from := range definition.RerunFroms {
		if _, err := s.RerunRun(ctx, failed, from); !errors.Is(err, definition.ErrDefinitionGone) {
			t.Errorf("of a deleted definition: %v", err)
		}
	}
}

// TestRerunsCount has several ask for the same run at once: each makes one of its own.
func TestRerunsCount(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	failed := ended(t, s, create(t, s, graph).ID, 1, definition.RunFailed, definition.ReasonTaskFailed)
	results := make(chan string)
	for range 8 {
		go func() {
			start, err := s.RerunRun(ctx, failed, definition.RerunFailed)
			if err != nil {
				start.Key = err.Error()
			}
			results <- strings.TrimPrefix(start.Key, "rerun-"+failed+"-")
		}()
	}
	var got []string
	for range 8 {
		got = append(got, <-results)
	}
	slices.Sort(got)
	if want := strings.Split("12345678", ""); !slices.Equal(got, want) {
		t.Errorf("numbers %v, want %v", got, want)
	}
}

func TestRerunRuns(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := create(t, s, graph).ID
	for n := range 4 {
		ended(t, s, id, n, definition.RunFailed, definition.ReasonTaskFailed)
	}
	ended(t, s, id, 8, definition.RunCanceled, definition.ReasonCancelRequested)
	ended(t, s, id, 9, definition.RunSucceeded, "")
	which := definition.ListRuns{Definition: "graph"}
	if _, n, err := s.RerunRuns(ctx, which, definition.RerunStart, 3, true); err != nil || n != 4 {
		t.Fatalf("counted %d, %v", n, err)
	}
	starts, left, err := s.RerunRuns(ctx, which, definition.RerunStart, 3, false)
	if err != nil || len(starts) != 3 || left != 1 {
		t.Fatalf("made %d, left %d, %v", len(starts), left, err)
	}
	if starts, left, err = s.RerunRuns(ctx, which, definition.RerunStart, 3, false); err != nil || len(starts) != 1 || left != 0 {
		t.Errorf("the rest: %d, left %d, %v; what was run again is left alone", len(starts), left, err)
	}
	which.Statuses = []definition.RunStatus{definition.RunCanceled, definition.RunSucceeded}
	if starts, left, err = s.RerunRuns(ctx, which, definition.RerunFailed, 3, false); err != nil || len(starts) != 1 || left != 0 {
		t.Errorf("by status: %d, left %d, %v", len(starts), left, err)
	}
}

func TestDecideTask(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := create(t, s, `{"name": "asks", "trigger_config": {"trigger_type": "manual"}, "tasks": [
		{"name": "note", "type": "log", "with": {"message": "a"}},
		{"name": "pause", "type": "wait", "with": {"duration": "1h"}},
		{"name": "ok", "type": "wait", "with": {"approval": {"message": "ship it?"}}}],
		"on_failure": [{"name": "sorry", "type": "wait", "with": {"approval": {"message": "again?"}}}]}`).ID
	b := accept(t, s, id, definition.KindManual, 1)
	begin(t, s, b)
	wait := func(index int, name string) {
		t.Helper()
		if err := s.FinishTask(ctx, definition.TaskResult{RunID: b.RunID, Index: index, Name: name, Type: definition.TaskWait, Status: definition.TaskRunning}); err != nil {
			t.Fatal(err)
		}
	}
	yes := definition.Decision{RunID: b.RunID, Task: "ok", Approved: true, By: "ada", Comment: "fine"}
	if _, _, err := s.DecideTask(ctx, yes); !errors.Is(err, definition.ErrNotWaiting) {
		t.Errorf("before it waits: %v", err)
	}
	wait(1, "pause")
	wait(2, "ok")
	wait(3, "sorry")
	for name, want := range map[string]error{"note": definition.ErrNotWaiting, "pause": definition.ErrNotWaiting, "none": definition.ErrNotFound} {
		if _, _, err := s.DecideTask(ctx, definition.Decision{RunID: b.RunID, Task: name}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	workflow, _, err := s.DecideTask(ctx, yes)
	if err != nil || workflow != b.WorkflowID {
		t.Fatalf("decided: %s, %v", workflow, err)
	}
	_, task, err := s.DecideTask(ctx, definition.Decision{RunID: b.RunID, Task: "ok", By: "bob"})
	if !errors.Is(err, definition.ErrNotWaiting) || task.Status != definition.TaskSucceeded ||
		!strings.HasPrefix(string(task.Output), `{"approved":true,"by":"ada","comment":"fine","at":"20`) {
		t.Errorf("decided twice: %s %s, %v", task.Status, task.Output, err)
	}
	if _, _, err := s.DecideTask(ctx, definition.Decision{RunID: b.RunID, Task: "sorry", By: "bob", Comment: "no"}); err != nil {
		t.Fatal(err)
	}
	detail, _, err := s.GetTask(ctx, b.RunID, "sorry", 0, 1)
	if err != nil || detail.Status != definition.TaskFailed || detail.Error != "rejected by bob: no" || detail.FinishedAt == nil {
		t.Errorf("rejected: %+v, %v", detail, err)
	}
	if got := auditOf(t, s, id); !slices.Equal(got, []string{"run.approve 1 ", "run.reject 1 "}) {
		t.Errorf("audit trail %q", got)
	}
}

// TestDecisionsRace has many decide at once: one of them does.
func TestDecisionsRace(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := create(t, s, `{"name": "asks", "trigger_config": {"trigger_type": "manual"},
		"tasks": [{"name": "ok", "type": "wait", "with": {"approval": {"message": "ship it?"}}}]}`).ID
	b := accept(t, s, id, definition.KindManual, 1)
	begin(t, s, b)
	if err := s.FinishTask(ctx, definition.TaskResult{RunID: b.RunID, Name: "ok", Type: definition.TaskWait, Status: definition.TaskRunning}); err != nil {
		t.Fatal(err)
	}
	results := make(chan error)
	for n := range 10 {
		go func() {
			_, _, err := s.DecideTask(ctx, definition.Decision{RunID: b.RunID, Task: "ok", Approved: n%2 == 0})
			results <- err
		}()
	}
	decided := 0
	for range 10 {
		switch err := <-results; {
		case err == nil:
			decided++
		case !errors.Is(err, definition.ErrNotWaiting):
			t.Error(err)
		}
	}
	if decided != 1 {
		t.Errorf("%d decided, want 1", decided)
	}
}

// TestRunDetail checks what is shown of a run alone, and of its tasks.
func TestRunDetail(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := create(t, s, graph).ID
	b := accept(t, s, id, definition.KindManual, 1)
	begin(t, s, b)
	long := `"` + strings.Repeat("x", definition.MaxShown) + `"`
	err := errors.Join(
		s.FinishTask(ctx, definition.TaskResult{RunID: b.RunID, Index: 2, Name: "each", Type: "log", Status: definition.TaskRunning, Input: []byte(`{"a":1}`)}),
		s.FinishTask(ctx, definition.TaskResult{RunID: b.RunID, Index: 0, Name: "a", Type: "log", Status: definition.TaskSucceeded, Output: []byte(long)}))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.PlanItems(ctx, b.RunID, 2, 5, time.Minute); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		i := definition.ItemResult{RunID: b.RunID, Index: 2, Item: n, Status: definition.TaskSucceeded, Value: fmt.Append(nil, n), Output: []byte(long)}
		if err := s.FinishItem(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	d, err := s.GetRunDetail(ctx, b.RunID)
	if err != nil || d.QueuePosition != 0 || len(d.Tasks) != 2 {
		t.Fatalf("%+v, %v", d, err)
	}
	if a := d.Tasks[0]; a.Name != "a" || len(a.Output) != definition.MaxShown || a.OutputBytes != len(long) || a.OutputTruncated || a.Items != nil {
		t.Errorf("%s: %d of %d bytes", a.Name, len(a.Output), a.OutputBytes)
	}
	if each := d.Tasks[1]; each.Name != "each" || string(each.Input) != `{"a":1}` || each.InputBytes != 7 || each.Items == nil || *each.Items != 5 {
		t.Errorf("%+v", each)
	}
	whole, items, err := s.GetTask(ctx, b.RunID, "a", 0, 10)
	if err != nil || string(whole.Output) != long || len(items) != 0 {
		t.Errorf("whole: %d bytes, %d items, %v", len(whole.Output), len(items), err)
	}
	_, items, err = s.GetTask(ctx, b.RunID, "each", 1, 10)
	if err != nil || len(items) != 2 || items[0].Item != 1 || string(items[0].Value) != "1" || len(items[0].Output) != definition.MaxShown ||
		items[0].OutputBytes != len(long) {
		t.Errorf("items: %d, %v", len(items), err)
	}
	if _, _, err := s.GetTask(ctx, b.RunID, "other", 0, 10); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("a task that was not reached: %v", err)
	}
}

// fillRuns makes rows of many definitions: the kinds, statuses and reasons that are rare are old.
func fillRuns(t *testing.T, s *Store, n int) (definitions []string) {
	t.Helper()
	ctx := t.Context()
	for i, name := range []string{"d-common", "d-rare", "d-other"} {
		doc := fmt.Sprintf(`{"name": %q, "labels": {"team": "t%d", "odd": "a\u0000b"}, "trigger_config": {"trigger_type": "manual"}}`, name, i%2)
		definitions = append(definitions, create(t, s, doc).ID)
	}
	_, err := s.pool.Exec(ctx, `
		INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, reason, event_id, run_limit, run_timeout,
		                  workflow_id, start_after, accepted_at, finished_at, backfill_id, replay_id, rerun_of)
		SELECT gen_random_uuid(), CASE WHEN i < 50 THEN $3::uuid WHEN i % 3 = 0 THEN $4::uuid ELSE $2::uuid END, 'x', 1,
		       CASE WHEN i < 50 THEN 'rerun' ELSE 'event' END, 'k' || i,
		       CASE WHEN i < 100 THEN 'timed_out' WHEN i % 10 = 0 THEN 'failed' ELSE 'succeeded' END,
		       CASE WHEN i < 100 THEN 'run_timeout' WHEN i % 10 = 0 THEN 'task_failed' ELSE '' END,
		       'e' || i, 0, '1h', 'w' || i, now(), now() - ($1 - i) * interval '1 s', now(),
		       CASE WHEN i < 20 THEN $2::uuid END, CASE WHEN i < 20 THEN $2::uuid END, CASE WHEN i < 20 THEN $2::uuid END
		FROM generate_series(1, $1) i`, n, definitions[0], definitions[1], definitions[2])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(ctx, `VACUUM ANALYZE runs`); err != nil {
		t.Fatal(err)
	}
	return definitions
}

// TestRunFilters checks what each filter leaves, and that none of them reads the whole table.
func TestRunFilters(t *testing.T) {
	t.Parallel()
	const n = 20_000
	s, ctx := newStore(t), t.Context()
	d := fillRuns(t, s, n)
	var now time.Time // when the last one was accepted
	if err := s.pool.QueryRow(ctx, `SELECT max(accepted_at) FROM runs`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	old := now.Add(-(n - 60) * time.Second)
	all := func(definition.Run) bool { return true }
	for name, tt := range map[string]struct {
		q     definition.ListRuns
		want  int // of the first page of 51
		is    func(definition.Run) bool
		reads int // the most rows that may be read for it
	}{
		"none":            {definition.ListRuns{}, 51, all, 100},
		"rare status":     {definition.ListRuns{Statuses: []definition.RunStatus{definition.RunTimedOut}}, 51, func(r definition.Run) bool { return r.Status == definition.RunTimedOut }, 400},
		"two statuses":    {definition.ListRuns{Statuses: []definition.RunStatus{definition.RunTimedOut, definition.RunFailed}}, 51, func(r definition.Run) bool { return r.Status == definition.RunFailed }, 400},
		"rare kind":       {definition.ListRuns{Kinds: []definition.TriggerKind{definition.KindRerun}}, 49, func(r definition.Run) bool { return r.Kind == definition.KindRerun }, 400},
		"rare reason":     {definition.ListRuns{Reason: definition.ReasonRunTimeout}, 51, func(r definition.Run) bool { return r.Reason == definition.ReasonRunTimeout }, 200},
		"rare definition": {definition.ListRuns{DefinitionID: d[1]}, 49, func(r definition.Run) bool { return r.DefinitionID == d[1] }, 200},
		"by name":         {definition.ListRuns{Definition: "d-rare"}, 49, func(r definition.Run) bool { return r.DefinitionID == d[1] }, 200},
		"by label":        {definition.ListRuns{Labels: map[string]string{"team": "t1"}}, 49, func(r definition.Run) bool { return r.DefinitionID == d[1] }, 200},
		"by label, two":   {definition.ListRuns{Labels: map[string]string{"team": "t0"}}, 51, func(r definition.Run) bool { return r.DefinitionID != d[1] }, 400},
		"other label":     {definition.ListRuns{Labels: map[string]string{"team": "t9"}}, 0, all, 10},
		"name and label":  {definition.ListRuns{Definition: "d-rare", Labels: map[string]string{"team": "t0"}}, 0, all, 10},
		"definition, status, reason": {definition.ListRuns{DefinitionID: d[0], Reason: definition.ReasonRunTimeout,
			Statuses: []definition.RunStatus{definition.RunTimedOut}}, 33, func(r definition.Run) bool { return r.DefinitionID == d[0] }, 400},
		"reason without its status": {definition.ListRuns{Reason: definition.ReasonRunTimeout,
			Statuses: []definition.RunStatus{definition.RunSucceeded}}, 0, all, 200},
		"until long ago": {definition.ListRuns{Until: old}, 51, func(r definition.Run) bool { return r.AcceptedAt.Before(old) }, 1000},
		"since just now": {definition.ListRuns{Since: now.Add(-10 * time.Second)}, 11, func(r definition.Run) bool { return !r.AcceptedAt.Before(now.Add(-10 * time.Second)) }, 1000},
		"old failures": {definition.ListRuns{Until: now.Add(-n / 2 * time.Second), Statuses: []definition.RunStatus{definition.RunFailed}}, 51,
			func(r definition.Run) bool { return r.Status == definition.RunFailed }, 1000},
		"by event":    {definition.ListRuns{EventID: "e7"}, 1, func(r definition.Run) bool { return r.EventID == "e7" }, 10},
		"by rerun":    {definition.ListRuns{RerunOf: d[0]}, 19, func(r definition.Run) bool { return r.RerunOf == d[0] }, 60},
		"by backfill": {definition.ListRuns{BackfillID: d[0]}, 19, func(r definition.Run) bool { return r.BackfillID == d[0] }, 60},
		"by replay":   {definition.ListRuns{ReplayID: d[0], Statuses: []definition.RunStatus{definition.RunTimedOut}}, 19, func(r definition.Run) bool { return r.ReplayID == d[0] }, 60},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.q.Limit = 51
			list, err := s.ListRuns(ctx, tt.q)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want != 51 && len(list) > tt.want+1 || len(list) < tt.want-1 {
				t.Errorf("%d runs, want %d", len(list), tt.want)
			}
			for i, r := range list {
				if !tt.is(r) || i > 0 && r.Seq >= list[i-1].Seq {
					t.Errorf("run %d (seq %d) does not belong here: %+v", i, r.Seq, r)
				}
			}
			if plan, read := explain(ctx, t, s, tt.q); strings.Contains(plan, "Seq Scan on runs") || read > tt.reads {
				t.Errorf("read %d rows, want at most %d:\n%s", read, tt.reads, plan)
			}
			// The second page begins where the first one ends.
			if len(list) == 51 {
				tt.q.BeforeSeq = list[49].Seq
				if next, err := s.ListRuns(ctx, tt.q); err != nil || len(next) == 0 || next[0].Seq != list[50].Seq {
					t.Errorf("next page: %d, %v", len(next), err)
				}
			}
		})
	}
}

// explain returns the plan of a list as it was carried out, and how many rows of the ledger were read for it.
func explain(ctx context.Context, t *testing.T, s *Store, q definition.ListRuns) (plan string, read int) {
	t.Helper()
	labels, err := s.labels(ctx, q.Labels)
	if err != nil {
		t.Fatal(err)
	}
	sql, args := listRuns(q, labels)
	return explainRead(ctx, t, s, "runs", sql, args)
}

// explainRead returns the plan of a statement as it was carried out, and how many rows of a table were read for it.
func explainRead(ctx context.Context, t *testing.T, s *Store, table, sql string, args []any) (plan string, read int) {
	t.Helper()
	rows, err := s.pool.Query(ctx, "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) "+sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range lines {
		var each, loops, removed int
		if at := strings.Index(line, "(actual rows="); at >= 0 && strings.Contains(line, " "+table) && strings.Contains(line, "Scan") {
			if _, err := fmt.Sscanf(line[at:], "(actual rows=%d loops=%d)", &each, &loops); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			read += each * loops
			for _, below := range lines[i+1 : min(i+4, len(lines))] {
				if _, err := fmt.Sscanf(strings.TrimSpace(below), "Rows Removed by Filter: %d", &removed); err == nil {
					read += removed * loops
				}
			}
		}
	}
	return strings.Join(lines, "\n"), read
}
