package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// TestClock holds the service to what it tells about the clock: the times that it shows get their rows and no others do, a
// paused time has none, a single time comes once, and what is past can be made up for. It all happens in one installation at
// the same time, because most of it is waiting for the clock.
func TestClock(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("worker")
	s.Start("api")
	const note = `"tasks": [{"name": "say", "type": "log", "with": {"message": "tick"}}]`

	minutely := s.Create(`{"name": "each-minute", "trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"}, ` + note + `}`)
	toldMinute := told(s, minutely, 1)[0]

	runAt := time.Now().Add(6 * time.Second).UTC().Truncate(time.Second)
	once := s.Create(fmt.Sprintf(`{"name": "once", "trigger_config": {"trigger_type": "scheduled", "run_at": %q}, %s}`,
		runAt.Format("2006-01-02T15:04:05"), note)) // without an offset: a time of its zone, which is UTC
	if times := told(s, once, 10); len(times) != 1 || !times[0].Equal(runAt) {
		t.Errorf("told %v for the single time %s", times, runAt)
	}

	to := time.Now().UTC().Truncate(time.Minute) // before it is created: it has no rows
	past := s.Create(`{"name": "each-minute-of-the-past", "concurrency": {"limit": 0},
		"trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"}, ` + note + `}`)
	from := to.Add(-2 * time.Hour)
	request := fmt.Sprintf(`"from": %q, "to": %q`, from.Format(time.RFC3339), to.Format(time.RFC3339))
	status, backfill := s.Call("POST", "/activity-definitions/"+past+"/backfill", `{`+request+`, "max_concurrent": 3}`)
	if status != http.StatusAccepted || backfill["total"] != 121.0 {
		t.Fatalf("backfill answered %d: %v", status, backfill)
	}

	pauseAndResume(s, note)

	// The single time came once.
	testenv.Eventually(t, 40*time.Second, "the single time has its run", func(ctx context.Context) (bool, error) {
		list, err := s.TryRuns(ctx, once)
		return err == nil && len(list) == 1 && list[0].Str("status") == "succeeded", err
	})
	if run := s.Runs(once)[0]; run.Str("slot_at") != runAt.Format(time.RFC3339) || run.Str("trigger") != "cron" {
		t.Errorf("the run of %s: %v", runAt, run)
	}
	if status, fires := s.Call("GET", "/activity-definitions/"+once+"/next-fires", ""); status != http.StatusOK ||
		len(items(fires["fires"])) != 0 || !strings.Contains(fmt.Sprint(fires["warnings"]), "is past: nothing is due any more") {
		t.Errorf("after the single time: %d %v", status, fires)
	}

	// The past was made up for, never more than three at a time.
	path := "/backfills/" + backfill.Str("id")
	testenv.Eventually(t, 90*time.Second, "the backfill is completed", func(ctx context.Context) (bool, error) {
		status, b, err := s.TryCall(ctx, "GET", path, "")
		if err != nil || status != http.StatusOK {
			return false, err
		}
		counts := system.Object(b["runs"].(map[string]any))
		running, _ := counts["running"].(float64)
		queued, _ := counts["queued"].(float64)
		if running+queued > 3 {
			t.Errorf("%v runs of the backfill at a time, want 3 at most", running+queued)
		}
		return b.Str("status") == "completed" && counts["succeeded"] == 121.0 && len(counts) == 1, nil
	})
	var made []time.Time
	for _, run := range s.Runs(past) {
		if run.Str("backfill_id") == backfill.Str("id") && run.Str("trigger") == "backfill" {
			made = append(made, slotOf(t, run))
		}
	}
	slices.SortFunc(made, time.Time.Compare)
	if want := every(time.Minute, from, to); !slices.EqualFunc(made, want, time.Time.Equal) {
		t.Errorf("the backfill made runs of %v", made)
	}
	for _, more := range []string{`, "dry_run": true`, ""} {
		if _, second := s.Call("POST", "/activity-definitions/"+past+"/backfill", `{`+request+more+`}`); second["total"] != 0.0 ||
			second.Str("status") != "completed" {
			t.Errorf("a second backfill%s: %v", more, second)
		}
	}

	// The first minute that was told got its row, and it is the first.
	testenv.Eventually(t, 75*time.Second, "the minute that was told has its run", func(ctx context.Context) (bool, error) {
		list, err := s.TryRuns(ctx, minutely)
		return err == nil && len(list) > 0 && list[len(list)-1].Str("status") == "succeeded", err
	})
	rows := s.Runs(minutely)
	if first := rows[len(rows)-1]; !slotOf(t, first).Equal(toldMinute) {
		t.Errorf("the first row is of %s, told was %s", first.Str("slot_at"), toldMinute)
	}
	if again := s.Runs(once); len(again) != 1 {
		t.Errorf("the single time has %d runs", len(again))
	}
}

// pauseAndResume checks that a definition has a row for each time that was told and runs nothing in the time that it was paused.
func pauseAndResume(s *system.System, tasks string) {
	s.T.Helper()
	const pace = 2 * time.Second
	creating := time.Now()
	id := s.Create(`{"name": "each-two-seconds", "trigger_config": {"trigger_type": "cron", "cron_expression": "@every 2s"}, ` + tasks + `}`)
	toldFirst := told(s, id, 3)
	hasRows := func(told []time.Time) {
		s.T.Helper()
		testenv.Eventually(s.T, 40*time.Second, "the times that were told have rows", func(ctx context.Context) (bool, error) {
			rows, err := s.TryRuns(ctx, id)
			if err != nil {
				return false, err
			}
			slots := slotsOf(s.T, rows)
			return !slices.ContainsFunc(told, func(at time.Time) bool { return !slices.ContainsFunc(slots, at.Equal) }), nil
		})
	}
	hasRows(toldFirst)

	pausing := time.Now()
	status, off := s.Call("POST", "/activity-definitions/"+id+"/pause", `{"reason": "the target moves house"}`)
	paused := time.Now()
	if status != http.StatusOK || off["enabled"] != false || off.Str("pause_reason") != "the target moves house" {
		s.T.Fatalf("pause answered %d: %v", status, off)
	}
	_, fires := s.Call("GET", "/activity-definitions/"+id+"/next-fires", "")
	if len(items(fires["fires"])) != 0 || !strings.Contains(fmt.Sprint(fires["warnings"]), "disabled (the target moves house)") {
		s.T.Errorf("while paused: %v", fires)
	}
	testenv.Eventually(s.T, 20*time.Second, "three slots would have passed", func(context.Context) (bool, error) {
		return time.Since(paused) > 3*pace, nil
	})

	resuming := time.Now()
	status, on := s.Call("POST", "/activity-definitions/"+id+"/resume", "")
	resumed := time.Now()
	if _, reason := on["pause_reason"]; status != http.StatusOK || on["enabled"] != true || reason {
		s.T.Fatalf("resume answered %d: %v", status, on)
	}
	toldAgain := told(s, id, 4)
	hasRows(toldAgain)

	rows := s.Runs(id)
	slots := slotsOf(s.T, rows)
	for i, at := range slots {
		// A busy Temporal may take the pause late, and start what the ledger does not let run.
		if how := rows[i].Str("status") + " " + rows[i].Str("reason"); at.After(paused) && at.Before(resuming) && how != "skipped definition_disabled" {
			s.T.Errorf("slot %s is %s, though it was paused from %s to %s", at, how, paused.UTC(), resuming.UTC())
		}
	}
	// From the first slot that was told to the last, besides the moments of the two requests, nothing is left out.
	want := every(pace, toldFirst[0], pausing)
	want = append(want, every(pace, resumed, toldAgain[3])...)
	for _, at := range want {
		if n := len(slices.DeleteFunc(slices.Clone(slots), func(slot time.Time) bool { return !slot.Equal(at) })); n != 1 {
			s.T.Errorf("slot %s has %d rows", at, n)
		}
	}
	// One or two may have come before they could be told: the answer to the creation waits for Temporal.
	if first := slots[len(slots)-1]; first.Before(creating) || first.After(toldFirst[0]) {
		s.T.Errorf("the first row is of %s, told was %s, created after %s", first, toldFirst[0], creating.UTC())
	}
}

// told returns the times that next-fires tells.
func told(s *system.System, id string, count int) []time.Time {
	s.T.Helper()
	status, fires := s.Call("GET", fmt.Sprintf("/activity-definitions/%s/next-fires?count=%d", id, count), "")
	if status != http.StatusOK {
		s.T.Fatalf("next-fires answered %d: %v", status, fires)
	}
	var out []time.Time
	for _, f := range items(fires["fires"]) {
		at, err := time.Parse(time.RFC3339, system.Object(f.(map[string]any)).Str("utc"))
		if err != nil {
			s.T.Fatal(err)
		}
		out = append(out, at)
	}
	return out
}

func items(v any) []any {
	list, _ := v.([]any)
	return list
}

func slotsOf(t *testing.T, rows []system.Object) []time.Time {
	t.Helper()
	out := make([]time.Time, len(rows))
	for i, row := range rows {
		out[i] = slotOf(t, row)
	}
	return out
}

func slotOf(t *testing.T, row system.Object) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, row.Str("slot_at"))
	if err != nil {
		t.Fatalf("row %v: %v", row, err)
	}
	return at
}

// every returns the whole multiples of a duration in [from, to].
func every(d time.Duration, from, to time.Time) []time.Time {
	var out []time.Time
	for at := from.Add(d - 1).Truncate(d); !at.After(to); at = at.Add(d) {
		out = append(out, at)
	}
	return out
}

// TestClockSyncOnRequest asks for a comparison of all schedules, by an API that reaches Temporal and by one that does not.
func TestClockSyncOnRequest(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("api")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	alone := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.Launch("api", "ACTCORE_API_ADDR="+alone, "TEMPORAL_HOST=127.0.0.1:1")

	s.Create(`{"name": "daily", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily"}}`)
	// The first one also makes what a busy Temporal did not take when it was created: there is no worker here to do so.
	for _, query := range []string{"", "?dry_run=true"} {
		var got system.Object
		testenv.Eventually(t, 40*time.Second, "one schedule is as wanted", func(ctx context.Context) (bool, error) {
			status, answer, err := s.TryCall(ctx, "POST", "/admin/sync"+query, "")
			got = answer
			return err == nil && status == http.StatusOK && answer["unchanged"] == 1.0, nil // a busy Temporal is asked again
		})
		if got["complete"] != true || got["dry_run"] != (query != "") || got["failed"] != 0.0 || len(items(got["failures"])) != 0 {
			t.Errorf("%s: %v", query, got)
		}
	}

	testenv.Eventually(t, 30*time.Second, "the other API is up", func(ctx context.Context) (bool, error) {
		return system.HTTPOK(ctx, "http://"+alone+"/healthz"), nil
	})
	began := time.Now()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+alone+"/admin/sync", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var problem system.Object
	if err := json.NewDecoder(res.Body).Decode(&problem); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); res.StatusCode != http.StatusServiceUnavailable || took > 15*time.Second ||
		problem.Str("type") != "/problems/temporal-unavailable" {
		t.Errorf("without Temporal: %d after %s: %v", res.StatusCode, took, problem)
	}
}
