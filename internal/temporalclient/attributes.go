package temporalclient

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// callTimeout bounds each call to Temporal.
	callTimeout = 5 * time.Second
	// addTries is how often a failed registration is tried in all: several
	// services register at the same time when they start together, and Temporal
	// lets all but one of them fail.
	addTries = 8
	// addPause is the time between these tries.
	addPause = 250 * time.Millisecond
	// usableTimeout bounds waiting for new attributes to become usable, which
	// takes a second or two (the server's namespace cache).
	usableTimeout = 15 * time.Second
	// usablePause is the time between two looks; each counts against the ten
	// visibility calls a second that a namespace has.
	usablePause = 300 * time.Millisecond
)

// SearchAttributes are the names of the Keyword attributes that runs and
// schedules carry.
var SearchAttributes = []string{
	definition.SearchAttributeID,
	definition.SearchAttributeName,
	definition.SearchAttributeSpecHash,
}

// ErrNamespaceNotFound means that the namespace must be made by an operator.
var ErrNamespaceNotFound = errors.New("namespace does not exist")

// EnsureSearchAttributes registers our search attributes in a namespace, unless
// they are there, and waits until they can be used. Any number of processes may
// do so at once. An attribute that exists with another type than Keyword is an
// error that names it and the way out. Errors may pass: call it again.
func EnsureSearchAttributes(ctx context.Context, c client.Client, namespace string) error {
	if err := describeNamespace(ctx, c, namespace); err != nil {
		return err
	}
	var err error
	for try := 1; ; try++ {
		var missing []string
		missing, err = missingAttributes(ctx, c, namespace)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			break
		}
		if err = addAttributes(ctx, c, namespace, missing); err != nil {
			if try == addTries || !worthRetrying(err) {
				return fmt.Errorf("register the search attributes %s in namespace %s: %w", strings.Join(missing, ", "), namespace, err)
			}
		} else if try == addTries {
			return fmt.Errorf("register the search attributes %s in namespace %s: Temporal accepted them but does not list them", strings.Join(missing, ", "), namespace)
		}
		if err := pause(ctx, addPause); err != nil {
			return fmt.Errorf("register the search attributes in namespace %s: %w", namespace, err)
		}
	}
	return waitUsable(ctx, c, namespace)
}

// Check returns the readiness check of Temporal: the server serves, the
// namespace exists, and our search attributes are there with the right type.
func Check(c client.Client, namespace string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if _, err := c.CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
			return fmt.Errorf("ask Temporal for its health: %w", err)
		}
		if err := describeNamespace(ctx, c, namespace); err != nil {
			return err
		}
		missing, err := missingAttributes(ctx, c, namespace)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return fmt.Errorf("namespace %s lacks the search attributes %s: a worker registers them when it starts", namespace, strings.Join(missing, ", "))
		}
		return nil
	}
}

func describeNamespace(ctx context.Context, c client.Client, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	var missing *serviceerror.NamespaceNotFound
	switch {
	case errors.As(err, &missing):
		return fmt.Errorf("temporal %w: make it with `temporal operator namespace create --namespace %s`, or set TEMPORAL_NAMESPACE to one that exists", ErrNamespaceNotFound, namespace)
	case err != nil:
		return fmt.Errorf("look for the Temporal namespace %s: %w", namespace, err)
	}
	return nil
}

// missingAttributes lists which of our attributes are not there. One of another
// type is an error.
func missingAttributes(ctx context.Context, c client.Client, namespace string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Adding again with another type would be answered with success, so the
	// list is the only proof.
	list, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return nil, fmt.Errorf("list the search attributes of namespace %s: %w", namespace, err)
	}
	var missing []string
	for _, name := range SearchAttributes {
		kind, ok := list.GetCustomAttributes()[name]
		switch {
		case !ok:
			missing = append(missing, name)
		case kind != enumspb.INDEXED_VALUE_TYPE_KEYWORD:
			return nil, fmt.Errorf("search attribute %[1]s of namespace %[2]s is of type %[3]s, but must be Keyword: "+
				"remove it with `temporal operator search-attribute remove --namespace %[2]s --name %[1]s` if nothing uses it, or use another namespace",
				name, namespace, kind)
		}
	}
	return missing, nil
}

func addAttributes(ctx context.Context, c client.Client, namespace string, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	add := make(map[string]enumspb.IndexedValueType, len(names))
	for _, name := range names {
		add[name] = enumspb.INDEXED_VALUE_TYPE_KEYWORD
	}
	_, err := c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace:        namespace,
		SearchAttributes: add,
	})
	return err
}

// worthRetrying tells a lost race, or a server in trouble, from a refusal. The
// server reports the race as Unavailable or Internal, by kind of store.
func worthRetrying(err error) bool {
	var denied *serviceerror.PermissionDenied
	var invalid *serviceerror.InvalidArgument
	return !errors.As(err, &denied) && !errors.As(err, &invalid)
}

// waitUsable waits until a query may name the attributes; before that, starting
// a workflow with them fails as well.
func waitUsable(ctx context.Context, c client.Client, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, usableTimeout)
	defer cancel()
	clauses := make([]string, len(SearchAttributes))
	for i, name := range SearchAttributes {
		clauses[i] = name + " = 'none'"
	}
	request := &workflowservice.CountWorkflowExecutionsRequest{Namespace: namespace, Query: strings.Join(clauses, " AND ")}
	for {
		_, err := c.WorkflowService().CountWorkflowExecutions(ctx, request)
		if err == nil {
			return nil
		}
		if pause(ctx, usablePause) != nil {
			return fmt.Errorf("wait for the search attributes of namespace %s: not usable after %v: %w", namespace, usableTimeout, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
