// Package postgres holds all SQL: one file for each family of transactions. A method owns its transaction, and translates
// what Postgres says into the errors of package definition, once. Times are always Postgres' own clock, so that processes
// with different clocks agree.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/failpoint"
)

// Store is the whole of what is kept in Postgres. It is safe for concurrent use.
type Store struct {
	pool   *pgxpool.Pool
	judged func([]definition.Judged) // nil: nobody is told
	stops  func()                    // nil: nobody is told
}

// New makes a Store on a pool, which stays the caller's to close.
func New(pool *pgxpool.Pool) *Store {
	return &Store{pool: pool}
}

// Ping asks the database for one answer. The error is meant for an operator: it holds no password.
func (s *Store) Ping(ctx context.Context) error {
	return translate("ask postgres", s.pool.Ping(ctx))
}

// InstallationID returns the id that this database gave itself when its schema was made.
func (s *Store) InstallationID(ctx context.Context) (string, error) {
	var id string
	err := s.pool.QueryRow(ctx, `SELECT id::text FROM installation`).Scan(&id)
	return id, translate("read the installation id", err)
}

// conflictTries is how often a transaction that lost a race (deadlock, serialization failure) is tried in all.
const conflictTries = 5

// tx runs work in a transaction, again when it lost a race. The work must have no effect outside the transaction.
func (s *Store) tx(ctx context.Context, attempt string, work func(pgx.Tx) error) error {
	return translate(attempt, retried(func() error { return s.txOnce(ctx, work) }))
}

// txOnce does what pgx.BeginFunc does, and tells a commit of which nobody knows from other errors.
func (s *Store) txOnce(ctx context.Context, work func(pgx.Tx) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // does nothing after a commit
	if err := work(tx); err != nil {
		return err
	}
	failpoint.Hit("committing")
	return outcome(conn, tx.Commit(ctx))
}

// single runs one statement that commits by itself, again when it lost a race.
func (s *Store) single(ctx context.Context, attempt string, statement func(querier) error) error {
	return translate(attempt, retried(func() error {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return outcome(conn, statement(conn))
	}))
}

// outcome adds ErrOutcomeUnknown to the error of a commit, or of a statement that commits by itself, when it was sent and the
// connection broke before the server said what became of it. A last word of a server that ends the connection is no such answer: it
// may follow a commit. Neither is the driver's "conn closed", which calls itself safe to retry, but comes also when the connection broke
// while the answer was read: it was open until now.
func outcome(conn *pgxpool.Conn, err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil, !conn.Conn().IsClosed(), pgconn.SafeToRetry(err) && !errors.Is(err, pgconn.ErrConnClosed),
		errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR":
		return err
	}
	return fmt.Errorf("%w: %w", definition.ErrOutcomeUnknown, err)
}

// retried runs a statement or a transaction, again when it lost a race.
func retried(statement func() error) error {
	var err error
	for range conflictTries {
		if err = statement(); !lostRace(err) {
			break
		}
	}
	return err
}

func lostRace(err error) bool {
	code := sqlState(err)
	return code == "40001" || code == "40P01"
}

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// translate says what was attempted and turns the driver's error into one of package definition's. It is the only place
// that looks into driver errors.
func translate(attempt string, err error) error {
	if err == nil {
		return nil
	}
	var invalid *definition.InvalidError
	var revision *definition.RevisionError
	switch {
	case errors.Is(err, definition.ErrOutcomeUnknown):
		return fmt.Errorf("%s: %w: %w", attempt, definition.ErrUnavailable, err)
	case errors.As(err, &invalid), errors.As(err, &revision), errors.Is(err, definition.ErrClaimLost),
		errors.Is(err, definition.ErrNotFound), errors.Is(err, definition.ErrNameTaken),
		errors.Is(err, definition.ErrLeaseLost), errors.Is(err, definition.ErrOtherWorkflow),
		errors.Is(err, definition.ErrNotYet), errors.Is(err, definition.ErrBackfillActive),
		errors.Is(err, definition.ErrReplayActive), errors.Is(err, definition.ErrRunFinal), errors.Is(err, definition.ErrRunOpen),
		errors.Is(err, definition.ErrRunNotFailed), errors.Is(err, definition.ErrDefinitionGone),
		errors.Is(err, definition.ErrNotWaiting):
		return fmt.Errorf("%s: %w", attempt, err)
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%s: %w", attempt, definition.ErrNotFound)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", attempt, err)
	}
	// A server that refuses the connection (wrong password, no such database, starting up) is as good as away.
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return fmt.Errorf("%s: %w: %s", attempt, definition.ErrUnavailable, brief(connect))
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch {
		case pg.Code == "23505" && pg.ConstraintName == "definitions_name":
			return fmt.Errorf("%s: %w", attempt, definition.ErrNameTaken)
		case strings.HasPrefix(pg.Code, "22"), strings.HasPrefix(pg.Code, "23"):
			return fmt.Errorf("%s: %w (SQLSTATE %s)", attempt, definition.ErrNotStorable, pg.Code)
		case unavailableState(pg.Code):
			return fmt.Errorf("%s: %w (SQLSTATE %s)", attempt, definition.ErrUnavailable, pg.Code)
		}
		return fmt.Errorf("%s: %w", attempt, err)
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) || isBrokenConnection(err) {
		return fmt.Errorf("%s: %w: %w", attempt, definition.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", attempt, err)
}

// unavailableState reports whether the code means that the server cannot work now but may later: connection trouble,
// too many connections or no disk, shutdown and recovery, and a schema that a rollout has not reached yet.
func unavailableState(code string) bool {
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57P") ||
		code == "40001" || code == "40P01"
}

func isBrokenConnection(err error) bool {
	text := err.Error()
	return strings.Contains(text, "unexpected EOF") || strings.Contains(text, "conn closed") ||
		strings.Contains(text, "closed pool") || strings.Contains(text, "connection reset")
}

// brief keeps the cause of a refused connection, in one line, without the connection string and the list of all tries
// that the driver puts around it.
func brief(err *pgconn.ConnectError) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return fmt.Sprintf("the server refuses the connection: %s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if i := strings.LastIndex(last, "dial error: "); i >= 0 {
		last = last[i+len("dial error: "):]
	}
	return last
}
