package ironv1

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/buffered"
	"hob/internal/invoke"
)

// Headers of answers to calls.
const (
	headerCall  = "Fn_call_id" // in both ways of writing
	headerCall2 = "Fn-Call-Id"
	headerWait  = "Xxx-Fxlb-Wait"
)

// calledRoute returns what the path /r/{app}[/{route...}] names: without a route it
// is "/".
func calledRoute(path string) (app, route string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/r/")
	app, route, _ = strings.Cut(rest, "/")
	return app, "/" + route, ok && app != ""
}

// call answers a request below /r.
func (s *Server) call(w http.ResponseWriter, r *http.Request) error {
	app, to, err := s.find(r)
	if err != nil {
		nameCall(w, faas.NewID())
		return err
	}
	return s.run(w, r, app, &to)
}

// find returns what the path of r leads to.
func (s *Server) find(r *http.Request) (app faas.App, to buffered.Route, err error) {
	name, source, ok := calledRoute(r.URL.Path)
	switch {
	case s.NoInvoke:
		return app, to, invalid("Invoking routes /r/ is not supported on nodes configured as type API")
	case !ok:
		return app, to, pathNotFound(r)
	}
	if app, err = s.Catalog.App(name); err != nil {
		return app, to, errNoApp
	}
	_, written, _ := calledRoute(r.URL.EscapedPath())
	to, err = buffered.Find(s.Catalog, app, source, written, s.Patterns)
	if clean := cleanPath(source); err != nil && clean != source { // as both systems read it
		to, err = buffered.Find(s.Catalog, app, clean, (&url.URL{Path: clean}).EscapedPath(), s.Patterns)
	}
	if err != nil {
		return app, to, errNoRoute
	}
	return app, to, nil
}

// Route answers a call of an app through a trigger that was found by other means than
// the path of this API.
func (s *Server) Route(w http.ResponseWriter, r *http.Request, app faas.App, to *buffered.Route) {
	s.handler(func(w http.ResponseWriter, r *http.Request) error { return s.run(w, r, app, to) }).ServeHTTP(w, r)
}

// nameCall names the call that an answer is about.
func nameCall(w http.ResponseWriter, id string) {
	h := w.Header()
	h[headerCall], h[headerCall2] = []string{id}, []string{id}
}

// run makes a call of an app through a trigger.
func (s *Server) run(w http.ResponseWriter, r *http.Request, app faas.App, to *buffered.Route) error {
	kind := faas.CallSync
	if to.Trigger.Async {
		kind = faas.CallAsync
	}
	record := invoke.NewCall(app, to.Function, kind)
	nameCall(w, record.ID)
	if err := to.Admit(w, r, s.TokenKey); err != nil {
		return fault{http.StatusUnauthorized, err.Error()}
	}
	body, err := s.body(w, r)
	if err != nil {
		return err
	}
	req, err := buffered.Request(r, body, s.MaxResponseHeader)
	if err != nil {
		return err
	}
	if to.Trigger.Async {
		return s.enqueue(w, r, to, record, req, body)
	}
	mapped := to.Describe(req, r)
	answer := buffered.Hold(w, r, s.Calls, s.MaxResponse, s.Room)
	defer answer.Release()
	answer.Untyped()
	h := w.Header()
	head := func() (int, error) {
		if !record.Started.IsZero() {
			buffered.SetHeader(h, to.Trigger.Header)
		}
		status, err := answer.Head(h, to.Trigger.Header, mapped)
		nameCall(w, record.ID) // it may be an earlier one by now
		if err == nil && len(h["Content-Type"]) == 0 && answer.BeginsWith('{') {
			h["Content-Type"] = typeJSON
		}
		return status, err
	}
	answer.Stream(to.Function.Format, head)
	err = answer.Exchange(s.Caller, to.Function, record, req, body)
	if answer.Streamed(err) {
		return nil
	}
	var status int
	if err == nil {
		status, err = head()
	} else if !record.Started.IsZero() && body.Sound() {
		buffered.SetHeader(h, to.Trigger.Header)
	}
	nameCall(w, record.ID)
	switch {
	case err == nil:
		answer.Send(status)
		return nil
	case answer.Over:
		err = errAnswerTooLarge
	}
	return s.failed(w, r, to.Function, record, body, err)
}

var typeJSON = []string{"application/json; charset=utf-8"}

// enqueue accepts a call that nobody waits for.
func (s *Server) enqueue(w http.ResponseWriter, r *http.Request, to *buffered.Route, record *faas.Call, req *faas.Request, body *buffered.Body) error {
	var delay time.Duration
	var err error
	if record.Priority, delay, err = api.Queueing(r.Header); err != nil {
		return err
	}
	to.Describe(req, r)
	kept, err := buffered.Accept(w, r, s.Caller, to.Function, record, req, body, delay)
	if err != nil {
		return s.failed(w, r, to.Function, record, body, err)
	}
	nameCall(w, kept.ID)
	return answer(w, http.StatusAccepted, struct {
		CallID string `json:"call_id"`
	}{kept.ID})
}

// body is what the function of r gets: the body of r, or, of a GET that has none, the
// parameter payload.
func (s *Server) body(w http.ResponseWriter, r *http.Request) (*buffered.Body, error) {
	if r.Method == http.MethodGet && r.ContentLength == 0 && strings.Contains(r.URL.RawQuery, "payload=") {
		payload := r.URL.Query().Get("payload")
		if s.MaxRequest > 0 && int64(len(payload)) > int64(s.MaxRequest) {
			return nil, errTooLarge
		}
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(payload)), int64(len(payload))
	}
	body, fits := buffered.BodyOf(w, r, s.MaxRequest)
	if !fits {
		return nil, errTooLarge
	}
	return body, nil
}

// waited is how long a call has waited for its turn.
func waited(call *faas.Call) string {
	end := call.Started
	if end.IsZero() {
		end = time.Now()
	}
	return fmt.Sprint(end.Sub(call.Queued))
}
