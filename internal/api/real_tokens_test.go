package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/auth"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
)

// guarded is an API on a real database that asks who calls. Whatever is not about Postgres is a fake.
func guarded(t *testing.T, pool *pgxpool.Pool, log *slog.Logger) *API {
	t.Helper()
	store := postgres.New(pool)
	who, err := auth.New(auth.Options{Tokens: store, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	o := testOptions()
	o.Store, o.Access, o.Log = store, who, log
	return newAPI(t, o)
}

// bootstrap makes the first admin, as cmd/tokens does.
func bootstrap(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	token := access.NewToken()
	_, err := postgres.New(pool).CreateToken(t.Context(), access.TokenRequest{Name: "boot", Role: access.Admin, Lifetime: time.Hour}, token)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// as makes a request with a token and reads the answer.
func as[T any](t *testing.T, a *API, token string, status int, method, path, body string, headers ...string) T {
	t.Helper()
	w := call(t, a, method, path, body, append(headers, "Authorization", "Bearer "+token)...)
	if w.Code != status {
		t.Fatalf("%s %s: %d, want %d: %s", method, path, w.Code, status, w.Body)
	}
	return decode[T](t, w)
}

// refusedWithin polls until a token is refused.
func refusedWithin(t *testing.T, limit time.Duration, a *API, token string) {
	t.Helper()
	testenv.Eventually(t, limit, "the token is refused", func(context.Context) (bool, error) {
		return call(t, a, "GET", "/whoami", "", "Authorization", "Bearer "+token).Code == http.StatusUnauthorized, nil
	})
}

// TestLifeOfATokenOnTwoServices goes through a token's life with two services on one database.
func TestLifeOfATokenOnTwoServices(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	log := slog.New(slog.DiscardHandler)
	one, two := guarded(t, testenv.OpenPool(t, url), log), guarded(t, testenv.OpenPool(t, url), log)
	pool := testenv.OpenPool(t, url)
	boot := bootstrap(t, pool)

	made := as[IssuedToken](t, one, boot, 201, "POST", "/tokens", `{"name":"ci","role":"editor","labels":{"team":"growth"},"expires_in":"720h"}`)
	if made.CreatedBy != "boot" || made.Hint != made.Secret[40:] || made.State != "active" || made.LastUsedAt != nil ||
		made.ExpiresAt.Sub(made.CreatedAt) != 720*time.Hour || made.CallerID != "token:"+made.ID {
		t.Errorf("made %+v", made)
	}
	me := as[Caller](t, two, made.Secret, 200, "GET", "/whoami", "")
	if me.ID != made.CallerID || me.Name != "ci" || me.Role != "editor" || me.Labels["team"] != "growth" || me.MaxDefinitions != 1000 ||
		me.ExpiresAt == nil || !me.ExpiresAt.Equal(made.ExpiresAt) {
		t.Errorf("it is known as %+v", me)
	}
	testenv.Eventually(t, 10*time.Second, "its use is noted", func(context.Context) (bool, error) {
		return as[Token](t, one, boot, 200, "GET", "/tokens/"+made.ID, "").LastUsedAt != nil, nil
	})

	// Rotated: both work, and are the same caller.
	next := as[IssuedToken](t, one, boot, 201, "POST", "/tokens/"+made.ID+"/rotate", `{"overlap":"1h"}`)
	if next.ID == made.ID || next.Secret == made.Secret || next.CallerID != made.CallerID || next.Role != made.Role ||
		next.Labels["team"] != "growth" || next.ExpiresAt.Sub(next.CreatedAt) != 720*time.Hour {
		t.Errorf("rotated into %+v", next)
	}
	if old := as[Token](t, one, boot, 200, "GET", "/tokens/"+made.ID, ""); old.ExpiresAt.Sub(next.CreatedAt) != time.Hour {
		t.Errorf("the old one ends at %s, an hour after %s is wanted", old.ExpiresAt, next.CreatedAt)
	}
	for _, token := range []string{made.Secret, next.Secret} {
		if who := as[Caller](t, two, token, 200, "GET", "/whoami", ""); who.ID != made.CallerID {
			t.Errorf("known as %+v", who)
		}
	}
	as[Problem](t, one, boot, 409, "POST", "/tokens/"+made.ID+"/rotate", "")

	// The end of the overlap comes.
	if _, err := pool.Exec(t.Context(), `UPDATE tokens SET expires_at = now() - interval '1 s' WHERE id = $1`, made.ID); err != nil {
		t.Fatal(err)
	}
	refusedWithin(t, 5*time.Second, two, made.Secret)
	if p := as[Problem](t, two, made.Secret, 401, "GET", "/whoami", ""); !strings.Contains(p.Detail, "the token expired at ") {
		t.Errorf("%q", p.Detail)
	}
	as[Caller](t, two, next.Secret, 200, "GET", "/whoami", "")
	as[Problem](t, one, boot, 409, "POST", "/tokens/"+made.ID+"/rotate", "")

	// No overlap: the old one ends at once, and the successor is good for as long as the first was.
	last := as[IssuedToken](t, one, boot, 201, "POST", "/tokens/"+next.ID+"/rotate", `{"overlap":"0s"}`)
	if last.ExpiresAt.Sub(last.CreatedAt) != 720*time.Hour || last.CallerID != made.CallerID {
		t.Errorf("rotated again into %+v", last)
	}
	refusedWithin(t, 5*time.Second, two, next.Secret)

	// Revoked on one service: the other one refuses it, too.
	as[Caller](t, two, last.Secret, 200, "GET", "/whoami", "")
	revoked := as[Token](t, one, boot, 200, "POST", "/tokens/"+last.ID+"/revoke", "")
	if revoked.State != "revoked" || revoked.RevokedAt == nil {
		t.Errorf("revoked: %+v", revoked)
	}
	refusedWithin(t, 5*time.Second, two, last.Secret)
	if p := as[Problem](t, two, last.Secret, 401, "GET", "/whoami", ""); p.Detail !=
		"the credential is not valid: the token was revoked; ask an admin for another one" {
		t.Errorf("%q", p.Detail)
	}
	if again := as[Token](t, two, boot, 200, "POST", "/tokens/"+last.ID+"/revoke", ""); !again.RevokedAt.Equal(*revoked.RevokedAt) {
		t.Errorf("revoked again: %+v", again)
	}
	as[Problem](t, one, boot, 409, "POST", "/tokens/"+last.ID+"/rotate", "")
	as[Problem](t, one, boot, 404, "POST", "/tokens/"+someID+"/revoke", "")

	// Listed: newest first, page by page.
	var states []string
	for path := "/tokens?limit=3"; path != ""; {
		page := as[TokenList](t, one, boot, 200, "GET", path, "")
		for _, item := range page.Items {
			states = append(states, item.Name+" "+string(item.State))
		}
		path = ""
		if page.NextCursor != nil {
			path = "/tokens?limit=3&cursor=" + *page.NextCursor
		}
	}
	if got := strings.Join(states, ", "); got != "ci revoked, ci expired, ci expired, boot active" {
		t.Errorf("listed: %s", got)
	}

	// Each change has its row in the audit trail.
	rows, err := pool.Query(t.Context(), `
		SELECT concat_ws(' ', actor, action, CASE target_id WHEN $1 THEN 'first' WHEN $2 THEN 'second' WHEN $3 THEN 'third' ELSE 'boot' END,
		                 before IS NOT NULL, after->>'rotated_into' = ANY(ARRAY[$2, $3]))
		FROM audit WHERE target_kind = 'token' ORDER BY id`, made.ID, next.ID, last.ID)
	if err != nil {
		t.Fatal(err)
	}
	trail, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if want := "system token.create boot f|boot token.create first f|boot token.rotate first t t|boot token.rotate second t t|" +
		"boot token.revoke third t"; err != nil || strings.Join(trail, "|") != want {
		t.Errorf("audit trail %q, %v, want %s", trail, err, want)
	}
}

// TestOneRotationAtATime rotates a token many times at once: one of them does.
func TestOneRotationAtATime(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	a := guarded(t, pool, slog.New(slog.DiscardHandler))
	boot := bootstrap(t, pool)
	made := as[IssuedToken](t, a, boot, 201, "POST", "/tokens", `{"name":"ci","role":"viewer"}`)
	counts := together(10, func(int) int {
		return call(t, a, "POST", "/tokens/"+made.ID+"/rotate", "", "Authorization", "Bearer "+boot).Code
	})
	if counts[201] != 1 || counts[409] != 9 {
		t.Errorf("answers %v, want 201 once and 409 nine times", counts)
	}

	// Nobody has the successor: with it revoked, the old one is rotated again, and the new one is good for as long as the first was.
	successor := as[TokenList](t, a, boot, 200, "GET", "/tokens?limit=1", "").Items[0]
	p := as[Problem](t, a, boot, 409, "POST", "/tokens/"+made.ID+"/rotate", "")
	if p.Type != problemURN+"token-rotated" || !strings.Contains(p.Detail, "into "+successor.ID+":") {
		t.Errorf("%+v", p)
	}
	as[Token](t, a, boot, 200, "POST", "/tokens/"+successor.ID+"/revoke", "")
	again := as[IssuedToken](t, a, boot, 201, "POST", "/tokens/"+made.ID+"/rotate", "")
	if again.ExpiresAt.Sub(again.CreatedAt) != 90*24*time.Hour {
		t.Errorf("good from %s to %s", again.CreatedAt, again.ExpiresAt)
	}
}

// together makes n calls at once and counts the statuses of their answers.
func together(n int, do func(i int) int) map[int]int {
	var mu sync.Mutex
	counts := map[int]int{}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			status := do(i)
			mu.Lock()
			counts[status]++
			mu.Unlock()
		})
	}
	wg.Wait()
	return counts
}

// TestDefinitionsOfACaller makes more definitions than a token may have, all at once and on two services.
func TestDefinitionsOfACaller(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	log := slog.New(slog.DiscardHandler)
	pool := testenv.OpenPool(t, url)
	services := []*API{guarded(t, pool, log), guarded(t, testenv.OpenPool(t, url), log)}
	boot := bootstrap(t, pool)
	made := as[IssuedToken](t, services[0], boot, 201, "POST", "/tokens", `{"name":"ci","role":"editor","max_definitions":5}`)
	create := func(token, name string, service int) int {
		return call(t, services[service%2], "POST", "/activity-definitions", `{"name":"`+name+`","trigger_config":{"trigger_type":"manual"}}`,
			"Authorization", "Bearer "+token).Code
	}
	counts := together(20, func(i int) int { return create(made.Secret, fmt.Sprint("d", i), i) })
	if counts[201] != 5 || counts[409] != 15 {
		t.Errorf("answers %v, want 201 five times and 409 fifteen times", counts)
	}
	p := as[Problem](t, services[0], made.Secret, 409, "POST", "/activity-definitions", `{"name":"more","trigger_config":{"trigger_type":"manual"}}`)
	if p.Type != problemURN+"too-many-definitions" {
		t.Errorf("%+v", p)
	}
	// Rotated, it is the same caller; others have their own limits, or none.
	next := as[IssuedToken](t, services[0], boot, 201, "POST", "/tokens/"+made.ID+"/rotate", "")
	if got := create(next.Secret, "rotated", 0); got != 409 {
		t.Errorf("the successor: %d", got)
	}
	if got := create(boot, "boots", 0); got != 201 {
		t.Errorf("another caller: %d", got)
	}
	// What is deleted does not count.
	mine := as[DefinitionList](t, services[0], made.Secret, 200, "GET", "/activity-definitions", "").Items[0]
	if w := call(t, services[0], "DELETE", "/activity-definitions/"+mine.ID, "", "Authorization", "Bearer "+made.Secret); w.Code != 204 {
		t.Fatalf("delete: %d %s", w.Code, w.Body)
	}
	if got := []int{create(made.Secret, "again", 1), create(made.Secret, "too-many", 1)}; got[0] != 201 || got[1] != 409 {
		t.Errorf("after a deletion: %v", got)
	}
}

// TestNoTokenIsKept looks for tokens in all that is stored and logged after they were made, rotated, revoked, used and mistyped.
func TestNoTokenIsKept(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	var logged testenv.LogBuffer
	a := guarded(t, pool, slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})))
	boot := bootstrap(t, pool)
	made := as[IssuedToken](t, a, boot, 201, "POST", "/tokens", `{"name":"ci","role":"editor"}`, "Idempotency-Key", "k-1")
	next := as[IssuedToken](t, a, boot, 201, "POST", "/tokens/"+made.ID+"/rotate", "", "Idempotency-Key", "k-2")
	definition := as[Definition](t, a, made.Secret, 201, "POST", "/activity-definitions",
		`{"name":"a","trigger_config":{"trigger_type":"manual"}}`, "Idempotency-Key", "k-3")
	as[Definition](t, a, next.Secret, 200, "POST", "/activity-definitions/"+definition.ID+"/pause", `{"reason":"x"}`)
	as[Token](t, a, boot, 200, "POST", "/tokens/"+made.ID+"/revoke", "")
	mistyped := boot[:43] + map[bool]string{true: "a", false: "b"}[boot[43] != 'a']
	as[Problem](t, a, mistyped, 401, "GET", "/whoami", "")
	nobodys := access.NewToken()
	as[Problem](t, a, nobodys, 401, "GET", "/whoami", "")
	testenv.Eventually(t, 10*time.Second, "the use is noted", func(context.Context) (bool, error) {
		return as[Token](t, a, boot, 200, "GET", "/tokens/"+next.ID, "").LastUsedAt != nil, nil
	})

	stored := dump(t, pool)
	if !strings.Contains(stored, hex.EncodeToString(access.HashToken(made.Secret))) || !strings.Contains(logged.String(), "/whoami") {
		t.Fatal("this test does not see what is stored, or what is logged")
	}
	for where, text := range map[string]string{"the database": stored, "the log": logged.String()} {
		for what, token := range map[string]string{"the first": boot, "the made": made.Secret, "the successor": next.Secret,
			"the mistyped": mistyped, "nobody's": nobodys} {
			random := token[len(access.TokenPrefix) : len(token)-6]
			if strings.Contains(text, random) || strings.Contains(text, hex.EncodeToString([]byte(random))) {
				t.Errorf("%s holds %s token", where, what)
			}
		}
		for _, found := range regexp.MustCompile(access.TokenPrefix+`[0-9A-Za-z]{36}`).FindAllString(text, -1) {
			if access.IsToken(found) {
				t.Errorf("%s holds a token", where)
			}
		}
	}
}

// dump returns every row of every table as text.
func dump(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, table := range tables {
		rows, err := pool.Query(t.Context(), `SELECT x::text FROM `+table+` AS x`)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s\n%s\n", table, strings.Join(lines, "\n"))
	}
	return all.String()
}

// TestWrongTokensStayAway counts the questions to Postgres: a wrong checksum is none, a token that nobody has is one.
func TestWrongTokensStayAway(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	asked := &queryCounter{}
	config.ConnConfig.Tracer = asked
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	a := guarded(t, pool, slog.New(slog.DiscardHandler))
	token := access.NewToken()
	wrong := token[:43] + map[bool]string{true: "a", false: "b"}[token[43] != 'a']
	for _, test := range []struct {
		credential string
		queries    int
	}{{wrong, 0}, {token[:20], 0}, {"eyJhbGciOiJub25lIn0.e30.", 0}, {token, 1}, {token, 2}} {
		as[Problem](t, a, test.credential, 401, "GET", "/whoami", "")
		if got := asked.count(); got != test.queries {
			t.Errorf("%s: %d questions in all, want %d", test.credential, got, test.queries)
		}
	}
}

type queryCounter struct {
	mu sync.Mutex
	n  int
}

func (c *queryCounter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *queryCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return ctx
}

func (c *queryCounter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestTokensWhilePostgresIsAway holds that nobody is told that a good token is no good.
func TestTokensWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	database := testenv.DatabaseURL(t)
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	// A port that was free a moment ago: nothing answers there.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.Host = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	a := guarded(t, testenv.OpenPool(t, u.String()), slog.New(slog.DiscardHandler))
	w := call(t, a, "GET", "/whoami", "", "Authorization", "Bearer "+access.NewToken())
	wantProblem(t, w, 503, "unavailable")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w = call(t, a, "GET", "/whoami", "", "Authorization", "Bearer "+access.NewToken()[:20])
	wantProblem(t, w, 401, "unauthorized")
}

// TestFailedUseOfATokenIsNoMatter takes the right to note uses away.
func TestFailedUseOfATokenIsNoMatter(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	var logged testenv.LogBuffer
	a := guarded(t, pool, slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})))
	boot := bootstrap(t, pool)
	_, err := pool.Exec(t.Context(), `
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON tokens FOR EACH ROW EXECUTE FUNCTION refuse()`)
	if err != nil {
		t.Fatal(err)
	}
	as[Caller](t, a, boot, 200, "GET", "/whoami", "")
	testenv.Eventually(t, 10*time.Second, "the failure is logged", func(context.Context) (bool, error) {
		return strings.Contains(logged.String(), "the use of a token is not noted"), nil
	})
	if strings.Contains(logged.String(), "level=WARN") || strings.Contains(logged.String(), "level=ERROR") {
		t.Errorf("logged loudly:\n%s", logged.String())
	}
}

// TestUseIsNotedEveryFewMinutes asks the storage, whose clock counts.
func TestUseIsNotedEveryFewMinutes(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	store := postgres.New(pool)
	made, err := store.CreateToken(t.Context(), access.TokenRequest{Name: "a", Role: access.Viewer, Lifetime: time.Hour}, access.NewToken())
	if err != nil {
		t.Fatal(err)
	}
	used := func() *time.Time {
		t.Helper()
		if err := store.TokenUsed(t.Context(), made.ID, 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		got, err := store.GetToken(t.Context(), made.ID)
		if err != nil || got.LastUsedAt == nil {
			t.Fatalf("%+v %v", got, err)
		}
		return got.LastUsedAt
	}
	first := used()
	if second := used(); !second.Equal(*first) {
		t.Errorf("noted at %s and at %s", first, second)
	}
	if _, err := pool.Exec(t.Context(), `UPDATE tokens SET last_used_at = now() - interval '301 s'`); err != nil {
		t.Fatal(err)
	}
	if third := used(); !third.After(*first) {
		t.Errorf("noted at %s, and not again after five minutes", third)
	}
	// While somebody else holds the row, nothing is noted and nothing waits.
	if _, err := pool.Exec(t.Context(), `UPDATE tokens SET last_used_at = NULL`); err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `SELECT FROM tokens FOR UPDATE`); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return errors.Join(store.TokenUsed(ctx, made.ID, 5*time.Minute), ctx.Err())
	})
	if err != nil {
		t.Error(err)
	}
}
