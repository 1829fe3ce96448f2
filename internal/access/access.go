// Package access says who may do what: roles, callers, the labels that a caller is limited to, and the form of tokens. It is
// pure: internal/auth finds out who calls, internal/api asks whether they may, and internal/postgres keeps to their labels and
// writes their names into the audit trail.
package access

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// Role is what a caller may do. Each role may do what the ones before it may.
type Role string

// The roles, weakest first.
const (
	// Viewer reads.
	Viewer Role = "viewer"
	// Operator also steers what is there: triggers, pauses, cancels, replays, and settles dead letters.
	Operator Role = "operator"
	// Editor also writes definitions.
	Editor Role = "editor"
	// Admin also gives access to others.
	Admin Role = "admin"
)

// Roles are all roles, weakest first.
var Roles = []Role{Viewer, Operator, Editor, Admin}

// Allows reports whether a caller with this role may do what needs the other one. An unknown role may do nothing, and what needs an
// unknown role nobody may do.
func (r Role) Allows(needed Role) bool {
	has, needs := slices.Index(Roles, r), slices.Index(Roles, needed)
	return needs >= 0 && has >= needs
}

// Caller is who makes a request.
type Caller struct {
	// ID names the caller for ever: "token:<id>" (the same for all rotations of a token), "person:<issuer>#<subject>",
	// "anonymous" where nobody is asked, or "system" for our own programs.
	ID string
	// Name is for people: the name of the token, or the person's.
	Name string
	Role Role
	// Labels limit the caller to definitions that have all of them; nil for no limit.
	Labels map[string]string
	// MaxDefinitions is how many definitions the caller may have made that are not deleted; 0 for no limit.
	MaxDefinitions int
	// Expires is when the credential ends; zero where that is not known.
	Expires time.Time
	// Address is the IP address that the request came from, and RequestID the request's; "" outside of one.
	Address, RequestID string
}

// Limited reports whether the caller is limited to some definitions.
func (c Caller) Limited() bool { return len(c.Labels) > 0 }

// Sees reports whether a definition with these labels is within the caller's limits.
func (c Caller) Sees(labels map[string]string) bool {
	for key, value := range c.Labels {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// LabelPairs returns the labels that the caller is limited to as keys, sorted, and their values.
func (c Caller) LabelPairs() (keys, values []string) {
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		keys, values = append(keys, key), append(values, c.Labels[key])
	}
	return keys, values
}

// Anonymous is the caller where requests carry no identity (ACTCORE_AUTH=off).
var Anonymous = Caller{ID: "anonymous", Name: "anonymous", Role: Admin}

// system is the caller of our own programs, which nothing limits.
var system = Caller{ID: "system", Name: "system", Role: Admin}

type contextKey struct{}

// With returns a context whose work is done for the caller.
func With(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// From returns the caller that the work of a context is done for; one of our own programs when there is none.
func From(ctx context.Context) Caller {
	if c, ok := ctx.Value(contextKey{}).(Caller); ok {
		return c
	}
	return system
}

// ErrUnknown means that a credential is no good: malformed, unknown, expired or revoked. Its text is for the client.
var ErrUnknown = errors.New("the credential is not valid")
