package hyperfunc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"hob/faas"
)

// wireFunc is a function as the client reads and writes it. The fields stand in
// the order in which Hyper sent them.
type wireFunc struct {
	Name             string
	ContainerSize    string    `json:",omitempty"`
	Timeout          int       `json:",omitempty"` // seconds
	UUID             string    `json:",omitempty"`
	Created          time.Time `json:",omitzero"`
	Refresh          bool      `json:",omitempty"` // in an update: make another UUID
	Config           wireConfig
	HostConfig       wireHostConfig
	NetworkingConfig wireNetworking
}

type wireConfig struct {
	Tty          bool                `json:",omitempty"`
	Env          *[]string           `json:",omitempty"` // "NAME=value"; nil in an update: keep
	ExposedPorts map[string]struct{} `json:",omitempty"` // "8080/tcp"
	Cmd          words               `json:",omitempty"`
	Image        string              `json:",omitempty"`
	Entrypoint   words               `json:",omitempty"`
	WorkingDir   string              `json:",omitempty"`
	Labels       map[string]string   `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
}

type wireHostConfig struct {
	VolumesFrom     []string                 `json:",omitempty"`
	PortBindings    map[string][]wireBinding `json:",omitempty"`
	Links           []string                 `json:",omitempty"`
	PublishAllPorts bool                     `json:",omitempty"`
	NetworkMode     string                   `json:",omitempty"`
}

type wireBinding struct{ HostIp, HostPort string }

type wireNetworking struct {
	EndpointsConfig map[string]json.RawMessage
}

// words is a list that may be written as one string, which is then its only
// element.
type words []string

// UnmarshalJSON takes a string or a list of strings.
func (l *words) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*l = words{""}
		return json.Unmarshal(b, &(*l)[0])
	}
	return json.Unmarshal(b, (*[]string)(l))
}

// annotation is the key under which a function keeps what Hyper knows of it and
// hob does not: a wireFunc with only these fields.
const annotation = "hyper"

// kept is the part of f that goes into the annotation.
func (f wireFunc) kept() (string, error) {
	k := wireFunc{ContainerSize: f.ContainerSize, HostConfig: f.HostConfig, NetworkingConfig: f.NetworkingConfig}
	k.Config = wireConfig{Tty: f.Config.Tty, ExposedPorts: f.Config.ExposedPorts, Labels: f.Config.Labels, StopSignal: f.Config.StopSignal}
	b, err := json.Marshal(k)
	return string(b), err
}

// wireOf is fn as this API shows it: what is kept beside it, and over that what
// is true of it now, whichever API has changed it.
func wireOf(fn faas.Function) wireFunc {
	f := wireFunc{HostConfig: wireHostConfig{NetworkMode: "bridge"}}
	_ = json.Unmarshal([]byte(fn.Beside[annotation]), &f) // made by another API: it has none
	switch mode := faas.NetworkMode(fn.Network); {
	case mode == faas.NetworkNone, mode == faas.NetworkHost:
		f.HostConfig.NetworkMode = fn.Network
	case f.HostConfig.NetworkMode == string(faas.NetworkNone), f.HostConfig.NetworkMode == string(faas.NetworkHost):
		f.HostConfig.NetworkMode = "bridge"
	}
	f.Name, f.UUID, f.Created = fn.Name, fn.Address, fn.Created.UTC().Truncate(time.Millisecond)
	f.Timeout = int((fn.TimeoutOf(faas.CallAsync) + time.Second - 1) / time.Second)
	if known, err := sizeOf(f.ContainerSize); err != nil || known.memory != fn.Memory {
		f.ContainerSize = leastSize(fn.Memory)
	}
	env := []string{}
	for _, name := range slices.Sorted(maps.Keys(fn.Env)) {
		env = append(env, name+"="+fn.Env[name])
	}
	f.Config.Env = &env
	f.Config.Image, f.Config.Cmd, f.Config.WorkingDir = fn.Image, fn.Command, fn.Workdir
	f.Config.Entrypoint = fn.Entrypoint
	if fn.Entrypoint != nil && len(fn.Entrypoint) == 0 {
		f.Config.Entrypoint = words{""}
	}
	return f
}

// maxJSON is the most bytes of a JSON body: an environment of 128 KiB in its
// most wasteful writing fits.
const maxJSON = faas.MB

// readFunc reads the body of r. What is no JSON, or has a value of another type,
// is Invalid; fields that nobody knows are not looked at: clients of other
// versions send some.
func readFunc(w http.ResponseWriter, r *http.Request) (f wireFunc, err error) {
	body, err := readBody(w, r)
	if err != nil {
		return f, err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return f, faas.Errorf(faas.Invalid, "the request has no body: send the JSON object of a function")
	}
	err = json.Unmarshal(body, &f)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return f, faas.Errorf(faas.Invalid, "bad JSON: field %q cannot be a %s", e.Field, e.Value)
	}
	if err != nil {
		return f, faas.Errorf(faas.Invalid, "bad JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return f, nil
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(maxJSON)))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, faas.Errorf(faas.TooLarge, "the body is over the limit of %v", maxJSON)
	}
	if err != nil {
		return nil, faas.Errorf(faas.Canceled, "read the request: %w", err)
	}
	return body, nil
}

// envOf turns a list of "NAME=value" into a map; of a name that comes twice the
// last counts.
func envOf(list []string) (map[string]string, error) {
	env := make(map[string]string, len(list))
	for _, e := range list {
		name, value, ok := strings.Cut(e, "=")
		if !ok {
			return nil, faas.Errorf(faas.Invalid, "bad environment variable %q in Config.Env: write it as NAME=value", e)
		}
		env[name] = value
	}
	return env, nil
}
