package router

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
)

// TestLost: what retention took is counted once, whoever looks how often.
func TestLost(t *testing.T) {
	t.Parallel()
	type look struct{ delivered, first, dropped, want uint64 }
	for name, looks := range map[string][]look{
		"an empty stream":             {{0, 0, 0, 0}},
		"nothing lost":                {{10, 1, 0, 0}, {20, 11, 0, 0}, {20, 21, 0, 0}},
		"some":                        {{10, 16, 5, 5}},
		"all from the beginning":      {{0, 4, 3, 3}},
		"the same ones again":         {{10, 16, 5, 5}, {10, 16, 5, 0}},
		"more of them":                {{10, 16, 5, 5}, {10, 18, 7, 2}, {10, 19, 8, 1}},
		"passed, and others later":    {{10, 16, 5, 5}, {20, 16, 0, 0}, {20, 31, 10, 10}},
		"delivered again from before": {{20, 31, 10, 10}, {10, 31, 20, 0}},
		"a stream made anew":          {{10, 101, 90, 90}, {0, 1, 0, 0}, {2, 6, 3, 3}, {2, 6, 3, 0}},
		"made anew between two looks": {{10, 101, 90, 90}, {2, 6, 3, 3}, {2, 6, 3, 0}},
		"a stream of others too":      {{10, 100, 0, 0}},
	} {
		var g guard
		for i, l := range looks {
			if got := g.lost(l.delivered, l.first, l.dropped); got != l.want {
				t.Errorf("%s: look %d lost %d, want %d", name, i+1, got, l.want)
			}
		}
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	f := newFakes()
	r, err := New(Options{Source: f, Store: f, Ledger: f, SubjectPrefix: "p", Log: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		state definition.StreamState
		want  string
	}{
		{definition.StreamState{Pending: 9, Delivered: 10, First: 16, Dropped: 5, Risk: 0.75}, "pending 9 risk 0.75 blind 0 dropped 5"},
		{definition.StreamState{Pending: 9, Delivered: 10, First: 17, Dropped: 6, Blind: true}, "pending 9 risk 0 blind 1 dropped 6"},
		{definition.StreamState{Delivered: 20, First: 17}, "pending 0 risk 0 blind 0 dropped 6"},
	} {
		f.state = c.state
		r.look(t.Context())
		m := r.metrics
		got := fmt.Sprintf("pending %v risk %v blind %v dropped %v", value(t, m.pending), value(t, m.risk), value(t, m.blind), value(t, m.dropped))
		if got != c.want {
			t.Errorf("look %d: %s, want %s", i+1, got, c.want)
		}
	}
}

// TestNotesStreamAge: storage is told how long the stream keeps events, whenever that changes and until it has heard it.
func TestNotesStreamAge(t *testing.T) {
	t.Parallel()
	f := newFakes()
	r, err := New(Options{Source: f, Store: f, Ledger: f, SubjectPrefix: "p", Log: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		state definition.StreamState
		away  bool
		want  string
	}{
		{definition.StreamState{Blind: true}, false, "[]"},
		{definition.StreamState{Known: true, MaxAge: time.Hour}, true, "[]"},
		{definition.StreamState{Known: true, MaxAge: time.Hour}, false, "[1h0m0s]"},
		{definition.StreamState{Known: true, MaxAge: time.Hour}, false, "[1h0m0s]"},
		{definition.StreamState{Blind: true}, false, "[1h0m0s]"},
		{definition.StreamState{Known: true}, false, "[1h0m0s 0s]"},
		{definition.StreamState{Known: true}, false, "[1h0m0s 0s]"},
	} {
		f.state = c.state
		f.away.Store(c.away)
		r.look(t.Context())
		if got := fmt.Sprint(f.ages); got != c.want {
			t.Errorf("look %d: storage was told %s, want %s", i+1, got, c.want)
		}
	}
}

// TestLooksBeforeFetching: the first delivery passes what was lost, so that afterwards nobody could tell.
func TestLooksBeforeFetching(t *testing.T) {
	t.Parallel()
	f := newFakes(routable("d"))
	f.state = definition.StreamState{Delivered: 10, First: 16, Dropped: 5}
	r, _ := run(t, f, nil)
	f.feed <- f.deliveries(16, 16)
	f.wait(t, 1)
	if got := value(t, r.metrics.dropped); got != 5 {
		t.Errorf("%v are counted as lost when the first delivery is done, want 5", got)
	}
}
