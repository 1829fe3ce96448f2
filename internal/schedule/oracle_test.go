package schedule

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/activity-core/activity-core/internal/cron"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// The outside oracle: the slots that we compute, against the times at which the Temporal server says that the schedule
// which we made of the same definition is due. They have no code in common but Go's time zones. Where they differ,
// oracle_faults_test.go has to know the fault of Temporal's that explains it, time by time.

var (
	oracleSeed = flag.Uint64("oracle.seed", 0, "seed of the oracle's random questions; 0 takes a fresh one")
	// By default a few new questions each time. The full run is -oracle.expressions 2000 and takes minutes.
	oracleExpressions = flag.Int("oracle.expressions", 40, "random expressions that the oracle asks about in each zone")
)

// oracleZones change by an hour in the night, on both sides of UTC and of the equator; at midnight, on both sides of
// UTC; by half an hour (Lord Howe); as the moon does, up to four times a year (Casablanca); since 2021 no more (Apia, a
// day ahead of its neighbours); and never, with an odd offset (Kathmandu) and without any.
var oracleZones = []string{
	"UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/Santiago", "America/Havana", "Australia/Sydney",
	"Australia/Lord_Howe", "Asia/Beirut", "Asia/Kathmandu", "Pacific/Apia", "Africa/Casablanca",
}

// The windows lie in these years. Temporal knows 2000 to 2100, but the more years, the fewer questions for each.
var (
	oracleSince = time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC)
	oracleUntil = time.Date(2037, 1, 1, 0, 0, 0, 0, time.UTC) // the last window may end a year later
)

const (
	// oracleMost is how many times Temporal lists at once.
	oracleMost = 1000
	// oracleCalls is how many questions are on their way at a time.
	oracleCalls = 16
	// oraclePatience bounds one question with all its tries: only a stuck server needs as long.
	oraclePatience = 2 * time.Minute
)

// question is one schedule, and the window (from, to] in which it is asked about.
type question struct {
	expr, zone string
	from, to   time.Time

	sched *cron.Schedule
	loc   *time.Location
	spec  *Spec
	// calendars are those of the spec as sets: what was sent, read without internal/cron.
	calendars []times
	// fixed: neither minute nor hour begins with *, so that the expression names times of the local clock.
	fixed bool
}

// ask makes a question of an expression that is legal; nil when it never fires.
func ask(expr, zone string, from, to time.Time) (*question, error) {
	q := &question{expr: expr, zone: zone, from: from, to: to}
	sched, err := cron.Parse(expr, zone)
	if refused := (*cron.Error)(nil); errors.As(err, &refused) && refused.Rule == "never_fires" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	doc, err := definition.ParseDocument(fmt.Appendf(nil, `{"name": "oracle", "enabled": false, "trigger_config": `+
		`{"trigger_type": "cron", "cron_expression": %q, "timezone": %q}}`, expr, zone))
	if err != nil {
		return nil, err
	}
	q.spec, err = Want(&definition.Definition{ID: definition.NewID(), Revision: 1, Document: doc},
		Place{Installation: "oracle", TaskQueue: "oracle"}, time.Now())
	if err != nil {
		return nil, err
	}
	if q.spec == nil || !q.spec.Paused {
		return nil, fmt.Errorf("%q: the schedule is %+v; want a paused one", expr, q.spec)
	}
	if q.loc, err = time.LoadLocation(zone); err != nil {
		return nil, err
	}
	q.fixed = expr != "@hourly"
	if fields := strings.Fields(expr); len(fields) == 5 {
		q.fixed = fields[0][0] != '*' && fields[1][0] != '*'
	}
	q.sched, q.calendars = sched, canonical(q.spec.Calendars)
	return q, nil
}

// String is what is needed to ask again.
func (q *question) String() string {
	return fmt.Sprintf("%q in %s, (%s, %s]", q.expr, q.zone, q.from.Format(time.RFC3339), q.to.Format(time.RFC3339))
}

// oracle is the Temporal server.
type oracle struct {
	service   workflowservice.WorkflowServiceClient
	manager   manager
	namespace string
}

func newOracle(t *testing.T) *oracle {
	t.Helper()
	c := testenv.Temporal(t)
	return &oracle{
		service: c.WorkflowService(), manager: manager{schedules: c.ScheduleClient()}, namespace: testenv.Namespace(t),
	}
}

// times makes the schedule of a question as the reconciler makes it, and returns the times that Temporal lists in the
// window, at most oracleMost.
func (o *oracle) times(ctx context.Context, q *question) (listed []time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, oraclePatience)
	defer cancel()
	id := q.spec.DefinitionID
	err = whileBusy(ctx, func(ctx context.Context) error {
		// That it is there already is what a first try looks like that was not answered in time.
		_, err := o.manager.apply(ctx, id, OpCreate, q.spec)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = whileBusy(ctx, func(ctx context.Context) error {
		answer, err := o.service.ListScheduleMatchingTimes(ctx, &workflowservice.ListScheduleMatchingTimesRequest{
			Namespace: o.namespace, ScheduleId: definition.ScheduleID(id),
			StartTime: timestamppb.New(q.from), EndTime: timestamppb.New(q.to),
		})
		listed = listed[:0]
		for _, at := range answer.GetStartTime() {
			listed = append(listed, at.AsTime())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return listed, whileBusy(ctx, func(ctx context.Context) error {
		_, err := o.manager.apply(ctx, id, OpDelete, nil)
		return err
	})
}

// whileBusy makes a call again for as long as the servers are too busy to answer it, which says nothing about cron. A
// schedule that was only just made does not answer before its workflow has begun.
func whileBusy(ctx context.Context, call func(context.Context) error) error {
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		once, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := call(once)
		cancel()
		var notReady *serviceerror.WorkflowNotReady
		if err == nil || !isOutage(err) && !errors.As(err, &notReady) || sleep(ctx, pause) != nil {
			return err
		}
	}
}

// comparison is what came of one question.
type comparison struct {
	ours, theirs []time.Time
	until        time.Time // how far Temporal's list goes
	// explained counts the times that only one side has by the fault of Temporal's that explains them.
	explained map[string]int
	// wrong is whatever is not explained.
	wrong []finding
}

type finding struct {
	at   time.Time
	what string
}

// compare holds our slots against the times that Temporal listed.
func (q *question) compare(theirs []time.Time) *comparison {
	c := &comparison{theirs: theirs, until: q.to, explained: map[string]int{}}
	if len(theirs) == oracleMost {
		c.until = theirs[oracleMost-1]
	}
	// Temporal can lose a whole day of 1,440 times, so we may have many more.
	c.ours = q.sched.Between(q.from, c.until, 4*oracleMost)

	var changes []clockChange
	if q.spec.Every == 0 { // intervals do not know clocks, so nothing is explained by them
		changes = clockChanges(q.loc, q.from.Add(-faultAfter), c.until.Add(faultBefore))
	}
	differs := func(at time.Time, ours bool) {
		for _, change := range changes {
			if fault := q.explain(change, c, at, ours); fault != "" {
				c.explained[fault]++
				return
			}
		}
		what := "Temporal alone has it"
		if ours {
			what = "we alone have it"
		}
		c.wrong = append(c.wrong, finding{at, what})
	}
	for _, at := range c.ours {
		if !contains(theirs, at) {
			differs(at, true)
		}
	}
	for _, at := range theirs {
		if !contains(c.ours, at) {
			differs(at, false)
		}
	}
	for _, change := range changes {
		q.audit(change, c)
	}
	return c
}

// contains looks a time up in a rising list.
func contains(all []time.Time, at time.Time) bool {
	_, ok := slices.BinarySearchFunc(all, at, time.Time.Compare)
	return ok
}

// report is everything that is needed to understand what is wrong without asking again.
func (q *question) report(c *comparison) string {
	const shown = 10
	var b strings.Builder
	show := func(at time.Time) string { return at.In(q.loc).Format("2006-01-02T15:04:05-07:00") }
	fmt.Fprintf(&b, "%v\ncalendars %+v, every %v", q, q.spec.Calendars, q.spec.Every)
	for _, f := range c.wrong[:min(shown, len(c.wrong))] {
		fmt.Fprintf(&b, "\n%s: %s", show(f.at), f.what)
	}
	fmt.Fprintf(&b, "\n%d in all; around the first of them", len(c.wrong))
	near := func(who string, all []time.Time) {
		i, _ := slices.BinarySearchFunc(all, c.wrong[0].at, time.Time.Compare)
		fmt.Fprintf(&b, "\n%s (%d times):", who, len(all))
		for _, at := range all[max(0, i-shown):min(len(all), i+2*shown)] {
			fmt.Fprintf(&b, " %s", show(at))
		}
	}
	near("we have", c.ours)
	near("Temporal has", c.theirs)
	return b.String()
}

func TestOracle(t *testing.T) {
	t.Parallel()
	seed := *oracleSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with: bin/devstack exec -- go test -count=1 -run '^TestOracle$' -v ./internal/schedule "+
		"-oracle.seed %d -oracle.expressions %d", seed, *oracleExpressions)
	began := time.Now()
	o, questions := newOracle(t), randomQuestions(t, seed, *oracleExpressions)

	var (
		mu        sync.Mutex
		workers   sync.WaitGroup
		work      = make(chan *question)
		asked     int
		slots     int
		changing  int
		bad       int
		explained = map[string]int{}
	)
	const enough = 5 // nobody reads more reports, and a server that is gone stays away
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for range oracleCalls {
		workers.Go(func() {
			for q := range work {
				theirs, err := o.times(ctx, q)
				if ctx.Err() != nil {
					return
				}
				var c *comparison
				if err == nil {
					c = q.compare(theirs)
				}
				mu.Lock()
				asked++
				switch {
				case err != nil:
					t.Errorf("%v: %v", q, err)
					bad++
				case len(c.wrong) > 0:
					t.Error(q.report(c))
					bad++
				default:
					slots += len(c.ours)
					if len(clockChanges(q.loc, q.from, c.until)) > 0 {
						changing++
					}
					for fault, n := range c.explained {
						explained[fault] += n
					}
				}
				if bad == enough {
					stop()
				}
				mu.Unlock()
			}
		})
	}
feed:
	for _, q := range questions {
		select {
		case work <- q:
		case <-ctx.Done():
			break feed
		}
	}
	close(work)
	workers.Wait()

	total := 0
	var lines strings.Builder
	for _, fault := range allFaults {
		total += explained[fault]
		fmt.Fprintf(&lines, "\n%8d %s", explained[fault], fault)
	}
	t.Logf("differences explained:%s", lines.String())
	// A line to look for in the output of -v or -json, which has it whether or not the test fails.
	fmt.Printf("oracle: seed %d: %d comparisons, %d of them over a change of the clocks; %d slots; "+
		"%d differences explained; %d comparisons failed; %s\n",
		seed, asked, changing, slots, total, bad, time.Since(began).Round(100*time.Millisecond))

	// Did the questions prove anything? With few of them that is a matter of luck.
	if bad == 0 && *oracleExpressions >= 40 && (slots < 20*asked || changing < asked/8) {
		t.Errorf("too easy: %d slots and %d changes of the clocks in %d comparisons", slots, changing, asked)
	}
	for _, fault := range allFaults {
		if bad == 0 && *oracleExpressions >= 1000 && explained[fault] == 0 {
			t.Errorf("did not meet the fault %q", fault)
		}
	}
}

// randomQuestions asks about each of n random expressions in each zone, in windows of their own.
func randomQuestions(t *testing.T, seed uint64, n int) []*question {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	changes := map[string][]clockChange{}
	for _, zone := range oracleZones {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		changes[zone] = clockChanges(loc, oracleSince, oracleUntil)
	}
	var out []*question
	for len(out) < n*len(oracleZones) {
		expr := randomExpression(r)
		for _, zone := range oracleZones {
			from, to := randomWindow(r, changes[zone])
			q, err := ask(expr, zone, from, to)
			if err != nil {
				t.Fatalf("%q is legal: %v", expr, err)
			}
			if q != nil {
				out = append(out, q)
			}
		}
	}
	return out
}

// randomWindow begins anywhere, but mostly near a change of the clocks, if there are any: from two hours behind it to
// months in front of it, since 1,000 times of a dense expression are over in a day.
func randomWindow(r *rand.Rand, changes []clockChange) (from, to time.Time) {
	upTo := func(choices ...time.Duration) time.Duration {
		return time.Duration(r.Int64N(int64(choices[r.IntN(len(choices))]))).Truncate(time.Second)
	}
	const day = 24 * time.Hour
	from = oracleSince.Add(upTo(oracleUntil.Sub(oracleSince)))
	if len(changes) > 0 && r.IntN(4) > 0 {
		before := upTo(4*time.Hour, 8*time.Hour, 16*time.Hour, 3*day, 40*day, 300*day)
		from = changes[r.IntN(len(changes))].at.Add(2*time.Hour - before)
	}
	if r.IntN(4) > 0 { // on a whole minute, where times are
		from = from.Truncate(time.Minute)
	}
	return from, from.Add(upTo(day, 7*day, 60*day, 365*day, 365*day))
}

// randomExpression writes a legal expression, which may still never fire. Hours are mostly those in which clocks change.
func randomExpression(r *rand.Rand) string {
	switch r.IntN(20) {
	case 0:
		return fmt.Sprintf("@every %d%s", 1+r.IntN(100), []string{"s", "m", "h"}[r.IntN(3)])
	case 1:
		return []string{"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}[r.IntN(7)]
	}
	const seldom, often = 2, 5 // in ten fields, * or */n
	hour := randomField(r, 0, 23, nil, seldom)
	if r.IntN(2) == 0 {
		hour = randomField(r, 0, 4, nil, seldom)
		if r.IntN(4) == 0 {
			hour += ",22-23"
		}
	}
	month := "*"
	if r.IntN(4) == 0 {
		month = randomField(r, 1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov",
			"dec"}, often)
	}
	day := "*"
	if r.IntN(2) == 0 {
		day = randomField(r, 1, 31, nil, often)
	}
	return strings.Join([]string{randomField(r, 0, 59, nil, seldom), hour, day, month,
		randomField(r, 0, 7, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, often)}, " ")
}

// randomField writes * or */n as often in ten as stars says, else a list of values, ranges and steps.
func randomField(r *rand.Rand, low, high int, names []string, stars int) string {
	value := func(v int) string {
		if v-low >= len(names) || r.IntN(2) == 0 {
			return strconv.Itoa(v)
		}
		if name := names[v-low]; r.IntN(2) == 0 {
			return name
		}
		return strings.ToUpper(names[v-low])
	}
	if r.IntN(10) < stars {
		return []string{"*", fmt.Sprintf("*/%d", 1+r.IntN(high))}[r.IntN(2)]
	}
	items := make([]string, 1+r.IntN(3))
	for i := range items {
		a, b := low+r.IntN(high-low+1), low+r.IntN(high-low+1)
		a, b = min(a, b), max(a, b)
		switch r.IntN(4) {
		case 0:
			items[i] = value(a) + "-" + value(b)
		case 1:
			items[i] = fmt.Sprintf("%d-%d/%d", a, b, 1+r.IntN(high))
		default:
			items[i] = value(a)
		}
	}
	return strings.Join(items, ",")
}
