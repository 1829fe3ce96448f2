package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/migrations"
)

// emptyDatabase returns the URL of a database that was never migrated.
func emptyDatabase(t *testing.T) string {
	t.Helper()
	url := testenv.DatabaseURL(t)
	exec(t, url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
	return url
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func exec(t *testing.T, url, sql string) {
	t.Helper()
	if _, err := connect(t, url).Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, url string, report func(string)) *migrations.Migrator {
	t.Helper()
	m, err := migrations.Open(t.Context(), url, report)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// contents describes everything in the schema public.
func contents(t *testing.T, url string) string {
	t.Helper()
	rows, err := connect(t, url).Query(t.Context(), `
		SELECT c.relkind::text || ' ' || c.relname || coalesce(' ' || string_agg(a.attname || ':' || a.atttypid::regtype, ',' ORDER BY a.attnum), '')
		FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = 'public'::regnamespace GROUP BY c.oid, c.relkind, c.relname
		UNION ALL SELECT 'f ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
		UNION ALL SELECT 't ' || typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
		ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestUpDownUp(t *testing.T) {
	t.Parallel()
	url := emptyDatabase(t)
	conn := connect(t, url)
	if err := migrations.Check(t.Context(), conn); err == nil || !strings.Contains(err.Error(), "schema is at revision 0, this binary needs ") {
		t.Errorf("Check of an empty database = %v", err)
	}
	var lines []string
	m := open(t, url, func(line string) { lines = append(lines, line) })
	empty := contents(t, url)
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), conn); err != nil {
		t.Errorf("Check after up: %v", err)
	}
	full := contents(t, url)
	if err := m.Up(t.Context()); err != nil {
		t.Errorf("second up: %v", err)
	}
	latest := migrations.Latest()
	for n := latest; n > 0; n-- {
		if err := m.Down(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if got, err := m.Status(); err != nil || got != (migrations.Status{Number: n - 1}) {
			t.Errorf("status = %+v, %v, want revision %d", got, err, n-1)
		}
		want := fmt.Sprintf("schema is at revision %d, this binary needs %d: run `migrate up`", n-1, latest)
		if err := migrations.Check(t.Context(), conn); err == nil || err.Error() != want {
			t.Errorf("Check = %v, want %s", err, want)
		}
	}
	if got := contents(t, url); got != empty {
		t.Errorf("going down left something behind:\n%s\nwant\n%s", got, empty)
	}
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, url); got != full {
		t.Errorf("up after down made another schema:\n%s\nwant\n%s", got, full)
	}
	if want := 3 * int(latest); len(lines) != want {
		t.Errorf("%d lines were reported, want %d:\n%s", len(lines), want, strings.Join(lines, "\n"))
	}
}

func TestDownRefusesTooMany(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	m := open(t, url, nil)
	latest := migrations.Latest()
	want := fmt.Sprintf("migrate down: cannot take back %d revisions: only %d are applied", latest+1, latest)
	if err := m.Down(t.Context(), latest+1); err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
	if err := m.Down(t.Context(), 0); err == nil {
		t.Error("Down(0) did something")
	}
	if err := migrations.Check(t.Context(), connect(t, url)); err != nil {
		t.Errorf("something was taken back: %v", err)
	}
}

func TestUpFromManyProcesses(t *testing.T) {
	t.Parallel()
	url := emptyDatabase(t)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() { errs[i] = migrations.Up(t.Context(), url) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), connect(t, url)); err != nil {
		t.Error(err)
	}
}

// TestFailedMigrationLeavesNothing makes the last revision fail at its last
// statement and looks at what is left.
func TestFailedMigrationLeavesNothing(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	m := open(t, url, nil)
	if err := m.Down(t.Context(), migrations.Latest()); err != nil {
		t.Fatal(err)
	}
	before := contents(t, url)
	// Any table that the first revision makes is in its way when it is there.
	tables, err := fs.ReadFile(migrations.FS, migrations.Revisions()[0].String()+".up.sql")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(tables), "CREATE TABLE ")
	last := strings.Fields(parts[len(parts)-1])[0]
	exec(t, url, "CREATE TABLE "+last+" ()")

	err = m.Up(t.Context())
	if err == nil || strings.Contains(err.Error(), "\n") ||
		!strings.HasPrefix(err.Error(), "migrate up: apply "+migrations.Revisions()[0].String()+": ") || !strings.Contains(err.Error(), last) {
		t.Errorf("error = %v, want one line that names %s", err, last)
	}
	if got, err := m.Status(); err != nil || got != (migrations.Status{}) {
		t.Errorf("status = %+v, %v, want an empty, clean schema", got, err)
	}
	exec(t, url, "DROP TABLE "+last)
	if got := contents(t, url); got != before {
		t.Errorf("the failure left something behind:\n%s", got)
	}
	if err := m.Up(t.Context()); err != nil {
		t.Errorf("up after the cause is gone: %v", err)
	}
}

func TestDirtySchemaIsExplained(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	exec(t, url, "UPDATE schema_migrations SET dirty = true")
	m := open(t, url, nil)
	for what, err := range map[string]error{
		"Check": migrations.Check(t.Context(), connect(t, url)),
		"Up":    m.Up(t.Context()),
		"Down":  m.Down(t.Context(), 1),
	} {
		if err == nil || !strings.Contains(err.Error(), "UPDATE schema_migrations SET version = N, dirty = false") {
			t.Errorf("%s = %v, want the way out", what, err)
		}
	}
}

func TestNewerSchemaIsFine(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	exec(t, url, "UPDATE schema_migrations SET version = version + 1")
	if err := migrations.Check(t.Context(), connect(t, url)); err != nil {
		t.Errorf("Check: %v", err)
	}
	m := open(t, url, nil)
	if err := m.Up(t.Context()); err != nil {
		t.Errorf("Up: %v", err)
	}
	if err := m.Down(t.Context(), 1); err == nil {
		t.Error("Down took back a revision that it does not know")
	}
}

func TestOpenSaysThatPostgresIsAway(t *testing.T) {
	t.Parallel()
	_, err := migrations.Open(t.Context(), "postgres://u:hunter2@127.0.0.1:1/d", nil)
	const want = "connect to Postgres: 127.0.0.1:1 (127.0.0.1): dial error: dial tcp 127.0.0.1:1: connect: connection refused"
	if err == nil || err.Error() != want {
		t.Errorf("error:\n got %v\nwant %s", err, want)
	}
}
