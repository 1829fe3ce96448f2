package api

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddress is the IP address that a request came from. What a header says about that is believed of trusted proxies only: each
// writes whom it heard at the end of X-Forwarded-For, so the client is the last one there that is no trusted proxy. What stands before
// it, the client may have made up.
func clientAddress(r *http.Request, trusted []netip.Prefix) string {
	remote, ok := parseAddress(r.RemoteAddr)
	if !ok {
		return r.RemoteAddr
	}
	isTrusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	// From the last to the first, in a header that a proxy may have repeated instead of extending it.
	lists := r.Header.Values("X-Forwarded-For")
	for i := len(lists) - 1; i >= 0; i-- {
		for list, more := lists[i], true; more; {
			if !isTrusted(remote) {
				return remote.String()
			}
			var last string
			if comma := strings.LastIndexByte(list, ','); comma >= 0 {
				list, last = list[:comma], list[comma+1:]
			} else {
				last, more = list, false
			}
			hop, ok := parseAddress(strings.TrimSpace(last))
			if !ok { // a proxy that hides its client, or writes what we do not know: no address is better known than its own
				return remote.String()
			}
			remote = hop
		}
	}
	return remote.String()
}

// parseAddress reads an IP address with or without a port, in its short form and without a zone. An IPv4 address within IPv6 is the
// IPv4 address.
func parseAddress(text string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return addr.Unmap().WithZone(""), err == nil
}
