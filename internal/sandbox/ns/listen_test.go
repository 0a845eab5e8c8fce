package ns

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// caller is a Spec whose program connects to its listener at addr at once.
func caller(t *testing.T, addr string) sandbox.Spec {
	s := spec(t, "prog", "connect", addr, "hello")
	s.Listen = addr
	return s
}

func TestListenerIsThereHoweverTheSandboxIsStarted(t *testing.T) {
	d, none := open(t), open(t, func(c *Config) { c.Blanks = -1 })
	for _, addr := range []string{"127.0.0.1:9001", "[::1]:9001", "127.9.8.7:80"} { // as user 1000
		s := caller(t, addr)
		until(t, "berths are ready", func() bool { return len(d.ready) == d.base })
		for _, want := range []faas.Start{faas.StartBare, faas.StartPrepared, faas.StartPrepared, faas.StartOnDemand} {
			on := d
			switch want {
			case faas.StartPrepared:
				stocked(t, d, s, 1)
			case faas.StartOnDemand:
				on = none
			}
			c := sandboxtest.Call(t, on, s)
			if c.Start() != want {
				t.Errorf("%s: made from %s, want %s", addr, c.Start(), want)
			}
			c.Connected()
			c.Answered()
		}
	}
	s := caller(t, "0.0.0.0:9001")
	s.Args[2] = "127.0.0.1:9001"
	c := sandboxtest.Call(t, d, s)
	c.Connected()
	c.Answered()

	s.Listen = "10.1.2.3:9001"
	if _, err := d.Start(t.Context(), s); faas.KindOf(err) != faas.Invalid || !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("%s, which its network does not have: %v, want Invalid", s.Listen, err)
	}
}

func TestListenerIsReachedFromItsSandboxOnly(t *testing.T) {
	d := open(t)
	free, err := net.Listen("tcp4", "127.9.8.7:0") // where nobody else listens when it is closed
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	addr := free.Addr().String() // somebody else's in the node's network
	c := sandboxtest.Call(t, d, caller(t, addr))
	c.Connected()

	ours, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	ours.Close()
	if met, err := free.Accept(); err != nil {
		t.Error(err)
	} else {
		met.Close()
	}
	free.Close()
	until(t, "a connection from the node is refused", func() bool { // a blank that is being prepared has free's socket for a moment
		conn, err := net.Dial("tcp4", addr)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	if r := run(t, d, spec(t, "prog", "dial", addr)); !strings.Contains(r.out, "connection refused") {
		t.Errorf("from another sandbox: %s", r.out)
	}
	c.Answered()
	c.Listener().(*net.TCPListener).SetDeadline(time.Now().Add(time.Millisecond))
	if conn, err := c.Listener().Accept(); err == nil {
		t.Errorf("%v was let in", conn.RemoteAddr())
	}
}

func TestNothingIsLeftOfListeners(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NothingLeft(t, testenv.Mark())
	layer(t)
	before := len(testenv.Descriptors())
	t.Run("", func(t *testing.T) {
		d := open(t)
		s := caller(t, "127.0.0.1:9001")
		for range 10 {
			from(t, d, s)
		}
		failing := s
		failing.Args = []string{"no-such-program"}
		if _, err := d.Start(t.Context(), failing); faas.KindOf(err) != faas.Invalid {
			t.Error(err)
		}
		stocked(t, d, s, 1) // and is ended with the driver
		start(t, d, s)
	})
	if after := len(testenv.Descriptors()); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
