package definition

import "time"

// TaskBegin says which attempt of which task, or of which item of a for_each task, begins.
type TaskBegin struct {
	RunID string
	Index int
	// Item is -1 for a task without for_each, and for such a task as a whole.
	Item int
	// Value is the item itself, as JSON.
	Value []byte
	Name  string
	Type  TaskType
	// Attempt counts from 1.
	Attempt int
	// Reads names the tasks whose results its expressions may read.
	Reads []string
	// Look asks for what it needs, and marks nothing as begun.
	Look bool
}

// TaskProgress is how far a task of a run came that is carried out anew: after a reset of its workflow, after it continued as a
// new one, or when the run makes up for another.
type TaskProgress struct {
	Index  int
	Status TaskStatus
	Error  string
	// Since is how long ago it ended.
	Since time.Duration
}

// ItemResult is what became of an item of a for_each task.
type ItemResult struct {
	RunID    string
	Index    int
	Item     int
	Status   TaskStatus
	Error    string
	Attempts int
	// Value is the item itself, as JSON.
	Value []byte
	// Output is JSON, or the first MaxOutput bytes of it when OutputTruncated is set.
	Output          []byte
	OutputTruncated bool
	StartedAt       time.Time
	FinishedAt      *time.Time
}

// WaitPlan is how long a wait lasts. At most one of Duration and Until is set; neither: it ends by somebody's decision.
type WaitPlan struct {
	Duration time.Duration
	Until    time.Time
	// Limit is the task's timeout.
	Limit time.Duration
	// Input is what the task waits with.
	Input []byte
}

// WaitLeft is what is left of a wait. Left is only meaningful for one that ends by the clock.
type WaitLeft struct{ Left, Limit time.Duration }
