package network

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const everyProtocol = 0x0300 // ETH_P_ALL, in the order of the network

// wire is a packet socket on a device: what a root with raw sockets has.
type wire struct{ fd, device int }

func (w *world) wire(fd int, device string) wire {
	w.t.Helper()
	var x wire
	w.in(fd, func() (err error) {
		dev, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		x.device = dev.Attrs().Index
		if x.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		w.t.Cleanup(func() { unix.Close(x.fd) })
		unix.SetsockoptTimeval(x.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60})
		return unix.Bind(x.fd, &unix.SockaddrLinklayer{Protocol: everyProtocol, Ifindex: x.device})
	})
	return x
}

// until returns the marks, of one letter after "attack ", of the packets that pass before that of the mark end.
func (w *world) until(x wire, end byte) (marks string) {
	w.t.Helper()
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(x.fd, b)
		if err != nil {
			w.t.Fatalf("the packet %c does not come: %v; seen: %q", end, err, marks)
		}
		_, after, ok := bytes.Cut(b[:n], []byte("attack "))
		if !ok || len(after) == 0 {
			continue
		}
		if after[0] == end {
			return marks
		}
		marks += string(after[:1])
	}
}

func frame(to net.HardwareAddr, kind uint16, packet []byte) []byte {
	b := append(append([]byte(nil), to...), slotMAC...)
	return append(binary.BigEndian.AppendUint16(b, kind), packet...)
}

// ip4 is an IPv4 packet; fragment is the field with its flags.
func ip4(from, to netip.Addr, proto byte, fragment uint16, options, body []byte) []byte {
	h := make([]byte, 20, 200)
	h[0], h[8], h[9] = 0x45+byte(len(options)/4), 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(options)+len(body)))
	binary.BigEndian.PutUint16(h[4:], 77)
	binary.BigEndian.PutUint16(h[6:], fragment)
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	h = append(h, options...)
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return append(h, body...)
}

func ip6(from, to netip.Addr, next byte, body []byte) []byte {
	h := make([]byte, 40, 200)
	h[0], h[6], h[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	copy(h[8:], from.AsSlice())
	copy(h[24:], to.AsSlice())
	return append(h, body...)
}

// datagram is one of UDP, without a checksum.
func datagram(port uint16, mark byte) []byte {
	body := append([]byte("attack "), mark)
	b := binary.BigEndian.AppendUint16([]byte{0x30, 0x39}, port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(body)))
	return append(append(b, 0, 0), body...)
}

func TestPacketsMadeByHandReachNoMoreThanOthers(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	s, other := w.take(r, "allow", "8.8.8.8:443", "[2600::8888]:443/udp"), w.take(r, "open")
	up, neighbour, out := w.wire(w.node, r.edge.name), w.wire(other.FD(), "eth0"), w.wire(s.FD(), "eth0")
	v4, v6 := s.Addrs()
	theirs4, theirs6 := other.Addrs()
	at := netip.MustParseAddr
	allowed, private, node, mapped := at("8.8.8.8"), at("10.1.2.3"), at("9.9.9.2"), at("::ffff:10.1.2.3")
	const v4kind, v6kind, icmp, ipip, in6, gre, hop, routing, fragment6 = 0x0800, 0x86dd, 1, 4, 41, 47, 0, 43, 44
	everybody, group := net.HardwareAddr{255, 255, 255, 255, 255, 255}, net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}
	mark := byte('A')
	names := map[byte]string{}
	send := func(name string, to net.HardwareAddr, kind uint16, packet func(mark byte) []byte) {
		names[mark] = name
		w.check(unix.Sendto(out.fd, frame(to, kind, packet(mark)), 0, &unix.SockaddrLinklayer{Ifindex: out.device}))
		mark++
	}
	udp4 := func(from, to netip.Addr, port uint16) func(byte) []byte {
		return func(m byte) []byte { return ip4(from, to, udp, 0, nil, datagram(port, m)) }
	}
	send("the neighbour's source", routerMAC, v4kind, udp4(theirs4, allowed, 443))
	send("the node's source", routerMAC, v4kind, udp4(node, allowed, 443))
	send("the router's source", routerMAC, v4kind, udp4(r.plan.allowed4, allowed, 443))
	send("to the neighbour", routerMAC, v4kind, udp4(v4, theirs4, 443))
	send("to the neighbour's hardware address", slotMAC, v4kind, udp4(v4, theirs4, 443))
	send("to the node's hardware address", nodeMAC, v4kind, udp4(v4, private, 443))
	send("to all hardware addresses", everybody, v4kind, udp4(v4, private, 443))
	send("broadcast", everybody, v4kind, udp4(v4, at("255.255.255.255"), 443))
	send("multicast", group, v4kind, udp4(v4, at("224.0.0.1"), 443))
	for name, proto := range map[string]byte{"IP in IP": ipip, "IPv6 in IP": in6, "GRE": gre} {
		for _, to := range []netip.Addr{allowed, private} {
			send(name, routerMAC, v4kind, func(m byte) []byte {
				return ip4(v4, to, proto, 0, nil, ip4(v4, private, udp, 0, nil, datagram(443, m)))
			})
		}
	}
	for _, first := range []netip.Addr{r.plan.gateway4, r.plan.plain4} {
		send("a source route through the router", routerMAC, v4kind, func(m byte) []byte {
			route := append([]byte{131, 7, 4}, private.AsSlice()...)
			return ip4(v4, first, udp, 0, append(route, 0), datagram(443, m))
		})
	}
	send("a redirect", routerMAC, v4kind, func(m byte) []byte {
		body := append([]byte{5, 1, 0, 0}, v4.AsSlice()...)
		return ip4(v4, r.plan.gateway4, icmp, 0, nil, append(body, ip4(theirs4, allowed, udp, 0, nil, datagram(443, m))...))
	})
	const more, at8 = 1 << 13, 1
	send("the first fragment, to a closed port", routerMAC, v4kind, func(m byte) []byte {
		return ip4(v4, allowed, udp, more, nil, datagram(80, m))
	})
	send("a fragment over it, with an allowed port", routerMAC, v4kind, func(m byte) []byte {
		return ip4(v4, allowed, udp, more, nil, datagram(443, m))
	})
	send("the last fragment", routerMAC, v4kind, func(m byte) []byte { return ip4(v4, allowed, udp, at8*2, nil, append([]byte("attack "), m)) })
	send("a fragment without ports", routerMAC, v4kind, func(m byte) []byte { return ip4(v4, private, udp, at8, nil, append([]byte("attack "), m)) })

	udp6 := func(from, to netip.Addr) func(byte) []byte {
		return func(m byte) []byte { return ip6(from, to, udp, datagram(443, m)) }
	}
	private6, allowed6 := at("fd00:9::3"), at("2600::8888")
	send("IPv4-mapped", routerMAC, v6kind, udp6(v6, mapped))
	send("from an IPv4-mapped source", routerMAC, v6kind, udp6(mapped, allowed6))
	send("the neighbour's IPv6 source", routerMAC, v6kind, udp6(theirs6, allowed6))
	send("a source of the link", routerMAC, v6kind, udp6(at("fe80::1"), at("ff02::1")))
	send("to the neighbour by IPv6", routerMAC, v6kind, udp6(v6, theirs6))
	options := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	send("behind options", routerMAC, v6kind, func(m byte) []byte {
		return ip6(v6, private6, hop, append(options(udp), datagram(443, m)...))
	})
	send("a routing header", routerMAC, v6kind, func(m byte) []byte {
		header := append([]byte{udp, 2, 0, 1, 0, 0, 0, 0}, private6.AsSlice()...)
		return ip6(v6, r.plan.gateway6, routing, append(header, datagram(443, m)...))
	})
	send("a fragment of IPv6", routerMAC, v6kind, func(m byte) []byte {
		return ip6(v6, private6, fragment6, append([]byte{udp, 0, 0, 0, 0, 0, 0, 9}, datagram(443, m)...))
	})
	// What is allowed passes, made by hand as well: the attempts are real.
	const good = 'z'
	w.check(unix.Sendto(out.fd, frame(routerMAC, v4kind, udp4(v4, allowed, 443)('y')), 0, &unix.SockaddrLinklayer{Ifindex: out.device}))
	w.check(unix.Sendto(out.fd, frame(routerMAC, v6kind, udp6(v6, allowed6)(good)), 0, &unix.SockaddrLinklayer{Ifindex: out.device}))
	seen := w.until(up, good)
	if !strings.Contains(seen, "y") {
		t.Error("what is allowed does not pass")
	}
	for _, m := range strings.ReplaceAll(seen, "y", "") { // it may come back in an answer of ICMP
		t.Errorf("left the router: %s", names[byte(m)])
	}
	w.in(r.fd, func() error { // the router itself may send to the neighbour
		c, err := net.Dial("udp", netip.AddrPortFrom(theirs4, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("attack z"))
		return err
	})
	for _, m := range w.until(neighbour, good) {
		t.Errorf("reached the neighbour: %s", names[byte(m)])
	}
}

func TestNobodyReachesASlot(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	s, other := w.take(r, "open"), w.take(r, "open")
	w.serve(s.FD(), ":80")
	v4, v6 := s.Addrs()
	var work sync.WaitGroup
	for _, a := range []netip.Addr{v4, v6, r.plan.plain4, r.plan.plain6, r.plan.allowed4} {
		addr := netip.AddrPortFrom(a, 80).String()
		for name, fd := range map[string]int{"the node": w.node, "the internet": w.internet, "the private network": w.private, "another function": other.FD()} {
			if fd == w.internet || fd == w.private { // as a machine on the same wire may try
				w.in(fd, func() error {
					gw := map[bool]map[int]string{true: {w.internet: "9.9.9.2", w.private: "10.1.2.1"}, false: {w.internet: "2600:9::2", w.private: "fd00:9::1"}}[a.Is4()][fd]
					return netlink.RouteReplace(&netlink.Route{Dst: host(a), Gw: net.ParseIP(gw)})
				})
			}
			for _, network := range []string{"tcp", "udp"} {
				work.Go(func() {
					if answer, err := w.ask(fd, network, addr); err == nil {
						t.Errorf("%s reaches %s of a function by %s: %q", name, addr, network, answer)
					}
				})
			}
		}
	}
	work.Wait()
	// Somebody who puts a route to the slots on the node gets no further.
	w.in(w.node, func() error {
		dev, err := netlink.LinkByName(r.edge.name)
		if err != nil {
			return err
		}
		n := &netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: v4.AsSlice(), HardwareAddr: routerMAC}
		if err := netlink.NeighSet(n); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Dst: host(v4), Scope: netlink.SCOPE_LINK})
	})
	for _, fd := range []int{w.node, w.internet, w.private} {
		if answer, err := w.ask(fd, "tcp", netip.AddrPortFrom(v4, 80).String()); err == nil {
			t.Errorf("by a route on the node: %q", answer)
		}
	}
}
