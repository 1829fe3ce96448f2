package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
)

// environment is what the API needs, with ports that are free.
func environment(t *testing.T, pairs ...string) map[string]string {
	t.Helper()
	names := testenv.Names(t)
	env := map[string]string{
		"ACTCORE_DB_URL": testenv.DatabaseURL(t), "TEMPORAL_HOST": testenv.Stack(t).TemporalAddress,
		"TEMPORAL_NAMESPACE": testenv.Namespace(t), "ACTCORE_API_ADDR": "127.0.0.1:0", "PROMETHEUS_BIND_ADDR": "127.0.0.1:0",
		"ACTCORE_ORCHESTRATOR_TASK_QUEUE": names.OrchestratorTaskQueue, "ACTCORE_TASK_TASK_QUEUE": names.TaskTaskQueue,
	}
	for i := 0; i < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	return env
}

// start starts the binary's own run and waits until it is ready. It puts the addresses that it took into env. The function ends it as a
// signal would, and returns what it logged.
func start(t *testing.T, env map[string]string) (stop func() string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, nil, func(name string) string { return env[name] }, writer)
		_ = writer.Close()
		ended <- err
	}()

	// The first line tells where it listens; the others must not block it.
	lines := bufio.NewScanner(reader)
	if !lines.Scan() {
		t.Fatalf("it ended at once: %v", <-ended)
	}
	var line struct{ Msg, API, Metrics string }
	if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Msg != "serving" {
		t.Fatalf("first line %q: %v", lines.Text(), err)
	}
	var log strings.Builder
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
			t.Log(lines.Text())
			log.WriteString(lines.Text() + "\n")
		}
	}()
	testenv.Eventually(t, 20*time.Second, "ready", func(ctx context.Context) (bool, error) {
		status, _, err := get(ctx, "http://"+line.Metrics+"/readyz")
		return status == http.StatusOK, err
	})
	env["ACTCORE_API_ADDR"], env["PROMETHEUS_BIND_ADDR"] = line.API, line.Metrics
	return func() string {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the end: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
		<-drained
		return log.String()
	}
}

// TestServe starts the API on free ports, uses it, and ends it.
func TestServe(t *testing.T) {
	t.Parallel()
	env := environment(t, "ACTCORE_AUTH", "off")
	stop := start(t, env)
	address := "http://" + env["ACTCORE_API_ADDR"]
	if status, _, err := get(t.Context(), address+"/readyz"); err != nil || status != http.StatusOK {
		t.Errorf("ready: %d %v", status, err)
	}
	if err := run(t.Context(), []string{"healthcheck"}, func(name string) string { return env[name] }, io.Discard); err != nil {
		t.Errorf("healthcheck: %v", err)
	}
	resp, err := http.Post(address+"/activity-definitions/", "application/json",
		strings.NewReader(`{"name":"a","trigger_config":{"trigger_type":"cron","cron_expression":"@daily"}}`))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated || !strings.Contains(string(body), `"state":"synced"`) {
		t.Errorf("create: %d %s", resp.StatusCode, body)
	}
	_, metrics, err := get(t.Context(), "http://"+env["PROMETHEUS_BIND_ADDR"]+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`actcore_definitions{trigger="cron"} 1`,
		`actcore_http_requests_total{code="201",method="POST",route="/activity-definitions"} 1`,
		"actcore_http_request_seconds_bucket", "actcore_run_starts_total", "actcore_schedule_sync_total", "temporal_request_total",
		"go_goroutines",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	stop()
}

func get(ctx context.Context, url string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", fmt.Errorf("read %s: %w", url, err)
	}
	return resp.StatusCode, string(data), nil
}

func TestWrongEnvironment(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), nil, func(string) string { return "" }, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "ACTCORE_DB_URL") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without a database URL: %v", err)
	}
}
