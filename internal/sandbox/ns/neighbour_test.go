package ns

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hob/internal/sandbox"
	"hob/internal/testenv"
)

// slice is for how long a thread takes the processor at a time, in nanoseconds; 0: the
// kernel does not tell.
func slice(tid int) uint64 {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return 0
	}
	return attr.Runtime
}

// TestDaemonTakesTheProcessorForShort looks at what decides how soon the daemon has an
// answer beside functions that use all processors.
func TestDaemonTakesTheProcessorForShort(t *testing.T) {
	testenv.NeedRoot(t)
	usual := slice(1)
	testenv.SkipUnless(t, usual > 0, "needs slices of the processor that can be chosen", "Linux 6.12 or newer")
	d := open(t)
	until(t, "all threads take the processor for short but those that make processes", func() bool { // some of tests before may be ending
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		d.mu.Lock()
		made := d.berths
		d.mu.Unlock()
		short := 0
		for _, thread := range threads {
			tid, _ := strconv.Atoi(thread.Name())
			if slice(tid) == 100_000 {
				short++
			}
		}
		return short > 0 && short >= len(threads)-made-1
	})
	for range 3 {
		b := start(t, d, spec(t, "prog", "hang"))
		if got := slice(b.process.PID); got == 100_000 {
			t.Errorf("a function (start %s) takes it for as short as the daemon", b.Start())
		}
	}
}

// TestHogsMakeWay has one sandbox use all processors, and stand still then, beside one that
// does nothing.
func TestHogsMakeWay(t *testing.T) {
	d := open(t)
	quiet, hog := start(t, d, spec(t, "prog", "echo")), start(t, d, spec(t, "sh", "-c", "prog spin 1h & prog spin 1h"))
	for _, want := range []string{"1", "0"} {
		if want == "0" {
			freeze(t, hog) // which has what the others leave it
		}
		for deadline := time.Now().Add(time.Minute); testenv.CPUIdle(t, hog.cgroup.Name) != want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("cpu.idle of the hog is %s, want %s", testenv.CPUIdle(t, hog.cgroup.Name), want)
			}
		}
		if got := testenv.CPUIdle(t, quiet.cgroup.Name); got != "0" {
			t.Errorf("cpu.idle of its neighbour is %s", got)
		}
	}
}

// BenchmarkNeighbour measures how long a sandbox that is asked every other millisecond takes
// to answer beside none, one, two and four others that burn processors, and one that does so
// with 16 processes. The cases take turns: what else the machine does is in all of them. Of
// each turn the 99th of 100 is taken, and of those the middle.
func BenchmarkNeighbour(b *testing.B) {
	d := open(b)
	quiet, err := d.Start(b.Context(), spec(b, "prog", "echo"))
	if err != nil {
		b.Fatal(err)
	}
	defer quiet.Stop(context.Background(), 0)
	const asked = 300
	counts := []int{0, 1, 2, 4, 16}
	middles, ends := make([][]time.Duration, len(counts)), make([][]time.Duration, len(counts))
	for range b.N {
		for i, n := range counts {
			var hogs []sandbox.Sandbox
			hog := func(args ...string) {
				s, err := d.Start(b.Context(), spec(b, args...))
				if err != nil {
					b.Fatal(err)
				}
				hogs = append(hogs, s)
			}
			if n == 16 {
				hog("prog", "storm", "processors")
			} else {
				for range n {
					hog("prog", "spin", "1h")
				}
			}
			time.Sleep(time.Second) // they are known, and those before have ended
			took := make([]time.Duration, 0, asked)
			for word := make([]byte, 5); len(took) < asked; time.Sleep(2 * time.Millisecond) {
				begin := time.Now()
				if _, err := quiet.Stdio().Stdin.Write(word); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(quiet.Stdio().Stdout, word); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			for _, s := range hogs {
				s.Stop(context.Background(), 0)
			}
			slices.Sort(took)
			middles[i], ends[i] = append(middles[i], took[asked/2]), append(ends[i], took[asked*99/100])
		}
	}
	for i, n := range counts {
		slices.Sort(middles[i])
		slices.Sort(ends[i])
		b.ReportMetric(float64(middles[i][b.N/2].Microseconds()), fmt.Sprintf("us-p50/%d-hogs", n))
		b.ReportMetric(float64(ends[i][b.N/2].Microseconds()), fmt.Sprintf("us-p99/%d-hogs", n))
	}
}
