package eventbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// filled is a stream with events, another subject's messages, and gaps. Its events are 2, 4, 5, 8, 9 and 11; 1, 6 and 10 are
// of the other subject; 3 and 7 are deleted.
func filled(t *testing.T) (*Bus, jetstream.Stream) {
	t.Helper()
	names, js := testenv.Names(t), jetStream(t)
	ours, other := names.SubjectPrefix+".a.b", names.SubjectPrefix+"-other"
	makeStream(t, js, names, jetstream.StreamConfig{Subjects: []string{names.SubjectPrefix + ".>", other}})
	for seq := 1; seq <= 11; seq++ {
		msg := &nats.Msg{Subject: ours, Data: fmt.Append(nil, seq)}
		if seq == 1 || seq == 6 || seq == 10 {
			msg.Subject = other
		}
		if seq == 4 {
			msg.Header = nats.Header{"ce-id": {"a", "b"}, "Status": {"404"}}
			msg.Data = nil
		}
		if _, err := js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := js.Stream(t.Context(), names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{3, 7} {
		if err := stream.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	return newBus(t, names, true, nil), stream
}

func TestRead(t *testing.T) {
	t.Parallel()
	b, stream := filled(t)
	read := func(from, to uint64, want ...uint64) {
		t.Helper()
		got, err := b.Read(t.Context(), from, to)
		if err != nil || !slices.Equal(sequences(got), want) {
			t.Errorf("from %d to %d: %v, %v, want %v", from, to, sequences(got), err, want)
		}
	}
	read(0, 100, 2, 4, 5, 8, 9, 11)
	read(1, 12, 2, 4, 5, 8, 9, 11)
	read(4, 9, 4, 5, 8)
	read(5, 5)
	read(9, 4)
	read(6, 8)
	read(7, 9, 8)
	read(12, 500)
	read(1<<60, 1<<60+300)
	got, err := b.Read(t.Context(), 4, 5)
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	stored, err := stream.GetMsg(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	d := got[0]
	if d.Subject != stored.Subject || fmt.Sprint(d.Header) != "map[Status:[404] ce-id:[a b]]" || len(d.Data) != 0 || d.Stream != b.o.Stream ||
		!d.PublishedAt.Equal(stored.Time) || d.Deliveries != 0 || d.Pending != 0 || d.Handle != nil {
		t.Errorf("read %+v", d)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(9)); err != nil {
		t.Fatal(err)
	}
	read(1, 12, 9, 11)
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	read(1, 12)
	// A great gap costs nothing.
	publish(t, jetStream(t), d.Subject, "late")
	read(1, 100, 12)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Read(ctx, 1, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	b, _ := filled(t)
	for seq, want := range map[uint64]string{0: "", 1: "", 2: "2", 3: "", 5: "5", 10: "", 11: "11", 12: ""} {
		d, ok, err := b.Get(t.Context(), seq)
		if err != nil || ok != (want != "") || string(d.Data) != want {
			t.Errorf("message %d: %q, %v, %v", seq, d.Data, ok, err)
		}
	}
	missing := newBus(t, testenv.Names(t), true, nil)
	for what, call := range map[string]func() error{
		"get":  func() error { _, _, err := missing.Get(t.Context(), 1); return err },
		"read": func() error { _, err := missing.Read(t.Context(), 1, 5); return err },
		"seq":  func() error { _, err := missing.SeqAt(t.Context(), time.Now()); return err },
	} {
		if err := call(); !errors.Is(err, jetstream.ErrStreamNotFound) || !strings.Contains(err.Error(), missing.o.Stream) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSeqAt(t *testing.T) {
	t.Parallel()
	b, stream := filled(t)
	at := func(when time.Time, want uint64) {
		t.Helper()
		got, err := b.SeqAt(t.Context(), when)
		if err != nil || got != want {
			t.Errorf("at %v: %d, %v, want %d", when, got, err, want)
		}
	}
	times := map[uint64]time.Time{}
	all, err := b.Read(t.Context(), 1, 12)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		times[d.StreamSeq] = d.PublishedAt
	}
	previous := definition.Delivery{}
	for _, d := range all {
		if !d.PublishedAt.After(previous.PublishedAt) {
			t.Fatalf("two messages of the same time: %v", d.PublishedAt)
		}
		at(d.PublishedAt, d.StreamSeq)
		at(previous.PublishedAt.Add(1), d.StreamSeq)
		at(d.PublishedAt.Add(-1), d.StreamSeq)
		previous = d
	}
	at(time.Time{}, 2)
	at(times[11].Add(1), 12)
	at(time.Now().Add(time.Hour), 12)
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(5)); err != nil {
		t.Fatal(err)
	}
	at(times[2], 5)
	at(times[5].Add(1), 8)
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	at(times[2], 1)
}

// TestSeqAtIsASearch: the number of questions grows with the logarithm of what is stored.
func TestSeqAtIsASearch(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	makeStream(t, js, names, jetstream.StreamConfig{})
	b := newBus(t, names, true, nil)
	for range 3000 {
		if _, err := js.PublishAsync(names.SubjectPrefix+".a", nil, jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	d, ok, err := b.Get(t.Context(), 1777)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	before := b.o.Conn.Stats().OutMsgs
	got, err := b.SeqAt(t.Context(), d.PublishedAt)
	if err != nil {
		t.Fatal(err)
	}
	if asked := b.o.Conn.Stats().OutMsgs - before; asked > 14 {
		t.Errorf("%d questions", asked)
	}
	// Some messages may have the very same time.
	if first, _, err := b.Get(t.Context(), got); err != nil || !first.PublishedAt.Equal(d.PublishedAt) || got > 1777 {
		t.Errorf("found %d of %v, want 1777 of %v, %v", got, first.PublishedAt, d.PublishedAt, err)
	}
	if prev, _, err := b.Get(t.Context(), got-1); err != nil || !prev.PublishedAt.Before(d.PublishedAt) {
		t.Errorf("the message before is of %v, %v", prev.PublishedAt, err)
	}
}

// TestUnreadableHeaders: the server stores headers that no client can read. The message is one without headers.
func TestUnreadableHeaders(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	makeStream(t, js, names, jetstream.StreamConfig{})
	b := newBus(t, names, true, nil)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(testenv.Stack(t).NATSURL, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const header = "NATS/1.0\r\nno colon\r\n\r\n"
	_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true}\r\nHPUB %s.a %d %d\r\n%sx\r\n",
		names.SubjectPrefix, len(header), len(header)+1, header)
	if err != nil {
		t.Fatal(err)
	}
	got := fetchAll(t, b, 1)
	read, ok, err := b.Get(t.Context(), 1)
	if err != nil || !ok || read.Header != nil || got[0].Header != nil || string(read.Data) != "x" || string(got[0].Data) != "x" {
		t.Errorf("fetched %+v, read %+v, %v", got[0], read, err)
	}
	settleAll(t, got, definition.OutcomeDead)
}
