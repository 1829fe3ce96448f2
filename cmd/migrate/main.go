// Command migrate moves the database's schema and plants the example definitions.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/migrations"
)

const usage = `Usage: migrate COMMAND

Commands:
  up        apply every revision that the database lacks; safe to run from several
            places at once
  down N    take back the newest N revisions, and the data in them
  version   print the database's revision and the newest that this program knows
  history   list every revision and whether it is applied
  seed      make the example definitions; those that exist already are left alone
  help      print this text

The database is the one that ACTCORE_DB_URL names, for example
postgres://actcore:secret@localhost:5433/actcore

Exit codes: 0 done, 1 failed, 2 wrong command or configuration.
`

// seedTimeout bounds `migrate seed`, which writes a few rows.
const seedTimeout = 30 * time.Second

func main() { lifecycle.Main("migrate", run) }

func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	command, err := parse(args)
	if err != nil {
		return err
	}
	if command.name == "help" {
		_, err := io.WriteString(stdout, usage)
		return err
	}
	cfg, err := config.LoadMigrate(getenv)
	if err != nil {
		return err
	}
	if command.name == "seed" {
		return seed(ctx, cfg.DB.URL, stdout)
	}
	out := printer{to: stdout}
	m, err := migrations.Open(ctx, cfg.DB.URL, func(line string) { out.line("%s", line) })
	if err != nil {
		return err
	}
	defer m.Close()
	switch command.name {
	case "up":
		err = m.Up(ctx)
	case "down":
		err = m.Down(ctx, command.count)
	}
	if err != nil {
		return err
	}
	status, err := m.Status()
	if err != nil {
		return err
	}
	switch command.name {
	case "up", "down":
		out.line("schema is at revision %s", versionText(status))
	case "version":
		out.line("%s", versionText(status))
	case "history":
		history(&out, status)
	}
	return out.err
}

// command is what the arguments ask for.
type command struct {
	name  string
	count uint // of down
}

func parse(args []string) (command, error) {
	if len(args) == 0 {
		return command{}, lifecycle.Usagef("no command: use up, down N, version, history, seed or help")
	}
	name, rest := args[0], args[1:]
	switch name {
	case "up", "version", "history", "seed", "help":
	case "-h", "-help", "--help":
		name = "help"
	case "down":
		if len(rest) != 1 {
			return command{}, lifecycle.Usagef("down needs the number of revisions to take back, for example: migrate down 1")
		}
		n, err := strconv.ParseUint(rest[0], 10, 31)
		if err != nil || n == 0 {
			return command{}, lifecycle.Usagef("down %q: the number of revisions must be 1 or more, for example: migrate down 1", rest[0])
		}
		return command{name: name, count: uint(n)}, nil
	default:
		return command{}, lifecycle.Usagef("unknown command %q: use up, down N, version, history, seed or help", name)
	}
	if len(rest) > 0 {
		return command{}, lifecycle.Usagef("%s takes no arguments, but got %q", name, rest)
	}
	return command{name: name}, nil
}

// versionText is such as "3 (latest 3)".
func versionText(s migrations.Status) string {
	text := fmt.Sprintf("%d (latest %d)", s.Number, migrations.Latest())
	if s.Dirty {
		text += ", marked dirty"
	}
	return text
}

func history(out *printer, s migrations.Status) {
	for _, r := range migrations.Revisions() {
		applied := "no"
		if r.Number <= s.Number {
			applied = "yes"
		}
		out.line("%-6d %-30s applied: %s", r.Number, r.Name, applied)
	}
	for n := migrations.Latest() + 1; n <= s.Number; n++ {
		out.line("%-6d %-30s applied: yes", n, "(newer than this program)")
	}
}

func seed(ctx context.Context, databaseURL string, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, seedTimeout)
	defer cancel()
	pool, err := postgres.Open(ctx, databaseURL, "migrate")
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer pool.Close()
	if err := migrations.Check(ctx, pool); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	lines, err := postgres.New(pool).Seed(ctx)
	out := printer{to: stdout}
	for _, line := range lines {
		out.line("%s", line)
	}
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return out.err
}

// printer writes lines and keeps the first error.
type printer struct {
	to  io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	_, err := fmt.Fprintf(p.to, format+"\n", args...)
	p.err = errors.Join(p.err, err)
}
