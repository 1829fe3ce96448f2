package lifecycle

import (
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"

	"github.com/activity-core/activity-core/internal/config"
)

// NewLogger writes JSON or text lines to w, from cfg.Level up, with the
// passwords of URLs replaced by xxxxx wherever they occur in a message, a
// string, an error or a printable value.
func NewLogger(cfg config.Log, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Level, ReplaceAttr: redactAttr}
	if cfg.JSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

var (
	// urlPassword matches the password in scheme://user:password@host. A
	// password may hold an @ that nobody encoded; it ends at the last one.
	urlPassword = regexp.MustCompile(`(://[^:/?#\s@"',]*:)[^/?#\s"',]*@`)
	// dsnPassword matches the other way to write a Postgres address.
	dsnPassword = regexp.MustCompile(`(?i)\b((?:ssl)?password=)[^\s&"']+`)
)

// Redact replaces the passwords of URLs and connection strings by xxxxx.
func Redact(text string) string {
	text = urlPassword.ReplaceAllString(text, "${1}xxxxx@")
	return dsnPassword.ReplaceAllString(text, "${1}xxxxx")
}

func redactAttr(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case *url.URL: // String would be fine, but JSON shows the fields
			if v != nil {
				a.Value = slog.StringValue(v.Redacted())
			}
			return a
		case error, fmt.Stringer:
			// slog's own formatting survives values that panic (a nil pointer
			// with a String method, for example).
			text = fmt.Sprint(v)
		case []string:
			text = fmt.Sprint(v)
		default:
			return a
		}
	default:
		return a
	}
	if clean := Redact(text); clean != text {
		a.Value = slog.StringValue(clean)
	}
	return a
}
