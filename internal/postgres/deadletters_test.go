package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

func letter(seq int, eventID, reason string) definition.DeadLetter {
	return definition.DeadLetter{Stream: "S", StreamSeq: uint64(seq), PublishedAt: published, Subject: "p.a", EventID: eventID, Reason: reason,
		Detail: "why", Data: []byte{byte(seq)}, DataSize: 1, Deliveries: 1}
}

// storeLetters commits letters and returns their ids in the order of their sequences.
func storeLetters(t *testing.T, s *Store, letters ...definition.DeadLetter) []string {
	t.Helper()
	if err := s.AcceptDeadLetters(t.Context(), letters); err != nil {
		t.Fatal(err)
	}
	return strings.Split(texts(t, s, `SELECT id::text FROM dead_letters ORDER BY stream_seq`), ", ")
}

// letterStates describes all dead letters in the order of their sequences.
func letterStates(t *testing.T, s *Store) string {
	t.Helper()
	return texts(t, s, `
		SELECT concat_ws(' ', stream_seq, status, reason, retries, CASE WHEN settled_at IS NOT NULL THEN 'settled' END, NULLIF(runs, 0))
		FROM dead_letters ORDER BY stream_seq`)
}

func claimed(t *testing.T, s *Store, limit int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // it waits for nobody
	defer cancel()
	list, err := s.ClaimDeadLetters(ctx, limit)
	if err != nil {
		t.Fatal(err)
	}
	var seqs []string
	for _, l := range list {
		if l.Status != definition.DeadLetterRetrying || len(l.Data) != 1 || l.Data[0] != byte(l.StreamSeq) {
			t.Errorf("claimed %+v, want it with its data", l)
		}
		seqs = append(seqs, fmt.Sprint(l.StreamSeq))
	}
	slices.Sort(seqs)
	return strings.Join(seqs, " ")
}

// claimedSingly claims some times, and returns what each claim brought.
func claimedSingly(t *testing.T, s *Store, times int) string {
	t.Helper()
	var got []string
	for range times {
		got = append(got, claimed(t, s, 10))
	}
	return strings.Join(got, " ")
}

// letterLeasesEnd lets the time pass that routers have for what they claimed.
func letterLeasesEnd(t *testing.T, s *Store) {
	t.Helper()
	execute(t, s, `UPDATE dead_letters SET lease_until = now() - interval '1 ms' WHERE lease_until IS NOT NULL`)
}

func TestDeadLetterHeader(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	most := definition.MaxDeadLetterHeader
	wide := func(n int) string { return strings.Repeat("v", n) }
	for i, c := range []struct{ header, want map[string][]string }{
		{nil, map[string][]string{}},
		{map[string][]string{"a": {"1", "2"}, "B": {""}}, map[string][]string{"a": {"1", "2"}, "B": {""}}},
		{map[string][]string{"a": {"x\x00y"}, "b\x00": {"<&>"}}, map[string][]string{"a": {"x\x00y"}, "b\x00": {"<&>"}}},
		{map[string][]string{"a": {"\xff"}}, map[string][]string{"a": {"\uFFFD"}}},
		{map[string][]string{"a": {wide(most - 1)}}, map[string][]string{"a": {wide(most - 1)}}},
		{map[string][]string{"a": {wide(most)}}, map[string][]string{}},
		// The names count for each value, and what follows the first that is too much is left out, in the order of names.
		{map[string][]string{"c": {"1"}, "b": {"2", wide(most - 5), "3"}, "a": {"4"}},
			map[string][]string{"a": {"4"}, "b": {"2", wide(most - 5)}}},
		{map[string][]string{"c": {"1"}, "b": {"2", wide(most - 4), "3"}, "a": {"4"}}, map[string][]string{"a": {"4"}, "b": {"2"}}},
	} {
		l := letter(i+1, "", definition.RejectNotJSON)
		l.Header = c.header
		ids := storeLetters(t, s, l)
		got, err := s.GetDeadLetter(ctx, ids[i])
		if err != nil || fmt.Sprint(got.Header) != fmt.Sprint(c.want) {
			t.Errorf("header %d: kept %.200v, %v; want %.200v", i, got.Header, err, c.want)
		}
	}
}

func TestGetDeadLetter(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	l := letter(7, "e", definition.RejectBadTime)
	l.DataSize, l.Deliveries = 99, 3
	id := storeLetters(t, s, l)[0]
	got, err := s.GetDeadLetter(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if got.CreatedAt.IsZero() || got.CreatedAt.Location() != time.UTC {
		t.Errorf("created at %v", got.CreatedAt)
	}
	l.Header = map[string][]string{}
	want := definition.StoredDeadLetter{DeadLetter: l, ID: id, Seq: 1, Status: definition.DeadLetterOpen, CreatedAt: got.CreatedAt}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if _, err := s.GetDeadLetter(ctx, definition.NewID()); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("an unknown one: %v, want ErrNotFound", err)
	}
}

func TestListDeadLetters(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	ids := storeLetters(t, s, letter(1, "a", definition.RejectBadTime), letter(2, "a", definition.RejectBadType),
		letter(3, "", definition.RejectBadType),
		letter(4, "b", definition.RejectBadTime), letter(5, "c", definition.RejectBadTime))
	execute(t, s, `UPDATE dead_letters SET created_at = $1::timestamptz + stream_seq * interval '1 min'`, published)
	if _, err := s.DiscardDeadLetters(ctx, definition.SelectDeadLetters{ID: ids[4]}, false); err != nil {
		t.Fatal(err)
	}
	only := func(which definition.SelectDeadLetters) definition.ListDeadLetters {
		return definition.ListDeadLetters{SelectDeadLetters: which}
	}
	minute := func(n time.Duration) time.Time { return published.Add(n * time.Minute) }
	for name, c := range map[string]struct {
		q    definition.ListDeadLetters
		want string
	}{
		"all":         {definition.ListDeadLetters{}, "5 4 3 2 1"},
		"first page":  {definition.ListDeadLetters{Limit: 2}, "5 4"},
		"second page": {definition.ListDeadLetters{Limit: 2, BeforeSeq: 4}, "3 2"},
		"last page":   {definition.ListDeadLetters{Limit: 2, BeforeSeq: 2}, "1"},
		"id":          {only(definition.SelectDeadLetters{ID: ids[1]}), "2"},
		"reason":      {only(definition.SelectDeadLetters{Reason: definition.RejectBadType}), "3 2"},
		"event":       {only(definition.SelectDeadLetters{EventID: "a"}), "2 1"},
		"status":      {only(definition.SelectDeadLetters{Status: definition.DeadLetterDiscarded}), "5"},
		"from":        {only(definition.SelectDeadLetters{From: minute(3)}), "5 4 3"},
		"to":          {only(definition.SelectDeadLetters{To: minute(3)}), "2 1"},
		"several and one": {only(definition.SelectDeadLetters{EventID: "a", Reason: definition.RejectBadTime,
			From: minute(1), To: minute(4)}), "1"},
		"none": {only(definition.SelectDeadLetters{EventID: "d"}), ""},
	} {
		if c.q.Limit == 0 {
			c.q.Limit = 10
		}
		list, err := s.ListDeadLetters(ctx, c.q)
		if err != nil {
			t.Fatal(err)
		}
		var seqs []string
		for _, l := range list {
			if l.Data != nil {
				t.Errorf("%s: letter %d comes with its data", name, l.StreamSeq)
			}
			seqs = append(seqs, fmt.Sprint(l.StreamSeq))
		}
		if got := strings.Join(seqs, " "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestMoveDeadLetters: only open ones are retried or discarded, singly and in bulk, and a dry run changes nothing.
func TestMoveDeadLetters(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	retry, discard := s.RetryDeadLetters, s.DiscardDeadLetters
	var letters []definition.DeadLetter
	for i := range 6 {
		letters = append(letters, letter(i+1, "", []string{definition.RejectBadTime, definition.RejectBadType}[i%2]))
	}
	ids := storeLetters(t, s, letters...)
	bulk := definition.SelectDeadLetters{Reason: definition.RejectBadType, Status: definition.DeadLetterDiscarded} // the status is not the caller's
	const before = "1 open bad_time 0, 2 open bad_type 0, 3 open bad_time 0, 4 open bad_type 0, 5 open bad_time 0, 6 open bad_type 0"
	for _, dry := range []bool{true, false} {
		if dry {
			for name, move := range map[string]func() (int, error){
				"retry":   func() (int, error) { return retry(ctx, bulk, dry) },
				"discard": func() (int, error) { return discard(ctx, bulk, dry) },
			} {
				if n, err := move(); err != nil || n != 3 {
					t.Errorf("dry %s: %d, %v; want 3", name, n, err)
				}
			}
			if got := letterStates(t, s); got != before {
				t.Errorf("after dry runs: %s", got)
			}
			continue
		}
		for i, c := range []struct {
			move func() (int, error)
			want int
		}{
			{func() (int, error) { return retry(ctx, definition.SelectDeadLetters{ID: ids[0]}, false) }, 1},
			{func() (int, error) { return retry(ctx, definition.SelectDeadLetters{ID: ids[0]}, false) }, 0},   // retrying
			{func() (int, error) { return discard(ctx, definition.SelectDeadLetters{ID: ids[0]}, false) }, 0}, // retrying
			{func() (int, error) { return discard(ctx, definition.SelectDeadLetters{ID: ids[1]}, false) }, 1},
			{func() (int, error) { return discard(ctx, definition.SelectDeadLetters{ID: ids[1]}, false) }, 0}, // discarded
			{func() (int, error) { return retry(ctx, definition.SelectDeadLetters{ID: ids[1]}, false) }, 0},   // discarded
			{func() (int, error) { return retry(ctx, bulk, false) }, 2},
			{func() (int, error) { return discard(ctx, definition.SelectDeadLetters{ID: definition.NewID()}, false) }, 0},
			{func() (int, error) {
				return discard(ctx, definition.SelectDeadLetters{Reason: definition.RejectBadTime}, false)
			}, 2},
		} {
			if n, err := c.move(); err != nil || n != c.want {
				t.Errorf("step %d: %d, %v; want %d", i, n, err, c.want)
			}
		}
	}
	const after = "1 retrying bad_time 0, 2 discarded bad_type 0 settled, 3 discarded bad_time 0 settled, 4 retrying bad_type 0, " +
		"5 discarded bad_time 0 settled, 6 retrying bad_type 0"
	if got := letterStates(t, s); got != after {
		t.Errorf("after all: %s\nwant %s", got, after)
	}
	// One that was routed stays so.
	if err := s.DeadLettersRouted(ctx, ids[:1], []int{0}); err != nil {
		t.Fatal(err)
	}
	for name, move := range map[string]func() (int, error){
		"retry":   func() (int, error) { return retry(ctx, definition.SelectDeadLetters{ID: ids[0]}, false) },
		"discard": func() (int, error) { return discard(ctx, definition.SelectDeadLetters{ID: ids[0]}, false) },
	} {
		if n, err := move(); err != nil || n != 0 {
			t.Errorf("%s of a routed one: %d, %v; want 0", name, n, err)
		}
	}
}

// TestClaimDeadLetters: routers share what is to be retried; what one did not end is another's after a while, one by one; and what
// is never ended is given up.
func TestClaimDeadLetters(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	asked := func() string {
		t.Helper()
		letters, replays, err := s.RoutingAsked(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(letters, replays)
	}
	ids := storeLetters(t, s, letter(1, "", "bad_time"), letter(2, "", "bad_time"), letter(3, "", "bad_time"), letter(4, "", "bad_time"))
	if got := claimed(t, s, 10) + asked(); got != "false false" {
		t.Errorf("before anybody asked: %s", got)
	}
	if _, err := s.RetryDeadLetters(ctx, definition.SelectDeadLetters{}, false); err != nil {
		t.Fatal(err)
	}
	if got := asked(); got != "true false" {
		t.Errorf("asked %s, want true false", got)
	}
	// One whose row is being written is another router's, or somebody's who discards it.
	busy, err := s.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Rollback(ctx) }()
	if _, err := busy.Exec(ctx, `SELECT FROM dead_letters WHERE id = $1 FOR UPDATE`, ids[0]); err != nil {
		t.Fatal(err)
	}
	first := claimed(t, s, 2)
	if err := busy.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if second, third := claimed(t, s, 2), claimed(t, s, 2); first != "2 3" || second != "1 4" || third != "" {
		t.Errorf("claimed %q, %q and %q, want 2 3, 1 4 and none", first, second, third)
	}
	if got := asked(); got != "false false" {
		t.Errorf("all claimed: asked %s, want false false", got)
	}
	// The second claim, of each alone, ends well for one, and badly for another.
	letterLeasesEnd(t, s)
	if got := asked() + " " + claimedSingly(t, s, 4); got != "true false 1 2 3 4" {
		t.Errorf("after the leases: %s, want true false 1 2 3 4", got)
	}
	if err := s.DeadLettersRouted(ctx, ids[:1], []int{2}); err != nil {
		t.Fatal(err)
	}
	storeLetters(t, s, letter(2, "now legal", "bad_field"))
	letterLeasesEnd(t, s)
	storeLetters(t, s, letter(5, "", "bad_time"))
	if _, err := s.RetryDeadLetters(ctx, definition.SelectDeadLetters{Reason: "bad_time"}, false); err != nil {
		t.Fatal(err)
	}
	if got := claimedSingly(t, s, 3); got != "5 3 4" {
		t.Errorf("third claim: %s, want 5 for the first time, 3, 4", got)
	}
	if err := s.DeadLettersRouted(ctx, storeLetters(t, s)[4:], []int{0}); err != nil {
		t.Fatal(err)
	}
	const third = "1 routed bad_time 0 settled 2, 2 open bad_field 1, 3 retrying bad_time 0, 4 retrying bad_time 0, 5 routed bad_time 0 settled"
	if got := claimed(t, s, 10) + letterStates(t, s); got != third {
		t.Errorf("during the third: %s", got)
	}
	letterLeasesEnd(t, s)
	if got := claimed(t, s, 10) + asked(); got != "false false" {
		t.Errorf("after three: %s, want nothing left", got)
	}
	if got := letterStates(t, s); got != "1 routed bad_time 0 settled 2, 2 open bad_field 1, 3 open crash_loop 1, 4 open crash_loop 1, "+
		"5 routed bad_time 0 settled" {
		t.Errorf("after three: %s", got)
	}
	// Somebody who asks again gives it three more.
	if _, err := s.RetryDeadLetters(ctx, definition.SelectDeadLetters{ID: ids[2]}, false); err != nil {
		t.Fatal(err)
	}
	if got := claimed(t, s, 10); got != "3" {
		t.Errorf("asked again: claimed %s, want 3", got)
	}
}

// TestDeadAgain: what comes again changes a letter only while a router was asked about it.
func TestDeadAgain(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	ids := storeLetters(t, s, letter(1, "a", "bad_time"), letter(2, "a", "bad_time"), letter(3, "a", "bad_time"), letter(4, "a", "bad_time"))
	for _, id := range ids[1:3] {
		if _, err := s.RetryDeadLetters(ctx, definition.SelectDeadLetters{ID: id}, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.DiscardDeadLetters(ctx, definition.SelectDeadLetters{ID: ids[3]}, false); err != nil {
		t.Fatal(err)
	}
	if err := s.DeadLettersRouted(ctx, []string{ids[0], ids[2], ids[3]}, []int{1, 3, 4}); err != nil {
		t.Fatal(err)
	}
	if got := letterStates(t, s); got != "1 open bad_time 0, 2 retrying bad_time 0, 3 routed bad_time 0 settled 3, 4 discarded bad_time 0 settled" {
		t.Errorf("routed: %s", got)
	}
	claimed(t, s, 10)
	for i := range 4 {
		again := letter(i+1, "b", "bad_field")
		again.Detail, again.Deliveries = "another why", 9
		storeLetters(t, s, again)
	}
	if got := letterStates(t, s); got != "1 open bad_time 0, 2 open bad_field 1, 3 routed bad_time 0 settled 3, 4 discarded bad_time 0 settled" {
		t.Errorf("dead again: %s", got)
	}
	l, err := s.GetDeadLetter(ctx, ids[1])
	if err != nil || l.EventID != "b" || l.Detail != "another why" || l.Deliveries != 1 || l.SettledAt != nil {
		t.Errorf("dead again: %+v, %v", l, err)
	}
}
