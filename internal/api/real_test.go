package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
)

// service is the API on a database and task queues of its own.
type service struct {
	url      string
	api      *api.API
	store    *postgres.Store
	temporal client.Client
}

func newService(t *testing.T) *service {
	t.Helper()
	return serve(t, testenv.Pool(t), testenv.Temporal(t), testenv.Names(t).OrchestratorTaskQueue)
}

// serveTo is serve for callers who are asked who they are.
func serveTo(t *testing.T, callers authenticator, pool *pgxpool.Pool, temporal client.Client, queue string) *service {
	t.Helper()
	return serve(t, pool, temporal, queue, func(o *api.Options) { o.Access = callers })
}

func serve(t *testing.T, pool *pgxpool.Pool, temporal client.Client, queue string, change ...func(*api.Options)) *service {
	t.Helper()
	s := &service{store: postgres.New(pool), temporal: temporal}
	logger, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	runs, err := ledger.New(ledger.Options{Store: s.store, Temporal: temporal, TaskQueue: queue, Log: logger, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	stopper, err := ledger.NewStopper(ledger.StopperOptions{Store: s.store, Temporal: temporal, Log: logger, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	schedules, err := schedule.NewReconciler(schedule.Options{
		Store: s.store, Temporal: temporal, TaskQueue: queue, Log: logger, Registerer: registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	options := api.Options{
		Store: s.store, Ledger: runs, Stopper: stopper, Syncer: schedules, FullSyncer: fullSync{schedules}, Health: http.NotFoundHandler(),
		Ready: http.NotFoundHandler(), Log: logger, Registerer: registry,
	}
	for _, c := range change {
		c(&options)
	}
	handler, err := api.New(options)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	s.url, s.api = server.URL, handler
	return s
}

type authenticator interface {
	Authenticate(ctx context.Context, credential string) (access.Caller, error)
}

// fullSync is the reconciler's comparison of all schedules in the API's words. The one of cmd/api also looks after servers
// that are away; TestClock of test/e2e tests it.
type fullSync struct{ *schedule.Reconciler }

func (f fullSync) SyncAll(ctx context.Context, dryRun bool) (api.SyncResult, error) {
	r, err := f.Reconciler.SyncAll(ctx, dryRun)
	result := api.SyncResult{
		Complete: err == nil, Created: r.Created, Updated: r.Updated, Paused: r.Paused, Unpaused: r.Unpaused, Deleted: r.Deleted,
		Unchanged: r.Unchanged, Failed: r.Failed,
	}
	for _, failure := range r.Failures {
		result.Failures = append(result.Failures, api.SyncFailure(failure))
	}
	return result, err
}

// answer is what came back from one request.
type answer struct {
	location   string
	retryAfter string
	body       []byte
}

// call makes one request without following redirects, as curl does, and checks the status.
func (s *service) call(t *testing.T, status int, method, path, body string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	noRedirects := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := noRedirects.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Fatalf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, status, data)
	}
	return answer{resp.Header.Get("Location"), resp.Header.Get("Retry-After"), data}
}

func read[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return v
}

type definitionAnswer struct {
	ID          string
	Name        string
	Revision    int
	Enabled     bool
	Description string
	Labels      map[string]string
	Trigger     json.RawMessage `json:"trigger_config"`
	Tasks       []json.RawMessage
	Sync        *struct {
		State             string
		Desired, Observed int
	}
}

type page[T any] struct {
	Items      []T
	NextCursor *string `json:"next_cursor"`
}

// paused describes a definition's schedule; exists is false when there is none.
func (s *service) paused(t *testing.T, id string) (paused, exists bool) {
	t.Helper()
	d, err := s.temporal.ScheduleClient().GetHandle(t.Context(), definition.ScheduleID(id)).Describe(t.Context())
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return false, false
	}
	if err != nil {
		t.Fatalf("describe the schedule of %s: %v", id, err)
	}
	return d.Schedule.State.Paused, true
}

// TestLifeOfADefinition goes through the life of a cron definition the way the README does.
func TestLifeOfADefinition(t *testing.T) {
	t.Parallel()
	s := newService(t)
	if got := string(s.call(t, 200, "GET", "/activity-definitions/", "").body); got != `{"items":[],"next_cursor":null}`+"\n" {
		t.Errorf("empty list: %s", got)
	}

	created := s.call(t, 201, "POST", "/activity-definitions/", `{"name": "daily-report",
		"trigger_config": {"trigger_type": "cron", "cron_expression": "0 9 * * 1-5", "timezone": "Europe/Berlin", "misfire_policy": "skip"}}`)
	d := read[definitionAnswer](t, created)
	if created.location != "/activity-definitions/"+d.ID || d.Revision != 1 || !d.Enabled || d.Tasks == nil {
		t.Errorf("created %+v at %s", d, created.location)
	}
	if d.Sync == nil || d.Sync.State != "synced" || d.Sync.Observed != 1 {
		t.Errorf("sync of the new definition: %s", created.body)
	}
	if paused, exists := s.paused(t, d.ID); paused || !exists {
		t.Errorf("schedule: paused %v, exists %v", paused, exists)
	}
	if got := s.call(t, 200, "GET", created.location, "").body; !bytes.Equal(got, created.body) {
		t.Errorf("read back %s\ncreated   %s", got, created.body)
	}

	off := read[definitionAnswer](t, s.call(t, 200, "PUT", created.location, `{"enabled": false}`))
	if off.Enabled || off.Revision != 2 || off.Name != d.Name || !bytes.Equal(off.Trigger, d.Trigger) || off.Sync.State != "synced" {
		t.Errorf("disabled: %+v", off)
	}
	if paused, exists := s.paused(t, d.ID); !paused || !exists {
		t.Errorf("disabled: paused %v, exists %v", paused, exists)
	}
	if same := read[definitionAnswer](t, s.call(t, 200, "PUT", created.location, `{"enabled": false}`)); same.Revision != 2 {
		t.Errorf("a change of nothing made revision %d", same.Revision)
	}

	merged := read[definitionAnswer](t, s.call(t, 200, "PATCH", created.location+"/",
		`{"enabled": true, "trigger_config": {"timezone": "UTC"}, "labels": {"team": "growth"}}`))
	const trigger = `{"trigger_type":"cron","cron_expression":"0 9 * * 1-5","timezone":"UTC","misfire_policy":"skip"}`
	if string(merged.Trigger) != trigger || merged.Labels["team"] != "growth" || merged.Revision != 3 {
		t.Errorf("merged: %+v with %s", merged, merged.Trigger)
	}
	if paused, _ := s.paused(t, d.ID); paused {
		t.Error("enabled, but paused")
	}
	merged = read[definitionAnswer](t, s.call(t, 200, "PATCH", created.location, `{"labels": {"team": null, "tier": "1"}}`))
	if fmt.Sprint(merged.Labels) != "map[tier:1]" {
		t.Errorf("labels: %v", merged.Labels)
	}

	event := read[definitionAnswer](t, s.call(t, 200, "PATCH", created.location,
		`{"trigger_config": {"trigger_type": "event", "event_type": "user.created"}}`))
	if string(event.Trigger) != `{"trigger_type":"event","event_type":"user.created"}` || event.Sync.State != "synced" {
		t.Errorf("event: %+v with %s", event, event.Trigger)
	}
	if _, exists := s.paused(t, d.ID); exists {
		t.Error("an event definition still has a schedule")
	}
	s.call(t, 200, "PUT", created.location, `{"trigger_config": {"trigger_type": "cron", "cron_expression": "@hourly"}}`)
	if _, exists := s.paused(t, d.ID); !exists {
		t.Error("a cron definition again, but without a schedule")
	}

	s.call(t, 204, "DELETE", created.location, "")
	if _, exists := s.paused(t, d.ID); exists {
		t.Error("deleted, but its schedule is still there")
	}
	for _, again := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"PUT", "{}"}, {"PATCH", "{}"}} {
		p := read[api.Problem](t, s.call(t, 404, again[0], created.location, again[1]))
		if want := "there is no definition " + d.ID + "; it may have been deleted"; p.Detail != want {
			t.Errorf("%s: %q, want %q", again[0], p.Detail, want)
		}
	}
	s.call(t, 404, "POST", created.location+"/trigger", "")
	s.call(t, 404, "GET", created.location+"/runs", "")
}

func TestNamesAreUnique(t *testing.T) {
	t.Parallel()
	s := newService(t)
	const body = `{"name":"a","trigger_config":{"trigger_type":"manual"}}`
	first := s.call(t, 201, "POST", "/activity-definitions", body)
	p := read[api.Problem](t, s.call(t, 409, "POST", "/activity-definitions/", body))
	if len(p.Errors) != 1 || p.Errors[0].Field != "name" || p.Errors[0].Rule != "unique" {
		t.Errorf("%+v", p)
	}
	second := s.call(t, 201, "POST", "/activity-definitions/", strings.Replace(body, `"a"`, `"b"`, 1))
	s.call(t, 409, "PUT", second.location, `{"name":"a"}`)
	s.call(t, 409, "PATCH", second.location, `{"name":"a"}`)
	if got := read[definitionAnswer](t, s.call(t, 200, "GET", second.location, "")); got.Name != "b" || got.Revision != 1 {
		t.Errorf("after two refusals: %+v", got)
	}
	s.call(t, 204, "DELETE", first.location, "")
	s.call(t, 200, "PUT", second.location, `{"name":"a"}`)
}

func TestRefusedBodiesStoreNothing(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for status, body := range map[int]string{
		422: `{"name":"a","trigger_config":{"trigger_type":"cron","cron_expression":"0 0 31 2 *"}}`,
		400: `{"name":`,
		413: `{"name":"a","description":"` + strings.Repeat("x", 64<<10) + `"}`,
	} {
		s.call(t, status, "POST", "/activity-definitions/", body)
	}
	if all := read[page[definitionAnswer]](t, s.call(t, 200, "GET", "/activity-definitions/", "")); len(all.Items) != 0 {
		t.Errorf("stored %+v", all.Items)
	}
}

func TestPagesOfDefinitions(t *testing.T) {
	t.Parallel()
	s := newService(t)
	var want []string
	for i := range 7 {
		name := fmt.Sprintf("d%d", i)
		s.call(t, 201, "POST", "/activity-definitions/",
			fmt.Sprintf(`{"name":%q,"enabled":%v,"trigger_config":{"trigger_type":"manual"}}`, name, i%2 == 0))
		want = append(want, name)
	}
	s.call(t, 201, "POST", "/activity-definitions/", `{"name":"e","trigger_config":{"trigger_type":"event","event_type":"x"}}`)

	if got := names(t, s, "/activity-definitions/?limit=3", nil); !slices.Equal(got, append(slices.Clone(want), "e")) {
		t.Errorf("all: %q", got)
	}
	if got := names(t, s, "/activity-definitions/?limit=2&trigger_type=manual&enabled=false", nil); !slices.Equal(got, []string{"d1", "d3", "d5"}) {
		t.Errorf("disabled manual ones: %q", got)
	}
	if got := names(t, s, "/activity-definitions/?name=d4", nil); !slices.Equal(got, []string{"d4"}) {
		t.Errorf("by name: %q", got)
	}
	if got := names(t, s, "/activity-definitions/?limit=8", nil); len(got) != 8 {
		t.Errorf("a page of exactly all: %q", got)
	}

	// A definition that is deleted between two pages disturbs neither.
	list := read[page[definitionAnswer]](t, s.call(t, 200, "GET", "/activity-definitions/?limit=3", ""))
	s.call(t, 204, "DELETE", "/activity-definitions/"+list.Items[2].ID, "")
	if got := names(t, s, "/activity-definitions/?limit=3", list.NextCursor); !slices.Equal(got, []string{"d3", "d4", "d5", "d6", "e"}) {
		t.Errorf("after a deletion: %q", got)
	}
	// A cursor belongs to its filters.
	p := read[api.Problem](t, s.call(t, 422, "GET", "/activity-definitions/?enabled=true&cursor="+*list.NextCursor, ""))
	if p.Detail != "cursor: belongs to another list or to other filters: leave it out to begin anew" {
		t.Errorf("detail %q", p.Detail)
	}
}

// names reads a list to its end, from a cursor on.
func names(t *testing.T, s *service, path string, next *string) []string {
	t.Helper()
	var all []string
	for {
		address := path
		if next != nil {
			address += "&cursor=" + *next
		}
		list := read[page[definitionAnswer]](t, s.call(t, 200, "GET", address, ""))
		for _, d := range list.Items {
			all = append(all, d.Name)
		}
		if next = list.NextCursor; next == nil {
			return all
		}
	}
}

type runAnswer struct {
	ID             string
	DefinitionID   string `json:"definition_id"`
	DefinitionName string `json:"definition_name"`
	Revision       int
	Trigger        string
	Status         string
	OccurrenceKey  string `json:"occurrence_key"`
	WorkflowID     string `json:"workflow_id"`
	Input          json.RawMessage
	Tasks          []json.RawMessage
}

func TestRuns(t *testing.T) {
	t.Parallel()
	s := newService(t)
	created := s.call(t, 201, "POST", "/activity-definitions/", `{"name":"by-hand","enabled":false,"trigger_config":{"trigger_type":"manual"}}`)
	other := s.call(t, 201, "POST", "/activity-definitions/", `{"name":"other","trigger_config":{"trigger_type":"manual"}}`)

	// A disabled definition runs by hand; the input survives to the byte, also where JSONB would change or refuse it.
	accepted := s.call(t, 202, "POST", created.location+"/trigger", `{"big":1e400000,"zero":"\u0000","z":1,"a":[]}`)
	run := read[runAnswer](t, accepted)
	if accepted.location != "/runs/"+run.ID || run.Trigger != "manual" || run.DefinitionName != "by-hand" || run.Revision != 1 ||
		run.Status != "accepted" || string(run.Input) != `{"big":1e400000,"zero":"\u0000","z":1,"a":[]}` || run.Tasks == nil {
		t.Errorf("accepted at %s: %s", accepted.location, accepted.body)
	}
	if run.WorkflowID != definition.WorkflowID(run.DefinitionID, run.OccurrenceKey) {
		t.Errorf("workflow id %q", run.WorkflowID)
	}
	if _, err := s.temporal.DescribeWorkflowExecution(t.Context(), run.WorkflowID, ""); err != nil {
		t.Errorf("its workflow was not started: %v", err)
	}
	if got := s.call(t, 200, "GET", accepted.location, "").body; !bytes.Equal(got, accepted.body) {
		t.Errorf("read back %s\naccepted  %s", got, accepted.body)
	}
	if empty := read[runAnswer](t, s.call(t, 202, "POST", created.location+"/trigger/", "")); string(empty.Input) != "null" {
		t.Errorf("without input: %+v", empty)
	}
	for range 4 {
		s.call(t, 202, "POST", created.location+"/trigger", "")
	}
	last := read[runAnswer](t, s.call(t, 202, "POST", other.location+"/trigger", "7"))

	all := readRuns(t, s, "/runs?limit=3")
	if len(all) != 7 || all[0].ID != last.ID || all[6].ID != run.ID {
		t.Errorf("all runs, newest first: %+v", all)
	}
	if mine := readRuns(t, s, created.location+"/runs?limit=4"); len(mine) != 6 || mine[5].ID != run.ID {
		t.Errorf("runs of the definition: %+v", mine)
	}
	if mine := readRuns(t, s, "/runs?limit=50&definition_id="+run.DefinitionID); len(mine) != 6 {
		t.Errorf("runs by definition id: %+v", mine)
	}
	if none := readRuns(t, s, "/runs?limit=50&status=failed"); len(none) != 0 {
		t.Errorf("failed runs: %+v", none)
	}
	if none := readRuns(t, s, other.location+"/runs/?limit=50&trigger=cron"); len(none) != 0 {
		t.Errorf("cron runs: %+v", none)
	}
	if some := readRuns(t, s, "/runs?limit=50&trigger=manual&status=accepted"); len(some) != 7 {
		t.Errorf("accepted runs by hand: %+v", some)
	}
	if body := string(s.call(t, 200, "GET", "/runs", "").body); strings.Contains(body, `"input"`) || strings.Contains(body, `"tasks"`) {
		t.Errorf("a list shows inputs or tasks: %s", body)
	}

	// A deleted definition keeps its runs; an unknown one has none.
	s.call(t, 204, "DELETE", created.location, "")
	if mine := readRuns(t, s, created.location+"/runs?limit=50"); len(mine) != 6 {
		t.Errorf("runs of the deleted definition: %+v", mine)
	}
	unknown := definition.NewID()
	s.call(t, 404, "GET", "/activity-definitions/"+unknown+"/runs", "")
	if p := read[api.Problem](t, s.call(t, 404, "GET", "/runs/"+unknown, "")); p.Detail != "there is no run "+unknown+"; it may have been deleted" {
		t.Errorf("detail %q", p.Detail)
	}
}

// readRuns reads a list of runs to its end.
func readRuns(t *testing.T, s *service, path string) []runAnswer {
	t.Helper()
	var all []runAnswer
	for address := path; ; {
		list := read[page[runAnswer]](t, s.call(t, 200, "GET", address, ""))
		all = append(all, list.Items...)
		if list.NextCursor == nil {
			return all
		}
		address = path + "&cursor=" + *list.NextCursor
	}
}

// TestTemporalAway writes while Temporal does not answer: the write is stored, and says that its schedule is not.
func TestTemporalAway(t *testing.T) {
	t.Parallel()
	s := serve(t, testenv.Pool(t), nobody(t), "nobodys-queue")
	created := s.call(t, 201, "POST", "/activity-definitions/", `{"name":"a","trigger_config":{"trigger_type":"cron","cron_expression":"@daily"}}`)
	if d := read[definitionAnswer](t, created); d.Sync == nil || d.Sync.State == "synced" || d.Sync.Desired != 1 || d.Sync.Observed != 0 {
		t.Errorf("sync: %s", created.body)
	}
	accepted := s.call(t, 202, "POST", created.location+"/trigger", "")
	if run := read[runAnswer](t, accepted); run.Status != "accepted" {
		t.Errorf("run: %s", accepted.body)
	}
	if d := read[definitionAnswer](t, s.call(t, 200, "POST", created.location+"/pause", "")); d.Enabled || d.Sync.State == "synced" {
		t.Errorf("paused: %+v", d)
	}
	s.call(t, 204, "DELETE", created.location, "")
}

// nobody is a client of a Temporal server that is not there.
func nobody(t *testing.T) client.Client {
	t.Helper()
	c, err := client.NewLazyClient(client.Options{HostPort: "127.0.0.1:1", Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
