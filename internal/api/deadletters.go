package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

type deadLetterIDInput struct {
	ID string `path:"id" format:"uuid" doc:"The dead letter's id."`
}

type deadLetterOutput struct {
	Body DeadLetter
}

type moveDeadLetterInput struct {
	fieldsBody[struct{}]
	ID string `path:"id" format:"uuid" doc:"The dead letter's id."`
}

type listDeadLettersInput struct {
	Limit   limitParam            `query:"limit" doc:"How many to return at most."`
	Cursor  string                `query:"cursor" doc:"next_cursor of the page before, with the same filters."`
	Reason  rejectReasonParam     `query:"reason" doc:"Only those with this reason."`
	EventID eventIDParam          `query:"event_id" doc:"Only those of this event."`
	Status  deadLetterStatusParam `query:"status" doc:"Only those with this status."`
	From    timeParam             `query:"from" doc:"Only those that were stored then or later."`
	To      timeParam             `query:"to" doc:"Only those that were stored before."`
}

type deadLetterListOutput struct {
	Body DeadLetterList
}

type moveDeadLettersInput struct {
	fieldsBody[deadLetterFields]
}

type deadLetterFields struct {
	Reason *string    `json:"reason"`
	From   *time.Time `json:"from"`
	To     *time.Time `json:"to"`
	DryRun bool       `json:"dry_run"`
}

// deadLettersMovedOutput answers 200, and 202 where routers have still to do what was asked for.
type deadLettersMovedOutput struct {
	Status int
	Body   DeadLetterCount
}

func (a *API) listDeadLetters(ctx context.Context, in *listDeadLettersInput) (*deadLetterListOutput, error) {
	var f faults
	limit := in.Limit.parse(&f)
	query := definition.ListDeadLetters{
		SelectDeadLetters: definition.SelectDeadLetters{
			Reason:  in.Reason.parse(&f),
			EventID: in.EventID.parse("event_id", &f),
			Status:  in.Status.parse(&f),
			From:    in.From.parse("from", &f),
			To:      in.To.parse("to", &f),
		},
		Limit: limit + 1, // one more tells whether there is a next page
	}
	checkRange(query.From, query.To, &f)
	place := cursor{list: "dead-letters", filters: url.Values{
		"reason": {string(in.Reason)}, "event_id": {string(in.EventID)}, "status": {string(in.Status)},
		"from": {string(in.From)}, "to": {string(in.To)},
	}.Encode()}
	query.BeforeSeq = place.parse(in.Cursor, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	rows, err := a.store.ListDeadLetters(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, next := nextCursor(rows, limit, place, func(l definition.StoredDeadLetter) int64 { return l.Seq })
	return &deadLetterListOutput{Body: DeadLetterList{Items: deadLetterSummaries(rows), NextCursor: next}}, nil
}

func (a *API) getDeadLetter(ctx context.Context, in *deadLetterIDInput) (*deadLetterOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	letter, err := a.store.GetDeadLetter(ctx, id)
	if err != nil {
		return nil, missing(err, "dead letter", id)
	}
	return &deadLetterOutput{Body: deadLetterJSON(letter)}, nil
}

// retryDeadLetter only asks for it: a router routes the message.
func (a *API) retryDeadLetter(ctx context.Context, in *moveDeadLetterInput) (*deadLetterOutput, error) {
	return a.moveDeadLetter(ctx, in.ID, a.store.RetryDeadLetters, "")
}

func (a *API) discardDeadLetter(ctx context.Context, in *moveDeadLetterInput) (*deadLetterOutput, error) {
	return a.moveDeadLetter(ctx, in.ID, a.store.DiscardDeadLetters, definition.DeadLetterDiscarded)
}

// moveOpen is the storage's retry or discard of the open ones.
type moveOpen func(ctx context.Context, which definition.SelectDeadLetters, dryRun bool) (int, error)

// moveDeadLetter moves one dead letter that is open. One that has the status already is answered as it is.
func (a *API) moveDeadLetter(ctx context.Context, idText string, move moveOpen,
	already definition.DeadLetterStatus) (*deadLetterOutput, error) {
	id, err := definition.ParseID(idText)
	if err != nil {
		return nil, err
	}
	moved := madeBefore(ctx) != ""
	if !moved {
		n, err := move(ctx, definition.SelectDeadLetters{ID: id}, false)
		if err != nil {
			return nil, err
		}
		moved = n > 0
	}
	letter, err := a.store.GetDeadLetter(ctx, id)
	if err != nil {
		return nil, missing(err, "dead letter", id)
	}
	if !moved && letter.Status != already {
		return nil, notOpen(letter)
	}
	return &deadLetterOutput{Body: deadLetterJSON(letter)}, nil
}

// notOpen is the answer to moving a dead letter about which somebody has done something already.
func notOpen(l definition.StoredDeadLetter) *Problem {
	const kind = kindDeadLetterNotOpen
	what := ""
	switch l.Status {
	case definition.DeadLetterRetrying:
		what = "wait until a router has routed it, which GET /dead-letters/" + l.ID + " tells"
	case definition.DeadLetterRouted:
		what = "a retry has routed it, so that nothing is left to do"
	case definition.DeadLetterDiscarded:
		what = "publish the event again if it is wanted after all"
	default:
		// A retry failed between the two questions.
		return newProblem(http.StatusConflict, kind, "dead letter %s was being retried until now: try again", l.ID)
	}
	return newProblem(http.StatusConflict, kind, "dead letter %s is %s, and only an open one can be retried or discarded: %s",
		l.ID, l.Status, what)
}

func (in *moveDeadLettersInput) selection() (definition.SelectDeadLetters, error) {
	var f faults
	var sel definition.SelectDeadLetters
	given := in.given
	if given.Reason == nil && given.From == nil && given.To == nil {
		f.add("body", "required", "must name which dead letters are meant: at least one of reason, from and to")
	}
	if given.Reason != nil {
		if *given.Reason == "" {
			f.add("reason", "not_empty", "is empty: give it a value or leave it out")
		}
		sel.Reason = oneOf("reason", *given.Reason, definition.RejectReasons, &f)
	}
	if given.From != nil {
		sel.From = given.From.UTC()
	}
	if given.To != nil {
		sel.To = given.To.UTC()
	}
	checkRange(sel.From, sel.To, &f)
	if err := f.err(); err != nil {
		return sel, err
	}
	return sel, nil
}

func (a *API) retryDeadLetters(ctx context.Context, in *moveDeadLettersInput) (*deadLettersMovedOutput, error) {
	out, err := moveDeadLetters(ctx, in, a.store.RetryDeadLetters)
	if err == nil && !in.given.DryRun {
		out.Status = http.StatusAccepted
	}
	return out, err
}

func (a *API) discardDeadLetters(ctx context.Context, in *moveDeadLettersInput) (*deadLettersMovedOutput, error) {
	return moveDeadLetters(ctx, in, a.store.DiscardDeadLetters)
}

func moveDeadLetters(ctx context.Context, in *moveDeadLettersInput, move moveOpen) (*deadLettersMovedOutput, error) {
	sel, err := in.selection()
	if err != nil {
		return nil, err
	}
	n, err := move(ctx, sel, in.given.DryRun)
	if err != nil {
		return nil, err
	}
	return &deadLettersMovedOutput{Status: http.StatusOK, Body: DeadLetterCount{Count: n, DryRun: in.given.DryRun}}, nil
}

// checkRange refuses a range that holds nothing because its ends are swapped. Zero times leave it open.
func checkRange(from, to time.Time, f *faults) {
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		f.add("to", "after_from", "must not be before from")
	}
}

func deadLetterSummaries(letters []definition.StoredDeadLetter) []DeadLetterSummary {
	out := make([]DeadLetterSummary, len(letters))
	for i, l := range letters {
		out[i] = deadLetterSummaryJSON(l)
	}
	return out
}

func deadLetterSummaryJSON(l definition.StoredDeadLetter) DeadLetterSummary {
	return DeadLetterSummary{
		ID: l.ID, Status: deadLetterStatus(l.Status), Reason: rejectReason(l.Reason), Detail: l.Detail, EventID: optional(l.EventID),
		Subject: l.Subject, Stream: l.Stream, StreamSeq: l.StreamSeq, PublishedAt: l.PublishedAt.UTC(), DataSize: l.DataSize,
		Deliveries: l.Deliveries, Retries: l.Retries, Runs: l.Runs, CreatedAt: l.CreatedAt.UTC(), SettledAt: utc(l.SettledAt),
	}
}

func deadLetterJSON(l definition.StoredDeadLetter) DeadLetter {
	out := DeadLetter{DeadLetterSummary: deadLetterSummaryJSON(l), Headers: l.Header, DataTruncated: len(l.Data) < l.DataSize}
	if out.Headers == nil {
		out.Headers = map[string][]string{}
	}
	if text, ok := textOf(l.Data, out.DataTruncated); ok {
		out.Data = &text
	} else {
		encoded := base64.StdEncoding.EncodeToString(l.Data)
		out.DataBase64 = &encoded
	}
	return out
}
