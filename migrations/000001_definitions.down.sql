DROP TABLE audit;
DROP TABLE schedule_sync;
DROP TABLE definition_revisions;
DROP TABLE definitions;
DROP FUNCTION definitions_changed();
DROP TABLE installation;
