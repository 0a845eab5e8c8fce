package daemon

import (
	"context"

	"hob/internal/pool"
)

// renew tells the pool of every change of a definition, until ctx ends: sandboxes
// of revisions that are no more end, and those that functions want to have ready
// are there.
func (d *Daemon) renew(ctx context.Context) error {
	type revision struct{ function, app int64 }
	known := make(map[string]revision) // by function ID
	for {
		there := make(map[string]bool, len(known))
		for _, fn := range d.catalog.Functions("") {
			there[fn.ID] = true
			app, err := d.catalog.AppByID(fn.App)
			if now := (revision{fn.Revision, app.Revision}); err == nil && known[fn.ID] != now {
				known[fn.ID] = now
				d.pool.Renew(&pool.Need{App: app, Function: fn})
			}
		}
		for id := range known {
			if !there[id] {
				delete(known, id)
				d.pool.Forget(id)
				d.queue.Forget(id)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.catalog.Changed():
		}
	}
}
