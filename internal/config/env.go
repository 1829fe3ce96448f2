package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/egress"
)

const (
	exampleDBURL = "postgres://actcore:secret@localhost:5433/actcore"

	// maxName bounds the names of streams, consumers and task queues; NATS
	// allows 255 bytes in a file name and Temporal 1,000 characters.
	maxName = 200
)

var (
	// wordRule is what NATS takes as the name of a stream or a consumer, and
	// as one token of a subject.
	wordRule = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	// queueRule is what we take as a task queue: anything that needs no
	// quoting in a shell or a URL.
	queueRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]*$`)
	// driverRule matches the scheme that SQLAlchemy and others write:
	// postgresql+driver.
	driverRule = regexp.MustCompile(`^postgres(ql)?\+[A-Za-z0-9_]+$`)
)

// Error tells what is wrong with the environment, in one line.
type Error struct {
	faults []string
}

// Error joins the faults: each names a variable, the rule and an example.
func (e *Error) Error() string { return strings.Join(e.faults, "; ") }

// ExitCode is the exit code of a process that cannot start for this reason.
func (e *Error) ExitCode() int { return 2 }

// env reads variables and collects faults, so that one start shows them all.
type env struct {
	getenv func(string) string
	faults []string
}

func (e *env) err() error {
	if len(e.faults) == 0 {
		return nil
	}
	return &Error{faults: e.faults}
}

// fault records: NAME problem: rule, for example NAME=example.
func (e *env) fault(name, problem, rule, example string) {
	e.faults = append(e.faults, fmt.Sprintf("%s %s: %s, for example %s=%s", name, problem, rule, name, example))
}

func (e *env) str(name, fallback string) string {
	if v := e.getenv(name); v != "" {
		return v
	}
	return fallback
}

func (e *env) bool(name string, fallback bool) bool {
	switch v := e.getenv(name); v {
	case "":
		return fallback
	case "true", "1":
		return true
	case "false", "0":
		return false
	default:
		e.fault(name, "is "+strconv.Quote(v), "it must be true, false, 1 or 0", strconv.FormatBool(fallback))
		return fallback
	}
}

// onOff reads a switch that may also be written like the others.
func (e *env) onOff(name string, fallback bool) bool {
	switch v := e.getenv(name); v {
	case "":
		return fallback
	case "on", "true", "1":
		return true
	case "off", "false", "0":
		return false
	default:
		e.fault(name, "is "+strconv.Quote(v), "it must be on or off", "off")
		return fallback
	}
}

// authOff reads whether requests need no credential.
func (e *env) authOff() bool {
	const name = "ACTCORE_AUTH"
	switch v := e.getenv(name); v {
	case "", "required":
		return false
	case "off":
		return true
	default:
		e.fault(name, "is "+strconv.Quote(v), "it must be required or off", "required")
		return false
	}
}

// maxRateLimit is more than one process can serve.
const maxRateLimit = 1_000_000

// rateLimit reads a number of requests a minute; 0 for off.
func (e *env) rateLimit(name string, fallback, example int) int {
	v := e.getenv(name)
	switch v {
	case "":
		return fallback
	case "off":
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > maxRateLimit {
		e.fault(name, "is "+strconv.Quote(v), "it must be a number of requests a minute from 1 to "+strconv.Itoa(maxRateLimit)+", or off",
			strconv.Itoa(example))
		return fallback
	}
	return n
}

// loopback reports whether only this machine can reach what listens on an address.
func loopback(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// minRetention is longer than Temporal goes on firing a slot.
const minRetention = time.Hour

func (e *env) retention() time.Duration {
	const name = "ACTCORE_RETENTION"
	v := e.getenv(name)
	switch v {
	case "":
		return definition.DefaultRetention
	case "off", "0":
		return 0
	}
	age, err := time.ParseDuration(v)
	if err != nil || age < minRetention {
		e.fault(name, "is "+strconv.Quote(v), "it must be a duration of at least 1h, or off", "720h")
		return 0
	}
	return age
}

// addr reads an address to listen on.
func (e *env) addr(name, fallback string) string {
	v := e.str(name, fallback)
	if err := checkHostPort(v, 0); err != nil {
		e.fault(name, "is "+strconv.Quote(v), "it must be host:port with a port from 0 to 65535 ("+err.Error()+")", fallback)
		return ""
	}
	return v
}

// webAddress reads the address of a web site, without a slash at its end; "" when there is none.
func (e *env) webAddress(name, example string) string {
	v := e.getenv(name)
	if v == "" {
		return ""
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		e.fault(name, "is not such an address", "it must be an http or https URL without a user, query or fragment", example)
		return ""
	}
	return strings.TrimRight(v, "/")
}

func (e *env) metrics(fallback string) Metrics {
	return Metrics{
		Addr:          e.addr("PROMETHEUS_BIND_ADDR", fallback),
		PerDefinition: e.bool("ACTCORE_METRICS_PER_DEFINITION", true),
	}
}

func (e *env) log() Log {
	var out Log
	switch v := e.str("LOG_LEVEL", "info"); strings.ToLower(v) {
	case "debug":
		out.Level = slog.LevelDebug
	case "info":
		out.Level = slog.LevelInfo
	case "warn":
		out.Level = slog.LevelWarn
	case "error":
		out.Level = slog.LevelError
	default:
		e.fault("LOG_LEVEL", "is "+strconv.Quote(v), "it must be debug, info, warn or error", "info")
	}
	switch v := e.str("LOG_FORMAT", "json"); strings.ToLower(v) {
	case "json":
		out.JSON = true
	case "text":
	default:
		e.fault("LOG_FORMAT", "is "+strconv.Quote(v), "it must be json or text", "json")
	}
	return out
}

func (e *env) names() Names {
	out := Names{
		Stream:                e.word("ACTCORE_STREAM", definition.DefaultStream),
		SubjectPrefix:         e.subjectPrefix(),
		Durable:               e.word("ACTCORE_DURABLE", definition.DefaultDurable),
		OrchestratorTaskQueue: e.queue("ACTCORE_ORCHESTRATOR_TASK_QUEUE", definition.DefaultOrchestratorTaskQueue),
		TaskTaskQueue:         e.queue("ACTCORE_TASK_TASK_QUEUE", definition.DefaultTaskTaskQueue),
	}
	// One worker takes only workflows, the other only tasks: on a shared queue
	// each would be handed work that it cannot do.
	if out.TaskTaskQueue != "" && out.TaskTaskQueue == out.OrchestratorTaskQueue {
		e.fault("ACTCORE_TASK_TASK_QUEUE", "is the same as ACTCORE_ORCHESTRATOR_TASK_QUEUE", "the two must differ", definition.DefaultTaskTaskQueue)
	}
	return out
}

func (e *env) word(name, fallback string) string {
	v := e.str(name, fallback)
	if !wordRule.MatchString(v) || len(v) > maxName {
		e.fault(name, "is "+strconv.Quote(v), fmt.Sprintf("it may hold letters, digits, _ and -, at most %d", maxName), fallback)
		return ""
	}
	return v
}

func (e *env) queue(name, fallback string) string {
	v := e.str(name, fallback)
	if !queueRule.MatchString(v) || len(v) > maxName {
		e.fault(name, "is "+strconv.Quote(v), fmt.Sprintf("it must begin with a letter or digit and may hold . _ : / and - after it, at most %d characters", maxName), fallback)
		return ""
	}
	return v
}

func (e *env) subjectPrefix() string {
	const name = "ACTCORE_SUBJECT_PREFIX"
	v := e.str(name, definition.DefaultSubjectPrefix)
	ok := len(v) <= maxName
	for token := range strings.SplitSeq(v, ".") {
		ok = ok && wordRule.MatchString(token)
	}
	if !ok {
		e.fault(name, "is "+strconv.Quote(v), "it must be words of letters, digits, _ and - with single dots between them, without wildcards", definition.DefaultSubjectPrefix)
		return ""
	}
	return v
}

func (e *env) db() DB {
	const name = "ACTCORE_DB_URL"
	v := e.getenv(name)
	if v == "" {
		e.fault(name, "is not set", "it must be the URL of the Postgres database", exampleDBURL)
		return DB{}
	}
	normal, problem := postgresURL(v)
	if problem != "" {
		// The value itself is not shown: it usually holds a password.
		e.fault(name, problem, "it must be the URL of the Postgres database", exampleDBURL)
		return DB{}
	}
	return DB{URL: normal}
}

// postgresURL checks a database URL and returns it with the scheme postgres.
// The problem never quotes any part of the URL that could belong to a password.
func postgresURL(v string) (normal, problem string) {
	scheme, rest, ok := strings.Cut(v, "://")
	if !ok {
		return "", "is not a URL"
	}
	switch scheme = strings.ToLower(scheme); {
	case scheme == "postgres", scheme == "postgresql", driverRule.MatchString(scheme):
	default:
		return "", "does not begin with postgres://, postgresql:// or postgresql+driver://"
	}
	normal = "postgres://" + rest
	u, err := url.Parse(normal)
	if err != nil {
		// url.Parse quotes what it stumbled over, which may be half a password.
		return "", "cannot be read (characters such as @ / : ? # % in a password must be percent-encoded)"
	}
	if u.Host == "" && !u.Query().Has("host") {
		return "", "names no host"
	}
	if strings.Trim(u.Path, "/") == "" && !u.Query().Has("dbname") && !u.Query().Has("database") {
		if strings.Contains(v, "#") {
			return "", "names no database before the # (in a password, write %23 for # and percent-encode @ / : ? % too)"
		}
		return "", "names no database (its name follows the host)"
	}
	if _, err := pgxpool.ParseConfig(normal); err != nil {
		return "", "is not usable (" + reason(err, u) + ")"
	}
	return normal, ""
}

// reason returns what a parse error says in one line, without the URL that it
// quotes and without any spelling of the URL's password.
func reason(err error, u *url.URL) string {
	text := oneLine(err)
	if _, after, ok := strings.Cut(text, "`: "); ok {
		text = after
	}
	secrets := []string{u.Query().Get("password"), u.Query().Get("sslpassword")}
	if password, ok := u.User.Password(); ok {
		secrets = append(secrets, password, url.QueryEscape(password), url.PathEscape(password))
	}
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "xxxxx")
		}
	}
	return text
}

func (e *env) nats() NATS {
	out := NATS{URL: e.str("NATS_URL", DefaultNATSURL), Creds: e.getenv("NATS_CREDS")}
	for one := range strings.SplitSeq(out.URL, ",") {
		if problem := checkNATSURL(strings.TrimSpace(one)); problem != "" {
			e.fault("NATS_URL", problem, "it must be one or more nats:// or tls:// URLs with commas between them", DefaultNATSURL)
			break
		}
	}
	if out.Creds != "" {
		if err := checkReadable(out.Creds); err != nil {
			e.fault("NATS_CREDS", "cannot be read ("+err.Error()+")", "it must be the path of a NATS credentials file", "/etc/activity-core/nats.creds")
		}
	}
	return out
}

func checkNATSURL(v string) (problem string) {
	u, err := url.Parse(v)
	switch {
	case err != nil:
		return "holds a URL that cannot be read"
	case u.Scheme != "nats" && u.Scheme != "tls" && u.Scheme != "ws" && u.Scheme != "wss":
		return "holds a URL that does not begin with nats://, tls://, ws:// or wss://"
	case u.Hostname() == "":
		return "holds a URL without a host"
	}
	return ""
}

func (e *env) egress() egress.Allow {
	allow, err := egress.ParseAllow(e.getenv(egress.Variable))
	if err != nil {
		e.fault(egress.Variable, "is not a list of what may be connected to (the item "+oneLine(err)+")",
			"its items, with commas between them, must be addresses, blocks of addresses or names of hosts", "10.1.0.0/16,hooks.internal.example")
	}
	return allow
}

func (e *env) secretsDir() string {
	const name = "ACTCORE_SECRETS_DIR"
	dir := e.getenv(name)
	if dir == "" {
		return ""
	}
	entry, err := os.Open(dir)
	if err == nil {
		defer entry.Close()
		_, err = entry.Readdirnames(1)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		var withPath *fs.PathError
		if errors.As(err, &withPath) {
			err = withPath.Err
		}
		e.fault(name, "cannot be read ("+oneLine(err)+")", "it must be the path of a folder in which each file is a secret", "/run/secrets/activity-core")
		return ""
	}
	return dir
}

func checkReadable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return errors.Unwrap(err)
	}
	if info.IsDir() {
		return errors.New("is a directory")
	}
	return nil
}

func (e *env) temporal() Temporal {
	// The SDK takes any spelling that it does not know as "unset", so
	// TEMPORAL_TLS=yes would silently mean no TLS: check before it looks.
	tls := e.bool("TEMPORAL_TLS", false)
	e.bool("TEMPORAL_TLS_DISABLE_HOST_VERIFICATION", false)
	e.checkTLS(tls)

	file := e.getenv("TEMPORAL_CONFIG_FILE")
	if file != "" {
		// The SDK would pass over a missing file in silence.
		if err := checkReadable(file); err != nil {
			e.fault("TEMPORAL_CONFIG_FILE", "cannot be read ("+err.Error()+")", "it must be the path of a Temporal client configuration in TOML", "/etc/activity-core/temporal.toml")
			return Temporal{}
		}
	}
	profile, err := envconfig.LoadClientConfigProfile(envconfig.LoadClientConfigProfileOptions{
		ConfigFilePath: file,
		DisableFile:    file == "",
		EnvLookup:      temporalEnv{getenv: e.getenv},
	})
	if err != nil {
		e.fault("TEMPORAL_CONFIG_FILE", "is not usable ("+oneLine(err)+")", "it must be the path of a Temporal client configuration in TOML", "/etc/activity-core/temporal.toml")
		return Temporal{}
	}
	addressFrom := "TEMPORAL_HOST"
	if v := e.getenv("TEMPORAL_HOST"); v != "" {
		profile.Address = v
	} else if e.getenv("TEMPORAL_ADDRESS") != "" {
		addressFrom = "TEMPORAL_ADDRESS"
	}
	if profile.Address == "" {
		profile.Address = DefaultTemporalHost
	}
	if profile.Namespace == "" {
		profile.Namespace = DefaultTemporalNamespace
	}
	if err := checkHostPort(profile.Address, 1); err != nil {
		e.fault(addressFrom, "is "+strconv.Quote(profile.Address), "it must be host:port ("+err.Error()+")", DefaultTemporalHost)
	}
	if strings.ContainsFunc(profile.Namespace, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		e.fault("TEMPORAL_NAMESPACE", "is "+strconv.Quote(profile.Namespace), "it must not hold spaces", DefaultTemporalNamespace)
	}
	options, err := profile.ToClientOptions(envconfig.ToClientOptionsRequest{})
	if err != nil {
		e.fault("TEMPORAL_TLS_*", "cannot be used ("+oneLine(err)+")",
			"certificate, key and CA must be PEM, each given as a path or as data, the certificate together with its key",
			"/etc/activity-core/tls.pem")
		return Temporal{Options: client.Options{HostPort: profile.Address, Namespace: profile.Namespace}}
	}
	return Temporal{Options: options}
}

// checkTLS refuses TEMPORAL_TLS=false beside settings that only make sense with
// TLS: the SDK would drop those without a word and send an API key in clear.
func (e *env) checkTLS(tls bool) {
	if tls || e.getenv("TEMPORAL_TLS") == "" {
		return
	}
	for _, name := range []string{
		"TEMPORAL_API_KEY",
		"TEMPORAL_TLS_CLIENT_CERT_PATH", "TEMPORAL_TLS_CLIENT_CERT_DATA",
		"TEMPORAL_TLS_CLIENT_KEY_PATH", "TEMPORAL_TLS_CLIENT_KEY_DATA",
		"TEMPORAL_TLS_SERVER_CA_CERT_PATH", "TEMPORAL_TLS_SERVER_CA_CERT_DATA",
		"TEMPORAL_TLS_SERVER_NAME",
	} {
		if e.getenv(name) != "" {
			e.fault("TEMPORAL_TLS", "is false while "+name+" is set", "it must be true or unset then", "true")
			return
		}
	}
}

// temporalEnv shows the SDK our environment. Headers (TEMPORAL_GRPC_META_*) are
// no part of the contract, and a lookup function cannot list them.
type temporalEnv struct{ getenv func(string) string }

func (t temporalEnv) Environ() []string { return nil }

func (t temporalEnv) LookupEnv(name string) (string, bool) {
	v := t.getenv(name)
	return v, v != ""
}

func checkHostPort(v string, minPort int) error {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		var addrErr *net.AddrError
		if errors.As(err, &addrErr) {
			return errors.New(addrErr.Err)
		}
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || int(n) < minPort {
		return fmt.Errorf("port %q is not a number from %d to 65535", port, minPort)
	}
	if strings.ContainsAny(v, " /@") {
		return errors.New("the host holds a space, / or @")
	}
	return nil
}

func anyPort(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	return err == nil && strings.Trim(port, "0") == ""
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// hidePassword returns a URL of ours without its passwords.
func hidePassword(v string) string {
	u, err := url.Parse(v)
	if err != nil {
		return "(hidden)"
	}
	q := u.Query()
	for _, name := range []string{"password", "sslpassword"} {
		if q.Has(name) {
			q.Set(name, "xxxxx")
			u.RawQuery = q.Encode()
		}
	}
	return u.Redacted()
}

// hideUserinfo drops everything before the @: in a NATS URL a user without a
// password is a token.
func hideUserinfo(list string) string {
	urls := strings.Split(list, ",")
	for i, one := range urls {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil {
			urls[i] = "(hidden)"
			continue
		}
		if u.User != nil {
			u.User = url.User("xxxxx")
		}
		urls[i] = u.String()
	}
	return strings.Join(urls, ",")
}
