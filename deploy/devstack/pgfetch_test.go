package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// postgresArchive packs the machine's own programs the way the published archives are: a jar with
// one .txz in it.
func postgresArchive(t *testing.T) []byte {
	t.Helper()
	own, ok, err := newPGFinder(os.Getenv).find(0)
	if err != nil || !ok {
		t.Fatalf("this test packs the machine's own Postgres, but there is none (%v); install it (%s)", err, installHint())
	}
	var tarball bytes.Buffer
	tw := tar.NewWriter(&tarball)
	add := func(name, file string) {
		content, err := os.ReadFile(file)
		must(t, err)
		must(t, tw.WriteHeader(&tar.Header{Name: "./" + name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}))
		_, err = tw.Write(content)
		must(t, err)
	}
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		add("bin/"+name, own.program(name))
	}
	// Moved programs look for a folder that was beside theirs when they were built beside theirs, and for
	// any other at its old place.
	for _, option := range []string{"--pkglibdir", "--sharedir"} {
		out, err := exec.Command(own.program("pg_config"), option).Output()
		if err != nil {
			t.Fatalf("pg_config %s, which comes with the developer files of Postgres: %v", option, err)
		}
		dir := strings.TrimSpace(string(out))
		moved, err := filepath.Rel(own.bin, dir)
		if err != nil || strings.HasPrefix(moved, "../..") {
			continue
		}
		must(t, filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Name() == "bitcode" {
				return fs.SkipDir
			}
			if err == nil && entry.Type().IsRegular() {
				add(filepath.Join("bin", moved, strings.TrimPrefix(file, dir)), file)
			}
			return err
		}))
	}
	must(t, tw.Close())
	var jar bytes.Buffer
	zw := zip.NewWriter(&jar)
	w, err := zw.Create("postgres-" + runtime.GOOS + "-x86_64.txz")
	must(t, err)
	_, err = w.Write(storeXZ(tarball.Bytes()))
	must(t, err)
	must(t, zw.Close())
	return jar.Bytes()
}

// storeXZ wraps data in the xz format without compressing it. The standard library has no writer
// of that format, and this needs none of its compression.
func storeXZ(data []byte) []byte {
	crc := func(b []byte) []byte { return binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(b)) }
	pad := func(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }
	streamFlags := []byte{0, 1} // check: CRC32

	out := append([]byte("\xfd7zXZ\x00"), streamFlags...)
	out = append(out, crc(streamFlags)...)

	header := []byte{2, 0, 0x21, 1, 8, 0, 0, 0} // 12 bytes with its CRC; one filter, LZMA2, 64 KiB dictionary
	header = append(header, crc(header)...)
	var chunks []byte
	control := byte(1) // uncompressed chunk that resets the dictionary; 2: one that does not
	for rest := data; len(rest) > 0; control = 2 {
		n := min(len(rest), 1<<16)
		chunks = append(chunks, control)
		chunks = binary.BigEndian.AppendUint16(chunks, uint16(n-1))
		chunks = append(chunks, rest[:n]...)
		rest = rest[n:]
	}
	chunks = append(chunks, 0)
	unpadded := len(header) + len(chunks) + 4
	out = append(out, header...)
	out = append(out, pad(chunks)...)
	out = append(out, crc(data)...)

	index := []byte{0, 1}
	index = binary.AppendUvarint(index, uint64(unpadded))
	index = binary.AppendUvarint(index, uint64(len(data)))
	index = pad(index)
	index = append(index, crc(index)...)
	out = append(out, index...)

	footer := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1))
	footer = append(footer, streamFlags...)
	out = append(out, crc(footer)...)
	out = append(out, footer...)
	return append(out, 'Y', 'Z')
}

// mirror serves the archive at the address at which the library looks for it.
func mirror(t *testing.T, archive []byte, checksum string) (url string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		prefix := "/maven/io/zonky/test/postgres/embedded-postgres-binaries-" + runtime.GOOS + "-"
		switch {
		case !strings.HasPrefix(r.URL.Path, prefix) || archive == nil:
			http.NotFound(w, r)
		case strings.HasSuffix(r.URL.Path, fmt.Sprintf("-%s.jar", fetchedVersion)):
			_, _ = w.Write(archive)
		case strings.HasSuffix(r.URL.Path, ".jar.sha256"):
			_, _ = io.WriteString(w, checksum)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/maven/", requests
}

// withoutPostgres is a finder that finds nothing.
func withoutPostgres() pgFinder {
	return pgFinder{
		getenv:   environment(nil),
		pgConfig: func() (string, error) { return "", os.ErrNotExist },
		globs:    []string{"/usr/lib/postgresql/*/no-bin"},
		major:    postgresMajor,
	}
}

func TestFetchedPostgresRuns(t *testing.T) {
	t.Parallel()
	archive := postgresArchive(t)
	sum := sha256.Sum256(archive)
	url, requests := mirror(t, archive, hex.EncodeToString(sum[:]))

	dir := tempDir(t)
	cache := filepath.Join(dir, "cache")
	var notices []string
	for i := range 2 {
		data := filepath.Join(dir, fmt.Sprintf("data%d", i))
		must(t, os.Mkdir(data, 0o755))
		opts := testCluster(t, data)
		opts.Finder, opts.CacheDir = withoutPostgres(), cache
		opts.Getenv = environment(map[string]string{envPostgresMirror: url})
		opts.Notice = func(line string) { notices = append(notices, line) }
		c := startCluster(t, opts)
		if !strings.HasPrefix(c.install.bin, cache) {
			t.Errorf("the programs are in %s, want them below %s", c.install.bin, cache)
		}
		if got := queryText(t, c.url("postgres"), "SELECT 'works'"); got != "works" {
			t.Errorf("got %q", got)
		}
	}
	if requests.Load() != 2 || len(notices) != 1 || !strings.Contains(notices[0], url[:len(url)-1]) {
		t.Errorf("%d requests, notices %q; want one download of two files and one line that names the mirror", requests.Load(), notices)
	}
	left, err := filepath.Glob(filepath.Join(cache, "fetch-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestFetchFailureIsOneSentence(t *testing.T) {
	t.Parallel()
	archive := postgresArchive(t)
	badSum, _ := mirror(t, archive, strings.Repeat("0", 64))
	empty, _ := mirror(t, nil, "")
	notZip, _ := mirror(t, []byte("<html>log in first</html>"), "")
	tests := []struct{ name, mirror, want string }{
		{"nobody there", "http://127.0.0.1:9", "unable to connect to http://127.0.0.1:9"},
		{"not found", empty, "no version found matching"},
		{"wrong checksum", badSum, "downloaded checksums do not match"},
		{"something else", notZip, "checksums do not match"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			cache := filepath.Join(dir, "cache")
			opts := testCluster(t, dir)
			opts.Finder, opts.CacheDir = withoutPostgres(), cache
			opts.Getenv = environment(map[string]string{envPostgresMirror: test.mirror})
			_, err := newCluster(t.Context(), opts)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{
				"found no Postgres programs on this machine (looked at ACTCORE_DEV_PG_BIN, pg_config --bindir, /usr/lib/postgresql/",
				test.want, installHint(), "set ACTCORE_DEV_PG_BIN", "or ACTCORE_DEV_PG_MIRROR",
			} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want it to contain %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
			assertEmpty(t, cache)
		})
	}
}

func TestFetchIsInterrupted(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-release
	}))
	defer server.Close()
	defer close(release)
	dir := tempDir(t)
	opts := testCluster(t, dir)
	opts.Finder, opts.CacheDir = withoutPostgres(), filepath.Join(dir, "cache")
	opts.Getenv = environment(map[string]string{envPostgresMirror: server.URL})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	began := time.Now()
	if _, err := newCluster(ctx, opts); err == nil || time.Since(began) > 10*time.Second {
		t.Fatalf("error %v after %s, want one soon", err, time.Since(began))
	}
}
