package ledger

import (
	"context"
	"log/slog"
	"time"
)

// tend runs a caretaker's step again and again until the context ends: after the pause first, then after the pause that
// each step asks for. A failure is logged once, and so is its end.
func tend(ctx context.Context, log *slog.Logger, first time.Duration, step func(context.Context) (pause time.Duration, err error)) {
	tendNudged(ctx, log, first, nil, step)
}

// nudgeGap is the least pause between two steps of which the second is a nudge's: what comes in one after the other is done
// together.
const nudgeGap = 100 * time.Millisecond

// tendNudged is tend, where a nudge ends a pause early, unless the last step failed.
func tendNudged(
	ctx context.Context, log *slog.Logger, first time.Duration, nudge <-chan struct{},
	step func(context.Context) (pause time.Duration, err error),
) {
	timer := time.NewTimer(first)
	defer timer.Stop()
	failing, heard, last := false, nudge, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-heard:
			if wait := nudgeGap - time.Since(last); wait > 0 {
				timer.Reset(wait)
				heard = nil
				continue
			}
		}
		pause, err := step(ctx)
		if heard, last = nudge, time.Now(); err != nil {
			heard = nil
		}
		switch {
		case err != nil && ctx.Err() == nil && !failing:
			log.Warn("failed; trying again until it works", "error", err)
			failing = true
		case err == nil && failing:
			log.Info("works again")
			failing = false
		}
		timer.Reset(pause)
	}
}
