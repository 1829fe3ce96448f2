package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// oldestPostgres is the oldest major version that works: 13 brought the xid8 functions that
// the event router's freshness check is made of.
const oldestPostgres = 13

const (
	envPostgresBin    = "ACTCORE_DEV_PG_BIN"
	envPostgresMirror = "ACTCORE_DEV_PG_MIRROR"
)

// pgInstall is one installation of Postgres.
type pgInstall struct {
	bin   string // folder that holds initdb and postgres
	major int    // 15, 16, …
}

// program returns the path of one of its programs.
func (p pgInstall) program(name string) string { return filepath.Join(p.bin, name) }

// hasStatements tells whether the module pg_stat_statements is installed, which Debian, for
// one, ships with the server and others in a package of its own.
func (p pgInstall) hasStatements() bool {
	dirs := []string{filepath.Join(p.bin, "../lib"), filepath.Join(p.bin, "../lib/postgresql")}
	if out, err := exec.Command(p.program("pg_config"), "--pkglibdir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, dir := range dirs {
		for _, ext := range []string{".so", ".dylib"} {
			if _, err := os.Stat(filepath.Join(dir, "pg_stat_statements"+ext)); err == nil {
				return true
			}
		}
	}
	return false
}

// pgFinder looks for the machine's own Postgres. The fields are what it asks the machine.
type pgFinder struct {
	getenv   func(string) string
	pgConfig func() (bindir string, err error)
	globs    []string // folders of installations outside PATH
	path     []string // the folders of PATH
	major    func(bin string) (int, error)
}

func newPGFinder(getenv func(string) string) pgFinder {
	return pgFinder{
		getenv: getenv,
		pgConfig: func() (string, error) {
			out, err := exec.Command("pg_config", "--bindir").Output()
			return strings.TrimSpace(string(out)), err
		},
		globs: []string{
			"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
			"/usr/pgsql-*/bin",                                   // the project's own RPMs
			"/opt/homebrew/opt/postgresql*/bin",                  // macOS on ARM
			"/usr/local/opt/postgresql*/bin",                     // macOS on Intel
			"/usr/libexec/postgresql*",                           // Alpine
			"/Applications/Postgres.app/Contents/Versions/*/bin", // macOS, Postgres.app
		},
		path:  filepath.SplitList(getenv("PATH")),
		major: postgresMajor,
	}
}

// find returns the installation to use, or ok = false when the machine has none. An installation of
// the major version wantMajor (that of an existing data folder; 0: no wish) wins over the
// order of places. A wrong ACTCORE_DEV_PG_BIN is an error, never passed over.
func (f pgFinder) find(wantMajor int) (install pgInstall, ok bool, err error) {
	if dir := f.getenv(envPostgresBin); dir != "" {
		if missing := missingProgram(dir); missing != "" {
			return pgInstall{}, false, fmt.Errorf("%s is %s, but that folder has no program %q; "+
				"set it to the folder that holds initdb and postgres, or unset it", envPostgresBin, dir, missing)
		}
		major, err := f.major(dir)
		if err != nil {
			return pgInstall{}, false, fmt.Errorf("%s is %s: %w", envPostgresBin, dir, err)
		}
		if major < oldestPostgres {
			return pgInstall{}, false, fmt.Errorf("%s is %s, which is Postgres %d; version %d or newer is needed",
				envPostgresBin, dir, major, oldestPostgres)
		}
		return pgInstall{bin: dir, major: major}, true, nil
	}

	var usable []pgInstall
	for _, dir := range f.candidates() {
		if missingProgram(dir) != "" {
			continue
		}
		if major, err := f.major(dir); err == nil && major >= oldestPostgres {
			usable = append(usable, pgInstall{bin: dir, major: major})
		}
	}
	for _, p := range usable {
		if p.major == wantMajor {
			return p, true, nil
		}
	}
	if len(usable) > 0 {
		return usable[0], true, nil
	}
	return pgInstall{}, false, nil
}

// places names where find looks, for the message that nothing was found.
func (f pgFinder) places() string {
	return envPostgresBin + ", pg_config --bindir, " + f.globs[0] + ", PATH"
}

// candidates lists the folders to look at, best first.
func (f pgFinder) candidates() []string {
	var dirs []string
	if dir, err := f.pgConfig(); err == nil && dir != "" {
		dirs = append(dirs, dir)
	}
	for _, glob := range f.globs {
		found, _ := filepath.Glob(glob)
		slices.SortStableFunc(found, func(a, b string) int { return cmp.Compare(lastNumber(b), lastNumber(a)) })
		dirs = append(dirs, found...)
	}
	for _, dir := range f.path {
		// A folder of links (/usr/local/bin) is no installation: follow the link to it.
		if program, err := filepath.EvalSymlinks(filepath.Join(dir, "initdb")); err == nil {
			dirs = append(dirs, filepath.Dir(program))
		}
	}
	return dirs
}

// missingProgram returns the name of the first program that dir lacks, or "".
func missingProgram(dir string) string {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return name
		}
	}
	return ""
}

var (
	digits          = regexp.MustCompile(`\d+`)
	postgresVersion = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)
)

// lastNumber returns the last number in a path, or 0: the version in a folder's name.
func lastNumber(path string) int {
	all := digits.FindAllString(path, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1])
	return n
}

// postgresMajor asks the program for its version.
func postgresMajor(bin string) (int, error) {
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("postgres --version: %w", err)
	}
	m := postgresVersion.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("postgres --version printed %q, which names no version", strings.TrimSpace(string(out)))
	}
	return strconv.Atoi(string(m[1]))
}

// installHint is the command that installs Postgres on this kind of machine.
func installHint() string {
	if runtime.GOOS == "darwin" {
		return "brew install postgresql"
	}
	return "apt-get install postgresql"
}
