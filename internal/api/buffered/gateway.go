package buffered

import (
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/invoke"
)

// Functions of format http-stream that a path leads to are told of the HTTP request in
// Fn's headers, and answer in them.

const (
	// headerPrefix is before the name of a header of an HTTP request, and of the
	// answer to it, between hob and the function.
	headerPrefix = "Fn-Http-H-"

	// headerParam is before the name of a parameter of the path, in the header of an
	// HTTP request as the function is told of it.
	headerParam = "Param-"

	// traceHeader is before the names of the headers that join calls to a trace (B3).
	traceHeader = "X-B3-"
)

// mapHeader is the header that tells a function of an HTTP request. Of a path with
// parameters no header of the caller can say what they are.
func mapHeader(req *faas.Request) http.Header {
	h := make(http.Header, len(req.Header)+len(req.Params)+3)
	for name, values := range req.Header {
		switch {
		case name == "Content-Type":
			h[name] = values
		case strings.HasPrefix(name, traceHeader): // who traces looks for it under its own name
			h[name], h[headerPrefix+name] = values, values
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

// Head gives to the header that the function has answered with, and returns its
// status. own is what the trigger sets; it is in to already (SetHeader), and the
// function adds to it. mapped is for a function that was told by mapHeader: a status
// of it that no answer can have is a FuncFailed that wraps faas.ErrStatus.
func (a *Answer) Head(to http.Header, own map[string][]string, mapped bool) (status int, err error) {
	if !mapped {
		for name, values := range a.header {
			give(to, own, name, values)
		}
		return max(a.status, http.StatusOK), nil
	}
	status = http.StatusOK
	if given := a.header["Fn-Http-Status"]; given != nil {
		if n, err := strconv.Atoi(given[0]); err == nil && n > 0 {
			status = n
		}
	}
	if status < 200 || status > 999 {
		return 0, faas.Errorf(faas.FuncFailed, "status %d: %w", status, faas.ErrStatus)
	}
	for name, values := range a.header {
		rest, mapped := strings.CutPrefix(name, headerPrefix)
		switch {
		case mapped && rest != "":
			give(to, own, rest, values)
		case name == "Content-Type" && a.header[headerPrefix+name] == nil:
			give(to, own, name, values)
		}
	}
	return status, nil
}

// SetHeader gives to the header that a trigger sets.
func SetHeader(to http.Header, own map[string][]string) {
	for name, values := range own {
		give(to, nil, name, slices.Clip(values))
	}
}

// give adds a header to the answer, unless it is about one connection, or ours. A
// header that own has, too, has both; an answer has one type only.
func give(to http.Header, own map[string][]string, name string, values []string) {
	switch {
	case isHop(name), name == "Content-Length", name == invoke.HeaderReplayed, name == api.RequestID, strings.HasPrefix(name, "Hob-"), strings.HasPrefix(name, http.TrailerPrefix):
	case name == "Content-Type" && len(values) == 0: // there may be one of the trigger
	case name == "Vary", own[name] != nil && name != "Content-Type": // there may be one of CORS
		to[name] = slices.Concat(to[name], values)
	default:
		to[name] = values
	}
}
