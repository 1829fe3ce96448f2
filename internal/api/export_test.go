package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

// DocumentedRequest is a valid request of an operation, made from the OpenAPI document: the example of its body, and ids that nothing has.
type DocumentedRequest struct {
	ID, Method, Path, Body, ContentType string
	// TakesBody is false for operations that do not look at one.
	TakesBody bool
}

var pathParameter = regexp.MustCompile(`\{[a-z_]+\}`)

// DocumentedRequests are requests of all operations that callers make; not those of the platform, which need no credential.
func (a *API) DocumentedRequests(t testing.TB) []DocumentedRequest {
	t.Helper()
	var out []DocumentedRequest
	for path, item := range a.huma.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put,
			http.MethodPatch: item.Patch, http.MethodDelete: item.Delete} {
			if op == nil || len(op.Security) == 0 {
				continue
			}
			r := DocumentedRequest{ID: op.OperationID, Method: method, ContentType: jsonType}
			r.Path = pathParameter.ReplaceAllStringFunc(path, func(name string) string {
				switch {
				case name == "{revision}", path == "/audit/{id}":
					return "1"
				case strings.HasSuffix(name, "id}"):
					return someID
				}
				return "a"
			})
			for _, p := range op.Parameters {
				if p.Required && p.In == "query" {
					t.Fatalf("%s requires the query parameter %s, for which no value is known here", op.OperationID, p.Name)
				}
			}
			r.TakesBody = op.RequestBody != nil || op.Responses["413"] != nil
			if op.RequestBody != nil {
				r.Body, r.ContentType = exampleOf(t, op)
			}
			out = append(out, r)
		}
	}
	if len(out) < 40 {
		t.Fatalf("the document has %d operations: it is not read as it should be", len(out))
	}
	slices.SortFunc(out, func(a, b DocumentedRequest) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// exampleOf is the first example of an operation's body, or the empty object that those without one take.
func exampleOf(t testing.TB, op *huma.Operation) (body, contentType string) {
	t.Helper()
	contentType = jsonType
	media := op.RequestBody.Content[jsonType]
	if media == nil {
		contentType, media = mergePatchType, op.RequestBody.Content[mergePatchType]
	}
	if media == nil {
		t.Fatalf("%s takes neither JSON nor a merge patch", op.OperationID)
	}
	var names []string
	for name := range media.Examples {
		names = append(names, name)
	}
	if len(names) == 0 {
		return "{}", contentType
	}
	data, err := json.Marshal(media.Examples[slices.Min(names)].Value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), contentType
}
