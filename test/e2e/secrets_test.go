package e2e

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// The secrets of the test. Each has a word in it that no way of escaping changes.
const (
	tokenWord, token = "canary-token-7f3a91", "canary-token-7f3a91"
	oddWord, odd     = "canary-odd-5519c2", `"<é> \/ & =canary-odd-5519c2+%#` + "\t"
	// visible is sent and shown beside them: where it is not found, nothing would have been.
	visible = "visible-4e8d20"
)

// Secrets reach the servers and messages that tasks send them to, and nothing else: no history, table, log, metric or answer,
// though the servers return them in every form, with success and with failure.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ODD"), []byte(odd+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	processes := []*system.Process{
		s.Start("event-router", "LOG_LEVEL=debug"),
		s.Start("worker", "LOG_LEVEL=debug", "ACTCORE_SECRET_TOKEN="+token, "ACTCORE_SECRETS_DIR="+dir),
		s.Start("api", "LOG_LEVEL=debug"),
	}
	outbox := s.Names.Stream + "_OUTBOX"
	subject := "outbox." + strings.ToLower(s.Names.Stream)
	stream, err := s.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: outbox, Subjects: []string{subject}, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.JS.DeleteStream(context.WithoutCancel(t.Context()), outbox) })
	server := newTalkative(t)

	with := fmt.Sprintf(`{"url": "%s/PATH?in_url=${secrets.TOKEN}&v=%s", "query": {"token": "${secrets.TOKEN}", "odd": "${secrets.ODD}"},
		"headers": {"Authorization": "Bearer ${secrets.TOKEN}"},
		"body": {"token": "${secrets.TOKEN}", "odd": ["${secrets.ODD}"], "text": "a ${secrets.ODD} z", "v": "%[2]s"}}`, server.url, visible)
	const retry = `"retry": {"max_attempts": 3, "initial_interval": "1s"}`
	create := func(name, tasks string) string {
		t.Helper()
		return s.Create(fmt.Sprintf(`{"name": %q, "trigger_config": {"trigger_type": "manual"}, %s}`, name, tasks))
	}
	told := fmt.Sprintf(`{"name": "say", "type": "log", "needs": ["call"], "with": {"message": "got ${tasks.call.output} %s"}}`, visible)
	definitions := map[string]string{
		// Refused once, then answered; the answer is read by others, made another output of, and published.
		create("works", fmt.Sprintf(`"tasks": [{"name": "call", "type": "http", "with": %s, %s},
			{"name": "part", "type": "http", "with": %s}, %s,
			{"name": "tell", "type": "publish", "needs": ["call", "part"], "with": {"subject": %q, "headers": {"X-Token": "${secrets.TOKEN}"},
				"payload": {"token": "${secrets.TOKEN}", "odd": "${secrets.ODD}", "call": "${tasks.call.output}", "part": "${tasks.part.output}"}}}]`,
			strings.Replace(with, "PATH", "flaky", 1), retry,
			strings.TrimSuffix(strings.Replace(with, "PATH", "fine", 1), "}")+`, "output": {"echo": "${response.body}", "h": "${response.headers}"}}`,
			told, subject)): "succeeded",
		// The answer that fails it for good holds them all.
		create("fails", fmt.Sprintf(`"tasks": [{"name": "call", "type": "http", "with": %s, %s}],
			"on_failure": [{"name": "alarm", "type": "log", "with": {"message": "${run.error} ${tasks.call} %s"}}]`,
			strings.Replace(with, "PATH", "wrong", 1), retry, visible)): "failed",
		// Every attempt fails.
		create("gives-up", fmt.Sprintf(`"tasks": [{"name": "call", "type": "http", "with": %s,
			"retry": {"max_attempts": 2, "initial_interval": "1s"}}]`, strings.Replace(with, "PATH", "down", 1))): "failed",
		// The error has the host in it.
		create("no-host", `"tasks": [{"name": "call", "type": "http", "with": {"method": "GET", "url": "http://${secrets.TOKEN}.1/"}}]`): "failed",
		// The error of an expression.
		create("no-number", `"tasks": [{"name": "call", "type": "http", "with": {"url": "http://127.0.0.1/${int(secrets.TOKEN)}"}}]`):       "failed",
		create("no-such-key", `"tasks": [{"name": "call", "type": "http", "with": {"url": "http://127.0.0.1/${run.input[secrets.ODD]}"}}]`): "failed",
	}
	runs := map[string]string{} // id: what becomes of it
	for id, outcome := range definitions {
		status, run := s.Call(http.MethodPost, "/activity-definitions/"+id+"/trigger", `{"asked": "`+visible+`"}`)
		if status != http.StatusAccepted {
			t.Fatalf("trigger answered %d: %v", status, run)
		}
		runs[run.Str("id")] = outcome
	}
	var workflows []string
	for id, outcome := range runs {
		var run system.Object
		testenv.Eventually(t, time.Minute, "the runs have ended", func(ctx context.Context) (bool, error) {
			var err error
			_, run, err = s.TryCall(ctx, http.MethodGet, "/runs/"+id, "")
			return err == nil && run.Str("finished_at") != "", nil
		})
		if run.Str("status") != outcome {
			t.Errorf("run of %s is %s (%s), want %s", run.Str("definition_name"), run.Str("status"), run.Str("error"), outcome)
		}
		workflows = append(workflows, run.Str("workflow_id"))
	}
	server.got(t)
	message, err := stream.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	var payload struct{ Token, Odd string }
	if err := json.Unmarshal(message.Data, &payload); err != nil || payload.Token != token || payload.Odd != odd ||
		message.Header.Get("X-Token") != token {
		t.Errorf("published %s with %v, %v", message.Data, message.Header, err)
	}

	// Let the list of workflows know them all, and the logs and metrics their ends.
	testenv.Eventually(t, 30*time.Second, "Temporal lists the runs as closed", func(ctx context.Context) (bool, error) {
		n, err := s.Workflows(ctx, "ExecutionStatus != 'Running'")
		return err == nil && int(n) >= len(runs), nil
	})
	places := map[string]string{}
	for name, text := range histories(t, s) {
		places["the history of "+name] = text
	}
	for name, text := range tables(t, s.Database) {
		places["the table "+name] = text
	}
	for _, p := range processes {
		places["the log of "+p.Name] = p.Log()
		places["the metrics of "+p.Name] = fetch(t, "http://"+p.Metrics+"/metrics")
	}
	for _, path := range []string{"/runs?limit=500", "/dead-letters?limit=500", "/activity-definitions/?limit=500"} {
		places["GET "+path] = fetch(t, "http://"+s.APIAddr+path)
	}
	answers := ""
	for id := range runs {
		answers += fetch(t, "http://"+s.APIAddr+"/runs/"+id)
	}
	places["GET /runs/{id}"] = answers

	for place, text := range places {
		for _, word := range []string{tokenWord, oddWord} {
			for form, needle := range forms(word) {
				if at := strings.Index(text, needle); at >= 0 {
					t.Errorf("%s holds %s %s: …%q…", place, word, form, text[max(0, at-150):min(len(text), at+150)])
				}
			}
		}
	}
	// What is looked through is what is there.
	for _, place := range []string{"the table task_results", "the table runs", "the log of worker", "GET /runs/{id}"} {
		if !strings.Contains(places[place], visible) && !strings.Contains(places[place], hex.EncodeToString([]byte(visible))) {
			t.Errorf("%s does not hold what is sent beside the secrets", place)
		}
	}
	for _, id := range workflows {
		if !strings.Contains(places["the history of "+id], "RunTask") {
			t.Errorf("the history of %s does not tell of a task", id)
		}
	}
	for _, place := range []string{"the log of worker", "GET /runs/{id}", "the table task_results"} {
		if text := places[place]; !strings.Contains(text, "***") && !strings.Contains(text, hex.EncodeToString([]byte("***"))) {
			t.Errorf("%s does not hold ***", place)
		}
	}
}

// forms are the ways in which a word can be looked for: within base64 it begins at one of three places of a group.
func forms(word string) map[string]string {
	out := map[string]string{"as it is": word, "in hexadecimal": hex.EncodeToString([]byte(word)), "in base64": base64.RawStdEncoding.EncodeToString([]byte(word))}
	for before := 1; before < 3; before++ {
		whole := base64.RawStdEncoding.EncodeToString(append(make([]byte, before), word...))
		out[fmt.Sprintf("in base64, %d later", before)] = whole[before+1 : len(whole)-1]
	}
	return out
}

// talkative is a server that returns what it is sent, in many forms.
type talkative struct {
	url string

	mu     sync.Mutex
	missed []string
	seen   map[string]int // by path
}

func newTalkative(t *testing.T) *talkative {
	t.Helper()
	s := &talkative{seen: map[string]int{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *talkative) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	var body struct {
		Token, Text string
		Odd         []string
	}
	_ = json.Unmarshal(data, &body)
	query := r.URL.Query()
	s.mu.Lock()
	s.seen[r.URL.Path]++
	n := s.seen[r.URL.Path]
	for what, right := range map[string]bool{
		"the header": r.Header.Get("Authorization") == "Bearer "+token, "the url": query.Get("in_url") == token,
		"the query": query.Get("token") == token && query.Get("odd") == odd,
		"the body":  body.Token == token && len(body.Odd) == 1 && body.Odd[0] == odd && body.Text == "a "+odd+" z",
	} {
		if !right {
			s.missed = append(s.missed, fmt.Sprintf("%s of %s: %s %v %s", what, r.URL.Path, r.URL, r.Header, data))
		}
	}
	s.mu.Unlock()

	w.Header().Set("X-Echo", r.Header.Get("Authorization"))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Location", r.URL.String())
	switch {
	case r.URL.Path == "/wrong":
		w.WriteHeader(http.StatusBadRequest)
	case r.URL.Path == "/down", r.URL.Path == "/flaky" && n == 1:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"url": r.URL.String(), "headers": r.Header, "body": json.RawMessage(data), "text": string(data), "seen": visible,
		"escaped": url.QueryEscape(string(data)), "basic": base64.StdEncoding.EncodeToString([]byte("user:" + token)),
		"base64": base64.URLEncoding.EncodeToString(data), "hex": hex.EncodeToString(data), token: odd,
		"plain": fmt.Sprintf("%q %s", odd, odd),
	})
}

// got fails the test when a secret did not arrive.
func (s *talkative) got(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, missed := range s.missed {
		t.Errorf("not as it was sent: %s", missed)
	}
	for path, want := range map[string]int{"/flaky": 2, "/fine": 1, "/wrong": 1, "/down": 2} {
		if s.seen[path] != want {
			t.Errorf("%d requests for %s, want %d", s.seen[path], path, want)
		}
	}
}

// histories returns the events of every workflow of the namespace, in which payloads are the bytes that they are.
func histories(t *testing.T, s *system.System) map[string]string {
	t.Helper()
	out := map[string]string{}
	for page := []byte(nil); ; {
		list, err := s.Temporal.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: s.Namespace, PageSize: 500, NextPageToken: page,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.GetExecutions() {
			var b strings.Builder
			events := s.Temporal.GetWorkflowHistory(t.Context(), e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId(), false,
				enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
			for events.HasNext() {
				event, err := events.Next()
				if err != nil {
					t.Fatal(err)
				}
				data, err := proto.Marshal(event)
				if err != nil {
					t.Fatal(err)
				}
				b.Write(data)
			}
			out[e.GetExecution().GetWorkflowId()] += b.String()
		}
		if page = list.GetNextPageToken(); len(page) == 0 {
			return out
		}
	}
}

// tables returns the rows of every table, in which bytes are written in hexadecimal.
func tables(t *testing.T, database string) map[string]string {
	t.Helper()
	db, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close(context.WithoutCancel(t.Context())) }()
	rows, err := db.Query(t.Context(), `SELECT table_name::text FROM information_schema.tables
		WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, name := range names {
		rows, err := db.Query(t.Context(), "SELECT t::text FROM "+pgx.Identifier{name}.Sanitize()+" t")
		if err != nil {
			t.Fatal(err)
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		out[name] = strings.Join(texts, "\n")
	}
	return out
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s answered %d: %v", url, res.StatusCode, err)
	}
	return string(data)
}
