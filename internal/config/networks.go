package config

import (
	"net/netip"
	"path/filepath"
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
			return nil, faas.Errorf(faas.Invalid, "%q is not a name of at most 63 of the characters a-z, 0-9, '-', '_' and '.', such as db in db=allow 10.1.2.3:5432", name)
		}
		if _, err := faas.ParseEgress(name, nil); err == nil {
			return nil, faas.Errorf(faas.Invalid, "a network cannot be named %q: that is a mode", name)
		}
		if _, twice := named[name]; twice {
			return nil, faas.Errorf(faas.Invalid, "network %s is given twice: all its rules stand in one entry, as %s=allow 10.1.2.3:5432 10.1.2.4:5432", name, name)
		}
		if mode := faas.NetworkMode(words[0]); mode != faas.NetworkNone && mode != faas.NetworkOpen && mode != faas.NetworkAllow {
			return nil, faas.Errorf(faas.Invalid, "network %s: its mode %q is not none, open or allow; host can be chosen by single functions only", name, mode)
		}
		e, err := faas.ParseEgress(words[0], words[1:])
		if err != nil {
			return nil, faas.Errorf(faas.Invalid, "network %s: %w", name, err)
		}
		if n := len(e.Rules) + len(c.Allow); n > faas.MaxRules {
			return nil, faas.Errorf(faas.Invalid, "network %s: %d rules, with those of allow, are over the limit of %d", name, n, faas.MaxRules)
		}
		named[name] = e
	}
	return named, nil
}

// Programs returns the program of each isolation that has one: an absolute path, or a
// name to be looked up in PATH.
func (c Config) Programs() (map[faas.Isolation]string, error) {
	programs := map[faas.Isolation]string{faas.IsolationGVisor: "runsc", faas.IsolationRunc: "runc", faas.IsolationCrun: "crun"}
	given := make(map[string]bool)
	for _, entry := range c.Runtimes {
		name, program, _ := strings.Cut(entry, "=")
		_, known := programs[faas.Isolation(name)]
		switch {
		case !known || program == "":
			return nil, faas.Errorf(faas.Invalid, "%q is not of the form ISOLATION=PROGRAM with one of gvisor, runc and crun, such as gvisor=/opt/bin/runsc", entry)
		case given[name]:
			return nil, faas.Errorf(faas.Invalid, "the program of %s is given twice", name)
		case strings.Contains(program, "/") && !filepath.IsAbs(program):
			return nil, faas.Errorf(faas.Invalid, "%q is neither an absolute path, such as /opt/bin/runsc, nor a name that is looked up in PATH", program)
		}
		given[name] = true
		programs[faas.Isolation(name)] = program
	}
	return programs, nil
}

func (c Config) checkIsolation(bad complaint) error {
	if _, err := c.Programs(); err != nil {
		return bad("runtimes", "%w", err)
	}
	for _, one := range []struct{ name, value string }{{"isolation", c.Isolation}, {"hyper-isolation", c.HyperIsolation}} {
		switch of := faas.Isolation(one.value); {
		case of == "" && one.name == "hyper-isolation":
		case !slices.Contains(faas.Isolations(), of):
			return bad(one.name, "%q is not one of: native, gvisor, runc, crun", one.value)
		case of != faas.IsolationNative && c.Driver == "fake":
			return bad(one.name, "%s is more than the driver fake (from %s) can give: nothing is isolated there", of, c.Origin("driver"))
		}
	}
	for i, device := range c.Devices {
		if !strings.HasPrefix(device, "/dev/") || filepath.Clean(device) != device {
			return bad("devices", "%q is not the path of a file below /dev, such as /dev/kvm", device)
		}
		if slices.Contains(c.Devices[:i], device) {
			return bad("devices", "%s is given twice", device)
		}
	}
	return nil
}

func (c Config) checkNetworks(bad complaint) error {
	if _, err := faas.ParseEgressRules(c.Allow); err != nil {
		return bad("allow", "%w", err)
	}
	named, err := c.Named()
	if err != nil {
		return bad("networks", "%w", err)
	}
	mode := faas.NetworkMode(c.Network)
	if network, ok := named[c.Network]; ok {
		mode = network.Mode
	}
	switch mode {
	case faas.NetworkOpen, faas.NetworkAllow:
	case faas.NetworkNone:
		if len(c.Allow) > 0 {
			return bad("allow", "%q means nothing where network (from %s) is %s: network=allow is what rules say, and nothing else", c.Allow[0], c.Origin("network"), c.Network)
		}
	case faas.NetworkHost:
		return bad("network", "the network of the host can be chosen by single functions only, with hob update --network host")
	default:
		return bad("network", "%q is not one of none, open, allow and the names of the setting networks", c.Network)
	}
	for i, name := range c.FnNetworks {
		if _, ok := named[name]; !ok {
			return bad("fn-networks", "there is no network %q: define it with the setting networks, as %s=open, or %s=open 192.168.0.0/16:* with a private range", name, name, name)
		}
		if slices.Contains(c.FnNetworks[:i], name) {
			return bad("fn-networks", "%s is given twice", name)
		}
	}
	return c.checkSlots(bad)
}

// What a sandbox may be limited to. Below the least bandwidth a large packet takes seconds.
const (
	minBandwidth   = 16 * faas.KB
	maxBandwidth   = 100 * faas.GB
	maxConnections = 1_000_000
)

// checkSlots looks at what the network of each sandbox is made with.
func (c Config) checkSlots(bad complaint) error {
	if c.NetworkRange != "" {
		p, err := netip.ParsePrefix(c.NetworkRange)
		switch {
		case err != nil || !p.Addr().Is4() || p.Bits() > 18:
			return bad("network-range", "%q is not an IPv4 range of at least a /18, such as 100.64.0.0/10", c.NetworkRange)
		case p != p.Masked():
			return bad("network-range", "%s is an address in the range %s: write the range", p, p.Masked())
		case !private(p):
			return bad("network-range", "%s lies in none of %s: functions could not reach whoever has these addresses", p, privateRanges)
		}
	}
	if b := c.Bandwidth; b != 0 && (b < minBandwidth || b > maxBandwidth) {
		return bad("network-bandwidth", "%v a second is not between %v and %v, such as 10m; 0 is no limit", b, minBandwidth, maxBandwidth)
	}
	if c.Connections < 1 || c.Connections > maxConnections {
		return bad("network-connections", "%d is not between 1 and %d, such as 200", c.Connections, maxConnections)
	}
	return nil
}

// privateRanges are those whose addresses nobody on the internet has.
const privateRanges = "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 198.18.0.0/15"

func private(p netip.Prefix) bool {
	for text := range strings.SplitSeq(privateRanges, ", ") {
		if of := netip.MustParsePrefix(text); of.Contains(p.Addr()) && of.Bits() <= p.Bits() {
			return true
		}
	}
	return false
}
