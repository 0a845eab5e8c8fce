package ns

import (
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hob/internal/linux"
	"hob/internal/sandbox"
)

// mounts of a sandbox that depend on nothing but the machine.
const (
	safe       = unix.MS_NOSUID | unix.MS_NODEV
	safeNoExec = safe | unix.MS_NOEXEC
)

// A mask hides a path below /proc or /sys, or makes it read-only.
type mask struct {
	path     string
	dir      bool
	readOnly bool
}

// findMasks returns what of the usual masks this machine has. They are those of
// Docker: what tells of the machine, and what would change it.
func findMasks() []mask {
	var masks []mask
	add := func(readOnly bool, paths ...string) {
		for _, p := range paths {
			if st, err := os.Stat(p); err == nil {
				masks = append(masks, mask{p, st.IsDir(), readOnly})
			}
		}
	}
	add(true, "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
	add(false, "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/pressure", "/sys/firmware", "/sys/devices/virtual/powercap")
	return masks
}

// cwd is AT_FDCWD as an argument.
var cwd = ^uintptr(99) // -100

// givens are what a process gets by descriptors of the daemon, which it has as
// its own or shares.
type givens struct {
	in, out, err int // its streams
	root         int // a detached mount; negative: a copy of the one at path in the vault
	path         string
	host         string
	net          int // a network namespace; negative: the daemon's own
	dev          int // a detached /dev; negative: a copy of the one in the lobby
	userns       int // a user namespace; negative: the machine's
	ids          int // machine's ID of its ID 0
	sockets      int // a detached mount for Spec.Sockets; negative: none
}

// stepsOfStart is about how many steps a whole start has.
const stepsOfStart = 128

// born is what a process does first, whatever it will be.
func (d *Driver) born(p *linux.Program) {
	d.dieWithDaemon(p)
	p.Do("begin a session", 0, unix.SYS_SETSID)
}

// prepare makes the process that of spec in all but what it executes: it needs
// neither Args nor Env. shares says that the process has the daemon's descriptors
// themselves and not copies.
func (d *Driver) prepare(p *linux.Program, spec sandbox.Spec, g givens, shares bool) {
	str, fd := p.String, func(n int) uintptr { return uintptr(n) }
	empty := str("")
	mount := func(fstype, at string, flags uintptr, data string) {
		p.Do("mount "+fstype+" at "+at, 0, unix.SYS_MOUNT, str(fstype), str(at), str(fstype), flags, str(data))
	}

	if shares {
		p.Do("have descriptors of its own", 0, unix.SYS_UNSHARE, unix.CLONE_FILES)
	}
	if g.net >= 0 {
		p.Do("enter the network", 0, unix.SYS_SETNS, fd(g.net), unix.CLONE_NEWNET)
	}

	// The root. From umount on nothing of the machine's files can be named.
	if g.root < 0 {
		p.Do("enter the vault", 0, unix.SYS_SETNS, fd(d.vaultNS), unix.CLONE_NEWNS)
		p.Do("take the root", linux.SaveResult, unix.SYS_OPEN_TREE, cwd, str(g.path), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		p.Do("leave the vault", 0, unix.SYS_SETNS, fd(d.lobbyNS), unix.CLONE_NEWNS)
	}
	p.Do("have mounts of its own", 0, unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	root, use := fd(g.root), linux.Option(0)
	if g.root < 0 {
		root, use = 0, linux.UseResult
	}
	p.Do("mount the root", use, unix.SYS_MOVE_MOUNT, root, empty, cwd, str(lobbyRoot), unix.MOVE_MOUNT_F_EMPTY_PATH)
	dev, use := fd(g.dev), linux.Option(0)
	if g.dev < 0 {
		dev, use = 0, linux.UseResult
		p.Do("take /dev", linux.SaveResult, unix.SYS_OPEN_TREE, cwd, str(lobbyDev), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if g.userns >= 0 { // before Linux 6.3 they are shown as nobody's
			shown := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(g.userns)}
			p.Do("show whose devices they are", linux.UseResult|linux.IgnoreError, unix.SYS_MOUNT_SETATTR, 0, empty, unix.AT_EMPTY_PATH, linux.Pointer(p, shown), unix.MOUNT_ATTR_SIZE_VER0)
		}
	}
	p.Do("enter the root", 0, unix.SYS_CHDIR, str(lobbyRoot))
	dot := str(".")
	p.Do("change roots", 0, unix.SYS_PIVOT_ROOT, dot, dot)
	p.Do("leave the old root", 0, unix.SYS_UMOUNT2, dot, unix.MNT_DETACH)
	slash := str("/")
	p.Do("enter the new root", 0, unix.SYS_CHDIR, slash)

	p.Do("set the file mode mask", 0, unix.SYS_UMASK, 0o022)
	mount("proc", "/proc", safeNoExec, "")
	mount("sysfs", "/sys", safeNoExec|unix.MS_RDONLY, "")
	p.Do("mount /dev", use, unix.SYS_MOVE_MOUNT, dev, empty, cwd, str("/dev"), unix.MOVE_MOUNT_F_EMPTY_PATH)
	owner := ",uid=" + strconv.Itoa(g.ids) + ",gid=" + strconv.Itoa(g.ids)
	mount("devpts", "/dev/pts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid="+strconv.Itoa(g.ids)) // each is of who opens it
	mount("mqueue", "/dev/mqueue", safeNoExec, "")
	scratch := "mode=1777,size=" + strconv.FormatInt(int64(spec.TmpSize), 10) + ",nr_inodes=" + strconv.Itoa(spec.TmpInodes) + owner
	for _, dir := range spec.Scratches() {
		mount("tmpfs", dir, safe, scratch)
	}
	if g.sockets >= 0 {
		mountSockets(p, spec, g)
	}
	d.mask(p)

	p.Do("set the host name", 0, unix.SYS_SETHOSTNAME, str(g.host), uintptr(len(g.host)))
	// The daemon's descriptors are open still, and links of the image may lead into
	// /proc: one to a descriptor would lead out of the root.
	p.Do("enter the working directory "+spec.Dir, linux.SaveResult, unix.SYS_OPENAT2, cwd, str(spec.Dir), linux.Pointer(p, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	}), unix.SizeofOpenHow)
	p.Do("enter it", linux.UseResult, unix.SYS_FCHDIR, 0)

	limit := func(what string, resource int, most uint64) {
		var own unix.Rlimit
		unix.Getrlimit(resource, &own)
		most = min(most, own.Max) // more than the daemon's own needs a capability that it may lack
		p.Do("limit "+what, 0, unix.SYS_PRLIMIT64, 0, uintptr(resource), linux.Pointer(p, &unix.Rlimit{Cur: most, Max: most}), 0)
	}
	limit("core files", unix.RLIMIT_CORE, 1) // none, and with 0 the machine's program for them would get them: see core(5)
	limit("open files", unix.RLIMIT_NOFILE, uint64(spec.Files))
	limit("locked memory", unix.RLIMIT_MEMLOCK, uint64(spec.LockedMemory))
	limit("pending signals", unix.RLIMIT_SIGPENDING, uint64(spec.PendingSignals))
	limit("message queues", unix.RLIMIT_MSGQUEUE, uint64(spec.MessageQueues))

	d.dropRights(p, spec.User, g.userns)
	d.dieWithDaemon(p) // a change of IDs has cleared it

	p.Do("connect standard input", 0, unix.SYS_DUP3, fd(g.in), 0, 0)
	p.Do("connect standard output", 0, unix.SYS_DUP3, fd(g.out), 1, 0)
	p.Do("connect standard error", 0, unix.SYS_DUP3, fd(g.err), 2, 0)
	p.Do("close the other descriptors", 0, unix.SYS_CLOSE_RANGE, 3, 1<<32-1, 0)
	if d.fence != nil {
		d.fence.Install(p, "/dev/mqueue")
		p.Do("close those of the fence", 0, unix.SYS_CLOSE_RANGE, 3, 1<<32-1, 0)
	}
	d.filter.Install(p)
}

// execute ends the program of a prepared process.
func execute(p *linux.Program, spec sandbox.Spec) {
	p.Do("let signals in", 0, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, linux.Pointer(p, new(uint64)), 0, 8)
	p.Exec(spec.Programs(), spec.Args, spec.Env)
}

// mountSockets mounts the directory for sockets. In a directory that was empty a
// moment ago the process makes what is missing of its path.
func mountSockets(p *linux.Program, spec sandbox.Spec, g givens) {
	at, ok := scratchOf(spec, spec.Sockets)
	if ok {
		for part := range strings.SplitSeq(strings.TrimPrefix(spec.Sockets[len(at):], "/"), "/") {
			if part == "" {
				break
			}
			at = path.Join(at, part)
			dir := p.String(at)
			p.Do("make "+at, linux.IgnoreError, unix.SYS_MKDIRAT, cwd, dir, 0o755) // a volume may be there
			p.Do("give "+at+" to root", linux.IgnoreError, unix.SYS_FCHOWNAT, cwd, dir, uintptr(g.ids), uintptr(g.ids), unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	p.Do("mount the directory for sockets at "+spec.Sockets, 0, unix.SYS_MOVE_MOUNT, uintptr(g.sockets), p.String(""), cwd, p.String(spec.Sockets), unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// dieWithDaemon asks the kernel to kill the process when the daemon's thread
// ends, then ends it if the daemon ended before.
func (d *Driver) dieWithDaemon(p *linux.Program) {
	p.Do("die with the daemon", 0, unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	poll := linux.Pointer(p, &unix.PollFd{Fd: int32(d.self), Events: unix.POLLIN})
	p.Do("find the daemon alive", linux.MustBeZero, unix.SYS_PPOLL, poll, 1, linux.Pointer(p, &unix.Timespec{}), 0, 0)
}

// mask hides and protects what findMasks found.
func (d *Driver) mask(p *linux.Program) {
	null, empty, none := p.String("/dev/null"), p.String("/dev/"+hidden), p.String("")
	for _, m := range d.masks {
		at := p.String(m.path)
		switch {
		case m.readOnly:
			p.Do("bind "+m.path, 0, unix.SYS_MOUNT, at, at, 0, unix.MS_BIND|unix.MS_REC, 0)
			p.Do("protect "+m.path, 0, unix.SYS_MOUNT, none, at, 0, unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|safeNoExec, 0)
		case m.dir:
			p.Do("hide "+m.path, 0, unix.SYS_MOUNT, empty, at, 0, unix.MS_BIND, 0)
		default:
			p.Do("hide "+m.path, 0, unix.SYS_MOUNT, null, at, 0, unix.MS_BIND, 0)
		}
	}
}

// dropRights makes the process the user, without capabilities now and for ever.
func (d *Driver) dropRights(p *linux.Program, user sandbox.User, userns int) {
	if userns >= 0 {
		// All namespaces belong to the machine's root. In this user namespace, not
		// even root has a right over any of them.
		p.Do("enter the user namespace", 0, unix.SYS_SETNS, uintptr(userns), unix.CLONE_NEWUSER)
		for c := range d.lastCap + 1 { // entering filled the bounding set again
			p.Do("drop a capability", 0, unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c))
		}
	}
	groups := append([]uint32{}, user.Groups...)
	var list uintptr
	if len(groups) > 0 {
		list = linux.Pointer(p, &groups[0])
	}
	p.Do("set the groups", 0, unix.SYS_SETGROUPS, uintptr(len(groups)), list)
	p.Do("set the group", 0, unix.SYS_SETRESGID, uintptr(user.GID), uintptr(user.GID), uintptr(user.GID))
	p.Do("set the user", 0, unix.SYS_SETRESUID, uintptr(user.UID), uintptr(user.UID), uintptr(user.UID))
	p.Do("get no new rights", 0, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	p.Do("drop all capabilities", 0, unix.SYS_CAPSET, linux.Pointer(p, header), linux.Pointer(p, new([2]unix.CapUserData)))
}
