package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/config"
)

// TestMain lets the test binary stand in for a service, so that signals and
// exit codes are tested on a real process.
func TestMain(m *testing.M) {
	if os.Getenv("LIFECYCLE_TEST_CHILD") != "" {
		Main("child", func(ctx context.Context, args []string, _ func(string) string, stdout io.Writer) error {
			fmt.Fprintln(stdout, "started", args)
			<-ctx.Done()
			if len(args) > 0 && args[0] == "stubborn" {
				fmt.Fprintln(stdout, "told")
				select {}
			}
			return fmt.Errorf("stopped by: %w", ctx.Err())
		})
	}
	os.Exit(m.Run())
}

func TestMainOnSignals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		arg     string
		signals []os.Signal
		code    int
		stderr  string
	}{
		{"SIGTERM", "", []os.Signal{syscall.SIGTERM}, 1, "child: stopped by: context canceled\n"},
		{"SIGINT", "", []os.Signal{os.Interrupt}, 1, "child: stopped by: context canceled\n"},
		{"second signal", "stubborn", []os.Signal{os.Interrupt, syscall.SIGTERM}, 130, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			if c.arg != "" {
				cmd.Args = append(cmd.Args, c.arg)
			}
			cmd.Env = append(os.Environ(), "LIFECYCLE_TEST_CHILD=1")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stdout)
			for _, sig := range c.signals {
				// Its line says that it is ready for the signal.
				if !lines.Scan() {
					t.Fatalf("the child ended early: %s", stderr.String())
				}
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
			for lines.Scan() {
				t.Logf("child: %s", lines.Text())
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != c.code {
				t.Errorf("child ended with %v, want exit code %d", err, c.code)
			}
			if stderr.String() != c.stderr {
				t.Errorf("standard error = %q, want %q", stderr.String(), c.stderr)
			}
		})
	}
}

func TestExecute(t *testing.T) {
	t.Parallel()
	_, configError := config.LoadMigrate(func(string) string { return "" })
	for _, c := range []struct {
		name   string
		err    error
		code   int
		stderr string
	}{
		{"success", nil, 0, ""},
		{"failure", errors.New("disk is full"), 1, "svc: disk is full\n"},
		{"joined", errors.Join(errors.New("a: x"), errors.New("b: y")), 1, "svc: a: x; b: y\n"},
		{"password", errors.New("dial postgres://u:hunter2@h/d"), 1, "svc: dial postgres://u:xxxxx@h/d\n"},
		{"usage", fmt.Errorf("wrapped: %w", Usagef("unknown command %q", "x")), 2, "svc: wrapped: unknown command \"x\"\n"},
		{"configuration", configError, 2, "svc: ACTCORE_DB_URL is not set: it must be the URL of the Postgres database, for example ACTCORE_DB_URL=postgres://actcore:secret@localhost:5433/actcore\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var stderr bytes.Buffer
			run := func(context.Context, []string, func(string) string, io.Writer) error { return c.err }
			code := execute("svc", run, nil, os.Getenv, io.Discard, &stderr)
			if code != c.code || stderr.String() != c.stderr {
				t.Errorf("got %d %q, want %d %q", code, stderr.String(), c.code, c.stderr)
			}
		})
	}
}

func TestParseArgs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args   string
		mode   Mode
		stdout string
		err    string
	}{
		{"", ModeServe, "", ""},
		{"healthcheck", ModeHealthcheck, "", ""},
		{"version", ModeDone, "worker ", ""},
		{"--help", ModeDone, "Usage: worker [healthcheck", ""},
		{"serve", ModeDone, "", `unknown arguments ["serve"]: worker takes none to serve, or one of healthcheck, version, help`},
		{"healthcheck now", ModeDone, "", `unknown arguments ["healthcheck" "now"]: worker takes none to serve, or one of healthcheck, version, help`},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			mode, err := ParseArgs("worker", strings.Fields(c.args), &out)
			if mode != c.mode || !strings.HasPrefix(out.String(), c.stdout) {
				t.Errorf("got mode %d and %q, want %d and %q", mode, out.String(), c.mode, c.stdout)
			}
			var usage *UsageError
			if c.err == "" && err != nil || c.err != "" && (!errors.As(err, &usage) || err.Error() != c.err) {
				t.Errorf("error = %v, want %q", err, c.err)
			}
		})
	}
}

// selfNamed is a value that prints itself.
type selfNamed string

func (s selfNamed) String() string { return "at " + string(s) }

func TestLoggerRedacts(t *testing.T) {
	t.Parallel()
	const secret = "postgres://actcore:hunter2@db:5433/actcore"
	parsed, err := url.Parse(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, json := range []bool{true, false} {
		var out bytes.Buffer
		log := NewLogger(config.Log{Level: slog.LevelInfo, JSON: json}, &out)
		log.Debug("not shown")
		log.With("with", secret).WithGroup("group").Info("connect to "+secret,
			"string", secret,
			"error", fmt.Errorf("dial: %w", errors.New(secret)),
			"url", parsed,
			"stringer", selfNamed(secret),
			"list", []string{"nats://u:p@ss:hunter2@a:4222", "x"},
			"dsn", "host=db password=hunter2 sslmode=disable",
			"number", 42,
			"plain", "http://127.0.0.1:8080/users?mail=a@b.example")
		got := out.String()
		if strings.Contains(got, "hunter2") || strings.Contains(got, "not shown") {
			t.Errorf("json=%v: %s", json, got)
		}
		if !strings.Contains(got, "http://127.0.0.1:8080/users?mail=a@b.example") || !strings.Contains(got, "42") {
			t.Errorf("json=%v: harmless values were changed: %s", json, got)
		}
	}
}
