package execution

import (
	"context"
	"encoding/json"
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
	history  []definition.TaskResult
}

const fakeRunID = "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b"

func newFakeLedger(tasks ...definition.Task) *fakeLedger {
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &fakeLedger{
		doc: definition.Document{Name: "fake", Tasks: tasks},
		run: definition.Run{ID: fakeRunID, DefinitionID: "def", DefinitionName: "fake", Revision: 1,
			Kind: definition.KindManual, Status: definition.RunRunning, AcceptedAt: started, StartedAt: &started},
		results: map[int]definition.TaskResult{},
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

func (l *fakeLedger) BeginTask(_ context.Context, runID string, index, attempt int) (definition.TaskWork, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.unavailable(); err != nil {
		return definition.TaskWork{}, err
	}
	if runID != l.run.ID || index >= len(l.doc.Tasks) {
		return definition.TaskWork{}, definition.ErrNotFound
	}
	work := definition.TaskWork{Run: l.run, Task: l.doc.Tasks[index]}
	if r, ok := l.results[index]; ok && r.Status != definition.TaskRunning {
		work.Done = &r
		return work, nil
	}
	l.results[index] = definition.TaskResult{Index: index, Name: work.Task.Name, Status: definition.TaskRunning,
		Attempts: attempt, Error: l.results[index].Error}
	return work, nil
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
