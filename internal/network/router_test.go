package network

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestOpenReachesTheInternetAndNothingElse(t *testing.T) {
	w := newWorld(t)
	for _, addr := range []string{"8.8.8.8:443", "[2600::8888]:443"} {
		w.serve(w.internet, addr)
	}
	for _, addr := range []string{"10.1.2.3:443", "192.168.7.7:443", "169.254.169.254:80", "[fd00:9::3]:443", "[fd00:ec2::254]:80"} {
		w.serve(w.private, addr)
	}
	w.serve(w.node, "0.0.0.0:443")
	w.serve(w.node, "[::]:444")
	r := w.router()
	s, other := w.take(r, "open"), w.take(r, "open")
	w.serve(other.FD(), ":443")
	v4, v6 := other.Addrs()
	for _, network := range []string{"tcp", "udp"} {
		w.reaches(s, network, "8.8.8.8:443")
		w.reaches(s, network, "[2600::8888]:443")
		w.reaches(s, network, "[::ffff:8.8.8.8]:443") // a socket's way of writing 8.8.8.8
		for _, addr := range []string{
			"10.1.2.3:443", "192.168.7.7:443", "169.254.169.254:80", "[fd00:9::3]:443", "[fd00:ec2::254]:80",
			"9.9.9.2:443", "10.1.2.1:443", "[2600:9::2]:444", "[fd00:9::1]:444", // the node
			r.plan.gateway4.String() + ":443", r.plan.node4.String() + ":443", r.plan.plain4.String() + ":443",
			"[::ffff:10.1.2.3]:443", "[::ffff:9.9.9.2]:443", "[64:ff9b::a01:203]:443", "[2002:a01:203::1]:443",
			"127.0.0.1:443", "255.255.255.255:443", "224.0.0.1:443",
			v4.String() + ":443", "[" + v6.String() + "]:443", // another function
		} {
			w.refuses(s, network, addr)
		}
	}
}

func TestAllowReachesWhatRulesSay(t *testing.T) {
	w := newWorld(t)
	w.names()
	w.serve(w.internet, "8.8.8.8:443")
	w.serve(w.internet, "1.2.3.4:443")
	w.serve(w.internet, "[2600::8888]:443")
	w.serve(w.private, "10.1.2.3:5432")
	w.serve(w.private, "192.168.7.7:80")
	w.serve(w.node, "10.1.2.1:5432")
	w.serve(w.node, "9.9.9.2:5433")
	w.resolves["api.example.com."] = addrs("1.2.3.4", "2600::8888", "127.0.0.1", "169.254.169.254")
	r := w.router()

	s := w.take(r, "allow", "10.0.0.0/8:5432/tcp", "api.example.com:443", "9.9.9.2:5433")
	w.reaches(s, "tcp", "10.1.2.3:5432")
	w.refuses(s, "udp", "10.1.2.3:5432")
	w.refuses(s, "tcp", "10.1.2.1:5432") // the node, in the range
	w.reaches(s, "tcp", "9.9.9.2:5433")  // the node, by its address
	w.refuses(s, "tcp", "8.8.8.8:443")
	w.refuses(s, "tcp", "1.2.3.4:443") // not looked up yet
	got, err := w.lookup(r, s, "ip", "api.example.com")
	if err != nil || len(got) != 2 {
		t.Errorf("the name stands for %v, %v; want the two that a name can stand for", got, err)
	}
	w.reaches(s, "tcp", "1.2.3.4:443")
	w.reaches(s, "udp", "[2600::8888]:443")
	if _, err := w.lookup(r, s, "ip4", "other.example.com"); err == nil {
		t.Error("a name that no rule has was looked up")
	}
	w.mu.Lock()
	asked := w.asked
	w.mu.Unlock()
	if asked != 2 {
		t.Errorf("the name server was asked %d times; want 2: what is refused is not asked", asked)
	}

	wide := w.take(r, "allow", "0.0.0.0/0:*")
	w.reaches(wide, "tcp", "8.8.8.8:443")
	w.refuses(wide, "tcp", "192.168.7.7:80")
	w.refuses(wide, "tcp", "9.9.9.2:5433")
}

func TestNamesOfOthersDoNotStandForPrivateAddresses(t *testing.T) {
	w := newWorld(t)
	w.names()
	w.serve(w.private, "10.1.2.3:80")
	w.resolves["rebind.example."] = addrs("8.8.8.8", "10.1.2.3", "fd00:9::3")
	w.resolves["db.lan."] = addrs("10.1.2.3")
	r := w.router()
	s := w.take(r, "open", "db.lan:80")
	if got, err := w.lookup(r, s, "ip", "rebind.example"); err != nil || len(got) != 1 || got[0].String() != "8.8.8.8" {
		t.Errorf("%v, %v; want 8.8.8.8 alone", got, err)
	}
	w.refuses(s, "tcp", "10.1.2.3:80")
	if _, err := w.lookup(r, s, "ip4", "db.lan"); err != nil {
		t.Error(err)
	}
	w.reaches(s, "tcp", "10.1.2.3:80")
}

func TestRefusedConnectionsAreTold(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	s := w.take(r, "open")
	w.refuses(s, "tcp", "10.1.2.3:5432")
	<-w.told
	w.mu.Lock()
	f := w.refused[0]
	w.mu.Unlock()
	if f.Owner != t.Name() || f.Protocol != "tcp" || f.Rule() != "10.1.2.3:5432" {
		t.Errorf("told: %+v", f)
	}
	if n, err := r.Refusals(); n == 0 || err != nil {
		t.Errorf("%d refusals, %v", n, err)
	}
}

func TestSpoofedPacketsGoNowhere(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router()
	s, other := w.take(r, "open"), w.take(r, "open")
	theirs, _ := other.Addrs()
	w.device(s.FD(), "eth0", theirs.String()+"/32", "10.1.2.3/32")
	for _, from := range []string{theirs.String(), "10.1.2.3"} {
		err := w.try(s.FD(), func() error {
			d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			c, err := d.Dial("tcp", "8.8.8.8:443")
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			t.Errorf("a connection from %s came through", from)
		}
	}
	w.reaches(s, "tcp", "8.8.8.8:443")
}

func TestFragmentsAreJudgedAsOnePacket(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	w.serve(w.private, "10.1.2.3:443")
	r := w.router()
	s := w.take(r, "allow", "8.8.8.8:443", "10.1.2.3:80")
	send := func(addr string, patience time.Duration) error {
		return w.try(s.FD(), func() error {
			c, err := net.Dial("udp", addr)
			if err != nil {
				return err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Write(make([]byte, 5000)); err != nil {
				return err
			}
			_, err = c.Read(make([]byte, 100))
			return err
		})
	}
	if err := send("8.8.8.8:443", longEnough); err != nil {
		t.Errorf("in fragments to an allowed port: %v", err)
	}
	if err := send("10.1.2.3:443", aMoment); err == nil {
		t.Error("fragments came through to a port that is not allowed")
	}
}

func TestSlotsAreUsedAgainWhenClean(t *testing.T) {
	w := newWorld(t)
	w.serve(w.internet, "8.8.8.8:443")
	w.serve(w.private, "10.1.2.3:80")
	r := w.router(func(c *Config) { c.Ready = 1 })
	s := w.take(r, "open", "10.1.2.3:80/udp")
	w.reaches(s, "udp", "10.1.2.3:80")
	before, _ := s.Addrs()
	s.Release()
	for end := time.Now().Add(longEnough); time.Now().Before(end); {
		again := w.take(r, "open")
		w.refuses(again, "udp", "10.1.2.3:80")
		now, _ := again.Addrs()
		if now == before {
			t.Errorf("address %s comes again", now)
		}
		w.reaches(again, "udp", "8.8.8.8:443")
		again.Release()
		if again == s {
			return
		}
	}
	t.Error("the slot was not used again")
}

func addrs(list ...string) (addrs []netip.Addr) {
	for _, text := range list {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

func TestRawPacketsAreJudgedLikeOthers(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	s, other := w.take(r, "open"), w.take(r, "open")
	v4, _ := other.Addrs()
	for to, want := range map[string]bool{"8.8.8.8": true, "10.1.2.3": false, "9.9.9.2": false, v4.String(): false} {
		err := w.try(s.FD(), func() error {
			c, err := net.Dial("ip4:icmp", to)
			if err != nil {
				return err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(map[bool]time.Duration{true: longEnough, false: aMoment}[want]))
			if _, err := c.Write([]byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1}); err != nil { // an echo request
				return err
			}
			b := make([]byte, 100)
			for {
				n, err := c.Read(b)
				if err != nil || n > 20 && b[20] == 0 { // after the header of IP
					return err
				}
			}
		})
		if (err == nil) != want {
			t.Errorf("an echo of %s: %v; want one: %v", to, err, want)
		}
	}
}
