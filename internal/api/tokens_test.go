package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// fakeTokens answers what a test needs of tokens, and fails for the rest.
type fakeTokens struct {
	create func(access.TokenRequest, string) (access.Token, error)
	rotate func(overlap time.Duration) (access.Token, error)
}

func (s fakeTokens) CreateToken(_ context.Context, r access.TokenRequest, token string) (access.Token, error) {
	if s.create == nil {
		return access.Token{}, errNotExpected
	}
	return s.create(r, token)
}

func (s fakeTokens) RotateToken(_ context.Context, _ string, overlap time.Duration, _ string) (access.Token, error) {
	if s.rotate == nil {
		return access.Token{}, errNotExpected
	}
	return s.rotate(overlap)
}

func (fakeTokens) RevokeToken(context.Context, string) (access.Token, error) {
	return access.Token{}, errNotExpected
}

func (fakeTokens) GetToken(context.Context, string) (access.Token, error) {
	return access.Token{}, errNotExpected
}

func (fakeTokens) ListTokens(context.Context, access.ListTokens) ([]access.Token, error) {
	return nil, errNotExpected
}

// byCredential authenticates by a table, credential by credential.
type byCredential map[string]access.Caller

func (c byCredential) Authenticate(_ context.Context, credential string) (access.Caller, error) {
	if caller, ok := c[credential]; ok {
		return caller, nil
	}
	return access.Caller{}, fmt.Errorf("%w: nobody has it", access.ErrUnknown)
}

// TestBadTokens holds the refusal of every kind of bad request for a token. The storage expects no call.
func TestBadTokens(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	for _, test := range []struct {
		name, path, body string
		status           int
		faults           []Fault
	}{
		{"nothing", "/tokens", `{}`, 422, []Fault{
			{"name", "required", "is required: it tells people whose token it is, as in ci-deploy"},
			{"role", "required", "is required: one of viewer, operator, editor, admin"}}},
		{"spaces around the name", "/tokens", `{"name":" a","role":"viewer"}`, 422, []Fault{{"name", "token_name",
			"must be 1 to 100 characters, without control characters and without spaces at its ends"}}},
		{"a name with a line break", "/tokens", `{"name":"a\nb","role":"viewer"}`, 422, []Fault{{"name", "token_name",
			"must be 1 to 100 characters, without control characters and without spaces at its ends"}}},
		{"a long name", "/tokens", `{"name":"` + strings.Repeat("ä", 101) + `","role":"viewer"}`, 422, []Fault{{"name", "token_name",
			"must be 1 to 100 characters, without control characters and without spaces at its ends"}}},
		{"an unknown role", "/tokens", `{"name":"a","role":"root"}`, 422, []Fault{{"role", "one_of",
			`"root" is not known: it must be one of viewer, operator, editor, admin`}}},
		{"a bad label", "/tokens", `{"name":"a","role":"viewer","labels":{"te am":"x"}}`, 422, []Fault{{"labels", "label",
			`"te am" is not a label name: it must be 1 to 63 characters of a-z, A-Z, 0-9, '.', '_', '/' and '-', beginning with a letter or digit`}}},
		{"a long value", "/tokens", `{"name":"a","role":"viewer","labels":{"team":"` + strings.Repeat("x", 256) + `"}}`, 422,
			[]Fault{{"labels.team", "max_length", "must be at most 255 bytes long"}}},
		{"a value that is no text", "/tokens", `{"name":"a","role":"viewer","labels":{"team":"\u0000"}}`, 422,
			[]Fault{{"labels.team", "text", "must be text, without the character U+0000"}}},
		{"a year and more", "/tokens", `{"name":"a","role":"viewer","expires_in":"8785h"}`, 422, []Fault{{"expires_in", "range",
			"must be from 1m0s to 8784h"}}},
		{"no time at all", "/tokens", `{"name":"a","role":"viewer","expires_in":"0s"}`, 422, []Fault{{"expires_in", "range",
			"must be from 1m0s to 8784h"}}},
		{"days", "/tokens", `{"name":"a","role":"viewer","expires_in":"90d"}`, 422, []Fault{{"expires_in", "duration",
			`must be a duration with a unit in quotes, as in "90s" or "5m"`}}},
		{"less than no definitions", "/tokens", `{"name":"a","role":"viewer","max_definitions":-1}`, 422, []Fault{{"max_definitions", "range",
			"must be from 0 (no limit) to 1000000"}}},
		{"a field of the answer", "/tokens", `{"name":"a","role":"viewer","token":"mine"}`, 422, []Fault{{"token", "unknown_field",
			"is not a field that is known here"}}},
		{"a long overlap", "/tokens/" + someID + "/rotate", `{"overlap":"169h"}`, 422, []Fault{{"overlap", "range", "must be from 0s to 168h"}}},
		{"a negative overlap", "/tokens/" + someID + "/rotate", `{"overlap":"-1s"}`, 422, []Fault{{"overlap", "range", "must be from 0s to 168h"}}},
		{"no id", "/tokens/mine/revoke", "", 422, []Fault{{"id", "uuid",
			`"mine" is not an id: an id is a UUID such as 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b`}}},
	} {
		p := wantProblem(t, call(t, a, "POST", test.path, test.body), test.status, "invalid")
		if !slices.Equal(p.Errors, test.faults) {
			t.Errorf("%s: %+v, want %+v", test.name, p.Errors, test.faults)
		}
	}
}

// TestLabelLimits holds the limits of labels of tokens against those of definitions, which they are compared with.
func TestLabelLimits(t *testing.T) {
	t.Parallel()
	if access.MaxLabels != definition.MaxLabels || access.MaxLabelValue != definition.MaxLabelValue {
		t.Error("tokens and definitions may have different labels")
	}
	for key, legal := range map[string]bool{
		"team": true, "a.b/c_d-e": true, "9": true, strings.Repeat("x", 63): true, strings.Repeat("x", 64): false, "": false, "-a": false, "ä": false,
		"a=b": false,
	} {
		_, err := definition.ParseDocument(fmt.Appendf(nil, `{"name":"a","labels":{%q:""},"trigger_config":{"trigger_type":"manual"}}`, key))
		r := access.TokenRequest{Name: "a", Role: access.Viewer, Labels: map[string]string{key: ""}, Lifetime: time.Hour}
		if faults := r.Faults(); (err == nil) != legal || (len(faults) == 0) != legal {
			t.Errorf("label %q: definition %v, token %v", key, err, faults)
		}
	}
}

func TestTokenIsShownOnce(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var asked access.TokenRequest
	var token string
	o := testOptions()
	o.Store = &fakeStore{fakeTokens: fakeTokens{create: func(r access.TokenRequest, made string) (access.Token, error) {
		asked, token = r, made
		return access.Token{ID: someID, Family: someID, Name: r.Name, Role: r.Role, Hint: "wxyz", State: access.TokenActive, CreatedBy: "ada",
			CreatedAt: at, ExpiresAt: at.Add(time.Hour)}, nil
	}}}
	w := call(t, newAPI(t, o), "POST", "/tokens", `{"name":"ci","role":"editor"}`)
	if w.Code != http.StatusCreated || w.Header().Get("Location") != "/tokens/"+someID || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if want := `{"id":"` + someID + `","name":"ci","role":"editor","labels":{},"max_definitions":0,"caller_id":"token:` + someID + `",` +
		`"hint":"wxyz","state":"active","created_by":"ada","created_at":"2026-01-02T03:04:05Z","expires_at":"2026-01-02T04:04:05Z",` +
		`"revoked_at":null,"last_used_at":null,"token":"` + token + `"}`; strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("got  %s\nwant %s", w.Body, want)
	}
	if !access.IsToken(token) || asked.Lifetime != 90*24*time.Hour || asked.MaxDefinitions != 1000 {
		t.Errorf("asked for %+v", asked)
	}
	a := newAPI(t, withFreshMetrics(o))
	w = call(t, a, "POST", "/tokens", `{"name":"ci","role":"viewer","labels":{"team":"growth"},"expires_in":"1h","max_definitions":0}`)
	if w.Code != http.StatusCreated || asked.Lifetime != time.Hour || asked.MaxDefinitions != 0 || asked.Labels["team"] != "growth" {
		t.Errorf("%d, asked for %+v", w.Code, asked)
	}
}

func TestTokenThatCannotBeRotated(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err          error
		status       int
		kind, detail string
	}{
		{definition.ErrNotFound, 404, "not-found", "there is no token " + someID + "; it may have been deleted"},
		{access.ErrTokenEnded, 409, "token-ended", "token " + someID +
			" has expired or was revoked, and only an active one can be rotated: make another one with POST /tokens"},
		{&access.RotatedError{Into: "b"}, 409, "token-rotated", "token " + someID +
			" was rotated already, into b: rotate that one, or revoke it first if nobody has it"},
	} {
		o := testOptions()
		o.Store = &fakeStore{fakeTokens: fakeTokens{rotate: func(overlap time.Duration) (access.Token, error) {
			if overlap != 24*time.Hour {
				t.Errorf("the overlap is %s", overlap)
			}
			return access.Token{}, fmt.Errorf("rotate token: %w", test.err)
		}}}
		p := wantProblem(t, call(t, newAPI(t, o), "POST", "/tokens/"+someID+"/rotate", ""), test.status, test.kind)
		if p.Detail != test.detail {
			t.Errorf("%v: %q", test.err, p.Detail)
		}
	}
}

// TestTokensAreForAdmins asks for each operation on tokens as everybody else: the storage expects no call.
func TestTokensAreForAdmins(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Access = byCredential{
		"viewer": {Name: "v", Role: access.Viewer}, "operator": {Name: "o", Role: access.Operator}, "editor": {Name: "e", Role: access.Editor},
		"limited": {Name: "l", Role: access.Admin, Labels: map[string]string{"team": "growth"}},
		"admin":   {Name: "a", Role: access.Admin},
	}
	a := newAPI(t, o)
	for _, op := range [][3]string{
		{"POST", "/tokens", `{"name":"a","role":"admin"}`}, {"GET", "/tokens", ""}, {"GET", "/tokens/" + someID, ""},
		{"POST", "/tokens/" + someID + "/rotate", ""}, {"POST", "/tokens/" + someID + "/revoke", ""},
	} {
		for credential, status := range map[string]int{"": 401, "nobody": 401, "viewer": 403, "operator": 403, "editor": 403, "limited": 403,
			"admin": 500} {
			header := ""
			if credential != "" {
				header = "Bearer " + credential
			}
			if w := call(t, a, op[0], op[1], op[2], "Authorization", header); w.Code != status {
				t.Errorf("%s %s as %q: %d, want %d: %s", op[0], op[1], credential, w.Code, status, w.Body)
			}
		}
	}
}

func TestWhoAmI(t *testing.T) {
	t.Parallel()
	if got := call(t, newAPI(t, testOptions()), "GET", "/whoami", "").Body.String(); strings.TrimSpace(got) !=
		`{"id":"anonymous","name":"anonymous","role":"admin","labels":{},"max_definitions":0,"expires_at":null}` {
		t.Errorf("where nobody is asked: %s", got)
	}
	o := testOptions()
	o.Access = byCredential{"x": {ID: "token:1", Name: "ci", Role: access.Viewer, Labels: map[string]string{"team": "growth"}, MaxDefinitions: 7,
		Expires: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))}}
	a := newAPI(t, o)
	got := call(t, a, "GET", "/whoami", "", "Authorization", "bearer x").Body.String()
	if strings.TrimSpace(got) !=
		`{"id":"token:1","name":"ci","role":"viewer","labels":{"team":"growth"},"max_definitions":7,"expires_at":"2026-01-02T02:04:05Z"}` {
		t.Errorf("a limited viewer: %s", got)
	}
	w := call(t, a, "GET", "/whoami", "", "Authorization", "Bearer y")
	if p := wantProblem(t, w, 401, "unauthorized"); p.Detail != "the credential is not valid: nobody has it" ||
		w.Header().Get("WWW-Authenticate") != `Bearer realm="activity-core", error="invalid_token"` {
		t.Errorf("%q %v", p.Detail, w.Header())
	}
}

func TestTooManyDefinitions(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Access = byCredential{"x": {Name: "ci", Role: access.Editor, MaxDefinitions: 3}}
	o.Store = &fakeStore{create: func(definition.Document) (definition.Stored, error) {
		return definition.Stored{}, fmt.Errorf("create definition a: %w", definition.ErrTooManyDefinitions)
	}}
	w := call(t, newAPI(t, o), "POST", "/activity-definitions", `{"name":"a","trigger_config":{"trigger_type":"manual"}}`,
		"Authorization", "Bearer x")
	if p := wantProblem(t, w, 409, "too-many-definitions"); p.Detail != "ci has made 3 definitions that are not deleted, and may not have more: "+
		"delete some, or ask an admin for a credential with a higher max_definitions" {
		t.Errorf("%q", p.Detail)
	}
}
