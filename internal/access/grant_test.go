package access

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseGrants(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Grants{
		"platform=admin": {{Group: "platform", Role: Admin}},
		"platform=admin, growth=editor@team=growth ,everyone=viewer": {{Group: "platform", Role: Admin},
			{Group: "growth", Role: Editor, Labels: map[string]string{"team": "growth"}}, {Group: "everyone", Role: Viewer}},
		"a=operator@team=growth&env=": {{Group: "a", Role: Operator, Labels: map[string]string{"team": "growth", "env": ""}}},
		"cn%3Da%2Cou%3Db=viewer@team=a%26b%2Cc%25": {{Group: "cn=a,ou=b", Role: Viewer,
			Labels: map[string]string{"team": "a&b,c%"}}},
		"/teams/a b=viewer": {{Group: "/teams/a b", Role: Viewer}},
	} {
		if got, err := ParseGrants(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	for text, reason := range map[string]string{
		"":                                       "is not group=role",
		"platform":                               "is not group=role",
		"=admin":                                 "is not group=role",
		"a=viewer,":                              "is not group=role",
		"a=root":                                 `names the role "root", which is none of`,
		"a=Admin":                                `names the role "Admin"`,
		"a=":                                     `names the role ""`,
		"a=viewer@":                              "which is not label=value",
		"a=viewer@team":                          "which is not label=value",
		"a=viewer@=x":                            "which is not label=value",
		"a=viewer@-t=x":                          "which is not label=value",
		"a=viewer@t=x&":                          "which is not label=value",
		"a=viewer@t=x&t=y":                       "names the label t twice",
		"a%zz=viewer":                            "has a % that encodes nothing",
		"a=viewer@t=%":                           "has a % that encodes nothing",
		"a=viewer,b=admin,a=admin":               "is the second of its group",
		"a=viewer@t=" + strings.Repeat("x", 256): "which is not label=value",
	} {
		if got, err := ParseGrants(text); err == nil || !strings.Contains(err.Error(), reason) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
}

func TestFindGrant(t *testing.T) {
	t.Parallel()
	grants, err := ParseGrants("a=viewer,b=admin,c=editor")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		groups []string
		want   Role
	}{{nil, ""}, {[]string{"x", "A", ""}, ""}, {[]string{"b", "a"}, Viewer}, {[]string{"c", "b"}, Admin}, {[]string{"c"}, Editor}} {
		if got, ok := grants.Find(test.groups); got.Role != test.want || ok != (test.want != "") {
			t.Errorf("%v: %+v %t", test.groups, got, ok)
		}
	}
}

func TestMask(t *testing.T) {
	t.Parallel()
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
	token := NewToken()
	for text, want := range map[string]string{
		"/runs/" + token:                   "/runs/...",
		"curl/8 (" + jwt + ") x":           "curl/8 (... x",
		"a " + token + " b " + jwt + " c":  "a ... b ... c",
		"/x/eyJhbGciOiJSUzI1NiJ9%2EeyJzdW": "/x/...",
		"eyAiYWxnIjogIlJTMjU2IiB9.e30.x":   "...",
		"ewogImFsZyI6ICJSUzI1NiIgfQ.e30.x": "...",
		token[:20] + " and the rest":       "... and the rest",
		"ACTCORE_AUTH=off":                 "ACTCORE_AUTH=off",
		"actcore_":                         "actcore_",
		"/activity-definitions/0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b/runs": "/activity-definitions/0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b/runs",
		"Mozilla/5.0 (X11; Linux x86_64) keyboard.eyes":                   "Mozilla/5.0 (X11; Linux x86_64) keyboard.eyes",
	} {
		if got := Mask(text); got != want {
			t.Errorf("%s became %s, want %s", text, got, want)
		}
	}
}
