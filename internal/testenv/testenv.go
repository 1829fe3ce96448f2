// Package testenv gives tests their own corner of real servers: a database cloned from a migrated template, a Temporal
// namespace for each test binary, and stream, subject and queue names of their own. It fails a test, never skips it,
// when the servers are missing. Only tests import it.
package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/migrations"
)

// Variable names the file that describes the test stack.
const Variable = "ACTCORE_TEST_STACK"

// Info describes a running test stack.
type Info struct {
	PostgresURL     string `json:"postgres_url"`
	TemporalAddress string `json:"temporal_address"`
	NATSURL         string `json:"nats_url"`
	// ControlURL stops and starts the servers, for tests that own their stack.
	ControlURL string `json:"control_url"`
	// DevstackBin is the program that runs such stacks.
	DevstackBin string `json:"devstack_bin"`
}

// ReadStack reads the description of the stack that the environment names.
func ReadStack() (Info, error) {
	path := os.Getenv(Variable)
	if path == "" {
		return Info{}, errors.New("no test servers: run the tests by `make test`, or `bin/devstack exec -- go test ./...`")
	}
	return ReadStackFile(path)
}

// ReadStackFile reads the description of a stack from a file.
func ReadStackFile(path string) (Info, error) {
	var info Info
	data, err := os.ReadFile(path)
	if err != nil {
		return info, fmt.Errorf("read the test stack's description: %w", err)
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return info, fmt.Errorf("read the test stack's description %s: %w", path, err)
	}
	return info, nil
}

// Stack returns the running test stack.
func Stack(t testing.TB) Info {
	t.Helper()
	info, err := ReadStack()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// DatabaseURL makes a migrated database for this test alone and returns its URL. It is dropped when the test ends.
func DatabaseURL(t testing.TB) string {
	t.Helper()
	stack := Stack(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url, drop, err := CloneDatabase(ctx, stack.PostgresURL)
	if err != nil {
		t.Fatalf("make a database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := drop(ctx); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return url
}

// Pool opens a pool on a migrated database of this test's own. Both are closed when the test ends.
func Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return OpenPool(t, DatabaseURL(t))
}

// OpenPool opens a pool that is closed when the test ends.
func OpenPool(t testing.TB, databaseURL string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), databaseURL)
	if err != nil {
		t.Fatalf("open a pool: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// CloneDatabase makes a migrated database in the cluster of the given URL, by cloning a template that is named after the
// migrations and made by whoever comes first.
func CloneDatabase(ctx context.Context, clusterURL string) (databaseURL string, drop func(context.Context) error, err error) {
	admin, err := pgx.Connect(ctx, clusterURL)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = admin.Close(context.WithoutCancel(ctx)) }()
	template, err := ensureTemplate(ctx, admin, clusterURL)
	if err != nil {
		return "", nil, err
	}
	name := "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		return "", nil, fmt.Errorf("clone %s: %w", template, err)
	}
	// A clone is an installation of its own: two with one id would take each other's schedules for orphans.
	if err := renameInstallation(ctx, withDatabase(clusterURL, name)); err != nil {
		return "", nil, fmt.Errorf("give the clone an installation id: %w", err)
	}
	drop = func(ctx context.Context) error {
		admin, err := pgx.Connect(ctx, clusterURL)
		if err != nil {
			return err
		}
		defer func() { _ = admin.Close(context.WithoutCancel(ctx)) }()
		_, err = admin.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		return err
	}
	return withDatabase(clusterURL, name), drop, nil
}

func renameInstallation(ctx context.Context, databaseURL string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, "UPDATE installation SET id = gen_random_uuid()")
	return err
}

func ensureTemplate(ctx context.Context, admin *pgx.Conn, clusterURL string) (string, error) {
	hash := sha256.New()
	files, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		data, err := fs.ReadFile(migrations.FS, file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n", file, len(data))
		hash.Write(data)
	}
	name := "template_" + hex.EncodeToString(hash.Sum(nil)[:8])
	const lock = 7_283_401 // any number that nothing else locks
	if _, err := admin.Exec(ctx, "SELECT pg_advisory_lock($1)", lock); err != nil {
		return "", err
	}
	defer func() { _, _ = admin.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", lock) }()
	// A template that does not allow connections is finished: a session on it would make every clone wait and fail.
	var finished *bool
	err = admin.QueryRow(ctx, "SELECT NOT datallowconn FROM pg_database WHERE datname = $1", name).Scan(&finished)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", err
	}
	if finished != nil && *finished {
		return name, nil
	}
	for _, statement := range []string{"DROP DATABASE IF EXISTS " + name + " WITH (FORCE)", "CREATE DATABASE " + name} {
		if _, err := admin.Exec(ctx, statement); err != nil {
			return "", fmt.Errorf("make the template database: %w", err)
		}
	}
	if err := migrations.Up(ctx, withDatabase(clusterURL, name)); err != nil {
		return "", fmt.Errorf("migrate the template database: %w", err)
	}
	_, err = admin.Exec(ctx, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
	return name, err
}

func withDatabase(clusterURL, name string) string {
	u, err := url.Parse(clusterURL)
	if err != nil {
		return clusterURL
	}
	u.Path = "/" + name
	return u.String()
}

// namespaces holds one Temporal namespace for each test binary: making one takes seconds.
var namespaces struct {
	sync.Mutex
	name string
	err  error
}

// Namespace returns the Temporal namespace of this test binary, with activity-core's search attributes usable.
func Namespace(t testing.TB) string {
	t.Helper()
	stack := Stack(t)
	namespaces.Lock()
	defer namespaces.Unlock()
	if namespaces.name == "" && namespaces.err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		namespaces.name, namespaces.err = MakeNamespace(ctx, stack.TemporalAddress)
	}
	if namespaces.err != nil {
		t.Fatalf("make a Temporal namespace: %v", namespaces.err)
	}
	return namespaces.name
}

// MakeNamespace registers a Temporal namespace with activity-core's search attributes and waits until both are usable.
func MakeNamespace(ctx context.Context, address string) (string, error) {
	name := "test-" + uuid.NewString()
	c, err := client.DialContext(ctx, client.Options{HostPort: address, Namespace: name, Logger: Quiet()})
	if err != nil {
		return "", err
	}
	defer c.Close()
	_, err = c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	if err != nil {
		return "", err
	}
	// Usable means that a workflow can be started with the attributes: every cache between has then seen them.
	attributes := map[string]enumspb.IndexedValueType{
		definition.SearchAttributeID:       enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		definition.SearchAttributeName:     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		definition.SearchAttributeSpecHash: enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	}
	err = until(ctx, 100*time.Millisecond, func() error {
		_, err := c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
			Namespace: name, SearchAttributes: attributes,
		})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("register search attributes: %w", err)
	}
	err = until(ctx, 100*time.Millisecond, func() error {
		options := client.StartWorkflowOptions{
			ID: "probe", TaskQueue: "probe", WorkflowRunTimeout: time.Second,
			TypedSearchAttributes: probeAttributes(),
		}
		_, err := c.ExecuteWorkflow(ctx, options, "Probe")
		var started *serviceerror.WorkflowExecutionAlreadyStarted
		if errors.As(err, &started) {
			return nil
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("wait for search attributes: %w", err)
	}
	return name, c.TerminateWorkflow(ctx, "probe", "", "namespace is ready")
}

// Temporal returns a client of this test binary's namespace, closed when the test ends.
func Temporal(t testing.TB) client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := client.DialContext(ctx, client.Options{
		HostPort: Stack(t).TemporalAddress, Namespace: Namespace(t), Logger: Quiet(),
	})
	if err != nil {
		t.Fatalf("dial Temporal: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// NATS returns a connection to the stack's NATS server, closed when the test ends.
func NATS(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(Stack(t).NATSURL, nats.Timeout(10*time.Second))
	if err != nil {
		t.Fatalf("connect to NATS: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Names returns a stream, subject prefix, durable and task queues that no other test uses. The stream is deleted when the
// test ends.
func Names(t testing.TB) config.Names {
	t.Helper()
	unique := strings.ReplaceAll(uuid.NewString(), "-", "")[:16]
	names := config.Names{
		Stream: "TEST_" + unique, SubjectPrefix: "test-" + unique, Durable: "router-" + unique,
		OrchestratorTaskQueue: "orchestrator-" + unique, TaskTaskQueue: "tasks-" + unique,
	}
	nc := NATS(t)
	js, err := nc.JetStream(nats.MaxWait(30 * time.Second))
	if err != nil {
		t.Fatalf("use JetStream: %v", err)
	}
	keepStreams(t, js)
	t.Cleanup(func() {
		if err := js.DeleteStream(names.Stream); err != nil && !errors.Is(err, nats.ErrStreamNotFound) {
			t.Errorf("delete the test's stream: %v", err)
		}
	})
	return names
}

var keeping sync.Once

// keepStreams makes one stream that nobody deletes. After its last stream is gone nats-server removes the folder of all
// streams, in a goroutine of its own, and a stream that is made at that moment fails with "error creating store for stream"
// (nats-server 2.15.2, stream.go, stop).
func keepStreams(t testing.TB, js nats.JetStreamContext) {
	t.Helper()
	keeping.Do(func() {
		if _, err := js.AddStream(&nats.StreamConfig{Name: "TEST_KEEP", Subjects: []string{"test-keep"}}); err != nil {
			t.Errorf("make the stream that stays: %v", err)
		}
	})
}

// patience is for machines that are several times slower than the one on which the timeouts of the tests were chosen: nothing is
// wrong only because it is late.
const patience = 4

// Eventually polls a condition until it holds, and fails the test when it has not held long after the time in which it is
// expected, or when it returns an error. See Within for what has to hold by some time.
func Eventually(t testing.TB, expected time.Duration, what string, condition func(context.Context) (bool, error)) {
	t.Helper()
	Within(t, patience*expected, what, condition)
}

// Within is Eventually for what is promised to hold within a time.
func Within(t testing.TB, timeout time.Duration, what string, condition func(context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := condition(ctx)
		if ok {
			return
		}
		if err != nil && ctx.Err() == nil {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s", what, timeout)
		case <-tick.C:
		}
	}
}

func until(ctx context.Context, pause time.Duration, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}
