package execution

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
)

// rig is a worker on real servers, with a database and task queues of its own.
type rig struct {
	pool     *pgxpool.Pool
	t        *testing.T
	store    *postgres.Store
	temporal client.Client
	js       jetstream.JetStream
	names    config.Names
	ledger   *ledger.Ledger
	registry *prometheus.Registry
	// away, while it is set, makes the worker's calls to the ledger fail as if Postgres were away.
	away atomic.Bool
	// maxEvents is how long a history may become, 0 for the default.
	maxEvents int
	// ended counts the runs that the worker says have ended.
	ended atomic.Int32
}

// interrupted is the store, away at times.
type interrupted struct {
	*postgres.Store
	away *atomic.Bool
}

func (s interrupted) down() error {
	if s.away.Load() {
		return fmt.Errorf("test: %w", definition.ErrUnavailable)
	}
	return nil
}

func (s interrupted) BeginRun(ctx context.Context, b definition.Begin) (definition.Admission, error) {
	if err := s.down(); err != nil {
		return definition.Admission{}, err
	}
	return s.Store.BeginRun(ctx, b)
}

func (s interrupted) FinishRun(ctx context.Context, f definition.Finish) (definition.Finished, error) {
	if err := s.down(); err != nil {
		return definition.Finished{}, err
	}
	return s.Store.FinishRun(ctx, f)
}

func (s interrupted) BeginTask(ctx context.Context, b definition.TaskBegin) (definition.TaskWork, error) {
	if err := s.down(); err != nil {
		return definition.TaskWork{}, err
	}
	return s.Store.BeginTask(ctx, b)
}

func (s interrupted) AddTask(ctx context.Context, r definition.TaskResult) (bool, error) {
	if err := s.down(); err != nil {
		return false, err
	}
	return s.Store.AddTask(ctx, r)
}

func (s interrupted) FinishTask(ctx context.Context, r definition.TaskResult) error {
	if err := s.down(); err != nil {
		return err
	}
	return s.Store.FinishTask(ctx, r)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := newIdleRig(t)
	r.startWorker(r.registry)
	return r
}

// newIdleRig makes a rig without a worker.
func newIdleRig(t *testing.T) *rig {
	t.Helper()
	pool := testenv.Pool(t)
	r := &rig{t: t, pool: pool, store: postgres.New(pool), temporal: testenv.Temporal(t), names: testenv.Names(t),
		registry: prometheus.NewRegistry()}
	var err error
	if r.js, err = jetstream.New(testenv.NATS(t)); err != nil {
		t.Fatal(err)
	}
	r.ledger, err = ledger.New(ledger.Options{Store: r.store, Temporal: r.temporal, Log: discard(),
		TaskQueue: r.names.OrchestratorTaskQueue, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) newWorker(registry prometheus.Registerer) *Worker {
	r.t.Helper()
	w, err := NewWorker(Options{
		Temporal: r.temporal, Store: interrupted{r.store, &r.away}, Publisher: r.js, Log: discard(), Registerer: registry,
		OrchestratorTaskQueue: r.names.OrchestratorTaskQueue, TaskTaskQueue: r.names.TaskTaskQueue, PerDefinition: true,
		Egress: loopback(r.t), Secrets: testSecrets(map[string]string{"TOKEN": secretToken}), Ended: func() { r.ended.Add(1) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	w.activities.maxEvents = r.maxEvents
	return w
}

// startWorker runs a worker until the test ends, or until the returned function is called.
func (r *rig) startWorker(registry prometheus.Registerer) (stop func()) {
	r.t.Helper()
	w := r.newWorker(registry)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	var stopped atomic.Bool
	stop = func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("worker: %v", err)
		}
	}
	r.t.Cleanup(stop)
	return stop
}

// on is the rig for a subtest.
func (r *rig) on(t *testing.T) *rig {
	return &rig{t: t, pool: r.pool, store: r.store, temporal: r.temporal, js: r.js, names: r.names, ledger: r.ledger, registry: r.registry}
}

// userWorker runs a worker of a user's, with a task queue of its own.
func (r *rig) userWorker(register func(worker.Registry)) (taskQueue string) {
	r.t.Helper()
	taskQueue = "user-" + uuid.NewString()
	w := worker.New(r.temporal, taskQueue, worker.Options{})
	register(w)
	if err := w.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(w.Stop)
	return taskQueue
}

// define stores a definition, written as the members of its document after the name and trigger.
func (r *rig) define(members string) definition.Stored {
	r.t.Helper()
	doc, err := definition.ParseDocument([]byte(
		`{"name": "d-` + uuid.NewString() + `", "trigger_config": {"trigger_type": "manual"}, ` + members + `}`))
	if err != nil {
		r.t.Fatal(err)
	}
	d, err := r.store.CreateDefinition(r.t.Context(), doc)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// begin starts a run by hand and returns its id and its workflow's.
func (r *rig) begin(d definition.Stored, input string) (runID, workflowID string) {
	r.t.Helper()
	starts, err := r.ledger.Record(r.t.Context(), []definition.Occurrence{{
		DefinitionID: d.ID, Kind: definition.KindManual, Key: definition.ManualKey(), Input: []byte(input),
	}})
	if err != nil || len(starts) != 1 {
		r.t.Fatalf("record: %v, %d new", err, len(starts))
	}
	if err := r.ledger.Start(r.t.Context(), starts[0]); err != nil {
		r.t.Fatal(err)
	}
	return starts[0].RunID, definition.WorkflowID(d.ID, starts[0].Key)
}

// await waits until the run's row is in a state.
func (r *rig) await(runID string, what string, want func(definition.Run) bool) definition.Run {
	r.t.Helper()
	var run definition.Run
	testenv.Eventually(r.t, 60*time.Second, "run is "+what, func(ctx context.Context) (bool, error) {
		var err error
		run, err = r.store.GetRun(ctx, runID)
		return err == nil && want(run), err
	})
	return run
}

func (r *rig) awaitEnd(runID string) definition.Run {
	r.t.Helper()
	return r.await(runID, "over", func(run definition.Run) bool { return run.Status.Final() })
}

// history waits until the workflow is closed and returns its events.
func (r *rig) history(workflowID string) *historypb.History {
	r.t.Helper()
	h := &historypb.History{}
	for events := r.temporal.GetWorkflowHistory(r.t.Context(), workflowID, "", true,
		enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		event, err := events.Next()
		if err != nil {
			r.t.Fatal(err)
		}
		h.Events = append(h.Events, event)
	}
	return h
}

// awaitEvent waits until a running workflow's history has an event of a type.
func (r *rig) awaitEvent(workflowID string, want enumspb.EventType) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	for events := r.temporal.GetWorkflowHistory(ctx, workflowID, "", true, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		event, err := events.Next()
		if err != nil {
			r.t.Fatalf("waiting for %s: %v", want, err)
		}
		if event.EventType == want {
			return
		}
	}
	r.t.Fatalf("workflow %s ended without %s", workflowID, want)
}

// series counts the series of a metric.
func (r *rig) series(name string) int {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return len(f.Metric)
		}
	}
	return 0
}

func wantStatus(t *testing.T, run definition.Run, status definition.RunStatus, reason definition.Reason) {
	t.Helper()
	if run.Status != status || run.Reason != reason {
		t.Fatalf("run is %s (%s), want %s (%s); error %q; tasks %+v", run.Status, run.Reason, status, reason, run.Error, run.Tasks)
	}
}

const oneLog = `"tasks": [{"name": "say", "type": "log", "with": {"message": "hello"}}]`

func TestServerOneLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	runID, workflowID := r.begin(r.define(oneLog), "")
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	if len(run.Tasks) != 1 || run.Tasks[0].Status != definition.TaskSucceeded || run.Tasks[0].Attempts != 1 {
		t.Errorf("tasks %+v", run.Tasks)
	}
	// One workflow task, with a marker for each statement in the ledger.
	h := r.history(workflowID)
	var got []string
	for _, e := range h.Events {
		got = append(got, strings.TrimPrefix(e.EventType.String(), "EVENT_TYPE_"))
	}
	want := "WorkflowExecutionStarted WorkflowTaskScheduled WorkflowTaskStarted WorkflowTaskCompleted MarkerRecorded " +
		"MarkerRecorded MarkerRecorded WorkflowExecutionCompleted"
	if strings.Join(got, " ") != want {
		t.Errorf("history:\n got %s\nwant %s", strings.Join(got, " "), want)
	}
	record(t, "one_log", h)
	for name, want := range map[string]int{"actcore_runs_total": 1, "actcore_run_duration_seconds": 1} {
		if n := r.series(name); n != want {
			t.Errorf("%d series of %s, want %d", n, name, want)
		}
	}
}

func TestServerNoTasks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	runID, workflowID := r.begin(r.define(`"tasks": []`), "")
	wantStatus(t, r.awaitEnd(runID), definition.RunSucceeded, "")
	record(t, "no_tasks", r.history(workflowID))
}

func TestServerAllTaskTypes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: r.names.Stream, Subjects: []string{r.names.SubjectPrefix + ".>"}, MaxAge: time.Hour,
	}); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, `{"ok":true}`)
	})
	var seen definition.RunContext
	queue := r.userWorker(func(w worker.Registry) {
		w.RegisterActivityWithOptions(func(_ context.Context, rc definition.RunContext) (string, error) {
			seen = rc
			return "charged", nil
		}, activity.RegisterOptions{Name: "Charge"})
		w.RegisterActivityWithOptions(func(context.Context, string, int) error { return nil }, activity.RegisterOptions{Name: "Void"})
		w.RegisterWorkflowWithOptions(func(_ workflow.Context, a map[string]any) (map[string]any, error) {
			a["done"] = true
			return a, nil
		}, workflow.RegisterOptions{Name: "Ship"})
	})
	d := r.define(`"tasks": [
		{"name": "log", "type": "log", "with": {"message": "hello"}},
		{"name": "http", "type": "http", "with": {"url": "` + url + `"}, "retry": {"initial_interval": "100ms"}},
		{"name": "publish", "type": "publish", "with": {"subject": "` + r.names.SubjectPrefix + `.told"}},
		{"name": "activity", "type": "activity", "with": {"activity": "Charge", "task_queue": "` + queue + `"}},
		{"name": "void", "type": "activity", "with": {"activity": "Void", "task_queue": "` + queue + `", "args": ["a", 2]}},
		{"name": "workflow", "type": "workflow", "with": {"workflow": "Ship", "task_queue": "` + queue + `", "args": [{"n": 1}]}}]`)
	runID, workflowID := r.begin(d, `{"order": 7}`)
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	if seen.RunID != runID || seen.DefinitionID != d.ID || string(seen.Input) != `{"order":7}` {
		t.Errorf("the user's activity received %+v", seen)
	}
	for i, want := range []struct {
		attempts int
		output   string
	}{
		{1, ""}, {2, `{"status":200,"content_type":"text/plain; charset=utf-8","body":{"ok":true}}`},
		{1, `{"stream":"` + r.names.Stream + `","sequence":1}`}, {1, `"charged"`}, {1, ""},
		{1, `{"done":true,"n":1}`},
	} {
		got := run.Tasks[i]
		if got.Status != definition.TaskSucceeded || got.Attempts != want.attempts || string(got.Output) != want.output ||
			got.OutputTruncated {
			t.Errorf("task %s: %s after %d attempts, output %q, error %q", got.Name, got.Status, got.Attempts, got.Output,
				got.Error)
		}
	}
	record(t, "all_task_types", r.history(workflowID))
}

func TestServerLongOutput(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	queue := r.userWorker(func(w worker.Registry) {
		w.RegisterActivityWithOptions(func(context.Context, definition.RunContext) (string, error) {
			return strings.Repeat("x", definition.MaxOutput+1000), nil
		}, activity.RegisterOptions{Name: "Much"})
	})
	runID, _ := r.begin(r.define(`"tasks": [{"name": "much", "type": "activity",
		"with": {"activity": "Much", "task_queue": "`+queue+`"}}]`), "")
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	if got := run.Tasks[0]; !got.OutputTruncated || string(got.Output) != `"`+strings.Repeat("x", definition.MaxOutput-1) {
		t.Errorf("%d bytes of output, truncated %v", len(got.Output), got.OutputTruncated)
	}
}

func TestServerFailures(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	queue := r.userWorker(func(w worker.Registry) {
		w.RegisterActivityWithOptions(func(context.Context, definition.RunContext) error {
			return errors.New("the card was\nrefused")
		}, activity.RegisterOptions{Name: "Charge"})
		w.RegisterActivityWithOptions(func(context.Context, definition.RunContext) error {
			return temporal.NewNonRetryableApplicationError("never", "Never", nil)
		}, activity.RegisterOptions{Name: "Never"})
		w.RegisterWorkflowWithOptions(func(workflow.Context, definition.RunContext) error {
			return errors.New("no ship")
		}, workflow.RegisterOptions{Name: "Ship"})
		w.RegisterWorkflowWithOptions(func(ctx workflow.Context, _ definition.RunContext) error {
			return workflow.Sleep(ctx, time.Hour)
		}, workflow.RegisterOptions{Name: "Sleep"})
	})
	missing := serve(t, http.NotFound)
	broken := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	for _, c := range []struct {
		name, task string
		reason     definition.Reason
		status     definition.TaskStatus
		attempts   int
		err        string // the task's, in part
	}{
		{"activity_fails", `"type": "activity", "with": {"activity": "Charge", "task_queue": "` + queue + `"},
			"retry": {"max_attempts": 2, "initial_interval": "100ms"}`,
			definition.ReasonTaskFailed, definition.TaskFailed, 2, "the card was refused"},
		{"activity_not_retryable", `"type": "activity", "with": {"activity": "Never", "task_queue": "` + queue + `"}`,
			definition.ReasonTaskFailed, definition.TaskFailed, 1, "never"},
		{"no_worker", `"type": "activity", "timeout": "1s", "with": {"activity": "Charge", "task_queue": "nobody"}`,
			definition.ReasonTaskTimedOut, definition.TaskTimedOut, 1, "not finished within its timeout of 1s; is a worker running"},
		{"workflow_fails", `"type": "workflow", "with": {"workflow": "Ship", "task_queue": "` + queue + `"}`,
			definition.ReasonTaskFailed, definition.TaskFailed, 1, "no ship"},
		{"workflow_times_out", `"type": "workflow", "timeout": "1s", "with": {"workflow": "Sleep", "task_queue": "` + queue + `"}`,
			definition.ReasonTaskTimedOut, definition.TaskTimedOut, 1, "not finished within its timeout of 1s"},
		{"http_permanent", `"type": "http", "with": {"url": "` + missing + `"}`,
			definition.ReasonTaskFailed, definition.TaskFailed, 1, "404 Not Found"},
		{"http_retried", `"type": "http", "with": {"url": "` + broken + `"}, "retry": {"max_attempts": 3, "initial_interval": "100ms"}`,
			definition.ReasonTaskFailed, definition.TaskFailed, 3, "500 Internal Server Error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rig := r.on(t)
			runID, workflowID := rig.begin(rig.define(`"tasks": [{"name": "x", `+c.task+`},
				{"name": "never", "type": "log", "needs": ["x"], "with": {"message": "m"}}]`), "")
			run := rig.awaitEnd(runID)
			wantStatus(t, run, definition.RunFailed, c.reason)
			if len(run.Tasks) != 1 {
				t.Fatalf("tasks %+v", run.Tasks)
			}
			got := run.Tasks[0]
			if got.Status != c.status || got.Attempts != c.attempts || !strings.Contains(got.Error, c.err) || got.FinishedAt == nil {
				t.Errorf("task %+v", got)
			}
			if run.Error != `task "x": `+got.Error {
				t.Errorf("run's error %q, task's %q", run.Error, got.Error)
			}
			h := rig.history(workflowID)
			if last := h.Events[len(h.Events)-1]; last.EventType != enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED ||
				last.GetWorkflowExecutionFailedEventAttributes().GetFailure().GetApplicationFailureInfo().GetType() != ErrorRunFailed {
				t.Errorf("the workflow ended with %s", last)
			}
			record(t, c.name, h)
		})
	}
}

// sleeper registers a workflow that sleeps until it is canceled, and tells when it was.
func (r *rig) sleeper() (queue string, canceled chan struct{}) {
	canceled = make(chan struct{}, 1)
	queue = r.userWorker(func(w worker.Registry) {
		w.RegisterWorkflowWithOptions(func(ctx workflow.Context, _ definition.RunContext) error {
			err := workflow.Sleep(ctx, time.Hour)
			if temporal.IsCanceledError(err) {
				canceled <- struct{}{}
			}
			return err
		}, workflow.RegisterOptions{Name: "Sleep"})
	})
	return queue, canceled
}

func (r *rig) wantTold(canceled chan struct{}) {
	r.t.Helper()
	select {
	case <-canceled:
	case <-time.After(30 * time.Second):
		r.t.Error("the child workflow was not asked to cancel")
	}
}

func TestServerRunTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	queue, canceled := r.sleeper()
	runID, workflowID := r.begin(r.define(`"timeout": "2s", "tasks": [{"name": "sleep", "type": "workflow",
		"with": {"workflow": "Sleep", "task_queue": "`+queue+`"}}]`), "")
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunTimedOut, definition.ReasonRunTimeout)
	if got := run.Tasks[0]; got.Status != definition.TaskCanceled || !strings.Contains(got.Error, "timeout of 2s") {
		t.Errorf("task %+v", got)
	}
	r.wantTold(canceled)
	record(t, "run_timeout", r.history(workflowID))
}

func TestServerCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	queue, canceled := r.sleeper()
	arrived, left := make(chan struct{}, 1), make(chan struct{}, 1)
	url := serve(t, func(_ http.ResponseWriter, req *http.Request) {
		arrived <- struct{}{}
		<-req.Context().Done()
		left <- struct{}{}
	})
	t.Run("workflow", func(t *testing.T) {
		runID, workflowID := r.begin(r.define(`"tasks": [{"name": "sleep", "type": "workflow",
			"with": {"workflow": "Sleep", "task_queue": "`+queue+`"}}]`), "")
		testenv.Eventually(t, 30*time.Second, "the child is open", func(ctx context.Context) (bool, error) {
			d, err := r.temporal.DescribeWorkflowExecution(ctx, workflowID+":sleep", "")
			return err == nil && d.WorkflowExecutionInfo.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, nil
		})
		if err := r.temporal.CancelWorkflow(t.Context(), workflowID, ""); err != nil {
			t.Fatal(err)
		}
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunCanceled, definition.ReasonCancelRequested)
		if run.Tasks[0].Status != definition.TaskCanceled {
			t.Errorf("task %+v", run.Tasks[0])
		}
		r.wantTold(canceled)
		h := r.history(workflowID)
		if last := h.Events[len(h.Events)-1]; last.EventType != enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED {
			t.Errorf("the workflow ended with %s", last)
		}
		record(t, "canceled", h)
	})
	t.Run("http", func(t *testing.T) {
		runID, workflowID := r.begin(r.define(`"tasks": [{"name": "hang", "type": "http", "with": {"method": "GET", "url": "`+url+`"}}]`), "")
		<-arrived
		if err := r.temporal.CancelWorkflow(t.Context(), workflowID, ""); err != nil {
			t.Fatal(err)
		}
		run := r.awaitEnd(runID)
		wantStatus(t, run, definition.RunCanceled, definition.ReasonCancelRequested)
		// The request itself is dropped with the next heartbeat.
		select {
		case <-left:
		case <-time.After(heartbeatTimeout + 20*time.Second):
			t.Error("the request was not dropped")
		}
		if got := r.awaitEnd(runID).Tasks[0]; got.Status != definition.TaskCanceled {
			t.Errorf("task %+v", got)
		}
	})
}

func TestServerQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := make(chan struct{})
	url := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	d := r.define(`"concurrency": {"limit": 1, "on_limit": "queue"}, "tasks": [{"name": "wait", "type": "http", "with": {"url": "` + url + `"}}]`)
	first, firstWorkflow := r.begin(d, "")
	r.await(first, "running", func(run definition.Run) bool { return run.Status == definition.RunRunning })
	second, secondWorkflow := r.begin(d, "")
	r.await(second, "queued", func(run definition.Run) bool { return run.Status == definition.RunQueued })
	close(release)
	wantStatus(t, r.awaitEnd(first), definition.RunSucceeded, "")
	// Woken by the signal: the timer would take a minute.
	began := time.Now()
	wantStatus(t, r.awaitEnd(second), definition.RunSucceeded, "")
	if waited := time.Since(began); waited > 30*time.Second {
		t.Errorf("the queued run was woken after %s", waited)
	}
	record(t, "wakes_another", r.history(firstWorkflow))
	record(t, "queued", r.history(secondWorkflow))
}

func TestServerDeletedBeforeItBegan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.define(oneLog)
	starts, err := r.ledger.Record(t.Context(), []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual,
		Key: definition.ManualKey()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.DeleteDefinition(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if err := r.ledger.Start(t.Context(), starts[0]); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, r.awaitEnd(starts[0].RunID), definition.RunSkipped, definition.ReasonDefinitionGone)
	h := r.history(definition.WorkflowID(d.ID, starts[0].Key))
	if last := h.Events[len(h.Events)-1]; last.EventType != enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED {
		t.Errorf("the workflow ended with %s", last)
	}
	record(t, "skipped", h)
}

// An outage that is longer than the local activities last uses up no attempt of any task.
func TestServerLedgerAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	url := serve(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	d := r.define(`"tasks": [{"name": "once", "type": "http", "with": {"url": "` + url + `"}, "retry": {"max_attempts": 1}},
		{"name": "say", "type": "log", "needs": ["once"], "with": {"message": "hello"}, "retry": {"max_attempts": 1}}]`)
	running, runningWorkflow := r.begin(d, "")
	<-arrived
	r.away.Store(true)
	close(release)
	fresh, freshWorkflow := r.begin(r.define(oneLog), "")
	// The fresh run has given up the local activity when the ordinary one is in its history.
	testenv.Eventually(t, 60*time.Second, "BeginRun is an ordinary activity", func(ctx context.Context) (bool, error) {
		d, err := r.temporal.DescribeWorkflowExecution(ctx, freshWorkflow, "")
		return err == nil && len(d.PendingActivities) > 0, err
	})
	r.away.Store(false)
	for _, id := range []string{running, fresh} {
		run := r.awaitEnd(id)
		wantStatus(t, run, definition.RunSucceeded, "")
		for _, task := range run.Tasks {
			if task.Attempts != 1 {
				t.Errorf("task %+v", task)
			}
		}
	}
	record(t, "ledger_away", r.history(freshWorkflow))
	record(t, "two_tasks", r.history(runningWorkflow))
}

// A run that Temporal's schedule started finds its row, or makes it, by its slot.
func TestServerSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	doc, err := definition.ParseDocument([]byte(`{"name": "slots", "trigger_config": {"trigger_type": "cron",
		"cron_expression": "@every 1s"}, ` + oneLog + `}`))
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.store.CreateDefinition(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	scheduleID := "test-" + uuid.NewString()
	schedule, err := r.temporal.ScheduleClient().Create(t.Context(), client.ScheduleOptions{
		ID:               scheduleID,
		Spec:             client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Second}}},
		Overlap:          enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL,
		RemainingActions: 3,
		Action: &client.ScheduleWorkflowAction{
			ID: definition.ScheduleActionID(d.ID), Workflow: definition.RunWorkflow, TaskQueue: r.names.OrchestratorTaskQueue,
			Args: []any{definition.RunInput{DefinitionID: d.ID}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { schedule.Delete(context.Background()) }) //nolint:errcheck // it ends by itself
	var runs []definition.Run
	testenv.Eventually(t, 60*time.Second, "a slot has run", func(ctx context.Context) (bool, error) {
		runs, err = r.store.ListRuns(ctx, definition.ListRuns{DefinitionID: d.ID, Statuses: []definition.RunStatus{definition.RunSucceeded}, Limit: 10})
		return len(runs) > 0, err
	})
	run := runs[0]
	if run.Kind != definition.KindCron || run.SlotAt == nil || run.Key != definition.CronKey(*run.SlotAt) ||
		run.WorkflowID != definition.WorkflowID(d.ID, run.Key) {
		t.Errorf("run %+v", run)
	}
	record(t, "slot", r.history(run.WorkflowID))
	if n := r.series("actcore_schedule_lag_seconds"); n != 1 {
		t.Errorf("%d series of the lag", n)
	}
}

// lateSlots makes a definition with slots that are caught up with, and returns their runs in slot order.
func (r *rig) lateSlots(n int) (definition.Stored, []definition.Run) {
	r.t.Helper()
	doc, err := definition.ParseDocument([]byte(`{"name": "late-` + uuid.NewString() + `", "trigger_config": {"trigger_type": "cron",
		"cron_expression": "* * * * *", "misfire_policy": "catchup"}, "concurrency": {"limit": 0}, ` + oneLog + `}`))
	if err != nil {
		r.t.Fatal(err)
	}
	d, err := r.store.CreateDefinition(r.t.Context(), doc)
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = r.pool.Exec(r.t.Context(), `UPDATE cron_state SET cursor = cursor - $2::interval, next_slot_at = now() - interval '1 s'
		WHERE definition_id = $1`, d.ID, time.Duration(n)*time.Minute)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.store.SettleDue(r.t.Context(), 10); err != nil {
		r.t.Fatal(err)
	}
	runs, err := r.store.ListRuns(r.t.Context(), definition.ListRuns{DefinitionID: d.ID, Limit: 100})
	if err != nil || len(runs) < n {
		r.t.Fatalf("%d late slots, %v", len(runs), err)
	}
	slices.Reverse(runs)
	return d, runs
}

func (r *rig) startRun(run definition.Run) {
	r.t.Helper()
	err := r.ledger.Start(r.t.Context(), definition.Start{RunID: run.ID, DefinitionID: run.DefinitionID,
		DefinitionName: run.DefinitionName, Key: run.Key})
	if err != nil {
		r.t.Fatal(err)
	}
}

// Late slots run in their order although their workflows begin in another, and none waits for the timer.
func TestServerCatchUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, runs := r.lateSlots(3)
	for _, run := range slices.Backward(runs[1:]) {
		r.startRun(run)
		r.await(run.ID, "queued", func(run definition.Run) bool { return run.Status == definition.RunQueued })
	}
	began := time.Now()
	r.startRun(runs[0])
	var last time.Time
	for _, run := range runs {
		run = r.awaitEnd(run.ID)
		wantStatus(t, run, definition.RunSucceeded, "")
		if run.StartedAt.Before(last) {
			t.Errorf("slot %s began at %s, before the one before it ended at %s", run.SlotAt, run.StartedAt, last)
		}
		last = *run.FinishedAt
	}
	if took := time.Since(began); took > 45*time.Second {
		t.Errorf("the line took %s", took)
	}
	record(t, "caught_up", r.history(runs[1].WorkflowID))
}

// A late slot that is decided not to run tells the one behind it.
func TestServerCatchUpSkips(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d, runs := r.lateSlots(2)
	r.startRun(runs[1])
	r.await(runs[1].ID, "queued", func(run definition.Run) bool { return run.Status == definition.RunQueued })
	_, err := r.store.UpdateDefinition(t.Context(), d.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) { return d.Pause("") })
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.startRun(runs[0])
	wantStatus(t, r.awaitEnd(runs[0].ID), definition.RunSkipped, definition.ReasonDefinitionOff)
	wantStatus(t, r.awaitEnd(runs[1].ID), definition.RunSucceeded, "")
	if took := time.Since(began); took > 45*time.Second {
		t.Errorf("the next one began after %s", took)
	}
	record(t, "skipped_wakes", r.history(runs[0].WorkflowID))
}

// A second start of an occurrence whose row another workflow carries out does nothing.
func TestServerForeignRow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.define(oneLog)
	runID, _ := r.begin(d, "")
	r.awaitEnd(runID)
	again, err := r.temporal.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: "again-" + uuid.NewString(), TaskQueue: r.names.OrchestratorTaskQueue,
	}, definition.RunWorkflow, definition.RunInput{RunID: runID, DefinitionID: d.ID})
	if err != nil {
		t.Fatal(err)
	}
	var app *temporal.ApplicationError
	if err := again.Get(t.Context(), nil); !errors.As(err, &app) || app.Type() != errorLedger {
		t.Errorf("the second workflow ended with %v", err)
	}
	wantStatus(t, r.awaitEnd(runID), definition.RunSucceeded, "")
}

// Somebody who resets the workflow of a run that has ended does not do its tasks again.
func TestServerReset(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var calls atomic.Int32
	url := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	runID, workflowID := r.begin(r.define(`"tasks": [{"name": "x", "type": "http", "with": {"url": "`+url+`"}}]`), "")
	r.awaitEnd(runID)
	h := r.history(workflowID)
	reset, err := r.temporal.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
		Namespace:                 testenv.Namespace(t),
		WorkflowExecution:         &commonpb.WorkflowExecution{WorkflowId: workflowID},
		WorkflowTaskFinishEventId: h.Events[2].EventId + 1, // the end of the first workflow task
		RequestId:                 uuid.NewString(),
		Reason:                    "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	var result Result
	if err := r.temporal.GetWorkflow(t.Context(), workflowID, reset.RunId).Get(t.Context(), &result); err != nil {
		t.Fatal(err)
	}
	if result != (Result{RunID: runID, Status: definition.RunSucceeded}) || calls.Load() != 1 {
		t.Errorf("result %+v after %d calls", result, calls.Load())
	}
}

// A worker that stops lets a task in progress end.
func TestServerStopIsGraceful(t *testing.T) {
	t.Parallel()
	r := newIdleRig(t)
	stop := r.startWorker(prometheus.NewRegistry())
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	url := serve(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	runID, _ := r.begin(r.define(`"tasks": [{"name": "x", "type": "http", "with": {"url": "`+url+`"}, "retry": {"max_attempts": 1}}]`), "")
	<-arrived
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	close(release)
	r.await(runID, "done with its task", func(run definition.Run) bool {
		return len(run.Tasks) == 1 && run.Tasks[0].Status == definition.TaskSucceeded
	})
	<-stopped
	r.startWorker(prometheus.NewRegistry())
	wantStatus(t, r.awaitEnd(runID), definition.RunSucceeded, "")
}

// A task whose worker died is done by another soon after its last heartbeat, not after the task's timeout.
func TestServerLostWorker(t *testing.T) {
	t.Parallel()
	r := newIdleRig(t)
	w, fatal := r.newWorker(r.registry), make(chan error, 2)
	flows := w.orchestrator(fatal)
	// It takes the task and is never heard of again.
	took := make(chan struct{})
	dead := worker.New(r.temporal, r.names.TaskTaskQueue, worker.Options{DisableWorkflowWorker: true})
	dead.RegisterActivityWithOptions(func(context.Context, taskInput) error {
		close(took)
		return activity.ErrResultPending
	}, activity.RegisterOptions{Name: activityRunTask})
	for _, sdk := range []worker.Worker{flows, dead} {
		if err := sdk.Start(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(flows.Stop)
	url := serve(t, func(http.ResponseWriter, *http.Request) {})
	runID, _ := r.begin(r.define(`"tasks": [{"name": "x", "type": "http", "with": {"url": "`+url+`"}}]`), "")
	<-took
	dead.Stop()
	alive := w.taskWorker(fatal)
	if err := alive.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(alive.Stop)
	run := r.awaitEnd(runID)
	wantStatus(t, run, definition.RunSucceeded, "")
	if run.Tasks[0].Attempts != 2 {
		t.Errorf("task %+v", run.Tasks[0])
	}
}
