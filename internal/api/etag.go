package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/activity-core/activity-core/internal/definition"
)

const ifMatchHeader = "If-Match"

// etag is the strong entity tag of a definition. It names the revision, and says nothing about how its schedule is.
func etag(revision int) string { return `"` + strconv.Itoa(revision) + `"` }

// ifMatchParam is the header If-Match of a request that changes a definition.
type ifMatchParam string

func (ifMatchParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Examples: []any{`"3"`}}
}

// parse returns the revisions that are accepted; nil, which accepts every one, when the header was not given or is *. Weak tags, and
// tags that we never gave out, match nothing.
func (p ifMatchParam) parse(f *faults) definition.Match {
	match, ok := parseIfMatch(string(p))
	if !ok {
		f.add(ifMatchHeader, "entity_tags", `must be * or a list of entity tags, and is %s: send the ETag of an answer as it is, with its quotes, `+
			`as in "3"`, strings.ToValidUTF8(clip(string(p), 60), "?"))
	}
	return match
}

// parseIfMatch reads "*" or a list of entity tags (RFC 9110, 8.8.3 and 13.1.1), which may have empty elements, and nothing else.
func parseIfMatch(text string) (match definition.Match, ok bool) {
	if text = strings.Trim(text, " \t"); text == "" || text == "*" {
		return nil, true
	}
	match = definition.Match{}
	for {
		if text = strings.TrimLeft(text, " \t,"); text == "" {
			return match, true
		}
		opaque, weak := strings.CutPrefix(text, "W/")
		tag, rest, closed := strings.Cut(strings.TrimPrefix(opaque, `"`), `"`)
		if !closed || opaque[0] != '"' || strings.ContainsFunc(tag, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return nil, false
		}
		revision, err := strconv.Atoi(tag)
		if err == nil && !weak && revision > 0 && strconv.Itoa(revision) == tag {
			match = append(match, revision)
		}
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != ',' {
			return nil, false
		}
		text = rest
	}
}

// precondition is the answer to a request for another revision than the one in force.
func precondition(e *definition.RevisionError) *Problem {
	p := newProblem(http.StatusPreconditionFailed, kindPrecondition, "the definition has changed: %s. Read it again, see whether your "+
		"change still makes sense, and send it with the new ETag", e)
	p.headers = http.Header{"Etag": {etag(e.Now)}}
	return p
}

// joinIfMatch is middleware that makes one line of several, which mean the same (RFC 9110, 5.3). One without any tag stays one, which
// matches nothing.
func joinIfMatch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lines := r.Header.Values(ifMatchHeader); len(lines) > 0 {
			joined := strings.Join(lines, ",")
			if strings.Trim(joined, " \t") == "" {
				joined = ","
			}
			r.Header.Set(ifMatchHeader, joined)
		}
		next.ServeHTTP(w, r)
	})
}
