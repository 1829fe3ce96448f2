package config

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/activity-core/activity-core/internal/access"
)

// What the REST API asks of those who call it.

// Defaults of people's tokens.
const (
	DefaultOIDCAlgorithms = "RS256,ES256"
	DefaultOIDCClaim      = "groups"
)

// oidc reads the identity provider of people; nil when there is none.
func (e *env) oidc() *OIDC {
	const (
		issuerName   = "ACTCORE_OIDC_ISSUER"
		audienceName = "ACTCORE_OIDC_AUDIENCE"
		grantsName   = "ACTCORE_OIDC_GRANTS"
		algsName     = "ACTCORE_OIDC_ALGORITHMS"
		claimName    = "ACTCORE_OIDC_CLAIM"

		exampleIssuer = "https://id.example.com/realms/main"
		exampleGrants = "platform=admin,growth=editor@team=growth,everyone=viewer"
	)
	issuer := e.getenv(issuerName)
	if issuer == "" {
		for _, name := range []string{audienceName, grantsName, algsName, claimName} {
			if e.getenv(name) != "" { // whoever set it believes that people are asked
				e.fault(issuerName, "is not set while "+name+" is", "it must be the address of the identity provider", exampleIssuer)
				break
			}
		}
		return nil
	}
	out := &OIDC{Issuer: issuer, Audience: e.getenv(audienceName), Claim: e.str(claimName, DefaultOIDCClaim)}
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !loopback(net.JoinHostPort(u.Hostname(), "0"))) {
		e.fault(issuerName, "is not such an address",
			"it must be an https URL (or http on this machine) without a user, query or fragment, exactly as the tokens have it in iss", exampleIssuer)
	}
	if out.Audience == "" {
		e.fault(audienceName, "is not set", "it must be whom the tokens are for, as they have it in aud, when "+issuerName+" is set", "activity-core")
	}
	for name := range strings.SplitSeq(e.str(algsName, DefaultOIDCAlgorithms), ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(access.Algorithms, name) {
			e.fault(algsName, "holds "+strconv.Quote(name), "it must be some of "+strings.Join(access.Algorithms, ", "), DefaultOIDCAlgorithms)
			break
		}
		out.Algorithms = append(out.Algorithms, name)
	}
	switch grants, err := access.ParseGrants(e.getenv(grantsName)); {
	case e.getenv(grantsName) == "":
		e.fault(grantsName, "is not set", "it must say what the groups may do when "+issuerName+" is set", exampleGrants)
	case err != nil:
		e.fault(grantsName, "cannot be used ("+oneLine(err)+")", "it must be group=role or group=role@label=value, with commas between them", exampleGrants)
	default:
		out.Grants = grants
	}
	return out
}

// tls reads the certificate of the REST API; nil when it has none.
func (e *env) tls() *TLS {
	const certName, keyName, caName = "ACTCORE_TLS_CERT", "ACTCORE_TLS_KEY", "ACTCORE_TLS_CLIENT_CA"
	out := &TLS{Cert: e.getenv(certName), Key: e.getenv(keyName), ClientCA: e.getenv(caName)}
	switch {
	case out.Cert == "" && out.Key == "" && out.ClientCA == "":
		return nil
	case out.Cert == "":
		other := keyName
		if out.Key == "" {
			other = caName
		}
		e.fault(certName, "is not set while "+other+" is", "it must be the path of the server's certificate in PEM", "/etc/activity-core/tls/tls.crt")
		return nil
	case out.Key == "":
		e.fault(keyName, "is not set while "+certName+" is", "it must be the path of the certificate's key in PEM", "/etc/activity-core/tls/tls.key")
		return nil
	}
	if _, err := tls.LoadX509KeyPair(out.Cert, out.Key); err != nil {
		e.fault(certName, "and "+keyName+" cannot be used ("+oneLine(err)+")", "they must be the paths of a certificate and its key in PEM", "/etc/activity-core/tls/tls.crt")
	}
	if out.ClientCA == "" {
		return out
	}
	switch data, err := os.ReadFile(out.ClientCA); {
	case err != nil:
		e.fault(caName, "cannot be read ("+oneLine(err)+")", "it must be the path of the CAs of clients in PEM", "/etc/activity-core/tls/ca.crt")
	case !x509.NewCertPool().AppendCertsFromPEM(data):
		e.fault(caName, "holds no certificate", "it must be the path of the CAs of clients in PEM", "/etc/activity-core/tls/ca.crt")
	}
	return out
}

// origins reads from where pages may call the API, as browsers write it in the header Origin.
func (e *env) origins() []string {
	const name = "ACTCORE_CORS_ORIGINS"
	var out []string
	if e.getenv(name) == "" {
		return nil
	}
	for origin := range strings.SplitSeq(e.getenv(name), ",") {
		origin = strings.TrimSpace(origin)
		u, err := url.Parse(origin)
		ok := err == nil && u.Host != "" && u.Hostname() != "" && !strings.Contains(origin, "*") && origin == u.Scheme+"://"+strings.ToLower(u.Host)
		switch {
		case ok && u.Scheme == "https" && u.Port() != "443" && !strings.HasSuffix(u.Host, ":"):
		case ok && u.Scheme == "http" && u.Port() != "80" && !strings.HasSuffix(u.Host, ":") && loopback(net.JoinHostPort(u.Hostname(), "0")):
		default:
			e.fault(name, "holds "+strconv.Quote(origin),
				"its items, with commas between them, must be origins as browsers send them: https (or http on this machine), the host in lower case, "+
					"a port that is not the usual one, and nothing else, * neither", "https://console.example.com,http://localhost:3000")
			return nil
		}
		out = append(out, origin)
	}
	return out
}

// trustedProxies reads where proxies are that are believed.
func (e *env) trustedProxies() []netip.Prefix {
	const name = "ACTCORE_TRUSTED_PROXIES"
	var out []netip.Prefix
	if e.getenv(name) == "" {
		return nil
	}
	for item := range strings.SplitSeq(e.getenv(name), ",") {
		item = strings.TrimSpace(item)
		block, err := netip.ParsePrefix(item)
		if addr, addrErr := netip.ParseAddr(item); addrErr == nil && addr.Zone() == "" {
			block, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		switch {
		case err != nil, block.Addr().Is4In6():
			e.fault(name, "holds "+strconv.Quote(item), "its items, with commas between them, must be addresses or blocks of addresses", "10.0.0.0/8,fd00::/8")
			return nil
		case block.Bits() == 0:
			e.fault(name, "holds "+strconv.Quote(item)+", which trusts everybody", "it must be the addresses of your own proxies", "10.0.0.0/8,fd00::/8")
			return nil
		}
		out = append(out, block.Masked())
	}
	return out
}
