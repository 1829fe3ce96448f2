package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

const releaseToken = "token-of-the-release-test"

// ci stands for the services that the example calls. It keeps what it was asked, and reports each first call.
type ci struct {
	mu    sync.Mutex
	calls map[string][]string // the idempotency keys by path
	body  map[string]map[string]any
	first chan string
}

func (c *ci) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	c.calls[r.URL.Path] = append(c.calls[r.URL.Path], r.Header.Get("Idempotency-Key"))
	first := len(c.calls[r.URL.Path]) == 1
	body := map[string]any{}
	_ = json.Unmarshal(data, &body)
	body["authorization"] = r.Header.Get("Authorization")
	c.body[r.URL.Path] = body
	c.mu.Unlock()
	if first {
		c.first <- r.URL.Path
		<-r.Context().Done() // whoever asked is about to be killed
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"findings": 2}`)
}

// The example of docs/example-release.md runs as its picture says, with a payload of GitHub's; a worker that is killed at each of its
// steps changes nothing but the time it takes.
func TestReleaseOnPush(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Env["ACTCORE_SECRET_CI_TOKEN"] = releaseToken
	services := &ci{calls: map[string][]string{}, body: map[string]map[string]any{}, first: make(chan string, 10)}
	server := httptest.NewServer(services)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)

	// The user's side: a worker of their own, and a stream that takes the message.
	queue, findings := s.Names.TaskTaskQueue+"-build", s.Names.SubjectPrefix+"-findings"
	building := make(chan struct{}, 10)
	users := worker.New(s.Temporal, queue, worker.Options{})
	users.RegisterWorkflowWithOptions(func(ctx workflow.Context, in map[string]any) (map[string]any, error) {
		if !workflow.IsReplaying(ctx) {
			building <- struct{}{}
		}
		if err := workflow.Sleep(ctx, 3*time.Second); err != nil { // long enough to be killed within
			return nil, err
		}
		return map[string]any{"image": fmt.Sprintf("%s:%.7s (%v)", in["repo"], in["sha"], in["commits"])}, nil
	}, workflow.RegisterOptions{Name: "BuildImage"})
	if err := users.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(users.Stop)
	stream, err := s.JS.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: strings.ToUpper(findings), Subjects: []string{findings}, Storage: jetstream.MemoryStorage,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = s.JS.DeleteStream(ctx, strings.ToUpper(findings))
	})

	s.Start("api")
	s.Start("event-router")
	carrier := s.Start("worker")
	document, err := os.ReadFile("../../examples/definitions/release-on-push.json")
	if err != nil {
		t.Fatal(err)
	}
	id := s.Create(strings.NewReplacer("https://ci.example.com", server.URL, "build-tq", queue, "security.findings", findings).
		Replace(string(document)))
	push, err := os.ReadFile("testdata/github-push.json")
	if err != nil {
		t.Fatal(err)
	}
	s.Publish("github.push", "delivery-1", "delivery-1", string(push))
	s.Publish("github.push", "delivery-2", "delivery-2", strings.Replace(string(push), `"refs/heads/master"`, `"refs/heads/topic"`, 1))

	killAt := func(what string, reached <-chan string) {
		t.Helper()
		select {
		case path := <-reached:
			t.Logf("killing the worker at %s", path)
		case <-time.After(90 * time.Second):
			t.Fatalf("%s is not reached within 90 s", what)
		}
		carrier.Kill()
		carrier.Run()
		carrier.WaitReady()
	}
	for range 3 {
		killAt("a check", services.first)
	}
	begun := make(chan string, 1)
	go func() { <-building; begun <- "BuildImage" }()
	killAt("the build", begun)

	var runID, question string
	testenv.Eventually(t, 90*time.Second, "the approval is asked for", func(ctx context.Context) (bool, error) {
		list, err := s.TryRuns(ctx, id)
		if err != nil || len(list) == 0 {
			return false, err
		}
		runID = list[0].Str("id")
		// The question is written a moment after the task has begun.
		agree := taskOf(s, runID, "agree")
		question = agree.Object("input").Object("approval").Str("message")
		return agree.Str("status") == "running" && question != "", nil
	})
	carrier.Kill()
	if want := "Release Codertocat/Hello-World:6113728 (1) by Codertocat?"; question != want {
		t.Errorf("the approval's message is %q, want %q", question, want)
	}
	if status, answer := s.Call(http.MethodPost, "/runs/"+runID+"/tasks/agree/approve", `{"by": "ada"}`); status/100 != 2 {
		t.Fatalf("approve answered %d: %v", status, answer)
	}
	carrier.Run()
	carrier.WaitReady()
	killAt("the release", services.first)

	var run system.Object
	testenv.Eventually(t, 90*time.Second, "the run ends", func(ctx context.Context) (bool, error) {
		var err error
		_, run, err = s.TryCall(ctx, http.MethodGet, "/runs/"+runID, "")
		return err == nil && run.Str("finished_at") != "", nil
	})
	if run.Str("status") != "succeeded" {
		t.Fatalf("the run is %s: %s", run.Str("status"), run.Str("error"))
	}
	if list := s.Runs(id); len(list) != 1 {
		t.Errorf("%d runs, want that of the default branch alone", len(list))
	}
	for _, name := range []string{"lint", "test", "scan", "build", "warn", "agree", "release"} {
		if got := taskOf(s, runID, name).Str("status"); got != "succeeded" {
			t.Errorf("task %s is %s, want succeeded", name, got)
		}
	}
	services.mu.Lock()
	defer services.mu.Unlock()
	paths := slices.Sorted(maps.Keys(services.calls))
	if want := []string{"/lint", "/release", "/scan", "/test"}; !slices.Equal(paths, want) {
		t.Errorf("called: %v, want %v", paths, want)
	}
	for path, keys := range services.calls {
		if got := slices.Compact(slices.Clone(keys)); len(got) != 1 || got[0] != runID+":"+path[1:] {
			t.Errorf("%s had the idempotency keys %v", path, keys)
		}
	}
	if got := services.body["/lint"]; got["sha"] != "6113728f27ae82c7b1a177c8d03f9e96e0adf246" || got["authorization"] != "Bearer "+releaseToken {
		t.Errorf("lint was asked %v", got)
	}
	if got := services.body["/release"]; got["image"] != "Codertocat/Hello-World:6113728 (1)" || got["agreed_by"] != "ada" {
		t.Errorf("release was asked %v", got)
	}
	info, err := stream.Info(t.Context())
	if err != nil || info.State.Msgs != 1 {
		t.Errorf("%d findings were published (%v), want 1", info.State.Msgs, err)
	}
	hasWorkflows(s, 1, `WorkflowType = "BuildImage"`)
}

// taskOf returns a task of a run, empty when there is none.
func taskOf(s *system.System, runID, name string) system.Object {
	s.T.Helper()
	_, run := s.Call(http.MethodGet, "/runs/"+runID, "")
	list, _ := run["tasks"].([]any)
	for _, item := range list {
		task, _ := item.(map[string]any)
		if task["name"] == name {
			return task
		}
	}
	return nil
}
