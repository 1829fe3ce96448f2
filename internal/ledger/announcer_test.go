package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/eventbus"
	"github.com/activity-core/activity-core/internal/testenv"
)

// told is a publisher that keeps what it is given, and fails while it is away.
type told struct {
	away     bool
	calls    []int // how many messages each call had
	messages []definition.Message
}

func (p *told) Publish(_ context.Context, messages []definition.Message) []error {
	p.calls = append(p.calls, len(messages))
	errs := make([]error, len(messages))
	for i, m := range messages {
		if p.away {
			errs[i] = errors.New("test: NATS is away")
			continue
		}
		p.messages = append(p.messages, m)
	}
	return errs
}

func (p *told) ids() []string {
	var out []string
	for _, m := range p.messages {
		out = append(out, m.ID)
	}
	return out
}

func (b *bundle) announcer(t *testing.T, publisher EventPublisher, names config.Names, every time.Duration) *Announcer {
	t.Helper()
	a, err := NewAnnouncer(AnnouncerOptions{Ledger: b.ledger, Store: b.store, Publisher: publisher, SubjectPrefix: names.SubjectPrefix,
		Every: every, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// end makes a run and ends it.
func (b *bundle) end(t *testing.T, status definition.RunStatus) string {
	t.Helper()
	st := b.record(t)
	if _, err := b.store.FinishRun(t.Context(), definition.Finish{RunID: st.RunID, Status: status}); err != nil {
		t.Fatal(err)
	}
	return st.RunID
}

// again makes the ends that were given back due now.
func (b *bundle) again(t *testing.T) {
	t.Helper()
	if _, err := b.pool.Exec(t.Context(), `UPDATE run_ends SET claim_after = '-infinity'`); err != nil {
		t.Fatal(err)
	}
}

func (b *bundle) untold(t *testing.T) (n int) {
	t.Helper()
	if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM run_ends`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// define stores another definition for the runs to come.
func (b *bundle) define(t *testing.T, text string) {
	t.Helper()
	doc, err := definition.ParseDocument([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.store.CreateDefinition(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	b.id = d.ID
}

// The ends of runs are in the stream, in their order and once each, whoever of two announcers tells them; one is told without
// waiting for the next look.
func TestEndsArePublished(t *testing.T) {
	t.Parallel()
	b, names := setup(t, testenv.Temporal(t)), testenv.Names(t)
	js, err := jetstream.New(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: names.Stream, Subjects: []string{names.SubjectPrefix + ".>"}})
	if err != nil {
		t.Fatal(err)
	}
	publisher, err := eventbus.NewPublisher(testenv.NATS(t), names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, status := range []definition.RunStatus{definition.RunSucceeded, definition.RunFailed, definition.RunTimedOut, definition.RunCanceled} {
		want = append(want, b.end(t, status)+" "+names.SubjectPrefix+".run."+string(status))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	one, two := b.announcer(t, publisher, names, time.Hour), b.announcer(t, publisher, names, time.Hour)
	go func() { done <- one.Run(ctx) }()
	go func() { done <- two.Run(ctx) }()
	published := func(n uint64) {
		t.Helper()
		testenv.Eventually(t, 20*time.Second, "the ends are published", func(ctx context.Context) (bool, error) {
			info, err := stream.Info(ctx)
			return err == nil && info.State.Msgs >= n && b.untold(t) == 0, err
		})
	}
	published(4)
	last := b.end(t, definition.RunSkipped)
	one.Nudge()
	published(5)
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	want = append(want, last+" "+names.SubjectPrefix+".run.skipped")
	var got []string
	for seq := range uint64(5) {
		m, err := stream.GetMsg(t.Context(), seq+1)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Header.Get("Nats-Msg-Id")+" "+m.Subject)
		e, fault := definition.ParseMessage(m.Subject, m.Header, m.Data, names.SubjectPrefix)
		if fault != nil || e.ID != m.Header.Get("Nats-Msg-Id") || e.Depth != 1 {
			t.Errorf("message %d is the event %q of depth %d, %v", seq+1, e.ID, e.Depth, fault)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("published\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != 5 {
		t.Errorf("%d messages, %v; want 5", info.State.Msgs, err)
	}
}

// While the stream takes nothing, one message is tried, and nothing is lost.
func TestEndsWaitForTheStream(t *testing.T) {
	t.Parallel()
	b, names, p := setup(t, testenv.Temporal(t)), testenv.Names(t), &told{away: true}
	a := b.announcer(t, p, names, 0)
	want := []string{b.end(t, definition.RunSucceeded), b.end(t, definition.RunFailed), b.end(t, definition.RunFailed)}
	for range 3 {
		if _, err := a.announce(t.Context()); err == nil {
			t.Fatal("no error, although nothing was published")
		}
		if n := b.untold(t); n != 3 {
			t.Fatalf("%d ends wait, want 3", n)
		}
		b.again(t)
	}
	if !slices.Equal(p.calls, []int{3, 1, 1}) {
		t.Errorf("so many messages were tried each time: %v, want [3 1 1]", p.calls)
	}
	p.away = false
	if _, err := a.announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.ids(); !slices.Equal(got, want) || b.untold(t) != 0 {
		t.Errorf("published %v, want %v; %d wait", got, want, b.untold(t))
	}
	if !slices.Equal(p.calls, []int{3, 1, 1, 1, 2}) {
		t.Errorf("so many messages were tried each time: %v", p.calls)
	}
}

// The end of a run that was cut off for its depth makes no event, and is done with; so is every end while events are turned off.
func TestEndsWithoutEvents(t *testing.T) {
	t.Parallel()
	b, names, p := setup(t, testenv.Temporal(t)), testenv.Names(t), &told{}
	a := b.announcer(t, p, names, 0)
	starts, err := b.ledger.Record(t.Context(), []definition.Occurrence{
		{DefinitionID: b.id, Kind: definition.KindEvent, Key: "event-ten", EventID: "ten", Depth: definition.MaxDepth},
		{DefinitionID: b.id, Kind: definition.KindEvent, Key: "event-eleven", EventID: "eleven", Depth: definition.MaxDepth + 1}})
	if err != nil {
		t.Fatal(err)
	}
	var ten string
	for _, st := range starts {
		if st.Key != "event-ten" {
			continue
		}
		ten = st.RunID
		if _, err := b.store.FinishRun(t.Context(), definition.Finish{RunID: st.RunID, Status: definition.RunSucceeded}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.ids(); !slices.Equal(got, []string{ten}) || b.untold(t) != 0 {
		t.Errorf("published %v, want the end of the run of depth 10 alone, %s; %d wait", got, ten, b.untold(t))
	}
	off := b.announcer(t, nil, names, 0)
	b.end(t, definition.RunFailed)
	if _, err := off.announce(t.Context()); err != nil || b.untold(t) != 0 {
		t.Errorf("%v; %d ends wait although events are off", err, b.untold(t))
	}
}

// Each end starts one workflow with what it tells, however often it is told; a definition that asks for nothing starts none.
func TestNotificationsAreStarted(t *testing.T) {
	t.Parallel()
	b, names, p := setup(t, testenv.Temporal(t)), testenv.Names(t), &told{}
	a := b.announcer(t, p, names, 0)
	silent := b.end(t, definition.RunFailed)
	b.define(t, `{"name": "tells", "trigger_config": {"trigger_type": "manual"}, "notify": [
		{"on": ["failed", "late"], "type": "http", "with": {"url": "https://example.com/"}},
		{"on": ["recovered"], "type": "http", "with": {"url": "https://example.com/"}},
		{"on": ["succeeded"], "type": "http", "with": {"url": "https://example.com/"}}]}`)
	runs := []string{b.end(t, definition.RunSucceeded), b.end(t, definition.RunFailed), b.end(t, definition.RunCanceled),
		b.end(t, definition.RunSucceeded), b.end(t, definition.RunSucceeded)}
	if _, err := a.announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	// As after a crash between the two: the ends are there once more.
	if _, err := b.pool.Exec(t.Context(), `INSERT INTO run_ends (run_id) SELECT id FROM runs`); err != nil {
		t.Fatal(err)
	}
	if _, err := a.announce(t.Context()); err != nil || b.untold(t) != 0 {
		t.Fatal(err, b.untold(t))
	}
	for id, want := range map[string]string{
		silent:  "",
		runs[0]: `[{"index":2,"on":"succeeded"}]`,
		runs[1]: `[{"index":0,"on":"failed"}]`,
		runs[2]: "",
		runs[3]: `[{"index":1,"on":"recovered"},{"index":2,"on":"succeeded"}]`,
		runs[4]: `[{"index":2,"on":"succeeded"}]`,
	} {
		in, found := b.notifyInput(t, id)
		got := ""
		if found {
			data, err := json.Marshal(in.Send)
			if err != nil || in.RunID != id {
				t.Fatal(in, err)
			}
			got = string(data)
		}
		if got != want {
			t.Errorf("run %s: %q is told, want %q", id, got, want)
		}
	}
}

// notifyInput returns what the workflow of a run's notifications was started with.
func (b *bundle) notifyInput(t *testing.T, runID string) (in definition.NotifyInput, found bool) {
	t.Helper()
	events := b.temporal.GetWorkflowHistory(t.Context(), definition.NotifyWorkflowID(runID), "", false,
		enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !events.HasNext() {
		return in, false
	}
	event, err := events.Next()
	if err != nil {
		return in, false
	}
	err = converter.GetDefaultDataConverter().FromPayloads(event.GetWorkflowExecutionStartedEventAttributes().GetInput(), &in)
	if err != nil {
		t.Fatal(err)
	}
	return in, true
}

// While Temporal is away, the ends that want a notification wait, and the others do not: neither those of a definition that asks for
// none nor, when it is known already that Temporal is away, those that ended otherwise than is asked for.
func TestEndsWaitForTemporal(t *testing.T) {
	t.Parallel()
	away, err := client.NewLazyClient(client.Options{HostPort: "127.0.0.1:1", Logger: testenv.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(away.Close)
	b, names, p := setup(t, away), testenv.Names(t), &told{}
	a := b.announcer(t, p, names, 0)
	plain := b.end(t, definition.RunFailed)
	b.define(t, `{"name": "tells", "trigger_config": {"trigger_type": "manual"}, "notify": [
		{"on": ["failed"], "type": "http", "with": {"url": "https://example.com/"}}]}`)
	for range sweepConcurrency { // so that the next one's turn comes after one of these has failed
		b.end(t, definition.RunFailed)
	}
	fine := b.end(t, definition.RunSucceeded)
	if _, err := a.announce(t.Context()); err == nil {
		t.Error("no error, although a notification could not be started")
	}
	if got := p.ids(); !slices.Equal(got, []string{plain, fine}) || b.untold(t) != sweepConcurrency {
		t.Errorf("published %v, want %v; %d wait, want %d", got, []string{plain, fine}, b.untold(t), sweepConcurrency)
	}
}

func TestNewAnnouncerRefuses(t *testing.T) {
	t.Parallel()
	for missing, change := range map[string]func(*AnnouncerOptions){
		"Ledger":        func(o *AnnouncerOptions) { o.Ledger = nil },
		"Store":         func(o *AnnouncerOptions) { o.Store = nil },
		"SubjectPrefix": func(o *AnnouncerOptions) { o.SubjectPrefix = "" },
		"Log":           func(o *AnnouncerOptions) { o.Log = nil },
		"Registerer":    func(o *AnnouncerOptions) { o.Registerer = nil },
	} {
		o := AnnouncerOptions{Ledger: &Ledger{}, Store: struct{ AnnounceStore }{}, SubjectPrefix: "p", Log: slog.New(slog.DiscardHandler),
			Registerer: prometheus.NewRegistry()}
		change(&o)
		if _, err := NewAnnouncer(o); err == nil || !strings.Contains(err.Error(), missing+" is missing") {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

// Nudges come at once, but not faster than the gap, and do not hurry a caretaker that fails.
func TestNudges(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	nudge := make(chan struct{}, 1)
	steps := make(chan time.Time, 100)
	var fails atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		tendNudged(ctx, slog.New(slog.DiscardHandler), 0, nudge, func(context.Context) (time.Duration, error) {
			var err error
			if fails.Load() {
				err = errors.New("test")
			}
			steps <- time.Now()
			return time.Hour, err
		})
	}()
	first := <-steps
	nudge <- struct{}{}
	second := <-steps
	if gap := second.Sub(first); gap < nudgeGap/2 || gap > 10*time.Second {
		t.Errorf("the nudged step came %s after the first", gap)
	}
	fails.Store(true)
	nudge <- struct{}{}
	<-steps
	nudge <- struct{}{}
	select {
	case <-steps:
		t.Error("a nudge hurried a caretaker that fails")
	case <-time.After(3 * nudgeGap):
	}
	cancel()
	<-done
}
