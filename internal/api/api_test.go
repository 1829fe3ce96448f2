package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/prometheus/client_golang/prometheus"
)

const someID = "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b"

// fakeStore answers what a test needs and fails for the rest, so that "nothing is stored" is checked by being called.
type fakeStore struct {
	create func(definition.Document) (definition.Stored, error)
	update func(func(definition.Document) (definition.Document, error)) (definition.Stored, error)
	get    func(id string) (definition.Stored, error)
	getRun func(id string) (definition.RunDetail, error)
	runs   func(definition.ListRuns) ([]definition.Run, error)
	count  func() (map[definition.TriggerType]int, error)

	getTask   func(runID, name string, fromItem, limit int) (definition.TaskDetail, []definition.ItemDetail, error)
	stopRun   func(id string, r definition.StopRequest) (definition.Stopped, error)
	stopRuns  func(definition.ListRuns, definition.StopRequest, int, bool) (definition.Stopped, int, error)
	rerunRun  func(id string, from definition.RerunFrom) (definition.Start, error)
	rerunRuns func(definition.ListRuns, definition.RerunFrom, int, bool) ([]definition.Start, int, error)
	decide    func(definition.Decision) (string, definition.TaskResult, error)

	createBackfill func(definition.BackfillRequest, bool) (definition.Backfill, error)
	getBackfill    func(id string) (definition.Backfill, error)
	backfills      func(definition.ListBackfills) ([]definition.Backfill, error)

	letters      func(definition.ListDeadLetters) ([]definition.StoredDeadLetter, error)
	getLetter    func(id string) (definition.StoredDeadLetter, error)
	retry        func(definition.SelectDeadLetters, bool) (int, error)
	discard      func(definition.SelectDeadLetters, bool) (int, error)
	getEvent     func(id string) (definition.EventHistory, error)
	ofType       func(eventType string) ([]definition.Routable, error)
	createReplay func(definition.ReplayRequest) (definition.Replay, error)
	getReplay    func(id string) (definition.Replay, error)
	replays      func(definition.ListReplays) ([]definition.Replay, error)

	fakeTokens
}

var errNotExpected = errors.New("this call was not expected")

func (s *fakeStore) CreateDefinition(_ context.Context, d definition.Document) (definition.Stored, error) {
	if s.create == nil {
		return definition.Stored{}, errNotExpected
	}
	return s.create(d)
}

func (s *fakeStore) UpdateDefinition(_ context.Context, _ string,
	change func(definition.Document) (definition.Document, error)) (definition.Stored, error) {
	if s.update == nil {
		return definition.Stored{}, errNotExpected
	}
	return s.update(change)
}

func (s *fakeStore) DeleteDefinition(context.Context, string) error { return errNotExpected }

func (s *fakeStore) GetDefinition(_ context.Context, id string) (definition.Stored, error) {
	if s.get == nil {
		return definition.Stored{}, errNotExpected
	}
	return s.get(id)
}

func (s *fakeStore) ListDefinitions(context.Context, definition.ListDefinitions) ([]definition.Stored, error) {
	return nil, nil
}

func (s *fakeStore) GetRunDetail(_ context.Context, id string) (definition.RunDetail, error) {
	if s.getRun == nil {
		return definition.RunDetail{}, errNotExpected
	}
	return s.getRun(id)
}

func (s *fakeStore) GetTask(_ context.Context, runID, name string, fromItem, limit int) (
	definition.TaskDetail, []definition.ItemDetail, error) {
	if s.getTask == nil {
		return definition.TaskDetail{}, nil, errNotExpected
	}
	return s.getTask(runID, name, fromItem, limit)
}

func (s *fakeStore) StopRun(_ context.Context, id string, r definition.StopRequest) (definition.Stopped, error) {
	if s.stopRun == nil {
		return definition.Stopped{}, errNotExpected
	}
	return s.stopRun(id, r)
}

func (s *fakeStore) StopRuns(_ context.Context, which definition.ListRuns, r definition.StopRequest, most int, dryRun bool) (
	definition.Stopped, int, error) {
	if s.stopRuns == nil {
		return definition.Stopped{}, 0, errNotExpected
	}
	return s.stopRuns(which, r, most, dryRun)
}

func (s *fakeStore) RerunRun(_ context.Context, id string, from definition.RerunFrom) (definition.Start, error) {
	if s.rerunRun == nil {
		return definition.Start{}, errNotExpected
	}
	return s.rerunRun(id, from)
}

func (s *fakeStore) RerunRuns(_ context.Context, which definition.ListRuns, from definition.RerunFrom, most int, dryRun bool) (
	[]definition.Start, int, error) {
	if s.rerunRuns == nil {
		return nil, 0, errNotExpected
	}
	return s.rerunRuns(which, from, most, dryRun)
}

func (s *fakeStore) DecideTask(_ context.Context, d definition.Decision) (string, definition.TaskResult, error) {
	if s.decide == nil {
		return "", definition.TaskResult{}, errNotExpected
	}
	return s.decide(d)
}

func (s *fakeStore) ListRuns(_ context.Context, q definition.ListRuns) ([]definition.Run, error) {
	if s.runs == nil {
		return nil, nil
	}
	return s.runs(q)
}

func (s *fakeStore) CountDefinitions(context.Context) (map[definition.TriggerType]int, error) {
	if s.count == nil {
		return nil, errNotExpected
	}
	return s.count()
}

func (s *fakeStore) CreateBackfill(_ context.Context, r definition.BackfillRequest, dryRun bool) (definition.Backfill, error) {
	if s.createBackfill == nil {
		return definition.Backfill{}, errNotExpected
	}
	return s.createBackfill(r, dryRun)
}

func (s *fakeStore) GetBackfill(_ context.Context, id string) (definition.Backfill, error) {
	if s.getBackfill == nil {
		return definition.Backfill{}, errNotExpected
	}
	return s.getBackfill(id)
}

func (s *fakeStore) ListBackfills(_ context.Context, q definition.ListBackfills) ([]definition.Backfill, error) {
	if s.backfills == nil {
		return nil, errNotExpected
	}
	return s.backfills(q)
}

func (s *fakeStore) CancelBackfill(context.Context, string) (definition.Backfill, error) {
	return definition.Backfill{}, errNotExpected
}

func (s *fakeStore) ListDeadLetters(_ context.Context, q definition.ListDeadLetters) ([]definition.StoredDeadLetter, error) {
	if s.letters == nil {
		return nil, errNotExpected
	}
	return s.letters(q)
}

func (s *fakeStore) GetDeadLetter(_ context.Context, id string) (definition.StoredDeadLetter, error) {
	if s.getLetter == nil {
		return definition.StoredDeadLetter{}, errNotExpected
	}
	return s.getLetter(id)
}

func (s *fakeStore) RetryDeadLetters(_ context.Context, which definition.SelectDeadLetters, dryRun bool) (int, error) {
	if s.retry == nil {
		return 0, errNotExpected
	}
	return s.retry(which, dryRun)
}

func (s *fakeStore) DiscardDeadLetters(_ context.Context, which definition.SelectDeadLetters, dryRun bool) (int, error) {
	if s.discard == nil {
		return 0, errNotExpected
	}
	return s.discard(which, dryRun)
}

func (s *fakeStore) GetEvent(_ context.Context, id string) (definition.EventHistory, error) {
	if s.getEvent == nil {
		return definition.EventHistory{}, errNotExpected
	}
	return s.getEvent(id)
}

func (s *fakeStore) EventDefinitions(_ context.Context, eventType string) ([]definition.Routable, error) {
	if s.ofType == nil {
		return nil, errNotExpected
	}
	return s.ofType(eventType)
}

func (s *fakeStore) CreateReplay(_ context.Context, r definition.ReplayRequest) (definition.Replay, error) {
	if s.createReplay == nil {
		return definition.Replay{}, errNotExpected
	}
	return s.createReplay(r)
}

func (s *fakeStore) GetReplay(_ context.Context, id string) (definition.Replay, error) {
	if s.getReplay == nil {
		return definition.Replay{}, errNotExpected
	}
	return s.getReplay(id)
}

func (s *fakeStore) ListReplays(_ context.Context, q definition.ListReplays) ([]definition.Replay, error) {
	if s.replays == nil {
		return nil, errNotExpected
	}
	return s.replays(q)
}

func (s *fakeStore) CancelReplay(context.Context, string) (definition.Replay, error) {
	return definition.Replay{}, errNotExpected
}

type fakeLedger struct {
	record func([]definition.Occurrence) ([]definition.Start, error)
	start  func(context.Context) error
}

func (l *fakeLedger) Record(_ context.Context, o []definition.Occurrence) ([]definition.Start, error) {
	if l.record == nil {
		return nil, errNotExpected
	}
	return l.record(o)
}

func (l *fakeLedger) Start(ctx context.Context, _ definition.Start) error {
	if l.start == nil {
		return nil
	}
	return l.start(ctx)
}

type fakeSyncer func(id string) (definition.SyncStatus, error)

func (f fakeSyncer) SyncNow(_ context.Context, id string) (definition.SyncStatus, error) {
	return f(id)
}

func noSync(string) (definition.SyncStatus, error) { return definition.SyncStatus{}, errNotExpected }

type fakeFullSyncer func(ctx context.Context, dryRun bool) (SyncResult, error)

func (f fakeFullSyncer) SyncAll(ctx context.Context, dryRun bool) (SyncResult, error) {
	return f(ctx, dryRun)
}

func noFullSync(context.Context, bool) (SyncResult, error) { return SyncResult{}, errNotExpected }

func answer(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

// fakeStopper notes what it is told to tell.
type fakeStopper struct {
	stopped []definition.Stopping
	woken   []string
	decided []string
	err     error
}

func (s *fakeStopper) StopAll(_ context.Context, runs []definition.Stopping) error {
	s.stopped = append(s.stopped, runs...)
	return s.err
}

func (s *fakeStopper) Wake(_ context.Context, ids []string) { s.woken = append(s.woken, ids...) }

func (s *fakeStopper) Decided(_ context.Context, id string) error {
	s.decided = append(s.decided, id)
	return s.err
}

// testOptions are complete options with fakes that expect no call.
func testOptions() Options {
	return Options{
		Store: &fakeStore{}, Ledger: &fakeLedger{}, Stopper: &fakeStopper{}, Syncer: fakeSyncer(noSync), FullSyncer: fakeFullSyncer(noFullSync),
		Health: answer("alive"), Ready: answer("ready"), Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}
}

func newAPI(t testing.TB, o Options) *API {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return a
}

// call makes one request, with the content type of JSON when it has a body.
func call(t testing.TB, h http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Del(headers[i])
		if headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func decode[T any](t testing.TB, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("answer %d is not JSON: %v\n%s", w.Code, err, w.Body)
	}
	return v
}

// wantProblem checks an error's status and its form, and returns it.
func wantProblem(t testing.TB, w *httptest.ResponseRecorder, status int, kind string) Problem {
	t.Helper()
	if w.Code != status {
		t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != problemType {
		t.Errorf("Content-Type %q, want %q", got, problemType)
	}
	p := decode[Problem](t, w)
	if p.Type != problemURN+kind || p.Status != status || p.Title == "" || p.Detail == "" {
		t.Errorf("problem %+v, want type %s, status %d, a title and a detail", p, problemURN+kind, status)
	}
	if p.RequestID == "" || p.RequestID != w.Header().Get("X-Request-Id") {
		t.Errorf("request_id %q, header X-Request-Id %q: want them equal", p.RequestID, w.Header().Get("X-Request-Id"))
	}
	return p
}

func TestNewRefusesMissingOptions(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(*Options){
		"Store":      func(o *Options) { o.Store = nil },
		"Ledger":     func(o *Options) { o.Ledger = nil },
		"Syncer":     func(o *Options) { o.Syncer = nil },
		"FullSyncer": func(o *Options) { o.FullSyncer = nil },
		"Health":     func(o *Options) { o.Health = nil },
		"Ready":      func(o *Options) { o.Ready = nil },
		"Log":        func(o *Options) { o.Log = nil },
		"Registerer": func(o *Options) { o.Registerer = nil },
	} {
		o := testOptions()
		remove(&o)
		if _, err := New(o); err == nil || err.Error() != "api: Options."+name+" is missing" {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestStorageTrouble(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err        error
		status     int
		kind       string
		retryAfter string
	}{
		{definition.ErrUnavailable, 503, "unavailable", "2"},
		{context.DeadlineExceeded, 503, "unavailable", "2"},
		{errors.New(`ERROR: column "x" does not exist (SQLSTATE 42703)`), 500, "internal", ""},
		{definition.ErrNotStorable, 422, "invalid", ""},
		{definition.ErrNotFound, 404, "not-found", ""},
	} {
		o := testOptions()
		var log strings.Builder
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		o.Store = &fakeStore{get: func(string) (definition.Stored, error) { return definition.Stored{}, test.err }}
		w := call(t, newAPI(t, o), "GET", "/activity-definitions/"+someID, "")
		wantProblem(t, w, test.status, test.kind)
		if got := w.Header().Get("Retry-After"); got != test.retryAfter {
			t.Errorf("%v: Retry-After %q, want %q", test.err, got, test.retryAfter)
		}
		if strings.Contains(w.Body.String(), "SQLSTATE") {
			t.Errorf("%v: the answer tells what is ours alone: %s", test.err, w.Body)
		}
		want := 0
		if test.status >= 500 {
			want = 1
		}
		if got := strings.Count(log.String(), "\n"); got != want {
			t.Errorf("%v: %d log lines, want %d:\n%s", test.err, got, want, log.String())
		}
	}
}

func TestPanicIsAnsweredAndLoggedOnce(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var log strings.Builder
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	o.Store = &fakeStore{get: func(string) (definition.Stored, error) { panic("the secret of the stack") }}
	w := call(t, newAPI(t, o), "GET", "/activity-definitions/"+someID, "")
	wantProblem(t, w, 500, "internal")
	if strings.Contains(w.Body.String(), "secret") {
		t.Errorf("the answer shows the panic: %s", w.Body)
	}
	if n := strings.Count(log.String(), "request panicked"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, log.String())
	}
}

func TestCreateTellsHowTheScheduleIs(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pending := definition.SyncStatus{State: definition.SyncPending, Desired: 1, Since: since}
	synced := definition.SyncStatus{State: definition.SyncSynced, Desired: 1, Observed: 1, Since: since}
	failed := definition.SyncStatus{State: definition.SyncError, Desired: 1, LastError: "no route to host", Since: since}
	for _, test := range []struct {
		name   string
		stored definition.SyncStatus
		sync   func(string) (definition.SyncStatus, error)
		want   string
	}{
		{"synced", pending, func(string) (definition.SyncStatus, error) { return synced, nil },
			`{"state":"synced","desired":1,"observed":1,"last_error":null,"since":"2026-01-02T03:04:05Z"}`},
		{"held by another", pending, func(string) (definition.SyncStatus, error) { return pending, nil },
			`{"state":"pending","desired":1,"observed":0,"last_error":null,"since":"2026-01-02T03:04:05Z"}`},
		{"failed", pending, func(string) (definition.SyncStatus, error) { return failed, errors.New("no route to host") },
			`{"state":"error","desired":1,"observed":0,"last_error":"no route to host","since":"2026-01-02T03:04:05Z"}`},
		{"nothing known", pending, noSync,
			`{"state":"pending","desired":1,"observed":0,"last_error":null,"since":"2026-01-02T03:04:05Z"}`},
		{"no schedule", definition.SyncStatus{}, noSync, `null`},
	} {
		o := testOptions()
		o.Syncer = fakeSyncer(test.sync)
		o.Store = &fakeStore{create: func(d definition.Document) (definition.Stored, error) {
			return definition.Stored{Definition: definition.Definition{ID: someID, Revision: 1, Document: d}, Sync: test.stored}, nil
		}}
		w := call(t, newAPI(t, o), "POST", "/activity-definitions/", `{"name":"a","trigger_config":{"trigger_type":"manual"}}`)
		if w.Code != http.StatusCreated || w.Header().Get("Location") != "/activity-definitions/"+someID {
			t.Fatalf("%s: %d %v %s", test.name, w.Code, w.Header(), w.Body)
		}
		got := decode[struct{ Sync json.RawMessage }](t, w)
		if string(got.Sync) != test.want {
			t.Errorf("%s: sync %s, want %s", test.name, got.Sync, test.want)
		}
	}
}

func TestTriggerIsAcceptedWhateverTemporalSays(t *testing.T) {
	t.Parallel()
	accepted := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := testOptions()
	var recorded definition.Occurrence
	ledger := &fakeLedger{
		record: func(all []definition.Occurrence) ([]definition.Start, error) {
			recorded = all[0]
			return []definition.Start{{RunID: someID, DefinitionID: recorded.DefinitionID, DefinitionName: "a", Key: recorded.Key,
				Kind: recorded.Kind, AcceptedAt: accepted}}, nil
		},
		start: func(ctx context.Context) error {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > startTimeout {
				t.Errorf("deadline of the start: %v %v, want at most %v", deadline, ok, startTimeout)
			}
			return errors.New("temporal is away")
		},
	}
	o.Ledger = ledger
	o.Store = &fakeStore{
		get: func(id string) (definition.Stored, error) {
			return definition.Stored{Definition: definition.Definition{ID: id}}, nil
		},
		getRun: func(string) (definition.RunDetail, error) { return definition.RunDetail{}, definition.ErrUnavailable },
	}
	w := call(t, newAPI(t, o), "POST", "/activity-definitions/"+someID+"/trigger", ` {"n": 1e400000} `,
		"Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if w.Code != http.StatusAccepted || w.Header().Get("Location") != "/runs/"+someID {
		t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	run := decode[struct {
		ID, Status, OccurrenceKey, Trigger string
		Input                              json.RawMessage
		TraceID                            string `json:"trace_id"`
	}](t, w)
	if run.ID != someID || run.Status != "accepted" || run.Trigger != "manual" || string(run.Input) != `{"n":1e400000}` ||
		run.TraceID != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("run %+v", run)
	}
	if recorded.Kind != definition.KindManual || !strings.HasPrefix(recorded.Key, "manual-") || recorded.DefinitionID != someID {
		t.Errorf("recorded %+v", recorded)
	}

	ledger.record = func([]definition.Occurrence) ([]definition.Start, error) { return nil, nil }
	p := wantProblem(t, call(t, newAPI(t, withFreshMetrics(o)), "POST", "/activity-definitions/"+someID+"/trigger/", ""), 404, "not-found")
	if want := "there is no definition " + someID + "; it may have been deleted"; p.Detail != want {
		t.Errorf("detail %q, want %q", p.Detail, want)
	}
}

func withFreshMetrics(o Options) Options {
	o.Registerer = prometheus.NewRegistry()
	return o
}

func TestRunJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	end := at.Add(1500 * time.Millisecond)
	o := testOptions()
	o.TemporalUI = "http://ui/namespaces/n"
	got, err := json.Marshal(newAPI(t, o).runJSON(definition.RunDetail{
		Run: definition.Run{
			ID: "r", DefinitionID: "d", DefinitionName: "n", Revision: 2, Kind: definition.KindEvent, Key: "event-1",
			Status: definition.RunFailed, Reason: definition.ReasonTaskFailed, Error: "task a failed", Input: []byte(`{"a":1}`),
			EventID: "1", EventType: "user.created", AcceptedAt: at, StartedAt: &at, FinishedAt: &end, WorkflowID: "w:1",
			ConcurrencyKey: "k", Depth: 2, Stop: definition.Stop{How: definition.StopCancel, Note: "too slow"},
		},
		Tasks: []definition.TaskDetail{
			{TaskResult: definition.TaskResult{Name: "a", Type: definition.TaskHTTP, Status: definition.TaskFailed, Attempts: 3,
				Error: "status 500", Output: []byte(`{"cut":"of`), StartedAt: at, FinishedAt: &end}, OutputBytes: 20},
			{TaskResult: definition.TaskResult{Name: "b", Type: definition.TaskLog, Status: definition.TaskRunning, Attempts: 1,
				Input: []byte(`{"message":"x"}`), Output: []byte(`[1]`), StartedAt: at}, InputBytes: 15, OutputBytes: 3, Items: new(3),
				ItemsBegun: new(1), WaitUntil: &end},
		},
	}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"r","definition_id":"d","definition_name":"n","revision":2,"trigger":"event","occurrence_key":"event-1",` +
		`"status":"failed","reason":"task_failed","error":"task a failed","event_id":"1","event_type":"user.created",` +
		`"trace_id":null,"slot_at":null,"catch_up":false,"rerun_of":null,"backfill_id":null,"replay_id":null,"concurrency_key":"k",` +
		`"depth":2,"stop_requested":"cancel","accepted_at":"2026-01-02T02:04:05Z","started_at":"2026-01-02T02:04:05Z",` +
		`"finished_at":"2026-01-02T02:04:06.5Z","duration_ms":1500,"workflow_id":"w:1","workflow_run_id":null,` +
		`"because":[{"kind":"event","id":"1","text":"the event 1 of the type user.created made it due"},` +
		`{"kind":"stop","id":null,"text":"somebody asked to cancel it: too slow"}],"queue_position":null,` +
		`"temporal_url":"http://ui/namespaces/n/workflows/w:1","input":{"a":1},` +
		`"tasks":[{"name":"a","type":"http","status":"failed","attempts":3,"error":"status 500","input":null,"input_truncated":false,` +
		`"input_bytes":0,"output":"{\"cut\":\"of","output_truncated":true,"output_bytes":20,"started_at":"2026-01-02T02:04:05Z",` +
		`"finished_at":"2026-01-02T02:04:06.5Z","duration_ms":1500,"items_total":null,"items_begun":null,"wait_until":null},` +
		`{"name":"b","type":"log","status":"running","attempts":1,"error":null,"input":{"message":"x"},"input_truncated":false,` +
		`"input_bytes":15,"output":[1],"output_truncated":false,"output_bytes":3,"started_at":"2026-01-02T02:04:05Z","finished_at":null,` +
		`"duration_ms":null,"items_total":3,"items_begun":1,"wait_until":"2026-01-02T02:04:06.5Z"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	o := testOptions()
	registry := prometheus.NewRegistry()
	o.Registerer = registry
	asked := 0
	o.Store = &fakeStore{count: func() (map[definition.TriggerType]int, error) {
		asked++
		return map[definition.TriggerType]int{definition.TriggerCron: 3, definition.TriggerEvent: 0}, nil
	}}
	a := newAPI(t, o)
	call(t, a, "GET", "/runs/", "")
	call(t, a, "GET", "/runs/nonsense", "")
	call(t, a, "GET", "/wp-admin", "")
	call(t, a, "BREW", "/runs", "")
	got := map[string]float64{}
	for range 2 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				key := family.GetName()
				for _, l := range m.GetLabel() {
					key += " " + l.GetValue()
				}
				got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	for key, want := range map[string]float64{
		"actcore_http_requests_total 200 GET /runs":      1,
		"actcore_http_requests_total 422 GET /runs/{id}": 1,
		"actcore_http_requests_total 404 GET none":       1,
		"actcore_http_requests_total 405 other none":     1,
		"actcore_http_request_seconds GET /runs":         1,
		"actcore_definitions cron":                       3,
		"actcore_definitions event":                      0,
	} {
		if value, ok := got[key]; !ok || value != want {
			t.Errorf("%s = %v %v, want %v (all: %v)", key, value, ok, want, got)
		}
	}
	if asked != 1 {
		t.Errorf("storage was asked %d times within the cache's time, want once", asked)
	}
}
