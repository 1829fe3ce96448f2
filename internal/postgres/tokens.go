package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// Actions on tokens, in the audit trail.
const (
	tokenCreated = "token.create"
	tokenRotated = "token.rotate"
	tokenRevoked = "token.revoke"
)

// CreateToken stores the hash and the hint of a token, and what it is good for.
func (s *Store) CreateToken(ctx context.Context, r access.TokenRequest, token string) (access.Token, error) {
	labels, err := labelsJSON(r.Labels)
	if err != nil {
		return access.Token{}, err
	}
	id := definition.NewID()
	var stored access.Token
	err = s.tx(ctx, "create token "+r.Name, func(tx pgx.Tx) error {
		stored, err = readToken(ctx, tx, `
			INSERT INTO tokens (id, family, name, role, labels, max_definitions, hash, hint, created_by, expires_at)
			VALUES ($1, $1, $2, $3, $4, $5, $6, $7, $8, now() + $9::interval)
			RETURNING `+tokenColumns,
			id, r.Name, r.Role, labels, r.MaxDefinitions, access.HashToken(token), access.Hint(token), access.From(ctx).Name, r.Lifetime)
		if err != nil {
			return err
		}
		return auditToken(ctx, tx, tokenCreated, nil, &stored, "")
	})
	return stored, err
}

// RotateToken stores a token that takes the place of another one: it is the same caller's, and good for as long as that one was when
// it was made. The other one ends after the overlap, if it would not end sooner. Errors: ErrNotFound, access.ErrTokenEnded when the
// other one has ended, and a RotatedError when it has a successor that is active.
func (s *Store) RotateToken(ctx context.Context, id string, overlap time.Duration, token string) (access.Token, error) {
	newID := definition.NewID()
	var stored access.Token
	err := s.tx(ctx, "rotate token "+id, func(tx pgx.Tx) error {
		old, err := readToken(ctx, tx, `SELECT `+tokenColumns+` FROM tokens WHERE id = $1 FOR UPDATE`, id)
		if err != nil {
			return err
		}
		if old.State != access.TokenActive {
			return access.ErrTokenEnded
		}
		var successor string
		err = tx.QueryRow(ctx, `
			SELECT id::text FROM tokens WHERE family = $1 AND seq > $2 AND revoked_at IS NULL AND expires_at > now() ORDER BY seq DESC LIMIT 1`,
			old.Family, old.Seq).Scan(&successor)
		switch {
		case err == nil:
			return &access.RotatedError{Into: successor}
		case !errors.Is(err, pgx.ErrNoRows):
			return err
		}
		// A rotation cuts the lifetime of the old one short, so the longest of the family is what was asked for.
		stored, err = readToken(ctx, tx, `
			INSERT INTO tokens (id, family, name, role, labels, max_definitions, hash, hint, created_by, expires_at)
			SELECT $2, family, name, role, labels, max_definitions, $3, $4, $5,
			       now() + (SELECT max(f.expires_at - f.created_at) FROM tokens f WHERE f.family = t.family)
			FROM tokens t WHERE id = $1
			RETURNING `+tokenColumns, id, newID, access.HashToken(token), access.Hint(token), access.From(ctx).Name)
		if err != nil {
			return err
		}
		ended, err := readToken(ctx, tx, `
			UPDATE tokens SET expires_at = LEAST(expires_at, now() + $2::interval) WHERE id = $1 RETURNING `+tokenColumns, id, overlap)
		if err != nil {
			return err
		}
		return auditToken(ctx, tx, tokenRotated, &old, &ended, newID)
	})
	return stored, err
}

// RevokeToken ends a token at once. One that was revoked stays as it is. ErrNotFound: there is none.
func (s *Store) RevokeToken(ctx context.Context, id string) (access.Token, error) {
	var stored access.Token
	err := s.tx(ctx, "revoke token "+id, func(tx pgx.Tx) error {
		old, err := readToken(ctx, tx, `SELECT `+tokenColumns+` FROM tokens WHERE id = $1 FOR UPDATE`, id)
		if err != nil {
			return err
		}
		stored = old
		if old.RevokedAt != nil {
			return nil
		}
		stored, err = readToken(ctx, tx, `UPDATE tokens SET revoked_at = now() WHERE id = $1 RETURNING `+tokenColumns, id)
		if err != nil {
			return err
		}
		return auditToken(ctx, tx, tokenRevoked, &old, &stored, "")
	})
	return stored, err
}

// GetToken returns a token; ErrNotFound when there is none.
func (s *Store) GetToken(ctx context.Context, id string) (access.Token, error) {
	t, err := readToken(ctx, s.pool, `SELECT `+tokenColumns+` FROM tokens WHERE id = $1`, id)
	return t, translate("get token "+id, err)
}

// FindToken returns the token with this hash, whatever its state; ErrNotFound when there is none.
func (s *Store) FindToken(ctx context.Context, hash []byte) (access.Token, error) {
	t, err := readToken(ctx, s.pool, `SELECT `+tokenColumns+` FROM tokens WHERE hash = $1`, hash)
	return t, translate("find a token", err)
}

// ListTokens returns a page of tokens, newest first.
func (s *Store) ListTokens(ctx context.Context, q access.ListTokens) ([]access.Token, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+tokenColumns+` FROM tokens WHERE $1 = 0 OR seq < $1 ORDER BY seq DESC LIMIT $2`,
		q.BeforeSeq, q.Limit)
	if err != nil {
		return nil, translate("list tokens", err)
	}
	list, err := pgx.CollectRows(rows, scanToken)
	return list, translate("list tokens", err)
}

// TokenUsed notes that a token is in use, unless that was noted within the given time. It waits for nobody: while somebody else
// changes the token, nothing is noted.
func (s *Store) TokenUsed(ctx context.Context, id string, within time.Duration) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE tokens SET last_used_at = now()
		WHERE id = (SELECT id FROM tokens WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - $2::interval)
		            FOR UPDATE SKIP LOCKED)`, id, within)
	return translate("note the use of token "+id, err)
}

const tokenColumns = `id::text, seq, family::text, name, role, labels::text, max_definitions, hint, created_by, created_at, expires_at,
	revoked_at, last_used_at,
	CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'active' END,
	CASE WHEN revoked_at IS NULL AND expires_at > now() THEN expires_at - now() ELSE '0' END`

func readToken(ctx context.Context, q querier, sql string, args ...any) (access.Token, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return access.Token{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scanToken)
}

func scanToken(row pgx.CollectableRow) (t access.Token, err error) {
	var labels []byte
	err = row.Scan(&t.ID, &t.Seq, &t.Family, &t.Name, &t.Role, &labels, &t.MaxDefinitions, &t.Hint, &t.CreatedBy, &t.CreatedAt,
		&t.ExpiresAt, &t.RevokedAt, &t.LastUsedAt, &t.State, &t.Left)
	if err != nil {
		return t, err
	}
	t.CreatedAt, t.ExpiresAt, t.RevokedAt, t.LastUsedAt = t.CreatedAt.UTC(), t.ExpiresAt.UTC(), utc(t.RevokedAt), utc(t.LastUsedAt)
	return t, json.Unmarshal(labels, &t.Labels)
}

func labelsJSON(labels map[string]string) ([]byte, error) {
	if labels == nil {
		labels = map[string]string{}
	}
	return json.Marshal(labels)
}

// tokenFacts is what the audit trail tells of a token: what it is good for, and nothing by which it could be found or used.
type tokenFacts struct {
	Name           string            `json:"name"`
	Role           access.Role       `json:"role"`
	Labels         map[string]string `json:"labels"`
	MaxDefinitions int               `json:"max_definitions"`
	CallerID       string            `json:"caller_id"`
	ExpiresAt      time.Time         `json:"expires_at"`
	RevokedAt      *time.Time        `json:"revoked_at"`
	RotatedInto    string            `json:"rotated_into,omitempty"`
}

func auditToken(ctx context.Context, tx pgx.Tx, action string, before, after *access.Token, into string) error {
	facts := func(t *access.Token, into string) ([]byte, error) {
		if t == nil {
			return nil, nil
		}
		return json.Marshal(tokenFacts{t.Name, t.Role, t.Labels, t.MaxDefinitions, t.CallerID(), t.ExpiresAt, t.RevokedAt, into})
	}
	was, errA := facts(before, "")
	is, errB := facts(after, into)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	return audited{action: action, target: definition.Target{Kind: definition.TargetToken, ID: after.ID}, before: was, after: is}.
		record(ctx, tx)
}
