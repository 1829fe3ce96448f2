package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
	// prefix begins the subjects of events, without the dot; "" when none are told apart.
	prefix string
}

// run publishes one message. It is a CloudEvent in binary mode, whose id is also the header Nats-Msg-Id and the same for every
// attempt, so that within the stream's window for duplicates the message is stored once, and as an event is routed once for
// ever. The output says where it is: the stream and the sequence.
func (p *publisher) run(ctx context.Context, work *definition.TaskWork) ([]byte, error) {
	var with definition.PublishTask
	if err := work.Task.Decode(&with); err != nil {
		return nil, undecodable(err)
	}
	msg, err := p.message(work, with)
	if err != nil {
		return nil, err
	}
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

// message writes what is published. What the definition gives in its headers stands, whatever else they would be.
func (p *publisher) message(work *definition.TaskWork, with definition.PublishTask) (*nats.Msg, error) {
	if !legalSubject(with.Subject) {
		return nil, permanently("the task's subject is not one to publish on: it must have no wildcards, spaces, empty words or leading $")
	}
	data := []byte(with.Payload)
	if with.Payload == nil {
		var err error
		if data, err = contextJSON(&work.Run); err != nil {
			return nil, err
		}
	}
	id := idempotencyKey(work)
	headers := map[string]string{
		"ce-specversion": "1.0",
		"ce-id":          id,
		"ce-source":      eventSource + work.Run.DefinitionName,
		"ce-type":        p.eventType(with),
		"ce-time":        time.Now().UTC().Format(time.RFC3339Nano),
		"Content-Type":   "application/json",
	}
	if parent := traceparent(work.Run.TraceID); parent != "" {
		headers[headerTraceparent] = parent
	}
	for name := range headers {
		if strings.HasPrefix(name, "ce-") {
			headers[name] = escapeAttribute(headers[name])
		}
	}
	for name, value := range with.Headers {
		if !legalHeader(value) {
			return nil, permanently("the value of the header %s holds a line end or another control character", name)
		}
		// Headers of NATS differ by case, but whoever reads these takes them in any.
		for ours := range headers {
			if ours != name && strings.EqualFold(ours, name) {
				delete(headers, ours)
			}
		}
		headers[name] = value
	}
	msg := nats.NewMsg(with.Subject)
	msg.Data = data
	for name, value := range headers {
		msg.Header.Set(name, value)
	}
	msg.Header.Set(jetstream.MsgIDHeader, id)
	return msg, nil
}

// eventSource begins the source of the events that publish tasks make.
const eventSource = "activity-core/"

// eventType is what the definition says, or else the subject: as that of an event where it is one, without the prefix.
func (p *publisher) eventType(with definition.PublishTask) string {
	if with.EventType != "" {
		return with.EventType
	}
	if eventType, ok := strings.CutPrefix(with.Subject, p.prefix+"."); ok && p.prefix != "" {
		return eventType
	}
	return with.Subject
}

// escapeAttribute writes an attribute as the NATS binding of CloudEvents wants it in a header.
func escapeAttribute(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// legalSubject reports whether a message can be published on a subject; with the expressions filled in it is not what was
// checked when the definition was saved.
func legalSubject(subject string) bool {
	if len(subject) > 255 || strings.HasPrefix(subject, "$") {
		return false
	}
	for token := range strings.SplitSeq(subject, ".") {
		if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c == '*' || c == '>' || c == 0x7f }) {
			return false
		}
	}
	return true
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
