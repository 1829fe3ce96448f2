// Package system drives the built binaries from outside, as a user does: over HTTP, NATS and a Temporal client, on real
// servers. It is the harness of the tests in test/e2e and test/faults; nothing of the services' code runs in them.
package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/testenv"
)

// binDir holds the binaries, built once from this checkout.
var binDir string

// Main builds the binaries, runs the tests of a package and removes the binaries. The binaries have the failpoints of
// internal/failpoint, which do nothing until ACTCORE_FAIL arms one of them.
//
// The tests of such a package wait for real time far more than they compute, so more of them run at once than there are
// processors: parallel, unless the flag -parallel says otherwise.
func Main(m *testing.M, parallel int) int {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", strconv.Itoa(parallel)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "activity-core-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	build := exec.Command("go", "build", "-tags", "failpoint", "-o", dir, "github.com/activity-core/activity-core/cmd/...")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the binaries: %v\n%s", err, out)
		return 1
	}
	binDir = dir
	return m.Run()
}

// System is one installation of activity-core: a database, a namespace, names of its own, and the processes started.
type System struct {
	T         *testing.T
	Stack     testenv.Info
	Namespace string
	Names     config.Names
	Database  string
	APIAddr   string
	// Env is the environment of every process.
	Env map[string]string

	Temporal client.Client
	JS       jetstream.JetStream

	logs  string
	mu    sync.Mutex
	procs []*Process
}

// New makes an installation on the shared test stack.
func New(t *testing.T) *System {
	t.Helper()
	return NewOn(t, testenv.Stack(t), testenv.DatabaseURL(t), testenv.Namespace(t), testenv.Names(t))
}

// NewOn makes an installation on the given servers. Its processes are stopped when the test ends.
func NewOn(t *testing.T, stack testenv.Info, database, namespace string, names config.Names) *System {
	t.Helper()
	s := &System{
		T: t, Stack: stack, Namespace: namespace, Names: names, Database: database, APIAddr: FreeAddr(t), logs: t.TempDir(),
	}
	s.Env = map[string]string{
		"ACTCORE_DB_URL": database, "TEMPORAL_HOST": stack.TemporalAddress, "TEMPORAL_NAMESPACE": namespace,
		"NATS_URL": stack.NATSURL, "ACTCORE_STREAM": names.Stream, "ACTCORE_SUBJECT_PREFIX": names.SubjectPrefix,
		"ACTCORE_DURABLE": names.Durable, "ACTCORE_ORCHESTRATOR_TASK_QUEUE": names.OrchestratorTaskQueue,
		"ACTCORE_TASK_TASK_QUEUE": names.TaskTaskQueue, "ACTCORE_API_ADDR": s.APIAddr, "ACTCORE_AUTH": "off", "LOG_FORMAT": "text",
		"ACTCORE_EGRESS_ALLOW": "127.0.0.0/8,::1", // the tests' own HTTP servers
	}
	var err error
	s.Temporal, err = client.Dial(client.Options{HostPort: stack.TemporalAddress, Namespace: namespace, Logger: testenv.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Temporal.Close)
	nc, err := nats.Connect(stack.NATSURL, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if s.JS, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stopAll)
	return s
}

// Start runs a service and waits until it is ready.
func (s *System) Start(name string, env ...string) *Process {
	s.T.Helper()
	p := s.Launch(name, env...)
	p.WaitReady()
	return p
}

// Launch runs a service without waiting. env has further variables, each as NAME=value.
func (s *System) Launch(name string, env ...string) *Process {
	s.T.Helper()
	p := &Process{t: s.T, Name: name, Metrics: FreeAddr(s.T), Env: maps.Clone(s.Env)}
	p.Env["PROMETHEUS_BIND_ADDR"] = p.Metrics
	for _, pair := range env {
		key, value, _ := strings.Cut(pair, "=")
		p.Env[key] = value
	}
	p.Ready = "http://" + p.Metrics + "/readyz"
	if name == "api" {
		p.Ready = "http://" + p.Env["ACTCORE_API_ADDR"] + "/readyz"
	}
	s.mu.Lock()
	s.procs = append(s.procs, p)
	p.logPath = filepath.Join(s.logs, fmt.Sprintf("%s-%d.log", name, len(s.procs)))
	s.mu.Unlock()
	p.Run()
	return p
}

// Command runs a one-shot binary to its end and returns what it printed.
func (s *System) Command(name string, args ...string) string {
	s.T.Helper()
	cmd := exec.CommandContext(s.T.Context(), filepath.Join(binDir, name), args...)
	for key, value := range s.Env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			s.T.Fatalf("%s %v: %v\n%s%s", name, args, err, out, exit.Stderr)
		}
		s.T.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out)
}

func (s *System) stopAll() {
	for _, p := range s.procs {
		if !p.Ended() {
			p.Stop()
		}
	}
	if !s.T.Failed() {
		return
	}
	for _, p := range s.procs {
		data, _ := os.ReadFile(p.logPath)
		lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
		s.T.Logf("last lines of %s:\n%s", filepath.Base(p.logPath), bytes.Join(lines[max(0, len(lines)-25):], []byte("\n")))
	}
}

// Object is a JSON object of an answer.
type Object map[string]any

// Str returns a member that is a string, and "" for any other.
func (o Object) Str(key string) string {
	v, _ := o[key].(string)
	return v
}

// Time returns a member that is a time, and the zero time for any other.
func (o Object) Time(key string) time.Time {
	t, _ := time.Parse(time.RFC3339, o.Str(key))
	return t
}

// Int returns a member that is a number, and 0 for any other.
func (o Object) Int(key string) int {
	v, _ := o[key].(float64)
	return int(v)
}

// Object returns a member that is an object, and an empty one for any other.
func (o Object) Object(key string) Object {
	v, _ := o[key].(map[string]any)
	return v
}

// Call makes a request to the API and returns the status and the decoded body.
func (s *System) Call(method, path, body string) (int, Object) {
	s.T.Helper()
	status, answer, err := s.TryCall(s.T.Context(), method, path, body)
	if err != nil {
		s.T.Fatalf("%s %s: %v", method, path, err)
	}
	return status, answer
}

// TryCall is Call for a time at which the API may be away. headers are names and values.
func (s *System) TryCall(ctx context.Context, method, path, body string, headers ...string) (int, Object, error) {
	return TryCallAt(ctx, s.APIAddr, method, path, body, headers...)
}

// TryCallAt is TryCall for one of several processes.
func TryCallAt(ctx context.Context, address, method, path, body string, headers ...string) (int, Object, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, reader)
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil || len(data) == 0 {
		return res.StatusCode, nil, err
	}
	var answer Object
	if err := json.Unmarshal(data, &answer); err != nil {
		return res.StatusCode, nil, fmt.Errorf("answer %d is not a JSON object: %s", res.StatusCode, data)
	}
	return res.StatusCode, answer, nil
}

// Create makes a definition and returns its id.
func (s *System) Create(body string) string {
	s.T.Helper()
	status, answer := s.Call(http.MethodPost, "/activity-definitions/", body)
	if status != http.StatusCreated {
		s.T.Fatalf("create answered %d: %v", status, answer)
	}
	return answer.Str("id")
}

// Runs returns all runs of a definition.
func (s *System) Runs(definitionID string) []Object {
	s.T.Helper()
	list, err := s.TryRuns(s.T.Context(), definitionID)
	if err != nil {
		s.T.Fatal(err)
	}
	return list
}

// TryRuns is Runs for a time at which the API may be away.
func (s *System) TryRuns(ctx context.Context, definitionID string) ([]Object, error) {
	var all []Object
	for cursor := ""; ; {
		status, page, err := s.TryCall(ctx, http.MethodGet, "/activity-definitions/"+definitionID+"/runs?limit=500"+cursor, "")
		if err != nil {
			return nil, err
		}
		if status != http.StatusOK {
			return nil, fmt.Errorf("list runs answered %d: %v", status, page)
		}
		items, _ := page["items"].([]any)
		for _, item := range items {
			run, _ := item.(map[string]any)
			all = append(all, run)
		}
		next := page.Str("next_cursor")
		if next == "" {
			return all, nil
		}
		cursor = "&cursor=" + next
	}
}

// Counts returns how many runs of a definition are in each state.
func (s *System) Counts(ctx context.Context, definitionID string) (map[string]int, error) {
	list, err := s.TryRuns(ctx, definitionID)
	counts := map[string]int{}
	for _, run := range list {
		counts[run.Str("status")]++
	}
	return counts, err
}

// Publish sends an envelope and waits for JetStream's acknowledgement. msgID is JetStream's own duplicate key.
func (s *System) Publish(eventType, eventID, msgID, payload string) {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.T.Context(), 10*time.Second)
	defer cancel()
	envelope := fmt.Sprintf(`{"event_id": %q, "type": %q, "source": "e2e", "occurred_at": %q, "payload": %s}`,
		eventID, eventType, time.Now().UTC().Format(time.RFC3339), payload)
	_, err := s.JS.Publish(ctx, s.Names.SubjectPrefix+"."+eventType, []byte(envelope), jetstream.WithMsgID(msgID))
	if err != nil {
		s.T.Fatalf("publish %s: %v", eventID, err)
	}
}

// Workflows counts the workflows that a visibility query finds.
func (s *System) Workflows(ctx context.Context, query string) (int64, error) {
	answer, err := s.Temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{
		Namespace: s.Namespace, Query: query,
	})
	if err != nil {
		return 0, err
	}
	return answer.GetCount(), nil
}

// HTTPOK reports whether a URL answers 200.
func HTTPOK(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// FreeAddr returns an address that nobody listens on.
func FreeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
