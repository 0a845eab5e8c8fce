// Package ns is the sandbox driver made of our own Linux code: namespaces, an
// overlay, a cgroup, a user namespace, a Landlock fence, a seccomp filter, and a process that
// carries out a prepared list of system calls until it executes the function's
// program. No program of ours and no Go runtime runs inside the sandbox.
//
// It owns the threads that make processes, what is made ahead of need (berths,
// blanks, prepared roots, networks of a loopback), and every cgroup below its generation's. It leaves
// to others what an image is, when to start and when to stop, and what a network with a
// device reaches: that is a slot of package network. README.md tells
// how a start goes and what must stay true.
package ns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/network"
	"hob/internal/sandbox"
)

// Config is what a Driver is made from.
type Config struct {
	Generation   string          // names this run of the daemon on the machine: letters and digits, unique
	LockDir      string          // holds a lock file for each generation; "": /run/hob
	CgroupParent string          // cgroup that holds the generations' cgroups; "": hob
	Blanks       int             // most prepared blanks at once, 1024 at most; 0: 16 for each processor, negative: no blanks at all, bare ones neither
	Router       *network.Router // of sandboxes that reach something; nil: none can. It is the caller's, and outlives the driver
	Log          *slog.Logger    // nil: discard
}

// Driver implements sandbox.Driver.
type Driver struct {
	cfg     Config
	lock    *os.File
	cgroups *linux.Cgroups
	caps    sandbox.Capabilities

	vault   *linux.Thread // in a mount namespace of its own, where roots are prepared
	vaultNS int           // that namespace
	lobby   *linux.Thread // in the mount namespace where processes begin
	lobbyNS int           // that namespace
	ranges  ranges
	self    int           // pidfd of this process
	keeper  *keeper       // nil: none yet
	dialer  *linux.Thread // visits the networks of sandboxes
	hostNet int           // the network it comes back to
	filter  *linux.Filter
	fence   *linux.Fence // nil: this kernel has none
	masks   []mask
	lastCap int // highest capability of this kernel

	shortSlices bool // this process has them, and its sandboxes must not
	networks    *network.Stock
	roots       *roots
	base        int          // berths that are ready when nothing happens
	ready       chan *berth  // berths that may take a sandbox
	waiting     atomic.Int32 // starts that wait for one
	starting    atomic.Int32 // starts that are in progress
	stock       stock
	life        context.Context // ends with Close
	die         context.CancelCauseFunc
	closing     <-chan struct{} // closed by Close
	cgroupN     atomic.Int64    // last number given to a cgroup
	work        sync.WaitGroup

	mu     sync.Mutex
	boxes  map[*box]struct{} // live ones; guarded by mu, as all below
	berths int               // those that are not idle
	idle   []*berth          // those that are not needed now
	busy   []*linux.Cgroup   // that could not be removed yet
	closed bool
}

var _ sandbox.Driver = (*Driver)(nil)

// New takes the lock of a generation and makes what its sandboxes will need. An
// error of kind Unsupported says what this machine lacks.
func New(cfg Config) (*Driver, error) {
	if cfg.LockDir == "" {
		cfg.LockDir = "/run/hob"
	}
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = "hob"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	life, die := context.WithCancelCause(context.Background())
	d := &Driver{
		cfg: cfg, vaultNS: -1, lobbyNS: -1, self: -1, hostNet: -1,
		life: life, die: die, closing: life.Done(), boxes: make(map[*box]struct{}),
	}
	d.ranges.begin(cfg.Generation)
	d.roots = &roots{d: d, byKey: make(map[string]*root)}
	if err := d.open(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Driver) open() error {
	if os.Geteuid() != 0 {
		return faas.Errorf(faas.Unsupported, "the ns driver needs root: it makes namespaces, mounts and cgroups")
	}
	if err := linux.KeepStandardDescriptors(); err != nil {
		return fmt.Errorf("open the standard descriptors: %w", err)
	}
	unshortened := linux.ShortSlices()
	d.shortSlices = unshortened == nil
	var err error
	if d.lock, err = lockGeneration(d.cfg.LockDir, d.cfg.Generation); err != nil {
		return err
	}
	if d.cgroups, err = linux.FindCgroups(); err != nil {
		return faas.Errorf(faas.Unsupported, "%w: limits cannot be enforced without it", err)
	}
	if err := d.cgroups.Prepare(d.cgroup()); err != nil {
		return faas.Errorf(faas.Unsupported, "%w", err)
	}
	if d.filter, err = linux.DefaultFilter(); err != nil {
		return err
	}
	if d.self, err = linux.OpenPidfdSelf(); err != nil {
		return faas.Errorf(faas.Unsupported, "%w: Linux 5.12 or newer is needed", err)
	}
	if d.keeper, err = d.newKeeper(); err != nil {
		return faas.Errorf(faas.Unsupported, "%w", err)
	}
	if d.vault, err = linux.NewThread(d.openVault); err != nil {
		return faas.Errorf(faas.Unsupported, "%w", err)
	}
	if d.vaultNS, err = linux.OpenNamespace(d.vault.TID(), "mnt"); err != nil {
		return err
	}
	if d.dialer, err = linux.NewThread(func() error { return nil }); err != nil {
		return err
	}
	if d.hostNet, err = linux.OpenNamespace(d.dialer.TID(), "net"); err != nil {
		return err
	}
	d.caps = sandbox.Capabilities{Driver: "ns", CgroupVersion: d.cgroups.Version, Freezer: d.cgroups.CanFreeze(d.cgroup()), Egress: d.cfg.Router != nil, Ports: true, Devices: true}
	if !d.caps.Freezer {
		d.caps.Notes = append(d.caps.Notes, "idle sandboxes cannot be frozen: "+
			"it takes Linux 5.2 with cgroups of version 2, or the hierarchy freezer of version 1 mounted")
	}
	if unshortened != nil {
		d.caps.Notes = append(d.caps.Notes, fmt.Sprintf("the daemon waits for the processor as long as its sandboxes do (%v)", unshortened))
	}
	d.caps.UserNamespaces = true
	if err := d.tryMappedRoot(); err != nil {
		d.caps.UserNamespaces = false
		d.caps.Notes = append(d.caps.Notes, fmt.Sprintf("sandboxes have no user namespace (%v): a function cannot run as root; "+
			"Linux 5.19 or newer and a data directory on ext4, xfs or btrfs give it", err))
	}
	if err := d.openLobby(); err != nil {
		return err
	}
	d.masks, d.lastCap, d.fence = findMasks(), linux.LastCapability(), linux.NewFence()
	if d.networks, err = network.NewStock(2 * runtime.GOMAXPROCS(0)); err != nil {
		return err
	}

	d.base = 4 * runtime.GOMAXPROCS(0)
	d.stock.open(d)
	d.ready = make(chan *berth, d.base+d.stock.most)
	for range d.base {
		d.berths++
		b, err := d.newBerth()
		if err != nil {
			return faas.Errorf(faas.Unsupported, "%w", err)
		}
		d.work.Go(func() { d.seat(b, nil) })
	}
	if d.stock.most > 0 {
		d.work.Go(d.stock.refill)
	}
	return nil
}

// cgroup returns the name of this generation's cgroup.
func (d *Driver) cgroup() string { return path.Join(d.cfg.CgroupParent, d.cfg.Generation) }

// Probe implements sandbox.Driver.
func (d *Driver) Probe(context.Context) (sandbox.Capabilities, error) { return d.caps, nil }

// Reap implements sandbox.Driver. A generation leaves cgroups and a lock file and
// nothing else: its mounts and networks live in namespaces that ended with it.
func (d *Driver) Reap(ctx context.Context) error {
	names, err := d.cgroups.Children(d.cfg.CgroupParent)
	if err != nil {
		return fmt.Errorf("look for dead generations: %w", err)
	}
	locks, _ := filepath.Glob(filepath.Join(d.cfg.LockDir, "*"+lockSuffix))
	for _, file := range locks {
		names = append(names, generationOf(file))
	}
	seen := map[string]bool{d.cfg.Generation: true}
	for _, name := range names {
		if seen[name] || ctx.Err() != nil {
			continue
		}
		seen[name] = true
		lock, err := lockGeneration(d.cfg.LockDir, name)
		if err != nil {
			continue // it lives
		}
		err = d.cgroups.Open(path.Join(d.cfg.CgroupParent, name)).RemoveTree()
		unlockGeneration(lock)
		if err != nil {
			return fmt.Errorf("reap generation %s: %w", name, err)
		}
		d.cfg.Log.Info("reaped what a dead daemon left", "generation", name)
	}
	return ctx.Err()
}

// Close implements sandbox.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.die(errClosing)
	d.mu.Unlock()

	var errs []error
	for _, b := range d.live() {
		errs = append(errs, b.Stop(context.Background(), 0))
	}
	d.work.Wait()                // starts that were let in, berths being seated, watchers
	for _, b := range d.live() { // made by a start that was let in just before
		errs = append(errs, b.Stop(context.Background(), 0))
	}
	d.work.Wait()
	if d.ready != nil {
		close(d.ready)
		for b := range d.ready {
			b.clear()
			b.thread.Close()
			errs = append(errs, b.cgroup.Remove())
		}
	}
	for _, b := range d.idle {
		b.thread.Close()
	}
	if d.networks != nil {
		d.networks.Close()
	}
	if d.vault != nil {
		d.roots.close()
		d.vault.Close()
	}
	if d.lobby != nil {
		d.lobby.Close()
	}
	if d.dialer != nil {
		d.dialer.Close()
	}
	if d.keeper != nil {
		errs = append(errs, d.keeper.close())
	}
	for _, fd := range []int{d.vaultNS, d.lobbyNS, d.self, d.hostNet} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if d.cgroups != nil {
		d.removeBusy()
		if err := d.cgroups.Open(d.cgroup()).RemoveTree(); err != nil {
			d.cfg.Log.Warn("a cgroup without processes is left: the next start removes it", "err", err)
		}
		d.cgroups.Open(d.cfg.CgroupParent).RemoveIfEmpty()
	}
	if d.lock != nil {
		unlockGeneration(d.lock)
	}
	return errors.Join(errs...)
}

func (d *Driver) isClosing() bool {
	select {
	case <-d.closing:
		return true
	default:
		return false
	}
}

// live returns the sandboxes that are not stopped.
func (d *Driver) live() []*box {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.boxes))
}

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
