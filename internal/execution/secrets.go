package execution

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// secretVariable begins the names of the environment variables that hold secrets.
const secretVariable = "ACTCORE_SECRET_"

// Limits on a secret's value. What is shorter cannot be told from other text, and so could not be removed from it.
const (
	minSecret = 4
	maxSecret = 64 << 10
)

// redacted stands where a secret was.
const redacted = "***"

var secretName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,62}$`)

// Secrets are what expressions read as secrets.NAME: the environment variable ACTCORE_SECRET_<NAME>, or else the file <NAME>
// in a folder. A file is read at each use, so that it may be replaced while the worker runs. They know which values were
// handed out, and remove these from what is shown. All methods are safe for concurrent use.
type Secrets struct {
	getenv func(string) string
	dir    string

	mu       sync.Mutex
	values   map[string]bool // all that were handed out, also earlier ones of the same name
	patterns []string        // the values in all their forms
	replacer atomic.Pointer[strings.Replacer]
}

// NewSecrets makes Secrets of an environment and a folder; dir is "" when there is none.
func NewSecrets(getenv func(string) string, dir string) *Secrets {
	return &Secrets{getenv: getenv, dir: dir, values: map[string]bool{}}
}

// Check fails when one of the secrets cannot be used, and says which and why. The error is for the user, who has to mend the
// worker's environment or the definition: no retry will. It never holds a value.
func (s *Secrets) Check(names []string) error {
	for _, name := range names {
		if _, err := s.get(name); err != nil {
			return permanently("secrets.%s %s", name, err)
		}
	}
	return nil
}

// Lookup returns the value of a secret, and from then on removes it from what is shown. False: Check says why.
func (s *Secrets) Lookup(name string) (string, bool) {
	value, err := s.get(name)
	return value, err == nil
}

func (s *Secrets) get(name string) (string, error) {
	if !secretName.MatchString(name) {
		return "", errors.New("is not the name of a secret: these consist of A-Z, 0-9 and _, at most 63, and begin with a letter")
	}
	where := "the environment variable " + secretVariable + name
	value := s.getenv(secretVariable + name)
	if value == "" && s.dir != "" {
		path := filepath.Join(s.dir, name)
		text, err := readSecret(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("is not known to the worker: there is neither %s nor the file %s", where, path)
		case err != nil:
			return "", fmt.Errorf("cannot be read from the file %s: %w", path, err)
		}
		where, value = "the file "+path, text
	}
	switch {
	case value == "" && s.dir == "":
		return "", fmt.Errorf("is not known to the worker: there is no environment variable %s, and no folder of secrets "+
			"(ACTCORE_SECRETS_DIR)", secretVariable+name)
	case len(value) < minSecret:
		return "", fmt.Errorf("is too short: a secret has at least %d bytes, for it could not be removed from outputs and logs "+
			"otherwise (%s)", minSecret, where)
	case len(value) > maxSecret:
		return "", fmt.Errorf("is larger than %d KiB (%s)", maxSecret>>10, where)
	case !utf8.ValidString(value):
		return "", fmt.Errorf("is not text in UTF-8 (%s)", where)
	}
	s.remember(value)
	return value, nil
}

// readSecret reads a file without the line end that editors and echo put behind its text.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a file")
	}
	if err != nil {
		return "", bareFileError(err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", bareFileError(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+3))
	if err != nil {
		return "", bareFileError(err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
}

// bareFileError leaves out the path.
func bareFileError(err error) error {
	var withPath *fs.PathError
	if errors.As(err, &withPath) {
		return withPath.Err
	}
	return err
}

func (s *Secrets) remember(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values[value] {
		return
	}
	s.values[value] = true
	s.patterns = append(s.patterns, spellings(value)...)
	// At one place the first pattern that fits is taken.
	slices.SortFunc(s.patterns, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	s.patterns = slices.Compact(s.patterns)
	pairs := make([]string, 0, 2*len(s.patterns))
	for _, p := range s.patterns {
		pairs = append(pairs, p, redacted)
	}
	s.replacer.Store(strings.NewReplacer(pairs...))
}

// Redact puts *** in the place of every secret that was handed out, however it is spelled: as it is, or escaped for JSON, URLs
// or HTML, or in base64 or hexadecimal, also with other text before and after it. JSON stays JSON. The data is not changed.
func (s *Secrets) Redact(data []byte) []byte {
	r := s.replacer.Load()
	if r == nil || len(data) == 0 {
		return data
	}
	return redact(data, r)
}

func redact(data []byte, r *strings.Replacer) []byte {
	if !json.Valid(data) {
		return []byte(r.Replace(string(data)))
	}
	if clean, err := redactJSON(data, r); err == nil {
		data = clean
	}
	text := string(data)
	clean := r.Replace(text)
	if clean == text {
		return data
	}
	if !json.Valid([]byte(clean)) {
		// The secret is JSON itself. What is left of the text is shown as such.
		quoted, err := plainJSON(clean)
		if err != nil {
			quoted = []byte(`"` + redacted + `"`)
		}
		return quoted
	}
	return []byte(clean)
}

// RedactBeginning is Redact for data that was cut: it may end in the beginning of a secret.
func (s *Secrets) RedactBeginning(data []byte) []byte {
	s.mu.Lock()
	patterns := slices.Clone(s.patterns)
	s.mu.Unlock()
	cut := 0
	for _, p := range patterns {
		for n := min(len(p)-1, len(data)); n > cut && n >= minSecret; n-- {
			if string(data[len(data)-n:]) == p[:n] {
				cut = n
			}
		}
	}
	if cut > 0 {
		data = append(slices.Clone(data[:len(data)-cut]), redacted...)
	}
	return s.Redact(data)
}

// redactJSON looks into the texts of a JSON value, which may be escaped in any way and be JSON themselves, and at its numbers.
func redactJSON(data []byte, r *strings.Replacer) ([]byte, error) {
	loose := []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}
	in := jsontext.NewDecoder(bytes.NewBuffer(data), loose...)
	var out bytes.Buffer
	enc := jsontext.NewEncoder(&out, loose...)
	changed := false
	for {
		token, err := in.ReadToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if kind := token.Kind(); kind == '"' || kind == '0' {
			text := token.String()
			if clean := redactText(text, r); clean != text {
				token, changed = jsontext.String(clean), true
			}
		}
		if err := enc.WriteToken(token); err != nil {
			return nil, err
		}
	}
	if !changed {
		return data, nil
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// redactText is redact for a text or number within JSON.
func redactText(text string, r *strings.Replacer) string {
	if strings.IndexByte(text, '\\') < 0 {
		return r.Replace(text)
	}
	return string(redact([]byte(text), r))
}

// spellings returns the ways in which a value may come back from where it was sent to: escaped or encoded once, or after it was
// escaped for JSON.
func spellings(value string) []string {
	var out []string
	for _, text := range append(inJSON(value), value, strings.Join(strings.Fields(value), " ")) { // errors are made one line
		out = append(out, text, html.EscapeString(text))
		out = append(out, inJSON(text)...)
		out = append(out, inURL(text)...)
		for _, quoted := range []string{strconv.Quote(text), strconv.QuoteToASCII(text)} {
			out = append(out, quoted[1:len(quoted)-1])
		}
		lower := hex.EncodeToString([]byte(text))
		out = append(out, lower, strings.ToUpper(lower))
		out = append(out, inBase64(text, base64.RawStdEncoding)...)
		out = append(out, inBase64(text, base64.RawURLEncoding)...)
	}
	return slices.DeleteFunc(out, func(text string) bool { return len(text) < minSecret })
}

var lowerPercent = regexp.MustCompile(`%[0-9A-F]{2}`)

// inURL returns what a text is in a query or a path, escaped by the rules of Go, of forms and of JavaScript.
func inURL(text string) []string {
	query := url.QueryEscape(text)
	percent := strings.ReplaceAll(query, "+", "%20")
	script := strings.NewReplacer("%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*").Replace(percent)
	out := []string{query, percent, script, url.PathEscape(text)}
	for _, escaped := range out {
		out = append(out, lowerPercent.ReplaceAllStringFunc(escaped, strings.ToLower))
	}
	return out
}

// inBase64 returns what a text is in base64, by itself and within a longer text, as in Basic credentials: there it begins at one
// of three places of a group, and shares its first and last character with what is beside it.
func inBase64(text string, encoding *base64.Encoding) []string {
	out := []string{encoding.EncodeToString([]byte(text))}
	for before := range 3 {
		whole := encoding.EncodeToString(append(make([]byte, before), text...))
		from, to := (before*8+5)/6, (before+len(text))*8/6
		out = append(out, whole[from:to])
	}
	return out
}

// inJSON returns the inside of a text's JSON string, in the three ways in which it is commonly written: with few escapes, and
// with some more for the sake of HTML.
func inJSON(text string) []string {
	few, err := plainJSON(text)
	if err != nil {
		return nil
	}
	more, err := json.Marshal(text)
	if err != nil {
		return nil
	}
	inside := string(few[1 : len(few)-1])
	return []string{inside, strings.ReplaceAll(inside, "/", `\/`), string(more[1 : len(more)-1])}
}
