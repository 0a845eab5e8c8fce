package ns

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// testLog shows in a test's output what the driver logs.
func testLog() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

// open returns a driver whose generation, locks and cgroups are the test's own.
func open(t testing.TB, change ...func(*Config)) *Driver {
	t.Helper()
	testenv.NeedRoot(t)
	id := "t" + strings.ToLower(faas.NewID())
	cfg := Config{Generation: id, LockDir: t.TempDir(), CgroupParent: testenv.Mark() + id, Log: testLog()}
	for _, f := range change {
		f(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if left, _ := d.cgroups.Children(d.cfg.CgroupParent); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
		if err := d.cgroups.Open(d.cfg.CgroupParent).Remove(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// image is a directory that is the layer of an image with the test program as
// /bin/prog, made once.
var image = sync.OnceValues(func() (string, error) {
	return os.MkdirTemp("", "hobtest-image")
})

var built sync.Once

func TestMain(m *testing.M) {
	if os.Getenv("HOB_TEST_EXE") != "" {
		writeOwnProgram()
		return
	}
	code := m.Run()
	if dir, err := image(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

func layer(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("HOB_TEST_LAYER"); dir != "" { // of who will kill this process
		return dir
	}
	dir, err := image()
	if err != nil {
		t.Fatal(err)
	}
	built.Do(func() {
		os.Chmod(dir, 0o755)
		for _, sub := range []string{"bin", "etc", "home"} {
			if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		sandboxtest.Build(t, filepath.Join(dir, "bin"))
		busybox, err := os.ReadFile(testenv.NeedTool(t, "busybox"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"sh", "cat", "id", "ls", "stat", "touch", "true", "grep", "mount", "chmod", "mkdir", "rm", "sleep", "dd", "wc", "hostname", "pwd", "kill", "mknod", "readlink", "echo", "seq", "xargs"} {
			os.Symlink("busybox", filepath.Join(dir, "bin", name))
		}
		os.WriteFile(filepath.Join(dir, "etc/owned"), []byte("by 1000\n"), 0o600)
		os.Chown(filepath.Join(dir, "etc/owned"), 1000, 1000)
		os.WriteFile(filepath.Join(dir, "etc/text"), []byte("not a program\n"), 0o644)
		os.WriteFile(filepath.Join(dir, "etc/script"), []byte("#!/no/interpreter\n"), 0o755)
		os.WriteFile(filepath.Join(dir, "etc/alien"), append([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00"), make([]byte, 100)...), 0o755)
	})
	return dir
}

func spec(t testing.TB, args ...string) sandbox.Spec {
	dir := layer(t)
	return sandbox.Spec{
		ID: strings.ToLower(faas.NewID()), Hostname: "fn", Root: sandbox.Root{Key: dir, Layers: []string{dir}},
		Args: args, Env: []string{"PATH=/bin"}, Memory: 64 * faas.MB, User: sandbox.User{UID: 1000, GID: 1000},
	}
}

func TestDriver(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NothingLeft(t, testenv.Mark())
	sandboxtest.TestDriver(t, func(t *testing.T) sandboxtest.Rig {
		w := sandboxtest.NewWorld(t)
		return sandboxtest.Rig{
			World:  w,
			Driver: open(t, func(c *Config) { c.Router = w.Router }),
			Spec:   func(args ...string) sandbox.Spec { return spec(t, append([]string{"prog"}, args...)...) },
		}
	})
}

// result is what a sandbox did.
type result struct {
	out, err string
	exit     faas.Exit
	usage    sandbox.Usage
}

// run starts s, gives it no input and waits for its end.
func run(t testing.TB, d *Driver, s sandbox.Spec) result {
	t.Helper()
	b, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	b.Stdio().Stdin.Close()
	var r result
	var wg sync.WaitGroup
	wg.Go(func() { text, _ := io.ReadAll(b.Stdio().Stderr); r.err = string(text) })
	text, _ := io.ReadAll(b.Stdio().Stdout)
	wg.Wait()
	r.out = string(text)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if r.exit, err = b.Wait(ctx); err != nil {
		t.Error(err)
	}
	r.usage = b.Usage()
	if err := b.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
	return r
}

func sh(t testing.TB, d *Driver, script string, change ...func(*sandbox.Spec)) result {
	t.Helper()
	s := spec(t, "sh", "-c", script)
	for _, f := range change {
		f(&s)
	}
	return run(t, d, s)
}

func TestSecurityIsTheDefault(t *testing.T) {
	d := open(t)
	r := sh(t, d, `
echo "$(id -u):$(id -g)"
grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
touch /x 2>&1
touch /tmp/x && echo tmp is writable
touch /dev/x 2>&1
cat /proc/sysrq-trigger /proc/kcore 2>&1 | wc -c
echo 1 > /proc/sys/vm/drop_caches
mount -t tmpfs x /tmp 2>&1
ls /proc/self/fd | wc -l
cat /proc/keys /proc/interrupts | wc -c
ls /sys/firmware | wc -l
mknod /tmp/d c 1 3 2>&1
hostname
cat /proc/self/cgroup | grep -c hobtest
readlink /proc/1/exe
`)
	want := `1000:1000
CapInh:	0000000000000000
CapPrm:	0000000000000000
CapEff:	0000000000000000
CapBnd:	0000000000000000
CapAmb:	0000000000000000
NoNewPrivs:	1
Seccomp:	2
touch: /x: Read-only file system
tmp is writable
touch: /dev/x: Read-only file system
`
	if !strings.HasPrefix(r.out, want) {
		t.Errorf("got\n%s\nwant it to begin\n%s", r.out, want)
	}
	for _, line := range []string{
		"mount: permission denied (are you root?)\n", "mknod: /tmp/d: Operation not permitted\n", "\nfn\n0\n/bin/busybox\n",
	} {
		if !strings.Contains(r.out, line) {
			t.Errorf("got\n%s\nwhich lacks %q", r.out, line)
		}
	}
	if !strings.Contains(r.err, "/proc/sys/vm/drop_caches") {
		t.Errorf("standard error %q: /proc/sys can be written", r.err)
	}
}

func TestRootOfASandboxIsNobodyOnTheMachine(t *testing.T) {
	d := open(t)
	if !d.caps.UserNamespaces {
		testenv.SkipUnless(t, false, "needs user namespaces with mapped owners", "Linux 5.19 or newer")
	}
	root := func(s *sandbox.Spec) { s.User = sandbox.User{} }
	r := sh(t, d, `id -u; cat /proc/self/uid_map; grep -E '^(CapEff|CapBnd):' /proc/self/status; stat -c %u /bin/prog /etc/owned; cat /etc/owned 2>&1; touch /tmp/x; stat -c %u /tmp/x /dev /dev/null; mount -t tmpfs x /tmp 2>&1; echo x > /proc/sys/kernel/hostname`, root)
	fields := strings.Join(strings.Fields(r.out), " ")
	if want := fmt.Sprintf(`^0 0 (19|20|21)\d{8} %d CapEff: 0000000000000000 CapBnd: 0000000000000000 0 1000 cat: can't open '/etc/owned': Permission denied 0 0 0 mount:`, idCount); !regexp.MustCompile(want).MatchString(fields) {
		t.Errorf("got %s\nwant it to match %s", fields, want)
	}
	if r.err == "" {
		t.Error("root wrote /proc/sys/kernel/hostname")
	}
}

func TestWritableRoot(t *testing.T) {
	d := open(t)
	for _, uid := range []uint32{0, 1000} {
		r := sh(t, d, `touch /home/x && echo made; echo y >> /etc/owned; cat /etc/owned; rm /bin/prog && echo removed; mkdir -p /new/dir && stat -c %u /new; dd if=/dev/zero of=/tmp/big bs=1M count=20 2>&1 | grep -o "No space.*"`,
			func(s *sandbox.Spec) {
				s.Writable, s.TmpSize, s.User = true, 8*faas.MB, sandbox.User{UID: uid, GID: uid}
			})
		want := "made\nby 1000\ny\nremoved\n0\nNo space left on device\n"
		if uid == 1000 {
			want = "by 1000\ny\nNo space left on device\n" // root owns the rest
		}
		if uid == 0 {
			// root of the sandbox has no capability, so it cannot write what 1000 owns
			want = "made\nremoved\n0\nNo space left on device\n"
		}
		if r.out != want {
			t.Errorf("user %d: got %q, %q; want %q", uid, r.out, r.err, want)
		}
	}
	if r := sh(t, d, `ls /home; ls /bin/prog`); r.out != "/bin/prog\n" {
		t.Errorf("the next sandbox sees %q of the last one's changes", r.out)
	}
}

func TestMemoryLimitIsToldApart(t *testing.T) {
	d := open(t)
	r := run(t, d, spec(t, "prog", "hog", "500"))
	if r.exit.Signal != "SIGKILL" || !r.exit.OOM {
		t.Errorf("ended %+v, want killed over the memory limit", r.exit)
	}
	if r.usage.PeakMemory < 60*faas.MB || r.usage.PeakMemory > 65*faas.MB {
		t.Errorf("peak memory %v, want about the limit of 64 MB", r.usage.PeakMemory)
	}
	s := spec(t, "prog", "hog", "20")
	if r := run(t, d, s); r.out != "held 20 MB" || r.exit.OOM {
		t.Errorf("got %q, %+v", r.out, r.exit)
	}
}

func TestTmpfsCountsToMemoryAndIsLimited(t *testing.T) {
	d := open(t)
	r := run(t, d, spec(t, "prog", "write", "/tmp/x", "40000000"))
	if !strings.Contains(r.out, "no space left") || r.exit.OOM {
		t.Errorf("got %q, %+v; want ENOSPC before the memory limit", r.out, r.exit)
	}
}

func TestOrphansEndWithTheFirstProcess(t *testing.T) {
	d := open(t)
	if r := run(t, d, spec(t, "prog", "orphan")); r.out != "left" { // it returns: the orphan, which rests for ever, has let go of the streams
		t.Errorf("output %q", r.out)
	}
}

func TestCPULimit(t *testing.T) {
	d := open(t)
	s := spec(t, "prog", "spin", "300ms")
	s.CPU = 200
	r := run(t, d, s)
	if r.usage.CPUTime > 200*time.Millisecond || r.usage.CPUTime == 0 {
		t.Errorf("used %v of a processor in 300 ms with a limit of a fifth", r.usage.CPUTime)
	}
}

func TestNetworkIsOnlyLoopback(t *testing.T) {
	d := open(t)
	r := sh(t, d, `cat /proc/net/dev | wc -l; prog dial 127.0.0.1:1; echo; prog dial 192.0.2.1:80`)
	lines := strings.Split(r.out, "\n")
	if lines[0] != "3" || !strings.Contains(lines[1], "refused") || !strings.Contains(lines[2], "unreachable") {
		t.Errorf("got %q; want two lines of head, lo, a refusal and no route", r.out)
	}
}

func TestStartErrorsNameTheFault(t *testing.T) {
	d := open(t)
	tests := []struct {
		name   string
		change func(*sandbox.Spec)
		want   string
	}{
		{"no such program", func(s *sandbox.Spec) { s.Args = []string{"nope"} }, `the image has no program "nope" (looked in /bin), or the interpreter`},
		{"no such file", func(s *sandbox.Spec) { s.Args = []string{"/bin/nope"} }, `the image has no program "/bin/nope", or the interpreter`},
		{"not executable", func(s *sandbox.Spec) { s.Args = []string{"/etc/text"} }, `"/etc/text" is not executable`},
		{"a directory", func(s *sandbox.Spec) { s.Args = []string{"/etc"} }, `"/etc" is not executable`},
		{"no interpreter", func(s *sandbox.Spec) { s.Args = []string{"/etc/script"} }, `the interpreter or loader it names is missing`},
		{"another CPU", func(s *sandbox.Spec) { s.Args = []string{"/etc/alien"} }, `is not for this CPU`},
		{"a program in a file", func(s *sandbox.Spec) { s.Args = []string{"/etc/text/x"} }, `cannot be found in the image`},
		{"user too high", func(s *sandbox.Spec) { s.User.UID = 70000 }, `user or group 70000 is over the highest of 65535`},
		{"too little memory", func(s *sandbox.Spec) { s.Memory = faas.MB }, `memory 1 MB is under the least of 8 MB`},
		{"directory in a file", func(s *sandbox.Spec) { s.Dir = "/etc/text/x" }, `not a directory`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := spec(t, "true")
			tt.change(&s)
			_, err := d.Start(t.Context(), s)
			if faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Start = %v (%s), want Invalid with %q", err, faas.KindOf(err), tt.want)
			}
		})
	}
}

func TestMissingDirectoriesAreMade(t *testing.T) {
	d := open(t)
	r := sh(t, d, `pwd; touch /data/a /var/lib/db/b && echo volumes are writable; touch x 2>&1`, func(s *sandbox.Spec) {
		s.Dir, s.Volumes = "/srv/app", []string{"/var/lib/db", "/data"}
	})
	if want := "/srv/app\nvolumes are writable\ntouch: x: Read-only file system\n"; r.out != want {
		t.Errorf("got %q, %q; want %q", r.out, r.err, want)
	}
}

// TestLinksOfAnImageLeadOnlyIntoIt mounts over places that an image has made into
// links: they may lead astray inside the sandbox and nowhere else.
func TestLinksOfAnImageLeadOnlyIntoIt(t *testing.T) {
	d := open(t)
	before := sandboxtest.Mounts(t)
	for _, place := range []string{"proc", "sys", "dev", "tmp", "data"} {
		for _, target := range []string{"/etc", "../../../../etc", "/proc/self/root/etc", "/nowhere", "file"} {
			t.Run(place+" to "+strings.ReplaceAll(target, "/", "_"), func(t *testing.T) {
				dir := t.TempDir()
				os.Chmod(dir, 0o755)
				os.Symlink(target, filepath.Join(dir, place))
				os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)
				s := spec(t, "true")
				s.Root = sandbox.Root{Key: dir, Layers: []string{dir, layer(t)}}
				s.Volumes = []string{"/data"}
				b, err := d.Start(t.Context(), s)
				if err != nil {
					if kind := faas.KindOf(err); kind != faas.Invalid {
						t.Errorf("Start = %v (%s), want a start or Invalid", err, kind)
					}
					return
				}
				if err := b.Stop(t.Context(), 0); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if after := sandboxtest.Mounts(t); after != before {
		t.Errorf("the machine's mounts are\n%s\nand were\n%s", after, before)
	}
}

func TestLayersAreStacked(t *testing.T) {
	d := open(t)
	low, top := t.TempDir(), t.TempDir()
	for dir, text := range map[string]string{low: "low", top: "top"} {
		os.Chmod(dir, 0o755)
		os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644)
		os.WriteFile(filepath.Join(dir, text), nil, 0o644)
	}
	r := sh(t, d, `cat /file; ls / | xargs echo`, func(s *sandbox.Spec) {
		s.Root = sandbox.Root{Key: "stack", Layers: []string{top, low, layer(t)}}
	})
	if want := "topbin dev etc file home low proc sys tmp top\n"; r.out != want {
		t.Errorf("got %q, want %q", r.out, want)
	}
}

// TestDaemonsDeathEndsItsSandboxes kills a process that has a driver and a
// sandbox, and looks for what is left before and after the next driver's Reap.
func TestDaemonsDeathEndsItsSandboxes(t *testing.T) {
	if os.Getenv("HOB_TEST_CHILD") != "" {
		victim(t)
		return
	}
	d := open(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestDaemonsDeathEndsItsSandboxes$")
	cmd.Env = append(os.Environ(), "HOB_TEST_CHILD=dead", "HOB_TEST_LAYER="+layer(t), "HOB_TEST_LOCKS="+d.cfg.LockDir, "HOB_TEST_PARENT="+d.cfg.CgroupParent)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid, frozen int
	if _, err := fmt.Fscanf(stdout, "sandboxes %d %d\n", &pid, &frozen); err != nil {
		t.Fatalf("the victim did not start: %v", err)
	}
	for _, pid := range []int{pid, frozen} {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(comm) != "prog\n" {
			t.Fatalf("process %d is %q", pid, comm)
		}
	}
	if err := d.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		t.Fatal("the sandbox of a living daemon was reaped")
	}
	cmd.Process.Kill()
	cmd.Wait()
	gone(t, pid)
	// Bare and prepared blanks wait in its cgroups, too.
	until(t, "all its processes but the frozen one have ended", func() bool {
		left := d.cgroups.Open(path.Join(d.cfg.CgroupParent, "dead")).Processes()
		return len(left) == 0 || len(left) == 1 && left[0] == frozen
	})
	if err := d.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	// In version 1 of cgroups only a thaw lets a frozen one end.
	gone(t, frozen)
	if left, _ := d.cgroups.Children(d.cfg.CgroupParent); len(left) != 1 {
		t.Errorf("generations after Reap: %v, want only this one", left)
	}
	if locks, _ := filepath.Glob(filepath.Join(d.cfg.LockDir, "*")); len(locks) != 1 {
		t.Errorf("locks after Reap: %v, want only this one", locks)
	}
}

// gone waits until a process has ended, whether or not init has reaped it.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || strings.Contains(string(status), "\nState:\tZ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d outlives its daemon", pid)
		}
	}
}

// victim is the process that is killed.
func victim(t *testing.T) {
	d, err := New(Config{Generation: os.Getenv("HOB_TEST_CHILD"), LockDir: os.Getenv("HOB_TEST_LOCKS"), CgroupParent: os.Getenv("HOB_TEST_PARENT")})
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Start(t.Context(), spec(t, "prog", "hang"))
	if err != nil {
		t.Fatal(err)
	}
	frozen, err := d.Start(t.Context(), spec(t, "prog", "hang"))
	if err != nil {
		t.Fatal(err)
	}
	if d.caps.Freezer {
		if err := frozen.(*box).Freeze(); err != nil {
			t.Fatal(err)
		}
	}
	stocked(t, d, spec(t, "prog"), 1)
	fmt.Printf("sandboxes %d %d\n", b.(*box).process.PID, frozen.(*box).process.PID)
	select {} // until killed
}

func TestManyStartsLeaveNothing(t *testing.T) {
	d := open(t)
	s := spec(t, "true")
	run(t, d, s)
	before := len(testenv.Descriptors())
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				s := s
				s.ID = strings.ToLower(faas.NewID())
				if r := run(t, d, s); r.exit != (faas.Exit{}) {
					t.Errorf("ended %+v: %s", r.exit, r.err)
				}
			}
		})
	}
	wg.Wait()
	d.mu.Lock()
	live := len(d.boxes)
	d.mu.Unlock()
	if live != 0 {
		t.Errorf("%d sandboxes are live", live)
	}
	// A blank has a pidfd, and a prepared one three streams and a user namespace; some of these are ready.
	until(t, "descriptors are closed", func() bool { return len(testenv.Descriptors()) <= before+8+2*d.base+5*d.stock.held() })
	// Threads of this process sit there, blanks and the keeper wait.
	until(t, "processes are gone", func() bool {
		return len(d.cgroups.Open(d.cgroup()).Processes()) <= 2+d.base+2*d.stock.held()
	})
}
