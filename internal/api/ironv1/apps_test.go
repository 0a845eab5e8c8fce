package ironv1_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/store"
)

func TestMistakesInAppsAreToldInTheWordsOfBothFamilies(t *testing.T) {
	n := newNode(t)
	n.must("POST", "/v1/apps", `{"app":{"name":"a1","syslog_url":"tcp://h:1","annotations":{"x/y":{"a":1}}}}`)
	n.newRoute("full", "/r", "")
	key, value := strings.Repeat("k", 129), strings.Repeat("v", 511)
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		message                  string
	}{
		{"nothing new", "POST", "/v1/apps", `{}`, 400, "Missing new application"},
		{"null", "POST", "/v1/apps", `null`, 400, "Missing new application"},
		{"a null app", "PATCH", "/v1/apps/a1", `{"app":null}`, 400, "Missing new application"},
		{"an app without its wrapper", "POST", "/v1/apps", `{"name":"a2"}`, 400, "Missing new application"},
		{"no name", "POST", "/v1/apps", `{"app":{}}`, 400, "Missing app name"},
		{"a name that is too long", "POST", "/v1/apps", `{"app":{"name":"` + strings.Repeat("ä", 31) + `"}}`, 400, "App name must be 30 characters or less"},
		{"a space", "POST", "/v1/apps", `{"app":{"name":"bad name"}}`, 400, "Invalid app name"},
		{"a dot", "POST", "/v1/apps", `{"app":{"name":"a.b"}}`, 400, "Invalid app name"},
		{"a slash", "POST", "/v1/apps", `{"app":{"name":"a/b"}}`, 400, "Invalid app name"},
		{"an ID", "POST", "/v1/apps", `{"app":{"name":"a2","id":"x"}}`, 400, "App ID cannot be supplied on create"},
		{"the same again", "POST", "/v1/apps", `{"app":{"name":"a1"}}`, 409, "App already exists"},
		{"another name", "PATCH", "/v1/apps/a1", `{"app":{"name":"a2"}}`, 400, "Could not update app - name is immutable"},
		{"another ID", "PATCH", "/v1/apps/a1", `{"app":{"id":"x"}}`, 400, "App ID in path does not match ID in body"},
		{"no syslog", "PATCH", "/v1/apps/a1", `{"app":{"syslog_url":"ftp://x"}}`, 400,
			`invalid syslog url: "ftp://x" invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported`},
		{"a bad key", "PATCH", "/v1/apps/a1", `{"app":{"annotations":{"a b":1}}}`, 400,
			"Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace"},
		{"a long key", "PATCH", "/v1/apps/a1", `{"app":{"annotations":{"` + key + `":1}}}`, 400,
			"Invalid annotation key length, annotation keys may not be larger than 128 bytes"},
		{"a long value", "PATCH", "/v1/apps/a1", `{"app":{"annotations":{"a":"` + value + `"}}}`, 400,
			"Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON"},
		{"an empty value", "POST", "/v1/apps", `{"app":{"name":"a2","annotations":{"a":""}}}`, 400,
			"Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays"},
		{"a runner that is none", "PATCH", "/v1/apps/a1", `{"app":{"runner":"me"}}`, 400, `Invalid app runner: it is "external", or "" for this server`},
		{"no such app", "GET", "/v1/apps/nope", "", 404, "App not found"},
		{"no such app to change", "PATCH", "/v1/apps/nope", `{"app":{}}`, 404, "App not found"},
		{"no such app to remove", "DELETE", "/v1/apps/nope", "", 404, "App not found"},
		{"an app with routes", "DELETE", "/v1/apps/full", "", 400, "Cannot remove apps with routes"},
		{"force that is none", "DELETE", "/v1/apps/full?force=maybe", "", 400, `force is "maybe": it must be true or false`},
		{"force that says no", "DELETE", "/v1/apps/full?force=false", "", 400, "Cannot remove apps with routes"},
		{"config with a number", "PATCH", "/v1/apps/a1", `{"app":{"config":{"A":1}}}`, 400, "Invalid JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.t = t
			n.refused(tt.method, tt.path, tt.body, tt.status, tt.message)
		})
	}
	n.t = t
	n.holds(n.must("GET", "/v1/apps/a1", "")["app"].(map[string]any), map[string]any{"syslog_url": "tcp://h:1", "annotations": map[string]any{"x/y": map[string]any{"a": 1}}})
}

func TestAppIsMergedAndShownWithTheFieldsOfBothFamilies(t *testing.T) {
	n := newNode(t)
	patch := func(fields string) map[string]any {
		return n.must("PATCH", "/v1/apps/a", `{"app":{`+fields+`}}`)["app"].(map[string]any)
	}
	app := n.must("POST", "/v1/apps", `{"app":{"name":"a"}}`)["app"].(map[string]any)
	for _, field := range []string{"id", "name", "config", "created_at", "updated_at"} {
		if app[field] == nil {
			t.Errorf("a new app has no %s: %v", field, app)
		}
	}
	patch(`"config":{"A":"1","B":"2"},"annotations":{"x":1,"y":[2]},"syslog_url":"udp://h:1","name":"a"`)
	before := patch(`"config":{"A":"","C":"3"},"annotations":{"x":""}`)
	n.holds(before, map[string]any{"config": map[string]any{"B": "2", "C": "3"}, "annotations": map[string]any{"y": []int{2}}, "syslog_url": "udp://h:1"})
	n.holds(patch(`"config":{"B":"2"},"runner":null`), before) // updated_at, too
	n.holds(patch(`"syslog_url":""`), map[string]any{"syslog_url": nil, "config": before["config"]})

	n.holds(patch(`"runner":"external"`), map[string]any{"runner": "external"})
	if a, _ := n.Catalog.App("a"); !a.External() {
		t.Errorf("the app is %+v", a)
	}
	n.holds(patch(`"config":{"D":"4"}`), map[string]any{"runner": "external"})
	n.holds(patch(`"runner":""`), map[string]any{"runner": nil, "annotations": map[string]any{"y": []int{2}}})
	n.holds(n.must("POST", "/v1/apps", `{"app":{"name":"b","runner":"external"}}`)["app"].(map[string]any), map[string]any{"runner": "external"})
	n.holds(n.must("POST", "/v1/apps", `{"app":{"name":"c","runner":""}}`)["app"].(map[string]any), map[string]any{"runner": nil})
}

func TestAppsMadeElsewhereAreThere(t *testing.T) {
	n := newNode(t)
	n.want("GET", "/v1/apps", "", 200, `{"message":"Successfully listed applications","next_cursor":"","apps":[]}`+"\n")
	n.refused("GET", "/v1/apps/default", "", 404, "App not found") // nobody has done anything with it
	n.newRoute("default", "/x", "")
	n.must("GET", "/v1/apps/default", "")

	long := strings.Repeat("x", 31)
	if status, body := send(n.fn(), "POST", "/v2/apps", fmt.Sprintf(`{"name":%q}`, long)); status != http.StatusOK {
		t.Fatal(status, body)
	}
	n.must("GET", "/v1/apps/"+long, "")
	n.newRoute(long, "/x", "")
	n.refused("POST", "/v1/apps/"+long+"y/routes", `{"route":{"path":"/x","image":"i"}}`, 400, "App name must be 30 characters or less")
}

func TestAppWithFunctionsOrRoutesIsRemovedByForceOnly(t *testing.T) {
	n := newNode(t)
	n.newRoute("a", "/r", "")
	app, _ := n.Catalog.App("a")
	n.put(faas.Function{App: app.ID, Name: "other", Image: "x"}.WithDefaults())
	n.refused("DELETE", "/v1/apps/a", "", 400, "Cannot remove apps with routes")
	n.must("DELETE", "/v1/apps/a/routes/r", "")
	n.refused("DELETE", "/v1/apps/a", "", 400, "Cannot remove apps with functions: no route leads to other, which would go too; ?force=true removes all")
	n.newRoute("a", "/r", "")
	n.want("DELETE", "/v1/apps/a?force=true", "", 200, `{"message":"App deleted"}`+"\n")
	n.refused("GET", "/v1/apps/a", "", 404, "App not found")
	if all := n.Catalog.Functions("a"); len(all) != 0 {
		t.Errorf("functions %v are left", all)
	}
}

// TestHalfARouteIsNotInTheWay is about what a killed daemon leaves.
func TestHalfARouteIsNotInTheWay(t *testing.T) {
	n := newNode(t)
	n.must("POST", "/v1/apps", `{"app":{"name":"a"}}`)
	app, _ := n.Catalog.App("a")
	half := n.put(faas.Function{App: app.ID, Name: "r", Image: "old", Beside: map[string]string{"iron": "/r"}}.WithDefaults())
	n.handler = n.Server.Handler() // the next daemon
	n.newRoute("a", "/r", `"memory":256`)
	if fn, _ := n.function("a", "/r"); fn.ID != half.ID || fn.Image != "x/y:1" || fn.Memory != 256*faas.MB {
		t.Errorf("the route has %+v, and not what was left", fn)
	}
	n.must("DELETE", "/v1/apps/a/routes/r", "")
	n.put(faas.Function{App: app.ID, Name: "s", Image: "old", Beside: map[string]string{"iron": "/s"}}.WithDefaults())
	n.newRoute("a", "/s", "") // somebody may be making the other
	if got := fmt.Sprint(n.names("a")); got != "[s s-2]" {
		t.Errorf("the functions are %s", got)
	}
	n.must("DELETE", "/v1/apps/a/routes/s", "")
	n.must("DELETE", "/v1/apps/a", "")
}

func (n *node) put(fn faas.Function) faas.Function {
	n.t.Helper()
	fn, err := n.Catalog.PutFunction(n.t.Context(), fn, store.IfNew)
	if err != nil {
		n.t.Fatal(err)
	}
	return fn
}
