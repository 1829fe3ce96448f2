package execution

import (
	"context"
	"encoding/json"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
)

// errorTask is the type of the errors with which our own activities fail a task.
const errorTask = "TaskFailed"

// prepared is PrepareTask's answer: what to call. Done and Error tell of a task that ended before.
type prepared struct {
	Done      definition.TaskStatus `json:"done,omitempty"`
	Error     string                `json:"error,omitempty"`
	Target    string                `json:"target,omitempty"`
	TaskQueue string                `json:"task_queue,omitempty"`
	Args      []json.RawMessage     `json:"args,omitempty"`
}

// recordInput is RecordTask's argument: the result of a user's Temporal activity or workflow.
type recordInput struct {
	RunID string  `json:"run_id"`
	Task  taskEnd `json:"task"`
	// Foreign describes a result that is not JSON, such as bytes or an encrypted value; the ledger keeps this note instead.
	Foreign *foreignOutput `json:"foreign,omitempty"`
}

type foreignOutput struct {
	Encoding string `json:"encoding"` // as Temporal's payload names it
	Bytes    int    `json:"bytes"`
}

// doUserTask calls a Temporal activity or workflow of the user's own and records its result. The task's timeout is the
// activity's schedule-to-close timeout, or the workflow's execution timeout; the retries are Temporal's.
//
// A workflow is a child of the run, with the id "<the run's workflow id>:<task name>", so that it cannot be started
// twice. It is asked to cancel when the run ends before it, for whatever reason.
func doUserTask(ctx workflow.Context, runID string, index int, s step) error {
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
	if err := call(ctx, s, p, args).Get(ctx, &result); err != nil {
		return err
	}
	record := recordInput{RunID: runID, Task: taskEnd{
		Index: index, Name: s.Name, Type: s.Type, Status: definition.TaskSucceeded, Attempts: 1,
	}}
	if p := result.Payload(); isJSON(p) {
		record.Task.Output, record.Task.OutputTruncated = bounded(p.Data)
	} else if encoding := encodingOf(p); p != nil && encoding != converter.MetadataEncodingNil {
		record.Foreign = &foreignOutput{Encoding: encoding, Bytes: len(p.Data)}
	}
	// The work is done; a cancellation that comes now must not make it look otherwise.
	ledger, _ := workflow.NewDisconnectedContext(ctx)
	return ledgerStep(ledger, activityRecordTask, record, nil)
}

// call starts the user's code.
func call(ctx workflow.Context, s step, p prepared, args []any) workflow.Future {
	if s.Type == definition.TaskActivity {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			TaskQueue:              p.TaskQueue,
			ScheduleToCloseTimeout: s.Limit,
			RetryPolicy:            retryPolicy(s.Retry),
			Summary:                s.Name,
		})
		return workflow.ExecuteActivity(ctx, p.Target, args...)
	}
	options := workflow.ChildWorkflowOptions{
		WorkflowID:               workflow.GetInfo(ctx).WorkflowExecution.ID + ":" + s.Name,
		TaskQueue:                p.TaskQueue,
		WorkflowExecutionTimeout: s.Limit,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		ParentClosePolicy:        enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
	}
	if s.Retry.MaxAttempts > 1 {
		options.RetryPolicy = retryPolicy(s.Retry)
	}
	return workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, options), p.Target, args...)
}

func (a *activities) prepareTask(ctx context.Context, in taskInput) (prepared, error) {
	work, err := a.store.BeginTask(ctx, in.RunID, in.Index, 1)
	if err != nil {
		return prepared{}, ledgerError(err)
	}
	if work.Done != nil {
		return prepared{Done: work.Done.Status, Error: work.Done.Error}, nil
	}
	var p prepared
	switch work.Task.Type {
	case definition.TaskActivity:
		var with definition.ActivityTask
		err = work.Task.Decode(&with)
		p = prepared{Target: with.Activity, TaskQueue: with.TaskQueue, Args: with.Args}
	default:
		var with definition.WorkflowTask
		err = work.Task.Decode(&with)
		p = prepared{Target: with.Workflow, TaskQueue: with.TaskQueue, Args: with.Args}
	}
	if err != nil {
		return prepared{}, temporal.NewNonRetryableApplicationError(undecodable(err).Error(), errorTask, nil)
	}
	if p.Args == nil {
		arg, err := json.Marshal(work.Run.Context())
		if err != nil {
			return prepared{}, temporal.NewNonRetryableApplicationError(
				oneLine(fmt.Sprintf("the run's input cannot be written as JSON: %s", err)), errorTask, nil)
		}
		p.Args = []json.RawMessage{arg}
	}
	for i, arg := range p.Args {
		if len(arg) > definition.MaxArg {
			return prepared{}, temporal.NewNonRetryableApplicationError(
				fmt.Sprintf("argument %d has %d bytes, but at most %d may be sent to a task queue of your own: pass a reference "+
					"to the data instead", i+1, len(arg), definition.MaxArg), string(definition.ReasonInputTooLarge), nil)
		}
	}
	return p, nil
}

func (a *activities) recordTask(ctx context.Context, in recordInput) error {
	result := in.Task.result(in.RunID)
	if in.Foreign != nil {
		note, err := json.Marshal(in.Foreign)
		if err != nil {
			return fmt.Errorf("describe a result of encoding %q: %w", in.Foreign.Encoding, err)
		}
		result.Output = note
	}
	if err := a.store.FinishTask(ctx, result); err != nil {
		return ledgerError(err)
	}
	return nil
}

// rawArgument passes JSON on as it is.
func rawArgument(data json.RawMessage) converter.RawValue {
	return converter.NewRawValue(&commonpb.Payload{
		Metadata: map[string][]byte{converter.MetadataEncoding: []byte(converter.MetadataEncodingJSON)},
		Data:     data,
	})
}

func isJSON(p *commonpb.Payload) bool {
	encoding := encodingOf(p)
	return (encoding == converter.MetadataEncodingJSON || encoding == converter.MetadataEncodingProtoJSON) && json.Valid(p.Data)
}

func encodingOf(p *commonpb.Payload) string {
	return string(p.GetMetadata()[converter.MetadataEncoding])
}

// bounded cuts an output to what the ledger keeps.
func bounded(output []byte) ([]byte, bool) {
	if len(output) > definition.MaxOutput {
		return output[:definition.MaxOutput], true
	}
	return output, false
}
