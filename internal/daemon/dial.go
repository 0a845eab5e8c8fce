package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/launch"
	"hob/internal/logs"
	"hob/internal/network"
)

// onBehalf is what the node connects to because the owner of an app says so, or of a
// function: what their functions reach, and at least the internet. A mode that holds
// the code of a function back says nothing of addresses that its owner gives to hob;
// nor does it take back what app and operator allow.
func (d *Daemon) onBehalf(app faas.App, fn faas.Function) (faas.Egress, error) {
	e, _, err := d.networks.Of(app, fn, unused)
	if err != nil || e.Mode == faas.NetworkHost {
		return e, err
	}
	e.Mode = faas.NetworkOpen
	for _, texts := range [][]string{app.Reach().Allow, d.networks.Default.Allow} {
		rules, err := faas.ParseEgressRules(texts)
		if err != nil {
			return e, err
		}
		for _, r := range rules {
			if !slices.Contains(e.Rules, r) {
				e.Rules = append(slices.Clip(e.Rules), r)
			}
		}
	}
	return e, nil
}

// opens is how to allow a rule to the owner of an app or a function; "": it cannot be.
func opens(app faas.App, fn faas.Function, rule string) string {
	none := string(faas.NetworkNone)
	switch {
	case rule == "":
		return ""
	case fn.ID != "" && fn.Reach().Network != none:
		name := fn.Name
		if app.Name != faas.DefaultApp {
			name = app.Name + "/" + name
		}
		return fmt.Sprintf("hob update %s --allow %s", name, launch.Quote(rule))
	case app.Name != "" && app.Reach().Network != none:
		return fmt.Sprintf("hob app update %s --allow %s", app.Name, launch.Quote(rule))
	}
	return fmt.Sprintf("the setting allow of this node, with %s", rule)
}

// explained turns a refusal into the error that owners of app and fn read; other
// errors it leaves as they are.
func explained(err error, app faas.App, fn faas.Function) error {
	refused, ok := errors.AsType[*network.RefusedError](err)
	if !ok {
		return err
	}
	if how := opens(app, fn, refused.Rule()); how != "" {
		return faas.Errorf(faas.Denied, "%w; this opens it: %s", err, how)
	}
	return faas.Errorf(faas.Denied, "%w, and nothing opens it", err)
}

// ownerOf returns a function by its ID, with its app; zero if they are gone.
func (d *Daemon) ownerOf(function string) (app faas.App, fn faas.Function) {
	fn, err := d.catalog.FunctionByID(function)
	if err == nil {
		app, err = d.catalog.AppByID(fn.App)
	}
	if err != nil {
		return faas.App{}, faas.Function{}
	}
	return app, fn
}

// transports carry HTTP requests under policies. Connections are kept for who has
// the same policy alone: they were judged by it.
type transports struct {
	mu sync.Mutex
	of map[string]*http.Transport // by policy; guarded by mu
}

// Limits of transports.
const (
	maxTransports = 100 // policies with connections; above it all begin anew
	keepIdle      = 10 * time.Second
)

func (t *transports) under(e faas.Egress) *http.Transport {
	key := fmt.Sprint(e)
	t.mu.Lock()
	defer t.mu.Unlock()
	if one, ok := t.of[key]; ok {
		return one
	}
	if len(t.of) >= maxTransports {
		t.clear()
	}
	if t.of == nil {
		t.of = make(map[string]*http.Transport)
	}
	one := &http.Transport{ // without a proxy, which would connect for it
		DialContext:         network.Dialer{Egress: e}.Dial,
		TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: keepIdle,
	}
	t.of[key] = one
	return one
}

// clear closes what is idle. Precondition: t.mu is held.
func (t *transports) clear() {
	for one := range maps.Values(t.of) {
		one.CloseIdleConnections()
	}
	clear(t.of)
}

func (t *transports) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	return nil
}

// deliveryOf carries the deliveries of a call over HTTP, to where its function may have them.
func (d *Daemon) deliveryOf(call faas.Call) http.RoundTripper { return delivery{d, call} }

type delivery struct {
	*Daemon
	call faas.Call
}

// RoundTrip implements http.RoundTripper.
func (d delivery) RoundTrip(req *http.Request) (*http.Response, error) {
	app, fn := d.ownerOf(d.call.FuncID)
	e, err := d.onBehalf(app, fn)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	resp, err := d.transports.under(e).RoundTrip(req)
	if refused, ok := errors.AsType[*network.RefusedError](err); ok && fn.ID != "" {
		d.launcher.RefusedOf(fn.ID, d.call.ID, "delivery of a result to "+refused.Address, opens(app, fn, refused.Rule()))
	}
	return resp, explained(err, app, fn)
}

// sourceOf is where the lines of a function go besides its log, and what they are marked with there.
func (d *Daemon) sourceOf(function string) logs.Source {
	fn, err := d.catalog.FunctionByID(function)
	if err != nil {
		return logs.Source{}
	}
	app, err := d.catalog.AppByID(fn.App)
	if err != nil || app.Syslog == "" && !d.cfg.LogFunctions {
		return logs.Source{}
	}
	from := logs.Source{Syslog: app.Syslog, AppID: app.ID, App: app.Name, Func: fn.Name, Image: fn.Image}
	if r := app.Reach(); r.Network != "" || len(r.Allow) > 0 {
		from.Owner = fmt.Sprint(app.ID, ".", app.Revision) // it reaches other servers than other apps do, and than it did
	}
	for t := range d.catalog.TriggersOf(fn.ID) {
		from.Path = t.Source
		break
	}
	return from
}

// dialSyslog connects to the syslog server of an app; "": of those that choose nothing.
func (d *Daemon) dialSyslog(ctx context.Context, app, netw, address string) (net.Conn, error) {
	if netw == "unix" || netw == "unixgram" {
		if !d.cfg.UnixTargets {
			return nil, errUnixTarget
		}
		return new(net.Dialer).DialContext(ctx, netw, address)
	}
	var owner faas.App // of those that choose nothing it is dialled for all at once
	if app, _, _ = strings.Cut(app, "."); app != "" {
		var err error
		if owner, err = d.catalog.AppByID(app); err != nil {
			return nil, err
		}
	}
	e, err := d.onBehalf(owner, faas.Function{})
	if err != nil {
		return nil, err
	}
	conn, err := network.Dialer{Egress: e}.Dial(ctx, netw, address)
	if refused, ok := errors.AsType[*network.RefusedError](err); ok && app == "" && refused.Rule() != "" {
		return nil, faas.Errorf(faas.Denied, "%w; a rule of the app opens it, hob app update --allow %s", err, launch.Quote(refused.Rule()))
	}
	return conn, explained(err, owner, faas.Function{})
}

var errUnixTarget = faas.Errorf(faas.Denied, "syslog URLs of Unix sockets: the operator of this node does not allow them (setting unix-targets)")

// admitSyslog reports why an app cannot be put with a syslog URL.
func (d *Daemon) admitSyslog(target string) error {
	if scheme, _, _ := strings.Cut(strings.ToLower(target), "://"); !d.cfg.UnixTargets && (scheme == "unix" || scheme == "unixgram") {
		return errUnixTarget
	}
	return nil
}

// dialRegistry connects to a registry, or what it leads to, on behalf of who pulls.
func (d *Daemon) dialRegistry(ctx context.Context, of image.Owner, netw, address string) (net.Conn, error) {
	dialer, err := d.registryDialer(of, address)
	if err != nil {
		return nil, err
	}
	conn, err := dialer.Dial(ctx, netw, address)
	return conn, closedRegistry(err)
}

// checkRegistry reports that dialRegistry would refuse an address. Of a name that the
// node cannot look up, the proxy that is asked knows more.
func (d *Daemon) checkRegistry(ctx context.Context, of image.Owner, address string) error {
	dialer, err := d.registryDialer(of, address)
	if err != nil {
		return err
	}
	if err := closedRegistry(dialer.Check(ctx, "tcp", address)); faas.KindOf(err) == faas.Denied {
		return err
	}
	return nil
}

// registryDialer dials all that the operator names, in a setting or with credentials, wherever it is.
func (d *Daemon) registryDialer(of image.Owner, address string) (network.Dialer, error) {
	is := func(setting string) bool { return isRegistry(setting, address) }
	if slices.ContainsFunc(slices.Concat(d.cfg.Registries, d.cfg.PlainHTTP), is) || image.Knows(d.credentials, address) {
		return network.Dialer{Egress: faas.Egress{Mode: faas.NetworkHost}}, nil
	}
	e, err := d.onBehalf(faas.App{Network: of.App.Network, Allow: of.App.Allow}, faas.Function{Network: of.Function.Network, Allow: of.Function.Allow})
	return network.Dialer{Egress: e}, err
}

// isRegistry reports whether a setting, "host[:port]", names an address. Without a port it names what a reference to an
// image without one leads to: by TLS, or where that may be, without.
func isRegistry(setting, address string) bool {
	if strings.EqualFold(setting, address) {
		return true
	}
	host, port, _ := net.SplitHostPort(address)
	return (port == "443" || port == "80") && strings.EqualFold(strings.Trim(setting, "[]"), host)
}

func closedRegistry(err error) error {
	refused, ok := errors.AsType[*network.RefusedError](err)
	switch {
	case !ok:
		return err
	case refused.Rule() == "":
		return faas.Errorf(faas.Denied, "%w", err)
	}
	return faas.Errorf(faas.Denied, "%w; this opens it: --allow %s for the function or its app, or the setting registries", err, launch.Quote(refused.Rule()))
}
