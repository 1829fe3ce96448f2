ALTER TABLE definition_revisions DROP COLUMN rolled_back_to;
DROP INDEX audit_target_kind;
DROP INDEX audit_target;
