package faults

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

const (
	routingRouters = 3
	routingKills   = 10 // of each router
)

// routingPlan is all that is random in TestRoutersKilled. What happens is told in terms of what was published before it, so that a
// seed gives the same plan on a machine of any speed.
type routingPlan struct {
	meets [][2]bool // of each event: whether it meets the first and the second definition
	// sends are events in the order of publishing: first each one, with a copy at once, and then each one again.
	sends  []int
	faults []routingFault
}

// routingFault is what happens before the send number at.
type routingFault struct {
	at   int
	what string // killRouter, holdCommits, restartPostgres or restartNATS
	who  int    // the router
}

const (
	killRouter  = "kill"
	holdCommits = "hold" // until Postgres is restarted, no router commits a run
	// restartPostgres comes with a kill of each router.
	restartPostgres = "postgres"
	restartNATS     = "nats"
)

func makeRoutingPlan(seed uint64, events int) routingPlan {
	random := rand.New(rand.NewPCG(seed, 0))
	var p routingPlan
	for range events {
		p.meets = append(p.meets, [2]bool{random.IntN(2) == 1, random.IntN(2) == 1})
	}
	p.sends = append(random.Perm(events), random.Perm(events)...)
	for who := range routingRouters {
		for range routingKills - 1 {
			p.faults = append(p.faults, routingFault{random.IntN(len(p.sends)), killRouter, who})
		}
	}
	// Among the first sends: nobody misses a run that was lost among the others.
	hold := events/4 + random.IntN(events/2)
	p.faults = append(p.faults, routingFault{at: hold, what: holdCommits}, routingFault{at: hold + events/10, what: restartPostgres},
		routingFault{at: len(p.sends)/4 + random.IntN(len(p.sends)/2), what: restartNATS})
	slices.SortStableFunc(p.faults, func(a, b routingFault) int { return a.at - b.at })
	return p
}

func TestRoutingPlan(t *testing.T) {
	t.Parallel()
	plan := makeRoutingPlan(1, 1000)
	if !reflect.DeepEqual(plan, makeRoutingPlan(1, 1000)) {
		t.Error("the same seed gave another plan")
	}
	other := makeRoutingPlan(2, 1000)
	if reflect.DeepEqual(plan.meets, other.meets) || reflect.DeepEqual(plan.sends, other.sends) || reflect.DeepEqual(plan.faults, other.faults) {
		t.Error("another seed gave the same events, order or faults")
	}

	sends, faults := map[int]int{}, map[routingFault]int{}
	for _, i := range plan.sends {
		sends[i]++
	}
	for i := range 1000 {
		if sends[i] != 2 {
			t.Errorf("event %d is sent %d times, want 2", i, sends[i])
		}
	}
	for _, f := range plan.faults {
		faults[routingFault{what: f.what, who: f.who}]++
	}
	want := map[routingFault]int{{what: holdCommits}: 1, {what: restartPostgres}: 1, {what: restartNATS}: 1}
	for who := range routingRouters {
		want[routingFault{what: killRouter, who: who}] = routingKills - 1
	}
	if !reflect.DeepEqual(faults, want) {
		t.Errorf("the faults are %v, want %v", faults, want)
	}
}
