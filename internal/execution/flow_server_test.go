package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// tasksOf returns a run's tasks by name.
func tasksOf(run definition.Run) map[string]definition.TaskResult {
	byName := map[string]definition.TaskResult{}
	for _, t := range run.Tasks {
		byName[t.Name] = t
	}
	return byName
}

// wantTask checks a task's status, and its error and output in part.
func wantTask(t *testing.T, run definition.Run, name string, status definition.TaskStatus, err, output string) {
	t.Helper()
	got, ok := tasksOf(run)[name]
	if !ok || got.Status != status || !strings.Contains(got.Error, err) || err == "" && got.Error != "" ||
		!strings.Contains(string(got.Output), output) {
		t.Errorf("task %s is %s, error %q, output %.200q; want %s, %q, %q", name, got.Status, got.Error, got.Output, status, err, output)
	}
}

// echo serves the body that it is sent, and counts the requests of each body.
type echo struct {
	mu    sync.Mutex
	order []string
	fail  func(body string) int // the status for a body; 0 for 200
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	e.mu.Lock()
	e.order = append(e.order, string(body))
	e.mu.Unlock()
	if e.fail != nil {
		if status := e.fail(string(body)); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

func (e *echo) bodies() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.order)
}

// Three tasks that each wait for the other two can only be done at one time. What needs them comes after them, and reads them.
func TestServerParallel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var meet sync.WaitGroup
	meet.Add(3)
	url := serve(t, func(w http.ResponseWriter, req *http.Request) {
		meet.Done()
		meet.Wait()
		fmt.Fprintf(w, `{"at": %q}`, req.URL.Path)
	})
	var joined echo
	join := serve(t, joined.ServeHTTP)
	runID, workflowID := r.begin(r.define(`"tasks": [
		{"name": "join", "type": "http", "needs": ["a", "b", "c"], "with": {"url": "`+join+`", "body": {
			"a": "${tasks.a.output.body.at}", "b": "${tasks.b.output.body.at}", "text": "c is ${tasks.c.status} for ${run.input.n}"}}},
		{"name": "a", "type": "http", "with": {"url": "`+url+`/a"}},
		{"name": "b", "type": "http", "with": {"url": "`+url+`/b"}},
		{"name": "c", "type": "http", "with": {"url": "`+url+`/c"}},
		{"name": "say", "type": "log", "needs": ["join"], "with": {"message": "${tasks.join.output.body.text}"}}]`), `{"n": 7}`)
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	if got := joined.bodies(); !slices.Equal(got, []string{`{"a":"/a","b":"/b","text":"c is succeeded for 7"}`}) {
		t.Errorf("joined with %q", got)
	}
	var input []byte
	if err := r.pool.QueryRow(t.Context(), `SELECT input FROM task_results WHERE run_id = $1 AND name = 'say'`, runID).Scan(&input); err != nil {
		t.Fatal(err)
	}
	if string(input) != `{"message":"c is succeeded for 7"}` {
		t.Errorf("input %s", input)
	}
	record(t, "parallel", r.history(workflowID))
}

func TestServerConditions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	missing := serve(t, http.NotFound)
	var told echo
	url := serve(t, told.ServeHTTP)
	queue := r.userWorker(func(w worker.Registry) {
		w.RegisterActivityWithOptions(func(context.Context) error { return nil }, activity.RegisterOptions{Name: "Do"})
	})
	runID, workflowID := r.begin(r.define(`"tasks": [
		{"name": "try", "type": "http", "on_error": "continue", "with": {"url": "`+missing+`"}},
		{"name": "then", "type": "http", "needs": ["try"], "if": "tasks.try.status == 'succeeded'", "with": {"url": "`+url+`"}},
		{"name": "user", "type": "activity", "needs": ["try"], "if": "run.input.wanted", "with": {"activity": "Do", "task_queue": "`+queue+`", "args": []}},
		{"name": "say", "type": "log", "needs": ["try"], "if": "tasks.try.status == 'succeeded'", "with": {"message": "m"}},
		{"name": "each", "type": "http", "needs": ["try"], "if": "false", "for_each": "[1, 2]", "with": {"url": "`+url+`"}},
		{"name": "pause", "type": "wait", "if": "false", "with": {"duration": "1h"}},
		{"name": "after", "type": "http", "needs": ["then", "user", "say", "each", "pause"], "with": {"url": "`+url+`", "body":
			"${[tasks.try.status, tasks.try.error, tasks.then.status]}"}}]`), `{"wanted": false}`)
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	wantTask(t, run, "try", definition.TaskFailed, "404 Not Found", "")
	for _, name := range []string{"then", "user", "say", "each", "pause"} {
		wantTask(t, run, name, definition.TaskSkipped, "", "")
	}
	wantTask(t, run, "after", definition.TaskSucceeded, "", "404 Not Found")
	if got := told.bodies(); len(got) != 1 || !strings.HasPrefix(got[0], `["failed","POST http://127.0.0.1`) || !strings.HasSuffix(got[0], `"skipped"]`) {
		t.Errorf("requests %q", got)
	}
	record(t, "conditions", r.history(workflowID))
}

// A failure lets what is in progress end, cancels waits, and begins nothing any more.
func TestServerFailureAmongOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	arrived, fail, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	slow := serve(t, func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	})
	missing := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		<-arrived
		<-fail
		w.WriteHeader(http.StatusNotFound)
	})
	runID, workflowID := r.begin(r.define(`"tasks": [
		{"name": "slow", "type": "http", "with": {"url": "`+slow+`"}},
		{"name": "bad", "type": "http", "with": {"url": "`+missing+`"}},
		{"name": "pause", "type": "wait", "with": {"duration": "10h"}},
		{"name": "never", "type": "log", "needs": ["slow"], "with": {"message": "m"}}]`), "")
	r.awaitEvent(workflowID, enumspb.EVENT_TYPE_TIMER_STARTED)
	close(fail)
	r.awaitEvent(workflowID, enumspb.EVENT_TYPE_TIMER_CANCELED) // by then the workflow knows; the task's row alone would not tell
	close(release)
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunFailed, definition.ReasonTaskFailed)
	wantTask(t, run, "slow", definition.TaskSucceeded, "", "200")
	wantTask(t, run, "pause", definition.TaskCanceled, `stopped with the run: task "bad": `, "")
	if _, reached := tasksOf(run)["never"]; reached || !strings.HasPrefix(run.Error, `task "bad": `) {
		t.Errorf("error %q, tasks %+v", run.Error, run.Tasks)
	}
	record(t, "failure_among_others", r.history(workflowID))
}

func TestServerForEach(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var all echo
	all.fail = func(body string) int {
		if body == `"bad"` {
			return http.StatusNotFound
		}
		return 0
	}
	url := serve(t, all.ServeHTTP)
	queue := r.userWorker(func(w worker.Registry) {
		w.RegisterActivityWithOptions(func(_ context.Context, n int) (int, error) { return n * n, nil }, activity.RegisterOptions{Name: "Square"})
		w.RegisterWorkflowWithOptions(func(ctx workflow.Context, n int) (string, error) {
			id := workflow.GetInfo(ctx).WorkflowExecution.ID
			return id[strings.LastIndex(id, ":")+1:], nil
		}, workflow.RegisterOptions{Name: "Last"})
	})
	t.Run("outputs", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		runID, workflowID := r.begin(r.define(`"tasks": [
			{"name": "each", "type": "http", "for_each": "run.input.list", "max_parallel": 3, "with": {"url": "`+url+`", "body": "${item}"}},
			{"name": "square", "type": "activity", "for_each": "[3, 1, 2]", "with": {"activity": "Square", "task_queue": "`+queue+`", "args": ["${item}"]}},
			{"name": "last", "type": "workflow", "for_each": "[0, 0]", "with": {"workflow": "Last", "task_queue": "`+queue+`", "args": ["${item}"]}},
			{"name": "lines", "type": "log", "for_each": "['x', 'y']", "with": {"message": "${item}"}},
			{"name": "none", "type": "log", "for_each": "[]", "with": {"message": "${item}"}},
			{"name": "sum", "type": "http", "needs": ["each", "square"], "with": {"url": "`+url+`",
				"body": {"each": "${tasks.each.output.map(o, o.body)}", "square": "${tasks.square.output}"}}}]`), `{"list": ["a", {"b": 2}, 3, null, "e"]}`)
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunSucceeded, "")
		wantTask(t, run, "square", definition.TaskSucceeded, "", `[9,1,4]`)
		wantTask(t, run, "last", definition.TaskSucceeded, "", `["0","1"]`)
		wantTask(t, run, "lines", definition.TaskSucceeded, "", `[null,null]`)
		wantTask(t, run, "none", definition.TaskSucceeded, "", `[]`)
		wantTask(t, run, "sum", definition.TaskSucceeded, "", `{"each":["a",{"b":2},3,null,"e"],"square":[9,1,4]}`)
		var items, begun, rows int
		var value string
		err := r.pool.QueryRow(t.Context(), `SELECT items, items_begun, (SELECT count(*) FROM task_items i WHERE i.run_id = t.run_id AND i.index = 0 AND
			i.status = 'succeeded'), (SELECT convert_from(value, 'UTF8') FROM task_items i WHERE i.run_id = t.run_id AND i.index = 0 AND i.item = 1)
			FROM task_results t WHERE run_id = $1 AND index = 0`, runID).Scan(&items, &begun, &rows, &value)
		if err != nil || items != 5 || begun != 5 || rows != 5 || value != `{"b":2}` {
			t.Errorf("%d items, %d begun, %d rows, the second %s, %v", items, begun, rows, value, err)
		}
		record(t, "for_each", r.history(workflowID))
	})
	t.Run("fails", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		runID, workflowID := r.begin(r.define(`"tasks": [{"name": "each", "type": "http", "for_each": "['ok', 'bad', 'never']", "max_parallel": 1,
			"with": {"url": "`+url+`", "body": "${item}"}}]`), "")
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunFailed, definition.ReasonTaskFailed)
		wantTask(t, run, "each", definition.TaskFailed, "item 1: POST "+url+": answered 404 Not Found", `,{"status":404}]`)
		if run.Error != `task "each": item 1: POST `+url+`: answered 404 Not Found` || slices.Contains(all.bodies(), `"never"`) {
			t.Errorf("error %q, requests %q", run.Error, all.bodies())
		}
		record(t, "for_each_fails", r.history(workflowID))
	})
	t.Run("goes on", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		runID, _ := r.begin(r.define(`"tasks": [{"name": "each", "type": "http", "for_each": "['bad', 'on', 'bad']", "max_parallel": 1, "on_error": "continue",
			"with": {"url": "`+url+`", "body": "${item}"}},
			{"name": "say", "type": "log", "needs": ["each"], "with": {"message": "${tasks.each.output[1].body}"}}]`), "")
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunSucceeded, "")
		wantTask(t, run, "each", definition.TaskFailed, "answered 404 Not Found (and 1 more failed)", `[{"status":404},{`)
		wantTask(t, run, "say", definition.TaskSucceeded, "", "")
	})
	t.Run("times out", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		hang := serve(t, func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
		runID, workflowID := r.begin(r.define(`"tasks": [{"name": "each", "type": "http", "for_each": "['x', 'y', 'z']", "max_parallel": 2, "timeout": "1s",
			"with": {"method": "GET", "url": "`+hang+`"}}]`), "")
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunFailed, definition.ReasonTaskTimedOut)
		wantTask(t, run, "each", definition.TaskTimedOut, "not finished within its timeout of 1s", "[")
		var statuses []string
		if err := r.pool.QueryRow(t.Context(), `SELECT array_agg(status ORDER BY item) FROM task_items WHERE run_id = $1`, runID).Scan(&statuses); err != nil {
			t.Fatal(err)
		}
		for _, status := range statuses {
			if len(statuses) != 2 || status == "running" {
				t.Errorf("items %v", statuses)
			}
		}
		record(t, "for_each_times_out", r.history(workflowID))
	})
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		list := "[" + strings.Repeat("0,", definition.MaxItems) + "0]"
		runID, _ := r.begin(r.define(`"tasks": [{"name": "each", "type": "log", "for_each": "run.input", "with": {"message": "m"}}]`), list)
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunFailed, definition.ReasonExpression)
		wantTask(t, run, "each", definition.TaskFailed, "1001 items", "")
	})
}

func TestServerOnFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	missing := serve(t, http.NotFound)
	var told echo
	told.fail = func(body string) int {
		if strings.Contains(body, "refuse") {
			return http.StatusNotFound
		}
		return 0
	}
	url := serve(t, told.ServeHTTP)
	t.Run("failed", func(t *testing.T) {
		r := r.on(t)
		runID, workflowID := r.begin(r.define(`"tasks": [{"name": "bad", "type": "http", "with": {"url": "`+missing+`"}}], "on_failure": [
			{"name": "tell", "type": "http", "with": {"url": "`+url+`", "body": "${[run.status, run.reason, run.error, tasks.bad.status]}"}},
			{"name": "broken", "type": "http", "needs": ["say"], "with": {"url": "`+url+`", "raw_body": "refuse"}},
			{"name": "say", "type": "log", "needs": ["tell"], "with": {"message": "${run.error}"}}]`), "")
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunFailed, definition.ReasonTaskFailed)
		if want := `task "bad": POST ` + missing + `: answered 404 Not Found`; run.Error != want {
			t.Errorf("error %q", run.Error)
		} else if text := `["failed","task_failed","task \"bad\": POST ` + missing + `: answered 404 Not Found","failed"]`; !slices.Contains(told.bodies(), text) {
			t.Errorf("told %q, want %q", told.bodies(), text)
		}
		wantTask(t, run, "tell", definition.TaskSucceeded, "", "200")
		wantTask(t, run, "broken", definition.TaskFailed, "404", "")
		wantTask(t, run, "say", definition.TaskSucceeded, "", "")
		record(t, "on_failure", r.history(workflowID))
	})
	t.Run("timed out", func(t *testing.T) {
		r := r.on(t)
		runID, workflowID := r.begin(r.define(`"timeout": "1s", "tasks": [{"name": "pause", "type": "wait", "with": {"duration": "${'1h'}"}}], "on_failure": [
			{"name": "tell", "type": "http", "with": {"url": "`+url+`", "body": "${run.reason}"}}]`), "")
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunTimedOut, definition.ReasonRunTimeout)
		wantTask(t, run, "pause", definition.TaskCanceled, "stopped with the run: the run used up its timeout of 1s", "")
		wantTask(t, run, "tell", definition.TaskSucceeded, "", `run_timeout`)
		record(t, "on_failure_timed_out", r.history(workflowID))
	})
}

func TestServerWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	decide := func(r *rig, runID, workflowID string, status definition.TaskStatus, text, output string) {
		r.t.Helper()
		r.await(runID, "waiting", func(run definition.Run) bool { return len(run.Tasks) == 1 })
		err := r.store.FinishTask(r.t.Context(), definition.TaskResult{RunID: runID, Index: 0, Name: "ask", Type: definition.TaskWait,
			Status: status, Error: text, Attempts: 1, Output: []byte(output)})
		if err == nil {
			err = r.temporal.SignalWorkflow(r.t.Context(), workflowID, "", definition.SignalDecided, nil)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	const ask = `"tasks": [{"name": "ask", "type": "wait", "with": {"approval": {"message": "ship ${run.input.n}?"}}},
		{"name": "say", "type": "log", "needs": ["ask"], "with": {"message": "${tasks.ask.output.by}"}}]`
	t.Run("duration", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		runID, workflowID := r.begin(r.define(`"tasks": [
			{"name": "pause", "type": "wait", "with": {"duration": "${string(run.input.seconds)}s"}},
			{"name": "past", "type": "wait", "with": {"until": "2020-01-01T00:00:00Z"}}]`), `{"seconds": 2}`)
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunSucceeded, "")
		tasks := tasksOf(run)
		if took := tasks["pause"].FinishedAt.Sub(tasks["pause"].StartedAt); took < 2*time.Second || took > 20*time.Second {
			t.Errorf("it paused for %s", took)
		}
		wantTask(t, run, "past", definition.TaskSucceeded, "", "")
		record(t, "wait", r.history(workflowID))
	})
	t.Run("approved", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		runID, workflowID := r.begin(r.define(ask), `{"n": 7}`)
		decide(r, runID, workflowID, definition.TaskSucceeded, "", `{"approved":true,"by":"jo"}`)
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunSucceeded, "")
		wantTask(t, run, "ask", definition.TaskSucceeded, "", `"by":"jo"`)
		wantTask(t, run, "say", definition.TaskSucceeded, "", "")
		var input string
		err := r.pool.QueryRow(t.Context(), `SELECT convert_from(input, 'UTF8') FROM task_results WHERE run_id = $1 AND index = 0`, runID).Scan(&input)
		if err != nil || input != `{"approval":{"message":"ship 7?"}}` {
			t.Errorf("input %s, %v", input, err)
		}
		record(t, "approval", r.history(workflowID))
	})
	t.Run("rejected", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		runID, workflowID := r.begin(r.define(ask), `{"n": 7}`)
		decide(r, runID, workflowID, definition.TaskFailed, "rejected by jo: not now", "")
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunFailed, definition.ReasonRejected)
		if run.Error != `task "ask": rejected by jo: not now` || len(run.Tasks) != 1 {
			t.Errorf("error %q, tasks %+v", run.Error, run.Tasks)
		}
		record(t, "approval_rejected", r.history(workflowID))
	})
	t.Run("nobody decides", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		runID, workflowID := r.begin(r.define(`"tasks": [{"name": "ask", "type": "wait", "timeout": "1s", "with": {"approval": {"message": "?"}}},
			{"name": "long", "type": "wait", "on_error": "continue", "timeout": "1s", "with": {"duration": "${'1h'}"}}]`), "")
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunFailed, definition.ReasonTaskTimedOut)
		wantTask(t, run, "ask", definition.TaskTimedOut, "nobody decided within its timeout of 1s", "")
		record(t, "approval_times_out", r.history(workflowID))
	})
	t.Run("canceled", func(t *testing.T) {
		t.Parallel()
		r := r.on(t)
		runID, workflowID := r.begin(r.define(ask), `{"n": 7}`)
		r.await(runID, "waiting", func(run definition.Run) bool { return len(run.Tasks) == 1 })
		_, err := r.pool.Exec(t.Context(), `UPDATE runs SET stop_requested = 'cancel', stop_reason = 'replaced' WHERE id = $1`, runID)
		if err == nil {
			err = r.temporal.CancelWorkflow(t.Context(), workflowID, "")
		}
		if err != nil {
			t.Fatal(err)
		}
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunCanceled, definition.ReasonReplaced)
		wantTask(t, run, "ask", definition.TaskCanceled, "stopped with the run", "")
		record(t, "approval_canceled", r.history(workflowID))
	})
}

// Twenty results of 1 MiB at one time are no more than Temporal takes, nor are arguments of 250 kB each.
func TestServerMuchAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	queue := r.userWorker(func(w worker.Registry) {
		w.RegisterActivityWithOptions(func(_ context.Context, text string) (string, error) {
			return strings.Repeat("x", definition.MaxOutput-100) + text[:1], nil
		}, activity.RegisterOptions{Name: "Much"})
	})
	var tasks []string
	for i := range 20 {
		tasks = append(tasks, fmt.Sprintf(`{"name": "t%d", "type": "activity", "with": {"activity": "Much", "task_queue": %q, "args": ["${run.input}"]}}`, i, queue))
	}
	runID, workflowID := r.begin(r.define(`"tasks": [`+strings.Join(tasks, ",")+`]`), `"`+strings.Repeat("y", 250_000)+`"`)
	t.Cleanup(func() {
		if t.Failed() {
			for _, e := range r.executions(workflowID)[0].Events {
				t.Log(e.EventId, e.EventTime.AsTime().Format(time.TimeOnly), e.EventType, e.GetWorkflowTaskFailedEventAttributes().GetCause())
			}
		}
	})
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	for _, task := range run.Tasks {
		if task.Status != definition.TaskSucceeded || len(task.Output) != definition.MaxOutput-97 || task.OutputTruncated {
			t.Errorf("task %s is %s, %d bytes", task.Name, task.Status, len(task.Output))
		}
	}
	if len(run.Tasks) != 20 {
		t.Errorf("%d tasks", len(run.Tasks))
	}
	d, err := r.temporal.DescribeWorkflowExecution(t.Context(), workflowID, "")
	if err != nil {
		t.Fatal(err)
	}
	replay(t, r.history(workflowID)) // it is too large to be kept
	t.Logf("history: %d events, %d bytes", d.WorkflowExecutionInfo.HistoryLength, d.WorkflowExecutionInfo.HistorySizeBytes)
}

func TestServerExpressionErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var calls atomic.Int32
	url := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	queue := r.userWorker(func(w worker.Registry) {
		w.RegisterActivityWithOptions(func(context.Context) (string, error) {
			return strings.Repeat("x", definition.MaxOutput), nil
		}, activity.RegisterOptions{Name: "Much"})
	})
	for name, c := range map[string]struct{ tasks, want string }{
		"http":     {`{"name": "x", "type": "http", "with": {"url": "` + url + `", "body": {"id": "${run.input.id}"}}}`, `with.body.id: ${run.input.id}: no such key: id`},
		"if":       {`{"name": "x", "type": "http", "if": "run.input.id", "with": {"url": "` + url + `"}}`, `no such key: id`},
		"log":      {`{"name": "x", "type": "log", "with": {"message": "${run.input.id}"}}`, `with.message: ${run.input.id}: no such key: id`},
		"activity": {`{"name": "x", "type": "activity", "with": {"activity": "Much", "task_queue": "q", "args": ["${run.input.id}"]}}`, `no such key: id`},
		"wait":     {`{"name": "x", "type": "wait", "with": {"duration": "${run.input.id}"}}`, `no such key: id`},
		"for_each": {`{"name": "x", "type": "http", "for_each": "run.input.id", "with": {"url": "` + url + `"}}`, `no such key: id`},
		"item":     {`{"name": "x", "type": "http", "for_each": "[1]", "with": {"url": "` + url + `", "body": "${item.id}"}}`, `item 0: with.body: ${item.id}: `},
		"event":    {`{"name": "x", "type": "http", "with": {"url": "` + url + `", "body": "${event.payload}"}}`, `event`},
		"cut": {`{"name": "much", "type": "activity", "with": {"activity": "Much", "task_queue": "` + queue + `", "args": []}},
			{"name": "x", "type": "http", "needs": ["much"], "with": {"url": "` + url + `", "body": "${tasks.much.output}"}}`, `too large to be kept`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := r.on(t)
			runID, _ := r.begin(r.define(`"tasks": [`+c.tasks+`]`), `{"a": 1}`)
			run := r.awaitEnd(runID)
			wantStatus(t, run, definition.RunFailed, definition.ReasonExpression)
			wantTask(t, run, "x", definition.TaskFailed, c.want, "")
		})
	}
	t.Cleanup(func() {
		if calls.Load() > 0 {
			t.Errorf("%d requests were made", calls.Load())
		}
	})
}

func TestServerNotRetryable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	broken := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	queue := r.userWorker(func(w worker.Registry) {
		w.RegisterActivityWithOptions(func(context.Context) error {
			return temporal.NewApplicationError("no funds", "NoFunds")
		}, activity.RegisterOptions{Name: "Charge"})
	})
	runID, _ := r.begin(r.define(`"tasks": [
		{"name": "http", "type": "http", "on_error": "continue", "retry": {"non_retryable_errors": ["http_503"]}, "with": {"url": "`+broken+`"}},
		{"name": "user", "type": "activity", "on_error": "continue", "retry": {"non_retryable_errors": ["NoFunds"]},
			"with": {"activity": "Charge", "task_queue": "`+queue+`", "args": []}}]`), "")
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	wantTask(t, run, "http", definition.TaskFailed, "503", "")
	wantTask(t, run, "user", definition.TaskFailed, "no funds", "")
	for _, task := range run.Tasks {
		if task.Attempts != 1 {
			t.Errorf("task %s was tried %d times", task.Name, task.Attempts)
		}
	}
}

// Secrets reach the request, and neither the ledger nor the history.
func TestServerSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	got := make(chan string, 1)
	url := serve(t, func(w http.ResponseWriter, req *http.Request) {
		got <- req.Header.Get("Authorization")
		fmt.Fprintf(w, `{"you sent": %q}`, req.Header.Get("Authorization"))
	})
	runID, workflowID := r.begin(r.define(`"tasks": [{"name": "x", "type": "http", "with": {"url": "`+url+`",
		"headers": {"Authorization": "Bearer ${secrets.TOKEN}"}}}]`), "")
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	if sent := <-got; sent != "Bearer "+secretToken {
		t.Errorf("sent %q", sent)
	}
	wantTask(t, run, "x", definition.TaskSucceeded, "", `Bearer ***`)
	var row string
	err := r.pool.QueryRow(t.Context(), `SELECT convert_from(input, 'UTF8') || convert_from(output, 'UTF8') || error FROM task_results WHERE run_id = $1`, runID).Scan(&row)
	if err != nil || strings.Contains(row, secretToken) || !strings.Contains(row, `"Authorization":"Bearer ***"`) {
		t.Errorf("row %s, %v", row, err)
	}
	if text := r.history(workflowID).String(); strings.Contains(text, secretToken) {
		t.Error("the secret is in the history")
	}
}

func TestServerChildWorkflows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	queue, _ := r.sleeper()
	id := "own-" + uuid.NewString()
	runID, workflowID := r.begin(r.define(`"tasks": [{"name": "sleep", "type": "workflow", "with": {"workflow": "Sleep", "task_queue": "`+queue+`",
		"id": "${run.input.id}", "wait": false}}]`), `{"id": "`+id+`"}`)
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	wantTask(t, run, "sleep", definition.TaskSucceeded, "", "")
	r.history(workflowID)
	d, err := r.temporal.DescribeWorkflowExecution(t.Context(), id, "")
	if err != nil || d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		t.Fatalf("the workflow that was not waited for: %v, %v", d, err)
	}
	if err := r.temporal.TerminateWorkflow(t.Context(), id, "", "the test is over"); err != nil {
		t.Error(err)
	}
	record(t, "workflow_detached", r.history(workflowID))
}

// executions returns the histories of all executions of a workflow, the last one first.
func (r *rig) executions(workflowID string) []*historypb.History {
	r.t.Helper()
	var all []*historypb.History
	for id := ""; ; {
		h := &historypb.History{}
		for events := r.temporal.GetWorkflowHistory(r.t.Context(), workflowID, id, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
			event, err := events.Next()
			if err != nil {
				r.t.Fatal(err)
			}
			h.Events = append(h.Events, event)
		}
		all = append(all, h)
		if id = h.Events[0].GetWorkflowExecutionStartedEventAttributes().GetContinuedExecutionRunId(); id == "" {
			return all
		}
	}
}

// A run continues as new before its history is long, with waits in progress, and does nothing twice.
func TestServerContinuesAsNew(t *testing.T) {
	t.Parallel()
	r := newIdleRig(t)
	r.maxEvents = 300
	r.startWorker(r.registry)
	var all echo
	url := serve(t, all.ServeHTTP)
	list := make([]int, 300)
	for i := range list {
		list[i] = i
	}
	input, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	runID, workflowID := r.begin(r.define(`"tasks": [
		{"name": "first", "type": "http", "with": {"url": "`+url+`", "raw_body": "first"}},
		{"name": "each", "type": "http", "needs": ["first"], "for_each": "run.input", "max_parallel": 20, "with": {"url": "`+url+`", "body": "${item}"}},
		{"name": "lines", "type": "log", "needs": ["first"], "for_each": "run.input", "max_parallel": 5, "with": {"message": "${string(item)}"}},
		{"name": "pause", "type": "wait", "with": {"duration": "5s"}},
		{"name": "last", "type": "http", "needs": ["each", "pause", "lines"], "with": {"url": "`+url+`", "raw_body": "${string(size(tasks.each.output))}"}}]`), string(input))
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	wantTask(t, run, "last", definition.TaskSucceeded, "", `300`)
	times := map[string]int{}
	for _, body := range all.bodies() {
		times[body]++
	}
	want := map[string]int{"first": 1}
	for i := range list {
		want[fmt.Sprint(i)] = 1
	}
	want["300"] = 1
	for body, n := range want {
		if times[body] != n {
			t.Errorf("%q was sent %d times", body, times[body])
		}
	}
	var outputs []struct{ Body int }
	if err := json.Unmarshal(tasksOf(run)["each"].Output, &outputs); err != nil || len(outputs) != 300 || outputs[7].Body != 7 || outputs[299].Body != 299 {
		t.Errorf("%d outputs, %v", len(outputs), err)
	}
	if took := tasksOf(run)["pause"].FinishedAt.Sub(tasksOf(run)["pause"].StartedAt); took < 5*time.Second || took > 15*time.Second {
		t.Errorf("it paused for %s", took)
	}
	executions := r.executions(workflowID)
	if len(executions) < 3 {
		t.Errorf("%d executions", len(executions))
	}
	for i, h := range executions {
		if n := len(h.Events); n > 600 {
			t.Errorf("execution %d from the end has %d events", i, n)
		}
	}
	started := executions[0].Events[0].GetWorkflowExecutionStartedEventAttributes()
	if started.GetSearchAttributes().GetIndexedFields()[definition.SearchAttributeID] == nil {
		t.Error("the last execution has lost the search attributes")
	}
	record(t, "continued", executions[len(executions)-1])
	record(t, "continuing", executions[len(executions)-2])
	record(t, "continued_last", executions[0])
}

// What is settled is not done again when somebody resets the workflow in the middle of a run, and a failure stays one.
func TestServerResetInTheMiddle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var all echo
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	all.fail = func(body string) int {
		if body == "hold" {
			arrived <- struct{}{}
			<-release
		}
		if body == "bad" {
			return http.StatusNotFound
		}
		return 0
	}
	url := serve(t, all.ServeHTTP)
	post := func(name, needs string) string {
		return fmt.Sprintf(`{"name": %q, "type": "http", "needs": [%s], "with": {"url": %q, "raw_body": %q}}`, name, needs, url, name)
	}
	d := r.define(`"tasks": [` + post("first", "") + `, {"name": "say", "type": "log", "needs": ["first"], "with": {"message": "m"}},
		{"name": "each", "type": "http", "needs": ["first"], "for_each": "['x', 'y']", "with": {"url": "` + url + `", "body": "${item}"}},
		` + post("bad", `"each", "say"`) + `], "on_failure": [` + post("tell", "") + `, ` + post("hold", `"tell"`) + `, ` + post("end", `"hold"`) + `]`)
	runID, workflowID := r.begin(d, "")
	<-arrived
	reset, err := r.temporal.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
		Namespace: testenv.Namespace(t), WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: workflowID},
		WorkflowTaskFinishEventId: 4, RequestId: uuid.NewString(), Reason: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	close(release)
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunFailed, definition.ReasonTaskFailed)
	if !strings.HasPrefix(run.Error, `task "bad": `) {
		t.Errorf("error %q", run.Error)
	}
	wantTask(t, run, "end", definition.TaskSucceeded, "", "end")
	times := map[string]int{}
	for _, body := range all.bodies() {
		times[body]++
	}
	for _, body := range []string{"first", `"x"`, `"y"`, "bad", "tell", "end"} {
		if times[body] != 1 {
			t.Errorf("%s was sent %d times", body, times[body])
		}
	}
	var failed *temporal.ApplicationError
	if err := r.temporal.GetWorkflow(t.Context(), workflowID, reset.RunId).Get(t.Context(), nil); !errors.As(err, &failed) || failed.Type() != ErrorRunFailed {
		t.Errorf("the workflow ended with %v", err)
	}
	record(t, "reset", r.history(workflowID))
}

// A worker that stops while a run has many things in progress leaves them to the next one, which does none twice that was done.
func TestServerOtherWorkerGoesOn(t *testing.T) {
	t.Parallel()
	r := newIdleRig(t)
	stop := r.startWorker(r.registry)
	var all echo
	hold := make(chan struct{})
	arrived := make(chan struct{}, 100)
	all.fail = func(string) int {
		arrived <- struct{}{}
		<-hold
		return 0
	}
	url := serve(t, all.ServeHTTP)
	runID, _ := r.begin(r.define(`"tasks": [{"name": "each", "type": "http", "for_each": "[0, 1, 2, 3, 4, 5, 6, 7]", "max_parallel": 4,
		"with": {"url": "`+url+`", "body": "${item}"}}, {"name": "ask", "type": "wait", "with": {"duration": "1s"}},
		{"name": "say", "type": "log", "needs": ["each", "ask"], "with": {"message": "${tasks.each.output[7].body}"}}]`), "")
	for range 4 {
		<-arrived
	}
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	close(hold)
	<-stopped
	r.startWorker(prometheus.NewRegistry())
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	wantTask(t, run, "say", definition.TaskSucceeded, "", "")
	got := all.bodies()
	slices.Sort(got)
	if !slices.Equal(got, []string{"0", "1", "2", "3", "4", "5", "6", "7"}) {
		t.Errorf("requests %q", strings.Join(got, " "))
	}
}

// A list that ended before it was made has a row all the same, and a row that cannot be written does not keep the run open.
func TestServerEndsBeforeItsList(t *testing.T) {
	t.Parallel()
	r := newIdleRig(t)
	d := r.define(oneLog)
	starts, err := r.ledger.Record(t.Context(), []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual, Key: definition.ManualKey()}})
	if err != nil {
		t.Fatal(err)
	}
	a := &activities{store: r.store, metrics: testMetrics(t), log: discard(), revisions: newRevisions(r.store)}
	b, err := a.beginRun(t.Context(), beginInput{RunID: starts[0].RunID, DefinitionID: d.ID, WorkflowID: "w", FirstRunID: "f"})
	if err != nil || b.Status != definition.RunRunning {
		t.Fatal(b, err)
	}
	end := ending{RunID: b.RunID, Status: definition.RunCanceled, Reason: definition.ReasonCancelRequested, Tasks: []taskEnd{
		{Index: 0, Name: "each", Type: definition.TaskHTTP, Status: definition.TaskCanceled, Error: "stopped", Items: true},
		{Index: 1, Name: "odd", Type: definition.TaskHTTP, Status: "odd"},
	}}
	if _, err := a.finishRun(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	run := r.awaitEnd(b.RunID)
	wantStatus(t, run, definition.RunCanceled, definition.ReasonCancelRequested)
	wantTask(t, run, "each", definition.TaskCanceled, "stopped", "")
}
