-- Who may call the API, and who did what.

CREATE TABLE tokens (
    id              uuid PRIMARY KEY,
    seq             bigint GENERATED ALWAYS AS IDENTITY,
    -- The id of the first of those that were rotated into each other: whoever uses them is one caller.
    family          uuid NOT NULL,
    name            text NOT NULL CHECK (name <> ''),
    role            text NOT NULL CHECK (role IN ('viewer', 'operator', 'editor', 'admin')),
    -- Limits it to definitions with all of these.
    labels          jsonb NOT NULL DEFAULT '{}',
    -- How many definitions its caller may have; 0 for no limit.
    max_definitions integer NOT NULL CHECK (max_definitions >= 0),
    -- SHA-256 of the token, which is kept nowhere, and its last characters, by which people tell tokens apart.
    hash            bytea NOT NULL CHECK (octet_length(hash) = 32),
    hint            text NOT NULL,
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    revoked_at      timestamptz,
    -- Kept to some minutes only.
    last_used_at    timestamptz
);
CREATE UNIQUE INDEX tokens_hash ON tokens (hash);
CREATE UNIQUE INDEX tokens_seq ON tokens (seq);
CREATE INDEX tokens_family ON tokens (family);

-- Which caller made it: counted against the caller's limit. '' for those of before.
ALTER TABLE definitions ADD COLUMN made_by text NOT NULL DEFAULT '';
CREATE INDEX definitions_made_by ON definitions (made_by) WHERE deleted_at IS NULL AND made_by <> '';

-- Who made a revision, and by which action; '' for those of before.
ALTER TABLE definition_revisions
    ADD COLUMN actor  text NOT NULL DEFAULT '',
    ADD COLUMN action text NOT NULL DEFAULT '';

-- The audit trail tells of everything that is changed, not of definitions alone. actor is a name for people, actor_id names the
-- caller for ever; target_kind and target_id say what it was done to.
ALTER TABLE audit
    ALTER COLUMN definition_id DROP NOT NULL,
    ALTER COLUMN revision DROP NOT NULL,
    ADD COLUMN actor_id    text NOT NULL DEFAULT '',
    ADD COLUMN address     text NOT NULL DEFAULT '',
    ADD COLUMN request_id  text NOT NULL DEFAULT '',
    ADD COLUMN target_kind text NOT NULL DEFAULT 'definition',
    ADD COLUMN target_id   text NOT NULL DEFAULT '';
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_action ON audit (action, id);
CREATE INDEX audit_at ON audit (at, id);

-- Nothing is ever changed in it; retention removes what is old.
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only';
END
$$;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
