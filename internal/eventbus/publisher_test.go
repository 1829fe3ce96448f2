package eventbus

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

func messages(names string, from, to int) []definition.Message {
	var out []definition.Message
	for i := from; i < to; i++ {
		out = append(out, definition.Message{Subject: names + ".run.failed", ID: fmt.Sprint("id-", i), Data: fmt.Append(nil, i),
			Header: map[string]string{"ce-id": fmt.Sprint("id-", i), "traceparent": "x"}})
	}
	return out
}

func newPublisher(t *testing.T, nc *nats.Conn, stream string) *Publisher {
	t.Helper()
	p, err := NewPublisher(nc, stream)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// More messages than may be on their way are stored in their order, with their headers; those that come again are not.
func TestPublish(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	makeStream(t, js, names, jetstream.StreamConfig{})
	p := newPublisher(t, testenv.NATS(t), names.Stream)
	const n = 3 * publishPending
	for range 2 {
		for i, err := range p.Publish(t.Context(), messages(names.SubjectPrefix, 0, n)) {
			if err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
	}
	stream, err := js.Stream(t.Context(), names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.Msgs; got != n {
		t.Fatalf("%d messages are stored, want %d", got, n)
	}
	for _, seq := range []uint64{1, 2, publishPending + 1, n} {
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(m.Subject, " ", m.Header["ce-id"], " ", m.Header["traceparent"], " ", string(m.Data))
		if want := fmt.Sprintf("%s.run.failed [id-%d] [x] %d", names.SubjectPrefix, seq-1, seq-1); got != want {
			t.Errorf("message %d is %s, want %s", seq, got, want)
		}
	}
}

// What cannot be stored says why, and what can be stored beside it is.
func TestPublishFails(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	nc := testenv.NATS(t)
	p := newPublisher(t, nc, names.Stream)
	want := func(errs []error, texts ...string) {
		t.Helper()
		for i, text := range texts {
			if (errs[i] == nil) != (text == "") || errs[i] != nil && !strings.Contains(errs[i].Error(), text) {
				t.Errorf("message %d: %v, want %q", i, errs[i], text)
			}
		}
	}
	want(p.Publish(t.Context(), messages(names.SubjectPrefix, 0, 1)), "no stream takes this subject; a router makes stream "+names.Stream)
	makeStream(t, js, names, jetstream.StreamConfig{MaxMsgSize: 300})
	mixed := messages(names.SubjectPrefix, 0, 3)
	mixed[1].Data = []byte(strings.Repeat("x", 400))
	want(p.Publish(t.Context(), mixed), "", "message size exceeds maximum allowed", "")
	want(newPublisher(t, nc, names.Stream+"-other").Publish(t.Context(), messages(names.SubjectPrefix, 5, 6)), "expected stream does not match")
	nc.Close()
	want(p.Publish(t.Context(), messages(names.SubjectPrefix, 6, 8)), "not connected to NATS", "not connected to NATS")
}

// A worker needs two rights for it: to publish the ends of runs, and its own inbox.
func TestPublishRights(t *testing.T) {
	t.Parallel()
	s := newServer(t, `authorization { users: [
		{ user: admin, password: a }
		{ user: worker, password: w, permissions: { publish: ["p.run.>"], subscribe: ["_INBOX_worker.>"] } } ] }`)
	admin, err := nats.Connect("nats://admin:a@" + s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	js, err := jetstream.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"p.>"}}); err != nil {
		t.Fatal(err)
	}
	nc, err := Connect(ConnectOptions{URL: "nats://worker:w@" + s.address, Name: "test", InboxPrefix: "_INBOX_worker", Unbuffered: true,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	p := newPublisher(t, nc, "S")
	ctx := t.Context()
	if errs := p.Publish(ctx, messages("p", 0, 2)); errs[0] != nil || errs[1] != nil {
		t.Errorf("with the rights: %v", errs)
	}
	began := time.Now()
	other := definition.Message{Subject: "p.order.paid", ID: "x"}
	if errs := p.Publish(ctx, []definition.Message{other}); errs[0] == nil || !strings.Contains(errs[0].Error(), "lacks the right to publish there") {
		t.Errorf("without the right: %v", errs)
	}
	if took := time.Since(began); took > 2*publishTimeout {
		t.Errorf("a refusal took %s", took)
	}
}
