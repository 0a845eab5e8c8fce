package network

import (
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func TestASlotHasItsShareOfConnections(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router(func(c *Config) { c.Connections, c.Flows = 1000, 20 })
	s, other := w.take(r, "open"), w.take(r, "open")
	answers := 0
	w.in(s.FD(), func() error {
		for range 40 { // each has a port of its own, and stays
			c, err := net.Dial("udp", "8.8.8.8:443")
			if err != nil {
				return err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(50 * time.Millisecond))
			c.Write([]byte("hello"))
			if _, err := c.Read(make([]byte, 100)); err == nil {
				answers++
			}
		}
		return nil
	})
	if answers < 15 || answers > 20 {
		t.Errorf("%d of 40 connections came through; want 20 at once", answers)
	}
	w.reaches(other, "udp", "8.8.8.8:443")
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
