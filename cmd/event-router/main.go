// Command event-router turns events on JetStream into runs.
package main

import (
	"context"
	"io"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/eventbus"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/router"
	"github.com/activity-core/activity-core/internal/temporalclient"
	"github.com/activity-core/activity-core/migrations"
)

const (
	name = "event-router"
	// inboxPrefix begins the inboxes of a router, so that its user needs no right on the inboxes of others: allow it to
	// subscribe to "_INBOX_router.>".
	inboxPrefix = "_INBOX_router"
	// stopTimeout is the router's drain timeout and a fetch that was under way.
	stopTimeout = router.DefaultDrainTimeout + 5*time.Second
)

func main() { lifecycle.Main(name, run) }

func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	mode, err := lifecycle.ParseArgs(name, args, stdout)
	if err != nil || mode == lifecycle.ModeDone {
		return err
	}
	cfg, err := config.LoadRouter(getenv)
	if err != nil {
		return err
	}
	if mode == lifecycle.ModeHealthcheck {
		return lifecycle.Healthcheck(ctx, cfg.Metrics.Addr)
	}
	tuneCollector(getenv)
	return serve(ctx, cfg, stdout)
}

// tuneCollector lets garbage grow to four times what is in use, for a router's live heap is a few megabytes while its
// messages are garbage at once: with Go's default it collects every few milliseconds under load, which costs about a
// tenth of its events (`make bench`). Above heapLimit, as with a very large table of definitions, it collects as eagerly
// as it must. An operator's GOGC and GOMEMLIMIT stand.
func tuneCollector(getenv func(string) string) {
	const heapLimit = 512 << 20
	if getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(heapLimit)
	}
}

func serve(ctx context.Context, cfg config.Router, stdout io.Writer) error {
	log := lifecycle.NewLogger(cfg.Log, stdout)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	pool, err := postgres.Open(ctx, cfg.DB.URL, name)
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
	runs, err := ledger.New(ledger.Options{
		Store: store, Temporal: temporal, TaskQueue: cfg.Names.OrchestratorTaskQueue, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	nc, err := eventbus.Connect(eventbus.ConnectOptions{
		URL: cfg.NATS.URL, Creds: cfg.NATS.Creds, Name: "activity-core " + name, InboxPrefix: inboxPrefix, Log: log,
	})
	if err != nil {
		return err
	}
	defer eventbus.Close(nc)
	bus, err := eventbus.New(eventbus.Options{
		Conn: nc, Stream: cfg.Names.Stream, SubjectPrefix: cfg.Names.SubjectPrefix, Durable: cfg.Names.Durable,
		Manage: cfg.ManageStream, Log: log,
	})
	if err != nil {
		return err
	}
	routing, err := router.New(router.Options{
		Source: bus, Store: store, Ledger: runs, SubjectPrefix: cfg.Names.SubjectPrefix,
		RecordUnmatched: cfg.RecordUnmatched, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}

	readiness, err := lifecycle.NewReadiness(lifecycle.ReadinessOptions{
		Checks: map[string]lifecycle.Check{
			"postgres": store.Ping,
			"schema":   func(ctx context.Context) error { return migrations.Check(ctx, pool) },
			"temporal": temporalclient.Check(temporal, cfg.Temporal.Options.Namespace),
			"nats":     bus.Check,
			"routing":  routing.Check,
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
	log.Info("serving", "metrics", ops.Addr(), "stream", cfg.Names.Stream, "consumer", cfg.Names.Durable,
		"version", lifecycle.VersionText())
	return lifecycle.Run(ctx, log,
		lifecycle.Component{Name: "operations server", Run: ops.Run},
		lifecycle.Component{Name: "readiness watch", Run: readiness.Watch},
		lifecycle.Component{Name: "router", Run: routing.Run, StopTimeout: stopTimeout},
	)
}
