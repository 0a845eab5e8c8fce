package daemon

import (
	"net/netip"

	"hob/faas"
	"hob/internal/launch"
	"hob/internal/network"
)

// openNetwork makes the networks of functions and removes what dead daemons left. Without
// it, on a machine that cannot, functions have loopback alone, if the operator says so.
func (d *Daemon) openNetwork() error {
	named, err := d.cfg.Named()
	if err != nil {
		return err
	}
	d.networks = launch.Networks{Default: faas.Reach{Network: d.cfg.Network, Allow: d.cfg.Allow}, Named: named, Fn: d.cfg.FnNetworks}
	if d.driver != nil || d.cfg.Driver == "fake" {
		return nil
	}
	if err := network.Reap(0); err != nil {
		d.log.Error("what a dead daemon left in the network of this machine could not be removed", "err", err)
	}
	cfg := network.Config{
		Generation: d.run, Bandwidth: int64(d.cfg.Bandwidth), Connections: d.cfg.Connections, Refused: d.refused, Log: d.log,
	}
	if d.cfg.NetworkRange != "" {
		cfg.Range = netip.MustParsePrefix(d.cfg.NetworkRange) // Check has looked at it
	}
	if d.place != nil {
		d.place(&cfg)
	}
	if d.router, err = network.NewRouter(cfg); err == nil {
		d.onClose(d.router.Close)
		return nil
	}
	if d.cfg.Network != string(faas.NetworkNone) {
		return faas.Errorf(faas.Unsupported, "functions cannot have a network on this machine: %w; with the setting network=none they do without", err)
	}
	d.log.Warn("functions cannot have a network on this machine, but for loopback and that of the host", "err", err)
	return nil
}

// refused tells the owner of a function that a connection of it was refused.
func (d *Daemon) refused(r network.Refusal) {
	what := "the name " + r.Name + " was looked up"
	switch {
	case r.Name != "":
	case r.To.Port() == 0:
		what = r.Protocol + " to " + r.To.Addr().String()
	default:
		what = r.Protocol + " connection to " + r.To.String()
	}
	if l := d.launching.Load(); l != nil {
		l.Refused(r.Owner, what, r.Rule())
	}
}

// refusedPackets is how many packets of functions policy refused since the start.
func (d *Daemon) refusedPackets() uint64 {
	if d.router == nil {
		return 0
	}
	n, err := d.router.Refusals()
	if err != nil {
		d.log.Warn("refused packets are not counted now", "err", err)
	}
	return n
}
