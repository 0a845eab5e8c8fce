package testenv

import (
	"runtime"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// In a network of its own, so that the machine's packet filter stays as it is.
func TestTablesAndDevicesCountUnlessSomebodyElseHoldsTheirName(t *testing.T) {
	NeedRoot(t)
	NeedFeature(t, NetNS)
	done := make(chan []string, 3)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never back: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		conn, err := nftables.New()
		if err != nil {
			t.Error(err)
			return
		}
		conn.AddTable(&nftables.Table{Name: "hob-x", Family: nftables.TableFamilyINet})
		conn.AddTable(&nftables.Table{Name: "hobby", Family: nftables.TableFamilyINet})
		if err := conn.Flush(); err != nil {
			t.Error(err)
			return
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "hob-x"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}); err != nil {
			t.Error(err)
			return
		}
		every := func(string) bool { return true }
		ofHob := func(name string) bool { return name == "hob-x" }
		found := func(living bool) []string { return append(tables(every, living), devices(ofHob, living)...) }
		done <- found(false)
		name, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil || unix.Bind(name, &unix.SockaddrUnix{Name: "@hob-x"}) != nil {
			t.Error("the name cannot be taken", err)
			return
		}
		done <- found(false) // this process has it: it should be closed by now
		if other, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Error(err)
		} else if err := unix.Sendmsg(other[0], []byte{0}, unix.UnixRights(name), nil, 0); err != nil { // on its way, no process has it open
			t.Error(err)
		} else {
			unix.Close(name)
			done <- found(false)
			done <- found(true)
			unix.Close(other[0])
			unix.Close(other[1])
		}
	}()
	both := []string{"packet filter table hob-x", "network device hob-x"}
	want := [][]string{both, both, nil, both}
	for _, w := range want {
		if got := <-done; !slices.Equal(got, w) {
			t.Errorf("found %q, want %q", got, w)
		}
	}
}
