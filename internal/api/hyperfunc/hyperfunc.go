// Package hyperfunc is the API of Hyper Func, as its command line speaks it: the
// management of functions and images, signed, and the data plane, where the
// secret address of a function is in the path. It owns the routes, the JSON, the
// statuses and texts, the sizes, and the check of signatures.
//
// The functions made here are those of the app Hyper; how calls wait, run and are
// kept is decided further in. Which listener serves it, and what stands in front
// of management when no keys are configured, is for the daemon.
//
// docs/compat-hyper.md describes it for users.
package hyperfunc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/catalog"
	"hob/internal/image"
	"hob/internal/logs"
	"hob/internal/store"
)

// AppName is the app of the functions that this API makes.
const AppName = "hyper"

// Queue runs calls. It is what this API needs of package invoke.
type Queue interface {
	// Enqueue accepts an asynchronous call, durably, as package invoke says; with
	// a delay below 0 the function's own counts.
	Enqueue(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, delay time.Duration) (faas.Call, error)
	// Live returns the calls that are in flight, synchronous ones too.
	Live() []faas.Call
}

// Settings are what an operator chooses.
type Settings struct {
	Keys    map[string]string // secret keys by access key; empty: signatures are not checked
	Region  string            // that requests are signed for; "": us-west-1
	Quota   int               // calls at once of all Hyper functions together, when the first is made; 0: no limit
	Host    string            // of the addresses of functions; "": that of the request
	MaxBody faas.Bytes        // of a payload, and of a result; 0: 1 MB
}

// Server answers the requests of this API. Its exported fields are set before
// the first use and not changed after.
type Server struct {
	Catalog  *catalog.Catalog
	Images   *image.Store
	Logs     *logs.Store
	Calls    store.Calls
	Queue    Queue
	Settings Settings

	Capacity faas.Resources  // of the node; zero: not known
	Insecure bool            // functions may share the node's network
	Ending   <-chan struct{} // closed when upgraded streams must end, which no http.Server ends; may be nil

	Log *slog.Logger

	seen signatures
}

// maxBody is the limit of payloads and results.
func (s *Server) maxBody() faas.Bytes {
	if s.Settings.MaxBody > 0 {
		return s.Settings.MaxBody
	}
	return faas.MB
}

// versions are the prefixes of paths: "/v1.23/funcs" is "/funcs". IronFunctions
// has "/v1/" and Fn "/v2/": those are not ours.
var versions = regexp.MustCompile(`^/v[0-9]+\.[0-9]+/`)

// split returns a path without its version, and what comes first in it.
func split(path string) (rest, area string, versioned bool) {
	if v := versions.FindString(path); v != "" {
		path, versioned = path[len(v)-1:], true
	}
	area, _, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return path, area, versioned
}

// Match reports whether r is for this API, going by its path.
func (s *Server) Match(r *http.Request) bool {
	rest, area, versioned := split(r.URL.Path)
	return versioned || rest == "/funcs" || isData(r) || (area == "funcs" || area == "images") && rest != "/"+area
}

// Data reports whether r is of the data plane, which is open to everybody who
// knows the secret in the path. All else that Match takes is management.
func (s *Server) Data(r *http.Request) bool { return isData(r) }

func isData(r *http.Request) bool {
	rest, area, versioned := split(r.URL.Path)
	switch area {
	case "call", "output", "logs", "status":
		return !versioned && rest != "/"+area
	}
	return false
}

// Handler returns all routes of this API. It checks the signatures of management,
// if keys are configured.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]api.Handler{
		"GET /funcs":             s.list,
		"POST /funcs/create":     s.create,
		"GET /funcs/{name}":      s.inspect,
		"PUT /funcs/{name}":      s.update,
		"DELETE /funcs/{name}":   s.remove,
		"GET /funcs/call/{call}": s.functionOfCall,

		"GET /info":              s.info,
		"GET /images/{image...}": s.image, // …/json
		"POST /images/create":    s.pull,

		"GET /output/{name}/{uuid}/{call}":      s.output,
		"GET /output/{name}/{uuid}/{call}/wait": s.output,
		"GET /logs/{name}/{uuid}":               s.logs,
		"GET /status/{name}/{uuid}":             s.status,
	} {
		mux.Handle(pattern, api.Serve(handle, WriteFault, s.Log))
	}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
		mux.Handle(method+" /call/{name}/{uuid}", api.Serve(s.call, WriteFault, s.Log))
		mux.Handle(method+" /call/{name}/{uuid}/sync", api.Serve(s.call, WriteFault, s.Log))
	}
	return api.Serve(func(w http.ResponseWriter, r *http.Request) error {
		if !isData(r) && len(s.Settings.Keys) > 0 {
			err := s.checkSignature(w, r, time.Now())
			if e, ok := errors.AsType[unsigned](err); ok {
				w.Header().Set("WWW-Authenticate", algorithm)
				text(w, http.StatusUnauthorized, e.reason)
				return nil
			}
			if err != nil {
				return err
			}
		}
		short := *r
		url := *r.URL
		short.URL = &url
		url.Path, _, _ = split(url.Path)
		url.RawPath, _, _ = split(url.RawPath)
		_, pattern := mux.Handler(&short)
		if pattern == "" || r.Method == http.MethodHead { // a HEAD would remove a result that nobody read
			return refuse(w, mux, &short)
		}
		mux.ServeHTTP(w, &short)
		return nil
	}, WriteFault, s.Log)
}

// refuse answers a request that is no route.
func refuse(w http.ResponseWriter, mux *http.ServeMux, r *http.Request) error {
	var allowed []string
	for _, method := range []string{"DELETE", "GET", "POST", "PUT"} {
		other := *r
		other.Method = method
		if _, pattern := mux.Handler(&other); pattern != "" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return faas.Errorf(faas.NotFound, "no %s here: of the Hyper API there are funcs, images and the data plane", r.URL.Path)
	}
	list := strings.Join(allowed, ", ")
	w.Header().Set("Allow", list)
	text(w, http.StatusMethodNotAllowed, fmt.Sprintf("%s is not for this path: it takes %s", r.Method, list))
	return nil
}

// WriteFault is the api.FaultBody of this API: plain text, which its client shows
// behind "Error response from server:".
func WriteFault(w http.ResponseWriter, f api.Fault) {
	if f.Kind == faas.Busy && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "1")
	}
	text(w, f.Status, f.Message)
}

// text answers with one line. An error is the client's: it has left.
func text(w http.ResponseWriter, status int, message string) {
	h := w.Header()
	h.Del("Content-Length") // of the answer that there was to be
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, message+"\n")
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
