package testenv

import (
	"log/slog"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"

	"github.com/activity-core/activity-core/internal/definition"
)

// Quiet is a Temporal logger that says nothing.
func Quiet() log.Logger { return log.NewStructuredLogger(slog.New(slog.DiscardHandler)) }

func probeAttributes() temporal.SearchAttributes {
	return temporal.NewSearchAttributes(
		temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeID).ValueSet("probe"),
		temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeName).ValueSet("probe"),
		temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeSpecHash).ValueSet("probe"),
	)
}
