package eventbus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// openWith returns a Bus on a stream and a consumer that were made with these settings of the consumer's.
func openWith(t *testing.T, names config.Names, js jetstream.JetStream, settings jetstream.ConsumerConfig) *Bus {
	t.Helper()
	makeStream(t, js, names, jetstream.StreamConfig{})
	settings.Durable, settings.AckPolicy = names.Durable, jetstream.AckExplicitPolicy
	if _, err := js.CreateConsumer(t.Context(), names.Stream, settings); err != nil {
		t.Fatal(err)
	}
	b := newBus(t, names, false, nil)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func makeStream(t *testing.T, js jetstream.JetStream, names config.Names, settings jetstream.StreamConfig) {
	t.Helper()
	settings.Name, settings.Storage = names.Stream, jetstream.MemoryStorage
	if settings.Subjects == nil {
		settings.Subjects = []string{names.SubjectPrefix + ".>"}
	}
	if _, err := js.CreateStream(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
}

func consumerInfo(t *testing.T, js jetstream.JetStream, names config.Names) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := js.Consumer(t.Context(), names.Stream, names.Durable)
	if err != nil {
		t.Fatal(err)
	}
	return c.CachedInfo()
}

// awaitPull waits until the server holds pulls.
func awaitPull(t *testing.T, js jetstream.JetStream, names config.Names, n int) {
	t.Helper()
	testenv.Eventually(t, 10*time.Second, "a pull waits", func(context.Context) (bool, error) {
		return consumerInfo(t, js, names).NumWaiting == n, nil
	})
}

func sequences(deliveries []definition.Delivery) []uint64 {
	var out []uint64
	for _, d := range deliveries {
		out = append(out, d.StreamSeq)
	}
	return out
}

func settleAll(t *testing.T, deliveries []definition.Delivery, o definition.Outcome) {
	t.Helper()
	for _, d := range deliveries {
		if err := d.Handle.Settle(o, "why"); err != nil {
			t.Fatal(err)
		}
	}
}

// fetchAndOpen fetches until n deliveries came, as the router does: after an error it opens the bus again.
func fetchAndOpen(t *testing.T, b *Bus, n int) []definition.Delivery {
	t.Helper()
	var all []definition.Delivery
	testenv.Eventually(t, time.Minute, fmt.Sprintf("%d deliveries", n), func(ctx context.Context) (bool, error) {
		got, err := b.Fetch()
		all = append(all, got...)
		if err != nil {
			_ = b.Open(ctx)
		}
		return len(all) >= n, nil
	})
	return all
}

// TestStatusHeader: a publisher's empty message with the header by which the server speaks of a pull is a message.
func TestStatusHeader(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	b := openWith(t, names, js, jetstream.ConsumerConfig{})
	var want []nats.Header
	for _, status := range []string{"100", "400", "404", "408", "409", "503", "", "other"} {
		h := nats.Header{"Status": {status}, "Description": {"Consumer Deleted"}}
		want = append(want, h)
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: names.SubjectPrefix + ".a", Header: h}); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, js, names.SubjectPrefix+".a", "x")
	want = append(want, nil)
	got := fetchAll(t, b, len(want))
	for i, d := range got {
		if fmt.Sprint(d.Header) != fmt.Sprint(map[string][]string(want[i])) || d.StreamSeq != uint64(i+1) || d.Deliveries != 1 {
			t.Errorf("delivery %d: %+v, want the headers %v", i, d, want[i])
		}
	}
	if got[len(got)-1].Header != nil {
		t.Error("a message without headers has some")
	}
	settleAll(t, got[:4], definition.OutcomeDead)
	settleAll(t, got[4:], definition.OutcomeRouted)
	testenv.Eventually(t, 5*time.Second, "all are acknowledged", func(context.Context) (bool, error) {
		i := consumerInfo(t, js, names)
		return i.NumAckPending == 0 && i.NumPending == 0, nil
	})
}

// TestFetchEachOnce: two routers share many messages, and each message comes to one of them, once.
func TestFetchEachOnce(t *testing.T) {
	t.Parallel()
	const n = 50_000
	names, js := testenv.Names(t), jetStream(t)
	first := openWith(t, names, js, jetstream.ConsumerConfig{MaxAckPending: DefaultMaxAckPending})
	second := newBus(t, names, false, nil)
	if err := second.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	var (
		mu    sync.Mutex
		count [n + 1]int
		total int
	)
	var routers sync.WaitGroup
	t.Cleanup(routers.Wait)
	for _, b := range []*Bus{first, second} {
		routers.Go(func() {
			for t.Context().Err() == nil {
				got, err := b.Fetch()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, d := range got {
					count[d.StreamSeq]++
				}
				total += len(got)
				done := total >= n
				mu.Unlock()
				for _, d := range got {
					if err := d.Handle.Settle(definition.OutcomeRouted, ""); err != nil {
						t.Error(err)
					}
				}
				if done {
					return
				}
			}
		})
	}
	for range n {
		if _, err := js.PublishAsync(names.SubjectPrefix+".a", nil, jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	routers.Wait()
	if total != n {
		t.Errorf("%d deliveries, want %d", total, n)
	}
	for seq := 1; seq <= n; seq++ {
		if count[seq] != 1 {
			t.Fatalf("message %d was delivered %d times", seq, count[seq])
		}
	}
}

// TestLateMessages: at the limit of unacknowledged messages a pull pauses. It is given up, and what it brings later belongs
// to the next fetch.
func TestLateMessages(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	b := openWith(t, names, js, jetstream.ConsumerConfig{MaxAckPending: 3})
	for range 5 {
		publish(t, js, names.SubjectPrefix+".a", "x")
	}
	began := time.Now()
	got, err := b.Fetch()
	if err != nil || !slices.Equal(sequences(got), []uint64{1, 2, 3}) {
		t.Fatalf("fetched %v, %v", sequences(got), err)
	}
	if took := time.Since(began); took >= idleWait {
		t.Errorf("the pull was waited for until its end: %v", took)
	}
	settleAll(t, got, definition.OutcomeRouted)
	testenv.Eventually(t, 5*time.Second, "the pull brings the others, and ends", func(context.Context) (bool, error) {
		return len(b.inbox.messages) == 3, nil
	})
	got, err = b.Fetch()
	if err != nil || !slices.Equal(sequences(got), []uint64{4, 5}) || got[0].Deliveries != 1 || got[1].Deliveries != 1 {
		t.Fatalf("fetched %+v, %v", got, err)
	}
	settleAll(t, got, definition.OutcomeRouted)
	// One message of the pull before counts for the next one, and nothing is lost by that.
	request, err := json.Marshal(pull{Batch: 1, Expires: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.o.Conn.PublishRequest(subjectNext+names.Stream+"."+names.Durable, b.inbox.prefix+".0", request); err != nil {
		t.Fatal(err)
	}
	awaitPull(t, js, names, 1)
	for range 3 {
		publish(t, js, names.SubjectPrefix+".a", "x")
	}
	if all := fetchAll(t, b, 3); !slices.Equal(sequences(all), []uint64{6, 7, 8}) {
		t.Errorf("fetched %v", sequences(all))
	}
}

// TestWordsOfEarlierPulls: they are not taken for words about this one.
func TestWordsOfEarlierPulls(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	b := openWith(t, names, js, jetstream.ConsumerConfig{})
	publish(t, js, names.SubjectPrefix+".a", "x")
	for _, status := range []string{"404", "409", "503"} {
		b.inbox.messages <- &nats.Msg{Subject: b.inbox.prefix + ".0", Header: nats.Header{"Status": {status}}, Sub: b.inbox.sub}
	}
	got, err := b.pull(pull{Batch: 1, Expires: idleWait, Heartbeat: idleHeartbeat})
	if err != nil || !slices.Equal(sequences(got), []uint64{1}) {
		t.Errorf("fetched %v, %v", sequences(got), err)
	}
}

// TestFetchWaitsBehindOthers: a pull that the server sends back at once, because others wait longer, is followed by one that
// waits.
func TestFetchWaitsBehindOthers(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	b := openWith(t, names, js, jetstream.ConsumerConfig{MaxAckPending: 1})
	c, err := js.Consumer(t.Context(), names.Stream, names.Durable)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(500, jetstream.FetchMaxWait(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		publish(t, js, names.SubjectPrefix+".a", "x")
	}
	<-batch.Messages()
	began := time.Now()
	if got, err := b.Fetch(); err != nil || len(got) != 0 {
		t.Errorf("fetched %v, %v", sequences(got), err)
	}
	if took := time.Since(began); took < idleWait/2 {
		t.Errorf("the fetch came back after %v", took)
	}
}

func TestFetchKeepsTheConsumersLimits(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	b := openWith(t, names, js, jetstream.ConsumerConfig{MaxRequestBatch: 7, MaxRequestExpires: time.Second})
	if got, err := b.Fetch(); err != nil || len(got) != 0 {
		t.Fatalf("fetched %v, %v", sequences(got), err)
	}
	for range 20 {
		publish(t, js, names.SubjectPrefix+".a", "x")
	}
	for _, want := range []int{7, 7, 6} {
		if got, err := b.Fetch(); err != nil || len(got) != want {
			t.Errorf("fetched %d, %v, want %d", len(got), err, want)
		}
	}
}

func TestConsumerDeletedWhileAPullWaits(t *testing.T) {
	t.Parallel()
	names, js := testenv.Names(t), jetStream(t)
	b := newBus(t, names, true, nil)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	fetched := make(chan error, 1)
	go func() {
		_, err := b.Fetch()
		fetched <- err
	}()
	awaitPull(t, js, names, 1)
	if err := js.DeleteConsumer(t.Context(), names.Stream, names.Durable); err != nil {
		t.Fatal(err)
	}
	if err := <-fetched; err == nil || err.Error() != "fetch events: the server ended the pull: 409 consumer deleted" {
		t.Errorf("fetch: %v", err)
	}
	if _, err := b.Fetch(); err == nil || err.Error() != "fetch events: the consumer does not exist, or the server is not ready" {
		t.Errorf("fetch: %v", err)
	}
	// What an old consumer's pull left behind is not taken for the new one's.
	b.inbox.messages <- &nats.Msg{Subject: names.SubjectPrefix + ".a", Reply: "$JS.ACK.S.C.1.9.1.1.0", Sub: b.inbox.sub}
	reopen(t, b)
	publish(t, js, names.SubjectPrefix+".a", "x")
	if got := fetchAll(t, b, 1); string(got[0].Data) != "x" || got[0].StreamSeq != 1 {
		t.Errorf("fetched %+v", got)
	}
}

// ownBus returns a Bus on a server of the test's own, with a short AckWait.
func ownBus(t *testing.T) (*server, *Bus, jetstream.JetStream, config.Names) {
	t.Helper()
	s := newServer(t, "")
	log := slog.New(slog.DiscardHandler)
	nc, err := Connect(ConnectOptions{URL: s.url(""), Name: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	names := config.Names{Stream: "S", SubjectPrefix: "p", Durable: "d"}
	b, err := New(Options{Conn: nc, Stream: "S", SubjectPrefix: "p", Durable: "d", Manage: true, AckWait: 2 * time.Second, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return s, b, js, names
}

// TestServerRestarts: a pull that waits ends with an error, and what was not acknowledged comes again.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	s, b, js, names := ownBus(t)
	publish(t, js, "p.a", "1")
	publish(t, js, "p.a", "2")
	got := fetchAll(t, b, 2)
	settleAll(t, got[:1], definition.OutcomeRouted)
	testenv.Eventually(t, 5*time.Second, "one is acknowledged", func(context.Context) (bool, error) {
		return consumerInfo(t, js, names).NumAckPending == 1, nil
	})
	settleAll(t, got[1:], definition.OutcomeHeld) // so that it does not come again before the server stops
	fetched := make(chan error, 1)
	go func() {
		_, err := b.Fetch()
		fetched <- err
	}()
	awaitPull(t, js, names, 1)
	s.stop()
	if err := <-fetched; err == nil {
		t.Error("a fetch that lost its server is no error")
	}
	if _, err := b.Fetch(); err == nil || !strings.Contains(err.Error(), "not connected to NATS (NATS_URL)") {
		t.Errorf("fetch: %v", err)
	}
	s.start()
	again := fetchAndOpen(t, b, 1)
	if string(again[0].Data) != "2" || again[0].Deliveries != 2 {
		t.Errorf("delivered again: %+v", again)
	}
	settleAll(t, again, definition.OutcomeRouted)
	publish(t, js, "p.a", "3")
	if got := fetchAndOpen(t, b, 1); string(got[0].Data) != "3" {
		t.Errorf("fetched %+v", got)
	}
}

// TestServerHangs: a server that says nothing is an error soon, while the connection still looks alive.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	s, b, js, _ := ownBus(t)
	publish(t, js, "p.a", "1")
	s.signal(syscall.SIGSTOP)
	testenv.Eventually(t, 10*time.Second, "the server stands still", func(context.Context) (bool, error) {
		return errors.Is(b.o.Conn.FlushTimeout(100*time.Millisecond), nats.ErrTimeout), nil
	})
	_, err := b.Fetch()
	s.signal(syscall.SIGCONT)
	if err == nil || !strings.Contains(err.Error(), "fetch events: no answer; this user needs the rights to publish to "+
		"$JS.API.CONSUMER.MSG.NEXT.S.d and to subscribe to _INBOX.>") {
		t.Errorf("fetch: %v", err)
	}
	// The pull was not lost, only late.
	if got := fetchAndOpen(t, b, 1); string(got[0].Data) != "1" || got[0].Deliveries != 1 {
		t.Errorf("fetched %+v", got)
	}
}

func TestWord(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status, description string
		over                bool
		want                string
	}{
		{"100", "Idle Heartbeat", false, ""},
		{"404", "No Messages", true, ""},
		{"408", "Request Timeout", true, ""},
		{"409", "Leadership Change", true, "the server ended the pull: 409 leadership change"},
		{"409", "Server Shutdown", true, "the server ended the pull: 409 server shutdown"},
		{"400", "Bad Request", true, "the server ended the pull: 400 bad request"},
		{"503", "", true, "the consumer does not exist, or the server is not ready"},
	} {
		over, err := word(&nats.Msg{Header: nats.Header{"Status": {c.status}, "Description": {c.description}}})
		text := ""
		if err != nil {
			text = err.Error()
		}
		if over != c.over || text != c.want {
			t.Errorf("%s %s: over %v, error %q", c.status, c.description, over, text)
		}
	}
}

func TestAcknowledgement(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		action       Action
		detail, want string
	}{
		{Ack, "", "+ACK"}, {Ack, "x", "+ACK"}, {InProgress, "x", "+WPI"}, {Term, "", "+TERM"}, {Term, "not_json", "+TERM not_json"},
	} {
		if got := acknowledgement(c.action, c.detail); !bytes.Equal(got, []byte(c.want)) {
			t.Errorf("action %d %q: %s", c.action, c.detail, got)
		}
	}
}
