package router_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/eventbus"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/router"
	"github.com/activity-core/activity-core/internal/testenv"
)

// stand is a database, a stream and a Temporal namespace, and the routers between them. No worker takes the runs.
type stand struct {
	pool     *pgxpool.Pool
	store    *postgres.Store
	temporal client.Client
	names    config.Names
	js       jetstream.JetStream
	ackWait  time.Duration
	// unmatched: routers record events that match nothing.
	unmatched bool
}

func newStand(t *testing.T) *stand {
	t.Helper()
	pool := testenv.Pool(t)
	js, err := jetstream.New(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	return &stand{pool: pool, store: postgres.New(pool), temporal: testenv.Temporal(t), names: testenv.Names(t), js: js}
}

func (s *stand) bus(t *testing.T) *eventbus.Bus {
	t.Helper()
	b, err := eventbus.New(eventbus.Options{Conn: testenv.NATS(t), Stream: s.names.Stream, SubjectPrefix: s.names.SubjectPrefix,
		Durable: s.names.Durable, Manage: true, AckWait: s.ackWait, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// start starts one router, and returns a function that stops it and waits.
func (s *stand) start(t *testing.T) (stop func()) {
	t.Helper()
	return s.startWith(t, prometheus.NewRegistry())
}

func (s *stand) startWith(t *testing.T, registry *prometheus.Registry) (stop func()) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	runs, err := ledger.New(ledger.Options{Store: s.store, Temporal: s.temporal, TaskQueue: s.names.OrchestratorTaskQueue, Log: log,
		Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := router.New(router.Options{Source: s.bus(t), Store: s.store, Ledger: runs, SubjectPrefix: s.names.SubjectPrefix, Log: log,
		RecordUnmatched: s.unmatched, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	testenv.Eventually(t, 20*time.Second, "the router is ready", func(ctx context.Context) (bool, error) { return r.Check(ctx) == nil, nil })
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

var _ io.Writer = testWriter{}

func (s *stand) define(t *testing.T, name, eventType, filters string) string {
	t.Helper()
	doc, err := definition.ParseDocument(fmt.Appendf(nil, `{"name":%q,"trigger_config":{"trigger_type":"event","event_type":%q,"filters":%s}}`,
		name, eventType, filters))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := s.store.CreateDefinition(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	return stored.ID
}

func (s *stand) publish(t *testing.T, eventType, data string) {
	t.Helper()
	if _, err := s.js.Publish(t.Context(), s.names.SubjectPrefix+"."+eventType, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// settled waits until every message of the stream was delivered and acknowledged.
func (s *stand) settled(t *testing.T) *jetstream.ConsumerInfo {
	t.Helper()
	var info *jetstream.ConsumerInfo
	testenv.Eventually(t, time.Minute, "every event is settled", func(ctx context.Context) (bool, error) {
		c, err := s.js.Consumer(ctx, s.names.Stream, s.names.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return false, nil // the router makes the stream first
		}
		if err != nil {
			return false, err
		}
		info = c.CachedInfo()
		return info.NumPending == 0 && info.NumAckPending == 0, nil
	})
	return info
}

func (s *stand) column(t *testing.T, query string) []string {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoute(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.ackWait = 2 * time.Second
	pro := s.define(t, "pro", "user.created", `{"tier":"pro","n":1}`)
	s.define(t, "all", "user.created", `{}`)
	s.define(t, "other", "user.deleted", `{}`)

	// A router took two messages and died.
	bus := s.bus(t)
	if err := bus.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := func(id, payload string) string {
		return fmt.Sprintf(`{"event_id":%q,"type":"user.created","source":"test","trace_id":"t-%s","payload":%s}`, id, id, payload)
	}
	first := good("e-1", `{"tier":"pro","n":1.0,"odd":"\u0000","big":1e400000}`)
	s.publish(t, "user.created", first)
	s.publish(t, "user.created", "poison before its death")
	taken := 0
	testenv.Eventually(t, 10*time.Second, "two are taken", func(context.Context) (bool, error) {
		got, err := bus.Fetch()
		taken += len(got)
		return taken == 2, err
	})

	want := []string{"not_json"}
	for _, c := range []struct{ subject, data, reason string }{
		{"user.created", "", "not_json"},
		{"user.created", "\xff\xfe", "not_json"},
		{"user.created", `{"event_id":"x\u0000","type":"user.created"}`, "bad_event_id"},
		{"user.created", `{"event_id":"","type":"user.created"}`, "missing_event_id"},
		{"user.created", `{"event_id":"x"}`, "missing_type"},
		{"user.created", `{"event_id":"x","type":"user.created","payload":"text"}`, "payload_not_object"},
		{"user.created", `{"event_id":"x","type":"user.created","occurred_at":"now"}`, "bad_time"},
		{"user.deleted", `{"event_id":"x","type":"user.created"}`, "subject_mismatch"},
		{"user.created", `{"event_id":"x","type":"user.created","event_id":"y"}`, "duplicate_name"},
		{"user.created", `{"event_id":"x","type":"user.created","Type":"y"}`, "bad_field"},
	} {
		s.publish(t, c.subject, c.data)
		want = append(want, c.reason)
		s.publish(t, "user.created", good(fmt.Sprintf("between-%d", len(want)), `{}`))
	}
	// Larger than an event may be, where the server lets it through.
	if limit := testenv.NATS(t).MaxPayload(); limit > definition.MaxEvent {
		s.publish(t, "user.created", good("big", `{"x":"`+strings.Repeat("x", definition.MaxEvent)+`"}`))
		want = append(want, "too_large")
	}
	s.publish(t, "user.created", first) // published twice
	s.publish(t, "user.created", good("e-2", `{"tier":"free","n":1}`))
	s.publish(t, "user.updated", `{"event_id":"e-3","type":"user.updated"}`)

	s.start(t)
	s.start(t)
	info := s.settled(t)
	if got := s.column(t, `SELECT reason FROM dead_letters ORDER BY stream_seq`); !slices.Equal(got, want) {
		t.Errorf("dead letters %v, want %v", got, want)
	}
	if got := s.column(t, `SELECT deliveries::text FROM dead_letters WHERE stream_seq = 2`); !slices.Equal(got, []string{"2"}) {
		t.Errorf("the dead letter of the message delivered twice says %v", got)
	}
	var ids []string
	for i := range 10 {
		ids = append(ids, fmt.Sprintf("between-%d all", i+2))
	}
	ids = append(ids, "e-1 all", "e-1 pro", "e-2 all")
	slices.Sort(ids)
	got := s.column(t, `SELECT event_id || ' ' || definition_name FROM runs`)
	slices.Sort(got)
	if !slices.Equal(got, ids) {
		t.Errorf("runs %v\nwant %v", got, ids)
	}
	if info.NumRedelivered != 0 {
		t.Errorf("%d messages are still being delivered again", info.NumRedelivered)
	}
	// The row holds the event as it came, and its workflow is there.
	runs, err := s.store.ListRuns(t.Context(), definition.ListRuns{DefinitionID: pro, Limit: 10})
	if err != nil || len(runs) != 1 {
		t.Fatalf("%d runs (%v), want 1", len(runs), err)
	}
	run, err := s.store.GetRun(t.Context(), runs[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if string(run.Input) != first || run.EventID != "e-1" || run.EventType != "user.created" || run.TraceID != "t-e-1" || run.Key != "event-e-1" || run.Revision != 1 {
		t.Errorf("run %+v", run)
	}
	if _, err := s.temporal.DescribeWorkflowExecution(t.Context(), run.WorkflowID, ""); err != nil {
		t.Errorf("workflow %s: %v", run.WorkflowID, err)
	}
}

// TestReadYourWrites: an event that is published right after its definition was written meets it as it was written.
func TestReadYourWrites(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.start(t)
	s.start(t)
	disable := func(id string) {
		_, err := s.store.UpdateDefinition(t.Context(), id, definition.Change{}, func(d definition.Document) (definition.Document, error) {
			d.Enabled = false
			return d, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	event := func(i int, step string) {
		eventType := fmt.Sprintf("type.%d", i)
		data, err := json.Marshal(map[string]any{"event_id": fmt.Sprintf("%d-%s", i, step), "type": eventType, "payload": map[string]any{"n": i}})
		if err != nil {
			t.Fatal(err)
		}
		s.publish(t, eventType, string(data))
	}
	const n = 100
	var made []string
	for i := range n {
		made = append(made, s.define(t, fmt.Sprintf("a-%d", i), fmt.Sprintf("type.%d", i), fmt.Sprintf(`{"n":%d}`, i)))
		event(i, "created")
	}
	s.settled(t) // a definition is matched as it is at the moment of routing
	for i := range n {
		disable(made[i])
		event(i, "disabled")
		b := s.define(t, fmt.Sprintf("b-%d", i), fmt.Sprintf("type.%d", i), `{}`)
		if err := s.store.DeleteDefinition(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		event(i, "deleted")
	}
	s.settled(t)
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("%d-created a-%d", i, i))
	}
	slices.Sort(want)
	// An event that was still waiting when b was made may meet it: it is younger than b, give or take the skew.
	got := s.column(t, `SELECT event_id || ' ' || definition_name FROM runs WHERE event_id NOT LIKE '%-disabled' OR definition_name LIKE 'a-%'`)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("runs %v\nwant %v", got, want)
	}
}

// TestRestartsUnderLoad: routers that are stopped and started again lose nothing, double nothing, and leave nothing
// behind that has to be delivered again.
func TestRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.define(t, "one", "load", `{}`)
	stop, other := s.start(t), s.start(t)
	const n = 1000
	published := make(chan error, 1)
	go func() {
		for i := range n {
			if _, err := s.js.PublishAsync(s.names.SubjectPrefix+".load", fmt.Appendf(nil, `{"event_id":"%d","type":"load"}`, i)); err != nil {
				published <- err
				return
			}
		}
		<-s.js.PublishAsyncComplete()
		published <- nil
	}()
	for range 3 {
		stop()
		stop = s.start(t)
	}
	other()
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	info := s.settled(t)
	if info.NumRedelivered != 0 || info.Delivered.Consumer != n {
		t.Errorf("%d deliveries of %d events, %d of them again", info.Delivered.Consumer, n, info.NumRedelivered)
	}
	got := s.column(t, `SELECT count(*) || ' rows of ' || count(DISTINCT event_id) || ' events' FROM runs`)
	if got[0] != "1000 rows of 1000 events" {
		t.Errorf("%s", got[0])
	}
}

// TestEventIDReused: an id names the event that came first with it, whichever router gets the others, and in whichever batch.
func TestEventIDReused(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.define(t, "one", "user.created", `{"met":true}`)
	s.define(t, "two", "user.*", `{"met":true}`)
	event := func(id, eventType, source, payload string) {
		t.Helper()
		s.publish(t, eventType, fmt.Sprintf(`{"event_id":%q,"type":%q,"source":%q,"payload":%s}`, id, eventType, source, payload))
	}
	// One batch, for no router runs yet. The order of members, and how a number is written, make no other event.
	if err := s.bus(t).Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	event("a", "user.created", "shop", `{"met":true,"n":1}`)
	event("a", "user.created", "shop", `{"n":1.0,"met":true}`)
	event("a", "user.created", "shop", `{"met":true,"n":2}`) // 3
	event("b", "user.created", "shop", `{"met":true}`)
	event("a", "user.created", "pub", `{"met":true,"n":1}`)  // 5
	event("a", "user.deleted", "shop", `{"met":true,"n":1}`) // 6
	event("a", "user.created", "shop", `{"met":true,"n":1e0}`)
	stop := s.start(t)
	s.settled(t)
	// Another batch, and other routers.
	event("b", "user.created", "shop", `{"met":true,"x":1}`) // 8
	event("b", "user.created", "shop", `{"met":true}`)
	s.settled(t)
	stop()
	// What is recorded decides also where it is not the first of its batch.
	event("b", "user.created", "shop", `{"met":true,"x":2}`) // 10
	event("b", "user.created", "shop", `{"met":true}`)
	event("b", "user.created", "shop", `{"met":true,"x":2}`) // 12
	s.start(t)
	s.start(t)
	s.settled(t)
	got := s.column(t, `SELECT concat(stream_seq, ' ', event_id, ' ', reason) FROM dead_letters ORDER BY stream_seq`)
	var want []string
	for _, dead := range []string{"3 a", "5 a", "6 a", "8 b", "10 b", "12 b"} {
		want = append(want, dead+" event_id_reused")
	}
	if !slices.Equal(got, want) {
		t.Errorf("dead letters %q\nwant %q", got, want)
	}
	runs := s.column(t, `SELECT event_id || ' ' || definition_name || ' ' || convert_from(input, 'UTF8') FROM runs ORDER BY event_id, definition_name`)
	a, b := `{"event_id":"a","type":"user.created","source":"shop","payload":{"met":true,"n":1}}`,
		`{"event_id":"b","type":"user.created","source":"shop","payload":{"met":true}}`
	if want := []string{"a one " + a, "a two " + a, "b one " + b, "b two " + b}; !slices.Equal(runs, want) {
		t.Errorf("runs %q\nwant %q", runs, want)
	}
}

// TestEventIDReusedBetweenRouters: two routers with different events of the same ids at the same time. Each id has the runs of one
// event, and the other one is a dead letter.
func TestEventIDReusedBetweenRouters(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.define(t, "one", "race", `{}`)
	s.start(t)
	s.start(t)
	const n = 300
	for i := range 2 * n {
		data := fmt.Appendf(nil, `{"event_id":"%d","type":"race","payload":{"n":%d}}`, i%n, i/n)
		if _, err := s.js.PublishAsync(s.names.SubjectPrefix+".race", data); err != nil {
			t.Fatal(err)
		}
	}
	<-s.js.PublishAsyncComplete()
	s.settled(t)
	got := s.column(t, `
		SELECT concat((SELECT count(*) FROM runs), ' runs, ', count(*), ' dead letters of ', count(DISTINCT l.event_id), ' ids, ',
		              count(*) FILTER (WHERE convert_from(r.input, 'UTF8') <> convert_from(l.data, 'UTF8')), ' of other events')
		FROM dead_letters l JOIN runs r ON r.event_id = l.event_id WHERE l.reason = 'event_id_reused'`)
	if want := "300 runs, 300 dead letters of 300 ids, 300 of other events"; got[0] != want {
		t.Errorf("%s, want %s", got[0], want)
	}
}

// TestRecordUnmatched: what matches nothing is found again where that is wanted, and its id is taken.
func TestRecordUnmatched(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{false, true} {
		s := newStand(t)
		s.unmatched = on
		s.start(t)
		s.publish(t, "nobody", `{"event_id":"e","type":"nobody","source":"shop"}`)
		s.settled(t)
		s.publish(t, "nobody", `{"event_id":"e","type":"nobody","source":"another"}`)
		s.settled(t)
		h, err := s.store.GetEvent(t.Context(), "e")
		if err != nil || (h.UnmatchedSince != nil) != on || (h.Record != nil) != on || (len(h.DeadLetters) == 1) != on {
			t.Errorf("recording %v: %+v, %v", on, h, err)
			continue
		}
		if on && (h.Record.Matches != 0 || h.Record.Source != "shop" || h.Record.StreamSeq != 1 || h.DeadLetters[0].StreamSeq != 2) {
			t.Errorf("record %+v, dead letter %+v", h.Record, h.DeadLetters[0])
		}
	}
}

// TestSuspectsFromTheStream: messages that were delivered three times are routed, and nothing is kept of the attempts; one that
// had its attempts is given up.
func TestSuspectsFromTheStream(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.ackWait = time.Second
	s.define(t, "one", "user.created", `{}`)
	bus := s.bus(t)
	if err := bus.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		s.publish(t, "user.created", fmt.Sprintf(`{"event_id":"%d","type":"user.created"}`, i+1))
	}
	// A router that takes them and dies, again and again.
	taken := map[uint64]definition.Delivery{}
	testenv.Eventually(t, 30*time.Second, "each is delivered twice", func(context.Context) (bool, error) {
		got, err := bus.Fetch()
		for _, d := range got {
			if d.Deliveries >= 2 {
				taken[d.StreamSeq] = d
			}
		}
		return len(taken) == 3, err
	})
	for range 3 {
		poison := taken[2]
		if _, err := s.store.AddAttempt(t.Context(), &poison); err != nil {
			t.Fatal(err)
		}
	}
	s.start(t)
	s.settled(t)
	if got := s.column(t, `SELECT event_id FROM runs ORDER BY event_id`); !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("runs of %v, want 1 and 3", got)
	}
	if got := s.column(t, `SELECT stream_seq || ' ' || reason FROM dead_letters`); !slices.Equal(got, []string{"2 crash_loop"}) {
		t.Errorf("dead letters %v, want the second", got)
	}
	// Forgotten a moment after it is settled.
	testenv.Eventually(t, 10*time.Second, "the attempts are forgotten", func(context.Context) (bool, error) {
		return len(s.column(t, `SELECT stream_seq::text FROM delivery_attempts`)) == 0, nil
	})
}
