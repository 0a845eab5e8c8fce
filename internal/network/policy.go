package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"hob/faas"
)

// What the packet filter of a router has of one slot.

// admit lets a slot in, open to the internet.
func (f *filter) admit(s *Slot) error {
	err := f.change("admit a slot", func() error {
		return errors.Join(
			f.fromElements(s, f.conn.SetAddElements),
			f.conn.SetAddElements(f.inet["policy"], s.policyElement("open")))
	})
	s.admitted, s.judged = err == nil, err == nil
	return err
}

// expel forgets a slot and its addresses: nothing from it is let in. What it used of
// its limits is not deleted: it fills up in two seconds, and to fail to delete
// what is not there costs the kernel 10 ms.
func (f *filter) expel(s *Slot) error {
	s.names.Lock()
	defer s.names.Unlock()
	if !s.admitted {
		return nil
	}
	err := f.change("expel a slot", func() error {
		return errors.Join(f.fromElements(s, f.conn.SetDeleteElements), f.unjudge(s))
	})
	if err == nil {
		s.admitted, s.judged, s.chain, s.opened = false, false, false, nil
	}
	return err
}

// unjudge removes the policy of a slot, if it has one, with its own chain.
func (f *filter) unjudge(s *Slot) error {
	if !s.judged {
		return nil
	}
	if err := f.conn.SetDeleteElements(f.inet["policy"], []nftables.SetElement{{Key: index(s.link)}}); err != nil || !s.chain {
		return err
	}
	c := &nftables.Chain{Table: f.table, Name: s.chainName()}
	f.conn.FlushChain(c)
	f.conn.DelChain(c)
	f.conn.DelSet(f.namesOf(s, 4))
	f.conn.DelSet(f.namesOf(s, 6))
	return nil
}

func (f *filter) fromElements(s *Slot, do func(*nftables.Set, []nftables.SetElement) error) (err error) {
	for _, a := range s.addrs() {
		set := "slots4"
		if a.Is6() {
			set = "slots6"
		}
		err = errors.Join(err, do(f.inet[set], []nftables.SetElement{{Key: append(index(s.link), a.AsSlice()...)}}))
	}
	return err
}

func (s *Slot) policyElement(chain string) []nftables.SetElement {
	return []nftables.SetElement{{Key: index(s.link), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}}
}

// shut refuses everything from a slot and removes its own chain.
func (f *filter) shut(s *Slot) error {
	s.names.Lock()
	defer s.names.Unlock()
	err := f.change("shut a slot", func() error { return f.unjudge(s) })
	if err == nil {
		s.judged, s.chain, s.opened = false, false, nil
	}
	return err
}

func (s *Slot) chainName() string { return "slot-" + strconv.FormatUint(uint64(s.id), 10) }

// namesOf is the set with the addresses that the names in a slot's rules stand for:
// the number of the rule, and the address.
func (f *filter) namesOf(s *Slot, version int) *nftables.Set {
	address := nftables.TypeIPAddr
	if version == 6 {
		address = nftables.TypeIP6Addr
	}
	return &nftables.Set{
		Table: f.table, ID: uint32(version), Name: fmt.Sprintf("names%d-%d", version, s.id), HasTimeout: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeMark, address), Concatenation: true,
	}
}

// restrict gives a slot a chain of its own with the rules of a policy.
func (f *filter) restrict(s *Slot, p faas.Egress) error {
	s.names.Lock()
	defer s.names.Unlock()
	err := f.change("set the policy of a slot", func() error {
		for _, version := range []int{4, 6} {
			if err := f.conn.AddSet(f.namesOf(s, version), nil); err != nil {
				return err
			}
		}
		c := f.conn.AddChain(&nftables.Chain{Table: f.table, Name: s.chainName()})
		for i, rule := range p.Rules {
			f.allow(c, s, i, rule)
		}
		if p.Mode == faas.NetworkOpen {
			f.rule(c, jump("open"))
		} else {
			f.rule(c, jump("refuse"))
		}
		if err := f.conn.SetDeleteElements(f.inet["policy"], []nftables.SetElement{{Key: index(s.link)}}); err != nil {
			return err
		}
		return f.conn.SetAddElements(f.inet["policy"], s.policyElement(c.Name))
	})
	s.chain, s.opened = err == nil, map[opened]time.Time{}
	return err
}

// allow adds a rule of a policy to a slot's chain.
func (f *filter) allow(c *nftables.Chain, s *Slot, number int, r faas.EgressRule) {
	var which [][]expr.Any // in words of the filter, each with the same ports
	exact := false         // the node lets in what a rule with its exact address allows, never what a name stands for
	if r.Name != "" {
		for _, version := range []int{4, 6} {
			which = append(which, slices.Concat(family(version), f.named(s, version, number), destinationIn(version, "node", true)))
		}
	} else {
		version := versionOf(r.Range.Addr())
		match := slices.Concat(family(version), to(r.Range))
		exact = r.Range.IsSingleIP()
		if !exact {
			match = append(match, destinationIn(version, "node", true)...)
			if !isClosedRange(r.Range) {
				match = append(match, destinationIn(version, "closed", true)...)
			}
		}
		which = [][]expr.Any{match}
	}
	protocols := []byte{tcp, udp}
	switch r.Protocol {
	case "tcp":
		protocols = []byte{tcp}
	case "udp":
		protocols = []byte{udp}
	}
	for _, match := range which {
		if r.Protocol == "" && r.AllPorts() {
			f.rule(c, match, marked(exact), accept())
			continue
		}
		for _, proto := range protocols {
			f.rule(c, match, protocol(proto), ports(r.First, r.Last), marked(exact), accept())
		}
	}
}

// named holds if the destination is an address of a rule's name.
func (f *filter) named(s *Slot, version, number int) []expr.Any {
	const reg32 = 8
	offset, length := uint32(16), uint32(4)
	if version == 6 {
		offset, length = 24, 16
	}
	return []expr.Any{
		&expr.Immediate{Register: reg32, Data: index(number)},
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length, DestRegister: reg32 + 1},
		&expr.Lookup{SourceRegister: reg32, SetName: f.namesOf(s, version).Name},
	}
}

// addNames opens the addresses of a rule's name for a time. Those that are open
// already must be closed first: the kernel would keep their end. Precondition:
// s.names is held.
func (f *filter) addNames(s *Slot, number int, again, addrs []netip.Addr, life time.Duration) error {
	element := func(a netip.Addr) (*nftables.Set, []nftables.SetElement) {
		return f.namesOf(s, versionOf(a)), []nftables.SetElement{{Key: append(index(number), a.AsSlice()...), Timeout: life}}
	}
	add := func() error {
		for _, a := range addrs {
			if err := f.conn.SetAddElements(element(a)); err != nil {
				return err
			}
		}
		return nil
	}
	const what = "open the addresses of a name"
	if len(again) > 0 {
		err := f.change(what, func() error {
			for _, a := range again {
				if err := f.conn.SetDeleteElements(element(a)); err != nil {
					return err
				}
			}
			return add()
		})
		if err == nil {
			return nil
		} // one of them ended just now
	}
	return f.change(what, add)
}
