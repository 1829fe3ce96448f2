// Package eventbus is the stream of events on JetStream: it makes the stream and the durable consumer that all routers
// share, or checks them, and fetches deliveries. What a delivery is acknowledged with is decided by [Decide] alone.
//
// A stream or consumer that exists is never changed: its settings are the operator's. Settings with which events could
// be lost without a word are refused, or warned about.
//
// The files: bus.go finds or makes stream and consumer, pull.go fetches, settle.go acknowledges, read.go reads messages
// again, guard.go looks at what retention may take, rights.go tells which right is missing.
package eventbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of a stream and consumer that are made here.
const (
	// DefaultMaxAge is how long the stream keeps events, seen or not.
	DefaultMaxAge = 7 * 24 * time.Hour
	// DefaultDuplicates is how long JetStream itself drops messages with the same Nats-Msg-Id.
	DefaultDuplicates = 10 * time.Minute
	// DefaultAckWait is how long a delivery may stay without a sign of life before it is made again.
	DefaultAckWait = 30 * time.Second
	// DefaultMaxAckPending bounds the unacknowledged deliveries of all routers together.
	DefaultMaxAckPending = 2000
)

// lookTimeout bounds each question to the server.
const lookTimeout = 4 * time.Second

// Options of a Bus.
type Options struct {
	// Conn stays the caller's to close. Required.
	Conn *nats.Conn
	// Stream, SubjectPrefix and Durable are names. Required.
	Stream, SubjectPrefix, Durable string
	// Manage: a stream or consumer that is missing is made. Otherwise the rights to look at the consumer, to pull and to
	// acknowledge are enough.
	Manage bool
	// Replicas of a stream that is made; default 1. A cluster wants 3.
	Replicas int
	// MaxAge, Duplicates, AckWait and MaxAckPending of what is made; zero for the defaults.
	MaxAge, Duplicates, AckWait time.Duration
	MaxAckPending               int
	// Log is required.
	Log *slog.Logger
}

// Bus is the stream and its consumer. Open and Fetch are for one goroutine at a time; the other methods are safe for
// concurrent use.
type Bus struct {
	o        Options
	js       jetstream.JetStream
	consumer atomic.Pointer[opened]
	// openFault is why Open failed last, nil after a success.
	openFault atomic.Pointer[error]
	inbox     *inbox
	size      int    // messages of the next fetch
	warned    string // what warn told last
	told      error  // the complaint of the server that notAcknowledged has seen
}

// opened is a consumer that was found.
type opened struct {
	jetstream.Consumer
	created time.Time
	ackWait time.Duration
	// maxBatch and maxWait are the most that the consumer allows a pull to ask for.
	maxBatch int
	maxWait  time.Duration
	// mayLook: the stream's settings can be read. mayNotRead: its messages cannot, as was found out since.
	mayLook    bool
	mayNotRead atomic.Bool
}

// ErrNotOpen means that the consumer was not found yet.
var ErrNotOpen = errors.New("the event consumer was not found yet")

// New makes a Bus. It does not talk to the server.
func New(o Options) (*Bus, error) {
	switch {
	case o.Conn == nil:
		return nil, errors.New("event bus: Conn is missing")
	case o.Stream == "":
		return nil, errors.New("event bus: Stream is missing")
	case o.SubjectPrefix == "":
		return nil, errors.New("event bus: SubjectPrefix is missing")
	case o.Durable == "":
		return nil, errors.New("event bus: Durable is missing")
	case o.Log == nil:
		return nil, errors.New("event bus: Log is missing")
	}
	o.Replicas = cmp.Or(o.Replicas, 1)
	o.MaxAge = cmp.Or(o.MaxAge, DefaultMaxAge)
	o.Duplicates = cmp.Or(o.Duplicates, DefaultDuplicates)
	o.AckWait = cmp.Or(o.AckWait, DefaultAckWait)
	o.MaxAckPending = cmp.Or(o.MaxAckPending, DefaultMaxAckPending)
	js, err := jetstream.New(o.Conn)
	if err != nil {
		return nil, fmt.Errorf("event bus: %w", err)
	}
	return &Bus{o: o, js: js, inbox: newInbox(o.Conn), size: firstFetch}, nil
}

// Open finds the consumer, and makes it and the stream when they are missing and Manage is set. It may be called again,
// after Fetch failed. Its errors tell an operator what to do.
func (b *Bus) Open(ctx context.Context) error {
	err := b.open(ctx)
	if err != nil {
		b.openFault.Store(&err)
		return err
	}
	b.openFault.Store(nil)
	return nil
}

func (b *Bus) open(ctx context.Context) error {
	if !b.o.Conn.IsConnected() {
		return b.disconnected()
	}
	mayLook, err := b.openStream(ctx)
	if err != nil {
		return err
	}
	consumer, err := b.openConsumer(ctx)
	if err != nil {
		return err
	}
	config := consumer.CachedInfo().Config
	if config.AckPolicy != jetstream.AckExplicitPolicy {
		return fmt.Errorf("consumer %s of stream %s has ack policy %s, but must have explicit: delete it, so that it is made again",
			b.o.Durable, b.o.Stream, config.AckPolicy)
	}
	if err := b.inbox.open(); err != nil {
		return fmt.Errorf("make an inbox for events: %w", err)
	}
	// What still comes from a consumer that was deleted comes again from this one, and its acknowledgements could hit other
	// messages if the stream was made again too.
	created := consumer.CachedInfo().Created
	if old := b.consumer.Load(); old != nil && !old.created.Equal(created) {
		b.inbox.empty()
	}
	b.warn(config)
	b.consumer.Store(&opened{
		Consumer: consumer, created: created, ackWait: cmp.Or(config.AckWait, DefaultAckWait), mayLook: mayLook,
		maxBatch: cmp.Or(config.MaxRequestBatch, maxFetch), maxWait: cmp.Or(config.MaxRequestExpires, idleWait),
	})
	return nil
}

// openStream checks the stream as far as that is allowed, and reports whether it is.
func (b *Bus) openStream(ctx context.Context) (mayLook bool, err error) {
	if !b.o.Manage {
		// Whoever may not look waits here for a timeout, so this is asked once.
		if old := b.consumer.Load(); old != nil && (old.mayLook || b.refused(subjectStreamInfo+b.o.Stream)) {
			return old.mayLook, nil
		}
		// That it fails is no fault: the consumer, at which we must be allowed to look, tells what is missing.
		if config, err := b.streamConfig(ctx); err == nil {
			return true, b.checkSubjects(config)
		}
		return false, nil
	}
	config, err := b.streamConfig(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err = b.createStream(ctx); err != nil {
			return false, err
		}
		config, err = b.streamConfig(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("look at stream %s: %w", b.o.Stream, err)
	}
	return true, b.checkSubjects(config)
}

func (b *Bus) streamInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	stream, err := b.js.Stream(ctx, b.o.Stream)
	if err != nil {
		return nil, err
	}
	return stream.CachedInfo(), nil
}

func (b *Bus) streamConfig(ctx context.Context) (jetstream.StreamConfig, error) {
	info, err := b.streamInfo(ctx)
	if err != nil {
		return jetstream.StreamConfig{}, err
	}
	return info.Config, nil
}

// codeSubjectsOverlap is the server's code for subjects that belong to another stream.
const codeSubjectsOverlap = 10065

func (b *Bus) createStream(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	subjects := b.o.SubjectPrefix + ".>"
	_, err := b.js.CreateStream(ctx, jetstream.StreamConfig{
		Name:        b.o.Stream,
		Description: "Events for activity-core",
		Subjects:    []string{subjects},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Replicas:    b.o.Replicas,
		Discard:     jetstream.DiscardOld,
		MaxAge:      b.o.MaxAge,
		Duplicates:  b.o.Duplicates,
		DenyDelete:  true,
		// No MaxMsgSize: what is too large for an event shall become a dead letter with a reason, and not an error that only
		// its publisher sees, or overlooks. The server's own max_payload is the bound.
	})
	var api *jetstream.APIError
	switch {
	case err == nil:
		b.o.Log.Info("made the stream", "stream", b.o.Stream, "subjects", subjects, "max_age", b.o.MaxAge)
		return nil
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		return nil // another router was faster, perhaps with other settings: they are looked at next
	case errors.As(err, &api) && api.ErrorCode == codeSubjectsOverlap:
		return fmt.Errorf("make stream %s: its subjects %s belong to another stream already: set ACTCORE_STREAM to that stream's name, "+
			"or ACTCORE_SUBJECT_PREFIX to another prefix", b.o.Stream, subjects)
	}
	return fmt.Errorf("make stream %s (if this user may not, make it otherwise and set ACTCORE_MANAGE_STREAM=false): %w", b.o.Stream, err)
}

func (b *Bus) checkSubjects(config jetstream.StreamConfig) error {
	subjects := b.o.SubjectPrefix + ".>"
	if config.Mirror != nil || len(config.Sources) > 0 {
		return nil // its subjects are another stream's
	}
	for _, s := range config.Subjects {
		if covers(s, subjects) {
			return nil
		}
	}
	return fmt.Errorf("stream %s takes the subjects %s, but not %s: add it to the stream, or set ACTCORE_STREAM or ACTCORE_SUBJECT_PREFIX",
		b.o.Stream, strings.Join(config.Subjects, ", "), subjects)
}

// covers reports whether a subject pattern takes every subject that another one takes.
func covers(pattern, other string) bool {
	p, o := strings.Split(pattern, "."), strings.Split(other, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(o) > i
		case len(o) <= i || o[i] == ">":
			return false
		case token != "*" && token != o[i]:
			return false
		}
	}
	return len(p) == len(o)
}

func (b *Bus) openConsumer(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	consumer, err := b.js.Consumer(ctx, b.o.Stream, b.o.Durable)
	if b.o.Manage && errors.Is(err, jetstream.ErrConsumerNotFound) {
		if err = b.createConsumer(ctx); err != nil {
			return nil, err
		}
		consumer, err = b.js.Consumer(ctx, b.o.Stream, b.o.Durable)
	}
	switch {
	case err == nil:
		return consumer, nil
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("stream %s does not exist: make it, or set ACTCORE_MANAGE_STREAM=true", b.o.Stream)
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, fmt.Errorf("consumer %s of stream %s does not exist: make it, or set ACTCORE_MANAGE_STREAM=true", b.o.Durable, b.o.Stream)
	case errors.Is(err, jetstream.ErrNotPullConsumer):
		return nil, fmt.Errorf("consumer %s of stream %s is a push consumer, but must be a pull consumer: delete it, or set ACTCORE_DURABLE",
			b.o.Durable, b.o.Stream)
	case errors.Is(err, context.DeadlineExceeded) && !b.o.Manage:
		return nil, fmt.Errorf("look at consumer %s of stream %s: %w", b.o.Durable, b.o.Stream,
			b.noAnswer(subjectConsumerInfo+b.o.Stream+"."+b.o.Durable))
	}
	return nil, fmt.Errorf("look at consumer %s of stream %s: %w", b.o.Durable, b.o.Stream, err)
}

func (b *Bus) createConsumer(ctx context.Context) error {
	_, err := b.js.CreateConsumer(ctx, b.o.Stream, jetstream.ConsumerConfig{
		Name:          b.o.Durable,
		Durable:       b.o.Durable,
		Description:   "activity-core event routers, all replicas together",
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       b.o.AckWait,
		MaxAckPending: b.o.MaxAckPending,
		// Past a limit, messages would vanish without a trace.
		MaxDeliver:    -1,
		FilterSubject: b.o.SubjectPrefix + ".>",
	})
	switch {
	case err == nil:
		b.o.Log.Info("made the consumer", "stream", b.o.Stream, "consumer", b.o.Durable)
		return nil
	case errors.Is(err, jetstream.ErrConsumerExists):
		return nil // another router was faster
	}
	return fmt.Errorf("make consumer %s of stream %s: %w", b.o.Durable, b.o.Stream, err)
}

// warn tells once of settings that are the operator's right, but hide events.
func (b *Bus) warn(config jetstream.ConsumerConfig) {
	var hidden []string
	if config.MaxDeliver > 0 {
		hidden = append(hidden, fmt.Sprintf("max_deliver is %d: an event that is not routed by then is lost without a trace; -1 is right",
			config.MaxDeliver))
	}
	if !sees(config, b.o.SubjectPrefix) {
		hidden = append(hidden, "its filter "+strings.Join(filters(config), ", ")+" hides some of "+b.o.SubjectPrefix+".>")
	}
	if text := strings.Join(hidden, "; "); text != b.warned {
		b.warned = text
		if text != "" {
			b.o.Log.Warn("the consumer has settings that can hide events", "consumer", b.o.Durable, "settings", text)
		}
	}
}

func filters(config jetstream.ConsumerConfig) []string {
	if config.FilterSubject != "" {
		return []string{config.FilterSubject}
	}
	return config.FilterSubjects
}

// sees reports whether a consumer's filters let everything under a prefix through.
func sees(config jetstream.ConsumerConfig, prefix string) bool {
	all := filters(config)
	return len(all) == 0 || slices.ContainsFunc(all, func(f string) bool { return covers(f, prefix+".>") })
}

func (b *Bus) disconnected() error {
	if err := b.o.Conn.LastError(); err != nil {
		return fmt.Errorf("not connected to NATS (NATS_URL): %w", err)
	}
	return errors.New("not connected to NATS (NATS_URL)")
}

// AckWait returns how long a delivery may go without a sign of life, as the consumer is set now.
func (b *Bus) AckWait() time.Duration {
	if c := b.consumer.Load(); c != nil {
		return c.ackWait
	}
	return b.o.AckWait
}

// Pending returns how many messages are still to be delivered.
func (b *Bus) Pending(ctx context.Context) (uint64, error) {
	c := b.consumer.Load()
	if c == nil {
		return 0, ErrNotOpen
	}
	info, err := b.consumerInfo(ctx, c)
	if err != nil {
		return 0, err
	}
	return info.NumPending, nil
}

func (b *Bus) consumerInfo(ctx context.Context, c *opened) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	info, err := c.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at consumer %s of stream %s: %w", b.o.Durable, b.o.Stream, err)
	}
	return info, nil
}

// Check is a readiness check: the server answers, the consumer exists, and the stream does not keep events for ever
// (runs of events are kept for longer than the stream keeps the events, which is impossible then). The stream is looked at
// only where that is allowed.
func (b *Bus) Check(ctx context.Context) error {
	if !b.o.Conn.IsConnected() {
		return b.disconnected()
	}
	if why := b.openFault.Load(); why != nil {
		return *why
	}
	c := b.consumer.Load()
	if c == nil {
		return ErrNotOpen
	}
	if _, err := b.Pending(ctx); err != nil {
		return err
	}
	if !c.mayLook {
		return nil
	}
	config, err := b.streamConfig(ctx)
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", b.o.Stream, err)
	}
	if config.MaxAge <= 0 {
		return fmt.Errorf("stream %s keeps events for ever: give it an age limit, as by `nats stream edit %s --max-age 7d`", b.o.Stream, b.o.Stream)
	}
	return nil
}
