package migrations

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// querier is a pool, a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Status is where a database stands.
type Status struct {
	// Number of the newest revision that was applied; 0 is an empty database.
	Number uint
	// Dirty is the mark of other migration tools for a step that was cut short.
	// Ours leave none.
	Dirty bool
}

// ReadStatus reads where the database stands.
func ReadStatus(ctx context.Context, db querier) (Status, error) {
	var number int64
	var dirty bool
	err := db.QueryRow(ctx, "SELECT version, dirty FROM schema_migrations LIMIT 1").Scan(&number, &dirty)
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows), errors.As(err, &pg) && pg.Code == "42P01": // undefined_table
		return Status{}, nil
	case err != nil:
		return Status{}, explain("read the schema's revision", err)
	case number < 0:
		return Status{Dirty: dirty}, nil
	}
	return Status{Number: uint(number), Dirty: dirty}, nil
}

// Check returns nil when the database is at the newest revision that this
// binary knows, or beyond it. It is made for readiness: the error's one line
// says what to run.
func Check(ctx context.Context, db querier) error {
	status, err := ReadStatus(ctx, db)
	switch {
	case err != nil:
		return err
	case status.Dirty:
		return dirtyError(status.Number)
	case status.Number < Latest():
		return fmt.Errorf("schema is at revision %d, this binary needs %d: run `migrate up`", status.Number, Latest())
	}
	return nil
}

// dirtyError explains the way out of a mark that only another tool can have
// left. That tool marks the revision it was heading for, up or down, so the mark
// alone does not tell what is in the database.
func dirtyError(number uint) error {
	return fmt.Errorf("schema is marked dirty at revision %d: a tool other than ours was cut short while it moved to it. "+
		"Find the newest revision N whose NNNNNN_*.up.sql is in the database as a whole, run "+
		"`psql \"$ACTCORE_DB_URL\" -c 'UPDATE schema_migrations SET version = N, dirty = false'` "+
		"(or, if there is none, `psql \"$ACTCORE_DB_URL\" -c 'DELETE FROM schema_migrations'`), then run `migrate up`", number)
}
