// Package lifecycle starts, watches and stops a process: what every binary
// needs around its own work.
//
// [Main] turns signals into a cancelled context and an error into one line and
// an exit code. [Run] starts a service's components in the order given and
// stops them in the reverse order:
//
//  1. The context ends (SIGINT, SIGTERM, or a component failed). /readyz turns
//     red at once, so that load balancers look elsewhere.
//  2. The last component is told to stop and waited for, until its own
//     StopTimeout at most; then the one before it, and so on.
//  3. The first component, by custom the operations server of [NewOps], goes
//     last, so that /healthz and /metrics answer while the others drain.
//
// So a component may rely, until it has returned, on everything that is listed
// before it. A second signal ends the process without waiting.
//
// A dependency that is away is never a reason to exit: services start and stay
// up, /healthz stays green, /readyz says what is missing, and [Retry] tries
// again.
package lifecycle
