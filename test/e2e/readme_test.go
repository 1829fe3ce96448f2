package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/config"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

const asksWhoCalls = "needs an API that asks who calls: TestAccess does the same"

// notRun are the beginnings of commands, and of blocks without any, that TestREADME leaves out, each with its reason.
var notRun = map[string]string{
	" you ───": "a picture",
	"make":     "starts, tests or measures whole systems: the tests run under it, and devstack's tests start what `make dev` starts",
	"docker":   "needs Docker; deploy/composetest reads what it would read",
	"nats":     "needs another program; examples/publish does the same and is run",

	"export ACTCORE_DB_URL":                        asksWhoCalls,
	"export TOKEN":                                 asksWhoCalls,
	"curl -s http://localhost:8010/whoami":         asksWhoCalls,
	"curl -s -X POST http://localhost:8010/tokens": asksWhoCalls,
}

// TestREADME does what the README says: each command is run against a whole system, in their order, and has to succeed and to answer
// what is shown beside it. Ids, times and numbers may differ; members, their order, types, and words may not. A command in the README
// that this test can neither run nor finds in notRun fails it.
//
// Where a command names <id>, <run id> and the like, what the answers before told is tried, what was used last first: the reader knows
// better which one is meant, but not more. <id of greet> is the id of the definition with that name.
func TestREADME(t *testing.T) {
	t.Parallel()
	// The names that the README has: of all tests this one alone uses them.
	s := system.NewOn(t, testenv.Stack(t), testenv.DatabaseURL(t), testenv.Namespace(t), config.Names{
		Stream: definition.DefaultStream, SubjectPrefix: definition.DefaultSubjectPrefix, Durable: definition.DefaultDurable,
		OrchestratorTaskQueue: definition.DefaultOrchestratorTaskQueue, TaskTaskQueue: definition.DefaultTaskTaskQueue,
	})
	t.Cleanup(func() { _ = s.JS.DeleteStream(context.Background(), definition.DefaultStream) })
	s.Command("migrate", "seed")
	s.Start("worker")
	s.Start("event-router")
	s.Start("api")
	// What the README shows of an installation that has been used for a while.
	s.Publish("order.placed", "ce-7", "first", `{"status": "paid"}`)
	s.Publish("order.placed", "ce-7", "second", `{"status": "paid", "amount": 1}`)

	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	r := reader{s: s, known: map[string][]string{}, made: map[string]string{}}
	run := 0
	for _, c := range commandsOf(string(text)) {
		if reason := whyNot(c.line); reason != "" {
			t.Logf("not run (%s): %.80s", reason, c.line)
			continue
		}
		run++
		if err := r.do(t.Context(), c); err != nil {
			t.Errorf("README.md:%d: %s\n%v", c.at, c.line, err)
		}
	}
	t.Logf("%d commands run", run)
	if run < 20 {
		t.Errorf("only %d commands were found", run)
	}
}

func whyNot(line string) string {
	for beginning, reason := range notRun {
		if strings.HasPrefix(line, beginning) {
			return reason
		}
	}
	return ""
}

// command is one of a document, with what is shown of its output.
type command struct {
	at          int // the line in the document
	line, shown string
}

// commandsOf finds the commands of the blocks of code. A prompt begins one; in a block without prompts every line does. A command goes
// on over lines while a quote is open.
func commandsOf(text string) (out []command) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if !strings.HasPrefix(lines[i], "```") {
			continue
		}
		begin := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		block := lines[begin:i]
		prompts := slices.ContainsFunc(block, func(line string) bool { return strings.HasPrefix(line, "$ ") })
		for n := 0; n < len(block); n++ {
			line, begins := strings.CutPrefix(block[n], "$ ")
			switch {
			case prompts && !begins && len(out) > 0:
				out[len(out)-1].shown += block[n] + "\n"
				continue
			case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#"):
				continue
			}
			c := command{at: begin + n + 1, line: line}
			for (strings.Count(c.line, "'")%2 == 1 || strings.HasSuffix(c.line, `\`)) && n+1 < len(block) {
				n++
				c.line += "\n" + block[n]
			}
			out = append(out, c)
			if whyNot(c.line) == "a picture" {
				break
			}
		}
	}
	return out
}

// reader is somebody who follows a document.
type reader struct {
	s     *system.System
	known map[string][]string // ids by kind, the one used last first
	made  map[string]string   // the command that made a definition, by its id
}

var placeholder = regexp.MustCompile(`<([a-z_][-a-z_ ]*)>`)

// do runs a command until it succeeds as shown, with each of the ids that it may mean.
func (r *reader) do(ctx context.Context, c command) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if !strings.HasPrefix(c.line, "curl ") && !strings.HasPrefix(c.line, "go run ./examples/") {
		return fmt.Errorf("this test does not know how to run it: teach it, or list it in notRun with the reason")
	}
	if strings.Contains(c.line, "…") {
		return fmt.Errorf("it is cut, so that nobody can run it: write it out")
	}
	var words []string
	for _, m := range placeholder.FindAllStringSubmatch(c.line, -1) {
		if !slices.Contains(words, m[1]) {
			words = append(words, m[1])
		}
	}
	changes := strings.Contains(c.line, " -X ")
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		for _, line := range r.meant(c.line, words) {
			status, output, err := r.run(ctx, line)
			if ctx.Err() != nil && last != nil {
				return last
			}
			if err != nil {
				last = err
				continue
			}
			if last = r.asShown(ctx, c, status, output); last == nil {
				r.learn(line, output)
				return nil
			}
			last = fmt.Errorf("%s\n%w", line, last)
			if changes && status/100 == 2 && len(words) == 0 {
				return last // once more would be something else
			}
		}
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
		if last == nil {
			return fmt.Errorf("no answer before told a %q", words)
		}
	}
}

// kindOf is what a placeholder stands for.
func kindOf(word string) string {
	if word == "id" {
		return "definition"
	}
	if strings.HasPrefix(word, "id of ") {
		return word
	}
	return strings.TrimSuffix(word, " id")
}

// meant returns the command with each choice of what its placeholders stand for.
func (r *reader) meant(line string, words []string) []string {
	if len(words) == 0 {
		return []string{line}
	}
	var out []string
	for _, id := range r.known[kindOf(words[0])] {
		out = append(out, r.meant(strings.ReplaceAll(line, "<"+words[0]+">", id), words[1:])...)
	}
	return out
}

// run runs a command in a shell and returns the HTTP status, 0 for what is not curl, and the output.
func (r *reader) run(ctx context.Context, line string) (int, string, error) {
	line = strings.ReplaceAll(line, "localhost:8010", r.s.APIAddr)
	cmd := exec.CommandContext(ctx, "sh", "-c", `curl() { command curl -sS -w '%{stderr}%{http_code}' "$@"; }`+"\n"+line)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "NATS_URL="+r.s.Stack.NATSURL)
	var output, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &trouble
	if err := cmd.Run(); err != nil {
		return 0, "", fmt.Errorf("%w: %s", err, trouble.String())
	}
	status, _ := strconv.Atoi(strings.TrimSpace(trouble.String()))
	return status, output.String(), nil
}

// asShown says whether a command did what the document shows: nothing but a success, or an output with all that is shown, in that order.
func (r *reader) asShown(ctx context.Context, c command, status int, output string) error {
	refused := regexp.MustCompile(`"status":[45]\d\d`).MatchString(c.shown)
	switch {
	case status != 0 && (status >= 400) != refused:
		return fmt.Errorf("status %d: %s", status, output)
	case holds(output, c.shown):
		return nil
	}
	mismatch := fmt.Errorf("shown    %s\nanswered %s", c.shown, output)
	// The schedule of a definition may come a moment after the answer, on a machine that is busy.
	var d struct{ ID string }
	if !strings.Contains(output, `"state":"pending"`) || json.Unmarshal([]byte(output), &d) != nil {
		return mismatch
	}
	for ctx.Err() == nil {
		if _, later, err := r.run(ctx, "curl -s http://localhost:8010/activity-definitions/"+d.ID); err == nil && holds(later, c.shown) {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
	return mismatch
}

var eventLine = regexp.MustCompile(`^event (\S+) is message`)

// learn remembers the ids that a command used and told, and makes anew what it deleted, for the commands that follow.
func (r *reader) learn(line, output string) {
	if m := eventLine.FindStringSubmatch(output); m != nil {
		r.first("event", m[1])
	}
	for kind, ids := range r.known {
		for _, id := range ids {
			if strings.Contains(line, id) {
				r.first(kind, id)
				if create := r.made[id]; create != "" && strings.Contains(line, "-X DELETE") {
					r.known[kind] = slices.DeleteFunc(r.known[kind], func(other string) bool { return other == id })
					if _, output, err := r.run(context.Background(), create); err == nil {
						r.learn(create, output)
					}
				}
				break
			}
		}
	}
	var answer map[string]any
	if json.Unmarshal([]byte(output), &answer) != nil {
		return
	}
	if items, ok := answer["items"].([]any); ok {
		for _, item := range slices.Backward(items) { // lists of definitions begin with the oldest
			if object, ok := item.(map[string]any); ok {
				r.note(line, object)
			}
		}
		return
	}
	r.note(line, answer)
}

var pathOf = regexp.MustCompile(`localhost:8010(/[^\s"'?]*)`)

func (r *reader) note(line string, answer map[string]any) {
	id, _ := answer["id"].(string)
	path := pathOf.FindStringSubmatch(line)
	if id == "" || path == nil {
		return
	}
	kind := ""
	switch segments := strings.Split(strings.Trim(path[1], "/"), "/"); {
	case answer["trigger_config"] != nil:
		kind = "definition"
	case answer["occurrence_key"] != nil:
		kind = "run"
	case len(segments) > 0:
		kind = strings.ReplaceAll(strings.TrimSuffix(segments[len(segments)-1], "s"), "-", " ")
	}
	r.first(kind, id)
	if name, _ := answer["name"].(string); kind == "definition" {
		r.first("id of "+name, id)
	}
	if kind == "definition" && strings.Contains(line, "-X POST http://localhost:8010/activity-definitions/ ") {
		r.made[id] = line
	}
}

func (r *reader) first(kind, id string) {
	rest := slices.DeleteFunc(slices.Clone(r.known[kind]), func(other string) bool { return other == id })
	r.known[kind] = append([]string{id}, rest...)
}

// tokens are the parts of JSON and of other output: strings with their quotes, and everything else by words and marks. A line break in
// a string is a space, as documents wrap lines.
var tokens = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|"[^"]*…|…|\w[-\w.]*|\S`)

// free are tokens that differ from one time to the next.
var free = []*regexp.Regexp{
	regexp.MustCompile(`^"?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"?$`),
	regexp.MustCompile(`^"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)"$`),
	regexp.MustCompile(`^-?\d+(\.\d+)?$`),
}

// holds reports whether an output has all that is shown, in that order; … stands for anything.
func holds(output, shown string) bool {
	have := tokens.FindAllString(output, -1)
	for _, part := range parts(shown) {
		at := -1
		for i := 0; i+len(part) <= len(have) && at < 0; i++ {
			if slices.EqualFunc(have[i:i+len(part)], part, sameToken) {
				at = i
			}
		}
		if at < 0 {
			return false
		}
		have = have[at+len(part):]
	}
	return true
}

// parts are the tokens between the gaps of what is shown.
func parts(shown string) (out [][]string) {
	shown = strings.ReplaceAll(strings.TrimSpace(shown), "\n", " ")
	var part []string
	for _, token := range tokens.FindAllString(shown, -1) {
		if token != "…" {
			part = append(part, token)
			continue
		}
		out, part = append(out, part), nil
	}
	return slices.DeleteFunc(append(out, part), func(part []string) bool { return len(part) == 0 })
}

func sameToken(have, shown string) bool {
	if have == shown {
		return true
	}
	for _, pattern := range free {
		if pattern.MatchString(shown) {
			return pattern.MatchString(have)
		}
	}
	// A string that is cut is shown to its gap.
	beginning, _, cut := strings.Cut(shown, "…")
	return cut && strings.HasPrefix(have, strings.TrimRight(beginning, " "))
}

// TestReading checks the reader itself: what it takes for a command, and for the same answer.
func TestReading(t *testing.T) {
	t.Parallel()
	got := fmt.Sprint(commandsOf("text\n```\n$ curl a -d '{\n  \"b\"}'\n{\"c\":1,\n \"d\"}\n$ frobnicate\n```\nmore\n```\nmake dev # x\nmake test\n```\n"))
	if want := "[{3 curl a -d '{\n  \"b\"}' {\"c\":1,\n \"d\"}\n} {7 frobnicate } {11 make dev # x } {12 make test }]"; got != want {
		t.Errorf("commands %s\nwant     %s", got, want)
	}
	r := reader{}
	for _, line := range []string{"frobnicate", "curl http://localhost:8010/ -d '{…}'"} {
		if err := r.do(t.Context(), command{line: line}); err == nil || whyNot(line) != "" {
			t.Errorf("%s: taken", line)
		}
	}
	const answer = `{"id":"01a20ebb-649a-7d8d-bd58-8d37fd1f888f","at":"2026-11-24T18:04:51.7Z","n":3,"on":true,"text":"no such key: who","more":[{"a":null}]}`
	for shown, want := range map[string]bool{
		"": true, answer: true, `{"id":"01a2091c-7722-7204-99cd-bb4ded1d32ab",…,"n":16,…`: true, `{…"text":"no such` + "\n" + `key: who",…`: true,
		`{…"text":"no such…`: true, `{…"more":[{"a":null}]}`: true,
		`{"id":"x",…`: false, `{…"at":"today",…`: false, `{…"n":"3",…`: false, `{…"on":false,…`: false, `{…"text":"no such key: what",…`: false,
		`{…"m":16,…`: false, `{…"on":true,…"n":3,…`: false, `{…"more":[]}`: false, `{"id":"01a2091c-7722-7204-99cd-bb4ded1d32ab","n":3,…`: false,
	} {
		if holds(answer, shown) != want {
			t.Errorf("shown %s: %v", shown, !want)
		}
	}
}
