package main

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// attacks has each attack under its name in sandboxtest.Attacks, where it is told
// what it tries and what it should get.
var attacks = map[string]func() error{
	"file by name":       func() error { return steal(secret()) },
	"dot-dot":            func() error { return steal(strings.Repeat("../", 40) + secret()) },
	"link of the image":  func() error { return steal(evil("link")) },
	"root of process 1":  func() error { return steal(first() + "root" + secret()) },
	"cwd of process 1":   func() error { return steal(first() + "cwd/" + strings.Repeat("../", 40) + secret()) },
	"root of another":    func() error { return steal("/proc/" + os.Getenv("VICTIM") + "/root" + secret()) },
	"environ of another": func() error { return steal("/proc/" + os.Getenv("VICTIM") + "/environ") },
	"memory of another":  opens("/proc/"+os.Getenv("VICTIM")+"/mem", unix.O_RDWR),
	"file handle":        byHandle,
	"descriptors":        throughDescriptors,

	"kcore":          readsOne("/proc/kcore"),
	"kmsg":           opens("/proc/kmsg", unix.O_RDONLY),
	"dev mem":        opens("/dev/mem", unix.O_RDWR),
	"kallsyms":       kernelAddresses,
	"sysrq":          opens("/proc/sysrq-trigger", unix.O_WRONLY),
	"core pattern":   opens("/proc/sys/kernel/core_pattern", unix.O_WRONLY),
	"sysctls":        func() error { return sweep(unix.O_WRONLY, regular, "/proc/sys") },
	"proc":           func() error { return sweep(unix.O_WRONLY, regular, "/proc") },
	"sysfs":          func() error { return sweep(unix.O_WRONLY, regular, "/sys") },
	"firmware":       func() error { return sweep(unix.O_RDONLY, regular, "/sys/firmware") },
	"devices":        devices,
	"device nodes":   func() error { return sweep(unix.O_RDONLY, device, evil("")) },
	"release agent":  opens("/sys/fs/cgroup/memory/release_agent", unix.O_WRONLY),
	"cgroup":         opens("/sys/fs/cgroup/memory/cgroup.procs", unix.O_WRONLY),
	"cgroup mount":   func() error { return mounts("cgroup", "memory") },
	"setuid program": func() error { return rights(evil("suid")) },
	"capable file":   func() error { return rights(evil("capable")) },
	"own program":    ownProgram,

	"ptrace":           traces,
	"read of memory":   func() error { return vmRead(unix.SYS_PROCESS_VM_READV) },
	"write to memory":  func() error { return vmRead(unix.SYS_PROCESS_VM_WRITEV) },
	"signal":           func() error { return try(unix.SYS_KILL, victim(), uintptr(unix.SIGCONT)) },
	"pidfd":            func() error { return try(unix.SYS_PIDFD_OPEN, victim(), 0) },
	"limits of others": func() error { return try(unix.SYS_PRLIMIT64, victim(), unix.RLIMIT_NOFILE, 0, at(new(unix.Rlimit))) },
	"processor set":    func() error { return try(unix.SYS_SCHED_GETAFFINITY, victim(), 128, at(new([128]byte))) },
	"move pages":       func() error { return try(unix.SYS_MOVE_PAGES, victim(), 0, 0, 0, 0, 0) },
	"compare":          func() error { return try(unix.SYS_KCMP, victim(), victim(), 1, 0, 0) },

	"mount":      func() error { return mounts("tmpfs", "") },
	"proc mount": func() error { return mounts("proc", "") },
	"bind mount": func() error { return unix.Mount("/", "/tmp", "", unix.MS_BIND, "") },
	"remount":    func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
	"unmount":    func() error { return try(unix.SYS_UMOUNT2, c("/sys"), unix.MNT_DETACH) },
	"fsopen":     func() error { return try(unix.SYS_FSOPEN, c("tmpfs"), 0) },
	"open tree":  func() error { return try(unix.SYS_OPEN_TREE, cwd, c("/"), unix.OPEN_TREE_CLONE) },
	"move mount": func() error { return try(unix.SYS_MOVE_MOUNT, cwd, c("/none"), cwd, c("/tmp"), 0) },
	"mount attribute": func() error {
		return try(unix.SYS_MOUNT_SETATTR, cwd, c("/none"), 0, at(&unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}), 32)
	},
	"pivot root": func() error { return try(unix.SYS_PIVOT_ROOT, c("/tmp"), c("/tmp")) },
	"chroot":     func() error { return try(unix.SYS_CHROOT, c("/tmp")) },

	"unshare user":   func() error { return unshares(unix.CLONE_NEWUSER) },
	"unshare mounts": func() error { return unshares(unix.CLONE_NEWNS) },
	"unshare others": func() error {
		return unshares(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP)
	},
	"clone user":   clone(unix.CLONE_NEWUSER),
	"clone mounts": clone(unix.CLONE_NEWNS),
	"clone3":       func() error { return try(unix.SYS_CLONE3, 0, 0) },
	"setns":        joins,
	"hostname":     func() error { return unix.Sethostname([]byte("mine")) },

	"capabilities": capabilities,
	"other user":   func() error { return try(unix.SYS_SETUID, 1) },
	"other group":  func() error { return try(unix.SYS_SETGROUPS, 1, at(new(uint32))) },

	"keyctl":      func() error { return try(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 1) },
	"add key":     func() error { return try(unix.SYS_ADD_KEY, c("user"), c("hob-attack"), c("x"), 1, ^uintptr(1)) },
	"request key": func() error { return try(unix.SYS_REQUEST_KEY, c("user"), c("hob-none"), 0, 0) },
	"bpf":         func() error { return try(unix.SYS_BPF, unix.BPF_MAP_CREATE, at(&[16]uint32{2, 4, 4, 1}), 64) },
	"perf events": func() error {
		return try(unix.SYS_PERF_EVENT_OPEN, at(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER0}), 0, ^uintptr(0), ^uintptr(0), 0)
	},
	"userfaultfd": func() error { return try(unix.SYS_USERFAULTFD, 0) },
	"io_uring":    func() error { return try(unix.SYS_IO_URING_SETUP, 1, at(new([120]byte))) },
	"aio":         func() error { return try(unix.SYS_IO_SETUP, 1, at(new(uint64))) },
	"fanotify":    func() error { return try(unix.SYS_FANOTIFY_INIT, 0, 0) },

	"kexec":         func() error { return try(unix.SYS_KEXEC_LOAD, 0, 17, 0, 0) },
	"module":        func() error { return try(unix.SYS_INIT_MODULE, 0, 0, c("")) },
	"module file":   func() error { return try(unix.SYS_FINIT_MODULE, ^uintptr(0), c(""), 0) },
	"set the clock": func() error { return try(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, at(&unix.Timespec{})) },
	"set the zone":  func() error { return try(unix.SYS_SETTIMEOFDAY, 0, at(&[2]int32{10_000, 0})) },
	"adjust clock":  func() error { return try(unix.SYS_ADJTIMEX, at(&unix.Timex{Modes: unix.ADJ_TICK, Tick: 1})) },
	"adjust clock 2": func() error {
		return try(unix.SYS_CLOCK_ADJTIME, unix.CLOCK_REALTIME, at(&unix.Timex{Modes: unix.ADJ_TICK, Tick: 1}))
	},
	"reboot":     func() error { return try(unix.SYS_REBOOT, 0, 0, 0, 0) },
	"swap":       func() error { return try(unix.SYS_SWAPON, c("/none"), 0) },
	"accounting": func() error { return try(unix.SYS_ACCT, c("/none")) },
	"kernel log": func() error { return try(unix.SYS_SYSLOG, 10, 0, 0) },
	"quota":      func() error { return try(unix.SYS_QUOTACTL, 0, c("/none"), 0, 0) },

	"priority":          func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -20) },
	"real time":         func() error { return try(unix.SYS_SCHED_SETSCHEDULER, 0, 1, at(&[1]int32{1})) },
	"real time input":   func() error { return try(unix.SYS_IOPRIO_SET, 1, 0, 1<<13) },
	"personality":       func() error { return try(unix.SYS_PERSONALITY, 0x0400000) },
	"terminal input":    typesWords,
	"program in memory": fromMemory,
	"core files":        coreFiles,
	"block device":      func() error { return makesNode(unix.S_IFBLK) },
	"character device":  func() error { return makesNode(unix.S_IFCHR) },
	"raw socket":        socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
	"packet socket":     socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
	"crypto socket":     socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
	"vsock socket":      socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	"device events":     socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT),
	"firewall":          socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER),
	"network device":    routing(unix.RTM_SETLINK, unix.IfInfomsg{Index: noDevice}),
	"new device":        routing(unix.RTM_NEWLINK, unix.IfInfomsg{}, unix.IFLA_IFNAME, 'h', 'o', 'b', 0),
	"network address":   routing(unix.RTM_NEWADDR, unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: 32, Index: noDevice}, unix.IFA_LOCAL, 10, 1, 2, 3),
	"network route": routing(unix.RTM_NEWROUTE, unix.RtMsg{Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC, Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST},
		unix.RTA_OIF, 0, 0, 0, noDevice>>24),
	"neighbour": routing(unix.RTM_NEWNEIGH, struct {
		Family uint8
		_      [3]uint8
		Index  int32
		State  uint16
		_      [2]uint8
	}{Family: unix.AF_INET, Index: noDevice, State: unix.NUD_PERMANENT}, unix.NDA_DST, 10, 1, 2, 3),
	"bandwidth": routing(unix.RTM_DELQDISC, struct {
		Family                uint8
		_                     [3]uint8
		Index                 int32
		Handle, Parent, Extra uint32
	}{Index: noDevice}),
	"packet mark":        option(unix.SOL_SOCKET, unix.SO_MARK),
	"foreign address":    option(unix.SOL_IP, unix.IP_TRANSPARENT),
	"network of another": opens("/proc/"+os.Getenv("VICTIM")+"/net/tcp", unix.O_RDONLY),
	"abstract socket":    connect("unix", "ABSTRACT"),
	"port of the host":   connect("tcp", "PORT"),
	"unix socket":        connect("unix", "SOCKET"),
	"shared memory":      func() error { return try(unix.SYS_SHMGET, key(), 0, 0) },
	"message queue":      func() error { return try(unix.SYS_MSGGET, key(), 0) },
	"semaphores":         func() error { return try(unix.SYS_SEMGET, key(), 0, 0) },
	"posix queue":        func() error { return try(unix.SYS_MQ_OPEN, c(os.Getenv("QUEUE")), unix.O_RDONLY, 0, 0) },
	"dev shm":            func() error { return steal("/dev/shm/" + os.Getenv("QUEUE")) },
	"x32 calls":          x32Mount,
	"I/O ports":          ioPorts,
	"I/O level":          ioLevel,
	"32-bit calls":       compatGetpid,
}

// cwd is AT_FDCWD as an argument.
const cwd = ^uintptr(99)

// evil is a file of the image that is no good.
func evil(name string) string { return cmp.Or(os.Getenv("EVIL"), "/evil") + "/" + name }

// first is the directory of the first process, or of one that is not the host's first.
func first() string {
	if onTheHost() {
		return "/proc/" + os.Getenv("VICTIM") + "/"
	}
	return "/proc/1/"
}

// devices opens all that /dev has and that is not for everybody. On the host that
// could be a watchdog: there the kernel's log will do.
func devices() error {
	if onTheHost() {
		return opens("/dev/kmsg", unix.O_RDONLY)()
	}
	return sweep(unix.O_RDONLY, device, "/dev")
}

func device(m fs.FileMode, name string) bool {
	if m&fs.ModeDevice == 0 || strings.HasPrefix(name, "/dev/pts/") {
		return false
	}
	switch name {
	case "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty":
		return false
	}
	return true
}

func key() uintptr {
	n, _ := strconv.Atoi(os.Getenv("KEY"))
	return uintptr(n)
}

func readsOne(name string) func() error {
	return func() error {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.Read(make([]byte, 1))
		return err
	}
}

// byHandle opens the root directory of the file system by its inode number: it is
// that of the host where layers are on the same one.
func byHandle() error {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0)
	if err != nil {
		return err
	}
	root, err := unix.Open("/", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	fd, err := unix.OpenByHandleAt(root, handle, unix.O_RDONLY)
	unix.Close(fd)
	return err
}

// throughDescriptors walks from every open descriptor, its own too.
func throughDescriptors() error {
	for fd := range 1024 {
		for _, dir := range []string{"/proc/self/fd/", "/proc/1/fd/"} {
			if err := steal(dir + strconv.Itoa(fd) + "/" + strings.Repeat("../", 40) + secret()); err == nil {
				return nil
			}
		}
	}
	if onTheHost() { // with a descriptor to walk from
		dir, err := unix.Open("/", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return steal("/proc/self/fd/" + strconv.Itoa(dir) + secret())
	}
	return errors.New("none of them")
}

func kernelAddresses() error {
	text, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if addr, _, _ := strings.Cut(line, " "); strings.Trim(addr, "0") != "" {
			return nil
		}
	}
	return errors.New("no address")
}

// ownProgram writes to the program that runs, and to that of process 1.
func ownProgram() error {
	var err error
	for _, name := range []string{"/proc/1/exe", "/proc/self/exe"} {
		for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR} {
			if err = opens(name, flags)(); err == nil {
				return nil
			}
		}
	}
	return err
}

func traces() error {
	runtime.LockOSThread()
	err := try(unix.SYS_PTRACE, unix.PTRACE_SEIZE, victim(), 0, 0)
	if err == nil {
		unix.PtraceDetach(int(victim()))
	}
	return err
}

// vmRead reads from the program of another, or writes where nothing is.
func vmRead(nr uintptr) error {
	word := new([8]byte)
	local, remote := unix.Iovec{Base: &word[0], Len: 8}, [2]uintptr{0x400000, 8}
	if nr == unix.SYS_PROCESS_VM_WRITEV {
		remote[0] = 8
	}
	return try(nr, victim(), at(&local), 1, at(&remote), 1, 0)
}

func mounts(fstype, data string) error {
	return unix.Mount("x", "/tmp", fstype, 0, data)
}

func unshares(flags int) error {
	if flags == unix.CLONE_NEWUSER { // not from a process with threads
		return clone(unix.CLONE_NEWUSER)()
	}
	runtime.LockOSThread()
	return unix.Unshare(flags)
}

func joins() error {
	runtime.LockOSThread()
	fd, err := unix.Open("/proc/self/ns/uts", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return unix.Setns(fd, unix.CLONE_NEWUTS)
}

// capabilities takes all that this process may have.
func capabilities() error {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	sysAdmin := &[2]unix.CapUserData{{Effective: 1 << unix.CAP_SYS_ADMIN, Permitted: 1 << unix.CAP_SYS_ADMIN}}
	return try(unix.SYS_CAPSET, at(header), at(sysAdmin))
}

// typesWords puts a letter into a terminal, as if it had been typed there.
func typesWords() error {
	pt, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(pt, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetInt(pt, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	tty, err := unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	letter := [1]byte{'x'}
	return try(unix.SYS_IOCTL, uintptr(tty), 1<<40|unix.TIOCSTI, at(&letter)) // the high half is nothing to the kernel
}

// fromMemory executes a copy of this program that no file system holds, which
// mounts something.
func fromMemory() error {
	fd, err := unix.MemfdCreate("x", 0)
	if err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, text); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/fd/"+strconv.Itoa(fd), []string{"x", "attack", "mount"}, os.Environ())
}

// coreFiles has crashes of this process given to what the machine does with them: a
// limit of one byte is the only one that keeps them from a program that takes them
// over a pipe.
func coreFiles() error {
	for _, most := range []uint64{0, 4096} {
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: most, Max: most})
		var now unix.Rlimit
		if err := try(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_CORE, 0, at(&now)); err != nil {
			return err
		}
		if now.Cur != 1 {
			return nil
		}
	}
	return errors.New("it stays 1")
}

// makesNode makes a device, and opens one that can be read by every root.
func makesNode(kind uint32) error {
	dev := unix.Mkdev(1, 11) // the kernel's log
	if kind == unix.S_IFBLK {
		dev = disk()
	}
	name := filepath.Join("/tmp", "node-"+strconv.Itoa(os.Getpid())+strconv.FormatInt(time.Now().UnixNano(), 36))
	if err := unix.Mknod(name, kind|0o600, int(dev)); err != nil {
		return err
	}
	defer os.Remove(name)
	if kind == unix.S_IFBLK {
		return nil // some machines open their disk for nobody
	}
	return opens(name, unix.O_RDONLY)()
}

// disk is the number of a disk that this machine has.
func disk() uint64 {
	text, _ := os.ReadFile("/proc/partitions")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 4 && f[0] != "major" {
			major, _ := strconv.Atoi(f[0])
			minor, _ := strconv.Atoi(f[1])
			return unix.Mkdev(uint32(major), uint32(minor))
		}
	}
	return unix.Mkdev(7, 0)
}
