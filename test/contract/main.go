// Command contract holds the OpenAPI document of this checkout against the one that clients were promised, and accepts it as the new
// promise. docs/decisions/0031-the-contract.md has the rules.
//
//	go run . check                      fails when the document breaks the contract
//	go run . accept                     makes the document the contract, unless it breaks it
//	go run . accept "why it has to be"  the same with what breaks, which is written down in docs/api-breaks.md
//
// It is run in its own folder; `make contract` does that.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	args := append(os.Args[1:], "", "")
	var err error
	switch args[0] {
	case "check":
		err = check("../..")
	case "accept":
		err = accept("../..", args[1], time.Now())
	default:
		err = errors.New(`usage: contract check | contract accept ["reason of what breaks"]`)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "contract:", err)
		os.Exit(1)
	}
}

// The files, from the root of the checkout.
const (
	contractFile = "internal/api/testdata/contract.json"
	currentFile  = "internal/api/testdata/openapi.json"
	breaksFile   = "docs/api-breaks.md"
)

// breaksHead is the beginning of breaksFile.
const breaksHead = `# What broke the contract of the API

Written by ` + "`make contract BREAKING='reason'`" + `, newest last. [Decision 31](decisions/0031-the-contract.md) says what counts as a break.
`

// check fails when the document in root breaks the contract there.
func check(root string) error {
	_, err := compared(root)
	return err
}

// brokenError tells what breaks.
type brokenError struct{ lines []string }

func (e *brokenError) Error() string {
	return fmt.Sprintf("the document breaks what clients rely on:\n  %s\nAdd beside what is there instead of changing it, or, if it has to be, "+
		"accept it with its reason: make contract BREAKING='why'", strings.Join(e.lines, "\n  "))
}

// compared returns the current document, and a brokenError when it breaks the contract.
func compared(root string) ([]byte, error) {
	current, err := os.ReadFile(filepath.Join(root, currentFile))
	if err != nil {
		return nil, err
	}
	contract, err := os.ReadFile(filepath.Join(root, contractFile))
	if err != nil {
		return current, err
	}
	lines, err := breaks(contract, current)
	if err == nil && len(lines) > 0 {
		err = &brokenError{lines}
	}
	return current, err
}

// accept makes the current document the contract. What breaks needs a reason.
func accept(root, reason string, now time.Time) error {
	current, err := compared(root)
	var broken *brokenError
	switch {
	case errors.As(err, &broken) && reason != "":
		if err := note(filepath.Join(root, breaksFile), reason, broken.lines, now); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist) && current != nil: // the first contract
	case err != nil:
		return err
	}
	return os.WriteFile(filepath.Join(root, contractFile), current, 0o644)
}

// note adds to the list of what broke the contract.
func note(file, reason string, lines []string, now time.Time) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte(breaksHead), nil
	}
	if err != nil {
		return err
	}
	text = fmt.Appendf(text, "\n## %s\n\n%s\n\n- %s\n", now.UTC().Format(time.DateOnly), reason, strings.Join(lines, "\n- "))
	return os.WriteFile(file, text, 0o644)
}
