package api

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"hob/faas"
)

// RequestID is the header of answers that names their request. What a client sends in
// a header of this name is the function's.
const RequestID = "Request-Id"

// Identify gives every request an ID that clients cannot choose. What they name it
// themselves, in the header called name, is logged with that ID; an empty name is no
// header.
func Identify(next http.Handler, name string, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := faas.NewID()
		w.Header().Set(RequestID, id)
		if name != "" && r.Header.Get(name) != "" {
			log.InfoContext(r.Context(), "request", "request", id, "named", r.Header.Get(name), "method", r.Method)
		}
		next.ServeHTTP(w, r)
	})
}

// Guard keeps web pages, and with a Key all who have no token, away from what manages
// the node. A browser can be made to send requests to any address its user can reach;
// Guard refuses those that name a host that is not this node (so that no page can point
// its own name here), and those that a page of another origin sends, unless CORS names it.
type Guard struct {
	Hosts []string // names, without port, that a Host header may have besides loopback
	CORS  CORS     // pages of the origins that it names, without *, may manage the node
	Key   string   // of the token that every request has to bear (CheckToken); "": it needs none
	Basic bool     // the token may also be the password of Basic authentication, and is asked for so

	Acts func(*http.Request) bool // whether a request changes something though its method says that it does not; nil: none does
}

// Wrap refuses with body what Guard does not let through, and passes the rest on. Who
// has no token is answered with 401.
func (g Guard) Wrap(next http.Handler, body FaultBody) http.Handler {
	origin, trusts := http.NewCrossOriginProtection(), g.CORS.trusts()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := g.checkHost(r.Host)
		checked := r
		if g.Acts != nil && g.Acts(r) {
			as := *r
			as.Method = http.MethodPost // pages may send all that only reads
			checked = &as
		}
		if err == nil && origin.Check(checked) != nil && !trusts(r) {
			err = faas.Errorf(faas.Denied, "a web page of another origin may not manage this node, unless the setting cors-origins names it, without *")
		}
		if err != nil {
			refuse(w, r, body, Status(err), err)
			return
		}
		if err := g.checkToken(r); err != nil {
			w.Header().Set("WWW-Authenticate", g.challenge())
			refuse(w, r, body, http.StatusUnauthorized, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, r *http.Request, body FaultBody, status int, err error) {
	if r.Header["Expect"] == nil { // else the client is not asked for its body
		HearOut(w, r)
	}
	body(w, Fault{Status: status, Kind: faas.KindOf(err), Message: err.Error(), Request: w.Header().Get(RequestID)})
}

// checkToken looks for the token of r.
func (g Guard) checkToken(r *http.Request) error {
	if _, password, ok := r.BasicAuth(); ok && g.Basic {
		return CheckToken(http.Header{"Authorization": {"Bearer " + password}}, g.Key)
	}
	return CheckToken(r.Header, g.Key)
}

func (g Guard) challenge() string {
	if g.Basic {
		return `Basic realm="hob"`
	}
	return `Bearer realm="hob"`
}

// WithoutToken takes the token of management, whose key is key, off requests to next: a
// client that sends it with all that it asks for sends it with calls too, and no function
// is to have it.
func WithoutToken(next http.Handler, key string) http.Handler {
	if key == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		DropToken(r.Header, key)
		next.ServeHTTP(w, r)
	})
}

// DropToken takes the token of management, whose key is key, off the header of a call;
// "": there is none.
func DropToken(h http.Header, key string) {
	if key != "" && h["Authorization"] != nil && CheckToken(h, key) == nil {
		h.Del("Authorization")
	}
}

func (g Guard) checkHost(hostport string) error {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return nil
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Unmap().IsLoopback() {
		return nil
	}
	if slices.ContainsFunc(g.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
		return nil
	}
	return faas.Errorf(faas.Denied, "the host %q does not name this node: use its loopback address, or add the name to the setting hosts", hostport)
}
