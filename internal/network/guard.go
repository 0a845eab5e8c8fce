package network

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// recheck is how often the node is looked at for what others changed.
	recheck = 5 * time.Second
	// breather is between two looks at the packet filter: who starts a firewall may
	// change it a hundred times in a second.
	breather = 100 * time.Millisecond
)

// watch keeps the node's addresses closed to functions when they change, and what
// the router has on the node as it should be when somebody starts a firewall or
// removes some of it, until ctx is done.
func (e *nodeSide) watch(ctx context.Context) {
	check := func(what ...func() error) {
		for _, f := range what {
			if err := f(); err != nil && ctx.Err() == nil {
				e.r.cfg.Log.Warn("the network of functions is not as it should be", "err", err)
			}
		}
	}
	addrs, done := make(chan netlink.AddrUpdate), make(chan struct{})
	if err := netlink.AddrSubscribeAt(netns.NsHandle(e.r.node), addrs, done); err != nil {
		e.r.cfg.Log.Warn("changes of this node's addresses are seen late", "err", err)
		close(addrs)
	}
	var filter <-chan struct{}
	var reader sync.WaitGroup
	var changed *changes
	err := e.r.in(e.r.node, func() (err error) { changed, err = newChanges(); return err })
	if err != nil {
		e.r.cfg.Log.Warn("changes of this node's packet filter are seen late", "err", err)
	} else {
		filter = changed.seen
		reader.Go(func() { changed.read(ctx) })
	}
	updates, seen, rested := addrs, filter, (<-chan time.Time)(nil)
	check(e.closeAddrs, e.keep, e.keepStandIn) // which others may have changed before we listened
	for tick := time.Tick(recheck); ctx.Err() == nil; {
		select {
		case _, ok := <-updates:
			if !ok {
				updates = nil
			}
			check(e.keepDevice, e.closeAddrs)
		case <-seen:
			check(e.keep, e.keepStandIn, e.openChains)
			seen, rested = nil, time.After(breather)
		case <-rested:
			seen, rested = filter, nil
		case <-tick:
			check(e.keepDevice, e.closeAddrs, e.keep, e.keepStandIn, e.openChains)
		case <-ctx.Done():
		}
	}
	close(done)
	for range addrs { // until the subscription has ended
	}
	reader.Wait()
}

// keep makes the table if it is not as this router made it, and has the node pass on
// what comes from the uplink, and what comes back. Where the node forwards already,
// that is all. Else forwarding is switched on for the devices that have routes, one by
// one, after the table has them: it holds back what is not of functions. Without
// the table they are switched off.
func (e *nodeSide) keep() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.r.in(e.r.node, func() error {
		devices, err := e.routed()
		on := map[string][]string{}
		for _, family := range families {
			list, failed := e.toForward(family, devices)
			if failed != nil {
				list, err = e.on[family], errors.Join(err, failed)
			}
			on[family] = list
		}
		if failed := e.keepTable(on); failed != nil {
			return errors.Join(err, failed, e.withhold())
		}
		e.on = on
		return errors.Join(err, e.forward(devices))
	})
}

// keepTable sees to it that the table is whole and has the devices that are to
// forward. Precondition: e.mu is held.
func (e *nodeSide) keepTable(on map[string][]string) error {
	if !e.isWhole() {
		if e.rules != nil {
			e.r.cfg.Log.Warn("somebody removed rules of the network of functions: they are made anew", "table", e.name)
		}
		return e.makeTable(on)
	}
	if maps.EqualFunc(on, e.on, slices.Equal) {
		return nil
	}
	for _, family := range families {
		e.conn.FlushSet(e.forwarding(family))
		if err := e.conn.SetAddElements(e.forwarding(family), elementsOf(on[family])); err != nil {
			return err
		}
	}
	return e.commit()
}

// isWhole reports whether the table has its rules and the devices that forward.
func (e *nodeSide) isWhole() bool {
	if e.rules == nil {
		return false
	}
	for chain, count := range e.rules {
		rules, err := e.conn.GetRules(e.table, &nftables.Chain{Name: chain, Table: e.table})
		if err != nil || len(rules) != count {
			return false
		}
	}
	for _, family := range families {
		have, err := forwardingOf(e.conn, e.table, family)
		if err != nil || slices.ContainsFunc(e.on[family], func(dev string) bool { return !slices.Contains(have, dev) }) {
			return false
		}
	}
	return true
}

// keepDevice makes the uplink anew if somebody removed it, or switched it off: the
// kernel then took its routes and neighbours.
func (e *nodeSide) keepDevice() error {
	dev, err := e.links.LinkByName(e.name)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); !gone {
		if err != nil || dev.Attrs().Flags&net.FlagUp != 0 {
			return err
		}
		if err := e.links.LinkDel(dev); err != nil {
			return err
		}
	}
	e.r.cfg.Log.Warn("somebody removed the device of the network of functions, or switched it off: it is made anew", "device", e.name)
	if err := e.r.in(e.r.node, e.addDevice); err != nil {
		// Whole or not at all: what is there is not looked at again.
		if dev, none := e.links.LinkByName(e.name); none == nil {
			err = errors.Join(err, e.links.LinkDel(dev))
		}
		return err
	}
	return e.keep()
}

// remove takes back everything that the node has for the router, also of what somebody
// removed the table that says what it is. Nothing watches any more.
func (e *nodeSide) remove() error {
	var err error
	if e.links != nil {
		err = e.r.in(e.r.node, func() error { return errors.Join(removeFrom(e.conn, e.links, e.name), e.withhold()) })
		e.links.Close()
	}
	e.dropStandIn() // after forwarding
	e.conn.CloseLasting()
	unix.Close(e.lock)
	return err
}
