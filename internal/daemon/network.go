package daemon

import (
	"fmt"
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
		return nil
	}
	if e, _, _ := d.networks.Of(faas.App{}, faas.Function{}, unused); e.Mode != faas.NetworkNone {
		return faas.Errorf(faas.Unsupported, "functions cannot have a network on this machine: %w; with the setting network=none they do without", err)
	}
	d.log.Warn("functions cannot have a network on this machine, but for loopback and that of the host", "err", err)
	return nil
}

// refused tells the owner of a function that a connection of it was refused.
func (d *Daemon) refused(r network.Refusal) {
	l := d.launching.Load()
	if l == nil {
		return
	}
	var what string
	switch {
	case r.Rate != 0:
		what = fmt.Sprintf("more than %d new connections in a second; the setting network-connections raises it", r.Rate)
	case r.Flows != 0:
		what = fmt.Sprintf("more than %d connections at a time; no setting raises it", r.Flows)
	case r.Protocol == "" && !r.To.IsValid():
		what = "the name " + r.Name + " was looked up"
	case r.Protocol == "":
		what = "the name " + r.Name + " was looked up, which stands for " + r.To.Addr().String()
	case r.To.Port() == 0:
		what = r.Protocol + " to " + r.To.Addr().String()
	default:
		what = r.Protocol + " connection to " + r.To.String()
	}
	if r.Name != "" && r.Protocol != "" && r.Rate == 0 && r.Flows == 0 {
		what += " (" + r.Name + ")"
	}
	if why := r.Why(); why != "" {
		what += "; " + why
	}
	l.Refused(r.Owner, what, r.Rule())
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
