package eventbus

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
)

// Action is what the server is told about a delivery.
type Action int

// The actions. There is no negative acknowledgement among them: it uses up deliveries and comes back at once, and with a
// delay it keeps its place among the unacknowledged, so that an outage would freeze the consumer.
const (
	// InProgress restarts the server's clock for the delivery.
	InProgress Action = iota
	// Ack ends the message for this consumer.
	Ack
	// Term does too, and tells whoever watches that it was given up.
	Term
)

// Decide is the whole policy of acknowledging: only what is committed is settled. An outcome that is not known here is
// held, because a message that is delivered again costs nothing and one that is lost is lost.
func Decide(outcome definition.Outcome) Action {
	switch outcome {
	case definition.OutcomeUnmatched, definition.OutcomeRouted:
		return Ack
	case definition.OutcomeDead:
		return Term
	default:
		return InProgress
	}
}

// message is the handle of a delivery.
type message struct{ msg jetstream.Msg }

// Settle implements definition.Settler.
func (m message) Settle(outcome definition.Outcome, detail string) error {
	switch Decide(outcome) {
	case Ack:
		return m.msg.Ack()
	case Term:
		return m.msg.TermWithReason(detail)
	default:
		return m.msg.InProgress()
	}
}
