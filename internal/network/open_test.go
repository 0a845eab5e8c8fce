package network

import (
	"net/netip"
	"testing"
	"time"
)

func TestAddressesOfNamesAreCountedWhileTheyAreOpen(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router()
	s := w.take(r, "allow", "*.example.com:443")
	full := func(left time.Duration) {
		s.names.Lock()
		defer s.names.Unlock()
		clear(s.opened)
		for i := range maxOpened {
			s.opened[opened{0, offset(netip.MustParseAddr("9.0.0.0"), uint32(i))}] = time.Now().Add(left)
		}
	}
	open := func(addr string) error {
		return r.open(s, t.Name(), []int{0}, addrs(addr), time.Hour)
	}
	full(time.Minute)
	if err := open("8.8.8.8"); err == nil {
		t.Error("one more than the limit is opened")
	}
	if err := open("9.0.0.5"); err != nil {
		t.Errorf("one that is open for a while still: %v", err)
	}
	full(-time.Minute)
	if err := open("8.8.8.8"); err != nil {
		t.Errorf("after all have ended: %v", err)
	}
	if len(s.opened) != 1 {
		t.Errorf("%d are counted; want 1", len(s.opened))
	}
	w.reaches(s, "tcp", "8.8.8.8:443")
}
