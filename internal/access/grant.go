package access

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Algorithms are the signatures of people's tokens that can be believed: those whose key for checking is no key for signing.
var Algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Grant gives a role to the people of a group, for all definitions or for those that have some labels.
type Grant struct {
	Group  string
	Role   Role
	Labels map[string]string
}

// Grants are looked through in their order: the first whose group a person is in is theirs.
type Grants []Grant

// Find returns the grant of a person who is in these groups; false when there is none.
func (g Grants) Find(groups []string) (Grant, bool) {
	for _, grant := range g {
		if slices.Contains(groups, grant.Group) {
			return grant, true
		}
	}
	return Grant{}, false
}

const escapeHint = "in a name, write %2C for a comma, %3D for =, %40 for @, %26 for & and %25 for %"

// ParseGrants reads grants as they are written in a variable: group=role or group=role@label=value&label=value, with commas
// between them. Names and values may be percent-encoded, as in a URL. The error is one line and quotes the grant at fault.
func ParseGrants(text string) (Grants, error) {
	var grants Grants
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		grant, err := parseGrant(item)
		if err != nil {
			return nil, fmt.Errorf("the grant %q %w", item, err)
		}
		if slices.ContainsFunc(grants, func(g Grant) bool { return g.Group == grant.Group }) {
			return nil, fmt.Errorf("the grant %q is the second of its group, and would never count", item)
		}
		grants = append(grants, grant)
	}
	return grants, nil
}

func parseGrant(item string) (Grant, error) {
	rule, labels, limited := strings.Cut(item, "@")
	group, role, ok := strings.Cut(rule, "=")
	if !ok || group == "" {
		return Grant{}, errors.New("is not group=role; " + escapeHint)
	}
	name, err := url.PathUnescape(group)
	if err != nil {
		return Grant{}, errors.New("has a % that encodes nothing; " + escapeHint)
	}
	grant := Grant{Group: name, Role: Role(role)}
	if !slices.Contains(Roles, grant.Role) {
		return Grant{}, fmt.Errorf("names the role %q, which is none of viewer, operator, editor and admin", role)
	}
	if !limited {
		return grant, nil
	}
	grant.Labels = map[string]string{}
	for pair := range strings.SplitSeq(labels, "&") {
		key, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(value)
		switch {
		case err != nil:
			return Grant{}, errors.New("has a % that encodes nothing; " + escapeHint)
		case !ok || !labelPattern.MatchString(key) || len(value) > MaxLabelValue:
			return Grant{}, fmt.Errorf("has %q after the @, which is not label=value; several have an & between them", pair)
		}
		if before, twice := grant.Labels[key]; twice && before != value {
			return Grant{}, fmt.Errorf("names the label %s twice, and no definition has two values of one label", key)
		}
		grant.Labels[key] = value
	}
	return grant, nil
}
