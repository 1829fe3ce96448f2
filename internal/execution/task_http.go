package execution

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// Limits of a request. The task's own timeout bounds the whole of it.
const (
	dialTimeout  = 10 * time.Second
	tlsTimeout   = 10 * time.Second
	maxRedirects = 3
	// idlePerHost is how many connections to one host are kept for the next request.
	idlePerHost = 32
)

// requester makes the requests of http tasks, over one pool of connections. It takes no proxy from the environment.
//
// It connects to whatever address a URL names, also inside the operator's network; which addresses are allowed is a
// matter of the network's own rules until the worker has a guard of its own for outgoing requests.
type requester struct {
	client *http.Client
}

func newRequester() *requester {
	return &requester{client: &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
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

// run makes one request. The header Idempotency-Key is the same for every attempt of the task. An answer of 200–299 is a
// success; 408, 425, 429, 5xx and failures of the network are tried again; all else fails for good. Errors name the
// host alone, for a path or a query may hold a token.
func (r *requester) run(ctx context.Context, work *definition.TaskWork) ([]byte, error) {
	var with definition.HTTPTask
	if err := work.Task.Decode(&with); err != nil {
		return nil, undecodable(err)
	}
	req, err := newRequest(ctx, work, with)
	if err != nil {
		return nil, err
	}
	target := req.Method + " " + req.URL.Scheme + "://" + req.URL.Host
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, requestFailure(target, err)
	}
	defer resp.Body.Close()

	body, err := io.ReadAll(io.LimitReader(resp.Body, definition.MaxOutput+1))
	if err != nil && ok(resp.StatusCode) {
		return nil, fmt.Errorf("%s: the answer %d broke off: %w", target, resp.StatusCode, bareError(err))
	}
	output, err := describe(resp, body)
	if err != nil {
		return nil, fmt.Errorf("%s: describe the answer: %w", target, err)
	}
	switch {
	case ok(resp.StatusCode):
		return output, nil
	case worthRetrying(resp.StatusCode):
		return output, fmt.Errorf("%s: answered %s", target, statusText(resp.StatusCode))
	}
	return output, permanently("%s: answered %s", target, statusText(resp.StatusCode))
}

func newRequest(ctx context.Context, work *definition.TaskWork, with definition.HTTPTask) (*http.Request, error) {
	method := with.Method
	if method == "" {
		method = http.MethodPost
	}
	body := with.Body
	if body == nil && method != http.MethodGet && method != http.MethodHead && method != http.MethodDelete {
		var err error
		if body, err = contextJSON(&work.Run); err != nil {
			return nil, err
		}
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, with.URL, reader)
	if err != nil {
		return nil, permanently("the task's url or method is not legal")
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "activity-core")
	req.Header.Set(headerIdempotencyKey, idempotencyKey(work))
	for name, value := range with.Headers {
		if strings.EqualFold(name, "Host") {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	return req, nil
}

const headerIdempotencyKey = "Idempotency-Key"

// errRedirect is a refusal to follow a redirect.
type errRedirect struct{ text string }

func (e *errRedirect) Error() string { return e.text }

// checkRedirect follows up to three redirects, never from https to http. Another host does not get the headers that the
// definition gives, for they may be credentials that were meant for the first.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
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

func ok(status int) bool { return status >= 200 && status <= 299 }

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

// describe makes the output. It is always whole JSON: a body that is too long is cut within it.
func describe(resp *http.Response, body []byte) ([]byte, error) {
	out := httpOutput{Status: resp.StatusCode, ContentType: resp.Header.Get("Content-Type")}
	if len(out.ContentType) > 200 {
		out.ContentType = ""
	}
	whole := len(body) <= definition.MaxOutput
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
