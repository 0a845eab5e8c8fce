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
	"sync"
	"sync/atomic"

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
	d.work.Go(func() { linux.MakeWay(d.closing, d.cgroups.Open(d.cgroup()), d.running) })
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

// running returns the cgroups of the sandboxes that do not stand still.
func (d *Driver) running() (all []*linux.Cgroup) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for b := range d.boxes {
		if !b.still.Load() {
			all = append(all, b.cgroup)
		}
	}
	return all
}

// live returns the sandboxes that are not stopped.
func (d *Driver) live() []*box {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.boxes))
}
