package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary plays other programs when this variable names one: the devstack itself, as
// users run it, or a service that the devstack runs.
const (
	envPlay = "DEVSTACK_TEST_PLAY"
	envPart = "DEVSTACK_TEST_PART" // which service
)

func TestMain(m *testing.M) {
	switch os.Getenv(envPlay) {
	case "devstack":
		os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
	case "service":
		os.Exit(playService())
	}
	// The devstack calls itself, which is this binary.
	if err := os.Setenv(envPlay, "devstack"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// playService is any of activity-core's programs, as far as the devstack can tell.
func playService() int {
	name := os.Getenv(envPart)
	fmt.Println(strings.Join(append([]string{name}, os.Args[1:]...), " "), "runs")
	var addr string
	switch name {
	case "worker", "event-router":
		addr = os.Getenv("PROMETHEUS_BIND_ADDR")
	case "api":
		addr = os.Getenv("ACTCORE_API_ADDR")
	default:
		return 0
	}
	if os.Getenv("DEVSTACK_TEST_BROKEN") == name {
		fmt.Println("this one is broken")
		return 7
	}
	http.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/die", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	http.HandleFunc("/activity-definitions/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("cursor") == "" {
			fmt.Fprint(w, `{"items":[{"id":"c1","trigger_config":{"trigger_type":"cron"}}],"next_cursor":"x y"}`)
			return
		}
		fmt.Fprint(w, `{"items":[{"id":"m1","trigger_config":{"trigger_type":"manual"}}],"next_cursor":""}`)
	})
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	go http.Serve(listener, nil)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	if os.Getenv("DEVSTACK_TEST_STUBBORN") == name {
		fmt.Println("not yet")
		select {}
	}
	fmt.Println("bye")
	return 0
}

// playing returns the command that runs this test binary as the devstack.
func playing(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(self, args...)
}

// tempDir is t.TempDir outside of folders that the Postgres account cannot enter: the
// one that root's tests get is closed to others.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// awaitTrue polls cond for up to limit.
func awaitTrue(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// assertEmpty fails when dir holds anything.
func assertEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind in %s: %s", dir, e.Name())
	}
}

func TestRunUsage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args   []string
		code   int
		stderr string
	}{
		{nil, 2, "Usage:"},
		{[]string{"help"}, 0, ""},
		{[]string{"nonsense"}, 2, `unknown command "nonsense"`},
		{[]string{"servers", "more"}, 2, "unexpected arguments"},
		{[]string{"exec"}, 2, "unexpected arguments"},
		{[]string{"exec", "--no-such-flag", "true"}, 2, "flag provided but not defined"},
		{[]string{"dev", "-h"}, 0, "Usage:"},
	}
	for _, test := range tests {
		var stdout, stderr strings.Builder
		code := run(context.Background(), test.args, func(string) string { return "" }, &stdout, &stderr)
		if code != test.code || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("%q: code %d, stderr %q; want code %d, stderr with %q", test.args, code, stderr.String(), test.code, test.stderr)
		}
	}
}
