package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/danielgtaylor/huma/v2"
)

const (
	problemType = "application/problem+json"

	// retryAfter is the answer to "when may I try again?" while the storage is away, in seconds.
	retryAfter = 2

	// statusClientGone stands in logs and metrics for an answer that nobody waits for.
	statusClientGone = 499
)

// Problem is the body of every error (RFC 9457).
type Problem struct {
	Type      string  `json:"type" doc:"What kind of problem it is: a path of this API that explains it. Stable; compare this, not the texts. More may be added."`
	Title     string  `json:"title" doc:"The kind in words, the same for all problems of the kind." example:"The request breaks a rule"`
	Status    int     `json:"status" doc:"The HTTP status." example:"422"`
	Detail    string  `json:"detail" doc:"What is wrong with this request, and what to do." example:"name: is required"`
	Errors    []Fault `json:"errors,omitempty" nullable:"false" doc:"Each field that is at fault."`
	RequestID string  `json:"request_id,omitempty" doc:"Also in the header X-Request-Id and in the server's log."`

	headers http.Header
}

// Fault says which field breaks which rule.
type Fault struct {
	Field   string `json:"field" doc:"The path of the field, as in tasks[2].with.url; body for the body as a whole." example:"name"`
	Rule    string `json:"rule" doc:"A stable word for the rule." example:"required"`
	Message string `json:"message" doc:"What is wrong and what would be right." example:"is required"`
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus tells huma the status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders tells huma the headers.
func (p *Problem) GetHeaders() http.Header { return p.headers }

// ContentType tells huma the content type.
func (p *Problem) ContentType(string) string { return problemType }

// huma makes errors by these two package variables, which are its only way to change their shape. They are set here once
// and for all, for every API of the process.
func init() {
	huma.NewError = func(status int, detail string, errs ...error) huma.StatusError {
		return humaProblem(status, detail, errs)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, detail string, errs ...error) huma.StatusError {
		p := humaProblem(status, detail, errs)
		p.RequestID = requestID(ctx.Context())
		return p
	}
}

// humaProblem is the problem for errors that huma collected. A problem of our own among them is the answer.
func humaProblem(status int, detail string, errs []error) *Problem {
	if status >= 500 {
		return newProblem(status, kindInternal, "%s", detail) // whatever errs hold is not for the client
	}
	p := newProblem(status, kindInvalid, "%s", detail)
	for _, err := range errs {
		var own *Problem
		if errors.As(err, &own) {
			return own
		}
		var d *huma.ErrorDetail
		if errors.As(err, &d) {
			field := d.Location
			for _, place := range []string{"query.", "path.", "header."} {
				field = strings.TrimPrefix(field, place)
			}
			p.Errors = append(p.Errors, Fault{Field: field, Rule: "value", Message: d.Message})
		}
	}
	return p
}

// newProblem makes a problem of a kind that problems.go explains.
func newProblem(status int, kind problemKind, format string, args ...any) *Problem {
	return &Problem{Type: kind.typeURI(), Title: kind.title(), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// invalidProblem answers bad input: 400 when it is not JSON at all, 422 when it breaks a rule.
func invalidProblem(err *definition.InvalidError) *Problem {
	named := definition.InvalidError{Fields: slices.Clone(err.Fields)}
	for i := range named.Fields {
		if named.Fields[i].Field == "" {
			named.Fields[i].Field = "body" // the document as a whole
		}
	}
	p := newProblem(http.StatusUnprocessableEntity, kindInvalid, "%s", named.Error())
	for _, f := range named.Fields {
		p.Errors = append(p.Errors, Fault(f))
		if f.Rule == "json" {
			p.Type, p.Status, p.Title = kindNotJSON.typeURI(), http.StatusBadRequest, kindNotJSON.title()
		}
	}
	return p
}

// nameTaken is the answer to a name that another definition has.
func nameTaken(name string) *Problem {
	const message = "%q is already the name of another definition; choose another name, or change that definition"
	p := newProblem(http.StatusConflict, kindNameTaken, "name: "+message, name)
	p.Errors = []Fault{{Field: "name", Rule: "unique", Message: fmt.Sprintf(message, name)}}
	return p
}

// notFound is the answer to an id that nothing has.
func notFound(what, id string) *Problem {
	return newProblem(http.StatusNotFound, kindNotFound, "there is no %s %s; it may have been deleted", what, id)
}

// missingRevision names the revision that was not found, and what there is instead.
func missingRevision(err error, definitionID string) error {
	var missed *definition.RevisionMissingError
	switch {
	case !errors.As(err, &missed):
		return missing(err, "definition", definitionID)
	case missed.Next == 0:
		return newProblem(http.StatusNotFound, kindNotFound, "there is no revision %d of definition %s: the newest is %d",
			missed.Revision, definitionID, missed.Newest)
	}
	return newProblem(http.StatusNotFound, kindRevisionGone, "revision %d of definition %s is so old that it was removed: of those from it on, "+
		"the oldest that is kept is %d; GET /activity-definitions/%s/revisions lists all that are", missed.Revision, definitionID,
		missed.Next, definitionID)
}

// problem turns a handler's error into the answer. What is our fault is logged here, once, and told in general words.
func (a *API) problem(ctx context.Context, err error) *Problem {
	var p *Problem
	var invalid *definition.InvalidError
	var revision *definition.RevisionError
	switch {
	case errors.As(err, &p):
	case errors.As(err, &revision):
		p = precondition(revision)
	case errors.Is(err, definition.ErrClaimLost):
		p = keyInUse(0)
	case errors.Is(err, definition.ErrOutcomeUnknown):
		a.log.LogAttrs(ctx, slog.LevelWarn, "it is not known whether a change was made",
			slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		p = outcomeUnknown(ctx)
	case errors.As(err, &invalid):
		p = invalidProblem(invalid)
	case errors.Is(err, definition.ErrNotFound):
		p = newProblem(http.StatusNotFound, kindNotFound, "there is nothing with this id; it may have been deleted")
	case errors.Is(err, definition.ErrNotStorable):
		p = invalidProblem(definition.Invalid("body", "not_storable",
			"holds something that cannot be stored, such as the character U+0000"))
	case errors.Is(err, ErrTemporal):
		a.log.LogAttrs(ctx, slog.LevelWarn, "request not served: Temporal does not answer",
			slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		p = newProblem(http.StatusServiceUnavailable, kindTemporalAway,
			"Temporal does not answer as it should at the moment; GET /readyz tells when it does, try again then")
		p.headers = http.Header{"Retry-After": {strconv.Itoa(retryAfter)}}
	case errors.Is(err, definition.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		a.log.LogAttrs(ctx, slog.LevelWarn, "request not served: storage is unavailable",
			slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		p = newProblem(http.StatusServiceUnavailable, kindUnavailable,
			"the storage does not answer at the moment; try again in %d seconds", retryAfter)
		p.headers = http.Header{"Retry-After": {strconv.Itoa(retryAfter)}}
	case errors.Is(err, context.Canceled):
		p = newProblem(statusClientGone, kindClientGone, "the client closed the request")
	default:
		a.log.LogAttrs(ctx, slog.LevelError, "request failed", slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		p = internalProblem()
	}
	p.RequestID = requestID(ctx)
	return p
}

// outcomeUnknown is the answer when the connection to the storage broke during a commit. Only a request with an Idempotency-Key is
// invited to try again.
func outcomeUnknown(ctx context.Context) *Problem {
	const what = "the connection to the storage broke while the change was being made, so that it may or may not " +
		"have been made: "
	if _, claimed := access.ClaimFrom(ctx); !claimed {
		return newProblem(http.StatusServiceUnavailable, kindOutcomeIsUnknown, what+"read what is there before you try again. With the header "+keyHeader+
			" trying again would be safe")
	}
	p := newProblem(http.StatusServiceUnavailable, kindOutcomeIsUnknown, what+"send the same request again with the same %s, which does it once", keyHeader)
	p.headers = http.Header{"Retry-After": {strconv.Itoa(retryAfter)}}
	return p
}

func internalProblem() *Problem {
	return newProblem(http.StatusInternalServerError, kindInternal,
		"something went wrong on our side; the server's log tells more under this request_id")
}

// write sends a problem outside of huma.
func (p *Problem) write(w http.ResponseWriter, r *http.Request) {
	p.RequestID = requestID(r.Context())
	for name, values := range p.headers {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = encodeJSON(w, p) // the client has gone
}

// writeProblem sends a problem from huma middleware.
func writeProblem(ctx huma.Context, p *Problem) {
	p.RequestID = requestID(ctx.Context())
	for name, values := range p.headers {
		ctx.SetHeader(name, strings.Join(values, ", "))
	}
	ctx.SetHeader("Content-Type", problemType)
	ctx.SetStatus(p.Status)
	if ctx.Method() != http.MethodHead {
		_ = encodeJSON(ctx.BodyWriter(), p) // the client has gone
	}
}

func encodeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
