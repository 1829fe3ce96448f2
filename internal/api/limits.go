package api

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/activity-core/activity-core/internal/access"
)

// Limits bound how many requests a minute are served; 0 is no limit. This process counts alone, so that n replicas together serve up
// to n times as many. Who was quiet may make a minute's worth of requests at once, and then goes on at the even pace.
type Limits struct {
	// Caller is for each caller (the ID of access.Caller), counted after the credential was found good.
	Caller int
	// Address is for each IP address, counted before the credential is looked at. An IPv6 address stands for its /64, which is what one
	// customer has. /healthz and /readyz are not counted.
	Address int
	// FailedCredentials is for each IP address, and counts the credentials that turn out to be no good. Beyond it, those that have not
	// been good before are not looked at any more, while those that have go on working.
	FailedCredentials int
}

// DefaultFailedCredentials is as many as a person or a broken client needs to notice, and far too few to guess with.
const DefaultFailedCredentials = 60

// maxTracked bounds the memory of one limit: twice this many keys, with about 300 bytes each. Keys that a flood of others makes us
// forget begin anew; who has so many addresses is not held by a limit for each.
const maxTracked = 20_000

// Names of the limits in the metrics.
const (
	limitCaller     = "caller"
	limitAddress    = "address"
	limitCredential = "credential"
)

// limits are the limits of one API, and what they need to know.
type limits struct {
	callers, addresses, failures *limit

	good    *recent[uint64, struct{}] // hashes of credentials that were good when they were last looked at
	seed    maphash.Seed
	looking singleflight.Group // by credential, those that are not among the good
}

func newLimits(o Limits) *limits {
	return &limits{
		callers: newLimit(o.Caller), addresses: newLimit(o.Address), failures: newLimit(o.FailedCredentials),
		good: newRecent[uint64, struct{}](), seed: maphash.MakeSeed(),
	}
}

// limit is a number of requests a minute for each key. A nil one does not limit.
type limit struct {
	perMinute int
	buckets   *recent[string, *rate.Limiter]
}

func newLimit(perMinute int) *limit {
	if perMinute == 0 {
		return nil
	}
	return &limit{perMinute, newRecent[string, *rate.Limiter]()}
}

// take counts one request of the key. When it is one too many it is not counted, and wait is how long until one is possible.
// giveBack makes it uncounted.
func (l *limit) take(key string, now time.Time) (wait time.Duration, giveBack func()) {
	if l == nil {
		return 0, func() {}
	}
	taken := l.buckets.get(key, func() *rate.Limiter {
		return rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)
	}).ReserveN(now, 1)
	giveBack = func() { taken.CancelAt(now) }
	if wait = taken.DelayFrom(now); wait > 0 {
		giveBack()
	}
	return wait, giveBack
}

// recent keeps the values of the keys that were used last, of at least maxTracked and of at most twice as many.
type recent[K comparable, V any] struct {
	mu         sync.Mutex
	young, old map[K]V // what is used moves to the young; when those are many, the old ones go, and the young ones are old
}

func newRecent[K comparable, V any]() *recent[K, V] {
	return &recent[K, V]{young: map[K]V{}}
}

// get returns the value of a key, which it makes when there is none.
func (r *recent[K, V]) get(key K, make func() V) V {
	r.mu.Lock()
	defer r.mu.Unlock()
	value, ok := r.young[key]
	if ok {
		return value
	}
	if value, ok = r.old[key]; !ok {
		value = make()
	}
	if len(r.young) >= maxTracked {
		r.old, r.young = r.young, map[K]V{}
	}
	r.young[key] = value
	return value
}

func (r *recent[K, V]) has(key K) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, young := r.young[key]
	_, old := r.old[key]
	return young || old
}

func (r *recent[K, V]) forget(key K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.young, key)
	delete(r.old, key)
}

// limitKey is what an address is counted as.
func limitKey(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return clip(address, 100)
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	network, err := ip.Prefix(64)
	if err != nil {
		panic(err) // an IPv6 address has 128 bits
	}
	return network.String()
}

// limitAddress refuses the requests of an address that makes too many.
func (a *API) limitAddress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch chi.RouteContext(r.Context()).RoutePath {
		case "/healthz", "/readyz": // whoever asks has to do so often, and they cost next to nothing
			next.ServeHTTP(w, r)
			return
		}
		address := limitKey(visitOf(r.Context()).address)
		if wait, _ := a.limits.addresses.take(address, a.now()); wait > 0 {
			a.limited(limitAddress, wait, "more than %d requests a minute came from the address %s, which is the most that one address may make",
				a.limits.addresses.perMinute, address).write(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limitCaller counts a request, and is the answer to one too many.
func (a *API) limitCaller(caller access.Caller) *Problem {
	wait, _ := a.limits.callers.take(caller.ID, a.now())
	if wait == 0 {
		return nil
	}
	return a.limited(limitCaller, wait, "%s makes more than %d requests a minute, which is the most that one caller may make",
		clip(caller.Name, 100), a.limits.callers.perMinute)
}

// authenticate asks whose a credential is, unless too many from this address were no good.
func (a *API) authenticate(ctx context.Context, credential, address string) (access.Caller, error) {
	hash := maphash.String(a.limits.seed, credential)
	if a.limits.good.has(hash) {
		caller, err := a.access.Authenticate(ctx, credential)
		if errors.Is(err, access.ErrUnknown) {
			a.limits.good.forget(hash)
		}
		return caller, err
	}
	// The first requests of a new client come at once, and are one look at its credential. The others go on waiting for it when the
	// first one is given up.
	type looked struct {
		caller access.Caller
		wait   time.Duration
	}
	found, err, _ := a.limits.looking.Do(credential, func() (any, error) {
		wait, giveBack := a.limits.failures.take(limitKey(address), a.now())
		if wait > 0 {
			return looked{wait: wait}, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		caller, err := a.access.Authenticate(ctx, credential)
		if !errors.Is(err, access.ErrUnknown) {
			giveBack()
		}
		if err == nil {
			a.limits.good.get(hash, func() struct{} { return struct{}{} })
		}
		return looked{caller: caller}, err
	})
	result, _ := found.(looked)
	if result.wait > 0 {
		return access.Caller{}, a.limited(limitCredential, result.wait,
			"more than %d credentials a minute that are not valid came from the address %s, and no other one is looked at now; "+
				"those that were good before go on working", a.limits.failures.perMinute, limitKey(address))
	}
	return result.caller, err
}

// limited counts that a limit was met, and is the answer.
func (a *API) limited(limit string, wait time.Duration, format string, args ...any) *Problem {
	a.metrics.limited.WithLabelValues(limit).Inc()
	seconds := strconv.Itoa(int(math.Ceil(wait.Seconds())))
	p := newProblem(http.StatusTooManyRequests, kindTooManyRequests, format+": try again in "+seconds+" s", args...)
	p.headers = http.Header{"Retry-After": {seconds}}
	return p
}
