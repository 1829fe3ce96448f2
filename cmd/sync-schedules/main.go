// Command sync-schedules compares all Temporal Schedules with the definitions once, brings them up to date and prints
// what it did. It runs the same code as every worker, and may run beside them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/temporalclient"
	"github.com/activity-core/activity-core/migrations"
)

const usage = `Usage: sync-schedules [--dry-run] [-o text|json]

Brings every Temporal Schedule in line with its definition, once, and prints how many
were created, updated, paused, unpaused, deleted, left unchanged, and failed. It is
safe to run at any time, beside any number of workers.

  --dry-run  change nothing; print what would be done
  -o FORMAT  text (default) or json

It needs ACTCORE_DB_URL, and TEMPORAL_HOST and TEMPORAL_NAMESPACE when they are not
the defaults; ACTCORE_ORCHESTRATOR_TASK_QUEUE must be the same as the workers'. What
happens to each schedule is logged to standard error.

Exit codes: 0 nothing failed, 1 something failed, 2 wrong usage or configuration.
`

// connectTimeout bounds reaching Postgres and reaching Temporal.
const connectTimeout = 10 * time.Second

func main() { lifecycle.Main("sync-schedules", run) }

func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.help {
		_, err := io.WriteString(stdout, usage)
		return err
	}
	cfg, err := config.LoadSync(getenv)
	if err != nil {
		return err
	}
	log := lifecycle.NewLogger(cfg.Log, os.Stderr)
	metrics := prometheus.NewRegistry() // read by nobody: the process is soon over
	pool, err := openPool(ctx, cfg.DB.URL)
	if err != nil {
		return err
	}
	defer pool.Close()
	temporal, err := dial(ctx, cfg.Temporal, log, metrics)
	if err != nil {
		return err
	}
	defer temporal.Close()
	reconciler, err := schedule.NewReconciler(schedule.Options{
		Store: postgres.New(pool), Temporal: temporal, TaskQueue: cfg.Names.OrchestratorTaskQueue, Log: log, Registerer: metrics,
	})
	if err != nil {
		return err
	}
	result, err := reconciler.SyncAll(ctx, o.dryRun)
	return errors.Join(report(stdout, o, result, err != nil), err, failed(result))
}

// options is what the arguments ask for.
type options struct {
	help, dryRun, json bool
}

func parse(args []string) (options, error) {
	var o options
	format := "text"
	flags := flag.NewFlagSet("sync-schedules", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it in one line
	flags.BoolVar(&o.dryRun, "dry-run", false, "")
	flags.StringVar(&format, "o", format, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp), err == nil && flags.Arg(0) == "help" && flags.NArg() == 1:
		o.help = true
		return o, nil
	case err != nil:
		return o, lifecycle.Usagef("%s: use sync-schedules [--dry-run] [-o text|json]", err)
	case flags.NArg() > 0:
		return o, lifecycle.Usagef("unknown argument %q: use sync-schedules [--dry-run] [-o text|json]", flags.Arg(0))
	case format != "text" && format != "json":
		return o, lifecycle.Usagef("-o %q: the format must be text or json", format)
	}
	o.json = format == "json"
	return o, nil
}

// openPool also asks at once whether the database is there and new enough, so that one sentence says what is wrong.
func openPool(ctx context.Context, databaseURL string) (*pgxpool.Pool, error) {
	pool, err := postgres.Open(ctx, databaseURL, "sync-schedules")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := postgres.New(pool).Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("%w: check that ACTCORE_DB_URL is right and that Postgres is up", err)
	}
	if err := migrations.Check(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// dial reaches Temporal now, rather than at the first call, so that one sentence says what is wrong.
func dial(ctx context.Context, t config.Temporal, log *slog.Logger, metrics prometheus.Registerer) (client.Client, error) {
	c, err := temporalclient.New(temporalclient.Options{Temporal: t, Log: log, Registerer: metrics})
	if err != nil {
		return nil, err
	}
	reach, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if _, err := c.CheckHealth(reach, &client.CheckHealthRequest{}); err != nil {
		c.Close()
		return nil, fmt.Errorf("reach Temporal at %s: %w: check that TEMPORAL_HOST is right and that Temporal is up", t, err)
	}
	if err := temporalclient.EnsureSearchAttributes(ctx, c, t.Options.Namespace); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// report prints the result; cut tells that the run did not get to its end.
func report(w io.Writer, o options, r schedule.Result, cut bool) error {
	if o.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(struct {
			DryRun   bool `json:"dry_run"`
			Complete bool `json:"complete"`
			schedule.Result
		}{o.dryRun, !cut, r})
	}
	var err error
	line := func(format string, args ...any) {
		_, werr := fmt.Fprintf(w, format+"\n", args...)
		err = errors.Join(err, werr)
	}
	if o.dryRun {
		line("dry run: nothing was changed; this is what would be done")
	}
	if cut {
		line("stopped before the end; this is what was done until then")
	}
	for _, outcome := range schedule.Outcomes {
		line("%-10s %d", outcome, r.Count(outcome))
	}
	for _, f := range r.Failures {
		line("failed     %s: %s", f.DefinitionID, f.Error)
	}
	return err
}

func failed(r schedule.Result) error {
	switch r.Failed {
	case 0:
		return nil
	case 1:
		return errors.New("1 schedule is not up to date; workers go on trying")
	}
	return fmt.Errorf("%d schedules are not up to date; workers go on trying", r.Failed)
}
