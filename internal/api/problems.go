package api

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/negotiation"
	"github.com/go-chi/chi/v5"
)

// problemsPath is where the kinds of problems are explained. The type of a problem is a path below it: a reference that RFC 9457
// allows, and that every installation can answer by itself, whatever name it is reached by.
const problemsPath = "/problems/"

// problemKind is the last part of a problem's type. Clients compare it, so a kind keeps its name and its meaning for ever.
type problemKind string

// typeURI is the type of a problem of this kind.
func (k problemKind) typeURI() string { return problemsPath + string(k) }

// title is the kind in words, the same in every problem of the kind.
func (k problemKind) title() string {
	for i := range problemKinds {
		if problemKinds[i].Kind == k {
			return problemKinds[i].Title
		}
	}
	return string(k) // TestProblemKinds finds those that are not in the table
}

// The kinds of problems.
const (
	kindNotJSON        problemKind = "not-json"
	kindUnreadableBody problemKind = "unreadable-body"
	kindUnauthorized   problemKind = "unauthorized"
	kindForbidden      problemKind = "forbidden"
	kindCrossOrigin    problemKind = "cross-origin"
	kindNotFound       problemKind = "not-found"
	kindNoSuchRoute    problemKind = "no-such-route"
	kindRevisionGone   problemKind = "revision-gone"
	kindMethod         problemKind = "method-not-allowed"
	kindSlowBody       problemKind = "slow-body"

	kindNameTaken          problemKind = "name-taken"
	kindTooManyDefinitions problemKind = "too-many-definitions"
	kindDefinitionDeleted  problemKind = "definition-deleted"
	kindNoSlots            problemKind = "no-slots"
	kindBackfillActive     problemKind = "backfill-active"
	kindReplayActive       problemKind = "replay-active"
	kindSyncRunning        problemKind = "sync-running"
	kindDeadLetterNotOpen  problemKind = "dead-letter-not-open"
	kindRunEnded           problemKind = "run-ended"
	kindRunOpen            problemKind = "run-open"
	kindRunNotFailed       problemKind = "run-not-failed"
	kindNotWaiting         problemKind = "not-waiting"
	kindDecided            problemKind = "decided"
	kindTokenAlreadyShown  problemKind = "token-already-shown"
	kindTokenEnded         problemKind = "token-ended"
	kindTokenRotated       problemKind = "token-rotated"
	kindKeyInUse           problemKind = "idempotency-key-in-use"

	kindPrecondition     problemKind = "precondition-failed"
	kindTooLarge         problemKind = "too-large"
	kindMediaType        problemKind = "unsupported-media-type"
	kindInvalid          problemKind = "invalid"
	kindKeyReused        problemKind = "idempotency-key-reused"
	kindTooManyRequests  problemKind = "too-many-requests"
	kindHeadersTooLarge  problemKind = "headers-too-large"
	kindClientGone       problemKind = "client-gone"
	kindInternal         problemKind = "internal"
	kindUnavailable      problemKind = "unavailable"
	kindTemporalAway     problemKind = "temporal-unavailable"
	kindOutcomeIsUnknown problemKind = "outcome-unknown"
)

// ProblemKind explains a kind of problem, as GET /problems does.
type ProblemKind struct {
	Type     string      `json:"type"`
	Kind     problemKind `json:"kind"`
	Title    string      `json:"title"`
	Statuses []int       `json:"statuses"`
	// Meaning says what has happened, Remedy what the caller should do. Both are plain text.
	Meaning string `json:"meaning"`
	Remedy  string `json:"what_to_do"`
}

func describe(k problemKind, status int, title, meaning, remedy string) ProblemKind {
	return ProblemKind{Type: k.typeURI(), Kind: k, Title: title, Statuses: []int{status}, Meaning: meaning, Remedy: remedy}
}

// problemKinds are all kinds, in the order of their statuses. The pages of the API, docs/problems.md and the examples of the OpenAPI
// document are made of it.
var problemKinds = []ProblemKind{
	describe(kindNotJSON, http.StatusBadRequest, "The body is not JSON",
		"The body is not one well-formed JSON value. The detail says at which byte it goes wrong.",
		"Send valid JSON, in UTF-8, and nothing after it."),
	describe(kindUnreadableBody, http.StatusBadRequest, "The body could not be read",
		"The body ended before its announced length, or its encoding is broken. Nothing was changed.",
		"Send the request again. When it happens always, look at what lies between you and the API, such as a proxy."),
	describe(kindUnauthorized, http.StatusUnauthorized, "A valid credential is needed",
		"The request has no credential, or one that is malformed, unknown, expired or revoked. The detail says which.",
		"Send the header Authorization: Bearer, a blank and the token. Ask an administrator for a new token when yours has ended."),
	describe(kindForbidden, http.StatusForbidden, "The caller may not do this",
		"The API knows who calls, but the role or the labels of the credential do not allow this operation. The detail says what is needed.",
		"Use a credential with the needed role, or ask an administrator for one. Sending the request again does not help."),
	describe(kindCrossOrigin, http.StatusForbidden, "A page of another origin may not change anything",
		"A browser sent a request that changes something from a page of another origin. Nothing was changed.",
		"Call the API from its own origin, or from outside a browser."),
	describe(kindNotFound, http.StatusNotFound, "There is nothing with this id",
		"What the path names does not exist, was deleted or removed by the retention, or lies outside of the labels that the caller is "+
			"limited to. These are not told apart, so that nobody learns what others have.",
		"Check the id, and that the credential is the right one."),
	describe(kindNoSuchRoute, http.StatusNotFound, "There is no such route",
		"No operation of the API has this path.",
		"Compare the path with the list at /docs or in /openapi.json."),
	describe(kindRevisionGone, http.StatusNotFound, "The revision is not kept any more",
		"The definition exists, but this revision of it never did, or was removed after nothing needed it any more.",
		"List the revisions of the definition, and take one of those."),
	describe(kindMethod, http.StatusMethodNotAllowed, "The method is not possible here",
		"The path exists, but not with this method.",
		"Use one of the methods that the header Allow of the answer names."),
	describe(kindSlowBody, http.StatusRequestTimeout, "The body took too long",
		"The body did not arrive within the time that a request may take. Nothing was changed.",
		"Send the request again, over a faster connection."),

	describe(kindNameTaken, http.StatusConflict, "The name is taken",
		"Another definition has this name. Names are unique among the definitions that are not deleted.",
		"Choose another name, or change the definition that has it."),
	describe(kindTooManyDefinitions, http.StatusConflict, "The caller has too many definitions",
		"The token may have made only so many definitions that are not deleted, and has made them.",
		"Delete definitions that are not needed any more, or ask an administrator for a higher limit."),
	describe(kindDefinitionDeleted, http.StatusConflict, "The definition was deleted",
		"The definition that this would need was deleted. Its runs stay in the ledger.",
		"Create the definition anew, and use that one."),
	describe(kindNoSlots, http.StatusConflict, "The definition has no times of its own",
		"The definition has an event or a manual trigger, so that there are no times at which it is due.",
		"Ask this of definitions with a cron or a scheduled trigger only."),
	describe(kindBackfillActive, http.StatusConflict, "A backfill is active already",
		"One backfill of a definition is active at a time, and one is.",
		"Wait until it has ended, or cancel it. The detail names it."),
	describe(kindReplayActive, http.StatusConflict, "A replay is active already",
		"One replay of a definition is active at a time, dry runs aside, and one is.",
		"Wait until it has ended, or cancel it. The detail names it."),
	describe(kindSyncRunning, http.StatusConflict, "A comparison of all schedules is running",
		"One comparison of all schedules runs at a time in a process, and one is running.",
		"Wait until it has ended; it does what this one would have done."),
	describe(kindDeadLetterNotOpen, http.StatusConflict, "The dead letter is not open",
		"Only an open dead letter can be retried or discarded, and somebody has done something about this one already.",
		"Read the detail: it says what has become of it, and what is possible now."),
	describe(kindRunEnded, http.StatusConflict, "The run has ended",
		"The run has ended already, so that nothing is left to stop.",
		"Nothing has to be done. GET the run to see how it ended."),
	describe(kindRunOpen, http.StatusConflict, "The run has not ended",
		"Only a run that has ended can be run again.",
		"Wait for its end, or cancel it first."),
	describe(kindRunNotFailed, http.StatusConflict, "The run did not fail",
		"The run succeeded or never began, so that there is no failed task to go on from.",
		"Run it again from the start, if that is what is wanted."),
	describe(kindNotWaiting, http.StatusConflict, "The task does not wait for approval",
		"Only a wait task with approval can be approved or rejected, and only while it waits.",
		"Read the detail: it says what the task does instead. Try again later if its turn is still to come."),
	describe(kindDecided, http.StatusConflict, "The task was decided already",
		"Somebody approved or rejected the task before. The first decision stands.",
		"Nothing can be done about this decision. The detail says who made it, and when."),
	describe(kindTokenAlreadyShown, http.StatusConflict, "The token was shown already",
		"A request with this Idempotency-Key made the token before. Its text was shown in the first answer and is not kept, so that it "+
			"cannot be shown again.",
		"When the first answer is lost, rotate the token, or revoke it and make another one with a new key."),
	describe(kindTokenEnded, http.StatusConflict, "The token has ended",
		"The token has expired or was revoked, so that there is nothing to rotate.",
		"Make a new token."),
	describe(kindTokenRotated, http.StatusConflict, "The token was rotated already",
		"The token has a successor that is good. The detail names it.",
		"Use the successor. When its text was lost, revoke it, and rotate this one again or make a new token."),
	describe(kindKeyInUse, http.StatusConflict, "A request with this Idempotency-Key is being served",
		"Another request with the same Idempotency-Key has not been answered yet.",
		"Send the same request again, with the same key, after the time in Retry-After: it then gets the answer of the first."),

	describe(kindPrecondition, http.StatusPreconditionFailed, "It has changed since it was read",
		"The header If-Match names another revision than the present one: somebody changed it meanwhile. Nothing was changed.",
		"Read it again, apply your change to what it is now, and send that with the new ETag."),
	describe(kindTooLarge, http.StatusRequestEntityTooLarge, "The body is too large",
		"The body has more bytes than this operation takes. The detail names the limit.",
		"Send less. Large data belongs somewhere else, with a reference to it here."),
	describe(kindMediaType, http.StatusUnsupportedMediaType, "The body's type is not understood",
		"The header Content-Type names something else than this operation takes, or the body is compressed.",
		"Send JSON with the header Content-Type: application/json, uncompressed. The detail names all types that are possible."),
	describe(kindInvalid, http.StatusUnprocessableEntity, "The request breaks a rule",
		"The request can be read, but a field of its body or a parameter is not allowed as it is. The member errors names each field at "+
			"fault with the rule that it breaks. Nothing was changed.",
		"Change the named fields. The same request would fail again."),
	describe(kindKeyReused, http.StatusUnprocessableEntity, "The Idempotency-Key belongs to another request",
		"A request with this Idempotency-Key came within the last 24 hours, and it had another path or another body. Nothing was changed.",
		"Use a new key for each new request, and the same key only to send the very same request again."),
	describe(kindTooManyRequests, http.StatusTooManyRequests, "Too many requests",
		"The caller or its address has made more requests than it may. The detail says which limit was met. Nothing was changed.",
		"Wait for the seconds in Retry-After, and then send the request again. Spread requests out; an administrator can raise the limits."),
	describe(kindHeadersTooLarge, http.StatusRequestHeaderFieldsTooLarge, "The headers are too large",
		"The request's first line and its headers together have more than 64 KiB. Beyond 128 KiB the answer is a bare 431, without a body like this.",
		"Send fewer or shorter headers and query parameters."),
	describe(kindClientGone, 499, "The client closed the request",
		"The client went away before the answer was ready. This is seen in logs and metrics only.",
		"When it changed something, it may have happened or not: ask before sending it again, or use an Idempotency-Key."),
	describe(kindInternal, http.StatusInternalServerError, "Something went wrong on our side",
		"The API failed in a way that it was not prepared for. The log has the cause, under the request_id of the answer.",
		"Tell the operators the request_id. Sending the request again may help, but need not."),
	describe(kindUnavailable, http.StatusServiceUnavailable, "The storage does not answer",
		"Postgres is away or does not answer in time. What the request asked for was not done, or it is not known to be.",
		"Send the request again after the seconds in Retry-After, with the same Idempotency-Key if it changes something."),
	describe(kindTemporalAway, http.StatusServiceUnavailable, "Temporal does not answer",
		"This operation needs Temporal, which is away or not set up. Most operations do not need it.",
		"Try again when GET /readyz answers 200."),
	describe(kindOutcomeIsUnknown, http.StatusServiceUnavailable, "It is not known whether it happened",
		"The connection to Postgres broke while the change was being written. It was either done as a whole or not at all.",
		"Send the same request again with the same Idempotency-Key, which makes it happen once. Without a key, read first what is there."),
}

// TransformSchema lists the known types in the OpenAPI document. They are examples and no closed list, so that a new kind breaks no
// client.
func (*Problem) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Properties["type"].Examples = nil
	for _, k := range problemKinds {
		s.Properties["type"].Examples = append(s.Properties["type"].Examples, k.Type)
	}
	s.Properties["type"].Format = "uri-reference"
	return s
}

// problemsPage shows one kind, or all of them when it is not given any.
var problemsPage = template.Must(template.New("problems").Parse(`<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>{{with .One}}{{.Title}}{{else}}Problems{{end}} – activity-core API</title>
</head>
<body>
{{- with .One}}
  <h1>{{.Title}}</h1>
  <p>Type <code>{{.Type}}</code>, status {{range $i, $s := .Statuses}}{{if $i}} or {{end}}{{$s}}{{end}}.</p>
  <h2>What it means</h2>
  <p>{{.Meaning}}</p>
  <h2>What to do</h2>
  <p>{{.Remedy}}</p>
  <p><a href="/problems">All problems</a></p>
{{- else}}
  <h1>Problems</h1>
  <p>Every error of the API is a problem (RFC 9457). Its type is one of these paths, and stays the same for ever; its detail says what is
  wrong with the one request.</p>
  <table>
    <thead><tr><th scope="col">Type</th><th scope="col">Status</th><th scope="col">Title</th></tr></thead>
    <tbody>
{{- range .All}}
      <tr><td><a href="{{.Type}}"><code>{{.Type}}</code></a></td><td>{{range $i, $s := .Statuses}}{{if $i}}, {{end}}{{$s}}{{end}}</td><td>{{.Title}}</td></tr>
{{- end}}
    </tbody>
  </table>
  <p><a href="/docs">All operations</a></p>
{{- end}}
</body>
</html>
`))

// problemsPolicy lets the pages load nothing at all: they have neither scripts nor styles.
const problemsPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// explained is a page in its two forms.
type explained struct{ html, json *file }

func newExplained(one *ProblemKind) (explained, error) {
	var page, data bytes.Buffer
	var err error
	if err = problemsPage.Execute(&page, struct {
		One *ProblemKind
		All []ProblemKind
	}{one, problemKinds}); err != nil {
		return explained{}, fmt.Errorf("write a page about problems: %w", err)
	}
	if one != nil {
		err = encodeJSON(&data, one)
	} else {
		err = encodeJSON(&data, map[string]any{"items": problemKinds})
	}
	if err != nil {
		return explained{}, fmt.Errorf("write what is known about problems: %w", err)
	}
	e := explained{newFile(page.Bytes(), "text/html; charset=utf-8", false), newFile(data.Bytes(), jsonType, false)}
	e.html.policy, e.json.policy = problemsPolicy, problemsPolicy
	return e, nil
}

// ServeHTTP answers with JSON to those who prefer it, and with a page to all others.
func (e explained) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	if negotiation.SelectQValue(r.Header.Get("Accept"), []string{"text/html", jsonType}) == jsonType {
		e.json.ServeHTTP(w, r)
		return
	}
	e.html.ServeHTTP(w, r)
}

//go:generate go test -run=^TestProblemsDocument$ -update .

// serveProblems serves what the types of problems lead to. It needs no credential: the text is the same for everybody.
func (a *API) serveProblems() error {
	all, err := newExplained(nil)
	if err != nil {
		return err
	}
	a.router.Get("/problems", all.ServeHTTP)
	pages := map[string]explained{}
	for i := range problemKinds {
		if pages[string(problemKinds[i].Kind)], err = newExplained(&problemKinds[i]); err != nil {
			return err
		}
	}
	a.router.Get(problemsPath+"{kind}", func(w http.ResponseWriter, r *http.Request) {
		name := chi.URLParam(r, "kind")
		if page, ok := pages[name]; ok {
			page.ServeHTTP(w, r)
			return
		}
		newProblem(http.StatusNotFound, kindNotFound, "there is no kind of problem %q; /problems lists all of them", clip(name, 60)).
			write(w, r)
	})
	return nil
}
