package linux

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func newKeeper(t *testing.T) *Keeper {
	t.Helper()
	self, err := OpenPidfdSelf()
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewKeeper(self)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.Close()
		unix.Close(self)
	})
	return k
}

func TestSlotOfAGuardedProcessIsUsedAgain(t *testing.T) {
	k := newKeeper(t)
	th, err := NewThread(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer th.Close()
	for range 3 {
		for _, program := range []string{"/bin/sleep", "/does/not/exist"} {
			p := NewProgram(8)
			p.GuardedBy(k)
			p.Exec([]string{program}, []string{"sleep", "60"}, nil)
			var pid, fd int
			th.Do(func() { pid, fd, err = p.Spawn(0, -1) })
			if err != nil {
				continue
			}
			proc, err := p.Process(pid, fd)
			if err != nil {
				t.Fatal(err)
			}
			slot := proc.guard.slot
			if got := int(proc.guard.pollFd().Fd); got != fd || slot.nr != unix.SYS_PPOLL {
				t.Errorf("the keeper waits for descriptor %d by call %d, want %d", got, slot.nr, fd)
			}
			proc.Guarded(false)
			if slot.nr == unix.SYS_PPOLL {
				t.Error("the keeper waits for a process that it need not")
			}
			proc.Guarded(true)
			if err := proc.Signal(unix.SIGKILL); err != nil {
				t.Error(err)
			}
			if _, err := proc.Wait(); err != nil {
				t.Error(err)
			}
			proc.Guarded(true) // is too late
			if slot.nr == unix.SYS_PPOLL {
				t.Error("the keeper waits for a process that has ended")
			}
		}
	}
	if k.used != 1 || len(k.free) != 1 {
		t.Errorf("%d slots were used, %d are free; want the same one each time", k.used, len(k.free))
	}
}

func TestKeeperHasAnEnd(t *testing.T) {
	k := newKeeper(t)
	for range keeperSlots {
		if g := k.guard(); g.slot == nil {
			t.Fatalf("no slot after %d", k.used)
		}
	}
	if g := k.guard(); g.slot != nil {
		t.Error("a slot too many")
	}
	if last := k.m.ops[len(k.m.ops)-1]; last.nr != unix.SYS_EXIT_GROUP {
		t.Errorf("the last call is %d", last.nr)
	}
}

func TestHasEnded(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if HasEnded(cmd.Process.Pid) {
		t.Error("a living process has ended")
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if !HasEnded(cmd.Process.Pid) {
		t.Error("a process that was reaped has not ended")
	}
}
