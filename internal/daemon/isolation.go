package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

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

	work   sync.WaitGroup              // of attempts
	mu     sync.Mutex                  // not held over work
	tried  map[faas.Isolation]*attempt // the last of each; guarded by mu
	closed bool                        // guarded by mu
}

// An attempt makes a driver. What it became is set when done is closed.
type attempt struct {
	done   chan struct{}
	driver launch.Only
	err    error
	ended  time.Time
}

// Of attempts.
const (
	attemptPatience = 30 * time.Second // for one, which starts a sandbox to see that it can
	attemptAgain    = 5 * time.Second  // after one that failed: its program may be there by then
)

var _ launch.Drivers = (*isolations)(nil)

// Isolated implements launch.Drivers.
func (i *isolations) Isolated(ctx context.Context, app faas.App, fn faas.Function) (sandbox.Driver, sandbox.Capabilities, error) {
	of := i.of(app, fn)
	if of == faas.IsolationNative {
		return i.native.Driver, i.native.Caps, nil
	}
	a := i.attempt(of)
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, sandbox.Capabilities{}, faas.Errorf(faas.Busy, "isolation %s is being tried: %w", of, context.Cause(ctx))
	}
	if a.err != nil {
		return nil, sandbox.Capabilities{}, a.err
	}
	return a.driver.Driver, a.driver.Caps, nil
}

// attempt returns the one that goes on, or has ended; a failed one that is old is followed by another.
func (i *isolations) attempt(of faas.Isolation) *attempt {
	i.mu.Lock()
	defer i.mu.Unlock()
	a := i.tried[of]
	if a != nil && (!a.over() || a.err == nil || time.Since(a.ended) < attemptAgain) {
		return a
	}
	a = &attempt{done: make(chan struct{})}
	if i.closed {
		a.err = faas.Errorf(faas.Busy, "this node is shutting down")
		close(a.done)
		return a
	}
	if i.tried == nil {
		i.tried = make(map[faas.Isolation]*attempt)
	}
	i.tried[of] = a
	i.work.Go(func() {
		defer close(a.done)
		if a.driver, a.err = i.open(of); a.err != nil {
			a.err = faas.Errorf(faas.Unsupported, "this node cannot give the isolation %s: %w", of, a.err)
		}
		a.ended = time.Now()
	})
	return a
}

func (a *attempt) over() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// of is the isolation of a function.
func (i *isolations) of(app faas.App, fn faas.Function) faas.Isolation {
	of := fn.OwnIsolation()
	if app.Name == hyperfunc.AppName {
		of = cmp.Or(of, i.hyper)
	}
	return cmp.Or(of, i.other, faas.IsolationNative)
}

func (i *isolations) open(of faas.Isolation) (launch.Only, error) {
	if i.config == nil {
		return launch.Only{}, faas.Errorf(faas.Unsupported, "its driver is %s", i.native.Caps.Driver)
	}
	d, err := oci.New(i.config(of))
	if err != nil {
		return launch.Only{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), attemptPatience)
	defer cancel()
	caps, err := d.Probe(ctx)
	if err != nil {
		return launch.Only{}, errors.Join(err, d.Close())
	}
	return launch.Only{Driver: d, Caps: caps}, nil
}

// close ends the drivers, and with them all sandboxes.
func (i *isolations) close() error {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	i.work.Wait()
	var errs []error
	for _, a := range i.tried {
		if a.err == nil {
			errs = append(errs, a.driver.Driver.Close())
		}
	}
	return errors.Join(append(errs, i.native.Driver.Close())...)
}

// offered says which isolations the node has: of one that was not tried yet, whether its
// program is there.
func (i *isolations) offered() (all []core.Isolation) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, of := range faas.Isolations() {
		o := core.Isolation{Name: of}
		a := i.tried[of]
		switch {
		case of == faas.IsolationNative:
		case i.config == nil:
			o.Missing = faas.Errorf(faas.Unsupported, "the driver of this node is %s", i.native.Caps.Driver)
		case a != nil && a.over():
			o.Missing = a.err
		default:
			_, o.Missing = exec.LookPath(i.config(of).Program)
		}
		all = append(all, o)
	}
	return all
}

// admit reports why this node cannot serve a function as it is put, or an app, with a zero fn.
func (d *Daemon) admit(ctx context.Context, app faas.App, fn faas.Function) error {
	if fn.Name == "" {
		return d.admitApp(app)
	}
	egress, _, err := d.networks.Of(app, fn, unused)
	if err != nil {
		return err
	}
	if err := d.allowed(fn); err != nil {
		return err
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
	return nil
}

// unused counts nobody in any network: what a function reaches is asked, not which of equal ones it is in.
func unused(string) int { return 0 }

// admitApp is admit for an app, with the functions that it has.
func (d *Daemon) admitApp(app faas.App) error {
	if _, _, err := d.networks.Of(app, faas.Function{}, unused); err != nil {
		return err
	}
	for fn := range d.catalog.FunctionsAfter(app.ID, "") {
		if _, _, err := d.networks.Of(app, fn, unused); err != nil {
			return err
		}
	}
	return d.admitSyslog(app.Syslog)
}

// allowed reports what of a function takes the operator's permission and has it not (any more). It
// is asked when the function is put, and before each start.
func (d *Daemon) allowed(fn faas.Function) error {
	if faas.NetworkMode(fn.Reach().Network) == faas.NetworkHost && !d.cfg.Insecure {
		return faas.Errorf(faas.Denied, "function %s asks for the network of the host: this server allows that only when it runs with --insecure", fn.Name)
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
	programs, _ := d.cfg.Programs()                 // Check has looked at them
	blanks := min(d.cfg.Blanks, 2*runtime.NumCPU()) // one of gVisor holds 15 MB; 0 and below mean the same as for others
	return oci.Config{Program: programs[of], Generation: d.run, Blanks: blanks, Router: d.router, Log: d.log}
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
