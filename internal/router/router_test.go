package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/match"
	"github.com/activity-core/activity-core/internal/testenv"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// fakes stands for the stream, the storage and the ledger, for the failures that real ones do not show on demand.
type fakes struct {
	letterStore // never asked
	replayStore

	ackWait time.Duration
	feed    chan []definition.Delivery // what Fetch returns; nil makes it fail

	// The functions answer before the ordinary behaviour does; nil for that alone.
	lookFails   func() error
	recordFails func([]definition.Occurrence) error
	starts      func(context.Context, definition.Start) error

	attempts  map[uint64]int // at suspects, before
	attempted []uint64
	forgotten []uint64
	state     definition.StreamState
	away      atomic.Bool     // storage does not take the stream's age
	ages      []time.Duration // that it was told

	mu       sync.Mutex
	opens    int
	looks    []string // the snapshots that were asked from
	current  string   // the snapshot of the next look
	full     []definition.Routable
	changed  []definition.Routable // since the last look
	recorded []definition.Occurrence
	events   []string // that were recorded, by id
	sizes    []int    // of Record
	keys     map[string]bool
	letters  []definition.DeadLetter
	started  []string
	settled  map[uint64][]definition.Outcome
	signal   chan struct{} // one for each final outcome
}

func newFakes(full ...definition.Routable) *fakes {
	return &fakes{ackWait: time.Minute, feed: make(chan []definition.Delivery, 10), current: "10:10:", full: full,
		keys: map[string]bool{}, settled: map[uint64][]definition.Outcome{}, signal: make(chan struct{}, 10_000)}
}

func (f *fakes) Open(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opens++
	return nil
}

func (f *fakes) Fetch() ([]definition.Delivery, error) {
	select {
	case d := <-f.feed:
		if d == nil {
			return nil, errors.New("consumer is gone")
		}
		return d, nil
	case <-time.After(10 * time.Millisecond): // an empty fetch
		return nil, nil
	}
}

func (f *fakes) AckWait() time.Duration { return f.ackWait }
func (f *fakes) Look(context.Context) (definition.StreamState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, nil
}
func (f *fakes) SeqAt(context.Context, time.Time) (uint64, error) { return 1, nil }
func (f *fakes) Read(context.Context, uint64, uint64) ([]definition.Delivery, error) {
	return nil, nil
}
func (f *fakes) Get(context.Context, uint64) (definition.Delivery, bool, error) {
	return definition.Delivery{}, false, nil
}

func (f *fakes) SetUnmatchedRecording(context.Context, bool) error           { return nil }
func (f *fakes) RemoveUnmatched(context.Context, time.Duration) (int, error) { return 0, nil }
func (f *fakes) NoteStreamAge(_ context.Context, age time.Duration) error {
	if f.away.Load() {
		return definition.ErrUnavailable
	}
	f.ages = append(f.ages, age)
	return nil
}
func (f *fakes) RoutingAsked(context.Context) (letters, replays bool, e error) {
	return false, false, nil
}
func (f *fakes) ForgetAttempts(_ context.Context, messages []definition.Delivery) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range messages {
		f.forgotten = append(f.forgotten, m.StreamSeq)
	}
	return nil
}

func (f *fakes) CountAttempts(_ context.Context, messages []definition.Delivery) ([]int, error) {
	counts := make([]int, len(messages))
	for i, m := range messages {
		counts[i] = f.attempts[m.StreamSeq]
	}
	return counts, nil
}

func (f *fakes) AddAttempt(_ context.Context, d *definition.Delivery) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attempted = append(f.attempted, d.StreamSeq)
	return f.attempts[d.StreamSeq] + 1, nil
}

func (f *fakes) ChangedDefinitions(_ context.Context, prev string) (string, []definition.Routable, error) {
	if f.lookFails != nil {
		if err := f.lookFails(); err != nil {
			return "", nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks = append(f.looks, prev)
	changed := f.changed
	f.changed = nil
	if prev == "" {
		changed = f.full
	}
	return f.current, changed, nil
}

func (f *fakes) AcceptDeadLetters(_ context.Context, letters []definition.DeadLetter) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.letters = append(f.letters, letters...)
	return nil
}

func (f *fakes) RecordEvents(_ context.Context, events []definition.EventRecord, occurrences []definition.Occurrence) (
	[]definition.Start, []string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.recordFails != nil {
		if err := f.recordFails(occurrences); err != nil {
			return nil, nil, err
		}
	}
	for _, e := range events {
		f.events = append(f.events, e.ID)
	}
	f.sizes = append(f.sizes, len(occurrences))
	var starts []definition.Start
	for _, o := range occurrences {
		f.recorded = append(f.recorded, o)
		if id := o.DefinitionID + " " + o.Key; !f.keys[id] {
			f.keys[id] = true
			starts = append(starts, definition.Start{DefinitionID: o.DefinitionID, Key: o.Key})
		}
	}
	return starts, nil, nil
}

func (f *fakes) Start(ctx context.Context, s definition.Start) error {
	if f.starts != nil {
		if err := f.starts(ctx, s); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = append(f.started, s.DefinitionID+" "+s.Key)
	return nil
}

type handle struct {
	f   *fakes
	seq uint64
}

func (h handle) Settle(o definition.Outcome, _ string) error {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	h.f.settled[h.seq] = append(h.f.settled[h.seq], o)
	if o != definition.OutcomeHeld {
		h.f.signal <- struct{}{}
	}
	return nil
}

// delivery makes the message with a sequence number; without data it is a good event of type "a".
func (f *fakes) delivery(seq int, data string) definition.Delivery {
	if data == "" {
		data = fmt.Sprintf(`{"event_id":"e%d","type":"a"}`, seq)
	}
	return definition.Delivery{Subject: "p.a", Data: []byte(data), Stream: "S", StreamSeq: uint64(seq), PublishedAt: noon, Deliveries: 1,
		Handle: handle{f, uint64(seq)}}
}

func (f *fakes) deliveries(from, to int) (out []definition.Delivery) {
	for i := from; i <= to; i++ {
		out = append(out, f.delivery(i, ""))
	}
	return out
}

// wait waits for n final outcomes.
func (f *fakes) wait(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for i := range n {
		select {
		case <-f.signal:
		case <-deadline:
			t.Fatalf("%d deliveries were settled, want %d", i, n)
		}
	}
}

// final returns the one final outcome of a delivery.
func (f *fakes) final(t *testing.T, seq int) definition.Outcome {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []definition.Outcome
	for _, o := range f.settled[uint64(seq)] {
		if o != definition.OutcomeHeld {
			out = append(out, o)
		}
	}
	if len(out) != 1 {
		t.Fatalf("delivery %d was settled as %v, want one outcome", seq, out)
	}
	return out[0]
}

func (f *fakes) unsettled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.signal) == 0
}

func routable(id string) definition.Routable {
	return definition.Routable{ID: id, Name: id, Revision: 3, EventType: "a", Live: true, EnabledSince: noon}
}

// run starts a router and returns a function that ends it.
func run(t *testing.T, f *fakes, change func(*Options)) (r *Router, stop func() error) {
	t.Helper()
	o := Options{Source: f, Store: f, Ledger: f, SubjectPrefix: "p", Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		DrainTimeout: 10 * time.Second}
	if change != nil {
		change(&o)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stopped := false
	stop = func() error {
		stopped = true
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Second):
			t.Fatal("Run did not end")
			return nil
		}
	}
	t.Cleanup(func() {
		if !stopped {
			if err := stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	})
	return r, stop
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	pro := routable("pro")
	pro.Filters = map[string]json.RawMessage{"tier": json.RawMessage(`"pro"`)}
	late := routable("late")
	late.EnabledSince = noon.Add(match.Skew + 1)
	f := newFakes(pro, late)
	r, _ := run(t, f, nil)
	for i, c := range []struct {
		data   string
		want   definition.Outcome
		reason string
	}{
		{`{"event_id":"1","type":"a","trace_id":"tr","payload":{"tier":"pro"}}`, definition.OutcomeRouted, ""},
		{`{"event_id":"2","type":"a","payload":{"tier":"free"}}`, definition.OutcomeUnmatched, ""},
		{`{"event_id":"1","type":"a","payload":{"tier":"pro"}}`, definition.OutcomeRouted, ""}, // published twice
		{`{"event_id":"4","type":"a","payload":[]}`, definition.OutcomeDead, definition.RejectPayloadNotObject},
		{`nonsense`, definition.OutcomeDead, definition.RejectNotJSON},
		{strings.Repeat(" ", definition.MaxEvent+1), definition.OutcomeDead, definition.RejectTooLarge},
		{`{"event_id":"7","type":"b"}`, definition.OutcomeDead, definition.RejectSubjectMismatch},
	} {
		f.feed <- []definition.Delivery{f.delivery(i+1, c.data)}
		f.wait(t, 1)
		if got := f.final(t, i+1); got != c.want {
			t.Errorf("%.60s: outcome %d, want %d", c.data, got, c.want)
		}
		if c.reason != "" {
			l := f.letters[len(f.letters)-1]
			if l.Reason != c.reason || l.Stream != "S" || l.StreamSeq != uint64(i+1) || l.DataSize != len(c.data) || l.Subject != "p.a" || l.Deliveries != 1 ||
				!l.PublishedAt.Equal(noon) || l.Detail == "" || string(l.Data) != c.data[:min(len(c.data), definition.MaxDeadLetterData)] {
				t.Errorf("%.60s: dead letter %.300v", c.data, l)
			}
		}
	}
	if len(f.started) != 1 || f.started[0] != "pro event-1" {
		t.Errorf("started %v", f.started)
	}
	o := f.recorded[0]
	if o.DefinitionID != "pro" || o.Revision != 3 || o.Kind != definition.KindEvent || o.Key != "event-1" || o.EventID != "1" || o.EventType != "a" ||
		o.TraceID != "tr" || string(o.Input) != `{"event_id":"1","type":"a","trace_id":"tr","payload":{"tier":"pro"}}` {
		t.Errorf("recorded %+v", o)
	}
	if f.letters[0].EventID != "4" {
		t.Errorf("the dead letter has the event id %q, want 4", f.letters[0].EventID)
	}
	for name, got := range map[string]float64{
		"received 7":  value(t, r.metrics.received),
		"matched 2":   value(t, r.metrics.matched),
		"unmatched 1": value(t, r.metrics.unmatched),
		"too_large 1": value(t, r.metrics.dead.WithLabelValues(definition.RejectTooLarge)),
		"table 2":     value(t, r.metrics.definitions),
	} {
		if !strings.HasSuffix(name, fmt.Sprintf(" %v", got)) {
			t.Errorf("%s, but got %v", name, got)
		}
	}
	if err := r.Check(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

// TestEmptyMessage: its dead letter holds empty bytes, which the database tells from none.
func TestEmptyMessage(t *testing.T) {
	t.Parallel()
	l := deadLetter(&definition.Delivery{Subject: "p.a"}, "", &definition.Reject{Reason: definition.RejectNotJSON})
	if l.Data == nil || len(l.Data) != 0 {
		t.Errorf("data %v", l.Data)
	}
}

func TestPostgresAway(t *testing.T) {
	t.Parallel()
	f := newFakes(routable("d"))
	f.ackWait = 30 * time.Millisecond
	var mu sync.Mutex
	away := errors.New("postgres is away")
	f.recordFails = func([]definition.Occurrence) error { mu.Lock(); defer mu.Unlock(); return away }
	r, _ := run(t, f, nil)
	for i := range 5 {
		f.feed <- f.deliveries(10*i+1, 10*i+10)
	}
	held := func(seq uint64) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Contains(f.settled[seq], definition.OutcomeHeld)
	}
	// The batch that cannot be committed and the one behind it are kept alive; the others stay in the stream.
	eventually(t, "both batches are held", func() bool { return held(1) && held(20) })
	eventually(t, "readiness tells", func() bool { err := r.Check(t.Context()); return err != nil && errors.Is(err, away) })
	if len(f.feed) != 3 || !f.unsettled() {
		t.Errorf("%d batches are left in the stream, want 3; nothing settled: %v", len(f.feed), f.unsettled())
	}
	mu.Lock()
	away = nil
	mu.Unlock()
	f.wait(t, 50)
	for seq := 1; seq <= 50; seq++ {
		if got := f.final(t, seq); got != definition.OutcomeRouted {
			t.Errorf("delivery %d: outcome %d", seq, got)
		}
	}
	if err := r.Check(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

func TestNotStorable(t *testing.T) {
	t.Parallel()
	f := newFakes(routable("1"), routable("2"))
	f.recordFails = func(os []definition.Occurrence) error {
		for _, o := range os {
			if o.EventID == "e2" && o.DefinitionID == "1" {
				return fmt.Errorf("accept runs: %w", definition.ErrNotStorable)
			}
		}
		return nil
	}
	run(t, f, nil)
	f.feed <- f.deliveries(1, 3)
	f.wait(t, 3)
	for seq, want := range map[int]definition.Outcome{1: definition.OutcomeRouted, 2: definition.OutcomeDead, 3: definition.OutcomeRouted} {
		if got := f.final(t, seq); got != want {
			t.Errorf("delivery %d: outcome %d, want %d", seq, got, want)
		}
	}
	slices.Sort(f.started)
	if got := fmt.Sprint(f.started); got != "[1 event-e1 1 event-e3 2 event-e1 2 event-e2 2 event-e3]" {
		t.Errorf("started %s", got)
	}
	if len(f.letters) != 1 || f.letters[0].Reason != definition.RejectNotStorable || f.letters[0].StreamSeq != 2 || f.letters[0].EventID != "e2" ||
		!strings.Contains(f.letters[0].Detail, "definition 1") {
		t.Errorf("dead letters %+v", f.letters)
	}
}

func TestTemporalAway(t *testing.T) {
	t.Parallel()
	f := newFakes(routable("d"))
	var mu sync.Mutex
	tries, away := 0, errors.New("temporal is away")
	f.starts = func(context.Context, definition.Start) error {
		mu.Lock()
		defer mu.Unlock()
		tries++
		return away
	}
	r, _ := run(t, f, func(o *Options) { o.StartConcurrency = 4 })
	f.feed <- f.deliveries(1, 200)
	f.wait(t, 200)
	if got := f.final(t, 200); got != definition.OutcomeRouted {
		t.Errorf("outcome %d", got)
	}
	mu.Lock()
	if tries > breakerFailures+4 {
		t.Errorf("%d starts were tried while all failed", tries)
	}
	away = nil
	mu.Unlock()
	if got := value(t, r.metrics.deferred); got != 200 {
		t.Errorf("%v starts were left to the sweeper, want 200", got)
	}
	// Back again, one try after the pause closes the breaker.
	seq := 200
	eventually(t, "runs are started again", func() bool {
		seq++
		f.feed <- f.deliveries(seq, seq)
		f.wait(t, 1)
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.started) > 1
	})
}

func TestShutdownDrains(t *testing.T) {
	t.Parallel()
	f := newFakes(routable("d"))
	entered, release := make(chan struct{}, 100), make(chan struct{})
	f.starts = func(context.Context, definition.Start) error {
		entered <- struct{}{}
		<-release
		return nil
	}
	_, stop := run(t, f, func(o *Options) { o.StartConcurrency = 2 })
	f.feed <- f.deliveries(1, 20)
	<-entered
	if !f.unsettled() {
		t.Error("settled before the start was tried")
	}
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	close(release)
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if len(f.signal) != 20 || len(f.started) != 20 {
		t.Errorf("%d settled and %d started, want 20", len(f.signal), len(f.started))
	}
}

func TestShutdownGivesUp(t *testing.T) {
	t.Parallel()
	f := newFakes(routable("d"))
	f.recordFails = func([]definition.Occurrence) error { return definition.ErrUnavailable }
	r, stop := run(t, f, func(o *Options) { o.DrainTimeout = 50 * time.Millisecond })
	f.feed <- f.deliveries(1, 7)
	eventually(t, "the batch is under way", func() bool { return errors.Is(r.Check(t.Context()), definition.ErrUnavailable) })
	err := stop()
	if err == nil || !strings.Contains(err.Error(), "7 deliveries were not settled within 50ms") {
		t.Errorf("Run: %v", err)
	}
	if !f.unsettled() {
		t.Error("something was settled that was not committed")
	}
}

// TestShutdownWhileIdle: with Postgres away and nothing fetched there is nothing to wait for.
func TestShutdownWhileIdle(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.lookFails = func() error { return definition.ErrUnavailable }
	r, stop := run(t, f, nil)
	eventually(t, "readiness tells", func() bool { return errors.Is(r.Check(t.Context()), definition.ErrUnavailable) })
	began := time.Now()
	if err := stop(); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("Run: %v after %v", err, time.Since(began))
	}
}

func TestFreshness(t *testing.T) {
	t.Parallel()
	f := newFakes(routable("old"))
	fail := false
	f.lookFails = func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if fail {
			fail = false
			return definition.ErrUnavailable
		}
		return nil
	}
	r, _ := run(t, f, nil)
	eventually(t, "the table is loaded", func() bool { return r.table.Load() != nil })
	seq := 0
	step := func(name, wantLooks, wantStarted string, change func()) {
		t.Helper()
		f.mu.Lock()
		change()
		f.looks, f.started = nil, nil
		f.mu.Unlock()
		seq++
		f.feed <- f.deliveries(seq, seq)
		f.wait(t, 1)
		f.mu.Lock()
		defer f.mu.Unlock()
		slices.Sort(f.started)
		started := strings.ReplaceAll(strings.Join(f.started, ","), fmt.Sprintf(" event-e%d", seq), "")
		if looks := fmt.Sprintf("%q", f.looks); looks != wantLooks || started != wantStarted {
			t.Errorf("%s: looked from %s and started %s, want %s and %s", name, looks, started, wantLooks, wantStarted)
		}
	}
	step("nothing new", `["10:10:"]`, "old", func() { f.current = "11:11:" })
	step("one more", `["11:11:"]`, "new,old", func() {
		f.changed, f.current = []definition.Routable{routable("new")}, "12:12:"
		f.full = append(f.full, routable("new"))
	})
	step("one deleted", `["12:12:"]`, "old", func() { f.changed, f.full = []definition.Routable{{ID: "new"}}, f.full[:1] })
	step("after a failure everything is loaded", `[""]`, "other", func() { fail, f.full = true, []definition.Routable{routable("other")} })
	step("transaction ids that went back: the same", `["12:12:" ""]`, "third", func() { f.current, f.full = "9:9:", []definition.Routable{routable("third")} })
	step("another server", `["9:9:" ""]`, "fourth", func() { f.current, f.full = "10:10:@1/1", []definition.Routable{routable("fourth")} })
	step("the same one", `["10:10:@1/1"]`, "fourth", func() { f.current, f.full = "10:10:@1/1", nil })
	step("another one, with more transactions", `["10:10:@1/1" ""]`, "fifth", func() {
		f.current, f.full = "11:11:@2/1", []definition.Routable{routable("fifth")}
	})
	step("the same one on another timeline", `["11:11:@2/1" ""]`, "sixth", func() {
		f.current, f.full = "12:12:@2/2", []definition.Routable{routable("sixth")}
	})
}

// TestManyMatches: one event that meets more definitions than fit into a statement.
func TestManyMatches(t *testing.T) {
	t.Parallel()
	var many []definition.Routable
	for i := range 2*maxRows + 500 {
		many = append(many, routable(fmt.Sprint(i)))
	}
	f := newFakes(many...)
	run(t, f, nil)
	f.feed <- f.deliveries(1, 2)
	f.wait(t, 2)
	if len(f.started) != 2*len(many) {
		t.Errorf("%d runs were started, want %d", len(f.started), 2*len(many))
	}
	for _, n := range f.sizes {
		if n > maxRows {
			t.Errorf("%d rows in one statement", n)
		}
	}
	if f.final(t, 1) != definition.OutcomeRouted || f.final(t, 2) != definition.OutcomeRouted {
		t.Error("not routed")
	}
}

func TestFetchFails(t *testing.T) {
	t.Parallel()
	f := newFakes(routable("d"))
	r, _ := run(t, f, nil)
	f.feed <- nil
	f.feed <- f.deliveries(1, 1)
	f.wait(t, 1)
	if f.opens != 2 || value(t, r.metrics.fetchErrors) != 1 {
		t.Errorf("opened %d times, %v errors", f.opens, value(t, r.metrics.fetchErrors))
	}
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	var b breaker
	down := errors.New("down")
	now := noon
	for i := range breakerFailures {
		if !b.allow(now) {
			t.Fatalf("closed to try %d", i)
		}
		want := unchanged
		if i == breakerFailures-1 {
			want = opened
		}
		if got := b.report(now, down); got != want {
			t.Fatalf("failure %d: change %d, want %d", i, got, want)
		}
	}
	if b.allow(now.Add(breakerPause - 1)) {
		t.Error("a try was allowed during the pause")
	}
	now = now.Add(breakerPause)
	if !b.allow(now) || b.allow(now) {
		t.Error("want one try after the pause")
	}
	if b.report(now, down) != unchanged || b.allow(now.Add(breakerPause-1)) || !b.allow(now.Add(breakerPause)) {
		t.Error("want another pause after a failed try")
	}
	if b.report(now, nil) != closed || !b.allow(now) || !b.allow(now) || b.report(now, nil) != unchanged {
		t.Error("want it closed after a success")
	}
	// Failures count in a row only.
	for range 3 * breakerFailures {
		b.report(now, down)
		b.report(now, nil)
	}
	if !b.allow(now) {
		t.Error("scattered failures opened it")
	}
}

func TestWentBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		earlier, later string
		want           bool
	}{
		{"10:20:", "10:20:", false},
		{"10:20:11,12", "15:21:", false},
		{"10:20:", "10:19:", true},
		{"999:1000:", "9:10:9", true},
		{"", "9:10:", true},
		{"9:10:", "nonsense", true},
		{"10:20:@1/1", "10:20:@1/1", false},
		{"10:20:11@1/1", "15:21:@1/1", false},
		{"10:20:@1/1", "10:19:@1/1", true},
		{"10:20:@1/1", "11:21:@2/1", true},
		{"10:20:@1/1", "11:21:@1/2", true},
		{"10:20:", "11:21:@1/1", true},
	} {
		if got := wentBack(c.earlier, c.later); got != c.want {
			t.Errorf("%q then %q: %v", c.earlier, c.later, got)
		}
	}
}

// replaying is storage with one replay.
type replaying struct {
	*fakes
	fails   func() error // at a step
	updates *[]string
}

func (s replaying) ReplayDefinitions(context.Context, []string) ([]definition.Routable, error) {
	return nil, nil
}

func (s replaying) UpdateReplay(_ context.Context, c definition.ClaimedReplay) error {
	*s.updates = append(*s.updates, fmt.Sprintf("%s %d %s", c.Status, c.NextStreamSeq, c.Error))
	return nil
}

func (s replaying) AcceptReplayed(_ context.Context, c *definition.ClaimedReplay, _ []definition.EventRecord, _ []definition.Occurrence) (
	[]definition.Start, error) {
	if err := s.fails(); err != nil {
		return nil, err
	}
	*s.updates = append(*s.updates, fmt.Sprintf("step to %d", c.NextStreamSeq))
	return nil, nil
}

// TestReplayFails: what may be over later is noted, and leaves the replay at its step; what is refused for good ends it; and what
// is another's by now is left alone.
func TestReplayFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, "step to 257, step to 513, step to 601, completed 601 "},
		{definition.ErrUnavailable, "step to 257, running 257 " + definition.ErrUnavailable.Error()},
		{fmt.Errorf("replay events: %w", definition.ErrNotStorable), "step to 257, failed 257 replay events: " + definition.ErrNotStorable.Error()},
		{definition.ErrLeaseLost, "step to 257"},
	} {
		f := newFakes()
		var updates []string
		steps := 0
		s := replaying{fakes: f, updates: &updates, fails: func() error {
			if steps++; steps == 2 {
				return c.err
			}
			return nil
		}}
		r, err := New(Options{Source: f, Store: s, Ledger: f, SubjectPrefix: "p", Log: slog.New(slog.DiscardHandler),
			Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		r.replay(ctx, &definition.ClaimedReplay{Replay: definition.Replay{Status: definition.ReplayRunning, NextStreamSeq: 1, Error: "before"},
			FromStreamSeq: 1, ToStreamSeq: 601})
		cancel()
		if got := strings.Join(updates, ", "); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	f := newFakes()
	full := Options{Source: f, Store: f, Ledger: f, SubjectPrefix: "p", Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}
	for name, remove := range map[string]func(*Options){
		"Source": func(o *Options) { o.Source = nil }, "Store": func(o *Options) { o.Store = nil }, "Ledger": func(o *Options) { o.Ledger = nil },
		"SubjectPrefix": func(o *Options) { o.SubjectPrefix = "" }, "Log": func(o *Options) { o.Log = nil }, "Registerer": func(o *Options) { o.Registerer = nil },
	} {
		o := full
		remove(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name+" is missing") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// value reads a counter or a gauge.
func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, what, func(context.Context) (bool, error) { return condition(), nil })
}
