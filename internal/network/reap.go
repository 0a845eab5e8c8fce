package network

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hob/internal/linux"
)

// lockName takes the name of a generation in the calling thread's network, until
// the descriptor is closed or this process ends, however it ends. The name is an
// abstract one of a Unix socket that nobody listens on: it is known in the network
// that has what it guards, and nowhere else, and it leaves no file.
func lockName(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("take the name %s: %w", name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("take the name %s: %w", name, err)
	}
	return fd, nil
}

// Reap removes from this process's network, or that open as node if it is not 0,
// what routers left whose process was killed. It needs root. Daemons that start at
// once do not reap each other: a router has its name before it makes anything.
func Reap(node int) error {
	return visit(func(t *linux.Thread, home int) (err error) {
		if node == 0 {
			node = home
		}
		t.Do(func() { err = within(home, node, func() error { return reap(node) }) })
		return err
	})
}

// visit carries out f with a thread that may go to other networks, and the open network
// of this process that it comes from.
func visit(f func(t *linux.Thread, home int) error) error {
	t, err := linux.NewThread(func() error { return nil })
	if err != nil {
		return err
	}
	defer t.Close()
	home, err := linux.OpenNamespace(t.TID(), "net")
	if err != nil {
		return err
	}
	defer unix.Close(home)
	return f(t, home)
}

// reap is Reap on a thread that is on the node.
func reap(node int) error {
	conn, err := newConn(node)
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer links.Close()
	names, err := generationsOn(conn, links)
	if err != nil {
		return fmt.Errorf("look for networks of dead generations: %w", err)
	}
	var errs []error
	for _, name := range names {
		lock, err := lockName(name)
		if errors.Is(err, unix.EADDRINUSE) {
			continue // it lives, or another reaps it
		}
		if err == nil {
			err = removeFrom(conn, links, name)
			unix.Close(lock)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove the network %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// generationsOn has the names that routers have on a node, by tables and devices.
func generationsOn(conn *nftables.Conn, links *netlink.Handle) (names []string, err error) {
	tables, err := tablesOn(conn)
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		names = append(names, t.Name)
	}
	devices, err := whole(links.LinkList)
	if err != nil {
		return nil, err
	}
	for _, dev := range devices {
		a := dev.Attrs()
		if strings.HasPrefix(a.Name, namePrefix) && bytes.Equal(a.HardwareAddr, nodeMAC) && !slices.Contains(names, a.Name) {
			names = append(names, a.Name)
		}
	}
	return names, nil
}

// tablesOn are the tables of all routers of a node.
func tablesOn(conn *nftables.Conn) ([]*nftables.Table, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	return slices.DeleteFunc(tables, func(t *nftables.Table) bool { return !strings.HasPrefix(t.Name, namePrefix) }), err
}

// removeFrom removes from the node, which the calling thread is on, what a
// generation's name is on: rules in chains of others, the table, forwarding and
// the device.
func removeFrom(conn *nftables.Conn, links *netlink.Handle, name string) error {
	chains, err := conn.ListChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		if !forwards(c) && c.Name != dockerUser {
			continue
		}
		rules, err := rulesOf(conn, c, name)
		if err != nil {
			return err
		}
		for _, rule := range rules {
			if err := conn.DelRule(rule); err != nil {
				return err
			}
		}
	}
	errs := []error{removeTable(conn, name)}
	if dev, err := links.LinkByName(name); err == nil {
		if err := links.LinkDel(dev); !errors.Is(err, unix.ENODEV) { // it goes with the router, too
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeTable removes a generation's table, if it has one, and then switches
// forwarding off for the devices that stand in it and in no other's.
func removeTable(conn *nftables.Conn, name string) error {
	tables, err := tablesOn(conn)
	if err != nil {
		return err
	}
	devices := map[string][]string{} // by family
	for _, t := range tables {
		if t.Name != name {
			continue
		}
		for _, family := range families {
			if devices[family], err = forwardingOf(conn, t, family); err != nil {
				return err
			}
		}
		conn.DelTable(t)
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	for family, list := range devices {
		if err := stopForwarding(conn, "", family, list); err != nil {
			return err
		}
	}
	return nil
}
