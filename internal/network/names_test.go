package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// refusal waits for the next that somebody was told of.
func (w *world) refusal() Refusal {
	w.t.Helper()
	select {
	case <-w.told:
	case <-time.After(longEnough):
		w.t.Fatal("nobody is told of a refusal")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.refused[0]
	w.refused = w.refused[1:]
	return f
}

// query asks a slot's name server one question, with EDNS if size is not 0.
func (w *world) query(r *Router, s *Slot, network, name string, kind dnsmessage.Type, size int) *dnsmessage.Message {
	w.t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	if size > 0 {
		var h dnsmessage.ResourceHeader
		w.check(h.SetEDNS0(size, 0, false))
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	w.check(err)
	var answer dnsmessage.Message
	w.in(s.FD(), func() error {
		c, err := net.Dial(network, net.JoinHostPort(r.plan.gateway4.String(), "53"))
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(longEnough))
		if network == "tcp" {
			if err := writeTCP(c, b); err != nil {
				return err
			}
			if b, err = readTCP(c); err != nil {
				return err
			}
			return answer.Unpack(b)
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
		in := make([]byte, 1<<16)
		n, err := c.Read(in)
		return errors.Join(err, answer.Unpack(in[:n]))
	})
	return &answer
}

func TestANameOfClosedAddressesIsToldOnceWithTheRuleThatOpensIt(t *testing.T) {
	w := newWorld(t)
	w.names()
	r := w.router()
	s := w.take(r, "open", "kept.example:443")
	w.check(r.edge.closeAddrs())
	for name, c := range map[string]struct {
		addr, rule string
	}{
		"db.lan":       {"10.1.2.3", "db.lan:*"},
		"db6.lan":      {"fd00:9::3", "db6.lan:*"},
		"self.example": {"127.0.0.1", ""},
		"meta.example": {"169.254.169.254", ""},
		"link.example": {"fe80::1", ""},
		"node.example": {"10.1.2.1", ""},
		"slot.example": {s.addr4.String(), ""},
		"kept.example": {"127.0.0.2", ""}, // a rule has it
	} {
		w.mu.Lock()
		w.resolves[name+"."] = addrs(c.addr)
		w.mu.Unlock()
		for range 3 { // as resolvers do
			if got, err := w.lookup(r, s, "ip", name+"."); err == nil {
				t.Errorf("%s stands for %v", name, got)
			}
		}
		f := w.refusal()
		if f.Owner != t.Name() || f.Name != name || f.To != netip.AddrPortFrom(netip.MustParseAddr(c.addr), 0) || f.Rule() != c.rule || (f.Why() == "") == (c.rule == "") {
			t.Errorf("%s: told %+v, rule %q, why %q; want rule %q", name, f, f.Rule(), f.Why(), c.rule)
		}
	}
	if len(w.refused) > 0 {
		t.Errorf("told besides: %+v", w.refused)
	}
	open := w.take(r, "open", "db.lan:*", "db6.lan:*")
	for _, name := range []string{"db.lan.", "db6.lan."} {
		if got, err := w.lookup(r, open, "ip", name); err != nil || !slices.Equal(got, w.resolves[name]) {
			t.Errorf("%s with its rule: %v, %v", name, got, err)
		}
	}
}

func TestUnderAllowOtherNamesAreNoneAtOnce(t *testing.T) {
	w := newWorld(t)
	w.names()
	r := w.router()
	s := w.take(r, "allow", "*.example.com:443")
	m := w.query(r, s, "udp", "example.org.", dnsmessage.TypeA, 0)
	if m.RCode != dnsmessage.RCodeNameError || !m.Authoritative || !m.RecursionAvailable {
		t.Errorf("the answer: %+v", m.Header)
	}
	var asked int
	res := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (c net.Conn, err error) {
		asked++
		err = w.try(s.FD(), func() (err error) { c, err = net.Dial("udp", r.plan.gateway4.String()+":53"); return err })
		return c, err
	}}
	_, err := res.LookupNetIP(t.Context(), "ip4", "example.org.")
	if dns, ok := errors.AsType[*net.DNSError](err); !ok || !dns.IsNotFound || asked != 1 {
		t.Errorf("a resolver asks %d times and says %v; want that it believes at once that there is none", asked, err)
	}
	if f := w.refusal(); f.Name != "example.org" || f.To.IsValid() || f.Rule() != "example.org:*" {
		t.Errorf("told: %+v", f)
	}
	for _, name := range []string{"10.0.0.0/8.", "*.com.", "x;y$(z).", "a\nb."} { // what a shell or a rule would take for something else
		w.query(r, s, "udp", name, dnsmessage.TypeA, 0)
		if f := w.refusal(); f.Rule() != "" || f.Name != fmt.Sprintf("%q", name[:len(name)-1]) {
			t.Errorf("%q: told %+v, rule %q; want no rule", name, f, f.Rule())
		}
	}
	if len(w.refused) > 0 || w.asked > 0 {
		t.Errorf("told besides: %+v; %d questions went out", w.refused, w.asked)
	}
	for kind, want := range map[dnsmessage.Type]string{dnsmessage.TypeA: "127.0.0.1", dnsmessage.TypeAAAA: "::1"} {
		m := w.query(r, s, "udp", "localhost.", kind, 0)
		if a, _ := addressIn(m.Answers[0]); len(m.Answers) != 1 || a.String() != want {
			t.Errorf("localhost: %+v", m)
		}
	}
}

func TestWithoutANameServerTheAnswerIsAnErrorOfTheServer(t *testing.T) {
	w := newWorld(t) // nobody listens there
	r := w.router()
	if m := w.query(r, w.take(r, "open"), "udp", "example.com.", dnsmessage.TypeA, 0); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("the answer: %+v", m.Header)
	}
}

func TestLongAnswersComeAsLongAsTheAskerTakes(t *testing.T) {
	w := newWorld(t)
	w.names()
	for i := range 120 {
		a := netip.AddrFrom4([4]byte{1, 2, 3, byte(i)})
		if i < 50 {
			w.resolves["long.example."] = append(w.resolves["long.example."], a)
		}
		w.resolves["longer.example."] = append(w.resolves["longer.example."], a)
	}
	r := w.router()
	s := w.take(r, "open")
	for _, c := range []struct {
		network, name string
		size, answers int
	}{
		{"udp", "long.example.", 0, 0},
		{"udp", "long.example.", 4096, 50},
		{"tcp", "long.example.", 0, 50},
		{"udp", "longer.example.", 4096, maxAddresses},
		{"tcp", "longer.example.", 4096, maxAddresses},
	} {
		m := w.query(r, s, c.network, c.name, dnsmessage.TypeA, c.size)
		if len(m.Answers) != c.answers || m.Truncated != (c.answers == 0) || len(m.Additionals) != min(c.size, 1) {
			t.Errorf("%s, %s, of %d bytes: %d answers, truncated: %v, %d options; want %d answers", c.name, c.network, c.size, len(m.Answers), m.Truncated, len(m.Additionals), c.answers)
		}
	}
}

func TestANameThatChangesWhatItStandsForOpensNothing(t *testing.T) {
	w := newWorld(t)
	w.names()
	w.ttl = 0
	w.serve(w.internet, "8.8.8.8:80")
	w.serve(w.private, "10.1.2.3:80")
	w.serve(w.private, "169.254.169.254:80")
	w.serve(w.node, "10.1.2.1:80")
	r := w.router()
	s := w.take(r, "open", "allowed.example:80")
	lookups := func(name, addr string) []netip.Addr {
		w.mu.Lock()
		w.resolves[name] = addrs(addr)
		w.mu.Unlock()
		got, _ := w.lookup(r, s, "ip", name)
		return got
	}
	for _, addr := range []string{"8.8.8.8", "10.1.2.3", "127.0.0.1", "169.254.169.254", "8.8.8.8", "::1", "fd00:9::3", "fd00:ec2::254", "::ffff:10.1.2.3", "64:ff9b::a01:203"} {
		if got := lookups("rebind.example.", addr); (len(got) == 1) != (addr == "8.8.8.8") {
			t.Errorf("a name that stands for %s is answered with %v", addr, got)
		}
	}
	w.refuses(s, "tcp", "10.1.2.3:80")
	// Whoever allowed a name allowed private addresses of it, but no host's own, no link's, no node's.
	for _, addr := range []string{"8.8.8.8", "127.0.0.1", "169.254.169.254", "10.1.2.1"} {
		lookups("allowed.example.", addr)
		if a := net.JoinHostPort(addr, "80"); addr == "8.8.8.8" {
			w.reaches(s, "tcp", a)
		} else {
			w.refuses(s, "tcp", a)
		}
	}
	w.refuses(s, "tcp", "10.1.2.3:80")
	lookups("allowed.example.", "10.1.2.3")
	w.reaches(s, "tcp", "10.1.2.3:80")
	for _, addr := range []string{"::1", "fe80::1", "fd00:ec2::254"} {
		if got := lookups("allowed.example.", addr); len(got) > 0 {
			t.Errorf("an allowed name that stands for %s is answered with %v", addr, got)
		}
	}
}

func TestRefusedConnectionToANameIsToldByTheName(t *testing.T) {
	w := newWorld(t)
	w.names()
	w.resolves["db.lan."] = addrs("10.1.2.3", "10.1.2.1")
	r := w.router()
	w.check(r.edge.closeAddrs())
	s := w.take(r, "allow", "db.lan:80")
	if _, err := w.lookup(r, s, "ip4", "db.lan."); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{
		"10.1.2.3:5432": "db.lan:5432",
		"10.1.2.1:5432": "10.1.2.1:5432", // the node: a name does not open it
		"8.8.8.8:5432":  "8.8.8.8:5432",
	} {
		w.refuses(s, "udp", to)
		if f := w.refusal(); f.Protocol != "udp" || f.To.String() != to || f.Rule() != want {
			t.Errorf("told: %+v, rule %q; want %q", f, f.Rule(), want)
		}
	}
}

func TestNoRuleIsOfferedForWhatNoneOpens(t *testing.T) {
	w := newWorld(t)
	r := w.router()
	w.check(r.edge.closeAddrs())
	s, other := w.take(r, "open"), w.take(r, "allow", "100.64.0.0/10:*", "[fd00::/8]:*")
	for _, to := range []string{s.addr4.String() + ":80", r.plan.gateway4.String() + ":80", r.plan.plain4.String() + ":80"} {
		w.refuses(other, "tcp", to)
		if f := w.refusal(); f.To.String() != to || f.Rule() != "" || f.Why() == "" {
			t.Errorf("told: %+v, rule %q, why %q; want no rule", f, f.Rule(), f.Why())
		}
	}
	for addr, opens := range map[string]bool{
		s.addr6.String(): false, r.plan.gateway6.String(): false, r.plan.node4.String(): false, r.plan.allowed6.String(): false,
		"224.0.0.1": false, "ff02::1": false, "255.255.255.255": false, "0.0.0.0": false, "::": false, "fe80::1": false,
		"10.1.2.255": false, // a network of the node has it for all
		"9.9.9.2":    true, "10.1.2.3": true, "169.254.169.254": true, "fd00:9::3": true,
	} {
		if why := r.whyNever(netip.MustParseAddr(addr)); (why == "") != opens {
			t.Errorf("%s: %q; want that a rule opens it: %v", addr, why, opens)
		}
	}
}
