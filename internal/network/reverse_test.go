package network

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"hob/faas"
)

func TestNamesOfClosedAddressesAreHiddenUnlessARuleOpensThem(t *testing.T) {
	for _, c := range []struct {
		name, rule string
		hidden     bool
	}{
		{"8.8.8.8.in-addr.arpa", "", false},
		{"3.2.1.10.in-addr.arpa", "", true},
		{"3.2.1.10.in-addr.arpa", "10.1.2.3:5432", false},
		{"3.2.1.10.in-addr.arpa", "10.0.0.0/8:*", false},
		{"3.2.1.10.in-addr.arpa", "0.0.0.0/0:*", true},
		{"3.2.1.10.in-addr.arpa", "10.1.3.0/24:*", true},
		{"3.2.1.10.in-addr.arpa", "db.lan:*", true},
		{"2.1.10.in-addr.arpa", "10.1.2.3:*", true},
		{"2.1.10.in-addr.arpa", "10.1.0.0/16:*", false},
		{"lb._dns-sd._udp.0.2.1.10.in-addr.arpa", "", true},
		{"0-25.2.1.10.in-addr.arpa", "", true},
		{"9.3.2.1.10.in-addr.arpa", "", true},
		{"254.169.254.169.in-addr.arpa", "", true},
		{"10.in-addr.arpa", "", true},
		{"16.172.in-addr.arpa", "", true},
		{"15.172.in-addr.arpa", "", false},
		{"172.in-addr.arpa", "", false}, // the registry's, and nobody's address
		{"in-addr.arpa", "", false},
		{"x.in-addr.arpa", "", false},
		{"10.in-addr.arpa.example.com", "", false},
		{"example.com", "", false},
		{"8.8.8.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.2.ip6.arpa", "", false},
		{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa", "", true},
		{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa", "[fd00:9::3]:80", false},
		{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa", "[fd00::/8]:80", false},
		{"d.f.ip6.arpa", "", true},
		{"3.0.2.0.1.0.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa", "", true}, // 64:ff9b::a01:203
	} {
		var rules []faas.EgressRule
		if c.rule != "" {
			r, err := faas.ParseEgressRule(c.rule)
			if err != nil {
				t.Fatal(err)
			}
			rules = append(rules, r)
		}
		if got := hidden(c.name, rules); got != c.hidden {
			t.Errorf("%s with the rule %q: hidden %v; want %v", c.name, c.rule, got, c.hidden)
		}
	}
}

func TestStrangersDoNotListThePrivateNetworkByItsNames(t *testing.T) {
	w := newWorld(t)
	alias, own := dnsmessage.MustNewName("alias.example."), dnsmessage.MustNewName("3.2.1.10.in-addr.arpa.")
	called := dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: own, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET, TTL: 60},
		Body:   &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("db.lan.")},
	}
	w.records = map[string][]dnsmessage.Resource{
		own.String(): {called},
		alias.String(): {{
			Header: dnsmessage.ResourceHeader{Name: alias, Type: dnsmessage.TypeCNAME, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.CNAMEResource{CNAME: own},
		}, called},
	}
	w.names()
	r := w.router()
	s, opened := w.take(r, "open"), w.take(r, "open", "10.1.2.0/24:5432")
	if m := w.query(r, s, "udp", own.String(), dnsmessage.TypePTR, 0); m.RCode != dnsmessage.RCodeNameError || !m.Authoritative || len(m.Answers) > 0 {
		t.Errorf("the name of a closed address: %+v", m)
	}
	if m := w.query(r, s, "udp", "3.2.1.10.IN-ADDR.arpa.", dnsmessage.TypePTR, 0); m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("the same in capitals: %+v", m)
	}
	w.mu.Lock()
	if w.asked > 0 || len(w.refused) > 0 {
		t.Errorf("%d questions went out, told %+v; programs ask such things unasked", w.asked, w.refused)
	}
	w.mu.Unlock()
	if m := w.query(r, s, "udp", alias.String(), dnsmessage.TypePTR, 0); len(m.Answers) != 1 {
		t.Errorf("another name for it: %+v; want the other name only", m)
	}
	for _, name := range []dnsmessage.Name{own, alias} {
		m := w.query(r, opened, "udp", name.String(), dnsmessage.TypePTR, 0)
		if want := len(w.records[name.String()]); len(m.Answers) != want {
			t.Errorf("%s, of an address that a rule opens: %+v; want %d records", name, m, want)
		}
	}
}
