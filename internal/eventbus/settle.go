package eventbus

import (
	"github.com/nats-io/nats.go"

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

// message is the handle of a delivery. It knows the subject of its acknowledgements.
type message struct {
	conn  *nats.Conn
	reply string
}

// Settle implements definition.Settler.
func (m message) Settle(outcome definition.Outcome, detail string) error {
	return m.conn.Publish(m.reply, acknowledgement(Decide(outcome), detail))
}

// acknowledgement returns an action as the server reads it.
func acknowledgement(a Action, detail string) []byte {
	switch {
	case a == Ack:
		return []byte("+ACK")
	case a == Term && detail != "":
		return []byte("+TERM " + detail)
	case a == Term:
		return []byte("+TERM")
	default:
		return []byte("+WPI")
	}
}
