package eventbus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

const (
	theStream  = "ACTIVITY_EVENTS"
	theDurable = "activity-core-event-router"
)

// documentedRights returns the users' rights as RUNBOOK.md has them, and an administrator.
func documentedRights(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../RUNBOOK.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rights, found := strings.Cut(string(text), "\nauthorization { users: [\n")
	rights, _, ended := strings.Cut(rights, "```")
	if !found || !ended {
		t.Fatal("RUNBOOK.md has no rights")
	}
	return "ROUTER_PASSWORD: router, SIGNUP_PASSWORD: signup, WORKER_PASSWORD: worker\n" +
		"authorization { users: [\n{ user: admin, password: admin }\n" + rights
}

// without replaces the right that begins so by one of no use. (An empty list would give every right.)
func without(t *testing.T, rights, right string) string {
	t.Helper()
	out := regexp.MustCompile(`"`+regexp.QuoteMeta(right)+`[^"]*"`).ReplaceAllString(rights, `"nothing"`)
	if out == rights {
		t.Fatalf("RUNBOOK.md does not give %s", right)
	}
	return out
}

func connectAs(t *testing.T, s *server, user string, log *slog.Logger) *nats.Conn {
	t.Helper()
	nc, err := Connect(ConnectOptions{URL: s.url(user), Name: "test", InboxPrefix: "_INBOX_" + user, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// limited is a server with these rights, a stream with three events, its consumer, and a router's Bus.
func limited(t *testing.T, rights string) (s *server, b *Bus, log *testenv.LogBuffer, admin jetstream.JetStream) {
	t.Helper()
	s = newServer(t, rights)
	admin, err := jetstream.New(connectAs(t, s, "admin", slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.CreateStream(t.Context(), jetstream.StreamConfig{Name: theStream, Subjects: []string{"activity.>"}, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.CreateConsumer(t.Context(), theStream, jetstream.ConsumerConfig{Durable: theDurable, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: 3 * time.Second, FilterSubject: "activity.>"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		publish(t, admin, "activity.user.created", "x")
	}
	log = new(testenv.LogBuffer)
	b, err = New(Options{Conn: connectAs(t, s, "router", slog.New(slog.NewTextHandler(log, nil))), Stream: theStream, SubjectPrefix: "activity",
		Durable: theDurable, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s, b, log, admin
}

// TestLeastPrivilege: with the rights of RUNBOOK.md everything works, and no complaint is logged.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	s, b, log, admin := limited(t, documentedRights(t))
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if state := look(t, b); state.Blind || state.Pending != 3 || state.First != 1 || state.Risk <= 0 {
		t.Errorf("look: %+v", state)
	}
	got := fetchAll(t, b, 3)
	settleAll(t, got[:1], definition.OutcomeRouted)
	settleAll(t, got[1:2], definition.OutcomeDead)
	settleAll(t, got[2:], definition.OutcomeHeld)
	settleAll(t, got[2:], definition.OutcomeRouted)
	testenv.Eventually(t, 10*time.Second, "all are settled", func(ctx context.Context) (bool, error) {
		c, err := admin.Consumer(ctx, theStream, theDurable)
		return err == nil && c.CachedInfo().NumAckPending == 0 && c.CachedInfo().NumRedelivered == 0, err
	})
	if read, err := b.Read(t.Context(), 1, 10); err != nil || len(read) != 3 {
		t.Errorf("read %d, %v", len(read), err)
	}
	if seq, err := b.SeqAt(t.Context(), time.Now().Add(time.Hour)); err != nil || seq != 4 {
		t.Errorf("sequence %d, %v", seq, err)
	}
	if err := b.o.Conn.FlushTimeout(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); strings.Contains(text, "Violation") {
		t.Errorf("log: %s", text)
	}

	// A publisher may publish under its own types only, and make or take nothing.
	publisher, err := jetstream.New(connectAs(t, s, "signup", slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	publish(t, publisher, "activity.user.deleted", "y")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := publisher.Publish(ctx, "activity.order.paid", []byte("z")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish in another's area: %v", err)
	}
	if _, err := publisher.Stream(ctx, theStream); err == nil {
		t.Error("a publisher may look at the stream")
	}
	// The router may not publish an event.
	if err := b.o.Conn.Publish("activity.user.created", nil); err != nil {
		t.Fatal(err)
	}
	if err := b.o.Conn.FlushTimeout(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if read, err := b.Read(t.Context(), 1, 10); err != nil || len(read) != 4 || read[3].Subject != "activity.user.deleted" {
		t.Errorf("read %+v, %v", read, err)
	}
}

// TestRightsMissing: what does not work is told with the right that is missing.
func TestRightsMissing(t *testing.T) {
	t.Parallel()
	read := func(ctx context.Context, b *Bus) error { _, _, err := b.Get(ctx, 1); return err }
	fetch := func(_ context.Context, b *Bus) error { _, err := b.Fetch(); return err }
	open := func(ctx context.Context, b *Bus) error { return b.Open(ctx) }
	for _, c := range []struct {
		right string
		// opens: without the right, Open succeeds. fails is called next.
		opens bool
		fails func(context.Context, *Bus) error
		want  string
	}{
		{"$JS.API.CONSUMER.INFO.", false, open, "look at consumer activity-core-event-router of stream ACTIVITY_EVENTS: no answer: this user lacks " +
			"the right to publish to $JS.API.CONSUMER.INFO.ACTIVITY_EVENTS.activity-core-event-router"},
		{"_INBOX_router.", false, open, "look at consumer activity-core-event-router of stream ACTIVITY_EVENTS: no answer: this user lacks " +
			"the right to subscribe to _INBOX_router.>"},
		{"$JS.API.CONSUMER.MSG.NEXT.", true, fetch, "fetch events: no answer: this user lacks the right to publish to " +
			"$JS.API.CONSUMER.MSG.NEXT.ACTIVITY_EVENTS.activity-core-event-router"},
		{"$JS.API.STREAM.MSG.GET.", true, read, "read message 1 of stream ACTIVITY_EVENTS: no answer: this user lacks the right to publish to " +
			"$JS.API.STREAM.MSG.GET.ACTIVITY_EVENTS"},
	} {
		t.Run(c.right, func(t *testing.T) {
			t.Parallel()
			_, b, _, _ := limited(t, without(t, documentedRights(t), c.right))
			if c.opens {
				if err := b.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.fails(t.Context(), b); err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestNoRightToAcknowledge: nobody waits for an answer to an acknowledgement, so that the next fetch tells, once for each time.
func TestNoRightToAcknowledge(t *testing.T) {
	t.Parallel()
	_, b, _, _ := limited(t, without(t, documentedRights(t), "$JS.ACK."))
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := fetchAll(t, b, 3)
	settleAll(t, got, definition.OutcomeRouted)
	if err := b.o.Conn.FlushTimeout(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	const want = "nothing can be acknowledged: this user lacks the right to publish to $JS.ACK.ACTIVITY_EVENTS.activity-core-event-router.>"
	if _, err := b.Fetch(); err == nil || err.Error() != want {
		t.Errorf("fetch: %v\nwant %s", err, want)
	}
	if again := fetchAll(t, b, 3); again[0].Deliveries != 2 {
		t.Errorf("fetched %+v", again)
	}
}

// TestBlind: without the right to look at the stream all works, but retention is not watched; without the one to read
// messages, their age is not known.
func TestBlind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		right string
		first uint64
	}{{"$JS.API.STREAM.INFO.", 0}, {"$JS.API.STREAM.MSG.GET.", 1}} {
		t.Run(c.right, func(t *testing.T) {
			t.Parallel()
			_, b, log, _ := limited(t, without(t, documentedRights(t), c.right))
			for range 2 {
				if err := b.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if s := look(t, b); !s.Blind || s.Pending != 3 || s.First != c.first || s.Risk != 0 {
					t.Errorf("look: %+v", s)
				}
			}
			if err := b.Check(t.Context()); err != nil {
				t.Error(err)
			}
			settleAll(t, fetchAll(t, b, 3), definition.OutcomeRouted)
			if s := look(t, b); s.Delivered != 3 || s.Pending != 0 {
				t.Errorf("look: %+v", s)
			}
			if n := strings.Count(log.String(), "Permissions Violation"); n != 1 {
				t.Errorf("%d complaints are logged, want 1: %s", n, log.String())
			}
		})
	}
}

// TestViolationOfOthers: that the server refused something else explains nothing.
func TestViolationOfOthers(t *testing.T) {
	t.Parallel()
	_, b, _, _ := limited(t, documentedRights(t))
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.o.Conn.Publish("elsewhere", nil); err != nil {
		t.Fatal(err)
	}
	if err := b.o.Conn.FlushTimeout(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if b.violation() == "" {
		t.Fatal("the server does not complain")
	}
	if err := b.noAnswer("$JS.API.X"); !errors.Is(err, errNoAnswer) ||
		err.Error() != "no answer; this user needs the rights to publish to $JS.API.X and to subscribe to _INBOX_router.>" {
		t.Error(err)
	}
	if len(fetchAll(t, b, 3)) != 3 {
		t.Error("nothing is fetched")
	}
}
