package api_test

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/testenv"
)

// withoutStorage are the operations that need none.
var withoutStorage = map[string]bool{"preview-cron": true, "whoami": true}

// inside is what no answer may tell: SQL, the driver, the code, and where the database is.
var inside = regexp.MustCompile(`(?i)\bselect\b|\binsert\b|relation|sqlstate|\bsql\b|pgx|pgconn|postgres|closed pool|dial|refused|` +
	`goroutine|panic|runtime error|\.go\b|/internal/|127\.0\.0\.1|localhost|\bport\b|user=|database=`)

// askAll sends a valid request of every operation, and holds the answers to one problem that tells nothing of what is ours alone.
func (s *service) askAll(t *testing.T, status int, kind, detail, retryAfter string, secrets ...string) {
	t.Helper()
	for _, r := range s.api.DocumentedRequests(t) {
		request, err := http.NewRequestWithContext(t.Context(), r.Method, s.url+r.Path, strings.NewReader(r.Body))
		if err != nil {
			t.Fatal(err)
		}
		if r.Body != "" {
			request.Header.Set("Content-Type", r.ContentType)
		}
		resp, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if withoutStorage[r.ID] {
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %d %s", r.ID, resp.StatusCode, data)
			}
			continue
		}
		if resp.StatusCode != status || resp.Header.Get("Retry-After") != retryAfter {
			t.Errorf("%s: %d, Retry-After %q: %s; want %d, %q", r.ID, resp.StatusCode, resp.Header.Get("Retry-After"), data, status, retryAfter)
			continue
		}
		p := read[api.Problem](t, answer{body: data})
		if p.Type != "/problems/"+kind || p.Detail != detail || p.RequestID == "" || len(p.Errors) > 0 {
			t.Errorf("%s: %s", r.ID, data)
		}
		told := string(data)
		for name, values := range resp.Header {
			told += "\n" + name + ": " + strings.Join(values, ", ")
		}
		if m := inside.FindString(told); m != "" {
			t.Errorf("%s tells %q:\n%s", r.ID, m, told)
		}
		for _, secret := range secrets {
			if strings.Contains(told, secret) {
				t.Errorf("%s tells %q:\n%s", r.ID, secret, told)
			}
		}
	}
}

const awayDetail = "the storage does not answer at the moment; try again in 2 seconds"

// TestStorageAway asks for everything after the connection to Postgres broke and while no new one can be made: every answer says so,
// and when to try again. Afterwards all is well again.
func TestStorageAway(t *testing.T) {
	t.Parallel()
	address, err := url.Parse(testenv.DatabaseURL(t))
	if err != nil {
		t.Fatal(err)
	}
	line := newLine(t, address.Host)
	address.Host = line.address
	s := serve(t, testenv.OpenPool(t, address.String()), nobody(t), "nobodys-queue")
	s.call(t, 200, "GET", "/runs", "")
	line.cut()
	_, port, err := net.SplitHostPort(line.address)
	if err != nil {
		t.Fatal(err)
	}
	s.askAll(t, 503, "unavailable", awayDetail, "2", ":"+port, "="+port, strings.TrimPrefix(address.Path, "/"), address.User.Username()+"@")
	line.mend(t)
	s.call(t, 200, "GET", "/runs", "")
}

// TestClosedPool asks while the process ends.
func TestClosedPool(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	s := serve(t, pool, nobody(t), "nobodys-queue")
	pool.Close()
	s.askAll(t, 503, "unavailable", awayDetail, "2")
}

// TestErrorsOfTheDriver asks for everything of a database without a single table: the driver's errors, which hold SQL and names, stay
// in the log.
func TestErrorsOfTheDriver(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	s := serve(t, pool, nobody(t), "nobodys-queue")
	if _, err := pool.Exec(t.Context(), `DROP SCHEMA public CASCADE`); err != nil {
		t.Fatal(err)
	}
	s.askAll(t, 500, "internal", "something went wrong on our side; the server's log tells more under this request_id", "")
}

// line is a connection to a server that can be cut and mended.
type line struct {
	address, server string

	mu       sync.Mutex
	listener net.Listener
	open     []net.Conn
}

func newLine(t *testing.T, server string) *line {
	t.Helper()
	l := &line{address: "127.0.0.1:0", server: server}
	l.mend(t)
	t.Cleanup(l.cut)
	return l
}

// mend listens, at the same address as before.
func (l *line) mend(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.address, l.listener = listener.Addr().String(), listener
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", l.server)
			if err != nil {
				near.Close()
				continue
			}
			l.mu.Lock()
			l.open = append(l.open, near, far)
			l.mu.Unlock()
			copyTo := func(to, from net.Conn) {
				_, _ = io.Copy(to, from) // ends when the line is cut, or one side has gone
				to.Close()
			}
			go copyTo(near, far)
			go copyTo(far, near)
		}
	}()
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listener.Close()
	for _, c := range l.open {
		c.Close()
	}
	l.open = nil
}
