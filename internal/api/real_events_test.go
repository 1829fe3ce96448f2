package api_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

func ids[T any](list []T, id func(T) string) []string {
	var out []string
	for _, item := range list {
		out = append(out, id(item))
	}
	return out
}

// deadLetters stores some, and returns their ids in the order of storing.
func (s *service) deadLetters(t *testing.T, letters ...definition.DeadLetter) []string {
	t.Helper()
	for i := range letters {
		letters[i].Stream, letters[i].StreamSeq = "S", uint64(i+1)
		letters[i].PublishedAt = time.Date(2026, 1, 2, 3, 4, i, 0, time.UTC)
		letters[i].DataSize = max(letters[i].DataSize, len(letters[i].Data))
		if err := s.store.AcceptDeadLetters(t.Context(), letters[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	list := read[page[api.DeadLetterSummary]](t, s.call(t, 200, "GET", "/dead-letters?limit=500", ""))
	out := ids(list.Items, func(l api.DeadLetterSummary) string { return l.ID })
	slices.Reverse(out)
	return out
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	s := serve(t, testenv.Pool(t), nobody(t), "nobodys-queue")
	all := s.deadLetters(t,
		definition.DeadLetter{Reason: definition.RejectNotJSON, Detail: "no JSON", Subject: "activity.a", Deliveries: 1, Data: []byte("{\x00"),
			Header: map[string][]string{"ce-id": {"1"}}},
		definition.DeadLetter{Reason: definition.RejectEventIDReused, EventID: "a/b:1", Data: []byte(`{}`)},
		definition.DeadLetter{Reason: definition.RejectNotJSON, Data: []byte("\xff")},
		definition.DeadLetter{Reason: definition.RejectTooLarge, Data: bytes.Repeat([]byte("x"), definition.MaxDeadLetterData),
			DataSize: 2 << 20},
		definition.DeadLetter{Reason: definition.RejectNotJSON, Data: []byte("x")},
	)
	if len(all) != 5 {
		t.Fatalf("%d dead letters", len(all))
	}
	get := func(i int) api.DeadLetter {
		t.Helper()
		return read[api.DeadLetter](t, s.call(t, 200, "GET", "/dead-letters/"+all[i], ""))
	}
	if l := get(0); l.Status != "open" || *l.Data != "{\x00" || l.Headers["ce-id"][0] != "1" || l.DataSize != 2 || l.DataTruncated ||
		l.EventID != nil {
		t.Errorf("%+v", l)
	}
	if l := get(2); l.Data != nil || *l.DataBase64 != "/w==" {
		t.Errorf("%+v", l)
	}
	if l := get(3); !l.DataTruncated || len(*l.Data) != definition.MaxDeadLetterData || l.DataSize != 2<<20 {
		t.Errorf("%d bytes of %d, truncated %v", len(*l.Data), l.DataSize, l.DataTruncated)
	}

	created := get(4).CreatedAt.Format(time.RFC3339Nano)
	for query, want := range map[string][]int{
		"limit=2":                           {4, 3, 2, 1, 0},
		"limit=2&reason=not_json":           {4, 2, 0},
		"limit=2&event_id=a%2Fb:1":          {1},
		"limit=2&status=discarded":          nil,
		"limit=2&from=" + created:           {4},
		"limit=2&to=" + created:             {3, 2, 1, 0},
		"limit=2&status=open&to=" + created: {3, 2, 1, 0},
	} {
		var got []string
		for next := ""; ; {
			list := read[page[api.DeadLetterSummary]](t, s.call(t, 200, "GET", "/dead-letters?"+query+next, ""))
			got = append(got, ids(list.Items, func(l api.DeadLetterSummary) string { return l.ID })...)
			if list.NextCursor == nil {
				break
			}
			next = "&cursor=" + *list.NextCursor
		}
		if wanted := ids(want, func(i int) string { return all[i] }); !slices.Equal(got, wanted) {
			t.Errorf("%s: %q, want %q", query, got, wanted)
		}
	}

	// One is retried and stays so until a router has been at it; another is discarded, twice.
	if l := read[api.DeadLetter](t, s.call(t, 202, "POST", "/dead-letters/"+all[1]+"/retry", "")); l.Status != "retrying" {
		t.Errorf("retried: %+v", l)
	}
	for _, verb := range []string{"retry", "discard"} {
		p := read[api.Problem](t, s.call(t, 409, "POST", "/dead-letters/"+all[1]+"/"+verb, ""))
		if want := "dead letter " + all[1] + " is retrying, and only an open one can be retried or discarded: " +
			"wait until a router has routed it, which GET /dead-letters/" + all[1] + " tells"; p.Detail != want {
			t.Errorf("%s: %q", verb, p.Detail)
		}
	}
	claimed, err := s.store.ClaimDeadLetters(t.Context(), 10)
	if err != nil || len(claimed) != 1 || claimed[0].ID != all[1] {
		t.Fatalf("claimed %+v %v", claimed, err)
	}
	if err := s.store.DeadLettersRouted(t.Context(), []string{all[1]}, []int{3}); err != nil {
		t.Fatal(err)
	}
	if l := get(1); l.Status != "routed" || l.Runs != 3 || l.SettledAt == nil {
		t.Errorf("routed: %+v", l)
	}
	s.call(t, 409, "POST", "/dead-letters/"+all[1]+"/retry", "")
	for range 2 {
		l := read[api.DeadLetter](t, s.call(t, 200, "POST", "/dead-letters/"+all[3]+"/discard", ""))
		if l.Status != "discarded" || l.SettledAt == nil {
			t.Errorf("discarded: %+v", l)
		}
	}
	s.call(t, 409, "POST", "/dead-letters/"+all[3]+"/retry", "")

	// In bulk, those that are open are meant.
	count := func(status int, path, body string, want int, dryRun bool) {
		t.Helper()
		if got := string(s.call(t, status, "POST", path, body).body); got != fmt.Sprintf(`{"count":%d,"dry_run":%v}`+"\n", want, dryRun) {
			t.Errorf("%s %s: %s, want %d", path, body, got, want)
		}
	}
	count(200, "/dead-letters/retry", `{"reason":"not_json","dry_run":true}`, 3, true)
	count(200, "/dead-letters/discard", `{"reason":"not_json","to":"`+created+`","dry_run":true}`, 2, true)
	count(202, "/dead-letters/retry", `{"reason":"not_json","from":"`+created+`"}`, 1, false)
	count(200, "/dead-letters/discard", `{"reason":"not_json"}`, 2, false)
	count(202, "/dead-letters/retry", `{"reason":"not_json"}`, 0, false)
	var statuses []string
	for i := range all {
		statuses = append(statuses, fmt.Sprint(get(i).Status))
	}
	if want := []string{"discarded", "routed", "discarded", "discarded", "retrying"}; !slices.Equal(statuses, want) {
		t.Errorf("%q, want %q", statuses, want)
	}

	unknown := definition.NewID()
	for _, request := range [][2]string{{"GET", ""}, {"POST", "/retry"}, {"POST", "/discard"}} {
		p := read[api.Problem](t, s.call(t, 404, request[0], "/dead-letters/"+unknown+request[1], ""))
		if want := "there is no dead letter " + unknown + "; it may have been deleted"; p.Detail != want {
			t.Errorf("%q", p.Detail)
		}
	}
}

// eventDefinition creates a definition with an event trigger and returns its id.
func (s *service) eventDefinition(t *testing.T, name, trigger string) string {
	t.Helper()
	return read[definitionAnswer](t, s.call(t, 201, "POST", "/activity-definitions",
		fmt.Sprintf(`{"name":%q,"trigger_config":{"trigger_type":"event",%s}}`, name, trigger))).ID
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := serve(t, testenv.Pool(t), nobody(t), "nobodys-queue")
	const id = "shop/order:1+2"
	pro := s.eventDefinition(t, "pro", `"event_type":"user.created","filters":{"tier":"pro"}`)
	s.eventDefinition(t, "free", `"event_type":"user.*","filters":{"tier":"free"}`)
	s.eventDefinition(t, "big", `"event_type":"user.created","condition":"event.payload.n > 5"`)
	s.eventDefinition(t, "broken", `"event_type":"user.>","condition":"event.payload.absent > 1"`)
	s.eventDefinition(t, "other", `"event_type":"order.paid"`)
	s.call(t, 200, "POST", "/activity-definitions/"+s.eventDefinition(t, "off", `"event_type":"user.created"`)+"/pause", "")
	gone := s.eventDefinition(t, "gone", `"event_type":"user.created"`)
	s.call(t, 204, "DELETE", "/activity-definitions/"+gone, "")

	const envelope = `{"event_id":"` + id + `","type":"user.created","payload":{"tier":"pro","n":1}}`
	test := read[api.EventTest](t, s.call(t, 200, "POST", "/events/test", envelope))
	matches := []api.EventMatch{{DefinitionID: pro, Name: "pro", Revision: 1}}
	if test.Outcome != "matched" || !slices.Equal(test.Matches, matches) {
		t.Errorf("%+v", test)
	}
	misses := ids(test.NearMisses, func(m api.NearMiss) string { return m.Name + " " + m.FailedClause })
	if want := []string{"big condition", "free filters.tier", "off enabled"}; !slices.Equal(misses, want) {
		t.Errorf("near misses %q, want %q", misses, want)
	}
	if len(test.Errors) != 1 || test.Errors[0].Name != "broken" {
		t.Errorf("errors %+v", test.Errors)
	}
	// A definition is not surprised by an event of the past.
	past := read[api.EventTest](t, s.call(t, 200, "POST", "/events/test?at=2026-01-02T03:04:05Z", envelope))
	if past.Outcome != "unmatched" || past.NearMisses[0].FailedClause != "enabled_since" {
		t.Errorf("%+v", past)
	}
	if runs := readRuns(t, s, "/runs?limit=50"); len(runs) != 0 {
		t.Errorf("a test made runs: %+v", runs)
	}

	const off = "nothing is known of event " + id + ": events that match nothing are not recorded " +
		"(ACTCORE_RECORD_UNMATCHED=true on the router turns that on), so it matched nothing, or it never came"
	for _, path := range []string{"/events/shop/order:1+2", "/events/shop%2Forder%3A1%2B2"} {
		if p := read[api.Problem](t, s.call(t, 404, "GET", path, "")); p.Detail != off {
			t.Errorf("%s: %q", path, p.Detail)
		}
	}
	if err := s.store.SetUnmatchedRecording(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	p := read[api.Problem](t, s.call(t, 404, "GET", "/events/"+id, ""))
	if !strings.HasPrefix(p.Detail, "nothing is known of event "+id+": events that match nothing are recorded since ") {
		t.Errorf("%q", p.Detail)
	}

	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	record := func(eventID string, matches int) definition.EventRecord {
		return definition.EventRecord{ID: eventID, Type: "user.created", Source: "signup", Digest: []byte("d"), Stream: "S", StreamSeq: 7,
			PublishedAt: at, Matches: matches}
	}
	occurrence := definition.Occurrence{DefinitionID: pro, Kind: definition.KindEvent, Key: definition.EventKey(id), EventID: id,
		EventType: "user.created", Input: []byte(envelope)}
	starts, reused, err := s.store.AcceptEvents(t.Context(), []definition.EventRecord{record(id, 1), record("lonely", 0)},
		[]definition.Occurrence{occurrence})
	if err != nil || len(starts) != 1 || len(reused) != 0 {
		t.Fatalf("%+v %q %v", starts, reused, err)
	}
	s.deadLetters(t, definition.DeadLetter{Reason: definition.RejectBadType, EventID: "dead", Data: []byte("{}")},
		definition.DeadLetter{Reason: definition.RejectEventIDReused, EventID: id, Data: []byte("{}")})
	for _, path := range []string{"/events/shop/order:1+2", "/events/shop%2Forder%3A1%2B2/"} {
		got := read[api.EventHistory](t, s.call(t, 200, "GET", path, ""))
		if got.EventID != id || got.Outcome != "routed" || *got.Type != "user.created" || *got.Source != "signup" || *got.Stream != "S" ||
			*got.StreamSeq != 7 || !got.PublishedAt.Equal(at) || got.RunsTotal != 1 || got.Runs[0].ID != starts[0].RunID ||
			len(got.DeadLetters) != 1 || got.DeadLetters[0].Reason != "event_id_reused" {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if got := read[api.EventHistory](t, s.call(t, 200, "GET", "/events/lonely", "")); got.Outcome != "matched_nothing" || got.RunsTotal != 0 {
		t.Errorf("%+v", got)
	}
	if got := read[api.EventHistory](t, s.call(t, 200, "GET", "/events/dead", "")); got.Outcome != "dead_letter" || len(got.DeadLetters) != 1 {
		t.Errorf("%+v", got)
	}
	if runs := readRuns(t, s, "/runs?limit=50&event_id=shop%2Forder:1%2B2"); len(runs) != 1 || runs[0].ID != starts[0].RunID {
		t.Errorf("by event: %+v", runs)
	}
	if runs := readRuns(t, s, "/runs?limit=50&event_id=lonely"); len(runs) != 0 {
		t.Errorf("by another event: %+v", runs)
	}
}

func TestReplays(t *testing.T) {
	t.Parallel()
	s := serve(t, testenv.Pool(t), nobody(t), "nobodys-queue")
	first, second := s.eventDefinition(t, "first", `"event_type":"a.*"`), s.eventDefinition(t, "second", `"event_type":"b"`)
	byHand := read[definitionAnswer](t, s.call(t, 201, "POST", "/activity-definitions",
		`{"name":"by-hand","trigger_config":{"trigger_type":"manual"}}`)).ID
	body := func(rest string, definitions ...string) string {
		return `{"from":"2026-01-01T00:00:00Z","to":"2026-01-02T00:00:00Z"` + rest + `,"definition_ids":["` +
			strings.Join(definitions, `","`) + `"]}`
	}
	accepted := s.call(t, 202, "POST", "/replays", body(`,"event_types":["a.b","c.>"]`, first, second))
	r := read[api.Replay](t, accepted)
	if accepted.location != "/replays/"+r.ID || r.Status != "pending" || r.DryRun || !slices.Equal(r.DefinitionIDs, []string{first, second}) ||
		!slices.Equal(r.EventTypes, []string{"a.b", "c.>"}) {
		t.Errorf("%s at %s", accepted.body, accepted.location)
	}
	if got := s.call(t, 200, "GET", accepted.location+"/", "").body; !bytes.Equal(got, accepted.body) {
		t.Errorf("read back %s\naccepted  %s", got, accepted.body)
	}

	// A second one of a definition is refused, but may be counted.
	p := read[api.Problem](t, s.call(t, 409, "POST", "/replays", body("", second)))
	if want := "a replay (" + r.ID + ") of definition " + second + " is active already: wait until it has ended, or cancel it with " +
		"POST /replays/" + r.ID + "/cancel"; p.Type != "/problems/replay-active" || p.Detail != want {
		t.Errorf("%+v", p)
	}
	counting := read[api.Replay](t, s.call(t, 202, "POST", "/replays", body(`,"dry_run":true`, second)))
	for field, refused := range map[string]string{
		"definition_ids[1]: " + byHand + " is not a definition with an event trigger": body("", first, byHand),
		"to: must not lie in the future: what is to come is routed by itself": strings.Replace(body("", first), `"to":"2026-01-02`,
			fmt.Sprintf(`"to":"%d-01-02`, time.Now().Year()+2), 1),
	} {
		if p := read[api.Problem](t, s.call(t, 422, "POST", "/replays", refused)); p.Detail != field {
			t.Errorf("%s: %q", refused, p.Detail)
		}
	}

	// What a router finds out is shown, and its runs are listed.
	claimed, ok, err := s.store.ClaimReplay(t.Context())
	if err != nil || !ok || claimed.ID != r.ID {
		t.Fatalf("claimed %+v %v %v", claimed, ok, err)
	}
	claimed.Status, claimed.Counted = definition.ReplayRunning, definition.ReplayCounts{Read: 5, Matched: 2, New: 1, Ran: 1}
	event := definition.EventRecord{ID: "e", Type: "a.b", Digest: []byte("d"), Stream: "S", StreamSeq: 1, PublishedAt: r.From, Matches: 1}
	starts, err := s.store.AcceptReplayed(t.Context(), &claimed, []definition.EventRecord{event}, []definition.Occurrence{{
		DefinitionID: first, Key: definition.EventKey("e"), EventID: "e", EventType: "a.b", Input: []byte(`{}`)}})
	if err != nil || len(starts) != 1 {
		t.Fatalf("%+v %v", starts, err)
	}
	got := read[api.Replay](t, s.call(t, 200, "GET", accepted.location, ""))
	if got.Status != "running" || got.Counted != (api.ReplayCounts{Read: 5, Matched: 2, New: 1, Ran: 1}) || got.Done.New != 1 {
		t.Errorf("%+v", got)
	}
	run := read[api.Run](t, s.call(t, 200, "GET", "/runs/"+starts[0].RunID, ""))
	if run.Trigger != "replay" || run.ReplayID == nil || *run.ReplayID != r.ID {
		t.Errorf("%+v", run)
	}
	if runs := readRuns(t, s, "/runs?limit=50&trigger=replay&replay_id="+r.ID); len(runs) != 1 || runs[0].ID != starts[0].RunID {
		t.Errorf("by replay: %+v", runs)
	}
	if runs := readRuns(t, s, "/runs?limit=50&replay_id="+counting.ID); len(runs) != 0 {
		t.Errorf("by another replay: %+v", runs)
	}

	for range 2 {
		if c := read[api.Replay](t, s.call(t, 200, "POST", accepted.location+"/cancel", "")); c.Status != "canceled" || c.FinishedAt == nil {
			t.Errorf("canceled: %+v", c)
		}
	}
	again := read[api.Replay](t, s.call(t, http.StatusAccepted, "POST", "/replays", body("", second)))
	var all []string
	for next := ""; ; {
		list := read[page[api.Replay]](t, s.call(t, 200, "GET", "/replays?limit=2"+next, ""))
		all = append(all, ids(list.Items, func(r api.Replay) string { return r.ID })...)
		if list.NextCursor == nil {
			break
		}
		next = "&cursor=" + *list.NextCursor
	}
	if want := []string{again.ID, counting.ID, r.ID}; !slices.Equal(all, want) {
		t.Errorf("%q, want %q", all, want)
	}
	unknown := definition.NewID()
	s.call(t, 404, "GET", "/replays/"+unknown, "")
	s.call(t, 404, "POST", "/replays/"+unknown+"/cancel", "")
}
