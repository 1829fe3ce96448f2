package postgres

import (
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

// onEvent writes a definition with an event trigger, and more fields of it.
func onEvent(name, more string) string {
	return fmt.Sprintf(`{"name": %q, "trigger_config": {"trigger_type": "event", "event_type": "user.created"}%s}`, name, more)
}

var published = time.Date(2026, 1, 31, 12, 0, 0, 123456000, time.UTC)

// known is what is kept of an event whose payload is told by a word.
func known(id, payload string, matches int) definition.EventRecord {
	return definition.EventRecord{ID: id, Type: "user.created", Source: "shop", Digest: []byte(payload), Stream: "S", StreamSeq: 7,
		PublishedAt: published, Matches: matches}
}

func occurs(d definition.Stored, eventID string) definition.Occurrence {
	return definition.Occurrence{DefinitionID: d.ID, Revision: d.Revision, Kind: definition.KindEvent, Key: definition.EventKey(eventID),
		EventID: eventID, EventType: "user.created", Input: []byte(`{"event_id":"` + eventID + `"}`)}
}

// texts returns the one text column of a query, as in "a, b".
func texts(t *testing.T, s *Store, sql string, args ...any) string {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, ", ")
}

func execute(t *testing.T, s *Store, sql string, args ...any) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// TestAcceptEvents goes through what may come under an event's id, one after the other.
func TestAcceptEvents(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	one, two := create(t, s, onEvent("one", "")), create(t, s, onEvent("two", ""))
	gone := create(t, s, onEvent("gone", ""))
	if err := s.DeleteDefinition(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	failing := occurs(two, "f")
	failing.ConditionError = "no such key: \x00 tier"
	otherType, otherSource := known("a", "x", 1), known("a", "x", 1)
	otherType.Type, otherSource.Source = "user.deleted", "another shop"
	for _, c := range []struct {
		name        string
		events      []definition.EventRecord
		occurrences []definition.Occurrence
		starts      string // names and keys
		reused      string
	}{
		{"none", nil, nil, "", ""},
		{"new ones", []definition.EventRecord{known("b", "y", 1), known("a", "x", 1)},
			[]definition.Occurrence{occurs(one, "b"), occurs(one, "a")}, "one event-a, one event-b", ""},
		{"the same again", []definition.EventRecord{known("a", "x", 1)}, []definition.Occurrence{occurs(one, "a")}, "", ""},
		{"the same for another definition too", []definition.EventRecord{known("a", "x", 2)},
			[]definition.Occurrence{occurs(one, "a"), occurs(two, "a")}, "two event-a", ""},
		{"another payload", []definition.EventRecord{known("b", "z", 2)},
			[]definition.Occurrence{occurs(one, "b"), occurs(two, "b")}, "", "b"},
		{"another type", []definition.EventRecord{otherType}, []definition.Occurrence{occurs(one, "a")}, "", "a"},
		{"another source", []definition.EventRecord{otherSource}, []definition.Occurrence{occurs(one, "a")}, "", "a"},
		{"another payload beside a new one", []definition.EventRecord{known("b", "z", 9), known("c", "z", 1)},
			[]definition.Occurrence{occurs(two, "b"), occurs(two, "c")}, "two event-c", "b"},
		{"a condition that failed", []definition.EventRecord{known("f", "x", 2)}, []definition.Occurrence{occurs(one, "f"), failing},
			"one event-f", ""},
		{"a definition that is gone", []definition.EventRecord{known("g", "x", 1)}, []definition.Occurrence{occurs(gone, "g")}, "", ""},
		{"one that matched nothing", []definition.EventRecord{known("u", "x", 0)}, nil, "", ""},
	} {
		starts, reused, err := s.AcceptEvents(t.Context(), c.events, c.occurrences)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var got []string
		for _, st := range starts {
			got = append(got, st.DefinitionName+" "+st.Key)
		}
		slices.Sort(got)
		if got := strings.Join(got, ", "); got != c.starts || strings.Join(reused, ", ") != c.reused {
			t.Errorf("%s: starts %s and reused %s, want %s and %s", c.name, got, reused, c.starts, c.reused)
		}
	}
	// The first to come stays what is recorded; matches grow with those that are the same.
	const events = "a user.created shop x S 7 2, b user.created shop y S 7 1, c user.created shop z S 7 1, " +
		"f user.created shop x S 7 2, g user.created shop x S 7 1, u user.created shop x S 7 0"
	if got := texts(t, s, `SELECT concat_ws(' ', event_id, type, source, convert_from(digest, 'UTF8'), stream, stream_seq, matches)
		FROM events ORDER BY event_id`); got != events {
		t.Errorf("events %s\nwant %s", got, events)
	}
	const runs = "one event-a accepted, one event-b accepted, one event-f accepted, two event-a accepted, two event-c accepted, " +
		"two event-f failed condition_error no such key: \uFFFD tier finished"
	if got := texts(t, s, `
		SELECT concat_ws(' ', definition_name, occurrence_key, status, NULLIF(reason, ''), NULLIF(error, ''),
		                 CASE WHEN finished_at IS NOT NULL THEN 'finished' END)
		FROM runs ORDER BY definition_name, occurrence_key`); got != runs {
		t.Errorf("runs %s\nwant %s", got, runs)
	}
}

// TestAcceptEventsNotStorable: one refused value keeps all of the transaction out.
func TestAcceptEventsNotStorable(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d := create(t, s, onEvent("one", ""))
	badEvent, badRun := known("b", "x", 1), occurs(d, "b")
	badEvent.Source, badRun.TraceID = "a\x00b", "a\x00b"
	for name, c := range map[string]struct {
		event definition.EventRecord
		run   definition.Occurrence
	}{
		"an event": {badEvent, occurs(d, "b")},
		"a run":    {known("b", "x", 1), badRun},
	} {
		starts, reused, err := s.AcceptEvents(t.Context(), []definition.EventRecord{known("a", "x", 1), c.event},
			[]definition.Occurrence{occurs(d, "a"), c.run})
		if !errors.Is(err, definition.ErrNotStorable) || len(starts) != 0 || len(reused) != 0 {
			t.Errorf("%s: %v, %v, %v; want ErrNotStorable alone", name, starts, reused, err)
		}
		if got := texts(t, s, `SELECT event_id FROM events UNION ALL SELECT occurrence_key FROM runs`); got != "" {
			t.Errorf("%s: %s is stored", name, got)
		}
	}
}

// TestEventArgsAreSorted: two routers with the same events in different orders would wait for each other.
func TestEventArgsAreSorted(t *testing.T) {
	t.Parallel()
	args := eventArgs([]definition.EventRecord{known("b", "y", 2), known("c", "z", 3), known("a", "x", 1)})
	if got := fmt.Sprint(args[0], args[3], args[7]); got != "[a b c] [[120] [121] [122]] [1 2 3]" {
		t.Errorf("ids, digests and matches %s", got)
	}
}

// TestAcceptEventsConcurrently: routers with the same events in different orders, and half of them with other payloads for
// the same ids. Each id names one event, and each row is made once, by a router that brought that event.
func TestAcceptEventsConcurrently(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	const workers, n = 8, 200
	d := create(t, s, onEvent("one", ""))
	var wg sync.WaitGroup
	var mu sync.Mutex
	started, reused := map[string]string{}, map[string]int{}
	for worker := range workers {
		wg.Go(func() {
			payload := fmt.Sprint(worker % 2)
			var events []definition.EventRecord
			var occurrences []definition.Occurrence
			for i := range n {
				id := fmt.Sprint(i)
				if worker >= workers/2 {
					id = fmt.Sprint(n - 1 - i)
				}
				events, occurrences = append(events, known(id, payload, 1)), append(occurrences, occurs(d, id))
			}
			starts, others, err := s.AcceptEvents(ctx, events, occurrences)
			if err != nil {
				t.Errorf("worker %d: %v", worker, err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, st := range starts {
				if by, twice := started[st.Key]; twice {
					t.Errorf("%s was started by %s and %s", st.Key, by, payload)
				}
				started[st.Key] = payload
			}
			for _, id := range others {
				reused[id]++
			}
		})
	}
	wg.Wait()
	if len(started) != n || len(reused) != n {
		t.Errorf("%d rows of %d events, want %d of %d", len(started), len(reused), n, n)
	}
	for id, times := range reused {
		if times != workers/2 {
			t.Errorf("event %s was told to be another one %d times, want %d", id, times, workers/2)
		}
	}
	for key, payload := range started {
		id, _ := definition.ParseEventKey(key)
		if got := texts(t, s, `SELECT convert_from(digest, 'UTF8') FROM events WHERE event_id = $1`, id); got != payload {
			t.Fatalf("the run of event %s is of payload %s, and payload %s is recorded", id, payload, got)
		}
	}
}

func TestRemoveUnmatched(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	_, _, err := s.AcceptEvents(ctx, []definition.EventRecord{known("old", "x", 0), known("new", "x", 0), known("met", "x", 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, s, `UPDATE events SET recorded_at = now() - interval '2 h' WHERE event_id <> 'new'`)
	for _, want := range []int{1, 0} {
		if got, err := s.RemoveUnmatched(ctx, time.Hour); err != nil || got != want {
			t.Errorf("removed %d, %v; want %d", got, err, want)
		}
	}
	if got := texts(t, s, `SELECT event_id FROM events ORDER BY event_id`); got != "met, new" {
		t.Errorf("left are %s", got)
	}
}

func TestSetUnmatchedRecording(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	set := func(on bool) *time.Time {
		t.Helper()
		if err := s.SetUnmatchedRecording(ctx, on); err != nil {
			t.Fatal(err)
		}
		h, err := s.GetEvent(ctx, "any")
		if err != nil {
			t.Fatal(err)
		}
		return h.UnmatchedSince
	}
	if since := set(false); since != nil {
		t.Errorf("off from the start: since %v", since)
	}
	first := set(true)
	if first == nil || first.Location() != time.UTC {
		t.Fatalf("on: since %v, want a time in UTC", first)
	}
	if again := set(true); again == nil || !again.Equal(*first) {
		t.Errorf("on again: since %v, want %v still", again, first)
	}
	if since := set(false); since != nil {
		t.Errorf("off: since %v", since)
	}
	if later := set(true); later == nil || !later.After(*first) {
		t.Errorf("on once more: since %v, want later than %v", later, first)
	}
}

func TestGetEvent(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	one, two := create(t, s, onEvent("one", "")), create(t, s, onEvent("two", ""))
	byHand := create(t, s, manual)
	accept(t, s, byHand.ID, definition.KindManual, 1) // a run and a dead letter of no event
	_, _, err := s.AcceptEvents(ctx, []definition.EventRecord{known("routed", "x", 2), known("unmatched", "x", 0)},
		[]definition.Occurrence{occurs(one, "routed"), occurs(two, "routed")})
	if err != nil {
		t.Fatal(err)
	}
	var letters []definition.DeadLetter
	for i, id := range []string{"routed", "dead", "dead", ""} {
		letters = append(letters, definition.DeadLetter{Stream: "S", StreamSeq: uint64(i + 1), PublishedAt: published, Subject: "p.a",
			EventID: id, Reason: definition.RejectBadTime, Data: []byte{}})
	}
	if err := s.AcceptDeadLetters(ctx, letters); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id       string
		recorded bool
		matches  int
		runs     int
		letters  string
	}{
		{"routed", true, 2, 2, "1"},
		{"unmatched", true, 0, 0, ""},
		{"dead", false, 0, 0, "3 2"},
		{"unknown", false, 0, 0, ""},
	} {
		h, err := s.GetEvent(ctx, c.id)
		if err != nil || h.ID != c.id || (h.Record != nil) != c.recorded || len(h.Runs) != c.runs || h.RunsTotal != c.runs || h.UnmatchedSince != nil {
			t.Errorf("%q: %+v, %v", c.id, h, err)
			continue
		}
		if want := known(c.id, "x", c.matches); c.recorded && fmt.Sprint(*h.Record) != fmt.Sprint(want) {
			t.Errorf("%q: record %v, want %v", c.id, *h.Record, want)
		}
		var seqs []string
		for _, l := range h.DeadLetters {
			seqs = append(seqs, fmt.Sprint(l.StreamSeq))
		}
		if got := strings.Join(seqs, " "); got != c.letters {
			t.Errorf("%q: dead letters %s, want %s", c.id, got, c.letters)
		}
		for i, name := range []string{"two", "one"}[:c.runs] { // newest first
			if h.Runs[i].DefinitionName != name || h.Runs[i].EventID != c.id {
				t.Errorf("%q: run %d is %+v", c.id, i, h.Runs[i])
			}
		}
	}
}

func TestEventDefinitions(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for name, eventType := range map[string]string{"exact": "user.created", "wild": "user.*", "rest": ">", "other": "user.deleted"} {
		create(t, s, strings.Replace(onEvent(name, ""), "user.created", eventType, 1))
	}
	create(t, s, onEvent("off", `, "enabled": false`))
	create(t, s, manual)
	gone := create(t, s, onEvent("gone", ""))
	if err := s.DeleteDefinition(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	list, err := s.EventDefinitions(t.Context(), "user.created")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list {
		got = append(got, fmt.Sprintf("%s %s %v", r.Name, r.EventType, r.Live))
	}
	slices.Sort(got)
	want := []string{"exact user.created true", "off user.created false", "rest > true", "wild user.* true"}
	if !slices.Equal(got, want) {
		t.Errorf("definitions %q, want %q", got, want)
	}
}

// TestSnapshotNamesTheServer: a router tells by the end of the snapshot that it speaks with another server, or after a failover.
func TestSnapshotNamesTheServer(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	server := texts(t, s, `SELECT system_identifier || '/' || lpad(to_hex(timeline_id), 8, '0')
		FROM pg_control_system(), pg_control_checkpoint()`)
	d := create(t, s, onEvent("one", ""))
	first, _, err := s.ChangedDefinitions(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	second, changed, err := s.ChangedDefinitions(ctx, first)
	if err != nil || len(changed) != 0 {
		t.Errorf("looked from %s: %v, %v; want no changes", first, changed, err)
	}
	for _, snapshot := range []string{first, second} {
		if transactions, got, ok := strings.Cut(snapshot, "@"); !ok || got != server || strings.Count(transactions, ":") != 2 {
			t.Errorf("snapshot %s, want the end @%s", snapshot, server)
		}
	}
	// What is the same server's is for the caller to judge; the transactions are read all the same.
	if _, changed, err = s.ChangedDefinitions(ctx, "1:1:@0/00000000"); err != nil || len(changed) != 1 || changed[0].ID != d.ID {
		t.Errorf("looked from another server's snapshot: %v, %v; want the definition", changed, err)
	}
}

// TestAttempts: they are counted by message, which is a stream, a sequence and a time.
func TestAttempts(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	m := func(stream string, seq uint64, at time.Time) definition.Delivery {
		return definition.Delivery{Stream: stream, StreamSeq: seq, PublishedAt: at}
	}
	a, other := m("S", 1, published.Add(7)), m("T", 1, published) // the database drops the nanoseconds
	again := m("S", 1, published.Add(time.Second))                // the stream was made again
	messages := []definition.Delivery{again, a, other}
	for want := 1; want <= 2; want++ {
		if n, err := s.AddAttempt(ctx, &a); err != nil || n != want {
			t.Errorf("attempt %d is counted as %d, %v", want, n, err)
		}
	}
	if n, err := s.AddAttempt(ctx, &other); err != nil || n != 1 {
		t.Errorf("the first attempt at another one is counted as %d, %v", n, err)
	}
	counts, err := s.CountAttempts(ctx, messages)
	if err != nil || fmt.Sprint(counts) != "[0 2 1]" {
		t.Errorf("attempts %v, %v; want [0 2 1]", counts, err)
	}
	if err := s.ForgetAttempts(ctx, []definition.Delivery{again, a}); err != nil {
		t.Fatal(err)
	}
	if counts, err = s.CountAttempts(ctx, messages); err != nil || fmt.Sprint(counts) != "[0 0 1]" {
		t.Errorf("attempts %v, %v; want [0 0 1]", counts, err)
	}
}
