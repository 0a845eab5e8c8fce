package fnv2

import (
	"net/http"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/buffered"
)

// trigger calls the function that a path below /t/ leads to.
func (s *Server) trigger(w http.ResponseWriter, r *http.Request) error {
	name, source, _ := calledSource(r.URL.Path)
	body, err := s.body(w, r)
	if err != nil {
		return err
	}
	app, err := s.Catalog.App(name)
	if err != nil {
		return errNoApp
	}
	_, written, _ := calledSource(r.URL.EscapedPath())
	to, err := buffered.Find(s.Catalog, app, source, written, s.Patterns)
	if err != nil {
		return errNoTrigger
	}
	return s.follow(w, r, app, &to, body)
}

// follow makes a call of an app through the trigger that was found.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, app faas.App, to *buffered.Route, body *buffered.Body) error {
	if err := to.Admit(w, r, s.TokenKey); err != nil {
		return fault{http.StatusUnauthorized, err.Error()}
	}
	c, err := s.newCall(r, app, to.Function, body)
	if err != nil {
		return err
	}
	if to.Trigger.Async {
		if c.priority, c.delay, err = api.Queueing(r.Header); err != nil {
			return err
		}
	}
	c.header, c.mapped = to.Trigger.Header, to.Describe(c.req, r)
	if to.Trigger.Async {
		return s.detach(w, r, &c)
	}
	return s.run(w, r, &c)
}
