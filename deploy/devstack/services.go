package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	firstRestart      = time.Second
	longestRestart    = 30 * time.Second
	stableAfter       = time.Minute // a service that lived this long starts the backoff anew
	maxEarlyDeaths    = 5           // before a service was first ready
	serviceStopGrace  = 20 * time.Second
	slowStartReminder = 20 * time.Second
	oneShotTimeout    = 2 * time.Minute
)

// service is one of activity-core's own long-running processes under supervision: it is restarted when it
// ends by itself.
type service struct {
	name    string
	path    string
	env     []string
	readyAt string // URL of its /readyz
	console *console
	out     *source
	pids    *pidFile
	gaveUp  func(error) // called when it cannot be brought up

	ready   chan struct{} // closed when it is ready for the first time
	stopped chan struct{} // closed when supervision has ended
	cancel  context.CancelFunc

	mu   sync.Mutex
	proc *child // the present process; nil between two lives
}

// start begins the supervision.
func (s *service) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.ready, s.stopped, s.cancel = make(chan struct{}), make(chan struct{}), cancel
	go func() {
		defer close(s.stopped)
		s.supervise(ctx)
	}()
}

// supervise runs the service, life after life, until ctx ends.
func (s *service) supervise(ctx context.Context) {
	wasReady := false
	earlyDeaths, restarts := 0, 0
	for ctx.Err() == nil {
		began := time.Now()
		proc, err := s.launch(ctx)
		if err != nil {
			s.gaveUp(fmt.Errorf("%s cannot be started: %w", s.name, err))
			return
		}
		if proc == nil { // stopped in the meantime
			return
		}
		if !wasReady {
			wasReady = s.awaitReady(ctx, proc)
		}
		<-proc.done
		proc.signalGroup(syscall.SIGKILL) // what it may have left behind
		s.out.flush()
		if ctx.Err() != nil {
			return
		}
		if !wasReady {
			earlyDeaths++
			if earlyDeaths == maxEarlyDeaths {
				s.gaveUp(fmt.Errorf("%s ended %d times before it was ready (%s); its last line: %s",
					s.name, earlyDeaths, proc.exitText(), s.out.lastLine()))
				return
			}
		}
		if time.Since(began) >= stableAfter {
			restarts = 0
		}
		delay := restartDelay(restarts)
		restarts++
		s.console.line("%s ended unexpectedly (%s); starting it again in %s", s.name, proc.exitText(), delay)
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

// restartDelay is the pause before a restart, given how many came before it.
func restartDelay(restarts int) time.Duration {
	delay := firstRestart
	for range restarts {
		delay = min(2*delay, longestRestart)
	}
	return delay
}

// launch starts the process; it returns nil when the service was stopped first.
func (s *service) launch(ctx context.Context) (*child, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return nil, nil
	}
	cmd := exec.Command(s.path)
	cmd.Env = s.env
	cmd.Stdout, cmd.Stderr = s.out, s.out
	cmd.WaitDelay = 2 * time.Second // a grandchild may hold the pipe open
	proc, err := startChild(cmd, syscall.SIGTERM, nil)
	if err != nil {
		return nil, err
	}
	s.proc = proc
	s.pids.set(s.name, proc.cmd.Process.Pid, s.path)
	return proc, nil
}

// awaitReady polls /readyz until the service is ready, which it returns, or has ended.
func (s *service) awaitReady(ctx context.Context, proc *child) bool {
	began := time.Now()
	reminder := time.NewTicker(slowStartReminder)
	defer reminder.Stop()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	why := "it does not answer"
	for {
		select {
		case <-proc.done:
			return false
		case <-ctx.Done():
			return false
		case <-reminder.C:
			s.console.line("%s is not ready after %.0f s: %s; waiting", s.name, time.Since(began).Seconds(), why)
			continue
		case <-poll.C:
		}
		ok, reason := readiness(ctx, s.readyAt)
		if ok && proc.running() {
			close(s.ready)
			return true
		}
		if reason != "" {
			why = reason
		}
	}
}

// stop ends the service: SIGTERM, and SIGKILL after the grace time or once hurry is closed.
func (s *service) stop(hurry <-chan struct{}) {
	s.cancel()
	s.mu.Lock()
	proc := s.proc
	s.mu.Unlock()
	if proc != nil {
		proc.signal(syscall.SIGTERM)
		grace := time.NewTimer(serviceStopGrace)
		defer grace.Stop()
		select {
		case <-proc.done:
		case <-hurry:
			proc.signal(syscall.SIGKILL)
		case <-grace.C:
			s.console.line("%s did not stop within %s and is killed", s.name, serviceStopGrace)
			proc.signal(syscall.SIGKILL)
		}
	}
	<-s.stopped
	s.pids.remove(s.name)
}

// readiness asks a /readyz. When the answer is no, it returns its text on one line.
func readiness(ctx context.Context, url string) (ok bool, reason string) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 2<<10))
	return resp.StatusCode < 300, strings.Join(strings.Fields(string(body)), " ")
}

// oneShot runs a program to its end, its output on the console.
func oneShot(ctx context.Context, out *source, env []string, path string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, oneShotTimeout)
	defer cancel()
	what := strings.Join(append([]string{filepath.Base(path)}, args...), " ")
	cmd := exec.Command(path, args...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 2 * time.Second
	proc, err := startChild(cmd, syscall.SIGKILL, nil)
	if err != nil {
		return fmt.Errorf("%s cannot be started: %w", what, err)
	}
	select {
	case <-proc.done:
	case <-ctx.Done():
		proc.signalGroup(syscall.SIGKILL)
		<-proc.done
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	out.flush()
	if proc.err != nil {
		return fmt.Errorf("%s failed (%s): %s", what, proc.exitText(), out.lastLine())
	}
	return nil
}
