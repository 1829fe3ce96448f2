package api

import (
	"context"
	"log/slog"
	"net/http"
)

// fullSyncPath is the one route that may take longer than requestTimeout (see withDeadline).
const fullSyncPath = "/admin/sync"

type fullSyncInput struct {
	DryRun boolParam `query:"dry_run" doc:"true: change nothing, only tell what would be done. Default false."`
}

type fullSyncOutput struct {
	Body SyncResult
}

// syncAll runs one comparison at a time: a second one would find what the first is about to change.
func (a *API) syncAll(ctx context.Context, in *fullSyncInput) (*fullSyncOutput, error) {
	var f faults
	dryRun := in.DryRun.parse("dry_run", &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	if !a.fullSync.TryLock() {
		return nil, newProblem(http.StatusConflict, kindSyncRunning,
			"this process is comparing all schedules already; ask again when that has ended, in %s at the latest", a.fullSyncLimit)
	}
	defer a.fullSync.Unlock()
	if dryRun == nil || !*dryRun {
		if err := a.store.RecordSync(ctx); err != nil {
			return nil, err
		}
	}
	result, err := a.fullSyncer.SyncAll(ctx, dryRun != nil && *dryRun)
	if err != nil {
		return nil, err
	}
	result.DryRun = dryRun != nil && *dryRun
	if result.Failures == nil {
		result.Failures = []SyncFailure{}
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "compared all schedules on request", slog.String("request_id", requestID(ctx)),
		slog.Bool("dry_run", result.DryRun), slog.Bool("complete", result.Complete), slog.Int("failed", result.Failed))
	return &fullSyncOutput{Body: result}, nil
}
