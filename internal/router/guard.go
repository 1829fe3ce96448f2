package router

import (
	"context"
	"sync"
)

// guard watches what the stream's retention does to events that no router has seen. The zero value is ready for use.
type guard struct {
	mu sync.Mutex
	// counted is the sequence up to which events that were lost have been counted.
	counted uint64
}

// lost returns how many events are lost that were not counted before: those between what was delivered and what is still there.
func (g *guard) lost(delivered, first, dropped uint64) uint64 {
	if dropped == 0 {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
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
	if lost := r.guard.lost(state.Delivered, state.First, state.Dropped); lost > 0 {
		r.metrics.dropped.Add(float64(lost))
		r.o.Log.Error("the stream's retention took events that no router has seen: they are lost", "count", lost,
			"first_stream_seq", state.First-lost, "last_stream_seq", state.First-1)
	}
}
