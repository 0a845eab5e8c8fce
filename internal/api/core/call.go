package core

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/invoke"
)

// Headers of an answer to a call that are ours, whatever the function says.
const (
	headerCall  = "Hob-Call"  // id of the call
	headerFault = "Hob-Fault" // Kind of a failure that we tell; an answer without it is the function's own
)

// callPath is where a function is called, with a rest behind it or without.
const callPath = "/api/apps/{app}/functions/{function}/call"

// callMethods are those that openapi.json names. A function may be called with
// any other, too: what is allowed is for it to say.
var callMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// IsCall reports whether r calls a function. Such a request must reach Handler
// as it came, past an http.ServeMux, which takes the paths of functions for its
// own and cleans them.
func IsCall(r *http.Request) bool {
	_, is := targetOf(r.URL)
	return is
}

// target is what a call is asked for.
type target struct {
	app, function string
	path          string // behind the call, with its query: "/users/1?all=1"
}

// targetOf reads the path of a call. What stands behind it goes to the function
// as it was written: escaped, with dots and empty segments.
func targetOf(u *url.URL) (t target, is bool) {
	rest, ok := strings.CutPrefix(u.EscapedPath(), "/api/apps/")
	if !ok {
		return target{}, false
	}
	var names [2]string
	for i, next := range []string{"functions/", "call"} {
		name, behind, _ := strings.Cut(rest, "/")
		var err error
		if names[i], err = url.PathUnescape(name); err != nil || name == "" {
			return target{}, false
		}
		if rest, ok = strings.CutPrefix(behind, next); !ok {
			return target{}, false
		}
	}
	if rest != "" && rest[0] != '/' {
		return target{}, false
	}
	t = target{app: names[0], function: names[1], path: "/" + strings.TrimPrefix(rest, "/")}
	if u.RawQuery != "" || u.ForceQuery {
		t.path += "?" + u.RawQuery
	}
	return t, true
}

// call runs a function on the body of the request. The id of the call is in the
// header of every answer, also of the ones that tell of a failure.
func (s *Server) call(w http.ResponseWriter, r *http.Request) error {
	if s.NoCalls {
		return errNoCalls
	}
	t, _ := targetOf(r.URL)
	app, err := s.Catalog.App(t.app)
	if err != nil {
		return err
	}
	fn, err := s.Catalog.Function(t.app, t.function)
	if err != nil {
		return err
	}
	a, err := askOf(r.Header)
	if err != nil {
		return err
	}
	kind := faas.CallSync
	if a.async {
		kind = faas.CallAsync
	}
	call := invoke.NewCall(app, fn, kind)
	if !a.async { // which may never be one
		w.Header().Set(headerCall, call.ID)
	}
	body := r.Body
	if s.MaxPayload > 0 {
		if r.ContentLength > int64(s.MaxPayload) {
			if r.Header.Get("Expect") == "" { // else the client waits to be asked for it
				api.HearOut(w, r)
			}
			return faas.Errorf(faas.TooLarge, "the payload of %v is over the limit of %v", faas.Bytes(r.ContentLength), s.MaxPayload)
		}
		body = http.MaxBytesReader(w, body, int64(s.MaxPayload)) // whoever reads it says that it is too large
	}
	if a.async || a.key != "" { // it is kept before the function has any of it
		body = api.Steady(w, body)
	}
	r.Header.Del("Expect") // it was between the client and this server
	req := &faas.Request{Method: r.Method, URL: api.URL(r), Target: t.path, Caller: api.Caller(r), Header: r.Header, Body: body, Size: r.ContentLength, Key: a.key}
	if a.async {
		return s.enqueue(w, r, fn, call, req, a)
	}
	out := &begun{ResponseWriter: w, call: call, id: call.ID}
	err = s.Caller.Call(r.Context(), fn, call, req, out)
	switch {
	case err == nil:
	case out.is:
		panic(http.ErrAbortHandler) // half an answer must not pass for a whole one
	case errors.Is(err, faas.ErrKeyReused):
		w.Header().Del(headerCall) // there is none
	default:
		out.name()
	}
	return err
}

// begun remembers whether the answer is on its way, and keeps the headers that
// are ours from the function.
type begun struct {
	http.ResponseWriter
	call *faas.Call // another one's answer is given if it has another ID by now: its key is the same
	id   string     // that call had when the request came
	is   bool
}

// begin is called before the head of the answer is written.
func (b *begun) begin() {
	if !b.is {
		b.is = true
		b.name()
		delete(b.Header(), headerFault)
	}
}

// name says whose answer it is.
func (b *begun) name() {
	h := b.Header()
	if h.Get(headerCall) != b.call.ID {
		h.Set(headerCall, b.call.ID)
	}
	if b.call.ID != b.id {
		h.Set(headerReplayed, "true")
	}
}

// WriteHeader begins the answer, unless it is told only that one will come.
func (b *begun) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		b.begin()
	}
	b.ResponseWriter.WriteHeader(status)
}

func (b *begun) Write(p []byte) (int, error) {
	b.begin()
	return b.ResponseWriter.Write(p)
}

// FlushError implements flushing for http.ResponseController.
func (b *begun) FlushError() error {
	b.begin()
	return http.NewResponseController(b.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker. What is written from then on is not ours.
func (b *begun) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(b.ResponseWriter).Hijack()
	b.is = b.is || err == nil
	return conn, buf, err
}

// Unwrap lets http.ResponseController set deadlines, and send and receive at once.
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }
