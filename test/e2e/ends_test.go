package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// trigger runs a definition by hand and returns the run's id.
func trigger(s *system.System, id string) string {
	s.T.Helper()
	status, answer := s.Call(http.MethodPost, "/activity-definitions/"+id+"/trigger", "")
	if status != http.StatusAccepted {
		s.T.Fatalf("trigger answered %d: %v", status, answer)
	}
	return answer.Str("id")
}

// ended waits until a definition has so many runs that have ended, and returns them, oldest first.
func ended(s *system.System, id string, n int, timeout time.Duration) []system.Object {
	s.T.Helper()
	var list []system.Object
	testenv.Eventually(s.T, timeout, fmt.Sprintf("%d runs of %s have ended", n, id), func(ctx context.Context) (bool, error) {
		var err error
		list, err = s.TryRuns(ctx, id)
		return len(list) >= n && !slices.ContainsFunc(list, func(r system.Object) bool { return r.Str("finished_at") == "" }), err
	})
	slices.Reverse(list)
	if len(list) != n {
		s.T.Fatalf("%d runs, want %d", len(list), n)
	}
	return list
}

// quiet waits until every end is told and every event is routed.
func quiet(s *system.System, pool *pgxpool.Pool) {
	s.T.Helper()
	testenv.Eventually(s.T, 90*time.Second, "every end is told", func(ctx context.Context) (bool, error) {
		var open int
		err := pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM run_ends) + (SELECT count(*) FROM runs WHERE finished_at IS NULL)`).Scan(&open)
		return open == 0, err
	})
	s.Routed(30 * time.Second)
}

// messages returns the ids of the events in the stream with a type.
func messages(s *system.System, eventType string) []string {
	s.T.Helper()
	stream, err := s.JS.Stream(s.T.Context(), s.Names.Stream)
	if err != nil {
		s.T.Fatal(err)
	}
	var ids []string
	for seq := range stream.CachedInfo().State.LastSeq {
		m, err := stream.GetMsg(s.T.Context(), seq+1)
		if err != nil {
			s.T.Fatal(err)
		}
		if m.Subject == s.Names.SubjectPrefix+"."+eventType {
			ids = append(ids, m.Header.Get(jetstream.MsgIDHeader))
		}
	}
	return ids
}

// A worker dies when it has published the end of a run and nobody knows. Another one publishes it again, long after the stream's own
// window for duplicates; the definition that follows runs once.
func TestAnnouncerKilled(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	pool := testenv.OpenPool(t, s.Database)
	s.MakeStream(time.Second, 30*time.Second)
	s.Start("api")
	s.Start("event-router")
	victim := s.Start("worker", "ACTCORE_FAIL=announced:kill")
	first := s.Create(`{"name": "nightly", "labels": {"team": "ops"}, "trigger_config": {"trigger_type": "manual"}}`)
	next := s.Create(`{"name": "after", "trigger_config": {"trigger_type": "event", "event_type": "run.succeeded",
		"filters": {"definition": "nightly", "labels.team": "ops"}}}`)
	none := s.Create(`{"name": "not-after", "trigger_config": {"trigger_type": "event", "event_type": "run.succeeded",
		"filters": {"definition": "other"}}}`)
	run := trigger(s, first)
	victim.WaitKilled(30 * time.Second)
	s.Start("worker")
	followed := ended(s, next, 1, 60*time.Second)
	if got := followed[0].Str("event_id"); got != run {
		t.Errorf("the run that follows is of the event %s, want %s", got, run)
	}
	quiet(s, pool)
	own := 0
	for _, id := range messages(s, "run.succeeded") {
		if id == run {
			own++
		}
	}
	if own != 2 {
		t.Errorf("the end was published %d times, want 2", own)
	}
	ended(s, next, 1, time.Second)
	ended(s, none, 0, time.Second)
}

// A definition that follows the ends of all runs, and so its own, comes to an end, and says why. One that follows all events does
// not follow the ends of runs at all.
func TestChainEnds(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	pool := testenv.OpenPool(t, s.Database)
	s.Start("api")
	s.Start("event-router")
	s.Start("worker")
	loop := s.Create(`{"name": "loop", "trigger_config": {"trigger_type": "event", "event_type": "run.>"}}`)
	all := s.Create(`{"name": "all", "trigger_config": {"trigger_type": "event", "event_type": ">"}}`)
	trigger(s, loop)
	ended(s, loop, 12, 90*time.Second)
	quiet(s, pool)
	runs := ended(s, loop, 12, time.Second)
	for depth, run := range runs {
		status, reason := "succeeded", ""
		if depth > 10 {
			status, reason = "skipped", "chain_too_deep"
		}
		if run.Str("status") != status || run.Str("reason") != reason {
			t.Errorf("run %d of the chain is %s %s, want %s %s", depth, run.Str("status"), run.Str("reason"), status, reason)
		}
		if depth > 0 && run.Str("event_id") != runs[depth-1].Str("id") {
			t.Errorf("run %d of the chain follows %s, want %s", depth, run.Str("event_id"), runs[depth-1].Str("id"))
		}
	}
	if got := messages(s, "run.skipped"); len(got) != 0 {
		t.Errorf("the end that cut the chain was published: %v", got)
	}
	if text := runs[11].Str("error"); !strings.Contains(text, "10 runs followed from one another") {
		t.Errorf("it says %q", text)
	}
	ended(s, all, 0, time.Second)
	// Who publishes the end of a run that never was gets a chain that is as long, and no longer.
	s.Publish("run.failed", "forged", "forged", `{"definition": "loop"}`)
	ended(s, loop, 12+11, 90*time.Second)
	quiet(s, pool)
	if last := ended(s, loop, 12+11, time.Second)[22]; last.Str("reason") != "chain_too_deep" {
		t.Errorf("the last run is %s %s", last.Str("status"), last.Str("reason"))
	}
}

// Somebody is told when a run fails, and when one succeeds again, also while his server is away at first.
func TestNotified(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("api")
	s.Start("worker") // without a stream: notifications do not need it
	var broken atomic.Bool
	broken.Store(true)
	var mu sync.Mutex
	var told []string
	tries := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/work":
			if broken.Load() {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/told":
			mu.Lock()
			defer mu.Unlock()
			if tries++; tries == 1 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			told = append(told, string(body))
		}
	}))
	t.Cleanup(server.Close)
	id := s.Create(`{"name": "shaky", "trigger_config": {"trigger_type": "manual"},
		"tasks": [{"name": "work", "type": "http", "with": {"url": "` + server.URL + `/work"}}],
		"notify": [{"on": ["failed", "recovered"], "type": "http", "with": {"url": "` + server.URL + `/told",
			"body": "${run.definition + \" \" + run.notification + \" \" + run.id}"}}]}`)
	first := trigger(s, id)
	ended(s, id, 1, 60*time.Second)
	broken.Store(false)
	second := trigger(s, id)
	ended(s, id, 2, 60*time.Second)
	trigger(s, id) // of which nobody is told
	ended(s, id, 3, 60*time.Second)
	want := []string{`"shaky failed ` + first + `"`, `"shaky recovered ` + second + `"`}
	testenv.Eventually(t, 60*time.Second, "both are told", func(context.Context) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return len(told) == 2, nil
	})
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(told, func(a, b string) int { return slices.Index(want, a) - slices.Index(want, b) })
	if !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

// What is old goes, with events turned off as well, and what is young stays.
func TestRetention(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	pool := testenv.OpenPool(t, s.Database)
	s.Start("api")
	worker := s.Start("worker", "ACTCORE_RETENTION=1h", "ACTCORE_RUN_EVENTS=off")
	id := s.Create(`{"name": "kept", "trigger_config": {"trigger_type": "manual"},
		"tasks": [{"name": "say", "type": "log", "with": {"message": "x"}}]}`)
	old, young := trigger(s, id), trigger(s, id)
	ended(s, id, 2, 60*time.Second)
	testenv.Eventually(t, 30*time.Second, "no end waits, although there is no stream", func(ctx context.Context) (bool, error) {
		var open int
		err := pool.QueryRow(ctx, `SELECT count(*) FROM run_ends`).Scan(&open)
		return open == 0, err
	})
	// The next look is an hour away; that of another worker is not.
	if _, err := pool.Exec(t.Context(), `
		UPDATE runs SET accepted_at = now() - interval '2 h', finished_at = now() - interval '61 min' WHERE id = $1`, old); err != nil {
		t.Fatal(err)
	}
	worker.Stop()
	worker.Run()
	testenv.Eventually(t, 60*time.Second, "the old run is gone", func(ctx context.Context) (bool, error) {
		status, _, err := s.TryCall(ctx, http.MethodGet, "/runs/"+old, "")
		return status == http.StatusNotFound, err
	})
	if status, run := s.Call(http.MethodGet, "/runs/"+young, ""); status != http.StatusOK || run.Str("status") != "succeeded" {
		t.Errorf("the young run: %d %v", status, run)
	}
	if n := worker.Metric("actcore_retention_removed_total", `table="runs"`); n != 1 {
		t.Errorf("actcore_retention_removed_total = %v for runs, want 1", n)
	}
}
