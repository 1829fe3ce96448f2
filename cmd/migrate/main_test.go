package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/migrations"
)

// migrate runs the command as a shell would, on the given database.
func migrate(t *testing.T, url, args string) (string, error) {
	t.Helper()
	getenv := func(name string) string {
		if name == "ACTCORE_DB_URL" {
			return url
		}
		return ""
	}
	var out strings.Builder
	err := run(t.Context(), strings.Fields(args), getenv, &out)
	return out.String(), err
}

func TestCommands(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	latest := migrations.Latest()
	revisions := migrations.Revisions()
	newest := regexp.QuoteMeta(revisions[latest-1].String())
	all := fmt.Sprintf(`%d \(latest %d\)\n`, latest, latest)
	for _, c := range []struct{ args, want string }{
		{"version", "^" + all + "$"},
		{"up", "^schema is at revision " + all + "$"},
		{"history", fmt.Sprintf(`\n%d +%s +applied: yes\n$`, latest, revisions[latest-1].Name)},
		{"seed", `^(.+: created\n){3}$`},
		{"seed", `^(.+: left as it is, for it was made before\n){3}$`},
		{"down 1", fmt.Sprintf(`^took back %s \(\d+ ms\)\nschema is at revision %d \(latest %d\)\n$`, newest, latest-1, latest)},
		{"version", fmt.Sprintf(`^%d \(latest %d\)\n$`, latest-1, latest)},
		{"history", fmt.Sprintf(`applied: yes\n%d +%s +applied: no\n$`, latest, revisions[latest-1].Name)},
		{"up", fmt.Sprintf(`^applied %s \(\d+ ms\)\nschema is at revision %s$`, newest, all)},
		{"help", `^Usage: migrate COMMAND\n`},
	} {
		out, err := migrate(t, url, c.args)
		if err != nil || !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("migrate %s printed %q, %v, want %s", c.args, out, err, c.want)
		}
	}
}

func TestSeedNeedsTheSchema(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	if _, err := migrate(t, url, "down 1"); err != nil {
		t.Fatal(err)
	}
	_, err := migrate(t, url, "seed")
	if err == nil || !strings.HasSuffix(err.Error(), "run `migrate up`") {
		t.Errorf("error = %v", err)
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"":          "no command: use up, down N, version, history, seed or help",
		"sideways":  `unknown command "sideways": use up, down N, version, history, seed or help`,
		"up 1":      `up takes no arguments, but got ["1"]`,
		"down":      "down needs the number of revisions to take back, for example: migrate down 1",
		"down 0":    `down "0": the number of revisions must be 1 or more, for example: migrate down 1`,
		"down -1":   `down "-1": the number of revisions must be 1 or more, for example: migrate down 1`,
		"down all":  `down "all": the number of revisions must be 1 or more, for example: migrate down 1`,
		"down 1 up": "down needs the number of revisions to take back, for example: migrate down 1",
	} {
		err := run(context.Background(), strings.Fields(args), func(string) string { return "" }, io.Discard)
		var usage *lifecycle.UsageError
		if !errors.As(err, &usage) || err.Error() != want {
			t.Errorf("migrate %s: error = %v, want %s", args, err, want)
		}
	}
}

func TestMissingConfiguration(t *testing.T) {
	t.Parallel()
	_, err := migrate(t, "", "up")
	var coded interface{ ExitCode() int }
	if !errors.As(err, &coded) || coded.ExitCode() != 2 || !strings.HasPrefix(err.Error(), "ACTCORE_DB_URL is not set: ") {
		t.Errorf("error = %v", err)
	}
}
