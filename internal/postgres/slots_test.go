package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// cronTrigger writes a definition that is due every minute, with more fields of the trigger and of the definition.
func everyMinuteWith(name, trigger, more string) string {
	return fmt.Sprintf(`{"name": %q, "trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"%s}%s}`, name, trigger, more)
}

// age moves a definition into the past: it was made, and its slots were last judged, that long ago.
func age(t *testing.T, s *Store, id string, by time.Duration) (cursor time.Time) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `UPDATE definition_revisions SET created_at = created_at - $2::interval WHERE definition_id = $1`, id, by); err != nil {
			return err
		}
		return tx.QueryRow(t.Context(), `
			UPDATE cron_state SET cursor = cursor - $2::interval, next_slot_at = now() - interval '1 s' WHERE definition_id = $1 RETURNING cursor`,
			id, by).Scan(&cursor)
	})
	if err != nil {
		t.Fatal(err)
	}
	return cursor.UTC()
}

func settleAll(t *testing.T, s *Store) int {
	t.Helper()
	total := 0
	for {
		n, err := s.SettleDue(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return total
		}
		total += n
	}
}

// slotRuns returns a definition's rows in the order of slots.
func slotRuns(t *testing.T, s *Store, id string) []definition.Run {
	t.Helper()
	runs, err := s.ListRuns(t.Context(), definition.ListRuns{DefinitionID: id, Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(runs, func(a, b definition.Run) int { return a.SlotAt.Compare(*b.SlotAt) })
	return runs
}

func minutes(after, until time.Time) []time.Time {
	var out []time.Time
	for s := after.Truncate(time.Minute).Add(time.Minute); !s.After(until); s = s.Add(time.Minute) {
		out = append(out, s)
	}
	return out
}

func clock(t *testing.T, s *Store) time.Time {
	t.Helper()
	var now time.Time
	if err := s.pool.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	return now.UTC()
}

// everyMinuteOnce holds that there is one row for each whole minute of the span, and no other.
func everyMinuteOnce(t *testing.T, runs []definition.Run, want []time.Time) {
	t.Helper()
	if !slices.EqualFunc(runs, want, func(r definition.Run, s time.Time) bool {
		return r.SlotAt.Equal(s) && r.Key == definition.CronKey(s) && r.Kind == definition.KindCron
	}) {
		t.Errorf("%d rows, want %d, one for each minute from %v to %v", len(runs), len(want), want[0], want[len(want)-1])
	}
}

func TestSettleDueWritesEverySlot(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var told []definition.Judged
	s.OnJudged(func(j []definition.Judged) { told = append(told, j...) })
	ids := map[string]string{}
	for _, policy := range []string{"skip", "compress", "catchup"} {
		ids[policy] = create(t, s, everyMinuteWith(policy, fmt.Sprintf(`, "misfire_policy": %q`, policy), "")).ID
	}
	off := create(t, s, everyMinuteWith("off", "", `, "enabled": false`)).ID
	if due, err := s.SlotsDue(t.Context()); due || err != nil {
		t.Errorf("due at once: %v, %v", due, err)
	}
	cursor := age(t, s, ids["skip"], time.Hour)
	for _, id := range []string{ids["compress"], ids["catchup"], off} {
		age(t, s, id, time.Hour)
	}
	if due, err := s.SlotsDue(t.Context()); !due || err != nil {
		t.Errorf("not due after an hour: %v, %v", due, err)
	}
	if n := settleAll(t, s); n != 4 {
		t.Errorf("settled %d definitions, want 4", n)
	}
	now := clock(t, s)
	for policy, id := range ids {
		runs := slotRuns(t, s, id)
		everyMinuteOnce(t, runs, minutes(cursor, now))
		count := map[string]int{}
		for _, r := range runs {
			count[string(r.Status)+" "+string(r.Reason)]++
			if late := now.Sub(*r.SlotAt) > definition.LateAfter+10*time.Second; late && r.Status == definition.RunAccepted &&
				r.CatchUp != (policy == "catchup") {
				t.Errorf("%s: late slot %s has catch_up %v", policy, r.SlotAt, r.CatchUp)
			}
		}
		t.Logf("%s: %v", policy, count)
		accepted, missed, coalesced := count["accepted "], count["missed misfire_window"], count["skipped coalesced"]
		switch {
		case accepted+missed+coalesced != len(runs),
			policy == "skip" && (missed < 58 || coalesced != 0),
			policy == "compress" && (coalesced < 58 || accepted < 1 || missed != 0),
			policy == "catchup" && accepted != len(runs):
			t.Errorf("%s: %v", policy, count)
		}
	}
	if runs := slotRuns(t, s, off); len(runs) != 0 {
		t.Errorf("a disabled definition has %d rows", len(runs))
	}
	if due, err := s.SlotsDue(t.Context()); due || err != nil {
		t.Errorf("still due: %v, %v", due, err)
	}
	if len(told) < 3*59 {
		t.Errorf("%d verdicts were told", len(told))
	}
	// Settling again adds nothing.
	before := len(slotRuns(t, s, ids["skip"]))
	if _, err := s.pool.Exec(t.Context(), `UPDATE cron_state SET cursor = cursor - interval '30 min', next_slot_at = now()`); err != nil {
		t.Fatal(err)
	}
	settleAll(t, s)
	if after := len(slotRuns(t, s, ids["skip"])); after > before+1 {
		t.Errorf("%d rows, then %d", before, after)
	}
}

// TestSettlersTogether: many watchdogs, beginning workflows and edits at once give each slot one row.
func TestSettlersTogether(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := create(t, s, everyMinuteWith("x", `, "misfire_policy": "catchup", "misfire_window": "720h"`, "")).ID
	cursor := age(t, s, id, 48*time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for {
				n, err := s.SettleDue(ctx, 10)
				if err != nil {
					t.Error(err)
				}
				if n == 0 {
					return
				}
			}
		})
		wg.Go(func() {
			for k := range 5 {
				slot := cursor.Truncate(time.Minute).Add(time.Duration(1+i*97+k*31) * time.Minute)
				_, err := s.BeginRun(ctx, definition.Begin{DefinitionID: id, Slot: slot, WorkflowID: "w", FirstRunID: fmt.Sprint(i, k)})
				if err != nil && !errors.Is(err, definition.ErrNotYet) && !errors.Is(err, definition.ErrOtherWorkflow) {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			_, err := s.UpdateDefinition(ctx, id, definition.Change{}, func(d definition.Document) (definition.Document, error) {
				return d.Merge(fmt.Appendf(nil, `{"description": "edit %d"}`, i))
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	settleAll(t, s)
	everyMinuteOnce(t, slotRuns(t, s, id), minutes(cursor, clock(t, s)))
}

// TestChangesJudgeUnderTheOldRevision: what was due before a change belongs to the revision before it.
func TestChangesJudgeUnderTheOldRevision(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(s *Store, id string) error{
		"another expression": func(s *Store, id string) error {
			return edit(s, id, `{"trigger_config": {"cron_expression": "0 3 * * *"}}`)
		},
		"disabled":   func(s *Store, id string) error { return edit(s, id, `{"enabled": false}`) },
		"not a cron": func(s *Store, id string) error { return edit(s, id, `{"trigger_config": {"trigger_type": "manual"}}`) },
		"deleted":    func(s *Store, id string) error { return s.DeleteDefinition(context.Background(), id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := create(t, s, everyMinute).ID
			cursor := age(t, s, id, 10*time.Minute)
			if err := change(s, id); err != nil {
				t.Fatal(err)
			}
			now := clock(t, s)
			runs := slotRuns(t, s, id)
			everyMinuteOnce(t, runs, minutes(cursor, now))
			for _, r := range runs {
				if r.Revision != 1 {
					t.Errorf("slot %s belongs to revision %d", r.SlotAt, r.Revision)
				}
			}
			// Whatever comes later belongs to the new one, which has nothing due now.
			settleAll(t, s)
			if after := slotRuns(t, s, id); len(after) > len(runs)+1 {
				t.Errorf("%d rows, then %d", len(runs), len(after))
			}
		})
	}
}

func edit(s *Store, id, patch string) error {
	_, err := s.UpdateDefinition(context.Background(), id, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		return d.Merge([]byte(patch))
	})
	return err
}

// TestDisabledTimeHasNoSlots: only the time before the pause and after the resume does.
func TestDisabledTimeHasNoSlots(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := create(t, s, everyMinute).ID
	if err := edit(s, id, `{"enabled": false}`); err != nil {
		t.Fatal(err)
	}
	age(t, s, id, time.Hour)
	settleAll(t, s)
	age(t, s, id, time.Hour)
	if err := edit(s, id, `{"enabled": true}`); err != nil {
		t.Fatal(err)
	}
	settleAll(t, s)
	if runs := slotRuns(t, s, id); len(runs) > 1 {
		t.Errorf("a disabled hour has %d rows", len(runs))
	}
}

func slotBegin(id string, slot time.Time) definition.Begin {
	key := definition.CronKey(slot)
	return definition.Begin{DefinitionID: id, Slot: slot, WorkflowID: definition.WorkflowID(id, key), FirstRunID: "wf-" + key}
}

// TestBeginRunOfSlots: what a workflow hears that Temporal's schedule started.
func TestBeginRunOfSlots(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, everyMinuteWith("x", "", `, "concurrency": {"limit": 0}`))
	if d.Sync.State != definition.SyncPending || d.Sync.Desired != 1 {
		t.Errorf("sync of a new cron definition = %+v, want pending 1", d.Sync)
	}
	age(t, s, d.ID, time.Hour)
	slot := clock(t, s).Truncate(time.Minute)
	adm := begin(t, s, slotBegin(d.ID, slot))
	if adm.Run.Status != definition.RunRunning || adm.Run.Key != definition.CronKey(slot) || !adm.Run.SlotAt.Equal(slot) {
		t.Fatalf("on-time slot: %+v", adm.Run)
	}
	if again := begin(t, s, slotBegin(d.ID, slot)); again.Run.ID != adm.Run.ID || !again.Repeated {
		t.Errorf("the same slot again: %+v", again.Run)
	}
	if late := begin(t, s, slotBegin(d.ID, slot.Add(-10*time.Minute))); late.Run.Status != definition.RunMissed || late.Run.Reason != definition.ReasonMisfireWindow {
		t.Errorf("late slot: %s %s", late.Run.Status, late.Run.Reason)
	}
	if n := len(slotRuns(t, s, d.ID)); n < 60 || n > 61 {
		t.Errorf("the begin of one slot judged %d, want all of the hour", n)
	}
	if _, err := s.pool.Exec(ctx, `UPDATE schedule_sync SET dirty = false`); err != nil {
		t.Fatal(err)
	}
	for what, at := range map[string]time.Time{"no slot": slot.Add(-time.Second), "before the definition": slot.Add(-48 * time.Hour)} {
		ghost := begin(t, s, slotBegin(d.ID, at))
		if ghost.Run.Status != definition.RunSkipped || ghost.Run.Reason != definition.ReasonNotDue {
			t.Errorf("%s: %s %s, want skipped not_due", what, ghost.Run.Status, ghost.Run.Reason)
		}
	}
	var dirty bool
	if err := s.pool.QueryRow(ctx, `SELECT dirty FROM schedule_sync`).Scan(&dirty); err != nil || !dirty {
		t.Errorf("a ghost does not nominate its schedule: %v, %v", dirty, err)
	}
	if _, err := s.BeginRun(ctx, slotBegin(d.ID, slot.Add(time.Hour))); !errors.Is(err, definition.ErrNotYet) {
		t.Errorf("a slot that is not due by Postgres' clock: %v, want ErrNotYet", err)
	}
	if _, err := s.BeginRun(ctx, slotBegin(definition.NewID(), slot)); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("slot of an unknown definition: %v, want ErrNotFound", err)
	}
}

// TestOlderVersionsDefinitions: an older binary, during a rollout, writes definitions and knows nothing of cron_state.
func TestOlderVersionsDefinitions(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	a, b := create(t, s, everyMinuteWith("a", "", "")).ID, create(t, s, everyMinuteWith("b", "", "")).ID
	create(t, s, manual)
	for _, statement := range []string{
		`UPDATE definitions SET updated_at = now() - interval '5 min'`, `UPDATE definition_revisions SET created_at = now() - interval '5 min'`,
		`DELETE FROM cron_state`,
	} {
		if _, err := s.pool.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	begin(t, s, slotBegin(a, clock(t, s).Truncate(time.Minute)))
	if n, err := s.AdoptSlots(ctx); n != 1 || err != nil {
		t.Errorf("adopted %d, %v; want the other one", n, err)
	}
	settleAll(t, s)
	for _, id := range []string{a, b} {
		if n := len(slotRuns(t, s, id)); n < 5 || n > 6 {
			t.Errorf("%d rows of five minutes", n)
		}
	}
	// An edit that left the state behind.
	if _, err := s.pool.Exec(ctx, `UPDATE cron_state SET revision = 0, next_slot_at = NULL WHERE definition_id = $1`, a); err != nil {
		t.Fatal(err)
	}
	if n, err := s.AdoptSlots(ctx); n != 1 || err != nil {
		t.Errorf("adopted %d, %v; want the one that was left behind", n, err)
	}
}

// caughtUp makes a definition with late slots that are caught up with, and returns how they would begin, in slot order.
func caughtUp(t *testing.T, s *Store, concurrency string, n int) (string, []definition.Begin) {
	t.Helper()
	id := create(t, s, everyMinuteWith("late", `, "misfire_policy": "catchup"`, concurrency)).ID
	age(t, s, id, time.Duration(n+1)*time.Minute)
	settleAll(t, s)
	var begins []definition.Begin
	for _, r := range slotRuns(t, s, id) {
		if r.Status != definition.RunAccepted || !r.CatchUp {
			t.Fatalf("slot %s is %s, catch_up %v", r.SlotAt, r.Status, r.CatchUp)
		}
		begins = append(begins, definition.Begin{RunID: r.ID, DefinitionID: id, WorkflowID: r.WorkflowID, FirstRunID: "wf-" + r.Key})
	}
	return id, begins
}

// TestCatchUpRunsInOrder: whatever the limit, whatever on_limit says, and in whatever order the workflows begin.
func TestCatchUpRunsInOrder(t *testing.T) {
	t.Parallel()
	for name, concurrency := range map[string]string{
		"default": "", "no limit": `, "concurrency": {"limit": 0}`, "limit 5": `, "concurrency": {"limit": 5}`,
		"queue": `, "concurrency": {"limit": 1, "on_limit": "queue"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			_, begins := caughtUp(t, s, concurrency, 6)
			n := len(begins)
			// The last first: each waits for those before it.
			for i := n - 1; i > 0; i-- {
				if adm := begin(t, s, begins[i]); adm.Run.Status != definition.RunQueued {
					t.Fatalf("slot %d of %d began as %s %s", i, n, adm.Run.Status, adm.Run.Reason)
				}
			}
			if adm := begin(t, s, begins[0]); adm.Run.Status != definition.RunRunning {
				t.Fatalf("the oldest began as %s", adm.Run.Status)
			}
			for i := range n {
				done, err := s.FinishRun(t.Context(), definition.Finish{RunID: begins[i].RunID, Status: definition.RunSucceeded})
				if err != nil {
					t.Fatal(err)
				}
				if i == n-1 {
					if len(done.Wake) != 0 {
						t.Errorf("the last one wakes %v", done.Wake)
					}
					break
				}
				if len(done.Wake) != 1 || done.Wake[0] != begins[i+1].WorkflowID {
					t.Fatalf("the end of %d wakes %v, want the next", i, done.Wake)
				}
				if i+2 < n {
					if adm := begin(t, s, begins[i+2]); adm.Run.Status != definition.RunQueued {
						t.Fatalf("slot %d is %s while the one before it runs", i+2, adm.Run.Status)
					}
				}
			}
		})
	}
}

// TestCatchUpGoesOnPastWhatDoesNotRun: a late slot that is decided not to run wakes the ones behind it.
func TestCatchUpGoesOnPastWhatDoesNotRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id, begins := caughtUp(t, s, "", 2)
	if adm := begin(t, s, begins[1]); adm.Run.Status != definition.RunQueued {
		t.Fatal(adm.Run.Status)
	}
	if err := edit(s, id, `{"enabled": false}`); err != nil {
		t.Fatal(err)
	}
	adm := begin(t, s, begins[0])
	if adm.Run.Status != definition.RunSkipped || adm.Run.Reason != definition.ReasonDefinitionOff || !slices.Contains(adm.Wake, begins[1].WorkflowID) {
		t.Errorf("%s %s wakes %v, want skipped, and the next woken", adm.Run.Status, adm.Run.Reason, adm.Wake)
	}
}

// TestRecoveredSlots: two in a row over some time mark a schedule as silent; one that it starts itself takes that back.
func TestRecoveredSlots(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := create(t, s, everyMinuteWith("x", "", `, "concurrency": {"limit": 0}`)).ID
	silent := func() bool {
		t.Helper()
		if _, err := s.pool.Exec(ctx, `UPDATE schedule_sync SET lease_until = NULL`); err != nil {
			t.Fatal(err)
		}
		item, ok, err := s.LeaseSyncOf(ctx, id, time.Minute)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		return item.Silent
	}
	recover := func() {
		t.Helper()
		if err := s.SlotsRecovered(ctx, []string{id}); err != nil {
			t.Fatal(err)
		}
	}
	since := func() {
		t.Helper()
		if _, err := s.pool.Exec(ctx, `UPDATE cron_state SET recovered_since = recovered_since - interval '3 min'`); err != nil {
			t.Fatal(err)
		}
	}
	recover()
	since()
	if silent() {
		t.Error("silent after one slot")
	}
	recover()
	if !silent() {
		t.Error("not silent after two")
	}
	if err := s.ScheduleRemade(ctx, id); err != nil {
		t.Fatal(err)
	}
	recover()
	recover()
	since()
	if silent() {
		t.Error("made anew twice within the hour")
	}
	if _, err := s.pool.Exec(ctx, `UPDATE cron_state SET remade_at = NULL`); err != nil {
		t.Fatal(err)
	}
	if !silent() {
		t.Error("not silent after two more")
	}
	age(t, s, id, time.Minute)
	begin(t, s, slotBegin(id, clock(t, s).Truncate(time.Minute)))
	if silent() {
		t.Error("silent although the schedule started a slot")
	}
}

// TestSlotStartTime: the schedule has the first go, then the sweeper.
func TestSlotStartTime(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := create(t, s, everyMinuteWith("x", `, "jitter": "20s"`, "")).ID
	age(t, s, id, time.Minute)
	settleAll(t, s)
	var after time.Duration
	err := s.pool.QueryRow(t.Context(), `SELECT start_after - slot_at FROM runs WHERE status = 'accepted' LIMIT 1`).Scan(&after)
	if err != nil || after != 20*time.Second+SlotSweep {
		t.Errorf("the sweeper starts a slot %s after its time, %v; want jitter and %s", after, err, SlotSweep)
	}
}

// TestUnreadableSlotsWait: a definition that this version cannot read keeps its slots for one that can, and holds up nobody.
func TestUnreadableSlotsWait(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	bad, good := create(t, s, everyMinuteWith("bad", "", "")).ID, create(t, s, everyMinuteWith("good", "", "")).ID
	age(t, s, bad, 5*time.Minute)
	cursor := age(t, s, good, 5*time.Minute)
	if _, err := s.pool.Exec(ctx, `UPDATE definitions SET document = '{"tasks": 7}' WHERE id = $1`, bad); err != nil {
		t.Fatal(err)
	}
	settleAll(t, s)
	everyMinuteOnce(t, slotRuns(t, s, good), minutes(cursor, clock(t, s)))
	if _, err := s.pool.Exec(ctx, `UPDATE definitions SET document = (SELECT document FROM definition_revisions WHERE definition_id = $1) WHERE id = $1`, bad); err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(ctx, `UPDATE cron_state SET next_slot_at = now() WHERE definition_id = $1`, bad); err != nil {
		t.Fatal(err)
	}
	settleAll(t, s)
	if n := len(slotRuns(t, s, bad)); n < 5 {
		t.Errorf("%d rows of five minutes", n)
	}
}

func backfill(t *testing.T, s *Store, req definition.BackfillRequest, dryRun bool) definition.Backfill {
	t.Helper()
	if req.MaxConcurrent == 0 {
		req.MaxConcurrent = 2
	}
	b, err := s.CreateBackfill(t.Context(), req, dryRun)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// release lets a backfill go on and returns the runs that may begin now.
func release(t *testing.T, s *Store) []definition.Start {
	t.Helper()
	starts, _, err := s.ReleaseBackfills(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return starts
}

// carryOut begins and ends a run.
func carryOut(t *testing.T, s *Store, start definition.Start) {
	t.Helper()
	adm := begin(t, s, definition.Begin{RunID: start.RunID, DefinitionID: start.DefinitionID,
		WorkflowID: definition.WorkflowID(start.DefinitionID, start.Key), FirstRunID: "wf-" + start.RunID})
	if adm.Run.Status != definition.RunRunning {
		t.Fatalf("run %s is %s %s", start.Key, adm.Run.Status, adm.Run.Reason)
	}
	if _, err := s.FinishRun(t.Context(), definition.Finish{RunID: start.RunID, Status: definition.RunSucceeded}); err != nil {
		t.Fatal(err)
	}
}

func TestBackfill(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := create(t, s, everyMinuteWith("x", "", `, "enabled": true`)).ID
	// An hour ago it was made; the slots of the last ten minutes were missed, and those before it have no row.
	now := clock(t, s)
	age(t, s, id, 10*time.Minute)
	settleAll(t, s)
	missed := slotRuns(t, s, id)
	req := definition.BackfillRequest{DefinitionID: id, From: now.Truncate(time.Minute).Add(-20 * time.Minute), To: now, OnlyMissing: true, MaxConcurrent: 2}
	count := 0
	for _, m := range minutes(req.From.Add(-time.Second), req.To) {
		if at := slices.IndexFunc(missed, func(r definition.Run) bool { return r.SlotAt.Equal(m) }); at < 0 || missed[at].Status == definition.RunMissed {
			count++
		}
	}
	dry := backfill(t, s, req, true)
	if dry.Total != count || dry.ID != "" {
		t.Errorf("a dry run counts %d, want %d: %+v", dry.Total, count, dry)
	}
	if list, err := s.ListBackfills(ctx, definition.ListBackfills{DefinitionID: id, Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("a dry run stored %v, %v", list, err)
	}
	b := backfill(t, s, req, false)
	if b.Total != count || b.Status != definition.BackfillActive {
		t.Errorf("backfill = %+v, want %d active", b, count)
	}
	if _, err := s.CreateBackfill(ctx, req, false); !errors.Is(err, definition.ErrBackfillActive) {
		t.Errorf("a second one: %v, want ErrBackfillActive", err)
	}
	// The sweeper leaves what waits for its turn alone.
	if claimed, err := s.ClaimUnstarted(ctx, 1000); err != nil || slices.ContainsFunc(claimed, func(st definition.Start) bool { return st.Kind == definition.KindBackfill }) {
		t.Errorf("the sweeper took runs of a backfill: %v", err)
	}
	done, reruns := 0, 0
	var last time.Time
	for {
		starts := release(t, s)
		if len(starts) > 2 {
			t.Fatalf("%d runs at a time, want at most 2", len(starts))
		}
		if len(starts) == 0 {
			break
		}
		if again := release(t, s); len(again) != 0 {
			t.Fatalf("%d more while the first ones have not ended", len(again))
		}
		// The database does not return them in order; slots rise from one release to the next.
		slices.SortFunc(starts, func(a, b definition.Start) int { return strings.Compare(a.Key, b.Key) })
		next := last
		for _, start := range starts {
			run, err := s.GetRun(ctx, start.RunID)
			if err != nil || run.BackfillID != b.ID || run.Kind != definition.KindBackfill || !run.SlotAt.After(last) {
				t.Fatalf("run %+v, %v", run, err)
			}
			if run.SlotAt.After(next) {
				next = *run.SlotAt
			}
			if run.RerunOf != "" {
				reruns++
				if run.Key != definition.RerunKey(run.RerunOf, 1) {
					t.Errorf("key = %s", run.Key)
				}
			} else if run.Key != definition.CronKey(*run.SlotAt) {
				t.Errorf("key = %s", run.Key)
			}
			carryOut(t, s, start)
			done++
		}
		last = next
	}
	if done != count || reruns == 0 || reruns == done {
		t.Errorf("%d runs, %d of them reruns; want %d", done, reruns, count)
	}
	got, err := s.GetBackfill(ctx, b.ID)
	if err != nil || got.Status != definition.BackfillCompleted || got.Runs[definition.RunSucceeded] != count || got.FinishedAt == nil {
		t.Errorf("backfill = %+v, %v", got, err)
	}
	if _, active, err := s.ReleaseBackfills(ctx); active || err != nil {
		t.Errorf("still active: %v, %v", active, err)
	}
	// Nothing is missing any more; asked for all, everything runs again.
	if again := backfill(t, s, req, true); again.Total != 0 {
		t.Errorf("%d are still missing", again.Total)
	}
	if none := backfill(t, s, req, false); none.Status != definition.BackfillCompleted || none.Total != 0 {
		t.Errorf("a backfill of nothing = %+v", none)
	}
	req.OnlyMissing = false
	if all := backfill(t, s, req, true); all.Total != len(minutes(req.From.Add(-time.Second), req.To)) {
		t.Errorf("all of them are %d", all.Total)
	}
}

func TestBackfillCancel(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	id := create(t, s, everyMinuteWith("x", "", `, "enabled": false`)).ID // runs although it is disabled
	now := clock(t, s)
	req := definition.BackfillRequest{DefinitionID: id, From: now.Add(-10 * time.Minute), To: now, OnlyMissing: true}
	b := backfill(t, s, req, false)
	started := release(t, s)
	canceled, err := s.CancelBackfill(ctx, b.ID)
	if err != nil || canceled.Status != definition.BackfillCanceled || canceled.Runs[definition.RunCanceled] != b.Total-len(started) {
		t.Errorf("canceled = %+v, %v", canceled, err)
	}
	if more := release(t, s); len(more) != 0 {
		t.Errorf("a canceled backfill lets %d begin", len(more))
	}
	for _, start := range started { // what was started goes on
		carryOut(t, s, start)
	}
	if again, err := s.CancelBackfill(ctx, b.ID); err != nil || again.Status != definition.BackfillCanceled || !again.FinishedAt.Equal(*canceled.FinishedAt) {
		t.Errorf("canceled twice = %+v, %v", again, err)
	}
	// What was called off is missing, and runs under a key of its own.
	second := backfill(t, s, req, false)
	if second.Total != b.Total-len(started) {
		t.Errorf("after it %d are missing, want %d", second.Total, b.Total-len(started))
	}
	for _, start := range release(t, s) {
		if !strings.HasPrefix(start.Key, "rerun-") {
			t.Errorf("key = %s", start.Key)
		}
		carryOut(t, s, start)
	}
	if _, err := s.CancelBackfill(ctx, definition.NewID()); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("an unknown one: %v", err)
	}
}

func TestBackfillRefuses(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	minutely, byHand := create(t, s, everyMinute).ID, create(t, s, manual).ID
	now := clock(t, s)
	for name, tc := range map[string]struct {
		req   definition.BackfillRequest
		field string
	}{
		"the future": {definition.BackfillRequest{DefinitionID: minutely, From: now, To: now.Add(time.Hour), MaxConcurrent: 1}, "to"},
		"too many":   {definition.BackfillRequest{DefinitionID: minutely, From: now.AddDate(0, 0, -8), To: now, MaxConcurrent: 1}, "to"},
		"no slots":   {definition.BackfillRequest{DefinitionID: byHand, From: now.Add(-time.Hour), To: now, MaxConcurrent: 1}, "id"},
	} {
		_, err := s.CreateBackfill(ctx, tc.req, false)
		var invalid *definition.InvalidError
		if !errors.As(err, &invalid) || invalid.Fields[0].Field != tc.field {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.CreateBackfill(ctx, definition.BackfillRequest{DefinitionID: definition.NewID(), From: now, To: now}, true); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("an unknown definition: %v", err)
	}
}
