package launch

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/protocol"
	"hob/internal/sandbox"
)

// How a sandbox ends, and how much of its last words reaches the caller.
const (
	termGrace = 300 * time.Millisecond // between SIGTERM and the end, for a process whose time is up
	lastWait  = 100 * time.Millisecond // for standard error that is still on its way
	lastBytes = 1 << 10
	lastLines = 5
)

// process is the first process of a sandbox, as package protocol sees it.
type process struct {
	launcher *Launcher
	box      sandbox.Sandbox // set once, under launcher.mu
	info     faas.Sandbox    // guarded by launcher.mu
	log      io.WriteCloser
	said     chan struct{} // closed when standard error has ended

	mu    sync.Mutex
	words []byte // the end of standard error; guarded by mu
}

var _ protocol.Process = (*process)(nil)

func (p *process) Stdin() io.WriteCloser { return p.box.Stdio().Stdin }

// Stdout returns standard output, which the driver contract says takes deadlines.
func (p *process) Stdout() protocol.Output { return p.box.Stdio().Stdout.(protocol.Output) }

// Wait returns when the process has ended and its last line is in the log: who
// reads the log after the answer finds it there.
func (p *process) Wait(ctx context.Context) (faas.Exit, error) {
	exit, err := p.box.Wait(ctx)
	if err == nil {
		p.listened()
	}
	return exit, err
}

// listened waits a moment for standard error that is still on its way.
func (p *process) listened() {
	timer := time.NewTimer(lastWait)
	defer timer.Stop()
	select {
	case <-p.said:
	case <-timer.C:
	}
}

func (p *process) Usage() (peak faas.Bytes, cpu time.Duration) {
	u := p.box.Usage()
	return u.PeakMemory, u.CPUTime
}

// listen brings standard error to the log and keeps its end.
func (p *process) listen() {
	defer close(p.said)
	defer p.log.Close()
	buf := make([]byte, 4<<10)
	for {
		n, err := p.box.Stdio().Stderr.Read(buf)
		if n > 0 {
			p.remember(buf[:n])
			_, _ = p.log.Write(buf[:n]) // what the log cannot keep, it counts itself
		}
		if err != nil {
			return
		}
	}
}

func (p *process) remember(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.words = append(p.words, b...)
	if over := len(p.words) - lastBytes; over > 0 {
		p.words = append(p.words[:0], p.words[over:]...)
	}
}

func (p *process) LastWords() string {
	p.listened()
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(p.words), "�")), "\n")
	return strings.Join(lines[max(0, len(lines)-lastLines):], "\n")
}

// Close ends the sandbox and returns when nothing of it is left. A process that
// has not ended is asked first.
func (p *process) Close() error {
	defer p.launcher.remove(p)
	err := p.box.Stop(context.Background(), termGrace)
	<-p.said
	if err != nil {
		return fmt.Errorf("end sandbox %s: %w", p.box.ID(), err)
	}
	return nil
}
