package client

import (
	"encoding/json"
	"fmt"
	"time"

	"hob/faas"
)

// Duration is a time.Duration that is written as "1.5s" on the wire.
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes d as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// CPU is a share of processors, written as the number 0.5 on the wire.
type CPU faas.CPU

func (c CPU) String() string { return faas.CPU(c).String() }

// MarshalJSON writes c in processors.
func (c CPU) MarshalJSON() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalJSON reads processors.
func (c *CPU) UnmarshalJSON(b []byte) error {
	var n json.Number
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	v, err := faas.ParseCPU(n.String())
	*c = CPU(v)
	return err
}

// Annotations are JSON values by key. When they are changed, the value null
// removes a key, and those that are not named stay.
type Annotations map[string]json.RawMessage

// App is a group of functions with shared environment.
type App struct {
	ID             string            `json:"id"`
	Name           string            `json:"name"`
	Env            map[string]string `json:"env"`
	MaxConcurrency int               `json:"max_concurrency"` // calls at once of all its functions together; 0: no limit
	Network        string            `json:"network"`         // of its functions that choose none; "": that of the server
	Allow          []string          `json:"allow"`           // rules (faas.ParseEgressRule) that add to those of its functions
	Annotations    Annotations       `json:"annotations"`
	Syslog         string            `json:"syslog"` // URL of the server that gets the lines of its functions; "": none
	Shape          string            `json:"shape"`  // "": any
	Runner         string            `json:"runner"` // faas.RunnerExternal if others run its asynchronous calls; "": the server
	Revision       int64             `json:"revision"`
	Created        time.Time         `json:"created"`
	Updated        time.Time         `json:"updated"`
}

// AppSettings are what can be set of an app. When an app is made, what is nil
// gets its default; when it is changed, what is nil stays as it is.
type AppSettings struct {
	Env            map[string]*string `json:"env,omitempty"` // a nil value removes a variable
	MaxConcurrency *int               `json:"max_concurrency,omitempty"`
	Network        *string            `json:"network,omitempty"`
	Allow          *[]string          `json:"allow,omitempty"` // all of them: a list takes the place of the one before
	Annotations    Annotations        `json:"annotations,omitempty"`
	Syslog         *string            `json:"syslog,omitempty"`
	Shape          *string            `json:"shape,omitempty"`
	Runner         *string            `json:"runner,omitempty"`

	Revision int64    `json:"revision,omitempty"` // change only if the app is still at this one; 0: whatever is there
	Reset    []string `json:"-"`                  // as in Settings
}

// MarshalJSON writes s with null for each field of Reset.
func (s AppSettings) MarshalJSON() ([]byte, error) { return withNulls(plainAppSettings(s), s.Reset) }

// plainAppSettings is AppSettings without its MarshalJSON, to be embedded.
type plainAppSettings AppSettings

// Function is an image with limits that can be called. See faas.Function for
// what each field means.
type Function struct {
	ID             string            `json:"id"`
	App            string            `json:"app"`
	Name           string            `json:"name"`
	Image          string            `json:"image"`
	Digest         string            `json:"digest"` // "": pinned by its first call
	Format         string            `json:"format"`
	Entrypoint     []string          `json:"entrypoint"`
	Command        []string          `json:"command"`
	Env            map[string]string `json:"env"`
	Workdir        string            `json:"workdir"`
	User           string            `json:"user"`
	Writable       bool              `json:"writable"`
	Network        string            `json:"network"`   // "": that of its app, else of the server
	Allow          []string          `json:"allow"`     // rules (faas.ParseEgressRule); those of its app and the server add to them
	Isolation      string            `json:"isolation"` // "": that of the server
	Devices        []string          `json:"devices"`
	Memory         faas.Bytes        `json:"memory"`
	CPUs           CPU               `json:"cpus"`
	TmpSize        faas.Bytes        `json:"tmp_size"`
	Timeout        Duration          `json:"timeout"`
	Wait           Duration          `json:"wait"`
	StartTimeout   Duration          `json:"start_timeout"`
	IdleTimeout    Duration          `json:"idle_timeout"`
	MaxConcurrency int               `json:"max_concurrency"`
	Line           int               `json:"line"`
	Port           int               `json:"port"`
	Concurrency    int               `json:"concurrency"`
	Min            int               `json:"min"`
	MaxCalls       int               `json:"max_calls"`
	Freeze         string            `json:"freeze"`        // faas.FreezeNever, or "" for a sandbox that is frozen between calls
	AsyncTimeout   string            `json:"async_timeout"` // "": as Timeout; "none"; or a duration
	Delay          Duration          `json:"delay"`
	Retries        int               `json:"retries"`
	RetryDelay     Duration          `json:"retry_delay"`
	RetryMax       Duration          `json:"retry_max"`
	OnSuccess      string            `json:"on_success"`
	OnFailure      string            `json:"on_failure"`
	OnNodeLoss     string            `json:"on_node_loss"` // faas.NodeLossFail, or "" for another attempt
	LogPayload     bool              `json:"log_payload"`
	Profile        string            `json:"profile"` // faas.ProfileFn, or ""
	Shape          string            `json:"shape"`
	Annotations    Annotations       `json:"annotations"`
	Address        string            `json:"address"` // secret part of its public address; "": it has none
	Revision       int64             `json:"revision"`
	Created        time.Time         `json:"created"`
	Updated        time.Time         `json:"updated"`
}

// Settings are what can be set of a function. When a function is made, what is
// nil gets its default; when it is changed, what is nil stays as it is.
type Settings struct {
	Image          *string            `json:"image,omitempty"`
	Format         *string            `json:"format,omitempty"`
	Entrypoint     *[]string          `json:"entrypoint,omitempty"`
	Command        *[]string          `json:"command,omitempty"`
	Env            map[string]*string `json:"env,omitempty"` // a nil value removes a variable
	Workdir        *string            `json:"workdir,omitempty"`
	User           *string            `json:"user,omitempty"`
	Writable       *bool              `json:"writable,omitempty"`
	Network        *string            `json:"network,omitempty"`
	Allow          *[]string          `json:"allow,omitempty"` // all of them: a list takes the place of the one before
	Isolation      *string            `json:"isolation,omitempty"`
	Devices        *[]string          `json:"devices,omitempty"` // as Allow
	Memory         *faas.Bytes        `json:"memory,omitempty"`
	CPUs           *CPU               `json:"cpus,omitempty"`
	TmpSize        *faas.Bytes        `json:"tmp_size,omitempty"`
	Timeout        *Duration          `json:"timeout,omitempty"`
	Wait           *Duration          `json:"wait,omitempty"`
	StartTimeout   *Duration          `json:"start_timeout,omitempty"`
	IdleTimeout    *Duration          `json:"idle_timeout,omitempty"`
	MaxConcurrency *int               `json:"max_concurrency,omitempty"`
	Line           *int               `json:"line,omitempty"`
	Port           *int               `json:"port,omitempty"`
	Concurrency    *int               `json:"concurrency,omitempty"`
	Min            *int               `json:"min,omitempty"`
	MaxCalls       *int               `json:"max_calls,omitempty"`
	Freeze         *string            `json:"freeze,omitempty"`
	AsyncTimeout   *string            `json:"async_timeout,omitempty"`
	Delay          *Duration          `json:"delay,omitempty"`
	Retries        *int               `json:"retries,omitempty"`
	RetryDelay     *Duration          `json:"retry_delay,omitempty"`
	RetryMax       *Duration          `json:"retry_max,omitempty"`
	OnSuccess      *string            `json:"on_success,omitempty"`
	OnFailure      *string            `json:"on_failure,omitempty"`
	OnNodeLoss     *string            `json:"on_node_loss,omitempty"`
	LogPayload     *bool              `json:"log_payload,omitempty"`
	Profile        *string            `json:"profile,omitempty"`
	Shape          *string            `json:"shape,omitempty"`
	Annotations    Annotations        `json:"annotations,omitempty"`

	Revision int64    `json:"revision,omitempty"` // change only if the function is still at this one; 0: whatever is there
	Reset    []string `json:"-"`                  // fields, by their name on the wire, that go back to their default
}

// MarshalJSON writes s with null for each field of Reset.
func (s Settings) MarshalJSON() ([]byte, error) { return withNulls(plainSettings(s), s.Reset) }

// plainSettings is Settings without its MarshalJSON, to be embedded.
type plainSettings Settings

// withNulls writes settings with null for each field of reset.
func withNulls(settings any, reset []string) ([]byte, error) {
	b, err := encode(settings)
	if err != nil || len(reset) == 0 {
		return b, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, err
	}
	for _, name := range reset {
		if _, both := fields[name]; both {
			return nil, fmt.Errorf("%s is both set and reset", name)
		}
		fields[name] = json.RawMessage("null")
	}
	return encode(fields)
}

// Trigger is a path under which everybody calls a function.
type Trigger struct {
	ID          string              `json:"id"`
	App         string              `json:"app"`
	Function    string              `json:"function"`
	Name        string              `json:"name"` // unique among those of its function
	Type        string              `json:"type"` // faas.TriggerHTTP
	Source      string              `json:"source"`
	URL         string              `json:"url"`        // where it is called: "/t/app/source" behind the server's address, if the server does not know its own
	Async       bool                `json:"async"`      // a call of it goes into the queue
	Headers     map[string][]string `json:"headers"`    // of every answer
	KeySet      bool                `json:"key_set"`    // it has a key, which is never shown: callers need a token
	Convention  string              `json:"convention"` // a faas.Convention
	Annotations Annotations         `json:"annotations"`
	Revision    int64               `json:"revision"`
	Created     time.Time           `json:"created"`
	Updated     time.Time           `json:"updated"`
}

// TriggerSettings are what can be set of a trigger. When one is made, what is nil
// gets its default; when it is changed, what is nil stays as it is.
type TriggerSettings struct {
	Type        *string             `json:"type,omitempty"`
	Source      *string             `json:"source,omitempty"`
	Async       *bool               `json:"async,omitempty"`
	Headers     map[string][]string `json:"headers,omitempty"` // nil for a name removes that one
	Key         *string             `json:"key,omitempty"`     // "": no token is needed
	Convention  *string             `json:"convention,omitempty"`
	Annotations Annotations         `json:"annotations,omitempty"`
	Revision    int64               `json:"revision,omitempty"` // change only if the trigger is still at this one; 0: whatever is there
}

// Call is the record of one call. It holds no body, query string or credential.
type Call struct {
	ID         string         `json:"id"`
	App        string         `json:"app"`
	Function   string         `json:"function"`
	FunctionID string         `json:"function_id"`
	Revision   int64          `json:"revision"`
	Kind       faas.CallKind  `json:"kind"`
	State      faas.CallState `json:"state"`
	Attempt    int            `json:"attempt"`
	Priority   int            `json:"priority,omitempty"`
	Due        time.Time      `json:"due,omitzero"`       // it does not start before
	RetryOf    string         `json:"retry_of,omitempty"` // id of the call that it repeats
	Losses     int            `json:"losses,omitempty"`   // attempts that ended with their node
	Waiting    string         `json:"waiting,omitempty"`  // its place in line and what it waits for, or waited for
	Place      int            `json:"place,omitempty"`    // in the queue: 1 is next; 0: not known
	Estimate   Duration       `json:"estimate,omitempty"` // until it starts; 0: not known
	Queued     time.Time      `json:"queued"`
	Started    time.Time      `json:"started,omitzero"`
	Finished   time.Time      `json:"finished,omitzero"`
	Times      CallTimes      `json:"times"`
	Start      faas.Start     `json:"start,omitempty"`     // what it found on the node: a hot sandbox, or what one was made from
	Status     int            `json:"status,omitempty"`    // HTTP status given to the caller
	In         int64          `json:"in"`                  // bytes of the body read from the caller
	Out        int64          `json:"out"`                 // bytes of the answer
	ExitCode   *int           `json:"exit_code,omitempty"` // of the process; nil: it did not exit by itself
	Signal     string         `json:"signal,omitempty"`
	OOM        bool           `json:"oom,omitempty"` // killed for being over its memory limit
	PeakMemory faas.Bytes     `json:"peak_memory"`
	CPUTime    Duration       `json:"cpu_time"`
	Error      *CallError     `json:"error,omitempty"` // why it did not succeed

	Result   faas.ResultState `json:"result,omitempty"`   // whether Result can read it
	Delivery string           `json:"delivery,omitempty"` // where its result was sent, and how that went, in words
}

// CallTimes says how the time of a call went.
type CallTimes struct {
	Queue   Duration `json:"queue"`   // waiting for a slot
	Image   Duration `json:"image"`   // getting the image's root filesystem
	Sandbox Duration `json:"sandbox"` // starting the sandbox
	Run     Duration `json:"run"`     // the exchange with the function
}

// CallError is why a call did not succeed, as its caller read it.
type CallError struct {
	Kind    faas.Kind `json:"kind"`
	Message string    `json:"message"`
}

// Status counts the asynchronous calls of a function that are kept. Failed are
// those that failed, ran out of time or were canceled.
type Status struct {
	Total     int `json:"total"`
	Queued    int `json:"queued"`
	Running   int `json:"running"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Refused   int `json:"refused"` // connections that policy refused to the function, as far as the daemon knows of them
}

// Sandbox is one live sandbox.
type Sandbox struct {
	ID         string      `json:"id"`
	App        string      `json:"app"`
	Function   string      `json:"function"`
	Format     faas.Format `json:"format"`
	Call       string      `json:"call,omitempty"`  // it serves now, or the latest of several; empty between calls
	State      string      `json:"state"`           // "starting", "busy", "idle", "frozen" or "ending"
	Start      faas.Start  `json:"start,omitempty"` // how it was started
	Calls      int         `json:"calls"`           // served so far
	Started    time.Time   `json:"started"`
	Memory     faas.Bytes  `json:"memory"`
	PeakMemory faas.Bytes  `json:"peak_memory"`
	CPUTime    Duration    `json:"cpu_time"`
	Processes  int         `json:"processes"`
	Label      string      `json:"label,omitempty"` // that its server gives to all of its own
}

// Image is an image on the node.
type Image struct {
	Refs     []string    `json:"refs"`
	Digest   string      `json:"digest"`
	Index    string      `json:"index,omitempty"` // digest of the list it was chosen from
	Platform string      `json:"platform"`
	Size     faas.Bytes  `json:"size"` // on disk: compressed and unpacked
	Created  time.Time   `json:"created,omitzero"`
	Pulled   time.Time   `json:"pulled,omitzero"`
	Used     time.Time   `json:"used,omitzero"`
	Config   ImageConfig `json:"config"`
	Layers   []Layer     `json:"layers"`
}

// ImageConfig is what an image says about how it is run.
type ImageConfig struct {
	Entrypoint   []string          `json:"entrypoint"`
	Command      []string          `json:"command"`
	Env          []string          `json:"env"`
	Workdir      string            `json:"workdir"`
	User         string            `json:"user"`
	Volumes      []string          `json:"volumes"`
	Labels       map[string]string `json:"labels"`
	ExposedPorts []string          `json:"exposed_ports"`
	StopSignal   string            `json:"stop_signal"`
}

// Layer is one layer of an image, the lowest first.
type Layer struct {
	Digest    string     `json:"digest"`
	DiffID    string     `json:"diff_id"` // of the uncompressed tar
	MediaType string     `json:"media_type"`
	Size      faas.Bytes `json:"size"` // compressed
	Unpacked  faas.Bytes `json:"unpacked"`
}

// Progress is how far a pull is.
type Progress struct {
	Done   faas.Bytes      `json:"done"`
	Total  faas.Bytes      `json:"total"` // compressed; 0: not known yet
	Layers []LayerProgress `json:"layers"`
}

// LayerProgress is how far one layer is.
type LayerProgress struct {
	Digest string     `json:"digest"`
	State  string     `json:"state"` // "waiting", "fetching", "unpacking" or "done"
	Done   faas.Bytes `json:"done"`
	Total  faas.Bytes `json:"total"`
}

// Pruned is what a prune removed.
type Pruned struct {
	Removed []Image    `json:"removed"`
	Freed   faas.Bytes `json:"freed"`
}

// Top is what goes on at a node at one moment.
type Top struct {
	Time      time.Time     `json:"time"`
	Node      Node          `json:"node"`
	Functions []TopFunction `json:"functions"`
}

// TopFunction is what goes on with a function that has calls or sandboxes, or
// had calls in the last seconds.
type TopFunction struct {
	App       string       `json:"app"`
	Function  string       `json:"function"`
	Running   int          `json:"running"`           // calls
	Queued    int          `json:"queued"`            // calls
	Waiting   string       `json:"waiting,omitempty"` // place and reason of the call that has waited longest
	Sandboxes TopSandboxes `json:"sandboxes"`
	Memory    faas.Bytes   `json:"memory"`     // of its sandboxes, now
	PerSecond float64      `json:"per_second"` // calls that ended, over the last seconds
	Failed    float64      `json:"failed_per_second"`
	P50       Duration     `json:"p50"` // of those that succeeded, from the request to the end; 0: there are none
}

// TopSandboxes counts sandboxes by state.
type TopSandboxes struct {
	Starting int `json:"starting"`
	Busy     int `json:"busy"`
	Idle     int `json:"idle"`
	Frozen   int `json:"frozen"`
}

// Node is what a daemon says of itself and its machine.
type Node struct {
	Version        string      `json:"version"`
	Go             string      `json:"go"`
	Platform       string      `json:"platform"` // "linux/amd64"
	Driver         string      `json:"driver"`
	CgroupVersion  int         `json:"cgroup_version"`
	UserNamespaces bool        `json:"user_namespaces"`
	Notes          []string    `json:"notes"`
	Network        string      `json:"network"`    // of functions that choose none, whose app does neither
	Isolations     []Isolation `json:"isolations"` // all that there are, also those that it lacks
	Refused        uint64      `json:"refused"`    // packets of functions that policy refused since the daemon started
	CPUs           CPU         `json:"cpus"`
	Memory         faas.Bytes  `json:"memory"`   // that sandboxes may use
	Reserved       faas.Bytes  `json:"reserved"` // of Memory, now
	Sandboxes      int         `json:"sandboxes"`
	Running        int         `json:"running"` // calls
	Waiting        int         `json:"waiting"` // calls
	Started        time.Time   `json:"started"`
	Listen         string      `json:"listen"` // "host:port" of the server's TCP address
	Insecure       bool        `json:"insecure"`
}

// Isolation says whether a node has an isolation.
type Isolation struct {
	Name      string `json:"name"` // a faas.Isolation
	Available bool   `json:"available"`
	Reason    string `json:"reason,omitempty"` // why it has it not
}
