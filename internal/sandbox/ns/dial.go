package ns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/sandbox"
)

// socketDir makes the tmpfs that Spec.Sockets is. The driver keeps it open, so
// that it needs no path to it which a function could change.
func socketDir(us *users, user sandbox.User) (*os.File, error) {
	fd, err := linux.Tmpfs(map[string]string{
		"mode": "755", "size": "64k", "nr_inodes": "32",
		"uid": strconv.Itoa(us.base + int(user.UID)), "gid": strconv.Itoa(us.base + int(user.GID)),
	})
	if err != nil {
		return nil, fmt.Errorf("make a directory for sockets: %w", err)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOEXEC}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make a directory for sockets: %w", err)
	}
	return os.NewFile(uintptr(fd), "sockets"), nil
}

func (b *box) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	var err error
	switch {
	case network == "unix" && b.sockets == nil:
		return nil, faas.Errorf(faas.Invalid, "sandbox %s has no directory for sockets", b.id)
	case network == "unix":
		conn, err = b.dialUnix(ctx, addr)
	case network == "tcp":
		conn, err = b.dialTCP(ctx, addr)
	default:
		return nil, faas.Errorf(faas.Invalid, "a sandbox cannot be reached by %q", network)
	}
	switch {
	case errors.Is(err, linux.ErrNotSocket):
		return nil, faas.Errorf(faas.Invalid, "%w", err)
	case err != nil:
		return nil, fmt.Errorf("sandbox %s: %w", b.id, err)
	}
	return conn, nil
}

func (b *box) dialUnix(ctx context.Context, name string) (conn net.Conn, err error) {
	raw, err := b.sockets.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Stop closes the directory, and not under our hands.
	if cerr := raw.Control(func(dir uintptr) { conn, err = linux.DialSocket(ctx, int(dir), name) }); cerr != nil {
		return nil, cerr
	}
	return conn, err
}

func (b *box) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "no address of a sandbox: %w", err)
	}
	if b.hostNet {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	if !b.d.enter() {
		return nil, errClosing
	}
	fd := -1
	err = b.d.visit(func() error { return linux.JoinNetwork(b.process) }, func() (err error) {
		fd, err = linux.TCPSocket(to)
		return err
	})
	b.d.work.Done()
	if err == unix.ESRCH {
		err = fmt.Errorf("its first process has ended: %w", syscall.ECONNREFUSED)
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	return linux.ConnectTCP(ctx, fd, to)
}

// visit has the dialer join a network and make a socket there, which belongs to
// that network wherever it is used.
func (d *Driver) visit(join, makeSocket func() error) (err error) {
	d.dialer.Do(func() {
		if err = join(); err != nil {
			return
		}
		err = makeSocket()
		// Not to stay: it would keep the network.
		if back := unix.Setns(d.hostNet, unix.CLONE_NEWNET); err == nil && back != nil {
			err = fmt.Errorf("come back from the network of a sandbox: %w", back)
		}
	})
	return err
}

// listen listens in the network that is open as fd. The process that will be
// there finds it in its first instruction.
func (d *Driver) listen(at netip.AddrPort, fd int) (l net.Listener, err error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	how := net.ListenConfig{KeepAlive: -1} // who is connected to is in this machine
	how.SetMultipathTCP(false)
	err = d.visit(func() error { return unix.Setns(fd, unix.CLONE_NEWNET) }, func() (err error) {
		l, err = how.Listen(context.Background(), network, at.String()) // of numbers: nobody is asked for a name
		return err
	})
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, faas.Errorf(faas.Invalid, "%s is no address in the network of a sandbox, which is loopback only: %w", at, err)
	case err != nil && l != nil:
		l.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("listen in the network of a sandbox: %w", err)
	}
	return l, nil
}

// Listener implements sandbox.Sandbox.
func (b *box) Listener() net.Listener { return b.listener }
