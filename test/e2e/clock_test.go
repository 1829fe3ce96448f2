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
)

// TestClock holds the service to what it tells about the clock: the times that it shows get their rows and no others do, a
// paused time has none, a single time comes once, and what is past can be made up for. It all happens in one installation at
// the same time, because most of it is waiting for the clock.
func TestClock(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start("worker")
	s.start("api")
	const note = `"tasks": [{"name": "say", "type": "log", "with": {"message": "tick"}}]`

	minutely := s.create(`{"name": "each-minute", "trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"}, ` + note + `}`)
	toldMinute := s.told(minutely, 1)[0]

	runAt := time.Now().Add(6 * time.Second).UTC().Truncate(time.Second)
	once := s.create(fmt.Sprintf(`{"name": "once", "trigger_config": {"trigger_type": "scheduled", "run_at": %q}, %s}`,
		runAt.Format("2006-01-02T15:04:05"), note)) // without an offset: a time of its zone, which is UTC
	if told := s.told(once, 10); len(told) != 1 || !told[0].Equal(runAt) {
		t.Errorf("told %v for the single time %s", told, runAt)
	}

	past := s.create(`{"name": "each-minute-of-the-past", "concurrency": {"limit": 0},
		"trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"}, ` + note + `}`)
	to := time.Now().UTC().Truncate(time.Minute) // before it was created: it has no rows
	from := to.Add(-2 * time.Hour)
	request := fmt.Sprintf(`"from": %q, "to": %q`, from.Format(time.RFC3339), to.Format(time.RFC3339))
	status, backfill := s.call("POST", "/activity-definitions/"+past+"/backfill", `{`+request+`, "max_concurrent": 3}`)
	if status != http.StatusAccepted || backfill["total"] != 121.0 {
		t.Fatalf("backfill answered %d: %v", status, backfill)
	}

	s.pauseAndResume(note)

	// The single time came once.
	testenv.Eventually(t, 40*time.Second, "the single time has its run", func(ctx context.Context) (bool, error) {
		list, err := s.tryRuns(ctx, once)
		return err == nil && len(list) == 1 && list[0].str("status") == "succeeded", err
	})
	if run := s.runs(once)[0]; run.str("slot_at") != runAt.Format(time.RFC3339) || run.str("trigger") != "cron" {
		t.Errorf("the run of %s: %v", runAt, run)
	}
	if status, fires := s.call("GET", "/activity-definitions/"+once+"/next-fires", ""); status != http.StatusOK ||
		len(items(fires["fires"])) != 0 || !strings.Contains(fmt.Sprint(fires["warnings"]), "is past: nothing is due any more") {
		t.Errorf("after the single time: %d %v", status, fires)
	}

	// The past was made up for, never more than three at a time.
	path := "/backfills/" + backfill.str("id")
	testenv.Eventually(t, 90*time.Second, "the backfill is completed", func(ctx context.Context) (bool, error) {
		status, b, err := s.tryCall(ctx, "GET", path, "")
		if err != nil || status != http.StatusOK {
			return false, err
		}
		counts := object(b["runs"].(map[string]any))
		running, _ := counts["running"].(float64)
		queued, _ := counts["queued"].(float64)
		if running+queued > 3 {
			t.Errorf("%v runs of the backfill at a time, want 3 at most", running+queued)
		}
		return b.str("status") == "completed" && counts["succeeded"] == 121.0 && len(counts) == 1, nil
	})
	var made []time.Time
	for _, run := range s.runs(past) {
		if run.str("backfill_id") == backfill.str("id") && run.str("trigger") == "backfill" {
			made = append(made, slotOf(t, run))
		}
	}
	slices.SortFunc(made, time.Time.Compare)
	if want := every(time.Minute, from, to); !slices.EqualFunc(made, want, time.Time.Equal) {
		t.Errorf("the backfill made runs of %v", made)
	}
	for _, more := range []string{`, "dry_run": true`, ""} {
		if _, second := s.call("POST", "/activity-definitions/"+past+"/backfill", `{`+request+more+`}`); second["total"] != 0.0 ||
			second.str("status") != "completed" {
			t.Errorf("a second backfill%s: %v", more, second)
		}
	}

	// The first minute that was told got its row, and it is the first.
	testenv.Eventually(t, 75*time.Second, "the minute that was told has its run", func(ctx context.Context) (bool, error) {
		list, err := s.tryRuns(ctx, minutely)
		return err == nil && len(list) > 0 && list[len(list)-1].str("status") == "succeeded", err
	})
	rows := s.runs(minutely)
	if first := rows[len(rows)-1]; !slotOf(t, first).Equal(toldMinute) {
		t.Errorf("the first row is of %s, told was %s", first.str("slot_at"), toldMinute)
	}
	if again := s.runs(once); len(again) != 1 {
		t.Errorf("the single time has %d runs", len(again))
	}
}

// pauseAndResume checks that a definition has a row for each time that was told and none for the time that it was paused.
func (s *system) pauseAndResume(tasks string) {
	s.t.Helper()
	const pace = 2 * time.Second
	id := s.create(`{"name": "each-two-seconds", "trigger_config": {"trigger_type": "cron", "cron_expression": "@every 2s"}, ` + tasks + `}`)
	toldFirst := s.told(id, 3)
	hasRows := func(told []time.Time) {
		s.t.Helper()
		testenv.Eventually(s.t, 40*time.Second, "the times that were told have rows", func(ctx context.Context) (bool, error) {
			rows, err := s.tryRuns(ctx, id)
			if err != nil {
				return false, err
			}
			slots := slotsOf(s.t, rows)
			return !slices.ContainsFunc(told, func(at time.Time) bool { return !slices.ContainsFunc(slots, at.Equal) }), nil
		})
	}
	hasRows(toldFirst)

	pausing := time.Now()
	status, off := s.call("POST", "/activity-definitions/"+id+"/pause", `{"reason": "the target moves house"}`)
	paused := time.Now()
	if status != http.StatusOK || off["enabled"] != false || off.str("pause_reason") != "the target moves house" {
		s.t.Fatalf("pause answered %d: %v", status, off)
	}
	_, fires := s.call("GET", "/activity-definitions/"+id+"/next-fires", "")
	if len(items(fires["fires"])) != 0 || !strings.Contains(fmt.Sprint(fires["warnings"]), "disabled (the target moves house)") {
		s.t.Errorf("while paused: %v", fires)
	}
	testenv.Eventually(s.t, 20*time.Second, "three slots would have passed", func(context.Context) (bool, error) {
		return time.Since(paused) > 3*pace, nil
	})

	resuming := time.Now()
	status, on := s.call("POST", "/activity-definitions/"+id+"/resume", "")
	resumed := time.Now()
	if _, reason := on["pause_reason"]; status != http.StatusOK || on["enabled"] != true || reason {
		s.t.Fatalf("resume answered %d: %v", status, on)
	}
	toldAgain := s.told(id, 4)
	hasRows(toldAgain)

	slots := slotsOf(s.t, s.runs(id))
	for _, at := range slots {
		if at.After(paused) && at.Before(resuming) {
			s.t.Errorf("slot %s has a row, though it was paused from %s to %s", at, paused.UTC(), resuming.UTC())
		}
	}
	// From the first slot that was told to the last, besides the moments of the two requests, nothing is left out.
	want := every(pace, toldFirst[0], pausing)
	want = append(want, every(pace, resumed, toldAgain[3])...)
	for _, at := range want {
		if n := len(slices.DeleteFunc(slices.Clone(slots), func(slot time.Time) bool { return !slot.Equal(at) })); n != 1 {
			s.t.Errorf("slot %s has %d rows", at, n)
		}
	}
	if first := slots[len(slots)-1]; !first.Equal(toldFirst[0]) {
		s.t.Errorf("the first row is of %s, told was %s", first, toldFirst[0])
	}
}

// told returns the times that next-fires tells.
func (s *system) told(id string, count int) []time.Time {
	s.t.Helper()
	status, fires := s.call("GET", fmt.Sprintf("/activity-definitions/%s/next-fires?count=%d", id, count), "")
	if status != http.StatusOK {
		s.t.Fatalf("next-fires answered %d: %v", status, fires)
	}
	var out []time.Time
	for _, f := range items(fires["fires"]) {
		at, err := time.Parse(time.RFC3339, object(f.(map[string]any)).str("utc"))
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, at)
	}
	return out
}

func items(v any) []any {
	list, _ := v.([]any)
	return list
}

func slotsOf(t *testing.T, rows []object) []time.Time {
	t.Helper()
	out := make([]time.Time, len(rows))
	for i, row := range rows {
		out[i] = slotOf(t, row)
	}
	return out
}

func slotOf(t *testing.T, row object) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, row.str("slot_at"))
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
	s := newSystem(t)
	s.start("api")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	alone := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.launch("api", "ACTCORE_API_ADDR="+alone, "TEMPORAL_HOST=127.0.0.1:1")

	s.create(`{"name": "daily", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily"}}`)
	for _, query := range []string{"?dry_run=true", ""} {
		var got object
		testenv.Eventually(t, 40*time.Second, "one schedule is as wanted", func(ctx context.Context) (bool, error) {
			status, answer, err := s.tryCall(ctx, "POST", "/admin/sync"+query, "")
			got = answer
			return err == nil && status == http.StatusOK && answer["unchanged"] == 1.0, nil // a busy Temporal is asked again
		})
		if got["complete"] != true || got["dry_run"] != (query != "") || got["failed"] != 0.0 || len(items(got["failures"])) != 0 {
			t.Errorf("%s: %v", query, got)
		}
	}

	testenv.Eventually(t, 30*time.Second, "the other API is up", func(ctx context.Context) (bool, error) {
		return httpOK(ctx, "http://"+alone+"/healthz"), nil
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
	var problem object
	if err := json.NewDecoder(res.Body).Decode(&problem); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); res.StatusCode != http.StatusServiceUnavailable || took > 15*time.Second ||
		problem.str("type") != "urn:activity-core:problem:temporal-unavailable" {
		t.Errorf("without Temporal: %d after %s: %v", res.StatusCode, took, problem)
	}
}
