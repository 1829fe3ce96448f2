package execution

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/egress"
	"github.com/activity-core/activity-core/internal/expression"
)

// Limits of a request. The task's own timeout bounds the whole of it.
const (
	dialTimeout  = 10 * time.Second
	tlsTimeout   = 10 * time.Second
	maxRedirects = 3
	// idlePerHost is how many connections to one host are kept for the next request.
	idlePerHost = 32
)

// requester makes the requests of http tasks, over one pool of connections. It takes no proxy from the environment, and
// connects to nothing that the guard does not allow.
type requester struct {
	client  *http.Client
	secrets *Secrets
}

func newRequester(allow egress.Allow, secrets *Secrets) *requester {
	guard := egress.NewGuard(allow, net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second})
	return &requester{secrets: secrets, client: &http.Client{
		Transport: &http.Transport{
			DialContext:            guard.DialContext,
			TLSHandshakeTimeout:    tlsTimeout,
			ExpectContinueTimeout:  time.Second,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           256,
			MaxIdleConnsPerHost:    idlePerHost,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: checkRedirect,
	}}
}

func (r *requester) close() { r.client.CloseIdleConnections() }

// httpOutput is the output of an http task. Body is the answer's body: the JSON that it is, or else text.
type httpOutput struct {
	Status      int    `json:"status"`
	ContentType string `json:"content_type,omitempty"`
	Body        any    `json:"body,omitempty"`
	// BodyTruncated tells that Body is only the beginning.
	BodyTruncated bool `json:"body_truncated,omitempty"`
}

// httpAnswer is what expressions in the output read as response.
type httpAnswer struct {
	Status int `json:"status"`
	// Headers have their names in lower case, and of several values the first.
	Headers map[string]string `json:"headers"`
	// Body is the JSON that it is, or else text; absent when it was longer than definition.MaxOutput.
	Body any `json:"body,omitempty"`
}

// run makes one request. The header Idempotency-Key is the same for every attempt of the task. An answer of an expected status,
// 200–299 unless the task says otherwise, is a success; 408, 425, 429, 5xx and failures of the network are tried again; all
// else fails for good. Errors name the host alone, for a path or a query may hold a token.
func (r *requester) run(ctx context.Context, work *definition.TaskWork) ([]byte, error) {
	var with definition.HTTPTask
	if err := work.Task.Decode(&with); err != nil {
		return nil, undecodable(err)
	}
	req, err := newRequest(withExpected(ctx, with.ExpectedStatus), work, with)
	if err != nil {
		return nil, err
	}
	target := req.Method + " " + req.URL.Scheme + "://" + req.URL.Host
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, requestFailure(target, err)
	}
	defer resp.Body.Close()

	success := expected(req.Context(), resp.StatusCode)
	body, err := io.ReadAll(io.LimitReader(resp.Body, definition.MaxOutput+1))
	if err != nil && success {
		return nil, fmt.Errorf("%s: the answer %d broke off: %w", target, resp.StatusCode, bareError(err))
	}
	whole := len(body) <= definition.MaxOutput
	// What the server returns of the secrets that it was sent is gone before anything is made of it.
	if whole {
		body = r.secrets.Redact(body)
	} else {
		body = r.secrets.RedactBeginning(body[:definition.MaxOutput])
	}
	if success && work.Output != nil {
		return r.output(ctx, work, resp, body, whole)
	}
	output, err := describe(resp, body, whole)
	if err != nil {
		return nil, fmt.Errorf("%s: describe the answer: %w", target, err)
	}
	if success {
		return output, nil
	}
	kind := fmt.Sprintf("http_%d", resp.StatusCode)
	if !worthRetrying(resp.StatusCode) {
		return output, withKind(kind, permanently("%s: answered %s", target, statusText(resp.StatusCode)))
	}
	err = withKind(kind, fmt.Errorf("%s: answered %s", target, statusText(resp.StatusCode)))
	return output, withDelay(min(retryAfter(resp.Header.Get("Retry-After")), time.Duration(work.Task.Attempts().MaxInterval)), err)
}

// output evaluates the task's own output. The request has been made, and is not made again because this fails.
func (r *requester) output(
	ctx context.Context, work *definition.TaskWork, resp *http.Response, body []byte, whole bool,
) ([]byte, error) {
	values := expression.Values{}
	if work.Values != nil {
		values = *work.Values
	}
	values.Secret = nil // the output is stored
	answer := httpAnswer{Status: resp.StatusCode, Headers: make(map[string]string, len(resp.Header))}
	for name := range resp.Header {
		answer.Headers[strings.ToLower(name)] = string(r.secrets.Redact([]byte(resp.Header.Get(name))))
	}
	switch {
	case whole && json.Valid(body):
		answer.Body = json.RawMessage(body)
	case whole:
		answer.Body = strings.ToValidUTF8(string(body), "\uFFFD")
	}
	var err error
	if values.Response, err = plainJSON(answer); err != nil {
		return nil, permanently("describe the answer: %s", err)
	}
	output, err := work.Output.Render(ctx, &values)
	var wrong *expression.EvalError
	if errors.As(err, &wrong) {
		text := fmt.Sprintf("the request was answered %s, but the output cannot be made of that: %s", statusText(resp.StatusCode), wrong)
		if !whole {
			text += fmt.Sprintf(" (the answer's body has more than %d KiB, so it is not there to be read)", definition.MaxOutput>>10)
		}
		return nil, withKind(string(definition.ReasonExpression), permanently("%s", text))
	}
	return output, err
}

func newRequest(ctx context.Context, work *definition.TaskWork, with definition.HTTPTask) (*http.Request, error) {
	method := with.Method
	if method == "" {
		method = http.MethodPost
	}
	body, contentType := []byte(with.Body), "application/json"
	switch {
	case with.RawBody != nil:
		body, contentType = []byte(*with.RawBody), "text/plain; charset=utf-8"
	case body == nil && method != http.MethodGet && method != http.MethodHead && method != http.MethodDelete:
		var err error
		if body, err = contextJSON(&work.Run); err != nil {
			return nil, err
		}
	}
	target, err := parseTarget(with.URL, with.Query)
	if err != nil {
		return nil, err
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return nil, permanently("the task's url or method is not legal")
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("User-Agent", "activity-core")
	req.Header.Set(headerIdempotencyKey, idempotencyKey(work))
	if parent := traceparent(work.Run.TraceID); parent != "" {
		req.Header.Set(headerTraceparent, parent)
	}
	for name, value := range with.Headers {
		if !legalHeader(value) {
			return nil, permanently("the value of the header %s holds a line end or another control character", name)
		}
		if strings.EqualFold(name, "Host") {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	return req, nil
}

// parseTarget checks a URL once its expressions have their values, and puts the query behind what it has. Errors do not show
// it, for it may hold a secret.
func parseTarget(text string, query map[string]string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		return "", permanently("the task's url is not an absolute http or https URL, as in https://example.com/hook")
	case u.User != nil:
		return "", permanently("the task's url holds a user name or a password: send the header Authorization instead")
	}
	u.RawQuery = escapeRest(u.RawQuery)
	if len(query) > 0 {
		more := make(url.Values, len(query))
		for name, value := range query {
			more.Set(name, value)
		}
		if u.RawQuery != "" {
			u.RawQuery += "&"
		}
		u.RawQuery += more.Encode()
	}
	return u.String(), nil
}

// escapeRest escapes in a query what no request line may hold; a value put in by an expression is not escaped yet.
func escapeRest(query string) string {
	var b strings.Builder
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// legalHeader reports whether a text may be the value of a header.
func legalHeader(value string) bool {
	return !strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// traceparent carries a run's trace on to whom a task calls, with a span of its own; "" when the run has no trace id of W3C's.
func traceparent(traceID string) string {
	var span [8]byte
	_, _ = rand.Read(span[:]) // it never fails
	parent := fmt.Sprintf("00-%s-%x-01", traceID, span)
	if definition.TraceID(parent) == "" {
		return ""
	}
	return parent
}

const (
	headerIdempotencyKey = "Idempotency-Key"
	headerTraceparent    = "traceparent"
)

// expectedKey is the key of the context's value that holds the statuses that are a success; none: 200–299.
type expectedKey struct{}

func withExpected(ctx context.Context, statuses []int) context.Context {
	return context.WithValue(ctx, expectedKey{}, statuses)
}

func expected(ctx context.Context, status int) bool {
	statuses, _ := ctx.Value(expectedKey{}).([]int)
	if len(statuses) == 0 {
		return status >= 200 && status <= 299
	}
	return slices.Contains(statuses, status)
}

// retryAfter reads the header Retry-After, a number of seconds or a time; 0 when it says nothing.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(seconds, 0), 1<<20)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// errRedirect is a refusal to follow a redirect.
type errRedirect struct{ text string }

func (e *errRedirect) Error() string { return e.text }

// checkRedirect follows up to three redirects, never from https to http. Another host does not get the headers that the
// definition gives, for they may be credentials that were meant for the first. A redirect that is expected is the answer.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	if expected(req.Context(), req.Response.StatusCode) {
		return http.ErrUseLastResponse
	}
	if len(via) > maxRedirects {
		return &errRedirect{fmt.Sprintf("redirected more than %d times", maxRedirects)}
	}
	if last := via[len(via)-1]; last.URL.Scheme == "https" && req.URL.Scheme != "https" {
		return &errRedirect{"redirected from https to http"}
	}
	req.Header.Del("Referer")
	if req.URL.Host == first.URL.Host {
		return nil
	}
	for name := range req.Header {
		switch name {
		case "Content-Type", "User-Agent", headerIdempotencyKey:
		default:
			req.Header.Del(name)
		}
	}
	return nil
}

func requestFailure(target string, err error) error {
	var refused *errRedirect
	if errors.As(err, &refused) {
		return permanently("%s: %s", target, refused.text)
	}
	var forbidden *egress.Refusal
	if errors.As(err, &forbidden) {
		return permanently("%s: %s", target, forbidden)
	}
	return fmt.Errorf("%s: %w", target, bareError(err))
}

// bareError leaves out the URL that net/http puts into its errors.
func bareError(err error) error {
	var withURL *url.Error
	if errors.As(err, &withURL) {
		return withURL.Err
	}
	return err
}

func worthRetrying(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

// describe makes the output of a task that has none of its own. It is always whole JSON: a body that is too long, of which only
// the beginning was read or which does not fit, is cut within it.
func describe(resp *http.Response, body []byte, whole bool) ([]byte, error) {
	out := httpOutput{Status: resp.StatusCode, ContentType: resp.Header.Get("Content-Type")}
	if len(out.ContentType) > 200 {
		out.ContentType = ""
	}
	if whole && len(body) > 0 && json.Valid(body) {
		out.Body = json.RawMessage(body)
		if data, err := plainJSON(out); err != nil || len(data) <= definition.MaxOutput {
			return data, err
		}
	}
	out.BodyTruncated = !whole
	for text := strings.ToValidUTF8(string(body), "\uFFFD"); ; out.BodyTruncated = true {
		out.Body = nil
		if text != "" {
			out.Body = text
		}
		data, err := plainJSON(out)
		if err != nil || len(data) <= definition.MaxOutput {
			return data, err
		}
		// Escapes make the JSON up to six times as long as the text; cutting by the excess, and at least by half of an
		// escaped text, ends soon.
		text = strings.ToValidUTF8(text[:max(len(text)-(len(data)-definition.MaxOutput), len(text)/2)], "")
	}
}

// plainJSON leaves <, > and & as they are: the ledger is no web page.
func plainJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}
