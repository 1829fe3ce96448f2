// Package temporalclient connects a service to Temporal: one lazy client with
// our logger and metrics, the search attributes that runs and schedules carry,
// and the readiness check.
package temporalclient

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.temporal.io/sdk/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/activity-core/activity-core/internal/config"
)

// latencyBuckets are the upper bounds, in seconds, of every latency histogram
// of the Temporal SDK. OpenTelemetry's own start at 0, 5, 10 and suit
// milliseconds.
var latencyBuckets = []float64{
	0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
}

// reconnect is how the client looks for a server that is away. The SDK's own
// pauses grow to 10 s; ours keep a service's first run after an outage within
// 5 s of Temporal's return.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

// Options are the dependencies of [New].
type Options struct {
	// Temporal says where the server is. Required.
	Temporal config.Temporal
	// Log gets what the SDK has to say. Required.
	Log *slog.Logger
	// Registerer gets the SDK's metrics: temporal_request_total,
	// temporal_activity_execution_latency_seconds and so on. Required. Use it
	// for one client only, for two would report the same series.
	Registerer prometheus.Registerer
}

// New makes a client without connecting: the first call does, so a service
// starts while Temporal is away. The caller closes the client.
func New(o Options) (client.Client, error) {
	switch {
	case o.Temporal.Options.HostPort == "" || o.Temporal.Options.Namespace == "":
		return nil, errors.New("temporal client: no address or namespace")
	case o.Log == nil:
		return nil, errors.New("temporal client: no logger")
	case o.Registerer == nil:
		return nil, errors.New("temporal client: no metrics registerer")
	}
	metrics, err := metricsHandler(o.Registerer, o.Log)
	if err != nil {
		return nil, fmt.Errorf("temporal client: %w", err)
	}
	options := o.Temporal.Options
	options.Logger = log.NewStructuredLogger(o.Log)
	options.MetricsHandler = metrics
	options.ConnectionOptions.DialOptions = append(slices.Clone(options.ConnectionOptions.DialOptions), grpc.WithConnectParams(reconnect))
	c, err := client.NewLazyClient(options)
	if err != nil {
		return nil, fmt.Errorf("temporal client: %w", err)
	}
	return c, nil
}

// metricsHandler turns the SDK's metrics into Prometheus ones. Nothing needs to
// be closed: they are read when Prometheus asks.
func metricsHandler(registerer prometheus.Registerer, logger *slog.Logger) (client.MetricsHandler, error) {
	exporter, err := otelprometheus.New(
		otelprometheus.WithRegisterer(registerer),
		// Labels and series that say nothing but "OpenTelemetry".
		otelprometheus.WithoutScopeInfo(),
		otelprometheus.WithoutTargetInfo(),
	)
	if err != nil {
		return nil, fmt.Errorf("make the metrics exporter: %w", err)
	}
	provider := metric.NewMeterProvider(
		metric.WithReader(exporter),
		metric.WithView(metric.NewView(
			metric.Instrument{Kind: metric.InstrumentKindHistogram, Unit: "s"},
			metric.Stream{Aggregation: metric.AggregationExplicitBucketHistogram{Boundaries: latencyBuckets}},
		)),
	)
	return opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{
		Meter: provider.Meter("temporal-sdk-go"),
		// Counters that only grow, so that they are counters in Prometheus too
		// and end in _total.
		UseMonotonicCounters: true,
		// The default is to panic.
		OnError: func(err error) { logger.Error("a Temporal metric cannot be recorded", "error", err) },
	}), nil
}
