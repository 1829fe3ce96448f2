package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

func as(ctx context.Context, caller string) context.Context {
	return access.With(ctx, access.Caller{ID: caller, Name: caller, Role: access.Admin})
}

func sum(text string) []byte {
	s := sha256.Sum256([]byte(text))
	return s[:]
}

func claimKey(ctx context.Context, t *testing.T, s *Store, key, request string) definition.KeyClaim {
	t.Helper()
	c, err := s.ClaimKey(ctx, key, sum(request))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lapse lets the time of all claims pass.
const lapse = `UPDATE idempotency_keys SET claimed_until = now() - interval '1 ms'`

func TestKeyLife(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := as(t.Context(), "a")
	first := claimKey(ctx, t, s, "k", "one")
	if first.ID == "" || first.Made != "" || first.Answer != nil || first.Reused {
		t.Fatalf("the first claim: %+v", first)
	}
	if c := claimKey(ctx, t, s, "k", "one"); c.ID != "" || c.Wait <= 11*time.Second || c.Wait > definition.KeyClaimAge {
		t.Errorf("while the first is at it: %+v", c)
	}
	if c := claimKey(ctx, t, s, "k", "two"); !c.Reused || c.ID != "" {
		t.Errorf("with another request: %+v", c)
	}
	if c := claimKey(as(ctx, "b"), t, s, "k", "two"); c.ID == "" {
		t.Errorf("of another caller: %+v", c)
	}
	// The first one takes too long.
	sql(t, s, lapse)
	if c := claimKey(ctx, t, s, "k", "two"); !c.Reused {
		t.Errorf("another request, when the time has passed: %+v", c)
	}
	second := claimKey(ctx, t, s, "k", "one")
	if second.ID == "" || second.ID == first.ID {
		t.Fatalf("the second claim: %+v after %+v", second, first)
	}
	answer := definition.Answer{Status: 201, Header: map[string]string{"Location": "/x"}, Body: []byte("\x00\xff body")}
	if err := s.FinishKey(ctx, access.Claim{Key: "k", ID: first.ID}, answer); !errors.Is(err, definition.ErrClaimLost) {
		t.Errorf("the first one finishes: %v, want ErrClaimLost", err)
	}
	if err := s.FinishKey(ctx, access.Claim{Key: "k", ID: second.ID}, answer); err != nil {
		t.Fatal(err)
	}
	sql(t, s, lapse)
	c := claimKey(ctx, t, s, "k", "one")
	if c.Answer == nil || c.Answer.Status != 201 || c.Answer.Header["Location"] != "/x" || string(c.Answer.Body) != "\x00\xff body" {
		t.Errorf("the kept answer: %+v", c.Answer)
	}
	if c := claimKey(ctx, t, s, "k", "two"); !c.Reused {
		t.Errorf("with another request, when there is an answer: %+v", c)
	}
	// A day later the key is as good as new, also for another request, and retention removes it.
	sql(t, s, `UPDATE idempotency_keys SET resource_id = 'x', expires_at = expires_at - interval '24 hours'`)
	if c := claimKey(ctx, t, s, "k", "two"); c.ID == "" || c.Made != "" {
		t.Errorf("after a day: %+v", c)
	}
	if c := claimKey(ctx, t, s, "k", "two"); c.Wait == 0 {
		t.Errorf("after a day, while one is at it: %+v", c)
	}
	if rows, _ := removeAll(t, s, definition.TableKeys, day); rows != 1 {
		t.Errorf("%d rows were removed, want the one of the other caller", rows)
	}
	if n := count(t, s, `SELECT count(*) FROM idempotency_keys WHERE created_at > now() - interval '1 minute'
		AND expires_at > now() + interval '23 hours'`); n != 1 {
		t.Errorf("%d keys are left that mean something for a day, want 1", n)
	}
}

// A key that is let go is free for another request, unless something was made.
func TestReleasedKey(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := as(t.Context(), "a")
	c := claimKey(ctx, t, s, "k", "one")
	if err := s.ReleaseKey(ctx, access.Claim{Key: "k", ID: definition.NewID()}); err != nil {
		t.Fatal(err)
	}
	if again := claimKey(ctx, t, s, "k", "one"); again.ID != "" {
		t.Error("a key was let go by a claim that is not its own")
	}
	if err := s.ReleaseKey(ctx, access.Claim{Key: "k", ID: c.ID}); err != nil {
		t.Fatal(err)
	}
	c = claimKey(ctx, t, s, "k", "two")
	if c.ID == "" {
		t.Fatalf("after it was let go: %+v", c)
	}

	// A transaction of the request is being committed when the request gives up: what it makes stays known.
	claim := access.Claim{Key: "k", ID: c.ID}
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := rememberMade(access.WithClaim(ctx, claim), tx, "made"); err != nil {
		t.Fatal(err)
	}
	released := make(chan error, 1)
	go func() { released <- s.ReleaseKey(ctx, claim) }()
	testenv.Eventually(t, 10*time.Second, "the release waits for the transaction", func(ctx context.Context) (bool, error) {
		var n int
		err := s.pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n)
		return n == 1, err
	})
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-released; err != nil {
		t.Fatal(err)
	}
	if c := claimKey(ctx, t, s, "k", "one"); !c.Reused {
		t.Errorf("another request, after something was made: %+v", c)
	}
	if c := claimKey(ctx, t, s, "k", "two"); c.ID == "" || c.Made != "made" {
		t.Errorf("the same request, after something was made: %+v, want it to know at once", c)
	}
}

// Many at once: one claims.
func TestClaimsAtOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := as(t.Context(), "a")
	for _, state := range []string{"new", "lapsed", "expired"} {
		var mu sync.Mutex
		var wait sync.WaitGroup
		claimed := 0
		for range 20 {
			wait.Go(func() {
				c, err := s.ClaimKey(ctx, "k", sum("one"))
				mu.Lock()
				defer mu.Unlock()
				if err != nil || (c.ID == "") != (c.Wait > 0) {
					t.Errorf("%s: %+v, %v", state, c, err)
				}
				if c.ID != "" {
					claimed++
				}
			})
		}
		wait.Wait()
		if claimed != 1 {
			t.Errorf("%s: %d claimed the key", state, claimed)
		}
		if state == "new" {
			sql(t, s, lapse)
		} else {
			sql(t, s, `UPDATE idempotency_keys SET expires_at = now()`)
		}
	}
}

// Every operation that makes or changes one thing notes that under its claim, and does nothing when another request has taken over.
func TestFencing(t *testing.T) {
	t.Parallel()
	past := time.Now().Add(-time.Hour)
	for _, test := range []struct {
		name string
		// prepare returns the id that the operation is about.
		prepare func(t *testing.T, s *Store) string
		do      func(ctx context.Context, s *Store, id string) (made string, err error)
		// trace counts what the operation leaves behind.
		trace string
	}{
		{"create a definition", nil, func(ctx context.Context, s *Store, _ string) (string, error) {
			d, err := s.CreateDefinition(ctx, parse(t, manual))
			return d.ID, err
		}, `SELECT count(*) FROM definitions`},
		{"update a definition", definitionOf(manual), func(ctx context.Context, s *Store, id string) (string, error) {
			d, err := s.UpdateDefinition(ctx, id, definition.Change{}, func(d definition.Document) (definition.Document, error) { return d.Pause("") })
			return d.ID, err
		}, `SELECT count(*) FROM definitions WHERE revision = 2`},
		{"delete a definition", definitionOf(manual), func(ctx context.Context, s *Store, id string) (string, error) {
			return id, s.DeleteDefinition(ctx, id)
		}, `SELECT count(*) FROM definitions WHERE deleted_at IS NOT NULL`},
		{"trigger", definitionOf(manual), func(ctx context.Context, s *Store, id string) (string, error) {
			starts, err := s.AcceptRuns(ctx, []definition.Occurrence{{DefinitionID: id, Kind: definition.KindManual, Key: definition.ManualKey()}})
			if len(starts) == 0 {
				return "", err
			}
			return starts[0].RunID, err
		}, `SELECT count(*) FROM runs`},
		{"rerun", endedRun, func(ctx context.Context, s *Store, id string) (string, error) {
			start, err := s.RerunRun(ctx, id, definition.RerunStart)
			return start.RunID, err
		}, `SELECT count(*) FROM runs WHERE rerun_of IS NOT NULL`},
		{"cancel a run that waits", waitingRun, func(ctx context.Context, s *Store, id string) (string, error) {
			_, err := s.StopRun(ctx, id, definition.StopRequest{How: definition.StopCancel})
			return id, err
		}, `SELECT count(*) FROM runs WHERE status = 'canceled'`},
		{"terminate a run", runningRun, func(ctx context.Context, s *Store, id string) (string, error) {
			_, err := s.StopRun(ctx, id, definition.StopRequest{How: definition.StopTerminate})
			return id, err
		}, `SELECT count(*) FROM runs WHERE stop_requested <> ''`},
		{"approve a task", approvableRun, func(ctx context.Context, s *Store, id string) (string, error) {
			_, _, err := s.DecideTask(ctx, definition.Decision{RunID: id, Task: "one", Approved: true})
			return id, err
		}, `SELECT count(*) FROM task_results WHERE status = 'succeeded'`},
		{"backfill", definitionOf(everyMinute), func(ctx context.Context, s *Store, id string) (string, error) {
			b, err := s.CreateBackfill(ctx, definition.BackfillRequest{DefinitionID: id, From: past, To: past, MaxConcurrent: 1}, false)
			return b.ID, err
		}, `SELECT count(*) FROM backfills`},
		{"replay", definitionOf(event), func(ctx context.Context, s *Store, id string) (string, error) {
			r, err := s.CreateReplay(ctx, definition.ReplayRequest{DefinitionIDs: []string{id}, From: past, To: past})
			return r.ID, err
		}, `SELECT count(*) FROM replays`},
		{"retry a dead letter", openLetter, func(ctx context.Context, s *Store, id string) (string, error) {
			_, err := s.RetryDeadLetters(ctx, definition.SelectDeadLetters{ID: id}, false)
			return id, err
		}, `SELECT count(*) FROM dead_letters WHERE status = 'retrying'`},
		{"discard a dead letter", openLetter, func(ctx context.Context, s *Store, id string) (string, error) {
			_, err := s.DiscardDeadLetters(ctx, definition.SelectDeadLetters{ID: id}, false)
			return id, err
		}, `SELECT count(*) FROM dead_letters WHERE status = 'discarded'`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := ""
			if test.prepare != nil {
				id = test.prepare(t, s)
			}
			ctx := as(t.Context(), "a")
			under := func(c definition.KeyClaim) context.Context {
				return access.WithClaim(ctx, access.Claim{Key: "k", ID: c.ID, Made: c.Made})
			}
			asleep := claimKey(ctx, t, s, "k", "one")
			sql(t, s, lapse)
			awake := claimKey(ctx, t, s, "k", "one")
			if _, err := test.do(under(asleep), s, id); !errors.Is(err, definition.ErrClaimLost) {
				t.Errorf("the one that has slept: %v, want ErrClaimLost", err)
			}
			if n := count(t, s, test.trace); n != 0 {
				t.Fatal("the one that has slept did its work")
			}
			made, err := test.do(under(awake), s, id)
			if err != nil || made == "" {
				t.Fatalf("the one that took over: %q, %v", made, err)
			}
			if n := count(t, s, test.trace); n != 1 {
				t.Errorf("%d are done, want 1", n)
			}
			sql(t, s, lapse)
			if next := claimKey(ctx, t, s, "k", "one"); next.Made != made {
				t.Errorf("the next one knows of %q, want %q", next.Made, made)
			}
		})
	}
}

func definitionOf(text string) func(t *testing.T, s *Store) string {
	return func(t *testing.T, s *Store) string { return create(t, s, text).ID }
}

// run makes a run by hand, and changes its row.
func run(t *testing.T, s *Store, document, set string) string {
	t.Helper()
	starts, err := s.AcceptRuns(t.Context(), []definition.Occurrence{
		{DefinitionID: create(t, s, document).ID, Kind: definition.KindManual, Key: definition.ManualKey()}})
	if err != nil {
		t.Fatal(err)
	}
	sql(t, s, `UPDATE runs SET `+set)
	return starts[0].RunID
}

func endedRun(t *testing.T, s *Store) string {
	return run(t, s, manual, `status = 'failed', finished_at = now()`)
}

func waitingRun(t *testing.T, s *Store) string { return run(t, s, manual, `status = 'accepted'`) }

func runningRun(t *testing.T, s *Store) string {
	return run(t, s, manual, `status = 'running', started_at = now()`)
}

func approvableRun(t *testing.T, s *Store) string {
	id := run(t, s, `{"name": "wait", "trigger_config": {"trigger_type": "manual"}, "tasks": [{"name": "one", "type": "wait",
		"with": {"approval": {"message": "ship it?"}}}]}`, `status = 'running', started_at = now()`)
	sql(t, s, `INSERT INTO task_results (run_id, index, name, type, status, started_at) VALUES ($1, 0, 'one', 'wait', 'running', now())`, id)
	return id
}

func openLetter(t *testing.T, s *Store) string {
	err := s.AcceptDeadLetters(t.Context(), []definition.DeadLetter{{Stream: "S", StreamSeq: 1, Subject: "a", Reason: definition.RejectNotJSON,
		PublishedAt: time.Now()}})
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.ListDeadLetters(t.Context(), definition.ListDeadLetters{Limit: 1})
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	return list[0].ID
}

// What is done to many is no thing that a key makes.
func TestBulkRemembersNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := endedRun(t, s)
	ctx := as(t.Context(), "a")
	c := claimKey(ctx, t, s, "k", "one")
	under := access.WithClaim(ctx, access.Claim{Key: "k", ID: c.ID})
	if starts, _, err := s.RerunRuns(under, definition.ListRuns{EventID: "", Statuses: nil}, definition.RerunStart, 10, false); err != nil ||
		len(starts) != 1 {
		t.Fatalf("rerun %s: %v, %v", id, starts, err)
	}
	if _, n, err := s.StopRuns(under, definition.ListRuns{}, definition.StopRequest{How: definition.StopCancel}, 10, false); err != nil || n != 1 {
		t.Fatalf("canceled %d, %v", n, err)
	}
	openLetter(t, s)
	if n, err := s.RetryDeadLetters(under, definition.SelectDeadLetters{Reason: definition.RejectNotJSON}, false); err != nil || n != 1 {
		t.Fatalf("retried %d, %v", n, err)
	}
	if n := count(t, s, `SELECT count(*) FROM idempotency_keys WHERE resource_id IS NOT NULL`); n != 0 {
		t.Error("something of many counts as made by the key")
	}
}

// Of writers that want the same revision exactly one writes.
func TestMatchOneWriter(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, manual)
	const rounds, writers = 5, 8
	for revision := 1; revision <= rounds; revision++ {
		var mu sync.Mutex
		var wait sync.WaitGroup
		won := 0
		for i := range writers {
			wait.Go(func() {
				_, err := s.UpdateDefinition(ctx, d.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
					d.Description = fmt.Sprintf("%d by %d", revision, i)
					return d, nil
				}, definition.Match{revision, 1000})
				var other *definition.RevisionError
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case !errors.As(err, &other) || other.Now != revision+1:
					t.Errorf("a writer of revision %d: %v", revision, err)
				}
			})
		}
		wait.Wait()
		if won != 1 {
			t.Fatalf("%d writers of revision %d won", won, revision)
		}
	}
	var other *definition.RevisionError
	if err := s.DeleteDefinition(ctx, d.ID, definition.Match{1}); !errors.As(err, &other) || other.Now != rounds+1 {
		t.Errorf("delete another revision: %v", err)
	}
	if err := s.DeleteDefinition(ctx, d.ID, definition.Match{}); !errors.As(err, &other) {
		t.Errorf("delete no revision at all: %v", err)
	}
	if err := s.DeleteDefinition(ctx, d.ID, definition.Match{rounds + 1}); err != nil {
		t.Errorf("delete the revision in force: %v", err)
	}
	if err := s.DeleteDefinition(ctx, d.ID, definition.Match{1}); !errors.Is(err, definition.ErrNotFound) {
		t.Errorf("delete what is gone: %v, want ErrNotFound", err)
	}
}
