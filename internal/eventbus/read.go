package eventbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
)

// readers is how many messages are read at once.
const readers = 16

// getRequest asks for one stored message, as the server reads it: that of a sequence, or the first from Seq on that has
// the subject NextFor, or the last with the subject LastFor.
type getRequest struct {
	Seq     uint64 `json:"seq,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
}

type getAnswer struct {
	Error   *jetstream.APIError `json:"error"`
	Message *struct {
		Subject string    `json:"subject"`
		Seq     uint64    `json:"seq"`
		Header  []byte    `json:"hdrs"`
		Data    []byte    `json:"data"`
		Time    time.Time `json:"time"`
	} `json:"message"`
}

// get asks for one stored message; ok is false when there is none. It needs one right, to publish to $JS.API.STREAM.MSG.GET
// and the stream, while the library's own way first asks for the stream's settings, which is another.
func (b *Bus) get(ctx context.Context, r getRequest) (d definition.Delivery, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	request, err := json.Marshal(r)
	if err != nil {
		return d, false, err
	}
	subject := subjectGet + b.o.Stream
	msg, err := b.o.Conn.RequestWithContext(ctx, subject, request)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return d, false, b.noAnswer(subject)
	case errors.Is(err, nats.ErrNoResponders):
		return d, false, errors.New("the server does not keep streams for this user, or is not ready")
	case err != nil:
		return d, false, err
	}
	var answer getAnswer
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return d, false, fmt.Errorf("read the server's answer: %w", err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return d, false, nil
	case answer.Error != nil:
		return d, false, answer.Error
	case answer.Message == nil:
		return d, false, errors.New("the server's answer holds no message")
	}
	m := answer.Message
	d = definition.Delivery{Subject: m.Subject, Data: m.Data, Stream: b.o.Stream, StreamSeq: m.Seq, PublishedAt: m.Time}
	if len(m.Header) > 0 {
		// Headers that nobody can read are none, as in a delivery.
		if header, err := nats.DecodeHeadersMsg(m.Header); err == nil {
			d.Header = header
		}
	}
	return d, true, nil
}

// next returns the first event from a sequence on.
func (b *Bus) next(ctx context.Context, seq uint64) (definition.Delivery, bool, error) {
	return b.get(ctx, getRequest{Seq: max(seq, 1), NextFor: b.o.SubjectPrefix + ".>"})
}

// Get returns the event with a sequence, as it was published: without Handle, Deliveries and Pending. The result is false
// when the stream does not hold it any more, or when that message is not under the subject prefix.
func (b *Bus) Get(ctx context.Context, seq uint64) (definition.Delivery, bool, error) {
	if seq == 0 {
		return definition.Delivery{}, false, nil
	}
	d, ok, err := b.get(ctx, getRequest{Seq: seq})
	if err != nil {
		return definition.Delivery{}, false, fmt.Errorf("read message %d of stream %s: %w", seq, b.o.Stream, err)
	}
	if !ok || !strings.HasPrefix(d.Subject, b.o.SubjectPrefix+".") {
		return definition.Delivery{}, false, nil
	}
	return d, true, nil
}

// Read returns the events with from ≤ sequence < to in their order, each as by Get. What the stream does not hold is left
// out. The range should have some hundreds of sequences at most: all its messages are held in memory.
func (b *Bus) Read(ctx context.Context, from, to uint64) ([]definition.Delivery, error) {
	// Jumps over what is missing before the first one, however much that is.
	first, ok, err := b.next(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("read stream %s from message %d: %w", b.o.Stream, from, err)
	}
	if !ok || first.StreamSeq >= to {
		return nil, nil
	}
	found := make([]*definition.Delivery, to-first.StreamSeq)
	found[0] = &first
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i := 1; i < len(found); i++ {
		group.Go(func() error {
			d, ok, err := b.Get(ctx, first.StreamSeq+uint64(i))
			if ok {
				found[i] = &d
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var out []definition.Delivery
	for _, d := range found {
		if d != nil {
			out = append(out, *d)
		}
	}
	return out, nil
}

// SeqAt returns the sequence of the first event that the stream stored at t or later; the sequence after the last event
// when there is none, and 1 when the stream holds no event. It takes the stream's times to grow with the sequences, which is
// so unless the server's clock was set back.
func (b *Bus) SeqAt(ctx context.Context, t time.Time) (uint64, error) {
	seq, err := b.seqAt(ctx, t)
	if err != nil {
		return 0, fmt.Errorf("look for the first message of stream %s since %s: %w",
			b.o.Stream, t.UTC().Format(time.RFC3339Nano), err)
	}
	return seq, nil
}

// seqAt is a binary search. (The server can search by time as well, but only the younger ones, and some of them wrongly.)
func (b *Bus) seqAt(ctx context.Context, t time.Time) (uint64, error) {
	last, ok, err := b.get(ctx, getRequest{LastFor: b.o.SubjectPrefix + ".>"})
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return 1, nil
	case last.PublishedAt.Before(t):
		return last.StreamSeq + 1, nil
	}
	low, found := uint64(1), last.StreamSeq
	for high := found; low < high; {
		middle := low + (high-low)/2
		d, ok, err := b.next(ctx, middle)
		switch {
		case err != nil:
			return 0, err
		case ok && d.PublishedAt.Before(t):
			low = d.StreamSeq + 1
		default:
			high = middle
			if ok {
				found = d.StreamSeq
			}
		}
	}
	return found, nil
}
