package api_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
)

const madeByHand = `{"name":"by-hand","trigger_config":{"trigger_type":"manual"}}`

// said is what came back from one request.
type said struct {
	status int
	header http.Header
	body   string
}

// send makes one request with headers, given as names and values.
func (s *service) send(ctx context.Context, method, path, body string, headers ...string) (said, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return said{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return said{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return said{resp.StatusCode, resp.Header, string(data)}, err
}

// askKeyed is send for a test that expects a status.
func (s *service) askKeyed(t *testing.T, status int, method, path, body string, headers ...string) said {
	t.Helper()
	a, err := s.send(t.Context(), method, path, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	if a.status != status {
		t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

func (a said) problem() string {
	_, kind, _ := strings.Cut(a.body, `"/problems/`)
	kind, _, _ = strings.Cut(kind, `"`)
	return kind
}

// untilAnswered sends a request again for as long as another one with its key is at work.
func (s *service) untilAnswered(ctx context.Context, method, path, body, key string) (said, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		a, err := s.send(ctx, method, path, body, "Idempotency-Key", key)
		if err != nil || a.status != http.StatusConflict || a.problem() != "idempotency-key-in-use" {
			return a, err
		}
		if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 12 {
			return a, fmt.Errorf("Retry-After %q", a.header.Get("Retry-After"))
		}
		select {
		case <-ctx.Done():
			return a, ctx.Err()
		case <-tick.C:
		}
	}
}

func countOf(t *testing.T, pool *pgxpool.Pool, query string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestOneKeyFromManyClients creates and triggers from 50 clients at once: there is one definition and one run, and all get the answer
// that the first got.
func TestOneKeyFromManyClients(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	temporal := testenv.Temporal(t)
	s := serve(t, pool, temporal, testenv.Names(t).OrchestratorTaskQueue)
	const clients = 50
	same := func(status int, path, body, key string) said {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		answers := make([]said, clients)
		var wait sync.WaitGroup
		for i := range clients {
			wait.Go(func() {
				var err error
				if answers[i], err = s.untilAnswered(ctx, "POST", path, body, key); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		replayed := 0
		for _, a := range answers {
			if a.status != status || a.body != answers[0].body || a.header.Get("Location") != answers[0].header.Get("Location") ||
				a.header.Get("ETag") != answers[0].header.Get("ETag") {
				t.Fatalf("%d %v %s\nand another one got %d %v %s", a.status, a.header, a.body, answers[0].status, answers[0].header, answers[0].body)
			}
			if a.header.Get("Idempotency-Replayed") == "true" {
				replayed++
			}
		}
		if replayed != clients-1 {
			t.Errorf("%d of %d answers are repetitions", replayed, clients)
		}
		return answers[0]
	}
	created := same(201, "/activity-definitions/", madeByHand, "create")
	if n := countOf(t, pool, `SELECT count(*) FROM definitions`); n != 1 {
		t.Errorf("%d definitions", n)
	}
	if n := countOf(t, pool, `SELECT count(*) FROM audit`); n != 1 {
		t.Errorf("%d rows of the audit trail", n)
	}
	accepted := same(202, created.header.Get("Location")+"/trigger", `{"n":1}`, "trigger")
	if n := countOf(t, pool, `SELECT count(*) FROM runs`); n != 1 {
		t.Errorf("%d runs", n)
	}
	if accepted.header.Get("Location") == "" || created.header.Get("ETag") != `"1"` {
		t.Errorf("created %v, accepted %v", created.header, accepted.header)
	}
}

// callers knows each caller by its credential.
type callers struct{}

func (callers) Authenticate(_ context.Context, credential string) (access.Caller, error) {
	return access.Caller{ID: "token:" + credential, Name: credential, Role: access.Admin}, nil
}

// TestKeys goes through what a key means: to its caller, for another request, for answers of every kind, and for a day.
func TestKeys(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	s := serve(t, pool, nobody(t), "nobodys-queue", func(o *api.Options) { o.Access = callers{} })
	as := func(who, key string) []string {
		return []string{"Authorization", "Bearer " + who, "Idempotency-Key", key}
	}
	const path, other = "/activity-definitions/", `{"name":"other","trigger_config":{"trigger_type":"manual"}}`

	first := s.askKeyed(t, 201, "POST", path, madeByHand, as("a", "k")...)
	again := s.askKeyed(t, 201, "POST", strings.TrimSuffix(path, "/"), madeByHand, as("a", "k")...)
	if again.body != first.body || again.header.Get("Idempotency-Replayed") != "true" || again.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("again: %+v, first %+v", again, first)
	}
	if again.header.Get("X-Request-Id") == first.header.Get("X-Request-Id") {
		t.Error("two requests have one id")
	}
	if p := s.askKeyed(t, 422, "POST", path, other, as("a", "k")...); p.problem() != "idempotency-key-reused" {
		t.Errorf("another body: %s", p.body)
	}
	s.askKeyed(t, 201, "POST", path, other, as("b", "k")...) // another caller's key is another key

	// Answers that are no success are kept as well, whatever becomes of their cause.
	taken := s.askKeyed(t, 409, "POST", path, other, as("a", "taken")...)
	missing := path + definition.NewID()
	s.askKeyed(t, 404, "POST", missing+"/trigger", "", as("a", "missing")...)
	if _, err := pool.Exec(t.Context(), `UPDATE definitions SET name = 'renamed' WHERE name = 'other'`); err != nil {
		t.Fatal(err)
	}
	if a := s.askKeyed(t, 409, "POST", path, other, as("a", "taken")...); a.body != taken.body || a.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("a name that was taken: %+v", a)
	}
	if a := s.askKeyed(t, 404, "POST", missing+"/trigger", "", as("a", "missing")...); a.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("a definition that was missing: %+v", a)
	}

	// A day later the key means nothing.
	if _, err := pool.Exec(t.Context(), `UPDATE idempotency_keys SET expires_at = expires_at - interval '24 hours'`); err != nil {
		t.Fatal(err)
	}
	late := s.askKeyed(t, 201, "POST", path, `{"name":"late","trigger_config":{"trigger_type":"manual"}}`, as("a", "k")...)
	if late.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("a day later: %+v", late)
	}
}

// slowStore is the storage, but for what a test does before a definition is made.
type slowStore struct {
	*postgres.Store
	before func(ctx context.Context, name string) error
}

func (s slowStore) CreateDefinition(ctx context.Context, d definition.Document) (definition.Stored, error) {
	if err := s.before(ctx, d.Name); err != nil {
		return definition.Stored{}, err
	}
	return s.Store.CreateDefinition(ctx, d)
}

// Trouble of ours is not kept.
func TestTroubleIsNotKept(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	failures := []error{definition.ErrUnavailable, fmt.Errorf("test"), nil}
	s := serve(t, pool, nobody(t), "nobodys-queue", func(o *api.Options) {
		o.Store = slowStore{postgres.New(pool), func(context.Context, string) error {
			err := failures[0]
			failures = failures[1:]
			return err
		}}
	})
	for _, status := range []int{503, 500, 201, 201} {
		s.askKeyed(t, status, "POST", "/activity-definitions/", madeByHand, "Idempotency-Key", "k")
	}
}

// A request that holds its claim sleeps until another one has taken over, and then does nothing: its answer says to ask again.
func TestSleeperMakesNothing(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	asleep, wake := make(chan struct{}, 1), make(chan struct{})
	wakeUp := sync.OnceFunc(func() { close(wake) })
	defer wakeUp()
	var slept atomic.Bool
	s := serve(t, pool, nobody(t), "nobodys-queue", func(o *api.Options) {
		o.Store = slowStore{postgres.New(pool), func(context.Context, string) error {
			if slept.CompareAndSwap(false, true) {
				asleep <- struct{}{}
				<-wake
			}
			return nil
		}}
	})
	type result struct {
		said
		err error
	}
	answered := make(chan result, 1)
	go func() {
		a, err := s.send(t.Context(), "POST", "/activity-definitions/", madeByHand, "Idempotency-Key", "k")
		answered <- result{a, err}
	}()
	<-asleep
	if a := s.askKeyed(t, 409, "POST", "/activity-definitions/", madeByHand, "Idempotency-Key", "k"); a.problem() != "idempotency-key-in-use" {
		t.Errorf("while it sleeps: %s", a.body)
	}
	if _, err := pool.Exec(t.Context(), `UPDATE idempotency_keys SET claimed_until = now()`); err != nil {
		t.Fatal(err)
	}
	// The definition has another name by the time, so that nothing but the claim keeps a second one away.
	made := s.askKeyed(t, 201, "POST", "/activity-definitions/", madeByHand, "Idempotency-Key", "k")
	s.askKeyed(t, 200, "PUT", made.header.Get("Location"), `{"name":"renamed"}`)
	wakeUp()
	a := <-answered
	if a.err != nil || a.status != 409 || a.problem() != "idempotency-key-in-use" {
		t.Errorf("the one that slept: %+v", a)
	}
	if n := countOf(t, pool, `SELECT count(*) FROM definitions`); n != 1 {
		t.Errorf("%d definitions", n)
	}
	if last := s.askKeyed(t, 201, "POST", "/activity-definitions/", madeByHand, "Idempotency-Key", "k"); last.body != made.body {
		t.Errorf("asked again: %s, want %s", last.body, made.body)
	}
}

// A retry of what was done, and whose answer was lost, does not undo what others did since.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	s := serve(t, pool, nobody(t), "nobodys-queue")
	// lose makes it as if the process had ended before the answer of a key was kept.
	lose := func() {
		t.Helper()
		if _, err := pool.Exec(t.Context(), `UPDATE idempotency_keys SET status = NULL, body = NULL, headers = NULL, claimed_until = now()`); err != nil {
			t.Fatal(err)
		}
	}
	created := s.askKeyed(t, 201, "POST", "/activity-definitions/", madeByHand, "Idempotency-Key", "create")
	at := created.header.Get("Location")
	lose()
	if a := s.askKeyed(t, 201, "POST", "/activity-definitions/", madeByHand, "Idempotency-Key", "create"); a.body != created.body ||
		a.header.Get("Location") != at || a.header.Get("ETag") != `"1"` {
		t.Errorf("created again: %+v", a)
	}

	s.askKeyed(t, 200, "POST", at+"/pause", "", "Idempotency-Key", "pause")
	s.askKeyed(t, 200, "POST", at+"/resume", "")
	lose()
	a := s.askKeyed(t, 200, "POST", at+"/pause", "", "Idempotency-Key", "pause")
	if d := read[definitionAnswer](t, answer{body: []byte(a.body)}); !d.Enabled || a.header.Get("ETag") != `"3"` {
		t.Errorf("paused again what somebody had resumed: %s", a.body)
	}

	run := s.askKeyed(t, 202, "POST", at+"/trigger", `{"n":1}`, "Idempotency-Key", "trigger")
	lose()
	if a := s.askKeyed(t, 202, "POST", at+"/trigger", `{"n":1}`, "Idempotency-Key", "trigger"); a.header.Get("Location") != run.header.Get("Location") {
		t.Errorf("triggered again: %+v, want %+v", a, run)
	}
	canceled := s.askKeyed(t, 202, "POST", run.header.Get("Location")+"/cancel", "", "Idempotency-Key", "cancel")
	s.askKeyed(t, 409, "POST", run.header.Get("Location")+"/cancel", "", "Idempotency-Key", "cancel-2")
	lose()
	if a := s.askKeyed(t, 202, "POST", run.header.Get("Location")+"/cancel", "", "Idempotency-Key", "cancel"); a.body != canceled.body {
		t.Errorf("canceled again: %s, want %s", a.body, canceled.body)
	}
	again := s.askKeyed(t, 202, "POST", run.header.Get("Location")+"/rerun", "", "Idempotency-Key", "rerun")
	lose()
	if a := s.askKeyed(t, 202, "POST", run.header.Get("Location")+"/rerun", "", "Idempotency-Key", "rerun"); a.header.Get("Location") != again.header.Get("Location") {
		t.Errorf("run again twice: %+v, want %+v", a, again)
	}
	if n := countOf(t, pool, `SELECT count(*) FROM runs`); n != 2 {
		t.Errorf("%d runs, want 2", n)
	}
	s.askKeyed(t, 204, "DELETE", at, "", "Idempotency-Key", "delete")
	lose()
	s.askKeyed(t, 204, "DELETE", at, "", "Idempotency-Key", "delete")
	s.askKeyed(t, 404, "DELETE", at, "", "Idempotency-Key", "delete-2")
	if n := countOf(t, pool, `SELECT count(*) FROM definitions`); n != 1 {
		t.Errorf("%d definitions were made, want 1", n)
	}
}

// The connection to Postgres breaks at the commit of a creation and of a trigger. The client is told that nobody knows, and asking
// again with the key makes one.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		how  testenv.Break
		rows int
	}{{"lost request", testenv.LostRequest, 0}, {"lost answer", testenv.LostAnswer, 1}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			database := testenv.DatabaseURL(t)
			direct := testenv.OpenPool(t, database)
			wire, through := testenv.NewWire(t, database, testenv.IsCommit)
			s := serve(t, testenv.OpenPool(t, through), nobody(t), "nobodys-queue")
			wire.Break(test.how)
			p := s.askKeyed(t, 503, "POST", "/activity-definitions/", madeByHand, "Idempotency-Key", "k")
			if p.problem() != "outcome-unknown" || p.header.Get("Retry-After") != "2" || !strings.Contains(p.body, "may or may not") {
				t.Errorf("told %v %s", p.header, p.body)
			}
			if n := countOf(t, direct, `SELECT count(*) FROM definitions`); n != test.rows {
				t.Errorf("%d definitions, want %d", n, test.rows)
			}
			created := s.askKeyed(t, 201, "POST", "/activity-definitions/", madeByHand, "Idempotency-Key", "k")
			if n := countOf(t, direct, `SELECT count(*) FROM definitions`); n != 1 {
				t.Errorf("%d definitions in the end", n)
			}
			at := created.header.Get("Location") + "/trigger"
			wire.Break(test.how)
			if p := s.askKeyed(t, 503, "POST", at, "", "Idempotency-Key", "t"); p.problem() != "outcome-unknown" {
				t.Errorf("told %s", p.body)
			}
			if n := countOf(t, direct, `SELECT count(*) FROM runs`); n != test.rows {
				t.Errorf("%d runs, want %d", n, test.rows)
			}
			s.askKeyed(t, 202, "POST", at, "", "Idempotency-Key", "t")
			if n := countOf(t, direct, `SELECT count(*) FROM runs`); n != 1 {
				t.Errorf("%d runs in the end", n)
			}
			// Without a key nobody is invited to try again.
			wire.Break(test.how)
			p = s.askKeyed(t, 503, "PUT", created.header.Get("Location"), `{"description":"x"}`)
			if p.problem() != "outcome-unknown" || p.header.Get("Retry-After") != "" {
				t.Errorf("told %v %s", p.header, p.body)
			}
		})
	}
}

// TestConcurrentEdits goes through what an ETag is good for.
func TestConcurrentEdits(t *testing.T) {
	t.Parallel()
	s := newService(t)
	const cron = `{"name":"c","trigger_config":{"trigger_type":"cron","cron_expression":"@daily"}}`
	tag := func(a said, want string) {
		t.Helper()
		if got := a.header.Get("ETag"); got != want {
			t.Errorf("ETag %s, want %s", got, want)
		}
	}
	created := s.askKeyed(t, 201, "POST", "/activity-definitions/", cron)
	at := created.header.Get("Location")
	tag(created, `"1"`)
	tag(s.askKeyed(t, 200, "GET", at, ""), `"1"`)
	tag(s.askKeyed(t, 200, "PUT", at, `{"description":"a"}`, "If-Match", `"1"`), `"2"`)
	tag(s.askKeyed(t, 200, "PUT", at, `{"description":"a"}`, "If-Match", `"2"`), `"2"`) // changes nothing
	stale := s.askKeyed(t, 412, "PATCH", at, `{"description":"b"}`, "If-Match", `"1"`)
	tag(stale, `"2"`)
	if stale.problem() != "precondition-failed" || !strings.Contains(stale.body, "revision 2 is in force, and the wanted one is 1") {
		t.Errorf("stale: %s", stale.body)
	}
	tag(s.askKeyed(t, 200, "PATCH", at, `{"description":"b"}`, "If-Match", `"7", "2"`, "Content-Type", "application/merge-patch+json"), `"3"`)
	s.askKeyed(t, 412, "POST", at+"/pause", "", "If-Match", `W/"3"`)
	tag(s.askKeyed(t, 200, "POST", at+"/pause", "", "If-Match", `"3"`), `"4"`)
	s.askKeyed(t, 412, "POST", at+"/resume", "", "If-Match", `"3"`)
	tag(s.askKeyed(t, 200, "POST", at+"/resume", "", "If-Match", "*"), `"5"`)
	tag(s.askKeyed(t, 200, "PUT", at, `{"description":"c"}`), `"6"`) // nobody has to send it
	s.askKeyed(t, 412, "DELETE", at, "", "If-Match", `"5"`)
	s.askKeyed(t, 422, "DELETE", at, "", "If-Match", `6`)
	s.askKeyed(t, 204, "DELETE", at, "", "If-Match", `"6"`)
	s.askKeyed(t, 404, "DELETE", at, "", "If-Match", `"6"`)

	// Of many writers with one tag, one wins.
	at = s.askKeyed(t, 201, "POST", "/activity-definitions/", madeByHand).header.Get("Location")
	var mu sync.Mutex
	var wait sync.WaitGroup
	statuses := map[int]int{}
	for i := range 10 {
		wait.Go(func() {
			a, err := s.send(t.Context(), "PUT", at, fmt.Sprintf(`{"description":"by %d"}`, i), "If-Match", `"1"`)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			statuses[a.status]++
		})
	}
	wait.Wait()
	if statuses[200] != 1 || statuses[412] != 9 {
		t.Errorf("ten writers: %v", statuses)
	}
}
