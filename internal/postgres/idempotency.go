package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// claimTries is how often a key is claimed again that was let go between two looks at it.
const claimTries = 3

// ClaimKey claims an Idempotency-Key of the caller for a request with this fingerprint (SHA-256). A key that was never seen, that
// has expired, or that a request has let go or held for too long becomes the request's own; what an earlier one made stays known.
func (s *Store) ClaimKey(ctx context.Context, key string, fingerprint []byte) (definition.KeyClaim, error) {
	const attempt = "claim an idempotency key"
	caller, id := access.From(ctx).ID, definition.NewID()
	for range claimTries {
		claim := definition.KeyClaim{ID: id}
		err := s.pool.QueryRow(ctx, `
			INSERT INTO idempotency_keys AS k (caller, key, fingerprint, claim, claimed_until, expires_at)
			VALUES ($1, $2, $3, $4, now() + $5::interval, now() + $6::interval)
			ON CONFLICT (caller, key) DO UPDATE
			SET fingerprint = excluded.fingerprint, claim = excluded.claim, claimed_until = excluded.claimed_until,
			    resource_id = CASE WHEN k.expires_at > now() THEN k.resource_id END,
			    created_at = CASE WHEN k.expires_at > now() THEN k.created_at ELSE now() END,
			    expires_at = CASE WHEN k.expires_at > now() THEN k.expires_at ELSE excluded.expires_at END,
			    status = NULL, headers = NULL, body = NULL
			WHERE k.expires_at <= now() OR k.status IS NULL AND k.claimed_until <= now() AND k.fingerprint = excluded.fingerprint
			RETURNING COALESCE(resource_id, '')`,
			caller, key, fingerprint, id, definition.KeyClaimAge, definition.KeyAge).Scan(&claim.Made)
		if !errors.Is(err, pgx.ErrNoRows) {
			return claim, translate(attempt, err)
		}
		if claim, err = s.heldKey(ctx, caller, key, fingerprint); !errors.Is(err, pgx.ErrNoRows) {
			return claim, translate(attempt, err)
		}
	}
	return definition.KeyClaim{Wait: time.Second}, nil // others are about it all the time
}

// heldKey tells why a key could not be claimed; pgx.ErrNoRows: it can be by now.
func (s *Store) heldKey(ctx context.Context, caller, key string, fingerprint []byte) (definition.KeyClaim, error) {
	var claim definition.KeyClaim
	var same bool
	var status int
	var header, body []byte
	err := s.pool.QueryRow(ctx, `
		SELECT fingerprint = $3, COALESCE(status, 0), COALESCE(headers, '{}')::text, body, GREATEST(claimed_until - now(), interval '0')
		FROM idempotency_keys WHERE caller = $1 AND key = $2 AND expires_at > now()`, caller, key, fingerprint).
		Scan(&same, &status, &header, &body, &claim.Wait)
	switch {
	case err != nil:
		return claim, err
	case !same:
		return definition.KeyClaim{Reused: true}, nil
	case status == 0 && claim.Wait <= 0:
		return claim, pgx.ErrNoRows
	case status == 0:
		return claim, nil
	}
	answer := definition.Answer{Status: status, Body: body}
	if err := json.Unmarshal(header, &answer.Header); err != nil {
		return claim, fmt.Errorf("read the headers of a kept answer: %w", err)
	}
	return definition.KeyClaim{Answer: &answer}, nil
}

// FinishKey keeps the answer to the request that holds the claim. ErrClaimLost: another one has taken over.
func (s *Store) FinishKey(ctx context.Context, claim access.Claim, answer definition.Answer) error {
	const attempt = "keep the answer of an idempotency key"
	header, err := json.Marshal(answer.Header)
	if err != nil {
		return fmt.Errorf("%s: %w", attempt, err)
	}
	tag, err := s.pool.Exec(ctx, `
		UPDATE idempotency_keys SET status = $4, headers = $5, body = $6 WHERE caller = $1 AND key = $2 AND claim = $3`,
		access.From(ctx).ID, claim.Key, claim.ID, answer.Status, header, answer.Body)
	if err == nil && tag.RowsAffected() == 0 {
		err = definition.ErrClaimLost
	}
	return translate(attempt, err)
}

// ReleaseKey lets the key of a request go that ended without an answer to keep. What it made stays known. A transaction of that
// request whose end nobody saw has the row locked: this waits for it.
func (s *Store) ReleaseKey(ctx context.Context, claim access.Claim) error {
	const attempt = "let an idempotency key go"
	caller := access.From(ctx).ID
	tag, err := s.pool.Exec(ctx, `
		DELETE FROM idempotency_keys WHERE caller = $1 AND key = $2 AND claim = $3 AND resource_id IS NULL`, caller, claim.Key, claim.ID)
	if err == nil && tag.RowsAffected() == 0 {
		// A statement of its own, to see what that transaction wrote.
		_, err = s.pool.Exec(ctx, `
			UPDATE idempotency_keys SET claimed_until = now() WHERE caller = $1 AND key = $2 AND claim = $3`, caller, claim.Key, claim.ID)
	}
	return translate(attempt, err)
}

// rememberMade notes under the request's Idempotency-Key, if it has one, what a transaction makes or changes: once that is committed,
// no other request with the key does it again. It is the last statement of that transaction, for it locks the key, and other requests
// with it are to be told at once that this one is at it. ErrClaimLost, which rolls the transaction back: another one has taken over.
func rememberMade(ctx context.Context, tx pgx.Tx, id string) error {
	claim, ok := access.ClaimFrom(ctx)
	if !ok {
		return nil
	}
	tag, err := tx.Exec(ctx, `
		UPDATE idempotency_keys SET resource_id = $4 WHERE caller = $1 AND key = $2 AND claim = $3`,
		access.From(ctx).ID, claim.Key, claim.ID, id)
	if err == nil && tag.RowsAffected() == 0 {
		return definition.ErrClaimLost
	}
	return err
}
