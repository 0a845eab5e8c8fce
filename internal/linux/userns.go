package linux

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// NewUserNamespace is NewOwnedUserNamespace with the ID after those mapped as owner.
func NewUserNamespace(base, count uint32) (int, error) {
	return NewOwnedUserNamespace(base, count, base+count)
}

// NewOwnedUserNamespace makes a user namespace whose IDs 0 to count-1 are the machine's
// from base on, and returns it open. It lives as long as somebody holds it. owner is
// its owner, which nobody else should be: what the kernel counts for each user
// (inotify instances, pending signals) it counts for the owner, too, and if that were
// root, a sandbox could leave nothing of it to the machine's root.
//
// The namespace is made by a process of its own that shares our memory: Go would
// copy the page tables of the whole heap for one that needs a user namespace.
func NewOwnedUserNamespace(base, count, owner uint32) (int, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return -1, fmt.Errorf("make a user namespace: %w", err)
	}
	defer unix.Close(pipe[0])
	self, err := OpenPidfdSelf()
	if err != nil {
		unix.Close(pipe[1])
		return -1, err
	}
	defer unix.Close(self)
	release := func() {
		// A byte, not the end: others that begin at the same time have a copy of the writing
		// end. So they do when we are killed, and would wait for one another for ever.
		_, _ = unix.Write(pipe[1], make([]byte, 1))
		unix.Close(pipe[1])
	}

	p := NewProgram(8)
	either := &[2]unix.PollFd{{Fd: int32(pipe[0]), Events: unix.POLLIN}, {Fd: int32(self), Events: unix.POLLIN}}
	p.Do("wait for a byte, or our end", 0, unix.SYS_PPOLL, Pointer(p, either), uintptr(len(either)), 0, 0, 0)
	p.Exit()
	var pid, pidfd int
	t, err := NewThread(func() error { return ownBy(owner) })
	if err == nil {
		t.Do(func() { pid, pidfd, err = p.spawn(unix.CLONE_NEWUSER, -1) })
		t.Close()
	}
	if err != nil {
		release()
		return -1, fmt.Errorf("make a user namespace: %w", err)
	}
	defer func() {
		release()
		waitPidfd(pidfd, 0)
		unix.Close(pidfd)
		runtime.KeepAlive(p) // the process read it until now
	}()

	proc := fmt.Sprintf("/proc/%d/", pid)
	for _, file := range []string{"uid_map", "gid_map"} {
		if err := writeFile(proc+file, fmt.Sprintf("0 %d %d", base, count)); err != nil {
			return -1, fmt.Errorf("map the IDs of a user namespace: %w", err)
		}
	}
	fd, err := unix.Open(proc+"ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a user namespace: %w", err)
	}
	return fd, nil
}

// ownBy makes what the calling thread makes from now on a user's. It keeps its
// capabilities, and must end with that.
func ownBy(user uint32) error {
	const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(user), ^uintptr(0)); errno != 0 {
		return fmt.Errorf("become user %d: %w", user, errno)
	}
	return nil
}

// NewNetwork makes a network namespace whose only device is the loopback, up,
// and returns it open. It must be called on a Thread, which comes back to the
// network open as home, or it would keep the new one for as long as it lives.
func NewNetwork(home int) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return -1, fmt.Errorf("make a network namespace: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("bring the loopback up: %w", err)
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return -1, err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return -1, fmt.Errorf("bring the loopback up: %w", err)
	}
	// As with Docker, port 80 is for everybody: in a network of its own there is
	// nobody to protect. A kernel without the setting does not have it.
	_ = writeFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
	fd, err := OpenNamespace(unix.Gettid(), "net")
	if err != nil {
		return -1, err
	}
	if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("come back from a new network: %w", err)
	}
	return fd, nil
}

// KeepStandardDescriptors opens /dev/null for each of the descriptors 0 to 2 that
// is closed: a pipe must never get one of their numbers.
func KeepStandardDescriptors() error {
	for fd := range 3 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			continue
		}
		got, err := unix.Open(os.DevNull, unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		if got != fd {
			unix.Close(got)
		}
	}
	return nil
}
