package api

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/danielgtaylor/huma/v2"
)

var update = flag.Bool("update", false, "write the OpenAPI document to testdata instead of comparing it")

// TestDocument compares the OpenAPI document with the one in testdata, so that every change of the API shows in a diff.
func TestDocument(t *testing.T) {
	t.Parallel()
	const golden = "testdata/openapi.json"
	got, err := newAPI(t, testOptions()).Document()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the OpenAPI document is not the one in %s. If that is meant: go generate ./internal/api", golden)
	}
}

// TestReferences checks that every reference of the document leads somewhere and that every schema is used.
func TestReferences(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	data, err := a.Document()
	if err != nil {
		t.Fatal(err)
	}
	schemas := a.huma.OpenAPI().Components.Schemas.Map()
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`"#/components/schemas/([^"]+)"`).FindAllSubmatch(data, -1) {
		used[string(m[1])] = true
		if schemas[string(m[1])] == nil {
			t.Errorf("%s leads nowhere", m[0])
		}
	}
	for name := range schemas {
		if !used[name] {
			t.Errorf("schema %s is not used", name)
		}
	}
	var document struct{ OpenAPI string }
	if err := json.Unmarshal(data, &document); err != nil || document.OpenAPI != "3.1.0" {
		t.Errorf("openapi %q %v", document.OpenAPI, err)
	}
}

// TestSchemaMatchesDocument holds the hand-written schemas against the structs of package definition.
func TestSchemaMatchesDocument(t *testing.T) {
	t.Parallel()
	schemas := newAPI(t, testOptions()).huma.OpenAPI().Components.Schemas.Map()
	fieldsOf := func(names ...string) []string {
		all := map[string]bool{}
		for _, name := range names {
			for field := range schemas[name].Properties {
				all[field] = true
			}
		}
		return slices.Sorted(maps.Keys(all))
	}
	document := jsonFields(reflect.TypeFor[definition.Document]())
	stored := append(slices.Clone(document), "id", "revision", "created_at", "updated_at", "sync")
	slices.Sort(stored)
	patch := schemas[schemaPatch].Properties["trigger_config"]
	for _, test := range []struct {
		name      string
		got, want []string
	}{
		{"new definition", fieldsOf(schemaNew), document},
		{"change", fieldsOf(schemaReplacement), document},
		{"patch", fieldsOf(schemaPatch), document},
		{"stored definition", fieldsOf(schemaDefinition), stored},
		{"answer", jsonFields(reflect.TypeFor[Definition]()), stored},
		{"trigger", fieldsOf("CronTrigger", "ScheduledTrigger", "EventTrigger", "ManualTrigger"), jsonFields(reflect.TypeFor[definition.Trigger]())},
		{"trigger patch", slices.Sorted(maps.Keys(patch.Properties)), jsonFields(reflect.TypeFor[definition.Trigger]())},
		{"pause", fieldsOf(schemaPause), jsonFields(reflect.TypeFor[pauseFields]())},
		{"preview", fieldsOf(schemaPreview), jsonFields(reflect.TypeFor[previewFields]())},
		{"backfill", fieldsOf(schemaBackfill), jsonFields(reflect.TypeFor[backfillFields]())},
		{"dead letters", fieldsOf(schemaDeadLetters), jsonFields(reflect.TypeFor[deadLetterFields]())},
		{"replay", fieldsOf(schemaReplay), jsonFields(reflect.TypeFor[replayFields]())},
		{"stop", fieldsOf(schemaStop), jsonFields(reflect.TypeFor[stopFields]())},
		{"rerun", fieldsOf(schemaRerun), jsonFields(reflect.TypeFor[rerunFields]())},
		{"decision", fieldsOf(schemaDecision), jsonFields(reflect.TypeFor[decideFields]())},
		{"stop runs", fieldsOf(schemaStopRuns), jsonFields(reflect.TypeFor[stopRunsFields]())},
		{"rerun runs", fieldsOf(schemaRerunRuns), jsonFields(reflect.TypeFor[rerunRunsFields]())},
		{"filter of runs", fieldsOf(schemaRunFilter), jsonFields(reflect.TypeFor[runFilterFields]())},
		{"token", fieldsOf(schemaToken), jsonFields(reflect.TypeFor[tokenFields]())},
		{"rotation", fieldsOf(schemaRotation), jsonFields(reflect.TypeFor[rotateTokenFields]())},
		{"retry", fieldsOf(schemaRetry), jsonFields(reflect.TypeFor[definition.Retry]())},
		{"concurrency", fieldsOf(schemaConcurrency), jsonFields(reflect.TypeFor[definition.Concurrency]())},
		{"task", fieldsOf("LogTask", "HTTPTask", "PublishTask", "ActivityTask", "WorkflowTask", "WaitTask"),
			jsonFields(reflect.TypeFor[definition.Task]())},
		{"log task", with(schemas, "LogTask"), jsonFields(reflect.TypeFor[definition.LogTask]())},
		{"http task", with(schemas, "HTTPTask"), jsonFields(reflect.TypeFor[definition.HTTPTask]())},
		{"publish task", with(schemas, "PublishTask"), jsonFields(reflect.TypeFor[definition.PublishTask]())},
		{"activity task", with(schemas, "ActivityTask"), jsonFields(reflect.TypeFor[definition.ActivityTask]())},
		{"workflow task", with(schemas, "WorkflowTask"), jsonFields(reflect.TypeFor[definition.WorkflowTask]())},
		{"wait task", with(schemas, "WaitTask"), jsonFields(reflect.TypeFor[definition.WaitTask]())},
		{"notification", fieldsOf(schemaNotify), jsonFields(reflect.TypeFor[definition.Notification]())},
	} {
		if !slices.Equal(test.got, test.want) {
			t.Errorf("%s: schema has %q, Go has %q", test.name, test.got, test.want)
		}
	}
}

func with(schemas map[string]*huma.Schema, task string) []string {
	return slices.Sorted(maps.Keys(schemas[task].Properties["with"].Properties))
}

// jsonFields returns the names of the members of a struct's JSON, sorted.
func jsonFields(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			out = append(out, jsonFields(f.Type)...)
		case name != "" && name != "-":
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func reads[T any](data []byte) error {
	var given T
	if err := definition.DecodeStrict(data, &given); err != nil {
		return err
	}
	return nil
}

// TestExamples puts the document's own examples to the test: each is taken by the language, and by the schema that
// describes it.
func TestExamples(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	registry := a.huma.OpenAPI().Components.Schemas
	base, err := definition.ParseDocument([]byte(`{"name":"base","trigger_config":{"trigger_type":"cron","cron_expression":"@daily"}}`))
	if err != nil {
		t.Fatal(err)
	}
	document := func(read func([]byte) (definition.Document, error)) func([]byte) error {
		return func(data []byte) error {
			_, err := read(data)
			return err
		}
	}
	for name, of := range map[string]struct {
		body *huma.RequestBody
		read func([]byte) error
	}{
		"create":       {createBody(), document(definition.ParseDocument)},
		"replace":      {replaceBody(), document(base.Replace)},
		"merge":        {mergeBody(), document(base.Merge)},
		"pause":        {pauseBody(), reads[pauseFields]},
		"preview":      {previewBody(), reads[previewFields]},
		"backfill":     {backfillBody(), reads[backfillFields]},
		"dead letters": {moveDeadLettersBody(), reads[deadLetterFields]},
		"replay":       {replayBody(), reads[replayFields]},
		"token":        {tokenBody(), reads[tokenFields]},
		"rotation":     {rotateBody(), reads[rotateTokenFields]},
		"event": {eventBodyDoc(), func(data []byte) error {
			if _, fault := (&eventBody{data: data}).event(); fault != nil {
				return fault
			}
			return nil
		}},
	} {
		for _, media := range of.body.Content {
			if len(media.Examples) == 0 {
				t.Errorf("%s has no examples", name)
			}
			for label, example := range media.Examples {
				data, err := json.Marshal(example.Value)
				if err != nil {
					t.Fatal(err)
				}
				if err := of.read(data); err != nil {
					t.Errorf("%s example %q is refused: %v", name, label, err)
				}
				var result huma.ValidateResult
				huma.Validate(registry, registry.SchemaFromRef(media.Schema.Ref), huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer,
					example.Value, &result)
				if len(result.Errors) > 0 {
					t.Errorf("%s example %q does not fit its schema: %v", name, label, result.Errors)
				}
			}
		}
	}
}

// TestDocsStayAtHome loads the documentation page like a browser would: everything it needs comes from this server.
func TestDocsStayAtHome(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	page := call(t, a, "GET", "/docs", "")
	if page.Code != 200 || !strings.HasPrefix(page.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("%d %v", page.Code, page.Header())
	}
	for _, policy := range strings.Split(page.Header().Get("Content-Security-Policy"), ";") {
		for _, source := range strings.Fields(policy)[1:] {
			if source != "'none'" && source != "'self'" && source != "data:" && (source != "'unsafe-inline'" || !strings.Contains(policy, "style-src")) {
				t.Errorf("the policy allows %q in %q", source, policy)
			}
		}
	}
	html := page.Body.String()
	if regexp.MustCompile(`(?i)<script[^>]*>[^<]|<style|\son\w+=|https?:|"//`).MatchString(html) {
		t.Errorf("the page has inline code or refers to another host:\n%s", html)
	}
	assets := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(html, -1)
	if len(assets) < 5 {
		t.Errorf("found %d assets, want 5", len(assets))
	}
	for _, m := range assets {
		plain := call(t, a, "GET", m[1], "")
		if !strings.HasPrefix(m[1], "/") || plain.Code != 200 || plain.Body.Len() == 0 {
			t.Errorf("%s: %d", m[1], plain.Code)
		}
		if m := regexp.MustCompile(`url\(["']?(?:https?:)?//[^)]*|@import[^;]*`).FindString(plain.Body.String()); m != "" &&
			strings.HasPrefix(plain.Header().Get("Content-Type"), "text/css") {
			t.Errorf("the style sheet refers to another host: %s", m)
		}
		cached := call(t, a, "GET", m[1], "", "If-None-Match", plain.Header().Get("ETag"))
		if cached.Code != 304 || cached.Body.Len() != 0 {
			t.Errorf("%s again: %d with %d bytes, want 304", m[1], cached.Code, cached.Body.Len())
		}
		zipped := call(t, a, "GET", m[1], "", "Accept-Encoding", "br, gzip")
		if zipped.Header().Get("Content-Encoding") != "gzip" {
			continue
		}
		reader, err := gzip.NewReader(zipped.Body)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(reader); err != nil || !bytes.Equal(data, plain.Body.Bytes()) {
			t.Errorf("%s: compressed and plain differ (%v)", m[1], err)
		}
	}
	if start := call(t, a, "GET", "/docs/start.js", "").Body.String(); !strings.Contains(start, `url: "/openapi.json"`) ||
		!strings.Contains(start, "validatorUrl: null") {
		t.Errorf("start.js does not show our own document, or lets it be validated elsewhere:\n%s", start)
	}
}
