package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// forwardingSet begins the names of the sets with the devices that a router
// switched forwarding on for.
const forwardingSet = "forwarding-"

// families are the names of IP's versions below /proc/sys/net.
var families = [...]string{"ipv4", "ipv6"}

// routed has the names of the devices with routes, and the uplink's; without other routers'.
func (e *nodeSide) routed() ([]string, error) {
	routes, err := whole(func() ([]netlink.Route, error) { return e.links.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	names := []string{e.name}
	for _, route := range routes {
		dev, err := e.links.LinkByIndex(route.LinkIndex)
		if err != nil || dev.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		if name := dev.Attrs().Name; !strings.HasPrefix(name, namePrefix) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// forwardFile is the setting of one device. For IPv6 it is one that only newer
// kernels have (6.17): the older one makes a router of the whole machine, which
// then takes no address from the network any more.
func forwardFile(family, device string) string {
	if family == "ipv6" {
		return "/proc/sys/net/ipv6/conf/" + device + "/force_forwarding"
	}
	return "/proc/sys/net/ipv4/conf/" + device + "/forwarding"
}

// toForward are the devices of a family that this router has switched on, or has to:
// none where somebody else has switched it on for all. Precondition: e.mu is held;
// the calling thread is on the node.
func (e *nodeSide) toForward(family string, devices []string) ([]string, error) {
	if family == "ipv6" && !e.r.plan.v6 || isOn("/proc/sys/net/"+family+"/conf/all/forwarding") {
		return nil, nil
	}
	if !exists(forwardFile(family, "all")) {
		if !e.told6 {
			e.r.cfg.Log.Warn("functions cannot reach IPv6 addresses: set net.ipv6.conf.all.forwarding=1")
		}
		e.told6 = true
		return nil, nil
	}
	others, err := neededByOthers(e.conn, e.name, family)
	if err != nil {
		return nil, err
	}
	list := slices.Clone(e.on[family])
	for _, dev := range devices {
		// If another router has switched it on, both need it; else it was on before anybody's.
		if !slices.Contains(list, dev) && (!isOn(forwardFile(family, dev)) || slices.Contains(others, dev)) {
			list = append(list, dev)
		}
	}
	return list, nil
}

// forward switches forwarding on for the devices with routes that e.on has.
// Precondition: as of toForward.
func (e *nodeSide) forward(devices []string) error {
	for family, list := range e.on {
		for _, dev := range list {
			file := forwardFile(family, dev)
			if !slices.Contains(devices, dev) || isOn(file) {
				continue
			}
			if err := os.WriteFile(file, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) { // the device is gone
				return fmt.Errorf("forward %s: %w", family, err)
			}
		}
	}
	return nil
}

// withhold switches off what this router has switched on, as this process
// remembers it: of the table somebody else may have made anything. Precondition: as
// of toForward.
func (e *nodeSide) withhold() error {
	var errs []error
	for family, list := range e.on {
		errs = append(errs, stopForwarding(e.conn, e.name, family, list))
	}
	return errors.Join(errs...)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func isOn(file string) bool {
	data, err := os.ReadFile(file)
	return err == nil && strings.TrimSpace(string(data)) != "0"
}

// forwardingOf are the devices that a table says forwarding was switched on for.
func forwardingOf(conn *nftables.Conn, t *nftables.Table, family string) (devices []string, err error) {
	elements, err := conn.GetSetElements(&nftables.Set{Table: t, Name: forwardingSet + family, KeyType: nftables.TypeIFName})
	for _, element := range elements {
		dev, _, _ := strings.Cut(string(element.Key), "\x00")
		devices = append(devices, dev)
	}
	return devices, err
}

// neededByOthers are the devices that routers but one have switched forwarding on for.
func neededByOthers(conn *nftables.Conn, but, family string) (devices []string, err error) {
	tables, err := tablesOn(conn)
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		if t.Name == but {
			continue
		}
		list, err := forwardingOf(conn, t, family)
		if err != nil {
			continue // it was removed just now; whose it is switches on again what it needs
		}
		devices = append(devices, list...)
	}
	return devices, nil
}

// stopForwarding switches it off for devices, but for those that routers other than
// one need.
func stopForwarding(conn *nftables.Conn, but, family string, devices []string) error {
	if isOn("/proc/sys/net/" + family + "/conf/all/forwarding") {
		return nil // by somebody else, since
	}
	needed, err := neededByOthers(conn, but, family)
	errs := []error{err} // off, then: the others' routers switch it on again
	for _, dev := range devices {
		if slices.Contains(needed, dev) {
			continue
		}
		err := os.WriteFile(forwardFile(family, dev), []byte("0"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // the device is gone
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
