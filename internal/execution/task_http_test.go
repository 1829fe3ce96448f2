package execution

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

func httpWork(t *testing.T, with definition.HTTPTask) *definition.TaskWork {
	t.Helper()
	return &definition.TaskWork{
		Run: definition.Run{ID: fakeRunID, DefinitionName: "fake", Kind: definition.KindEvent, Revision: 3,
			AcceptedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Input: []byte(`{"n":1e400}`)},
		Task: task(t, "call", definition.TaskHTTP, with),
	}
}

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

func testRequester(t *testing.T) *requester {
	t.Helper()
	r := newRequester()
	t.Cleanup(r.close)
	return r
}

func TestHTTPRequest(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"a": "<b>"}`)
	})
	out, err := testRequester(t).run(t.Context(), httpWork(t, definition.HTTPTask{URL: url + "/hook?x=1"}))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"status":200,"content_type":"application/json","body":{"a":"<b>"}}`; string(out) != want {
		t.Errorf("output %s, want %s", out, want)
	}
	if got.Method != "POST" || got.URL.String() != "/hook?x=1" {
		t.Errorf("request %s %s", got.Method, got.URL)
	}
	for name, want := range map[string]string{
		"User-Agent": "activity-core", "Content-Type": "application/json", "Idempotency-Key": fakeRunID + ":call",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("header %s is %q, want %q", name, v, want)
		}
	}
	var sent definition.RunContext
	if err := json.Unmarshal(body, &sent); err != nil || sent.RunID != fakeRunID || string(sent.Input) != `{"n":1e400}` {
		t.Errorf("sent %s: %v", body, err)
	}
}

func TestHTTPGivenRequest(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %d", r.Method, r.Host, r.Header.Get("User-Agent"), body, len(r.Header["Content-Type"]))
	})
	for name, c := range map[string]struct {
		with definition.HTTPTask
		want string
	}{
		"headers and body": {
			definition.HTTPTask{Method: "PUT", Body: json.RawMessage(`[1]`),
				Headers: map[string]string{"host": "other.example", "user-agent": "mine"}},
			"PUT other.example mine [1] 1",
		},
		"GET has no body": {definition.HTTPTask{Method: "GET", Headers: map[string]string{"Host": "h"}}, "GET h activity-core  0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.with.URL = url
			out, err := testRequester(t).run(t.Context(), httpWork(t, c.with))
			if err != nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%s, %v; want %q", out, err, c.want)
			}
		})
	}
}

func TestHTTPStatus(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		fmt.Sscanf(r.URL.Path, "/%d", &status) //nolint:errcheck // 0 then
		w.WriteHeader(status)
		if status != http.StatusNoContent {
			fmt.Fprint(w, "said")
		}
	})
	r := testRequester(t)
	for status, want := range map[int]string{
		200: "", 201: "", 204: "",
		304: "permanent", 400: "permanent", 401: "permanent", 404: "permanent", 409: "permanent", 422: "permanent",
		408: "again", 425: "again", 429: "again", 500: "again", 502: "again", 503: "again", 599: "again",
	} {
		out, err := r.run(t.Context(), httpWork(t, definition.HTTPTask{URL: fmt.Sprintf("%s/%d?token=secret", url, status)}))
		got := ""
		if err != nil {
			got = "again"
			if isPermanent(err) {
				got = "permanent"
			}
			if strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), fmt.Sprint(status)) {
				t.Errorf("%d: error %q", status, err)
			}
		}
		if got != want || !strings.Contains(string(out), fmt.Sprintf(`"status":%d`, status)) {
			t.Errorf("%d: %q, want %q; output %s", status, got, want, out)
		}
	}
}

func TestHTTPUnreachable(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(nil)
	s.Close()
	_, err := testRequester(t).run(t.Context(), httpWork(t, definition.HTTPTask{URL: s.URL + "/secret?token=secret"}))
	if err == nil || isPermanent(err) || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error %v", err)
	}
}

func TestHTTPInterrupted(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := testRequester(t).run(ctx, httpWork(t, definition.HTTPTask{Method: "GET", URL: url})); err == nil {
		t.Error("an interrupted request succeeded")
	}
}

func TestHTTPLongAnswers(t *testing.T) {
	t.Parallel()
	bodies := map[string]string{
		"text":           strings.Repeat("a", 10<<20),
		"one too many":   strings.Repeat("a", definition.MaxOutput+1),
		"json":           `["` + strings.Repeat("a", definition.MaxOutput-100) + `"]`,
		"json too long":  `["` + strings.Repeat("a", definition.MaxOutput) + `"]`,
		"json just over": `["` + strings.Repeat("a", definition.MaxOutput-20) + `"]`,
		"escapes":        strings.Repeat("\x01", definition.MaxOutput),
		"runes":          strings.Repeat("é", definition.MaxOutput),
		"not utf-8":      strings.Repeat("a\xff", definition.MaxOutput/2),
	}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, bodies[r.URL.Query().Get("n")])
	})
	r := testRequester(t)
	for name, body := range bodies {
		out, err := r.run(t.Context(), httpWork(t, definition.HTTPTask{Method: "GET", URL: url + "?n=" + strings.ReplaceAll(name, " ", "+")}))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var o httpOutput
		if err := json.Unmarshal(out, &o); err != nil || len(out) > definition.MaxOutput {
			t.Fatalf("%s: %d bytes of output: %v", name, len(out), err)
		}
		if o.BodyTruncated != (name != "json") {
			t.Errorf("%s (%d bytes): truncated %v", name, len(body), o.BodyTruncated)
		}
		if len(out) < definition.MaxOutput/3 {
			t.Errorf("%s: only %d bytes were kept", name, len(out))
		}
	}
}

func TestHTTPRedirects(t *testing.T) {
	t.Parallel()
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "other %s %s %s", r.Header.Get("X-Api-Key"), r.Header.Get("Referer"), r.Header.Get("Idempotency-Key"))
	})
	var hops atomic.Int32
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/loop":
			hops.Add(1)
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/other":
			http.Redirect(w, r, other, http.StatusTemporaryRedirect)
		case "/same":
			http.Redirect(w, r, "/end", http.StatusTemporaryRedirect)
		case "/end":
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "end %s %s %s", r.Method, r.Header.Get("X-Api-Key"), body)
		}
	})
	r := testRequester(t)
	get := func(path string) (string, error) {
		out, err := r.run(t.Context(), httpWork(t, definition.HTTPTask{URL: url + path, Body: json.RawMessage(`"b"`),
			Headers: map[string]string{"X-Api-Key": "secret"}}))
		return string(out), err
	}
	if out, err := get("/same"); err != nil || !strings.Contains(out, `end POST secret \"b\"`) {
		t.Errorf("same host: %s, %v", out, err)
	}
	if out, err := get("/other"); err != nil || !strings.Contains(out, `other   `+fakeRunID+`:call`) {
		t.Errorf("other host: %s, %v", out, err)
	}
	if _, err := get("/loop"); err == nil || !isPermanent(err) || hops.Load() != maxRedirects+1 {
		t.Errorf("loop: %v after %d requests", err, hops.Load())
	}
}

func TestNoRedirectFromHTTPSToHTTP(t *testing.T) {
	t.Parallel()
	plain := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("followed") })
	s := httptest.NewTLSServer(http.RedirectHandler(plain, http.StatusFound))
	t.Cleanup(s.Close)
	r := testRequester(t)
	r.client.Transport = s.Client().Transport
	if _, err := r.run(t.Context(), httpWork(t, definition.HTTPTask{URL: s.URL})); err == nil || !isPermanent(err) {
		t.Errorf("error %v", err)
	}
}
