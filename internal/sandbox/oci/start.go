package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/sandbox"
)

// innerCgroup is the runtime program's cgroup in that of a sandbox: it removes its
// own when the process has ended, and with it what the process has used.
const innerCgroup = "c"

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
	select {
	case d.seats <- struct{}{}:
		defer func() { <-d.seats }()
	case <-ctx.Done():
		return nil, faas.Errorf(faas.Busy, "no place for a sandbox became free in time: %w", context.Cause(ctx))
	}
	key := keyOf(spec)
	from := faas.StartPrepared
	b := d.stock.take(key)
	if b != nil {
		if err = b.begin(ctx, spec); err != nil {
			b.discarded()
		}
	}
	if b == nil || errors.Is(err, errUnused) {
		from = faas.StartOnDemand
		if b, err = d.make(ctx, spec, false); err != nil {
			return nil, classify(err)
		}
		if err = b.begin(ctx, spec); err != nil {
			b.discarded()
		}
	}
	if err != nil {
		return nil, err
	}
	b.from = from
	d.stock.started(key, spec, from)
	return b, nil
}

// make makes a sandbox for all starts of a key, in which the seed waits. ahead of need it
// takes only a network slot that can be spared.
func (d *Driver) make(ctx context.Context, spec sandbox.Spec, ahead bool) (_ *box, err error) {
	n := strconv.FormatInt(d.last.Add(1), 10)
	b := &box{
		d: d, users: users{namespace: -1}, id: spec.ID, host: spec.Named().Hostname, dir: filepath.Join(d.dir, n), name: path.Join(d.cgroup(), n), hostNet: spec.HostNetwork(),
		ended: make(chan struct{}), ending: make(chan struct{}), stopped: make(chan struct{}),
	}
	b.inner = d.cgroups.Open(path.Join(b.name, innerCgroup))
	o := &outfit{root: -1, users: -1, devices: -1, net: -1, sockets: -1}
	defer func() {
		o.release()
		if err != nil {
			if b.process != nil {
				b.process.Signal(unix.SIGKILL)
				<-b.ended
			}
			err = errors.Join(err, b.discard())
		}
	}()
	if err := d.connect(ctx, b, o, spec, ahead); err != nil { // first: without a slot nothing is made in vain
		return nil, err
	}
	if err := d.outfit(b, o, spec); err != nil {
		return nil, err
	}
	if err := d.launch(b, o); err != nil {
		return nil, err
	}
	if err := d.runtime(ctx, b, o, d.kind.command(d.program, b.dir, b.runtimeID(), spec)); err != nil {
		return nil, err
	}
	if b.firstPID, err = b.readPID(); err != nil {
		return nil, err
	}
	b.reaper.Resume(b.reap())
	if err := b.inner.LimitSockets(sandbox.SocketMemory); err != nil { // which counts for the cgroup that a process is in
		return nil, err
	}
	d.mu.Lock()
	d.boxes[b] = struct{}{}
	d.mu.Unlock()
	return b, nil
}

// A runtimeError is what a runtime program says of a sandbox that it did not start.
type runtimeError struct {
	program, words string
	killed         bool // over the memory limit
}

func (e *runtimeError) Error() string { return e.program + ": " + e.words }

// An outfit is what the process is given, until it has its own of it.
type outfit struct {
	inner   [3]*os.File
	status  *os.File // for seedStatus
	root    int      // a detached mount
	users   int      // a detached mount of the user namespace; negative: none
	devices int      // a detached mount of Spec.Devices; negative: none
	net     int      // a network namespace; negative: the daemon's
	sockets int      // a detached mount for Spec.Sockets; negative: none
	close   []func()

	scratches int    // how many empty directories of its own it has
	scratch   string // the options of their file systems
}

func (o *outfit) release() {
	for _, f := range append(o.inner[:], o.status) {
		if f != nil {
			f.Close()
		}
	}
	for _, fd := range []int{o.root, o.users, o.devices} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	for _, f := range o.close {
		f()
	}
}

// outfit makes what b has besides its network and its process.
func (d *Driver) outfit(b *box, o *outfit, spec sandbox.Spec) (err error) {
	if err := os.Mkdir(b.dir, 0o711); err != nil {
		return err
	}
	if b.users, err = d.takeUsers(); err != nil {
		return err
	}
	if b.users.namespace >= 0 {
		if o.users, err = linux.CloneTree(fmt.Sprint("/proc/self/fd/", b.users.namespace)); err != nil {
			return err
		}
	}
	if o.root, err = b.mountRoot(spec); err != nil {
		return err
	}
	if d.kind.ownKernel && spec.Writable && isEmpty(o.root, "tmp") {
		spec.Volumes = append([]string{"/tmp"}, spec.Volumes...) // or it is made one, without a limit
	}
	if err := places(o.root, spec); err != nil {
		return err
	}
	if err := b.makeBundle(spec); err != nil {
		return err
	}
	o.scratches = len(spec.Scratches())
	o.scratch = fmt.Sprintf("mode=1777,size=%d,nr_inodes=%d,uid=%d,gid=%d", int64(spec.TmpSize), spec.TmpInodes, b.users.base, b.users.base)
	if len(spec.Devices) > 0 {
		if o.devices, err = b.devices(spec); err != nil {
			return err
		}
	}
	if err := b.limit(spec); err != nil {
		return err
	}
	if err := b.pipes(o); err != nil {
		return err
	}
	if spec.Sockets != "" {
		if b.sockets, err = linux.SocketDir(b.users.base+int(spec.User.UID), b.users.base+int(spec.User.GID)); err != nil {
			return err
		}
		o.sockets = int(b.sockets.Fd())
	}
	if at, _ := spec.Listens(); at.IsValid() { // complete has looked at it
		b.listener, err = d.listen(at, o.net)
	}
	return err
}

// connect gives b and its outfit the network of spec. ahead of need it takes only a slot
// that can be spared, or network.ErrFew says that there is none.
func (d *Driver) connect(ctx context.Context, b *box, o *outfit, spec sandbox.Spec, ahead bool) (err error) {
	switch {
	case spec.OwnDevice() && ahead:
		if b.slot, err = d.cfg.Router.Spare(spec.Network, spec.ID); err != nil {
			return err
		}
		o.net = b.slot.FD()
	case spec.OwnDevice():
		if b.slot, err = d.cfg.Router.Take(ctx, spec.Network, spec.ID); err != nil {
			return faas.Errorf(faas.Busy, "%w", err)
		}
		o.net = b.slot.FD()
	case spec.HostNetwork() || d.kind.ownKernel:
	default:
		net, err := d.networks.Take()
		if err != nil {
			return err
		}
		o.net, o.close = net.FD(), append(o.close, func() { net.Close() })
	}
	return nil
}

// limit makes the cgroup of b.
func (b *box) limit(spec sandbox.Spec) (err error) {
	if b.cgroup, err = b.d.cgroups.Make(b.name); err != nil {
		return err
	}
	pids := spec.PIDs
	if b.d.kind.ownKernel { // which limits those of the sandbox itself; here are its own, some for each
		pids = 4*spec.PIDs + 256
	}
	if err := b.cgroup.Limit(linux.Limits{Memory: int64(spec.Memory + b.d.kind.overhead), CPU: int64(spec.CPU), PIDs: pids}); err != nil {
		return err
	}
	b.oom, err = b.cgroup.CountOOM()
	return err
}

// pipes makes the three streams, and what tells of the execution. Our ends do not block
// a thread; the sandbox's do block, as programs expect.
func (b *box) pipes(o *outfit) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the streams of a sandbox: %w", err)
	}
	b.status = r
	o.status, err = above(w)
	w.Close()
	if err != nil {
		return fmt.Errorf("make the streams of a sandbox: %w", err)
	}
	var outer [3]*linux.Pipe
	for i := range o.inner {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("make the streams of a sandbox: %w", err)
		}
		in, out := fds[0], fds[1]
		if i > 0 {
			in, out = out, in
		}
		o.inner[i] = os.NewFile(uintptr(in), "pipe")
		if outer[i], err = linux.NewPipe(out); err != nil {
			return fmt.Errorf("make the streams of a sandbox: %w", err)
		}
		switch i {
		case 0:
			b.input, b.std.Stdin = outer[i], outer[i]
		case 1:
			b.std.Stdout = outer[i]
		case 2:
			b.std.Stderr = outer[i]
		}
	}
	return nil
}

// cwd is AT_FDCWD as an argument.
var cwd = ^uintptr(99) // -100

// launch makes the reaper of b: the first process of a PID namespace, in the
// sandbox's network. It executes nothing, and ends with the daemon at the latest;
// with it ends all that is in its namespace. It gets the sandbox's first process as
// a child when the runtime program, its parent, has ended.
func (d *Driver) launch(b *box, o *outfit) (err error) {
	p := linux.NewProgram(8)
	d.dieWithDaemon(p)
	p.Do("begin a session", 0, unix.SYS_SETSID)
	if o.net >= 0 {
		p.Do("enter the network", 0, unix.SYS_SETNS, uintptr(o.net), unix.CLONE_NEWNET)
	}
	p.Do("close the descriptors", 0, unix.SYS_CLOSE_RANGE, 0, 1<<32-1, 0)
	p.Wait()
	b.reaper = p
	d.hall.Do(func() { b.process, err = p.Launch(unix.CLONE_NEWPID) })
	if err != nil {
		return fmt.Errorf("make the reaper of a sandbox: %w", err)
	}
	d.work.Go(b.watch)
	return nil
}

// reap is what the reaper does in the end: wait for the sandbox's first process, and
// end. It is carried out after Start has got it, or never.
func (b *box) reap() *linux.Program {
	p := linux.NewProgram(2)
	p.Do("wait for the first process", 0, unix.SYS_WAITID, unix.P_PID, uintptr(b.firstPID), linux.Pointer(p, &b.first), unix.WEXITED|unix.WALL, 0)
	p.Exit()
	return p
}

// readPID returns the number that the sandbox's first process has in the reaper's
// namespace, as the runtime program has written it.
func (b *box) readPID() (int, error) {
	text, err := os.ReadFile(filepath.Join(b.dir, pidFile))
	if err != nil {
		return 0, fmt.Errorf("%s tells of no process: %w", b.d.kind.name, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// dieWithDaemon asks the kernel to kill the process when the daemon's thread
// ends, then ends it if the daemon ended before. It has a copy of the daemon's
// descriptors still; the lock of one that is dead must be free for Reap.
func (d *Driver) dieWithDaemon(p *linux.Program) {
	p.Do("let go of the lock", 0, unix.SYS_CLOSE, d.lock.Fd())
	p.Do("die with the daemon", 0, unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	poll := linux.Pointer(p, &unix.PollFd{Fd: int32(d.self), Events: unix.POLLIN})
	p.Do("find the daemon alive", linux.MustBeZero, unix.SYS_PPOLL, poll, 1, linux.Pointer(p, &unix.Timespec{}), 0, 0)
}

// runtime carries out a command of the runtime program, where it sees the processes
// of b, in mounts that end with it; with an outfit it is the command that makes b.
// If ctx ends before, the program is killed.
func (d *Driver) runtime(ctx context.Context, b *box, o *outfit, args []string) error {
	p := linux.NewProgram(32)
	fd := func(n int) uintptr { return uintptr(n) }
	attach := func(what string, mount int, at string) {
		p.Do("mount "+what, 0, unix.SYS_MOVE_MOUNT, fd(mount), p.String(""), cwd, p.String(filepath.Join(b.dir, at)), unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	mount := func(fstype, at string, flags uintptr, data string) {
		p.Do("mount "+fstype, 0, unix.SYS_MOUNT, p.String(fstype), p.String(at), p.String(fstype), flags, p.String(data))
	}
	rest := uintptr(3) // the first descriptor that it does not get
	d.dieWithDaemon(p)
	p.Do("begin a session", 0, unix.SYS_SETSID)
	mount("proc", "/proc", safe, "")
	if o != nil {
		if o.net >= 0 {
			p.Do("enter the network", 0, unix.SYS_SETNS, fd(o.net), unix.CLONE_NEWNET)
		}
		if !d.kind.ownKernel {
			mount("sysfs", filepath.Join(b.dir, sysDir), safe|unix.MS_RDONLY, "")
			for i := range o.scratches {
				mount("tmpfs", filepath.Join(b.dir, scratchDir(i)), unix.MS_NOSUID|unix.MS_NODEV, o.scratch)
			}
		}
		attach("the root", o.root, rootDir)
		if o.users >= 0 {
			attach("the user namespace", o.users, userFile)
		}
		if o.devices >= 0 {
			attach("the devices", o.devices, deviceDir)
		}
		if o.sockets >= 0 {
			attach("the directory for sockets", o.sockets, sockDir)
		}
		for i, f := range o.inner {
			p.Do("connect a stream", 0, unix.SYS_DUP3, f.Fd(), fd(i), 0)
		}
		p.Do("connect what tells of the execution", 0, unix.SYS_DUP3, o.status.Fd(), seedStatus, 0)
		p.Do("connect the seed", 0, unix.SYS_DUP3, d.seed.Fd(), seedFile, 0)
		rest = seedFile + 1
	}
	p.Do("have no core files", 0, unix.SYS_PRLIMIT64, 0, unix.RLIMIT_CORE, linux.Pointer(p, &d.cores), 0)
	p.Do("close the other descriptors", 0, unix.SYS_CLOSE_RANGE, rest, 1<<32-1, 0)
	p.Do("let signals in", 0, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, linux.Pointer(p, new(uint64)), 0, 8)
	p.Exec([]string{d.program}, args, runtimeEnv)
	process, err := d.spawnBeside(b, p)
	if err != nil {
		return fmt.Errorf("run %s: %w", d.program, err)
	}
	stop := context.AfterFunc(ctx, func() { process.Signal(unix.SIGKILL) })
	defer stop()
	e, err := process.Wait()
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return faas.Errorf(faas.Busy, "%s did not come to its end in time: %w", d.kind.name, context.Cause(ctx))
	case e.Code == 0:
		return nil
	}
	words := complaint(b.dir)
	if words == "" {
		words = fmt.Sprintf("ended with exit code %d and said nothing", e.Code)
		if e.Signal != 0 {
			words = fmt.Sprintf("was ended by %s and said nothing", unix.SignalName(e.Signal))
		}
	}
	return &runtimeError{program: d.kind.name, words: words, killed: b.Usage().OOMKills > 0}
}

// spawnBeside spawns p in the PID namespace of b's reaper.
func (d *Driver) spawnBeside(b *box, p *linux.Program) (*linux.Process, error) {
	reaper, err := unix.PidfdOpen(b.process.PID, 0) // not reaped before watch has closed b.ended, and that is after us
	if err != nil {
		return nil, err
	}
	defer unix.Close(reaper)
	var pid, pidfd int
	d.hall.Do(func() {
		if err = unix.Setns(reaper, unix.CLONE_NEWPID); err != nil { // of its children
			return
		}
		pid, pidfd, err = p.Spawn(unix.CLONE_NEWNS, -1)
		if back := unix.Setns(d.hostPIDs, unix.CLONE_NEWPID); err == nil && back != nil {
			err = fmt.Errorf("come back from the processes of a sandbox: %w", back)
		}
	})
	if err != nil {
		return nil, err
	}
	return p.Process(pid, pidfd)
}

// runtimeEnv is the environment of a runtime program.
var runtimeEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// classify decides the Kind of a start that failed before the program's execution.
func classify(err error) error {
	if e, ok := errors.AsType[*runtimeError](err); ok {
		words := strings.ToLower(e.words)
		says := func(any ...string) bool {
			for _, a := range any {
				if strings.Contains(words, a) {
					return true
				}
			}
			return false
		}
		switch {
		case e.killed:
			return faas.Errorf(faas.Invalid, "the memory limit is under what a start takes: %w", err)
		case says("resource temporarily unavailable", "cannot allocate memory", "no space left on device", "too many open files"):
			return faas.Errorf(faas.Busy, "this node cannot make another sandbox now: %w", err)
		}
		return err
	}
	for _, lack := range []unix.Errno{unix.EAGAIN, unix.ENOMEM, unix.ENOSPC, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, lack) {
			return faas.Errorf(faas.Busy, "this node cannot make another sandbox now: %w", err)
		}
	}
	return err
}
