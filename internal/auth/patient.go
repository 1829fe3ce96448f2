package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// How the identity provider is asked.
const (
	// providerTimeout bounds one question.
	providerTimeout = 5 * time.Second
	// maxAnswer is the most bytes of an answer.
	maxAnswer = 1 << 20
	// answerAge is how long an answer is given again, and failureAge how long a failure: anybody can make us ask, with a token that
	// names a key that nobody knows.
	answerAge  = 10 * time.Second
	failureAge = time.Second
)

// awayError means that the provider did not give a usable answer.
type awayError struct{ err error }

func (e *awayError) Error() string { return e.err.Error() }
func (e *awayError) Unwrap() error { return e.err }

// patient asks an identity provider: seldom, for JSON of a bounded size, and in the open only on this machine. Whatever else comes
// back is an awayError.
type patient struct {
	transport http.RoundTripper
	now       func() time.Time

	mu   sync.Mutex
	last map[string]answer // by address
}

type answer struct {
	body []byte
	err  error
	at   time.Time
}

func newPatient(now func() time.Time) *patient {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = providerTimeout
	return &patient{transport: transport, now: now, last: map[string]answer{}}
}

// RoundTrip answers with what was asked not long ago, or asks.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	address := r.URL.String()
	p.mu.Lock()
	last, ok := p.last[address]
	p.mu.Unlock()
	if age := p.now().Sub(last.at); !ok || age >= answerAge || last.err != nil && age >= failureAge {
		last.body, last.err = p.ask(r)
		last.at = p.now()
		p.mu.Lock()
		p.last[address] = last
		p.mu.Unlock()
	}
	if last.err != nil {
		return nil, &awayError{last.err}
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(last.body)),
		ContentLength: int64(len(last.body)), Request: r,
	}, nil
}

func (p *patient) ask(r *http.Request) ([]byte, error) {
	if !safeAddress(r.URL) {
		return nil, fmt.Errorf("%s is neither https nor on this machine", r.URL.Redacted())
	}
	resp, err := p.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", r.URL.Redacted(), resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > maxAnswer:
		return nil, errors.New(r.URL.Redacted() + " answered more than 1 MiB")
	case !json.Valid(body):
		return nil, errors.New(r.URL.Redacted() + " did not answer with JSON")
	}
	return body, nil
}

// safeAddress reports whether nobody on the way can change what an address answers: https, or http on this machine.
func safeAddress(u *url.URL) bool {
	host := u.Hostname()
	ip := net.ParseIP(host)
	local := strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
	return host != "" && (u.Scheme == "https" || u.Scheme == "http" && local)
}
