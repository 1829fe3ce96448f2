package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/match"
)

// The definitions and events of measureMatch: matchTypes types of events, one to four equalities a definition, of which nine
// in ten definitions have one on a key of their own, as a customer's, and the others have none.
const matchTypes = 50

// sharedFields are how many values each field has that many definitions share, at the least number of definitions. There are more
// values in proportion to the definitions, so that an event meets as many of 100,000 as of 100: what is measured is the cost of
// finding them. With the kind "filters of few values" there are not, and what grows is also how many are found.
var sharedFields = map[string]int{"tier": 5, "region": 20, "country": 100, "channel": 10, "product": 200}

// Kinds of definitions.
const (
	kindFilters    = "filters"
	kindFewValues  = "filters of few values"
	kindConditions = "conditions"
)

// values is how many values a shared field has.
func values(field string, n int, kind string) int {
	if kind == kindFewValues {
		return sharedFields[field]
	}
	return sharedFields[field] * n / matchSizes[0]
}

// matchEvents is how many different events are matched in turn.
const matchEvents = 4096

// matchSizes are how many definitions there are; the ratio is that of the last to the first.
var matchSizes = []int{100, 10_000, 100_000}

// measureMatch: the cost of matching an event that is decoded, by the number of definitions; and what their table takes.
// It needs no server. Where conditions are evaluated, decoding the event for them is a part of the cost.
func measureMatch(ctx context.Context, _ *bench, o options) ([]figure, error) {
	var figures []figure
	for _, kind := range []string{kindFilters, kindFewValues, kindConditions} {
		var fields []*matchField
		for _, n := range matchSizes {
			f, err := newMatchField(n, kind)
			if err != nil {
				return nil, err
			}
			fields = append(fields, f)
		}
		costs := make([][]float64, len(fields))
		var ratios []float64
		for range o.rounds {
			for i, f := range fields {
				ns, err := f.time(ctx)
				if err != nil {
					return nil, err
				}
				costs[i] = append(costs[i], ns)
			}
			last := len(costs[0]) - 1
			ratios = append(ratios, costs[len(costs)-1][last]/costs[0][last])
		}
		aims := map[string]string{"filters10000": "2000 or less", "filters": "5 or less"}
		for i, n := range matchSizes {
			name := fmt.Sprintf("match, %d definitions with %s", n, kind)
			figures = append(figures, figure{name, median(costs[i]), "ns/event", aims[fmt.Sprint(kind, n)]},
				figure{name + ", matches", fields[i].met, "per event", ""})
		}
		figures = append(figures, figure{"match with " + kind + ", 100,000 to 100 definitions", median(ratios), "×", aims[kind]})
	}
	more, err := measureApply(ctx)
	return append(figures, more...), err
}

// matchDefinitions makes n definitions, always the same ones.
func matchDefinitions(n int, kind string) []definition.Routable {
	rnd := rand.New(rand.NewPCG(1, 1))
	fields := slices.Sorted(maps.Keys(sharedFields))
	list := make([]definition.Routable, n)
	for i := range list {
		equal := map[string]string{}
		count := 1 + rnd.IntN(4)
		if rnd.IntN(10) > 0 {
			equal["customer_id"] = fmt.Sprintf("c%d", i)
			count--
		}
		for _, f := range rnd.Perm(len(fields))[:count] {
			equal[fields[f]] = fmt.Sprintf("v%d", rnd.IntN(values(fields[f], n, kind)))
		}
		r := definition.Routable{ID: definition.NewID(), Name: fmt.Sprintf("definition-%d", i), Revision: 1, Live: true,
			EventType: fmt.Sprintf("bench.type%d", i%matchTypes)}
		if kind == kindConditions {
			terms := []string{fmt.Sprintf("event.payload.amount > %d", i%1000)}
			for _, name := range slices.Sorted(maps.Keys(equal)) {
				terms = append(terms, fmt.Sprintf("event.payload.%s == %q", name, equal[name]))
			}
			r.Condition = strings.Join(terms, " && ")
		} else {
			r.Filters = map[string]json.RawMessage{}
			for name, value := range equal {
				r.Filters[name] = fmt.Appendf(nil, "%q", value)
			}
		}
		list[i] = r
	}
	return list
}

// someEvents makes events of about 400 bytes for n definitions; each names the customer of one of them, of its type.
func someEvents(n int, kind string) ([]definition.Event, error) {
	rnd := rand.New(rand.NewPCG(2, 2))
	events := make([]definition.Event, matchEvents)
	for i := range events {
		customer := rnd.IntN(n)
		eventType := fmt.Sprintf("bench.type%d", customer%matchTypes)
		var payload strings.Builder
		fmt.Fprintf(&payload, `"customer_id":"c%d","amount":%d,"note":"left at the door","items":[{"sku":"a-1","count":2}],"paid":true`,
			customer, rnd.IntN(1000))
		for _, name := range slices.Sorted(maps.Keys(sharedFields)) {
			fmt.Fprintf(&payload, `,%q:"v%d"`, name, rnd.IntN(values(name, n, kind)))
		}
		e, fault := definition.ParseEnvelope(fmt.Appendf(nil, `{"event_id":"e-%d","type":%q,"source":"bench",`+
			`"occurred_at":"2026-01-31T09:00:00Z","payload":{%s}}`, i, eventType, &payload), "activity."+eventType, "activity")
		if fault != nil {
			return nil, fault
		}
		events[i] = e
	}
	return events, nil
}

// matchField is a table and the events that are matched with it.
type matchField struct {
	table  *match.Table
	events []definition.Event
	met    float64 // definitions an event meets
}

// newMatchField matches all events once, so that the conditions that they need are compiled.
func newMatchField(n int, kind string) (*matchField, error) {
	f := &matchField{}
	var err error
	if f.table, err = (&match.Table{}).Apply(matchDefinitions(n, kind)); err != nil {
		return nil, err
	}
	if f.events, err = someEvents(n, kind); err != nil {
		return nil, err
	}
	for i := range f.events {
		met, err := f.table.Match(&f.events[i], time.Now())
		if err != nil {
			return nil, err
		}
		f.met += float64(len(met)) / float64(len(f.events))
	}
	return f, nil
}

// time returns the nanoseconds an event takes.
func (f *matchField) time(ctx context.Context) (float64, error) {
	began, done := time.Now(), 0
	for time.Since(began) < 300*time.Millisecond {
		for i := range f.events {
			if _, err := f.table.Match(&f.events[i], began); err != nil {
				return 0, err
			}
		}
		done += len(f.events)
	}
	return float64(time.Since(began).Nanoseconds()) / float64(done), ctx.Err()
}

// measureApply: what a table of 100,000 takes, and what a change in one costs.
func measureApply(ctx context.Context) ([]figure, error) {
	const n, changed = 100_000, 5000
	var figures []figure
	for _, kind := range []string{kindFilters, kindConditions} {
		list := matchDefinitions(n, kind)
		before := heap()
		began := time.Now()
		table, err := (&match.Table{}).Apply(list)
		if err != nil {
			return nil, err
		}
		cold := time.Since(began)
		bytes := float64(heap()-before) / n
		runtime.KeepAlive(table)
		figures = append(figures,
			figure{fmt.Sprintf("table of %d with %s, made at once", n, kind), cold.Seconds(), "s", "10 or less"},
			figure{fmt.Sprintf("table of %d with %s, memory beside the definitions", n, kind), bytes, "B/definition", ""})
	}
	// One type, so that nothing is saved by the others.
	list := matchDefinitions(n, kindFilters)
	for i := range list {
		list[i].EventType = "bench.one"
	}
	table, err := (&match.Table{}).Apply(list)
	if err != nil {
		return nil, err
	}
	var took []float64
	for i := range changed {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		change := list[i*7%n]
		change.Revision++
		began := time.Now()
		if table, err = table.Apply([]definition.Routable{change}); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(began).Microseconds()))
	}
	total := 0.0
	for _, t := range took {
		total += t
	}
	slices.Sort(took)
	return append(figures,
		figure{fmt.Sprintf("one change in %d of one type, mean", n), total / changed, "µs", ""},
		figure{fmt.Sprintf("one change in %d of one type, slowest", n), took[changed-1] / 1000, "ms", ""}), nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
