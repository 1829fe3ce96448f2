// Package api is the HTTP interface: it turns requests into calls of the storage, the ledger and the schedule
// reconciler, and their answers and errors into JSON. It holds no state of its own.
//
// routes.go shows the whole surface. Bodies of definitions are read by internal/definition, so that every fault has the
// same words wherever it is found; huma serves the rest: parameters, answers and the OpenAPI document.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// Limits of requests.
const (
	// MaxDefinition is the most bytes of a definition's body.
	MaxDefinition = definition.MaxDocument
	// MaxInput is the most bytes of the input of a run by hand.
	MaxInput = definition.MaxArg

	// requestTimeout bounds the work for one request.
	requestTimeout = 10 * time.Second
	// syncTimeout and startTimeout bound the calls to Temporal within it. What did not happen in time is done by a worker.
	syncTimeout  = 3 * time.Second
	startTimeout = 2 * time.Second
)

// definitionReader reads definitions. GetDefinition fails with definition.ErrNotFound for an unknown or deleted one.
type definitionReader interface {
	GetDefinition(ctx context.Context, id string) (definition.Stored, error)
	ListDefinitions(ctx context.Context, page definition.ListDefinitions) ([]definition.Stored, error)
}

// definitionWriter changes definitions. Create and Update fail with definition.ErrNameTaken, Update and Delete with
// definition.ErrNotFound; an error of change comes back as it is, perhaps wrapped.
type definitionWriter interface {
	CreateDefinition(ctx context.Context, d definition.Document) (definition.Stored, error)
	UpdateDefinition(ctx context.Context, id string,
		change func(definition.Document) (definition.Document, error)) (definition.Stored, error)
	DeleteDefinition(ctx context.Context, id string) error
}

// runReader reads the ledger. GetRun fails with definition.ErrNotFound.
type runReader interface {
	GetRun(ctx context.Context, id string) (definition.Run, error)
	ListRuns(ctx context.Context, page definition.ListRuns) ([]definition.Run, error)
}

// Store is the storage that the API needs. Every method fails with definition.ErrUnavailable when it may succeed later.
type Store interface {
	definitionReader
	definitionWriter
	runReader
	definitionCounter
}

// runLedger commits occurrences and starts their workflows. Record returns only what is new; an occurrence whose
// definition is gone gives nothing. An error of Start is transient: the row is committed and is started later.
type runLedger interface {
	Record(ctx context.Context, occurrences []definition.Occurrence) ([]definition.Start, error)
	Start(ctx context.Context, start definition.Start) error
}

// scheduleSyncer brings the Temporal Schedule of one definition up to date now, within a bounded time. On an error the
// status is what is known, and a worker goes on trying.
type scheduleSyncer interface {
	SyncNow(ctx context.Context, definitionID string) (definition.SyncStatus, error)
}

// Options are what New needs. All are required.
type Options struct {
	Store  Store
	Ledger runLedger
	Syncer scheduleSyncer
	// Health and Ready answer /healthz and /readyz.
	Health, Ready http.Handler
	Log           *slog.Logger
	Registerer    prometheus.Registerer
}

// API is the handler of every route. It is safe for concurrent use.
type API struct {
	store   Store
	ledger  runLedger
	syncer  scheduleSyncer
	log     *slog.Logger
	metrics *httpMetrics
	router  *chi.Mux
	huma    huma.API
}

// New builds the handler. It fails for a missing option and for a metric that is already registered.
func New(o Options) (*API, error) {
	for _, need := range []struct {
		name    string
		missing bool
	}{
		{"Store", o.Store == nil}, {"Ledger", o.Ledger == nil}, {"Syncer", o.Syncer == nil}, {"Health", o.Health == nil},
		{"Ready", o.Ready == nil}, {"Log", o.Log == nil}, {"Registerer", o.Registerer == nil},
	} {
		if need.missing {
			return nil, errors.New("api: Options." + need.name + " is missing")
		}
	}
	metrics, err := newHTTPMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	if err := registerDefinitionGauge(o.Registerer, o.Store, o.Log); err != nil {
		return nil, err
	}

	router := chi.NewMux()
	a := &API{
		store: o.Store, ledger: o.Ledger, syncer: o.Syncer, log: o.Log, metrics: metrics,
		router: router, huma: humachi.New(router, documentConfig()),
	}
	if err := a.routes(o.Health, o.Ready); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.router.ServeHTTP(w, r)
}
