package system

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/testenv"
)

// MakeStream makes the stream and the routers' consumer before a router does, with a shorter duplicate window and a shorter
// wait for acknowledgements than theirs.
func (s *System) MakeStream(duplicates, ackWait time.Duration) {
	s.T.Helper()
	subjects := s.Names.SubjectPrefix + ".>"
	_, err := s.JS.CreateStream(s.T.Context(), jetstream.StreamConfig{
		Name: s.Names.Stream, Subjects: []string{subjects}, Storage: jetstream.FileStorage, Duplicates: duplicates,
		MaxAge: time.Hour,
	})
	if err != nil {
		s.T.Fatalf("make the stream: %v", err)
	}
	_, err = s.JS.CreateConsumer(s.T.Context(), s.Names.Stream, jetstream.ConsumerConfig{
		Durable: s.Names.Durable, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 2000,
		MaxDeliver: -1, FilterSubject: subjects,
	})
	if err != nil {
		s.T.Fatalf("make the consumer: %v", err)
	}
}

// Routed waits until the routers have acknowledged every message.
func (s *System) Routed(timeout time.Duration) {
	s.T.Helper()
	testenv.Eventually(s.T, timeout, "every message is acknowledged", func(ctx context.Context) (bool, error) {
		consumer, err := s.JS.Consumer(ctx, s.Names.Stream, s.Names.Durable)
		if err != nil {
			return false, nil // the deadline judges
		}
		info := consumer.CachedInfo()
		return info.NumPending == 0 && info.NumAckPending == 0, nil
	})
}

// Delivered returns how many messages the stream holds, and how often one was delivered to a router.
func (s *System) Delivered() (stored, delivered int) {
	s.T.Helper()
	stream, err := s.JS.Stream(s.T.Context(), s.Names.Stream)
	if err != nil {
		s.T.Fatal(err)
	}
	consumer, err := stream.Consumer(s.T.Context(), s.Names.Durable)
	if err != nil {
		s.T.Fatal(err)
	}
	return int(stream.CachedInfo().State.Msgs), int(consumer.CachedInfo().Delivered.Consumer)
}
