package definition

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
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
	// ForEach is an expression that gives a list: the task is done once for each of its items, at most MaxParallel at a time.
	ForEach     string `json:"for_each,omitempty"`
	MaxParallel int    `json:"max_parallel,omitzero"`
	// With holds the fields of the task's type: a LogTask, HTTPTask, PublishTask, ActivityTask, WorkflowTask or WaitTask. Any text
	// in it may hold expressions, as in "${event.payload.id}".
	With json.RawMessage `json:"with,omitempty"`
	// OnError says what becomes of the run when the task fails for good: OnErrorFail (the default) or OnErrorContinue.
	OnError string `json:"on_error,omitempty"`
	// Timeout bounds the whole task, all attempts and pauses included; 0 means DefaultTaskLimit.
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
	if t.Timeout == 0 {
		return DefaultTaskLimit
	}
	return time.Duration(t.Timeout)
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
	// Body is sent as JSON, and RawBody as it is. Neither: the run's context for methods that have a body, nothing for GET, HEAD
	// and DELETE.
	Body    json.RawMessage `json:"body,omitempty"`
	RawBody *string         `json:"raw_body,omitempty"`
	// ExpectedStatus lists the statuses that are a success, instead of 200–299.
	ExpectedStatus []int `json:"expected_status,omitempty"`
	// Output is what the task's output is made of, with expressions over response (status, headers, body). Absent: an object with
	// the status, the content type and the body.
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
	// ParentClose says what becomes of the workflow when the run ends first: one of the ParentClose… constants. The default is
	// request_cancel, and abandon when the task does not wait.
	ParentClose string `json:"parent_close,omitempty"`
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

// Decode reads the fields of the task's type into one of the *Task structs. It is strict: unknown fields are refused.
func (t *Task) Decode(into any) error {
	with := t.With
	if len(with) == 0 {
		with = json.RawMessage("{}")
	}
	return decodeStrict(with, into)
}

// withs checks the fields of each task type. Adding a type is adding a line here, a struct above, and its execution.
var withs = map[TaskType]func(t *Task, path string, f *faults){
	TaskLog:      checkWith[LogTask],
	TaskHTTP:     checkWith[HTTPTask],
	TaskPublish:  checkWith[PublishTask],
	TaskActivity: checkWith[ActivityTask],
	TaskWorkflow: checkWith[WorkflowTask],
	TaskWait:     checkWith[WaitTask],
}

func checkWith[T interface{ check(path string, f *faults) }](t *Task, path string, f *faults) {
	var with T
	if err := t.Decode(&with); err != nil {
		for _, fe := range decodeFault(err).Fields {
			f.add(joinPath(path, fe.Field), fe.Rule, "%s", fe.Message)
		}
		return
	}
	with.check(path, f)
}

func (w LogTask) check(path string, f *faults) {
	if w.Message == "" {
		f.add(path+".message", "required", "is required")
	}
}

var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}

func (w HTTPTask) check(path string, f *faults) {
	if w.Method != "" && !slices.Contains(httpMethods, w.Method) {
		f.add(path+".method", "one_of", "%q is not a method: it must be one of %s", clip(w.Method, 20),
			strings.Join(httpMethods, ", "))
	}
	u, err := url.Parse(w.URL)
	switch {
	case w.URL == "":
		f.add(path+".url", "required", "is required, as in https://example.com/hook")
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		f.add(path+".url", "url", "must be an absolute http or https URL, as in https://example.com/hook")
	case u.User != nil:
		f.add(path+".url", "url", "must not hold a user name or password: definitions are readable by everybody")
	}
	checkHeaders(path+".headers", w.Headers, f)
}

var subjectPattern = regexp.MustCompile(`^[^\s*>.\x00-\x1f]+(\.[^\s*>.\x00-\x1f]+)*$`)

func (w PublishTask) check(path string, f *faults) {
	switch {
	case w.Subject == "":
		f.add(path+".subject", "required", "is required, as in orders.shipped")
	case len(w.Subject) > 255 || !subjectPattern.MatchString(w.Subject) || strings.HasPrefix(w.Subject, "$"):
		f.add(path+".subject", "subject", "must be a NATS subject of at most 255 characters without wildcards, "+
			"spaces or a leading $, as in orders.shipped")
	}
	checkHeaders(path+".headers", w.Headers, f)
	for name := range w.Headers {
		if strings.HasPrefix(strings.ToLower(name), "nats-") {
			f.add(path+".headers", "header", "%q is reserved by NATS", clip(name, 60))
		}
	}
}

func (w ActivityTask) check(path string, f *faults) {
	checkTarget(path+".activity", w.Activity, f)
	checkTarget(path+".task_queue", w.TaskQueue, f)
}

func (w WorkflowTask) check(path string, f *faults) {
	checkTarget(path+".workflow", w.Workflow, f)
	checkTarget(path+".task_queue", w.TaskQueue, f)
}

func (w WaitTask) check(path string, f *faults) {
	given := 0
	for _, is := range []bool{w.Duration != "", w.Until != "", w.Approval != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		f.add(path, "one_of", "must have exactly one of duration, until, approval")
	}
}

func checkTarget(field, value string, f *faults) {
	if value == "" {
		f.add(field, "required", "is required")
	} else if len(value) > 200 {
		f.add(field, "max_length", "must be at most 200 characters long")
	}
}

var headerPattern = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")

func checkHeaders(path string, headers map[string]string, f *faults) {
	for name, value := range headers {
		if !headerPattern.MatchString(name) || strings.ContainsAny(value, "\r\n\x00") {
			f.add(path, "header", "%q is not a legal header", clip(name, 60))
		}
	}
}

var taskNamePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func checkTasks(tasks []Task, f *faults) {
	if len(tasks) > MaxTasks {
		f.add("tasks", "max_items", "has %d tasks; at most %d are allowed", len(tasks), MaxTasks)
		return
	}
	seen := map[string]int{}
	for i := range tasks {
		t, path := &tasks[i], fmt.Sprintf("tasks[%d]", i)
		if !taskNamePattern.MatchString(t.Name) {
			f.add(path+".name", "name", "must be 1 to 63 characters of a-z, 0-9, _ and -, beginning with a letter or digit")
		} else if first, dup := seen[t.Name]; dup {
			f.add(path+".name", "unique", "%q is already the name of tasks[%d]", t.Name, first)
		}
		seen[t.Name] = i
		checkDuration(f, path+".timeout", t.Timeout, time.Second, MaxTimeout)
		t.Retry.check(path+".retry", f)
		check, known := withs[t.Type]
		if !known {
			f.add(path+".type", "one_of", "%q is not a task type: it must be one of log, http, publish, activity, workflow, wait",
				clip(string(t.Type), 60))
			continue
		}
		if bytes.Contains(t.With, []byte("${")) {
			f.add(path+".with", "expression", "holds \"${\": expressions are not available in this version")
			continue
		}
		check(t, path+".with", f)
	}
}

func (r *Retry) check(path string, f *faults) {
	if r == nil {
		return
	}
	if r.MaxAttempts < 0 || r.MaxAttempts > 100 {
		f.add(path+".max_attempts", "range", "must be from 1 to 100")
	}
	if r.Backoff != 0 && (r.Backoff < 1 || r.Backoff > 10) {
		f.add(path+".backoff", "range", "must be from 1 to 10")
	}
	checkDuration(f, path+".initial_interval", r.InitialInterval, 100*time.Millisecond, 24*time.Hour)
	checkDuration(f, path+".max_interval", r.MaxInterval, 100*time.Millisecond, 24*time.Hour)
	if r.MaxInterval != 0 && r.MaxInterval < r.InitialInterval {
		f.add(path+".max_interval", "range", "must not be less than initial_interval")
	}
}
