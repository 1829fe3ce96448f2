package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWebVariables sets some variables of the REST API at a time and looks at what they make, or at the whole error line.
func TestWebVariables(t *testing.T) {
	t.Parallel()
	cert, key := keyPair(t)
	_, otherKey := keyPair(t)
	dir := t.TempDir()
	file := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile, keyFile, otherFile, rubbish := file("c", cert), file("k", key), file("o", otherKey), file("r", "rubbish")

	const (
		issuerRule = "ACTCORE_OIDC_ISSUER is not such an address: it must be an https URL (or http on this machine) without a user, query or " +
			"fragment, exactly as the tokens have it in iss, for example ACTCORE_OIDC_ISSUER=https://id.example.com/realms/main"
		algRule   = ": it must be some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, for example ACTCORE_OIDC_ALGORITHMS=RS256,ES256"
		grantRule = ": it must be group=role or group=role@label=value, with commas between them, for example ACTCORE_OIDC_GRANTS=" +
			"platform=admin,growth=editor@team=growth,everyone=viewer"
		originRule = ": its items, with commas between them, must be origins as browsers send them: https (or http on this machine), the host in " +
			"lower case, a port that is not the usual one, and nothing else, * neither, for example ACTCORE_CORS_ORIGINS=https://console.example.com,http://localhost:3000"
		proxyRule = ": its items, with commas between them, must be addresses or blocks of addresses, for example ACTCORE_TRUSTED_PROXIES=10.0.0.0/8,fd00::/8"
		caRule    = ": it must be the path of the CAs of clients in PEM, for example ACTCORE_TLS_CLIENT_CA=/etc/activity-core/tls/ca.crt"
	)
	oidc := func(pairs ...string) []string {
		return append([]string{"ACTCORE_OIDC_ISSUER", "https://id.example", "ACTCORE_OIDC_AUDIENCE", "a", "ACTCORE_OIDC_GRANTS", "a=viewer"}, pairs...)
	}
	for _, c := range []struct {
		vars []string
		want string // what is made
		err  string // or the error
	}{
		{vars: nil, want: "oidc - tls - origins [] proxies [] log false"},
		{vars: oidc(), want: "oidc {https://id.example a [RS256 ES256] groups [{a viewer map[]}]} tls - origins [] proxies [] log false"},
		{vars: oidc("ACTCORE_OIDC_ALGORITHMS", "EdDSA, PS512", "ACTCORE_OIDC_CLAIM", "realm_access.roles", "ACTCORE_OIDC_ISSUER", "http://127.0.0.1:9/x/"),
			want: "oidc {http://127.0.0.1:9/x/ a [EdDSA PS512] realm_access.roles [{a viewer map[]}]} tls - origins [] proxies [] log false"},
		{vars: oidc("ACTCORE_OIDC_GRANTS", "p=admin,g=editor@team=growth"),
			want: "oidc {https://id.example a [RS256 ES256] groups [{p admin map[]} {g editor map[team:growth]}]} tls - origins [] proxies [] log false"},
		{vars: oidc("ACTCORE_OIDC_ISSUER", "http://id.example"), err: issuerRule},
		{vars: oidc("ACTCORE_OIDC_ISSUER", "id.example"), err: issuerRule},
		{vars: oidc("ACTCORE_OIDC_ISSUER", "https://me:hunter2@id.example"), err: issuerRule},
		{vars: oidc("ACTCORE_OIDC_ISSUER", "https://id.example?a=b"), err: issuerRule},
		{vars: oidc("ACTCORE_OIDC_ISSUER", "ftp://localhost"), err: issuerRule},
		{vars: oidc("ACTCORE_OIDC_ISSUER", ""), err: "ACTCORE_OIDC_ISSUER is not set while ACTCORE_OIDC_AUDIENCE is: it must be the address of the " +
			"identity provider, for example ACTCORE_OIDC_ISSUER=https://id.example.com/realms/main"},
		{vars: oidc("ACTCORE_OIDC_AUDIENCE", ""), err: "ACTCORE_OIDC_AUDIENCE is not set: it must be whom the tokens are for, as they have it in aud, when " +
			"ACTCORE_OIDC_ISSUER is set, for example ACTCORE_OIDC_AUDIENCE=activity-core"},
		{vars: oidc("ACTCORE_OIDC_GRANTS", ""), err: "ACTCORE_OIDC_GRANTS is not set: it must say what the groups may do when ACTCORE_OIDC_ISSUER is set, for " +
			"example ACTCORE_OIDC_GRANTS=platform=admin,growth=editor@team=growth,everyone=viewer"},
		{vars: oidc("ACTCORE_OIDC_GRANTS", "a=root"), err: `ACTCORE_OIDC_GRANTS cannot be used (the grant "a=root" names the role "root", which is none of ` +
			"viewer, operator, editor and admin)" + grantRule},
		{vars: oidc("ACTCORE_OIDC_ALGORITHMS", "RS256,none"), err: `ACTCORE_OIDC_ALGORITHMS holds "none"` + algRule},
		{vars: oidc("ACTCORE_OIDC_ALGORITHMS", "HS256"), err: `ACTCORE_OIDC_ALGORITHMS holds "HS256"` + algRule},
		{vars: oidc("ACTCORE_OIDC_ALGORITHMS", "RS256,"), err: `ACTCORE_OIDC_ALGORITHMS holds ""` + algRule},

		{vars: []string{"ACTCORE_TLS_CERT", certFile, "ACTCORE_TLS_KEY", keyFile},
			want: "oidc - tls {" + certFile + " " + keyFile + " } origins [] proxies [] log false"},
		{vars: []string{"ACTCORE_TLS_CERT", certFile, "ACTCORE_TLS_KEY", keyFile, "ACTCORE_TLS_CLIENT_CA", certFile},
			want: "oidc - tls {" + certFile + " " + keyFile + " " + certFile + "} origins [] proxies [] log false"},
		{vars: []string{"ACTCORE_TLS_CERT", certFile}, err: "ACTCORE_TLS_KEY is not set while ACTCORE_TLS_CERT is: it must be the path of the certificate's " +
			"key in PEM, for example ACTCORE_TLS_KEY=/etc/activity-core/tls/tls.key"},
		{vars: []string{"ACTCORE_TLS_KEY", keyFile}, err: "ACTCORE_TLS_CERT is not set while ACTCORE_TLS_KEY is: it must be the path of the server's " +
			"certificate in PEM, for example ACTCORE_TLS_CERT=/etc/activity-core/tls/tls.crt"},
		{vars: []string{"ACTCORE_TLS_CLIENT_CA", certFile}, err: "ACTCORE_TLS_CERT is not set while ACTCORE_TLS_CLIENT_CA is: it must be the path of the " +
			"server's certificate in PEM, for example ACTCORE_TLS_CERT=/etc/activity-core/tls/tls.crt"},
		{vars: []string{"ACTCORE_TLS_CERT", certFile, "ACTCORE_TLS_KEY", otherFile}, err: "ACTCORE_TLS_CERT and ACTCORE_TLS_KEY cannot be used (tls: private " +
			"key does not match public key): they must be the paths of a certificate and its key in PEM, for example ACTCORE_TLS_CERT=/etc/activity-core/tls/tls.crt"},
		{vars: []string{"ACTCORE_TLS_CERT", certFile, "ACTCORE_TLS_KEY", keyFile, "ACTCORE_TLS_CLIENT_CA", rubbish},
			err: "ACTCORE_TLS_CLIENT_CA holds no certificate" + caRule},
		{vars: []string{"ACTCORE_TLS_CERT", certFile, "ACTCORE_TLS_KEY", keyFile, "ACTCORE_TLS_CLIENT_CA", rubbish + ".gone"},
			err: "ACTCORE_TLS_CLIENT_CA cannot be read (open " + rubbish + ".gone: no such file or directory)" + caRule},

		{vars: []string{"ACTCORE_CORS_ORIGINS", "https://a.example, https://b.example:8443,http://localhost:3000,http://[::1]:1"},
			want: "oidc - tls - origins [https://a.example https://b.example:8443 http://localhost:3000 http://[::1]:1] proxies [] log false"},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "*"}, err: `ACTCORE_CORS_ORIGINS holds "*"` + originRule},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "https://*.example"}, err: `ACTCORE_CORS_ORIGINS holds "https://*.example"` + originRule},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "null"}, err: `ACTCORE_CORS_ORIGINS holds "null"` + originRule},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "http://a.example"}, err: `ACTCORE_CORS_ORIGINS holds "http://a.example"` + originRule},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "https://a.example/"}, err: `ACTCORE_CORS_ORIGINS holds "https://a.example/"` + originRule},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "https://A.example"}, err: `ACTCORE_CORS_ORIGINS holds "https://A.example"` + originRule},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "https://a.example:443"}, err: `ACTCORE_CORS_ORIGINS holds "https://a.example:443"` + originRule},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "https://a.example:"}, err: `ACTCORE_CORS_ORIGINS holds "https://a.example:"` + originRule},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "https://me@a.example"}, err: `ACTCORE_CORS_ORIGINS holds "https://me@a.example"` + originRule},
		{vars: []string{"ACTCORE_CORS_ORIGINS", "https://a.example,"}, err: `ACTCORE_CORS_ORIGINS holds ""` + originRule},

		{vars: []string{"ACTCORE_TRUSTED_PROXIES", "10.1.2.3/8, fd00::1,192.0.2.7"},
			want: "oidc - tls - origins [] proxies [10.0.0.0/8 fd00::1/128 192.0.2.7/32] log false"},
		{vars: []string{"ACTCORE_TRUSTED_PROXIES", "0.0.0.0/0"}, err: `ACTCORE_TRUSTED_PROXIES holds "0.0.0.0/0", which trusts everybody: it must be the ` +
			"addresses of your own proxies, for example ACTCORE_TRUSTED_PROXIES=10.0.0.0/8,fd00::/8"},
		{vars: []string{"ACTCORE_TRUSTED_PROXIES", "10.0.0.0/33"}, err: `ACTCORE_TRUSTED_PROXIES holds "10.0.0.0/33"` + proxyRule},
		{vars: []string{"ACTCORE_TRUSTED_PROXIES", "proxy.example"}, err: `ACTCORE_TRUSTED_PROXIES holds "proxy.example"` + proxyRule},
		{vars: []string{"ACTCORE_TRUSTED_PROXIES", "::ffff:10.0.0.1"}, err: `ACTCORE_TRUSTED_PROXIES holds "::ffff:10.0.0.1"` + proxyRule},

		{vars: []string{"ACTCORE_ACCESS_LOG", "on"}, want: "oidc - tls - origins [] proxies [] log true"},
		{vars: []string{"ACTCORE_ACCESS_LOG", "all"}, err: `ACTCORE_ACCESS_LOG is "all": it must be on or off, for example ACTCORE_ACCESS_LOG=off`},
	} {
		cfg, err := LoadAPI(lookup(with(c.vars...)))
		if c.err != "" {
			var ours *Error
			if !errors.As(err, &ours) || err.Error() != c.err {
				t.Errorf("%q:\n got %v\nwant %s", c.vars, err, c.err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a password: %v", err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: refused: %v", c.vars, err)
			continue
		}
		asText := func(isNil bool, v any) string {
			if isNil {
				return "-"
			}
			return strings.TrimPrefix(fmt.Sprint(v), "&")
		}
		got := fmt.Sprintf("oidc %s tls %s origins %v proxies %v log %t", asText(cfg.OIDC == nil, cfg.OIDC), asText(cfg.TLS == nil, cfg.TLS),
			cfg.Origins, cfg.TrustedProxies, cfg.AccessLog)
		if got != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.vars, got, c.want)
		}
	}
}
