package postgres

import (
	"context"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/migrations"
)

// TestLeastPrivilege makes the roles of the RUNBOOK, with names of this test's own: what services do works with the rights that they are
// given, and what they never do is refused.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../RUNBOOK.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text2, _ := strings.Cut(string(text), "## Postgres with least privilege")
	parts := strings.Split(text2, "```")
	if len(parts) < 4 {
		t.Fatal("the RUNBOOK has no statements that make the roles")
	}
	suffix := "_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	names := strings.NewReplacer("actcore_owner", "actcore_owner"+suffix, "actcore_service", "actcore_service"+suffix,
		"DATABASE actcore ", "DATABASE actcore"+suffix+" ")
	server, database, _ := strings.Cut(names.Replace(strings.TrimPrefix(parts[1], "sql")), `\connect actcore`)
	after := names.Replace(strings.TrimPrefix(parts[3], "sql"))

	cluster := testenv.Stack(t).PostgresURL
	as := func(role string) string {
		u, err := url.Parse(cluster)
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/actcore" + suffix
		if role != "" {
			u.User = url.UserPassword(role+suffix, "change-me")
		}
		return u.String()
	}
	run := func(address, statements string) error {
		conn, err := pgx.Connect(t.Context(), address)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
		for _, s := range strings.Split(statements, ";\n") {
			if strings.TrimSpace(s) == "" {
				continue
			}
			if _, err := conn.Exec(t.Context(), s); err != nil {
				return err
			}
		}
		return nil
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, cluster)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close(ctx) }()
		for _, s := range []string{"DROP DATABASE IF EXISTS actcore" + suffix + " WITH (FORCE)", "DROP ROLE IF EXISTS actcore_service" + suffix,
			"DROP ROLE IF EXISTS actcore_owner" + suffix} {
			if _, err := conn.Exec(ctx, s); err != nil {
				t.Errorf("%s: %v", s, err)
			}
		}
	})
	for _, step := range []struct{ address, statements string }{{cluster, server}, {as(""), database}} {
		if err := run(step.address, step.statements); err != nil {
			t.Fatalf("%s: %v", step.statements, err)
		}
	}
	if err := migrations.Up(t.Context(), as("actcore_owner")); err != nil {
		t.Fatal(err)
	}
	if err := run(as("actcore_owner"), after); err != nil {
		t.Fatalf("%s: %v", after, err)
	}

	pool, err := Open(t.Context(), as("actcore_service"), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s, ctx := New(pool), t.Context()
	d := create(t, s, `{"name": "d", "labels": {"team": "a"}, "trigger_config": {"trigger_type": "cron", "cron_expression": "0 3 1 6 *"}}`)
	if err := migrations.Check(ctx, pool); err != nil {
		t.Errorf("a service cannot tell whether the schema is new enough: %v", err)
	}
	starts, err := s.AcceptRuns(ctx, []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual, Key: definition.ManualKey()}})
	if err != nil || len(starts) != 1 {
		t.Fatalf("%d runs, %v", len(starts), err)
	}
	if _, err := s.CloseUnbegun(ctx, definition.Finish{RunID: starts[0].RunID, Status: definition.RunFailed, Reason: definition.ReasonStartRefused}); err != nil {
		t.Error(err)
	}
	if list, err := s.ListRuns(ctx, definition.ListRuns{Limit: 1}); err != nil || len(list) != 1 || !list[0].Status.Final() {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.DeleteDefinition(ctx, d.ID); err != nil {
		t.Error(err)
	}
	for _, statement := range []string{
		"CREATE TABLE mine (n int)", "ALTER TABLE definitions ADD COLUMN mine int", "DROP TABLE runs", "TRUNCATE runs",
		"ALTER TABLE audit DISABLE TRIGGER audit_is_append_only", "UPDATE audit SET actor = 'nobody'",
		"UPDATE schema_migrations SET version = 1", "CREATE SCHEMA mine", "SET ROLE actcore_owner" + suffix,
	} {
		if _, err := pool.Exec(ctx, statement); sqlState(err) != "42501" { // insufficient_privilege
			t.Errorf("%s: %v, want it refused", statement, err)
		}
	}
}
