package testenv

import (
	"go.temporal.io/sdk/temporal"

	"github.com/activity-core/activity-core/internal/definition"
)

// quiet is a Temporal logger that says nothing.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

func probeAttributes() temporal.SearchAttributes {
	return temporal.NewSearchAttributes(
		temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeID).ValueSet("probe"),
		temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeName).ValueSet("probe"),
		temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeSpecHash).ValueSet("probe"),
	)
}
