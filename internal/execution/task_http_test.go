package execution

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/egress"
	"github.com/activity-core/activity-core/internal/expression"
)

func httpWork(t *testing.T, with definition.HTTPTask) *definition.TaskWork {
	t.Helper()
	work := &definition.TaskWork{
		Run: definition.Run{ID: fakeRunID, DefinitionName: "fake", Kind: definition.KindEvent, Revision: 3,
			AcceptedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Input: []byte(`{"n":1e400}`)},
		Task: task(t, "call", definition.TaskHTTP, with), Item: -1,
	}
	var err error
	if work.Output, err = work.Task.OutputTemplate(); err != nil {
		t.Fatal(err)
	}
	return work
}

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

func testRequester(t *testing.T) *requester {
	t.Helper()
	r := newRequester(loopback(t), testSecrets(map[string]string{"TOKEN": secretToken, "LONG": strings.Repeat("s3cr3t", 100)}))
	t.Cleanup(r.close)
	return r
}

const secretToken = "s3cr3t-t0ken"

// loopback allows the tests' own servers.
func loopback(t *testing.T) egress.Allow {
	t.Helper()
	allow, err := egress.ParseAllow("127.0.0.0/8,::1")
	if err != nil {
		t.Fatal(err)
	}
	return allow
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

func TestHTTPBodiesAndQueries(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s [%s] %s", r.RequestURI, r.Header.Get("Content-Type"), body)
	})
	text := "a=1&b=ä"
	empty := ""
	for name, c := range map[string]struct {
		path string
		with definition.HTTPTask
		want string
	}{
		"text":               {"/", definition.HTTPTask{RawBody: &text}, "/ [text/plain; charset=utf-8] a=1&b=ä"},
		"no text":            {"/", definition.HTTPTask{RawBody: &empty}, "/ [text/plain; charset=utf-8] "},
		"text of a kind":     {"/", definition.HTTPTask{RawBody: &text, Headers: map[string]string{"content-type": "x/y"}}, "/ [x/y] a=1&b=ä"},
		"json of a kind":     {"/", definition.HTTPTask{Body: json.RawMessage(`{}`), Headers: map[string]string{"Content-Type": "a/b+json"}}, "/ [a/b+json] {}"},
		"query":              {"/", definition.HTTPTask{Body: json.RawMessage(`1`), Query: map[string]string{"q": "a b&c=ä", "p": ""}}, "/?p=&q=a+b%26c%3D%C3%A4 [application/json] 1"},
		"query beside one":   {"/?x=%31&q=1", definition.HTTPTask{Body: json.RawMessage(`1`), Query: map[string]string{"q": "2"}}, "/?x=%31&q=1&q=2 [application/json] 1"},
		"unescaped in query": {"/?q=a b ä\"<", definition.HTTPTask{Body: json.RawMessage(`1`)}, "/?q=a%20b%20%C3%A4%22%3C [application/json] 1"},
		"fragment":           {"/#f", definition.HTTPTask{Body: json.RawMessage(`1`)}, "/ [application/json] 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.with.URL = url + c.path
			out, err := testRequester(t).run(t.Context(), httpWork(t, c.with))
			var got httpOutput
			if err != nil || json.Unmarshal(out, &got) != nil || got.Body != c.want {
				t.Errorf("%v, %v; want %q", got.Body, err, c.want)
			}
		})
	}
}

func TestHTTPNotARequest(t *testing.T) {
	t.Parallel()
	url := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was made") })
	for name, c := range map[string]struct {
		with definition.HTTPTask
		want string
	}{
		"scheme":   {definition.HTTPTask{URL: "file:///etc/passwd?" + secretToken}, "the task's url is not an absolute http or https URL, as in https://example.com/hook"},
		"gopher":   {definition.HTTPTask{URL: "gopher://127.0.0.1/" + secretToken}, "the task's url is not an absolute http or https URL, as in https://example.com/hook"},
		"no url":   {definition.HTTPTask{URL: "http://[" + secretToken}, "the task's url is not an absolute http or https URL, as in https://example.com/hook"},
		"no host":  {definition.HTTPTask{URL: "http:///" + secretToken}, "the task's url is not an absolute http or https URL, as in https://example.com/hook"},
		"user":     {definition.HTTPTask{URL: strings.Replace(url, "//", "//u:"+secretToken+"@", 1)}, "the task's url holds a user name or a password: send the header Authorization instead"},
		"line end": {definition.HTTPTask{URL: url, Headers: map[string]string{"X-A": "a\r\nX-B: " + secretToken}}, "the value of the header X-A holds a line end or another control character"},
		"zero":     {definition.HTTPTask{URL: url, Headers: map[string]string{"Host": "a\x00" + secretToken}}, "the value of the header Host holds a line end or another control character"},
	} {
		_, err := testRequester(t).run(t.Context(), httpWork(t, c.with))
		if err == nil || err.Error() != c.want || !isPermanent(err) {
			t.Errorf("%s: %v, want %q for good", name, err, c.want)
		}
	}
}

func TestHTTPExpectedStatus(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		fmt.Sscanf(r.URL.Path, "/%d", &status) //nolint:errcheck // 0 then
		w.Header().Set("Location", "/200")
		w.WriteHeader(status)
	})
	r := testRequester(t)
	for _, c := range []struct {
		status   int
		expected []int
		want     string // "" for a success
	}{
		{404, []int{200, 404}, ""}, {503, []int{503}, ""}, {200, []int{200, 404}, ""}, {302, []int{302}, ""},
		{201, []int{200}, "http_201 for good"}, {500, []int{404}, "http_500"}, {410, nil, "http_410 for good"}, {429, nil, "http_429"},
		{302, nil, ""}, {302, []int{404}, "http_200 for good"},
	} {
		out, err := r.run(t.Context(), httpWork(t, definition.HTTPTask{Method: "GET", URL: fmt.Sprintf("%s/%d", url, c.status), ExpectedStatus: c.expected}))
		got := ""
		if err != nil {
			if got = kindOf(err); isPermanent(err) {
				got += " for good"
			}
		}
		if got != c.want || len(c.expected) == 1 && c.expected[0] == 302 && !strings.Contains(string(out), `"status":302`) {
			t.Errorf("%d where %v is expected: %q (%v), want %q; output %s", c.status, c.expected, got, err, c.want, out)
		}
	}
}

func TestHTTPRetryAfter(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", r.URL.Query().Get("after"))
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	for after, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "0": 0, "-1": 0, "soon": 0, "86400": time.Minute, "99999999999999999999": 0,
		"Fri, 01 Jan 2100 00:00:00 GMT": time.Minute, "Thu, 01 Jan 1970 00:00:00 GMT": 0} {
		_, err := testRequester(t).run(t.Context(), httpWork(t, definition.HTTPTask{URL: url, Query: map[string]string{"after": after}}))
		if err == nil || isPermanent(err) || delayOf(err) != want || kindOf(err) != "http_503" {
			t.Errorf("Retry-After %q: %v after %s, want %s", after, err, delayOf(err), want)
		}
	}
}

func TestHTTPTraceparent(t *testing.T) {
	t.Parallel()
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("traceparent")) })
	send := func(traceID string, headers map[string]string) string {
		t.Helper()
		work := httpWork(t, definition.HTTPTask{URL: url, Headers: headers})
		work.Run.TraceID = traceID
		out, err := testRequester(t).run(t.Context(), work)
		var got struct{ Body string }
		if err != nil || json.Unmarshal(out, &got) != nil {
			t.Fatalf("%s, %v", out, err)
		}
		return got.Body
	}
	first, second := send(trace, nil), send(trace, nil)
	if definition.TraceID(first) != trace || !strings.HasSuffix(first, "-01") || first == second {
		t.Errorf("%s and %s, want two spans of %s", first, second, trace)
	}
	for _, id := range []string{"", "mine", "4BF92F3577B34DA6A3CE929D0E0E4736", "00000000000000000000000000000000"} {
		if got := send(id, nil); got != "" {
			t.Errorf("trace id %q makes %q", id, got)
		}
	}
	if got := send(trace, map[string]string{"Traceparent": "mine"}); got != "mine" {
		t.Errorf("%q, want the definition's own", got)
	}
}

func TestHTTPIdempotencyKeyOfAnItem(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Idempotency-Key")) })
	for item, want := range map[int]string{-1: fakeRunID + ":call", 0: fakeRunID + ":call:0", 12: fakeRunID + ":call:12"} {
		work := httpWork(t, definition.HTTPTask{URL: url})
		work.Item = item
		if out, err := testRequester(t).run(t.Context(), work); err != nil || !strings.Contains(string(out), `"`+want+`"`) {
			t.Errorf("item %d: %s, %v; want %s", item, out, err, want)
		}
	}
}

func TestHTTPOutput(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Two"] = []string{"first", "second"}
		switch r.URL.Path {
		case "/json":
			fmt.Fprint(w, `{"id": 7, "tags": ["a", "b"]}`)
		case "/text":
			fmt.Fprint(w, "plain")
		case "/long":
			fmt.Fprint(w, strings.Repeat("a", definition.MaxOutput+1))
		case "/missing":
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "gone")
		}
	})
	for name, c := range map[string]struct{ path, output, want, fault string }{
		"whole":     {path: "/json", output: `"${response.body}"`, want: `{"id":7,"tags":["a","b"]}`},
		"parts":     {path: "/json", output: `{"id": "${response.body.id}", "two": "${response.headers[\"x-two\"]} ${response.status}"}`, want: `{"id":7,"two":"first 200"}`},
		"text":      {path: "/text", output: `"${response.body.upperAscii()}"`, want: `"PLAIN"`},
		"nothing":   {path: "/empty", output: `"${response.body == \"\"}"`, want: `true`},
		"of others": {path: "/json", output: `["${tasks.first.output}", "${run.id}"]`, want: `["one","r"]`},
		"no secret": {path: "/json", output: `"${tasks.first.output}"`, want: `"one"`},
		"long":      {path: "/long", output: `"${response.status}"`, want: `200`},
		"fixed":     {path: "/json", output: `{"a":1}`, want: `{"a":1}`},
		"absent": {path: "/json", output: `{"n": "${response.body.name}"}`,
			fault: "the request was answered 200 OK, but the output cannot be made of that: with.output.n: ${response.body.name}: no such key: name"},
		"too long": {path: "/long", output: `"${response.body}"`, fault: "(the answer's body has more than 1024 KiB, so it is not there to be read)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			work := httpWork(t, definition.HTTPTask{Method: "GET", URL: url + c.path, Output: json.RawMessage(c.output)})
			work.Values = &expression.Values{Run: json.RawMessage(`{"id":"r"}`), Tasks: map[string]json.RawMessage{
				"first": json.RawMessage(`{"status":"succeeded","output":"one"}`)}}
			out, err := testRequester(t).run(t.Context(), work)
			if c.fault == "" {
				if err != nil || !sameJSON(t, out, c.want) {
					t.Errorf("%s, %v; want %s", out, err, c.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.fault) || !isPermanent(err) || kindOf(err) != "expression_error" {
				t.Errorf("%v, want %q", err, c.fault)
			}
		})
	}
	// An answer that is no success is shown as it is.
	work := httpWork(t, definition.HTTPTask{Method: "GET", URL: url + "/missing", Output: json.RawMessage(`"${response.body.id}"`)})
	if out, err := testRequester(t).run(t.Context(), work); kindOf(err) != "http_404" || !strings.Contains(string(out), `"body":"gone"`) {
		t.Errorf("%s, %v", out, err)
	}
}

func sameJSON(t *testing.T, got []byte, want string) bool {
	t.Helper()
	var a, b any
	if json.Unmarshal(got, &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
		return false
	}
	return reflect.DeepEqual(a, b)
}

// What a server tells of the secrets that it was sent is not shown, nor may an output be made of it.
func TestHTTPAnswersAreRedacted(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", secretToken)
		switch r.URL.Path {
		case "/cut":
			fmt.Fprint(w, strings.Repeat("a", definition.MaxOutput-300)+strings.Repeat("s3cr3t", 100))
		case "/wrong":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error": "bad token %s"}`, secretToken)
		default:
			fmt.Fprintf(w, `{"echo": %q}`, secretToken)
		}
	})
	r := testRequester(t)
	if err := r.secrets.Check([]string{"TOKEN", "LONG"}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/": `"echo":"***"`, "/wrong": `"error":"bad token ***"`, "/cut": `aaa***"`} {
		out, _ := r.run(t.Context(), httpWork(t, definition.HTTPTask{Method: "GET", URL: url + path}))
		if strings.Contains(string(out), secretToken[:5]) || !strings.Contains(strings.ReplaceAll(string(out), `": "`, `":"`), want) {
			t.Errorf("%s: %s", path, out[max(0, len(out)-200):])
		}
	}
	out, err := r.run(t.Context(), httpWork(t, definition.HTTPTask{Method: "GET", URL: url,
		Output: json.RawMessage(`["${response.headers[\"x-echo\"]}", "${response.body.echo.size()}"]`)}))
	if err != nil || string(out) != `["***",3]` {
		t.Errorf("%s, %v", out, err)
	}
}

func TestHTTPGuarded(t *testing.T) {
	t.Parallel()
	inside := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the inside was reached") })
	r := newRequester(egress.Allow{}, testSecrets(nil))
	t.Cleanup(r.close)
	_, err := r.run(t.Context(), httpWork(t, definition.HTTPTask{URL: inside + "/?token=" + secretToken}))
	want := "POST " + inside + ": the host 127.0.0.1 is at a loopback address, and http tasks connect to the internet alone; " +
		"an operator can allow it with ACTCORE_EGRESS_ALLOW on the worker"
	if err == nil || err.Error() != want || !isPermanent(err) {
		t.Errorf("%v, want %q for good", err, want)
	}

	// A redirect from what is allowed to what is not.
	allow, err := egress.ParseAllow("localhost")
	if err != nil {
		t.Fatal(err)
	}
	outside := serve(t, func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, inside, http.StatusFound) })
	r = newRequester(allow, testSecrets(nil))
	t.Cleanup(r.close)
	_, err = r.run(t.Context(), httpWork(t, definition.HTTPTask{URL: strings.Replace(outside, "127.0.0.1", "localhost", 1)}))
	if err == nil || !isPermanent(err) || !strings.Contains(err.Error(), "the host 127.0.0.1 is at a loopback address") {
		t.Errorf("redirect: %v", err)
	}
}
