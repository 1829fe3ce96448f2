package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/headers"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/log/tag"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/postgresql"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"
	"go.temporal.io/server/tools/common/schema"
	sqltool "go.temporal.io/server/tools/sql"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	temporalDatabase   = "temporal"
	visibilityDatabase = "temporal_visibility"
	temporalShards     = 4 // can never change for an existing database
	temporalNamespace  = "default"

	temporalStartTimeout = 60 * time.Second
	temporalStopTimeout  = 30 * time.Second
	namespaceRetention   = 72 * time.Hour
	testRetention        = 24 * time.Hour
)

// searchAttributes are the ones that activity-core registers, all of type Keyword.
var searchAttributes = []string{"ActivityId", "ActivityName", "ActivitySpecHash"}

type temporalOptions struct {
	Cluster *pgCluster // Postgres, for persistence and visibility
	LogFile string
	Port    int // of the frontend, on 127.0.0.1
	// Failed receives the reason when a running server gives up.
	Failed func(error)
}

// temporalServer is a Temporal server with all its services in this process. Start and Stop may
// be called again and again; each Start makes a new server.
type temporalServer struct {
	opts     temporalOptions
	internal []int // ports of the services behind the frontend

	mu  sync.Mutex
	run *temporalRun // nil while stopped
}

// temporalRun is one life of the server.
type temporalRun struct {
	server temporal.Server
	logger *temporalLogger
}

func newTemporal(opts temporalOptions) (*temporalServer, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	return &temporalServer{opts: opts, internal: ports}, nil
}

func (t *temporalServer) address() string { return address(t.opts.Port) }

// Start sets up the databases when that is still to do, starts the server and returns when the
// namespace "default" can be used. It does nothing when the server is running.
func (t *temporalServer) Start(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.run != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, temporalStartTimeout)
	defer cancel()
	logger := newTemporalLogger(t.opts.LogFile)
	if err := t.setUpDatabases(ctx, logger); err != nil {
		return fmt.Errorf("set up Temporal's databases: %w", err)
	}
	for _, port := range append([]int{t.opts.Port}, t.internal...) {
		if err := awaitPortFree(ctx, port); err != nil {
			return fmt.Errorf("start Temporal: %w", err)
		}
	}
	srv, err := t.newServer(logger)
	if err != nil {
		return fmt.Errorf("start Temporal: %w (log: %s)", err, t.opts.LogFile)
	}
	run := &temporalRun{server: srv, logger: logger}
	started := make(chan error, 1)
	// In a goroutine of its own, because a fatal error of the server ends the goroutine.
	go func() { started <- srv.Start() }()
	select {
	case err = <-started:
	case err = <-logger.fatal:
	case <-ctx.Done():
		err = ctx.Err()
		select { // a server cannot be stopped while it starts
		case errStart := <-started:
			err = errors.Join(err, errStart)
		case errFatal := <-logger.fatal:
			err = errors.Join(err, errFatal)
		case <-time.After(temporalStopTimeout):
		}
	}
	if err == nil {
		err = t.registerNamespace(ctx, temporalNamespace, namespaceRetention)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start Temporal: %w (log: %s)", err, t.opts.LogFile), run.stop())
	}
	t.run = run
	go run.watch(t.opts.Failed)
	return nil
}

// Stop stops the server and returns when it has. It does nothing when the server is not running.
func (t *temporalServer) Stop() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.run == nil {
		return nil
	}
	run := t.run
	t.run = nil
	return run.stop()
}

// watch reports a fatal error of a running server.
func (r *temporalRun) watch(failed func(error)) {
	select {
	case err := <-r.logger.fatal:
		if failed != nil {
			failed(fmt.Errorf("the Temporal server gave up: %w", err))
		}
	case <-r.logger.closed:
	}
}

func (r *temporalRun) stop() error {
	close(r.logger.closed)
	stopped := make(chan error, 1)
	go func() { stopped <- r.server.Stop() }()
	select {
	case err := <-stopped:
		if err != nil {
			return fmt.Errorf("stop Temporal: %w", err)
		}
		return nil
	case <-time.After(temporalStopTimeout):
		return fmt.Errorf("the Temporal server did not stop within %s", temporalStopTimeout)
	}
}

func (t *temporalServer) newServer(logger log.Logger) (temporal.Server, error) {
	services := []primitives.ServiceName{
		primitives.FrontendService, primitives.HistoryService, primitives.MatchingService, primitives.WorkerService,
	}
	ports := append([]int{t.opts.Port}, t.internal...)
	hosts := make(map[primitives.ServiceName]static.Hosts, len(services))
	rpc := make(map[string]config.Service, len(services))
	for i, name := range services {
		hosts[name] = static.SingleLocalHost(address(ports[i]))
		rpc[string(name)] = config.Service{RPC: config.RPC{GRPCPort: ports[i], BindOnIP: loopback}}
	}
	const disabled = "disabled"
	cfg := &config.Config{
		Services: rpc,
		Persistence: config.Persistence{
			DefaultStore:     "default",
			VisibilityStore:  "visibility",
			NumHistoryShards: temporalShards,
			DataStores: map[string]config.DataStore{
				"default":    {SQL: t.sqlConfig(temporalDatabase, 20)},
				"visibility": {SQL: t.sqlConfig(visibilityDatabase, 10)},
			},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        "active",
			CurrentClusterName:       "active",
			ClusterInformation: map[string]cluster.ClusterInformation{
				"active": {Enabled: true, InitialFailoverVersion: 1, RPCAddress: t.address()},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		PublicClient:        config.PublicClient{HostPort: t.address()},
		Archival: config.Archival{
			History:    config.HistoryArchival{State: disabled},
			Visibility: config.VisibilityArchival{State: disabled},
		},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: disabled},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: disabled},
		}},
	}
	return temporal.NewServer(
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(logger),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithDynamicConfigClient(dynamicconfig.StaticClient{
			// A server for one developer or one test run: no reason to hold back schedules that are due in
			// the same second (30/s), lists (10/s) or the registering of namespaces (1/s).
			dynamicconfig.SchedulerNamespaceStartWorkflowRPS.Key():                                 500.0,
			dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key():                       100,
			dynamicconfig.FrontendMaxNamespaceNamespaceReplicationInducingAPIsRPSPerInstance.Key(): 100,
			dynamicconfig.FrontendNamespaceReplicationInducingAPIsRPS.Key():                        100,
			// A new namespace is usable sooner, and with it its search attributes: on Postgres they are names of its own for columns
			// that every namespace has.
			dynamicconfig.NamespaceCacheRefreshInterval.Key(): time.Second,
		}),
	)
}

// sqlConfig describes one database. Each of the four services has a pool of its own, so the
// cluster sees up to four times the limit.
func (t *temporalServer) sqlConfig(database string, connections int) *config.SQL {
	return &config.SQL{
		PluginName:      postgresql.PluginNamePGX,
		ConnectProtocol: "tcp",
		ConnectAddr:     address(t.opts.Cluster.opts.Port),
		User:            pgUser,
		Password:        pgUser,
		DatabaseName:    database,
		MaxConns:        connections,
		MaxIdleConns:    connections,
		MaxConnLifetime: time.Hour,
	}
}

// setUpDatabases creates and migrates Temporal's databases. A comment on each database says
// which server version its schema was completed for: a database without one was left half
// made, holds nothing yet and is made anew.
func (t *temporalServer) setUpDatabases(ctx context.Context, logger log.Logger) error {
	conn, err := pgx.Connect(ctx, t.opts.Cluster.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for database, schemaName := range map[string]string{
		temporalDatabase:   "postgresql/v12/temporal",
		visibilityDatabase: "postgresql/v12/visibility",
	} {
		name := pgx.Identifier{database}.Sanitize()
		var comment *string
		err := conn.QueryRow(ctx, `SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1`, database).Scan(&comment)
		exists := err == nil
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("look for database %s: %w", database, err)
		}
		const completed = "schema of Temporal "
		if comment != nil && *comment == completed+headers.ServerVersion {
			continue
		}
		fresh := comment == nil
		if fresh && exists {
			if _, err := conn.Exec(ctx, "DROP DATABASE "+name); err != nil {
				return fmt.Errorf("drop the unfinished database %s: %w", database, err)
			}
		}
		if fresh {
			if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
				return fmt.Errorf("create database %s: %w", database, err)
			}
		}
		if err := t.migrate(database, schemaName, fresh, logger); err != nil {
			return fmt.Errorf("schema of %s: %w", database, err)
		}
		if _, err := conn.Exec(ctx, fmt.Sprintf("COMMENT ON DATABASE %s IS '%s%s'", name, completed, headers.ServerVersion)); err != nil {
			return fmt.Errorf("mark database %s: %w", database, err)
		}
	}
	return nil
}

// migrate brings a database to the newest schema, as temporal-sql-tool does.
func (t *temporalServer) migrate(database, schemaName string, fresh bool, logger log.Logger) error {
	conn, err := sqltool.NewConnection(t.sqlConfig(database, 2), logger)
	if err != nil {
		return err
	}
	defer conn.Close()
	if fresh {
		if err := schema.NewSetupSchemaTask(conn, &schema.SetupConfig{InitialVersion: "0.0"}, logger).Run(); err != nil {
			return err
		}
	}
	return schema.NewUpdateSchemaTask(conn, &schema.UpdateConfig{SchemaName: schemaName}, logger).Run()
}

// dial returns a client of the server. It connects at its first call.
func (t *temporalServer) dial(namespace string) (client.Client, error) {
	return client.NewLazyClient(client.Options{
		HostPort:  t.address(),
		Namespace: namespace,
		Logger:    sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler)),
	})
}

// registerNamespace makes a namespace when it is missing and returns when every service of the
// server knows it.
func (t *temporalServer) registerNamespace(ctx context.Context, name string, retention time.Duration) error {
	c, err := t.dial(name)
	if err != nil {
		return err
	}
	defer c.Close()
	return poll(ctx, 25*time.Millisecond, func(ctx context.Context) (done bool, err error) {
		_, err = c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
			Namespace:                        name,
			WorkflowExecutionRetentionPeriod: durationpb.New(retention),
		})
		var exists *serviceerror.NamespaceAlreadyExists
		var invalid *serviceerror.InvalidArgument
		if errors.As(err, &invalid) {
			return true, fmt.Errorf("register namespace %q: %w", name, err)
		}
		if err != nil && !errors.As(err, &exists) {
			return false, fmt.Errorf("register namespace %q: %w", name, err)
		}
		// The question passes through the frontend and the history service, which keep separate
		// caches of namespaces; "no such workflow" is the answer of a namespace that works.
		_, err = c.DescribeWorkflowExecution(ctx, "devstack-probe", "")
		var notFound *serviceerror.NotFound
		if err != nil && !errors.As(err, &notFound) {
			return false, fmt.Errorf("use namespace %q: %w", name, err)
		}
		return true, nil
	})
}

// registerSearchAttributes registers activity-core's search attributes in a namespace and
// returns when they are listed with their type: adding one that exists with another type is
// answered as if it had worked.
func (t *temporalServer) registerSearchAttributes(ctx context.Context, namespace string) error {
	c, err := t.dial(namespace)
	if err != nil {
		return err
	}
	defer c.Close()
	want := make(map[string]enumspb.IndexedValueType, len(searchAttributes))
	for _, name := range searchAttributes {
		want[name] = enumspb.INDEXED_VALUE_TYPE_KEYWORD
	}
	return poll(ctx, 50*time.Millisecond, func(ctx context.Context) (done bool, err error) {
		list, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
		if err != nil {
			return false, fmt.Errorf("list search attributes: %w", err)
		}
		missing := false
		for name, kind := range want {
			have, ok := list.GetCustomAttributes()[name]
			if ok && have != kind {
				return true, fmt.Errorf("search attribute %s has type %s in namespace %q, but must have %s; "+
					"remove it there, or start afresh with `make dev-reset`", name, have, namespace, kind)
			}
			missing = missing || !ok
		}
		if !missing {
			return true, nil
		}
		_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
			Namespace: namespace, SearchAttributes: want,
		})
		if err != nil {
			return false, fmt.Errorf("add search attributes: %w", err)
		}
		return false, nil
	})
}

// poll calls f until it is done or the context ends, and then returns f's last error.
func poll(ctx context.Context, every time.Duration, f func(context.Context) (done bool, err error)) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		done, err := f(attempt)
		cancel()
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return err
			}
			return ctx.Err()
		case <-time.After(every):
		}
	}
}

// awaitPortFree waits for the listener of an earlier run to go away.
func awaitPortFree(ctx context.Context, port int) error {
	for !portFree(port) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("port %d is taken", port)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// temporalLogger writes warnings and errors to a file. The server's own logger ends the whole process on
// a fatal error, which would leave Postgres and the services running; this one reports the error and
// ends the calling goroutine, as callers rely on Fatal not to return.
type temporalLogger struct {
	log.Logger
	fatal  chan error    // the first fatal error
	closed chan struct{} // closed when the run is being stopped
}

func newTemporalLogger(file string) *temporalLogger {
	return &temporalLogger{
		Logger: log.NewZapLogger(log.BuildZapLogger(log.Config{Level: "warn", OutputFile: file})),
		fatal:  make(chan error, 1),
		closed: make(chan struct{}),
	}
}

func (l *temporalLogger) Fatal(msg string, tags ...tag.Tag) {
	l.Error("fatal: "+msg, tags...)
	err := errors.New(msg)
	for _, t := range tags {
		if t.Key() == tag.Error(nil).Key() {
			err = fmt.Errorf("%s: %v", msg, t.Value())
		}
	}
	select {
	case l.fatal <- err:
	default:
	}
	runtime.Goexit()
}
