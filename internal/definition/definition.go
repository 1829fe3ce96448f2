package definition

import (
	"time"
)

// Limits on a definition.
const (
	MaxDocument      = 64 << 10 // bytes of JSON
	MaxTasks         = 50
	MaxDescription   = 2000 // characters
	MaxPauseReason   = 200  // characters
	MaxLabels        = 32
	MaxLabelValue    = 255
	DefaultTimeout   = 24 * time.Hour
	MaxTimeout       = 30 * 24 * time.Hour
	MaxConcurrency   = 10_000
	DefaultTaskLimit = 5 * time.Minute
	DefaultWaitLimit = 24 * time.Hour
	// MaxItems is the most items of a for_each, DefaultParallel how many are done at a time, MaxParallel the most; MaxUserParallel is
	// the most for tasks of the user's own workers, whose results travel through Temporal.
	MaxItems        = 1000
	DefaultParallel = 10
	MaxParallel     = 100
	MaxUserParallel = 20
	// OnFailureLimit bounds all on_failure tasks of a run together.
	OnFailureLimit = 30 * time.Minute
	// MaxExpressions is the most expressions of a definition, those in texts included.
	MaxExpressions = 500
	// MaxConcurrencyKey is the most characters of a concurrency key's value.
	MaxConcurrencyKey = 200
	// MaxNesting is how deep the objects and lists of any JSON that is taken may be nested, the outermost being the first level: of
	// definitions, of inputs by hand and of events alike, so that a run can be given by hand whatever an event can give it.
	MaxNesting = 100
	// MaxDepth is how many runs may follow from one another by events of their ends.
	MaxDepth = 10
)

// Document is a definition as its author writes it. ParseDocument and the Document's own Replace and Merge are the only
// ways to make one from JSON; they fill in the defaults and refuse what is not legal.
type Document struct {
	// Name is unique among definitions that are not deleted: [a-z0-9][a-z0-9._-]{0,99}.
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	// Enabled definitions become due by their trigger; others run by hand only. Default true.
	Enabled bool `json:"enabled"`
	// PauseReason is why it is disabled, for people; empty while it is enabled.
	PauseReason string  `json:"pause_reason,omitempty"`
	Trigger     Trigger `json:"trigger_config"`
	// Tasks run in parallel, each once the tasks that it needs are settled; one that fails for good fails the run. None is legal.
	Tasks []Task `json:"tasks"`
	// OnFailure runs after the tasks of a run that failed or timed out.
	OnFailure []Task `json:"on_failure,omitempty"`
	// Notify tells of the ends of runs.
	Notify []Notification `json:"notify,omitempty"`
	// Concurrency bounds the runs of this definition at one time; nil for the default of the trigger type.
	Concurrency *Concurrency `json:"concurrency,omitempty"`
	// Timeout bounds a run from its first task to its last; 0 means DefaultTimeout.
	Timeout Duration `json:"timeout,omitzero"`
}

// Definition is a stored definition.
type Definition struct {
	ID       string
	Revision int // 1 for the first; every change adds one
	Document
	CreatedAt time.Time
	UpdatedAt time.Time
	// EnabledSince is when it was last enabled (or created enabled). Older events do not meet it.
	EnabledSince time.Time
}

// Concurrency bounds how many runs of a definition run at one time.
type Concurrency struct {
	// Limit is the greatest number of runs at once; 0 for no limit.
	Limit int `json:"limit"`
	// Key is an expression over the occurrence: the limit holds for each of its values. Empty: for the definition.
	Key string `json:"key,omitempty"`
	// OnLimit says what becomes of an occurrence that finds the limit reached: OnLimitSkip (the default), OnLimitQueue or OnLimitReplace.
	OnLimit string `json:"on_limit,omitempty"`
}

// What becomes of an occurrence that finds the concurrency limit reached.
const (
	OnLimitSkip  = "skip"
	OnLimitQueue = "queue"
	// OnLimitReplace cancels the oldest run that runs, and takes its place.
	OnLimitReplace = "replace"
)

// Limits returns the concurrency in force: the definition's own, or else one at a time with skipping for cron, and no
// limit for the other triggers. A run by hand always queues instead of being skipped: somebody waits for it. Backfills and
// replays, which ask for all of their runs, also queue where one run replaces another.
func (d *Document) Limits(kind TriggerKind) Concurrency {
	c := Concurrency{OnLimit: OnLimitSkip}
	switch {
	case d.Concurrency != nil:
		c = *d.Concurrency
	case d.Trigger.FollowsClock():
		c.Limit = 1
	}
	switch {
	case c.OnLimit == OnLimitReplace && kind != KindBackfill && kind != KindReplay:
	case kind.ByHand():
		c.OnLimit = OnLimitQueue
	case c.OnLimit == "":
		c.OnLimit = OnLimitSkip
	}
	return c
}

// RunTimeout returns the timeout of a run in force.
func (d *Document) RunTimeout() time.Duration {
	if d.Timeout == 0 {
		return DefaultTimeout
	}
	return time.Duration(d.Timeout)
}

// Backstop returns the timeout to give to Temporal's own run timeout logic: the run's timeout, or 0 (none) when a run
// may wait in a queue or in a line of late slots, which has no bound.
func (d *Document) Backstop(kind TriggerKind) time.Duration {
	if c := d.Limits(kind); c.Limit > 0 && c.OnLimit != OnLimitSkip || d.Trigger.MisfirePolicy == MisfireCatchup {
		return 0
	}
	return d.RunTimeout()
}

// Duration is a time.Duration that is written as a Go duration string, as in "90s" or "1h30m".
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes the Go duration string.
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(d.String()), nil
}

// UnmarshalText reads a Go duration string.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return errBadDuration
	}
	*d = Duration(v)
	return nil
}
