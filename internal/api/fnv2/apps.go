package fnv2

import (
	"encoding/json"
	"net/http"
	"unicode/utf8"

	"hob/faas"
	"hob/internal/api/definition"
)

// wireApp is an app as it is shown.
type wireApp struct {
	ID          string                     `json:"id"`
	Name        string                     `json:"name"`
	Config      map[string]string          `json:"config,omitempty"`
	Annotations map[string]json.RawMessage `json:"annotations,omitempty"`
	SyslogURL   string                     `json:"syslog_url,omitempty"`
	Shape       string                     `json:"shape,omitempty"`
	CreatedAt   stamp                      `json:"created_at"`
	UpdatedAt   stamp                      `json:"updated_at"`
}

func wireOfApp(a faas.App) wireApp {
	return wireApp{
		ID: a.ID, Name: a.Name, Config: a.Env, Annotations: wireAnnotations(a.Annotations, "", ""),
		SyslogURL: a.Syslog, Shape: a.Shape, CreatedAt: stamp{Time: a.Created}, UpdatedAt: stamp{Time: a.Updated},
	}
}

// appIn is an app as it is read. Empty is absent, but for SyslogURL.
type appIn struct {
	ID          string                     `json:"id"`
	Name        string                     `json:"name"`
	Config      map[string]string          `json:"config"`
	Annotations map[string]json.RawMessage `json:"annotations"`
	SyslogURL   *string                    `json:"syslog_url"`
	Shape       string                     `json:"shape"`
	CreatedAt   stamp                      `json:"created_at"` // looked at by nobody, but a time it must be
	UpdatedAt   stamp                      `json:"updated_at"`
}

// app is the app with this ID.
func (s *Server) app(id string) (faas.App, error) {
	a, err := s.Catalog.AppByID(id)
	if err != nil {
		return a, errNoApp
	}
	return a, nil
}

func (s *Server) listApps(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	p, err := definition.PageOf(q, definition.DecodeName)
	if err != nil {
		return err
	}
	apps := definition.AppsAfter(s.Catalog, p.After)
	if name := q.Get("name"); name != "" {
		a, err := s.Catalog.App(name)
		if err == nil && definition.Untouched(s.Catalog, a) {
			err = errNoApp
		}
		apps = only(a, err, name, p.After)
	}
	return answer(w, listed(apps, p.Limit, wireOfApp, func(a faas.App) string { return definition.NameCursor(a.Name) }))
}

func (s *Server) getApp(w http.ResponseWriter, r *http.Request) error {
	a, err := s.app(r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, wireOfApp(a))
}

func (s *Server) createApp(w http.ResponseWriter, r *http.Request) error {
	var in appIn
	if err := readJSON(w, r, &in); err != nil {
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
	a, err := definition.CreateApp(r.Context(), s.Catalog, a)
	if err != nil {
		return err
	}
	return answer(w, wireOfApp(a))
}

func (s *Server) updateApp(w http.ResponseWriter, r *http.Request) error {
	var in appIn
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	id := r.PathValue("id")
	if in.ID != "" && in.ID != id {
		return invalid("App ID in path does not match ID in body")
	}
	a, err := definition.UpdateApp(r.Context(), s.Catalog, func() (faas.App, error) { return s.app(id) }, func(a faas.App) (faas.App, error) {
		if in.Name != "" && in.Name != a.Name {
			return a, errImmutable
		}
		a.Env = definition.MergedConfig(a.Env, in.Config)
		err := in.merge(&a, false)
		return a, err
	})
	if err != nil {
		return err
	}
	return answer(w, wireOfApp(a))
}

// merge changes what in names of a, but for its config.
func (in appIn) merge(a *faas.App, isNew bool) (err error) {
	if in.Shape != "" {
		if faas.CheckShape(in.Shape) != nil {
			return invalid("Invalid app shape")
		}
		a.Shape = in.Shape
	}
	if in.SyslogURL != nil {
		if err := definition.CheckSyslog(*in.SyslogURL); err != nil {
			return err
		}
		a.Syslog = *in.SyslogURL
	}
	a.Annotations, err = mergedAnnotations(a.Annotations, in.Annotations, isNew)
	return err
}

// deleteApp removes an app with all that is in it.
func (s *Server) deleteApp(w http.ResponseWriter, r *http.Request) error {
	err := definition.DeleteApp(r.Context(), s.Catalog, s.Logs, r.PathValue("id"))
	if faas.KindOf(err) == faas.NotFound {
		return errNoApp
	}
	if err != nil {
		return err
	}
	return done(w)
}

func checkAppName(name string) error {
	switch {
	case name == "":
		return invalid("Missing Name")
	case utf8.RuneCountInString(name) > faas.MaxNameLength:
		return invalid("App name must be 255 characters or less")
	case !definition.IsWord(name):
		return invalid("Invalid app name")
	}
	return nil
}
