package router_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// counters returns the counters of a name, as in "dead 2, routed 5" by the value of their only label.
func counters(t *testing.T, registry *prometheus.Registry, name string) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			out = append(out, fmt.Sprintf("%s %v", m.GetLabel()[0].GetValue(), m.GetCounter().GetValue()))
		}
	}
	return strings.Join(out, ", ")
}

// TestRetryDeadLetters retries dead letters of every kind at once.
func TestRetryDeadLetters(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	registry := prometheus.NewRegistry()
	stop := s.start(t)
	event := func(id, payload string) string {
		return fmt.Sprintf(`{"event_id":%q,"type":"user.created","payload":%s}`, id, payload)
	}
	large := func(id string) string { return event(id, `{"met":true,"x":"`+strings.Repeat("x", 100_000)+`"}`) }
	// Nothing matches these when they come. The first is not in the stream at the end, and the third is another one.
	for _, data := range []string{large("removed"), large("large"), large("replaced")} {
		s.publish(t, "user.created", data)
	}
	// Not all of these headers are kept.
	long := nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"cut"}, "ce-source": {"s"}, "ce-type": {"user.created"},
		"content-type": {"application/json"}, "a-large-one": {strings.Repeat("x", definition.MaxDeadLetterHeader-20)}}
	if _, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: s.names.SubjectPrefix + ".user.created", Header: long,
		Data: []byte(`{"met":true}`)}); err != nil {
		t.Fatal(err)
	}
	s.settled(t)
	stream, err := s.js.Stream(t.Context(), s.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	at := func(seq uint64) time.Time {
		t.Helper()
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		return m.Time
	}
	times := []time.Time{at(1), at(2), at(3).Add(-time.Second), at(4)}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(2)); err != nil {
		t.Fatal(err)
	}
	s.define(t, "one", "user.created", `{"met":true}`)
	s.define(t, "two", "*.created", `{"met":true}`)
	s.publish(t, "user.created", event("ran", `{"met":true}`))
	s.settled(t)
	stop()

	var letters []definition.DeadLetter
	add := func(eventID, data string, size int, header map[string][]string) *definition.DeadLetter {
		seq := uint64(len(letters) + 1)
		l := definition.DeadLetter{Stream: s.names.Stream, StreamSeq: seq, PublishedAt: time.Now(), Subject: s.names.SubjectPrefix + ".user.created",
			Header: header, EventID: eventID, Reason: definition.RejectInternalError, Detail: "our fault", Data: []byte(data), DataSize: size, Deliveries: 1}
		if seq <= 4 {
			l.PublishedAt = times[seq-1]
		}
		letters = append(letters, l)
		return &letters[len(letters)-1]
	}
	for _, id := range []string{"removed", "large", "replaced"} {
		add(id, large(id), len(large(id)), nil)
	}
	whole := func(data string, header map[string][]string) *definition.DeadLetter {
		return add("", data, len(data), header)
	}
	whole(`{"met":true}`, long)
	whole(event("met", `{"met":true}`), nil).Stream = "another stream"
	whole(event("unmet", `{"met":false}`), nil)
	whole(event("ran", `{"met":true}`), nil)
	whole(event("ran", `{"met":true,"x":1}`), nil)
	whole(`nonsense`, nil)
	whole(`{"met":true}`, nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"cloud"}, "ce-source": {"s"}, "ce-type": {"user.created"},
		"content-type": {"application/json"}})
	whole(event("nobody asked", `{"met":true}`), nil)
	whole("", nil)
	if err := s.store.AcceptDeadLetters(t.Context(), letters); err != nil {
		t.Fatal(err)
	}
	for _, l := range letters {
		if strings.Contains(string(l.Data), "nobody asked") {
			continue
		}
		id := s.column(t, fmt.Sprintf(`SELECT id::text FROM dead_letters WHERE stream_seq = %d`, l.StreamSeq))
		if n, err := s.store.RetryDeadLetters(t.Context(), definition.SelectDeadLetters{ID: id[0]}, false); err != nil || n != 1 {
			t.Fatalf("letter %d: asked for %d, %v", l.StreamSeq, n, err)
		}
	}
	s.startWith(t, registry)
	testenv.Eventually(t, 30*time.Second, "all are retried", func(context.Context) (bool, error) {
		return len(s.column(t, `SELECT id::text FROM dead_letters WHERE status = 'retrying'`)) == 0, nil
	})
	got := s.column(t, `SELECT concat_ws(' ', stream_seq, status, retries, runs, NULLIF(event_id, ''), reason) FROM dead_letters ORDER BY stream_seq`)
	want := []string{
		"1 open 1 0 removed internal_error",
		"2 routed 0 2 large internal_error",
		"3 open 1 0 replaced internal_error",
		"4 routed 0 2 internal_error",
		"5 routed 0 2 internal_error",
		"6 routed 0 0 internal_error",
		"7 routed 0 2 internal_error",
		"8 open 1 0 ran event_id_reused",
		"9 open 1 0 not_json",
		"10 routed 0 2 internal_error",
		"11 open 0 0 internal_error",
		"12 open 1 0 not_json",
	}
	if !slices.Equal(got, want) {
		t.Errorf("dead letters\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for seq, id := range map[int]string{1: "removed", 3: "replaced"} {
		want := fmt.Sprintf("only the first 65536 of %d bytes are kept, and the rest cannot be read: the stream does not hold it any more",
			len(large(id)))
		if got := s.column(t, fmt.Sprintf(`SELECT detail FROM dead_letters WHERE stream_seq = %d`, seq)); got[0] != want {
			t.Errorf("letter %d: detail %q, want %q", seq, got[0], want)
		}
	}
	runs := s.column(t, `SELECT concat_ws(' ', event_id, definition_name, octet_length(input), kind) FROM runs ORDER BY event_id, definition_name`)
	var wantRuns []string
	for _, e := range []struct {
		id   string
		size int
	}{
		{"cloud", len(`{"event_id":"cloud","type":"user.created","source":"s","payload":{"met":true}}`)},
		{"cut", len(`{"event_id":"cut","type":"user.created","source":"s","payload":{"met":true}}`)},
		{"large", len(large("large"))}, {"met", len(event("met", `{"met":true}`))}, {"ran", len(event("ran", `{"met":true}`))},
	} {
		wantRuns = append(wantRuns, fmt.Sprintf("%s one %d event", e.id, e.size), fmt.Sprintf("%s two %d event", e.id, e.size))
	}
	if !slices.Equal(runs, wantRuns) {
		t.Errorf("runs %q\nwant %q", runs, wantRuns)
	}
	if got := counters(t, registry, "actcore_dead_letter_retries_total"); got != "dead 5, routed 6" {
		t.Errorf("counted %s, want dead 5, routed 6", got)
	}
}
