package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

type stackOptions struct {
	DataDir string // absolute; made when missing
	Ports   stackPorts
	Durable bool // false: fsync off in Postgres, no sync on every write in NATS
	Getenv  func(string) string
	// ResetHint says what to do about broken data, for example "run `make dev-reset`".
	ResetHint string
	// Notice receives one line on something the user should know.
	Notice func(string)
}

// stackPorts are the loopback ports of the servers. NATSMonitor 0 means no monitoring.
type stackPorts struct {
	Postgres, NATS, NATSMonitor, Temporal int
}

// stack is the three servers, started in the order Postgres, NATS, Temporal and stopped the other
// way round.
type stack struct {
	postgres *pgCluster
	nats     *natsServer
	temporal *temporalServer

	// failed receives the reason when a running server gives up by itself.
	failed chan error
}

// stackInfo is where the servers are, as written for the tests.
type stackInfo struct {
	PostgresURL     string `json:"postgres_url"`
	TemporalAddress string `json:"temporal_address"`
	NATSURL         string `json:"nats_url"`
	ControlURL      string `json:"control_url,omitempty"`
	DevstackBin     string `json:"devstack_bin"`
}

// newStack prepares the data folder and the servers. It starts nothing.
func newStack(ctx context.Context, opts stackOptions) (*stack, error) {
	logs := filepath.Join(opts.DataDir, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	for _, name := range []string{"postgres.log", "nats.log", "temporal.log"} {
		if err := trimLog(filepath.Join(logs, name)); err != nil {
			return nil, err
		}
	}
	s := &stack{failed: make(chan error, 1)}
	var err error
	s.postgres, err = newCluster(ctx, clusterOptions{
		DataDir:   opts.DataDir,
		LogFile:   filepath.Join(logs, "postgres.log"),
		Port:      opts.Ports.Postgres,
		Durable:   opts.Durable,
		Getenv:    opts.Getenv,
		Finder:    newPGFinder(opts.Getenv),
		ResetHint: opts.ResetHint,
		Notice:    opts.Notice,
		Failed:    s.fail,
	})
	if err != nil {
		return nil, err
	}
	s.nats = newNATS(natsOptions{
		StoreDir:    filepath.Join(opts.DataDir, "nats"),
		LogFile:     filepath.Join(logs, "nats.log"),
		Port:        opts.Ports.NATS,
		MonitorPort: opts.Ports.NATSMonitor,
		SyncAlways:  opts.Durable,
	})
	s.temporal, err = newTemporal(temporalOptions{
		Cluster: s.postgres,
		LogFile: filepath.Join(logs, "temporal.log"),
		Port:    opts.Ports.Temporal,
		Failed:  s.fail,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// maxLog is the size at which the log of a server is put aside at the next start.
const maxLog = 10 << 20

// trimLog puts a large log aside, over the one put aside before.
func trimLog(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() < maxLog {
		return nil
	}
	if err := os.Rename(path, path+".old"); err != nil {
		return fmt.Errorf("put a large log aside: %w", err)
	}
	return nil
}

// fail reports the first failure of a running server; later ones are its consequences.
func (s *stack) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// Start starts the servers one after another. started is called after each.
// When one fails, those already running are stopped.
func (s *stack) Start(ctx context.Context, started func(name string)) error {
	steps := []struct {
		name  string
		start func(context.Context) error
	}{
		{"Postgres", s.postgres.Start},
		{"NATS", s.nats.Start},
		{"Temporal", s.temporal.Start},
	}
	for _, step := range steps {
		if err := step.start(ctx); err != nil {
			return errors.Join(err, s.Stop(nil, func(string) {}))
		}
		started(step.name)
	}
	if err := s.postgres.ensureDatabase(ctx, pgUser); err != nil {
		return errors.Join(err, s.Stop(nil, func(string) {}))
	}
	return nil
}

// Stop stops the servers. stopping is called before each. Once hurry is closed, nothing is waited
// for and Postgres stops at once; nil means never.
func (s *stack) Stop(hurry <-chan struct{}, stopping func(name string)) error {
	stopping("Temporal")
	stopped := make(chan error, 1)
	go func() { stopped <- s.temporal.Stop() }()
	var errTemporal error
	select {
	case errTemporal = <-stopped:
	case <-hurry:
	}
	stopping("NATS")
	s.nats.Stop()
	stopping("Postgres")
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-hurry:
			s.postgres.hurry()
		case <-done:
		}
	}()
	return errors.Join(errTemporal, s.postgres.Stop(stopFast))
}

// info says where the servers are. Control servers add their URL.
func (s *stack) info() (stackInfo, error) {
	bin, err := os.Executable()
	if err != nil {
		return stackInfo{}, fmt.Errorf("find the path of this program: %w", err)
	}
	return stackInfo{
		PostgresURL:     s.postgres.url(pgUser),
		TemporalAddress: s.temporal.address(),
		NATSURL:         s.nats.url(),
		DevstackBin:     bin,
	}, nil
}

// write stores the info so that a reader sees either nothing or all of it.
func (i stackInfo) write(path string) error {
	text, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the addresses: %w", err)
	}
	part := path + ".part"
	if err := os.WriteFile(part, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	return nil
}

// removeData removes a data folder and a cluster that lives elsewhere on its behalf.
func removeData(dataDir string) error {
	home, err := clusterHome(dataDir)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(home), os.RemoveAll(dataDir))
}
