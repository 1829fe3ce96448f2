package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	retryFirst = 250 * time.Millisecond
	retryMax   = 5 * time.Second
)

// Retry calls fn until it returns nil or ctx ends, and waits between the tries:
// 250 ms, doubling to 5 s, each a random bit shorter so that replicas do not
// try in step. It logs the first failure, every failure that reads otherwise
// than the one before, and the success that follows. Each try must have a
// deadline of its own; Retry sets none. It returns nil, or the context's error
// with the last failure.
func Retry(ctx context.Context, log *slog.Logger, what string, fn func(ctx context.Context) error) error {
	wait := retryFirst
	var last string
	for tries := 1; ; tries++ {
		err := fn(ctx)
		if err == nil {
			if tries > 1 {
				log.Info("succeeded at last", "what", what, "tries", tries)
			}
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w (last failure: %w)", what, context.Cause(ctx), err)
		}
		if text := err.Error(); text != last {
			log.Warn("failed, trying again", "what", what, "error", err)
			last = text
		}
		timer := time.NewTimer(wait - rand.N(wait/4))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s: %w (last failure: %w)", what, context.Cause(ctx), err)
		case <-timer.C:
		}
		wait = min(2*wait, retryMax)
	}
}
