// Package e2e drives the built binaries from outside, as a user does: over HTTP, NATS and a Temporal client, on real
// servers. Nothing of the services' code runs in these tests.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/testenv"
)

// binDir holds the binaries, built once from this checkout.
var binDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "activity-core-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		build := exec.Command("go", "build", "-o", dir, "../../cmd/...")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the binaries: %v\n%s", err, out)
			return 1
		}
		binDir = dir
		return m.Run()
	}())
}

// system is one installation of activity-core: a database, a namespace, names of its own, and the processes started.
type system struct {
	t         *testing.T
	stack     testenv.Info
	namespace string
	names     config.Names
	database  string
	apiAddr   string
	env       map[string]string
	logs      string

	temporal client.Client
	js       jetstream.JetStream

	mu    sync.Mutex
	procs []*process
}

// process is one running binary.
type process struct {
	t       *testing.T
	name    string
	metrics string // address of /metrics
	ready   string // URL of /readyz
	env     map[string]string
	logPath string

	cmd    *exec.Cmd
	exited chan struct{}
	err    error
}

// newSystem makes an installation on the shared test stack.
func newSystem(t *testing.T) *system {
	t.Helper()
	return newSystemOn(t, testenv.Stack(t), testenv.DatabaseURL(t), testenv.Namespace(t), testenv.Names(t))
}

func newSystemOn(t *testing.T, stack testenv.Info, database, namespace string, names config.Names) *system {
	t.Helper()
	s := &system{
		t: t, stack: stack, namespace: namespace, names: names, database: database, apiAddr: freeAddr(t), logs: t.TempDir(),
	}
	s.env = map[string]string{
		"ACTCORE_DB_URL": database, "TEMPORAL_HOST": stack.TemporalAddress, "TEMPORAL_NAMESPACE": namespace,
		"NATS_URL": stack.NATSURL, "ACTCORE_STREAM": names.Stream, "ACTCORE_SUBJECT_PREFIX": names.SubjectPrefix,
		"ACTCORE_DURABLE": names.Durable, "ACTCORE_ORCHESTRATOR_TASK_QUEUE": names.OrchestratorTaskQueue,
		"ACTCORE_TASK_TASK_QUEUE": names.TaskTaskQueue, "ACTCORE_API_ADDR": s.apiAddr, "LOG_FORMAT": "text",
	}
	var err error
	s.temporal, err = client.Dial(client.Options{HostPort: stack.TemporalAddress, Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.temporal.Close)
	nc, err := nats.Connect(stack.NATSURL, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if s.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stopAll)
	return s
}

// start runs a service and waits until it is ready.
func (s *system) start(name string, env ...string) *process {
	s.t.Helper()
	p := s.launch(name, env...)
	p.waitReady()
	return p
}

// launch runs a service without waiting.
func (s *system) launch(name string, env ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, name: name, metrics: freeAddr(s.t), env: maps.Clone(s.env)}
	p.env["PROMETHEUS_BIND_ADDR"] = p.metrics
	for _, pair := range env {
		key, value, _ := strings.Cut(pair, "=")
		p.env[key] = value
	}
	p.ready = "http://" + p.metrics + "/readyz"
	if name == "api" {
		p.ready = "http://" + p.env["ACTCORE_API_ADDR"] + "/readyz"
	}
	s.mu.Lock()
	s.procs = append(s.procs, p)
	p.logPath = filepath.Join(s.logs, fmt.Sprintf("%s-%d.log", name, len(s.procs)))
	s.mu.Unlock()
	p.run()
	return p
}

func (p *process) run() {
	p.t.Helper()
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binDir, p.name))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, key := range slices.Sorted(maps.Keys(p.env)) {
		cmd.Env = append(cmd.Env, key+"="+p.env[key])
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

func (p *process) waitReady() {
	p.t.Helper()
	testenv.Eventually(p.t, 60*time.Second, p.name+" is ready", func(ctx context.Context) (bool, error) {
		select {
		case <-p.exited:
			return false, fmt.Errorf("it ended: %w", p.err)
		default:
		}
		return httpOK(ctx, p.ready), nil
	})
}

// kill ends a process as a crash does, and waits for it to be gone.
func (p *process) kill() {
	p.t.Helper()
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// stop asks a process to end and holds it to doing so cleanly.
func (p *process) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		if p.err != nil {
			p.t.Errorf("%s stopped with %v", p.name, p.err)
		}
	case <-time.After(40 * time.Second):
		p.t.Errorf("%s did not stop within 40 s", p.name)
		p.kill()
	}
}

func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (s *system) stopAll() {
	for _, p := range s.procs {
		if !p.ended() {
			p.stop()
		}
	}
	if !s.t.Failed() {
		return
	}
	for _, p := range s.procs {
		data, _ := os.ReadFile(p.logPath)
		lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
		s.t.Logf("last lines of %s:\n%s", filepath.Base(p.logPath), bytes.Join(lines[max(0, len(lines)-25):], []byte("\n")))
	}
}

// object is a JSON object of an answer.
type object map[string]any

func (o object) str(key string) string {
	v, _ := o[key].(string)
	return v
}

// call makes a request to the API and returns the status and the decoded body.
func (s *system) call(method, path, body string) (int, object) {
	s.t.Helper()
	status, answer, err := s.tryCall(s.t.Context(), method, path, body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, answer
}

func (s *system) tryCall(ctx context.Context, method, path, body string) (int, object, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.apiAddr+path, reader)
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
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
	var answer object
	if err := json.Unmarshal(data, &answer); err != nil {
		return res.StatusCode, nil, fmt.Errorf("answer %d is not a JSON object: %s", res.StatusCode, data)
	}
	return res.StatusCode, answer, nil
}

// create makes a definition and returns its id.
func (s *system) create(body string) string {
	s.t.Helper()
	status, answer := s.call("POST", "/activity-definitions/", body)
	if status != http.StatusCreated {
		s.t.Fatalf("create answered %d: %v", status, answer)
	}
	return answer.str("id")
}

// runs returns all runs of a definition.
func (s *system) runs(definitionID string) []object {
	s.t.Helper()
	list, err := s.tryRuns(s.t.Context(), definitionID)
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

func (s *system) tryRuns(ctx context.Context, definitionID string) ([]object, error) {
	var all []object
	for cursor := ""; ; {
		status, page, err := s.tryCall(ctx, "GET", "/activity-definitions/"+definitionID+"/runs?limit=500"+cursor, "")
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
		next := page.str("next_cursor")
		if next == "" {
			return all, nil
		}
		cursor = "&cursor=" + next
	}
}

// counts returns how many runs of a definition are in each state.
func (s *system) counts(ctx context.Context, definitionID string) (map[string]int, error) {
	list, err := s.tryRuns(ctx, definitionID)
	counts := map[string]int{}
	for _, run := range list {
		counts[run.str("status")]++
	}
	return counts, err
}

// publish sends an envelope and waits for JetStream's acknowledgement. msgID is JetStream's own duplicate key.
func (s *system) publish(eventType, eventID, msgID, payload string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	envelope := fmt.Sprintf(`{"event_id": %q, "type": %q, "source": "e2e", "occurred_at": %q, "payload": %s}`,
		eventID, eventType, time.Now().UTC().Format(time.RFC3339), payload)
	_, err := s.js.Publish(ctx, s.names.SubjectPrefix+"."+eventType, []byte(envelope), jetstream.WithMsgID(msgID))
	if err != nil {
		s.t.Fatalf("publish %s: %v", eventID, err)
	}
}

// workflows counts the workflows that a visibility query finds.
func (s *system) workflows(ctx context.Context, query string) (int64, error) {
	answer, err := s.temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{
		Namespace: s.namespace, Query: query,
	})
	if err != nil {
		return 0, err
	}
	return answer.GetCount(), nil
}

// metric adds up the series of a metric in a process' /metrics whose line holds every one of the labels.
func (p *process) metric(name string, labels ...string) float64 {
	p.t.Helper()
	res, err := http.Get("http://" + p.metrics + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	sum, found := 0.0, false
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
	if !found {
		p.t.Fatalf("%s has no metric %s %v", p.name, name, labels)
	}
	return sum
}

func httpOK(ctx context.Context, url string) bool {
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

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// ownStack starts servers that this test alone uses, because it stops them.
func ownStack(t *testing.T) testenv.Info {
	t.Helper()
	bin := testenv.Stack(t).DevstackBin
	dir, err := os.MkdirTemp("", "activity-core-e2e-stack-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres may run as another user
		t.Fatal(err)
	}
	file := filepath.Join(dir, "stack.json")
	cmd := exec.Command(bin, "servers", "--free-ports", "--data", filepath.Join(dir, "data"), "--info", file)
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
		case <-exited:
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

// control stops or starts a server of the test's own stack.
func control(t *testing.T, stack testenv.Info, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, stack.ControlURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("control %s: %v", path, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusNoContent {
		body, _ := io.ReadAll(res.Body)
		t.Fatalf("control %s answered %d: %s", path, res.StatusCode, body)
	}
}
