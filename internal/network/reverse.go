package network

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"hob/faas"
)

// hidden reports whether a name is one of the DNS's for closed addresses that no
// rule opens: the node's name servers know what the machines around it are called,
// and would list them to whoever asks.
func hidden(name string, rules []faas.EgressRule) bool {
	p, ok := reverse(name)
	return ok && isClosedRange(p) && !slices.ContainsFunc(rules, func(r faas.EgressRule) bool {
		return r.Range.Bits() <= p.Bits() && opens(r, p.Addr(), false)
	})
}

// reverse is the range of addresses that a name, in lower case and without a dot at its end, is
// for; false: it is for none. Labels before the numbers count for nothing: there, too, may be names.
func reverse(name string) (netip.Prefix, bool) {
	four, is4 := strings.CutSuffix(name, ".in-addr.arpa")
	six, is6 := strings.CutSuffix(name, ".ip6.arpa")
	switch {
	case is4:
		b, n := numbers(four, 4, 10, 8)
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), 8*n), true
	case is6:
		b, n := numbers(six, 32, 16, 4)
		var addr [16]byte
		for i := range addr {
			addr[i] = b[2*i]<<4 | b[2*i+1]
		}
		return netip.PrefixFrom(netip.AddrFrom16(addr), 4*n), true
	}
	return netip.Prefix{}, false
}

// numbers reads labels from the last to the first, while they are numbers of so many
// bits and at most size; n is how many there are.
func numbers(labels string, size, base, bits int) (list []byte, n int) {
	list = make([]byte, size)
	for _, label := range slices.Backward(strings.Split(labels, ".")) {
		number, err := strconv.ParseUint(label, base, bits)
		if err != nil || n == size {
			break
		}
		list[n] = byte(number)
		n++
	}
	return list, n
}
