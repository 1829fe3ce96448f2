package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	return New(testenv.Pool(t))
}

func parse(t *testing.T, text string) definition.Document {
	t.Helper()
	doc, err := definition.ParseDocument([]byte(text))
	if err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	return doc
}

func create(t *testing.T, s *Store, text string) definition.Stored {
	t.Helper()
	d, err := s.CreateDefinition(t.Context(), parse(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	manual = `{"name": "by-hand", "trigger_config": {"trigger_type": "manual"},
		"tasks": [{"name": "one", "type": "log", "with": {"message": "hi"}}]}`
	event = `{"name": "on-event", "trigger_config": {"trigger_type": "event", "event_type": "user.created",
		"filters": {"tier": "pro", "n": 1e400, "s": "a\u0000b"}}}`
	everyMinute = `{"name": "every-minute", "trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"}}`
)

func TestDefinitionLife(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	created := create(t, s, event)
	if created.Revision != 1 || created.Seq != 1 || created.Sync.State != "" {
		t.Errorf("created = %+v, want revision 1, seq 1 and no schedule state", created)
	}
	read, err := s.GetDefinition(ctx, created.ID)
	if err != nil || !read.Document.Equal(created.Document) {
		t.Fatalf("read back %+v, %v; want %+v", read.Document, err, created.Document)
	}
	if _, err := s.CreateDefinition(ctx, parse(t, event)); !errors.Is(err, definition.ErrNameTaken) {
		t.Errorf("second of the name: %v, want ErrNameTaken", err)
	}

	same, err := s.UpdateDefinition(ctx, created.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) { return d, nil })
	if err != nil || same.Revision != 1 {
		t.Errorf("update to the same: revision %d, %v; want 1", same.Revision, err)
	}
	off, err := s.UpdateDefinition(ctx, created.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		return d.Replace([]byte(`{"enabled": false}`))
	})
	if err != nil || off.Revision != 2 || off.Enabled || !off.EnabledSince.Equal(created.EnabledSince) {
		t.Errorf("disabled = %+v, %v", off, err)
	}
	on, err := s.UpdateDefinition(ctx, created.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		return d.Merge([]byte(`{"enabled": true}`))
	})
	if err != nil || on.Revision != 3 || !on.EnabledSince.After(created.EnabledSince) {
		t.Errorf("enabled again = %+v, %v; want a later EnabledSince", on, err)
	}
	other := create(t, s, manual)
	_, err = s.UpdateDefinition(ctx, other.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		d.Name = "on-event"
		return d, nil
	})
	if !errors.Is(err, definition.ErrNameTaken) {
		t.Errorf("rename to a taken name: %v, want ErrNameTaken", err)
	}

	if err := s.DeleteDefinition(ctx, created.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetDefinition(ctx, created.ID); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("get deleted: %v, want ErrNotFound", err)
	}
	if err := s.DeleteDefinition(ctx, created.ID); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("delete again: %v, want ErrNotFound", err)
	}
	if again := create(t, s, event); again.ID == created.ID {
		t.Error("a deleted name was not free for a new definition")
	}
	rows, err := s.pool.Query(ctx, `SELECT action, revision FROM audit WHERE definition_id = $1 ORDER BY id`, created.ID)
	if err != nil {
		t.Fatal(err)
	}
	var trail []string
	for rows.Next() {
		var action string
		var revision int
		if err := rows.Scan(&action, &revision); err != nil {
			t.Fatal(err)
		}
		trail = append(trail, fmt.Sprintf("%s %d", action, revision))
	}
	if got, want := strings.Join(trail, ", "), "create 1, update 2, update 3, delete 4"; got != want {
		t.Errorf("audit trail = %s, want %s", got, want)
	}
}

func TestListDefinitionsPages(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	for i := range 5 {
		create(t, s, strings.Replace(manual, "by-hand", fmt.Sprintf("d%d", i), 1))
	}
	create(t, s, event)
	var names []string
	for after := int64(0); ; {
		page, err := s.ListDefinitions(ctx, definition.ListDefinitions{AfterSeq: after, Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			names, after = append(names, d.Name), d.Seq
		}
		if len(page) < 2 {
			break
		}
	}
	if got := strings.Join(names, " "); got != "d0 d1 d2 d3 d4 on-event" {
		t.Errorf("pages held %s", got)
	}
	on := true
	list, err := s.ListDefinitions(ctx, definition.ListDefinitions{Limit: 9, TriggerType: "event", Enabled: &on, Name: "on-event"})
	if err != nil || len(list) != 1 {
		t.Errorf("filtered list has %d, %v; want 1", len(list), err)
	}
	counts, err := s.CountDefinitions(ctx)
	if err != nil || counts["manual"] != 5 || counts["event"] != 1 || counts["cron"] != 0 {
		t.Errorf("counts = %v, %v", counts, err)
	}
}

func TestAcceptRunsOnce(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, event)
	batch := []definition.Occurrence{
		{DefinitionID: d.ID, Kind: definition.KindEvent, Key: "event-b", Input: []byte(`{"a":"\u0000"}`), EventID: "b"},
		{DefinitionID: d.ID, Kind: definition.KindEvent, Key: "event-a", EventID: "a"},
		{DefinitionID: d.ID, Kind: definition.KindEvent, Key: "event-a", EventID: "a"},
		{DefinitionID: definition.NewID(), Kind: definition.KindEvent, Key: "event-a", EventID: "a"},
	}
	starts, err := s.AcceptRuns(ctx, batch)
	if err != nil || len(starts) != 2 {
		t.Fatalf("accepted %d, %v; want 2", len(starts), err)
	}
	if starts[0].DefinitionName != "on-event" || starts[0].Timeout != definition.DefaultTimeout {
		t.Errorf("start = %+v", starts[0])
	}
	again, err := s.AcceptRuns(ctx, batch)
	if err != nil || len(again) != 0 {
		t.Fatalf("accepted %d again, %v; want 0", len(again), err)
	}
	run, err := s.GetRun(ctx, starts[0].RunID)
	if err != nil || run.Status != definition.RunAccepted || run.WorkflowID != definition.WorkflowID(d.ID, run.Key) {
		t.Errorf("run = %+v, %v", run, err)
	}

	// Many routers with overlapping batches: each key once, no deadlock.
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for worker := range 8 {
		wg.Go(func() {
			var b []definition.Occurrence
			for i := range 200 {
				n := i
				if worker%2 == 1 {
					n = 199 - i
				}
				b = append(b, definition.Occurrence{DefinitionID: d.ID, Kind: definition.KindEvent, Key: fmt.Sprintf("event-x%d", n)})
			}
			starts, err := s.AcceptRuns(ctx, b)
			if err != nil {
				t.Errorf("worker %d: %v", worker, err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += len(starts)
		})
	}
	wg.Wait()
	if total != 200 {
		t.Errorf("accepted %d rows in all, want 200", total)
	}
}

func TestSweepClaims(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, manual)
	starts, err := s.AcceptRuns(ctx, []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual, Key: "manual-1"}})
	if err != nil || len(starts) != 1 {
		t.Fatal(starts, err)
	}
	claim := func() []definition.Start {
		t.Helper()
		claimed, err := s.ClaimUnstarted(ctx, 10)
		if err != nil {
			t.Fatal(err)
		}
		return claimed
	}
	due := func() {
		t.Helper()
		if _, err := s.pool.Exec(ctx, `UPDATE runs SET start_after = now()`); err != nil {
			t.Fatal(err)
		}
	}
	if got := claim(); len(got) != 0 {
		t.Fatalf("claimed %d fresh rows, want 0: they belong to the process that accepted them", len(got))
	}
	due()
	first := claim()
	if len(first) != 1 || first[0].Attempts != 1 || first[0].FirstTriedAt.IsZero() {
		t.Fatalf("claimed %+v, want one at its first try", first)
	}
	if got := claim(); len(got) != 0 {
		t.Fatal("claimed twice at once")
	}
	if err := s.ReturnUnstarted(ctx, []string{starts[0].RunID}, 0); err != nil {
		t.Fatal(err)
	}
	if got := claim(); len(got) != 1 || got[0].Attempts != 1 {
		t.Fatalf("after return claimed %+v, want one at its first try again", got)
	}
	closed, err := s.CloseUnbegun(ctx, definition.Finish{RunID: starts[0].RunID, Status: definition.RunFailed,
		Reason: definition.ReasonStartRefused, Error: "no"})
	if err != nil || closed.Repeated {
		t.Fatal(closed, err)
	}
	due()
	if got := claim(); len(got) != 0 {
		t.Error("claimed a closed row")
	}
}

// accept makes one accepted row by hand and returns how its workflow would begin it.
func accept(t *testing.T, s *Store, id string, kind definition.TriggerKind, n int) definition.Begin {
	t.Helper()
	key := fmt.Sprintf("%s-%d", kind, n)
	starts, err := s.AcceptRuns(t.Context(), []definition.Occurrence{{DefinitionID: id, Kind: kind, Key: key}})
	if err != nil || len(starts) != 1 {
		t.Fatalf("accept: %v, %v", starts, err)
	}
	return definition.Begin{RunID: starts[0].RunID, DefinitionID: id, WorkflowID: definition.WorkflowID(id, key), FirstRunID: "wf-" + key}
}

func begin(t *testing.T, s *Store, b definition.Begin) definition.Admission {
	t.Helper()
	adm, err := s.BeginRun(t.Context(), b)
	if err != nil {
		t.Fatalf("begin %s: %v", b.WorkflowID, err)
	}
	return adm
}

func TestBeginAndFinish(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, manual)
	b := accept(t, s, d.ID, definition.KindManual, 1)
	adm := begin(t, s, b)
	if adm.Run.Status != definition.RunRunning || adm.Repeated || len(adm.Document.Tasks) != 1 {
		t.Fatalf("admission = %+v", adm)
	}
	if adm = begin(t, s, b); adm.Run.Status != definition.RunRunning || !adm.Repeated {
		t.Errorf("asked again: %+v, want the same, repeated", adm)
	}
	other := b
	other.FirstRunID = "another"
	if _, err := s.BeginRun(ctx, other); !errors.Is(err, definition.ErrOtherWorkflow) {
		t.Errorf("another workflow: %v, want ErrOtherWorkflow", err)
	}

	attempt := definition.TaskBegin{RunID: b.RunID, Index: 0, Item: -1, Name: "one", Type: "log", Attempt: 1}
	work, err := s.BeginTask(ctx, attempt)
	if err != nil || work.Done != nil || work.Run.DefinitionName != "by-hand" {
		t.Fatalf("task work = %+v, %v", work, err)
	}
	err = s.FinishTask(ctx, definition.TaskResult{RunID: b.RunID, Index: 0, Name: "one", Type: "log",
		Status: definition.TaskRunning, Attempts: 1, Error: "first try \x00 failed"})
	if err != nil {
		t.Fatal(err)
	}
	result := definition.TaskResult{RunID: b.RunID, Index: 0, Name: "one", Type: "log", Status: definition.TaskSucceeded,
		Attempts: 2, Output: []byte(strings.Repeat("x", definition.MaxOutput+1))}
	if err := s.FinishTask(ctx, result); err != nil {
		t.Fatal(err)
	}
	attempt.Attempt = 3
	if work, err = s.BeginTask(ctx, attempt); err != nil || work.Done == nil || work.Done.Status != definition.TaskSucceeded {
		t.Errorf("a finished task begins again: %+v, %v", work, err)
	}

	done, err := s.FinishRun(ctx, definition.Finish{RunID: b.RunID, Status: definition.RunSucceeded})
	if err != nil || done.Repeated || done.Run.Status != definition.RunSucceeded || done.Run.FinishedAt == nil {
		t.Fatalf("finished = %+v, %v", done, err)
	}
	done, err = s.FinishRun(ctx, definition.Finish{RunID: b.RunID, Status: definition.RunFailed, Reason: definition.ReasonTaskFailed})
	if err != nil || !done.Repeated || done.Run.Status != definition.RunSucceeded {
		t.Errorf("finished again = %+v, %v; want the first outcome, repeated", done, err)
	}
	run, err := s.GetRun(ctx, b.RunID)
	if err != nil || len(run.Tasks) != 1 {
		t.Fatal(run, err)
	}
	task := run.Tasks[0]
	if task.Status != definition.TaskSucceeded || task.Attempts != 2 || task.Error != "" || !task.OutputTruncated ||
		len(task.Output) != definition.MaxOutput || task.FinishedAt == nil {
		t.Errorf("task = %+v", task)
	}
	attempt.RunID = accept(t, s, d.ID, definition.KindManual, 2).RunID
	if _, err := s.BeginTask(ctx, attempt); !errors.Is(err, definition.ErrOtherWorkflow) {
		t.Errorf("a task of a run that is not running: %v, want ErrOtherWorkflow", err)
	}
}

func TestBeginOfDisabledAndDeleted(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, event)
	byEvent, byHand := accept(t, s, d.ID, definition.KindEvent, 1), accept(t, s, d.ID, definition.KindManual, 1)
	late := accept(t, s, d.ID, definition.KindManual, 2)
	_, err := s.UpdateDefinition(ctx, d.ID, definition.Change{}, func(doc definition.Document) (definition.Document, error) {
		doc.Enabled = false
		return doc, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if adm := begin(t, s, byEvent); adm.Run.Status != definition.RunSkipped || adm.Run.Reason != definition.ReasonDefinitionOff {
		t.Errorf("event run of a disabled definition: %s %s", adm.Run.Status, adm.Run.Reason)
	}
	if adm := begin(t, s, byHand); adm.Run.Status != definition.RunRunning {
		t.Errorf("manual run of a disabled definition: %s %s, want running", adm.Run.Status, adm.Run.Reason)
	}
	if err := s.DeleteDefinition(ctx, d.ID); err != nil {
		t.Fatal(err)
	}
	if adm := begin(t, s, late); adm.Run.Status != definition.RunSkipped || adm.Run.Reason != definition.ReasonDefinitionGone {
		t.Errorf("run of a deleted definition: %s %s", adm.Run.Status, adm.Run.Reason)
	}
}

func TestConcurrencySkips(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d := create(t, s, `{"name": "one-at-a-time", "trigger_config": {"trigger_type": "event", "event_type": "x"},
		"concurrency": {"limit": 1}}`)
	first, second := accept(t, s, d.ID, definition.KindEvent, 1), accept(t, s, d.ID, definition.KindEvent, 2)
	if adm := begin(t, s, first); adm.Run.Status != definition.RunRunning {
		t.Fatalf("first: %s", adm.Run.Status)
	}
	if adm := begin(t, s, second); adm.Run.Status != definition.RunSkipped || adm.Run.Reason != definition.ReasonConcurrencyLimit {
		t.Errorf("second: %s %s, want skipped concurrency_limit", adm.Run.Status, adm.Run.Reason)
	}
}

// A queue under many concurrent workflows: never more than the limit at once, everyone in the end, in order.
func TestConcurrencyQueues(t *testing.T) {
	t.Parallel()
	// Connections that are open before the race begins: opening them would spread the racers out.
	pool, ctx := testenv.OpenPool(t, testenv.DatabaseURL(t)+"&pool_max_conns=16"), t.Context()
	var open []*pgxpool.Conn
	for range 16 {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	for _, conn := range open {
		conn.Release()
	}
	s := New(pool)
	d := create(t, s, `{"name": "two-at-a-time", "trigger_config": {"trigger_type": "event", "event_type": "x"},
		"concurrency": {"limit": 2, "on_limit": "queue"}}`)
	// The first run makes the row that admission locks: making it would by itself keep the others apart.
	first := accept(t, s, d.ID, definition.KindEvent, -1)
	begin(t, s, first)
	if _, err := s.FinishRun(ctx, definition.Finish{RunID: first.RunID, Status: definition.RunSucceeded}); err != nil {
		t.Fatal(err)
	}
	const n = 30
	var begins []definition.Begin
	byWorkflow := map[string]definition.Begin{}
	for i := range n {
		b := accept(t, s, d.ID, definition.KindEvent, i)
		begins, byWorkflow[b.WorkflowID] = append(begins, b), b
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	running := make(chan definition.Begin, n)
	for _, b := range begins {
		wg.Go(func() {
			adm, err := s.BeginRun(ctx, b)
			if err != nil {
				t.Errorf("begin: %v", err)
				return
			}
			if adm.Run.Status == definition.RunRunning {
				running <- b
			}
			for _, id := range adm.Wake { // it had to wait for this one
				running <- byWorkflow[id]
			}
		})
	}
	wg.Wait()
	if len(running) != 2 {
		t.Fatalf("%d run at once, want 2", len(running))
	}
	finished := 0
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case b := <-running:
					done, err := s.FinishRun(ctx, definition.Finish{RunID: b.RunID, Status: definition.RunSucceeded})
					if err != nil {
						t.Errorf("finish: %v", err)
						return
					}
					mu.Lock()
					finished++
					mu.Unlock()
					for _, id := range done.Wake {
						if adm := begin(t, s, byWorkflow[id]); adm.Run.Status != definition.RunRunning || !adm.Repeated {
							t.Errorf("woken run is %s, repeated %v", adm.Run.Status, adm.Repeated)
						}
						running <- byWorkflow[id]
					}
				default:
					return
				}
			}
		})
	}
	wg.Wait()
	if finished != n {
		t.Errorf("%d of %d finished", finished, n)
	}
}

func TestSyncLeases(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, everyMinute)
	items, err := s.LeaseSync(ctx, time.Minute, 10)
	if err != nil || len(items) != 1 || items[0].Definition == nil || items[0].Desired != 1 {
		t.Fatalf("leased %+v, %v", items, err)
	}
	item := items[0]
	if again, err := s.LeaseSync(ctx, time.Minute, 10); err != nil || len(again) != 0 {
		t.Fatalf("leased twice: %+v, %v", again, err)
	}
	if _, ok, err := s.LeaseSyncOf(ctx, d.ID, time.Minute); err != nil || ok {
		t.Fatalf("leased by id while held: %v, %v", ok, err)
	}
	stale := item
	stale.Lease--
	if err := s.SettleSync(ctx, stale, 1, "h"); !errors.Is(err, definition.ErrLeaseLost) {
		t.Errorf("settle with an old lease: %v, want ErrLeaseLost", err)
	}
	// A change during the lease leaves it dirty.
	_, err = s.UpdateDefinition(ctx, d.ID, definition.Change{}, func(doc definition.Document) (definition.Document, error) {
		doc.Enabled = false
		return doc, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SettleSync(ctx, item, 1, "h1"); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.GetDefinition(ctx, d.ID); got.Sync.State != definition.SyncPending || got.Sync.Observed != 1 || got.Sync.Desired != 2 {
		t.Errorf("sync = %+v, want pending, observed 1, desired 2", got.Sync)
	}
	item, ok, err := s.LeaseSyncOf(ctx, d.ID, time.Minute)
	if err != nil || !ok || item.Desired != 2 || item.Definition.Enabled {
		t.Fatalf("lease after the change: %+v %v %v", item, ok, err)
	}
	if err := s.FailSync(ctx, item, time.Hour, "temporal is away"); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.GetDefinition(ctx, d.ID); got.Sync.State != definition.SyncError || got.Sync.LastError != "temporal is away" {
		t.Errorf("sync = %+v, want error", got.Sync)
	}
	if items, err = s.LeaseSync(ctx, time.Minute, 10); err != nil || len(items) != 0 {
		t.Fatalf("leased before its next try: %+v, %v", items, err)
	}
	if err := s.MarkSync(ctx, []string{d.ID}); err != nil {
		t.Fatal(err)
	}
	if items, err = s.LeaseSync(ctx, time.Minute, 10); err != nil || len(items) != 1 {
		t.Fatalf("a marked one is not leased: %+v, %v", items, err)
	}
	if err := s.SettleSync(ctx, items[0], 2, "h2"); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.GetDefinition(ctx, d.ID); got.Sync.State != definition.SyncSynced {
		t.Errorf("sync = %+v, want synced", got.Sync)
	}
	if err := s.DeleteDefinition(ctx, d.ID); err != nil {
		t.Fatal(err)
	}
	if items, err = s.LeaseSync(ctx, time.Minute, 10); err != nil || len(items) != 1 || items[0].Definition != nil {
		t.Fatalf("after deletion leased %+v, %v; want one without definition", items, err)
	}
	entries, err := s.SyncSnapshot(ctx, "", 10)
	if err != nil || len(entries) != 1 || entries[0].Wanted || entries[0].SpecHash != "h2" {
		t.Errorf("snapshot = %+v, %v", entries, err)
	}
}

// A change is seen exactly once, also when its transaction began before the look and committed after it.
func TestChangedDefinitionsMissesNothing(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	first := create(t, s, event)
	create(t, s, manual)
	snapshot, all, err := s.ChangedDefinitions(ctx, "")
	if err != nil || len(all) != 1 || all[0].ID != first.ID || !all[0].Live || string(all[0].Filters["tier"]) != `"pro"` {
		t.Fatalf("first look = %+v, %v; want the event definition alone", all, err)
	}
	look := func() []definition.Routable {
		t.Helper()
		var changed []definition.Routable
		if snapshot, changed, err = s.ChangedDefinitions(ctx, snapshot); err != nil {
			t.Fatal(err)
		}
		return changed
	}
	if got := look(); len(got) != 0 {
		t.Fatalf("quiet look = %+v, want none", got)
	}

	slow, err := s.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.Rollback(ctx) }()
	if _, err := slow.Exec(ctx, `UPDATE definitions SET updated_at = now() WHERE id = $1`, first.ID); err != nil {
		t.Fatal(err)
	}
	second := create(t, s, strings.Replace(event, "on-event", "second", 1))
	if got := look(); len(got) != 1 || got[0].ID != second.ID {
		t.Fatalf("look with an open transaction = %+v, want the second alone", got)
	}
	if err := slow.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if got := look(); len(got) != 1 || got[0].ID != first.ID {
		t.Fatalf("look after the slow commit = %+v, want the first alone", got)
	}
	if err := s.DeleteDefinition(ctx, second.ID); err != nil {
		t.Fatal(err)
	}
	if got := look(); len(got) != 1 || got[0].ID != second.ID || got[0].Live {
		t.Fatalf("look after a deletion = %+v, want it not live", got)
	}
}

// A document that this version cannot read stops neither the routing nor the schedules of the others.
func TestUnreadableDocumentIsItsOwnFault(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	for _, name := range []string{"one", "two"} {
		create(t, s, strings.Replace(everyMinute, "every-minute", "cron-"+name, 1))
		create(t, s, strings.Replace(event, "on-event", "event-"+name, 1))
	}
	_, err := s.pool.Exec(ctx, `UPDATE definitions SET document = '{"trigger_config": 7}' WHERE name LIKE '%-one'`)
	if err != nil {
		t.Fatal(err)
	}
	_, changed, err := s.ChangedDefinitions(ctx, "")
	if err != nil || len(changed) != 2 {
		t.Fatalf("look = %+v, %v; want both event definitions", changed, err)
	}
	for _, r := range changed {
		if (r.Unreadable != nil) != (r.Name == "event-one") {
			t.Errorf("%s: Unreadable = %v", r.Name, r.Unreadable)
		}
	}
	items, err := s.LeaseSync(ctx, time.Minute, 10)
	if err != nil || len(items) != 2 {
		t.Fatalf("leased %+v, %v; want both cron definitions", items, err)
	}
	unreadable := 0
	for _, item := range items {
		if item.Unreadable != nil {
			unreadable++
		}
	}
	if unreadable != 1 {
		t.Errorf("%d items are unreadable, want 1", unreadable)
	}
}

func TestDeadLettersOnce(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	letter := definition.DeadLetter{Stream: "S", StreamSeq: 7, PublishedAt: time.Now(), Subject: "a.b\x00c", Reason: "not_json",
		Data: make([]byte, definition.MaxDeadLetterData+10), DataSize: definition.MaxDeadLetterData + 10, Deliveries: 1}
	for range 2 {
		if err := s.AcceptDeadLetters(ctx, []definition.DeadLetter{letter}); err != nil {
			t.Fatal(err)
		}
	}
	var n, size int
	err := s.pool.QueryRow(ctx, `SELECT count(*), max(length(data)) FROM dead_letters`).Scan(&n, &size)
	if err != nil || n != 1 || size != definition.MaxDeadLetterData {
		t.Errorf("%d rows of %d bytes, %v; want 1 of %d", n, size, err, definition.MaxDeadLetterData)
	}
}

func TestSeedOnce(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	lines, err := s.Seed(ctx)
	if err != nil || len(lines) != 3 || !strings.HasSuffix(lines[0], "created") {
		t.Fatalf("first seed = %v, %v", lines, err)
	}
	list, err := s.ListDefinitions(ctx, definition.ListDefinitions{Limit: 10})
	if err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	if err := s.DeleteDefinition(ctx, list[0].ID); err != nil {
		t.Fatal(err)
	}
	lines, err = s.Seed(ctx)
	if err != nil || strings.Contains(strings.Join(lines, " "), "created") {
		t.Errorf("second seed = %v, %v; want nothing new, the deleted one stays deleted", lines, err)
	}
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	pool := testenv.OpenPool(t, "postgres://actcore:s3cret@127.0.0.1:1/none?sslmode=disable&connect_timeout=2")
	_, err := New(pool).GetDefinition(t.Context(), definition.NewID())
	if !errors.Is(err, definition.ErrUnavailable) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error = %v, want ErrUnavailable without the password", err)
	}
	// So is a server that does not let us in, and its refusal is one line.
	refused := testenv.OpenPool(t, strings.Replace(testenv.Stack(t).PostgresURL, ":actcore@", ":wr0ng@", 1))
	_, err = New(refused).GetDefinition(t.Context(), definition.NewID())
	if !errors.Is(err, definition.ErrUnavailable) || !strings.Contains(err.Error(), "28P01") ||
		strings.ContainsAny(err.Error(), "\n\t") || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("error = %v, want ErrUnavailable in one line with SQLSTATE 28P01", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(pool).GetDefinition(ctx, definition.NewID()); err == nil {
		t.Error("a canceled call succeeded")
	}
}
