package daemon

import (
	"context"
	"strconv"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/deliver"
	"hob/internal/invoke"
)

// destinations makes calls of the functions that results are sent to.
type destinations struct {
	catalog *catalog.Catalog
	invoker *invoke.Invoker
}

// Enqueue implements deliver.Functions.
func (d destinations) Enqueue(ctx context.Context, app, function, id string, req *faas.Request) error {
	fn, err := d.catalog.Function(app, function)
	if err != nil {
		return err
	}
	of, err := d.catalog.AppByID(fn.App)
	if err != nil {
		return err
	}
	call := invoke.NewCall(of, fn, faas.CallAsync)
	call.ID = id
	call.Hops, _ = strconv.Atoi(req.Header.Get(deliver.Hops)) // which deliver has set, and no caller can
	_, err = d.invoker.Enqueue(ctx, fn, call, req, -1)
	return err
}
