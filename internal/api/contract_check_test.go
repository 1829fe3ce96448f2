package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// checker holds answers against the document. kin-openapi reads the document, checks it, and knows what an operation may answer.
// Bodies are judged by the validator that kin-openapi itself uses for the schemas of OpenAPI 3.1, on the document as it is: kin-openapi
// would compile the schema for each answer anew, and goes back to its own validator of OpenAPI 3.0 for schemas with references.
type checker struct {
	doc *openapi3.T

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
}

func newChecker(data []byte) (*checker, error) {
	doc, err := openapi3.NewLoader().LoadFromData(data)
	if err != nil {
		return nil, fmt.Errorf("load the document: %w", err)
	}
	if err := doc.Validate(openapi3.NewLoader().Context, openapi3.EnableSchemaFormatValidation()); err != nil {
		return nil, fmt.Errorf("the document is not valid: %w", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	if err := compiler.AddResource("document.json", value); err != nil {
		return nil, err
	}
	return &checker{doc: doc, compiler: compiler, schemas: map[string]*jsonschema.Schema{}}, nil
}

// schema is the schema of a place in the document, given by the members that lead there.
func (c *checker) schema(members ...string) (*jsonschema.Schema, error) {
	pointer := ""
	for _, m := range members {
		pointer += "/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(m))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.schemas[pointer]; s != nil {
		return s, nil
	}
	s, err := c.compiler.Compile("document.json#" + pointer)
	if err != nil {
		return nil, err
	}
	c.schemas[pointer] = s
	return s, nil
}

// response is an answer as it came over the wire.
type response struct {
	status int
	header http.Header
	body   []byte
}

// internals are words of what is behind the API: its statements, its code, its files, its neighbours. None is so short that a random
// token or name has it now and then: the driver is looked for as its errors and its packages are written.
var internals = []string{
	"SQLSTATE", "pgx:", "pgx/", "pgx.", "pgxpool", "pgconn",
	"postgres://", "postgresql://", "SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", " WHERE ", "violates ", "constraint",
	`relation "`, `column "`, "goroutine ", ".go:", "runtime error", "nil pointer", "panic", "reflect.", "*postgres.", "*api.", "*definition.", "main.",
	"/home/", "/root/", "/tmp/", "/usr/", "/var/", "127.0.0.1", "localhost", "dial tcp", "context deadline", "context canceled", "evil.example",
}

// takesAnything are the operations that say what would become of a body that breaks its schema, which is a success.
var takesAnything = map[string]bool{"test-event": true}

// check returns what is wrong with an answer.
func (c *checker) check(op *operation, r *request, s sent, a response) (wrong []string) {
	fault := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if a.status >= 500 {
		fault("status %d", a.status)
	}
	switch {
	case r.refused != 0 && a.status != r.refused:
		fault("status %d for a caller whom the document promises %d", a.status, r.refused)
	case r.refused == 0 && (a.status == http.StatusUnauthorized || a.status == http.StatusForbidden) && !strings.HasSuffix(r.credential, "limited"):
		fault("status %d for a caller whom the document lets in", a.status)
	}
	if a.header.Get("X-Request-Id") == "" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		fault("no X-Request-Id or no X-Content-Type-Options: %v", a.header)
	}
	for _, word := range internals {
		if word == "127.0.0.1" && strings.HasPrefix(op.path, "/audit") {
			continue // the address of a caller, which is what the audit trail is asked for
		}
		if bytes.Contains(a.body, []byte(word)) {
			fault("the answer tells %q", word)
		}
	}

	documented := op.doc.Responses.Status(a.status)
	if documented == nil {
		fault("status %d is not documented", a.status)
		return wrong
	}
	for name, h := range documented.Value.Headers {
		given := a.header.Values(name)
		if len(given) == 0 && (h.Value.Required || name == "Location" && a.status != http.StatusOK) {
			fault("the header %s is missing", name)
		}
		for _, value := range given {
			if err := headerFits(h.Value, value); err != nil {
				fault("the header %s is %q: %v", name, value, err)
			}
		}
	}
	for status, name := range map[int]string{401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"} {
		if a.status == status && a.header.Get(name) == "" {
			fault("%d without the header %s", status, name)
		}
	}
	if s.method == http.MethodHead {
		if len(a.body) > 0 {
			fault("HEAD is answered with a body")
		}
		return wrong
	}
	media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if a.status >= 400 && media != "application/problem+json" {
		fault("an error of the type %q", media)
	}
	if len(documented.Value.Content) == 0 {
		if len(a.body) > 0 && op.role != "" { // what health checks say is for people
			fault("a body where none is documented: %.200s", a.body)
		}
		return wrong
	}
	if documented.Value.Content.Get(media) == nil {
		fault("the type %q is not documented", media)
		return wrong
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(a.body))
	if err != nil {
		fault("the answer is not JSON: %v", err)
		return wrong
	}
	schema, err := c.schema("paths", op.path, strings.ToLower(op.method), "responses", strconv.Itoa(a.status), "content", media, "schema")
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		fault("the answer breaks its schema: %v", err)
	}
	if a.status >= 400 {
		wrong = append(wrong, checkProblem(value, a)...)
	} else if !takesAnything[op.id] && c.refusesBody(op, s) {
		fault("a body that breaks its schema is taken")
	}
	return wrong
}

// checkProblem checks what is said of every error (RFC 9457, and what we add).
func checkProblem(value any, a response) (wrong []string) {
	p, _ := value.(map[string]any)
	for _, name := range []string{"type", "title", "detail", "request_id"} {
		if text, _ := p[name].(string); text == "" {
			wrong = append(wrong, "a problem without "+name)
		}
	}
	if kind, err := url.Parse(fmt.Sprint(p["type"])); err != nil || !kind.IsAbs() && !strings.HasPrefix(kind.Path, "/") {
		wrong = append(wrong, fmt.Sprintf("the type of the problem is %q", p["type"]))
	}
	if status := fmt.Sprint(p["status"]); status != strconv.Itoa(a.status) {
		wrong = append(wrong, fmt.Sprintf("a problem of status %s is answered with %d", status, a.status))
	}
	// An answer that is given again tells of the request that it was first given to.
	if id := a.header.Get("X-Request-Id"); p["request_id"] != id && a.header.Get("Idempotency-Replayed") == "" {
		wrong = append(wrong, fmt.Sprintf("request_id %q, the header says %q", p["request_id"], id))
	}
	return wrong
}

// headerFits checks a header against its schema; a number or a boolean is written as it is in JSON.
func headerFits(h *openapi3.Header, text string) error {
	if h.Schema == nil {
		return nil
	}
	var value any = text
	if types := h.Schema.Value.Type; types != nil && !types.Permits("string") {
		parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			return err
		}
		value = parsed
		if n, err := strconv.ParseFloat(text, 64); err == nil {
			value = n
		}
	}
	return h.Schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020())
}

// refusesBody reports whether the document refuses the body of a request, which then has to be refused. The API is more lenient in one
// way: null is what is not given, and so are the empty text and 0 in a field that allows neither.
func (c *checker) refusesBody(op *operation, s sent) bool {
	if op.doc.RequestBody == nil || len(bytes.TrimSpace(s.body)) == 0 {
		return false
	}
	media, _, _ := mime.ParseMediaType(s.header.Get("Content-Type"))
	if op.doc.RequestBody.Value.Content[media] == nil {
		return false
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(s.body))
	if value == nil || err != nil {
		return err != nil
	}
	schema, err := c.schema("paths", op.path, strings.ToLower(op.method), "requestBody", "content", media, "schema")
	return err == nil && schema.Validate(value) != nil && schema.Validate(withoutEmpty(value)) != nil
}

func withoutEmpty(value any) any {
	switch value := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, member := range value {
			if member != nil && member != "" && member != json.Number("0") {
				out[name] = withoutEmpty(member)
			}
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i, item := range value {
			out[i] = withoutEmpty(item)
		}
		return out
	}
	return value
}
