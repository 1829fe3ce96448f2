package migrations

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

func TestFilesAreComplete(t *testing.T) {
	t.Parallel()
	all, err := read(FS)
	if err != nil {
		t.Fatal(err)
	}
	if got := Latest(); got != uint(len(all)) || got != all[len(all)-1].Number {
		t.Errorf("Latest = %d, want %d", got, len(all))
	}
}

// TestFilesAreOneTransaction looks for what would break "a file and its note
// are one transaction".
func TestFilesAreOneTransaction(t *testing.T) {
	t.Parallel()
	forbidden := regexp.MustCompile(`(?im)^\s*(BEGIN|START\s+TRANSACTION|COMMIT|END|ROLLBACK|VACUUM|CREATE\s+DATABASE)\s*;|\bCONCURRENTLY\b`)
	entries, err := fs.Glob(FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := fs.ReadFile(FS, entry)
		if err != nil {
			t.Fatal(err)
		}
		// The bodies of functions may say BEGIN and END.
		plain := regexp.MustCompile(`(?s)\$(\w*)\$.*?\$\w*\$`).ReplaceAllString(string(text), "")
		if found := forbidden.FindString(plain); found != "" {
			t.Errorf("%s holds %q, which cannot be part of one transaction", entry, strings.TrimSpace(found))
		}
	}
}

func TestReadRefusesIncompleteFolders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		files string
		err   string
	}{
		{"000001_a.up.sql 000001_a.down.sql 000002_b.up.sql 000002_b.down.sql", ""},
		{"", "0 files for 0 revisions"},
		{"000001_a.up.sql", "needs exactly one up and one down"},
		{"000001_a.down.sql", "1 files for 1 revisions"},
		{"000001_a.up.sql 000001_a.down.sql 000003_b.up.sql 000003_b.down.sql", "want the files of revision 2 here"},
		{"000002_a.up.sql 000002_a.down.sql", "want the files of revision 1 here"},
		{"000001_a.up.sql 000001_a.down.sql 000001_b.up.sql 000001_b.down.sql", "want the files of revision 2 here"},
		{"000001_a.up.sql 000001_b.down.sql", "needs exactly one up and one down"},
		{"1_a.up.sql 1_a.down.sql", "the name is not"},
		{"000001_a.sql", "the name is not"},
	} {
		t.Run(c.files, func(t *testing.T) {
			t.Parallel()
			files := fstest.MapFS{}
			for _, name := range strings.Fields(c.files) {
				files[name] = &fstest.MapFile{Data: []byte("SELECT 1;")}
			}
			_, err := read(files)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error = %v, want %q", err, c.err)
			}
		})
	}
}

func TestStep(t *testing.T) {
	t.Parallel()
	first := Revisions()[0].String()
	for _, c := range []struct {
		before, after int
		want          string
	}{
		{-1, 1, "applied " + first},
		{1, -1, "took back " + first},
		{998, 999, "applied revision 999"},
	} {
		if does, revision := step(c.before, c.after); does.done+" "+revision != c.want {
			t.Errorf("step(%d, %d) = %q %q, want %q", c.before, c.after, does.done, revision, c.want)
		}
	}
}
