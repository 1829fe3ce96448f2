package execution

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/egress"
)

// StopTimeout is how long tasks in progress may take to end when the worker stops. What is not done by then is
// interrupted, and done again elsewhere if it has an attempt left. Run returns shortly after it.
const StopTimeout = 20 * time.Second

// Sizes of the two workers. A workflow task and a ledger call take milliseconds of a processor; a task mostly waits for
// somebody else.
const (
	workflowSlots    = 200
	ledgerSlots      = 100 // calls to the ledger at once, for each of its two ways
	taskSlots        = 400
	workflowPollers  = 8
	ledgerPollers    = 2
	taskPollers      = 8
	firstStartPause  = 250 * time.Millisecond
	maxStartPause    = 5 * time.Second
	temporalDeadline = 5 * time.Second
)

// Options of a Worker. Every field is required but Secrets, Egress, SubjectPrefix, Ended and PerDefinition.
type Options struct {
	// Temporal is the client of the namespace in which runs live. It stays the caller's to close.
	Temporal client.Client
	Store    Store
	// Publisher stores the messages of publish tasks.
	Publisher Publisher
	// Secrets are what http and publish tasks may read as secrets.NAME; nil for none.
	Secrets *Secrets
	// Egress is what http tasks may connect to besides the internet.
	Egress egress.Allow
	// SubjectPrefix begins the subjects of events: what publish tasks store there has the rest of the subject as its type.
	SubjectPrefix string
	// Ended is called whenever a run has ended here, and must not wait; nil for nobody.
	Ended func()
	// OrchestratorTaskQueue carries the workflows, TaskTaskQueue the tasks.
	OrchestratorTaskQueue, TaskTaskQueue string
	Log                                  *slog.Logger
	Registerer                           prometheus.Registerer
	// PerDefinition gives the metrics a label with the definition's name.
	PerDefinition bool
}

// Worker carries out runs. Any number of workers may share the queues.
type Worker struct {
	o          Options
	workflows  *workflows
	activities *activities
	tasks      *tasks
	notifier   *notifier
	requester  *requester

	mu    sync.Mutex
	state error // nil while both SDK workers are polling
}

// NewWorker makes a Worker and registers its metrics. It does not talk to Temporal yet.
func NewWorker(o Options) (*Worker, error) {
	switch {
	case o.Temporal == nil:
		return nil, errors.New("execution: Temporal is missing")
	case o.Store == nil:
		return nil, errors.New("execution: Store is missing")
	case o.Publisher == nil:
		return nil, errors.New("execution: Publisher is missing")
	case o.OrchestratorTaskQueue == "":
		return nil, errors.New("execution: OrchestratorTaskQueue is missing")
	case o.TaskTaskQueue == "":
		return nil, errors.New("execution: TaskTaskQueue is missing")
	case o.Log == nil:
		return nil, errors.New("execution: Log is missing")
	case o.Registerer == nil:
		return nil, errors.New("execution: Registerer is missing")
	}
	if o.Secrets == nil {
		o.Secrets = NewSecrets(func(string) string { return "" }, "")
	}
	m, err := newMetrics(o.Registerer, o.PerDefinition)
	if err != nil {
		return nil, fmt.Errorf("execution: %w", err)
	}
	remembered := newRevisions(o.Store)
	w := &Worker{
		o:          o,
		workflows:  &workflows{taskQueue: o.TaskTaskQueue},
		activities: &activities{store: o.Store, metrics: m, log: o.Log, onEnd: o.Ended, revisions: remembered},
		requester:  newRequester(o.Egress, o.Secrets),
		state:      errors.New("not started"),
	}
	w.tasks = &tasks{store: o.Store, log: o.Log, revisions: remembered, secrets: o.Secrets}
	w.tasks.runners = map[definition.TaskType]runner{
		definition.TaskLog:     w.tasks.runLog,
		definition.TaskHTTP:    w.requester.run,
		definition.TaskPublish: (&publisher{js: o.Publisher, prefix: o.SubjectPrefix}).run,
	}
	if w.notifier, err = newNotifier(o.Store, w.tasks.runners, o.Secrets, o.Log, o.Registerer); err != nil {
		return nil, fmt.Errorf("execution: %w", err)
	}
	return w, nil
}

// Run works until the context ends, then stops taking work and lets what is in progress end, for up to StopTimeout.
// While Temporal is away it waits for it; it returns no error.
func (w *Worker) Run(ctx context.Context) error {
	defer w.requester.close()
	var last string
	for pause := firstStartPause; ; pause = min(2*pause, maxStartPause) {
		began := time.Now()
		err := w.serve(ctx)
		if ctx.Err() != nil {
			w.setState(errors.New("stopping"))
			return nil
		}
		w.setState(err)
		if time.Since(began) > maxStartPause {
			pause, last = firstStartPause, ""
		}
		if text := err.Error(); text != last {
			w.o.Log.Warn("temporal workers do not run; trying again until they do", "error", err)
			last = text
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// Ready returns nil while the workers poll both task queues, and otherwise why they do not.
func (w *Worker) Ready() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

func (w *Worker) setState(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = err
}

// serve runs one pair of SDK workers until the context ends or one of them gives up. An SDK worker that could not start
// can never be started again, so each call makes new ones.
func (w *Worker) serve(ctx context.Context) error {
	// An SDK worker's start does not listen to a context. This finds out first whether there is a server to start with.
	ask, cancel := context.WithTimeout(ctx, temporalDeadline)
	defer cancel()
	if _, err := w.o.Temporal.CheckHealth(ask, &client.CheckHealthRequest{}); err != nil {
		return fmt.Errorf("ask temporal: %w", err)
	}

	fatal := make(chan error, 2)
	var started []worker.Worker
	defer func() {
		var stopping sync.WaitGroup
		for _, sdk := range started {
			stopping.Go(sdk.Stop)
		}
		stopping.Wait()
	}()
	// The tasks first: nothing is begun that could not be carried out.
	for _, sdk := range []worker.Worker{w.taskWorker(fatal), w.orchestrator(fatal)} {
		if err := sdk.Start(); err != nil {
			return fmt.Errorf("start a temporal worker: %w", err)
		}
		started = append(started, sdk)
	}
	w.setState(nil)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-fatal:
		return fmt.Errorf("temporal worker: %w", err)
	}
}

func (w *Worker) orchestrator(fatal chan<- error) worker.Worker {
	sdk := worker.New(w.o.Temporal, w.o.OrchestratorTaskQueue, worker.Options{
		MaxConcurrentWorkflowTaskExecutionSize:  workflowSlots,
		MaxConcurrentWorkflowTaskPollers:        workflowPollers,
		MaxConcurrentLocalActivityExecutionSize: ledgerSlots,
		MaxConcurrentActivityExecutionSize:      ledgerSlots,
		MaxConcurrentActivityTaskPollers:        ledgerPollers,
		WorkerStopTimeout:                       StopTimeout,
		OnFatalError:                            tell(fatal),
	})
	w.registerWorkflow(sdk)
	w.registerLedger(sdk)
	return sdk
}

func (w *Worker) taskWorker(fatal chan<- error) worker.Worker {
	sdk := worker.New(w.o.Temporal, w.o.TaskTaskQueue, worker.Options{
		DisableWorkflowWorker:              true,
		MaxConcurrentActivityExecutionSize: taskSlots,
		MaxConcurrentActivityTaskPollers:   taskPollers,
		WorkerStopTimeout:                  StopTimeout,
		OnFatalError:                       tell(fatal),
	})
	sdk.RegisterActivityWithOptions(w.tasks.run, activity.RegisterOptions{Name: activityRunTask})
	sdk.RegisterActivityWithOptions(w.notifier.send, activity.RegisterOptions{Name: activitySendNotification})
	return sdk
}

func (w *Worker) registerWorkflow(r worker.WorkflowRegistry) {
	r.RegisterWorkflowWithOptions(w.workflows.run, workflow.RegisterOptions{Name: definition.RunWorkflow})
	r.RegisterWorkflowWithOptions(w.workflows.notify, workflow.RegisterOptions{Name: definition.NotifyWorkflow})
}

func (w *Worker) registerLedger(r worker.ActivityRegistry) {
	for name, function := range map[string]any{
		activityBeginRun:    w.activities.beginRun,
		activityFinishRun:   w.activities.finishRun,
		activityPrepareTask: w.activities.prepareTask,
		activityRecordTask:  w.activities.recordTask,
		activityLogTask:     w.activities.logTask,
	} {
		r.RegisterActivityWithOptions(function, activity.RegisterOptions{Name: name})
	}
}

// tell passes an error on unless somebody else's is waiting already.
func tell(fatal chan<- error) func(error) {
	return func(err error) {
		select {
		case fatal <- err:
		default:
		}
	}
}
