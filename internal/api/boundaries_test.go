package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/activity-core/activity-core/internal/definition"
)

// mostBytes is the most that an operation takes as its body.
func mostBytes(r DocumentedRequest) int {
	switch r.ID {
	case "create-definition", "update-definition", "patch-definition":
		return MaxDefinition
	case "trigger-definition":
		return MaxInput
	case "test-event":
		return definition.MaxEvent
	}
	return maxFields
}

// knowingAPI has a storage that takes what can be read: its answers are not those of the reading.
func knowingAPI(t *testing.T) *API {
	t.Helper()
	doc, err := definition.ParseDocument([]byte(`{"name":"a","trigger_config":{"trigger_type":"manual"}}`))
	if err != nil {
		t.Fatal(err)
	}
	o := testOptions()
	o.Store = &fakeStore{update: func(change func(definition.Document) (definition.Document, error)) (definition.Stored, error) {
		if _, err := change(doc); err != nil {
			return definition.Stored{}, err
		}
		return definition.Stored{}, errNotExpected
	}}
	return newAPI(t, o)
}

func send(t *testing.T, a *API, r DocumentedRequest, body string) *httptest.ResponseRecorder {
	t.Helper()
	return call(t, a, r.Method, r.Path, body, "Content-Type", r.ContentType)
}

// TestSizesOfBodies sends to each operation a body that is as large as it may be, a byte less and a byte more.
func TestSizesOfBodies(t *testing.T) {
	t.Parallel()
	a, bodies := knowingAPI(t), 0
	for _, r := range a.DocumentedRequests(t) {
		if !r.TakesBody && r.ID != "test-event" {
			continue
		}
		bodies++
		body, most := r.Body, mostBytes(r)
		if body == "" {
			body = "{}"
		}
		for _, size := range []int{most - 1, most} {
			w := send(t, a, r, body+strings.Repeat(" ", size-len(body)))
			if w.Code >= 400 && w.Code < 500 && w.Code != 404 {
				t.Errorf("%s with %d bytes: %d %s", r.ID, size, w.Code, w.Body)
			}
		}
		w := send(t, a, r, body+strings.Repeat(" ", most+1-len(body)))
		if r.ID == "test-event" { // an answer, as a router would give it
			if got := decode[EventTest](t, w); w.Code != 200 || got.Reason == nil || string(*got.Reason) != definition.RejectTooLarge {
				t.Errorf("%s with %d bytes: %d %s", r.ID, most+1, w.Code, w.Body)
			}
			continue
		}
		if w.Code != 413 {
			t.Errorf("%s with %d bytes: %d %s", r.ID, most+1, w.Code, w.Body)
			continue
		}
		if p := wantProblem(t, w, 413, "too-large"); len(p.Errors) != 1 || p.Errors[0].Field != "body" || p.Errors[0].Rule != "max_bytes" {
			t.Errorf("%s with %d bytes: %+v", r.ID, most+1, p)
		}
	}
	if bodies < 24 {
		t.Errorf("%d operations take a body: they are not found as they should be", bodies)
	}
}

// TestDepthsOfBodies sends to each operation a body that is nested as deeply as it may be, and one level more.
func TestDepthsOfBodies(t *testing.T) {
	t.Parallel()
	nested := func(levels int) string {
		return `{"name":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`
	}
	a := knowingAPI(t)
	for _, r := range a.DocumentedRequests(t) {
		if !r.TakesBody || r.ID == "test-event" {
			continue
		}
		w := send(t, a, r, nested(definition.MaxNesting))
		var p Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || slices.ContainsFunc(p.Errors, func(f Fault) bool { return f.Rule == "max_depth" }) {
			t.Errorf("%s with %d levels: %d %s", r.ID, definition.MaxNesting, w.Code, w.Body)
		}
		for _, body := range []string{nested(definition.MaxNesting + 1), strings.Repeat(`{"a":`, maxFields/5), strings.Repeat("[", 10_000)} {
			w := send(t, a, r, body)
			if w.Code != 422 {
				t.Errorf("%s, too deep: %d %s", r.ID, w.Code, w.Body)
				continue
			}
			want := Fault{"body", "max_depth", "its objects and lists are nested deeper than 100 levels, which is the most that is allowed"}
			if p := wantProblem(t, w, 422, "invalid"); len(p.Errors) != 1 || p.Errors[0] != want {
				t.Errorf("%s, too deep: %+v", r.ID, p)
			}
		}
	}

	// An event is read as a router reads it, which has the same limit.
	event := func(levels int) EventTest {
		body := `{"event_id":"e","type":"a","payload":{"x":` + strings.Repeat("[", levels-2) + strings.Repeat("]", levels-2) + `}}`
		o := testOptions()
		o.Store = &fakeStore{ofType: func(string) ([]definition.Routable, error) { return nil, nil }}
		return decode[EventTest](t, call(t, newAPI(t, o), "POST", "/events/test", body))
	}
	if got := event(definition.MaxNesting); got.Reason != nil {
		t.Errorf("an event of %d levels: %+v", definition.MaxNesting, got)
	}
	if got := event(definition.MaxNesting + 1); got.Reason == nil || string(*got.Reason) != definition.RejectTooDeep {
		t.Errorf("an event of %d levels: %+v", definition.MaxNesting+1, got)
	}

	// What is in a text is not nested, and a definition and an input may really be as deep as that.
	deep := strings.Repeat("[", definition.MaxNesting) + strings.Repeat("]", definition.MaxNesting)
	o := testOptions()
	var input string
	o.Store = &fakeStore{get: func(string) (definition.Stored, error) { return definition.Stored{}, nil }}
	o.Ledger = &fakeLedger{record: func(given []definition.Occurrence) ([]definition.Start, error) {
		input = string(given[0].Input)
		return nil, nil
	}}
	b := newAPI(t, o)
	for _, body := range []string{deep, `["` + strings.Repeat("[", 1000) + `\"` + strings.Repeat("{", 1000) + `"]`} {
		input = ""
		if call(t, b, "POST", "/activity-definitions/"+someID+"/trigger", body); input != body {
			t.Errorf("the input %.50s… is not taken", body)
		}
	}
}

// TestLists holds every list to the same rules, in the document and in what it does: limit, from 1 to 500, and cursor.
func TestLists(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	lists := 0
	for path, item := range a.huma.OpenAPI().Paths {
		op := item.Get
		if op == nil || len(op.Security) == 0 {
			continue
		}
		schemas := a.huma.OpenAPI().Components.Schemas
		answer := op.Responses["200"].Content[jsonType].Schema
		if answer.Ref != "" {
			answer = schemas.SchemaFromRef(answer.Ref)
		}
		parameters := map[string]*huma.Param{}
		for _, p := range op.Parameters {
			if p.In == "query" {
				parameters[p.Name] = p
			}
		}
		limit, cursor, next := parameters["limit"], parameters["cursor"], answer.Properties["next_cursor"]
		if answer.Properties["items"] == nil && !strings.HasPrefix(op.OperationID, "list-") {
			if limit != nil || cursor != nil || next != nil {
				t.Errorf("%s is no list, and has the parameters of one", op.OperationID)
			}
			continue
		}
		lists++
		if limit == nil || cursor == nil || next == nil || limit.Schema.Minimum == nil || *limit.Schema.Minimum != 1 ||
			limit.Schema.Maximum == nil || *limit.Schema.Maximum != maxLimit || limit.Schema.Default != defaultLimit ||
			!slices.Contains(answer.Required, "next_cursor") {
			t.Errorf("%s does not say how it is paged", op.OperationID)
			continue
		}
		address := strings.NewReplacer("{id}", someID, "{name}", "a").Replace(path)
		for _, size := range []string{"1", "499", "500"} {
			if w := call(t, a, "GET", address+"?limit="+size, ""); w.Code == 422 {
				t.Errorf("%s with limit=%s: %s", op.OperationID, size, w.Body)
			}
		}
		for _, size := range []string{"0", "501", "-1", "1e2", "99999999999999999999"} {
			p := wantProblem(t, call(t, a, "GET", address+"?limit="+size, ""), 422, "invalid")
			if len(p.Errors) != 1 || p.Errors[0].Field != "limit" || p.Errors[0].Rule != "range" {
				t.Errorf("%s with limit=%s: %+v", op.OperationID, size, p)
			}
		}
		if p := wantProblem(t, call(t, a, "GET", address+"?cursor=x", ""), 422, "invalid"); len(p.Errors) != 1 || p.Errors[0].Rule != "cursor" {
			t.Errorf("%s with a bad cursor: %+v", op.OperationID, p)
		}
	}
	if lists < 7 {
		t.Errorf("found %d lists: they are not found as they should be", lists)
	}
}

// TestSizesOfQueries sends queries that are as large as they may be, and larger; no answer is much longer than the question.
func TestSizesOfQueries(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	labels := func(n int) string {
		pairs := make([]string, n)
		for i := range pairs {
			pairs[i] = fmt.Sprintf("label=l%d=x", i)
		}
		return strings.Join(pairs, "&")
	}
	same := func(n int) string { return strings.TrimSuffix(strings.Repeat("failed,", n), ",") }
	for _, test := range []struct {
		name, query, field, rule string
	}{
		{"the most labels", labels(definition.MaxLabels), "", ""},
		{"too many labels", labels(definition.MaxLabels + 1), "label", "max_items"},
		{"the most words", "status=" + same(maxWords), "", ""},
		{"too many words", "status=" + same(maxWords+1), "status", "max_items"},
		{"too many triggers", "trigger=" + strings.Repeat("x,", 20_000), "trigger", "max_items"},
		{"the most parameters", strings.TrimSuffix(strings.Repeat("label=a=b&", definition.MaxLabels)+strings.Repeat("&", maxParameters-33), "&") + "&", "", ""},
		{"too many parameters", strings.Repeat("&", maxParameters), "query", "max_items"},
		{"very many parameters", strings.Repeat("x&", 30_000), "query", "max_items"},
	} {
		w := call(t, a, "GET", "/runs?"+test.query, "")
		if test.rule == "" {
			if w.Code != 200 {
				t.Errorf("%s: %d %s", test.name, w.Code, w.Body)
			}
			continue
		}
		p := wantProblem(t, w, 422, "invalid")
		if len(p.Errors) != 1 || p.Errors[0].Field != test.field || p.Errors[0].Rule != test.rule || w.Body.Len() > 1000 {
			t.Errorf("%s: %+v, %d bytes", test.name, p, w.Body.Len())
		}
	}

	// Many faults are told of once for each of the first.
	unknown := make([]string, maxParameters)
	for i := range unknown {
		unknown[i] = fmt.Sprint("x", i, "=1")
	}
	w := call(t, a, "GET", "/runs?"+strings.Join(unknown, "&"), "")
	if p := wantProblem(t, w, 422, "invalid"); len(p.Errors) != definition.MaxFaults || w.Body.Len() > 64<<10 {
		t.Errorf("%d faults in %d bytes", len(p.Errors), w.Body.Len())
	}
	needs := strings.TrimSuffix(strings.Repeat(`"!",`, 15_000), ",")
	w = call(t, a, "POST", "/activity-definitions/", `{"name":"a","trigger_config":{"trigger_type":"manual"},"tasks":[{"name":"t","type":"log",`+
		`"with":{"message":"m"},"needs":[`+needs+`]}]}`)
	if p := wantProblem(t, w, 422, "invalid"); len(p.Errors) > definition.MaxFaults || w.Body.Len() > 64<<10 {
		t.Errorf("%d faults of a definition in %d bytes", len(p.Errors), w.Body.Len())
	}
	filter := make([]string, definition.MaxLabels+1)
	for i := range filter {
		filter[i] = fmt.Sprintf(`"l%d":"x"`, i)
	}
	p := wantProblem(t, call(t, a, "POST", "/runs/cancel", `{"filter":{"labels":{`+strings.Join(filter, ",")+`}}}`), 422, "invalid")
	if len(p.Errors) != 1 || p.Errors[0].Field != "filter.labels" || p.Errors[0].Rule != "max_items" {
		t.Errorf("too many labels of a filter: %+v", p)
	}
}

// TestMemoryOfRequests holds 200 requests with the largest bodies at the same time: what they keep in memory is bounded.
func TestMemoryOfRequests(t *testing.T) { // not parallel: others would be counted
	const (
		clients = 200
		// mostEach is how many times its own size a body may take up: as read, as decoded and as a document.
		mostEach = 3
	)
	reached, open := make(chan struct{}, clients), make(chan struct{})
	wait := func() {
		reached <- struct{}{}
		<-open
	}
	doc := `{"name":"a","trigger_config":{"trigger_type":"manual"},"tasks":[{"name":"t","type":"log","with":{"message":"`
	doc += strings.Repeat("x", MaxDefinition-len(doc)-1000) + `"}}]}`
	input := `{"a":"` + strings.Repeat("x", MaxInput-8) + `"}`
	if len(doc) > MaxDefinition || len(input) != MaxInput {
		t.Fatalf("bodies of %d and %d bytes", len(doc), len(input))
	}
	event := `{"event_id":"e","type":"a","payload":{"x":"` + strings.Repeat("x", definition.MaxEvent-100) + `"}}`
	o := testOptions()
	o.Store = &fakeStore{
		create: func(definition.Document) (definition.Stored, error) {
			wait()
			return definition.Stored{}, errNotExpected
		},
		get:    func(string) (definition.Stored, error) { return definition.Stored{}, nil },
		ofType: func(string) ([]definition.Routable, error) { wait(); return nil, errNotExpected },
	}
	o.Ledger = &fakeLedger{record: func([]definition.Occurrence) ([]definition.Start, error) { wait(); return nil, errNotExpected }}
	a := newAPI(t, o)
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before, sent := heap(), 0
	var group sync.WaitGroup
	ended := make(chan string, clients)
	for i := range clients {
		path, body := "/activity-definitions/", doc
		switch i % 3 {
		case 1:
			path, body = "/activity-definitions/"+someID+"/trigger", input
		case 2:
			path, body = "/events/test", event
		}
		sent += len(body)
		group.Go(func() {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			ended <- w.Body.String()
		})
	}
	for range clients {
		select {
		case <-reached:
		case text := <-ended:
			t.Fatalf("a request is answered at once: %s", text)
		}
	}
	grown := heap() - before
	close(open)
	group.Wait()
	t.Logf("%d bytes were sent, and the heap grew by %d", sent, grown)
	if grown > mostEach*sent {
		t.Errorf("%d bytes were sent, and the heap grew by %d", sent, grown)
	}
}
