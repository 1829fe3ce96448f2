package execution

import (
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
)

// Types of the errors that a run's workflow ends with.
const (
	// ErrorRunFailed: the run has failed; the message is the ledger's error.
	ErrorRunFailed = "RunFailed"
	// ErrorRunTimedOut: the run used up its timeout.
	ErrorRunTimedOut = "RunTimedOut"
	// ErrorBadInput: the workflow was started in a way that names no occurrence, so there is no row in the ledger.
	ErrorBadInput = "BadInput"
)

// Pauses between two questions of a queued run whether it may run. The signal makes them needless; they are for a lost one.
const (
	firstQueuePause = time.Minute
	maxQueuePause   = time.Hour
)

// heartbeatTimeout is how soon Temporal takes a task for lost whose worker died, and gives it to another.
const heartbeatTimeout = 10 * time.Second

var attributeSlot = temporal.NewSearchAttributeKeyTime("TemporalScheduledStartTime")

// Result is the result of a run's workflow.
type Result struct {
	RunID  string               `json:"run_id"`
	Status definition.RunStatus `json:"status"`
	Reason definition.Reason    `json:"reason,omitempty"`
}

// workflows holds what the workflow is configured with. Nothing of it decides about the order of commands.
type workflows struct {
	taskQueue string // of the task worker
}

// runInput is the workflow's argument. Outcome is set for an execution that continues one that had come to the on_failure tasks.
type runInput struct {
	definition.RunInput
	Outcome *outcome `json:"outcome,omitempty"`
}

// run carries out one occurrence: it begins the run in the ledger, waits while the run is queued, does the tasks as their needs
// allow until all are settled or one fails for good, does the on_failure tasks then, and ends the run in the ledger.
//
// A long run continues as a new execution before its history is too long. What was done is in the ledger: the new execution is told
// when it begins the run again, and so is one that was reset.
//
// The workflow ends the way the run did, so that Temporal's own lists and metrics tell the same story: completed when
// the run succeeded, and when it was decided not to run it (skipped, missed); failed with an error of type RunFailed or
// RunTimedOut when the run failed or timed out; canceled when the run was canceled. A workflow that found its run ended
// already, after a reset for example, completes.
func (w *workflows) run(ctx workflow.Context, in runInput) (Result, error) {
	// What the ledger was told has to be finished in the ledger, whatever happens to the workflow meanwhile.
	ledger, _ := workflow.NewDisconnectedContext(ctx)

	begin, err := beginOf(ctx, in.RunInput)
	if err != nil {
		return Result{}, err
	}
	var b begun
	if err := ledgerStep(ledger, activityBeginRun, begin, &b); err != nil {
		return Result{}, err
	}
	begin.Again = true
	for pause := firstQueuePause; b.Status == definition.RunQueued && ctx.Err() == nil; pause = min(2*pause, maxQueuePause) {
		workflow.GetSignalChannel(ctx, definition.SignalAdmitted).ReceiveWithTimeout(ctx, pause, nil)
		if ctx.Err() != nil {
			break
		}
		if err := ledgerStep(ledger, activityBeginRun, begin, &b); err != nil {
			return Result{}, err
		}
	}
	if b.Status.Final() {
		wake(ledger, b.Wake)
		return Result{RunID: b.RunID, Status: b.Status, Reason: b.Reason}, nil
	}

	end := stopped(b, false)
	switch {
	case ctx.Err() != nil:
	case b.Graph:
		var goesOn *outcome
		if end, goesOn = w.carryOut(ctx, b, in.DefinitionID, in.Outcome); goesOn != nil {
			next := runInput{RunInput: definition.RunInput{RunID: b.RunID, DefinitionID: in.DefinitionID}}
			if goesOn.Status != "" {
				next.Outcome = goesOn
			}
			return Result{}, workflow.NewContinueAsNewError(ctx, definition.RunWorkflow, next)
		}
	default:
		end = w.inSequence(ctx, b)
	}
	var f finished
	if err := ledgerStep(ledger, activityFinishRun, end, &f); err != nil {
		return Result{}, err
	}
	wake(ledger, f.Wake)

	result := Result{RunID: b.RunID, Status: f.Status, Reason: f.Reason}
	switch {
	case f.Status != end.Status:
		// Somebody else ended the run first, and that outcome stands.
		return result, nil
	case end.Status == definition.RunFailed:
		return result, temporal.NewNonRetryableApplicationError(end.Error, ErrorRunFailed, nil)
	case end.Status == definition.RunTimedOut:
		return result, temporal.NewNonRetryableApplicationError(end.Error, ErrorRunTimedOut, nil)
	case end.Status == definition.RunCanceled:
		return result, temporal.NewCanceledError()
	}
	return result, nil
}

// beginOf finds out which occurrence the workflow was started for.
func beginOf(ctx workflow.Context, in definition.RunInput) (beginInput, error) {
	info := workflow.GetInfo(ctx)
	begin := beginInput{
		RunID: in.RunID, DefinitionID: in.DefinitionID, WorkflowID: info.WorkflowExecution.ID, FirstRunID: info.FirstRunID,
	}
	if in.DefinitionID == "" {
		return begin, temporal.NewNonRetryableApplicationError(
			"the input names no definition_id: runs are started by activity-core, or by its schedules", ErrorBadInput, nil)
	}
	if in.RunID != "" {
		return begin, nil
	}
	slot, ok := workflow.GetTypedSearchAttributes(ctx).GetTime(attributeSlot)
	if !ok {
		return begin, temporal.NewNonRetryableApplicationError(
			"the input names no run_id, and there is no search attribute TemporalScheduledStartTime to say which slot is meant: "+
				"to run a definition by hand, use POST /activity-definitions/{id}/trigger", ErrorBadInput, nil)
	}
	begin.Slot = slot.UTC()
	return begin, nil
}

// stopped is how a run ends that did not come to the end of its tasks: for its timeout, or else because it was canceled.
func stopped(b begun, late bool) ending {
	if late {
		return ending{RunID: b.RunID, Status: definition.RunTimedOut, Reason: definition.ReasonRunTimeout,
			Error: fmt.Sprintf("the run used up its timeout of %s", b.Timeout)}
	}
	return ending{RunID: b.RunID, Status: definition.RunCanceled, Reason: definition.ReasonCancelRequested,
		Error: "the run's workflow was canceled"}
}

func retryPolicy(r definition.Retry) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{
		InitialInterval:        time.Duration(r.InitialInterval),
		BackoffCoefficient:     r.Backoff,
		MaximumInterval:        time.Duration(r.MaxInterval),
		MaximumAttempts:        int32(r.MaxAttempts),
		NonRetryableErrorTypes: r.NonRetryable,
	}
}

// failureOf says what became of a task that failed for good, and why.
func failureOf(s step, err error) (definition.Reason, definition.TaskStatus, string) {
	var timedOut *temporal.TimeoutError
	var app *temporal.ApplicationError
	switch {
	case errors.As(err, &timedOut) && timedOut.TimeoutType() == enumspb.TIMEOUT_TYPE_HEARTBEAT:
		return definition.ReasonTaskFailed, definition.TaskFailed, "the worker that did it was lost, and no attempt was left"
	case errors.As(err, &timedOut):
		return definition.ReasonTaskTimedOut, definition.TaskTimedOut, timeoutText(s, timedOut)
	case errors.As(err, &app):
		switch reason := definition.Reason(app.Type()); reason {
		case definition.ReasonTaskTimedOut:
			return reason, definition.TaskTimedOut, failureText(err)
		case definition.ReasonUnknownTaskType, definition.ReasonInputTooLarge, definition.ReasonExpression, definition.ReasonRejected:
			return reason, definition.TaskFailed, failureText(err)
		}
	}
	return definition.ReasonTaskFailed, definition.TaskFailed, failureText(err)
}

// attemptsMade returns the number of attempts where the error tells it, and 0 where it is not known.
func attemptsMade(s step, err error) int {
	var failed *temporal.ActivityError
	if errors.As(err, &failed) && failed.RetryState() == enumspb.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED {
		return s.Retry.MaxAttempts
	}
	return 0
}

func timeoutText(s step, timedOut *temporal.TimeoutError) string {
	text := fmt.Sprintf("not finished within its timeout of %s", s.Limit)
	if last := errors.Unwrap(timedOut); last != nil {
		return oneLine(text + "; last error: " + failureText(last))
	}
	if s.Type == definition.TaskActivity || s.Type == definition.TaskWorkflow {
		text += "; is a worker running that polls its task queue?"
	}
	return text
}

// failureText finds the words of whoever failed among the wrappings that Temporal puts around them.
func failureText(err error) string {
	var (
		app        *temporal.ApplicationError
		terminated *temporal.TerminatedError
		canceled   *temporal.CanceledError
		exists     *temporal.ChildWorkflowExecutionAlreadyStartedError
	)
	switch {
	case errors.As(err, &app):
		if app.Message() == "" {
			return "failed without a message (" + app.Type() + ")"
		}
		return oneLine(app.Message())
	case errors.As(err, &exists):
		return "its workflow was started before, when this run was carried out for the first time"
	case errors.As(err, &terminated):
		return "its workflow was terminated"
	case errors.As(err, &canceled):
		return "it was canceled by somebody other than this run"
	}
	return oneLine(err.Error())
}

// oneLine makes a text fit the ledger: one line of at most definition.MaxError bytes of valid UTF-8.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "\uFFFD")), " ")
	if len(text) <= definition.MaxError {
		return text
	}
	const more = "…"
	return strings.ToValidUTF8(text[:definition.MaxError-len(more)], "") + more
}

// Options of the calls to the ledger. A local activity costs the history one marker and no workflow task; it is tried
// for 5 s, which is less than the 8 s after which it would cost workflow tasks to keep it going. Then the same function
// runs as an ordinary Temporal activity, whose retries go on for as long as Postgres is away and cost nothing.
var (
	ledgerLocally = workflow.LocalActivityOptions{
		StartToCloseTimeout:    4 * time.Second,
		ScheduleToCloseTimeout: 5 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: 100 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: time.Second,
		},
	}
	ledgerPatiently = workflow.ActivityOptions{
		StartToCloseTimeout: 15 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 5 * time.Second,
		},
	}
)

// ledgerStep calls one of the ledger's activities. Only an error that no retry can mend comes back.
func ledgerStep(ctx workflow.Context, activity string, in, out any) error {
	err := ledgerLocal(ctx, activity, in, out)
	if !worthPatience(ctx, err) {
		return err
	}
	return ledgerPatient(ctx, activity, in, out)
}

func ledgerLocal(ctx workflow.Context, activity string, in, out any) error {
	local := workflow.WithLocalActivityOptions(ctx, ledgerLocally)
	return workflow.ExecuteLocalActivity(local, activity, in).Get(ctx, out)
}

// worthPatience reports whether a call failed that may succeed when it is given more time.
func worthPatience(ctx workflow.Context, err error) bool {
	var app *temporal.ApplicationError
	return err != nil && ctx.Err() == nil && !(errors.As(err, &app) && app.NonRetryable())
}

func ledgerPatient(ctx workflow.Context, activity string, in, out any) error {
	patient := workflow.WithActivityOptions(ctx, ledgerPatiently)
	return workflow.ExecuteActivity(patient, activity, in).Get(ctx, out)
}

// wake tells the workflows of runs that were queued that they may run. One that has closed meanwhile needs no telling.
func wake(ctx workflow.Context, workflowIDs []string) {
	signals := make([]workflow.Future, len(workflowIDs))
	for i, id := range workflowIDs {
		signals[i] = workflow.SignalExternalWorkflow(ctx, id, "", definition.SignalAdmitted, nil)
	}
	for i, sent := range signals {
		if err := sent.Get(ctx, nil); err != nil {
			workflow.GetLogger(ctx).Debug("a queued run was not told that it may run", "workflow_id", workflowIDs[i], "error", err)
		}
	}
}
