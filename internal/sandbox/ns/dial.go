package ns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
)

func (b *box) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	var err error
	switch {
	case network == "unix" && b.sockets == nil:
		return nil, faas.Errorf(faas.Invalid, "sandbox %s has no directory for sockets", b.id)
	case network == "unix":
		conn, err = linux.DialSocket(ctx, b.sockets, addr)
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
	fd, err := linux.TCPSocket(b.d.dialer, b.d.hostNet, b.process, to)
	b.d.work.Done()
	if err != nil {
		return nil, err
	}
	return linux.ConnectTCP(ctx, fd, to)
}

// listen listens in the network that is open as fd. The process that will be
// there finds it in its first instruction.
func (d *Driver) listen(at netip.AddrPort, fd int) (net.Listener, error) {
	l, err := linux.ListenTCP(d.dialer, d.hostNet, fd, at)
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, faas.Errorf(faas.Invalid, "%s is no address in the network of a sandbox, which is loopback only: %w", at, err)
	case err != nil:
		return nil, fmt.Errorf("listen in the network of a sandbox: %w", err)
	}
	return l, nil
}

// Listener implements sandbox.Sandbox.
func (b *box) Listener() net.Listener { return b.listener }
