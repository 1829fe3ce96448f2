package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// OpsOptions are the dependencies of [NewOps].
type OpsOptions struct {
	// Addr is the host:port to bind. Port 0 takes any free port. Required.
	Addr string
	// Readiness answers /readyz. Required.
	Readiness *Readiness
	// Gatherer answers /metrics. Required.
	Gatherer prometheus.Gatherer
	// Log gets the server's own troubles. Required.
	Log *slog.Logger
}

// Ops is the operations server of a process: /healthz, /readyz and /metrics.
type Ops struct {
	listener net.Listener
	server   *http.Server
}

// NewOps binds the address at once, so that a port in use is an error at start;
// it serves when Run is called.
func NewOps(o OpsOptions) (*Ops, error) {
	switch {
	case o.Addr == "":
		return nil, errors.New("operations server: no address")
	case o.Readiness == nil:
		return nil, errors.New("operations server: no readiness")
	case o.Gatherer == nil:
		return nil, errors.New("operations server: no metrics gatherer")
	case o.Log == nil:
		return nil, errors.New("operations server: no logger")
	}
	listener, err := Listen("PROMETHEUS_BIND_ADDR", o.Addr)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", Healthz) // container liveness
	mux.Handle("GET /readyz", o.Readiness)  // container readiness, healthcheck argument
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(o.Log.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
	})) // Prometheus
	return &Ops{listener: listener, server: NewHTTPServer(mux, o.Log)}, nil
}

// Addr is the address that was bound, with the real port.
func (o *Ops) Addr() string { return o.listener.Addr().String() }

// Run serves until ctx ends.
func (o *Ops) Run(ctx context.Context) error { return Serve(ctx, o.server, o.listener) }

// Listen binds a TCP address. The error names the variable that set it and the
// way out.
func Listen(variable, addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another process: stop it, or set %s to another address", addr, variable)
	case err != nil:
		return nil, fmt.Errorf("listen on %s (%s): %w", addr, variable, err)
	}
	return listener, nil
}

// httpSlop is what net/http reads beyond MaxHeaderBytes before it gives up.
const httpSlop = 4 << 10

// NewHTTPServer returns a server with the limits that every listener of ours
// has: 5 s for the request's head, 15 s for all of the request, 30 s until the
// answer is written, 60 s idle, 64 KiB of headers. With a TLSConfig (see
// [NewTLS]) it serves HTTPS; the 5 s are then for the handshake as well.
func NewHTTPServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    64<<10 - httpSlop,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// shutdownTimeout is how long requests in flight may take after the end; it is
// shorter than DefaultStopTimeout, so that Serve ends before it is given up.
const shutdownTimeout = 8 * time.Second

// Serve runs server on listener, over TLS when it has a TLSConfig, until ctx
// ends, then lets the requests in flight finish for up to 8 s and cuts off the
// rest.
func Serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	failed := make(chan error, 1)
	go func() {
		if server.TLSConfig != nil {
			failed <- server.ServeTLS(listener, "", "")
			return
		}
		failed <- server.Serve(listener)
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(limit)
	if err != nil {
		server.Close()
		err = fmt.Errorf("requests on %s were cut off after %v: %w", listener.Addr(), shutdownTimeout, err)
	}
	if served := <-failed; err == nil && !errors.Is(served, http.ErrServerClosed) {
		err = fmt.Errorf("serve on %s: %w", listener.Addr(), served)
	}
	return err
}

// Healthcheck asks the service that listens on addr (host:port, as configured)
// whether it is ready, for at most 5 s. It returns nil when it is, and
// otherwise what is wrong.
func Healthcheck(ctx context.Context, addr string) error {
	url, err := readyURL(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	// No proxy, whatever the environment says: the service is on this machine.
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("ask whether the service is ready: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var report Report
	if err != nil || json.Unmarshal(body, &report) != nil || report.problems() == "" {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return fmt.Errorf("not ready: %s", report.problems())
}

// readyURL is where a service that binds addr answers; a service that binds
// every address is asked on loopback.
func readyURL(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return "http://" + net.JoinHostPort(host, port) + "/readyz", nil
}
