package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// lookUp answers a slot's question from the cache, else asks the node's name servers, one
// after another until one knows whether there is such a name. The answers are the caller's.
func (d *responder) lookUp(ctx context.Context, s *Slot, q dnsmessage.Question) (dnsmessage.RCode, []dnsmessage.Resource, error) {
	lower, err := dnsmessage.NewName(strings.ToLower(q.Name.String()))
	if err != nil {
		return 0, nil, err
	}
	key := dnsmessage.Question{Name: lower, Type: q.Type, Class: q.Class}
	if code, answers, ok := d.cache.get(key); ok {
		return code, answers, nil
	}
	if !d.lookups.enter(s) {
		return 0, nil, fmt.Errorf("too many lookups are in work, at most %d can be of one sandbox and %d of all", d.lookups.each, d.lookups.all)
	}
	defer d.lookups.leave(s)
	servers := d.r.cfg.Resolvers
	if servers == nil {
		if servers, err = systemResolvers(); err != nil {
			return 0, nil, err
		}
	}
	errs := []error{errors.New("no name server knew")}
	for _, server := range servers {
		m, err := d.ask(ctx, server, key)
		switch {
		case err != nil:
			errs = append(errs, err)
		case m.RCode != dnsmessage.RCodeSuccess && m.RCode != dnsmessage.RCodeNameError:
			errs = append(errs, fmt.Errorf("ask the name server %s: %s", server, m.RCode))
		default:
			answers := chain(m.Answers, key)
			d.cache.put(s, key, m.RCode, answers)
			return m.RCode, answers, nil
		}
	}
	return 0, nil, errors.Join(errs...)
}

// chain keeps of an answer what answers the question: records of its name and of
// those that it is another name for.
func chain(answers []dnsmessage.Resource, q dnsmessage.Question) (kept []dnsmessage.Resource) {
	name := strings.ToLower(q.Name.String())
	for range 16 {
		next := ""
		for _, a := range answers {
			if !strings.EqualFold(a.Header.Name.String(), name) || a.Header.Class != dnsmessage.ClassINET {
				continue
			}
			if a.Header.Type == q.Type {
				kept = append(kept, a)
			} else if cname, ok := a.Body.(*dnsmessage.CNAMEResource); ok && next == "" {
				kept = append(kept, a)
				next = strings.ToLower(cname.CNAME.String())
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	return kept
}

// serverTime is how long one name server may take.
const serverTime = 2 * time.Second

// ask asks one name server, from a port and with a number that nobody can know.
func (d *responder) ask(ctx context.Context, server netip.AddrPort, q dnsmessage.Question) (*dnsmessage.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTime)
	defer cancel()
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{q},
	}
	packed, err := query.Pack()
	if err != nil {
		return nil, err
	}
	m, err := d.exchange(ctx, "udp", server, packed, query.ID, q)
	if err == nil && m.Truncated {
		m, err = d.exchange(ctx, "tcp", server, packed, query.ID, q)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the name server %s: %w", server, err)
	}
	return m, nil
}

func (d *responder) exchange(ctx context.Context, network string, server netip.AddrPort, query []byte, id uint16, q dnsmessage.Question) (*dnsmessage.Message, error) {
	conn, err := d.r.cfg.Dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	send, receive := func() error { _, err := conn.Write(query); return err }, func() ([]byte, error) {
		b := make([]byte, 4096)
		n, err := conn.Read(b)
		return b[:n], err
	}
	if network == "tcp" {
		send, receive = func() error { return writeTCP(conn, query) }, func() ([]byte, error) { return readTCP(conn) }
	}
	if err := send(); err != nil {
		return nil, err
	}
	for {
		b, err := receive()
		if err != nil {
			return nil, err
		}
		var m dnsmessage.Message
		if m.Unpack(b) == nil && m.ID == id && m.Response && len(m.Questions) == 1 && m.Questions[0] == q {
			return &m, nil
		} // else it is not the answer to this: wait on
		if network == "tcp" {
			return nil, errors.New("the answer is not to the question")
		}
	}
}

// systemResolvers are the name servers in /etc/resolv.conf, at most three.
func systemResolvers() (list []netip.AddrPort, err error) {
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(data) {
		words := strings.Fields(string(line))
		if len(words) < 2 || words[0] != "nameserver" || len(list) == 3 {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			list = append(list, netip.AddrPortFrom(a, 53))
		}
	}
	if len(list) == 0 {
		return nil, &net.DNSError{Err: "/etc/resolv.conf names no name server"}
	}
	return list, nil
}
