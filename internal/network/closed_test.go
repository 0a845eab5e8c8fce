package network

import (
	"net/netip"
	"strings"
	"testing"
)

func TestWhatIsNotTheInternetIsClosed(t *testing.T) {
	for _, text := range strings.Fields(`0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 172.31.255.255
		168.63.129.16 192.168.1.1 198.18.0.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:10.0.0.1 ::ffff:127.0.0.1
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

func TestNamesNeverStandForWhereCloudsAnswer(t *testing.T) {
	for _, text := range strings.Fields(`127.0.0.1 ::1 169.254.169.254 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 fd00:ec2::23
		fd20:ce::254 fd00:42::42 fe80::1 224.0.0.1 255.255.255.255 ::ffff:169.254.169.254`) {
		if !never(netip.MustParseAddr(text)) {
			t.Errorf("a name may stand for %s", text)
		}
	}
	for _, text := range strings.Fields("10.1.2.3 192.168.1.1 100.64.0.1 fd00::1 8.8.8.8 2600::1") {
		if never(netip.MustParseAddr(text)) {
			t.Errorf("no name may stand for %s", text)
		}
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
