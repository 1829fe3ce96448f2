// Command worker carries out runs and their tasks, makes Temporal's schedules follow their definitions, and starts what
// was recorded and not started. Any number of workers may run; they coordinate through Postgres and Temporal alone.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"
	_ "time/tzdata" // the zones of cron definitions, also in an image without them

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/execution"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/temporalclient"
	"github.com/activity-core/activity-core/migrations"
)

// stopTimeout is a little longer than what tasks in progress get.
const stopTimeout = execution.StopTimeout + 5*time.Second

func main() { lifecycle.Main("worker", run) }

func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	mode, err := lifecycle.ParseArgs("worker", args, stdout)
	if err != nil || mode == lifecycle.ModeDone {
		return err
	}
	cfg, err := config.LoadWorker(getenv)
	if err != nil {
		return err
	}
	if mode == lifecycle.ModeHealthcheck {
		return lifecycle.Healthcheck(ctx, cfg.Metrics.Addr)
	}
	return serve(ctx, cfg, lifecycle.NewLogger(cfg.Log, stdout))
}

// serve makes the parts, from the outside in, and runs them until the context ends.
func serve(ctx context.Context, cfg config.Worker, log *slog.Logger) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	pool, err := postgres.Open(ctx, cfg.DB.URL, "worker")
	if err != nil {
		return err
	}
	defer pool.Close()
	store := postgres.New(pool)

	temporal, err := temporalclient.New(temporalclient.Options{Temporal: cfg.Temporal, Log: log, Registerer: registry})
	if err != nil {
		return err
	}
	defer temporal.Close()
	namespace := cfg.Temporal.Options.Namespace

	nc, err := connectNATS(cfg.NATS, log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}

	runs, err := execution.NewWorker(execution.Options{
		Temporal: temporal, Store: store, Publisher: js, Log: log, Registerer: registry,
		OrchestratorTaskQueue: cfg.Names.OrchestratorTaskQueue, TaskTaskQueue: cfg.Names.TaskTaskQueue,
		PerDefinition: cfg.Metrics.PerDefinition,
	})
	if err != nil {
		return err
	}
	starter, err := ledger.New(ledger.Options{
		Store: store, Temporal: temporal, TaskQueue: cfg.Names.OrchestratorTaskQueue, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	sweeper, err := ledger.NewSweeper(ledger.SweeperOptions{
		Ledger: starter, Store: store, Temporal: temporal, Namespace: namespace, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	reaper, err := ledger.NewReaper(ledger.ReaperOptions{
		Store: store, Temporal: temporal, Namespace: namespace, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	followSchedules, err := schedules(cfg, store, temporal, log, registry)
	if err != nil {
		return err
	}

	readiness, err := lifecycle.NewReadiness(lifecycle.ReadinessOptions{
		Checks: map[string]lifecycle.Check{
			"postgres": store.Ping,
			"schema":   func(ctx context.Context) error { return migrations.Check(ctx, pool) },
			"temporal": temporalclient.Check(temporal, namespace),
			"nats":     func(context.Context) error { return connected(nc) },
			"workers":  func(context.Context) error { return runs.Ready() },
		},
		Log: log, Stopping: ctx.Done(),
	})
	if err != nil {
		return err
	}
	ops, err := lifecycle.NewOps(lifecycle.OpsOptions{Addr: cfg.Metrics.Addr, Readiness: readiness, Gatherer: registry, Log: log})
	if err != nil {
		return err
	}
	log.Info("serving", "metrics", ops.Addr(), "temporal", cfg.Temporal.String(), "nats", cfg.NATS.String(),
		"schedule_sync", !cfg.SkipScheduleSync, "version", lifecycle.VersionText())
	return lifecycle.Run(ctx, log,
		lifecycle.Component{Name: "operations server", Run: ops.Run},
		lifecycle.Component{Name: "temporal workers", Run: runs.Run, StopTimeout: stopTimeout},
		lifecycle.Component{Name: "sweeper", Run: sweeper.Run},
		lifecycle.Component{Name: "reaper", Run: reaper.Run},
		lifecycle.Component{Name: "schedules", Run: followSchedules},
	)
}

// schedules returns what keeps Temporal's side in order: the search attributes first, for nothing can be written without
// them, then the schedules, unless that is turned off.
func schedules(
	cfg config.Worker, store *postgres.Store, temporal client.Client, log *slog.Logger, registry prometheus.Registerer,
) (func(context.Context) error, error) {
	follow := func(context.Context) error { return nil }
	if !cfg.SkipScheduleSync {
		reconciler, err := schedule.NewReconciler(schedule.Options{
			Store: store, Temporal: temporal, TaskQueue: cfg.Names.OrchestratorTaskQueue, Log: log, Registerer: registry,
		})
		if err != nil {
			return nil, err
		}
		follow = reconciler.Run
	}
	return func(ctx context.Context) error {
		err := lifecycle.Retry(ctx, log, "prepare the Temporal namespace", func(ctx context.Context) error {
			return temporalclient.EnsureSearchAttributes(ctx, temporal, cfg.Temporal.Options.Namespace)
		})
		if err != nil {
			return nil //nolint:nilerr // only the end of the context ends the retries
		}
		return follow(ctx)
	}, nil
}

// connectNATS returns a connection that is made, and made again, in the background. While it is down, publishing fails at
// once instead of filling a buffer: the task is tried again, and knows it.
func connectNATS(cfg config.NATS, log *slog.Logger) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("activity-core worker"),
		nats.Timeout(5 * time.Second),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second),
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("lost the connection to NATS", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("connected to NATS again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("NATS reports an error", "error", err) }),
	}
	if cfg.Creds != "" {
		options = append(options, nats.UserCredentials(cfg.Creds))
	}
	nc, err := nats.Connect(cfg.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("NATS_URL: connect to %s: %w", cfg, err)
	}
	return nc, nil
}

// connected tells why publish tasks could not work now.
func connected(nc *nats.Conn) error {
	if nc.IsConnected() {
		return nil
	}
	if err := nc.LastError(); err != nil {
		return fmt.Errorf("not connected: %w; publish tasks fail until NATS is back", err)
	}
	return fmt.Errorf("not connected; publish tasks fail until NATS is back")
}
