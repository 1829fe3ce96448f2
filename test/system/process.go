package system

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
)

// Process is one running binary.
type Process struct {
	Name    string
	Metrics string            // address of /metrics
	Ready   string            // URL of /readyz
	Env     map[string]string // of the next Run

	t       *testing.T
	logPath string
	cmd     *exec.Cmd
	exited  chan struct{}
	err     error
}

// Run starts the process, for the first time or again after it ended.
func (p *Process) Run() {
	p.t.Helper()
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binDir, p.Name))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, key := range slices.Sorted(maps.Keys(p.Env)) {
		cmd.Env = append(cmd.Env, key+"="+p.Env[key])
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	go func() {
		p.err = cmd.Wait()
		_ = log.Close()
		close(exited)
	}()
}

// WaitReady waits until the process says that it is ready.
func (p *Process) WaitReady() {
	p.t.Helper()
	testenv.Eventually(p.t, 60*time.Second, p.Name+" is ready", func(ctx context.Context) (bool, error) {
		if p.Ended() {
			return false, fmt.Errorf("it ended: %w", p.err)
		}
		return HTTPOK(ctx, p.Ready), nil
	})
}

// Kill ends a process as a crash does, and waits for it to be gone.
func (p *Process) Kill() {
	p.t.Helper()
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// WaitKilled waits until a failpoint has ended the process as a crash does.
func (p *Process) WaitKilled(timeout time.Duration) {
	p.t.Helper()
	what := fmt.Sprintf("%s is killed by %s", p.Name, p.Env["ACTCORE_FAIL"])
	testenv.Eventually(p.t, timeout, what, func(context.Context) (bool, error) { return p.Ended(), nil })
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		p.t.Fatalf("%s: it ended with %v", what, p.err)
	}
}

// Continue lets a process go on that a failpoint has stopped.
func (p *Process) Continue() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		p.t.Fatalf("continue %s: %v", p.Name, err)
	}
}

// Stop asks a process to end and holds it to doing so cleanly.
func (p *Process) Stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // one that a failpoint has stopped would never hear it
	select {
	case <-p.exited:
		if p.err != nil {
			p.t.Errorf("%s stopped with %v", p.Name, p.err)
		}
	case <-time.After(40 * time.Second):
		p.t.Errorf("%s did not stop within 40 s", p.Name)
		p.Kill()
	}
}

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Log returns what the process has printed so far.
func (p *Process) Log() string {
	p.t.Helper()
	data, err := os.ReadFile(p.logPath)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(data)
}

// Compared waits until a worker has compared all schedules, as it does at its start: what happens to a schedule from then on
// and for minutes is found by its slots alone.
func (p *Process) Compared() {
	p.t.Helper()
	testenv.Eventually(p.t, 20*time.Second, p.Name+" has compared all schedules", func(context.Context) (bool, error) {
		n, _ := p.metric("temporal_request_total", `operation="ListSchedules"`)
		return n >= 1, nil
	})
}

// Metric adds up the series of a metric in a process' /metrics whose line holds every one of the labels.
func (p *Process) Metric(name string, labels ...string) float64 {
	p.t.Helper()
	sum, found := p.metric(name, labels...)
	if !found {
		p.t.Fatalf("%s has no metric %s %v", p.Name, name, labels)
	}
	return sum
}

func (p *Process) metric(name string, labels ...string) (sum float64, found bool) {
	p.t.Helper()
	res, err := http.Get("http://" + p.Metrics + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok {
			series, value, ok = strings.Cut(strings.TrimSpace(line), " ")
		}
		base, _, _ := strings.Cut(series, "{")
		if !ok || base != name || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(series, l) }) {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(value, &v); err != nil {
			p.t.Fatalf("metric line %q: %v", line, err)
		}
		sum, found = sum+v, true
	}
	return sum, found
}
