package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/danielgtaylor/huma/v2"
)

// ByRole is an authenticator that knows one caller of each role, whose credential is the role's name, and "limited", an admin who is limited to some
// definitions.
type ByRole struct{}

func (ByRole) Authenticate(_ context.Context, credential string) (access.Caller, error) {
	c := access.Caller{ID: "token:" + credential, Name: credential, Role: access.Role(credential)}
	switch {
	case credential == "limited":
		c.Role, c.Labels = access.Admin, map[string]string{"team": "growth"}
	case !slices.Contains(access.Roles, c.Role):
		return access.Caller{}, access.ErrUnknown
	}
	return c, nil
}

// documented is what the OpenAPI document says of one operation.
type documented struct {
	method, path string
	role         access.Role // "" for one that everybody may call
	wide         bool
}

// operations reads the operations out of the document that clients get, in the order of their paths.
func operations(t *testing.T, a *API) []documented {
	t.Helper()
	data, err := a.Document()
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct {
			Role access.Role `json:"x-required-role"`
			Wide bool        `json:"x-installation-wide"`
		}
	}
	if err := json.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	var all []documented
	for path, item := range document.Paths {
		for method, op := range item {
			all = append(all, documented{strings.ToUpper(method), path, op.Role, op.Wide})
		}
	}
	slices.SortFunc(all, func(x, y documented) int {
		return cmp.Or(strings.Compare(x.path, y.path), strings.Compare(x.method, y.method))
	})
	return all
}

// callers are the columns of the matrix.
var callers = []string{"", "viewer", "operator", "editor", "admin", "limited"}

// verdict is what the document promises a caller: 401, 403, or 0 for an answer of the operation itself.
func (d documented) verdict(caller string) int {
	switch {
	case d.role == "":
		return 0
	case caller == "":
		return http.StatusUnauthorized
	case caller == "limited" && d.wide, caller != "limited" && !access.Role(caller).Allows(d.role):
		return http.StatusForbidden
	}
	return 0
}

// TestDocumentedRoles compares the matrix of operations and roles with testdata/roles.txt, so that every change of who may do what
// shows in a diff, and tries each of its cells.
func TestDocumentedRoles(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Access = ByRole{}
	a := newAPI(t, o)

	var got bytes.Buffer
	row := func(operation string, cells ...string) {
		line := fmt.Sprintf("%-58s", operation)
		for _, cell := range cells {
			line += fmt.Sprintf(" %-13s", cell)
		}
		got.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	row("", "no credential", "viewer", "operator", "editor", "admin", "limited admin")
	for _, op := range operations(t, a) {
		var cells []string
		for _, caller := range callers {
			want := op.verdict(caller)
			cells = append(cells, map[int]string{0: "yes", 401: "401", 403: "403"}[want])
			methods := []string{op.method}
			if op.method == http.MethodGet {
				methods = append(methods, http.MethodHead)
			}
			for _, method := range methods {
				w := call(t, a, method, somewhere(op.path), "", credential(caller)...)
				if w.Code == want || want == 0 && w.Code != http.StatusUnauthorized && w.Code != http.StatusForbidden {
					continue
				}
				t.Errorf("%s %s by %q: %d, the document promises %s: %s", method, op.path, caller, w.Code, cells[len(cells)-1], w.Body)
			}
		}
		row(fmt.Sprintf("%-6s %s", op.method, op.path), cells...)
	}

	const golden = "testdata/roles.txt"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("who may do what is not as in %s. If that is meant: go generate ./internal/api\n%s", golden, got.Bytes())
	}
}

// somewhere is a path with something in the place of each parameter.
func somewhere(path string) string {
	path = strings.ReplaceAll(path, "{id}", someID)
	return regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, "1")
}

func credential(caller string) []string {
	if caller == "" {
		return nil
	}
	return []string{"Authorization", "Bearer " + caller}
}

// TestOperationWithoutRoleIsClosed registers operations that forget to say who may call them, or say it wrongly: nobody may.
func TestOperationWithoutRoleIsClosed(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Access = ByRole{}
	a := newAPI(t, o)
	serve := func(context.Context, *struct{}) (*struct{}, error) { return nil, nil }
	huma.Register(a.huma, huma.Operation{OperationID: "bare", Method: http.MethodGet, Path: "/bare"}, serve)
	huma.Register(a.huma, huma.Operation{OperationID: "text", Method: http.MethodGet, Path: "/text",
		Extensions: map[string]any{roleExtension: "viewer"}}, serve)
	handle(a, "empty", get("/empty"), "", "", "", "", nil, serve)
	handle(a, "unknown", get("/unknown"), "owner", "", "", "", nil, serve)
	handle(a, "open", get("/open"), access.Viewer, "", "", "", nil, serve)
	for path, want := range map[string]int{"/bare": 403, "/text": 403, "/empty": 403, "/unknown": 403, "/open": 204} {
		for _, caller := range []string{"viewer", "admin"} {
			if w := call(t, a, "GET", path, "", credential(caller)...); w.Code != want {
				t.Errorf("%s by %s: %d, want %d: %s", path, caller, w.Code, want, w.Body)
			}
		}
		if w := call(t, a, "GET", path, ""); w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s without a credential: %d, %v", path, w.Code, w.Header())
		}
	}
}
