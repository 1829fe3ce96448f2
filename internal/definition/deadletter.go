package definition

import "time"

// Bounds of what a dead letter keeps.
const (
	// MaxDeadLetterData is the most bytes of the message.
	MaxDeadLetterData = 64 << 10
	// MaxDeadLetterHeader is the most bytes of its headers, names and values together.
	MaxDeadLetterHeader = 8 << 10
)

// DeadLetter is a message that could not be routed and never will be as it stands.
type DeadLetter struct {
	// Stream, StreamSeq and PublishedAt name the message: a stream that was deleted and made again counts from 1 again.
	Stream      string
	StreamSeq   uint64
	PublishedAt time.Time
	// Subject is the NATS subject it came on.
	Subject string
	// Header holds its headers, as many as MaxDeadLetterHeader allows.
	Header map[string][]string
	// EventID is the event's id, where one could be read and is legal; otherwise empty.
	EventID string
	// Reason is one of the Reject* words; Detail is one sentence for a person.
	Reason, Detail string
	// Data is the message, at most the first MaxDeadLetterData bytes of it.
	Data []byte
	// DataSize is the size of the whole message in bytes.
	DataSize int
	// Deliveries is how often JetStream had delivered it when it was given up: 1 for the first time.
	Deliveries int
}

// DeadLetterStatus is the state of a stored dead letter.
type DeadLetterStatus string

// The states of a dead letter.
const (
	DeadLetterOpen      DeadLetterStatus = "open"      // nobody has done anything about it
	DeadLetterRetrying  DeadLetterStatus = "retrying"  // a router is asked to route it again
	DeadLetterRouted    DeadLetterStatus = "routed"    // it was routed by a retry
	DeadLetterDiscarded DeadLetterStatus = "discarded" // somebody said that it is of no use
)

// DeadLetterStatuses lists every state.
var DeadLetterStatuses = []DeadLetterStatus{DeadLetterOpen, DeadLetterRetrying, DeadLetterRouted, DeadLetterDiscarded}

// StoredDeadLetter is a dead letter as it is kept.
type StoredDeadLetter struct {
	DeadLetter
	ID     string
	Seq    int64 // order of storing
	Status DeadLetterStatus
	// Retries is how often it was routed again without success; Reason and Detail are those of the last try.
	Retries   int
	CreatedAt time.Time
	// SettledAt is when it was routed or discarded.
	SettledAt *time.Time
	// Runs is how many runs a retry that routed it recorded: 0 when it met no definition.
	Runs int
}

// SelectDeadLetters says which dead letters are meant; a zero field leaves the choice open.
type SelectDeadLetters struct {
	ID       string
	Reason   string
	EventID  string
	Status   DeadLetterStatus
	From, To time.Time // of storing: From inclusive, To exclusive
}

// ListDeadLetters selects a page of dead letters, newest first. Data is left out.
type ListDeadLetters struct {
	SelectDeadLetters
	BeforeSeq int64
	Limit     int
}
