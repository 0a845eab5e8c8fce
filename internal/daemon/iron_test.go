package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/config"
)

// ironNode is a node as a client of IronFunctions sees it.
type ironNode struct {
	*node
	image string // of testdata/ironfn
}

func startIron(t *testing.T, change ...func(*config.Config)) *ironNode {
	t.Helper()
	n := &ironNode{node: start(t, change...)}
	n.image = n.node.image("ironfn")
	return n
}

// route makes a route of testdata/ironfn; more is what its JSON has besides.
func (n *ironNode) route(app, path, more string) {
	n.t.Helper()
	a := n.ask("POST", "/v1/apps/"+app+"/routes", fmt.Sprintf(`{"route":{"path":%q,"image":%q%s}}`, path, n.image, more))
	if a.status != 200 || !strings.Contains(a.body, `"message":"Route successfully created"`) {
		n.t.Fatalf("route %s of %s: %d %s", path, app, a.status, a.body)
	}
}

// wrong is the message of an error, and checks its form.
func (a answer) wrong(t *testing.T) string {
	t.Helper()
	var e struct {
		RequestID string `json:"request_id"`
		Error     struct{ Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || e.Error.Message == "" {
		t.Errorf("the body of the error is %q, %v", a.body, err)
	}
	if id := a.call(); id != "" && e.RequestID != id {
		t.Errorf("request_id %q of call %q", e.RequestID, id)
	}
	return e.Error.Message
}

// call is the ID that an answer names in both ways.
func (a answer) call() string {
	id := a.header.Get("Fn-Call-Id")
	if old := a.header["Fn_call_id"]; !slices.Equal(old, a.header["Fn-Call-Id"]) { // net/http makes Fn_call_id of what is sent
		return fmt.Sprint("two: ", old, id)
	}
	return id
}

// TestRouteOfTheSeed posts the route of the document on hot functions as it stands.
func TestRouteOfTheSeed(t *testing.T) {
	n := startIron(t)
	body := `{
	"route":{
		"app_name": "myapp",
		"path": "/hot",
		"image": "USERNAME/hchttp",
		"memory": 64,
		"type": "sync",
		"config": null,
		"format": "http",
		"max_concurrency": "1",
		"idle_timeout": 30
	}
}`
	a := n.ask("POST", "/v1/apps/myapp/routes", strings.ReplaceAll(body, "USERNAME/hchttp", n.image))
	if a.status != 200 || !strings.Contains(a.body, `"max_concurrency":1`) || !strings.Contains(a.body, `"config":{}`) {
		t.Fatalf("the route: %+v", a)
	}
	for i := range 3 {
		if a := n.ask("POST", "/r/myapp/hot", "count"); a.status != 200 || a.body != fmt.Sprint(i+1) {
			t.Errorf("call %d: %+v", i+1, a)
		}
	}
}

// TestRouteIsAFunctionAndATrigger looks at one thing through all APIs.
func TestRouteIsAFunctionAndATrigger(t *testing.T) {
	n := startIron(t)
	n.route("shop", "/a/b", `,"memory":64,"config":{"K":"v"},"timeout":7`)
	fn, err := n.Function(t.Context(), "shop", "a.b")
	if err != nil || fn.Memory != 64*faas.MB || fn.Env["K"] != "v" {
		t.Errorf("our own: %+v, %v", fn, err)
	}
	var apps struct{ Items []fnThing }
	json.Unmarshal([]byte(n.ask("GET", "/v2/apps?name=shop", "").body), &apps)
	if len(apps.Items) != 1 {
		t.Fatal(apps)
	}
	var fns, triggers struct{ Items []fnThing }
	json.Unmarshal([]byte(n.ask("GET", "/v2/fns?app_id="+apps.Items[0].ID, "").body), &fns)
	json.Unmarshal([]byte(n.ask("GET", "/v2/triggers?app_id="+apps.Items[0].ID, "").body), &triggers)
	if len(fns.Items) != 1 || fns.Items[0].Timeout != 7 || len(triggers.Items) != 1 || triggers.Items[0].Source != "/a/b" || triggers.Items[0].FnID != fns.Items[0].ID {
		t.Errorf("Fn's: %+v %+v", fns, triggers)
	}
	for _, path := range []string{"/r/shop/a/b", "/t/shop/a/b"} {
		if a := n.ask("POST", path, "hello"); a.status != 200 || a.body != "got hello" {
			t.Errorf("%s: %+v", path, a)
		}
	}
	// And the other way round.
	f := n.make2("fns", fmt.Sprintf(`{"name":"new","app_id":%q,"image":%q}`, apps.Items[0].ID, n.node.image("fnfn")))
	n.make2("triggers", fmt.Sprintf(`{"name":"web","app_id":%q,"fn_id":%q,"type":"http","source":"/new"}`, apps.Items[0].ID, f))
	a := n.ask("GET", "/v1/apps/shop/routes/new", "")
	if a.status != 200 || !strings.Contains(a.body, `"format":"http-stream"`) {
		t.Errorf("a trigger as a route: %+v", a)
	}
	if a := n.ask("GET", "/r/shop/new", ""); a.status != 200 {
		t.Errorf("its call: %+v", a)
	}
	if a := n.ask("DELETE", "/v1/apps/shop/routes/a/b", ""); a.status != 200 || a.body != `{"message":"Route deleted"}`+"\n" {
		t.Errorf("removed: %+v", a)
	}
	if _, err := n.Function(t.Context(), "shop", "a.b"); faas.KindOf(err) != faas.NotFound {
		t.Errorf("its function: %v", err)
	}
	if a := n.ask("GET", "/v2/fns/"+f, ""); a.status != 200 {
		t.Errorf("that of Fn: %+v", a)
	}
}

// make2 makes a thing of Fn's and returns its ID.
func (n *ironNode) make2(what, body string) string {
	n.t.Helper()
	return (&fnNode{node: n.node}).make(what, body)
}

// TestRouteAnswers is the table of what becomes of a call, with real sandboxes.
func TestRouteAnswers(t *testing.T) {
	n := startIron(t, func(c *config.Config) { c.MaxResponse = 20_000 })
	for i, tt := range []struct {
		body, more string
		status     int
		says       string // the message of an error, or the body
		kind       string // of content
	}{
		{body: "hello", status: 200, says: "got hello", kind: "text/plain; charset=utf-8"},
		{body: "json", status: 200, says: `{"a":1}`, kind: "application/json; charset=utf-8"},
		{body: "exit 3 bad luck", status: 500, says: "exit code 3"},
		{body: "hoard 200", more: `,"memory":32`, status: 500, says: "32 MB"},
		{body: "sleep 9000", more: `,"timeout":3`, status: 504, says: "Timed out"},
		{body: "big 20001", status: 502, says: "function response too large"},
		{body: "big 20000", status: 200, says: "xxxx"},
		{body: "status 418 teapot", more: `,"format":"http"`, status: 418, says: "teapot", kind: "text/x-test"},
		{body: "status 201 made", more: `,"format":"json"`, status: 201, says: "made", kind: "text/x-test"},
		{body: "garbage", more: `,"format":"http"`, status: 502, says: "invalid http response from function err"},
		{body: "garbage", more: `,"format":"json"`, status: 502, says: "invalid json response from function err"},
		{body: "exit 4", more: `,"format":"http"`, status: 500, says: "exit code 4"},
		{body: "hoard 200", more: `,"memory":32,"format":"http"`, status: 500, says: "32 MB"},
		{body: "sleep 9000", more: `,"timeout":3,"format":"json"`, status: 504, says: "Timed out"},
	} {
		path := fmt.Sprint("/", i)
		n.route("a", path, tt.more+`,"headers":{"X-Route":["1","2"]}`)
		a := n.ask("POST", "/r/a"+path, tt.body)
		said := a.body
		if a.status != 200 && tt.kind == "" {
			said = a.wrong(t)
		}
		if a.status != tt.status || !strings.Contains(said, tt.says) || tt.kind != "" && a.header.Get("Content-Type") != tt.kind {
			t.Errorf("%q%s: %d %.200q %v", tt.body, tt.more, a.status, a.body, a.header)
		}
		if len(a.call()) != 26 || a.header.Get("Content-Length") != fmt.Sprint(len(a.body)) {
			t.Errorf("%q%s: call %q, Content-Length %s of %d", tt.body, tt.more, a.call(), a.header.Get("Content-Length"), len(a.body))
		}
		if got := a.header["X-Route"]; !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("%q%s: headers of the route %q", tt.body, tt.more, got)
		}
		if a := n.ask("POST", "/r/a"+path, "next"); a.status != 200 || a.body != "got next" {
			t.Errorf("after %q%s: %+v", tt.body, tt.more, a)
		}
	}
	for path, want := range map[string]string{"/r/none/x": "App not found", "/r/a/none": "Route not found", "/r/none": "App not found"} {
		if a := n.ask("GET", path, ""); a.status != 404 || a.wrong(t) != want {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

// TestRouteTellsTheFunctionInBothWays is rows 61, 62, 64 to 66.
func TestRouteTellsTheFunctionInBothWays(t *testing.T) {
	n := startIron(t, func(c *config.Config) { c.Patterns = true })
	if a := n.ask("POST", "/v1/apps", `{"app":{"name":"a","config":{"my-key":"of app","K":"of app"}}}`); a.status != 200 {
		t.Fatal(a)
	}
	n.route("a", "/users/:id", `,"config":{"K":"of route"},"cpus":"500m"`)
	n.route("a", "/http", `,"format":"http","config":{"K":"of route"}`)
	n.route("a", "/event", `,"format":"cloudevent"`)
	lines := func(path string) []string {
		a := n.ask("PUT", path, "env", "X-Some-Thing: one", "X-Some-Thing: two", "Proxy: http://evil")
		if a.status != 200 {
			t.Fatalf("%s: %+v", path, a)
		}
		return strings.Split(a.body, "\n")
	}
	cold := lines("/r/a/users/42?x=1")
	url := "http://" + n.addr + "/r/a/users/42?x=1"
	for _, want := range []string{
		"METHOD=PUT", "ROUTE=/users/:id", "REQUEST_URL=" + url, "HEADER_X_SOME_THING=one two", "PARAM_ID=42",
		"FN_METHOD=PUT", "FN_REQUEST_URL=" + url, "FN_PATH=/users/:id", "FN_APP_NAME=a", "FN_MEMORY=128", "FN_TYPE=sync", "FN_FORMAT=default", "FN_CPUS=500m",
		"FN_HEADER_X_SOME_THING=one, two", "FN_HEADER_X-Some-Thing=one, two", "my-key=of app", "MY_KEY=of app", "K=of route",
	} {
		if !slices.Contains(cold, want) {
			t.Errorf("a cold function has no %s", want)
		}
	}
	for _, prefix := range []string{"FN_CALL_ID=01", "FN_DEADLINE=20", "FN_TMPSIZE="} {
		if !slices.ContainsFunc(cold, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
			t.Errorf("a cold function has no %s", prefix)
		}
	}
	hot := lines("/r/a/http?x=1")
	for _, want := range []string{
		"request=PUT /r/a/http?x=1", "X-Some-Thing=one|two", "Method=PUT", "Route=/http", "Header_x_some_thing=one two", "K=of route", "Fn_method=PUT",
		"Fn_request_url=http://" + n.addr + "/r/a/http?x=1",
	} {
		if !slices.ContainsFunc(hot, func(s string) bool { return strings.EqualFold(s, want) }) {
			t.Errorf("a hot function has no %s in %q", want, hot)
		}
	}
	for _, name := range []string{"Fn_call_id=01", "Fn_deadline=20", "Task-Id=01"} {
		if !slices.ContainsFunc(hot, func(s string) bool { return strings.HasPrefix(strings.ToLower(s), strings.ToLower(name)) }) {
			t.Errorf("a hot function has no %s", name)
		}
	}
	if slices.ContainsFunc(cold, func(s string) bool { return strings.Contains(s, "evil") }) {
		t.Errorf("the header Proxy got through: %q", cold)
	}
	a := n.ask("POST", "/r/a/event", `"count"`, "Content-Type: application/json")
	if a.status != 200 || a.body != "1" {
		t.Errorf("an event: %+v", a)
	}
}

func TestRouteGetsEveryVerbAndPayload(t *testing.T) {
	n := startIron(t)
	n.route("a", "/h", "")
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		if a := n.ask(method, "/r/a/h", "body"); a.status != 200 || a.body != "got body" {
			t.Errorf("%s: %+v", method, a)
		}
	}
	if a := n.ask("GET", "/r/a/h?payload=hello%20you", ""); a.status != 200 || a.body != "got hello you" {
		t.Errorf("payload: %+v", a)
	}
	if a := n.ask("HEAD", "/r/a/h", ""); a.status != 200 || len(a.call()) != 26 {
		t.Errorf("HEAD: %+v", a)
	}
}

// TestRouteWritesAsRootOfItsOwn is that functions of IronFunctions may write where they like.
func TestRouteWritesAsRootOfItsOwn(t *testing.T) {
	n := startIron(t)
	n.route("a", "/w", "")
	if a := n.ask("POST", "/r/a/w", "write /file text"); a.body != "written as 0" {
		t.Errorf("%+v", a)
	}
}

// TestRouteIsAsync is rows 41, 53 to 56.
func TestRouteIsAsync(t *testing.T) {
	n := startIron(t)
	n.route("a", "/later", `,"type":"async"`)
	n.route("a", "/now", "")
	a := n.ask("POST", "/r/a/later", "log one line")
	var accepted struct {
		CallID string `json:"call_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &accepted); err != nil || a.status != 202 || accepted.CallID != a.call() {
		t.Fatalf("async: %+v", a)
	}
	type call struct {
		ID, Status, Path string
		AppName          string `json:"app_name"`
	}
	record := func(id string) (c call) {
		var got struct{ Call call }
		json.Unmarshal([]byte(n.ask("GET", "/v1/apps/a/calls/"+id, "").body), &got)
		return got.Call
	}
	until(t, "the call succeeds", func() bool { return record(accepted.CallID).Status == "success" })
	if c := record(accepted.CallID); c.Path != "/later" || c.AppName != "a" {
		t.Errorf("record %+v", c)
	}
	sync := n.ask("POST", "/r/a/now", "log another").call()
	until(t, "both are listed", func() bool {
		var list struct{ Calls []call }
		json.Unmarshal([]byte(n.ask("GET", "/v1/apps/a/calls", "").body), &list)
		return len(list.Calls) == 2 && list.Calls[0].ID == sync && list.Calls[1].ID == accepted.CallID
	})
	if a := n.ask("GET", "/v1/apps/a/calls?path=/later", ""); strings.Contains(a.body, sync) || !strings.Contains(a.body, accepted.CallID) {
		t.Errorf("of one route: %+v", a)
	}
	log := "/v1/apps/a/calls/" + accepted.CallID + "/log"
	if a := n.ask("GET", log, "", "Accept: text/plain"); a.status != 200 || a.body != "one line\n" {
		t.Errorf("log: %+v", a)
	}
	if a := n.ask("DELETE", log, ""); a.status != 202 {
		t.Errorf("removed: %+v", a)
	}
	if a := n.ask("GET", log, "", "Accept: text/plain"); strings.Contains(a.body, "one line") {
		t.Errorf("log after it was removed: %+v", a)
	}
	if a := n.ask("GET", "/v1/apps/a/calls/nope/log", ""); a.status != 404 || a.wrong(t) != "Call log not found" {
		t.Errorf("no log: %+v", a)
	}
}

// TestRouteServesOneAtATime is row 98, and 165: who finds no room waits.
func TestRouteServesOneAtATime(t *testing.T) {
	n := startIron(t)
	n.route("a", "/one", `,"format":"http","max_concurrency":1`)
	var calls sync.WaitGroup
	answers := make([]answer, 3)
	for i := range answers {
		calls.Go(func() { answers[i] = n.ask("POST", "/r/a/one", "count") })
	}
	calls.Wait()
	got := []string{answers[0].body, answers[1].body, answers[2].body}
	if slices.Sort(got); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("three calls at once were served by %q", got)
	}
}

// TestRouteWithAFullLine is row 85.
func TestRouteWithAFullLine(t *testing.T) {
	n := startIron(t, func(c *config.Config) { c.Grace = 100 * time.Millisecond })
	n.route("a", "/one", `,"format":"http","max_concurrency":1`)
	ctx, leave := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	full := make(chan answer, 130)
	for range 130 {
		calls.Go(func() {
			req, err := http.NewRequestWithContext(ctx, "POST", "http://"+n.addr+"/r/a/one", strings.NewReader("sleep 20000"))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return // it left
			}
			defer resp.Body.Close()
			var body strings.Builder
			fmt.Fprint(&body, resp.Status)
			full <- answer{status: resp.StatusCode, header: resp.Header}
		})
	}
	select {
	case a := <-full:
		if a.status != 500 {
			t.Errorf("%+v", a)
		}
	case <-time.After(long):
		t.Error("nobody is refused")
	}
	if a := n.ask("POST", "/r/a/one", ""); a.status != 500 || a.wrong(t) != "The runner queue is full" {
		t.Errorf("one more: %+v", a)
	}
	leave()
	calls.Wait()
}

// TestRouteBehindAHostName is row 161.
func TestRouteBehindAHostName(t *testing.T) {
	n := startIron(t, func(c *config.Config) { c.Domain = "fns.example" })
	n.route("shop", "/size", `,"headers":{"X-Route":["1"]}`)
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+n.addr+"/size", strings.NewReader("env"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "shop.fns.example"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("X-Route") != "1" {
		t.Errorf("%+v", resp)
	}
	if resp.Header.Get("Fn_call_id") == "" {
		t.Errorf("not answered as a route: %+v", resp.Header)
	}
	req, _ = http.NewRequestWithContext(t.Context(), "POST", "http://"+n.addr+"/none", nil)
	req.Host = "shop.fns.example"
	resp, err = http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("no such route: %+v", resp)
	}
}

// TestRoutePatternsAreOffAtFirst is row 151.
func TestRoutePatternsAreOffAtFirst(t *testing.T) {
	n := startIron(t)
	a := n.ask("POST", "/v1/apps/a/routes", fmt.Sprintf(`{"route":{"path":"/users/:id","image":%q}}`, n.image))
	if a.status != 400 || a.wrong(t) != "Dynamic URL is not allowed" {
		t.Errorf("%+v", a)
	}
	if a := n.ask("POST", "/v1/apps", `{"app":{"name":"b","annotations":{"hob/patterns":true}}}`); a.status != 200 {
		t.Fatal(a)
	}
	n.route("b", "/users/:id", "")
	n.route("b", "/users/me", "")
	n.route("b", "/static/*", "")
	for path, want := range map[string]string{"/users/7": "PARAM_ID=7", "/users/me": "ROUTE=/users/me", "/static/a/b": "ROUTE=/static/*"} {
		if a := n.ask("POST", "/r/b"+path, "env"); !slices.Contains(strings.Split(a.body, "\n"), want) {
			t.Errorf("%s: no %s in %+v", path, want, a)
		}
	}
}

// TestRouteOfAnImageThatIsNotThere is row 83, and the first step of a request in the
// overview: the image is fetched by the first call.
func TestRouteOfAnImageThatIsNotThere(t *testing.T) {
	n := startIron(t, func(c *config.Config) { c.PullTimeout = 5 * time.Second })
	a := n.ask("POST", "/v1/apps/a/routes", `{"route":{"path":"/x","image":"127.0.0.1:1/none:1"}}`)
	if a.status != 200 {
		t.Fatalf("%+v", a)
	}
	a = n.ask("GET", "/r/a/x", "")
	if text := a.wrong(t); a.status < 400 || !strings.Contains(text, "127.0.0.1:1/none:1") {
		t.Errorf("%+v", a)
	}
}
