package ns

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
)

func testDriver(t testing.TB) *Driver {
	t.Helper()
	id := "t" + strings.ToLower(faas.NewID())
	d, err := New(Config{Generation: id, LockDir: t.TempDir(), CgroupParent: "hobtest-" + id, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		d.cgroups.Open(d.cfg.CgroupParent).Remove()
	})
	return d
}

func busybox(t testing.TB) sandbox.Root {
	t.Helper()
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	os.Mkdir(dir+"/bin", 0o755)
	if out, err := exec.Command("cp", "/usr/bin/busybox", dir+"/bin/busybox").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	for _, c := range []string{"sh", "cat", "id", "ls", "mount", "sleep", "echo", "touch", "grep", "head", "dd", "hostname", "ps", "env", "true", "ip", "ulimit"} {
		os.Symlink("busybox", dir+"/bin/"+c)
	}
	return sandbox.Root{Key: dir, Layers: []string{dir}}
}

func TestSmoke(t *testing.T) {
	d := testDriver(t)
	t.Logf("%+v", d.caps)
	root := busybox(t)
	b, err := d.Start(t.Context(), sandbox.Spec{ID: "a", Hostname: "fn", Root: root, Memory: 64 << 20, User: sandbox.User{UID: 1000, GID: 1000},
		Args: []string{"sh", "-c", `id; ls -la / /dev /proc/1/fd; cat /proc/self/status | grep -E "Cap|NoNew|Seccomp|Uid"; cat /proc/self/mountinfo; ps; ip addr; cat /proc/self/cgroup; touch /x; touch /tmp/x; ls -ln /tmp; ulimit -a; cat`}})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(b.Stdio().Stdin, "hello\n")
	b.Stdio().Stdin.Close()
	go func() { e, _ := io.ReadAll(b.Stdio().Stderr); t.Logf("stderr: %s", e) }()
	out, err := io.ReadAll(b.Stdio().Stdout)
	t.Logf("%s %v", out, err)
	exit, err := b.Wait(t.Context())
	t.Log(exit, err, b.Usage())
	if err := b.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
}

func BenchmarkStart(b *testing.B) {
	d := testDriver(b)
	root := busybox(b)
	run := func() {
		s, err := d.Start(context.Background(), sandbox.Spec{ID: "a", Hostname: "fn", Root: root, Memory: 64 << 20, User: sandbox.User{UID: 1000, GID: 1000}, Args: []string{"true"}})
		if err != nil {
			b.Fatal(err)
		}
		s.Wait(context.Background())
		s.Stop(context.Background(), 0)
	}
	run()
	b.Run("back to back", func(b *testing.B) {
		for b.Loop() {
			run()
		}
	})
	b.Run("idle", func(b *testing.B) {
		var total time.Duration
		for range b.N {
			time.Sleep(60 * time.Millisecond)
			t := time.Now()
			run()
			total += time.Since(t)
		}
		b.ReportMetric(float64(total)/float64(b.N)/1000, "us/start")
	})
}
