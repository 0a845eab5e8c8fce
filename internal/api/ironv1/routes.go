package ironv1

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"net/http"
	"reflect"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/api/definition"
	"hob/internal/image"
	"hob/internal/store"
)

// A route is a path of an app that leads to a function: a trigger with the function.
type route struct {
	app     faas.App
	fn      faas.Function
	trigger faas.Trigger
}

// routeBody is the body of a request about a route.
type routeBody struct {
	Route *routeIn `json:"route"`
}

// routeAnswer is the answer to one.
type routeAnswer struct {
	Message string    `json:"message"`
	Route   wireRoute `json:"route"`
}

// readRoute reads the route in the body of r. Its path is clean.
func readRoute(w http.ResponseWriter, r *http.Request) (routeIn, error) {
	var in routeBody
	if err := definition.ReadJSON(w, r, &in); err != nil {
		return routeIn{}, err
	}
	if in.Route == nil {
		return routeIn{}, invalid("Missing new route")
	}
	if strings.HasPrefix(in.Route.Path, "/") {
		in.Route.Path = cleanPath(in.Route.Path)
	}
	return *in.Route, nil
}

// pathOf is the path of a route as the URL of r has it, behind ".../routes/", or not
// found: without the slash it is that of the list.
func pathOf(r *http.Request) (string, error) {
	rest := r.PathValue("route")
	if rest == "" && !strings.HasSuffix(r.URL.Path, "/") {
		return "", pathNotFound(r)
	}
	return rest, nil
}

// route is the route of an app, "" for that of the URL, with this path. One that was
// made elsewhere may have a path that is not clean: it is found as it is written.
func (s *Server) route(appName, path string) (route, error) {
	app, err := s.app(appName)
	if err != nil {
		return route{}, err
	}
	for _, source := range []string{path, "/" + path, cleanPath(path)} {
		t, err := s.Catalog.TriggerBySource(app.ID, source)
		if err != nil {
			continue
		}
		if fn, err := s.Catalog.FunctionByID(t.Function); err == nil {
			return route{app, fn, t}, nil
		}
	}
	return route{}, errNoRoute
}

// routesAfter yields the routes of an app whose paths come after path, by path, and
// of an image only, if there is one.
func (s *Server) routesAfter(app faas.App, path, image string) iter.Seq[route] {
	image = fullReference(image)
	return func(yield func(route) bool) {
		for t := range s.Catalog.SourcesAfter(app.ID, path) {
			fn, err := s.Catalog.FunctionByID(t.Function)
			if err != nil || image != "" && fullReference(fn.Image) != image {
				continue // it is gone just now, and the trigger with it
			}
			if !yield(route{app, fn, t}) {
				return
			}
		}
	}
}

// fullReference is a reference with all that it leaves out; what is none stays.
func fullReference(ref string) string {
	if full, err := image.Normalize(ref); err == nil {
		return full.String()
	}
	return ref
}

const listedRoutes = "Successfully listed routes"

func (s *Server) listRoutes(w http.ResponseWriter, r *http.Request) error {
	app, err := s.app(r.PathValue("app"))
	if err != nil {
		return err
	}
	p, err := pageOf(r.URL.Query())
	if err != nil {
		return err
	}
	routes := s.routesAfter(app, p.After, r.URL.Query().Get("image"))
	list, next := listed(routes, p.Limit, wireOfRoute, func(rt route) string { return rt.trigger.Source })
	return answer(w, http.StatusOK, wireRoutes{listedRoutes, next, list})
}

// listAllRoutes lists the routes of all apps, by app and path.
func (s *Server) listAllRoutes(w http.ResponseWriter, r *http.Request) error {
	p, err := pageOf(r.URL.Query())
	if err != nil {
		return err
	}
	image := r.URL.Query().Get("image")
	name, path, _ := strings.Cut(p.After, "\x00")
	var routes iter.Seq[route] = func(yield func(route) bool) {
		yieldAll := func(app faas.App, path string) bool {
			for rt := range s.routesAfter(app, path, image) {
				if !yield(rt) {
					return false
				}
			}
			return true
		}
		if app, err := s.Catalog.App(name); err == nil && !yieldAll(app, path) {
			return
		}
		for app := range s.Catalog.AppsAfter(name) {
			if !yieldAll(app, "") {
				return
			}
		}
	}
	list, next := listed(routes, p.Limit, wireOfRoute, func(rt route) string { return rt.app.Name + "\x00" + rt.trigger.Source })
	return answer(w, http.StatusOK, wireRoutes{listedRoutes, next, list})
}

func (s *Server) getRoute(w http.ResponseWriter, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	rt, err := s.route(r.PathValue("app"), path)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, routeAnswer{"Successfully loaded route", wireOfRoute(rt)})
}

func created(w http.ResponseWriter, rt route) error {
	return answer(w, http.StatusOK, routeAnswer{"Route successfully created", wireOfRoute(rt)})
}

func (s *Server) createRoute(w http.ResponseWriter, r *http.Request) error {
	in, err := readRoute(w, r)
	if err != nil {
		return err
	}
	rt, err := s.newRoute(r.Context(), r.PathValue("app"), in)
	if err != nil {
		return err
	}
	return created(w, rt)
}

func (s *Server) updateRoute(w http.ResponseWriter, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	in, err := readRoute(w, r)
	if err != nil {
		return err
	}
	rt, err := s.changedRoute(r.Context(), r.PathValue("app"), path, in)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, routeAnswer{"Route successfully updated", wireOfRoute(rt)})
}

// putTries is how often a route is made or changed, in turn, while others do the
// opposite.
const putTries = 5

// putRoute changes a route, or makes it.
func (s *Server) putRoute(w http.ResponseWriter, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	in, err := readRoute(w, r)
	if err != nil {
		return err
	}
	for range putTries {
		var rt route
		rt, err = s.changedRoute(r.Context(), r.PathValue("app"), path, in)
		if err == nil {
			return answer(w, http.StatusOK, routeAnswer{"Route successfully updated", wireOfRoute(rt)})
		}
		if !errors.Is(err, errNoRoute) && !errors.Is(err, errNoApp) {
			return err
		}
		if in.Path != "" && in.Path != cleanPath(path) {
			return errPathImmutable
		}
		in.Path = cleanPath(path)
		if rt, err = s.newRoute(r.Context(), r.PathValue("app"), in); !errors.Is(err, errRouteExists) {
			if err != nil {
				return err
			}
			return created(w, rt)
		}
	}
	return err
}

// changedRoute merges in into the route that is there.
func (s *Server) changedRoute(ctx context.Context, app, path string, in routeIn) (route, error) {
	var old route
	return definition.Update(ctx, func() (_ route, err error) {
		old, err = s.route(app, path)
		return old, err
	}, func(rt route) (route, error) {
		if source := rt.trigger.Source; in.Path != "" && in.Path != source && in.Path != cleanPath(source) {
			return rt, errPathImmutable
		}
		return s.mergedRoute(rt, in, false)
	}, func(next route) (route, error) { return s.keepRoute(ctx, old, next) })
}

// keepRoute puts what differs from old. Both parts can work before one is put; if one
// is put only, the same change again puts the other.
func (s *Server) keepRoute(ctx context.Context, old, next route) (_ route, err error) {
	if err := cmp.Or(next.fn.Check(), next.trigger.Check()); err != nil {
		return next, err
	}
	if !reflect.DeepEqual(old.fn, next.fn) {
		next.fn, err = s.Catalog.PutFunction(ctx, next.fn, old.fn.Revision)
	}
	if err == nil && !reflect.DeepEqual(old.trigger, next.trigger) {
		next.trigger, err = s.Catalog.PutTrigger(ctx, next.trigger, old.trigger.Revision)
	}
	if faas.KindOf(err) == faas.NotFound {
		err = errNoRoute // gone just now, with its app
	}
	return next, err
}

// appOrNew is the app with this name, which is made if it is not there.
func (s *Server) appOrNew(ctx context.Context, name string) (faas.App, error) {
	if a, err := s.Catalog.App(name); err == nil {
		return a, nil
	}
	if err := checkAppName(name); err != nil {
		return faas.App{}, err
	}
	a, err := s.Catalog.PutApp(ctx, faas.App{Name: name}, store.IfNew)
	if faas.KindOf(err) == faas.Conflict {
		return s.Catalog.App(name) // somebody else was first
	}
	return a, err
}

// newRoute makes a route, and its app if that is not there. What is no route, or not
// on this node, makes no app.
func (s *Server) newRoute(ctx context.Context, app string, in routeIn) (route, error) {
	known, _ := s.Catalog.App(app) // a new one says nothing of patterns
	if err := checkPath(in.Path, known.Patterns(s.Patterns)); err != nil {
		return route{}, err
	}
	if in.Image == "" {
		return route{}, invalid("Missing route Image")
	}
	rt, err := s.mergedRoute(blank(in), in, true)
	if err != nil {
		return rt, err
	}
	named := rt
	named.fn.ID, named.fn.Name, named.trigger.Name = faas.NewID(), functionName(in.Path, 1), functionName(in.Path, 1)
	if err := cmp.Or(named.fn.Check(), named.trigger.Check()); err != nil {
		return rt, err
	}
	if s.Catalog.Admit != nil {
		if err := s.Catalog.Admit(ctx, known, named.fn); err != nil {
			return rt, err
		}
	}
	for try := 1; ; try++ {
		if rt.app, err = s.appOrNew(ctx, app); err != nil {
			return rt, err
		}
		if _, err := s.Catalog.TriggerBySource(rt.app.ID, in.Path); err == nil {
			return rt, errRouteExists
		}
		made, err := s.makeRoute(ctx, rt)
		if faas.KindOf(err) != faas.NotFound {
			return made, err
		}
		if try == putTries { // the app is gone just now, each time
			return made, errNoApp
		}
	}
}

// makeRoute puts the function of rt, under a name that is free, and the trigger. If the
// trigger cannot be put the function goes again.
func (s *Server) makeRoute(ctx context.Context, rt route) (_ route, err error) {
	rt.fn.App, rt.trigger.App = rt.app.ID, rt.app.ID
	if rt.fn, err = s.putNamed(ctx, rt.fn, rt.app, rt.trigger.Source); err != nil {
		return rt, err
	}
	rt.trigger.Function, rt.trigger.Name = rt.fn.ID, rt.fn.Name
	t, err := s.Catalog.PutTrigger(ctx, rt.trigger, store.IfNew)
	if err == nil {
		rt.trigger = t
		return rt, nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if err := s.Catalog.DeleteFunction(undo, rt.fn.ID); err != nil && faas.KindOf(err) != faas.NotFound {
		s.Log.WarnContext(ctx, "a route could not be made, and its function stays", "app", rt.app.Name, "function", rt.fn.Name, "err", err)
	}
	if errors.Is(err, faas.ErrSourceTaken) {
		err = errRouteExists // somebody else was first
	}
	return rt, err
}

// undoTime is how long the removal of a function may take whose route cannot be made.
const undoTime = 10 * time.Second

// putNamed puts a new function under a name made of its route's path: the first that
// is free, or that of what is left of a route which was half made when the daemon was
// killed.
func (s *Server) putNamed(ctx context.Context, fn faas.Function, app faas.App, path string) (faas.Function, error) {
	for n := 1; ; n++ {
		fn.ID, fn.Name, fn.Revision = faas.NewID(), functionName(path, n), store.IfNew
		if old, err := s.Catalog.Function(app.Name, fn.Name); err == nil {
			if !s.isLeft(old, path) {
				continue
			}
			fn.ID, fn.Revision = old.ID, old.Revision
		}
		put, err := s.Catalog.PutFunction(ctx, fn, fn.Revision)
		if faas.KindOf(err) != faas.Conflict {
			return put, err
		} // else somebody else was first
	}
}

// isLeft reports whether fn was made for the route with this path, and the daemon was
// killed before there was a trigger. One that was made since this daemon has begun may
// get its trigger yet.
func (s *Server) isLeft(fn faas.Function, path string) bool {
	if fn.Beside[beside] != path || !fn.Created.Before(s.begun) {
		return false
	}
	for range s.Catalog.TriggersOf(fn.ID) {
		return false
	}
	return true
}

// deleteRoute removes a route, and its function if this API has made it and no other
// path leads to it. Its calls go as those of deleteApp.
func (s *Server) deleteRoute(w http.ResponseWriter, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	rt, err := s.route(r.PathValue("app"), path)
	if err != nil {
		return err
	}
	err = s.Catalog.DeleteTrigger(r.Context(), rt.trigger.ID)
	if faas.KindOf(err) == faas.NotFound {
		return errNoRoute
	}
	if err == nil && rt.fn.Beside[beside] != "" {
		err = s.Catalog.DeleteUntriggered(context.WithoutCancel(r.Context()), rt.fn.ID) // it would be nobody's
		switch kind := faas.KindOf(err); {
		case err == nil:
			s.Logs.Forget(rt.fn.ID)
		case kind == faas.Conflict || kind == faas.NotFound: // another path leads to it, or it is gone
			err = nil
		}
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, done{"Route deleted"})
}
