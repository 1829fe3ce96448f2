package execution

import (
	"context"
	"encoding/json"
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
