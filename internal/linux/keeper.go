package linux

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Keeper keeps all descriptors of this process open when this process is killed,
// until the processes that it guards have ended: none of them can take the end
// of its input for an end that we meant. It is a process that shares our table of
// descriptors, and waits: first for our end, which is over only when the kernel
// has sent every parent-death signal, and then for theirs.
//
// Like the process of a Program it makes prepared system calls and runs no Go
// code. Unlike that one it must not share our memory: the out-of-memory killer,
// when it chooses us, kills whoever does. Only the list of its calls is shared, in a
// mapping of its own; of the rest it has a copy, which it forgets.
type Keeper struct {
	self  int
	m     *keeperMemory
	raw   []byte // m
	clone cloneArgs
	pidfd int32

	mu   sync.Mutex
	free []*op // slots that were used; guarded by mu
	used int   // slots at the beginning that are in use or free; guarded by mu
}

// keeperMemory is a mapping shared with the keeper's process.
type keeperMemory struct {
	st       status
	self     unix.PollFd
	patience unix.Timespec // for all that are guarded together: each wait leaves what it did not use
	block    uint64
	name     [16]byte
	ops      [keeperHead + keeperSlots + 1]op
}

const (
	keeperHead     = 32      // room for what it does before it waits
	keeperSlots    = 1 << 16 // processes that can be guarded; memory is used for those that are
	keeperPatience = 10      // seconds: a process may hang in the kernel
)

// NewKeeper makes a Keeper that waits for self, a pidfd of this process.
func NewKeeper(self int) (*Keeper, error) {
	raw, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(keeperMemory{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map the memory of the keeper: %w", err)
	}
	k := &Keeper{self: self, raw: raw, m: (*keeperMemory)(unsafe.Pointer(&raw[0]))}
	k.m.ops[keeperHead].nr = unix.SYS_EXIT_GROUP
	return k, nil
}

// Close releases the memory. The keeper's process and all that it guards have ended.
func (k *Keeper) Close() { unix.Munmap(k.raw) }

// Spawn makes the keeper's process, in the cgroup (of version 2) open as cgroup
// unless that is negative. There must be one at a time; it ends by SIGKILL, or
// after us.
func (k *Keeper) Spawn(cgroup int) (*Process, error) {
	m := k.m
	m.patience, m.block = unix.Timespec{Sec: keeperPatience}, 1<<64-1
	m.self = unix.PollFd{Fd: int32(k.self), Events: unix.POLLIN}
	copy(m.name[:], "hob-keeper")
	head := m.ops[:0:keeperHead]
	do := func(nr uintptr, args ...uintptr) {
		o := op{nr: nr, flags: opIgnore}
		copy(o.args[:], args)
		head = append(head, o)
	}
	do(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&m.block)), 0, 8)
	do(unix.SYS_SETSID)
	do(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&m.name)))
	others, err := k.others()
	if err != nil {
		return nil, fmt.Errorf("make the keeper: %w", err)
	}
	for _, r := range others {
		do(unix.SYS_MADVISE, r.begin, r.end-r.begin, unix.MADV_DONTNEED)
	}
	do(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&m.self)), 1, 0, 0)
	for len(head) < keeperHead {
		do(unix.SYS_GETPID)
	}

	k.clone = cloneArgs{
		flags:      unix.CLONE_FILES | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		pidfd:      uint64(uintptr(unsafe.Pointer(&k.pidfd))),
		exitSignal: uint64(unix.SIGCHLD),
	}
	if cgroup >= 0 {
		k.clone.flags |= unix.CLONE_INTO_CGROUP
		k.clone.cgroup = uint64(cgroup)
	}
	pid := blockingSpawn(&k.clone, &m.ops[0], &m.st)
	if pid < 0 {
		return nil, fmt.Errorf("make the keeper: %w", unix.Errno(-pid))
	}
	return NewProcess(pid, int(k.pidfd))
}

// A span is a part of the address space.
type span struct{ begin, end uintptr }

// others returns what is mapped besides the keeper's memory and code, and what the
// kernel has put there. The process forgets what is in it, and leaves it mapped:
// a C library has told the kernel to write there (rseq).
func (k *Keeper) others() ([]span, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	code, memory := reflect.ValueOf(rawSpawn).Pointer(), uintptr(unsafe.Pointer(k.m))
	var spans []span
	apart := true // the last one must not grow
	for line := range strings.Lines(string(maps)) {
		var at span
		var rights, offset, device, inode, name string
		fmt.Sscanf(line, "%x-%x %s %s %s %s %s", &at.begin, &at.end, &rights, &offset, &device, &inode, &name)
		has := func(p uintptr) bool { return at.begin <= p && p < at.end }
		switch {
		case at.end == 0:
			return nil, fmt.Errorf("read /proc/self/maps: %q", line)
		case has(code), has(memory), strings.HasPrefix(name, "[v"):
			apart = true
		case apart:
			spans, apart = append(spans, at), false
		default:
			spans[len(spans)-1].end = at.end // with the gap, in which nothing is
		}
	}
	if len(spans) > keeperHead/2 {
		return nil, errors.New("the address space has too many parts")
	}
	return spans, nil
}

// guard is one process's slot in the list of a Keeper, which is a call of ppoll;
// it holds its own argument. The zero value guards nothing.
type guard struct {
	keeper *Keeper
	slot   *op
}

// pollFd is in the argument that ppoll does not have.
func (g guard) pollFd() *unix.PollFd { return (*unix.PollFd)(unsafe.Pointer(&g.slot.args[5])) }

// guard returns a slot for a process that is about to be made; clone writes its
// pidfd there. It is of zero value if there is none left.
func (k *Keeper) guard() guard {
	if k == nil {
		return guard{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	g := guard{keeper: k}
	switch n := len(k.free); {
	case n > 0:
		g.slot, k.free = k.free[n-1], k.free[:n-1]
	case k.used < keeperSlots:
		k.used++
		k.m.ops[keeperHead+k.used].nr = unix.SYS_EXIT_GROUP // before the one that is the exit now is another
		g.slot = &k.m.ops[keeperHead+k.used-1]
	default:
		return guard{}
	}
	g.slot.args = [6]uintptr{uintptr(unsafe.Pointer(g.pollFd())), 1, uintptr(unsafe.Pointer(&k.m.patience))}
	g.slot.flags = opIgnore
	*g.pollFd() = unix.PollFd{Fd: int32(k.self), Events: unix.POLLIN} // if there is no process it is not waited for
	g.set(true)
	return g
}

// set says whether the process is waited for.
func (g guard) set(on bool) {
	nr := uintptr(unix.SYS_GETPID)
	if on {
		nr = unix.SYS_PPOLL
	}
	atomic.StoreUintptr(&g.slot.nr, nr)
}

// release gives the slot back, before the pidfd is closed.
func (g guard) release() {
	if g.slot == nil {
		return
	}
	g.set(false)
	g.keeper.mu.Lock()
	defer g.keeper.mu.Unlock()
	g.keeper.free = append(g.keeper.free, g.slot)
}
