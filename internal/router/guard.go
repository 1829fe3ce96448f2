package router

import (
	"context"
	"sync"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// guard watches what the stream's retention does to events that no router has seen. The zero value is ready for use.
type guard struct {
	mu sync.Mutex
	// counted is the sequence up to which events that were lost have been counted.
	counted uint64
	// age is how long the stream keeps events, as storage was told; nil before that.
	age *time.Duration
}

// lost returns how many events are lost that were not counted before: those between what was delivered and what is still there.
func (g *guard) lost(delivered, first, dropped uint64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if first <= g.counted {
		g.counted = 0 // the stream was made anew: within one, the first sequence only grows
	}
	if dropped == 0 {
		return 0
	}
	from := max(delivered, g.counted)
	if first-1 <= from {
		return 0
	}
	g.counted = first - 1
	return first - 1 - from
}

// watchStream keeps the gauges of the stream up to date also while nothing is fetched.
func (r *Router) watchStream(ctx context.Context) {
	for pause(ctx, streamLook) {
		r.look(ctx)
	}
}

func (r *Router) look(ctx context.Context) {
	state, err := r.o.Source.Look(ctx)
	if err != nil {
		return // fetching tells of the same error
	}
	r.metrics.pending.Set(float64(state.Pending))
	r.metrics.risk.Set(state.Risk)
	blind := 0.0
	if state.Blind {
		blind = 1
	}
	r.metrics.blind.Set(blind)
	r.noteAge(ctx, state)
	if lost := r.guard.lost(state.Delivered, state.First, state.Dropped); lost > 0 {
		r.metrics.dropped.Add(float64(lost))
		r.o.Log.Error("the stream's retention took events that no router has seen: they are lost", "count", lost,
			"first_stream_seq", state.First-lost, "last_stream_seq", state.First-1)
	}
}

// noteAge tells storage how long the stream keeps events: what is known of them has to be kept for longer. What fails is tried again
// at the next look.
func (r *Router) noteAge(ctx context.Context, state definition.StreamState) {
	r.guard.mu.Lock()
	defer r.guard.mu.Unlock()
	if !state.Known || r.guard.age != nil && *r.guard.age == state.MaxAge {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if r.o.Store.NoteStreamAge(ctx, state.MaxAge) == nil {
		r.guard.age = &state.MaxAge
	}
}
