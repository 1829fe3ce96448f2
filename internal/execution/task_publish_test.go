package execution

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// testStream makes a stream of this test's own and returns the beginning of its subjects.
func testStream(t *testing.T) (jetstream.JetStream, jetstream.Stream, string) {
	t.Helper()
	names := testenv.Names(t)
	js, err := jetstream.New(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: names.Stream, Subjects: []string{names.SubjectPrefix + ".>"}, MaxAge: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	return js, stream, names.SubjectPrefix
}

func publishWork(t *testing.T, with definition.PublishTask) *definition.TaskWork {
	t.Helper()
	work := httpWork(t, definition.HTTPTask{})
	work.Task = task(t, "tell", definition.TaskPublish, with)
	return work
}

func TestPublish(t *testing.T) {
	t.Parallel()
	js, stream, prefix := testStream(t)
	p := &publisher{js: js}
	given := publishWork(t, definition.PublishTask{Subject: prefix + ".a", Headers: map[string]string{"X-Kind": "k"},
		Payload: json.RawMessage(`{"x":1}`)})
	out, err := p.run(t.Context(), given)
	if err != nil || !strings.Contains(string(out), `"sequence":1`) {
		t.Fatalf("%s, %v", out, err)
	}
	// The second attempt of the same task is told apart by the message id.
	out, err = p.run(t.Context(), given)
	if err != nil || !strings.Contains(string(out), `"sequence":1,"duplicate":true`) {
		t.Fatalf("%s, %v", out, err)
	}
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if string(msg.Data) != `{"x":1}` || msg.Header.Get("X-Kind") != "k" || msg.Header.Get("Nats-Msg-Id") != fakeRunID+":tell" {
		t.Errorf("stored %s with %v", msg.Data, msg.Header)
	}
	other := publishWork(t, definition.PublishTask{Subject: prefix + ".b"})
	other.Task.Name = "other"
	if _, err := p.run(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if msg, err = stream.GetMsg(t.Context(), 2); err != nil || !strings.Contains(string(msg.Data), fakeRunID) {
		t.Errorf("the run's context was not sent: %v, %v", msg, err)
	}
}

func TestPublishWithoutStream(t *testing.T) {
	t.Parallel()
	js, _, prefix := testStream(t)
	_, err := (&publisher{js: js}).run(t.Context(), publishWork(t, definition.PublishTask{Subject: "nobody-" + prefix}))
	if !isPermanent(err) || !strings.Contains(err.Error(), "no JetStream stream takes this subject") {
		t.Errorf("error %v", err)
	}
}

func TestPublishTooLarge(t *testing.T) {
	t.Parallel()
	js, _, prefix := testStream(t)
	work := publishWork(t, definition.PublishTask{Subject: prefix + ".a"})
	work.Run.Input = []byte(`"` + strings.Repeat("x", int(js.Conn().MaxPayload())) + `"`)
	if _, err := (&publisher{js: js}).run(t.Context(), work); !isPermanent(err) {
		t.Errorf("error %v", err)
	}
}

// silentStream is a JetStream that does not answer, as during an election, though the stream exists.
type silentStream struct{ err error }

func (s silentStream) PublishMsg(context.Context, *nats.Msg, ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	return nil, s.err
}
func (silentStream) StreamNameBySubject(context.Context, string) (string, error) { return "S", nil }

func TestPublishIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{jetstream.ErrNoStreamResponse, context.DeadlineExceeded, nats.ErrConnectionReconnecting} {
		_, err := (&publisher{js: silentStream{cause}}).run(t.Context(), publishWork(t, definition.PublishTask{Subject: "a"}))
		if err == nil || isPermanent(err) {
			t.Errorf("%v: %v", cause, err)
		}
	}
}

// What a publish task stores on a subject of events is read as an event by our own router.
func TestPublishedEventIsRead(t *testing.T) {
	t.Parallel()
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	js, stream, prefix := testStream(t)
	p := &publisher{js: js, prefix: prefix}
	for i, c := range []struct {
		with      definition.PublishTask
		item      int
		id        string
		eventType string
		payload   string
		refused   string
	}{
		{with: definition.PublishTask{Subject: prefix + ".order.paid", Payload: json.RawMessage(`{"x":1}`)}, item: -1,
			id: fakeRunID + ":tell", eventType: "order.paid", payload: `{"x":1}`},
		{with: definition.PublishTask{Subject: prefix + ".order.paid", EventType: "order.paid"}, item: 3,
			id: fakeRunID + ":tell:3", eventType: "order.paid"},
		{with: definition.PublishTask{Subject: prefix + ".a", EventType: "b", Payload: json.RawMessage(`{}`)}, item: 0,
			id: fakeRunID + ":tell:0", refused: definition.RejectSubjectMismatch},
		{with: definition.PublishTask{Subject: prefix + ".a", Payload: json.RawMessage(`[1]`)}, item: 1,
			id: fakeRunID + ":tell:1", refused: definition.RejectPayloadNotObject},
		// A whole CloudEvent as the payload is one, when the definition says so.
		{with: definition.PublishTask{Subject: prefix + ".a", Headers: map[string]string{"content-type": "application/cloudevents+json"},
			Payload: json.RawMessage(`{"specversion":"1.0","id":"own","source":"s","type":"a","data":{"y":2}}`)}, item: 2,
			id: "own", eventType: "a", payload: `{"y":2}`},
	} {
		work := publishWork(t, c.with)
		work.Item, work.Run.TraceID = c.item, trace
		if _, err := p.run(t.Context(), work); err != nil {
			t.Fatal(err)
		}
		msg, err := stream.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		event, reject := definition.ParseMessage(msg.Subject, msg.Header, msg.Data, prefix)
		if c.refused != "" {
			if reject == nil || reject.Reason != c.refused || event.ID != c.id {
				t.Errorf("%d: %v, event %s; want %s", i, reject, event.ID, c.refused)
			}
			continue
		}
		if reject != nil {
			t.Fatalf("%d: %v", i, reject)
		}
		if event.ID != c.id || event.Type != c.eventType || event.TraceID != trace {
			t.Errorf("%d: event %+v, want the id %s and the type %s", i, event, c.id, c.eventType)
		}
		if c.id != "own" {
			if age := time.Since(event.OccurredAt); event.Source != "activity-core/fake" || age < -time.Minute || age > time.Minute {
				t.Errorf("%d: source %q, occurred at %s", i, event.Source, event.OccurredAt)
			}
		}
		var envelope struct{ Payload json.RawMessage }
		if err := json.Unmarshal(event.Raw, &envelope); err != nil || c.payload != "" && string(envelope.Payload) != c.payload {
			t.Errorf("%d: payload %s, %v; want %s", i, envelope.Payload, err, c.payload)
		}
		if c.payload == "" && !strings.Contains(string(envelope.Payload), fakeRunID) {
			t.Errorf("%d: payload %s, want the run's context", i, envelope.Payload)
		}
	}
}

func TestPublishMessage(t *testing.T) {
	t.Parallel()
	p := &publisher{prefix: "activity"}
	for subject, want := range map[string]string{
		"activity.a.b": "a.b", "orders.paid": "orders.paid", "activity": "activity", "activity2.a": "activity2.a", `a"%ä`: "a%22%25%C3%A4",
	} {
		msg, err := p.message(publishWork(t, definition.PublishTask{}), definition.PublishTask{Subject: subject})
		if err != nil || msg.Header.Get("ce-type") != want {
			t.Errorf("%s: type %q, %v; want %s", subject, msg.Header.Get("ce-type"), err, want)
		}
	}
	// Definitions of earlier versions give the attributes themselves, and in any case.
	msg, err := p.message(publishWork(t, definition.PublishTask{}), definition.PublishTask{Subject: "activity.a",
		Headers: map[string]string{"Ce-Id": "mine", "ce-source": "me", "X-A": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	delete(msg.Header, "ce-time")
	want := nats.Header{"Ce-Id": {"mine"}, "ce-source": {"me"}, "X-A": {"b"}, "ce-specversion": {"1.0"}, "ce-type": {"a"},
		"Content-Type": {"application/json"}, "Nats-Msg-Id": {fakeRunID + ":tell"}}
	if !reflect.DeepEqual(msg.Header, want) {
		t.Errorf("headers %v, want %v", msg.Header, want)
	}
	for _, with := range []definition.PublishTask{
		{Subject: ""}, {Subject: "a.*"}, {Subject: "a.>"}, {Subject: "a..b"}, {Subject: ".a"}, {Subject: "a b"}, {Subject: "a\n"}, {Subject: "$JS.API"},
		{Subject: strings.Repeat("a", 256)}, {Subject: "a", Headers: map[string]string{"X": "a\r\nb"}},
	} {
		if _, err := p.message(publishWork(t, definition.PublishTask{}), with); !isPermanent(err) {
			t.Errorf("%q with %v: %v", with.Subject, with.Headers, err)
		}
	}
}
