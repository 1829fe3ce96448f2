package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
)

// serveLabelled serves like serve, in goroutines that goroutinesOf counts.
func serveLabelled(t *testing.T, label string, server *http.Server) (addr string) {
	t.Helper()
	pprof.Do(context.Background(), pprof.Labels("server", label), func(context.Context) { addr = serve(t, server) })
	return addr
}

var profileLine = regexp.MustCompile(`(?m)^(\d+) @.*\n# labels: \{"server":"([a-z]+)"\}$`)

func goroutinesOf(t *testing.T, label string) (n int) {
	t.Helper()
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Fatal(err)
	}
	for _, line := range profileLine.FindAllStringSubmatch(profile.String(), -1) {
		if count, err := strconv.Atoi(line[1]); err == nil && line[2] == label {
			n += count
		}
	}
	return n
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSlowClients: clients that send a little now and then are cut off by the server's own limits, however often they send, and leave
// nothing behind; meanwhile others are served.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	const clients = 100
	ca, dir := newAuthority(t, "ca"), newTLSDir(t)
	cert, key := ca.issue(t, 1, x509.ExtKeyUsageServerAuth)
	dir.write(t, cert, key)
	for _, c := range []struct {
		name  string
		tls   bool
		begin string // sent at once
		drop  string // sent again and again
		limit time.Duration
		says  string // the first line of the answer, if any
	}{
		{"header", false, "GET / HTTP/1.1\r\nHost: a\r\nX-A: ", "a", 5 * time.Second, ""},
		{"headers", false, "GET / HTTP/1.1\r\nHost: a\r\n", "X-A: a\r\n", 5 * time.Second, ""},
		{"line", false, "", "G", 5 * time.Second, "HTTP/1.1 400 Bad Request"},
		{"silence", false, "", "", 5 * time.Second, ""},
		{"handshake", true, "\x16\x03\x01\x01\xff", "\x01", 5 * time.Second, ""},
		{"body", false, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", "a",
			15 * time.Second, "HTTP/1.1 408 Request Timeout"},
		{"chunks", false, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n",
			15 * time.Second, "HTTP/1.1 408 Request Timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := NewHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					w.WriteHeader(http.StatusRequestTimeout)
				}
			}), quiet())
			if c.tls {
				conf, err := NewTLS(TLSOptions{CertFile: dir.cert, KeyFile: dir.key, Log: quiet()})
				if err != nil {
					t.Fatal(err)
				}
				server.TLSConfig = conf
			}
			addr := serveLabelled(t, c.name, server)
			const idle = 2 // Serve and its loop of connections
			testenv.Eventually(t, 10*time.Second, "the server runs", func(context.Context) (bool, error) {
				return goroutinesOf(t, c.name) == idle, nil
			})
			before := heap()

			var open sync.WaitGroup
			for range clients {
				open.Go(func() { trickle(t, addr, c.begin, c.drop, c.limit, c.says) })
			}
			testenv.Eventually(t, 10*time.Second, "all are connected", func(context.Context) (bool, error) {
				return goroutinesOf(t, c.name) >= idle+clients, nil
			})
			if !c.tls {
				if code, _ := get(t, "http://"+addr); code != http.StatusOK {
					t.Errorf("another client is answered %d", code)
				}
			}
			open.Wait()
			http.DefaultClient.CloseIdleConnections()
			testenv.Eventually(t, 10*time.Second, "no goroutine is left", func(context.Context) (bool, error) {
				return goroutinesOf(t, c.name) <= idle, nil
			})
			if after := heap(); after > before+32<<20 {
				t.Errorf("%d clients left %d MiB behind", clients, (after-before)>>20)
			}
		})
	}
}

// trickle sends drops until the server closes the connection, and checks when that was and what it said.
func trickle(t *testing.T, addr, begin, drop string, limit time.Duration, says string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	start := time.Now()
	if _, err := io.WriteString(conn, begin); err != nil {
		t.Error(err)
		return
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if _, err := io.WriteString(conn, drop); err != nil {
					return
				}
			}
		}
	}()
	_ = conn.SetReadDeadline(start.Add(limit + 10*time.Second))
	answer := bufio.NewReader(conn)
	line, err := answer.ReadString('\n')
	if took := time.Since(start); took < limit-time.Second || took > limit+9*time.Second {
		t.Errorf("cut off after %v (%v), want about %v", took, err, limit)
	}
	if got := strings.TrimSpace(line); got != says {
		t.Errorf("to %q the server said %q, want %q", begin, got, says)
	}
	// An answer is one thing, the end of the connection another.
	_, _ = io.Copy(io.Discard, answer)
	if took := time.Since(start); took > limit+9*time.Second {
		t.Errorf("still connected after %v, want about %v", took, limit)
	}
}

// TestLargeHeaders: 64 KiB of headers are the most.
func TestLargeHeaders(t *testing.T) {
	t.Parallel()
	addr := serve(t, NewHTTPServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), quiet()))
	for size, want := range map[int]string{
		1 << 10: "HTTP/1.1 200 OK", 63 << 10: "HTTP/1.1 200 OK", 65 << 10: "HTTP/1.1 431 Request Header Fields Too Large",
		10 << 20: "HTTP/1.1 431 Request Header Fields Too Large",
	} {
		for name, header := range map[string]string{
			"one": "X-A: " + strings.Repeat("a", size) + "\r\n", "many": strings.Repeat("X-A: "+strings.Repeat("a", 57)+"\r\n", size/64),
		} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			go func() { _, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", header) }() // the server may not read all of it
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || strings.TrimSpace(line) != want {
				t.Errorf("%s of %d bytes: %q %v, want %s", name, size, line, err, want)
			}
			conn.Close()
		}
	}
}
