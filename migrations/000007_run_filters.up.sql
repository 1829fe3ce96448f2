-- Filters of runs, and the lines of admission by key.

-- The labels of definitions, deleted ones too, so that runs are found by them. Kept with every write of a definition.
CREATE TABLE definition_labels (
    definition_id uuid NOT NULL,
    key           text NOT NULL,
    value         text NOT NULL,
    PRIMARY KEY (definition_id, key)
);
CREATE INDEX definition_labels_value ON definition_labels (key, value, definition_id);

-- The labels of what is there already. Postgres cannot take anything out of a document that holds U+0000 anywhere: the labels of
-- such a definition are kept when it is written next.
CREATE FUNCTION pg_temp.labels_of(document json) RETURNS TABLE (key text, value text) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT l.key, l.value FROM json_each_text(document -> 'labels') l;
EXCEPTION WHEN data_exception THEN
    RETURN;
END
$$;
INSERT INTO definition_labels (definition_id, key, value)
SELECT d.id, l.key, l.value FROM definitions d, LATERAL pg_temp.labels_of(d.document) l WHERE l.value IS NOT NULL;
DROP FUNCTION pg_temp.labels_of(json);

CREATE INDEX definitions_any_name ON definitions (name);

-- A list of runs that is chosen by definition, status or kind is a merge of the newest of each. The indexes hold the number negated,
-- each in a way of its own, so that no other one gives that order: the planner would otherwise walk through all runs in the hope of
-- meeting what is wanted soon, which may be rare, or long ago.
CREATE INDEX runs_definition_state ON runs (definition_id, kind, status, (0 - seq));
CREATE INDEX runs_state ON runs (kind, status, (-seq));
CREATE INDEX runs_reason ON runs (reason, (-seq)) WHERE reason <> '';
DROP INDEX runs_replay;
CREATE INDEX runs_replay ON runs (replay_id, (-seq)) WHERE replay_id IS NOT NULL;
-- To find the numbers that belong to a time.
CREATE INDEX runs_accepted_at ON runs (accepted_at);

-- Admission: how many run of a key, and who waits there.
DROP INDEX runs_open;
DROP INDEX runs_line;
CREATE INDEX runs_running ON runs (definition_id, concurrency_key, seq) WHERE status = 'running';
CREATE INDEX runs_line ON runs (definition_id, concurrency_key, seq) WHERE (run_limit > 0 OR catch_up) AND status IN ('accepted', 'queued');

-- When the workflow of a run that was given its place, or may get it, is told again; null once it has heard of it.
ALTER TABLE runs ADD COLUMN wake_after timestamptz;
CREATE INDEX runs_waking ON runs (wake_after) WHERE wake_after IS NOT NULL AND status IN ('queued', 'running');
