package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/prometheus/client_golang/prometheus"
)

type httpMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	limited  *prometheus.CounterVec
}

func newHTTPMetrics(registerer prometheus.Registerer) (*httpMetrics, error) {
	m := &httpMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "actcore_http_requests_total",
			Help: "Requests answered by the API, by method, route pattern and status code.",
		}, []string{"method", "route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "actcore_http_request_seconds",
			Help:    "Time from reading a request's headers to the end of its answer.",
			Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method", "route"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "actcore_http_limited_total",
			Help: "Requests refused with 429, by the limit that they met: caller, address or credential.",
		}, []string{"limit"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.limited} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("api: register metrics: %w", err)
		}
	}
	for _, limit := range []string{limitCaller, limitAddress, limitCredential} {
		m.limited.WithLabelValues(limit) // 0 from the start, so that the first one is an increase
	}
	return m, nil
}

var knownMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodOptions}

func (m *httpMetrics) observe(method, route string, status int, took time.Duration) {
	if !slices.Contains(knownMethods, method) {
		method = "other" // a client must not be able to make series
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(method, route).Observe(took.Seconds())
}

// definitionCounter counts the definitions that are not deleted.
type definitionCounter interface {
	CountDefinitions(ctx context.Context) (map[definition.TriggerType]int, error)
}

const (
	// countCache is how long a count is served again, whoever scrapes.
	countCache   = 15 * time.Second
	countTimeout = 2 * time.Second
)

// definitionGauge asks the storage when it is scraped. While the storage is away there is no sample: an old number would
// look like the truth.
type definitionGauge struct {
	store definitionCounter
	log   *slog.Logger
	desc  *prometheus.Desc

	mu     sync.Mutex // held while asking: concurrent scrapes share the answer
	counts map[definition.TriggerType]int
	asked  time.Time
}

func registerDefinitionGauge(registerer prometheus.Registerer, store definitionCounter, log *slog.Logger) error {
	err := registerer.Register(&definitionGauge{store: store, log: log, desc: prometheus.NewDesc("actcore_definitions",
		"Definitions that are not deleted, by trigger type.", []string{"trigger"}, nil)})
	if err != nil {
		return fmt.Errorf("api: register metrics: %w", err)
	}
	return nil
}

func (g *definitionGauge) Describe(descs chan<- *prometheus.Desc) { descs <- g.desc }

func (g *definitionGauge) Collect(samples chan<- prometheus.Metric) {
	for trigger, n := range g.count() {
		samples <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(n), string(trigger))
	}
}

func (g *definitionGauge) count() map[definition.TriggerType]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.asked.IsZero() && time.Since(g.asked) < countCache {
		return g.counts
	}
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	counts, err := g.store.CountDefinitions(ctx)
	if err != nil {
		g.log.LogAttrs(ctx, slog.LevelWarn, "definitions not counted for the metrics", slog.Any("error", err))
		counts = nil
	}
	g.counts, g.asked = counts, time.Now()
	return g.counts
}
