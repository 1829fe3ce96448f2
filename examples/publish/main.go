// Command publish sends one event to activity-core, the way a publisher should: on the subject of its type, with the
// event's id as JetStream's message id, waiting for JetStream's acknowledgement.
//
//	go run ./examples/publish user.created '{"tier": "pro"}'
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	if len(os.Args) < 2 || len(os.Args) > 4 {
		fmt.Fprintln(os.Stderr, "usage: publish TYPE [PAYLOAD [EVENT-ID]]")
		os.Exit(2)
	}
	args := append(os.Args[1:], "", "")
	if err := publish(args[0], cmp.Or(args[1], "{}"), cmp.Or(args[2], uuid.NewString())); err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1)
	}
}

func publish(eventType, payload, id string) error {
	body, err := json.Marshal(map[string]any{
		"event_id": id, "type": eventType, "source": "examples/publish", "occurred_at": time.Now().UTC(),
		"payload": json.RawMessage(payload),
	})
	if err != nil {
		return fmt.Errorf("the payload is not JSON: %w", err)
	}
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL))
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ack, err := js.Publish(ctx, "activity."+eventType, body, jetstream.WithMsgID(id), jetstream.WithExpectStream("ACTIVITY_EVENTS"))
	if err != nil {
		return fmt.Errorf("publish event %s: %w", id, err)
	}
	fmt.Printf("event %s is message %d of %s (duplicate: %v)\n", id, ack.Sequence, ack.Stream, ack.Duplicate)
	return nil
}
