package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const loopback = "127.0.0.1"

// Free ports are taken from below the ranges from which operating systems give ports to
// outgoing connections (Linux 32768, macOS 49152), so that a port stays ours while the server
// on it is stopped.
const (
	freePortMin = 15000
	freePortMax = 31999
)

// claims are the sockets that hold the ports this process was given: see claim.
var claims struct {
	sync.Mutex
	held []net.PacketConn
}

// freePort returns a loopback port that nobody listens on and that no other devstack was given.
func freePort() (int, error) {
	for range 200 {
		port := freePortMin + rand.IntN(freePortMax-freePortMin+1)
		if claim(port) {
			return port, nil
		}
	}
	return 0, errors.New("found no free port in 200 tries between " +
		strconv.Itoa(freePortMin) + " and " + strconv.Itoa(freePortMax))
}

// claim takes the port for as long as this process lives, unless it is taken. Between the choice of a port and the
// start of its server pass seconds, in which another devstack could choose the same one; the UDP socket of the same
// number, which none of the servers uses, tells the other devstacks of the choice, and ends with the process.
func claim(port int) bool {
	held, err := net.ListenPacket("udp", address(port))
	if err != nil {
		return false
	}
	if !portFree(port) {
		_ = held.Close()
		return false
	}
	claims.Lock()
	defer claims.Unlock()
	claims.held = append(claims.held, held)
	return true
}

// freePorts returns n different free ports.
func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		ports[i] = port
	}
	return ports, nil
}

// portFree tells whether a listener can be opened on the loopback port.
func portFree(port int) bool {
	l, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

func address(port int) string { return fmt.Sprintf("%s:%d", loopback, port) }

// devPort names one of the fixed ports of a development system.
type devPort int

const (
	portAPI devPort = iota
	portTemporal
	portUI
	portNATS
	portNATSMonitor
	portPostgres
	portWorkerMetrics
	portRouterMetrics
	portAPIMetrics
	devPortCount
)

// devPortTable says for each port its number, the variable that moves it and what needs it.
var devPortTable = [devPortCount]struct {
	number int
	env    string
	need   string
}{
	portAPI:           {8010, "ACTCORE_DEV_API_PORT", "the API"},
	portTemporal:      {7233, "ACTCORE_DEV_TEMPORAL_PORT", "Temporal"},
	portUI:            {8080, "ACTCORE_DEV_UI_PORT", "the Temporal UI"},
	portNATS:          {4222, "ACTCORE_DEV_NATS_PORT", "NATS"},
	portNATSMonitor:   {8222, "ACTCORE_DEV_NATS_MONITOR_PORT", "NATS monitoring"},
	portPostgres:      {5433, "ACTCORE_DEV_POSTGRES_PORT", "Postgres"},
	portWorkerMetrics: {9090, "ACTCORE_DEV_WORKER_METRICS_PORT", "the worker's metrics"},
	portRouterMetrics: {9091, "ACTCORE_DEV_ROUTER_METRICS_PORT", "the event router's metrics"},
	portAPIMetrics:    {9092, "ACTCORE_DEV_API_METRICS_PORT", "the API's metrics"},
}

// devPorts are the numbers in force.
type devPorts [devPortCount]int

// readDevPorts takes the numbers from the environment or the table. Every port must be a number
// and its own.
func readDevPorts(getenv func(string) string) (devPorts, error) {
	var ports devPorts
	users := make(map[int]devPort, devPortCount)
	for p := range devPortCount {
		entry := devPortTable[p]
		ports[p] = entry.number
		if text := getenv(entry.env); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > 65535 {
				return devPorts{}, fmt.Errorf("%s is %q, but must be a port number from 1 to 65535, for example %d", entry.env, text, entry.number)
			}
			ports[p] = n
		}
		if other, twice := users[ports[p]]; twice {
			return devPorts{}, fmt.Errorf("port %d is given to both %s and %s; set %s or %s to another one",
				ports[p], devPortTable[other].need, entry.need, devPortTable[other].env, entry.env)
		}
		users[ports[p]] = p
	}
	return ports, nil
}

// check reports each of the wanted ports that is taken, with the way out.
func (ports devPorts) check(wanted ...devPort) error {
	var errs []error
	for _, p := range wanted {
		if !portTaken(ports[p]) {
			continue
		}
		entry := devPortTable[p]
		holder := portHolder(ports[p])
		if holder == "" {
			holder = "another program"
		}
		errs = append(errs, fmt.Errorf("port %d, which %s needs, is taken by %s; stop that program, or set %s to a free port",
			ports[p], entry.need, holder, entry.env))
	}
	return errors.Join(errs...)
}

// portTaken tells whether the port cannot be used under the name localhost: it is more than the opposite
// of portFree, because a program that listens on the IPv6 loopback address alone would receive what
// is meant for us.
func portTaken(port int) bool {
	if !portFree(port) {
		return true
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("::1", strconv.Itoa(port)), 200*time.Millisecond)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// portHolder describes the process that listens on a port, such as "process 4711 (redis-server)", or returns "" when
// the system does not tell. Only Linux does, and only about one's own processes unless one is root.
func portHolder(port int) string {
	inodes := listeners(port)
	if len(inodes) == 0 {
		return ""
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		inode, ok := strings.CutPrefix(target, "socket:[")
		if !ok || !inodes[strings.TrimSuffix(inode, "]")] {
			continue
		}
		process := filepath.Dir(filepath.Dir(link))
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil {
			continue
		}
		return fmt.Sprintf("process %s (%s)", filepath.Base(process), strings.TrimSpace(string(name)))
	}
	return ""
}

// listeners returns the inodes of the sockets that listen on a port.
func listeners(port int) map[string]bool {
	const listening = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	inodes := make(map[string]bool)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 9 && strings.HasSuffix(f[1], suffix) && f[3] == listening {
				inodes[f[9]] = true
			}
		}
	}
	return inodes
}
