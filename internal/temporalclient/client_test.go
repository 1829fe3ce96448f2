package temporalclient

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

func options(address, namespace string) Options {
	return Options{
		Temporal:   config.Temporal{Options: client.Options{HostPort: address, Namespace: namespace}},
		Log:        slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry(),
	}
}

func newClient(t *testing.T, o Options) client.Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// newNamespace registers a namespace without any search attribute.
func newNamespace(t *testing.T) (name string, c client.Client) {
	t.Helper()
	name = "test-" + uuid.NewString()
	c = newClient(t, options(testenv.Stack(t).TemporalAddress, name))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return name, c
}

// ensure does what a service does with a failure that may pass.
func ensure(ctx context.Context, c client.Client, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := EnsureSearchAttributes(ctx, c, namespace)
		// The cache of namespaces may be a second behind.
		if !errors.Is(err, ErrNamespaceNotFound) || pause(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
}

func TestSearchAttributesByManyServices(t *testing.T) {
	t.Parallel()
	namespace, c := newNamespace(t)
	testenv.Eventually(t, 20*time.Second, "a readiness that misses the attributes", func(ctx context.Context) (bool, error) {
		err := Check(c, namespace)(ctx)
		return err != nil && err.Error() == "namespace "+namespace+" lacks the search attributes ActivityId, ActivityName, ActivitySpecHash: a worker registers them when it starts", nil
	})
	var wg sync.WaitGroup
	errs := make([]error, 5)
	for i := range errs {
		other := newClient(t, options(testenv.Stack(t).TemporalAddress, namespace))
		wg.Go(func() { errs[i] = ensure(t.Context(), other, namespace) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if err := Check(c, namespace)(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	// Usable at once, which is what the waiting is for.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: "probe", TaskQueue: "probe",
		TypedSearchAttributes: temporal.NewSearchAttributes(
			temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeID).ValueSet("x")),
	}, "Probe")
	if err != nil {
		t.Errorf("start a workflow with a search attribute: %v", err)
	}
	if err := c.TerminateWorkflow(ctx, "probe", "", "done"); err != nil {
		t.Error(err)
	}
}

func TestSearchAttributeOfAnotherType(t *testing.T) {
	t.Parallel()
	namespace, c := newNamespace(t)
	testenv.Eventually(t, 20*time.Second, "add an attribute of another type", func(ctx context.Context) (bool, error) {
		_, err := c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
			Namespace:        namespace,
			SearchAttributes: map[string]enumspb.IndexedValueType{definition.SearchAttributeName: enumspb.INDEXED_VALUE_TYPE_INT},
		})
		return err == nil, nil
	})
	want := "search attribute ActivityName of namespace " + namespace + " is of type Int, but must be Keyword: " +
		"remove it with `temporal operator search-attribute remove --namespace " + namespace + " --name ActivityName` if nothing uses it, or use another namespace"
	testenv.Eventually(t, 20*time.Second, "a namespace that every cache knows", func(ctx context.Context) (bool, error) {
		return describeNamespace(ctx, c, namespace) == nil, nil
	})
	for what, err := range map[string]error{
		"EnsureSearchAttributes": EnsureSearchAttributes(t.Context(), c, namespace),
		"Check":                  Check(c, namespace)(t.Context()),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", what, err, want)
		}
	}
}

func TestNamespaceThatDoesNotExist(t *testing.T) {
	t.Parallel()
	c := newClient(t, options(testenv.Stack(t).TemporalAddress, "nowhere"))
	const want = "temporal namespace does not exist: make it with `temporal operator namespace create --namespace nowhere`, or set TEMPORAL_NAMESPACE to one that exists"
	for what, err := range map[string]error{
		"EnsureSearchAttributes": EnsureSearchAttributes(t.Context(), c, "nowhere"),
		"Check":                  Check(c, "nowhere")(t.Context()),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", what, err, want)
		}
	}
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	c := newClient(t, options("127.0.0.1:1", "default")) // lazy: no error
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	err := Check(c, "default")(ctx)
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("Check = %v, want an error in one line", err)
	}
	t.Logf("error: %v", err)
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for want, drop := range map[string]func(*Options){
		"address or namespace": func(o *Options) { o.Temporal.Options.HostPort = "" },
		"logger":               func(o *Options) { o.Log = nil },
		"metrics registerer":   func(o *Options) { o.Registerer = nil },
	} {
		o := options("127.0.0.1:1", "default")
		drop(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want one that names the %s", err, want)
		}
	}
}

// TestMetrics runs a workflow and holds the names, kinds, buckets and labels
// that dashboards and the documentation rely on.
func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	o := options(testenv.Stack(t).TemporalAddress, testenv.Namespace(t))
	o.Registerer = registry
	var logged testenv.LogBuffer
	o.Log = slog.New(slog.NewTextHandler(&logged, nil))
	c := newClient(t, o)
	queue := testenv.Names(t).OrchestratorTaskQueue
	w := worker.New(c, queue, worker.Options{DisableEagerActivities: true})
	act := func(context.Context) error { return nil }
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
		return workflow.ExecuteActivity(ctx, act).Get(ctx, nil)
	}, workflow.RegisterOptions{Name: "Measured"})
	w.RegisterActivity(act)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: queue}, "Measured")
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Get(ctx, nil); err != nil {
		t.Fatal(err)
	}
	w.Stop()

	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range families {
		byName[f.GetName()] = f
	}
	for name, kind := range map[string]dto.MetricType{
		"temporal_request_total":                                   dto.MetricType_COUNTER,
		"temporal_request_latency_seconds":                         dto.MetricType_HISTOGRAM,
		"temporal_workflow_completed_total":                        dto.MetricType_COUNTER,
		"temporal_activity_execution_latency_seconds":              dto.MetricType_HISTOGRAM,
		"temporal_activity_schedule_to_start_latency_seconds":      dto.MetricType_HISTOGRAM,
		"temporal_workflow_task_schedule_to_start_latency_seconds": dto.MetricType_HISTOGRAM,
		"temporal_worker_task_slots_available":                     dto.MetricType_GAUGE,
	} {
		f, ok := byName[name]
		if !ok || f.GetType() != kind {
			t.Errorf("%s is %v, want %v", name, f.GetType(), kind)
			continue
		}
		if kind != dto.MetricType_HISTOGRAM {
			continue
		}
		buckets := f.GetMetric()[0].GetHistogram().GetBucket()
		if n := len(buckets); n < len(latencyBuckets) || buckets[0].GetUpperBound() != 0.001 || buckets[len(latencyBuckets)-1].GetUpperBound() != 60 {
			t.Errorf("%s has buckets %v", name, buckets)
		}
	}
	if !hasLabel(byName["temporal_workflow_completed_total"], "task_queue", queue) {
		t.Errorf("temporal_workflow_completed_total has no label task_queue=%q: %v", queue, byName["temporal_workflow_completed_total"])
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "temporal_") || hasLabel(f, "otel_scope_name", "temporal-sdk-go") {
			t.Errorf("unwanted series: %s", f.GetName())
		}
	}
	if !strings.Contains(logged.String(), "Started Worker") {
		t.Errorf("the SDK did not use our logger: %s", logged.String())
	}
}

func hasLabel(f *dto.MetricFamily, name, value string) bool {
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == name && l.GetValue() == value {
				return true
			}
		}
	}
	return false
}
