package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

func TestFullSync(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var dryRuns []bool
	o.FullSyncer = fakeFullSyncer(func(_ context.Context, dryRun bool) (SyncResult, error) {
		dryRuns = append(dryRuns, dryRun)
		if dryRun {
			return SyncResult{Complete: true, Created: 1, Unchanged: 7}, nil
		}
		return SyncResult{Complete: true, Created: 1, Updated: 2, Paused: 3, Unpaused: 4, Deleted: 5, Unchanged: 6, Failed: 1,
			Failures: []SyncFailure{{DefinitionID: someID, Error: "no"}}}, nil
	})
	a := newAPI(t, o)
	const did = `{"dry_run":false,"complete":true,"created":1,"updated":2,"paused":3,"unpaused":4,"deleted":5,"unchanged":6,"failed":1,` +
		`"failures":[{"definition_id":"` + someID + `","error":"no"}]}`
	const would = `{"dry_run":true,"complete":true,"created":1,"updated":0,"paused":0,"unpaused":0,"deleted":0,"unchanged":7,"failed":0,` +
		`"failures":[]}`
	for _, test := range [][2]string{{"", did}, {"?dry_run=false", did}, {"?dry_run=true", would}} {
		w := call(t, a, "POST", "/admin/sync"+test[0], "")
		if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != test[1] {
			t.Errorf("%s: %d\n%s\nwant\n%s", test[0], w.Code, got, test[1])
		}
	}
	if syncs := o.Store.(*fakeStore).syncs; fmt.Sprint(dryRuns) != "[false false true]" || syncs != 2 {
		t.Errorf("asked %v, and %d were noted", dryRuns, syncs)
	}
	p := wantProblem(t, call(t, a, "POST", "/admin/sync?dry_run=maybe", ""), 422, "invalid")
	if p.Detail != `dry_run: "maybe" is neither true nor false` {
		t.Errorf("%q", p.Detail)
	}
}

func TestFullSyncTrouble(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err    error
		status int
		kind   string
		detail string
	}{
		{fmt.Errorf("%w: dial tcp 10.1.2.3:7233: refused", ErrTemporal), 503, "temporal-unavailable",
			"Temporal does not answer as it should at the moment; GET /readyz tells when it does, try again then"},
		{definition.ErrUnavailable, 503, "unavailable", "the storage does not answer at the moment; try again in 2 seconds"},
		{errNotExpected, 500, "internal", "something went wrong on our side; the server's log tells more under this request_id"},
	} {
		o := testOptions()
		o.FullSyncer = fakeFullSyncer(func(context.Context, bool) (SyncResult, error) { return SyncResult{}, test.err })
		a := newAPI(t, o)
		for range 2 { // the first does not bar the second
			w := call(t, a, "POST", "/admin/sync", "")
			p := wantProblem(t, w, test.status, test.kind)
			if p.Detail != test.detail || strings.Contains(w.Body.String(), "10.1.2.3") {
				t.Errorf("%v: %s, want %q", test.err, w.Body, test.detail)
			}
			if retry := w.Header().Get("Retry-After"); (retry == "2") != (test.status == 503) {
				t.Errorf("%v: Retry-After %q", test.err, retry)
			}
		}
	}
}

// TestFullSyncTakesItsTime runs one for longer than the server's own time limit for an answer, and asks for a second one
// meanwhile.
func TestFullSyncTakesItsTime(t *testing.T) {
	t.Parallel()
	const serverLimit = 200 * time.Millisecond
	o := testOptions()
	entered, limit := make(chan struct{}), make(chan time.Duration, 1)
	o.FullSyncer = fakeFullSyncer(func(ctx context.Context, _ bool) (SyncResult, error) {
		deadline, _ := ctx.Deadline()
		limit <- time.Until(deadline)
		close(entered)
		select { // work that takes this long
		case <-time.After(3 * serverLimit):
			return SyncResult{Complete: true, Unchanged: 1}, nil
		case <-ctx.Done():
			return SyncResult{}, ctx.Err()
		}
	})
	server := httptest.NewUnstartedServer(newAPI(t, o))
	server.Config.WriteTimeout = serverLimit
	server.Start()
	t.Cleanup(server.Close)
	post := func() (int, string, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/admin/sync/", nil)
		if err != nil {
			return 0, "", err
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(data), err
	}
	type outcome struct {
		status int
		body   string
		err    error
	}
	first := make(chan outcome, 1)
	go func() {
		status, body, err := post()
		first <- outcome{status, body, err}
	}()
	<-entered
	if got := <-limit; got <= requestTimeout || got > fullSyncTimeout {
		t.Errorf("it may take %s, want about %s", got, fullSyncTimeout)
	}
	status, body, err := post()
	if want := `"detail":"this process is comparing all schedules already; ask again when that has ended, in 5m0s at the latest"`; err != nil ||
		status != 409 || !strings.Contains(body, want) || !strings.Contains(body, `"/problems/sync-running"`) {
		t.Errorf("a second one: %d %s %v", status, body, err)
	}
	if got := <-first; got.err != nil || got.status != 200 || !strings.Contains(got.body, `"unchanged":1`) {
		t.Errorf("the first one: %+v", got)
	}
}

// TestFullSyncIsCutOff: what was done until the time limit is told.
func TestFullSyncIsCutOff(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.FullSyncer = fakeFullSyncer(func(ctx context.Context, _ bool) (SyncResult, error) {
		<-ctx.Done()
		return SyncResult{Updated: 3}, nil
	})
	a := newAPI(t, o)
	a.fullSyncLimit = 20 * time.Millisecond
	w := call(t, a, "POST", "/admin/sync", "")
	if got := decode[SyncResult](t, w); w.Code != 200 || got.Complete || got.Updated != 3 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
