package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/testenv"
)

const daily = `{"name": %q, "trigger_config": {"trigger_type": "cron", "cron_expression": "0 3 * * *", "timezone": "Europe/Berlin"}}`

// bundle is one installation: a database of its own in the test binary's Temporal namespace.
type bundle struct {
	*schedule.Reconciler
	pool     *pgxpool.Pool
	store    *postgres.Store
	temporal client.Client
	metrics  *prometheus.Registry
}

func setup(t *testing.T) *bundle {
	t.Helper()
	pool := testenv.Pool(t)
	b := &bundle{pool: pool, store: postgres.New(pool), temporal: testenv.Temporal(t)}
	b.Reconciler, b.metrics = reconciler(t, b.store, b.temporal)
	return b
}

func reconciler(t *testing.T, store schedule.Store, temporal client.Client) (*schedule.Reconciler, *prometheus.Registry) {
	t.Helper()
	metrics := prometheus.NewRegistry()
	r, err := schedule.NewReconciler(schedule.Options{
		Store: store, Temporal: temporal, TaskQueue: "orchestrator-test", Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Registerer: metrics, Poll: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, metrics
}

func (b *bundle) create(t *testing.T, document string) string {
	t.Helper()
	doc, err := definition.ParseDocument([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := b.store.CreateDefinition(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	return stored.ID
}

func (b *bundle) edit(t *testing.T, id, patch string) {
	t.Helper()
	_, err := b.store.UpdateDefinition(t.Context(), id, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		return d.Merge([]byte(patch))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sync is what the API does after a write, again while the servers are too busy to answer in time.
func (b *bundle) sync(t *testing.T, id string) {
	t.Helper()
	testenv.Eventually(t, time.Minute, "synced", func(ctx context.Context) (bool, error) {
		status, err := b.SyncNow(ctx, id)
		switch {
		case err != nil || tooBusy(status.LastError):
			return false, err
		case status.State != definition.SyncSynced || status.Desired != status.Observed || status.LastError != "":
			return false, fmt.Errorf("SyncNow = %+v; want synced", status)
		}
		return true, nil
	})
}

// all is a full reconcile, again while the servers are too busy. It returns the first result that is not about that, and
// whether it was the first of all, so that it counts everything.
func (b *bundle) all(t *testing.T, dryRun bool) (result schedule.Result, first bool) {
	t.Helper()
	first = true
	testenv.Eventually(t, time.Minute, "a full reconcile", func(ctx context.Context) (bool, error) {
		var err error
		result, err = b.SyncAll(ctx, dryRun)
		for _, f := range result.Failures {
			if tooBusy(f.Error) {
				first = false
				return false, err
			}
		}
		return err == nil, err
	})
	return result, first
}

// tooBusy tells that Temporal did not answer within the bounds that a reconciler sets: what happens when the machine that
// runs the tests is loaded, and not what these tests are about.
func tooBusy(text string) bool { return strings.Contains(text, "temporal does not answer") }

// describe returns the definition's schedule, nil when there is none. Temporal answers for a schedule that it has only just
// made with a timeout as long as it is busy.
func describe(t *testing.T, c client.Client, id string) (found *client.ScheduleDescription) {
	t.Helper()
	testenv.Eventually(t, time.Minute, "describe the schedule", func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		var err error
		found, err = c.ScheduleClient().GetHandle(ctx, definition.ScheduleID(id)).Describe(ctx)
		var missing *serviceerror.NotFound
		var late *serviceerror.DeadlineExceeded
		if errors.As(err, &late) {
			return false, nil
		}
		return err == nil || errors.As(err, &missing), err
	})
	return found
}

func (b *bundle) want(t *testing.T, id string, exists, paused bool) {
	t.Helper()
	d := describe(t, b.temporal, id)
	switch {
	case (d != nil) != exists:
		t.Fatalf("a schedule exists: %v, want %v", d != nil, exists)
	case exists && d.Schedule.State.Paused != paused:
		t.Fatalf("the schedule is paused: %v, want %v", d.Schedule.State.Paused, paused)
	}
}

func (b *bundle) counted(t *testing.T, outcome schedule.Outcome) int {
	t.Helper()
	return count(t, b.metrics, outcome)
}

func count(t *testing.T, metrics *prometheus.Registry, outcome schedule.Outcome) int {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "actcore_schedule_sync_total" && m.GetLabel()[0].GetValue() == string(outcome) {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	return 0
}

func TestLifeOfASchedule(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.create(t, fmt.Sprintf(daily, "report"))
	for _, step := range []struct {
		name           string
		patch          string
		exists, paused bool
		outcome        schedule.Outcome
	}{
		{"created", "", true, false, schedule.Created},
		{"nothing to do", "", true, false, schedule.Unchanged},
		{"disabled", `{"enabled": false}`, true, true, schedule.Paused},
		{"edited while disabled", `{"trigger_config": {"cron_expression": "30 4 1,15 * 5"}}`, true, true, schedule.Updated},
		{"enabled", `{"enabled": true}`, true, false, schedule.Unpaused},
		{"every", `{"trigger_config": {"cron_expression": "@every 90m", "jitter": "10s"}}`, true, false, schedule.Updated},
		{"bounded", `{"trigger_config": {"start_at": "2031-01-01T00:00:00Z", "end_at": "2032-01-01T00:00:00.25Z"}}`,
			true, false, schedule.Updated},
		{"renamed", `{"name": "weekly-report"}`, true, false, schedule.Updated},
		{"over", `{"trigger_config": {"start_at": null, "end_at": "2020-01-01T00:00:00Z"}}`, false, false, schedule.Deleted},
		{"still over", "", false, false, schedule.Unchanged},
		{"not over", `{"trigger_config": {"end_at": null}}`, true, false, schedule.Created},
		{"an event now", `{"trigger_config": {"trigger_type": "event", "event_type": "user.created"}}`,
			false, false, schedule.Deleted},
		{"a cron again", `{"enabled": false, "trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"}}`,
			true, true, schedule.Created},
	} {
		if step.patch != "" {
			b.edit(t, id, step.patch)
		}
		before, failed := b.counted(t, step.outcome), b.counted(t, schedule.Failed)
		b.sync(t, id)
		b.want(t, id, step.exists, step.paused)
		if got := b.counted(t, step.outcome) - before; got != 1 && b.counted(t, schedule.Failed) == failed {
			t.Errorf("%s: counted %d times as %s", step.name, got, step.outcome)
		}
		// Whatever was written has to read back as wanted.
		before = b.counted(t, schedule.Unchanged)
		b.sync(t, id)
		if got := b.counted(t, schedule.Unchanged) - before; got != 1 {
			t.Errorf("%s: a second look is not unchanged", step.name)
		}
	}
	if err := b.store.DeleteDefinition(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.sync(t, id)
	b.want(t, id, false, false)
}

func TestWhatTemporalGets(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.create(t, fmt.Sprintf(daily, "report"))
	b.sync(t, id)
	d := describe(t, b.temporal, id)
	action, ok := d.Schedule.Action.(*client.ScheduleWorkflowAction)
	if !ok {
		t.Fatalf("action is %T", d.Schedule.Action)
	}
	installation, err := b.store.InstallationID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mark := fmt.Sprint(d.TypedSearchAttributes.GetUntypedValues())
	for what, ok := range map[string]bool{
		"workflow id": action.ID == "activity-"+id+":cron",
		"workflow":    action.Workflow == "RunActivity",
		"queue":       action.TaskQueue == "orchestrator-test",
		"run timeout": action.WorkflowRunTimeout == 25*time.Hour,
		"no retry":    action.RetryPolicy == nil,
		"zone":        d.Schedule.Spec.TimeZoneName == "Europe/Berlin",
		"catch-up":    d.Schedule.Policy.CatchupWindow == 10*time.Minute,
		"mark":        strings.Contains(mark, installation+"/"),
		"a next time": len(d.Info.NextActionTimes) > 0,
	} {
		if !ok {
			t.Errorf("%s is wrong in %+v, action %+v, attributes %s", what, d.Schedule, action, mark)
		}
	}
	stored, err := b.store.GetDefinition(t.Context(), id)
	if err != nil || stored.Sync.State != definition.SyncSynced {
		t.Errorf("stored state = %+v, %v", stored.Sync, err)
	}
}

// TestOutsideEdits changes schedules behind our back, mark and database untouched.
func TestOutsideEdits(t *testing.T) {
	t.Parallel()
	update := func(edit func(s *client.Schedule)) func(context.Context, client.ScheduleHandle) error {
		return func(ctx context.Context, h client.ScheduleHandle) error {
			return h.Update(ctx, client.ScheduleUpdateOptions{
				DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
					edit(&in.Description.Schedule)
					return &client.ScheduleUpdate{Schedule: &in.Description.Schedule}, nil
				}})
		}
	}
	for name, c := range map[string]struct {
		edit func(context.Context, client.ScheduleHandle) error
		want schedule.Outcome
	}{
		"paused": {func(ctx context.Context, h client.ScheduleHandle) error {
			return h.Pause(ctx, client.SchedulePauseOptions{Note: "maintenance"})
		}, schedule.Unpaused},
		"deleted": {func(ctx context.Context, h client.ScheduleHandle) error { return h.Delete(ctx) }, schedule.Created},
		"times": {update(func(s *client.Schedule) {
			s.Spec.Calendars[0].Hour = []client.ScheduleRange{{Start: 5}}
		}), schedule.Updated},
		"skipped times": {update(func(s *client.Schedule) {
			s.Spec.Skip = []client.ScheduleCalendarSpec{{DayOfWeek: []client.ScheduleRange{{Start: 1}}}}
		}), schedule.Updated},
		"workflow": {update(func(s *client.Schedule) {
			s.Action.(*client.ScheduleWorkflowAction).Workflow = "Other"
		}), schedule.Updated},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			id := b.create(t, fmt.Sprintf(daily, "report"))
			b.sync(t, id)
			before := describe(t, b.temporal, id)
			h := b.temporal.ScheduleClient().GetHandle(t.Context(), definition.ScheduleID(id))
			if err := c.edit(t.Context(), h); err != nil {
				t.Fatal(err)
			}
			// The list, which nominates, lags behind.
			testenv.Eventually(t, time.Minute, "the edit is found", func(ctx context.Context) (bool, error) {
				result, err := b.SyncAll(ctx, false)
				return result.Count(c.want) == 1, err
			})
			after := describe(t, b.temporal, id)
			if fmt.Sprintf("%+v", after.Schedule.Spec) != fmt.Sprintf("%+v", before.Schedule.Spec) ||
				*after.Schedule.State != *before.Schedule.State {
				t.Errorf("repaired to %+v %+v, want %+v %+v", after.Schedule.Spec, after.Schedule.State, before.Schedule.Spec,
					before.Schedule.State)
			}
		})
	}
}

// TestHiddenEdit: the list does not show an action's task queue, so the next look at the description finds the edit.
func TestHiddenEdit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.create(t, fmt.Sprintf(daily, "report"))
	b.sync(t, id)
	describe(t, b.temporal, id) // answers only when the schedule works
	err := b.temporal.ScheduleClient().GetHandle(t.Context(), definition.ScheduleID(id)).Update(t.Context(),
		client.ScheduleUpdateOptions{DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			in.Description.Schedule.Action.(*client.ScheduleWorkflowAction).TaskQueue = "elsewhere"
			in.Description.Schedule.Policy.CatchupWindow = time.Hour
			return &client.ScheduleUpdate{Schedule: &in.Description.Schedule}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	b.sync(t, id)
	d := describe(t, b.temporal, id)
	if q := d.Schedule.Action.(*client.ScheduleWorkflowAction).TaskQueue; q != "orchestrator-test" {
		t.Errorf("task queue = %s", q)
	}
	if b.counted(t, schedule.Updated) != 1 {
		t.Error("not counted as updated")
	}
}

func TestFullReconcileFromNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	on := b.create(t, fmt.Sprintf(daily, "on"))
	off := b.create(t, fmt.Sprintf(daily, "off"))
	gone := b.create(t, fmt.Sprintf(daily, "gone"))
	turned := b.create(t, fmt.Sprintf(daily, "turned"))
	for _, id := range []string{off, gone, turned} {
		b.sync(t, id)
	}
	// Then the API crashes after each of these.
	b.edit(t, off, `{"enabled": false}`)
	b.edit(t, turned, `{"trigger_config": {"trigger_type": "manual"}}`)
	if err := b.store.DeleteDefinition(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	b.create(t, `{"name": "by-hand", "trigger_config": {"trigger_type": "manual"}}`)
	b.create(t, strings.Replace(fmt.Sprintf(daily, "over"), `"timezone"`, `"end_at": "2020-01-01T00:00:00Z", "timezone"`, 1))

	dry, _ := b.all(t, true)
	if dry.Created != 1 || dry.Paused != 1 || dry.Deleted != 2 || dry.Failed != 0 || dry.Updated != 0 {
		t.Errorf("dry run = %+v", dry)
	}
	b.want(t, on, false, false)
	b.want(t, off, true, false)
	b.want(t, gone, true, false)

	result, first := b.all(t, false)
	if first && fmt.Sprintf("%+v", result) != fmt.Sprintf("%+v", dry) {
		t.Errorf("result = %+v, but the dry run said %+v", result, dry)
	}
	b.want(t, on, true, false)
	b.want(t, off, true, true)
	b.want(t, gone, false, false)
	b.want(t, turned, false, false)

	testenv.Eventually(t, time.Minute, "a reconcile finds nothing to do", func(ctx context.Context) (bool, error) {
		result, err := b.SyncAll(ctx, true)
		return result.Unchanged == 3 && result.Created+result.Paused+result.Deleted+result.Updated+result.Failed == 0, err
	})
}

// TestOrphan: a schedule with our mark whose definition the database does not know, as after a restore.
func TestOrphan(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.create(t, fmt.Sprintf(daily, "report"))
	b.sync(t, id)
	for _, statement := range []string{"DELETE FROM schedule_sync", "DELETE FROM definitions"} {
		if _, err := b.pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if dry, _ := b.all(t, true); dry.Deleted > 1 || dry.Failed != 0 {
		t.Errorf("dry run = %+v", dry)
	}
	b.want(t, id, true, false)
	testenv.Eventually(t, time.Minute, "the orphan is deleted", func(ctx context.Context) (bool, error) {
		result, err := b.SyncAll(ctx, false)
		return result.Deleted == 1, err
	})
	b.want(t, id, false, false)
}

func TestTwoInstallationsInOneNamespace(t *testing.T) {
	t.Parallel()
	one, two := setup(t), setup(t)
	id := one.create(t, fmt.Sprintf(daily, "report"))
	one.sync(t, id)
	for range 3 {
		if result, _ := two.all(t, false); fmt.Sprintf("%+v", result) != fmt.Sprintf("%+v", schedule.Result{Failures: []schedule.Failure{}}) {
			t.Errorf("an empty installation did something: %+v", result)
		}
	}
	one.want(t, id, true, false)

	// A copy of the first database that was made an installation of its own wants the same schedule.
	if _, err := one.pool.Exec(t.Context(), "UPDATE installation SET id = gen_random_uuid()"); err != nil {
		t.Fatal(err)
	}
	copied := &bundle{pool: one.pool, store: one.store, temporal: one.temporal}
	copied.Reconciler, copied.metrics = reconciler(t, one.store, one.temporal)
	one.edit(t, id, `{"enabled": false}`)
	testenv.Eventually(t, time.Minute, "an answer", func(ctx context.Context) (bool, error) {
		status, err := copied.SyncNow(ctx, id)
		if err != nil || tooBusy(status.LastError) {
			return false, err
		}
		if status.State != definition.SyncError || !strings.Contains(status.LastError, "another installation") {
			t.Errorf("SyncNow = %+v; want an error that says why", status)
		}
		return true, nil
	})
	result, _ := copied.all(t, false)
	if result.Failed != 1 || len(result.Failures) != 1 || result.Failures[0].DefinitionID != id {
		t.Errorf("SyncAll = %+v", result)
	}
	if copied.counted(t, schedule.Failed) < 2 {
		t.Error("the failures were not counted")
	}
	one.want(t, id, true, false)
}

func TestWorkersTogether(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n, workers = 20, 4
	ids := make([]string, n)
	for i := range ids {
		ids[i] = b.create(t, fmt.Sprintf(daily, fmt.Sprintf("report-%d", i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var all []*prometheus.Registry
	for range workers {
		r, metrics := reconciler(t, b.store, b.temporal)
		all = append(all, metrics)
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	synced := func(id string, revision int) {
		testenv.Eventually(t, time.Minute, "synced", func(ctx context.Context) (bool, error) {
			stored, err := b.store.GetDefinition(ctx, id)
			return stored.Sync.State == definition.SyncSynced && stored.Sync.Observed == revision, err
		})
	}
	for _, id := range ids {
		synced(id, 1)
		b.want(t, id, true, false)
	}
	b.edit(t, ids[0], `{"enabled": false}`)
	synced(ids[0], 2)
	b.want(t, ids[0], true, true)
	cancel()
	wg.Wait()
	total := map[schedule.Outcome]int{}
	for _, metrics := range all {
		for _, outcome := range schedule.Outcomes {
			total[outcome] += count(t, metrics, outcome)
		}
	}
	switch {
	case total[schedule.Failed] > 0:
		// Temporal was too busy for a while. Nothing else may fail.
		for _, id := range ids {
			stored, err := b.store.GetDefinition(t.Context(), id)
			if err != nil || stored.Sync.State != definition.SyncSynced {
				t.Errorf("state = %+v, %v", stored.Sync, err)
			}
		}
	case total[schedule.Created] != n || total[schedule.Paused] != 1 || total[schedule.Updated] != 0:
		t.Errorf("%d workers together: %v; want %d created, 1 paused, none failed", workers, total, n)
	}
}

// TestRunRepairs: a worker's own full reconcile finds what was deleted behind our back.
func TestRunRepairs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.create(t, fmt.Sprintf(daily, "report"))
	b.sync(t, id)
	if err := b.temporal.ScheduleClient().GetHandle(t.Context(), definition.ScheduleID(id)).Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := schedule.NewReconciler(schedule.Options{
		Store: b.store, Temporal: b.temporal, TaskQueue: "orchestrator-test", Log: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry(), Poll: 50 * time.Millisecond, FullEvery: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	testenv.Eventually(t, time.Minute, "the schedule is back", func(ctx context.Context) (bool, error) {
		return describe(t, b.temporal, id) != nil, nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNothingToDoIsCheap counts the calls of a reconcile that finds everything right.
func TestNothingToDoIsCheap(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 12
	for i := range n {
		b.create(t, fmt.Sprintf(daily, fmt.Sprintf("report-%d", i)))
	}
	b.create(t, strings.Replace(fmt.Sprintf(daily, "over"), `"timezone"`, `"end_at": "2020-01-01T00:00:00Z", "timezone"`, 1))
	if result, first := b.all(t, false); result.Failed != 0 || first && (result.Created != n || result.Unchanged != 1) {
		t.Fatalf("first = %+v", result)
	}
	var calls testenv.Calls
	r, _ := reconciler(t, b.store, dial(t, testenv.Stack(t).TemporalAddress, calls.Count))
	testenv.Eventually(t, time.Minute, "nothing but lists", func(ctx context.Context) (bool, error) {
		calls.Take()
		result, err := r.SyncAll(ctx, false)
		if err != nil || result.Unchanged+result.Failed != n+1 {
			return false, fmt.Errorf("result %+v, %v", result, err)
		}
		seen := calls.Take()
		return seen["ListSchedules"] == 1 && seen["DescribeSchedule"] == 0 && seen["UpdateSchedule"] == 0, nil
	})
}

// TestLostUpdate: Temporal answers OK and drops the update.
func TestLostUpdate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.create(t, fmt.Sprintf(daily, "report"))
	b.sync(t, id)
	var dropped atomic.Bool
	c := dial(t, testenv.Stack(t).TemporalAddress, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		if strings.HasSuffix(method, "/UpdateSchedule") && dropped.CompareAndSwap(false, true) {
			return nil
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
	r, metrics := reconciler(t, b.store, c)
	for _, enabled := range []bool{false, true, false, true} {
		dropped.Store(false)
		before := count(t, metrics, schedule.Paused) + count(t, metrics, schedule.Unpaused)
		b.edit(t, id, fmt.Sprintf(`{"enabled": %v}`, enabled))
		result, err := r.SyncAll(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		// Whoever does not send the update again meets the second of these each time.
		if result.Failed == 1 && (tooBusy(result.Failures[0].Error) || strings.Contains(result.Failures[0].Error, "does not show yet")) {
			b.sync(t, id) // otherwise the next change might be one to what Temporal still has
			continue
		}
		if result.Paused+result.Unpaused != 1 || result.Failed != 0 || !dropped.Load() {
			t.Errorf("SyncAll = %+v, dropped %v; want the update sent again in the same try", result, dropped.Load())
		}
		if after := count(t, metrics, schedule.Paused) + count(t, metrics, schedule.Unpaused); after != before+1 {
			t.Errorf("counted %d times", after-before)
		}
		b.want(t, id, true, !enabled)
		return
	}
	t.Error("Temporal was too busy four times")
}

func TestTemporalAway(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() }) //nolint:errcheck // the test is over
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for name, address := range map[string]string{"nobody listens": closed.Addr().String(), "nobody answers": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			id := b.create(t, fmt.Sprintf(daily, "report"))
			r, _ := reconciler(t, b.store, dial(t, address, nil))
			start := time.Now()
			status, err := r.SyncNow(t.Context(), id)
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
			if err != nil || status.State != definition.SyncPending || !strings.Contains(status.LastError, "temporal does not answer") {
				t.Errorf("SyncNow = %+v, %v; want pending", status, err)
			}
			// The lease was given back: a worker that reaches Temporal need not wait for it.
			b.sync(t, id)
			b.want(t, id, true, false)
		})
	}
}

func TestSyncNowWithoutSchedule(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.create(t, `{"name": "by-hand", "trigger_config": {"trigger_type": "manual"}}`)
	start := time.Now()
	status, err := b.SyncNow(t.Context(), id)
	if err != nil || status.State != "" || time.Since(start) > time.Second {
		t.Errorf("SyncNow = %+v, %v after %v; want an empty state at once", status, err, time.Since(start))
	}
}

func TestHeldByAnother(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.create(t, fmt.Sprintf(daily, "report"))
	item, ok, err := b.store.LeaseSyncOf(t.Context(), id, time.Minute)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	start := time.Now()
	status, err := b.SyncNow(t.Context(), id)
	took := time.Since(start)
	if err != nil || status.State != definition.SyncPending || took < 1500*time.Millisecond || took > 4*time.Second {
		t.Errorf("SyncNow = %+v, %v after %v; want pending after two seconds", status, err, took)
	}
	b.want(t, id, false, false)
	// When the other gives it back in time, the answer is synced.
	answer := make(chan definition.SyncStatus, 1)
	go func() {
		status, err := b.SyncNow(t.Context(), id)
		if err != nil {
			t.Error(err)
		}
		answer <- status
	}()
	if err := b.store.FailSync(t.Context(), item, 0, "gave up"); err != nil {
		t.Fatal(err)
	}
	if status := <-answer; status.State != definition.SyncSynced && !tooBusy(status.LastError) {
		t.Errorf("SyncNow = %+v; want synced", status)
	}
	b.sync(t, id)
	b.want(t, id, true, false)
}

// overtaken loses every lease to somebody else just before its result is recorded.
type overtaken struct {
	*postgres.Store
	pool *pgxpool.Pool
}

func (o overtaken) SettleSync(ctx context.Context, item definition.SyncItem, observed int, specHash string) error {
	if _, err := o.pool.Exec(ctx, "UPDATE schedule_sync SET lease_until = now() - interval '1 s'"); err != nil {
		return err
	}
	other, ok, err := o.LeaseSyncOf(ctx, item.DefinitionID, time.Minute)
	if err != nil || !ok {
		return fmt.Errorf("lease as somebody else: %v, %w", ok, err)
	}
	if err := o.Store.SettleSync(ctx, item, observed, specHash); !errors.Is(err, definition.ErrLeaseLost) {
		return fmt.Errorf("a lost lease was not noticed: %w", err)
	}
	// The other finds nothing to do, before it sees the late write.
	if err := o.Store.SettleSync(ctx, other, observed, specHash); err != nil {
		return err
	}
	return o.Store.SettleSync(ctx, item, observed, specHash)
}

func TestLeaseLost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.create(t, fmt.Sprintf(daily, "report"))
	r, metrics := reconciler(t, overtaken{b.store, b.pool}, b.temporal)
	status, err := r.SyncNow(t.Context(), id)
	if err != nil || status.State != definition.SyncPending {
		t.Errorf("SyncNow = %+v, %v; want pending", status, err)
	}
	if count(t, metrics, schedule.Failed) != 1 || count(t, metrics, schedule.Created) != 0 {
		t.Error("a result that was not recorded counts as failed")
	}
	stored, err := b.store.GetDefinition(t.Context(), id)
	if err != nil || stored.Sync.State != definition.SyncPending {
		t.Errorf("state = %+v, %v; a write under a lost lease asks for another look", stored.Sync, err)
	}
	b.sync(t, id)
}

func TestNewReconcilerNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	full := schedule.Options{
		Store: &postgres.Store{}, Temporal: struct{ client.Client }{}, TaskQueue: "q", Log: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry(),
	}
	for name, drop := range map[string]func(*schedule.Options){
		"Store":      func(o *schedule.Options) { o.Store = nil },
		"Temporal":   func(o *schedule.Options) { o.Temporal = nil },
		"TaskQueue":  func(o *schedule.Options) { o.TaskQueue = "" },
		"Log":        func(o *schedule.Options) { o.Log = nil },
		"Registerer": func(o *schedule.Options) { o.Registerer = nil },
	} {
		o := full
		drop(&o)
		if _, err := schedule.NewReconciler(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	if _, err := schedule.NewReconciler(full); err != nil {
		t.Error(err)
	}
}

// dial returns a client that connects when it is used, with the interceptor nearest to the wire.
func dial(t *testing.T, address string, intercept grpc.UnaryClientInterceptor) client.Client {
	t.Helper()
	options := client.Options{HostPort: address, Namespace: testenv.Namespace(t), Logger: discard{}}
	if intercept != nil {
		options.ConnectionOptions.DialOptions = []grpc.DialOption{grpc.WithChainUnaryInterceptor(intercept)}
	}
	c, err := client.NewLazyClient(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

type discard struct{}

func (discard) Debug(string, ...any) {}
func (discard) Info(string, ...any)  {}
func (discard) Warn(string, ...any)  {}
func (discard) Error(string, ...any) {}
