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

// TestServe starts the binary's own run on free ports, uses it, and ends it as a signal would.
func TestServe(t *testing.T) {
	t.Parallel()
	names := testenv.Names(t)
	env := map[string]string{
		"ACTCORE_DB_URL": testenv.DatabaseURL(t), "TEMPORAL_HOST": testenv.Stack(t).TemporalAddress,
		"TEMPORAL_NAMESPACE": testenv.Namespace(t), "ACTCORE_API_ADDR": "127.0.0.1:0", "ACTCORE_AUTH": "off", "PROMETHEUS_BIND_ADDR": "127.0.0.1:0",
		"ACTCORE_ORCHESTRATOR_TASK_QUEUE": names.OrchestratorTaskQueue, "ACTCORE_TASK_TASK_QUEUE": names.TaskTaskQueue,
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
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
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
			t.Log(lines.Text())
		}
	}()

	testenv.Eventually(t, 20*time.Second, "ready", func(ctx context.Context) (bool, error) {
		status, _, err := get(ctx, "http://"+line.API+"/readyz")
		return status == http.StatusOK, err
	})
	env["ACTCORE_API_ADDR"] = line.API
	if err := run(t.Context(), []string{"healthcheck"}, func(name string) string { return env[name] }, io.Discard); err != nil {
		t.Errorf("healthcheck: %v", err)
	}
	resp, err := http.Post("http://"+line.API+"/activity-definitions/", "application/json",
		strings.NewReader(`{"name":"a","trigger_config":{"trigger_type":"cron","cron_expression":"@daily"}}`))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated || !strings.Contains(string(body), `"state":"synced"`) {
		t.Errorf("create: %d %s", resp.StatusCode, body)
	}
	_, metrics, err := get(t.Context(), "http://"+line.Metrics+"/metrics")
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
