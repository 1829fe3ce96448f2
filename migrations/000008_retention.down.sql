DROP INDEX dead_letters_created, events_recorded;
ALTER TABLE installation DROP COLUMN stream_age;
DROP TRIGGER runs_made_ended ON runs;
DROP TRIGGER runs_ended ON runs;
DROP FUNCTION runs_ended;
DROP TABLE run_ends;
