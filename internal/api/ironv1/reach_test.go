package ironv1_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"hob/faas"
)

func TestAnnotationsSayWhatRoutesReach(t *testing.T) {
	n := newNode(t)
	n.must("POST", "/v1/apps", `{"app":{"name":"a","annotations":{"hob/network":"none"}}}`)
	got := n.newRoute("a", "/r", `"annotations":{"hob/network":"allow","hob/allow":["db.lan:5432"],"hob/isolation":"runc","x":1}`)
	n.holds(got, map[string]any{"annotations": map[string]any{"hob/network": "allow", "hob/allow": []string{"db.lan:5432"}, "hob/isolation": "runc", "x": 1}})
	fn, _ := n.function("a", "/r")
	if r := fn.Reach(); r.Network != "allow" || !slices.Equal(r.Allow, []string{"db.lan:5432"}) || fn.OwnIsolation() != faas.IsolationRunc {
		t.Errorf("the function reaches %+v, isolation %s", r, fn.OwnIsolation())
	}
	app, err := n.Catalog.App("a")
	if err != nil || app.Reach().Network != "none" {
		t.Errorf("the app reaches %+v, %v", app.Reach(), err)
	}
	n.holds(n.patch("a", "/r", `"annotations":{"hob/network":"","hob/allow":null,"hob/isolation":""}`), map[string]any{"annotations": map[string]any{"x": 1}})
	fn, _ = n.function("a", "/r")
	if r := fn.Reach(); r.Network != "" || len(r.Allow) > 0 || fn.OwnIsolation() != "" {
		t.Errorf("after their removal the function reaches %+v, isolation %s", r, fn.OwnIsolation())
	}
}

func TestMistakesInWhatRoutesReachAreToldWithTheReason(t *testing.T) {
	n := newNode(t)
	n.newRoute("a", "/r", "")
	for annotations, message := range map[string]string{
		`{"hob/network":7}`:      "annotation hob/network is 7: none, open, allow, or the name of a network is wanted, as text",
		`{"hob/network":"host"}`: "annotation hob/network cannot be host: that is for the API of hob itself",
		`{"hob/allow":"db:1"}`:   `annotation hob/allow is "db:1": a list such as ["db.lan:5432"] is wanted`,
		`{"hob/allow":["10.0.0.1"]}`: `allow "10.0.0.1": it names no port (want HOST:PORT such as api.example.com:443, ` +
			`10.0.0.0/8:5432 or [fd00::1]:80)`,
		`{"hob/network":"none","hob/allow":["a.b:1"]}`: `allow "a.b:1": the network is none, where rules mean nothing: take the rules away with it, or choose the network allow`,
	} {
		n.refused("PATCH", "/v1/apps/a/routes/r", `{"route":{"annotations":`+annotations+`}}`, http.StatusBadRequest, message)
		n.refused("POST", "/v1/apps/new/routes", `{"route":{"path":"/r","image":"x","annotations":`+annotations+`}}`, http.StatusBadRequest, message)
		n.refused("PATCH", "/v1/apps/a", `{"app":{"annotations":`+annotations+`}}`, http.StatusBadRequest, message)
	}
	isolation := "annotation hob/isolation is \"vm\": one of native, gvisor, runc, crun is wanted, as text"
	n.refused("PATCH", "/v1/apps/a/routes/r", `{"route":{"annotations":{"hob/isolation":"vm"}}}`, http.StatusBadRequest, isolation)
	n.refused("PATCH", "/v1/apps/a", `{"app":{"annotations":{"hob/isolation":"runc"}}}`, http.StatusBadRequest,
		"annotation hob/isolation is for functions, not for app a")
	n.refused("GET", "/v1/apps/new", "", http.StatusNotFound, "App not found")
}

// TestRoutesThatTheNodeCannotServeAreRefused asks for what is right and not to be had.
func TestRoutesThatTheNodeCannotServeAreRefused(t *testing.T) {
	n := newNode(t)
	n.newRoute("a", "/r", "")
	for kind, status := range map[faas.Kind]int{faas.Unsupported: http.StatusNotImplemented, faas.Denied: http.StatusForbidden, faas.Invalid: http.StatusBadRequest} {
		message := fmt.Sprintf("this node cannot (%s)", kind)
		n.Catalog.Admit = func(_ context.Context, app faas.App, fn faas.Function) error {
			if fn.OwnIsolation() == "" && app.Reach().Network != "lan" {
				return nil
			}
			return faas.Errorf(kind, "%s", message)
		}
		route := `"annotations":{"hob/isolation":"gvisor"}`
		n.refused("PATCH", "/v1/apps/a/routes/r", `{"route":{`+route+`}}`, status, message)
		n.refused("PUT", "/v1/apps/a/routes/r2", `{"route":{"image":"x",`+route+`}}`, status, message)
		n.refused("POST", "/v1/apps/new/routes", `{"route":{"path":"/r","image":"x",`+route+`}}`, status, message)
		n.refused("PATCH", "/v1/apps/a", `{"app":{"annotations":{"hob/network":"lan"}}}`, status, message)
		n.refused("POST", "/v1/apps", `{"app":{"name":"b","annotations":{"hob/network":"lan"}}}`, status, message)
	}
	if names := strings.Join(n.names("a"), " "); strings.Contains(names, "r2") {
		t.Errorf("functions of a: %s", names)
	}
	n.refused("GET", "/v1/apps/new", "", http.StatusNotFound, "App not found")
}
