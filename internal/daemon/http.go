package daemon

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/core"
	"hob/internal/api/definition"
	"hob/internal/api/fnv2"
	"hob/internal/api/hyperfunc"
	"hob/internal/api/ironv1"
	"hob/internal/api/registry"
	"hob/internal/image"
)

// serveHTTP builds the servers of the two listeners.
func (d *Daemon) serveHTTP() {
	e := edges{
		own: &core.Server{
			Catalog: d.catalog, Images: d.images, Logs: d.logs, Caller: d.invoker, Queue: d.invoker, Calls: d.queue.View(),
			Sandboxes: d.sandboxes, Refusals: d.launcher.Refusals, Node: d.node,
			PublicURL: d.cfg.PublicURL, MaxPayload: d.cfg.MaxRequest, NoCalls: d.managesOnly(), Insecure: d.cfg.Insecure, Log: d.log,
		},
		fn: d.fn(), iron: d.iron(), hyper: d.hyper(),
	}
	e.fn.Route = e.iron.Route // a host name of an app leads to routes of both
	d.server = d.newServer(d.handler(e, true))
	d.local = d.newServer(d.handler(e, false))
}

// edges are the APIs that answer besides the registry.
type edges struct {
	own   *core.Server
	fn    *fnv2.Server
	iron  *ironv1.Server
	hyper *hyperfunc.Server
}

// fn is the API of Fn Project.
func (d *Daemon) fn() *fnv2.Server {
	return &fnv2.Server{
		Catalog: d.catalog, Images: onNode{d.images}, Logs: d.logs, Calls: d.queue.View(), Caller: d.invoker,
		Settings: fnv2.Settings{
			Settings: d.family(), PublicURL: d.cfg.PublicURL, CallsGone: d.cfg.FnCallsGone, Domain: d.cfg.Domain, Hosts: d.cfg.Hosts,
		},
		Log: d.log,
	}
}

// iron is the API of IronFunctions and of Fn v1.
func (d *Daemon) iron() *ironv1.Server {
	return &ironv1.Server{
		Catalog: d.catalog, Images: onNode{d.images}, Logs: d.logs, Calls: d.queue.View(), Caller: d.invoker, Tasks: d.invoker,
		Settings: d.family(),
		Log:      d.log,
	}
}

// family is what the two have alike.
func (d *Daemon) family() definition.Settings {
	return definition.Settings{
		MaxRequest: d.cfg.MaxRequest, MaxResponse: cmp.Or(d.cfg.MaxResponse, d.cfg.MaxResult), MaxResponseHeader: d.cfg.MaxResponseHeader,
		Patterns: d.cfg.Patterns, Room: d.health.room, TokenKey: d.cfg.JWTAuthKey, NoInvoke: d.managesOnly(),
	}
}

// cors is who may call from a browser.
func (d *Daemon) cors() api.CORS {
	return api.CORS{Origins: d.cfg.CORSOrigins, Headers: d.cfg.CORSHeaders}
}

// managesOnly reports whether this node neither takes nor runs calls.
func (d *Daemon) managesOnly() bool { return d.cfg.NodeType == "api" }

// onNode tells which images are on this node.
type onNode struct{ images *image.Store }

// Local implements fnv2.Images.
func (n onNode) Local(ref string) (digest string, err error) {
	named, err := n.images.Normalize(ref)
	if err != nil {
		return "", err
	}
	img, err := n.images.Get(named.String())
	if faas.KindOf(err) == faas.NotFound {
		return "", nil
	}
	return img.Digest, err
}

// hyper is the API of Hyper Func.
func (d *Daemon) hyper() *hyperfunc.Server {
	keys := make(map[string]string)
	for _, key := range d.cfg.HyperKeys {
		access, secret, _ := strings.Cut(key, ":")
		keys[access] = secret
	}
	return &hyperfunc.Server{
		Catalog: d.catalog, Images: d.images, Logs: d.logs, Calls: d.queue.View(), Queue: d.invoker,
		Settings: hyperfunc.Settings{
			Keys: keys, Region: d.cfg.HyperRegion, Quota: d.cfg.HyperQuota, Host: d.cfg.HyperHost,
		},
		Capacity: d.capacity.Total(), Insecure: d.cfg.Insecure, Ending: d.ending, Log: d.log,
	}
}

// newServer limits what a client can hold. There is no limit on the whole of a
// request unless the operator sets one: an upload of an image may take long, and the
// time of a call is bounded by its function.
func (d *Daemon) newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, MaxHeaderBytes: int(d.cfg.MaxRequestHeader),
		ReadHeaderTimeout: d.cfg.HeaderTimeout, ReadTimeout: d.cfg.BodyTimeout, WriteTimeout: d.cfg.WriteTimeout, IdleTimeout: d.cfg.ConnIdleTimeout,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
}

// handler is everything that one listener answers. A guarded one keeps web pages, and
// who has no token if one is wanted, away from management; calls of functions are for
// everybody.
func (d *Daemon) handler(e edges, guarded bool) http.Handler {
	open, key := api.Guard{Hosts: d.cfg.Hosts, CORS: d.cors()}, d.cfg.JWTAuthKey
	locked := open
	locked.Key = key
	pushed := locked
	pushed.Basic = true // all that clients of registries have is a name and a password
	guard := func(g api.Guard, h http.Handler, body api.FaultBody) http.Handler {
		if !guarded {
			return h
		}
		return g.Wrap(h, body)
	}
	own, fn, hosts, funcs := e.own.Handler(), e.fn.Handler(), e.fn.HostHandler(), e.hyper.Handler()
	routes := e.iron.Handler()
	tasks := locked
	tasks.Acts = e.iron.Acts
	manageRoutes := guard(tasks, routes, ironv1.WriteRefusal)
	manageFn, manageFuncs := guard(locked, fn, fnv2.WriteFault), guard(locked, funcs, hyperfunc.WriteFault)
	if len(d.cfg.HyperKeys) > 0 {
		manageFuncs = funcs // it looks at signatures
	}
	pushes := guard(pushed, d.registry.Handler(), registry.WriteFault)
	hello := guard(open, fn, fnv2.WriteFault)
	callOwn, invoke := api.WithoutToken(own, key), api.WithoutToken(fn, key)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", d.health.alive)
	mux.HandleFunc("GET /readyz", d.health.ready)
	mux.HandleFunc("GET /version", d.answerVersion)
	mux.Handle("/api/", guard(locked, own, core.WriteFault))

	answers := func(r *http.Request) http.Handler {
		path := r.URL.Path
		// Paths of other APIs may hold what a ServeMux takes for one to be cleaned.
		match, call := e.fn.Match(r)
		switch iron, route := e.iron.Match(r); {
		case e.fn.Hosted(r):
			return hosts
		case strings.HasPrefix(path, "/v2/") && d.registry.Match(r) && !strings.Contains(path, "/triggerBySource/"): // no repository has such a name
			return pushes
		case call && strings.HasPrefix(path, "/t/"): // a token may be for the trigger
			return fn
		case call:
			return invoke
		case path == "/":
			return hello
		case match:
			return manageFn
		case route:
			return routes
		case iron:
			return manageRoutes
		case core.IsCall(r): // the rest of its path is for the function, as it is
			return callOwn
		case e.hyper.Match(r):
			switch {
			case !e.hyper.Data(r):
				return manageFuncs
			case d.managesOnly():
				return fn // it knows no such path
			}
			return funcs // the secret is in its path
		case path == "/healthz", path == "/readyz", path == "/version", strings.HasPrefix(path, "/api/"):
			return mux
		}
		return manageFn // nobody's
	}
	all := d.cors().Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answers(r).ServeHTTP(w, r) }))
	return api.Identify(all, d.cfg.RequestIDHeader, d.log)
}

func (d *Daemon) answerVersion(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(map[string]string{"version": d.version})
}
