package api

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	jsonType       = "application/json"
	mergePatchType = "application/merge-patch+json"
)

// readBody reads a body of at most limit bytes whose type, unless it is empty, is one of types or not given.
func readBody(ctx huma.Context, limit int, types ...string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(ctx.BodyReader(), int64(limit)+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, newProblem(http.StatusRequestTimeout, kindSlowBody, "the body did not arrive in time; send it again")
	case err != nil:
		return nil, newProblem(http.StatusBadRequest, kindUnreadableBody, "the body could not be read to its end; send it again")
	case len(data) > limit:
		p := newProblem(http.StatusRequestEntityTooLarge, kindTooLarge,
			"the body is larger than %d KiB, which is the most that is allowed here", limit>>10)
		p.Errors = []Fault{{Field: "body", Rule: "max_bytes", Message: p.Detail}}
		return nil, p
	case len(bytes.TrimSpace(data)) == 0:
		return nil, nil
	}
	if encoding := ctx.Header("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, newProblem(http.StatusUnsupportedMediaType, kindMediaType,
			"the body has the Content-Encoding %q, which is not understood here: send it uncompressed", clip(encoding, 40))
	}
	if given := ctx.Header("Content-Type"); given != "" {
		media, _, err := mime.ParseMediaType(given)
		if err != nil || !slices.Contains(types, media) {
			return nil, newProblem(http.StatusUnsupportedMediaType, kindMediaType,
				"the body has the Content-Type %q: send JSON with the header Content-Type: %s", clip(given, 60),
				strings.Join(types, " or "))
		}
	}
	return data, nil
}

// readJSON is readBody for what must not be nested too deeply.
func readJSON(ctx huma.Context, limit int, types ...string) ([]byte, error) {
	data, err := readBody(ctx, limit, types...)
	if err != nil {
		return nil, err
	}
	if err := definition.CheckNesting(data); err != nil {
		return nil, invalidProblem(err)
	}
	return data, nil
}

// definitionBody is embedded by inputs whose body is a definition or a part of one. huma calls Resolve before the handler.
type definitionBody struct {
	data []byte
}

// Resolve reads the body.
func (b *definitionBody) Resolve(ctx huma.Context) []error {
	types := []string{jsonType}
	if ctx.Method() == http.MethodPatch {
		types = append(types, mergePatchType)
	}
	var err error
	if b.data, err = readJSON(ctx, MaxDefinition, types...); err != nil {
		return []error{err}
	}
	return nil
}

// inputBody is embedded by inputs whose body is any JSON value, or empty.
type inputBody struct {
	data    []byte
	traceID string
}

// Resolve reads the body and checks that it is one strict JSON value.
func (b *inputBody) Resolve(ctx huma.Context) []error {
	data, err := readJSON(ctx, MaxInput, jsonType)
	if err != nil {
		return []error{err}
	}
	b.traceID = definition.TraceID(ctx.Header("Traceparent"))
	if data == nil {
		return nil
	}
	if err := checkJSON(data); err != nil {
		return []error{invalidProblem(err)}
	}
	b.data = data
	return nil
}

// fieldsBody is embedded by inputs whose body is an object of the few fields of T, or empty, which gives none of them.
type fieldsBody[T any] struct {
	given T
}

// Resolve reads the body and refuses what is not a field of T.
func (b *fieldsBody[T]) Resolve(ctx huma.Context) []error {
	data, err := readJSON(ctx, maxFields, jsonType)
	if err != nil {
		return []error{err}
	}
	if data == nil {
		return nil
	}
	if err := definition.DecodeStrict(data, &b.given); err != nil {
		return []error{invalidProblem(err)}
	}
	return nil
}

// checkJSON refuses what is not exactly one JSON value, in UTF-8 and without duplicate names.
func checkJSON(data []byte) *definition.InvalidError {
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	_, err := dec.ReadValue()
	if err == nil {
		if _, err = dec.ReadToken(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			return definition.Invalid("body", "json", "must be one JSON value, but something follows it")
		}
	}
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		name := ""
		if errors.As(err, &syntax) {
			name = clip(syntax.JSONPointer.LastToken(), 60)
		}
		return definition.Invalid("body", "duplicate_field", "holds the member %q twice in one object", name)
	case errors.As(err, &syntax) && syntax.Err != nil:
		return definition.Invalid("body", "json", "is not valid JSON at byte %d: %s", syntax.ByteOffset,
			strings.TrimPrefix(syntax.Err.Error(), "jsontext: "))
	}
	return definition.Invalid("body", "json", "is not valid JSON")
}

// clip bounds text of a client that is quoted in an answer.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
