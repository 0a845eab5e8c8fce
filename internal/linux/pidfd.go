package linux

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Process is a child made by Program.Spawn, held by its pidfd: a PID that is
// reused never confuses it.
type Process struct {
	PID  int
	file *os.File

	mu    sync.Mutex
	guard guard // guarded by mu
}

// NewProcess takes over a pidfd of Program.Spawn.
func NewProcess(pid, pidfd int) (*Process, error) {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	return &Process{PID: pid, file: os.NewFile(uintptr(pidfd), "pidfd")}, nil
}

// Ended is how a process ended.
type Ended struct {
	Code    int         // exit status; -1 if a signal ended it
	Signal  unix.Signal // 0: it exited
	CPUTime time.Duration
}

// Wait waits for the end of the process without holding a thread, reaps it, and
// releases the pidfd. It is called once.
func (p *Process) Wait() (Ended, error) {
	defer p.file.Close()
	defer p.unguard()
	conn, err := p.file.SyscallConn()
	if err != nil {
		return Ended{}, err
	}
	var e Ended
	var werr error
	err = conn.Read(func(fd uintptr) bool {
		var over bool
		e, over, werr = waitPidfd(int(fd), unix.WNOHANG)
		return over || werr != nil
	})
	if werr != nil {
		err = werr
	}
	if err != nil {
		return e, fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	return e, nil
}

// Guarded says whether the Keeper is to wait for the end of the process, if it has
// one: it does unless told otherwise.
func (p *Process) Guarded(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.guard.slot != nil {
		p.guard.set(on)
	}
}

func (p *Process) unguard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.guard.release()
	p.guard = guard{}
}

// Signal sends sig to the process. A process that has ended is no error.
func (p *Process) Signal(sig unix.Signal) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return nil // Wait has closed it: the process has ended
	}
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return nil
	}
	if serr == unix.ESRCH {
		return nil
	}
	return serr
}

// Handles reports whether the process does something of its own when it gets sig.
// The first process of a PID namespace is not hurt by a signal that it leaves to
// the kernel.
func (p *Process) Handles(sig unix.Signal) bool {
	for line := range strings.Lines(readFile("/proc/" + strconv.Itoa(p.PID) + "/status")) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			caught, _ := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return caught>>(sig-1)&1 != 0
		}
	}
	return false // it has ended
}

// waitPidfd reaps the process of pidfd if it has ended.
func waitPidfd(pidfd, options int) (e Ended, over bool, err error) {
	var info unix.Siginfo
	var usage unix.Rusage
	for {
		err = unix.Waitid(unix.P_PIDFD, pidfd, &info, unix.WEXITED|options, &usage)
		if err != unix.EINTR {
			break
		}
	}
	if err == unix.EAGAIN { // a pidfd that does not block says so
		return e, false, nil
	}
	if err != nil || info.Signo == 0 {
		return e, false, err
	}
	e = EndOf(&info)
	e.CPUTime = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	return e, true, nil
}

// EndOf reads what waitid has told of a process; of nothing, it is the end by SIGKILL.
func EndOf(info *unix.Siginfo) (e Ended) {
	if info.Signo == 0 {
		return Ended{Code: -1, Signal: unix.SIGKILL}
	}
	// On 64-bit machines pid, uid and status of a SIGCHLD follow the 16 bytes that Siginfo names.
	status := (*struct {
		head             [16]byte
		pid, uid, status int32
	})(unsafe.Pointer(info)).status
	if info.Code == cldExited {
		e.Code = int(status)
	} else {
		e.Code, e.Signal = -1, unix.Signal(status)
	}
	return e
}

const cldExited = 1 // CLD_EXITED, a code of siginfo

// OpenPidfdSelf returns a pidfd of this process, which becomes readable when the
// process has ended.
func OpenPidfdSelf() (int, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return -1, fmt.Errorf("open a pidfd of this process: %w", err)
	}
	return fd, nil
}

// HasEnded reports whether the process with this PID has ended: there is none, or
// its parent has not reaped it yet.
func HasEnded(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err == unix.ESRCH
	}
	defer unix.Close(fd)
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0
}
