// Package config turns the environment into one struct per binary.
//
// Every variable has one rule and one default, both stated here. A missing or
// wrong variable never gets past a Load function: it returns one [Error], a
// single line that names each variable at fault, says the rule and shows an
// example. An empty variable counts as unset.
package config

import (
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/egress"
)

// Defaults of the environment contract. Those of [Names] are constants of
// package definition.
const (
	DefaultTemporalHost      = "localhost:7233"
	DefaultTemporalNamespace = "default"
	DefaultNATSURL           = "nats://localhost:4222"
	DefaultAPIAddr           = "127.0.0.1:8010"
	DefaultWorkerMetricsAddr = "127.0.0.1:9090"
	DefaultRouterMetricsAddr = "127.0.0.1:9091"
	DefaultAPIMetricsAddr    = "127.0.0.1:9092"
)

// DB says where Postgres is (ACTCORE_DB_URL, required).
type DB struct {
	// URL always begins with postgres:// and may hold a password: print the
	// DB itself, which hides it, never the URL.
	URL string
}

// String returns the URL without its password.
func (d DB) String() string { return hidePassword(d.URL) }

// GoString keeps the password out of %#v.
func (d DB) GoString() string { return d.String() }

// LogValue keeps the password out of logs.
func (d DB) LogValue() slog.Value { return slog.StringValue(d.String()) }

// Temporal says where the Temporal server is and how to prove who we are.
//
// TEMPORAL_HOST (host:port) is the address; TEMPORAL_ADDRESS is an alias that
// is used only when TEMPORAL_HOST is unset. TEMPORAL_NAMESPACE, TEMPORAL_TLS,
// TEMPORAL_TLS_*, TEMPORAL_API_KEY and TEMPORAL_CLIENT_AUTHORITY mean what the
// Temporal SDK says they mean. A configuration file is read only when
// TEMPORAL_CONFIG_FILE names one; the variables then override it.
type Temporal struct {
	// Options holds address, namespace, credentials and TLS, and nothing else.
	Options client.Options
}

// String returns address and namespace, and no secret.
func (t Temporal) String() string {
	return t.Options.HostPort + " namespace " + t.Options.Namespace
}

// GoString keeps credentials and keys out of %#v.
func (t Temporal) GoString() string { return t.String() }

// LogValue keeps credentials and keys out of logs.
func (t Temporal) LogValue() slog.Value { return slog.StringValue(t.String()) }

// NATS says where the NATS server is (NATS_URL, a list of nats:// or tls://
// URLs with commas between them) and which credentials file to show it
// (NATS_CREDS, optional).
type NATS struct {
	// URL may hold a password or token: print the NATS itself, which hides it.
	URL string
	// Creds is the path of a readable .creds file, or empty.
	Creds string
}

// String returns the URLs without user names and passwords.
func (n NATS) String() string { return hideUserinfo(n.URL) }

// GoString keeps the password out of %#v.
func (n NATS) GoString() string { return n.String() }

// LogValue keeps the password out of logs.
func (n NATS) LogValue() slog.Value { return slog.StringValue(n.String()) }

// Log says what is logged (LOG_LEVEL: debug, info, warn or error; default
// info) and in which form (LOG_FORMAT: json or text; default json).
type Log struct {
	Level slog.Level
	JSON  bool
}

// Names are what two installations that share servers must set apart.
type Names struct {
	// Stream is the JetStream stream of events (ACTCORE_STREAM).
	Stream string
	// SubjectPrefix begins every event subject: <prefix>.<event type>
	// (ACTCORE_SUBJECT_PREFIX).
	SubjectPrefix string
	// Durable is the router's durable consumer (ACTCORE_DURABLE).
	Durable string
	// OrchestratorTaskQueue carries RunActivity workflows
	// (ACTCORE_ORCHESTRATOR_TASK_QUEUE).
	OrchestratorTaskQueue string
	// TaskTaskQueue carries the tasks of runs (ACTCORE_TASK_TASK_QUEUE). It is
	// never the same as OrchestratorTaskQueue.
	TaskTaskQueue string
}

// Metrics says where a service serves /healthz, /readyz and /metrics and how
// finely it labels.
type Metrics struct {
	// Addr is the host:port to bind (PROMETHEUS_BIND_ADDR). Port 0 means any
	// free port.
	Addr string
	// PerDefinition allows labels that name one definition
	// (ACTCORE_METRICS_PER_DEFINITION, default true).
	PerDefinition bool
}

// OIDC says which identity provider's tokens name people, and what they may
// do.
type OIDC struct {
	// Issuer is the provider's address, exactly as it stands in its tokens
	// (ACTCORE_OIDC_ISSUER). It is https, or http on this machine.
	Issuer string
	// Audience is whom the tokens must be for (ACTCORE_OIDC_AUDIENCE,
	// required with an issuer).
	Audience string
	// Algorithms are the signatures that are believed
	// (ACTCORE_OIDC_ALGORITHMS, some of [access.Algorithms], default
	// RS256,ES256).
	Algorithms []string
	// Claim is where a token has a person's groups (ACTCORE_OIDC_CLAIM,
	// default groups).
	Claim string
	// Grants are what the groups may do (ACTCORE_OIDC_GRANTS, required with
	// an issuer).
	Grants access.Grants
}

// TLS is the certificate of a server: paths of files in PEM, which can be
// used.
type TLS struct {
	// Cert and Key go together (ACTCORE_TLS_CERT, ACTCORE_TLS_KEY).
	Cert, Key string
	// ClientCA is the CAs whose certificates clients must show
	// (ACTCORE_TLS_CLIENT_CA), or empty.
	ClientCA string
}

// API is the configuration of cmd/api.
type API struct {
	DB       DB
	Temporal Temporal
	Log      Log
	Names    Names
	Metrics  Metrics
	// Addr is the host:port of the REST API (ACTCORE_API_ADDR, default
	// 127.0.0.1:8010). Port 0 means any free port.
	Addr string
	// AuthOff lets everybody do everything (ACTCORE_AUTH=off; default
	// required). It goes only with a loopback address.
	AuthOff bool
	// OIDC is the identity provider of people; nil for none.
	OIDC *OIDC
	// TLS is the certificate of the REST API; nil to speak HTTP.
	TLS *TLS
	// Origins are those whose pages may call the API from browsers
	// (ACTCORE_CORS_ORIGINS, default none).
	Origins []string
	// TrustedProxies are where proxies are whose X-Forwarded-For is believed
	// (ACTCORE_TRUSTED_PROXIES, default none).
	TrustedProxies []netip.Prefix
	// AccessLog logs every request (ACTCORE_ACCESS_LOG, on or off, default
	// off).
	AccessLog bool
	// TemporalUI is where people find Temporal's Web UI, without a slash at the
	// end (ACTCORE_TEMPORAL_UI_URL, optional). Runs then link to their
	// workflows.
	TemporalUI string
}

// Router is the configuration of cmd/event-router.
type Router struct {
	DB       DB
	Temporal Temporal
	NATS     NATS
	Log      Log
	Names    Names
	Metrics  Metrics
	// ManageStream lets the router create its stream and consumer
	// (ACTCORE_MANAGE_STREAM, default true). When false it only uses what is
	// there, so that its NATS user needs no right to create.
	ManageStream bool
	// RecordUnmatched makes the router record events that match nothing, each
	// with a row in Postgres for seven days (ACTCORE_RECORD_UNMATCHED, default
	// false).
	RecordUnmatched bool
}

// Worker is the configuration of cmd/worker.
type Worker struct {
	DB       DB
	Temporal Temporal
	NATS     NATS
	Log      Log
	Names    Names
	Metrics  Metrics
	// SkipScheduleSync turns off the reconcile at start and the ones after it
	// (SKIP_SCHEDULE_SYNC, default false).
	SkipScheduleSync bool
	// RunEvents makes the worker publish an event of the end of each run
	// (ACTCORE_RUN_EVENTS, on or off, default on).
	RunEvents bool
	// Retention is how long what is over is kept (ACTCORE_RETENTION, a duration
	// of at least an hour, or off; default 720h). Zero is for ever.
	Retention time.Duration
	// Egress is what http tasks may connect to besides the internet: addresses,
	// blocks of addresses and names of hosts (ACTCORE_EGRESS_ALLOW, default
	// nothing).
	Egress egress.Allow
	// SecretsDir is the folder in which each file is a secret for tasks
	// (ACTCORE_SECRETS_DIR, optional). Other secrets are in variables of their
	// own, ACTCORE_SECRET_<NAME>, which are read when a task needs them.
	SecretsDir string
}

// Sync is the configuration of cmd/sync-schedules.
type Sync struct {
	DB       DB
	Temporal Temporal
	Log      Log
	Names    Names
}

// Migrate is the configuration of cmd/migrate and of cmd/tokens.
type Migrate struct {
	DB  DB
	Log Log
}

// LoadAPI reads the environment of cmd/api. Its error is an [*Error].
func LoadAPI(getenv func(string) string) (API, error) {
	e := env{getenv: getenv}
	cfg := API{
		DB:       e.db(),
		Temporal: e.temporal(),
		Log:      e.log(),
		Names:    e.names(),
		Metrics:  e.metrics(DefaultAPIMetricsAddr),
		Addr:     e.addr("ACTCORE_API_ADDR", DefaultAPIAddr),

		AuthOff:        e.authOff(),
		OIDC:           e.oidc(),
		TLS:            e.tls(),
		Origins:        e.origins(),
		TrustedProxies: e.trustedProxies(),
		AccessLog:      e.onOff("ACTCORE_ACCESS_LOG", false),
		TemporalUI:     e.webAddress("ACTCORE_TEMPORAL_UI_URL", "http://localhost:8080"),
	}
	if cfg.Addr != "" && cfg.Addr == cfg.Metrics.Addr && !anyPort(cfg.Addr) {
		e.fault("ACTCORE_API_ADDR", "is the same as PROMETHEUS_BIND_ADDR", "the two must differ", DefaultAPIAddr)
	}
	if cfg.AuthOff && cfg.Addr != "" && !loopback(cfg.Addr) {
		e.fault("ACTCORE_AUTH", "is off while ACTCORE_API_ADDR is "+strconv.Quote(cfg.Addr)+", which others can reach",
			"leave it out, or listen on a loopback address", "required")
	}
	return cfg, e.err()
}

// LoadRouter reads the environment of cmd/event-router. Its error is an [*Error].
func LoadRouter(getenv func(string) string) (Router, error) {
	e := env{getenv: getenv}
	cfg := Router{
		DB:              e.db(),
		Temporal:        e.temporal(),
		NATS:            e.nats(),
		Log:             e.log(),
		Names:           e.names(),
		Metrics:         e.metrics(DefaultRouterMetricsAddr),
		ManageStream:    e.bool("ACTCORE_MANAGE_STREAM", true),
		RecordUnmatched: e.bool("ACTCORE_RECORD_UNMATCHED", false),
	}
	return cfg, e.err()
}

// LoadWorker reads the environment of cmd/worker. Its error is an [*Error].
func LoadWorker(getenv func(string) string) (Worker, error) {
	e := env{getenv: getenv}
	cfg := Worker{
		DB:               e.db(),
		Temporal:         e.temporal(),
		NATS:             e.nats(),
		Log:              e.log(),
		Names:            e.names(),
		Metrics:          e.metrics(DefaultWorkerMetricsAddr),
		SkipScheduleSync: e.bool("SKIP_SCHEDULE_SYNC", false),
		RunEvents:        e.onOff("ACTCORE_RUN_EVENTS", true),
		Retention:        e.retention(),
		Egress:           e.egress(),
		SecretsDir:       e.secretsDir(),
	}
	return cfg, e.err()
}

// LoadSync reads the environment of cmd/sync-schedules. Its error is an [*Error].
func LoadSync(getenv func(string) string) (Sync, error) {
	e := env{getenv: getenv}
	cfg := Sync{
		DB:       e.db(),
		Temporal: e.temporal(),
		Log:      e.log(),
		Names:    e.names(),
	}
	return cfg, e.err()
}

// LoadMigrate reads the environment of cmd/migrate. Its error is an [*Error].
func LoadMigrate(getenv func(string) string) (Migrate, error) {
	e := env{getenv: getenv}
	cfg := Migrate{DB: e.db(), Log: e.log()}
	return cfg, e.err()
}
