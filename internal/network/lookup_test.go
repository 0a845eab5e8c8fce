package network

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers every question with a code, and if that is success with one record.
func nameServer(t *testing.T, code dnsmessage.RCode) netip.AddrPort {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		b := make([]byte, classicSize)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			m.Response, m.RCode = true, code
			if code == dnsmessage.RCodeSuccess {
				m.Answers = texts(m.Questions[0], 1, 10, 60)
			}
			p.WriteTo(pack(&m, classicSize), from)
		}
	})
	t.Cleanup(func() { p.Close(); work.Wait() })
	return p.LocalAddr().(*net.UDPAddr).AddrPort()
}

func asker(servers ...netip.AddrPort) *responder {
	return &responder{
		r:       &Router{cfg: Config{Resolvers: servers, Dial: new(net.Dialer).DialContext}},
		lookups: newBound(1, 1),
	}
}

func TestNameServerThatDoesNotKnowIsNotTheLastAsked(t *testing.T) {
	failed, refused := nameServer(t, dnsmessage.RCodeServerFailure), nameServer(t, dnsmessage.RCodeRefused)
	none, good := nameServer(t, dnsmessage.RCodeNameError), nameServer(t, dnsmessage.RCodeSuccess)
	q := question("a.example.")
	code, answers, err := asker(failed, refused, good).lookUp(t.Context(), new(Slot), q)
	if err != nil || code != dnsmessage.RCodeSuccess || len(answers) != 1 {
		t.Errorf("after two that do not know: %v, %v, %v", code, answers, err)
	}
	code, answers, err = asker(none, good).lookUp(t.Context(), new(Slot), q)
	if err != nil || code != dnsmessage.RCodeNameError || len(answers) > 0 {
		t.Errorf("after one that knows that there is none: %v, %v, %v", code, answers, err)
	}
	_, _, err = asker(failed, refused).lookUp(t.Context(), new(Slot), q)
	for _, server := range []netip.AddrPort{failed, refused} {
		if err == nil || !strings.Contains(err.Error(), server.String()) {
			t.Errorf("nobody knows, and the error does not name %s: %v", server, err)
		}
	}
}

func TestTooManyLookupsLeaveWhatIsKnown(t *testing.T) {
	d := asker(nameServer(t, dnsmessage.RCodeSuccess))
	s, known := new(Slot), question("known.example.")
	if _, _, err := d.lookUp(t.Context(), s, known); err != nil {
		t.Fatal(err)
	}
	d.lookups.enter(s) // one that takes long
	if _, _, err := d.lookUp(t.Context(), new(Slot), question("new.example.")); err == nil || !strings.Contains(err.Error(), "at most 1") {
		t.Errorf("beyond the bound: %v; want an error with the limit", err)
	}
	if _, answers, err := d.lookUp(t.Context(), new(Slot), known); err != nil || len(answers) != 1 {
		t.Errorf("a known name: %v, %v", answers, err)
	}
}

func TestSlotHasFewConnectionsToTheNameServer(t *testing.T) {
	w := newWorld(t)
	w.names()
	r := w.router()
	s := w.take(r, "open")
	var list []net.Conn
	w.in(s.FD(), func() error {
		for range maxStreams + 1 {
			c, err := net.Dial("tcp", net.JoinHostPort(r.plan.gateway4.String(), "53"))
			if err != nil {
				return err
			}
			list = append(list, c)
		}
		return nil
	})
	last := list[maxStreams]
	last.SetDeadline(time.Now().Add(longEnough))
	if n, err := last.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the connection beyond the limit: %d bytes, %v; want that it is closed", n, err)
	}
	for _, c := range list {
		c.Close()
	}
	if m := w.query(r, s, "udp", "a.example.", dnsmessage.TypeA, 0); m.RCode != dnsmessage.RCodeSuccess {
		t.Errorf("a question besides: %v", m.RCode)
	}
}
