package faas

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// NetworkMode says what a function reaches besides what rules allow.
type NetworkMode string

// The modes of a network. The zero NetworkMode is NetworkNone.
const (
	NetworkNone  NetworkMode = "none"  // nothing: it has a loopback only
	NetworkOpen  NetworkMode = "open"  // the internet: not the node, other sandboxes, or any private or special address
	NetworkAllow NetworkMode = "allow" // only what rules allow
	NetworkHost  NetworkMode = "host"  // whatever the node reaches, and the node: it is the node's own network
)

// An Egress says where a function may connect to. Nobody ever connects to it: it is
// called through hob only.
type Egress struct {
	Mode  NetworkMode
	Rules []EgressRule // at most MaxRules; none with NetworkNone and NetworkHost
}

// MaxRules is how many rules an Egress may have.
const MaxRules = 64

// An EgressRule opens ports of a range of addresses or of a name.
//
// A range opens private and special addresses if it lies within a range of such: 10.0.0.0/8
// does, 0.0.0.0/0 does not. The node itself is opened only by a rule
// with exactly its address. A name opens what hob's name server answers for it,
// for as long as the answer is good, and never the node, a host's own or a link's addresses.
type EgressRule struct {
	Name        string       // lower case, without a dot at its end; "*.example.com": all below it; "": Range counts
	Range       netip.Prefix // masked
	Protocol    string       // tcp, udp; "": both, and with all ports every protocol
	First, Last uint16       // ports; 0 to 65535: all
}

// ParseEgressRule parses HOST:PORTS or HOST:PORTS/PROTOCOL. HOST is a name, a name with
// "*." before it, an address, or a range; an IPv6 one stands in brackets. PORTS is
// a port, two with "-" between, or "*". PROTOCOL is tcp or udp. Its errors say
// what is wrong with which part.
func ParseEgressRule(text string) (EgressRule, error) {
	wrong := func(format string, args ...any) (EgressRule, error) {
		return EgressRule{}, Errorf(Invalid, "allow %q: %s (want HOST:PORT such as api.example.com:443, 10.0.0.0/8:5432 or [fd00::1]:80)",
			text, fmt.Sprintf(format, args...))
	}
	var r EgressRule
	if strings.Contains(text, "://") {
		return wrong("it is a URL: write its host and port alone")
	}
	rest := text
	for _, protocol := range []string{"tcp", "udp"} {
		if before, ok := strings.CutSuffix(rest, "/"+protocol); ok {
			r.Protocol, rest = protocol, before
		}
	}
	colon := strings.LastIndexByte(rest, ':')
	if colon < 0 || strings.HasSuffix(rest, "]") {
		return wrong("it names no port")
	}
	host, ports := rest[:colon], rest[colon+1:]
	if ports, protocol, ok := strings.Cut(ports, "/"); ok && ports != "" {
		return wrong("protocol %q is neither tcp nor udp", protocol)
	}
	var err error
	if r.First, r.Last, err = parsePorts(ports); err != nil {
		return wrong("%v", err)
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		var closing bool
		if inner, closing = strings.CutSuffix(inner, "]"); !closing {
			return wrong("a bracket is not closed")
		}
	} else if strings.Contains(host, ":") {
		return wrong("an IPv6 address stands in brackets")
	}
	if r.Range, err = parseRange(inner); err == nil {
		if r.Range.Addr().Is6() != bracketed {
			return wrong("brackets are for IPv6 addresses")
		}
		return r, nil
	}
	if bracketed || strings.Contains(host, "/") || looksNumeric(host) {
		return wrong("%v", err)
	}
	r.Range = netip.Prefix{}
	if r.Name, err = parseName(host); err != nil {
		return wrong("%v", err)
	}
	return r, nil
}

// ParseEgress parses a mode, "" for NetworkNone, and its rules.
func ParseEgress(mode string, rules []string) (Egress, error) {
	e := Egress{Mode: NetworkMode(cmp.Or(mode, string(NetworkNone)))}
	if !slices.Contains([]NetworkMode{NetworkNone, NetworkOpen, NetworkAllow, NetworkHost}, e.Mode) {
		return Egress{}, Errorf(Invalid, "network %q: want none, open, allow or host", mode)
	}
	var err error
	if e.Rules, err = ParseEgressRules(rules); err != nil {
		return Egress{}, err
	}
	if len(rules) > 0 && (e.Mode == NetworkNone || e.Mode == NetworkHost) {
		return Egress{}, Errorf(Invalid, "allow %q: the network is %s, where rules mean nothing", rules[0], e.Mode)
	}
	return e, nil
}

// ParseEgressRules parses rules, at most MaxRules.
func ParseEgressRules(texts []string) (rules []EgressRule, err error) {
	if len(texts) > MaxRules {
		return nil, Errorf(Invalid, "%d addresses are allowed, at most %d can be", len(texts), MaxRules)
	}
	for _, text := range texts {
		r, err := ParseEgressRule(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// String is what ParseEgressRule parses.
func (r EgressRule) String() string {
	host, ports := r.Name, fmt.Sprintf("%d-%d", r.First, r.Last)
	if host == "" {
		host = r.Range.String()
		if r.Range.IsSingleIP() {
			host = r.Range.Addr().String()
		}
		if r.Range.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	switch {
	case r.AllPorts():
		ports = "*"
	case r.First == r.Last:
		ports = strconv.Itoa(int(r.First))
	}
	if r.Protocol != "" {
		ports += "/" + r.Protocol
	}
	return host + ":" + ports
}

// AllPorts reports whether the rule is about every port, and with no Protocol about
// protocols that have none, too.
func (r EgressRule) AllPorts() bool { return r.First == 0 && r.Last == 65535 }

// Covers reports whether the rule is about a name.
func (r EgressRule) Covers(name string) bool {
	if below, ok := strings.CutPrefix(r.Name, "*"); ok {
		return strings.HasSuffix(name, below) && len(name) > len(below)
	}
	return r.Name != "" && r.Name == name
}

func parsePorts(s string) (first, last uint16, err error) {
	if s == "*" {
		return 0, 65535, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, err1 := strconv.ParseUint(from, 10, 16)
	b, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || a == 0 || b == 0 {
		return 0, 0, fmt.Errorf("port %q is not a number from 1 to 65535, two such with - between, or *", s)
	}
	if a > b {
		return 0, 0, fmt.Errorf("ports %s go down", s)
	}
	return uint16(a), uint16(b), nil
}

func parseRange(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not an address", s)
		}
		if a.Zone() != "" || a.Is4In6() {
			return netip.Prefix{}, fmt.Errorf("%q: write the address without a zone, and an IPv4 one as such", s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a range of addresses", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s is an address in the range %s: which is meant", s, p.Masked())
	}
	return p, nil
}

// looksNumeric reports whether a host is meant as an address: no top-level domain is a number.
func looksNumeric(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// parseName checks a name and returns it as it is compared.
func parseName(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	if len(name) > 253 {
		return "", fmt.Errorf("the name has %d characters, at most 253 are possible", len(name))
	}
	plain := strings.TrimPrefix(name, "*.")
	for label := range strings.SplitSeq(plain, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", fmt.Errorf("%q is neither a host name nor an address", s)
		}
	}
	return name, nil
}

// Names of networks besides modes, which an operator gives.
const maxNetworkName = 63

// CheckNetwork reports whether a function or an app can choose a network of this name:
// "" (none of its own choice), a NetworkMode, or the name of a network of the node, of at most
// 63 of the characters a-z, 0-9, '-', '_' and '.'. Whether there is one of that
// name, the node knows.
func CheckNetwork(name string) error {
	if len(name) > maxNetworkName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
		return Errorf(Invalid, "network %q is not none, open, allow, host, or the name of a network of this node (at most %d of the characters a-z, 0-9, '-', '_' and '.')", name, maxNetworkName)
	}
	return nil
}

// A Reach is what the owner of an app or a function chooses of networks. It is the
// fields of these names, and for APIs that know no such fields the annotations
// AnnotationNetwork and AnnotationAllow.
type Reach struct {
	Network string   // see CheckNetwork
	Allow   []string // rules (ParseEgressRule)
}

// Reach is what the app chooses for all its functions.
func (a App) Reach() Reach { return reach(a.Network, a.Allow, a.Annotations) }

// Reach is what the function chooses.
func (f Function) Reach() Reach { return reach(f.Network, f.Allow, f.Annotations) }

func reach(network string, allow []string, annotations map[string]string) Reach {
	if value := annotations[AnnotationNetwork]; value != "" && network == "" {
		_ = json.Unmarshal([]byte(value), &network) // checked when it was put, as the other
	}
	if value := annotations[AnnotationAllow]; value != "" {
		var more []string
		_ = json.Unmarshal([]byte(value), &more)
		allow = slices.Concat(allow, more)
	}
	return Reach{network, allow}
}

// check reports what can never work of r.
func (r Reach) check() error {
	if err := CheckNetwork(r.Network); err != nil {
		return err
	}
	if _, err := ParseEgressRules(r.Allow); err != nil {
		return err
	}
	if mode := NetworkMode(r.Network); len(r.Allow) > 0 && (mode == NetworkNone || mode == NetworkHost) {
		return Errorf(Invalid, "allow %q: the network is %s, where rules mean nothing: take the rules away with it, or choose the network allow", r.Allow[0], mode)
	}
	return nil
}
