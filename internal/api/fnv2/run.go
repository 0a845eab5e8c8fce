package fnv2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/invoke"
)

// Headers of calls.
const (
	headerCall     = "Fn-Call-Id"     // on every answer that is about a call
	headerType     = "Fn-Invoke-Type" // of /invoke: "detached", or "sync"
	headerDryRun   = "Is-Dry-Run"     // of /invoke
	headerKey      = "Idempotency-Key"
	headerReplayed = invoke.HeaderReplayed
)

// invoke calls the function whose ID is in the path.
func (s *Server) invoke(w http.ResponseWriter, r *http.Request) error {
	id, _ := invokedFn(r.URL.Path)
	body, err := s.body(w, r)
	if err != nil {
		return err
	}
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
	detached := r.Header.Get(headerType) == "detached"
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
	app    faas.App
	fn     faas.Function
	req    *faas.Request
	body   *payload
	mapped bool // the function is told of an HTTP request in Fn's headers, and answers in them
}

// newCall makes a call of what a request brings. Its header is the function's from
// then on.
func (s *Server) newCall(r *http.Request, app faas.App, fn faas.Function, body *payload) (call, error) {
	key := ""
	if given := r.Header[headerKey]; given != nil {
		if key = given[0]; len(given) > 1 || !api.IsKey(key) {
			return call{}, invalid(fmt.Sprintf("Invalid header %s: one of 1 to %d visible ASCII characters is wanted", headerKey, api.MaxKey))
		}
	}
	dropHops(r.Header)
	return call{app: app, fn: fn, body: body, req: &faas.Request{
		Method: r.Method, URL: api.URL(r), Caller: api.Caller(r), Header: r.Header, Body: body, Size: r.ContentLength,
		MaxHeader: s.MaxResponseHeader, Key: key,
	}}, nil
}

// run makes a call and gives its caller the answer.
func (s *Server) run(w http.ResponseWriter, r *http.Request, c *call) error {
	record := invoke.NewCall(c.app, c.fn, faas.CallSync)
	made := record.ID
	if c.req.Key != "" { // the body is kept before the function has any of it
		c.body.ReadCloser = api.Steady(w, c.body.ReadCloser)
	}
	answer := s.hold(w, r)
	defer answer.release()
	if c.fn.Format == faas.FormatHTTPStream { // as a Fn server: its type is guessed if it gives none
		answer.header["Content-Type"] = untyped
	}
	err := s.Caller.Call(r.Context(), c.fn, record, c.req, answer)
	if !record.Started.IsZero() && !c.body.over && c.body.left() {
		limitSender(w, r)
	} else if err != nil && c.body.asked {
		hearOut(w, r)
	}
	if record.ID != made {
		w.Header().Set(headerReplayed, "true")
	}
	if err == nil {
		err = answer.send(record.ID, c.mapped)
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, faas.ErrKeyReused) { // else there is none
		w.Header().Set(headerCall, record.ID)
	}
	switch {
	case answer.over:
		err = errAnswerBody
	case c.body.over:
		err = errTooLarge
	case c.body.broken != nil:
		err = errChunks(c.body.broken)
	}
	return s.failed(w, r, c.fn, record, err)
}

// detach accepts a call that nobody waits for.
func (s *Server) detach(w http.ResponseWriter, r *http.Request, c *call) error {
	record := invoke.NewCall(c.app, c.fn, faas.CallAsync)
	c.body.ReadCloser = api.Steady(w, c.body.ReadCloser)
	kept, err := s.Caller.Enqueue(r.Context(), c.fn, record, c.req, -1)
	if err != nil && c.body.asked {
		hearOut(w, r)
	}
	switch {
	case err != nil && c.body.over:
		return errTooLarge
	case err != nil && c.body.broken != nil:
		return errChunks(c.body.broken)
	case err != nil:
		return s.failed(w, r, c.fn, record, err)
	}
	h := w.Header()
	h.Set(headerCall, kept.ID)
	if kept.ID != record.ID {
		h.Set(headerReplayed, "true")
	}
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
	if !c.body.waits {
		hearOut(w, r)
	}
	w.WriteHeader(status)
	return nil
}

// payload is the body of a call. It remembers what is wrong with it, which who reads
// it says in words of its own.
type payload struct {
	io.ReadCloser
	size   int64 // -1: not known
	read   int64
	ended  bool
	waits  bool // the client does, to be asked for it
	asked  bool
	over   bool
	broken error // of its chunks, if it has come in such
}

func (p *payload) Read(b []byte) (int, error) {
	p.asked = true
	n, err := p.ReadCloser.Read(b)
	p.read += int64(n)
	p.ended = err == io.EOF
	if err != nil && err != io.EOF {
		if _, p.over = errors.AsType[*http.MaxBytesError](err); !p.over && isMalformed(err) {
			p.broken = err
		}
	}
	return n, err
}

// left reports whether some of it was not read. Whoever asks has waited for who reads.
func (p *payload) left() bool { return !p.ended && p.read != p.size }

// isMalformed reports whether err, of reading a body, is about what has come. net/http
// has no type for such errors: they are those that no connection and no end has.
func isMalformed(err error) bool {
	_, ofConn := errors.AsType[net.Error](err)
	return !ofConn && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) &&
		!errors.Is(err, http.ErrBodyReadAfterClose) && !errors.Is(err, http.ErrHijacked) && !errors.Is(err, context.Canceled)
}

func errChunks(err error) fault { return invalid("Invalid request body: " + err.Error()) }

// body is the body of r, which ends with an error above the limit. One whose length
// says that it is larger is refused at once.
func (s *Server) body(w http.ResponseWriter, r *http.Request) (*payload, error) {
	p, limit := &payload{ReadCloser: r.Body, size: r.ContentLength, waits: waits(r)}, int64(s.MaxRequest)
	if limit <= 0 {
		return p, nil
	}
	if r.ContentLength > limit {
		return nil, fault{http.StatusRequestEntityTooLarge, fmt.Sprintf("Content-Length too large for this server, %d > max %d", r.ContentLength, limit)}
	}
	p.ReadCloser = http.MaxBytesReader(w, r.Body, limit)
	return p, nil
}

// waits reports whether the client of r sends its body when it is asked for it.
func waits(r *http.Request) bool { return r.Header["Expect"] != nil }

// hearOut takes what the client of r still sends of a body that nobody wants: else
// it would find its connection closed, and not the answer.
func hearOut(w http.ResponseWriter, r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody {
		api.HearOut(w, r)
		r.Body = http.NoBody // once is enough
	}
}

// restTime is how long the client of a call that is over may rest in its body.
const restTime = 10 * time.Second

// limitSender bounds how long net/http waits, before it answers, for the rest of a
// body that is not large. It is not for every call: a deadline wakes whoever waits for
// the network, to be told of an earlier one. The answer of a call does not wait for all of one that is.
func limitSender(w http.ResponseWriter, r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(restTime)) // not every writer has one
		r.Body = http.NoBody
	}
}
