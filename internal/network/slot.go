package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
)

// A Slot is a network with a device, addresses and a way out, for one sandbox at
// a time. Its policy holds from Take to Release.
type Slot struct {
	r     *Router
	fd    int
	link  int    // index of the router's end
	id    uint32 // never given again
	addr4 netip.Addr
	addr6 netip.Addr

	// Guarded by Router.mu.
	policy   faas.Egress
	owner    string
	toldAt   int64 // the second in which told names were refused
	told     int
	toldName map[string]time.Time  // when a name was told
	stoodFor map[netip.Addr]string // names of rules that addresses were answered for

	names  sync.Mutex           // guards what follows; taken before Router.mu
	chain  bool                 // the filter has a chain for it
	opened map[opened]time.Time // until when

	judged   bool      // and a policy for it; as admitted
	admitted bool      // the filter knows its addresses; of who makes, cleans or ends it
	deadline time.Time // how long the recycler waits for it to be clean; the recycler's
}

// FD is the namespace as setns wants it, open until Release.
func (s *Slot) FD() int { return s.fd }

// Addrs are the slot's addresses; v6 is not valid where the kernel has no IPv6.
func (s *Slot) Addrs() (v4, v6 netip.Addr) { return s.addr4, s.addr6 }

// Owner is what Take was given.
func (s *Slot) Owner() string {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.owner
}

// Assign names the owner anew: of a slot that was taken before it was known for whom.
func (s *Slot) Assign(owner string) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.owner = owner
}

// ResolvConf is what a sandbox with a slot of this router has as /etc/resolv.conf.
func (r *Router) ResolvConf() []byte {
	conf := "nameserver " + r.plan.gateway4.String() + "\n"
	if r.plan.v6 {
		conf += "nameserver " + r.plan.gateway6.String() + "\n"
	}
	return []byte(conf + "options timeout:2 attempts:2\n")
}

// Take hands out a slot that nobody else has, with policy p in force; owner comes
// back in what Refused is told. With Open and no rules it makes no system call if a
// slot is ready; with rules it is one exchange with the packet filter, which takes
// no lock of the routing code. It waits while none is ready.
func (r *Router) Take(ctx context.Context, p faas.Egress, owner string) (*Slot, error) {
	if p.Mode != faas.NetworkOpen && p.Mode != faas.NetworkAllow {
		return nil, fmt.Errorf("take a network slot: the policy is %q", p.Mode)
	}
	select {
	case s := <-r.ready:
		return r.hand(s, p, owner)
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case s := <-r.ready:
		return r.hand(s, p, owner)
	case <-ctx.Done():
		return nil, fmt.Errorf("take a network slot: none became free: %w", context.Cause(ctx))
	}
}

// ErrFew says that there are no more slots ready than others will need at once.
var ErrFew = errors.New("no network slot can be spared")

// Spare is Take for who has no need yet: it takes a slot only if at least as many
// stay ready as half of Config.Ready, and does not wait. Else the error is ErrFew.
func (r *Router) Spare(p faas.Egress, owner string) (*Slot, error) {
	if len(r.ready) <= r.cfg.Ready/2 {
		return nil, ErrFew
	}
	select {
	case s := <-r.ready:
		return r.hand(s, p, owner)
	default:
		return nil, ErrFew
	}
}

// hand gives a slot that was ready to an owner.
func (r *Router) hand(s *Slot, p faas.Egress, owner string) (*Slot, error) {
	select {
	case r.taken <- struct{}{}:
	default:
	}
	r.mu.Lock()
	closed := r.closed
	s.policy, s.owner = p, owner
	r.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	if p.Mode == faas.NetworkAllow || len(p.Rules) > 0 {
		if err := r.filter.restrict(s, p); err != nil {
			s.Release()
			return nil, fmt.Errorf("take a network slot: %w", err)
		}
	}
	return s, nil
}

// Release gives the slot back. The caller does not use it any more, and nothing that
// entered it is left: the slot is checked before anybody gets it again, and removed
// if it is not clean within a minute.
func (s *Slot) Release() { s.r.returned <- s }

// refill makes slots until Config.Ready are ready, and again when some were taken.
// There is room for as many again, which were used before.
func (r *Router) refill(ctx context.Context) {
	for ctx.Err() == nil {
		if len(r.ready) >= r.cfg.Ready {
			select {
			case <-r.taken:
			case <-ctx.Done():
			}
			continue
		}
		s, err := r.newSlot()
		wait := manners
		if err != nil {
			r.cfg.Log.Error("a network slot could not be made", "err", err)
			wait = time.Second
		} else {
			select {
			case r.ready <- s:
			case <-ctx.Done():
				return // Close ends it with the others
			}
			if len(r.ready) <= r.cfg.Ready/2 {
				continue
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// newSlot makes a slot that is open to the internet.
func (r *Router) newSlot() (s *Slot, err error) {
	s = &Slot{r: r, fd: -1}
	defer func() {
		if err != nil {
			r.forgetAddrs(s)
			s.close()
			s = nil
		}
	}()
	r.thread.Do(func() { s.fd, err = linux.NewNetwork(r.home) })
	if err != nil {
		return s, err
	}
	if err := r.in(s.fd, r.quiet); err != nil {
		return s, err
	}
	if err := r.addDevice(s); err != nil {
		return s, err
	}
	if err := r.address(s); err != nil {
		return s, err
	}
	if err := r.filter.admit(s); err != nil {
		return s, err
	}
	r.mu.Lock()
	r.slots[s.link] = s
	r.mu.Unlock()
	return s, nil
}

// The devices of all slots have the same two hardware addresses, each side knows
// the other's, and nobody asks: a slot has one neighbour only.
var (
	routerMAC = net.HardwareAddr{2, 'h', 'o', 'b', 0, 1}
	slotMAC   = net.HardwareAddr{2, 'h', 'o', 'b', 0, 2}
)

// addDevice makes the pair of devices between router and slot.
func (r *Router) addDevice(s *Slot) error {
	r.mu.Lock()
	r.devices++
	name := "s" + strconv.FormatUint(r.devices, 10)
	r.mu.Unlock()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, routerMAC, r.cfg.MTU
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1 // of both: by itself the kernel makes one for each processor
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: slotMAC, PeerMTU: uint32(r.cfg.MTU),
		PeerNamespace: netlink.NsFd(s.fd),
	}
	if err := r.links.LinkAdd(pair); err != nil {
		return fmt.Errorf("make the device of a slot: %w", err)
	}
	dev, err := r.links.LinkByName(name)
	if err != nil {
		return err
	}
	s.link = dev.Attrs().Index
	if err := r.links.LinkSetUp(dev); err != nil {
		return err
	}
	if err := limitRate(r.links, s.link, r.cfg.Bandwidth); err != nil {
		return err
	}
	return r.inSlot(s, func(h *netlink.Handle, eth0 netlink.Link) error {
		if err := errors.Join(h.LinkSetUp(eth0), settle(r.links, s.link), settle(h, eth0.Attrs().Index)); err != nil {
			return err
		}
		return limitRate(h, eth0.Attrs().Index, r.cfg.Bandwidth)
	})
}

// settle waits until a device sends: the kernel notices a little later that the
// other end is up, and drops packets until then.
func settle(h *netlink.Handle, dev int) error {
	for range 10_000 {
		link, err := h.LinkByIndex(dev)
		if err != nil || link.Attrs().OperState == netlink.OperUp {
			return err
		}
		time.Sleep(200 * time.Microsecond)
	}
	return errors.New("a device that was switched on is not up")
}

// inSlot carries out f in a slot.
func (r *Router) inSlot(s *Slot, f func(*netlink.Handle, netlink.Link) error) error {
	return r.in(s.fd, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return f(h, eth0)
	})
}

// neighbours tells a device the hardware address behind addresses, for good.
func (r *Router) neighbours(h *netlink.Handle, dev int, mac net.HardwareAddr, addrs ...netip.Addr) error {
	for _, a := range addrs {
		if a.Is6() && !r.plan.v6 {
			continue
		}
		n := &netlink.Neigh{LinkIndex: dev, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
		if err := h.NeighSet(n); err != nil {
			return fmt.Errorf("set the neighbour %s: %w", a, err)
		}
	}
	return nil
}

// limitRate limits what a device sends, in bytes a second, with half a second's worth at once.
func limitRate(h *netlink.Handle, dev int, rate int64) error {
	if rate == 0 {
		return nil
	}
	tbf := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dev, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       uint64(rate), Limit: uint32(min(rate/2, 1<<30) + 1<<16),
		Buffer: netlink.Xmittime(uint64(rate), uint32(min(rate/20, 1<<22)+1<<16)),
	}
	if err := h.QdiscAdd(tbf); err != nil {
		return fmt.Errorf("limit the bandwidth of a slot: %w", err)
	}
	return nil
}

// choose gives a slot the next number and addresses that nobody has.
func (r *Router) choose(s *Slot) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := uint32(1)<<(32-r.plan.slots4.Bits()) - 3
	for range count {
		r.next++
		a := offset(r.plan.slots4.Addr(), 2+r.next%count)
		if r.byAddr[a] != nil {
			continue
		}
		s.id, s.addr4 = r.next, a
		r.byAddr[a] = s
		if r.plan.v6 {
			s.addr6 = offset(r.plan.slots6.Addr(), 2+r.next)
			r.byAddr[s.addr6] = s
		}
		return nil
	}
	return fmt.Errorf("all %d addresses of %s are in use", count, r.plan.slots4)
}

// address gives a slot addresses, and the routes.
func (r *Router) address(s *Slot) error {
	if err := r.choose(s); err != nil {
		return err
	}
	for _, a := range []netip.Addr{s.addr4, s.addr6} {
		if !a.IsValid() {
			continue
		}
		if err := r.neighbours(r.links, s.link, slotMAC, a); err != nil {
			return err
		}
		if err := r.links.RouteAdd(&netlink.Route{LinkIndex: s.link, Dst: host(a), Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route %s to its slot: %w", a, err)
		}
	}
	return r.inSlot(s, func(h *netlink.Handle, eth0 netlink.Link) error {
		if err := r.addAddrs(h, eth0, s.addrs()...); err != nil {
			return err
		}
		if err := r.neighbours(h, eth0.Attrs().Index, routerMAC, r.plan.gateway4, r.plan.gateway6); err != nil {
			return err
		}
		return r.defaultRoutes(h, eth0.Attrs().Index, r.plan.gateway4, r.plan.gateway6)
	})
}

func (s *Slot) addrs() []netip.Addr {
	if s.addr6.IsValid() {
		return []netip.Addr{s.addr4, s.addr6}
	}
	return []netip.Addr{s.addr4}
}

// defaultRoutes leads everything through neighbours on a device.
func (r *Router) defaultRoutes(h *netlink.Handle, dev int, gateways ...netip.Addr) error {
	for _, gw := range gateways {
		if gw.Is6() && !r.plan.v6 {
			continue
		}
		all := &net.IPNet{IP: make(net.IP, gw.BitLen()/8), Mask: net.CIDRMask(0, gw.BitLen())}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: dev, Dst: host(gw), Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route to %s: %w", gw, err)
		}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: dev, Dst: all, Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("route through %s: %w", gw, err)
		}
	}
	return nil
}
