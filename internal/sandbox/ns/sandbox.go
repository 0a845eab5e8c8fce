package ns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/network"
	"hob/internal/sandbox"
)

// box implements sandbox.Sandbox.
type box struct {
	d        *Driver
	id       string
	host     string // its name
	process  *linux.Process
	cgroup   *linux.Cgroup
	root     *root
	userns   int // its user namespace; negative: none
	std      sandbox.Stdio
	from     faas.Start
	sockets  *os.File     // the mount at Spec.Sockets; nil: none
	listener net.Listener // on Spec.Listen; nil: none
	mounts   *os.File     // the mount namespace, so that the end of the process does not wait for its end; nil: it does
	hostNet  bool
	slot     *network.Slot   // its network, if it has a device; nil: a loopback, or the node's
	vacated  <-chan struct{} // closed when the thread that made the process has left the cgroup

	ended   chan struct{} // closed when the process is reaped and exit, failed are set
	exit    faas.Exit
	failed  error
	stop    sync.Once
	ending  chan struct{} // closed by the first Stop
	stopped chan struct{} // closed when nothing is left
	stopErr error

	mu    sync.Mutex
	gone  bool          // the cgroup is removed; guarded by mu, as usage
	usage sandbox.Usage // last known

	freezing sync.Mutex  // held by who freezes or thaws
	still    atomic.Bool // it is frozen
}

// Start implements sandbox.Driver.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	spec, err := d.complete(spec)
	if err != nil {
		return nil, err
	}
	if !d.enter() {
		return nil, errClosing
	}
	defer d.work.Done()
	d.starting.Add(1)
	defer d.starting.Add(-1)
	key := d.stock.key(spec)
	b, err := d.startPrepared(key, spec)
	if b == nil && err == nil {
		b, err = d.start(ctx, spec)
	}
	if err != nil {
		return nil, classify(spec, err)
	}
	d.mu.Lock()
	d.boxes[b] = struct{}{}
	d.mu.Unlock()
	d.work.Go(b.watch)
	d.stock.started(key, spec, b.from)
	return b, nil
}

// errClosing is what callers get from a driver that is closing.
var errClosing = faas.Errorf(faas.Busy, "this node is shutting down")

// enter lets a Start in, which must end with d.work.Done. It reports false if the
// driver is closing: Close waits for all that were let in.
func (d *Driver) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.work.Add(1)
	return true
}

// start makes the sandbox in the next berth that is ready, of the bare blank there
// if there is one.
func (d *Driver) start(ctx context.Context, spec sandbox.Spec) (*box, error) {
	b, o, err := d.outfit(ctx, spec, false)
	if err != nil {
		return nil, err
	}
	defer o.release()
	at, err := d.take(ctx)
	if err != nil {
		b.discard()
		return nil, err
	}
	b.cgroup = at.cgroup
	if err = b.cgroup.Limit(limits(spec)); err == nil {
		err = d.carryOut(b, at, spec, o.givens)
	}
	d.vacate(at, b, err == nil)
	if err != nil {
		b.discard()
		return nil, err
	}
	return b, nil
}

// carryOut makes the process of b execute its program.
func (d *Driver) carryOut(b *box, at *berth, spec sandbox.Spec, g givens) error {
	spec.Env = spec.Told(b.host)
	if bare := at.blank; bare != nil {
		at.blank = nil
		p := linux.NewProgram(stepsOfStart)
		d.prepare(p, spec, g, true)
		execute(p, spec)
		bare.program.Resume(p)
		if r := <-bare.result; !r.unused() {
			b.from = faas.StartBare
			return b.adopt(r)
		}
	}
	p := linux.NewProgram(stepsOfStart)
	d.born(p)
	d.prepare(p, spec, g, false)
	execute(p, spec)
	b.from = faas.StartOnDemand
	return b.adopt(<-d.spawn(at, p, 0).result)
}

// adopt takes over the process that was made for b.
func (b *box) adopt(r spawned) (err error) {
	if r.err != nil {
		return r.err
	}
	b.process, err = r.head.Process(r.pid, r.pidfd)
	return err
}

// vacate lets the berth go on when the process of b is made, or will not be.
func (d *Driver) vacate(at *berth, b *box, made bool) {
	vacated := make(chan struct{})
	b.vacated = vacated
	d.leave(at, func() {
		close(vacated)
		if !made {
			d.remove(b.cgroup)
		}
	})
}

// discard releases what b has but for its cgroup, when no process of it is left.
func (b *box) discard() {
	b.closeStdio()
	if b.mounts != nil {
		b.mounts.Close()
	}
	if b.slot != nil {
		b.slot.Release()
	}
	b.root.users.put(b.userns)
	b.d.roots.put(b.root)
}

// limits returns the limits of the cgroup of spec.
func limits(spec sandbox.Spec) linux.Limits {
	return linux.Limits{Memory: int64(spec.Memory), CPU: int64(spec.CPU), PIDs: spec.PIDs}
}

// An outfit is what a process is given, until it has its own of it.
type outfit struct {
	givens
	inner [3]*os.File
	net   *network.Network // nil: a slot of the box, or the daemon's
}

// outfit makes a box that lacks a cgroup and a process, and what its process will
// need.
func (d *Driver) outfit(ctx context.Context, spec sandbox.Spec, ahead bool) (_ *box, _ *outfit, err error) {
	r, err := d.roots.get(spec.Root, directories(spec), d.resolvConf(spec))
	if err != nil {
		return nil, nil, err
	}
	b := &box{
		d: d, id: spec.ID, host: spec.Named().Hostname, root: r, userns: -1, hostNet: spec.HostNetwork(),
		ended: make(chan struct{}), ending: make(chan struct{}), stopped: make(chan struct{}),
	}
	o := &outfit{givens: givens{host: b.host, ids: r.users.base, userns: -1, root: -1, path: r.path, net: -1, dev: -1, sockets: -1}}
	defer func() {
		if err != nil {
			o.release()
			b.discard()
		}
	}()
	if b.userns, err = r.users.take(); err != nil {
		return nil, nil, err
	}
	o.userns = b.userns
	inner, outer, err := pipes()
	if err != nil {
		return nil, nil, err
	}
	b.std = sandbox.Stdio{Stdin: outer[0], Stdout: outer[1], Stderr: outer[2]}
	o.inner = inner
	o.in, o.out, o.err = int(inner[0].Fd()), int(inner[1].Fd()), int(inner[2].Fd())
	if spec.Sockets != "" {
		if b.sockets, err = linux.SocketDir(r.users.base+int(spec.User.UID), r.users.base+int(spec.User.GID)); err != nil {
			return nil, nil, err
		}
		o.sockets = int(b.sockets.Fd())
	}
	if spec.Writable {
		d.vault.Do(func() {
			o.root, err = d.writableRoot(r, strconv.FormatInt(d.cgroupN.Add(1), 10), spec.TmpSize, spec.TmpInodes)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if len(spec.Devices) > 0 {
		if o.dev, err = d.makeDev(spec.Devices, r.users.base); err != nil {
			return nil, nil, fmt.Errorf("make the devices of a sandbox: %w", err)
		}
	}
	if err = d.connect(ctx, b, o, spec, ahead); err != nil {
		return nil, nil, err
	}
	if at, _ := spec.Listens(); at.IsValid() { // complete has looked at it
		if b.listener, err = d.listen(at, o.givens.net); err != nil {
			return nil, nil, err
		}
	}
	return b, o, nil
}

// resolvConf is the /etc/resolv.conf of spec; "": that of the image.
func (d *Driver) resolvConf(spec sandbox.Spec) string {
	switch {
	case spec.OwnDevice():
		return string(d.cfg.Router.ResolvConf())
	case spec.HostNetwork():
		text, _ := os.ReadFile("/etc/resolv.conf") // where there is none, programs do without on the node, too
		return string(text)
	}
	return ""
}

// connect gives a box and its outfit the network of spec. ahead of need it takes only a
// slot that can be spared.
func (d *Driver) connect(ctx context.Context, b *box, o *outfit, spec sandbox.Spec, ahead bool) (err error) {
	switch {
	case spec.HostNetwork():
	case spec.OwnDevice() && ahead:
		if b.slot, err = d.cfg.Router.Spare(spec.Network, spec.ID); err != nil {
			return err
		}
		o.givens.net = b.slot.FD()
	case spec.OwnDevice():
		if b.slot, err = d.cfg.Router.Take(ctx, spec.Network, spec.ID); err != nil {
			return faas.Errorf(faas.Busy, "%w", err)
		}
		o.givens.net = b.slot.FD()
	default:
		if o.net, err = d.networks.Take(); err != nil {
			return err
		}
		o.givens.net = o.net.FD()
	}
	return nil
}

// release closes what the process has its own of by now, or will never have.
func (o *outfit) release() {
	for _, f := range o.inner {
		if f != nil {
			f.Close()
		}
	}
	if o.net != nil {
		o.net.Close()
	}
	for _, fd := range []int{o.root, o.dev} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// watch waits for the end of the first process. With it the kernel has ended all
// others of the PID namespace before it lets us know.
func (b *box) watch() {
	e, err := b.process.Wait()
	b.failed = err
	b.exit = faas.Exit{Code: e.Code}
	if e.Code != 0 { // whoever succeeds is not asked what it cost
		b.exit.OOM = b.cgroup.OOMKills() > 0
	}
	if e.Signal != 0 {
		b.exit.Code, b.exit.Signal = 128+int(e.Signal), unix.SignalName(e.Signal)
	}
	close(b.ended)
}

func (b *box) ID() string           { return b.id }
func (b *box) Stdio() sandbox.Stdio { return b.std }
func (b *box) Start() faas.Start    { return b.from }

func (b *box) Wait(ctx context.Context) (faas.Exit, error) {
	select {
	case <-b.ended:
		return b.exit, b.failed
	case <-ctx.Done():
		return faas.Exit{}, context.Cause(ctx)
	}
}

func (b *box) Stop(ctx context.Context, grace time.Duration) error {
	b.stop.Do(func() {
		close(b.ending)
		b.d.work.Go(func() { b.end(grace) })
	})
	select {
	case <-b.stopped:
		return b.stopErr
	case <-ctx.Done():
		return fmt.Errorf("stop sandbox %s: %w", b.id, context.Cause(ctx))
	}
}

// deafGrace is how long a process may take to end that does not handle SIGTERM:
// the end of its standard input is all that it is told.
const deafGrace = 20 * time.Millisecond

// end stops the sandbox and removes what is left of it.
func (b *box) end(grace time.Duration) {
	defer close(b.stopped)
	thawed := b.lastThaw()
	if grace > 0 {
		b.std.Stdin.Close() // many a program ends with its input
		if b.process.Handles(unix.SIGTERM) {
			b.process.Signal(unix.SIGTERM)
		} else {
			grace = min(grace, deafGrace)
		}
		timer := time.NewTimer(grace)
		select {
		case <-b.ended:
			b.std.Heard()
		case <-timer.C:
		}
		timer.Stop()
	}
	killed := b.process.Signal(unix.SIGKILL) // of the first process: the kernel ends the rest with it
	<-b.ended
	b.discard()
	<-b.vacated
	b.Usage()
	b.mu.Lock()
	b.gone = true
	b.mu.Unlock()
	b.stopErr = errors.Join(thawed, killed, b.d.remove(b.cgroup))
	b.d.mu.Lock()
	delete(b.d.boxes, b)
	b.d.mu.Unlock()
}

func (b *box) Usage() sandbox.Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.gone {
		u := b.cgroup.Usage()
		b.usage = sandbox.Usage{
			Memory: faas.Bytes(u.Memory), PeakMemory: faas.Bytes(u.PeakMemory),
			CPUTime: u.CPUTime, Processes: u.Processes, OOMKills: u.OOMKills,
		}
	}
	return b.usage
}

func (b *box) closeStdio() {
	if b.std.Stdin != nil {
		b.std.Stdin.Close()
		b.std.Stdout.Close()
		b.std.Stderr.Close()
	}
	if b.sockets != nil {
		b.sockets.Close()
	}
	if b.listener != nil {
		b.listener.Close()
	}
}

// pipes makes the three streams: the sandbox's ends and ours. Ours do not block a
// thread; the sandbox's do block, as programs expect.
func pipes() (inner [3]*os.File, outer [3]*linux.Pipe, err error) {
	for i := range inner {
		var fds [2]int
		if err = unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			break
		}
		in, out := fds[0], fds[1]
		if i > 0 {
			in, out = out, in
		}
		inner[i] = os.NewFile(uintptr(in), "pipe")
		if outer[i], err = linux.NewPipe(out); err != nil {
			break
		}
	}
	if err != nil {
		for i := range inner {
			if inner[i] != nil {
				inner[i].Close()
			}
			if outer[i] != nil {
				outer[i].Close()
			}
		}
		return inner, outer, fmt.Errorf("make the streams of a sandbox: %w", err)
	}
	return inner, outer, nil
}

// classify decides the Kind of a failed start and says what the user of the
// function can do about it.
func classify(spec sandbox.Spec, err error) error {
	if errno, ok := linux.ExecFailed(err); ok {
		if said := spec.NotExecuted(errno); said != nil {
			return said
		}
	}
	if e, ok := errors.AsType[*linux.StepError](err); ok && onImage(e.Step) {
		switch e.Errno {
		case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EINVAL, unix.EACCES, unix.ENAMETOOLONG:
			return faas.Errorf(faas.Invalid, "the image cannot be used: %w (is there something else than a directory in its place?)", err)
		}
	}
	for _, lack := range []unix.Errno{unix.EAGAIN, unix.ENOMEM, unix.ENOSPC, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, lack) {
			return faas.Errorf(faas.Busy, "this node cannot make another sandbox now: %w", err)
		}
	}
	return err
}

// onImage reports whether a step depends on what the image has at a path.
func onImage(step string) bool {
	return strings.HasPrefix(step, "mount ") || strings.HasPrefix(step, "enter the working directory") || strings.HasPrefix(step, "bind ") ||
		strings.HasPrefix(step, "protect ") || strings.HasPrefix(step, "hide ")
}

// pause waits a moment before something is tried again. It reports false if the
// driver is closing.
func (d *Driver) pause() bool {
	select {
	case <-time.After(100 * time.Millisecond):
		return true
	case <-d.closing:
		return false
	}
}
