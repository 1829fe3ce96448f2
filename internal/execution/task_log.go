package execution

import (
	"context"

	"github.com/activity-core/activity-core/internal/definition"
)

// runLog writes the user's line to the worker's log. It has no output.
func (t *tasks) runLog(ctx context.Context, work *definition.TaskWork) ([]byte, error) {
	var with definition.LogTask
	if err := work.Task.Decode(&with); err != nil {
		return nil, undecodable(err)
	}
	t.log.InfoContext(ctx, "log task", "message", with.Message, "task", work.Task.Name, "run_id", work.Run.ID,
		"definition", work.Run.DefinitionName)
	return nil, nil
}
