package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// fakeStore answers with the token of a test, and counts.
type fakeStore struct {
	mu    sync.Mutex
	find  func(hash []byte) (access.Token, error)
	use   func(ctx context.Context) error
	finds int
	uses  int
}

func (s *fakeStore) FindToken(_ context.Context, hash []byte) (access.Token, error) {
	s.mu.Lock()
	s.finds++
	s.mu.Unlock()
	if s.find == nil {
		return access.Token{}, errors.New("this call was not expected")
	}
	return s.find(hash)
}

func (s *fakeStore) TokenUsed(ctx context.Context, _ string, within time.Duration) error {
	s.mu.Lock()
	s.uses++
	use := s.use
	s.mu.Unlock()
	if within != usedEvery {
		return fmt.Errorf("within %s", within)
	}
	if use == nil {
		return nil
	}
	return use(ctx)
}

func (s *fakeStore) counts() (finds, uses int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.finds, s.uses
}

func newAuthenticator(t *testing.T, s *fakeStore, people verifier) *Authenticator {
	t.Helper()
	a, err := New(Options{Tokens: s, People: people, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func active(left time.Duration) access.Token {
	return access.Token{ID: "1", Family: "f", Name: "ci", Role: access.Editor, Labels: map[string]string{"team": "growth"},
		MaxDefinitions: 7, ExpiresAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), State: access.TokenActive, Left: left}
}

type people func(raw string) (access.Caller, error)

func (p people) Verify(_ context.Context, raw string) (access.Caller, error) { return p(raw) }

func TestNewRefusesMissingOptions(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{Log: slog.New(slog.DiscardHandler)}); err == nil || err.Error() != "auth: Options.Tokens is missing" {
		t.Errorf("without Tokens: %v", err)
	}
	if _, err := New(Options{Tokens: &fakeStore{}}); err == nil || err.Error() != "auth: Options.Log is missing" {
		t.Errorf("without Log: %v", err)
	}
}

// TestWhatIsNoToken holds that the storage is not asked about a credential that cannot be a token, and who is asked instead.
func TestWhatIsNoToken(t *testing.T) {
	t.Parallel()
	token := access.NewToken()
	wrong := token[:len(token)-1] + map[bool]string{true: "a", false: "b"}[token[len(token)-1] != 'a']
	s := &fakeStore{}
	alone := newAuthenticator(t, s, nil)
	beside := newAuthenticator(t, s, people(func(raw string) (access.Caller, error) {
		if raw != "ada's" {
			t.Errorf("the verifier of people was asked about %q", raw)
		}
		return access.Caller{ID: "person:x#ada"}, nil
	}))
	for _, a := range []*Authenticator{alone, beside} {
		for _, bad := range []string{wrong, token[:40], token + "x", access.TokenPrefix} {
			_, err := a.Authenticate(t.Context(), bad)
			if !errors.Is(err, access.ErrUnknown) || err.Error() !=
				"the credential is not valid: it begins like a token and is none: a part of it is missing or was changed on its way here" {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
	if _, err := alone.Authenticate(t.Context(), "ada's"); !errors.Is(err, access.ErrUnknown) || err.Error() !=
		"the credential is not valid: it is no token of this installation, and only those are known here" {
		t.Errorf("a person where only tokens are known: %v", err)
	}
	if c, err := beside.Authenticate(t.Context(), "ada's"); err != nil || c.ID != "person:x#ada" {
		t.Errorf("a person: %+v %v", c, err)
	}
	if finds, _ := s.counts(); finds != 0 {
		t.Errorf("the storage was asked %d times", finds)
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	token := access.NewToken()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	expired, revoked := active(0), active(0)
	expired.State = access.TokenExpired
	revoked.State, revoked.RevokedAt = access.TokenRevoked, &at
	for _, test := range []struct {
		stored access.Token
		err    error
		is     error
		text   string
	}{
		{active(time.Hour), nil, nil, ""},
		{expired, nil, access.ErrUnknown, "the credential is not valid: the token expired at 2026-01-02T03:04:05Z; ask an admin for another one"},
		{revoked, nil, access.ErrUnknown, "the credential is not valid: the token was revoked; ask an admin for another one"},
		{access.Token{}, fmt.Errorf("find a token: %w", definition.ErrNotFound), access.ErrUnknown,
			"the credential is not valid: this installation does not know the token"},
		{access.Token{}, fmt.Errorf("find a token: %w", definition.ErrUnavailable), definition.ErrUnavailable,
			"find a token: storage is unavailable"},
	} {
		s := &fakeStore{find: func(hash []byte) (access.Token, error) {
			if string(hash) != string(access.HashToken(token)) {
				t.Errorf("asked for %x", hash)
			}
			return test.stored, test.err
		}}
		c, err := newAuthenticator(t, s, nil).Authenticate(t.Context(), token)
		if test.is == nil {
			if err != nil || c.ID != "token:f" || c.Name != "ci" || c.Role != access.Editor || c.Labels["team"] != "growth" ||
				c.MaxDefinitions != 7 || !c.Expires.Equal(test.stored.ExpiresAt) {
				t.Errorf("an active token: %+v %v", c, err)
			}
			continue
		}
		if !errors.Is(err, test.is) || err.Error() != test.text || c.Role != "" {
			t.Errorf("%+v: %v, %+v", test.stored, err, c)
		}
		if errors.Is(err, access.ErrUnknown) && test.is != access.ErrUnknown {
			t.Error("a storage that is away makes a credential unknown")
		}
	}
}

// TestHowLongItIsBelieved holds the times: a lookup every three seconds, so that a revoked token is refused by then, and not a moment
// beyond its expiry.
func TestHowLongItIsBelieved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		token := access.NewToken()
		stored := active(time.Hour)
		var err error
		s := &fakeStore{find: func([]byte) (access.Token, error) { return stored, err }}
		a := newAuthenticator(t, s, nil)
		good := func(what string, want bool, wantFinds int) {
			t.Helper()
			_, err := a.Authenticate(t.Context(), token)
			if finds, _ := s.counts(); (err == nil) != want || finds != wantFinds {
				t.Errorf("%s: %v after %d lookups, want %t after %d", what, err, finds, want, wantFinds)
			}
		}
		good("the first time", true, 1)
		revokedAt := time.Now()
		stored.RevokedAt, stored.State, stored.Left = &revokedAt, access.TokenRevoked, 0
		time.Sleep(believeFor - time.Millisecond)
		good("while it is believed", true, 1)
		time.Sleep(time.Millisecond)
		good("when it is not", false, 2)
		good("once more", false, 2)

		token, stored = access.NewToken(), active(time.Second)
		good("a second before its end", true, 3)
		time.Sleep(time.Second)
		good("at its end", false, 3)

		token, err = access.NewToken(), definition.ErrNotFound
		good("nobody's", false, 4)
		good("nobody's again", false, 5)
		stored, err = active(time.Hour), nil
		good("when somebody has it", true, 6)
		time.Sleep(believeFor)
		err = definition.ErrUnavailable
		good("when the storage is away", false, 7)
		err = nil
		good("when it is back", true, 8)
	})
}

// TestSlowAnswer holds that an answer is as old as the question.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{find: func([]byte) (access.Token, error) {
			time.Sleep(believeFor)
			return active(time.Hour), nil
		}}
		a := newAuthenticator(t, s, nil)
		token := access.NewToken()
		for range 2 {
			if _, err := a.Authenticate(t.Context(), token); err != nil {
				t.Error(err)
			}
		}
		if finds, _ := s.counts(); finds != 2 {
			t.Errorf("%d lookups, want 2: the answer was too old to be believed when it came", finds)
		}
	})
}

func TestUseIsNoted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stored := active(time.Hour)
		s := &fakeStore{find: func([]byte) (access.Token, error) { return stored, nil }}
		a := newAuthenticator(t, s, nil)
		token := access.NewToken()
		uses := func(what string, want int) {
			t.Helper()
			if _, err := a.Authenticate(t.Context(), token); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			synctest.Wait()
			if _, got := s.counts(); got != want {
				t.Errorf("%s: noted %d times, want %d", what, got, want)
			}
			time.Sleep(believeFor)
		}
		uses("never used", 1)
		now := time.Now()
		stored.LastUsedAt = &now
		uses("used just now", 1)
		time.Sleep(usedEvery)
		uses("used some minutes ago", 2)

		// Neither a storage that fails nor one that does not answer is the request's trouble, and only one is asked at a time.
		s.use = func(context.Context) error { return definition.ErrUnavailable }
		uses("when it fails", 3)
		s.use = func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		uses("when it hangs", 4)
		uses("while it hangs", 4)
		uses("after it hung", 5)
		synctest.Wait()
		time.Sleep(useTimeout)
	})
}

// TestRevokedIsNotNoted holds that only what is let in counts as a use.
func TestRevokedIsNotNoted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stored := active(0)
		stored.State = access.TokenExpired
		s := &fakeStore{find: func([]byte) (access.Token, error) { return stored, nil }}
		_, err := newAuthenticator(t, s, nil).Authenticate(t.Context(), access.NewToken())
		synctest.Wait()
		if _, uses := s.counts(); uses != 0 || !errors.Is(err, access.ErrUnknown) {
			t.Errorf("%d uses, %v", uses, err)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		stored := active(time.Hour)
		stored.LastUsedAt = &now
		s := &fakeStore{find: func([]byte) (access.Token, error) { return stored, nil }}
		a := newAuthenticator(t, s, nil)
		fill := func(n int) {
			for i := range n {
				if _, err := a.find(t.Context(), [32]byte(access.HashToken(fmt.Sprint(time.Now(), i)))); err != nil {
					t.Fatal(err)
				}
			}
		}
		fill(maxKnown - 1)
		time.Sleep(believeFor)
		fill(1)
		if len(a.known) != maxKnown {
			t.Fatalf("%d are known", len(a.known))
		}
		fill(1) // the same one again
		if len(a.known) != maxKnown {
			t.Errorf("%d are known, and nothing is new", len(a.known))
		}
		fill(2)
		if len(a.known) != 2 {
			t.Errorf("%d are known, want the two that are still believed", len(a.known))
		}
		for range 2 {
			fill(maxKnown)
			time.Sleep(time.Millisecond)
		}
		if len(a.known) > maxKnown {
			t.Errorf("%d are known", len(a.known))
		}
	})
}

// TestTogether has many ask at once; the race detector watches.
func TestTogether(t *testing.T) {
	t.Parallel()
	s := &fakeStore{find: func([]byte) (access.Token, error) { return active(time.Hour), nil }}
	a := newAuthenticator(t, s, nil)
	tokens := []string{access.NewToken(), access.NewToken(), strings.Repeat("x", 44)}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for range 50 {
				_, err := a.Authenticate(t.Context(), tokens[i%3])
				if (err == nil) != (i%3 < 2) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
