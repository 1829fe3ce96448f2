package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/term"
)

const envTestStack = "ACTCORE_TEST_STACK"

// stopSignals end every command of the devstack in order.
var stopSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}

type serversOptions struct {
	DataDir   string // "": a temporary one, removed at the end
	InfoFile  string // "": the addresses are only printed
	FreePorts bool
	Durable   bool // only of interest with FreePorts; the development ports are always durable
	Getenv    func(string) string
	Stdout    io.Writer
}

// runServers runs the servers until a stop signal.
func runServers(ctx context.Context, opts serversOptions) (err error) {
	ctx, cancel := signal.NotifyContext(ctx, stopSignals...)
	defer cancel()
	dir, remove, err := dataFolder(opts.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	unlock, err := lockData(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if opts.InfoFile != "" {
		// A file of an earlier run must not be taken for this one's.
		if err := os.Remove(opts.InfoFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the old file of addresses: %w", err)
		}
	}
	if _, err := stopLeftOverPostgres(dir); err != nil {
		return err
	}
	var ports stackPorts
	if opts.FreePorts {
		ports, err = freeStackPorts()
	} else {
		ports, err = fixedStackPorts(opts.Getenv)
	}
	if err != nil {
		return err
	}
	servers, err := startServers(ctx, stackOptions{
		DataDir:   dir,
		Ports:     ports,
		Durable:   opts.Durable || !opts.FreePorts,
		Getenv:    opts.Getenv,
		ResetHint: "remove the folder " + dir,
		Notice:    func(line string) { fmt.Fprintln(opts.Stdout, line) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, servers.stop()) }()
	if opts.InfoFile != "" {
		if err := servers.info.write(opts.InfoFile); err != nil {
			return err
		}
		defer os.Remove(opts.InfoFile)
	}
	fmt.Fprintf(opts.Stdout, "ready: postgres %s, nats %s, temporal %s, control %s\n",
		servers.info.PostgresURL, servers.info.NATSURL, servers.info.TemporalAddress, servers.info.ControlURL)
	select {
	case <-ctx.Done():
		return nil
	case err := <-servers.stack.failed:
		return err
	}
}

type execOptions struct {
	Command []string
	Durable bool
	Getenv  func(string) string
	Stderr  io.Writer
}

// runExec runs one command with a throwaway stack around it and returns the command's exit
// code, or 128 plus the number of the signal that ended it. Signals are passed on to the command.
func runExec(ctx context.Context, opts execOptions) (code int, err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, append(stopSignals, syscall.SIGQUIT)...)
	defer signal.Stop(signals)
	starting, cancel := context.WithCancel(ctx)
	defer cancel()

	dir, remove, err := dataFolder("")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	ports, err := freeStackPorts()
	if err != nil {
		return 1, err
	}
	type result struct {
		servers *servers
		err     error
	}
	ready := make(chan result, 1)
	go func() {
		servers, err := startServers(starting, stackOptions{
			DataDir: dir, Ports: ports, Durable: opts.Durable, Getenv: opts.Getenv,
			ResetHint: "run the command again",
			Notice:    func(line string) { fmt.Fprintln(opts.Stderr, "devstack:", line) },
		})
		ready <- result{servers, err}
	}()
	var servers *servers
	for servers == nil {
		select {
		case sig := <-signals:
			cancel()
			if r := <-ready; r.servers != nil {
				err = r.servers.stop()
			}
			return signalCode(sig), err
		case r := <-ready:
			if r.err != nil {
				return 1, r.err
			}
			servers = r.servers
		}
	}
	defer func() { err = errors.Join(err, servers.stop()) }()
	info := filepath.Join(dir, "stack.json")
	if err := servers.info.write(info); err != nil {
		return 1, err
	}

	cmd := exec.Command(opts.Command[0], opts.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envTestStack+"="+info)
	// At a terminal the command stays in our process group, the terminal's foreground group, so
	// that it can read from it; Ctrl-C then reaches both. Elsewhere it gets a group of its own, and
	// signals are passed on to all of that group.
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	proc, err := startChildIn(cmd, !terminal, syscall.SIGKILL, nil)
	if err != nil {
		return 127, fmt.Errorf("run %s: %w", opts.Command[0], err)
	}
	failed := servers.stack.failed
	for {
		select {
		case <-proc.done:
			if !terminal {
				proc.signalGroup(syscall.SIGKILL) // what the command left behind
			}
			return exitCode(proc), nil
		case sig := <-signals:
			number := sig.(syscall.Signal)
			if !terminal {
				proc.signalGroup(number)
			} else if number == syscall.SIGTERM || number == syscall.SIGHUP {
				proc.signal(number)
			}
		case err := <-failed:
			fmt.Fprintf(opts.Stderr, "devstack: %v\n", err)
			failed = nil // the command meets the failure itself
		}
	}
}

// exitCode is the code of an ended process, by the shell's convention.
func exitCode(c *child) int {
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return signalCode(status.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}

func signalCode(sig os.Signal) int { return 128 + int(sig.(syscall.Signal)) }

// servers is a running stack with its control interface.
type servers struct {
	stack   *stack
	control *control
	info    stackInfo
}

func startServers(ctx context.Context, opts stackOptions) (*servers, error) {
	s, err := newStack(ctx, opts)
	if err != nil {
		return nil, err
	}
	info, err := s.info()
	if err != nil {
		return nil, err
	}
	if err := s.Start(ctx, func(string) {}); err != nil {
		return nil, err
	}
	c, err := startControl(s)
	if err != nil {
		return nil, errors.Join(err, s.Stop(nil, func(string) {}))
	}
	info.ControlURL = c.url
	return &servers{stack: s, control: c, info: info}, nil
}

func (s *servers) stop() error {
	s.control.stop()
	return s.stack.Stop(nil, func(string) {})
}

// dataFolder makes the data folder, or a temporary one when dir is empty, and returns its absolute
// path and the function that removes the temporary one.
func dataFolder(dir string) (path string, remove func() error, err error) {
	if dir == "" {
		dir, err = os.MkdirTemp("", "actcore-devstack-")
		if err != nil {
			return "", nil, fmt.Errorf("make a temporary folder: %w", err)
		}
		if os.Geteuid() == 0 {
			// The Postgres server, which runs as another user, has to pass through.
			if err := os.Chmod(dir, 0o711); err != nil {
				return "", nil, errors.Join(fmt.Errorf("open the temporary folder: %w", err), os.RemoveAll(dir))
			}
		}
		return dir, func() error { return removeData(dir) }, nil
	}
	path, err = filepath.Abs(dir)
	if err != nil {
		return "", nil, fmt.Errorf("data folder %s: %w", dir, err)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", nil, fmt.Errorf("make the data folder: %w", err)
	}
	// The cluster's name outside its folder is made from this path: it must be one path, not several.
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return "", nil, fmt.Errorf("data folder %s: %w", dir, err)
	}
	return path, func() error { return nil }, nil
}

// fixedStackPorts are the development ports, checked to be free.
func fixedStackPorts(getenv func(string) string) (stackPorts, error) {
	ports, err := readDevPorts(getenv)
	if err != nil {
		return stackPorts{}, err
	}
	return ports.stack(), ports.check(portPostgres, portNATS, portNATSMonitor, portTemporal)
}

func (ports devPorts) stack() stackPorts {
	return stackPorts{
		Postgres: ports[portPostgres], NATS: ports[portNATS], NATSMonitor: ports[portNATSMonitor], Temporal: ports[portTemporal],
	}
}

func freeStackPorts() (stackPorts, error) {
	p, err := freePorts(3)
	if err != nil {
		return stackPorts{}, err
	}
	return stackPorts{Postgres: p[0], NATS: p[1], Temporal: p[2]}, nil
}
