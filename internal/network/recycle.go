package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"hob/faas"
)

// quarantine is how long a slot may take to become clean: a connection that the
// function closed last waits a minute in the kernel.
const quarantine = 70 * time.Second

// mostWaiting is how many slots may wait to be clean for each that is to be ready.
const mostWaiting = 4

// roundTime is how long slots that came back are gathered: a look at the
// processes of the machine and at the kernel's table of connections takes some
// 30 ms, for one slot or for hundreds.
const roundTime = 500 * time.Millisecond

// recycle makes slots that came back ready for somebody else, in rounds.
func (r *Router) recycle(ctx context.Context) {
	var waiting []*Slot
	for {
		var again <-chan time.Time
		if len(waiting) > 0 {
			again = time.After(time.Second)
		}
		select {
		case s := <-r.returned:
			waiting = r.arrive(waiting, s)
		case <-again:
		case <-ctx.Done():
			return
		}
		round := time.After(roundTime)
		for len(r.returned) > 0 {
			waiting = r.arrive(waiting, <-r.returned)
		}
		waiting = r.renewAll(waiting)
		select {
		case <-round:
		case <-ctx.Done():
			return
		}
	}
}

// renewAll renews slots, and returns those that may become clean later, the longest first.
func (r *Router) renewAll(slots []*Slot) (later []*Slot) {
	busy := busyNetworks("/proc")
	clean := slots[:0]
	defer func() { later = r.bounded(later, busy) }()
	for _, s := range slots {
		err := r.unused(s, busy)
		switch {
		case err == nil && len(r.ready)+len(clean) < cap(r.ready):
			clean = append(clean, s)
		case err == nil: // enough are ready
			r.discard(s)
		case errors.Is(err, errNotClean) && time.Now().Before(s.deadline):
			later = append(later, s)
		default:
			r.giveUp(s, err)
		}
	}
	if err := r.forgetFlows(clean); err != nil {
		for _, s := range clean {
			r.giveUp(s, err)
		}
		return later
	}
	for _, s := range clean {
		if err := r.renew(s); err != nil {
			r.giveUp(s, err)
		}
	}
	return later
}

// bounded discards the slots that have waited longest if more wait than are of use: each
// is a network, with devices. One that a process is in stays.
func (r *Router) bounded(waiting []*Slot, busy map[string]bool) []*Slot {
	over := len(waiting) - mostWaiting*r.cfg.Ready
	return slices.DeleteFunc(waiting, func(s *Slot) bool {
		if over <= 0 || s.isIn(busy) {
			return false
		}
		over--
		r.discard(s)
		return true
	})
}

// isIn reports whether a slot is one of these networks, or may be.
func (s *Slot) isIn(networks map[string]bool) bool {
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(s.fd))
	return err != nil || networks[name]
}

func (r *Router) giveUp(s *Slot, why error) {
	r.cfg.Log.Warn("a network slot is removed, not used again", "sandbox", s.Owner(), "err", why)
	r.discard(s)
}

// arrive closes a slot to everything and adds it to those that are to be cleaned.
func (r *Router) arrive(waiting []*Slot, s *Slot) []*Slot {
	if err := r.filter.shut(s); err != nil {
		r.giveUp(s, err)
		return waiting
	}
	s.deadline = time.Now().Add(quarantine)
	return append(waiting, s)
}

var errNotClean = errors.New("it is not clean")

// unused proves that nobody is in a slot, and nothing of its last user.
func (r *Router) unused(s *Slot, busy map[string]bool) error {
	if s.isIn(busy) {
		return fmt.Errorf("%w: a process is in it", errNotClean)
	}
	return r.in(s.fd, noSockets)
}

// renew gives an unused slot new addresses and makes it ready.
func (r *Router) renew(s *Slot) error {
	if err := r.filter.expel(s); err != nil {
		return err
	}
	if err := r.unaddress(s); err != nil {
		return err
	}
	r.forgetAddrs(s)
	if err := r.address(s); err != nil {
		return err
	}
	if err := r.filter.admit(s); err != nil {
		return err
	}
	r.mu.Lock()
	s.owner, s.policy, s.toldName, s.stoodFor = "", faas.Egress{}, nil, nil
	r.mu.Unlock()
	select {
	case r.ready <- s:
	default:
		r.discard(s)
	}
	return nil
}

func (r *Router) forgetAddrs(s *Slot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range s.addrs() {
		if r.byAddr[a] == s { // if it could not be given others, these may be another's since
			delete(r.byAddr, a)
		}
	}
}

// discard ends a slot. Its devices go when the kernel ends the namespace, many in one
// go: to delete them here would hold up everybody's for 20 ms each. If a process is
// in it still, the device is cut off: the filter knows it no more.
func (r *Router) discard(s *Slot) {
	if err := r.filter.expel(s); err != nil {
		r.cfg.Log.Error("a network slot stays in the filter", "err", err)
	}
	r.forgetAddrs(s)
	r.mu.Lock()
	delete(r.slots, s.link)
	r.mu.Unlock()
	s.close()
}

func (s *Slot) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// forgetFlows removes what the router remembers of the connections of slots. Each
// family costs a walk through the kernel's whole table.
func (r *Router) forgetFlows(slots []*Slot) error {
	if len(slots) == 0 {
		return nil
	}
	theirs := flowsOf{}
	for _, s := range slots {
		for _, a := range s.addrs() {
			theirs[a] = true
		}
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := r.flows.ConntrackDeleteFilters(netlink.ConntrackTable, family, theirs); err != nil {
			return fmt.Errorf("forget the connections of slots: %w", err)
		}
	}
	return nil
}

// flowsOf chooses the connections from and to some addresses.
type flowsOf map[netip.Addr]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowsOf) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	from, _ := netip.AddrFromSlice(flow.Forward.SrcIP)
	to, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	return f[from.Unmap()] || f[to.Unmap()]
}

// noSockets returns errNotClean if the calling thread's network has a socket of
// any kind, or a connection or fragment that outlives its socket.
func noSockets() error {
	for _, file := range []string{"sockstat", "sockstat6"} {
		data, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for line := range strings.Lines(string(data)) {
			words := strings.Fields(line)
			for i := 1; i+1 < len(words); i += 2 {
				// The others are counted for the whole machine.
				if what := words[i]; (what == "used" || what == "inuse" || what == "tw") && words[i+1] != "0" {
					return fmt.Errorf("%w: %s %s %s", errNotClean, words[0], what, words[i+1])
				}
			}
		}
	}
	// A line for each, after the header.
	if data, err := os.ReadFile("/proc/thread-self/net/ip6_flowlabel"); err == nil && bytes.Count(data, []byte("\n")) > 1 {
		return fmt.Errorf("%w: it has flow labels", errNotClean)
	}
	return nil
}

// busyNetworks has the names of the networks that the processes below proc, which is
// /proc, are in.
func busyNetworks(proc string) map[string]bool {
	busy := map[string]bool{}
	in := func(task string) bool {
		name, err := os.Readlink(filepath.Join(task, "ns/net"))
		if err == nil {
			busy[name] = true
		}
		return err == nil
	}
	entries, _ := os.ReadDir(proc)
	for _, e := range entries {
		process := filepath.Join(proc, e.Name())
		if c := e.Name()[0]; c < '0' || c > '9' || in(process) {
			continue
		}
		// Its first thread may have ended, and others not.
		threads, _ := os.ReadDir(filepath.Join(process, "task"))
		for _, t := range threads {
			in(filepath.Join(process, "task", t.Name()))
		}
	}
	return busy
}

// unaddress takes a slot's addresses and routes away, and with them what the
// kernel remembers of the ways to others. Some or all may be gone: gVisor takes them
// into its own network.
func (r *Router) unaddress(s *Slot) error {
	for _, a := range s.addrs() {
		if err := r.links.RouteDel(&netlink.Route{LinkIndex: s.link, Dst: host(a), Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		if err := r.links.NeighDel(&netlink.Neigh{LinkIndex: s.link, IP: a.AsSlice()}); err != nil {
			return err
		}
	}
	return r.inSlot(s, func(h *netlink.Handle, eth0 netlink.Link) error {
		devices, err := h.LinkList()
		if err != nil {
			return err
		}
		if len(devices) != 2 || eth0.Attrs().Flags&net.FlagUp == 0 {
			return errors.New("its devices are not as they were")
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := h.RouteListFiltered(family, &netlink.Route{LinkIndex: eth0.Attrs().Index}, netlink.RT_FILTER_OIF)
			if err != nil {
				return err
			}
			for _, route := range routes {
				if err := h.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
					return err
				}
			}
			addrs, err := h.AddrList(eth0, family)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if err := h.AddrDel(eth0, &a); err != nil {
					return err
				}
			}
		}
		return forgetPeers()
	})
}

// forgetPeers has the kernel forget what it knows about the other ends of TCP
// connections of the calling thread's network. Anybody there may list them.
func forgetPeers() error {
	family, err := genericFamily("tcp_metrics")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		const deleteMetrics, version = 2, 1 // without an address: all of them
		req := nl.NewNetlinkRequest(int(family), unix.NLM_F_ACK)
		req.AddData(genericHeader{deleteMetrics, version})
		_, err = req.Execute(unix.NETLINK_GENERIC, 0)
	}
	if err != nil {
		return fmt.Errorf("forget the peers of connections: %w", err)
	}
	return nil
}

// genericFamily returns the number that a family of generic netlink has.
func genericFamily(name string) (uint16, error) {
	req := nl.NewNetlinkRequest(unix.GENL_ID_CTRL, 0)
	req.AddData(genericHeader{unix.CTRL_CMD_GETFAMILY, 1})
	req.AddData(nl.NewRtAttr(unix.CTRL_ATTR_FAMILY_NAME, nl.ZeroTerminated(name)))
	answers, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, err
	}
	for _, answer := range answers {
		attrs, err := nl.ParseRouteAttr(answer[min(len(answer), len(genericHeader{})):])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.CTRL_ATTR_FAMILY_ID && len(a.Value) >= 2 {
				return nl.NativeEndian().Uint16(a.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("the kernel does not tell the number of %s", name)
}

// genericHeader is struct genlmsghdr: command, version, and two bytes for later. That of
// the library reads the two from behind its memory, which is somebody else's.
type genericHeader [4]byte

// Len and Serialize implement nl.NetlinkRequestData.
func (h genericHeader) Len() int          { return len(h) }
func (h genericHeader) Serialize() []byte { return h[:] }
