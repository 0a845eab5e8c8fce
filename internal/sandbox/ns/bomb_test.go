package ns

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// rig is a driver of the test's own, with sandboxes that run package prog.
func rig(t *testing.T) sandboxtest.Rig {
	testenv.NeedRoot(t)
	return sandboxtest.Rig{Driver: open(t), Spec: func(args ...string) sandbox.Spec { return spec(t, append([]string{"prog"}, args...)...) }}
}

func TestMemoryIsLimitedInEachKind(t *testing.T) { rig(t).TestBombs(t, 80) }

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

func TestStormsStayInTheirSandbox(t *testing.T) {
	testenv.NothingLeft(t, testenv.Mark())
	rig(t).TestStorms(t)
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
