package composetest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"golang.org/x/mod/modfile"
)

const (
	composeFile = "docker-compose.dev.yml"
	// visibilitySwitch is the one documented switch of the Compose file.
	visibilitySwitch = "ACTCORE_DEV_VISIBILITY"
)

// binaries are the services built from deploy/Dockerfile, each with the target
// that it is built from.
var binaries = map[string]string{
	"api":            "api",
	"event-router":   "event-router",
	"worker":         "worker",
	"sync-schedules": "sync-schedules",
	"migrate":        "migrate",
	"seed":           "migrate",
}

// modes are the settings of the switch.
var modes = []struct {
	name          string
	env           []string
	elasticsearch bool
}{
	{name: "unset", elasticsearch: true},
	{name: "elasticsearch", env: []string{visibilitySwitch + "=elasticsearch"}, elasticsearch: true},
	{name: "sql", env: []string{visibilitySwitch + "=sql"}},
}

// root is the root of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// load reads the Compose file as `docker compose` would with that environment and
// no .env file.
func load(t *testing.T, env ...string) (*types.Project, error) {
	t.Helper()
	dir := root(t)
	opts, err := cli.NewProjectOptions(
		[]string{filepath.Join(dir, composeFile)},
		cli.WithWorkingDirectory(dir),
		cli.WithEnv(env),
	)
	if err != nil {
		t.Fatal(err)
	}
	return opts.LoadProject(t.Context())
}

// eachMode runs the check on the project in every setting of the switch.
func eachMode(t *testing.T, check func(t *testing.T, p *types.Project, elasticsearch bool)) {
	t.Helper()
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			p, err := load(t, mode.env...)
			if err != nil {
				t.Fatalf("load %s: %v", composeFile, err)
			}
			check(t, p, mode.elasticsearch)
		})
	}
}

// service returns one service of the project.
func service(t *testing.T, p *types.Project, name string) types.ServiceConfig {
	t.Helper()
	s, ok := p.Services[name]
	if !ok {
		t.Fatalf("%s has no service %s", composeFile, name)
	}
	return s
}

// environment returns what is set on the service.
func environment(s types.ServiceConfig) map[string]string {
	set := map[string]string{}
	for name, value := range s.Environment {
		if value != nil {
			set[name] = *value
		}
	}
	return set
}

// oneShot reports whether the service is meant to end.
func oneShot(s types.ServiceConfig) bool { return s.Restart == types.RestartPolicyNo }

// needs returns every service that must have reached its condition before this one
// starts, with what stands between them.
func needs(p *types.Project, name string) []string {
	var found []string
	var walk func(string)
	walk = func(name string) {
		for dependency := range p.Services[name].DependsOn {
			if _, enabled := p.Services[dependency]; enabled && !slices.Contains(found, dependency) {
				found = append(found, dependency)
				walk(dependency)
			}
		}
	}
	walk(name)
	return found
}

// goMod parses a go.mod of this repository.
func goMod(t *testing.T, path string) *modfile.File {
	t.Helper()
	file := filepath.Join(root(t), path)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse(file, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return mod
}

// requires returns the version of a module without its v, as image tags write it.
func requires(t *testing.T, mod *modfile.File, path string) string {
	t.Helper()
	for _, r := range mod.Require {
		if r.Mod.Path == path {
			return regexp.MustCompile(`^v`).ReplaceAllString(r.Mod.Version, "")
		}
	}
	t.Fatalf("%s does not require %s", mod.Syntax.Name, path)
	return ""
}
