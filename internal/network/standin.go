package network

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ofConnection is the flag of a table that belongs to a connection: NFT_TABLE_F_OWNER, since Linux 5.12.
const ofConnection = 2

// keepStandIn sees to it that what holds back what is not of functions stands on the
// node a second time, in a table for each version of IP that belongs to a connection of this
// process: who flushes the packet filter does not remove those, and so the node is no
// router for others before the first table is made anew. The kernel removes them
// when the connection is closed, however this process ends.
func (e *nodeSide) keepStandIn() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if maps.EqualFunc(e.on, e.held, slices.Equal) {
		return nil
	}
	e.dropStandIn()
	if err := e.makeStandIn(); err != nil {
		e.dropStandIn()
		return fmt.Errorf("make the second table %s of the packet filter: %w", e.name, err)
	}
	e.held = e.on
	return nil
}

// makeStandIn makes the second tables, for what forwards. Precondition: e.mu is held.
func (e *nodeSide) makeStandIn() (err error) {
	var socket *netlink.Conn
	e.standIn, err = nftables.New(nftables.WithNetNSFd(e.r.node), nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		socket = c
		return nil
	}))
	if err != nil {
		return err
	}
	for i, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		if len(e.on[families[i]]) == 0 {
			continue
		}
		t := &nftables.Table{Name: e.name, Family: family}
		if err := transact(socket, tableMessage(unix.NFT_MSG_NEWTABLE, family, t.Name, ofConnection)); err != nil {
			return err
		}
		forward := e.standIn.AddChain(&nftables.Chain{
			Table: t, Name: "forward", Hooknum: nftables.ChainHookForward, Type: nftables.ChainTypeFilter,
			Priority: nftables.ChainPriorityRef(beforeOthers),
		})
		for _, dev := range e.on[families[i]] {
			if dev == e.name { // functions'
				continue
			}
			in := byName(expr.MetaKeyIIFNAME, dev, false)
			e.standIn.AddRule(&nftables.Rule{Table: t, Chain: forward, Exprs: slices.Concat(notToFunctions(), in, drop())})
		}
	}
	return e.standIn.Flush()
}

// dropStandIn removes the second tables. Precondition: e.mu is held.
func (e *nodeSide) dropStandIn() {
	if e.standIn != nil {
		e.standIn.CloseLasting()
	}
	e.standIn, e.held = nil, nil
}

// tableMessage makes or removes a table, with flags that the library has no words for.
func tableMessage(kind netlink.HeaderType, family nftables.TableFamily, name string, flags byte) netlink.Message {
	data, _ := netlink.MarshalAttributes([]netlink.Attribute{ // too short to fail
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(name), 0)}, {Type: unix.NFTA_TABLE_FLAGS, Data: []byte{0, 0, 0, flags}},
	})
	return netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: netlink.Request | netlink.Create},
		Data:   append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, data...),
	}
}

// transact carries out one transaction of the packet filter. After an error the connection may
// have answers that nobody waits for.
func transact(c *netlink.Conn, messages ...netlink.Message) error {
	messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
	edge := func(kind netlink.HeaderType) []netlink.Message {
		return []netlink.Message{{
			Header: netlink.Header{Type: kind, Flags: netlink.Request}, Data: []byte{0, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}}
	}
	if _, err := c.SendMessages(slices.Concat(edge(unix.NFNL_MSG_BATCH_BEGIN), messages, edge(unix.NFNL_MSG_BATCH_END))); err != nil {
		return err
	}
	_, err := c.Receive()
	return err
}
