package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nodeSide is what a router has on the node, all of it named after the generation:
// a device, a table and what stands in for it, and a rule in each chain of others that drops
// what nobody accepts. It lasts until remove, or until Reap finds its generation dead.
type nodeSide struct {
	r     *Router
	name  string
	lock  int // of the name
	table *nftables.Table
	links *netlink.Handle

	mu    sync.Mutex // guards what follows
	conn  *nftables.Conn
	rules map[string]int      // of the table, by chain; nil: it was not made yet
	on    map[string][]string // the devices whose forwarding was switched on, by family
	told6 bool                // that IPv6 is not forwarded

	standIn *nftables.Conn      // of the second tables; nil: there are none
	held    map[string][]string // as on: what those hold back
}

// newNodeSide makes the uplink.
func newNodeSide(r *Router) (e *nodeSide, err error) {
	e = &nodeSide{r: r, name: r.plan.uplink}
	e.table = &nftables.Table{Name: e.name, Family: nftables.TableFamilyINet}
	if err := r.in(r.node, func() (err error) { e.lock, err = lockName(e.name); return err }); err != nil {
		return nil, err
	}
	if e.conn, err = newConn(r.node); err != nil {
		unix.Close(e.lock)
		return nil, fmt.Errorf("open the node's packet filter: %w", err)
	}
	return e, r.in(r.node, func() (err error) {
		if e.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		return e.addDevice()
	})
}

// open makes what the node needs to pass on what comes from the uplink.
func (e *nodeSide) open() error {
	if err := e.keep(); err != nil {
		return err
	}
	return e.openChains()
}

var nodeMAC = net.HardwareAddr{2, 'h', 'o', 'b', 0, 3}

// addDevice makes the pair of devices between router and node; called on the node.
// In the router it has one index, whenever it is made: rules there name it.
func (e *nodeSide) addDevice() error {
	r := e.r
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index, attrs.HardwareAddr, attrs.MTU = "up", r.up, routerMAC, r.cfg.MTU
	err := r.links.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: e.name, PeerHardwareAddr: nodeMAC, PeerMTU: uint32(r.cfg.MTU), PeerNamespace: netlink.NsFd(r.node),
	})
	if err != nil {
		return fmt.Errorf("make the device %s: %w", e.name, err)
	}
	inside, err := r.links.LinkByName("up")
	if err != nil {
		return err
	}
	if r.up == 0 {
		r.up = inside.Attrs().Index
	}
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

// makeTable makes the node's table, whatever was there by its name. It knows no slot:
// which connections may go to the node, or where the node redirects them, is in
// their source address. on stands in it so that whoever removes the table can
// switch forwarding off again.
func (e *nodeSide) makeTable(on map[string][]string) error {
	c, p := e.conn, e.r.plan
	c.AddTable(e.table) // for there is something to remove
	c.DelTable(e.table)
	c.AddTable(e.table)
	for _, family := range families {
		if err := c.AddSet(e.forwarding(family), elementsOf(on[family])); err != nil {
			return err
		}
	}
	rules := map[string]int{}
	chain := func(name string, hook *nftables.ChainHook, priority int, kind nftables.ChainType) *nftables.Chain {
		policy := nftables.ChainPolicyAccept
		return c.AddChain(&nftables.Chain{
			Table: e.table, Name: name, Hooknum: hook, Type: kind, Policy: &policy,
			Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority)),
		})
	}
	rule := func(c *nftables.Chain, parts ...[]expr.Any) {
		rules[c.Name]++
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
		rule(forward, family(version), notToFunctions(), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: forwardingSet + set},
		}, drop())
	}

	nat := chain("postrouting", nftables.ChainHookPostrouting, 100, nftables.ChainTypeNAT)
	for _, a := range []netip.Addr{p.plain4, p.plain6, p.allowed4, p.allowed6} {
		rule(nat, byName(expr.MetaKeyOIFNAME, e.name, true), from(a), one(&expr.Masq{}))
	}
	if err := e.commit(); err != nil {
		return fmt.Errorf("make the table %s of the packet filter: %w", e.name, err)
	}
	e.rules = rules
	return nil
}

// forwarding is the set of the devices whose forwarding was switched on.
func (e *nodeSide) forwarding(family string) *nftables.Set {
	id := uint32(1 + slices.Index(families[:], family)) // else the library counts, for all in this process, without a lock
	return &nftables.Set{Table: e.table, ID: id, Name: forwardingSet + family, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
}

func elementsOf(devices []string) (elements []nftables.SetElement) {
	for _, dev := range devices {
		elements = append(elements, nftables.SetElement{Key: named16(dev)})
	}
	return elements
}

// commit sends a transaction. After an error the connection may have answers that
// nobody waits for, and another takes its place. Precondition: e.mu is held.
func (e *nodeSide) commit() error {
	err := e.conn.Flush()
	if err == nil {
		return nil
	}
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		err = errno // without the library's words
	}
	conn, again := newConn(e.r.node)
	if again != nil {
		return errors.Join(err, again)
	}
	e.conn.CloseLasting()
	e.conn = conn
	return err
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
		if err := e.commit(); err != nil {
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

// closeAddrs tells the filter the node's addresses.
func (e *nodeSide) closeAddrs() error {
	list, err := whole(func() ([]netlink.Addr, error) { return e.links.AddrList(nil, netlink.FAMILY_ALL) })
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
