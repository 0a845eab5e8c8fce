package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hob/faas"
)

// A Dialer connects this node to addresses that others name, as far as a policy
// lets it. It looks names up itself and connects to the very addresses that it has
// judged. A rule with a name opens what the name stands for, within the limits that
// it has for functions. The node's own addresses are what its kernel keeps for itself
// at that moment.
type Dialer struct {
	Egress   faas.Egress
	Resolver *net.Resolver // nil: the node's
}

// A RefusedError says that policy closes an address.
type RefusedError struct {
	Protocol string         // "tcp" or "udp"; "": another, which no policy opens
	Address  string         // as it was asked for
	To       netip.AddrPort // what it stands for
	name     bool           // a rule with the name would open it
}

func (e *RefusedError) Error() string {
	if to := e.To.String(); e.To.IsValid() && to != e.Address {
		return fmt.Sprintf("connect to %s: it is %s, and the network policy closes this address", e.Address, e.To.Addr())
	}
	return fmt.Sprintf("connect to %s: the network policy closes this address", e.Address)
}

// Rule is what to allow, to open it; "": nothing can.
func (e *RefusedError) Rule() string {
	switch {
	case !e.To.IsValid() || e.To.Addr().Zone() != "":
		return ""
	case e.name:
		return e.Address
	}
	return e.To.String()
}

// dialPatience is the least time for each of several addresses of a name.
const dialPatience = 2 * time.Second

// Dial connects to "host:port" by "tcp" or "udp": to the first address that answers
// of those that the policy opens. With none of these the error is a *RefusedError.
func (d Dialer) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	open, err := d.open(ctx, network, address)
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, to := range open {
		conn, err := dialOne(ctx, network, to, len(open)-i)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errs[0]
}

// dialOne leaves time for the rest of the addresses, of which this is the first.
func dialOne(ctx context.Context, network string, to netip.AddrPort, rest int) (net.Conn, error) {
	if until, ok := ctx.Deadline(); ok && rest > 1 {
		left := time.Until(until)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, min(left, max(dialPatience, left/time.Duration(rest))))
		defer cancel()
	}
	return new(net.Dialer).DialContext(ctx, network, to.String())
}

// Check is Dial without a connection: it tells what the policy says of an address now,
// for where others connect, such as a proxy.
func (d Dialer) Check(ctx context.Context, network, address string) error {
	_, err := d.open(ctx, network, address)
	return err
}

// open returns the addresses of a host that the policy opens.
func (d Dialer) open(ctx context.Context, network, address string) (open []netip.AddrPort, err error) {
	if network != "tcp" && network != "udp" {
		return nil, &RefusedError{Address: address}
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %q is not a port", address, portText)
	}
	addrs, name, err := d.lookUp(ctx, host)
	if err != nil {
		return nil, err
	}
	var refused *RefusedError
	var unreachable error
	for _, a := range addrs {
		to := netip.AddrPortFrom(a.Unmap(), uint16(port))
		if d.Egress.Mode == faas.NetworkHost {
			open = append(open, to)
			continue
		}
		node, err := isOwn(to.Addr())
		switch {
		case err != nil:
			unreachable = fmt.Errorf("connect to %s: %w", to, err)
		case reaches(d.Egress, network, to, node), !node && d.reachesByName(network, name, to):
			open = append(open, to)
		case refused == nil:
			refused = &RefusedError{Protocol: network, Address: address, To: to, name: name != "" && !node && !never(to.Addr())}
		}
	}
	switch {
	case len(open) > 0:
		return open, nil
	case refused != nil:
		return nil, refused
	}
	return nil, unreachable
}

// lookUp returns the addresses of a host, and its name as rules have it; "": it is an address.
func (d Dialer) lookUp(ctx context.Context, host string) (addrs []netip.Addr, name string, err error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" { // the kernel heeds it for links only: with it any address could pass for another
			return nil, "", &RefusedError{Address: host}
		}
		return []netip.Addr{a}, "", nil
	}
	resolver := d.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	addrs, err = resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, strings.ToLower(strings.TrimSuffix(host, ".")), err
}

// reachesByName reports whether a rule opens what a name stands for, which is not the node.
func (d Dialer) reachesByName(network, name string, to netip.AddrPort) bool {
	if never(to.Addr()) || d.Egress.Mode == faas.NetworkNone {
		return false
	}
	return slices.ContainsFunc(d.Egress.Rules, func(r faas.EgressRule) bool {
		return r.Covers(name) && r.First <= to.Port() && to.Port() <= r.Last && strings.HasPrefix(network, r.Protocol)
	})
}

// isOwn reports whether the kernel takes what is sent to an address for its own, or for
// more than one machine. An error says that nothing leads there.
func isOwn(a netip.Addr) (bool, error) {
	if a.Zone() != "" {
		return false, nil // a link's, which is closed
	}
	routes, err := netlink.RouteGet(net.IP(a.AsSlice()))
	if err != nil {
		return false, err
	}
	if len(routes) == 0 {
		return false, errors.New("no route to it")
	}
	return routes[0].Type != unix.RTN_UNICAST, nil
}
