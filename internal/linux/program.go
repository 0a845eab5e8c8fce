package linux

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Program is a list of system calls that a new process makes between its birth
// and the execution of the program it was born for: enter namespaces, mount,
// pivot, drop rights, execute. The process runs no Go code at all: a few lines of
// assembly make one call after the other and stop at the first that fails. So it
// shares the daemon's memory without copying a page table, needs no stack, and
// costs what a C program would.
//
// The idea of a child that makes only prepared raw system calls is that of Go's
// own package syscall; that the calls are data is ours.
//
// A Program may end with Wait: its process then waits, before it goes on with
// the steps of another Program that Resume gives it, and so on.
//
// A Program is built by one goroutine and may be spawned, or resumed with, once.
type Program struct {
	ops   []op
	steps []string // what each op is, for errors
	keep  []any    // memory that ops point to
	st    status
	pid   int32
	pidfd int32 // unless it is in guard
	guard guard
	alive uint32 // the process shares our memory: the kernel clears it when it has executed its program or ended
	clone cloneArgs

	waits bool // it ends with Wait
	gate  gate
	then  atomic.Pointer[Program] // what Resume gave
}

// gate is where a process waits. Its layout is known to the assembly.
type gate struct {
	open    uint32 // set by Resume; a futex
	arrived uint32 // set by the process when it begins to wait
	passed  uint32 // set by the process when it goes on
	_       uint32
	first   *op // it goes on with; written before open
}

// NewProgram returns an empty program with room for about so many steps; there may
// be more. It must be on the heap, where memory does
// not move: the kernel and the new process know its addresses as plain numbers.
//
//go:noinline
func NewProgram(steps int) *Program {
	return &Program{ops: make([]op, 0, steps), steps: make([]string, 0, steps)}
}

// op is one system call as the assembly reads it. Its layout is known there.
type op struct {
	nr    uintptr
	args  [6]uintptr
	flags uintptr
}

// Flags of an op, known to the assembly.
const (
	opSave     = 1 << iota // keep the result in the register
	opUse                  // the first argument is the register
	opIgnore               // go on if it fails
	opNote                 // go on if it fails, but remember the errno: unless it is ENOENT, over what is remembered
	opMustZero             // any result but zero is a failure
	opEnd                  // not a call: fail with the errno remembered
	opWait                 // the first argument is a gate: make the call until it is open, then go on with its first op
)

// status is what the new process leaves for its parent. Its layout is known to
// the assembly.
type status struct {
	_      uintptr // the register
	_      uintptr // -errno remembered by opNote
	failed uintptr // -errno, or the result that had to be zero
	at     *op     // that failed; nil: none
}

// Option changes how a step is taken.
type Option uintptr

// Options of a step.
const (
	SaveResult   Option = opSave     // later steps can have the result as their first argument
	UseResult    Option = opUse      // the first argument is the saved result
	IgnoreError  Option = opIgnore   // go on if it fails
	MustBeZero   Option = opMustZero // fail on every result but zero
	noteAndGoOn  Option = opNote
	endOfProgram Option = opEnd
)

// Do adds the system call nr with args. step names it in errors, as in "mount /proc".
func (p *Program) Do(step string, opts Option, nr uintptr, args ...uintptr) {
	o := op{nr: nr, flags: uintptr(opts)}
	copy(o.args[:], args)
	p.ops = append(p.ops, o)
	p.steps = append(p.steps, step)
}

// String returns the address of s as a C string. It lives as long as p. A zero
// byte ends it early.
func (p *Program) String(s string) uintptr {
	b := make([]byte, len(s)+1)
	copy(b, s)
	p.keep = append(p.keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// Strings returns the address of list as C wants argv and envp.
func (p *Program) Strings(list []string) uintptr {
	ptrs := make([]uintptr, len(list)+1)
	for i, s := range list {
		ptrs[i] = p.String(s)
	}
	p.keep = append(p.keep, ptrs)
	return uintptr(unsafe.Pointer(&ptrs[0]))
}

// Pointer returns the address of *v, which must be a struct or array of plain
// numbers, and keeps it alive as long as p.
func Pointer[T any](p *Program, v *T) uintptr {
	p.keep = append(p.keep, v)
	return uintptr(unsafe.Pointer(v))
}

// Exec ends the program: it executes the first of paths that can be executed.
// If none can, the error tells of the last that exists.
func (p *Program) Exec(paths, argv, env []string) {
	a, e := p.Strings(argv), p.Strings(env)
	for _, path := range paths {
		p.Do(stepExec, noteAndGoOn, unix.SYS_EXECVE, p.String(path), a, e)
	}
	p.Do(stepExec, endOfProgram, 0)
}

// Exit ends the program of a process that executes nothing.
func (p *Program) Exit() {
	p.Do("exit", 0, unix.SYS_EXIT_GROUP, 0)
}

// Wait ends the program for now: the process waits for Resume.
func (p *Program) Wait() {
	p.waits = true
	p.Do("wait", opWait, unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.gate)), futexWait, 0, 0)
}

// Operations of a futex that only we and our processes, who share memory, know.
const (
	futexWait = 0 | 128 // FUTEX_WAIT | FUTEX_PRIVATE_FLAG
	futexWake = 1 | 128
)

// Resume lets the process that waits at the end of p, or will, go on with the
// steps of next. It is called once.
func (p *Program) Resume(next *Program) {
	p.gate.first = &next.ops[0]
	p.then.Store(next)
	atomic.StoreUint32(&p.gate.open, 1)
	// It fails if nobody waits yet.
	unix.Syscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.gate)), futexWake, 1)
}

// Waiting reports whether the process has come to the end of p.
func (p *Program) Waiting() bool { return atomic.LoadUint32(&p.gate.arrived) != 0 }

// Quit is a Program that ends a waiting process: its Spawn reaps it and returns an error.
func Quit() *Program {
	p := &Program{}
	p.Do("end unused", endOfProgram, 0)
	return p
}

// ErrGone is what Spawn returns if the process ended while it waited.
var ErrGone = errors.New("the process ended while it waited")

const stepExec = "execute"

// StepError says which step of a Program failed and why.
type StepError struct {
	Step  string
	Errno unix.Errno
}

func (e *StepError) Error() string { return e.Step + ": " + e.Errno.Error() }
func (e *StepError) Unwrap() error { return e.Errno }

// ExecFailed reports whether err says that no path of Exec could be executed, and why.
func ExecFailed(err error) (unix.Errno, bool) {
	e, ok := errors.AsType[*StepError](err)
	if !ok || e.Step != stepExec {
		return 0, false
	}
	return e.Errno, true
}

// CloneFlags are the namespaces a new process begins in, as CLONE_NEW… of clone(2).
type CloneFlags uint64

// cloneArgs is struct clone_args of clone3(2). What is not used has no name.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, _, _, _, _, _, cgroup uint64
}

// rawSpawn makes a process by clone3 that carries out the ops from first on. It
// returns its pid or -errno.
//
//go:noescape
func rawSpawn(clone *cloneArgs, size uintptr, first *op, st *status) int

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname entersyscallblock runtime.entersyscallblock
func entersyscallblock()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// blockingSpawn is rawSpawn for a process that suspends this thread until it has
// executed its program or ended: the scheduler may use the processor meanwhile.
// Nothing that the compiler may instrument stands between the two runtime calls.
//
//go:nosplit
//go:norace
func blockingSpawn(clone *cloneArgs, first *op, st *status) int {
	entersyscall()
	r := rawSpawn(clone, unsafe.Sizeof(*clone), first, st)
	exitsyscall()
	return r
}

// waitingSpawn is blockingSpawn for a process that may wait for hours: it gives
// the processor away at once.
//
//go:nosplit
//go:norace
func waitingSpawn(clone *cloneArgs, first *op, st *status) int {
	entersyscallblock()
	r := rawSpawn(clone, unsafe.Sizeof(*clone), first, st)
	exitsyscall()
	return r
}

// GuardedBy has a Keeper guard the process that Spawn makes, from its birth on.
func (p *Program) GuardedBy(k *Keeper) { p.guard = k.guard() }

// pidfdAt is where clone writes the pidfd.
func (p *Program) pidfdAt() *int32 {
	if p.guard.slot != nil {
		return &p.guard.pollFd().Fd
	}
	return &p.pidfd
}

// Process takes over what Spawn or Executed has returned.
func (p *Program) Process(pid, pidfd int) (*Process, error) {
	proc, err := NewProcess(pid, pidfd)
	if err != nil {
		p.guard.release()
		return nil, err
	}
	proc.guard = p.guard
	return proc, nil
}

// Spawn makes a process in new namespaces, in the cgroup (of version 2) open as
// cgroup unless that is negative, and waits until it has executed its program.
// The process is a child of this process, the calling thread counts as its
// parent for the parent-death signal. When a step fails, Spawn has reaped the
// process and returns a *StepError, and if the process ended while it waited,
// ErrGone. The caller owns the pidfd, which does not block.
//
// The thread is suspended as by vfork until the program is executed. This is not
// only how Spawn learns of it: the kernel's out-of-memory killer spares a process
// in this state, and with it the daemon, whose memory it still shares.
func (p *Program) Spawn(flags CloneFlags, cgroup int) (pid, pidfd int, err error) {
	return p.spawn(uint64(flags)|unix.CLONE_VFORK, cgroup)
}

func (p *Program) spawn(flags uint64, cgroup int) (pid, pidfd int, err error) {
	p.clone = cloneArgs{
		flags: flags | unix.CLONE_VM | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND |
			unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_CLEARTID,
		pidfd:      uint64(uintptr(unsafe.Pointer(p.pidfdAt()))),
		childTID:   uint64(uintptr(unsafe.Pointer(&p.alive))),
		parentTID:  uint64(uintptr(unsafe.Pointer(&p.pid))),
		exitSignal: uint64(unix.SIGCHLD),
	}
	if cgroup >= 0 {
		p.clone.flags |= unix.CLONE_INTO_CGROUP
		p.clone.cgroup = uint64(cgroup)
	}
	atomic.StoreUint32(&p.alive, 1)
	spawn := blockingSpawn
	if p.waits {
		spawn = waitingSpawn
	}
	r := spawn(&p.clone, &p.ops[0], &p.st)
	if r < 0 {
		p.guard.release()
		return 0, -1, &StepError{"clone", unix.Errno(-r)}
	}
	if flags&unix.CLONE_VFORK != 0 {
		err = p.failure()
		runtime.KeepAlive(p)
	}
	pidfd = int(*p.pidfdAt())
	if err != nil {
		if _, _, werr := waitPidfd(pidfd, 0); werr != nil {
			err = fmt.Errorf("%w, and its process was not reaped: %v", err, werr)
		}
		p.guard.release()
		unix.Close(pidfd)
		return 0, -1, err
	}
	return r, pidfd, nil
}

// failure returns the step that the process left in its status.
func (p *Program) failure() error {
	for s := p; s != nil; s = s.then.Load() {
		i := (uintptr(unsafe.Pointer(p.st.at)) - uintptr(unsafe.Pointer(&s.ops[0]))) / unsafe.Sizeof(op{})
		if p.st.at != nil && i < uintptr(len(s.ops)) {
			errno := unix.Errno(-p.st.failed)
			if errno > 4095 { // a result that should have been zero
				errno = unix.ECANCELED
			}
			return &StepError{s.steps[i], errno}
		}
		if s.waits && s.gate.passed == 0 {
			return ErrGone
		}
	}
	return nil
}

// PID is the process that Spawn has made; 0 before it has.
func (p *Program) PID() int { return int(atomic.LoadInt32(&p.pid)) }

// Executed tells what Spawn is about to return, if the process has executed its
// program: it knows before the thread of Spawn is awake. It may be called at any
// time, by any goroutine.
func (p *Program) Executed() (pid, pidfd int, ok bool) {
	pid = int(atomic.LoadInt32(&p.pid)) // written by the kernel after Spawn has written alive
	if pid == 0 || atomic.LoadUint32(&p.alive) != 0 || p.failure() != nil {
		return 0, -1, false
	}
	return pid, int(*p.pidfdAt()), true
}

// Launch is Spawn for a process that executes nothing: it returns at once, while
// the process makes its calls. p must be kept until the process has ended; when it
// has, Failed tells whether a step failed.
func (p *Program) Launch(flags CloneFlags) (*Process, error) {
	pid, pidfd, err := p.spawn(uint64(flags), -1)
	if err != nil {
		return nil, err
	}
	return p.Process(pid, pidfd)
}

// Failed returns the step at which the process of Launch, which has ended, failed.
func (p *Program) Failed() error { return p.failure() }
