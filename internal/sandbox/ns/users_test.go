package ns

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/testenv"
)

// TestWhoTakesAllOfACountLeavesItToOthers has a sandbox hold all the timers that its user
// may have, which the kernel counts with the signals: another of the same image and user
// still has all of its own.
func TestWhoTakesAllOfACountLeavesItToOthers(t *testing.T) {
	d := withUsers(t)
	ready(t, start(t, d, spec(t, "prog", "storm", "timers")))
	s := spec(t, "prog", "take", "signals")
	s.PendingSignals = 100
	r := run(t, d, s)
	var got int
	if _, err := fmt.Sscan(r.out, &got); err != nil || got < 90 || got > 100 {
		t.Errorf("it got %d of 100: %v, %s", got, err, r.out)
	}
}

// TestSandboxesHaveUsersOfTheirOwn compares what the machine says of sandboxes: those of one
// image have user namespaces of their own, those of two have no user in common.
func TestSandboxesHaveUsersOfTheirOwn(t *testing.T) {
	d := withUsers(t)
	other := spec(t, "prog", "hang")
	other.Root.Key = "another image"
	namespaces, ranges := make(map[string]bool), make(map[int]int)
	for range 4 { // on demand, of blanks, and again in what ended sandboxes have left
		for _, s := range []sandbox.Spec{spec(t, "prog", "hang"), other} {
			s.ID = strings.ToLower(faas.NewID())
			b := start(t, d, s)
			proc := fmt.Sprintf("/proc/%d/", b.process.PID)
			in, err := os.Readlink(proc + "ns/user")
			if err != nil {
				t.Fatal(err)
			}
			if namespaces[in] {
				t.Errorf("%s is of two sandboxes (start %s)", in, b.Start())
			}
			namespaces[in] = true
			var zero, base, count, user int
			text, _ := os.ReadFile(proc + "uid_map")
			if _, err := fmt.Sscan(string(text), &zero, &base, &count); err != nil || zero != 0 || count != idCount || base < idBase || base+count > idOwners {
				t.Fatalf("uid_map %q, %v", text, err)
			}
			ranges[base]++
			status, _ := os.ReadFile(proc + "status")
			_, status2, _ := strings.Cut(string(status), "\nUid:")
			if fmt.Sscan(status2, &user); user != base+1000 {
				t.Errorf("it is user %d of the machine, want %d", user, base+1000)
			}
		}
	}
	if len(ranges) != 2 {
		t.Errorf("the ranges begin at %v, want one for each image", ranges)
	}
}

func TestRangeOfUsersIsUsedAgainWhenAllWere(t *testing.T) {
	var rs ranges
	seen := make(map[int]bool)
	for range idRanges {
		n, err := rs.take()
		if err != nil || seen[n] {
			t.Fatalf("range %d, %v, twice %v", n, err, seen[n])
		}
		seen[n] = true
	}
	if n, err := rs.take(); faas.KindOf(err) != faas.Busy {
		t.Errorf("range %d, %v, want Busy", n, err)
	}
	rs.put(7)
	if n, err := rs.take(); n != 7 || err != nil {
		t.Errorf("range %d, %v, want 7", n, err)
	}
}

func withUsers(t *testing.T) *Driver {
	t.Helper()
	d := open(t)
	testenv.SkipUnless(t, d.caps.UserNamespaces, "needs user namespaces with mapped owners", "Linux 5.19 or newer")
	return d
}

func TestGenerationsBeginWithUsersOfTheirOwn(t *testing.T) {
	var first, second ranges
	first.begin("ldmdhbj1")
	second.begin("ldmdhbj2")
	a, err := first.take()
	b, err2 := second.take()
	if err != nil || err2 != nil || a == b {
		t.Errorf("ranges %d and %d, %v, %v; want two", a, b, err, err2)
	}
	if a, b := first.newOwner(), second.newOwner(); a == b || a < idOwners || b < idOwners {
		t.Errorf("owners %d and %d; want two from %d on", a, b, idOwners)
	}
}
