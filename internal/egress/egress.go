// Package egress keeps the requests of http tasks out of the operator's own network. Who may store a definition names the URL,
// and the worker usually stands where much more answers than on the internet: other services, cloud metadata, itself.
//
// What counts is the address that is connected to, after the name was looked up: neither a spelling, nor a name that leads to
// another address the next time, nor a redirect gets around that. The list of special addresses is IANA's.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"
)

// Variable is the environment variable with which an operator allows more.
const Variable = "ACTCORE_EGRESS_ALLOW"

// Allow lists what may be connected to although it is not on the internet. Its zero value allows nothing more.
type Allow struct {
	prefixes []netip.Prefix
	// hosts are names, suffixes what names end in, with the leading dot; both in lower case without a dot at the end.
	hosts, suffixes []string
}

// ParseAllow reads a list with commas between its items: addresses (10.0.0.7), blocks of addresses (10.1.0.0/16) and names of
// hosts (hooks.example), where *.example stands for all names below example. A name allows whatever it leads to.
// An empty text allows nothing more. The error quotes the first item that is none of these, and says why.
func ParseAllow(text string) (Allow, error) {
	var a Allow
	if strings.TrimSpace(text) == "" {
		return a, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if err := a.add(item); err != nil {
			return Allow{}, fmt.Errorf("%q %w", item, err)
		}
	}
	return a, nil
}

// String returns the list in the form that ParseAllow reads.
func (a Allow) String() string {
	var items []string
	for _, p := range a.prefixes {
		if p.IsSingleIP() {
			items = append(items, p.Addr().String())
		} else {
			items = append(items, p.String())
		}
	}
	items = append(items, a.hosts...)
	for _, suffix := range a.suffixes {
		items = append(items, "*"+suffix)
	}
	return strings.Join(items, ",")
}

func (a *Allow) add(item string) error {
	if strings.Contains(item, "/") {
		p, err := netip.ParsePrefix(item)
		switch {
		case err != nil:
			return errors.New("is not a block of addresses")
		case p.Masked() != p:
			return fmt.Errorf("has bits beyond its length: it must be %s", p.Masked())
		case p.Addr().Is4In6():
			return errors.New("must be written as an IPv4 block")
		}
		a.prefixes = append(a.prefixes, p)
		return nil
	}
	if addr, err := netip.ParseAddr(item); err == nil {
		addr = addr.Unmap()
		if addr.Zone() != "" {
			return errors.New("must have no zone")
		}
		a.prefixes = append(a.prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		return nil
	}
	name, below := strings.CutPrefix(plainName(item), "*.")
	switch {
	case !isName(name):
		return errors.New("is not an address, a block of addresses or the name of a host")
	case numeric(name):
		return errors.New("is not an address, but ends in a number")
	case below:
		a.suffixes = append(a.suffixes, "."+name)
	default:
		a.hosts = append(a.hosts, name)
	}
	return nil
}

func (a *Allow) name(host string) bool {
	return slices.Contains(a.hosts, host) ||
		slices.ContainsFunc(a.suffixes, func(suffix string) bool { return strings.HasSuffix(host, suffix) })
}

// Refusal is the error of a connection that is not allowed. Its text is for the user; no other try will mend it.
type Refusal struct {
	// Host is the host of the URL.
	Host string
	// Rule says what is wrong with it, as in "is at a private address (10.0.0.0/8)".
	Rule string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the host %s %s, and http tasks connect to the internet alone; an operator can allow it with %s on the worker",
		r.Host, r.Rule, Variable)
}

// Guard decides which connections are made.
type Guard struct {
	allow  Allow
	dialer net.Dialer
	table  *ssrf.Guardian
}

// metadata are addresses at which clouds tell a machine its secrets. They are refused for other reasons too, but Azure's.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.169.254/32"), // most
	netip.MustParsePrefix("169.254.170.0/24"),   // Amazon, in containers
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
	netip.MustParsePrefix("fd00:ec2::254/128"),  // Amazon
	netip.MustParsePrefix("fd00:ec2::23/128"),   // Amazon, in containers
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
}

// NewGuard makes a Guard that connects by the dialer, whose Control is not used.
func NewGuard(allow Allow, dialer net.Dialer) *Guard {
	var denied4 []netip.Prefix
	for _, p := range metadata {
		if p.Addr().Is4() {
			denied4 = append(denied4, p)
		}
	}
	return &Guard{allow: allow, dialer: dialer, table: ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(denied4...))}
}

// DialContext connects to host:port over TCP. The error of what is not allowed wraps a *Refusal.
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	given, _, err := net.SplitHostPort(address)
	if err != nil || !strings.HasPrefix(network, "tcp") {
		return nil, &Refusal{Host: given, Rule: "is not reached by TCP"}
	}
	host := plainName(given)
	dialer := g.dialer
	dialer.Control = nil
	dialer.ControlContext = nil
	switch _, err := netip.ParseAddr(given); {
	case g.allow.name(host):
	case err != nil && numeric(host):
		// Some resolvers take 127.1, 0177.0.0.1, 0x7f.1 and 2130706433 for 127.0.0.1.
		return nil, &Refusal{Host: given, Rule: "ends in a number and is not an address written in full"}
	default:
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return g.check(given, address) }
	}
	return dialer.DialContext(ctx, network, address)
}

// check is asked with each address that the host's name led to, before it is connected to.
func (g *Guard) check(host, address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return &Refusal{Host: host, Rule: "led to something that is no address"}
	}
	if rule := g.rule(to.Addr()); rule != "" {
		return &Refusal{Host: host, Rule: rule}
	}
	return nil
}

// rule says which rule forbids an address; "" when none does.
func (g *Guard) rule(addr netip.Addr) string {
	addr = addr.WithZone("").Unmap()
	contains := func(p netip.Prefix) bool { return p.Contains(addr) }
	if slices.ContainsFunc(g.allow.prefixes, contains) {
		return ""
	}
	if ssrf.IPv6NAT64Prefix.Contains(addr) {
		// A gateway connects to the IPv4 address in the last four bytes.
		bytes := addr.As16()
		return g.rule(netip.AddrFrom4([4]byte(bytes[12:])))
	}
	if g.table.SafeAddr(addr) == nil {
		return ""
	}
	switch {
	case slices.ContainsFunc(metadata, contains):
		return "is at the address of a cloud's metadata"
	case addr.IsLoopback():
		return "is at a loopback address"
	case addr.IsUnspecified():
		return "is at the unspecified address"
	case addr.IsPrivate():
		return "is at a private address"
	case addr.IsLinkLocalUnicast():
		return "is at a link-local address"
	case addr.IsMulticast():
		return "is at a multicast address"
	}
	return "is at a reserved address"
}

// plainName writes a host's name in one way: in lower case, without the dot at the end.
func plainName(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }

// isName reports whether a text in lower case may be the name of a host.
func isName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// numeric reports whether a name in lower case ends in a number, by which browsers tell an address from a name.
func numeric(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if hex, is := strings.CutPrefix(last, "0x"); is {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}
