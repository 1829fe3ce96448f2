package execution

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
)

// This file carries out the runs that a version of the worker began which did tasks one after another. Their histories must replay:
// nothing in here may change, and it goes when no such run can be open any more.

// inSequence does the tasks, and says how the run ended.
func (w *workflows) inSequence(ctx workflow.Context, b begun) ending {
	late := false
	if mayOutlast(b) {
		var cancel workflow.CancelFunc
		ctx, cancel = workflow.WithCancel(ctx)
		workflow.Go(ctx, func(ctx workflow.Context) {
			if workflow.Sleep(ctx, b.Timeout) == nil {
				late = true
				cancel()
			}
		})
	}
	began := workflow.Now(ctx)
	for i, s := range b.Tasks {
		// An outage of the ledger between two tasks may have used up the time.
		late = late || workflow.Now(ctx).Sub(began) >= b.Timeout
		if late || ctx.Err() != nil {
			return stopped(b, late)
		}
		if err := w.doNext(ctx, b.RunID, i, s); err != nil {
			end, task := stopped(b, late), &taskEnd{Index: i, Name: s.Name, Type: s.Type, Attempts: attemptsMade(s, err)}
			if late || ctx.Err() != nil {
				task.Status, task.Error = definition.TaskCanceled, "stopped with the run: "+end.Error
			} else {
				end.Status = definition.RunFailed
				end.Reason, task.Status, task.Error = failureOf(s, err)
				end.Error = oneLine(fmt.Sprintf("task %q: %s", s.Name, task.Error))
			}
			end.Task = task
			return end
		}
	}
	return ending{RunID: b.RunID, Status: definition.RunSucceeded}
}

// mayOutlast reports whether the tasks, each within its own timeout, may together take longer than the run may. Only
// then does the run's timeout need a timer.
func mayOutlast(b begun) bool {
	var sum time.Duration
	for _, s := range b.Tasks {
		sum += s.Limit
	}
	return sum > b.Timeout
}

// doNext carries out one task. An error is final: the retries are over.
func (w *workflows) doNext(ctx workflow.Context, runID string, index int, s step) error {
	switch s.Type {
	case definition.TaskLog, definition.TaskHTTP, definition.TaskPublish:
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			TaskQueue:              w.taskQueue,
			ScheduleToCloseTimeout: s.Limit,
			HeartbeatTimeout:       heartbeatTimeout,
			RetryPolicy:            retryPolicy(s.Retry),
			Summary:                s.Name,
		})
		return workflow.ExecuteActivity(ctx, activityRunTask, taskInput{RunID: runID, Index: index}).Get(ctx, nil)
	case definition.TaskActivity, definition.TaskWorkflow:
		return userTaskInSequence(ctx, runID, index, s)
	}
	return temporal.NewNonRetryableApplicationError(
		fmt.Sprintf("%q is not a task type that this version of the worker knows", s.Type),
		string(definition.ReasonUnknownTaskType), nil)
}

// userTaskInSequence calls a Temporal activity or workflow of the user's own and records its result. The task's timeout is the
// activity's schedule-to-close timeout, or the workflow's execution timeout; the retries are Temporal's.
//
// A workflow is a child of the run, with the id "<the run's workflow id>:<task name>", so that it cannot be started
// twice. It is asked to cancel when the run ends before it, for whatever reason.
func userTaskInSequence(ctx workflow.Context, runID string, index int, s step) error {
	var p prepared
	if err := ledgerStep(ctx, activityPrepareTask, taskInput{RunID: runID, Index: index}, &p); err != nil {
		return err
	}
	switch p.Done {
	case "":
	case definition.TaskSucceeded:
		return nil
	default:
		return temporal.NewNonRetryableApplicationError(p.Error, errorTask, nil)
	}
	args := make([]any, len(p.Args))
	for i, arg := range p.Args {
		args[i] = rawArgument(arg)
	}
	var result converter.RawValue
	if err := call(ctx, s, p, s.Name, args).Get(ctx, &result); err != nil {
		return err
	}
	record := recordOf(taskInput{RunID: runID, Index: index}, s, result)
	// The work is done; a cancellation that comes now must not make it look otherwise.
	ledger, _ := workflow.NewDisconnectedContext(ctx)
	return ledgerStep(ledger, activityRecordTask, record, nil)
}
