package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// comesBack takes slots until it is the one that was released, with another address.
func (w *world) comesBack(r *Router, released *Slot, before netip.Addr) {
	w.t.Helper()
	for end := time.Now().Add(longEnough); time.Now().Before(end); {
		s := w.take(r, "open")
		w.reaches(s, "udp", "8.8.8.8:443")
		w.reaches(s, "udp", "[2600::8888]:443")
		if s == released {
			if now, _ := s.Addrs(); now == before {
				w.t.Errorf("address %s comes again", now)
			}
			return
		}
		s.Release()
	}
	w.t.Error("the slot was not used again")
}

// gVisor's network takes the addresses of the slot for its own and sends and
// receives by a packet socket.
func TestSlotsComeBackAfterGvisor(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	w.serve(w.internet, "[2600::8888]:443")
	r := w.router(func(c *Config) { c.Ready = 1 })
	s := w.take(r, "open")
	before, _ := s.Addrs()
	packets := -1
	w.in(s.FD(), func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			addrs, err := netlink.AddrList(eth0, family)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if err := netlink.AddrDel(eth0, &a); err != nil {
					return err
				}
			}
			routes, err := netlink.RouteList(eth0, family)
			if err != nil {
				return err
			}
			for _, route := range routes {
				if err := netlink.RouteDel(&route); err != nil {
					return err
				}
			}
		}
		const everything = 0x0300 // ETH_P_ALL, in the order of the network
		if packets, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(packets, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: eth0.Attrs().Index})
	})
	if err := r.in(s.fd, noSockets); err == nil {
		t.Error("a slot with a packet socket is clean")
	}
	w.check(unix.Close(packets))
	s.Release()
	w.comesBack(r, s, before)
}

func TestSlotsForgetWhereTheyWere(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	w.serve(w.internet, "[2600::8888]:443")
	r := w.router(func(c *Config) { c.Ready = 1 })
	s := w.take(r, "open")
	before, _ := s.Addrs()
	w.reaches(s, "tcp", "8.8.8.8:443")
	if w.peers(s) == 0 {
		t.Error("the kernel remembers no peer of a connection: the test shows nothing")
	}
	if r.flowsOf(t, before) == 0 {
		t.Error("the router tracks no connection of the slot: the test shows nothing")
	}
	s.Release()
	w.comesBack(r, s, before)
	if n := r.flowsOf(t, before); n != 0 {
		t.Errorf("the router remembers %d connections of the function before", n)
	}
	if n := w.peers(s); n != 0 {
		t.Errorf("the next function can see %d peers of the one before", n)
	}
}

// flowsOf is how many connections the router tracks of an address.
func (r *Router) flowsOf(t *testing.T, a netip.Addr) (n int) {
	t.Helper()
	flows, err := r.flows.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	theirs := flowsOf{a: true}
	for _, f := range flows {
		if theirs.MatchConntrackFlow(f) {
			n++
		}
	}
	return n
}

// peers is how many other ends the kernel of a slot remembers.
func (w *world) peers(s *Slot) (n int) {
	w.in(s.FD(), func() error {
		family, err := genericFamily("tcp_metrics")
		if err != nil {
			return err
		}
		req := nl.NewNetlinkRequest(int(family), unix.NLM_F_DUMP)
		req.AddData(genericHeader{1, 1})
		list, err := req.Execute(unix.NETLINK_GENERIC, 0)
		n = len(list)
		return err
	})
	return n
}

func TestASlotThatASocketKeepsIsNotUsedAgain(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	s := w.take(r, "open")
	w.in(s.FD(), func() error {
		l, err := net.Listen("unix", "@left")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err := r.unused(s, nil); !errors.Is(err, errNotClean) {
		t.Errorf("a slot with a socket: %v", err)
	}
}

// A process in a slot would keep it: it is given up by its deadline only.
func TestFewSlotsWaitToBeClean(t *testing.T) {
	w := newWorld(t)
	r := w.router(func(c *Config) { c.Ready = 1 })
	var slots []*Slot
	for range mostWaiting + 2 {
		s := w.take(r, "open")
		w.in(s.FD(), func() error {
			l, err := net.Listen("unix", "@left")
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		})
		s.deadline = time.Now().Add(quarantine)
		slots = append(slots, s)
	}
	all := slices.Clone(slots)
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(all[0].fd))
	w.check(err)
	waiting := r.bounded(slots, map[string]bool{name: true})
	if want := append([]*Slot{all[0]}, all[3:]...); !slices.Equal(waiting, want) {
		t.Errorf("%d wait: want the first, which a process is in, and the latest %d", len(waiting), mostWaiting-1)
	}
	if all[1].fd >= 0 || all[2].fd >= 0 {
		t.Error("those that do not wait any more are there")
	}
	if waiting = r.renewAll(waiting); len(waiting) != mostWaiting {
		t.Errorf("%d wait, want %d", len(waiting), mostWaiting)
	}
}

func TestAProcessIsInItsNetworkThoughItsFirstThreadEnded(t *testing.T) {
	proc := t.TempDir()
	for task, in := range map[string]string{"12": "net:[1]", "13/task/14": "net:[2]", "self": "net:[3]"} {
		dir := filepath.Join(proc, task, "ns")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(in, filepath.Join(dir, "net"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(proc, "13/task/13/ns"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := busyNetworks(proc); len(got) != 2 || !got["net:[1]"] || !got["net:[2]"] {
		t.Errorf("processes are in %v", got)
	}
}
