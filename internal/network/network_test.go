package network

import (
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"hob/internal/testenv"
)

func TestEachTakeIsAnotherNetwork(t *testing.T) {
	testenv.NeedRoot(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s, err := NewStock(2)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	seen := make(map[string]bool)
	for range 6 { // from the stock, and made on demand when it is empty
		n, err := s.Take()
		if err != nil {
			t.Fatal(err)
		}
		name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(n.FD()))
		if err != nil || seen[name] {
			t.Errorf("network %q, %v; want one that was not seen before", name, err)
		}
		seen[name] = true
		defer n.Close() // open, or the kernel may give its number again
	}
	if own, _ := os.Readlink("/proc/self/ns/net"); seen[own] {
		t.Error("the machine's own network was handed out")
	}
}

func TestCloseReleasesTheStock(t *testing.T) {
	testenv.NeedRoot(t)
	before := len(testenv.Descriptors())
	for range 5 {
		s, err := NewStock(4)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := s.Take(); err != nil {
			t.Error(err)
		} else {
			n.Close()
		}
		s.Close()
	}
	if after := len(testenv.Descriptors()); after > before+2 {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}
