package postgres

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// broken is how a connection breaks.
type broken int

const (
	// before: what the client sends does not arrive.
	before broken = iota + 1
	// after: it arrives, and the answer is lost.
	after
	// silent: it arrives, and no answer comes, for as long as the client waits.
	silent
)

// wire is a TCP proxy before Postgres that breaks a connection at one message of the client.
type wire struct {
	address string
	at      func([]byte) bool
	how     atomic.Int32 // a broken, for the next message
}

func newWire(t *testing.T, server string, at func([]byte) bool) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	w := &wire{address: listener.Addr().String(), at: at}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go w.carry(client, server)
		}
	}()
	return w
}

func (w *wire) carry(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	var how atomic.Int32
	go func() { // the answers
		defer client.Close()
		defer server.Close()
		data := make([]byte, 64<<10)
		for {
			n, err := server.Read(data)
			if err != nil {
				return
			}
			switch broken(how.Load()) {
			case after:
				return
			case silent:
				continue
			}
			if _, err := client.Write(data[:n]); err != nil {
				return
			}
		}
	}()
	data := make([]byte, 64<<10)
	for {
		n, err := client.Read(data)
		if err != nil {
			return
		}
		if w.at(data[:n]) {
			how.Store(w.how.Swap(0))
		}
		if broken(how.Load()) == before {
			return
		}
		if _, err := server.Write(data[:n]); err != nil {
			return
		}
	}
}

// through returns a store whose connection, it has but one, goes through the wire.
func through(t *testing.T, database string, w func(server string) *wire) (*Store, *wire) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	proxy := w(u.Host)
	u.Host = proxy.address
	query := u.Query()
	query.Set("pool_max_conns", "2")
	query.Set("sslmode", "disable")
	u.RawQuery = query.Encode()
	return New(testenv.OpenPool(t, u.String())), proxy
}

func isCommit(data []byte) bool { return bytes.Contains(data, []byte("commit\x00")) }

// isExecute: the statement is known to the server, and is to be carried out.
func isExecute(data []byte) bool { return len(data) > 0 && data[0] == 'B' }

// The connection breaks at a commit. The caller hears that nobody knows what became of it, and asking again under the same key makes
// one in all.
func TestCommitOfWhichNobodyKnows(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		how  broken
		rows int
	}{{"lost on the way there", before, 0}, {"lost on the way back", after, 1}, {"no answer", silent, 1}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			database := testenv.DatabaseURL(t)
			direct := New(testenv.OpenPool(t, database))
			s, w := through(t, database, func(server string) *wire { return newWire(t, server, isCommit) })
			ctx := as(t.Context(), "a")
			first := claimKey(ctx, t, s, "k", "one")
			claim := access.Claim{Key: "k", ID: first.ID}

			w.how.Store(int32(test.how))
			hasty, cancel := context.WithTimeout(access.WithClaim(ctx, claim), time.Second)
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
	for how, rows := range map[broken]int{before: 1, after: 2} {
		database := testenv.DatabaseURL(t)
		direct := New(testenv.OpenPool(t, database))
		s, w := through(t, database, func(server string) *wire { return newWire(t, server, isExecute) })
		d := create(t, direct, manual)
		accept := func() error {
			_, err := s.AcceptRuns(t.Context(), []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual, Key: definition.ManualKey()}})
			return err
		}
		if err := accept(); err != nil { // makes the statement known
			t.Fatal(err)
		}
		w.how.Store(int32(how))
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
	isUpdate := func(data []byte) bool { return bytes.Contains(data, []byte("INSERT INTO definitions")) }
	s, w := through(t, database, func(server string) *wire { return newWire(t, server, isUpdate) })
	w.how.Store(int32(after))
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
