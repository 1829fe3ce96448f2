package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
)

func environment(t *testing.T, databaseURL string) map[string]string {
	t.Helper()
	return map[string]string{
		"ACTCORE_DB_URL": databaseURL, "TEMPORAL_HOST": testenv.Stack(t).TemporalAddress,
		"TEMPORAL_NAMESPACE": testenv.Namespace(t), "LOG_LEVEL": "error",
	}
}

func call(ctx context.Context, env map[string]string, args ...string) (string, error) {
	var out strings.Builder
	err := run(ctx, args, func(name string) string { return env[name] }, &out)
	return out.String(), err
}

func TestSyncSchedules(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	env := environment(t, pool.Config().ConnString())
	store := postgres.New(pool)
	create := func(name, more string) string {
		doc, err := definition.ParseDocument([]byte(fmt.Sprintf(
			`{"name": %q, "trigger_config": {"trigger_type": "cron", "cron_expression": "0 3 * * *"} %s}`, name, more)))
		if err != nil {
			t.Fatal(err)
		}
		stored, err := store.CreateDefinition(t.Context(), doc)
		if err != nil {
			t.Fatal(err)
		}
		return stored.ID
	}
	create("one", "")
	two := create("two", `, "enabled": false`)

	table := func(created, unchanged int) string {
		return fmt.Sprintf("created    %d\nupdated    0\npaused     0\nunpaused   0\ndeleted    0\nunchanged  %d\nfailed     0\n",
			created, unchanged)
	}
	// synced calls until nothing fails: a loaded machine makes Temporal miss our deadlines.
	synced := func(args ...string) (out string, first bool) {
		t.Helper()
		first = true
		testenv.Eventually(t, time.Minute, "a call that succeeds", func(ctx context.Context) (bool, error) {
			var err error
			out, err = call(ctx, env, args...)
			if err != nil && strings.Contains(out, "temporal does not answer") {
				first = false
				return false, nil
			}
			return err == nil, err
		})
		return out, first
	}
	out, _ := synced("--dry-run")
	if want := "dry run: nothing was changed; this is what would be done\n" + table(2, 0); out != want {
		t.Errorf("dry run printed %q, want %q", out, want)
	}
	if out, first := synced(); first && out != table(2, 0) {
		t.Errorf("printed %q", out)
	}
	if out, _ := synced("-o", "text"); out != table(0, 2) {
		t.Errorf("the second time printed %q", out)
	}
	c := testenv.Temporal(t)
	d, err := c.ScheduleClient().GetHandle(t.Context(), definition.ScheduleID(two)).Describe(t.Context())
	if err != nil || !d.Schedule.State.Paused ||
		d.Schedule.Action.(*client.ScheduleWorkflowAction).TaskQueue != "orchestrator-tq" {
		t.Errorf("schedule = %+v, %v", d, err)
	}

	// Another database that calls itself a different installation and has the same definitions.
	testenv.Eventually(t, time.Minute, "the list shows both", func(ctx context.Context) (bool, error) {
		it, err := c.ScheduleClient().List(ctx, client.ScheduleListOptions{})
		n := 0
		for err == nil && it.HasNext() {
			_, err = it.Next()
			n++
		}
		return n >= 2, err
	})
	if _, err := pool.Exec(t.Context(), "UPDATE installation SET id = gen_random_uuid()"); err != nil {
		t.Fatal(err)
	}
	out, err = call(t.Context(), env, "-o", "json")
	if err == nil || !strings.HasPrefix(err.Error(), "2 schedules are not up to date") {
		t.Errorf("error = %v", err)
	}
	var result struct {
		DryRun   bool `json:"dry_run"`
		Complete bool `json:"complete"`
		Created  *int `json:"created"`
		Failed   int  `json:"failed"`
		Failures []struct {
			DefinitionID string `json:"definition_id"`
			Error        string `json:"error"`
		} `json:"failures"`
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if result.DryRun || !result.Complete || result.Created == nil || result.Failed != 2 || len(result.Failures) != 2 ||
		result.Failures[1].DefinitionID != two || !strings.Contains(result.Failures[1].Error, "another installation") {
		t.Errorf("json = %s", out)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, says string }{
		{"-o yaml", `-o "yaml": the format must be text or json`},
		{"-o", "flag needs an argument: -o"},
		{"--force", "flag provided but not defined: -force"},
		{"now", `unknown argument "now"`},
		{"--dry-run=maybe", "invalid boolean value"},
	} {
		_, err := call(t.Context(), nil, strings.Fields(c.args)...)
		var coded interface{ ExitCode() int }
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") ||
			!errors.As(err, &coded) || coded.ExitCode() != 2 {
			t.Errorf("%s: %v, want %q and exit code 2", c.args, err, c.says)
		}
	}
	for _, help := range []string{"-h", "--help", "help"} {
		if out, err := call(t.Context(), nil, help); err != nil || !strings.HasPrefix(out, "Usage: sync-schedules ") {
			t.Errorf("%s printed %q, %v", help, out, err)
		}
	}
	if _, err := call(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "ACTCORE_DB_URL") {
		t.Errorf("without configuration: %v", err)
	}
}

func TestServersAway(t *testing.T) {
	t.Parallel()
	env := environment(t, "postgres://u:hunter2@127.0.0.1:1/d")
	_, err := call(t.Context(), env)
	if err == nil || !strings.Contains(err.Error(), "ACTCORE_DB_URL") || strings.Contains(err.Error(), "hunter2") ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("without Postgres: %v", err)
	}
	env = environment(t, testenv.DatabaseURL(t))
	env["TEMPORAL_NAMESPACE"] = "no-such-namespace"
	if _, err := call(t.Context(), env); err == nil || !strings.Contains(err.Error(), "temporal operator namespace create") {
		t.Errorf("without the namespace: %v", err)
	}
	env["TEMPORAL_HOST"] = "127.0.0.1:1"
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // sooner than our own limit
	defer cancel()
	if _, err := call(ctx, env); err == nil || !strings.Contains(err.Error(), "TEMPORAL_HOST") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without Temporal: %v", err)
	}
}
