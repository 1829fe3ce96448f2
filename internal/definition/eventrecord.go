package definition

import (
	"bytes"
	"time"
)

// EventRecord is what is kept of a routed event, to know it again.
type EventRecord struct {
	// ID is the event's id; an event with the same id and another Type, Source or Digest is another event.
	ID, Type, Source string
	// Digest is a hash of the payload's canonical form.
	Digest []byte
	// Stream, StreamSeq and PublishedAt name the message that brought it first.
	Stream      string
	StreamSeq   uint64
	PublishedAt time.Time
	// Matches is how many definitions it met when it was routed first; 0 for one that is recorded although it met none.
	Matches int
}

// EventHistory is what became of an event.
type EventHistory struct {
	ID string
	// Record is nil when the event was not recorded: it met nothing, it never came, or all that is known is a dead letter.
	Record *EventRecord
	// Runs are its newest runs, at most MaxEventRuns; RunsTotal is how many there are.
	Runs      []Run
	RunsTotal int
	// DeadLetters are its dead letters, newest first, at most MaxEventRuns.
	DeadLetters []StoredDeadLetter
	// UnmatchedSince is since when events that match nothing are recorded; nil when they are not.
	UnmatchedSince *time.Time
}

// MaxEventRuns is how many runs an EventHistory holds at most.
const MaxEventRuns = 500

// Same reports whether two events with the same id are the same event.
func (r *EventRecord) Same(other *EventRecord) bool {
	return r.Type == other.Type && r.Source == other.Source && bytes.Equal(r.Digest, other.Digest)
}
