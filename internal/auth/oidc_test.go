package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// identityProvider is a small OpenID Connect provider: discovery and keys, over HTTP.
type identityProvider struct {
	url string

	mu    sync.Mutex
	keys  []jose.JSONWebKey
	down  bool // answers 502
	asked int  // for its keys
}

func newProvider(t *testing.T, keys ...jose.JSONWebKey) *identityProvider {
	t.Helper()
	p := &identityProvider{}
	p.set(keys...)
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *identityProvider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.down:
		w.WriteHeader(http.StatusBadGateway)
	case r.URL.Path == "/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.url, "jwks_uri": p.url + "/keys", "id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
		})
	case r.URL.Path == "/keys":
		p.asked++
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: p.keys})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// set replaces the keys that the provider publishes.
func (p *identityProvider) set(keys ...jose.JSONWebKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = nil
	for _, k := range keys {
		p.keys = append(p.keys, k.Public())
	}
}

func (p *identityProvider) setDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

func (p *identityProvider) timesAsked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// handClock is a clock that only a test moves.
type handClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *handClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *handClock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

const testAudience = "activity-core"

// newPeople are people of the provider, for RS256 and ES256, with a clock that stands still.
func newPeople(t *testing.T, issuer string, change ...func(*OIDCOptions)) (*People, *handClock) {
	t.Helper()
	o := OIDCOptions{
		Issuer: issuer, Audience: testAudience, Algorithms: []string{"RS256", "ES256"}, Claim: "groups",
		Grants: access.Grants{
			{Group: "platform", Role: access.Admin},
			{Group: "growth", Role: access.Editor, Labels: map[string]string{"team": "growth"}},
			{Group: "everyone", Role: access.Viewer},
		},
		Log: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&o)
	}
	people, err := NewPeople(o)
	if err != nil {
		t.Fatal(err)
	}
	clock := &handClock{at: time.Now()}
	people.now = clock.now
	return people, clock
}

func rsaKey(t *testing.T, id string) jose.JSONWebKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: id}
}

func ecKey(t *testing.T, id string) jose.JSONWebKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: id}
}

// goodClaims are those of a person in the group platform whose token is good for a minute, with changes; nil takes a claim out.
func goodClaims(p *identityProvider, now time.Time, changes ...map[string]any) map[string]any {
	c := map[string]any{
		"iss": p.url, "aud": testAudience, "sub": "ada", "exp": now.Add(time.Minute).Unix(), "iat": now.Unix(), "nbf": now.Unix(),
		"email": "ada@example.com", "groups": []string{"platform"},
	}
	for _, change := range changes {
		maps.Copy(c, change)
	}
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// signed signs claims, which may also be text, as the provider does.
func signed(t *testing.T, alg jose.SignatureAlgorithm, key jose.JSONWebKey, claims any, header ...func(*jose.SignerOptions)) string {
	t.Helper()
	var options jose.SignerOptions
	options.WithType("JWT")
	for _, h := range header {
		h(&options)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &options)
	if err != nil {
		t.Fatal(err)
	}
	payload, ok := claims.(string)
	if !ok {
		data, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		payload = string(data)
	}
	jws, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// forged puts a token together by hand.
func forged(t *testing.T, header map[string]any, claims any, sign func(input string) []byte) string {
	t.Helper()
	var parts []string
	for _, part := range []any{header, claims} {
		data, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(data))
	}
	input := strings.Join(parts, ".")
	return input + "." + base64.RawURLEncoding.EncodeToString(sign(input))
}

func hs256(secret []byte) func(string) []byte {
	return func(input string) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return mac.Sum(nil)
	}
}

func rs256(t *testing.T, key jose.JSONWebKey) func(string) []byte {
	return func(input string) []byte {
		sum := sha256.Sum256([]byte(input))
		out, err := rsa.SignPKCS1v15(rand.Reader, key.Key.(*rsa.PrivateKey), crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// peopleOnly lets people in, and nobody else.
type peopleOnly struct{ *People }

func (p peopleOnly) Authenticate(ctx context.Context, credential string) (access.Caller, error) {
	return p.Verify(ctx, credential)
}

// Parts of an API that no test here gets to.
type (
	noStore   struct{ api.Store }
	noLedger  struct{}
	noStopper struct{}
	noSync    struct{}
)

func (noLedger) Record(context.Context, []definition.Occurrence) ([]definition.Start, error) {
	return nil, nil
}
func (noLedger) Start(context.Context, definition.Start) error         { return nil }
func (noStopper) StopAll(context.Context, []definition.Stopping) error { return nil }
func (noStopper) Wake(context.Context, []string)                       {}
func (noStopper) Decided(context.Context, string) error                { return nil }
func (noSync) SyncNow(context.Context, string) (definition.SyncStatus, error) {
	return definition.SyncStatus{}, nil
}
func (noSync) SyncAll(context.Context, bool) (api.SyncResult, error) { return api.SyncResult{}, nil }

// apiFor is the HTTP API for these people.
func apiFor(t *testing.T, people *People) http.Handler {
	t.Helper()
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	a, err := api.New(api.Options{
		Store: noStore{}, Ledger: noLedger{}, Stopper: noStopper{}, Syncer: noSync{}, FullSyncer: noSync{}, Health: ok, Ready: ok,
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Access: peopleOnly{people},
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// ask makes a request that a viewer may make and that needs no storage.
func ask(t *testing.T, a http.Handler, token string) (status int, body string, header http.Header) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/cron/preview", strings.NewReader(`{"cron_expression":"@daily"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	data, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(data), w.Header()
}

// TestForgedTokens shows tokens that are no good: each is refused, also by the API, for the reason that it is no good for. The good
// ones in the table say that it was that reason.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	rsa1, ec1, stranger := rsaKey(t, "rsa-1"), ecKey(t, "ec-1"), rsaKey(t, "rsa-1")
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed1 := jose.JSONWebKey{Key: edwards, KeyID: "ed-1"}
	provider := newProvider(t, rsa1, ec1, ed1)
	people, clock := newPeople(t, provider.url)
	handler := apiFor(t, people)
	now := clock.now()

	claims := func(changes ...map[string]any) map[string]any { return goodClaims(provider, now, changes...) }
	with := func(name string, value any) map[string]any { return claims(map[string]any{name: value}) }
	rs := func(c any) string { return signed(t, jose.RS256, rsa1, c) }
	header := func(name string, value any) func(*jose.SignerOptions) {
		return func(o *jose.SignerOptions) { o.WithHeader(jose.HeaderKey(name), value) }
	}
	good := rs(claims())
	parts := strings.Split(good, ".")
	der, err := x509.MarshalPKIXPublicKey(&rsa1.Key.(*rsa.PrivateKey).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	admin, err := json.Marshal(with("sub", "root"))
	if err != nil {
		t.Fatal(err)
	}
	badSignature := []byte(parts[2])
	badSignature[10] = map[bool]byte{true: 'B', false: 'A'}[badSignature[10] == 'A']
	asJSON := `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`

	const (
		bySignature = "its signature is none of RS256, ES256 by a key of "
		byIssuer    = "it must be issued by "
		byForm      = "it is not a JWT"
	)
	for _, c := range []struct {
		name, token string
		refused     string // how the reason begins; "" for a good one
	}{
		{"good, RS256", good, ""},
		{"good, ES256", signed(t, jose.ES256, ec1, claims()), ""},
		{"good, in an audience list", rs(with("aud", []string{"other", testAudience})), ""},
		{"good, expired 59 s ago", rs(with("exp", now.Add(-59*time.Second).Unix())), ""},
		{"good, valid in 59 s", rs(with("nbf", now.Add(59*time.Second).Unix())), ""},
		{"good, issued in 59 s", rs(with("iat", now.Add(59*time.Second).Unix())), ""},
		{"good, without nbf and iat", rs(claims(map[string]any{"nbf": nil, "iat": nil})), ""},
		{"good, times with fractions", rs(with("exp", float64(now.Unix())+0.5)), ""},
		{"good, without a key's name", signed(t, jose.RS256, jose.JSONWebKey{Key: rsa1.Key}, claims()), ""},

		{"no signature, none", forged(t, map[string]any{"alg": "none"}, claims(), func(string) []byte { return nil }), bySignature},
		{"no signature, None", forged(t, map[string]any{"alg": "None"}, claims(), func(string) []byte { return nil }), bySignature},
		{"none with a signature", forged(t, map[string]any{"alg": "none"}, claims(), rs256(t, rsa1)), bySignature},
		{"no algorithm", forged(t, map[string]any{"kid": "rsa-1"}, claims(), rs256(t, rsa1)), bySignature},
		{"HS256 by the public key in PEM", forged(t, map[string]any{"alg": "HS256", "kid": "rsa-1"}, claims(), hs256(asPEM)), bySignature},
		{"HS256 by the public key in DER", forged(t, map[string]any{"alg": "HS256", "kid": "rsa-1"}, claims(), hs256(der)), bySignature},
		{"HS256 by the modulus", forged(t, map[string]any{"alg": "HS256", "kid": "rsa-1"}, claims(),
			hs256(rsa1.Key.(*rsa.PrivateKey).N.Bytes())), bySignature},
		{"HS256 by nothing", forged(t, map[string]any{"alg": "HS256", "kid": "rsa-1"}, claims(), hs256(nil)), bySignature},
		{"PS256, a good key, not in the list", signed(t, jose.PS256, rsa1, claims()), bySignature},
		{"RS512, a good key, not in the list", signed(t, jose.RS512, rsa1, claims()), bySignature},
		{"EdDSA, a good key, not in the list", signed(t, jose.EdDSA, ed1, claims()), bySignature},
		{"ES256 by name, signed by RSA", forged(t, map[string]any{"alg": "ES256", "kid": "rsa-1"}, claims(), rs256(t, rsa1)), bySignature},
		{"a stranger's key by our key's name", signed(t, jose.RS256, stranger, claims()), bySignature},
		{"a key that nobody knows", signed(t, jose.RS256, jose.JSONWebKey{Key: stranger.Key, KeyID: "rsa-9"}, claims()), bySignature},
		{"our key by another's name", signed(t, jose.RS256, jose.JSONWebKey{Key: rsa1.Key, KeyID: "ec-1"}, claims()), bySignature},
		{"a stranger's key in the header", signed(t, jose.RS256, jose.JSONWebKey{Key: stranger.Key}, claims(),
			func(o *jose.SignerOptions) { o.EmbedJWK = true }), bySignature},
		{"a stranger's address of keys", signed(t, jose.RS256, stranger, claims(), header("jku", "https://evil.example/keys")), bySignature},
		{"a stranger's certificate address", signed(t, jose.RS256, stranger, claims(), header("x5u", "https://evil.example/c")), bySignature},
		{"critical, and unknown", forged(t, map[string]any{"alg": "RS256", "kid": "rsa-1", "crit": []string{"exp"}, "exp": 1}, claims(),
			rs256(t, rsa1)), bySignature},
		{"other claims", parts[0] + "." + base64.RawURLEncoding.EncodeToString(admin) + "." + parts[2], bySignature},
		{"another header", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`)) + "." + parts[1] + "." + parts[2], bySignature},
		{"another signature", parts[0] + "." + parts[1] + "." + string(badSignature), bySignature},
		{"an empty signature", parts[0] + "." + parts[1] + ".", bySignature},
		{"another's signature", parts[0] + "." + parts[1] + "." + strings.Split(rs(with("sub", "root")), ".")[2], bySignature},

		{"expired 61 s ago", rs(with("exp", now.Add(-61*time.Second).Unix())), "it has expired"},
		{"expired at 0", rs(with("exp", 0)), "it has expired"},
		{"expired before there was time", rs(with("exp", -1e300)), "it has expired"},
		{"never expires", rs(with("exp", nil)), "it never expires"},
		{"expires null", rs(strings.Replace(`{"iss":"I","aud":"activity-core","sub":"a","exp":null}`, "I", provider.url, 1)), "its claim exp is not a time"},
		{"expires in words", rs(with("exp", "tomorrow")), "its claim exp is not a time"},
		{"valid in 61 s", rs(with("nbf", now.Add(61*time.Second).Unix())), "it is not valid yet"},
		{"valid in 4 minutes", rs(with("nbf", now.Add(4*time.Minute).Unix())), "it is not valid yet"},
		{"issued in 61 s", rs(with("iat", now.Add(61*time.Second).Unix())), "it was issued in the future"},

		{"another issuer", rs(with("iss", "https://evil.example")), byIssuer},
		{"an issuer with a slash", rs(with("iss", provider.url+"/")), byIssuer},
		{"no issuer", rs(with("iss", nil)), byIssuer},
		{"another audience", rs(with("aud", "other")), byIssuer},
		{"other audiences", rs(with("aud", []string{"other", "more"})), byIssuer},
		{"an audience that begins like ours", rs(with("aud", testAudience+"-2")), byIssuer},
		{"no audience", rs(with("aud", nil)), byIssuer},
		{"no subject", rs(with("sub", nil)), "it must name a person"},
		{"an empty subject", rs(with("sub", "")), "it must name a person"},
		{"a long subject", rs(with("sub", strings.Repeat("a", 256))), "it must name a person"},
		{"a subject with a line break", rs(with("sub", "a\nb")), "it must name a person"},
		{"a second subject", rs(with("SUB", "root")), "it has a claim that can be taken for sub"},
		{"a second issuer", rs(claims(map[string]any{"iss": "https://evil.example", "Iss": provider.url})), "it has a claim that can be taken for iss"},
		{"the same claim twice", rs(`{"iss":"` + provider.url + `","aud":"activity-core","sub":"a","sub":"b","exp":9999999999}`), "its claims are not a JSON object"},
		{"claims that are no object", rs(`[]`), "its claims are not a JSON object"},
		{"claims that are null", rs(`null`), "its claims are not a JSON object"},
		{"a token in a token", signed(t, jose.RS256, rsa1, good, header("cty", "JWT")), "its claims are not a JSON object"},

		{"9 KiB", rs(with("pad", strings.Repeat("x", 9<<10))), "it has more than 8192 bytes"},
		{"as JSON", asJSON, byForm},
		{"two parts", parts[0] + "." + parts[1], byForm},
		{"four parts", good + ".x", byForm},
		{"encrypted, in five parts", parts[0] + ".a.b.c.d", byForm},
		{"one of ours", access.NewToken(), byForm},
		{"two dots", "..", bySignature},
		{"not base64", "a!.b!.c!", bySignature},
		{"with a space", parts[0] + ". " + parts[1] + "." + parts[2], byForm},
	} {
		caller, err := people.Verify(t.Context(), c.token)
		status, body, headers := ask(t, handler, c.token)
		if c.refused == "" {
			if err != nil || caller.ID != "person:"+provider.url+"#ada" || status != http.StatusOK {
				t.Errorf("%s: refused: %v, %d %s", c.name, err, status, body)
			}
			continue
		}
		if !errors.Is(err, access.ErrUnknown) || !reflect.DeepEqual(caller, access.Caller{}) {
			t.Errorf("%s: let in as %+v, or not refused as unknown: %v", c.name, caller, err)
			continue
		}
		if reason := strings.TrimPrefix(err.Error(), access.ErrUnknown.Error()+": "); !strings.HasPrefix(reason, c.refused) {
			t.Errorf("%s: refused because %q, want %q", c.name, reason, c.refused)
		}
		if status != http.StatusUnauthorized || !strings.Contains(headers.Get("Www-Authenticate"), `error="invalid_token"`) {
			t.Errorf("%s: the API answers %d %v", c.name, status, headers)
		}
		for _, leak := range []string{"go-jose", "oidc:", "crypto", "kid", "rsa-1", parts[1], "failed to"} {
			if strings.Contains(body, leak) {
				t.Errorf("%s: the answer holds %q: %s", c.name, leak, body)
			}
		}
	}
}

// TestPeople looks at who a good token makes.
func TestPeople(t *testing.T) {
	t.Parallel()
	key := rsaKey(t, "a")
	provider := newProvider(t, key)
	for _, c := range []struct {
		name, claim string
		change      map[string]any
		want        access.Caller
	}{
		{"the first grant that one has", "", map[string]any{"groups": []string{"everyone", "growth"}},
			access.Caller{Role: access.Editor, Labels: map[string]string{"team": "growth"}, Name: "ada@example.com"}},
		{"one group as text", "", map[string]any{"groups": "platform"}, access.Caller{Role: access.Admin, Name: "ada@example.com"}},
		{"a group that begins alike", "", map[string]any{"groups": []string{"platform2", "Platform", "every one"}}, access.Caller{Name: "ada@example.com"}},
		{"no groups", "", map[string]any{"groups": nil}, access.Caller{Name: "ada@example.com"}},
		{"an empty list", "", map[string]any{"groups": []string{}}, access.Caller{Name: "ada@example.com"}},
		{"numbers", "", map[string]any{"groups": []any{"platform", 1}}, access.Caller{Name: "ada@example.com"}},
		{"an object", "", map[string]any{"groups": map[string]any{"platform": true}}, access.Caller{Name: "ada@example.com"}},
		{"a path", "realm_access.roles", map[string]any{"realm_access": map[string]any{"roles": []string{"platform"}}},
			access.Caller{Role: access.Admin, Name: "ada@example.com"}},
		{"a path that ends early", "realm_access.roles", map[string]any{"realm_access": "platform"}, access.Caller{Name: "ada@example.com"}},
		{"a name with dots", "https://example.com/groups", map[string]any{"https://example.com/groups": []string{"platform"}},
			access.Caller{Role: access.Admin, Name: "ada@example.com"}},
		{"no email", "", map[string]any{"email": nil, "preferred_username": "ada"}, access.Caller{Role: access.Admin, Name: "ada"}},
		{"no name", "", map[string]any{"email": " \n", "preferred_username": 7, "sub": "x7"}, access.Caller{Role: access.Admin, Name: "x7"}},
		{"an ugly name", "", map[string]any{"email": "a\x00d\x1b[31m\u202ea" + strings.Repeat("é", 100)},
			access.Caller{Role: access.Admin, Name: "ad[31ma" + strings.Repeat("é", 46)}},
	} {
		people, clock := newPeople(t, provider.url, func(o *OIDCOptions) {
			if c.claim != "" {
				o.Claim = c.claim
			}
		})
		got, err := people.Verify(t.Context(), signed(t, jose.RS256, key, goodClaims(provider, clock.now(), c.change)))
		c.want.ID, c.want.MaxDefinitions = "person:"+provider.url+"#ada", 1000
		if sub, ok := c.change["sub"].(string); ok {
			c.want.ID = "person:" + provider.url + "#" + sub
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v %v, want %+v", c.name, got, err, c.want)
		}
	}
}

// TestNobodyWithoutAGrant: who is known and has no grant is told so.
func TestNobodyWithoutAGrant(t *testing.T) {
	t.Parallel()
	key := rsaKey(t, "a")
	provider := newProvider(t, key)
	people, clock := newPeople(t, provider.url)
	status, body, _ := ask(t, apiFor(t, people), signed(t, jose.RS256, key, goodClaims(provider, clock.now(), map[string]any{"groups": "guests"})))
	if status != http.StatusForbidden || !strings.Contains(body, "none of the groups of ada@example.com has a grant here") {
		t.Errorf("%d %s", status, body)
	}
}

// TestNewKeys: the provider changes its keys, and tokens by the new ones are good without a restart; a stranger's tokens do not make us
// ask all the time; and a key that was withdrawn is no good after a quarter of an hour.
func TestNewKeys(t *testing.T) {
	t.Parallel()
	old, young := rsaKey(t, "old"), rsaKey(t, "young")
	provider := newProvider(t, old)
	people, clock := newPeople(t, provider.url)
	verify := func(key jose.JSONWebKey) error {
		_, err := people.Verify(t.Context(), signed(t, jose.RS256, key, goodClaims(provider, clock.now())))
		return err
	}
	if err := verify(old); err != nil {
		t.Fatal(err)
	}
	provider.set(old, young)
	clock.forward(answerAge)
	if err := verify(young); err != nil {
		t.Errorf("a new key: %v", err)
	}
	asked := provider.timesAsked()
	for range 50 {
		if err := verify(rsaKeyOnce(t)); !errors.Is(err, access.ErrUnknown) {
			t.Fatalf("a stranger's key: %v", err)
		}
	}
	if more := provider.timesAsked() - asked; more > 0 {
		t.Errorf("50 tokens by a stranger's key within 10 seconds made %d questions", more)
	}

	provider.set(young)
	if err := verify(old); err != nil {
		t.Errorf("the old key, whose end nobody knows yet: %v", err)
	}
	clock.forward(keysAge)
	testenv.Eventually(t, 10*time.Second, "the withdrawn key is no good", func(context.Context) (bool, error) {
		return errors.Is(verify(old), access.ErrUnknown), nil
	})
	if err := verify(young); err != nil {
		t.Errorf("the new key: %v", err)
	}

	// While the provider is away, what was known goes on to be good, and nobody waits.
	provider.setDown(true)
	clock.forward(2 * keysAge)
	for range 3 {
		if err := verify(young); err != nil {
			t.Errorf("the provider is away: %v", err)
		}
		clock.forward(keysRetry)
	}
	if err := verify(old); !errors.Is(err, definition.ErrUnavailable) {
		t.Errorf("a key that is not known while the provider is away: %v", err)
	}
}

var rsaKeyOnce = func() func(*testing.T) jose.JSONWebKey {
	var once sync.Once
	var key jose.JSONWebKey
	return func(t *testing.T) jose.JSONWebKey {
		once.Do(func() { key = rsaKey(t, "nobody-knows") })
		return key
	}
}()

// TestProviderAway: without the provider nobody can be told from anybody, which is no fault of the token.
func TestProviderAway(t *testing.T) {
	t.Parallel()
	key := rsaKey(t, "a")
	provider := newProvider(t, key)
	provider.setDown(true)
	people, clock := newPeople(t, provider.url)
	handler := apiFor(t, people)
	token := signed(t, jose.RS256, key, goodClaims(provider, clock.now()))
	for range 3 {
		status, body, header := ask(t, handler, token)
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || strings.Contains(body, provider.url) ||
			!strings.Contains(body, "who you are cannot be checked at the moment") {
			t.Errorf("the provider is away: %d %v %s", status, header, body)
		}
	}
	provider.setDown(false)
	clock.forward(failureAge)
	if status, body, _ := ask(t, handler, token); status != http.StatusOK {
		t.Errorf("the provider is back: %d %s", status, body)
	}
}

// TestProviderMisbehaves: answers of a provider that cannot be used are its fault, not the token's.
func TestProviderMisbehaves(t *testing.T) {
	t.Parallel()
	key := rsaKey(t, "a")
	released := make(chan struct{})
	var address string
	discovery := func(issuer, keys string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			json.NewEncoder(w).Encode(map[string]any{"issuer": issuer, "jwks_uri": keys})
		}
	}
	text := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
	}
	for _, c := range []struct {
		name   string
		make   func() http.HandlerFunc
		reason string
	}{
		{"another issuer", func() http.HandlerFunc { return discovery("https://evil.example", address) }, "did not match the issuer URL"},
		{"keys in the open", func() http.HandlerFunc { return discovery(address, "http://192.0.2.1/keys") }, "neither https nor on this machine"},
		{"keys in a file", func() http.HandlerFunc { return discovery(address, "file:///etc/passwd") }, "neither https nor on this machine"},
		{"moved into the open", func() http.HandlerFunc {
			return http.RedirectHandler("http://192.0.2.1/", http.StatusFound).ServeHTTP
		}, "answered 302 Found"},
		{"no keys", func() http.HandlerFunc { return discovery(address, "") }, "read the keys of"},
		{"no JSON", func() http.HandlerFunc { return text("<html>welcome</html>") }, "did not answer with JSON"},
		{"too much", func() http.HandlerFunc { return text(`{"issuer":"` + strings.Repeat("x", maxAnswer) + `"}`) }, "answered more than 1 MiB"},
		{"no answer", func() http.HandlerFunc { return func(http.ResponseWriter, *http.Request) { <-released } }, "context deadline exceeded"},
	} {
		mux := http.NewServeMux()
		server := httptest.NewServer(mux)
		address = server.URL
		mux.HandleFunc("/", c.make())
		people, clock := newPeople(t, server.URL)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := people.Verify(ctx, signed(t, jose.RS256, key, goodClaims(&identityProvider{url: server.URL}, clock.now())))
		cancel()
		if !errors.Is(err, definition.ErrUnavailable) || errors.Is(err, access.ErrUnknown) || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v, want %q", c.name, err, c.reason)
		}
		if c.name == "no answer" {
			close(released)
		}
		server.Close()
	}
}

func TestNewPeopleNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	full := OIDCOptions{Issuer: "https://id.example", Audience: "a", Algorithms: []string{"RS256"}, Claim: "groups",
		Grants: access.Grants{{Group: "a", Role: access.Viewer}}, Log: slog.New(slog.DiscardHandler)}
	for name, remove := range map[string]func(*OIDCOptions){
		"Issuer": func(o *OIDCOptions) { o.Issuer = "" }, "Audience": func(o *OIDCOptions) { o.Audience = "" },
		"Algorithms": func(o *OIDCOptions) { o.Algorithms = nil }, "Claim": func(o *OIDCOptions) { o.Claim = "" },
		"Grants": func(o *OIDCOptions) { o.Grants = nil }, "Log": func(o *OIDCOptions) { o.Log = nil },
	} {
		o := full
		remove(&o)
		if _, err := NewPeople(o); err == nil || err.Error() != "auth: OIDCOptions."+name+" is missing" {
			t.Errorf("without %s: %v", name, err)
		}
	}
	for _, bad := range []string{"none", "HS256", "rs256", ""} {
		o := full
		o.Algorithms = slices.Concat(o.Algorithms, []string{bad})
		if _, err := NewPeople(o); err == nil {
			t.Errorf("the algorithm %q is taken", bad)
		}
	}
}
