// Package schedule keeps the Temporal Schedule of every cron definition as Postgres wants it.
//
// Postgres is the truth and Temporal follows. A change of a definition marks its row in the table of schedules dirty, in
// the same transaction. Whoever leases the row (the API at once, any worker within two seconds) compares the schedule
// that Temporal describes with the one wanted, changes it, reads it back, and settles the row under its lease. There is
// no leader: a lease and its fencing token are all the coordination there is.
//
//   - plan.go is pure: the schedule wanted (Want), the difference to the one found (Plan), and the mark.
//   - manager.go carries a plan out in Temporal and reads it back.
//   - reconciler.go decides whose turn it is: SyncNow, Run and SyncAll.
//
// # The mark
//
// Every schedule carries the search attribute ActivitySpecHash = "<installation>/<hash>". The installation keeps two
// installations in one namespace apart: a schedule with another installation's mark is never touched. The hash lets a full
// reconcile find what is out of date from the list of schedules alone, a thousand at a time. It only nominates; what is
// done is decided from the description of that one schedule.
//
// The list shows a schedule's times, zone, jitter, bounds, pause, note and workflow type, and the hash covers those twice:
// an edit of them behind our back is found by the next full reconcile although the mark is unchanged. It shows neither
// the rest of the action (task queue, argument, timeout, search attributes) nor the policies. An edit of those alone is
// found when the schedule is described for another reason, and at the latest after PatrolRounds full reconciles of one
// worker, each of which has that share of all schedules described.
//
// # Writing
//
// Temporal applies an update some time after it has accepted it, may drop it without a word, and lets the last writer win.
// So a schedule has one writer at a time (the lease) and every update is read back until it holds. Pause and note are
// written by the same update: Temporal's own calls to pause, unpause and trigger overwrite each other.
package schedule
