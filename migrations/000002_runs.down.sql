DROP TABLE task_results;
DROP TABLE concurrency;
DROP TABLE runs;
