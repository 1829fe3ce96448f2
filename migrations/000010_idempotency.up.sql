-- What became of requests with an Idempotency-Key, so that sending one again does nothing twice.

CREATE TABLE idempotency_keys (
    -- The id of who sent it: callers cannot meet each other's keys.
    caller        text NOT NULL,
    key           text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    -- SHA-256 of what was asked for.
    fingerprint   bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    -- Names the one request that may do it now; another one may take over from claimed_until on, under a claim of its own.
    claim         uuid NOT NULL,
    claimed_until timestamptz NOT NULL,
    -- What it made or changed, written by the transaction that did; NULL while nothing is done.
    resource_id   text,
    -- The answer, once there is one. body is NULL where the answer must not be kept.
    status        integer,
    headers       jsonb,
    body          bytea,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);
