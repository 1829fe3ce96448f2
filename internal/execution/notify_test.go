package execution

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/sdk/temporal"

	"github.com/activity-core/activity-core/internal/definition"
)

// received is a request that a test's server got.
type received struct {
	path, body, key, token string
}

// recorder is a server that answers each path with the next of its statuses, the last one for ever.
type recorder struct {
	mu       sync.Mutex
	statuses map[string][]int
	got      []received
}

func (r *recorder) handle(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, received{req.URL.Path, string(body), req.Header.Get("Idempotency-Key"), req.Header.Get("X-Token")})
	if list := r.statuses[req.URL.Path]; len(list) > 0 {
		w.WriteHeader(list[0])
		r.statuses[req.URL.Path] = list[min(1, len(list)-1):]
	}
	_, _ = io.WriteString(w, "you sent "+req.Header.Get("X-Token"))
}

func (r *recorder) requests(path string) []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.got), func(q received) bool { return q.path != path })
}

// Every notification is sent until it arrives, with what the definition says or else with the end itself. One that fails for good
// does not keep the others, and shows no secret.
func TestServerNotify(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: r.names.Stream, Subjects: []string{r.names.SubjectPrefix + ".>"}}); err != nil {
		t.Fatal(err)
	}
	hooks := &recorder{statuses: map[string][]int{"/flaky": {503, 200}, "/gone": {410}}}
	url := serve(t, hooks.handle)
	d := r.define(`"labels": {"team": "ops"}, "tasks": [], "notify": [
		{"on": ["succeeded"], "type": "http", "with": {"url": "` + url + `/flaky"}},
		{"on": ["succeeded"], "type": "http", "with": {"url": "` + url + `/gone", "headers": {"X-Token": "${secrets.TOKEN}"}}},
		{"on": ["late"], "type": "http", "with": {"url": "` + url + `/${definition.labels.team}", "headers": {"X-Token": "${secrets.TOKEN}"},
			"body": {"text": "${run.definition} is ${run.notification}", "input": "${run.input.n}", "status": "${run.status}"}}},
		{"on": ["succeeded"], "type": "publish", "with": {"subject": "` + r.names.SubjectPrefix + `.told"}},
		{"on": ["failed"], "type": "http", "with": {"url": "` + url + `/never"}},
		{"on": ["succeeded"], "type": "http", "with": {"url": "` + url + `/never", "body": "${run.input.absent}"}}]`)
	runID, _ := r.begin(d, `{"n": 7}`)
	r.awaitEnd(runID)
	in := definition.NotifyInput{RunID: runID, Send: []definition.NotifyOrder{
		{Index: 0, On: "succeeded"}, {Index: 1, On: "succeeded"}, {Index: 2, On: "late"}, {Index: 3, On: "succeeded"}, {Index: 5, On: "succeeded"}}}
	for range 2 { // a second start is none
		if err := r.ledger.Notify(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	err := r.temporal.GetWorkflow(t.Context(), definition.NotifyWorkflowID(runID), "").Get(t.Context(), nil)
	var failed *temporal.ApplicationError
	if !errors.As(err, &failed) || failed.Type() != ErrorNotSent || !strings.Contains(failed.Message(), "answered 410 Gone") {
		t.Errorf("the workflow ended with %v, want the 410", err)
	}

	flaky := hooks.requests("/flaky")
	if len(flaky) != 2 || flaky[0] != flaky[1] || flaky[0].key != runID+":notify/0" {
		t.Fatalf("the flaky one got %+v, want the same twice", flaky)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(flaky[0].body), &body); err != nil {
		t.Fatal(err)
	}
	if body["run_id"] != runID || body["status"] != "succeeded" || body["notification"] != "succeeded" || body["definition"] != d.Name {
		t.Errorf("the body is %v", body)
	}
	if gone := hooks.requests("/gone"); len(gone) != 1 || gone[0].token != secretToken {
		t.Errorf("the one that is gone got %+v, want one request with the secret", gone)
	}
	late := hooks.requests("/ops")
	if want := `{"text":"` + d.Name + ` is late","input":7,"status":"succeeded"}`; len(late) != 1 || late[0].body != want || late[0].token != secretToken {
		t.Errorf("the late one got %+v, want %s", late, want)
	}
	if never := hooks.requests("/never"); len(never) != 0 {
		t.Errorf("%+v was sent, although it was not asked for, or has no value", never)
	}
	stream, err := r.js.Stream(t.Context(), r.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil || !strings.Contains(string(msg.Data), `"run_id":"`+runID+`"`) || msg.Header.Get("Nats-Msg-Id") != runID+":notify/3" {
		t.Errorf("published %+v, %v", msg, err)
	}

	h := r.history(definition.NotifyWorkflowID(runID))
	if text := h.String(); strings.Contains(text, secretToken) || strings.Contains(text, "you sent") {
		t.Error("the history holds the secret, or the answer with it")
	}
	record(t, "notify", h)
	counts := map[string]float64{}
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "actcore_notifications_total" {
				counts[m.Label[1].GetValue()+" "+m.Label[0].GetValue()] = m.Counter.GetValue()
			}
		}
	}
	for name, want := range map[string]float64{"http sent": 2, "http retried": 1, "http failed": 2, "publish sent": 1} {
		if counts[name] != want {
			t.Errorf("%v %s, want %v", counts[name], name, want)
		}
	}
}

// The ends of runs are heard of in the process in which they end.
func TestServerEnded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	runID, workflowID := r.begin(r.define(oneLog), "")
	r.awaitEnd(runID)
	r.history(workflowID) // the workflow hears of it after the row does
	if n := r.ended.Load(); n != 1 {
		t.Errorf("%d ends were heard of, want 1", n)
	}
}
