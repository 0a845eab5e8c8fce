package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hob/faas"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// responder is the name server of the slots. It asks the node's own name servers,
// and answers what the policy of the slot lets it: under Allow, only names that a
// rule has (a name can carry data out, too); never a closed address for a name
// that no rule has, so that nobody's name stands for a machine in here. Before it
// answers an address of an allowed name it opens it to the slot.
type responder struct {
	r     *Router
	udp   []*net.UDPConn
	tcp   []net.Listener
	cache cache

	datagrams, streams, lookups *bound
}

const (
	maxBusy      = 32               // queries of one slot at a time
	maxStreams   = 4                // connections of one slot
	allDatagrams = 4096             // queries of all slots, not those on connections
	allLookups   = 1024             // of those that name servers are asked for; each has a descriptor
	allStreams   = 256              // connections of all slots
	queryTime    = 5 * time.Second  // for one query, from all name servers together
	shortestLife = time.Minute      // how long an address of a name is open, at least
	longestLife  = time.Hour        // and at most: no answer says that it is good for longer
	maxAddresses = 64               // of one answer
	maxOpened    = 4096             // addresses of names that one slot has open
	classicSize  = 512              // bytes of a datagram for those who announce no more
	maxDatagram  = 1232             // and at most: no network cuts it
	idleTCP      = 10 * time.Second // for the next query on a connection
)

// newResponder listens in the calling thread's network.
func newResponder(r *Router) (*responder, error) {
	d := &responder{
		r: r, datagrams: newBound(maxBusy, allDatagrams), streams: newBound(maxStreams, allStreams), lookups: newBound(maxBusy, allLookups),
	}
	gateways := []netip.Addr{r.plan.gateway4}
	if r.plan.v6 {
		gateways = append(gateways, r.plan.gateway6)
	}
	for _, gw := range gateways {
		at := netip.AddrPortFrom(gw, 53)
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			d.close()
			return nil, fmt.Errorf("start the name server: %w", err)
		}
		d.udp = append(d.udp, u)
		t, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			d.close()
			return nil, fmt.Errorf("start the name server: %w", err)
		}
		d.tcp = append(d.tcp, t)
	}
	return d, nil
}

func (d *responder) close() {
	for _, u := range d.udp {
		u.Close()
	}
	for _, t := range d.tcp {
		t.Close()
	}
}

// serve answers until ctx is done. All that it starts is in work.
func (d *responder) serve(ctx context.Context, work *sync.WaitGroup) {
	context.AfterFunc(ctx, d.close)
	for _, u := range d.udp {
		work.Go(func() { d.serveUDP(ctx, work, u) })
	}
	for _, t := range d.tcp {
		work.Go(func() { d.serveTCP(ctx, work, t) })
	}
}

// serveUDP answers datagrams. Those beyond the bound stay without an answer: who sent them asks again.
func (d *responder) serveUDP(ctx context.Context, work *sync.WaitGroup, u *net.UDPConn) {
	buf := make([]byte, maxDatagram)
	repeat(ctx, func() error {
		n, from, err := u.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		s, _, _ := d.r.slotAt(from.Addr().Unmap())
		if s == nil || !d.datagrams.enter(s) {
			return nil
		}
		query := append([]byte(nil), buf[:n]...)
		work.Go(func() {
			defer d.datagrams.leave(s)
			if answer := d.answer(ctx, query, from.Addr().Unmap(), false); answer != nil {
				u.WriteToUDPAddrPort(answer, from)
			}
		})
		return nil
	})
}

// serveTCP answers on connections. Those beyond the bound are closed.
func (d *responder) serveTCP(ctx context.Context, work *sync.WaitGroup, t net.Listener) {
	repeat(ctx, func() error {
		conn, err := t.Accept()
		if err != nil {
			return err
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		s, _, _ := d.r.slotAt(from)
		if s == nil || !d.streams.enter(s) {
			conn.Close()
			return nil
		}
		work.Go(func() {
			defer d.streams.leave(s)
			d.converse(ctx, conn, from)
		})
		return nil
	})
}

// converse answers the queries on a connection and closes it.
func (d *responder) converse(ctx context.Context, conn net.Conn, from netip.Addr) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		conn.SetDeadline(time.Now().Add(idleTCP))
		query, err := readTCP(conn)
		if err != nil {
			return
		}
		answer := d.answer(ctx, query, from, true)
		if answer == nil || writeTCP(conn, answer) != nil {
			return
		}
	}
}

const afterError = 100 * time.Millisecond

// repeat carries out f again and again until ctx is done or what f reads from is closed.
// After any other error it pauses: a process without a free descriptor would get it
// again at once.
func repeat(ctx context.Context, f func() error) {
	for ctx.Err() == nil {
		err := f()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(afterError):
			}
		}
	}
}

func readTCP(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeTCP(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// answer is the answer to a query, nil for one that deserves none.
func (d *responder) answer(ctx context.Context, query []byte, from netip.Addr, stream bool) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	s, policy, owner := d.r.slotAt(from)
	if s == nil {
		return nil
	}
	m := &dnsmessage.Message{Header: dnsmessage.Header{
		ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
	}}
	q, err := p.Question()
	switch {
	case err != nil || h.OpCode != 0:
		m.RCode = dnsmessage.RCodeFormatError
		return pack(m, classicSize)
	case q.Class != dnsmessage.ClassINET || q.Type >= 128 && q.Type <= 255: // meta types: transfers, ANY
		m.RCode = dnsmessage.RCodeNotImplemented
	}
	m.Questions = []dnsmessage.Question{q}
	if m.RCode == 0 {
		ctx, cancel := context.WithTimeout(ctx, queryTime)
		defer cancel()
		d.fill(ctx, m, s, policy, owner)
	}
	size := classicSize
	if takes, ok := announced(&p); ok { // they have EDNS: so have we
		size = takes
		var opt dnsmessage.ResourceHeader
		if opt.SetEDNS0(maxDatagram, m.RCode, false) == nil {
			m.Additionals = []dnsmessage.Resource{{Header: opt, Body: &dnsmessage.OPTResource{}}}
		}
	}
	if stream {
		size = 1<<16 - 1
	}
	return pack(m, size)
}

// announced is how long a datagram the asker takes; false: it does not say.
func announced(p *dnsmessage.Parser) (int, bool) {
	if errors.Join(p.SkipAllQuestions(), p.SkipAllAnswers(), p.SkipAllAuthorities()) != nil {
		return 0, false
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return 0, false
		}
		if h.Type == dnsmessage.TypeOPT {
			return min(max(int(h.Class), classicSize), maxDatagram), true
		}
		if p.SkipAdditional() != nil {
			return 0, false
		}
	}
}

// pack is a message as bytes, cut where it is longer than size.
func pack(m *dnsmessage.Message, size int) []byte {
	b, err := m.Pack()
	if err != nil {
		m.Answers, m.RCode = nil, dnsmessage.RCodeServerFailure
		b, _ = m.Pack()
	}
	if len(b) > size {
		m.Answers, m.Truncated = nil, true
		b, _ = m.Pack()
	}
	return b
}

// fill answers a question as the policy wants it.
func (d *responder) fill(ctx context.Context, m *dnsmessage.Message, s *Slot, p faas.Egress, owner string) {
	q := m.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		m.Answers = localhost(q) // the function's own, whatever the policy is
		return
	}
	var rules []int
	for i, r := range p.Rules {
		if r.Covers(name) {
			rules = append(rules, i)
		}
	}
	if p.Mode == faas.NetworkAllow && len(rules) == 0 {
		// Resolvers believe it at once; for another error they would ask everybody again.
		m.RCode, m.Authoritative = dnsmessage.RCodeNameError, true
		d.r.refusedName(s, Refusal{Owner: owner, Name: name})
		return
	}
	if len(rules) == 0 && hidden(name, p.Rules) {
		m.RCode, m.Authoritative = dnsmessage.RCodeNameError, true
		return
	}
	const svcb, https = 64, 65
	if q.Type == svcb || q.Type == https {
		return // they carry addresses: nobody needs them who asks for addresses, too
	}
	code, answers, err := d.lookUp(ctx, s, q)
	if err != nil {
		d.r.cfg.Log.Debug("a name could not be looked up", "name", name, "sandbox", owner, "err", err)
		m.RCode = dnsmessage.RCodeServerFailure
		return
	}
	m.RCode = code
	var addrs []netip.Addr
	var withheld netip.Addr
	m.Answers, addrs, withheld = permitted(answers, p, len(rules) > 0)
	if len(addrs) == 0 && withheld.IsValid() {
		to := netip.AddrPortFrom(withheld.Unmap(), 0)
		d.r.refusedName(s, Refusal{Owner: owner, Name: name, To: to, why: d.r.whyNeverByName(withheld)})
	}
	if len(rules) == 0 || len(addrs) == 0 {
		return
	}
	d.r.standsFor(s, owner, name, addrs)
	if err := d.r.open(s, owner, rules, addrs, max(lifeOf(m.Answers), shortestLife)); err != nil {
		d.r.cfg.Log.Warn("the addresses of a name could not be opened", "name", name, "sandbox", owner, "err", err)
		m.Answers, m.RCode = nil, dnsmessage.RCodeServerFailure
	}
}

func localhost(q dnsmessage.Question) []dnsmessage.Resource {
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: uint32(longestLife / time.Second)}
	switch q.Type {
	case dnsmessage.TypeA:
		return []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
	case dnsmessage.TypeAAAA:
		return []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: netip.IPv6Loopback().As16()}}}
	}
	return nil
}

// permitted is what of an answer a slot may learn, and which addresses that has; withheld
// is one that it has not. named: a rule has the name that was asked for.
func permitted(answers []dnsmessage.Resource, p faas.Egress, named bool) (kept []dnsmessage.Resource, addrs []netip.Addr, withheld netip.Addr) {
	for _, a := range answers {
		a.Header.TTL = min(a.Header.TTL, uint32(longestLife/time.Second))
		owner := strings.ToLower(strings.TrimSuffix(a.Header.Name.String(), "."))
		if !named && hidden(owner, p.Rules) { // which the name that was asked for is another name of
			continue
		}
		if ip, ok := addressIn(a); ok {
			if !mayAnswer(ip, p, named) {
				withheld = ip
				continue
			}
			if len(addrs) == maxAddresses {
				continue
			}
			addrs = append(addrs, ip)
		}
		kept = append(kept, a)
	}
	return kept, addrs, withheld
}

// lifeOf is how long the addresses in an answer are good.
func lifeOf(answers []dnsmessage.Resource) time.Duration {
	life := longestLife
	for _, a := range answers {
		if _, ok := addressIn(a); ok {
			life = min(life, time.Duration(a.Header.TTL)*time.Second)
		}
	}
	return life
}

// mayAnswer reports whether a slot may learn an address. named: a rule has the name.
func mayAnswer(a netip.Addr, p faas.Egress, named bool) bool {
	for _, r := range p.Rules {
		if opens(r, a, false) {
			return true
		}
	}
	if named {
		return !never(a)
	}
	return !Closed(a)
}

func addressIn(r dnsmessage.Resource) (netip.Addr, bool) {
	switch body := r.Body.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(body.A), true
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(body.AAAA), true
	}
	return netip.Addr{}, false
}

// slotAt returns the slot with an address, with its policy and owner now; nil: nobody has it.
func (r *Router) slotAt(a netip.Addr) (s *Slot, p faas.Egress, owner string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s = r.byAddr[a]; s != nil {
		p, owner = s.policy, s.owner
	}
	return s, p, owner
}

// opened is an address that is open for a rule's name.
type opened struct {
	rule int
	addr netip.Addr
}

// open opens addresses to a slot for some rules, unless they are open for long enough.
func (r *Router) open(s *Slot, owner string, rules []int, addrs []netip.Addr, life time.Duration) error {
	s.names.Lock()
	defer s.names.Unlock()
	r.mu.Lock()
	gone := s.owner != owner
	r.mu.Unlock()
	if gone || !s.chain {
		return nil
	}
	now := time.Now()
	for key, until := range s.opened {
		if until.Before(now) {
			delete(s.opened, key)
		}
	}
	for _, rule := range rules {
		var fresh, again []netip.Addr
		for _, a := range addrs {
			until, ok := s.opened[opened{rule, a}]
			if until.After(now.Add(life/2)) || slices.Contains(fresh, a) {
				continue
			}
			if ok {
				again = append(again, a)
			}
			fresh = append(fresh, a)
		}
		if n := len(s.opened) + len(fresh) - len(again); n > maxOpened {
			return fmt.Errorf("%d addresses of names would be open, at most %d can be", n, maxOpened)
		}
		// With half as much again: who asked uses the address a moment later.
		if err := r.filter.addNames(s, rule, again, fresh, life+life/2); err != nil {
			return err
		}
		until := time.Now().Add(life + life/2) // not before the kernel's
		for _, a := range fresh {
			s.opened[opened{rule, a}] = until
		}
	}
	return nil
}
