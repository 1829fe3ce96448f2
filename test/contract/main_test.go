package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestContractHolds is the gate: clients of the released API still work.
func TestContractHolds(t *testing.T) {
	t.Parallel()
	if err := check("../.."); err != nil {
		t.Error(err)
	}
}

type object = map[string]any

// at returns the object at a place of a document.
func at(t *testing.T, document object, members ...string) object {
	t.Helper()
	for _, m := range members {
		next, ok := document[m].(object)
		if !ok {
			t.Fatalf("the document has no %s", strings.Join(members, " / "))
		}
		document = next
	}
	return document
}

// without returns a list without some words.
func without(list any, words ...string) []any {
	var out []any
	for _, item := range list.([]any) {
		if text, ok := item.(string); !ok || !strings.Contains(" "+strings.Join(words, " ")+" ", " "+text+" ") {
			out = append(out, item)
		}
	}
	return out
}

// mutations change the document. The ones that break clients say by which finding they are refused.
var mutations = []struct {
	name, found string
	change      func(t *testing.T, d object)
}{
	{"nothing", "", func(*testing.T, object) {}},
	{"a path goes", "api-path-removed-without-deprecation", func(t *testing.T, d object) { delete(at(t, d, "paths"), "/runs") }},
	{"an operation goes", "api-removed-without-deprecation", func(t *testing.T, d object) {
		delete(at(t, d, "paths", "/activity-definitions/{id}"), "delete")
	}},
	{"a parameter goes", "request-parameter-removed", func(t *testing.T, d object) {
		op := at(t, d, "paths", "/runs", "get")
		op["parameters"] = op["parameters"].([]any)[1:]
	}},
	{"a parameter becomes required", "request-parameter-became-required", func(t *testing.T, d object) {
		at(t, d, "paths", "/runs", "get")["parameters"].([]any)[0].(object)["required"] = true
	}},
	{"a parameter comes that is required", "new-required-request-parameter", func(t *testing.T, d object) {
		op := at(t, d, "paths", "/runs", "get")
		op["parameters"] = append(op["parameters"].([]any), object{"name": "team", "in": "query", "required": true, "schema": object{"type": "string"}})
	}},
	{"a parameter gets a narrower range", "request-parameter-max-decreased", func(t *testing.T, d object) {
		for _, p := range at(t, d, "paths", "/runs", "get")["parameters"].([]any) {
			if p := p.(object); p["name"] == "limit" {
				p["schema"].(object)["maximum"] = 100
			}
		}
	}},
	{"a field of a request becomes required", "request-property-became-required", func(t *testing.T, d object) {
		s := at(t, d, "components", "schemas", "NewDefinition")
		s["required"] = append(s["required"].([]any), "labels")
	}},
	{"a field of a request goes", "request-property-removed", func(t *testing.T, d object) {
		delete(at(t, d, "components", "schemas", "NewDefinition", "properties"), "description")
	}},
	{"a word of a request goes", "request-property-enum-value-removed", func(t *testing.T, d object) {
		p := at(t, d, "components", "schemas", "Concurrency", "properties", "on_limit")
		p["enum"] = without(p["enum"], "replace")
	}},
	{"a field of a request changes its type", "request-property-type-changed", func(t *testing.T, d object) {
		at(t, d, "components", "schemas", "NewDefinition", "properties", "description")["type"] = "integer"
	}},
	{"a field of an answer goes", "response-required-property-removed", func(t *testing.T, d object) {
		s := at(t, d, "components", "schemas", "Definition")
		s["required"] = without(s["required"], "revision")
		delete(at(t, s, "properties"), "revision")
	}},
	{"a field of an answer becomes optional", "response-property-became-optional", func(t *testing.T, d object) {
		s := at(t, d, "components", "schemas", "Definition")
		s["required"] = without(s["required"], "revision")
	}},
	{"a field of an answer changes its type", "response-property-type-changed", func(t *testing.T, d object) {
		at(t, d, "components", "schemas", "Definition", "properties", "revision")["type"] = "string"
	}},
	{"a word of an answer comes", "response-property-enum-value-added", func(t *testing.T, d object) {
		p := at(t, d, "components", "schemas", "Sync", "properties", "state")
		p["enum"] = append(p["enum"].([]any), "asleep")
	}},
	{"a success goes", "response-success-status-removed", func(t *testing.T, d object) {
		responses := at(t, d, "paths", "/activity-definitions/", "post", "responses")
		responses["200"] = responses["201"]
		delete(responses, "201")
	}},
	{"a header of an answer goes", "optional-response-header-removed", func(t *testing.T, d object) {
		delete(at(t, d, "paths", "/activity-definitions/", "post", "responses", "201"), "headers")
	}},
	{"a stronger role is needed", "role-raised", func(t *testing.T, d object) {
		at(t, d, "paths", "/runs", "get")["x-required-role"] = "admin"
	}},
	{"limited callers are shut out", "closed-to-limited", func(t *testing.T, d object) {
		at(t, d, "paths", "/runs", "get")["x-installation-wide"] = true
	}},

	{"an operation comes", "", func(t *testing.T, d object) {
		at(t, d, "paths")["/teams"] = object{"get": object{"operationId": "list-teams", "responses": object{"200": object{"description": "OK"}}}}
	}},
	{"an optional parameter comes", "", func(t *testing.T, d object) {
		op := at(t, d, "paths", "/runs", "get")
		op["parameters"] = append(op["parameters"].([]any), object{"name": "team", "in": "query", "schema": object{"type": "string"}})
	}},
	{"an optional field of a request comes", "", func(t *testing.T, d object) {
		at(t, d, "components", "schemas", "NewDefinition", "properties")["owner"] = object{"type": "string"}
	}},
	{"a field of an answer comes", "", func(t *testing.T, d object) {
		at(t, d, "components", "schemas", "Definition", "properties")["owner"] = object{"type": "string"}
	}},
	{"a word of a request comes", "", func(t *testing.T, d object) {
		p := at(t, d, "components", "schemas", "RerunRequest", "properties", "from")
		p["enum"] = append(p["enum"].([]any), "here")
	}},
	{"an error comes", "", func(t *testing.T, d object) {
		responses := at(t, d, "paths", "/runs", "get", "responses")
		responses["410"] = responses["422"]
	}},
	{"a header of an answer comes", "", func(t *testing.T, d object) {
		at(t, d, "paths", "/runs", "get", "responses", "200")["headers"] = object{"ETag": object{"schema": object{"type": "string"}}}
	}},
	{"a weaker role is enough", "", func(t *testing.T, d object) {
		at(t, d, "paths", "/runs/{id}/cancel", "post")["x-required-role"] = "viewer"
	}},
	{"words for people change", "", func(t *testing.T, d object) {
		at(t, d, "paths", "/runs", "get")["description"] = "All runs."
	}},
}

func TestWhatBreaks(t *testing.T) {
	t.Parallel()
	current, err := os.ReadFile(filepath.Join("../..", currentFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			var document object
			if err := json.Unmarshal(current, &document); err != nil {
				t.Fatal(err)
			}
			m.change(t, document)
			mutated, err := json.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := breaks(current, mutated)
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(lines, "\n"); m.found == "" && all != "" || !strings.Contains(all, m.found) {
				t.Errorf("found %q, want %q", all, m.found)
			}
		})
	}
}

// TestAccept goes the way of a contract: written, grown, defended, broken with a reason.
func TestAccept(t *testing.T) {
	t.Parallel()
	root, now := t.TempDir(), time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	for _, dir := range []string{filepath.Dir(contractFile), filepath.Dir(breaksFile)} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	document := func(paths ...string) {
		t.Helper()
		all := object{}
		for _, path := range paths {
			all[path] = object{"get": object{"operationId": path, "responses": object{"200": object{"description": "OK"}}}}
		}
		data, err := json.Marshal(object{"openapi": "3.1.0", "info": object{"title": "x", "version": "1"}, "paths": all})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, currentFile), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	same := func() bool {
		contract, _ := os.ReadFile(filepath.Join(root, contractFile))
		current, _ := os.ReadFile(filepath.Join(root, currentFile))
		return bytes.Equal(contract, current)
	}
	document("/a", "/b")
	if err := check(root); err == nil {
		t.Error("there is no contract, and that is fine")
	}
	if err := accept(root, "", now); err != nil || !same() {
		t.Fatalf("the first contract: %v", err)
	}
	document("/a", "/b", "/c")
	if err := check(root); err != nil {
		t.Errorf("it grew: %v", err)
	}
	if err := accept(root, "", now); err != nil || !same() {
		t.Errorf("accept what grew: %v", err)
	}
	document("/a", "/b")
	if err := check(root); err == nil || !strings.Contains(err.Error(), "GET /c") {
		t.Errorf("it broke: %v", err)
	}
	if err := accept(root, "", now); err == nil || same() {
		t.Errorf("accepted what breaks without a reason: %v", err)
	}
	if err := accept(root, "nobody called it", now); err != nil || !same() {
		t.Fatalf("with a reason: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(root, breaksFile))
	if err != nil || !strings.HasPrefix(string(text), breaksHead) || !strings.Contains(string(text), "\n## 2026-01-31\n\nnobody called it\n\n- GET /c: ") {
		t.Errorf("noted: %s, %v", text, err)
	}
	if err := check(root); err != nil {
		t.Errorf("after that: %v", err)
	}
}
