package linux

import "golang.org/x/sys/unix"

// A Fence keeps a process, and all that come of it, to the files below one directory
// (Landlock). Where mounts and a root of its own already do, it holds for what comes
// in another way: a descriptor of a directory outside, or /proc/self/exe of a process
// that has not yet executed anything.
type Fence struct {
	all uint64
}

// NewFence returns nil if this kernel has none that lets files be renamed from one
// directory to another (Linux 5.19).
func NewFence() *Fence {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errno != 0 || version < 2:
		return nil
	case version == 2:
		return &Fence{unix.LANDLOCK_ACCESS_FS_REFER<<1 - 1}
	}
	return &Fence{unix.LANDLOCK_ACCESS_FS_TRUNCATE<<1 - 1}
}

// Install adds to p the steps that keep the process to what is below its root, and
// to queues, which the kernel opens by a mount of its own that is not below it. They
// must come after PR_SET_NO_NEW_PRIVS, and when no descriptor but 0 to 2 is open;
// the process must close those above 2 later. A nil Fence does nothing.
func (f *Fence) Install(p *Program, queues string) {
	if f == nil {
		return
	}
	for _, dir := range []string{"/", queues} { // as 3 and 4
		p.Do("look at "+dir, SaveResult, unix.SYS_OPENAT, ^uintptr(0), p.String(dir), unix.O_PATH|unix.O_CLOEXEC)
	}
	p.Do("begin a fence", SaveResult, unix.SYS_LANDLOCK_CREATE_RULESET, Pointer(p, &unix.LandlockRulesetAttr{Handled_access_fs: f.all}), 8, 0)
	for fd := int32(3); fd <= 4; fd++ {
		below := Pointer(p, &unix.LandlockPathBeneathAttr{Allowed_access: f.all, Parent_fd: fd})
		p.Do("allow what is inside", UseResult, unix.SYS_LANDLOCK_ADD_RULE, 0, unix.LANDLOCK_RULE_PATH_BENEATH, below, 0)
	}
	p.Do("close the fence", UseResult, unix.SYS_LANDLOCK_RESTRICT_SELF, 0, 0)
}
