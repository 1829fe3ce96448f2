package ledger

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// minutely makes a definition that is due every minute and was last looked at some minutes ago.
func (b *bundle) minutely(t *testing.T, name string, ago time.Duration) string {
	t.Helper()
	doc, err := definition.ParseDocument([]byte(`{"name": "` + name + `", "concurrency": {"limit": 0},
		"trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *", "misfire_policy": "catchup"}}`))
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.store.CreateDefinition(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.pool.Exec(t.Context(), `
		UPDATE cron_state SET cursor = cursor - $2::interval, next_slot_at = now() - interval '1 s' WHERE definition_id = $1`, d.ID, ago)
	if err != nil {
		t.Fatal(err)
	}
	return d.ID
}

func (b *bundle) slots(t *testing.T, id string) []definition.Run {
	t.Helper()
	runs, err := b.store.ListRuns(t.Context(), definition.ListRuns{DefinitionID: id, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

func watchdog(t *testing.T, b *bundle, c client.Client) *Watchdog {
	t.Helper()
	w, err := NewWatchdog(WatchdogOptions{Store: b.store, Temporal: c, Every: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWatchdogAndSweeper: a slot that no schedule ever starts gets its row, is started by the sweeper, and nominates its
// schedule; a slot that was started by somebody else is not taken for recovered.
func TestWatchdogAndSweeper(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	id := b.minutely(t, "lost", 3*time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- watchdog(t, b, b.temporal).Run(ctx) }()
	testenv.Eventually(t, 20*time.Second, "the slots have rows", func(context.Context) (bool, error) {
		return len(b.slots(t, id)) >= 3, nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	runs := b.slots(t, id)
	// The schedule started one of them after all.
	if err := b.ledger.Start(t.Context(), definition.Start{RunID: runs[0].ID, DefinitionID: id, DefinitionName: "lost", Key: runs[0].Key}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.pool.Exec(t.Context(), `UPDATE schedule_sync SET dirty = false`); err != nil {
		t.Fatal(err)
	}
	b.due(t)
	if _, err := b.sweeper.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		if _, err := b.temporal.DescribeWorkflowExecution(t.Context(), definition.WorkflowID(id, r.Key), ""); err != nil {
			t.Errorf("slot %s was not started: %v", r.Key, err)
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(b.sweeper.recovered)
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(families, err)
	}
	if n := families[0].GetMetric()[0].GetCounter().GetValue(); int(n) != len(runs)-1 {
		t.Errorf("%v slots were recovered, want %d", n, len(runs)-1)
	}
	var recovered int
	var dirty bool
	err = b.pool.QueryRow(t.Context(), `SELECT recovered, dirty FROM cron_state JOIN schedule_sync USING (definition_id)
		WHERE definition_id = $1`, id).Scan(&recovered, &dirty)
	if err != nil || recovered == 0 || !dirty {
		t.Errorf("recovered = %d, dirty = %v, %v; want the schedule nominated", recovered, dirty, err)
	}
}

// TestWatchdogWaitsForTemporal: the slots of an outage are judged after it.
func TestWatchdogWaitsForTemporal(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	id := b.minutely(t, "outage", 3*time.Minute)
	away, err := client.NewLazyClient(client.Options{HostPort: "127.0.0.1:1", Namespace: testenv.Namespace(t), Logger: testenv.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(away.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := watchdog(t, b, away).look(ctx); err == nil || !strings.Contains(err.Error(), "until Temporal answers") {
		t.Errorf("with Temporal away: %v", err)
	}
	if n := len(b.slots(t, id)); n != 0 {
		t.Errorf("%d slots were judged while Temporal was away", n)
	}
	if err := watchdog(t, b, b.temporal).look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(b.slots(t, id)); n < 3 {
		t.Errorf("%d slots were judged after the outage", n)
	}
}

func TestBackfillerStartsInTurn(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	id := b.minutely(t, "past", 0)
	now := time.Now()
	backfill, err := b.store.CreateBackfill(t.Context(), definition.BackfillRequest{
		DefinitionID: id, From: now.Add(-6 * time.Minute), To: now.Add(-time.Minute), OnlyMissing: true, MaxConcurrent: 2}, false)
	if err != nil || backfill.Total < 5 {
		t.Fatalf("backfill = %+v, %v", backfill, err)
	}
	filler, err := NewBackfiller(BackfillerOptions{Ledger: b.ledger, Store: b.store, Every: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- filler.Run(ctx) }()
	ended := map[string]bool{}
	testenv.Eventually(t, 30*time.Second, "all of its runs were started, two at a time", func(ctx context.Context) (bool, error) {
		runs, err := b.store.ListRuns(ctx, definition.ListRuns{BackfillID: backfill.ID, Limit: 100})
		if err != nil {
			return false, err
		}
		var open []definition.Run
		for _, r := range runs {
			if _, err := b.temporal.DescribeWorkflowExecution(ctx, r.WorkflowID, ""); err == nil && !r.Status.Final() {
				open = append(open, r)
			}
		}
		if len(open) > 2 {
			t.Errorf("%d runs are started at one time", len(open))
		}
		for _, r := range open {
			if _, err := b.store.FinishRun(ctx, definition.Finish{RunID: r.ID, Status: definition.RunSucceeded}); err != nil {
				return false, err
			}
			ended[r.ID] = true
		}
		got, err := b.store.GetBackfill(ctx, backfill.ID)
		return got.Status == definition.BackfillCompleted, err
	})
	if len(ended) != backfill.Total {
		t.Errorf("%d runs ended, want %d", len(ended), backfill.Total)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCountSlots(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	count, err := CountSlots(registry, true)
	if err != nil {
		t.Fatal(err)
	}
	count([]definition.Judged{
		{DefinitionName: "a", Status: definition.RunAccepted}, {DefinitionName: "a", Status: definition.RunAccepted},
		{DefinitionName: "a", Status: definition.RunAccepted, CatchUp: true},
		{DefinitionName: "b", Status: definition.RunMissed, Reason: definition.ReasonMisfireWindow},
		{DefinitionName: "b", Status: definition.RunSkipped, Reason: definition.ReasonCoalesced},
		{DefinitionName: "b", Status: definition.RunSkipped, Reason: definition.ReasonDefinitionOff},
	})
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(families, err)
	}
	var got []string
	for _, m := range families[0].GetMetric() {
		line := ""
		for _, l := range m.GetLabel() {
			line += l.GetValue() + " "
		}
		got = append(got, line+strings.Repeat("|", int(m.GetCounter().GetValue())))
	}
	want := []string{"a accepted ||", "a caught_up |", "b coalesced |", "b missed |", "b not_due |"}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := CountSlots(registry, true); err == nil {
		t.Error("registered twice")
	}
}
