package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"hob/faas"
	"hob/internal/api/core"
	"hob/internal/api/hyperfunc"
	"hob/internal/launch"
	"hob/internal/sandbox"
	"hob/internal/sandbox/oci"
)

// isolations has the drivers of a node: that of its own, and of each other isolation one that
// is made when a function first asks for it.
type isolations struct {
	native launch.Only
	other  faas.Isolation // of functions that choose none
	hyper  faas.Isolation // of Hyper functions that choose none; "": as other
	config func(faas.Isolation) oci.Config

	mu     sync.Mutex
	made   map[faas.Isolation]launch.Only // guarded by mu, as all below
	failed map[faas.Isolation]error       // why one could not be made when it was tried last
}

var _ launch.Drivers = (*isolations)(nil)

// Isolated implements launch.Drivers.
func (i *isolations) Isolated(ctx context.Context, app faas.App, fn faas.Function) (sandbox.Driver, sandbox.Capabilities, error) {
	of := i.of(app, fn)
	if of == faas.IsolationNative {
		return i.native.Driver, i.native.Caps, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	d, ok := i.made[of]
	if !ok {
		var err error
		if d, err = i.open(ctx, of); err != nil { // it is tried again: the program may be put there
			i.failed[of] = err
			return nil, sandbox.Capabilities{}, faas.Errorf(faas.Unsupported, "this node cannot give the isolation %s: %w", of, err)
		}
		delete(i.failed, of)
		i.made[of] = d
	}
	return d.Driver, d.Caps, nil
}

// of is the isolation of a function.
func (i *isolations) of(app faas.App, fn faas.Function) faas.Isolation {
	of := fn.OwnIsolation()
	if app.Name == hyperfunc.AppName {
		of = cmp.Or(of, i.hyper)
	}
	return cmp.Or(of, i.other, faas.IsolationNative)
}

func (i *isolations) open(ctx context.Context, of faas.Isolation) (launch.Only, error) {
	if i.config == nil {
		return launch.Only{}, faas.Errorf(faas.Unsupported, "its driver is %s", i.native.Caps.Driver)
	}
	d, err := oci.New(i.config(of))
	if err != nil {
		return launch.Only{}, err
	}
	caps, err := d.Probe(ctx)
	if err != nil {
		return launch.Only{}, errors.Join(err, d.Close())
	}
	return launch.Only{Driver: d, Caps: caps}, nil
}

// close ends the drivers, and with them all sandboxes.
func (i *isolations) close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var errs []error
	for _, d := range i.made {
		errs = append(errs, d.Driver.Close())
	}
	clear(i.made)
	return errors.Join(append(errs, i.native.Driver.Close())...)
}

// offered says which isolations the node has, without trying them: whether the program of
// each is there.
func (i *isolations) offered() (all []core.Isolation) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, of := range faas.Isolations() {
		o := core.Isolation{Name: of}
		if _, made := i.made[of]; of != faas.IsolationNative && !made {
			o.Missing = i.failed[of]
			if i.config == nil {
				o.Missing = faas.Errorf(faas.Unsupported, "the driver of this node is %s", i.native.Caps.Driver)
			} else if _, err := exec.LookPath(i.config(of).Program); err != nil {
				o.Missing = err
			}
		}
		all = append(all, o)
	}
	return all
}

// admit reports why this node cannot serve a function as it is put, or an app, with a zero fn.
func (d *Daemon) admit(ctx context.Context, app faas.App, fn faas.Function) error {
	egress, _, err := d.networks.Of(app, fn, func(string) int { return 0 })
	if err != nil {
		return err
	}
	if fn.ID == "" {
		return d.admitSyslog(app.Syslog)
	}
	_, caps, err := d.isolations.Isolated(ctx, app, fn)
	if err != nil {
		return err
	}
	of := d.isolations.of(app, fn)
	switch {
	case (egress.Mode == faas.NetworkOpen || egress.Mode == faas.NetworkAllow) && !caps.Egress:
		return faas.Errorf(faas.Unsupported, "function %s asks for network %s, and on this node isolation %s has the networks none and host alone", fn.Name, egress.Mode, of)
	case (fn.Format == faas.FormatPort || fn.Format == faas.FormatLambda) && !caps.Ports:
		return faas.Errorf(faas.Unsupported, "function %s has format %s, which isolation %s cannot have: nobody outside reaches its ports. Use a format over stdio or http-stream, or another isolation", fn.Name, fn.Format, of)
	case len(fn.Devices) > 0 && !caps.Devices:
		return faas.Errorf(faas.Unsupported, "function %s asks for devices, which isolation %s cannot have on this node (driver %s)", fn.Name, of, caps.Driver)
	}
	for _, device := range fn.Devices {
		if !slices.Contains(d.cfg.Devices, device) {
			return faas.Errorf(faas.Denied, "function %s asks for device %s: the operator of this node allows %s (setting devices)", fn.Name, device, cmp.Or(strings.Join(d.cfg.Devices, ", "), "none"))
		}
		if st, err := os.Stat(device); err != nil || st.Mode()&os.ModeDevice == 0 {
			return faas.Errorf(faas.Unsupported, "function %s asks for device %s, which this node does not have", fn.Name, device)
		}
	}
	return nil
}

// runtimeConfig is what the driver of another isolation is made from.
func (d *Daemon) runtimeConfig(of faas.Isolation) oci.Config {
	programs, _ := d.cfg.Programs() // Check has looked at them
	return oci.Config{Program: programs[of], Generation: d.run, Blanks: d.cfg.Blanks, Router: d.router, Log: d.log}
}

// checkIsolations makes the drivers that the operator's own choices need, so that a
// node that lacks one does not start.
func (d *Daemon) checkIsolations(ctx context.Context) error {
	if _, _, err := d.isolations.Isolated(ctx, faas.App{}, faas.Function{}); err != nil {
		return fmt.Errorf("isolation (from %s): %w", d.cfg.Origin("isolation"), err)
	}
	if _, _, err := d.isolations.Isolated(ctx, faas.App{Name: hyperfunc.AppName}, faas.Function{}); err != nil {
		return fmt.Errorf("hyper-isolation (from %s): %w", d.cfg.Origin("hyper-isolation"), err)
	}
	return nil
}
