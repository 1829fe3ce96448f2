package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/failpoint"
)

const (
	keyHeader      = "Idempotency-Key"
	replayedHeader = "Idempotency-Replayed"
	// maxKey is the most characters of a key.
	maxKey = 255
	// maxKeyedBody is the most bytes of any body. A request with a larger one is refused, so that its key does not matter.
	maxKeyedBody = definition.MaxEvent
	// keyTimeout bounds what is written about a key after the work is done, when the request's own time may be over.
	keyTimeout = 2 * time.Second

	// secretExtension says in the OpenAPI document that an operation's answer shows a secret, which is kept nowhere: neither is the
	// answer, and a repetition cannot have it again.
	secretExtension = "x-answer-holds-secret"
)

// keyStore keeps what became of requests with an Idempotency-Key, for each caller apart.
type keyStore interface {
	// ClaimKey lets one request at a time do what was asked for with a key, or tells why this one may not.
	ClaimKey(ctx context.Context, key string, fingerprint []byte) (definition.KeyClaim, error)
	// FinishKey keeps the answer; it fails with definition.ErrClaimLost when another request has taken over.
	FinishKey(ctx context.Context, claim access.Claim, answer definition.Answer) error
	// ReleaseKey lets the next request with the key go on at once.
	ReleaseKey(ctx context.Context, claim access.Claim) error
}

// keyed reports whether an operation takes an Idempotency-Key: each that may change something, but for the comparison of all
// schedules. That may take longer than any claim, and doing it twice is harmless.
func keyed(op *huma.Operation) bool {
	return op.Method != http.MethodGet && op.Path != fullSyncPath
}

// onlyOnce is huma middleware that does a request with an Idempotency-Key once, and answers its repetitions as it was answered. It
// comes after authorize: a key belongs to its caller. The transaction that makes something notes that under the claim (see
// internal/postgres/idempotency.go), so that neither a crash nor a request that comes back from a long sleep makes it twice.
func (a *API) onlyOnce(ctx huma.Context, next func(huma.Context)) {
	r, w := humachi.Unwrap(ctx)
	given := r.Header.Values(keyHeader)
	op := ctx.Operation()
	if len(given) == 0 || !keyed(op) {
		next(ctx)
		return
	}
	key, fault := checkKey(given)
	if fault != nil {
		writeProblem(ctx, invalidProblem(fault))
		return
	}
	r = r.WithContext(ctx.Context())
	body, err := readAhead(r)
	if err != nil {
		// It is refused for its body and does nothing: no claim is needed.
		next(humachi.NewContext(op, r, w))
		return
	}
	found, err := a.store.ClaimKey(r.Context(), key, fingerprint(r, body))
	if err != nil {
		writeProblem(ctx, a.problem(r.Context(), err))
		return
	}
	_, secret := op.Extensions[secretExtension]
	claim := access.Claim{Key: key, ID: found.ID, Made: found.Made}
	switch {
	case found.Reused:
		writeProblem(ctx, keyReused())
	case found.Answer != nil && secret && found.Answer.Status < 300:
		writeProblem(ctx, alreadyShown())
	case found.Answer != nil:
		replay(w, found.Answer)
	case found.ID == "":
		writeProblem(ctx, keyInUse(found.Wait))
	case secret && found.Made != "":
		a.release(r.Context(), claim)
		writeProblem(ctx, alreadyShown())
	default:
		failpoint.Hit("api-claimed")
		a.doOnce(ctx, r.WithContext(access.WithClaim(r.Context(), claim)), w, claim, secret, next)
	}
}

// doOnce does the work under a claim, keeps its answer or lets the key go, and only then answers.
func (a *API) doOnce(ctx huma.Context, r *http.Request, w http.ResponseWriter, claim access.Claim, secret bool, next func(huma.Context)) {
	held := true
	defer func() {
		if held { // a panic
			a.release(r.Context(), claim)
		}
	}()
	answer := &recorder{ResponseWriter: w, header: http.Header{}, status: http.StatusOK}
	next(humachi.NewContext(ctx.Operation(), r, answer))
	failpoint.Hit("api-made")
	held = false
	if !kept(answer.status) {
		a.release(r.Context(), claim)
		answer.send()
		return
	}
	lasting, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), keyTimeout)
	defer cancel()
	switch err := a.store.FinishKey(lasting, claim, answer.keep(secret)); {
	case errors.Is(err, definition.ErrClaimLost):
		writeProblem(ctx, keyInUse(0)) // the other one's answer is the one that counts
		return
	case err != nil:
		// What was made is known all the same, and a repetition answers with it when the claim has ended.
		a.log.LogAttrs(r.Context(), slog.LevelWarn, "answer not kept for repetitions of the request",
			slog.String("request_id", requestID(r.Context())), slog.Any("error", err))
	}
	failpoint.Hit("api-finished")
	answer.send()
}

// release lets a key go; when that fails, its claim ends by itself.
func (a *API) release(ctx context.Context, claim access.Claim) {
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyTimeout)
	defer cancel()
	if err := a.store.ReleaseKey(lasting, claim); err != nil {
		a.log.LogAttrs(ctx, slog.LevelWarn, "idempotency key not let go, its claim ends by itself",
			slog.String("request_id", requestID(ctx)), slog.Any("error", err))
	}
}

// kept reports whether an answer is the operation's own and stays: not what is wrong with how the request was sent or with who sent
// it, and not our own trouble. After those the request may be sent again with the same key, mended or not.
func kept(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout,
		http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusTooManyRequests, statusClientGone:
		return false
	}
	return status < http.StatusInternalServerError
}

// madeBefore returns the id of what an earlier request with the same Idempotency-Key made or changed, before its answer was lost: the
// handler answers with that instead of doing it again. "" for nothing.
func madeBefore(ctx context.Context) string {
	claim, _ := access.ClaimFrom(ctx)
	return claim.Made
}

// checkKey returns the one key of a request.
func checkKey(given []string) (string, *definition.InvalidError) {
	key := given[0]
	switch {
	case len(given) > 1:
		return "", definition.Invalid(keyHeader, "once", "is given more than once")
	case len(key) < 1 || len(key) > maxKey:
		return "", definition.Invalid(keyHeader, "length", "must be 1 to %d characters long, and has %d: use a new UUID for each "+
			"thing that you want done", maxKey, len(key))
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
		return "", definition.Invalid(keyHeader, "ascii", "must be printable ASCII characters: use a new UUID for each thing that you "+
			"want done")
	}
	return key, nil
}

// readAhead reads the body and puts it back, whole or with the error that came.
func readAhead(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxKeyedBody+1))
	rest := r.Body
	switch {
	case err != nil:
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), failing{err}))
	case len(body) > maxKeyedBody:
		err = errors.New("larger than any body may be")
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), rest))
	default:
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return body, err
}

// failing is the end of a body that could not be read.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// fingerprint tells whether two requests ask for the same: method, path, query, media type, the revision that is to be changed, and
// body.
func fingerprint(r *http.Request, body []byte) []byte {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		media = r.Header.Get("Content-Type")
	}
	h := sha256.New()
	for _, part := range []string{r.Method, canonical(r.URL.EscapedPath()), r.URL.RawQuery, media,
		strings.Join(r.Header.Values(ifMatchHeader), ","), string(body)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return h.Sum(nil)
}

func keyReused() *Problem {
	p := newProblem(http.StatusUnprocessableEntity, kindKeyReused, "%s: was sent with another request within the last %d hours; "+
		"use a new key for each thing that you want done, and the same one only to send the same request again", keyHeader,
		int(definition.KeyAge.Hours()))
	p.Errors = []Fault{{Field: keyHeader, Rule: "reused", Message: strings.TrimPrefix(p.Detail, keyHeader+": ")}}
	return p
}

func keyInUse(left time.Duration) *Problem {
	seconds := max(1, int(math.Ceil(left.Seconds())))
	p := newProblem(http.StatusConflict, kindKeyInUse, "another request with this %s is at work: send this one again to get its "+
		"answer, in %d s at the latest", keyHeader, seconds)
	p.headers = http.Header{"Retry-After": {strconv.Itoa(seconds)}}
	return p
}

func alreadyShown() *Problem {
	return newProblem(http.StatusConflict, kindTokenAlreadyShown, "a request with this %s has made a token, which is shown once and kept "+
		"nowhere: if its answer was lost, revoke that token and ask for another one with a new key", keyHeader)
}

// recorder holds an answer back until it is known what becomes of it.
type recorder struct {
	http.ResponseWriter // the real one
	header              http.Header
	status              int
	wrote               bool
	body                bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if !r.wrote {
		r.status, r.wrote = status, true
	}
}

func (r *recorder) Write(data []byte) (int, error) {
	r.wrote = true
	return r.body.Write(data)
}

// Unwrap lets http.ResponseController set the deadlines of the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// keptHeaders are those that belong to the answer; all others belong to the request that it is given to.
var keptHeaders = []string{"Content-Type", "Etag", "Location"}

// keep is the answer for repetitions of the request.
func (r *recorder) keep(secret bool) definition.Answer {
	out := definition.Answer{Status: r.status, Header: map[string]string{}, Body: r.body.Bytes()}
	for _, name := range keptHeaders {
		if value := r.header.Get(name); value != "" {
			out.Header[name] = value
		}
	}
	if secret && r.status < 300 {
		out.Body = nil
	}
	return out
}

func (r *recorder) send() {
	maps.Copy(r.ResponseWriter.Header(), r.header)
	r.ResponseWriter.WriteHeader(r.status)
	_, _ = r.ResponseWriter.Write(r.body.Bytes()) // the client has gone
}

// replay gives a kept answer again.
func replay(w http.ResponseWriter, answer *definition.Answer) {
	for name, value := range answer.Header {
		w.Header().Set(name, value)
	}
	w.Header().Set(replayedHeader, "true")
	w.WriteHeader(answer.Status)
	_, _ = w.Write(answer.Body) // the client has gone
}

// documentKey adds the header to the document, and what it may be answered with.
func documentKey(op *huma.Operation) {
	if !keyed(op) {
		return
	}
	op.Parameters = append(op.Parameters, &huma.Param{Name: keyHeader, In: "header",
		Description: "Makes the request safe to send again, for 24 hours: it is done once, and its repetitions get the same answer, with " +
			"the header " + replayedHeader + ". Choose a new one, such as a UUID, for each thing that you want done.",
		Schema: &huma.Schema{Type: huma.TypeString, MinLength: new(1), MaxLength: new(maxKey), Pattern: "^[ -~]+$"}})
	if !slices.Contains(op.Errors, http.StatusConflict) {
		op.Errors = append(op.Errors, http.StatusConflict)
	}
}
