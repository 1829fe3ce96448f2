package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/failpoint"
)

// Defaults of an Announcer.
const (
	// DefaultAnnounceEvery is the pause between two looks that find nothing, and after one that failed. What ends in a process of
	// the announcer's own is told at once, by a nudge.
	DefaultAnnounceEvery = 5 * time.Second
	announceBatch        = 200
	// announceLease is how long claimed ends are left to whoever claimed them.
	announceLease = 10 * time.Second
	// announcePause is how long an end waits that could not be told.
	announcePause = 15 * time.Second
	// announceTimeout bounds each call to storage.
	announceTimeout = 15 * time.Second
)

// AnnounceStore is what the announcer needs of storage.
type AnnounceStore interface {
	// ClaimEnds claims final rows that nobody was told of, until the lease has passed.
	ClaimEnds(ctx context.Context, limit int, lease time.Duration) ([]definition.RunEnd, error)
	// MarkAnnounced notes that these ends are told.
	MarkAnnounced(ctx context.Context, runIDs []string) error
	// ReturnEnds gives claimed ends back, to be claimed again after a pause.
	ReturnEnds(ctx context.Context, runIDs []string, pause time.Duration) error
	// EndedBefore returns how the run ended that ended before a run, of the same definition and kind; false when there is none.
	EndedBefore(ctx context.Context, run *definition.Run) (definition.RunStatus, bool, error)
}

// EventPublisher stores events in the stream.
type EventPublisher interface {
	// Publish stores messages and waits until they are stored, for some seconds. It returns an error for each of them that may not
	// have been, and nil in the places of the others. A message with the id of one that is there is as good as stored.
	Publish(ctx context.Context, messages []definition.Message) []error
}

// AnnouncerOptions are the options of an Announcer. Every field but Publisher and Every is required.
type AnnouncerOptions struct {
	Ledger *Ledger
	Store  AnnounceStore
	// Publisher gets the events of the ends; nil when none are to be published.
	Publisher EventPublisher
	// SubjectPrefix begins the subject of every event.
	SubjectPrefix string
	// Every is the pause between two looks that find nothing; 0 for DefaultAnnounceEvery. Such a look is one indexed statement.
	Every      time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Announcer tells of the ends of runs: it starts the notifications that the definition asks for, and publishes the event of the
// end. A row is marked only when both are done, so an end is told at least once, whoever dies meanwhile; the second time it
// has the same workflow id and the same event id. Any number may run at once.
type Announcer struct {
	o      AnnouncerOptions
	nudge  chan struct{}
	events *prometheus.CounterVec
	// away is set while the stream took nothing at the last try.
	away bool
}

// NewAnnouncer makes an Announcer.
func NewAnnouncer(o AnnouncerOptions) (*Announcer, error) {
	switch {
	case o.Ledger == nil:
		return nil, errors.New("announcer: Ledger is missing")
	case o.Store == nil:
		return nil, errors.New("announcer: Store is missing")
	case o.SubjectPrefix == "":
		return nil, errors.New("announcer: SubjectPrefix is missing")
	case o.Log == nil:
		return nil, errors.New("announcer: Log is missing")
	case o.Registerer == nil:
		return nil, errors.New("announcer: Registerer is missing")
	}
	if o.Every == 0 {
		o.Every = DefaultAnnounceEvery
	}
	a := &Announcer{o: o, nudge: make(chan struct{}, 1), events: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "actcore_run_events_total",
		Help: "Events of the ends of runs, by result: published, and failed (to be tried again).",
	}, []string{"result"})}
	for _, result := range []string{"published", "failed"} {
		a.events.WithLabelValues(result)
	}
	return a, o.Registerer.Register(a.events)
}

// Nudge says that a run has ended in this process. It never waits.
func (a *Announcer) Nudge() {
	select {
	case a.nudge <- struct{}{}:
	default: // it looks in any case
	}
}

// Run works until the context ends.
func (a *Announcer) Run(ctx context.Context) error {
	tendNudged(ctx, a.o.Log.With("caretaker", "announcer"), 0, a.nudge, func(ctx context.Context) (time.Duration, error) {
		full, err := a.announce(ctx)
		if full && err == nil {
			return 0, nil
		}
		return a.o.Every, err
	})
	return nil
}

// announce tells of one batch of ends; full reports that there may be more.
func (a *Announcer) announce(ctx context.Context) (full bool, err error) {
	claiming, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	ends, err := a.o.Store.ClaimEnds(claiming, announceBatch, announceLease)
	if err != nil || len(ends) == 0 {
		return false, err
	}
	// The notifications first: they do not need the stream, and an end is told once more when one of the two fails.
	faults := a.startNotifications(ctx, ends)
	a.publish(ctx, ends, faults)
	failpoint.Hit("announced")

	var told, back []string
	for i := range ends {
		if faults[i] == nil {
			told = append(told, ends[i].Run.ID)
		} else {
			back, err = append(back, ends[i].Run.ID), faults[i]
		}
	}
	// Also when the context has ended: what is told already would be told again.
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), announceTimeout)
	defer cancel()
	if len(told) > 0 {
		err = errors.Join(err, a.o.Store.MarkAnnounced(noting, told))
	}
	if len(back) > 0 {
		err = errors.Join(err, a.o.Store.ReturnEnds(noting, back, announcePause))
	}
	return len(ends) == announceBatch, err
}

// startNotifications starts the notifications that definitions ask for, and returns what went wrong, for each end. While Temporal
// is away it does not wait for one timeout after another; an end of which nobody wants to be told does not wait for it at all.
func (a *Announcer) startNotifications(ctx context.Context, ends []definition.RunEnd) []error {
	faults := make([]error, len(ends))
	var storage, temporal fuse
	group := errgroup.Group{}
	group.SetLimit(sweepConcurrency)
	for i := range ends {
		if len(ends[i].Notify) == 0 {
			continue
		}
		group.Go(func() error {
			in := definition.NotifyInput{RunID: ends[i].Run.ID}
			in.Send, faults[i] = a.notifications(ctx, &ends[i], &storage)
			if len(in.Send) > 0 {
				faults[i] = temporal.try(func() error { return a.o.Ledger.Notify(ctx, in) })
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
	return faults
}

// notifications returns the ones that an end asks for.
func (a *Announcer) notifications(ctx context.Context, end *definition.RunEnd, storage *fuse) ([]definition.NotifyOrder, error) {
	recovered := false
	if end.AsksRecovered() {
		err := storage.try(func() error {
			before, ok, err := a.o.Store.EndedBefore(ctx, &end.Run)
			recovered = ok && before.Recovers()
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var send []definition.NotifyOrder
	for i := range end.Notify {
		if on := end.Notify[i].Told(&end.Run, recovered); on != "" {
			send = append(send, definition.NotifyOrder{Index: i, On: on})
		}
	}
	return send, nil
}

// publish publishes the events of the ends that have no fault, and adds the faults that it met.
func (a *Announcer) publish(ctx context.Context, ends []definition.RunEnd, faults []error) {
	if a.o.Publisher == nil {
		return
	}
	var messages []definition.Message
	var of []int // the end of each message
	for i := range ends {
		if faults[i] != nil || ends[i].Silent() {
			continue
		}
		message, err := ends[i].Message(a.o.SubjectPrefix)
		if err != nil {
			faults[i] = fmt.Errorf("write the event of run %s: %w", ends[i].Run.ID, err)
			continue
		}
		messages, of = append(messages, message), append(of, i)
	}
	if len(messages) == 0 {
		return
	}
	var errs []error
	if a.away {
		// One is enough to find out, and a server that refuses one would refuse, and log, all of them.
		errs = a.o.Publisher.Publish(ctx, messages[:1])
	}
	if first := errors.Join(errs...); first != nil {
		for len(errs) < len(messages) {
			errs = append(errs, first)
		}
	} else {
		errs = append(errs, a.o.Publisher.Publish(ctx, messages[len(errs):])...)
	}
	stored := 0
	for k, err := range errs {
		faults[of[k]] = err
		if err == nil {
			stored++
		}
	}
	a.away = stored == 0
	a.events.WithLabelValues("published").Add(float64(stored))
	a.events.WithLabelValues("failed").Add(float64(len(errs) - stored))
}
