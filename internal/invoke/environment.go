package invoke

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/faas"
)

// names are what one system calls things. An empty name leaves a thing out.
type names struct {
	call, attempt, app, function, method, url, route, deadline, memory, format, kind, tmp, cpu string

	header    string // before the name of a header
	separator string // between the values of one header
	verbatim  bool   // each header is there a second time, its name unchanged
	param     string // before the name of a path parameter
}

// iron are the names of IronFunctions.
var iron = names{method: "METHOD", url: "REQUEST_URL", route: "ROUTE", header: "HEADER_", separator: " ", param: "PARAM_"}

// conventions are the names that function images of each system expect. They are
// data, so that every API uses the same few lines below.
var conventions = map[faas.Convention][]names{
	faas.ConventionHob: {{
		call: "HOB_CALL_ID", attempt: "HOB_ATTEMPT", app: "HOB_APP", function: "HOB_FUNCTION", method: "HOB_METHOD", url: "HOB_REQUEST_URL",
		route: "HOB_ROUTE", deadline: "HOB_DEADLINE", memory: "HOB_MEMORY", header: "HTTP_", separator: ", ", param: "HOB_PARAM_",
	}},
	faas.ConventionIron: {iron},
	faas.ConventionFn: {iron, {
		call: "FN_CALL_ID", app: "FN_APP_NAME", method: "FN_METHOD", url: "FN_REQUEST_URL", route: "FN_PATH", deadline: "FN_DEADLINE",
		memory: "FN_MEMORY", format: "FN_FORMAT", kind: "FN_TYPE", tmp: "FN_TMPSIZE", cpu: "FN_CPUS", header: "FN_HEADER_", separator: ", ", verbatim: true,
	}},
	faas.ConventionHyper: {{call: "HOB_CALL_ID", attempt: "HOB_ATTEMPT", header: "HTTP_", separator: ", "}},
}

// variables reports whether the function is told of each call in variables:
// those of its process, or, as IronFunctions does it, the headers of a request.
func variables(fn faas.Function, req *faas.Request) bool {
	return !fn.Format.Hot() || fn.Format == faas.FormatHTTP && req.Convention.Iron()
}

// environment is what a call brings on top of its image's environment: the
// configuration of the app, then of the function, then what is known of the
// request, then what the edge made itself; a later value of a name wins. A zero
// deadline is none. Names and values together are at most faas.MaxEnv.
func environment(app faas.App, fn faas.Function, req *faas.Request, deadline time.Time) ([]string, error) {
	env := make([]string, 0, len(app.Env)+len(fn.Env)+len(req.Header)+len(req.Params)+len(req.Env)+9)
	for _, config := range []map[string]string{app.Env, fn.Env} {
		env = append(env, configuration(config, req.Convention)...)
	}
	systems := conventions[req.Convention]
	if fn.Format.Hot() {
		systems = []names{iron} // the headers of the request are Fn's
	}
	for _, n := range systems {
		env = n.tell(env, app, fn, req, deadline)
	}
	env = append(env, req.Env...)

	var size faas.Bytes
	for _, e := range env {
		size += faas.Bytes(len(e) + 1)
	}
	if size > faas.MaxEnv {
		return nil, faas.Errorf(faas.TooLarge, "the environment of the call, made of configuration and headers, has %v and may have %v: %w", size, faas.MaxEnv, faas.ErrEnvironment)
	}
	return env, nil
}

// configuration is config in order. Of functions that may be made for IronFunctions,
// each name is there as a variable that a shell can read, too; one that is given as
// such wins.
func configuration(config map[string]string, c faas.Convention) []string {
	env := make([]string, 0, len(config))
	for _, name := range slices.Sorted(maps.Keys(config)) {
		env = append(env, name+"="+config[name])
	}
	if !c.Iron() {
		return env
	}
	var more []string
	for _, name := range slices.Sorted(maps.Keys(config)) {
		if upper := strings.ToUpper(strings.ReplaceAll(name, "-", "_")); upper != name {
			more = append(more, upper+"="+config[name])
		}
	}
	return append(more, env...)
}

// tell appends what is known of a request, under these names.
func (n *names) tell(env []string, app faas.App, fn faas.Function, req *faas.Request, deadline time.Time) []string {
	add := func(name, value string) {
		if name != "" {
			env = append(env, name+"="+strings.ReplaceAll(value, "\x00", ""))
		}
	}
	add(n.call, req.Call)
	kind := faas.CallSync
	if req.Attempt > 0 {
		kind = faas.CallAsync
		add(n.attempt, strconv.Itoa(req.Attempt))
	}
	add(n.app, app.Name)
	add(n.function, fn.Name)
	add(n.method, req.Method)
	add(n.url, req.URL)
	if req.Route != "" {
		add(n.route, req.Route)
	}
	if !deadline.IsZero() {
		add(n.deadline, deadline.UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	add(n.memory, megabytes(fn.Memory))
	add(n.format, string(fn.Format))
	add(n.kind, string(kind))
	add(n.tmp, strconv.FormatUint(uint64(fn.TmpGiven()), 10))
	if fn.CPU > 0 {
		add(n.cpu, strconv.FormatInt(int64(fn.CPU), 10)+"m")
	}
	for _, name := range sortedNames(req.Header) {
		value, upper := strings.Join(req.Header[name], n.separator), variable(name)
		add(n.header+upper, value)
		if n.verbatim && upper != name {
			add(n.header+name, value)
		}
	}
	if n.param != "" {
		for _, name := range slices.Sorted(maps.Keys(req.Params)) {
			add(n.param+variable(name), req.Params[name])
		}
	}
	return env
}

func megabytes(b faas.Bytes) string { return strconv.FormatInt(int64(b/faas.MB), 10) }

// sortedNames returns the headers that a function may see. Proxy is never one of
// them: programs would take HTTP_PROXY for the proxy they have to use.
func sortedNames(h http.Header) []string {
	list := make([]string, 0, len(h))
	for name := range h {
		if !strings.EqualFold(name, "Proxy") {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// variable is a name as a part of an environment variable: upper case, with '_'
// for everything but letters and digits.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}
