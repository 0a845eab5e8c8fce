package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"hob/internal/linux"
	"hob/internal/network"
)

// Answers is what the kernel and the name servers say when they are asked.
type Answers struct {
	Landlock  bool
	Network   error // why no network for a function can be made; nil: it can
	Bandwidth error // why it cannot be limited; nil: it can, or Network says why not

	Filter    error    // why the rest cannot be told; nil: it can
	Drops     []string // chains that drop what is forwarded and no rule knows: "ip filter FORWARD"
	Firewalld bool     // it has rules

	Names []netip.Addr // name servers that answered
}

// Ask asks the kernel, and the name servers. It makes a network in which there is
// nobody, and tries in it what functions need: it is gone when Ask returns. It needs root
// and takes half a second at most.
func Ask(servers []netip.Addr) (a Answers) {
	a.Names = make([]netip.Addr, len(servers))
	var work sync.WaitGroup
	for i, server := range servers {
		work.Go(func() {
			if answers(server) {
				a.Names[i] = server
			}
		})
	}
	a.Landlock = linux.NewFence() != nil
	if a.Network = a.tryNetwork(); a.Network == nil {
		a.Network = network.Try() // all of it
	}
	a.Drops, a.Firewalld, a.Filter = filters()
	work.Wait()
	a.Names = slices.DeleteFunc(a.Names, func(s netip.Addr) bool { return !s.IsValid() })
	return a
}

// answers reports whether a name server says anything, within half a second.
func answers(server netip.Addr) bool {
	const patience = 500 * time.Millisecond
	conn, err := net.DialTimeout("udp", netip.AddrPortFrom(server, 53).String(), patience)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	// "Who serves the root?": number, recursion wanted, one question: "." NS IN.
	query := []byte{'h', 'b', 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	if _, err := conn.Write(query); err != nil {
		return false
	}
	answer := make([]byte, 1500)
	n, err := conn.Read(answer)
	return err == nil && n >= 12 && answer[0] == query[0] && answer[1] == query[1] && answer[2]&0x80 != 0
}

// tryNetwork makes a network as functions have it, and lets it go.
func (a *Answers) tryNetwork() error {
	t, err := linux.NewThread(func() error { return nil })
	if err != nil {
		return err
	}
	defer t.Close()
	home, err := linux.OpenNamespace(t.TID(), "net")
	if err != nil {
		return err
	}
	defer os.NewFile(uintptr(home), "home").Close()
	var fd int
	if t.Do(func() { fd, err = linux.NewNetwork(home) }); err != nil {
		return err
	}
	defer os.NewFile(uintptr(fd), "network").Close()

	h, err := netlink.NewHandleAt(netns.NsHandle(fd))
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "one"
	one := &netlink.Veth{LinkAttrs: attrs, PeerName: "other"}
	if err := h.LinkAdd(one); err != nil {
		return fmt.Errorf("make a pair of devices (veth): %w", err)
	}
	const rate, bucket = 1 << 20, 1 << 16
	a.Bandwidth = h.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: one.Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Limit: bucket, Buffer: netlink.Xmittime(rate, bucket),
	})
	c, err := nftables.New(nftables.WithNetNSFd(fd))
	if err != nil {
		return fmt.Errorf("open the packet filter (nftables): %w", err)
	}
	return tryFilter(c)
}

// tryFilter makes rules of what the filter of functions is made of, one by one: of the whole
// a kernel says only that it lacks something. They meet no packet.
func tryFilter(c *nftables.Conn) error {
	table := c.AddTable(&nftables.Table{Name: "try", Family: nftables.TableFamilyINet})
	set := &nftables.Set{
		Table: table, Name: "devices", Dynamic: true, HasTimeout: true, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIFIndex, nftables.TypeIPAddr),
	}
	if err := errors.Join(c.AddSet(set, nil), c.Flush()); err != nil {
		return fmt.Errorf("make a table of the packet filter (nftables, family inet): %w", err)
	}
	filter := c.AddChain(&nftables.Chain{
		Table: table, Name: "forward", Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Type: nftables.ChainTypeFilter,
	})
	nat := c.AddChain(&nftables.Chain{
		Table: table, Name: "postrouting", Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Type: nftables.ChainTypeNAT,
	})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("make a chain that translates addresses (nftables, nat): %w", err)
	}
	const group = 1 << 1 // the attribute of log rules that hands packets to a program
	for _, word := range []struct {
		name  string
		chain *nftables.Chain
		is    expr.Any
	}{
		{"counter", filter, &expr.Counter{}},
		{"ct", filter, &expr.Ct{Key: expr.CtKeySTATE, Register: 1}},
		{"limit", filter, &expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeSecond, Burst: 1}},
		{"connlimit", filter, &expr.Connlimit{Count: 1}},
		{"log", filter, &expr.Log{Key: group, Group: 1}},
		{"reject", filter, &expr.Reject{}},
		{"hash", filter, &expr.Hash{SourceRegister: 8, Length: 4, DestRegister: 9, Modulus: 2, Type: expr.HashTypeJenkins}},
		{"masq", nat, &expr.Masq{}},
	} {
		load := &expr.Meta{Key: expr.MetaKeyIIF, Register: 8} // what hash reads
		c.AddRule(&nftables.Rule{Table: table, Chain: word.chain, Exprs: []expr.Any{load, word.is}})
		if err := c.Flush(); err != nil {
			return fmt.Errorf("make a rule of the packet filter (nftables, %s): %w", word.name, err)
		}
	}
	return nil
}

// filters looks at what others have in the packet filter of this machine.
func filters() (drops []string, firewalld bool, err error) {
	c, err := nftables.New()
	if err != nil {
		return nil, false, err
	}
	chains, err := c.ListChains()
	for _, chain := range chains {
		family := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}[chain.Table.Family]
		forwards := family != "" && chain.Hooknum != nil && *chain.Hooknum == *nftables.ChainHookForward
		if forwards && chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
			drops = append(drops, family+" "+chain.Table.Name+" "+chain.Name)
		}
		firewalld = firewalld || chain.Table.Name == "firewalld"
	}
	return drops, firewalld, err
}
