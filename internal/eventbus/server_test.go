package eventbus

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
)

// server is a NATS server that one test alone uses.
type server struct {
	t       *testing.T
	config  string // without the address and JetStream
	dir     string
	address string
	cmd     *exec.Cmd
}

// newServer starts a server with a piece of configuration. It ends with the test.
func newServer(t *testing.T, config string) *server {
	t.Helper()
	s := &server{t: t, config: config, dir: t.TempDir(), address: "127.0.0.1:-1"}
	t.Cleanup(s.stop)
	s.start()
	return s
}

// start starts the server again, with its data and at its address.
func (s *server) start() {
	s.t.Helper()
	file := filepath.Join(s.dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\njetstream { store_dir: %q }\n%s", s.address, filepath.Join(s.dir, "data"), s.config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	var log bytes.Buffer
	s.cmd = exec.Command(testenv.Stack(s.t).DevstackBin, "nats", file)
	s.cmd.Stderr = &log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.stop()
		s.t.Fatalf("NATS did not start: %v\n%s", err, log.String())
	}
	s.address = strings.TrimPrefix(strings.TrimSpace(url), "nats://")
	go func() { _, _ = io.Copy(io.Discard, out) }()
}

func (s *server) signal(sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Error(err)
	}
}

// stop stops the server as an operator would.
func (s *server) stop() {
	if s.cmd == nil || s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(20*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	_ = s.cmd.Wait()
}

func (s *server) url(user string) string {
	if user == "" {
		return "nats://" + s.address
	}
	return "nats://" + user + ":" + user + "@" + s.address
}
