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
	// streamLook is how often the stream is asked what is left, and what is about to be lost.
	streamLook = 15 * time.Second
	// askedLook is how often storage is asked whether dead letters are to be routed again, or replays wait.
	askedLook = 2 * time.Second
	// unmatchedAge is how long events that matched nothing are kept, and unmatchedLook how often older ones are looked for.
	unmatchedAge  = 7 * 24 * time.Hour
	unmatchedLook = time.Minute
)

// Source is where events come from. Open and Fetch are called by one goroutine.
type Source interface {
	// Open makes fetching possible. It is called first, and again after Fetch returned an error.
	Open(ctx context.Context) error
	// Fetch returns deliveries, or none after a few seconds.
	Fetch() ([]definition.Delivery, error)
	// AckWait is how long a delivery may go without a sign of life.
	AckWait() time.Duration
	// Look tells how far the routers are, and how near the stream is to losing what they have not seen.
	Look(ctx context.Context) (definition.StreamState, error)
	// SeqAt returns the sequence of the first message that was stored at or after a time.
	SeqAt(ctx context.Context, t time.Time) (uint64, error)
	// Read returns the messages with from ≤ sequence < to, at most some hundreds.
	Read(ctx context.Context, from, to uint64) ([]definition.Delivery, error)
	// Get returns one message; false when the stream does not hold it.
	Get(ctx context.Context, seq uint64) (definition.Delivery, bool, error)
}

// Store is what routing needs of storage.
type Store interface {
	// ChangedDefinitions returns what changed since the look that returned the snapshot prev, or everything for "".
	ChangedDefinitions(ctx context.Context, prev string) (snapshot string, changed []definition.Routable, err error)
	// AcceptDeadLetters commits dead letters; one that is there already stays.
	AcceptDeadLetters(ctx context.Context, letters []definition.DeadLetter) error
	// CountAttempts, AddAttempt and ForgetAttempts keep how often routers began with a message alone.
	CountAttempts(ctx context.Context, messages []definition.Delivery) ([]int, error)
	AddAttempt(ctx context.Context, message *definition.Delivery) (int, error)
	ForgetAttempts(ctx context.Context, messages []definition.Delivery) error
	// SetUnmatchedRecording notes whether events that match nothing are recorded, and RemoveUnmatched removes old ones.
	SetUnmatchedRecording(ctx context.Context, on bool) error
	RemoveUnmatched(ctx context.Context, age time.Duration) (int, error)
	// NoteStreamAge notes how long the stream keeps events; 0 for ever.
	NoteStreamAge(ctx context.Context, age time.Duration) error
	// RoutingAsked reports whether there are dead letters to be routed again, and replays.
	RoutingAsked(ctx context.Context) (letters, replays bool, err error)
	letterStore
	replayStore
}

// letterStore is what routing dead letters again needs of storage.
type letterStore interface {
	// ClaimDeadLetters returns some of those that are to be routed again; no other router gets them for a while.
	ClaimDeadLetters(ctx context.Context, limit int) ([]definition.StoredDeadLetter, error)
	// DeadLettersRouted notes that they were routed, and how many definitions each of them met.
	DeadLettersRouted(ctx context.Context, ids []string, runs []int) error
}

// replayStore is what replays need of storage. Each write fails with ErrLeaseLost when the replay was canceled, or is another
// router's.
type replayStore interface {
	ClaimReplay(ctx context.Context) (definition.ClaimedReplay, bool, error)
	ReplayDefinitions(ctx context.Context, ids []string) ([]definition.Routable, error)
	UpdateReplay(ctx context.Context, r definition.ClaimedReplay) error
	CountReplayed(ctx context.Context, occurrences []definition.Occurrence) (definition.ReplayCounts, error)
	AcceptReplayed(ctx context.Context, r *definition.ClaimedReplay, events []definition.EventRecord,
		occurrences []definition.Occurrence) ([]definition.Start, error)
}

// Ledger records occurrences and starts their runs.
type Ledger interface {
	// RecordEvents commits the events and a row for each occurrence that has none, and returns the new ones, and the ids of the
	// events that are others than those which were recorded with these ids before. ErrNotStorable: nothing was committed, and at
	// least one of them never can be. Any other error is worth another try.
	RecordEvents(ctx context.Context, events []definition.EventRecord, occurrences []definition.Occurrence) (
		starts []definition.Start, reused []string, err error)
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
	// RecordUnmatched: events that match nothing are recorded too, for unmatchedAge.
	RecordUnmatched bool
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
	// replayWanted is told that a replay waits.
	replayWanted chan struct{}
	guard        guard

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
	return &Router{o: o, metrics: m, batches: make(chan *batch), starts: make(chan start, startQueue),
		replayWanted: make(chan struct{}, 1)}, nil
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
	aside.Go(func() { r.watchStream(ctx) })
	aside.Go(func() { r.replays(ctx) })
	if r.o.RecordUnmatched {
		aside.Go(func() { r.removeUnmatched(ctx) })
	}
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
			r.look(ctx) // before the first delivery passes what is lost
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
	_ = r.retry(ctx, "note whether unmatched events are recorded", &r.fault, func(ctx context.Context) error {
		return r.o.Store.SetUnmatchedRecording(ctx, r.o.RecordUnmatched)
	})
	_ = r.retry(ctx, "load definitions", &r.fault, r.refresh)
	idle := time.NewTimer(idleLook)
	defer idle.Stop()
	asked := time.NewTicker(askedLook)
	defer asked.Stop()
	askedFault := "" // what was logged
	for {
		select {
		case b, ok := <-r.batches:
			if !ok {
				return
			}
			if err := r.routeBatch(work, b); err != nil {
				return // given up: what is left is delivered again
			}
		case <-asked.C:
			fault := ""
			if err := r.serveAsked(ctx, work); err != nil && ctx.Err() == nil {
				fault = err.Error()
			}
			if fault != "" && fault != askedFault {
				r.o.Log.Warn("what was asked of the router could not be done, trying again", "error", fault)
			}
			askedFault = fault
			continue
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

// serveAsked looks for what somebody asked of the routers through storage.
func (r *Router) serveAsked(ctx, work context.Context) error {
	looking, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	letters, replays, err := r.o.Store.RoutingAsked(looking)
	if err != nil {
		return err
	}
	if replays {
		select {
		case r.replayWanted <- struct{}{}:
		default: // it knows
		}
	}
	if letters {
		return r.retryLetters(work)
	}
	return nil
}

// removeUnmatched bounds what is recorded of events that match nothing.
func (r *Router) removeUnmatched(ctx context.Context) {
	for pause(ctx, unmatchedLook) {
		if _, err := r.o.Store.RemoveUnmatched(ctx, unmatchedAge); err != nil && ctx.Err() == nil {
			r.o.Log.Warn("old unmatched events could not be removed", "error", err)
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
