package eventbus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

func look(t *testing.T, b *Bus) definition.StreamState {
	t.Helper()
	s, err := b.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestLook: a stream that keeps ten messages loses some that nobody was given.
func TestLook(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		stream jetstream.StreamConfig
	}{
		{"by number", jetstream.StreamConfig{MaxMsgs: 10}},
		{"by bytes", jetstream.StreamConfig{MaxBytes: 10_000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			names, js := testenv.Names(t), jetStream(t)
			c.stream.Discard, c.stream.MaxAge = jetstream.DiscardOld, time.Hour
			makeStream(t, js, names, c.stream)
			b := newBus(t, names, true, nil)
			if err := b.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			// Each takes a little less than a thousand bytes of the limit, so that ten of them are the most that fit.
			data := strings.Repeat("x", 960-len(names.SubjectPrefix))
			send := func(n int) {
				for range n {
					publish(t, js, names.SubjectPrefix+".a", data)
				}
			}
			if s := look(t, b); s.Risk != 0 || s.Dropped != 0 || s.Blind || s.Pending != 0 || !s.Known || s.MaxAge != time.Hour {
				t.Errorf("empty: %+v", s)
			}
			send(4)
			if s := look(t, b); math.Abs(s.Risk-0.4) > 0.02 || s.Dropped != 0 || s.Pending != 4 || s.Delivered != 0 || s.First != 1 {
				t.Errorf("four to be delivered: %+v", s)
			}
			got := fetchAll(t, b, 4)
			settleAll(t, got[:2], definition.OutcomeRouted)
			testenv.Eventually(t, 5*time.Second, "two are settled", func(context.Context) (bool, error) { return look(t, b).AckPending == 2, nil })
			if s := look(t, b); s.Risk != 0 || s.Pending != 0 || s.Delivered != 4 || s.AckFloor != 2 {
				t.Errorf("all delivered: %+v", s)
			}
			// Old messages make room: nothing is lost, although the stream is full.
			send(7)
			if s := look(t, b); s.Dropped != 0 || math.Abs(s.Risk-0.7) > 0.02 || s.First != 2 || s.Pending != 7 {
				t.Errorf("full: %+v", s)
			}
			// 5 to 17 were not delivered, 8 to 17 are left.
			send(6)
			if s := look(t, b); s.Dropped != 3 || s.Risk < 0.95 || s.Risk > 1 || s.First != 8 || s.Delivered != 4 {
				t.Errorf("three were dropped: %+v", s)
			}
			settleAll(t, append(got[2:], fetchAll(t, b, 10)...), definition.OutcomeRouted)
			if s := look(t, b); s.Dropped != 0 || s.Risk != 0 || s.Delivered != 17 {
				t.Errorf("passed: %+v", s)
			}
		})
	}
}

func TestLookAfterPurge(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	makeStream(t, js, names, jetstream.StreamConfig{MaxMsgs: 10})
	b := newBus(t, names, true, nil)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		publish(t, js, names.SubjectPrefix+".a", "x")
	}
	stream, err := js.Stream(t.Context(), names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := look(t, b); s.Dropped != 0 || s.Risk != 0 || s.Pending != 0 {
		t.Errorf("a purge is the operator's will: %+v", s)
	}
}

// TestLookAmongOthers: where other subjects share the stream, what retention took may have been theirs.
func TestLookAmongOthers(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	makeStream(t, js, names, jetstream.StreamConfig{MaxMsgs: 2, Subjects: []string{names.SubjectPrefix + ".>", names.SubjectPrefix + "-other"}})
	b := newBus(t, names, true, nil)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		publish(t, js, names.SubjectPrefix+".a", "x")
	}
	if s := look(t, b); s.Dropped != 0 || s.Risk != 1 || s.First != 4 {
		t.Errorf("%+v", s)
	}
	// What is still to come to nobody is no risk.
	settleAll(t, fetchAll(t, b, 2), definition.OutcomeRouted)
	publish(t, js, names.SubjectPrefix+"-other", "x")
	if s := look(t, b); s.Risk != 0 || s.Pending != 0 {
		t.Errorf("%+v", s)
	}
}

// TestLookAtAge: how old the next message is, not how old the stream is.
func TestLookAtAge(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	makeStream(t, js, names, jetstream.StreamConfig{MaxAge: time.Hour})
	b := newBus(t, names, true, nil)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, js, names.SubjectPrefix+".a", "x")
	fetchAll(t, b, 1)
	publish(t, js, names.SubjectPrefix+".a", "x")
	d, ok, err := b.Get(t.Context(), 2)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	s := look(t, b)
	if want := float64(time.Since(d.PublishedAt)) / float64(time.Hour); s.Risk <= 0 || s.Risk > want {
		t.Errorf("risk %v, want up to %v", s.Risk, want)
	}
	if _, err := newBus(t, names, true, nil).Look(t.Context()); !errors.Is(err, ErrNotOpen) {
		t.Errorf("before Open: %v", err)
	}
}

func TestRisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		config    jetstream.StreamConfig
		state     jetstream.StreamState
		delivered uint64
		age       time.Duration
		want      float64
	}{
		{"no limits", jetstream.StreamConfig{MaxMsgs: -1, MaxBytes: -1}, jetstream.StreamState{Msgs: 9, Bytes: 9, LastSeq: 9}, 0, time.Hour, 0},
		{"age", jetstream.StreamConfig{MaxAge: 10 * time.Hour}, jetstream.StreamState{Msgs: 9, LastSeq: 9}, 0, time.Hour, 0.1},
		{"too old", jetstream.StreamConfig{MaxAge: time.Minute}, jetstream.StreamState{Msgs: 9, LastSeq: 9}, 0, time.Hour, 1},
		{"messages", jetstream.StreamConfig{MaxMsgs: 100}, jetstream.StreamState{Msgs: 100, LastSeq: 1000}, 950, 0, 0.5},
		{"dropped ones do not count", jetstream.StreamConfig{MaxMsgs: 100}, jetstream.StreamState{Msgs: 10, LastSeq: 1000}, 0, 0, 0.1},
		{"bytes", jetstream.StreamConfig{MaxBytes: 1000}, jetstream.StreamState{Msgs: 100, Bytes: 1000, LastSeq: 1000}, 980, 0, 0.2},
		{"the largest", jetstream.StreamConfig{MaxBytes: 1000, MaxMsgs: 1000, MaxAge: 5 * time.Hour},
			jetstream.StreamState{Msgs: 100, Bytes: 100, LastSeq: 100}, 0, 2 * time.Hour, 0.4},
		{"delivered since", jetstream.StreamConfig{MaxMsgs: 100}, jetstream.StreamState{Msgs: 10, LastSeq: 10}, 12, 0, 0},
		{"an empty stream", jetstream.StreamConfig{MaxBytes: 100}, jetstream.StreamState{LastSeq: 10}, 2, 0, 0},
		{"a clock ahead of ours", jetstream.StreamConfig{MaxAge: time.Hour}, jetstream.StreamState{}, 0, -time.Minute, 0},
	} {
		if got := risk(c.config, c.state, c.delivered, c.age); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSees(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config jetstream.ConsumerConfig
		want   bool
	}{
		{jetstream.ConsumerConfig{}, true},
		{jetstream.ConsumerConfig{FilterSubject: "p.>"}, true},
		{jetstream.ConsumerConfig{FilterSubject: "p.a.>"}, false},
		{jetstream.ConsumerConfig{FilterSubjects: []string{"q.>", "p.>"}}, true},
		{jetstream.ConsumerConfig{FilterSubjects: []string{"p.a", "p.b"}}, false},
	} {
		if got := sees(c.config, "p"); got != c.want {
			t.Errorf("%s: %v", fmt.Sprint(c.config.FilterSubject, c.config.FilterSubjects), got)
		}
	}
}
