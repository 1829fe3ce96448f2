package definition

import "time"

// Bounds of a backfill.
const (
	// MaxBackfillSlots is the most runs of one backfill.
	MaxBackfillSlots = 10_000
	// MaxBackfillConcurrent is the most runs of one backfill at one time.
	MaxBackfillConcurrent = 100
)

// BackfillStatus is the state of a backfill.
type BackfillStatus string

// The states of a backfill.
const (
	BackfillActive    BackfillStatus = "active"    // some of its runs have not ended
	BackfillCompleted BackfillStatus = "completed" // all of its runs have ended
	BackfillCanceled  BackfillStatus = "canceled"  // what had not begun was canceled
)

// BackfillRequest asks for runs of past slots.
type BackfillRequest struct {
	DefinitionID string
	// From and To bound the slots, both inclusive; To is not in the future.
	From, To time.Time
	// OnlyMissing leaves out the slots that ran, or that are about to.
	OnlyMissing bool
	// MaxConcurrent is how many of its runs are started at one time.
	MaxConcurrent int
}

// Backfill is a stored backfill with its progress.
type Backfill struct {
	ID             string // empty in the answer to a dry run
	Seq            int64
	DefinitionID   string
	DefinitionName string
	Revision       int
	From, To       time.Time
	OnlyMissing    bool
	MaxConcurrent  int
	Status         BackfillStatus
	// Total is how many runs it makes.
	Total      int
	CreatedAt  time.Time
	FinishedAt *time.Time
	// Runs counts its runs by status. A run that waits for its turn is accepted.
	Runs map[RunStatus]int
}

// ListBackfills selects a page of a definition's backfills, newest first.
type ListBackfills struct {
	DefinitionID string
	BeforeSeq    int64
	Limit        int
}
