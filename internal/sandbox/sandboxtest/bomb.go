package sandboxtest

import (
	"bufio"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
)

// TestBombs has sandboxes of 64 MB take 256 MB, in all the ways in which the kernel holds
// memory for somebody. most is how many MB one may get.
func (r Rig) TestBombs(t *testing.T, most int) {
	s := &suite{r}
	neighbour := s.start(t, "echo")
	for _, kind := range []string{"anonymous", "tmpfs", "root", "memfd", "shm", "pipes", "unix", "tcp", "udp", "files"} {
		t.Run(kind, func(t *testing.T) {
			spec := s.Spec("bomb", kind, "256")
			spec.Memory, spec.Volumes, spec.Writable, spec.TmpSize = 64*faas.MB, []string{"/data"}, kind == "root", 200*faas.MB
			b := s.startSpec(t, spec)
			last, got := "", 0
			for lines := bufio.NewScanner(b.Stdio().Stdout); lines.Scan(); {
				last = lines.Text()
				n, _ := strconv.Atoi(last)
				got = max(got, n)
			}
			exit, err := b.Wait(t.Context())
			t.Logf("%d MB, then %q, %+v, %v, memory %v", got, last, exit, err, b.Usage().PeakMemory)
			if got > most {
				t.Errorf("it got %d MB, and may have %d", got, most)
			}
		})
	}
	fmt.Fprint(neighbour.Stdio().Stdin, "still here")
	neighbour.Stdio().Stdin.Close()
	if line, _ := bufio.NewReader(neighbour.Stdio().Stdout).ReadString('\n'); line != "still here" {
		t.Errorf("the neighbour says %q", line)
	}
}

// TestStorms has functions keep the machine as busy as they can, with at most 100
// processes: neighbours start, work and end beside each.
func (r Rig) TestStorms(t *testing.T) {
	s := &suite{r}
	for _, kind := range []string{"forks", "zombies", "processors", "log", "signals", "timers", "inotify"} {
		t.Run(kind, func(t *testing.T) {
			spec := s.Spec("storm", kind)
			spec.PIDs, spec.Memory = 100, 128*faas.MB
			b := s.startSpec(t, spec)
			if line, err := bufio.NewReader(b.Stdio().Stdout).ReadString('\n'); line != "ready\n" {
				t.Fatalf("first line %q, %v", line, err)
			}
			var took []time.Duration
			for range 5 {
				begin := time.Now()
				n := s.start(t, "args", "well")
				if said := read(t, n.Stdio().Stdout); said != "well" {
					t.Errorf("a neighbour says %q", said)
				}
				if err := n.Stop(t.Context(), 0); err != nil {
					t.Error(err)
				}
				took = append(took, time.Since(begin))
			}
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			if err != nil {
				t.Errorf("root of the machine: %v", err)
			}
			unix.Close(fd)
			u := b.Usage()
			t.Logf("%d processes, memory %v, a call beside it took at most %v", u.Processes, u.Memory, slices.Max(took))
			if u.Processes > 101 && !s.OwnKernel { // in version 1 of cgroups the daemon's thread has counted
				t.Errorf("%d processes, and the limit is 100", u.Processes)
			}
			begin := time.Now()
			if err := b.Stop(t.Context(), 0); err != nil {
				t.Error(err)
			}
			t.Logf("stopped after %v", time.Since(begin))
		})
	}
}
