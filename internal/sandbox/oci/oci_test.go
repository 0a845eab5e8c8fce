package oci

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// each runs a test with runc, and with runsc, which has no package and may be missing
// even where tests must run; and with those of others.
func each(t *testing.T, test func(t *testing.T, program string), others ...string) {
	testenv.NeedRoot(t)
	layer(t)
	for _, program := range append(others, "runc", "runsc") {
		if _, err := exec.LookPath(program); err != nil && program == "runsc" {
			t.Log("left out for runsc, which is not installed: make runsc builds it")
			continue
		}
		t.Run(program, func(t *testing.T) { test(t, testenv.NeedTool(t, program)) })
	}
}

// open returns a driver whose generation, state and cgroups are the test's own.
func open(t testing.TB, program string, change ...func(*Config)) *Driver {
	t.Helper()
	testenv.NeedRoot(t)
	id := "t" + strings.ToLower(faas.NewID())
	cfg := Config{Program: program, Generation: id, State: state(t), CgroupParent: testenv.Mark() + id, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Blanks: -1}
	for _, f := range change {
		f(&cfg)
	}
	if cfg.Router == nil { // whose goroutines come and go
		others := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, others) })
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if left, _ := filepath.Glob(filepath.Join(cfg.State, "*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if left, _ := d.cgroups.Children(cfg.CgroupParent); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
		if err := d.cgroups.Open(cfg.CgroupParent).Remove(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// state is a directory that everybody may search.
func state(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hobtest-oci")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// image is a directory that is the layer of an image with the test program as
// /bin/prog, made once.
var image = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "hobtest-image") })

var built sync.Once

func TestMain(m *testing.M) {
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
		for _, name := range []string{"sh", "cat", "id", "ls", "stat", "touch", "true", "grep", "mount", "mkdir", "rm", "dd", "wc", "hostname", "pwd", "mknod", "readlink", "echo", "seq", "xargs"} {
			os.Symlink("busybox", filepath.Join(dir, "bin", name))
		}
		os.WriteFile(filepath.Join(dir, "etc/owned"), []byte("by 1000\n"), 0o600)
		os.Chown(filepath.Join(dir, "etc/owned"), 1000, 1000)
		os.WriteFile(filepath.Join(dir, "etc/text"), []byte("not a program\n"), 0o644)
		os.WriteFile(filepath.Join(dir, "etc/nothing"), []byte("not a program\n"), 0o755)
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
	each(t, func(t *testing.T, program string) {
		testenv.NothingLeft(t, testenv.Mark())
		sandboxtest.TestDriver(t, func(t *testing.T) sandboxtest.Rig {
			w := sandboxtest.NewWorld(t)
			d := open(t, program, func(c *Config) { c.Blanks, c.Router = 4, w.Router })
			rig := sandboxtest.Rig{
				World: w, Driver: d, OwnKernel: d.kind.ownKernel,
				Spec: func(args ...string) sandbox.Spec { return spec(t, append([]string{"prog"}, args...)...) },
			}
			if d.kind.ownKernel {
				rig.Counted = []string{"processes", "files"}
			}
			return rig
		})
	}, "crun")
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
