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

	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
)

// TestServe starts the binary's own run without the right to make its stream, and with none there; then somebody makes
// it, and an event becomes a run.
func TestServe(t *testing.T) {
	t.Parallel()
	names, databaseURL := testenv.Names(t), testenv.DatabaseURL(t)
	stack := testenv.Stack(t)
	env := map[string]string{
		"ACTCORE_DB_URL": databaseURL, "TEMPORAL_HOST": stack.TemporalAddress, "TEMPORAL_NAMESPACE": testenv.Namespace(t),
		"NATS_URL": stack.NATSURL, "PROMETHEUS_BIND_ADDR": "127.0.0.1:0", "ACTCORE_MANAGE_STREAM": "false",
		"ACTCORE_STREAM": names.Stream, "ACTCORE_SUBJECT_PREFIX": names.SubjectPrefix, "ACTCORE_DURABLE": names.Durable,
		"ACTCORE_ORCHESTRATOR_TASK_QUEUE": names.OrchestratorTaskQueue, "ACTCORE_TASK_TASK_QUEUE": names.TaskTaskQueue,
	}
	getenv := func(name string) string { return env[name] }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, nil, getenv, writer)
		_ = writer.Close()
		ended <- err
	}()
	metrics := address(t, reader)

	// Not ready, and it says why.
	want := fmt.Sprintf("stream %s does not exist: make it, or set ACTCORE_MANAGE_STREAM=true", names.Stream)
	testenv.Eventually(t, 20*time.Second, "not ready for want of the stream", func(ctx context.Context) (bool, error) {
		status, body, err := get(ctx, "http://"+metrics+"/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, want), err
	})
	check := map[string]string{"PROMETHEUS_BIND_ADDR": metrics, "ACTCORE_DB_URL": databaseURL}
	healthcheck := func() error {
		return run(t.Context(), []string{"healthcheck"}, func(name string) string { return check[name] }, io.Discard)
	}
	if err := healthcheck(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("healthcheck: %v", err)
	}

	js, err := jetstream.New(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: names.Stream, Subjects: []string{names.SubjectPrefix + ".>"}, MaxAge: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), names.Stream, jetstream.ConsumerConfig{Durable: names.Durable, AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 30*time.Second, "ready", func(ctx context.Context) (bool, error) {
		status, _, err := get(ctx, "http://"+metrics+"/readyz")
		return status == http.StatusOK, err
	})
	if err := healthcheck(); err != nil {
		t.Errorf("healthcheck: %v", err)
	}

	store := postgres.New(testenv.OpenPool(t, databaseURL))
	doc, err := definition.ParseDocument([]byte(`{"name":"a","trigger_config":{"trigger_type":"event","event_type":"user.created","filters":{"tier":"pro"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := store.CreateDefinition(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	for id, tier := range map[string]string{"1": "pro", "2": "free"} {
		event := fmt.Sprintf(`{"event_id":%q,"type":"user.created","payload":{"tier":%q}}`, id, tier)
		if _, err := js.Publish(t.Context(), names.SubjectPrefix+".user.created", []byte(event)); err != nil {
			t.Fatal(err)
		}
	}
	for _, series := range []string{
		"actcore_events_received_total 2", "actcore_events_matched_total 1", "actcore_events_unmatched_total 1",
		`actcore_events_dead_total{reason="too_large"} 0`, "actcore_event_processing_seconds_count 2", "actcore_consumer_pending 0",
		"actcore_router_table_definitions 1", `actcore_run_starts_total{result="started"} 1`, "temporal_request_total", "go_goroutines",
	} {
		testenv.Eventually(t, 20*time.Second, "metrics show "+series, func(ctx context.Context) (bool, error) {
			_, body, err := get(ctx, "http://"+metrics+"/metrics")
			return strings.Contains(body, "\n"+series), err
		})
	}
	runs, err := store.ListRuns(t.Context(), definition.ListRuns{DefinitionID: stored.ID, Limit: 10})
	if err != nil || len(runs) != 1 || runs[0].EventID != "1" {
		t.Errorf("runs %+v (%v)", runs, err)
	}

	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("it did not end")
	}
}

// address reads from the first log line where the service listens, and passes the other lines on to the test's log.
func address(t *testing.T, output io.Reader) string {
	t.Helper()
	lines := bufio.NewScanner(output)
	var line struct{ Msg, Metrics string }
	for line.Msg != "serving" {
		if !lines.Scan() {
			t.Fatal("it ended at once")
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("line %q: %v", lines.Text(), err)
		}
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
			t.Log(lines.Text())
		}
	}()
	t.Cleanup(func() { <-drained })
	return line.Metrics
}

func get(ctx context.Context, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
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

// TestRefusals: what cannot work ends at once with a line that names the variable.
func TestRefusals(t *testing.T) {
	t.Parallel()
	good := map[string]string{"ACTCORE_DB_URL": "postgres://u:p@127.0.0.1:1/d", "PROMETHEUS_BIND_ADDR": "127.0.0.1:0"}
	for _, c := range []struct{ name, variable, value, want string }{
		{"no database", "ACTCORE_DB_URL", "", "ACTCORE_DB_URL is not set"},
		{"bad flag", "ACTCORE_MANAGE_STREAM", "perhaps", `ACTCORE_MANAGE_STREAM is "perhaps"`},
		{"no credentials file", "NATS_CREDS", "/does/not/exist.creds", "NATS_CREDS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			getenv := func(name string) string {
				if name == c.variable {
					return c.value
				}
				return good[name]
			}
			if err := run(t.Context(), nil, getenv, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
