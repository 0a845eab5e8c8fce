package fnv2

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"hob/faas"
	"hob/internal/api/buffered"
)

// Hosted reports whether r was sent to the host name of an app: whatever its path
// is, it is a call of a function, and only HostHandler may answer it.
//
// The host name of an app is {app}.Domain, or one of its own (faas.AnnotationHosts).
// Port and case are ignored, and a dot at the end. A name below Domain that is no
// app's is one all the same, of an app that is not there. IP addresses, localhost and
// Hosts are the node's own.
func (s *Server) Hosted(r *http.Request) bool {
	_, hosted := s.host(r)
	return hosted
}

// host returns the app whose host name r was sent to; its ID is "" if it is not
// there.
func (s *Server) host(r *http.Request) (app faas.App, hosted bool) {
	name := hostName(r.Host)
	if name == "" || slices.ContainsFunc(s.Hosts, func(h string) bool { return strings.EqualFold(h, name) }) {
		return faas.App{}, false
	}
	lower := strings.ToLower(name)
	domain := strings.ToLower(strings.Trim(s.Domain, "."))
	label, within := strings.CutSuffix(lower, "."+domain)
	if within = within && domain != ""; within { // the name of an app is a stronger claim than what another app says
		if app, err := s.Catalog.AppFolded(label); err == nil {
			return app, true
		}
	}
	app, err := s.Catalog.AppByHost(lower)
	return app, err == nil || within
}

// hostName is the name in the Host header of a request; "" if it can be no app's.
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

// HostHandler answers what is Hosted. Nothing but the triggers of the app can be
// reached through it.
func (s *Server) HostHandler() http.Handler {
	return s.handler(func(w http.ResponseWriter, r *http.Request) error {
		if s.NoInvoke {
			return pathNotFound(r)
		}
		source, written := r.URL.Path, r.URL.EscapedPath()
		if source == "" { // of an absolute address without a path
			source, written = "/", "/"
		}
		app, _ := s.host(r)
		to, missing := buffered.Find(s.Catalog, app, source, written, s.Patterns)
		if missing == nil && to.Trigger.Convention == faas.ConventionFn && s.Route != nil {
			s.Route(w, r, app, &to)
			return nil
		}
		body, err := s.body(w, r)
		switch {
		case err != nil:
			return err
		case app.ID == "":
			return errNoApp
		case missing != nil:
			return errNoTrigger
		}
		return s.follow(w, r, app, &to, body)
	})
}
