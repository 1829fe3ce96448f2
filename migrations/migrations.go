// Package migrations holds the schema's history as numbered SQL files, moves a
// database along it, and tells a service whether its database is new enough.
//
// Each revision is a pair of files, NNNNNN_name.up.sql and
// NNNNNN_name.down.sql, numbered from 1 without a gap. Migrations are additive:
// binaries of two versions share one schema during a rollout, so a schema newer
// than a binary knows is fine.
//
// A file and the note that it was applied are one transaction. A migration that
// fails or is killed therefore leaves nothing behind, and running it again is
// always the right answer. For that, a file must not hold BEGIN, COMMIT or a
// statement that cannot run inside a transaction.
package migrations

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
)

// FS holds the files.
//
//go:embed *.sql
var FS embed.FS

// Revision is one step of the schema.
type Revision struct {
	// Number counts from 1.
	Number uint
	// Name is the words of the file name.
	Name string
}

// String is the file name without its ending, such as 000002_runs.
func (r Revision) String() string { return fmt.Sprintf("%06d_%s", r.Number, r.Name) }

// revisions is read once: the files cannot change after the build.
var revisions = mustRead(FS)

// Revisions lists all revisions, oldest first.
func Revisions() []Revision { return slices.Clone(revisions) }

// Latest is the number of the newest revision.
func Latest() uint { return uint(len(revisions)) }

var fileRule = regexp.MustCompile(`^([0-9]{6})_([a-z0-9_]+)\.(up|down)\.sql$`)

// read lists the revisions of a folder and refuses one with a file missing, a
// gap, a number used twice or a name that is not of our form.
func read(files fs.FS) ([]Revision, error) {
	entries, err := fs.Glob(files, "*.sql") // sorted: down before up, number by number
	if err != nil {
		return nil, err
	}
	var out []Revision
	for i, entry := range entries {
		m := fileRule.FindStringSubmatch(entry)
		if m == nil {
			return nil, fmt.Errorf("%s: the name is not NNNNNN_name.up.sql or NNNNNN_name.down.sql", entry)
		}
		number, err := strconv.ParseUint(m[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry, err)
		}
		revision := Revision{Number: uint(number), Name: m[2]}
		if want := uint(i/2 + 1); revision.Number != want {
			return nil, fmt.Errorf("%s: want the files of revision %d here: each number from 1 on needs one up and one down", entry, want)
		}
		switch down := i%2 == 0; {
		case down && m[3] == "down":
			out = append(out, revision)
		case !down && m[3] == "up" && revision == out[len(out)-1]:
		default:
			return nil, fmt.Errorf("%s: revision %d needs exactly one up and one down file of the same name", entry, revision.Number)
		}
	}
	if len(out) == 0 || len(entries)%2 != 0 {
		return nil, fmt.Errorf("%d files for %d revisions", len(entries), len(out))
	}
	return out, nil
}

// mustRead may panic: the files are part of the program, and a test reads them.
func mustRead(files fs.FS) []Revision {
	out, err := read(files)
	if err != nil {
		panic("migrations: " + err.Error())
	}
	return out
}
