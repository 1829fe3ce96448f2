package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// checkTimeout bounds each readiness check.
	checkTimeout = 2 * time.Second
	// watchReady and watchNotReady are the pauses of Watch.
	watchReady    = 30 * time.Second
	watchNotReady = time.Second
	// checkCache is how long a result is served again, so that nobody can load
	// the dependencies by asking often.
	checkCache = time.Second
)

// Check returns nil when something that the process needs is usable now, and
// otherwise an error whose one line says what to do. It must return when its
// context ends, which is after 2 s.
type Check func(ctx context.Context) error

// ReadinessOptions are the dependencies of [NewReadiness].
type ReadinessOptions struct {
	// Checks by the name that /readyz shows. At least one is required.
	Checks map[string]Check
	// Log gets one line when readiness changes. Required.
	Log *slog.Logger
	// Stopping, once closed, makes the answer red. Pass the Done channel of the
	// context that ends at a signal. Required.
	Stopping <-chan struct{}
}

// Readiness tells whether the process can do its whole job now. As an
// http.Handler it answers /readyz: 200 or 503, with a [Report] as JSON.
type Readiness struct {
	checks   map[string]Check
	log      *slog.Logger
	stopping <-chan struct{}

	mu     sync.Mutex // held while the checks run: others wait and share the result
	report Report
	asked  time.Time
}

// Report is the body of /readyz.
type Report struct {
	// Status is "ready" or "not_ready".
	Status string `json:"status"`
	// Checks maps each check's name to "ok" or to what is wrong, in one line.
	Checks map[string]string `json:"checks"`
}

// Ready reports whether every check is ok.
func (r Report) Ready() bool { return r.Status == statusReady }

// problems is the wrong part of a report in one line, in the order of names.
func (r Report) problems() string {
	var bad []string
	for _, name := range slices.Sorted(maps.Keys(r.Checks)) {
		if text := r.Checks[name]; text != checkOK {
			bad = append(bad, name+": "+text)
		}
	}
	return strings.Join(bad, "; ")
}

const (
	statusReady    = "ready"
	statusNotReady = "not_ready"
	checkOK        = "ok"
)

// NewReadiness checks its options; it runs no check yet.
func NewReadiness(o ReadinessOptions) (*Readiness, error) {
	switch {
	case len(o.Checks) == 0:
		return nil, errors.New("readiness: no checks")
	case o.Log == nil:
		return nil, errors.New("readiness: no logger")
	case o.Stopping == nil:
		return nil, errors.New("readiness: no stopping channel")
	}
	for name, check := range o.Checks {
		if name == "" || check == nil {
			return nil, fmt.Errorf("readiness: check %q has no name or no function", name)
		}
	}
	return &Readiness{checks: maps.Clone(o.Checks), log: o.Log, stopping: o.Stopping}, nil
}

// Report runs all checks at the same time, or returns the last result when it
// is less than a second old.
func (r *Readiness) Report() Report {
	select {
	case <-r.stopping:
		return Report{Status: statusNotReady, Checks: map[string]string{"process": "stopping"}}
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked.IsZero() && time.Since(r.asked) < checkCache {
		return r.report
	}
	// Not the context of whoever asks: the result is for others too.
	before, fresh := r.report, runChecks(context.Background(), r.checks)
	r.report, r.asked = fresh, time.Now()
	switch {
	case fresh.Ready() && !before.Ready():
		r.log.Info("ready")
	case !fresh.Ready() && fresh.problems() != before.problems():
		r.log.Warn("not ready", "problems", fresh.problems())
	}
	return fresh
}

// Watch asks for reports until the context ends, so that the log says what a process lacks, and that it recovered, also
// where nothing else asks. A ready process is asked seldom: each look costs a question to every dependency.
func (r *Readiness) Watch(ctx context.Context) error {
	for {
		pause := watchReady
		if !r.Report().Ready() {
			pause = watchNotReady
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func runChecks(ctx context.Context, checks map[string]Check) Report {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		out = Report{Status: statusReady, Checks: make(map[string]string, len(checks))}
	)
	for name, check := range checks {
		wg.Go(func() {
			text := checkOK
			if err := check(ctx); err != nil {
				text = Redact(oneLine(err))
				if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
					text = fmt.Sprintf("no answer within %v (%s)", checkTimeout, text)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			out.Checks[name] = text
			if text != checkOK {
				out.Status = statusNotReady
			}
		})
	}
	wg.Wait()
	return out
}

// ServeHTTP answers /readyz.
func (r *Readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	report := r.Report()
	code := http.StatusOK
	if !report.Ready() {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, report)
}

// Healthz answers /healthz: 200 as long as the process answers at all.
// Dependencies play no part, for a restart would not bring them back.
func Healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"ok"})
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // "<" in an error stays readable; the type is not HTML
	_ = enc.Encode(body)     // it fails only when the caller has gone
}
