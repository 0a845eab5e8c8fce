package fnv2

import (
	"net/http"
	"net/netip"
	"strings"

	"hob/faas"
	"hob/internal/api"
)

// Host returns the app whose host name r was sent to, and false if that is no app's:
// {app}.Domain, or a name of its own (faas.AnnotationHosts). Port and case are
// ignored, and a dot at the end. A name below Domain that is no app's is one all the
// same, of an app that is not there: its ID is "".
//
// Neither an IP address nor localhost is an app's. Who has other names that are the
// node's own looks at them before.
func (s *Server) Host(r *http.Request) (app faas.App, ok bool) {
	name := hostName(r.Host)
	if name == "" {
		return faas.App{}, false
	}
	lower := strings.ToLower(name)
	if app, err := s.Catalog.AppByHost(lower); err == nil {
		return app, true
	}
	domain := strings.ToLower(strings.Trim(s.Domain, "."))
	label, within := strings.CutSuffix(lower, "."+domain)
	if domain == "" || !within {
		return faas.App{}, false
	}
	app, err := s.Catalog.App(label)
	if err != nil { // its name may have capital letters
		app, _ = s.Catalog.App(name[:len(label)])
	}
	return app, true
}

// hostName is the name in the Host header of a request; "" if it names no app.
func hostName(host string) string {
	if strings.HasPrefix(host, "[") {
		return "" // an IPv6 address
	}
	name, _, _ := strings.Cut(host, ":")
	name = strings.TrimSuffix(name, ".")
	if _, err := netip.ParseAddr(name); err == nil || strings.EqualFold(name, "localhost") {
		return ""
	}
	return name
}

// HostHandler answers requests to the host names of apps (Host), whatever their
// path: it is the source of a trigger of the app.
func (s *Server) HostHandler() http.Handler {
	return s.handler(func(w http.ResponseWriter, r *http.Request) error {
		if s.NoInvoke {
			return pathNotFound(r)
		}
		body, err := s.body(w, r)
		if err != nil {
			return err
		}
		app, ok := s.Host(r)
		if !ok || app.ID == "" {
			return errNoApp
		}
		source, written := r.URL.Path, r.URL.EscapedPath()
		if source == "" { // of an absolute address without a path
			source, written = "/", "/"
		}
		return s.route(w, r, app, source, written, body)
	})
}
