// Package execution is what happens inside a run: the RunActivity workflow, the Temporal activities that tie it to the
// ledger, one file for each type of task, and the two Temporal workers that carry all of this.
//
// Values stay in Postgres. The workflow's history holds a run id, the names, types and limits of its tasks, and
// statuses; a task's Temporal activity reads its input from the ledger and writes its output there. Only the arguments
// and results of the user's own Temporal activities and workflows pass through Temporal, for there is no other way.
//
// A run with one log task costs as much history as a workflow written by hand with one Temporal activity, plus the
// markers of two local activities: the same events otherwise, the same number of workflow tasks, no timer.
//
// A workflow of an older version may be replayed by this code at any time. Its recorded histories are in testdata; a
// change that they do not survive needs workflow.GetVersion.
package execution
