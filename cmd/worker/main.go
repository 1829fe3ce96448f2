// Command worker carries out runs and their tasks, makes Temporal's schedules follow their definitions, and starts what
// was recorded and not started. Any number of workers may run; they coordinate through Postgres and Temporal alone.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/eventbus"
	"github.com/activity-core/activity-core/internal/execution"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/temporalclient"
	"github.com/activity-core/activity-core/migrations"
)

// inboxPrefix begins the inboxes of a worker: allow its user to subscribe to "_INBOX_worker.>".
const inboxPrefix = "_INBOX_worker"

// attributesEvery is how often the search attributes are looked at: a Temporal server that was set up anew lacks them.
const attributesEvery = time.Minute

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
	return serve(ctx, cfg, execution.NewSecrets(getenv, cfg.SecretsDir), lifecycle.NewLogger(cfg.Log, stdout))
}

// serve makes the parts, from the outside in, and runs them until the context ends.
func serve(ctx context.Context, cfg config.Worker, secrets *execution.Secrets, log *slog.Logger) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	pool, err := postgres.Open(ctx, cfg.DB.URL, "worker")
	if err != nil {
		return err
	}
	defer pool.Close()
	store := postgres.New(pool)
	countSlots, err := ledger.CountSlots(registry, cfg.Metrics.PerDefinition)
	if err != nil {
		return err
	}
	store.OnJudged(countSlots)

	temporal, err := temporalclient.New(temporalclient.Options{Temporal: cfg.Temporal, Log: log, Registerer: registry})
	if err != nil {
		return err
	}
	defer temporal.Close()
	namespace := cfg.Temporal.Options.Namespace

	// Unbuffered: a publish task fails at once while NATS is away, is tried again, and knows it.
	nc, err := eventbus.Connect(eventbus.ConnectOptions{
		URL: cfg.NATS.URL, Creds: cfg.NATS.Creds, Name: "activity-core worker", InboxPrefix: inboxPrefix, Unbuffered: true, Log: log,
	})
	if err != nil {
		return err
	}
	defer eventbus.Close(nc)
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}

	starter, err := ledger.New(ledger.Options{
		Store: store, Temporal: temporal, TaskQueue: cfg.Names.OrchestratorTaskQueue, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	announcer, err := announcer(cfg, starter, store, nc, log, registry)
	if err != nil {
		return err
	}
	runs, err := execution.NewWorker(execution.Options{
		Temporal: temporal, Store: store, Publisher: js, Log: log, Registerer: registry,
		OrchestratorTaskQueue: cfg.Names.OrchestratorTaskQueue, TaskTaskQueue: cfg.Names.TaskTaskQueue,
		Secrets: secrets, Egress: cfg.Egress, SubjectPrefix: cfg.Names.SubjectPrefix, PerDefinition: cfg.Metrics.PerDefinition,
		Ended: announcer.Nudge,
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
	watchdog, err := ledger.NewWatchdog(ledger.WatchdogOptions{Store: store, Temporal: temporal, Log: log})
	if err != nil {
		return err
	}
	backfiller, err := ledger.NewBackfiller(ledger.BackfillerOptions{Ledger: starter, Store: store, Log: log})
	if err != nil {
		return err
	}
	retention, err := ledger.NewRetention(ledger.RetentionOptions{
		Store: store, Age: cfg.Retention, Log: log, Registerer: registry,
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
	stopper, err := ledger.NewStopper(ledger.StopperOptions{Store: store, Temporal: temporal, Log: log, Registerer: registry})
	if err != nil {
		return err
	}
	store.OnStops(stopper.Nudge) // a run that takes the place of others begins in a worker
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
		"schedule_sync", !cfg.SkipScheduleSync, "egress_allow", cfg.Egress.String(), "version", lifecycle.VersionText())
	return lifecycle.Run(ctx, log,
		lifecycle.Component{Name: "operations server", Run: ops.Run},
		lifecycle.Component{Name: "readiness watch", Run: readiness.Watch},
		lifecycle.Component{Name: "temporal workers", Run: runs.Run, StopTimeout: stopTimeout},
		lifecycle.Component{Name: "slot watchdog", Run: watchdog.Run},
		lifecycle.Component{Name: "sweeper", Run: sweeper.Run},
		lifecycle.Component{Name: "backfiller", Run: backfiller.Run},
		lifecycle.Component{Name: "reaper", Run: reaper.Run},
		lifecycle.Component{Name: "stopper", Run: stopper.Run},
		lifecycle.Component{Name: "announcer", Run: announcer.Run},
		lifecycle.Component{Name: "retention", Run: retention.Run},
		lifecycle.Component{Name: "schedules", Run: followSchedules},
	)
}

// announcer makes what tells of the ends of runs.
func announcer(cfg config.Worker, starter *ledger.Ledger, store *postgres.Store, nc *nats.Conn, log *slog.Logger,
	registry prometheus.Registerer) (*ledger.Announcer, error) {
	o := ledger.AnnouncerOptions{
		Ledger: starter, Store: store, SubjectPrefix: cfg.Names.SubjectPrefix, Log: log, Registerer: registry,
	}
	if cfg.RunEvents {
		publisher, err := eventbus.NewPublisher(nc, cfg.Names.Stream)
		if err != nil {
			return nil, err
		}
		o.Publisher = publisher
	}
	return ledger.NewAnnouncer(o)
}

// schedules returns what keeps Temporal's side in order: the search attributes first, for nothing can be written without
// them, and again from time to time; and the schedules, unless that is turned off.
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
	ensure := func(ctx context.Context) error {
		return lifecycle.Retry(ctx, log, "prepare the Temporal namespace", func(ctx context.Context) error {
			return temporalclient.EnsureSearchAttributes(ctx, temporal, cfg.Temporal.Options.Namespace)
		})
	}
	return func(ctx context.Context) error {
		if ensure(ctx) != nil {
			return nil // only the end of the context ends the retries
		}
		var both errgroup.Group
		both.Go(func() error { return follow(ctx) })
		both.Go(func() error {
			tick := time.NewTicker(attributesEvery)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
					_ = ensure(ctx) // it fails only when the context ends
				}
			}
		})
		return both.Wait()
	}, nil
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
