// Package oci is the sandbox driver for any OCI runtime program: runc, crun, or
// gVisor's runsc. It writes a bundle for each sandbox and has the program run it
// in the foreground, as the first process of a PID namespace that ends with the
// daemon, in a mount namespace that nobody else sees.
//
// It owns the bundles, that process, and every cgroup below its generation's. It
// leaves to the runtime program what happens inside, and to others what an image
// is, when to start and when to stop. README.md tells how a start goes.
package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
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
	Program      string          // the runtime: a path, or a name that is looked up in PATH. Its --version must say that it is runc, crun or runsc
	State        string          // directory for locks and bundles of this driver, made if it is missing; "": /run/hob-KIND. Everybody must be able to search all that leads there
	Generation   string          // names this run of the daemon on the machine: letters and digits, unique
	CgroupParent string          // cgroup that holds the generations' cgroups, of this driver only; "": hob-KIND
	Blanks       int             // most sandboxes created ahead of need, which hold some memory (runsc: 15 MB each); 0: 2 for each processor, negative: none
	Router       *network.Router // of sandboxes that reach something; nil: none can. It is the caller's, and outlives the driver
	Log          *slog.Logger    // nil: discard
}

// Driver implements sandbox.Driver.
type Driver struct {
	cfg     Config
	kind    kind
	program string // absolute
	lock    *os.File
	dir     string // of this generation's bundles
	cgroups *linux.Cgroups
	caps    sandbox.Capabilities

	hall     *linux.Thread // in a copy of the machine's mount namespace, where roots are made and processes begin
	visitor  *linux.Thread // visits the networks of sandboxes
	hostNet  int           // the network it comes back to
	hostPIDs int           // the PID namespace that the hall comes back to
	self     int           // pidfd of this process
	seed     *os.File
	cores    unix.Rlimit // of core files: less than would be handed to a program of the machine
	networks *network.Stock
	seats    chan struct{} // one for each start that may be in progress
	last     atomic.Int64  // number given to a sandbox
	stock    stock
	life     context.Context // ends when Close begins
	end      context.CancelFunc
	work     sync.WaitGroup

	mu        sync.Mutex
	boxes     map[*box]struct{} // live ones; guarded by mu, as all below
	lastUsers int               // highest number of users; userRanges at most
	freeUsers []int             // numbers of users that nobody has
	closed    bool
}

var _ sandbox.Driver = (*Driver)(nil)

// New takes the lock of a generation and makes what its sandboxes will need. An
// error of kind Unsupported says what this machine lacks.
func New(cfg Config) (*Driver, error) {
	d := &Driver{
		cfg: cfg, self: -1, hostNet: -1, hostPIDs: -1, boxes: make(map[*box]struct{}),
		seats: make(chan struct{}, 4*runtime.GOMAXPROCS(0)),
	}
	d.life, d.end = context.WithCancel(context.Background())
	d.stock = stock{d: d, most: cfg.Blanks, byKey: make(map[string]*shelf)}
	if cfg.Blanks == 0 {
		d.stock.most = 2 * runtime.GOMAXPROCS(0)
	}
	if err := d.open(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Driver) open() (err error) {
	if os.Geteuid() != 0 {
		return faas.Errorf(faas.Unsupported, "the oci driver needs root: it makes namespaces, mounts and cgroups")
	}
	if err := linux.KeepStandardDescriptors(); err != nil {
		return fmt.Errorf("open the standard descriptors: %w", err)
	}
	if d.program, err = exec.LookPath(d.cfg.Program); err != nil {
		return faas.Errorf(faas.Unsupported, "there is no runtime program %q on this node: %w", d.cfg.Program, err)
	}
	if d.kind, err = detect(d.program); err != nil {
		return err
	}
	d.cfg = d.cfg.of(d.kind)
	d.dir = filepath.Join(d.cfg.State, d.cfg.Generation)
	if d.cgroups, err = linux.FindCgroups(); err != nil {
		return faas.Errorf(faas.Unsupported, "%w: limits cannot be enforced without it", err)
	}
	if err := os.MkdirAll(d.cfg.State, 0o711); err != nil {
		return err
	}
	if d.lock, err = lockGeneration(d.cfg.State, d.cfg.Generation); err != nil {
		return err
	}
	if err := os.Mkdir(d.dir, 0o711); err != nil {
		return err
	}
	if err := d.cgroups.Prepare(d.cgroup()); err != nil {
		return faas.Errorf(faas.Unsupported, "%w", err)
	}
	if d.self, err = linux.OpenPidfdSelf(); err != nil {
		return faas.Errorf(faas.Unsupported, "%w: Linux 5.12 or newer is needed", err)
	}
	core := limit(unix.RLIMIT_CORE, 1).most
	d.cores = unix.Rlimit{Cur: core, Max: core}
	if d.seed, err = openSeed(); err != nil {
		return fmt.Errorf("make the seed of sandboxes: %w", err)
	}
	if d.hall, err = linux.NewThread(openHall); err != nil {
		return faas.Errorf(faas.Unsupported, "have mounts of its own: %w", err)
	}
	if d.visitor, err = linux.NewThread(func() error { return nil }); err != nil {
		return err
	}
	if d.hostNet, err = linux.OpenNamespace(d.visitor.TID(), "net"); err != nil {
		return err
	}
	if d.hostPIDs, err = linux.OpenNamespace(d.visitor.TID(), "pid"); err != nil {
		return err
	}
	d.caps = sandbox.Capabilities{
		Driver: d.kind.name, CgroupVersion: d.cgroups.Version, Freezer: d.cgroups.CanFreeze(d.cgroup()),
		UserNamespaces: true, Egress: d.cfg.Router != nil, Ports: !d.kind.ownKernel, Devices: !d.kind.ownKernel, Notes: slices.Clone(d.kind.notes),
	}
	if !d.kind.ownKernel {
		d.openUserNamespace()
	}
	if d.networks, err = network.NewStock(runtime.GOMAXPROCS(0)); err != nil {
		return err
	}
	d.work.Go(func() { linux.MakeWay(d.life.Done(), d.cgroups.Open(d.cgroup()), d.running) })
	return nil
}

// openHall is the setup of the hall's thread. What is mounted there from now on is
// seen there only.
//
// On a machine with cgroups of both versions the runtimes would find version 2
// without a controller; crun refuses such a machine. Here they find version 1 only.
func openHall() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return nil // version 2 alone
	}
	return linux.Unmount("/sys/fs/cgroup/unified")
}

// openUserNamespace finds out whether sandboxes can have user namespaces, which
// takes showing the files of an image under other owners.
func (d *Driver) openUserNamespace() {
	if err := d.tryMappedRoot(); err != nil {
		d.caps.UserNamespaces = false
		d.caps.Notes = append(d.caps.Notes, fmt.Sprintf("sandboxes have no user namespace (%v): a function cannot run as root; "+
			"Linux 5.19 or newer and a data directory on ext4, xfs or btrfs give it", err))
	}
}

func (d *Driver) tryMappedRoot() error {
	dir, err := os.MkdirTemp("", "hob")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	at := filepath.Join(d.dir, "try")
	if err := os.Mkdir(at, 0o711); err != nil {
		return err
	}
	defer os.RemoveAll(at)
	u, err := d.takeUsers()
	if err != nil {
		return err
	}
	defer d.leaveUsers(u)
	b := &box{d: d, dir: at, users: u}
	fd, err := b.mountRoot(sandbox.Spec{Root: sandbox.Root{Layers: []string{dir}}})
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// cgroup returns the name of this generation's cgroup.
func (d *Driver) cgroup() string { return path.Join(d.cfg.CgroupParent, d.cfg.Generation) }

// Probe implements sandbox.Driver. It starts a sandbox: what a runtime program
// makes of a machine is known only then.
func (d *Driver) Probe(ctx context.Context) (sandbox.Capabilities, error) {
	dir, err := os.MkdirTemp("", "hob")
	if err != nil {
		return d.caps, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return d.caps, err
	}
	if err := os.WriteFile(filepath.Join(dir, "seed"), seedProgram(), 0o755); err != nil {
		return d.caps, err
	}
	b, err := d.Start(ctx, sandbox.Spec{
		ID: fmt.Sprintf("probe-%d", d.last.Add(1)), Root: sandbox.Root{Key: dir, Layers: []string{dir}},
		Args: []string{"/seed"}, Memory: 128 * faas.MB, User: sandbox.User{UID: 1000, GID: 1000},
	})
	if err != nil {
		return d.caps, faas.Errorf(faas.Unsupported, "%s cannot start a sandbox on this node: %w", d.program, err)
	}
	b.Stdio().Stdin.Close() // at whose end it ends
	exit, err := b.Wait(ctx)
	if err == nil && exit != (faas.Exit{}) {
		err = faas.Errorf(faas.Unsupported, "%s cannot run a program on this node: it ended with exit code %d", d.program, exit.Code)
	}
	return d.caps, errors.Join(err, b.Stop(context.WithoutCancel(ctx), 0))
}

// Close implements sandbox.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	d.end()
	d.stock.close()

	var errs []error
	for range 2 { // the second time those of starts that were let in just before
		for _, b := range d.live() {
			errs = append(errs, b.Stop(context.Background(), 0))
		}
		d.work.Wait()
	}
	if d.networks != nil {
		d.networks.Close()
	}
	for _, t := range []*linux.Thread{d.hall, d.visitor} {
		if t != nil {
			t.Close()
		}
	}
	if d.seed != nil {
		d.seed.Close()
	}
	for _, fd := range []int{d.self, d.hostNet, d.hostPIDs} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if d.lock != nil {
		errs = append(errs, d.cgroups.Open(d.cgroup()).RemoveTree(), os.RemoveAll(d.dir))
		d.cgroups.Open(d.cfg.CgroupParent).RemoveIfEmpty()
		unlockGeneration(d.lock)
	}
	return errors.Join(errs...)
}

// running returns the cgroups of the sandboxes that may use processors.
func (d *Driver) running() (all []*linux.Cgroup) {
	for _, b := range d.live() {
		all = append(all, b.cgroup)
	}
	return all
}

// live returns the sandboxes that are not stopped.
func (d *Driver) live() []*box {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.boxes))
}

// errClosing is what callers get from a driver that is closing.
var errClosing = faas.Errorf(faas.Busy, "this node is shutting down")

// enter lets work in, which must end with d.work.Done. It reports false if the
// driver is closing: Close waits for all that was let in.
func (d *Driver) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.work.Add(1)
	return true
}

const lockSuffix = ".lock"

// lockGeneration takes the lock that says that a generation lives. It is free
// again when its daemon has ended, however it ended.
func lockGeneration(dir, generation string) (*os.File, error) {
	f, err := linux.LockFile(filepath.Join(dir, generation+lockSuffix))
	if errors.Is(err, linux.ErrLocked) {
		f.Close()
		return nil, faas.Errorf(faas.Conflict, "generation %s is alive: %w", generation, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock generation %s: %w", generation, err)
	}
	return f, nil
}

// unlockGeneration removes and releases a lock.
func unlockGeneration(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}
