package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// tokenStore keeps tokens: what they are good for, and a hash of each. All but Create and List fail with definition.ErrNotFound;
// Rotate also with access.ErrTokenEnded and with an access.RotatedError. Revoke leaves one that was revoked as it is.
type tokenStore interface {
	CreateToken(ctx context.Context, request access.TokenRequest, token string) (access.Token, error)
	RotateToken(ctx context.Context, id string, overlap time.Duration, token string) (access.Token, error)
	RevokeToken(ctx context.Context, id string) (access.Token, error)
	GetToken(ctx context.Context, id string) (access.Token, error)
	ListTokens(ctx context.Context, page access.ListTokens) ([]access.Token, error)
}

type tokenIDInput struct {
	ID string `path:"id" format:"uuid" doc:"The token's id."`
}

type tokenOutput struct {
	Body Token
}

type issuedTokenOutput struct {
	Location string `header:"Location" doc:"The path of the new token."`
	Body     IssuedToken
}

type createTokenInput struct {
	fieldsBody[tokenFields]
}

type tokenFields struct {
	Name           string               `json:"name"`
	Role           access.Role          `json:"role"`
	Labels         map[string]string    `json:"labels"`
	ExpiresIn      *definition.Duration `json:"expires_in"`
	MaxDefinitions *int                 `json:"max_definitions"`
}

type rotateTokenInput struct {
	fieldsBody[rotateTokenFields]
	ID string `path:"id" format:"uuid" doc:"The token's id."`
}

type rotateTokenFields struct {
	Overlap *definition.Duration `json:"overlap"`
}

type revokeTokenInput struct {
	fieldsBody[struct{}]
	ID string `path:"id" format:"uuid" doc:"The token's id."`
}

type listTokensInput struct {
	Limit  limitParam `query:"limit" doc:"How many to return at most."`
	Cursor string     `query:"cursor" doc:"next_cursor of the page before."`
}

type tokenListOutput struct {
	Body TokenList
}

type whoamiOutput struct {
	Body Caller
}

// createToken answers with the token, which is stored nowhere and can never be told again.
func (a *API) createToken(ctx context.Context, in *createTokenInput) (*issuedTokenOutput, error) {
	given := in.given
	request := access.TokenRequest{
		Name: given.Name, Role: given.Role, Labels: given.Labels, Lifetime: access.DefaultLifetime, MaxDefinitions: access.DefaultMaxDefinitions,
	}
	if given.ExpiresIn != nil {
		request.Lifetime = time.Duration(*given.ExpiresIn)
	}
	if given.MaxDefinitions != nil {
		request.MaxDefinitions = *given.MaxDefinitions
	}
	if err := invalidToken(request.Faults()); err != nil {
		return nil, err
	}
	token := access.NewToken()
	stored, err := a.store.CreateToken(ctx, request, token)
	if err != nil {
		return nil, err
	}
	return issued(stored, token), nil
}

func (a *API) rotateToken(ctx context.Context, in *rotateTokenInput) (*issuedTokenOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	overlap := access.DefaultOverlap
	if in.given.Overlap != nil {
		overlap = time.Duration(*in.given.Overlap)
	}
	if err := invalidToken(access.OverlapFaults(overlap)); err != nil {
		return nil, err
	}
	token := access.NewToken()
	stored, err := a.store.RotateToken(ctx, id, overlap, token)
	var rotated *access.RotatedError
	switch {
	case errors.Is(err, access.ErrTokenEnded):
		return nil, newProblem(http.StatusConflict, kindTokenEnded,
			"token %s has expired or was revoked, and only an active one can be rotated: make another one with POST /tokens", id)
	case errors.As(err, &rotated):
		return nil, newProblem(http.StatusConflict, kindTokenRotated,
			"token %s was rotated already, into %s: rotate that one, or revoke it first if nobody has it", id, rotated.Into)
	case err != nil:
		return nil, missing(err, "token", id)
	}
	return issued(stored, token), nil
}

func (a *API) revokeToken(ctx context.Context, in *revokeTokenInput) (*tokenOutput, error) {
	return tokenAnswer(ctx, in.ID, a.store.RevokeToken)
}

func (a *API) getToken(ctx context.Context, in *tokenIDInput) (*tokenOutput, error) {
	return tokenAnswer(ctx, in.ID, a.store.GetToken)
}

func (a *API) listTokens(ctx context.Context, in *listTokensInput) (*tokenListOutput, error) {
	var f faults
	limit := in.Limit.parse(&f)
	place := cursor{list: "tokens"}
	query := access.ListTokens{
		BeforeSeq: place.parse(in.Cursor, &f),
		Limit:     limit + 1, // one more tells whether there is a next page
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	rows, err := a.store.ListTokens(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, next := nextCursor(rows, limit, place, func(t access.Token) int64 { return t.Seq })
	out := TokenList{Items: make([]Token, len(rows)), NextCursor: next}
	for i, row := range rows {
		out.Items[i] = tokenJSON(row)
	}
	return &tokenListOutput{Body: out}, nil
}

// whoami tells callers what they are known as, and what they may do.
func (a *API) whoami(ctx context.Context, _ *struct{}) (*whoamiOutput, error) {
	c := access.From(ctx)
	out := Caller{ID: c.ID, Name: c.Name, Role: role(c.Role), Labels: labelsOf(c.Labels), MaxDefinitions: c.MaxDefinitions}
	if !c.Expires.IsZero() {
		out.ExpiresAt = utc(&c.Expires)
	}
	return &whoamiOutput{Body: out}, nil
}

// invalidToken is the refusal of a request for a token; nil when it has no faults.
func invalidToken(found []access.Fault) error {
	if len(found) == 0 {
		return nil
	}
	invalid := &definition.InvalidError{}
	for _, f := range found {
		invalid.Fields = append(invalid.Fields, definition.FieldError(f))
	}
	return invalid
}

func tokenAnswer(ctx context.Context, idText string, do func(context.Context, string) (access.Token, error)) (*tokenOutput, error) {
	id, err := definition.ParseID(idText)
	if err != nil {
		return nil, err
	}
	t, err := do(ctx, id)
	if err != nil {
		return nil, missing(err, "token", id)
	}
	return &tokenOutput{Body: tokenJSON(t)}, nil
}

func issued(t access.Token, token string) *issuedTokenOutput {
	return &issuedTokenOutput{Location: "/tokens/" + t.ID, Body: IssuedToken{Token: tokenJSON(t), Secret: token}}
}

func tokenJSON(t access.Token) Token {
	return Token{
		ID: t.ID, Name: t.Name, Role: role(t.Role), Labels: labelsOf(t.Labels), MaxDefinitions: t.MaxDefinitions, CallerID: t.CallerID(),
		Hint: t.Hint, State: tokenState(t.State), CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt.UTC(), ExpiresAt: t.ExpiresAt.UTC(),
		RevokedAt: utc(t.RevokedAt), LastUsedAt: utc(t.LastUsedAt),
	}
}

// labelsOf is never null.
func labelsOf(labels map[string]string) map[string]string {
	if labels == nil {
		return map[string]string{}
	}
	return labels
}

// tooManyDefinitions is the answer to a caller that has made as many definitions as it may have.
func tooManyDefinitions(c access.Caller) *Problem {
	return newProblem(http.StatusConflict, kindTooManyDefinitions,
		"%s has made %d definitions that are not deleted, and may not have more: delete some, or ask an admin for a credential with a "+
			"higher max_definitions", clip(c.Name, 100), c.MaxDefinitions)
}
