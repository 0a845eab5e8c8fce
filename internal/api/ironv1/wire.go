package ironv1

import (
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"hob/faas"
	"hob/internal/api/definition"
)

// stamp is a time as it is shown.
type stamp = definition.Stamp

// wireApp is an app as it is shown.
type wireApp struct {
	ID          string                     `json:"id"`
	Name        string                     `json:"name"`
	Config      map[string]string          `json:"config"`
	Annotations map[string]json.RawMessage `json:"annotations,omitempty"`
	SyslogURL   string                     `json:"syslog_url,omitempty"`
	Runner      string                     `json:"runner,omitempty"`
	CreatedAt   stamp                      `json:"created_at"`
	UpdatedAt   stamp                      `json:"updated_at"`
}

func wireOfApp(a faas.App) wireApp {
	wire := wireApp{
		ID: a.ID, Name: a.Name, Config: a.Env, Annotations: definition.WireAnnotations(a.Annotations),
		SyslogURL: a.Syslog, CreatedAt: stamp{Time: a.Created}, UpdatedAt: stamp{Time: a.Updated},
	}
	if wire.Config == nil {
		wire.Config = map[string]string{}
	}
	if a.External() {
		wire.Runner = faas.RunnerExternal
	}
	return wire
}

// appIn is an app as it is read. Empty is absent, but for what may be nil.
type appIn struct {
	ID          string                     `json:"id"`
	Name        string                     `json:"name"`
	Config      map[string]string          `json:"config"`
	Annotations map[string]json.RawMessage `json:"annotations"`
	SyslogURL   *string                    `json:"syslog_url"`
	Runner      *string                    `json:"runner"`
	CreatedAt   stamp                      `json:"created_at"` // looked at by nobody, but a time it must be
	UpdatedAt   stamp                      `json:"updated_at"`
}

// Values of the type of a route.
const (
	typeSync  = "sync"
	typeAsync = "async"
)

// wireRoute is a route as it is shown, whichever API has made it.
type wireRoute struct {
	AppName        string                     `json:"app_name"`
	AppID          string                     `json:"app_id"`
	Path           string                     `json:"path"`
	Image          string                     `json:"image"`
	Memory         uint64                     `json:"memory"` // MB
	CPUs           string                     `json:"cpus"`
	Headers        map[string][]string        `json:"headers"`
	Type           string                     `json:"type"`
	Format         faas.Format                `json:"format"`
	MaxConcurrency int                        `json:"max_concurrency"`
	Timeout        int32                      `json:"timeout"`      // seconds
	IdleTimeout    int32                      `json:"idle_timeout"` // seconds
	TmpfsSize      uint32                     `json:"tmpfs_size"`   // MB
	Config         map[string]string          `json:"config"`
	JWTKey         string                     `json:"jwt_key"`
	Annotations    map[string]json.RawMessage `json:"annotations,omitempty"`
	CreatedAt      stamp                      `json:"created_at"`
	UpdatedAt      stamp                      `json:"updated_at"`
}

func wireOfRoute(rt route) wireRoute {
	fn, t := rt.fn, rt.trigger
	wire := wireRoute{
		AppName: rt.app.Name, AppID: rt.app.ID, Path: t.Source, Image: fn.Image, Memory: definition.MemoryOf(fn), CPUs: wireCPU(fn.CPU),
		Headers: t.Header, Type: typeSync, Format: fn.Format, MaxConcurrency: max(fn.MaxConcurrency, 1), Timeout: definition.Seconds(timeoutOf(rt)),
		IdleTimeout: definition.Seconds(fn.Idle), TmpfsSize: fn.TmpGiven(), Config: fn.Env, JWTKey: t.Key, Annotations: definition.WireAnnotations(fn.Annotations),
		CreatedAt: stamp{Time: t.Created}, UpdatedAt: stamp{Time: t.Updated},
	}
	if t.Async {
		wire.Type = typeAsync
	}
	if fn.Updated.After(t.Updated) {
		wire.UpdatedAt.Time = fn.Updated
	}
	if wire.Headers == nil {
		wire.Headers = map[string][]string{}
	}
	if wire.Config == nil {
		wire.Config = map[string]string{}
	}
	return wire
}

// routeIn is a route as it is read. Zero is absent.
type routeIn struct {
	AppName        string                     `json:"app_name"` // the URL says which it is; as below
	AppID          string                     `json:"app_id"`
	Path           string                     `json:"path"`
	Image          string                     `json:"image"`
	Memory         uint64                     `json:"memory"`
	CPUs           string                     `json:"cpus"`
	Headers        map[string]values          `json:"headers"`
	Type           string                     `json:"type"`
	Format         faas.Format                `json:"format"`
	MaxConcurrency count                      `json:"max_concurrency"`
	Timeout        int32                      `json:"timeout"`
	IdleTimeout    int32                      `json:"idle_timeout"`
	TmpfsSize      uint32                     `json:"tmpfs_size"`
	Config         map[string]string          `json:"config"`
	JWTKey         string                     `json:"jwt_key"`
	Annotations    map[string]json.RawMessage `json:"annotations"`
	CreatedAt      stamp                      `json:"created_at"` // looked at by nobody, but a time it must be
	UpdatedAt      stamp                      `json:"updated_at"`
}

// values are those of a header: a list of strings, or one string.
type values []string

// UnmarshalJSON takes a string for a list of one.
func (v *values) UnmarshalJSON(b []byte) error {
	if b[0] != '"' {
		return json.Unmarshal(b, (*[]string)(v))
	}
	var one string
	err := json.Unmarshal(b, &one)
	*v = values{one}
	return err
}

// headerOf is the header that is asked for, under canonical names: those that differ
// in case are one.
func headerOf(in map[string]values) map[string][]string {
	header := make(map[string][]string, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		header[canonical] = append(header[canonical], in[name]...)
	}
	return header
}

// count is a number that may be written as a string: the documentation of hot
// functions does so.
type count int

// UnmarshalJSON takes "1" for 1.
func (c *count) UnmarshalJSON(b []byte) error {
	if b[0] != '"' {
		return json.Unmarshal(b, (*int)(c))
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	*c = count(n)
	return err
}

// cpuPattern are the ways to write a share of processors: thousandths, or a decimal.
var cpuPattern = regexp.MustCompile(`^([0-9]{1,7}m|[0-9]{1,4}|[0-9]{0,4}\.[0-9]{1,3})$`)

const maxCPU = 1024 * 1000

var errCPU = errors.New("no share of processors")

func parseCPU(s string) (faas.CPU, error) {
	cpu, err := faas.ParseCPU(s)
	if err != nil || !cpuPattern.MatchString(s) || cpu > maxCPU {
		return 0, errCPU
	}
	return cpu, nil
}

// wireCPU writes c in thousandths of a processor; "" is no limit.
func wireCPU(c faas.CPU) string {
	if c == 0 {
		return ""
	}
	return strconv.FormatInt(int64(c), 10) + "m"
}

// wireApps and wireRoutes are lists, or the part of them that was asked for.
type wireApps struct {
	Message    string    `json:"message"`
	NextCursor string    `json:"next_cursor"`
	Apps       []wireApp `json:"apps"`
}

type wireRoutes struct {
	Message    string      `json:"message"`
	NextCursor string      `json:"next_cursor"`
	Routes     []wireRoute `json:"routes"`
}

// pageOf reads per_page and cursor. Who sends neither gets everything: clients of
// IronFunctions cannot ask for a second page. The limit is 0 then.
func pageOf(q url.Values) (definition.Page, error) {
	if !q.Has("per_page") && !q.Has("cursor") {
		return definition.Page{}, nil
	}
	return definition.PageOf(q, definition.DecodeName)
}

// listed is the first items, at most limit, and the cursor behind them: "" if nothing
// follows.
func listed[T, W any](items iter.Seq[T], limit int, wire func(T) W, place func(T) string) (list []W, next string) {
	list = []W{}
	var last T
	for item := range items {
		if limit > 0 && len(list) == limit {
			return list, definition.NameCursor(place(last))
		}
		list, last = append(list, wire(item)), item
	}
	return list, ""
}
