package linux

import (
	"io"
	"net"
	"path/filepath"
	"testing"
)

func TestSocketTellsWhetherItLiesAsItWasLeft(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := socketOf(c)
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if !s.Quiet() {
		t.Error("a new connection is not quiet")
	}
	io.WriteString(other, "x")
	if s.Quiet() {
		t.Error("one with a byte is quiet")
	}
	if _, err := s.Read(make([]byte, 1)); err != nil || !s.Quiet() {
		t.Errorf("one whose byte was read is not quiet: %v", err)
	}
	if n := testing.AllocsPerRun(100, func() { s.Quiet() }); n != 0 {
		t.Errorf("asking allocates %v times", n)
	}
	other.Close()
	if s.Quiet() {
		t.Error("one whose other end is closed is quiet")
	}
	s.Close()
	if s.Quiet() {
		t.Error("a closed one is quiet")
	}
}
