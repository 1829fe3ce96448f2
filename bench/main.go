// Command bench measures what activity-core costs, as ratios against the raw thing in the same run, on the servers that
// ACTCORE_TEST_STACK describes. It prints a line a figure and writes them to .bench/results.json.
//
// Absolute figures say as much about the machine as about the code; the ratios are what to compare. Each ratio is the
// median of several rounds, in each of which the raw thing is measured right before ours.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
)

// figure is one measured value. Aim is what the project wants of it, empty for a figure that only explains others.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Aim   string  `json:"aim,omitempty"`
}

// options are how large the measurements are.
type options struct {
	rounds    int
	starts    int
	unmatched int
	runs      int
	items     int
	idle      int
	idleFor   int
	schedules int
	herd      int
	latency   int
	// definitions and listed are the definitions and runs whose lists are read.
	definitions int
	listed      int
	apiFor      int // seconds
	only        string
	out         string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 2 && args[0] == bareFlag {
		return serveBare(ctx, args[1], stdout)
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 5, "rounds of each ratio")
	flags.IntVar(&o.starts, "starts", 2000, "workflows started in a round")
	flags.IntVar(&o.unmatched, "unmatched", 200_000, "events that match nothing in a round")
	flags.IntVar(&o.runs, "runs", 600, "runs completed in a round")
	flags.IntVar(&o.items, "items", 1000, "items of a for_each task")
	flags.IntVar(&o.idle, "idle-definitions", 10_000, "definitions of the idle system")
	flags.IntVar(&o.idleFor, "idle-seconds", 60, "how long the idle system is watched")
	flags.IntVar(&o.schedules, "schedules", 10_000, "cron definitions whose schedules are brought in line")
	flags.IntVar(&o.herd, "herd", 10_000, "definitions that are due in the same minute")
	flags.IntVar(&o.latency, "latency", 400, "events whose way to their first task is timed")
	flags.IntVar(&o.apiFor, "api-seconds", 3, "how long each round of requests to the api lasts")
	flags.IntVar(&o.definitions, "definitions", 100_000, "definitions of which lists are read")
	flags.IntVar(&o.listed, "listed-runs", 5_000_000, "runs of which lists are read")
	flags.StringVar(&o.only, "only", "", "measure only this: starts, unmatched, latency, runs, items, idle, schedules, herd, match, api, lists")
	flags.StringVar(&o.out, "out", filepath.Join(".bench", "results.json"), "where the results are written")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	var all []figure
	for _, m := range []struct {
		name    string
		measure func(context.Context, *bench, options) ([]figure, error)
	}{{"starts", measureStarts}, {"unmatched", measureUnmatched}, {"latency", measureLatency}, {"runs", measureRuns}, {"items", measureItems}, {"idle", measureIdle},
		{"schedules", measureSchedules}, {"herd", measureHerd}, {"match", measureMatch}, {"api", measureAPI}, {"lists", measureLists}} {
		if o.only != "" && m.name != o.only {
			continue
		}
		figures, err := m.measure(ctx, b, o)
		if err != nil {
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
		for _, f := range figures {
			aim := ""
			if f.Aim != "" {
				aim = "(aim " + f.Aim + ")"
			}
			fmt.Fprintf(stdout, "%-44s %12.2f %-16s %s\n", f.Name, f.Value, f.Unit, aim)
		}
		all = append(all, figures...)
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.out, append(data, '\n'), 0o644)
}

// ratio runs rounds of (raw, ours) and returns the medians of both rates and of their ratio.
func ratio(ctx context.Context, rounds int, raw, ours func(context.Context) (float64, error)) (r, rawRate, ourRate float64, err error) {
	var ratios, raws, ourses []float64
	for range rounds {
		a, err := raw(ctx)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("raw: %w", err)
		}
		b, err := ours(ctx)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("ours: %w", err)
		}
		if a <= 0 || b <= 0 {
			return 0, 0, 0, errors.New("a rate of nothing was measured")
		}
		ratios, raws, ourses = append(ratios, b/a), append(raws, a), append(ourses, b)
	}
	return median(ratios), median(raws), median(ourses), nil
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
