// Command api serves the REST API, its OpenAPI document and its documentation page.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.temporal.io/api/serviceerror"

	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/auth"
	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/lifecycle"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/temporalclient"
	"github.com/activity-core/activity-core/migrations"
)

func main() {
	spendMemory()
	lifecycle.Main("api", run)
}

// heapGrowth is by how many percent the heap may grow between two garbage collections. A request leaves much garbage and the service
// keeps little: with Go's default of 100, a list of 50 definitions spent a sixth of its time on collections. GOMEMLIMIT is the bound
// for whoever has less memory.
const heapGrowth = 400

// spendMemory sets heapGrowth unless the operator has set another.
func spendMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
}

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
		return lifecycle.Healthcheck(ctx, healthAddr(cfg))
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
	// For what is told at once: telling it again is the workers' job.
	stopper, err := ledger.NewStopper(ledger.StopperOptions{Store: store, Temporal: temporal, Log: log, Registerer: registry})
	if err != nil {
		return err
	}
	// For its SyncNow and SyncAll: going on with what stays pending is the workers' job.
	schedules, err := schedule.NewReconciler(schedule.Options{
		Store: store, Temporal: temporal, TaskQueue: cfg.Names.OrchestratorTaskQueue, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	temporalCheck := temporalclient.Check(temporal, cfg.Temporal.Options.Namespace)
	readiness, err := lifecycle.NewReadiness(lifecycle.ReadinessOptions{
		Checks: map[string]lifecycle.Check{
			"postgres": store.Ping,
			"schema":   func(ctx context.Context) error { return migrations.Check(ctx, pool) },
			"temporal": temporalCheck,
		},
		Log: log, Stopping: ctx.Done(),
	})
	if err != nil {
		return err
	}
	options := api.Options{
		Store: store, Ledger: runs, Stopper: stopper, Syncer: schedules, TemporalUI: temporalUI(cfg),
		FullSyncer: fullSync{schedules: schedules, temporal: temporalCheck, stopping: ctx.Done()},
		Limits:     api.Limits{Caller: cfg.RateLimit, Address: cfg.RateLimitAddress, FailedCredentials: api.DefaultFailedCredentials},
		Health:     http.HandlerFunc(lifecycle.Healthz), Ready: readiness, Log: log, Registerer: registry,
		Origins: cfg.Origins, TrustedProxies: cfg.TrustedProxies, AccessLog: cfg.AccessLog,
	}
	if !cfg.AuthOff {
		if options.Access, err = whoCalls(cfg.OIDC, store, log); err != nil {
			return err
		}
	}
	handler, err := api.New(options)
	if err != nil {
		return err
	}
	server := lifecycle.NewHTTPServer(handler, log)
	server.MaxHeaderBytes = 2 * api.MaxHeaders // the handler refuses those that have too many, in words
	if cfg.TLS != nil {
		server.TLSConfig, err = lifecycle.NewTLS(lifecycle.TLSOptions{
			CertFile: cfg.TLS.Cert, KeyFile: cfg.TLS.Key, ClientCAFile: cfg.TLS.ClientCA, Log: log,
		})
		if err != nil {
			return err
		}
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
	if cfg.AuthOff {
		log.Warn("everybody may do everything: ACTCORE_AUTH is off")
	}
	return lifecycle.Run(ctx, log,
		lifecycle.Component{Name: "operations server", Run: ops.Run},
		lifecycle.Component{Name: "readiness watch", Run: readiness.Watch},
		lifecycle.Component{Name: "api server", Run: func(ctx context.Context) error {
			return lifecycle.Serve(ctx, server, listener)
		}},
	)
}

// healthAddr is where the health check asks: at the API itself or, where that wants a name and perhaps a certificate, at the operations
// server, which gives the same answer.
func healthAddr(cfg config.API) string {
	if cfg.TLS != nil {
		return cfg.Metrics.Addr
	}
	return cfg.Addr
}

// whoCalls knows tokens, and people where there is an identity provider.
func whoCalls(provider *config.OIDC, tokens *postgres.Store, log *slog.Logger) (*auth.Authenticator, error) {
	options := auth.Options{Tokens: tokens, Log: log}
	if provider != nil {
		people, err := auth.NewPeople(auth.OIDCOptions{
			Issuer: provider.Issuer, Audience: provider.Audience, Algorithms: provider.Algorithms, Claim: provider.Claim,
			Grants: provider.Grants, Log: log,
		})
		if err != nil {
			return nil, err
		}
		options.People = people
	}
	return auth.New(options)
}

// temporalUI returns the address of the namespace's page in Temporal's Web UI; "" where it is not known.
func temporalUI(cfg config.API) string {
	if cfg.TemporalUI == "" {
		return ""
	}
	return cfg.TemporalUI + "/namespaces/" + url.PathEscape(cfg.Temporal.Options.Namespace)
}

// reachTimeout bounds asking whether Temporal is there.
const reachTimeout = 5 * time.Second

// fullSync gives the API the reconciler's comparison of all schedules, in the API's own words.
type fullSync struct {
	schedules *schedule.Reconciler
	temporal  lifecycle.Check
	stopping  <-chan struct{} // closed when the process is told to stop
}

func (f fullSync) SyncAll(ctx context.Context, dryRun bool) (api.SyncResult, error) {
	// Asked first, so that a server that is away, or that is not prepared for us, is told of at once and with its reason.
	asking, answered := context.WithTimeout(ctx, reachTimeout)
	err := f.temporal(asking)
	answered()
	if err != nil {
		return api.SyncResult{}, fmt.Errorf("%w: %w", api.ErrTemporal, err)
	}

	ctx, cut := context.WithCancel(ctx)
	defer cut()
	go func() { // a process that stops does not wait for the rest
		select {
		case <-f.stopping:
			cut()
		case <-ctx.Done():
		}
	}()
	r, err := f.schedules.SyncAll(ctx, dryRun)
	result := api.SyncResult{
		Complete: err == nil, Created: r.Created, Updated: r.Updated, Paused: r.Paused, Unpaused: r.Unpaused, Deleted: r.Deleted,
		Unchanged: r.Unchanged, Failed: r.Failed,
	}
	for _, failure := range r.Failures {
		result.Failures = append(result.Failures, api.SyncFailure(failure))
	}
	var (
		unavailable *serviceerror.Unavailable
		late        *serviceerror.DeadlineExceeded
		exhausted   *serviceerror.ResourceExhausted
	)
	switch {
	case ctx.Err() != nil: // cut off, which the result says
		return result, nil
	case errors.As(err, &unavailable), errors.As(err, &late), errors.As(err, &exhausted):
		return result, fmt.Errorf("%w: %w", api.ErrTemporal, err)
	}
	return result, err
}
