package execution

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/activity-core/activity-core/internal/definition"
)

// Names of the Temporal activities. They are part of every history.
const (
	activityBeginRun    = "BeginRun"
	activityFinishRun   = "FinishRun"
	activityPrepareTask = "PrepareTask"
	activityRecordTask  = "RecordTask"
	activityRunTask     = "RunTask"
	activityLogTask     = "LogTask"
)

// Store is what execution needs of the ledger. Errors that wrap ErrNotFound, ErrOtherWorkflow or ErrNotStorable are for
// good; all others may pass.
type Store interface {
	notifyStore
	// BeginRun decides what becomes of a run whose workflow has begun; the same workflow gets the same answer again.
	BeginRun(ctx context.Context, b definition.Begin) (definition.Admission, error)
	// FinishRun ends a run; one that has ended already keeps its outcome.
	FinishRun(ctx context.Context, f definition.Finish) (definition.Finished, error)
	// RunDocument returns the revision that a run carries out.
	RunDocument(ctx context.Context, runID string) (definition.Document, error)
	// BeginTask notes that an attempt begins, and returns what it needs, or the result of an attempt that ended.
	BeginTask(ctx context.Context, b definition.TaskBegin) (definition.TaskWork, error)
	// AddTask stores the result of a task that was not begun before; false when it has one, or the run is not running.
	AddTask(ctx context.Context, t definition.TaskResult) (bool, error)
	// FinishTask stores a result, or, with status running, the error of an attempt that is followed by another. A result
	// that is final stays. It never lowers the number of attempts.
	FinishTask(ctx context.Context, t definition.TaskResult) error
	// FinishItem is FinishTask for an item of a for_each task.
	FinishItem(ctx context.Context, t definition.ItemResult) error
	// PlanItems stores how many items a task has, and returns the statuses of those that were begun, and what is left of its timeout.
	PlanItems(ctx context.Context, runID string, index, items int, limit time.Duration) ([]definition.TaskStatus, time.Duration, error)
	// FinishItems ends a for_each task by what became of its items; with a status it is given that. A result that is final stays.
	FinishItems(ctx context.Context, t definition.TaskResult) (definition.TaskResult, error)
	// PlanWait stores until when a task waits, unless that is stored, and returns what is left.
	PlanWait(ctx context.Context, runID string, index int, p definition.WaitPlan) (definition.WaitLeft, error)
}

// The types below travel through Temporal, and so are part of every history: a field never changes its meaning.

type beginInput struct {
	RunID        string    `json:"run_id,omitempty"`
	DefinitionID string    `json:"definition_id"`
	Slot         time.Time `json:"slot,omitzero"`
	WorkflowID   string    `json:"workflow_id"`
	FirstRunID   string    `json:"first_run_id"`
	// Again tells that a queued run asks once more.
	Again bool `json:"again,omitempty"`
}

// begun is BeginRun's answer. Timeout and Tasks are set for a run that is running.
type begun struct {
	RunID   string               `json:"run_id"`
	Status  definition.RunStatus `json:"status"`
	Reason  definition.Reason    `json:"reason,omitempty"`
	Timeout time.Duration        `json:"timeout,omitempty"`
	Tasks   []step               `json:"tasks,omitempty"`
	// Wake lists the workflows that may run because this one does not.
	Wake []string `json:"wake,omitempty"`

	// Graph tells that the tasks are carried out by their needs. Without it they are done one after another, as the versions
	// did that wrote no Graph; nothing below is set then.
	Graph bool `json:"graph,omitempty"`
	// Revision is that of the definition.
	Revision int `json:"revision,omitempty"`
	// Elapsed is how much of the timeout was used up before.
	Elapsed   time.Duration `json:"elapsed,omitempty"`
	OnFailure []step        `json:"on_failure,omitempty"`
	// FailedFor is how long ago the on_failure tasks could begin, for a run that came so far before.
	FailedFor time.Duration `json:"failed_for,omitempty"`
	// MaxEvents is how long the history may become; 0 for maxEvents.
	MaxEvents int `json:"max_events,omitempty"`
}

// step is what the workflow needs to know of a task.
type step struct {
	Name  string              `json:"name"`
	Type  definition.TaskType `json:"type"`
	Limit time.Duration       `json:"limit"`
	Retry definition.Retry    `json:"retry"`

	// Needs are the indices of tasks of the same list.
	Needs []int `json:"needs,omitempty"`
	// Continue: the run goes on when the task has failed for good.
	Continue bool `json:"continue,omitempty"`
	// Parallel is how many items may be done at a time; 0 for a task without for_each.
	Parallel int `json:"parallel,omitempty"`
	// Was and Error are what became of the task before, when the run is carried out anew.
	Was   definition.TaskStatus `json:"was,omitempty"`
	Error string                `json:"error,omitempty"`
}

// taskInput names a task, or an item of one.
type taskInput struct {
	RunID string `json:"run_id"`
	Index int    `json:"index"`
	// Item counts from 1; 0 for a task as a whole.
	Item int `json:"item,omitempty"`
	// Definition and Revision spare a question to the ledger; empty in the histories of old versions.
	Definition string `json:"definition,omitempty"`
	Revision   int    `json:"revision,omitempty"`
	// Outcome is what the on_failure tasks are told.
	Outcome *outcome `json:"outcome,omitempty"`
}

// outcome is how a run ends, before the on_failure tasks have run.
type outcome struct {
	Status definition.RunStatus `json:"status"`
	Reason definition.Reason    `json:"reason,omitempty"`
	Error  string               `json:"error,omitempty"`
}

// taskDone is the answer of RunTask, LogTask and RecordTask. Old versions answered nothing, which means succeeded. Reason and Error
// belong to a failure that is recorded.
type taskDone struct {
	Status definition.TaskStatus `json:"status"`
	Reason definition.Reason     `json:"reason,omitempty"`
	Error  string                `json:"error,omitempty"`
}

// taskEnd is the result of a task whose Temporal activity could not, or may not have, written it itself.
type taskEnd struct {
	Index           int                   `json:"index"`
	Name            string                `json:"name"`
	Type            definition.TaskType   `json:"type"`
	Status          definition.TaskStatus `json:"status"`
	Error           string                `json:"error,omitempty"`
	Attempts        int                   `json:"attempts,omitempty"`
	Output          []byte                `json:"output,omitempty"`
	OutputTruncated bool                  `json:"output_truncated,omitempty"`
	// Item counts from 1; 0 for a task as a whole.
	Item int `json:"item,omitempty"`
	// Items tells that the result is made of the task's items.
	Items bool `json:"items,omitempty"`
}

func (t *taskEnd) result(runID string) definition.TaskResult {
	return definition.TaskResult{
		RunID: runID, Index: t.Index, Name: t.Name, Type: t.Type, Status: t.Status, Error: t.Error, Attempts: t.Attempts,
		Output: t.Output, OutputTruncated: t.OutputTruncated,
	}
}

// ending is how a run ended. Task is the task that was in progress then, nil when none was.
type ending struct {
	RunID  string               `json:"run_id"`
	Status definition.RunStatus `json:"status"`
	Reason definition.Reason    `json:"reason,omitempty"`
	Error  string               `json:"error,omitempty"`
	Task   *taskEnd             `json:"task,omitempty"`
	// Tasks are those whose ends are not in the ledger, or may not be.
	Tasks []taskEnd `json:"tasks,omitempty"`
}

// finished is FinishRun's answer: the outcome that stands, and the workflows to wake.
type finished struct {
	Status definition.RunStatus `json:"status"`
	Reason definition.Reason    `json:"reason,omitempty"`
	Wake   []string             `json:"wake,omitempty"`
}

// activities are the Temporal activities of the orchestrator's queue: short transactions in the ledger.
type activities struct {
	store     Store
	metrics   *metrics
	log       *slog.Logger
	revisions *revisions
	// maxEvents is passed on to the workflow; 0 for its default.
	maxEvents int
	onEnd     func() // hears that a run has ended; nil for nobody
}

func (a *activities) beginRun(ctx context.Context, in beginInput) (begun, error) {
	adm, err := a.store.BeginRun(ctx, definition.Begin{
		RunID: in.RunID, DefinitionID: in.DefinitionID, Slot: in.Slot, WorkflowID: in.WorkflowID, FirstRunID: in.FirstRunID,
	})
	if err != nil {
		return begun{}, ledgerError(err)
	}
	if !adm.Repeated {
		if !in.Again && !adm.Run.Status.Final() {
			a.metrics.began(&adm.Run, adm.Lag)
		}
		if adm.Run.Status.Final() {
			a.ended(&adm.Run)
		}
	}
	b := begun{RunID: adm.Run.ID, Status: adm.Run.Status, Reason: adm.Run.Reason, Wake: adm.Wake}
	if b.Status != definition.RunRunning {
		return b, nil
	}
	a.revisions.put(adm.Run.DefinitionID, adm.Run.Revision, adm.Document)
	b.Graph, b.Revision, b.MaxEvents = true, adm.Run.Revision, a.maxEvents
	b.Timeout = adm.Document.RunTimeout()
	b.Tasks, b.OnFailure = stepsOf(adm.Document.Tasks), stepsOf(adm.Document.OnFailure)
	if adm.Repeated {
		b.Elapsed = adm.Elapsed
	}
	b.resume(adm.Progress)
	return b, nil
}

func stepsOf(tasks []definition.Task) []step {
	places := make(map[string]int, len(tasks))
	for i := range tasks {
		places[tasks[i].Name] = i
	}
	steps := make([]step, len(tasks))
	for i := range tasks {
		t := &tasks[i]
		s := step{Name: t.Name, Type: t.Type, Limit: t.Limit(), Retry: t.Attempts(), Continue: t.OnError == definition.OnErrorContinue}
		for _, name := range t.Needs {
			s.Needs = append(s.Needs, places[name])
		}
		if t.ForEach != "" {
			s.Parallel = parallelOf(t)
		}
		steps[i] = s
	}
	return steps
}

// parallelOf returns how many items of a task may be done at a time.
func parallelOf(t *definition.Task) int {
	most := definition.MaxParallel
	if t.Type == definition.TaskActivity || t.Type == definition.TaskWorkflow {
		most = definition.MaxUserParallel
	}
	return min(t.Parallel(), most)
}

// resume notes what was done before.
func (b *begun) resume(progress []definition.TaskProgress) {
	const never = -1
	b.FailedFor = never
	for _, p := range progress {
		if n := len(b.Tasks); p.Index < n {
			b.Tasks[p.Index].Was, b.Tasks[p.Index].Error = p.Status, p.Error
			if settled(p.Status) && (b.FailedFor == never || p.Since < b.FailedFor) {
				b.FailedFor = p.Since
			}
		} else if p.Index-n < len(b.OnFailure) {
			b.OnFailure[p.Index-n].Was, b.OnFailure[p.Index-n].Error = p.Status, p.Error
		}
	}
	b.FailedFor = max(b.FailedFor, 0)
}

func (a *activities) finishRun(ctx context.Context, end ending) (finished, error) {
	if end.Task != nil {
		if err := a.store.FinishTask(ctx, end.Task.result(end.RunID)); err != nil {
			return finished{}, ledgerError(err)
		}
	}
	for i := range end.Tasks {
		_, err := a.finishTask(ctx, end.RunID, &end.Tasks[i])
		if err != nil && !isLedgerPermanent(err) {
			return finished{}, ledgerError(err)
		}
		if err != nil {
			// A row that can never be written must not keep the run from ending.
			a.log.Warn("could not record the end of a task", "run_id", end.RunID, "task", end.Tasks[i].Name, "error", err)
		}
	}
	f, err := a.store.FinishRun(ctx, definition.Finish{
		RunID: end.RunID, Status: end.Status, Reason: end.Reason, Error: end.Error,
	})
	if err != nil {
		return finished{}, ledgerError(err)
	}
	if !f.Repeated {
		a.ended(&f.Run)
	}
	return finished{Status: f.Run.Status, Reason: f.Run.Reason, Wake: f.Wake}, nil
}

// finishTask writes what the workflow knows of a task's end.
func (a *activities) finishTask(ctx context.Context, runID string, t *taskEnd) (taskDone, error) {
	switch {
	case t.Items:
		done, err := a.store.FinishItems(ctx, t.result(runID))
		if errors.Is(err, definition.ErrNotFound) {
			break // it ended before its list was made
		}
		a.revisions.forgetList(listKey{runID, t.Index})
		return taskDone{Status: done.Status, Error: done.Error}, err
	case t.Item > 0:
		return taskDone{Status: t.Status}, a.store.FinishItem(ctx, definition.ItemResult{
			RunID: runID, Index: t.Index, Item: t.Item - 1, Status: t.Status, Error: t.Error, Attempts: t.Attempts,
			Output: t.Output, OutputTruncated: t.OutputTruncated,
		})
	}
	return taskDone{Status: t.Status}, a.store.FinishTask(ctx, t.result(runID))
}

// ended counts a run that has ended, and writes the one line that it has in the log.
func (a *activities) ended(run *definition.Run) {
	if a.onEnd != nil {
		a.onEnd()
	}
	a.metrics.ended(run)
	line := []any{"run_id", run.ID, "definition", run.DefinitionName, "trigger", run.Kind, "status", run.Status}
	if run.Reason != definition.ReasonNone {
		line = append(line, "reason", run.Reason)
	}
	if run.Error != "" {
		line = append(line, "error", run.Error)
	}
	a.log.Info("run ended", line...)
}

// ledgerError tells Temporal which errors of the ledger no retry can mend.
func ledgerError(err error) error {
	if isLedgerPermanent(err) {
		return temporal.NewNonRetryableApplicationError(oneLine(err.Error()), errorLedger, nil)
	}
	return temporal.NewApplicationError(oneLine(err.Error()), errorLedger)
}

func isLedgerPermanent(err error) bool {
	return errors.Is(err, definition.ErrNotFound) || errors.Is(err, definition.ErrOtherWorkflow) ||
		errors.Is(err, definition.ErrNotStorable)
}

// errorLedger is the type of the errors with which the ledger's activities fail.
const errorLedger = "Ledger"
