package network

import (
	"net/netip"
	"slices"
	"strings"
)

// closedText lists what is not the internet: everything that the special-purpose
// registries of IANA call not globally reachable, multicast, what was never given
// out, where a cloud answers for its machines although the address looks public (Azure's
// 168.63.129.16), and the ways of writing an IPv4 address as an IPv6 one that a network may
// translate back (6to4, Teredo, local NAT64). The well-known NAT64 prefix is
// closed for closed IPv4 addresses only: networks without IPv4 reach the rest of
// the internet through it.
const closedText = `
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12
192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15
198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 168.63.129.16/32
::/96 ::ffff:0.0.0.0/96 ::ffff:0:0:0/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32
2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8`

// neverText lists what a name can never stand for, not even an allowed one: this
// host, the link, everybody, and where clouds answer for their machines: Azure, Alibaba, Oracle, Amazon, Google,
// Scaleway (most of them on the link).
const neverText = `0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 224.0.0.0/4 240.0.0.0/4
168.63.129.16/32 100.100.100.200/32 192.0.0.192/32
::/96 ::ffff:0.0.0.0/96 fd00:ec2::/32 fd20:ce::254/128 fd00:42::42/128 fe80::/10 ff00::/8`

// unroutableText lists what no packet leaves the router for, whatever the rules are.
const unroutableText = `
0.0.0.0/8 127.0.0.0/8 224.0.0.0/4 255.255.255.255/32
::/127 ::ffff:0.0.0.0/96 fe80::/10 ff00::/8`

var (
	closed4, closed6 = parseRanges(closedText)
	never4, never6   = parseRanges(neverText)

	unroutable4, unroutable6 = parseRanges(unroutableText)
)

// nat64 is what stands before an IPv4 address in a network that translates.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// parseRanges parses prefixes and adds to the IPv6 ones the NAT64 form of the others.
func parseRanges(text string) (v4, v6 []netip.Prefix) {
	for word := range strings.FieldsSeq(text) {
		p := netip.MustParsePrefix(word)
		if p.Addr().Is6() {
			v6 = append(v6, p)
			continue
		}
		v4 = append(v4, p)
		a, b := nat64.Addr().As16(), p.Addr().As4()
		copy(a[12:], b[:])
		v6 = append(v6, netip.PrefixFrom(netip.AddrFrom16(a), 96+p.Bits()))
	}
	return v4, v6
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Closed reports whether an address is none of the internet: private, local to a
// host, a link or an operator, reserved, for many, or another form of such a one.
func Closed(a netip.Addr) bool {
	if a.Is4In6() {
		a = a.Unmap() // as a socket means it
	}
	a = a.WithZone("")
	if a.Is4() {
		return contains(closed4, a)
	}
	return !a.IsValid() || contains(closed6, a)
}

func never(a netip.Addr) bool {
	a = a.Unmap()
	return contains(never4, a) || contains(never6, a)
}

// isClosedRange reports whether a range lies within one closed one: only such a
// range, when a rule names it, opens what is closed.
func isClosedRange(p netip.Prefix) bool {
	for _, c := range append(slices.Clone(closed4), closed6...) {
		if c.Bits() <= p.Bits() && c.Contains(p.Addr()) {
			return true
		}
	}
	return false
}
