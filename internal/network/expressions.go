package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The words of which rules of the packet filter are made.

func one(e expr.Any) []expr.Any { return []expr.Any{e} }

func accept() []expr.Any { return one(&expr.Verdict{Kind: expr.VerdictAccept}) }
func drop() []expr.Any   { return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}} }

func jump(chain string) []expr.Any {
	return one(&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain})
}

// index is the number of a device as the kernel holds it.
func index(n int) []byte { return binaryutil.NativeEndian.PutUint32(uint32(n)) }

// device holds for packets that came in by a device.
func device(n int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: index(n)},
	}
}

// family holds for packets of IP version 4 or 6.
func family(version int) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if version == 6 {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

func protocol(p byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}},
	}
}

// ports holds for destination ports from first to last.
func ports(first, last uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binaryutil.BigEndian.PutUint16(first)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binaryutil.BigEndian.PutUint16(last)},
	}
}

// destination loads the destination address.
func destination(version int) expr.Any {
	if version == 6 {
		return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16, DestRegister: 1}
	}
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4, DestRegister: 1}
}

// source loads the source address.
func source(version int) expr.Any {
	if version == 6 {
		return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16, DestRegister: 1}
	}
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4, DestRegister: 1}
}

// destinationIn holds for destinations in a set whose name ends with the version,
// or with not, outside of it.
func destinationIn(version int, set string, not bool) []expr.Any {
	return []expr.Any{
		destination(version),
		&expr.Lookup{SourceRegister: 1, SetName: fmt.Sprintf("%s%d", set, version), Invert: not},
	}
}

func versionOf(a netip.Addr) int {
	if a.Is6() {
		return 6
	}
	return 4
}

// to holds for destinations in a range.
func to(p netip.Prefix) []expr.Any {
	return within4or6(destination(versionOf(p.Addr())), p)
}

// from holds for a source address, of its version.
func from(a netip.Addr) []expr.Any {
	return append(family(versionOf(a)), within4or6(source(versionOf(a)), netip.PrefixFrom(a, a.BitLen()))...)
}

func within4or6(load expr.Any, p netip.Prefix) []expr.Any {
	n := p.Addr().BitLen() / 8
	mask := make([]byte, n)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(n), Mask: mask, Xor: make([]byte, n)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// icmpBut holds for ICMP packets of types other than one.
func icmpBut(kind byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1, DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{kind}},
	}
}

// optionOf4 holds for packets of IPv4 with an option.
func optionOf4(number uint8) []expr.Any {
	const present, ofIPv4 = 1, 2 // NFT_EXTHDR_F_PRESENT, NFT_EXTHDR_OP_IPV4
	return []expr.Any{
		&expr.Exthdr{DestRegister: 1, Type: number, Len: 1, Flags: present, Op: ofIPv4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}
}

// state holds for packets of connections in one of several states.
func state(bits uint32) []expr.Any { return connection(expr.CtKeySTATE, bits) }

// redirected holds for packets of connections that somebody gave another destination.
func redirected() []expr.Any {
	const destinationChanged = 1 << 5 // IPS_DST_NAT
	return connection(expr.CtKeySTATUS, destinationChanged)
}

func connection(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// marked marks the connection, if yes.
func marked(yes bool) []expr.Any {
	if !yes {
		return nil
	}
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: index(markExact)},
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
	}
}

// sourceTo gives a connection a source address.
func sourceTo(family uint32, a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: family, RegAddrMin: 1},
	}
}

// named16 is the name of a device as the filter holds it.
func named16(name string) []byte { return append([]byte(name), make([]byte, 16-len(name))...) }

// byName holds for packets whose device, in or out, has a name, or with not another one.
func byName(key expr.MetaKey, name string, not bool) []expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: named16(name)},
	}
}

// notToFunctions holds for packets that leave by a device that is no router's.
func notToFunctions() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(namePrefix)},
	}
}

// intervals are ranges as the filter wants them: first address, and first after the last.
func intervals(list []netip.Prefix) (elements []nftables.SetElement) {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	var end netip.Addr // first address after the range before; not valid: the range goes to the end of all
	for i, p := range sorted {
		last := lastOf(p)
		switch {
		case i > 0 && (!end.IsValid() || last.Less(end)):
			continue // within the one before
		case i > 0 && end == p.Addr():
			elements = elements[:len(elements)-1] // they touch
		default:
			elements = append(elements, nftables.SetElement{Key: p.Addr().AsSlice()})
		}
		if end = last.Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
