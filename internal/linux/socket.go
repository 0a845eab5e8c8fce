package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotSocket is wrapped by the errors of DialSocket that say that something
// else is in the place of a socket: nothing that may be followed or opened.
var ErrNotSocket = errors.New("only a socket in the directory itself, or a relative link to one, can be connected to")

// DialSocket connects to the Unix socket called name in the directory open as
// dir, whose owner is not trusted and may change it at any time. A symbolic link
// is read once and may name a socket in the same directory; whatever else is
// there wraps ErrNotSocket. A socket that others may not write to wraps
// fs.ErrPermission, a missing one fs.ErrNotExist, one that nobody listens on
// ECONNREFUSED. The calling thread must see /proc.
func DialSocket(ctx context.Context, dir int, name string) (net.Conn, error) {
	if err := bare(name); err != "" {
		return nil, fmt.Errorf("socket %q is %s: %w", name, err, ErrNotSocket)
	}
	fd, st, err := openSocket(dir, name)
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", target)
		unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("read link %s: %w", name, err)
		}
		to := string(target[:n])
		if err := bare(to); err != "" {
			return nil, fmt.Errorf("socket %s is %s (to %q): %w", name, err, to, ErrNotSocket)
		}
		name = to
		if fd, st, err = openSocket(dir, name); err != nil {
			return nil, err
		}
	}
	defer unix.Close(fd)
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("%s is %s: %w", name, fileKind(st.Mode), ErrNotSocket)
	}
	if st.Mode&0o666 != 0o666 {
		return nil, fmt.Errorf("socket %s has mode %04o, and everybody must be let in (0666): %w", name, st.Mode&0o7777, fs.ErrPermission)
	}
	// By the descriptor: a name could mean something else by now.
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return socketOf(conn)
		}
		if !errors.Is(err, unix.EAGAIN) { // its line of waiting connections is full
			return nil, fmt.Errorf("connect to socket %s: %w", name, err)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to socket %s: %w", name, context.Cause(ctx))
		}
	}
}

// bare says what a name is that does not name something in a directory itself.
func bare(name string) string {
	switch {
	case strings.HasPrefix(name, "/"):
		return "an absolute link"
	case name == "" || name == "." || name == ".." || strings.Contains(name, "/"):
		return "a link out of the directory"
	}
	return ""
}

// openSocket opens a name of the directory without following it anywhere.
func openSocket(dir int, name string) (fd int, st unix.Stat_t, err error) {
	fd, err = unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err == nil {
		if err = unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return -1, st, fmt.Errorf("socket %s: %w", name, err)
	}
	return fd, st, nil
}

func fileKind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a file and no socket"
	case unix.S_IFDIR:
		return "a directory and no socket"
	case unix.S_IFIFO:
		return "a named pipe and no socket"
	case unix.S_IFLNK:
		return "a link to a link"
	}
	return "no socket"
}

// TCPSocket returns a socket for connections to addr in the calling thread's
// network. It does not block.
func TCPSocket(addr netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	return fd, nil
}

// ConnectTCP connects a socket of TCPSocket, which it takes over.
func ConnectTCP(ctx context.Context, fd int, addr netip.AddrPort) (net.Conn, error) {
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	if addr.Addr().Is4() {
		to = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	begun := unix.Connect(fd, to)
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close() // net.FileConn has one of its own
	fail := func(err error) (net.Conn, error) { return nil, fmt.Errorf("connect to %s: %w", addr, err) }
	if begun != nil && begun != unix.EINPROGRESS && begun != unix.EINTR {
		return fail(begun)
	}
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return fail(err)
	}
	var failed error
	err = conn.Write(func(uintptr) bool {
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		if failed = err; err != nil {
			return true
		}
		_, err = unix.Getpeername(fd)
		return err == nil // not yet: wait
	})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err = errors.Join(failed, err); err != nil {
		return fail(err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// JoinNetwork moves the calling thread into the network of a process. It is
// called on a Thread. A process that has ended is ESRCH.
func JoinNetwork(p *Process) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return unix.ESRCH
	}
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return unix.ESRCH // Wait has closed it
	}
	return serr
}
