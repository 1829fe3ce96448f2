// Command tokens gives access without the API: it makes the first token of an installation, and helps when no token is left.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/migrations"
)

const usage = `Usage: tokens COMMAND

Commands:
  create NAME --role ROLE  make a token and print it: it cannot be shown again
      --role ROLE          viewer, operator, editor or admin
      --label KEY=VALUE    only definitions with this label; may be given several times
      --expires DURATION   how long it is good, from 1m to 8784h (default 2160h)
      --max-definitions N  how many definitions its caller may have; 0 for no limit
                           (default 1000)
  list                     list every token, newest first; not the tokens themselves
  revoke ID                end a token; services refuse it within five seconds
  help                     print this text

The database is the one that ACTCORE_DB_URL names, for example
postgres://actcore:secret@localhost:5433/actcore

Exit codes: 0 done, 1 failed, 2 wrong command or configuration.
`

const (
	// workTimeout bounds a command, which reads or writes a few rows at a time.
	workTimeout = 30 * time.Second
	// pageSize is how many tokens are read at a time.
	pageSize = 500
)

// caller is who does what this program does, in the audit trail.
var caller = access.Caller{ID: "system", Name: "tokens command", Role: access.Admin}

func main() {
	lifecycle.Main("tokens", func(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
		return run(ctx, args, getenv, stdout, os.Stderr)
	})
}

// run prints what was asked for to stdout, so that a script can use it, and what people should know to stderr.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	if c.name == "help" {
		_, err := io.WriteString(stdout, usage)
		return err
	}
	cfg, err := config.LoadMigrate(getenv)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(access.With(ctx, caller), workTimeout)
	defer cancel()
	pool, err := postgres.Open(ctx, cfg.DB.URL, "tokens")
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrations.Check(ctx, pool); err != nil {
		return err
	}
	store := postgres.New(pool)
	switch c.name {
	case "create":
		return create(ctx, store, c.request, stdout, stderr)
	case "revoke":
		return revoke(ctx, store, c.id, stdout)
	}
	return list(ctx, store, stdout)
}

func create(ctx context.Context, store *postgres.Store, request access.TokenRequest, stdout, stderr io.Writer) error {
	token := access.NewToken()
	stored, err := store.CreateToken(ctx, request, token)
	if err != nil {
		return err
	}
	_, errA := fmt.Fprintln(stdout, token)
	_, errB := fmt.Fprintf(stderr, "This is the token %s (%s), good until %s. It is not stored and cannot be shown again.\n",
		stored.Name, stored.ID, stored.ExpiresAt.UTC().Format(time.RFC3339))
	return errors.Join(errA, errB)
}

func revoke(ctx context.Context, store *postgres.Store, id string, stdout io.Writer) error {
	t, err := store.RevokeToken(ctx, id)
	if errors.Is(err, definition.ErrNotFound) {
		return fmt.Errorf("there is no token %s: `tokens list` shows all of them", id)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s (%s) is revoked since %s; services refuse it within five seconds\n", t.ID, t.Name,
		t.RevokedAt.Format(time.RFC3339))
	return err
}

func list(ctx context.Context, store *postgres.Store, stdout io.Writer) error {
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tNAME\tROLE\tLABELS\tSTATE\tEXPIRES\tLAST USED\tENDS IN")
	for page := (access.ListTokens{Limit: pageSize}); ; {
		tokens, err := store.ListTokens(ctx, page)
		if err != nil {
			return err
		}
		for _, t := range tokens {
			used := "never"
			if t.LastUsedAt != nil {
				used = t.LastUsedAt.Format(time.RFC3339)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t…%s\n", t.ID, t.Name, t.Role, labelText(t.Labels), t.State,
				t.ExpiresAt.Format(time.RFC3339), used, t.Hint)
		}
		if len(tokens) < pageSize {
			return table.Flush()
		}
		page.BeforeSeq = tokens[len(tokens)-1].Seq
	}
}

func labelText(labels map[string]string) string {
	if len(labels) == 0 {
		return "-"
	}
	pairs := make([]string, 0, len(labels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return strings.Join(pairs, ",")
}

// command is what the arguments ask for.
type command struct {
	name    string
	request access.TokenRequest // of create
	id      string              // of revoke
}

func parse(args []string) (command, error) {
	if len(args) == 0 {
		return command{}, lifecycle.Usagef("no command: use create, list, revoke or help")
	}
	name, rest := args[0], args[1:]
	switch name {
	case "create":
		request, err := parseCreate(rest)
		return command{name: name, request: request}, err
	case "revoke":
		if len(rest) != 1 {
			return command{}, lifecycle.Usagef("revoke needs the id of a token, which `tokens list` shows: tokens revoke ID")
		}
		id, err := definition.ParseID(rest[0])
		if err != nil {
			return command{}, lifecycle.Usagef("revoke: %s", err)
		}
		return command{name: name, id: id}, nil
	case "list", "help":
	case "-h", "-help", "--help":
		name = "help"
	default:
		return command{}, lifecycle.Usagef("unknown command %q: use create, list, revoke or help", name)
	}
	if len(rest) > 0 {
		return command{}, lifecycle.Usagef("%s takes no arguments, but got %q", name, rest)
	}
	return command{name: name}, nil
}

const createUsage = "tokens create NAME --role ROLE [--label KEY=VALUE]... [--expires DURATION] [--max-definitions N]"

// parseCreate reads the name and the flags of create, in any order.
func parseCreate(args []string) (access.TokenRequest, error) {
	r := access.TokenRequest{Labels: map[string]string{}}
	flags := flag.NewFlagSet("create", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it in one line
	flags.Func("role", "", func(text string) error {
		r.Role = access.Role(text)
		return nil
	})
	flags.Func("label", "", func(text string) error {
		key, value, ok := strings.Cut(text, "=")
		if before, twice := r.Labels[key]; !ok {
			return errors.New("it must be KEY=VALUE")
		} else if twice && before != value {
			return errors.New("no definition has two values of one label")
		}
		r.Labels[key] = value
		return nil
	})
	flags.DurationVar(&r.Lifetime, "expires", access.DefaultLifetime, "")
	flags.IntVar(&r.MaxDefinitions, "max-definitions", access.DefaultMaxDefinitions, "")
	var names []string
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return r, lifecycle.Usagef("use %s", createUsage)
			}
			return r, lifecycle.Usagef("%s: use %s", err, createUsage)
		}
		if args = flags.Args(); len(args) > 0 {
			names, args = append(names, args[0]), args[1:]
		}
	}
	if len(names) > 1 {
		return r, lifecycle.Usagef("create takes one name, but got %q: use %s", names, createUsage)
	}
	if len(names) == 1 {
		r.Name = names[0]
	}
	var faults []string
	for _, f := range r.Faults() {
		faults = append(faults, flagOf(f.Field)+" "+f.Message)
	}
	if len(faults) > 0 {
		return r, lifecycle.Usagef("%s: use %s", strings.Join(faults, "; "), createUsage)
	}
	return r, nil
}

// flagOf names a field of a request as the arguments do.
func flagOf(field string) string {
	field, label, _ := strings.Cut(field, ".")
	switch field {
	case "name":
		return "NAME"
	case "labels":
		return strings.TrimSpace("--label " + label)
	case "expires_in":
		return "--expires"
	}
	return "--" + strings.ReplaceAll(field, "_", "-")
}
