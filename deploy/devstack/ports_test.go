package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

func environment(pairs map[string]string) func(string) string {
	return func(name string) string { return pairs[name] }
}

func TestReadDevPorts(t *testing.T) {
	t.Parallel()
	defaults := devPorts{8010, 7233, 8080, 4222, 8222, 5433, 9090, 9091, 9092}
	moved := defaults
	moved[portUI] = 18080
	tests := []struct {
		name string
		env  map[string]string
		want devPorts
		err  string
	}{
		{name: "defaults", want: defaults},
		{name: "one moved", env: map[string]string{"ACTCORE_DEV_UI_PORT": "18080"}, want: moved},
		{name: "no number", env: map[string]string{"ACTCORE_DEV_UI_PORT": "http"},
			err: `ACTCORE_DEV_UI_PORT is "http", but must be a port number from 1 to 65535, for example 8080`},
		{name: "too large", env: map[string]string{"ACTCORE_DEV_NATS_PORT": "70000"}, err: "from 1 to 65535"},
		{name: "zero", env: map[string]string{"ACTCORE_DEV_NATS_PORT": "0"}, err: "from 1 to 65535"},
		{name: "twice", env: map[string]string{"ACTCORE_DEV_UI_PORT": "8010"},
			err: "port 8010 is given to both the API and the Temporal UI; set ACTCORE_DEV_API_PORT or ACTCORE_DEV_UI_PORT to another one"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := readDevPorts(environment(test.env))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Fatalf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestCheckNamesTakenPort(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			host := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
			listener, err := net.Listen(network, host)
			if err != nil {
				if network == "tcp6" {
					return // this machine has no IPv6, so nothing can take the port there
				}
				t.Fatal(err)
			}
			defer listener.Close()
			_, text, _ := net.SplitHostPort(listener.Addr().String())
			taken, _ := strconv.Atoi(text)
			free, err := freePort()
			if err != nil {
				t.Fatal(err)
			}
			var ports devPorts
			ports[portUI], ports[portNATS] = taken, free

			err = ports.check(portUI, portNATS)
			holder := "another program"
			if runtime.GOOS == "linux" {
				comm, _ := os.ReadFile("/proc/self/comm")
				holder = fmt.Sprintf("process %d (%s)", os.Getpid(), strings.TrimSpace(string(comm)))
			}
			want := fmt.Sprintf("port %d, which the Temporal UI needs, is taken by %s; stop that program, or set ACTCORE_DEV_UI_PORT to a free port", taken, holder)
			if err == nil || err.Error() != want {
				t.Fatalf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestFreePortsDiffer(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(50)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range ports {
		if seen[p] || p < freePortMin || p > freePortMax {
			t.Errorf("port %d is given twice or out of range", p)
		}
		seen[p] = true
		if claim(p) {
			t.Errorf("port %d, whose server has not started yet, can be taken by another devstack", p)
		}
	}
}
