package fnv2

import (
	"net/http"
	"net/textproto"
	"strings"

	"hob/faas"
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
	return s.route(w, r, app, source, written, body)
}

// route calls the function of an app that source leads to; written is source as the
// caller wrote it.
func (s *Server) route(w http.ResponseWriter, r *http.Request, app faas.App, source, written string, body *buffered.Body) error {
	to, err := buffered.Find(s.Catalog, app, source, written, s.Patterns)
	if err != nil {
		return errNoTrigger
	}
	c, err := s.newCall(r, app, to.Function, body)
	if err != nil {
		return err
	}
	c.req.Route, c.req.Params, c.req.Target = to.Trigger.Source, to.Params, buffered.Target(r, written)
	if c.mapped = c.fn.Format == faas.FormatHTTPStream; c.mapped { // others are given the request as it is
		c.req.Header = mapHeader(c.req)
	}
	return s.run(w, r, &c)
}

// headerParam is before the name of a parameter of the path, in the header of an
// HTTP request as the function is told of it.
const headerParam = "Param-"

// mapHeader is the header that tells a function of an HTTP request. Of a path with
// parameters no header of the caller can say what they are.
func mapHeader(req *faas.Request) http.Header {
	h := make(http.Header, len(req.Header)+len(req.Params)+3)
	for name, values := range req.Header {
		switch {
		case name == "Content-Type":
			h[name] = values
		case req.Params != nil && isParam(name):
		default:
			h[headerPrefix+name] = values
		}
	}
	ours := []string{req.Method, req.URL, "httprequest"}
	h["Fn-Http-Method"], h["Fn-Http-Request-Url"], h["Fn-Intent"] = ours[0:1:1], ours[1:2:2], ours[2:3:3]
	for name, value := range req.Params {
		if strings.ContainsFunc(name, notInHeader) {
			continue // the source is legal in Fn
		}
		h[textproto.CanonicalMIMEHeaderKey(headerPrefix+headerParam+name)] = []string{value}
	}
	return h
}

// notInHeader reports whether r cannot be in the name of the header of a parameter.
func notInHeader(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '*')
}

// isParam reports whether a header, however its dashes are written, has the name of
// a parameter: many programs take both for one.
func isParam(name string) bool {
	const n = len(headerParam)
	return len(name) >= n && strings.EqualFold(strings.ReplaceAll(name[:n], "_", "-"), headerParam)
}
