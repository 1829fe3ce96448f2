package api

import (
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/danielgtaylor/huma/v2"
)

// Page sizes of lists.
const (
	defaultLimit = 50
	maxLimit     = 500
)

// checkQuery is huma middleware that refuses query parameters that the operation does not have, that are empty, or that
// are given twice: a filter with a typo must not look like an answer.
func checkQuery(ctx huma.Context, next func(huma.Context)) {
	address := ctx.URL()
	given, err := url.ParseQuery(address.RawQuery)
	if err != nil {
		writeProblem(ctx, invalidProblem(definition.Invalid("query", "encoding",
			"is not well formed: names and values must be URL-encoded")))
		return
	}
	var known []string
	for _, p := range ctx.Operation().Parameters {
		if p.In == "query" {
			known = append(known, p.Name)
		}
	}
	var f faults
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			f.add(clip(name, 60), "unknown_parameter", "is not a parameter of this request, which has none")
		case !slices.Contains(known, name):
			f.add(clip(name, 60), "unknown_parameter", "is not a parameter of this request; the known ones are %s",
				strings.Join(known, ", "))
		case len(given[name]) > 1:
			f.add(name, "once", "is given more than once")
		case given[name][0] == "":
			f.add(name, "not_empty", "is empty: give it a value or leave it out")
		case !utf8.ValidString(given[name][0]) || strings.ContainsRune(given[name][0], 0):
			f.add(name, "text", "is not legal text")
		}
	}
	if err := f.err(); err != nil {
		writeProblem(ctx, invalidProblem(err))
		return
	}
	next(ctx)
}

// The types of query parameters. They are strings that describe themselves to the OpenAPI document and are parsed by the
// handler; the zero value means that the parameter was not given.
type (
	limitParam   string
	boolParam    string
	triggerParam string
	statusParam  string
)

func (limitParam) Schema(huma.Registry) *huma.Schema {
	least, most := 1.0, float64(maxLimit)
	return &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Maximum: &most, Default: defaultLimit}
}

func (p limitParam) parse(f *faults) int {
	if p == "" {
		return defaultLimit
	}
	n, err := strconv.Atoi(string(p))
	if err != nil || n < 1 || n > maxLimit {
		f.add("limit", "range", "%q is not a page size: it must be a whole number from 1 to %d", clip(string(p), 20), maxLimit)
		return defaultLimit
	}
	return n
}

func (boolParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeBoolean}
}

func (p boolParam) parse(field string, f *faults) *bool {
	switch p {
	case "":
		return nil
	case "true", "false":
		v := p == "true"
		return &v
	}
	f.add(field, "boolean", "%q is neither true nor false", clip(string(p), 20))
	return nil
}

// The trigger types and the kinds of a run's trigger are the same three words.
var triggerWords = []string{string(definition.TriggerCron), string(definition.TriggerEvent), string(definition.TriggerManual)}

func (triggerParam) Schema(huma.Registry) *huma.Schema { return enumSchema(triggerWords...) }

func (p triggerParam) parse(field string, f *faults) string {
	return oneOf(field, string(p), triggerWords, f)
}

func (statusParam) Schema(huma.Registry) *huma.Schema { return enumSchema(runStatusWords()...) }

func (p statusParam) parse(f *faults) definition.RunStatus {
	return definition.RunStatus(oneOf("status", string(p), runStatusWords(), f))
}

func runStatusWords() []string {
	words := make([]string, len(definition.RunStatuses))
	for i, s := range definition.RunStatuses {
		words[i] = string(s)
	}
	return words
}

func oneOf(field, given string, words []string, f *faults) string {
	if given == "" || slices.Contains(words, given) {
		return given
	}
	f.add(field, "one_of", "%q is not known: it must be one of %s", clip(given, 40), strings.Join(words, ", "))
	return ""
}

// faults collects what is wrong with the parameters of one request.
type faults struct {
	fields []definition.FieldError
}

func (f *faults) add(field, rule, format string, args ...any) {
	f.fields = append(f.fields, definition.Invalid(field, rule, format, args...).Fields...)
}

func (f *faults) err() *definition.InvalidError {
	if len(f.fields) == 0 {
		return nil
	}
	return &definition.InvalidError{Fields: f.fields}
}

// cursor is a place in a list: continue after (or, newest first, before) Seq. It is tied to the list and to its filters,
// for which the place means something.
type cursor struct {
	list    string
	filters string
	seq     int64
}

// cursorVersion changes whenever a cursor comes to mean something else; older ones are then refused.
const cursorVersion = "1"

func (c cursor) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(
		[]string{cursorVersion, c.scope(), strconv.FormatInt(c.seq, 10)}, ".")))
}

func (c cursor) scope() string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s", c.list, c.filters)
	return fmt.Sprintf("%016x", h.Sum64())
}

// parse returns the place that text holds, 0 when there is none.
func (c cursor) parse(text string, f *faults) int64 {
	if text == "" {
		return 0
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	parts := strings.Split(string(data), ".")
	if err != nil || len(parts) != 3 || parts[0] != cursorVersion {
		f.add("cursor", "cursor", "is not a cursor: use the next_cursor of an earlier answer as it is, or leave it out")
		return 0
	}
	c.seq, err = strconv.ParseInt(parts[2], 10, 64)
	switch {
	case err != nil || c.seq < 1 || len(parts[1]) != 16:
		f.add("cursor", "cursor", "is not a cursor: use the next_cursor of an earlier answer as it is, or leave it out")
		return 0
	case c.String() != text:
		f.add("cursor", "cursor", "belongs to another list or to other filters: leave it out to begin anew")
		return 0
	}
	return c.seq
}

// nextCursor cuts the row that was read beyond the page, if there is one, and returns the cursor of the next page or nil.
func nextCursor[T any](rows []T, limit int, c cursor, seq func(T) int64) ([]T, *string) {
	if len(rows) <= limit {
		return rows, nil
	}
	rows = rows[:limit]
	c.seq = seq(rows[limit-1])
	text := c.String()
	return rows, &text
}

func enumSchema(words ...string) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString}
	for _, w := range words {
		s.Enum = append(s.Enum, w)
	}
	return s
}
