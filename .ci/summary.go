// Command summary reads the output of `go test -json`, mixed with whatever else
// the build says, and prints what a person wants to see: the line of each
// package as it ends, the output of each test that failed, and last the line
//
//	N passed, N failed
//
// Every test and subtest counts once. A package that fails without a failed test
// of its own (it did not build, it timed out, it panicked) counts as one failure.
// So does a failed lint, given by -lint, and a `make test` that failed before any
// test did, known by the line "make test ended with code N".
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is a line of `go test -json`; `go doc test2json` describes it.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output, instead of Package
	Test       string
	Output     string
}

type testName struct{ pkg, test string }

type summary struct {
	out             io.Writer
	passed, failed  int
	skipped         []testName
	output          map[testName][]string
	failedInPackage map[string]bool
	failures        []string
	testCode        int // of make test; -1 until it is known
}

func main() {
	lint := flag.Int("lint", 0, "exit code of the lint that ran before")
	flag.Parse()
	s := &summary{out: os.Stdout, output: map[testName][]string{}, failedInPackage: map[string]bool{}, testCode: -1}
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	if s.testCode != 0 && s.failed == 0 {
		s.fail("make test")
	}
	if *lint != 0 {
		s.fail("make lint")
	}
	s.print()
	if s.failed > 0 {
		os.Exit(1)
	}
}

func (s *summary) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			s.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *summary) line(line string) {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		if _, err := fmt.Sscanf(line, "make test ended with code %d", &s.testCode); err != nil {
			fmt.Fprint(s.out, line) // make, the stack, the compiler
		}
		return
	}
	name := testName{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "output":
		if e.Test == "" {
			if !isChatter(e.Output) {
				fmt.Fprint(s.out, e.Output)
			}
			return
		}
		if strings.HasPrefix(e.Output, seedPrefix) {
			fmt.Fprint(s.out, e.Output)
		}
		s.output[name] = append(s.output[name], e.Output)
	case "pass", "skip", "fail":
		s.end(name, e.Action)
	}
}

// seedPrefix begins the line that is shown of a test that passed: what the outside oracle compared, and by which seed.
const seedPrefix = "oracle: seed "

// isChatter tells the lines that go test leaves out without -v.
func isChatter(output string) bool {
	return output == "PASS\n" || output == "FAIL\n" || strings.HasPrefix(output, "?   ")
}

func (s *summary) end(name testName, action string) {
	output := s.output[name]
	delete(s.output, name)
	if name.test == "" {
		if action == "fail" && !s.failedInPackage[name.pkg] {
			// The tests that were running are the ones to look at.
			for running, lines := range s.output {
				if running.pkg == name.pkg {
					fmt.Fprint(s.out, strings.Join(lines, ""))
					delete(s.output, running)
				}
			}
			s.fail(name.pkg)
		}
		return
	}
	switch action {
	case "pass":
		s.passed++
	case "skip":
		s.skipped = append(s.skipped, name)
	case "fail":
		fmt.Fprint(s.out, strings.Join(output, ""))
		s.failedInPackage[name.pkg] = true
		s.fail(name.pkg + " " + name.test)
	}
}

func (s *summary) fail(what string) {
	s.failed++
	s.failures = append(s.failures, what)
}

func (s *summary) print() {
	fmt.Fprintln(s.out)
	for _, name := range s.skipped {
		fmt.Fprintf(s.out, "skipped: %s %s\n", name.pkg, name.test)
	}
	for _, what := range s.failures {
		fmt.Fprintf(s.out, "FAILED: %s\n", what)
	}
	fmt.Fprintf(s.out, "%d passed, %d failed\n", s.passed, s.failed)
}
