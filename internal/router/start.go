package router

import (
	"context"
	"sync"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// start is a row whose workflow is to be started, and the item that waits for the try.
type start struct {
	item *item
	definition.Start
}

// start tries to start one run, unless Temporal is known to be away: then the sweeper does it later.
func (r *Router) start(ctx context.Context, s start) {
	now := time.Now()
	if !r.breaker.allow(now) {
		r.metrics.deferred.Inc()
		r.done(s.item, now)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := r.o.Ledger.Start(ctx, s.Start)
	now = time.Now()
	switch r.breaker.report(now, err) {
	case opened:
		r.o.Log.Warn("runs cannot be started, leaving them to the sweeper until that is over", "error", err)
	case closed:
		r.o.Log.Info("runs can be started again")
	}
	if err != nil {
		r.metrics.deferred.Inc()
	}
	r.done(s.item, now)
}

const (
	// breakerFailures in a row open the breaker.
	breakerFailures = 10
	// breakerPause is how long it stays open before one start is tried.
	breakerPause = 2 * time.Second
)

// breaker remembers that starts fail, so that they are not all tried. The zero value is closed.
type breaker struct {
	mu        sync.Mutex
	failures  int
	openUntil time.Time // zero while closed
}

// change is what a report did to the breaker.
type change int

const (
	unchanged change = iota
	opened
	closed
)

// allow reports whether to try. While the breaker is open, one try is allowed after each pause.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.openUntil.IsZero() {
		return true
	}
	if now.Before(b.openUntil) {
		return false
	}
	b.openUntil = now.Add(startTimeout + breakerPause)
	return true
}

// report tells how a try that was allowed ended.
func (b *breaker) report(now time.Time, err error) change {
	b.mu.Lock()
	defer b.mu.Unlock()
	wasOpen := !b.openUntil.IsZero()
	if err == nil {
		b.failures, b.openUntil = 0, time.Time{}
		if wasOpen {
			return closed
		}
		return unchanged
	}
	b.failures++
	if b.failures < breakerFailures {
		return unchanged
	}
	b.openUntil = now.Add(breakerPause)
	if wasOpen {
		return unchanged
	}
	return opened
}
