package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// fakeKeys claims what a test says, and notes what becomes of it.
type fakeKeys struct {
	claim  func(key string) (definition.KeyClaim, error)
	finish error

	fingerprints []string
	finished     []definition.Answer
	released     int
}

func (k *fakeKeys) ClaimKey(_ context.Context, key string, fingerprint []byte) (definition.KeyClaim, error) {
	k.fingerprints = append(k.fingerprints, string(fingerprint))
	if k.claim == nil {
		return definition.KeyClaim{ID: "claim"}, nil
	}
	return k.claim(key)
}

func (k *fakeKeys) FinishKey(_ context.Context, _ access.Claim, answer definition.Answer) error {
	k.finished = append(k.finished, answer)
	return k.finish
}

func (k *fakeKeys) ReleaseKey(ctx context.Context, _ access.Claim) error {
	k.released++
	return ctx.Err()
}

// Which operations take a key, and that the document says so.
func TestKeyedOperations(t *testing.T) {
	t.Parallel()
	for path, item := range newAPI(t, testOptions()).huma.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "PATCH": item.Patch,
			"DELETE": item.Delete} {
			if op == nil {
				continue
			}
			takes := slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.In == "header" && p.Name == keyHeader })
			if want := method != "GET" && path != "/admin/sync"; takes != want {
				t.Errorf("%s %s: documents the key: %t, want %t", method, path, takes, want)
			}
			for code, r := range op.Responses {
				_, says := r.Headers[replayedHeader]
				if want := takes && code[0] == '2'; says != want {
					t.Errorf("%s %s %s: documents %s: %t, want %t", method, path, code, replayedHeader, says, want)
				}
			}
			if _, conflict := op.Responses["409"]; takes && !conflict {
				t.Errorf("%s %s: documents no 409", method, path)
			}
		}
	}
}

// What is kept, and what lets the key go.
func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	const body = `{"name":"a","trigger_config":{"trigger_type":"manual"}}`
	stored := atRevision(someID, 1)
	for _, test := range []struct {
		name, body string
		err        error
		status     int
		kept       bool
	}{
		{"created", body, nil, 201, true},
		{"name taken", body, definition.ErrNameTaken, 409, true},
		{"not found", body, definition.ErrNotFound, 404, true},
		{"breaks a rule", `{"name":"a"}`, nil, 422, true},
		{"not JSON", `{`, nil, 400, false},
		{"too large", `{"name":"` + strings.Repeat("a", MaxDefinition) + `"}`, nil, 413, false},
		{"unavailable", body, definition.ErrUnavailable, 503, false},
		{"unknown", body, errors.Join(definition.ErrUnavailable, definition.ErrOutcomeUnknown), 503, false},
		{"our fault", body, errors.New("test"), 500, false},
		{"client gone", body, context.Canceled, 499, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store := &fakeStore{create: func(definition.Document) (definition.Stored, error) { return stored, test.err }}
			o := testOptions()
			o.Store = store
			w := call(t, newAPI(t, o), "POST", "/activity-definitions/", test.body, keyHeader, "k")
			if w.Code != test.status {
				t.Fatalf("status %d, want %d: %s", w.Code, test.status, w.Body)
			}
			if w.Header().Get(replayedHeader) != "" {
				t.Error("the first answer says that it is a repetition")
			}
			if kept := len(store.finished) == 1; kept != test.kept || store.released == 1 == test.kept {
				t.Fatalf("kept %d times, let go %d times, want kept: %t", len(store.finished), store.released, test.kept)
			}
			if !test.kept {
				return
			}
			answer := store.finished[0]
			if answer.Status != test.status || string(answer.Body) != w.Body.String() ||
				answer.Header["Content-Type"] != w.Header().Get("Content-Type") || answer.Header["Location"] != w.Header().Get("Location") ||
				answer.Header["Etag"] != w.Header().Get("Etag") || answer.Header["X-Request-Id"] != "" {
				t.Errorf("kept %+v, answered %v %s", answer, w.Header(), w.Body)
			}
			store.claim = func(string) (definition.KeyClaim, error) { return definition.KeyClaim{Answer: &answer}, nil }
			store.create = nil
			again := call(t, newAPI(t, withFreshMetrics(o)), "POST", "/activity-definitions/", test.body, keyHeader, "k")
			if again.Code != w.Code || again.Body.String() != w.Body.String() || again.Header().Get(replayedHeader) != "true" {
				t.Errorf("the second answer: %d %v %s", again.Code, again.Header(), again.Body)
			}
			for _, name := range []string{"Content-Type", "Location", "Etag"} {
				if got, want := again.Header().Get(name), w.Header().Get(name); got != want {
					t.Errorf("the second answer has %s %q, the first %q", name, got, want)
				}
			}
		})
	}
}

// A body that does not come to its end claims nothing, nor does one that is larger than any may be.
func TestUnreadBodiesClaimNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body   io.Reader
		status int
	}{
		"broken off": {io.MultiReader(strings.NewReader(`{"name":`), failing{io.ErrUnexpectedEOF}), 400},
		"too large":  {strings.NewReader(strings.Repeat(" ", maxKeyedBody+1)), 413},
	} {
		store := &fakeStore{}
		o := testOptions()
		o.Store = store
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/activity-definitions/", test.body)
		r.Header.Set(keyHeader, "k")
		w := httptest.NewRecorder()
		newAPI(t, o).ServeHTTP(w, r)
		if w.Code != test.status || len(store.fingerprints) != 0 {
			t.Errorf("%s: status %d, want %d; claimed %d times", name, w.Code, test.status, len(store.fingerprints))
		}
	}
}

func TestKeysThatMayNotBeUsed(t *testing.T) {
	t.Parallel()
	const path, body = "/activity-definitions/" + someID + "/pause", `{}`
	claims := func(c definition.KeyClaim, err error) func(*fakeStore) {
		return func(s *fakeStore) { s.claim = func(string) (definition.KeyClaim, error) { return c, err } }
	}
	for _, test := range []struct {
		name       string
		keys       []string
		set        func(*fakeStore)
		status     int
		kind       string
		retryAfter string
	}{
		{"empty", []string{""}, nil, 422, "invalid", ""},
		{"too long", []string{strings.Repeat("k", 256)}, nil, 422, "invalid", ""},
		{"not ASCII", []string{"schlüssel"}, nil, 422, "invalid", ""},
		{"a control character", []string{"a\x7fb"}, nil, 422, "invalid", ""},
		{"twice", []string{"a", "a"}, nil, 422, "invalid", ""},
		{"reused", []string{"k"}, claims(definition.KeyClaim{Reused: true}, nil), 422, "idempotency-key-reused", ""},
		{"in flight", []string{"k"}, claims(definition.KeyClaim{Wait: 2100 * time.Millisecond}, nil), 409, "idempotency-key-in-use", "3"},
		{"storage away", []string{"k"}, claims(definition.KeyClaim{}, definition.ErrUnavailable), 503, "unavailable", "2"},
		{"lost on the way", []string{"k"}, func(s *fakeStore) {
			s.update = func(func(definition.Document) (definition.Document, error)) (definition.Stored, error) {
				return definition.Stored{}, definition.ErrClaimLost
			}
			s.finish = definition.ErrClaimLost
		}, 409, "idempotency-key-in-use", "1"},
		{"lost at the end", []string{"k"}, func(s *fakeStore) {
			s.update = func(func(definition.Document) (definition.Document, error)) (definition.Stored, error) {
				return atRevision(someID, 2), nil
			}
			s.finish = definition.ErrClaimLost
		}, 409, "idempotency-key-in-use", "1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store := &fakeStore{}
			if test.set != nil {
				test.set(store)
			}
			o := testOptions()
			o.Store = store
			r := httptest.NewRequestWithContext(t.Context(), "POST", path, strings.NewReader(body))
			r.Header[keyHeader] = test.keys
			w := httptest.NewRecorder()
			newAPI(t, o).ServeHTTP(w, r)
			p := wantProblem(t, w, test.status, test.kind)
			if got := w.Header().Get("Retry-After"); got != test.retryAfter {
				t.Errorf("Retry-After %q, want %q", got, test.retryAfter)
			}
			if test.status == 422 && (len(p.Errors) != 1 || p.Errors[0].Field != keyHeader) {
				t.Errorf("faults %+v, want one of the field %s", p.Errors, keyHeader)
			}
		})
	}
}

// A handler that panics lets its key go.
func TestPanicReleasesKey(t *testing.T) {
	t.Parallel()
	store := &fakeStore{create: func(definition.Document) (definition.Stored, error) { panic("test") }}
	o := testOptions()
	o.Store = store
	w := call(t, newAPI(t, o), "POST", "/activity-definitions/", `{"name":"a","trigger_config":{"trigger_type":"manual"}}`, keyHeader, "k")
	wantProblem(t, w, 500, "internal")
	if store.released != 1 || len(store.finished) != 0 {
		t.Errorf("let go %d times, kept %d answers", store.released, len(store.finished))
	}
}

// An answer that cannot be kept is given all the same.
func TestAnswerThatCannotBeKept(t *testing.T) {
	t.Parallel()
	store := &fakeStore{create: func(definition.Document) (definition.Stored, error) { return atRevision(someID, 1), nil }}
	store.finish = definition.ErrUnavailable
	o := testOptions()
	o.Store = store
	w := call(t, newAPI(t, o), "POST", "/activity-definitions/", `{"name":"a","trigger_config":{"trigger_type":"manual"}}`, keyHeader, "k")
	if w.Code != 201 {
		t.Errorf("status %d, want 201: %s", w.Code, w.Body)
	}
}

// GETs, and the comparison of all schedules, take no notice of a key.
func TestKeyIsIgnored(t *testing.T) {
	t.Parallel()
	store := &fakeStore{}
	o := testOptions()
	o.Store = store
	o.FullSyncer = fakeFullSyncer(func(context.Context, bool) (SyncResult, error) { return SyncResult{}, nil })
	a := newAPI(t, o)
	for method, path := range map[string]string{"GET": "/activity-definitions/", "POST": "/admin/sync"} {
		if w := call(t, a, method, path, "", keyHeader, "k"); w.Code != 200 || len(store.fingerprints) != 0 {
			t.Errorf("%s %s: %d, claimed %d times", method, path, w.Code, len(store.fingerprints))
		}
	}
}

// What makes two requests the same.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	type request struct{ method, path, body, media, match string }
	first := request{"POST", "/runs/cancel", `{"a":1}`, "application/json", ""}
	sum := func(q request) string {
		r := httptest.NewRequestWithContext(t.Context(), q.method, q.path, http.NoBody)
		r.Header.Set("Content-Type", q.media)
		if q.match != "" {
			r.Header.Set(ifMatchHeader, q.match)
		}
		return string(fingerprint(r, []byte(q.body)))
	}
	for _, same := range []request{first, {"POST", "/runs/cancel/", `{"a":1}`, "Application/JSON; charset=utf-8", ""}} {
		if sum(same) != sum(first) {
			t.Errorf("%+v is not the same as %+v", same, first)
		}
	}
	seen := map[string]request{sum(first): first}
	for _, other := range []request{
		{"PUT", "/runs/cancel", `{"a":1}`, "application/json", ""}, {"POST", "/runs/terminate", `{"a":1}`, "application/json", ""},
		{"POST", "/runs/cancel?x=1", `{"a":1}`, "application/json", ""}, {"POST", "/runs/cancel", `{"a": 1}`, "application/json", ""},
		{"POST", "/runs/cancel", `{"a":1}`, "application/merge-patch+json", ""}, {"POST", "/runs/cancel", `{"a":1}`, "application/json", `"1"`},
		{"POST", "/runs/cancel", "", "application/json", ""},
	} {
		if before, ok := seen[sum(other)]; ok {
			t.Errorf("%+v counts as the same as %+v", other, before)
		}
		seen[sum(other)] = other
	}
}

// What an earlier request made is the answer, with the status and the path of the first; nothing is made again, for the fakes expect
// no other call.
func TestMadeBefore(t *testing.T) {
	t.Parallel()
	const other = "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5c"
	store := &fakeStore{
		get: func(id string) (definition.Stored, error) { return atRevision(id, 7), nil },
		getRun: func(id string) (definition.RunDetail, error) {
			return definition.RunDetail{Run: definition.Run{ID: id}}, nil
		},
		getBackfill: func(id string) (definition.Backfill, error) { return definition.Backfill{ID: id}, nil },
		getReplay:   func(id string) (definition.Replay, error) { return definition.Replay{ID: id}, nil },
		getLetter:   func(id string) (definition.StoredDeadLetter, error) { return definition.StoredDeadLetter{ID: id}, nil },
	}
	made := someID
	store.claim = func(string) (definition.KeyClaim, error) { return definition.KeyClaim{ID: "claim", Made: made}, nil }
	o := testOptions()
	o.Store = store
	a := newAPI(t, o)
	const times = `"from":"2026-01-01T00:00:00Z","to":"2026-01-02T00:00:00Z"`
	for _, test := range []struct {
		method, path, body, made string
		status                   int
		location, etag           string
	}{
		{"POST", "/activity-definitions/", `{}`, other, 201, "/activity-definitions/" + other, `"7"`},
		{"PUT", "/activity-definitions/" + someID, `{}`, someID, 200, "", `"7"`},
		{"PATCH", "/activity-definitions/" + someID, `{}`, someID, 200, "", `"7"`},
		{"DELETE", "/activity-definitions/" + someID, "", someID, 204, "", ""},
		{"POST", "/activity-definitions/" + someID + "/pause", "", someID, 200, "", `"7"`},
		{"POST", "/activity-definitions/" + someID + "/resume", "", someID, 200, "", `"7"`},
		{"POST", "/activity-definitions/" + someID + "/trigger", "", other, 202, "/runs/" + other, ""},
		{"POST", "/activity-definitions/" + someID + "/backfill", `{` + times + `}`, other, 202, "/backfills/" + other, ""},
		{"POST", "/runs/" + someID + "/cancel", "", someID, 202, "", ""},
		{"POST", "/runs/" + someID + "/terminate", "", someID, 202, "", ""},
		{"POST", "/runs/" + someID + "/rerun", "", other, 202, "/runs/" + other, ""},
		{"POST", "/runs/" + someID + "/tasks/t/approve", "", someID, 202, "", ""},
		{"POST", "/runs/" + someID + "/tasks/t/reject", "", someID, 202, "", ""},
		{"POST", "/dead-letters/" + someID + "/retry", "", someID, 202, "", ""},
		{"POST", "/dead-letters/" + someID + "/discard", "", someID, 200, "", ""},
		{"POST", "/replays", `{` + times + `,"definition_ids":["` + someID + `"]}`, other, 202, "/replays/" + other, ""},
	} {
		made = test.made
		w := call(t, a, test.method, test.path, test.body, keyHeader, "k")
		if w.Code != test.status || w.Header().Get("Location") != test.location || w.Header().Get("ETag") != test.etag {
			t.Errorf("%s %s: %d %v %s, want %d at %q with the tag %q", test.method, test.path, w.Code, w.Header(), w.Body, test.status,
				test.location, test.etag)
		}
		if w.Code != 204 && !strings.Contains(w.Body.String(), `"id":"`+test.made+`"`) {
			t.Errorf("%s %s: %s, want what was made", test.method, test.path, w.Body)
		}
	}
}

// An answer that shows a secret is not kept, and cannot be had again.
func TestSecretsAreNotKept(t *testing.T) {
	t.Parallel()
	type made struct {
		Location string `header:"Location"`
		Body     struct {
			Secret string `json:"secret"`
		}
	}
	store := &fakeStore{}
	o := testOptions()
	o.Store = store
	a := newAPI(t, o)
	op := post("/secrets", 201)
	op.Extensions = map[string]any{secretExtension: true}
	var fails error
	handle(a, "make-secret", op, access.Viewer, "Make a secret", tagOperations, "", nil, func(context.Context, *struct{}) (*made, error) {
		out := &made{Location: "/secrets/1"}
		out.Body.Secret = "hush"
		return out, fails
	})
	if w := call(t, a, "POST", "/secrets", "", keyHeader, "k"); w.Code != 201 || !strings.Contains(w.Body.String(), "hush") {
		t.Fatalf("made: %d %s", w.Code, w.Body)
	}
	answer := store.finished[0]
	if answer.Body != nil || answer.Status != 201 || answer.Header["Location"] != "/secrets/1" {
		t.Errorf("kept %+v", answer)
	}
	for name, claim := range map[string]definition.KeyClaim{"answered": {Answer: &answer}, "made": {ID: "claim", Made: "1"}} {
		store.claim, store.released = func(string) (definition.KeyClaim, error) { return claim, nil }, 0
		wantProblem(t, call(t, a, "POST", "/secrets", "", keyHeader, "k"), 409, "token-already-shown")
		if want := map[string]int{"made": 1}[name]; store.released != want {
			t.Errorf("%s: let go %d times, want %d", name, store.released, want)
		}
	}
	// A refusal holds no secret.
	store.claim, fails = nil, notFound("secret", "1")
	if w := call(t, a, "POST", "/secrets", "", keyHeader, "k"); w.Code != 404 || len(store.finished[1].Body) == 0 {
		t.Errorf("refused: %d, kept %+v", w.Code, store.finished[1])
	}
}

func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Store = &fakeStore{create: func(definition.Document) (definition.Stored, error) {
		return definition.Stored{}, errors.Join(definition.ErrUnavailable, definition.ErrOutcomeUnknown)
	}}
	a := newAPI(t, o)
	const body = `{"name":"a","trigger_config":{"trigger_type":"manual"}}`
	for _, test := range []struct{ key, retryAfter, says string }{
		{"", "", "read what is there before you try again"},
		{"k", "2", "send the same request again with the same Idempotency-Key"},
	} {
		w := call(t, a, "POST", "/activity-definitions/", body, keyHeader, test.key)
		p := wantProblem(t, w, 503, "outcome-unknown")
		if w.Header().Get("Retry-After") != test.retryAfter || !strings.Contains(p.Detail, test.says) {
			t.Errorf("key %q: Retry-After %q, %s", test.key, w.Header().Get("Retry-After"), p.Detail)
		}
	}
}

func FuzzKey(f *testing.F) {
	f.Add("8e03978e-40d5-43dd-bc93-6894a57f9324")
	f.Add("")
	f.Add("ü")
	f.Add(strings.Repeat("k", 256))
	f.Fuzz(func(t *testing.T, text string) {
		key, fault := checkKey([]string{text})
		legal := len(text) >= 1 && len(text) <= 255
		for i := range len(text) {
			legal = legal && text[i] >= 0x20 && text[i] <= 0x7e
		}
		if legal != (fault == nil) || legal && key != text || fault != nil && fault.Fields[0].Field != keyHeader {
			t.Errorf("%q: %q, %v", text, key, fault)
		}
	})
}
