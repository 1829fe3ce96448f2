package eventbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

func newBus(t *testing.T, names config.Names, manage bool, log *slog.Logger) *Bus {
	t.Helper()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b, err := New(Options{Conn: testenv.NATS(t), Stream: names.Stream, SubjectPrefix: names.SubjectPrefix, Durable: names.Durable, Manage: manage, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func publish(t *testing.T, js jetstream.JetStream, subject, data string) {
	t.Helper()
	if _, err := js.Publish(t.Context(), subject, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// fetchAll fetches until n deliveries came.
func fetchAll(t *testing.T, b *Bus, n int) []definition.Delivery {
	t.Helper()
	var all []definition.Delivery
	testenv.Eventually(t, 20*time.Second, fmt.Sprintf("%d deliveries", n), func(context.Context) (bool, error) {
		got, err := b.Fetch()
		all = append(all, got...)
		return len(all) >= n, err
	})
	return all
}

func TestOpenMakesWhatIsMissing(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	first, second := newBus(t, names, true, nil), newBus(t, names, true, nil)
	// Two routers that start at once.
	errs := make(chan error, 2)
	for _, b := range []*Bus{first, second} {
		go func() { errs <- b.Open(t.Context()) }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	stream, err := js.Stream(t.Context(), names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	s := stream.CachedInfo().Config
	if fmt.Sprint(s.Subjects) != "["+names.SubjectPrefix+".>]" || s.Storage != jetstream.FileStorage || s.Retention != jetstream.LimitsPolicy ||
		s.Discard != jetstream.DiscardOld || s.MaxAge != DefaultMaxAge || s.Duplicates != DefaultDuplicates || !s.DenyDelete || s.MaxMsgSize != -1 {
		t.Errorf("stream %+v", s)
	}
	consumer, err := js.Consumer(t.Context(), names.Stream, names.Durable)
	if err != nil {
		t.Fatal(err)
	}
	c := consumer.CachedInfo().Config
	if c.Durable != names.Durable || c.AckPolicy != jetstream.AckExplicitPolicy || c.DeliverPolicy != jetstream.DeliverAllPolicy ||
		c.AckWait != DefaultAckWait || c.MaxDeliver != -1 || c.MaxAckPending != DefaultMaxAckPending || len(c.BackOff) != 0 {
		t.Errorf("consumer %+v", c)
	}
	if err := first.Check(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

func TestOpenLeavesSettingsAlone(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: names.Stream, Subjects: []string{"x" + names.SubjectPrefix, names.SubjectPrefix + ".>"},
		MaxAge: time.Hour, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateConsumer(t.Context(), names.Stream, jetstream.ConsumerConfig{Durable: names.Durable, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: 7 * time.Second, MaxAckPending: 9, MaxDeliver: 3, FilterSubject: names.SubjectPrefix + ".user.>"})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b := newBus(t, names, true, slog.New(slog.NewTextHandler(&log, nil)))
	for range 2 {
		if err := b.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	consumer, err := js.Consumer(t.Context(), names.Stream, names.Durable)
	if err != nil {
		t.Fatal(err)
	}
	if c := consumer.CachedInfo().Config; c.AckWait != 7*time.Second || c.MaxAckPending != 9 || b.AckWait() != 7*time.Second {
		t.Errorf("consumer %+v", c)
	}
	if text := log.String(); strings.Count(text, "settings that can hide events") != 1 || !strings.Contains(text, "max_deliver is 3") ||
		!strings.Contains(text, "hides some of") {
		t.Errorf("log: %s", text)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	stream := func(t *testing.T, js jetstream.JetStream, n config.Names, subjects ...string) {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: n.Stream, Subjects: subjects, MaxAge: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		manage bool
		setup  func(t *testing.T, js jetstream.JetStream, n config.Names)
		want   string
	}{
		{"no stream", false, func(*testing.T, jetstream.JetStream, config.Names) {}, "stream <stream> does not exist: make it, or set ACTCORE_MANAGE_STREAM=true"},
		{"no consumer", false, func(t *testing.T, js jetstream.JetStream, n config.Names) { stream(t, js, n, n.SubjectPrefix+".>") },
			"consumer <durable> of stream <stream> does not exist: make it, or set ACTCORE_MANAGE_STREAM=true"},
		{"other subjects", true, func(t *testing.T, js jetstream.JetStream, n config.Names) {
			stream(t, js, n, n.SubjectPrefix+".user.>")
		},
			"stream <stream> takes the subjects <prefix>.user.>, but not <prefix>.>"},
		{"other subjects, not managed", false, func(t *testing.T, js jetstream.JetStream, n config.Names) {
			stream(t, js, n, n.SubjectPrefix+".user.>")
		},
			"but not <prefix>.>"},
		{"subjects of another stream", true, func(t *testing.T, js jetstream.JetStream, n config.Names) {
			other := n
			other.Stream = testenv.Names(t).Stream
			stream(t, js, other, n.SubjectPrefix+".>")
		}, "its subjects <prefix>.> belong to another stream already"},
		{"push consumer", true, func(t *testing.T, js jetstream.JetStream, n config.Names) {
			stream(t, js, n, n.SubjectPrefix+".>")
			_, err := js.CreatePushConsumer(t.Context(), n.Stream, jetstream.ConsumerConfig{Durable: n.Durable, DeliverSubject: n.SubjectPrefix + "-push", AckPolicy: jetstream.AckExplicitPolicy})
			if err != nil {
				t.Fatal(err)
			}
		}, "is a push consumer"},
		{"no acknowledgements", true, func(t *testing.T, js jetstream.JetStream, n config.Names) {
			stream(t, js, n, n.SubjectPrefix+".>")
			if _, err := js.CreateConsumer(t.Context(), n.Stream, jetstream.ConsumerConfig{Durable: n.Durable, AckPolicy: jetstream.AckNonePolicy}); err != nil {
				t.Fatal(err)
			}
		}, "but must have explicit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			names, js := testenv.Names(t), jetStream(t)
			c.setup(t, js, names)
			b := newBus(t, names, c.manage, nil)
			want := strings.NewReplacer("<stream>", names.Stream, "<durable>", names.Durable, "<prefix>", names.SubjectPrefix).Replace(c.want)
			if err := b.Open(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("open: %v\nwant %s", err, want)
			}
			if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("readiness says %v\nwant %s", err, want)
			}
			if _, err := b.Fetch(); !errors.Is(err, ErrNotOpen) {
				t.Errorf("fetch: %v", err)
			}
			if c.manage {
				return
			}
			// Nothing was made.
			if _, err := js.Consumer(t.Context(), names.Stream, names.Durable); err == nil {
				t.Error("the consumer was made")
			}
		})
	}
}

func TestCheckAgeLimit(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	settings := jetstream.StreamConfig{Name: names.Stream, Subjects: []string{names.SubjectPrefix + ".>"}}
	if _, err := js.CreateStream(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	b := newBus(t, names, true, nil)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "keeps events for ever: give it an age limit") {
		t.Errorf("readiness says %v", err)
	}
	settings.MaxAge = time.Hour
	if _, err := js.UpdateStream(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context()); err != nil {
		t.Errorf("readiness says %v", err)
	}
}

func TestFetchAndSettle(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	b := newBus(t, names, true, nil)
	b.o.AckWait = time.Second
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Fetch(); err != nil || len(got) != 0 {
		t.Fatalf("an empty stream gave %d deliveries, %v", len(got), err)
	}
	watch, err := testenv.NATS(t).SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED." + names.Stream + ".>")
	if err != nil {
		t.Fatal(err)
	}
	if err := testenv.NATS(t).Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		publish(t, js, names.SubjectPrefix+".a", fmt.Sprint(i))
	}
	got := fetchAll(t, b, 4)
	for i, d := range got {
		if string(d.Data) != fmt.Sprint(i) || d.Subject != names.SubjectPrefix+".a" || d.Stream != names.Stream || d.StreamSeq != uint64(i+1) ||
			d.Deliveries != 1 || time.Since(d.PublishedAt).Abs() > time.Minute {
			t.Errorf("delivery %d: %+v", i, d)
		}
	}
	settle := func(d definition.Delivery, o definition.Outcome) {
		if err := d.Handle.Settle(o, "not_json"); err != nil {
			t.Error(err)
		}
	}
	settle(got[0], definition.OutcomeUnmatched)
	settle(got[1], definition.OutcomeRouted)
	settle(got[2], definition.OutcomeDead)
	settle(got[3], definition.OutcomeHeld)
	// Only the one that is held comes again.
	again := fetchAll(t, b, 1)
	if len(again) != 1 || again[0].StreamSeq != 4 || again[0].Deliveries != 2 {
		t.Errorf("delivered again: %+v", again)
	}
	settle(again[0], definition.OutcomeRouted)
	if msg, err := watch.NextMsg(5 * time.Second); err != nil || !strings.Contains(string(msg.Data), "not_json") {
		t.Errorf("advisory of the end of a message: %v", err)
	}
	testenv.Eventually(t, 5*time.Second, "nothing is left", func(ctx context.Context) (bool, error) {
		c, err := js.Consumer(ctx, names.Stream, names.Durable)
		if err != nil {
			return false, err
		}
		i := c.CachedInfo()
		return i.NumAckPending == 0 && i.NumPending == 0, nil
	})
}

func TestHeldDeliveryDoesNotComeAgain(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	b := newBus(t, names, true, nil)
	b.o.AckWait = time.Second
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, js, names.SubjectPrefix+".a", "x")
	d := fetchAll(t, b, 1)[0]
	stop := time.Now().Add(3 * time.Second)
	for time.Now().Before(stop) {
		if err := d.Handle.Settle(definition.OutcomeHeld, ""); err != nil {
			t.Fatal(err)
		}
		batch, err := b.consumer.Load().Consumer.Fetch(1, jetstream.FetchMaxWait(300*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		for range batch.Messages() {
			t.Fatal("it came again while it was held")
		}
	}
}

// TestConsumerDeleted: fetching says so, and opening again makes a new one, which starts from the first message.
func TestConsumerDeleted(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	b := newBus(t, names, true, nil)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, js, names.SubjectPrefix+".a", "x")
	d := fetchAll(t, b, 1)[0]
	if err := d.Handle.Settle(definition.OutcomeRouted, ""); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), names.Stream, names.Durable); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, "an error", func(context.Context) (bool, error) {
		_, err := b.Fetch()
		return err != nil, nil
	})
	if err := b.Check(t.Context()); err == nil {
		t.Error("ready without a consumer")
	}
	reopen(t, b)
	if again := fetchAll(t, b, 1); string(again[0].Data) != "x" {
		t.Errorf("got %+v", again)
	}
}

// reopen opens a bus whose consumer was deleted. For a moment the server may be unable to make one of the same name, because it is
// still removing the folder of the old one; whoever uses a bus tries again anyway.
func reopen(t *testing.T, b *Bus) {
	t.Helper()
	testenv.Eventually(t, 10*time.Second, "the bus is open again", func(ctx context.Context) (bool, error) { return b.Open(ctx) == nil, nil })
}

func TestConnect(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	// A server that is away is no error, and is told by readiness.
	nc, err := Connect(ConnectOptions{URL: "nats://127.0.0.1:1", Name: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer Close(nc)
	b, err := New(Options{Conn: nc, Stream: "S", SubjectPrefix: "p", Durable: "d", Manage: true, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "not connected to NATS (NATS_URL)") {
		t.Errorf("open: %v", err)
	}
	if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "not connected to NATS (NATS_URL)") {
		t.Errorf("readiness: %v", err)
	}
	if _, err := Connect(ConnectOptions{URL: "nats://127.0.0.1:1", Creds: "/does/not/exist", Name: "test", Log: log}); err == nil {
		t.Error("a missing credentials file is no error")
	}
	live, err := Connect(ConnectOptions{URL: testenv.Stack(t).NATSURL, Name: "test", Log: log})
	if err != nil || !live.IsConnected() {
		t.Fatalf("connect: %v", err)
	}
	Close(live)
}

func TestDecide(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		outcome definition.Outcome
		want    Action
	}{
		{definition.OutcomeHeld, InProgress},
		{definition.OutcomeUnmatched, Ack},
		{definition.OutcomeRouted, Ack},
		{definition.OutcomeDead, Term},
		{definition.Outcome(-1), InProgress},
		{definition.Outcome(99), InProgress},
	} {
		if got := Decide(c.outcome); got != c.want {
			t.Errorf("outcome %d: action %d, want %d", c.outcome, got, c.want)
		}
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, other string
		want           bool
	}{
		{"activity.>", "activity.>", true},
		{">", "activity.>", true},
		{"*.>", "activity.>", true},
		{"a.*.>", "a.b.>", true},
		{"a.>", "a.b.>", true},
		{"activity.*", "activity.>", false},
		{"activity.user.>", "activity.>", false},
		{"activity", "activity.>", false},
		{"other.>", "activity.>", false},
		{"a.b.>", "a.>", false},
		{"a.*", "a.b", true},
		{"a.b", "a.*", false},
		{"a.b", "a.b", true},
		{"a.b.c", "a.b", false},
		{"a.>", "a", false},
	} {
		if got := covers(c.pattern, c.other); got != c.want {
			t.Errorf("%s covers %s: %v", c.pattern, c.other, got)
		}
	}
}

func TestNextSize(t *testing.T) {
	t.Parallel()
	of := func(n, size int) []definition.Delivery {
		out := make([]definition.Delivery, n)
		for i := range out {
			out[i].Data = make([]byte, size)
		}
		return out
	}
	for _, c := range []struct {
		name       string
		size, want int
		got        []definition.Delivery
	}{
		{"nothing came", 50, 50, nil},
		{"not full", 50, 50, of(49, 100)},
		{"full", 50, 100, of(50, 100)},
		{"full, at the limit", 400, maxFetch, of(400, 100)},
		{"large ones", 500, 32, of(3, 1<<20)},
		{"small again", 32, 64, of(32, 10)},
		{"empty ones", 10, 20, of(10, 0)},
		{"more than fits", 5, 1, of(1, 64<<20)},
	} {
		if got := nextSize(c.size, c.got); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	full := Options{Conn: testenv.NATS(t), Stream: "S", SubjectPrefix: "p", Durable: "d", Log: slog.New(slog.DiscardHandler)}
	for name, remove := range map[string]func(*Options){
		"Conn": func(o *Options) { o.Conn = nil }, "Stream": func(o *Options) { o.Stream = "" }, "SubjectPrefix": func(o *Options) { o.SubjectPrefix = "" },
		"Durable": func(o *Options) { o.Durable = "" }, "Log": func(o *Options) { o.Log = nil },
	} {
		o := full
		remove(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name+" is missing") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
