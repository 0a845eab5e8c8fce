package linux

import (
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// allowedEverywhere lists the system calls that every architecture has and a
// function may make whatever their arguments. The list is in the spirit of
// Docker's default profile for a process without capabilities: what is missing
// either needs a capability, reaches beyond the sandbox (mounts, namespaces,
// modules, keys, tracing of the kernel), takes the processor from others sooner than
// is their turn (sched_setattr), or has a history of holes that few programs are worth
// (io_uring, userfaultfd).
var allowedEverywhere = []uint32{
	unix.SYS_ACCEPT, unix.SYS_ACCEPT4, unix.SYS_BIND, unix.SYS_BRK, unix.SYS_CAPGET, unix.SYS_CAPSET,
	unix.SYS_CHDIR, unix.SYS_CHROOT, unix.SYS_CLOCK_ADJTIME, unix.SYS_CLOCK_GETRES, unix.SYS_CLOCK_GETTIME,
	unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_CONNECT, unix.SYS_COPY_FILE_RANGE,
	unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT,
	unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2, unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_EXIT,
	unix.SYS_EXIT_GROUP, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_FADVISE64, unix.SYS_FALLOCATE,
	unix.SYS_FCHDIR, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT,
	unix.SYS_FCNTL, unix.SYS_FDATASYNC, unix.SYS_FGETXATTR, unix.SYS_FLISTXATTR, unix.SYS_FLOCK,
	unix.SYS_FREMOVEXATTR, unix.SYS_FSETXATTR, unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_FSYNC,
	unix.SYS_FTRUNCATE, unix.SYS_FUTEX, unix.SYS_FUTEX_REQUEUE, unix.SYS_FUTEX_WAIT, unix.SYS_FUTEX_WAITV,
	unix.SYS_FUTEX_WAKE, unix.SYS_GET_ROBUST_LIST, unix.SYS_GETCPU, unix.SYS_GETCWD, unix.SYS_GETDENTS64,
	unix.SYS_GETEGID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETGROUPS, unix.SYS_GETITIMER,
	unix.SYS_GETPEERNAME, unix.SYS_GETPGID, unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETPRIORITY,
	unix.SYS_GETRANDOM, unix.SYS_GETRESGID, unix.SYS_GETRESUID, unix.SYS_GETRLIMIT, unix.SYS_GETRUSAGE,
	unix.SYS_GETSID, unix.SYS_GETSOCKNAME, unix.SYS_GETSOCKOPT, unix.SYS_GETTID, unix.SYS_GETTIMEOFDAY,
	unix.SYS_GETUID, unix.SYS_GETXATTR, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_INOTIFY_INIT1,
	unix.SYS_INOTIFY_RM_WATCH, unix.SYS_IOPRIO_GET, unix.SYS_IOPRIO_SET,
	unix.SYS_KILL, unix.SYS_LANDLOCK_ADD_RULE, unix.SYS_LANDLOCK_CREATE_RULESET,
	unix.SYS_LANDLOCK_RESTRICT_SELF, unix.SYS_LGETXATTR, unix.SYS_LINKAT, unix.SYS_LISTEN, unix.SYS_LISTXATTR,
	unix.SYS_LLISTXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_LSEEK, unix.SYS_LSETXATTR, unix.SYS_MADVISE,
	unix.SYS_MAP_SHADOW_STACK, unix.SYS_MEMBARRIER, unix.SYS_MEMFD_CREATE, unix.SYS_MEMFD_SECRET,
	unix.SYS_MINCORE, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_MLOCK, unix.SYS_MLOCK2, unix.SYS_MLOCKALL,
	unix.SYS_MMAP, unix.SYS_MPROTECT, unix.SYS_MQ_GETSETATTR, unix.SYS_MQ_NOTIFY, unix.SYS_MQ_OPEN,
	unix.SYS_MQ_TIMEDRECEIVE, unix.SYS_MQ_TIMEDSEND, unix.SYS_MQ_UNLINK, unix.SYS_MREMAP, unix.SYS_MSEAL,
	unix.SYS_MSGCTL, unix.SYS_MSGGET, unix.SYS_MSGRCV, unix.SYS_MSGSND, unix.SYS_MSYNC, unix.SYS_MUNLOCK,
	unix.SYS_MUNLOCKALL, unix.SYS_MUNMAP, unix.SYS_NANOSLEEP, unix.SYS_NEWFSTATAT, unix.SYS_OPENAT,
	unix.SYS_OPENAT2, unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_PIPE2,
	unix.SYS_PKEY_ALLOC, unix.SYS_PKEY_FREE, unix.SYS_PKEY_MPROTECT, unix.SYS_PPOLL, unix.SYS_PRCTL,
	unix.SYS_PREAD64, unix.SYS_PREADV, unix.SYS_PREADV2, unix.SYS_PROCESS_MADVISE,
	unix.SYS_PROCESS_MRELEASE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PSELECT6,
	unix.SYS_PTRACE, unix.SYS_PWRITE64, unix.SYS_PWRITEV, unix.SYS_PWRITEV2, unix.SYS_READ, unix.SYS_READAHEAD,
	unix.SYS_READLINKAT, unix.SYS_READV, unix.SYS_RECVFROM, unix.SYS_RECVMMSG, unix.SYS_RECVMSG,
	unix.SYS_REMAP_FILE_PAGES, unix.SYS_REMOVEXATTR, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2,
	unix.SYS_RESTART_SYSCALL, unix.SYS_RSEQ, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPENDING,
	unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGSUSPEND,
	unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_RT_TGSIGQUEUEINFO, unix.SYS_SCHED_GET_PRIORITY_MAX,
	unix.SYS_SCHED_GET_PRIORITY_MIN, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_GETATTR,
	unix.SYS_SCHED_GETPARAM, unix.SYS_SCHED_GETSCHEDULER, unix.SYS_SCHED_RR_GET_INTERVAL,
	unix.SYS_SCHED_SETAFFINITY, unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETSCHEDULER,
	unix.SYS_SCHED_YIELD, unix.SYS_SECCOMP, unix.SYS_SEMCTL, unix.SYS_SEMGET, unix.SYS_SEMOP,
	unix.SYS_SEMTIMEDOP, unix.SYS_SENDFILE, unix.SYS_SENDMMSG, unix.SYS_SENDMSG, unix.SYS_SENDTO,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_SET_TID_ADDRESS, unix.SYS_SETFSGID, unix.SYS_SETFSUID, unix.SYS_SETGID,
	unix.SYS_SETGROUPS, unix.SYS_SETITIMER, unix.SYS_SETPGID, unix.SYS_SETPRIORITY, unix.SYS_SETREGID,
	unix.SYS_SETRESGID, unix.SYS_SETRESUID, unix.SYS_SETREUID, unix.SYS_SETSID,
	unix.SYS_SETSOCKOPT, unix.SYS_SETUID, unix.SYS_SETXATTR, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SHMDT,
	unix.SYS_SHMGET, unix.SYS_SHUTDOWN, unix.SYS_SIGALTSTACK, unix.SYS_SIGNALFD4,
	unix.SYS_SPLICE, unix.SYS_STATFS, unix.SYS_STATX, unix.SYS_SYMLINKAT, unix.SYS_SYNC,
	unix.SYS_SYNC_FILE_RANGE, unix.SYS_SYNCFS, unix.SYS_SYSINFO, unix.SYS_TEE, unix.SYS_TGKILL,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_DELETE, unix.SYS_TIMER_GETOVERRUN, unix.SYS_TIMER_GETTIME,
	unix.SYS_TIMER_SETTIME, unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_GETTIME, unix.SYS_TIMERFD_SETTIME,
	unix.SYS_TIMES, unix.SYS_TKILL, unix.SYS_TRUNCATE, unix.SYS_UMASK, unix.SYS_UNAME, unix.SYS_UNLINKAT,
	unix.SYS_UTIMENSAT, unix.SYS_VMSPLICE, unix.SYS_WAIT4, unix.SYS_WAITID, unix.SYS_WRITE, unix.SYS_WRITEV,
}

// A rule decides one system call by its arguments.
type rule struct {
	nr  uint32
	arg int
	// check returns instructions that see the low half of the argument in the
	// accumulator and must end by returning.
	check []bpf.Instruction
}

// namespaceFlags are the flags of clone that make namespaces.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

var (
	retAllow  = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	retEPERM  = refuse(unix.EPERM)
	retENOSYS = refuse(unix.ENOSYS)
	retDone   = refuse(0) // the call is not made and succeeds
)

// refuse has a call fail.
func refuse(errno unix.Errno) bpf.RetConstant {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

// half loads one half of an argument: 0 the low one.
func half(arg, which uint32) bpf.Instruction {
	return bpf.LoadAbsolute{Off: offArgs + 8*arg + 4*which, Size: 4}
}

// rules are the system calls that are neither allowed nor denied outright.
var rules = []rule{
	{unix.SYS_CLONE, 0, []bpf.Instruction{ // processes and threads, no namespaces
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: namespaceFlags, SkipTrue: 1}, retAllow, retEPERM,
	}},
	// Its flags are in memory, where a filter cannot look; told that it does not
	// exist, C libraries fall back to clone.
	{unix.SYS_CLONE3, 0, []bpf.Instruction{retENOSYS}},
	{unix.SYS_IO_URING_SETUP, 0, []bpf.Instruction{retENOSYS}},
	// The machine has 65,536 events for all; databases fall back to threads.
	{unix.SYS_IO_SETUP, 0, []bpf.Instruction{retENOSYS}},
	// Unix, IP, and of netlink what asks for addresses and routes. The rest is parts
	// of the kernel that are seldom looked at, the hypervisor, and news of the
	// machine's devices.
	{unix.SYS_SOCKET, 0, []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_UNIX, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET, SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET6, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_NETLINK, SkipTrue: 3},
		half(2, 0),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.NETLINK_ROUTE, SkipTrue: 2},
		retAllow, refuse(unix.EAFNOSUPPORT), refuse(unix.EPROTONOSUPPORT),
	}},
	{unix.SYS_SOCKETPAIR, 0, []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_UNIX, SkipTrue: 1}, refuse(unix.EAFNOSUPPORT), retAllow,
	}},
	// The limit of core files stays as it is: with any other than one byte a crash is
	// handed to the machine's handler of core files, if that is a program.
	{unix.SYS_SETRLIMIT, 0, []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.RLIMIT_CORE, SkipTrue: 1}, retAllow, retDone,
	}},
	{unix.SYS_PRLIMIT64, 1, []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.RLIMIT_CORE, SkipTrue: 4},
		half(2, 0), bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 3}, // a new limit is given
		half(2, 1), bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1},
		retAllow, retDone,
	}},
	{unix.SYS_PERSONALITY, 0, []bpf.Instruction{ // Linux, with or without 32-bit layout or fixed addresses; or a question
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0008, SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x20000, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x20008, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0xffffffff, SkipTrue: 1}, retEPERM, retAllow,
	}},
	{unix.SYS_IOCTL, 1, []bpf.Instruction{ // nothing that puts words into a terminal
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCSTI, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCLINUX, SkipTrue: 1}, retAllow, retEPERM,
	}},
}

// A Filter is a seccomp filter, ready to install.
type Filter struct {
	code []unix.SockFilter
	fprog
}

// fprog is struct sock_fprog.
type fprog struct {
	len  uint16
	code *unix.SockFilter
}

// DefaultFilter assembles the filter that sandboxes get: an allow-list; a system
// call that it does not have fails with EPERM. It searches the number in a
// balanced tree: the kernel runs the filter once for each number when it is
// installed, and a chain of comparisons makes that several times dearer.
func DefaultFilter() (*Filter, error) {
	tree, err := bpf.Assemble(defaultFilter())
	if err != nil {
		return nil, err
	}
	f := &Filter{code: make([]unix.SockFilter, len(tree))}
	for i, in := range tree {
		f.code[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	f.fprog = fprog{uint16(len(f.code)), &f.code[0]}
	return f, nil
}

// Install adds to p the installation of f. It must come after PR_SET_NO_NEW_PRIVS
// or be made with CAP_SYS_ADMIN, and nothing that f denies can come after it.
func (f *Filter) Install(p *Program) {
	p.keep = append(p.keep, f)
	p.Do("install the system call filter", 0, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&f.fprog)))
}

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

func defaultFilter() []bpf.Instruction {
	type span struct { // numbers from lo to the next span's lo have one verdict
		lo  uint32
		ret []bpf.Instruction
	}
	verdict := make(map[uint32][]bpf.Instruction)
	for _, nr := range slices.Concat(allowedEverywhere, allowedHere) {
		verdict[nr] = []bpf.Instruction{retAllow}
	}
	for _, r := range rules {
		verdict[r.nr] = append([]bpf.Instruction{bpf.LoadAbsolute{Off: offArgs + 8*uint32(r.arg), Size: 4}}, r.check...)
	}
	var spans []span
	last := uint32(0)
	for nr := range verdict {
		last = max(last, nr)
	}
	for nr := uint32(0); nr <= last+1; nr++ { // beyond the last: denied, the 32-bit numbers of x86-64 too
		ret := verdict[nr]
		if ret == nil {
			ret = []bpf.Instruction{retEPERM}
		}
		if n := len(spans); n == 0 || len(ret) > 1 || len(spans[n-1].ret) > 1 || spans[n-1].ret[0] != ret[0] {
			spans = append(spans, span{nr, ret})
		}
	}
	var build func(s []span) []bpf.Instruction
	build = func(s []span) []bpf.Instruction {
		if len(s) == 1 {
			return s[0].ret
		}
		mid := len(s) / 2
		left, right := build(s[:mid]), build(s[mid:])
		code := []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: s[mid].lo, SkipTrue: uint8(len(left))}}
		if len(left) > 255 { // too far for a conditional jump
			code = []bpf.Instruction{
				bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: s[mid].lo, SkipFalse: 1},
				bpf.Jump{Skip: uint32(len(left))},
			}
		}
		return slices.Concat(code, left, right)
	}
	return slices.Concat([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		retEPERM, // another calling convention: its numbers mean something else
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
	}, build(spans))
}
