package definition

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/expression"
)

func blocks(t *testing.T, file, language string) []string {
	t.Helper()
	document, err := os.ReadFile("../../docs/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, block := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(document), -1) {
		found = append(found, block[1])
	}
	return found
}

// TestDocumentedDefinitions stores what docs/definition.md and docs/tasks.md show: whole definitions, lists of tasks, and tasks. What
// else is JSON there, the run's context, has a run_id.
func TestDocumentedDefinitions(t *testing.T) {
	t.Parallel()
	stored := 0
	for _, block := range append(blocks(t, "definition.md", "json"), blocks(t, "tasks.md", "json")...) {
		switch {
		case strings.HasPrefix(block, `{"run_id"`):
			continue
		case strings.HasPrefix(block, "["):
			block = `{` + manual + `, "tasks": ` + block + `}`
		case !strings.Contains(block, "trigger_config"):
			block = tasks(block)
		}
		stored++
		if _, err := ParseDocument([]byte(block)); err != nil {
			t.Errorf("%s: %v", block, err)
		}
	}
	if stored < 11 {
		t.Errorf("only %d examples", stored)
	}
}

// TestDocumentedExpressions evaluates what docs/expressions.md shows, each block with the check that a user's definition goes
// through.
func TestDocumentedExpressions(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, language := range []string{"cel", "template"} {
		for _, block := range blocks(t, "expressions.md", language) {
			lines := strings.Split(strings.TrimSuffix(block, "\n"), "\n")
			text := lines[0]
			if language == "cel" {
				quoted, err := json.Marshal("${" + text + "}")
				if err != nil {
					t.Fatal(err)
				}
				text = string(quoted)
			}
			// Args keep each value's own type.
			doc := parsed(t, tasks(with("activity", `"activity": "A", "task_queue": "q", "args": [`+text+`]`)))
			template, err := expression.CompileTemplate([]byte(text), taskScope)
			if err != nil {
				t.Fatalf("%s: %v in %s", text, err, doc.Tasks[0].With)
			}
			for _, line := range lines[1:] {
				seen++
				payload, want, _ := strings.Cut(line, "→")
				run := Run{Kind: KindEvent, EventID: "e", Input: []byte(`{"event_id": "e", "payload": ` + payload + `}`)}
				v, err := run.Values(nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				value, err := template.Render(t.Context(), v)
				got := string(value)
				if err != nil {
					got = "error: " + err.Error()
					if language == "cel" {
						got = "error: " + strings.TrimPrefix(err.Error(), "${"+lines[0]+"}: ")
					}
				}
				if got != strings.TrimSpace(want) {
					t.Errorf("%s with %s: %s, want %s", lines[0], strings.TrimSpace(payload), got, want)
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d examples", seen)
	}
}
