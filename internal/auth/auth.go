// Package auth finds out who calls: it turns the credential of a request into an access.Caller.
//
// A credential that begins like a token of this installation is one, or no good: its hash is looked up in the storage. What the
// storage said is believed for a few seconds, so that a busy caller costs a lookup every few seconds and not one for each request; a
// token that is revoked anywhere is refused everywhere once that time is over. A token that nobody knows is looked up each time.
// Every other credential is left to a second verifier, for people.
package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// believeFor is how long the storage's answer about a token is believed. Together with the time that a request takes it stays
	// below the five seconds within which a revoked token must be refused.
	believeFor = 3 * time.Second
	// maxKnown bounds how many tokens are remembered.
	maxKnown = 10_000
	// usedEvery is how exact the time of the last use is, and useTimeout how long noting it may take.
	usedEvery  = 5 * time.Minute
	useTimeout = 5 * time.Second
)

// tokenStore keeps tokens. FindToken fails with definition.ErrNotFound for a hash that no token has, and with
// definition.ErrUnavailable. TokenUsed notes that a token is in use, unless that was noted within the given time.
type tokenStore interface {
	FindToken(ctx context.Context, hash []byte) (access.Token, error)
	TokenUsed(ctx context.Context, id string, within time.Duration) error
}

// verifier finds out who shows a credential that is no token of ours. It fails with access.ErrUnknown, wrapped by a reason that is
// for the client, and with definition.ErrUnavailable when it cannot tell now.
type verifier interface {
	Verify(ctx context.Context, raw string) (access.Caller, error)
}

// Options are what New needs. All but People are required.
type Options struct {
	Tokens tokenStore
	// People knows the credentials that are no tokens of ours; nil knows none.
	People verifier
	Log    *slog.Logger
}

// Authenticator finds out who calls. It is safe for concurrent use.
type Authenticator struct {
	tokens tokenStore
	people verifier
	log    *slog.Logger
	noting chan struct{} // holds one place: uses are noted one at a time

	mu    sync.Mutex
	known map[[32]byte]known

	now func() time.Time // time.Now, except in tests
}

// known is what the storage said about a token.
type known struct {
	token access.Token
	asked time.Time
}

// New makes an Authenticator. It fails for a missing option.
func New(o Options) (*Authenticator, error) {
	switch {
	case o.Tokens == nil:
		return nil, errors.New("auth: Options.Tokens is missing")
	case o.Log == nil:
		return nil, errors.New("auth: Options.Log is missing")
	}
	return &Authenticator{
		tokens: o.Tokens, people: o.People, log: o.Log, noting: make(chan struct{}, 1), known: map[[32]byte]known{}, now: time.Now,
	}, nil
}

// Authenticate returns who shows the credential. It fails with access.ErrUnknown, wrapped by a reason that is for the client, and with
// definition.ErrUnavailable when it cannot tell now.
func (a *Authenticator) Authenticate(ctx context.Context, credential string) (access.Caller, error) {
	switch {
	case access.IsToken(credential):
		return a.token(ctx, credential)
	case strings.HasPrefix(credential, access.TokenPrefix):
		return access.Caller{}, unknown("it begins like a token and is none: a part of it is missing or was changed on its way here")
	case a.people != nil:
		return a.people.Verify(ctx, credential)
	}
	return access.Caller{}, unknown("it is no token of this installation, and only those are known here")
}

// unknown refuses a credential for a reason, which the client reads.
func unknown(format string, args ...any) error {
	return fmt.Errorf("%w: %s", access.ErrUnknown, fmt.Sprintf(format, args...))
}

func (a *Authenticator) token(ctx context.Context, credential string) (access.Caller, error) {
	k, err := a.find(ctx, [32]byte(access.HashToken(credential)))
	switch {
	case errors.Is(err, definition.ErrNotFound):
		return access.Caller{}, unknown("this installation does not know the token")
	case err != nil:
		return access.Caller{}, err
	case k.token.RevokedAt != nil:
		return access.Caller{}, unknown("the token was revoked; ask an admin for another one")
	case a.now().Sub(k.asked) >= k.token.Left:
		return access.Caller{}, unknown("the token expired at %s; ask an admin for another one", k.token.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return k.token.Caller(), nil
}

// find returns what the storage says, or said a moment ago, about a token.
func (a *Authenticator) find(ctx context.Context, hash [32]byte) (known, error) {
	now := a.now()
	a.mu.Lock()
	k, ok := a.known[hash]
	a.mu.Unlock()
	if ok && now.Sub(k.asked) < believeFor {
		return k, nil
	}
	t, err := a.tokens.FindToken(ctx, hash[:])
	if err != nil {
		return known{}, err
	}
	// As old as the question: whoever revokes it meanwhile is not answered by what was seen before.
	k = known{token: t, asked: now}
	a.remember(hash, k)
	if t.State == access.TokenActive {
		a.noteUse(ctx, t)
	}
	return k, nil
}

// remember keeps what the storage said. When there is no room, it forgets what is not believed any more, or else everything: to
// forget costs a lookup.
func (a *Authenticator) remember(hash [32]byte, k known) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxKnown {
		for h, old := range a.known {
			if k.asked.Sub(old.asked) >= believeFor {
				delete(a.known, h)
			}
		}
		if len(a.known) >= maxKnown {
			clear(a.known)
		}
	}
	a.known[hash] = k
}

// noteUse has the time of the last use written when it is not known, or may be too old. The request does not wait for it: what cannot
// be written, or comes while another one is written, is left to a later request.
func (a *Authenticator) noteUse(ctx context.Context, t access.Token) {
	if t.LastUsedAt != nil && a.now().Sub(*t.LastUsedAt) < usedEvery {
		return
	}
	select {
	case a.noting <- struct{}{}:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), useTimeout)
	go func() {
		defer func() {
			cancel()
			<-a.noting
		}()
		if err := a.tokens.TokenUsed(ctx, t.ID, usedEvery); err != nil {
			a.log.LogAttrs(ctx, slog.LevelDebug, "the use of a token is not noted", slog.String("token_id", t.ID), slog.Any("error", err))
		}
	}()
}
