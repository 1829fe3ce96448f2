package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/oasdiff/oasdiff/checker"
	"github.com/oasdiff/oasdiff/diff"
	"github.com/oasdiff/oasdiff/load"
)

// The roles, weakest first, as in internal/access.
var roles = []string{"viewer", "operator", "editor", "admin"}

// breaks returns what the current document takes away from clients that were written by the contract, one line each.
func breaks(contract, current []byte) ([]string, error) {
	base, err := read(contract, "the contract")
	if err != nil {
		return nil, err
	}
	now, err := read(current, "the current document")
	if err != nil {
		return nil, err
	}
	report, sources, err := diff.GetWithOperationsSourcesMap(diff.NewConfig(), base, now)
	if err != nil {
		return nil, fmt.Errorf("compare the documents: %w", err)
	}
	found := checker.CheckBackwardCompatibility(checker.NewConfig(checker.GetAllChecks(), checker.WithSeverityLevels(map[string]checker.Level{
		"optional-response-header-removed": checker.ERR, // the document does not say which headers always come: these do
	})), report, sources)
	say := checker.NewDefaultLocalizer()
	var lines []string
	for _, change := range found {
		where := strings.TrimSpace(change.GetOperation() + " " + change.GetPath())
		if where == "" {
			where = change.GetSection()
		}
		lines = append(lines, fmt.Sprintf("%s: %s (%s)", where, change.GetUncolorizedText(say), change.GetId()))
	}
	return append(lines, closed(base.Spec, now.Spec)...), nil
}

func read(data []byte, what string) (*load.SpecInfo, error) {
	spec, err := load.NewSpecInfoFromData(openapi3.NewLoader(), data, what)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return spec, nil
}

// closed tells of operations that fewer callers may call than before, which is said in extensions that only we know.
func closed(base, now *openapi3.T) (lines []string) {
	for _, path := range slices.Sorted(maps.Keys(base.Paths.Map())) {
		for method, before := range base.Paths.Value(path).Operations() {
			item := now.Paths.Value(path)
			if item == nil || item.GetOperation(method) == nil {
				continue // told already
			}
			after := item.GetOperation(method)
			if was, is := role(before), role(after); is > was {
				lines = append(lines, fmt.Sprintf("%s %s: needs the role %s, and did with %s (role-raised)", method, path, name(is), name(was)))
			}
			if before.Extensions["x-installation-wide"] == nil && after.Extensions["x-installation-wide"] != nil {
				lines = append(lines, fmt.Sprintf("%s %s: is closed to callers who are limited to labels, and was not (closed-to-limited)", method, path))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// role is the rank of the role that an operation needs, -1 for none.
func role(op *openapi3.Operation) int {
	word, _ := op.Extensions["x-required-role"].(string)
	return slices.Index(roles, word)
}

func name(rank int) string {
	if rank < 0 {
		return "none"
	}
	return roles[rank]
}
