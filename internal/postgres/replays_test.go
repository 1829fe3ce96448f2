package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

func ask(t *testing.T, s *Store, dryRun bool, ids ...string) definition.Replay {
	t.Helper()
	r, err := s.CreateReplay(t.Context(), definition.ReplayRequest{From: published, To: published.Add(time.Hour), DefinitionIDs: ids, DryRun: dryRun})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// claimReplay claims the only replay that waits, and begins its second pass.
func claimReplay(t *testing.T, s *Store) definition.ClaimedReplay {
	t.Helper()
	c, ok, err := s.ClaimReplay(t.Context())
	if err != nil || !ok || c.Status == definition.ReplayPending {
		t.Fatalf("claimed %+v, %v, %v", c, ok, err)
	}
	c.Status = definition.ReplayRunning
	return c
}

func replayLeasesEnd(t *testing.T, s *Store) {
	t.Helper()
	execute(t, s, `UPDATE replays SET lease_until = now() - interval '1 ms'`)
}

func TestCreateReplayRefuses(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	on, off := create(t, s, onEvent("on", "")), create(t, s, onEvent("off", `, "enabled": false`))
	cron, gone, other := create(t, s, everyMinute), create(t, s, onEvent("gone", "")), create(t, s, onEvent("other", ""))
	if err := s.DeleteDefinition(ctx, gone.ID); err != nil {
		t.Fatal(err)
	}
	now := clock(t, s)
	active := ask(t, s, false, on.ID, off.ID)
	req := func(to time.Time, dryRun bool, ids ...string) definition.ReplayRequest {
		return definition.ReplayRequest{From: published, To: to, DefinitionIDs: ids, DryRun: dryRun, EventTypes: []string{"user.*"}}
	}
	for name, c := range map[string]struct {
		req   definition.ReplayRequest
		field string // of the InvalidError
		err   error
	}{
		"unknown definition":        {req(now, false, other.ID, definition.NewID()), "definition_ids[1]", nil},
		"cron definition":           {req(now, false, cron.ID), "definition_ids[0]", nil},
		"deleted definition":        {req(now, true, gone.ID), "definition_ids[0]", nil},
		"to in the future":          {req(now.Add(time.Minute), true, other.ID), "to", nil},
		"one that is active":        {req(now, false, other.ID, on.ID), "", definition.ErrReplayActive},
		"disabled and active":       {req(now, false, off.ID), "", definition.ErrReplayActive},
		"dry run beside the active": {req(now, true, on.ID), "", nil},
	} {
		r, err := s.CreateReplay(ctx, c.req)
		var invalid *definition.InvalidError
		switch {
		case c.err != nil:
			if !errors.Is(err, c.err) {
				t.Errorf("%s: %v, want %v", name, err, c.err)
			}
		case c.field != "":
			if !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != c.field {
				t.Errorf("%s: %v, want a fault of %s", name, err, c.field)
			}
		case err != nil || r.Status != definition.ReplayPending || !r.DryRun || fmt.Sprint(r.EventTypes) != "[user.*]":
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	// An active dry run is in nobody's way, and neither is one that ended.
	ask(t, s, true, other.ID)
	ask(t, s, false, other.ID)
	if _, err := s.CancelReplay(ctx, active.ID); err != nil {
		t.Fatal(err)
	}
	ask(t, s, false, off.ID, on.ID)
	list, err := s.ListReplays(ctx, definition.ListReplays{Limit: 2})
	if err != nil || len(list) != 2 || list[0].Seq != 5 || list[1].Seq != 4 {
		t.Errorf("newest two: %+v, %v", list, err)
	}
	if list, err = s.ListReplays(ctx, definition.ListReplays{Limit: 9, BeforeSeq: 2}); err != nil || len(list) != 1 || list[0].ID != active.ID {
		t.Errorf("before the second: %+v, %v", list, err)
	}
}

// TestCreateReplayTwiceAtOnce: of requests for the same definitions one is first, and the others see it.
func TestCreateReplayTwiceAtOnce(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	a, b := create(t, s, onEvent("a", "")), create(t, s, onEvent("b", ""))
	busy, err := s.pool.Begin(ctx) // holds them until all are at the same place
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Rollback(ctx) }()
	if _, err := busy.Exec(ctx, `SELECT FROM definitions WHERE id = $1 FOR UPDATE`, a.ID); err != nil {
		t.Fatal(err)
	}
	const n = 2
	errs := make(chan error, n)
	for i := range n {
		ids := []string{a.ID, b.ID}
		if i%2 == 1 {
			ids = []string{b.ID, a.ID}
		}
		go func() {
			_, err := s.CreateReplay(ctx, definition.ReplayRequest{From: published, To: published, DefinitionIDs: ids})
			errs <- err
		}()
	}
	testenv.Eventually(t, 10*time.Second, "each waits for the definition", func(ctx context.Context) (bool, error) {
		var waiting int
		err := s.pool.QueryRow(ctx, `
			SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		return waiting == n, err
	})
	if err := busy.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	made := 0
	for range n {
		err := <-errs
		if err == nil {
			made++
		} else if !errors.Is(err, definition.ErrReplayActive) {
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("%d replays were made, want 1", made)
	}
}

// TestReplayLease: one router works on a replay, and its lease goes with every write.
func TestReplayLease(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, onEvent("d", ""))
	if _, ok, err := s.ClaimReplay(ctx); ok || err != nil {
		t.Fatalf("claimed one of none: %v, %v", ok, err)
	}
	asked := ask(t, s, false, d.ID)
	if _, replays, err := s.RoutingAsked(ctx); !replays || err != nil {
		t.Errorf("routers are not asked: %v", err)
	}
	first, ok, err := s.ClaimReplay(ctx)
	if err != nil || !ok || first.ID != asked.ID || first.Lease != 1 || first.Status != definition.ReplayCounting || first.ToStreamSeq != 0 {
		t.Fatalf("claimed %+v, %v, %v", first, ok, err)
	}
	if _, ok, err := s.ClaimReplay(ctx); ok || err != nil {
		t.Errorf("claimed twice: %v, %v", ok, err)
	}
	if _, replays, err := s.RoutingAsked(ctx); replays || err != nil {
		t.Errorf("routers are asked for what one of them works on: %v", err)
	}
	first.FromStreamSeq, first.ToStreamSeq, first.NextStreamSeq, first.Error = 3, 9, 5, "a\x00b"
	first.Status, first.Counted, first.Done = definition.ReplayRunning, definition.ReplayCounts{Read: 6, New: 1}, definition.ReplayCounts{Ran: 2}
	if err := s.UpdateReplay(ctx, first); err != nil {
		t.Fatal(err)
	}
	replayLeasesEnd(t, s)
	if _, replays, err := s.RoutingAsked(ctx); !replays || err != nil {
		t.Errorf("routers are not asked for one that was left: %v", err)
	}
	second, ok, err := s.ClaimReplay(ctx)
	want := first
	want.Lease, want.Error = 2, "a\uFFFDb"
	if err != nil || !ok || fmt.Sprint(second) != fmt.Sprint(want) {
		t.Fatalf("claimed %+v, %v, %v\nwant %+v", second, ok, err, want)
	}
	lost := func(name string, c definition.ClaimedReplay) {
		t.Helper()
		if err := s.UpdateReplay(ctx, c); !errors.Is(err, definition.ErrLeaseLost) {
			t.Errorf("%s: update: %v, want ErrLeaseLost", name, err)
		}
		before := c
		_, err := s.AcceptReplayed(ctx, &c, []definition.EventRecord{known(name, "x", 1)}, []definition.Occurrence{occurs(d, name)})
		if !errors.Is(err, definition.ErrLeaseLost) || fmt.Sprint(c) != fmt.Sprint(before) {
			t.Errorf("%s: accept: %v, want ErrLeaseLost and the claim as it was", name, err)
		}
	}
	lost("after another claim", first)
	if err := s.UpdateReplay(ctx, second); err != nil {
		t.Errorf("the lease's owner: %v", err)
	}
	canceled, err := s.CancelReplay(ctx, asked.ID)
	if err != nil || canceled.Status != definition.ReplayCanceled || canceled.FinishedAt == nil {
		t.Errorf("canceled %+v, %v", canceled, err)
	}
	lost("after a cancel", second)
	if again, err := s.CancelReplay(ctx, asked.ID); err != nil || !again.FinishedAt.Equal(*canceled.FinishedAt) {
		t.Errorf("canceled again %+v, %v", again, err)
	}
	replayLeasesEnd(t, s)
	if _, ok, err := s.ClaimReplay(ctx); ok || err != nil {
		t.Errorf("claimed a canceled one: %v, %v", ok, err)
	}
	if got := texts(t, s, `SELECT occurrence_key FROM runs UNION ALL SELECT event_id FROM events`); got != "" {
		t.Errorf("a router without the lease stored %s", got)
	}
	for name, err := range map[string]error{
		"get":    func() error { _, err := s.GetReplay(ctx, definition.NewID()); return err }(),
		"cancel": func() error { _, err := s.CancelReplay(ctx, definition.NewID()); return err }(),
	} {
		if !errors.Is(err, definition.ErrNotFound) {
			t.Errorf("%s an unknown one: %v, want ErrNotFound", name, err)
		}
	}
}

// TestReplayCompletes: it has an end, is not claimed again, and no longer in the way.
func TestReplayCompletes(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, onEvent("d", ""))
	asked := ask(t, s, false, d.ID)
	c := claimReplay(t, s)
	c.Status = definition.ReplayCompleted
	if err := s.UpdateReplay(ctx, c); err != nil {
		t.Fatal(err)
	}
	if r, err := s.GetReplay(ctx, asked.ID); err != nil || r.Status != definition.ReplayCompleted || r.FinishedAt == nil {
		t.Errorf("completed %+v, %v", r, err)
	}
	replayLeasesEnd(t, s)
	if _, ok, err := s.ClaimReplay(ctx); ok || err != nil {
		t.Errorf("claimed again: %v, %v", ok, err)
	}
	if r, err := s.CancelReplay(ctx, asked.ID); err != nil || r.Status != definition.ReplayCompleted {
		t.Errorf("canceled afterwards: %+v, %v", r, err)
	}
	ask(t, s, false, d.ID)
}

// TestReplayed makes rows of each kind that an event may have left, and replays the events twice.
func TestReplayed(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d, other := create(t, s, onEvent("d", "")), create(t, s, onEvent("other", ""))
	left := []struct{ id, status, reason string }{
		{"accepted", "accepted", ""}, {"running", "running", ""}, {"succeeded", "succeeded", ""}, {"timed", "timed_out", "run_timeout"},
		{"canceled", "canceled", "cancel_requested"}, {"task", "failed", "task_failed"},
		{"missed", "missed", "misfire_window"}, {"skipped", "skipped", "concurrency_limit"}, {"cond", "failed", "condition_error"},
		{"refused", "failed", "start_refused"}, {"lost", "failed", "start_lost"},
	}
	var events []definition.EventRecord
	var occurrences []definition.Occurrence
	runOf := map[string]string{}
	for _, l := range left {
		events, occurrences = append(events, known(l.id, "x", 1)), append(occurrences, occurs(d, l.id))
	}
	if _, _, err := s.AcceptEvents(ctx, events, occurrences); err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		execute(t, s, `UPDATE runs SET status = $2, reason = $3 WHERE event_id = $1`, l.id, l.status, l.reason)
		runOf[l.id] = texts(t, s, `SELECT id::text FROM runs WHERE event_id = $1`, l.id)
	}
	// A new one, one for a second definition, a condition that fails, and one that fails where a run is.
	failed, failedHere := occurs(d, "fails"), occurs(other, "accepted")
	failed.ConditionError, failedHere.ConditionError = "no such key", "no such key"
	ran := occurs(d, "ran")
	if _, _, err := s.AcceptEvents(ctx, []definition.EventRecord{known("ran", "x", 1)}, []definition.Occurrence{ran}); err != nil {
		t.Fatal(err)
	}
	ran.ConditionError = "no such key"
	events = append(events, known("new", "x", 1), known("fails", "x", 1), known("ran", "x", 1))
	occurrences = append(occurrences, occurs(d, "new"), failed, failedHere, ran)
	want := definition.ReplayCounts{Matched: 15, New: 1, Rerun: 5, Ran: 6, Failed: 3}
	if counts, err := s.CountReplayed(ctx, occurrences); err != nil || counts != want {
		t.Errorf("counted %+v, %v; want %+v", counts, err, want)
	}
	if got := texts(t, s, `SELECT kind FROM runs WHERE kind <> 'event'`); got != "" {
		t.Errorf("counting made runs: %s", got)
	}

	replay := ask(t, s, false, d.ID, other.ID)
	c := claimReplay(t, s)
	c.NextStreamSeq, c.Done = 42, definition.ReplayCounts{Read: 14, Matched: 1, Ran: 1} // of a step before
	starts, err := s.AcceptReplayed(ctx, &c, events, occurrences)
	if err != nil || len(starts) != 6 {
		t.Fatalf("started %d, %v; want 6", len(starts), err)
	}
	want.Read, want.Matched, want.Ran = 14, 16, 7
	stored, err := s.GetReplay(ctx, replay.ID)
	if err != nil || c.Done != want || stored.Done != want || stored.NextStreamSeq != 42 || stored.Status != definition.ReplayRunning {
		t.Errorf("did %+v, stored %+v, %v; want %+v", c.Done, stored, err, want)
	}
	var wantRuns []string
	for _, id := range []string{"cond", "lost", "missed", "refused", "skipped"} {
		wantRuns = append(wantRuns, fmt.Sprintf("d %s rerun-%s-1 of %s accepted", id, runOf[id], runOf[id]))
	}
	wantRuns = append(wantRuns, "d fails event-fails failed", "d new event-new accepted", "other accepted event-accepted failed")
	const made = `SELECT definition_name || ' ' || event_id || ' ' || occurrence_key || COALESCE(' of ' || rerun_of, '') || ' ' || status
		FROM runs WHERE kind = 'replay' AND replay_id = $1 AND input IS NOT NULL
		ORDER BY definition_name, occurrence_key LIKE 'event%', event_id`
	if got := texts(t, s, made, replay.ID); got != strings.Join(wantRuns, ", ") {
		t.Errorf("made %s\nwant %s", got, strings.Join(wantRuns, ", "))
	}

	// The same step again, as after a crash between its commit and its starts, and in another replay: nothing is made.
	again := func(name, wantStarts string, want definition.ReplayCounts) {
		t.Helper()
		c.Done = definition.ReplayCounts{}
		starts, err := s.AcceptReplayed(ctx, &c, events, occurrences)
		var keys []string
		for _, st := range starts {
			keys = append(keys, st.Key)
		}
		if got := strings.Join(keys, " "); err != nil || got != wantStarts || c.Done != want {
			t.Errorf("%s: started %s and did %+v, %v; want %s and %+v", name, got, c.Done, err, wantStarts, want)
		}
	}
	again("same replay", "", definition.ReplayCounts{Matched: 15, Ran: 12, Failed: 3})
	c.Status = definition.ReplayCompleted
	if err := s.UpdateReplay(ctx, c); err != nil {
		t.Fatal(err)
	}
	ask(t, s, false, d.ID)
	c = claimReplay(t, s)
	again("second replay", "", definition.ReplayCounts{Matched: 15, Ran: 12, Failed: 3})
	// A rerun that stood for no run either is made up for once more; one that failed at a task was a run.
	execute(t, s, `UPDATE runs SET status = 'skipped', reason = 'concurrency_limit' WHERE rerun_of = $1`, runOf["skipped"])
	execute(t, s, `UPDATE runs SET status = 'failed', reason = 'task_failed' WHERE rerun_of = $1`, runOf["missed"])
	again("a rerun that was skipped", "rerun-"+runOf["skipped"]+"-2", definition.ReplayCounts{Matched: 15, Rerun: 1, Ran: 11, Failed: 3})
	again("once more", "", definition.ReplayCounts{Matched: 15, Ran: 12, Failed: 3})
	run, err := s.ListRuns(ctx, definition.ListRuns{ReplayID: c.ID, Limit: 9})
	if err != nil || len(run) != 1 || run[0].RerunOf != runOf["skipped"] || run[0].ReplayID != c.ID || run[0].Kind != definition.KindReplay {
		t.Errorf("runs of the second replay: %+v, %v", run, err)
	}
}

// TestReplayedLeavesOthersOut: an event whose id is another one's by now is a dead letter still, and is not counted.
func TestReplayedLeavesOthersOut(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, onEvent("d", ""))
	if _, _, err := s.AcceptEvents(ctx, []definition.EventRecord{known("reused", "x", 1)}, nil); err != nil {
		t.Fatal(err)
	}
	ask(t, s, false, d.ID)
	c := claimReplay(t, s)
	starts, err := s.AcceptReplayed(ctx, &c, []definition.EventRecord{known("reused", "y", 1), known("new", "x", 1)},
		[]definition.Occurrence{occurs(d, "reused"), occurs(d, "new")})
	want := definition.ReplayCounts{Matched: 1, New: 1}
	if err != nil || len(starts) != 1 || starts[0].Key != "event-new" || c.Done != want {
		t.Errorf("started %+v and did %+v, %v; want event-new and %+v", starts, c.Done, err, want)
	}
}

// TestReplayedRevision: a replay runs what is in force, whatever the definition said when the event came.
func TestReplayedRevision(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, onEvent("d", ""))
	if _, _, err := s.AcceptEvents(ctx, []definition.EventRecord{known("e", "x", 1)}, []definition.Occurrence{occurs(d, "e")}); err != nil {
		t.Fatal(err)
	}
	execute(t, s, `UPDATE runs SET status = 'skipped', reason = 'definition_disabled'`)
	if err := edit(s, d.ID, `{"enabled": false, "description": "second"}`); err != nil {
		t.Fatal(err)
	}
	defs, err := s.ReplayDefinitions(ctx, []string{d.ID, create(t, s, manual).ID, definition.NewID()})
	if err != nil || len(defs) != 1 || defs[0].ID != d.ID || !defs[0].Live || defs[0].Revision != 2 || defs[0].EnabledSince.After(published) {
		t.Fatalf("definitions %+v, %v; want the disabled one, live and of all times", defs, err)
	}
	ask(t, s, false, d.ID)
	c := claimReplay(t, s)
	o := occurs(d, "e")
	o.Revision = defs[0].Revision
	starts, err := s.AcceptReplayed(ctx, &c, []definition.EventRecord{known("e", "x", 1)}, []definition.Occurrence{o})
	if err != nil || len(starts) != 1 || starts[0].Kind != definition.KindReplay {
		t.Fatalf("started %+v, %v", starts, err)
	}
	adm := begin(t, s, definition.Begin{RunID: starts[0].RunID, DefinitionID: d.ID,
		WorkflowID: definition.WorkflowID(d.ID, starts[0].Key), FirstRunID: "wf"})
	if adm.Run.Status != definition.RunRunning || adm.Run.Revision != 2 {
		t.Errorf("run of a disabled definition: %s %s of revision %d, want running of 2", adm.Run.Status, adm.Run.Reason, adm.Run.Revision)
	}
}

// TestReplayedQueues: what was skipped by a limit would be again, were it not to wait.
func TestReplayedQueues(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, onEvent("d", `, "concurrency": {"limit": 1}`))
	begin(t, s, accept(t, s, d.ID, definition.KindEvent, 1))
	if adm := begin(t, s, accept(t, s, d.ID, definition.KindEvent, 2)); adm.Run.Status != definition.RunSkipped {
		t.Fatalf("an event over the limit: %s, want skipped", adm.Run.Status)
	}
	ask(t, s, false, d.ID)
	c := claimReplay(t, s)
	starts, err := s.AcceptReplayed(ctx, &c, []definition.EventRecord{known("2", "x", 1)}, []definition.Occurrence{occurs(d, "2")})
	if err != nil || len(starts) != 1 || !strings.HasPrefix(starts[0].Key, "rerun-") {
		t.Fatalf("started %+v, %v", starts, err)
	}
	adm := begin(t, s, definition.Begin{RunID: starts[0].RunID, DefinitionID: d.ID,
		WorkflowID: definition.WorkflowID(d.ID, starts[0].Key), FirstRunID: "wf"})
	if adm.Run.Status != definition.RunQueued {
		t.Errorf("a replayed run over the limit: %s %s, want queued", adm.Run.Status, adm.Run.Reason)
	}
}

// TestReplayedNotStorable: one refused value keeps all of a step out, its progress too.
func TestReplayedNotStorable(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, onEvent("d", ""))
	replay := ask(t, s, false, d.ID)
	c := claimReplay(t, s)
	c.NextStreamSeq = 42
	bad := occurs(d, "b")
	bad.TraceID = "a\x00b"
	_, err := s.AcceptReplayed(ctx, &c, []definition.EventRecord{known("a", "x", 1), known("b", "x", 1)}, []definition.Occurrence{occurs(d, "a"), bad})
	if !errors.Is(err, definition.ErrNotStorable) || c.Done != (definition.ReplayCounts{}) {
		t.Errorf("%v and %+v, want ErrNotStorable and nothing done", err, c.Done)
	}
	if got := texts(t, s, `SELECT event_id FROM events UNION ALL SELECT occurrence_key FROM runs`); got != "" {
		t.Errorf("%s is stored", got)
	}
	if r, err := s.GetReplay(ctx, replay.ID); err != nil || r.NextStreamSeq != 0 {
		t.Errorf("progress %d, %v; want 0", r.NextStreamSeq, err)
	}
}
