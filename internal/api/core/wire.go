package core

import (
	"encoding/json"
	"time"

	"hob/faas"
	"hob/internal/image"
)

// The structs of this file are the JSON of this API, field by field. Amounts of
// memory are numbers of bytes, CPUs a number of processors, durations strings
// as time.Duration writes them, times RFC 3339 in UTC. A test holds openapi.json
// against them.

type wireFault struct {
	Error wireFaultError `json:"error"`
}

type wireFaultError struct {
	Kind    faas.Kind `json:"kind"`
	Message string    `json:"message"`
	Request string    `json:"request,omitempty"`
}

func faultOf(kind faas.Kind, message, request string) wireFault {
	return wireFault{wireFaultError{kind, message, request}}
}

type wireNode struct {
	Version        string          `json:"version"`
	Go             string          `json:"go"`
	Platform       string          `json:"platform"`
	Driver         string          `json:"driver"`
	CgroupVersion  int             `json:"cgroup_version"`
	UserNamespaces bool            `json:"user_namespaces"`
	Notes          []string        `json:"notes"`
	Network        string          `json:"network"`
	Isolations     []wireIsolation `json:"isolations"`
	Refused        uint64          `json:"refused"`
	CPUs           json.Number     `json:"cpus"`
	Memory         int64           `json:"memory"`
	Reserved       int64           `json:"reserved"`
	Sandboxes      int             `json:"sandboxes"`
	Running        int             `json:"running"`
	Waiting        int             `json:"waiting"`
	Started        time.Time       `json:"started"`
	Listen         string          `json:"listen"`
	Insecure       bool            `json:"insecure"`
}

type wireIsolation struct {
	Name      faas.Isolation `json:"name"`
	Available bool           `json:"available"`
	Reason    string         `json:"reason,omitempty"`
}

type wireTop struct {
	Time      time.Time         `json:"time"`
	Node      wireNode          `json:"node"`
	Functions []wireTopFunction `json:"functions"`
}

type wireTopFunction struct {
	App       string           `json:"app"`
	Function  string           `json:"function"`
	Running   int              `json:"running"`
	Queued    int              `json:"queued"`
	Waiting   string           `json:"waiting,omitempty"`
	Sandboxes wireTopSandboxes `json:"sandboxes"`
	Memory    int64            `json:"memory"`
	PerSecond float64          `json:"per_second"`
	Failed    float64          `json:"failed_per_second"`
	P50       string           `json:"p50"`
}

type wireTopSandboxes struct {
	Starting int `json:"starting"`
	Busy     int `json:"busy"`
	Idle     int `json:"idle"`
	Frozen   int `json:"frozen"`
}

type wireApp struct {
	ID             string            `json:"id"`
	Name           string            `json:"name"`
	Env            map[string]string `json:"env"`
	MaxConcurrency int               `json:"max_concurrency"`
	Network        string            `json:"network"`
	Allow          []string          `json:"allow"`
	Annotations    annotations       `json:"annotations"`
	Syslog         string            `json:"syslog"`
	Shape          string            `json:"shape"`
	Runner         string            `json:"runner"`
	Revision       int64             `json:"revision"`
	Created        time.Time         `json:"created"`
	Updated        time.Time         `json:"updated"`
}

// annotations are JSON values by key.
type annotations map[string]json.RawMessage

type wireApps struct {
	Apps []wireApp `json:"apps"`
}

// wireFunction is a function as it is shown: its identity, its settings, and
// what the server has found out.
type wireFunction struct {
	ID   string `json:"id"`
	App  string `json:"app"`
	Name string `json:"name"`
	wireSettings
	Address  string    `json:"address"`
	Digest   string    `json:"digest"`
	Revision int64     `json:"revision"`
	Created  time.Time `json:"created"`
	Updated  time.Time `json:"updated"`
}

// wireSettings is what can be set of a function, as it is shown.
type wireSettings struct {
	Image          string            `json:"image"`
	Format         string            `json:"format"`
	Entrypoint     []string          `json:"entrypoint"` // null: the image's
	Command        []string          `json:"command"`    // null: the image's
	Env            map[string]string `json:"env"`
	Workdir        string            `json:"workdir"`
	User           string            `json:"user"`
	Writable       bool              `json:"writable"`
	Network        string            `json:"network"`
	Allow          []string          `json:"allow"`
	Isolation      faas.Isolation    `json:"isolation"`
	Devices        []string          `json:"devices"`
	Memory         int64             `json:"memory"`
	CPUs           json.Number       `json:"cpus"`
	TmpSize        int64             `json:"tmp_size"`
	Timeout        string            `json:"timeout"`
	Wait           string            `json:"wait"`
	StartTimeout   string            `json:"start_timeout"`
	IdleTimeout    string            `json:"idle_timeout"`
	MaxConcurrency int               `json:"max_concurrency"`
	Line           int               `json:"line"`
	Port           int               `json:"port"`
	Concurrency    int               `json:"concurrency"`
	Min            int               `json:"min"`
	MaxCalls       int               `json:"max_calls"`
	Freeze         string            `json:"freeze"`
	AsyncTimeout   string            `json:"async_timeout"`
	Delay          string            `json:"delay"`
	Retries        int               `json:"retries"`
	RetryDelay     string            `json:"retry_delay"`
	RetryMax       string            `json:"retry_max"`
	OnSuccess      string            `json:"on_success"`
	OnFailure      string            `json:"on_failure"`
	OnNodeLoss     string            `json:"on_node_loss"`
	LogPayload     bool              `json:"log_payload"`
	Profile        string            `json:"profile"`
	Shape          string            `json:"shape"`
	Annotations    annotations       `json:"annotations"`
}

type wireFunctions struct {
	Functions []wireFunction `json:"functions"`
}

type wireTrigger struct {
	ID          string              `json:"id"`
	App         string              `json:"app"`
	Function    string              `json:"function"`
	Name        string              `json:"name"`
	Type        string              `json:"type"`
	Source      string              `json:"source"`
	URL         string              `json:"url"`
	Async       bool                `json:"async"`
	Headers     map[string][]string `json:"headers"`
	KeySet      bool                `json:"key_set"`
	Convention  string              `json:"convention"`
	Annotations annotations         `json:"annotations"`
	Revision    int64               `json:"revision"`
	Created     time.Time           `json:"created"`
	Updated     time.Time           `json:"updated"`
}

type wireTriggers struct {
	Triggers []wireTrigger `json:"triggers"`
}

type wireCall struct {
	ID         string         `json:"id"`
	App        string         `json:"app"`
	Function   string         `json:"function"`
	FunctionID string         `json:"function_id"`
	Revision   int64          `json:"revision"`
	Kind       faas.CallKind  `json:"kind"`
	State      faas.CallState `json:"state"`
	Attempt    int            `json:"attempt"`
	Priority   int            `json:"priority,omitempty"`
	Due        time.Time      `json:"due,omitzero"`
	RetryOf    string         `json:"retry_of,omitempty"`
	Losses     int            `json:"losses,omitempty"`
	Waiting    string         `json:"waiting,omitempty"`
	Place      int            `json:"place,omitempty"`
	Estimate   string         `json:"estimate,omitempty"`
	Queued     time.Time      `json:"queued"`
	Started    time.Time      `json:"started,omitzero"`
	Finished   time.Time      `json:"finished,omitzero"`
	Times      wireTimes      `json:"times"`
	Start      faas.Start     `json:"start,omitempty"`
	Status     int            `json:"status,omitempty"`
	In         int64          `json:"in"`
	Out        int64          `json:"out"`
	ExitCode   *int           `json:"exit_code,omitempty"`
	Signal     string         `json:"signal,omitempty"`
	OOM        bool           `json:"oom,omitempty"`
	PeakMemory int64          `json:"peak_memory"`
	CPUTime    string         `json:"cpu_time"`
	Error      *wireCallError `json:"error,omitempty"`

	Result   faas.ResultState `json:"result,omitempty"`
	Delivery string           `json:"delivery,omitempty"`
}

type wireTimes struct {
	Queue   string `json:"queue"`
	Image   string `json:"image"`
	Sandbox string `json:"sandbox"`
	Run     string `json:"run"`
}

type wireCallError struct {
	Kind    faas.Kind `json:"kind"`
	Message string    `json:"message"`
}

type wireStatus struct {
	Total     int `json:"total"`
	Queued    int `json:"queued"`
	Running   int `json:"running"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Refused   int `json:"refused"`
}

type wireCalls struct {
	Calls []wireCall `json:"calls"`
	Next  string     `json:"next,omitempty"`
}

type wireSandbox struct {
	ID         string      `json:"id"`
	App        string      `json:"app"`
	Function   string      `json:"function"`
	Format     faas.Format `json:"format"`
	Call       string      `json:"call,omitempty"`
	State      string      `json:"state"`
	Start      faas.Start  `json:"start,omitempty"`
	Calls      int         `json:"calls"`
	Started    time.Time   `json:"started"`
	Memory     int64       `json:"memory"`
	PeakMemory int64       `json:"peak_memory"`
	CPUTime    string      `json:"cpu_time"`
	Processes  int         `json:"processes"`
	Label      string      `json:"label,omitempty"`
}

type wireSandboxes struct {
	Sandboxes []wireSandbox `json:"sandboxes"`
}

// wireLogLine is a line of the answer to a request for logs. The last line may
// be a wireFault instead.
type wireLogLine struct {
	Time   time.Time `json:"time"`
	Call   string    `json:"call"`
	Stream string    `json:"stream"`
	Text   string    `json:"text"`

	Event *wireLogEvent `json:"event,omitempty"`
}

type wireLogEvent struct {
	Name    faas.EventName `json:"name"`
	Attempt int            `json:"attempt"`
	Stdin   string         `json:"stdin,omitempty"`
	Stdout  string         `json:"stdout,omitempty"`
	Stderr  string         `json:"stderr,omitempty"`
	Message string         `json:"message,omitempty"`
}

type wireImage struct {
	Refs     []string        `json:"refs"`
	Digest   string          `json:"digest"`
	Index    string          `json:"index,omitempty"`
	Platform string          `json:"platform"`
	Size     int64           `json:"size"`
	Created  time.Time       `json:"created,omitzero"`
	Pulled   time.Time       `json:"pulled,omitzero"`
	Used     time.Time       `json:"used,omitzero"`
	Config   wireImageConfig `json:"config"`
	Layers   []wireLayer     `json:"layers"`
}

type wireImageConfig struct {
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

type wireLayer struct {
	Digest    string `json:"digest"`
	DiffID    string `json:"diff_id"`
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"`
	Unpacked  int64  `json:"unpacked"`
}

type wireImages struct {
	Images []wireImage `json:"images"`
}

type wirePruned struct {
	Removed []wireImage `json:"removed"`
	Freed   int64       `json:"freed"`
}

// wirePullStep is a line of the answer to a pull: a step, or at the end the
// image. The last line may be a wireFault instead.
type wirePullStep struct {
	Progress *wireProgress `json:"progress,omitempty"`
	Image    *wireImage    `json:"image,omitempty"`
}

type wireProgress struct {
	Done   int64               `json:"done"`
	Total  int64               `json:"total"`
	Layers []wireLayerProgress `json:"layers"`
}

type wireLayerProgress struct {
	Digest string           `json:"digest"`
	State  image.LayerState `json:"state"`
	Done   int64            `json:"done"`
	Total  int64            `json:"total"`
}

func cpus(c faas.CPU) json.Number { return json.Number(c.String()) }

// list makes an empty list of none: clients need not expect null.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func object(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func wireOfApp(a faas.App) wireApp {
	runner := ""
	if a.External() {
		runner = faas.RunnerExternal
	}
	return wireApp{
		ID: a.ID, Name: a.Name, Env: object(a.Env), MaxConcurrency: a.MaxConcurrency, Network: a.Network, Allow: list(a.Allow),
		Annotations: annotationsOf(a.Annotations), Syslog: a.Syslog, Shape: a.Shape, Runner: runner,
		Revision: a.Revision, Created: a.Created.UTC(), Updated: a.Updated.UTC(),
	}
}

func wireOfFunction(app string, f faas.Function) wireFunction {
	return wireFunction{
		ID: f.ID, App: app, Name: f.Name, wireSettings: settingsOf(f),
		Address: f.Address, Digest: f.Digest, Revision: f.Revision, Created: f.Created.UTC(), Updated: f.Updated.UTC(),
	}
}

func settingsOf(f faas.Function) wireSettings {
	return wireSettings{
		Image: f.Image, Format: string(f.Format), Entrypoint: f.Entrypoint, Command: f.Command, Env: object(f.Env),
		Workdir: f.Workdir, User: f.User, Writable: f.Writable,
		Network: f.Network, Allow: list(f.Allow), Isolation: f.Isolation, Devices: list(f.Devices),
		Memory: int64(f.Memory), CPUs: cpus(f.CPU), TmpSize: int64(f.TmpSize),
		Timeout: f.Timeout.String(), Wait: f.Wait.String(), StartTimeout: f.StartTimeout.String(), IdleTimeout: f.Idle.String(),
		MaxConcurrency: f.MaxConcurrency, Line: f.Line,
		Port: f.Port, Concurrency: f.Concurrency, Min: f.Min, MaxCalls: f.MaxCalls, Freeze: f.Freeze,
		AsyncTimeout: asyncTimeout(f.AsyncTimeout), Delay: f.Delay.String(),
		Retries: f.Retries, RetryDelay: f.RetryDelay.String(), RetryMax: f.RetryMax.String(),
		OnSuccess: f.OnSuccess, OnFailure: f.OnFailure, OnNodeLoss: f.OnNodeLoss, LogPayload: f.LogPayload,
		Profile: string(f.Profile), Shape: f.Shape, Annotations: annotationsOf(f.Annotations),
	}
}

func annotationsOf(of map[string]string) annotations {
	all := make(annotations, len(of))
	for key, value := range of {
		all[key] = json.RawMessage(value)
	}
	return all
}

// noTimeout is the async_timeout of calls that may run for as long as they like.
const noTimeout = "none"

func asyncTimeout(d time.Duration) string {
	switch {
	case d < 0:
		return noTimeout
	case d == 0:
		return "" // as the timeout
	}
	return d.String()
}

func wireOfCall(c faas.Call) wireCall {
	w := wireCall{
		ID: c.ID, App: c.App, Function: c.Function, FunctionID: c.FuncID, Revision: c.Revision,
		Kind: c.Kind, State: c.State, Attempt: c.Attempt, Priority: c.Priority, RetryOf: c.RetryOf, Losses: c.Losses,
		Waiting: c.Waiting, Place: c.Place, Due: c.Due.UTC(),
		Queued: c.Queued.UTC(), Started: c.Started.UTC(), Finished: c.Finished.UTC(),
		Times: wireTimes{Queue: c.Queue.String(), Image: c.Image.String(), Sandbox: c.Sandbox.String(), Run: c.Run.String()},
		Start: c.Outcome.Start, Status: c.Outcome.Status, In: c.Outcome.In, Out: c.Outcome.Out,
		PeakMemory: int64(c.Outcome.PeakMemory), CPUTime: c.Outcome.CPUTime.String(),
		Result: c.Result, Delivery: c.Delivery,
	}
	if c.Estimate > 0 {
		w.Estimate = c.Estimate.Round(time.Millisecond).String()
	}
	if exit := c.Outcome.Exit; exit != nil {
		w.Signal, w.OOM = exit.Signal, exit.OOM
		if exit.Signal == "" {
			w.ExitCode = &exit.Code
		}
	}
	if c.ErrKind != faas.OK {
		w.Error = &wireCallError{c.ErrKind, c.Error}
		if c.ErrKind == faas.Internal {
			w.Error.Message = "internal error" // the reason is for the operator, and in the server's log
		}
	}
	return w
}

func wireOfLine(l faas.LogLine) wireLogLine {
	w := wireLogLine{Time: l.Time.UTC(), Call: l.Call, Stream: l.Stream, Text: l.Text}
	if e := l.Event; e != nil {
		w.Event = &wireLogEvent{Name: e.Name, Attempt: e.Attempt, Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr, Message: e.Message}
	}
	return w
}

func wireOfImage(m image.Image) wireImage {
	w := wireImage{
		Refs: list(m.Refs), Digest: m.Digest, Index: m.Index, Platform: m.Platform, Size: int64(m.Size),
		Created: m.Created.UTC(), Pulled: m.Pulled.UTC(), Used: m.Used.UTC(),
		Config: wireImageConfig{
			Entrypoint: list(m.Config.Entrypoint), Command: list(m.Config.Command), Env: list(m.Config.Env),
			Workdir: m.Config.Workdir, User: m.Config.User, Volumes: list(m.Config.Volumes), Labels: object(m.Config.Labels),
			ExposedPorts: list(m.Config.ExposedPorts), StopSignal: m.Config.StopSignal,
		},
		Layers: []wireLayer{},
	}
	for _, l := range m.Layers {
		w.Layers = append(w.Layers, wireLayer{Digest: l.Digest, DiffID: l.DiffID, MediaType: l.MediaType, Size: int64(l.Size), Unpacked: int64(l.Unpacked)})
	}
	return w
}

func wireOfImages(images []image.Image) []wireImage {
	out := make([]wireImage, 0, len(images))
	for _, m := range images {
		out = append(out, wireOfImage(m))
	}
	return out
}

func wireOfProgress(p image.Progress) wireProgress {
	w := wireProgress{Done: int64(p.Done), Total: int64(p.Total), Layers: []wireLayerProgress{}}
	for _, l := range p.Layers {
		w.Layers = append(w.Layers, wireLayerProgress{Digest: l.Digest, State: l.State, Done: int64(l.Done), Total: int64(l.Total)})
	}
	return w
}
