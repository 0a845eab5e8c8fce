package launch_test

import (
	"slices"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/launch"
)

func TestTheNearestChoosesTheNetworkAndRulesAddUp(t *testing.T) {
	reach := func(network string, allow ...string) faas.Reach { return faas.Reach{Network: network, Allow: allow} }
	named := map[string]faas.Egress{
		"db":     {Mode: faas.NetworkAllow, Rules: rules(t, "10.9.0.0/16:5432")},
		"closed": {Mode: faas.NetworkNone},
	}
	for _, c := range []struct {
		name          string
		node, app, fn faas.Reach
		profile       faas.Profile
		want          string // mode, and rules
	}{
		{name: "nobody chooses", want: "none"},
		{name: "the node", node: reach("open"), want: "open"},
		{name: "the app", node: reach("open"), app: reach("none"), want: "none"},
		{name: "the function", node: reach("open"), app: reach("none"), fn: reach("open"), want: "open"},
		{name: "rules of all", node: reach("open", "10.0.0.1:1"), app: reach("", "10.0.0.2:2"), fn: reach("", "10.0.0.3:3"), want: "open 10.0.0.3:3 10.0.0.2:2 10.0.0.1:1"},
		{name: "rules of all with a mode of the function", node: reach("open", "10.0.0.1:1"), fn: reach("allow", "10.0.0.3:3"), want: "allow 10.0.0.3:3 10.0.0.1:1"},
		{name: "rules in front of none", node: reach("none"), fn: reach("", "10.0.0.3:3"), want: "allow 10.0.0.3:3"},
		{name: "rules behind none", node: reach("open", "10.0.0.1:1"), app: reach("", "10.0.0.2:2"), fn: reach("none"), want: "none"},
		{name: "none of the app before rules of the node", node: reach("open", "10.0.0.1:1"), app: reach("none"), fn: reach("", "10.0.0.3:3"), want: "allow 10.0.0.3:3"},
		{name: "host", node: reach("open", "10.0.0.1:1"), fn: reach("host"), want: "host"},
		{name: "by name", node: reach("open", "10.0.0.1:1"), fn: reach("db", "10.0.0.3:3"), want: "allow 10.9.0.0/16:5432 10.0.0.3:3 10.0.0.1:1"},
		{name: "by name, closed", node: reach("closed"), want: "none"},
		{name: "of Fn", node: reach("open"), profile: faas.ProfileFn, want: "allow 10.9.0.0/16:5432"},
		{name: "of Fn, chosen by its app", node: reach("open"), app: reach("open"), profile: faas.ProfileFn, want: "open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := launch.Networks{Default: c.node, Named: named, Fn: []string{"db"}}
			app := faas.App{Network: c.app.Network, Allow: c.app.Allow}
			egress, _, err := n.Of(app, faas.Function{Network: c.fn.Network, Allow: c.fn.Allow, Profile: c.profile}, func(string) int { return 0 })
			if err != nil {
				t.Fatal(err)
			}
			got := string(egress.Mode)
			for _, r := range egress.Rules {
				got += " " + r.String()
			}
			if got != c.want {
				t.Errorf("reaches %q, want %q", got, c.want)
			}
		})
	}
}

func TestAnnotationsChooseWhereFieldsDoNot(t *testing.T) {
	var n launch.Networks
	fn := faas.Function{Allow: []string{"10.0.0.1:1"}, Annotations: map[string]string{
		faas.AnnotationNetwork: `"open"`, faas.AnnotationAllow: `["10.0.0.2:2"]`,
	}}
	egress, _, err := n.Of(faas.App{}, fn, nil)
	if err != nil || egress.Mode != faas.NetworkOpen || !slices.Equal(egress.Rules, rules(t, "10.0.0.1:1", "10.0.0.2:2")) {
		t.Errorf("%+v, %v", egress, err)
	}
	fn.Network = "allow"
	if egress, _, err = n.Of(faas.App{}, fn, nil); err != nil || egress.Mode != faas.NetworkAllow {
		t.Errorf("%+v, %v", egress, err)
	}
}

func TestUnknownNetworkIsRefusedWithThoseThereAre(t *testing.T) {
	n := launch.Networks{Named: map[string]faas.Egress{"lan": {Mode: faas.NetworkOpen}, "db": {Mode: faas.NetworkAllow}}}
	_, _, err := n.Of(faas.App{}, faas.Function{Network: "dbs"}, nil)
	if faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), "none, open, allow, db, lan") {
		t.Errorf("%v", err)
	}
}

func TestRulesOfAllLevelsTogetherAreLimited(t *testing.T) {
	many := slices.Repeat([]string{"10.0.0.1:1"}, 40)
	n := launch.Networks{Default: faas.Reach{Network: "open", Allow: many}}
	_, _, err := n.Of(faas.App{}, faas.Function{Name: "f", Allow: many}, nil)
	if faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), "80") || !strings.Contains(err.Error(), "64") {
		t.Errorf("%v", err)
	}
}

func TestFnFunctionsGetTheNetworkWithTheFewest(t *testing.T) {
	n := launch.Networks{Fn: []string{"a", "b"}, Named: map[string]faas.Egress{"a": {Mode: faas.NetworkOpen}, "b": {Mode: faas.NetworkOpen}}}
	used := map[string]int{"a": 2, "b": 1}
	for _, want := range []string{"b", "a", "b"} {
		_, got, err := n.Of(faas.App{}, faas.Function{Profile: faas.ProfileFn}, func(name string) int { return used[name] })
		if err != nil || got != want {
			t.Fatalf("with %v it is in %q, %v; want %q", used, got, err, want)
		}
		used[got] += 2
	}
}

func rules(t *testing.T, texts ...string) []faas.EgressRule {
	t.Helper()
	rules, err := faas.ParseEgressRules(texts)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}
