package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestCheckEventPattern(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", MaxEventType)
	for _, c := range []struct{ pattern, fault string }{
		{"user.created", ""}, {"a", ""}, {"user-2.x_y", ""}, {long, ""},
		{"*", ""}, {">", ""}, {"user.*", ""}, {"user.>", ""}, {"*.created", ""}, {"*.*", ""}, {"*.>", ""}, {"user.*.x.>", ""},
		{long[2:] + ".*", ""},
		{"", "must not be empty"},
		{long + "a", "must be at most 200 characters long"},
		{long + ".*", "must be at most 200 characters long"},
		{"user.>.x", "may have > only as its last word"},
		{">.x", "may have > only as its last word"},
		{"us*r", `has the word "us*r"`}, {"user.**", `has the word "**"`}, {"user.>>", `has the word ">>"`}, {"user.*>", `has the word "*>"`},
		{"user..*", "must not have an empty word"}, {".*", "must not have an empty word"}, {"*.", "must not have an empty word"},
		{"User.*", "must be lower-case words"}, {"us er.>", "must be lower-case words"}, {"user. *", "has the word"},
		{"User", "must be lower-case words"}, {"user..created", "must be lower-case words"}, {"é.*", "must be lower-case words"},
	} {
		if got := CheckEventPattern(c.pattern); (c.fault == "") != (got == "") || !strings.HasPrefix(got, c.fault) {
			t.Errorf("%.60q: %q, want %q", c.pattern, got, c.fault)
		}
	}
	// Events have exact types.
	for _, pattern := range []string{"*", "user.*", "user.>"} {
		if CheckEventType(pattern) == "" {
			t.Errorf("%q is the type of an event", pattern)
		}
	}
}

func TestFilterPlaces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ filters, want string }{
		{`{}`, ``},
		{`null`, ``},
		{`{"b": 1, "a": "x"}`, `a="x" b=1`},
		{`{"a.b": 1}`, `a.b=1`},
		{`{"a": {"b": 1}}`, `a.b=1`},
		{`{"a": {"b.c": 1, "d": {"e": null}}, "a.f": [ 1, {"x.y": 2} ]}`, `a.b.c=1 a.d.e=null a.f=[ 1, {"x.y": 2} ]`},
		{`{"a": {}, "b": { }, "c": {"d": {}}}`, `a={} b={} c.d={}`},
		{`{"a\u00e9.\u0062": "\u0062"}`, `aé.b="\u0062"`},
		{`{"a": {"\u0062": {"c": 1}}}`, `a.b.c=1`},
		{`{"a-b": 1, "a": {"c": 2}, "a.b": 3}`, `a.b=3 a.c=2 a-b=1`},
	} {
		var filters map[string]json.RawMessage
		if err := json.Unmarshal([]byte(c.filters), &filters); err != nil {
			t.Fatal(err)
		}
		places, err := FilterPlaces(filters)
		if err != nil {
			t.Errorf("%s: %v", c.filters, err)
		}
		var got []string
		for _, p := range places {
			got = append(got, fmt.Sprintf("%s=%s", p.Name(), p.Value))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s names %s, want %s", c.filters, strings.Join(got, " "), c.want)
		}
	}
}

func TestFilterPlacesRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("a.", MaxEventDepth-2) + "a"
	for _, c := range []struct {
		filters    map[string]string
		name, rule string
	}{
		{map[string]string{"a.b": "1", "a": `{"b":1}`}, "a.b", "given_twice"},
		{map[string]string{"a": `{"b.c":1,"b":{"c":2}}`}, "a.b.c", "given_twice"},
		{map[string]string{"a": `1`, "a.b": `1`}, "a", "value_and_members"},
		{map[string]string{"a": `1`, "a.b.c": `1`, "a-b": "1"}, "a", "value_and_members"},
		{map[string]string{"a": `{"b":[]}`, "a.b.c": `1`}, "a.b", "value_and_members"},
		{map[string]string{"a": `{}`, "a.b": `1`}, "a", "value_and_members"},
		{map[string]string{"": "1"}, "", "empty_name"},
		{map[string]string{".": "1"}, ".", "empty_name"},
		{map[string]string{"a.": "1"}, "a.", "empty_name"},
		{map[string]string{"a": `{"":1}`}, "a.", "empty_name"},
		{map[string]string{deep + ".a": "1"}, deep + ".a", "too_deep"},
		{map[string]string{"x": strings.Repeat(`{"x":`, 200) + "1" + strings.Repeat("}", 200)}, strings.Repeat("x.", 99) + "x", "too_deep"},
		{map[string]string{"a": ``}, "a", "syntax"},
		{map[string]string{"a": `{"b":1,"b":2}`}, "a", "syntax"},
		{map[string]string{"a": `{"b":1} 2`}, "a", "syntax"},
		{map[string]string{"a": `{"b":1`}, "a", "syntax"},
		{map[string]string{"a": `[{"b":1,"b":2}]`}, "a", "syntax"},
	} {
		filters := map[string]json.RawMessage{}
		for name, value := range c.filters {
			filters[name] = json.RawMessage(value)
		}
		_, err := FilterPlaces(filters)
		var fault *FilterError
		if !errors.As(err, &fault) || fault.Name != c.name || fault.Rule != c.rule || fault.Message == "" {
			t.Errorf("%.100v: %.200v, want %s of %q", c.filters, err, c.rule, c.name)
		}
	}
	if places, err := FilterPlaces(map[string]json.RawMessage{deep: json.RawMessage("1")}); err != nil || len(places) != 1 ||
		!slices.Equal(places[0].Path, strings.Split(deep, ".")) {
		t.Errorf("the deepest place: %v", err)
	}
}
