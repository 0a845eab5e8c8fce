// Package config is the daemon's configuration: one struct, its defaults in one
// function, and the four places a value can come from, the later winning: the
// default, the configuration file, the environment (HOB_…, and those of Fn's and
// IronFunctions' servers), a flag. It knows where each value came from and says so.
//
// It reads and checks; it opens nothing that a value names and leaves it to the
// daemon to act on them.
package config

import (
	"strings"
	"time"

	"hob/faas"
)

// Config is every setting of a daemon. Begin with Default or Load; a Config
// made in any other way fails Check.
type Config struct {
	Data         string   // directory of everything that is kept
	Listen       string   // TCP address of the HTTP server, "host:port"; port 0 takes a free one
	Hosts        []string // names, besides loopback, that a Host header may have for management
	Insecure     bool     // allow what is refused while there is no access control
	Driver       string   // "ns" or "fake"
	Memory       faas.Bytes
	CPUs         faas.CPU // for functions that reserve some; 0: all of the machine
	CgroupParent string   // "": chosen by the driver
	Load         []string // image archives loaded at start

	Isolation string   // faas.Isolation of functions that choose none
	Runtimes  []string // "ISOLATION=PROGRAM", an absolute path or a name in PATH; see Programs
	Devices   []string // files below /dev that functions may ask for

	Network      string     // of functions and apps that choose none: "none", "open", "allow", or one of Networks
	Allow        []string   // rules that add to those of all functions (faas.ParseEgressRule)
	Networks     []string   // "NAME=MODE [RULE …]": networks that functions and apps can choose by name
	FnNetworks   []string   // of Networks: for Fn functions that choose none; each sandbox gets the one with the fewest
	NetworkRange string     // IPv4 range, of at least a /18, in which the addresses of functions are; "": 100.64.0.0/10
	Bandwidth    faas.Bytes // a second, that a sandbox may send, and receive; 0: no limit
	Connections  int        // that a sandbox may open in a second
	UnixTargets  bool       // syslog URLs of apps may name Unix sockets of this machine

	FreezeAfter    time.Duration // idle time after which a hot sandbox is frozen; negative: never
	Blanks         int           // sandboxes made ahead of need; 0: what the driver thinks right; negative: none
	MaxConcurrency int           // calls at once on this node; 0: no limit
	MaxWaiting     int           // callers that may wait on this node; 0: no limit

	PlainHTTP   []string      // registries, "host[:port]", that may be spoken to without TLS
	Registries  []string      // "host[:port]", that may be at closed addresses; those of PlainHTTP may, too
	PullTimeout time.Duration // of a whole pull
	MaxImage    faas.Bytes    // unpacked size of one image
	ImageBytes  faas.Bytes    // all images together, above which unused ones are removed; 0: never
	ImageKeep   []string      // references that automatic removal leaves alone

	MaxRequest     faas.Bytes    // body of one call; 0: no limit
	LogPerFunction faas.Bytes    // lines kept of one function
	LogTotal       faas.Bytes    // lines kept of all functions
	LogAge         time.Duration // of the oldest line kept; 0: no limit
	JournalBytes   faas.Bytes    // records of finished calls kept
	JournalAge     time.Duration // of the oldest record kept; 0: no limit

	// Of asynchronous calls; a size of 0 is no limit.
	ResultPerFunction faas.Bytes    // results kept of one function
	ResultTotal       faas.Bytes    // results kept of all functions
	ResultAge         time.Duration // of the oldest call, payload and result kept; 0: no limit
	QueuePerFunction  faas.Bytes    // payloads of the calls of one function that wait
	QueueTotal        faas.Bytes    // payloads of all calls that wait
	KeyAge            time.Duration // how long an idempotency key stands for its call
	AsyncShare        int           // percent of the slots, while synchronous callers wait
	MaxResult         faas.Bytes    // answer of one call that is kept

	// Of HTTP; a time of 0 is no limit.
	MaxRequestHeader  faas.Bytes
	MaxResponse       faas.Bytes    // answer of a call that a compatible API waits for; 0: MaxResult
	MaxResponseHeader faas.Bytes    // of such an answer; 0: no limit
	HeaderTimeout     time.Duration // for the head of a request to arrive
	BodyTimeout       time.Duration // for a whole request to arrive
	WriteTimeout      time.Duration // from the end of a request's head to the end of its answer
	ConnIdleTimeout   time.Duration // between two requests of a connection
	RequestIDHeader   string        // that a caller names its request with; "": X-Request-Id alone
	CORSOrigins       []string      // "scheme://host[:port]", or "*" alone: web pages that may call; none: CORS is off
	CORSHeaders       []string      // that those may send, besides Origin, Content-Length and Content-Type

	NodeType  string // "full", or "api": definitions only, no calls
	PublicURL string // base of the addresses that answers name; "": that of the request
	Domain    string // APP.domain in Host means that app; "": none
	Patterns  bool   // sources of triggers may hold :name and *; an app may say otherwise

	// Of functions made through the API of Fn.
	FnCallsGone       bool          // calls and their logs are 410, as at Fn itself
	FnStartTimeout    time.Duration // from the start of the process until its socket is there
	FnWritable        bool          // the root file system is a private, writable one
	FnPrivileged      bool          // the user is that of the image
	FnVolumes         bool          // images with volumes are run
	FnMaxFS           faas.Bytes    // file system of a sandbox; 0: no limit
	MaxPIDs           int
	MaxFiles          int        // open at once
	MaxLockedMemory   faas.Bytes // of a process
	MaxPendingSignals int
	MaxMessageQueues  faas.Bytes
	MaxTmpInodes      int // files and directories in /tmp; 0: the driver's default

	JWTAuthKey string // of the tokens that management needs over TCP; "": it needs none

	RegistryAuth string // Docker configuration as JSON, or the file that holds one; "": that of this user
	Label        string // on each sandbox

	TLSListen string // address of the HTTPS server, as Listen; "": none
	TLSCert   string // file with its certificate and those above it; "": one is made
	TLSKey    string // file with the key of TLSCert

	HyperKeys      []string // "ACCESS:SECRET"; none: signatures are not checked
	HyperRegion    string   // in signatures to hosts that name none
	HyperQuota     int      // calls of Hyper functions at once; 0: no limit
	HyperHost      string   // "host[:port]" of the addresses of functions; "": that of the request
	HyperIsolation string   // faas.Isolation of Hyper functions; "": Isolation

	Grace         time.Duration // for calls in flight when the daemon stops
	LeastFreeDisk faas.Bytes    // below it the node is not ready and takes no images; 0: not looked at
	LogLevel      string        // of the daemon's own log: "debug", "info", "warn", "error"
	LogFormat     string        // "text" or "json"
	LogDest       string        // "stderr", "file:///PATH", or a syslog daemon: "udp://HOST:PORT", "tcp://HOST:PORT"
	LogFunctions  bool          // what functions write is in it, too
	LogPrefix     string        // in front of each line, as the attribute "prefix" of JSON

	origins map[string]string // by the name of the setting; a missing one is the default
	notes   []string
}

// Default returns the settings of a daemon that was told nothing.
func Default() Config {
	return Config{
		Data:   "/var/lib/hob",
		Listen: "127.0.0.1:8080",
		Driver: "ns",

		Isolation:   string(faas.IsolationNative),
		Network:     string(faas.NetworkOpen),
		Connections: 200,

		FreezeAfter: 50 * time.Millisecond,
		MaxWaiting:  10_000,

		PullTimeout: 15 * time.Minute,
		MaxImage:    16 * faas.GB,
		ImageBytes:  32 * faas.GB,

		MaxRequest:     100 * faas.MB,
		LogPerFunction: 50 * faas.MB,
		LogTotal:       2 * faas.GB,
		LogAge:         7 * 24 * time.Hour,
		JournalBytes:   1 * faas.GB,
		JournalAge:     7 * 24 * time.Hour,

		ResultPerFunction: 50 * faas.MB, // down to KeyAge: as store.DefaultLimits
		ResultTotal:       2 * faas.GB,
		ResultAge:         7 * 24 * time.Hour,
		QueuePerFunction:  1 * faas.GB,
		QueueTotal:        8 * faas.GB,
		KeyAge:            24 * time.Hour,
		AsyncShare:        50,
		MaxResult:         100 * faas.MB,

		MaxRequestHeader: 256 * faas.KB,
		HeaderTimeout:    10 * time.Second,
		ConnIdleTimeout:  2 * time.Minute,

		NodeType: "full",

		FnStartTimeout:    5 * time.Second,
		MaxPIDs:           50,
		MaxFiles:          350,
		MaxLockedMemory:   64 * faas.KB,
		MaxPendingSignals: 5000,
		MaxMessageQueues:  800 * faas.KB,

		HyperRegion: "us-west-1",
		HyperQuota:  10,

		Grace:         30 * time.Second,
		LeastFreeDisk: 256 * faas.MB,
		LogLevel:      "info",
		LogFormat:     "text",
		LogDest:       "stderr",
	}
}

// Origin says where the value of the named setting came from: "default", "file
// NAME:LINE", "environment NAME" or "flag --…".
func (c Config) Origin(name string) string {
	if from, ok := c.origins[name]; ok {
		return from
	}
	return "default"
}

// An Entry is one setting as it is shown.
type Entry struct {
	Name   string // as in the file; the flag is "--" and this
	Value  string // as the file would have it; of a secret, "***" in its place
	Origin string
	Env    string // name of the environment variable
	Help   string // a line
	Note   string // a sentence more, or empty
}

// Entries lists every setting with its value and origin, in a fixed order.
func (c Config) Entries() []Entry {
	var all []Entry
	for _, s := range c.settings() {
		all = append(all, Entry{
			Name: s.name, Value: s.value.String(), Origin: c.Origin(s.name),
			Env: envName(s.name), Help: s.help, Note: s.note,
		})
	}
	return all
}

func envName(name string) string {
	return "HOB_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
