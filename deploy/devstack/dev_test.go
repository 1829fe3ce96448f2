package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lockedBuffer is a buffer that one goroutine reads while others write.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Reset()
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// checkout is a folder with programs that stand in for the services, and free ports.
type checkout struct {
	dir    string
	ports  devPorts
	env    []string
	output *lockedBuffer
}

func newCheckout(t *testing.T) *checkout {
	t.Helper()
	c := &checkout{dir: tempDir(t), output: &lockedBuffer{}}
	must(t, os.Mkdir(filepath.Join(c.dir, "bin"), 0o755))
	self, err := os.Executable()
	must(t, err)
	for _, name := range devPrograms {
		program := filepath.Join(c.dir, "bin", name)
		// The test binary itself, with a switch: a script, so that nothing has to be copied.
		script := fmt.Sprintf("#!/bin/sh\n%s=service %s=%s exec '%s' \"$@\"\n", envPlay, envPart, name, self)
		must(t, os.WriteFile(program, []byte(script), 0o755))
	}
	ports, err := freePorts(int(devPortCount))
	must(t, err)
	copy(c.ports[:], ports)
	c.env = append(os.Environ(), "TEMPORAL_API_KEY=of-another-installation")
	for p, entry := range devPortTable {
		c.env = append(c.env, fmt.Sprintf("%s=%d", entry.env, c.ports[p]))
	}
	return c
}

func (c *checkout) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := playing(t, args...)
	cmd.Dir, cmd.Env = c.dir, c.env
	cmd.Stdout, cmd.Stderr = c.output, c.output
	return cmd
}

// start runs `devstack dev` and waits for its banner.
func (c *checkout) start(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := c.command(t, "dev")
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	awaitTrue(t, 60*time.Second, "the banner", func() bool {
		if cmd.Process.Signal(syscall.Signal(0)) != nil {
			t.Fatalf("it ended: %s", c.output)
		}
		return strings.Contains(c.output.String(), "Ctrl-C stops everything.")
	})
	return cmd
}

func (c *checkout) assertOutput(t *testing.T, lines ...string) {
	t.Helper()
	rest := c.output.String()
	for _, line := range lines {
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Fatalf("no %q in its place in:\n%s", line, c.output)
		}
		rest = after
	}
}

func TestDevLife(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	cmd := c.start(t)
	api := fmt.Sprintf("http://localhost:%d", c.ports[portAPI])
	c.assertOutput(t,
		"Postgres is ready", "NATS is ready", "Temporal is ready", "Temporal UI is ready",
		"migrate        | migrate up runs", "migrate        | migrate seed runs",
		"sync-schedules | sync-schedules runs",
		"activity-core is ready in ", api, api+"/docs", fmt.Sprintf("http://localhost:%d", c.ports[portUI]),
		"curl "+api+"/activity-definitions/\n", "curl -s -X POST "+api+"/activity-definitions/m1/trigger\n")
	if strings.Contains(c.output.String(), "\x1b[") {
		t.Error("colours although the output is no terminal")
	}
	for _, page := range []string{
		fmt.Sprintf("http://127.0.0.1:%d/", c.ports[portUI]),
		fmt.Sprintf("http://127.0.0.1:%d/healthz", c.ports[portNATSMonitor]),
	} {
		if ok, err := httpOK(t.Context(), page); !ok {
			t.Errorf("%s: %v", page, err)
		}
	}

	// A second one in the same checkout, and a reset, are refused in one sentence.
	for _, args := range [][]string{{"dev"}, {"reset"}} {
		again := c.command(t, args...)
		again.Stdout, again.Stderr = nil, nil
		out, _ := again.CombinedOutput()
		want := fmt.Sprintf("a devstack is already running on %s (process %d)", filepath.Join(c.dir, ".dev"), cmd.Process.Pid)
		if again.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), want) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%q while it runs: %q, want one line with %q", args, out, want)
		}
	}

	// A service that ends is told about and started again.
	die(t, c.ports[portRouterMetrics])
	awaitTrue(t, 20*time.Second, "the restart", func() bool {
		ok, _ := httpOK(t.Context(), fmt.Sprintf("http://127.0.0.1:%d/readyz", c.ports[portRouterMetrics]))
		return ok
	})
	c.assertOutput(t, "Ctrl-C stops everything.", "event-router ended unexpectedly (exit status 3); starting it again in 1s", "event-router   | event-router runs")

	must(t, cmd.Process.Signal(syscall.SIGINT))
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v; output:\n%s", err, c.output)
	}
	c.assertOutput(t, "stopping; press Ctrl-C again", "stopping api", "api            | bye", "stopping event-router", "stopping worker",
		"stopping Temporal UI", "stopping Temporal\n", "stopping NATS", "stopping Postgres", "stopped in ")
	assertStopped(t, c.dir)

	// Its data is still there for the next one, which finds everything made.
	c.output.Reset()
	next := c.start(t)
	must(t, next.Process.Signal(syscall.SIGTERM))
	if err := next.Wait(); err != nil {
		t.Errorf("%v; output:\n%s", err, c.output)
	}
	assertStopped(t, c.dir)

	for range 2 { // the second time there is nothing to remove
		if out, err := func() ([]byte, error) {
			reset := c.command(t, "reset")
			reset.Stdout, reset.Stderr = nil, nil
			return reset.CombinedOutput()
		}(); err != nil {
			t.Errorf("reset: %v: %s", err, out)
		}
	}
	must(t, os.RemoveAll(filepath.Join(c.dir, "bin")))
	assertEmpty(t, c.dir)
}

func die(t *testing.T, port int) {
	t.Helper()
	if resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/die", port)); err == nil {
		resp.Body.Close()
		t.Fatal("it answered instead of dying")
	}
}

func TestDevKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	cmd := c.start(t)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	c.output.Reset()
	next := c.start(t) // finds its ports free and its data good
	must(t, next.Process.Signal(syscall.SIGTERM))
	if err := next.Wait(); err != nil {
		t.Errorf("%v; output:\n%s", err, c.output)
	}
	assertStopped(t, c.dir)
}

func TestDevHurries(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.env = append(c.env, "DEVSTACK_TEST_STUBBORN=event-router")
	cmd := c.start(t)
	must(t, cmd.Process.Signal(syscall.SIGINT))
	awaitTrue(t, 20*time.Second, "the stubborn service is asked to stop", func() bool {
		return strings.Contains(c.output.String(), "event-router   | not yet")
	})
	began := time.Now()
	awaitTrue(t, 10*time.Second, "the second signal is taken", func() bool {
		_ = cmd.Process.Signal(syscall.SIGINT) // too soon after the first one it counts as the same
		return strings.Contains(c.output.String(), "stopping at once")
	})
	if err := cmd.Wait(); err != nil || time.Since(began) > serviceStopGrace/2 {
		t.Errorf("%v after %s; output:\n%s", err, time.Since(began), c.output)
	}
	assertStopped(t, c.dir)
}

func TestDevGivesUpOnBrokenService(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.env = append(c.env, "DEVSTACK_TEST_BROKEN=event-router")
	cmd := c.command(t, "dev")
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	c.assertOutput(t,
		"event-router ended unexpectedly (exit status 7); starting it again in 1s", "in 2s", "in 4s", "in 8s",
		"stopping everything: event-router ended 5 times before it was ready (exit status 7); its last line: this one is broken",
		"stopping Postgres", "devstack: event-router ended 5 times before it was ready")
	assertStopped(t, c.dir)
}

func TestDevRefusals(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	listener, err := net.Listen("tcp", address(c.ports[portUI]))
	must(t, err)
	defer listener.Close()
	run := func() string {
		cmd := c.command(t, "dev")
		cmd.Stdout, cmd.Stderr = nil, nil
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || strings.Count(string(out), "\n") != 1 {
			t.Errorf("exit code %d, want 1 and one line: %q", cmd.ProcessState.ExitCode(), out)
		}
		return string(out)
	}
	if out, want := run(), fmt.Sprintf("devstack: port %d, which the Temporal UI needs, is taken by ", c.ports[portUI]); !strings.HasPrefix(out, want) {
		t.Errorf("got %q, want %q", out, want)
	}
	must(t, os.Remove(filepath.Join(c.dir, "bin", "worker")))
	if out, want := run(), "devstack: the program bin/worker is missing; run `make build` first\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	assertStopped(t, c.dir)
}

func TestRestartDelay(t *testing.T) {
	t.Parallel()
	var got []time.Duration
	for n := range 8 {
		got = append(got, restartDelay(n)/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 30, 30, 30}; !slices.Equal(got, want) {
		t.Errorf("got %d, want %d", got, want)
	}
}

func TestLeftOverServicesAreStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	sleep, err = filepath.EvalSymlinks(sleep)
	must(t, err)
	procs := map[string]*exec.Cmd{}
	file := newPIDFile(filepath.Join(dir, "services.json"))
	for name, program := range map[string]string{"ours": sleep, "theirs": "/another/program"} {
		procs[name] = exec.Command(sleep, "600")
		must(t, procs[name].Start())
		file.set(name, procs[name].Process.Pid, program)
	}
	ended := make(chan struct{})
	go func() { _ = procs["ours"].Wait(); close(ended) }()
	names, err := stopLeftOverServices(file.path)
	if err != nil || !slices.Equal(names, []string{"ours"}) {
		t.Errorf("stopped %q, %v", names, err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it still runs")
	}
	if procs["theirs"].Process.Signal(syscall.Signal(0)) != nil {
		t.Error("a process of another program was stopped")
	}
	_ = procs["theirs"].Process.Kill()
	_ = procs["theirs"].Wait()
	assertEmpty(t, dir)
}

func TestManualDefinitionUnknown(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := manualDefinition(ctx, "http://127.0.0.1:9"); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestSourceSplitsLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := newConsole(&out, environment(nil)).source("api", 1)
	for _, part := range []string{"one\ntw", "o\r\n\nthr", "ee"} {
		_, _ = io.WriteString(s, part)
	}
	s.flush()
	s.flush()
	_, _ = s.Write(bytes.Repeat([]byte("x"), maxLine+5))
	want := "api            | one\napi            | two\napi            | \napi            | three\napi            | " + strings.Repeat("x", maxLine+5) + "\n"
	if got := out.String(); got != want {
		t.Errorf("got %q", got[:min(len(got), 200)])
	}
	if s.lastLine() != strings.Repeat("x", maxLine+5) {
		t.Error("wrong last line")
	}
}
