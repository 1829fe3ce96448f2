package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
)

// publishTimeout bounds one attempt to publish.
const publishTimeout = 10 * time.Second

// Publisher is what publish tasks need of JetStream; a jetstream.JetStream is one.
type Publisher interface {
	// PublishMsg stores a message in the stream that takes its subject, and waits until it is stored. Where no stream
	// answers the error is jetstream.ErrNoStreamResponse.
	PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error)
	// StreamNameBySubject finds the stream that takes a subject, or fails with jetstream.ErrStreamNotFound.
	StreamNameBySubject(ctx context.Context, subject string) (string, error)
}

// publisher publishes the messages of publish tasks.
type publisher struct {
	js Publisher
}

// run publishes one message. The header Nats-Msg-Id is the same for every attempt, so that within the stream's window for
// duplicates the message is stored once. The output says where: the stream and the sequence.
func (p *publisher) run(ctx context.Context, work *definition.TaskWork) ([]byte, error) {
	var with definition.PublishTask
	if err := work.Task.Decode(&with); err != nil {
		return nil, undecodable(err)
	}
	msg := nats.NewMsg(with.Subject)
	msg.Data = with.Payload
	if with.Payload == nil {
		data, err := contextJSON(&work.Run)
		if err != nil {
			return nil, err
		}
		msg.Data = data
	}
	for name, value := range with.Headers {
		msg.Header.Set(name, value)
	}
	msg.Header.Set(jetstream.MsgIDHeader, idempotencyKey(work))

	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	ack, err := p.js.PublishMsg(ctx, msg)
	if err != nil {
		return nil, p.failure(ctx, with.Subject, len(msg.Data), err)
	}
	return json.Marshal(struct {
		Stream    string `json:"stream"`
		Sequence  uint64 `json:"sequence"`
		Duplicate bool   `json:"duplicate,omitempty"`
	}{ack.Stream, ack.Sequence, ack.Duplicate})
}

// failure puts an error of NATS into words, and says whether another attempt may help.
func (p *publisher) failure(ctx context.Context, subject string, size int, err error) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return permanently("publish on %s: the message has %d bytes, more than the NATS server takes", subject, size)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		// Nobody answered: either no stream takes the subject, or JetStream is starting or electing a leader.
		if _, err := p.js.StreamNameBySubject(ctx, subject); errors.Is(err, jetstream.ErrStreamNotFound) {
			return permanently("publish on %s: no JetStream stream takes this subject; create one, or use another subject",
				subject)
		}
		return fmt.Errorf("publish on %s: JetStream gave no answer", subject)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("publish on %s: no answer from NATS within %s; it is away, or does not allow this worker to publish "+
			"there", subject, publishTimeout)
	}
	return fmt.Errorf("publish on %s: %w", subject, err)
}
