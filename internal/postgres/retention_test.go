package postgres

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

const day = 24 * time.Hour

// removeAll removes what is old of a table, and returns how many rows that were and in how many batches.
func removeAll(t *testing.T, s *Store, table string, age time.Duration) (rows, batches int) {
	t.Helper()
	for from, more := int64(0), true; more; {
		r, err := s.RemoveOld(t.Context(), table, age, from)
		if err != nil {
			t.Fatal(err)
		}
		if r.Rows > retentionBatch {
			t.Fatalf("a batch of %d rows", r.Rows)
		}
		rows, batches, from, more = rows+r.Rows, batches+1, r.From, r.More
	}
	return rows, batches
}

func sql(t *testing.T, s *Store, statement string, args ...any) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%v\n%s", err, statement)
	}
}

func count(t *testing.T, s *Store, query string, args ...any) (n int) {
	t.Helper()
	if err := s.pool.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
	return n
}

// oldRuns makes rows that were accepted and ended some days ago.
const oldRuns = `
	INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, event_id, run_limit, run_timeout,
	                  workflow_id, start_after, accepted_at, finished_at)
	SELECT gen_random_uuid(), $1, 'd', 1, CASE WHEN $5 THEN 'event' ELSE 'manual' END, $2 || i, $3, CASE WHEN $5 THEN $2 || i ELSE '' END, 0,
	       '1 h', 'w', now(), now() - $4::interval,
	       CASE WHEN $3 NOT IN ('accepted', 'queued', 'running') THEN now() - $4::interval END
	FROM generate_series(1, $6::int) i`

// 20,000 old runs with their tasks go while new ones come in; what is young, open or not told yet stays, and what may be delivered
// again too.
func TestRetentionOfRuns(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, manual)
	sql(t, s, `UPDATE installation SET stream_age = '60 days'`)
	add := func(key, status string, age time.Duration, event bool, n int) {
		t.Helper()
		sql(t, s, oldRuns, d.ID, key, status, age, event, n)
	}
	const old = 20_000
	add("open", "running", 400*day, false, 3)
	add("waiting", "queued", 400*day, false, 2)
	add("old", "succeeded", 31*day, false, old-10)
	add("skipped", "skipped", 40*day, false, 10)
	add("event-young", "succeeded", 59*day, true, 5) // the stream may still deliver it
	add("event-old", "succeeded", 61*day, true, 4)
	add("young", "failed", 29*day, false, 7)
	sql(t, s, `DELETE FROM run_ends`)
	add("untold", "succeeded", 45*day, false, 6)
	add("untold-long", "succeeded", 91*day, false, 3)
	sql(t, s, `
		INSERT INTO task_results (run_id, index, name, type, status, started_at)
		SELECT id, 0, 'a', 'log', 'succeeded', now() FROM runs WHERE occurrence_key LIKE 'old%' OR occurrence_key LIKE 'young%'`)

	// Meanwhile runs are accepted and ended, and none of it waits.
	var stop atomic.Bool
	slowest, made := time.Duration(0), 0
	ended := make(chan error, 1)
	go func() {
		for !stop.Load() {
			began := time.Now()
			starts, err := s.AcceptRuns(ctx, []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual, Key: definition.ManualKey()}})
			if err == nil {
				_, err = s.FinishRun(ctx, definition.Finish{RunID: starts[0].RunID, Status: definition.RunSucceeded})
			}
			if err != nil {
				ended <- err
				return
			}
			slowest, made = max(slowest, time.Since(began)), made+1
		}
		ended <- nil
	}()
	rows, batches := removeAll(t, s, definition.TableRuns, 30*day)
	stop.Store(true)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rows in %d batches; meanwhile %d runs, the slowest in %s", rows, batches, made, slowest)
	if want := old + 4 + 3; rows != want {
		t.Errorf("%d rows were removed, want %d", rows, want)
	}
	if made == 0 || slowest > 5*time.Second {
		t.Errorf("%d runs were made meanwhile, the slowest in %s", made, slowest)
	}
	for key, want := range map[string]int{"open": 3, "waiting": 2, "event-young": 5, "young": 7, "untold": 6, "old": 0, "skipped": 0,
		"event-old": 0, "untold-long": 0, "manual-": made} {
		pattern := "^" + key
		if !strings.HasSuffix(key, "-") {
			pattern += "[0-9]+$"
		}
		if got := count(t, s, `SELECT count(*) FROM runs WHERE occurrence_key ~ $1`, pattern); got != want {
			t.Errorf("%d runs %s are left, want %d", got, key, want)
		}
	}
	if got := count(t, s, `SELECT count(*) FROM task_results`); got != 7 {
		t.Errorf("%d tasks are left, want those of the 7 young runs", got)
	}
	if got := count(t, s, `SELECT count(*) FROM run_ends e WHERE NOT EXISTS (SELECT FROM runs WHERE id = e.run_id)`); got != 0 {
		t.Errorf("%d ends of removed runs are left to be told", got)
	}
	if again, _ := removeAll(t, s, definition.TableRuns, 30*day); again != 0 {
		t.Errorf("%d rows more were removed the second time", again)
	}
}

// What the stream may deliver again is known as long as it may, so that it stays a duplicate.
func TestRetentionOfEvents(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, `{"name": "d", "trigger_config": {"trigger_type": "event", "event_type": "a.b"}}`)
	accept := func(id string) int {
		t.Helper()
		starts, _, err := s.AcceptEvents(ctx,
			[]definition.EventRecord{{ID: id, Type: "a.b", Digest: []byte{1}, Stream: "S", StreamSeq: 1, PublishedAt: time.Now(), Matches: 1}},
			[]definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindEvent, Key: definition.EventKey(id), EventID: id}})
		if err != nil {
			t.Fatal(err)
		}
		return len(starts)
	}
	for i, age := range []time.Duration{50 * day, 30*day + 30*time.Minute, 8 * day, 0} {
		id := fmt.Sprint("e", i)
		if accept(id) != 1 {
			t.Fatal("no run for", id)
		}
		sql(t, s, `UPDATE events SET recorded_at = now() - $2::interval WHERE event_id = $1`, id, age)
		sql(t, s, `UPDATE runs SET status = 'succeeded', accepted_at = now() - $2::interval, finished_at = now() - $2::interval
			WHERE event_id = $1`, id, age)
	}
	sql(t, s, `DELETE FROM run_ends`)
	remove := func(age time.Duration) string {
		t.Helper()
		events, _ := removeAll(t, s, definition.TableEvents, age)
		runs, _ := removeAll(t, s, definition.TableRuns, age)
		return fmt.Sprint(events, " ", runs)
	}
	kept := func(want bool) {
		t.Helper()
		if got, err := s.KeepsEvents(ctx, 7*day); err != nil || got != want {
			t.Errorf("KeepsEvents = %v, %v; want %v", got, err, want)
		}
	}
	// Nobody knows yet how long the stream keeps events.
	if got := remove(7 * day); got != "0 0" {
		t.Errorf("%s events and runs were removed, although the stream may hold the events", got)
	}
	kept(true)
	note := func(age time.Duration) {
		t.Helper()
		if err := s.NoteStreamAge(ctx, age); err != nil {
			t.Fatal(err)
		}
	}
	note(30 * day)
	kept(false)
	// With an hour for clocks that differ, the second one may be there still.
	if got := remove(7 * day); got != "1 1" {
		t.Errorf("%s events and runs were removed, want 1 1", got)
	}
	for _, id := range []string{"e1", "e2", "e3"} {
		if accept(id) != 0 {
			t.Errorf("%s, delivered again, has a second run", id)
		}
	}
	note(1 * day)
	if got := remove(7 * day); got != "2 2" {
		t.Errorf("%s events and runs were removed, want 2 2", got)
	}
	note(0) // for ever
	sql(t, s, `UPDATE events SET recorded_at = now() - interval '400 days'`)
	if got := remove(7 * day); got != "0 0" {
		t.Errorf("%s events and runs were removed, although the stream keeps events for ever", got)
	}
}

func TestRetentionOfTheRest(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	live := create(t, s, manual)
	for i := range 3 {
		_, err := s.UpdateDefinition(ctx, live.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
			return d.Merge(fmt.Appendf(nil, `{"description": "%d"}`, i))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	gone, used, young, dirty := create(t, s, strings.Replace(everyMinute, `"every-minute"`, `"gone", "labels": {"team": "a"}`, 1)), create(t, s, event),
		create(t, s, strings.Replace(manual, "by-hand", "young", 1)), create(t, s, strings.Replace(everyMinute, "every-minute", "dirty", 1))
	for _, d := range []definition.Stored{gone, used, young, dirty} {
		if err := s.DeleteDefinition(ctx, d.ID); err != nil {
			t.Fatal(err)
		}
	}
	sql(t, s, `UPDATE definitions SET deleted_at = now() - interval '40 days' WHERE deleted_at IS NOT NULL AND id <> $1`, young.ID)
	sql(t, s, `UPDATE schedule_sync SET dirty = false WHERE definition_id = $1`, gone.ID)
	// A run that goes on holds its revision, and a deleted definition.
	sql(t, s, oldRuns, live.ID, "pinned", "running", 90*day, false, 1)
	sql(t, s, `UPDATE runs SET revision = 2`)
	sql(t, s, oldRuns, used.ID, "pinned", "running", 90*day, false, 1)
	// Revision 3 was followed by 4 long ago, and 4 is in force; 1 and 2 were followed by 2 and 3 long ago.
	sql(t, s, `UPDATE definition_revisions SET created_at = now() - interval '50 days' + revision * interval '1 day'`)
	sql(t, s, `ALTER TABLE audit DISABLE TRIGGER audit_is_append_only`)
	sql(t, s, `UPDATE audit SET at = now() - interval '31 days' WHERE action = 'create'`)
	sql(t, s, `
		INSERT INTO dead_letters (id, stream, stream_seq, subject, reason, data, data_size, deliveries, published_at, created_at, status, settled_at)
		SELECT gen_random_uuid(), 'S', i, 'a', 'not_json', '', 0, 1, now(), now() - created, status, now() - settled
		FROM (VALUES (1, interval '31 days', 'routed', interval '31 days'), (2, '31 days', 'discarded', '29 days'),
		             (3, '89 days', 'open', NULL), (4, '91 days', 'open', NULL), (5, '400 days', 'retrying', NULL)) l (i, created, status, settled)`)
	sql(t, s, `
		INSERT INTO replays (id, from_at, to_at, event_types, definition_ids, dry_run, status, finished_at)
		SELECT gen_random_uuid(), now(), now(), '{}', '{}', false, status, finished
		FROM (VALUES ('completed', now() - interval '31 days'), ('canceled', now()), ('running', NULL)) r (status, finished)`)
	sql(t, s, `
		INSERT INTO backfills (id, definition_id, definition_name, revision, from_at, to_at, only_missing, max_concurrent, status, total, finished_at)
		SELECT gen_random_uuid(), $1, 'd', 1, now(), now(), true, 1, status, 0, finished
		FROM (VALUES ('completed', now() - interval '31 days'), ('canceled', now()), ('active', NULL)) b (status, finished)`, live.ID)
	sql(t, s, `
		INSERT INTO delivery_attempts (stream, stream_seq, published_at, attempts, attempted_at)
		VALUES ('S', 1, now(), 1, now()), ('S', 2, now(), 1, now() - interval '31 days')`)
	sql(t, s, `INSERT INTO concurrency (definition_id, key) VALUES ($1, ''), ($1, 'used'), ($1, 'free'), ($2, '')`, live.ID, gone.ID)
	sql(t, s, `UPDATE runs SET run_limit = 1, concurrency_key = 'used' WHERE definition_id = $1`, live.ID)

	for table, want := range map[string]int{
		definition.TableDeadLetters: 2, definition.TableReplays: 1, definition.TableBackfills: 1, definition.TableAudit: 5,
		definition.TableAttempts: 1, definition.TableDefinitions: 1, definition.TableConcurrency: 1,
	} {
		if got, _ := removeAll(t, s, table, 30*day); got != want {
			t.Errorf("%d rows of %s were removed, want %d", got, table, want)
		}
	}
	if got, _ := removeAll(t, s, definition.TableRevisions, 30*day); got != 2 {
		t.Errorf("%d revisions were removed, want 2", got)
	}
	for query, want := range map[string]int{
		`SELECT count(*) FROM definitions`:                                                            4,
		`SELECT count(*) FROM definition_revisions WHERE definition_id = '` + gone.ID + `'`:           0,
		`SELECT count(*) FROM cron_state WHERE definition_id = '` + gone.ID + `'`:                     0,
		`SELECT count(*) FROM schedule_sync`:                                                          1,
		`SELECT count(*) FROM concurrency`:                                                            2,
		`SELECT count(*) FROM definition_labels WHERE definition_id = '` + gone.ID + `'`:              0,
		`SELECT sum(stream_seq)::int FROM dead_letters`:                                               2 + 3 + 5,
		`SELECT sum(revision)::int FROM definition_revisions WHERE definition_id = '` + live.ID + `'`: 2 + 4,
	} {
		if got := count(t, s, query); got != want {
			t.Errorf("%s = %d, want %d", query, got, want)
		}
	}
	if _, err := s.RemoveOld(ctx, "pg_class", day, 0); err == nil {
		t.Error("a table that is none of ours was accepted")
	}
}
