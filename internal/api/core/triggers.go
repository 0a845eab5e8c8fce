package core

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"hob/faas"
	"hob/internal/store"
)

// triggerChangeIn changes a trigger: absent keeps, null sets back to the default.
type triggerChangeIn struct {
	Type        *string       `json:"type"`
	Source      *string       `json:"source"`
	Async       *bool         `json:"async"`
	Headers     headersIn     `json:"headers"`
	Key         *string       `json:"key"` // empty: none
	Convention  *string       `json:"convention"`
	Annotations annotationsIn `json:"annotations"`
	Revision    *int64        `json:"revision"` // change only if the trigger is still at this one
}

// triggerIn makes a trigger.
type triggerIn struct {
	Name        string        `json:"name"`
	Type        string        `json:"type"`
	Source      string        `json:"source"`
	Async       bool          `json:"async"`
	Headers     headersIn     `json:"headers"`
	Key         string        `json:"key"`
	Convention  string        `json:"convention"`
	Annotations annotationsIn `json:"annotations"`
}

// headersIn are changes of headers: null removes one.
type headersIn map[string][]string

// merged is header with the changes, under canonical names; nil if none are left.
func (in headersIn) merged(header map[string][]string) map[string][]string {
	all := maps.Clone(header)
	if all == nil {
		all = make(map[string][]string, len(in))
	}
	for _, name := range slices.Sorted(maps.Keys(in)) { // in order: of two writings of a name the same one counts always
		key := textproto.CanonicalMIMEHeaderKey(name)
		if all[key] = in[name]; len(in[name]) == 0 {
			delete(all, key)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// listTriggers lists those of a function, or of all functions of an app.
func (s *Server) listTriggers(w http.ResponseWriter, r *http.Request) error {
	if p := query(r); p.err != nil {
		return p.err
	}
	app, err := s.Catalog.App(r.PathValue("app"))
	if err != nil {
		return err
	}
	var fn faas.Function
	if name := r.PathValue("function"); name != "" {
		if fn, err = s.Catalog.Function(app.Name, name); err != nil {
			return err
		}
	}
	out := wireTriggers{Triggers: []wireTrigger{}}
	for t := range s.Catalog.TriggersAfter(app.ID, "") {
		if fn.ID != "" && t.Function != fn.ID {
			continue
		}
		of, err := s.Catalog.FunctionByID(t.Function)
		if err != nil {
			continue // it went just now, and the trigger with it
		}
		out.Triggers = append(out.Triggers, s.wireOfTrigger(app, of, t))
	}
	return answer(w, http.StatusOK, out)
}

func (s *Server) getTrigger(w http.ResponseWriter, r *http.Request) error {
	app, fn, t, err := s.trigger(r)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, s.wireOfTrigger(app, fn, t))
}

// trigger finds what the path names. If only the trigger is missing, app and
// function are returned beside the NotFound.
func (s *Server) trigger(r *http.Request) (app faas.App, fn faas.Function, t faas.Trigger, err error) {
	if app, err = s.Catalog.App(r.PathValue("app")); err != nil {
		return app, fn, t, err
	}
	if fn, err = s.Catalog.Function(app.Name, r.PathValue("function")); err != nil {
		return app, fn, t, err
	}
	name := r.PathValue("trigger")
	for t := range s.Catalog.TriggersAfter(app.ID, "") {
		if t.Function == fn.ID && t.Name == name {
			return app, fn, t, nil
		}
	}
	return app, fn, t, faas.Errorf(faas.NotFound, "function %q of app %q has no trigger %q", fn.Name, app.Name, name)
}

func (s *Server) createTrigger(w http.ResponseWriter, r *http.Request) error {
	var in triggerIn
	if _, err := readJSON(w, r, &in); err != nil {
		return err
	}
	app, err := s.Catalog.App(r.PathValue("app"))
	if err != nil {
		return err
	}
	fn, err := s.Catalog.Function(app.Name, r.PathValue("function"))
	if err != nil {
		return err
	}
	t := faas.Trigger{
		Name: in.Name, Type: in.Type, Source: in.Source, Async: in.Async, Header: in.Headers.merged(nil), Key: in.Key,
		Convention: faas.Convention(in.Convention), Annotations: in.Annotations.merged(nil),
	}
	return s.makeTrigger(w, r, app, fn, t)
}

func (s *Server) makeTrigger(w http.ResponseWriter, r *http.Request, app faas.App, fn faas.Function, t faas.Trigger) error {
	t.ID, t.App, t.Function = faas.NewID(), app.ID, fn.ID
	if t.Type == "" {
		t.Type = faas.TriggerHTTP
	}
	t, err := s.keepTrigger(r.Context(), t, store.IfNew)
	if err != nil {
		return err
	}
	return answer(w, http.StatusCreated, s.wireOfTrigger(app, fn, t))
}

func (s *Server) keepTrigger(ctx context.Context, t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	if err := t.Check(); err != nil {
		return t, err
	}
	return s.Catalog.PutTrigger(ctx, t, ifRevision)
}

// putTrigger makes a trigger, or changes the one that is there as PATCH does: who
// deploys need not know which.
func (s *Server) putTrigger(w http.ResponseWriter, r *http.Request) error {
	var in triggerChangeIn
	fields, err := readJSON(w, r, &in)
	if err != nil {
		return err
	}
	return retried(func() error {
		app, fn, t, err := s.trigger(r)
		switch {
		case err == nil:
			return s.changeTrigger(w, r, app, fn, t, in, fields)
		case fn.ID == "" || r.Method != http.MethodPut:
			return err
		case in.Revision != nil:
			return faas.Errorf(faas.Conflict, "trigger %q is not there, at no revision: %w", r.PathValue("trigger"), errOvertaken)
		}
		t = faas.Trigger{
			Name: r.PathValue("trigger"), Type: value(in.Type), Source: value(in.Source), Async: value(in.Async), Header: in.Headers.merged(nil),
			Key: value(in.Key), Convention: faas.Convention(value(in.Convention)), Annotations: in.Annotations.merged(nil),
		}
		return s.makeTrigger(w, r, app, fn, t)
	})
}

func (s *Server) changeTrigger(w http.ResponseWriter, r *http.Request, app faas.App, fn faas.Function, t faas.Trigger, in triggerChangeIn, fields map[string]json.RawMessage) error {
	if in.Revision != nil && *in.Revision != t.Revision {
		return faas.Errorf(faas.Conflict, "trigger %q is at revision %d, not %d: %w", t.Name, t.Revision, *in.Revision, errOvertaken)
	}
	if fields["type"] != nil {
		t.Type = value(in.Type)
		if t.Type == "" {
			t.Type = faas.TriggerHTTP
		}
	}
	if fields["source"] != nil {
		t.Source = value(in.Source)
	}
	if fields["async"] != nil {
		t.Async = value(in.Async)
	}
	if isNull(fields["headers"]) {
		t.Header = nil
	}
	t.Header = in.Headers.merged(t.Header)
	if fields["key"] != nil {
		t.Key = value(in.Key)
	}
	if fields["convention"] != nil {
		t.Convention = faas.Convention(value(in.Convention))
	}
	if isNull(fields["annotations"]) {
		t.Annotations = nil
	}
	t.Annotations = in.Annotations.merged(t.Annotations)
	t, err := s.keepTrigger(r.Context(), t, t.Revision)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, s.wireOfTrigger(app, fn, t))
}

func (s *Server) deleteTrigger(w http.ResponseWriter, r *http.Request) error {
	if p := query(r); p.err != nil {
		return p.err
	}
	_, _, t, err := s.trigger(r)
	if err != nil {
		return err
	}
	if err := s.Catalog.DeleteTrigger(r.Context(), t.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) wireOfTrigger(app faas.App, fn faas.Function, t faas.Trigger) wireTrigger {
	if t.Header == nil {
		t.Header = map[string][]string{}
	}
	return wireTrigger{
		ID: t.ID, App: app.Name, Function: fn.Name, Name: t.Name, Type: t.Type, Source: t.Source,
		URL:   strings.TrimRight(s.PublicURL, "/") + triggerPath(app.Name, t.Source),
		Async: t.Async, Headers: t.Header, KeySet: t.Key != "", Convention: string(t.Convention), Annotations: annotationsOf(t.Annotations),
		Revision: t.Revision, Created: t.Created.UTC(), Updated: t.Updated.UTC(),
	}
}

// triggerPath is where a trigger is called on every server; a wildcard in it stays one.
func triggerPath(app, source string) string {
	path := (&url.URL{Path: source}).EscapedPath()
	return "/t/" + url.PathEscape(app) + strings.ReplaceAll(path, "%2A", "*")
}
