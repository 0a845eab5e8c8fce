package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// soon waits until something holds.
func (w *world) soon(what string, holds func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), longEnough)
	defer cancel()
	for tick := time.Tick(10 * time.Millisecond); !holds(); {
		select {
		case <-tick:
		case <-ctx.Done():
			w.t.Fatalf("it is still not so that %s; the node:\n%s", what, w.looks())
		}
	}
}

// connects waits until a slot has a way to the internet again.
func (w *world) connects(s *Slot) {
	w.t.Helper()
	for _, addr := range []string{"8.8.8.8:443", "[2600::8888]:443"} {
		w.soon("functions reach "+addr, func() bool { _, err := w.ask(s.FD(), "tcp", addr); return err == nil })
	}
}

// lanIsCutOff fails if the node is a router for others.
func (w *world) lanIsCutOff(when string) {
	w.t.Helper()
	var asks sync.WaitGroup
	for from, addr := range map[int]string{w.private: "8.8.8.8:443", w.internet: "10.1.2.3:443"} {
		asks.Go(func() {
			if _, err := w.ask(from, "tcp", addr); err == nil {
				w.t.Errorf("%s, the node passes on to %s what is not of functions", when, addr)
			}
		})
	}
	asks.Wait()
}

// guarded is a node that others want to be a router, and a function's slot.
func guarded(t *testing.T) (*world, *Router, *Slot, string) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	w.serve(w.internet, "[2600::8888]:443")
	w.serve(w.private, "10.1.2.3:443")
	w.route(w.private, "8.8.8.8/32", "10.1.2.1")
	w.route(w.private, "9.9.9.0/24", "10.1.2.1")
	w.route(w.internet, "10.1.2.0/24", "9.9.9.2")
	before := w.looks()
	r := w.router()
	s := w.take(r, "open")
	w.connects(s)
	w.lanIsCutOff("before anything happened")
	return w, r, s, before
}

func (w *world) flush() {
	w.t.Helper()
	conn := w.filter()
	conn.FlushRuleset()
	w.check(conn.Flush())
}

func (w *world) hasTable(r *Router) bool {
	tables, err := w.filter().ListTablesOfFamily(nftables.TableFamilyINet)
	w.check(err)
	for _, t := range tables {
		if t.Name == r.plan.uplink {
			return true
		}
	}
	return false
}

func (w *world) isForwarding(device string) (on bool) {
	w.in(w.node, func() error { on = isOn(forwardFile("ipv4", device)); return nil })
	return on
}

func TestAFirewallThatRestartsCutsNobodyOff(t *testing.T) {
	w, r, s, before := guarded(t)
	for range 3 {
		w.flush()
		w.soon("the table is there", func() bool { return w.hasTable(r) })
		w.connects(s)
		w.lanIsCutOff("after the ruleset was flushed")
	}
	w.check(r.Close())
	if after := w.looks(); after != before {
		t.Errorf("after Close: %s\nbefore: %s", after, before)
	}
}

func TestAFirewallThatRestartsOnAMachineThatForwardsCutsNobodyOff(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	w.serve(w.internet, "[2600::8888]:443")
	w.in(w.node, func() error {
		return setAll([]setting{{"ipv4/ip_forward", "1"}, {"ipv6/conf/all/forwarding", "1"}})
	})
	before := w.looks()
	r := w.router()
	s := w.take(r, "open")
	w.connects(s)
	w.docker()
	w.connects(s)
	w.flush()
	w.connects(s)
	w.check(r.Close())
	if after := w.looks(); after != before {
		t.Errorf("after Close: %s\nbefore: %s", after, before)
	}
}

// holdsBack waits for what stands in for the table of a router.
func (w *world) holdsBack(r *Router) {
	w.t.Helper()
	w.soon("the second tables are there", func() bool { r.edge.mu.Lock(); defer r.edge.mu.Unlock(); return r.edge.held != nil })
}

func TestWhileItsTableIsGoneTheNodeIsNoRouterForOthers(t *testing.T) {
	w, r, s, before := guarded(t)
	w.holdsBack(r)
	func() {
		r.edge.mu.Lock() // nothing is made anew
		defer r.edge.mu.Unlock()
		w.flush()
		if w.hasTable(r) || !w.isForwarding("wan") || !w.isForwarding("lan") {
			t.Errorf("the node after a flush:\n%s", w.looks())
		}
		w.lanIsCutOff("while the table is gone")
	}()
	w.connects(s)
	w.lanIsCutOff("after the table was made anew")
	w.check(r.Close())
	if after := w.looks(); after != before {
		t.Errorf("after Close: %s\nbefore: %s", after, before)
	}
}

func TestATableWithoutItsRulesOrDevicesIsMadeAnew(t *testing.T) {
	w, r, s, before := guarded(t)
	conn := w.filter()
	for _, harm := range []func(){
		func() { conn.FlushTable(r.edge.table) },
		func() { conn.FlushChain(&nftables.Chain{Name: "forward", Table: r.edge.table}) },
		func() { conn.FlushSet(r.edge.forwarding("ipv4")) },
	} {
		harm()
		w.check(conn.Flush())
		w.soon("the table is whole", func() bool { r.edge.mu.Lock(); defer r.edge.mu.Unlock(); return r.edge.isWhole() })
		w.connects(s)
		w.lanIsCutOff("after the table was harmed")
	}
	w.check(r.Close())
	if after := w.looks(); after != before {
		t.Errorf("after Close: %s\nbefore: %s", after, before)
	}
}

// owned makes a table that belongs to this process: nobody else may change or remove it.
func (w *world) owned(name string) (release func()) {
	w.t.Helper()
	var conn *mdlayher.Conn
	w.in(w.node, func() (err error) { conn, err = mdlayher.Dial(unix.NETLINK_NETFILTER, nil); return err })
	const both = nftables.TableFamilyINet
	w.check(transact(conn, tableMessage(unix.NFT_MSG_DELTABLE, both, name, 0), tableMessage(unix.NFT_MSG_NEWTABLE, both, name, ofConnection)))
	return func() { conn.Close() }
}

func TestWithoutItsTableTheNodeIsNoRouter(t *testing.T) {
	w, r, s, before := guarded(t)
	release := w.owned(r.plan.uplink)
	w.soon("nothing is forwarded", func() bool { return !w.isForwarding("wan") && !w.isForwarding("lan") })
	w.lanIsCutOff("without the table")
	w.refuses(s, "tcp", "8.8.8.8:443")
	release() // of which the kernel tells nobody
	conn := w.filter()
	conn.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyINet})
	w.check(conn.Flush())
	w.connects(s)
	w.lanIsCutOff("after the table was made anew")

	release = w.owned(r.plan.uplink)
	if err := r.Close(); err == nil {
		t.Error("Close says nothing of a table that it cannot remove")
	}
	release()
	w.soon("their table is gone", func() bool { return !w.hasTable(r) })
	if after := w.looks(); after != before {
		t.Errorf("after Close: %s\nbefore: %s", after, before)
	}
}

func TestAnUplinkThatSomebodyRemovedOrSwitchedOffIsMadeAnew(t *testing.T) {
	for name, harm := range map[string]func(netlink.Link) error{"removed": netlink.LinkDel, "switched off": netlink.LinkSetDown} {
		t.Run(name, func(t *testing.T) {
			w, r, s, before := guarded(t)
			for range 2 {
				w.in(w.node, func() error {
					dev, err := netlink.LinkByName(r.plan.uplink)
					if err != nil {
						return err
					}
					return harm(dev)
				})
				w.connects(s)
				w.lanIsCutOff("after the uplink was " + name)
				w.refuses(s, "tcp", "10.1.2.3:443")
				w.connects(w.take(r, "open"))
			}
			w.check(r.Close())
			if after := w.looks(); after != before {
				t.Errorf("after Close: %s\nbefore: %s", after, before)
			}
		})
	}
}

// setMTU sets that of both ends of a wire of the node.
func (w *world) setMTU(mtu int, device string, other int) {
	w.t.Helper()
	for name, fd := range map[string]int{device: w.node, "eth0": other} {
		w.in(fd, func() error {
			dev, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(dev, mtu)
		})
	}
}

// sinks counts what is sent to it over TCP, and echoes one length for each datagram.
func (w *world) sinks(addr string) {
	w.t.Helper()
	w.in(w.internet, func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		done := make(chan struct{})
		w.t.Cleanup(func() { l.Close(); <-done })
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.SetDeadline(time.Now().Add(longEnough))
				n, _ := io.Copy(io.Discard, c)
				fmt.Fprint(c, n)
				c.Write(make([]byte, n))
				c.Close()
			}
		}()
		return nil
	})
}

// transfer sends a megabyte and gets it back.
func (w *world) transfer(s *Slot, addr string) {
	w.t.Helper()
	const size = 1 << 20
	w.in(s.FD(), func() error {
		c, err := net.DialTimeout("tcp", addr, longEnough)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(longEnough))
		if _, err := c.Write(make([]byte, size)); err != nil {
			return fmt.Errorf("send to %s: %w", addr, err)
		}
		c.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		if want := fmt.Sprint(size); err != nil || len(got) != size+len(want) || !strings.HasPrefix(string(got), want) {
			return fmt.Errorf("%s answers with %d bytes, %w", addr, len(got), err)
		}
		return nil
	})
}

// whole sends a datagram that may not be cut, until it is answered or does not fit
// the way any more.
func (w *world) whole(s *Slot, addr string, size int) (fits bool) {
	w.t.Helper()
	w.in(s.FD(), func() error {
		c, err := net.Dial("udp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
		if addr[0] == '[' {
			level, option, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
		}
		var set error
		if err := errors.Join(raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, value) }), set); err != nil {
			return err
		}
		for range 50 {
			_, err := c.Write(make([]byte, size))
			if errors.Is(err, unix.EMSGSIZE) {
				return nil
			}
			c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := c.Read(make([]byte, 100)); err == nil {
				fits = true
				return nil
			} else if errors.Is(err, unix.EMSGSIZE) {
				return nil
			}
		}
		return fmt.Errorf("%s neither answers nor is told to be too far for %d bytes", addr, size)
	})
	return fits
}

func TestWhatIsSmallerThanTheDevicesOfSlotsPassesOn(t *testing.T) {
	for name, mtu := range map[string]int{"as the node's": 0, "found on the way": 1500} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.setMTU(1400, "wan", w.internet)
			addrs := []string{"8.8.8.8:443", "[2600::8888]:443"}
			for _, addr := range addrs {
				w.serve(w.internet, addr)
				w.sinks(strings.Replace(addr, ":443", ":444", 1))
			}
			r := w.router(func(c *Config) { c.MTU = mtu })
			s := w.take(r, "open")
			if mtu == 0 && r.cfg.MTU != 1400 {
				t.Errorf("slots have an MTU of %d", r.cfg.MTU)
			}
			for _, addr := range addrs {
				w.transfer(s, strings.Replace(addr, ":443", ":444", 1))
			}
			s = w.take(r, "open") // which knows nothing of the way yet
			for _, addr := range addrs {
				if w.whole(s, addr, 1400) {
					t.Errorf("%s: 1400 bytes fit into a packet of 1400", addr)
				}
				if !w.whole(s, addr, 1300) {
					t.Errorf("%s: 1300 bytes do not fit into a packet of 1400", addr)
				}
			}
		})
	}
}

func TestWhatAKernelSaysByItselfIsNoRefusedConnection(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	s := w.take(r, "open")
	x := w.wire(s.FD(), "eth0")
	gateway := r.plan.gateway4
	v4, _ := s.Addrs()
	late := ip4(gateway, v4, udp, 0, nil, []byte{0, 53, 0xab, 0xcd, 0, 9, 0, 0, 'x'})
	for _, kind := range []byte{3, 11, 12, 0} { // unreachable, too long on the way, not understood, an answer to an echo
		body := append([]byte{kind, 3, 0, 0, 0, 0, 0, 0}, late...)
		w.check(unix.Sendto(x.fd, frame(routerMAC, 0x0800, ip4(v4, gateway, unix.IPPROTO_ICMP, 0, nil, body)), 0, &unix.SockaddrLinklayer{Ifindex: x.device}))
	}
	// Who asks for an echo is refused, and that is told after all before.
	body := []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}
	w.check(unix.Sendto(x.fd, frame(routerMAC, 0x0800, ip4(v4, gateway, unix.IPPROTO_ICMP, 0, nil, body)), 0, &unix.SockaddrLinklayer{Ifindex: x.device}))
	select {
	case <-w.told:
	case <-time.After(longEnough):
		t.Error("a refused echo is not told")
	}
	n, err := r.Refusals()
	w.check(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	if n != 1 || len(w.refused) != 1 {
		t.Errorf("%d refusals are counted, told: %v; want one", n, w.refused)
	}
}
