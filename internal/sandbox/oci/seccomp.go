package oci

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowed are the system calls that a function may make whatever their arguments:
// those of linux.DefaultFilter, by name, of every processor. A runtime program
// leaves out those that it does not know.
const allowed = `
accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown chroot clock_adjtime clock_getres clock_gettime
clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr
fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list getcpu getcwd
getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch
inotify_init inotify_init1 inotify_rm_watch ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise
map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt
mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync
munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_getfd pidfd_open pidfd_send_signal pipe pipe2
pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 process_madvise process_mrelease process_vm_readv
process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg
remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto
set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid
setreuid setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 splice stat statfs
statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
utimensat utimes vfork vmsplice wait4 waitid write writev
`

// namespaceFlags are the flags of clone that make namespaces.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// systemCalls is the filter that sandboxes get which use the machine's kernel:
// linux.DefaultFilter in the words of the OCI. They have no way to say some of it:
// what ioctl puts into terminals is not looked at, as there are none but the
// sandbox's; and some calls fail with EPERM that fail in other words there. All
// comparisons leave out the high half of a number, as the kernel does.
func systemCalls() *specs.LinuxSeccomp {
	refused, unknown := uint(unix.EPERM), uint(unix.ENOSYS)
	f := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, DefaultErrnoRet: &refused, Architectures: architectures(),
		Syscalls: []specs.LinuxSyscall{
			{Names: append(strings.Fields(allowed), "ioctl"), Action: specs.ActAllow},
			// Told that they do not exist, programs take another way.
			{Names: []string{"clone3", "io_uring_setup", "io_setup"}, Action: specs.ActErrno, ErrnoRet: &unknown},
		},
	}
	allow := func(name string, args ...specs.LinuxSeccompArg) {
		f.Syscalls = append(f.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args})
	}
	const low = 1<<32 - 1
	is := func(arg uint, mask, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: arg, Op: specs.OpMaskedEqual, Value: mask, ValueTwo: value}
	}
	allow("clone", is(0, namespaceFlags, 0))
	for _, persona := range []uint64{0, 0x0008, 0x20000, 0x20008, low} { // Linux, with or without 32-bit layout or fixed addresses; or a question
		allow("personality", is(0, low, persona))
	}
	for _, family := range []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6} {
		allow("socket", is(0, low, family))
	}
	allow("socket", is(0, low, unix.AF_NETLINK), is(2, low, unix.NETLINK_ROUTE))
	allow("socketpair", is(0, low, unix.AF_UNIX))
	// Every limit but that of core files (4), of which only the question is.
	for _, limits := range []struct{ first, count uint64 }{{0, 4}, {5, 1}, {6, 2}, {8, 8}} {
		allow("setrlimit", is(0, low&^(limits.count-1), limits.first))
		allow("prlimit64", is(1, low&^(limits.count-1), limits.first))
	}
	allow("prlimit64", is(1, low, unix.RLIMIT_CORE), specs.LinuxSeccompArg{Index: 2, Op: specs.OpEqualTo})
	return f
}
