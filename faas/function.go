package faas

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// An App is a namespace of functions with shared configuration.
type App struct {
	ID   string // sortable, never reused
	Name string // unique
	Env  map[string]string

	MaxConcurrency int // calls at once of all its functions together, on a node; 0: no limit

	Network string   // of functions that choose none (CheckNetwork); "": that of the node
	Allow   []string // what its functions reach besides (ParseEgressRule)

	Syslog      string            // URL of the syslog server that gets the lines of its functions (CheckSyslog); "": none
	Shape       string            // processor that its functions are made for, as Fn names it (Shapes); "": any; kept and shown only
	Annotations map[string]string // what its owner notes: JSON values by key (CheckAnnotations)
	Beside      map[string]string // what an API keeps beside a definition, by that API's name; shown to nobody else

	Revision int64 // set by the store: 1 when made, one more with each change
	Created  time.Time
	Updated  time.Time
}

// DefaultApp is the app of a function that names none. It exists from the start
// of a store and cannot be removed.
const DefaultApp = "default"

// Format is how a function's process is spoken to.
type Format string

// Formats.
const (
	// FormatDefault is a fresh container for each call: the body on standard
	// input, the answer on standard output, the rest in the environment.
	FormatDefault Format = "default"

	// The others are hot: one container serves many calls, one at a time.
	FormatHTTP       Format = "http"        // HTTP/1.1 requests on standard input, responses on standard output
	FormatJSON       Format = "json"        // one JSON object in, one out, on the same
	FormatCloudEvent Format = "cloudevent"  // a CloudEvent in, one out, on the same
	FormatHTTPStream Format = "http-stream" // HTTP/1.1 on the Unix socket that FN_LISTENER names
	FormatPort       Format = "port"        // HTTP on the TCP port that PORT names; may serve several calls at once
	FormatLambda     Format = "lambda"      // the Runtime API of AWS Lambda, which the process asks for its calls
)

// Formats lists every format.
func Formats() []Format {
	return []Format{FormatDefault, FormatHTTP, FormatJSON, FormatCloudEvent, FormatHTTPStream, FormatPort, FormatLambda}
}

// Hot reports whether a sandbox of this format can serve a second call.
func (f Format) Hot() bool { return f != FormatDefault && f != "" }

// A Function is an image with limits that can be called. A change makes a new
// Revision; a pool serves one revision.
type Function struct {
	ID   string // sortable, never reused
	App  string // ID of the app
	Name string // unique in its app

	Image  string // reference as the user gave it
	Digest string // "sha256:…" of the manifest for this node's platform, pinned when the function was made or its image changed; "": by its first call
	Format Format

	Entrypoint []string // nil: the image's; empty and not nil: none
	Command    []string // nil: the image's, unless Entrypoint is given
	Env        map[string]string
	Workdir    string // "": the image's
	User       string // "uid[:gid]" or names of the image; "": the image's, else root of a user namespace if Writable, else 1000:1000
	Writable   bool   // a private writable root instead of a read-only one

	Network   string    // what it reaches (CheckNetwork); "": what its app or the node says
	Allow     []string  // what it reaches besides (ParseEgressRule)
	Isolation Isolation // "": that of the node
	Devices   []string  // device files of the machine that it has, as absolute paths; an operator has to allow them

	Memory  Bytes // hard limit of the sandbox
	CPU     CPU   // 0: no quota
	TmpSize Bytes // of /tmp, and of the writable root; counted to Memory

	Timeout      time.Duration // longest run of one call; 0: none (asynchronous calls only)
	Wait         time.Duration // longest wait for a slot
	StartTimeout time.Duration // longest start of a sandbox, image present
	Idle         time.Duration // how long a slot stays hot without work

	MaxConcurrency int // calls at once on a node; 0: as memory allows
	Line           int // callers that may wait for a slot

	// Of hot formats only.
	Port        int    // of FormatPort: where the process listens
	Concurrency int    // of FormatPort: calls at once in one sandbox
	Min         int    // sandboxes kept ready on each node, also without work
	MaxCalls    int    // calls after which a sandbox is replaced; 0: no limit
	Freeze      string // "": an idle sandbox is frozen; "never": it goes on running

	// Of asynchronous calls.
	AsyncTimeout time.Duration // longest run of one; 0: Timeout; negative: none
	Delay        time.Duration // least time between acceptance and start, unless the call names one
	Retries      int           // attempts after the first, while they fail or run out of time
	RetryDelay   time.Duration // before the second attempt; doubles with each further one
	RetryMax     time.Duration // longest of these delays
	OnSuccess    string        // where the result goes (CheckDestination); "": nowhere
	OnFailure    string        // the same for a call that failed or ran out of time
	OnNodeLoss   string        // "": a call whose node died runs again; NodeLossFail: it has failed
	MaxResult    Bytes         // of an answer that is kept; 0: what the node allows
	LogPayload   bool          // events in the log show the beginning of payload and result

	Profile     Profile           // rules of its sandboxes that are set for the node
	Address     string            // secret part of its public address; "": it has none
	Shape       string            // as of its app
	Annotations map[string]string // as of its app
	Beside      map[string]string // as of its app

	Revision int64 // set by the store: 1 when made, one more with each change
	Created  time.Time
	Updated  time.Time
}

// Defaults of a function, unless an API's own specification says otherwise.
const (
	DefaultMemory       = 128 * MB
	DefaultTmpSize      = 64 * MB
	DefaultTimeout      = 30 * time.Second
	DefaultWait         = 30 * time.Second
	DefaultStartTimeout = 5 * time.Second
	DefaultIdle         = 30 * time.Second
	DefaultLine         = 1000
	DefaultPort         = 8080 // of FormatPort
	DefaultRetryDelay   = 10 * time.Second
	DefaultRetryMax     = 10 * time.Minute
)

// FreezeNever is for functions that work between calls.
const FreezeNever = "never"

// NodeLossFail is for functions that must not run twice.
const NodeLossFail = "fail"

// Limits of a definition.
const (
	MinMemory     = 8 * MB           // below it not even a static program starts reliably
	MinCPU        = CPU(10)          // thousandths of a processor
	MaxTimeout    = 24 * time.Hour   // of any call
	MaxEnv        = Bytes(128 << 10) // names and values together, of one call's whole environment
	MaxNameLength = 255

	MaxConcurrencyOfOne = 1000 // calls at once in one sandbox
	MaxRetries          = 100
	MaxPriority         = 9 // of an asynchronous call; the least is 0
	MaxDelay            = 365 * 24 * time.Hour
)

// Clone returns a deep copy of f: what a store hands out is the caller's own.
func (f Function) Clone() Function {
	f.Entrypoint = slices.Clone(f.Entrypoint)
	f.Command = slices.Clone(f.Command)
	f.Allow, f.Devices = slices.Clone(f.Allow), slices.Clone(f.Devices)
	f.Env = maps.Clone(f.Env)
	f.Annotations, f.Beside = maps.Clone(f.Annotations), maps.Clone(f.Beside)
	return f
}

// Clone returns a deep copy of a.
func (a App) Clone() App {
	a.Allow = slices.Clone(a.Allow)
	a.Env, a.Annotations, a.Beside = maps.Clone(a.Env), maps.Clone(a.Annotations), maps.Clone(a.Beside)
	return a
}

// BesideTmp is the name under which a function keeps the size of its /tmp in MB, as it
// was given for a route.
const BesideTmp = "iron-tmp"

// TmpGiven is the size of /tmp in MB as somebody has given it; 0: nobody has, and it is
// all of the memory, or the default.
func (f Function) TmpGiven() uint32 {
	if mb, err := strconv.ParseUint(f.Beside[BesideTmp], 10, 32); err == nil && f.TmpSize == min(Bytes(mb)*MB, f.Memory) {
		return uint32(mb)
	}
	if f.TmpSize == f.Memory || f.TmpSize == min(DefaultTmpSize, f.Memory/2) {
		return 0
	}
	return uint32((f.TmpSize + MB - 1) / MB)
}

// WithDefaults fills in what f leaves zero.
func (f Function) WithDefaults() Function {
	set(&f.Format, FormatDefault)
	set(&f.Memory, DefaultMemory)
	set(&f.TmpSize, min(DefaultTmpSize, f.Memory/2))
	set(&f.Timeout, DefaultTimeout)
	set(&f.Wait, DefaultWait)
	set(&f.StartTimeout, DefaultStartTimeout)
	set(&f.Idle, DefaultIdle)
	set(&f.Line, DefaultLine)
	set(&f.RetryDelay, DefaultRetryDelay)
	set(&f.RetryMax, max(DefaultRetryMax, f.RetryDelay))
	if f.Format == FormatPort {
		set(&f.Port, DefaultPort)
		set(&f.Concurrency, 1)
	}
	return f
}

func set[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// A Profile is a set of rules for sandboxes that an operator sets for a node: most
// processes, open files and the like, and whether an image may ask for volumes.
// Which one a function has, the API decides that makes it.
type Profile string

// Profiles.
const (
	ProfileHob Profile = ""   // ours
	ProfileFn  Profile = "fn" // of functions made for Fn's http-stream contract
)

// Check reports the first thing about a that can never work, as Invalid.
func (a App) Check() error {
	if err := CheckName("app", a.Name); err != nil {
		return err
	}
	if err := CheckEnv(a.Env); err != nil {
		return err
	}
	if a.MaxConcurrency < 0 {
		return Errorf(Invalid, "max-concurrency %d of app %s is negative", a.MaxConcurrency, a.Name)
	}
	if err := CheckShape(a.Shape); err != nil {
		return err
	}
	if err := CheckSyslog(a.Syslog); err != nil {
		return err
	}
	if err := CheckAnnotations(a.Annotations); err != nil {
		return err
	}
	if _, ok := a.Annotations[AnnotationIsolation]; ok {
		return Errorf(Invalid, "annotation %s is for functions, not for app %s", AnnotationIsolation, a.Name)
	}
	if NetworkMode(a.Reach().Network) == NetworkHost {
		return Errorf(Invalid, "network host is for single functions, not for app %s", a.Name)
	}
	return a.Reach().check()
}

// Check reports the first thing about f that can never work, as Invalid. It
// looks at f alone: whether its app and image exist is for others to know.
func (f Function) Check() error {
	if err := CheckName("function", f.Name); err != nil {
		return err
	}
	if err := CheckEnv(f.Env); err != nil {
		return err
	}
	switch {
	case f.Image == "":
		return Errorf(Invalid, "function %s has no image", f.Name)
	case !slices.Contains(Formats(), f.Format):
		return Errorf(Invalid, "format %q is not one of: %s", f.Format, joinFormats())
	case f.Format != FormatPort && (f.Port != 0 || f.Concurrency > 1):
		return Errorf(Invalid, "port and concurrency are for format %s: one of format %s serves one call at a time", FormatPort, f.Format)
	case f.Port < 0 || f.Port > 65535:
		return Errorf(Invalid, "port %d is not between 1 and 65535", f.Port)
	case f.Concurrency < 0 || f.Concurrency > MaxConcurrencyOfOne:
		return Errorf(Invalid, "concurrency %d is not between 1 and %d", f.Concurrency, MaxConcurrencyOfOne)
	case !f.Format.Hot() && (f.Min != 0 || f.MaxCalls != 0 || f.Freeze != ""):
		return Errorf(Invalid, "min, max-calls and freeze are for hot formats: one of format %s has a fresh container for each call", f.Format)
	case f.Min < 0 || f.MaxCalls < 0:
		return Errorf(Invalid, "a count of function %s is negative", f.Name)
	case f.MaxConcurrency > 0 && f.Min > f.MaxConcurrency:
		return Errorf(Invalid, "min %d is over the max-concurrency of %d", f.Min, f.MaxConcurrency)
	case f.Freeze != "" && f.Freeze != FreezeNever:
		return Errorf(Invalid, "freeze %q is not %q, or nothing for a frozen container between calls", f.Freeze, FreezeNever)
	case f.Memory < MinMemory:
		return Errorf(Invalid, "memory %v is under the least of %v", f.Memory, MinMemory)
	case f.CPU < 0 || f.CPU > 0 && f.CPU < MinCPU:
		return Errorf(Invalid, "cpus %v is under the least of %v", f.CPU, MinCPU)
	case f.TmpSize < 0 || f.TmpSize > f.Memory:
		return Errorf(Invalid, "the size %v of /tmp is over the memory limit of %v", f.TmpSize, f.Memory)
	case f.Timeout < 0 || f.Timeout > MaxTimeout:
		return Errorf(Invalid, "timeout %v is not between 0 and %v", f.Timeout, MaxTimeout)
	case f.Wait < 0 || f.StartTimeout < 0 || f.Idle < 0:
		return Errorf(Invalid, "a time limit of function %s is negative", f.Name)
	case f.MaxConcurrency < 0 || f.Line < 0:
		return Errorf(Invalid, "a count of function %s is negative", f.Name)
	case f.AsyncTimeout > MaxTimeout:
		return Errorf(Invalid, "async timeout %v is over the limit of %v", f.AsyncTimeout, MaxTimeout)
	case f.Retries < 0 || f.Retries > MaxRetries:
		return Errorf(Invalid, "retries %d is not between 0 and %d", f.Retries, MaxRetries)
	case f.MaxResult < 0:
		return Errorf(Invalid, "max result %v is negative", f.MaxResult)
	case f.Delay < 0 || f.Delay > MaxDelay:
		return Errorf(Invalid, "delay %v is not between 0 and %v", f.Delay, MaxDelay)
	case f.RetryDelay < 0 || f.RetryDelay > f.RetryMax || f.RetryMax > MaxDelay:
		return Errorf(Invalid, "the delays of retries, %v to %v, do not rise, or are over the limit of %v", f.RetryDelay, f.RetryMax, MaxDelay)
	case f.OnNodeLoss != "" && f.OnNodeLoss != NodeLossFail:
		return Errorf(Invalid, "on-node-loss %q is not %q, or nothing for another attempt", f.OnNodeLoss, NodeLossFail)
	case f.Isolation != "" && !slices.Contains(Isolations(), f.Isolation):
		return Errorf(Invalid, "isolation %q is not one of: %s", f.Isolation, joinIsolations())
	case f.Network == string(NetworkHost) && f.Format == FormatLambda:
		return Errorf(Invalid, "format %s needs a network of its own: the Runtime API is served in it", FormatLambda)
	case f.Workdir != "" && !strings.HasPrefix(f.Workdir, "/"):
		return Errorf(Invalid, "workdir %q is not an absolute path", f.Workdir)
	case f.Profile != ProfileHob && f.Profile != ProfileFn:
		return Errorf(Invalid, "profile %q is not one of: %s, or nothing for ours", f.Profile, ProfileFn)
	}
	if err := CheckShape(f.Shape); err != nil {
		return err
	}
	if err := CheckAnnotations(f.Annotations); err != nil {
		return err
	}
	if err := f.Reach().check(); err != nil {
		return err
	}
	if err := checkDevices(f.Devices); err != nil {
		return err
	}
	if err := CheckDestination("on-success", f.OnSuccess); err != nil {
		return err
	}
	if err := CheckDestination("on-failure", f.OnFailure); err != nil {
		return err
	}
	for _, arg := range slices.Concat(f.Entrypoint, f.Command) {
		if strings.ContainsRune(arg, 0) {
			return Errorf(Invalid, "an argument of function %s holds a zero byte", f.Name)
		}
	}
	return nil
}

func joinFormats() string {
	var names []string
	for _, f := range Formats() {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// CheckName reports whether name can name what (an "app", a "function", a
// "trigger"): 1 to MaxNameLength letters and digits of any script and characters of
// nameMarks, but not "." and "..", which are directories in a path.
func CheckName(what, name string) error {
	if name == "" {
		return Errorf(Invalid, "the %s needs a name", what)
	}
	if n := utf8.RuneCountInString(name); n > MaxNameLength {
		return Errorf(Invalid, "the %s name of %d characters is over the limit of %d", what, n, MaxNameLength)
	}
	for _, r := range name {
		if r == utf8.RuneError || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(nameMarks, r) {
			return Errorf(Invalid, "bad %s name %q: use letters, digits and the characters %s", what, name, nameMarks)
		}
	}
	if name == "." || name == ".." {
		return Errorf(Invalid, "bad %s name %q: it means a directory", what, name)
	}
	return nil
}

// nameMarks are the characters besides letters and digits that a URL's path holds
// as they are: those that Fn allows in names.
const nameMarks = "-_.~$&+=:@"

// CheckDestination reports whether a result can be sent to the target of a setting:
// nothing, the URL of a server (http, https), or "APP/FUNCTION" of this system.
func CheckDestination(setting, target string) error {
	if target == "" {
		return nil
	}
	if strings.Contains(target, "://") {
		u, err := url.Parse(target)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
			return Errorf(Invalid, "%s %q is no destination: write a URL such as https://host/path, without user and fragment, or app/function", setting, target)
		}
		return nil
	}
	app, name, ok := strings.Cut(target, "/")
	if !ok {
		return Errorf(Invalid, "%s %q is no destination: write a URL such as https://host/path, or app/function", setting, target)
	}
	if err := CheckName("app", app); err != nil {
		return err
	}
	return CheckName("function", name)
}

// TimeoutOf is the longest run of one call of this kind; 0: none.
func (f Function) TimeoutOf(kind CallKind) time.Duration {
	if kind == CallAsync && f.AsyncTimeout != 0 {
		return max(0, f.AsyncTimeout)
	}
	return f.Timeout
}

// CheckEnv reports whether env can be an environment: no empty names, no '='
// or zero byte in a name, no zero byte in a value, and within MaxEnv.
func CheckEnv(env map[string]string) error {
	var size Bytes
	for k, v := range env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return Errorf(Invalid, "bad environment variable %q: a name is not empty and holds no '=', and neither name nor value holds a zero byte", k)
		}
		size += Bytes(len(k) + len(v) + 2)
	}
	if size > MaxEnv {
		return Errorf(Invalid, "the environment of %v is over the limit of %v", size, MaxEnv)
	}
	return nil
}
