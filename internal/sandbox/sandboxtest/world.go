package sandboxtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/network"
	"hob/internal/testenv"
)

// A World is a node with a Router and what is around it, each a network namespace:
// nothing of a test happens in the network of this machine. Who is connected to in
// it says which of them it is.
type World struct {
	Router *network.Router

	t                       testing.TB
	node, internet, private int

	mu      sync.Mutex
	refused []network.Refusal
	told    chan struct{} // closed with the next of refused
	heard   chan string   // datagrams on the internet
}

// Where in a World somebody answers.
const (
	onInternet  = "8.8.8.8:443"
	onInternet6 = "[2600::8888]:443"
	onPrivate   = "10.1.2.3:5432"
	onNode      = "9.9.9.2:443"
	onDatagrams = "[2600::8888]:9"      // UDP, on the internet
	byName      = "api.example.com:443" // is onInternet to the name server
)

// NewWorld makes a World. It ends with the test, after all that the test makes later.
func NewWorld(t testing.TB) *World {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.NetNS)
	w := &World{t: t, told: make(chan struct{}), heard: make(chan string, 16)}
	w.namespaces(&w.node, &w.internet, &w.private)
	w.in(w.node, func(h *netlink.Handle) error {
		for name, to := range map[string]int{"wan": w.internet, "lan": w.private} {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name
			if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(to)}); err != nil {
				return err
			}
		}
		return nil
	})
	w.device(w.internet, "eth0", "9.9.9.1/24", "2600:9::1/64")
	w.device(w.internet, "lo", "8.8.8.8/32", "2600::8888/128")
	w.device(w.private, "eth0", "10.1.2.3/24")
	w.device(w.node, "wan", "9.9.9.2/24", "2600:9::2/64")
	w.device(w.node, "lan", "10.1.2.1/24")
	w.in(w.node, func(h *netlink.Handle) error {
		for to, via := range map[string]string{"0.0.0.0/0": "9.9.9.1", "::/0": "2600:9::1"} {
			dst, err := netlink.ParseIPNet(to)
			if err != nil {
				return err
			}
			if err := h.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}); err != nil {
				return err
			}
		}
		return nil
	})
	w.serve(w.internet, onInternet, "internet")
	w.serve(w.internet, onInternet6, "internet")
	w.serve(w.private, onPrivate, "private")
	w.serve(w.node, "0.0.0.0:443", "node")
	w.names()
	w.hear()
	w.route()
	return w
}

// route makes the Router.
func (w *World) route() {
	cfg := network.Config{
		Generation: "t" + strings.ToLower(faas.NewID()), Ready: 2,
		Refused: func(r network.Refusal) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.refused = append(w.refused, r)
			close(w.told)
			w.told = make(chan struct{})
		},
	}
	w.Place(&cfg)
	r, err := network.NewRouter(cfg)
	w.check(err)
	w.Router = r
	w.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			w.t.Errorf("Close of the router: %v", err)
		}
	})
}

// Place puts a Router that is to be made into the World, in the place of or beside its own.
func (w *World) Place(cfg *network.Config) {
	cfg.Node = w.node
	cfg.Resolvers = []netip.AddrPort{netip.MustParseAddrPort("8.8.8.8:53")}
	cfg.Dial = func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = w.try(w.node, func() (err error) { c, err = new(net.Dialer).DialContext(ctx, network, address); return err })
		return c, err
	}
}

// Refusal waits for the first that owner was told of.
func (w *World) Refusal(owner string) network.Refusal {
	w.t.Helper()
	over := time.After(patience)
	for {
		w.mu.Lock()
		told := w.told
		i := slices.IndexFunc(w.refused, func(r network.Refusal) bool { return r.Owner == owner })
		if i >= 0 {
			defer w.mu.Unlock()
			return w.refused[i]
		}
		w.mu.Unlock()
		select {
		case <-told:
		case <-over:
			w.t.Fatalf("nothing was refused to %s", owner)
		}
	}
}

func (w *World) check(err error) {
	if err != nil {
		w.t.Helper()
		w.t.Fatal(err)
	}
}

// namespaces makes networks with a loopback, which forward nothing.
func (w *World) namespaces(fds ...*int) {
	thread, err := linux.NewThread(func() error { return nil })
	w.check(err)
	defer thread.Close()
	home, err := linux.OpenNamespace(thread.TID(), "net")
	w.check(err)
	defer unix.Close(home)
	for _, fd := range fds {
		thread.Do(func() { *fd, err = linux.NewNetwork(home) })
		w.check(err)
		w.t.Cleanup(func() { unix.Close(*fd) })
	}
}

// try carries out f in a network.
func (w *World) try(fd int, f func() error) error {
	t, err := linux.NewThread(func() error { return unix.Setns(fd, unix.CLONE_NEWNET) })
	if err != nil {
		return err
	}
	defer t.Close()
	t.Do(func() { err = f() })
	return err
}

func (w *World) in(fd int, f func(*netlink.Handle) error) {
	w.check(w.try(fd, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	}))
}

// device gives a device addresses and waits until it sends, if it is the second of
// its pair: the kernel drops packets for a moment.
func (w *World) device(fd int, name string, addrs ...string) {
	w.in(fd, func(h *netlink.Handle) error {
		dev, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		for _, text := range addrs {
			a, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			if a.IP.To4() == nil {
				a.Flags = unix.IFA_F_NODAD
			}
			if err := h.AddrAdd(dev, a); err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
		if err := h.LinkSetUp(dev); err != nil || fd != w.node {
			return err
		}
		for range 10_000 {
			if dev, err = h.LinkByName(name); err != nil || dev.Attrs().OperState == netlink.OperUp {
				return err
			}
			time.Sleep(2 * time.Millisecond)
		}
		return fmt.Errorf("device %s is not up", name)
	})
}

// serve has somebody in a network say a word to who connects.
func (w *World) serve(fd int, addr, word string) {
	var l net.Listener
	w.check(w.try(fd, func() (err error) { l, err = net.Listen("tcp", addr); return err }))
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, word)
			c.Close()
		}
	})
	w.t.Cleanup(func() { l.Close(); work.Wait() })
}

// names has a name server answer on the internet: everything is onInternet.
func (w *World) names() {
	var p net.PacketConn
	w.check(w.try(w.internet, func() (err error) { p, err = net.ListenPacket("udp", "8.8.8.8:53"); return err }))
	var work sync.WaitGroup
	work.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response = true
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 60},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddrPort(onInternet).Addr().As4()},
				}}
			}
			if out, err := m.Pack(); err == nil {
				p.WriteTo(out, from)
			}
		}
	})
	w.t.Cleanup(func() { p.Close(); work.Wait() })
}

// hear has somebody on the internet listen to datagrams, the first 16.
func (w *World) hear() {
	var p net.PacketConn
	w.check(w.try(w.internet, func() (err error) { p, err = net.ListenPacket("udp", onDatagrams); return err }))
	var work sync.WaitGroup
	work.Go(func() {
		b := make([]byte, 2048)
		for {
			n, _, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			select {
			case w.heard <- string(b[:n]):
			default:
			}
		}
	})
	w.t.Cleanup(func() { p.Close(); work.Wait() })
}
