package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// nodeSide is what a router has on the node, all of it named after the generation:
// a device, a table, and a rule in each chain of others that drops what nobody
// accepts. It lasts until remove, or until Reap finds its generation dead.
type nodeSide struct {
	r     *Router
	name  string
	lock  int // of the name
	table *nftables.Table
	links *netlink.Handle
	on    map[string]*nftables.Set // devices whose forwarding was switched on, by family

	mu    sync.Mutex // guards what follows
	conn  *nftables.Conn
	told6 bool // that IPv6 is not forwarded
}

// newNodeSide makes the uplink and what the node needs to pass on what comes from it.
func newNodeSide(r *Router) (e *nodeSide, err error) {
	e = &nodeSide{r: r, name: r.plan.uplink, on: map[string]*nftables.Set{}}
	if err := r.in(r.node, func() (err error) { e.lock, err = lockName(e.name); return err }); err != nil {
		return nil, err
	}
	if e.conn, err = newConn(r.node); err != nil {
		unix.Close(e.lock)
		return nil, fmt.Errorf("open the node's packet filter: %w", err)
	}
	if err := r.in(r.node, e.addDevice); err != nil {
		return e, err
	}
	if err := e.addTable(); err != nil {
		return e, fmt.Errorf("set up the node's packet filter: %w", err)
	}
	if err := e.forwarding(); err != nil {
		return e, err
	}
	return e, e.openChains()
}

var nodeMAC = net.HardwareAddr{2, 'h', 'o', 'b', 0, 3}

// addDevice makes the pair of devices between router and node; called on the node.
func (e *nodeSide) addDevice() (err error) {
	r := e.r
	if e.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = e.name, nodeMAC, r.cfg.MTU
	err = e.links.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: "up", PeerHardwareAddr: routerMAC, PeerMTU: uint32(r.cfg.MTU), PeerNamespace: netlink.NsFd(r.fd),
	})
	if err != nil {
		return fmt.Errorf("make the device %s: %w", e.name, err)
	}
	inside, err := r.links.LinkByName("up")
	if err != nil {
		return err
	}
	r.up = inside.Attrs().Index
	outside, err := e.links.LinkByName(e.name)
	if err != nil {
		return err
	}
	if r.plan.v6 {
		if err := setAll(quiet6(e.name)); err != nil {
			return err
		}
	}
	p := r.plan
	theirs := []netip.Addr{p.plain4, p.allowed4, p.plain6, p.allowed6}
	if err := errors.Join(
		r.links.LinkSetUp(inside), e.links.LinkSetUp(outside),
		settle(r.links, r.up), settle(e.links, outside.Attrs().Index),
		r.addAddrs(r.links, inside, theirs...), r.addAddrs(e.links, outside, p.node4, p.node6),
		r.neighbours(r.links, r.up, nodeMAC, p.node4, p.node6),
		r.neighbours(e.links, outside.Attrs().Index, routerMAC, theirs...),
		r.defaultRoutes(r.links, r.up, p.node4, p.node6),
	); err != nil {
		return fmt.Errorf("connect the router with the node: %w", err)
	}
	for _, a := range theirs {
		if a.Is6() && !p.v6 {
			continue
		}
		if err := e.links.RouteAdd(&netlink.Route{LinkIndex: outside.Attrs().Index, Dst: host(a), Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route %s to the router: %w", a, err)
		}
	}
	return nil
}

// beforeOthers is where the node's chains stand: before those of Docker and
// firewalld, which can drop what these accept, and do not see what these drop.
const beforeOthers = -10

// addTable makes the node's table. It knows no slot: which connections may go to
// the node, or where the node redirects them, is in their source address.
func (e *nodeSide) addTable() error {
	c, p := e.conn, e.r.plan
	e.table = c.AddTable(&nftables.Table{Name: e.name, Family: nftables.TableFamilyINet})
	for _, family := range []string{"ipv4", "ipv6"} {
		s := &nftables.Set{Table: e.table, Name: forwardingSet + family, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
		e.on[family] = s
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	chain := func(name string, hook *nftables.ChainHook, priority int, kind nftables.ChainType) *nftables.Chain {
		policy := nftables.ChainPolicyAccept
		return c.AddChain(&nftables.Chain{
			Table: e.table, Name: name, Hooknum: hook, Type: kind, Policy: &policy,
			Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority)),
		})
	}
	rule := func(c *nftables.Chain, parts ...[]expr.Any) {
		e.conn.AddRule(&nftables.Rule{Table: e.table, Chain: c, Exprs: slices.Concat(parts...)})
	}
	in, out := byName(expr.MetaKeyIIFNAME, e.name, false), byName(expr.MetaKeyOIFNAME, e.name, false)
	related := state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)

	input := chain("input", nftables.ChainHookInput, beforeOthers, nftables.ChainTypeFilter)
	rule(input, in, from(p.allowed4), accept())
	rule(input, in, from(p.allowed6), accept())
	rule(input, in, drop())

	forward := chain("forward", nftables.ChainHookForward, beforeOthers, nftables.ChainTypeFilter)
	rule(forward, in, from(p.plain4), redirected(), drop())
	rule(forward, in, from(p.plain6), redirected(), drop())
	for _, a := range []netip.Addr{p.plain4, p.plain6, p.allowed4, p.allowed6} {
		rule(forward, in, from(a), accept())
	}
	rule(forward, in, drop())
	rule(forward, out, related, accept())
	rule(forward, out, drop())
	for version, set := range map[int]string{4: "ipv4", 6: "ipv6"} {
		// Other traffic through devices that forwarded nothing before; other routers' is theirs.
		rule(forward, family(version), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(namePrefix)},
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: forwardingSet + set},
		}, drop())
	}

	nat := chain("postrouting", nftables.ChainHookPostrouting, 100, nftables.ChainTypeNAT)
	for _, a := range []netip.Addr{p.plain4, p.plain6, p.allowed4, p.allowed6} {
		rule(nat, byName(expr.MetaKeyOIFNAME, e.name, true), from(a), one(&expr.Masq{}))
	}
	return c.Flush()
}

const forwardingSet = "forwarding-"

// forwarding has the node pass on what comes from the uplink, and what comes back.
// Where the node forwards already, nothing is changed. Else it is switched on for
// the devices that have routes, one by one; which they are stands in the
// table, so that whoever removes the table can switch it off again.
func (e *nodeSide) forwarding() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.r.in(e.r.node, func() error {
		devices, err := e.routed()
		if err != nil {
			return err
		}
		for _, family := range []string{"ipv4", "ipv6"} {
			if family == "ipv6" && !e.r.plan.v6 {
				continue
			}
			if err := e.forwardFamily(family, devices); err != nil {
				return fmt.Errorf("forward %s: %w", family, err)
			}
		}
		return nil
	})
}

// routed has the names of the devices with routes, and the uplink's; without other routers'.
func (e *nodeSide) routed() ([]string, error) {
	routes, err := e.links.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	names := []string{e.name}
	for _, route := range routes {
		dev, err := e.links.LinkByIndex(route.LinkIndex)
		if err != nil || dev.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		if name := dev.Attrs().Name; !strings.HasPrefix(name, namePrefix) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// forwardFile is the setting of one device. For IPv6 it is one that only newer
// kernels have (6.17): the older one makes a router of the whole machine, which
// then takes no address from the network any more.
func forwardFile(family, device string) string {
	if family == "ipv6" {
		return "/proc/sys/net/ipv6/conf/" + device + "/force_forwarding"
	}
	return "/proc/sys/net/ipv4/conf/" + device + "/forwarding"
}

// forwardFamily switches on one family. Precondition: e.mu is held; the calling
// thread is on the node.
func (e *nodeSide) forwardFamily(family string, devices []string) error {
	if isOn("/proc/sys/net/" + family + "/conf/all/forwarding") {
		e.conn.FlushSet(e.on[family]) // whoever switched it on wants more than we do
		return e.conn.Flush()
	}
	others, err := neededByOthers(e.conn, e.name, family)
	if err != nil {
		return err
	}
	ours, err := forwardingOf(e.conn, e.table, family)
	if err != nil {
		return err
	}
	for _, dev := range devices {
		file := forwardFile(family, dev)
		if on := isOn(file); on && (slices.Contains(ours, dev) || !slices.Contains(others, dev)) {
			continue // or on before anybody's router
		}
		if !exists(file) {
			if !e.told6 {
				e.r.cfg.Log.Warn("functions cannot reach IPv6 addresses: set net.ipv6.conf.all.forwarding=1")
			}
			e.told6 = true
			return nil
		}
		// Written down first. If another router has switched it on, both need it.
		if err := errors.Join(e.conn.SetAddElements(e.on[family], []nftables.SetElement{{Key: named16(dev)}}), e.conn.Flush()); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return err
		}
	}
	return nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func isOn(file string) bool {
	data, err := os.ReadFile(file)
	return err == nil && strings.TrimSpace(string(data)) != "0"
}

// openChains adds to every chain of others that drops what it does not know two
// rules for the uplink: Docker's is such a one. Its DOCKER-USER is for rules of
// the machine's owner, and is not emptied when Docker starts anew. Chains that were opened stay as they are.
func (e *nodeSide) openChains() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	chains, err := e.conn.ListChains()
	if err != nil {
		return fmt.Errorf("list the node's chains: %w", err)
	}
	for _, c := range chains {
		if !dropsForwarded(c) || strings.HasPrefix(c.Table.Name, namePrefix) {
			continue
		}
		at := c
		for _, other := range chains {
			if other.Name == dockerUser && other.Table.Name == c.Table.Name && other.Table.Family == c.Table.Family {
				at = other
			}
		}
		ours, err := rulesOf(e.conn, at, e.name)
		if err != nil {
			return err
		}
		if len(ours) > 0 {
			continue
		}
		for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			// As iptables writes it, which may have to read it.
			e.conn.InsertRule(&nftables.Rule{
				Table: at.Table, Chain: at, UserData: comment(e.name),
				Exprs: []expr.Any{
					&expr.Meta{Key: key, Register: 1},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(e.name), 0)},
					&expr.Counter{},
					&expr.Verdict{Kind: expr.VerdictAccept},
				},
			})
		}
		if err := e.conn.Flush(); err != nil {
			return fmt.Errorf("let the network of functions through %s: %w", at.Name, err)
		}
	}
	return nil
}

// dockerUser is a chain that Docker leaves to the machine's owner.
const dockerUser = "DOCKER-USER"

func dropsForwarded(c *nftables.Chain) bool {
	return forwards(c) && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
}

// forwards reports whether a chain is asked about packets that are passed on.
func forwards(c *nftables.Chain) bool {
	ip := slices.Contains([]nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet}, c.Table.Family)
	return ip && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward
}

func comment(s string) []byte { return userdata.AppendString(nil, userdata.TypeComment, s) }

// rulesOf are the rules of a generation in a chain of others.
func rulesOf(conn *nftables.Conn, c *nftables.Chain, name string) (ours []*nftables.Rule, err error) {
	rules, err := conn.GetRules(c.Table, c)
	if err != nil {
		return nil, fmt.Errorf("list the rules of %s: %w", c.Name, err)
	}
	for _, rule := range rules {
		if text, ok := userdata.GetString(rule.UserData, userdata.TypeComment); ok && text == name {
			ours = append(ours, rule)
		}
	}
	return ours, nil
}

// recheck is how often the node is looked at for what others changed.
const recheck = 5 * time.Second

// watch keeps the node's addresses closed to functions when they change, and the way
// open when somebody starts a firewall, until ctx is done.
func (e *nodeSide) watch(ctx context.Context) {
	changes := make(chan netlink.AddrUpdate)
	done := make(chan struct{})
	if err := netlink.AddrSubscribeAt(netns.NsHandle(e.r.node), changes, done); err != nil {
		e.r.cfg.Log.Warn("changes of this node's addresses are seen late", "err", err)
		close(changes)
	}
	check := func(what func() error) {
		if err := what(); err != nil {
			e.r.cfg.Log.Warn("the network of functions is not as it should be", "err", err)
		}
	}
	updates := changes
	check(e.closeAddrs)
	for tick := time.Tick(recheck); ctx.Err() == nil; {
		select {
		case _, ok := <-updates:
			if !ok {
				updates = nil
			}
			check(e.closeAddrs)
		case <-tick:
			check(e.closeAddrs)
			check(e.forwarding)
			check(e.openChains)
		case <-ctx.Done():
		}
	}
	close(done)
	for range changes { // until the subscription has ended
	}
}

// closeAddrs tells the filter the node's addresses.
func (e *nodeSide) closeAddrs() error {
	list, err := e.links.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the node's addresses: %w", err)
	}
	var addrs []netip.Addr
	own := map[netip.Addr]ownership{}
	add := func(ip net.IP, is ownership) {
		a, ok := netip.AddrFromSlice(ip)
		if a = a.Unmap(); ok && own[a] == 0 {
			addrs, own[a] = append(addrs, a), is
		}
	}
	for _, a := range list {
		add(a.IP, ofNode)
		add(a.Broadcast, forAll)
	}
	e.r.mu.Lock()
	e.r.own = own
	e.r.mu.Unlock()
	return e.r.filter.setNode(addrs)
}

// remove takes back everything that the node has for the router.
func (e *nodeSide) remove() error {
	var err error
	if e.links != nil {
		err = e.r.in(e.r.node, func() error { return removeFrom(e.conn, e.links, e.name) })
		e.links.Close()
	}
	e.conn.CloseLasting()
	unix.Close(e.lock)
	return err
}
