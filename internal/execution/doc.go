// Package execution is what happens inside a run: the RunActivity workflow, the Temporal activities that tie it to the
// ledger, one file for each type of task, and the two Temporal workers that carry all of this.
//
// Values stay in Postgres. The workflow's history holds a run id, the names, types and limits of its tasks, and
// statuses; a task's Temporal activity reads its input from the ledger and writes its output there. Only the arguments
// and results of the user's own Temporal activities and workflows pass through Temporal, for there is no other way.
//
// The workflow (workflow.go) begins a run, carries out its tasks and ends it. What may begin when is decided by graph.go, which knows
// nothing of Temporal; flow.go is what Temporal has to do with it, a coroutine for each task in progress. Lists are in items.go, waits
// in task_wait.go. sequence.go carries out the runs that older versions began.
//
// A run of log tasks is one workflow task, with a marker for each statement in the ledger. An http or publish task adds the events of a
// Temporal activity, and nothing else.
//
// A workflow of an older version may be replayed by this code at any time. Recorded histories are in testdata;
// docs/decisions/0020-changing-workflow-code.md says how the workflow may change.
package execution
