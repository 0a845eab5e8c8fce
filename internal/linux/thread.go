package linux

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A Thread is an operating system thread of its own that carries out functions
// one after the other. Namespaces, cgroups (version 1), rights and the
// parent-death signal belong to a thread, not to a process: work that changes
// them, or depends on them, is done on a Thread and ends with it. Processes are
// made by Threads only, because the kernel ends a process with a parent-death
// signal when the thread that made it ends.
type Thread struct {
	work chan func()
	done chan struct{}
	tid  int
}

// NewThread starts a thread and carries out setup on it. If setup fails the
// thread is gone and its error is returned.
func NewThread(setup func() error) (*Thread, error) {
	t := &Thread{work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	offMainThread(func() {
		defer close(t.done)
		t.tid = unix.Gettid()
		err := setup()
		ready <- err
		if err != nil {
			return
		}
		for f := range t.work {
			f()
		}
	})
	if err := <-ready; err != nil {
		<-t.done
		return nil, err
	}
	return t, nil
}

// offMainThread runs f in a goroutine that is locked to a thread and never unlocked,
// so that the thread ends with it. It is never the process's first thread: that
// one cannot end, and the kernel takes its namespaces for those of the process.
func offMainThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f()
			return
		}
		// While this goroutine keeps the first thread, the next one must get another.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			f()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}

// Do carries out f on the thread and returns when it has ended. Calls from many
// goroutines are carried out one after the other. It must not be called after Close.
func (t *Thread) Do(f func()) {
	done := make(chan struct{})
	t.work <- func() { defer close(done); f() }
	<-done
}

// Begin has the thread carry out f and returns at once, or when the thread has
// carried out what it was given before.
func (t *Thread) Begin(f func()) { t.work <- f }

// TID returns the thread's ID in this process's PID namespace.
func (t *Thread) TID() int { return t.tid }

// Close ends the thread, and with it every process that it made with a
// parent-death signal.
func (t *Thread) Close() {
	close(t.work)
	<-t.done
}

// DropBoundingSet empties the calling thread's capability bounding set, which
// its children inherit: no execution can give them a capability any more.
func DropBoundingSet() error {
	for c := 0; ; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err == unix.EINVAL && c > 0 {
			return nil // past the last capability of this kernel
		} else if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
}

// LastCapability returns the highest capability number of this kernel.
func LastCapability() int {
	c := 0
	for {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c+1), 0, 0, 0); err != nil {
			return c
		}
		c++
	}
}
