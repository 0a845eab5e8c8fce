package linux

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict runs the filter as the kernel would. The VM of package bpf reads its
// packet in network order, so the numbers are laid down in that order.
func verdict(t *testing.T, vm *bpf.VM, arch, nr uint32, args ...uint32) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNumber:], nr)
	binary.BigEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offArgs+8*i:], a)
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

func TestFilterVerdicts(t *testing.T) {
	vm, err := bpf.NewVM(defaultFilter())
	if err != nil {
		t.Fatal(err)
	}
	allow, eperm, enosys := retAllow.Val, retEPERM.Val, retENOSYS.Val
	tests := []struct {
		name string
		arch uint32
		nr   uint32
		args []uint32
		want uint32
	}{
		{"read", auditArch, unix.SYS_READ, nil, allow},
		{"execve", auditArch, unix.SYS_EXECVE, nil, allow},
		{"futex", auditArch, unix.SYS_FUTEX, nil, allow},
		{"last of the list", auditArch, unix.SYS_MSEAL, nil, allow},
		{"mount", auditArch, unix.SYS_MOUNT, nil, eperm},
		{"unshare", auditArch, unix.SYS_UNSHARE, nil, eperm},
		{"setns", auditArch, unix.SYS_SETNS, nil, eperm},
		{"bpf", auditArch, unix.SYS_BPF, nil, eperm},
		{"keyctl", auditArch, unix.SYS_KEYCTL, nil, eperm},
		{"userfaultfd", auditArch, unix.SYS_USERFAULTFD, nil, eperm},
		{"kexec", auditArch, unix.SYS_KEXEC_LOAD, nil, eperm},
		{"module", auditArch, unix.SYS_FINIT_MODULE, nil, eperm},
		{"slices of the processor", auditArch, unix.SYS_SCHED_SETATTR, nil, eperm},
		{"perf", auditArch, unix.SYS_PERF_EVENT_OPEN, nil, eperm},
		{"unknown number", auditArch, 5000, nil, eperm},
		{"32-bit number of x86-64", auditArch, 0x40000000, nil, eperm},
		{"another architecture", auditArch ^ 1, unix.SYS_READ, nil, eperm},
		{"thread", auditArch, unix.SYS_CLONE, []uint32{unix.CLONE_VM | unix.CLONE_THREAD}, allow},
		{"clone with a user namespace", auditArch, unix.SYS_CLONE, []uint32{unix.CLONE_NEWUSER}, eperm},
		{"clone3", auditArch, unix.SYS_CLONE3, nil, enosys},
		{"io_uring", auditArch, unix.SYS_IO_URING_SETUP, nil, enosys},
		{"aio", auditArch, unix.SYS_IO_SETUP, nil, enosys},
		{"unix socket", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_UNIX}, allow},
		{"tcp6 socket", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_INET6}, allow},
		{"route socket", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_NETLINK, 3, unix.NETLINK_ROUTE}, allow},
		{"device events", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_NETLINK, 3, unix.NETLINK_KOBJECT_UEVENT}, refuse(unix.EPROTONOSUPPORT).Val},
		{"vsock socket", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_VSOCK}, refuse(unix.EAFNOSUPPORT).Val},
		{"socket pair", auditArch, unix.SYS_SOCKETPAIR, []uint32{unix.AF_UNIX}, allow},
		{"tipc socket pair", auditArch, unix.SYS_SOCKETPAIR, []uint32{unix.AF_TIPC}, refuse(unix.EAFNOSUPPORT).Val},
		{"limit of files", auditArch, unix.SYS_SETRLIMIT, []uint32{unix.RLIMIT_NOFILE}, allow},
		{"limit of core files", auditArch, unix.SYS_SETRLIMIT, []uint32{unix.RLIMIT_CORE}, retDone.Val},
		{"other limits", auditArch, unix.SYS_PRLIMIT64, []uint32{0, unix.RLIMIT_NOFILE, 1}, allow},
		{"question of core files", auditArch, unix.SYS_PRLIMIT64, []uint32{0, unix.RLIMIT_CORE, 0}, allow},
		{"new limit of core files", auditArch, unix.SYS_PRLIMIT64, []uint32{0, unix.RLIMIT_CORE, 1}, retDone.Val},
		{"tcp socket", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_INET}, allow},
		{"crypto socket", auditArch, unix.SYS_SOCKET, []uint32{unix.AF_ALG}, refuse(unix.EAFNOSUPPORT).Val},
		{"terminal input", auditArch, unix.SYS_IOCTL, []uint32{1, unix.TIOCSTI}, eperm},
		{"terminal size", auditArch, unix.SYS_IOCTL, []uint32{1, unix.TIOCGWINSZ}, allow},
		{"personality question", auditArch, unix.SYS_PERSONALITY, []uint32{0xffffffff}, allow},
		{"another personality", auditArch, unix.SYS_PERSONALITY, []uint32{6}, eperm},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := verdict(t, vm, tt.arch, tt.nr, tt.args...); got != tt.want {
				t.Errorf("verdict %#x, want %#x", got, tt.want)
			}
		})
	}
}

func TestFilterAllowsNothingThatIsNotListed(t *testing.T) {
	vm, err := bpf.NewVM(defaultFilter())
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[uint32]bool)
	for _, nr := range allowedEverywhere {
		listed[nr] = true
	}
	for _, nr := range allowedHere {
		listed[nr] = true
	}
	for _, r := range rules {
		if listed[r.nr] {
			t.Errorf("system call %d is allowed and ruled", r.nr)
		}
		listed[r.nr] = true
	}
	for nr := range uint32(1024) {
		if got := verdict(t, vm, auditArch, nr); !listed[nr] && got != retEPERM.Val || listed[nr] && got == retEPERM.Val {
			t.Errorf("system call %d: listed %t, verdict %#x", nr, listed[nr], got)
		}
	}
}

func TestFilterIsShort(t *testing.T) {
	f, err := DefaultFilter()
	if err != nil {
		t.Fatal(err)
	}
	if len(f.code) > 400 {
		t.Errorf("the filter has %d instructions: is it still a tree over spans?", len(f.code))
	}
}
