package api

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// keyring knows credentials, and counts how often it is asked.
type keyring struct {
	mu    sync.Mutex
	knows map[string]access.Caller
	asked int
	ended int // how many of the questions were given up
	err   error
	begun chan<- string // of each question, if anybody listens; then it goes on when gate says so
	gate  <-chan struct{}
}

func (k *keyring) Authenticate(ctx context.Context, credential string) (access.Caller, error) {
	if k.begun != nil {
		k.begun <- credential
		<-k.gate
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	if err := ctx.Err(); err != nil {
		k.ended++
		return access.Caller{}, err
	}
	if k.err != nil {
		return access.Caller{}, k.err
	}
	c, ok := k.knows[credential]
	if !ok {
		return access.Caller{}, fmt.Errorf("%w: it is unknown", access.ErrUnknown)
	}
	return c, nil
}

func (k *keyring) take() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.asked
	k.asked = 0
	return n
}

// limitedAPI is an API whose clock stands still, and two callers of it.
type limitedAPI struct {
	*API
	keys *keyring
	now  atomic.Pointer[time.Time]
}

func newLimitedAPI(t *testing.T, limits Limits) *limitedAPI {
	t.Helper()
	l := &limitedAPI{keys: &keyring{knows: map[string]access.Caller{
		"anna": {ID: "token:a", Name: "anna", Role: access.Viewer}, "bob": {ID: "token:b", Name: "bob", Role: access.Viewer},
	}}}
	o := testOptions()
	o.Access, o.Limits = l.keys, limits
	l.API = newAPI(t, o)
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l.now.Store(&start)
	l.API.now = func() time.Time { return *l.now.Load() }
	return l
}

func (l *limitedAPI) pass(d time.Duration) {
	now := l.now.Load().Add(d)
	l.now.Store(&now)
}

func (l *limitedAPI) ask(t *testing.T, method, path, credential, address string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	r.RemoteAddr = address
	if credential != "" {
		r.Header.Set("Authorization", "Bearer "+credential)
	}
	w := httptest.NewRecorder()
	l.ServeHTTP(w, r)
	return w
}

func wantLimited(t *testing.T, w *httptest.ResponseRecorder, retryAfter, detail string) {
	t.Helper()
	p := wantProblem(t, w, 429, "too-many-requests")
	if got := w.Header().Get("Retry-After"); got != retryAfter || p.Detail != detail {
		t.Errorf("Retry-After %q, detail %q; want %q, %q", got, p.Detail, retryAfter, detail)
	}
}

const home = "192.0.2.1:4711"

// A caller that makes more requests than it may is told so, by whatever method, while another one at the same address goes on.
func TestLimitOfCaller(t *testing.T) {
	t.Parallel()
	a := newLimitedAPI(t, Limits{Caller: 20})
	asks := [][2]string{{"GET", "/runs"}, {"HEAD", "/runs"}, {"POST", "/replays"}, {"DELETE", "/backfills/" + someID}, {"PATCH",
		"/activity-definitions/" + someID}}
	for i := range 25 { // the method of every fifth is not possible there, so that it is nobody's
		if w := a.ask(t, asks[i%5][0], asks[i%5][1], "anna", home); w.Code == 429 {
			t.Fatalf("request %d, %s, is refused", i+1, asks[i%5])
		}
	}
	const detail = "anna makes more than 20 requests a minute, which is the most that one caller may make: try again in 3 s"
	wantLimited(t, a.ask(t, "GET", "/runs", "anna", home), "3", detail)
	wantLimited(t, a.ask(t, "DELETE", "/activity-definitions/"+someID, "anna", "[2001:db8::1]:1"), "3", detail)
	if w := a.ask(t, "HEAD", "/runs", "anna", home); w.Code != 429 || w.Header().Get("Retry-After") != "3" {
		t.Errorf("HEAD: %d %v", w.Code, w.Header())
	}
	if w := a.ask(t, "GET", "/runs", "bob", home); w.Code != 200 {
		t.Errorf("another caller: %d %s", w.Code, w.Body)
	}
	for _, path := range []string{"/healthz", "/readyz/", "/docs", "/problems"} { // not asked as anybody
		if w := a.ask(t, "GET", path, "anna", home); w.Code != 200 {
			t.Errorf("GET %s: %d", path, w.Code)
		}
	}

	a.pass(2 * time.Second)
	if w := a.ask(t, "GET", "/runs", "anna", home); w.Code != 429 || w.Header().Get("Retry-After") != "1" {
		t.Errorf("too early: %d %v", w.Code, w.Header())
	}
	a.pass(time.Second)
	if w := a.ask(t, "GET", "/runs", "anna", home); w.Code != 200 {
		t.Errorf("as late as it was told: %d %s", w.Code, w.Body)
	}
	wantLimited(t, a.ask(t, "GET", "/runs", "anna", home), "3", detail)
	a.pass(time.Hour) // no more than a minute's worth is saved up
	for i := range 21 {
		if w := a.ask(t, "GET", "/runs", "anna", home); (w.Code == 429) != (i == 20) {
			t.Errorf("request %d after an hour: %d", i+1, w.Code)
		}
	}
	if got := a.count(t, "caller"); got != 6 {
		t.Errorf("actcore_http_limited_total{limit=caller} is %v, want 6", got)
	}
}

// An address is counted whatever it asks for and as whomever, but for the questions of the platform. An IPv6 address is its /64.
func TestLimitOfAddress(t *testing.T) {
	t.Parallel()
	a := newLimitedAPI(t, Limits{Address: 6})
	asks := [][3]string{{"GET", "/runs", "anna"}, {"GET", "/runs", "bob"}, {"HEAD", "/runs", ""}, {"GET", "/docs", ""}, {"BREW", "/coffee", ""},
		{"POST", "/replays", "nobody"}}
	for _, test := range []struct{ first, also, other, name string }{
		{home, "192.0.2.1:1", "192.0.2.2:1", "192.0.2.1"},
		{"[2001:db8:1:2:3::4]:1", "[2001:db8:1:2:ffff::1]:2", "[2001:db8:1:3::4]:1", "2001:db8:1:2::/64"},
		{"[::ffff:198.51.100.7]:1", "198.51.100.7:1", "[::ffff:198.51.100.8]:1", "198.51.100.7"},
		{"[fe80::1%eth0]:1", "[fe80::2%eth1]:1", "[fe81::1]:1", "fe80::/64"},
	} {
		a.keys.take()
		for _, ask := range asks {
			if w := a.ask(t, ask[0], ask[1], ask[2], test.first); w.Code == 429 {
				t.Fatalf("%v from %s is refused", ask, test.first)
			}
		}
		asked := a.keys.take()
		for _, ask := range asks {
			if w := a.ask(t, ask[0], ask[1], ask[2], test.also); w.Code != 429 || w.Header().Get("Retry-After") != "10" {
				t.Errorf("%v from %s: %d %v", ask, test.also, w.Code, w.Header())
			}
		}
		wantLimited(t, a.ask(t, "GET", "/runs", "anna", test.first), "10",
			"more than 6 requests a minute came from the address "+test.name+", which is the most that one address may make: try again in 10 s")
		if n := a.keys.take(); asked != 3 || n != 0 {
			t.Errorf("credentials from %s were looked at %d and then %d times, want 3 and 0", test.first, asked, n)
		}
		for _, path := range []string{"/healthz", "/healthz/", "/readyz"} {
			if w := a.ask(t, "GET", path, "", test.first); w.Code != 200 {
				t.Errorf("GET %s from %s: %d", path, test.first, w.Code)
			}
		}
		if w := a.ask(t, "GET", "/runs", "anna", test.other); w.Code != 200 {
			t.Errorf("%s is counted with %s: %d", test.other, test.first, w.Code)
		}
	}
	if got := a.count(t, "address"); got != 4*7 {
		t.Errorf("actcore_http_limited_total{limit=address} is %v, want %d", got, 4*7)
	}
}

// Who guesses is not looked at for long, while a credential that was good before goes on working, and so does everybody elsewhere.
func TestLimitOfFailedCredentials(t *testing.T) {
	t.Parallel()
	a := newLimitedAPI(t, Limits{FailedCredentials: DefaultFailedCredentials})
	for range 2 * DefaultFailedCredentials { // good ones do not count, and neither do requests without any
		if w := a.ask(t, "GET", "/runs", "anna", home); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		wantProblem(t, a.ask(t, "GET", "/runs", "", home), 401, "unauthorized")
	}
	a.keys.take()
	for i := range DefaultFailedCredentials {
		wantProblem(t, a.ask(t, "GET", "/runs", fmt.Sprint("guess", i), home), 401, "unauthorized")
	}
	const detail = "more than 60 credentials a minute that are not valid came from the address 192.0.2.1, and no other one is looked at now; " +
		"those that were good before go on working: try again in 1 s"
	for i := range 100 {
		wantLimited(t, a.ask(t, "GET", "/runs", fmt.Sprint("another guess", i), home), "1", detail)
	}
	wantLimited(t, a.ask(t, "GET", "/runs", "bob", home), "1", detail) // nobody can know that it is good
	if n := a.keys.take(); n != DefaultFailedCredentials {
		t.Errorf("%d credentials were looked at, want %d", n, DefaultFailedCredentials)
	}
	if w := a.ask(t, "GET", "/runs", "anna", home); w.Code != 200 {
		t.Errorf("a credential that was good before: %d %s", w.Code, w.Body)
	}
	if w := a.ask(t, "GET", "/runs", "bob", "192.0.2.2:1"); w.Code != 200 {
		t.Errorf("from elsewhere: %d %s", w.Code, w.Body)
	}
	if w := a.ask(t, "GET", "/runs", "bob", home); w.Code != 200 {
		t.Errorf("it was good elsewhere: %d %s", w.Code, w.Body)
	}
	a.keys.mu.Lock()
	delete(a.keys.knows, "anna")
	a.keys.mu.Unlock()
	wantProblem(t, a.ask(t, "GET", "/runs", "anna", home), 401, "unauthorized")
	wantLimited(t, a.ask(t, "GET", "/runs", "anna", home), "1", detail) // revoked: as any other

	a.pass(time.Second)
	wantProblem(t, a.ask(t, "GET", "/runs", "guess", home), 401, "unauthorized")
	wantLimited(t, a.ask(t, "GET", "/runs", "guess", home), "1", detail)
	if got := a.count(t, "credential"); got != 103 {
		t.Errorf("actcore_http_limited_total{limit=credential} is %v, want 103", got)
	}
}

// What cannot be looked at is not counted as no good.
func TestLimitOfCredentialsWhileStorageIsAway(t *testing.T) {
	t.Parallel()
	a := newLimitedAPI(t, Limits{FailedCredentials: 2})
	a.keys.err = fmt.Errorf("look: %w", definition.ErrUnavailable)
	for i := range 5 {
		wantProblem(t, a.ask(t, "GET", "/runs", fmt.Sprint("c", i), home), 503, "unavailable")
	}
	a.keys.err = nil
	if w := a.ask(t, "GET", "/runs", "anna", home); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A new client sends many requests at once. Its credential is looked at once, also when the first of them is given up.
func TestManyFirstRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newLimitedAPI(t, Limits{FailedCredentials: 2})
		begun, gate := make(chan string, 100), make(chan struct{})
		a.keys.begun, a.keys.gate = begun, gate
		ctx, giveUp := context.WithCancel(t.Context())
		first, others := make(chan int, 1), make(chan int, 50)
		ask := func(ctx context.Context, codes chan<- int) {
			r := httptest.NewRequestWithContext(ctx, "GET", "/runs", nil)
			r.RemoteAddr = home
			r.Header.Set("Authorization", "Bearer anna")
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			codes <- w.Code
		}
		go ask(ctx, first)
		<-begun
		for range 50 {
			go ask(t.Context(), others)
		}
		synctest.Wait() // all of them wait now
		giveUp()
		close(gate)
		<-first
		for range 50 {
			if code := <-others; code != 200 {
				t.Fatalf("a request is answered %d", code)
			}
		}
		if n := a.keys.take(); n != 1 || a.keys.ended != 0 {
			t.Errorf("the credential was looked at %d times, %d of which ended with the request that began them; want 1 and 0", n, a.keys.ended)
		}
	})
}

// A flood of addresses does not grow the memory beyond its bound, and what is used goes on being counted.
func TestLimitsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLimit(2)
	now := time.Now()
	for i := range 4*maxTracked + 17 {
		l.take(fmt.Sprint("address", i), now)
		if wait, _ := l.take("busy", now); (wait > 0) != (i >= 2) {
			t.Fatalf("after %d addresses the busy one waits %v", i, wait)
		}
	}
	if n := len(l.buckets.young) + len(l.buckets.old); n > 2*maxTracked || n < maxTracked {
		t.Errorf("%d addresses are kept, want %d to %d", n, maxTracked, 2*maxTracked)
	}
	if wait, _ := l.take(strings.Repeat("x", 10), now); wait != 0 {
		t.Errorf("a new address waits %v", wait)
	}
}

// count reads the metric of refused requests.
func (l *limitedAPI) count(t *testing.T, limit string) float64 {
	t.Helper()
	var m dto.Metric
	if err := l.metrics.limited.WithLabelValues(limit).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}
