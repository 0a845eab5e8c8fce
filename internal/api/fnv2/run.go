package fnv2

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"hob/faas"
	"hob/internal/api/buffered"
	"hob/internal/invoke"
)

// Headers of calls.
const (
	headerCall   = "Fn-Call-Id"     // on every answer that is about a call
	headerType   = "Fn-Invoke-Type" // of /invoke: "detached", or "sync"
	headerDryRun = "Is-Dry-Run"     // of /invoke
)

// invoke calls the function whose ID is in the path.
func (s *Server) invoke(w http.ResponseWriter, r *http.Request) error {
	id, _ := invokedFn(r.URL.Path)
	body, err := s.body(w, r)
	if err != nil {
		return err
	}
	return s.invokeFn(w, r, id, r.Header.Get(headerType) == "detached", body)
}

// invokeFn calls the function with this ID.
func (s *Server) invokeFn(w http.ResponseWriter, r *http.Request, id string, detached bool, body *buffered.Body) error {
	fn, err := s.Catalog.FunctionByID(id)
	if err != nil {
		return errNoFn
	}
	app, err := s.Catalog.AppByID(fn.App)
	if err != nil {
		return errNoFn
	}
	dry, err := dryRun(r.Header)
	if err != nil {
		return err
	}
	c, err := s.newCall(r, app, fn, body)
	if err != nil {
		return err
	}
	c.req.Target = "/"
	switch {
	case dry:
		return s.rehearse(w, r, &c, detached)
	case detached:
		return s.detach(w, r, &c)
	}
	return s.run(w, r, &c)
}

// call is one that is about to be made.
type call struct {
	app      faas.App
	fn       faas.Function
	req      *faas.Request
	body     *buffered.Body
	header   map[string][]string // of its trigger, for the answer
	mapped   bool                // the function answers in Fn's headers for an HTTP request
	priority int                 // of one that is detached
	delay    time.Duration       // the same; below 0: the function's
}

// newCall makes a call of what a request brings. Its header is the function's from
// then on.
func (s *Server) newCall(r *http.Request, app faas.App, fn faas.Function, body *buffered.Body) (call, error) {
	req, err := buffered.Request(r, body, s.MaxResponseHeader)
	return call{app: app, fn: fn, body: body, req: req, delay: -1}, err
}

// run makes a call and gives its caller the answer.
func (s *Server) run(w http.ResponseWriter, r *http.Request, c *call) error {
	record := invoke.NewCall(c.app, c.fn, faas.CallSync)
	answer := buffered.Hold(w, r, s.Calls, s.MaxResponse, s.Room)
	defer answer.Release()
	if c.fn.Format == faas.FormatHTTPStream { // as a Fn server: its type is guessed if it gives none
		answer.Untyped()
	}
	h := w.Header()
	head := func() (status int, err error) {
		if !record.Started.IsZero() {
			buffered.SetHeader(h, c.header)
		}
		if status, err = answer.Head(h, c.header, c.mapped); err == nil {
			h[headerCall] = []string{record.ID}
		}
		return status, err
	}
	answer.Stream(c.fn.Format, head)
	err := answer.Exchange(s.Caller, c.fn, record, c.req, c.body)
	if answer.Streamed(err) {
		return nil
	}
	if err == nil {
		var status int
		if status, err = head(); err == nil {
			answer.Send(status)
			return nil
		}
	} else if !record.Started.IsZero() && c.body.Sound() {
		buffered.SetHeader(h, c.header)
	}
	if !errors.Is(err, faas.ErrKeyReused) { // else there is none
		h.Set(headerCall, record.ID)
	}
	switch {
	case answer.Over:
		err = errAnswerBody
	case c.body.Over:
		err = errTooLarge
	case c.body.Broken != nil:
		err = errChunks(c.body.Broken)
	}
	return s.failed(w, r, c.fn, record, err)
}

// detach accepts a call that nobody waits for.
func (s *Server) detach(w http.ResponseWriter, r *http.Request, c *call) error {
	record := invoke.NewCall(c.app, c.fn, faas.CallAsync)
	record.Priority = c.priority
	kept, err := buffered.Accept(w, r, s.Caller, c.fn, record, c.req, c.body, c.delay)
	switch {
	case err != nil && c.body.Over:
		return errTooLarge
	case err != nil && c.body.Broken != nil:
		return errChunks(c.body.Broken)
	case err != nil:
		return s.failed(w, r, c.fn, record, err)
	}
	w.Header().Set(headerCall, kept.ID)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// dryRun reports whether a call is only to be tried.
func dryRun(h http.Header) (bool, error) {
	given := h.Get(headerDryRun)
	if given == "" {
		return false, nil
	}
	dry, err := strconv.ParseBool(given)
	if err != nil {
		return false, invalid(fmt.Sprintf("Invalid header %s: %q is neither true nor false", headerDryRun, given))
	}
	return dry, nil
}

// rehearse answers for a call as it would begin, and makes none.
func (s *Server) rehearse(w http.ResponseWriter, r *http.Request, c *call, detached bool) error {
	if c.fn.Digest == "" && s.Images != nil { // it is pulled by the first call
		if _, err := s.Images.Local(c.fn.Image); err != nil {
			return err
		}
	}
	status := http.StatusOK
	if detached {
		status = http.StatusAccepted
	}
	if !c.body.Waits {
		buffered.HearOut(w, r)
	}
	w.WriteHeader(status)
	return nil
}

func errChunks(err error) fault { return invalid("Invalid request body: " + err.Error()) }

// body is the body of r, which ends with an error above the limit. One whose length
// says that it is larger is refused at once.
func (s *Server) body(w http.ResponseWriter, r *http.Request) (*buffered.Body, error) {
	body, fits := buffered.BodyOf(w, r, s.MaxRequest)
	if !fits {
		return nil, fault{http.StatusRequestEntityTooLarge, fmt.Sprintf("Content-Length too large for this server, %d > max %d", r.ContentLength, int64(s.MaxRequest))}
	}
	return body, nil
}
