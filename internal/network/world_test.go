package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/testenv"
)

// A world is a machine and what is around it, each a network namespace: nothing
// of a test happens in the network of this machine.
type world struct {
	t        testing.TB
	home     int
	node     int // 9.9.9.2, 2600:9::2 and 10.1.2.1; forwards nothing
	internet int // 9.9.9.1, 8.8.8.8, 1.2.3.4, 2600::8888
	private  int // 10.1.2.3, fd00:9::3; 169.254.169.254, fd00:ec2::254
	mu       sync.Mutex
	refused  []Refusal
	told     chan struct{}
	resolves map[string][]netip.Addr          // by name, with its last dot
	records  map[string][]dnsmessage.Resource // by name: the whole answer to any question
	ttl      uint32                           // of what they stand for, in seconds
	asked    int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.NetNS)
	goleak := goleak.IgnoreCurrent()
	w := &world{t: t, told: make(chan struct{}, 4096), resolves: map[string][]netip.Addr{}, ttl: 2}
	t.Cleanup(func() { verifyNoGoroutines(t, goleak) })
	thread, err := linux.NewThread(func() error { return nil })
	w.check(err)
	t.Cleanup(thread.Close)
	w.home, err = linux.OpenNamespace(thread.TID(), "net")
	w.check(err)
	for _, fd := range []*int{&w.node, &w.internet, &w.private} {
		thread.Do(func() { *fd, err = linux.NewNetwork(w.home) })
		w.check(err)
	}
	t.Cleanup(func() {
		for _, fd := range []int{w.home, w.node, w.internet, w.private} {
			unix.Close(fd)
		}
	})
	w.in(w.node, func() error {
		if err := setAll([]setting{{"ipv4/ip_forward", "0"}, {"ipv6/conf/all/forwarding", "0"}}); err != nil {
			return err
		}
		for name, to := range map[string]int{"wan": w.internet, "lan": w.private} {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(to)}); err != nil {
				return err
			}
		}
		return nil
	})
	w.device(w.internet, "eth0", "9.9.9.1/24", "2600:9::1/64")
	w.device(w.internet, "lo", "8.8.8.8/32", "1.2.3.4/32", "2600::8888/128")
	w.device(w.private, "eth0", "10.1.2.3/24", "fd00:9::3/64")
	w.device(w.private, "lo", "169.254.169.254/32", "fd00:ec2::254/128", "192.168.7.7/32")
	w.device(w.node, "wan", "9.9.9.2/24", "2600:9::2/64")
	w.device(w.node, "lan", "10.1.2.1/24", "fd00:9::1/64")
	w.meet(w.node, "wan", w.internet, []string{"9.9.9.2", "2600:9::2"}, []string{"9.9.9.1", "2600:9::1"})
	w.meet(w.node, "lan", w.private, []string{"10.1.2.1", "fd00:9::1"}, []string{"10.1.2.3", "fd00:9::3"})
	w.route(w.node, "0.0.0.0/0", "9.9.9.1")
	w.route(w.node, "::/0", "2600:9::1")
	w.route(w.node, "169.254.169.254/32", "10.1.2.3")
	w.route(w.node, "192.168.0.0/16", "10.1.2.3")
	w.route(w.node, "fd00:ec2::254/128", "fd00:9::3")
	return w
}

func verifyNoGoroutines(t testing.TB, before goleak.Option) { goleak.VerifyNone(t, before) }

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// in carries out f in a network.
func (w *world) in(fd int, f func() error) {
	w.t.Helper()
	w.check(w.try(fd, f))
}

func (w *world) try(fd int, f func() error) error {
	t, err := linux.NewThread(func() error { return unix.Setns(fd, unix.CLONE_NEWNET) })
	if err != nil {
		return err
	}
	defer t.Close()
	t.Do(func() { err = f() })
	return err
}

func (w *world) device(fd int, name string, addrs ...string) {
	w.t.Helper()
	w.in(fd, func() error {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, text := range addrs {
			a, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			if a.IP.To4() != nil {
				a.Flags = 0
			}
			if err := netlink.AddrAdd(dev, a); err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
		if err := netlink.LinkSetUp(dev); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		for _, text := range addrs {
			if err := usable(h, netip.MustParsePrefix(text).Addr()); err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
		return nil
	})
}

// meet tells the two ends of a wire of each other, and waits until it is up: else
// the first packet may wait a second for the kernel to find the neighbour.
func (w *world) meet(a int, device string, b int, addrs, others []string) {
	w.t.Helper()
	var mac [2]net.HardwareAddr
	ends := []struct {
		fd   int
		name string
	}{{a, device}, {b, "eth0"}}
	each := func(f func(i int, h *netlink.Handle, dev netlink.Link) error) {
		for i, end := range ends {
			w.in(end.fd, func() error {
				h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
				if err != nil {
					return err
				}
				defer h.Close()
				dev, err := h.LinkByName(end.name)
				if err != nil {
					return err
				}
				return f(i, h, dev)
			})
		}
	}
	each(func(i int, h *netlink.Handle, dev netlink.Link) error {
		mac[i] = dev.Attrs().HardwareAddr
		return settle(h, dev.Attrs().Index)
	})
	each(func(i int, h *netlink.Handle, dev netlink.Link) error {
		for _, ip := range [][]string{others, addrs}[i] {
			n := &netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: mac[1-i]}
			if err := h.NeighSet(n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *world) route(fd int, to, via string) {
	w.t.Helper()
	w.in(fd, func() error {
		_, dst, err := net.ParseCIDR(to)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
	})
}

// serve has somebody in a network answer on TCP and UDP with the address that
// they are asked from.
func (w *world) serve(fd int, addr string) {
	w.t.Helper()
	var work sync.WaitGroup
	w.in(fd, func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		work.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr())
				c.Close()
			}
		})
		work.Go(func() {
			b := make([]byte, 8192)
			for {
				_, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				p.WriteTo([]byte(from.(*net.UDPAddr).AddrPort().Addr().String()), from)
			}
		})
		w.t.Cleanup(func() { l.Close(); p.Close(); work.Wait() })
		return nil
	})
}

// How long tests wait for what must come, and for what must not.
const (
	longEnough = time.Minute
	aMoment    = 400 * time.Millisecond
)

// ask connects from a network and returns the answer, which is from whom it seemed to come.
// It waits for a moment, for each of both.
func (w *world) ask(fd int, network, addr string) (answer string, err error) {
	return w.askFor(aMoment, fd, network, addr)
}

func (w *world) askFor(atMost time.Duration, fd int, network, addr string) (answer string, err error) {
	err = w.try(fd, func() error {
		d := net.Dialer{Timeout: atMost}
		c, err := d.DialContext(w.t.Context(), network, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(atMost))
		if network[:3] == "udp" {
			if _, err := c.Write([]byte("hello")); err != nil {
				return err
			}
		}
		b := make([]byte, 100)
		n, err := c.Read(b)
		answer = string(b[:n])
		return err
	})
	return answer, err
}

func (w *world) reaches(s *Slot, network, addr string) {
	w.t.Helper()
	if _, err := w.askFor(longEnough, s.FD(), network, addr); err != nil {
		w.t.Errorf("%s %s: %v; want an answer", network, addr, err)
	}
}

func (w *world) refuses(s *Slot, network, addr string) {
	w.t.Helper()
	if answer, err := w.ask(s.FD(), network, addr); err == nil {
		w.t.Errorf("%s %s answers %q; want that it is refused", network, addr, answer)
	}
}

// router makes a router on the node, whose name server on the internet is answered by w.resolves.
func (w *world) router(edit ...func(*Config)) *Router {
	w.t.Helper()
	cfg := Config{
		Generation: "test" + fmt.Sprint(os.Getpid()), Ready: 2, Node: w.node,
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("8.8.8.8:53")},
		Dial: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = w.try(w.node, func() (err error) { c, err = new(net.Dialer).DialContext(ctx, network, address); return err })
			return c, err
		},
		Refused: func(f Refusal) {
			w.mu.Lock()
			w.refused = append(w.refused, f)
			w.mu.Unlock()
			select {
			case w.told <- struct{}{}:
			default:
			}
		},
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	}
	for _, f := range edit {
		f(&cfg)
	}
	r, err := NewRouter(cfg)
	w.check(err)
	w.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			w.t.Errorf("Close: %v", err)
		}
	})
	return r
}

func (w *world) take(r *Router, mode string, allow ...string) *Slot {
	w.t.Helper()
	p, err := faas.ParseEgress(mode, allow)
	w.check(err)
	s, err := r.Take(w.t.Context(), p, w.t.Name())
	w.check(err)
	return s
}

// names has a name server answer on the internet, from w.resolves.
func (w *world) names() {
	var work sync.WaitGroup
	w.in(w.internet, func() error {
		p, err := net.ListenPacket("udp", "8.8.8.8:53")
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", "8.8.8.8:53")
		if err != nil {
			return err
		}
		answer := func(query []byte, size int) []byte {
			var m dnsmessage.Message
			if m.Unpack(query) != nil {
				return nil
			}
			w.resolve(&m)
			return pack(&m, size)
		}
		work.Go(func() {
			b := make([]byte, 2048)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				p.WriteTo(answer(b[:n], classicSize), from)
			}
		})
		work.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if query, err := readTCP(c); err == nil {
					writeTCP(c, answer(query, 1<<16-1))
				}
				c.Close()
			}
		})
		w.t.Cleanup(func() { p.Close(); l.Close(); work.Wait() })
		return nil
	})
}

func (w *world) resolve(m *dnsmessage.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	m.Response = true
	q := m.Questions[0]
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: w.ttl}
	m.Answers = w.records[q.Name.String()]
	for _, a := range w.resolves[q.Name.String()] {
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
}

// lookup asks a slot's name server, as a program in the slot does.
func (w *world) lookup(r *Router, s *Slot, network, name string) ([]netip.Addr, error) {
	res := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, proto, _ string) (c net.Conn, err error) {
		err = w.try(s.FD(), func() (err error) {
			c, err = new(net.Dialer).DialContext(ctx, proto, net.JoinHostPort(r.plan.gateway4.String(), "53"))
			return err
		})
		return c, err
	}}
	return res.LookupNetIP(w.t.Context(), network, name)
}
