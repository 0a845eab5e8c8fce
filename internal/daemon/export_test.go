package daemon

import (
	"time"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/network"
	"hob/internal/pool"
)

// Parts of d, for tests that leave the edges out.
func (d *Daemon) Parts() (*catalog.Catalog, *pool.Set) { return d.catalog, d.pool }

// TLSAddr is Addr of HTTPS.
func (d *Daemon) TLSAddr() string { return d.tls.Addr().String() }

// WithLease says how long outside runners have a call.
func WithLease(lease time.Duration) Option { return func(d *Daemon) { d.lease = lease } }

// WithNetwork changes how the router of functions is made.
func WithNetwork(place func(*network.Config)) Option { return func(d *Daemon) { d.place = place } }

// WithLogRate says how much a function may write in a second.
func WithLogRate(rate faas.Bytes) Option { return func(d *Daemon) { d.logRate = rate } }
