package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// A cron definition from its creation to its deletion: its schedule follows, it fires on its minute, and Temporal's
// search finds its runs.
func TestCron(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	worker, api := s.Start("worker"), s.Start("api")
	status, created := s.Call("POST", "/activity-definitions/", `{"name": "each-minute",
		"trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *", "timezone": "Europe/Berlin"},
		"tasks": [{"name": "say", "type": "log", "with": {"message": "tick"}}]}`)
	if status != http.StatusCreated {
		t.Fatalf("create answered %d: %v", status, created)
	}
	id := created.Str("id")
	schedule := s.Temporal.ScheduleClient().GetHandle(t.Context(), definition.ScheduleID(id))
	// An answer that says synced is held to it at once; one that says pending, on a machine too busy for the two seconds
	// that an answer waits, has to come true.
	follows := func(answer system.Object, what string, as func(*client.ScheduleDescription, error) bool) {
		t.Helper()
		sync, _ := answer["sync"].(map[string]any)
		if sync["state"] == "synced" {
			if described, err := schedule.Describe(t.Context()); !as(described, err) {
				t.Errorf("the answer says synced, but the schedule is not %s: %v", what, err)
			}
			return
		}
		testenv.Eventually(t, 30*time.Second, "the schedule is "+what, func(ctx context.Context) (bool, error) {
			return as(schedule.Describe(ctx)), nil
		})
	}
	active := func(d *client.ScheduleDescription, err error) bool { return err == nil && !d.Schedule.State.Paused }
	paused := func(d *client.ScheduleDescription, err error) bool { return err == nil && d.Schedule.State.Paused }
	gone := func(_ *client.ScheduleDescription, err error) bool {
		var notFound *serviceerror.NotFound
		return errors.As(err, &notFound)
	}
	follows(created, "active", active)

	var fired system.Object
	testenv.Eventually(t, 80*time.Second, "the definition fires on its minute", func(ctx context.Context) (bool, error) {
		list, err := s.TryRuns(ctx, id)
		if err != nil || len(list) == 0 {
			return false, err
		}
		fired = list[len(list)-1]
		return fired.Str("status") == "succeeded", nil
	})
	slot, err := time.Parse(time.RFC3339, fired.Str("slot_at"))
	if err != nil || slot.Second() != 0 {
		t.Errorf("slot_at = %q, %v; want a whole minute", fired.Str("slot_at"), err)
	}
	started, err := time.Parse(time.RFC3339, fired.Str("started_at"))
	if err != nil || started.Before(slot) || started.Sub(slot) > 30*time.Second {
		t.Errorf("slot %s began at %s, %v", slot, fired.Str("started_at"), err)
	}
	if want := "cron-" + slot.UTC().Format(time.RFC3339); fired.Str("occurrence_key") != want {
		t.Errorf("occurrence key = %s, want %s", fired.Str("occurrence_key"), want)
	}
	_, detail := s.Call("GET", "/runs/"+fired.Str("id"), "")
	if tasks, _ := detail["tasks"].([]any); len(tasks) != 1 {
		t.Errorf("the run's tasks = %v, want one", detail["tasks"])
	}

	if status, answer := s.Call("POST", "/activity-definitions/"+id+"/trigger", ""); status != http.StatusAccepted {
		t.Fatalf("trigger answered %d: %v", status, answer)
	}
	query := fmt.Sprintf(`%s = "%s"`, definition.SearchAttributeID, id)
	testenv.Eventually(t, 30*time.Second, "Temporal's search finds every run", func(ctx context.Context) (bool, error) {
		n, err := s.Workflows(ctx, query)
		if err != nil {
			return false, err
		}
		list, err := s.TryRuns(ctx, id)
		return n >= 2 && int(n) == len(list), err
	})
	if n := worker.Metric("actcore_runs_total", `trigger="cron"`, `outcome="succeeded"`); n < 1 {
		t.Errorf("actcore_runs_total of cron = %v, want at least 1", n)
	}
	if n := worker.Metric("actcore_schedule_lag_seconds_count"); n < 1 {
		t.Errorf("actcore_schedule_lag_seconds_count = %v, want at least 1", n)
	}
	if n := api.Metric("actcore_definitions", `trigger="cron"`); n != 1 {
		t.Errorf("actcore_definitions of cron = %v, want 1", n)
	}

	change := func(method, body string) system.Object {
		t.Helper()
		status, answer := s.Call(method, "/activity-definitions/"+id, body)
		if status != http.StatusOK {
			t.Fatalf("%s %s answered %d: %v", method, body, status, answer)
		}
		return answer
	}
	follows(change("PUT", `{"enabled": false}`), "paused", paused)
	if status, answer := s.Call("POST", "/activity-definitions/"+id+"/trigger", ""); status != http.StatusAccepted {
		t.Errorf("trigger of a disabled definition answered %d: %v", status, answer)
	}
	follows(change("PATCH", `{"enabled": true}`), "active", active)
	follows(change("PUT", `{"trigger_config": {"trigger_type": "manual"}}`), "gone, for it became manual", gone)
	follows(change("PUT", `{"trigger_config": {"trigger_type": "cron", "cron_expression": "0 9 * * 1-5"}}`), "active", active)
	if status, answer := s.Call("DELETE", "/activity-definitions/"+id, ""); status != http.StatusNoContent {
		t.Fatalf("delete answered %d: %v", status, answer)
	}
	follows(nil, "gone, for the definition was deleted", gone)
}

// Events: the filter decides, and one event is one run, published twice, delivered again, and read again from the start.
func TestEvents(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Env["ACTCORE_RUN_EVENTS"] = "off" // the events here are counted
	s.Start("worker")
	s.Start("api")
	router := s.Start("event-router")
	id := s.Create(`{"name": "user-onboarding", "trigger_config": {"trigger_type": "event", "event_type": "user.created",
		"filters": {"tier": "pro"}}, "tasks": [{"name": "say", "type": "log", "with": {"message": "welcome"}}]}`)

	s.Publish("user.created", "evt-pro", "1", `{"tier": "pro"}`)
	s.Publish("user.created", "evt-free", "2", `{"tier": "free"}`)
	s.Publish("user.deleted", "evt-other", "3", `{"tier": "pro"}`)
	s.Publish("user.created", "evt-pro", "4", `{"tier": "pro"}`) // again, past JetStream's own duplicate check
	s.Publish("user.created", "evt-last", "5", `{"tier": "pro"}`)
	settled := func() {
		t.Helper()
		testenv.Eventually(t, 30*time.Second, "both events ran", func(ctx context.Context) (bool, error) {
			counts, err := s.Counts(ctx, id)
			return counts["succeeded"] == 2, err
		})
	}
	settled()
	testenv.Eventually(t, 10*time.Second, "the router counted every event", func(context.Context) (bool, error) {
		return router.Metric("actcore_events_received_total") == 5, nil
	})
	if n := router.Metric("actcore_events_matched_total"); n != 3 {
		t.Errorf("actcore_events_matched_total = %v, want 3", n)
	}
	if n := router.Metric("actcore_events_unmatched_total"); n != 2 {
		t.Errorf("actcore_events_unmatched_total = %v, want 2", n)
	}

	// A poison message is told and does not hold up the next event.
	if _, err := s.JS.Publish(t.Context(), s.Names.SubjectPrefix+".user.created", []byte("not json")); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, "the poison message is dead", func(context.Context) (bool, error) {
		return router.Metric("actcore_events_dead_total") == 1, nil
	})

	// Without its consumer the router reads the stream again from its first message: every event is delivered again.
	router.Stop()
	if err := s.JS.DeleteConsumer(t.Context(), s.Names.Stream, s.Names.Durable); err != nil {
		t.Fatal(err)
	}
	router = s.Start("event-router")
	testenv.Eventually(t, 20*time.Second, "every event was delivered again", func(context.Context) (bool, error) {
		return router.Metric("actcore_events_received_total") == 6, nil
	})
	settled()
	var keys []string
	for _, run := range s.Runs(id) {
		keys = append(keys, run.Str("occurrence_key"))
	}
	if got := strings.Join(keys, " "); got != "event-evt-last event-evt-pro" {
		t.Errorf("runs are %s, want one of evt-pro and one of evt-last", got)
	}
	hasWorkflows(s, 2, fmt.Sprintf(`%s = "%s"`, definition.SearchAttributeID, id))
}

// hasWorkflows waits until Temporal lists n workflows, which it does some time after they have started, and never more.
func hasWorkflows(s *system.System, n int64, query string) {
	s.T.Helper()
	testenv.Eventually(s.T, 10*time.Second, fmt.Sprintf("%d workflows with %s", n, query), func(ctx context.Context) (bool, error) {
		got, err := s.Workflows(ctx, query)
		if got > n {
			err = fmt.Errorf("there are %d", got)
		}
		return got == n, err
	})
}

// Two workers start at once over many definitions that nobody has synchronised; sync-schedules then finds nothing to do.
func TestStartupSyncAndCommand(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	// This API's Temporal is away, so that its answers say pending and only the workers can synchronise.
	api := s.Launch("api", "TEMPORAL_HOST=127.0.0.1:1")
	testenv.Eventually(t, 30*time.Second, "the API answers", func(ctx context.Context) (bool, error) {
		return system.HTTPOK(ctx, "http://"+s.APIAddr+"/healthz"), nil
	})
	if system.HTTPOK(t.Context(), api.Ready) {
		t.Error("the API says that it is ready while Temporal is away")
	}
	const n = 12
	for i := range n {
		status, answer := s.Call("POST", "/activity-definitions/", fmt.Sprintf(`{"name": "c%d", "enabled": %v,
			"trigger_config": {"trigger_type": "cron", "cron_expression": "0 3 * * *"}}`, i, i%2 == 0))
		if status != http.StatusCreated {
			t.Fatalf("create with Temporal away answered %d: %v", status, answer)
		}
		if sync, _ := answer["sync"].(map[string]any); sync["state"] == "synced" {
			t.Fatal("the answer says synced while Temporal is away")
		}
	}
	a, b := s.Launch("worker"), s.Launch("worker")
	a.WaitReady()
	b.WaitReady()
	testenv.Eventually(t, 60*time.Second, "every schedule is synced", func(ctx context.Context) (bool, error) {
		_, page, err := s.TryCall(ctx, "GET", "/activity-definitions?limit=100", "")
		if err != nil {
			return false, err
		}
		synced := 0
		items, _ := page["items"].([]any)
		for _, item := range items {
			d, _ := item.(map[string]any)
			if sync, _ := d["sync"].(map[string]any); sync["state"] == "synced" {
				synced++
			}
		}
		return synced == n, nil
	})
	out := s.Command("sync-schedules", "-o", "json")
	if want := fmt.Sprintf(`"unchanged":%d`, n); !strings.Contains(strings.ReplaceAll(out, " ", ""), want) {
		t.Errorf("sync-schedules printed %s, want %s", out, want)
	}
}

// No service says that it is ready on a schema that is too old for it, and each does when the schema has caught up.
func TestSchemaTooOld(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	if out := s.Command("migrate", "down", "1"); !strings.Contains(out, "took back") {
		t.Errorf("migrate down 1 printed %s", out)
	}
	var services []*system.Process
	for _, name := range []string{"api", "worker", "event-router"} {
		p := s.Launch(name)
		services = append(services, p)
		testenv.Eventually(t, 30*time.Second, name+" says what it lacks", func(ctx context.Context) (bool, error) {
			res, err := http.Get(p.Ready)
			if err != nil {
				return false, nil
			}
			defer func() { _ = res.Body.Close() }()
			body, err := io.ReadAll(res.Body)
			return res.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(body), "migrate up"), err
		})
	}
	if out := s.Command("migrate", "up"); !strings.Contains(out, "applied") {
		t.Errorf("migrate up printed %s", out)
	}
	for _, p := range services {
		p.WaitReady()
	}
}
