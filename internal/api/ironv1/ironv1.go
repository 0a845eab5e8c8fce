// Package ironv1 is the API that IronFunctions and Fn v1 have in common: /v1 with its
// apps, routes, calls and logs, the invocation of a route (/r), the tasks that an
// outside runner takes (/tasks), and /stats.
//
// It owns the words of both: paths, JSON fields, statuses and texts; where the two
// differ docs/compat-iron.md says which it has. A route is a function and a trigger
// inside. What they mean stands in package faas, and who carries it out is handed to
// it.
package ironv1

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

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
	Tasks   Tasks
	definition.Settings
	Log *slog.Logger

	begun time.Time // when Handler was asked for
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
// call of a function: that is for everybody, all else is management.
func (s *Server) Match(r *http.Request) (match, call bool) {
	path := r.URL.Path
	call = path == "/r" || strings.HasPrefix(path, "/r/")
	return call || path == "/v1" || strings.HasPrefix(path, "/v1/") || path == "/tasks" || path == "/stats", call
}

// Handler answers every request that Match matches. It is not to be put behind an
// http.ServeMux, which redirects from paths that it takes for unclean.
func (s *Server) Handler() http.Handler {
	s.begun = time.Now()
	routes := s.routes()
	return s.handler(func(w http.ResponseWriter, r *http.Request) error {
		if _, call := s.Match(r); call {
			return s.call(w, r)
		}
		if handle, _ := routes.Find(r); handle != nil {
			buffered.LimitReader(w, r)
			return handle(w, r)
		}
		return pathNotFound(r)
	})
}

// handler answers with the errors of h in the words of this API.
func (s *Server) handler(h api.Handler) http.Handler {
	return definition.Serve(h, told, WriteFault, s.Log)
}

// told answers with err if it has words of this API; else it is for the operator.
func told(w http.ResponseWriter, err error) error {
	f, decided := errors.AsType[fault](err)
	if kind := faas.KindOf(err); !decided && err != nil && kind != faas.Internal {
		f, decided = fault{api.Status(err), err.Error()}, true
	}
	if decided {
		writeFault(w, f)
		return nil
	}
	return err
}

// routes are those of management. Each file of this package has a part of them.
func (s *Server) routes() api.Routes {
	var all api.Routes
	all.Add("GET", "/v1/apps", s.listApps)
	all.Add("POST", "/v1/apps", s.createApp)
	all.Add("GET", "/v1/apps/{app}", s.getApp)
	all.Add("PATCH", "/v1/apps/{app}", s.updateApp)
	all.Add("DELETE", "/v1/apps/{app}", s.deleteApp)

	all.Add("GET", "/v1/routes", s.listAllRoutes)
	all.Add("GET", "/v1/apps/{app}/routes", s.listRoutes)
	all.Add("POST", "/v1/apps/{app}/routes", s.createRoute)
	all.Add("GET", "/v1/apps/{app}/routes/{route...}", s.getRoute)
	all.Add("PUT", "/v1/apps/{app}/routes/{route...}", s.putRoute)
	all.Add("PATCH", "/v1/apps/{app}/routes/{route...}", s.updateRoute)
	all.Add("DELETE", "/v1/apps/{app}/routes/{route...}", s.deleteRoute)

	s.taskRoutes(&all)
	s.statsRoutes(&all)
	s.callRoutes(&all)
	return all
}
