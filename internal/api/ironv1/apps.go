package ironv1

import (
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"hob/faas"
	"hob/internal/api/definition"
)

// appBody is the body of a request about an app.
type appBody struct {
	App *appIn `json:"app"`
}

// appAnswer is the answer to one.
type appAnswer struct {
	Message string  `json:"message"`
	App     wireApp `json:"app"`
}

// readApp reads the app in the body of r.
func readApp(w http.ResponseWriter, r *http.Request) (appIn, error) {
	var in appBody
	if err := definition.ReadJSON(w, r, &in); err != nil {
		return appIn{}, err
	}
	if in.App == nil {
		return appIn{}, invalid("Missing new application")
	}
	return *in.App, nil
}

// app is the app with this name. That which is there from the start is not, until
// somebody has done something with it.
func (s *Server) app(name string) (faas.App, error) {
	a, err := s.Catalog.App(name)
	if err != nil || definition.Untouched(s.Catalog, a) {
		return faas.App{}, errNoApp
	}
	return a, nil
}

// appsAfter yields the apps whose names come after name.
func (s *Server) appsAfter(name string) iter.Seq[faas.App] {
	return func(yield func(faas.App) bool) {
		for a := range s.Catalog.AppsAfter(name) {
			if !definition.Untouched(s.Catalog, a) && !yield(a) {
				return
			}
		}
	}
}

func (s *Server) listApps(w http.ResponseWriter, r *http.Request) error {
	p, err := pageOf(r.URL.Query())
	if err != nil {
		return err
	}
	list, next := listed(s.appsAfter(p.After), p.Limit, wireOfApp, func(a faas.App) string { return a.Name })
	return answer(w, http.StatusOK, wireApps{"Successfully listed applications", next, list})
}

func (s *Server) getApp(w http.ResponseWriter, r *http.Request) error {
	a, err := s.app(r.PathValue("app"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, appAnswer{"Successfully loaded app", wireOfApp(a)})
}

func (s *Server) createApp(w http.ResponseWriter, r *http.Request) error {
	in, err := readApp(w, r)
	if err != nil {
		return err
	}
	if in.ID != "" {
		return invalid("App ID cannot be supplied on create")
	}
	if err := checkAppName(in.Name); err != nil {
		return err
	}
	a := faas.App{ID: faas.NewID(), Name: in.Name, Env: in.Config}
	if err := in.merge(&a, true); err != nil {
		return err
	}
	if old, err := s.Catalog.App(a.Name); err == nil {
		if !definition.Untouched(s.Catalog, old) {
			return errAppExists
		}
		a.ID, a.Revision = old.ID, old.Revision
	}
	a, err = s.Catalog.PutApp(r.Context(), a, a.Revision) // 0 is store.IfNew
	if _, known := s.Catalog.App(in.Name); known == nil && faas.KindOf(err) == faas.Conflict {
		return errAppExists // somebody else was first
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, appAnswer{"App successfully created", wireOfApp(a)})
}

func (s *Server) updateApp(w http.ResponseWriter, r *http.Request) error {
	in, err := readApp(w, r)
	if err != nil {
		return err
	}
	name := r.PathValue("app")
	a, err := definition.Update(r.Context(), func() (faas.App, error) { return s.app(name) }, func(a faas.App) (faas.App, error) {
		if in.Name != "" && in.Name != name {
			return a, errNameImmutable
		}
		if in.ID != "" && in.ID != a.ID {
			return a, invalid("App ID in path does not match ID in body")
		}
		a.Env = definition.MergedConfig(a.Env, in.Config)
		err := in.merge(&a, false)
		return a, err
	}, func(a faas.App) (faas.App, error) {
		put, err := s.Catalog.PutApp(r.Context(), a, a.Revision)
		if faas.KindOf(err) == faas.Conflict && definition.HostTaken(s.Catalog, a) {
			return put, fault{http.StatusConflict, err.Error()}
		}
		return put, err
	})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, appAnswer{"App successfully updated", wireOfApp(a)})
}

// merge changes what in names of a, but for its config.
func (in appIn) merge(a *faas.App, isNew bool) (err error) {
	if in.SyslogURL != nil {
		if err := definition.CheckSyslog(*in.SyslogURL); err != nil {
			return err
		}
		a.Syslog = *in.SyslogURL
	}
	if a.Annotations, err = definition.MergedAnnotations(a.Annotations, in.Annotations, isNew); err != nil || in.Runner == nil {
		return err
	}
	switch *in.Runner {
	case faas.RunnerExternal, "":
	default:
		return faas.Errorf(faas.Invalid, `Invalid app runner: it is %q, or "" for this server`, faas.RunnerExternal)
	}
	value, _ := json.Marshal(*in.Runner) // of a string: cannot fail
	a.Annotations, err = definition.MergedAnnotations(a.Annotations, map[string]json.RawMessage{faas.AnnotationRunner: value}, false)
	return err
}

// deleteApp removes an app, and with ?force=true all that is in it. Calls of its
// functions that run go on to their end, those in line are canceled by the daemon,
// which sees that their functions are gone.
func (s *Server) deleteApp(w http.ResponseWriter, r *http.Request) error {
	force, err := forced(r.URL.Query())
	if err != nil {
		return err
	}
	a, err := s.app(r.PathValue("app"))
	if err != nil {
		return err
	}
	functions := slices.Collect(s.Catalog.FunctionsAfter(a.ID, ""))
	if err := s.removable(a, functions); err != nil && !force {
		return err
	}
	err = s.Catalog.DeleteApp(r.Context(), a.ID)
	if faas.KindOf(err) == faas.NotFound {
		return errNoApp
	}
	if err != nil {
		return err
	}
	for _, fn := range functions {
		s.Logs.Forget(fn.ID)
	}
	return answer(w, http.StatusOK, done{"App deleted"})
}

// removable reports what would be lost with a: routes, or functions that no route
// leads to, but for what is left of a route that was half made.
func (s *Server) removable(a faas.App, functions []faas.Function) error {
	for range s.Catalog.SourcesAfter(a.ID, "") {
		return errHasRoutes
	}
	for _, fn := range functions {
		if fn.Beside[beside] == "" {
			return faas.Errorf(faas.Invalid, "Cannot remove apps with functions: no route leads to %s, which would go too; ?force=true removes all", fn.Name)
		}
	}
	return nil
}

func forced(q url.Values) (bool, error) {
	text := q.Get("force")
	if text == "" {
		return false, nil
	}
	force, err := strconv.ParseBool(text)
	if err != nil {
		return false, faas.Errorf(faas.Invalid, "force is %q: it must be true or false", text)
	}
	return force, nil
}

// done is the answer to what leaves nothing to be shown.
type done struct {
	Message string `json:"message"`
}
