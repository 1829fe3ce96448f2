package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// journal notes what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, text)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// waiter is a component that takes drain to wind up.
func (j *journal) waiter(name string, drain time.Duration) Component {
	return Component{Name: name, Run: func(ctx context.Context) error {
		<-ctx.Done()
		j.add(name + " told")
		time.Sleep(drain) // the fake clock of synctest
		j.add(name + " ended")
		return ctx.Err()
	}}
}

func TestRunStopsInReverseOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var j journal
		result := make(chan error, 1)
		go func() {
			result <- Run(ctx, quiet(), j.waiter("ops", 0), j.waiter("database", time.Second), j.waiter("loop", 2*time.Second))
		}()
		synctest.Wait()
		if got := j.all(); len(got) != 0 {
			t.Fatalf("stopped before the end: %v", got)
		}
		cancel()
		if err := <-result; err != nil {
			t.Fatalf("Run: %v", err)
		}
		want := []string{"loop told", "loop ended", "database told", "database ended", "ops told", "ops ended"}
		if got := j.all(); !slices.Equal(got, want) {
			t.Errorf("order:\n got %v\nwant %v", got, want)
		}
	})
}

func TestRunFailureStopsTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		boom := errors.New("boom")
		err := Run(t.Context(), quiet(),
			j.waiter("ops", 0),
			Component{Name: "router", Run: func(context.Context) error { time.Sleep(time.Minute); return boom }},
			j.waiter("reaper", 0))
		if !errors.Is(err, boom) || err.Error() != "router: boom" {
			t.Errorf("error = %v, want router: boom", err)
		}
		want := []string{"reaper told", "reaper ended", "ops told", "ops ended"}
		if got := j.all(); !slices.Equal(got, want) {
			t.Errorf("order:\n got %v\nwant %v", got, want)
		}
	})
}

func TestRunCleanEndLeavesTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var j journal
		start := time.Now()
		err := Run(ctx, quiet(), j.waiter("ops", 0), Component{Name: "once", Run: func(context.Context) error { return nil }})
		if err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("Run ended after %v, want the whole minute", took)
		}
	})
}

func TestRunEndsWhenAllHaveEnded(t *testing.T) {
	t.Parallel()
	once := Component{Name: "once", Run: func(context.Context) error { return nil }}
	if err := Run(t.Context(), quiet(), once, once); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRunReportsOverrunAndGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var j journal
		release := make(chan struct{})
		stuck := Component{Name: "stuck", StopTimeout: 3 * time.Second, Run: func(context.Context) error { <-release; return nil }}
		err := Run(ctx, quiet(), j.waiter("ops", 0), stuck)
		close(release)
		if err == nil || err.Error() != "stuck: still running 3s after it was told to stop" {
			t.Errorf("error = %v", err)
		}
		if got := j.all(); !slices.Contains(got, "ops ended") {
			t.Errorf("ops was not stopped: %v", got)
		}
	})
}

func TestRunKeepsErrorsOfWindingUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := Run(ctx, quiet(),
			Component{Name: "a", Run: func(ctx context.Context) error { <-ctx.Done(); return errors.New("flush failed") }},
			Component{Name: "b", Run: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		if err == nil || err.Error() != "a: flush failed" {
			t.Errorf("error = %v, want a: flush failed", err)
		}
	})
}

func TestRunRefusesNamelessComponents(t *testing.T) {
	t.Parallel()
	run := func(context.Context) error { return nil }
	for _, c := range []Component{{Run: run}, {Name: "x"}} {
		if err := Run(t.Context(), quiet(), c); err == nil {
			t.Errorf("accepted %+v", c.Name)
		}
	}
	if err := Run(t.Context(), nil, Component{Name: "x", Run: run}); err == nil {
		t.Error("accepted no logger")
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		log := slog.New(slog.NewTextHandler(&out, nil))
		failures := []string{"refused", "refused", "refused", "timeout", "timeout", "timeout", "timeout", "timeout"}
		var at []time.Duration
		start := time.Now()
		err := Retry(t.Context(), log, "connect", func(context.Context) error {
			at = append(at, time.Since(start))
			if n := len(at) - 1; n < len(failures) {
				return errors.New(failures[n])
			}
			return nil
		})
		if err != nil {
			t.Fatalf("Retry: %v", err)
		}
		full := retryFirst
		for i := 1; i < len(at); i++ {
			if gap := at[i] - at[i-1]; gap > full || gap < full-full/4 {
				t.Errorf("pause %d = %v, want %v less at most a quarter", i, gap, full)
			}
			full = min(2*full, retryMax)
		}
		if n := strings.Count(out.String(), "level=WARN"); n != 2 {
			t.Errorf("%d warnings, want one for each of the two messages:\n%s", n, out.String())
		}
		if !strings.Contains(out.String(), "tries=9") {
			t.Errorf("the success is not logged:\n%s", out.String())
		}
	})
}

func TestRetryEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		refused := errors.New("refused")
		err := Retry(ctx, quiet(), "connect", func(context.Context) error { return refused })
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, refused) {
			t.Errorf("error = %v, want the deadline and the last failure", err)
		}
	})
}
