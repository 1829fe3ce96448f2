package eventbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// publishTimeout is how long a message may take to be stored.
	publishTimeout = 10 * time.Second
	// publishPending is how many messages are on their way at once.
	publishPending = 512
)

// Publisher stores messages in the stream of events. It is safe for concurrent use.
type Publisher struct {
	conn   *nats.Conn
	js     jetstream.JetStream
	stream string
}

// NewPublisher makes a Publisher on a connection, which stays the caller's to close. The connection should be unbuffered.
func NewPublisher(conn *nats.Conn, stream string) (*Publisher, error) {
	switch {
	case conn == nil:
		return nil, errors.New("publisher: conn is missing")
	case stream == "":
		return nil, errors.New("publisher: stream is missing")
	}
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(publishPending), jetstream.WithPublishAsyncTimeout(publishTimeout))
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Publisher{conn: conn, js: js, stream: stream}, nil
}

// Publish stores messages, several at a time but in their order, and waits until they are stored. The stream drops one with the
// id of another that it got within its window for duplicates; that one counts as stored. The result has an error for each message
// that may not have been stored, within 10 s or before the context ended, and nil in the places of the others.
func (p *Publisher) Publish(ctx context.Context, messages []definition.Message) []error {
	errs := make([]error, len(messages))
	acks := make([]jetstream.PubAckFuture, len(messages))
	for i := range messages {
		if !p.conn.IsConnected() {
			errs[i] = errors.New("publish events: not connected to NATS")
			continue
		}
		m := &messages[i]
		msg := nats.NewMsg(m.Subject)
		msg.Data = m.Data
		for name, value := range m.Header {
			msg.Header[name] = []string{value} // as they are: Set would write them in other cases
		}
		acks[i], errs[i] = p.js.PublishMsgAsync(msg, jetstream.WithMsgID(m.ID), jetstream.WithExpectStream(p.stream),
			jetstream.WithStallWait(publishTimeout))
		if errs[i] != nil {
			errs[i] = p.failure(m.Subject, errs[i])
		}
	}
	for i, ack := range acks {
		if errs[i] != nil {
			continue
		}
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			errs[i] = p.failure(messages[i].Subject, err)
		case <-ctx.Done():
			errs[i] = ctx.Err()
		}
	}
	return errs
}

func (p *Publisher) failure(subject string, err error) error {
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("publish on %s: no stream takes this subject; a router makes stream %s when it starts", subject, p.stream)
	case errors.Is(err, jetstream.ErrAsyncPublishTimeout), errors.Is(err, jetstream.ErrTooManyStalledMsgs):
		return fmt.Errorf("publish on %s: no answer within %s; NATS is away, or this user lacks the right to publish there, or to subscribe "+
			"to its own inbox", subject, publishTimeout)
	}
	return fmt.Errorf("publish on %s: %w", subject, err)
}
