package daemon

import (
	"context"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/pool"
)

// renewer tells pool and queue of changed definitions.
type renewer struct {
	catalog *catalog.Catalog
	pool    *pool.Set
	forget  func(function string) // of the queue and the launcher
	changed func(app faas.App)    // the queue's
	known   map[string]revision   // by function ID: what the pool was told last
}

// revision is that of a function and of its app.
type revision struct{ function, app int64 }

// renew tells the pool of every change of a definition, until ctx ends: sandboxes
// of revisions that are no more end, and those that functions want to have ready
// are there.
func (d *Daemon) renew(ctx context.Context) error {
	forget := func(function string) {
		d.queue.Forget(function)
		d.launcher.Forget(function)
	}
	r := renewer{d.catalog, d.pool, forget, d.queue.AppChanged, make(map[string]revision)}
	for {
		r.look()
		select {
		case <-ctx.Done():
			return nil
		case <-d.catalog.Changed():
		}
	}
}

// look tells of what has changed since it looked last.
func (r renewer) look() {
	ids, all := r.catalog.Touched()
	if all {
		for app := range r.catalog.AppsAfter("") {
			r.app(app)
		}
		for id := range r.known {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		if app, err := r.catalog.AppByID(id); err == nil {
			r.app(app)
			continue
		}
		fn, err := r.catalog.FunctionByID(id)
		if err == nil {
			if app, err := r.catalog.AppByID(fn.App); err == nil {
				r.function(app, fn)
			}
			continue
		}
		if _, known := r.known[id]; known {
			delete(r.known, id)
			r.pool.Forget(id)
			r.forget(id)
		}
	}
}

func (r renewer) app(app faas.App) {
	r.changed(app)
	for fn := range r.catalog.FunctionsAfter(app.ID, "") {
		r.function(app, fn)
	}
}

func (r renewer) function(app faas.App, fn faas.Function) {
	if now := (revision{fn.Revision, app.Revision}); r.known[fn.ID] != now {
		r.known[fn.ID] = now
		r.pool.Renew(&pool.Need{App: app, Function: fn})
	}
}
