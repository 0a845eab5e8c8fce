// Package fnv2 is the API of Fn Project: /v2 with its apps, fns and triggers, the
// invocation of a function by its id (/invoke) and by a trigger (/t, or a host name
// of an app), and what a Fn server says at / and at a path that nobody knows.
//
// It owns the words of Fn: paths, JSON fields, statuses and texts, as a Fn server
// has them (docs/compat-fn.md has the differences). What they mean inside stands in
// package faas, and who carries it out is handed to it.
package fnv2

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/logs"
	"hob/internal/store"
)

// Server answers the API. Its fields are set before the first request and not
// changed after.
type Server struct {
	Catalog *catalog.Catalog
	Images  Images
	Logs    *logs.Store
	Calls   store.Calls
	Caller  Caller
	Settings
	Log *slog.Logger
}

// Settings are what the operator decides.
type Settings struct {
	PublicURL         string     // base of the addresses of functions and triggers; "": that of the request
	MaxRequest        faas.Bytes // body of a call; 0: no limit
	MaxResponse       faas.Bytes // body of an answer; 0: no limit
	MaxResponseHeader faas.Bytes // header of an answer; 0: no limit of this API
	CallsGone         bool       // the calls of a function are answered as a Fn server does: 410
	Patterns          bool       // parameters and wildcards in sources are such, unless the app says otherwise
	Domain            string     // {app}.Domain is the host name of an app; "": none has one by its name
	NoInvoke          bool       // this node manages only: nothing can be called through it
}

// Images tells which image a reference means.
type Images interface {
	// Local returns the digest of the image that ref means if it is on this node,
	// else "". Invalid if ref is no reference.
	Local(ref string) (digest string, err error)
}

// Caller runs calls; invoke.Invoker is one.
type Caller interface {
	Call(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error
	Enqueue(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, delay time.Duration) (faas.Call, error)
	Find(ctx context.Context, id string) (faas.Call, error)
	Live() []faas.Call
}
