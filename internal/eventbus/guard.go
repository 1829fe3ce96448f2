package eventbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
)

// Look tells how far the routers are, and whether retention takes events before they were given to one. It asks two or
// three questions. What was dropped and passed between two looks is not seen.
func (b *Bus) Look(ctx context.Context) (definition.StreamState, error) {
	c := b.consumer.Load()
	if c == nil {
		return definition.StreamState{}, ErrNotOpen
	}
	var stream *jetstream.StreamInfo
	if c.mayLook {
		var err error
		// Before the consumer: what is delivered between the two questions must not count as dropped.
		if stream, err = b.streamInfo(ctx); err != nil {
			return definition.StreamState{}, fmt.Errorf("look at stream %s: %w", b.o.Stream, err)
		}
	}
	consumer, err := b.consumerInfo(ctx, c)
	if err != nil {
		return definition.StreamState{}, err
	}
	state := definition.StreamState{
		Pending: consumer.NumPending, AckPending: uint64(consumer.NumAckPending),
		Delivered: consumer.Delivered.Stream, AckFloor: consumer.AckFloor.Stream,
		Blind: stream == nil,
	}
	if stream == nil {
		return state, nil
	}
	state.First, state.Known, state.MaxAge = stream.State.FirstSeq, true, stream.Config.MaxAge
	if b.isOurs(stream.Config) && sees(consumer.Config, b.o.SubjectPrefix) && state.First > state.Delivered+1 {
		state.Dropped = state.First - state.Delivered - 1
	}
	if state.Pending == 0 {
		return state, nil
	}
	var age time.Duration
	if stream.Config.MaxAge > 0 {
		if age, err = b.oldestUnseen(ctx, c, state.Delivered); err != nil {
			return definition.StreamState{}, err
		}
		state.Blind = c.mayNotRead.Load()
	}
	state.Risk = risk(stream.Config, stream.State, state.Delivered, age)
	return state, nil
}

// oldestUnseen returns how old the first event after a sequence is; 0 when that may not be read.
func (b *Bus) oldestUnseen(ctx context.Context, c *opened, delivered uint64) (time.Duration, error) {
	if c.mayNotRead.Load() {
		return 0, nil // each try would wait for a timeout, and be logged
	}
	d, ok, err := b.next(ctx, delivered+1)
	switch {
	case errors.Is(err, errNoAnswer) && b.refused(subjectGet+b.o.Stream):
		c.mayNotRead.Store(true)
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("look at the oldest message of stream %s that is to be delivered: %w", b.o.Stream, err)
	case !ok:
		return 0, nil
	}
	return time.Since(d.PublishedAt), nil
}

// risk returns how near a stream's limits are to the oldest message after delivered, which is of the given age. That a
// stream is full says nothing, since an old one always is: what counts is how much of it lies behind that message.
func risk(config jetstream.StreamConfig, s jetstream.StreamState, delivered uint64, age time.Duration) float64 {
	behind := float64(min(s.Msgs, s.LastSeq-min(s.LastSeq, delivered)))
	r := 0.0
	if config.MaxAge > 0 {
		r = max(r, float64(age)/float64(config.MaxAge))
	}
	if config.MaxMsgs > 0 {
		r = max(r, behind/float64(config.MaxMsgs))
	}
	if config.MaxBytes > 0 && s.Msgs > 0 {
		r = max(r, behind*float64(s.Bytes)/float64(s.Msgs)/float64(config.MaxBytes))
	}
	return min(r, 1)
}

// isOurs reports whether a stream takes no subjects but those under our prefix.
func (b *Bus) isOurs(config jetstream.StreamConfig) bool {
	for _, s := range config.Subjects {
		if !covers(b.o.SubjectPrefix+".>", s) {
			return false
		}
	}
	return config.Mirror == nil && len(config.Sources) == 0
}
