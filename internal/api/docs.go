package api

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/swaggest/swgui/v5/static"
)

// docsPolicy lets the documentation page load from us and from nowhere else. Styles may be inline because Swagger UI
// makes some; scripts may not.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

//go:embed docs/index.html docs/start.js
var ownDocs embed.FS

// docsAssets are the files of the documentation page, with the file system that holds each. A name that ends in .gz is
// served without that ending.
var docsAssets = []struct {
	files fs.FS
	name  string
	kind  string
}{
	{ownDocs, "docs/start.js", "text/javascript; charset=utf-8"},
	{static.FS, "swagger-ui-bundle.js.gz", "text/javascript; charset=utf-8"},
	{static.FS, "swagger-ui.css.gz", "text/css; charset=utf-8"},
	{static.FS, "favicon-32x32.png", "image/png"},
}

// file is a small static file.
type file struct {
	data []byte
	gzip bool // data is compressed
	kind string
	etag string

	policy string // what its page may load
}

func newFile(data []byte, kind string, compressed bool) *file {
	sum := sha256.Sum256(data)
	return &file{data: data, gzip: compressed, kind: kind, etag: `W/"` + hex.EncodeToString(sum[:8]) + `"`, policy: docsPolicy}
}

func (f *file) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Content-Security-Policy", f.policy)
	h.Set("Cache-Control", "no-cache") // may be stored, but must be asked for
	h.Set("ETag", f.etag)
	data := f.data
	if f.gzip {
		h.Add("Vary", "Accept-Encoding")
	}
	switch {
	case strings.Contains(r.Header.Get("If-None-Match"), f.etag):
		w.WriteHeader(http.StatusNotModified)
		return
	case f.gzip && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"):
		h.Set("Content-Encoding", "gzip")
	case f.gzip:
		reader, err := gzip.NewReader(bytes.NewReader(f.data))
		if err != nil {
			panic(err) // the data is a part of the binary
		}
		plain := new(bytes.Buffer)
		if _, err := plain.ReadFrom(reader); err != nil {
			panic(err)
		}
		data = plain.Bytes()
	}
	h.Set("Content-Length", fmt.Sprint(len(data)))
	_, _ = w.Write(data) // the client has gone
}

// serveDocs serves the documentation page and its files.
func (a *API) serveDocs(base string) error {
	page, err := ownDocs.ReadFile("docs/index.html")
	if err != nil {
		return fmt.Errorf("read the documentation page: %w", err)
	}
	a.router.Get(base, newFile(page, "text/html; charset=utf-8", false).ServeHTTP)

	assets := map[string]*file{}
	for _, asset := range docsAssets {
		data, err := fs.ReadFile(asset.files, asset.name)
		if err != nil {
			return fmt.Errorf("read a file of the documentation page: %w", err)
		}
		name, compressed := strings.CutSuffix(path.Base(asset.name), ".gz")
		assets[name] = newFile(data, asset.kind, compressed)
	}
	a.router.Get(base+"/{asset}", func(w http.ResponseWriter, r *http.Request) {
		if f, ok := assets[chi.URLParam(r, "asset")]; ok {
			f.ServeHTTP(w, r)
			return
		}
		a.routeNotFound(w, r)
	})
	return nil
}

//go:generate go test -run=^(TestDocument|TestDocumentedRoles)$ -update .

// serveDocument serves the OpenAPI document, which is complete by now, in both of its forms.
func (a *API) serveDocument(jsonPath, yamlPath string) error {
	asJSON, err := a.Document()
	if err != nil {
		return err
	}
	asYAML, err := a.huma.OpenAPI().YAML()
	if err != nil {
		return err
	}
	a.router.Get(jsonPath, newFile(asJSON, "application/openapi+json", false).ServeHTTP)
	a.router.Get(yamlPath, newFile(asYAML, "application/openapi+yaml", false).ServeHTTP)
	return nil
}

// Document returns the OpenAPI document, as indented JSON in a stable order.
func (a *API) Document() ([]byte, error) {
	data, err := json.Marshal(a.huma.OpenAPI())
	if err != nil {
		return nil, err
	}
	out := new(bytes.Buffer)
	if err := json.Indent(out, data, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
