package sandboxtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
)

// A Server is a sandbox whose program serves sockets as it is told.
type Server struct {
	sandbox.Sandbox
	t   *testing.T
	out *bufio.Reader
}

// Serve starts the program of spec, whose arguments must be "serve" and a word,
// as a Server.
func Serve(t *testing.T, d sandbox.Driver, spec sandbox.Spec) *Server {
	t.Helper()
	spec.Env = append(spec.Env, "SOCKETS="+spec.Sockets)
	b, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(context.Background(), 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return &Server{b, t, bufio.NewReader(b.Stdio().Stdout)}
}

// Do has the program carry out a line, which must succeed.
func (s *Server) Do(line string) {
	s.t.Helper()
	fmt.Fprintln(s.Stdio().Stdin, line)
	if answer, err := s.out.ReadString('\n'); answer != "ok\n" {
		s.t.Fatalf("%s: %q, %v", line, answer, err)
	}
}

// Hear dials and returns what the other side says.
func (s *Server) Hear(network, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	c, err := s.Dial(ctx, network, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(c)
	return string(text), err
}

// server starts a Server that says word.
func (s *suite) server(t *testing.T, word string) *Server {
	t.Helper()
	spec := s.Spec("serve", word)
	spec.Sockets = "/tmp/iofs"
	return Serve(t, s.Driver, spec)
}

func (s *suite) testDialUnix(t *testing.T) {
	b := s.server(t, "hello")
	ok := func(name string) {
		t.Helper()
		if got, err := b.Hear("unix", name); got != "hello" || err != nil {
			t.Errorf("%s: heard %q, %v; want hello", name, got, err)
		}
	}
	refused := func(name, because string) {
		t.Helper()
		_, err := b.Hear("unix", name)
		if faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), because) {
			t.Errorf("%s: %v (%s), want Invalid because of %s", name, err, faas.KindOf(err), because)
		}
	}
	later := func(name string, want error) {
		t.Helper()
		if _, err := b.Hear("unix", name); !errors.Is(err, want) || faas.KindOf(err) == faas.Invalid {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}

	later("a", fs.ErrNotExist)
	b.Do("listen unix @a")
	ok("a")
	b.Do("mode @a 600")
	later("a", fs.ErrPermission)
	b.Do("mode @a 666")
	ok("a")
	b.Do("link a @relative")
	ok("relative")
	b.Do("link nothing @dangling")
	later("dangling", fs.ErrNotExist)

	b.Do("link /tmp/iofs/a @absolute")
	refused("absolute", "an absolute link")
	b.Do("link ../outside @out")
	refused("out", "a link out of the directory")
	b.Do("link .. @parent")
	refused("parent", "a link out of the directory")
	b.Do("link relative @twice")
	refused("twice", "a link to a link")
	b.Do("file @file")
	refused("file", "a file and no socket")
	if b.Do("fifo @fifo"); !s.OwnKernel {
		refused("fifo", "a named pipe and no socket")
	}
	for _, name := range []string{"", ".", "..", "../a", "/tmp/iofs/a", "x/a"} {
		refused(name, "only a socket in the directory itself")
	}

	if b.Do("close @a"); !s.OwnKernel {
		later("a", syscall.ECONNREFUSED)
	}
	b.Do("remove @a")
	later("a", fs.ErrNotExist)
	b.Do("listen unix @a")
	ok("a")

	none := s.start(t, "hang")
	if _, err := none.Dial(t.Context(), "unix", "a"); faas.KindOf(err) != faas.Invalid {
		t.Errorf("without a directory for sockets: %v, want Invalid", err)
	}
	if _, err := none.Dial(t.Context(), "udp", "127.0.0.1:53"); faas.KindOf(err) != faas.Invalid {
		t.Errorf("udp: %v, want Invalid", err)
	}
}

// freePort returns an address on which nobody listens, for a driver without networks. It
// is none of those that the kernel gives to whoever asks for any.
func freePort(t *testing.T) string {
	t.Helper()
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
}

func (s *suite) testDialTCP(t *testing.T) {
	addr := freePort(t)
	b := s.server(t, "hello")
	if s.OwnKernel {
		if _, err := b.Dial(t.Context(), "tcp", addr); faas.KindOf(err) != faas.Unsupported {
			t.Errorf("Dial = %v, want Unsupported", err)
		}
		return
	}
	if _, err := b.Hear("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v, want a refusal", err)
	}
	b.Do("listen tcp " + addr)
	for range 3 {
		if got, err := b.Hear("tcp", addr); got != "hello" || err != nil {
			t.Errorf("heard %q, %v; want hello", got, err)
		}
	}
}

func (s *suite) testUnread(t *testing.T) {
	b := s.server(t, "")
	in, ok := b.Stdio().Stdin.(sandbox.Pipe)
	out, ok2 := b.Stdio().Stdout.(sandbox.Pipe)
	if !ok || !ok2 {
		return // they may be
	}
	until := func(p sandbox.Pipe, want int) {
		t.Helper()
		for end := time.Now().Add(patience); p.Unread() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d bytes are unread, want %d", p.Unread(), want)
			}
		}
	}
	fmt.Fprintln(b.Stdio().Stdin, "file @a")
	until(in, 0)
	until(out, len("ok\n"))
	if line, _ := b.out.ReadString('\n'); line != "ok\n" || out.Unread() != 0 {
		t.Errorf("line %q, then %d bytes are unread", line, out.Unread())
	}
	b.Stop(t.Context(), 0)
	if n := out.Unread(); n != 0 {
		t.Errorf("%d bytes are unread in a closed pipe", n)
	}
}

func (s *suite) testFreeze(t *testing.T) {
	caps, err := s.Driver.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := s.server(t, "hello")
	f, ok := b.Sandbox.(sandbox.Freezer)
	if ok && !caps.Freezer {
		if err := f.Freeze(); faas.KindOf(err) != faas.Unsupported {
			t.Errorf("Freeze = %v, want Unsupported", err)
		}
	}
	if !caps.Freezer {
		return
	}
	b.Do("listen unix @a")
	for range 3 {
		freeze(t, f)
		if err := errors.Join(f.Freeze(), f.Thaw(), f.Thaw()); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Hear("unix", "a"); got != "hello" || err != nil {
			t.Errorf("heard %q, %v after a thaw; want hello", got, err)
		}
	}
	freeze(t, f)
	if err := b.Stop(t.Context(), time.Millisecond); err != nil {
		t.Errorf("Stop of a frozen one: %v", err)
	}
}

// freeze freezes a sandbox. A machine that is busy may keep it from standing still for
// longer than Freeze waits: then it goes on, and may be tried again.
func freeze(t *testing.T, f sandbox.Freezer) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		err := f.Freeze()
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "does not stand still") || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
