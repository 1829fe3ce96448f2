-- Definitions, their revisions, the audit trail, and what is known of each definition's Temporal Schedule.

-- One row: this installation's name for itself. Two installations may share a Temporal namespace; the mark on each
-- schedule holds this id, so that neither touches the other's.
CREATE TABLE installation (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id         uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO installation DEFAULT VALUES;

CREATE TABLE definitions (
    id            uuid PRIMARY KEY,
    -- Order of creation, for paging.
    seq           bigint GENERATED ALWAYS AS IDENTITY,
    name          text NOT NULL CHECK (name <> ''),
    revision      integer NOT NULL CHECK (revision >= 1),
    enabled       boolean NOT NULL,
    -- When it was last enabled: an event older than this does not meet it.
    enabled_since timestamptz NOT NULL,
    trigger_type  text NOT NULL,
    -- Null unless the trigger is an event.
    event_type    text,
    -- The document as written, defaults filled in; a copy of the newest revision's. json and not jsonb, which refuses
    -- some legal JSON (U+0000, 1e400000) that a filter may hold.
    document      json NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    -- A deleted definition stays for a while, so that every reader can learn that it is gone.
    deleted_at    timestamptz,
    -- The transaction that last wrote the row: lets a reader ask "what changed since my last look" without a gap.
    changed_xid   xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE UNIQUE INDEX definitions_name ON definitions (name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX definitions_seq ON definitions (seq);
CREATE INDEX definitions_changed_xid ON definitions (changed_xid);
CREATE INDEX definitions_event_type ON definitions (event_type) WHERE deleted_at IS NULL AND enabled;

CREATE FUNCTION definitions_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_xid := pg_current_xact_id();
    RETURN NEW;
END
$$;
CREATE TRIGGER definitions_changed BEFORE INSERT OR UPDATE ON definitions
    FOR EACH ROW EXECUTE FUNCTION definitions_changed();

CREATE TABLE definition_revisions (
    definition_id uuid NOT NULL,
    revision      integer NOT NULL,
    document      json NOT NULL,
    -- Taken from the document, for the statements that accept and begin runs: how many runs at once (0: no limit), and
    -- the timeout of a run.
    run_limit     integer NOT NULL,
    run_timeout   interval NOT NULL,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (definition_id, revision)
);

-- What Temporal should know of a definition (desired: a revision) and what was last confirmed there (observed). The row
-- is dirty while the two differ or a look was asked for; a lease makes one process at a time work on it.
CREATE TABLE schedule_sync (
    definition_id   uuid PRIMARY KEY,
    desired         integer NOT NULL,
    observed        integer NOT NULL DEFAULT 0,
    dirty           boolean NOT NULL DEFAULT true,
    spec_hash       text NOT NULL DEFAULT '',
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    lease           bigint NOT NULL DEFAULT 0,
    lease_until     timestamptz,
    last_error      text NOT NULL DEFAULT '',
    since           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX schedule_sync_dirty ON schedule_sync (next_attempt_at) WHERE dirty;

-- One row for each change of a definition, written in the change's own transaction.
CREATE TABLE audit (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL DEFAULT now(),
    actor         text NOT NULL,
    action        text NOT NULL,
    definition_id uuid NOT NULL,
    revision      integer NOT NULL,
    before        json,
    after         json
);
CREATE INDEX audit_definition ON audit (definition_id, id);
