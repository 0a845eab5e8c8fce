package launch

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hob/faas"
	"hob/internal/protocol"
	"hob/internal/sandbox"
)

// How a sandbox ends, and how much of its last words reaches the caller.
const (
	termGrace = 300 * time.Millisecond // between SIGTERM and the end, for a process whose time is up
	lastWait  = 100 * time.Millisecond // for standard error that is still on its way
	endWait   = 5 * time.Second        // for its end, when the process has ended: who reads it may have no turn on a busy machine
	lastBytes = 1 << 10
	lastLines = 5
)

// process is the first process of a sandbox, as package protocol sees it.
type process struct {
	launcher *Launcher
	box      sandbox.Sandbox // set once, under launcher.mu
	info     faas.Sandbox    // not changed
	function string          // ID
	name     string          // of the function, as a command names it
	network  string          // named network that it is in; "": none
	freezer  bool            // the box can be frozen
	said     chan struct{}   // closed when all that it wrote for the log is there
	payload  bool            // the beginning of what each call writes is kept, too
	frames   *frames         // that divide what it writes; nil: none

	ready  atomic.Bool            // it takes calls
	frozen atomic.Bool            //
	ending atomic.Bool            // nobody calls it any more
	uses   atomic.Int32           // calls in it now
	calls  atomic.Int32           // that it was given
	call   atomic.Pointer[string] // the latest; what it writes belongs to it

	mu      sync.Mutex
	words   []byte // the end of standard error; guarded by mu, as all below
	first   []byte // the beginning of what call firstOf wrote there; one byte more than is shown tells whether it goes on
	firstOf *string
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
		p.listened(endWait)
	}
	return exit, err
}

// listened waits for standard error that is still on its way.
func (p *process) listened(atMost time.Duration) {
	timer := time.NewTimer(atMost)
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

func (p *process) Start() faas.Start { return p.box.Start() }

func (p *process) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return p.box.Dial(ctx, network, addr)
}

// Listener implements protocol.Process.
func (p *process) Listener() net.Listener { return p.box.Listener() }

func (p *process) UnreadInput() int  { return unread(p.box.Stdio().Stdin) }
func (p *process) UnreadOutput() int { return unread(p.box.Stdio().Stdout) }

func unread(stream any) int {
	if pipe, ok := stream.(sandbox.Pipe); ok {
		return pipe.Unread()
	}
	return 0
}

// begin and end count a call.
func (p *process) begin(call *string) {
	p.call.Store(call)
	p.uses.Add(1)
	p.calls.Add(1)
}

func (p *process) end() { p.uses.Add(-1) }

// state is what users see of it.
func (p *process) state() (state, call string, calls int) {
	calls = int(p.calls.Load())
	if c := p.call.Load(); c != nil && p.uses.Load() > 0 {
		call = *c
	}
	switch {
	case p.box == nil || p.info.Format.Hot() && !p.ready.Load():
		state = "starting"
	case p.uses.Load() > 0:
		state = "busy"
	case p.ending.Load():
		state = "ending"
	case p.frozen.Load():
		state = "frozen"
	default:
		state = "idle"
	}
	return state, call, calls
}

// listen brings standard error to the log and keeps its end; and standard output,
// if that is no answer. What it begins ends with the streams, which Close sees to.
func (p *process) listen() {
	var out sync.WaitGroup
	if !p.answers() {
		out.Go(func() { p.hear(p.box.Stdio().Stdout, "stdout") })
	}
	go func() {
		p.hear(p.box.Stdio().Stderr, "stderr")
		out.Wait()
		close(p.said)
	}()
}

// answers reports whether it answers on its standard output; else that is for the log.
func (p *process) answers() bool {
	switch p.info.Format {
	case faas.FormatHTTPStream, faas.FormatPort, faas.FormatLambda:
		return false
	}
	return true
}

// hear brings one stream to the log, each line under the latest call, unless there
// are frames: then each under its own.
func (p *process) hear(stream io.Reader, name string) {
	v := &voice{p: p, name: name}
	defer v.close()
	say := func(b []byte) { v.say(p.call.Load(), b) }
	if p.frames != nil {
		s := &splitter{frames: p.frames, latest: p.call.Load, say: v.say}
		defer s.end()
		say = s.feed
	}
	buf := make([]byte, 4<<10)
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			say(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// A voice is one stream of a process on its way to the log.
type voice struct {
	p    *process
	name string
	log  io.WriteCloser // of call of; nil: nothing was said yet
	of   *string
}

// say brings a part of the stream to the log of a call.
func (v *voice) say(call *string, b []byte) {
	if v.name == "stderr" || v.p.info.Format == faas.FormatLambda { // there both are one
		v.p.remember(call, b)
	}
	if v.log == nil || call != v.of {
		v.close()
		v.of = call
		v.log = v.p.launcher.Logs.Writer(v.p.function, callOf(call), v.name)
	}
	_, _ = v.log.Write(b) // what the log cannot keep, it counts itself
}

func (v *voice) close() {
	if v.log != nil {
		v.log.Close()
	}
}

// callOf is the ID of a call, or none before the first.
func callOf(call *string) string {
	if call == nil {
		return ""
	}
	return *call
}

// remember keeps what may be asked for of standard error: its end, and the
// beginning of what a call wrote.
func (p *process) remember(call *string, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.payload && call != p.firstOf {
		p.first, p.firstOf = p.first[:0], call
	}
	if p.payload {
		p.first = append(p.first, b[:min(len(b), faas.ShortBytes+1-len(p.first))]...)
	}
	p.words = append(p.words, b...)
	if over := len(p.words) - lastBytes; over > 0 {
		p.words = append(p.words[:0], p.words[over:]...)
	}
}

// firstWords is the beginning of what a call has written on standard error, as
// far as it has been read; of functions with LogPayload only.
func (p *process) firstWords(call *string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.firstOf != call {
		return ""
	}
	return faas.Short(p.first)
}

func (p *process) LastWords() string {
	p.listened(lastWait)
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(p.words), "�")), "\n")
	return strings.Join(lines[max(0, len(lines)-lastLines):], "\n")
}

// Close ends the sandbox and returns when nothing of it is left. A process that
// has not ended is asked first, and what it still answers thrown away: nobody takes it,
// and neither its end nor that of the sandbox is to wait for that.
func (p *process) Close() error {
	defer p.launcher.remove(p)
	var rest sync.WaitGroup
	if p.answers() {
		rest.Go(func() {
			_ = p.Stdout().SetReadDeadline(time.Time{}) // of who has read it until now
			_, _ = io.Copy(io.Discard, p.Stdout())
		})
	}
	err := p.box.Stop(context.Background(), termGrace)
	rest.Wait()
	<-p.said
	if err != nil {
		return fmt.Errorf("end sandbox %s: %w", p.box.ID(), err)
	}
	return nil
}
