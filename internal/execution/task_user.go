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

// prepared is PrepareTask's answer: what to call, what to do it for, or how long to wait. Done, Reason and Error tell of a task that
// ended before, or that is not to be done.
type prepared struct {
	Done      definition.TaskStatus `json:"done,omitempty"`
	Error     string                `json:"error,omitempty"`
	Target    string                `json:"target,omitempty"`
	TaskQueue string                `json:"task_queue,omitempty"`
	Args      []json.RawMessage     `json:"args,omitempty"`

	Reason definition.Reason `json:"reason,omitempty"`
	// ID is the id of a workflow, when it is not the usual one; Detach does not wait for it.
	ID          string `json:"id,omitempty"`
	Detach      bool   `json:"detach,omitempty"`
	ParentClose string `json:"parent_close,omitempty"`
	// Progress has a letter for each item of a for_each task: see progressOf.
	Progress string    `json:"progress,omitempty"`
	Wait     *waitLeft `json:"wait,omitempty"`
}

// failure is the error of a task that ended before, nil when it went well.
func (p *prepared) failure() error {
	return taskDone{Status: p.Done, Reason: p.Reason, Error: p.Error}.failure()
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

// users does a task on a task queue of the user's.
func (f *flow) users(ctx workflow.Context, in taskInput, s step) (definition.TaskStatus, error) {
	if err := f.user.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer f.user.Release(1)
	result, p, reserved, err := f.callUser(ctx, in, s)
	if err != nil {
		return "", err
	}
	if p.Done != "" {
		return p.Done, p.failure()
	}
	defer func() { f.reserved -= reserved }()
	var output converter.RawValue
	if err := result.Get(ctx, &output); err != nil {
		return "", err
	}
	record := recordOf(in, s, output)
	// The work is done; a cancellation that comes now must not make it look otherwise.
	ledger, _ := workflow.NewDisconnectedContext(ctx)
	size := markerSize + 4*len(record.Task.Output)/3 // as base64
	return definition.TaskSucceeded, f.ledgerStep(ledger, activityRecordTask, record, nil, size)
}

// callUser starts the user's code, one call at a time: how long the arguments are is only known when they are here, in a marker,
// from which they are sent on.
func (f *flow) callUser(ctx workflow.Context, in taskInput, s step) (result workflow.Future, p prepared, reserved int, err error) {
	if err := f.calling.Lock(ctx); err != nil {
		return nil, p, 0, err
	}
	defer f.calling.Unlock()
	if err := f.ledgerStep(ctx, activityPrepareTask, in, &p, markerSize); err != nil || p.Done != "" {
		return nil, p, 0, err
	}
	args := make([]any, len(p.Args))
	size := markerSize
	for i, arg := range p.Args {
		args[i] = rawArgument(arg)
		size += len(arg)
	}
	f.wave.bytes += size
	// All that are in progress must fit into the history, however long their results are.
	reserved = size + maxResult
	err = workflow.Await(ctx, func() bool {
		return f.reserved == 0 || workflow.GetInfo(ctx).GetCurrentHistorySize()+f.reserved+reserved <= maxHistory
	})
	if err != nil {
		return nil, p, 0, err
	}
	f.reserved += reserved
	f.wave.add(ctx, size)
	return call(ctx, s, p, itemID(s, in), args), p, reserved, nil
}

// call starts the user's code. The task's timeout is the activity's schedule-to-close timeout, or the workflow's execution timeout;
// the retries are Temporal's.
//
// A workflow is a child of the run, with the id "<the run's workflow id>:<task name>" unless the task gives one, so that it cannot be
// started twice. It is asked to cancel when the run ends before it, for whatever reason, unless the task says otherwise. One that is
// not waited for is done when it is started.
func call(ctx workflow.Context, s step, p prepared, name string, args []any) workflow.Future {
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
		WorkflowID:               p.ID,
		TaskQueue:                p.TaskQueue,
		WorkflowExecutionTimeout: s.Limit,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		ParentClosePolicy:        enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
	}
	if p.ID == "" {
		options.WorkflowID = workflow.GetInfo(ctx).WorkflowExecution.ID + ":" + name
	}
	switch {
	case p.ParentClose == definition.ParentCloseTerminate:
		options.ParentClosePolicy = enumspb.PARENT_CLOSE_POLICY_TERMINATE
	case p.ParentClose == definition.ParentCloseAbandon, p.Detach:
		options.ParentClosePolicy = enumspb.PARENT_CLOSE_POLICY_ABANDON
	}
	if s.Retry.MaxAttempts > 1 {
		options.RetryPolicy = retryPolicy(s.Retry)
	}
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, options), p.Target, args...)
	if p.Detach {
		return started{child}
	}
	return child
}

// started is the future of a workflow's start. It has no result.
type started struct{ workflow.ChildWorkflowFuture }

// Get waits for the start.
func (s started) Get(ctx workflow.Context, _ any) error {
	return s.GetChildWorkflowExecution().Get(ctx, nil)
}

// recordOf is what the ledger is told of the result of the user's code.
func recordOf(in taskInput, s step, result converter.RawValue) recordInput {
	record := recordInput{RunID: in.RunID, Task: taskEnd{
		Index: in.Index, Item: in.Item, Name: s.Name, Type: s.Type, Status: definition.TaskSucceeded, Attempts: 1,
	}}
	if p := result.Payload(); isJSON(p) {
		record.Task.Output, record.Task.OutputTruncated = bounded(p.Data)
	} else if encoding := encodingOf(p); p != nil && encoding != converter.MetadataEncodingNil {
		record.Foreign = &foreignOutput{Encoding: encoding, Bytes: len(p.Data)}
	}
	return record
}

// prepareTask finds out what a task is to be done with, for the tasks whose work begins in the workflow: those of the user's own
// workers, waits, and the lists of for_each.
func (a *activities) prepareTask(ctx context.Context, in taskInput) (prepared, error) {
	p, err := a.prepare(ctx, in)
	if err != nil {
		return prepared{}, taskFault(err)
	}
	return p, nil
}

func (a *activities) prepare(ctx context.Context, in taskInput) (prepared, error) {
	rev, p, err := a.revisions.plan(ctx, in)
	if err != nil {
		return prepared{}, err
	}
	isList := p.list != nil && in.Item == 0
	begin := definition.TaskBegin{RunID: in.RunID, Index: in.Index, Item: in.Item - 1, Name: p.task.Name, Type: p.task.Type, Attempt: 1}
	switch {
	case in.Item > 0:
		begin.Reads = p.withReads()
		if begin.Value, err = a.revisions.item(ctx, in, rev, p); err != nil {
			return prepared{}, err
		}
	case isList:
		begin.Reads = union(p.listReads(), p.conditionReads())
	default:
		begin.Reads = union(p.withReads(), p.conditionReads())
	}
	work, err := a.store.BeginTask(ctx, begin)
	if err != nil {
		return prepared{}, err
	}
	if done := work.Done; done != nil {
		return prepared{Done: done.Status, Reason: reasonBefore(step{Type: p.task.Type, Was: done.Status}), Error: done.Error}, nil
	}
	if work.Values, err = valuesOf(&rev.doc, &work, in.Outcome); err != nil {
		return prepared{}, err
	}
	if work.Values.Item = begin.Value; in.Item == 0 {
		if ok, err := p.mayRun(ctx, work.Values); err != nil {
			return prepared{}, err
		} else if !ok {
			return prepared{Done: definition.TaskSkipped}, a.store.FinishTask(ctx, definition.TaskResult{
				RunID: in.RunID, Index: in.Index, Name: p.task.Name, Type: p.task.Type, Status: definition.TaskSkipped,
			})
		}
	}
	if isList {
		return a.prepareItems(ctx, in, &work, rev, p)
	}
	shown, err := p.fill(ctx, &work, nil)
	if err != nil {
		return prepared{}, err
	}
	if p.task.Type == definition.TaskWait {
		return a.prepareWait(ctx, in, &work, shown)
	}
	ready, err := prepareCall(&work)
	if err != nil || in.Item > 0 {
		return ready, err
	}
	return ready, a.store.FinishTask(ctx, definition.TaskResult{RunID: in.RunID, Index: in.Index, Name: p.task.Name,
		Type: p.task.Type, Status: definition.TaskRunning, Input: shown})
}

// prepareCall reads from the task's fields what to call, and checks what is sent.
func prepareCall(work *definition.TaskWork) (prepared, error) {
	var p prepared
	if work.Task.Type == definition.TaskActivity {
		var with definition.ActivityTask
		if err := work.Task.Decode(&with); err != nil {
			return p, undecodable(err)
		}
		p = prepared{Target: with.Activity, TaskQueue: with.TaskQueue, Args: with.Args}
	} else {
		var with definition.WorkflowTask
		if err := work.Task.Decode(&with); err != nil {
			return p, undecodable(err)
		}
		p = prepared{Target: with.Workflow, TaskQueue: with.TaskQueue, Args: with.Args, ID: with.ID, ParentClose: with.ParentClose,
			Detach: with.Wait != nil && !*with.Wait}
	}
	if p.Target == "" || p.TaskQueue == "" || max(len(p.Target), len(p.TaskQueue), len(p.ID)) > maxTarget {
		return p, permanently("the task's %s, task_queue or id is empty or longer than %d characters", work.Task.Type, maxTarget)
	}
	if p.Args == nil {
		arg, err := contextJSON(&work.Run)
		if err != nil {
			return p, err
		}
		p.Args = []json.RawMessage{arg}
	}
	size := 0
	for _, arg := range p.Args {
		size += len(arg)
	}
	if size > definition.MaxArg {
		return p, withKind(string(definition.ReasonInputTooLarge), permanently(
			"the arguments have %d bytes together, but at most %d may be sent to a task queue of your own: pass a reference to the "+
				"data instead", size, definition.MaxArg))
	}
	return p, nil
}

// maxTarget is the most characters of the names and ids that Temporal is given.
const maxTarget = 200

// taskFault is an error of the ledger's, or one of the task's that no retry can mend.
func taskFault(err error) error {
	if !isPermanent(err) {
		return ledgerError(err)
	}
	kind := kindOf(err)
	if kind == "" {
		kind = errorTask
	}
	return temporal.NewNonRetryableApplicationError(oneLine(err.Error()), kind, nil)
}

// recordTask writes a task's end: the result of the user's code, or what the workflow alone knows of.
func (a *activities) recordTask(ctx context.Context, in recordInput) (taskDone, error) {
	if in.Foreign != nil {
		note, err := json.Marshal(in.Foreign)
		if err != nil {
			return taskDone{}, fmt.Errorf("describe a result of encoding %q: %w", in.Foreign.Encoding, err)
		}
		in.Task.Output = note
	}
	done, err := a.finishTask(ctx, in.RunID, &in.Task)
	if err != nil {
		return taskDone{}, ledgerError(err)
	}
	return done, nil
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
