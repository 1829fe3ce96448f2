package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
)

// heap is a storage with some old rows, of which it removes two at a time.
type heap struct {
	rows  map[string]int
	calls []string
	kept  bool
	fails string
}

func (h *heap) RemoveOld(_ context.Context, table string, age time.Duration, from int64) (definition.Removed, error) {
	if table == h.fails {
		return definition.Removed{}, errors.New("test")
	}
	n := min(h.rows[table], 2)
	h.rows[table] -= n
	h.calls = append(h.calls, fmt.Sprint(table, " ", age, " ", from))
	return definition.Removed{Rows: n, More: n == 2, From: from + 2}, nil
}

func (h *heap) KeepsEvents(context.Context, time.Duration) (bool, error) { return h.kept, nil }

func TestRetention(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	registry := prometheus.NewRegistry()
	h := &heap{rows: map[string]int{"runs": 3, "events": 1}, kept: true}
	r, err := NewRetention(RetentionOptions{Store: h, Age: time.Hour, Log: slog.New(slog.NewTextHandler(&log, nil)), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	once := "events 1h0m0s 0, dead_letters 1h0m0s 0, replays 1h0m0s 0, backfills 1h0m0s 0, audit 1h0m0s 0, delivery_attempts 1h0m0s 0, " +
		"definitions 1h0m0s 0, definition_revisions 1h0m0s 0, concurrency 1h0m0s 0, idempotency_keys 1h0m0s 0"
	if got, want := strings.Join(h.calls, ", "), "runs 1h0m0s 0, runs 1h0m0s 2, "+once+", runs 1h0m0s 0, "+once; got != want {
		t.Errorf("asked for\n%s, want\n%s", got, want)
	}
	if n := strings.Count(log.String(), "removed old rows"); n != 1 || !strings.Contains(log.String(), "rows.runs=3 rows.events=1") {
		t.Errorf("logged\n%s", log.String())
	}
	if n := strings.Count(log.String(), "old events and their runs are kept"); n != 1 {
		t.Errorf("that events are kept was told %d times", n)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, m := range families[0].Metric {
		got[m.Label[0].GetValue()] = m.Counter.GetValue()
	}
	if len(got) != len(definition.RetentionTables) || got["runs"] != 3 || got["events"] != 1 || got["audit"] != 0 {
		t.Errorf("counted %v", got)
	}
	h.fails = "audit"
	if err := r.sweep(t.Context()); err == nil {
		t.Error("a failure was passed over")
	}
}

// Retention that is turned off removes nothing but idempotency keys that are over.
func TestRetentionOff(t *testing.T) {
	t.Parallel()
	h := &heap{rows: map[string]int{"runs": 3, "idempotency_keys": 1}, kept: true}
	r, err := NewRetention(RetentionOptions{Store: h, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.sweep(t.Context()); err != nil || strings.Join(h.calls, ", ") != "idempotency_keys 0s 0" {
		t.Errorf("sweep = %v, asked for %v", err, h.calls)
	}
}

func TestNewRetentionRefuses(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*RetentionOptions){
		"Store is missing":         func(o *RetentionOptions) { o.Store = nil },
		"Age must not be negative": func(o *RetentionOptions) { o.Age = -1 },
		"Log is missing":           func(o *RetentionOptions) { o.Log = nil },
		"Registerer is missing":    func(o *RetentionOptions) { o.Registerer = nil },
	} {
		o := RetentionOptions{Store: &heap{}, Age: time.Hour, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}
		change(&o)
		if _, err := NewRetention(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
