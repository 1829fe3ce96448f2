DROP INDEX runs_definition_newest;
CREATE INDEX runs_definition_seq ON runs (definition_id, seq DESC);
DROP INDEX definitions_event_type_state;
CREATE INDEX definitions_event_type_order ON definitions (event_type, (0 + seq)) WHERE deleted_at IS NULL AND event_type IS NOT NULL;
DROP TRIGGER definition_labels_follow ON definitions;
DROP FUNCTION definition_labels_follow();
DROP TRIGGER definition_labels_made ON definition_labels;
DROP FUNCTION definition_labels_made();
ALTER TABLE definition_labels
    DROP COLUMN live, DROP COLUMN seq, DROP COLUMN trigger_type, DROP COLUMN event_type, DROP COLUMN enabled;
