package execution

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// testSecrets are secrets from variables alone.
func testSecrets(values map[string]string) *Secrets {
	return NewSecrets(func(name string) string { return values[strings.TrimPrefix(name, secretVariable)] }, "")
}

func TestSecretsFromVariablesAndFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("TOKEN", "from a file\n")
	write("WINDOWS", "from a file\r\n")
	write("BOTH", "from a file")
	write("LINES", "two\nlines\n\n")
	write("LARGEST", strings.Repeat("x", maxSecret)+"\n")
	write("TOO_LARGE", strings.Repeat("x", maxSecret+1))
	write("SHORT", "abc\n")
	write("BINARY", "ab\xffcd")
	write("EMPTY", "")
	write("lower", "from a file")
	if err := os.Mkdir(filepath.Join(dir, "FOLDER"), 0o700); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{
		"ACTCORE_SECRET_BOTH": "from a variable", "ACTCORE_SECRET_ONLY": "from a variable\n", "ACTCORE_SECRET_TINY": "abc", "TOKEN2": "no",
	}
	s := NewSecrets(func(name string) string { return vars[name] }, dir)
	for name, want := range map[string]string{
		"TOKEN": "from a file", "WINDOWS": "from a file", "BOTH": "from a variable", "ONLY": "from a variable\n", "LINES": "two\nlines\n",
		"LARGEST": strings.Repeat("x", maxSecret),
	} {
		if got, ok := s.Lookup(name); !ok || got != want {
			t.Errorf("%s is %q, %v; want %q", name, got, ok, want)
		}
		if err := s.Check([]string{name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"UNKNOWN": "secrets.UNKNOWN is not known to the worker: there is neither the environment variable ACTCORE_SECRET_UNKNOWN nor the file " +
			filepath.Join(dir, "UNKNOWN"),
		"TOO_LARGE": "secrets.TOO_LARGE is larger than 64 KiB (the file " + filepath.Join(dir, "TOO_LARGE") + ")",
		"SHORT": "secrets.SHORT is too short: a secret has at least 4 bytes, for it could not be removed from outputs and logs otherwise " +
			"(the file " + filepath.Join(dir, "SHORT") + ")",
		"EMPTY": "secrets.EMPTY is too short: a secret has at least 4 bytes, for it could not be removed from outputs and logs otherwise " +
			"(the file " + filepath.Join(dir, "EMPTY") + ")",
		"TINY": "secrets.TINY is too short: a secret has at least 4 bytes, for it could not be removed from outputs and logs otherwise " +
			"(the environment variable ACTCORE_SECRET_TINY)",
		"BINARY":   "secrets.BINARY is not text in UTF-8 (the file " + filepath.Join(dir, "BINARY") + ")",
		"FOLDER":   "secrets.FOLDER cannot be read from the file " + filepath.Join(dir, "FOLDER") + ": it is not a file",
		"lower":    "secrets.lower is not the name of a secret: these consist of A-Z, 0-9 and _, at most 63, and begin with a letter",
		"../TOKEN": "secrets.../TOKEN is not the name of a secret: these consist of A-Z, 0-9 and _, at most 63, and begin with a letter",
	} {
		if value, ok := s.Lookup(name); ok {
			t.Errorf("%s has the value %q", name, value)
		}
		if err := s.Check([]string{"TOKEN", name}); err == nil || err.Error() != want || !isPermanent(err) {
			t.Errorf("%s: %v, want %q for good", name, err, want)
		}
	}
	if err := NewSecrets(func(string) string { return "" }, "").Check([]string{"UNKNOWN"}); err == nil ||
		err.Error() != "secrets.UNKNOWN is not known to the worker: there is no environment variable ACTCORE_SECRET_UNKNOWN, and "+
			"no folder of secrets (ACTCORE_SECRETS_DIR)" {
		t.Errorf("without a folder: %v", err)
	}
}

// Kubernetes mounts a secret as links to links, and replaces the folder behind them.
func TestSecretsAreRotated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mount := func(version, value string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, version, "TOKEN"), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(version, filepath.Join(dir, "..new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..1", "first value")
	if err := os.Symlink(filepath.Join("..data", "TOKEN"), filepath.Join(dir, "TOKEN")); err != nil {
		t.Fatal(err)
	}
	s := NewSecrets(func(string) string { return "" }, dir)
	if got, ok := s.Lookup("TOKEN"); !ok || got != "first value" {
		t.Fatalf("%q, %v", got, ok)
	}
	mount("..2", "second value")
	if got, ok := s.Lookup("TOKEN"); !ok || got != "second value" {
		t.Fatalf("%q, %v", got, ok)
	}
	if got := string(s.Redact([]byte("first value, second value"))); got != "***, ***" {
		t.Errorf("%q", got)
	}
}

// encodeURIComponent is JavaScript's way.
func encodeURIComponent(text string) string {
	return strings.NewReplacer("+", "%20", "%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*").Replace(url.QueryEscape(text))
}

func TestRedact(t *testing.T) {
	t.Parallel()
	quoted := func(text string) string {
		data, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, value := range []string{
		"0123456789abcdef", "hunter2", "abcd", `a"b\c/d<e>&f`, "päss wörd+%!'()*~", "-----BEGIN KEY-----\nMIIE\nvQIB\n-----END KEY-----",
		`{"type":"account","key":"-----\n"}`, "12345678", "\"quotes\"", "世界世界",
	} {
		s := testSecrets(map[string]string{"A": value})
		if _, ok := s.Lookup("A"); !ok {
			t.Fatalf("%q is refused", value)
		}
		std, raw := base64.StdEncoding, base64.RawURLEncoding
		for name, text := range map[string]string{
			"plain": value, "one line": strings.Join(strings.Fields(value), " "), "json": quoted(value), "json twice": quoted(quoted(value)),
			"slashes": strings.ReplaceAll(inJSON(value)[0], "/", `\/`),
			"query":   url.QueryEscape(value), "path": url.PathEscape(value), "javascript": encodeURIComponent(value),
			"lower query": lowerPercent.ReplaceAllStringFunc(url.QueryEscape(value), strings.ToLower),
			"html":        html.EscapeString(value), "go": strconv.Quote(value), "go ascii": strconv.QuoteToASCII(value),
			"base64": std.EncodeToString([]byte(value)), "base64 url": raw.EncodeToString([]byte(value)),
			"hex": hex.EncodeToString([]byte(value)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(value))),
		} {
			for around, line := range map[string]string{
				"alone": text, "in text": "before " + text + " after", "in json": `{"a": [1, ` + quoted(text) + `]}`,
				"twice": text + text, "a name": `{` + quoted("x"+text+"x") + `: 1}`,
			} {
				got := string(s.Redact([]byte(line)))
				if strings.Contains(got, text) || !strings.Contains(got, redacted) {
					t.Errorf("%q as %s, %s: %q is left of %q", value, name, around, got, line)
				}
				if json.Valid([]byte(line)) && !json.Valid([]byte(got)) {
					t.Errorf("%q as %s, %s: %s is no JSON any more", value, name, around, got)
				}
			}
		}
		// Where the text is JSON, every character may be escaped.
		for name, line := range map[string]string{
			"alone": `"x` + escapeAll(value) + `"`, "in json": `[{"a":"` + escapeAll(value) + `"}]`,
			"json twice": quoted(`{"a":"` + escapeAll(value) + `"}`), "a name": `{"` + escapeAll(value) + `":null}`,
		} {
			got := string(s.Redact([]byte(line)))
			if strings.Contains(got, escapeAll(value)[:12]) || !strings.Contains(got, redacted) || !json.Valid([]byte(got)) {
				t.Errorf("%q with every character escaped, %s: %q is left of %q", value, name, got, line)
			}
		}
		// Basic credentials: what is before and after shifts the value against the groups of base64.
		for _, user := range []string{"u", "us", "use", "user"} {
			for _, encoding := range []*base64.Encoding{std, raw} {
				basic := encoding.EncodeToString([]byte(user + ":" + value + "!"))
				got := string(s.Redact([]byte("Basic " + basic)))
				rest := strings.Replace(strings.TrimPrefix(got, "Basic "), redacted, "", 1)
				if decoded := len(rest) - len(basic); decoded == 0 || len(rest) > base64.StdEncoding.EncodedLen(len(user)+2)+6 {
					t.Errorf("%q as credentials of %s: %q is left", value, user, got)
				}
			}
		}
	}
}

// escapeAll writes every character as \uXXXX.
func escapeAll(text string) string {
	var b strings.Builder
	for _, c := range text {
		fmt.Fprintf(&b, `\u%04X`, c)
	}
	return b.String()
}

func TestRedactLeavesTheRest(t *testing.T) {
	t.Parallel()
	s := testSecrets(map[string]string{"A": "hunter2", "B": "hunter2-and-more", "N": "8015", "J": `{"k":1}`})
	for _, before := range []string{"hunter2", `{"a":"hunter2"}`} {
		if got := string(s.Redact([]byte(before))); got != before {
			t.Errorf("before it was used: %q", got)
		}
	}
	for _, name := range []string{"A", "B", "N", "J"} {
		s.Lookup(name)
	}
	for text, want := range map[string]string{
		"":                                 "",
		"nothing":                          "nothing",
		"hunter":                           "hunter",
		"hunter2-and-more":                 "***",
		"hunter2-and-less":                 "***-and-less",
		` { "n": 1.0, "s": "<\u00e9\/" } `: ` { "n": 1.0, "s": "<\u00e9\/" } `,
		`{"a":"hunter2","n":1e400}`:        `{"a":"***","n":1e400}`,
		`{"a":1,"a":"hunter2"}`:            `{"a":1,"a":"***"}`,
		`{"n":8015}`:                       `{"n":"***"}`,
		`{"n":80150}`:                      `{"n":"***0"}`,
		`{"echo":{"k":1}}`:                 `"{\"echo\":***}"`,
		`"\u0068unter2"`:                   `"***"`,
		"bad \xff hunter2":                 "bad \xff ***",
	} {
		if got := string(s.Redact([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestRedactBeginning(t *testing.T) {
	t.Parallel()
	s := testSecrets(map[string]string{"A": "hunter2-and-more"})
	s.Lookup("A")
	for text, want := range map[string]string{
		"a hunter2-and-mor":  "a ***",
		"a hunt":             "a ***",
		"a hun":              "a hun",
		"a hunter2-and-more": "a ***",
		"hunter2-and-more b": "*** b",
		"aHVudGVyMi1hb":      "***",
		"":                   "",
	} {
		if got := string(s.RedactBeginning([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func BenchmarkRedact(b *testing.B) {
	values := map[string]string{}
	for i := range 100 {
		values[fmt.Sprintf("S%d", i)] = fmt.Sprintf("secret-%d-%x", i, i*7919)
	}
	s := testSecrets(values)
	for name := range values {
		s.Lookup(name)
	}
	data, err := json.Marshal(strings.Repeat("what a server may answer, ", 1<<20/26))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		s.Redact(data)
	}
}
