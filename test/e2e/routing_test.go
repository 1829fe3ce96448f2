package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// A message at which every router dies, in front of 20 others: those have their runs before it is given up, and it gets its own
// when it is retried by a router that does not die.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.MakeStream(time.Minute, time.Second)
	s.Start("worker")
	s.Start("api")
	const n = 20
	id := s.Create(eventDefinition)
	poisonID := s.Create(`{"name": "poison", "trigger_config": {"trigger_type": "event", "event_type": "load.poison"}}`)
	s.Publish("load.poison", "poison", "poison", `{}`)
	publishLoad(s, n)

	router := s.Launch("event-router", "ACTCORE_FAIL=route="+s.Names.SubjectPrefix+".load.poison:kill")
	deaths := 0
	var letters []system.Object
	testenv.Eventually(t, time.Minute, "the poison is a dead letter", func(ctx context.Context) (bool, error) {
		if router.Ended() {
			router.WaitKilled(time.Second)
			deaths++
			router.Run()
		}
		_, list, err := s.TryCall(ctx, http.MethodGet, "/dead-letters", "")
		letters = objects(list, "items")
		return len(letters) > 0, err
	})
	letter := letters[0]
	// More than six deliveries when a router needed more than the ack wait of a second: the attempts are what counts.
	if len(letters) != 1 || letter.Str("reason") != "crash_loop" || letter.Str("event_id") != "poison" ||
		letter.Str("status") != "open" || letter.Int("deliveries") < 6 {
		t.Errorf("dead letters %v, want the poison's, at its sixth delivery or a later one", letters)
	}
	if deaths != 5 {
		t.Errorf("%d routers died, want 2 at the first deliveries and 3 that routed it alone", deaths)
	}
	runs := s.Runs(id)
	if len(runs) != n {
		t.Errorf("%d of %d other events have a run when the poison is given up", len(runs), n)
	}
	for _, run := range runs {
		if !run.Time("accepted_at").Before(letter.Time("created_at")) {
			t.Errorf("%s was accepted after the poison was given up", run.Str("occurrence_key"))
		}
	}

	router.Stop()
	delete(router.Env, "ACTCORE_FAIL")
	router.Run()
	path := "/dead-letters/" + letter.Str("id")
	if answer := call(s, http.MethodPost, path+"/retry", "", http.StatusAccepted); answer.Str("status") != "retrying" {
		t.Errorf("a retried dead letter is %v", answer)
	}
	letter = answers(s, path, "routed", func(l system.Object) bool { return l.Str("status") == "routed" })
	if letter.Int("runs") != 1 || letter.Int("retries") != 0 {
		t.Errorf("the routed dead letter is %v, want one with 1 run and no retry that failed", letter)
	}
	event := answers(s, "/events/poison", "one of a run that succeeded", func(e system.Object) bool {
		list := objects(e, "runs")
		return len(list) == 1 && list[0].Str("status") == "succeeded"
	})
	if dead := objects(event, "dead_letters"); event.Str("outcome") != "routed" || event.Int("runs_total") != 1 ||
		len(dead) != 1 || dead[0].Str("status") != "routed" {
		t.Errorf("the event is %v, want routed, with its run and its dead letter", event)
	}
	if runs := s.Runs(poisonID); len(runs) != 1 || runs[0].Str("occurrence_key") != "event-poison" {
		t.Errorf("the poison's runs are %v, want one", runs)
	}
	exactlyOnce(s, id, n, time.Minute)
}

// Dead letters are discarded one by one, and retried by their reason: those that are discarded, or of another reason, stay.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("api")
	s.Start("event-router")
	for _, body := range []string{"not json", "nor this", "[", `{"type": "load.test"}`} {
		publish(s, body)
	}
	s.Routed(20 * time.Second)
	byReason := func() (notJSON, others []system.Object) {
		t.Helper()
		for _, l := range objects(call(s, http.MethodGet, "/dead-letters", "", http.StatusOK), "items") {
			if l.Str("reason") == "not_json" {
				notJSON = append(notJSON, l)
			} else {
				others = append(others, l)
			}
		}
		return notJSON, others
	}
	notJSON, others := byReason()
	if len(notJSON) != 3 || len(others) != 1 || others[0].Str("reason") != "missing_event_id" {
		t.Fatalf("dead letters %v and %v, want three of not_json and one of missing_event_id", notJSON, others)
	}
	discarded := "/dead-letters/" + notJSON[0].Str("id")
	for range 2 { // the second time it is answered as it is
		if l := call(s, http.MethodPost, discarded+"/discard", "", http.StatusOK); l.Str("status") != "discarded" {
			t.Errorf("the discarded dead letter is %v", l)
		}
	}
	call(s, http.MethodPost, discarded+"/retry", "", http.StatusConflict)

	const selection = `{"reason": "not_json", "dry_run": %v}`
	for _, dry := range []bool{true, false} {
		status := http.StatusAccepted
		if dry {
			status = http.StatusOK
		}
		if a := call(s, http.MethodPost, "/dead-letters/retry", fmt.Sprintf(selection, dry), status); a.Int("count") != 2 {
			t.Errorf("a retry of not_json, dry run: %v, answered %v, want 2", dry, a)
		}
	}
	testenv.Eventually(t, 20*time.Second, "both were retried", func(context.Context) (bool, error) {
		notJSON, others = byReason()
		return notJSON[1].Int("retries") > 0 && notJSON[2].Int("retries") > 0, nil
	})
	var got []string
	for _, l := range append(notJSON, others...) {
		got = append(got, fmt.Sprintf("%s %s %d", l.Str("reason"), l.Str("status"), l.Int("retries")))
	}
	want := "[not_json discarded 0 not_json open 1 not_json open 1 missing_event_id open 0]"
	if fmt.Sprint(got) != want {
		t.Errorf("dead letters %s, want %s", got, want)
	}
}

// disabledDefinition meets nothing but by a replay.
const disabledDefinition = `{"name": "replayed", "enabled": false,
	"trigger_config": {"trigger_type": "event", "event_type": "load.test"},
	"tasks": [{"name": "say", "type": "log", "with": {"message": "x"}}]}`

// Events that came before their definition get their runs by a replay, and once: a canceled one and a dry one make none, nor does
// a second one, nor the same events when they are published again. Another event with the id of one is a dead letter.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("worker")
	s.Start("api")
	router := s.Start("event-router")
	from := time.Now()
	const n = 12
	publishLoad(s, n)
	for i := range 3 {
		s.Publish("load.other", fmt.Sprintf("other-%d", i), fmt.Sprintf("other-%d", i), `{}`)
	}
	to := time.Now()
	s.Publish("load.test", "late", "late", `{}`)
	s.Routed(20 * time.Second)
	router.Stop()
	id := s.Create(disabledDefinition)

	// No router runs, so that what is asked for stays as it is.
	canceled := askReplay(s, id, from, to, false)
	call(s, http.MethodPost, "/replays", replayBody(id, from, to, false), http.StatusConflict)
	if r := call(s, http.MethodPost, canceled+"/cancel", "", http.StatusOK); r.Str("status") != "canceled" {
		t.Errorf("the canceled replay is %v", r)
	}
	dry := askReplay(s, id, from, to, true)
	router.Run()
	none, all, ran := replayCounts{}, replayCounts{read: n + 3, matched: n, new: n}, replayCounts{read: n + 3, matched: n, ran: n}
	replayed(s, dry, all, none)
	if runs := s.Runs(id); len(runs) != 0 {
		t.Errorf("a canceled and a dry replay made the runs %v", runs)
	}
	first := askReplay(s, id, from, to, false)
	replayed(s, first, all, all)
	replayed(s, askReplay(s, id, from, to, false), ran, ran)
	if r := call(s, http.MethodPost, first+"/cancel", "", http.StatusOK); r.Str("status") != "completed" {
		t.Errorf("a replay that had ended and is canceled is %v, want it as it was", r)
	}

	s.Change(http.MethodPatch, id, `{"enabled": true}`)
	publish(s, `{"event_id": "evt-0000", "type": "load.test", "payload": {"n": 0.0}}`)
	publish(s, `{"event_id": "evt-0001", "type": "load.test", "payload": {"n": 2}}`)
	s.Routed(20 * time.Second)
	exactlyOnce(s, id, n, time.Minute)
	for _, run := range s.Runs(id) {
		if "/replays/"+run.Str("replay_id") != first || run.Str("trigger") != "replay" {
			t.Errorf("%s is of trigger %s and of the replay %s, want that of %s", run.Str("occurrence_key"), run.Str("trigger"),
				run.Str("replay_id"), first)
		}
	}
	for eventID, reasons := range map[string]string{"evt-0000": "[]", "evt-0001": "[event_id_reused]"} {
		e := call(s, http.MethodGet, "/events/"+eventID, "", http.StatusOK)
		got := []string{}
		for _, l := range objects(e, "dead_letters") {
			got = append(got, l.Str("reason"))
		}
		if e.Str("outcome") != "routed" || e.Int("runs_total") != 1 || fmt.Sprint(got) != reasons {
			t.Errorf("%s is %v, want routed, with 1 run and the dead letters %s", eventID, e, reasons)
		}
	}
}

// A router dies when it has committed the first step of a replay and started none of its runs: another one does the rest alone.
func TestReplayingRouterKilled(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("worker")
	s.Start("api")
	victim := s.Start("event-router", "ACTCORE_FAIL=replay-committed:kill")
	id := s.Create(disabledDefinition)
	from := time.Now()
	const n, messages = 20, 300 // a step is 256 messages
	for i := range messages {
		eventID, eventType := fmt.Sprintf("other-%d", i), "load.other"
		if i%(messages/n) == 0 {
			eventID, eventType = fmt.Sprintf("evt-%04d", i*n/messages), "load.test"
		}
		s.Publish(eventType, eventID, eventID, `{}`)
	}
	path := askReplay(s, id, from, time.Now(), false)
	victim.WaitKilled(20 * time.Second)
	r := call(s, http.MethodGet, path, "", http.StatusOK)
	want := replayCounts{read: 256, matched: 18, new: 18}
	if got := countsOf(r.Object("done")); r.Str("status") != "running" || got != want {
		t.Errorf("the replay of a dead router is %s, and has done %+v, want running, and %+v", r.Str("status"), got, want)
	}
	s.Start("event-router")
	all := replayCounts{read: messages, matched: n, new: n}
	replayed(s, path, all, all)
	exactlyOnce(s, id, n, time.Minute) // the sweeper starts what the dead router did not
}

// replayCounts is what a pass of a replay found.
type replayCounts struct{ read, matched, new, rerun, ran, failed int }

func countsOf(o system.Object) replayCounts {
	return replayCounts{o.Int("read"), o.Int("matched"), o.Int("new"), o.Int("rerun"), o.Int("ran"), o.Int("failed")}
}

func replayBody(definitionID string, from, to time.Time, dryRun bool) string {
	return fmt.Sprintf(`{"definition_ids": [%q], "from": %q, "to": %q, "dry_run": %v}`, definitionID,
		from.UTC().Format(time.RFC3339Nano), to.UTC().Format(time.RFC3339Nano), dryRun)
}

// askReplay asks for a replay and returns its path.
func askReplay(s *system.System, definitionID string, from, to time.Time, dryRun bool) string {
	s.T.Helper()
	r := call(s, http.MethodPost, "/replays", replayBody(definitionID, from, to, dryRun), http.StatusAccepted)
	if r.Str("status") != "pending" {
		s.T.Errorf("the new replay is %v", r)
	}
	return "/replays/" + r.Str("id")
}

// replayed waits for the end of a replay, and holds it to what it has to have counted and done.
func replayed(s *system.System, path string, counted, done replayCounts) {
	s.T.Helper()
	r := answers(s, path, "completed", func(r system.Object) bool { return r.Str("status") == "completed" })
	if c, d := countsOf(r.Object("counted")), countsOf(r.Object("done")); c != counted || d != done {
		s.T.Errorf("%s counted %+v and did %+v, want %+v and %+v", path, c, d, counted, done)
	}
}

// publishLoad publishes n events as publishMany does, and waits.
func publishLoad(s *system.System, n int) {
	s.T.Helper()
	done := make(chan error, 1)
	publishMany(s.T.Context(), s, n, done)
	if err := <-done; err != nil {
		s.T.Fatal(err)
	}
}

// publish sends a message as it is on the subject of load.test, past JetStream's own duplicate check.
func publish(s *system.System, body string) {
	s.T.Helper()
	if _, err := s.JS.Publish(s.T.Context(), s.Names.SubjectPrefix+".load.test", []byte(body)); err != nil {
		s.T.Fatalf("publish %s: %v", body, err)
	}
}

// call makes a request that has to be answered with a status.
func call(s *system.System, method, path, body string, want int) system.Object {
	s.T.Helper()
	status, answer := s.Call(method, path, body)
	if status != want {
		s.T.Fatalf("%s %s %s answered %d, want %d: %v", method, path, body, status, want, answer)
	}
	return answer
}

// answers waits until a resource is as the condition wants it.
func answers(s *system.System, path, what string, is func(system.Object) bool) system.Object {
	s.T.Helper()
	var answer system.Object
	testenv.Eventually(s.T, time.Minute, path+" is "+what, func(ctx context.Context) (ok bool, err error) {
		_, answer, err = s.TryCall(ctx, http.MethodGet, path, "")
		return err == nil && is(answer), err
	})
	return answer
}

// objects returns a member that is a list of objects, and none for any other.
func objects(o system.Object, key string) []system.Object {
	items, _ := o[key].([]any)
	out := make([]system.Object, len(items))
	for i, item := range items {
		out[i], _ = item.(map[string]any)
	}
	return out
}
