package egress

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func allow(t *testing.T, text string) Allow {
	t.Helper()
	a, err := ParseAllow(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestRules(t *testing.T) {
	t.Parallel()
	const (
		loopback, unspecified, private = "is at a loopback address", "is at the unspecified address", "is at a private address"
		linkLocal, multicast, reserved = "is at a link-local address", "is at a multicast address", "is at a reserved address"
		clouds                         = "is at the address of a cloud's metadata"
	)
	g := NewGuard(Allow{}, net.Dialer{})
	for addr, want := range map[string]string{
		"8.8.8.8": "", "93.184.215.14": "", "100.63.255.255": "", "100.128.0.1": "", "172.15.255.255": "", "172.32.0.1": "",
		"126.255.255.255": "", "128.0.0.1": "", "168.63.129.15": "", "223.255.255.255": "",
		"2606:4700::1111": "", "2a00:1450:4001:80f::200e": "",

		"127.0.0.1": loopback, "127.255.255.254": loopback, "::1": loopback, "::1%lo": loopback,
		"0.0.0.0": unspecified, "::": unspecified, "0.1.2.3": reserved,
		"10.0.0.1": private, "172.16.0.1": private, "172.31.255.255": private, "192.168.1.1": private,
		"fc00::1": private, "fdff::1": private,
		"169.254.1.1": linkLocal, "fe80::1": linkLocal, "fe80::1%eth0": linkLocal, "febf::1": linkLocal,
		"224.0.0.1": multicast, "239.255.255.255": multicast, "ff02::1": multicast, "ff0e::1": multicast,
		"255.255.255.255": reserved, "240.0.0.1": reserved, "100.64.0.1": reserved, "100.127.255.255": reserved,
		"192.0.0.8": reserved, "192.0.2.1": reserved, "198.51.100.1": reserved, "203.0.113.1": reserved, "198.18.0.1": reserved,
		"198.19.255.255": reserved, "192.88.99.1": reserved,
		"169.254.169.254": clouds, "169.254.170.2": clouds, "168.63.129.16": clouds, "100.100.100.200": clouds,
		"192.0.0.192": clouds, "fd00:ec2::254": clouds, "fd00:ec2::23": clouds, "fd20:ce::254": clouds,

		// IPv4 within IPv6: mapped, compatible, NAT64 and its own-use block, 6to4, Teredo.
		"::ffff:127.0.0.1": loopback, "::ffff:10.0.0.1": private, "::ffff:169.254.169.254": clouds, "::ffff:8.8.8.8": "",
		"::127.0.0.1": reserved, "::8.8.8.8": reserved,
		"64:ff9b::127.0.0.1": loopback, "64:ff9b::10.0.0.1": private, "64:ff9b::169.254.169.254": clouds, "64:ff9b::8.8.8.8": "",
		"64:ff9b:1::1": reserved, "2002:7f00:1::": reserved, "2002:0808:0808::1": reserved,
		"2001::f5ff:fffe": reserved, "2001:0:4136:e378:8000:63bf:80ff:fffe": reserved,
		"2001:db8::1": reserved, "3fff::1": reserved, "2001:2::1": reserved, "2001:10::1": reserved, "100::1": reserved,
		"5f00::1": reserved, "fec0::1": reserved, "4000::1": reserved,
	} {
		if got := g.rule(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s %q, want %q", addr, got, want)
		}
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	g := NewGuard(allow(t, " 127.0.0.0/8,::1, 10.1.2.3 ,fd00:1::/32,::ffff:192.168.0.1,64:ff9b:1::/48"), net.Dialer{})
	for addr, allowed := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "::1%lo": true, "10.1.2.3": true, "::ffff:10.1.2.3": true,
		"64:ff9b::10.1.2.3": true, "fd00:1::9": true, "192.168.0.1": true, "64:ff9b:1::10.0.0.1": true,
		"10.1.2.4": false, "::2": false, "fd00:2::9": false, "192.168.0.2": false, "169.254.169.254": false,
	} {
		if got := g.rule(netip.MustParseAddr(addr)) == ""; got != allowed {
			t.Errorf("%s is allowed: %v, want %v", addr, got, allowed)
		}
	}
}

func TestAllowIsShown(t *testing.T) {
	t.Parallel()
	const given, want = " *.A.example,10.0.0.1, B.example. ,fd00::/8", "10.0.0.1,fd00::/8,b.example,*.a.example"
	if got := allow(t, given).String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestParseAllow(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", " ": "", "a.example": "", "*.a.example": "", "A.Example.": "", "my_host-1": "", "0.0.0.0/0,::/0": "",
		"10.0.0.0/33":         `"10.0.0.0/33" is not a block of addresses`,
		"10.1.0.0/8":          `"10.1.0.0/8" has bits beyond its length: it must be 10.0.0.0/8`,
		"::ffff:10.0.0.0/104": `"::ffff:10.0.0.0/104" must be written as an IPv4 block`,
		"fe80::1%eth0":        `"fe80::1%eth0" must have no zone`,
		"a.example,,b":        `"" is not an address, a block of addresses or the name of a host`,
		"*":                   `"*" is not an address, a block of addresses or the name of a host`,
		"a.*.example":         `"a.*.example" is not an address, a block of addresses or the name of a host`,
		"http://a.example":    `"http://a.example" is not a block of addresses`,
		"a.example:80":        `"a.example:80" is not an address, a block of addresses or the name of a host`,
		"127.1":               `"127.1" is not an address, but ends in a number`,
		"*.0x7f":              `"*.0x7f" is not an address, but ends in a number`,
	} {
		_, err := ParseAllow(text)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// nameServer answers questions for IPv4 addresses: for each name with the next of its answers, the last one for ever.
type nameServer struct {
	mu      sync.Mutex
	answers map[string][]string
}

func (n *nameServer) resolver(t *testing.T) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := n.answer(buf[:size]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (n *nameServer) answer(question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	n.mu.Lock()
	defer n.mu.Unlock()
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	answers := n.answers[name]
	switch {
	case len(answers) == 0:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(answers[0]).As4()},
		}}
		if len(answers) > 1 {
			n.answers[name] = answers[1:]
		}
	}
	packed, _ := m.Pack()
	return packed
}

// client makes requests that the guard allows, with names of its own.
func client(t *testing.T, allow Allow, answers map[string][]string) *http.Client {
	t.Helper()
	guard := NewGuard(allow, net.Dialer{Timeout: 5 * time.Second, Resolver: (&nameServer{answers: answers}).resolver(t)})
	transport := &http.Transport{DialContext: guard.DialContext, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func serve(t *testing.T, handler http.HandlerFunc) (port string) {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func get(t *testing.T, c *http.Client, url string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err == nil {
		_ = res.Body.Close()
	}
	return err
}

func TestRefused(t *testing.T) {
	t.Parallel()
	port := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was reached") })
	names := map[string][]string{"inside.example": {"127.0.0.1"}, "localhost": {"127.0.0.1"}, "xn--bcher-kva.example": {"127.0.0.1"}}
	const shortened = "ends in a number and is not an address written in full"
	for host, want := range map[string]string{
		"127.0.0.1": "loopback", "localhost": "loopback", "LOCALHOST.": "loopback", "[::1]": "loopback", "[::1%25lo]": "loopback",
		"[::ffff:127.0.0.1]": "loopback", "[::ffff:7f00:1]": "loopback", "[64:ff9b::7f00:1]": "loopback", "[::127.0.0.1]": "reserved",
		"[fe80::1%25lo]": "link-local", "[2002:7f00:1::]": "reserved", "0.0.0.0": "unspecified", "[::]": "unspecified",
		"169.254.169.254": "metadata", "10.0.0.1": "private",
		"127.1": shortened, "127.0.1": shortened, "2130706433": shortened, "017700000001": shortened, "0x7f000001": shortened,
		"0177.0.0.1": shortened, "127.0.0.01": shortened, "0x7f.0.0.1": shortened, "0X7F.1": shortened, "127.0.0.1.": shortened,
		"inside.example": "loopback", "INSIDE.example.": "loopback", "bücher.example": "loopback",
		"public.example@127.0.0.1": "loopback", "8.8.8.8:80@localhost": "loopback",
	} {
		err := get(t, client(t, Allow{}, names), "http://"+host+":"+port+"/")
		var refused *Refusal
		if !errors.As(err, &refused) || !strings.Contains(refused.Rule, want) {
			t.Errorf("%s: %v, want a refusal for %s", host, err, want)
		}
	}
}

func TestAllowed(t *testing.T) {
	t.Parallel()
	port := serve(t, func(http.ResponseWriter, *http.Request) {})
	names := map[string][]string{"inside.example": {"127.0.0.1"}, "deep.inside.example": {"127.0.0.1"}}
	for _, c := range []struct{ allow, host string }{
		{"127.0.0.0/8", "127.0.0.1"}, {"127.0.0.1", "inside.example"}, {"inside.example", "inside.example"},
		{"inside.example", "INSIDE.example."}, {"*.example", "inside.example"}, {"*.example", "deep.inside.example"},
		{"127.0.0.1", "[::ffff:127.0.0.1]"},
	} {
		if err := get(t, client(t, allow(t, c.allow), names), "http://"+c.host+":"+port+"/"); err != nil {
			t.Errorf("%s does not allow %s: %v", c.allow, c.host, err)
		}
	}
	for _, c := range []struct{ allow, host string }{
		{"inside.example", "deep.inside.example"}, {"*.inside.example", "inside.example"}, {"*.nside.example", "inside.example"},
		{"inside.example", "127.0.0.1"}, {"10.0.0.0/8", "inside.example"},
	} {
		var refused *Refusal
		if err := get(t, client(t, allow(t, c.allow), names), "http://"+c.host+":"+port+"/"); !errors.As(err, &refused) {
			t.Errorf("%s allows %s: %v", c.allow, c.host, err)
		}
	}
}

// A name that led to an allowed address when it was looked at first leads to another one the next time.
func TestRebinding(t *testing.T) {
	t.Parallel()
	port := serve(t, func(http.ResponseWriter, *http.Request) {})
	// 127.0.0.1 stands for an address on the internet, 127.0.0.2 for one inside.
	c := client(t, allow(t, "127.0.0.1"), map[string][]string{"rebind.example": {"127.0.0.1", "127.0.0.2"}})
	if err := get(t, c, "http://rebind.example:"+port+"/"); err != nil {
		t.Fatalf("the first request: %v", err)
	}
	var refused *Refusal
	if err := get(t, c, "http://rebind.example:"+port+"/"); !errors.As(err, &refused) || refused.Host != "rebind.example" {
		t.Errorf("the second request: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	inside := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the inside was reached") })
	var target string
	outside := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target, http.StatusFound) })
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "2130706433", "inside.example"} {
		target = "http://" + host + ":" + inside + "/"
		c := client(t, allow(t, "outside.example"), map[string][]string{
			"outside.example": {"127.0.0.1"}, "inside.example": {"127.0.0.1"}, "localhost": {"127.0.0.1"},
		})
		var refused *Refusal
		if err := get(t, c, "http://outside.example:"+outside+"/"); !errors.As(err, &refused) {
			t.Errorf("redirect to %s: %v", target, err)
		}
	}
}

func TestRefusalSaysWhatToDo(t *testing.T) {
	t.Parallel()
	err := get(t, client(t, Allow{}, map[string][]string{"inside.example": {"10.0.0.1"}}), "http://inside.example/?token=secret")
	var refused *Refusal
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	want := "the host inside.example is at a private address, and http tasks connect to the internet alone; " +
		"an operator can allow it with ACTCORE_EGRESS_ALLOW on the worker"
	if refused.Error() != want {
		t.Errorf("%q, want %q", refused, want)
	}
}

func TestOnlyTCP(t *testing.T) {
	t.Parallel()
	g := NewGuard(allow(t, "0.0.0.0/0"), net.Dialer{})
	for _, network := range []string{"unix", "udp", "ip", ""} {
		var refused *Refusal
		if _, err := g.DialContext(t.Context(), network, "127.0.0.1:1"); !errors.As(err, &refused) {
			t.Errorf("%q: %v", network, err)
		}
	}
}
