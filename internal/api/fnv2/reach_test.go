package fnv2_test

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"testing"

	"hob/faas"
)

func TestAnnotationsSayWhatFnsReach(t *testing.T) {
	n := newNode(t)
	app := n.must("POST", "/v2/apps", `{"name":"a","annotations":{"hob/network":"none"}}`)["id"].(string)
	id := n.newFn(app, "f")
	n.must("PUT", "/v2/fns/"+id, `{"annotations":{"hob/network":"allow","hob/allow":["db.lan:5432"],"hob/isolation":"gvisor"}}`)
	shown := n.must("GET", "/v2/fns/"+id, "")["annotations"].(map[string]any)
	if shown["hob/network"] != "allow" || !reflect.DeepEqual(shown["hob/allow"], []any{"db.lan:5432"}) || shown["hob/isolation"] != "gvisor" {
		t.Errorf("shown: %v", shown)
	}
	fn, err := n.Catalog.FunctionByID(id)
	if r := fn.Reach(); err != nil || r.Network != "allow" || !slices.Equal(r.Allow, []string{"db.lan:5432"}) || fn.OwnIsolation() != faas.IsolationGVisor {
		t.Errorf("the fn reaches %+v, isolation %s, %v", r, fn.OwnIsolation(), err)
	}
	if a, err := n.Catalog.AppByID(app); err != nil || a.Reach().Network != "none" {
		t.Errorf("the app reaches %+v, %v", a.Reach(), err)
	}
	n.must("PUT", "/v2/fns/"+id, `{"annotations":{"hob/network":"","hob/allow":null,"hob/isolation":""}}`)
	fn, err = n.Catalog.FunctionByID(id)
	if r := fn.Reach(); err != nil || r.Network != "" || len(r.Allow) > 0 || fn.OwnIsolation() != "" {
		t.Errorf("after their removal the fn reaches %+v, isolation %s, %v", r, fn.OwnIsolation(), err)
	}
}

func TestMistakesInWhatFnsReachAreToldWithTheReason(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	id := n.newFn(app, "f")
	for annotations, message := range map[string]string{
		`{"hob/network":7}`:      "annotation hob/network is 7: none, open, allow, or the name of a network is wanted, as text",
		`{"hob/network":"host"}`: "annotation hob/network cannot be host: that is for the API of hob itself",
		`{"hob/allow":"db:1"}`:   `annotation hob/allow is "db:1": a list such as ["db.lan:5432"] is wanted`,
		`{"hob/allow":["10.0.0.1"]}`: `allow "10.0.0.1": it names no port (want HOST:PORT such as api.example.com:443, ` +
			`10.0.0.0/8:5432 or [fd00::1]:80)`,
		`{"hob/network":"none","hob/allow":["a.b:1"]}`: `allow "a.b:1": the network is none, where rules mean nothing: take the rules away with it, or choose the network allow`,
	} {
		n.refused("PUT", "/v2/fns/"+id, `{"annotations":`+annotations+`}`, http.StatusBadRequest, message)
		n.refused("POST", "/v2/fns", `{"name":"g","app_id":"`+app+`","image":"x","annotations":`+annotations+`}`, http.StatusBadRequest, message)
		n.refused("PUT", "/v2/apps/"+app, `{"annotations":`+annotations+`}`, http.StatusBadRequest, message)
	}
	n.refused("PUT", "/v2/fns/"+id, `{"annotations":{"hob/isolation":"vm"}}`, http.StatusBadRequest,
		`annotation hob/isolation is "vm": one of native, gvisor, runc, crun is wanted, as text`)
	n.refused("PUT", "/v2/apps/"+app, `{"annotations":{"hob/isolation":"runc"}}`, http.StatusBadRequest,
		"annotation hob/isolation is for functions, not for app a")
}

// TestFnsThatTheNodeCannotServeAreRefused asks for what is right and not to be had.
func TestFnsThatTheNodeCannotServeAreRefused(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	id := n.newFn(app, "f")
	for kind, status := range map[faas.Kind]int{faas.Unsupported: http.StatusNotImplemented, faas.Denied: http.StatusForbidden, faas.Invalid: http.StatusBadRequest} {
		message := fmt.Sprintf("this node cannot (%s)", kind)
		n.Catalog.Admit = func(context.Context, faas.App, faas.Function) error { return faas.Errorf(kind, "%s", message) }
		n.refused("POST", "/v2/fns", `{"name":"g","app_id":"`+app+`","image":"x","annotations":{"hob/isolation":"gvisor"}}`, status, message)
		n.refused("PUT", "/v2/fns/"+id, `{"annotations":{"hob/isolation":"gvisor"}}`, status, message)
		n.refused("PUT", "/v2/apps/"+app, `{"annotations":{"hob/network":"lan"}}`, status, message)
	}
}
