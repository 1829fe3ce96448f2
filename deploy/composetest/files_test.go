package composetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats-server/v2/server"
	"go.yaml.in/yaml/v3"
)

// mounted returns the file of this repository that the service sees at that path.
func mounted(t *testing.T, s types.ServiceConfig, target string) string {
	t.Helper()
	for _, v := range s.Volumes {
		if v.Target == target {
			return v.Source
		}
	}
	t.Fatalf("%s mounts nothing at %s", s.Name, target)
	return ""
}

func TestNATSConfig(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, p *types.Project, _ bool) {
		nats := service(t, p, "nats")
		flag := slices.Index(nats.Command, "--config")
		if flag < 0 || flag+1 == len(nats.Command) {
			t.Fatalf("nats starts without --config: %v", nats.Command)
		}
		opts, err := server.ProcessConfigFile(mounted(t, nats, nats.Command[flag+1]))
		if err != nil {
			t.Fatal(err)
		}
		if !opts.JetStream || !opts.SyncAlways {
			t.Errorf("JetStream is %t and sync_interval: always is %t, want both", opts.JetStream, opts.SyncAlways)
		}
		if !slices.ContainsFunc(nats.Volumes, func(v types.ServiceVolumeConfig) bool {
			return v.Type == types.VolumeTypeVolume && v.Target == opts.StoreDir
		}) {
			t.Errorf("store_dir %s is on no volume", opts.StoreDir)
		}
		var listens []int
		for _, exposed := range nats.Ports {
			listens = append(listens, int(exposed.Target))
		}
		slices.Sort(listens)
		if !slices.Equal(listens, []int{opts.Port, opts.HTTPPort}) || opts.Host != "0.0.0.0" || opts.HTTPHost != "0.0.0.0" {
			t.Errorf("the server listens on %s:%d and %s:%d, published are %v", opts.Host, opts.Port, opts.HTTPHost, opts.HTTPPort, listens)
		}
	})
}

func TestTemporalDynamicConfig(t *testing.T) {
	t.Parallel()
	p, err := load(t)
	if err != nil {
		t.Fatal(err)
	}
	temporal := service(t, p, "temporal")
	text, err := os.ReadFile(mounted(t, temporal, environment(temporal)["DYNAMIC_CONFIG_FILE_PATH"]))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string][]struct {
		Value       any
		Constraints map[string]any
	}
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	// A misspelt name is ignored by the server but for a line in its log.
	want := map[string]any{
		"worker.schedulerNamespaceStartWorkflowRPS":      300.0,
		"frontend.namespaceRPS.visibility":               100,
		"system.forceSearchAttributesCacheRefreshOnRead": true,
		"limit.maxIDLength":                              255,
	}
	for name, value := range want {
		if got := values[name]; len(got) != 1 || got[0].Value != value || len(got[0].Constraints) > 0 {
			t.Errorf("%s is %v, want %v without constraints", name, got, value)
		}
	}
	if len(values) != len(want) {
		t.Errorf("%d settings, want %d: say here what each one is", len(values), len(want))
	}
}

// script returns the script that a one-shot service runs.
func script(t *testing.T, s types.ServiceConfig) string {
	t.Helper()
	if len(s.Entrypoint) != 2 || s.Entrypoint[0] != "/bin/sh" || len(s.Command) > 0 {
		t.Fatalf("%s: entrypoint %v, command %v, want /bin/sh and a script", s.Name, s.Entrypoint, s.Command)
	}
	return mounted(t, s, s.Entrypoint[1])
}

// run runs a script as its container does, with tools that only write down how they
// were called. A tool is the body of a shell script; $CALLS is the list.
func run(t *testing.T, s types.ServiceConfig, tools map[string]string, extra ...string) (calls []string, output string, err error) {
	t.Helper()
	dir := t.TempDir()
	list := filepath.Join(dir, "calls")
	for tool, body := range tools {
		text := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >>'%s'\nCALLS='%s'\n%s\n", tool, list, list, body)
		// A process that another test starts meanwhile would hold the file open for
		// writing, and the kernel refuses to run such a file.
		syscall.ForkLock.RLock()
		err := os.WriteFile(filepath.Join(dir, tool), []byte(text), 0o755)
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), "/bin/sh", script(t, s))
	command.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	for name, value := range environment(s) {
		command.Env = append(command.Env, name+"="+value)
	}
	command.Env = append(command.Env, extra...)
	out, err := command.CombinedOutput()
	if text, readErr := os.ReadFile(list); readErr == nil {
		calls = strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	return calls, string(out), err
}

func TestScriptsParse(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob(filepath.Join(root(t), "deploy/compose/*.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts in deploy/compose: %v", err)
	}
	for _, path := range scripts {
		if out, err := exec.CommandContext(t.Context(), "/bin/sh", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", path, err, out)
		}
	}
}

func TestSchemaScript(t *testing.T) {
	t.Parallel()
	tools := map[string]string{"temporal-sql-tool": "", "temporal-elasticsearch-tool": ""}
	database := func(name, schema string) []string {
		return []string{
			"temporal-sql-tool --database " + name + " create-database",
			"temporal-sql-tool --database " + name + " setup-schema --version 0.0",
			"temporal-sql-tool --database " + name + " update-schema --schema-name postgresql/v12/" + schema,
		}
	}
	eachMode(t, func(t *testing.T, p *types.Project, elasticsearch bool) {
		s := service(t, p, "temporal-schema")
		want := database("temporal", "temporal")
		if elasticsearch {
			want = append(want,
				"temporal-elasticsearch-tool setup-schema",
				"temporal-elasticsearch-tool create-index --index temporal_visibility_v1_dev",
				"temporal-elasticsearch-tool update-schema --index temporal_visibility_v1_dev")
		} else {
			want = append(want, database("temporal_visibility", "visibility")...)
		}
		calls, output, err := run(t, s, tools)
		if err != nil || !slices.Equal(calls, want) {
			t.Errorf("%v: %s\ncalls:\n%s\nwant:\n%s", err, output, strings.Join(calls, "\n"), strings.Join(want, "\n"))
		}

		// A step that fails ends the job: the server must not start on half a schema.
		broken := map[string]string{"temporal-sql-tool": "exit 1", "temporal-elasticsearch-tool": ""}
		if calls, output, err := run(t, s, broken); err == nil || len(calls) != 1 {
			t.Errorf("a failed step must end the job: %v: %s: %v", err, output, calls)
		}
		for _, setting := range []string{"VISIBILITY_STORE=", "VISIBILITY_STORE=solr"} {
			if calls, output, err := run(t, s, tools, setting); err == nil || len(calls) > 0 || !strings.Contains(output, "VISIBILITY_STORE") {
				t.Errorf("%s must be refused before anything is done: %v: %s: %v", setting, err, output, calls)
			}
		}
	})
}

func TestNamespaceScript(t *testing.T) {
	t.Parallel()
	p, err := load(t)
	if err != nil {
		t.Fatal(err)
	}
	s := service(t, p, "temporal-namespace")
	where := " --address 172.20.0.7:7233 --namespace default"
	health := "temporal operator cluster health" + where
	describe := "temporal operator namespace describe" + where
	create := "temporal operator namespace create --retention 72h" + where
	attributes := "temporal operator search-attribute create --name ActivityId --type Keyword --name ActivityName --type Keyword --name ActivitySpecHash --type Keyword" + where
	query := "temporal workflow count --query ActivityId = 'none' AND ActivityName = 'none' AND ActivitySpecHash = 'none'" + where

	// getent answers as in the container and is not part of the list.
	const getent = `sed -i '$d' "$CALLS"; echo "172.20.0.7  temporal"`
	// failing fails the first n times that a call begins with those words.
	failing := func(n int, words string) string {
		return fmt.Sprintf(`case "$*" in "%s"*) [ "$(grep -c "^temporal %s" "$CALLS")" -gt %d ] || { echo "not yet" >&2; exit 1; } ;; esac`, words, words, n)
	}
	for name, c := range map[string]struct {
		temporal string
		want     []string
	}{
		"everything is there": {"", []string{health, describe, attributes, query}},
		"new server": {failing(99, "operator namespace describe"),
			[]string{health, describe, create, attributes, query}},
		"slow server": {failing(2, "operator cluster health"),
			[]string{health, health, health, describe, attributes, query}},
		"namespace not yet known": {failing(1, "operator search-attribute create"),
			[]string{health, describe, attributes, attributes, query}},
		"attributes not yet usable": {failing(2, "workflow count"),
			[]string{health, describe, attributes, query, query, query}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls, output, err := run(t, s, map[string]string{"temporal": c.temporal, "getent": getent}, "PAUSE_SECONDS=0")
			if err != nil || !slices.Equal(calls, c.want) {
				t.Errorf("%v: %s\ncalls:\n%s\nwant:\n%s", err, output, strings.Join(calls, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}

	t.Run("server away", func(t *testing.T) {
		t.Parallel()
		_, output, err := run(t, s, map[string]string{"temporal": failing(99, "operator cluster health"), "getent": getent}, "WAIT_SECONDS=0")
		if err == nil || !strings.Contains(output, "server at temporal:7233 failed for 0 s, last answer: not yet") {
			t.Errorf("the job must end and say what it waited for: %v: %s", err, output)
		}
	})
	t.Run("name server away", func(t *testing.T) {
		t.Parallel()
		calls, output, err := run(t, s, map[string]string{"temporal": "", "getent": `sed -i '$d' "$CALLS"; exit 2`})
		if err != nil || len(calls) == 0 || !strings.Contains(calls[0], "--address temporal:7233 ") {
			t.Errorf("without an address the name must do: %v: %s: %v", err, output, calls)
		}
	})
}
