package router

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/activity-core/activity-core/internal/definition"
)

type metrics struct {
	received, redelivered, matched, unmatched, deferred, settleErrors, fetchErrors, conditionErrors, dropped prometheus.Counter
	dead, retried                                                                                            *prometheus.CounterVec
	seconds                                                                                                  prometheus.Histogram
	pending, definitions, risk, blind                                                                        prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		received: counter("actcore_events_received_total", "Deliveries of events, those that were repeated included."),
		redelivered: counter("actcore_events_redelivered_total",
			"Deliveries of events that had been delivered before."),
		matched:   counter("actcore_events_matched_total", "Deliveries of events that met at least one definition."),
		unmatched: counter("actcore_events_unmatched_total", "Deliveries of events that met no definition."),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "actcore_events_dead_total",
			Help: "Messages that became dead letters, by reason."}, []string{"reason"}),
		deferred: counter("actcore_event_starts_deferred_total",
			"Runs that were recorded and left to the sweeper, because Temporal did not start them."),
		settleErrors: counter("actcore_event_settle_errors_total",
			"Deliveries that could not be acknowledged; they are delivered again."),
		fetchErrors: counter("actcore_event_fetch_errors_total",
			"Fetches that failed, as when the consumer was deleted or NATS went away."),
		conditionErrors: counter("actcore_event_condition_errors_total",
			"Matches that could not be judged, because the definition's condition failed at the event."),
		dropped: counter("actcore_stream_dropped_unseen_total",
			"Events that the stream's retention took before any router was given them. Every router counts for itself."),
		retried: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "actcore_dead_letter_retries_total",
			Help: "Dead letters that were routed again on request, by result: routed, or dead (again)."}, []string{"result"}),
		risk: prometheus.NewGauge(prometheus.GaugeOpts{Name: "actcore_stream_retention_risk",
			Help: "How near the oldest event that no router has been given is to being taken by the stream's retention: 0 far, 1 now."}),
		blind: prometheus.NewGauge(prometheus.GaugeOpts{Name: "actcore_stream_guard_blind",
			Help: "1 when a missing right hides how near events are to being taken by the stream's retention."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "actcore_event_processing_seconds",
			Help:    "Time from the arrival of a delivery to its acknowledgement.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{Name: "actcore_consumer_pending",
			Help: "Messages of the stream that no router has been given yet."}),
		definitions: prometheus.NewGauge(prometheus.GaugeOpts{Name: "actcore_router_table_definitions",
			Help: "Definitions that events are matched against."}),
	}
	for _, reason := range definition.RejectReasons {
		m.dead.WithLabelValues(reason)
	}
	for _, result := range []string{"routed", "dead"} {
		m.retried.WithLabelValues(result)
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.received, m.redelivered, m.matched, m.unmatched, m.deferred, m.settleErrors,
		m.fetchErrors, m.dead, m.seconds, m.pending, m.definitions, m.conditionErrors, m.dropped, m.retried, m.risk, m.blind} {
		errs = append(errs, registerer.Register(c))
	}
	return m, errors.Join(errs...)
}
