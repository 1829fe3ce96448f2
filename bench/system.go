package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/schedule"
	"github.com/activity-core/activity-core/internal/testenv"
)

// bench is what every measurement shares: the servers and the binaries.
type bench struct {
	stack     testenv.Info
	namespace string
	bin       string
	temporal  client.Client
	nc        *nats.Conn
	js        jetstream.JetStream
}

func newBench(ctx context.Context) (*bench, error) {
	stack, err := testenv.ReadStack()
	if err != nil {
		return nil, err
	}
	b := &bench{stack: stack}
	if b.bin, err = os.MkdirTemp("", "activity-core-bench-"); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", b.bin, "./cmd/...").CombinedOutput(); err != nil {
		b.close()
		return nil, fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	if b.namespace, err = testenv.MakeNamespace(ctx, stack.TemporalAddress); err != nil {
		b.close()
		return nil, err
	}
	b.temporal, err = client.Dial(client.Options{HostPort: stack.TemporalAddress, Namespace: b.namespace, Logger: testenv.Quiet()})
	if err != nil {
		b.close()
		return nil, err
	}
	if b.nc, err = nats.Connect(stack.NATSURL); err != nil {
		b.close()
		return nil, err
	}
	b.js, err = jetstream.New(b.nc, jetstream.WithPublishAsyncMaxPending(1000))
	return b, err
}

func (b *bench) close() {
	if b.temporal != nil {
		b.temporal.Close()
	}
	if b.nc != nil {
		b.nc.Close()
	}
	_ = os.RemoveAll(b.bin)
}

// system is an installation with names and a database of its own.
type system struct {
	b        *bench
	id       string
	database string
	drop     func(context.Context) error
	pool     *pgxpool.Pool
	store    *postgres.Store
	procs    []*process
	syncer   *schedule.Reconciler // made when it is used
}

func (b *bench) newSystem(ctx context.Context) (*system, error) {
	s := &system{b: b, id: strings.ReplaceAll(uuid.NewString(), "-", "")[:12]}
	var err error
	if s.database, s.drop, err = testenv.CloneDatabase(ctx, b.stack.PostgresURL); err != nil {
		return nil, err
	}
	if s.pool, err = pgxpool.New(ctx, s.database); err != nil {
		return nil, err
	}
	s.store = postgres.New(s.pool)
	return s, nil
}

// end stops everything and removes what the system had.
func (s *system) end() error {
	var errs []error
	for _, p := range s.procs {
		errs = append(errs, p.stop())
	}
	s.pool.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.b.js.DeleteStream(ctx, s.stream()); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.drop(ctx))...)
}

func (s *system) stream() string       { return "BENCH_" + s.id }
func (s *system) prefix() string       { return "bench-" + s.id }
func (s *system) orchestrator() string { return "bench-orchestrator-" + s.id }

// create stores a definition.
func (s *system) create(ctx context.Context, text string) (definition.Stored, error) {
	doc, err := definition.ParseDocument([]byte(text))
	if err != nil {
		return definition.Stored{}, err
	}
	return s.store.CreateDefinition(ctx, doc)
}

// publish makes the stream, as the router would, and fills it with n events.
func (s *system) publish(ctx context.Context, n int, eventType string, storage jetstream.StorageType) error {
	_, err := s.b.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: s.stream(), Subjects: []string{s.prefix() + ".>"}, MaxAge: time.Hour, Storage: storage,
		Duplicates: time.Minute,
	})
	if err != nil {
		return err
	}
	padding := strings.Repeat("x", 160)
	for i := range n {
		body := fmt.Appendf(nil, `{"event_id": "e-%d", "type": %q, "source": "bench", "occurred_at": "2026-01-02T03:04:05Z",`+
			`"payload": {"tier": "pro", "n": %d, "padding": %q}}`, i, eventType, i, padding)
		if _, err := s.b.js.PublishAsync(s.prefix()+"."+eventType, body, jetstream.WithStallWait(30*time.Second)); err != nil {
			return err
		}
	}
	select {
	case <-s.b.js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// process is a running binary.
type process struct {
	name    string
	metrics string
	api     string // where the api serves; others do not
	cmd     *exec.Cmd
	out     bytes.Buffer
}

// start runs a service; it does not wait for it to be ready. Further variables take the place of those that it would have.
func (s *system) start(name string, more ...string) (*process, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	api, err := freeAddr()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, metrics: addr, api: "http://" + api, cmd: exec.Command(filepath.Join(s.b.bin, name))}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.Env = []string{
		"ACTCORE_DB_URL=" + s.database, "TEMPORAL_HOST=" + s.b.stack.TemporalAddress, "TEMPORAL_NAMESPACE=" + s.b.namespace,
		"NATS_URL=" + s.b.stack.NATSURL, "ACTCORE_STREAM=" + s.stream(), "ACTCORE_SUBJECT_PREFIX=" + s.prefix(),
		"ACTCORE_DURABLE=router", "ACTCORE_ORCHESTRATOR_TASK_QUEUE=" + s.orchestrator(),
		"ACTCORE_TASK_TASK_QUEUE=bench-tasks-" + s.id, "ACTCORE_API_ADDR=" + api, "ACTCORE_AUTH=off", "PROMETHEUS_BIND_ADDR=" + addr,
		"ACTCORE_EGRESS_ALLOW=127.0.0.1",
		// The console of a busy worker is no part of what is measured; warnings are kept for a failure.
		"LOG_LEVEL=warn",
	}
	p.cmd.Env = append(p.cmd.Env, more...)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	s.procs = append(s.procs, p)
	return p, nil
}

func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", p.name, err, bytes.TrimSpace(p.out.Bytes()))
	}
	return nil
}

// ready asks the process itself.
func (p *process) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.metrics+"/readyz", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// metric adds up the series of a counter whose line holds the label; 0 while the process does not answer yet.
func (p *process) metric(ctx context.Context, name, label string) float64 {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.metrics+"/metrics", nil)
	if err != nil {
		return 0
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	data, _ := io.ReadAll(res.Body)
	sum := 0.0
	for line := range strings.Lines(string(data)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		base, labels, _ := strings.Cut(series, "{")
		if i := strings.LastIndex(line, "} "); i >= 0 {
			value, ok = strings.TrimSpace(line[i+2:]), true
		}
		if !ok || base != name || !strings.Contains(labels, label) {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(value, &v); err == nil {
			sum += v
		}
	}
	return sum
}

// rate watches a counter grow from the first sight of its growth to n, and returns the growth per second. The part before
// the first sight, which holds the start of the process, is left out. It looks seldom until the end is near: a look is work
// for the process that is measured.
func (p *process) rate(ctx context.Context, n int, name, label string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	const often = 25 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	var first, v float64
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s of %s stood at %v of %d: %w: %s", name, p.name, v, n, ctx.Err(), bytes.TrimSpace(p.out.Bytes()))
		case <-timer.C:
		}
		v = p.metric(ctx, name, label)
		now := time.Now()
		pause := often
		switch {
		case v >= float64(n) && (since.IsZero() || first >= float64(n)):
			return 0, fmt.Errorf("%s of %s was over at the first look: measure more", name, p.name)
		case v >= float64(n):
			return (v - first) / now.Sub(since).Seconds(), nil
		case since.IsZero() && v > 0:
			first, since = v, now
		case v > first && !since.IsZero():
			left := time.Duration((float64(n) - v) / (v - first) * float64(now.Sub(since)))
			pause = max(often, left/2)
		}
		timer.Reset(pause)
	}
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}
