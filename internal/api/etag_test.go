package api

import (
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/definition"
)

func TestParseIfMatch(t *testing.T) {
	t.Parallel()
	none := definition.Match{}
	for _, test := range []struct {
		text string
		want definition.Match
		ok   bool
	}{
		{"", nil, true}, {"*", nil, true}, {" * ", nil, true},
		{`"1"`, definition.Match{1}, true}, {`"1", "22"`, definition.Match{1, 22}, true}, {` , "1" ,,"2",`, definition.Match{1, 2}, true},
		{`W/"1"`, none, true}, {`W/"1", "2"`, definition.Match{2}, true},
		{`""`, none, true}, {`"abc"`, none, true}, {`"01"`, none, true}, {`"+1"`, none, true}, {`"0"`, none, true}, {`"-1"`, none, true},
		{`"1,2"`, none, true}, {"\"\xe9\"", none, true}, {`"99999999999999999999"`, none, true}, {",", none, true},
		{`1`, nil, false}, {`"1`, nil, false}, {`"1" "2"`, nil, false}, {`*, "1"`, nil, false}, {`"1", *`, nil, false}, {`w/"1"`, nil, false},
		{`W/ "1"`, nil, false}, {`"1"x`, nil, false}, {`"a b"`, nil, false}, {"\"a\tb\"", nil, false}, {`'1'`, nil, false}, {`W/`, nil, false},
		{`"`, nil, false}, {`W/"`, nil, false}, {"\"\x7f\"", nil, false},
	} {
		got, ok := parseIfMatch(test.text)
		if ok != test.ok || !slices.Equal(got, test.want) || (got == nil) != (test.want == nil) {
			t.Errorf("%q: %#v %t, want %#v %t", test.text, got, ok, test.want, test.ok)
		}
	}
}

// The grammar of RFC 9110, written as it is there.
var ifMatchGrammar = regexp.MustCompile(`^[ \t]*(\*|([ \t]*|(W/)?"[!#-~¡-￿]*")?([ \t]*,[ \t]*((W/)?"[!#-~¡-￿]*")?)*)[ \t]*$`)

func FuzzIfMatch(f *testing.F) {
	for _, text := range []string{"*", `"1"`, `W/"1", "2"`, `,"3",`, `"a b"`, `"1" "2"`, "\"\xff\""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		match, ok := parseIfMatch(text)
		for _, r := range text { // as net/http refuses them, and what the grammar here cannot say
			if r == '\n' || r == '\r' || r > 0xffff || r == 0xfffd || r >= 0x80 && r < 0xa1 {
				return
			}
		}
		if want := ifMatchGrammar.MatchString(text); ok != want {
			t.Errorf("%q is taken: %t, by the grammar %t", text, ok, want)
		}
		for _, revision := range match {
			if revision < 1 || !strings.Contains(text, etag(revision)) {
				t.Errorf("%q matches revision %d", text, revision)
			}
		}
		if len(match) == 0 {
			return
		}
		tags := make([]string, len(match))
		for i, revision := range match {
			tags[i] = etag(revision)
		}
		if again, ok := parseIfMatch(strings.Join(tags, ", ")); !ok || !slices.Equal(again, match) {
			t.Errorf("%q: %v, and from its own tags %v %t", text, match, again, ok)
		}
	})
}

// Each operation that changes a definition hands the wanted revisions to the storage, and refuses what is no list of tags.
func TestIfMatchReachesTheStorage(t *testing.T) {
	t.Parallel()
	store := &fakeStore{get: func(id string) (definition.Stored, error) { return atRevision(id, 3), nil }}
	o := testOptions()
	o.Store = store
	a := newAPI(t, o)
	const path = "/activity-definitions/" + someID
	for _, request := range [][3]string{{"PUT", path, "{}"}, {"PATCH", path, "{}"}, {"DELETE", path, ""}, {"POST", path + "/pause", ""},
		{"POST", path + "/resume", ""}} {
		p := wantProblem(t, call(t, a, request[0], request[1], request[2], ifMatchHeader, "3"), 422, "invalid")
		if len(p.Errors) != 1 || p.Errors[0].Field != "If-Match" || p.Errors[0].Rule != "entity_tags" {
			t.Errorf("%s %s: %+v", request[0], request[1], p.Errors)
		}
		for given, want := range map[string]definition.Match{`"2"`: {2}, `"2" , W/"3"`: {2}, "*": nil, "": nil, " ": {}} {
			store.fails = func(when []definition.Match) error {
				if len(when) != 1 || !slices.Equal(when[0], want) || (when[0] == nil) != (want == nil) {
					t.Errorf("%s %s with %q: %#v, want %#v", request[0], request[1], given, when, want)
				}
				return &definition.RevisionError{Wanted: definition.Match{2}, Now: 3}
			}
			w := call(t, a, request[0], request[1], request[2], ifMatchHeader, given)
			p := wantProblem(t, w, 412, "precondition-failed")
			if w.Header().Get("ETag") != `"3"` || !strings.Contains(p.Detail, "revision 3 is in force") || !strings.Contains(p.Detail, "is 2") {
				t.Errorf("%s %s: ETag %q, %s", request[0], request[1], w.Header().Get("ETag"), p.Detail)
			}
		}
	}
}

// Several lines are one list.
func TestIfMatchOnSeveralLines(t *testing.T) {
	t.Parallel()
	store := &fakeStore{}
	var got definition.Match
	store.fails = func(when []definition.Match) error {
		got = when[0]
		return definition.ErrNotFound
	}
	o := testOptions()
	o.Store = store
	r := httptest.NewRequestWithContext(t.Context(), "PUT", "/activity-definitions/"+someID, strings.NewReader("{}"))
	r.Header[ifMatchHeader] = []string{`"1"`, `"2", "3"`}
	newAPI(t, o).ServeHTTP(httptest.NewRecorder(), r)
	if !slices.Equal(got, definition.Match{1, 2, 3}) {
		t.Errorf("the storage is asked for %v", got)
	}
}

func atRevision(id string, revision int) definition.Stored {
	var s definition.Stored
	s.ID, s.Revision = id, revision
	return s
}

func TestETags(t *testing.T) {
	t.Parallel()
	for revision := range 3 {
		o := testOptions()
		o.Store = &fakeStore{get: func(id string) (definition.Stored, error) { return atRevision(id, revision+1), nil }}
		a := newAPI(t, o)
		for _, method := range []string{"GET", "HEAD"} {
			// A tag of the client's own is not looked at.
			w := call(t, a, method, "/activity-definitions/"+someID, "", "If-None-Match", etag(revision+1))
			if got, want := w.Header().Get("ETag"), `"`+strconv.Itoa(revision+1)+`"`; w.Code != 200 || got != want {
				t.Errorf("%s: %d, ETag %q, want %q", method, w.Code, got, want)
			}
		}
	}
}
