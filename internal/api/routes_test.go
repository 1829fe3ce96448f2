package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
)

// TestRoutesAreDocumented walks the router: what it serves is what the OpenAPI document says, and the other way round. Which
// operations these are stands in testdata/roles.txt.
func TestRoutesAreDocumented(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	undocumented := []string{"GET /openapi.json", "GET /openapi.yaml", "GET /docs", "GET /docs/{asset}", "GET /problems",
		"GET /problems/{kind}"}
	var served []string
	err := chi.Walk(a.router, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if r := method + " " + route; !slices.Contains(undocumented, r) {
			served = append(served, r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for path, item := range a.huma.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "PATCH": item.Patch,
			"DELETE": item.Delete, "HEAD": item.Head, "OPTIONS": item.Options, "TRACE": item.Trace} {
			if op == nil {
				continue
			}
			documented = append(documented, method+" "+path)
			if op.Summary == "" || len(op.Tags) != 1 || op.OperationID == "" {
				t.Errorf("%s %s: no summary, tag or operation id", method, path)
			}
		}
	}
	slices.Sort(served)
	slices.Sort(documented)
	if !slices.Equal(served, documented) {
		t.Errorf("served     %q\ndocumented %q", served, documented)
	}
}

// TestSlashes asks every route with and without a trailing slash, and for GET with HEAD as well: each reaches its handler
// without a redirect.
func TestSlashes(t *testing.T) {
	t.Parallel()
	reached := errors.New("reached")
	o := testOptions()
	o.Store = &fakeStore{
		create: func(definition.Document) (definition.Stored, error) { return definition.Stored{}, reached },
		update: func(func(definition.Document) (definition.Document, error)) (definition.Stored, error) {
			return definition.Stored{}, reached
		},
		get:    func(string) (definition.Stored, error) { return definition.Stored{}, reached },
		getRun: func(string) (definition.RunDetail, error) { return definition.RunDetail{}, reached },
	}
	a := newAPI(t, o)
	const valid = `{"name":"a","trigger_config":{"trigger_type":"manual"}}`
	for _, test := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/activity-definitions", "", 200},
		{"POST", "/activity-definitions", valid, 500},
		{"GET", "/activity-definitions/" + someID, "", 500},
		{"PUT", "/activity-definitions/" + someID, "{}", 500},
		{"PATCH", "/activity-definitions/" + someID, "{}", 500},
		{"DELETE", "/activity-definitions/" + someID, "", 500},
		{"POST", "/activity-definitions/" + someID + "/trigger", "", 500},
		{"GET", "/activity-definitions/" + someID + "/runs", "", 500},
		{"POST", "/activity-definitions/" + someID + "/pause", "", 500},
		{"POST", "/activity-definitions/" + someID + "/resume", "", 500},
		{"GET", "/activity-definitions/" + someID + "/revisions", "", 500},
		{"GET", "/activity-definitions/" + someID + "/revisions/1", "", 500},
		{"GET", "/activity-definitions/" + someID + "/revisions/1/diff", "", 500},
		{"POST", "/activity-definitions/" + someID + "/revisions/1/rollback", "", 500},
		{"GET", "/audit", "", 500},
		{"GET", "/audit/1", "", 500},
		{"GET", "/activity-definitions/" + someID + "/next-fires", "", 500},
		{"POST", "/activity-definitions/" + someID + "/backfill", `{"from":"2026-01-01T00:00:00Z","to":"2026-01-01T00:00:00Z"}`, 500},
		{"GET", "/activity-definitions/" + someID + "/backfills", "", 500},
		{"GET", "/backfills/" + someID, "", 500},
		{"POST", "/backfills/" + someID + "/cancel", "", 500},
		{"GET", "/dead-letters", "", 500},
		{"GET", "/dead-letters/" + someID, "", 500},
		{"POST", "/dead-letters/" + someID + "/retry", "", 500},
		{"POST", "/dead-letters/" + someID + "/discard", "", 500},
		{"POST", "/dead-letters/retry", `{"reason":"not_json"}`, 500},
		{"POST", "/dead-letters/discard", `{"reason":"not_json"}`, 500},
		{"POST", "/events/test", `{"event_id":"e","type":"a"}`, 500},
		{"GET", "/events/e", "", 500},
		{"POST", "/replays", `{"from":"2026-01-01T00:00:00Z","to":"2026-01-01T00:00:00Z","definition_ids":["` + someID + `"]}`, 500},
		{"GET", "/replays", "", 500},
		{"GET", "/replays/" + someID, "", 500},
		{"POST", "/replays/" + someID + "/cancel", "", 500},
		{"POST", "/cron/preview", `{"cron_expression":"@daily"}`, 200},
		{"POST", "/admin/sync", "", 500},
		{"GET", "/runs", "", 200},
		{"GET", "/runs/" + someID, "", 500},
		{"GET", "/runs/" + someID + "/tasks/a", "", 500},
		{"POST", "/runs/" + someID + "/cancel", "", 500},
		{"POST", "/runs/" + someID + "/terminate", "", 500},
		{"POST", "/runs/" + someID + "/rerun", "", 500},
		{"POST", "/runs/" + someID + "/tasks/a/approve", "", 500},
		{"POST", "/runs/" + someID + "/tasks/a/reject", "", 500},
		{"POST", "/runs/cancel", `{"filter":{"reason":"replaced"}}`, 500},
		{"POST", "/runs/terminate", `{"filter":{"reason":"replaced"}}`, 500},
		{"POST", "/runs/rerun", `{"filter":{"reason":"replaced"}}`, 500},
		{"POST", "/tokens", `{"name":"a","role":"viewer"}`, 500},
		{"GET", "/tokens", "", 500},
		{"GET", "/tokens/" + someID, "", 500},
		{"POST", "/tokens/" + someID + "/rotate", "", 500},
		{"POST", "/tokens/" + someID + "/revoke", "", 500},
		{"GET", "/whoami", "", 200},
		{"GET", "/healthz", "", 200},
		{"GET", "/readyz", "", 200},
		{"GET", "/openapi.json", "", 200},
		{"GET", "/openapi.yaml", "", 200},
		{"GET", "/docs", "", 200},
		{"GET", "/problems", "", 200},
		{"GET", "/problems/invalid", "", 200},
	} {
		methods := []string{test.method}
		if test.method == "GET" {
			methods = append(methods, "HEAD")
		}
		for _, method := range methods {
			for _, path := range []string{test.path, test.path + "/"} {
				if w := call(t, a, method, path, test.body); w.Code != test.status {
					t.Errorf("%s %s: %d, want %d: %s", method, path, w.Code, test.status, w.Body)
				}
			}
		}
	}
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	for _, test := range []struct {
		method, path, kind, allow, detail string
		status                            int
	}{
		{"GET", "/", "no-such-route", "", "there is no route /; /docs lists all of them", 404},
		{"GET", "/activity-definition", "no-such-route", "", "there is no route /activity-definition; /docs lists all of them", 404},
		{"GET", "/docs/secret.js", "no-such-route", "", "there is no route /docs/secret.js; /docs lists all of them", 404},
		{"BREW", "/coffee", "no-such-route", "", "there is no route /coffee; /docs lists all of them", 404},
		{"DELETE", "/activity-definitions/", "method-not-allowed", "GET, HEAD, POST",
			"DELETE is not possible on /activity-definitions/; possible are GET, HEAD, POST", 405},
		{"POST", "/activity-definitions/" + someID, "method-not-allowed", "GET, HEAD, PUT, PATCH, DELETE",
			"POST is not possible on /activity-definitions/" + someID + "; possible are GET, HEAD, PUT, PATCH, DELETE", 405},
		{"GET", "/activity-definitions/" + someID + "/trigger/", "method-not-allowed", "POST",
			"GET is not possible on /activity-definitions/" + someID + "/trigger/; possible are POST", 405},
		{"BREW", "/runs", "method-not-allowed", "GET, HEAD", "BREW is not possible on /runs; possible are GET, HEAD", 405},
		{"OPTIONS", "/runs", "method-not-allowed", "GET, HEAD", "OPTIONS is not possible on /runs; possible are GET, HEAD", 405},
	} {
		w := call(t, a, test.method, test.path, "")
		p := wantProblem(t, w, test.status, test.kind)
		if p.Detail != test.detail || w.Header().Get("Allow") != test.allow {
			t.Errorf("%s %s: %q, Allow %q", test.method, test.path, p.Detail, w.Header().Get("Allow"))
		}
	}
}

// TestHeaders: the headers of each kind of answer, whole, but for the length and the id.
func TestHeaders(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Access = nobody{}
	closed := newAPI(t, o)
	a := newAPI(t, testOptions())
	const hsts = "Strict-Transport-Security: max-age=31536000"
	common := []string{"Cross-Origin-Resource-Policy: same-origin", "Referrer-Policy: no-referrer", "X-Content-Type-Options: nosniff"}
	api := append([]string{"Cache-Control: no-store", "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'"}, common...)
	page := append([]string{"Cache-Control: no-cache", "Content-Security-Policy: " + docsPolicy}, common...)
	for _, test := range []struct {
		api          *API
		method, path string
		want         []string
	}{
		{a, "GET", "/runs", append([]string{"Content-Type: application/json"}, api...)},
		{a, "HEAD", "/runs", append([]string{"Content-Type: application/json"}, api...)},
		{a, "GET", "/runs?x=1", append([]string{"Content-Type: application/problem+json"}, api...)},
		{a, "GET", "/nowhere", append([]string{"Content-Type: application/problem+json"}, api...)},
		{a, "GET", "/activity-definitions/" + someID, append([]string{"Content-Type: application/problem+json"}, api...)}, // 500
		{a, "OPTIONS", "/runs", append([]string{"Allow: GET, HEAD", "Content-Type: application/problem+json"}, api...)},
		{a, "GET", "/healthz", api},
		{a, "GET", "/docs", append([]string{"Content-Type: text/html; charset=utf-8"}, page...)},
		{a, "GET", "/openapi.json", append([]string{"Content-Type: application/openapi+json"}, page...)},
		{closed, "GET", "/runs", append([]string{"Content-Type: application/problem+json",
			`Www-Authenticate: Bearer realm="activity-core"`}, api...)},
	} {
		for _, scheme := range []string{"http", "https"} {
			want := slices.Clone(test.want)
			if scheme == "https" {
				want = append(want, hsts)
			}
			var got []string
			for name, values := range call(t, test.api, test.method, scheme+"://api.example"+test.path, "").Header() {
				if name == "Content-Length" || name == "X-Request-Id" || name == "Etag" {
					continue
				}
				got = append(got, name+": "+strings.Join(values, " | "))
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s %s over %s:\n got %q\nwant %q", test.method, test.path, scheme, got, want)
			}
		}
	}
	if got := call(t, a, "GET", "/runs", "", "X-Request-Id", "abc-123").Header().Get("X-Request-Id"); got != "abc-123" {
		t.Errorf("a sane request id became %q", got)
	}
	for _, bad := range []string{"a b", "\"quoted\"", strings.Repeat("x", 129), "-x", access.NewToken(), "eyJhbGciOiJub25lIn0.e30."} {
		if got := call(t, a, "GET", "/runs", "", "X-Request-Id", bad).Header().Get("X-Request-Id"); got == bad || len(got) != 36 {
			t.Errorf("the request id %q became %q", bad, got)
		}
	}
}

// nobody lets nobody in.
type nobody struct{}

func (nobody) Authenticate(context.Context, string) (access.Caller, error) {
	return access.Caller{}, access.ErrUnknown
}

// TestHostIsNotReflected asks with a forged Host header, and with those by which proxies tell of it: no answer repeats it.
func TestHostIsNotReflected(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Store = &fakeStore{create: func(d definition.Document) (definition.Stored, error) {
		return definition.Stored{Definition: definition.Definition{ID: someID, Document: d}}, nil
	}}
	a := newAPI(t, o)
	for _, test := range [][3]string{
		{"GET", "http://evil.example/runs", ""},
		{"GET", "http://evil.example/openapi.json", ""},
		{"GET", "http://evil.example/docs/", ""},
		{"GET", "http://evil.example/nowhere", ""},
		{"POST", "http://evil.example/activity-definitions/", `{"name":"a","trigger_config":{"trigger_type":"manual"}}`},
	} {
		w := call(t, a, test[0], test[1], test[2], "X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "evil.example",
			"X-Forwarded-Prefix", "/evil.example", "Forwarded", "host=evil.example", "X-Original-Url", "/evil.example",
			"X-Rewrite-Url", "/evil.example", "Referer", "http://evil.example/")
		all := w.Body.String()
		for name, values := range w.Header() {
			all += name + ": " + strings.Join(values, ",") + "\n"
		}
		if strings.Contains(all, "evil.example") {
			t.Errorf("%s %s repeats the host:\n%s", test[0], test[1], all)
		}
	}
}

func TestHealthAndReady(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	for path, want := range map[string]string{"/healthz": "alive", "/readyz/": "ready"} {
		if w := call(t, a, "GET", path, ""); w.Body.String() != want {
			t.Errorf("%s: %q, want %q", path, w.Body, want)
		}
	}
}
