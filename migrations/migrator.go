package migrations

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	driver "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// connectTimeout bounds reaching Postgres.
	connectTimeout = 10 * time.Second
	// lockTimeout bounds waiting for another migrator and for each table that a
	// migration alters: a statement that waits for a lock makes all later ones
	// wait behind it, so giving up is kinder to the services.
	lockTimeout = time.Minute
)

// Migrator moves one database. It is not safe for concurrent use, but any
// number of them, in any number of processes, may work on one database: an
// advisory lock lets one at a time through.
type Migrator struct {
	m  *migrate.Migrate
	db *atomicDriver
}

// Open connects to a database (postgres://…). The caller closes the Migrator.
// If report is not nil it gets one line for each step that was taken.
func Open(ctx context.Context, databaseURL string, report func(line string)) (*Migrator, error) {
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	// Not a startup parameter: connection poolers refuse those.
	db := stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", lockTimeout.Milliseconds()))
		return err
	}))
	// The driver takes no context: find out first that the server is there.
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(explain("connect to Postgres", err), db.Close())
	}
	inner, err := driver.WithInstance(db, &driver.Config{})
	if err != nil {
		return nil, errors.Join(explain("prepare the schema's revision table", err), db.Close())
	}
	if report == nil {
		report = func(string) {}
	}
	atomic := &atomicDriver{Driver: inner, report: report}
	source, err := iofs.New(FS, ".")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the migrations: %w", err), inner.Close())
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx5", atomic)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the migrations: %w", err), source.Close(), inner.Close())
	}
	m.LockTimeout = lockTimeout + connectTimeout // the server's own limit comes first
	return &Migrator{m: m, db: atomic}, nil
}

// Close gives the connection back.
func (m *Migrator) Close() error {
	sourceErr, dbErr := m.m.Close()
	return errors.Join(sourceErr, dbErr)
}

// Up applies every revision that is missing. Nothing to do is no error. When
// ctx ends, the step at work is finished and no other begun.
func (m *Migrator) Up(ctx context.Context) error {
	return m.move(ctx, "migrate up", m.m.Up)
}

// Down takes back the newest n revisions, and their data with them. It refuses,
// before anything is done, when fewer than n are applied.
func (m *Migrator) Down(ctx context.Context, n uint) error {
	status, err := m.Status()
	if err != nil {
		return err
	}
	switch {
	case n == 0:
		return errors.New("migrate down: the number of revisions to take back must be at least 1")
	case status.Number > Latest():
		return fmt.Errorf("migrate down: schema is at revision %d, of which this binary knows only %d: use the binary that made it", status.Number, Latest())
	case n > status.Number:
		return fmt.Errorf("migrate down: cannot take back %d revisions: only %d are applied", n, status.Number)
	}
	return m.move(ctx, "migrate down", func() error { return m.m.Steps(-int(n)) })
}

func (m *Migrator) move(ctx context.Context, attempt string, steps func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", attempt, err)
	}
	// A revision beyond ours was applied by a newer binary: the migrator would
	// look for its file, and there is nothing to apply.
	status, err := m.Status()
	if err != nil {
		return err
	}
	if status.Number > Latest() {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { m.m.GracefulStop <- true })
	defer stop()
	err = steps()
	var dirty migrate.ErrDirty
	switch {
	case errors.Is(err, migrate.ErrNoChange):
		return nil
	case errors.As(err, &dirty):
		return fmt.Errorf("%s: %w", attempt, dirtyError(uint(max(dirty.Version, 0))))
	case err != nil:
		if d := m.db; d.next != d.before { // in the middle of a step
			verb, revision := step(d.before, d.next)
			attempt += ": " + verb.doing + " " + revision
		}
		return explain(attempt, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: stopped between two revisions: %w", attempt, err)
	}
	return nil
}

// Status reads where the database stands.
func (m *Migrator) Status() (Status, error) {
	number, dirty, err := m.m.Version()
	switch {
	case errors.Is(err, migrate.ErrNilVersion):
		return Status{}, nil
	case err != nil:
		return Status{}, explain("read the schema's revision", err)
	}
	return Status{Number: number, Dirty: dirty}, nil
}

// Up brings a database to the newest revision.
func Up(ctx context.Context, databaseURL string) (err error) {
	m, err := Open(ctx, databaseURL, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return m.Up(ctx)
}

// explain shortens what the migration library and the driver say to a line for
// an operator, without the text of the migration.
func explain(attempt string, err error) error {
	line := uint(0)
	var inStep database.Error // from Run
	var other *database.Error // from everything else
	switch {
	case errors.As(err, &inStep) && inStep.OrigErr != nil:
		err, line = inStep.OrigErr, inStep.Line
	case errors.As(err, &other) && other.OrigErr != nil:
		err = other.OrigErr
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		// One line for each address that was tried; they mostly say the same.
		lines := strings.Split(strings.TrimSpace(connect.Error()), "\n")
		return fmt.Errorf("%s: %s", attempt, strings.TrimSpace(lines[len(lines)-1]))
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if pg.Code == "55P03" { // lock_not_available
			return fmt.Errorf("%s: no lock within %v: another migration or a long transaction holds it; "+
				"look for it in pg_stat_activity and run the command again: %w", attempt, lockTimeout, pg)
		}
		if pg.Position > 0 && line > 0 {
			attempt = fmt.Sprintf("%s, line %d", attempt, line)
		}
	}
	return fmt.Errorf("%s: %w", attempt, err)
}

// atomicDriver makes a migration and the note of its revision one transaction.
// The library would note first "dirty", then run the file, then note "clean",
// and a process that is killed between these leaves the schema for a person to
// mend. Postgres runs several statements in one message as one transaction, so
// the note is appended to the file.
type atomicDriver struct {
	database.Driver
	report func(line string)
	// The step at work, if the two differ; -1 is the empty database.
	before, next int
	began        time.Time
}

// SetVersion is called before a file with dirty and after it without.
func (d *atomicDriver) SetVersion(version int, dirty bool) error {
	if dirty {
		before, _, err := d.Driver.Version()
		if err != nil {
			return err
		}
		d.before, d.next, d.began = before, version, time.Now()
		return nil
	}
	// The transaction has noted this already; once more is harmless, and it is
	// the only note for a file that is empty.
	if err := d.Driver.SetVersion(version, false); err != nil {
		return err
	}
	verb, revision := step(d.before, version)
	d.report(fmt.Sprintf("%s %s (%d ms)", verb.done, revision, time.Since(d.began).Milliseconds()))
	d.before = version
	return nil
}

// Run runs a file and notes its revision.
func (d *atomicDriver) Run(migration io.Reader) error {
	text, err := io.ReadAll(migration)
	if err != nil {
		return err
	}
	note := "\n;\nTRUNCATE schema_migrations;"
	if d.next >= 0 {
		note += fmt.Sprintf("\nINSERT INTO schema_migrations (version, dirty) VALUES (%d, false);", d.next)
	}
	return d.Driver.Run(io.MultiReader(bytes.NewReader(text), strings.NewReader(note)))
}

// verb is what a step does, before and after.
type verb struct{ doing, done string }

// step says which revision is applied or taken back between two numbers.
func step(before, after int) (verb, string) {
	does, number := verb{"apply", "applied"}, after
	if after < before {
		does, number = verb{"take back", "took back"}, before
	}
	if number < 1 || number > len(revisions) {
		return does, fmt.Sprintf("revision %d", number)
	}
	return does, revisions[number-1].String()
}
