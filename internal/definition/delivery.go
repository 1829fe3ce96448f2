package definition

import "time"

// Delivery is one delivery of one message of the event stream.
type Delivery struct {
	// Subject, Header and Data are the message's. Header names are as the publisher wrote them.
	Subject string
	Header  map[string][]string
	Data    []byte
	// Stream, StreamSeq and PublishedAt (the stream's own time) name the message.
	Stream      string
	StreamSeq   uint64
	PublishedAt time.Time
	// Deliveries is how often the message was delivered so far: 1 for the first time.
	Deliveries int
	// Pending is how many messages were still to be delivered after this one.
	Pending uint64
	// Handle tells the stream what became of the message.
	Handle Settler
}

// Settler tells the stream what became of a delivery. It does not wait for an answer: what is lost on the way leads to
// another delivery, which finds its rows in the ledger.
type Settler interface {
	// Settle may be called again after OutcomeHeld, and not after another outcome. Detail is for people who watch the
	// stream and may be empty.
	Settle(outcome Outcome, detail string) error
}

// Outcome is what became of a delivery.
type Outcome int

// The outcomes. All but OutcomeHeld are final.
const (
	// OutcomeHeld: nothing is decided, and the message is still being worked on.
	OutcomeHeld Outcome = iota
	// OutcomeUnmatched: the event is legal and meets no definition.
	OutcomeUnmatched
	// OutcomeRouted: a ledger row for each match is committed, and the start of each new one was tried.
	OutcomeRouted
	// OutcomeDead: the message is committed as a dead letter.
	OutcomeDead
)
