package network

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// plan has the addresses of a router and of its uplink. The slots' addresses
// are known within the router only, so that two daemons may have the same; what
// they may not do is to hide a network that the node reaches.
type plan struct {
	kernel6            bool         // the kernel has IPv6
	v6                 bool         // and the node wants it
	uplink             string       // the device on the node
	slots4             netip.Prefix // a /17
	slots6             netip.Prefix // a /64
	gateway4, gateway6 netip.Addr   // of every slot, with the name server
	node4, node6       netip.Addr   // the node's end of the uplink
	plain4, plain6     netip.Addr   // what connections to the internet come from, as the node sees them
	allowed4, allowed6 netip.Addr   // what connections come from that a rule with an exact address or a name allows
}

// newPlan chooses addresses that collide with no route and no address of the
// network that it is called in.
func newPlan(cfg Config) (plan, error) {
	taken, err := takenRanges()
	if err != nil {
		return plan{}, err
	}
	h := fnv.New64a()
	h.Write([]byte(cfg.Generation))
	seed := h.Sum64()
	p := plan{kernel6: exists("/proc/sys/net/ipv6"), uplink: uplinkName(cfg.Generation)}
	p.v6 = p.kernel6 && !isOn("/proc/sys/net/ipv6/conf/default/disable_ipv6")
	if cfg.Range.Bits() > 18 || !cfg.Range.Addr().Is4() {
		return plan{}, fmt.Errorf("range %s: want an IPv4 range of /18 or larger", cfg.Range)
	}
	size := max(17, cfg.Range.Bits()+1) // one half for the slots, of the other some addresses for the uplink
	count := uint64(1) << (size - 1 - cfg.Range.Bits())
	for i := range count {
		both := netip.PrefixFrom(offset(cfg.Range.Addr(), uint32((seed+i)%count)<<(33-size)), size-1)
		if overlaps(taken, both) {
			continue
		}
		// The uplink's eight addresses are anywhere in the upper half.
		end := offset(both.Addr(), 1<<(32-size)|uint32(seed>>32)%(1<<(32-size))&^7)
		p.slots4 = netip.PrefixFrom(both.Addr(), size)
		p.gateway4, p.node4, p.plain4, p.allowed4 = offset(both.Addr(), 1), offset(end, 1), offset(end, 2), offset(end, 3)
		break
	}
	if !p.slots4.IsValid() {
		return plan{}, fmt.Errorf("range %s: every part of it has a route on this machine", cfg.Range)
	}
	for i := range uint64(256) {
		b := [16]byte{0: 0xfd}
		for k := range 7 { // 40 bits that differ from daemon to daemon, 16 of a network
			b[1+k] = byte((seed + i) >> (8 * k))
		}
		b[7] = 0
		net6 := netip.PrefixFrom(netip.AddrFrom16(b), 56)
		if overlaps(taken, net6) {
			continue
		}
		p.slots6, p.gateway6 = netip.PrefixFrom(net6.Addr(), 64), offset(net6.Addr(), 1)
		b[7] = 1
		end := netip.AddrFrom16(b)
		p.node6, p.plain6, p.allowed6 = offset(end, 1), offset(end, 2), offset(end, 3)
		return p, nil
	}
	return plan{}, errors.New("every private IPv6 range has a route on this machine")
}

// uplinkName is the name of a generation's device: the kernel takes 15 characters.
func uplinkName(generation string) string {
	return namePrefix + generation[max(0, len(generation)-11):]
}

const namePrefix = "hob-"

// offset adds to an address.
func offset(a netip.Addr, n uint32) netip.Addr {
	b := a.AsSlice()
	for i := len(b) - 1; n > 0 && i >= 0; i-- {
		n += uint32(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	sum, _ := netip.AddrFromSlice(b)
	return sum
}

func overlaps(list []netip.Prefix, p netip.Prefix) bool {
	for _, t := range list {
		if t.Overlaps(p) {
			return true
		}
	}
	return false
}

// takenRanges are the destinations of the routes of the calling thread's network,
// local ones included, other than the default ones.
func takenRanges() (list []netip.Prefix, err error) {
	routes, err := allRoutes()
	for _, route := range routes {
		if p, ok := prefixOf(route.Dst); ok && p.Bits() > 0 {
			list = append(list, p)
		}
	}
	return list, err
}

// allRoutes are those of all tables of the calling thread's network.
func allRoutes() (all []netlink.Route, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
		all = append(all, routes...)
	}
	return all, nil
}

// smallestMTU is that of the devices that the default routes of the calling thread's
// network go through, between what IPv6 needs and what the internet has.
func smallestMTU() (int, error) {
	routes, err := allRoutes()
	mtu := 1500
	for _, route := range routes {
		if p, ok := prefixOf(route.Dst); ok && p.Bits() > 0 {
			continue
		}
		if route.MTU > 0 {
			mtu = min(mtu, route.MTU)
		}
		for _, hop := range append(route.MultiPath, &netlink.NexthopInfo{LinkIndex: route.LinkIndex}) {
			if dev, err := netlink.LinkByIndex(hop.LinkIndex); err == nil {
				mtu = min(mtu, dev.Attrs().MTU)
			}
		}
	}
	return max(mtu, 1280), err
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a, ones), ok
}
