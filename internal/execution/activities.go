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
)

// Store is what execution needs of the ledger. Errors that wrap ErrNotFound, ErrOtherWorkflow or ErrNotStorable are for
// good; all others may pass.
type Store interface {
	// BeginRun decides what becomes of a run whose workflow has begun; the same workflow gets the same answer again.
	BeginRun(ctx context.Context, b definition.Begin) (definition.Admission, error)
	// FinishRun ends a run; one that has ended already keeps its outcome.
	FinishRun(ctx context.Context, f definition.Finish) (definition.Finished, error)
	// BeginTask notes that an attempt begins, and returns what it needs, or the result of an attempt that ended.
	BeginTask(ctx context.Context, runID string, index, attempt int) (definition.TaskWork, error)
	// FinishTask stores a result, or, with status running, the error of an attempt that is followed by another. A result
	// that is final stays. It never lowers the number of attempts.
	FinishTask(ctx context.Context, t definition.TaskResult) error
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
}

// step is what the workflow needs to know of a task.
type step struct {
	Name  string              `json:"name"`
	Type  definition.TaskType `json:"type"`
	Limit time.Duration       `json:"limit"`
	Retry definition.Retry    `json:"retry"`
}

// taskInput names a task.
type taskInput struct {
	RunID string `json:"run_id"`
	Index int    `json:"index"`
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
}

// finished is FinishRun's answer: the outcome that stands, and the workflows to wake.
type finished struct {
	Status definition.RunStatus `json:"status"`
	Reason definition.Reason    `json:"reason,omitempty"`
	Wake   []string             `json:"wake,omitempty"`
}

// activities are the Temporal activities of the orchestrator's queue: short transactions in the ledger.
type activities struct {
	store   Store
	metrics *metrics
	log     *slog.Logger
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
	b.Timeout = adm.Document.RunTimeout()
	b.Tasks = make([]step, len(adm.Document.Tasks))
	for i := range adm.Document.Tasks {
		t := &adm.Document.Tasks[i]
		b.Tasks[i] = step{Name: t.Name, Type: t.Type, Limit: t.Limit(), Retry: t.Attempts()}
	}
	return b, nil
}

func (a *activities) finishRun(ctx context.Context, end ending) (finished, error) {
	if end.Task != nil {
		if err := a.store.FinishTask(ctx, end.Task.result(end.RunID)); err != nil {
			return finished{}, ledgerError(err)
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

// ended counts a run that has ended, and writes the one line that it has in the log.
func (a *activities) ended(run *definition.Run) {
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
