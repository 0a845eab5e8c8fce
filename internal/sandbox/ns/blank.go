package ns

import (
	"errors"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/network"
	"hob/internal/sandbox"
)

// A blank is a process that waits for the steps that make a sandbox of it. A bare
// one has its namespaces and its cgroup and shares the daemon's descriptors; it
// knows no image. A prepared one has done all but execute.
type blank struct {
	head    *linux.Program // that it began with
	program *linux.Program // that it waits at the end of
	result  <-chan spawned // of head's Spawn; it has room
}

// spawned is what became of a process: it comes when the process has executed, or
// has ended before.
type spawned struct {
	pid, pidfd int
	err        error
	head       *linux.Program // that was spawned
}

// unused reports that the process ended before it did anything of what it was
// made for, so that another may do it.
func (r spawned) unused() bool {
	if e, ok := errors.AsType[*linux.StepError](r.err); ok {
		return e.Step == "clone"
	}
	return errors.Is(r.err, linux.ErrGone)
}

// spawn has the berth's thread make a process that carries out p. more are flags
// besides the namespaces.
func (d *Driver) spawn(at *berth, p *linux.Program, more linux.CloneFlags) *blank {
	flags := more | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	p.GuardedBy(d.keeper.Keeper)
	result, cgroup := make(chan spawned, 1), at.cgroup.FD()
	at.thread.Begin(func() {
		pid, pidfd, err := p.Spawn(flags, cgroup)
		result <- spawned{pid, pidfd, err, p}
	})
	return &blank{p, p, result}
}

// begin has a bare blank begin in a berth.
func (d *Driver) begin(at *berth) {
	p := linux.NewProgram(8)
	d.born(p)
	p.Wait()
	at.blank = d.spawn(at, p, unix.CLONE_FILES)
}

// quit ends a blank.
func (b *blank) quit() {
	b.program.Resume(linux.Quit())
	<-b.result
}

// outcome waits for what becomes of a prepared blank that executes.
//
// The thread that made it, whom the kernel wakes when the process has executed,
// takes a tenth of a millisecond to tell us of it after a rest. If this is the only
// start, there is a processor to look for it ourselves meanwhile.
func (d *Driver) outcome(b *blank) spawned {
	if runtime.GOMAXPROCS(0) > 1 && d.starting.Load() == 1 {
		for begin := time.Now(); time.Since(begin) < lookout && len(b.result) == 0; runtime.Gosched() {
			if pid, pidfd, ok := b.head.Executed(); ok {
				return spawned{pid, pidfd, nil, b.head}
			}
		}
	}
	return <-b.result
}

// lookout bounds how long a start looks for the execution of its process.
const lookout = 300 * time.Microsecond

// clear ends the bare blank of a berth, if there is one.
func (at *berth) clear() {
	if at.blank != nil {
		at.blank.quit()
		at.blank = nil
	}
}

// A prepared is a prepared blank with the box that it will be.
type prepared struct {
	*blank
	at     *berth
	box    *box
	memory int64 // bytes that its cgroup holds
}

// startPrepared makes the sandbox of a prepared blank, if there is one for key. A
// blank that is found dead is passed by.
func (d *Driver) startPrepared(key string, spec sandbox.Spec) (*box, error) {
	for {
		p := d.stock.take(key)
		if p == nil {
			return nil, nil
		}
		last, told := linux.NewProgram(8), spec
		told.Env = spec.Told(p.box.host)
		execute(last, told)
		if p.box.slot != nil {
			p.box.slot.Assign(spec.ID) // before it can be refused anything
		}
		p.program.Resume(last)
		r := d.outcome(p.blank)
		if r.unused() {
			p.bury()
			continue
		}
		b := p.box
		b.id, b.from = spec.ID, faas.StartPrepared
		err := b.adopt(r)
		d.vacate(p.at, b, err == nil)
		if err != nil {
			b.discard()
			return nil, err
		}
		return b, nil
	}
}

// end ends a prepared blank that is not needed.
func (p *prepared) end() {
	p.quit()
	p.bury()
}

// bury releases what a prepared blank had, which has ended.
func (p *prepared) bury() {
	p.box.d.vacate(p.at, p.box, false)
	p.box.discard()
}

// Bounds of a stock.
const (
	mostBlanks  = 1024            // whatever the configuration says: each is a thread
	stockMemory = 64 << 20        // bytes that all its blanks may hold
	keptUnused  = 2 * time.Minute // how long blanks are made for what is not started any more
	sweepEvery  = 5 * time.Second

	shortOfSlots = 250 * time.Millisecond // before one is asked for again
)

// A stock keeps prepared blanks for what was started lately. How many it keeps
// for each follows the rate of starts: a start that finds none raises the number,
// and blanks that nobody needed between two sweeps lower it. If there is no room,
// what was started least lately loses a blank first.
type stock struct {
	d      *Driver
	most   int           // blanks at once; 0: there are none, not even bare ones
	memory int64         // bytes that they may hold
	wake   chan struct{} // says that a blank may be missing

	mu    sync.Mutex
	kinds map[string]*kind // guarded by mu, as all below
	count int              // blanks, with those that are being prepared
	bytes int64            // that they hold
	short time.Time        // until when no slot of the router is asked for
}

// A kind is one sort of sandbox: the same in all but ID, arguments and
// environment. It is guarded by stock.mu.
type kind struct {
	spec    sandbox.Spec // without those
	ready   []*prepared  // the latest last
	depth   int          // blanks that it should have
	low     int          // fewest that were ready since the last sweep
	used    time.Time
	failing bool // the last one could not be prepared
}

func (s *stock) open(d *Driver) {
	s.d = d
	s.most = d.cfg.Blanks
	if s.most == 0 {
		s.most = 16 * runtime.GOMAXPROCS(0)
	}
	s.most = min(max(s.most, 0), mostBlanks)
	s.memory = stockMemory
	s.wake = make(chan struct{}, 1)
	s.kinds = make(map[string]*kind)
}

// key names the kind of spec, by all its fields but those that a blank does not
// know. It is made for each start, and so not by package fmt.
func (s *stock) key(spec sandbox.Spec) string {
	if s.most == 0 {
		return ""
	}
	key := make([]byte, 0, 512)
	text := func(list ...string) {
		key = append(strconv.AppendInt(key, int64(len(list)), 10), ':')
		for _, s := range list {
			key = append(append(strconv.AppendInt(key, int64(len(s)), 10), ':'), s...)
		}
	}
	number := func(n int64) { key = append(strconv.AppendInt(key, n, 10), ';') }
	flag := func(b bool) { key = append(strconv.AppendBool(key, b), ';') }
	text(spec.Hostname, spec.Root.Key, spec.Dir, spec.Sockets, spec.Listen)
	text(spec.Root.Layers...)
	text(spec.Volumes...)
	number(int64(spec.User.UID))
	number(int64(spec.User.GID))
	number(int64(len(spec.User.Groups)))
	for _, g := range spec.User.Groups {
		number(int64(g))
	}
	number(int64(spec.Memory))
	number(int64(spec.CPU))
	number(int64(spec.PIDs))
	number(int64(spec.Files))
	number(int64(spec.LockedMemory))
	number(int64(spec.PendingSignals))
	number(int64(spec.MessageQueues))
	number(int64(spec.TmpInodes))
	number(int64(spec.TmpSize))
	flag(spec.Writable)
	text(spec.Devices...)
	text(string(spec.Network.Mode))
	number(int64(len(spec.Network.Rules)))
	for _, r := range spec.Network.Rules {
		text(r.String())
	}
	return string(key)
}

// take takes the latest prepared blank of a kind. Nil: there is none.
func (s *stock) take(key string) *prepared {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[key]
	if k == nil || len(k.ready) == 0 {
		return nil
	}
	defer s.nudge()
	return s.remove(k, len(k.ready)-1)
}

// nudge wakes the refill: a blank may be missing.
func (s *stock) nudge() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// remove takes a blank out of the stock. The caller holds mu.
func (s *stock) remove(k *kind, i int) *prepared {
	p := k.ready[i]
	k.ready = append(k.ready[:i:i], k.ready[i+1:]...)
	k.low = min(k.low, len(k.ready))
	s.count--
	s.bytes -= p.memory
	return p
}

// started tells the stock of a start that worked.
func (s *stock) started(key string, spec sandbox.Spec, from faas.Start) {
	if s.most == 0 {
		return
	}
	s.mu.Lock()
	k := s.kinds[key]
	switch {
	case k == nil:
		spec.ID, spec.Args, spec.Env = "", nil, nil
		k = &kind{spec: spec, depth: 1}
		s.kinds[key] = k
	case from != faas.StartPrepared:
		k.depth = min(k.depth+1, s.most)
	}
	k.used, k.failing = time.Now(), false
	s.mu.Unlock()
	s.nudge()
}

// wanted returns how many blanks all kinds should have, as far as there is room.
func (s *stock) wanted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, k := range s.kinds {
		n += k.depth
	}
	return max(min(n, s.most), s.count)
}

// held returns how many blanks there are, with those that are being prepared.
func (s *stock) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// refill prepares blanks until the driver closes, and ends them then.
func (s *stock) refill() {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	defer s.sweep(time.Now().Add(2 * keptUnused))
	for {
		k, old, urgent := s.missing()
		var rest <-chan time.Time
		var wake <-chan struct{}
		switch {
		case k == nil:
			wake = s.wake
		case !urgent:
			rest = time.After(manners) // a sandbox of this kind is starting
		default:
			rest = time.After(0)
		}
		select {
		case <-s.d.closing:
			return
		case now := <-sweep.C:
			s.sweep(now)
			s.d.trim()
			s.d.removeBusy()
			continue
		case <-wake:
			continue
		case <-rest:
		}
		at := s.d.spare()
		if at == nil {
			select {
			case <-s.d.closing:
				return
			case <-time.After(time.Millisecond):
			}
			continue
		}
		if old != nil {
			s.drop(old)
		}
		s.add(k, at)
	}
}

// missing returns a kind that lacks a blank: the one that was started last. Unless
// there is room, a kind that was not started for longer loses one, else k is nil.
func (s *stock) missing() (k, old *kind, urgent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	short := time.Now().Before(s.short)
	for _, c := range s.kinds {
		if len(c.ready) < c.depth && !c.failing && !(short && c.spec.OwnDevice()) && (k == nil || c.used.After(k.used)) {
			k = c
		}
	}
	if k == nil {
		return nil, nil, false
	}
	if s.count >= s.most || s.bytes >= s.memory {
		for _, c := range s.kinds {
			if len(c.ready) > 0 && c.used.Before(k.used) && (old == nil || c.used.Before(old.used)) {
				old = c
			}
		}
		if old == nil {
			return nil, nil, false
		}
	}
	return k, old, len(k.ready) == 0 && k.depth >= hurried
}

// hurried is the depth from which on a stock that is empty is not filled with
// manners: starts come faster than that.
const hurried = 4

// add prepares a blank of kind k in a berth. One that cannot be prepared is not
// tried again before the next start of this kind, which says why. If no slot can be
// spared, those that have one wait a little, and others go on.
func (s *stock) add(k *kind, at *berth) {
	s.mu.Lock()
	s.count++
	s.mu.Unlock()
	s.d.replace()
	p, err := s.d.prepareBlank(at, k.spec)
	s.mu.Lock()
	switch {
	case errors.Is(err, network.ErrFew):
		s.count--
		s.short = time.Now().Add(shortOfSlots)
		time.AfterFunc(shortOfSlots, s.nudge)
	case err != nil:
		s.count--
		k.failing = true
		s.d.cfg.Log.Debug("a blank could not be prepared", "err", err)
	case k.depth == 0: // it was swept out meanwhile
		s.count--
		defer p.end()
	default:
		k.ready = append(k.ready, p)
		s.bytes += p.memory
	}
	s.mu.Unlock()
}

// drop ends the oldest blank of a kind.
func (s *stock) drop(k *kind) {
	s.mu.Lock()
	var p *prepared
	if len(k.ready) > 0 {
		p = s.remove(k, 0)
	}
	s.mu.Unlock()
	if p != nil {
		p.end()
	}
}

// sweep ends the blanks that are not needed any more, and those that are dead.
func (s *stock) sweep(now time.Time) {
	var ended []*prepared
	s.mu.Lock()
	for key, k := range s.kinds {
		switch {
		case now.Sub(k.used) > keptUnused:
			k.depth = 0
			delete(s.kinds, key)
		case k.low > 0:
			k.depth = max(1, k.depth-(k.low+1)/2)
		}
		for i := len(k.ready) - 1; i >= 0; i-- {
			if len(k.ready) > k.depth || len(k.ready[i].result) > 0 {
				ended = append(ended, s.remove(k, i))
			}
		}
		k.low = len(k.ready)
	}
	s.mu.Unlock()
	for _, p := range ended {
		p.end()
	}
}

// spare returns a berth for a blank, if starts can do without it.
func (d *Driver) spare() *berth {
	if d.waiting.Load() > 0 || len(d.ready) <= d.base/4 {
		return nil
	}
	select {
	case at := <-d.ready:
		return at
	default:
		return nil
	}
}

// prepareBlank prepares a blank of spec, which has no ID, arguments or environment.
func (d *Driver) prepareBlank(at *berth, spec sandbox.Spec) (*prepared, error) {
	b, o, err := d.outfit(d.life, spec, true)
	if err != nil {
		cg := at.cgroup
		d.leave(at, func() { d.remove(cg) })
		return nil, err
	}
	defer o.release()
	b.cgroup = at.cgroup
	p := &prepared{at: at, box: b}
	if err = b.cgroup.Limit(limits(spec)); err == nil {
		steps := linux.NewProgram(stepsOfStart)
		if bare := at.blank; bare != nil {
			at.blank = nil
			d.prepare(steps, spec, o.givens, true)
			steps.Wait()
			bare.program.Resume(steps)
			p.blank = &blank{bare.head, steps, bare.result}
		} else {
			d.born(steps)
			d.prepare(steps, spec, o.givens, false)
			steps.Wait()
			p.blank = d.spawn(at, steps, 0)
		}
		if err = p.settle(); err == nil {
			b.mounts, _ = linux.HoldMounts(p.head.PID()) // without it the end of the process is told later
		}
	}
	if err != nil {
		p.bury()
		return nil, err
	}
	p.memory = b.cgroup.Memory()
	return p, nil
}

// settle waits until the blank waits. It sleeps meanwhile: nobody waits for it.
func (p *prepared) settle() error {
	for wait := 300 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		select {
		case r := <-p.result:
			return r.err
		case <-time.After(wait):
			if p.program.Waiting() {
				return nil
			}
		}
	}
}
