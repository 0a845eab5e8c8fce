package network

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"hob/faas"
)

// allReady waits until nothing is being made.
func (w *world) allReady(r *Router) {
	w.t.Helper()
	for end := time.Now().Add(longEnough); len(r.ready) < r.cfg.Ready; {
		if time.Now().After(end) {
			w.t.Fatal("the first slots are not ready")
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *Router) addressed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byAddr)
}

func TestASlotThatCannotBeMadeLeavesNoAddress(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	w.allReady(r)
	policy := func(s *nftables.Set) (before *nftables.Set) {
		r.filter.mu.Lock()
		defer r.filter.mu.Unlock()
		before, r.filter.inet["policy"] = r.filter.inet["policy"], s
		return before
	}
	have := r.addressed()
	none := *r.filter.inet["policy"]
	none.Name = "none"
	before := policy(&none)
	if _, err := r.newSlot(); err == nil {
		t.Error("a slot is made that the filter does not know")
	}
	policy(before)
	if now := r.addressed(); now != have {
		t.Errorf("%d addresses are taken, before it were %d", now, have)
	}
	s, err := r.newSlot()
	w.check(err)
	r.discard(s)
}

func TestWithoutAFreeAddressNoSlotIsMade(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	w.allReady(r)
	r.mu.Lock()
	count := 1 << (32 - r.plan.slots4.Bits())
	for i := range count {
		if a := offset(r.plan.slots4.Addr(), uint32(i)); r.byAddr[a] == nil {
			r.byAddr[a] = &Slot{}
		}
	}
	r.mu.Unlock()
	have := r.addressed()
	if _, err := r.newSlot(); err == nil || !strings.Contains(err.Error(), "addresses") {
		t.Errorf("newSlot: %v; want that there is no address", err)
	}
	if now := r.addressed(); now != have {
		t.Errorf("%d addresses are taken, before it were %d", now, have)
	}
}

func TestWhoCanWaitLeavesSlotsToOthers(t *testing.T) {
	r := &Router{cfg: Config{Ready: 4}, ready: make(chan *Slot, 8), taken: make(chan struct{}, 1)}
	for range 4 {
		r.ready <- &Slot{}
	}
	p := faas.Egress{Mode: faas.NetworkOpen}
	for range 2 {
		if s, err := r.Spare(p, "blank"); err != nil || s.owner != "blank" {
			t.Errorf("Spare: %v, %v; want a slot", s, err)
		}
	}
	if _, err := r.Spare(p, "blank"); !errors.Is(err, ErrFew) {
		t.Errorf("with two of four left: %v; want ErrFew", err)
	}
	for range 2 {
		if _, err := r.Take(t.Context(), p, "start"); err != nil {
			t.Error(err)
		}
	}
}

func TestDevicesDoNothingByThemselves(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	s := w.take(r, "open")
	look := func(devices ...string) error {
		for _, dev := range append(devices, "all", "default") {
			for _, list := range [][]setting{quiet4(dev), quiet6(dev)} {
				for _, want := range list {
					if have, err := os.ReadFile("/proc/sys/net/" + want.name); err != nil || strings.TrimSpace(string(have)) != want.value {
						t.Errorf("%s is %q, want %s: %v", want.name, have, want.value, err)
					}
				}
			}
		}
		return nil
	}
	w.in(s.FD(), func() error { return look("eth0") })
	dev, err := r.links.LinkByIndex(s.link)
	w.check(err)
	w.in(r.fd, func() error { return look(dev.Attrs().Name) })
}

// traces are what the filter has of a slot, besides its addresses.
func (w *world) traces(s *Slot) (list []string) {
	w.t.Helper()
	f := s.r.filter
	f.mu.Lock()
	defer f.mu.Unlock()
	policies, err := f.conn.GetSetElements(f.inet["policy"])
	w.check(err)
	for _, e := range policies {
		if slices.Equal(e.Key, index(s.link)) {
			list = append(list, "policy")
		}
	}
	chains, err := f.conn.ListChains()
	w.check(err)
	for _, c := range chains {
		if c.Name == s.chainName() || c.Name == "half" {
			list = append(list, c.Name)
		}
	}
	sets, err := f.conn.GetSets(f.table)
	w.check(err)
	for _, set := range sets {
		for _, version := range []int{4, 6} {
			if set.Name == f.namesOf(s, version).Name {
				list = append(list, set.Name)
			}
		}
	}
	return list
}

func TestADiscardedSlotLeavesNothingInTheFilter(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	s := w.take(r, "allow", "db.lan:5432")
	if have := w.traces(s); len(have) != 4 {
		t.Errorf("the filter has %q: the test shows nothing", have)
	}
	r.discard(s) // as if it could not be shut
	if have := w.traces(s); len(have) != 0 {
		t.Errorf("the filter has %q of a slot that is gone", have)
	}
}

func TestAChangeThatFailsHalfwayChangesNothing(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	s := w.take(r, "open")
	wrong := errors.New("wrong")
	err := r.filter.change("try", func() error {
		r.filter.conn.AddChain(&nftables.Chain{Table: r.filter.table, Name: "half"})
		return wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("change: %v", err)
	}
	w.check(r.filter.change("try again", func() error { return nil }))
	if have := w.traces(s); !slices.Equal(have, []string{"policy"}) {
		t.Errorf("the filter has %q", have)
	}
}

func TestPacketsThatSayTheirRouteAreDropped(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router()
	s := w.take(r, "open")
	for _, option := range []byte{131, 137} {
		w.in(s.FD(), func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			route := append([]byte{1, option, 7, 4}, r.plan.gateway4.AsSlice()...)
			if err := unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(route)); err != nil {
				return err
			}
			return unix.Sendto(fd, []byte("hello"), 0, &unix.SockaddrInet4{Port: 443, Addr: [4]byte{8, 8, 8, 8}})
		})
	}
	w.reaches(s, "udp", "8.8.8.8:443") // after them
	r.filter.mu.Lock()
	defer r.filter.mu.Unlock()
	rules, err := r.filter.conn.GetRules(r.filter.table, &nftables.Chain{Name: "prerouting", Table: r.filter.table})
	w.check(err)
	dropped := 0
	for _, rule := range rules {
		option := slices.ContainsFunc(rule.Exprs, func(e expr.Any) bool { _, ok := e.(*expr.Exthdr); return ok })
		for _, e := range rule.Exprs {
			if c, ok := e.(*expr.Counter); ok && option {
				dropped += int(c.Packets)
			}
		}
	}
	if dropped != 2 {
		t.Errorf("%d packets are dropped, want 2", dropped)
	}
}
