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
	"runtime"
	"strings"
	"syscall"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// fetchedVersion is the Postgres that is fetched for a machine that has none.
const fetchedVersion = embeddedpostgres.V17

// defaultMirror is where the archives are published.
const defaultMirror = "https://repo1.maven.org/maven2"

// fetchTimeout bounds a download of some 30 MB, also on a slow line.
const fetchTimeout = 10 * time.Minute

type fetchOptions struct {
	Mirror   string  // Maven repository; default: defaultMirror
	CacheDir string  // default: a folder in the user's cache folder
	Account  account // must be able to run the programs
	Notice   func(string)
}

// fetchPostgres returns the programs of fetchedVersion, fetching and unpacking them once.
func fetchPostgres(ctx context.Context, opts fetchOptions) (pgInstall, error) {
	mirror := strings.TrimSuffix(opts.Mirror, "/")
	if mirror == "" {
		mirror = defaultMirror
	}
	cache := opts.CacheDir
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return pgInstall{}, fmt.Errorf("no cache folder: %w", err)
		}
		cache = filepath.Join(dir, "activity-core", "postgres")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return pgInstall{}, fmt.Errorf("make the cache folder: %w", err)
	}
	root, err := programsRoot(cache, opts.Account, fallbackRoots())
	if err != nil {
		return pgInstall{}, err
	}
	// The mirror is part of the name: another mirror may serve another build.
	sum := sha256.Sum256([]byte(mirror))
	final := filepath.Join(root, fmt.Sprintf("%s-%s-%s", fetchedVersion, runtime.GOARCH, hex.EncodeToString(sum[:4])))
	bin := filepath.Join(final, "bin")
	if missingProgram(bin) != "" {
		if err := fetchInto(ctx, mirror, root, final, opts.Notice); err != nil {
			return pgInstall{}, err
		}
	}
	major, err := postgresMajor(bin)
	if err != nil {
		return pgInstall{}, fmt.Errorf("the fetched programs in %s do not run on this machine: %w", bin, err)
	}
	return pgInstall{bin: bin, major: major}, nil
}

// fetchInto fetches the programs into the folder final, which is below root. It works beside
// the final place, so that an interrupted attempt is never taken for the programs.
func fetchInto(ctx context.Context, mirror, root, final string, notice func(string)) error {
	notice(fmt.Sprintf("this machine has no Postgres: fetching version %s (some 30 MB, once) from %s", fetchedVersion, mirror))
	work, err := os.MkdirTemp(root, "fetch-")
	if err != nil {
		return fmt.Errorf("make a folder for the download: %w", err)
	}
	defer os.RemoveAll(work)
	if err := unpackPostgres(ctx, mirror, work); err != nil {
		return err
	}
	unpacked := filepath.Join(work, "programs")
	if name := missingProgram(filepath.Join(unpacked, "bin")); name != "" {
		return fmt.Errorf("the archive from %s has no program %q", mirror, name)
	}
	// Another devstack may have been first, which is as good.
	if err := os.Rename(unpacked, final); err != nil && missingProgram(filepath.Join(final, "bin")) != "" {
		return fmt.Errorf("move the programs into place: %w", err)
	}
	return nil
}

// unpackPostgres fetches the archive and unpacks it to work/programs. It does so in a process of its own:
// the library's requests know no deadline and cannot be interrupted, and it leaves a
// log in the temporary folder, which for that process is inside work.
func unpackPostgres(ctx context.Context, mirror, work string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the path of this program: %w", err)
	}
	var output bytes.Buffer
	cmd := exec.Command(self, fetchCommand, mirror, work)
	cmd.Env = append(os.Environ(), "TMPDIR="+work)
	cmd.Stderr = &output
	proc, err := startChild(cmd, syscall.SIGKILL, nil)
	if err != nil {
		return fmt.Errorf("start the download: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTimeout, fmt.Errorf("it took longer than %s", fetchTimeout))
	defer cancel()
	select {
	case <-proc.done:
	case <-ctx.Done():
		proc.signalGroup(syscall.SIGKILL)
		<-proc.done
		return fmt.Errorf("download from %s: %w", mirror, context.Cause(ctx))
	}
	if proc.err != nil {
		return errors.New(strings.Join(strings.Fields(strings.TrimPrefix(output.String(), "devstack: ")), " "))
	}
	return nil
}

// fetchCommand is the command by which the devstack calls itself to run fetchHere.
const fetchCommand = "fetch-postgres"

// fetchHere makes the library fetch the archive and unpack it to work/programs.
//
// The library has no call that only fetches, and its Start runs initdb as the present user,
// which root may not. So it is given a data folder that claims to be initialised: it then
// fetches, verifies, unpacks, and fails at starting a server on that empty folder. That last
// failure, and no other, means that the programs are there.
func fetchHere(mirror, work string) error {
	data := filepath.Join(work, "data")
	major, _, _ := strings.Cut(string(fetchedVersion), ".")
	if err := os.Mkdir(data, 0o700); err != nil {
		return fmt.Errorf("make a folder for the download: %w", err)
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(major+"\n"), 0o600); err != nil {
		return fmt.Errorf("make a folder for the download: %w", err)
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	database := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(fetchedVersion).
		Port(uint32(port)).
		BinaryRepositoryURL(mirror).
		CachePath(filepath.Join(work, "archive")).
		RuntimePath(filepath.Join(work, "runtime")).
		BinariesPath(filepath.Join(work, "programs")).
		DataPath(data).
		Logger(io.Discard))
	err = database.Start()
	if err == nil {
		return errors.Join(errors.New("a server started on an empty data folder"), database.Stop())
	}
	if !strings.HasPrefix(err.Error(), "could not start postgres") {
		return err
	}
	return nil
}

// programsRoot returns the folder for unpacked programs: the cache folder when the server's
// account can enter it, else one of root's own that everybody can enter but only root can change.
func programsRoot(cache string, acct account, roots []string) (string, error) {
	if acct.canEnter(cache) {
		return cache, nil
	}
	for _, root := range roots {
		if !acct.canEnter(root) {
			continue
		}
		dir := filepath.Join(root, "activity-core-postgres")
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("make the folder for the programs: %w", err)
		}
		info, err := os.Lstat(dir)
		if err != nil {
			return "", fmt.Errorf("look at the folder for the programs: %w", err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
			return "", fmt.Errorf("%s is there already but others than you can change it; remove it", dir)
		}
		return dir, nil
	}
	return "", fmt.Errorf("the user %s, as whom Postgres runs because you are root, can enter neither %s nor any of %s",
		acct.name, cache, strings.Join(roots, ", "))
}
