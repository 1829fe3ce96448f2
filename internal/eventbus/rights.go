package eventbus

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// The subjects of JetStream's interface that a router asks on: each is a right of its own. The names of the stream and,
// with a dot, of the consumer follow.
const (
	subjectStreamInfo   = "$JS.API.STREAM.INFO."
	subjectConsumerInfo = "$JS.API.CONSUMER.INFO."
	subjectNext         = "$JS.API.CONSUMER.MSG.NEXT."
	subjectGet          = "$JS.API.STREAM.MSG.GET."
	// subjectAck has more behind the names.
	subjectAck = "$JS.ACK."
)

// refused reports whether the last thing that the server complained of is that this user may not publish to the subject.
func (b *Bus) refused(subject string) bool { return strings.Contains(b.violation(), `"`+subject+`"`) }

// violation returns the server's last complaint about rights: it comes beside the call that needed the right, which sees
// no more than a timeout.
func (b *Bus) violation() string {
	if err := b.o.Conn.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
		return err.Error()
	}
	return ""
}

// errNoAnswer means that a question to the server was not answered in time.
var errNoAnswer = errors.New("no answer")

// noAnswer is the error of a question on a subject that was not answered in time. It names the right that may be missing.
func (b *Bus) noAnswer(subject string) error {
	inboxes := b.inbox.rights()
	switch {
	case b.refused(subject):
		return fmt.Errorf("%w: this user lacks the right to publish to %s", errNoAnswer, subject)
	case strings.Contains(b.violation(), `Subscription to "`+strings.TrimSuffix(inboxes, ">")):
		return fmt.Errorf("%w: this user lacks the right to subscribe to %s", errNoAnswer, inboxes)
	}
	return fmt.Errorf("%w; this user needs the rights to publish to %s and to subscribe to %s", errNoAnswer, subject, inboxes)
}

// notAcknowledged returns an error when the server refused an acknowledgement since the last call. Whoever acknowledges does
// not wait for an answer and hears nothing of it; without the right, every event would come again for ever.
func (b *Bus) notAcknowledged() error {
	last := b.o.Conn.LastError()
	if last == nil || errors.Is(last, b.told) { // the very same error: it stays the last one after the right was given
		return nil
	}
	b.told = last
	subject := subjectAck + b.o.Stream + "." + b.o.Durable + "."
	if !errors.Is(last, nats.ErrPermissionViolation) || !strings.Contains(last.Error(), `"`+subject) {
		return nil
	}
	return fmt.Errorf("nothing can be acknowledged: this user lacks the right to publish to %s>", subject)
}
