package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// keyed makes a definition of events whose runs are limited by the payload's k.
func keyed(t *testing.T, s *Store, limit int, onLimit string) string {
	t.Helper()
	return create(t, s, fmt.Sprintf(`{"name": "keyed", "trigger_config": {"trigger_type": "event", "event_type": "x"},
		"tasks": [{"name": "a", "type": "log", "with": {"message": "hi"}}],
		"concurrency": {"limit": %d, "key": "event.payload.k", "on_limit": %q}}`, limit, onLimit)).ID
}

// acceptKeyed makes one accepted row, as the router does for an event with the key.
func acceptKeyed(t *testing.T, s *Store, id, key string, n int) definition.Begin {
	t.Helper()
	o := definition.Occurrence{
		DefinitionID: id, Revision: 1, Kind: definition.KindEvent, Key: fmt.Sprintf("event-%s-%d", key, n), EventID: fmt.Sprintf("%s-%d", key, n),
		EventType: "x", Input: fmt.Appendf(nil, `{"event_id": "%s-%d", "type": "x", "payload": {"k": %q}}`, key, n, key),
	}
	stored, err := s.GetDefinition(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	o.Revision = stored.Revision
	stored.Keyer().Set(t.Context(), &o)
	starts, err := s.AcceptRuns(t.Context(), []definition.Occurrence{o})
	if err != nil || len(starts) != 1 || starts[0].Status != definition.RunAccepted {
		t.Fatalf("accept: %+v, %v (%s)", starts, err, o.KeyError)
	}
	return definition.Begin{RunID: starts[0].RunID, DefinitionID: id, WorkflowID: definition.WorkflowID(id, o.Key), FirstRunID: "wf-" + o.Key}
}

func finish(t *testing.T, s *Store, b definition.Begin) definition.Finished {
	t.Helper()
	done, err := s.FinishRun(t.Context(), definition.Finish{RunID: b.RunID, Status: definition.RunSucceeded})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// statusOf returns status and reason of a run.
func statusOf(t *testing.T, s *Store, id string) string {
	t.Helper()
	run, err := s.GetRun(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return string(run.Status) + " " + string(run.Reason)
}

// TestLinesByKey has many workflows at once begin, end and be given up in the lines of many keys. Never do more than the limit run of
// one key, all end, they begin in the order of acceptance, and nothing of a line is left.
func TestLinesByKey(t *testing.T) {
	t.Parallel()
	const (
		keys, each, limit, workers = 20, 12, 2, 50
	)
	s := New(testenv.OpenPool(t, testenv.DatabaseURL(t)+"&pool_max_conns=20"))
	ctx := t.Context()
	id := keyed(t, s, limit, "queue")
	byWorkflow := map[string]definition.Begin{}
	var all []definition.Begin
	for n := range each {
		for k := range keys {
			b := acceptKeyed(t, s, id, fmt.Sprintf("k%d", k), n)
			byWorkflow[b.WorkflowID], all = b, append(all, b)
		}
	}
	var mu sync.Mutex
	work := slices.Clone(all) // those that have something to do: begin, or end when they run
	rand.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
	left := len(all)
	take := func() (definition.Begin, bool) {
		mu.Lock()
		defer mu.Unlock()
		if len(work) == 0 {
			return definition.Begin{}, left > 0
		}
		i := rand.N(len(work))
		b := work[i]
		work = slices.Delete(work, i, i+1)
		return b, true
	}
	put := func(ids ...string) {
		mu.Lock()
		defer mu.Unlock()
		for _, w := range ids {
			work = append(work, byWorkflow[w])
		}
	}
	over := func() {
		mu.Lock()
		defer mu.Unlock()
		left--
	}
	deadline := time.Now().Add(time.Minute)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for time.Now().Before(deadline) {
				b, more := take()
				if !more {
					return
				}
				if b.RunID == "" {
					select { // the others have all there is
					case <-ctx.Done():
						return
					case <-time.After(time.Millisecond):
					}
					continue
				}
				if err := carryKeyed(ctx, s, b, put, over); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if left != 0 {
		t.Fatalf("%d of %d have not ended", left, len(all))
	}
	var most int
	err := s.pool.QueryRow(ctx, `
		SELECT max((SELECT count(*) FROM runs o WHERE o.concurrency_key = r.concurrency_key AND o.started_at <= r.started_at
		              AND o.finished_at > r.started_at)) FROM runs r WHERE r.started_at IS NOT NULL`).Scan(&most)
	if err != nil || most != limit {
		t.Errorf("at most %d ran at once of one key, want %d (%v)", most, limit, err)
	}
	var disorder, locks int
	err = s.pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM (SELECT started_at < lag(started_at) OVER (PARTITION BY concurrency_key ORDER BY seq) AS early
		                              FROM runs WHERE started_at IS NOT NULL) o WHERE early),
		       (SELECT count(*) FROM concurrency)`).Scan(&disorder, &locks)
	if err != nil || disorder != 0 || locks != 0 {
		t.Errorf("%d began before an earlier one of their key, %d locks are left, want none (%v)", disorder, locks, err)
	}
}

// carryKeyed is what the workflow of a run does when it hears something.
func carryKeyed(ctx context.Context, s *Store, b definition.Begin, put func(...string), over func()) error {
	if rand.N(20) == 0 { // Temporal refuses it, unless it has begun
		done, err := s.CloseUnbegun(ctx, definition.Finish{RunID: b.RunID, Status: definition.RunFailed, Reason: definition.ReasonStartRefused})
		if err != nil {
			return err
		}
		if !done.Repeated {
			over()
			put(done.Wake...)
			return nil
		}
	}
	adm, err := s.BeginRun(ctx, b)
	if err != nil {
		return err
	}
	put(adm.Wake...)
	if adm.Run.Status != definition.RunRunning {
		return nil // it waits until it is woken
	}
	done, err := s.FinishRun(ctx, definition.Finish{RunID: b.RunID, Status: definition.RunSucceeded})
	if err != nil {
		return err
	}
	if !done.Repeated {
		over()
		put(done.Wake...)
	}
	return nil
}

// TestLineCountsWhatWasAccepted checks that an earlier run holds up later ones before its workflow has begun, and lets them go when it
// begins, or is given up.
func TestLineCountsWhatWasAccepted(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := keyed(t, s, 2, "queue")
	one, two, three := acceptKeyed(t, s, id, "a", 1), acceptKeyed(t, s, id, "a", 2), acceptKeyed(t, s, id, "a", 3)
	if adm := begin(t, s, three); adm.Run.Status != definition.RunQueued {
		t.Fatalf("the third is %s while the first have not begun", adm.Run.Status)
	}
	if adm := begin(t, s, acceptKeyed(t, s, id, "b", 1)); adm.Run.Status != definition.RunRunning {
		t.Fatalf("another key's first is %s", adm.Run.Status)
	}
	done, err := s.CloseUnbegun(ctx, definition.Finish{RunID: one.RunID, Status: definition.RunFailed, Reason: definition.ReasonStartLost})
	if err != nil || len(done.Wake) != 0 {
		t.Fatalf("the first is given up: %+v, %v; the second holds up the third still", done, err)
	}
	adm := begin(t, s, two)
	if adm.Run.Status != definition.RunRunning || !slices.Equal(adm.Wake, []string{three.WorkflowID}) {
		t.Fatalf("the second is %s and wakes %v", adm.Run.Status, adm.Wake)
	}
	// The third is told again, until it has heard of it.
	claim := func() []string {
		t.Helper()
		if _, err := s.pool.Exec(ctx, `UPDATE runs SET wake_after = wake_after - interval '10 s'`); err != nil {
			t.Fatal(err)
		}
		list, err := s.ClaimWakes(ctx, 10)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if got := claim(); !slices.Equal(got, []string{three.WorkflowID}) {
		t.Errorf("to be woken again: %v", got)
	}
	if got := claim(); len(got) != 0 {
		t.Errorf("claimed twice: %v", got)
	}
	if adm := begin(t, s, three); adm.Run.Status != definition.RunRunning || !adm.Repeated {
		t.Errorf("the third is %s", adm.Run.Status)
	}
	for range 4 {
		if got := claim(); len(got) != 0 {
			t.Errorf("to be woken although it has heard: %v", got)
		}
	}
	detail, err := s.GetRunDetail(ctx, begin(t, s, acceptKeyed(t, s, id, "a", 4)).Run.ID)
	if err != nil || detail.Status != definition.RunQueued || detail.QueuePosition != 1 || detail.ConcurrencyKey != "a" {
		t.Errorf("the fourth is %s at %d, %v", detail.Status, detail.QueuePosition, err)
	}
}

// TestLimitOfNewestRevision checks that a raised limit counts for those that wait already.
func TestLimitOfNewestRevision(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := keyed(t, s, 1, "queue")
	var runs []definition.Begin
	for n := range 4 {
		runs = append(runs, acceptKeyed(t, s, id, "a", n))
		begin(t, s, runs[n])
	}
	setLimit := func(limit int) {
		t.Helper()
		if _, err := s.UpdateDefinition(ctx, id, definition.Change{}, func(d definition.Document) (definition.Document, error) {
			c := *d.Concurrency
			c.Limit = limit
			d.Concurrency = &c
			return d, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	woken := func() []string {
		t.Helper()
		list, err := s.ClaimWakes(ctx, 10)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if got := woken(); len(got) != 0 {
		t.Fatalf("before a change: %v", got)
	}
	setLimit(3)
	if got := woken(); !slices.Equal(got, []string{runs[1].WorkflowID}) {
		t.Fatalf("asked to look again: %v, want the first that waits", got)
	}
	if adm := begin(t, s, runs[1]); adm.Run.Status != definition.RunRunning || !slices.Equal(adm.Wake, []string{runs[2].WorkflowID}) {
		t.Fatalf("a limit of 3: %s, wakes %v", adm.Run.Status, adm.Wake)
	}
	if done := finish(t, s, runs[0]); len(done.Wake) != 1 {
		t.Fatalf("a limit of 3 lets %d begin", len(done.Wake))
	}
	setLimit(1)
	last := acceptKeyed(t, s, id, "a", 4)
	if adm := begin(t, s, last); adm.Run.Status != definition.RunQueued {
		t.Errorf("with 3 running under a limit of 1: %s", adm.Run.Status)
	}
	if done := finish(t, s, runs[1]); len(done.Wake) != 0 {
		t.Errorf("with 2 running under a limit of 1 %v begin", done.Wake)
	}
	setLimit(0)
	if adm := begin(t, s, last); adm.Run.Status != definition.RunRunning {
		t.Errorf("asked again without a limit: %s", adm.Run.Status)
	}
}

// TestReplaces checks that the newest run takes the place of the older ones of its key.
func TestReplaces(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	nudged := 0
	s.OnStops(func() { nudged++ })
	id := keyed(t, s, 1, "replace")
	one, unbegun, two := acceptKeyed(t, s, id, "a", 1), acceptKeyed(t, s, id, "a", 2), acceptKeyed(t, s, id, "a", 3)
	other := acceptKeyed(t, s, id, "b", 1)
	begin(t, s, other)
	begin(t, s, one)
	adm := begin(t, s, two)
	if adm.Run.Status != definition.RunQueued || nudged != 1 || !slices.Equal(adm.Wake, []string{unbegun.WorkflowID}) {
		t.Fatalf("the newer is %s, wakes %v, %d nudges", adm.Run.Status, adm.Wake, nudged)
	}
	if got := statusOf(t, s, unbegun.RunID); got != "skipped replaced" {
		t.Errorf("what waited is %s", got)
	}
	if adm := begin(t, s, unbegun); adm.Run.Status != definition.RunSkipped || !adm.Repeated {
		t.Errorf("its workflow hears %s", adm.Run.Status)
	}
	stops, err := s.ClaimStops(ctx, 10)
	if err != nil || len(stops) != 1 || stops[0].RunID != one.RunID || stops[0].How != definition.StopCancel {
		t.Fatalf("to stop: %+v, %v", stops, err)
	}
	if again, err := s.ClaimStops(ctx, 10); err != nil || len(again) != 0 {
		t.Errorf("claimed twice: %+v, %v", again, err)
	}
	// A still newer one takes the place of the one that waits, and does not stop the old one twice.
	three := acceptKeyed(t, s, id, "a", 4)
	if adm := begin(t, s, three); adm.Run.Status != definition.RunQueued || nudged != 1 || !slices.Equal(adm.Wake, []string{two.WorkflowID}) {
		t.Fatalf("the newest is %s, wakes %v, %d nudges", adm.Run.Status, adm.Wake, nudged)
	}
	done, err := s.FinishRun(ctx, definition.Finish{RunID: one.RunID, Status: definition.RunCanceled, Reason: definition.ReasonCancelRequested,
		Error: "its workflow was canceled"})
	if err != nil || !slices.Equal(done.Wake, []string{three.WorkflowID}) || done.Run.Reason != definition.ReasonReplaced ||
		done.Run.Error != "run "+two.RunID+" took its place" {
		t.Errorf("the old one ended: %+v, %v", done, err)
	}
	// An older one that begins late goes.
	if got := statusOf(t, s, three.RunID); got != "running " {
		t.Errorf("the newest is %s", got)
	}
	if got := statusOf(t, s, other.RunID); got != "running " {
		t.Errorf("another key's run is %s", got)
	}
}

// TestClosedWhenAccepted checks the rows that are closed at once.
func TestClosedWhenAccepted(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := keyed(t, s, 1, "queue")
	stored, err := s.GetDefinition(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	for n, tt := range []struct {
		o    definition.Occurrence
		want string
		text string
	}{
		{definition.Occurrence{Kind: definition.KindEvent, EventID: "e", Input: []byte(`{"payload": {"k": "a"}}`)}, "accepted ", ""},
		{definition.Occurrence{Kind: definition.KindEvent, EventID: "e", Input: []byte(`{"payload": {}}`)}, "failed concurrency_key_error",
			"concurrency.key: ${event.payload.k}: no such key: k"},
		{definition.Occurrence{Kind: definition.KindEvent, EventID: "e", Input: []byte(`{"payload": {"k": "a"}}`), Depth: definition.MaxDepth}, "accepted ", ""},
		{definition.Occurrence{Kind: definition.KindEvent, EventID: "e", Input: []byte(`{"payload": {}}`), Depth: definition.MaxDepth + 1,
			ConditionError: "broken"}, "skipped chain_too_deep", "more than 10 runs followed from one another by the events of their ends"},
		{definition.Occurrence{Kind: definition.KindEvent, EventID: "e", Input: []byte(`{"payload": {}}`), ConditionError: "broken"},
			"failed condition_error", "broken"},
	} {
		tt.o.DefinitionID, tt.o.Key = id, fmt.Sprintf("event-%d", n)
		stored.Keyer().Set(ctx, &tt.o)
		starts, err := s.AcceptRuns(ctx, []definition.Occurrence{tt.o})
		if err != nil || len(starts) != 1 {
			t.Fatalf("%d: %+v, %v", n, starts, err)
		}
		run, err := s.GetRun(ctx, starts[0].RunID)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(run.Status) + " " + string(run.Reason); got != tt.want || run.Error != tt.text || run.Depth != tt.o.Depth ||
			starts[0].Status != run.Status || (run.FinishedAt != nil) != run.Status.Final() {
			t.Errorf("%d: %s %q, depth %d; want %s %q", n, got, run.Error, run.Depth, tt.want, tt.text)
		}
	}
}
