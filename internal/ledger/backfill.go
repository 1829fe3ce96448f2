package ledger

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
)

// Pauses of a Backfiller between two looks.
const (
	// DefaultBackfillEvery is the pause while no backfill is active.
	DefaultBackfillEvery = 5 * time.Second
	// activePause is the pause while one is: how long the place of a run that ended stays empty.
	activePause = 500 * time.Millisecond
)

// BackfillStore is what the backfiller needs of storage.
type BackfillStore interface {
	// ReleaseBackfills lets the next runs of active backfills begin, and reports whether there are active ones.
	ReleaseBackfills(ctx context.Context) (starts []definition.Start, active bool, err error)
}

// BackfillerOptions are the options of a Backfiller. Every field but Every is required.
type BackfillerOptions struct {
	Ledger *Ledger
	Store  BackfillStore
	// Every is the pause between two looks while no backfill is active; 0 for DefaultBackfillEvery.
	Every time.Duration
	Log   *slog.Logger
}

// Backfiller starts the runs of backfills, as many at a time as each of them allows. Any number may run at once.
type Backfiller struct{ o BackfillerOptions }

// NewBackfiller makes a Backfiller.
func NewBackfiller(o BackfillerOptions) (*Backfiller, error) {
	switch {
	case o.Ledger == nil:
		return nil, errors.New("backfiller: Ledger is missing")
	case o.Store == nil:
		return nil, errors.New("backfiller: Store is missing")
	case o.Log == nil:
		return nil, errors.New("backfiller: Log is missing")
	}
	if o.Every == 0 {
		o.Every = DefaultBackfillEvery
	}
	return &Backfiller{o: o}, nil
}

// Run works until the context ends.
func (b *Backfiller) Run(ctx context.Context) error {
	tend(ctx, b.o.Log.With("caretaker", "backfiller"), 0, func(ctx context.Context) (time.Duration, error) {
		starts, active, err := b.o.Store.ReleaseBackfills(ctx)
		if err != nil {
			return b.o.Every, err
		}
		group := errgroup.Group{}
		group.SetLimit(sweepConcurrency)
		for _, start := range starts {
			// What cannot be started now is for the sweeper.
			group.Go(func() error { return b.o.Ledger.Start(ctx, start) })
		}
		err = group.Wait()
		if active {
			return activePause, err
		}
		return b.o.Every, err
	})
	return nil
}
