package oci

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/network"
	"hob/internal/sandbox"
)

// box implements sandbox.Sandbox.
type box struct {
	d        *Driver
	id       string
	host     string         // its name
	dir      string         // its bundle
	name     string         // of its cgroup
	reaper   *linux.Program // what process does; the kernel writes to it as long as that lives
	process  *linux.Process // has the sandbox in its PID namespace; nil: none yet
	firstPID int            // number of the sandbox's first process in that namespace
	first    unix.Siginfo   // how that one ended, written by the reaper; zero: it was killed with it
	cgroup   *linux.Cgroup  // has the limits; nil: none yet
	inner    *linux.Cgroup  // the runtime program's, with the processes
	input    *linux.Pipe    // std.Stdin
	status   *os.File       // ends when the seed has executed a program, or says why it could not
	std      sandbox.Stdio
	slot     *network.Slot // its network, if it has a device; nil: a loopback, or the node's
	sockets  *os.File      // the mount at Spec.Sockets; nil: none
	listener net.Listener  // on Spec.Listen; nil: none
	users    users
	hostNet  bool
	from     faas.Start

	ended   chan struct{} // closed when the process is reaped and exit, failed are set
	exit    faas.Exit
	failed  error
	stop    sync.Once
	ending  chan struct{} // closed by the first Stop
	stopped chan struct{} // closed when nothing is left
	stopErr error

	mu    sync.Mutex
	oom   *linux.OOMCounter // nil: none; guarded by mu, as usage
	usage sandbox.Usage     // last known

	freezing sync.Mutex // held by who freezes or thaws
}

// runtimeID is what the runtime program calls the sandbox: unlike Spec.ID it is
// never too long for a path.
func (b *box) runtimeID() string { return filepath.Base(b.dir) }

// watch waits for the end of the reaper, which ends with the first process of the
// sandbox. With it the kernel has ended all others of its PID namespace before it
// lets us know.
func (b *box) watch() {
	_, b.failed = b.process.Wait()
	e := linux.EndOf(&b.first)
	b.exit = faas.Exit{Code: e.Code}
	if e.Signal != 0 {
		b.exit = faas.Exit{Code: 128 + int(e.Signal), Signal: unix.SignalName(e.Signal)}
	}
	if b.exit.Code != 0 { // whoever succeeds is not asked what it cost
		b.exit.OOM = b.Usage().OOMKills > 0
	}
	runtime.KeepAlive(b.reaper)
	close(b.ended)
}

func (b *box) ID() string             { return b.id }
func (b *box) Stdio() sandbox.Stdio   { return b.std }
func (b *box) Start() faas.Start      { return b.from }
func (b *box) Listener() net.Listener { return b.listener }

func (b *box) Wait(ctx context.Context) (faas.Exit, error) {
	select {
	case <-b.ended:
		return b.exit, b.failed
	case <-ctx.Done():
		return faas.Exit{}, context.Cause(ctx)
	}
}

func (b *box) Stop(ctx context.Context, grace time.Duration) error {
	b.stop.Do(func() {
		close(b.ending)
		b.d.work.Go(func() { b.end(grace) })
	})
	select {
	case <-b.stopped:
		return b.stopErr
	case <-ctx.Done():
		return fmt.Errorf("stop sandbox %s: %w", b.id, context.Cause(ctx))
	}
}

// discarded stops a sandbox that nobody got.
func (b *box) discarded() {
	if err := b.Stop(context.Background(), 0); err != nil {
		b.d.cfg.Log.Error("a blank is left", "sandbox", b.id, "err", err)
	}
}

// deafGrace is how long a process may take to end that does not handle SIGTERM:
// the end of its standard input is all that it is told.
const deafGrace = 20 * time.Millisecond

// end stops the sandbox and removes what is left of it.
func (b *box) end(grace time.Duration) {
	defer close(b.stopped)
	thawed := b.lastThaw()
	if grace > 0 {
		b.std.Stdin.Close() // many a program ends with its input
		handles, err := b.ask()
		if !handles {
			grace = min(grace, deafGrace)
		}
		timer := time.NewTimer(grace)
		select {
		case <-b.ended: // maybe while it was being asked, and who asked with it
			b.std.Heard()
		case <-timer.C:
			if err != nil {
				b.d.cfg.Log.Warn("a sandbox could not be asked to end", "sandbox", b.id, "err", err)
			}
		}
		timer.Stop()
	}
	killed := b.process.Signal(unix.SIGKILL) // of the first process: the kernel ends the rest with it
	<-b.ended
	b.stopErr = errors.Join(thawed, killed, b.discard())
	b.d.mu.Lock()
	delete(b.d.boxes, b)
	b.d.mu.Unlock()
}

// discard releases what b has but for its process, which has ended or never was.
func (b *box) discard() error {
	for _, c := range []interface{ Close() error }{b.std.Stdin, b.std.Stdout, b.std.Stderr} {
		if c != nil {
			c.Close()
		}
	}
	if b.status != nil {
		b.status.Close()
	}
	if b.sockets != nil {
		b.sockets.Close()
	}
	if b.listener != nil {
		b.listener.Close()
	}
	b.Usage()
	b.mu.Lock()
	if b.oom != nil {
		b.oom.Close()
	}
	b.oom = nil
	b.mu.Unlock()
	var errs []error
	if b.cgroup != nil {
		errs = append(errs, b.d.cgroups.Open(b.name).RemoveTree(), b.cgroup.Remove())
	}
	if b.slot != nil { // nothing is in it any more
		b.slot.Release()
		b.slot = nil
	}
	b.d.leaveUsers(b.users)
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// askBound is how long a runtime program may take to deliver a signal.
const askBound = 10 * time.Second

// ask sends SIGTERM to the first process of the sandbox, and reports whether it
// may do something about it. It fails also if the sandbox ends meanwhile: a runtime
// program that is among its processes is killed with them.
func (b *box) ask() (handles bool, err error) {
	select {
	case <-b.ended:
		return false, nil
	default:
	}
	if b.d.kind.ownKernel {
		ctx, cancel := context.WithTimeout(context.Background(), askBound)
		defer cancel()
		args := append(b.d.kind.runtime(b.d.program, b.dir), "kill", b.runtimeID(), "TERM")
		return true, b.d.runtime(ctx, b, nil, args) // what it handles, nobody outside knows
	}
	for _, pid := range b.inner.Processes() {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		first := isFirst(pid)
		if first {
			_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) // one that has ended needs none
		}
		unix.Close(fd)
		if first {
			return (&linux.Process{PID: pid}).Handles(unix.SIGTERM), nil
		}
	}
	return false, nil
}

// isFirst reports whether a process has the number 1 in its PID namespace.
func isFirst(pid int) bool {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	for line := range strings.Lines(string(text)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.HasSuffix(strings.TrimSpace(pids), "\t1")
		}
	}
	return false
}

func (b *box) Usage() sandbox.Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.oom != nil {
		u := b.cgroup.Usage()
		b.usage = sandbox.Usage{
			Memory: faas.Bytes(u.Memory), PeakMemory: faas.Bytes(u.PeakMemory),
			CPUTime: u.CPUTime, Processes: u.Processes, OOMKills: b.oom.Kills(),
		}
	}
	return b.usage
}

var _ sandbox.Freezer = (*box)(nil)

// Freeze implements sandbox.Freezer. Freeze and Thaw are called by one goroutine
// at a time; Stop may come at any time.
func (b *box) Freeze() error {
	if !b.d.caps.Freezer {
		return faas.Errorf(faas.Unsupported, "sandboxes cannot be frozen on this node")
	}
	b.freezing.Lock()
	defer b.freezing.Unlock()
	select {
	case <-b.ending:
		return fmt.Errorf("sandbox %s is being stopped", b.id)
	case <-b.ended:
		return nil
	default:
		return b.inner.Freeze(b.ending)
	}
}

// Thaw implements sandbox.Freezer.
func (b *box) Thaw() error {
	b.freezing.Lock()
	defer b.freezing.Unlock()
	select {
	case <-b.ending:
		return nil // Stop has thawed it or is about to
	default:
		return b.inner.Thaw()
	}
}

// lastThaw lets the processes of a sandbox that is being stopped go on: in
// version 1 of cgroups not even SIGKILL reaches those who stand still.
func (b *box) lastThaw() error {
	b.freezing.Lock()
	defer b.freezing.Unlock()
	return b.inner.Thaw()
}
