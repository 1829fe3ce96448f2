package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
)

// execIn prepares `devstack exec` with a temporary folder of its own, so that a test sees what is
// left behind.
func execIn(t *testing.T, script string) (cmd *exec.Cmd, tmp string, output *bytes.Buffer) {
	t.Helper()
	tmp = tempDir(t)
	cmd = playing(t, "exec", "--", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	output = new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = output, output
	return cmd, tmp, output
}

// assertStopped fails when a server that belongs to a folder is still running.
func assertStopped(t *testing.T, dir string) {
	t.Helper()
	var out []byte
	awaitTrue(t, 10*time.Second, "no process of "+dir+" runs", func() bool {
		out, _ = exec.Command("ps", "-eo", "pid=,command=").Output()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, dir) && !strings.Contains(line, "test.run") {
				return false
			}
		}
		return true
	})
}

func TestExecReturnsCodeAndLeavesNothing(t *testing.T) {
	t.Parallel()
	cmd, tmp, output := execIn(t, `read line; echo "got $line"; cat "$ACTCORE_TEST_STACK"; sleep 600 & exit 3`)
	cmd.Stdin = strings.NewReader("input\n")
	cmd.WaitDelay = time.Minute
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Fatalf("exit code %d, want 3; output: %s", code, output)
	}
	text, found := strings.CutPrefix(output.String(), "got input\n")
	if !found {
		t.Fatalf("output %q, want the input passed on", output)
	}
	var info stackInfo
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	self, err := os.Executable()
	must(t, err)
	if !strings.HasPrefix(info.PostgresURL, "postgres://actcore:actcore@127.0.0.1:") || !strings.HasPrefix(info.NATSURL, "nats://127.0.0.1:") ||
		!strings.HasPrefix(info.TemporalAddress, "127.0.0.1:") || !strings.HasPrefix(info.ControlURL, "http://127.0.0.1:") || info.DevstackBin != self {
		t.Errorf("addresses %+v", info)
	}
	assertEmpty(t, tmp)
	assertStopped(t, tmp)
}

func TestExecPassesSignals(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		script string
		sig    syscall.Signal
		code   int
	}{
		{"handled by the command", `trap 'exit 5' TERM; touch "$TMPDIR/up"; while :; do sleep 0.05; done`, syscall.SIGTERM, 5},
		{"ends the command", `touch "$TMPDIR/up"; exec sleep 600`, syscall.SIGINT, 130},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd, tmp, output := execIn(t, test.script)
			must(t, cmd.Start())
			up := filepath.Join(tmp, "up")
			awaitTrue(t, 60*time.Second, "the command runs", func() bool { _, err := os.Stat(up); return err == nil })
			must(t, cmd.Process.Signal(test.sig))
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != test.code {
				t.Fatalf("exit code %d, want %d; output: %s", code, test.code, output)
			}
			must(t, os.Remove(up))
			assertEmpty(t, tmp)
			assertStopped(t, tmp)
		})
	}
}

func TestExecKilledCommand(t *testing.T) {
	t.Parallel()
	cmd, tmp, output := execIn(t, `kill -KILL $$`)
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 128+9 {
		t.Fatalf("exit code %d, want 137; output: %s", code, output)
	}
	assertEmpty(t, tmp)
	assertStopped(t, tmp)
}

func TestExecInterruptedWhileStarting(t *testing.T) {
	t.Parallel()
	cmd, tmp, output := execIn(t, "echo must not run")
	must(t, cmd.Start())
	awaitTrue(t, 30*time.Second, "the data folder is there", func() bool {
		found, _ := filepath.Glob(filepath.Join(tmp, "*", clusterDirName))
		return len(found) > 0
	})
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+15 || strings.Contains(output.String(), "must not run") {
		t.Fatalf("exit code %d, want 143; output: %s", code, output)
	}
	assertEmpty(t, tmp)
	assertStopped(t, tmp)
}

func TestExecUnknownCommand(t *testing.T) {
	t.Parallel()
	cmd, tmp, output := execIn(t, "")
	cmd.Args = []string{cmd.Args[0], "exec", "no-such-command-here"}
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(output.String(), "devstack: run no-such-command-here: ") {
		t.Fatalf("exit code %d; output: %s", code, output)
	}
	assertEmpty(t, tmp)
}

// TestControl stops and starts each server under a client, in one process, and uses it afterwards.
func TestControl(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	ports, err := freeStackPorts()
	must(t, err)
	servers, err := startServers(t.Context(), stackOptions{
		DataDir: dir, Ports: ports, Getenv: os.Getenv, ResetHint: "reset", Notice: func(line string) { t.Log(line) },
	})
	must(t, err)
	t.Cleanup(func() {
		if err := servers.stop(); err != nil {
			t.Error(err)
		}
	})
	post := func(path string, want int) {
		t.Helper()
		resp, err := http.Post(servers.info.ControlURL+path, "", nil)
		must(t, err)
		defer resp.Body.Close()
		if resp.StatusCode != want {
			var body bytes.Buffer
			_, _ = body.ReadFrom(resp.Body)
			t.Fatalf("POST %s: %s: %s, want %d", path, resp.Status, body.String(), want)
		}
	}
	listens := func(address string) bool {
		_, port, _ := strings.Cut(address, ":")
		n, _ := strconv.Atoi(port)
		return !portFree(n)
	}
	for _, mode := range []string{"", "?mode=fast", "?mode=immediate"} {
		post("/postgres/stop"+mode, http.StatusNoContent)
		post("/postgres/stop"+mode, http.StatusNoContent) // it is stopped: nothing to do
		if !portFree(ports.Postgres) {
			t.Error("Postgres still listens")
		}
		post("/postgres/start", http.StatusNoContent)
		queryText(t, servers.info.PostgresURL, "SELECT 'here'")
	}
	post("/postgres/stop?mode=smart", http.StatusBadRequest)
	post("/nats/stop", http.StatusNoContent)
	if !portFree(ports.NATS) {
		t.Error("NATS still listens")
	}
	post("/nats/start", http.StatusNoContent)
	if !listens(address(ports.NATS)) {
		t.Error("NATS does not listen")
	}
	for range 2 {
		post("/temporal/stop", http.StatusNoContent)
		if !portFree(ports.Temporal) {
			t.Error("Temporal still listens")
		}
		post("/temporal/start", http.StatusNoContent)
	}
	post("/temporal/namespaces", http.StatusBadRequest)
	post("/temporal/namespaces?name=of-a-test", http.StatusNoContent)
	post("/temporal/namespaces?name=of-a-test", http.StatusNoContent)
	c, err := client.Dial(client.Options{HostPort: servers.info.TemporalAddress, Namespace: "of-a-test"})
	must(t, err)
	defer c.Close()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "w", TaskQueue: "q"}, "Nobody")
	must(t, err)
	must(t, c.TerminateWorkflow(t.Context(), run.GetID(), run.GetRunID(), "seen"))

	// Search attributes: made once, and refused when they exist with another type.
	must(t, servers.stack.temporal.registerSearchAttributes(t.Context(), "of-a-test"))
	must(t, servers.stack.temporal.registerSearchAttributes(t.Context(), "of-a-test"))
}

func TestServers(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	info := filepath.Join(dir, "info.json")
	data := filepath.Join(dir, "data")
	must(t, os.WriteFile(info, []byte("of an earlier run"), 0o644))
	cmd := playing(t, "servers", "--free-ports", "--data", data, "--info", info)
	output := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = output, output
	must(t, cmd.Start())
	var got stackInfo
	awaitTrue(t, 60*time.Second, "the file of addresses is there", func() bool {
		text, err := os.ReadFile(info)
		return err == nil && json.Unmarshal(text, &got) == nil
	})
	queryText(t, got.PostgresURL, "SELECT 'here'")

	second := playing(t, "servers", "--free-ports", "--data", data)
	out, _ := second.CombinedOutput()
	if want := "a devstack is already running on " + data; second.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), want) {
		t.Errorf("the second one: %s, want a line with %q", out, want)
	}

	// Killed, it leaves the data, and the next one goes on with it.
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	third := playing(t, "servers", "--free-ports", "--data", data, "--info", info)
	output.Reset()
	third.Stdout, third.Stderr = output, output
	must(t, third.Start())
	awaitTrue(t, 60*time.Second, "the next one is ready", func() bool { return strings.Contains(output.String(), "ready: ") })
	must(t, third.Process.Signal(syscall.SIGINT))
	if err := third.Wait(); err != nil {
		t.Errorf("%v: %s", err, output.String())
	}
	if _, err := os.Stat(info); !os.IsNotExist(err) {
		t.Errorf("the file of addresses is left behind: %v", err)
	}
	assertStopped(t, data)
}
