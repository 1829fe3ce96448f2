package api

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/access"
)

// wantExplained checks that the table of kinds knows a problem as it is.
func wantExplained(t testing.TB, p Problem) {
	t.Helper()
	i := slices.IndexFunc(problemKinds, func(k ProblemKind) bool { return k.Type == p.Type })
	if i < 0 {
		t.Errorf("nothing explains the type %q", p.Type)
		return
	}
	if k := problemKinds[i]; p.Title != k.Title || !slices.Contains(k.Statuses, p.Status) {
		t.Errorf("problem %d %q of type %s: the table says %v %q", p.Status, p.Title, p.Type, k.Statuses, k.Title)
	}
}

// TestProblemKinds reads the package's source: every kind is explained, and every problem is of such a kind.
func TestProblemKinds(t *testing.T) {
	t.Parallel()
	name, sentence := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`), regexp.MustCompile(`^[A-Z][^<>*\x60]*\.$`)
	explained := map[string]bool{}
	for _, k := range problemKinds {
		if explained[string(k.Kind)] || !name.MatchString(string(k.Kind)) {
			t.Errorf("kind %q is not a word of its own", k.Kind)
		}
		explained[string(k.Kind)] = true
		if k.Title == "" || strings.HasSuffix(k.Title, ".") || len(k.Statuses) == 0 || !sentence.MatchString(k.Meaning) ||
			!sentence.MatchString(k.Remedy) {
			t.Errorf("kind %s has no statuses, or texts that are not plain sentences: %+v", k.Kind, k)
		}
		for _, status := range k.Statuses {
			if status < 400 || status > 599 {
				t.Errorf("kind %s: %d is no status of an error", k.Kind, status)
			}
		}
	}

	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	constants, problems := map[string]string{}, 0 // the values of constants, by name
	var parsed []*ast.File
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != len(spec.Names) {
				return true
			}
			typ, _ := spec.Type.(*ast.Ident)
			for i := range spec.Names {
				value, ok := spec.Values[i].(*ast.BasicLit)
				if !ok || typ == nil || typ.Name != "problemKind" {
					continue
				}
				text, err := strconv.Unquote(value.Value)
				if err != nil {
					t.Fatal(err)
				}
				constants[spec.Names[i].Name] = text
				if !explained[text] {
					t.Errorf("%s: kind %q is not explained", set.Position(spec.Pos()), text)
				}
			}
			return true
		})
	}
	if len(constants) != len(problemKinds) {
		t.Errorf("%d kinds are constants, %d are explained", len(constants), len(problemKinds))
	}
	known := func(e ast.Expr) bool {
		switch e := e.(type) {
		case *ast.BasicLit:
			text, err := strconv.Unquote(e.Value)
			return err == nil && explained[text]
		case *ast.Ident:
			return constants[e.Name] != ""
		}
		return false
	}
	for _, f := range parsed {
		for _, decl := range f.Decls {
			local := map[string]bool{} // constants of this function that stand for kinds
			ast.Inspect(decl, func(n ast.Node) bool {
				if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == 1 && len(spec.Values) == 1 && known(spec.Values[0]) {
					local[spec.Names[0].Name] = true
				}
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if callee, ok := call.Fun.(*ast.Ident); !ok || callee.Name != "newProblem" {
					return true
				}
				problems++
				id, isName := call.Args[1].(*ast.Ident)
				if !known(call.Args[1]) && (!isName || !local[id.Name]) {
					t.Errorf("%s: a problem of a kind that problems.go does not have", set.Position(call.Pos()))
				}
				return true
			})
		}
	}
	if problems < 30 {
		t.Errorf("found %d problems in the source: it is not read as it should be", problems)
	}
}

// TestProblemsDocument compares docs/problems.md with the table.
func TestProblemsDocument(t *testing.T) {
	t.Parallel()
	const golden = "../../docs/problems.md"
	out := new(bytes.Buffer)
	out.WriteString(`# Problems

<!-- Made from internal/api/problems.go by go generate ./internal/api. -->

Every error of the API is a problem (RFC 9457), with the content type ` + "`application/problem+json`" + `. Its ` + "`type`" + ` is a path of the
API itself: ` + "`GET /problems/invalid`" + ` explains the problem of that type, in every installation, as a page or, with
` + "`Accept: application/json`" + `, as JSON. ` + "`GET /problems`" + ` lists all types. Neither needs a credential.

Programs should compare ` + "`type`" + `, which stays the same for ever, and not the texts. More types may be added: take one that you do
not know by its status. ` + "`title`" + ` belongs to the type; ` + "`detail`" + ` says what is wrong with the one request, and ` + "`errors`" + ` which
fields are at fault, each with the rule that it breaks. ` + "`request_id`" + ` is also in the header ` + "`X-Request-Id`" + ` and in the API's log.

| status | type | title |
|---|---|---|
`)
	for _, k := range problemKinds {
		fmt.Fprintf(out, "| %s | [`%s`](#%s) | %s |\n", statusWords(k), k.Type, k.Kind, k.Title)
	}
	for _, k := range problemKinds {
		fmt.Fprintf(out, "\n## %s\n\n**%s** (%s). %s\n\nWhat to do: %s\n", k.Kind, k.Title, statusWords(k), k.Meaning, k.Remedy)
	}
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, out.Bytes()) {
		t.Errorf("%s does not say what the table says: go generate ./internal/api", golden)
	}
}

func statusWords(k ProblemKind) string {
	words := make([]string, len(k.Statuses))
	for i, status := range k.Statuses {
		words[i] = strconv.Itoa(status)
	}
	return strings.Join(words, ", ")
}

// TestProblemPages follows the types to their pages, as a person and as a program.
func TestProblemPages(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Access = denyAll{} // the pages are for those who do not get in, too
	a := newAPI(t, o)
	list := call(t, a, "GET", "/problems", "")
	for _, k := range problemKinds {
		for _, path := range []string{k.Type, k.Type + "/"} {
			w := call(t, a, "GET", path, "", "Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
			if w.Code != 200 || w.Header().Get("Content-Type") != "text/html; charset=utf-8" ||
				w.Header().Get("Content-Security-Policy") != problemsPolicy || w.Header().Get("Vary") != "Accept" ||
				!strings.Contains(w.Body.String(), "<h1>"+escaped(k.Title)+"</h1>") || !strings.Contains(w.Body.String(), escaped(k.Remedy)) {
				t.Errorf("GET %s: %d %v\n%s", path, w.Code, w.Header(), w.Body)
			}
			if m := regexp.MustCompile(`(?i)<script|<style|<link|\sstyle=|\son\w+=|https?:`).FindString(w.Body.String()); m != "" {
				t.Errorf("GET %s: the page has %q", path, m)
			}
		}
		w := call(t, a, "GET", k.Type, "", "Accept", "application/json")
		if got := decode[ProblemKind](t, w); w.Header().Get("Content-Type") != jsonType || got.Type != k.Type || got.Title != k.Title ||
			!slices.Equal(got.Statuses, k.Statuses) || got.Meaning != k.Meaning || got.Remedy != k.Remedy {
			t.Errorf("GET %s as JSON: %s", k.Type, w.Body)
		}
		if !strings.Contains(list.Body.String(), `<a href="`+k.Type+`"><code>`+k.Type+`</code></a>`) {
			t.Errorf("GET /problems does not lead to %s", k.Type)
		}
	}
	w := call(t, a, "GET", "/problems/", "", "Accept", "application/json, text/html;q=0.5")
	if got := decode[struct{ Items []ProblemKind }](t, w); len(got.Items) != len(problemKinds) {
		t.Errorf("GET /problems as JSON has %d kinds, want %d", len(got.Items), len(problemKinds))
	}
	if w := call(t, a, "HEAD", "/problems/invalid", ""); w.Code != 200 {
		t.Errorf("HEAD: %d", w.Code)
	}
	p := wantProblem(t, call(t, a, "GET", "/problems/no%3Cb%3E", ""), 404, "not-found")
	if p.Detail != `there is no kind of problem "no<b>"; /problems lists all of them` {
		t.Errorf("an unknown kind: %q", p.Detail)
	}
}

func escaped(s string) string { return strings.ReplaceAll(s, "'", "&#39;") }

// TestProblemTypesInDocument finds every type among the examples of the OpenAPI document, which does not close the list.
func TestProblemTypesInDocument(t *testing.T) {
	t.Parallel()
	s := newAPI(t, testOptions()).huma.OpenAPI().Components.Schemas.Map()["Problem"].Properties["type"]
	if len(s.Enum) > 0 || len(s.Examples) != len(problemKinds) {
		t.Errorf("the document has %d examples of types and the closed list %v", len(s.Examples), s.Enum)
	}
	for i, k := range problemKinds {
		if s.Examples[i] != any(problemsPath+string(k.Kind)) {
			t.Errorf("example %d is %v, want %s", i, s.Examples[i], k.Type)
		}
	}
}

// denyAll knows nobody.
type denyAll struct{}

func (denyAll) Authenticate(context.Context, string) (access.Caller, error) {
	return access.Caller{}, access.ErrUnknown
}

// TestPanicsTellNothing asks for everything of a storage that panics, whatever it is asked.
func TestPanicsTellNothing(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Store = struct{ Store }{}
	o.Ledger = struct{ runLedger }{}
	o.FullSyncer = struct{ fullSyncer }{}
	a := newAPI(t, o)
	for _, r := range a.DocumentedRequests(t) {
		if r.ID == "preview-cron" || r.ID == "whoami" {
			continue // they ask nobody
		}
		w := call(t, a, r.Method, r.Path, r.Body, "Content-Type", r.ContentType)
		if w.Code != 500 {
			t.Errorf("%s: %d %s", r.ID, w.Code, w.Body)
			continue
		}
		p := wantProblem(t, w, 500, "internal")
		if p.Detail != internalProblem().Detail || len(p.Errors) > 0 {
			t.Errorf("%s: %s", r.ID, w.Body)
		}
		for _, word := range []string{"nil pointer", "runtime", "goroutine", ".go", "panic", "memory"} {
			if strings.Contains(w.Body.String(), word) {
				t.Errorf("%s tells %q: %s", r.ID, word, w.Body)
			}
		}
	}
}
