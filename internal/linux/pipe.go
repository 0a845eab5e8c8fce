package linux

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Pipe is one end of a pipe that can tell how much is in it. Its other methods
// are those of os.File.
type Pipe struct {
	*os.File

	mu     sync.Mutex
	conn   syscall.RawConn
	ask    func(fd uintptr) // stores unread; made once, so that asking allocates nothing
	unread int              // guarded by mu
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
	conn, err := p.File.SyscallConn()
	if err != nil {
		p.File.Close()
		return nil, err
	}
	p.conn = conn
	p.ask = func(fd uintptr) { p.unread, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }
	return p, nil
}

// Unread returns how many bytes are in the pipe that its reader, whichever end p
// is, has not read; 0 when p is closed.
func (p *Pipe) Unread() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unread = 0
	p.conn.Control(p.ask) // an error says that it is closed
	return p.unread
}
