package daemon

import (
	"context"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/launch"
)

// pins makes sure that the image of a function is here, and pins a function to it
// that was made without. It implements invoke.Images.
type pins struct {
	launcher *launch.Launcher
	catalog  *catalog.Catalog
}

// Ready implements invoke.Images.
func (p pins) Ready(ctx context.Context, fn faas.Function) (faas.Function, error) {
	for {
		app, err := p.catalog.AppByID(fn.App)
		if err != nil {
			return fn, err
		}
		digest, err := p.launcher.Ready(ctx, app, fn)
		if err != nil || digest == fn.Digest {
			return fn, err
		}
		fn.Digest = digest
		put, err := p.catalog.PutFunction(ctx, fn, fn.Revision)
		if faas.KindOf(err) != faas.Conflict {
			return put, err
		}
		if fn, err = p.catalog.FunctionByID(fn.ID); err != nil { // another call was first, or its owner has changed it
			return fn, err
		}
	}
}
