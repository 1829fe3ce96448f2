package match

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/definition"
)

// TestDocumentedExamples runs what docs/conditions.md claims. Each block marked as CEL has the filters or the condition in
// its first line, and then lines of an outcome and a payload.
func TestDocumentedExamples(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/conditions.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```cel\n(.*?)^```$").FindAllStringSubmatch(string(document), -1)
	outcomes := map[string]int{}
	for _, block := range blocks {
		lines := strings.Split(strings.TrimSuffix(block[1], "\n"), "\n")
		r := documented(t, lines[0])
		table := apply(t, &Table{}, r)
		if len(lines) < 3 {
			t.Errorf("%s has fewer than two examples", lines[0])
		}
		for _, line := range lines[1:] {
			outcome, payload, _ := strings.Cut(strings.TrimSpace(line), " ")
			outcomes[outcome]++
			e := event(t, "t", strings.TrimSpace(payload))
			met, err := table.Match(e, noon)
			if err != nil {
				t.Fatal(err)
			}
			got := "false"
			if len(met) == 1 && met[0].Err == nil {
				got = "true"
			} else if len(met) == 1 {
				got = "error"
			}
			if got != outcome {
				t.Errorf("%s\n%s: %s", lines[0], line, got)
			}
			if x := Explain(r, e, noon); x.Matches != (outcome == "true") || (x.Err != "") != (outcome == "error") {
				t.Errorf("%s\n%s: explained as %+v", lines[0], line, x)
			}
		}
	}
	if len(blocks) < 40 || len(outcomes) != 3 || outcomes["error"] < 5 {
		t.Errorf("%d blocks with outcomes %v", len(blocks), outcomes)
	}
}

// documented makes a definition of what the document shows, by the check that a user's definition goes through.
func documented(t *testing.T, text string) definition.Routable {
	t.Helper()
	field := fmt.Sprintf(`"condition": %q`, text)
	if strings.HasPrefix(text, "{") {
		field = `"filters": ` + text
	}
	doc, err := definition.ParseDocument([]byte(`{"name": "x", "trigger_config": {"trigger_type": "event", "event_type": "t", ` + field + `}}`))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return definition.Routable{ID: "x", EventType: "t", Filters: doc.Trigger.Filters, Condition: doc.Trigger.Condition, Live: true, EnabledSince: noon}
}

// TestDocumentedPatterns runs the table of wildcards.
func TestDocumentedPatterns(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/conditions.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(document), "| pattern | fits | does not fit |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	code := regexp.MustCompile("`[^`]*`")
	asked := 0
	for row := range strings.SplitSeq(table, "\n") {
		cells := strings.Split(row, "|")
		pattern := strings.Trim(cells[1], " `")
		if fault := definition.CheckEventPattern(pattern); fault != "" {
			t.Errorf("%s %s", pattern, fault)
		}
		for i, want := range []bool{true, false} {
			for _, quoted := range code.FindAllString(cells[i+2], -1) {
				asked++
				eventType := strings.Trim(quoted, "`")
				if got := TypeMeets(pattern, eventType); got != want {
					t.Errorf("%s and %s: %v", pattern, eventType, got)
				}
				r := routable("x", pattern, `{}`)
				if got := matched(t, apply(t, &Table{}, r), event(t, eventType, `{}`)); (got == "x") != want {
					t.Errorf("a definition of %s and an event of %s: %q", pattern, eventType, got)
				}
			}
		}
	}
	if asked < 20 {
		t.Errorf("only %d types in the table", asked)
	}
}
