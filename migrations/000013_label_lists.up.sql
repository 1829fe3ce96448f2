-- Lists by label that stay fast whatever else is asked for.

-- What lists of definitions are filtered by, next to each label: so a label and a state are one index, and what has several labels is
-- met by walks along several parts of it. Triggers keep it, and know it also where a binary of an earlier version writes.
ALTER TABLE definition_labels
    ADD COLUMN live         boolean,
    ADD COLUMN seq          bigint,
    ADD COLUMN trigger_type text,
    ADD COLUMN event_type   text,
    ADD COLUMN enabled      boolean;

CREATE FUNCTION definition_labels_made() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT d.deleted_at IS NULL, d.seq, d.trigger_type, d.event_type, d.enabled
    INTO NEW.live, NEW.seq, NEW.trigger_type, NEW.event_type, NEW.enabled
    FROM definitions d WHERE d.id = NEW.definition_id;
    RETURN NEW;
END
$$;
CREATE TRIGGER definition_labels_made BEFORE INSERT ON definition_labels
    FOR EACH ROW EXECUTE FUNCTION definition_labels_made();

CREATE FUNCTION definition_labels_follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE definition_labels
    SET live = NEW.deleted_at IS NULL, trigger_type = NEW.trigger_type, event_type = NEW.event_type, enabled = NEW.enabled
    WHERE definition_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER definition_labels_follow AFTER UPDATE ON definitions
    FOR EACH ROW
    WHEN ((OLD.deleted_at, OLD.trigger_type, OLD.event_type, OLD.enabled) IS DISTINCT FROM (NEW.deleted_at, NEW.trigger_type, NEW.event_type, NEW.enabled))
    EXECUTE FUNCTION definition_labels_follow();

UPDATE definition_labels l
SET live = d.deleted_at IS NULL, seq = d.seq, trigger_type = d.trigger_type, event_type = d.event_type, enabled = d.enabled
FROM definitions d WHERE d.id = l.definition_id;

CREATE INDEX definition_labels_state ON definition_labels (key, value, trigger_type, enabled, seq) INCLUDE (definition_id) WHERE live;
CREATE INDEX definition_labels_event_type ON definition_labels (key, value, event_type, enabled, seq) INCLUDE (definition_id)
    WHERE live AND event_type IS NOT NULL;

-- The same without a label. It takes the place of one that did not know the state.
DROP INDEX definitions_event_type_order;
CREATE INDEX definitions_event_type_state ON definitions (event_type, enabled, (0 + seq)) WHERE deleted_at IS NULL AND event_type IS NOT NULL;

-- The runs of a definition, newest first, in an order that no other index has (see 7): with the one whose place this takes, the planner
-- would rather go through the runs of all, where few definitions have most of them.
DROP INDEX runs_definition_seq;
CREATE INDEX runs_definition_newest ON runs (definition_id, (-1 * seq));
