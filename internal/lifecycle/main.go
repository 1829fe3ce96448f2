package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// Version is the version of the build. The linker sets it
// (-ldflags "-X …/internal/lifecycle.Version=v1.2.3").
var Version = ""

// exitForced is the exit code after a second signal: 128 + SIGINT, as shells say.
const exitForced = 130

// RunFunc is the work of a binary, free of global state so that a test can
// start it: args without the program's name, the environment, and where output
// goes.
type RunFunc func(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error

// Main runs a binary and exits: 0 when run returns nil, 2 when its error says
// so by a method ExitCode (wrong usage, wrong configuration), 1 otherwise. The
// error is printed to standard error as one line, "name: error". SIGINT and
// SIGTERM end the context of run; a second one ends the process at once.
func Main(name string, run RunFunc) {
	os.Exit(execute(name, run, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func execute(name string, run RunFunc, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// Two signals fit, so that none is lost while the first is looked at.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			cancel()
		}
		// Not the default treatment: a process that was started in the
		// background of a shell ignores SIGINT by default.
		<-signals
		os.Exit(exitForced)
	}()

	err := run(ctx, args, getenv, stdout)
	if err == nil {
		return 0
	}
	code, text := 1, oneLine(err)
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		// Our own words about arguments and variables, which show an example
		// with a password and never a real one.
		code = coded.ExitCode()
	} else {
		text = Redact(text)
	}
	fmt.Fprintf(stderr, "%s: %s\n", name, text)
	return code
}

// oneLine makes an error fit one line. Joined errors come with line breaks.
func oneLine(err error) string {
	var parts []string
	for part := range strings.Lines(err.Error()) {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "; ")
}

// UsageError is a mistake in the arguments; the process exits with code 2.
type UsageError struct {
	// Text says what is wrong and what is right, in one line.
	Text string
}

func (e *UsageError) Error() string { return e.Text }

// ExitCode is 2, as a shell answers to wrong usage.
func (e *UsageError) ExitCode() int { return 2 }

// Usagef makes a [UsageError].
func Usagef(format string, args ...any) error {
	return &UsageError{Text: fmt.Sprintf(format, args...)}
}

// Mode is what the arguments of a service ask for.
type Mode int

const (
	// ModeServe is the service itself: no argument.
	ModeServe Mode = iota
	// ModeHealthcheck is the argument "healthcheck": ask the running service
	// whether it is ready (see [Healthcheck]) and exit.
	ModeHealthcheck
	// ModeDone means that ParseArgs has done all there was to do.
	ModeDone
)

// ParseArgs reads the arguments of a service: none, "healthcheck", "version" or
// "help". It prints the answer to the last two. Anything else is a [UsageError].
func ParseArgs(name string, args []string, stdout io.Writer) (Mode, error) {
	if len(args) == 0 {
		return ModeServe, nil
	}
	if len(args) == 1 {
		switch args[0] {
		case "healthcheck":
			return ModeHealthcheck, nil
		case "version", "--version":
			_, err := fmt.Fprintf(stdout, "%s %s\n", name, VersionText())
			return ModeDone, err
		case "help", "-h", "-help", "--help":
			_, err := fmt.Fprintf(stdout, serviceUsage, name)
			return ModeDone, err
		}
	}
	return ModeDone, Usagef("unknown arguments %q: %s takes none to serve, or one of healthcheck, version, help", args, name)
}

const serviceUsage = `Usage: %[1]s [healthcheck | version | help]

  (no argument)  serve until SIGINT or SIGTERM
  healthcheck    ask the running %[1]s whether it is ready; exit 0 if so, 1 if not
  version        print the version

It is configured by environment variables; RUNBOOK.md lists them.
`

// VersionText is the version of this build: the one that the linker set, or
// else what Go recorded about the module and the commit.
func VersionText() string {
	if Version != "" {
		return Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (version == "" || version == "(devel)") {
			version = s.Value
		}
	}
	if version == "" {
		return "unknown"
	}
	return version
}
