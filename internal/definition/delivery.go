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

// StreamState is how far the routers are in the event stream, and how near its retention is to taking events that none of
// them was given.
type StreamState struct {
	// Pending is how many messages are still to be delivered, AckPending how many are delivered and not settled.
	Pending, AckPending uint64
	// Delivered is the stream's sequence up to which messages were delivered, AckFloor the one up to which all are settled.
	Delivered, AckFloor uint64
	// First is the sequence of the oldest message that the stream still holds.
	First uint64
	// Dropped is how many messages, those between Delivered and First, retention took before a router was given them. The next
	// delivery passes them, so that it is 0 again. It is always 0 for a stream that takes other subjects too.
	Dropped uint64
	// Risk says how near the oldest message that is still to be delivered is to being taken by a limit of the stream: 0 for
	// far, or when there is none; 1 for now.
	Risk float64
	// Blind: a right is missing, and First, Dropped and Risk are not known, or not by every limit.
	Blind bool
	// Known: the stream's settings could be read. MaxAge is how long it keeps messages then; 0 for ever.
	Known  bool
	MaxAge time.Duration
}
