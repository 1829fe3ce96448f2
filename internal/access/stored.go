package access

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits and defaults of tokens.
const (
	// MaxTokenName is the most characters of a token's name.
	MaxTokenName = 100
	// MaxLabels is the most labels that a token may be limited to, and MaxLabelValue the most bytes of the value of one: those that a
	// definition may have.
	MaxLabels     = 32
	MaxLabelValue = 255

	// DefaultLifetime is how long a token is good, MinLifetime and MaxLifetime bound what may be asked for.
	DefaultLifetime = 90 * 24 * time.Hour
	MinLifetime     = time.Minute
	MaxLifetime     = 366 * 24 * time.Hour

	// DefaultOverlap is how long a token that was rotated stays good, and MaxOverlap the longest that may be asked for.
	DefaultOverlap = 24 * time.Hour
	MaxOverlap     = 7 * 24 * time.Hour

	// DefaultMaxDefinitions is how many definitions the caller of a token may have made that are not deleted, and MostMaxDefinitions
	// the most that may be asked for. 0 is no limit.
	DefaultMaxDefinitions = 1000
	MostMaxDefinitions    = 1_000_000
)

// TokenState is what a token is good for.
type TokenState string

// The states of a token.
const (
	TokenActive  TokenState = "active"
	TokenExpired TokenState = "expired"
	TokenRevoked TokenState = "revoked"
)

// TokenStates lists every state.
var TokenStates = []TokenState{TokenActive, TokenExpired, TokenRevoked}

// TokenRequest asks for a token to be stored.
type TokenRequest struct {
	// Name is for people; several tokens may have one name.
	Name string
	Role Role
	// Labels limit its caller to definitions that have all of them; empty for no limit.
	Labels map[string]string
	// Lifetime is how long it is good.
	Lifetime time.Duration
	// MaxDefinitions is how many definitions its caller may have made that are not deleted; 0 for no limit.
	MaxDefinitions int
}

// Fault is one thing that is wrong with a request for a token: the field, a stable word for the rule that it breaks, and a sentence.
type Fault struct {
	Field, Rule, Message string
}

// labelPattern is what a definition may have as the name of a label.
var labelPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$`)

// Faults returns all that is wrong with the request, in the order of its fields.
func (r TokenRequest) Faults() []Fault {
	var out []Fault
	add := func(field, rule, format string, args ...any) {
		out = append(out, Fault{field, rule, fmt.Sprintf(format, args...)})
	}
	switch {
	case r.Name == "":
		add("name", "required", "is required: it tells people whose token it is, as in ci-deploy")
	case !utf8.ValidString(r.Name) || strings.ContainsFunc(r.Name, unicode.IsControl) || strings.TrimSpace(r.Name) != r.Name ||
		utf8.RuneCountInString(r.Name) > MaxTokenName:
		add("name", "token_name", "must be 1 to %d characters, without control characters and without spaces at its ends", MaxTokenName)
	}
	switch {
	case r.Role == "":
		add("role", "required", "is required: one of viewer, operator, editor, admin")
	case !slices.Contains(Roles, r.Role):
		add("role", "one_of", "%.40q is not known: it must be one of viewer, operator, editor, admin", r.Role)
	}
	if len(r.Labels) > MaxLabels {
		add("labels", "max_items", "has %d labels; at most %d are allowed", len(r.Labels), MaxLabels)
		return out
	}
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		value := r.Labels[key]
		switch {
		case !labelPattern.MatchString(key):
			add("labels", "label", "%.60q is not a label name: it must be 1 to 63 characters of a-z, A-Z, 0-9, '.', '_', '/' and '-', "+
				"beginning with a letter or digit", key)
		case len(value) > MaxLabelValue:
			add("labels."+key, "max_length", "must be at most %d bytes long", MaxLabelValue)
		case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
			add("labels."+key, "text", "must be text, without the character U+0000")
		}
	}
	if r.Lifetime < MinLifetime || r.Lifetime > MaxLifetime {
		add("expires_in", "range", "must be from %s to %s", hours(MinLifetime), hours(MaxLifetime))
	}
	if r.MaxDefinitions < 0 || r.MaxDefinitions > MostMaxDefinitions {
		add("max_definitions", "range", "must be from 0 (no limit) to %d", MostMaxDefinitions)
	}
	return out
}

// OverlapFaults returns what is wrong with the time that a token stays good after it was rotated.
func OverlapFaults(overlap time.Duration) []Fault {
	if overlap < 0 || overlap > MaxOverlap {
		return []Fault{{"overlap", "range", fmt.Sprintf("must be from 0s to %s", hours(MaxOverlap))}}
	}
	return nil
}

// hours writes whole hours as such, as in 2160h.
func hours(d time.Duration) string {
	if d%time.Hour == 0 {
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

// Token is what is stored of a token. The token itself is kept nowhere.
type Token struct {
	ID  string
	Seq int64
	// Family is the id of the first of those that were rotated into each other: whoever uses them is one caller.
	Family         string
	Name           string
	Role           Role
	Labels         map[string]string
	MaxDefinitions int
	// Hint is its last characters, by which people tell tokens apart.
	Hint string
	// CreatedBy is the name of the caller who made it.
	CreatedBy string
	CreatedAt time.Time
	ExpiresAt time.Time
	RevokedAt *time.Time
	// LastUsedAt is kept to a few minutes only; nil when it was never used.
	LastUsedAt *time.Time
	// State is what it was good for when it was read, by the clock of the storage, and Left how long it stays good from then on.
	State TokenState
	Left  time.Duration
}

// CallerID names the caller of a token and of all that it was rotated into.
func (t Token) CallerID() string { return "token:" + t.Family }

// Caller is who uses the token.
func (t Token) Caller() Caller {
	return Caller{ID: t.CallerID(), Name: t.Name, Role: t.Role, Labels: t.Labels, MaxDefinitions: t.MaxDefinitions, Expires: t.ExpiresAt}
}

// ListTokens selects a page of tokens, newest first.
type ListTokens struct {
	BeforeSeq int64 // 0 for the first page
	Limit     int
}

// ErrTokenEnded means that a token cannot be rotated because it has expired or was revoked.
var ErrTokenEnded = errors.New("the token has expired or was revoked")

// RotatedError means that a token cannot be rotated because it was: Into is the id of the one that took its place and is active.
type RotatedError struct {
	Into string
}

func (e *RotatedError) Error() string { return "the token was rotated already, into " + e.Into }
