package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
)

// Defaults of a Watchdog.
const (
	DefaultWatchEvery = 5 * time.Second
	// settleBatch is how many definitions are settled by one transaction.
	settleBatch = 200
	// adoptEvery is how many looks lie between two searches for definitions that an older version wrote.
	adoptEvery = 12
	// reachTimeout bounds the question whether Temporal is there.
	reachTimeout = 5 * time.Second
)

// WatchStore is what the watchdog needs of storage.
type WatchStore interface {
	// SlotsDue reports whether there is a slot to be judged.
	SlotsDue(ctx context.Context) (bool, error)
	// SettleDue judges the due slots of up to limit definitions and returns how many definitions it took.
	SettleDue(ctx context.Context, limit int) (int, error)
	// AdoptSlots takes charge of the slots of definitions that an older version of the service wrote.
	AdoptSlots(ctx context.Context) (int, error)
}

// WatchdogOptions are the options of a Watchdog. Every field but Every is required.
type WatchdogOptions struct {
	Store    WatchStore
	Temporal client.Client
	// Every is the pause between two looks; 0 for DefaultWatchEvery. A look that finds nothing is one indexed question.
	Every time.Duration
	Log   *slog.Logger
}

// Watchdog sees to it that every slot gets its row, whether or not Temporal's schedule starts it: what it accepts and
// nobody starts is for the sweeper. While Temporal is away it judges nothing, so that the slots of an outage are judged
// when it is over, by their definitions' misfire policies. Any number may run at once.
type Watchdog struct {
	o     WatchdogOptions
	looks int
}

// NewWatchdog makes a Watchdog.
func NewWatchdog(o WatchdogOptions) (*Watchdog, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("slot watchdog: Store is missing")
	case o.Temporal == nil:
		return nil, errors.New("slot watchdog: Temporal is missing")
	case o.Log == nil:
		return nil, errors.New("slot watchdog: Log is missing")
	}
	if o.Every == 0 {
		o.Every = DefaultWatchEvery
	}
	return &Watchdog{o: o}, nil
}

// Run watches until the context ends.
func (w *Watchdog) Run(ctx context.Context) error {
	tend(ctx, w.o.Log.With("caretaker", "slot watchdog"), 0, func(ctx context.Context) (time.Duration, error) {
		// Workers that start together do not all ask at once.
		return w.o.Every - rand.N(w.o.Every/5+1), w.look(ctx)
	})
	return nil
}

func (w *Watchdog) look(ctx context.Context) error {
	if w.looks%adoptEvery == 0 {
		if _, err := w.o.Store.AdoptSlots(ctx); err != nil {
			return err
		}
	}
	w.looks++
	due, err := w.o.Store.SlotsDue(ctx)
	if err != nil || !due {
		return err
	}
	if err := w.reach(ctx); err != nil {
		return fmt.Errorf("slots wait to be judged until Temporal answers: %w", err)
	}
	for {
		n, err := w.o.Store.SettleDue(ctx, settleBatch)
		if err != nil || n < settleBatch {
			return err
		}
	}
}

// reach asks Temporal for a workflow that does not exist: that it says so takes all of its parts that a start takes.
func (w *Watchdog) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	_, err := w.o.Temporal.DescribeWorkflowExecution(ctx, "activity-core-probe", "")
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return nil
	}
	return err
}

// CountSlots registers a counter of verdicts on slots, and returns what counts them. With perDefinition each definition has
// series of its own.
func CountSlots(registerer prometheus.Registerer, perDefinition bool) (func([]definition.Judged), error) {
	labels := []string{"verdict"}
	if perDefinition {
		labels = append(labels, "definition")
	}
	slots := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "actcore_slots_total",
		Help: "Slots that were judged, by verdict: accepted (in time), caught_up (late, and to be run), missed, coalesced (a newer " +
			"slot stands for it) and not_due (Temporal fired what is no slot).",
	}, labels)
	return func(judged []definition.Judged) {
		for _, j := range judged {
			verdict := string(j.Status)
			switch {
			case j.CatchUp:
				verdict = "caught_up"
			case j.Status == definition.RunSkipped && j.Reason == definition.ReasonCoalesced:
				verdict = "coalesced"
			case j.Status == definition.RunSkipped:
				verdict = "not_due"
			}
			values := []string{verdict}
			if perDefinition {
				values = append(values, j.DefinitionName)
			}
			slots.WithLabelValues(values...).Inc()
		}
	}, registerer.Register(slots)
}
