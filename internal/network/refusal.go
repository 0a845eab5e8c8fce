package network

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/faas"
)

// A Refusal is a connection, or the lookup of a name, that a policy or a limit refused.
type Refusal struct {
	Owner    string         // as Take was given it
	Protocol string         // tcp, udp, icmp, or the protocol's number; "": a name was looked up
	To       netip.AddrPort // port 0: the protocol has none, or it is unknown
	Name     string         // that was looked up; of a connection: that lately stood for To, if a rule has it; else ""
	Rate     int            // not 0: there were more than so many new connections in a second
	Flows    int            // not 0: there are so many connections, and may be no more
	Time     time.Time

	why string // nothing opens it
}

// Rule is what to allow, to open this; "": nothing can, or a limit refused it.
func (f Refusal) Rule() string {
	port := "*"
	if f.To.Port() != 0 {
		port = strconv.Itoa(int(f.To.Port()))
	}
	switch {
	case f.why != "" || f.Rate != 0 || f.Flows != 0:
		return ""
	case f.Name != "":
		return f.Name + ":" + port
	case f.To.Addr().Is6():
		return "[" + f.To.Addr().String() + "]:" + port
	}
	return f.To.Addr().String() + ":" + port
}

// Why says, in a few words without a full stop, why no rule opens this; "": one does, or a limit refused it.
func (f Refusal) Why() string { return f.why }

// whyNever says why no rule opens an address; "": one with the address does.
func (r *Router) whyNever(a netip.Addr) string {
	p := r.plan
	a = a.Unmap()
	r.mu.Lock()
	of := r.own[a]
	r.mu.Unlock()
	switch {
	case slices.Contains([]netip.Addr{p.gateway4, p.gateway6, p.node4, p.node6, p.plain4, p.plain6, p.allowed4, p.allowed6}, a):
		return "the network of functions has this address itself"
	case p.slots4.Contains(a), p.slots6.IsValid() && p.slots6.Contains(a):
		return "functions do not reach one another"
	case of == forAll, contains(unroutable4, a), contains(unroutable6, a):
		return "this address cannot be opened"
	}
	return ""
}

// whyNeverByName is whyNever for an address that a name stands for.
func (r *Router) whyNeverByName(a netip.Addr) string {
	r.mu.Lock()
	of := r.own[a.Unmap()]
	r.mu.Unlock()
	if never(a) || of != 0 {
		return "a name does not open this address"
	}
	return r.whyNever(a)
}

// ownership says what an address of the node is; 0: it is none.
type ownership int

const (
	ofNode ownership = iota + 1
	forAll           // the broadcast address of one of its networks
)

// tell tells of a refusal.
func (r *Router) tell(f Refusal) {
	if r.cfg.Refused != nil {
		r.cfg.Refused(f)
	}
}

const (
	toldAgain   = 5 * time.Second // a name that was told: resolvers ask again and again
	maxStoodFor = 256             // addresses of names that one slot's refusals can be told by
)

// refusedName tells of a name that was not answered, at most ten a second of a slot.
func (r *Router) refusedName(s *Slot, f Refusal) {
	f.Time = time.Now()
	if rule, err := faas.ParseEgressRule(f.Name + ":*"); err != nil || rule.Name == "" || strings.Contains(f.Name, "*") {
		f.Name, f.why = strconv.Quote(f.Name), "no rule can name it" // whatever it is, it will stand in a log
	}
	if r.mayTell(s, f) {
		r.tell(f)
	}
}

func (r *Router) mayTell(s *Slot, f Refusal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.owner != f.Owner {
		return false // it has another user
	}
	if last, ok := s.toldName[f.Name]; ok && f.Time.Sub(last) < toldAgain {
		return false
	}
	if second := f.Time.Unix(); s.toldAt != second {
		s.toldAt, s.told = second, 0
	}
	if s.told++; s.told > 10 {
		return false
	}
	if s.toldName == nil {
		s.toldName = map[string]time.Time{}
	}
	for name, last := range s.toldName {
		if f.Time.Sub(last) >= toldAgain {
			delete(s.toldName, name)
		}
	}
	s.toldName[f.Name] = f.Time
	return true
}

// standsFor remembers which name a refusal to an address can be told by.
func (r *Router) standsFor(s *Slot, owner, name string, addrs []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.owner != owner {
		return
	}
	if s.stoodFor == nil || len(s.stoodFor)+len(addrs) > maxStoodFor {
		s.stoodFor = map[netip.Addr]string{}
	}
	for _, a := range addrs {
		s.stoodFor[a] = name
	}
}
