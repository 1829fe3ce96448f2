package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The one role of the cluster, its password and the services' database, all the same word.
// The server listens on loopback only, and the password is public: it keeps a stray client
// out, not an attacker on the same machine.
const pgUser = "actcore"

const (
	maxConnections = 300
	// Recovery after a crash comes before the first connection.
	postgresStartTimeout = 60 * time.Second
	postgresStopTimeout  = 30 * time.Second
	orphansGrace         = 15 * time.Second
)

// Names inside a data folder.
const (
	clusterDirName  = "postgres"      // home of the cluster, unless…
	clusterPathFile = "postgres.path" // …this file names another one
)

// stopMode is how Postgres is asked to stop.
type stopMode string

const (
	stopFast      stopMode = "fast"      // ends sessions, writes a checkpoint
	stopImmediate stopMode = "immediate" // as a crash: recovery runs at the next start
)

type clusterOptions struct {
	DataDir string // the devstack's data folder
	LogFile string // Postgres's own log
	Port    int    // on 127.0.0.1
	Durable bool   // false turns fsync off: safe against crashes of Postgres, not of the machine
	Getenv  func(string) string
	Finder  pgFinder // of the machine's own Postgres
	// CacheDir keeps a Postgres that had to be fetched. Default: the user's cache folder.
	CacheDir string
	// ResetHint says what to do about a broken data folder, for example "run `make dev-reset`".
	ResetHint string
	// Notice receives one line on something the user should know, such as a download.
	Notice func(string)
	// Failed receives the reason when a running server ends by itself.
	Failed func(error)
}

// pgCluster is a private Postgres server. Start and Stop may be called again and again.
type pgCluster struct {
	opts    clusterOptions
	account account
	install pgInstall
	home    string // folder of the account, mode 0700; holds data

	mu   sync.Mutex
	proc *child // nil while stopped
}

// newCluster finds Postgres, decides where the cluster lives and creates it when it is missing.
// It does not start it.
func newCluster(ctx context.Context, opts clusterOptions) (*pgCluster, error) {
	acct, err := serverAccount()
	if err != nil {
		return nil, err
	}
	home, err := placeCluster(opts.DataDir, acct, fallbackRoots())
	if err != nil {
		return nil, err
	}
	c := &pgCluster{opts: opts, account: acct, home: home}

	exists, major, err := inspectData(c.dataDir())
	if err != nil {
		return nil, fmt.Errorf("%w; to start afresh, %s", err, opts.ResetHint)
	}
	install, found, err := opts.Finder.find(major)
	if err != nil {
		return nil, err
	}
	if !found {
		install, err = fetchPostgres(ctx, fetchOptions{
			Mirror: opts.Getenv(envPostgresMirror), CacheDir: opts.CacheDir, Account: acct, Notice: opts.Notice,
		})
		if err != nil {
			return nil, fmt.Errorf("found no Postgres programs on this machine (looked at %s) and could not fetch them: %w; "+
				"install them (%s), or set %s to a folder that holds them, or %s to a reachable Maven repository",
				opts.Finder.places(), err, installHint(), envPostgresBin, envPostgresMirror)
		}
	}
	c.install = install

	if !exists {
		if filepath.Dir(home) != opts.DataDir {
			opts.Notice(fmt.Sprintf("the database is kept in %s, because the user %s, as whom Postgres runs for root, cannot enter %s",
				home, acct.name, opts.DataDir))
		}
		if err := c.initialise(ctx); err != nil {
			return nil, err
		}
		return c, nil
	}
	if major != install.major {
		return nil, fmt.Errorf("the data in %s was made by Postgres %d, but the one found is %d (%s); "+
			"set %s to the programs of version %d, or, to start afresh, %s",
			c.dataDir(), major, install.major, install.bin, envPostgresBin, major, opts.ResetHint)
	}
	return c, nil
}

func (c *pgCluster) dataDir() string { return filepath.Join(c.home, "data") }

// url returns the connection URL of a database.
func (c *pgCluster) url(database string) string { return postgresURL(c.opts.Port, database) }

func postgresURL(port int, database string) string {
	return fmt.Sprintf("postgres://%s:%s@%s:%d/%s?sslmode=disable", pgUser, pgUser, loopback, port, database)
}

// inspectData looks at a data folder: whether it holds a cluster and of which major version.
func inspectData(dir string) (exists bool, major int, err error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, 0, nil
	case err != nil:
		return false, 0, fmt.Errorf("the Postgres data folder cannot be read: %w", err)
	case len(entries) == 0:
		return false, 0, nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err != nil {
		return false, 0, fmt.Errorf("the Postgres data folder %s is broken: it has no readable file PG_VERSION", dir)
	}
	major, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return false, 0, fmt.Errorf("the Postgres data folder %s is broken: its PG_VERSION says %q", dir, strings.TrimSpace(string(text)))
	}
	return true, major, nil
}

// initialise runs initdb. It works beside the final place and renames at the end, so that an
// interrupted attempt is never taken for a cluster.
func (c *pgCluster) initialise(ctx context.Context) error {
	fresh := c.dataDir() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove an unfinished data folder: %w", err)
	}
	password := filepath.Join(c.home, "password")
	if err := os.WriteFile(password, []byte(pgUser), 0o600); err != nil {
		return fmt.Errorf("write the password for initdb: %w", err)
	}
	defer os.Remove(password)
	if err := c.account.own(password); err != nil {
		return fmt.Errorf("give the password file to %s: %w", c.account.name, err)
	}
	args := []string{
		"--pgdata", fresh, "--username", pgUser, "--pwfile", password,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C",
	}
	if !c.opts.Durable {
		args = append(args, "--no-sync")
	}
	var output bytes.Buffer
	cmd := c.command("initdb", args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	proc, err := startChild(cmd, syscall.SIGKILL, c.account.credential)
	if err != nil {
		return fmt.Errorf("start initdb: %w", err)
	}
	select {
	case <-proc.done:
	case <-ctx.Done():
		proc.signalGroup(syscall.SIGKILL)
		<-proc.done
		_ = os.RemoveAll(fresh)
		return ctx.Err()
	}
	if proc.err != nil {
		return fmt.Errorf("initdb could not create the database cluster in %s (%s): %s", fresh, proc.exitText(), lastTellingLine(output.Bytes()))
	}
	if err := os.RemoveAll(c.dataDir()); err != nil { // at most an empty folder
		return fmt.Errorf("replace the empty data folder: %w", err)
	}
	if err := os.Rename(fresh, c.dataDir()); err != nil {
		return fmt.Errorf("move the new database cluster into place: %w", err)
	}
	return nil
}

// command prepares one of the Postgres programs, without the PG… variables of the user's own
// databases, which would change what the programs do.
func (c *pgCluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(c.install.program(name), args...)
	cmd.Dir = c.home
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "PG") && !strings.HasPrefix(pair, "LC_") && !strings.HasPrefix(pair, "LANG") {
			cmd.Env = append(cmd.Env, pair)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	return cmd
}

// Start starts the server and returns when it accepts connections. It does nothing when the
// server is running.
func (c *pgCluster) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc != nil && c.proc.running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, postgresStartTimeout)
	defer cancel()
	for deadline := time.Now().Add(orphansGrace); ; {
		proc, err := c.startOnce(ctx)
		if err == nil {
			c.proc = proc
			go c.watch(proc)
			return nil
		}
		// After the server process alone was killed, its children take a moment to notice.
		if !strings.Contains(err.Error(), "pre-existing shared memory block") || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *pgCluster) startOnce(ctx context.Context) (*child, error) {
	log, err := os.OpenFile(c.opts.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of Postgres: %w", err)
	}
	defer log.Close()
	logStart, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("read the log of Postgres: %w", err)
	}
	cmd := c.command("postgres", c.arguments()...)
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := startChild(cmd, syscall.SIGINT, c.account.credential)
	if err != nil {
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	if err = c.awaitReady(ctx, proc); err == nil {
		return proc, nil
	}
	wasRunning := proc.running()
	proc.signal(syscall.SIGQUIT)
	if !proc.wait(5 * time.Second) {
		proc.signal(syscall.SIGKILL)
		<-proc.done
	}
	if wasRunning {
		return nil, fmt.Errorf("the Postgres server did not accept connections on %s: %w (log: %s)", address(c.opts.Port), err, c.opts.LogFile)
	}
	return nil, fmt.Errorf("the Postgres server refuses to start: %s (log: %s); if the data folder %s is broken, start afresh: %s",
		lastTellingLine(fileFrom(c.opts.LogFile, logStart)), c.opts.LogFile, c.dataDir(), c.opts.ResetHint)
}

// arguments are those of the server: everything is set here, and the configuration file that initdb
// made stays as it is.
func (c *pgCluster) arguments() []string {
	settings := map[string]string{
		"port":                    strconv.Itoa(c.opts.Port),
		"listen_addresses":        loopback,
		"unix_socket_directories": "", // socket paths are limited to about 100 bytes
		"max_connections":         strconv.Itoa(maxConnections),
		"log_destination":         "stderr",
		"logging_collector":       "off",
		"log_line_prefix":         "%m [%p] ",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
	}
	if !c.opts.Durable {
		settings["fsync"] = "off"
	}
	if c.install.hasStatements() {
		settings["shared_preload_libraries"] = "pg_stat_statements"
	}
	args := []string{"-D", c.dataDir()}
	for name, value := range settings {
		args = append(args, "-c", name+"="+value)
	}
	return args
}

// watch reports a server that ended although nobody stopped it.
func (c *pgCluster) watch(proc *child) {
	<-proc.done
	c.mu.Lock()
	wanted := c.proc == proc
	c.mu.Unlock()
	if wanted && c.opts.Failed != nil {
		c.opts.Failed(fmt.Errorf("the Postgres server ended by itself (%s; log: %s)", proc.exitText(), c.opts.LogFile))
	}
}

// awaitReady polls until the server answers a query or its process ends.
func (c *pgCluster) awaitReady(ctx context.Context, proc *child) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		conn, err := pgx.Connect(attempt, c.url("postgres"))
		if err == nil {
			err = conn.Ping(attempt)
			_ = conn.Close(attempt)
		}
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-proc.done:
			return errors.New("the process ended")
		case <-ctx.Done():
			return err
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// Stop stops the server and returns when its process has ended. It does nothing when the server
// is not running. A fast stop that takes too long becomes an immediate one.
func (c *pgCluster) Stop(mode stopMode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	proc := c.proc
	c.proc = nil
	if proc == nil {
		return nil
	}
	if mode == stopFast {
		proc.signal(syscall.SIGINT)
		if proc.wait(postgresStopTimeout) {
			return nil
		}
	}
	proc.signal(syscall.SIGQUIT)
	if proc.wait(postgresStopTimeout) {
		return nil
	}
	proc.signal(syscall.SIGKILL)
	<-proc.done
	return errors.New("the Postgres server did not stop when asked and was killed")
}

// hurry makes a stop that is under way an immediate one.
func (c *pgCluster) hurry() {
	if pid, ok := postmaster(c.dataDir()); ok {
		_ = syscall.Kill(pid, syscall.SIGQUIT)
	}
}

// ensureDatabase creates an empty database when there is none of that name.
func (c *pgCluster) ensureDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, c.url("postgres"))
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42P04" { // duplicate_database
		return nil
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// placeCluster decides where the cluster lives and makes that folder. It is DataDir/postgres
// whenever the server's account can enter it. A checkout in a folder that other users cannot
// enter (/root) rules that out for the account that root gives the server to; then the cluster
// lives in a private folder under one of the roots, named after the data folder, and a file
// in the data folder records where.
func placeCluster(dataDir string, acct account, roots []string) (string, error) {
	home, err := clusterHome(dataDir)
	if err != nil {
		return "", err
	}
	if home != filepath.Join(dataDir, clusterDirName) {
		return home, makePrivate(home, acct)
	}
	made := false
	if _, err := os.Lstat(home); errors.Is(err, fs.ErrNotExist) {
		made = true
	}
	if err := makePrivate(home, acct); err != nil {
		return "", err
	}
	if acct.canEnter(home) {
		return home, nil
	}
	if made {
		if err := os.Remove(home); err != nil {
			return "", fmt.Errorf("place the database cluster: %w", err)
		}
	}
	var errs []error
	for _, root := range roots {
		if !acct.canEnter(root) {
			continue
		}
		home, err := placeOutside(root, dataDir, acct)
		if err == nil {
			return home, nil
		}
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return "", errs[0]
	}
	return "", fmt.Errorf("the user %s, as whom Postgres runs because you are root, can enter neither %s nor any of %s; "+
		"move the checkout, or start as an ordinary user", acct.name, dataDir, strings.Join(roots, ", "))
}

// placeOutside makes the folder of a cluster below root and records it in the data folder.
func placeOutside(root, dataDir string, acct account) (home string, err error) {
	home = filepath.Join(root, externalName(dataDir))
	if err := makePrivate(home, acct); err != nil {
		return "", err
	}
	// What is in it belongs to an earlier data folder of this name that was removed by hand.
	if _, running := postmaster(filepath.Join(home, "data")); running {
		return "", fmt.Errorf("a Postgres server of a removed data folder still runs in %s; stop it first", home)
	}
	if err := os.RemoveAll(filepath.Join(home, "data")); err != nil {
		return "", fmt.Errorf("remove the database cluster of a removed data folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dataDir, clusterPathFile), []byte(home+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("record where the database cluster is: %w", err)
	}
	return home, nil
}

// clusterHome returns where the cluster of a data folder lives, or would live if it had none yet.
func clusterHome(dataDir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, clusterPathFile))
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(dataDir, clusterDirName), nil
	}
	if err != nil {
		return "", fmt.Errorf("read where the database cluster is: %w", err)
	}
	home := strings.TrimSpace(string(text))
	if filepath.Base(home) != externalName(dataDir) {
		// Copied along with a data folder, or changed by hand; what it names is not ours.
		return filepath.Join(dataDir, clusterDirName), nil
	}
	return home, nil
}

// fallbackRoots are the folders for a cluster that cannot live in its data folder, best first. Only root
// needs them. /var/tmp comes second because systems may remove files there that were not used for weeks.
func fallbackRoots() []string { return []string{"/var/lib", "/var/tmp", os.TempDir()} }

// externalName names the cluster of a data folder outside of it.
func externalName(dataDir string) string {
	sum := sha256.Sum256([]byte(dataDir))
	return "activity-core-" + hex.EncodeToString(sum[:8])
}

// makePrivate makes a folder that only the account can enter, or checks one that is there:
// a folder that somebody else put in its place is refused.
func makePrivate(dir string, acct account) error {
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		if err := acct.own(dir); err != nil {
			return fmt.Errorf("give %s to the user %s: %w", dir, acct.name, err)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the folder of the database cluster: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at the folder of the database cluster: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != acct.uid || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is there already but is not a private folder of user id %d, as whom Postgres runs; "+
			"remove it, or start as the user who owns it", dir, acct.uid)
	}
	return nil
}

// postmaster returns the process id of the server that runs on a data folder, if one does.
func postmaster(dataDir string) (pid int, ok bool) {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 || syscall.Kill(pid, 0) != nil {
		return 0, false
	}
	// The number may belong to another program by now. A server's working directory is its
	// data folder; where the system does not tell, its command line names it.
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil {
		real, err := filepath.EvalSymlinks(dataDir)
		return pid, err == nil && cwd == real
	}
	out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return pid, err == nil && bytes.Contains(out, []byte(dataDir))
}

// stopLeftOverPostgres stops a server that an earlier, killed devstack left running for a data folder
// of the devstack. It reports whether there was one.
func stopLeftOverPostgres(dataDir string) (bool, error) {
	home, err := clusterHome(dataDir)
	if err != nil {
		return false, err
	}
	data := filepath.Join(home, "data")
	pid, ok := postmaster(data)
	if !ok {
		return false, nil
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return true, fmt.Errorf("stop the Postgres server that was left running (process %d): %w", pid, err)
		}
		for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if _, ok := postmaster(data); !ok {
				return true, nil
			}
		}
	}
	return true, fmt.Errorf("the Postgres server that was left running (process %d) does not stop; end it by hand", pid)
}

// fileFrom returns at most the last 64 KiB of what follows offset in a file; nil when it cannot be read.
func fileFrom(path string, offset int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	offset = max(offset, info.Size()-64<<10)
	buf := make([]byte, max(0, info.Size()-offset))
	n, _ := f.ReadAt(buf, offset)
	return buf[:n]
}

// lastTellingLine picks the line of a program's output that says best why it ended: the last
// one that names an error, else the last one.
func lastTellingLine(output []byte) string {
	last := "it said nothing"
	telling := ""
	for line := range strings.Lines(string(output)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		for _, word := range []string{"FATAL:", "PANIC:", "ERROR:", "error:"} {
			if i := strings.Index(line, word); i >= 0 {
				telling = line[i:]
			}
		}
	}
	if telling != "" {
		return telling
	}
	return last
}
