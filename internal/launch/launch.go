// Package launch turns a function into a sandbox that can serve a call: the root
// filesystem of its image, the user it runs as, what is run and in which
// environment, and where its standard error goes. If a step fails, the steps
// before it are undone.
//
// It owns the sandboxes that live, until each is closed. Whether there is room
// for one, and who may have it, was decided before; how a call is spoken to it is
// decided in package protocol.
package launch

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/protocol"
	"hob/internal/sandbox"
)

// Logs keeps what functions write to standard error.
type Logs interface {
	// Writer returns where one stream of one call goes. Its Write never waits for
	// long and its errors are not the function's.
	Writer(funcID, callID, stream string) io.WriteCloser
}

// Launcher starts sandboxes. Its exported fields are set before the first use and
// not changed after.
type Launcher struct {
	Images  *image.Store
	Drivers Drivers
	Logs    Logs
	Log     *slog.Logger

	PullTimeout time.Duration             // of a pull that a call needs; 0: no limit
	Fn          Profile                   // of functions of faas.ProfileFn
	Networks    Networks                  // what functions reach
	Allowed     func(faas.Function) error // reports what a function may not have (any more); nil: it may have all
	Label       string                    // of each sandbox, as Live shows it; "": none

	mu      sync.Mutex
	live    map[*process]struct{} // guarded by mu, as all below
	byID    map[string]*process   // the live one with this ID of its sandbox, the latest if there are more
	within  map[string]int        // live ones in a named network
	refused map[string]int        // connections that policy refused, by the ID of the function; what is gone stays
	ended   [mostEnded]whose      // those that have ended, the latest before next
	next    int                   // place of ended
}

// whose tells whose a sandbox is, behind its end too: what the kernel has refused it may be
// told only then. The call is its latest.
type whose struct{ id, function, name, call string }

// mostEnded is how many that have ended are known.
const mostEnded = 256

// Drivers has the drivers of a node.
type Drivers interface {
	// Isolated returns the driver for a function; it is made if this is its first use.
	// An error of kind Unsupported says what this node lacks.
	Isolated(ctx context.Context, app faas.App, fn faas.Function) (sandbox.Driver, sandbox.Capabilities, error)
}

// Only is a node with one driver, which is that of every isolation but those of
// other programs.
type Only struct {
	sandbox.Driver
	Caps sandbox.Capabilities // of Driver
}

// Isolated implements Drivers.
func (o Only) Isolated(_ context.Context, _ faas.App, fn faas.Function) (sandbox.Driver, sandbox.Capabilities, error) {
	if of := fn.OwnIsolation(); of != "" && of != faas.IsolationNative {
		return nil, sandbox.Capabilities{}, faas.Errorf(faas.Unsupported, "this node has no isolation %s", of)
	}
	return o.Driver, o.Caps, nil
}

// Ready makes sure that the image of fn, of app, is on the node, and returns its digest: it
// is pulled if it is missing, by its digest if fn is pinned to one. The time that
// takes counts to no limit of the call.
func (l *Launcher) Ready(ctx context.Context, app faas.App, fn faas.Function) (digest string, err error) {
	if fn.Digest != "" && l.Images.Has(fn.Digest) {
		return fn.Digest, nil
	}
	if l.PullTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, l.PullTimeout, faas.Errorf(faas.TimedOut, "%w: it may take %v", faas.ErrPullTimeout, l.PullTimeout))
		defer cancel()
	}
	ref, err := l.Images.Normalize(fn.Image)
	if err != nil {
		return "", err
	}
	name := fn.Image
	if fn.Digest != "" {
		name = ref.Name() + "@" + fn.Digest
	}
	l.Log.InfoContext(ctx, "fetching an image for a call", "function", fn.Name, "image", fn.Image, "digest", fn.Digest)
	img, err := l.Images.Pull(ctx, name, image.PullOptions{Owner: image.Owner{App: app.Reach(), Function: fn.Reach()}})
	if err != nil {
		return "", noImage{fmt.Errorf("image %s of function %s: %w", fn.Image, fn.Name, err)}
	}
	return img.Digest, nil
}

// noImage is the error of an image that could not be fetched: faas.ErrNoImage, and
// the reason.
type noImage struct{ error }

func (e noImage) Is(target error) bool { return target == faas.ErrNoImage }
func (e noImage) Unwrap() error        { return e.error }

// Start makes what calls of fn need. Of a hot format the process runs and takes
// calls when Start returns, and died is called when it has ended by itself. Of the
// default format it is all up to the moment when the environment of the call is
// known: the process is started by the exchange. The caller closes the Conn.
func (l *Launcher) Start(ctx context.Context, app faas.App, fn faas.Function, died func()) (*Conn, error) {
	root, err := l.Images.RootFS(ctx, fn.Digest)
	if err != nil {
		return nil, fmt.Errorf("image %s of function %s: %w", fn.Image, fn.Name, err)
	}
	c := &Conn{launcher: l, root: root}
	if fn.Profile == faas.ProfileFn {
		fn = l.Fn.over(fn)
	}
	plan, err := l.plan(ctx, app, fn, root)
	if err == nil && fn.Format.Hot() {
		err = c.startHot(ctx, app, fn, plan, died)
	} else if err == nil {
		c.Conn = &protocol.Default{Memory: fn.Memory, Start: func(ctx context.Context, req *faas.Request, env []string) (protocol.Process, error) {
			plan.ID = strings.ToLower(req.Call)
			plan.Env = environment(plan.Spec, env)
			p, err := l.start(ctx, fn, plan, req.Call)
			if err != nil {
				return nil, err
			}
			c.fresh = p
			return p, nil
		}}
	}
	if err != nil {
		root.Release()
		return nil, err
	}
	return c, nil
}

// A plan is a sandbox that is to be, and who makes it.
type plan struct {
	sandbox.Spec
	driver  sandbox.Driver
	freezer bool   // of driver
	name    string // of the function, as a command names it
	network string // the named network that it is in; "": none
}

// plan is what is known of a sandbox of fn before its call.
func (l *Launcher) plan(ctx context.Context, app faas.App, fn faas.Function, root *image.RootFS) (p plan, err error) {
	if l.Allowed != nil {
		if err := l.Allowed(fn); err != nil {
			return plan{}, err
		}
	}
	driver, caps, err := l.Drivers.Isolated(ctx, app, fn)
	if err != nil {
		return plan{}, err
	}
	p = plan{driver: driver, freezer: caps.Freezer, name: fn.Name}
	if app.Name != "" && app.Name != faas.DefaultApp {
		p.name = app.Name + "/" + fn.Name
	}
	if p.Spec, err = l.spec(fn, root, caps); err != nil {
		return p, err
	}
	p.Network, p.network, err = l.Networks.Of(app, fn, l.inNetwork)
	return p, err
}

// inNetwork counts the sandboxes in a named network.
func (l *Launcher) inNetwork(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.within[name]
}

// spec is plan but for the network.
func (l *Launcher) spec(fn faas.Function, root *image.RootFS, caps sandbox.Capabilities) (sandbox.Spec, error) {
	cfg := root.Config
	s := sandbox.Spec{
		Hostname: hostname(fn.Name),
		Root:     sandbox.Root{Key: root.Key, Layers: root.Layers},
		Args:     slices.Concat(program(fn, cfg)), Env: cfg.Env, Dir: cmp.Or(fn.Workdir, cfg.Workdir),
		Memory: fn.Memory, CPU: fn.CPU, TmpSize: fn.TmpSize,
		Writable: fn.Writable, Volumes: cfg.Volumes, Devices: fn.Devices,
	}
	if fn.Profile == faas.ProfileFn {
		s.Hostname = "" // each sandbox has one of its own there
		s.Limits = l.Fn.Limits
		if len(s.Volumes) > 0 && !l.Fn.Volumes {
			return s, faas.Errorf(faas.Invalid, "%w", faas.ErrVolumes)
		}
	}
	switch fn.Format {
	case faas.FormatHTTPStream:
		s.Sockets = protocol.ListenerDir
	case faas.FormatLambda:
		lambda(&s, fn, root)
	}
	if len(s.Args) == 0 {
		return s, faas.Errorf(faas.Invalid, "function %s has no command, and neither has its image %s: give one behind the image", fn.Name, fn.Image)
	}
	user, err := l.user(fn, root, caps)
	s.User = user
	return s, err
}

// program is what is executed: an entrypoint of the function takes the place of
// both the image's entrypoint and its command, as with Docker.
func program(fn faas.Function, cfg image.ImageConfig) (entrypoint, command []string) {
	entrypoint, command = cfg.Entrypoint, cfg.Command
	if fn.Entrypoint != nil {
		entrypoint, command = fn.Entrypoint, nil
	}
	if fn.Command != nil {
		command = fn.Command
	}
	return entrypoint, command
}

// nobody is whom a function runs as if neither it nor its image says: not root.
var nobody = sandbox.User{UID: 1000, GID: 1000}

// user is whom fn runs as.
func (l *Launcher) user(fn faas.Function, root *image.RootFS, caps sandbox.Capabilities) (sandbox.User, error) {
	name := cmp.Or(fn.User, root.Config.User)
	if name == "" && !fn.Writable {
		return nobody, nil
	}
	uid, gid, groups, err := root.LookupUser(cmp.Or(name, "0"))
	if err != nil {
		return sandbox.User{}, fmt.Errorf("user of function %s: %w", fn.Name, err)
	}
	if uid == 0 && fn.User == "" && !caps.UserNamespaces {
		l.Log.Info("the function would run as root and this node has no user namespaces: it runs as 1000", "function", fn.Name, "image", fn.Image)
		return nobody, nil
	}
	return sandbox.User{UID: uid, GID: gid, Groups: groups}, nil
}

// hostname is the name of a function as a host can have it.
func hostname(name string) string {
	host := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, strings.ToLower(name))
	return strings.TrimRight(host[:min(len(host), 63)], "-")
}

// start starts a process, for one call or, without one, for many.
func (l *Launcher) start(ctx context.Context, fn faas.Function, plan plan, call string) (*process, error) {
	if fn.StartTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, fn.StartTimeout, faas.Errorf(faas.TimedOut, "%w", late(fn.StartTimeout)))
		defer cancel()
	}
	p := &process{
		launcher: l, function: fn.ID, name: plan.name, network: plan.network, freezer: plan.freezer,
		info: faas.Sandbox{ID: plan.ID, App: fn.App, Function: fn.Name, Format: fn.Format, Label: l.Label, Started: time.Now()},
		said: make(chan struct{}), payload: fn.LogPayload,
	}
	if call != "" {
		p.begin(&call)
	} else {
		p.frames = framesOf(plan.Env)
	}
	l.add(p)
	box, err := plan.driver.Start(ctx, plan.Spec)
	if err != nil {
		l.remove(p)
		return nil, fmt.Errorf("start function %s: %w", fn.Name, err)
	}
	l.mu.Lock()
	p.box = box
	l.mu.Unlock()
	p.listen()
	return p, nil
}

// late is the error of a sandbox that was not made within this time.
type late time.Duration

func (l late) Error() string {
	return fmt.Sprintf("the sandbox did not start within %v", time.Duration(l))
}
func (l late) Unwrap() error { return faas.ErrStartTimeout }

func (l *Launcher) add(p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live == nil {
		l.live, l.byID, l.within = make(map[*process]struct{}), make(map[string]*process), make(map[string]int)
	}
	l.live[p], l.byID[p.info.ID] = struct{}{}, p
	l.within[p.network]++
}

func (l *Launcher) remove(p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.live[p]; !ok {
		return
	}
	delete(l.live, p)
	if l.byID[p.info.ID] == p {
		delete(l.byID, p.info.ID)
	}
	l.ended[l.next] = whose{p.info.ID, p.function, p.name, callOf(p.call.Load())}
	l.next = (l.next + 1) % mostEnded
	if l.within[p.network]--; l.within[p.network] == 0 {
		delete(l.within, p.network)
	}
}

// Live lists the sandboxes that are there, with what each uses now. The App of
// each is the app's ID.
func (l *Launcher) Live() []faas.Sandbox {
	l.mu.Lock()
	live := slices.Collect(maps.Keys(l.live))
	infos := make([]faas.Sandbox, len(live))
	boxes := make([]sandbox.Sandbox, len(live))
	for i, p := range live {
		infos[i], boxes[i] = p.info, p.box
		infos[i].State, infos[i].Call, infos[i].Calls = p.state()
	}
	l.mu.Unlock()
	for i, box := range boxes {
		if box != nil {
			u := box.Usage()
			infos[i].Start = box.Start()
			infos[i].Memory, infos[i].PeakMemory, infos[i].CPUTime, infos[i].Processes = u.Memory, u.PeakMemory, u.CPUTime, u.Processes
		}
	}
	return infos
}
