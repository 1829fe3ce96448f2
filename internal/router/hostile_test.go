package router_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// TestHostileMessages: each message that cannot be an event is a dead letter with its reason, keeps a bounded part of the
// message, and stops none of the events around it.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	if limit := s.js.Conn().MaxPayload(); limit <= definition.MaxEvent {
		t.Fatalf("the server takes messages of %d bytes, too few for this test", limit)
	}
	s.define(t, "all", "hostile", `{}`)
	s.start(t)
	padded := func(id string, size int) string {
		head := fmt.Sprintf(`{"event_id":%q,"type":"hostile","payload":{"x":"`, id)
		return head + strings.Repeat("x", size-len(head)-3) + `"}}`
	}
	members := func(n int) string {
		var b strings.Builder
		b.WriteString(`{"event_id":"1","type":"hostile","payload":{"x":0`)
		for i := range n {
			fmt.Fprintf(&b, `,"%d":0`, i)
		}
		return b.String() + `}}`
	}
	payload := func(value string) string {
		return `{"event_id":"1","type":"hostile","payload":{"x":` + value + `}}`
	}
	messages := []struct {
		header nats.Header
		data   string
		reason string // empty: the event with the id is legal
		id     string
	}{
		{data: padded("largest", definition.MaxEvent-1), id: "largest"},
		{data: padded("larger", definition.MaxEvent+1), reason: definition.RejectTooLarge},
		{data: payload(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)), reason: definition.RejectTooDeep},
		{data: strings.Repeat("[", 500_000), reason: definition.RejectTooDeep},
		{data: payload(strings.Repeat(`{"":`, 100_000)), reason: definition.RejectTooDeep},
		{data: members(100_000), reason: definition.RejectTooManyMembers},
		{data: payload("\"\xc3\x28\""), reason: definition.RejectNotJSON},
		{data: payload(`"\ud800"`), reason: definition.RejectNotJSON},
		{data: payload(`NaN`), reason: definition.RejectNotJSON},
		{data: payload(`{"a":1,"b":[{"c":1,"c":2}]}`), reason: definition.RejectDuplicateName},
		{data: payload(`1`) + payload(`2`), reason: definition.RejectNotJSON},
		{data: "\xef\xbb\xbf" + payload(`1`), reason: definition.RejectNotJSON},
		{data: "\x1f\x8b\x08\x00\x00", reason: definition.RejectNotJSON},
		{data: "", reason: definition.RejectNotJSON},
		{data: `{"specversion":"0.3","id":"1","source":"s","type":"hostile"}`, reason: definition.RejectBadCloudEvent},
		{data: `{"specversion":"1.0","id":"cloud","source":"s","type":"hostile","data":{"x":1}}`, id: "cloud"},
		{data: payload(`"`+strings.Repeat(`[{:\"`, 20_000)+`"`) + " ", id: "1"},
		// What the server itself says to those who pull looks like this.
		{header: nats.Header{"Status": {"503"}}, data: "", reason: definition.RejectNotJSON},
		{data: padded("last", 300), id: "last"},
	}
	var dead, ids []string
	inputs := map[string]string{}
	for i, m := range messages {
		msg := nats.Msg{Subject: s.names.SubjectPrefix + ".hostile", Header: m.header, Data: []byte(m.data)}
		ack, err := s.js.PublishMsg(t.Context(), &msg)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if m.reason != "" {
			dead = append(dead, fmt.Sprintf("%d %s %d of %d bytes", ack.Sequence, m.reason, min(len(m.data), 64<<10), len(m.data)))
			continue
		}
		ids = append(ids, m.id)
		inputs[m.id] = m.data
	}
	s.settled(t)
	got := s.column(t, `SELECT concat(stream_seq, ' ', reason, ' ', octet_length(data), ' of ', data_size, ' bytes')
		FROM dead_letters ORDER BY stream_seq`)
	if !slices.Equal(got, dead) {
		t.Errorf("dead letters\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(dead, "\n"))
	}
	slices.Sort(ids)
	if got := s.column(t, `SELECT event_id FROM runs ORDER BY event_id COLLATE "C"`); !slices.Equal(got, ids) {
		t.Errorf("runs of %v, want %v", got, ids)
	}
	inputs["cloud"] = `{"event_id":"cloud","type":"hostile","source":"s","payload":{"x":1}}`
	for id, want := range inputs {
		got := s.column(t, `SELECT id::text FROM runs WHERE event_id = '`+id+`'`)
		if len(got) != 1 {
			continue // told above
		}
		run, err := s.store.GetRun(t.Context(), got[0])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(run.Input, []byte(want)) {
			t.Errorf("the run of event %s has an input of %d bytes, want the event's %d", id, len(run.Input), len(want))
		}
	}
}

// poison returns the nth message that is no event, and why it is none: each reason in turn, padded to the size.
func poison(n, size int) (data, reason string) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	kinds := []struct{ head, tail, reason string }{
		{`{"event_id":"%d","type":"crowd","pad":"`, `"`, definition.RejectNotJSON},
		{`["%d","`, `"]`, definition.RejectNotObject},
		{`{"event_id":"%d","type":"crowd","event_id":"twice","pad":"`, `"}`, definition.RejectDuplicateName},
		{`{"id":"%d","type":"crowd","pad":"`, `"}`, definition.RejectMissingEventID},
		{`{"event_id":"no %d","type":"crowd","pad":"`, `"}`, definition.RejectBadEventID},
		{`{"event_id":"%d","pad":"`, `"}`, definition.RejectMissingType},
		{`{"event_id":"%d","type":"Crowd","pad":"`, `"}`, definition.RejectBadType},
		{`{"event_id":"%d","type":"crowd","payload":"`, `"}`, definition.RejectPayloadNotObject},
		{`{"event_id":"%d","type":"crowd","occurred_at":"now","pad":"`, `"}`, definition.RejectBadTime},
		{`{"event_id":"%d","type":"crowd","Source":"me","pad":"`, `"}`, definition.RejectBadField},
		{`{"event_id":"%d","type":"other","pad":"`, `"}`, definition.RejectSubjectMismatch},
		{`{"event_id":"%d","x":` + deep + `,"pad":"`, `"}`, definition.RejectTooDeep},
		{`{"specversion":"2.0","id":"%d","type":"crowd","pad":"`, `"}`, definition.RejectBadCloudEvent},
	}
	k := kinds[n%len(kinds)]
	head := fmt.Sprintf(k.head, n)
	return head + strings.Repeat("x", size-len(head)-len(k.tail)) + k.tail, k.reason
}

// TestPoisonCrowd: 10,000 messages that are no events are dead letters, each with its reason; each of the 200 events
// between them has one run; and the router holds no more of them at once than a few batches.
func TestPoisonCrowd(t *testing.T) {
	// Not parallel: it looks at the memory of the process.
	const (
		dead, each = 10_000, 50 // an event after each 50
		size       = 8 << 10    // 82 MB together
		most       = 60 << 20   // three batches of 500 messages are on their way at most, 4 MB each and some copies of it
	)
	s := newStand(t)
	s.define(t, "crowd", "crowd", `{}`)
	if err := s.bus(t).Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wantDead, wantRuns []string
	seq := 0
	publish := func(data string) {
		seq++
		if _, err := s.js.PublishAsync(s.names.SubjectPrefix+".crowd", []byte(data), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range dead {
		data, reason := poison(i, size)
		publish(data)
		wantDead = append(wantDead, fmt.Sprintf("%d %s %d", seq, reason, size))
		if i%each == each-1 {
			id := fmt.Sprintf("good-%03d", i/each)
			publish(fmt.Sprintf(`{"event_id":%q,"type":"crowd"}`, id))
			wantRuns = append(wantRuns, id+" 1")
		}
	}
	select {
	case <-s.js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		t.Fatal("the messages were not published within a minute")
	}
	if stream, err := s.js.Stream(t.Context(), s.names.Stream); err != nil || stream.CachedInfo().State.LastSeq != uint64(seq) {
		t.Fatalf("the stream does not hold %d messages (%v)", seq, err)
	}

	runtime.GC()
	before, peak := liveHeap(), uint64(0)
	s.start(t)
	testenv.Eventually(t, 2*time.Minute, "every message is settled", func(ctx context.Context) (bool, error) {
		peak = max(peak, liveHeap())
		c, err := s.js.Consumer(ctx, s.names.Stream, s.names.Durable)
		if err != nil {
			return false, err
		}
		return c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0, nil
	})
	t.Logf("live heap: %d KiB before, %d KiB at most", before>>10, peak>>10)
	if peak > before+most {
		t.Errorf("the heap grew from %d to %d bytes while %d bytes went through", before, peak, dead*size)
	}
	got := s.column(t, `SELECT concat(stream_seq, ' ', reason, ' ', octet_length(data)) FROM dead_letters ORDER BY stream_seq`)
	if !slices.Equal(got, wantDead) {
		t.Errorf("%d dead letters, want %d; the first that differs: %s", len(got), len(wantDead), firstDifference(got, wantDead))
	}
	runs := s.column(t, `SELECT concat(event_id, ' ', count(*)) FROM runs GROUP BY event_id ORDER BY event_id`)
	if !slices.Equal(runs, wantRuns) {
		t.Errorf("%d events have runs, want %d; the first that differs: %s", len(runs), len(wantRuns),
			firstDifference(runs, wantRuns))
	}
}

// liveHeap is how many bytes the last garbage collection found in use.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func firstDifference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("%q, want %q", got[i], want[i])
		}
	}
	return "where one list ends"
}
