// Package fake is a sandbox driver without sandboxes: functions written in Go,
// run in this process. It serves tests and "hob serve --driver=fake". Streams
// are real pipes, and starting, waiting and stopping are as the contract says,
// but nothing is isolated, no limit is enforced, and a function that does not
// look at its context cannot be killed: it is left behind.
package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/sandbox"
)

// A Program is what runs in a sandbox. It returns its exit status. ctx ends when
// it is killed.
type Program func(ctx context.Context, p *Proc) int

// Proc is a program's view of its process. Its Sockets is a directory of this
// machine, if the Spec asked for one, and its Listen a free port of this machine's
// loopback: it has no network of its own where the Spec's could be.
type Proc struct {
	sandbox.Spec
	Stdin          *os.File
	Stdout, Stderr *os.File
	Term           <-chan struct{} // closed by SIGTERM
}

// Getenv returns the value of a variable of the process, empty if it is not set.
func (p *Proc) Getenv(name string) string {
	for _, entry := range slices.Backward(p.Env) {
		if k, v, _ := strings.Cut(entry, "="); k == name {
			return v
		}
	}
	return ""
}

// Die ends the program as if the kernel had ended it, with any Exit.
func (p *Proc) Die(exit faas.Exit) { panic(death(exit)) }

type death faas.Exit

// Driver implements sandbox.Driver. Its fields are set before the first use and
// not changed after.
type Driver struct {
	// Programs are what can be run, by the name that Args begins with: as it is,
	// else its last element.
	Programs map[string]Program

	mu     sync.Mutex
	closed bool
	boxes  map[*box]struct{}
}

// New returns a Driver with these programs.
func New(programs map[string]Program) *Driver {
	return &Driver{Programs: programs, boxes: make(map[*box]struct{})}
}

// Builtin returns programs enough to try the daemon without a sandbox: cat,
// echo, env, false, sleep and true.
func Builtin() map[string]Program {
	return map[string]Program{
		"cat": func(_ context.Context, p *Proc) int { return status(io.Copy(p.Stdout, p.Stdin)) },
		"echo": func(_ context.Context, p *Proc) int {
			return status(fmt.Fprintln(p.Stdout, strings.Join(p.Args[1:], " ")))
		},
		"env":   func(_ context.Context, p *Proc) int { return status(fmt.Fprintln(p.Stdout, strings.Join(p.Env, "\n"))) },
		"false": func(context.Context, *Proc) int { return 1 },
		"true":  func(context.Context, *Proc) int { return 0 },
		"sleep": func(ctx context.Context, p *Proc) int {
			d, err := time.ParseDuration(strings.Join(p.Args[1:], "") + "s")
			if err != nil {
				fmt.Fprintln(p.Stderr, "usage: sleep SECONDS")
				return 1
			}
			select {
			case <-time.After(d):
			case <-p.Term:
				return 143
			case <-ctx.Done():
			}
			return 0
		},
	}
}

func status[N int | int64](_ N, err error) int {
	if err != nil {
		return 1
	}
	return 0
}

// Probe implements sandbox.Driver.
func (d *Driver) Probe(context.Context) (sandbox.Capabilities, error) {
	return sandbox.Capabilities{Driver: "fake", Freezer: true, Egress: true, Ports: true, Notes: []string{"nothing is isolated: this driver is for tests"}}, nil
}

// Reap implements sandbox.Driver: a dead process leaves no goroutines.
func (d *Driver) Reap(context.Context) error { return nil }

// Start implements sandbox.Driver.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if len(spec.Args) == 0 || spec.Args[0] == "" {
		return nil, faas.Errorf(faas.Invalid, "there is no command to run: neither the function nor its image has one")
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	program := d.Programs[spec.Args[0]]
	if program == nil {
		program = d.Programs[path.Base(spec.Args[0])]
	}
	if program == nil {
		return nil, faas.Errorf(faas.Invalid, "there is no program %q: the fake driver has %s",
			spec.Args[0], strings.Join(slices.Sorted(maps.Keys(d.Programs)), ", "))
	}
	if _, err := spec.Listens(); err != nil {
		return nil, err
	}
	b, proc, err := newBox(d, spec)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		b.closeStdio()
		proc.close()
		b.removeSockets()
		return nil, faas.Errorf(faas.Busy, "this node is shutting down")
	}
	d.boxes[b] = struct{}{}
	go b.run(program, proc)
	return b, nil
}

// Close implements sandbox.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closed = true
	boxes := slices.Collect(maps.Keys(d.boxes))
	d.mu.Unlock()
	for _, b := range boxes {
		if err := b.Stop(context.Background(), 0); err != nil {
			return err
		}
	}
	return nil
}

// box implements sandbox.Sandbox.
type box struct {
	d        *Driver
	id       string
	std      sandbox.Stdio
	kill     context.CancelFunc
	ctx      context.Context // of the program: ends when it is killed
	term     chan struct{}   // closed once, by the first Stop with a grace
	listener net.Listener    // nil: none
	sock     string          // the directory that stands for Spec.Sockets; "": none

	returned chan struct{} // closed when the program has returned
	stop     sync.Once
	stopped  chan struct{}

	mu    sync.Mutex
	over  bool
	exit  faas.Exit     // guarded by mu; final once over
	ended chan struct{} // closed with over

	frozen bool // guarded by mu; nothing stands still
}

var _ sandbox.Freezer = (*box)(nil)

func newBox(d *Driver, spec sandbox.Spec) (*box, *Proc, error) {
	var r, w [3]*os.File
	for i := range r {
		var err error
		if r[i], w[i], err = os.Pipe(); err != nil {
			for _, f := range slices.Concat(r[:i], w[:i]) {
				f.Close()
			}
			return nil, nil, fmt.Errorf("make the streams of a sandbox: %w", err)
		}
	}
	var ours [3]*linux.Pipe
	for i, f := range []*os.File{w[0], r[1], r[2]} {
		p, err := linux.PipeOf(f)
		if err != nil {
			return nil, nil, err
		}
		ours[i] = p
	}
	b := &box{
		d: d, id: spec.ID, std: sandbox.Stdio{Stdin: ours[0], Stdout: ours[1], Stderr: ours[2]}, term: make(chan struct{}),
		returned: make(chan struct{}), stopped: make(chan struct{}), ended: make(chan struct{}),
	}
	b.ctx, b.kill = context.WithCancel(context.Background())
	named := spec.Named()
	spec.Args, spec.Env, spec.Hostname = slices.Clone(spec.Args), slices.Clone(spec.Told(named.Hostname)), named.Hostname
	var err error
	if spec.Sockets != "" {
		b.sock, err = os.MkdirTemp("", "hob")
		spec.Sockets = b.sock
	}
	if spec.Listen != "" && err == nil {
		if b.listener, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
			spec.Listen = b.listener.Addr().String()
		}
	}
	if err != nil {
		for i := range r {
			r[i].Close()
			w[i].Close()
		}
		b.removeSockets()
		return nil, nil, fmt.Errorf("make what a sandbox is reached by: %w", err)
	}
	return b, &Proc{Spec: spec, Stdin: r[0], Stdout: w[1], Stderr: w[2], Term: b.term}, nil
}

func (p *Proc) close() {
	for _, f := range []*os.File{p.Stdin, p.Stdout, p.Stderr} {
		f.Close() // again, if the program did
	}
}

// run is the life of a process, in a goroutine that Stop waits for a moment.
func (b *box) run(program Program, p *Proc) {
	exit := faas.Exit{Code: 2}
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case death:
			exit = faas.Exit(cause)
		default:
			fmt.Fprintf(p.Stderr, "panic: %v\n", cause)
		}
		p.close()
		b.end(exit)
		close(b.returned)
	}()
	exit.Code = program(b.ctx, p)
}

// end settles how the process ended, unless that is known already.
func (b *box) end(exit faas.Exit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.over, b.exit = true, exit
		close(b.ended)
	}
}

func (b *box) ID() string           { return b.id }
func (b *box) Stdio() sandbox.Stdio { return b.std }
func (b *box) Start() faas.Start    { return faas.StartOnDemand }

// Dial reaches what a program listens on: the sockets of its directory, and this
// machine's loopback in place of a network of its own.
func (b *box) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	switch {
	case network == "tcp":
		return new(net.Dialer).DialContext(ctx, network, addr)
	case network != "unix":
		return nil, faas.Errorf(faas.Invalid, "a sandbox cannot be reached by %q", network)
	case b.sock == "":
		return nil, faas.Errorf(faas.Invalid, "sandbox %s has no directory for sockets", b.id)
	}
	dir, err := os.Open(b.sock)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	conn, err := linux.DialSocket(ctx, dir, addr)
	if errors.Is(err, linux.ErrNotSocket) {
		return nil, faas.Errorf(faas.Invalid, "%w", err)
	}
	return conn, err
}

// Freeze implements sandbox.Freezer by remembering: the program goes on.
func (b *box) Freeze() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen = true
	return nil
}

// Thaw implements sandbox.Freezer.
func (b *box) Thaw() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen = false
	return nil
}

// Frozen reports whether a sandbox of this package is frozen, for tests.
func Frozen(s sandbox.Sandbox) bool {
	b := s.(*box)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.frozen
}

func (b *box) removeSockets() {
	if b.sock != "" {
		os.RemoveAll(b.sock)
	}
}

func (b *box) Wait(ctx context.Context) (faas.Exit, error) {
	select {
	case <-b.ended:
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.exit, nil
	case <-ctx.Done():
		return faas.Exit{}, context.Cause(ctx)
	}
}

func (b *box) Stop(ctx context.Context, grace time.Duration) error {
	b.stop.Do(func() { go b.finish(grace) })
	select {
	case <-b.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop sandbox %s: %w", b.id, context.Cause(ctx))
	}
}

func (b *box) hasEnded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.over
}

// patience is how long a killed program may take to return before it is left
// behind.
const patience = 50 * time.Millisecond

func (b *box) finish(grace time.Duration) {
	defer close(b.stopped)
	if grace > 0 && !b.hasEnded() {
		close(b.term)
		wait(b.ended, grace)
		b.std.Heard()
	}
	b.end(faas.Exit{Code: 137, Signal: "SIGKILL"})
	b.kill()
	b.closeStdio()
	wait(b.returned, patience)
	b.Thaw()
	b.removeSockets()
	b.d.mu.Lock()
	delete(b.d.boxes, b)
	b.d.mu.Unlock()
}

func wait(c <-chan struct{}, atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
	}
}

func (b *box) closeStdio() {
	b.std.Stdin.Close()
	b.std.Stdout.Close()
	b.std.Stderr.Close()
	if b.listener != nil {
		b.listener.Close()
	}
}

// Usage reports one process until it ends, and no memory.
func (b *box) Usage() sandbox.Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := sandbox.Usage{}
	if !b.over {
		u.Processes = 1
	}
	if b.exit.OOM {
		u.OOMKills = 1
	}
	return u
}

// Text makes a Program of a function from input to output: for tests that do
// not care about processes. An error is printed to standard error and ends the
// program with status 1.
func Text(f func(in string) (string, error)) Program {
	return func(_ context.Context, p *Proc) int {
		var in bytes.Buffer
		if _, err := in.ReadFrom(p.Stdin); err != nil {
			return 1
		}
		out, err := f(in.String())
		if err != nil {
			fmt.Fprintln(p.Stderr, err)
			return 1
		}
		return status(io.WriteString(p.Stdout, out))
	}
}

// Listener implements sandbox.Sandbox; everybody on this machine reaches it.
func (b *box) Listener() net.Listener { return b.listener }
