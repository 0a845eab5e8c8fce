package ns

import (
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
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
