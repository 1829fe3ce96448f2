package access

import (
	"strings"
	"testing"
)

func TestRoles(t *testing.T) {
	t.Parallel()
	for i, has := range Roles {
		for j, needs := range Roles {
			if got := has.Allows(needs); got != (i >= j) {
				t.Errorf("%s allows %s: %t", has, needs, got)
			}
		}
		if has.Allows("") || has.Allows("root") || Role("").Allows(has) || Role("root").Allows(has) {
			t.Errorf("an unknown role is taken for one beside %s", has)
		}
	}
	if Role("").Allows("") {
		t.Error("nothing allows nothing")
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	token := NewToken()
	if !IsToken(token) || token == NewToken() || len(token) != 44 {
		t.Fatalf("a new token %q", token)
	}
	changed := []byte(token)
	changed[10] = map[bool]byte{true: 'b', false: 'a'}[changed[10] == 'a']
	for _, bad := range []string{"", TokenPrefix, token[1:], token + "0", token[:43], string(changed), strings.ToUpper(token),
		TokenPrefix + strings.Repeat("-", 36), " " + token} {
		if IsToken(bad) {
			t.Errorf("%q is taken for a token", bad)
		}
	}
}

func FuzzIsToken(f *testing.F) {
	f.Add(NewToken())
	f.Add("actcore_")
	f.Fuzz(func(t *testing.T, text string) {
		if IsToken(text) && checksum(text[8:38]) != text[38:] {
			t.Errorf("%q passes with a wrong checksum", text)
		}
	})
}

func TestSees(t *testing.T) {
	t.Parallel()
	c := Caller{Labels: map[string]string{"team": "growth", "env": ""}}
	for _, test := range []struct {
		labels map[string]string
		want   bool
	}{
		{nil, false}, {map[string]string{"team": "growth"}, false}, {map[string]string{"team": "growth", "env": ""}, true},
		{map[string]string{"team": "other", "env": ""}, false}, {map[string]string{"team": "growth", "env": "", "more": "x"}, true},
	} {
		if got := c.Sees(test.labels); got != test.want {
			t.Errorf("%v: %t", test.labels, got)
		}
	}
	if !(Caller{}).Sees(nil) || (Caller{}).Limited() || !c.Limited() {
		t.Error("a caller without labels is limited")
	}
}
