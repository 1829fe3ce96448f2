package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
)

// started is a worker that was started by its own run function.
type started struct {
	metrics string // host:port of its operations server
	cancel  context.CancelFunc
	ended   chan error
	drained chan struct{}
}

func start(t *testing.T, env map[string]string) *started {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	w := &started{cancel: cancel, ended: make(chan error, 1), drained: make(chan struct{})}
	go func() {
		err := run(ctx, nil, func(name string) string { return env[name] }, writer)
		_ = writer.Close()
		w.ended <- err
	}()
	lines := bufio.NewScanner(reader)
	for w.metrics == "" {
		if !lines.Scan() {
			cancel()
			t.Fatalf("the worker ended at once: %v", <-w.ended)
		}
		var line struct{ Msg, Metrics string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Errorf("line %q: %v", lines.Text(), err)
		}
		w.metrics = line.Metrics
	}
	go func() {
		defer close(w.drained)
		for lines.Scan() {
			t.Log(lines.Text())
		}
	}()
	t.Cleanup(func() { w.stop(t) })
	return w
}

// stop ends the worker as a signal would.
func (w *started) stop(t *testing.T) {
	t.Helper()
	w.cancel()
	select {
	case err, first := <-w.ended:
		if first && err != nil {
			t.Errorf("the worker ended with %v", err)
		}
		if first {
			close(w.ended)
		}
	case <-time.After(time.Minute):
		t.Error("the worker did not end")
	}
	<-w.drained
}

func (w *started) get(ctx context.Context, path string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.metrics+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestServe(t *testing.T) {
	t.Parallel()
	names, stack, databaseURL := testenv.Names(t), testenv.Stack(t), testenv.DatabaseURL(t)
	env := map[string]string{
		"ACTCORE_DB_URL": databaseURL, "TEMPORAL_HOST": stack.TemporalAddress, "TEMPORAL_NAMESPACE": testenv.Namespace(t),
		"NATS_URL": stack.NATSURL, "PROMETHEUS_BIND_ADDR": "127.0.0.1:0",
		"ACTCORE_ORCHESTRATOR_TASK_QUEUE": names.OrchestratorTaskQueue, "ACTCORE_TASK_TASK_QUEUE": names.TaskTaskQueue,
		"ACTCORE_EGRESS_ALLOW": "127.0.0.1", "ACTCORE_SECRET_TOKEN": "from the environment",
	}
	w := start(t, env)
	testenv.Eventually(t, 30*time.Second, "ready", func(ctx context.Context) (bool, error) {
		status, _, err := w.get(ctx, "/readyz")
		return status == http.StatusOK, err
	})
	env["PROMETHEUS_BIND_ADDR"] = w.metrics
	if err := run(t.Context(), []string{"healthcheck"}, func(name string) string { return env[name] }, io.Discard); err != nil {
		t.Errorf("healthcheck: %v", err)
	}

	store := postgres.New(testenv.OpenPool(t, databaseURL))
	runs, err := ledger.New(ledger.Options{Store: store, Temporal: testenv.Temporal(t), TaskQueue: names.OrchestratorTaskQueue,
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	// One run by hand, and a cron definition whose schedule only the worker can have made.
	var token atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { token.Store(r.Header.Get("X-Token")) }))
	t.Cleanup(server.Close)
	byHand := define(t, store, `{"name": "by-hand", "trigger_config": {"trigger_type": "manual"},
		"tasks": [{"name": "say", "type": "log", "with": {"message": "hello"}},
			{"name": "call", "type": "http", "with": {"url": "`+server.URL+`", "headers": {"X-Token": "${secrets.TOKEN}"}}}]}`)
	slots := define(t, store, `{"name": "slots", "trigger_config": {"trigger_type": "cron", "cron_expression": "@every 2s"}}`)
	starts, err := runs.Record(t.Context(), []definition.Occurrence{{DefinitionID: byHand.ID, Kind: definition.KindManual,
		Key: definition.ManualKey()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := runs.Start(t.Context(), starts[0]); err != nil {
		t.Fatal(err)
	}
	for _, d := range []definition.Stored{byHand, slots} {
		testenv.Eventually(t, 60*time.Second, "a run of "+d.Name+" succeeds", func(ctx context.Context) (bool, error) {
			list, err := store.ListRuns(ctx, definition.ListRuns{DefinitionID: d.ID, Statuses: []definition.RunStatus{definition.RunSucceeded}, Limit: 1})
			return len(list) > 0, err
		})
	}
	if got := token.Load(); got != "from the environment" {
		t.Errorf("the server got the token %v", got)
	}
	_, metrics, err := w.get(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`actcore_runs_total{definition="by-hand",outcome="succeeded",trigger="manual"} 1`,
		`actcore_runs_total{definition="slots",outcome="succeeded",trigger="cron"}`,
		`actcore_run_duration_seconds_count{definition="by-hand",trigger="manual"} 1`,
		"actcore_schedule_lag_seconds_count", "actcore_runs_swept_total", "actcore_schedule_sync_total",
		"temporal_activity_execution_latency_seconds_bucket", "go_goroutines",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	w.stop(t)
}

// With every dependency away the worker starts, stays up and says what is missing.
func TestDependenciesAway(t *testing.T) {
	t.Parallel()
	w := start(t, map[string]string{
		"ACTCORE_DB_URL": "postgres://u:topsecret@127.0.0.1:1/x", "TEMPORAL_HOST": "127.0.0.1:1", "NATS_URL": "nats://127.0.0.1:1",
		"PROMETHEUS_BIND_ADDR": "127.0.0.1:0",
	})
	if status, body, err := w.get(t.Context(), "/healthz"); err != nil || status != http.StatusOK {
		t.Errorf("healthz: %d %s %v", status, body, err)
	}
	status, body, err := w.get(t.Context(), "/readyz")
	if err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %d %s %v", status, body, err)
	}
	var report struct{ Checks map[string]string }
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "temporal", "nats", "workers"} {
		if text := report.Checks[name]; text == "ok" || text == "" || strings.Contains(text, "topsecret") {
			t.Errorf("check %s: %q", name, text)
		}
	}
	began := time.Now()
	w.stop(t)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s to stop", took)
	}
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), nil, func(string) string { return "" }, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "ACTCORE_DB_URL") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
	if err := run(t.Context(), []string{"nonsense"}, func(string) string { return "" }, io.Discard); err == nil {
		t.Error("a wrong argument was accepted")
	}
}

func define(t *testing.T, store *postgres.Store, document string) definition.Stored {
	t.Helper()
	doc, err := definition.ParseDocument([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	d, err := store.CreateDefinition(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
