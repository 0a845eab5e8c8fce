package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

func TestSecurityIsTheDefault(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		r := sh(t, d, `
echo "$(id -u):$(id -g)"
grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs):' /proc/self/status
touch /x 2>&1
touch /tmp/x && echo tmp is writable
mount -t tmpfs x /tmp 2>&1
mknod /tmp/d c 1 3 2>&1
hostname
cat /proc/self/cgroup 2>/dev/null | grep -c hobtest
readlink /proc/1/exe
`)
		want := "1000:1000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n" +
			"touch: /x: Read-only file system\ntmp is writable\nmount: permission denied (are you root?)\nmknod: /tmp/d: Operation not permitted\nfn\n0\n/bin/busybox\n"
		if d.kind.ownKernel { // it looks at the mode first
			want = strings.Replace(want, "/x: Read-only file system", "/x: Permission denied", 1)
		}
		if r.out != want {
			t.Errorf("got\n%s\nwant\n%s%s", r.out, want, r.err)
		}
		if d.kind.ownKernel {
			return
		}
		r = sh(t, d, `grep Seccomp: /proc/self/status; touch /dev/x 2>&1; cat /proc/kcore /proc/keys /proc/interrupts /proc/timer_list | wc -c
ls /sys/firmware | wc -l; echo 1 > /proc/sys/vm/drop_caches; ls /proc/self/fd | wc -l; cat /proc/self/uid_map`)
		u, err := d.takeUsers() // those that the sandbox had
		if err != nil {
			t.Fatal(err)
		}
		d.leaveUsers(u)
		if want := fmt.Sprintf("Seccomp:\t2\ntouch: /dev/x: Read-only file system\n0\n0\n4\n         0 %d %10d\n", u.base, sandbox.IDs); r.out != want || !strings.Contains(r.err, "drop_caches") {
			t.Errorf("got\n%s\nwant\n%s%s", r.out, want, r.err)
		}
	}, "crun")
}

func TestRootOfASandboxIsNobodyOnTheMachine(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		testenv.SkipUnless(t, d.caps.UserNamespaces, "needs user namespaces with mapped owners", "Linux 5.19 or newer")
		r := sh(t, d, `id -u; grep CapEff: /proc/self/status; stat -c %u /bin/prog /etc/owned; cat /etc/owned 2>&1; touch /tmp/x; stat -c %u /tmp/x; mount -t tmpfs x /tmp 2>&1`,
			func(s *sandbox.Spec) { s.User = sandbox.User{} })
		fields := strings.Join(strings.Fields(r.out), " ")
		if want := "0 CapEff: 0000000000000000 0 1000 cat: can't open '/etc/owned': Permission denied 0 mount:"; !strings.HasPrefix(fields, want) {
			t.Errorf("got %s\nwant it to begin %s%s", fields, want, r.err)
		}
	})
}

func TestWritableRoot(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		for uid, want := range map[uint32]string{
			0:    "made\nremoved\n0\nNo space left on device\n", // without a capability it cannot write what 1000 owns
			1000: "by 1000\ny\nNo space left on device\n",       // root owns the rest
		} {
			r := sh(t, d, `touch /home/x && echo made; echo y >> /etc/owned; cat /etc/owned; rm /bin/prog && echo removed; mkdir -p /new/dir && stat -c %u /new; dd if=/dev/zero of=/tmp/big bs=1M count=20 2>&1 | grep -o "No space.*"`,
				func(s *sandbox.Spec) {
					s.Writable, s.TmpSize, s.User = true, 8*faas.MB, sandbox.User{UID: uid, GID: uid}
				})
			if r.out != want {
				t.Errorf("user %d: got %q, %q; want %q", uid, r.out, r.err, want)
			}
		}
		if r := sh(t, d, `ls /home; ls /bin/prog`); r.out != "/bin/prog\n" {
			t.Errorf("the next sandbox sees %q of the last one's changes", r.out)
		}
	})
}

func TestMemoryLimitIsToldApart(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		for _, args := range [][]string{{"prog", "hog", "500"}, {"sh", "-c", "prog hog 500; exit 9"}} {
			r := run(t, d, spec(t, args...))
			if !r.exit.OOM || r.usage.OOMKills == 0 || args[0] == "prog" && r.exit.Signal != "SIGKILL" || args[0] == "sh" && r.exit.Code != 9 && !d.kind.ownKernel {
				t.Errorf("%v ended %+v, %+v, want killed over the memory limit", args, r.exit, r.usage)
			}
			if most := 65*faas.MB + d.kind.overhead; r.usage.PeakMemory < 60*faas.MB || r.usage.PeakMemory > most {
				t.Errorf("peak memory %v, want about the limit of 64 MB", r.usage.PeakMemory)
			}
		}
		if r := run(t, d, spec(t, "prog", "hog", "30")); r.out != "held 30 MB" || r.exit != (faas.Exit{}) {
			t.Errorf("got %q, %+v", r.out, r.exit)
		}
		if r := run(t, d, spec(t, "prog", "write", "/tmp/x", "40000000")); !strings.Contains(r.out, "no space left") || r.exit.OOM {
			t.Errorf("got %q, %+v; want ENOSPC before the memory limit", r.out, r.exit)
		}
	})
}

func TestOrphansEndWithTheFirstProcess(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		if r := run(t, open(t, program), spec(t, "prog", "orphan")); r.out != "left" {
			t.Errorf("output %q", r.out)
		}
	})
}

func TestCPULimit(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		s := spec(t, "prog", "spin", "2s")
		s.CPU = 200
		r := run(t, d, s)
		if r.usage.CPUTime > 1200*time.Millisecond || r.usage.CPUTime == 0 { // with the start, which is not free
			t.Errorf("used %v of a processor in 2 s with a limit of a fifth", r.usage.CPUTime)
		}
	})
}

func TestNetworkIsOnlyLoopback(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		r := sh(t, open(t, program), `cat /proc/net/dev | wc -l; prog dial 127.0.0.1:1; echo; prog dial 192.0.2.1:80`)
		lines := strings.Split(r.out, "\n")
		if len(lines) < 3 || lines[0] != "3" || !strings.Contains(lines[1], "refused") || !strings.Contains(lines[2], "unreachable") {
			t.Errorf("got %q; want two lines of head, lo, a refusal and no route", r.out)
		}
	})
}

// TestNameServerIsToldWhateverTheImageHas starts images that have a link out of the root,
// a file or nothing where the name server is told, and links in place of /etc.
func TestNameServerIsToldWhateverTheImageHas(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "resolv.conf")
	each(t, func(t *testing.T, program string) {
		w := sandboxtest.NewWorld(t)
		d := open(t, program, func(c *Config) { c.Router = w.Router })
		conf := string(w.Router.ResolvConf())
		for name, tt := range map[string]struct {
			make func(dir string) error
			want string
		}{
			"nothing": {func(string) error { return nil }, conf + sandbox.Hosts},
			"files": {func(dir string) error {
				return errors.Join(os.WriteFile(dir+"/etc/resolv.conf", []byte("nameserver 10.0.0.1\n"), 0o600), os.WriteFile(dir+"/etc/hosts", []byte("image\n"), 0o644))
			}, conf + "image\n"},
			"link": {func(dir string) error {
				return errors.Join(os.Symlink(outside, dir+"/etc/resolv.conf"), os.Symlink("owned", dir+"/etc/hosts"))
			}, conf + "by 1000\n"},
			"directory": {func(dir string) error { return os.Mkdir(dir+"/etc/resolv.conf", 0o755) }, conf + sandbox.Hosts},
		} {
			dir := t.TempDir()
			os.Chmod(dir, 0o755)
			os.Mkdir(dir+"/etc", 0o755)
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			for _, writable := range []bool{false, true} {
				r := sh(t, d, "cat /etc/resolv.conf /etc/hosts", func(s *sandbox.Spec) {
					s.Root, s.Writable, s.Network.Mode = sandbox.Root{Key: dir, Layers: []string{dir, layer(t)}}, writable, faas.NetworkOpen
				})
				if r.out != tt.want {
					t.Errorf("%s: got %q, %q; want %q", name, r.out, r.err, tt.want)
				}
			}
		}
		dir := t.TempDir() // with a link there is no place for it, and the image works
		os.Chmod(dir, 0o755)
		os.Symlink("/usr/etc", filepath.Join(dir, "etc"))
		os.MkdirAll(filepath.Join(dir, "usr/etc"), 0o755)
		os.WriteFile(filepath.Join(dir, "usr/etc/mine"), []byte("mine\n"), 0o644)
		r := sh(t, d, "cat /etc/mine", func(s *sandbox.Spec) {
			s.Root, s.Network.Mode = sandbox.Root{Key: dir, Layers: []string{dir, layer(t)}}, faas.NetworkOpen
		})
		if r.out != "mine\n" {
			t.Errorf("with a link for /etc: %q, %q", r.out, r.err)
		}
	}, "crun")
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a file was made outside")
	}
}

func TestStartErrorsNameTheFault(t *testing.T) {
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
		{"no program", func(s *sandbox.Spec) { s.Args = []string{"/etc/nothing"} }, `a script without #!`},
		{"a program in a file", func(s *sandbox.Spec) { s.Args = []string{"/etc/text/x"} }, `cannot be found in the image`},
		{"user too high", func(s *sandbox.Spec) { s.User.UID = 70000 }, `user or group 70000 is over the highest of 65535`},
		{"too little memory", func(s *sandbox.Spec) { s.Memory = faas.MB }, `memory 1 MB is under the least of 8 MB`},
		{"directory in a file", func(s *sandbox.Spec) { s.Dir = "/etc/text/x" }, `not a directory`},
		{"directory in /proc", func(s *sandbox.Spec) { s.Dir = "/proc/self/fd/7" }, `cannot be /proc/self/fd/7`},
		{"sockets in a file", func(s *sandbox.Spec) { s.Sockets = "/etc/text" }, `not a directory`},
		{"too few files", func(s *sandbox.Spec) { s.Files = 4 }, `4 open files is under the least of 8`},
	}
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
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
	})
}

func TestProgramsAreFoundAsTheKernelDoes(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		for _, change := range []func(*sandbox.Spec){
			func(s *sandbox.Spec) { s.Env = nil },
			func(s *sandbox.Spec) { s.Env = []string{"PATH=/nowhere::/bin"} },
			func(s *sandbox.Spec) { s.Args[0], s.Dir = "./echo", "/bin" },
			func(s *sandbox.Spec) { s.Args[0], s.Dir = "bin/echo", "" },
			func(s *sandbox.Spec) { s.Args[0], s.Dir = "/etc/../bin/echo", "" },
		} {
			s := spec(t, "echo", "found")
			change(&s)
			if r := run(t, d, s); r.out != "found\n" {
				t.Errorf("%q in %q with %q: %q, %q", s.Args, s.Dir, s.Env, r.out, r.err)
			}
		}
	})
}

func TestMissingDirectoriesAreMade(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		r := sh(t, d, `pwd; touch /data/a /var/lib/db/b && echo volumes are writable; touch x 2>&1; touch /data/iofs/s && stat -c '%a %u %g' /data/iofs`, func(s *sandbox.Spec) {
			s.Dir, s.Volumes, s.Sockets = "/srv/app", []string{"/var/lib/db", "/data"}, "/data/iofs"
		})
		refusal := "Read-only file system"
		if d.kind.ownKernel {
			refusal = "Permission denied"
		}
		if want := "/srv/app\nvolumes are writable\ntouch: x: " + refusal + "\n755 1000 1000\n"; r.out != want {
			t.Errorf("got %q, %q; want %q", r.out, r.err, want)
		}
	})
}

// TestLinksOfAnImageLeadOnlyIntoIt mounts over places that an image has made into
// links: they may lead astray inside the sandbox and nowhere else.
func TestLinksOfAnImageLeadOnlyIntoIt(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		before := sandboxtest.Mounts(t)
		for _, place := range []string{"proc", "sys", "dev", "tmp", "data"} {
			for _, target := range []string{"/etc", "../../../../etc", "/proc/self/root/etc", "file"} {
				dir := t.TempDir()
				os.Chmod(dir, 0o755)
				os.Symlink(target, filepath.Join(dir, place))
				os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)
				s := spec(t, "true")
				s.Root = sandbox.Root{Key: dir, Layers: []string{dir, layer(t)}}
				s.Volumes = []string{"/data"}
				if b, err := d.Start(t.Context(), s); err != nil {
					if faas.KindOf(err) != faas.Invalid {
						t.Errorf("%s to %s: %v, want a start or Invalid", place, target, err)
					}
				} else if err := b.Stop(t.Context(), 0); err != nil {
					t.Error(err)
				}
			}
		}
		if after := sandboxtest.Mounts(t); after != before {
			t.Errorf("the machine's mounts are\n%s\nand were\n%s", after, before)
		}
		for _, name := range []string{"mqueue", "shm", "pts"} { // what a runtime makes in its /dev
			if _, err := os.Stat("/etc/" + name); err == nil {
				t.Errorf("/etc/%s was made on the machine", name)
			}
		}
	})
}

func TestLayersAreStacked(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
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
	})
}

// TestFilterIsThatOfNs compares the names with the numbers in package linux.
func TestFilterIsThatOfNs(t *testing.T) {
	var want []string
	for _, file := range []string{"seccomp.go", "seccomp_amd64.go"} {
		text, err := os.ReadFile(filepath.Join("../../linux", file))
		if err != nil {
			t.Fatal(err)
		}
		_, list, _ := strings.Cut(string(text), "= []uint32{")
		list, _, _ = strings.Cut(list, "}")
		for name := range strings.FieldsSeq(strings.NewReplacer(",", " ", "unix.SYS_", "").Replace(list)) {
			want = append(want, strings.ToLower(name))
		}
	}
	slices.Sort(want)
	if got := strings.Fields(allowed); !slices.Equal(got, slices.Compact(want)) {
		t.Errorf("allowed are\n%s\nwant\n%s", got, want)
	}
}
