package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/danielgtaylor/huma/v2"
)

// Tags of the OpenAPI document.
const (
	tagDefinitions = "Definitions"
	tagRevisions   = "Revisions"
	tagTimes       = "Times"
	tagRuns        = "Runs"
	tagBackfills   = "Backfills"
	tagEvents      = "Events"
	tagDeadLetters = "Dead letters"
	tagReplays     = "Replays"
	tagAccess      = "Access"
	tagAudit       = "Audit"
	tagOperations  = "Operations"
)

// routes declares the whole surface. Each path answers with and without a trailing slash, and HEAD wherever there is a
// GET (see middleware.go).
func (a *API) routes(health, ready http.Handler, origins []string) error {
	around, err := a.middleware(origins)
	if err != nil {
		return err
	}
	a.router.Use(around...)
	a.router.NotFound(a.routeNotFound)
	a.router.MethodNotAllowed(a.methodNotAllowed)
	a.huma.UseMiddleware(a.authorize, checkQuery, a.onlyOnce)
	defineSchemas(a.huma.OpenAPI().Components.Schemas)

	// Called by people, by deployment scripts and by the console.
	handle(a, "list-definitions", get("/activity-definitions/"), access.Viewer, "List definitions", tagDefinitions,
		"In the order of creation.", nil, a.listDefinitions)
	handle(a, "create-definition", post("/activity-definitions/", http.StatusCreated), access.Editor, "Create a definition", tagDefinitions,
		"Stores the definition and, for a cron or scheduled trigger, creates its Temporal Schedule before answering. When "+
			"Temporal does not answer in time, the definition is stored all the same and sync.state is pending.",
		createBody(), a.createDefinition, 400, 409, 413, 415)
	handle(a, "get-definition", get("/activity-definitions/{id}"), access.Viewer, "Get a definition", tagDefinitions,
		"", nil, a.getDefinition, 404)
	handle(a, "update-definition", put("/activity-definitions/{id}"), access.Editor, "Change fields of a definition", tagDefinitions,
		"Puts each top-level field that is given in the place of the old one; the others stay as they are. null resets a "+
			"field to its default. A change makes a new revision; a body that changes nothing does not.",
		replaceBody(), a.replaceDefinition, 400, 404, 409, 412, 413, 415)
	handle(a, "patch-definition", patch("/activity-definitions/{id}"), access.Editor, "Merge a patch into a definition", tagDefinitions,
		"JSON Merge Patch (RFC 7396): objects are merged member by member, lists are replaced, null removes. A trigger_config "+
			"with another trigger_type replaces the old one whole.",
		mergeBody(), a.mergeDefinition, 400, 404, 409, 412, 413, 415)
	handle(a, "delete-definition", del("/activity-definitions/{id}"), access.Editor, "Delete a definition", tagDefinitions,
		"Its schedule goes, its name becomes free, and its runs stay in the ledger.", nil, a.deleteDefinition, 404, 412)
	handle(a, "trigger-definition", post("/activity-definitions/{id}/trigger", http.StatusAccepted), access.Operator, "Run a definition now",
		tagDefinitions, "Each request is a run of its own, also while the definition is disabled. The body, if any, is the "+
			"run's input: one JSON value.",
		triggerBody(), a.triggerDefinition, 400, 404, 413, 415)
	handle(a, "pause-definition", post("/activity-definitions/{id}/pause", http.StatusOK), access.Operator, "Pause a definition", tagDefinitions,
		"Disables it: nothing is due by its trigger until it is resumed, and that time has no slots to make up for. The reason, "+
			"if any, is kept as pause_reason and shown in Temporal. Pausing a paused one changes the reason, if one is given.",
		pauseBody(), a.pauseDefinition, 400, 404, 412, 413, 415)
	handle(a, "resume-definition", post("/activity-definitions/{id}/resume", http.StatusOK), access.Operator, "Resume a definition", tagDefinitions,
		"Enables it, from now on.", nil, a.resumeDefinition, 400, 404, 412, 413, 415)
	handle(a, "list-revisions", get("/activity-definitions/{id}/revisions"), access.Viewer, "List the revisions of a definition", tagRevisions,
		"Newest first. Those of a deleted definition can still be read. Old ones are removed, but not those that runs have.", nil,
		a.listRevisions, 404)
	handle(a, "get-revision", get("/activity-definitions/{id}/revisions/{revision}"), access.Viewer, "Get a definition as it was", tagRevisions,
		"", nil, a.getRevision, 404)
	handle(a, "diff-revision", get("/activity-definitions/{id}/revisions/{revision}/diff"), access.Viewer, "Compare two revisions", tagRevisions,
		"What is different in the revision, compared with the one before it or another one. Tasks are compared by name.", nil,
		a.diffRevision, 404)
	handle(a, "rollback-definition", post("/activity-definitions/{id}/revisions/{revision}/rollback", http.StatusOK), access.Editor,
		"Go back to a revision", tagRevisions, "Makes a new revision with the document of an earlier one. enabled and pause_reason stay "+
			"as they are now. To go back to what is in force changes nothing.", nil, a.rollbackDefinition, 400, 404, 409, 412, 413, 415)
	handle(a, "next-fires", get("/activity-definitions/{id}/next-fires"), access.Viewer, "Tell when a definition is due", tagTimes,
		"The nominal times at which its runs are due, from now on; each of them gets its row in the ledger.", nil, a.nextFires,
		404, 409)
	handle(a, "preview-cron", post("/cron/preview", http.StatusOK), access.Viewer, "Tell when a cron expression is due", tagTimes,
		"Without storing anything. An expression that never fires is explained here; a definition that has one is refused.",
		previewBody(), a.previewCron, 400, 413, 415)
	handle(a, "backfill-definition", post("/activity-definitions/{id}/backfill", http.StatusAccepted), access.Operator,
		"Run the past slots of a definition", tagBackfills,
		"Makes a run for each slot in the range, by the revision in force now, oldest first and max_concurrent at a time, also "+
			"while the definition is disabled. One backfill of a definition is active at a time.",
		backfillBody(), a.backfillDefinition, 400, 404, 409, 413, 415)
	a.alsoAnswers("/activity-definitions/{id}/backfill", http.StatusOK, "The count of a dry run. Nothing is stored.")
	handle(a, "list-definition-backfills", get("/activity-definitions/{id}/backfills"), access.Viewer, "List the backfills of a definition",
		tagBackfills, "Newest first. The backfills of a deleted definition can still be read.", nil, a.listBackfills, 404)
	handle(a, "get-backfill", get("/backfills/{id}"), access.Viewer, "Get a backfill", tagBackfills,
		"With its progress; GET /runs?backfill_id= lists its runs.", nil, a.getBackfill, 404)
	handle(a, "cancel-backfill", post("/backfills/{id}/cancel", http.StatusOK), access.Operator, "Cancel a backfill", tagBackfills,
		"What has not begun never will; what runs goes on to its end. A backfill that has ended is answered as it is.", nil,
		a.cancelBackfill, 400, 404, 413, 415)
	handle(a, "list-definition-runs", get("/activity-definitions/{id}/runs"), access.Viewer, "List the runs of a definition", tagRuns,
		"Newest first. The runs of a deleted definition can still be read.", nil, a.listDefinitionRuns, 404)
	handle(a, "list-runs", get("/runs"), access.Viewer, "List runs", tagRuns, "Newest first, over all definitions.", nil, a.listRuns)
	handle(a, "get-run", get("/runs/{id}"), access.Viewer, "Get a run", tagRuns, "With its input, the results of its tasks, and what led to it.", nil,
		a.getRun, 404)
	handle(a, "get-run-task", get("/runs/{id}/tasks/{name}"), access.Viewer, "Get a task of a run", tagRuns,
		"With all that is kept of its input and output, and a page of its items.", nil, a.getTask, 404)

	// Called by operators who steer runs. What is asked for is written first, and then told to Temporal until it is done.
	handle(a, "cancel-run", post("/runs/{id}/cancel", http.StatusAccepted), access.Operator, "Cancel a run", tagRuns,
		"What has not begun ends at once. What runs is asked to end: its tasks are canceled first, and on_failure tasks are not done. "+
			"The answer is the run as it is then.", noteBody(), a.cancelRun, 400, 404, 409, 413, 415)
	handle(a, "terminate-run", post("/runs/{id}/terminate", http.StatusAccepted), access.Operator, "Terminate a run", tagRuns,
		"Ends it at once, whatever its tasks are doing: for a run that does not end when it is canceled.",
		noteBody(), a.terminateRun, 400, 404, 409, 413, 415)
	handle(a, "rerun-run", post("/runs/{id}/rerun", http.StatusAccepted), access.Operator, "Run a run again", tagRuns,
		"Makes a new run with the input of one that has ended: from the start by the revision in force, or, with from failed, by the "+
			"run's own revision without the tasks that succeeded or were skipped.", rerunBody(), a.rerunRun, 400, 404, 409, 413, 415)
	handle(a, "approve-task", post("/runs/{id}/tasks/{name}/approve", http.StatusAccepted), access.Operator, "Approve what a task waits for", tagRuns,
		"For a wait task with approval, while it waits. The first decision stands.", decideBody(), a.approveTask, 400, 404, 409, 413, 415)
	handle(a, "reject-task", post("/runs/{id}/tasks/{name}/reject", http.StatusAccepted), access.Operator, "Reject what a task waits for", tagRuns,
		"The task then has failed. The first decision stands.", decideBody(), a.rejectTask, 400, 404, 409, 413, 415)
	handle(a, "cancel-runs", post("/runs/cancel", http.StatusAccepted), access.Operator, "Cancel runs", tagRuns,
		"Those that have not ended and meet all that the filter names, oldest first and at most 1,000 at a time.", stopRunsBody(),
		a.cancelRuns, 400, 413, 415)
	a.alsoAnswers("/runs/cancel", http.StatusOK, "The count of a dry run. Nothing is changed.")
	handle(a, "terminate-runs", post("/runs/terminate", http.StatusAccepted), access.Operator, "Terminate runs", tagRuns,
		"Those that have not ended and meet all that the filter names, oldest first and at most 1,000 at a time.", stopRunsBody(),
		a.terminateRuns, 400, 413, 415)
	a.alsoAnswers("/runs/terminate", http.StatusOK, "The count of a dry run. Nothing is changed.")
	handle(a, "rerun-runs", post("/runs/rerun", http.StatusAccepted), access.Operator, "Run runs again", tagRuns,
		"Those that ended without success, meet all that the filter names and were not run again yet, oldest first and at most 1,000 at a "+
			"time. Without a status, those that failed or timed out. Runs of deleted definitions are left out.",
		rerunRunsBody(), a.rerunRuns, 400, 413, 415)
	a.alsoAnswers("/runs/rerun", http.StatusOK, "The count of a dry run. Nothing is changed.")

	// Called by people who ask why an event did, or did not, start something.
	handle(a, "test-event", post("/events/test", http.StatusOK), access.Viewer, "Tell what would become of an event", tagEvents,
		"Reads an event as a router does that gets it on the subject of its type, and matches it. Nothing is stored and nothing "+
			"is started. An event that would be a dead letter is an answer, too.",
		eventBodyDoc(), a.testEvent, 400, 415)
	handle(a, "get-event", get(eventsPath+"{event_id}"), access.Viewer, "Tell what became of an event", tagEvents,
		"Events that met no definition are known only where the router records them (ACTCORE_RECORD_UNMATCHED=true).", nil,
		a.getEvent, 404)

	// Called by operators, about events that were not routed, or not as they should have been.
	handle(a, "list-dead-letters", wide(get("/dead-letters")), access.Viewer, "List dead letters", tagDeadLetters,
		"Newest first.", nil, a.listDeadLetters)
	handle(a, "get-dead-letter", wide(get("/dead-letters/{id}")), access.Viewer, "Get a dead letter", tagDeadLetters,
		"With what is kept of its headers and data.", nil, a.getDeadLetter, 404)
	handle(a, "retry-dead-letter", wide(post("/dead-letters/{id}/retry", http.StatusAccepted)), access.Operator, "Route a dead letter again",
		tagDeadLetters, "Asks a router to route an open one again, for the definitions of that moment. If it still cannot be routed, "+
			"it is open again, with the reason of that try.", nil, a.retryDeadLetter, 400, 404, 409, 413, 415)
	handle(a, "discard-dead-letter", wide(post("/dead-letters/{id}/discard", http.StatusOK)), access.Operator, "Discard a dead letter", tagDeadLetters,
		"Marks an open one as of no use. It stays readable. A discarded one is answered as it is.", nil,
		a.discardDeadLetter, 400, 404, 409, 413, 415)
	handle(a, "retry-dead-letters", wide(post("/dead-letters/retry", http.StatusAccepted)), access.Operator, "Route dead letters again", tagDeadLetters,
		"Those that are open and meet all that the body names.", moveDeadLettersBody(), a.retryDeadLetters, 400, 413, 415)
	a.alsoAnswers("/dead-letters/retry", http.StatusOK, "The count of a dry run. Nothing is changed.")
	handle(a, "discard-dead-letters", wide(post("/dead-letters/discard", http.StatusOK)), access.Operator, "Discard dead letters", tagDeadLetters,
		"Those that are open and meet all that the body names.", moveDeadLettersBody(), a.discardDeadLetters, 400, 413, 415)
	handle(a, "create-replay", post("/replays", http.StatusAccepted), access.Operator, "Route events of the past again", tagReplays,
		"A router reads the events that the stream still holds and makes runs for the named definitions, as they are now, also "+
			"while they are disabled. What has run is left alone. It counts first; a dry run ends there. One replay of a "+
			"definition is active at a time, dry runs aside.",
		replayBody(), a.createReplay, 400, 409, 413, 415)
	handle(a, "list-replays", get("/replays"), access.Viewer, "List replays", tagReplays, "Newest first.", nil, a.listReplays)
	handle(a, "get-replay", get("/replays/{id}"), access.Viewer, "Get a replay", tagReplays,
		"With its progress; GET /runs?replay_id= lists its runs.", nil, a.getReplay, 404)
	handle(a, "cancel-replay", post("/replays/{id}/cancel", http.StatusOK), access.Operator, "Cancel a replay", tagReplays,
		"A router stops at its next step; the runs that were made go on. A replay that has ended is answered as it is.", nil,
		a.cancelReplay, 400, 404, 413, 415)

	// Called by people who ask who did something.
	handle(a, "list-audit", get("/audit"), access.Operator, "List what was done", tagAudit,
		"Newest first: every change that was asked for, with who asked and from where. Callers that are limited to some definitions see "+
			"what was done to these.", nil, a.listAudit)
	handle(a, "get-audit-entry", get("/audit/{id}"), access.Operator, "Get an entry of the audit trail", tagAudit,
		"With what was before and what after and, for a definition, the differences.", nil, a.getAudit, 404)

	// Called by operators, after something was changed or restored behind the back of the service.
	handle(a, "sync-schedules", wide(post(fullSyncPath, http.StatusOK)), access.Operator, "Compare all schedules", tagOperations,
		"Brings every Temporal Schedule in line with its definition, as sync-schedules does and as every worker does every few "+
			"minutes. Schedules that fail are part of the answer. It takes up to 5 minutes; what did not happen by then is left to "+
			"the workers, and complete is false.", nil, a.syncAll, 409)

	// Called by admins, who give access to others, and by anybody who asks what they may do.
	handle(a, "create-token", secret(wide(post("/tokens", http.StatusCreated))), access.Admin, "Make a token", tagAccess,
		"The token is in this answer alone: only a hash of it is stored.", tokenBody(), a.createToken, 400, 413, 415)
	handle(a, "list-tokens", wide(get("/tokens")), access.Admin, "List tokens", tagAccess, "Newest first, also those that have ended.", nil,
		a.listTokens)
	handle(a, "get-token", wide(get("/tokens/{id}")), access.Admin, "Get a token", tagAccess, "What it is good for; not the token itself.", nil,
		a.getToken, 404)
	handle(a, "rotate-token", secret(wide(post("/tokens/{id}/rotate", http.StatusCreated))), access.Admin, "Rotate a token", tagAccess,
		"Makes a token that is the same caller's, and good for as long as the old one was when it was made. The old one ends after the "+
			"overlap, if it would not end sooner. The new one is in this answer alone.", rotateBody(), a.rotateToken, 400, 404, 409, 413, 415)
	handle(a, "revoke-token", wide(post("/tokens/{id}/revoke", http.StatusOK)), access.Admin, "Revoke a token", tagAccess,
		"Every service refuses it within five seconds. What it was rotated into stays good. A revoked one is answered as it is.", nil,
		a.revokeToken, 400, 404, 413, 415)
	handle(a, "whoami", get("/whoami"), access.Viewer, "Tell who calls", tagAccess, "What the credential of this request is good for.", nil,
		a.whoami)

	// Called by the platform.
	a.plain("health", "/healthz", "Is the process alive?", "200 while the process runs.", health)
	a.plain("ready", "/readyz", "Can the process do its whole job now?",
		"200 when it can; 503 with what is missing when it cannot.", ready, http.StatusServiceUnavailable)

	for _, s := range a.huma.OpenAPI().Components.Schemas.Map() {
		allowNull(s)
	}

	// Called by browsers and by code generators. Not part of the document that they serve.
	if err := a.serveDocument("/openapi.json", "/openapi.yaml"); err != nil {
		return fmt.Errorf("write the OpenAPI document: %w", err)
	}
	if err := a.serveDocs("/docs"); err != nil {
		return err
	}
	return a.serveProblems()
}

func get(path string) huma.Operation   { return huma.Operation{Method: http.MethodGet, Path: path} }
func put(path string) huma.Operation   { return huma.Operation{Method: http.MethodPut, Path: path} }
func patch(path string) huma.Operation { return huma.Operation{Method: http.MethodPatch, Path: path} }
func del(path string) huma.Operation   { return huma.Operation{Method: http.MethodDelete, Path: path} }

func post(path string, success int) huma.Operation {
	return huma.Operation{Method: http.MethodPost, Path: path, DefaultStatus: success}
}

// wide marks an operation that is not about definitions: it is closed to callers that are limited to some of them.
func wide(op huma.Operation) huma.Operation {
	op.Extensions = map[string]any{wideExtension: true}
	return op
}

// secret marks an operation whose answer shows something that is kept nowhere.
func secret(op huma.Operation) huma.Operation {
	op.Extensions[secretExtension] = true
	return op
}

// handle registers one operation for callers with a role. The codes are those of its errors besides 401, 403, 422, 429, 500 and 503,
// which every one has.
//
// The body is only documented here: handlers read it themselves (see body.go), because huma would read, decode and refuse
// it first, in words of its own.
func handle[I, O any](a *API, id string, op huma.Operation, role access.Role, summary, tag, text string, body *huma.RequestBody,
	serve func(context.Context, *I) (*O, error), codes ...int) {
	op.OperationID, op.Summary, op.Description, op.Tags = id, summary, text, []string{tag}
	op.Errors = append(codes, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity, http.StatusTooManyRequests,
		http.StatusServiceUnavailable)
	op.Security = []map[string][]string{{bearerScheme: {}}}
	if op.Extensions == nil {
		op.Extensions = map[string]any{}
	}
	op.Extensions[roleExtension] = role
	documentKey(&op)
	op.SkipValidateParams = true // handlers check them, so that faults have a rule and plain words
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := serve(ctx, in)
		if err != nil {
			return nil, a.problem(ctx, err)
		}
		return out, nil
	})
	item := a.huma.OpenAPI().Paths[op.Path]
	for _, documented := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
		documentHeaders(documented)
	}
	if body == nil {
		return
	}
	switch op.Method {
	case http.MethodPost:
		item.Post.RequestBody = body
	case http.MethodPut:
		item.Put.RequestBody = body
	case http.MethodPatch:
		item.Patch.RequestBody = body
	}
}

// documentHeaders adds the headers that answers may have whatever the operation.
func documentHeaders(op *huma.Operation) {
	if op == nil {
		return
	}
	for code, response := range op.Responses {
		headers := map[string]*huma.Param{}
		switch {
		case code == "429", code == "503", code == "409" && keyed(op):
			headers["Retry-After"] = &huma.Param{Description: "The seconds after which the same request may be answered; left out where " +
				"sending it again is no help, or not safe.", Schema: &huma.Schema{Type: huma.TypeInteger, Minimum: new(1.0)}}
		case code[0] == '2' && keyed(op):
			headers[replayedHeader] = &huma.Param{Description: "true: the answer to an earlier request with the same " + keyHeader + ".",
				Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"true"}}}
		}
		if response.Headers == nil {
			response.Headers = map[string]*huma.Param{}
		}
		maps.Copy(response.Headers, headers)
	}
}

// alsoAnswers documents a second successful status of a POST, with the body of the first.
func (a *API) alsoAnswers(path string, status int, text string) {
	responses := a.huma.OpenAPI().Paths[path].Post.Responses
	for code, r := range responses {
		if code[0] == '2' {
			responses[fmt.Sprint(status)] = &huma.Response{Description: text, Content: r.Content, Headers: r.Headers}
			return
		}
	}
}

// plain registers a handler that is not ours and documents it.
func (a *API) plain(id, path, summary, text string, h http.Handler, codes ...int) {
	op := get(path)
	op.OperationID, op.Summary, op.Description, op.Tags = id, summary, text, []string{tagOperations}
	op.Responses = map[string]*huma.Response{"200": {Description: http.StatusText(http.StatusOK)}}
	for _, code := range codes {
		op.Responses[fmt.Sprint(code)] = &huma.Response{Description: http.StatusText(code)}
	}
	a.huma.OpenAPI().AddOperation(&op)
	a.router.Get(path, h.ServeHTTP)
}
