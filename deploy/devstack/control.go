package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// control is a small HTTP interface on a free loopback port by which tests stop and start the
// servers under the services. Every call answers 204 when it is done: a stop when the server has
// stopped, a start when it serves again on the same port.
//
//	POST /postgres/stop?mode=fast|immediate    POST /postgres/start
//	POST /nats/stop                            POST /nats/start
//	POST /temporal/stop                        POST /temporal/start
//	POST /temporal/namespaces?name=NAME        registers a namespace, retention 24 h
type control struct {
	server *http.Server
	url    string
}

func startControl(s *stack) (*control, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address(port))
	if err != nil {
		return nil, fmt.Errorf("listen for control calls: %w", err)
	}
	c := &control{
		server: &http.Server{Handler: controlHandler(s), ReadHeaderTimeout: 5 * time.Second},
		url:    "http://" + address(port),
	}
	go func() { _ = c.server.Serve(listener) }()
	return c, nil
}

func (c *control) stop() { _ = c.server.Close() }

func controlHandler(s *stack) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(ctx context.Context, r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			// Not the request's context: a client that hangs up must not leave a server half started.
			if err := do(context.WithoutCancel(r.Context()), r); err != nil {
				code := http.StatusInternalServerError
				if errors.Is(err, errBadCall) {
					code = http.StatusBadRequest
				}
				http.Error(w, err.Error(), code)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	handle("POST /postgres/stop", func(_ context.Context, r *http.Request) error {
		switch mode := stopMode(r.URL.Query().Get("mode")); mode {
		case "", stopFast:
			return s.postgres.Stop(stopFast)
		case stopImmediate:
			return s.postgres.Stop(stopImmediate)
		default:
			return fmt.Errorf("%w: mode %q is neither fast nor immediate", errBadCall, mode)
		}
	})
	handle("POST /postgres/start", func(ctx context.Context, _ *http.Request) error { return s.postgres.Start(ctx) })
	handle("POST /nats/stop", func(context.Context, *http.Request) error { s.nats.Stop(); return nil })
	handle("POST /nats/start", func(ctx context.Context, _ *http.Request) error { return s.nats.Start(ctx) })
	handle("POST /temporal/stop", func(context.Context, *http.Request) error { return s.temporal.Stop() })
	handle("POST /temporal/start", func(ctx context.Context, _ *http.Request) error { return s.temporal.Start(ctx) })
	handle("POST /temporal/namespaces", func(ctx context.Context, r *http.Request) error {
		name := r.URL.Query().Get("name")
		if name == "" {
			return fmt.Errorf("%w: the query parameter name is missing", errBadCall)
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		return s.temporal.registerNamespace(ctx, name, testRetention)
	})
	return mux
}

// errBadCall marks the caller's own mistakes.
var errBadCall = errors.New("bad call")
