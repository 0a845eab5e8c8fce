package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/build/funcfile"
)

// deployer brings functions to one app.
type deployer struct {
	c     *cli
	cl    *client.Client
	flags deployFlags
	file  funcfile.App // without a name if there is none
	app   client.App
	done  []string // what was done for the function at hand
}

// say tells on standard error how far it is.
func (d *deployer) say(format string, args ...any) {
	if !d.c.json {
		fmt.Fprintln(d.c.Stderr, printable(fmt.Sprintf(format, args...)))
	}
}

// putApp returns the app, which it makes or changes as its file and the flags say.
func (d *deployer) putApp(ctx context.Context) (client.App, error) {
	name := cmp.Or(d.flags.app, d.file.Name, faas.DefaultApp)
	if err := faas.CheckName("app", name); err != nil {
		return client.App{}, err
	}
	d.c.notes(d.file.Notes)
	s := client.AppSettings{Env: variables(d.file.Config), Annotations: annotations(d.file.Annotations)}
	reachSettings(&s, d.file)
	if d.file.Syslog != "" {
		s.Syslog = &d.file.Syslog
	}
	app, err := d.cl.App(ctx, name)
	switch {
	case faas.KindOf(err) != faas.NotFound:
		if err != nil || d.file.Name == "" || hasApp(app, d.file) {
			return app, err
		}
		app, err = d.cl.UpdateApp(ctx, name, s)
		d.did(err, "updated app "+name)
	case d.file.Name != "" || d.flags.createApp:
		app, err = d.cl.CreateApp(ctx, name, s)
		d.did(err, "created app "+name)
	default:
		return app, fmt.Errorf("%w: --create-app makes it", err)
	}
	return app, err
}

// hasApp reports whether app is as its file says.
func hasApp(app client.App, file funcfile.App) bool {
	for k, v := range file.Config {
		if have, ok := app.Env[k]; !ok || have != v {
			return false
		}
	}
	for k, v := range file.Annotations {
		if string(app.Annotations[k]) != v {
			return false
		}
	}
	return (file.Syslog == "" || file.Syslog == app.Syslog) &&
		(file.Network == "" || file.Network == app.Network) && (file.Allow == nil || slices.Equal(file.Allow, app.Allow))
}

// reachSettings are those of an app as its file says.
func reachSettings(s *client.AppSettings, file funcfile.App) {
	if file.Network != "" {
		s.Network = &file.Network
	}
	if file.Allow != nil {
		s.Allow = &file.Allow
	}
}

// did notes a step that went well.
func (d *deployer) did(err error, what string) {
	if err == nil {
		d.done = append(d.done, what)
		d.say("%s", what)
	}
}

// deploy brings one function, with its triggers, to the server.
func (d *deployer) deploy(ctx context.Context, p project) (deployed, error) {
	result := deployed{App: d.app.Name, Triggers: []client.Trigger{}}
	d.say("Deploying %s to app: %s", p.ShortName(), d.app.Name)
	old, err := d.cl.Function(ctx, d.app.Name, p.ShortName())
	if err != nil && faas.KindOf(err) != faas.NotFound {
		return result, err
	}
	if err := p.checkExpects(d.app.Env, d.file.Config, old.Env); err != nil {
		return result, err
	}
	if result.Version, err = d.flags.nextVersion(p); err != nil {
		return result, err
	}
	self, err := registryOf(ctx, d.cl)
	if err != nil {
		return result, err
	}
	for _, rule := range p.disallow {
		if !hasRule(p.rules(old), rule) {
			d.c.notes([]string{fmt.Sprintf("no rule of %s allows %s: there is nothing to leave out", p.ShortName(), rule)})
		}
	}
	img, err := d.flags.image.make(ctx, d.c, d.cl, p, result.Version, self)
	if err != nil {
		return result, err
	}
	if result.Image = img.ref; img.built {
		d.did(nil, "built "+img.ref)
	}
	if result.Function, err = d.putFunction(ctx, p, img, old); err != nil {
		return result, err
	}
	for _, t := range p.Triggers {
		trigger, err := d.putTrigger(ctx, p, t, old)
		if t.Implied && faas.KindOf(err) == faas.Conflict { // nobody has asked for this very one
			d.c.notes([]string{fmt.Sprintf("%s names no path, and it gets no route: %v", p.Path, err)})
			continue
		}
		if err != nil {
			return result, fmt.Errorf("trigger %s: %w", t.Name, err)
		}
		if t.Implied {
			d.c.notes([]string{fmt.Sprintf("%s names no path: the route is %s", p.Path, trigger.Source)})
		}
		d.did(nil, "trigger "+t.Name+" at "+trigger.Source)
		result.Triggers = append(result.Triggers, trigger)
	}
	if !d.flags.noBump {
		if err := funcfile.WriteVersion(p.Path, result.Version); err != nil {
			return result, err
		}
	}
	d.done = nil
	return result, nil
}

// putFunction makes the function, or changes old, which has no name if there is none.
func (d *deployer) putFunction(ctx context.Context, p project, img imageOf, old client.Function) (fn client.Function, err error) {
	s := p.settings(img, old)
	what := "updated function "
	if old.Name == "" {
		what = "created function "
	}
	err = withImage(ctx, d.c, d.cl, d.app.Name, img.ref, img.pull, func(pull string) (err error) {
		if old.Name != "" {
			fn, err = d.cl.UpdateFunction(ctx, d.app.Name, p.ShortName(), s, pull)
		} else {
			fn, err = d.cl.CreateFunction(ctx, d.app.Name, p.ShortName(), s, pull)
		}
		return err
	})
	d.did(err, what+p.ShortName()+" using image "+img.ref)
	return fn, err
}

// putTrigger makes or changes a trigger of p. A path that its file does not name stays
// as it is where old, the function as it was, has the trigger already.
func (d *deployer) putTrigger(ctx context.Context, p project, t funcfile.Trigger, old client.Function) (client.Trigger, error) {
	s := triggerSettings(t)
	if t.Implied && old.Name != "" {
		have, err := d.cl.Triggers(ctx, d.app.Name, old.Name)
		if err != nil {
			return client.Trigger{}, err
		}
		if slices.ContainsFunc(have, func(have client.Trigger) bool { return have.Name == t.Name }) {
			s.Source = nil
		}
	}
	return d.cl.PutTrigger(ctx, d.app.Name, p.ShortName(), t.Name, s)
}

// checkExpects reports a variable that must be set and is in none of these, nor in
// the file itself.
func (p project) checkExpects(envs ...map[string]string) error {
	for _, e := range p.Expects {
		_, found := p.Config[e.Name]
		for _, env := range envs {
			_, ok := env[e.Name]
			found = found || ok
		}
		if e.Required && !found {
			return faas.Errorf(faas.Invalid, "%s expects the variable %s to be set: give it a value under config in the file, or in the app", p.Path, e.Name)
		}
	}
	return nil
}

// settings are those of the function that p describes: what the file does not name
// is left to the server, or as it is. One that is made of a file of version
// 20180708 has the rules that Fn's functions have.
func (p project) settings(img imageOf, old client.Function) client.Settings {
	format := p.FormatOr()
	s := client.Settings{Image: &img.ref, Format: &format, Env: variables(p.Config), Annotations: annotations(p.Annotations)}
	if !img.built && len(p.Entrypoint) > 0 {
		s.Entrypoint = &p.Entrypoint
	}
	if !img.built && len(p.Cmd) > 0 {
		s.Command = &p.Cmd
	}
	if p.Memory > 0 {
		s.Memory = &p.Memory
	}
	if p.CPUs > 0 {
		s.CPUs = (*client.CPU)(&p.CPUs)
	}
	setDuration(&s.Timeout, p.Timeout)
	setDuration(&s.IdleTimeout, p.IdleTimeout)
	if p.AsyncTimeout > 0 {
		text := p.AsyncTimeout.String()
		s.AsyncTimeout = &text
	}
	if p.MaxConcurrency > 0 {
		s.MaxConcurrency = &p.MaxConcurrency
	}
	s.Min = p.Min
	for value, to := range map[*string]**string{&p.OnSuccess: &s.OnSuccess, &p.OnFailure: &s.OnFailure} {
		if *value != "" {
			*to = value
		}
	}
	p.confine(&s, old)
	profile, user, memory := string(faas.ProfileFn), "1000:1000", cmp.Or(p.Memory, faas.DefaultMemory)
	switch {
	case old.Name == "" && p.Schema && format == string(faas.FormatHTTPStream):
		s.Profile, s.User, s.TmpSize = &profile, &user, &memory
	case old.Name != "" && p.Memory > 0 && (old.Profile == profile || old.TmpSize > memory): // it is never more than the memory
		s.TmpSize = &memory
	}
	return s
}

// rules are those of the file, or where that says nothing of them, of the function.
func (p project) rules(old client.Function) []string {
	if p.Allow != nil {
		return p.Allow
	}
	return old.Allow
}

// confine sets what the function reaches and has of the machine: what the command line
// says goes before the file, and its rules add to those that there are, or are taken away.
// With its network none those of the file, which would mean nothing, are left out.
func (p project) confine(s *client.Settings, old client.Function) {
	s.Network, s.Isolation, s.Devices = p.set.Network, p.set.Isolation, p.set.Devices
	if s.Network == nil && p.Network != "" {
		s.Network = &p.Network
	}
	if s.Isolation == nil && p.Isolation != "" {
		s.Isolation = &p.Isolation
	}
	if s.Devices == nil && p.Devices != nil {
		s.Devices = &p.Devices
	}
	none := p.set.Network != nil && *p.set.Network == string(faas.NetworkNone)
	switch {
	case p.set.Allow != nil:
		rules := withRules(withoutRules(p.rules(old), p.disallow), *p.set.Allow)
		s.Allow = &rules
	case none && p.Allow != nil:
		s.Allow = &[]string{}
	case p.Allow != nil:
		s.Allow = &p.Allow
	}
}

// triggerSettings are those of t: what its file does not name stays as it is.
func triggerSettings(t funcfile.Trigger) client.TriggerSettings {
	s := client.TriggerSettings{Type: &t.Type, Source: &t.Source, Async: t.Async, Headers: t.Headers}
	if t.Key != "" {
		s.Key = &t.Key
	}
	if t.Convention != "" {
		s.Convention = &t.Convention
	}
	return s
}

func setDuration(to **client.Duration, d time.Duration) {
	if d > 0 {
		*to = (*client.Duration)(&d)
	}
}

func variables(config map[string]string) map[string]*string {
	if len(config) == 0 {
		return nil
	}
	env := map[string]*string{}
	for k, v := range config {
		env[k] = &v
	}
	return env
}

func annotations(values map[string]string) client.Annotations {
	if len(values) == 0 {
		return nil
	}
	all := client.Annotations{}
	for k, v := range values {
		all[k] = json.RawMessage(strings.Clone(v))
	}
	return all
}
