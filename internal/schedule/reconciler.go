package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/failpoint"
)

const (
	// DefaultPoll is how often an idle worker asks for dirty definitions: one statement each time.
	DefaultPoll = 1500 * time.Millisecond
	// DefaultFullEvery is how often a worker compares all schedules.
	DefaultFullEvery = 5 * time.Minute
	// PatrolRounds is how many full reconciles of one worker it takes until each schedule was described once.
	PatrolRounds = 288

	// answerTime bounds SyncNow: somebody waits for an answer.
	answerTime = 2 * time.Second
	// leaseTime is as long as the waits for a turn, for Temporal and for the storage together, so that work ends before its
	// lease does, and short, so that the lease of a killed process is soon free.
	leaseTime = 5 * time.Second
	turnTime  = time.Second
	workTime  = 3 * time.Second
	storeTime = time.Second

	// parallel is how many schedules a process reads and writes in Temporal at one time; hands is how many it works on, so that
	// Temporal is not left waiting while leases are taken and results recorded.
	parallel = 8
	hands    = 12
	// startSpread keeps workers that start together from comparing everything at the same moment.
	startSpread = 3 * time.Second

	// A failed try is repeated after firstBackoff, doubling up to lastBackoff; up to outageBackoff while Temporal is
	// unreachable, so that schedules follow soon after it is back.
	firstBackoff  = 250 * time.Millisecond
	lastBackoff   = time.Minute
	outageBackoff = 15 * time.Second

	snapshotPage = 5000
	listPage     = 1000
	markPage     = 1000
	listTimeout  = 5 * time.Minute
)

// Leases hands out the right to write a definition's schedule, one process at a time.
type Leases interface {
	// LeaseSync leases up to limit definitions that are due, for the time ttl.
	LeaseSync(ctx context.Context, ttl time.Duration, limit int) ([]definition.SyncItem, error)
	// LeaseSyncOf leases one definition, due or not. False: another process holds it, or it never had a schedule.
	LeaseSyncOf(ctx context.Context, definitionID string, ttl time.Duration) (definition.SyncItem, bool, error)
	// SettleSync records that the revision observed was seen in Temporal; definition.ErrLeaseLost when it was too late.
	SettleSync(ctx context.Context, item definition.SyncItem, observed int, specHash string) error
	// FailSync plans the next try; definition.ErrLeaseLost when it was too late.
	FailSync(ctx context.Context, item definition.SyncItem, next time.Duration, lastError string) error
}

// Table is what is known of all schedules.
type Table interface {
	// SyncSnapshot returns a page by definition id, after the given one.
	SyncSnapshot(ctx context.Context, afterID string, limit int) ([]definition.SyncEntry, error)
	// MarkSync makes definitions due now. It takes ids that it does not know.
	MarkSync(ctx context.Context, definitionIDs []string) error
	// GetDefinition returns a definition with the state of its schedule; definition.ErrNotFound when it is deleted.
	GetDefinition(ctx context.Context, id string) (definition.Stored, error)
	// ScheduleRemade notes that a schedule that had started nothing was made anew.
	ScheduleRemade(ctx context.Context, definitionID string) error
	// InstallationID returns the id that the database gave itself.
	InstallationID(ctx context.Context) (string, error)
}

// Store is the part of the storage that a Reconciler needs.
type Store interface {
	Leases
	Table
}

// Options are the dependencies of a Reconciler.
type Options struct {
	Store    Store         // required
	Temporal client.Client // required; its namespace is the schedules' namespace
	// TaskQueue is the queue on which schedules start run workflows. Required.
	TaskQueue  string
	Log        *slog.Logger          // required
	Registerer prometheus.Registerer // required

	Poll      time.Duration // default DefaultPoll
	FullEvery time.Duration // default DefaultFullEvery
}

// Reconciler makes schedules follow their definitions. Any number of them, in any number of processes, may work on the
// same database at the same time.
type Reconciler struct {
	store     Store
	temporal  client.Client
	taskQueue string
	log       *slog.Logger
	poll      time.Duration
	fullEvery time.Duration

	registerer prometheus.Registerer
	synced     *prometheus.CounterVec
	dirty      prometheus.Gauge

	// turn is held while a schedule is read and written in Temporal.
	turn chan struct{}

	suspectsMu sync.Mutex
	suspects   map[string]bool // schedules that the last comparison took for orphans

	installation atomic.Pointer[string] // nil until it was read
	away         atomic.Bool            // Temporal did not answer the last call
}

// NewReconciler checks the options. It calls nobody yet.
func NewReconciler(o Options) (*Reconciler, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("schedule: no Store")
	case o.Temporal == nil:
		return nil, errors.New("schedule: no Temporal client")
	case o.TaskQueue == "":
		return nil, errors.New("schedule: no TaskQueue")
	case o.Log == nil:
		return nil, errors.New("schedule: no Log")
	case o.Registerer == nil:
		return nil, errors.New("schedule: no Registerer")
	}
	if o.Poll <= 0 {
		o.Poll = DefaultPoll
	}
	if o.FullEvery <= 0 {
		o.FullEvery = DefaultFullEvery
	}
	r := &Reconciler{
		store: o.Store, temporal: o.Temporal, taskQueue: o.TaskQueue, log: o.Log, poll: o.Poll, fullEvery: o.FullEvery,
		registerer: o.Registerer,
		turn:       make(chan struct{}, parallel),
		synced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "actcore_schedule_sync_total",
			Help: "Looks at one definition's Temporal Schedule, by what they led to.",
		}, []string{"result"}),
		dirty: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "actcore_schedules_dirty",
			Help: "Definitions whose schedule was waiting to be brought up to date at the last full reconcile.",
		}),
	}
	for _, outcome := range Outcomes {
		r.synced.WithLabelValues(string(outcome))
	}
	if err := o.Registerer.Register(r.synced); err != nil {
		return nil, fmt.Errorf("schedule: register metrics: %w", err)
	}
	return r, nil
}

// SyncNow brings one definition's schedule up to date, for a caller that has just changed the definition and waits. It
// takes about two seconds at most: when another process holds the lease that long, or Temporal does not answer, the
// state is pending and a worker goes on. The state of a definition that never had a schedule is empty. An error means
// that the storage did not answer; the change is safe and a worker goes on as well.
func (r *Reconciler) SyncNow(ctx context.Context, definitionID string) (definition.SyncStatus, error) {
	deadline := time.Now().Add(answerTime)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	pending := definition.SyncStatus{State: definition.SyncPending}
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		item, ok, err := r.store.LeaseSyncOf(ctx, definitionID, leaseTime)
		if err != nil && pause > firstLook && ctx.Err() != nil {
			return pending, nil // the time was over in the midst of a question
		}
		if err != nil {
			return pending, err
		}
		if ok {
			// What is left of the time, less what it takes to store the result.
			_, err := r.carryOut(ctx, item, work{within: max(time.Until(deadline)-answerTime/8, answerTime/4)})
			return r.status(ctx, item, err)
		}
		stored, err := r.store.GetDefinition(ctx, definitionID)
		switch {
		case err == nil && stored.Sync.State != definition.SyncPending && stored.Sync.State != definition.SyncError:
			return stored.Sync, nil // somebody else did it, or there is nothing to do
		case err != nil && !errors.Is(err, definition.ErrNotFound):
			if ctx.Err() != nil {
				return pending, nil
			}
			return pending, err
		}
		pending = stored.Sync
		pending.State = definition.SyncPending
		if sleep(ctx, pause) != nil {
			return pending, nil
		}
	}
}

// status tells how a definition's schedule stands after a try under a lease.
func (r *Reconciler) status(ctx context.Context, item definition.SyncItem, failure error) (definition.SyncStatus, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	status := definition.SyncStatus{
		State: definition.SyncSynced, Desired: item.Desired, Observed: item.Desired, Since: time.Now().UTC(),
	}
	stored, err := r.store.GetDefinition(ctx, item.DefinitionID)
	switch {
	case err == nil:
		status = stored.Sync
	case !errors.Is(err, definition.ErrNotFound): // deleted: there is nothing to be read, and this try says it all
		return definition.SyncStatus{State: definition.SyncPending, Desired: item.Desired}, err
	}
	if failure != nil {
		status.State, status.LastError = definition.SyncError, failure.Error()
		if isOutage(failure) || errors.Is(failure, definition.ErrLeaseLost) || errors.Is(failure, definition.ErrUnavailable) {
			status.State = definition.SyncPending
		}
	}
	return status, nil
}

// Run makes schedules follow until the context ends: what is dirty within about two seconds, and everything that differs
// from the list of schedules at the start and every FullEvery. It returns nil after the work at hand is done.
func (r *Reconciler) Run(ctx context.Context) error {
	// Only here: whoever runs SyncNow alone never compares all schedules, and would show a zero that means nothing.
	if err := r.registerer.Register(r.dirty); err != nil {
		return fmt.Errorf("schedule: register metrics: %w", err)
	}
	defer r.registerer.Unregister(r.dirty)
	var wg sync.WaitGroup
	wg.Go(func() { r.followDirty(ctx) })
	wg.Go(func() { r.compareAll(ctx) })
	wg.Wait()
	return nil
}

// followDirty leases what is due, as much as there are free hands, and works on it.
func (r *Reconciler) followDirty(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	free, done := hands, make(chan struct{}, hands)
	var trouble string
	for ctx.Err() == nil {
		if free == 0 {
			<-done
			free++
		}
		for len(done) > 0 {
			<-done
			free++
		}
		asked := free
		items, err := r.leaseDue(ctx, asked)
		for _, item := range items {
			free--
			wg.Go(func() {
				defer func() { done <- struct{}{} }()
				r.carryOut(ctx, item, work{within: workTime, queues: true}) //nolint:errcheck // recorded with the item
			})
		}
		if len(items) == asked {
			continue // there may be more
		}
		switch {
		case err == nil:
			trouble = ""
		case ctx.Err() == nil && err.Error() != trouble:
			trouble = err.Error()
			r.log.Warn("cannot ask for schedules to bring up to date; trying again", "error", err)
		}
		if sleep(ctx, spread(r.poll)) != nil {
			return
		}
	}
}

func (r *Reconciler) leaseDue(ctx context.Context, limit int) ([]definition.SyncItem, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	return r.store.LeaseSync(ctx, leaseTime, limit)
}

// compareAll marks, again and again, what a full comparison nominates; followDirty, of this or another worker, does the
// work, so that workers share it.
func (r *Reconciler) compareAll(ctx context.Context) {
	patrol := &patrol{at: rand.IntN(PatrolRounds)}
	wait, backoff := rand.N(startSpread), time.Second
	for sleep(ctx, wait) == nil {
		marked, err := r.markNominated(ctx, patrol)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.log.Warn("cannot compare all schedules; trying again", "error", err)
			wait, backoff = spread(backoff), min(2*backoff, lastBackoff)
			continue
		case marked > 0:
			r.log.Info("schedules will be looked at", "count", marked)
		}
		wait, backoff = spread(r.fullEvery), time.Second
	}
}

func (r *Reconciler) markNominated(ctx context.Context, p *patrol) (int, error) {
	n, err := r.nominate(ctx, p)
	if err != nil {
		return 0, err
	}
	var ids []string
	for _, c := range n.candidates {
		if !c.dirty {
			ids = append(ids, c.id)
		}
	}
	return len(ids), r.mark(ctx, ids)
}

func (r *Reconciler) mark(ctx context.Context, ids []string) error {
	for page := range slices.Chunk(ids, markPage) {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, 10*storeTime)
			defer cancel()
			return r.store.MarkSync(ctx, page)
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// work is how one schedule is brought up to date.
type work struct {
	within time.Duration // the time for it
	absent bool          // a hint that there is no schedule yet
	queues bool          // it is one of many and waits for a turn
}

// carryOut makes the schedule of a leased definition as wanted and gives the lease back. It goes on to its end although the
// context is canceled: the lease must not outlive its owner.
func (r *Reconciler) carryOut(ctx context.Context, item definition.SyncItem, w work) (Change, error) {
	ctx = context.WithoutCancel(ctx)
	failpoint.Hit("sync-leased")
	change, hash, err := r.bring(ctx, item, w)
	failpoint.Hit("sync-read-back")
	outcome := change.Outcome()
	if err != nil {
		outcome = Failed
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	r.noteOutage(err)
	log := r.log.With("definition", item.DefinitionID, "revision", item.Desired)
	if err != nil {
		if item.Attempts == 0 && !isOutage(err) {
			log.Warn("schedule could not be brought up to date; trying again", "error", err)
		}
		if failErr := r.store.FailSync(ctx, item, backoff(item.Attempts, isOutage(err)), err.Error()); failErr != nil {
			log.Debug("failure was not recorded", "error", failErr) // the lease ends by itself
		}
	} else if err = r.store.SettleSync(ctx, item, item.Desired, hash); err != nil {
		outcome = Failed
		if errors.Is(err, definition.ErrLeaseLost) && change.Op != OpNone {
			// Written too late, perhaps over the work of the next holder: somebody has to look again.
			if markErr := r.store.MarkSync(ctx, []string{item.DefinitionID}); markErr != nil {
				err = errors.Join(err, markErr)
			}
		}
		log.Warn("schedule is up to date but that was not recorded; it will be looked at again", "error", err)
	}
	failpoint.Hit("sync-settled")
	r.synced.WithLabelValues(string(outcome)).Inc()
	if err == nil && change.Op != OpNone {
		log.Info("schedule brought up to date", "change", outcome, "reasons", change.Reasons)
	}
	return change, err
}

// bring does the part of carryOut that is not about the lease. It returns the hash to be recorded.
func (r *Reconciler) bring(ctx context.Context, item definition.SyncItem, w work) (Change, string, error) {
	if w.queues {
		defer r.await()()
	}
	ctx, cancel := context.WithTimeout(ctx, w.within)
	defer cancel()
	at, err := r.place(ctx)
	if err != nil {
		return Change{}, "", err
	}
	if item.Unreadable != nil {
		return Change{}, "", item.Unreadable
	}
	want, err := Want(item.Definition, at, time.Now())
	if err != nil {
		return Change{}, "", err
	}
	var change Change
	if item.Silent && want != nil && !want.Paused {
		if change, err = r.manager(at).remake(ctx, item.DefinitionID, want); err == nil {
			err = r.store.ScheduleRemade(ctx, item.DefinitionID)
		}
	} else {
		change, err = r.manager(at).reach(ctx, item.DefinitionID, want, w.absent)
	}
	if isOutage(err) {
		err = fmt.Errorf("temporal does not answer: %w", err)
	}
	return change, hashOf(want), err
}

// await waits for a turn, no longer than the lease allows, and returns what gives it back.
func (r *Reconciler) await() (done func()) {
	timer := time.NewTimer(turnTime)
	defer timer.Stop()
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }
	case <-timer.C:
		return func() {}
	}
}

func hashOf(want *Spec) string {
	if want == nil {
		return hashAbsent
	}
	_, hash := ParseMark(want.Mark)
	return hash
}

func (r *Reconciler) manager(at Place) manager {
	return manager{schedules: r.temporal.ScheduleClient(), installation: at.Installation}
}

// place returns where this installation's schedules live. The installation's id is read once.
func (r *Reconciler) place(ctx context.Context) (Place, error) {
	id := r.installation.Load()
	if id == nil {
		read, err := r.store.InstallationID(ctx)
		if err != nil {
			return Place{}, err
		}
		id = &read
		r.installation.Store(id)
	}
	return Place{Installation: *id, TaskQueue: r.taskQueue}, nil
}

// noteOutage logs when Temporal goes away and when it is back, instead of every failure meanwhile.
func (r *Reconciler) noteOutage(err error) {
	away := err != nil && isOutage(err)
	if r.away.Swap(away) == away {
		return
	}
	if away {
		r.log.Warn("temporal does not answer; schedules wait", "error", err)
	} else {
		r.log.Info("temporal answers again; schedules follow")
	}
}

// backoff is the pause before the next try.
func backoff(attempts int, outage bool) time.Duration {
	limit := lastBackoff
	if outage {
		limit = outageBackoff
	}
	d := min(firstBackoff<<min(attempts, 16), limit)
	return d - rand.N(d/4+1)
}

// spread makes a pause up to a fifth longer or shorter, so that processes do not act in step.
func spread(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
