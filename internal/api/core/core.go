// Package core is our own HTTP API: its routes, its JSON, its error body, and
// what a definition must bring to be stored. What a call is and does is decided
// further in; who may ask is decided in front of it (package api and the daemon).
//
// docs/api.md describes it for users; openapi.json, which it serves, for programs.
package core

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/catalog"
	"hob/internal/image"
	"hob/internal/logs"
	"hob/internal/store"
)

//go:embed openapi.json
var openapi []byte

// Caller runs calls. It is what this API needs of package invoke.
type Caller interface {
	// Call runs one call to its end and writes the answer to w, as package
	// invoke says. If it answers what an earlier call with the same key has
	// answered, it gives call the ID of that one before it writes.
	Call(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error
	// Live returns the calls that are queued or running.
	Live() []faas.Call
}

// Server answers the requests of this API. Its fields are set before the first
// use and not changed after.
type Server struct {
	Catalog *catalog.Catalog
	Images  *image.Store
	Logs    *logs.Store
	Caller  Caller
	Queue   Queue       // nil: this server takes no asynchronous calls
	Calls   store.Calls // those that Queue has accepted; nil if that is

	Sandboxes func() []faas.Sandbox       // the live ones; nil: none
	Node      func() Node                 // what this daemon is; asked once a second by each live view; nil: nothing is known
	Refusals  func(functionID string) int // connections that policy refused to a function; nil: none are counted

	PublicURL  string     // under which everybody reaches this server, for the addresses of triggers; "": they are paths
	MaxPayload faas.Bytes // of a call's body; 0: no limit
	NoCalls    bool       // this node manages only: it takes no calls, and runs none again
	Insecure   bool       // functions may run as root and share the node's network

	Log *slog.Logger
}

// Node is what a daemon says of itself and its machine.
type Node struct {
	Version        string // of hob
	Go             string // that it was built with
	Platform       string // "linux/amd64"
	Driver         string
	CgroupVersion  int
	UserNamespaces bool
	Notes          []string    // what is weaker than it could be
	Network        string      // of functions that choose none, whose app does neither
	Isolations     []Isolation // all that there are
	Refused        uint64      // packets of functions that policy refused
	CPUs           faas.CPU
	Memory         faas.Bytes // that sandboxes may use
	Reserved       faas.Bytes // of Memory, now
	Waiting        int        // calls in line; Running and Sandboxes are counted here
	Started        time.Time
	Listen         string // "host:port" of the TCP address
}

// Isolation says whether a node has an isolation.
type Isolation struct {
	Name    faas.Isolation
	Missing error // why the node has it not; nil: it has
}

// route is one entry of the API: a pattern of http.ServeMux, and who answers.
type route struct {
	method, path string
	handle       api.Handler
}

// routes is the whole API but the calls of functions (callPath). A test holds
// openapi.json against it.
func (s *Server) routes() []route {
	const app, fn = "/api/apps/{app}", "/api/apps/{app}/functions/{function}"
	const trigger = fn + "/triggers/{trigger}"
	return []route{
		{"GET", "/api/openapi.json", s.openapi},
		{"GET", "/api/node", s.node},
		{"GET", "/api/top", s.top},

		{"GET", "/api/apps", s.listApps},
		{"POST", "/api/apps", s.createApp},
		{"GET", app, s.getApp},
		{"PATCH", app, s.updateApp},
		{"DELETE", app, s.deleteApp},

		{"GET", "/api/functions", s.listFunctions},
		{"GET", app + "/functions", s.listFunctions},
		{"POST", app + "/functions", s.createFunction},
		{"GET", fn, s.getFunction},
		{"PATCH", fn, s.updateFunction},
		{"DELETE", fn, s.deleteFunction},
		{"GET", fn + "/logs", s.logs},
		{"GET", fn + "/status", s.status},
		{"POST", fn + "/refresh", s.refreshFunction},

		{"GET", app + "/triggers", s.listTriggers},
		{"GET", fn + "/triggers", s.listTriggers},
		{"POST", fn + "/triggers", s.createTrigger},
		{"GET", trigger, s.getTrigger},
		{"PUT", trigger, s.putTrigger},
		{"PATCH", trigger, s.putTrigger},
		{"DELETE", trigger, s.deleteTrigger},

		{"GET", "/api/calls", s.listCalls},
		{"GET", "/api/calls/{call}", s.getCall},
		{"GET", "/api/calls/{call}/result", s.result},
		{"POST", "/api/calls/{call}/cancel", s.cancelCall},
		{"POST", "/api/calls/{call}/retry", s.retryCall},
		{"GET", "/api/sandboxes", s.listSandboxes},

		{"GET", "/api/images", s.listImages},
		{"GET", "/api/images/{image...}", s.getImage},
		{"DELETE", "/api/images/{image...}", s.deleteImage},
		{"POST", "/api/images/pull", s.pullImage},
		{"POST", "/api/images/load", s.loadImages},
		{"POST", "/api/images/prune", s.pruneImages},
	}
}

// Handler returns all routes of this API. What it does not know below /api/ is
// answered in its words too.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.Handle(r.method+" "+r.path, api.Serve(r.handle, WriteFault, s.Log))
	}
	mux.Handle("/", api.Serve(func(w http.ResponseWriter, r *http.Request) error {
		if allowed := allowed(mux, r); len(allowed) > 0 {
			list := strings.Join(allowed, ", ")
			w.Header().Set("Allow", list)
			WriteFault(w, api.Fault{Status: http.StatusMethodNotAllowed, Kind: faas.Invalid, Request: w.Header().Get(api.RequestID),
				Message: fmt.Sprintf("%s does not take %s; it takes %s", r.URL.Path, r.Method, list)})
			return nil
		}
		return faas.Errorf(faas.NotFound, "no %s %s in this API: /api/openapi.json describes it", r.Method, r.URL.Path)
	}, WriteFault, s.Log))
	call := api.Serve(s.call, WriteFault, s.Log)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if IsCall(r) {
			call.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// allowed lists the methods with which the path of r is a route.
func allowed(mux *http.ServeMux, r *http.Request) []string {
	var methods []string
	for _, method := range []string{"DELETE", "GET", "PATCH", "POST", "PUT"} {
		other := *r
		other.Method = method
		if _, pattern := mux.Handler(&other); pattern != "/" {
			methods = append(methods, method)
		}
	}
	return methods
}

func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openapi) // an error is the client's: it has left
	return nil
}

func (s *Server) node(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, s.nodeNow(len(s.sandboxes()), s.Caller.Live()))
}

func (s *Server) nodeNow(sandboxes int, live []faas.Call) wireNode {
	var n Node
	if s.Node != nil {
		n = s.Node()
	}
	wire := wireNode{
		Version: n.Version, Go: n.Go, Platform: n.Platform, Driver: n.Driver,
		CgroupVersion: n.CgroupVersion, UserNamespaces: n.UserNamespaces, Notes: list(n.Notes),
		Network: n.Network, Isolations: []wireIsolation{}, Refused: n.Refused,
		CPUs: cpus(n.CPUs), Memory: int64(n.Memory), Reserved: int64(n.Reserved),
		Sandboxes: sandboxes, Waiting: n.Waiting, Started: n.Started.UTC(), Listen: n.Listen, Insecure: s.Insecure,
	}
	for _, i := range n.Isolations {
		one := wireIsolation{Name: i.Name, Available: i.Missing == nil}
		if i.Missing != nil {
			one.Reason = i.Missing.Error()
		}
		wire.Isolations = append(wire.Isolations, one)
	}
	for _, c := range live {
		if c.State == faas.CallRunning {
			wire.Running++
		}
	}
	return wire
}

// sandboxes are the live ones, the oldest first, with the names of their apps.
func (s *Server) sandboxes() []faas.Sandbox {
	if s.Sandboxes == nil {
		return nil
	}
	live := s.Sandboxes()
	slices.SortFunc(live, func(a, b faas.Sandbox) int { return a.Started.Compare(b.Started) })
	for i := range live {
		if app, err := s.Catalog.AppByID(live[i].App); err == nil {
			live[i].App = app.Name // further in, apps are known by their ID
		}
	}
	return live
}

func (s *Server) listSandboxes(w http.ResponseWriter, _ *http.Request) error {
	out := wireSandboxes{Sandboxes: []wireSandbox{}}
	for _, b := range s.sandboxes() {
		out.Sandboxes = append(out.Sandboxes, wireSandbox{
			ID: b.ID, App: b.App, Function: b.Function, Format: b.Format, Call: b.Call,
			State: b.State, Start: b.Start, Calls: b.Calls, Started: b.Started.UTC(),
			Memory: int64(b.Memory), PeakMemory: int64(b.PeakMemory), CPUTime: b.CPUTime.String(), Processes: b.Processes, Label: b.Label,
		})
	}
	return answer(w, http.StatusOK, out)
}

// answer writes v as JSON. An error is the client's: it has left.
func answer(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	return nil
}

// WriteFault is the api.FaultBody of this API: {"error": {"kind", "message", "request"}},
// and the kind in a header, by which it is told from an answer of a function.
func WriteFault(w http.ResponseWriter, f api.Fault) {
	h := w.Header()
	h.Del("Content-Length") // of the answer that there was to be
	h.Set(headerFault, string(f.Kind))
	if f.Kind == faas.Busy && h.Get("Retry-After") == "" && h.Get(headerState) == "" { // a call that is over stays as it is
		h.Set("Retry-After", "1")
	}
	_ = answer(w, f.Status, faultOf(f.Kind, f.Message, f.Request))
}

// late is the last line of an answer of JSON lines that has begun and cannot be
// finished. The operator reads what the caller must not, as in api.Serve.
func (s *Server) late(w http.ResponseWriter, r *http.Request, err error) wireFault {
	kind, message, request := faas.KindOf(err), err.Error(), w.Header().Get(api.RequestID)
	if kind == faas.Internal {
		s.Log.ErrorContext(r.Context(), "request failed", "request", request, "method", r.Method, "path", r.URL.Path, "err", err)
		message = "internal error; quote request " + request
	}
	return faultOf(kind, message, request)
}
