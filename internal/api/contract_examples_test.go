package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// outOfContext are fields whose examples name what has to be there: they are sent as a part of the examples of whole bodies.
var outOfContext = map[string]string{
	"if": "names a task",
}

// TestExamplesOfTheDocument sends every example of the OpenAPI document: the bodies, the bodies with each field that has an example of
// its own, and the parameters. Each succeeds for something that the world holds.
func TestExamplesOfTheDocument(t *testing.T) {
	t.Parallel()
	f := newFuzzer(t, newWorld(t, nil, nil))
	bodies, fields, parameters := 0, 0, 0
	for _, op := range f.ops {
		for _, p := range op.parameters {
			for _, value := range p.Schema.Value.Examples {
				parameters++
				switch p.In {
				case "query":
					f.succeeds(t, op, p.Name, &request{op: op, query: []parameter{{name: p.Name, value: value}}})
				case "header":
					r := &request{op: op, headers: [][2]any{{p.Name, value}}}
					bodies := []any{nil}
					if r.media, bodies = examplesOf(op, bodies); bodies[0] != nil {
						r.hasBody, r.body = true, bodies[0]
					}
					f.succeeds(t, op, p.Name, r, bodies[1:]...)
				default:
					f.leadsSomewhere(t, op, p.Name, value)
				}
			}
		}
		if op.doc.RequestBody == nil {
			continue
		}
		for kind, media := range op.doc.RequestBody.Value.Content {
			if len(media.Examples) == 0 && len(media.Schema.Value.Properties) > 0 {
				t.Errorf("%s: a body of the type %s has no example", op, kind)
			}
			for _, name := range slices.Sorted(maps.Keys(media.Examples)) {
				body := media.Examples[name].Value.Value
				bodies++
				f.succeeds(t, op, kind+" "+name, &request{op: op, hasBody: true, media: kind, body: body})
				for _, more := range f.filled(media.Schema.Value, body) {
					fields++
					f.succeeds(t, op, kind+" "+name+" with "+more.name, &request{op: op, hasBody: true, media: kind, body: more.whole}, more.alone)
				}
			}
		}
	}
	t.Logf("%d bodies, %d fields in them, %d parameters", bodies, fields, parameters)
	if bodies < 20 || fields < 20 || parameters < 1 {
		t.Errorf("%d bodies, %d fields, %d parameters: the examples were not found", bodies, fields, parameters)
	}
}

// leadsSomewhere asks for what an example of a path's parameter names: it is there, or it is not, but its form is legal.
func (f *fuzzer) leadsSomewhere(t *testing.T, op *operation, name string, value any) {
	t.Helper()
	r := &request{op: op, method: op.method, credential: "Bearer admin", path: map[string]any{name: value}}
	s := f.w.build(r)
	a, err := f.w.send(s)
	if wrong := f.check(op, r, s, a); err != nil || len(wrong) > 0 || a.status/100 != 2 && a.status != http.StatusNotFound {
		t.Errorf("%s, %s %v: %d %s %v %s", op, name, value, a.status, a.body, err, wrong)
	}
}

// field is a body with a field that has an example of its own, and the same without the other fields beside it.
type field struct {
	name         string
	whole, alone any
}

// filled returns the body with each field put in for which the schema has an example and the body has none.
func (f *fuzzer) filled(s *openapi3.Schema, body any) (out []field) {
	object, ok := body.(map[string]any)
	if !ok {
		return nil
	}
	for _, variants := range []openapi3.SchemaRefs{s.OneOf, s.AnyOf} {
		for _, variant := range variants {
			if variant.Value.VisitJSON(plain(body)) == nil {
				return f.filled(variant.Value, body)
			}
		}
	}
	for _, member := range slices.Sorted(maps.Keys(s.Properties)) {
		property := s.Properties[member].Value
		value, given := object[member]
		with := func(name string, value, alone any) {
			whole := maps.Clone(object)
			whole[member] = value
			out = append(out, field{name, whole, map[string]any{member: alone}})
		}
		if given {
			list, isList := value.([]any)
			if isList && len(list) > 0 && property.Items != nil {
				for _, more := range f.filled(property.Items.Value, list[0]) {
					with(member+"[0]."+more.name, append([]any{more.whole}, list[1:]...), []any{more.alone})
				}
			}
			for _, more := range f.filled(property, value) {
				with(member+"."+more.name, more.whole, more.alone)
			}
			continue
		}
		for _, example := range property.Examples {
			if _, leave := outOfContext[member]; !leave {
				with(member, example, example)
			}
		}
	}
	return out
}

// plain is a copy as encoding/json would read it.
func plain(value any) any {
	data, _ := json.Marshal(value)
	var out any
	_ = json.Unmarshal(data, &out)
	return out
}

// succeeds makes a request for everything that the world holds of the kinds that it is about, and with the other bodies, until one
// succeeds.
func (f *fuzzer) succeeds(t *testing.T, op *operation, what string, r *request, others ...any) {
	t.Helper()
	if err := f.w.stock(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.method, r.credential, r.class = op.method, "Bearer admin", "valid"
	var kinds []string // of the path's parameters, in their order
	var names []string
	segments := strings.Split(op.path, "/")
	for i, segment := range segments {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
			kinds = append(kinds, kindOf(names[len(names)-1], collection(segments[i-1])))
		}
	}
	f.w.mu.Lock()
	fixed := maps.Clone(f.w.fixed)
	f.w.mu.Unlock()
	var last response
	var try func(i int, path map[string]any) bool
	try = func(i int, path map[string]any) bool {
		if i < len(kinds) {
			list := append(slices.Clone(fixed[kinds[i]]), f.w.find(pick{kinds[i], 0, "none"}))
			for _, value := range list {
				path[names[i]] = value
				if try(i+1, path) {
					return true
				}
			}
			return false
		}
		r.path = path
		var bodies []any
		for _, body := range append([]any{r.body}, others...) {
			bodies = append(bodies, variations(body, fixed)...)
		}
		for _, body := range bodies {
			one := *r
			one.body = body
			s := f.w.build(&one)
			answer, err := f.w.send(s)
			if err != nil {
				t.Errorf("%s, %s: %v", op, what, err)
				return true
			}
			if wrong := f.check(op, &one, s, answer); len(wrong) > 0 {
				t.Errorf("%s, %s: %s", op, what, wrong)
			}
			last = answer
			if answer.status/100 == 2 {
				f.w.remember(op, answer.header, answer.body)
				return true
			}
		}
		return false
	}
	if !try(0, map[string]any{}) {
		t.Errorf("%s: the example %s is refused: %d %s\n%s", op, what, last.status, last.body, f.w.encode(r.body))
	}
}

// examplesOf are the example bodies of an operation that requires one, or else those that are given.
func examplesOf(op *operation, none []any) (media string, bodies []any) {
	if op.doc.RequestBody == nil || !op.doc.RequestBody.Value.Required {
		return "", none
	}
	for kind, content := range op.doc.RequestBody.Value.Content {
		if len(content.Examples) > 0 {
			media, bodies = kind, nil
			for _, name := range slices.Sorted(maps.Keys(content.Examples)) {
				bodies = append(bodies, content.Examples[name].Value.Value)
			}
		}
	}
	return media, bodies
}

var fresh int

// variations are the bodies that an example stands for: with a name that is free, and with ids that are known instead of its own.
func variations(body any, fixed map[string][]any) []any {
	var out []any
	for i := range max(1, len(fixed["definition"])) {
		out = append(out, vary("", body, fixed, i))
	}
	return out
}

func vary(name string, value any, fixed map[string][]any, i int) any {
	switch value := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for member, inner := range value {
			out[member] = vary(member, inner, fixed, i)
			if text, ok := inner.(string); ok && name == "" && member == "name" {
				fresh++
				out[member] = fmt.Sprintf("%s-%d", text, fresh)
			}
		}
		return out
	case []any:
		out := make([]any, len(value))
		for n, item := range value {
			out[n] = vary(name, item, fixed, i)
		}
		return out
	case string:
		if list := fixed[kindOf(name, "")]; uuidPattern.MatchString(value) && len(list) > 0 {
			return list[i%len(list)]
		}
	}
	return value
}

// TestExamplesFitTheirSchemas holds the examples and defaults of the document against the schemas that they are examples of, those of
// answers too.
func TestExamplesFitTheirSchemas(t *testing.T) {
	t.Parallel()
	f := newFuzzer(t, newWorld(t, nil, nil))
	w := f.w
	res, err := w.send(sent{method: http.MethodGet, target: "/openapi.json"})
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(res.body, &document); err != nil {
		t.Fatal(err)
	}
	tried := 0
	fits := func(value any, place []string) {
		tried++
		schema, err := f.schema(place...)
		if err == nil {
			data, _ := json.Marshal(value)
			value, _ := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
			err = schema.Validate(value)
		}
		if err != nil {
			t.Errorf("%v at %s: %v", value, strings.Join(place, "/"), err)
		}
	}
	var walk func(node any, place []string)
	walk = func(node any, place []string) {
		switch node := node.(type) {
		case map[string]any:
			inside := place[len(place)-1]
			if inside == "example" || inside == "examples" || inside == "default" || inside == "value" {
				return
			}
			properties := inside == "properties" || inside == "schemas" // its members are names of fields, not words of the language
			if _, media := node["schema"]; media && !properties {
				named, _ := node["examples"].(map[string]any)
				for _, example := range named {
					fits(example.(map[string]any)["value"], append(slices.Clone(place), "schema"))
				}
				if example, ok := node["example"]; ok {
					fits(example, append(slices.Clone(place), "schema"))
				}
			} else if !properties {
				list, _ := node["examples"].([]any)
				for _, example := range list {
					fits(example, place)
				}
				for _, word := range []string{"default", "example"} {
					if value, ok := node[word]; ok && inside != "responses" {
						fits(value, place)
					}
				}
			}
			for name, member := range node {
				walk(member, append(slices.Clone(place), name))
			}
		case []any:
			for i, item := range node {
				walk(item, append(slices.Clone(place), fmt.Sprint(i)))
			}
		}
	}
	for _, top := range []string{"paths", "components"} {
		walk(document[top], []string{top})
	}
	t.Logf("%d examples and defaults", tried)
	if tried < 100 {
		t.Errorf("%d examples: they were not found", tried)
	}
}
