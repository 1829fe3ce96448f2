package testenv

import (
	"bytes"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
)

// Break is how a connection breaks at a message of the client.
type Break int32

const (
	// LostRequest is a message that does not arrive.
	LostRequest Break = iota + 1
	// LostAnswer is one that arrives, and whose answer is lost with the connection.
	LostAnswer
	// NoAnswer is one that arrives, and to which no answer comes for as long as the client waits.
	NoAnswer
)

// Wire is a TCP proxy before Postgres that breaks a connection when it is told to.
type Wire struct {
	server string
	at     func([]byte) bool
	next   atomic.Int32
}

// NewWire makes a wire to the server of a database, and returns the database's URL through it. It breaks at messages of the client for
// which at is true, as Break says.
func NewWire(t testing.TB, databaseURL string, at func([]byte) bool) (w *Wire, through string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	w = &Wire{server: u.Host, at: at}
	u.Host = listener.Addr().String()
	query := u.Query()
	query.Set("sslmode", "disable") // the wire has to read what is said
	u.RawQuery = query.Encode()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go w.carry(client)
		}
	}()
	return w, u.String()
}

// IsCommit is true for what ends a transaction.
func IsCommit(message []byte) bool { return bytes.Contains(message, []byte("commit\x00")) }

// Break breaks the connection of the next message at which it may, and only that one.
func (w *Wire) Break(how Break) { w.next.Store(int32(how)) }

func (w *Wire) carry(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	var how atomic.Int32
	go w.carryBack(client, server, &how)
	data := make([]byte, 64<<10)
	for {
		n, err := client.Read(data)
		if err != nil {
			return
		}
		if w.at(data[:n]) {
			how.Store(w.next.Swap(0))
		}
		if Break(how.Load()) == LostRequest {
			return
		}
		if _, err := server.Write(data[:n]); err != nil {
			return
		}
	}
}

// carryBack carries the answers.
func (w *Wire) carryBack(client, server net.Conn, how *atomic.Int32) {
	defer func() { _ = client.Close() }()
	defer func() { _ = server.Close() }()
	data := make([]byte, 64<<10)
	for {
		n, err := server.Read(data)
		if err != nil {
			return
		}
		switch Break(how.Load()) {
		case LostAnswer:
			return
		case NoAnswer:
			continue
		}
		if _, err := client.Write(data[:n]); err != nil {
			return
		}
	}
}
