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

// A Socket is a connection that can tell whether it lies as it was left. Its other
// methods are those of net.Conn.
type Socket struct {
	net.Conn
	raw syscall.RawConn
	ask func(fd uintptr) // stores what poll says; made once, so that asking allocates nothing

	mu    sync.Mutex
	polls [1]unix.PollFd // guarded by mu, as all below
	ready int
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
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	s := &Socket{Conn: c, raw: raw}
	s.ask = func(fd uintptr) {
		s.polls[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
		for err := error(unix.EINTR); err == unix.EINTR; { // nothing is ready, and the runtime of Go has a signal for the thread
			s.ready, err = unix.Poll(s.polls[:], 0)
		}
	}
	return s, nil
}

// Quiet reports whether nothing has come that was not read, and the other end is
// open. It is false after Close.
func (s *Socket) Quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = 1
	_ = s.raw.Control(s.ask) // an error says that it is closed
	return s.ready == 0
}

// gauge tells how much is unread in a pipe.
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

// Unread returns how many bytes have been written and not read by the reader of the
// pipe, whichever end this is. It is 0 after Close.
func (g *gauge) Unread() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unread = 0
	g.conn.Control(g.ask) // an error says that it is closed
	return g.unread
}
