package ironv1

import (
	"encoding/json"
	"net/http"
	"net/url"
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

func (s *Server) listApps(w http.ResponseWriter, r *http.Request) error {
	p, err := pageOf(r.URL.Query())
	if err != nil {
		return err
	}
	list, next := listed(definition.AppsAfter(s.Catalog, p.After), p.Limit, wireOfApp, func(a faas.App) string { return a.Name })
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
	a, err = definition.CreateApp(r.Context(), s.Catalog, a)
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
	a, err := definition.UpdateApp(r.Context(), s.Catalog, func() (faas.App, error) { return s.app(name) }, func(a faas.App) (faas.App, error) {
		if in.Name != "" && in.Name != name {
			return a, errNameImmutable
		}
		if in.ID != "" && in.ID != a.ID {
			return a, invalid("App ID in path does not match ID in body")
		}
		a.Env = definition.MergedConfig(a.Env, in.Config)
		err := in.merge(&a, false)
		return a, err
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

// deleteApp removes an app, and with ?force=true all that is in it.
func (s *Server) deleteApp(w http.ResponseWriter, r *http.Request) error {
	force, err := forced(r.URL.Query())
	if err != nil {
		return err
	}
	a, err := s.app(r.PathValue("app"))
	if err != nil {
		return err
	}
	if err := s.removable(a); err != nil && !force {
		return err
	}
	err = definition.DeleteApp(r.Context(), s.Catalog, s.Logs, a.ID)
	if faas.KindOf(err) == faas.NotFound {
		return errNoApp
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, done{"App deleted"})
}

// removable reports what would be lost with a: routes, or functions that no route
// leads to, but for what is left of a route that was half made.
func (s *Server) removable(a faas.App) error {
	for range s.Catalog.SourcesAfter(a.ID, "") {
		return errHasRoutes
	}
	for fn := range s.Catalog.FunctionsAfter(a.ID, "") {
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
