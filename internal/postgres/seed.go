package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/activity-core/activity-core/internal/definition"
)

// seeds are the definitions of a fresh development system: one of each trigger type, each with something to see.
var seeds = []string{`{
	"name": "example-heartbeat",
	"description": "Runs every minute and writes a line to the worker's log.",
	"labels": {"example": "cron"},
	"trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *", "timezone": "UTC"},
	"tasks": [{"name": "beat", "type": "log", "with": {"message": "the heartbeat example is alive"}}]
}`, `{
	"name": "example-paid-order",
	"description": "Runs for each order.placed event whose payload says status paid.",
	"labels": {"example": "event"},
	"trigger_config": {"trigger_type": "event", "event_type": "order.placed", "filters": {"status": "paid"}},
	"tasks": [{"name": "thank", "type": "log", "with": {"message": "a paid order was placed"}}]
}`, `{
	"name": "example-by-hand",
	"description": "Runs when it is triggered by hand.",
	"labels": {"example": "manual"},
	"trigger_config": {"trigger_type": "manual"},
	"tasks": [{"name": "hello", "type": "log", "with": {"message": "triggered by hand"}}]
}`}

// Seed makes the example definitions that were never made before, and returns a line for each: its name and what became
// of it. One that was changed or deleted since stays so.
func (s *Store) Seed(ctx context.Context) ([]string, error) {
	var lines []string
	for _, text := range seeds {
		doc, err := definition.ParseDocument([]byte(text))
		if err != nil {
			return lines, fmt.Errorf("read example definition: %w", err)
		}
		var known bool
		err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM definitions WHERE name = $1)`, doc.Name).Scan(&known)
		if err != nil {
			return lines, translate("look for definition "+doc.Name, err)
		}
		state := "created"
		if known {
			state = "left as it is, for it was made before"
		} else if _, err := s.CreateDefinition(ctx, doc); errors.Is(err, definition.ErrNameTaken) {
			state = "left as it is, for it was made before"
		} else if err != nil {
			return lines, err
		}
		lines = append(lines, doc.Name+": "+state)
	}
	return lines, nil
}
