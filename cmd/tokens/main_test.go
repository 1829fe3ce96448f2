package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/auth"
	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/migrations"
)

// tokens runs the command as a shell would, on the given database.
func tokens(t *testing.T, url string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	getenv := func(name string) string {
		if name == "ACTCORE_DB_URL" {
			return url
		}
		return ""
	}
	var out, note strings.Builder
	err = run(t.Context(), args, getenv, &out, &note)
	return out.String(), note.String(), err
}

func TestCommands(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	pool := testenv.OpenPool(t, url)
	who := func() *auth.Authenticator { // one that remembers nothing
		a, err := auth.New(auth.Options{Tokens: postgres.New(pool), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}

	boot, note, err := tokens(t, url, "create", "me", "--role", "admin")
	if err != nil || !access.IsToken(strings.TrimSuffix(boot, "\n")) {
		t.Fatalf("printed %q, %v", boot, err)
	}
	boot = strings.TrimSuffix(boot, "\n")
	if m := `^This is the token me \([0-9a-f-]{36}\), good until \d{4}-[0-9T:-]+Z\. It is not stored and cannot be shown again\.\n$`; !regexp.MustCompile(m).
		MatchString(note) || strings.Contains(note, boot) {
		t.Errorf("noted %q", note)
	}
	c, err := who().Authenticate(t.Context(), boot)
	if err != nil || c.Name != "me" || c.Role != access.Admin || c.Limited() || c.MaxDefinitions != 1000 {
		t.Errorf("known as %+v, %v", c, err)
	}
	made, _, err := tokens(t, url, "create", "--label", "team=growth", "--role=editor", "ci deploy", "--label", "env=", "--expires", "1h",
		"--max-definitions", "0")
	if err != nil {
		t.Fatal(err)
	}
	made = strings.TrimSpace(made)
	c, err = who().Authenticate(t.Context(), made)
	if err != nil || c.Name != "ci deploy" || c.Role != access.Editor || len(c.Labels) != 2 || c.Labels["team"] != "growth" || c.MaxDefinitions != 0 {
		t.Errorf("known as %+v, %v", c, err)
	}

	listed, _, err := tokens(t, url, "list")
	m := regexp.MustCompile(`^ID +NAME +ROLE +LABELS +STATE +EXPIRES +LAST USED +ENDS IN\n` +
		`([0-9a-f-]{36}) +ci deploy +editor +env=,team=growth +active +\S+Z +\S+ +…\w{4}\n` +
		`[0-9a-f-]{36} +me +admin +- +active +\S+Z +\S+ +…` + boot[40:] + `\n$`).FindStringSubmatch(listed)
	if err != nil || m == nil {
		t.Fatalf("listed %v:\n%s", err, listed)
	}
	for range 2 {
		out, _, err := tokens(t, url, "revoke", m[1])
		if err != nil || !strings.HasPrefix(out, m[1]+" (ci deploy) is revoked since ") {
			t.Errorf("revoked: %q, %v", out, err)
		}
	}
	if _, err := who().Authenticate(t.Context(), made); !errors.Is(err, access.ErrUnknown) {
		t.Errorf("after it was revoked: %v", err)
	}
	if listed, _, _ = tokens(t, url, "list"); !regexp.MustCompile(`ci deploy .* revoked `).MatchString(listed) {
		t.Errorf("listed:\n%s", listed)
	}
	const nobody = "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b"
	if _, _, err := tokens(t, url, "revoke", nobody); err == nil ||
		err.Error() != "there is no token "+nobody+": `tokens list` shows all of them" {
		t.Errorf("revoked nothing: %v", err)
	}

	var trail string
	err = pool.QueryRow(t.Context(), `SELECT string_agg(concat_ws(' ', actor_id, actor, action), '|' ORDER BY id) FROM audit`).Scan(&trail)
	if want := "system tokens command token.create|system tokens command token.create|system tokens command token.revoke"; err != nil || trail != want {
		t.Errorf("audit trail %q, %v", trail, err)
	}
	if out, _, err := tokens(t, "", "help"); err != nil || !strings.HasPrefix(out, "Usage: tokens COMMAND\n") {
		t.Errorf("help: %q, %v", out, err)
	}
}

func TestManyTokensAreListed(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	_, err := testenv.OpenPool(t, url).Exec(t.Context(), `
		INSERT INTO tokens (id, family, name, role, max_definitions, hash, hint, created_by, expires_at)
		SELECT gen_random_uuid(), gen_random_uuid(), 't' || n, 'viewer', 0, sha256(n::text::bytea), 'hint', 'test', now()
		FROM generate_series(1, 1001) AS n`)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := tokens(t, url, "list")
	if n := strings.Count(out, "\n"); err != nil || n != 1002 || !strings.Contains(out, " t1 ") || !strings.Contains(out, " t1001 ") {
		t.Errorf("%d lines, %v", n, err)
	}
}

func TestNeedsTheSchema(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	m, err := migrations.Open(t.Context(), url, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Down(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	_, _, err = tokens(t, url, "list")
	if err == nil || !strings.HasSuffix(err.Error(), "run `migrate up`") {
		t.Errorf("error = %v", err)
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	const use = ": use tokens create NAME --role ROLE [--label KEY=VALUE]... [--expires DURATION] [--max-definitions N]"
	for args, want := range map[string]string{
		"":                                      "no command: use create, list, revoke or help",
		"mint":                                  `unknown command "mint": use create, list, revoke or help`,
		"list all":                              `list takes no arguments, but got ["all"]`,
		"revoke":                                "revoke needs the id of a token, which `tokens list` shows: tokens revoke ID",
		"revoke ci":                             `revoke: id: "ci" is not an id: an id is a UUID such as 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b`,
		"create":                                "NAME is required: it tells people whose token it is, as in ci-deploy; --role is required: one of viewer, operator, editor, admin" + use,
		"create a":                              "--role is required: one of viewer, operator, editor, admin" + use,
		"create a --role":                       "flag needs an argument: -role" + use,
		"create a --role root":                  `--role "root" is not known: it must be one of viewer, operator, editor, admin` + use,
		"create a b --role admin":               `create takes one name, but got ["a" "b"]` + use,
		"create a --role admin --label team":    `invalid value "team" for flag -label: it must be KEY=VALUE` + use,
		"create a --role admin --label =x":      `--label "" is not a label name: it must be 1 to 63 characters of a-z, A-Z, 0-9, '.', '_', '/' and '-', beginning with a letter or digit` + use,
		"create a --role admin --expires 90d":   `invalid value "90d" for flag -expires: parse error` + use,
		"create a --role admin --expires 9000h": "--expires must be from 1m0s to 8784h" + use,
		"create a --role admin --max-definitions -1": "--max-definitions must be from 0 (no limit) to 1000000" + use,
		"create a --admin":                           "flag provided but not defined: -admin" + use,
	} {
		err := run(context.Background(), strings.Fields(args), func(string) string { return "" }, io.Discard, io.Discard)
		var usage *lifecycle.UsageError
		if !errors.As(err, &usage) || err.Error() != want {
			t.Errorf("tokens %s: error = %v, want %s", args, err, want)
		}
	}
}

func TestMissingConfiguration(t *testing.T) {
	t.Parallel()
	_, _, err := tokens(t, "", "list")
	var coded interface{ ExitCode() int }
	if !errors.As(err, &coded) || coded.ExitCode() != 2 || !strings.HasPrefix(err.Error(), "ACTCORE_DB_URL is not set: ") {
		t.Errorf("error = %v", err)
	}
}
