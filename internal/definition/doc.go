// Package definition is the domain: what a definition, a trigger, a task, an event and a run are, which of them are
// legal, and how their identifiers are made. It does no I/O and knows neither Postgres, Temporal nor NATS.
//
// A definition is stored as a [Document], the JSON that a user writes. Everything that a service adds to it (id,
// revision, times) is in [Definition]. The same JSON is the request body, the stored revision and the answer, so what
// is read back is what was written, with the defaults filled in.
package definition
