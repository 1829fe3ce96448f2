package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/testenv"
)

const (
	// apiClients ask at one time, each for the next thing when it has got the last one.
	apiClients = 16
	// apiDefinitions are there to be read and triggered.
	apiDefinitions = 1000
	// apiAim is that of the ratio to the bare server.
	apiAim = "0.7 or more"
)

// measureAPI: requests a second of cmd/api, against bare pgx behind net/http with the same statements. What these are is not written
// down anywhere: they are listened to while the API answers one request of each kind.
func measureAPI(ctx context.Context, b *bench, o options) ([]figure, error) {
	s, err := b.newSystem(ctx)
	if err != nil {
		return nil, err
	}
	figures, err := s.api(ctx, o)
	return figures, errors.Join(err, s.end())
}

// operation is one kind of request.
type operation struct {
	name   string
	method string
	path   func(id string) string
	body   func() string // nil for none
	// made are texts of the recorded statements that have to be others each time, found in the answer, and how a new one is made.
	made func(answer map[string]any) map[string]func() string
	// workflow is the recorded id of the workflow that the request starts.
	workflow func(answer map[string]any) string
	token    bool
}

func apiOperations() []operation {
	named := func() string {
		return `{"name": "d-` + uuid.NewString() + `", "labels": {"team": "growth"}, "trigger_config": {"trigger_type": "manual"},
			"tasks": [{"name": "say", "type": "log", "with": {"message": "an order was placed"}}]}`
	}
	one := func(id string) string { return "/activity-definitions/" + id }
	list := []operation{
		{name: "get", method: http.MethodGet, path: one},
		{name: "list of 50", method: http.MethodGet, path: func(string) string { return "/activity-definitions/" }},
		{name: "create", method: http.MethodPost, path: func(string) string { return "/activity-definitions/" }, body: named,
			made: func(answer map[string]any) map[string]func() string {
				return map[string]func() string{
					answer["id"].(string):   definition.NewID,
					answer["name"].(string): func() string { return "d-" + uuid.NewString() },
				}
			}},
		{name: "trigger", method: http.MethodPost, path: func(id string) string { return one(id) + "/trigger" },
			body: func() string { return `{"n": 1}` },
			made: func(answer map[string]any) map[string]func() string {
				return map[string]func() string{
					answer["id"].(string): definition.NewID,
					regexp.MustCompile(`manual-[0-9a-f-]{36}$`).FindString(answer["workflow_id"].(string)): definition.ManualKey,
				}
			},
			workflow: func(answer map[string]any) string { return answer["workflow_id"].(string) }},
	}
	withToken := list[0]
	withToken.name, withToken.token = "get with a token", true
	return append(list, withToken)
}

func (s *system) api(ctx context.Context, o options) ([]figure, error) {
	ids := make([]string, apiDefinitions)
	for i := range ids {
		d, err := s.create(ctx, fmt.Sprintf(`{"name": "bench-%d", "labels": {"team": "growth"}, "trigger_config": {"trigger_type": "manual"},
			"tasks": [{"name": "say", "type": "log", "with": {"message": "an order was placed"}}]}`, i))
		if err != nil {
			return nil, err
		}
		ids[i] = d.ID
	}
	if _, err := s.pool.Exec(ctx, "VACUUM (ANALYZE)"); err != nil {
		return nil, err
	}
	bare, err := s.startBareServer(ctx, ids[0])
	if err != nil {
		return nil, fmt.Errorf("start the bare server: %w", err)
	}
	defer bare.stop()
	open, err := s.startAPI(ctx)
	if err != nil {
		return nil, err
	}
	closed, err := s.startAPI(ctx, askForTokens...)
	if err != nil {
		return nil, err
	}
	token, err := s.token(ctx, map[string]string{})
	if err != nil {
		return nil, err
	}
	var figures []figure
	for _, op := range apiOperations() {
		path := func(id string) string { return bare.Paths[op.name] + id }
		var bareSlow, slow []float64
		ask := func(address, credential string, slowest *[]float64, path func(string) string) func(context.Context) (float64, error) {
			return func(ctx context.Context) (float64, error) {
				rate, p99, err := load(ctx, address, credential, op, path, ids, time.Duration(o.apiFor)*time.Second)
				*slowest = append(*slowest, p99)
				return rate, err
			}
		}
		ours := ask(open.api, "", &slow, op.path)
		if op.token {
			ours = ask(closed.api, token, &slow, op.path)
		}
		r, raw, rate, err := ratio(ctx, o.rounds, ask(bare.Address, "", &bareSlow, path), ours)
		if err != nil {
			return figures, fmt.Errorf("%s: %w", op.name, err)
		}
		figures = append(figures,
			figure{"api: " + op.name + ", bare", raw, "requests/s", ""},
			figure{"api: " + op.name, rate, "requests/s", ""},
			figure{"api: " + op.name + ", ratio to bare", r, "×", apiAim},
			figure{"api: " + op.name + ", bare, p99", median(bareSlow), "ms", ""},
			figure{"api: " + op.name + ", p99", median(slow), "ms", ""})
	}
	return figures, nil
}

// askForTokens makes an API ask who calls, and limit nobody.
var askForTokens = []string{"ACTCORE_AUTH=", "ACTCORE_RATE_LIMIT=off", "ACTCORE_RATE_LIMIT_ADDRESS=off"}

// startAPI starts an API, and waits until it is ready.
func (s *system) startAPI(ctx context.Context, env ...string) (*process, error) {
	api, err := s.start("api", env...)
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, time.Minute, func() (bool, error) { return api.ready(ctx), nil }); err != nil {
		return nil, fmt.Errorf("wait for the api: %w: %s", err, api.out.String())
	}
	return api, nil
}

// token makes an admin's, limited to definitions with these labels.
func (s *system) token(ctx context.Context, labels map[string]string) (string, error) {
	token, id := access.NewToken(), definition.NewID()
	_, err := s.pool.Exec(ctx, `
		INSERT INTO tokens (id, family, name, role, labels, max_definitions, hash, hint, created_by, expires_at)
		VALUES ($1, $1, 'bench', 'admin', $4, 0, $2, $3, 'bench', now() + interval '1 day')`,
		id, access.HashToken(token), token[len(token)-4:], labels)
	return token, err
}

// load asks with all clients for some time, and returns the answers a second and the milliseconds of the slowest hundredth.
func load(ctx context.Context, address, token string, op operation, path func(string) string, ids []string, lasting time.Duration) (
	rate, p99 float64, err error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: apiClients}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var took []time.Duration
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for c := range apiClients {
		group.Go(func() error {
			var mine []time.Duration
			for i := c; time.Since(began) < lasting; i += apiClients {
				var body io.Reader
				if op.body != nil {
					body = strings.NewReader(op.body())
				}
				req, err := http.NewRequestWithContext(ctx, op.method, address+path(ids[i%len(ids)]), body)
				if err != nil {
					return err
				}
				if body != nil {
					req.Header.Set("Content-Type", "application/json")
				}
				if token != "" {
					req.Header.Set("Authorization", "Bearer "+token)
				}
				asked := time.Now()
				res, err := client.Do(req)
				if err != nil {
					return err
				}
				answer, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode >= 300 {
					return fmt.Errorf("%s %s: %s %w: %s", op.method, req.URL, res.Status, err, answer)
				}
				mine = append(mine, time.Since(asked))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	lasted := time.Since(began)
	slices.Sort(took)
	return float64(len(took)) / lasted.Seconds(), float64(took[len(took)*99/100].Microseconds()) / 1000, nil
}

// bareProcess is a bareServer in a process of its own, as the API is.
type bareProcess struct {
	Address string
	Paths   map[string]string // of the operations, to be followed by an id
	stop    func()
}

// bareSettings are what that process is told, as JSON.
type bareSettings struct {
	Database, Temporal, Namespace, TaskQueue string
	ID                                       string // of the definition by which it learns
}

func (s *system) startBareServer(ctx context.Context, id string) (*bareProcess, error) {
	settings, err := json.Marshal(bareSettings{s.database, s.b.stack.TemporalAddress, s.b.namespace, s.orchestrator(), id})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, self, bareFlag, string(settings))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	p := &bareProcess{stop: func() { cancel(); _ = cmd.Wait() }}
	if err := json.NewDecoder(out).Decode(p); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// bareFlag makes this program a bare server.
const bareFlag = "-serve-bare"

// serveBare learns the statements of all operations, tells on stdout where it serves them, and serves until the context ends.
func serveBare(ctx context.Context, text string, stdout io.Writer) error {
	var o bareSettings
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	temporal, err := client.Dial(client.Options{HostPort: o.Temporal, Namespace: o.Namespace, Logger: testenv.Quiet()})
	if err != nil {
		return err
	}
	defer temporal.Close()
	config, err := pgxpool.ParseConfig(o.Database)
	if err != nil {
		return err
	}
	config.MaxConns = 20 // as those of internal/postgres
	b := &bareServer{b: &bench{temporal: temporal}, queue: o.TaskQueue, mux: http.NewServeMux(), heard: &listener{}}
	if b.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	defer b.pool.Close()
	config = config.Copy()
	config.ConnConfig.Tracer = b.heard
	listened, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer listened.Close()
	if b.api, err = b.newAPI(postgres.New(listened)); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	told := bareProcess{Address: "http://" + l.Addr().String(), Paths: map[string]string{}}
	for _, op := range apiOperations() {
		if told.Paths[op.name], err = b.learn(ctx, op, o.ID); err != nil {
			return fmt.Errorf("%s: %w", op.name, err)
		}
	}
	if err := json.NewEncoder(stdout).Encode(told); err != nil {
		return err
	}
	server := &http.Server{Handler: b.mux}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bareServer answers with what the statements of a request give, and nothing else.
type bareServer struct {
	b     *bench
	queue string
	pool  *pgxpool.Pool
	mux   *http.ServeMux
	api   *api.API
	heard *listener
}

// newAPI makes the handler that cmd/api serves.
func (b *bareServer) newAPI(store *postgres.Store) (*api.API, error) {
	log, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	runs, err := ledger.New(ledger.Options{Store: store, Temporal: b.b.temporal, TaskQueue: b.queue, Log: log, Registerer: registry})
	if err != nil {
		return nil, err
	}
	stopper, err := ledger.NewStopper(ledger.StopperOptions{Store: store, Temporal: b.b.temporal, Log: log, Registerer: registry})
	if err != nil {
		return nil, err
	}
	schedules, err := schedule.NewReconciler(schedule.Options{Store: store, Temporal: b.b.temporal, TaskQueue: b.queue, Log: log,
		Registerer: registry})
	if err != nil {
		return nil, err
	}
	return api.New(api.Options{Store: store, Ledger: runs, Stopper: stopper, Syncer: schedules, FullSyncer: noSync{}, Health: http.NotFoundHandler(),
		Ready: http.NotFoundHandler(), Log: log, Registerer: registry})
}

type noSync struct{}

func (noSync) SyncAll(context.Context, bool) (api.SyncResult, error) {
	return api.SyncResult{}, errors.New("the benchmark compares no schedules")
}

// learn has the API answer one request of the operation, and serves its statements under a path of their own, which it returns.
func (b *bareServer) learn(ctx context.Context, op operation, id string) (string, error) {
	b.heard.take()
	var body io.Reader
	if op.body != nil {
		body = strings.NewReader(op.body())
	}
	req := httptest.NewRequestWithContext(ctx, op.method, op.path(id), body)
	req.Header.Set("Content-Type", "application/json")
	res := httptest.NewRecorder()
	b.api.ServeHTTP(res, req)
	statements := b.heard.take()
	if res.Code >= 300 || len(statements) == 0 {
		return "", fmt.Errorf("answered %d after %d statements: %s", res.Code, len(statements), res.Body)
	}
	var answer map[string]any
	if err := json.Unmarshal(res.Body.Bytes(), &answer); err != nil {
		return "", err
	}
	made, workflow := map[string]func() string{}, ""
	if op.made != nil {
		made = op.made(answer)
	}
	if op.workflow != nil {
		workflow = op.workflow(answer)
	}
	path := "/" + uuid.NewString() + "/"
	b.mux.HandleFunc(path+"{id}", func(w http.ResponseWriter, r *http.Request) {
		if err := b.answer(w, r, statements, id, made, workflow); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return path, nil
}

// answer carries out the statements of a request, for another definition and with other new ids, and writes the rows of the last one.
func (b *bareServer) answer(w http.ResponseWriter, r *http.Request, statements []statement, id string, made map[string]func() string,
	workflow string) error {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	pairs := []string{id, r.PathValue("id")}
	for _, text := range slices.Sorted(maps.Keys(made)) {
		pairs = append(pairs, text, made[text]())
	}
	replace := strings.NewReplacer(pairs...)
	conn, err := b.pool.Acquire(r.Context())
	if err != nil {
		return err
	}
	var rows [][]any
	for _, st := range statements {
		if rows, err = st.run(r.Context(), conn, replace); err != nil {
			_, _ = conn.Exec(context.WithoutCancel(r.Context()), "ROLLBACK")
			break
		}
	}
	conn.Release()
	if err != nil {
		return err
	}
	if workflow != "" {
		if err := b.b.startBare(r.Context(), replace.Replace(workflow), b.queue, definition.RunWorkflow); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(rows)
}

// statement is one that was sent to Postgres.
type statement struct {
	sql  string
	args []any
}

func (st statement) run(ctx context.Context, conn *pgxpool.Conn, replace *strings.Replacer) ([][]any, error) {
	args := make([]any, len(st.args))
	for i, arg := range st.args {
		switch v := arg.(type) {
		case string:
			args[i] = replace.Replace(v)
		case []string:
			list := make([]string, len(v))
			for j := range v {
				list[j] = replace.Replace(v[j])
			}
			args[i] = list
		case []byte:
			if args[i] = v; v != nil {
				args[i] = []byte(replace.Replace(string(v)))
			}
		default:
			args[i] = arg
		}
	}
	if len(args) == 0 {
		_, err := conn.Exec(ctx, st.sql)
		return nil, err
	}
	rows, err := conn.Query(ctx, st.sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
}

// listener is a pgx.QueryTracer that keeps the statements.
type listener struct {
	mu    sync.Mutex
	heard []statement
}

func (l *listener) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := statement{sql: data.SQL, args: slices.Clone(data.Args)}
	for i, arg := range st.args {
		if bytesArg, ok := arg.([]byte); ok {
			st.args[i] = bytes.Clone(bytesArg)
		}
	}
	l.heard = append(l.heard, st)
	return ctx
}

func (*listener) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// take returns what was heard, and forgets it.
func (l *listener) take() []statement {
	l.mu.Lock()
	defer l.mu.Unlock()
	heard := l.heard
	l.heard = nil
	return heard
}
