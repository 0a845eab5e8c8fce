package launch

import (
	"cmp"
	"slices"

	"hob/faas"
)

// Networks is what an operator decides about what functions reach. The zero value
// gives every function a loopback and nothing else.
type Networks struct {
	Default faas.Reach             // of functions and apps that choose none, by rules they add to
	Named   map[string]faas.Egress // networks that can be chosen by name
	Fn      []string               // of Named, for functions of faas.ProfileFn that choose none, and whose apps do: each sandbox gets the one with the fewest
}

// Of returns what fn reaches: the mode of the nearest that chooses one (function, app,
// node), and the rules of all three together. Where a network of mode none is
// chosen, rules of whoever is nearer open what they say and nothing else; those of
// whoever is further mean nothing.
// used counts the sandboxes that are in a named network now.
func (n Networks) Of(app faas.App, fn faas.Function, used func(network string) int) (egress faas.Egress, named string, err error) {
	levels := []faas.Reach{fn.Reach(), app.Reach(), n.Default}
	if fn.Profile == faas.ProfileFn && len(n.Fn) > 0 {
		least := slices.MinFunc(n.Fn, func(a, b string) int { return cmp.Compare(used(a), used(b)) })
		levels = slices.Insert(levels, 2, faas.Reach{Network: least})
	}
	var rules []string
	for _, level := range levels {
		rules = append(rules, level.Allow...)
		if level.Network == "" || egress.Mode != "" {
			continue
		}
		if network, ok := n.Named[level.Network]; ok {
			egress, named = network, level.Network
		} else if egress, err = faas.ParseEgress(level.Network, nil); err != nil {
			return egress, "", faas.Errorf(faas.Invalid, "this node has no network %q: its networks are none, open, allow%s", level.Network, n.names())
		}
		if egress.Mode == faas.NetworkNone || egress.Mode == faas.NetworkHost {
			break
		}
	}
	if egress.Mode == faas.NetworkHost {
		return egress, named, nil
	}
	if n := len(egress.Rules) + len(rules); n > faas.MaxRules {
		return egress, named, faas.Errorf(faas.Invalid, "function %s is allowed %d addresses, with those of its app, its network and the node: at most %d can be", fn.Name, n, faas.MaxRules)
	}
	more, err := faas.ParseEgressRules(rules)
	if err != nil {
		return egress, named, err
	}
	egress.Rules = slices.Concat(egress.Rules, more)
	if egress.Mode = cmp.Or(egress.Mode, faas.NetworkNone); egress.Mode == faas.NetworkNone && len(egress.Rules) > 0 {
		egress.Mode = faas.NetworkAllow
	}
	return egress, named, nil
}

// names lists the named networks, as the end of a list.
func (n Networks) names() (list string) {
	all := make([]string, 0, len(n.Named))
	for name := range n.Named {
		all = append(all, name)
	}
	slices.Sort(all)
	for _, name := range all {
		list += ", " + name
	}
	return list
}
