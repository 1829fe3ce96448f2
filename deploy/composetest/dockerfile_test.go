package composetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"golang.org/x/mod/semver"

	"github.com/activity-core/activity-core/internal/lifecycle"
)

// binaryPath is where the image of a target keeps its binary.
func binaryPath(target string) string { return "/usr/local/bin/" + target }

// stages parses deploy/Dockerfile by name of stage.
func stages(t *testing.T) map[string]instructions.Stage {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "deploy/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range parsed.Warnings {
		t.Errorf("deploy/Dockerfile: %s", warning.Short)
	}
	list, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]instructions.Stage{}
	for _, stage := range list {
		named[stage.Name] = stage
	}
	return named
}

func TestDockerfileTargetsAreTheBinaries(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(filepath.Join(root(t), "cmd"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, entry := range entries {
		if entry.IsDir() && entry.Name() != "internal" {
			want = append(want, entry.Name())
		}
	}
	var got []string
	for name, stage := range stages(t) {
		if stage.BaseName != "base" {
			continue
		}
		got = append(got, name)
		var copied, started bool
		for _, command := range stage.Commands {
			switch c := command.(type) {
			case *instructions.CopyCommand:
				copied = c.From == "build" && slices.Equal(c.SourcePaths, []string{"/out/" + name}) && c.DestPath == binaryPath(name)
			case *instructions.EntrypointCommand:
				started = !c.PrependShell && slices.Equal(c.CmdLine, []string{binaryPath(name)})
			case *instructions.UserCommand:
				t.Errorf("target %s changes the user to %s", name, c.User)
			}
		}
		if !copied || !started {
			t.Errorf("target %s must copy /out/%s to %s and start it without a shell", name, name, binaryPath(name))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("deploy/Dockerfile has the targets %v, cmd has the binaries %v", got, want)
	}
}

func TestDockerfileBase(t *testing.T) {
	t.Parallel()
	base, ok := stages(t)["base"]
	if !ok || base.BaseName != "scratch" {
		t.Fatalf("the stage base begins with %q, want scratch", base.BaseName)
	}
	var user, certificates string
	for _, command := range base.Commands {
		switch c := command.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.CopyCommand:
			certificates = c.DestPath
		}
	}
	if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user) {
		t.Errorf("the images run as %q, want the number of a user that is not root", user)
	}
	if certificates != "/etc/ssl/certs/ca-certificates.crt" {
		t.Errorf("the images have no certificates where Go looks for them: %q", certificates)
	}
}

func TestDockerfileBuild(t *testing.T) {
	t.Parallel()
	build, ok := stages(t)["build"]
	if !ok {
		t.Fatal("deploy/Dockerfile has no stage build")
	}
	image, tag, _ := strings.Cut(build.BaseName, ":")
	want := "v" + goMod(t, "go.mod").Go.Version
	got := "v" + tag
	if image != "golang" || semver.Canonical(got) != got || semver.MajorMinor(got) != semver.MajorMinor(want) || semver.Compare(got, want) < 0 {
		t.Errorf("the builder is %s, but go.mod says go %s: want golang with that version or a newer patch of it", build.BaseName, want[1:])
	}
	var run string
	for _, command := range build.Commands {
		if c, ok := command.(*instructions.RunCommand); ok {
			run = strings.Join(c.CmdLine, " ")
		}
	}
	// The linker says nothing about a variable that does not exist.
	_ = lifecycle.Version
	version := "-X " + reflect.TypeFor[lifecycle.UsageError]().PkgPath() + ".Version=$VERSION"
	for _, part := range []string{"CGO_ENABLED=0", "-trimpath", "-tags timetzdata", version, "-o /out/", "./cmd/..."} {
		if !strings.Contains(run, part) {
			t.Errorf("the build lacks %q: %s", part, run)
		}
	}
}

// TestDockerContextIsComplete holds deploy/Dockerfile.dockerignore against the files
// that the compiler reads.
func TestDockerContextIsComplete(t *testing.T) {
	t.Parallel()
	dir := root(t)
	file, err := os.Open(filepath.Join(dir, "deploy/Dockerfile.dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}

	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=Dir,Module,GoFiles,EmbedFiles", "./cmd/...")
	list.Dir = dir
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", list, err, stderr.String())
	}
	files := []string{filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum")}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			Dir                 string
			Module              *struct{ Main bool }
			GoFiles, EmbedFiles []string
		}
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if pkg.Module == nil || !pkg.Module.Main {
			continue
		}
		for _, name := range slices.Concat(pkg.GoFiles, pkg.EmbedFiles) {
			files = append(files, filepath.Join(pkg.Dir, name))
		}
	}
	if len(files) < 2+len(binaries)-1 {
		t.Fatalf("%s names only %v", list, files)
	}
	for _, path := range files {
		name, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := ignored.MatchesOrParentMatches(name); err != nil {
			t.Fatal(err)
		} else if out {
			t.Errorf("deploy/Dockerfile.dockerignore leaves out %s, which the build needs", name)
		}
	}
	for _, name := range []string{".git", ".dev", "deploy/devstack/go.mod", "internal/config/config_test.go"} {
		if out, err := ignored.MatchesOrParentMatches(name); err != nil {
			t.Fatal(err)
		} else if !out {
			t.Errorf("deploy/Dockerfile.dockerignore sends %s, which the build does not need", name)
		}
	}
}
