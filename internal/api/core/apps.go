package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"

	"hob/faas"
	"hob/internal/store"
)

// appIn makes an app.
type appIn struct {
	Name           string             `json:"name"`
	Env            map[string]*string `json:"env"`
	MaxConcurrency int                `json:"max_concurrency"`
	Network        string             `json:"network"`
	Allow          []string           `json:"allow"`
	Annotations    annotationsIn      `json:"annotations"`
	Syslog         string             `json:"syslog"`
	Shape          string             `json:"shape"`
	Runner         string             `json:"runner"`
}

// appChangeIn changes an app: absent keeps, null sets back to the default.
type appChangeIn struct {
	Env            map[string]*string `json:"env"`
	MaxConcurrency *int               `json:"max_concurrency"`
	Network        *string            `json:"network"`
	Allow          []string           `json:"allow"`
	Annotations    annotationsIn      `json:"annotations"`
	Syslog         *string            `json:"syslog"`
	Shape          *string            `json:"shape"`
	Runner         *string            `json:"runner"`
	Revision       *int64             `json:"revision"` // change only if the app is still at this one
}

func (s *Server) listApps(w http.ResponseWriter, r *http.Request) error {
	if p := query(r); p.err != nil {
		return p.err
	}
	out := wireApps{Apps: []wireApp{}}
	for _, a := range s.Catalog.Apps() {
		out.Apps = append(out.Apps, wireOfApp(a))
	}
	return answer(w, http.StatusOK, out)
}

func (s *Server) getApp(w http.ResponseWriter, r *http.Request) error {
	app, err := s.Catalog.App(r.PathValue("app"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, wireOfApp(app))
}

func (s *Server) createApp(w http.ResponseWriter, r *http.Request) error {
	var in appIn
	if _, err := readJSON(w, r, &in); err != nil {
		return err
	}
	app := faas.App{
		ID: faas.NewID(), Name: in.Name, Env: mergedEnv(nil, in.Env), MaxConcurrency: in.MaxConcurrency, Network: in.Network, Allow: orNone(in.Allow),
		Annotations: in.Annotations.merged(nil), Syslog: in.Syslog, Shape: in.Shape,
	}
	if in.Runner != "" {
		if err := setRunner(&app, in.Runner); err != nil {
			return err
		}
	}
	if err := app.Check(); err != nil {
		return err
	}
	if _, err := s.Catalog.App(app.Name); err == nil {
		return faas.Errorf(faas.Conflict, "app %q exists already", app.Name)
	}
	app, err := s.Catalog.PutApp(r.Context(), app, store.IfNew)
	if err != nil {
		return err
	}
	return answer(w, http.StatusCreated, wireOfApp(app))
}

// updateApp changes what is named. Of the environment it changes the variables
// that are named; null removes one, and null for the whole environment all. So it
// is with annotations.
func (s *Server) updateApp(w http.ResponseWriter, r *http.Request) error {
	var in appChangeIn
	fields, err := readJSON(w, r, &in)
	if err != nil {
		return err
	}
	return retried(func() error {
		app, err := s.Catalog.App(r.PathValue("app"))
		if err != nil {
			return err
		}
		if in.Revision != nil && *in.Revision != app.Revision {
			return faas.Errorf(faas.Conflict, "app %q is at revision %d, not %d: %w", app.Name, app.Revision, *in.Revision, errOvertaken)
		}
		if isNull(fields["env"]) {
			app.Env = nil
		}
		app.Env = mergedEnv(app.Env, in.Env)
		if isNull(fields["annotations"]) {
			app.Annotations = nil
		}
		app.Annotations = in.Annotations.merged(app.Annotations)
		if fields["max_concurrency"] != nil {
			app.MaxConcurrency = value(in.MaxConcurrency)
		}
		if fields["network"] != nil {
			app.Network = value(in.Network)
		}
		if fields["allow"] != nil {
			app.Allow = orNone(in.Allow)
		}
		if fields["syslog"] != nil {
			app.Syslog = value(in.Syslog)
		}
		if fields["shape"] != nil {
			app.Shape = value(in.Shape)
		}
		if fields["runner"] != nil {
			if err := setRunner(&app, value(in.Runner)); err != nil {
				return err
			}
		}
		if err := app.Check(); err != nil {
			return err
		}
		app, err = s.Catalog.PutApp(r.Context(), app, app.Revision)
		if err != nil {
			return err
		}
		return answer(w, http.StatusOK, wireOfApp(app))
	})
}

// setRunner writes who runs the asynchronous calls of a where the rest of hob reads
// it, in an annotation.
func setRunner(a *faas.App, runner string) error {
	switch runner {
	case "":
		delete(a.Annotations, faas.AnnotationRunner)
	case faas.RunnerExternal:
		a.Annotations = annotationsIn{faas.AnnotationRunner: json.RawMessage(`"` + runner + `"`)}.merged(a.Annotations)
	default:
		return faas.Errorf(faas.Invalid, "runner %q is not %q, or nothing for this server", runner, faas.RunnerExternal)
	}
	return nil
}

// deleteApp takes the functions of the app with it only when it is told so.
func (s *Server) deleteApp(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "force")
	force := p.flag("force", false)
	if p.err != nil {
		return p.err
	}
	app, err := s.Catalog.App(r.PathValue("app"))
	if err != nil {
		return err
	}
	if app.Name == faas.DefaultApp {
		return faas.Errorf(faas.Invalid, "the app %q cannot be removed: functions without an app live in it", app.Name)
	}
	functions := s.Catalog.Functions(app.Name)
	if len(functions) > 0 && !force {
		return faas.Errorf(faas.Conflict, "app %q has %d functions: remove them first, or force it", app.Name, len(functions))
	}
	if err := s.Catalog.DeleteApp(r.Context(), app.ID); err != nil {
		return err
	}
	for _, fn := range functions {
		s.Logs.Forget(fn.ID)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// mergedEnv is env with the changes: a nil value removes a variable.
func mergedEnv(env map[string]string, changes map[string]*string) map[string]string {
	env = maps.Clone(env)
	if env == nil {
		env = map[string]string{}
	}
	for name, value := range changes {
		if value == nil {
			delete(env, name)
		} else {
			env[name] = *value
		}
	}
	return env
}

// annotationsIn are changes of annotations: null removes one.
type annotationsIn map[string]json.RawMessage

// merged is annotations with the changes in their shortest writing, nil if none
// are left. What was decoded can be compacted.
func (in annotationsIn) merged(annotations map[string]string) map[string]string {
	all := maps.Clone(annotations)
	if all == nil {
		all = make(map[string]string, len(in))
	}
	for key, value := range in {
		if isNull(value) {
			delete(all, key)
			continue
		}
		var compact bytes.Buffer
		_ = json.Compact(&compact, value)
		all[key] = compact.String()
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// errOvertaken is the reason of a Conflict with the revision that the caller named:
// trying again does not help.
var errOvertaken = errors.New("it was changed in between")

// retried carries out a change that reads, merges and writes again when the
// definition was changed in between. Somebody who is overtaken this often gets
// the Conflict.
func retried(change func() error) error {
	var err error
	for range 100 {
		err = change()
		if faas.KindOf(err) != faas.Conflict || errors.Is(err, errOvertaken) || errors.Is(err, faas.ErrSourceTaken) {
			return err
		}
	}
	return err
}
