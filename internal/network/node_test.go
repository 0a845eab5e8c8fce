package network

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// links are the devices of the node.
func (w *world) links() (names []string) {
	w.t.Helper()
	w.in(w.node, func() error {
		devices, err := netlink.LinkList()
		for _, dev := range devices {
			names = append(names, dev.Attrs().Name)
		}
		return err
	})
	return names
}

// looks is what the node has that a router changes.
func (w *world) looks() string {
	w.t.Helper()
	found := w.links()
	w.in(w.node, func() error {
		for _, file := range []string{"ipv4/conf/wan/forwarding", "ipv4/conf/lan/forwarding", "ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/wan/force_forwarding"} {
			data, _ := os.ReadFile("/proc/sys/net/" + file)
			found = append(found, file+"="+strings.TrimSpace(string(data)))
		}
		return nil
	})
	conn := w.filter()
	chains, err := conn.ListChains()
	w.check(err)
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		w.check(err)
		found = append(found, fmt.Sprintf("%s/%s: %d rules", c.Table.Name, c.Name, len(rules)))
	}
	return strings.Join(found, "\n")
}

// filter is the node's packet filter.
func (w *world) filter() *nftables.Conn {
	w.t.Helper()
	conn, err := newConn(w.node)
	w.check(err)
	w.t.Cleanup(func() { conn.CloseLasting() })
	return conn
}

// docker does to the node what Docker does: nothing passes but what it knows.
func (w *world) docker() {
	w.t.Helper()
	conn := w.filter()
	dropped := nftables.ChainPolicyDrop
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		t := conn.AddTable(&nftables.Table{Name: "filter", Family: family})
		forward := conn.AddChain(&nftables.Chain{
			Table: t, Name: "FORWARD", Hooknum: nftables.ChainHookForward, Type: nftables.ChainTypeFilter, Policy: &dropped,
			Priority: nftables.ChainPriorityFilter,
		})
		if family == nftables.TableFamilyIPv4 {
			conn.AddChain(&nftables.Chain{Table: t, Name: dockerUser})
			conn.AddRule(&nftables.Rule{Table: t, Chain: forward, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: dockerUser}}})
		}
	}
	w.check(conn.Flush())
}

func TestFunctionsReachTheInternetBesideDocker(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run("started "+when, func(t *testing.T) {
			w := newWorld(t)
			w.serve(w.internet, "8.8.8.8:443")
			w.serve(w.internet, "[2600::8888]:443")
			if when == "before" {
				w.docker()
			}
			before := w.looks()
			r := w.router()
			if when == "after" {
				w.docker()
				w.check(r.edge.openChains()) // as every few seconds
				w.check(r.edge.openChains())
			}
			s := w.take(r, "open")
			w.reaches(s, "tcp", "8.8.8.8:443")
			w.reaches(s, "tcp", "[2600::8888]:443")
			w.check(r.Close())
			after := w.looks()
			if when == "before" && after != before {
				t.Errorf("after Close: %s\nbefore: %s", after, before)
			}
			if strings.Contains(after, namePrefix) || !strings.Contains(after, "DOCKER-USER: 0 rules") {
				t.Errorf("after Close: %s", after)
			}
		})
	}
}

// redirect has the node give connections to one address another destination, as
// published ports of containers are made.
func (w *world) redirect(from netip.Addr, to netip.AddrPort) {
	w.t.Helper()
	conn := w.filter()
	t := conn.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4})
	c := conn.AddChain(&nftables.Chain{
		Table: t, Name: "PREROUTING", Hooknum: nftables.ChainHookPrerouting, Type: nftables.ChainTypeNAT,
		Priority: nftables.ChainPriorityNATDest,
	})
	port := to.Port()
	conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: []expr.Any{
		destination(4),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: from.AsSlice()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{tcp}},
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: []byte{byte(port >> 8), byte(port)}},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	}})
	w.check(conn.Flush())
}

func TestWhatTheNodeRedirectsIsRefused(t *testing.T) {
	w := newWorld(t)
	w.serve(w.private, "10.1.2.3:80")
	w.serve(w.node, "10.1.2.1:81")
	w.redirect(netip.MustParseAddr("1.2.3.4"), netip.MustParseAddrPort("10.1.2.3:80"))
	w.redirect(netip.MustParseAddr("1.2.3.5"), netip.MustParseAddrPort("10.1.2.1:81"))
	w.redirect(netip.MustParseAddr("9.9.9.2"), netip.MustParseAddrPort("10.1.2.3:80"))
	r := w.router()
	if _, err := w.ask(w.internet, "tcp", "9.9.9.2:8080"); err == nil {
		t.Error("the node forwards what it did not before there was a router")
	}
	s := w.take(r, "open")
	for _, addr := range []string{"1.2.3.4:443", "1.2.3.5:443", "9.9.9.2:8080"} {
		w.refuses(s, "tcp", addr)
	}
	// Whoever allows the very address means what is behind it.
	s = w.take(r, "open", "1.2.3.4:443", "9.9.9.2:8080")
	w.reaches(s, "tcp", "1.2.3.4:443")
	w.reaches(s, "tcp", "9.9.9.2:8080")
}

func TestTwoRoutersShareANode(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	w.serve(w.internet, "[2600::8888]:443")
	before := w.looks()
	first, second := w.router(), w.router(func(c *Config) { c.Generation = "second" })
	w.check(first.edge.keep()) // as every few seconds
	a, b := w.take(first, "open"), w.take(second, "open")
	w.serve(b.FD(), ":443")
	for _, s := range []*Slot{a, b} {
		w.reaches(s, "tcp", "8.8.8.8:443")
		w.reaches(s, "tcp", "[2600::8888]:443")
	}
	v4, v6 := b.Addrs()
	for _, addr := range []netip.Addr{v4, v6, second.plan.plain4, second.plan.plain6} {
		w.refuses(a, "tcp", netip.AddrPortFrom(addr, 443).String())
	}
	w.check(first.Close())
	w.reaches(b, "tcp", "8.8.8.8:443")
	w.reaches(b, "tcp", "[2600::8888]:443")
	w.check(second.Close())
	if after := w.looks(); after != before {
		t.Errorf("after both: %s\nbefore: %s", after, before)
	}
}

func TestANameIsOneRouters(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router()
	if second, err := NewRouter(r.cfg); err == nil {
		second.Close()
		t.Error("two routers have one name")
	}
	w.reaches(w.take(r, "open"), "tcp", "8.8.8.8:443")
}

func TestANodeWithoutIPv6(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	w.in(w.node, func() error {
		return setAll([]setting{{"ipv6/conf/all/disable_ipv6", "1"}, {"ipv6/conf/default/disable_ipv6", "1"}})
	})
	r := w.router()
	s := w.take(r, "open")
	w.reaches(s, "tcp", "8.8.8.8:443")
	w.refuses(s, "tcp", "[2600::8888]:443")
	if _, v6 := s.Addrs(); v6.IsValid() {
		t.Errorf("the slot has %s", v6)
	}
	w.serve(s.FD(), "[::1]:80")
	w.reaches(s, "tcp", "[::1]:80") // the function's own
}

// killed makes a router in another process, and kills it.
func (w *world) killed(generation string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "/proc/self/exe", "-test.run=^TestHelperHoldsARouter$")
	cmd.Env = append(os.Environ(), "HOB_TEST_ROUTER="+generation)
	node, err := unix.FcntlInt(uintptr(w.node), unix.F_DUPFD_CLOEXEC, 0)
	w.check(err)
	f := os.NewFile(uintptr(node), "node")
	defer f.Close()
	cmd.ExtraFiles = []*os.File{f}
	out, err := cmd.StdoutPipe()
	w.check(err)
	in, err := cmd.StdinPipe()
	w.check(err)
	defer in.Close()
	cmd.Stderr = os.Stderr
	w.check(cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	w.check(cmd.Process.Kill())
	cmd.Wait()
	if line != "ready\n" {
		w.t.Fatalf("the other process says %q, %v", line, err)
	}
}

// TestHelperHoldsARouter is the other process of killed.
func TestHelperHoldsARouter(t *testing.T) {
	generation := os.Getenv("HOB_TEST_ROUTER")
	if generation == "" {
		return
	}
	r, err := NewRouter(Config{Generation: generation, Ready: 2, Node: 3})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
	r.Close()
}

func TestReapRemovesWhatAKilledProcessLeft(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	w.docker()
	conn := w.filter()
	conn.AddTable(&nftables.Table{Name: "hobby", Family: nftables.TableFamilyINet})
	w.check(conn.Flush())
	w.in(w.node, func() error { // somebody else's, by a name like ours
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "hob-bridge"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "bridged"})
	})
	clean := w.looks()
	w.killed("killedalone")
	if left := w.looks(); !strings.Contains(left, "killedalone") {
		t.Errorf("a killed process left nothing: %s", left)
	}
	w.check(Reap(w.node))
	if got := w.looks(); got != clean {
		t.Errorf("after Reap: %s\nbefore: %s", got, clean)
	}

	r := w.router()
	w.holdsBack(r)
	with := w.looks()
	w.killed("killedabout")
	w.check(Reap(w.node))
	if got := w.looks(); got != with {
		t.Errorf("after Reap beside a living one: %s\nbefore: %s", got, with)
	}
	w.reaches(w.take(r, "open"), "tcp", "8.8.8.8:443")
	w.check(r.Close())
	if got := w.looks(); got != clean {
		t.Errorf("after Close: %s\nbefore: %s", got, clean)
	}
}
