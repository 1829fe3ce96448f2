package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/activity-core/activity-core/internal/access"
)

// A caller with labels sees the definitions that have all of them, and what hangs on these: that is its scope. It is a condition of the
// statements themselves, so that what is outside is not there, as if it had never been. The labels are read as they are now: who gives
// a definition another label moves all that hangs on it. Whoever has no labels, our own programs among them, is asked for nothing more.

// withLabel are the definitions, live and deleted, that have a label, for the arguments of these numbers.
const withLabel = `SELECT definition_id FROM definition_labels WHERE key = $%d AND value = $%d`

// within returns a condition to be put behind others: that a column, or another expression, names a definition that the caller sees. Its
// arguments follow those that are given. For a caller without labels it is empty.
func within(ctx context.Context, column string, args []any) (string, []any) {
	return scope(ctx, ` AND `+column+` IN (`+withLabel+`)`, args)
}

// allWithin is within for a column that names many definitions: the caller has to see all of them.
func allWithin(ctx context.Context, column string, args []any) (string, []any) {
	return scope(ctx, ` AND NOT EXISTS (SELECT FROM unnest(`+column+`) named (id) WHERE named.id NOT IN (`+withLabel+`))`, args)
}

// scope repeats a condition, in which withLabel stands once, for each label of the caller.
func scope(ctx context.Context, condition string, args []any) (string, []any) {
	keys, values := access.From(ctx).LabelPairs()
	var all strings.Builder
	for i := range keys {
		args = append(args, keys[i], values[i])
		fmt.Fprintf(&all, condition, len(args)-1, len(args))
	}
	return all.String(), args
}
