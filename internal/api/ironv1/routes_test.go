package ironv1_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hob/faas"
)

const (
	timeoutRange = "timeout value is out of range. Sync should be between 0 and 300, async should be between 0 and 3600"
	idleRange    = "idle_timeout value is out of range. It should be between 0 and 3600"
	memoryRange  = "memory value is out of range. It should be between 0 and 8192"
	cpusRange    = "Cpus is invalid. Value should be either between [0.000 and 1024.000] or [0m and 1024000m] milliCPU units"
)

func TestMistakesInRoutesAreToldInTheWordsOfBothFamilies(t *testing.T) {
	n := newNode(t)
	n.newRoute("a", "/r", `"timeout":30`)
	n.newRoute("a", "/async", `"type":"async","timeout":3600`)
	const list, route = "/v1/apps/a/routes", "/v1/apps/a/routes/r"
	ok := func(fields string) string { return `{"route":{"path":"/new","image":"i",` + fields + `}}` }
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		message                  string
	}{
		{"nothing new", "POST", list, `{}`, 400, "Missing new route"},
		{"null", "POST", list, `{"route":null}`, 400, "Missing new route"},
		{"nothing to change", "PATCH", route, `{}`, 400, "Missing new route"},
		{"no path", "POST", list, `{"route":{"image":"i"}}`, 400, "Missing route Path"},
		{"no image", "POST", list, `{"route":{"path":"/new"}}`, 400, "Missing route Image"},
		{"no image of a new one", "PUT", "/v1/apps/a/routes/new", `{"route":{}}`, 400, "Missing route Image"},
		{"an image that is none", "POST", list, `{"route":{"path":"/new","image":"a b"}}`, 400, "Invalid route Image"},
		{"a path that is none", "POST", list, `{"route":{"path":"/%zz","image":"i"}}`, 400, "Path malformed"},
		{"no slash", "POST", list, `{"route":{"path":"new","image":"i"}}`, 400, "Invalid Path format"},
		{"a URL", "POST", list, `{"route":{"path":"http://h/x","image":"i"}}`, 400, "Invalid Path format"},
		{"a parameter", "POST", list, `{"route":{"path":"/users/:id","image":"i"}}`, 400, "Dynamic URL is not allowed"},
		{"a long path", "POST", list, `{"route":{"path":"/` + strings.Repeat("x", 1024) + `","image":"i"}}`, 400, "the path of the route has 1025 bytes, over the limit of 1024"},
		{"another type", "POST", list, ok(`"type":"later"`), 400, "Invalid route Type"},
		{"another format", "POST", list, ok(`"format":"xml"`), 400, "Invalid route Format"},
		{"the same again", "POST", list, `{"route":{"path":"/r","image":"i"}}`, 409, "Route already exists"},
		{"the same in other words", "POST", list, `{"route":{"path":"//x/../r/","image":"i"}}`, 409, "Route already exists"},
		{"another path", "PATCH", route, `{"route":{"path":"/x"}}`, 409, "Could not update - path is immutable"},
		{"another path in a PUT", "PUT", route, `{"route":{"path":"/x","image":"i"}}`, 409, "Could not update - path is immutable"},
		{"another path of a new one", "PUT", "/v1/apps/a/routes/new", `{"route":{"path":"/x","image":"i"}}`, 409, "Could not update - path is immutable"},
		{"no such route", "GET", list + "/nope", "", 404, "Route not found"},
		{"no such route to change", "PATCH", list + "/nope", `{"route":{"image":"i"}}`, 404, "Route not found"},
		{"no such route to remove", "DELETE", list + "/nope", "", 404, "Route not found"},
		{"no such app", "GET", "/v1/apps/nope/routes", "", 404, "App not found"},
		{"a route of no app", "GET", "/v1/apps/nope/routes/r", "", 404, "App not found"},
		{"an app that none can be", "POST", "/v1/apps/a.b/routes", `{"route":{"path":"/r","image":"i"}}`, 400, "Invalid app name"},
		{"an app with a long name", "PUT", "/v1/apps/" + strings.Repeat("x", 31) + "/routes/r", `{"route":{"image":"i"}}`, 400, "App name must be 30 characters or less"},

		{"negative timeout", "POST", list, ok(`"timeout":-1`), 400, "Negative timeout"},
		{"negative idle timeout", "PATCH", route, `{"route":{"idle_timeout":-1}}`, 400, "Negative idle timeout"},
		{"negative concurrency", "POST", list, ok(`"max_concurrency":-1`), 400, "Negative MaxConcurrency"},
		{"negative concurrency in words", "PATCH", route, `{"route":{"max_concurrency":"-1"}}`, 400, "Negative MaxConcurrency"},
		{"negative memory", "POST", list, ok(`"memory":-1`), 400, "Invalid JSON"},
		{"negative tmpfs_size", "POST", list, ok(`"tmpfs_size":-1`), 400, "Invalid JSON"},
		{"timeout", "POST", list, ok(`"timeout":301`), 400, timeoutRange},
		{"timeout of an async one", "POST", list, ok(`"type":"async","timeout":3601`), 400, timeoutRange},
		{"timeout that is changed", "PATCH", route, `{"route":{"timeout":301}}`, 400, timeoutRange},
		{"type for which it is too long", "PATCH", list + "/async", `{"route":{"type":"sync"}}`, 400, timeoutRange},
		{"idle timeout", "POST", list, ok(`"idle_timeout":3601`), 400, idleRange},
		{"memory", "POST", list, ok(`"memory":8193`), 400, memoryRange},
		{"memory that is changed", "PATCH", route, `{"route":{"memory":8193}}`, 400, memoryRange},
		{"cpus", "POST", list, ok(`"cpus":"1024.001"`), 400, cpusRange},
		{"cpus in thousandths", "POST", list, ok(`"cpus":"1024001m"`), 400, cpusRange},
		{"negative cpus", "POST", list, ok(`"cpus":"-1"`), 400, cpusRange},
		{"cpus that are none", "PATCH", route, `{"route":{"cpus":"1e3"}}`, 400, cpusRange},
		{"cpus too finely", "POST", list, ok(`"cpus":"0.0001"`), 400, cpusRange},
		{"cpus below the least", "PATCH", route, `{"route":{"cpus":"1m"}}`, 400,
			`Cpus is invalid. Value should be either between [0.010 and 1024.000] or [10m and 1024000m] milliCPU units: "1m" is under the least of a sandbox`},
		{"a long key", "POST", list, ok(`"jwt_key":"` + strings.Repeat("k", 1025) + `"`), 400, "jwt_key has 1025 bytes, over the limit of 1024"},
		{"cpus as a number", "POST", list, ok(`"cpus":1`), 400, "Invalid JSON"},

		{"a string for timeout", "POST", list, ok(`"timeout":"30"`), 400, "Invalid JSON"},
		{"a string for idle_timeout", "PATCH", route, `{"route":{"idle_timeout":"30"}}`, 400, "Invalid JSON"},
		{"a string for memory", "POST", list, ok(`"memory":"128"`), 400, "Invalid JSON"},
		{"a string for tmpfs_size", "POST", list, ok(`"tmpfs_size":"1"`), 400, "Invalid JSON"},
		{"a string that holds no number", "POST", list, ok(`"max_concurrency":"many"`), 400, "Invalid JSON"},
		{"a string that holds nothing", "POST", list, ok(`"max_concurrency":""`), 400, "Invalid JSON"},
		{"half a call", "POST", list, ok(`"max_concurrency":1.5`), 400, "Invalid JSON"},
		{"a timeout of half a second", "POST", list, ok(`"timeout":0.5`), 400, "Invalid JSON"},
		{"a timeout that is no int32", "POST", list, ok(`"timeout":2147483648`), 400, "Invalid JSON"},
		{"headers that are no lists", "POST", list, ok(`"headers":{"X":[1]}`), 400, "Invalid JSON"},
		{"a header of a number", "POST", list, ok(`"headers":{"X":1}`), 400, "Invalid JSON"},
		{"a header with a space", "POST", list, ok(`"headers":{"a b":["1"]}`), 400, `bad header name "a b": use letters, digits and '-'`},
		{"a header of two lines", "PATCH", route, `{"route":{"headers":{"X":["a\r\nb"]}}}`, 400, `the value "a\r\nb" of header X holds what a header cannot`},
		{"config with =", "POST", list, ok(`"config":{"A=B":"1"}`), 400,
			`bad environment variable "A=B": a name is not empty and holds no '=', and neither name nor value holds a zero byte`},
		{"an empty annotation", "POST", list, ok(`"annotations":{"a":null}`), 400,
			"Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays"},
		{"a cursor that never was one", "GET", list + "?cursor=!", "", 400, "Invalid cursor: use the next_cursor of the page before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.t = t
			n.refused(tt.method, tt.path, tt.body, tt.status, tt.message)
		})
	}
	n.t = t
	if got := fmt.Sprint(n.names("a")); got != "[async r]" {
		t.Errorf("there are the functions %s", got)
	}
	n.refused("POST", "/v1/apps/unborn/routes", `{"route":{"path":"/r"}}`, 400, "Missing route Image")
	n.refused("GET", "/v1/apps/unborn", "", 404, "App not found") // what is no route makes no app
}

func TestNewRouteHasTheDefaultsAndFieldsOfBothFamilies(t *testing.T) {
	n := newNode(t)
	route := n.newRoute("a", "/hello", `"config":null,"annotations":{"x":1}`)
	app := n.must("GET", "/v1/apps/a", "")["app"].(map[string]any) // the route has made it
	n.holds(route, map[string]any{
		"app_name": "a", "app_id": app["id"], "path": "/hello", "image": "x/y:1", "memory": 128, "cpus": "", "headers": map[string]any{}, "type": "sync", "format": "default",
		"max_concurrency": 1, "timeout": 30, "idle_timeout": 30, "tmpfs_size": 0, "config": map[string]any{}, "jwt_key": "", "annotations": map[string]any{"x": 1},
	})
	if len(route) != 18 || !isTime(route["created_at"]) || !isTime(route["updated_at"]) {
		t.Errorf("a route has %d fields: %v", len(route), route)
	}
	fn, trigger := n.function("a", "/hello")
	if fn.Name != "hello" || trigger.Name != "hello" || trigger.Convention != faas.ConventionFn || fn.Beside["iron"] != "/hello" || !fn.Writable || fn.User != "" ||
		fn.Line != 100 || fn.MaxConcurrency != 0 || fn.Retries != 0 || fn.TmpSize != fn.Memory || fn.AsyncTimeout != 0 {
		t.Errorf("function %+v\ntrigger %+v", fn, trigger)
	}
}

func isTime(v any) bool {
	text, _ := v.(string)
	_, err := time.Parse("2006-01-02T15:04:05.000Z", text)
	return err == nil
}

func TestFieldsOfBothFamiliesMeanWhatTheySay(t *testing.T) {
	n := newNode(t)
	all := `"memory":4,"cpus":"0.1","headers":{"x-a":["1","2"],"X-B":"3"},"type":"async","format":"http","max_concurrency":"7","timeout":3600,"idle_timeout":3600,` +
		`"tmpfs_size":512,"config":{"A":"1","E":""},"jwt_key":"secret","app_name":"another","app_id":"another","created_at":"2001-01-01T00:00:00Z"`
	want := map[string]any{
		"app_name": "a", "memory": 4, "cpus": "100m", "headers": map[string]any{"X-A": []string{"1", "2"}, "X-B": []string{"3"}}, "type": "async", "format": "http",
		"max_concurrency": 7, "timeout": 3600, "idle_timeout": 3600, "tmpfs_size": 512, "config": map[string]any{"A": "1", "E": ""}, "jwt_key": "secret",
	}
	n.holds(n.newRoute("a", "/all", all), want)
	n.holds(n.getRoute("a", "/all"), want)
	fn, trigger := n.function("a", "/all")
	if fn.Memory != faas.MinMemory || fn.CPU != 100 || fn.TmpSize != fn.Memory || fn.MaxConcurrency != 7 || fn.Timeout != time.Hour || fn.AsyncTimeout != time.Hour || fn.Idle != time.Hour {
		t.Errorf("function %+v", fn)
	}
	if !trigger.Async || trigger.Key != "secret" || fmt.Sprint(trigger.Header) != "map[X-A:[1 2] X-B:[3]]" {
		t.Errorf("trigger %+v", trigger)
	}
	n.holds(n.patch("a", "/all", `"memory":1024`), map[string]any{"tmpfs_size": 512, "memory": 1024})
	if fn, _ := n.function("a", "/all"); fn.TmpSize != 512*faas.MB {
		t.Errorf("/tmp has %v", fn.TmpSize)
	}
	for _, format := range []string{"default", "http", "json", "cloudevent", "http-stream", "lambda", "port"} {
		n.newRoute("a", "/"+format, `"format":"`+format+`"`)
		fn, _ := n.function("a", "/"+format)
		if fn.MaxConcurrency != map[bool]int{true: 1}[fn.Format.Hot()] {
			t.Errorf("format %s has max_concurrency %d", format, fn.MaxConcurrency)
		}
		if stream := format == "http-stream"; stream != (fn.Profile == faas.ProfileFn && fn.User == "1000:1000" && !fn.Writable) {
			t.Errorf("format %s: %+v", format, fn)
		}
	}
	n.newRoute("a", "/one", `"max_concurrency":1`)
	if fn, _ := n.function("a", "/one"); fn.MaxConcurrency != 1 {
		t.Errorf("max_concurrency 1 of format default is %d", fn.MaxConcurrency)
	}
	n.newRoute("a", "/here", `"image":"here"`)
	if fn, _ := n.function("a", "/here"); fn.Digest == "" {
		t.Error("an image that is on the node is not pinned")
	}
	n.newRoute("a", "/capital", `"image":"USERNAME/hchttp"`)
}

func TestChangeMergesAndLeavesWhatItDoesNotName(t *testing.T) {
	n := newNode(t)
	route := n.newRoute("a", "/r", `"config":{"A":"1","B":"2"},"headers":{"X":["1"],"Y":["2"]},"annotations":{"x":1},"jwt_key":"k","memory":256,"tmpfs_size":32,"cpus":"1"`)
	whole, err := json.Marshal(route)
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{"", `"memory":0,"timeout":0,"idle_timeout":0,"max_concurrency":0,"image":"","cpus":"","type":"","format":"","jwt_key":""`, `"max_concurrency":1,"timeout":30`,
		`"path":"/r"`, `"path":"//r/"`, `"headers":{"x":["1"],"Z":[]}`, `"config":{"A":"1","Z":""}`, strings.Trim(string(whole), "{}")} {
		n.holds(n.patch("a", "/r", same), route) // updated_at, too
	}
	got := n.patch("a", "/r", `"config":{"A":"","C":"3"},"headers":{"x":["3","4"],"y":[]},"annotations":{"x":"","y":true},"image":"z"`)
	n.holds(got, map[string]any{
		"config": map[string]any{"B": "2", "C": "3"}, "headers": map[string]any{"X": []string{"3", "4"}}, "annotations": map[string]any{"y": true}, "image": "z",
		"jwt_key": "k", "memory": 256, "tmpfs_size": 32, "cpus": "1000m", "created_at": route["created_at"],
	})
	n.holds(n.patch("a", "/r", `"headers":{"X":["3","4"]}`), got) // not added again
	n.holds(n.patch("a", "/r", `"format":"json"`), map[string]any{"format": "json", "max_concurrency": 1})
	if fn, _ := n.function("a", "/r"); fn.MaxConcurrency != 1 {
		t.Errorf("a hot route has max_concurrency %d", fn.MaxConcurrency)
	}
	n.patch("a", "/r", `"format":"http-stream"`)
	n.patch("a", "/r", `"format":"default"`)
	if fn, _ := n.function("a", "/r"); fn.MaxConcurrency != 0 || !fn.Writable || fn.User != "" || fn.Profile != "" {
		t.Errorf("a cold route again is %+v", fn)
	}
	n.holds(n.patch("a", "/r", `"type":"async","timeout":3600`), map[string]any{"type": "async", "timeout": 3600})
	n.holds(n.patch("a", "/r", `"type":"sync","timeout":300`), map[string]any{"type": "sync", "timeout": 300})
	if fn, _ := n.function("a", "/r"); fn.Timeout != 5*time.Minute || fn.TimeoutOf(faas.CallAsync) != 5*time.Minute {
		t.Errorf("timeouts %v and %v", fn.Timeout, fn.AsyncTimeout)
	}
}

func TestPutMakesOrChanges(t *testing.T) {
	n := newNode(t)
	for _, want := range []string{"Route successfully created", "Route successfully updated"} {
		if got := n.must("PUT", "/v1/apps/new/routes/%2Fr", `{"route":{"image":"i","path":"/r","config":{"A":"1"}}}`); got["message"] != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	got := n.must("PUT", "/v1/apps/new/routes/r", `{"route":{"config":{"B":"2"}}}`)["route"].(map[string]any)
	n.holds(got, map[string]any{"image": "i", "config": map[string]any{"A": "1", "B": "2"}})
	n.must("PUT", "/v1/apps/new/routes/a/../b//", `{"route":{"image":"i"}}`)
	n.getRoute("new", "/b")
	n.must("PUT", "/v1/apps/new/routes/", `{"route":{"image":"i"}}`)
	n.getRoute("new", "/")
}

func TestPathsThatAreOneRoute(t *testing.T) {
	n := newNode(t)
	n.newRoute("a", "/hello", "")
	n.newRoute("a", "/hello/world", "") // one is a prefix of the other
	n.newRoute("a", "/", "")
	n.newRoute("a", "//x/../q/", "")
	for path, want := range map[string]string{
		"/hello": "/hello", "/%2Fhello": "/hello", "//hello": "/hello", "/%2F%2Fhello": "/hello", "/hello/": "/hello", "/./hello": "/hello", "/x/../hello": "/hello", "/../../hello": "/hello",
		"/%2E%2E/hello": "/hello", "/%2F..%2F..%2Fhello": "/hello", "/hello/world": "/hello/world", "/hello%2Fworld": "/hello/world", "/hello//world": "/hello/world",
		"/": "/", "/%2F": "/", "//": "/", "/..": "/", "/../../v1/apps": "", "/q": "/q", "/hell": "", "/hello/w": "", "/Hello": "", "/hello%00": "", "/hello%20": "",
	} {
		status, answer := n.do("GET", "/v1/apps/a/routes"+path, "")
		if want == "" && (status != 404 || answer != `{"error":{"message":"Route not found"}}`+"\n") || want != "" && (status != 200 || !strings.Contains(answer, `"path":"`+want+`"`)) {
			t.Errorf("%s: %d %s, want %q", path, status, answer, want)
		}
	}
	for _, path := range []string{"/hello%2F", "//hello/world", "/%2Fq", "/"} {
		n.want("DELETE", "/v1/apps/a/routes"+path, "", 200, `{"message":"Route deleted"}`+"\n")
	}
	n.want("GET", "/v1/apps/a/routes", "", 200, `{"message":"Successfully listed routes","next_cursor":"","routes":[]}`+"\n")
	if names := n.names("a"); len(names) != 0 {
		t.Errorf("the functions %v are left", names)
	}
}

func TestDynamicPathsAreRefusedUntilTheyAreSwitchedOn(t *testing.T) {
	n := newNode(t)
	const body = `{"route":{"path":"/users/:id","image":"i"}}`
	n.refused("POST", "/v1/apps/a/routes", body, 400, "Dynamic URL is not allowed")
	n.must("POST", "/v1/apps", `{"app":{"name":"on","annotations":{"hob/patterns":true}}}`)
	n.must("POST", "/v1/apps", `{"app":{"name":"off","annotations":{"hob/patterns":false}}}`)
	n.must("POST", "/v1/apps/on/routes", body)
	n.getRoute("on", "/users/:id")
	n.refused("PUT", "/v1/apps/off/routes/users/:id", `{"route":{"image":"i"}}`, 400, "Dynamic URL is not allowed")
	n.Patterns = true
	n.must("POST", "/v1/apps/a/routes", body)
	n.must("PUT", "/v1/apps/a/routes/static/*rest", `{"route":{"image":"i"}}`)
	n.refused("POST", "/v1/apps/on/routes", `{"route":{"path":"/users/:name","image":"i"}}`, 409, "Route already exists")
	if got := fmt.Sprint(n.names("on")); got != "[users._id]" {
		t.Errorf("functions %s", got)
	}
	n.refused("POST", "/v1/apps/off/routes", body, 400, "Dynamic URL is not allowed")
}

func TestPathsWithOneNameHaveFunctionsOfTheirOwn(t *testing.T) {
	n := newNode(t)
	for _, path := range []string{"/a/b", "/a.b", "/a.b-2", "/", "/root", "/x y", "/x?y"} {
		n.newRoute("a", path, "")
	}
	want := []string{"a.b", "a.b-2", "a.b-2-2", "root", "root-2", "x_y", "x_y-2"}
	if got := n.names("a"); !slices.Equal(got, want) {
		t.Errorf("functions %v, want %v", got, want)
	}
	n.must("DELETE", "/v1/apps/a/routes/a/b", "")
	n.newRoute("a", "/a/b", "")
	if fn, _ := n.function("a", "/a/b"); fn.Name != "a.b" {
		t.Errorf("a name that is free is not used: %s", fn.Name)
	}
}
