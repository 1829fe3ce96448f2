package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const natsStartTimeout = 20 * time.Second

type natsOptions struct {
	StoreDir    string // JetStream's files
	LogFile     string
	Port        int // on 127.0.0.1
	MonitorPort int // HTTP monitoring on 127.0.0.1; 0: none
	SyncAlways  bool
}

// natsServer is NATS with JetStream in this process. Start and Stop may be called again and again.
type natsServer struct {
	opts natsOptions

	mu  sync.Mutex
	srv *server.Server // nil while stopped
	log io.Closer
}

func newNATS(opts natsOptions) *natsServer { return &natsServer{opts: opts} }

func (n *natsServer) url() string { return fmt.Sprintf("nats://%s", address(n.opts.Port)) }

// Start starts the server and returns when it accepts connections. It does nothing when the
// server is running.
func (n *natsServer) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.srv != nil {
		return nil
	}
	opts := &server.Options{
		ServerName: "activity-core-dev",
		Host:       loopback,
		Port:       n.opts.Port,
		JetStream:  true,
		StoreDir:   n.opts.StoreDir,
		SyncAlways: n.opts.SyncAlways,
		// Above the 1 MiB that an event may have, so that a larger one gets as far as its dead letter.
		MaxPayload: 8 << 20,
		NoSigs:     true,
	}
	if n.opts.MonitorPort != 0 {
		opts.HTTPHost, opts.HTTPPort = loopback, n.opts.MonitorPort
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	file, err := os.OpenFile(n.opts.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of NATS: %w", err)
	}
	logger := &natsLogger{out: log.New(file, "", log.LstdFlags|log.LUTC), fatal: make(chan string, 1)}
	srv.SetLogger(logger, false, false)
	srv.Start()
	if err := awaitNATS(ctx, srv, logger.fatal); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		_ = file.Close()
		return fmt.Errorf("start NATS on %s: %w (log: %s; if its data is damaged, `make dev-reset` starts anew)",
			address(n.opts.Port), err, n.opts.LogFile)
	}
	n.srv, n.log = srv, file
	return nil
}

// awaitNATS waits until a server accepts connections and has JetStream.
func awaitNATS(ctx context.Context, srv *server.Server, fatal <-chan string) error {
	for deadline := time.Now().Add(natsStartTimeout); ; {
		if srv.ReadyForConnections(50*time.Millisecond) && srv.JetStreamEnabled() {
			return nil
		}
		select {
		case why := <-fatal:
			return fmt.Errorf("%s", why)
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready within %s", natsStartTimeout)
		}
	}
}

// Stop stops the server and returns when it has closed its files.
func (n *natsServer) Stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.srv == nil {
		return
	}
	n.srv.Shutdown()
	n.srv.WaitForShutdown()
	_ = n.log.Close()
	n.srv = nil
}

// runNATS runs a NATS server alone, with a configuration file of the server's own, which has to turn JetStream on, until a
// stop signal. It writes the server's URL to stdout when it accepts connections. Tests try users' rights with it.
func runNATS(ctx context.Context, file string, stdout, stderr io.Writer) error {
	ctx, cancel := signal.NotifyContext(ctx, stopSignals...)
	defer cancel()
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		return fmt.Errorf("read the configuration of NATS: %w", err)
	}
	opts.NoSigs = true
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	logger := &natsLogger{out: log.New(stderr, "", log.LstdFlags|log.LUTC), fatal: make(chan string, 1)}
	srv.SetLogger(logger, false, false)
	srv.Start()
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	if err := awaitNATS(ctx, srv, logger.fatal); err != nil {
		return fmt.Errorf("start NATS with %s: %w", file, err)
	}
	fmt.Fprintln(stdout, srv.ClientURL())
	select {
	case <-ctx.Done():
		return nil
	case why := <-logger.fatal:
		return fmt.Errorf("NATS gave up: %s", why)
	}
}

// natsLogger writes the server's log to a file. The server's own logger ends the whole process
// on a fatal error, which would leave Postgres running; this one reports the error instead.
type natsLogger struct {
	out   *log.Logger
	fatal chan string // the first fatal error
}

func (l *natsLogger) Noticef(format string, v ...any) { l.out.Printf("[INF] "+format, v...) }
func (l *natsLogger) Warnf(format string, v ...any)   { l.out.Printf("[WRN] "+format, v...) }
func (l *natsLogger) Errorf(format string, v ...any)  { l.out.Printf("[ERR] "+format, v...) }
func (l *natsLogger) Debugf(string, ...any)           {}
func (l *natsLogger) Tracef(string, ...any)           {}
func (l *natsLogger) Fatalf(format string, v ...any) {
	l.out.Printf("[FTL] "+format, v...)
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}
