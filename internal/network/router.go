package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hob/internal/linux"
)

// Config says what a Router is to be.
type Config struct {
	Generation string // names this run of the daemon: letters and digits, at least 4; the last 11 count
	Ready      int    // slots kept ready; 0: 16

	Range netip.Prefix // IPv4 range to choose addresses from, /18 or larger; zero: 100.64.0.0/10
	MTU   int          // of the slots' devices; 0: as the node's devices with default routes, at most 1500

	Connections int   // new connections that a slot may open in a second, twice as many at once; 0: 200
	Flows       int   // connections that a slot may have; 0: 2000
	allFlows    int   // connections that all slots together may have; 0: half of those that the kernel remembers
	Bandwidth   int64 // bytes a second that a slot may send, and receive; 0: no limit

	Resolvers []netip.AddrPort // that answer for functions; nil: those of /etc/resolv.conf
	// Dial reaches Resolvers; nil: as this process does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Refused is told of connections that policy refused, at most ten a second of
	// a slot. It must not block. nil: nobody is told.
	Refused func(Refusal)
	Log     *slog.Logger

	Node int // network namespace, open, that is to be the node's; 0: that of this process
}

// A Router is the way of the slots of one generation to the node and further: a
// network namespace of its own, with a device to each slot and one to the node. All
// filters that differ from slot to slot are in it. The node has one device and one table more
// than before, both named after the generation, and they do not change.
//
// The namespace is held by this process only: if it is killed, the namespace, its
// devices, filters and connections are gone with it. What can remain on the node
// is what Reap removes: it knows by a name that the kernel keeps for living processes.
type Router struct {
	cfg    Config
	thread *linux.Thread // enters namespaces, one errand at a time
	home   int           // the namespace of the thread between errands
	node   int           // the node's
	fd     int           // the router's
	plan   plan
	up     int // index of the uplink in the router
	links  *netlink.Handle
	flows  *netlink.Handle // the connections that the router tracks

	filter *filter
	edge   *nodeSide
	names  *responder

	ready    chan *Slot
	taken    chan struct{} // one of ready was
	returned chan *Slot
	stop     context.CancelFunc
	work     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	slots   map[int]*Slot
	byAddr  map[netip.Addr]*Slot
	own     map[netip.Addr]ownership // the node's addresses
	next    uint32                   // the number of the last address given out
	devices uint64                   // how many were made for slots
	closed  bool
}

// NewRouter makes a router and the first slots, which may take some milliseconds
// each; Take waits for them. It needs root. The caller closes it.
func NewRouter(cfg Config) (_ *Router, err error) {
	setDefaults(&cfg)
	if len(cfg.Generation) < 4 {
		return nil, fmt.Errorf("make the network of generation %q: the name needs 4 letters or digits", cfg.Generation)
	}
	r := &Router{
		cfg: cfg, home: -1, node: -1, fd: -1,
		ready: make(chan *Slot, 2*cfg.Ready), taken: make(chan struct{}, 1), returned: make(chan *Slot, 4096),
		slots: map[int]*Slot{}, byAddr: map[netip.Addr]*Slot{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make the network of generation %s: %w", cfg.Generation, err), r.dismantle())
		}
	}()
	if err := r.openNamespaces(); err != nil {
		return nil, err
	}
	if err := r.in(r.node, r.look); err != nil {
		return nil, err
	}
	if err := r.in(r.fd, r.prepare); err != nil {
		return nil, err
	}
	if r.edge, err = newNodeSide(r); err != nil {
		return nil, err
	}
	if err := r.addTables(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

func setDefaults(cfg *Config) {
	or := func(n *int, d int) {
		if *n == 0 {
			*n = d
		}
	}
	or(&cfg.Ready, 16)
	or(&cfg.Connections, 200)
	or(&cfg.Flows, 2000)
	if !cfg.Range.IsValid() {
		cfg.Range = netip.MustParsePrefix("100.64.0.0/10")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
}

// addTables makes the packet filters of node and router at the same time: each waits for the kernel.
func (r *Router) addTables() (err error) {
	var node error
	var work sync.WaitGroup
	work.Go(func() { node = r.edge.open() })
	r.filter, err = newFilter(r)
	work.Wait()
	return errors.Join(err, node)
}

func (r *Router) openNamespaces() (err error) {
	if r.thread, err = linux.NewThread(func() error { return nil }); err != nil {
		return err
	}
	if r.home, err = linux.OpenNamespace(r.thread.TID(), "net"); err != nil {
		return err
	}
	r.node = r.home
	if r.cfg.Node != 0 {
		r.node = r.cfg.Node
	}
	r.thread.Do(func() { r.fd, err = linux.NewNetwork(r.home) })
	return err
}

// in carries out f on a thread that is in a network namespace, and brings it home.
func (r *Router) in(fd int, f func() error) (err error) {
	r.thread.Do(func() { err = within(r.home, fd, f) })
	return err
}

// look plans the router as the node is, where it is called.
func (r *Router) look() (err error) {
	if r.plan, err = newPlan(r.cfg); err != nil || r.cfg.MTU != 0 {
		return err
	}
	r.cfg.MTU, err = smallestMTU()
	return err
}

// within carries out f with the calling thread in a network namespace. A thread
// that does not find home is of no use any more: the process could make anything
// in the wrong network.
func within(home, fd int, f func() error) error {
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter a network: %w", err)
	}
	err := f()
	if home := unix.Setns(home, unix.CLONE_NEWNET); home != nil {
		panic(fmt.Sprintf("come back from a network: %v", home))
	}
	return err
}

// begin starts what runs as long as the router does.
func (r *Router) begin(ctx context.Context) error {
	var reports *reports
	err := r.in(r.fd, func() (err error) {
		if r.names, err = newResponder(r); err != nil {
			return err
		}
		reports, err = newReports(r)
		return err
	})
	if err != nil {
		return err
	}
	r.names.serve(ctx, &r.work)
	r.work.Go(func() { reports.read(ctx) })
	r.work.Go(func() { r.edge.watch(ctx) })
	r.work.Go(func() { r.refill(ctx) })
	r.work.Go(func() { r.recycle(ctx) })
	return nil
}

// prepare sets up the inside of the router: it is called there.
func (r *Router) prepare() (err error) {
	if err := setAll([]setting{
		{"ipv4/ip_forward", "1"},
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/default/send_redirects", "0"},
		{"ipv4/conf/all/rp_filter", "0"}, // the filter compares address and device, for both families
		{"ipv4/conf/default/rp_filter", "0"},
	}); err != nil {
		return err
	}
	if err := r.quiet(); err != nil {
		return err
	}
	if r.plan.v6 {
		if err := setAll([]setting{{"ipv6/conf/all/forwarding", "1"}}); err != nil {
			return err
		}
	}
	if r.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if r.flows, err = netlink.NewHandle(unix.NETLINK_NETFILTER); err != nil {
		return err
	}
	if err := r.prepareFlows(); err != nil {
		return err
	}
	lo, err := r.links.LinkByName("lo")
	if err != nil {
		return err
	}
	return r.addAddrs(r.links, lo, r.plan.gateway4, r.plan.gateway6)
}

// prepareFlows sets what the router remembers of connections: for the time that RFC 5382
// asks for, not the kernel's five days, and half as many as the kernel may. The
// other half is for the node's own.
func (r *Router) prepareFlows() error {
	const established, most = "netfilter/nf_conntrack_tcp_timeout_established", "/proc/sys/net/netfilter/nf_conntrack_max"
	if !exists(most) { // the list loads what has the settings; it takes 10 ms for a kernel that remembers 262,144
		if _, err := r.flows.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET); err != nil {
			return fmt.Errorf("list the connections of the network of functions: %w", err)
		}
	}
	if err := setAll([]setting{{established, "7440"}}); err != nil || r.cfg.allFlows != 0 {
		return err
	}
	text, err := os.ReadFile(most)
	if err != nil {
		return err
	}
	if r.cfg.allFlows, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return fmt.Errorf("read %s: %w", most, err)
	}
	if r.cfg.allFlows /= 2; r.cfg.allFlows == 0 {
		r.cfg.allFlows = 1 << 17 // the kernel has no bound
	}
	return nil
}

// addAddrs gives a device addresses without a network around them.
func (r *Router) addAddrs(h *netlink.Handle, dev netlink.Link, addrs ...netip.Addr) error {
	for _, a := range addrs {
		if a.Is6() && !r.plan.v6 {
			continue
		}
		if err := h.AddrAdd(dev, &netlink.Addr{IPNet: host(a), Flags: nodadFor(a)}); err != nil {
			return fmt.Errorf("give %s the address %s: %w", dev.Attrs().Name, a, err)
		}
		if err := usable(h, a); err != nil {
			return fmt.Errorf("give %s the address %s: %w", dev.Attrs().Name, a, err)
		}
	}
	return nil
}

// usable waits until packets for an address are taken in: for IPv6 the kernel sees
// to that a little after the address is there.
func usable(h *netlink.Handle, a netip.Addr) error {
	for range 10_000 {
		routes, err := h.RouteGet(a.AsSlice())
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		time.Sleep(200 * time.Microsecond)
	}
	return errors.New("the kernel does not take in packets for it")
}

// host is the range with one address.
func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func nodadFor(a netip.Addr) int {
	if a.Is6() {
		return unix.IFA_F_NODAD // nobody else is there, and the address would not be usable at once
	}
	return 0
}

// A setting is a kernel setting below /proc/sys/net of the calling thread's network.
type setting struct{ name, value string }

func setAll(list []setting) error {
	for _, s := range list {
		if err := os.WriteFile("/proc/sys/net/"+s.name, []byte(s.value), 0); err != nil {
			return fmt.Errorf("set net/%s to %s: %w", s.name, s.value, err)
		}
	}
	return nil
}

// quiet has the devices that will be made in the calling thread's network do nothing by
// themselves, whatever a new network has from this machine.
func (r *Router) quiet() error {
	list := append(quiet4("all"), quiet4("default")...)
	switch {
	case r.plan.v6:
		list = append(append(list, quiet6("all")...), quiet6("default")...)
	case r.plan.kernel6:
		list = append(list, setting{"ipv6/conf/default/disable_ipv6", "1"})
	}
	return setAll(list)
}

// quiet4 are the settings with which a device passes nothing on but as its route says,
// and answers for its own addresses only.
func quiet4(dev string) []setting {
	c := "ipv4/conf/" + dev + "/"
	return []setting{{c + "accept_source_route", "0"}, {c + "route_localnet", "0"}, {c + "proxy_arp", "0"}, {c + "accept_redirects", "0"}}
}

// quiet6 are the settings with which a device has the addresses that it was given
// and asks nobody for more.
func quiet6(dev string) []setting {
	c := "ipv6/conf/" + dev + "/"
	return []setting{
		{c + "addr_gen_mode", "1"}, {c + "accept_ra", "0"}, {c + "autoconf", "0"}, {c + "accept_redirects", "0"},
		{c + "accept_source_route", "0"}, {c + "proxy_ndp", "0"},
	}
}

// Close removes every slot, the router, and what the node had for them. Slots that are
// still taken lose their network; it must be called after the last sandbox has ended.
func (r *Router) Close() error {
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	if again {
		return nil
	}
	return r.dismantle()
}

// dismantle undoes whatever of the router has been made.
func (r *Router) dismantle() error {
	if r.stop != nil {
		r.stop()
		r.work.Wait()
	}
	var errs []error
	if r.names != nil {
		r.names.close()
	}
	for _, s := range r.slots {
		s.close()
	}
	if r.filter != nil {
		r.filter.close()
	}
	if r.edge != nil {
		errs = append(errs, r.edge.remove())
	}
	for _, h := range []*netlink.Handle{r.links, r.flows} {
		if h != nil {
			h.Close()
		}
	}
	for _, fd := range []int{r.fd, r.home} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if r.thread != nil {
		r.thread.Close()
	}
	return errors.Join(errs...)
}

// errClosed says that the router is closed.
var errClosed = errors.New("the network is closed")

// patience is how long Take waits for a slot when none is ready.
const patience = 10 * time.Second

func newConn(fd int) (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(fd), nftables.AsLasting())
}
