// Package migrations holds the schema's history as numbered SQL files and the rule by which a binary tells whether a
// database is new enough for it. Migrations are additive: binaries of two versions share one schema during a rollout,
// so a newer schema than a binary knows is fine.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/pgx/v5" // registers the scheme pgx5
	"github.com/golang-migrate/migrate/v4/source/iofs"
)

// FS holds NNNNNN_name.up.sql and NNNNNN_name.down.sql files.
//
//go:embed *.sql
var FS embed.FS

// Open returns the migrator of a database; the caller closes it. The URL begins with postgres://.
func Open(databaseURL string) (*migrate.Migrate, error) {
	source, err := iofs.New(FS, ".")
	if err != nil {
		return nil, fmt.Errorf("read embedded migrations: %w", err)
	}
	_, rest, _ := strings.Cut(databaseURL, "://")
	m, err := migrate.NewWithSourceInstance("iofs", source, "pgx5://"+rest)
	if err != nil {
		return nil, fmt.Errorf("open the database for migration: %w", err)
	}
	return m, nil
}

// Up brings a database to the newest revision. It is safe to run from several processes at once.
func Up(ctx context.Context, databaseURL string) error {
	m, err := Open(databaseURL)
	if err != nil {
		return err
	}
	defer func() { _, _ = m.Close() }()
	stop := context.AfterFunc(ctx, func() { m.GracefulStop <- true })
	defer stop()
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return fmt.Errorf("migrate up: %w", err)
	}
	return ctx.Err()
}
