package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"hob/faas"
)

// dialler is a Dialer on the node, which asks the name server on the internet.
func (w *world) dialler(mode string, rules ...string) Dialer {
	w.t.Helper()
	e, err := faas.ParseEgress(mode, rules)
	w.check(err)
	return Dialer{e, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, proto, _ string) (c net.Conn, err error) {
		err = w.try(w.node, func() (err error) { c, err = new(net.Dialer).DialContext(ctx, proto, "8.8.8.8:53"); return err })
		return c, err
	}}}
}

// dial connects on the node and returns from which address the other side answers.
func (w *world) dial(d Dialer, network, address string) (from string, err error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), longEnough)
	defer cancel()
	err = w.try(w.node, func() error {
		c, err := d.Dial(ctx, network, address)
		if err != nil {
			return err
		}
		defer c.Close()
		from = c.RemoteAddr().String()
		if network == "tcp" {
			_, err = io.ReadAll(c)
		}
		return err
	})
	return from, err
}

func TestTheNodeDialsUnderAPolicy(t *testing.T) {
	w := newWorld(t)
	for _, addr := range []string{"8.8.8.8:443", "1.2.3.4:443", "[2600::8888]:443"} {
		w.serve(w.internet, addr)
	}
	for _, addr := range []string{"10.1.2.3:443", "169.254.169.254:443", "[fd00:ec2::254]:443"} {
		w.serve(w.private, addr)
	}
	w.serve(w.node, "0.0.0.0:443")
	w.device(w.node, "lo", "7.7.7.7/32")
	w.resolves["web.example.com."] = addrs("10.1.2.3", "8.8.8.8")
	w.resolves["db.lan."] = addrs("10.1.2.3")
	w.resolves["evil.lan."] = addrs("127.0.0.1", "169.254.169.254", "9.9.9.2", "fd00:ec2::254")
	w.names()
	for _, c := range []struct {
		opened                              bool
		mode, allow, network, address, want string // where it leads, or what would open it
	}{
		{true, "open", "", "tcp", "8.8.8.8:443", "8.8.8.8:443"},
		{true, "open", "", "udp", "[2600::8888]:443", "[2600::8888]:443"},
		{true, "open", "", "tcp", "web.example.com:443", "8.8.8.8:443"}, // of its addresses the open one
		{false, "open", "", "tcp", "10.1.2.3:443", "10.1.2.3:443"},
		{false, "open", "", "tcp", "[::ffff:10.1.2.3]:443", "10.1.2.3:443"},
		{false, "open", "", "tcp", "db.lan.:443", "db.lan.:443"},
		{false, "open", "", "tcp", "127.0.0.1:443", "127.0.0.1:443"},
		{false, "open", "", "tcp", "[fe80::1%wan]:443", ""},
		{false, "open", "", "tcp", "[2600:9::2%wan]:443", ""}, // the node's own
		{false, "open", "", "tcp", "[2600::8888%wan]:443", ""},
		{false, "open", "", "udp", "10.1.2.255:443", "10.1.2.255:443"},
		{false, "open", "", "udp", "9.9.9.255:443", "9.9.9.255:443"}, // for many machines
		{false, "open", "", "tcp", "9.9.9.2:443", "9.9.9.2:443"},
		{false, "open", "", "tcp", "7.7.7.7:443", "7.7.7.7:443"},
		{false, "open", "", "tcp", "169.254.169.254:443", "169.254.169.254:443"},
		{false, "open", "", "unix", "/run/docker.sock", ""},
		{true, "open", "9.9.9.2:443", "tcp", "9.9.9.2:443", "9.9.9.2:443"},
		{false, "open", "9.9.9.0/24:443 7.0.0.0/8:443", "tcp", "9.9.9.2:443", "9.9.9.2:443"},
		{true, "open", "10.0.0.0/8:443", "tcp", "10.1.2.3:443", "10.1.2.3:443"},
		{false, "open", "10.0.0.0/8:443/udp", "tcp", "10.1.2.3:443", "10.1.2.3:443"},
		{false, "open", "10.0.0.0/8:443", "tcp", "10.1.2.1:443", "10.1.2.1:443"},
		{false, "open", "0.0.0.0/0:*", "tcp", "10.1.2.3:443", "10.1.2.3:443"},
		{true, "open", "db.lan:443", "tcp", "db.lan:443", "10.1.2.3:443"},
		{true, "open", "*.lan:443", "tcp", "db.lan:443", "10.1.2.3:443"},
		{false, "open", "db.lan:443", "tcp", "10.1.2.3:443", "10.1.2.3:443"},
		{false, "open", "db.lan:444", "tcp", "db.lan:443", "db.lan:443"},
		{false, "open", "evil.lan:*", "tcp", "evil.lan:443", "127.0.0.1:443"},
		{true, "allow", "8.8.8.0/24:443", "tcp", "8.8.8.8:443", "8.8.8.8:443"},
		{false, "allow", "8.8.8.0/24:443", "tcp", "1.2.3.4:443", "1.2.3.4:443"},
		{false, "none", "", "tcp", "8.8.8.8:443", "8.8.8.8:443"},
		{true, "host", "", "tcp", "127.0.0.1:443", "127.0.0.1:443"},
	} {
		got, err := w.dial(w.dialler(c.mode, strings.Fields(c.allow)...), c.network, c.address)
		refused, closed := errors.AsType[*RefusedError](err)
		switch {
		case c.opened && (err != nil || got != c.want):
			t.Errorf("%s %q: %s %s: %q, %v; want %s", c.mode, c.allow, c.network, c.address, got, err, c.want)
		case !c.opened && !closed:
			t.Errorf("%s %q: %s %s: %q, %v; want that it is refused", c.mode, c.allow, c.network, c.address, got, err)
		case !c.opened && refused.Rule() != c.want:
			t.Errorf("%s %q: %s %s: opened by %q, want %q", c.mode, c.allow, c.network, c.address, refused.Rule(), c.want)
		}
	}
}

func TestWhatANameStandsForIsJudgedAndDialledOnce(t *testing.T) {
	w := newWorld(t)
	w.names()
	w.serve(w.internet, "8.8.8.8:443")
	w.serve(w.private, "10.1.2.3:443")
	d := w.dialler("open")
	for range 3 {
		for _, stand := range []struct {
			addr netip.Addr
			open bool
		}{{addrs("8.8.8.8")[0], true}, {addrs("10.1.2.3")[0], false}} {
			w.mu.Lock()
			w.resolves["rebind.example.com."] = []netip.Addr{stand.addr}
			w.mu.Unlock()
			if from, err := w.dial(d, "tcp", "rebind.example.com:443"); (err == nil) != stand.open {
				t.Errorf("while it is %s: %q, %v", stand.addr, from, err)
			}
		}
	}
}

func TestDialSaysWhyNothingWasDialled(t *testing.T) {
	w := newWorld(t)
	w.resolves["half.example.com."] = addrs("8.8.8.8", "10.1.2.3")
	w.resolves["db.lan."] = addrs("10.1.2.3")
	w.names()
	for address, want := range map[string]string{
		"10.1.2.3:443":         "connect to 10.1.2.3:443: the network policy closes this address",
		"db.lan:443":           "connect to db.lan:443: it is 10.1.2.3, and the network policy closes this address",
		"half.example.com:443": "connection refused", // nobody listens there
		"none.example.com:443": "no such host",
		"10.1.2.3:http":        `"http" is not a port`,
		"10.1.2.3":             "missing port",
	} {
		if _, err := w.dial(w.dialler("open"), "tcp", address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", address, err, want)
		}
	}
}
