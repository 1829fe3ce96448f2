package lifecycle

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
)

// authority is a CA of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	pool *x509.CertPool
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{key: ecKey(t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.pool = x509.NewCertPool()
	a.pool.AddCert(a.cert)
	return a
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns a certificate of this serial number, for a server on 127.0.0.1 or for a client, and its key, in PEM.
func (a *authority) issue(t *testing.T, serial int64, usage x509.ExtKeyUsage) (cert, key []byte) {
	t.Helper()
	k := ecKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func (a *authority) client(t *testing.T) []tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(a.issue(t, 100, x509.ExtKeyUsageClientAuth))
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{pair}
}

// tlsDir is a folder of certificate, key and CA of clients.
type tlsDir struct{ cert, key, ca string }

func newTLSDir(t *testing.T) tlsDir {
	dir := t.TempDir()
	return tlsDir{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")}
}

func (d tlsDir) write(t *testing.T, cert, key []byte) {
	t.Helper()
	for path, data := range map[string][]byte{d.cert: cert, d.key: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// renew puts a certificate of this serial number there.
func (d tlsDir) renew(t *testing.T, ca *authority, serial int64) {
	t.Helper()
	cert, key := ca.issue(t, serial, x509.ExtKeyUsageServerAuth)
	d.write(t, cert, key)
}

// serveTLS serves "hello" until the test ends.
func serveTLS(t *testing.T, o TLSOptions) (addr string) {
	t.Helper()
	conf, err := NewTLS(o)
	if err != nil {
		t.Fatal(err)
	}
	server := NewHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }), quiet())
	server.TLSConfig = conf
	return serve(t, server)
}

func serve(t *testing.T, server *http.Server) (addr string) {
	t.Helper()
	listener, err := Listen("TEST_ADDR", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, server, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return listener.Addr().String()
}

// hello makes a request over a connection of its own, and returns its answer and what the server showed.
func hello(t *testing.T, addr string, conf *tls.Config) (*tls.ConnectionState, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "hello" {
		t.Fatalf("answer %q %v", text, err)
	}
	return resp.TLS, nil
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, foreign := newAuthority(t, "ca"), newAuthority(t, "foreign")
	dir := newTLSDir(t)
	dir.renew(t, ca, 1)
	if err := os.WriteFile(dir.ca, ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	plain := serveTLS(t, TLSOptions{CertFile: dir.cert, KeyFile: dir.key, Log: quiet()})
	mutual := serveTLS(t, TLSOptions{CertFile: dir.cert, KeyFile: dir.key, ClientCAFile: dir.ca, Log: quiet()})

	serverPair, err := tls.X509KeyPair(ca.issue(t, 101, x509.ExtKeyUsageServerAuth))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, addr string
		conf       *tls.Config
		refused    string // a part of the error; "" for none
	}{
		{"TLS 1.3", plain, &tls.Config{MinVersion: tls.VersionTLS13}, ""},
		{"TLS 1.2", plain, &tls.Config{MaxVersion: tls.VersionTLS12}, ""},
		{"TLS 1.1", plain, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "protocol version"},
		{"TLS 1.0", plain, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, "protocol version"},
		{"a client with a certificate nobody asks for", plain, &tls.Config{Certificates: foreign.client(t)}, ""},

		{"a client of the CA", mutual, &tls.Config{Certificates: ca.client(t)}, ""},
		{"a client of the CA, TLS 1.2", mutual, &tls.Config{Certificates: ca.client(t), MaxVersion: tls.VersionTLS12}, ""},
		{"no client certificate", mutual, &tls.Config{}, "certificate required"},
		{"no client certificate, TLS 1.2", mutual, &tls.Config{MaxVersion: tls.VersionTLS12}, "handshake failure"},
		{"a client of a foreign CA", mutual, &tls.Config{Certificates: foreign.client(t)}, "certificate"},
		{"a server's certificate", mutual, &tls.Config{Certificates: []tls.Certificate{serverPair}}, "bad certificate"},
		{"mutual, TLS 1.1", mutual, &tls.Config{Certificates: ca.client(t), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "protocol version"},
	} {
		c.conf.RootCAs = ca.pool
		if c.conf.Certificates != nil { // also one that the server did not say it would take
			certificate := c.conf.Certificates[0]
			c.conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
		}
		_, err := hello(t, c.addr, c.conf)
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.refused)
		}
	}
	if code, body := get(t, "http://"+plain); code != http.StatusBadRequest || strings.Contains(body, "hello") {
		t.Errorf("without TLS: %d %q", code, body)
	}
}

// TestTLSFilesChange: a new certificate is shown without a restart, a broken one is not, and a CA of clients that was taken away lets
// nobody in, not even those who take up an old session.
func TestTLSFilesChange(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	dir := newTLSDir(t)
	dir.renew(t, ca, 1)
	if err := os.WriteFile(dir.ca, ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	var log testenv.LogBuffer
	addr := serveTLS(t, TLSOptions{CertFile: dir.cert, KeyFile: dir.key, ClientCAFile: dir.ca, Log: slog.New(slog.NewTextHandler(&log, nil))})
	client := &tls.Config{RootCAs: ca.pool, Certificates: ca.client(t), ClientSessionCache: tls.NewLRUClientSessionCache(10)}
	serial := func() int64 {
		t.Helper()
		state, err := hello(t, addr, client)
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Fatalf("serial number %d", got)
	}
	dir.renew(t, ca, 2)
	testenv.Eventually(t, 20*time.Second, "the new certificate is shown", func(context.Context) (bool, error) { return serial() == 2, nil })

	const warning = "changed TLS files cannot be used"
	cert3, key3 := ca.issue(t, 3, x509.ExtKeyUsageServerAuth)
	_, key4 := ca.issue(t, 4, x509.ExtKeyUsageServerAuth)
	for i, broken := range [][2][]byte{{cert3, []byte("rubbish")}, {[]byte(""), key3}, {cert3, key4}} {
		dir.write(t, broken[0], broken[1])
		testenv.Eventually(t, 20*time.Second, "the fault is logged", func(context.Context) (bool, error) {
			if got := serial(); got != 2 {
				t.Fatalf("a broken certificate made the serial number %d", got)
			}
			return strings.Count(log.String(), warning) > i, nil
		})
	}
	if err := os.Remove(dir.key); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Fatalf("without a key, the serial number is %d", got)
	}
	dir.write(t, cert3, key3)
	testenv.Eventually(t, 20*time.Second, "the next one is shown", func(context.Context) (bool, error) { return serial() == 3, nil })

	if err := os.WriteFile(dir.ca, other.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, "the old CA's clients are refused", func(context.Context) (bool, error) {
		_, err := hello(t, addr, client)
		return err != nil && strings.Contains(err.Error(), "certificate"), nil
	})
	if n := strings.Count(log.String(), warning); n > 10 {
		t.Errorf("%d warnings", n)
	}
}

func TestNewTLSRefuses(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	dir := newTLSDir(t)
	cert, key := ca.issue(t, 1, x509.ExtKeyUsageServerAuth)
	dir.write(t, cert, key)
	if err := os.WriteFile(dir.ca, key, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]TLSOptions{
		"no certificate":              {KeyFile: dir.key, Log: quiet()},
		"no key":                      {CertFile: dir.cert, Log: quiet()},
		"no logger":                   {CertFile: dir.cert, KeyFile: dir.key},
		"no such file":                {CertFile: dir.cert + "x", KeyFile: dir.key, Log: quiet()},
		"use " + dir.key:              {CertFile: dir.key, KeyFile: dir.cert, Log: quiet()},
		"holds no certificate in PEM": {CertFile: dir.cert, KeyFile: dir.key, ClientCAFile: dir.ca, Log: quiet()},
	} {
		if _, err := NewTLS(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
