package daemon

import (
	"hob/internal/catalog"
	"hob/internal/pool"
)

// Parts of d, for tests that leave the edges out.
func (d *Daemon) Parts() (*catalog.Catalog, *pool.Set) { return d.catalog, d.pool }
