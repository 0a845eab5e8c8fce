// Package fnv2 is the API of Fn Project: /v2 with its apps, fns and triggers, the
// invocation of a function by its id (/invoke) and by a trigger (/t, or a host name
// of an app), and what a Fn server says at / and at a path that nobody knows. The
// Functions service of Oracle Cloud has another address for the former (/20181201).
//
// It owns the words of Fn: paths, JSON fields, statuses and texts, as a Fn server
// has them (docs/compat-fn.md has the differences). What they mean inside stands in
// package faas, and who carries it out is handed to it.
package fnv2

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/buffered"
	"hob/internal/api/definition"
	"hob/internal/catalog"
	"hob/internal/logs"
	"hob/internal/store"
)

// Server answers the API. Its fields are set before the first request and not
// changed after.
type Server struct {
	Catalog *catalog.Catalog
	Images  Images
	Logs    *logs.Store
	Calls   store.Calls
	Caller  Caller
	Settings
	Log *slog.Logger

	// Route answers a request to a host name that leads to a route of /v1
	// (faas.ConventionFn), as that API does; nil: it is answered as all others.
	Route func(w http.ResponseWriter, r *http.Request, app faas.App, to *buffered.Route)
}

// Settings are what the operator decides.
type Settings struct {
	definition.Settings
	PublicURL string   // base of the addresses of functions and triggers; "": that of the request
	CallsGone bool     // the calls of a function are answered as a Fn server does: 410
	Domain    string   // {app}.Domain is the host name of an app; "": none has one by its name
	Hosts     []string // names, without port, that are the node's own whatever apps there are
}

// Images tells which image a reference means.
type Images interface {
	// Local returns the digest of the image that ref means if it is on this node,
	// else "". Invalid if ref is no reference.
	Local(ref string) (digest string, err error)
}

// Caller runs calls; invoke.Invoker is one.
type Caller interface {
	buffered.Caller
	Find(ctx context.Context, id string) (faas.Call, error)
	Live() []faas.Call
}

// Match reports whether r is for this API, going by its path, and whether it is a
// call of a function: that is for everybody, all else is management. What it does
// not match comes here only if no other API wants it.
//
// Paths are taken decoded, as Fn takes them: of "%2F" it makes what it makes of "/".
func (s *Server) Match(r *http.Request) (match, call bool) {
	path := r.URL.Path
	call = isCall(path) || strings.HasPrefix(path, ociPrefix)
	return call || path == "/" || path == "/v2" || strings.HasPrefix(path, "/v2/"), call
}

func isCall(path string) bool {
	return strings.HasPrefix(path, "/invoke/") || strings.HasPrefix(path, "/t/")
}

// invokedFn returns the ID in the path of /invoke/{id}.
func invokedFn(path string) (id string, ok bool) {
	id, ok = strings.CutPrefix(path, "/invoke/")
	return id, ok && id != "" && !strings.Contains(id, "/")
}

// calledSource returns what the path /t/{app}[/{source...}] names: without a source
// it is "/".
func calledSource(path string) (app, source string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/t/")
	app, source, _ = strings.Cut(rest, "/")
	return app, "/" + source, ok && app != ""
}

// Handler answers every request, those for paths that are nothing here too. It is
// not to be put behind an http.ServeMux, which redirects from paths that it takes
// for unclean.
func (s *Server) Handler() http.Handler {
	routes, oci := s.routes(), s.ociHandler()
	fn := s.handler(func(w http.ResponseWriter, r *http.Request) error { return s.serve(routes, w, r) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, ociPrefix) {
			oci.ServeHTTP(w, r)
			return
		}
		fn.ServeHTTP(w, r)
	})
}

// handler answers with the errors of h in Fn's words.
func (s *Server) handler(h api.Handler) http.Handler { return s.told(h, writeFault) }

// told answers with the errors of h as write writes them.
func (s *Server) told(h api.Handler, write func(http.ResponseWriter, fault)) http.Handler {
	return definition.Serve(h, func(w http.ResponseWriter, err error) error {
		f, known := faultOf(err)
		if !known {
			return err
		}
		write(w, f)
		return nil
	}, func(w http.ResponseWriter, _ api.Fault) {
		write(w, fault{http.StatusInternalServerError, internalError}) // others have words
	}, s.Log)
}

// serve finds who answers r.
func (s *Server) serve(routes api.Routes, w http.ResponseWriter, r *http.Request) error {
	path := r.URL.Path
	if isCall(path) && !s.NoInvoke {
		if _, ok := invokedFn(path); ok && r.Method == http.MethodPost {
			return s.invoke(w, r)
		} else if ok {
			return methodNotAllowed(r)
		}
		if _, _, ok := calledSource(path); ok {
			return s.trigger(w, r)
		}
	}
	handle, known := routes.Find(r)
	if handle != nil {
		buffered.LimitReader(w, r)
		return handle(w, r)
	}
	if known {
		return methodNotAllowed(r)
	}
	return pathNotFound(r)
}

// routes are those of management: calls of functions are looked at before them.
func (s *Server) routes() api.Routes {
	var all api.Routes
	all.Add("GET", "/", s.hello)

	all.Add("GET", "/v2/apps", s.listApps)
	all.Add("POST", "/v2/apps", s.createApp)
	all.Add("GET", "/v2/apps/{id}", s.getApp)
	all.Add("PUT", "/v2/apps/{id}", s.updateApp)
	all.Add("DELETE", "/v2/apps/{id}", s.deleteApp)

	all.Add("GET", "/v2/fns", s.listFns)
	all.Add("POST", "/v2/fns", s.createFn)
	all.Add("GET", "/v2/fns/{id}", s.getFn)
	all.Add("PUT", "/v2/fns/{id}", s.updateFn)
	all.Add("DELETE", "/v2/fns/{id}", s.deleteFn)
	all.Add("GET", "/v2/fns/{id}/calls", s.listCalls)
	all.Add("GET", "/v2/fns/{id}/calls/{call}", s.getCall)
	all.Add("GET", "/v2/fns/{id}/calls/{call}/log", s.getCallLog)

	all.Add("GET", "/v2/triggers", s.listTriggers)
	all.Add("POST", "/v2/triggers", s.createTrigger)
	all.Add("GET", "/v2/triggers/{id}", s.getTrigger)
	all.Add("PUT", "/v2/triggers/{id}", s.updateTrigger)
	all.Add("DELETE", "/v2/triggers/{id}", s.deleteTrigger)
	all.Add("GET", "/v2/runner/apps/{app}/triggerBySource/{type}/{source...}", s.triggerBySource)
	return all
}

// hello is what a Fn server says at its root.
func (s *Server) hello(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, struct {
		Goto  string `json:"goto"`
		Hello string `json:"hello"`
	}{"https://github.com/fnproject/fn", "world!"})
}

const contentJSON = "application/json; charset=utf-8"

// answer writes v as JSON. An error of writing is the client's: it has left.
func answer(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentJSON)
	_, _ = w.Write(body)
	return nil
}

// done answers that something was removed.
func done(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusNoContent)
	return nil
}
