package daemon

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"time"

	"hob/internal/api"
	"hob/internal/api/core"
	"hob/internal/api/hyperfunc"
)

// Limits of HTTP. There is none on the whole of a request: an upload of an image
// may take long, and the time of a call is bounded by its function.
const (
	maxHeader  = 256 << 10        // bytes of a request's head; above it 431
	headerTime = 10 * time.Second // for a request's head to arrive
	idleTime   = 2 * time.Minute  // between two requests of a connection
)

// serveHTTP builds the servers of the two listeners.
func (d *Daemon) serveHTTP() {
	own := &core.Server{
		Catalog: d.catalog, Images: d.images, Logs: d.logs, Caller: d.invoker, Queue: d.invoker, Calls: d.queue.View(),
		Sandboxes: d.sandboxes, Node: d.node,
		MaxPayload: d.cfg.MaxRequest, Insecure: d.cfg.Insecure, Log: d.log,
	}
	hyper := d.hyper()
	d.server = d.newServer(d.handler(own, hyper, true))
	d.local = d.newServer(d.handler(own, hyper, false))
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
			Isolation: d.cfg.HyperIsolation, Driver: d.caps.Driver,
		},
		Capacity: d.capacity.Total(), Insecure: d.cfg.Insecure, Ending: d.ending, Log: d.log,
	}
}

func (d *Daemon) newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
}

// handler is everything that one listener answers. A guarded one keeps web pages
// away from management; calls of functions are for everybody.
func (d *Daemon) handler(own *core.Server, hyper *hyperfunc.Server, guarded bool) http.Handler {
	ours := own.Handler()
	guard := func(h http.Handler, body api.FaultBody) http.Handler {
		if !guarded {
			return h
		}
		return api.Guard{Hosts: d.cfg.Hosts}.Wrap(h, body)
	}
	manage := func(h http.Handler) http.Handler { return guard(h, core.WriteFault) }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", d.health.alive)
	mux.HandleFunc("GET /readyz", d.health.ready)
	mux.HandleFunc("GET /version", d.answerVersion)
	mux.Handle("/", manage(ours))

	pushes := manage(d.registry.Handler())
	funcs := hyper.Handler()
	manageFuncs := guard(funcs, hyperfunc.WriteFault)
	if len(d.cfg.HyperKeys) > 0 {
		manageFuncs = funcs // it looks at signatures
	}
	return api.Identify(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Names of images may hold what a ServeMux takes for a path to be cleaned.
		if strings.HasPrefix(r.URL.Path, "/v2/") && d.registry.Match(r) {
			pushes.ServeHTTP(w, r)
			return
		}
		if hyper.Match(r) {
			if hyper.Data(r) { // the secret is in its path
				funcs.ServeHTTP(w, r)
			} else {
				manageFuncs.ServeHTTP(w, r)
			}
			return
		}
		if core.IsCall(r) { // the rest of its path is for the function, as it is
			ours.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

func (d *Daemon) answerVersion(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"version": d.version, "go": runtime.Version()})
}
