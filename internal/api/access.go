package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// bearerScheme is the name of the one way to show a credential, in the OpenAPI document.
	bearerScheme = "bearer"
	// roleExtension says in the OpenAPI document which role an operation needs.
	roleExtension = "x-required-role"
	// wideExtension says that an operation is not about definitions.
	wideExtension = "x-installation-wide"
)

// authorize is huma middleware that finds out who calls and lets only those in who may. An operation that names no role is closed to
// everybody.
func (a *API) authorize(ctx huma.Context, next func(huma.Context)) {
	visit := visitOf(ctx.Context())
	caller, err := a.caller(ctx.Context(), ctx.Header("Authorization"), visit.address)
	if err != nil {
		writeProblem(ctx, a.problem(ctx.Context(), err))
		return
	}
	visit.caller = caller.ID
	caller.Address, caller.RequestID = visit.address, requestID(ctx.Context())
	if p := a.limitCaller(caller); p != nil { // what is refused below counts, too
		writeProblem(ctx, p)
		return
	}
	needed, _ := ctx.Operation().Extensions[roleExtension].(access.Role)
	if !caller.Role.Allows(needed) {
		writeProblem(ctx, forbidden(caller, needed))
		return
	}
	if wide, _ := ctx.Operation().Extensions[wideExtension].(bool); wide && caller.Limited() {
		writeProblem(ctx, newProblem(http.StatusForbidden, kindForbidden,
			"this is about the whole installation, and %s is limited to definitions with the labels %s", clip(caller.Name, 100),
			labelText(caller)))
		return
	}
	next(huma.WithContext(ctx, access.With(ctx.Context(), caller)))
}

// caller returns who shows the header, from an address.
func (a *API) caller(ctx context.Context, header, address string) (access.Caller, error) {
	if a.access == nil {
		return access.Anonymous, nil
	}
	scheme, credential, _ := strings.Cut(header, " ")
	credential = strings.TrimSpace(credential)
	if !strings.EqualFold(scheme, bearerScheme) || credential == "" {
		return access.Caller{}, unauthorized("the request has no credential: send the header Authorization: Bearer <token>", "")
	}
	caller, err := a.authenticate(ctx, credential, address)
	if errors.Is(err, access.ErrUnknown) {
		return caller, unauthorized(err.Error(), "invalid_token")
	}
	if errors.Is(err, definition.ErrUnavailable) {
		a.log.LogAttrs(ctx, slog.LevelWarn, "request not served: who calls cannot be found out",
			slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		p := newProblem(http.StatusServiceUnavailable, kindUnavailable,
			"who you are cannot be checked at the moment; try again in %d seconds", retryAfter)
		p.headers = http.Header{"Retry-After": {strconv.Itoa(retryAfter)}}
		return caller, p
	}
	return caller, err
}

// unauthorized is the answer to a caller that is not known; code is the one of RFC 6750, if any.
func unauthorized(detail, code string) *Problem {
	p := newProblem(http.StatusUnauthorized, kindUnauthorized, "%s", detail)
	challenge := `Bearer realm="activity-core"`
	if code != "" {
		challenge += `, error="` + code + `"`
	}
	p.headers = http.Header{"Www-Authenticate": {challenge}}
	return p
}

// forbidden is the answer to a caller with too weak a role.
func forbidden(c access.Caller, needed access.Role) *Problem {
	switch {
	case needed == "":
		return newProblem(http.StatusForbidden, kindForbidden, "this operation is closed to everybody")
	case c.Role == "":
		return newProblem(http.StatusForbidden, kindForbidden,
			"none of the groups of %s has a grant here: ask an administrator of this installation for one", clip(c.Name, 100))
	}
	return newProblem(http.StatusForbidden, kindForbidden, "this needs the role %s, and %s has the role %s", needed, clip(c.Name, 100), c.Role)
}

// labelText is the labels that a caller is limited to, as in team=growth.
func labelText(c access.Caller) string {
	keys, values := c.LabelPairs()
	for i := range keys {
		keys[i] += "=" + values[i]
	}
	return strings.Join(keys, ", ")
}
