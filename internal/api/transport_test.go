package api

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/access"
)

// allows returns the headers of an answer that tell browsers what pages of other origins may do.
func allows(h http.Header) (out []string) {
	for name, values := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			out = append(out, name+": "+strings.Join(values, " | "))
		}
	}
	slices.Sort(out)
	return out
}

// TestHeadersAreLimited: what is one byte too long is refused in words, however it is spread.
func TestHeadersAreLimited(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	ask := func(path string, headers ...string) *httptest.ResponseRecorder {
		return call(t, a, "GET", path, "", headers...)
	}
	const most = "they may have at most 65536 together"
	// What is there besides: GET /runs HTTP/1.1, and the line of the Host example.com.
	room := MaxHeaders - len("GET /runs HTTP/1.1\r\n") - len("Host: example.com\r\n")
	one := func(bytes int) string { return strings.Repeat("a", bytes-len("A: \r\n")) }
	if w := ask("/runs", "A", one(room)); w.Code != http.StatusOK {
		t.Errorf("as many as may be: %d %s", w.Code, w.Body)
	}
	for name, w := range map[string]*httptest.ResponseRecorder{
		"one header":  ask("/runs", "A", one(room+1)),
		"two headers": ask("/runs", "A", one(room/2), "B", one(room-room/2+1)),
		"the query":   ask("/runs?" + strings.Repeat("a", room)),
		"the path":    ask("/" + strings.Repeat("a", MaxHeaders)),
	} {
		if p := wantProblem(t, w, http.StatusRequestHeaderFieldsTooLarge, "headers-too-large"); !strings.HasSuffix(p.Detail, most) {
			t.Errorf("%s: %q", name, p.Detail)
		}
	}
}

func TestOtherOrigins(t *testing.T) {
	t.Parallel()
	const console, evil = "https://console.example", "https://evil.example"
	o := testOptions()
	o.Origins = []string{console, "http://localhost:3000"}
	open, shut := newAPI(t, o), newAPI(t, testOptions())
	preview := func(a *API, origin string) (int, []string) {
		w := call(t, a, "POST", "/cron/preview", `{"cron_expression":"@daily"}`, "Origin", origin, "Sec-Fetch-Site", "cross-site")
		return w.Code, allows(w.Header())
	}
	preflight := func(a *API, origin, method, headers string) (int, []string) {
		w := call(t, a, "OPTIONS", "/activity-definitions/"+someID, "", "Origin", origin, "Access-Control-Request-Method", method,
			"Access-Control-Request-Headers", headers)
		return w.Code, allows(w.Header())
	}

	// Off: no answer ever says a word about other origins.
	for _, origin := range []string{console, evil, "null", "*", ""} {
		if code, got := preview(shut, origin); code != http.StatusForbidden || got != nil {
			t.Errorf("off, %q: %d %q", origin, code, got)
		}
		if code, got := preflight(shut, origin, "PUT", "authorization"); code != http.StatusMethodNotAllowed || got != nil {
			t.Errorf("off, preflight of %q: %d %q", origin, code, got)
		}
		if got := allows(call(t, shut, "GET", "/runs", "", "Origin", origin).Header()); got != nil {
			t.Errorf("off, GET by %q: %q", origin, got)
		}
	}

	// On: the listed origins, and no other.
	exposed := "Access-Control-Expose-Headers: Etag, Location, Retry-After, X-Request-Id, Idempotency-Replayed"
	for _, origin := range o.Origins {
		want := []string{"Access-Control-Allow-Origin: " + origin, exposed}
		if code, got := preview(open, origin); code != http.StatusOK || !slices.Equal(got, want) {
			t.Errorf("%s: %d %q", origin, code, got)
		}
		w := call(t, open, "GET", "/runs?x=1", "", "Origin", origin)
		if got := allows(w.Header()); !slices.Equal(got, want) || !slices.Contains(w.Header().Values("Vary"), "Origin") {
			t.Errorf("%s, an error: %q, Vary %q", origin, got, w.Header().Values("Vary"))
		}
		want = []string{"Access-Control-Allow-Headers: Authorization, Content-Type, Idempotency-Key, If-Match, X-Request-Id",
			"Access-Control-Allow-Methods: PATCH", "Access-Control-Allow-Origin: " + origin, "Access-Control-Max-Age: 600"}
		code, got := preflight(open, origin, "PATCH", "authorization,content-type,idempotency-key,if-match,x-request-id")
		if code != http.StatusOK || !slices.Equal(got, want) {
			t.Errorf("preflight of %s: %d %q", origin, code, got)
		}
		for method, header := range map[string]string{"TRACE": "authorization", "BREW": "authorization", "PUT": "authorization,x-evil"} {
			if _, got := preflight(open, origin, method, header); got != nil {
				t.Errorf("preflight of %s for %s with %s: %q", origin, method, header, got)
			}
		}
	}
	for _, origin := range []string{evil, "null", "https://console.example.evil.example", "https://evil-console.example",
		"http://console.example", "https://console.example:444", "http://localhost:3001", "*"} {
		if code, got := preview(open, origin); code != http.StatusForbidden || got != nil {
			t.Errorf("%s: %d %q", origin, code, got)
		}
		if _, got := preflight(open, origin, "PUT", "authorization"); got != nil {
			t.Errorf("preflight of %s: %q", origin, got)
		}
		if got := allows(call(t, open, "GET", "/runs", "", "Origin", origin).Header()); got != nil {
			t.Errorf("GET by %s: %q", origin, got)
		}
	}

	o = testOptions()
	o.Origins = []string{"https://console.example/path"}
	if _, err := New(o); err == nil {
		t.Error("an origin with a path is taken")
	}
}

// letIn lets in who shows a certain credential.
type letIn map[string]access.Caller

func (l letIn) Authenticate(_ context.Context, credential string) (access.Caller, error) {
	if c, ok := l[credential]; ok {
		return c, nil
	}
	return access.Caller{}, access.ErrUnknown
}

// TestAccessLog reads the line of a request, and looks for credentials that were put wherever a client can put them.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	token, stray := access.NewToken(), access.NewToken()
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.Y2FuYXJ5LXNpZ25hdHVyZQ"
	secrets := []string{token, stray, token[8:], stray[8:], jwt, "eyJzdWIiOiJjYW5hcnkifQ", "Y2FuYXJ5LXNpZ25hdHVyZQ", "canary"}
	for _, on := range []bool{true, false} {
		var log bytes.Buffer
		o := testOptions()
		o.AccessLog = on
		o.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o.Access = letIn{token: {ID: "token:7", Name: "ci", Role: access.Viewer}}
		a := newAPI(t, o)
		for _, test := range []struct {
			method, path string
			headers      []string
		}{
			{"GET", "/runs?cursor=canary&token=" + token, []string{"Authorization", "Bearer " + token}},
			{"GET", "/runs", []string{"Authorization", "Bearer " + stray}},
			{"GET", "/runs", []string{"Authorization", "Bearer " + jwt, "Cookie", "session=" + jwt}},
			{"GET", "/runs", []string{"Authorization", "Basic " + jwt, "Proxy-Authorization", "Basic canary"}},
			{"GET", "/runs/" + token, nil},
			{"GET", "/events/" + url.PathEscape("a/"+jwt), []string{"Authorization", "Bearer " + token}},
			{"GET", "/" + jwt + "/x", nil},
			{"GET", "/runs/" + strings.Replace(jwt, ".", "%252E", 2), nil},
			{"GET", "/runs", []string{"X-Request-Id", stray}},
			{"GET", "/runs", []string{"X-Request-Id", jwt}},
			{"GET", "/runs", []string{"User-Agent", "curl/8 " + token + " " + jwt}},
			{"GET", "/runs", []string{"User-Agent", strings.Repeat("x", 190) + " " + token}},
			{"GET", "/" + strings.Repeat("x", maxLoggedPath-20) + token, nil},
			{"GET", "/runs", []string{"X-Forwarded-For", token, "Referer", "https://a.example/" + jwt}},
			{stray, "/runs", nil},
			{"POST", "/cron/preview?a=" + stray, []string{"Idempotency-Key", stray}},
		} {
			call(t, a, test.method, test.path, "", test.headers...)
		}
		for _, secret := range secrets {
			if strings.Contains(log.String(), secret) {
				t.Errorf("access log %t: the log holds %q", on, secret)
			}
		}

		log.Reset()
		call(t, a, "GET", "/runs/?status=failed", "", "Authorization", "Bearer "+token, "X-Request-Id", "req-1", "User-Agent",
			"curl/8"+strings.Repeat("x", 300))
		var line map[string]any
		if err := json.Unmarshal(log.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, log.String())
		}
		took, _ := line["took"].(float64)
		bytes, _ := line["bytes"].(float64)
		if took <= 0 || bytes <= 0 {
			t.Errorf("took %v, bytes %v", line["took"], line["bytes"])
		}
		level := map[bool]string{true: "INFO", false: "DEBUG"}[on]
		for name, want := range map[string]any{"level": level, "msg": "request", "method": "GET", "path": "/runs/", "route": "/runs", "status": 200.0,
			"request_id": "req-1", "caller": "token:7", "address": "192.0.2.1", "user_agent": "curl/8" + strings.Repeat("x", 194) + "…"} {
			if line[name] != want {
				t.Errorf("%s is %v, want %v", name, line[name], want)
			}
			delete(line, name)
		}
		if len(line) != 3 { // time, took, bytes
			t.Errorf("the line also holds %v", line)
		}
	}

	// At the default level nothing is written when it is off.
	var log bytes.Buffer
	o := testOptions()
	o.Log = slog.New(slog.NewJSONHandler(&log, nil))
	if call(t, newAPI(t, o), "GET", "/runs", ""); log.Len() > 0 {
		t.Errorf("it is off, and the log holds %s", log.String())
	}
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, test := range []struct {
		name, remote string
		forwarded    []string
		trusted      []netip.Prefix
		want         string
	}{
		{"direct", "203.0.113.7:5000", nil, proxies, "203.0.113.7"},
		{"direct, IPv6", "[2001:db8:0:0::7]:5000", nil, proxies, "2001:db8::7"},
		{"direct, IPv4 in IPv6", "[::ffff:203.0.113.7]:5000", nil, proxies, "203.0.113.7"},
		{"direct, with a zone", "[fe80::1%eth0]:5000", nil, proxies, "fe80::1"},
		{"spoofed, nobody is trusted", "203.0.113.7:5000", []string{"1.1.1.1"}, nil, "203.0.113.7"},
		{"spoofed from within, nobody is trusted", "10.0.0.1:5000", []string{"1.1.1.1"}, nil, "10.0.0.1"},
		{"spoofed by a stranger", "203.0.113.7:5000", []string{"1.1.1.1"}, proxies, "203.0.113.7"},
		{"spoofed by a stranger as a proxy", "203.0.113.7:5000", []string{"10.0.0.1"}, proxies, "203.0.113.7"},
		{"by a proxy", "10.0.0.1:5000", []string{"203.0.113.7"}, proxies, "203.0.113.7"},
		{"by a proxy whose address is written in IPv6", "[::ffff:10.0.0.1]:5000", []string{"203.0.113.7"}, proxies, "203.0.113.7"},
		{"by a proxy, spoofed before it", "10.0.0.1:5000", []string{"1.1.1.1, 203.0.113.7"}, proxies, "203.0.113.7"},
		{"spoofed as a proxy before it", "10.0.0.1:5000", []string{"1.1.1.1, 10.9.9.9, 203.0.113.7"}, proxies, "203.0.113.7"},
		{"by two proxies", "10.0.0.1:5000", []string{"1.1.1.1, 203.0.113.7, 10.0.0.2"}, proxies, "203.0.113.7"},
		{"by two proxies in two lines", "10.0.0.1:5000", []string{"1.1.1.1", "203.0.113.7", "fd00::2"}, proxies, "203.0.113.7"},
		{"with ports", "10.0.0.1:5000", []string{"1.1.1.1:1, 203.0.113.7:4711, [fd00::2]:9"}, proxies, "203.0.113.7"},
		{"an IPv6 client", "10.0.0.1:5000", []string{"[2001:db8::7]"}, proxies, "2001:db8::7"},
		{"only proxies", "10.0.0.1:5000", []string{"10.0.0.3, 10.0.0.2"}, proxies, "10.0.0.3"},
		{"nothing said", "10.0.0.1:5000", nil, proxies, "10.0.0.1"},
		{"an empty header", "10.0.0.1:5000", []string{""}, proxies, "10.0.0.1"},
		{"hidden", "10.0.0.1:5000", []string{"203.0.113.7, unknown"}, proxies, "10.0.0.1"},
		{"rubbish before a proxy", "10.0.0.1:5000", []string{"<script>, 10.0.0.2"}, proxies, "10.0.0.2"},
		{"a comma at the end", "10.0.0.1:5000", []string{"203.0.113.7,"}, proxies, "10.0.0.1"},
		{"a block", "10.0.0.1:5000", []string{"203.0.113.0/24"}, proxies, "10.0.0.1"},
		{"a socket", "@", nil, proxies, "@"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/runs", nil)
		r.RemoteAddr = test.remote
		r.Header["X-Forwarded-For"] = test.forwarded
		r.Header.Set("X-Real-Ip", "6.6.6.6")
		r.Header.Set("Forwarded", "for=6.6.6.6")
		r.Header.Set("True-Client-Ip", "6.6.6.6")
		if got := clientAddress(r, test.trusted); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// TestCallersAddress: the address that work is done for is the client's, as far as a trusted proxy tells it.
func TestCallersAddress(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		trusted []netip.Prefix
		want    string
	}{
		{nil, "192.0.2.1"}, // what httptest has
		{[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, "203.0.113.7"},
	} {
		var got access.Caller
		o := testOptions()
		o.TrustedProxies = test.trusted
		o.Access = letIn{"x": {ID: "token:7", Role: access.Operator}}
		o.FullSyncer = fakeFullSyncer(func(ctx context.Context, _ bool) (SyncResult, error) {
			got = access.From(ctx)
			return SyncResult{}, nil
		})
		w := call(t, newAPI(t, o), "POST", "/admin/sync", "", "Authorization", "bearer x", "X-Forwarded-For", "203.0.113.7")
		if w.Code != http.StatusOK || got.Address != test.want || got.ID != "token:7" || got.RequestID != w.Header().Get("X-Request-Id") {
			t.Errorf("%v: %d, caller %+v, want the address %s", test.trusted, w.Code, got, test.want)
		}
	}
}
