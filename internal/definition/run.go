package definition

import (
	"encoding/json"
	"time"

	"github.com/activity-core/activity-core/internal/expression"
)

// RunStatus is the state of a ledger row.
type RunStatus string

// The states of a run. Accepted and queued wait; running works; the others are final.
const (
	// RunAccepted: the occurrence is committed to the ledger; its workflow is about to start.
	RunAccepted RunStatus = "accepted"
	// RunQueued: its workflow is open and waits for a place under the definition's concurrency limit.
	RunQueued RunStatus = "queued"
	// RunRunning: its tasks are being carried out.
	RunRunning RunStatus = "running"
	// RunSucceeded: every task succeeded.
	RunSucceeded RunStatus = "succeeded"
	// RunFailed: a task failed for good, or the run could not be started.
	RunFailed RunStatus = "failed"
	// RunTimedOut: the run's own timeout ended it.
	RunTimedOut RunStatus = "timed_out"
	// RunCanceled: somebody canceled or terminated it.
	RunCanceled RunStatus = "canceled"
	// RunSkipped: it was decided not to run it; the reason says why.
	RunSkipped RunStatus = "skipped"
	// RunMissed: a slot that could not be run in time; the reason says why.
	RunMissed RunStatus = "missed"
)

// RunStatuses lists every state, in the order of a run's life.
var RunStatuses = []RunStatus{RunAccepted, RunQueued, RunRunning, RunSucceeded, RunFailed, RunTimedOut, RunCanceled,
	RunSkipped, RunMissed}

// Final reports whether the state never changes again.
func (s RunStatus) Final() bool {
	switch s {
	case RunAccepted, RunQueued, RunRunning:
		return false
	default:
		return true
	}
}

// Reason says why a run has its outcome. The list is closed: every value is documented in docs/definition.md.
type Reason string

// The reasons. A run that succeeded has none.
const (
	ReasonNone               Reason = ""
	ReasonConcurrencyLimit   Reason = "concurrency_limit"     // skipped: as many runs as the limit allows were running
	ReasonMisfireWindow      Reason = "misfire_window"        // missed: the slot was more than 60 s late
	ReasonCoalesced          Reason = "coalesced"             // skipped: a newer slot stands for this one
	ReasonNotDue             Reason = "not_due"               // skipped: not a slot of the definition in force at that time
	ReasonDefinitionGone     Reason = "definition_deleted"    // skipped: deleted before the run began
	ReasonDefinitionOff      Reason = "definition_disabled"   // skipped: disabled before the run began
	ReasonTaskFailed         Reason = "task_failed"           // failed: a task failed for good
	ReasonTaskTimedOut       Reason = "task_timed_out"        // failed: a task used up its timeout
	ReasonRunTimeout         Reason = "run_timeout"           // timed_out: the definition's timeout passed
	ReasonCancelRequested    Reason = "cancel_requested"      // canceled: its workflow was canceled
	ReasonConditionError     Reason = "condition_error"       // failed: the trigger's condition could not be evaluated for the event
	ReasonBackfillCanceled   Reason = "backfill_canceled"     // canceled: its backfill was canceled before it began
	ReasonTerminated         Reason = "terminated"            // canceled: its workflow was terminated from outside
	ReasonWorkflowEnded      Reason = "workflow_ended"        // failed: its workflow closed without closing the row
	ReasonStartRefused       Reason = "start_refused"         // failed: Temporal refused the start for good
	ReasonStartLost          Reason = "start_lost"            // failed: not started within the namespace's retention
	ReasonUnknownTaskType    Reason = "unknown_task_type"     // failed: the worker does not know a task's type
	ReasonInputTooLarge      Reason = "input_too_large"       // failed: an argument for the user's own worker was too large
	ReasonReplaced           Reason = "replaced"              // canceled or skipped: a newer run took its place
	ReasonConcurrencyKey     Reason = "concurrency_key_error" // failed: the concurrency key could not be evaluated
	ReasonExpression         Reason = "expression_error"      // failed: an expression of a task could not be evaluated
	ReasonRejected           Reason = "approval_rejected"     // failed: somebody rejected what a task asked approval for
	ReasonChainTooDeep       Reason = "chain_too_deep"        // skipped: too many runs followed from one another
	ReasonRevisionUnreadable Reason = "revision_unreadable"   // failed: the stored revision cannot be read by this version
)

// Reasons lists every reason but none.
var Reasons = []Reason{ReasonConcurrencyLimit, ReasonMisfireWindow, ReasonCoalesced, ReasonNotDue, ReasonDefinitionGone, ReasonDefinitionOff,
	ReasonTaskFailed, ReasonTaskTimedOut, ReasonRunTimeout, ReasonCancelRequested, ReasonConditionError, ReasonBackfillCanceled,
	ReasonTerminated, ReasonWorkflowEnded, ReasonStartRefused, ReasonStartLost, ReasonUnknownTaskType, ReasonInputTooLarge, ReasonReplaced,
	ReasonConcurrencyKey, ReasonExpression, ReasonRejected, ReasonChainTooDeep, ReasonRevisionUnreadable}

// TriggerKind says what made an occurrence due.
type TriggerKind string

// The kinds of occurrence.
const (
	KindCron   TriggerKind = "cron"
	KindEvent  TriggerKind = "event"
	KindManual TriggerKind = "manual"
	// KindBackfill: a past slot that was asked for by a backfill.
	KindBackfill TriggerKind = "backfill"
	// KindReplay: an event of the past that was asked for by a replay.
	KindReplay TriggerKind = "replay"
	// KindRerun: a run that was asked for again.
	KindRerun TriggerKind = "rerun"
)

// TriggerKinds lists every kind of occurrence.
var TriggerKinds = []TriggerKind{KindCron, KindEvent, KindManual, KindBackfill, KindReplay, KindRerun}

// ByHand reports whether a person asked for the run: it runs while the definition is disabled, and waits for a place
// instead of being skipped.
func (k TriggerKind) ByHand() bool {
	return k == KindManual || k == KindBackfill || k == KindReplay || k == KindRerun
}

// Occurrence is one due moment of one definition, before it is in the ledger.
type Occurrence struct {
	DefinitionID string
	// Revision of the definition that was due; 0 for the one in force when the row is written.
	Revision int
	Kind     TriggerKind
	Key      string
	// Input is the JSON that the tasks may read: the event, or the body of the trigger request. Nil for none. It is kept as
	// bytes because JSONB refuses some legal JSON (U+0000, 1e400000).
	Input []byte
	// EventID and EventType are set for events only.
	EventID, EventType string
	// TraceID is the event's or the request's trace id, if any.
	TraceID string
	// ConditionError is why the definition's condition could not be evaluated for the event, empty when it was: the row then
	// is closed at once, as failed with ReasonConditionError, and is not started.
	ConditionError string
	// RerunOf is the run that this one makes up for, empty for none.
	RerunOf string
	// ConcurrencyKey is the value of the definition's concurrency key for this occurrence.
	ConcurrencyKey string
	// KeyError is why the concurrency key could not be evaluated, empty when it was: the row then is closed at once, as failed with
	// ReasonConcurrencyKey.
	KeyError string
	// Depth is how many runs led to this one, each by the event of its end; 0 for none. Beyond MaxDepth the row is closed at once, as
	// skipped with ReasonChainTooDeep.
	Depth int
}

// Start is what is needed to start the workflow of an accepted row.
type Start struct {
	RunID          string
	DefinitionID   string
	DefinitionName string
	Key            string
	Kind           TriggerKind
	// Timeout is the run's own timeout; the starter adds a backstop to it. Zero when the run may wait in a queue, which has
	// no bound.
	Timeout time.Duration
	// Attempts counts the earlier tries to start it.
	Attempts int
	// FirstTriedAt is when the first try was made; zero before it.
	FirstTriedAt time.Time
	// AcceptedAt is when the row was committed.
	AcceptedAt time.Time
	// Status is that of the row when it was made: closed at once, or accepted. Empty for a row that was made before.
	Status RunStatus
}

// Run is a ledger row.
type Run struct {
	ID             string
	Seq            int64 // order of acceptance, over all definitions
	DefinitionID   string
	DefinitionName string
	Revision       int
	Kind           TriggerKind
	Key            string
	Status         RunStatus
	Reason         Reason
	Error          string // one bounded sentence for a person, empty when there is none
	Input          []byte
	EventID        string
	EventType      string
	TraceID        string
	SlotAt         *time.Time // the nominal time of a slot
	CatchUp        bool       // a late slot that runs after the earlier ones
	RerunOf        string     // the run that this one makes up for; empty for none
	BackfillID     string     // the backfill that made it; empty for none
	ReplayID       string     // the replay that made it; empty for none
	ConcurrencyKey string     // the value of the definition's concurrency key; empty for none
	Depth          int        // how many runs led to this one by events of their ends
	Stop           Stop       // what somebody asked for, if anything
	AcceptedAt     time.Time
	StartedAt      *time.Time
	FinishedAt     *time.Time
	WorkflowID     string
	WorkflowRunID  string // Temporal's id of the first execution, empty before the run began
	Tasks          []TaskResult
}

// StopHow says how a run is stopped.
type StopHow string

// The ways of stopping a run.
const (
	// StopCancel asks the run to end: its tasks are canceled first.
	StopCancel StopHow = "cancel"
	// StopTerminate ends the run at once, whatever its tasks are doing.
	StopTerminate StopHow = "terminate"
)

// Stop is a request to end a run, which is repeated until the run has ended. The zero value: nobody asked.
type Stop struct {
	How StopHow
	// Reason is the one that the run gets when it has ended by this.
	Reason Reason
	// Note is the asker's own words.
	Note string
}

// TaskStatus is the state of a task within a run.
type TaskStatus string

// The states of a task. A task that was never reached has no row.
const (
	TaskRunning   TaskStatus = "running"
	TaskSucceeded TaskStatus = "succeeded"
	TaskFailed    TaskStatus = "failed"
	TaskTimedOut  TaskStatus = "timed_out"
	TaskCanceled  TaskStatus = "canceled"
	// TaskSkipped: its condition was false.
	TaskSkipped TaskStatus = "skipped"
)

// MaxOutput is the most bytes of a task's output that the ledger keeps. What is longer is cut, and says so.
const MaxOutput = 1 << 20

// MaxError is the most bytes of an error text that the ledger keeps.
const MaxError = 2 << 10

// TaskResult is what became of a task.
type TaskResult struct {
	RunID    string
	Index    int
	Name     string
	Type     TaskType
	Status   TaskStatus
	Error    string
	Attempts int
	// Output is JSON, or the first MaxOutput bytes of it when OutputTruncated is set.
	Output          []byte
	OutputTruncated bool
	StartedAt       time.Time
	FinishedAt      *time.Time
	// Input is what the task was done with, as JSON: its expressions replaced by their values, and secrets by ***; nil when it is
	// not known.
	Input []byte
}

// Begin asks to begin the run of an occurrence. RunID is empty when Temporal's schedule started the workflow: then the
// row is found, or made, by definition and slot.
type Begin struct {
	RunID        string
	DefinitionID string
	// Slot is the nominal time of a run that Temporal's schedule started; zero otherwise.
	Slot       time.Time
	WorkflowID string
	// FirstRunID identifies the workflow across resets and retries: the same one gets the same answer again.
	FirstRunID string
}

// Admission is the ledger's answer to Begin.
type Admission struct {
	Run Run
	// Document is the pinned revision; only meaningful while Run.Status is running or queued.
	Document Document
	// Repeated tells that the answer was given before, so that it is not counted twice.
	Repeated bool
	// Wake lists the workflows of queued runs that were marked running because this one was decided not to run.
	Wake []string
	// Lag is how long after its due moment the run was decided on: for a slot after its nominal time, otherwise after acceptance.
	Lag time.Duration
	// Elapsed is how long ago the run began.
	Elapsed time.Duration
	// Progress tells of the tasks that were begun before.
	Progress []TaskProgress
}

// Finish is the end of a run.
type Finish struct {
	RunID  string
	Status RunStatus
	Reason Reason
	Error  string
}

// Finished is the ledger's answer to Finish.
type Finished struct {
	// Run is the row as it stands now, which is the earlier outcome when Repeated is set.
	Run      Run
	Repeated bool
	// Wake lists the workflows of queued runs that were marked running in the same transaction, to be told by a signal.
	Wake []string
}

// Open is a row whose run is queued or running, as the ledger knows it.
type Open struct {
	RunID      string
	WorkflowID string
	Name       string // of the definition
}

// TaskWork is what a task's Temporal activity needs.
type TaskWork struct {
	Run Run
	// Task is the task; for whoever carries it out, the expressions in With have been replaced by their values.
	Task Task
	// Item is which item of a for_each this is about, -1 for a task without one.
	Item int
	// Results are those of the tasks that its expressions may read, as far as they were reached.
	Results []TaskResult
	// Values are what expressions may read, for those that can be evaluated only when the work is done.
	Values *expression.Values
	// Output is what an http task's output is made of; nil when that is the answer itself.
	Output *expression.Template
	// Done is the stored result of an earlier attempt that already ended, nil otherwise; the work must not be done again.
	Done *TaskResult
}

// RunContext is what a task's target receives about its run when the definition gives no arguments or body of its own.
type RunContext struct {
	RunID        string          `json:"run_id"`
	Definition   string          `json:"definition"`
	DefinitionID string          `json:"definition_id"`
	Revision     int             `json:"revision"`
	Trigger      TriggerKind     `json:"trigger"`
	DueAt        time.Time       `json:"due_at"`
	TraceID      string          `json:"trace_id,omitempty"`
	Input        json.RawMessage `json:"input,omitempty"`
}

// Context returns the run's description for its tasks. DueAt is the slot of a cron run, and the time of acceptance
// otherwise.
func (r *Run) Context() RunContext {
	return RunContext{
		RunID: r.ID, Definition: r.DefinitionName, DefinitionID: r.DefinitionID, Revision: r.Revision,
		Trigger: r.Kind, DueAt: r.DueAt(), TraceID: r.TraceID, Input: r.Input,
	}
}

// RunInput is the argument of a RunActivity workflow. RunID is empty when Temporal's schedule started it; the slot is
// then the workflow's TemporalScheduledStartTime.
type RunInput struct {
	RunID        string `json:"run_id,omitempty"`
	DefinitionID string `json:"definition_id"`
}
