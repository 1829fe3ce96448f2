package execution

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
)

// metrics counts runs. With perDefinition off, every definition's label is left away, which bounds the number of series
// by the number of triggers and outcomes.
type metrics struct {
	perDefinition bool
	runs          *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	lag           prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer, perDefinition bool) (*metrics, error) {
	labels := func(names ...string) []string {
		if perDefinition {
			names = append(names, "definition")
		}
		return names
	}
	m := &metrics{
		perDefinition: perDefinition,
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "actcore_runs_total",
			Help: "Runs that ended, or that were skipped or missed when their workflow began, by trigger and outcome.",
		}, labels("trigger", "outcome")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "actcore_run_duration_seconds",
			Help:    "Time from a run's first task to its end, by trigger. Runs that did not run are left out.",
			Buckets: []float64{0.05, 0.25, 1, 5, 15, 60, 300, 1800, 3600, 21600},
		}, labels("trigger")),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "actcore_schedule_lag_seconds",
			Help:    "Time from a slot's nominal time to the begin of its run.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600},
		}),
	}
	for _, c := range []prometheus.Collector{m.runs, m.duration, m.lag} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) labels(run *definition.Run, values ...string) []string {
	if m.perDefinition {
		values = append(values, run.DefinitionName)
	}
	return values
}

// began counts the first decision that a run may run or wait.
func (m *metrics) began(run *definition.Run, lag time.Duration) {
	if run.Kind == definition.KindCron {
		m.lag.Observe(max(lag, 0).Seconds())
	}
}

// ended counts a run that reached a final state.
func (m *metrics) ended(run *definition.Run) {
	m.runs.WithLabelValues(m.labels(run, string(run.Kind), string(run.Status))...).Inc()
	if run.StartedAt != nil && run.FinishedAt != nil {
		m.duration.WithLabelValues(m.labels(run, string(run.Kind))...).Observe(run.FinishedAt.Sub(*run.StartedAt).Seconds())
	}
}
