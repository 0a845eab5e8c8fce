package ironv1_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/store"
)

// list asks for a list, and returns the values of one field, and the cursor.
func (n *node) list(target, field string) (values []string, next string) {
	n.t.Helper()
	got := n.must("GET", target, "")
	for _, kind := range []string{"apps", "routes"} {
		items, _ := got[kind].([]any)
		for _, item := range items {
			values = append(values, fmt.Sprint(item.(map[string]any)[field]))
		}
	}
	next, ok := got["next_cursor"].(string)
	if !ok {
		n.t.Errorf("%s: no next_cursor in %v", target, got)
	}
	return values, next
}

// pages reads a list page by page.
func (n *node) pages(target, field string, perPage int) (values []string, sizes []int) {
	n.t.Helper()
	for next := ""; ; {
		page, cursor := n.list(fmt.Sprintf("%sper_page=%d&cursor=%s", target, perPage, next), field)
		values, sizes = append(values, page...), append(sizes, len(page))
		if next = cursor; next == "" {
			return values, sizes
		}
	}
}

func TestListsHaveEverythingUnlessPagesAreAskedFor(t *testing.T) {
	n := newNode(t)
	var apps, paths []string
	for i := range 31 {
		apps, paths = append(apps, fmt.Sprintf("a%02d", i)), append(paths, fmt.Sprintf("/p%02d", i))
		n.must("POST", "/v1/apps", `{"app":{"name":"`+apps[i]+`"}}`)
	}
	for _, path := range paths {
		n.newRoute("a00", path, "")
	}
	for _, tt := range []struct {
		target, field string
		want          []string
	}{{"/v1/apps?", "name", apps}, {"/v1/apps/a00/routes?", "path", paths}, {"/v1/routes?", "path", paths}} {
		if got, next := n.list(tt.target, tt.field); !slices.Equal(got, tt.want) || next != "" {
			t.Errorf("%s: %v, %q", tt.target, got, next)
		}
		for query, want := range map[string]int{"per_page=30": 30, "per_page=31": 31, "per_page=7": 7, "cursor=": 30, "per_page=0": 30, "per_page=x": 30, "per_page=-1": 30, "per_page=1000": 31, "per_page=": 30} {
			if got, next := n.list(tt.target+query, tt.field); len(got) != want || (next == "") != (want == 31) {
				t.Errorf("%s%s: %d, %q", tt.target, query, len(got), next)
			}
		}
		for _, perPage := range []int{1, 10, 30, 31} {
			if got, _ := n.pages(tt.target, tt.field, perPage); !slices.Equal(got, tt.want) {
				t.Errorf("%s by %d: %v", tt.target, perPage, got)
			}
		}
	}
	if _, next := n.list("/v1/apps?per_page=2", "name"); next != "YTAx" { // base64url of "a01", as Fn v1 has it
		t.Errorf("cursor %q", next)
	}
	if _, next := n.list("/v1/apps/a00/routes?per_page=2", "path"); next != "L3AwMQ" {
		t.Errorf("cursor %q", next)
	}
}

func TestRoutesAreFilteredByImage(t *testing.T) {
	n := newNode(t)
	for i, image := range []string{"x", "y", "x", "x:latest", "x"} {
		n.newRoute(fmt.Sprint("a", i%2), fmt.Sprint("/", i), `"image":"`+image+`"`)
	}
	for target, want := range map[string]string{
		"/v1/apps/a0/routes?image=x": "[/0 /2 /4]", "/v1/apps/a1/routes?image=x": "[/3]", "/v1/apps/a1/routes?image=docker.io/library/x:latest": "[/3]", "/v1/apps/a1/routes?image=": "[/1 /3]", "/v1/routes?image=x": "[/0 /2 /4 /3]",
		"/v1/routes?image=y": "[/1]", "/v1/routes": "[/0 /2 /4 /1 /3]", "/v1/routes?image=z": "[]",
	} {
		if got, _ := n.list(target, "path"); fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", target, got, want)
		}
	}
	got, sizes := n.pages("/v1/apps/a0/routes?image=x&", "path", 2)
	if fmt.Sprint(got, sizes) != "[/0 /2 /4] [2 1]" {
		t.Errorf("%v %v", got, sizes)
	}
}

func TestRoutesOfAllAppsAreReadPageByPageWhileAppsGo(t *testing.T) {
	n := newNode(t)
	for i := range 6 {
		n.newRoute(fmt.Sprint("a", i/2), fmt.Sprint("/", i), "")
	}
	_, next := n.list("/v1/routes?per_page=1", "path")
	n.must("DELETE", "/v1/apps/a0?force=true", "")
	n.must("DELETE", "/v1/apps/a1/routes/2", "")
	if got, _ := n.list("/v1/routes?cursor="+next, "path"); fmt.Sprint(got) != "[/3 /4 /5]" {
		t.Errorf("%v", got)
	}
}

func TestPageOfAHundredOfManyReadsAHundred(t *testing.T) {
	n := newNode(t)
	app := n.must("POST", "/v1/apps", `{"app":{"name":"a"}}`)["app"].(map[string]any)["id"].(string)
	fn := n.put(faas.Function{App: app, Name: "f", Image: "x"}.WithDefaults())
	const many = 2000
	for i := range many {
		if _, err := n.Catalog.PutTrigger(t.Context(), faas.Trigger{App: app, Function: fn.ID, Name: fmt.Sprint("t", i), Type: faas.TriggerHTTP, Source: fmt.Sprintf("/%05d", i)}, store.IfNew); err != nil {
			t.Fatal(err)
		}
	}
	got, sizes := n.pages("/v1/apps/a/routes?", "path", 100)
	if len(got) != many || !slices.IsSorted(got) || len(sizes) != many/100 {
		t.Errorf("%d routes on %d pages", len(got), len(sizes))
	}
	cost := func(target string) float64 {
		return testing.AllocsPerRun(3, func() { n.do("GET", target, "") })
	}
	if few, all := cost("/v1/apps/a/routes?per_page=100"), cost("/v1/apps/a/routes"); few*10 > all {
		t.Errorf("a page of 100 costs %v allocations, all of them %v", few, all)
	}
}

func TestRoutesMadeElsewhereAreThere(t *testing.T) {
	n := newNode(t)
	v2 := n.fn()
	make := func(path, body string) string {
		t.Helper()
		status, answer := send(v2, "POST", path, body)
		var object struct{ ID string }
		if err := json.Unmarshal([]byte(answer), &object); err != nil || status != http.StatusOK {
			t.Fatal(status, answer, err)
		}
		return object.ID
	}
	app := make("/v2/apps", `{"name":"a"}`)
	fn := make("/v2/fns", `{"name":"f","app_id":"`+app+`","image":"i","memory":256,"timeout":300,"config":{"A":"1"}}`)
	for _, source := range []string{"/s", "//odd/", "/users/:id"} {
		make("/v2/triggers", fmt.Sprintf(`{"name":"t%d","app_id":%q,"fn_id":%q,"type":"http","source":%q}`, len(source), app, fn, source))
	}
	n.holds(n.getRoute("a", "/s"), map[string]any{
		"path": "/s", "image": "i", "memory": 256, "timeout": 300, "format": "http-stream", "type": "sync", "max_concurrency": 1, "tmpfs_size": 0, "config": map[string]any{"A": "1"},
	})
	n.holds(n.getRoute("a", "//odd/"), map[string]any{"path": "//odd/"})
	before, _ := n.function("a", "/s")
	whole, _ := json.Marshal(n.getRoute("a", "/s"))
	n.must("PATCH", "/v1/apps/a/routes/s", `{"route":`+string(whole)+`}`)
	if after, _ := n.function("a", "/s"); after.Revision != before.Revision {
		t.Errorf("a route that is sent back as it was is changed: %+v", after)
	}
	n.holds(n.patch("a", "//odd/", `"config":{"B":"2"},"headers":{"X":"1"},"path":"//odd/"`), map[string]any{"config": map[string]any{"A": "1", "B": "2"}})
	if fn, trigger := n.function("a", "//odd/"); fn.MaxConcurrency != 0 || fn.User != "1000:1000" || trigger.Convention != faas.ConventionHob {
		t.Errorf("more is changed than was named: %+v %+v", fn, trigger)
	}
	n.patch("a", "/users/:id", `"timeout":30`)
	for _, path := range []string{"/s", "//odd/", "/users/:id"} {
		n.must("DELETE", "/v1/apps/a/routes"+path, "")
	}
	if got := fmt.Sprint(n.names("a")); got != "[f]" { // it was not made here
		t.Errorf("functions %s", got)
	}
}

func TestRouteIsSeenThroughTheOtherAPI(t *testing.T) {
	n := newNode(t)
	route := n.newRoute("a", "/x/y", `"memory":4`)
	id := route["app_id"].(string)
	status, answer := send(n.fn(), "GET", "/v2/fns?app_id="+id, "")
	if status != 200 || !strings.Contains(answer, `"name":"x.y"`) || !strings.Contains(answer, `"memory":4`) {
		t.Error(status, answer)
	}
	if status, answer = send(n.fn(), "GET", "/v2/triggers?app_id="+id, ""); status != 200 || !strings.Contains(answer, `"source":"/x/y"`) {
		t.Error(status, answer)
	}
	fn, _ := n.function("a", "/x/y")
	if _, err := n.Catalog.PutTrigger(t.Context(), faas.Trigger{App: id, Function: fn.ID, Name: "other", Type: faas.TriggerHTTP, Source: "/other"}, store.IfNew); err != nil {
		t.Fatal(err)
	}
	n.must("DELETE", "/v1/apps/a/routes/x/y", "") // another leads to its function
	n.holds(n.getRoute("a", "/other"), map[string]any{"memory": 4})
	n.must("DELETE", "/v1/apps/a/routes/other", "")
	if names := n.names("a"); len(names) != 0 {
		t.Errorf("functions %v are left", names)
	}
}

// TestSizeOfTmpThatNobodyGaveIsNone, whatever the default is: a copy of the route is
// none that has a size.
func TestSizeOfTmpThatNobodyGaveIsNone(t *testing.T) {
	n := newNode(t)
	app, err := n.Catalog.PutApp(t.Context(), faas.App{Name: "a"}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		memory, tmp faas.Bytes
		want        int
	}{{"usual", 0, 0, 0}, {"small", 64 * faas.MB, 0, 0}, {"given", 128 * faas.MB, 20 * faas.MB, 20}} {
		fn, err := n.Catalog.PutFunction(t.Context(), faas.Function{App: app.ID, Name: tt.name, Image: "i", Memory: tt.memory, TmpSize: tt.tmp}.WithDefaults(), store.IfNew)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Catalog.PutTrigger(t.Context(), faas.Trigger{App: app.ID, Function: fn.ID, Name: "t", Type: faas.TriggerHTTP, Source: "/" + tt.name}, store.IfNew); err != nil {
			t.Fatal(err)
		}
		n.holds(n.getRoute("a", "/"+tt.name), map[string]any{"tmpfs_size": tt.want})
	}
}
