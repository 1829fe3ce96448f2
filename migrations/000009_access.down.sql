DROP TRIGGER audit_is_append_only ON audit;
DROP FUNCTION audit_is_append_only();
DROP INDEX audit_at;
DROP INDEX audit_action;
DROP INDEX audit_actor;
-- What is not about a definition has no place in the table of before.
DELETE FROM audit WHERE definition_id IS NULL OR revision IS NULL;
ALTER TABLE audit
    DROP COLUMN actor_id, DROP COLUMN address, DROP COLUMN request_id, DROP COLUMN target_kind, DROP COLUMN target_id,
    ALTER COLUMN definition_id SET NOT NULL,
    ALTER COLUMN revision SET NOT NULL;
ALTER TABLE definition_revisions DROP COLUMN actor, DROP COLUMN action;
DROP INDEX definitions_made_by;
ALTER TABLE definitions DROP COLUMN made_by;
DROP TABLE tokens;
