package ns

import (
	"context"
	"errors"
	"path"
	"strconv"
	"time"

	"hob/faas"
	"hob/internal/linux"
)

// A berth is a place where a sandbox can be made: a thread that is already in a
// new, empty cgroup. In version 1 of cgroups a process can only begin where the
// thread is that makes it, and moving a thread costs milliseconds of waiting; so
// it is done ahead of need. In version 2 the process is born in the cgroup and
// the thread stays where it is.
type berth struct {
	thread *linux.Thread
	cgroup *linux.Cgroup
	blank  *blank // a bare one that has begun here; nil: none
}

// manners is how long a berth that is not needed yet waits for its next cgroup.
const manners = 5 * time.Millisecond

// remove removes a cgroup that is not needed any more. One that the kernel calls busy
// is tried again with each sweep, and by Close.
func (d *Driver) remove(cg *linux.Cgroup) error {
	err := cg.Remove()
	if err != nil {
		d.cfg.Log.Warn("a cgroup is not removed yet", "cgroup", cg.Name, "err", err)
		d.mu.Lock()
		d.busy = append(d.busy, cg)
		d.mu.Unlock()
	}
	return err
}

// removeBusy tries again what remove could not.
func (d *Driver) removeBusy() {
	d.mu.Lock()
	busy := d.busy
	d.busy = nil
	d.mu.Unlock()
	for _, cg := range busy {
		d.remove(cg)
	}
}

// newBerth makes a berth, which must be seated.
func (d *Driver) newBerth() (*berth, error) {
	t, err := linux.NewThread(func() error {
		if err := linux.JoinMounts(d.lobbyNS); err != nil {
			return err
		}
		if d.shortSlices {
			if err := linux.UsualSlice(); err != nil {
				return err
			}
		}
		return linux.DropBoundingSet() // of the sandboxes: an execution can give no capability
	})
	if err != nil {
		return nil, err
	}
	return &berth{thread: t}, nil
}

// take returns a berth that is ready, or will be before ctx ends.
func (d *Driver) take(ctx context.Context) (*berth, error) {
	select {
	case at := <-d.ready:
		return at, nil
	default:
	}
	d.waiting.Add(1)
	defer d.waiting.Add(-1)
	select {
	case at := <-d.ready:
		return at, nil
	case <-ctx.Done():
		return nil, faas.Errorf(faas.Busy, "no place for a sandbox became free in time: %w", context.Cause(ctx))
	case <-d.closing:
		return nil, errClosing
	}
}

// leave makes at ready for the next sandbox, in the background. left is called
// when the berth's thread is out of its present cgroup.
func (d *Driver) leave(at *berth, left func()) {
	d.work.Go(func() {
		at.clear()
		if !d.surplus() || !d.park(at) {
			d.seat(at, left)
			return
		}
		left()
	})
}

// surplus reports whether there is a berth too many, and counts it off.
func (d *Driver) surplus() bool {
	want := d.base + d.stock.wanted()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.berths <= want {
		return false
	}
	d.berths--
	return true
}

// park puts a berth aside that is not needed now. Its thread must not end before
// the sandboxes that it has made, or they would end with it.
func (d *Driver) park(at *berth) bool {
	at.cgroup = d.cgroups.Open(d.cgroup())
	err := at.cgroup.Seat(at.thread.TID())
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.berths++
		d.cfg.Log.Error("a thread cannot leave the cgroup of its sandbox", "err", err)
		return false
	}
	d.idle = append(d.idle, at)
	return true
}

// trim puts ready berths aside until there are no more than needed.
func (d *Driver) trim() {
	for len(d.ready) > d.base && d.surplus() {
		select {
		case at := <-d.ready:
			at.clear()
			if cg := at.cgroup; d.park(at) {
				d.remove(cg)
			} else {
				d.leave(at, func() { d.remove(cg) })
			}
		default:
			d.mu.Lock()
			d.berths++
			d.mu.Unlock()
			return
		}
	}
}

// replace puts a berth in the place of one that is now a prepared blank's, unless
// there are enough.
func (d *Driver) replace() {
	want := d.base + d.stock.held()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.berths >= want {
		return
	}
	d.berths++
	if n := len(d.idle); n > 0 {
		b := d.idle[n-1]
		d.idle = d.idle[:n-1]
		d.work.Go(func() { d.seat(b, nil) })
		return
	}
	d.work.Go(func() {
		b, err := d.newBerth()
		if err != nil {
			d.cfg.Log.Error("no thread for the next sandbox", "err", err)
			d.mu.Lock()
			d.berths--
			d.mu.Unlock()
			return
		}
		d.seat(b, nil)
	})
}

// seat gives b a new cgroup, has a bare blank begin there, and makes it ready. It
// is tried until it works or the driver closes: a machine that has no room for a
// cgroup now may have it later. left, if there is one, is called when the berth's
// thread is out of its present cgroup.
//
// While there are enough others it waits a moment, so as not to take the processor
// from the sandbox that has just been made.
func (d *Driver) seat(b *berth, left func()) {
	if b.cgroup != nil && len(d.ready) > d.base/2 {
		select {
		case <-time.After(manners):
		case <-d.closing:
		}
	}
	b.cgroup = nil
	if left == nil {
		left = func() {}
	}
	for try := 0; ; try++ {
		cg, err := d.cgroups.Make(path.Join(d.cgroup(), strconv.FormatInt(d.cgroupN.Add(1), 10)))
		if err == nil {
			if err = errors.Join(cg.LimitSockets(socketMemory), cg.Seat(b.thread.TID())); err == nil {
				b.cgroup = cg
				left()
				if d.stock.most > 0 && d.waiting.Load() == 0 && !d.isClosing() { // who waits has no use for a blank
					d.begin(b)
				}
				d.ready <- b
				return
			}
			d.remove(cg)
		}
		if try == 0 {
			d.cfg.Log.Error("no cgroup for the next sandbox, trying again", "err", err)
		}
		if !d.pause() {
			b.thread.Close()
			left()
			return
		}
	}
}
