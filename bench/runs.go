package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
)

// pollers are those of internal/execution's workers.
const pollers = 8

// shape is a run of several tasks, and the same thing as somebody would write it without us: a workflow with a Temporal activity for
// each task, which writes nothing about it anywhere.
type shape struct {
	name   string
	tasks  int
	inARow bool
	http   bool
	aim    string
}

var shapes = []shape{
	{name: "one log task", tasks: 1, aim: "0.8 or more"},
	{name: "five log tasks in a row", tasks: 5, inARow: true, aim: "0.8 or more"},
	{name: "five log tasks in parallel", tasks: 5, aim: "0.8 or more"},
	// Ours goes over the queue of the tasks, while by hand Temporal hands the activity to the worker that asked for it.
	{name: "one http task", tasks: 1, http: true},
}

// definition returns the shape's definition, which is due by an event.
func (h shape) definition(url string) string {
	var tasks []string
	for i := range h.tasks {
		needs := "[]"
		if h.inARow && i > 0 {
			needs = fmt.Sprintf(`["t%d"]`, i-1)
		}
		task := `"type": "log", "with": {"message": "x"}`
		if h.http {
			task = fmt.Sprintf(`"type": "http", "with": {"url": %q, "body": 1}`, url)
		}
		tasks = append(tasks, fmt.Sprintf(`{"name": "t%d", "needs": %s, %s}`, i, needs, task))
	}
	return fmt.Sprintf(`{"name": "bench", "trigger_config": {"trigger_type": "event", "event_type": "bench.event",
		"filters": {"tier": "pro"}}, "tasks": [%s]}`, strings.Join(tasks, ","))
}

// measureRuns: complete runs of each shape, against the same by hand. In both cases the workflows are started first, and what is
// measured is how fast one worker process completes them, and how long their histories are.
func measureRuns(ctx context.Context, b *bench, o options) ([]figure, error) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer server.Close()
	var figures []figure
	for _, h := range shapes {
		var bareEvents, events int64
		raw := func(ctx context.Context) (float64, error) {
			return b.completeBare(ctx, h, server.URL, o.runs, &bareEvents)
		}
		ours := func(ctx context.Context) (float64, error) {
			s, err := b.newSystem(ctx)
			if err != nil {
				return 0, err
			}
			rate, err := s.complete(ctx, h, server.URL, o.runs, &events)
			return rate, errors.Join(err, s.end())
		}
		r, bare, complete, err := ratio(ctx, o.rounds, raw, ours)
		if err != nil {
			return figures, err
		}
		figures = append(figures,
			figure{h.name + ", by hand", bare, "runs/s", ""},
			figure{h.name, complete, "runs/s", ""},
			figure{h.name + ", ratio to by hand", r, "×", h.aim},
			figure{h.name + ", by hand, history", float64(bareEvents), "events/run", ""},
			figure{h.name + ", history", float64(events), "events/run", ""})
	}
	return figures, nil
}

func (s *system) complete(ctx context.Context, h shape, url string, n int, events *int64) (float64, error) {
	if _, err := s.routedTo(ctx, n, h.definition(url)); err != nil {
		return 0, err
	}
	w, err := s.start("worker")
	if err != nil {
		return 0, err
	}
	rate, err := w.rate(ctx, n, "actcore_runs_total", `outcome="succeeded"`)
	if err != nil {
		return 0, err
	}
	runs, err := s.store.ListRuns(ctx, definition.ListRuns{Limit: 1})
	if err != nil {
		return 0, err
	}
	*events, _, err = s.b.history(ctx, runs[0].WorkflowID)
	return rate, err
}

// history returns the length and the size of a closed workflow's history.
func (b *bench) history(ctx context.Context, workflowID string) (events, bytes int64, err error) {
	err = wait(ctx, time.Minute, func() (bool, error) {
		d, err := b.temporal.DescribeWorkflowExecution(ctx, workflowID, "")
		if err != nil {
			return false, err
		}
		events, bytes = d.GetWorkflowExecutionInfo().GetHistoryLength(), d.GetWorkflowExecutionInfo().GetHistorySizeBytes()
		return d.GetWorkflowExecutionInfo().GetCloseTime() != nil, nil
	})
	return events, bytes, err
}

// completeBare completes the shape by hand.
func (b *bench) completeBare(ctx context.Context, h shape, url string, n int, events *int64) (float64, error) {
	queue := "hand-written-" + uuid.NewString()
	if _, err := b.startLoop(ctx, n, queue, "HandWritten"); err != nil {
		return 0, err
	}
	var done atomic.Int64
	// As many pollers as our worker has: it is what a run does that is compared, not the settings.
	w := worker.New(b.temporal, queue, worker.Options{MaxConcurrentWorkflowTaskPollers: pollers, MaxConcurrentActivityTaskPollers: pollers})
	w.RegisterActivityWithOptions(func(ctx context.Context, text string) (string, error) {
		if !h.http {
			return "ok", nil
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(text))
		if err != nil {
			return "", err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", err
		}
		defer func() { _ = res.Body.Close() }()
		answer, err := io.ReadAll(res.Body)
		return string(answer), err
	}, activity.RegisterOptions{Name: "HandWrittenTask"})
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context, in definition.RunInput) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{ScheduleToCloseTimeout: 5 * time.Minute})
		var called []workflow.Future
		for range h.tasks {
			f := workflow.ExecuteActivity(ctx, "HandWrittenTask", in.DefinitionID)
			if h.inARow {
				if err := f.Get(ctx, nil); err != nil {
					return err
				}
			}
			called = append(called, f)
		}
		for _, f := range called {
			if err := f.Get(ctx, nil); err != nil {
				return err
			}
		}
		if !workflow.IsReplaying(ctx) {
			done.Add(1)
		}
		return nil
	}, workflow.RegisterOptions{Name: "HandWritten"})
	if err := w.Start(); err != nil {
		return 0, err
	}
	defer w.Stop()
	rate, err := growth(ctx, n, func() float64 { return float64(done.Load()) })
	if err != nil {
		return 0, err
	}
	*events, _, err = b.history(ctx, fmt.Sprintf("%s-%d", queue, n-1))
	return rate, err
}

// measureItems: what a for_each over many items takes: the worker's memory, and the history of its workflow.
func measureItems(ctx context.Context, b *bench, o options) ([]figure, error) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	defer server.Close()
	var figures []figure
	for _, kind := range []string{"log", "http"} {
		s, err := b.newSystem(ctx)
		if err != nil {
			return figures, err
		}
		some, err := s.items(ctx, kind, server.URL, o.items)
		if err = errors.Join(err, s.end()); err != nil {
			return figures, err
		}
		figures = append(figures, some...)
	}
	return figures, nil
}

func (s *system) items(ctx context.Context, kind, url string, n int) ([]figure, error) {
	with := `{"message": "${item}"}`
	if kind == "http" {
		with = fmt.Sprintf(`{"url": %q, "body": "${item}"}`, url)
	}
	document := fmt.Sprintf(`{"name": "bench", "trigger_config": {"trigger_type": "event", "event_type": "bench.event",
		"condition": "event.payload.n == 0"}, "tasks": [{"name": "each", "type": %q, "for_each": "lists.range(%d)", "max_parallel": 100,
		"timeout": "10m", "with": %s}]}`, kind, n, with)
	w, err := s.start("worker")
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, time.Minute, func() (bool, error) { return w.ready(ctx), nil }); err != nil {
		return nil, err
	}
	before := w.metric(ctx, "process_resident_memory_bytes", "")
	if _, err := s.create(ctx, document); err != nil {
		return nil, err
	}
	if err := s.publish(ctx, 1, "bench.event", 0); err != nil {
		return nil, err
	}
	if _, err := s.start("event-router"); err != nil {
		return nil, err
	}
	var run definition.Run
	most := before
	err = wait(ctx, 10*time.Minute, func() (bool, error) {
		most = max(most, w.metric(ctx, "process_resident_memory_bytes", ""))
		runs, err := s.store.ListRuns(ctx, definition.ListRuns{Limit: 1})
		if err != nil || len(runs) == 0 {
			return false, err
		}
		run = runs[0]
		return run.Status.Final(), nil
	})
	if err != nil {
		return nil, err
	}
	if run.Status != definition.RunSucceeded {
		return nil, fmt.Errorf("the run of %d items is %s: %s", n, run.Status, run.Error)
	}
	events, bytes, err := s.b.history(ctx, run.WorkflowID)
	name := fmt.Sprintf("for_each of %d %s items", n, kind)
	return []figure{
		{name, run.FinishedAt.Sub(*run.StartedAt).Seconds(), "s", ""},
		{name + ", history", float64(events), "events", ""},
		{name + ", history", float64(bytes) / (1 << 20), "MiB", ""},
		{name + ", worker's memory", (most - before) / (1 << 20), "MiB more", ""},
	}, err
}
