package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/activity-core/activity-core/internal/testenv"
)

// TestServeSecurely starts the API with everything that shuts its doors: TLS, certificates of clients, an identity provider. Who has a
// certificate and a token of the provider gets in; the health check works, and the certificate is renewed without a restart.
func TestServeSecurely(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk := jose.JSONWebKey{Key: key, KeyID: "1"}
	var issuer string
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk.Public()}})
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"issuer": issuer, "jwks_uri": issuer + "/keys"})
	}))
	defer provider.Close()
	issuer = provider.URL
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jwk}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token := func(group string) string {
		claims, err := json.Marshal(map[string]any{"iss": issuer, "aud": "activity-core", "sub": "ada", "exp": time.Now().Add(time.Hour).Unix(),
			"email": "ada@example.com", "realm_access": map[string]any{"roles": []string{group}}})
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signer.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		text, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}

	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	certificate, trust := selfSigned(t, certFile, keyFile, 1)
	env := accessEnv(t, testenv.DatabaseURL(t))
	maps.Copy(env, map[string]string{
		"ACTCORE_API_ADDR": "127.0.0.1:0", "ACTCORE_TLS_CERT": certFile, "ACTCORE_TLS_KEY": keyFile, "ACTCORE_TLS_CLIENT_CA": certFile,
		"ACTCORE_OIDC_ISSUER": issuer, "ACTCORE_OIDC_AUDIENCE": "activity-core", "ACTCORE_OIDC_CLAIM": "realm_access.roles",
		"ACTCORE_OIDC_GRANTS": "ops=operator", "ACTCORE_CORS_ORIGINS": "https://console.example", "ACTCORE_ACCESS_LOG": "on",
		"ACTCORE_TRUSTED_PROXIES": "127.0.0.0/8",
	})
	address, logged := startAPI(t, env)

	extra := "" // a header's value
	visit := func(credential string, certificates ...tls.Certificate) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/runs", nil)
		if err != nil {
			t.Fatal(err)
		}
		if credential != "" {
			r.Header.Set("Authorization", "Bearer "+credential)
		}
		r.Header.Set("Origin", "https://console.example")
		r.Header.Set("X-Forwarded-For", "203.0.113.7")
		r.Header.Set("X-Extra", extra)
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: trust, Certificates: certificates}, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		}}
		resp, err := client.Do(r)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return resp, err
	}
	for _, c := range []struct {
		credential string
		status     int
	}{{token("ops"), 200}, {token("guests"), 403}, {"", 401}, {token("ops") + "x", 401}} {
		resp, err := visit(c.credential, certificate)
		if err != nil || resp.StatusCode != c.status {
			t.Fatalf("%.10q: %v %v, want %d", c.credential, resp, err, c.status)
		}
		if resp.Header.Get("Strict-Transport-Security") == "" || resp.Header.Get("Access-Control-Allow-Origin") != "https://console.example" {
			t.Errorf("headers %v", resp.Header)
		}
	}
	extra = strings.Repeat("x", 100<<10)
	if resp, err := visit(token("ops"), certificate); err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge ||
		resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("100 KiB of headers: %v %v, want a problem with status 431", resp, err)
	}
	extra = ""
	if resp, err := visit(token("ops")); err == nil {
		t.Errorf("without a certificate: %d", resp.StatusCode)
	}
	env["PROMETHEUS_BIND_ADDR"] = regexp.MustCompile(`"metrics":"([^"]+)"`).FindStringSubmatch(logged.String())[1]
	testenv.Eventually(t, 20*time.Second, "the health check says ready", func(ctx context.Context) (bool, error) {
		err := run(ctx, []string{"healthcheck"}, func(name string) string { return env[name] }, io.Discard)
		return err == nil, err
	})

	certificate, trust = selfSigned(t, certFile, keyFile, 2)
	testenv.Eventually(t, 20*time.Second, "the new certificate is shown", func(context.Context) (bool, error) {
		resp, err := visit(token("ops"), certificate)
		return err == nil && resp.StatusCode == http.StatusOK && resp.TLS.PeerCertificates[0].SerialNumber.Int64() == 2, nil
	})

	if log := logged.String(); !strings.Contains(log, `"caller":"person:`+issuer+`#ada","address":"203.0.113.7"`) || strings.Contains(log, token("ops")[:40]) {
		t.Errorf("the access log does not tell who called, or tells a token")
	}
}

// selfSigned writes a certificate for 127.0.0.1 that is its own CA and good for clients as well, and returns it and trust in it.
func selfSigned(t *testing.T, certFile, keyFile string, serial int64) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for path, data := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	trust := x509.NewCertPool()
	if !trust.AppendCertsFromPEM(bytes.TrimSpace(certPEM)) {
		t.Fatal("the certificate is none")
	}
	return pair, trust
}
