package ns

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// withoutMappedUsers has drivers find no user namespace that files can be mapped
// for, as on old kernels: a ramfs shows its owners to everybody as they are.
func withoutMappedUsers(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("hob-test", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	t.Setenv("TMPDIR", dir)
}

// underAttack returns what attacks are after, and the spec of a sandbox that makes them.
func underAttack(t *testing.T) (*sandboxtest.Outside, sandbox.Spec) {
	t.Helper()
	s := spec(t, "prog")
	prog := filepath.Join(layer(t), "bin/prog")
	evil := sandboxtest.EvilLayer(t, prog)
	s.Root = sandbox.Root{Key: evil, Layers: []string{evil, layer(t)}}
	s.Memory = 256 * faas.MB
	return sandboxtest.NewOutside(t, prog, evil), s
}

func TestAttacksAreReal(t *testing.T) {
	testenv.NeedRoot(t)
	o, _ := underAttack(t)
	o.TestAttacksAreReal(t)
}

func TestNoAttackReachesOut(t *testing.T) {
	testenv.NeedRoot(t)
	o, s := underAttack(t)
	run := func(t *testing.T, d *Driver, user uint32, writable bool) {
		s := s
		s.User, s.Writable, s.Sockets = sandbox.User{UID: user, GID: user}, writable, "/tmp/iofs"
		o.TestAttacks(t, d, s)
	}
	t.Run("mapped users", func(t *testing.T) {
		testenv.NeedFeature(t, testenv.UserNS)
		d := open(t)
		testenv.SkipUnless(t, d.caps.UserNamespaces, "needs user namespaces with mapped owners", "Linux 5.19 or newer")
		t.Run("root", func(t *testing.T) { run(t, d, 0, true) })
		t.Run("user", func(t *testing.T) { run(t, d, 1000, false) })
	})
	t.Run("users of the machine", func(t *testing.T) {
		withoutMappedUsers(t)
		d := open(t)
		if d.caps.UserNamespaces {
			t.Fatal("the driver has found mapped users on a ramfs")
		}
		run(t, d, 1000, false)
	})
}

// TestNoPathOfAnImageLeadsToADescriptor has an image name descriptors of the daemon,
// which a process has until just before it executes: that of a directory would lead
// out of the root.
func TestNoPathOfAnImageLeadsToADescriptor(t *testing.T) {
	d := open(t)
	host := t.TempDir()
	for _, file := range []string{host + "/tmp/of-the-host", host + "/of-the-host"} {
		os.MkdirAll(filepath.Dir(file), 0o755)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	outside, err := os.Open(host)
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	fd := fmt.Sprint("/proc/self/fd/", outside.Fd())
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	os.Symlink(fd, filepath.Join(dir, "out"))
	os.Symlink("/proc/self/cwd", filepath.Join(dir, "cwd"))
	for _, at := range []string{"/out", "/out/tmp", fd, "/cwd", "/proc/1/root/tmp"} {
		for name, change := range map[string]func(*sandbox.Spec){
			"directory": func(s *sandbox.Spec) { s.Dir = at },
			"volume":    func(s *sandbox.Spec) { s.Volumes = []string{at} },
			"sockets":   func(s *sandbox.Spec) { s.Sockets = at },
			"program":   func(s *sandbox.Spec) { s.Args[0] = at + "/bin/true" },
		} {
			t.Run(name+" "+strings.ReplaceAll(at, "/", "_"), func(t *testing.T) {
				s := spec(t, "sh", "-c", "ls . .. "+at+"; pwd")
				s.Root = sandbox.Root{Key: dir, Layers: []string{dir, layer(t)}}
				change(&s)
				b, err := d.Start(t.Context(), s)
				if err != nil {
					if kind := faas.KindOf(err); kind != faas.Invalid {
						t.Errorf("Start = %v (%s), want a start or Invalid", err, kind)
					}
					return
				}
				defer b.Stop(context.Background(), 0)
				out, _ := io.ReadAll(b.Stdio().Stdout)
				if name == "directory" || strings.Contains(string(out), "of-the-host") {
					t.Errorf("it runs, and sees %q", out)
				}
			})
		}
	}
	if after, _ := os.ReadFile("/proc/self/mountinfo"); string(after) != string(before) {
		t.Errorf("the machine's mounts are\n%s\nand were\n%s", after, before)
	}
}
