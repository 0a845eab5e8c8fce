// Package daemon builds every part of hob from a Config, by name and in order,
// runs them, and takes them down again. Read New from top to bottom to see what
// there is, and Run to see what goes on in the background.
//
// It owns the lock of the data directory, the listeners and the order in which
// things begin and end. What any part does is decided in that part.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/errgroup"

	"hob/faas"
	"hob/internal/api/core"
	"hob/internal/api/registry"
	"hob/internal/capacity"
	"hob/internal/catalog"
	"hob/internal/config"
	"hob/internal/deliver"
	"hob/internal/dispatch"
	"hob/internal/doctor"
	"hob/internal/image"
	"hob/internal/image/layer"
	"hob/internal/invoke"
	"hob/internal/launch"
	"hob/internal/logs"
	"hob/internal/network"
	"hob/internal/pool"
	"hob/internal/sandbox"
	"hob/internal/sandbox/fake"
	"hob/internal/sandbox/ns"
	"hob/internal/sandbox/oci"
	"hob/internal/store"
	"hob/internal/store/sqlite"
)

// SocketName is the Unix socket for management by root, in the data directory.
const SocketName = "hob.sock"

// collectEvery is how often images are looked through for what nobody uses.
const collectEvery = time.Minute

// Daemon is a node that is built and listening. Run serves; Close releases a
// Daemon that is never run.
type Daemon struct {
	cfg     config.Config
	log     *slog.Logger
	version string
	run     string // names this run of the daemon, and no other
	started time.Time
	lease   time.Duration // of calls that outside runners take; 0: dispatch.Lease
	caps    sandbox.Capabilities
	place   func(*network.Config) // changes how the router is made; nil: nothing
	logRate faas.Bytes            // of a function, a second; 0: that of logs

	undo []func() error // what New made, to be released in reverse

	store       *sqlite.Store
	driver      sandbox.Driver  // the node's own
	router      *network.Router // nil: functions have no network but loopback, or the host's
	networks    launch.Networks
	isolations  *isolations
	images      *image.Store
	credentials authn.Keychain // for registries
	registry    *registry.Server
	catalog     *catalog.Catalog
	logs        *logs.Store
	capacity    *capacity.Node
	launcher    *launch.Launcher
	launching   atomic.Pointer[launch.Launcher] // launcher, for who may ask before it is made
	pool        *pool.Set
	invoker     *invoke.Invoker
	queue       *dispatch.Dispatcher
	outbox      *deliver.Deliverer
	transports  transports // of outbox
	health      *health

	tcp, socket net.Listener
	tls         net.Listener  // nil: none
	server      *http.Server  // on tcp and tls
	local       *http.Server  // on socket
	ending      chan struct{} // closed when streams that no http.Server knows must end
}

// Option changes a Daemon before it is built.
type Option func(*Daemon)

// WithVersion says what /version answers.
func WithVersion(version string) Option { return func(d *Daemon) { d.version = version } }

// WithDriver puts a driver in place of the one that cfg names. The Daemon closes it.
func WithDriver(driver sandbox.Driver) Option { return func(d *Daemon) { d.driver = driver } }

// New builds a daemon: when it returns nil, the daemon listens and callers wait
// until Run serves them. An error of kind Unsupported says what this machine
// lacks, Conflict who has the data directory or the port, Denied what needs
// insecure. After an error nothing is left.
func New(ctx context.Context, cfg config.Config, log *slog.Logger, options ...Option) (_ *Daemon, err error) {
	d := &Daemon{cfg: cfg, log: log, version: "unknown", run: strings.ToLower(faas.NewID()), started: time.Now(), ending: make(chan struct{})}
	for _, o := range options {
		o(d)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if err := doctor.Refusal(doctor.Look(doctor.Machine{Data: cfg.Data, Driver: cfg.Driver})); err != nil {
		return nil, err
	}
	lock, err := lockData(cfg.Data)
	if err != nil {
		return nil, err
	}
	d.onClose(lock.Close)

	for _, step := range []func(context.Context) error{
		d.openStoreAndNetwork, d.openDriver, d.listen, d.openImages, d.openLogs, d.openCalls, d.loadImages,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	for _, note := range cfg.Notes() {
		log.Info("a note on the settings", "note", note)
	}
	d.serveHTTP()
	return d, nil
}

// openStoreAndNetwork reads the definitions while the kernel makes the network of
// functions, which is most of the time that a start takes.
func (d *Daemon) openStoreAndNetwork(ctx context.Context) error {
	var network error
	var work sync.WaitGroup
	work.Go(func() { network = d.openNetwork() })
	err := d.openStore(ctx)
	work.Wait()
	if d.router != nil {
		d.onClose(d.router.Close)
	}
	return errors.Join(err, network)
}

// openStore opens the database and reads the definitions.
func (d *Daemon) openStore(ctx context.Context) error {
	db, err := sqlite.Open(ctx, d.path("hob.db"), store.Limits{
		ResultsPerFunction: d.cfg.ResultPerFunction, ResultsTotal: d.cfg.ResultTotal,
		QueuePerFunction: d.cfg.QueuePerFunction, QueueTotal: d.cfg.QueueTotal,
		CallsPerFunction: store.DefaultLimits().CallsPerFunction, Age: d.cfg.ResultAge, KeyAge: d.cfg.KeyAge,
	})
	if err != nil {
		return err
	}
	d.store = db
	d.onClose(db.Close)
	if d.catalog, err = catalog.Load(ctx, db); err != nil {
		return err
	}
	d.catalog.Log, d.catalog.Patterns, d.catalog.Admit = d.log, d.cfg.Patterns, d.admit
	return nil
}

// openImages opens the images of this node and the registry before them.
func (d *Daemon) openImages(context.Context) error {
	var err error
	d.credentials, err = image.Credentials(d.cfg.RegistryAuth)
	if err != nil {
		return err
	}
	if d.images, err = image.Open(image.Config{
		Dir: d.path("images"), Self: d.self(), PlainHTTP: d.cfg.PlainHTTP, Keychain: d.credentials, InUse: d.catalog.Digests,
		Dial: d.dialRegistry, Check: d.checkRegistry,
		Budget: d.cfg.ImageBytes, Keep: d.cfg.ImageKeep, Limits: layer.Limits{Bytes: int64(d.cfg.MaxImage)}, Log: d.log,
	}); err != nil {
		return err
	}
	d.onClose(d.images.Close)
	d.registry, err = registry.New(registry.Config{
		Dir: d.path("registry"), Images: d.images, Content: d.images.Content(), Log: d.log,
	})
	return err
}

// openLogs opens the lines of functions and the journal of calls.
func (d *Daemon) openLogs(context.Context) (err error) {
	if d.logs, err = logs.Open(logs.Config{
		Dir: d.path("logs"), PerFunction: d.cfg.LogPerFunction, PerSecond: d.logRate, Total: d.cfg.LogTotal, MaxAge: d.cfg.LogAge,
		JournalBytes: d.cfg.JournalBytes, JournalAge: d.cfg.JournalAge, Syslog: d.sourceOf, Dial: d.dialSyslog, Log: d.log, Echo: d.cfg.LogFunctions,
	}); err != nil {
		return err
	}
	d.onClose(func() error {
		if err := d.logs.Close(); err != nil {
			d.log.Warn("the last lines and records are not kept", "err", err)
		}
		return nil
	})
	return nil
}

// openCalls builds the path of a call, from the queue down to the sandboxes.
func (d *Daemon) openCalls(context.Context) (err error) {
	total := faas.Resources{Memory: d.cfg.Memory, CPU: d.cfg.CPUs}
	if total.Memory == 0 {
		if total.Memory, err = capacity.OfMachine(); err != nil {
			return err
		}
	}
	if total.CPU == 0 {
		total.CPU = faas.CPU(1000 * runtime.NumCPU())
	}
	d.capacity = capacity.New(total)
	d.launcher = &launch.Launcher{
		Images: d.images, Drivers: d.isolations, Networks: d.networks, Allowed: d.allowed, Logs: d.logs,
		PullTimeout: d.cfg.PullTimeout, Fn: fnProfile(d.cfg), Label: d.cfg.Label, Log: d.log,
	}
	d.launching.Store(d.launcher)
	d.pool = &pool.Set{
		Start: d.startSandbox, Unready: d.unready, Capacity: d.capacity, Log: d.log,
		MaxCalls: d.cfg.MaxConcurrency, MaxWaiting: d.cfg.MaxWaiting, FreezeAfter: d.cfg.FreezeAfter, AsyncShare: d.cfg.AsyncShare,
	}
	d.onClose(func() error { d.pool.Close(); return nil })
	d.health = &health{dir: d.cfg.Data, least: d.cfg.LeastFreeDisk, logs: d.logs.Fault}
	d.queue = dispatch.New()
	d.invoker = &invoke.Invoker{
		Pool: d.pool, Images: pins{d.launcher, d.catalog}, Apps: d.catalog, Journal: d.logs, Log: d.log,
		Calls: d.store, Queue: d.queue, Events: d.queue, Room: d.health.room, MaxResult: d.cfg.MaxResult,
	}
	d.outbox = deliver.New(d.store, destinations{d.catalog, d.invoker}, d.deliveryOf, d.log)
	d.onClose(d.transports.close)
	q := d.queue
	q.Calls, q.Runner, q.Room, q.Definitions = d.store, d.invoker, d.pool, d.catalog
	q.Events, q.Journal, q.Delivering, q.Holds = d.logs, d.logs, d.outbox.Wake, d.managesOnly()
	q.Owner, q.Lease, q.Marks, q.MaxResult, q.Log = d.run, d.lease, d.path("running"), d.cfg.MaxResult, d.log
	return nil
}

// loadImages loads the archives that the operator names.
func (d *Daemon) loadImages(ctx context.Context) error {
	for _, file := range d.cfg.Load {
		images, err := d.images.LoadPath(ctx, file, "")
		if err != nil {
			return fmt.Errorf("load %s: %w", file, err)
		}
		for _, img := range images {
			d.log.Info("image loaded", "image", strings.Join(img.Refs, " "), "digest", img.Digest)
		}
	}
	return nil
}

// fnProfile is what the operator decides of functions made for Fn.
func fnProfile(cfg config.Config) launch.Profile {
	return launch.Profile{
		Limits: sandbox.Limits{
			PIDs: cfg.MaxPIDs, Files: cfg.MaxFiles, LockedMemory: cfg.MaxLockedMemory,
			PendingSignals: cfg.MaxPendingSignals, MessageQueues: cfg.MaxMessageQueues, TmpInodes: cfg.MaxTmpInodes,
		},
		StartTimeout: cfg.FnStartTimeout, MaxFS: cfg.FnMaxFS, Writable: cfg.FnWritable, ImageUser: cfg.FnPrivileged, Volumes: cfg.FnVolumes,
	}
}

// startSandbox is how the pool starts one.
func (d *Daemon) startSandbox(ctx context.Context, need pool.Need, died func()) (pool.Conn, error) {
	conn, err := d.launcher.Start(ctx, need.App, need.Function, died)
	if err != nil {
		return nil, err // not a nil *Conn in an interface
	}
	return conn, nil
}

func (d *Daemon) path(name string) string { return filepath.Join(d.cfg.Data, name) }

// onClose adds a step to Close; the last added is carried out first.
func (d *Daemon) onClose(f func() error) { d.undo = append(d.undo, f) }

// Close releases all that New made. After Run it has been called.
func (d *Daemon) Close() error {
	var errs []error
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i]())
	}
	d.undo = nil
	return errors.Join(errs...)
}

// openDriver makes the node's own driver and removes what dead daemons left.
func (d *Daemon) openDriver(ctx context.Context) (err error) {
	d.isolations = &isolations{other: faas.Isolation(d.cfg.Isolation), hyper: faas.Isolation(d.cfg.HyperIsolation)}
	switch {
	case d.driver != nil:
	case d.cfg.Driver == "fake":
		d.driver = fake.New(fake.Builtin())
	default:
		if err := oci.Reap(ctx, oci.Config{Generation: d.run, Log: d.log}); err != nil {
			d.log.Error("what a dead daemon left of other isolations could not be removed", "err", err)
		}
		d.driver, err = ns.New(ns.Config{Generation: d.run, CgroupParent: d.cfg.CgroupParent, Blanks: d.cfg.Blanks, Router: d.router, Log: d.log})
		d.isolations.config = d.runtimeConfig
	}
	if err != nil {
		return err
	}
	d.isolations.native.Driver = d.driver
	d.onClose(d.isolations.close)
	if d.caps, err = d.driver.Probe(ctx); err != nil {
		return err
	}
	d.isolations.native.Caps = d.caps
	for _, note := range d.caps.Notes {
		d.log.Warn("this node is weaker than it could be", "why", note)
	}
	if err := d.driver.Reap(ctx); err != nil {
		return err
	}
	return d.checkIsolations(ctx)
}

// listen opens the TCP address and the socket.
func (d *Daemon) listen(context.Context) (err error) {
	if d.tcp, err = listenTCP("listen", d.cfg.Listen); err != nil {
		return err
	}
	d.onClose(closeListener(d.tcp))
	if d.tls, err = d.listenTLS(); err != nil {
		return err
	}
	if d.tls != nil {
		d.onClose(closeListener(d.tls))
	}
	socket := d.Socket()
	os.Remove(socket) // of a daemon that was killed: the lock says that there is no other
	if d.socket, err = net.Listen("unix", socket); err != nil {
		return fmt.Errorf("listen on %s: %w", socket, err)
	}
	d.onClose(closeListener(d.socket))
	if err := os.Chmod(socket, 0o600); err != nil {
		return fmt.Errorf("keep %s for root: %w", socket, err)
	}
	return nil
}

// closeListener closes l unless its server has done so.
func closeListener(l net.Listener) func() error {
	return func() error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// Addr returns the TCP address, with the port that was taken.
func (d *Daemon) Addr() string { return d.tcp.Addr().String() }

// Socket returns the path of the Unix socket. The data directory is root's alone,
// so nobody can reach the socket before it is kept for root, too.
func (d *Daemon) Socket() string { return d.path(SocketName) }

// self returns the addresses that mean this node in a reference of an image.
func (d *Daemon) self() []string {
	_, port, _ := net.SplitHostPort(d.Addr())
	names := append([]string{"localhost", "127.0.0.1", "[::1]"}, d.cfg.Hosts...)
	host, _, _ := net.SplitHostPort(d.cfg.Listen)
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		names = append(names, host)
	}
	var all []string
	for _, name := range names {
		all = append(all, name+":"+port)
	}
	return all
}

// Run serves until ctx ends, then drains: no new calls are taken, those in flight
// get the grace time, and everything is closed. It returns nil after a drain.
func (d *Daemon) Run(ctx context.Context) error {
	parts, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	g, gctx := errgroup.WithContext(parts)
	g.Go(func() error { return d.catalog.Run(gctx) })
	g.Go(func() error { return d.logs.Run(gctx) })
	g.Go(func() error { return d.registry.Run(gctx) })
	g.Go(func() error { return d.health.watch(gctx) })
	g.Go(func() error { return d.collect(gctx) })
	g.Go(func() error { return d.renew(gctx) })
	g.Go(func() error { return d.queue.Run(gctx) })
	g.Go(func() error { return d.outbox.Run(gctx) })
	g.Go(func() error { return served(d.server.Serve(d.tcp)) })
	g.Go(func() error { return served(d.local.Serve(d.socket)) })
	if d.tls != nil {
		g.Go(func() error { return served(d.server.Serve(d.tls)) })
	}
	d.log.Info("ready", "node", d.Addr(), "driver", d.caps.Driver, "took", time.Since(d.started).Round(time.Millisecond))

	select {
	case <-ctx.Done():
		d.drain(d.cfg.Grace)
	case <-gctx.Done(): // a part has failed: it says why below
		d.drain(0)
	}
	d.server.Close()
	d.local.Close()
	stop(nil)
	err := g.Wait()
	return errors.Join(err, d.Close())
}

// served turns the end of a server that was closed into none.
func served(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// drain refuses new calls and waits for those in flight as long as the grace time.
func (d *Daemon) drain(grace time.Duration) {
	d.log.Info("draining", "grace", grace)
	d.health.draining.Store(true)
	d.queue.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := d.invoker.Drain(ctx); err != nil {
		d.log.Warn("calls were cut off", "err", err)
	}
	// The answers are written; a connection without a request, or an upload, does not hold us up.
	last, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	close(d.ending)
	d.logs.EndFollowers()
	d.server.Shutdown(last)
	d.local.Shutdown(last)
}

// collect removes images that nobody uses when they are over the budget.
func (d *Daemon) collect(ctx context.Context) error {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		removed, freed, err := d.images.Collect(ctx)
		if err != nil && ctx.Err() == nil {
			d.log.Error("images were not collected, trying again", "err", err, "in", collectEvery)
		}
		for _, img := range removed {
			d.log.Info("image collected", "image", strings.Join(img.Refs, " "), "digest", img.Digest)
		}
		if freed > 0 {
			d.log.Info("images collected", "freed", freed.String())
		}
	}
}

// sandboxes is what is live, with the names of apps in place of their IDs.
func (d *Daemon) sandboxes() []faas.Sandbox {
	live := d.launcher.Live()
	for i := range live {
		if app, err := d.catalog.AppByID(live[i].App); err == nil {
			live[i].App = app.Name
		}
	}
	return live
}

// node is what the API tells of this daemon.
func (d *Daemon) node() core.Node {
	return core.Node{
		Version: d.version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Driver: d.caps.Driver, CgroupVersion: d.caps.CgroupVersion, UserNamespaces: d.caps.UserNamespaces, Notes: d.caps.Notes,
		Network: d.cfg.Network, Isolations: d.isolations.offered(), Refused: d.refusedPackets(),
		CPUs: faas.CPU(1000 * runtime.NumCPU()), Memory: d.capacity.Total().Memory, Reserved: d.capacity.Total().Memory - d.capacity.Free().Memory,
		Waiting: len(d.pool.Waiting()), Started: d.started, Listen: d.Addr(),
	}
}
