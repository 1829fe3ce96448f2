-- What was done to one thing, and to things of one kind, is found without a look at the rest of the audit trail.
CREATE INDEX audit_target ON audit (target_id, id);
CREATE INDEX audit_target_kind ON audit (target_kind, id);

-- The revision whose document came back; null for revisions that were not made so.
ALTER TABLE definition_revisions ADD COLUMN rolled_back_to integer;
