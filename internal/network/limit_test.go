package network

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// answers makes 40 connections from a slot, each with a port of its own, which stay, and
// counts those that are answered on from before. As long as there are fewer than least it
// waits for them.
func (w *world) answers(s *Slot, before, least int) int {
	w.t.Helper()
	w.in(s.FD(), func() error {
		for range 40 {
			c, err := net.Dial("udp", "8.8.8.8:443")
			if err != nil {
				return err
			}
			w.t.Cleanup(func() { c.Close() })
			c.SetDeadline(time.Now().Add(map[bool]time.Duration{true: longEnough, false: 50 * time.Millisecond}[before < least]))
			c.Write([]byte("hello"))
			if _, err := c.Read(make([]byte, 100)); err == nil {
				before++
			}
		}
		return nil
	})
	return before
}

func TestASlotHasItsShareOfConnections(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router(func(c *Config) { c.Connections, c.Flows = 1000, 20 })
	s, other := w.take(r, "open"), w.take(r, "open")
	const least = 15 // are waited for
	answers := w.answers(s, 0, least)
	if answers < least || answers > 20 {
		t.Errorf("%d of 40 connections came through; want 20 at once", answers)
	}
	w.reaches(other, "udp", "8.8.8.8:443")
	if f := w.refusal(); f.Flows != 20 || f.Rate != 0 || f.Rule() != "" {
		t.Errorf("told: %+v", f)
	}
	if n, err := r.Refusals(); n < 20 || err != nil {
		t.Errorf("%d refusals are counted, %v; want the 20 that were too many", n, err)
	}
}

func TestAllSlotsTogetherHaveTheirShareOfConnections(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router(func(c *Config) { c.Connections, c.allFlows = 1000, 40 })
	w.in(r.fd, func() error {
		data, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established")
		if string(data) != "7440\n" {
			t.Errorf("connections without a packet are remembered for %q s, want 7440", data)
		}
		return err
	})
	const least = 30 // are waited for
	answers := w.answers(w.take(r, "open"), 0, least)
	answers = w.answers(w.take(r, "open"), answers, least)
	if answers < least || answers > 40 {
		t.Errorf("%d of 80 connections came through; want 40 at once", answers)
	}
	if f := w.refusal(); f.Rule() != "" || !strings.Contains(f.Why(), "the 40 connections") || f.Flows != 0 {
		t.Errorf("told: %+v", f)
	}
	if n, err := r.Refusals(); n < 40 || err != nil {
		t.Errorf("%d refusals are counted, %v; want those that were too many", n, err)
	}
}

func TestNewConnectionsOverTheRateAreDroppedAndTold(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router(func(c *Config) { c.Connections = 5 })
	s, other := w.take(r, "open"), w.take(r, "open")
	w.in(s.FD(), func() error {
		for range 300 {
			c, err := net.Dial("udp", "8.8.8.8:443")
			if err != nil {
				return err
			}
			c.Write([]byte("hello"))
			c.Close()
		}
		return nil
	})
	if f := w.refusal(); f.Owner != t.Name() || f.Rate != 5 || f.Flows != 0 || f.Rule() != "" {
		t.Errorf("told: %+v", f)
	}
	if n, err := r.Refusals(); n == 0 || err != nil {
		t.Errorf("%d refusals are counted, %v", n, err)
	}
	w.reaches(other, "udp", "8.8.8.8:443")
	if many := r.flowsOf(t, s.addr4); many > 250 {
		t.Errorf("%d of 300 connections came through at once; want 10 and 5 a second", many)
	}
}

func TestDatagramsOfOneConnectionAreNotNewOnes(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router(func(c *Config) { c.Connections = 5 })
	s := w.take(r, "open")
	w.in(s.FD(), func() error {
		c, err := net.Dial("udp", "1.2.3.4:8125") // where nobody answers
		if err != nil {
			return err
		}
		defer c.Close()
		for range 300 {
			c.Write([]byte("metric"))
		}
		return nil
	})
	w.reaches(s, "udp", "8.8.8.8:443")
	if n, err := r.Refusals(); n > 0 || err != nil {
		t.Errorf("%d of 300 datagrams were refused, %v", n, err)
	}
}

func TestBandwidthIsLimitedBothWays(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router(func(c *Config) { c.Bandwidth = 1 << 20 })
	s := w.take(r, "open")
	w.reaches(s, "tcp", "8.8.8.8:443")
	limits := func(dev netlink.Link, list func(netlink.Link) ([]netlink.Qdisc, error)) {
		all, err := list(dev)
		w.check(err)
		for _, q := range all {
			if tbf, ok := q.(*netlink.Tbf); ok && tbf.Rate == 1<<20 {
				return
			}
		}
		t.Errorf("%s sends without a limit: %v", dev.Attrs().Name, all)
	}
	dev, err := r.links.LinkByIndex(s.link)
	w.check(err)
	limits(dev, r.links.QdiscList)
	w.check(r.inSlot(s, func(h *netlink.Handle, eth0 netlink.Link) error { limits(eth0, h.QdiscList); return nil }))
}
