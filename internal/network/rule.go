package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A Mode says what a function reaches besides what rules allow.
type Mode string

// The modes. The zero Mode is None.
const (
	None  Mode = "none"  // nothing: it has a loopback only
	Open  Mode = "open"  // the internet: not the node, other sandboxes, or any address that is Closed
	Allow Mode = "allow" // only what rules allow
)

// A Policy says where a function may connect to.
type Policy struct {
	Mode  Mode
	Rules []Rule // at most MaxRules
}

// MaxRules is how many rules a policy may have.
const MaxRules = 64

// A Rule opens ports of a range of addresses or of a name.
//
// A range opens closed addresses (Closed) if it lies within a closed one:
// 10.0.0.0/8 does, 0.0.0.0/0 does not. The node itself is opened only by a rule
// with exactly its address. A name opens what hob's name server answers for it,
// for as long as the answer is good, and never the node, a host's own or a link's addresses.
type Rule struct {
	Name        string       // lower case, without a dot at its end; "*.example.com": all below it; "": Range counts
	Range       netip.Prefix // masked
	Protocol    string       // tcp, udp; "": both, and with all ports every protocol
	First, Last uint16       // ports; 0 to 65535: all
}

// ParseRule parses HOST:PORTS or HOST:PORTS/PROTOCOL. HOST is a name, a name with
// "*." before it, an address, or a range; an IPv6 one stands in brackets. PORTS is
// a port, two with "-" between, or "*". PROTOCOL is tcp or udp. Its errors say
// what is wrong with which part.
func ParseRule(text string) (Rule, error) {
	wrong := func(format string, args ...any) (Rule, error) {
		return Rule{}, fmt.Errorf("allow %q: %s (want HOST:PORT such as api.example.com:443, 10.0.0.0/8:5432 or [fd00::1]:80)",
			text, fmt.Sprintf(format, args...))
	}
	var r Rule
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

// ParsePolicy parses a mode and its rules.
func ParsePolicy(mode string, rules []string) (Policy, error) {
	p := Policy{Mode: Mode(cmp.Or(mode, string(None)))}
	if !slices.Contains([]Mode{None, Open, Allow}, p.Mode) {
		return Policy{}, fmt.Errorf("network %q: want none, open or allow", mode)
	}
	if len(rules) > MaxRules {
		return Policy{}, fmt.Errorf("%d addresses are allowed, at most %d can be", len(rules), MaxRules)
	}
	if len(rules) > 0 && p.Mode == None {
		return Policy{}, fmt.Errorf("allow %q: the network is none", rules[0])
	}
	for _, text := range rules {
		r, err := ParseRule(text)
		if err != nil {
			return Policy{}, err
		}
		p.Rules = append(p.Rules, r)
	}
	return p, nil
}

// String is what ParseRule parses.
func (r Rule) String() string {
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
	case r.allPorts():
		ports = "*"
	case r.First == r.Last:
		ports = strconv.Itoa(int(r.First))
	}
	if r.Protocol != "" {
		ports += "/" + r.Protocol
	}
	return host + ":" + ports
}

func (r Rule) allPorts() bool { return r.First == 0 && r.Last == 65535 }

// covers reports whether the rule is about a name.
func (r Rule) covers(name string) bool {
	if below, ok := strings.CutPrefix(r.Name, "*"); ok {
		return strings.HasSuffix(name, below) && len(name) > len(below)
	}
	return r.Name != "" && r.Name == name
}

// opens reports whether the rule opens an address, whatever the port. node says
// that the address is the node's.
func (r Rule) opens(a netip.Addr, node bool) bool {
	if r.Name != "" || !r.Range.Contains(a) {
		return false
	}
	return r.Range.IsSingleIP() || !node && (!Closed(a) || isClosedRange(r.Range))
}

func (p Policy) reaches(network string, to netip.AddrPort, node bool) bool {
	if p.Mode == Open && !node && !Closed(to.Addr()) {
		return true
	}
	return p.Mode != None && p.Mode != "" && slices.ContainsFunc(p.Rules, func(r Rule) bool {
		return r.opens(to.Addr(), node) && r.First <= to.Port() && to.Port() <= r.Last &&
			strings.HasPrefix(network, r.Protocol)
	})
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
