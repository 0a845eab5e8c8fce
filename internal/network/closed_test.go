package network

import (
	"net/netip"
	"strings"
	"testing"

	"hob/faas"
)

func TestWhatIsNotTheInternetIsClosed(t *testing.T) {
	for _, text := range strings.Fields(`0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 172.31.255.255
		192.168.1.1 198.18.0.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:10.0.0.1 ::ffff:127.0.0.1
		64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::1 2002:a00:1:: 2001:0:1::1 fc00::1 fd00:ec2::254 fe80::1%eth0 fec0::1 ff02::1`) {
		if !Closed(netip.MustParseAddr(text)) {
			t.Errorf("%s is open", text)
		}
	}
	for _, text := range strings.Fields("1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.0 172.32.0.0 223.255.255.255 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2606:4700::1111 2600::") {
		if Closed(netip.MustParseAddr(text)) {
			t.Errorf("%s is closed", text)
		}
	}
	if !Closed(netip.Addr{}) {
		t.Error("no address is open")
	}
}

func TestIntervalsCoverTheirRangesOnce(t *testing.T) {
	for _, list := range [][]netip.Prefix{closed4, closed6} {
		inside := false
		var before []byte
		for _, e := range intervals(list) {
			if before != nil && string(before) >= string(e.Key) || e.IntervalEnd != inside {
				t.Errorf("%x (end: %v) after %x", e.Key, e.IntervalEnd, before)
			}
			inside, before = !e.IntervalEnd, e.Key
			if a, _ := netip.AddrFromSlice(e.Key); contains(list, a) == e.IntervalEnd {
				t.Errorf("%s: end %v", a, e.IntervalEnd)
			}
		}
	}
}

func TestTheNodeDialsUnderAPolicy(t *testing.T) {
	node := netip.MustParseAddr("9.9.9.2")
	own := func(a netip.Addr) bool { return a == node }
	for _, c := range []struct {
		mode, allow, network, address string
		want                          bool
	}{
		{"open", "", "tcp4", "8.8.8.8:443", true},
		{"open", "", "tcp4", "10.1.2.3:443", false},
		{"open", "", "tcp4", "9.9.9.2:443", false},
		{"open", "9.9.9.2:443", "tcp4", "9.9.9.2:443", true},
		{"open", "9.9.9.0/24:443", "tcp4", "9.9.9.2:443", false},
		{"open", "10.0.0.0/8:443", "tcp4", "10.1.2.3:443", true},
		{"open", "10.0.0.0/8:443", "tcp4", "10.1.2.3:80", false},
		{"open", "10.0.0.0/8:443/udp", "tcp4", "10.1.2.3:443", false},
		{"open", "0.0.0.0/0:*", "tcp4", "10.1.2.3:443", false},
		{"open", "", "tcp6", "[::ffff:127.0.0.1]:80", false},
		{"open", "", "unix", "/run/docker.sock", false},
		{"allow", "8.8.8.0/24:53", "udp4", "8.8.8.8:53", true},
		{"allow", "8.8.8.0/24:53", "udp4", "1.2.3.4:53", false},
		{"none", "", "tcp4", "8.8.8.8:443", false},
	} {
		p, err := faas.ParseEgress(c.mode, strings.Fields(c.allow))
		if err != nil {
			t.Fatal(err)
		}
		if err := Control(p, own)(t.Context(), c.network, c.address, nil); (err == nil) != c.want {
			t.Errorf("%s %s: %s %s: %v", c.mode, c.allow, c.network, c.address, err)
		}
	}
}
