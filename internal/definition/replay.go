package definition

import (
	"errors"
	"time"
)

// MaxReplayDefinitions is the most definitions of one replay.
const MaxReplayDefinitions = 100

// ErrReplayActive means that a definition of a new replay has an active replay already.
var ErrReplayActive = errors.New("a replay of one of these definitions is active")

// ReplayStatus is the state of a replay.
type ReplayStatus string

// The states of a replay.
const (
	ReplayPending   ReplayStatus = "pending"   // no router has begun it
	ReplayCounting  ReplayStatus = "counting"  // a router reads the range, and writes nothing
	ReplayRunning   ReplayStatus = "running"   // a router reads the range again, and makes runs
	ReplayCompleted ReplayStatus = "completed" // the whole range was read
	ReplayCanceled  ReplayStatus = "canceled"  // it was canceled; the runs that it made by then go on
	ReplayFailed    ReplayStatus = "failed"    // it cannot be done; Error says why
)

// ReplayStatuses lists every state.
var ReplayStatuses = []ReplayStatus{ReplayPending, ReplayCounting, ReplayRunning, ReplayCompleted, ReplayCanceled, ReplayFailed}

// Active reports whether a router is at work on it, or will be.
func (s ReplayStatus) Active() bool {
	return s == ReplayPending || s == ReplayCounting || s == ReplayRunning
}

// ReplayRequest asks for events of the past to be routed again, for some definitions only.
type ReplayRequest struct {
	// From (inclusive) and To (exclusive) bound the stream's own time of the events. To is not in the future.
	From, To time.Time
	// EventTypes are exact types or wildcards; empty for all.
	EventTypes []string
	// DefinitionIDs names 1 to MaxReplayDefinitions live definitions with an event trigger, enabled or not.
	DefinitionIDs []string
	// DryRun: count only.
	DryRun bool
}

// ReplayCounts is what a pass over the range found.
type ReplayCounts struct {
	// Read is how many messages of the range were read.
	Read int64
	// Matched counts pairs of an event and a definition that it meets. Each is one of the following.
	Matched int64
	// New is how many have no row in the ledger, Rerun how many have one that stands for no run (missed, skipped, or not
	// judged because of an error): these get a run. Ran is how many have run, or are about to.
	New, Rerun, Ran int64
	// Failed counts pairs for which the definition's condition could not be evaluated.
	Failed int64
}

// Replay is a stored replay with its progress.
type Replay struct {
	ReplayRequest
	ID     string
	Seq    int64
	Status ReplayStatus
	Error  string // for a person; of a failed one
	// Counted is what the first pass found; it grows while the status is counting.
	Counted ReplayCounts
	// Done is what the second pass did; it grows while the status is running, and stays empty in a dry run.
	Done       ReplayCounts
	CreatedAt  time.Time
	FinishedAt *time.Time
	// NextStreamSeq is the first message that the present pass has not read.
	NextStreamSeq uint64
}

// ListReplays selects a page of replays, newest first.
type ListReplays struct {
	BeforeSeq int64
	Limit     int
}

// ClaimedReplay is a replay that one router works on.
type ClaimedReplay struct {
	Replay
	// Lease is the number that goes with every write.
	Lease int64
	// FromStreamSeq (inclusive) and ToStreamSeq (exclusive) are the range in the stream; both are 0 before it was looked up.
	FromStreamSeq, ToStreamSeq uint64
}

// Add adds the counts of a step.
func (c *ReplayCounts) Add(step ReplayCounts) {
	c.Read += step.Read
	c.Matched += step.Matched
	c.New += step.New
	c.Rerun += step.Rerun
	c.Ran += step.Ran
	c.Failed += step.Failed
}
