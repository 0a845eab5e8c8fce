package linux

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// connection returns both ends of one.
func connection(t *testing.T) (s *Socket, other net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if s, err = socketOf(c); err != nil {
		t.Fatal(err)
	}
	if other, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); other.Close() })
	return s, other
}

// storm sends the calling thread signals, as the runtime of Go does, until the test ends.
func storm(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	tid := unix.Gettid()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		}
	})
	t.Cleanup(func() {
		cancel()
		work.Wait()
		runtime.UnlockOSThread()
	})
}

func TestSocketIsQuietWhateverSignalsCome(t *testing.T) {
	s, _ := connection(t)
	storm(t)
	for i := range 300_000 {
		if !s.Quiet() {
			t.Fatalf("it is not quiet when it is asked for the %d. time", i+1)
		}
	}
}

func TestSocketTellsWhetherItLiesAsItWasLeft(t *testing.T) {
	s, other := connection(t)
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
