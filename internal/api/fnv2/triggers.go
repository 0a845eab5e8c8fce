package fnv2

import (
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"hob/faas"
	"hob/internal/api/definition"
	"hob/internal/store"
)

// wireTrigger is a trigger as it is shown.
type wireTrigger struct {
	ID          string                     `json:"id"`
	Name        string                     `json:"name"`
	AppID       string                     `json:"app_id"`
	FnID        string                     `json:"fn_id"`
	CreatedAt   stamp                      `json:"created_at"`
	UpdatedAt   stamp                      `json:"updated_at"`
	Type        string                     `json:"type"`
	Source      string                     `json:"source"`
	Annotations map[string]json.RawMessage `json:"annotations,omitempty"`
}

func wireOfTrigger(t faas.Trigger) wireTrigger {
	return wireTrigger{
		ID: t.ID, Name: t.Name, AppID: t.App, FnID: t.Function, CreatedAt: stamp{Time: t.Created}, UpdatedAt: stamp{Time: t.Updated},
		Type: t.Type, Source: t.Source, Annotations: wireAnnotations(t.Annotations, "", ""),
	}
}

// wireOfTriggerAt shows t with its address below base.
func (s *Server) wireOfTriggerAt(t faas.Trigger, base string) wireTrigger {
	app, _ := s.Catalog.AppByID(t.App) // gone just now: the trigger, too
	wire := wireOfTrigger(t)
	wire.Annotations = wireAnnotations(t.Annotations, annotationHTTP, base+sourceURL(app.Name, t.Source))
	return wire
}

// sourceURL is the path of a source as it stands in a URL.
func sourceURL(app, source string) string {
	path := "/t/" + app + source
	return (&url.URL{Path: path, RawPath: path}).EscapedPath() // RawPath: nothing is escaped that need not be
}

// triggerIn is a trigger as it is read. Empty is absent.
type triggerIn struct {
	ID          string                     `json:"id"`
	Name        string                     `json:"name"`
	AppID       string                     `json:"app_id"`
	FnID        string                     `json:"fn_id"`
	CreatedAt   stamp                      `json:"created_at"`
	UpdatedAt   stamp                      `json:"updated_at"`
	Type        string                     `json:"type"`
	Source      string                     `json:"source"`
	Annotations map[string]json.RawMessage `json:"annotations"`
}

// triggerByID is the trigger with this ID.
func (s *Server) triggerByID(id string) (faas.Trigger, error) {
	t, err := s.Catalog.Trigger(id)
	if err != nil {
		return t, errNoTrigger
	}
	return t, nil
}

func (s *Server) listTriggers(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if q.Get("app_id") == "" {
		return invalid("Missing App ID on Trigger")
	}
	p, err := definition.PageOf(q, definition.DecodeName)
	if err != nil {
		return err
	}
	fnID, name, base := q.Get("fn_id"), q.Get("name"), s.base(r)
	var triggers iter.Seq[faas.Trigger] = func(yield func(faas.Trigger) bool) {
		for t := range s.Catalog.TriggersAfter(q.Get("app_id"), p.After) {
			if (fnID == "" || t.Function == fnID) && (name == "" || t.Name == name) && !yield(t) || name != "" && t.Name > name {
				return
			}
		}
	}
	return answer(w, listed(triggers, p.Limit, func(t faas.Trigger) wireTrigger { return s.wireOfTriggerAt(t, base) }, s.triggerCursor))
}

// triggerCursor is the cursor behind t: its name, and its ID if there are others of
// that name behind it, of other functions.
func (s *Server) triggerCursor(t faas.Trigger) string {
	place := t.Name + "\x00" + t.ID
	for next := range s.Catalog.TriggersAfter(t.App, place) {
		if next.Name == t.Name {
			return definition.NameCursor(place)
		}
		break
	}
	return definition.NameCursor(t.Name)
}

func (s *Server) getTrigger(w http.ResponseWriter, r *http.Request) error {
	t, err := s.triggerByID(r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, s.wireOfTriggerAt(t, s.base(r)))
}

// triggerBySource finds a trigger by its source, with or without the "/" with which
// that begins.
func (s *Server) triggerBySource(w http.ResponseWriter, r *http.Request) error {
	app, source := r.PathValue("app"), r.PathValue("source")
	err := error(errNoTrigger)
	var t faas.Trigger
	if strings.HasPrefix(source, "/") {
		t, err = s.Catalog.TriggerBySource(app, source)
	}
	if err != nil {
		t, err = s.Catalog.TriggerBySource(app, "/"+source)
	}
	if err != nil || r.PathValue("type") != t.Type {
		return errNoTrigger
	}
	return answer(w, wireOfTrigger(t))
}

func (s *Server) createTrigger(w http.ResponseWriter, r *http.Request) error {
	var in triggerIn
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if err := in.checkNew(); err != nil {
		return err
	}
	t, err := s.mergedTrigger(faas.Trigger{ID: faas.NewID(), App: in.AppID, Type: in.Type}, in, true)
	if err != nil {
		return err
	}
	if t, err = s.putTrigger(r, t, store.IfNew); err != nil {
		return err
	}
	return answer(w, s.wireOfTriggerAt(t, s.base(r)))
}

// checkNew looks at what a new trigger must have.
func (in triggerIn) checkNew() error {
	switch {
	case in.ID != "":
		return invalid("ID cannot be provided for Trigger creation")
	case !in.CreatedAt.IsZero():
		return invalid("Trigger Created At Provided for Create")
	case !in.UpdatedAt.IsZero():
		return invalid("Trigger ID Provided for Create")
	case in.Name == "":
		return invalid("Missing name on Trigger")
	case in.AppID == "":
		return invalid("Missing App ID on Trigger")
	case in.FnID == "":
		return invalid("Missing Fn ID on Trigger")
	case in.Type != faas.TriggerHTTP:
		return invalid("Trigger Type Not Supported")
	case in.Source == "":
		return invalid("Missing Trigger Source")
	}
	return nil
}

// updateTrigger ignores a type and an app_id: clients send whole objects back.
func (s *Server) updateTrigger(w http.ResponseWriter, r *http.Request) error {
	var in triggerIn
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	id := r.PathValue("id")
	if in.ID != "" && in.ID != id {
		return invalid("ID in path does not match ID in body")
	}
	t, err := definition.Update(r.Context(), func() (faas.Trigger, error) { return s.triggerByID(id) },
		func(t faas.Trigger) (faas.Trigger, error) { return s.mergedTrigger(t, in, false) },
		func(t faas.Trigger) (faas.Trigger, error) { return s.putTrigger(r, t, t.Revision) })
	if err != nil {
		return err
	}
	return answer(w, wireOfTrigger(t))
}

// mergedTrigger is t with what in names.
func (s *Server) mergedTrigger(t faas.Trigger, in triggerIn, isNew bool) (_ faas.Trigger, err error) {
	switch {
	case utf8.RuneCountInString(in.Name) > faas.MaxNameLength:
		return t, invalid("Trigger name must be 255 characters or less")
	case !definition.IsWord(in.Name):
		return t, invalid("Invalid name for Trigger")
	case in.Source != "" && !strings.HasPrefix(in.Source, "/"):
		return t, invalid("Missing Trigger Source Prefix '/'")
	}
	if in.Name != "" {
		t.Name = in.Name
	}
	if in.Source != "" {
		t.Source = in.Source
	}
	if t.Annotations, err = mergedAnnotations(t.Annotations, in.Annotations, isNew); err != nil {
		return t, err
	}
	if in.FnID == "" {
		return t, nil
	}
	if _, err := s.app(t.App); err != nil {
		return t, err
	}
	fn, err := s.fn(in.FnID)
	if err != nil {
		return t, err
	}
	if fn.App != t.App {
		return t, invalid("Invalid Fn ID - not owned by specified app")
	}
	t.Function = fn.ID
	return t, nil
}

// putTrigger puts t. Its Conflict is one of the revision.
func (s *Server) putTrigger(r *http.Request, t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	put, err := s.Catalog.PutTrigger(r.Context(), t, ifRevision)
	switch kind := faas.KindOf(err); {
	case errors.Is(err, faas.ErrSourceTaken):
		return put, errSourceTaken
	case kind == faas.Conflict && (ifRevision == store.IfNew || s.nameTaken(t)):
		return put, errTriggerExists
	case kind == faas.NotFound && ifRevision == store.IfNew:
		return put, errNoFn // gone just now, or its app
	case kind == faas.NotFound:
		return put, errNoTrigger // and with them the trigger
	}
	return put, err
}

// nameTaken reports whether another trigger of the function has the name of t.
func (s *Server) nameTaken(t faas.Trigger) bool {
	for other := range s.Catalog.TriggersOf(t.Function) {
		if other.Name == t.Name && other.ID != t.ID {
			return true
		}
	}
	return false
}

func (s *Server) deleteTrigger(w http.ResponseWriter, r *http.Request) error {
	err := s.Catalog.DeleteTrigger(r.Context(), r.PathValue("id"))
	if faas.KindOf(err) == faas.NotFound {
		return errNoTrigger
	}
	if err != nil {
		return err
	}
	return done(w)
}
