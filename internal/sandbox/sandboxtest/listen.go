package sandboxtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
)

// A Caller is a sandbox whose program connects to its Listener in its first
// instructions and ends with status 1 if nobody is there.
type Caller struct {
	sandbox.Sandbox
	t    *testing.T
	word string
	out  *bufio.Reader
}

// Call starts the program of spec, whose arguments must be "connect", spec.Listen
// and a word, as a Caller.
func Call(t *testing.T, d sandbox.Driver, spec sandbox.Spec) *Caller {
	t.Helper()
	b, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(context.Background(), 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return &Caller{b, t, spec.Args[len(spec.Args)-1], bufio.NewReader(b.Stdio().Stdout)}
}

// Connected waits until the program has connected.
func (c *Caller) Connected() {
	c.t.Helper()
	if line, err := c.out.ReadString('\n'); line != "connected\n" {
		why, _ := io.ReadAll(c.Stdio().Stderr)
		c.t.Fatalf("the program says %q, %v: %s", line, err, why)
	}
}

// Answered takes the connection of the program, which must say its word, and
// answers; the program must hear that and end.
func (c *Caller) Answered() {
	c.t.Helper()
	conn, err := c.Listener().Accept()
	if err != nil {
		c.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	if word, err := bufio.NewReader(conn).ReadString('\n'); word != c.word+"\n" || err != nil {
		c.t.Errorf("heard %q, %v; want %s", word, err, c.word)
	}
	io.WriteString(conn, "to "+c.word)
	conn.Close()
	if answer, err := io.ReadAll(c.out); string(answer) != "to "+c.word || err != nil {
		c.t.Errorf("%s was answered %q, %v", c.word, answer, err)
	}
	if exit, err := c.Wait(c.t.Context()); exit != (faas.Exit{}) || err != nil {
		c.t.Errorf("Wait = %+v, %v", exit, err)
	}
}

// listened is where sandboxes of the suite have their listener.
const listened = "127.0.0.1:9001"

func (s *suite) caller(t *testing.T, word string) *Caller {
	t.Helper()
	spec := s.Spec("connect", listened, word)
	spec.Listen = listened
	return Call(t, s.Driver, spec)
}

func (s *suite) testListener(t *testing.T) {
	if s.OwnKernel {
		spec := s.Spec("hang")
		spec.Listen = listened
		if _, err := s.Driver.Start(t.Context(), spec); faas.KindOf(err) != faas.Unsupported {
			t.Errorf("Start = %v, want Unsupported", err)
		}
		return
	}
	for i := range 5 { // nobody accepts before the program has connected
		c := s.caller(t, fmt.Sprint("word ", i))
		c.Connected()
		c.Answered()
	}
	one, two := s.caller(t, "one"), s.caller(t, "two")
	one.Connected()
	two.Connected()
	two.Answered()
	one.Answered()

	over := make(chan error, 1)
	go func() { _, err := one.Listener().Accept(); over <- err }()
	if err := one.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-over:
		if err == nil {
			t.Error("somebody connected to a sandbox that is stopped")
		}
	case <-time.After(patience):
		t.Error("Accept still waits after Stop")
	}
	if err := two.Listener().Close(); err != nil { // before Stop does
		t.Error(err)
	}
	if l := s.start(t, "hang").Listener(); l != nil {
		t.Errorf("a listener that nobody asked for: %v", l)
	}
}

func (s *suite) testNoListener(t *testing.T) {
	for _, at := range []string{"9001", ":9001", "localhost:9001", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "[fe80::1%lo]:9001", "unix:/tmp/s", "127.0.0.1:9001 "} {
		spec := s.Spec("hang")
		spec.Listen = at
		if _, err := s.Driver.Start(t.Context(), spec); faas.KindOf(err) != faas.Invalid {
			t.Errorf("Listen %q: %v, want Invalid", at, err)
		}
	}
	spec := s.Spec("hang")
	spec.Listen, spec.Network = listened, faas.Egress{Mode: faas.NetworkHost}
	if _, err := s.Driver.Start(t.Context(), spec); faas.KindOf(err) != faas.Invalid {
		t.Errorf("Listen in the node's network: %v, want Invalid", err)
	}
}
