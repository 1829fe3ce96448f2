package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/prometheus/client_golang/prometheus"
)

// world is the API on real storage, with callers of each role and without Temporal, in which there is something of everything: what
// the tests of the contract make requests to.
type world struct {
	url    string
	store  *postgres.Store
	log    *testenv.LogBuffer
	client *http.Client

	asking sync.RWMutex // held for reading by who makes a request, for writing by stock

	mu    sync.Mutex
	known map[string][]any // values by kind, as in pick; those of answers, the newest ones
	fixed map[string][]any // the same, of what stock made
	turn  int              // how often stock was called
	kept  int              // how many values were kept beyond the most
}

// newWorld serves the API. change, if any, may alter its options, and serve what it returns in its place.
func newWorld(t *testing.T, change func(*api.Options), wrap func(http.Handler) http.Handler) *world {
	t.Helper()
	w := &world{store: postgres.New(testenv.Pool(t)), log: &testenv.LogBuffer{}, known: map[string][]any{}, fixed: map[string][]any{}}
	logger, registry := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelError})), prometheus.NewRegistry()
	runs, err := ledger.New(ledger.Options{Store: w.store, Temporal: nobody(t), TaskQueue: "nobodys", Log: logger, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	options := api.Options{
		Store: w.store, Ledger: unstarted{runs}, Stopper: toldNobody{}, Syncer: toldNobody{}, FullSyncer: toldNobody{}, Access: api.ByRole{},
		Health: http.NotFoundHandler(), Ready: http.NotFoundHandler(), Log: logger, Registerer: registry,
	}
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"status":"ready"}`) })
	options.Health, options.Ready = ok, ok
	if change != nil {
		change(&options)
	}
	a, err := api.New(options)
	if err != nil {
		t.Fatal(err)
	}
	var handler http.Handler = a
	if wrap != nil {
		handler = wrap(a)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	w.url, w.client = server.URL, &http.Client{Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if err := w.stock(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// unstarted is the ledger without Temporal: what is recorded stays accepted.
type unstarted struct{ *ledger.Ledger }

func (unstarted) Start(context.Context, definition.Start) error { return nil }

// toldNobody stands for all that tells Temporal.
type toldNobody struct{}

func (toldNobody) StopAll(context.Context, []definition.Stopping) error { return nil }
func (toldNobody) Wake(context.Context, []string)                       {}
func (toldNobody) Decided(context.Context, string) error                { return nil }
func (toldNobody) SyncNow(context.Context, string) (definition.SyncStatus, error) {
	return definition.SyncStatus{}, nil
}
func (toldNobody) SyncAll(context.Context, bool) (api.SyncResult, error) {
	return api.SyncResult{Complete: true, Unchanged: 1}, nil
}

// stock makes one more of what requests are about: definitions of each type of trigger, a run that waits for approval, one that failed,
// an event, and an open dead letter. What requests do to them shows in later answers.
//
// No request is made meanwhile: one that found the new definition in a list, and paused or deleted it, would leave half a stock.
func (w *world) stock(ctx context.Context) error {
	w.asking.Lock()
	defer w.asking.Unlock()
	w.mu.Lock()
	w.turn++
	n := w.turn
	w.mu.Unlock()
	var failed []error
	var revised []any
	must := func(err error) { failed = append(failed, err) }
	create := func(name, rest string) string {
		doc, err := definition.ParseDocument([]byte(fmt.Sprintf(`{"name": "stock-%s-%d", %s}`, name, n, rest)))
		must(err)
		stored, err := w.store.CreateDefinition(ctx, doc)
		must(err)
		return stored.ID
	}
	cron := create("cron", `"trigger_config": {"trigger_type": "cron", "cron_expression": "0 9 * * 1-5", "timezone": "Europe/Berlin"}`)
	event := create("event", `"trigger_config": {"trigger_type": "event", "event_type": "user.created"}`)
	once := create("once", `"trigger_config": {"trigger_type": "scheduled", "run_at": "2126-12-24T18:00"}`)
	hand := create("hand", `"trigger_config": {"trigger_type": "manual"}, "tasks": [
		{"name": "agree", "type": "wait", "with": {"approval": {"message": "go on?"}}},
		{"name": "agree-too", "type": "wait", "with": {"approval": {"message": "go on?"}}}]`)
	for i := range 2 { // those of which the examples of If-Match and of revisions tell: each is used up by a change
		id := create(fmt.Sprintf("revised-%d", i), `"trigger_config": {"trigger_type": "manual"}`)
		for revision := 2; revision <= 3; revision++ {
			_, err := w.store.UpdateDefinition(ctx, id, definition.Change{}, func(d definition.Document) (definition.Document, error) {
				d.Description = fmt.Sprint("revision ", revision)
				return d, nil
			})
			must(err)
		}
		revised = append(revised, id)
	}
	run := func(key string) string {
		starts, err := w.store.AcceptRuns(ctx, []definition.Occurrence{{DefinitionID: hand, Kind: definition.KindManual, Key: key}})
		must(err)
		if len(starts) != 1 {
			return ""
		}
		_, err = w.store.BeginRun(ctx, definition.Begin{RunID: starts[0].RunID, DefinitionID: hand, FirstRunID: key,
			WorkflowID: definition.WorkflowID(hand, key)})
		must(err)
		return starts[0].RunID
	}
	waiting, wrong := run("manual-waiting"), run("manual-failed")
	for i, name := range []string{"agree", "agree-too"} {
		must(w.store.FinishTask(ctx, definition.TaskResult{RunID: waiting, Index: i, Name: name, Type: definition.TaskWait,
			Status: definition.TaskRunning}))
	}
	must(w.store.FinishTask(ctx, definition.TaskResult{RunID: wrong, Name: "agree", Type: definition.TaskWait, Status: definition.TaskFailed}))
	_, err := w.store.FinishRun(ctx, definition.Finish{RunID: wrong, Status: definition.RunFailed, Reason: definition.ReasonTaskFailed, Error: "no"})
	must(err)
	eventID := fmt.Sprintf("stock-event-%d", n)
	_, _, err = w.store.AcceptEvents(ctx, []definition.EventRecord{{ID: eventID, Type: "user.created", Digest: []byte("digest"),
		Stream: "S", StreamSeq: uint64(n), PublishedAt: time.Now(), Matches: 1}}, []definition.Occurrence{{DefinitionID: event, Kind: definition.KindEvent,
		Key: "event-" + eventID, EventID: eventID, EventType: "user.created", Input: []byte(`{"tier":"pro"}`)}})
	must(err)
	must(w.store.AcceptDeadLetters(ctx, []definition.DeadLetter{{Reason: definition.RejectNotJSON, Detail: "no JSON", Subject: "activity.a",
		Stream: "S", StreamSeq: uint64(n), PublishedAt: time.Now(), Data: []byte("{"), DataSize: 1}}))
	letters, err := w.store.ListDeadLetters(ctx, definition.ListDeadLetters{Limit: 3})
	must(err)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.fixed = map[string][]any{
		"definition": {cron, event, hand, once}, "run": {waiting, wrong}, "task name": {"agree", "agree-too"}, "event": {eventID},
		"definition name": {fmt.Sprintf("stock-hand-%d", n)},
	}
	w.fixed["definition"] = append(w.fixed["definition"], revised...)
	for _, letter := range letters {
		w.fixed["dead-letter"] = append(w.fixed["dead-letter"], letter.ID)
	}
	return errors.Join(failed...)
}

// pick stands for a value that the world knows of a kind, the n-th so to speak, or for another one when it knows none.
type pick struct {
	kind string
	n    int
	or   any
}

// find returns what a pick stands for at this moment.
func (w *world) find(p pick) any {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.fixed[p.kind]
	if p.n%2 == 0 || len(list) == 0 {
		list = append(list[:len(list):len(list)], w.known[p.kind]...)
	}
	if len(list) == 0 {
		return p.or
	}
	return list[p.n/2%len(list)]
}

// kindOf is the kind of the values that a parameter or member of this name has, within something of a kind.
func kindOf(name, within string) string {
	switch name {
	case "id":
		return within
	case "name":
		return within + " name"
	case "definition", "definition_name":
		return "definition name"
	case "rerun_of":
		return "run"
	case "next_cursor":
		return "cursor"
	case "If-Match", "If-None-Match", "ETag":
		return "etag"
	}
	return strings.TrimSuffix(strings.TrimSuffix(name, "_ids"), "_id")
}

// collection is the kind of what a segment of a path holds: run for runs.
func collection(segment string) string {
	return strings.TrimPrefix(strings.TrimSuffix(segment, "s"), "activity-")
}

// remember keeps what an answer tells of the world: every scalar by the name of its member.
func (w *world) remember(op *operation, header http.Header, body []byte) {
	var value any
	if json.Unmarshal(body, &value) != nil {
		return
	}
	within := op.within
	if place := header.Get("Location"); place != "" {
		if segments := strings.Split(strings.Trim(place, "/"), "/"); len(segments) > 1 {
			within = collection(segments[len(segments)-2])
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if tag := header.Get("ETag"); tag != "" {
		w.keep("etag", tag)
	}
	w.learn(within, value)
}

func (w *world) learn(within string, value any) {
	switch value := value.(type) {
	case []any:
		for _, item := range value[:min(len(value), 5)] {
			w.learn(within, item)
		}
	case map[string]any:
		for name, member := range value {
			switch member.(type) {
			case string, float64:
				if name == "token" {
					continue // the secret, which names nothing
				}
				w.keep(kindOf(name, within), member)
			case []any, map[string]any:
				if name == "items" {
					w.learn(within, member)
				} else {
					w.learn(collection(name), member)
				}
			}
		}
	}
}

const mostKnown = 40

func (w *world) keep(kind string, value any) {
	if text, ok := value.(string); ok && (text == "" || len(text) > 300) {
		return
	}
	list := w.known[kind]
	if len(list) < mostKnown {
		w.known[kind] = append(list, value)
		return
	}
	w.kept++
	list[w.kept%mostKnown] = value
}
