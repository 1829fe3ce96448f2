DROP INDEX runs_waking;
ALTER TABLE runs DROP COLUMN wake_after;
DROP INDEX runs_line, runs_running, runs_accepted_at, runs_reason, runs_state, runs_definition_state, definitions_any_name, runs_replay;
CREATE INDEX runs_replay ON runs (replay_id, seq) WHERE replay_id IS NOT NULL;
CREATE INDEX runs_open ON runs (definition_id, seq) WHERE status IN ('queued', 'running');
CREATE INDEX runs_line ON runs (definition_id, concurrency_key, seq) WHERE run_limit > 0 AND status IN ('accepted', 'queued', 'running');
DROP TABLE definition_labels;
