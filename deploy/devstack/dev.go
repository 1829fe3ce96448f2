package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const devResetHint = "run `make dev-reset` (it deletes the stored data)"

// devPrograms are the services' programs, all of which `make build` puts into the folder of binaries.
var devPrograms = []string{"migrate", "worker", "event-router", "api", "sync-schedules"}

type devOptions struct {
	DataDir string
	BinDir  string
	Getenv  func(string) string
	Environ []string
	Stdout  io.Writer
}

// dev is a running development system.
type dev struct {
	opts    devOptions
	dataDir string // absolute
	binDir  string // absolute
	ports   devPorts
	console *console
	pids    *pidFile
	failed  chan error    // what ends the system although nobody asked
	hurry   chan struct{} // closed by the second stop signal

	stack    *stack
	ui       *temporalUI
	services []*service // in the order of starting; stopped the other way round
}

// runDev runs the whole system until a stop signal, which is success, or a failure.
func runDev(ctx context.Context, opts devOptions) error {
	began := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &dev{
		opts:    opts,
		console: newConsole(opts.Stdout, opts.Getenv),
		failed:  make(chan error, 8),
		hurry:   make(chan struct{}),
	}
	defer d.watchSignals(func() { cancel(errStopRequested) })()

	var err error
	if d.ports, err = readDevPorts(opts.Getenv); err != nil {
		return err
	}
	if d.binDir, err = checkPrograms(opts.BinDir); err != nil {
		return err
	}
	if d.dataDir, _, err = dataFolder(opts.DataDir); err != nil {
		return err
	}
	unlock, err := lockData(d.dataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.clearLeftOvers(); err != nil {
		return err
	}
	all := make([]devPort, devPortCount)
	for p := range devPortCount {
		all[p] = p
	}
	if err := d.ports.check(all...); err != nil {
		return err
	}

	// Bringing up is abandoned when something already running fails.
	var errUp error
	up := make(chan struct{})
	go func() {
		defer close(up)
		errUp = d.up(ctx)
	}()
	select {
	case <-up:
		err = errUp
	case err = <-d.failed:
		cancel(err)
		<-up // its error is a consequence
	}
	if err == nil {
		d.console.plain(d.banner(ctx, time.Since(began)))
		select {
		case <-ctx.Done():
		case err = <-d.failed:
		}
	}
	if errors.Is(context.Cause(ctx), errStopRequested) {
		err = nil // what failed, failed because of the stop signal
	}
	if err != nil {
		d.console.line("stopping everything: %v", err)
	}
	return errors.Join(err, d.down())
}

var errStopRequested = errors.New("a stop signal arrived")

// watchSignals makes the first stop signal end the system and the second one hurry it.
func (d *dev) watchSignals(cancel func()) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, stopSignals...)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
			d.console.line("stopping; press Ctrl-C again to stop at once")
			cancel()
		case <-done:
			return
		}
		// A terminal's Ctrl-C may arrive twice, by itself and passed on by make.
		again := time.Now().Add(300 * time.Millisecond)
		for {
			select {
			case <-signals:
				if time.Now().Before(again) {
					continue
				}
				d.console.line("stopping at once")
				close(d.hurry)
				return
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// clearLeftOvers stops what an earlier devstack left running when it was killed.
func (d *dev) clearLeftOvers() error {
	path := filepath.Join(d.dataDir, "services.json")
	names, err := stopLeftOverServices(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		d.console.line("stopped %s, which an earlier run had left running", name)
	}
	found, err := stopLeftOverPostgres(d.dataDir)
	if err != nil {
		return err
	}
	if found {
		d.console.line("stopped Postgres, which an earlier run had left running")
	}
	d.pids = newPIDFile(path)
	return nil
}

// up starts everything and returns when it is ready.
func (d *dev) up(ctx context.Context) error {
	step := time.Now()
	started := func(name string) {
		d.console.line("%s is ready (%.1f s)", name, time.Since(step).Seconds())
		step = time.Now()
	}
	var err error
	d.stack, err = newStack(ctx, stackOptions{
		DataDir:   d.dataDir,
		Ports:     d.ports.stack(),
		Durable:   true,
		Getenv:    d.opts.Getenv,
		ResetHint: devResetHint,
		Notice:    func(line string) { d.console.line("%s", line) },
	})
	if err != nil {
		return err
	}
	if err := d.stack.Start(ctx, started); err != nil {
		return err
	}
	go func() {
		select {
		case err := <-d.stack.failed:
			d.failed <- err
		case <-ctx.Done():
		}
	}()
	d.ui, err = startUI(ctx, d.ports[portUI], d.stack.temporal.address())
	if err != nil {
		return err
	}
	started("Temporal UI")

	migrate := d.console.source("migrate", 0)
	for _, command := range []string{"up", "seed"} {
		if err := oneShot(ctx, migrate, d.environ(0), d.program("migrate"), command); err != nil {
			return err
		}
	}
	if err := d.stack.temporal.registerSearchAttributes(ctx, temporalNamespace); err != nil {
		return err
	}
	started("Schema")

	for i, s := range []struct {
		name           string
		metrics, ready devPort
	}{
		{"worker", portWorkerMetrics, portWorkerMetrics},
		{"event-router", portRouterMetrics, portRouterMetrics},
		{"api", portAPIMetrics, portAPI},
	} {
		service := &service{
			name:    s.name,
			path:    d.program(s.name),
			env:     d.environ(d.ports[s.metrics]),
			readyAt: "http://" + address(d.ports[s.ready]) + "/readyz",
			console: d.console,
			out:     d.console.source(s.name, i+1),
			pids:    d.pids,
			gaveUp:  func(err error) { d.failed <- err },
		}
		service.start()
		d.services = append(d.services, service)
	}
	for _, service := range d.services {
		select {
		case <-service.ready:
			started(service.name)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	// The worker reconciles the schedules at its start; this shows the user what they are.
	sync := d.console.source("sync-schedules", len(d.services)+1)
	return oneShot(ctx, sync, d.environ(0), d.program("sync-schedules"))
}

// down stops everything, in the order: services, UI, Temporal, NATS, Postgres.
func (d *dev) down() error {
	began := time.Now()
	for i := len(d.services) - 1; i >= 0; i-- {
		d.console.line("stopping %s", d.services[i].name)
		d.services[i].stop(d.hurry)
	}
	if d.ui != nil {
		d.console.line("stopping Temporal UI")
		d.ui.stop()
	}
	if d.stack == nil {
		return nil
	}
	if err := d.stack.Stop(d.hurry, func(name string) { d.console.line("stopping %s", name) }); err != nil {
		return err
	}
	d.console.line("stopped in %.1f s; the data stays in %s until `make dev-reset`", time.Since(began).Seconds(), d.opts.DataDir)
	return nil
}

func (d *dev) program(name string) string { return filepath.Join(d.binDir, name) }

// environ is the environment of a service whose metrics are on the given port (0: it has none): ours,
// without what names another installation of Temporal or NATS.
func (d *dev) environ(metricsPort int) []string {
	set := map[string]string{
		"ACTCORE_DB_URL":   d.stack.postgres.url(pgUser),
		"ACTCORE_API_ADDR": address(d.ports[portAPI]),
		"TEMPORAL_HOST":    d.stack.temporal.address(),
		"NATS_URL":         d.stack.nats.url(),
		"LOG_FORMAT":       "text",
	}
	if metricsPort != 0 {
		set["PROMETHEUS_BIND_ADDR"] = address(metricsPort)
	}
	if d.opts.Getenv("ACTCORE_TEMPORAL_UI_URL") == "" {
		set["ACTCORE_TEMPORAL_UI_URL"] = fmt.Sprintf("http://localhost:%d", d.ports[portUI])
	}
	if d.opts.Getenv("ACTCORE_AUTH") == "" {
		set["ACTCORE_AUTH"] = "off" // on loopback only, or the API does not start
	}
	if d.opts.Getenv("ACTCORE_EGRESS_ALLOW") == "" {
		set["ACTCORE_EGRESS_ALLOW"] = "127.0.0.0/8,::1" // so that an http task can call a program on this machine
	}
	var env []string
	for _, pair := range d.opts.Environ {
		name, _, _ := strings.Cut(pair, "=")
		_, ours := set[name]
		if !ours && !strings.HasPrefix(name, "TEMPORAL_") && !strings.HasPrefix(name, "NATS_") {
			env = append(env, pair)
		}
	}
	for name, value := range set {
		env = append(env, name+"="+value)
	}
	return env
}

// banner tells the user what runs where and what to try.
func (d *dev) banner(ctx context.Context, took time.Duration) string {
	api := fmt.Sprintf("http://localhost:%d", d.ports[portAPI])
	id := manualDefinition(ctx, "http://"+address(d.ports[portAPI]))
	if id == "" {
		id = "<id>"
	}
	return fmt.Sprintf(`
activity-core is ready in %.1f s

  API               %s
  API docs          %s/docs
  Temporal UI       http://localhost:%d
  Temporal          localhost:%d
  NATS              nats://localhost:%d  (monitoring http://localhost:%d)
  Postgres          postgres://%s:%s@localhost:%d/%s
  Metrics           worker http://localhost:%d/metrics
                    event-router http://localhost:%d/metrics
                    api http://localhost:%d/metrics
  Servers' logs     %s

Try:
  curl %s/activity-definitions/
  curl -s -X POST %s/activity-definitions/%s/trigger

Ctrl-C stops everything.

`, took.Seconds(), api, api, d.ports[portUI], d.ports[portTemporal], d.ports[portNATS], d.ports[portNATSMonitor],
		pgUser, pgUser, d.ports[portPostgres], pgUser,
		d.ports[portWorkerMetrics], d.ports[portRouterMetrics], d.ports[portAPIMetrics],
		filepath.Join(d.opts.DataDir, "logs"), api, api, id)
}

// manualDefinition asks the API for a definition with a manual trigger and returns its id, or ""
// when there is none or the API does not answer as expected.
func manualDefinition(ctx context.Context, api string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cursor := ""
	for range 10 {
		query := ""
		if cursor != "" {
			query = "?cursor=" + url.QueryEscape(cursor)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, api+"/activity-definitions/"+query, nil)
		if err != nil {
			return ""
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return ""
		}
		var page struct {
			Items []struct {
				ID      string `json:"id"`
				Trigger struct {
					Type string `json:"trigger_type"`
				} `json:"trigger_config"`
			} `json:"items"`
			Next string `json:"next_cursor"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&page)
		resp.Body.Close()
		if err != nil {
			return ""
		}
		for _, item := range page.Items {
			if item.Trigger.Type == "manual" {
				return item.ID
			}
		}
		if page.Next == "" {
			return ""
		}
		cursor = page.Next
	}
	return ""
}

// checkPrograms returns the absolute path of the folder of binaries, which must hold all programs.
func checkPrograms(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("folder of programs %s: %w", dir, err)
	}
	// The path is compared with what the system says of running processes.
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	for _, name := range devPrograms {
		if info, err := os.Stat(filepath.Join(abs, name)); err != nil || info.IsDir() {
			return "", fmt.Errorf("the program %s is missing; run `make build` first", filepath.Join(dir, name))
		}
	}
	return abs, nil
}

// runReset removes the data of a development system.
func runReset(dataDir string, stdout io.Writer) error {
	info, err := os.Stat(dataDir)
	if errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(stdout, "nothing to remove: there is no %s\n", dataDir)
		return nil
	}
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s is a file and not a folder of ours: remove it by hand if nobody needs it", dataDir)
	}
	path, _, err := dataFolder(dataDir)
	if err != nil {
		return err
	}
	unlock, err := lockData(path)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := stopLeftOverServices(filepath.Join(path, "services.json")); err != nil {
		return err
	}
	if _, err := stopLeftOverPostgres(path); err != nil {
		return err
	}
	if err := removeData(path); err != nil {
		if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("%w; if root started the system, root must reset it", err)
		}
		return err
	}
	fmt.Fprintf(stdout, "removed %s\n", dataDir)
	return nil
}
