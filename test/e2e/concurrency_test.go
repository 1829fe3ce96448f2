package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// publishKeyed publishes n events of a type whose payload has one of so many keys.
func publishKeyed(s *system.System, eventType string, n, keys int) {
	s.T.Helper()
	for i := range n {
		body := fmt.Appendf(nil, `{"event_id": "%s-%04d", "type": %q, "payload": {"k": "k%d"}}`, eventType, i, eventType, i%keys)
		if _, err := s.JS.PublishAsync(s.Names.SubjectPrefix+"."+eventType, body, jetstream.WithMsgID(fmt.Sprintf("%s-%04d", eventType, i))); err != nil {
			s.T.Fatal(err)
		}
	}
	select {
	case <-s.JS.PublishAsyncComplete():
	case <-time.After(30 * time.Second):
		s.T.Fatal("not all events were published in 30 s")
	}
}

// allEnd waits until a definition has n runs, all of which have ended, and returns them in the order of acceptance.
func allEnd(s *system.System, id string, n int, timeout time.Duration) []system.Object {
	s.T.Helper()
	testenv.Eventually(s.T, timeout, fmt.Sprintf("%d runs have ended", n), func(ctx context.Context) (bool, error) {
		list, err := s.TryRuns(ctx, id)
		if err != nil || len(list) < n {
			return false, nil // services recover by themselves; the deadline judges
		}
		open, err := atLeast(ctx, s, id, "accepted,queued,running", 1)
		return err == nil && !open, nil
	})
	list := s.Runs(id)
	if len(list) != n {
		s.T.Errorf("%d runs, want %d", len(list), n)
	}
	slices.Reverse(list)
	return list
}

// atLeast reports whether so many runs of a definition, at most 500, have one of these statuses.
func atLeast(ctx context.Context, s *system.System, id, statuses string, n int) (bool, error) {
	status, page, err := s.TryCall(ctx, http.MethodGet, fmt.Sprintf("/activity-definitions/%s/runs?status=%s&limit=%d", id, statuses, n), "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("list runs answered %d: %v", status, page)
	}
	items, _ := page["items"].([]any)
	return len(items) >= n, err
}

// holdLine holds that never more than limit runs of one key ran at once and, when they are to be in order, that each began no earlier
// than the one before.
func holdLine(t *testing.T, list []system.Object, limit int, inOrder bool) {
	t.Helper()
	type change struct {
		at time.Time
		by int
	}
	changes, last := map[string][]change{}, map[string]time.Time{}
	for _, run := range list {
		key, from, to := run.Str("concurrency_key"), run.Time("started_at"), run.Time("finished_at")
		if from.IsZero() {
			continue
		}
		if inOrder && from.Before(last[key]) {
			t.Errorf("%s of %s began at %s, before an earlier one (%s)", run.Str("occurrence_key"), key, from, last[key])
		}
		last[key] = from
		changes[key] = append(changes[key], change{from, 1}, change{to, -1})
	}
	for key, list := range changes {
		slices.SortFunc(list, func(a, b change) int {
			if c := a.at.Compare(b.at); c != 0 {
				return c
			}
			return a.by - b.by
		})
		now, most := 0, 0
		for _, c := range list {
			now += c.by
			most = max(most, now)
		}
		if most > limit {
			t.Errorf("%d of %s ran at once, more than %d", most, key, limit)
		}
	}
}

// TestQueueByKey has 1,000 events of 20 keys come in, two at a time of each key allowed, while workers are killed:
// all are done, in order, and never more than two of a key at once.
func TestQueueByKey(t *testing.T) {
	t.Parallel()
	const n, keys, limit = 1000, 20, 2
	s := system.New(t)
	s.Start("api")
	workers := []*system.Process{s.Start("worker"), s.Start("worker")}
	s.Start("event-router")
	id := s.Create(fmt.Sprintf(`{"name": "keyed-queue", "trigger_config": {"trigger_type": "event", "event_type": "line.queue"},
		"tasks": [{"name": "say", "type": "log", "with": {"message": "${event.payload.k}"}}],
		"concurrency": {"limit": %d, "key": "event.payload.k", "on_limit": "queue"}}`, limit))
	began := time.Now()
	publishKeyed(s, "line.queue", n, keys)
	for round := range 2 {
		testenv.Eventually(t, time.Minute, "runs end", func(ctx context.Context) (bool, error) {
			return atLeast(ctx, s, id, "succeeded", 1+(1+2*round)*n/8)
		})
		victim := workers[rand.N(2)]
		victim.Kill()
		victim.Run()
	}
	list := allEnd(s, id, n, 2*time.Minute)
	t.Logf("%d runs took %s", n, time.Since(began).Round(100*time.Millisecond))
	holdLine(t, list, limit, true)
	for _, run := range list {
		if run.Str("status") != "succeeded" {
			t.Errorf("%s is %s %s %s", run.Str("occurrence_key"), run.Str("status"), run.Str("reason"), run.Str("error"))
		}
	}
}

// TestSkipByKey checks that an event whose key is taken is skipped, and another one is not.
func TestSkipByKey(t *testing.T) {
	t.Parallel()
	const n, keys = 60, 3
	s := system.New(t)
	s.Start("api")
	s.Start("worker")
	s.Start("event-router")
	id := s.Create(`{"name": "keyed-skip", "trigger_config": {"trigger_type": "event", "event_type": "line.skip"},
		"tasks": [{"name": "take", "type": "wait", "with": {"duration": "3s"}}],
		"concurrency": {"limit": 1, "key": "event.payload.k"}}`)
	publishKeyed(s, "line.skip", n, keys)
	list := allEnd(s, id, n, time.Minute)
	holdLine(t, list, 1, false)
	ran := map[string]int{}
	for _, run := range list {
		switch how := run.Str("status") + " " + run.Str("reason"); how {
		case "succeeded ":
			ran[run.Str("concurrency_key")]++
		case "skipped concurrency_limit":
		default:
			t.Errorf("%s is %s", run.Str("occurrence_key"), how)
		}
	}
	if got := slices.Sorted(maps.Keys(ran)); !slices.Equal(got, []string{"k0", "k1", "k2"}) {
		t.Errorf("keys that ran: %v", ran)
	}
}

// TestReplaceByKey checks that the newest event of a key takes the place of the older ones, and says so of each.
func TestReplaceByKey(t *testing.T) {
	t.Parallel()
	const n, keys = 40, 2
	s := system.New(t)
	s.Start("api")
	s.Start("worker")
	s.Start("event-router")
	id := s.Create(`{"name": "keyed-replace", "trigger_config": {"trigger_type": "event", "event_type": "line.replace"},
		"tasks": [{"name": "take", "type": "wait", "with": {"duration": "10s"}}],
		"concurrency": {"limit": 1, "key": "event.payload.k", "on_limit": "replace"}}`)
	publishKeyed(s, "line.replace", n, keys)
	list := allEnd(s, id, n, time.Minute)
	holdLine(t, list, 1, false)
	for i, run := range list {
		want := "replaced"
		if i >= n-keys {
			want = ""
		}
		if run.Str("reason") != want || (want == "") != (run.Str("status") == "succeeded") {
			t.Errorf("%s is %s %s, want the reason %q", run.Str("occurrence_key"), run.Str("status"), run.Str("reason"), want)
		}
		if want != "" && run.Str("error") == "" {
			t.Errorf("%s does not say which run took its place", run.Str("occurrence_key"))
		}
	}
}

// TestKeyThatCannotBeEvaluated checks what becomes of an event, and of a request by hand, without the key.
func TestKeyThatCannotBeEvaluated(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("api")
	s.Start("worker")
	s.Start("event-router")
	id := s.Create(`{"name": "keyed", "trigger_config": {"trigger_type": "event", "event_type": "line.none"},
		"concurrency": {"limit": 1, "key": "event.payload.k", "on_limit": "queue"}}`)
	s.Publish("line.none", "none-1", "none-1", `{}`)
	const text = "concurrency.key: ${event.payload.k}: no such key: k"
	for _, run := range allEnd(s, id, 1, time.Minute) {
		if run.Str("status") != "failed" || run.Str("reason") != "concurrency_key_error" || run.Str("error") != text {
			t.Errorf("the event's run is %s %s: %s", run.Str("status"), run.Str("reason"), run.Str("error"))
		}
	}
	status, run := s.Call(http.MethodPost, "/activity-definitions/"+id+"/trigger", `{"k": 1}`)
	if status != http.StatusAccepted || run.Str("status") != "failed" || run.Str("reason") != "concurrency_key_error" || run.Str("error") == "" {
		t.Errorf("by hand: %d %v", status, run)
	}
}
