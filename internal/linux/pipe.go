package linux

import (
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Pipe is one end of a pipe that can tell how much is in it. Its other methods
// are those of os.File.
type Pipe struct {
	*os.File
	gauge
}

// A Socket is a connection that can tell how much has come and was not read. Its
// other methods are those of net.Conn.
type Socket struct {
	net.Conn
	gauge
}

// NewPipe takes over the end of a pipe open as fd, and lets reads and writes of it
// wait without a thread.
func NewPipe(fd int) (*Pipe, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return PipeOf(os.NewFile(uintptr(fd), "pipe"))
}

// PipeOf takes over one end of a pipe.
func PipeOf(f *os.File) (*Pipe, error) {
	p := &Pipe{File: f}
	if err := p.gauge.of(f); err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// socketOf takes over a connection.
func socketOf(c net.Conn) (*Socket, error) {
	s := &Socket{Conn: c}
	if err := s.gauge.of(c.(syscall.Conn)); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

// gauge tells how much is unread in what a descriptor names.
type gauge struct {
	mu     sync.Mutex
	conn   syscall.RawConn
	ask    func(fd uintptr) // stores unread; made once, so that asking allocates nothing
	unread int              // guarded by mu
}

func (g *gauge) of(c syscall.Conn) (err error) {
	g.conn, err = c.SyscallConn()
	g.ask = func(fd uintptr) { g.unread, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }
	return err
}

// Unread returns how many bytes have been written and not read: of a pipe, by its
// reader, whichever end this is; of a socket, by us. It is 0 after Close.
func (g *gauge) Unread() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unread = 0
	g.conn.Control(g.ask) // an error says that it is closed
	return g.unread
}
