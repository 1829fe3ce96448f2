package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// DefaultStopTimeout is how long a component may take to stop when it names no
// limit of its own.
const DefaultStopTimeout = 10 * time.Second

// Component is one long-lived part of a process.
type Component struct {
	// Name appears in errors and logs. Required.
	Name string
	// Run works until its context ends, then winds up and returns. Returning
	// nil, or the context's error once it has ended, is a clean end; a clean
	// end before that leaves the other components running. Any other error
	// stops the process. Required.
	Run func(ctx context.Context) error
	// StopTimeout is how long Run may take to return after its context ended.
	// Default: DefaultStopTimeout.
	StopTimeout time.Duration
}

// Run starts the components in the order given and waits until ctx ends, one
// of them fails, or all of them have ended. Then it stops them one after
// another, last first; the package comment says why. It returns nil when all
// ended cleanly, and otherwise the errors, each with its component's name. A
// component that overruns its StopTimeout is reported and left behind.
func Run(ctx context.Context, log *slog.Logger, components ...Component) error {
	if log == nil {
		return errors.New("lifecycle: no logger")
	}
	for i, c := range components {
		if c.Name == "" || c.Run == nil {
			return fmt.Errorf("lifecycle: component %d has no name or no Run", i)
		}
	}
	running := make([]*runningComponent, len(components))
	ended := make(chan *runningComponent, len(components))
	for i, c := range components {
		running[i] = start(ctx, c, ended)
	}

	var errs []error
	for left := len(running); left > 0 && len(errs) == 0 && ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case r := <-ended:
			left--
			if r.err != nil {
				errs = append(errs, r.err)
				r.reported = true
			}
		}
	}
	if len(errs) > 0 {
		log.Error("a component failed, stopping the others", "error", errs[0])
	}
	for i := len(running) - 1; i >= 0; i-- {
		if err := running[i].stop(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// runningComponent is a component whose Run has been called.
type runningComponent struct {
	Component
	cancel   context.CancelFunc
	done     chan struct{}
	err      error // set before done is closed
	reported bool  // err is already part of the result
}

func start(ctx context.Context, c Component, ended chan<- *runningComponent) *runningComponent {
	// Not a child of ctx: the end of ctx must not stop all of them at once.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &runningComponent{Component: c, cancel: cancel, done: make(chan struct{})}
	go func() {
		err := c.Run(own)
		if err != nil && !(own.Err() != nil && errors.Is(err, context.Canceled)) {
			r.err = fmt.Errorf("%s: %w", c.Name, err)
		}
		close(r.done)
		ended <- r
	}()
	return r
}

// stop ends the component's context and waits for Run to return.
func (r *runningComponent) stop() error {
	r.cancel()
	limit := r.StopTimeout
	if limit <= 0 {
		limit = DefaultStopTimeout
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.done:
		if r.reported {
			return nil
		}
		return r.err
	case <-timer.C:
		return fmt.Errorf("%s: still running %v after it was told to stop", r.Name, limit)
	}
}
