package postgres

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// through returns a store behind a wire that breaks at some message.
func through(t *testing.T, database string, at func([]byte) bool) (*Store, *testenv.Wire) {
	t.Helper()
	w, address := testenv.NewWire(t, database, at)
	return New(testenv.OpenPool(t, address+"&pool_max_conns=2")), w
}

// isExecute: the statement is known to the server, and is to be carried out.
func isExecute(data []byte) bool { return len(data) > 0 && data[0] == 'B' }

// The connection breaks at a commit. The caller hears that nobody knows what became of it, and asking again under the same key makes
// one in all.
func TestCommitOfWhichNobodyKnows(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		how  testenv.Break
		rows int
	}{{"lost on the way there", testenv.LostRequest, 0}, {"lost on the way back", testenv.LostAnswer, 1}, {"no answer", testenv.NoAnswer, 1}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			database := testenv.DatabaseURL(t)
			direct := New(testenv.OpenPool(t, database))
			s, w := through(t, database, testenv.IsCommit)
			ctx := as(t.Context(), "a")
			first := claimKey(ctx, t, s, "k", "one")
			claim := access.Claim{Key: "k", ID: first.ID}

			w.Break(test.how)
			hasty, cancel := context.WithTimeout(access.WithClaim(ctx, claim), 5*time.Second)
			defer cancel()
			_, err := s.CreateDefinition(hasty, parse(t, manual))
			if !errors.Is(err, definition.ErrOutcomeUnknown) || !errors.Is(err, definition.ErrUnavailable) {
				t.Fatalf("%v, want ErrOutcomeUnknown and ErrUnavailable", err)
			}
			if err := s.ReleaseKey(ctx, claim); err != nil {
				t.Fatal(err)
			}
			if n := count(t, direct, `SELECT count(*) FROM definitions`); n != test.rows {
				t.Errorf("%d definitions, want %d", n, test.rows)
			}
			second := claimKey(ctx, t, s, "k", "one")
			if second.ID == "" || (second.Made != "") != (test.rows == 1) {
				t.Fatalf("the second claim: %+v", second)
			}
			if second.Made == "" {
				again, err := s.CreateDefinition(access.WithClaim(ctx, access.Claim{Key: "k", ID: second.ID}), parse(t, manual))
				if err != nil {
					t.Fatal(err)
				}
				second.Made = again.ID
			}
			if _, err := direct.GetDefinition(ctx, second.Made); err != nil {
				t.Error(err)
			}
			if n := count(t, direct, `SELECT count(*) FROM definitions`); n != 1 {
				t.Errorf("%d definitions in the end, want 1", n)
			}
		})
	}
}

// The connection breaks at a statement that commits by itself.
func TestStatementOfWhichNobodyKnows(t *testing.T) {
	t.Parallel()
	for how, rows := range map[testenv.Break]int{testenv.LostRequest: 1, testenv.LostAnswer: 2} {
		database := testenv.DatabaseURL(t)
		direct := New(testenv.OpenPool(t, database))
		s, w := through(t, database, isExecute)
		d := create(t, direct, manual)
		accept := func() error {
			_, err := s.AcceptRuns(t.Context(), []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual, Key: definition.ManualKey()}})
			return err
		}
		if err := accept(); err != nil { // makes the statement known
			t.Fatal(err)
		}
		w.Break(how)
		if err := accept(); !errors.Is(err, definition.ErrOutcomeUnknown) || !errors.Is(err, definition.ErrUnavailable) {
			t.Errorf("%d: %v, want ErrOutcomeUnknown and ErrUnavailable", how, err)
		}
		if n := count(t, direct, `SELECT count(*) FROM runs`); n != rows {
			t.Errorf("%d: %d runs, want %d", how, n, rows)
		}
	}
}

// What is known not to have happened is not called unknown.
func TestOutcomesThatAreKnown(t *testing.T) {
	t.Parallel()
	database := testenv.DatabaseURL(t)
	direct := New(testenv.OpenPool(t, database))
	isInsert := func(data []byte) bool { return bytes.Contains(data, []byte("INSERT INTO definitions")) }
	s, w := through(t, database, isInsert)
	w.Break(testenv.LostAnswer)
	_, err := s.CreateDefinition(t.Context(), parse(t, manual))
	if !errors.Is(err, definition.ErrUnavailable) || errors.Is(err, definition.ErrOutcomeUnknown) {
		t.Errorf("broken before the commit: %v", err)
	}
	// A constraint that is checked by the commit.
	sql(t, direct, `CREATE TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)`)
	err = direct.tx(t.Context(), "test", func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO deferred VALUES (1), (1)`)
		return err
	})
	if !errors.Is(err, definition.ErrNotStorable) || errors.Is(err, definition.ErrOutcomeUnknown) {
		t.Errorf("refused by the commit: %v", err)
	}
	// A context that ends before the commit is sent.
	ctx, cancel := context.WithCancel(t.Context())
	err = direct.tx(ctx, "test", func(pgx.Tx) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, definition.ErrOutcomeUnknown) {
		t.Errorf("canceled before the commit: %v", err)
	}
	// A server that is not there.
	gone := New(testenv.OpenPool(t, "postgres://127.0.0.1:1/none"))
	err = gone.tx(t.Context(), "test", func(pgx.Tx) error { return nil })
	if !errors.Is(err, definition.ErrUnavailable) || errors.Is(err, definition.ErrOutcomeUnknown) {
		t.Errorf("nobody there: %v", err)
	}
}
