package api_test

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
	"pgregory.net/rapid"
)

var (
	contractSeed     = flag.Uint64("contract.seed", 0, "the seed of TestContract; 0 for a fresh one, which is printed")
	contractRequests = flag.Int("contract.requests", 30_000, "how many requests TestContract makes")
)

// TestContract makes requests that are drawn from the OpenAPI document, legal ones and others, by callers who may and who may not, from
// eight goroutines at once, and holds every answer against the document: none is a 5xx, and none is another than documented. Each
// operation has to succeed at least once, and to refuse at least once.
//
// A failure names the seed of its request. To make the same requests again, or more of them:
//
//	bin/devstack exec -- go test ./internal/api -run '^TestContract$' -contract.seed=7 -contract.requests=300000 -v
func TestContract(t *testing.T) {
	t.Parallel()
	f := newFuzzer(t, newWorld(t, nil, nil))
	seed := cmp.Or(*contractSeed, rand.Uint64N(1<<52))
	begin := time.Now()
	f.run(seed, *contractRequests, 8)

	fmt.Printf("contract: seed %d, %d requests in %.0f s; %s; by class %s; %d × 5xx, %d invalid answers\n", seed, f.made.Load(),
		time.Since(begin).Seconds(), counts(f.byStatus), counts(f.byClass), f.byStatus["5xx"], f.invalid)
	t.Logf("2xx and 4xx by operation:\n%s", f.coverage())
	f.report(t)
	if *contractRequests < 10_000 {
		return // too few for the rest
	}
	for _, op := range f.ops {
		if f.seen[op][2] == 0 || op.role != "" && f.seen[op][4] == 0 {
			t.Errorf("%s was answered %d × 2xx and %d × 4xx: each has to come at least once", op, f.seen[op][2], f.seen[op][4])
		}
	}
}

// TestContractFindsFaults breaks the API in ways that break clients, and sees each of them found.
func TestContractFindsFaults(t *testing.T) {
	t.Parallel()
	answer := func(status int, kind, body string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/runs" {
					w = &altered{w, status, kind, body}
				}
				next.ServeHTTP(w, r)
			})
		}
	}
	for name, test := range map[string]struct {
		change func(*api.Options)
		wrap   func(http.Handler) http.Handler
		found  string
	}{
		"nothing":           {nil, nil, ""},
		"a status":          {nil, answer(206, "", ""), "status 206 is not documented"},
		"a type":            {nil, answer(0, "text/html", ""), `the type "text/html" is not documented`},
		"a missing member":  {nil, answer(0, "", `{"items":[]}`), "breaks its schema"},
		"a wrong type":      {nil, answer(0, "", `{"items":{},"next_cursor":null}`), "breaks its schema"},
		"half an answer":    {nil, answer(0, "", `{"items":[`), "is not JSON"},
		"an internal word":  {nil, answer(0, "", `{"items":[],"next_cursor":"SQLSTATE 42P01"}`), `tells "SQLSTATE"`},
		"a panic":           {func(o *api.Options) { o.Store = panics{o.Store} }, nil, "status 500"},
		"an unasked caller": {func(o *api.Options) { o.Access = nil }, nil, "whom the document promises 401"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFuzzer(t, newWorld(t, test.change, test.wrap))
			f.ops = slices.DeleteFunc(f.ops, func(op *operation) bool { return op.id != "list-runs" })
			f.run(1, 300, 2)
			all := ""
			for _, found := range f.found {
				all += found.wrong + "\n"
			}
			if !strings.Contains(all, test.found) || test.found == "" && all != "" {
				t.Errorf("found %q, want %q", all, test.found)
			}
		})
	}
}

// altered changes successful answers.
type altered struct {
	http.ResponseWriter
	status     int
	kind, body string
}

func (a *altered) WriteHeader(status int) {
	if status >= 400 {
		a.body = ""
	} else {
		status = cmp.Or(a.status, status)
		if a.kind != "" {
			a.Header().Set("Content-Type", a.kind)
		}
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *altered) Write(data []byte) (int, error) {
	if a.body == "" {
		return a.ResponseWriter.Write(data)
	}
	_, err := io.WriteString(a.ResponseWriter, a.body)
	return len(data), err
}

type panics struct{ api.Store }

func (panics) ListRuns(context.Context, definition.ListRuns) ([]definition.Run, error) {
	panic("on purpose")
}

// fuzzer makes requests and keeps what was wrong with the answers.
type fuzzer struct {
	*generator
	*checker
	w    *world
	made atomic.Int64

	mu                sync.Mutex
	byStatus, byClass map[string]int
	seen              map[*operation]map[int]int // answers by status class
	found             map[string]finding         // the first one of each kind
	invalid           int
}

// finding is what was wrong with the answer to the request of a seed.
type finding struct {
	seed         uint64
	wrong, story string
}

func newFuzzer(t *testing.T, w *world) *fuzzer {
	t.Helper()
	res, err := w.client.Get(w.url + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newChecker(data)
	if err != nil {
		t.Fatal(err)
	}
	return &fuzzer{generator: &generator{ops: operationsOf(c.doc)}, checker: c, w: w, byStatus: map[string]int{}, byClass: map[string]int{},
		seen: map[*operation]map[int]int{}, found: map[string]finding{}}
}

// run makes the requests of n seeds, from the given one on.
func (f *fuzzer) run(seed uint64, n, workers int) {
	requests := f.requests()
	var next atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f.one(seed+uint64(i), requests.Example(int(seed+uint64(i))))
				if i%250 == 249 {
					if err := f.w.stock(context.Background()); err != nil {
						f.note(finding{wrong: "stock the world: " + err.Error()}, "stock")
					}
				}
			}
		})
	}
	group.Wait()
}

// one makes one request and judges the answer.
func (f *fuzzer) one(seed uint64, r *request) {
	f.w.asking.RLock()
	defer f.w.asking.RUnlock()
	s := f.w.build(r)
	a, err := f.w.send(s)
	var wrong []string
	if err != nil {
		wrong = []string{"no answer: " + err.Error()}
	} else {
		wrong = f.check(r.op, r, s, a)
	}
	if a.status/100 == 2 && s.method != http.MethodHead {
		f.w.remember(r.op, a.header, a.body)
	}
	f.made.Add(1)
	for _, text := range wrong {
		f.note(finding{seed, text, s.String() + a.String()}, fmt.Sprintf("%s %.60s", r.op, text))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byStatus[fmt.Sprintf("%dxx", a.status/100)]++
	f.byClass[r.class]++
	if f.seen[r.op] == nil {
		f.seen[r.op] = map[int]int{}
	}
	f.seen[r.op][a.status/100]++
	if len(wrong) > 0 {
		f.invalid++
	}
}

// note keeps the first finding of a kind.
func (f *fuzzer) note(found finding, kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.found[kind]; !known {
		f.found[kind] = found
	}
}

func (s sent) String() string {
	return fmt.Sprintf("%s %s\n%v\n%.1000q (%d bytes)\n", s.method, s.target, s.header, s.body, len(s.body))
}

func (a response) String() string { return fmt.Sprintf("answered %d %.1500s\n", a.status, a.body) }

// send makes a request over the wire.
func (w *world) send(s sent) (response, error) {
	var body io.Reader
	if s.body != nil {
		body = bytes.NewReader(s.body)
	}
	req, err := http.NewRequest(s.method, w.url+s.target, body)
	if err != nil {
		return response{}, err
	}
	req.Header = s.header
	res, err := w.client.Do(req)
	if err != nil {
		return response{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, data}, err
}

// report tells what was found, and looks for the smallest request that shows the first of it again.
func (f *fuzzer) report(t *testing.T) {
	t.Helper()
	if len(f.found) == 0 {
		return
	}
	kinds := slices.Sorted(maps.Keys(f.found))
	for _, kind := range kinds {
		t.Errorf("%s: %s\nseed %d: %s\n", kind, f.found[kind].wrong, f.found[kind].seed, f.found[kind].story)
	}
	t.Logf("errors in the log of the service:\n%.8000s", f.w.log.String())
	for name, value := range map[string]string{"seed": fmt.Sprint(f.found[kinds[0]].seed), "checks": "1", "shrinktime": "10s", "nofailfile": "true"} {
		if err := flag.Set("rapid."+name, value); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("smallest", rapid.MakeCheck(func(t *rapid.T) {
		r := f.requests().Draw(t, "request")
		s := f.w.build(r)
		a, err := f.w.send(s)
		if err != nil {
			t.Fatal(err)
		}
		if wrong := f.check(r.op, r, s, a); len(wrong) > 0 {
			t.Fatalf("%s\n%s%s", wrong, s, a)
		}
	}))
}

// coverage is a table of the answers by operation.
func (f *fuzzer) coverage() string {
	var out strings.Builder
	for _, op := range f.ops {
		fmt.Fprintf(&out, "%-55s %5d %5d\n", op, f.seen[op][2], f.seen[op][4])
	}
	return out.String()
}

func counts(of map[string]int) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		words = append(words, fmt.Sprintf("%s %d", name, of[name]))
	}
	return strings.Join(words, ", ")
}
