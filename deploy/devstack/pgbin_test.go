package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeInstall makes a folder that looks like the programs of Postgres.
func fakeInstall(t *testing.T, dir string, programs ...string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindPostgres(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	v9 := fakeInstall(t, filepath.Join(root, "pg/9/bin"), "initdb", "postgres")
	v15 := fakeInstall(t, filepath.Join(root, "pg/15/bin"), "initdb", "postgres")
	v16 := fakeInstall(t, filepath.Join(root, "pg/16/bin"), "initdb", "postgres")
	clientOnly := fakeInstall(t, filepath.Join(root, "client"), "psql", "initdb")
	v12 := fakeInstall(t, filepath.Join(root, "old-12"), "initdb", "postgres")
	links := filepath.Join(root, "links")
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(v15, "initdb"), filepath.Join(links, "initdb")); err != nil {
		t.Fatal(err)
	}
	major := func(bin string) (int, error) {
		bin = strings.TrimPrefix(bin, root)
		return lastNumber(bin), nil
	}
	glob := filepath.Join(root, "pg/*/bin")
	if strings.ContainsAny(root, "*?[") {
		t.Fatalf("temporary folder %s cannot stand in a pattern", root)
	}
	noConfig := func() (string, error) { return "", errors.New("not installed") }

	tests := []struct {
		name   string
		finder pgFinder
		want   int // wanted major
		bin    string
		err    string
	}{
		{name: "nothing", finder: pgFinder{}},
		{name: "highest version", finder: pgFinder{globs: []string{glob}}, bin: v16},
		{name: "version of the data", finder: pgFinder{globs: []string{glob}}, want: 15, bin: v15},
		{name: "version of the data not there", finder: pgFinder{globs: []string{glob}}, want: 14, bin: v16},
		{name: "pg_config first", finder: pgFinder{globs: []string{glob}, pgConfig: func() (string, error) { return v15, nil }}, bin: v15},
		{name: "pg_config of a client package", finder: pgFinder{globs: []string{glob}, pgConfig: func() (string, error) { return clientOnly, nil }}, bin: v16},
		{name: "PATH through links", finder: pgFinder{path: []string{"/nowhere", links}}, bin: v15},
		{name: "only too old ones", finder: pgFinder{path: []string{v9, v12}}},
		{name: "variable", finder: pgFinder{globs: []string{glob}, getenv: environment(map[string]string{envPostgresBin: v15})}, bin: v15},
		{name: "variable wins over the data", finder: pgFinder{globs: []string{glob}, getenv: environment(map[string]string{envPostgresBin: v16})}, want: 15, bin: v16},
		{name: "variable, no server", finder: pgFinder{globs: []string{glob}, getenv: environment(map[string]string{envPostgresBin: clientOnly})},
			err: `that folder has no program "postgres"; set it to the folder that holds initdb and postgres, or unset it`},
		{name: "variable, too old", finder: pgFinder{getenv: environment(map[string]string{envPostgresBin: v12})},
			err: "which is Postgres 12; version 13 or newer is needed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := test.finder
			f.major = major
			if f.pgConfig == nil {
				f.pgConfig = noConfig
			}
			if f.getenv == nil {
				f.getenv = environment(nil)
			}
			install, ok, err := f.find(test.want)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil || ok != (test.bin != "") || install.bin != test.bin {
				t.Fatalf("got %q, %v, %v, want %q", install.bin, ok, err, test.bin)
			}
		})
	}
}

func TestLastTellingLine(t *testing.T) {
	t.Parallel()
	tests := []struct{ output, want string }{
		{"", "it said nothing"},
		{"one\ntwo\n\n", "two"},
		{"2026 [1] FATAL:  data directory has wrong ownership\n2026 [1] HINT:  fix it\n", "FATAL:  data directory has wrong ownership"},
		{"initdb: error: directory exists but is not empty\ninitdb: hint: remove it", "error: directory exists but is not empty"},
	}
	for _, test := range tests {
		if got := lastTellingLine([]byte(test.output)); got != test.want {
			t.Errorf("%q: got %q, want %q", test.output, got, test.want)
		}
	}
}
