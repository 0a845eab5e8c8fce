package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// filter is the packet filter inside a router.
//
//	prerouting   from a slot: only with the slot's address
//	input        from a slot: only to the name server
//	forward      from a slot, to the uplink, a new connection: within the limits, then by
//	             the map "policy" from its device to a chain: "open", or one of its own
//	postrouting  the address that tells the node whether a rule with an exact address
//	             allowed the connection
type filter struct {
	r     *Router
	table *nftables.Table
	inet  map[string]*nftables.Set // by name

	mu   sync.Mutex // guards what follows: a transaction is built and sent by one at a time
	conn *nftables.Conn
}

const (
	groupRefused = 1 // of the kernel's packet log
	tcp, udp     = unix.IPPROTO_TCP, unix.IPPROTO_UDP

	markExact = 1 // of a connection that a rule with an exact address allows

	confirmed = 1 << 3 // IPS_CONFIRMED: a packet of the connection was let through before

	// Chains that limits lead to, and what they write before a packet.
	overRate, overFlows, overAll = "new-connections", "connections", "all-connections"

	perShare = 2048 // connections that are counted together, at most: each new one costs a look at all of them

	dnsRate = 300 // packets to the name server that a slot may send in a second
)

// newFilter makes the table and all that is the same for every slot.
func newFilter(r *Router) (*filter, error) {
	conn, err := newConn(r.fd)
	if err != nil {
		return nil, fmt.Errorf("open the packet filter: %w", err)
	}
	f := &filter{r: r, conn: conn, inet: map[string]*nftables.Set{}}
	f.table = conn.AddTable(&nftables.Table{Name: "hob", Family: nftables.TableFamilyINet})
	if err := f.sets(); err != nil {
		return f, err
	}
	f.refuse()
	f.over(overRate)
	f.over(overFlows)
	f.over(overAll)
	f.prerouting()
	f.input()
	f.open()
	f.judge()
	f.forward()
	f.postrouting()
	if err := conn.Flush(); err != nil {
		return f, fmt.Errorf("set up the packet filter: %w", err)
	}
	return f, nil
}

func (f *filter) close() { f.conn.CloseLasting() }

// sets makes the sets that the rules look into.
func (f *filter) sets() error {
	device := nftables.TypeIFIndex
	from4 := nftables.MustConcatSetType(device, nftables.TypeIPAddr)
	from6 := nftables.MustConcatSetType(device, nftables.TypeIP6Addr)
	for i, s := range []struct {
		set  nftables.Set
		elem []nftables.SetElement
	}{
		{nftables.Set{Name: "slots4", KeyType: from4, Concatenation: true}, nil},
		{nftables.Set{Name: "slots6", KeyType: from6, Concatenation: true}, nil},
		{nftables.Set{Name: "closed4", KeyType: nftables.TypeIPAddr, Interval: true}, intervals(closed4)},
		{nftables.Set{Name: "closed6", KeyType: nftables.TypeIP6Addr, Interval: true}, intervals(closed6)},
		{nftables.Set{Name: "node4", KeyType: nftables.TypeIPAddr}, nil},
		{nftables.Set{Name: "node6", KeyType: nftables.TypeIP6Addr}, nil},
		{nftables.Set{Name: "policy", KeyType: device, DataType: nftables.TypeVerdict, IsMap: true}, nil},
		{nftables.Set{Name: "rate", KeyType: device, Dynamic: true, HasTimeout: true, Timeout: time.Minute, Size: 65535}, nil},
		{nftables.Set{Name: "dns", KeyType: device, Dynamic: true, HasTimeout: true, Timeout: time.Minute, Size: 65535}, nil},
		{nftables.Set{Name: "told", KeyType: device, Dynamic: true, HasTimeout: true, Timeout: time.Minute, Size: 65535}, nil},
		{nftables.Set{Name: overRate, KeyType: device, Dynamic: true, HasTimeout: true, Timeout: time.Minute, Size: 65535}, nil},
		{nftables.Set{Name: overFlows, KeyType: device, Dynamic: true, HasTimeout: true, Timeout: time.Minute, Size: 65535}, nil},
		{nftables.Set{Name: overAll, KeyType: device, Dynamic: true, HasTimeout: true, Timeout: time.Minute, Size: 65535}, nil},
		{nftables.Set{Name: "flows", KeyType: device, Dynamic: true, Size: 65535}, nil},
		{nftables.Set{Name: "shares", KeyType: nftables.TypeMark, Dynamic: true, Size: 65535}, nil},
	} {
		s.set.Table, s.set.ID = f.table, uint32(1+i) // else the library counts, for all in this process, without a lock
		f.inet[s.set.Name] = &s.set
		if err := f.conn.AddSet(&s.set, s.elem); err != nil {
			return fmt.Errorf("set %s of the packet filter: %w", s.set.Name, err)
		}
	}
	return nil
}

// base adds a chain that the kernel calls.
func (f *filter) base(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, kind nftables.ChainType, p nftables.ChainPolicy) *nftables.Chain {
	return f.conn.AddChain(&nftables.Chain{Table: f.table, Name: name, Hooknum: hook, Priority: priority, Type: kind, Policy: &p})
}

func (f *filter) rule(c *nftables.Chain, parts ...[]expr.Any) {
	f.conn.AddRule(&nftables.Rule{Table: f.table, Chain: c, Exprs: slices.Concat(parts...)})
}

// refuse tells and answers: the other end learns at once that nobody will.
func (f *filter) refuse() {
	c := f.conn.AddChain(&nftables.Chain{Table: f.table, Name: "refuse"})
	f.rule(c, one(&expr.Counter{}))
	f.rule(c, f.perDevice("told", 10, false), one(&expr.Log{
		Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN, Group: groupRefused, Snaplen: 128,
	}))
	f.rule(c, protocol(tcp), one(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}))
	f.rule(c, one(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}))
}

// over tells, once a second, and drops: who tries again a second later may come through.
func (f *filter) over(name string) {
	c := f.conn.AddChain(&nftables.Chain{Table: f.table, Name: name})
	f.rule(c, one(&expr.Counter{}))
	f.rule(c, f.perDevice(name, 1, false), one(&expr.Log{
		Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_PREFIX,
		Group: groupRefused, Snaplen: 128, Data: []byte(name),
	}))
	f.rule(c, drop())
}

// prerouting comes after fragments were put together and before connections are tracked.
func (f *filter) prerouting() {
	c := f.base("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, nftables.ChainTypeFilter, nftables.ChainPolicyDrop)
	f.rule(c, device(f.r.up), accept())
	f.rule(c, device(1), accept())             // lo
	for _, option := range []uint8{131, 137} { // loose and strict source routing: it changes the destination behind the filter's back
		f.rule(c, family(4), optionOf4(option), drop())
	}
	f.rule(c, family(4), f.fromSlot(4), accept())
	f.rule(c, family(6), f.fromSlot(6), accept())
	f.rule(c, one(&expr.Counter{}))
}

// fromSlot holds if device and source address belong together.
func (f *filter) fromSlot(version int) []expr.Any {
	offset, length := uint32(12), uint32(4)
	if version == 6 {
		offset, length = 8, 16
	}
	const reg32 = 8 // the first of the small registers, which stand one after the other
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: reg32},
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length, DestRegister: reg32 + 1},
		&expr.Lookup{SourceRegister: reg32, SetName: fmt.Sprintf("slots%d", version)},
	}
}

func (f *filter) input() {
	c := f.base("input", nftables.ChainHookInput, nftables.ChainPriorityFilter, nftables.ChainTypeFilter, nftables.ChainPolicyDrop)
	f.rule(c, device(1), accept())
	f.rule(c, device(f.r.up), drop())
	for _, proto := range []byte{udp, tcp} {
		for _, gw := range []netip.Addr{f.r.plan.gateway4, f.r.plan.gateway6} {
			dns := [][]expr.Any{family(versionOf(gw)), to(netip.PrefixFrom(gw, gw.BitLen())), protocol(proto), ports(53, 53)}
			f.rule(c, append(dns, f.perDevice("dns", dnsRate, true), drop())...)
			f.rule(c, append(dns, accept())...)
		}
	}
	// What a kernel says by itself, as of an answer that came too late, is no connection.
	f.rule(c, protocol(unix.IPPROTO_ICMP), icmpBut(8), drop())
	f.rule(c, protocol(unix.IPPROTO_ICMPV6), icmpBut(128), drop())
	f.rule(c, jump("refuse"))
}

// open is the policy of that name.
func (f *filter) open() {
	c := f.conn.AddChain(&nftables.Chain{Table: f.table, Name: "open"})
	for _, version := range []int{4, 6} {
		for _, set := range []string{"node", "closed"} {
			f.rule(c, family(version), destinationIn(version, set, false), jump("refuse"))
		}
		f.rule(c, family(version), accept())
	}
}

func (f *filter) forward() {
	c := f.base("forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, nftables.ChainTypeFilter, nftables.ChainPolicyDrop)
	f.rule(c, device(f.r.up), state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	f.rule(c, device(f.r.up), drop())
	f.rule(c, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: index(f.r.up)},
	}, jump("refuse"))
	f.rule(c, state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
	f.rule(c, state(expr.CtStateBitINVALID), drop())
	// One that nobody answers stays new, as UDP can be: it counted when it began.
	f.rule(c, connection(expr.CtKeySTATUS, confirmed), jump("judge"))
	f.rule(c, f.perDevice("rate", f.r.cfg.Connections, true), jump(overRate))
	f.rule(c, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Dynset{
			SrcRegKey: 1, SetName: "flows", Operation: uint32(unix.NFT_DYNSET_OP_ADD),
			Exprs: []expr.Any{&expr.Connlimit{Count: uint32(f.r.cfg.Flows), Flags: expr.NFT_CONNLIMIT_F_INV}},
		},
	}, jump(overFlows))
	f.rule(c, f.overAll(), jump(overAll))
	f.rule(c, jump("judge"))
}

// overAll holds for a new connection if all slots together have as many as they may. They
// are counted in shares, which a connection is in by its device and ports and a
// number that nobody knows.
func (f *filter) overAll() []expr.Any {
	const reg32 = 8
	shares := max(2, f.r.cfg.allFlows/perShare)
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Len: 4, DestRegister: reg32},
		&expr.Meta{Key: expr.MetaKeyIIF, Register: reg32 + 1},
		&expr.Hash{SourceRegister: reg32, Length: 8, DestRegister: reg32 + 2, Modulus: uint32(shares), Type: expr.HashTypeJenkins},
		&expr.Dynset{
			SrcRegKey: reg32 + 2, SetName: "shares", Operation: uint32(unix.NFT_DYNSET_OP_ADD),
			Exprs: []expr.Any{&expr.Connlimit{Count: uint32(max(1, f.r.cfg.allFlows/shares)), Flags: expr.NFT_CONNLIMIT_F_INV}},
		},
	}
}

// judge leads to the policy of the slot.
func (f *filter) judge() {
	c := f.conn.AddChain(&nftables.Chain{Table: f.table, Name: "judge"})
	f.rule(c, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: "policy", DestRegister: 0, IsDestRegSet: true},
	})
	f.rule(c, jump("refuse"))
}

// postrouting gives what leaves one of two addresses.
func (f *filter) postrouting() {
	c := f.base("postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nftables.ChainTypeNAT, nftables.ChainPolicyAccept)
	p := f.r.plan
	for _, v := range []struct {
		version        int
		family         uint32
		plain, allowed netip.Addr
	}{{4, unix.NFPROTO_IPV4, p.plain4, p.allowed4}, {6, unix.NFPROTO_IPV6, p.plain6, p.allowed6}} {
		out := slices.Concat(family(v.version), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIF, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: index(f.r.up)},
		})
		f.rule(c, out, []expr.Any{
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(markExact)},
		}, sourceTo(v.family, v.allowed))
		f.rule(c, out, sourceTo(v.family, v.plain))
	}
}

// perDevice holds while a device sends less than so much in a second, or with over, more.
func (f *filter) perDevice(set string, rate int, over bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Dynset{
			SrcRegKey: 1, SetName: set, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE),
			Exprs: []expr.Any{&expr.Limit{
				Type: expr.LimitTypePkts, Rate: uint64(rate), Unit: expr.LimitTimeSecond, Burst: uint32(2 * rate), Over: over,
			}},
		},
	}
}

// setNode says what the node's addresses are.
func (f *filter) setNode(addrs []netip.Addr) error {
	elements := map[bool][]nftables.SetElement{}
	for _, a := range addrs {
		elements[a.Is6()] = append(elements[a.Is6()], nftables.SetElement{Key: a.AsSlice()})
	}
	return f.change("close the node's addresses", func() error {
		for is6, set := range map[bool]*nftables.Set{false: f.inet["node4"], true: f.inet["node6"]} {
			f.conn.FlushSet(set)
			if len(elements[is6]) == 0 {
				continue
			}
			if err := f.conn.SetAddElements(set, elements[is6]); err != nil {
				return err
			}
		}
		return nil
	})
}

// refusals is how many packets were refused since the router was made.
func (f *filter) refusals() (n uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, chain := range []string{"refuse", overRate, overFlows, overAll} {
		rules, err := f.conn.GetRules(f.table, &nftables.Chain{Name: chain, Table: f.table})
		if err != nil || len(rules) == 0 {
			return 0, err
		}
		if c, ok := rules[0].Exprs[0].(*expr.Counter); ok {
			n += c.Packets
		}
	}
	return n, nil
}

// change carries out one transaction: all of it happens, or nothing.
func (f *filter) change(what string, build func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := build()
	if err == nil {
		err = f.conn.Flush()
	} else { // a new connection has none of what was built of it
		conn, failed := newConn(f.r.fd)
		f.conn.CloseLasting()
		if err = errors.Join(err, failed); failed == nil {
			f.conn = conn
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
