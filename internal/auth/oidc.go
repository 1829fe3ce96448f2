package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/singleflight"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// Limits of people's tokens.
const (
	// maxJWT is the most bytes of a token.
	maxJWT = 8 << 10
	// maxSkew is how far the provider's clock and ours may be apart.
	maxSkew = 60 * time.Second
	// maxSubject is the most bytes of the claim sub, as OpenID Connect has it.
	maxSubject = 255
	// maxPersonName is the most bytes of a person's name.
	maxPersonName = 100
	// personDefinitions is how many definitions a person may have made that are not deleted.
	personDefinitions = 1000

	// keysAge is when the provider is asked again for all that it says about itself: a key that it has withdrawn is no good from then on.
	keysAge = 15 * time.Minute
	// keysRetry is when it is asked again after it did not answer that.
	keysRetry = 30 * time.Second
)

// OIDCOptions are what NewPeople needs. All are required.
type OIDCOptions struct {
	// Issuer is the address of the provider, exactly as it stands in its tokens (iss).
	Issuer string
	// Audience must be among those that a token is for (aud).
	Audience string
	// Algorithms are the names of the signatures that are believed, such as RS256.
	Algorithms []string
	// Claim is the name of the claim that holds a person's groups, a string or a list of them. When no claim has this name, its dots
	// lead into objects, as in realm_access.roles.
	Claim string
	// Grants say what people may do, by their groups.
	Grants access.Grants
	// Log gets the provider's troubles.
	Log *slog.Logger
}

// People finds out which person shows a JWT of an OpenID Connect provider. It asks the provider for its keys when the first token
// comes, so that a process starts while the provider is away. It is safe for concurrent use.
type People struct {
	options OIDCOptions
	client  *http.Client
	now     func() time.Time // time.Now, except in tests

	asking singleflight.Group

	mu    sync.Mutex
	keys  oidc.KeySet // nil until the provider has answered
	stale time.Time   // when keys should be asked for again
}

// NewPeople checks the options. It fails for a missing one; the provider is not asked yet.
func NewPeople(o OIDCOptions) (*People, error) {
	for _, need := range []struct {
		name    string
		missing bool
	}{
		{"Issuer", o.Issuer == ""}, {"Audience", o.Audience == ""}, {"Algorithms", len(o.Algorithms) == 0}, {"Claim", o.Claim == ""},
		{"Grants", len(o.Grants) == 0}, {"Log", o.Log == nil},
	} {
		if need.missing {
			return nil, errors.New("auth: OIDCOptions." + need.name + " is missing")
		}
	}
	for _, a := range o.Algorithms {
		if !slices.Contains(access.Algorithms, a) {
			return nil, fmt.Errorf("auth: %q is not one of the algorithms %s", a, strings.Join(access.Algorithms, ", "))
		}
	}
	p := &People{options: o, now: time.Now}
	p.client = &http.Client{Timeout: providerTimeout, Transport: newPatient(func() time.Time { return p.now() })}
	return p, nil
}

// Verify returns the person that a token is about. A person without a grant has no role. It fails with access.ErrUnknown for a token
// that is no good, wrapped by the reason, which is for the client, and with definition.ErrUnavailable while the provider's keys
// cannot be had.
func (p *People) Verify(ctx context.Context, raw string) (access.Caller, error) {
	if len(raw) > maxJWT {
		return access.Caller{}, refuse("it has more than %d bytes", maxJWT)
	}
	if strings.Count(raw, ".") != 2 || strings.ContainsAny(raw, "{ \t\r\n") { // the library reads JSON as well
		return access.Caller{}, refuse("it is not a JWT: three parts of base64 with dots between them")
	}
	keys, err := p.keySet(ctx)
	if err != nil {
		return access.Caller{}, err
	}
	noting := &notingKeys{keys: keys}
	verifier := oidc.NewVerifier(p.options.Issuer, noting, &oidc.Config{
		ClientID: p.options.Audience, SupportedSigningAlgs: p.options.Algorithms,
		SkipExpiryCheck: true, // it forgives five minutes of nbf and does not ask for exp; see checkTimes
	})
	token, err := verifier.Verify(ctx, raw)
	var away *awayError
	switch {
	case errors.As(noting.err, &away), noting.err != nil && ctx.Err() != nil:
		return access.Caller{}, p.unavailable(noting.err)
	case err != nil && noting.payload == nil:
		p.options.Log.LogAttrs(ctx, slog.LevelDebug, "token of a person refused", slog.Any("error", err))
		return access.Caller{}, refuse("its signature is none of %s by a key of %s", strings.Join(p.options.Algorithms, ", "), p.options.Issuer)
	}
	// From here on the provider has signed it, and may be quoted.
	claims, refused := readClaims(noting.payload)
	if refused != nil {
		return access.Caller{}, refused
	}
	if refused := checkTimes(claims, p.now()); refused != nil {
		return access.Caller{}, refused
	}
	if err != nil {
		return access.Caller{}, refuse("it must be issued by %s (iss) for the audience %s (aud)", p.options.Issuer, p.options.Audience)
	}
	if s := token.Subject; s == "" || len(s) > maxSubject || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return access.Caller{}, refuse("it must name a person (sub), by at most %d ASCII characters", maxSubject)
	}
	caller := access.Caller{
		ID: "person:" + p.options.Issuer + "#" + token.Subject, Name: claims.person(token.Subject), MaxDefinitions: personDefinitions,
	}
	if grant, ok := p.options.Grants.Find(claims.groups(p.options.Claim)); ok {
		caller.Role, caller.Labels = grant.Role, grant.Labels
	}
	return caller, nil
}

// refuse is the reason why a token is no good.
func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{access.ErrUnknown}, args...)...)
}

func (p *People) unavailable(err error) error {
	return fmt.Errorf("%w: ask the identity provider for its keys: %w", definition.ErrUnavailable, err)
}

// notingKeys remembers what became of a signature, which the library only tells in words.
type notingKeys struct {
	keys    oidc.KeySet
	payload []byte // what was signed, if the signature is good
	err     error
}

func (n *notingKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	n.payload, n.err = n.keys.VerifySignature(ctx, jwt)
	return n.payload, n.err
}

// keySet returns the provider's keys. The first caller waits until the provider has answered; later ones never wait, and go on with
// the old keys while the new ones are asked for.
func (p *People) keySet(ctx context.Context) (oidc.KeySet, error) {
	p.mu.Lock()
	keys, stale := p.keys, !p.now().Before(p.stale)
	p.mu.Unlock()
	if keys != nil && !stale {
		return keys, nil
	}
	asked := p.asking.DoChan("", func() (any, error) { return p.ask(context.WithoutCancel(ctx)) })
	if keys != nil {
		return keys, nil
	}
	select {
	case answer := <-asked:
		if answer.Err != nil {
			return nil, p.unavailable(answer.Err)
		}
		return answer.Val.(oidc.KeySet), nil
	case <-ctx.Done():
		return nil, p.unavailable(ctx.Err())
	}
}

// ask asks the provider for all that it says about itself, and for its keys. It keeps what it had when that fails.
func (p *People) ask(ctx context.Context) (oidc.KeySet, error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.client), providerTimeout)
	defer cancel()
	keys, err := p.discover(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.stale = p.now().Add(keysRetry)
		if p.keys != nil { // otherwise whoever waits tells
			p.options.Log.LogAttrs(ctx, slog.LevelWarn, "identity provider does not tell its keys: the old ones are used",
				slog.String("issuer", p.options.Issuer), slog.Any("error", err))
		}
		return nil, err
	}
	p.keys, p.stale = keys, p.now().Add(keysAge)
	return keys, nil
}

func (p *People) discover(ctx context.Context) (oidc.KeySet, error) {
	provider, err := oidc.NewProvider(ctx, p.options.Issuer)
	if err != nil {
		return nil, fmt.Errorf("discover %s: %w", p.options.Issuer, err)
	}
	var about struct {
		JWKSURL string `json:"jwks_uri"`
	}
	if err := provider.Claims(&about); err != nil {
		return nil, fmt.Errorf("read what %s says about itself: %w", p.options.Issuer, err)
	}
	// Asked now, so that new keys are only used when they are there: the key set's own first question finds the answer of this one.
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, about.JWKSURL, nil)
	if err != nil {
		return nil, fmt.Errorf("read the keys of %s: %w", p.options.Issuer, err)
	}
	answer, err := p.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("read the keys of %s: %w", p.options.Issuer, err)
	}
	defer func() { _ = answer.Body.Close() }()
	return oidc.NewRemoteKeySet(ctx, about.JWKSURL), nil
}

// claims are what a token says, by their exact names.
type claims map[string]jsontext.Value

// standardClaims are those that this package and the library decide by.
var standardClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat"}

// readClaims reads what was signed. The library reads names as encoding/json does, in any case and the last of several: a claim that
// somebody could choose freely, called SUB, would be taken for the one called sub. So there may be none like that.
func readClaims(payload []byte) (claims, error) {
	var c claims
	if err := jsonv2.Unmarshal(payload, &c); err != nil || c == nil {
		return nil, refuse("its claims are not a JSON object, or one has two values")
	}
	for name := range c {
		for _, standard := range standardClaims {
			if name != standard && strings.EqualFold(name, standard) {
				return nil, refuse("it has a claim that can be taken for %s", standard)
			}
		}
	}
	return c, nil
}

// checkTimes holds a token's times against the clock. They are seconds since 1970.
func checkTimes(c claims, now time.Time) error {
	seconds := float64(now.UnixMilli()) / 1000
	skew := maxSkew.Seconds()
	var exp, nbf, iat *float64
	for name, into := range map[string]**float64{"exp": &exp, "nbf": &nbf, "iat": &iat} {
		if value, ok := c[name]; ok && (jsonv2.Unmarshal(value, into) != nil || *into == nil) {
			return refuse("its claim %s is not a time: a number of seconds since 1970", name)
		}
	}
	switch {
	case exp == nil:
		return refuse("it never expires: the claim exp is missing")
	case *exp+skew < seconds:
		return refuse("it has expired; get a new one from the identity provider")
	case nbf != nil && *nbf-skew > seconds:
		return refuse("it is not valid yet (nbf)")
	case iat != nil && *iat-skew > seconds:
		return refuse("it was issued in the future (iat)")
	}
	return nil
}

// person returns a name for people to read.
func (c claims) person(subject string) string {
	for _, claim := range []string{"email", "preferred_username"} {
		var name string
		if jsonv2.Unmarshal(c[claim], &name) != nil {
			continue
		}
		if name = cleanName(name); name != "" {
			return name
		}
	}
	return cleanName(subject)
}

// cleanName bounds a name and leaves out what is not to be seen.
func cleanName(name string) string {
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	if name = strings.TrimSpace(name); len(name) > maxPersonName {
		name = strings.ToValidUTF8(name[:maxPersonName], "")
	}
	return name
}

// groups returns the person's groups: those of the claim with this name, or else of the one that its dots lead to.
func (c claims) groups(claim string) []string {
	value, ok := c[claim]
	if first, rest, dotted := strings.Cut(claim, "."); !ok && dotted {
		var deeper claims
		if jsonv2.Unmarshal(c[first], &deeper) != nil {
			return nil
		}
		return deeper.groups(rest)
	}
	var many []string
	if jsonv2.Unmarshal(value, &many) == nil {
		return many
	}
	var one string
	if jsonv2.Unmarshal(value, &one) == nil {
		return []string{one}
	}
	return nil
}
