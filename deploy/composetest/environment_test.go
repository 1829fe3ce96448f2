package composetest

import (
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/activity-core/activity-core/internal/config"
)

// settings is what all Load functions of internal/config have in common, as far as
// the Compose file decides it.
type settings struct {
	db       config.DB
	temporal *config.Temporal
	nats     *config.NATS
	names    *config.Names
	// listen are the addresses that the binary binds.
	listen []string
}

// loaders reads the environment of each service as its binary does.
var loaders = map[string]func(func(string) string) (settings, error){
	"api": func(getenv func(string) string) (settings, error) {
		c, err := config.LoadAPI(getenv)
		return settings{db: c.DB, temporal: &c.Temporal, names: &c.Names, listen: []string{c.Addr, c.Metrics.Addr}}, err
	},
	"event-router": func(getenv func(string) string) (settings, error) {
		c, err := config.LoadRouter(getenv)
		return settings{db: c.DB, temporal: &c.Temporal, nats: &c.NATS, names: &c.Names, listen: []string{c.Metrics.Addr}}, err
	},
	"worker": func(getenv func(string) string) (settings, error) {
		c, err := config.LoadWorker(getenv)
		return settings{db: c.DB, temporal: &c.Temporal, nats: &c.NATS, names: &c.Names, listen: []string{c.Metrics.Addr}}, err
	},
	"sync-schedules": func(getenv func(string) string) (settings, error) {
		c, err := config.LoadSync(getenv)
		return settings{db: c.DB, temporal: &c.Temporal, names: &c.Names}, err
	},
	"migrate": loadMigrate,
	"seed":    loadMigrate,
}

func loadMigrate(getenv func(string) string) (settings, error) {
	c, err := config.LoadMigrate(getenv)
	return settings{db: c.DB}, err
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	// The names of the contract; Compose has no reason to set others.
	contract := config.Names{
		Stream:                "ACTIVITY_EVENTS",
		SubjectPrefix:         "activity",
		Durable:               "activity-core-event-router",
		OrchestratorTaskQueue: "orchestrator-tq",
		TaskTaskQueue:         "task-execution-tq",
	}
	eachMode(t, func(t *testing.T, p *types.Project, _ bool) {
		for name := range binaries {
			s := service(t, p, name)
			set := environment(s)
			asked := map[string]bool{}
			got, err := loaders[name](func(variable string) string {
				asked[variable] = true
				return set[variable]
			})
			if err != nil {
				t.Errorf("%s would not start: %v", name, err)
				continue
			}
			for _, variable := range slices.Sorted(maps.Keys(set)) {
				if !asked[variable] {
					t.Errorf("%s: nothing reads the variable %s", name, variable)
				}
			}

			checkDatabase(t, p, name, got.db)
			if got.temporal != nil {
				checkReachable(t, p, name, "temporal", got.temporal.Options.HostPort)
				if want := environment(service(t, p, "temporal-namespace"))["TEMPORAL_NAMESPACE"]; got.temporal.Options.Namespace != want {
					t.Errorf("%s uses the Temporal namespace %s, temporal-namespace makes %s", name, got.temporal.Options.Namespace, want)
				}
			}
			if got.nats != nil {
				u, err := url.Parse(got.nats.URL)
				if err != nil {
					t.Errorf("%s: NATS_URL: %v", name, err)
				} else {
					checkReachable(t, p, name, "nats", u.Host)
				}
			}
			if got.names != nil && *got.names != contract {
				t.Errorf("%s: names %+v, want %+v", name, *got.names, contract)
			}

			var published []string
			for _, exposed := range s.Ports {
				published = append(published, "0.0.0.0:"+strconv.FormatUint(uint64(exposed.Target), 10))
			}
			slices.Sort(published)
			slices.Sort(got.listen)
			if !slices.Equal(got.listen, published) {
				t.Errorf("%s listens on %v and publishes %v", name, got.listen, published)
			}
		}
	})
}

// checkReachable holds an address against the service that must be behind it.
func checkReachable(t *testing.T, p *types.Project, name, want, addr string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Errorf("%s: address %q of %s: %v", name, addr, want, err)
		return
	}
	if host != want {
		t.Errorf("%s looks for %s at %s", name, want, addr)
	}
	if !slices.ContainsFunc(service(t, p, want).Ports, func(c types.ServicePortConfig) bool {
		return strconv.FormatUint(uint64(c.Target), 10) == port
	}) {
		t.Errorf("%s looks for %s at %s, where it does not listen", name, want, addr)
	}
	if !slices.Contains(needs(p, name), want) {
		t.Errorf("%s uses %s and does not wait for it", name, want)
	}
}

// checkDatabase holds a database URL against what the postgres service makes.
func checkDatabase(t *testing.T, p *types.Project, name string, db config.DB) {
	t.Helper()
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Errorf("%s: ACTCORE_DB_URL: %v", name, err)
		return
	}
	checkReachable(t, p, name, "postgres", u.Host)
	password, _ := u.User.Password()
	postgres := environment(service(t, p, "postgres"))
	if u.User.Username() != postgres["POSTGRES_USER"] || password != postgres["POSTGRES_PASSWORD"] || u.Path != "/"+postgres["POSTGRES_DB"] {
		t.Errorf("%s: ACTCORE_DB_URL does not fit user, password and database of the service postgres", name)
	}
}

func TestTemporalUsesThePostgresService(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, p *types.Project, _ bool) {
		postgres := environment(service(t, p, "postgres"))
		temporal := environment(service(t, p, "temporal"))
		schema := environment(service(t, p, "temporal-schema"))
		for _, c := range []struct{ name, host, port, user, password, plugin string }{
			{"temporal", temporal["POSTGRES_SEEDS"], temporal["DB_PORT"], temporal["POSTGRES_USER"], temporal["POSTGRES_PWD"], temporal["DB"]},
			{"temporal-schema", schema["SQL_HOST"], schema["SQL_PORT"], schema["SQL_USER"], schema["SQL_PASSWORD"], schema["SQL_PLUGIN"]},
		} {
			checkReachable(t, p, c.name, "postgres", net.JoinHostPort(c.host, c.port))
			if c.user != postgres["POSTGRES_USER"] || c.password != postgres["POSTGRES_PASSWORD"] {
				t.Errorf("%s: user and password do not fit the service postgres", c.name)
			}
			if c.plugin != "postgres12" {
				t.Errorf("%s: plugin %q, want postgres12", c.name, c.plugin)
			}
		}
		for _, name := range []string{"temporal-namespace", "temporal-admin-tools", "temporal-ui"} {
			checkReachable(t, p, name, "temporal", environment(service(t, p, name))["TEMPORAL_ADDRESS"])
		}
	})
}
