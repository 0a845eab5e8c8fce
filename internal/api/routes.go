package api

import (
	"net/http"
	"strings"
)

// Routes are the paths of an API whose paths no http.ServeMux can have: those that
// it takes for unclean, and of elements that are whatever the client likes. Paths are
// taken decoded: of "%2F" they make what they make of "/".
type Routes []route

type route struct {
	method string
	path   []string
	handle Handler
}

// Add adds a path whose elements are words, "{name}" for any one that is not empty,
// and at its end "{name...}" for all the rest, or nothing.
func (all *Routes) Add(method, path string, handle Handler) {
	*all = append(*all, route{method, strings.Split(path, "/"), handle})
}

// Find returns who answers r, whose path values are set then; nil if nobody does,
// and whether the path is known with other methods.
func (all Routes) Find(r *http.Request) (handle Handler, known bool) {
	elements := strings.Split(r.URL.Path, "/")
	for _, route := range all {
		if !route.match(elements) {
			continue
		}
		if route.method == r.Method {
			route.read(elements, r)
			return route.handle, true
		}
		known = true
	}
	return nil, known
}

func (t route) match(elements []string) bool {
	for i, want := range t.path {
		switch {
		case strings.HasSuffix(want, "...}"):
			return true
		case i == len(elements):
			return false
		case strings.HasPrefix(want, "{"):
			if elements[i] == "" {
				return false
			}
		case want != elements[i]:
			return false
		}
	}
	return len(t.path) == len(elements)
}

// read sets the path values of r. Precondition: t.match(elements).
func (t route) read(elements []string, r *http.Request) {
	for i, name := range t.path {
		if name, ok := strings.CutPrefix(name, "{"); ok {
			if rest, ok := strings.CutSuffix(name, "...}"); ok {
				r.SetPathValue(rest, strings.Join(elements[i:], "/"))
			} else {
				r.SetPathValue(strings.TrimSuffix(name, "}"), elements[i])
			}
		}
	}
}
