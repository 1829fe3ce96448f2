package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/testenv"
)

// syncConcurrency is how many schedules a reconciler works on at one time, and so the bare loop's.
const syncConcurrency = 8

// measureSchedules: what it costs to keep many schedules in line: all of them new, none of them new, and one changed
// meanwhile.
func measureSchedules(ctx context.Context, b *bench, o options) ([]figure, error) {
	s, err := b.newSystem(ctx)
	if err != nil {
		return nil, err
	}
	figures, err := s.schedules(ctx, o.schedules)
	return figures, errors.Join(err, s.end())
}

// createMany stores n cron definitions; expression gives each its times.
func (s *system) createMany(ctx context.Context, n int, more string, expression func(int) string) ([]string, error) {
	ids := make([]string, n)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error {
			d, err := s.create(gctx, fmt.Sprintf(`{"name": "d-%d"%s, "trigger_config": {"trigger_type": "cron", "cron_expression": %q,
				"timezone": "Europe/Berlin"}}`, i, more, expression(i)))
			ids[i] = d.ID
			return err
		})
	}
	return ids, group.Wait()
}

func (s *system) schedules(ctx context.Context, n int) ([]figure, error) {
	ids, err := s.createMany(ctx, n, "", func(i int) string { return fmt.Sprintf("%d %d 1 6 *", i%60, i/60%24) })
	if err != nil {
		return nil, err
	}
	// A few that exist already, to be changed while the others are made.
	var old []string
	for i := range 20 {
		d, err := s.create(ctx, fmt.Sprintf(`{"name": "old-%d", "trigger_config": {"trigger_type": "cron", "cron_expression": "0 0 1 1 *"}}`, i))
		if err != nil {
			return nil, err
		}
		if _, err := s.change(ctx, d.ID); err != nil {
			return nil, err
		}
		old = append(old, d.ID)
	}
	// Half of the bare loop before ours and half after, for the servers slow down as they fill.
	bare, _, err := s.b.createBare(ctx, n/2)
	if err != nil {
		return nil, err
	}
	cold, rss, during, err := s.coldSync(ctx, old)
	if err != nil {
		return nil, err
	}
	rest, last, err := s.b.createBare(ctx, n-n/2)
	if err != nil {
		return nil, err
	}
	bare += rest
	// Temporal accepts schedules faster than it begins them; it answers for the last one when it has caught up.
	if err := wait(ctx, 5*time.Minute, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := s.b.temporal.ScheduleClient().GetHandle(ctx, last).Describe(ctx)
		return err == nil, nil
	}); err != nil {
		return nil, fmt.Errorf("wait for Temporal to catch up: %w", err)
	}

	var calls testenv.Calls
	c, err := client.Dial(client.Options{HostPort: s.b.stack.TemporalAddress, Namespace: s.b.namespace, Logger: testenv.Quiet(),
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(calls.Count)}}})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, err := s.reconciler(c)
	if err != nil {
		return nil, err
	}
	// The list of schedules lags a little behind the schedules: the first look may find things to describe.
	if err := wait(ctx, 2*time.Minute, func() (bool, error) {
		result, err := r.SyncAll(ctx, false)
		return result.Unchanged == n+len(old) && calls.Take()["DescribeSchedule"] == 0, err
	}); err != nil {
		return nil, fmt.Errorf("wait for nothing to do: %w", err)
	}
	var quiet, describe time.Duration
	var seen map[string]int
	var meanwhile []time.Duration
	for range 3 {
		stop := make(chan struct{})
		var changes sync.WaitGroup
		changes.Go(func() {
			for i := 0; ; i++ {
				took, err := s.change(ctx, ids[i%len(ids)])
				if err == nil {
					meanwhile = append(meanwhile, took)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		if _, err := r.SyncAll(ctx, false); err != nil {
			return nil, err
		}
		close(stop)
		changes.Wait()
	}
	calls.Take()
	if err := wait(ctx, 2*time.Minute, func() (bool, error) {
		began := time.Now()
		result, err := r.SyncAll(ctx, false)
		quiet, seen = time.Since(began), calls.Take()
		return result.Unchanged == n+len(old) && seen["DescribeSchedule"] == 0, err
	}); err != nil {
		return nil, fmt.Errorf("wait for nothing to do: %w", err)
	}
	if describe, err = s.describeEach(ctx, c, ids); err != nil {
		return nil, err
	}
	slices.Sort(meanwhile)
	changed := seen["UpdateSchedule"] + seen["CreateSchedule"] + seen["DeleteSchedule"] + seen["PatchSchedule"]
	return []figure{
		{fmt.Sprintf("bare loop of %d schedule creates", n), bare.Seconds(), "s", ""},
		{"cold sync by sync-schedules", cold.Seconds(), "s", ""},
		{"cold sync, ratio to bare", cold.Seconds() / bare.Seconds(), "×", "1.2 or less"},
		{"memory of the cold sync", float64(rss) / 1024, "MiB", "300 or less"},
		{"one change during the cold sync, slowest", slices.Max(during).Seconds(), "s", ""},
		{"sync with nothing to do", quiet.Seconds(), "s", ""},
		{"its writes to schedules", float64(changed), "calls", "0"},
		{"its lists", float64(seen["ListSchedules"]), "calls", "15 or fewer"},
		{"describing each", describe.Seconds(), "s", ""},
		{"nothing to do, times faster than describing", describe.Seconds() / quiet.Seconds(), "×", "20 or more"},
		{"one change during a sync, median", meanwhile[len(meanwhile)/2].Seconds(), "s", "1 or less"},
		{fmt.Sprintf("the slowest of %d", len(meanwhile)), slices.Max(meanwhile).Seconds(), "s", "1 or less"},
	}, nil
}

func (s *system) reconciler(c client.Client) (*schedule.Reconciler, error) {
	return schedule.NewReconciler(schedule.Options{
		Store: s.store, Temporal: c, TaskQueue: s.orchestrator(), Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
}

// coldSync runs the command over definitions that have no schedules yet, and changes old ones meanwhile, the way the API does.
// It returns the command's time and its greatest memory in KiB, and how long the changes took. They wait for Temporal's own
// scheduler, which is behind by then: it accepts schedules faster than it begins them.
func (s *system) coldSync(ctx context.Context, old []string) (time.Duration, int64, []time.Duration, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.b.bin, "sync-schedules"), "-o", "json")
	cmd.Env = []string{
		"ACTCORE_DB_URL=" + s.database, "TEMPORAL_HOST=" + s.b.stack.TemporalAddress, "TEMPORAL_NAMESPACE=" + s.b.namespace,
		"ACTCORE_ORCHESTRATOR_TASK_QUEUE=" + s.orchestrator(), "LOG_LEVEL=error",
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, nil, err
	}
	var during []time.Duration
	var failed error
	var changes sync.WaitGroup
	stop := make(chan struct{})
	changes.Go(func() {
		pause := time.NewTicker(2 * time.Second)
		defer pause.Stop()
		for i := 0; failed == nil; i++ {
			select {
			case <-stop:
				return
			case <-pause.C:
			}
			var took time.Duration
			took, failed = s.change(ctx, old[i%len(old)])
			during = append(during, took)
		}
	})
	err := cmd.Wait()
	took := time.Since(began)
	close(stop)
	changes.Wait()
	if err != nil {
		err = fmt.Errorf("sync-schedules: %w: %s", err, out.String())
	}
	usage, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return took, usage.Maxrss, during, errors.Join(err, failed)
}

// change edits a definition and brings its schedule in line at once, as the API does; it returns how long the
// latter took.
func (s *system) change(ctx context.Context, id string) (time.Duration, error) {
	if s.syncer == nil {
		var err error
		if s.syncer, err = s.reconciler(s.b.temporal); err != nil {
			return 0, err
		}
	}
	_, err := s.store.UpdateDefinition(ctx, id, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		return d.Merge(fmt.Appendf(nil, `{"trigger_config": {"jitter": "%ds"}}`, 1+time.Now().UnixNano()%50))
	})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for { // what the API leaves pending, a worker would go on with
		status, err := s.syncer.SyncNow(ctx, id)
		if err != nil || status.State == definition.SyncSynced {
			return time.Since(began), err
		}
	}
}

// createBare makes n schedules as ours are, and nothing else. It returns how long that took, and the id of one of the last.
func (b *bench) createBare(ctx context.Context, n int) (took time.Duration, last string, err error) {
	began := time.Now()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(syncConcurrency)
	for i := range n {
		group.Go(func() error {
			id := definition.NewID()
			if i == n-1 {
				last = "bare-" + id
			}
			one := func(v int) []client.ScheduleRange { return []client.ScheduleRange{{Start: v, End: v, Step: 1}} }
			_, err := b.temporal.ScheduleClient().Create(gctx, client.ScheduleOptions{
				ID: "bare-" + id,
				Spec: client.ScheduleSpec{TimeZoneName: "Europe/Berlin", Calendars: []client.ScheduleCalendarSpec{{
					Second: one(0), Minute: one(i % 60), Hour: one(i / 60 % 24), DayOfMonth: one(1), Month: one(6),
					DayOfWeek: []client.ScheduleRange{{Start: 0, End: 6, Step: 1}},
				}}},
				Action: &client.ScheduleWorkflowAction{
					ID: "bare-" + id, Workflow: "Bare", TaskQueue: "bare", Args: []any{definition.RunInput{DefinitionID: id}},
					WorkflowRunTimeout: 25 * time.Hour,
					TypedSearchAttributes: temporal.NewSearchAttributes(
						temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeID).ValueSet(id),
						temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeName).ValueSet("bare")),
				},
				Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL, CatchupWindow: 10 * time.Minute, Note: "bare",
				TypedSearchAttributes: temporal.NewSearchAttributes(
					temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeSpecHash).ValueSet("bare/" + id)),
			})
			return err
		})
	}
	err = group.Wait()
	return time.Since(began), last, err
}

func (s *system) describeEach(ctx context.Context, c client.Client, ids []string) (time.Duration, error) {
	began := time.Now()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(syncConcurrency)
	for _, id := range ids {
		group.Go(func() error {
			_, err := c.ScheduleClient().GetHandle(gctx, definition.ScheduleID(id)).Describe(gctx)
			return err
		})
	}
	err := group.Wait()
	return time.Since(began), err
}

// measureHerd: many definitions due in the same minute. How late their runs begin is told beside what the limits explain.
func measureHerd(ctx context.Context, b *bench, o options) ([]figure, error) {
	s, err := b.newSystem(ctx)
	if err != nil {
		return nil, err
	}
	figures, err := s.herd(ctx, o.herd)
	return figures, errors.Join(err, s.end())
}

// The limits on how many runs a second schedules may start in a namespace: the dev stack's, and Temporal's own default.
const (
	devStartLimit     = 500
	defaultStartLimit = 30
)

func (s *system) herd(ctx context.Context, n int) ([]figure, error) {
	// Enough time for every schedule to be there before its slot.
	slot := time.Now().Add(time.Duration(n)*14*time.Millisecond + 30*time.Second).UTC().Truncate(time.Minute).Add(time.Minute)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return nil, err
	}
	expression := slot.In(berlin).Format("4 15 2 1 *")
	if _, err := s.createMany(ctx, n, "", func(int) string { return expression }); err != nil {
		return nil, err
	}
	worker, err := s.start("worker")
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, time.Until(slot), func() (bool, error) {
		var dirty int
		err := s.pool.QueryRow(ctx, `SELECT count(*) FROM schedule_sync WHERE dirty`).Scan(&dirty)
		return dirty == 0, err
	}); err != nil {
		return nil, fmt.Errorf("the schedules were not made before the slot at %s: %w", slot, err)
	}
	var rows, succeeded, missed int
	counts := func() (err error) {
		return s.pool.QueryRow(ctx, `
			SELECT count(*), count(*) FILTER (WHERE status = 'succeeded'), count(*) FILTER (WHERE status = 'missed') FROM runs
			WHERE slot_at = $1`, slot).Scan(&rows, &succeeded, &missed)
	}
	if err := wait(ctx, time.Until(slot)+20*time.Minute, func() (bool, error) {
		err := counts()
		return succeeded+missed >= n, err
	}); err != nil {
		return nil, fmt.Errorf("%d rows, %d succeeded, %d missed: %w", rows, succeeded, missed, err)
	}
	var judged, half, most, last float64
	err = s.pool.QueryRow(ctx, `
		SELECT extract(epoch FROM max(accepted_at - slot_at)),
		       extract(epoch FROM percentile_disc(0.5) WITHIN GROUP (ORDER BY started_at - slot_at)),
		       extract(epoch FROM percentile_disc(0.99) WITHIN GROUP (ORDER BY started_at - slot_at)),
		       extract(epoch FROM max(started_at - slot_at))
		FROM runs WHERE slot_at = $1`, slot).Scan(&judged, &half, &most, &last)
	if err != nil {
		return nil, err
	}
	recovered := worker.metric(ctx, "actcore_slots_recovered_total", "")
	return []figure{
		{"definitions due in one minute", float64(n), "", ""},
		{"their rows", float64(rows), "", fmt.Sprint(n)},
		{"their runs that succeeded", float64(succeeded), "", fmt.Sprint(n)},
		{"missed", float64(missed), "", "0"},
		{"started by the sweeper, not by Temporal", recovered, "", ""},
		{"last verdict after the slot", judged, "s", "60 or less"},
		{"lateness of runs, median", half, "s", ""},
		{"lateness of runs, 99 of 100", most, "s", ""},
		{"lateness of runs, last", last, "s", ""},
		{fmt.Sprintf("explained by a start limit of %d/s", devStartLimit), float64(n) / devStartLimit, "s", ""},
		{fmt.Sprintf("would be explained by the default %d/s", defaultStartLimit), float64(n) / defaultStartLimit, "s", ""},
	}, nil
}
