package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

const testDB = "postgres://actcore:hunter2@db:5433/actcore"

func lookup(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// with returns a complete environment of the required variables plus pairs.
func with(pairs ...string) map[string]string {
	vars := map[string]string{"ACTCORE_DB_URL": testDB}
	for i := 0; i < len(pairs); i += 2 {
		vars[pairs[i]] = pairs[i+1]
	}
	return vars
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	worker, err := LoadWorker(lookup(with()))
	if err != nil {
		t.Fatalf("LoadWorker: %v", err)
	}
	router, err := LoadRouter(lookup(with()))
	if err != nil {
		t.Fatalf("LoadRouter: %v", err)
	}
	api, err := LoadAPI(lookup(with()))
	if err != nil {
		t.Fatalf("LoadAPI: %v", err)
	}
	sync, err := LoadSync(lookup(with()))
	if err != nil {
		t.Fatalf("LoadSync: %v", err)
	}
	migrate, err := LoadMigrate(lookup(with()))
	if err != nil {
		t.Fatalf("LoadMigrate: %v", err)
	}
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"database", migrate.DB.URL, testDB},
		{"Temporal address", sync.Temporal.Options.HostPort, "localhost:7233"},
		{"Temporal namespace", sync.Temporal.Options.Namespace, "default"},
		{"NATS", router.NATS, NATS{URL: "nats://localhost:4222"}},
		{"API address", api.Addr, "127.0.0.1:8010"},
		{"worker metrics", worker.Metrics, Metrics{Addr: "127.0.0.1:9090", PerDefinition: true}},
		{"router metrics", router.Metrics, Metrics{Addr: "127.0.0.1:9091", PerDefinition: true}},
		{"api metrics", api.Metrics, Metrics{Addr: "127.0.0.1:9092", PerDefinition: true}},
		{"manage stream", router.ManageStream, true},
		{"skip sync", worker.SkipScheduleSync, false},
		{"log", worker.Log, Log{Level: slog.LevelInfo, JSON: true}},
		{"names", worker.Names, Names{
			Stream: "ACTIVITY_EVENTS", SubjectPrefix: "activity", Durable: "activity-core-event-router",
			OrchestratorTaskQueue: "orchestrator-tq", TaskTaskQueue: "task-execution-tq",
		}},
	} {
		if c.got != c.want {
			t.Errorf("%s = %v, want %v", c.what, c.got, c.want)
		}
	}
}

// TestVariables sets one variable at a time and looks at what it changes, or
// at the whole error line.
func TestVariables(t *testing.T) {
	t.Parallel()
	creds := filepath.Join(t.TempDir(), "nats.creds")
	if err := os.WriteFile(creds, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	type both struct {
		API
		Router Router
		Worker Worker
	}
	const (
		dbRule        = ": it must be the URL of the Postgres database, for example ACTCORE_DB_URL=postgres://actcore:secret@localhost:5433/actcore"
		boolRule      = ": it must be true, false, 1 or 0, for example "
		egressRule    = ": its items, with commas between them, must be addresses, blocks of addresses or names of hosts, for example ACTCORE_EGRESS_ALLOW=10.1.0.0/16,hooks.internal.example"
		secretsRule   = ": it must be the path of a folder in which each file is a secret, for example ACTCORE_SECRETS_DIR=/run/secrets/activity-core"
		rateRule      = ": it must be a number of requests a minute from 1 to 1000000, or off, for example "
		retentionRule = ": it must be a duration of at least 1h, or off, for example ACTCORE_RETENTION=720h"
		natsRule      = ": it must be one or more nats:// or tls:// URLs with commas between them, for example NATS_URL=nats://localhost:4222"
		wordRule      = ": it may hold letters, digits, _ and -, at most 200, for example "
		tqRule        = ": it must begin with a letter or digit and may hold . _ : / and - after it, at most 200 characters, for example "
	)
	for _, c := range []struct {
		name, value string
		get         func(both) any
		want        any
		err         string // the part after the variable's name
	}{
		{name: "ACTCORE_DB_URL", value: "postgresql://u@h/d", get: func(b both) any { return b.DB.URL }, want: "postgres://u@h/d"},
		{name: "ACTCORE_DB_URL", value: "postgresql+asyncpg://u:p@h:1/d?sslmode=disable", get: func(b both) any { return b.DB.URL }, want: "postgres://u:p@h:1/d?sslmode=disable"},
		{name: "ACTCORE_DB_URL", value: "postgres+pgx://u@h/d", get: func(b both) any { return b.DB.URL }, want: "postgres://u@h/d"},
		{name: "ACTCORE_DB_URL", value: "POSTGRES://u@h/d", get: func(b both) any { return b.DB.URL }, want: "postgres://u@h/d"},
		{name: "ACTCORE_DB_URL", value: "postgres:///d?host=/var/run/postgresql", get: func(b both) any { return b.DB.URL }, want: "postgres:///d?host=/var/run/postgresql"},
		{name: "ACTCORE_DB_URL", value: "", err: " is not set" + dbRule},
		{name: "ACTCORE_DB_URL", value: "host=db password=hunter2", err: " is not a URL" + dbRule},
		{name: "ACTCORE_DB_URL", value: "mysql://u:hunter2@h/d", err: " does not begin with postgres://, postgresql:// or postgresql+driver://" + dbRule},
		{name: "ACTCORE_DB_URL", value: "postgresql+://u:hunter2@h/d", err: " does not begin with postgres://, postgresql:// or postgresql+driver://" + dbRule},
		{name: "ACTCORE_DB_URL", value: "postgres://u:hunter2/x@h/d", err: " cannot be read (characters such as @ / : ? # % in a password must be percent-encoded)" + dbRule},
		{name: "ACTCORE_DB_URL", value: "postgres://u:hunter2%zz@h/d", err: " cannot be read (characters such as @ / : ? # % in a password must be percent-encoded)" + dbRule},
		{name: "ACTCORE_DB_URL", value: "postgres:///d", err: " names no host" + dbRule},
		{name: "ACTCORE_DB_URL", value: "postgres://u:hunter2@h", err: " names no database (its name follows the host)" + dbRule},
		{name: "ACTCORE_DB_URL", value: "postgres://u:hunter2@h/d?sslmode=hunter2", err: " is not usable (failed to configure TLS (sslmode is invalid))" + dbRule},
		{name: "ACTCORE_DB_URL", value: "postgres://u:hunter2@h/d?pool_max_conns=many", err: ` is not usable (cannot parse pool_max_conns (strconv.ParseInt: parsing "many": invalid syntax))` + dbRule},

		{name: "TEMPORAL_HOST", value: "temporal:17233", get: func(b both) any { return b.Temporal.Options.HostPort }, want: "temporal:17233"},
		{name: "TEMPORAL_HOST", value: "[::1]:7233", get: func(b both) any { return b.Temporal.Options.HostPort }, want: "[::1]:7233"},
		{name: "TEMPORAL_ADDRESS", value: "alias:7233", get: func(b both) any { return b.Temporal.Options.HostPort }, want: "alias:7233"},
		{name: "TEMPORAL_HOST", value: "temporal", err: ` is "temporal": it must be host:port (missing port in address), for example TEMPORAL_HOST=localhost:7233`},
		{name: "TEMPORAL_HOST", value: "temporal:0", err: ` is "temporal:0": it must be host:port (port "0" is not a number from 1 to 65535), for example TEMPORAL_HOST=localhost:7233`},
		{name: "TEMPORAL_ADDRESS", value: "temporal:x", err: ` is "temporal:x": it must be host:port (port "x" is not a number from 1 to 65535), for example TEMPORAL_ADDRESS=localhost:7233`},
		{name: "TEMPORAL_NAMESPACE", value: "ops", get: func(b both) any { return b.Temporal.Options.Namespace }, want: "ops"},
		{name: "TEMPORAL_NAMESPACE", value: "a b", err: ` is "a b": it must not hold spaces, for example TEMPORAL_NAMESPACE=default`},
		{name: "TEMPORAL_TLS", value: "true", get: func(b both) any { return b.Temporal.Options.ConnectionOptions.TLS != nil }, want: true},
		{name: "TEMPORAL_TLS", value: "false", get: func(b both) any { return b.Temporal.Options.ConnectionOptions.TLSDisabled }, want: true},
		{name: "TEMPORAL_TLS", value: "yes", err: ` is "yes"` + boolRule + "TEMPORAL_TLS=false"},
		{name: "TEMPORAL_TLS_SERVER_NAME", value: "t.example", get: func(b both) any { return b.Temporal.Options.ConnectionOptions.TLS.ServerName }, want: "t.example"},
		{name: "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION", value: "1", get: func(b both) any { return b.Temporal.Options.ConnectionOptions.TLS.InsecureSkipVerify }, want: true},
		{name: "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION", value: "on", err: ` is "on"` + boolRule + "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION=false"},
		{name: "TEMPORAL_API_KEY", value: "k", get: func(b both) any {
			return b.Temporal.Options.Credentials != nil && b.Temporal.Options.ConnectionOptions.TLS != nil
		}, want: true},
		{name: "TEMPORAL_CLIENT_AUTHORITY", value: "a.example", get: func(b both) any { return b.Temporal.Options.ConnectionOptions.Authority }, want: "a.example"},

		{name: "NATS_URL", value: "nats://a:1,tls://b:2", get: func(b both) any { return b.Router.NATS.URL }, want: "nats://a:1,tls://b:2"},
		{name: "NATS_URL", value: "localhost:4222", err: " holds a URL that does not begin with nats://, tls://, ws:// or wss://" + natsRule},
		{name: "NATS_URL", value: "nats://a:1,", err: " holds a URL that does not begin with nats://, tls://, ws:// or wss://" + natsRule},
		{name: "NATS_URL", value: "nats://u:hunter2/@h", err: " holds a URL that cannot be read" + natsRule},
		{name: "NATS_URL", value: "nats://", err: " holds a URL without a host" + natsRule},
		{name: "NATS_CREDS", value: creds, get: func(b both) any { return b.Worker.NATS.Creds }, want: creds},
		{name: "NATS_CREDS", value: creds + ".gone", err: " cannot be read (no such file or directory): it must be the path of a NATS credentials file, for example NATS_CREDS=/etc/activity-core/nats.creds"},
		{name: "NATS_CREDS", value: filepath.Dir(creds), err: " cannot be read (is a directory): it must be the path of a NATS credentials file, for example NATS_CREDS=/etc/activity-core/nats.creds"},

		{name: "ACTCORE_API_ADDR", value: "0.0.0.0:80", get: func(b both) any { return b.Addr }, want: "0.0.0.0:80"},
		{name: "ACTCORE_API_ADDR", value: "8010", err: ` is "8010": it must be host:port with a port from 0 to 65535 (missing port in address), for example ACTCORE_API_ADDR=127.0.0.1:8010`},
		{name: "ACTCORE_API_ADDR", value: "http://x:80", err: ` is "http://x:80": it must be host:port with a port from 0 to 65535 (too many colons in address), for example ACTCORE_API_ADDR=127.0.0.1:8010`},
		{name: "ACTCORE_API_ADDR", value: DefaultAPIMetricsAddr, err: ` is the same as PROMETHEUS_BIND_ADDR: the two must differ, for example ACTCORE_API_ADDR=127.0.0.1:8010`},
		{name: "ACTCORE_TEMPORAL_UI_URL", value: "https://temporal.example/ui/", get: func(b both) any { return b.TemporalUI }, want: "https://temporal.example/ui"},
		{name: "ACTCORE_TEMPORAL_UI_URL", get: func(b both) any { return b.TemporalUI }, want: ""},
		{name: "ACTCORE_TEMPORAL_UI_URL", value: "localhost:8080", err: " is not such an address: it must be an http or https URL without a user, query or fragment, for example ACTCORE_TEMPORAL_UI_URL=http://localhost:8080"},
		{name: "ACTCORE_TEMPORAL_UI_URL", value: "https://me@h/", err: " is not such an address: it must be an http or https URL without a user, query or fragment, for example ACTCORE_TEMPORAL_UI_URL=http://localhost:8080"},
		{name: "ACTCORE_RATE_LIMIT", get: func(b both) any { return b.RateLimit }, want: DefaultRateLimit},
		{name: "ACTCORE_RATE_LIMIT", value: "1", get: func(b both) any { return b.RateLimit }, want: 1},
		{name: "ACTCORE_RATE_LIMIT", value: "off", get: func(b both) any { return b.RateLimit }, want: 0},
		{name: "ACTCORE_RATE_LIMIT", value: "0", err: ` is "0"` + rateRule + "ACTCORE_RATE_LIMIT=6000"},
		{name: "ACTCORE_RATE_LIMIT", value: "100/s", err: ` is "100/s"` + rateRule + "ACTCORE_RATE_LIMIT=6000"},
		{name: "ACTCORE_RATE_LIMIT_ADDRESS", get: func(b both) any { return b.RateLimitAddress }, want: DefaultRateLimitAddress},
		{name: "ACTCORE_RATE_LIMIT_ADDRESS", value: "1000000", get: func(b both) any { return b.RateLimitAddress }, want: 1_000_000},
		{name: "ACTCORE_RATE_LIMIT_ADDRESS", value: "off", get: func(b both) any { return b.RateLimitAddress }, want: 0},
		{name: "ACTCORE_RATE_LIMIT_ADDRESS", value: "1000001", err: ` is "1000001"` + rateRule + "ACTCORE_RATE_LIMIT_ADDRESS=12000"},
		{name: "PROMETHEUS_BIND_ADDR", value: ":0", get: func(b both) any { return b.Worker.Metrics.Addr }, want: ":0"},
		{name: "ACTCORE_METRICS_PER_DEFINITION", value: "0", get: func(b both) any { return b.Worker.Metrics.PerDefinition }, want: false},
		{name: "ACTCORE_METRICS_PER_DEFINITION", value: "no", err: ` is "no"` + boolRule + "ACTCORE_METRICS_PER_DEFINITION=true"},
		{name: "ACTCORE_MANAGE_STREAM", value: "false", get: func(b both) any { return b.Router.ManageStream }, want: false},
		{name: "ACTCORE_MANAGE_STREAM", value: "TRUE", err: ` is "TRUE"` + boolRule + "ACTCORE_MANAGE_STREAM=true"},
		{name: "ACTCORE_RECORD_UNMATCHED", value: "true", get: func(b both) any { return b.Router.RecordUnmatched }, want: true},
		{name: "ACTCORE_RECORD_UNMATCHED", value: "all", err: ` is "all"` + boolRule + "ACTCORE_RECORD_UNMATCHED=false"},
		{name: "SKIP_SCHEDULE_SYNC", value: "1", get: func(b both) any { return b.Worker.SkipScheduleSync }, want: true},
		{name: "ACTCORE_RUN_EVENTS", value: "off", get: func(b both) any { return b.Worker.RunEvents }, want: false},
		{name: "ACTCORE_RUN_EVENTS", value: "false", get: func(b both) any { return b.Worker.RunEvents }, want: false},
		{name: "ACTCORE_RUN_EVENTS", value: "on", get: func(b both) any { return b.Worker.RunEvents }, want: true},
		{name: "ACTCORE_RUN_EVENTS", get: func(b both) any { return b.Worker.RunEvents }, want: true},
		{name: "ACTCORE_RUN_EVENTS", value: "none", err: ` is "none": it must be on or off, for example ACTCORE_RUN_EVENTS=off`},
		{name: "ACTCORE_RETENTION", get: func(b both) any { return b.Worker.Retention }, want: 720 * time.Hour},
		{name: "ACTCORE_RETENTION", value: "1h", get: func(b both) any { return b.Worker.Retention }, want: time.Hour},
		{name: "ACTCORE_RETENTION", value: "off", get: func(b both) any { return b.Worker.Retention }, want: time.Duration(0)},
		{name: "ACTCORE_RETENTION", value: "0", get: func(b both) any { return b.Worker.Retention }, want: time.Duration(0)},
		{name: "ACTCORE_RETENTION", value: "720", err: ` is "720"` + retentionRule},
		{name: "ACTCORE_RETENTION", value: "59m", err: ` is "59m"` + retentionRule},
		{name: "ACTCORE_RETENTION", value: "-1h", err: ` is "-1h"` + retentionRule},
		{name: "SKIP_SCHEDULE_SYNC", value: "skip", err: ` is "skip"` + boolRule + "SKIP_SCHEDULE_SYNC=false"},
		{name: "ACTCORE_EGRESS_ALLOW", value: "10.0.0.0/8, *.internal.example", get: func(b both) any { return b.Worker.Egress.String() }, want: "10.0.0.0/8,*.internal.example"},
		{name: "ACTCORE_EGRESS_ALLOW", value: "10.0.0.0/33", err: ` is not a list of what may be connected to (the item "10.0.0.0/33" is not a block of addresses)` + egressRule},
		{name: "ACTCORE_EGRESS_ALLOW", value: "*", err: ` is not a list of what may be connected to (the item "*" is not an address, a block of addresses or the name of a host)` + egressRule},
		{name: "ACTCORE_SECRETS_DIR", value: filepath.Dir(creds), get: func(b both) any { return b.Worker.SecretsDir }, want: filepath.Dir(creds)},
		{name: "ACTCORE_SECRETS_DIR", value: creds, err: " cannot be read (not a directory)" + secretsRule},
		{name: "ACTCORE_SECRETS_DIR", value: creds + ".gone", err: " cannot be read (no such file or directory)" + secretsRule},

		{name: "LOG_LEVEL", value: "debug", get: func(b both) any { return b.Log.Level }, want: slog.LevelDebug},
		{name: "LOG_LEVEL", value: "WARN", get: func(b both) any { return b.Log.Level }, want: slog.LevelWarn},
		{name: "LOG_LEVEL", value: "error", get: func(b both) any { return b.Log.Level }, want: slog.LevelError},
		{name: "LOG_LEVEL", value: "loud", err: ` is "loud": it must be debug, info, warn or error, for example LOG_LEVEL=info`},
		{name: "LOG_FORMAT", value: "text", get: func(b both) any { return b.Log.JSON }, want: false},
		{name: "LOG_FORMAT", value: "xml", err: ` is "xml": it must be json or text, for example LOG_FORMAT=json`},

		{name: "ACTCORE_STREAM", value: "EVENTS_2", get: func(b both) any { return b.Names.Stream }, want: "EVENTS_2"},
		{name: "ACTCORE_STREAM", value: "a.b", err: ` is "a.b"` + wordRule + "ACTCORE_STREAM=ACTIVITY_EVENTS"},
		{name: "ACTCORE_DURABLE", value: "r-2", get: func(b both) any { return b.Names.Durable }, want: "r-2"},
		{name: "ACTCORE_DURABLE", value: "r 2", err: ` is "r 2"` + wordRule + "ACTCORE_DURABLE=activity-core-event-router"},
		{name: "ACTCORE_SUBJECT_PREFIX", value: "acme.activity", get: func(b both) any { return b.Names.SubjectPrefix }, want: "acme.activity"},
		{name: "ACTCORE_SUBJECT_PREFIX", value: "activity.>", err: ` is "activity.>": it must be words of letters, digits, _ and - with single dots between them, without wildcards, for example ACTCORE_SUBJECT_PREFIX=activity`},
		{name: "ACTCORE_SUBJECT_PREFIX", value: "activity.", err: ` is "activity.": it must be words of letters, digits, _ and - with single dots between them, without wildcards, for example ACTCORE_SUBJECT_PREFIX=activity`},
		{name: "ACTCORE_ORCHESTRATOR_TASK_QUEUE", value: "o", get: func(b both) any { return b.Names.OrchestratorTaskQueue }, want: "o"},
		{name: "ACTCORE_ORCHESTRATOR_TASK_QUEUE", value: "/_sys/x", err: ` is "/_sys/x"` + tqRule + "ACTCORE_ORCHESTRATOR_TASK_QUEUE=orchestrator-tq"},
		{name: "ACTCORE_TASK_TASK_QUEUE", value: "t", get: func(b both) any { return b.Names.TaskTaskQueue }, want: "t"},
		{name: "ACTCORE_TASK_TASK_QUEUE", value: strings.Repeat("q", 201), err: ` is "` + strings.Repeat("q", 201) + `"` + tqRule + "ACTCORE_TASK_TASK_QUEUE=task-execution-tq"},
		{name: "ACTCORE_TASK_TASK_QUEUE", value: definition.DefaultOrchestratorTaskQueue, err: ` is the same as ACTCORE_ORCHESTRATOR_TASK_QUEUE: the two must differ, for example ACTCORE_TASK_TASK_QUEUE=task-execution-tq`},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			t.Parallel()
			getenv := lookup(with(c.name, c.value))
			var b both
			var apiErr, routerErr, workerErr error
			b.API, apiErr = LoadAPI(getenv)
			b.Router, routerErr = LoadRouter(getenv)
			b.Worker, workerErr = LoadWorker(getenv)
			if c.err == "" {
				if err := errors.Join(apiErr, routerErr, workerErr); err != nil {
					t.Fatalf("refused: %v", err)
				}
				if got := c.get(b); got != c.want {
					t.Errorf("got %v, want %v", got, c.want)
				}
				return
			}
			var got *Error
			for _, err := range []error{apiErr, routerErr, workerErr} {
				if err != nil && !errors.As(err, &got) {
					t.Fatalf("error %v is a %T, want *Error", err, err)
				}
			}
			if got == nil {
				t.Fatal("accepted")
			}
			if want := c.name + c.err; got.Error() != want {
				t.Errorf("error:\n got %s\nwant %s", got, want)
			}
			if strings.Contains(got.Error(), "hunter2") {
				t.Errorf("the error shows a password: %s", got)
			}
			if got.ExitCode() != 2 {
				t.Errorf("ExitCode = %d, want 2", got.ExitCode())
			}
		})
	}
}

// Where nobody is asked who calls, there is one caller and one address: nothing is limited unless somebody says so.
func TestRateLimitsWithoutAuth(t *testing.T) {
	t.Parallel()
	env := with("ACTCORE_AUTH", "off")
	cfg, err := LoadAPI(lookup(env))
	if err != nil || cfg.RateLimit != 0 || cfg.RateLimitAddress != 0 {
		t.Errorf("limits %d and %d, %v; want none", cfg.RateLimit, cfg.RateLimitAddress, err)
	}
	env["ACTCORE_RATE_LIMIT"], env["ACTCORE_RATE_LIMIT_ADDRESS"] = "5", "7"
	cfg, err = LoadAPI(lookup(env))
	if err != nil || cfg.RateLimit != 5 || cfg.RateLimitAddress != 7 {
		t.Errorf("limits %d and %d, %v; want 5 and 7", cfg.RateLimit, cfg.RateLimitAddress, err)
	}
}

func TestAllFaultsInOneLine(t *testing.T) {
	t.Parallel()
	_, err := LoadWorker(lookup(map[string]string{"LOG_LEVEL": "loud", "SKIP_SCHEDULE_SYNC": "maybe"}))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, name := range []string{"ACTCORE_DB_URL", "LOG_LEVEL", "SKIP_SCHEDULE_SYNC"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%q does not name %s", err, name)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
}

func TestTemporalHostWinsOverAlias(t *testing.T) {
	t.Parallel()
	cfg, err := LoadSync(lookup(with("TEMPORAL_HOST", "host:1", "TEMPORAL_ADDRESS", "alias:2")))
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Temporal.Options.HostPort; got != "host:1" {
		t.Errorf("HostPort = %q, want host:1", got)
	}
}

func TestTemporalFileOnlyWhenNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "temporal.toml")
	toml := "[profile.default]\naddress = \"file:7233\"\nnamespace = \"from-file\"\n[profile.other]\naddress = \"other:7233\"\n"
	if err := os.WriteFile(file, []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.toml")
	if err := os.WriteFile(broken, []byte("[profile"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		vars      map[string]string
		host, ns  string
		errPrefix string
	}{
		{name: "not named", vars: with(), host: "localhost:7233", ns: "default"},
		{name: "named", vars: with("TEMPORAL_CONFIG_FILE", file), host: "file:7233", ns: "from-file"},
		{name: "variables override", vars: with("TEMPORAL_CONFIG_FILE", file, "TEMPORAL_HOST", "host:1"), host: "host:1", ns: "from-file"},
		{name: "profile", vars: with("TEMPORAL_CONFIG_FILE", file, "TEMPORAL_PROFILE", "other"), host: "other:7233", ns: "default"},
		{name: "missing", vars: with("TEMPORAL_CONFIG_FILE", file+".gone"), errPrefix: "TEMPORAL_CONFIG_FILE cannot be read (no such file or directory): "},
		{name: "broken", vars: with("TEMPORAL_CONFIG_FILE", broken), errPrefix: "TEMPORAL_CONFIG_FILE is not usable ("},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := LoadSync(lookup(c.vars))
			if c.errPrefix != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.errPrefix) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("error = %v, want prefix %q on one line", err, c.errPrefix)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if o := cfg.Temporal.Options; o.HostPort != c.host || o.Namespace != c.ns {
				t.Errorf("got %s and %s, want %s and %s", o.HostPort, o.Namespace, c.host, c.ns)
			}
		})
	}
}

func TestTemporalTLSFiles(t *testing.T) {
	t.Parallel()
	cert, key := keyPair(t)
	dir := t.TempDir()
	certPath, keyPath := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, data := range map[string]string{certPath: cert, keyPath: key} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		vars map[string]string
		err  string
	}{
		{name: "paths", vars: with("TEMPORAL_TLS_CLIENT_CERT_PATH", certPath, "TEMPORAL_TLS_CLIENT_KEY_PATH", keyPath, "TEMPORAL_TLS_SERVER_CA_CERT_PATH", certPath)},
		{name: "data", vars: with("TEMPORAL_TLS_CLIENT_CERT_DATA", cert, "TEMPORAL_TLS_CLIENT_KEY_DATA", key, "TEMPORAL_TLS_SERVER_CA_CERT_DATA", cert)},
		{name: "key missing", vars: with("TEMPORAL_TLS_CLIENT_CERT_PATH", certPath), err: "TEMPORAL_TLS_* cannot be used ("},
		{name: "CA missing", vars: with("TEMPORAL_TLS_SERVER_CA_CERT_PATH", certPath+".gone"), err: "TEMPORAL_TLS_* cannot be used ("},
		{name: "off with a key", vars: with("TEMPORAL_TLS", "false", "TEMPORAL_API_KEY", "hunter2"), err: "TEMPORAL_TLS is false while TEMPORAL_API_KEY is set: "},
		{name: "off with a certificate", vars: with("TEMPORAL_TLS", "0", "TEMPORAL_TLS_CLIENT_CERT_PATH", certPath, "TEMPORAL_TLS_CLIENT_KEY_PATH", keyPath), err: "TEMPORAL_TLS is false while TEMPORAL_TLS_CLIENT_CERT_PATH is set: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := LoadSync(lookup(c.vars))
			if c.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.err) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") {
					t.Fatalf("error = %v, want prefix %q on one line", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			conf := cfg.Temporal.Options.ConnectionOptions.TLS
			if conf == nil || len(conf.Certificates) != 1 || conf.RootCAs == nil {
				t.Errorf("TLS = %+v, want one certificate and a CA pool", conf)
			}
		})
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	cfg, err := LoadWorker(lookup(map[string]string{
		"ACTCORE_DB_URL":   "postgres://actcore:hunter2@db/actcore?sslpassword=hunter2",
		"NATS_URL":         "nats://u:hunter2@a:4222,nats://hunter2@b:4222",
		"TEMPORAL_API_KEY": "hunter2",
	}))
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	log := slog.New(slog.NewJSONHandler(&logged, nil))
	log.Info("starting", "db", cfg.DB, "nats", cfg.NATS, "temporal", cfg.Temporal)
	for what, text := range map[string]string{
		"%v":      fmt.Sprintf("%v", cfg),
		"%+v":     fmt.Sprintf("%+v", cfg),
		"%#v":     fmt.Sprintf("%#v", cfg),
		"String":  cfg.DB.String() + cfg.NATS.String() + cfg.Temporal.String(),
		"the log": logged.String(),
	} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s shows a secret: %s", what, text)
		}
	}
	if got, want := cfg.DB.String(), "postgres://actcore:xxxxx@db/actcore?sslpassword=xxxxx"; got != want {
		t.Errorf("DB = %s, want %s", got, want)
	}
	if got, want := cfg.NATS.String(), "nats://xxxxx@a:4222,nats://xxxxx@b:4222"; got != want {
		t.Errorf("NATS = %s, want %s", got, want)
	}
}

func FuzzPostgresURL(f *testing.F) {
	for _, seed := range []string{testDB, "postgresql+psycopg://u:p@h/d", "postgres://u:p/w@h/d", "://", "postgres://%zz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, v string) {
		normal, problem := postgresURL(v)
		if problem == "" && !strings.HasPrefix(normal, "postgres://") {
			t.Errorf("%q was normalised to %q", v, normal)
		}
		if strings.Contains(problem, "\n") {
			t.Errorf("problem of %q has more than one line: %q", v, problem)
		}
		_ = DB{URL: normal}.String()
	})
}

// keyPair returns a self-signed certificate and its key as PEM.
func keyPair(t *testing.T) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}
