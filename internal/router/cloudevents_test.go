package router_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestCloudEventModes: the same event starts the same run in whichever mode it comes, with the trace id of the message.
func TestCloudEventModes(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.define(t, "paid", "order.paid", `{"amount":10}`)
	s.start(t)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	parent := []string{"00-" + trace + "-b7ad6b7169203331-01"}
	for _, m := range []nats.Msg{
		{Data: []byte(`{"amount": 10}`), Header: nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"binary"}, "ce-source": {"/shop"},
			"ce-type": {"order.paid"}, "Content-Type": {"application/json"}, "Traceparent": parent}},
		{Data: []byte(`{"specversion":"1.0","id":"structured","source":"/shop","type":"order.paid","data":{"amount": 10}}`),
			Header: nats.Header{"Content-Type": {"application/cloudevents+json"}, "traceparent": parent}},
		{Data: []byte(`{"event_id":"envelope","source":"/shop","type":"order.paid","trace_id":"` + trace + `","payload":{"amount": 10}}`)},
	} {
		m.Subject = s.names.SubjectPrefix + ".order.paid"
		if _, err := s.js.PublishMsg(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
	}
	s.settled(t)
	got := s.column(t, `SELECT concat(event_id, ' ', event_type, ' ', trace_id) FROM runs ORDER BY event_id`)
	want := []string{"binary order.paid " + trace, "envelope order.paid " + trace, "structured order.paid " + trace}
	if !slices.Equal(got, want) {
		t.Errorf("runs %v, want %v; dead letters %v", got, want, s.column(t, `SELECT detail FROM dead_letters`))
	}
}
