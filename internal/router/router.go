// Package router turns events into runs: it fetches deliveries, matches them, commits a ledger row for each match, starts
// the runs, and only then settles the deliveries.
//
// The promises and what keeps them:
//
//   - An event is settled only after a row for each of its matches is committed, or its dead letter is. What is lost before
//     that is delivered again, and finds the rows that are there already.
//   - An event that was published after a definition was stored meets it: the table is brought up to date after a batch
//     was collected whole, and before any of it is matched.
//   - Postgres away: no more is fetched, and what is held is kept alive, however long it takes. There is no negative
//     acknowledgement.
//   - Temporal away: rows are committed and deliveries settled all the same; the sweeper starts the runs later. A breaker
//     keeps the batches from waiting for one timeout after another.
//   - Shutting down: nothing more is fetched, and what was fetched is settled, within a deadline.
//
// Work flows through three stages that overlap: one goroutine fetches the next batch while another one commits this one,
// while a pool starts the runs of those before. Each stage waits for the next, so what is in flight is bounded.
package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/match"
)

const (
	// DefaultStartConcurrency is how many runs are started at once.
	DefaultStartConcurrency = 64
	// DefaultDrainTimeout is how long a shutdown waits for what was fetched.
	DefaultDrainTimeout = 15 * time.Second

	// startQueue is how many starts may wait for the pool; then committing waits too.
	startQueue = 512
	// maxRows and maxRowBytes bound one statement that commits rows. An event is stored with each of its matches.
	maxRows     = 1000
	maxRowBytes = 16 << 20
	// idleLook is how often the table is brought up to date while no events come.
	idleLook = 30 * time.Second
	// fullLoad is how often the table is loaded whole, whatever the changes say.
	fullLoad = 24 * time.Hour
	// storeTimeout bounds each call of storage; a full load gets fullLoadTimeout.
	storeTimeout    = 15 * time.Second
	fullLoadTimeout = time.Minute
	// startTimeout bounds the start of one run.
	startTimeout = 5 * time.Second
	// pendingLook is how often the consumer is asked what is left.
	pendingLook = 15 * time.Second
)

// Source is where events come from. Open and Fetch are called by one goroutine.
type Source interface {
	// Open makes fetching possible. It is called first, and again after Fetch returned an error.
	Open(ctx context.Context) error
	// Fetch returns deliveries, or none after a few seconds.
	Fetch() ([]definition.Delivery, error)
	// AckWait is how long a delivery may go without a sign of life.
	AckWait() time.Duration
	// Pending is how many messages are still to be delivered.
	Pending(ctx context.Context) (uint64, error)
}

// Store is what routing needs of storage.
type Store interface {
	// ChangedDefinitions returns what changed since the look that returned the snapshot prev, or everything for "".
	ChangedDefinitions(ctx context.Context, prev string) (snapshot string, changed []definition.Routable, err error)
	// AcceptDeadLetters commits dead letters; one that is there already stays.
	AcceptDeadLetters(ctx context.Context, letters []definition.DeadLetter) error
}

// Ledger records occurrences and starts their runs.
type Ledger interface {
	// Record commits a row for each occurrence that has none, and returns the new ones. ErrNotStorable: none was committed,
	// and at least one never can be. Any other error is worth another try.
	Record(ctx context.Context, occurrences []definition.Occurrence) ([]definition.Start, error)
	// Start starts the workflow of a row. After an error the sweeper does it.
	Start(ctx context.Context, s definition.Start) error
}

// Options of a Router.
type Options struct {
	// Source, Store and Ledger are required.
	Source Source
	Store  Store
	Ledger Ledger
	// SubjectPrefix begins the subject of every event. Required.
	SubjectPrefix string
	// StartConcurrency is how many runs are started at once; zero for DefaultStartConcurrency.
	StartConcurrency int
	// DrainTimeout is how long Run goes on after the end of its context; zero for DefaultDrainTimeout.
	DrainTimeout time.Duration
	// Log and Registerer are required.
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Router routes events until its Run ends.
type Router struct {
	o       Options
	metrics *metrics
	breaker breaker
	held    holds
	batches chan *batch
	starts  chan start

	// table is nil until it was loaded. Only the routing goroutine replaces it, and knows the rest.
	table    atomic.Pointer[match.Table]
	snapshot string
	loadedAt time.Time
	// fault is what the routing goroutine is waiting for, nil when it is not.
	fault atomic.Pointer[error]
}

// New makes a Router.
func New(o Options) (*Router, error) {
	switch {
	case o.Source == nil:
		return nil, errors.New("router: Source is missing")
	case o.Store == nil:
		return nil, errors.New("router: Store is missing")
	case o.Ledger == nil:
		return nil, errors.New("router: Ledger is missing")
	case o.SubjectPrefix == "":
		return nil, errors.New("router: SubjectPrefix is missing")
	case o.Log == nil:
		return nil, errors.New("router: Log is missing")
	case o.Registerer == nil:
		return nil, errors.New("router: Registerer is missing")
	case o.StartConcurrency < 0:
		return nil, errors.New("router: StartConcurrency must not be negative")
	}
	if o.StartConcurrency == 0 {
		o.StartConcurrency = DefaultStartConcurrency
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = DefaultDrainTimeout
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	return &Router{o: o, metrics: m, batches: make(chan *batch), starts: make(chan start, startQueue)}, nil
}

// Run routes until ctx ends, and then settles what was fetched. The error says how many deliveries were left when the
// drain timeout passed; they will be delivered again, and nothing is lost. Run is called once.
func (r *Router) Run(ctx context.Context) error {
	// What was fetched outlives ctx, by the drain timeout at most.
	work, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(r.o.DrainTimeout, giveUp)
		context.AfterFunc(work, func() { timer.Stop() })
	})()

	var aside, stages sync.WaitGroup
	aside.Go(func() { r.keepAlive(work) })
	aside.Go(func() { r.watchPending(ctx) })
	stages.Go(func() { r.fetch(ctx, work) })
	stages.Go(func() { r.route(ctx, work) })
	for range r.o.StartConcurrency {
		stages.Go(func() {
			for s := range r.starts {
				r.start(work, s)
			}
		})
	}
	stages.Wait()
	giveUp()
	aside.Wait()
	if left := r.held.count(); left > 0 {
		return fmt.Errorf("%d deliveries were not settled within %v and will be delivered again", left, r.o.DrainTimeout)
	}
	return nil
}

// Check is a readiness check: definitions are loaded, and nothing keeps events from being routed.
func (r *Router) Check(context.Context) error {
	if why := r.fault.Load(); why != nil {
		return *why
	}
	if r.table.Load() == nil {
		return errors.New("definitions are not loaded yet")
	}
	return nil
}

// fetch hands on one batch after another until ctx ends. While the last one is not taken, nothing is fetched.
func (r *Router) fetch(ctx, work context.Context) {
	defer close(r.batches)
	last := "" // the failure that was logged
	for opened := false; ctx.Err() == nil; {
		if !opened {
			if r.retry(ctx, "open the event stream", nil, r.o.Source.Open) != nil {
				return
			}
			opened = true
		}
		deliveries, err := r.o.Source.Fetch()
		if err != nil {
			r.metrics.fetchErrors.Inc()
			if err.Error() != last {
				last = err.Error()
				r.o.Log.Warn("fetching events failed, opening the stream again", "error", err)
			}
			opened = false
			// An error that comes at once, again and again, must not spin.
			pause(ctx, retryFirst)
			continue
		}
		last = ""
		if len(deliveries) == 0 {
			continue
		}
		b := r.newBatch(deliveries)
		select {
		case r.batches <- b:
		case <-work.Done():
			return
		}
	}
}

// route takes batches until there are no more, and looks for changed definitions while none come.
func (r *Router) route(ctx, work context.Context) {
	defer close(r.starts)
	// Ready before the first event. When that is cut short by ctx, batches may still come, and each refreshes by itself.
	_ = r.retry(ctx, "load definitions", &r.fault, r.refresh)
	idle := time.NewTimer(idleLook)
	defer idle.Stop()
	for {
		select {
		case b, ok := <-r.batches:
			if !ok {
				return
			}
			if err := r.routeBatch(work, b); err != nil {
				return // given up: what is left is delivered again
			}
		case <-idle.C:
			_ = r.retry(ctx, "look for changed definitions", &r.fault, r.refresh) // cut short by ctx, as above
		}
		idle.Reset(idleLook)
	}
}

// keepAlive tells the stream of deliveries that are still being worked on.
func (r *Router) keepAlive(ctx context.Context) {
	for {
		interval := r.o.Source.AckWait() / 3
		if !pause(ctx, interval) {
			return
		}
		r.held.renew(time.Now().Add(-interval / 2))
	}
}

// watchPending keeps the gauge of what is left up to date also while nothing is fetched.
func (r *Router) watchPending(ctx context.Context) {
	for pause(ctx, pendingLook) {
		if n, err := r.o.Source.Pending(ctx); err == nil { // fetching tells of the same error
			r.metrics.pending.Set(float64(n))
		}
	}
}

const (
	retryFirst = 250 * time.Millisecond
	retryMax   = 5 * time.Second
)

// retry calls try until it succeeds or ctx ends, with growing pauses. It logs each new kind of failure and the success
// after it, and shows the failure in fault, if given, while it lasts.
func (r *Router) retry(ctx context.Context, what string, fault *atomic.Pointer[error], try func(context.Context) error) error {
	last := ""
	for wait := retryFirst; ; wait = min(2*wait, retryMax) {
		err := try(ctx)
		if err == nil {
			if last != "" {
				r.o.Log.Info("succeeded at last", "what", what)
			}
			if fault != nil {
				fault.Store(nil)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err.Error() != last {
			last = err.Error()
			r.o.Log.Warn("failed, trying again", "what", what, "error", err)
		}
		if fault != nil {
			err := fmt.Errorf("%s: %w", what, err)
			fault.Store(&err)
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

// pause waits, and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
