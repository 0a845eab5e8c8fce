package sandboxtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/testenv"
)

// An Attack tries to reach out of a sandbox, or to get rights in it. Package prog
// carries it out.
type Attack struct {
	Name  string
	Tries string
	Wants []string // what may come of it in a sandbox: the name of an errno, or words
	Host  string   // what comes of it for root outside; "": it succeeds. An errno that follows the check of rights does
}

func gets(what ...string) []string { return what }

// Attacks is what is tried. What each may end with is what a driver that shares the
// kernel gives; one that has a kernel of its own may refuse in other words, or allow
// what reaches nothing but that kernel.
var Attacks = []Attack{
	{"file by name", "open a file of the host by its name", gets("ENOENT"), ""},
	{"dot-dot", "open it by way of ../../..", gets("ENOENT"), ""},
	{"link of the image", "open it by a link in the image", gets("ENOENT"), ""},
	{"root of process 1", "open it by /proc/1/root", gets("ENOENT"), ""},
	{"cwd of process 1", "open it by /proc/1/cwd/../../..", gets("ENOENT"), ""},
	{"root of another", "open it by the root of a process outside", gets("ENOENT"), ""},
	{"environ of another", "read the environment of a process outside", gets("ENOENT"), ""},
	{"memory of another", "open /proc/PID/mem of a process outside", gets("ENOENT"), ""},
	{"file handle", "open a directory by its handle, past all mounts", gets("EPERM"), ""},
	{"descriptors", "open it from a directory that some descriptor is open on", gets("none of them"), ""},
	{"own program", "write to the program that process 1 or this one executes", gets("EROFS", "ETXTBSY"), "ETXTBSY"},

	{"kcore", "read the kernel's memory in /proc/kcore", gets("EOF", "ENOENT", "EACCES"), ""},
	{"kmsg", "read the kernel's log in /proc/kmsg", gets("EPERM", "EACCES"), ""},
	{"dev mem", "open the machine's memory", gets("ENOENT"), ""},
	{"kallsyms", "read addresses of the kernel", gets("no address"), ""},
	{"sysrq", "open /proc/sysrq-trigger to write", gets("ENOENT", "EROFS", "EACCES"), ""},
	{"core pattern", "open /proc/sys/kernel/core_pattern to write", gets("EROFS", "EACCES"), ""},
	{"sysctls", "open any file below /proc/sys to write", gets("none of them"), ""},
	{"proc", "open any file of /proc that is not a process's to write", gets("none of them"), ""},
	{"sysfs", "open any file below /sys to write", gets("none of them"), ""},
	{"firmware", "read any file below /sys/firmware", gets("nothing is there"), ""},
	{"devices", "open any device in /dev but null, zero, full, random, urandom, tty", gets("none of them", "nothing is there"), ""},
	{"device nodes", "open devices that the image has", gets("none of them"), ""},
	{"block device", "make a device file of a disk", gets("EPERM"), ""},
	{"character device", "make a device file of the kernel's log and open it", gets("EPERM"), ""},
	{"release agent", "open release_agent of a cgroup hierarchy to write", gets("ENOENT"), ""},
	{"cgroup", "open cgroup.procs of the machine to write", gets("ENOENT"), ""},
	{"cgroup mount", "mount a cgroup hierarchy", gets("EPERM"), ""},
	{"setuid program", "execute a setuid program of the image", gets("no right"), ""},
	{"capable file", "execute a program of the image that has file capabilities", gets("no right"), ""},
	{"program in memory", "execute a program from a memfd, which mounts", gets("EPERM"), ""},

	{"ptrace", "trace a process outside", gets("ESRCH"), ""},
	{"read of memory", "process_vm_readv from a process outside", gets("ESRCH"), ""},
	{"write to memory", "process_vm_writev to a process outside", gets("ESRCH"), "EFAULT"},
	{"signal", "send a signal to a process outside", gets("ESRCH"), ""},
	{"pidfd", "open a pidfd of a process outside", gets("ESRCH"), ""},
	{"limits of others", "read limits of a process outside", gets("ESRCH"), ""},
	{"processor set", "read the processors of a process outside", gets("ESRCH"), ""},
	{"move pages", "move the pages of a process outside", gets("EPERM"), ""},
	{"compare", "compare kernel objects of processes", gets("EPERM"), ""},

	{"mount", "mount a tmpfs", gets("EPERM"), ""},
	{"proc mount", "mount another /proc, without what hides files of it", gets("EPERM"), ""},
	{"bind mount", "bind the root elsewhere", gets("EPERM"), ""},
	{"remount", "mount the root again with other flags", gets("EPERM"), ""},
	{"unmount", "take away /sys, or what hides files in it", gets("EPERM"), ""},
	{"fsopen", "open a file system", gets("EPERM"), ""},
	{"open tree", "clone a mount", gets("EPERM"), ""},
	{"move mount", "move a mount", gets("EPERM"), "ENOENT"},
	{"mount attribute", "change a mount", gets("EPERM"), "ENOENT"},
	{"pivot root", "change roots", gets("EPERM"), "EBUSY"},
	{"chroot", "enter a root and leave it by ..", gets("EPERM"), ""},
	{"unshare user", "make a user namespace, to have all rights in it", gets("EPERM"), ""},
	{"unshare mounts", "make a mount namespace", gets("EPERM"), ""},
	{"unshare others", "make network, IPC, UTS, PID and cgroup namespaces", gets("EPERM"), ""},
	{"clone user", "make a process in a user namespace", gets("EPERM"), ""},
	{"clone mounts", "make a process in a mount namespace", gets("EPERM"), ""},
	{"clone3", "clone3, whose flags no filter sees", gets("ENOSYS"), "EINVAL"},
	{"setns", "enter a namespace", gets("EPERM"), ""},
	{"hostname", "set the host name", gets("EPERM"), ""},
	{"capabilities", "take CAP_SYS_ADMIN", gets("EPERM"), ""},
	{"other user", "become another user", gets("EPERM"), ""},
	{"other group", "join another group", gets("EPERM"), ""},

	{"keyctl", "reach a keyring", gets("EPERM"), ""},
	{"add key", "add a key", gets("EPERM"), ""},
	{"request key", "have a key asked for, by a program of the host", gets("EPERM"), "ENOKEY"},
	{"bpf", "make an eBPF map", gets("EPERM"), ""},
	{"perf events", "count events of the kernel", gets("EPERM"), ""},
	{"userfaultfd", "handle page faults, which stops the kernel where it likes", gets("EPERM"), ""},
	{"io_uring", "make an io_uring, whose calls no filter sees", gets("ENOSYS"), ""},
	{"aio", "take a context of aio, of which the machine has 65,536", gets("ENOSYS"), ""},
	{"fanotify", "watch files of all", gets("EPERM"), ""},
	{"kexec", "load another kernel", gets("EPERM"), "EINVAL"},
	{"module", "load a kernel module", gets("EPERM"), "ENOEXEC"},
	{"module file", "load a kernel module from a file", gets("EPERM"), "EBADF"},
	{"set the clock", "set the clock", gets("EPERM"), "EINVAL"},
	{"set the zone", "set the kernel's time zone", gets("EPERM"), "EINVAL"},
	{"adjust clock", "let the clock go faster", gets("EPERM"), "EINVAL"},
	{"adjust clock 2", "let the clock go faster with clock_adjtime", gets("EPERM"), "EINVAL"},
	{"reboot", "stop the machine", gets("EPERM"), "EINVAL"},
	{"swap", "add swap", gets("EPERM"), "ENOENT"},
	{"accounting", "have processes written down", gets("EPERM"), "ENOENT"},
	{"kernel log", "ask for the kernel's log", gets("EPERM"), ""},
	{"quota", "change quotas", gets("EPERM"), "ENOENT"},
	{"I/O ports", "get rights to I/O ports", gets("EPERM"), ""},
	{"I/O level", "raise the I/O privilege level", gets("EPERM"), ""},
	{"priority", "be preferred to all others", gets("EPERM", "EACCES"), ""},
	{"real time", "run before everything else", gets("EPERM"), ""},
	{"real time input", "read disks before everybody else", gets("EPERM"), ""},
	{"personality", "make all readable memory executable", gets("EPERM"), ""},
	{"x32 calls", "mount by the numbers of x32", gets("EPERM"), "ENOSYS"},
	{"32-bit calls", "call by int 0x80, whose numbers mean something else", gets("EPERM", "ENOSYS"), ""},
	{"terminal input", "put words into a terminal", gets("EPERM"), ""},
	{"core files", "have a crash handed to the machine's handler of core files", gets("it stays 1"), ""},

	{"raw socket", "make a raw socket", gets("EPERM"), ""},
	{"packet socket", "make a packet socket", gets("EAFNOSUPPORT"), ""},
	{"crypto socket", "use the kernel's cryptography", gets("EAFNOSUPPORT"), ""},
	{"vsock socket", "speak to the hypervisor", gets("EAFNOSUPPORT"), ""},
	{"device events", "hear of the machine's devices", gets("EPROTONOSUPPORT"), ""},
	{"firewall", "speak to netfilter", gets("EPROTONOSUPPORT"), ""},
	{"network device", "change a network device", gets("EPERM"), "ENODEV"},
	{"new device", "make a network device", gets("EPERM"), "ENOTSUP"},
	{"network address", "take another address", gets("EPERM"), "ENODEV"},
	{"network route", "make a route past the router", gets("EPERM"), "ENODEV"},
	{"neighbour", "say where packets for an address go", gets("EPERM"), "ENODEV"},
	{"bandwidth", "take the limit of the bandwidth away", gets("EPERM"), "ENODEV"},
	{"packet mark", "mark packets, for rules of the node", gets("EPERM"), ""},
	{"foreign address", "send from addresses of others", gets("EPERM"), ""},
	{"network of another", "read the connections of a process outside", gets("ENOENT"), ""},
	{"abstract socket", "connect to an abstract Unix socket of the host", gets("ECONNREFUSED"), ""},
	{"port of the host", "connect to a port of the host's loopback", gets("ECONNREFUSED"), ""},
	{"unix socket", "connect to a Unix socket of the host", gets("ENOENT"), ""},
	{"shared memory", "find System V shared memory of the host", gets("ENOENT"), ""},
	{"message queue", "find a System V message queue of the host", gets("ENOENT"), ""},
	{"semaphores", "find System V semaphores of the host", gets("ENOENT"), ""},
	{"posix queue", "open a POSIX message queue of the host", gets("ENOENT"), ""},
	{"dev shm", "open a file in the host's /dev/shm", gets("ENOENT"), ""},
}

// EvilLayer makes a layer as no honest tool would unpack it: with devices,
// programs with rights, a link that leads out. prog is from Build.
func EvilLayer(t testing.TB, prog string) string {
	t.Helper()
	dir := t.TempDir()
	evil := filepath.Join(dir, "evil")
	text, err := os.ReadFile(prog)
	for _, step := range []error{
		err,
		os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755), os.Mkdir(evil, 0o755),
		unix.Mknod(filepath.Join(evil, "kmsg"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))),
		unix.Mknod(filepath.Join(evil, "disk"), unix.S_IFBLK|0o666, int(disk())),
		os.Chmod(filepath.Join(evil, "kmsg"), 0o666), os.Chmod(filepath.Join(evil, "disk"), 0o666),
		os.WriteFile(filepath.Join(evil, "suid"), text, 0o755), os.Chmod(filepath.Join(evil, "suid"), 0o755|os.ModeSetuid|os.ModeSetgid),
		os.WriteFile(filepath.Join(evil, "capable"), text, 0o755),
		// All capabilities, permitted and effective: revision 2 of vfs_cap_data.
		unix.Setxattr(filepath.Join(evil, "capable"), "security.capability", []byte("\x01\x00\x00\x02\xff\xff\xff\xfe\x00\x00\x00\x00\xff\x01\x00\x00\x00\x00\x00\x00"), 0),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	return dir
}

// disk is the number of a disk that this machine has.
func disk() uint64 {
	text, _ := os.ReadFile("/proc/partitions")
	for line := range strings.Lines(string(text)) {
		var major, minor uint32
		if n, _ := fmt.Sscan(line, &major, &minor); n == 2 {
			return unix.Mkdev(major, minor)
		}
	}
	return unix.Mkdev(7, 0)
}

// An Outside is what attacks are after: a process, a file, sockets and IPC of the
// host. It ends with the test.
type Outside struct {
	prog, evil string
	Env        []string // tells attacks what to look for
}

// NewOutside makes one. evil is from EvilLayer, in which it puts a link.
func NewOutside(t *testing.T, prog, evil string) *Outside {
	t.Helper()
	dir, name := t.TempDir(), "hob-attack-"+strings.ToLower(faas.NewID())
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "secret")
	must(os.WriteFile(file, []byte("secret of the host"), 0o644))
	must(os.Chmod(dir, 0o755))
	must(os.Symlink(strings.Repeat("../", 40)+file, filepath.Join(evil, "evil/link")))
	shm := filepath.Join("/dev/shm", name)
	must(os.WriteFile(shm, []byte("secret of the host"), 0o644))
	t.Cleanup(func() { os.Remove(shm) })

	victim := exec.Command(prog, "rest")
	victim.Env = []string{"A=secret of the host"}
	must(victim.Start())
	t.Cleanup(func() { victim.Process.Kill(); victim.Wait() })

	listen := func(network, addr string) string {
		l, err := net.Listen(network, addr)
		must(err)
		t.Cleanup(func() { l.Close() })
		return l.Addr().String()
	}
	key := 0x68000000 + os.Getpid() // a process's own: tests of two packages may run at once
	ipc(t, key, name)
	return &Outside{prog, evil, []string{
		fmt.Sprint("VICTIM=", victim.Process.Pid), "SECRET=" + file, fmt.Sprint("KEY=", key), "QUEUE=" + name,
		"ABSTRACT=" + listen("unix", "@"+name), "PORT=" + listen("tcp", "127.0.0.1:0"), "SOCKET=" + listen("unix", filepath.Join(dir, "sock")),
	}}
}

// ipc makes one of each kind of System V IPC, and a POSIX message queue.
func ipc(t *testing.T, key int, queue string) {
	t.Helper()
	const create, ipcRemove = 0o1666, 0
	for _, kind := range []struct{ get, a, b, control uintptr }{
		{unix.SYS_SHMGET, 4096, create, unix.SYS_SHMCTL}, {unix.SYS_MSGGET, create, 0, unix.SYS_MSGCTL}, {unix.SYS_SEMGET, 1, create, unix.SYS_SEMCTL},
	} {
		id, _, errno := unix.Syscall(kind.get, uintptr(key), kind.a, kind.b)
		if errno != 0 {
			t.Fatal(errno)
		}
		t.Cleanup(func() {
			if kind.get == unix.SYS_SEMGET { // whose control has a number before the command
				unix.Syscall(kind.control, id, 0, ipcRemove)
				return
			}
			unix.Syscall(kind.control, id, ipcRemove, 0)
		})
	}
	name, err := unix.BytePtrFromString(queue)
	if err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o666, 0, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	unix.Close(int(fd))
	t.Cleanup(func() { unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0) })
}

// Mounts is what is mounted on the machine, but below directories where tests and engines
// of others mount at the same time.
func Mounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	own, others := t.TempDir(), []string{os.TempDir() + "/", "/var/tmp/", "/run/", "/var/run/", "/var/lib/"}
	own = strings.TrimRight(filepath.Dir(own), "0123456789") // of the test and its subtests
	var found strings.Builder
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 5 || strings.HasPrefix(f[4], own) || !slices.ContainsFunc(others, func(dir string) bool { return strings.HasPrefix(f[4], dir) }) {
			found.WriteString(line)
		}
	}
	return found.String()
}

// A Difference is what comes of some attacks in a driver's sandboxes instead of what
// Attacks says, and why that is as good.
type Difference struct {
	Why  string
	Gets map[string][]string // by the attack's name
}

// TestAttacks carries out all attacks in a sandbox of spec, whose program is package
// prog and whose image has the EvilLayer.
func (o *Outside) TestAttacks(t *testing.T, d sandbox.Driver, spec sandbox.Spec, differences ...Difference) {
	spec.Args, spec.Env = append([]string{spec.Args[0], "attacks"}, names()...), append(slices.Clone(spec.Env), o.Env...)
	b, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop(context.Background(), 0)
	got := outcomes(read(t, b.Stdio().Stdout))
	for _, a := range Attacks {
		wants := a.Wants
		for _, d := range differences {
			if other, ok := d.Gets[a.Name]; ok {
				wants = other
			}
		}
		if !slices.ContainsFunc(wants, func(want string) bool { return strings.HasPrefix(got[a.Name], want) }) {
			t.Errorf("%s: %s: %q, want %s", a.Name, a.Tries, got[a.Name], strings.Join(wants, " or "))
		}
	}
}

// TestAttacksAreReal carries them out as root of the host, in processes of their own.
func (o *Outside) TestAttacksAreReal(t *testing.T) {
	testenv.NeedRoot(t)
	cmd := exec.Command(o.prog, append([]string{"attacks"}, names()...)...)
	cmd.Env = append(slices.Clone(o.Env), "ON_THE_HOST=1", "EVIL="+filepath.Join(o.evil, "evil"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := outcomes(string(out))
	for _, a := range Attacks {
		t.Run(a.Name, func(t *testing.T) {
			want := a.Host
			if want == "" {
				want = "done"
			}
			switch got[a.Name] {
			case want:
			case "ENOSYS", "ENOENT", "EAFNOSUPPORT", "nothing is there":
				t.Logf("this kernel has nothing to attack: %s: %s", a.Tries, got[a.Name])
			default:
				t.Errorf("%s: %q, want %q: is it an attack?", a.Tries, got[a.Name], want)
			}
		})
	}
}

func names() (list []string) {
	for _, a := range Attacks {
		list = append(list, a.Name)
	}
	return list
}

// outcomes takes apart what prog says of attacks.
func outcomes(said string) map[string]string {
	got := make(map[string]string)
	for line := range strings.Lines(said) {
		name, what, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		got[name] = what
	}
	return got
}
