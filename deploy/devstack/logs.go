package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// console writes whole lines of several sources, each line after the name of its source.
type console struct {
	mu     sync.Mutex
	out    io.Writer
	colour bool
	width  int // of the name column
}

// palette are the ANSI colours given to the sources in turn.
var palette = []string{"36", "33", "35", "32", "34", "96", "93", "95"}

// newConsole writes to out, in colour only when out is a terminal and NO_COLOR is not set.
func newConsole(out io.Writer, getenv func(string) string) *console {
	c := &console{out: out, width: len("sync-schedules")}
	if f, ok := out.(*os.File); ok {
		c.colour = term.IsTerminal(int(f.Fd())) && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
	}
	return c
}

// line writes one line of the devstack's own.
func (c *console) line(format string, args ...any) {
	c.write("devstack", "1", fmt.Sprintf(format, args...))
}

// plain writes text as it is.
func (c *console) plain(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprint(c.out, text)
}

func (c *console) write(name, colour, line string) {
	prefix := fmt.Sprintf("%-*s |", c.width, name)
	if c.colour {
		prefix = "\x1b[" + colour + "m" + prefix + "\x1b[0m"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, "%s %s\n", prefix, line)
}

// source returns the writer for the output of the n-th process.
func (c *console) source(name string, n int) *source {
	return &source{console: c, name: name, colour: palette[n%len(palette)]}
}

// maxLine bounds what is kept of a line that does not end.
const maxLine = 64 << 10

// source splits what a process writes into lines.
type source struct {
	console *console
	name    string
	colour  string

	mu   sync.Mutex
	rest []byte // of an unfinished line
	last string // the last line that was not blank
}

func (s *source) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = append(s.rest, p...)
	for {
		i := bytes.IndexByte(s.rest, '\n')
		if i < 0 && len(s.rest) < maxLine {
			return len(p), nil
		}
		if i < 0 {
			i = len(s.rest) - 1
		}
		s.emit(string(s.rest[:i+1]))
		s.rest = s.rest[i+1:]
	}
}

// flush writes an unfinished line; call it when the process has ended.
func (s *source) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rest) > 0 {
		s.emit(string(s.rest))
		s.rest = nil
	}
}

func (s *source) emit(line string) {
	line = strings.TrimRight(line, "\r\n")
	if strings.TrimSpace(line) != "" {
		s.last = line
	}
	s.console.write(s.name, s.colour, line)
}

// lastLine returns the last line that was not blank.
func (s *source) lastLine() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == "" {
		return "it said nothing"
	}
	return s.last
}
