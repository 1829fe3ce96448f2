package execution

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
)

// fakeLedger is a ledger with one run, for the shapes and failures that a real one does not show on demand.
type fakeLedger struct {
	mu       sync.Mutex
	doc      definition.Document
	run      definition.Run
	begins   []definition.Begin
	statuses []definition.RunStatus // BeginRun's answers, the last one for ever; none: running
	reason   definition.Reason
	away     int // so many calls fail as if Postgres were away
	finished []definition.Finish
	outcome  definition.RunStatus // what stands when it is not FinishRun's
	wake     []string
	results  map[int]definition.TaskResult
	items    map[[2]int]definition.ItemResult // by task and item
	now      func() time.Time
	history  []definition.TaskResult
}

// inSequence lets each task need the one before it, unless it says what it needs.
func inSequence(tasks []definition.Task) []definition.Task {
	for i := 1; i < len(tasks); i++ {
		if tasks[i].Needs == nil {
			tasks[i].Needs = []string{tasks[i-1].Name}
		}
	}
	return tasks
}

const fakeRunID = "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b"

func newFakeLedger(tasks ...definition.Task) *fakeLedger {
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &fakeLedger{
		doc: definition.Document{Name: "fake", Tasks: inSequence(tasks)},
		run: definition.Run{ID: fakeRunID, DefinitionID: "def", DefinitionName: "fake", Revision: 1,
			Kind: definition.KindManual, Status: definition.RunRunning, AcceptedAt: started, StartedAt: &started},
		results: map[int]definition.TaskResult{}, items: map[[2]int]definition.ItemResult{}, now: time.Now,
	}
}

func (l *fakeLedger) unavailable() error {
	if l.away > 0 {
		l.away--
		return definition.ErrUnavailable
	}
	return nil
}

func (l *fakeLedger) BeginRun(_ context.Context, b definition.Begin) (definition.Admission, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.unavailable(); err != nil {
		return definition.Admission{}, err
	}
	l.begins = append(l.begins, b)
	if len(l.statuses) > 0 {
		l.run.Status = l.statuses[min(len(l.begins), len(l.statuses))-1]
	}
	run := l.run
	run.Reason = l.reason
	return definition.Admission{Run: run, Document: l.doc, Lag: time.Second}, nil
}

func (l *fakeLedger) FinishRun(_ context.Context, f definition.Finish) (definition.Finished, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.unavailable(); err != nil {
		return definition.Finished{}, err
	}
	l.finished = append(l.finished, f)
	run := l.run
	run.Status, run.Reason, run.Error = f.Status, f.Reason, f.Error
	if l.outcome != "" {
		run.Status = l.outcome
		return definition.Finished{Run: run, Repeated: true}, nil
	}
	now := run.StartedAt.Add(time.Second)
	run.FinishedAt = &now
	return definition.Finished{Run: run, Wake: l.wake}, nil
}

func (l *fakeLedger) RunDocument(context.Context, string) (definition.Document, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.doc, l.unavailable()
}

func (l *fakeLedger) BeginTask(_ context.Context, b definition.TaskBegin) (definition.TaskWork, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.unavailable(); err != nil {
		return definition.TaskWork{}, err
	}
	if b.RunID != l.run.ID || b.Index >= len(l.doc.Tasks)+len(l.doc.OnFailure) {
		return definition.TaskWork{}, definition.ErrNotFound
	}
	work := definition.TaskWork{Run: l.run, Item: b.Item}
	for _, name := range b.Reads {
		for _, r := range l.results {
			if r.Name == name {
				work.Results = append(work.Results, r)
			}
		}
	}
	if b.Item >= 0 {
		return l.beginItem(work, b), nil
	}
	if r, ok := l.results[b.Index]; ok && r.Status != definition.TaskRunning {
		work.Done = &r
		return work, nil
	}
	if !b.Look {
		old, started := l.results[b.Index], l.now()
		if old.Status != "" {
			started = old.StartedAt
		}
		l.results[b.Index] = definition.TaskResult{Index: b.Index, Name: b.Name, Type: b.Type, Status: definition.TaskRunning,
			Attempts: b.Attempt, Error: old.Error, Input: old.Input, StartedAt: started}
	}
	return work, nil
}

func (l *fakeLedger) beginItem(work definition.TaskWork, b definition.TaskBegin) definition.TaskWork {
	key := [2]int{b.Index, b.Item}
	if r, ok := l.items[key]; ok && r.Status != definition.TaskRunning {
		work.Done = &definition.TaskResult{Status: r.Status, Error: r.Error}
	} else if !b.Look {
		l.items[key] = definition.ItemResult{Index: b.Index, Item: b.Item, Status: definition.TaskRunning, Value: b.Value, Attempts: b.Attempt}
	}
	return work
}

func (l *fakeLedger) AddTask(_ context.Context, r definition.TaskResult) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.unavailable(); err != nil {
		return false, err
	}
	if _, known := l.results[r.Index]; known || l.run.Status != definition.RunRunning {
		return false, nil
	}
	l.results[r.Index] = r
	l.history = append(l.history, r)
	return true, nil
}

func (l *fakeLedger) FinishItem(_ context.Context, r definition.ItemResult) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.items[[2]int{r.Index, r.Item}]; old.Status == "" || old.Status == definition.TaskRunning {
		l.items[[2]int{r.Index, r.Item}] = r
	}
	return l.unavailable()
}

func (l *fakeLedger) PlanItems(
	_ context.Context, _ string, index, items int, limit time.Duration,
) ([]definition.TaskStatus, time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	statuses := make([]definition.TaskStatus, items)
	for i := range statuses {
		statuses[i] = l.items[[2]int{index, i}].Status
	}
	return statuses, l.results[index].StartedAt.Add(limit).Sub(l.now()), l.unavailable()
}

func (l *fakeLedger) FinishItems(_ context.Context, r definition.TaskResult) (definition.TaskResult, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := 0; r.Status == ""; i++ {
		item, ok := l.items[[2]int{r.Index, i}]
		if !ok {
			r.Status = definition.TaskSucceeded
		} else if item.Status == definition.TaskFailed {
			r.Status, r.Error = item.Status, fmt.Sprintf("item %d: %s", i, item.Error)
		}
	}
	l.results[r.Index] = r
	return r, l.unavailable()
}

func (l *fakeLedger) PlanWait(_ context.Context, _ string, index int, p definition.WaitPlan) (definition.WaitLeft, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.results[index]
	until := p.Until
	if until.IsZero() {
		until = r.StartedAt.Add(p.Duration)
	}
	return definition.WaitLeft{Left: until.Sub(l.now()), Limit: r.StartedAt.Add(p.Limit).Sub(l.now())}, l.unavailable()
}

func (l *fakeLedger) FinishTask(_ context.Context, r definition.TaskResult) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.unavailable(); err != nil {
		return err
	}
	old := l.results[r.Index]
	if old.Status != "" && old.Status != definition.TaskRunning {
		return nil
	}
	r.Attempts = max(r.Attempts, old.Attempts)
	l.results[r.Index] = r
	l.history = append(l.history, r)
	return nil
}

// end returns how the run was finished, which must have happened once.
func (l *fakeLedger) end(t *testing.T) definition.Finish {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.finished) != 1 {
		t.Fatalf("FinishRun was called %d times, want once: %+v", len(l.finished), l.finished)
	}
	return l.finished[0]
}

func (l *fakeLedger) result(index int) definition.TaskResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.results[index]
}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func testMetrics(t *testing.T) *metrics {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry(), true)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// task makes a task; with is marshalled.
func task(t testing.TB, name string, kind definition.TaskType, with any) definition.Task {
	t.Helper()
	data, err := json.Marshal(with)
	if err != nil {
		t.Fatal(err)
	}
	return definition.Task{Name: name, Type: kind, With: data}
}

func logTask(t testing.TB, name string) definition.Task {
	return task(t, name, definition.TaskLog, definition.LogTask{Message: "hello from " + name})
}

func (l *fakeLedger) GetEnd(context.Context, string) (definition.RunEnd, error) {
	return definition.RunEnd{}, definition.ErrNotFound
}
