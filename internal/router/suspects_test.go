package router

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
)

// suspect makes a delivery that was made several times before.
func (f *fakes) suspect(seq, deliveries int) definition.Delivery {
	d := f.delivery(seq, "")
	d.Deliveries = deliveries
	return d
}

// TestSuspects: messages that were delivered again and again come after the others of their batch, each alone, those with the
// fewest attempts first; after three attempts one is given up. Its event's id is read then, once: routers may die of just that.
func TestSuspects(t *testing.T) {
	t.Parallel()
	f := newFakes(routable("d"))
	f.attempts = map[uint64]int{1: maxAttempts, 2: 2, 3: 0, 4: 1, 5: maxAttempts - 1, 6: 0, 9: maxAttempts + 1}
	type commit struct {
		events  string
		settled int // by then
	}
	var commits []commit
	f.recordFails = func(os []definition.Occurrence) error { // under the lock
		c := commit{settled: len(f.settled)}
		ids := make([]string, len(os))
		for i, o := range os {
			ids[i] = o.EventID
		}
		slices.Sort(ids)
		c.events = fmt.Sprint(ids)
		commits = append(commits, c)
		return nil
	}
	r, _ := run(t, f, nil)
	f.feed <- []definition.Delivery{f.suspect(1, 9), f.suspect(2, 3), f.suspect(3, 3), f.suspect(4, 4), f.suspect(5, 3), f.suspect(6, 3),
		f.suspect(7, 2), f.delivery(8, ""), f.suspect(9, 10)}
	f.wait(t, 9)
	eventually(t, "the last one's attempts are forgotten", func() bool { // which comes after it is settled
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.forgotten) == 7
	})
	f.mu.Lock()
	var order []string
	for _, c := range commits {
		order = append(order, c.events)
	}
	if got := fmt.Sprint(order); got != "[[e7 e8] [e3] [e6] [e4] [e2] [e5]]" {
		t.Errorf("committed %s, want the ordinary ones and then each suspect by its attempts", got)
	}
	if got := fmt.Sprint(f.attempted, f.forgotten); got != "[3 6 4 2 5 1 9] [3 6 4 2 5 1 9]" {
		t.Errorf("attempts at, and forgotten %s", got)
	}
	var letters []string
	for _, l := range f.letters {
		letters = append(letters, fmt.Sprintf("%d %s %q %d %v", l.StreamSeq, l.Reason, l.EventID, l.Deliveries, l.Detail != ""))
	}
	if got := fmt.Sprint(letters); got != `[1 crash_loop "e1" 9 true 9 crash_loop "" 10 true]` {
		t.Errorf("dead letters %s, want the first one and the ninth", got)
	}
	f.mu.Unlock()
	for seq := 1; seq <= 9; seq++ {
		want := definition.OutcomeRouted
		if seq == 1 || seq == 9 {
			want = definition.OutcomeDead
		}
		if got := f.final(t, seq); got != want {
			t.Errorf("delivery %d: outcome %d, want %d", seq, got, want)
		}
	}
	if got := value(t, r.metrics.dead.WithLabelValues(definition.RejectCrashLoop)); got != 2 {
		t.Errorf("%v are counted as crash loops, want 2", got)
	}
}

// TestOrdinaryBeforeSuspects: a suspect that kills the router must find the others of its batch settled.
func TestOrdinaryBeforeSuspects(t *testing.T) {
	t.Parallel()
	f := newFakes() // nothing matches, so that settling waits for no start
	var settled []bool
	f.attempts = map[uint64]int{1: 1}
	r, err := New(Options{Source: f, Store: settledFirst{f, &settled}, Ledger: f, SubjectPrefix: "p", Log: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.routeBatch(t.Context(), r.newBatch([]definition.Delivery{f.suspect(1, 3), f.delivery(2, ""), f.suspect(3, 3)})); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(settled) != "[true true]" {
		t.Errorf("the ordinary one was settled before each attempt: %v", settled)
	}
	// And a suspect is settled before the next one is begun with.
	if got := fmt.Sprint(f.settled); got != "map[1:[1] 2:[1] 3:[1]]" || fmt.Sprint(f.attempted) != "[3 1]" {
		t.Errorf("settled %s, attempts at %v", got, f.attempted)
	}
}

// TestPanicCostsOneMessage: a message at which deciding panics (here for lack of a table) becomes a dead letter.
func TestPanicCostsOneMessage(t *testing.T) {
	t.Parallel()
	f := newFakes()
	r, err := New(Options{Source: f, Store: f, Ledger: f, SubjectPrefix: "p", Log: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	b := r.newBatch(f.deliveries(1, 2))
	b.items[1].Data = []byte("nonsense") // decided on without a table
	if err := r.routeItems(t.Context(), []*item{&b.items[0], &b.items[1]}); err != nil {
		t.Fatal(err)
	}
	if len(f.letters) != 2 || f.letters[0].Reason != definition.RejectInternalError || f.letters[0].EventID != "e1" ||
		f.letters[1].Reason != definition.RejectNotJSON {
		t.Errorf("dead letters %+v", f.letters)
	}
	if f.final(t, 1) != definition.OutcomeDead || f.final(t, 2) != definition.OutcomeDead {
		t.Error("not settled as dead")
	}
}

// settledFirst tells at each attempt whether the second delivery is settled.
type settledFirst struct {
	*fakes
	settled *[]bool
}

func (s settledFirst) AddAttempt(ctx context.Context, d *definition.Delivery) (int, error) {
	s.mu.Lock()
	*s.settled = append(*s.settled, len(s.fakes.settled[2]) == 1)
	s.mu.Unlock()
	return s.fakes.AddAttempt(ctx, d)
}
