package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// reachFlags say what a function reaches, or all functions of an app.
type reachFlags struct {
	network  string
	allow    []string
	disallow []string // of commands that change something
}

// add registers the flags; modes are what --network offers besides networks of the server.
func (f *reachFlags) add(cmd *cobra.Command, network string, modes ...faas.NetworkMode) {
	cmd.Flags().StringVar(&f.network, "network", "", network)
	cmd.Flags().StringArrayVar(&f.allow, "allow", nil, "open `HOST:PORT`, too: a name, an address or a range, and a port, two with - between or *, as api.example.com:443, '*.example.com:443' or 10.0.0.0/8:5432/tcp; adds up")
	var words []string
	for _, mode := range modes {
		words = append(words, string(mode))
	}
	registerFlag(cmd, "network", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	registerFlag(cmd, "allow", cobra.NoFileCompletions)
}

// addDisallow is for commands that change something.
func (f *reachFlags) addDisallow(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.disallow, "disallow", nil, "remove this `rule` of --allow")
	registerFlag(cmd, "disallow", cobra.NoFileCompletions)
}

// set puts what was given into settings: of the rules those that are added.
func (f *reachFlags) set(given func(string) bool, network **string, allow **[]string) error {
	if err := faas.CheckNetwork(f.network); err != nil {
		return err
	}
	for _, rule := range slices.Concat(f.allow, f.disallow) {
		if _, err := faas.ParseEgressRule(rule); err != nil {
			return err
		}
	}
	for _, rule := range f.disallow {
		if hasRule(f.allow, rule) {
			return faas.Errorf(faas.Invalid, "%s is both allowed and disallowed", rule)
		}
	}
	take(given, "network", &f.network, network)
	if f.changes() {
		rules := withRules(nil, f.allow)
		*allow = &rules
	}
	return nil
}

// changes reports whether rules are added or removed.
func (f *reachFlags) changes() bool { return len(f.allow)+len(f.disallow) > 0 }

// rules are those that there are of a thing, with those that are added and without those
// that are removed.
func (f *reachFlags) rules(of string, there []string) ([]string, error) {
	rules := withRules(nil, there)
	for _, rule := range f.disallow {
		if !hasRule(rules, rule) {
			those := "it has none of its own, unless in the annotation " + faas.AnnotationAllow
			if len(rules) > 0 {
				those = "its rules are " + strings.Join(rules, ", ")
			}
			return nil, faas.Errorf(faas.NotFound, "no rule of %s allows %s: %s", of, rule, those)
		}
	}
	return withRules(withoutRules(rules, f.disallow), f.allow), nil
}

// withoutRules takes rules away from those there are.
func withoutRules(there, gone []string) []string {
	return slices.DeleteFunc(slices.Clone(there), func(rule string) bool { return hasRule(gone, rule) })
}

// withRules adds rules to those there are, each once; never nil.
func withRules(there, more []string) []string {
	rules := append([]string{}, there...)
	for _, rule := range more {
		if !hasRule(rules, rule) {
			rules = append(rules, rule)
		}
	}
	return rules
}

func hasRule(rules []string, rule string) bool {
	return slices.ContainsFunc(rules, func(have string) bool { return canonical(have) == canonical(rule) })
}

// canonical is the one writing of a rule.
func canonical(rule string) string {
	r, err := faas.ParseEgressRule(rule)
	if err != nil {
		return rule
	}
	return r.String()
}

// confineFlags say what a function reaches, and what it has of the machine.
type confineFlags struct {
	reachFlags
	isolation string
	devices   []string
}

func (f *confineFlags) add(cmd *cobra.Command) {
	f.reachFlags.add(cmd, "`what` it reaches: \"none\" for loopback only, \"open\" for the internet but no private address, \"allow\" for what rules open and nothing else, \"host\" for the server's own network where that is allowed, or a network of the server by its name (default: that of its app, else of the server)",
		faas.NetworkNone, faas.NetworkOpen, faas.NetworkAllow, faas.NetworkHost)
	cmd.Flags().StringVar(&f.isolation, "isolation", "", "what stands between it and the machine, by `name`: "+strings.Join(isolations(), ", ")+" (default: that of the server)")
	cmd.Flags().StringArrayVar(&f.devices, "device", nil, "give it this device `file` below /dev, which the server has to allow; those that are given are all, \"\" is none")
	registerFlag(cmd, "isolation", cobra.FixedCompletions(isolations(), cobra.ShellCompDirectiveNoFileComp))
}

// set puts what was given into s.
func (f *confineFlags) set(given func(string) bool, s *client.Settings) error {
	if err := f.reachFlags.set(given, &s.Network, &s.Allow); err != nil {
		return err
	}
	if f.isolation != "" && !slices.Contains(isolations(), f.isolation) {
		return faas.Errorf(faas.Invalid, "bad --isolation %q: it is one of %s", f.isolation, strings.Join(isolations(), ", "))
	}
	take(given, "isolation", &f.isolation, &s.Isolation)
	if given("device") {
		devices := slices.DeleteFunc(slices.Clone(f.devices), func(device string) bool { return device == "" })
		s.Devices = &devices
	}
	return nil
}

// isolations are the names of all.
func isolations() (names []string) {
	for _, i := range faas.Isolations() {
		names = append(names, string(i))
	}
	return names
}

// mostTries is how often a change is tried anew that somebody else overtakes.
const mostTries = 10

// overtaken makes a change, and again if somebody else has made one since it has read.
func overtaken[T any](change func() (T, error)) (v T, err error) {
	for range mostTries {
		if v, err = change(); faas.KindOf(err) != faas.Conflict {
			return v, err
		}
	}
	return v, err
}

// update changes a function as s says, and of its rules those that the flags name.
func (f *reachFlags) update(ctx context.Context, cl *client.Client, n name, s client.Settings, pull string) (client.Function, error) {
	if !f.changes() {
		return cl.UpdateFunction(ctx, n.app, n.function, s, pull)
	}
	return overtaken(func() (client.Function, error) {
		old, err := cl.Function(ctx, n.app, n.function)
		if err != nil {
			return old, err
		}
		rules, err := f.rules(n.short(), old.Allow)
		if err != nil {
			return old, err
		}
		s.Allow, s.Revision = &rules, old.Revision
		return cl.UpdateFunction(ctx, n.app, n.function, s, pull)
	})
}

// updateApp is update for an app.
func (f *reachFlags) updateApp(ctx context.Context, cl *client.Client, name string, s client.AppSettings) (client.App, error) {
	if !f.changes() {
		return cl.UpdateApp(ctx, name, s)
	}
	return overtaken(func() (client.App, error) {
		old, err := cl.App(ctx, name)
		if err != nil {
			return old, err
		}
		rules, err := f.rules("app "+name, old.Allow)
		if err != nil {
			return old, err
		}
		s.Allow, s.Revision = &rules, old.Revision
		return cl.UpdateApp(ctx, name, s)
	})
}

// reachOf is what a function chooses itself, in its fields and annotations.
func reachOf(f client.Function) faas.Reach {
	return faas.Function{Network: f.Network, Allow: f.Allow, Annotations: plain(f.Annotations)}.Reach()
}

// reachOfApp is reachOf for an app.
func reachOfApp(a client.App) faas.Reach {
	return faas.App{Network: a.Network, Allow: a.Allow, Annotations: plain(a.Annotations)}.Reach()
}

func plain(annotations client.Annotations) map[string]string {
	all := map[string]string{}
	for key, value := range annotations {
		all[key] = string(value)
	}
	return all
}

// defaults are what its app and the server choose for a function.
type defaults struct {
	app     faas.Reach
	network string // of the server; "": not known
}

// defaultsOf asks for those that matter to f; what the server does not tell is zero.
func defaultsOf(ctx context.Context, cl *client.Client, f client.Function) (d defaults) {
	if app, err := cl.App(ctx, f.App); err == nil {
		d.app = reachOfApp(app)
	}
	if reachOf(f).Network != "" || d.app.Network != "" || f.Profile == string(faas.ProfileFn) { // that has networks of its own
		return d
	}
	if node, err := cl.Node(ctx); err == nil {
		d.network = node.Network
	}
	return d
}

// reachRows show what a function reaches, and what it has of the machine.
func reachRows(t table, f client.Function, d defaults) {
	own := reachOf(f)
	switch {
	case own.Network != "":
		t.row("network", own.Network)
	case d.app.Network != "":
		t.row("network", d.app.Network+" (of the app)")
	case d.network != "":
		t.row("network", d.network+" (of the server)")
	default:
		t.row("network", "of the server")
	}
	for _, rule := range own.Allow {
		t.row("allow", rule)
	}
	if mode := faas.NetworkMode(own.Network); mode != faas.NetworkNone && mode != faas.NetworkHost {
		for _, rule := range d.app.Allow {
			t.row("allow", rule+" (of the app)")
		}
	}
	isolation := faas.Function{Isolation: faas.Isolation(f.Isolation), Annotations: plain(f.Annotations)}.OwnIsolation()
	t.row("isolation", or(string(isolation), "of the server"))
	t.row("devices", orDash(strings.Join(f.Devices, ", ")))
}
