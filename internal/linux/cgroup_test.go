package linux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hob/internal/testenv"
)

const (
	hybrid = `24 1 0:1 / / rw - ext4 /dev/vda rw
30 24 0:20 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 24 0:21 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 24 0:22 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 24 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`
	unified = "30 24 0:20 / /sys/fs/cgroup\\040v2 rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
)

func TestFindCgroups(t *testing.T) {
	c, err := findCgroups(hybrid)
	if err != nil || c.Version != 1 {
		t.Fatalf("hybrid: %+v, %v; want version 1", c, err)
	}
	if got := strings.Join(c.dirs("a"), " "); got != "/sys/fs/cgroup/cpu,cpuacct/a /sys/fs/cgroup/memory/a /sys/fs/cgroup/pids/a" {
		t.Errorf("dirs = %s: each hierarchy once", got)
	}
	c, err = findCgroups(unified)
	if err != nil || c.Version != 2 || c.mounts["pids"] != "/sys/fs/cgroup v2" {
		t.Errorf("unified: %+v, %v; want version 2 and the unescaped mount point", c, err)
	}
	if _, err := findCgroups(strings.ReplaceAll(hybrid, "rw,pids", "rw,freezer")); err == nil || !strings.Contains(err.Error(), "pids") {
		t.Errorf("version 1 without pids: %v, want an error that names it", err)
	}
	if _, err := findCgroups(""); err == nil {
		t.Error("no cgroups at all: no error")
	}
}

// fakeV2 is a directory that looks like a cgroup tree of version 2.
func fakeV2(t *testing.T, controllers string) *Cgroups {
	root := t.TempDir()
	write(t, filepath.Join(root, "cgroup.controllers"), controllers)
	write(t, filepath.Join(root, "cgroup.subtree_control"), "")
	os.MkdirAll(filepath.Join(root, "hob/gen"), 0o755)
	write(t, filepath.Join(root, "hob/cgroup.subtree_control"), "")
	write(t, filepath.Join(root, "hob/gen/cgroup.subtree_control"), "")
	return &Cgroups{Version: 2, mounts: map[string]string{"memory": root, "pids": root, "cpu": root}}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPrepareHandsControllersDown(t *testing.T) {
	c := fakeV2(t, "cpu io memory pids")
	if err := c.Prepare("hob/gen"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{".", "hob", "hob/gen"} {
		got, _ := os.ReadFile(filepath.Join(c.mounts["memory"], dir, "cgroup.subtree_control"))
		if string(got) != "+memory +pids +cpu" {
			t.Errorf("subtree_control of %s = %q", dir, got)
		}
	}
	c = fakeV2(t, "cpu memory")
	if err := c.Prepare("hob"); err == nil || !strings.Contains(err.Error(), "pids") {
		t.Errorf("without pids: %v, want an error that names it", err)
	}
}

func TestLimitsAndUsageOfVersion2(t *testing.T) {
	c := fakeV2(t, "cpu memory pids")
	g, err := c.Make("hob/gen/box")
	if err != nil {
		t.Fatal(err)
	}
	if g.FD() < 0 {
		t.Error("no descriptor to begin a process in")
	}
	dir := filepath.Join(c.mounts["memory"], "hob/gen/box")
	for _, f := range []string{"memory.max", "memory.swap.max", "cpu.max", "pids.max"} {
		write(t, filepath.Join(dir, f), "")
	}
	if err := g.Limit(Limits{Memory: 64 << 20, CPU: 500, PIDs: 100}); err != nil {
		t.Fatal(err)
	}
	for f, want := range map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "100"} {
		if got, _ := os.ReadFile(filepath.Join(dir, f)); string(got) != want {
			t.Errorf("%s = %q, want %q", f, got, want)
		}
	}
	write(t, filepath.Join(dir, "memory.current"), "4096\n")
	write(t, filepath.Join(dir, "memory.peak"), "8192\n")
	write(t, filepath.Join(dir, "memory.events"), "low 0\noom 3\noom_kill 2\n")
	write(t, filepath.Join(dir, "cpu.stat"), "usage_usec 1500\nuser_usec 1000\n")
	write(t, filepath.Join(dir, "pids.current"), "3\n")
	want := CgroupUsage{Memory: 4096, PeakMemory: 8192, CPUTime: 1500 * time.Microsecond, Processes: 3, OOMKills: 2}
	if got := g.Usage(); got != want {
		t.Errorf("usage %+v, want %+v", got, want)
	}
}

func TestFreezeOfVersion2(t *testing.T) {
	c := fakeV2(t, "cpu memory pids")
	g, err := c.Make("hob/gen/box")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(c.mounts["memory"], "hob/gen/box")
	if c.CanFreeze("hob/gen/box") {
		t.Error("a kernel without cgroup.freeze can freeze")
	}
	write(t, filepath.Join(dir, "cgroup.freeze"), "0")
	write(t, filepath.Join(dir, "cgroup.events"), "populated 1\nfrozen 0\n")
	if !c.CanFreeze("hob/gen/box") {
		t.Error("a kernel with cgroup.freeze cannot freeze")
	}
	state := func() string { text, _ := os.ReadFile(filepath.Join(dir, "cgroup.freeze")); return string(text) }
	if err := g.Thaw(); err != nil || state() != "0" {
		t.Errorf("thaw of what was never frozen: %v, state %q", err, state())
	}
	if err := g.Freeze(nil); err == nil || !strings.Contains(err.Error(), "500ms") || state() != "0" {
		t.Errorf("freeze of what does not stand still: %v, state %q; want the limit and a thaw", err, state())
	}
	stop := make(chan struct{})
	close(stop)
	if err := g.Freeze(stop); !errors.Is(err, errStopped) || state() != "0" {
		t.Errorf("freeze while stopping: %v, state %q", err, state())
	}
	write(t, filepath.Join(dir, "cgroup.events"), "populated 1\nfrozen 1\n")
	if err := g.Freeze(nil); err != nil || state() != "1" {
		t.Errorf("freeze: %v, state %q", err, state())
	}
	if err := g.Thaw(); err != nil || state() != "0" {
		t.Errorf("thaw: %v, state %q", err, state())
	}
}

// TestLimitIsSetWhateverSignalsCome has signals for the thread, as the runtime of Go sends
// them, while the kernel looks for memory to take away.
func TestLimitIsSetWhateverSignalsCome(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Cgroups)
	c, err := FindCgroups()
	if err != nil {
		t.Fatal(err)
	}
	name := testenv.Mark() + "signals"
	if err := c.Prepare(name); err != nil {
		t.Fatal(err)
	}
	parent := c.Open(name)
	t.Cleanup(parent.RemoveIfEmpty)
	g, err := c.Make(name + "/box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Remove() })
	storm(t)
	for i := range 500 {
		if err := g.Limit(Limits{Memory: 64 << 20, PIDs: 10}); err != nil {
			t.Fatalf("the %d. limit: %v", i+1, err)
		}
	}
}
