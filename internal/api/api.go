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
	"net/netip"
	"sync"
	"time"

	"github.com/activity-core/activity-core/internal/access"
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
	// maxFields is the most bytes of a body of a few fields.
	maxFields = 16 << 10

	// requestTimeout bounds the work for one request.
	requestTimeout = 10 * time.Second
	// syncTimeout and startTimeout bound the calls to Temporal within it. What did not happen in time is done by a worker.
	syncTimeout  = 3 * time.Second
	startTimeout = 2 * time.Second
	// fullSyncTimeout is how long a comparison of all schedules may take instead; it is cut off then.
	fullSyncTimeout = 5 * time.Minute
)

// definitionReader reads definitions. GetDefinition fails with definition.ErrNotFound for an unknown or deleted one.
type definitionReader interface {
	GetDefinition(ctx context.Context, id string) (definition.Stored, error)
	ListDefinitions(ctx context.Context, page definition.ListDefinitions) ([]definition.Stored, error)
}

// definitionWriter changes definitions. Create and Update fail with definition.ErrNameTaken, Create also with
// definition.ErrTooManyDefinitions, Update and Delete with definition.ErrNotFound; an error of change comes back as it is, perhaps wrapped.
type definitionWriter interface {
	CreateDefinition(ctx context.Context, d definition.Document) (definition.Stored, error)
	UpdateDefinition(ctx context.Context, id string,
		change func(definition.Document) (definition.Document, error)) (definition.Stored, error)
	DeleteDefinition(ctx context.Context, id string) error
}

// runReader reads the ledger. GetRunDetail and GetTask fail with definition.ErrNotFound.
type runReader interface {
	GetRunDetail(ctx context.Context, id string) (definition.RunDetail, error)
	GetTask(ctx context.Context, runID, name string, fromItem, limit int) (definition.TaskDetail, []definition.ItemDetail, error)
	ListRuns(ctx context.Context, page definition.ListRuns) ([]definition.Run, error)
}

// runSteerer writes what is asked of runs. All but StopRuns and RerunRuns fail with definition.ErrNotFound; StopRun also with ErrRunFinal,
// RerunRun with ErrRunOpen, ErrRunNotFailed and ErrDefinitionGone, and DecideTask with ErrNotWaiting, with the task where it was reached.
// StopRuns and RerunRuns do at most so many, and return how many are left; in a dry run they only count.
type runSteerer interface {
	StopRun(ctx context.Context, id string, request definition.StopRequest) (definition.Stopped, error)
	StopRuns(ctx context.Context, which definition.ListRuns, request definition.StopRequest, most int, dryRun bool) (
		definition.Stopped, int, error)
	RerunRun(ctx context.Context, id string, from definition.RerunFrom) (definition.Start, error)
	RerunRuns(ctx context.Context, which definition.ListRuns, from definition.RerunFrom, most int, dryRun bool) (
		starts []definition.Start, left int, err error)
	DecideTask(ctx context.Context, d definition.Decision) (workflowID string, task definition.TaskResult, err error)
}

// backfillStore keeps backfills. Create, Get and Cancel fail with definition.ErrNotFound, Create also with
// definition.ErrBackfillActive and with an InvalidError for a definition without slots and for a range that lies ahead or
// holds too many. What Create counts in a dry run is not stored.
type backfillStore interface {
	CreateBackfill(ctx context.Context, request definition.BackfillRequest, dryRun bool) (definition.Backfill, error)
	GetBackfill(ctx context.Context, id string) (definition.Backfill, error)
	ListBackfills(ctx context.Context, page definition.ListBackfills) ([]definition.Backfill, error)
	CancelBackfill(ctx context.Context, id string) (definition.Backfill, error)
}

// deadLetterStore keeps dead letters. Get fails with definition.ErrNotFound. Retry asks routers to route those that are open
// again, Discard gives those that are open up; both return how many there are, and in a dry run only count them.
type deadLetterStore interface {
	ListDeadLetters(ctx context.Context, page definition.ListDeadLetters) ([]definition.StoredDeadLetter, error)
	GetDeadLetter(ctx context.Context, id string) (definition.StoredDeadLetter, error)
	RetryDeadLetters(ctx context.Context, which definition.SelectDeadLetters, dryRun bool) (int, error)
	DiscardDeadLetters(ctx context.Context, which definition.SelectDeadLetters, dryRun bool) (int, error)
}

// eventReader tells about events. GetEvent always has an answer, which may be that nothing is known. EventDefinitions returns
// the definitions, enabled or not, with an event trigger of this type or of a wildcard.
type eventReader interface {
	GetEvent(ctx context.Context, eventID string) (definition.EventHistory, error)
	EventDefinitions(ctx context.Context, eventType string) ([]definition.Routable, error)
}

// replayStore keeps replays. Get and Cancel fail with definition.ErrNotFound; Create with definition.ErrReplayActive, and with
// an InvalidError for an id that is no live definition with an event trigger and for a range that ends in the future.
type replayStore interface {
	CreateReplay(ctx context.Context, request definition.ReplayRequest) (definition.Replay, error)
	GetReplay(ctx context.Context, id string) (definition.Replay, error)
	ListReplays(ctx context.Context, page definition.ListReplays) ([]definition.Replay, error)
	CancelReplay(ctx context.Context, id string) (definition.Replay, error)
}

// Store is the storage that the API needs. Every method fails with definition.ErrUnavailable when it may succeed later.
type Store interface {
	definitionReader
	definitionWriter
	runReader
	runSteerer
	backfillStore
	deadLetterStore
	eventReader
	replayStore
	tokenStore
	definitionCounter
}

// runLedger commits occurrences and starts their workflows. Record returns only what is new; an occurrence whose
// definition is gone gives nothing. An error of Start is transient: the row is committed and is started later.
type runLedger interface {
	Record(ctx context.Context, occurrences []definition.Occurrence) ([]definition.Start, error)
	Start(ctx context.Context, start definition.Start) error
}

// runTeller tells the workflows of runs what was written about them. What fails is told again by a worker, or asked for by the workflow.
type runTeller interface {
	StopAll(ctx context.Context, runs []definition.Stopping) error
	Wake(ctx context.Context, workflowIDs []string)
	Decided(ctx context.Context, workflowID string) error
}

// scheduleSyncer brings the Temporal Schedule of one definition up to date now, within a bounded time. On an error the
// status is what is known, and a worker goes on trying.
type scheduleSyncer interface {
	SyncNow(ctx context.Context, definitionID string) (definition.SyncStatus, error)
}

// ErrTemporal means that Temporal does not answer; the same call may succeed later.
var ErrTemporal = errors.New("temporal does not answer")

// fullSyncer compares all Temporal Schedules with the definitions and brings them up to date, or in a dry run only tells
// what it would do. A schedule that fails is part of the result. The end of the context cuts it off: the result is then not
// complete, and that is no error. It fails with ErrTemporal, and with definition.ErrUnavailable for the storage.
type fullSyncer interface {
	SyncAll(ctx context.Context, dryRun bool) (SyncResult, error)
}

// authenticator finds out who shows a credential: what follows "Bearer " in the header Authorization. It fails with access.ErrUnknown
// for one that is no good, wrapped by the reason, which is for the client, and with definition.ErrUnavailable.
type authenticator interface {
	Authenticate(ctx context.Context, credential string) (access.Caller, error)
}

// Options are what New needs. All from Access on may be left out.
type Options struct {
	Store   Store
	Ledger  runLedger
	Stopper runTeller
	Syncer  scheduleSyncer
	// FullSyncer does what an operator asks for by /admin/sync.
	FullSyncer fullSyncer
	// Health and Ready answer /healthz and /readyz.
	Health, Ready http.Handler
	Log           *slog.Logger
	Registerer    prometheus.Registerer
	// Access finds out who calls; nil lets everybody do everything, as access.Anonymous.
	Access authenticator
	// TemporalUI is the address of the namespace's page in Temporal's Web UI; "" when there is none.
	TemporalUI string
	// Origins are those whose pages may call the API from browsers, as in https://console.example; nil for none but its own.
	Origins []string
	// TrustedProxies are where proxies are whose X-Forwarded-For is believed; nil for none.
	TrustedProxies []netip.Prefix
	// AccessLog logs every request at level info.
	AccessLog bool
}

// API is the handler of every route. It is safe for concurrent use.
type API struct {
	store      Store
	ledger     runLedger
	stopper    runTeller
	syncer     scheduleSyncer
	fullSyncer fullSyncer
	access     authenticator // nil: everybody may do everything
	log        *slog.Logger
	metrics    *httpMetrics
	router     *chi.Mux
	huma       huma.API
	temporalUI string
	proxies    []netip.Prefix
	accessLog  bool

	now           func() time.Time // time.Now, except in tests
	fullSyncLimit time.Duration    // fullSyncTimeout, except in tests
	fullSync      sync.Mutex       // held while one runs
}

// New builds the handler. It fails for a missing option and for a metric that is already registered.
func New(o Options) (*API, error) {
	for _, need := range []struct {
		name    string
		missing bool
	}{
		{"Store", o.Store == nil}, {"Ledger", o.Ledger == nil}, {"Stopper", o.Stopper == nil}, {"Syncer", o.Syncer == nil},
		{"FullSyncer", o.FullSyncer == nil}, {"Health", o.Health == nil}, {"Ready", o.Ready == nil}, {"Log", o.Log == nil},
		{"Registerer", o.Registerer == nil},
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
		store: o.Store, ledger: o.Ledger, stopper: o.Stopper, syncer: o.Syncer, fullSyncer: o.FullSyncer, access: o.Access, log: o.Log,
		metrics:    metrics,
		temporalUI: o.TemporalUI, proxies: o.TrustedProxies, accessLog: o.AccessLog,
		router: router, huma: humachi.New(router, documentConfig()),
		now: time.Now, fullSyncLimit: fullSyncTimeout,
	}
	if err := a.routes(o.Health, o.Ready, o.Origins); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.router.ServeHTTP(w, r)
}
