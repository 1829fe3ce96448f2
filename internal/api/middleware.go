package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/cors"
)

// middleware is what every request passes, outermost first. Pages of the origins may call the API from browsers, with a credential
// that they show themselves; cookies and client certificates are not sent along. It fails for what is no origin.
func (a *API) middleware(origins []string) (chi.Middlewares, error) {
	crossOrigin := http.NewCrossOriginProtection()
	for _, origin := range origins {
		if err := crossOrigin.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("trust the origin %s: %w", origin, err)
		}
	}
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		newProblem(http.StatusForbidden, kindCrossOrigin,
			"a page of another origin may not change anything here; call the API from its own origin or from outside a browser").
			write(w, r)
	}))
	all := chi.Middlewares{withRequestID, a.observe, a.recoverPanics, secure, limitHeaders}
	if len(origins) > 0 { // without any, the library would take all
		all = append(all, cors.Handler(cors.Options{
			AllowedOrigins: origins,
			AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
			AllowedHeaders: []string{"Authorization", "Content-Type", "Idempotency-Key", "If-Match", "X-Request-Id"},
			ExposedHeaders: []string{"ETag", "Location", "Retry-After", "X-Request-Id", "Idempotency-Replayed"},
			MaxAge:         600,
		}))
	}
	return append(all, canonicalPath, a.limitAddress, crossOrigin.Handler, middleware.GetHead, joinIfMatch, a.withDeadline), nil
}

type contextKey int

const (
	requestIDKey contextKey = iota
	visitKey
)

var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}$`)

// withRequestID takes over the client's X-Request-Id when it is harmless, makes one otherwise, and repeats it in the
// answer. One that looks like a credential is not harmless: ids are logged and stored.
func withRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !requestIDPattern.MatchString(id) || access.Mask(id) != id {
			id = definition.NewID()
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestIDKey, id)))
	})
}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey).(string)
	return id
}

// visit is what is known of who makes a request: the address at once, the caller's id when it has been found out.
type visit struct {
	address string
	caller  string
}

func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey).(*visit); ok {
		return v
	}
	return &visit{}
}

// Bounds of what clients choose and the log repeats, in bytes.
const (
	maxLoggedPath  = 500
	maxLoggedAgent = 200
)

// observe counts the request and logs it: at level info when there is to be an access log, otherwise at level debug. The query is left
// out, and what looks like a credential is masked wherever a client may have put it.
func (a *API) observe(next http.Handler) http.Handler {
	level := slog.LevelDebug
	if a.accessLog {
		level = slog.LevelInfo
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		v := &visit{address: clientAddress(r, a.proxies)}
		r = r.WithContext(context.WithValue(r.Context(), visitKey, v))
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		defer func() {
			status := ww.Status()
			if status == 0 {
				status = http.StatusOK
			}
			took := time.Since(begin)
			a.metrics.observe(r.Method, routeOf(r), status, took)
			if !a.log.Enabled(r.Context(), level) {
				return
			}
			a.log.LogAttrs(r.Context(), level, "request", slog.String("method", harmless(r.Method, 20)),
				slog.String("path", harmless(r.URL.Path, maxLoggedPath)), slog.String("route", routeOf(r)), slog.Int("status", status),
				slog.Int("bytes", ww.BytesWritten()), slog.Duration("took", took), slog.String("request_id", requestID(r.Context())),
				slog.String("caller", v.caller), slog.String("address", v.address),
				slog.String("user_agent", harmless(r.UserAgent(), maxLoggedAgent)))
		}()
		next.ServeHTTP(ww, r)
	})
}

// MaxHeaders is how many bytes a request's first line and its headers may have together. The server has to let some more through, so
// that who sends too many is told so in words; beyond that it answers a bare 431.
const MaxHeaders = 64 << 10

func limitHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len("  \r\n") + len("Host: \r\n") + len(r.Host)
		for name, values := range r.Header {
			for _, value := range values {
				size += len(name) + len(": \r\n") + len(value)
			}
		}
		if size > MaxHeaders {
			newProblem(http.StatusRequestHeaderFieldsTooLarge, kindHeadersTooLarge,
				"the request's first line and headers have %d bytes; they may have at most %d together", size, MaxHeaders).write(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// harmless is a client's text as it may be logged.
func harmless(text string, most int) string { return access.Mask(clip(text, most)) }

// routeOf returns the pattern that the request matched, so that metrics have one series for each route.
func routeOf(r *http.Request) string {
	if c := chi.RouteContext(r.Context()); c != nil {
		if pattern := c.RoutePattern(); pattern != "" {
			return pattern
		}
	}
	return "none"
}

// recoverPanics answers 500 for a handler that panicked, and logs it.
func (a *API) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			fault := recover()
			if fault == nil {
				return
			}
			if err, ok := fault.(error); (ok && errors.Is(err, http.ErrAbortHandler)) || r.Context().Err() != nil {
				panic(http.ErrAbortHandler) // the client has gone: net/http closes the connection without a word
			}
			a.log.LogAttrs(r.Context(), slog.LevelError, "request panicked", slog.String("request_id", requestID(r.Context())),
				slog.String("route", routeOf(r)), slog.String("panic", fmt.Sprint(fault)), slog.String("stack", string(debug.Stack())))
			if ww, ok := w.(middleware.WrapResponseWriter); ok && ww.Status() != 0 {
				panic(http.ErrAbortHandler) // half an answer must not look like a whole one
			}
			internalProblem().write(w, r)
		}()
		next.ServeHTTP(w, r)
	})
}

// secure sets the headers that every answer has. Answers change and may be private, so nothing stores them; the
// documentation page overrides this for its assets.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if r.TLS != nil { // over http it would be ignored, and a proxy that adds TLS says it itself
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// eventsPath is before the id of an event.
const eventsPath = "/events/"

// canonicalPath routes /runs/ as /runs and /activity-definitions as /activity-definitions/, without a redirect, which
// clients do not follow for POST. The slashes of an event's id are part of it, encoded or not.
func canonicalPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.RawPath
		if path == "" {
			path = r.URL.Path
		}
		path = canonical(path)
		if id, ok := strings.CutPrefix(canonical(r.URL.EscapedPath()), eventsPath); ok && strings.Contains(id, "/") {
			path = eventsPath + strings.ReplaceAll(id, "/", "%2F")
			address := *r.URL
			address.RawPath = path // says that parameters are encoded
			r = r.WithContext(r.Context())
			r.URL = &address
		}
		chi.RouteContext(r.Context()).RoutePath = path
		next.ServeHTTP(w, r)
	})
}

func canonical(path string) string {
	const collection = "/activity-definitions"
	trimmed := strings.TrimSuffix(path, "/")
	switch trimmed {
	case collection:
		return collection + "/"
	case "":
		return "/"
	}
	return trimmed
}

// withDeadline bounds the work for one request, and lets the answer come later than the server's own time limit where the work
// may take longer than that.
func (a *API) withDeadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit := requestTimeout
		if chi.RouteContext(r.Context()).RoutePath == fullSyncPath {
			limit = a.fullSyncLimit
			until := time.Now().Add(limit + requestTimeout) // the rest is for the answer
			if err := http.NewResponseController(w).SetWriteDeadline(until); err != nil {
				a.log.LogAttrs(r.Context(), slog.LevelDebug, "a late answer may be cut off", slog.Any("error", err))
			}
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (a *API) routeNotFound(w http.ResponseWriter, r *http.Request) {
	newProblem(http.StatusNotFound, kindNoSuchRoute, "there is no route %s; /docs lists all of them", clip(r.URL.Path, 100)).
		write(w, r)
}

func (a *API) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	path := chi.RouteContext(r.Context()).RoutePath
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if a.router.Match(chi.NewRouteContext(), method, path) {
			allowed = append(allowed, method)
			if method == http.MethodGet {
				allowed = append(allowed, http.MethodHead)
			}
		}
	}
	if len(allowed) == 0 { // a method that chi does not know, on a path that nobody knows
		a.routeNotFound(w, r)
		return
	}
	list := strings.Join(allowed, ", ")
	p := newProblem(http.StatusMethodNotAllowed, kindMethod, "%s is not possible on %s; possible are %s",
		clip(r.Method, 20), clip(r.URL.Path, 100), list)
	p.headers = http.Header{"Allow": {list}}
	p.write(w, r)
}
