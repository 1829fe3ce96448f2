// Command devstack runs everything activity-core needs on one machine that has
// only Go: a private Postgres cluster, NATS with JetStream and a Temporal server,
// the last two inside this process. It is a Go module of its own so that none of
// this reaches the services' dependencies.
//
// Three ways to use it:
//
//	devstack dev      the whole system for a developer: the servers, the Temporal UI,
//	                  migrations, seed and the services, until Ctrl-C (`make dev`)
//	devstack servers  only the servers, for tests and experiments
//	devstack exec     a throwaway stack around one command, such as `go test ./...`
//
// `devstack nats` runs NATS alone, as a configuration file says, and `devstack reset` removes what
// `devstack dev` stored.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

const usage = `Usage: devstack COMMAND [flags]

Commands:
  dev [--data DIR] [--bin DIR]
      Start the whole system on the development ports and keep it running until Ctrl-C.
      Data is kept in DIR (.dev); the services are taken from --bin (bin).
  servers [--data DIR] [--free-ports] [--durable] [--info FILE]
      Start only Postgres, NATS and Temporal, write their addresses to FILE and run until
      SIGINT or SIGTERM. Without --data a temporary folder is used and removed at the end.
  exec [--durable] [--] CMD [ARGS...]
      Start the servers on free ports with a temporary folder, run CMD with ACTCORE_TEST_STACK
      set to the file of addresses, stop everything and exit with CMD's code.
  nats FILE
      Start NATS alone with a configuration file of its own kind, which turns JetStream on, write
      its URL to standard output and run until SIGINT or SIGTERM.
  reset [--data DIR]
      Remove the data folder of "dev".

Environment:
  ACTCORE_DEV_PG_BIN      folder of the Postgres programs to use (initdb, postgres)
  ACTCORE_DEV_PG_MIRROR   Maven repository to fetch Postgres from when the machine has none
  ACTCORE_DEV_API_PORT, _TEMPORAL_PORT, _UI_PORT, _NATS_PORT, _NATS_MONITOR_PORT,
  _POSTGRES_PORT, _WORKER_METRICS_PORT, _ROUTER_METRICS_PORT, _API_METRICS_PORT
                          move one port of "dev" (each begins with ACTCORE_DEV)
`

func main() {
	code := run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	os.Exit(code)
}

// run carries out one command and returns the exit code of the process: 0 done, 1 failed,
// 2 wrong usage; `exec` returns the code of its command.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	fail := func(err error) int {
		if err == nil {
			return 0
		}
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(stderr, "devstack: %s\n", strings.TrimRight(line, "\n"))
		}
		return 1
	}
	name, rest := args[0], args[1:]
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	parse := func(want func(n int) bool) (int, bool) {
		switch err := flags.Parse(rest); {
		case errors.Is(err, flag.ErrHelp):
			return 0, false
		case err != nil:
			return 2, false
		case !want(flags.NArg()):
			fmt.Fprintf(stderr, "devstack: unexpected arguments for %s: %q; see devstack help\n", name, flags.Args())
			return 2, false
		}
		return 0, true
	}
	none := func(n int) bool { return n == 0 }

	switch name {
	case "dev":
		opts := devOptions{Getenv: getenv, Environ: os.Environ(), Stdout: stdout}
		flags.StringVar(&opts.DataDir, "data", ".dev", "folder of the data")
		flags.StringVar(&opts.BinDir, "bin", "bin", "folder of the services' programs")
		if code, ok := parse(none); !ok {
			return code
		}
		return fail(runDev(ctx, opts))
	case "reset":
		data := flags.String("data", ".dev", "folder of the data")
		if code, ok := parse(none); !ok {
			return code
		}
		return fail(runReset(*data, stdout))
	case "servers":
		opts := serversOptions{Getenv: getenv, Stdout: stdout}
		flags.StringVar(&opts.DataDir, "data", "", "folder of the data (default: a temporary one)")
		flags.StringVar(&opts.InfoFile, "info", "", "file to write the addresses to (JSON)")
		flags.BoolVar(&opts.FreePorts, "free-ports", false, "use free ports instead of the development ports")
		flags.BoolVar(&opts.Durable, "durable", false, "keep fsync on although the ports are free")
		if code, ok := parse(none); !ok {
			return code
		}
		return fail(runServers(ctx, opts))
	case "exec":
		opts := execOptions{Getenv: getenv, Stderr: stderr}
		flags.BoolVar(&opts.Durable, "durable", false, "keep fsync on")
		if code, ok := parse(func(n int) bool { return n > 0 }); !ok {
			return code
		}
		opts.Command = flags.Args()
		code, err := runExec(ctx, opts)
		if err != nil {
			return fail(err)
		}
		return code
	case "nats":
		if code, ok := parse(func(n int) bool { return n == 1 }); !ok {
			return code
		}
		return fail(runNATS(ctx, flags.Arg(0), stdout, stderr))
	case fetchCommand: // only the devstack itself calls this
		if len(rest) != 2 {
			return 2
		}
		return fail(fetchHere(rest[0], rest[1]))
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	default:
		fmt.Fprintf(stderr, "devstack: unknown command %q; the commands are %s\n", name,
			strings.Join([]string{"dev", "servers", "exec", "nats", "reset"}, ", "))
		return 2
	}
}
