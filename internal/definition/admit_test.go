package definition

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// lineModel is one line of runs, decided about by Admit alone. A run's number is its place in rows.
type lineModel struct {
	t       *testing.T
	c       Concurrency
	rows    []modelRun
	started []int
}

type modelRun struct {
	status   RunStatus
	reason   Reason
	stopping bool
}

func (m *lineModel) count(from, to int, is func(modelRun) bool) (n int) {
	for _, r := range m.rows[from:to] {
		if is(r) {
			n++
		}
	}
	return n
}

func waiting(r modelRun) bool { return r.status == RunAccepted || r.status == RunQueued }
func queued(r modelRun) bool  { return r.status == RunQueued }
func running(r modelRun) bool { return r.status == RunRunning }
func staying(r modelRun) bool { return r.status == RunRunning && !r.stopping }

func (m *lineModel) load(i int) Load {
	all := len(m.rows)
	return Load{
		Running: m.count(0, all, running), WaitingBefore: m.count(0, i, waiting), QueuedBefore: m.count(0, i, queued),
		StayingBefore: m.count(0, i, staying), BegunAfter: m.count(i+1, all, staying) + m.count(i+1, all, queued),
	}
}

// ask is what the workflow of a run does when it begins, and when it is woken.
func (m *lineModel) ask(i int) {
	before, load := m.rows[i].status, m.load(i)
	status, reason := Admit(Applicant{Kind: KindEvent, Live: true, Enabled: true}, m.c, load)
	if status == RunSkipped && reason == ReasonConcurrencyLimit && load.Running+load.QueuedBefore < m.c.Limit {
		m.t.Fatalf("skipped at %+v under %+v", load, m.c)
	}
	m.rows[i].status, m.rows[i].reason = status, reason
	if m.c.OnLimit == OnLimitReplace && !status.Final() {
		stay := Staying(m.c.Limit, load)
		for k := i - 1; k >= 0; k-- {
			switch r := &m.rows[k]; {
			case !waiting(*r) && !staying(*r):
			case stay > 0:
				stay--
			case running(*r):
				r.stopping = true
			default:
				r.status, r.reason = RunSkipped, ReasonReplaced
			}
		}
	}
	if status == RunRunning {
		m.started = append(m.started, i)
	}
	if status != before && status != RunQueued {
		m.wake()
	}
}

// wake lets the first ones of the line ask again.
func (m *lineModel) wake() {
	for i, r := range m.rows {
		switch {
		case m.count(0, len(m.rows), running) >= m.c.Limit || r.status == RunAccepted:
			return
		case queued(r):
			m.rows[i].status = RunRunning
			m.started = append(m.started, i)
		}
	}
}

func (m *lineModel) some(is func(modelRun) bool) (int, bool) {
	var list []int
	for i, r := range m.rows {
		if is(r) {
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		return 0, false
	}
	return list[rand.N(len(list))], true
}

// TestAdmitKeepsTheLine plays lines of runs that are accepted, begin, ask again, end, and are given up, in any order.
func TestAdmitKeepsTheLine(t *testing.T) {
	t.Parallel()
	for _, onLimit := range []string{OnLimitSkip, OnLimitQueue, OnLimitReplace} {
		t.Run(onLimit, func(t *testing.T) {
			t.Parallel()
			for range 2000 {
				m := &lineModel{t: t, c: Concurrency{Limit: 1 + rand.N(3), OnLimit: onLimit}}
				total := 1 + rand.N(12)
				for open := true; open; {
					switch rand.N(5) {
					case 0:
						if len(m.rows) < total {
							m.rows = append(m.rows, modelRun{status: RunAccepted})
						}
					case 1:
						if i, ok := m.some(func(r modelRun) bool { return r.status == RunAccepted }); ok {
							m.ask(i)
						}
					case 2: // by its timer
						if i, ok := m.some(queued); ok {
							m.ask(i)
						}
					case 3:
						if i, ok := m.some(running); ok {
							m.rows[i].status = RunSucceeded
							m.wake()
						}
					case 4: // Temporal refuses it
						if i, ok := m.some(func(r modelRun) bool { return r.status == RunAccepted }); ok && rand.N(10) == 0 {
							m.rows[i].status = RunFailed
							m.wake()
						}
					}
					if n := m.count(0, len(m.rows), running); n > m.c.Limit {
						t.Fatalf("%d run under %+v: %+v", n, m.c, m.rows)
					}
					begun := slices.ContainsFunc(m.rows, func(r modelRun) bool { return r.status == RunAccepted || r.status == RunRunning })
					if !begun && slices.ContainsFunc(m.rows, queued) {
						t.Fatalf("nobody will wake those that wait under %+v: %+v", m.c, m.rows)
					}
					open = len(m.rows) < total || begun
				}
				if onLimit == OnLimitQueue && !slices.IsSorted(m.started) {
					t.Fatalf("began in the order %v", m.started)
				}
				if last := m.rows[total-1]; onLimit == OnLimitReplace && last.status == RunSkipped {
					t.Fatalf("the newest was replaced: %+v", m.rows)
				}
			}
		})
	}
}

// TestReplace checks which runs have to go.
func TestReplace(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		limit   int
		load    Load
		status  RunStatus
		reason  Reason
		staying int
	}{
		"room":                      {2, Load{Running: 1, StayingBefore: 1}, RunRunning, "", 1},
		"full":                      {2, Load{Running: 2, StayingBefore: 2}, RunQueued, "", 1},
		"the old one is stopping":   {1, Load{Running: 1}, RunQueued, "", 0},
		"others wait":               {1, Load{WaitingBefore: 3}, RunRunning, "", 0},
		"others wait, one may stay": {2, Load{Running: 1, StayingBefore: 1, WaitingBefore: 1}, RunQueued, "", 1},
		"a newer one has begun":     {1, Load{Running: 1, BegunAfter: 1}, RunSkipped, ReasonReplaced, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Concurrency{Limit: tt.limit, OnLimit: OnLimitReplace}
			status, reason := Admit(Applicant{Kind: KindEvent, Live: true, Enabled: true}, c, tt.load)
			if got := Staying(tt.limit, tt.load); status != tt.status || reason != tt.reason || got != tt.staying {
				t.Errorf("got %s %s, %d may stay; want %s %s, %d", status, reason, got, tt.status, tt.reason, tt.staying)
			}
		})
	}
}

// TestLimitsOfRunsByHand checks who waits instead of being skipped.
func TestLimitsOfRunsByHand(t *testing.T) {
	t.Parallel()
	for onLimit, want := range map[string]map[TriggerKind]string{
		"":           {KindEvent: OnLimitSkip, KindManual: OnLimitQueue, KindRerun: OnLimitQueue, KindReplay: OnLimitQueue},
		OnLimitQueue: {KindEvent: OnLimitQueue, KindManual: OnLimitQueue},
		OnLimitReplace: {KindEvent: OnLimitReplace, KindManual: OnLimitReplace, KindRerun: OnLimitReplace, KindReplay: OnLimitQueue,
			KindBackfill: OnLimitQueue},
	} {
		doc := Document{Concurrency: &Concurrency{Limit: 1, OnLimit: onLimit}}
		for kind, wanted := range want {
			if got := doc.Limits(kind).OnLimit; got != wanted {
				t.Errorf("%q, %s: %s, want %s", onLimit, kind, got, wanted)
			}
		}
	}
}
