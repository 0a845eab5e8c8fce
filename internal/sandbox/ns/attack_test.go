package ns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
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
	w := sandboxtest.NewWorld(t)
	withRouter := func(c *Config) { c.Router = w.Router }
	run := func(t *testing.T, d *Driver, user uint32, writable bool) {
		for _, mode := range []faas.NetworkMode{faas.NetworkNone, faas.NetworkOpen} {
			s := s
			s.User, s.Writable, s.Sockets, s.Network.Mode = sandbox.User{UID: user, GID: user}, writable, "/tmp/iofs", mode
			o.TestAttacks(t, d, s)
		}
	}
	t.Run("mapped users", func(t *testing.T) {
		testenv.NeedFeature(t, testenv.UserNS)
		d := open(t, withRouter)
		testenv.SkipUnless(t, d.caps.UserNamespaces, "needs user namespaces with mapped owners", "Linux 5.19 or newer")
		t.Run("root", func(t *testing.T) { run(t, d, 0, true) })
		t.Run("user", func(t *testing.T) { run(t, d, 1000, false) })
	})
	t.Run("users of the machine", func(t *testing.T) {
		withoutMappedUsers(t)
		d := open(t, withRouter)
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
	before := sandboxtest.Mounts(t)
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
	if after := sandboxtest.Mounts(t); after != before {
		t.Errorf("the machine's mounts are\n%s\nand were\n%s", after, before)
	}
}

// TestTheDaemonsProgramCannotBeWritten has an image execute the program of the
// daemon, by the link that each process has to its own (CVE-2019-5736).
func TestTheDaemonsProgramCannotBeWritten(t *testing.T) {
	d := open(t, func(c *Config) { c.Blanks = -1 }) // none is made while this test takes the fence away
	s := spec(t, "/proc/self/exe")
	s.Env, s.Memory, s.User = []string{"HOB_TEST_EXE=1"}, 512*faas.MB, sandbox.User{}
	if !d.caps.UserNamespaces {
		s.User = sandbox.User{UID: 1000, GID: 1000}
	}
	if d.fence != nil {
		if _, err := d.Start(t.Context(), s); faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), "is not executable") {
			t.Errorf("within a fence: %v, want Invalid", err)
		}
	}
	fence := d.fence
	d.fence, s.PIDs = nil, 100
	defer func() { d.fence = fence }()
	b, err := d.Start(t.Context(), s)
	if faas.KindOf(err) == faas.Invalid && strings.Contains(err.Error(), "loader") {
		return // with the race detector it needs a loader, which the image lacks
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop(context.Background(), 0)
	if out, _ := io.ReadAll(b.Stdio().Stdout); string(out) != "permission denied, text file busy\n" && string(out) != "permission denied, permission denied\n" {
		t.Errorf("write and chmod: %q", out)
	}
}

// writeOwnProgram is the test's program in a sandbox.
func writeOwnProgram() {
	f, err := os.OpenFile("/proc/self/exe", os.O_WRONLY, 0)
	f.Close()
	chmod := os.Chmod("/proc/self/exe", 0o777)
	why := func(err error) string {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
			return "permission denied"
		}
		return fmt.Sprint(err)
	}
	fmt.Println(why(chmod) + ", " + why(err))
}

// eachStart calls do with a sandbox of each sort of start.
func eachStart(t *testing.T, s sandbox.Spec, do func(*testing.T, *box)) {
	t.Helper()
	for _, want := range []faas.Start{faas.StartOnDemand, faas.StartBare, faas.StartPrepared} {
		t.Run(string(want), func(t *testing.T) {
			d := open(t, func(c *Config) {
				if want == faas.StartOnDemand {
					c.Blanks = -1
				}
			})
			for range 1000 {
				s.ID = strings.ToLower(faas.NewID())
				if want == faas.StartBare {
					s.PIDs++ // nothing is prepared for what never was
				}
				b := start(t, d, s)
				if b.from == want {
					do(t, b)
					return
				}
				b.Stop(t.Context(), 0)
			}
			t.Fatalf("no start was made from %s", want)
		})
	}
}

func TestAProgramHasThreeDescriptors(t *testing.T) {
	testenv.NeedRoot(t)
	s := spec(t, "prog", "descriptors")
	s.Sockets, s.Listen, s.Writable, s.PIDs, s.Devices = "/tmp/iofs", "127.0.0.1:9001", true, 100, []string{"/dev/null", "/dev/tty"}
	eachStart(t, s, func(t *testing.T, b *box) {
		if out, _ := io.ReadAll(b.Stdio().Stdout); string(out) != "0 1 2 " {
			t.Errorf("descriptors %q, want 0 1 2", out)
		}
	})
}

func TestNoMountHasDevicesOrSetuidPrograms(t *testing.T) {
	testenv.NeedRoot(t)
	s := spec(t, "cat", "/proc/self/mountinfo")
	s.Sockets, s.Volumes, s.PIDs = "/tmp/iofs", []string{"/data"}, 100
	eachStart(t, s, func(t *testing.T, b *box) {
		out, _ := io.ReadAll(b.Stdio().Stdout)
		if n := strings.Count(string(out), "\n"); n < 12 {
			t.Fatalf("%d mounts", n)
		}
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			at, options := f[4], strings.Split(f[5], ",")
			devices := strings.Contains(line, " - devpts ") || strings.Contains(line, " - tmpfs ") && slices.Contains(options, "ro")
			if !slices.Contains(options, "nosuid") || !slices.Contains(options, "nodev") && !devices {
				t.Errorf("%s: %s", at, line)
			}
		}
	})
}

func TestNoLinkInTheDirectoryForSocketsLeadsOut(t *testing.T) {
	d := open(t)
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	os.Chmod(path, 0o666)
	reached := make(chan struct{}, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
			select {
			case reached <- struct{}{}:
			default:
			}
		}
	}()
	s := spec(t, "prog", "swap", "/tmp/iofs", path)
	s.Sockets = "/tmp/iofs"
	b := start(t, d, s)
	ready(t, b)
	own, fds := 0, len(testenv.Descriptors())
	for range 2000 {
		conn, err := b.Dial(t.Context(), "unix", "a")
		if err != nil {
			continue
		}
		word, _ := io.ReadAll(conn)
		conn.Close()
		if string(word) != "own" {
			t.Errorf("somebody says %q", word)
		}
		own++
	}
	select {
	case <-reached:
		t.Error("a socket outside was reached")
	default:
	}
	// Blanks are made meanwhile.
	until(t, "descriptors are closed", func() bool { return len(testenv.Descriptors()) <= fds+40 })
	t.Logf("%d of 2000 connections were made", own)
}

func TestDescriptorsThatAFunctionPassesAreDropped(t *testing.T) {
	d := open(t)
	s := spec(t, "prog", "pass", "/tmp/iofs")
	s.Sockets = "/tmp/iofs"
	b := start(t, d, s)
	ready(t, b)
	before := len(testenv.Descriptors())
	for range 50 {
		conn, err := b.Dial(t.Context(), "unix", "a")
		if err != nil {
			t.Fatal(err)
		}
		if word, err := io.ReadAll(conn); string(word) != "own" || err != nil {
			t.Errorf("heard %q, %v", word, err)
		}
		conn.Close()
	}
	// Blanks are made meanwhile.
	until(t, "descriptors are closed", func() bool { return len(testenv.Descriptors()) <= before+40 })
}
