package config

import (
	"net/netip"
	"slices"
	"strings"

	"hob/faas"
)

// Named returns Networks by their names.
func (c Config) Named() (map[string]faas.Egress, error) {
	named := make(map[string]faas.Egress)
	for _, entry := range c.Networks {
		name, rest, ok := strings.Cut(entry, "=")
		words := strings.Fields(rest)
		if !ok || name == "" || len(words) == 0 {
			return nil, faas.Errorf(faas.Invalid, "%q is not of the form NAME=MODE RULE RULE, such as db=allow 10.1.2.3:5432", entry)
		}
		if err := faas.CheckNetwork(name); err != nil {
			return nil, err
		}
		if _, err := faas.ParseEgress(name, nil); err == nil {
			return nil, faas.Errorf(faas.Invalid, "a network cannot be named %q: that is a mode", name)
		}
		if _, twice := named[name]; twice {
			return nil, faas.Errorf(faas.Invalid, "network %q is given twice", name)
		}
		e, err := faas.ParseEgress(words[0], words[1:])
		if err != nil {
			return nil, faas.Errorf(faas.Invalid, "network %s: %w", name, err)
		}
		if e.Mode == faas.NetworkHost {
			return nil, faas.Errorf(faas.Invalid, "network %s: the network of the host is for single functions", name)
		}
		named[name] = e
	}
	return named, nil
}

// Programs returns the program of each isolation that has one.
func (c Config) Programs() (map[faas.Isolation]string, error) {
	programs := map[faas.Isolation]string{faas.IsolationGVisor: "runsc", faas.IsolationRunc: "runc", faas.IsolationCrun: "crun"}
	for _, entry := range c.Runtimes {
		name, program, ok := strings.Cut(entry, "=")
		if _, known := programs[faas.Isolation(name)]; !ok || !known || program == "" {
			return nil, faas.Errorf(faas.Invalid, "%q is not of the form ISOLATION=PROGRAM with one of gvisor, runc and crun", entry)
		}
		programs[faas.Isolation(name)] = program
	}
	return programs, nil
}

func (c Config) checkNetworks(bad complaint) error {
	named, err := c.Named()
	if err != nil {
		return bad("networks", "%w", err)
	}
	known := func(name string) bool {
		_, ok := named[name]
		return ok
	}
	if !known(c.Network) && !slices.Contains([]faas.NetworkMode{faas.NetworkNone, faas.NetworkOpen, faas.NetworkAllow}, faas.NetworkMode(c.Network)) {
		return bad("network", "%q is neither none, open or allow nor a name of networks", c.Network)
	}
	if _, err := faas.ParseEgressRules(c.Allow); err != nil {
		return bad("allow", "%w", err)
	}
	for _, name := range c.FnNetworks {
		if !known(name) {
			return bad("fn-networks", "there is no network %q: define it with networks, as %s=open", name, name)
		}
	}
	if _, err := c.Programs(); err != nil {
		return bad("runtimes", "%w", err)
	}
	if !slices.Contains(faas.Isolations(), faas.Isolation(c.Isolation)) {
		return bad("isolation", "%q is not native, gvisor, runc or crun", c.Isolation)
	}
	if p, err := netip.ParsePrefix(c.NetworkRange); c.NetworkRange != "" && (err != nil || !p.Addr().Is4() || p.Bits() > 18 || p != p.Masked()) {
		return bad("network-range", "%q is not an IPv4 range of at least a /18, such as 100.64.0.0/10", c.NetworkRange)
	}
	if c.HyperIsolation != "" && !slices.Contains(faas.Isolations(), faas.Isolation(c.HyperIsolation)) {
		return bad("hyper-isolation", "%q is not native, gvisor, runc or crun", c.HyperIsolation)
	}
	return nil
}
