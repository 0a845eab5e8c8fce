package fnv2

import (
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"

	"hob/faas"
	"hob/internal/api/definition"
	"hob/internal/store"
)

// wireFn is a function as it is shown, whichever API has made it.
type wireFn struct {
	ID          string                     `json:"id"`
	Name        string                     `json:"name"`
	AppID       string                     `json:"app_id"`
	Image       string                     `json:"image"`
	Memory      uint64                     `json:"memory"`       // MB
	Timeout     int32                      `json:"timeout"`      // seconds
	IdleTimeout int32                      `json:"idle_timeout"` // seconds
	Config      map[string]string          `json:"config"`
	Annotations map[string]json.RawMessage `json:"annotations,omitempty"`
	Shape       string                     `json:"shape,omitempty"`
	CreatedAt   stamp                      `json:"created_at"`
	UpdatedAt   stamp                      `json:"updated_at"`
}

// wireOfFn shows fn; without a base it has no annotation of ours.
func wireOfFn(fn faas.Function, base string) wireFn {
	key := ""
	if base != "" {
		key = annotationInvoke
	}
	config := fn.Env
	if config == nil {
		config = map[string]string{}
	}
	return wireFn{
		ID: fn.ID, Name: fn.Name, AppID: fn.App, Image: fn.Image,
		Memory: definition.MemoryOf(fn), Timeout: definition.Seconds(fn.Timeout), IdleTimeout: definition.Seconds(fn.Idle), Config: config,
		Annotations: wireAnnotations(fn.Annotations, key, base+"/invoke/"+fn.ID), Shape: fn.Shape,
		CreatedAt: stamp{Time: fn.Created}, UpdatedAt: stamp{Time: fn.Updated},
	}
}

// fnIn is a function as it is read. Zero is absent.
type fnIn struct {
	ID          string                     `json:"id"`
	Name        string                     `json:"name"`
	AppID       string                     `json:"app_id"`
	Image       string                     `json:"image"`
	Memory      uint64                     `json:"memory"`
	Timeout     int32                      `json:"timeout"`
	IdleTimeout int32                      `json:"idle_timeout"`
	Config      map[string]string          `json:"config"`
	Annotations map[string]json.RawMessage `json:"annotations"`
	Shape       string                     `json:"shape"`
	CreatedAt   stamp                      `json:"created_at"` // looked at by nobody, but a time it must be
	UpdatedAt   stamp                      `json:"updated_at"`
}

// maxTimeout is the most seconds that a function may run.
const maxTimeout = 300

// fn is the function with this ID.
func (s *Server) fn(id string) (faas.Function, error) {
	fn, err := s.Catalog.FunctionByID(id)
	if err != nil {
		return fn, errNoFn
	}
	return fn, nil
}

func (s *Server) listFns(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	appID := q.Get("app_id")
	if appID == "" {
		return invalid("Missing AppID on Fn")
	}
	p, err := definition.PageOf(q, definition.DecodeName)
	if err != nil {
		return err
	}
	var fns iter.Seq[faas.Function]
	if name := q.Get("name"); name != "" {
		app, _ := s.Catalog.AppByID(appID) // without a name it has no function
		fn, err := s.Catalog.Function(app.Name, name)
		fns = only(fn, err, name, p.After)
	} else {
		fns = s.Catalog.FunctionsAfter(appID, p.After)
	}
	base := s.base(r)
	return answer(w, listed(fns, p.Limit, func(fn faas.Function) wireFn { return wireOfFn(fn, base) },
		func(fn faas.Function) string { return definition.NameCursor(fn.Name) }))
}

func (s *Server) getFn(w http.ResponseWriter, r *http.Request) error {
	fn, err := s.fn(r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, wireOfFn(fn, s.base(r)))
}

func (s *Server) createFn(w http.ResponseWriter, r *http.Request) error {
	var in fnIn
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if err := in.checkNew(); err != nil {
		return err
	}
	fn := faas.Function{
		ID: faas.NewID(), App: in.AppID, Name: in.Name, Address: faas.NewUUID(),
		Format: faas.FormatHTTPStream, Profile: faas.ProfileFn, User: "1000:1000", Env: in.Config,
		Memory: faas.DefaultMemory, TmpSize: faas.DefaultMemory, Timeout: faas.DefaultTimeout, Wait: faas.DefaultTimeout,
	}
	fn, err := s.mergedFn(fn.WithDefaults(), in, true)
	if err != nil {
		return err
	}
	app, err := s.app(in.AppID)
	if err != nil {
		return err
	}
	if _, err := s.Catalog.Function(app.Name, fn.Name); err == nil {
		return errFnExists
	}
	fn, err = s.Catalog.PutFunction(r.Context(), fn, store.IfNew)
	switch faas.KindOf(err) {
	case faas.OK:
		return answer(w, wireOfFn(fn, s.base(r)))
	case faas.Conflict:
		return errFnExists // somebody else was first
	case faas.NotFound:
		return errNoApp
	}
	return err
}

// checkNew looks at what a change cannot change.
func (in fnIn) checkNew() error {
	switch {
	case in.ID != "":
		return invalid("ID cannot be provided for Fn creation")
	case in.Name == "":
		return invalid("Missing Fn name")
	case utf8.RuneCountInString(in.Name) > faas.MaxNameLength:
		return invalid("Fn name must be 255 characters or less")
	case url.PathEscape(in.Name) != in.Name:
		return invalid("name must be a valid string")
	case in.AppID == "":
		return invalid("Missing AppID on Fn")
	case in.Image == "":
		return invalid("Missing image on Fn")
	}
	return nil
}

// updateFn ignores a name and an app_id: clients send whole objects back.
func (s *Server) updateFn(w http.ResponseWriter, r *http.Request) error {
	var in fnIn
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	id := r.PathValue("id")
	if in.ID != "" && in.ID != id {
		return invalid("Fn ID in path does not match that in body")
	}
	fn, err := definition.Update(r.Context(), func() (faas.Function, error) { return s.fn(id) }, func(fn faas.Function) (faas.Function, error) {
		fn.Env = definition.MergedConfig(fn.Env, in.Config)
		return s.mergedFn(fn, in, false)
	}, func(fn faas.Function) (faas.Function, error) {
		put, err := s.Catalog.PutFunction(r.Context(), fn, fn.Revision)
		if faas.KindOf(err) == faas.NotFound {
			return put, errNoFn // gone just now, with its app
		}
		return put, err
	})
	if err != nil {
		return err
	}
	return answer(w, wireOfFn(fn, ""))
}

// mergedFn is fn with what in names, but for the config. An image that is named is
// looked up anew: what its name means here now is what is run.
func (s *Server) mergedFn(fn faas.Function, in fnIn, isNew bool) (_ faas.Function, err error) {
	switch {
	case in.Timeout < 0 || in.Timeout > maxTimeout:
		return fn, invalid("timeout value is out of range, must be between 0 and 300")
	case in.IdleTimeout < 0 || in.IdleTimeout > definition.MaxIdle:
		return fn, invalid("idle_timeout value is out of range, must be between 0 and 3600")
	case in.Memory > definition.MaxMemory:
		return fn, invalid("memory value is out of range. It should be between 0 and 8192")
	case faas.CheckShape(in.Shape) != nil:
		return fn, invalid("Invalid app shape")
	}
	if in.Timeout != 0 {
		timeout := time.Duration(in.Timeout) * time.Second
		if fn.Wait == fn.Timeout { // as this API has made it
			fn.Wait = timeout
		}
		fn.Timeout = timeout
	}
	if in.IdleTimeout != 0 {
		fn.Idle = time.Duration(in.IdleTimeout) * time.Second
	}
	if in.Memory != 0 {
		definition.SetMemory(&fn, in.Memory)
	}
	if in.Shape != "" {
		fn.Shape = in.Shape
	}
	if fn.Annotations, err = mergedAnnotations(fn.Annotations, in.Annotations, isNew); err != nil {
		return fn, err
	}
	if in.Image != "" {
		fn.Image = in.Image
		fn.Digest, err = s.Images.Local(in.Image)
		if faas.KindOf(err) == faas.Invalid {
			return fn, invalid("Invalid Fn image")
		}
	}
	return fn, err
}

// deleteFn removes a function. Its calls go as those of deleteApp.
func (s *Server) deleteFn(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	err := s.Catalog.DeleteFunction(r.Context(), id)
	if faas.KindOf(err) == faas.NotFound {
		return errNoFn
	}
	if err != nil {
		return err
	}
	s.Logs.Forget(id)
	return done(w)
}
