package network

import (
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
)

// allReady waits until nothing is being made.
func (w *world) allReady(r *Router) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); len(r.ready) < r.cfg.Ready; {
		if time.Now().After(end) {
			w.t.Fatal("the first slots are not ready in 10 s")
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
