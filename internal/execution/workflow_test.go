package execution

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
)

// simulated is a run in the SDK's test environment, which skips time.
type simulated struct {
	env    *testsuite.TestWorkflowEnvironment
	ledger *fakeLedger
	tasks  *tasks
}

func simulate(t *testing.T, ledger *fakeLedger) *simulated {
	t.Helper()
	suite := testsuite.WorkflowTestSuite{}
	suite.SetLogger(log.NewStructuredLogger(discard()))
	s := &simulated{env: suite.NewTestWorkflowEnvironment(), ledger: ledger}
	ledger.now = s.env.Now
	remembered := newRevisions(ledger)
	s.tasks = &tasks{store: ledger, log: discard(), revisions: remembered}
	s.tasks.runners = map[definition.TaskType]runner{definition.TaskLog: s.tasks.runLog}
	w := &Worker{
		workflows:  &workflows{taskQueue: "tasks"},
		activities: &activities{store: ledger, metrics: testMetrics(t), log: discard(), revisions: remembered},
	}
	w.registerWorkflow(s.env)
	w.registerLedger(s.env)
	s.env.RegisterActivityWithOptions(s.tasks.run, activity.RegisterOptions{Name: activityRunTask})
	return s
}

func (s *simulated) run(t *testing.T) (Result, error) {
	t.Helper()
	s.env.ExecuteWorkflow(definition.RunWorkflow, definition.RunInput{RunID: fakeRunID, DefinitionID: "def"})
	if !s.env.IsWorkflowCompleted() {
		t.Fatal("the workflow did not complete")
	}
	if err := s.env.GetWorkflowError(); err != nil {
		return Result{}, err
	}
	var r Result
	if err := s.env.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	return r, nil
}

// blocked makes a task type that waits until its attempt is taken away.
func (s *simulated) blocked() {
	s.tasks.runners[definition.TaskHTTP] = func(ctx context.Context, _ *definition.TaskWork) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
}

func wantSucceeded(t *testing.T, s *simulated) {
	t.Helper()
	r, err := s.run(t)
	if err != nil {
		t.Fatal(err)
	}
	if r != (Result{RunID: fakeRunID, Status: definition.RunSucceeded}) {
		t.Errorf("result %+v", r)
	}
	if end := s.ledger.end(t); end != (definition.Finish{RunID: fakeRunID, Status: definition.RunSucceeded}) {
		t.Errorf("finished as %+v", end)
	}
}

func TestRunSucceeds(t *testing.T) {
	t.Parallel()
	for name, tasks := range map[string][]definition.Task{
		"no tasks": nil,
		"one log":  {logTask(t, "a")},
		"several":  {logTask(t, "a"), logTask(t, "b"), logTask(t, "c")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := simulate(t, newFakeLedger(tasks...))
			wantSucceeded(t, s)
			for i := range tasks {
				if r := s.ledger.result(i); r.Status != definition.TaskSucceeded || r.Attempts != 1 {
					t.Errorf("task %d: %+v", i, r)
				}
			}
			if b := s.ledger.begins[0]; b.RunID != fakeRunID || b.DefinitionID != "def" || b.WorkflowID == "" || !b.Slot.IsZero() {
				t.Errorf("begun as %+v", b)
			}
		})
	}
}

func TestFailingTaskEndsTheRun(t *testing.T) {
	t.Parallel()
	failing := task(t, "broken", definition.TaskHTTP, definition.HTTPTask{URL: "http://x.example"})
	failing.Retry = &definition.Retry{MaxAttempts: 4}
	s := simulate(t, newFakeLedger(logTask(t, "first"), failing, logTask(t, "never")))
	attempts := 0
	s.tasks.runners[definition.TaskHTTP] = func(context.Context, *definition.TaskWork) ([]byte, error) {
		attempts++
		return []byte(`{"status":500}`), errors.New("answered\n500")
	}
	_, err := s.run(t)
	var app *temporal.ApplicationError
	if !errors.As(err, &app) || app.Type() != ErrorRunFailed || !app.NonRetryable() {
		t.Fatalf("workflow error %v", err)
	}
	want := definition.Finish{RunID: fakeRunID, Status: definition.RunFailed, Reason: definition.ReasonTaskFailed,
		Error: `task "broken": answered 500`}
	if end := s.ledger.end(t); end != want {
		t.Errorf("finished as %+v, want %+v", end, want)
	}
	if attempts != 4 {
		t.Errorf("%d attempts, want 4", attempts)
	}
	r := s.ledger.result(1)
	if r.Status != definition.TaskFailed || r.Attempts != 4 || r.Error != "answered 500" || string(r.Output) != `{"status":500}` {
		t.Errorf("task row %+v", r)
	}
	if _, ok := s.ledger.results[2]; ok {
		t.Error("a task after the failed one has a row")
	}
	// Between attempts the row shows that the task is being tried again, and why.
	if first := s.ledger.history[1]; first.Status != definition.TaskRunning || first.Error != "answered 500" || first.Attempts != 1 {
		t.Errorf("row after the first attempt %+v", first)
	}
}

func TestPermanentFailureIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	s := simulate(t, newFakeLedger(task(t, "x", definition.TaskHTTP, definition.HTTPTask{})))
	attempts := 0
	s.tasks.runners[definition.TaskHTTP] = func(context.Context, *definition.TaskWork) ([]byte, error) {
		attempts++
		return nil, permanently("no")
	}
	if _, err := s.run(t); err == nil {
		t.Fatal("the workflow succeeded")
	}
	if attempts != 1 || s.ledger.end(t).Error != `task "x": no` {
		t.Errorf("%d attempts, %+v", attempts, s.ledger.end(t))
	}
}

func TestPanicIsAFailure(t *testing.T) {
	t.Parallel()
	s := simulate(t, newFakeLedger(task(t, "x", definition.TaskHTTP, definition.HTTPTask{})))
	s.tasks.runners[definition.TaskHTTP] = func(context.Context, *definition.TaskWork) ([]byte, error) { panic("secret") }
	if _, err := s.run(t); err == nil {
		t.Fatal("the workflow succeeded")
	}
	end := s.ledger.end(t)
	if end.Status != definition.RunFailed || strings.Contains(end.Error, "secret") || s.ledger.result(0).Attempts != 3 {
		t.Errorf("finished as %+v, %+v", end, s.ledger.result(0))
	}
}

func TestUnknownTaskType(t *testing.T) {
	t.Parallel()
	s := simulate(t, newFakeLedger(definition.Task{Name: "x", Type: "telepathy"}))
	if _, err := s.run(t); err == nil {
		t.Fatal("the workflow succeeded")
	}
	if end := s.ledger.end(t); end.Reason != definition.ReasonUnknownTaskType || !strings.Contains(end.Error, `"telepathy"`) {
		t.Errorf("finished as %+v", end)
	}
	if r := s.ledger.result(0); r.Status != definition.TaskFailed {
		t.Errorf("row %+v", r)
	}
}

func TestTaskDoneBeforeIsNotDoneAgain(t *testing.T) {
	t.Parallel()
	ledger := newFakeLedger(task(t, "x", definition.TaskHTTP, definition.HTTPTask{}), logTask(t, "y"))
	ledger.results[0] = definition.TaskResult{Status: definition.TaskSucceeded, Attempts: 1}
	s := simulate(t, ledger)
	s.tasks.runners[definition.TaskHTTP] = func(context.Context, *definition.TaskWork) ([]byte, error) {
		t.Error("the task was done again")
		return nil, nil
	}
	wantSucceeded(t, s)
}

func TestRunTimeout(t *testing.T) {
	t.Parallel()
	slow := task(t, "slow", definition.TaskActivity, definition.ActivityTask{Activity: "Slow", TaskQueue: "q"})
	slow.Timeout = definition.Duration(2 * time.Hour)
	ledger := newFakeLedger(slow, logTask(t, "never"))
	ledger.doc.Timeout = definition.Duration(time.Minute)
	s := simulate(t, ledger)
	s.env.RegisterActivityWithOptions(func(ctx context.Context) error {
		return activity.ErrResultPending
	}, activity.RegisterOptions{Name: "Slow"})
	_, err := s.run(t)
	var app *temporal.ApplicationError
	if !errors.As(err, &app) || app.Type() != ErrorRunTimedOut {
		t.Fatalf("workflow error %v", err)
	}
	want := definition.Finish{RunID: fakeRunID, Status: definition.RunTimedOut, Reason: definition.ReasonRunTimeout,
		Error: "the run used up its timeout of 1m0s"}
	if end := ledger.end(t); end != want {
		t.Errorf("finished as %+v, want %+v", end, want)
	}
	if r := ledger.result(0); r.Status != definition.TaskCanceled || r.Error == "" {
		t.Errorf("row %+v", r)
	}
}

func TestTaskTimeout(t *testing.T) {
	t.Parallel()
	slow := task(t, "slow", definition.TaskActivity, definition.ActivityTask{Activity: "Slow", TaskQueue: "q"})
	slow.Timeout = definition.Duration(5 * time.Second)
	s := simulate(t, newFakeLedger(slow))
	s.env.RegisterActivityWithOptions(func(ctx context.Context) error {
		return temporal.NewTimeoutError(3, errors.New("before"))
	}, activity.RegisterOptions{Name: "Slow"})
	if _, err := s.run(t); err == nil {
		t.Fatal("the workflow succeeded")
	}
	end := s.ledger.end(t)
	if end.Status != definition.RunFailed || end.Reason != definition.ReasonTaskTimedOut ||
		!strings.Contains(end.Error, "timeout of 5s") {
		t.Errorf("finished as %+v", end)
	}
	if r := s.ledger.result(0); r.Status != definition.TaskTimedOut {
		t.Errorf("row %+v", r)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := simulate(t, newFakeLedger(task(t, "x", definition.TaskHTTP, definition.HTTPTask{}), logTask(t, "never")))
	s.blocked()
	s.env.RegisterDelayedCallback(s.env.CancelWorkflow, time.Second)
	_, err := s.run(t)
	if !temporal.IsCanceledError(err) {
		t.Fatalf("workflow error %v", err)
	}
	want := definition.Finish{RunID: fakeRunID, Status: definition.RunCanceled, Reason: definition.ReasonCancelRequested,
		Error: "the run's workflow was canceled"}
	if end := s.ledger.end(t); end != want {
		t.Errorf("finished as %+v, want %+v", end, want)
	}
	if r := s.ledger.result(0); r.Status != definition.TaskCanceled {
		t.Errorf("row %+v", r)
	}
	if _, ok := s.ledger.results[1]; ok {
		t.Error("a task that was never reached has a row")
	}
}

func TestQueuedThenAdmitted(t *testing.T) {
	t.Parallel()
	const queued, running = definition.RunQueued, definition.RunRunning
	t.Run("by the signal", func(t *testing.T) {
		t.Parallel()
		ledger := newFakeLedger(logTask(t, "a"))
		ledger.statuses = []definition.RunStatus{queued, running}
		s := simulate(t, ledger)
		s.env.RegisterDelayedCallback(func() { s.env.SignalWorkflow(definition.SignalAdmitted, nil) }, 10*time.Second)
		wantSucceeded(t, s)
		if n := len(ledger.begins); n != 2 {
			t.Errorf("asked %d times, want 2", n)
		}
	})
	t.Run("by the timer", func(t *testing.T) {
		t.Parallel()
		ledger := newFakeLedger(logTask(t, "a"))
		ledger.statuses = []definition.RunStatus{queued, queued, queued, queued, queued, queued, queued, queued, queued, running}
		s := simulate(t, ledger)
		begin := s.env.Now()
		wantSucceeded(t, s)
		// 1, 2, 4, 8, 16, 32 minutes, then an hour each.
		if waited := s.env.Now().Sub(begin).Round(time.Minute); waited != 63*time.Minute+3*time.Hour {
			t.Errorf("waited %s", waited)
		}
	})
	t.Run("canceled while it waits", func(t *testing.T) {
		t.Parallel()
		ledger := newFakeLedger(logTask(t, "a"))
		ledger.statuses = []definition.RunStatus{queued}
		s := simulate(t, ledger)
		s.env.RegisterDelayedCallback(s.env.CancelWorkflow, 10*time.Second)
		if _, err := s.run(t); !temporal.IsCanceledError(err) {
			t.Fatalf("workflow error %v", err)
		}
		if end := ledger.end(t); end.Status != definition.RunCanceled || end.Reason != definition.ReasonCancelRequested {
			t.Errorf("finished as %+v", end)
		}
		if len(ledger.results) > 0 {
			t.Error("a task of a run that never ran has a row")
		}
	})
}

func TestDecidedNotToRun(t *testing.T) {
	t.Parallel()
	ledger := newFakeLedger(logTask(t, "a"))
	ledger.statuses, ledger.reason = []definition.RunStatus{definition.RunSkipped}, definition.ReasonConcurrencyLimit
	s := simulate(t, ledger)
	r, err := s.run(t)
	if err != nil || r != (Result{RunID: fakeRunID, Status: definition.RunSkipped, Reason: definition.ReasonConcurrencyLimit}) {
		t.Errorf("%+v, %v", r, err)
	}
	if len(ledger.finished) > 0 || len(ledger.results) > 0 {
		t.Error("a skipped run was carried out")
	}
}

func TestOutcomeOfSomebodyElseStands(t *testing.T) {
	t.Parallel()
	ledger := newFakeLedger(logTask(t, "a"))
	ledger.outcome = definition.RunCanceled
	r, err := simulate(t, ledger).run(t)
	if err != nil || r.Status != definition.RunCanceled {
		t.Errorf("%+v, %v", r, err)
	}
}

// While Postgres is away for longer than the local activity lasts, the ordinary one takes over.
func TestLedgerAway(t *testing.T) {
	t.Parallel()
	ledger := newFakeLedger(logTask(t, "a"))
	ledger.away = 14
	s := simulate(t, ledger)
	var ordinary []string
	s.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		ordinary = append(ordinary, info.ActivityType.Name)
	})
	wantSucceeded(t, s)
	if !slices.Contains(ordinary, activityBeginRun) {
		t.Errorf("ordinary activities: %v", ordinary)
	}
}

func TestUnknownRun(t *testing.T) {
	t.Parallel()
	ledger := newFakeLedger()
	s := simulate(t, ledger)
	s.env.ExecuteWorkflow(definition.RunWorkflow, definition.RunInput{})
	var app *temporal.ApplicationError
	if err := s.env.GetWorkflowError(); !errors.As(err, &app) || app.Type() != ErrorBadInput {
		t.Errorf("no definition: %v", err)
	}
	s = simulate(t, ledger)
	s.env.ExecuteWorkflow(definition.RunWorkflow, definition.RunInput{DefinitionID: "def"})
	if err := s.env.GetWorkflowError(); !errors.As(err, &app) || app.Type() != ErrorBadInput ||
		!strings.Contains(app.Message(), "TemporalScheduledStartTime") {
		t.Errorf("neither run nor slot: %v", err)
	}
	if len(ledger.begins) > 0 {
		t.Error("the ledger was asked")
	}
}

func TestSlotOfASchedule(t *testing.T) {
	t.Parallel()
	s := simulate(t, newFakeLedger())
	slot := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	if err := s.env.SetTypedSearchAttributesOnStart(temporal.NewSearchAttributes(attributeSlot.ValueSet(slot))); err != nil {
		t.Fatal(err)
	}
	s.env.ExecuteWorkflow(definition.RunWorkflow, definition.RunInput{DefinitionID: "def"})
	if err := s.env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	if b := s.ledger.begins[0]; b.RunID != "" || !b.Slot.Equal(slot) {
		t.Errorf("begun as %+v", b)
	}
}

func TestWakesTheNext(t *testing.T) {
	t.Parallel()
	ledger := newFakeLedger()
	ledger.wake = []string{"next", "gone"}
	s := simulate(t, ledger)
	var mu sync.Mutex // the environment sends signals from goroutines of their own
	var woken []string
	for id, answer := range map[string]error{"next": nil, "gone": errors.New("closed")} {
		s.env.OnSignalExternalWorkflow("default-test-namespace", id, "", definition.SignalAdmitted, nil).
			Return(func(_, id, _, _ string, _ any) error {
				mu.Lock()
				defer mu.Unlock()
				woken = append(woken, id)
				return answer
			})
	}
	wantSucceeded(t, s)
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(woken)
	if !slices.Equal(woken, []string{"gone", "next"}) {
		t.Errorf("woken %v", woken)
	}
}

func TestUserTasks(t *testing.T) {
	t.Parallel()
	type call struct {
		Definition string `json:"definition"`
	}
	withArgs := task(t, "act", definition.TaskActivity, map[string]any{"activity": "Charge", "task_queue": "users",
		"args": []any{map[string]any{"definition": "given"}}})
	child := task(t, "flow", definition.TaskWorkflow, definition.WorkflowTask{Workflow: "Ship", TaskQueue: "users"})
	s := simulate(t, newFakeLedger(withArgs, child))
	s.env.RegisterActivityWithOptions(func(ctx context.Context, c call) (map[string]string, error) {
		if q := activity.GetInfo(ctx).TaskQueue; q != "users" {
			t.Errorf("queue %s", q)
		}
		return map[string]string{"for": c.Definition + "<&>"}, nil
	}, activity.RegisterOptions{Name: "Charge"})
	s.env.RegisterWorkflowWithOptions(func(ctx workflow.Context, c call) ([]byte, error) {
		if id := workflow.GetInfo(ctx).WorkflowExecution.ID; !strings.HasSuffix(id, ":flow") {
			t.Errorf("child id %s", id)
		}
		return []byte(c.Definition), nil
	}, workflow.RegisterOptions{Name: "Ship"})
	wantSucceeded(t, s)
	if got := string(s.ledger.result(0).Output); !strings.Contains(got, "given") {
		t.Errorf("output of the activity: %s", got)
	}
	if got := string(s.ledger.result(1).Output); got != `{"encoding":"binary/plain","bytes":4}` {
		t.Errorf("output of the workflow: %s", got)
	}
}

func TestInputTooLarge(t *testing.T) {
	t.Parallel()
	ledger := newFakeLedger(task(t, "act", definition.TaskActivity, definition.ActivityTask{Activity: "A", TaskQueue: "q"}))
	ledger.run.Input = []byte(`"` + strings.Repeat("x", definition.MaxArg) + `"`)
	s := simulate(t, ledger)
	if _, err := s.run(t); err == nil {
		t.Fatal("the workflow succeeded")
	}
	if end := ledger.end(t); end.Reason != definition.ReasonInputTooLarge || ledger.result(0).Status != definition.TaskFailed {
		t.Errorf("finished as %+v, %+v", end, ledger.result(0))
	}
}

// A decision whose signal is lost is found by asking: after 1, 2, 4, … minutes.
func TestDecisionWithoutSignal(t *testing.T) {
	t.Parallel()
	ask := task(t, "ask", definition.TaskWait, definition.WaitTask{Approval: &definition.Approval{Message: "?"}})
	ledger := newFakeLedger(ask, logTask(t, "then"))
	s := simulate(t, ledger)
	begin := s.env.Now()
	s.env.RegisterDelayedCallback(func() {
		ledger.mu.Lock()
		defer ledger.mu.Unlock()
		ledger.results[0] = definition.TaskResult{Name: "ask", Type: definition.TaskWait, Status: definition.TaskSucceeded}
	}, 4*time.Minute)
	wantSucceeded(t, s)
	if waited := s.env.Now().Sub(begin).Round(time.Minute); waited != 7*time.Minute {
		t.Errorf("waited %s", waited)
	}
	if ledger.result(1).Status != definition.TaskSucceeded {
		t.Errorf("the task after it: %+v", ledger.result(1))
	}
}

// What the on_failure tasks may take is bounded, and does not change the outcome.
func TestOnFailureIsBounded(t *testing.T) {
	t.Parallel()
	ledger := newFakeLedger(task(t, "broken", definition.TaskPublish, definition.PublishTask{Subject: "a"}))
	pause := task(t, "pause", definition.TaskWait, definition.WaitTask{Duration: "23h"})
	ledger.doc.OnFailure = []definition.Task{pause, logTask(t, "say")}
	s := simulate(t, ledger)
	s.tasks.runners[definition.TaskPublish] = func(context.Context, *definition.TaskWork) ([]byte, error) { return nil, permanently("no") }
	begin := s.env.Now()
	if _, err := s.run(t); err == nil {
		t.Fatal("the workflow succeeded")
	}
	want := definition.Finish{RunID: fakeRunID, Status: definition.RunFailed, Reason: definition.ReasonTaskFailed, Error: `task "broken": no`}
	if end := ledger.end(t); end != want {
		t.Errorf("finished as %+v", end)
	}
	if took := s.env.Now().Sub(begin).Round(time.Minute); took != definition.OnFailureLimit {
		t.Errorf("took %s", took)
	}
	if r := ledger.result(1); r.Status != definition.TaskCanceled || !strings.Contains(r.Error, "used up their 30m0s") {
		t.Errorf("pause %+v", r)
	}
	if r := ledger.result(2); r.Status != definition.TaskSucceeded {
		t.Errorf("say %+v", r)
	}
}

// A canceled run does no on_failure tasks, and leaves no item and no wait open.
func TestCancelAmongMany(t *testing.T) {
	t.Parallel()
	each := task(t, "each", definition.TaskHTTP, definition.HTTPTask{URL: "http://x.example"})
	each.ForEach, each.MaxParallel, each.Needs = "[1, 2, 3]", 2, []string{}
	pause := task(t, "pause", definition.TaskWait, definition.WaitTask{Duration: "1h"})
	pause.Needs = []string{}
	ledger := newFakeLedger(each, pause)
	ledger.doc.OnFailure = []definition.Task{logTask(t, "say")}
	s := simulate(t, ledger)
	s.blocked()
	s.env.RegisterDelayedCallback(s.env.CancelWorkflow, time.Second)
	if _, err := s.run(t); !temporal.IsCanceledError(err) {
		t.Fatalf("workflow error %v", err)
	}
	for i := range 2 {
		if r := ledger.result(i); r.Status != definition.TaskCanceled || r.Error != "stopped with the run: the run's workflow was canceled" {
			t.Errorf("task %d: %+v", i, r)
		}
	}
	if _, begun := ledger.results[2]; begun || ledger.end(t).Status != definition.RunCanceled {
		t.Errorf("finished as %+v, %+v", ledger.finished, ledger.results)
	}
}

// A large result does not travel to Temporal while Postgres is away: the workflow tries again.
func TestLargeResultWaitsForTheLedger(t *testing.T) {
	t.Parallel()
	ledger := newFakeLedger(task(t, "act", definition.TaskActivity, definition.ActivityTask{Activity: "Much", TaskQueue: "users"}))
	s := simulate(t, ledger)
	large := strings.Repeat("x", maxTravelling)
	s.env.RegisterActivityWithOptions(func(context.Context, definition.RunContext) (string, error) {
		ledger.mu.Lock()
		defer ledger.mu.Unlock()
		ledger.away = 40
		return large, nil
	}, activity.RegisterOptions{Name: "Much"})
	s.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		if info.ActivityType.Name == activityRecordTask {
			t.Error("the result travelled")
		}
	})
	wantSucceeded(t, s)
	if r := ledger.result(0); string(r.Output) != `"`+large+`"` {
		t.Errorf("%d bytes of output", len(r.Output))
	}
}

// While Postgres is away, each task that is in progress waits for it, and none fails.
func TestLedgerAwayAmongMany(t *testing.T) {
	t.Parallel()
	var tasks []definition.Task
	for _, name := range []string{"a", "b", "c", "d"} {
		l := logTask(t, name)
		l.Needs = []string{}
		tasks = append(tasks, l)
	}
	ledger := newFakeLedger(tasks...)
	s := simulate(t, ledger)
	var once sync.Once
	s.env.SetOnLocalActivityStartedListener(func(info *activity.Info, _ context.Context, _ []interface{}) {
		if info.ActivityType.Name == activityLogTask {
			once.Do(func() {
				ledger.mu.Lock()
				ledger.away = 60
				ledger.mu.Unlock()
			})
		}
	})
	wantSucceeded(t, s)
	for i := range tasks {
		if r := ledger.result(i); r.Status != definition.TaskSucceeded {
			t.Errorf("task %d: %+v", i, r)
		}
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                        "",
		" a\n\tb  c\r\n":          "a b c",
		"bad \xff utf":            "bad \uFFFD utf",
		strings.Repeat("é", 2000): strings.Repeat("é", (definition.MaxError-3)/2) + "…",
	} {
		if got := oneLine(in); got != want || len(got) > definition.MaxError {
			t.Errorf("oneLine(%.20q) = %.40q (%d bytes)", in, got, len(got))
		}
	}
}
