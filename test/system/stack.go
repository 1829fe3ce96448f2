package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
)

// NewOnOwnStack makes an installation on servers that this test alone uses, because it stops them by Control or gives them
// further variables, each as NAME=value.
func NewOnOwnStack(t *testing.T, env ...string) *System {
	t.Helper()
	stack := ownStack(t, env)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	database, _, err := testenv.CloneDatabase(ctx, stack.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	namespace, err := testenv.MakeNamespace(ctx, stack.TemporalAddress)
	if err != nil {
		t.Fatal(err)
	}
	return NewOn(t, stack, database, namespace, testenv.Names(t))
}

// ownStack starts servers that are stopped and removed when the test ends.
func ownStack(t *testing.T, env []string) testenv.Info {
	t.Helper()
	bin := testenv.Stack(t).DevstackBin
	dir, err := os.MkdirTemp("", "activity-core-test-stack-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres may run as another user
		t.Fatal(err)
	}
	file := filepath.Join(dir, "stack.json")
	cmd := exec.Command(bin, "servers", "--free-ports", "--data", filepath.Join(dir, "data"), "--info", file)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case _ = <-exited:
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			t.Error("the test's own servers did not stop within a minute")
		}
	})
	var info testenv.Info
	testenv.Eventually(t, 90*time.Second, "the test's own servers are up", func(context.Context) (bool, error) {
		select {
		case err := <-exited:
			exited <- err
			return false, fmt.Errorf("they ended: %w\n%s", err, out.String())
		default:
		}
		var err error
		info, err = testenv.ReadStackFile(file)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	})
	return info
}

// Control stops or starts a server of the test's own stack; deploy/devstack/control.go has the paths.
func (s *System) Control(path string) {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.T.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Stack.ControlURL+path, nil)
	if err != nil {
		s.T.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.T.Fatalf("control %s: %v", path, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusNoContent {
		body, _ := io.ReadAll(res.Body)
		s.T.Fatalf("control %s answered %d: %s", path, res.StatusCode, body)
	}
}
