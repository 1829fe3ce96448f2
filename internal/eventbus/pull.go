package eventbus

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// maxFetch is the most messages of one pull.
	maxFetch = 500
	// fetchBytes is about how much one pull may bring; the number of messages follows the sizes seen last.
	fetchBytes = 32 << 20
	// firstFetch is the size of the first pull, when nothing is known of sizes.
	firstFetch = 50
	// idleWait is how long a pull waits for a first message. It also bounds how long a fetch delays a shutdown: a pull that
	// the server has accepted cannot be withdrawn, and a message that it brought to nobody would come again only after AckWait.
	idleWait = 2 * time.Second
	// idleHeartbeat is how often the server shows that it still holds a pull that waits.
	idleHeartbeat = 500 * time.Millisecond
	// silence is how long a pull may go without a sign of life.
	silence = 5 * idleHeartbeat
	// lull is how long a pull that brought messages may pause. A pull that reached the consumer's limit of unacknowledged
	// messages pauses until some are acknowledged, and perhaps those are the ones that it brought.
	lull = 100 * time.Millisecond
	// inboxSize is how many messages may arrive while nobody fetches. Those are the ones of pulls that were given up, each of
	// maxFetch messages at most and over within idleWait, so that nothing is dropped; what would be comes again after AckWait.
	inboxSize = 8192
)

// inbox is where the server answers pulls: one subscription for as long as the connection lives, so that what a pull
// brings after it was given up still arrives.
type inbox struct {
	conn *nats.Conn
	// prefix begins the subjects of the inbox. Each pull has one of its own, the prefix, a dot and its number.
	prefix   string
	pulls    uint64
	messages chan *nats.Msg
	// sub is nil until open.
	sub *nats.Subscription
}

func newInbox(conn *nats.Conn) *inbox {
	return &inbox{conn: conn, prefix: conn.NewInbox(), messages: make(chan *nats.Msg, inboxSize)}
}

// rights returns the subjects that a user has to be allowed to subscribe to.
func (i *inbox) rights() string { return i.prefix[:strings.LastIndexByte(i.prefix, '.')+1] + ">" }

// open subscribes. Called again, it does so only if the subscription is gone.
func (i *inbox) open() error {
	if i.sub != nil && i.sub.IsValid() {
		return nil
	}
	var err error
	i.sub, err = i.conn.ChanSubscribe(i.prefix+".*", i.messages)
	return err
}

// empty throws away what has arrived.
func (i *inbox) empty() {
	for len(i.messages) > 0 {
		<-i.messages
	}
}

// pull is a request for messages, as the server reads it.
type pull struct {
	Batch int `json:"batch"`
	// Expires is how long the server keeps the pull, in nanoseconds.
	Expires time.Duration `json:"expires"`
	// NoWait ends the pull as soon as it brought a message and there are no more.
	NoWait    bool          `json:"no_wait,omitempty"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// Fetch returns the messages that are there, some hundreds at most, or waits up to 2 s for the first one; none is no
// error. It is not cut short by the end of a context: messages that were on their way would come again only after
// AckWait. After an error, Open is to be called.
func (b *Bus) Fetch() ([]definition.Delivery, error) {
	c := b.consumer.Load()
	if c == nil {
		return nil, ErrNotOpen
	}
	// What is left of a pull that was given up.
	if late := b.late(); len(late) > 0 {
		return late, nil
	}
	if !b.o.Conn.IsConnected() {
		return nil, b.disconnected()
	}
	if err := b.notAcknowledged(); err != nil {
		return nil, err
	}
	began := time.Now()
	size := min(b.size, c.maxBatch)
	wait := min(idleWait, c.maxWait)
	out, err := b.pull(pull{Batch: size, Expires: wait, NoWait: true, Heartbeat: min(idleHeartbeat, wait/2)})
	if err == nil && len(out) == 0 && time.Since(began) < wait/2 {
		// The server did not let us wait: other routers' pulls are to be served first.
		out, err = b.pull(pull{Batch: 1, Expires: wait, Heartbeat: min(idleHeartbeat, wait/2)})
	}
	b.size = nextSize(b.size, out)
	if len(out) == 0 && err != nil {
		return nil, fmt.Errorf("fetch events: %w", err)
	}
	return out, nil // an error that came after messages comes again
}

// late returns what has arrived since the last fetch.
func (b *Bus) late() []definition.Delivery {
	var out []definition.Delivery
	for len(b.inbox.messages) > 0 && len(out) < maxFetch {
		if d, ok := b.delivery(<-b.inbox.messages); ok {
			out = append(out, d)
		}
	}
	return out
}

// pull asks for messages and waits until it has them all: as many as were asked for, or the server said that there are no
// more. A message of an earlier pull cannot be told from one of this and counts like it; then one of this comes late.
func (b *Bus) pull(p pull) ([]definition.Delivery, error) {
	request, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	b.inbox.pulls++
	reply := b.inbox.prefix + "." + strconv.FormatUint(b.inbox.pulls, 10)
	subject := subjectNext + b.o.Stream + "." + b.o.Durable
	if err := b.o.Conn.PublishRequest(subject, reply, request); err != nil {
		return nil, err
	}
	var out []definition.Delivery
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for patience := silence; ; {
		var msg *nats.Msg
		select {
		case msg = <-b.inbox.messages: // much cheaper than the other select
		default:
			if patience > 0 { // there was a sign of life
				timer.Reset(patience)
				patience = 0
			}
			select {
			case msg = <-b.inbox.messages:
			case <-timer.C:
				switch {
				case len(out) > 0:
					return out, nil
				case !b.o.Conn.IsConnected():
					return nil, b.disconnected()
				}
				return nil, b.noAnswer(subject)
			}
		}
		if d, ok := b.delivery(msg); ok {
			if out == nil {
				out = make([]definition.Delivery, 0, p.Batch)
			}
			out = append(out, d)
			if len(out) >= p.Batch {
				return out, nil
			}
			patience = lull
			continue
		}
		if msg.Subject != reply {
			continue // of an earlier pull
		}
		over, err := word(msg)
		if over || err != nil {
			return out, err
		}
		patience = silence
		if len(out) > 0 {
			patience = lull
		}
	}
}

// The codes of the server's words about a pull.
const (
	codeHeartbeat    = "100"
	codeNoMessages   = "404"
	codeTimeout      = "408"
	codeNoResponders = "503"
)

// word reads what the server says about a pull: whether it is over, and whether that is a failure.
func word(msg *nats.Msg) (over bool, err error) {
	switch code := msg.Header.Get("Status"); code {
	case codeHeartbeat:
		return false, nil
	case codeNoMessages, codeTimeout:
		return true, nil
	case codeNoResponders:
		return true, errors.New("the consumer does not exist, or the server is not ready")
	default:
		return true, fmt.Errorf("the server ended the pull: %s %s", code, strings.ToLower(msg.Header.Get("Description")))
	}
}

// delivery reads a delivery; ok is false for anything else. What tells them apart is the subject for acknowledgements: only
// the server gives one, while a header may be the publisher's.
func (b *Bus) delivery(msg *nats.Msg) (d definition.Delivery, ok bool) {
	meta, err := msg.Metadata()
	if err != nil {
		return definition.Delivery{}, false
	}
	return definition.Delivery{
		Subject: msg.Subject, Header: msg.Header, Data: msg.Data,
		Stream: meta.Stream, StreamSeq: meta.Sequence.Stream, PublishedAt: meta.Timestamp,
		Deliveries: int(meta.NumDelivered), Pending: meta.NumPending, Handle: message{b.o.Conn, msg.Reply},
	}, true
}

// nextSize returns how many messages to ask for next: twice as many after a full fetch, and no more than fit into
// fetchBytes at the mean size seen last. (A limit by bytes on the pull itself would stall for good at a message that
// exceeds it.)
func nextSize(size int, got []definition.Delivery) int {
	if len(got) == 0 {
		return size
	}
	bytes := 0
	for _, d := range got {
		bytes += len(d.Data)
	}
	if len(got) >= size {
		size *= 2
	}
	mean := max(bytes/len(got), 1)
	return max(1, min(size, maxFetch, fetchBytes/mean))
}
