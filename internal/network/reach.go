package network

import (
	"net/netip"
	"slices"
	"strings"

	"hob/faas"
)

// opens reports whether a rule opens an address, whatever the port. node says
// that the address is the node's.
func opens(r faas.EgressRule, a netip.Addr, node bool) bool {
	if r.Name != "" || !r.Range.Contains(a) {
		return false
	}
	return r.Range.IsSingleIP() || !node && (!Closed(a) || isClosedRange(r.Range))
}

// reaches reports whether a connection is within e.
func reaches(e faas.Egress, network string, to netip.AddrPort, node bool) bool {
	switch {
	case e.Mode == faas.NetworkHost:
		return true
	case e.Mode == faas.NetworkOpen && !node && !Closed(to.Addr()):
		return true
	}
	return e.Mode != faas.NetworkNone && e.Mode != "" && slices.ContainsFunc(e.Rules, func(r faas.EgressRule) bool {
		return opens(r, to.Addr(), node) && r.First <= to.Port() && to.Port() <= r.Last &&
			strings.HasPrefix(network, r.Protocol)
	})
}
