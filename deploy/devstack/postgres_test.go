package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// testCluster returns the options of a cluster in dir, whose output nobody reads.
func testCluster(t *testing.T, dir string) clusterOptions {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return clusterOptions{
		DataDir:   dir,
		LogFile:   filepath.Join(dir, "postgres.log"),
		Port:      port,
		Getenv:    os.Getenv,
		Finder:    newPGFinder(os.Getenv),
		ResetHint: devResetHint,
		Notice:    func(line string) { t.Log(line) },
	}
}

func startCluster(t *testing.T, opts clusterOptions) *pgCluster {
	t.Helper()
	c, err := newCluster(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(stopImmediate); err != nil {
			t.Error(err)
		}
	})
	return c
}

func queryText(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var text string
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func TestClusterLife(t *testing.T) {
	t.Parallel()
	opts := testCluster(t, tempDir(t))
	failures := make(chan error, 10)
	opts.Failed = func(err error) { failures <- err }
	c := startCluster(t, opts)

	for setting, want := range map[string]string{
		"max_connections": "300", "server_encoding": "UTF8", "lc_collate": "C", "fsync": "off",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "password_encryption": "scram-sha-256",
	} {
		if got := queryText(t, c.url("postgres"), "SELECT current_setting('"+setting+"')"); got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	wrong := strings.Replace(c.url("postgres"), ":"+pgUser+"@", ":wrong@", 1)
	if _, err := pgx.Connect(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("a wrong password: %v, want a refusal", err)
	}

	for range 2 { // the second time it exists
		if err := c.ensureDatabase(t.Context(), "actcore"); err != nil {
			t.Fatal(err)
		}
	}
	queryText(t, c.url("actcore"), "WITH x AS (SELECT 1) SELECT set_config('a.b', 'c', false)")
	for _, mode := range []stopMode{stopFast, stopImmediate} {
		if err := c.Stop(mode); err != nil {
			t.Fatalf("%s stop: %v", mode, err)
		}
		if _, err := pgx.Connect(t.Context(), c.url("actcore")); err == nil {
			t.Fatalf("a connection after a %s stop", mode)
		}
		for range 2 { // the second time it runs
			if err := c.Start(t.Context()); err != nil {
				t.Fatalf("start after a %s stop: %v", mode, err)
			}
		}
		queryText(t, c.url("actcore"), "SELECT 'still here'")
	}
	select {
	case err := <-failures:
		t.Fatalf("a stop that was asked for was reported: %v", err)
	default:
	}

	pid, ok := postmaster(c.dataDir())
	if !ok {
		t.Fatal("the running server was not found")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failures:
		if !strings.Contains(err.Error(), "ended by itself") {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the end of the server was not reported")
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatalf("start after a crash: %v", err)
	}
}

func TestStaleClusterIsStopped(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	if found, err := stopLeftOverPostgres(dir); found || err != nil {
		t.Fatalf("an empty folder: %v, %v", found, err)
	}
	c := startCluster(t, testCluster(t, dir))
	if found, err := stopLeftOverPostgres(dir); !found || err != nil {
		t.Fatalf("a running server: %v, %v", found, err)
	}
	if _, ok := postmaster(c.dataDir()); ok {
		t.Fatal("the server still runs")
	}
	// A process id that now belongs to another program is left alone.
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleep.Wait()
	defer sleep.Process.Kill()
	pidFile := filepath.Join(c.dataDir(), "postmaster.pid")
	if err := os.WriteFile(pidFile, fmt.Appendf(nil, "%d\n/elsewhere\n", sleep.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := stopLeftOverPostgres(dir); found || err != nil {
		t.Fatalf("another program's process id: %v, %v", found, err)
	}
}

func TestBrokenDataFolder(t *testing.T) {
	t.Parallel()
	template := tempDir(t)
	if _, err := newCluster(t.Context(), testCluster(t, template)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		damage func(t *testing.T, data string)
		want   []string
	}{
		{"no PG_VERSION", func(t *testing.T, data string) {
			must(t, os.Remove(filepath.Join(data, "PG_VERSION")))
		}, []string{"is broken: it has no readable file PG_VERSION", devResetHint}},
		{"nonsense in PG_VERSION", func(t *testing.T, data string) {
			must(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("new\n"), 0o600))
		}, []string{`is broken: its PG_VERSION says "new"`, devResetHint}},
		{"another major version", func(t *testing.T, data string) {
			must(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("8\n"), 0o600))
		}, []string{"was made by Postgres 8, but the one found is ", envPostgresBin, devResetHint}},
		{"refuses to start", func(t *testing.T, data string) {
			must(t, os.WriteFile(filepath.Join(data, "global/pg_control"), []byte("damaged"), 0o600))
		}, []string{"the Postgres server refuses to start: PANIC:  could not read file", "postgres.log", devResetHint}},
		{"bad configuration", func(t *testing.T, data string) {
			must(t, os.WriteFile(filepath.Join(data, "postgresql.conf"), []byte("what is this\n"), 0o600))
		}, []string{`the Postgres server refuses to start: FATAL:  configuration file`, devResetHint}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			// cp -a keeps the owner, which the server insists on.
			if out, err := exec.Command("cp", "-a", filepath.Join(template, clusterDirName), dir).CombinedOutput(); err != nil {
				t.Fatalf("copy the cluster: %v: %s", err, out)
			}
			test.damage(t, filepath.Join(dir, clusterDirName, "data"))
			c, err := newCluster(t.Context(), testCluster(t, dir))
			if err == nil {
				err = c.Start(t.Context())
				if err == nil {
					_ = c.Stop(stopImmediate)
				}
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want it to contain %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestInterruptedInitIsRepeated(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newCluster(ctx, testCluster(t, dir)); err == nil {
		t.Fatal("no error from an interrupted initdb")
	}
	startCluster(t, testCluster(t, dir))
}

func TestPlaceClusterOutsideClosedCheckout(t *testing.T) {
	t.Parallel()
	acct, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	if acct.credential == nil {
		return // an ordinary user runs the server itself and always reaches its own checkout
	}
	closed := t.TempDir()
	must(t, os.Chmod(closed, 0o700))
	data := filepath.Join(closed, ".dev")
	must(t, os.Mkdir(data, 0o755))
	root := tempDir(t)

	home, err := placeCluster(data, acct, []string{closed, root})
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(root, externalName(data)); home != want {
		t.Fatalf("placed at %s, want %s", home, want)
	}
	if !acct.canEnter(home) {
		t.Error("the account cannot enter it")
	}
	info, err := os.Stat(home)
	must(t, err)
	if info.Mode().Perm() != 0o700 || int(info.Sys().(*syscall.Stat_t).Uid) != acct.uid {
		t.Errorf("mode %v, owner %d, want a private folder of %d", info.Mode(), info.Sys().(*syscall.Stat_t).Uid, acct.uid)
	}
	again, err := placeCluster(data, acct, nil)
	if err != nil || again != home {
		t.Errorf("the second time: %s, %v, want %s", again, err, home)
	}

	// What a removed data folder left is not mistaken for this one's.
	must(t, os.MkdirAll(filepath.Join(home, "data", "base"), 0o700))
	must(t, os.Remove(filepath.Join(data, clusterPathFile)))
	if _, err := placeCluster(data, acct, []string{root}); err != nil {
		t.Fatal(err)
	}
	assertEmpty(t, home)

	// A folder that somebody else put there is refused.
	other := t.TempDir()
	otherRoot := tempDir(t)
	must(t, os.Chmod(other, 0o700))
	must(t, os.Mkdir(filepath.Join(otherRoot, externalName(other)), 0o755))
	if _, err := placeCluster(other, acct, []string{otherRoot}); err == nil || !strings.Contains(err.Error(), "is not a private folder") {
		t.Errorf("a foreign folder: %v, want a refusal", err)
	}

	must(t, removeData(data))
	assertEmpty(t, root)
}

func TestInitdbFailureIsOneSentence(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	bin := filepath.Join(dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "postgres"), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) 16.1'\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "initdb"), []byte("#!/bin/sh\necho working\necho 'initdb: error: no space' >&2\nexit 1\n"), 0o755))
	opts := testCluster(t, dir)
	opts.Finder.getenv = environment(map[string]string{envPostgresBin: bin})
	_, err := newCluster(t.Context(), opts)
	if err == nil || !strings.Contains(err.Error(), "(exit status 1): error: no space") {
		t.Fatalf("got %v", err)
	}
}

func TestFileFrom(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	must(t, os.WriteFile(path, append(bytes.Repeat([]byte("x"), 100_000), "end"...), 0o600))
	if got := fileFrom(path, 100_000); string(got) != "end" {
		t.Errorf("got %q", got)
	}
	if got := fileFrom(path, 0); len(got) != 64<<10 || !bytes.HasSuffix(got, []byte("end")) {
		t.Errorf("got %d bytes", len(got))
	}
	if got := fileFrom(path+".none", 0); got != nil {
		t.Errorf("got %q", got)
	}
}
