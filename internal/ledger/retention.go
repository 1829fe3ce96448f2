package ledger

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
)

// Defaults of a Retention.
const (
	DefaultRetainEvery = time.Hour
	// retainFirst is the least time between the start of a process and its first look.
	retainFirst = 5 * time.Second
	// retainPause follows each batch, for those who have other work for Postgres.
	retainPause = 200 * time.Millisecond
	// retainAgain follows a failure.
	retainAgain = time.Minute
	// retainTimeout bounds one batch.
	retainTimeout = time.Minute
)

// RetentionStore is what retention needs of storage.
type RetentionStore interface {
	// RemoveOld removes a batch of the rows of one of definition.RetentionTables that are older than an age.
	RemoveOld(ctx context.Context, table string, age time.Duration, from int64) (definition.Removed, error)
	// KeepsEvents reports whether old events are kept because it is not known how long the stream keeps them.
	KeepsEvents(ctx context.Context, age time.Duration) (bool, error)
}

// RetentionOptions are the options of a Retention. Every field but Every is required.
type RetentionOptions struct {
	Store RetentionStore
	// Age is how long what is over is kept; 0 for ever, but for idempotency keys, which say themselves when they are over.
	Age time.Duration
	// Every is the pause between two looks; 0 for DefaultRetainEvery.
	Every      time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Retention removes what is over and old, in small batches. Any number may run at once.
type Retention struct {
	o       RetentionOptions
	removed *prometheus.CounterVec
	told    bool // that events are kept
}

// NewRetention makes a Retention.
func NewRetention(o RetentionOptions) (*Retention, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("retention: Store is missing")
	case o.Age < 0:
		return nil, errors.New("retention: Age must not be negative")
	case o.Log == nil:
		return nil, errors.New("retention: Log is missing")
	case o.Registerer == nil:
		return nil, errors.New("retention: Registerer is missing")
	}
	if o.Every == 0 {
		o.Every = DefaultRetainEvery
	}
	r := &Retention{o: o, removed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "actcore_retention_removed_total",
		Help: "Rows that were removed because they were old, by table. What belongs to a removed row (the tasks of a run, the " +
			"revisions of a deleted definition) is not counted.",
	}, []string{"table"})}
	for _, table := range definition.RetentionTables {
		r.removed.WithLabelValues(table)
	}
	return r, o.Registerer.Register(r.removed)
}

// Run works until the context ends. Workers that start together do not all look at once.
func (r *Retention) Run(ctx context.Context) error {
	tend(ctx, r.o.Log.With("caretaker", "retention"), retainFirst+rand.N(retainFirst), func(ctx context.Context) (time.Duration, error) {
		if err := r.sweep(ctx); err != nil {
			return retainAgain, err
		}
		return r.o.Every - rand.N(r.o.Every/10+1), nil
	})
	return nil
}

// sweep goes through all tables once.
func (r *Retention) sweep(ctx context.Context) error {
	tables := definition.RetentionTables
	if r.o.Age == 0 {
		tables = []string{definition.TableKeys}
	}
	counts := []any{}
	for _, table := range tables {
		n, err := r.remove(ctx, table)
		if n > 0 {
			counts = append(counts, table, n)
		}
		if err != nil {
			return err
		}
	}
	if len(counts) > 0 {
		r.o.Log.Info("removed old rows", slog.Group("rows", counts...))
	}
	if r.o.Age == 0 {
		return nil
	}
	kept, err := r.o.Store.KeepsEvents(ctx, r.o.Age)
	if err != nil {
		return err
	}
	if kept && !r.told {
		r.o.Log.Warn("old events and their runs are kept: no router could see how long the stream keeps events, for want of the right " +
			"to ask for its settings")
	}
	r.told = kept
	return nil
}

// remove removes what is old of one table, batch by batch, and returns how many rows that were.
func (r *Retention) remove(ctx context.Context, table string) (n int, err error) {
	for from := int64(0); ; {
		batch, err := func() (definition.Removed, error) {
			ctx, cancel := context.WithTimeout(ctx, retainTimeout)
			defer cancel()
			return r.o.Store.RemoveOld(ctx, table, r.o.Age, from)
		}()
		if err != nil {
			return n, err
		}
		n += batch.Rows
		r.removed.WithLabelValues(table).Add(float64(batch.Rows))
		if !batch.More {
			return n, nil
		}
		from = batch.From
		timer := time.NewTimer(retainPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return n, ctx.Err()
		case <-timer.C:
		}
	}
}
