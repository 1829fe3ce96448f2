package postgres

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// running makes a run that is being carried out, of a definition without tasks: the ledger takes any.
func running(t *testing.T, s *Store) definition.Begin {
	t.Helper()
	b := accept(t, s, create(t, s, manual).ID, definition.KindManual, 1)
	begin(t, s, b)
	return b
}

func TestTaskReadsOthers(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	runID := running(t, s).RunID
	for i, r := range []definition.TaskResult{
		{Name: "a", Type: "http", Status: definition.TaskSucceeded, Output: []byte(`{"n":1}`)},
		{Name: "b", Type: "log", Status: definition.TaskSkipped},
		{Name: "c", Type: "http", Status: definition.TaskFailed, Error: "no", Output: bytes.Repeat([]byte("x"), definition.MaxOutput+1)},
	} {
		r.RunID, r.Index = runID, i
		if added, err := s.AddTask(ctx, r); err != nil || !added {
			t.Fatal(added, err)
		}
		if added, err := s.AddTask(ctx, r); err != nil || added {
			t.Fatalf("added twice: %v, %v", added, err)
		}
	}
	work, err := s.BeginTask(ctx, definition.TaskBegin{RunID: runID, Index: 3, Item: -1, Name: "d", Type: "http", Attempt: 1,
		Reads: []string{"a", "b", "c", "never"}, Look: true})
	if err != nil || work.Done != nil || len(work.Results) != 3 {
		t.Fatalf("%+v, %v", work, err)
	}
	slices.SortFunc(work.Results, func(a, b definition.TaskResult) int { return strings.Compare(a.Name, b.Name) })
	a, b, c := work.Results[0], work.Results[1], work.Results[2]
	if a.Status != definition.TaskSucceeded || string(a.Output) != `{"n":1}` || a.OutputTruncated || b.Status != definition.TaskSkipped ||
		b.Output != nil || c.Error != "no" || !c.OutputTruncated || len(c.Output) != definition.MaxOutput {
		t.Errorf("a %+v, b %+v, c %s %v", a, b, c.Error, c.OutputTruncated)
	}
	run, err := s.GetRun(ctx, runID)
	if err != nil || len(run.Tasks) != 3 {
		t.Errorf("a look began something: %+v, %v", run.Tasks, err)
	}
	if _, err := s.FinishRun(ctx, definition.Finish{RunID: runID, Status: definition.RunSucceeded}); err != nil {
		t.Fatal(err)
	}
	if added, err := s.AddTask(ctx, definition.TaskResult{RunID: runID, Index: 9, Name: "late", Type: "log", Status: definition.TaskSucceeded}); err != nil || added {
		t.Errorf("added to a run that is over: %v, %v", added, err)
	}
}

func TestItems(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	runID := running(t, s).RunID
	long := []byte(`"` + strings.Repeat("x", 400<<10) + `"`)
	for name, c := range map[string]struct {
		index  int
		items  []definition.ItemResult // each is begun and, with a status, ended
		given  definition.TaskStatus
		status definition.TaskStatus
		err    string
		output string // "" for one that is cut
	}{
		"none":      {index: 1, status: "succeeded", output: `[]`},
		"all":       {index: 2, items: []definition.ItemResult{{Status: "succeeded", Output: []byte(`{"a":1}`)}, {Status: "succeeded"}}, status: "succeeded", output: `[{"a":1},null]`},
		"failed":    {index: 3, items: []definition.ItemResult{{Status: "succeeded", Output: []byte(`1`)}, {Status: "failed", Error: "no"}, {Status: "timed_out", Error: "late"}, {}}, status: "failed", err: "item 1: no (and 1 more failed)", output: `[1,null,null,null]`},
		"given":     {index: 4, items: []definition.ItemResult{{Status: "succeeded", Output: []byte(`1`)}, {}}, given: "canceled", status: "canceled", output: `[1,null]`},
		"too large": {index: 5, items: []definition.ItemResult{{Status: "succeeded", Output: long}, {Status: "succeeded", Output: long}, {Status: "succeeded", Output: long}}, status: "succeeded"},
	} {
		t.Run(name, func(t *testing.T) {
			task := definition.TaskBegin{RunID: runID, Index: c.index, Item: -1, Name: name, Type: "http", Attempt: 1}
			if _, err := s.BeginTask(ctx, task); err != nil {
				t.Fatal(err)
			}
			for i, item := range c.items {
				task.Item, task.Value = i, []byte(`{"i":1}`)
				if work, err := s.BeginTask(ctx, task); err != nil || work.Done != nil || work.Item != i {
					t.Fatal(work, err)
				}
				if item.Status == "" {
					continue
				}
				item.RunID, item.Index, item.Item, item.Attempts = runID, c.index, i, 1
				if err := s.FinishItem(ctx, item); err != nil {
					t.Fatal(err)
				}
				if work, err := s.BeginTask(ctx, task); err != nil || work.Done == nil || work.Done.Status != item.Status {
					t.Errorf("item %d begins again: %+v, %v", i, work.Done, err)
				}
			}
			statuses, left, err := s.PlanItems(ctx, runID, c.index, len(c.items)+1, time.Hour)
			if err != nil || len(statuses) != len(c.items)+1 || statuses[len(c.items)] != "" || left > time.Hour || left < 59*time.Minute {
				t.Fatal(statuses, left, err)
			}
			for i, item := range c.items {
				if want := cmp.Or(item.Status, definition.TaskRunning); statuses[i] != want {
					t.Errorf("item %d is %s, want %s", i, statuses[i], want)
				}
			}
			for range 2 { // the second time it is final
				done, err := s.FinishItems(ctx, definition.TaskResult{RunID: runID, Index: c.index, Status: c.given})
				if err != nil || done.Status != c.status || done.Error != c.err {
					t.Fatalf("%+v, %v", done, err)
				}
			}
			run, err := s.GetRun(ctx, runID)
			if err != nil {
				t.Fatal(err)
			}
			got := run.Tasks[slices.IndexFunc(run.Tasks, func(r definition.TaskResult) bool { return r.Index == c.index })]
			if got.FinishedAt == nil || got.OutputTruncated != (c.output == "") || c.output != "" && string(got.Output) != c.output {
				t.Errorf("task %s %v %.100s", got.Status, got.OutputTruncated, got.Output)
			}
			if len(got.Output) > definition.MaxOutput || c.output != "" && !json.Valid(got.Output) {
				t.Errorf("%d bytes of output", len(got.Output))
			}
			var open int
			err = s.pool.QueryRow(ctx, `SELECT count(*) FROM task_items WHERE run_id = $1 AND index = $2 AND status = 'running'`, runID, c.index).Scan(&open)
			if err != nil || open != 0 {
				t.Errorf("%d items are running, %v", open, err)
			}
		})
	}
}

// The first call says until when a task waits; later ones, after a new attempt of the workflow, only learn what is left.
func TestPlanWait(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	runID := running(t, s).RunID
	if _, err := s.BeginTask(ctx, definition.TaskBegin{RunID: runID, Index: 0, Item: -1, Name: "w", Type: "wait", Attempt: 1}); err != nil {
		t.Fatal(err)
	}
	first, err := s.PlanWait(ctx, runID, 0, definition.WaitPlan{Duration: time.Hour, Limit: 2 * time.Hour, Input: []byte(`{"duration":"1h"}`)})
	if err != nil || first.Left > time.Hour || first.Left < 59*time.Minute || first.Limit > 2*time.Hour || first.Limit < 119*time.Minute {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := s.PlanWait(ctx, runID, 0, definition.WaitPlan{Duration: 5 * time.Hour, Limit: 2 * time.Hour, Input: []byte(`{}`)})
	if err != nil || again.Left > first.Left {
		t.Errorf("%+v after %+v, %v", again, first, err)
	}
	if _, err := s.BeginTask(ctx, definition.TaskBegin{RunID: runID, Index: 1, Item: -1, Name: "u", Type: "wait", Attempt: 1}); err != nil {
		t.Fatal(err)
	}
	past, err := s.PlanWait(ctx, runID, 1, definition.WaitPlan{Until: time.Now().Add(-time.Hour), Limit: time.Hour})
	if err != nil || past.Left > 0 {
		t.Errorf("a time that is past: %+v, %v", past, err)
	}
	if _, err := s.PlanWait(ctx, runID, 7, definition.WaitPlan{Limit: time.Hour}); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("an unknown task: %v", err)
	}
}

// A run that is carried out anew hears what was done.
func TestBeginTellsProgress(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	b := running(t, s)
	if adm := begin(t, s, b); len(adm.Progress) != 0 {
		t.Errorf("progress of nothing: %+v", adm.Progress)
	}
	for i, r := range []definition.TaskResult{{Name: "a", Status: definition.TaskSucceeded}, {Name: "b", Status: definition.TaskFailed, Error: "no"}} {
		r.RunID, r.Index, r.Type = b.RunID, i, definition.TaskLog
		if err := s.FinishTask(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.BeginTask(ctx, definition.TaskBegin{RunID: b.RunID, Index: 2, Item: -1, Name: "c", Type: "log", Attempt: 1}); err != nil {
		t.Fatal(err)
	}
	adm := begin(t, s, b)
	if adm.Elapsed <= 0 || len(adm.Progress) != 3 {
		t.Fatalf("%+v", adm)
	}
	for i, want := range []definition.TaskProgress{{Index: 0, Status: "succeeded"}, {Index: 1, Status: "failed", Error: "no"}, {Index: 2, Status: "running"}} {
		got := adm.Progress[i]
		if got.Since < 0 || i < 2 && got.Since > time.Minute {
			t.Errorf("task %d ended %s ago", i, got.Since)
		}
		if got.Since = 0; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// A canceled run has the reason for which it was to be stopped.
func TestFinishTellsWhyItWasStopped(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	s, ctx := New(pool), t.Context()
	b := running(t, s)
	if _, err := pool.Exec(ctx, `UPDATE runs SET stop_requested = 'cancel', stop_reason = 'replaced' WHERE id = $1`, b.RunID); err != nil {
		t.Fatal(err)
	}
	f, err := s.FinishRun(ctx, definition.Finish{RunID: b.RunID, Status: definition.RunCanceled, Reason: definition.ReasonCancelRequested})
	if err != nil || f.Run.Reason != definition.ReasonReplaced {
		t.Errorf("%+v, %v", f.Run, err)
	}
}
