// Command api serves the REST API, its OpenAPI document and its documentation page.
package main

import (
	"context"
	"io"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/temporalclient"
	"github.com/activity-core/activity-core/migrations"
)

func main() { lifecycle.Main("api", run) }

func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	mode, err := lifecycle.ParseArgs("api", args, stdout)
	if err != nil || mode == lifecycle.ModeDone {
		return err
	}
	cfg, err := config.LoadAPI(getenv)
	if err != nil {
		return err
	}
	if mode == lifecycle.ModeHealthcheck {
		return lifecycle.Healthcheck(ctx, cfg.Addr)
	}
	return serve(ctx, cfg, stdout)
}

func serve(ctx context.Context, cfg config.API, stdout io.Writer) error {
	log := lifecycle.NewLogger(cfg.Log, stdout)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	pool, err := postgres.Open(ctx, cfg.DB.URL, "api")
	if err != nil {
		return err
	}
	defer pool.Close()
	store := postgres.New(pool)
	countSlots, err := ledger.CountSlots(registry, cfg.Metrics.PerDefinition)
	if err != nil {
		return err
	}
	store.OnJudged(countSlots) // a change of a definition judges what was due before it
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
	// Only for its SyncNow: going on with what stays pending is the workers' job.
	schedules, err := schedule.NewReconciler(schedule.Options{
		Store: store, Temporal: temporal, TaskQueue: cfg.Names.OrchestratorTaskQueue, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	readiness, err := lifecycle.NewReadiness(lifecycle.ReadinessOptions{
		Checks: map[string]lifecycle.Check{
			"postgres": store.Ping,
			"schema":   func(ctx context.Context) error { return migrations.Check(ctx, pool) },
			"temporal": temporalclient.Check(temporal, cfg.Temporal.Options.Namespace),
		},
		Log: log, Stopping: ctx.Done(),
	})
	if err != nil {
		return err
	}
	handler, err := api.New(api.Options{
		Store: store, Ledger: runs, Syncer: schedules, Health: http.HandlerFunc(lifecycle.Healthz), Ready: readiness, Log: log,
		Registerer: registry,
	})
	if err != nil {
		return err
	}

	ops, err := lifecycle.NewOps(lifecycle.OpsOptions{Addr: cfg.Metrics.Addr, Readiness: readiness, Gatherer: registry, Log: log})
	if err != nil {
		return err
	}
	listener, err := lifecycle.Listen("ACTCORE_API_ADDR", cfg.Addr)
	if err != nil {
		return err
	}
	log.Info("serving", "api", listener.Addr().String(), "metrics", ops.Addr(), "version", lifecycle.VersionText())
	return lifecycle.Run(ctx, log,
		lifecycle.Component{Name: "operations server", Run: ops.Run},
		lifecycle.Component{Name: "readiness watch", Run: readiness.Watch},
		lifecycle.Component{Name: "api server", Run: func(ctx context.Context) error {
			return lifecycle.Serve(ctx, lifecycle.NewHTTPServer(handler, log), listener)
		}},
	)
}
