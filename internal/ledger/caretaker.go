package ledger

import (
	"context"
	"log/slog"
	"time"
)

// tend runs a caretaker's step again and again until the context ends: after the pause first, then after the pause that
// each step asks for. A failure is logged once, and so is its end.
func tend(ctx context.Context, log *slog.Logger, first time.Duration, step func(context.Context) (pause time.Duration, err error)) {
	timer := time.NewTimer(first)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		pause, err := step(ctx)
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
