package router_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// replay asks for a replay and waits for its end.
func (s *stand) replay(t *testing.T, req definition.ReplayRequest) definition.Replay {
	t.Helper()
	return s.ended(t, s.ask(t, req))
}

func (s *stand) ask(t *testing.T, req definition.ReplayRequest) string {
	t.Helper()
	r, err := s.store.CreateReplay(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

// ended waits for the end of a replay.
func (s *stand) ended(t *testing.T, id string) (r definition.Replay) {
	t.Helper()
	testenv.Eventually(t, 40*time.Second, "the replay ends", func(ctx context.Context) (ended bool, err error) {
		r, err = s.store.GetReplay(ctx, id)
		return !r.Status.Active(), err
	})
	return r
}

// publishedAt returns when the stream stored a message.
func (s *stand) publishedAt(t *testing.T, seq uint64) time.Time {
	t.Helper()
	stream, err := s.js.Stream(t.Context(), s.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(t.Context(), seq)
	if err != nil {
		t.Fatal(err)
	}
	return m.Time
}

func (s *stand) disable(t *testing.T, id string) {
	t.Helper()
	_, err := s.store.UpdateDefinition(t.Context(), id, definition.Change{}, func(d definition.Document) (definition.Document, error) {
		d.Enabled = false
		return d, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReplay replays 700 messages, which are three steps, for a definition that met some of them, and for a disabled one.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	met := s.define(t, "met", "user.created", `{"tier":"pro"}`)
	s.start(t)
	event := func(i int) string {
		return fmt.Sprintf(`{"event_id":"%03d","type":"user.created","payload":{"tier":%q}}`, i, []string{"pro", "free"}[i%2])
	}
	publish := func(eventType, data string) {
		t.Helper()
		if _, err := s.js.PublishAsync(s.names.SubjectPrefix+"."+eventType, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 500 {
		publish("user.created", event(i))
		switch {
		case i%50 == 0:
			publish("user.created", "nonsense")
		case i%50 == 1:
			publish("user.deleted", fmt.Sprintf(`{"event_id":"d%03d","type":"user.deleted","payload":{"tier":"pro"}}`, i))
		case i%50 == 2: // again, side by side, and another event with the id of one that matched
			publish("user.created", event(i))
			publish("user.created", strings.Replace(event(i), `"pro"`, `"pro","x":1`, 1))
		}
	}
	// Again, far from its first time.
	for i := range 160 {
		publish("user.created", event(i))
	}
	<-s.js.PublishAsyncComplete()
	info := s.settled(t)
	last := info.Delivered.Stream
	if last != 700 {
		t.Fatalf("the stream holds %d messages, want 700", last)
	}
	if got := s.column(t, `SELECT count(*)::text FROM runs`); got[0] != "250" {
		t.Fatalf("%s runs before, want 250", got[0])
	}
	if _, err := s.pool.Exec(t.Context(), `
		UPDATE runs SET status = 'skipped', reason = 'concurrency_limit' WHERE event_id IN ('002', '004', '498')`); err != nil {
		t.Fatal(err)
	}
	off := s.define(t, "off", "user.*", `{"tier":"pro"}`)
	s.disable(t, off)
	first, end := s.publishedAt(t, 1), s.publishedAt(t, last).Add(time.Microsecond)

	// For "met" there are 250 events that it ran or did not, for "off" these and 10 deletions; 80 of the pairs come again.
	both := definition.ReplayRequest{From: first, To: end, DefinitionIDs: []string{met, off}, DryRun: true}
	dry := s.replay(t, both)
	wantCounted := definition.ReplayCounts{Read: 700, Matched: 250 + 80 + 260 + 80, New: 260 + 80, Rerun: 3 + 2, Ran: 247 + 78}
	if dry.Status != definition.ReplayCompleted || dry.Counted != wantCounted || dry.Done != (definition.ReplayCounts{}) {
		t.Errorf("dry run: %+v, want counted %+v", dry, wantCounted)
	}
	if got := s.column(t, `SELECT kind FROM runs WHERE kind <> 'event'`); len(got) != 0 {
		t.Errorf("the dry run made %d runs", len(got))
	}

	both.DryRun = false
	done := s.replay(t, both)
	want := definition.ReplayCounts{Read: 700, Matched: 670, New: 260, Rerun: 3, Ran: 247 + 78 + 80 + 2}
	if done.Status != definition.ReplayCompleted || done.Counted != wantCounted || done.Done != want || done.Error != "" || done.FinishedAt == nil {
		t.Errorf("replay: %+v, want done %+v", done, want)
	}
	got := s.column(t, fmt.Sprintf(`
		SELECT concat(line, ' ', count(*)) FROM (
			SELECT definition_name || CASE WHEN rerun_of IS NULL THEN ' event' ELSE ' rerun of ' || event_id END AS line
			FROM runs WHERE kind = 'replay' AND replay_id = '%s' AND convert_from(input, 'UTF8') LIKE '%%"tier":"pro"}}') AS made
		GROUP BY line ORDER BY line`, done.ID))
	if want := []string{"met rerun of 002 1", "met rerun of 004 1", "met rerun of 498 1", "off event 260"}; !slices.Equal(got, want) {
		t.Errorf("the replay made %q, want %q", got, want)
	}
	for _, workflow := range s.column(t, `SELECT workflow_id FROM runs WHERE event_id IN ('002', 'd451') AND kind = 'replay' ORDER BY workflow_id`) {
		if _, err := s.temporal.DescribeWorkflowExecution(t.Context(), workflow, ""); err != nil {
			t.Errorf("workflow %s: %v", workflow, err)
		}
	}

	again := s.replay(t, both)
	want = definition.ReplayCounts{Read: 700, Matched: 670, Ran: 670}
	if again.Status != definition.ReplayCompleted || again.Counted != want || again.Done != want {
		t.Errorf("second replay: %+v, want %+v in both passes", again, want)
	}
	if got := s.column(t, `SELECT count(*)::text FROM runs`); got[0] != "513" {
		t.Errorf("%s runs in the end, want 513", got[0])
	}
}

// TestReplayRange: a replay takes the events from a time on and before another, of some types.
func TestReplayRange(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.start(t)
	for i := range 10 {
		eventType := []string{"user.created", "user.deleted", "shop.opened"}[i%3]
		s.publish(t, eventType, fmt.Sprintf(`{"event_id":"%d","type":%q}`, i+1, eventType))
	}
	s.settled(t)
	id := s.define(t, "all", ">", `{}`)
	// A replay keeps microseconds, and messages that wait for their acknowledgement are further apart.
	at := func(seq uint64) time.Time { return s.publishedAt(t, seq) }
	cases := map[string]struct {
		from, to time.Time
		types    []string
		want     definition.ReplayCounts
	}{
		"the whole stream":      {time.Unix(0, 0), at(10).Add(time.Microsecond), nil, definition.ReplayCounts{Read: 10, Matched: 10, New: 10}},
		"before the first":      {time.Unix(0, 0), at(1), nil, definition.ReplayCounts{}},
		"after the last":        {at(10).Add(time.Microsecond), at(10).Add(2 * time.Microsecond), nil, definition.ReplayCounts{}},
		"one":                   {at(4), at(4).Add(time.Microsecond), nil, definition.ReplayCounts{Read: 1, Matched: 1, New: 1}},
		"from included, to not": {at(3), at(7), nil, definition.ReplayCounts{Read: 4, Matched: 4, New: 4}},
		"a type":                {at(1), at(10).Add(time.Microsecond), []string{"user.deleted"}, definition.ReplayCounts{Read: 10, Matched: 3, New: 3}},
		"a wildcard and a type": {at(1), at(10).Add(time.Microsecond), []string{"user.*", "shop.opened"},
			definition.ReplayCounts{Read: 10, Matched: 10, New: 10}},
		"a type that is not there": {at(1), at(10).Add(time.Microsecond), []string{"shop"}, definition.ReplayCounts{Read: 10}},
	}
	asked := map[string]string{} // at once: routers look for replays every two seconds
	for name, c := range cases {
		asked[name] = s.ask(t, definition.ReplayRequest{From: c.from, To: c.to, EventTypes: c.types,
			DefinitionIDs: []string{id}, DryRun: true})
	}
	for name, c := range cases {
		if r := s.ended(t, asked[name]); r.Status != definition.ReplayCompleted || r.Counted != c.want {
			t.Errorf("%s: %s with %+v, want %+v", name, r.Status, r.Counted, c.want)
		}
	}
}
