package ns

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/testenv"
)

// TestMemoryIsLimitedInEachKind has sandboxes of 64 MB take 256 MB, in all the ways
// in which the kernel holds memory for somebody.
func TestMemoryIsLimitedInEachKind(t *testing.T) {
	testenv.NeedRoot(t)
	d := open(t)
	neighbour := start(t, d, spec(t, "prog", "echo"))
	for _, kind := range []string{"anonymous", "tmpfs", "root", "memfd", "shm", "pipes", "unix", "tcp", "udp", "files"} {
		t.Run(kind, func(t *testing.T) {
			s := spec(t, "prog", "bomb", kind, "256")
			s.Volumes, s.Writable, s.TmpSize = []string{"/data"}, kind == "root", 200*faas.MB
			b := start(t, d, s)
			last, most := "", 0
			for lines := bufio.NewScanner(b.Stdio().Stdout); lines.Scan(); {
				last = lines.Text()
				n, _ := strconv.Atoi(last)
				most = max(most, n)
			}
			exit, err := b.Wait(t.Context())
			t.Logf("%d MB, then %q, %+v, %v, memory %v", most, last, exit, err, b.Usage().PeakMemory)
			if most > 80 {
				t.Errorf("it got %d MB, and its limit is 64", most)
			}
		})
	}
	fmt.Fprint(neighbour.Stdio().Stdin, "still here")
	neighbour.Stdio().Stdin.Close()
	if line, _ := bufio.NewReader(neighbour.Stdio().Stdout).ReadString('\n'); line != "still here" {
		t.Errorf("the neighbour says %q", line)
	}
}

// TestPageCacheIsReclaimed has a sandbox read more of its image than it may hold.
func TestPageCacheIsReclaimed(t *testing.T) {
	testenv.NeedRoot(t)
	d := open(t)
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	if err := os.WriteFile(filepath.Join(dir, "big"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "big"), 256<<20); err != nil {
		t.Fatal(err)
	}
	r := sh(t, d, "cat /big | wc -c", func(s *sandbox.Spec) {
		s.Root = sandbox.Root{Key: dir, Layers: []string{dir, layer(t)}}
	})
	if r.out != "268435456\n" || r.exit.OOM || r.usage.PeakMemory > 65*faas.MB {
		t.Errorf("got %q, %+v, memory %v", r.out, r.exit, r.usage.PeakMemory)
	}
}

// TestStormsStayInTheirSandbox has functions keep the machine as busy as they can.
func TestStormsStayInTheirSandbox(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NothingLeft(t, "hobtest")
	d := open(t)
	for _, kind := range []string{"forks", "zombies", "processors", "log", "signals", "timers", "inotify"} {
		t.Run(kind, func(t *testing.T) {
			s := spec(t, "prog", "storm", kind)
			s.PIDs, s.Memory = 100, 128*faas.MB
			b := start(t, d, s)
			ready(t, b)
			var slowest time.Duration
			for range 10 { // a neighbour is started, works and ends
				begin := time.Now()
				if r := run(t, d, spec(t, "prog", "args", "well")); r.out != "well" {
					t.Errorf("a neighbour says %q, %s", r.out, r.err)
				}
				slowest = max(slowest, time.Since(begin))
			}
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			if err != nil {
				t.Errorf("root of the machine: %v", err)
			}
			unix.Close(fd)
			u := b.Usage()
			t.Logf("%d processes, memory %v, a call beside it took at most %v", u.Processes, u.Memory, slowest)
			if u.Processes > 101 { // in version 1 of cgroups the daemon's thread has counted
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

// TestQuietNeighbourIsHeard tells how long a running sandbox takes to answer while
// others use all processors, and flood their output.
func TestQuietNeighbourIsHeard(t *testing.T) {
	testenv.NeedRoot(t)
	d := open(t)
	neighbour := start(t, d, spec(t, "prog", "echo"))
	answers := func() (took []time.Duration) {
		word := make([]byte, 5)
		for range 300 {
			begin := time.Now()
			if _, err := neighbour.Stdio().Stdin.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(neighbour.Stdio().Stdout, word); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(begin))
			time.Sleep(time.Millisecond) // it has nothing to do, most of the time
		}
		slices.Sort(took)
		return took
	}
	report := func(beside string, took []time.Duration) {
		t.Logf("beside %s it answers in %v, p99 %v", beside, took[len(took)/2], took[len(took)*99/100])
	}
	report("nobody", answers())
	for _, kind := range []string{"processors", "log"} {
		for _, cpu := range []faas.CPU{0, 1000} {
			s := spec(t, "prog", "storm", kind)
			s.CPU = cpu
			b := start(t, d, s)
			ready(t, b)
			var flood int64
			done := make(chan struct{})
			go func() { defer close(done); flood, _ = io.Copy(io.Discard, b.Stdio().Stderr) }()
			begin := time.Now()
			report(fmt.Sprintf("%s (limit %v)", kind, cpu), answers())
			if err := b.Stop(t.Context(), 0); err != nil {
				t.Error(err)
			}
			<-done
			t.Logf("%d MB of output per second", flood*int64(time.Second)/int64(time.Since(begin))>>20)
		}
	}
}
