package api_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/getkin/kin-openapi/openapi3"
	"pgregory.net/rapid"
)

// Requests are made of the document alone: a new operation, parameter or field is tried without a word here. Only where a schema
// cannot say what is legal (a cron expression is a string), hints has words that are.
var hints = map[string][]any{
	"cron_expression":  {"0 9 * * 1-5", "*/5 * * * *", "@hourly", "@daily", "@every 90s", "30 2 * * *", "0 0 31 2 *", "1,2,3 1-5/2 * JAN-MAR *"},
	"timezone":         {"UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Mars/Olympus"},
	"run_at":           {"2126-12-24T18:00", "2126-12-24T18:00:00+01:00", "2001-01-01T00:00:00Z"},
	"from":             {"2026-01-05T00:00:00Z", "2026-01-05T00:00:00+01:00"},
	"to":               {"2026-01-05T10:00:00Z", "2026-01-06T10:00:00Z"},
	"since":            {"2026-01-05T00:00:00Z"},
	"until":            {"2126-01-05T00:00:00Z"},
	"condition":        {"event.payload.amount > 100", "has(event.payload.a) && event.payload.a == 'x'", "event.type.startsWith('a')", "1 +"},
	"if":               {"run.input != null", "true", "size(run.id) > 3", "tasks.none.output"},
	"for_each":         {"[1, 2, 3]", "event.payload.items"},
	"key":              {"run.input.customer", "'one'", "event.payload.customer.id"},
	"event_type":       {"user.created", "user.*", "order.>", "*"},
	"event_types":      {"user.created", "user.*", "order.>"},
	"type":             {"user.created", "order.paid"},
	"url":              {"https://example.com/a", "http://example.com/${run.id}"},
	"subject":          {"orders.shipped"},
	"message":          {"hello", "hello ${run.id}", "${", "${run.input.who}"},
	"duration":         {"5s", "1m30s", "0s", "-1s"},
	"timeout":          {"5s", "1h", "2m"},
	"initial_interval": {"1s", "500ms"}, "max_interval": {"1m"}, "misfire_window": {"1h", "24h"}, "jitter": {"30s"},
	"until_at": {"2126-01-01T00:00:00Z"}, "specversion": {"1.0"}, "start_at": {"2026-01-05T00:00:00Z"}, "end_at": {"2126-01-05T00:00:00Z"},
	"needs": {"a", "agree"}, "name": {"a", "b", "agree"},
}

// operation is one operation of the document.
type operation struct {
	id, method, path string
	role             access.Role // "" for one that everybody may call
	wide             bool
	within           string // the kind of what it answers about
	doc              *openapi3.Operation
	parameters       []*openapi3.Parameter
}

func (op *operation) String() string { return op.method + " " + op.path }

// operationsOf lists the operations of the document, in the order of their paths.
func operationsOf(doc *openapi3.T) []*operation {
	var all []*operation
	for _, path := range slices.Sorted(maps.Keys(doc.Paths.Map())) {
		item := doc.Paths.Value(path)
		for _, method := range slices.Sorted(maps.Keys(item.Operations())) {
			op := &operation{method: method, path: path, doc: item.Operations()[method]}
			op.id = op.doc.OperationID
			role, _ := op.doc.Extensions["x-required-role"].(string)
			op.role = access.Role(role)
			op.wide, _ = op.doc.Extensions["x-installation-wide"].(bool)
			for _, list := range []openapi3.Parameters{item.Parameters, op.doc.Parameters} {
				for _, p := range list {
					op.parameters = append(op.parameters, p.Value)
				}
			}
			for _, segment := range strings.Split(path, "/") {
				if segment != "" && !strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "s") {
					op.within = collection(segment)
				}
			}
			all = append(all, op)
		}
	}
	return all
}

// request is one request as it was drawn. It is the same for the same seed; only what its picks stand for depends on the world.
type request struct {
	op         *operation
	class      string
	method     string
	credential string // the header Authorization
	refused    int    // 401 or 403 when the document says so, whatever the rest is
	path       map[string]any
	query      []parameter
	headers    [][2]any
	hasBody    bool
	media      string
	body       any      // JSON with picks in it
	damage     []damage // to the bytes of the body
}

type parameter struct {
	name  string
	value any
	raw   string // in the place of name=value
}

// damage does something to the bytes of a body at a place, in per mille of its length.
type damage struct {
	how   string
	place int
	bytes []byte
}

type generator struct{ ops []*operation }

// Shares of the classes, in percent.
var classes = []struct {
	name  string
	share int
}{
	{"valid", 44}, {"parameters", 14}, {"body", 20}, {"bytes", 7}, {"headers", 5}, {"unauthenticated", 5}, {"wrong role", 5},
}

// requests draws requests to any of the operations.
func (g generator) requests() *rapid.Generator[*request] {
	return rapid.Custom(func(t *rapid.T) *request {
		r := &request{op: one(t, g.ops)}
		r.method = r.op.method
		r.class = class(t, 100)
		what := r.class
		if what == "unauthenticated" || what == "wrong role" {
			what = class(t, 90) // whatever the rest of the request is
		}
		g.authorize(t, r)
		r.path = map[string]any{}
		for _, p := range r.op.parameters {
			g.parameter(t, r, p)
		}
		if r.op.doc.RequestBody != nil {
			g.body(t, r, r.op.doc.RequestBody.Value)
		} else if r.method != http.MethodGet && chance(t, 5) {
			r.hasBody, r.media, r.body = true, "application/json", anyJSON(t, 0)
		}
		switch what {
		case "parameters":
			g.spoilParameters(t, r)
		case "body":
			for range between(t, 1, 2) {
				r.body = spoil(t, r.body)
			}
		case "bytes":
			r.damage = append(r.damage, damage{one(t, damages), between(t, 0, 1000),
				rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "bytes")})
			if r.method != http.MethodGet {
				r.hasBody = true
			}
		case "headers":
			g.spoilHeaders(t, r)
		}
		if r.method == http.MethodGet && chance(t, 4) {
			r.method = http.MethodHead
		}
		return r
	})
}

func class(t *rapid.T, of int) string {
	n := under(t, of)
	for _, c := range classes {
		if n -= c.share; n < 0 {
			return c.name
		}
	}
	return "valid"
}

// authorize chooses who calls, by the class.
func (g generator) authorize(t *rapid.T, r *request) {
	switch {
	case r.op.role == "":
		r.credential = one(t, []string{"", "Bearer viewer", "Bearer nobody"})
		return
	case r.class == "unauthenticated":
		r.refused = http.StatusUnauthorized
		r.credential = one(t, []string{"", "Bearer", "Bearer ", "Bearer nobody", "Basic YWRtaW46YWRtaW4=", "admin", "Bearer admin admin", "bearer\tadmin", "Bearer \x80"})
		return
	case r.class == "wrong role" && r.op.wide && chance(t, 50):
		r.refused, r.credential = http.StatusForbidden, "Bearer limited"
		return
	case r.class == "wrong role" && r.op.role != access.Viewer:
		r.refused = http.StatusForbidden
		r.credential = "Bearer " + string(one(t, access.Roles[:slices.Index(access.Roles, r.op.role)]))
		return
	case r.class == "wrong role":
		r.class = "valid"
	}
	enough := access.Roles[slices.Index(access.Roles, r.op.role):]
	r.credential = one(t, []string{"Bearer ", "bearer ", "BEARER  "}) + string(one(t, enough))
	if !r.op.wide && chance(t, 5) {
		r.credential = "Bearer limited"
	}
}

// parameter draws a legal value for a parameter, or leaves it out.
func (g generator) parameter(t *rapid.T, r *request, p *openapi3.Parameter) {
	if !p.Required && p.In != "path" && !chance(t, 25) {
		return
	}
	within := r.op.within
	if p.In == "path" {
		segments := strings.Split(r.op.path, "/")
		if at := slices.Index(segments, "{"+p.Name+"}"); at > 0 {
			within = collection(segments[at-1])
		}
	}
	value := func() any { return g.value(t, p.Name, within, p.Schema.Value, 0) }
	switch p.In {
	case "path":
		r.path[p.Name] = value()
	case "header":
		r.headers = append(r.headers, [2]any{p.Name, value()})
	case "query":
		times := 1
		if p.Explode != nil && *p.Explode {
			times = between(t, 1, 3)
		}
		for range times {
			v := value()
			if list, ok := v.([]any); ok && (p.Explode == nil || !*p.Explode) {
				words := make([]string, len(list))
				for i, word := range list {
					words[i] = fmt.Sprint(word)
				}
				v = strings.Join(words, ",")
			}
			r.query = append(r.query, parameter{name: p.Name, value: v})
		}
	}
}

// oddTexts are values of parameters that are hardly ever legal.
var oddTexts = []any{
	"", " ", "0", "-1", "1.5", "1e9", "99999999999999999999", "true", "null", "{}", "[]", "..", "../../etc/passwd", ".", "%", "%2e%2e%2f", "a/b",
	"\x00", "a\x00b", "\xff\xfe", "\xed\xa0\x80", "é\u202e\u0000", "' OR 1=1 --", "'; DROP TABLE x; --", "<script>alert(1)</script>", "${jndi:ldap://x}", "\r\nX-Injected: 1",
	"2026-02-30T00:00:00Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59Z", "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b", "0197A1B2-3C4D-7E5F-8A9B-0C1D2E3F4A5B",
	"00000000-0000-0000-0000-000000000000", "{0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b}", "urn:uuid:0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b",
	strings.Repeat("x", 300), strings.Repeat("é", 4000), strings.Repeat("a,", 3000),
}

func (g generator) spoilParameters(t *rapid.T, r *request) {
	for range between(t, 1, 2) {
		odd := func() any {
			if chance(t, 30) {
				return rapid.StringN(1, 40, 200).Draw(t, "text")
			}
			return one(t, oddTexts)
		}
		switch n := between(t, 0, 9); {
		case n < 3 && len(r.path) > 0:
			name := one(t, slices.Sorted(maps.Keys(r.path)))
			r.path[name] = odd()
		case n < 7 && len(r.op.parameters) > len(r.path):
			p := one(t, r.op.parameters)
			if p.In == "header" {
				r.headers = append(r.headers, [2]any{p.Name, odd()})
			} else if p.In == "query" {
				r.query = append(r.query, parameter{name: p.Name, value: odd()})
			}
		case n < 8:
			r.query = append(r.query, parameter{name: one(t, []string{"x", "Limit", "limit ", "status[]", "project", "_", "\xff"}), value: odd()})
		case n < 9:
			r.query = append(r.query, parameter{raw: one(t, []string{"%zz", "limit=%", "&&&", "=", ";", "limit;cursor", "?", "a=b=c", "limit=1&limit=1", "%00=%00"})})
		default:
			if len(r.query) > 0 {
				r.query = append(r.query, r.query[0])
			}
		}
	}
}

func (g generator) spoilHeaders(t *rapid.T, r *request) {
	r.media = one(t, []string{"", "text/plain", "application/xml", "application/json; charset=utf-16", "application/json;", "application/merge-patch+json",
		"multipart/form-data; boundary=x", "application/json, application/json", "*/*", ";;;", "application/cloudevents+json", "é"})
	for range between(t, 0, 3) {
		r.headers = append(r.headers, one(t, [][2]any{
			{"Content-Encoding", "gzip"}, {"Content-Encoding", "identity"}, {"Content-Encoding", "br, gzip"}, {"Accept", "text/html"},
			{"Accept", "application/cbor"}, {"Accept", ";"}, {"Accept-Encoding", "gzip"}, {"X-Request-Id", "a b\"c"}, {"X-Request-Id", strings.Repeat("x", 300)},
			{"X-Request-Id", "fine-1"}, {"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, {"Traceparent", "00-zz"},
			{"X-Forwarded-For", "1.2.3.4"}, {"X-Forwarded-Host", "evil.example"}, {"X-HTTP-Method-Override", "DELETE"}, {"Range", "bytes=0-1"},
			{"If-None-Match", "*"}, {"If-Match", "*"}, {"If-Match", "W/\"1\""}, {"If-Match", "\"99\", \"100\""}, {"If-Match", "nonsense"},
			{"Idempotency-Key", "k"}, {"Idempotency-Key", strings.Repeat("k", 500)}, {"Idempotency-Key", " "}, {"Idempotency-Key", "é\x80"},
			{"If-Modified-Since", "yesterday"}, {"Cookie", "session=x"}, {"X-Long", strings.Repeat("y", 8000)},
		}))
	}
}

// body draws a body: one of the document's examples, or what the schema allows.
func (g generator) body(t *rapid.T, r *request, body *openapi3.RequestBody) {
	if !body.Required && chance(t, 40) {
		return
	}
	r.hasBody = true
	r.media = one(t, slices.Sorted(maps.Keys(body.Content)))
	media := body.Content[r.media]
	if len(media.Examples) > 0 && chance(t, 50) {
		name := one(t, slices.Sorted(maps.Keys(media.Examples)))
		r.body = g.personal(t, "", r.op.within, media.Examples[name].Value.Value)
		return
	}
	r.body = g.value(t, "", r.op.within, media.Schema.Value, 0)
}

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// personal copies an example, with ids that the world knows and mostly with names of its own.
func (g generator) personal(t *rapid.T, name, within string, value any) any {
	switch value := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for _, member := range slices.Sorted(maps.Keys(value)) {
			out[member] = g.personal(t, member, within, value[member])
			if text, ok := value[member].(string); ok && name == "" && member == "name" && chance(t, 90) {
				out[member] = text + "-" + rapid.StringMatching(`[a-z0-9]{8}`).Draw(t, "own")
			}
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i, item := range value {
			out[i] = g.personal(t, name, within, item)
		}
		return out
	case string:
		if uuidPattern.MatchString(value) {
			return g.pick(t, kindOf(name, within), value)
		}
	}
	return value
}

func (g generator) pick(t *rapid.T, kind string, or any) any {
	return pick{kind, between(t, 0, 2*mostKnown), or}
}

// value draws a value that a schema allows. Objects inside others become poorer, so that every value ends.
func (g generator) value(t *rapid.T, name, within string, s *openapi3.Schema, depth int) any {
	if s == nil || depth > 8 {
		return anyJSON(t, 2)
	}
	switch {
	case s.Const != nil:
		return s.Const
	case len(s.Enum) > 0:
		return one(t, s.Enum)
	case len(s.OneOf) > 0:
		return g.value(t, name, within, one(t, s.OneOf).Value, depth)
	case len(s.AnyOf) > 0:
		return g.value(t, name, within, one(t, s.AnyOf).Value, depth)
	case len(s.AllOf) > 0 && len(s.Properties) == 0:
		all := map[string]any{}
		for _, part := range s.AllOf {
			if object, ok := g.value(t, name, within, part.Value, depth).(map[string]any); ok {
				maps.Copy(all, object)
			}
		}
		return all
	case s.Type == nil || len(*s.Type) == 0:
		return anyJSON(t, 0)
	}
	kind := one(t, *s.Type)
	if kind == "null" && len(*s.Type) > 1 && !chance(t, 30) {
		kind = (*s.Type)[0]
	}
	switch kind {
	case "null":
		return nil
	case "boolean":
		return bit.Draw(t, "boolean")
	case "integer", "number":
		return g.number(t, name, within, s)
	case "array":
		most := 3
		if s.MaxItems != nil {
			most = min(most, int(*s.MaxItems))
		}
		if depth > 3 {
			most = min(most, 1)
		}
		list := []any{}
		for range between(t, int(s.MinItems), max(most, int(s.MinItems))) {
			var item *openapi3.Schema
			if s.Items != nil {
				item = s.Items.Value
			}
			list = append(list, g.value(t, name, within, item, depth+1))
		}
		return list
	case "object":
		return g.object(t, within, s, depth)
	}
	return g.text(t, name, within, s)
}

func (g generator) object(t *rapid.T, within string, s *openapi3.Schema, depth int) any {
	out := map[string]any{}
	for _, member := range slices.Sorted(maps.Keys(s.Properties)) {
		if slices.Contains(s.Required, member) || chance(t, 30-3*depth) {
			out[member] = g.value(t, member, within, s.Properties[member].Value, depth+1)
		}
	}
	if more := s.AdditionalProperties; more.Schema != nil || more.Has != nil && *more.Has {
		for range between(t, 0, 2) {
			member := rapid.StringMatching(`[a-z][a-z0-9_.]{0,8}`).Draw(t, "member")
			if more.Schema != nil {
				out[member] = g.value(t, member, within, more.Schema.Value, depth+1)
			} else {
				out[member] = anyJSON(t, 1)
			}
		}
	}
	return out
}

func (g generator) number(t *rapid.T, name, within string, s *openapi3.Schema) any {
	least, most := 0, 1000
	if s.Min != nil {
		least = int(*s.Min)
	}
	if s.Max != nil {
		most = int(*s.Max)
	}
	n := between(t, least, max(least, most))
	switch between(t, 0, 5) {
	case 0:
		n = least
	case 1:
		n = most
	case 2:
		return g.pick(t, kindOf(name, within), n)
	}
	return n
}

func (g generator) text(t *rapid.T, name, within string, s *openapi3.Schema) any {
	if words := hints[name]; words != nil && chance(t, 60) {
		return one(t, words)
	}
	if len(s.Examples) > 0 && chance(t, 40) {
		return one(t, s.Examples)
	}
	var own any
	switch {
	case s.Format == "uuid":
		own = someUUID(t)
	case s.Format == "date-time":
		own = fmt.Sprintf("20%02d-%02d-%02dT%02d:30:00Z", between(t, 0, 99), between(t, 1, 12),
			between(t, 1, 28), between(t, 0, 23))
	case s.Pattern != "":
		own = rapid.StringMatching(s.Pattern).Draw(t, "text")
	default:
		most := 30
		if s.MaxLength != nil {
			most = min(int(*s.MaxLength), 300)
		}
		own = rapid.StringN(min(int(s.MinLength), most), most, -1).Draw(t, "text")
	}
	if s.Format == "uuid" && chance(t, 90) || s.Format == "" && chance(t, 40) {
		return g.pick(t, kindOf(name, within), own)
	}
	return own
}

func someUUID(t *rapid.T) string {
	b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid")
	return fmt.Sprintf("%x-%x-7%03x-a%03x-%x", b[:4], b[4:6], int(b[6])<<4|int(b[7])>>4, int(b[8])<<4, b[10:])
}

// anyJSON draws any JSON value.
func anyJSON(t *rapid.T, depth int) any {
	switch n := between(t, 0, 9); {
	case n < 2 && depth < 3:
		list := make([]any, between(t, 0, 3))
		for i := range list {
			list[i] = anyJSON(t, depth+1)
		}
		return list
	case n < 5 && depth < 3:
		object := map[string]any{}
		for range between(t, 0, 3) {
			object[rapid.StringN(0, 10, -1).Draw(t, "member")] = anyJSON(t, depth+1)
		}
		return object
	case n < 6:
		return rapid.Int64().Draw(t, "number")
	case n < 7:
		return one(t, []any{nil, true, false, json.RawMessage("1e400"), json.RawMessage("-0"), 0.1, json.RawMessage(`"\u0000"`)})
	}
	return rapid.StringN(0, 20, -1).Draw(t, "text")
}

// spoil changes one place of a body.
func spoil(t *rapid.T, value any) any {
	switch value := value.(type) {
	case map[string]any:
		members := slices.Sorted(maps.Keys(value))
		if len(members) > 0 && chance(t, 55) {
			member := one(t, members)
			value[member] = spoil(t, value[member])
			return value
		}
		if len(members) > 0 && chance(t, 30) {
			delete(value, one(t, members))
			return value
		}
		if chance(t, 70) {
			member := one(t, []string{"status", "revision", "id", "project", "created_at", "sync", "$schema", "__proto__", "x", "", "\u0000", "Name",
				"enabled", "labels", "type", "dry_run"})
			value[member] = odd(t)
			return value
		}
	case []any:
		if len(value) > 0 && chance(t, 70) {
			at := between(t, 0, len(value)-1)
			value[at] = spoil(t, value[at])
			return value
		}
		if len(value) > 0 && chance(t, 50) {
			return append(value, value[0])
		}
	}
	return odd(t)
}

func odd(t *rapid.T) any {
	return one(t, []any{
		nil, true, 0, -1, 1, 1 << 31, json.RawMessage("9223372036854775808"), json.RawMessage("1e400"), json.RawMessage("-1e-400"), 0.5, json.RawMessage("1.0"),
		"", " ", "x", json.RawMessage(`"\u0000"`), json.RawMessage(`"a\u0000b"`), json.RawMessage(`"\ud800"`), json.RawMessage("\"\xff\""), "\u202e\ufeff", "${", "${secrets.X}",
		strings.Repeat("long ", 300), strings.Repeat("x", 70_000), []any{}, map[string]any{}, []any{nil}, []any{[]any{[]any{}}},
		json.RawMessage(strings.Repeat("[", 200) + strings.Repeat("]", 200)), json.RawMessage(strings.Repeat("[", 9000) + strings.Repeat("]", 9000)),
		json.RawMessage(strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300)), map[string]any{"trigger_type": "cron"}, pick{"run", 1, "none"},
		"2026-02-30T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "-1h", "9999999h", "* * * * * *", "@every 1ns", "name with spaces",
	})
}

var damages = []string{"cut", "insert", "replace", "duplicate", "utf8", "trailing", "bom", "empty", "space", "huge", "utf16", "comment"}

func (d damage) do(data []byte) []byte {
	at := len(data) * d.place / 1000
	switch d.how {
	case "cut":
		return data[:at]
	case "insert":
		return slices.Concat(data[:at], d.bytes, data[at:])
	case "replace":
		return d.bytes
	case "duplicate":
		if rest, ok := bytes.CutPrefix(data, []byte("{")); ok && len(rest) > 1 {
			inner := bytes.TrimSuffix(rest, []byte("}"))
			return slices.Concat([]byte("{"), inner, []byte(","), inner, []byte("}"))
		}
		return []byte(`{"name":"a","name":"b"}`)
	case "utf8":
		return slices.Concat(data[:at], []byte("\xc3\x28"), data[at:])
	case "trailing":
		return append(slices.Clone(data), " {}"...)
	case "bom":
		return append([]byte("\xef\xbb\xbf"), data...)
	case "empty":
		return nil
	case "space":
		return []byte(" \n\t ")
	case "huge":
		return append(slices.Clone(data), bytes.Repeat([]byte(" "), 300_000)...)
	case "utf16":
		out := []byte("\xff\xfe")
		for _, b := range data {
			out = append(out, b, 0)
		}
		return out
	default:
		return append([]byte("// a comment\n"), data...)
	}
}

// sent is a request as it goes over the wire.
type sent struct {
	method, target string
	header         http.Header
	body           []byte
}

// build resolves the picks of a request.
func (w *world) build(r *request) sent {
	out := sent{method: r.method, target: r.op.path, header: http.Header{}}
	for name, value := range r.path {
		text := cmp.Or(url.PathEscape(w.scalar(value)), "-") // nothing at all would be another route
		out.target = strings.ReplaceAll(out.target, "{"+name+"}", text)
	}
	var query []string
	for _, p := range r.query {
		if p.raw != "" {
			query = append(query, p.raw)
			continue
		}
		query = append(query, url.QueryEscape(p.name)+"="+url.QueryEscape(w.scalar(p.value)))
	}
	if len(query) > 0 {
		out.target += "?" + strings.Join(query, "&")
	}
	if r.credential != "" {
		out.header.Set("Authorization", r.credential)
	}
	for _, h := range r.headers {
		value := strings.Map(func(c rune) rune {
			if c < ' ' && c != '\t' || c == 0x7f { // a client cannot send it
				return -1
			}
			return c
		}, w.scalar(h[1]))
		out.header.Add(h[0].(string), value)
	}
	if r.hasBody {
		out.body = w.encode(r.body)
		if r.media != "" {
			out.header.Set("Content-Type", r.media)
		}
	}
	for _, d := range r.damage {
		out.body = d.do(out.body)
	}
	return out
}

// scalar is a value as the text of a parameter.
func (w *world) scalar(value any) string {
	switch value := value.(type) {
	case pick:
		return w.scalar(w.find(value))
	case string:
		return value
	case float64:
		return strconv.FormatFloat(value, 'f', -1, 64)
	case nil:
		return "null"
	}
	return fmt.Sprint(value)
}

// encode is JSON as it is meant, also where it is not legal.
func (w *world) encode(value any) []byte {
	var out bytes.Buffer
	w.append(&out, value)
	return out.Bytes()
}

func (w *world) append(out *bytes.Buffer, value any) {
	switch value := value.(type) {
	case pick:
		w.append(out, w.find(value))
	case json.RawMessage:
		out.Write(value)
	case []any:
		out.WriteByte('[')
		for i, item := range value {
			if i > 0 {
				out.WriteByte(',')
			}
			w.append(out, item)
		}
		out.WriteByte(']')
	case map[string]any:
		out.WriteByte('{')
		for i, member := range slices.Sorted(maps.Keys(value)) {
			if i > 0 {
				out.WriteByte(',')
			}
			w.append(out, member)
			out.WriteByte(':')
			w.append(out, value[member])
		}
		out.WriteByte('}')
	default:
		data, err := json.Marshal(value)
		if err != nil {
			panic(err) // a scalar of this file
		}
		out.Write(data)
	}
}

// Draws.

// bit is the one draw of rapid's that does not prefer some values; its numbers and samples prefer small ones and early ones.
var bit = rapid.Bool()

// under draws a number from 0 to n-1, each about as often.
func under(t *rapid.T, n int) int {
	v := 0
	for range bits.Len(uint(n-1)) + 2 {
		if v <<= 1; bit.Draw(t, "bit") {
			v++
		}
	}
	return v % n
}

func one[T any](t *rapid.T, of []T) T { return of[under(t, len(of))] }

func between(t *rapid.T, least, most int) int { return least + under(t, most-least+1) }

func chance(t *rapid.T, percent int) bool { return under(t, 100) < percent }
