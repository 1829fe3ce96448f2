package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func ok(context.Context) error { return nil }

func newReadiness(t *testing.T, stopping <-chan struct{}, checks map[string]Check) *Readiness {
	t.Helper()
	r, err := NewReadiness(ReadinessOptions{Checks: checks, Log: quiet(), Stopping: stopping})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	fail := func(text string) Check { return func(context.Context) error { return errors.New(text) } }
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, c := range []struct {
		name   string
		checks map[string]Check
		code   int
		body   Report
	}{
		{
			"all ok", map[string]Check{"postgres": ok, "schema": ok},
			200, Report{"ready", map[string]string{"postgres": "ok", "schema": "ok"}},
		},
		{
			"one bad", map[string]Check{"postgres": ok, "schema": fail("needs revision 3, has 2: run `migrate up`")},
			503, Report{"not_ready", map[string]string{"postgres": "ok", "schema": "needs revision 3, has 2: run `migrate up`"}},
		},
		{
			"several lines and a password", map[string]Check{"nats": fail("dial\n  nats://u:hunter2@h:4222 <refused>")},
			503, Report{"not_ready", map[string]string{"nats": "dial; nats://u:xxxxx@h:4222 <refused>"}},
		},
		{
			"hanging", map[string]Check{"postgres": ok, "a": hang, "b": hang},
			503, Report{"not_ready", map[string]string{
				"postgres": "ok",
				"a":        "no answer within 2s (context deadline exceeded)",
				"b":        "no answer within 2s (context deadline exceeded)",
			}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newReadiness(t, make(chan struct{}), c.checks)
				start := time.Now()
				w := httptest.NewRecorder()
				r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
				if took := time.Since(start); took > checkTimeout {
					t.Errorf("took %v: the checks did not run at the same time", took)
				}
				var got Report
				if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
					t.Fatalf("body %q: %v", w.Body, err)
				}
				if w.Code != c.code || got.Status != c.body.Status || !maps.Equal(got.Checks, c.body.Checks) {
					t.Errorf("got %d %+v, want %d %+v", w.Code, got, c.code, c.body)
				}
				if ct := w.Header().Get("Content-Type"); ct != "application/json" {
					t.Errorf("Content-Type = %q", ct)
				}
			})
		})
	}
}

func TestReadinessIsCachedForASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		r := newReadiness(t, make(chan struct{}), map[string]Check{"x": func(context.Context) error { asked.Add(1); return nil }})
		for range 5 {
			r.Report()
		}
		time.Sleep(checkCache - time.Millisecond)
		r.Report()
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times within a second, want once", n)
		}
		time.Sleep(time.Millisecond)
		r.Report()
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times after a second, want twice", n)
		}
	})
}

func TestReadinessTurnsRedAtTheSignal(t *testing.T) {
	t.Parallel()
	stopping := make(chan struct{})
	r := newReadiness(t, stopping, map[string]Check{"x": ok})
	if !r.Report().Ready() {
		t.Fatal("not ready before")
	}
	close(stopping)
	if got := r.Report(); got.Ready() || got.Checks["process"] != "stopping" {
		t.Errorf("report = %+v, want stopping, cache or not", got)
	}
}

func TestReadinessLogsChangesOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		var down atomic.Bool
		r, err := NewReadiness(ReadinessOptions{
			Log: slog.New(slog.NewTextHandler(&out, nil)), Stopping: make(chan struct{}),
			Checks: map[string]Check{"x": func(context.Context) error {
				if down.Load() {
					return errors.New("away")
				}
				return nil
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 9 {
			down.Store(i >= 3 && i < 6)
			r.Report()
			time.Sleep(checkCache)
		}
		if got := strings.Count(out.String(), "\n"); got != 3 {
			t.Errorf("%d log lines, want ready, not ready, ready:\n%s", got, out.String())
		}
	})
}

func TestNewReadinessNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	checks, stopping := map[string]Check{"x": ok}, make(chan struct{})
	for want, o := range map[string]ReadinessOptions{
		"checks":           {Log: quiet(), Stopping: stopping},
		"logger":           {Checks: checks, Stopping: stopping},
		"stopping channel": {Checks: checks, Log: quiet()},
		`check "y"`:        {Checks: map[string]Check{"y": nil}, Log: quiet(), Stopping: stopping},
	} {
		if _, err := NewReadiness(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want one that names %s", err, want)
		}
	}
}

// startOps runs an operations server on a free port until the test ends.
func startOps(t *testing.T, checks map[string]Check) *Ops {
	t.Helper()
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "actcore_test_total", Help: "Test."})
	registry.MustRegister(counter)
	ctx, cancel := context.WithCancel(context.Background())
	o, err := NewOps(OpsOptions{
		Addr: "127.0.0.1:0", Gatherer: registry, Log: quiet(),
		Readiness: newReadiness(t, ctx.Done(), checks),
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("operations server: %v", err)
		}
	})
	return o
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestOpsServer(t *testing.T) {
	t.Parallel()
	o := startOps(t, map[string]Check{"postgres": func(context.Context) error { return errors.New("connection refused") }})
	for _, c := range []struct {
		path, contains string
		code           int
	}{
		{"/healthz", `{"status":"ok"}`, 200},
		{"/readyz", `{"status":"not_ready","checks":{"postgres":"connection refused"}}`, 503},
		{"/metrics", "actcore_test_total 0", 200},
		{"/", "404", 404},
	} {
		code, body := get(t, "http://"+o.Addr()+c.path)
		if code != c.code || !strings.Contains(body, c.contains) {
			t.Errorf("GET %s = %d %q, want %d with %q", c.path, code, body, c.code, c.contains)
		}
	}
}

func TestOpsPortInUse(t *testing.T) {
	t.Parallel()
	o := startOps(t, map[string]Check{"x": ok})
	_, err := NewOps(OpsOptions{
		Addr: o.Addr(), Gatherer: prometheus.NewRegistry(), Log: quiet(),
		Readiness: newReadiness(t, make(chan struct{}), map[string]Check{"x": ok}),
	})
	want := fmt.Sprintf("%s is in use by another process: stop it, or set PROMETHEUS_BIND_ADDR to another address", o.Addr())
	if err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

func TestNewOpsNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	full := OpsOptions{
		Addr: "127.0.0.1:0", Gatherer: prometheus.NewRegistry(), Log: quiet(),
		Readiness: newReadiness(t, make(chan struct{}), map[string]Check{"x": ok}),
	}
	for want, drop := range map[string]func(*OpsOptions){
		"address":          func(o *OpsOptions) { o.Addr = "" },
		"metrics gatherer": func(o *OpsOptions) { o.Gatherer = nil },
		"logger":           func(o *OpsOptions) { o.Log = nil },
		"readiness":        func(o *OpsOptions) { o.Readiness = nil },
	} {
		o := full
		drop(&o)
		if _, err := NewOps(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want one that names %s", err, want)
		}
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	ready := startOps(t, map[string]Check{"x": ok})
	away := startOps(t, map[string]Check{
		"nats":     func(context.Context) error { return errors.New("no servers available") },
		"postgres": func(context.Context) error { return errors.New("connection refused") },
		"schema":   ok,
	})
	if err := Healthcheck(t.Context(), ready.Addr()); err != nil {
		t.Errorf("Healthcheck of a ready service: %v", err)
	}
	const want = "not ready: nats: no servers available; postgres: connection refused"
	if err := Healthcheck(t.Context(), away.Addr()); err == nil || err.Error() != want {
		t.Errorf("Healthcheck = %v, want %s", err, want)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := Healthcheck(t.Context(), listener.Addr().String()); err == nil {
		t.Error("Healthcheck of nothing: no error")
	}
}

func TestReadyURL(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"127.0.0.1:9090": "http://127.0.0.1:9090/readyz",
		"0.0.0.0:9090":   "http://127.0.0.1:9090/readyz",
		":9090":          "http://127.0.0.1:9090/readyz",
		"[::]:9090":      "http://[::1]:9090/readyz",
		"worker:9090":    "http://worker:9090/readyz",
	} {
		if got, err := readyURL(addr); err != nil || got != want {
			t.Errorf("readyURL(%s) = %s, %v, want %s", addr, got, err, want)
		}
	}
}

func TestServeLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		io.WriteString(w, "done")
	})
	listener, err := Listen("TEST_ADDR", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, NewHTTPServer(handler, quiet()), listener) }()
	answer := make(chan string, 1)
	go func() {
		_, body := get(t, "http://"+listener.Addr().String())
		answer <- body
	}()
	<-entered
	cancel()
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("answer = %q, want done", got)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// The request's line and headers together may have 64 KiB. A little more is let through by net/http, much more is not.
func TestHeadersAreLimited(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "done") })
	listener, err := Listen("TEST_ADDR", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, NewHTTPServer(handler, quiet()), listener) }()
	const tooLarge = http.StatusRequestHeaderFieldsTooLarge
	for size, want := range map[int]int{63 << 10: http.StatusOK, 70 << 10: tooLarge, 1 << 20: tooLarge} {
		for _, where := range []string{"header", "query"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String()+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if where == "header" {
				r.Header.Set("X-Padding", strings.Repeat("x", size))
			} else {
				r.URL.RawQuery = "x=" + strings.Repeat("x", size)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				if want == http.StatusOK { // the server may close before it has been sent all of what is too large
					t.Errorf("a %s of %d bytes: %v", where, size, err)
				}
				continue
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("a %s of %d bytes: %d, want %d", where, size, resp.StatusCode, want)
			}
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
