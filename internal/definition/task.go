package definition

import (
	"encoding/json"
	"time"
)

// TaskType says what a task does.
type TaskType string

// The task types.
const (
	TaskLog      TaskType = "log"      // a line in the worker's log
	TaskHTTP     TaskType = "http"     // an HTTP request
	TaskPublish  TaskType = "publish"  // a message on a NATS subject
	TaskActivity TaskType = "activity" // a Temporal activity of the user's own, on the user's own task queue
	TaskWorkflow TaskType = "workflow" // a Temporal workflow of the user's own, on the user's own task queue
	TaskWait     TaskType = "wait"     // a pause, or somebody's approval
)

// What becomes of a run when a task fails for good.
const (
	OnErrorFail     = "fail"     // the run fails (the default)
	OnErrorContinue = "continue" // the run goes on as if the task were done
)

// Task is one step of a run.
type Task struct {
	// Name is unique within the definition: [a-z0-9][a-z0-9_-]{0,62}.
	Name string   `json:"name"`
	Type TaskType `json:"type"`
	// Needs names the tasks of the same list that must be settled first; none for a task that begins at once.
	Needs []string `json:"needs"`
	// If is an expression; the task is skipped when it is false.
	If string `json:"if,omitempty"`
	// ForEach is an expression that gives a list: the task is done once for each of its items, at most MaxParallel at a
	// time.
	ForEach     string `json:"for_each,omitempty"`
	MaxParallel int    `json:"max_parallel,omitzero"`
	// With holds the fields of the task's type: a LogTask, HTTPTask, PublishTask, ActivityTask, WorkflowTask or WaitTask.
	// Any text in it may hold expressions, as in "${event.payload.id}".
	With json.RawMessage `json:"with,omitempty"`
	// OnError says what becomes of the run when the task fails for good: OnErrorFail (the default) or OnErrorContinue.
	OnError string `json:"on_error,omitempty"`
	// Timeout bounds the whole task, all attempts and pauses included; 0 means DefaultTaskLimit, and DefaultWaitLimit for
	// a wait.
	Timeout Duration `json:"timeout,omitzero"`
	Retry   *Retry   `json:"retry,omitempty"`
}

// Retry says how often a failed task is tried again. The pause before try n+1 is InitialInterval × Backoff^(n-1), at
// most MaxInterval.
type Retry struct {
	MaxAttempts     int      `json:"max_attempts,omitzero"` // default 3; for a workflow task 1
	InitialInterval Duration `json:"initial_interval,omitzero"`
	MaxInterval     Duration `json:"max_interval,omitzero"`
	Backoff         float64  `json:"backoff,omitzero"`
	// NonRetryable lists types of errors that are not tried again: those of Temporal for an activity or a workflow, and
	// http_<status> for an http task.
	NonRetryable []string `json:"non_retryable_errors,omitempty"`
}

// Attempts returns the retry rule in force, with the defaults filled in.
func (t *Task) Attempts() Retry {
	r := Retry{}
	if t.Retry != nil {
		r = *t.Retry
	}
	if r.MaxAttempts == 0 {
		r.MaxAttempts = 3
		if t.Type == TaskWorkflow {
			r.MaxAttempts = 1
		}
	}
	if r.InitialInterval == 0 {
		r.InitialInterval = Duration(time.Second)
	}
	if r.Backoff == 0 {
		r.Backoff = 2
	}
	if r.MaxInterval == 0 {
		r.MaxInterval = max(Duration(time.Minute), r.InitialInterval)
	}
	return r
}

// Limit returns the task's timeout in force.
func (t *Task) Limit() time.Duration {
	switch {
	case t.Timeout != 0:
		return time.Duration(t.Timeout)
	case t.Type == TaskWait:
		return DefaultWaitLimit
	}
	return DefaultTaskLimit
}

// Parallel returns how many items of ForEach are done at one time.
func (t *Task) Parallel() int {
	if t.MaxParallel == 0 {
		return DefaultParallel
	}
	return t.MaxParallel
}

// LogTask writes one line to the worker's log.
type LogTask struct {
	Message string `json:"message"`
}

// HTTPTask makes one request. An answer of 200–299 is a success; 408, 425, 429 and 5xx are tried again; others fail for
// good.
type HTTPTask struct {
	Method  string            `json:"method,omitempty"` // default POST
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
	// Query is added to the query of the URL.
	Query map[string]string `json:"query,omitempty"`
	// Body is sent as JSON, and RawBody as it is. Neither: the run's context for methods that have a body, nothing for
	// GET, HEAD and DELETE.
	Body    json.RawMessage `json:"body,omitempty"`
	RawBody *string         `json:"raw_body,omitempty"`
	// ExpectedStatus lists the statuses that are a success, instead of 200–299.
	ExpectedStatus []int `json:"expected_status,omitempty"`
	// Output is what the task's output is made of, with expressions over response (status, headers, body). Absent: an
	// object with the status, the content type and the body.
	Output json.RawMessage `json:"output,omitempty"`
}

// PublishTask publishes one message to JetStream or, where no stream takes the subject, fails.
type PublishTask struct {
	Subject string            `json:"subject"`
	Headers map[string]string `json:"headers,omitempty"`
	// EventType is the type in the message's CloudEvents headers; absent: the subject.
	EventType string `json:"event_type,omitempty"`
	// Payload is sent as JSON. Absent: the run's context.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// ActivityTask calls a Temporal activity on a task queue of the user's.
type ActivityTask struct {
	Activity  string `json:"activity"`
	TaskQueue string `json:"task_queue"`
	// Args are the arguments. Absent: one argument, the run's context.
	Args []json.RawMessage `json:"args,omitempty"`
}

// WorkflowTask runs a Temporal workflow on a task queue of the user's, as a child of the run.
type WorkflowTask struct {
	Workflow  string            `json:"workflow"`
	TaskQueue string            `json:"task_queue"`
	Args      []json.RawMessage `json:"args,omitempty"`
	// ID is the workflow's id; absent: "<the run's workflow id>:<task name>".
	ID string `json:"id,omitempty"`
	// Wait (the default) waits for the workflow and keeps its result; false: the task has succeeded once it is started.
	Wait *bool `json:"wait,omitempty"`
	// ParentClose says what becomes of the workflow when the run ends first: one of the ParentClose… constants. The
	// default is request_cancel, and abandon when the task does not wait.
	ParentClose string `json:"parent_close,omitempty"`
}

// Waits reports whether the task waits for its workflow.
func (w *WorkflowTask) Waits() bool { return w.Wait == nil || *w.Wait }

// OnParentClose returns the ParentClose in force.
func (w *WorkflowTask) OnParentClose() string {
	switch {
	case w.ParentClose != "":
		return w.ParentClose
	case !w.Waits():
		return ParentCloseAbandon
	}
	return ParentCloseRequestCancel
}

// What becomes of a task's workflow when the run ends first.
const (
	ParentCloseRequestCancel = "request_cancel"
	ParentCloseTerminate     = "terminate"
	ParentCloseAbandon       = "abandon"
)

// WaitTask waits for one of three things, exactly one of which is given.
type WaitTask struct {
	// Duration is a Go duration, as in "90s".
	Duration string `json:"duration,omitempty"`
	// Until is an RFC 3339 time. One that is past ends the wait at once.
	Until string `json:"until,omitempty"`
	// Approval waits until somebody approves or rejects by the API.
	Approval *Approval `json:"approval,omitempty"`
}

// Approval is what a person is asked for.
type Approval struct {
	// Message says what is to be decided.
	Message string `json:"message"`
}

// MaxArg is the most bytes of one argument for a Temporal activity or workflow of the user's.
const MaxArg = 256 << 10

// Decode reads the fields of the task's type into one of the *Task structs. It is strict: unknown fields are refused. The
// values of expressions have to be in With already, except in the output of http.
func (t *Task) Decode(into any) error {
	with := t.With
	if len(with) == 0 {
		with = json.RawMessage("{}")
	}
	return decodeStrict(with, into)
}
