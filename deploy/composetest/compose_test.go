package composetest

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/activity-core/activity-core/internal/config"
)

func port(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatalf("address %q: %v", addr, err)
	}
	return port
}

func TestPorts(t *testing.T) {
	t.Parallel()
	same := func(addr string) string { return port(t, addr) + ":" + port(t, addr) }
	want := map[string][]string{
		"api":          {same(config.DefaultAPIAddr), same(config.DefaultAPIMetricsAddr)},
		"event-router": {same(config.DefaultRouterMetricsAddr)},
		"worker":       {same(config.DefaultWorkerMetricsAddr)},
		"temporal":     {same(config.DefaultTemporalHost)},
		"temporal-ui":  {"8080:8080"},
		"nats":         {"4222:4222", "8222:8222"},
		"postgres":     {"5433:5432"},
	}
	eachMode(t, func(t *testing.T, p *types.Project, _ bool) {
		got := map[string][]string{}
		for name, s := range p.Services {
			for _, published := range s.Ports {
				if published.HostIP != "127.0.0.1" {
					t.Errorf("%s publishes %s on %q, not on the loopback address only", name, published.Published, published.HostIP)
				}
				got[name] = append(got[name], fmt.Sprintf("%s:%d", published.Published, published.Target))
			}
			slices.Sort(got[name])
		}
		for name := range want {
			slices.Sort(want[name])
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("published ports are\n%v, want\n%v", got, want)
		}
	})
}

func TestImages(t *testing.T) {
	t.Parallel()
	// A release, not a line of releases: postgres:17 would change by itself.
	pinned := regexp.MustCompile(`^[a-z0-9./-]+:\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?$`)
	devstack := goMod(t, "deploy/devstack/go.mod")
	// What `make dev` runs in process is what Compose runs.
	versions := map[string]string{
		"temporalio/server":      requires(t, devstack, "go.temporal.io/server"),
		"temporalio/admin-tools": requires(t, devstack, "go.temporal.io/server"),
		"temporalio/ui":          requires(t, devstack, "github.com/temporalio/ui-server/v2"),
		"nats":                   requires(t, devstack, "github.com/nats-io/nats-server/v2"),
	}
	eachMode(t, func(t *testing.T, p *types.Project, _ bool) {
		seen := map[string]bool{}
		for name, s := range p.Services {
			if _, ours := binaries[name]; ours {
				// Two services that are built under one name get in each other's way.
				if s.Image != "" {
					t.Errorf("%s is built here and must not name the image %s", name, s.Image)
				}
				continue
			}
			if s.Build != nil {
				t.Errorf("%s is built, but is none of our binaries", name)
			}
			if !pinned.MatchString(s.Image) {
				t.Errorf("%s: image %q is not pinned to a release", name, s.Image)
				continue
			}
			repository, tag, _ := strings.Cut(s.Image, ":")
			seen[repository] = true
			if version, ok := versions[repository]; ok && tag != version && !strings.HasPrefix(tag, version+"-") {
				t.Errorf("%s: image %s, but deploy/devstack/go.mod has %s", name, s.Image, version)
			}
		}
		for repository := range versions {
			if !seen[repository] {
				t.Errorf("no service uses the image %s", repository)
			}
		}
	})
}

func TestOurServices(t *testing.T) {
	t.Parallel()
	commands := map[string][]string{"migrate": {"up"}, "seed": {"seed"}}
	eachMode(t, func(t *testing.T, p *types.Project, _ bool) {
		for name, target := range binaries {
			s := service(t, p, name)
			if s.Build == nil {
				t.Errorf("%s is not built", name)
				continue
			}
			if s.Build.Context != root(t) || s.Build.Dockerfile != "deploy/Dockerfile" || s.Build.Target != target {
				t.Errorf("%s is built from %s, %s, target %s; want the root, deploy/Dockerfile, target %s",
					name, s.Build.Context, s.Build.Dockerfile, s.Build.Target, target)
			}
			if !slices.Equal(s.Command, commands[name]) {
				t.Errorf("%s: command %v, want %v", name, s.Command, commands[name])
			}
			if len(s.Entrypoint) > 0 {
				t.Errorf("%s overrides the entrypoint of its image: %v", name, s.Entrypoint)
			}
			if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.Privileged {
				t.Errorf("%s: want a read-only root and no capabilities", name)
			}
		}
	})
}

func TestHealthchecks(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, p *types.Project, _ bool) {
		for name, s := range p.Services {
			switch {
			case oneShot(s), name == "temporal-admin-tools":
				if s.HealthCheck != nil {
					t.Errorf("%s needs no healthcheck", name)
				}
			case s.HealthCheck == nil || len(s.HealthCheck.Test) < 2:
				t.Errorf("%s has no healthcheck", name)
			case binaries[name] != "":
				want := []string{"CMD", binaryPath(binaries[name]), "healthcheck"}
				if !slices.Equal(s.HealthCheck.Test, want) {
					t.Errorf("%s: healthcheck %v, want %v", name, s.HealthCheck.Test, want)
				}
			}
			if !oneShot(s) && s.Restart != types.RestartPolicyUnlessStopped {
				t.Errorf("%s: restart policy %q, want %s, or no for a one-shot", name, s.Restart, types.RestartPolicyUnlessStopped)
			}
		}
	})
}

func TestStartOrder(t *testing.T) {
	t.Parallel()
	// Loading fails on a cycle, so none is looked for here.
	want := map[string][]string{
		"temporal":             {"temporal-schema", "postgres"},
		"temporal-namespace":   {"temporal"},
		"temporal-ui":          {"temporal-namespace"},
		"temporal-admin-tools": {"temporal-namespace"},
		"migrate":              {"postgres"},
		"seed":                 {"migrate"},
		"sync-schedules":       {"migrate", "seed", "temporal-namespace"},
		"api":                  {"migrate", "temporal-namespace"},
		"event-router":         {"migrate", "temporal-namespace", "nats"},
		"worker":               {"migrate", "temporal-namespace", "nats", "sync-schedules"},
	}
	eachMode(t, func(t *testing.T, p *types.Project, elasticsearch bool) {
		for name, before := range want {
			service(t, p, name)
			after := needs(p, name)
			for _, dependency := range before {
				if !slices.Contains(after, dependency) {
					t.Errorf("%s does not wait for %s", name, dependency)
				}
			}
			if waits := slices.Contains(after, "elasticsearch"); waits != (elasticsearch && slices.Contains(after, "temporal-schema")) {
				t.Errorf("%s waits for elasticsearch: %t", name, waits)
			}
		}
		adopted := map[string]bool{}
		for name, s := range p.Services {
			for dependency, how := range s.DependsOn {
				on, enabled := p.Services[dependency]
				if !enabled {
					if how.Required {
						t.Errorf("%s requires %s, which is switched off", name, dependency)
					}
					continue
				}
				switch how.Condition {
				case types.ServiceConditionCompletedSuccessfully:
					adopted[dependency] = true
					if !oneShot(on) {
						t.Errorf("%s waits for the end of %s, which does not end", name, dependency)
					}
				case types.ServiceConditionHealthy:
					if on.HealthCheck == nil {
						t.Errorf("%s waits for the health of %s, which has no healthcheck", name, dependency)
					}
				case types.ServiceConditionStarted:
					if oneShot(on) {
						t.Errorf("%s must wait for the end of %s", name, dependency)
					}
				}
				// A started Temporal is not ready: only the job that asks it may start then.
				if dependency == "temporal" && name != "temporal-namespace" {
					t.Errorf("%s must wait for temporal-namespace instead of temporal", name)
				}
			}
		}
		// `up --wait` takes a job that ended for a failure unless a service waits for its end.
		for name, s := range p.Services {
			if oneShot(s) && !adopted[name] {
				t.Errorf("no service waits for the end of the one-shot %s", name)
			}
		}
	})
}

func TestVisibilitySwitch(t *testing.T) {
	t.Parallel()
	names := map[bool][]string{}
	for _, mode := range modes {
		p, err := load(t, mode.env...)
		if err != nil {
			t.Fatalf("%s: %v", mode.name, err)
		}
		temporal := environment(service(t, p, "temporal"))
		schema := environment(service(t, p, "temporal-schema"))
		store := "sql"
		if mode.elasticsearch {
			store = "elasticsearch"
		}
		if temporal["ENABLE_ES"] != fmt.Sprint(mode.elasticsearch) || schema["VISIBILITY_STORE"] != store {
			t.Errorf("%s: temporal has ENABLE_ES=%s and temporal-schema VISIBILITY_STORE=%s",
				mode.name, temporal["ENABLE_ES"], schema["VISIBILITY_STORE"])
		}
		if _, on := p.Services["elasticsearch"]; on != mode.elasticsearch {
			t.Errorf("%s: service elasticsearch is on: %t", mode.name, on)
		}
		names[mode.elasticsearch] = slices.Sorted(maps.Keys(p.Services))
		if !mode.elasticsearch {
			for name, s := range p.Services {
				for variable, value := range environment(s) {
					if strings.Contains(value, "elasticsearch") {
						t.Errorf("%s: %s still has %s=%s", mode.name, name, variable, value)
					}
				}
			}
			continue
		}
		if server := "http://" + temporal["ES_SEEDS"] + ":" + temporal["ES_PORT"]; server != schema["ES_SERVER"] || temporal["ES_SEEDS"] != "elasticsearch" {
			t.Errorf("%s: temporal uses %s, temporal-schema %s", mode.name, server, schema["ES_SERVER"])
		}
		// Temporal's index template covers only names that begin like this.
		if index := temporal["ES_VIS_INDEX"]; index != schema["ES_VISIBILITY_INDEX"] || !strings.HasPrefix(index, "temporal_visibility_v1") {
			t.Errorf("%s: temporal uses the index %s, temporal-schema makes %s", mode.name, index, schema["ES_VISIBILITY_INDEX"])
		}
		if image := service(t, p, "elasticsearch").Image; !strings.Contains(image, ":"+strings.TrimPrefix(temporal["ES_VERSION"], "v")+".") {
			t.Errorf("%s: ES_VERSION=%s for the image %s", mode.name, temporal["ES_VERSION"], image)
		}
	}
	without := slices.DeleteFunc(slices.Clone(names[true]), func(name string) bool { return name == "elasticsearch" })
	if !slices.Equal(without, names[false]) {
		t.Errorf("the switch changes more than elasticsearch:\n%v\n%v", names[true], names[false])
	}
	if _, err := load(t, visibilitySwitch+"=solr"); err == nil || !strings.Contains(err.Error(), "visibility-solr.yml") {
		t.Errorf("an unknown store must be refused by its name, got %v", err)
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, p *types.Project, elasticsearch bool) {
		data := map[string]string{"postgres": "/var/lib/postgresql/data", "nats": "/data"}
		if elasticsearch {
			data["elasticsearch"] = "/usr/share/elasticsearch/data"
		}
		for name, s := range p.Services {
			for _, v := range s.Volumes {
				switch v.Type {
				case types.VolumeTypeBind:
					info, err := os.Stat(v.Source)
					if err != nil {
						t.Errorf("%s mounts a file that is not there: %v", name, err)
					} else if !info.Mode().IsRegular() {
						t.Errorf("%s mounts %s, which is not a file", name, v.Source)
					}
					if !v.ReadOnly {
						t.Errorf("%s mounts %s writable", name, v.Source)
					}
				case types.VolumeTypeVolume:
					if data[name] != v.Target || v.Source != name+"-data" {
						t.Errorf("%s keeps the volume %s at %s, want %s-data at %s", name, v.Source, v.Target, name, data[name])
					}
					delete(data, name)
				default:
					t.Errorf("%s mounts %s by %s", name, v.Target, v.Type)
				}
			}
		}
		if len(data) > 0 {
			t.Errorf("no volume keeps %v", data)
		}
	})
}

// TestTokensCommand holds the job that operators run by hand: it is built like the others, begins after the schema is there, and `up`
// does not start it.
func TestTokensCommand(t *testing.T) {
	t.Parallel()
	opts, err := cli.NewProjectOptions([]string{filepath.Join(root(t), composeFile)}, cli.WithWorkingDirectory(root(t)),
		cli.WithEnv(nil), cli.WithProfiles([]string{"tools"}))
	if err != nil {
		t.Fatal(err)
	}
	p, err := opts.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := service(t, p, "tokens")
	if s.Build == nil || s.Build.Context != root(t) || s.Build.Dockerfile != "deploy/Dockerfile" || s.Build.Target != "tokens" || s.Image != "" {
		t.Errorf("it is built by %+v, image %q", s.Build, s.Image)
	}
	if len(s.Command) > 0 || len(s.Entrypoint) > 0 || len(s.Ports) > 0 || !oneShot(s) || s.HealthCheck != nil {
		t.Errorf("command %v, entrypoint %v, ports %v, restart %q, healthcheck %v; want a job without any", s.Command, s.Entrypoint, s.Ports,
			s.Restart, s.HealthCheck)
	}
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.Privileged {
		t.Error("want a read-only root and no capabilities")
	}
	if !slices.Contains(needs(p, "tokens"), "migrate") || slices.Contains(needs(p, "tokens"), "temporal") {
		t.Errorf("it waits for %v, want the schema and no more than that needs", needs(p, "tokens"))
	}
	set := environment(s)
	asked := map[string]bool{}
	got, err := loadMigrate(func(variable string) string {
		asked[variable] = true
		return set[variable]
	})
	if err != nil {
		t.Fatal(err)
	}
	checkDatabase(t, p, "tokens", got.db)
	for variable := range set {
		if !asked[variable] {
			t.Errorf("nothing reads the variable %s", variable)
		}
	}
	everyday, err := load(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, started := everyday.Services["tokens"]; started {
		t.Error("`up` starts it")
	}
}
