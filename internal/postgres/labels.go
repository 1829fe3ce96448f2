package postgres

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/activity-core/activity-core/internal/access"
)

// label is one that definitions are to have.
type label struct {
	key, value string
	// definitions is how many have it, counted to maxProbes+1; 0 where nobody counted.
	definitions int
}

// labelsOf returns labels that are asked for, and those of the caller's scope.
func labelsOf(ctx context.Context, wanted map[string]string) (list []label) {
	for _, labels := range []map[string]string{wanted, access.From(ctx).Labels} {
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			list = append(list, label{key: key, value: labels[key]})
		}
	}
	return list
}

// labels is labelsOf with their numbers of definitions, the rarest first.
func (s *Store) labels(ctx context.Context, wanted map[string]string) ([]label, error) {
	list := labelsOf(ctx, wanted)
	if len(list) == 0 {
		return nil, nil
	}
	args := []any{maxProbes + 1}
	counts := make([]string, len(list))
	for i, l := range list {
		args = append(args, l.key, l.value)
		counts[i] = fmt.Sprintf("(SELECT count(*) FROM ("+withLabel+" LIMIT $1) l)", len(args)-1, len(args))
	}
	found, err := s.counted(ctx, counts, args)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].definitions = found[i]
	}
	slices.SortStableFunc(list, func(a, b label) int { return cmp.Compare(a.definitions, b.definitions) })
	return list, nil
}

// counted returns the numbers that subqueries give, in one look.
func (s *Store) counted(ctx context.Context, subqueries []string, args []any) (found []int, err error) {
	err = s.pool.QueryRow(ctx, "SELECT ARRAY["+strings.Join(subqueries, ", ")+"]", args...).Scan(&found)
	return found, err
}

// hasLabels returns conditions: that the definition of an id has these labels. They are looked up one by one, since the planner would
// rather read all definitions that have them, which may be many. Their arguments follow those that are given.
func hasLabels(id string, labels []label, args []any) ([]string, []any) {
	var conditions []string
	for _, l := range labels {
		args = append(args, l.key, l.value)
		conditions = append(conditions, fmt.Sprintf(`COALESCE((
			SELECT true FROM definition_labels l WHERE l.definition_id = %s AND l.key = $%d AND l.value = $%d), false)`,
			id, len(args)-1, len(args)))
	}
	return conditions, args
}

// withLabels returns a statement that gives the ids of the definitions, live and deleted, that have all of the labels, of which there is
// one at least. It begins with those that have the first one. Its arguments follow those that are given.
func withLabels(labels []label, args []any) (string, []any) {
	args = append(args, labels[0].key, labels[0].value)
	first := fmt.Sprintf(withLabel, len(args)-1, len(args))
	if len(labels) == 1 {
		return first, args
	}
	conditions, args := hasLabels("first.id", labels[1:], args)
	return "SELECT first.id FROM (" + first + ") first (id) WHERE " + strings.Join(conditions, " AND "), args
}
