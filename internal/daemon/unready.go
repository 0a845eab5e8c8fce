package daemon

import (
	"fmt"
	"time"

	"hob/faas"
)

// unready is told by the pool that a function has not all containers that it keeps ready.
func (d *Daemon) unready(fn *faas.Function, why error, again time.Duration) {
	if fn.Digest == "" {
		why = faas.Errorf(faas.NotFound, "the image %s is not here yet: the first call pulls it", fn.Image)
	}
	app := ""
	if a, err := d.catalog.AppByID(fn.App); err == nil {
		app = a.Name
	}
	d.log.Warn("a container that is to be kept ready could not be started", "function", fn.Name, "app", app, "err", why, "again", again)
	w := d.logs.Writer(fn.ID, "", "hob")
	fmt.Fprintf(w, "not ready: a container that is to be kept (min %d) could not be started, and is tried again in %v: %v\n", fn.Min, again, why)
	w.Close()
}
