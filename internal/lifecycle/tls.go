package lifecycle

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// TLSOptions are the dependencies of [NewTLS].
type TLSOptions struct {
	// CertFile and KeyFile are the paths of the certificate, with the ones
	// that lead to its CA, and of its key, in PEM. Required.
	CertFile, KeyFile string
	// ClientCAFile is the path of the CAs whose certificates clients must show,
	// in PEM. Empty lets clients come without one.
	ClientCAFile string
	// Log gets one line when a file has changed. Required.
	Log *slog.Logger
}

// NewTLS returns what a server needs to speak TLS 1.2 and 1.3. It fails for
// files that cannot be used. Files that change later are read again within a
// second, before the next connection; while what they hold cannot be used, what
// they held before goes on to be used.
func NewTLS(o TLSOptions) (*tls.Config, error) {
	switch {
	case o.CertFile == "" || o.KeyFile == "":
		return nil, errors.New("TLS: no certificate or no key")
	case o.Log == nil:
		return nil, errors.New("TLS: no logger")
	}
	f := &tlsFiles{options: o}
	if err := f.read(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			f.refresh()
			return f.current.Load(), nil
		},
	}, nil
}

// tlsCheck is how often files are looked at, at most.
const tlsCheck = time.Second

// tlsFiles are the files of a server's TLS and what they last held that could
// be used.
type tlsFiles struct {
	options TLSOptions
	current atomic.Pointer[tls.Config]

	mu      sync.Mutex // held by the one that reads
	checked time.Time
	seen    [3][]byte // what the files held when they were last looked at
	failure string    // why that cannot be used
}

// refresh reads the files again if nobody has for a second.
func (f *tlsFiles) refresh() {
	if !f.mu.TryLock() {
		return // another connection does it
	}
	defer f.mu.Unlock()
	if time.Since(f.checked) < tlsCheck {
		return
	}
	before := f.current.Load()
	if err := f.read(); err != nil {
		if err.Error() != f.failure {
			f.options.Log.Warn("changed TLS files cannot be used: the old certificate stays", "error", err)
		}
		f.failure = err.Error()
		return
	}
	f.failure = ""
	if now := f.current.Load(); now != before {
		f.options.Log.Info("changed TLS files are used from now on", "not_after", now.Certificates[0].Leaf.NotAfter)
	}
}

// read looks at the files and takes over what they hold, if that is new.
func (f *tlsFiles) read() error {
	f.checked = time.Now()
	var held [3][]byte
	for i, path := range []string{f.options.CertFile, f.options.KeyFile, f.options.ClientCAFile} {
		if path == "" {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		held[i] = data
	}
	if f.current.Load() != nil && bytes.Equal(held[0], f.seen[0]) && bytes.Equal(held[1], f.seen[1]) && bytes.Equal(held[2], f.seen[2]) {
		return nil
	}
	certificate, err := tls.X509KeyPair(held[0], held[1])
	if err != nil {
		return fmt.Errorf("TLS: use %s with %s: %w", f.options.CertFile, f.options.KeyFile, err)
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"},
	}
	if f.options.ClientCAFile != "" {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(held[2]) {
			return fmt.Errorf("TLS: %s holds no certificate in PEM", f.options.ClientCAFile)
		}
		// A session that is taken up again must not outlive the CA that let it in.
		conf.SessionTicketsDisabled = true
	}
	f.seen = held
	f.current.Store(conf)
	return nil
}
