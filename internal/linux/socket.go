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

// SocketDir makes a small tmpfs for Unix sockets that belongs to a user and a group of
// the machine, and returns it open. It is mounted nowhere: who holds it needs no path to
// it that somebody could change.
func SocketDir(uid, gid int) (*os.File, error) {
	fd, err := Tmpfs(map[string]string{"mode": "755", "size": "64k", "nr_inodes": "32", "uid": strconv.Itoa(uid), "gid": strconv.Itoa(gid)})
	if err == nil {
		if err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOEXEC}); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a directory for sockets: %w", err)
	}
	return os.NewFile(uintptr(fd), "sockets"), nil
}

// DialSocket connects to the Unix socket called name in the directory dir, whose
// owner is not trusted and may change it at any time. A symbolic link
// is read once and may name a socket in the same directory; whatever else is
// there wraps ErrNotSocket. A socket that others may not write to wraps
// fs.ErrPermission, a missing one fs.ErrNotExist, one that nobody listens on
// ECONNREFUSED. The calling thread must see /proc. Who closes dir meanwhile waits.
func DialSocket(ctx context.Context, dir *os.File, name string) (conn net.Conn, err error) {
	raw, err := dir.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) { conn, err = dialSocket(ctx, int(fd), name) }); cerr != nil {
		return nil, cerr
	}
	return conn, err
}

func dialSocket(ctx context.Context, dir int, name string) (net.Conn, error) {
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

// visit has a thread join a network and make a socket there, which belongs to that
// network wherever it is used, and come back to the network open as home.
func (t *Thread) visit(home int, join, makeSocket func() error) (err error) {
	t.Do(func() {
		if err = join(); err != nil {
			return
		}
		err = makeSocket()
		// Not to stay: it would keep the network.
		if back := unix.Setns(home, unix.CLONE_NEWNET); err == nil && back != nil {
			err = fmt.Errorf("come back from a network: %w", back)
		}
	})
	return err
}

// TCPSocket returns a socket for connections to addr in the network of a process. It does
// not block. visitor makes it, and comes back to the network open as home. A process
// that has ended is ECONNREFUSED.
func TCPSocket(visitor *Thread, home int, p *Process, addr netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd := -1
	err := visitor.visit(home, func() error { return joinNetwork(p) }, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	switch {
	case err == unix.ESRCH:
		return -1, fmt.Errorf("its first process has ended: %w", syscall.ECONNREFUSED)
	case err != nil && fd >= 0:
		unix.Close(fd)
	}
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	return fd, nil
}

// ListenTCP listens in the network open as fd. visitor makes the socket, and comes back to
// the network open as home.
func ListenTCP(visitor *Thread, home, fd int, at netip.AddrPort) (l net.Listener, err error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	how := net.ListenConfig{KeepAlive: -1} // who is connected to is in this machine
	how.SetMultipathTCP(false)
	err = visitor.visit(home, func() error { return unix.Setns(fd, unix.CLONE_NEWNET) }, func() (err error) {
		l, err = how.Listen(context.Background(), network, at.String()) // of numbers: nobody is asked for a name
		return err
	})
	if err != nil && l != nil {
		l.Close()
	}
	if err != nil {
		return nil, err
	}
	return l, nil
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

// joinNetwork moves the calling thread into the network of a process. It is
// called on a Thread. A process that has ended is ESRCH.
func joinNetwork(p *Process) error {
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
