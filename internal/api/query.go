package api

import (
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/danielgtaylor/huma/v2"
)

// Page sizes of lists.
const (
	defaultLimit = 50
	maxLimit     = 500
)

const (
	// maxParameters is the most query parameters of a request, and maxWords the most words of one that is a list.
	maxParameters = 100
	maxWords      = 100
)

// checkQuery is huma middleware that refuses query parameters that the operation does not have, that are empty, or that
// are given twice: a filter with a typo must not look like an answer.
func checkQuery(ctx huma.Context, next func(huma.Context)) {
	address := ctx.URL()
	if strings.Count(address.RawQuery, "&") >= maxParameters {
		writeProblem(ctx, invalidProblem(definition.Invalid("query", "max_items", "has more than %d parameters", maxParameters)))
		return
	}
	given, err := url.ParseQuery(address.RawQuery)
	if err != nil {
		writeProblem(ctx, invalidProblem(definition.Invalid("query", "encoding",
			"is not well formed: names and values must be URL-encoded")))
		return
	}
	var known []string
	repeats := map[string]bool{}
	for _, p := range ctx.Operation().Parameters {
		if p.In == "query" {
			known = append(known, p.Name)
			repeats[p.Name] = p.Explode != nil && *p.Explode
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
		case len(given[name]) > 1 && !repeats[name]:
			f.add(name, "once", "is given more than once")
		case slices.Contains(given[name], ""):
			f.add(name, "not_empty", "is empty: give it a value or leave it out")
		case slices.ContainsFunc(given[name], func(v string) bool { return !utf8.ValidString(v) || strings.ContainsRune(v, 0) }):
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
	limitParam       string
	countParam       string
	boolParam        string
	idParam          string
	triggerTypeParam string
	triggerKindParam string
	statusParam      string
	reasonParam      string
	labelParam       string
	eventIDParam     string
	eventTypeParam   string
	timeParam        string
	revisionParam    string
	actionParam      string
	targetKindParam  string
	auditIDParam     string

	rejectReasonParam     string
	deadLetterStatusParam string
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

func (countParam) Schema(huma.Registry) *huma.Schema {
	least, most := 1.0, float64(maxFires)
	return &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Maximum: &most, Default: defaultFires}
}

func (p countParam) parse(f *faults) int {
	if p == "" {
		return defaultFires
	}
	n, err := strconv.Atoi(string(p))
	if err != nil || n < 1 || n > maxFires {
		f.add("count", "range", "%q is not a count: it must be a whole number from 1 to %d", clip(string(p), 20), maxFires)
		return defaultFires
	}
	return n
}

func (idParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "uuid"}
}

func (p idParam) parse(field string, f *faults) string {
	if p == "" {
		return ""
	}
	id, err := definition.ParseID(string(p))
	if err != nil {
		f.add(field, "uuid", "%q is not an id: an id is a UUID", clip(string(p), 60))
	}
	return id
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

func (triggerTypeParam) Schema(huma.Registry) *huma.Schema {
	return enumSchema(definition.TriggerTypes...)
}

func (p triggerTypeParam) parse(field string, f *faults) definition.TriggerType {
	return oneOf(field, definition.TriggerType(p), definition.TriggerTypes, f)
}

// A list of words is written with commas between them.

func (triggerKindParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeArray, Items: enumSchema(definition.TriggerKinds...)}
}

func (p triggerKindParam) parse(field string, f *faults) []definition.TriggerKind {
	return listOf(field, split(string(p)), definition.TriggerKinds, f)
}

func (statusParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeArray, Items: enumSchema(definition.RunStatuses...)}
}

func (p statusParam) parse(f *faults) []definition.RunStatus {
	return listOf("status", split(string(p)), definition.RunStatuses, f)
}

func split(words string) []string {
	if words == "" {
		return nil
	}
	return strings.Split(words, ",")
}

func listOf[T ~string](field string, given []string, known []T, f *faults) []T {
	if len(given) > maxWords {
		f.add(field, "max_items", "holds more than %d words", maxWords)
		return nil
	}
	var out []T
	for _, word := range given {
		switch v := oneOf(field, T(word), known, f); {
		case word == "":
			f.add(field, "not_empty", "holds an empty word")
		case v != "" && !slices.Contains(out, v):
			out = append(out, v)
		}
	}
	return out
}

func (reasonParam) Schema(huma.Registry) *huma.Schema { return enumSchema(definition.Reasons...) }

func (p reasonParam) parse(f *faults) definition.Reason {
	return oneOf("reason", definition.Reason(p), definition.Reasons, f)
}

func (labelParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: "^[^=]+=.*$", Examples: []any{"team=growth"}}
}

func parseLabels(given []labelParam, f *faults) map[string]string {
	if len(given) == 0 {
		return nil
	}
	if len(given) > definition.MaxLabels {
		f.add("label", "max_items", "is given more than %d times, and no definition has more labels", definition.MaxLabels)
		return nil
	}
	labels := make(map[string]string, len(given))
	for _, pair := range given {
		key, value, ok := strings.Cut(string(pair), "=")
		switch before, twice := labels[key]; {
		case !ok || key == "":
			f.add("label", "label", "%q is not a label: it must be a name, = and a value, as in team=growth", clip(string(pair), 60))
		case twice && before != value:
			f.add("label", "unique", "names %q twice, and no definition has two values of one label", clip(key, 60))
		default:
			labels[key] = value
		}
	}
	return labels
}

func (rejectReasonParam) Schema(huma.Registry) *huma.Schema {
	return enumSchema(definition.RejectReasons...)
}

func (p rejectReasonParam) parse(f *faults) string {
	return oneOf("reason", string(p), definition.RejectReasons, f)
}

func (deadLetterStatusParam) Schema(huma.Registry) *huma.Schema {
	return enumSchema(definition.DeadLetterStatuses...)
}

func (p deadLetterStatusParam) parse(f *faults) definition.DeadLetterStatus {
	return oneOf("status", definition.DeadLetterStatus(p), definition.DeadLetterStatuses, f)
}

// eventIDPattern is what definition.ParseMessage takes as an event id.
var eventIDPattern = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9._:/+=@-]{1,%d}$`, definition.MaxEventID))

func (eventIDParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: eventIDPattern.String()}
}

func (p eventIDParam) parse(field string, f *faults) string {
	if p != "" && !eventIDPattern.MatchString(string(p)) {
		f.add(field, "event_id", "%q is not an event id: it must be 1 to %d of A-Z, a-z, 0-9 and . _ : / + = @ -",
			clip(string(p), definition.MaxEventID), definition.MaxEventID)
		return ""
	}
	return string(p)
}

func (eventTypeParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Examples: []any{"user.created"}}
}

func (p eventTypeParam) parse(field string, f *faults) string {
	if fault := definition.CheckEventPattern(string(p)); p != "" && fault != "" {
		f.add(field, "event_type", "%s", fault)
		return ""
	}
	return string(p)
}

func (timeParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time"}
}

// parse returns the zero time when none was given.
func (p timeParam) parse(field string, f *faults) time.Time {
	if p == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, string(p))
	if err != nil {
		f.add(field, "time", "%q is not an RFC 3339 time, as in 2026-01-31T09:00:00Z (the + of an offset is %%2B in a query)",
			clip(string(p), 60))
	}
	return t.UTC()
}

func (revisionParam) Schema(huma.Registry) *huma.Schema {
	least, most := 1.0, float64(math.MaxInt32)
	return &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Maximum: &most}
}

// parse returns 0 when none was given.
func (p revisionParam) parse(field string, f *faults) int {
	if p == "" {
		return 0
	}
	n, err := strconv.ParseInt(string(p), 10, 32)
	if err != nil || n < 1 {
		f.add(field, "range", "%q is not a revision: it must be a whole number from 1 to %d", clip(string(p), 20), math.MaxInt32)
		return 0
	}
	return int(n)
}

func (auditIDParam) Schema(huma.Registry) *huma.Schema {
	least := 1.0
	return &huma.Schema{Type: huma.TypeInteger, Format: "int64", Minimum: &least}
}

func (actionParam) Schema(huma.Registry) *huma.Schema { return enumSchema(definition.Actions...) }

func (p actionParam) parse(f *faults) definition.Action {
	return oneOf("action", definition.Action(p), definition.Actions, f)
}

func (targetKindParam) Schema(huma.Registry) *huma.Schema {
	return enumSchema(definition.TargetKinds...)
}

func (p targetKindParam) parse(f *faults) definition.TargetKind {
	return oneOf("target_kind", definition.TargetKind(p), definition.TargetKinds, f)
}

func oneOf[T ~string](field string, given T, known []T, f *faults) T {
	if given == "" || slices.Contains(known, given) {
		return given
	}
	words := make([]string, len(known))
	for i, w := range known {
		words[i] = string(w)
	}
	f.add(field, "one_of", "%q is not known: it must be one of %s", clip(string(given), 40), strings.Join(words, ", "))
	return ""
}

// faults collects what is wrong with the parameters of one request: the first definition.MaxFaults of it.
type faults struct {
	fields []definition.FieldError
}

func (f *faults) add(field, rule, format string, args ...any) {
	if len(f.fields) < definition.MaxFaults {
		f.fields = append(f.fields, definition.Invalid(field, rule, format, args...).Fields...)
	}
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

func enumSchema[T ~string](words ...T) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString}
	for _, w := range words {
		s.Enum = append(s.Enum, string(w))
	}
	return s
}
