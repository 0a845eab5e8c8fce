// Package sandbox is the driver contract: what a sandbox is asked to be (Spec),
// what it can be asked for once it runs (Sandbox), and who makes one (Driver).
// It holds types, and what they mean to every driver. Package sandboxtest is the contract as tests; ns, oci
// and fake are the drivers.
package sandbox

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hob/faas"
)

// A Driver makes sandboxes. Its methods may be called from many goroutines.
type Driver interface {
	// Probe reports what this driver can do on this machine. An error of kind
	// Unsupported says in plain words what is missing and how to get it.
	Probe(ctx context.Context) (Capabilities, error)

	// Start makes a sandbox and starts its process. When it returns nil the
	// program of spec.Args has been executed; when it returns an error nothing
	// is left behind. An error of kind Invalid is the fault of the image or the
	// function (no such program, not for this CPU); Busy is a lack of this
	// machine that may pass (memory, disk, processes). ctx bounds the start
	// only: the end of ctx does not end a sandbox that was returned.
	Start(ctx context.Context, spec Spec) (Sandbox, error)

	// Reap removes whatever sandboxes of dead generations left on the machine:
	// processes, mounts, cgroups, network devices, directories. It leaves the
	// sandboxes of living daemons alone. It is called once, before the first Start.
	Reap(ctx context.Context) error

	// Close ends every sandbox that is left and releases what the driver holds.
	// No Start may follow.
	Close() error
}

// Capabilities is what a driver can do on this machine.
type Capabilities struct {
	Driver         string   // "ns", "fake", "runc", "crun", "runsc"
	CgroupVersion  int      // 1, 2; 0: no limits are enforced
	UserNamespaces bool     // root in an image is not root on the node
	Freezer        bool     // sandboxes are Freezers
	Egress         bool     // sandboxes can have faas.NetworkOpen and faas.NetworkAllow
	Ports          bool     // Dial with "tcp", and Spec.Listen
	Devices        bool     // Spec.Devices
	Notes          []string // what is weaker than it could be, in plain words, and how to change it
}

// Spec is everything a driver needs to know to make a sandbox.
type Spec struct {
	ID       string // unique among the sandboxes of this driver: letters, digits and '-'
	Hostname string // "": one that no other sandbox has, which the process also gets as HOSTNAME, unless Env has one
	Root     Root

	Args []string // program and arguments; a program without '/' is looked up in the PATH of Env, inside the root
	Env  []string // "NAME=value", exactly what the process gets (but see Hostname)
	Dir  string   // working directory inside the root; "" is "/". It is made if it is missing
	User User

	Memory faas.Bytes // limit: memory of processes, page cache, tmpfs; swap is off
	CPU    faas.CPU   // limit; 0: none
	Limits
	TmpSize faas.Bytes // of /tmp, of each volume, and of the private upper of a writable root

	Writable bool     // the root has a private writable upper that ends with the sandbox
	Volumes  []string // absolute paths that are empty, writable directories of their own
	Sockets  string   // absolute path of a small writable directory for Unix sockets that Dial reaches; "": none
	Listen   string   // TCP address inside its network, as "127.0.0.1:9001", where Listener listens before its process begins; "": none. With faas.NetworkHost it is Invalid
	Devices  []string // device files of the machine, as absolute paths below /dev, that it has under the same names, to read and write

	// Network is what it reaches. With NetworkHost it shares the node's network and has
	// the node's /etc/resolv.conf; else it has a network of its own, with a loopback, and unless the
	// mode is NetworkNone with a device eth0, and an /etc/resolv.conf that names hob's
	// name server. Only where the image has no directory /etc it keeps what it has there.
	Network faas.Egress
}

// Limits are what a process may use of things that are counted; 0: the driver's
// default.
type Limits struct {
	PIDs           int        // processes and threads at once
	Files          int        // open files of a process
	LockedMemory   faas.Bytes // of a process (RLIMIT_MEMLOCK)
	PendingSignals int        // of a user (RLIMIT_SIGPENDING)
	MessageQueues  faas.Bytes // POSIX message queues of a user (RLIMIT_MSGQUEUE)
	TmpInodes      int        // files and directories in each of what TmpSize is of
}

// Named returns s with a host name, of 12 letters and digits, if it has none. It is
// for drivers.
func (s Spec) Named() Spec {
	if s.Hostname == "" {
		s.Hostname = strings.ToLower(rand.Text()[:12])
	}
	return s
}

// HostNetwork reports whether the sandbox shares the node's network.
func (s Spec) HostNetwork() bool { return s.Network.Mode == faas.NetworkHost }

// OwnDevice reports whether the sandbox has a network device besides its loopback.
func (s Spec) OwnDevice() bool {
	return s.Network.Mode == faas.NetworkOpen || s.Network.Mode == faas.NetworkAllow
}

// Listens returns Listen as an address that can be listened on; the zero AddrPort
// without one. It is for drivers.
func (s Spec) Listens() (netip.AddrPort, error) {
	if s.Listen == "" {
		return netip.AddrPort{}, nil
	}
	at, err := netip.ParseAddrPort(s.Listen)
	switch {
	case err != nil || at.Port() == 0 || at.Addr().Zone() != "":
		return at, faas.Errorf(faas.Invalid, "no sandbox can be given a listener on %q: it takes an IP address and a port from 1 to 65535", s.Listen)
	case s.HostNetwork():
		return at, faas.Errorf(faas.Invalid, "a sandbox that shares the node's network cannot be given a listener on %s: others would reach it", s.Listen)
	}
	return at, nil
}

// Told returns the environment of s for a process that was named host by its
// driver.
func (s Spec) Told(host string) []string {
	if s.Hostname != "" || slices.ContainsFunc(s.Env, func(e string) bool { return strings.HasPrefix(e, "HOSTNAME=") }) {
		return s.Env
	}
	return append(slices.Clip(s.Env), "HOSTNAME="+host)
}

// Root is the read-only part of a root filesystem.
type Root struct {
	// Key names the content: two Roots with the same Key have the same Layers.
	// A driver may keep what it prepared for a Key for the next sandbox.
	Key    string
	Layers []string // unpacked layers as absolute directories, the topmost first; at least one
}

// User is whom the process runs as, in the numbers of the image.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
}

// Sandbox is one isolated, started process tree. Its methods may be called from
// many goroutines.
type Sandbox interface {
	ID() string

	// Stdio returns the streams of the process. They belong to the caller, who
	// closes each exactly when done with it; Stop closes what is left. Reads
	// and writes honour deadlines (they are os.File or net.Conn inside).
	Stdio() Stdio

	// Wait returns when the first process has ended. Every process that it left
	// behind is then being killed. It may be called again and answers the same.
	// When ctx ends first, Wait returns the cause and the sandbox goes on.
	Wait(ctx context.Context) (faas.Exit, error)

	// Stop ends the sandbox: with a grace above zero the first process gets
	// SIGTERM and that long to end by itself, and who reads its streams a moment for its
	// last words; then everything is killed. When
	// Stop returns nil no process, mount, cgroup, network device or directory
	// of the sandbox is left. Stop may be called again and then does nothing.
	Stop(ctx context.Context, grace time.Duration) error

	// Usage reports what the sandbox has used so far. It works until Stop and
	// then keeps its last answer.
	Usage() Usage

	// Start tells what the sandbox was made from: any Start but StartHot.
	Start() faas.Start

	// Dial connects to what a process of the sandbox listens on: network "tcp"
	// with an address inside its network, also when it has no other; network
	// "unix" with the name of a socket in Spec.Sockets. The name may be a
	// relative link to a socket in the same directory. Everything else in its
	// place is refused as Invalid: it could lead out of the sandbox. A socket that is not
	// there, nobody listens on or others may not write to is an error to try
	// again after (fs.ErrNotExist, ECONNREFUSED, fs.ErrPermission).
	Dial(ctx context.Context, network, addr string) (net.Conn, error)

	// Listener is what listens on Spec.Listen; nil without one. Who connects before
	// the first Accept waits in line. Only processes of the sandbox reach it: others
	// may listen on the same address. It is the caller's to close, and so is each
	// connection; Stop closes the listener too.
	Listener() net.Listener
}

// Freezer is a Sandbox whose processes can be made to stand still. They use no
// processor time then, keep their memory, and are thawed by Stop.
type Freezer interface {
	Freeze() error
	Thaw() error
}

// Pipe is a stream that tells how many bytes are in it that its reader has not
// read. The Stdin and Stdout of a Sandbox may be Pipes.
type Pipe interface {
	Unread() int
}

// Stdio are the streams of a sandbox's first process, seen from outside.
type Stdio struct {
	Stdin  io.WriteCloser
	Stdout io.ReadCloser
	Stderr io.ReadCloser
}

// lastWords bounds Heard: nobody may read.
const lastWords = 500 * time.Millisecond

// Heard waits until who reads the output has all of it, or for half a second. It is for
// drivers, who close the streams then, when the process has ended that they asked to.
func (s Stdio) Heard() {
	for end := time.Now().Add(lastWords); time.Now().Before(end); time.Sleep(time.Millisecond) {
		unread := 0
		for _, stream := range []io.ReadCloser{s.Stdout, s.Stderr} {
			if p, ok := stream.(Pipe); ok {
				unread += p.Unread()
			}
		}
		if unread == 0 {
			return
		}
	}
}

// Usage is what a sandbox has used.
type Usage struct {
	Memory     faas.Bytes // now
	PeakMemory faas.Bytes
	CPUTime    time.Duration // user and system, of all its processes
	Processes  int           // now
	OOMKills   int           // processes killed for being over the memory limit
}
