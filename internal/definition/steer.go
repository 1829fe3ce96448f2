package definition

import (
	"errors"
	"time"
)

// ListRuns selects a page of runs, newest first. Zero values do not filter.
type ListRuns struct {
	BeforeSeq int64
	Limit     int

	// DefinitionID and Definition (its name, or the last one that it had) name one definition, deleted or not.
	DefinitionID string
	Definition   string
	// Labels are labels that the definition has, all of them.
	Labels map[string]string
	// Statuses and Kinds are lists of which a run has one.
	Statuses []RunStatus
	Kinds    []TriggerKind
	Reason   Reason
	// Since (inclusive) and Until (exclusive) bound the time of acceptance.
	Since, Until time.Time
	RerunOf      string
	BackfillID   string
	ReplayID     string
	EventID      string
}

// MaxSteered is the most runs that one request cancels, terminates or runs again.
const MaxSteered = 1000

// The refusals of steering.
var (
	// ErrRunFinal means that the run has ended, so that there is nothing to stop.
	ErrRunFinal = errors.New("the run has ended")
	// ErrRunOpen means that the run has not ended, so that it cannot be run again yet.
	ErrRunOpen = errors.New("the run has not ended")
	// ErrRunNotFailed means that the run did not fail, time out or get canceled, so that there is nothing to go on from.
	ErrRunNotFailed = errors.New("the run did not fail")
	// ErrDefinitionGone means that the run's definition was deleted.
	ErrDefinitionGone = errors.New("the definition was deleted")
	// ErrNotWaiting means that the task does not wait for a decision.
	ErrNotWaiting = errors.New("the task does not wait for a decision")
)

// StopRequest asks for the end of runs.
type StopRequest struct {
	How StopHow
	// Note is the asker's own words, which become the run's error; empty for none.
	Note string
}

// Reason is the one that runs get that end by the request.
func (r StopRequest) Reason() Reason {
	if r.How == StopTerminate {
		return ReasonTerminated
	}
	return ReasonCancelRequested
}

// Text is what such a run's error says.
func (r StopRequest) Text() string {
	switch {
	case r.Note != "":
		return r.Note
	case r.How == StopTerminate:
		return "somebody terminated it"
	}
	return "somebody canceled it"
}

// Stopping is a run that is to end, and what its workflow has to be told for that.
type Stopping struct {
	RunID, WorkflowID string
	Definition        string // its name
	How               StopHow
	Note              string
	// Ended: the row is final already, because the run had not begun. Its workflow, if there is one, only has to hear of it.
	Ended bool
}

// Stopped is the ledger's answer to a StopRequest.
type Stopped struct {
	// Runs are the runs that were asked to stop.
	Runs []Stopping
	// Wake lists the workflows of queued runs that may run because others ended at once.
	Wake []string
	// Left is how many more runs the request meant.
	Left int
}

// RerunFrom says where a rerun begins.
type RerunFrom string

// The beginnings of a rerun.
const (
	// RerunStart does every task again, by the revision in force.
	RerunStart RerunFrom = "start"
	// RerunFailed goes on, by the revision of the run: tasks that succeeded or were skipped are not done again.
	RerunFailed RerunFrom = "failed"
)

// RerunFroms lists every beginning.
var RerunFroms = []RerunFrom{RerunStart, RerunFailed}

// Decision is what somebody decided about a task that waits for approval.
type Decision struct {
	RunID, Task string
	Approved    bool
	// Comment and By are the decider's own words; both may be empty.
	Comment, By string
}

// Decided is a decision as it is kept: the output of the task.
type Decided struct {
	Approved bool      `json:"approved"`
	By       string    `json:"by"`
	Comment  string    `json:"comment"`
	At       time.Time `json:"at"`
}

// RunDetail is a run with what is shown of it alone.
type RunDetail struct {
	Run
	// QueuePosition is its place among those that wait for a place, from 1; 0 for a run that is not queued.
	QueuePosition int
	// Tasks are those that were reached, in the order of the definition, with no more than a part of their inputs and outputs.
	Tasks []TaskDetail
}

// MaxShown is the most bytes of an input or output that a run's detail holds.
const MaxShown = 16 << 10

// TaskDetail is what became of a task.
type TaskDetail struct {
	TaskResult
	// InputBytes and OutputBytes are the sizes of what is kept, of which Input and Output may be only the first part.
	InputBytes, OutputBytes int
	// Items is how many items a task with for_each has, and ItemsBegun how many of them were begun; nil for other tasks.
	Items, ItemsBegun *int
	// WaitUntil is when a wait ends; nil for other tasks, and for an approval.
	WaitUntil *time.Time
}

// ItemDetail is what became of an item of a for_each task.
type ItemDetail struct {
	ItemResult
	// ValueBytes and OutputBytes are the sizes of what is kept, of which Value and Output may be only the first part.
	ValueBytes, OutputBytes int
}
