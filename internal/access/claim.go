package access

import "context"

// Claim is the right of one request to do what it asks for, among all that its caller sent with the same Idempotency-Key. It ends
// when the request is answered, or when another one takes over because this one takes too long.
type Claim struct {
	// Key is the caller's Idempotency-Key.
	Key string
	// ID names the claim: whoever takes over has another one.
	ID string
	// Made is the id of what an earlier request with the key made or changed before its answer was lost; "" for nothing.
	Made string
}

type claimKey struct{}

// WithClaim returns a context whose work is done under a claim.
func WithClaim(ctx context.Context, c Claim) context.Context {
	return context.WithValue(ctx, claimKey{}, c)
}

// WithoutClaim returns a context whose work is done under no claim: for what may be done again without harm.
func WithoutClaim(ctx context.Context) context.Context {
	return context.WithValue(ctx, claimKey{}, nil)
}

// ClaimFrom returns the claim that the work of a context is done under; false when there is none.
func ClaimFrom(ctx context.Context) (Claim, bool) {
	c, ok := ctx.Value(claimKey{}).(Claim)
	return c, ok
}
