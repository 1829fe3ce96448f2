package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// steered is an installation with an API and a worker.
func steered(t *testing.T) *system.System {
	t.Helper()
	s := system.New(t)
	s.Start("api")
	s.Start("worker")
	return s
}

// becomes waits until a run has a status and a reason, and returns it.
func becomes(s *system.System, id, want string, timeout time.Duration) system.Object {
	s.T.Helper()
	var run system.Object
	testenv.Eventually(s.T, timeout, "run "+id+" is "+want, func(ctx context.Context) (bool, error) {
		_, got, err := s.TryCall(ctx, http.MethodGet, "/runs/"+id, "")
		if err != nil {
			return false, err
		}
		run = got
		now := got.Str("status")
		if reason := got.Str("reason"); reason != "" {
			now += " " + reason
		}
		if now != want && got.Str("finished_at") != "" {
			return false, fmt.Errorf("it ended as %s: %s", now, got.Str("error"))
		}
		return now == want, nil
	})
	return run
}

// taskIn returns a task of a run; an empty one when it was not reached.
func taskIn(run system.Object, name string) system.Object {
	list, _ := run["tasks"].([]any)
	for _, item := range list {
		if task, _ := item.(map[string]any); system.Object(task).Str("name") == name {
			return task
		}
	}
	return system.Object{}
}

// takes waits until a task of a run is in a state.
func takes(s *system.System, id, name, status string) {
	s.T.Helper()
	testenv.Eventually(s.T, 30*time.Second, "task "+name+" is "+status, func(ctx context.Context) (bool, error) {
		_, run, err := s.TryCall(ctx, http.MethodGet, "/runs/"+id, "")
		return err == nil && taskIn(run, name).Str("status") == status, err
	})
}

// closes waits until Temporal says how a run's workflow ended.
func closes(s *system.System, run system.Object, want enumspb.WorkflowExecutionStatus) {
	s.T.Helper()
	testenv.Eventually(s.T, 30*time.Second, "the workflow has ended as "+want.String(), func(ctx context.Context) (bool, error) {
		d, err := s.Temporal.DescribeWorkflowExecution(ctx, run.Str("workflow_id"), "")
		return err == nil && d.GetWorkflowExecutionInfo().GetStatus() == want, err
	})
}

const waitsLong = `"tasks": [{"name": "long", "type": "wait", "with": {"duration": "1h"}}]`

func TestCancelAndTerminate(t *testing.T) {
	t.Parallel()
	s := steered(t)
	id := s.Create(`{"name": "one-by-one", "trigger_config": {"trigger_type": "manual"}, "concurrency": {"limit": 1, "on_limit": "queue"}, ` + waitsLong + `}`)
	first, second, third, fourth := trigger(s, id), trigger(s, id), trigger(s, id), trigger(s, id)
	takes(s, first, "long", "running")
	becomes(s, second, "queued", 30*time.Second)
	if run := becomes(s, fourth, "queued", 30*time.Second); run.Int("queue_position") != 3 {
		t.Errorf("the last of three that wait is at %v", run["queue_position"])
	}

	// What waits ends at once.
	status, run := s.Call(http.MethodPost, "/runs/"+second+"/cancel", `{"note": "not this one"}`)
	if status != http.StatusAccepted || run.Str("status") != "canceled" || run.Str("reason") != "cancel_requested" || run.Str("error") != "not this one" {
		t.Errorf("cancel what waits: %d %v", status, run)
	}
	closes(s, run, enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED)

	// What runs ends soon, and the next one takes its place.
	status, run = s.Call(http.MethodPost, "/runs/"+first+"/cancel", "")
	if status != http.StatusAccepted || run.Str("stop_requested") != "cancel" {
		t.Errorf("cancel what runs: %d %v", status, run)
	}
	run = becomes(s, first, "canceled cancel_requested", 30*time.Second)
	if got := taskIn(run, "long").Str("status"); got != "canceled" {
		t.Errorf("its task is %q", got)
	}
	takes(s, third, "long", "running")
	status, problem := s.Call(http.MethodPost, "/runs/"+first+"/cancel", "")
	if status != http.StatusConflict || problem.Str("type") != "/problems/run-ended" {
		t.Errorf("cancel what has ended: %d %v", status, problem)
	}

	// The row of what is terminated is closed by the one who asks.
	status, run = s.Call(http.MethodPost, "/runs/"+third+"/terminate", `{"note": "it hangs"}`)
	if status != http.StatusAccepted || run.Str("status") != "canceled" || run.Str("reason") != "terminated" || run.Str("error") != "it hangs" ||
		taskIn(run, "long").Str("status") != "canceled" {
		t.Errorf("terminate: %d %v", status, run)
	}
	closes(s, run, enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED)
	takes(s, fourth, "long", "running")
}

// TestStopWhileNobodyListens asks for the end of a run while no worker is there: a worker that comes later sees to it.
func TestStopWhileNobodyListens(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("api")
	worker := s.Start("worker")
	id := s.Create(`{"name": "long", "trigger_config": {"trigger_type": "manual"}, ` + waitsLong + `}`)
	run := trigger(s, id)
	takes(s, run, "long", "running")
	worker.Kill()
	unbegun := trigger(s, id)
	for _, r := range []string{run, unbegun} {
		if status, answer := s.Call(http.MethodPost, "/runs/"+r+"/cancel", ""); status != http.StatusAccepted {
			t.Errorf("cancel: %d %v", status, answer)
		}
	}
	worker.Run()
	worker.WaitReady()
	becomes(s, run, "canceled cancel_requested", time.Minute)
	after := becomes(s, unbegun, "canceled cancel_requested", time.Minute)
	if tasks, _ := after["tasks"].([]any); len(tasks) != 0 {
		t.Errorf("a run that was canceled before it began did %v", tasks)
	}
	closes(s, after, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED) // it found that there was nothing to do
}

func TestRerun(t *testing.T) {
	t.Parallel()
	s := steered(t)
	var broken, calls atomic.Int64
	broken.Store(1)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fragile" && broken.Load() == 1 {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		calls.Add(1)
		_, _ = w.Write([]byte(`{"n": 7}`))
	}))
	t.Cleanup(target.Close)
	id := s.Create(fmt.Sprintf(`{"name": "fragile", "trigger_config": {"trigger_type": "manual"}, "tasks": [
		{"name": "once", "type": "http", "with": {"method": "GET", "url": "%[1]s/once"}},
		{"name": "break", "type": "http", "needs": ["once"], "with": {"method": "GET", "url": "%[1]s/fragile"}},
		{"name": "after", "type": "log", "needs": ["break"], "with": {"message": "n is ${tasks.once.output.body.n}"}}]}`, target.URL))
	failed := trigger(s, id)
	if status, problem := s.Call(http.MethodPost, "/runs/"+trigger(s, s.Create(`{"name": "long", "trigger_config": {"trigger_type": "manual"}, `+waitsLong+`}`))+"/rerun", ""); status != http.StatusConflict {
		t.Errorf("rerun what runs: %d %v", status, problem)
	}
	becomes(s, failed, "failed task_failed", 30*time.Second)
	broken.Store(0)

	status, run := s.Call(http.MethodPost, "/runs/"+failed+"/rerun", `{"from": "failed"}`)
	if status != http.StatusAccepted || run.Str("rerun_of") != failed || run.Str("trigger") != "rerun" {
		t.Fatalf("rerun: %d %v", status, run)
	}
	run = becomes(s, run.Str("id"), "succeeded", 30*time.Second)
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls succeeded, want 2: the first task is not done again", n)
	}
	if got := taskIn(run, "after").Object("input").Str("message"); got != "n is 7" {
		t.Errorf("the last task got %q", got)
	}

	status, run = s.Call(http.MethodPost, "/runs/"+failed+"/rerun", "")
	if status != http.StatusAccepted || run.Str("occurrence_key") != "rerun-"+failed+"-2" {
		t.Fatalf("rerun from the start: %d %v", status, run)
	}
	becomes(s, run.Str("id"), "succeeded", 30*time.Second)
	if n := calls.Load(); n != 4 {
		t.Errorf("%d calls succeeded, want 4: every task is done again", n)
	}
	status, list := s.Call(http.MethodGet, "/runs?rerun_of="+failed, "")
	if items, _ := list["items"].([]any); status != http.StatusOK || len(items) != 2 {
		t.Errorf("reruns: %d %v", status, list)
	}
	if status, problem := s.Call(http.MethodPost, "/runs/"+run.Str("id")+"/rerun", `{"from": "failed"}`); status != http.StatusConflict {
		t.Errorf("rerun from what failed of a good run: %d %v", status, problem)
	}
	if status, _ := s.Call(http.MethodDelete, "/activity-definitions/"+id, ""); status != http.StatusNoContent {
		t.Fatalf("delete: %d", status)
	}
	if status, problem := s.Call(http.MethodPost, "/runs/"+failed+"/rerun", ""); status != http.StatusConflict ||
		problem.Str("type") != "/problems/definition-deleted" {
		t.Errorf("rerun of a deleted definition: %d %v", status, problem)
	}
}

func TestApprovals(t *testing.T) {
	t.Parallel()
	s := steered(t)
	id := s.Create(`{"name": "ship", "trigger_config": {"trigger_type": "manual"}, "tasks": [
		{"name": "ask", "type": "wait", "with": {"approval": {"message": "ship it?"}}},
		{"name": "ship", "type": "log", "needs": ["ask"], "with": {"message": "by ${tasks.ask.output.by}"}}]}`)
	yes, no := trigger(s, id), trigger(s, id)
	takes(s, yes, "ask", "running")
	takes(s, no, "ask", "running")
	if status, p := s.Call(http.MethodPost, "/runs/"+yes+"/tasks/ship/approve", ""); status != http.StatusConflict {
		t.Errorf("approve what nobody asks for: %d %v", status, p)
	}
	if status, p := s.Call(http.MethodPost, "/runs/"+yes+"/tasks/none/approve", ""); status != http.StatusNotFound {
		t.Errorf("approve what there is not: %d %v", status, p)
	}
	if status, p := s.Call(http.MethodPost, "/runs/"+yes+"/tasks/ask/approve", `{"by": "ada", "comment": "go"}`); status != http.StatusAccepted {
		t.Errorf("approve: %d %v", status, p)
	}
	run := becomes(s, yes, "succeeded", 30*time.Second)
	if got := taskIn(run, "ship").Object("input").Str("message"); got != "by ada" {
		t.Errorf("the next task got %q", got)
	}
	status, p := s.Call(http.MethodPost, "/runs/"+yes+"/tasks/ask/reject", `{"by": "bob"}`)
	if status != http.StatusConflict || p.Str("type") != "/problems/decided" {
		t.Errorf("decide twice: %d %v", status, p)
	}
	if status, p := s.Call(http.MethodPost, "/runs/"+no+"/tasks/ask/reject", `{"by": "bob", "comment": "not today"}`); status != http.StatusAccepted {
		t.Errorf("reject: %d %v", status, p)
	}
	run = becomes(s, no, "failed approval_rejected", 30*time.Second)
	if got := taskIn(run, "ask").Str("error"); got != "rejected by bob: not today" {
		t.Errorf("the task's error is %q", got)
	}
}

func TestBulk(t *testing.T) {
	t.Parallel()
	s := steered(t)
	id := s.Create(`{"name": "bulk", "labels": {"team": "growth"}, "trigger_config": {"trigger_type": "manual"},
		"concurrency": {"limit": 1, "on_limit": "queue"}, ` + waitsLong + `}`)
	other := trigger(s, s.Create(`{"name": "other", "trigger_config": {"trigger_type": "manual"}, `+waitsLong+`}`))
	first := trigger(s, id)
	takes(s, first, "long", "running")
	for range 5 {
		trigger(s, id)
	}
	count := func(want int, method, path, body string) {
		t.Helper()
		status, answer := s.Call(method, path, body)
		if answer.Int("count") != want || status != http.StatusAccepted && status != http.StatusOK {
			t.Errorf("%s %s: %d %v, want a count of %d", path, body, status, answer, want)
		}
	}
	if status, p := s.Call(http.MethodPost, "/runs/cancel", `{"filter": {}}`); status != http.StatusUnprocessableEntity {
		t.Errorf("cancel everything: %d %v", status, p)
	}
	const waiting = `"filter": {"labels": {"team": "growth"}, "status": ["accepted", "queued"]}`
	count(5, http.MethodPost, "/runs/cancel", `{`+waiting+`, "dry_run": true}`)
	count(5, http.MethodPost, "/runs/cancel", `{`+waiting+`, "note": "too many"}`)
	count(0, http.MethodPost, "/runs/cancel", `{`+waiting+`}`)
	count(1, http.MethodPost, "/runs/terminate", `{"filter": {"definition": "bulk"}}`)
	becomes(s, first, "canceled terminated", 30*time.Second)
	becomes(s, other, "running", 30*time.Second)

	count(0, http.MethodPost, "/runs/rerun", `{"filter": {"definition": "bulk"}, "dry_run": true}`) // none failed
	count(5, http.MethodPost, "/runs/rerun", `{"filter": {"reason": "cancel_requested", "status": ["canceled"]}}`)
	count(0, http.MethodPost, "/runs/rerun", `{"filter": {"reason": "cancel_requested", "status": ["canceled"]}}`)
	status, list := s.Call(http.MethodGet, "/runs?label=team%3Dgrowth&trigger=rerun", "")
	if items, _ := list["items"].([]any); status != http.StatusOK || len(items) != 5 {
		t.Errorf("reruns: %d %v", status, list)
	}
}

// TestReplaceAndSkip checks the reasons of runs that gave way.
func TestReplaceAndSkip(t *testing.T) {
	t.Parallel()
	s := steered(t)
	id := s.Create(`{"name": "newest", "trigger_config": {"trigger_type": "manual"}, "concurrency": {"limit": 1, "on_limit": "replace"}, ` + waitsLong + `}`)
	first := trigger(s, id)
	takes(s, first, "long", "running")
	second := trigger(s, id)
	run := becomes(s, first, "canceled replaced", 30*time.Second)
	if want := "run " + second + " took its place"; run.Str("error") != want {
		t.Errorf("error %q, want %q", run.Str("error"), want)
	}
	takes(s, second, "long", "running")
}
