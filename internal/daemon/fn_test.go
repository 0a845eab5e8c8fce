package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/config"
)

// fnNode is a node as a client of Fn sees it, with an app of its own.
type fnNode struct {
	*node
	app   string // ID of the app "a"
	image string // of testdata/fnfn
}

func startFn(t *testing.T, change ...func(*config.Config)) *fnNode {
	t.Helper()
	n := &fnNode{node: start(t, change...)}
	n.image = n.node.image("fnfn")
	n.app = n.make("apps", `{"name":"a","config":{"K":"app","A":"app"}}`)
	return n
}

// make makes an app, fn or trigger and returns its ID.
func (n *fnNode) make(what, body string) string {
	n.t.Helper()
	a := n.ask("POST", "/v2/"+what, body)
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || a.status != 200 || len(made.ID) != 26 {
		n.t.Fatalf("POST /v2/%s %s: %d %s", what, body, a.status, a.body)
	}
	return made.ID
}

// fn makes a function of testdata/fnfn; more is what its JSON has besides.
func (n *fnNode) fn(name, more string) string {
	n.t.Helper()
	return n.make("fns", fmt.Sprintf(`{"name":%q,"app_id":%q,"image":%q%s}`, name, n.app, n.image, more))
}

func (n *fnNode) trigger(fn, name, source string) {
	n.t.Helper()
	n.make("triggers", fmt.Sprintf(`{"name":%q,"app_id":%q,"fn_id":%q,"type":"http","source":%q}`, name, n.app, fn, source))
}

func (n *fnNode) invoke(fn, body string, headers ...string) answer {
	n.t.Helper()
	return n.ask("POST", "/invoke/"+fn, body, headers...)
}

// message is what an error of Fn says.
func (a answer) message(t *testing.T) string {
	t.Helper()
	var e struct{ Message string }
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || !strings.HasSuffix(a.body, "}\n") {
		t.Errorf("the body of the error is %q, %v", a.body, err)
	}
	return e.Message
}

// TestFnContractOfAnswers is the table of what a function answers and its caller gets.
func TestFnContractOfAnswers(t *testing.T) {
	n := startFn(t, func(c *config.Config) { c.MaxResponse, c.MaxResponseHeader = 20_000, 2000 })
	for _, tt := range []struct {
		name, body string
		more       string
		status     int
		message    string // of an error
		kept       bool   // the container serves the next call
	}{
		{"well", "hello", "", 200, "", true},
		{"failed", "status 502", "", 502, "function failed", true},
		{"timed-out-inside", "status 504", "", 504, "Timed out", true},
		{"created", "status 201", "", 502, "invalid function response", false},
		{"server-error", "status 500", "", 502, "invalid function response", false},
		{"closes", "close", "", 502, "error receiving function response", false},
		{"exits", "exit 1", "", 502, "error receiving function response", false},
		{"out-of-memory", "hoard 200", `,"memory":32`, 502, "error receiving function response", false},
		{"long-header", "header 3000", "", 502, "function response header too large", false},
		{"long-body", "body 20001", "", 502, "function response body too large", true},
		{"longest-body", "body 20000", "", 200, "", true},
		{"sleeps", "sleep 9000", `,"timeout":3`, 504, "Timed out", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fn := n.fn(tt.name, tt.more)
			if a := n.invoke(fn, "count"); a.status != 200 || a.body != "1" {
				t.Fatalf("first call: %+v", a)
			}
			a := n.invoke(fn, tt.body)
			if a.status != tt.status || len(a.header.Get("Fn-Call-Id")) != 26 || a.header.Get("Content-Length") != strconv.Itoa(len(a.body)) {
				t.Errorf("call: %+v, want status %d", a, tt.status)
			}
			if tt.message != "" && a.message(t) != tt.message {
				t.Errorf("message %q, want %q", a.body, tt.message)
			}
			want := "1"
			if tt.kept {
				want = "3"
			}
			if a := n.invoke(fn, "count"); a.status != 200 || a.body != want {
				t.Errorf("next call: %+v, want %s", a, want)
			}
		})
	}
}

func TestFnStartThatFailsSaysHow(t *testing.T) {
	n := startFn(t, func(c *config.Config) { c.FnStartTimeout = 4 * time.Second })
	for mode, want := range map[string]struct {
		status  int
		message string
	}{
		"exit": {502, "Container failed to initialize, please ensure you are using the latest fdk and check the logs"},
		"deaf": {504, "Container initialization timed out, please ensure you are using the latest fdk and check the logs"},
		"file": {502, "Container failed to initialize, please ensure you are using the latest fdk and check the logs"},
		"out":  {502, "Container failed to initialize, please ensure you are using the latest fdk and check the logs"},
	} {
		fn := n.fn(mode, fmt.Sprintf(`,"config":{"MODE":%q}`, mode))
		a := n.invoke(fn, "")
		if got := a.message(t); a.header.Get("Fn-Call-Id") == "" || a.status != want.status || got != want.message {
			t.Errorf("%s: %+v, want %v", mode, a, want)
		}
		if mode != "exit" {
			continue
		}
		until(t, "its last words are in the log", func() bool {
			log := n.ask("GET", "/v2/fns/"+fn+"/calls/"+a.header.Get("Fn-Call-Id")+"/log", "")
			return log.status == 200 && strings.Contains(log.body, "I cannot go on")
		})
	}
}

func TestFnContainerIsWhatTheContractSays(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", `,"memory":256,"config":{"K":"fn","FN_TYPE":"mine"}`)
	env := "\n" + n.invoke(fn, "env").body + "\n"
	for _, want := range []string{
		"K=fn", "A=app", "FN_MEMORY=256", "FN_TYPE=sync", "FN_FN_ID=" + fn, "FN_APP_ID=" + n.app,
		"FN_LISTENER=unix:/tmp/iofs/lsnr.sock", "FN_FORMAT=http-stream", "FN_APP_NAME=a", "FN_FN_NAME=f",
	} {
		if !strings.Contains(env, "\n"+want+"\n") {
			t.Errorf("the environment has no %s: %s", want, env)
		}
	}
	if a := n.invoke(fn, "id"); !strings.HasPrefix(a.body, "1000:1000 ") {
		t.Errorf("it runs as %s", a.body)
	}
	status := n.invoke(fn, "read /proc/self/status").body
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("its status has no %q: %s", want, status)
		}
	}
	limits := strings.Fields(n.invoke(fn, "read /proc/self/limits").body)
	for _, want := range [][]string{
		{"open", "files", "350", "350"}, {"locked", "memory", "65536", "65536"}, {"pending", "signals", "5000", "5000"}, {"msgqueue", "size", "819200", "819200"},
	} {
		if !containsRun(limits, want) {
			t.Errorf("its limits have no %v: %v", want, limits)
		}
	}
	for path, want := range map[string]string{"/x": "read-only file system", "/tmp/x": "", "/tmp/iofs/x": ""} {
		if a := n.invoke(fn, "write "+path); a.status != 200 || !strings.Contains(a.body, want) || want == "" && a.body != "" {
			t.Errorf("write %s: %+v, want %q", path, a, want)
		}
	}
}

// containsRun reports whether part stands in all, in one piece.
func containsRun(all, part []string) bool {
	for i := range all {
		if len(all)-i >= len(part) && slices.Equal(all[i:i+len(part)], part) {
			return true
		}
	}
	return false
}

func TestFnVariablesOfTheOperatorChangeTheContainer(t *testing.T) {
	n := startFn(t, func(c *config.Config) { c.MaxFiles, c.MaxPIDs, c.FnWritable, c.Label = 99, 20, true, "mine" })
	fn := n.fn("f", "")
	if limits := strings.Fields(n.invoke(fn, "read /proc/self/limits").body); !containsRun(limits, []string{"open", "files", "99", "99"}) {
		t.Errorf("limits %v", limits)
	}
	if a := n.invoke(fn, "write /x"); !strings.Contains(a.body, "permission denied") { // the root is still root's
		t.Errorf("write to the root: %+v", a)
	}
	if a := n.ask("GET", "/api/sandboxes", ""); !strings.Contains(a.body, `"label":"mine"`) {
		t.Errorf("sandboxes: %+v", a)
	}
}

func TestFnTriggerMapsHeadersBothWays(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	n.trigger(fn, "t", "/s")
	n.trigger(fn, "root", "/")
	var got struct {
		Method, Path string
		Header       http.Header
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "POST", "PATCH", "REPORT"} {
		a := n.ask(method, "/t/a/s?x=1&y=%20", "headers", "X-Mine: 1", "Content-Type: text/x", "Connection: X-Hop", "X-Hop: no")
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			t.Fatalf("%s: %+v, %v", method, a, err)
		}
		h := got.Header
		if got.Method != "POST" || got.Path != "/call" || h.Get("Fn-Http-Method") != method || h.Get("Fn-Intent") != "httprequest" ||
			h.Get("Fn-Http-Request-Url") != "http://"+n.addr+"/t/a/s?x=1&y=%20" || h.Get("Fn-Http-H-X-Mine") != "1" || h.Get("X-Mine") != "" ||
			h.Get("Content-Type") != "text/x" || h.Get("Fn-Http-H-X-Hop")+h.Get("X-Hop") != "" || h.Get("Fn-Call-Id") != a.header.Get("Fn-Call-Id") || h.Get("Fn-Deadline") == "" {
			t.Errorf("%s: the function got %+v", method, got)
		}
	}
	a := n.ask("GET", "/t/a", "http 418 X-A 1")
	if a.status != 418 || a.body != "own body" || a.header.Get("X-A") != "1" || a.header.Get("X-Own") != "" || a.header.Get("Content-Type") != "text/x-own" {
		t.Errorf("418: %+v", a)
	}
	for path, want := range map[string]string{"/t/a/none": "Trigger not found", "/t/none/s": "App not found", "/t/a/s/more": "Trigger not found"} {
		if a := n.ask("GET", path, ""); a.status != 404 || a.message(t) != want {
			t.Errorf("%s: %+v, want %s", path, a, want)
		}
	}
	if a := n.ask("GET", "/t/a/s", "status 502"); a.status != 502 || a.message(t) != "function failed" {
		t.Errorf("failure behind a trigger: %+v", a)
	}
}

func TestFnPatternsAndHosts(t *testing.T) {
	n := startFn(t, func(c *config.Config) { c.Domain = "fn.example.org" })
	fn := n.fn("f", "")
	n.trigger(fn, "user", "/users/:id")
	n.trigger(fn, "static", "/static/*")
	n.trigger(fn, "exact", "/users/me")
	if a := n.ask("POST", "/t/a/users/7", "headers"); a.status != 404 {
		t.Errorf("without patterns: %+v", a)
	}
	if a := n.ask("PUT", "/v2/apps/"+n.app, `{"annotations":{"hob/patterns":true,"hob/hosts":["photos.example.org"]}}`); a.status != 200 {
		t.Fatalf("annotations: %+v", a)
	}
	for _, tt := range []struct{ host, path, name, value string }{
		{"", "/t/a/users/7", "Id", "7"},
		{"", "/t/a//users/./x/../7", "Id", "7"},
		{"", "/t/a/users/me", "Id", ""},
		{"A.FN.example.org:99", "/users/8", "Id", "8"},
		{"photos.example.org", "/users/9", "Id", "9"},
		{"photos.example.org.", "/users/9", "Id", "9"},
	} {
		a := n.askHost(tt.host, "POST", tt.path, "headers")
		var got struct{ Header http.Header }
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || got.Header.Get("Fn-Http-H-Param-"+tt.name) != tt.value {
			t.Errorf("%s%s: %+v", tt.host, tt.path, a)
		}
	}
	for _, path := range []string{"/v2/apps", "/api/apps", "/healthz", "/invoke/" + fn, "/t/a/users/me"} { // management is not reached through an app's host
		if a := n.askHost("photos.example.org", "GET", path, ""); a.status != 404 {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

// askHost is ask with a Host header.
func (n *fnNode) askHost(host, method, path, body string) answer {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, "http://"+n.addr+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: string(out)}
}

func TestDetachedFnCallIsAcceptedAtOnceAndRuns(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	a := n.invoke(fn, "sleep 300", "Fn-Invoke-Type: detached")
	id := a.header.Get("Fn-Call-Id")
	if a.status != 202 || a.body != "" || len(id) != 26 {
		t.Fatalf("detached: %+v", a)
	}
	if call := n.ended(id); call.State != faas.CallSucceeded || call.Kind != faas.CallAsync {
		t.Errorf("call %+v", call)
	}
	var call struct {
		Call struct{ ID, Status string }
	}
	shown := n.ask("GET", "/v2/fns/"+fn+"/calls/"+id, "")
	if err := json.Unmarshal([]byte(shown.body), &call); err != nil || call.Call.ID != id || call.Call.Status != "success" {
		t.Errorf("shown as %+v", shown)
	}
	if a := n.invoke(fn, "count", "Is-Dry-Run: true"); a.status/100 != 2 || a.body == "2" {
		t.Errorf("dry run: %+v", a)
	}
	if a := n.invoke(fn, "count"); a.body != "2" {
		t.Errorf("after a dry run: %+v", a)
	}
}

func TestFnLimitsOfTheNode(t *testing.T) {
	n := startFn(t, func(c *config.Config) { c.Memory, c.MaxRequest = 200*faas.MB, 10 })
	big := n.fn("big", `,"memory":4096`)
	if a := n.invoke(big, ""); a.status != 400 || a.message(t) != "Requested CPU/Memory cannot be allocated" {
		t.Errorf("a size that never fits: %+v", a)
	}
	small := n.fn("small", "")
	if a := n.invoke(small, "01234567890"); a.status != 413 || a.message(t) != "Content-Length too large for this server, 11 > max 10" {
		t.Errorf("a large request: %+v", a)
	}
	none := n.make("fns", fmt.Sprintf(`{"name":"none","app_id":%q,"image":"127.0.0.1:1/none:1"}`, n.app))
	if a := n.invoke(none, ""); a.status/100 == 2 || !strings.Contains(a.message(t), "127.0.0.1:1/none:1") {
		t.Errorf("an image that is nowhere: %+v", a)
	}
	if a := n.ask("GET", "/invoke/"+small, ""); a.status != 405 || a.message(t) != "Method not allowed: GET /invoke/"+small {
		t.Errorf("GET: %+v", a)
	}
	if a := n.invoke("01M7XY3BSTFW00008ZJ0000003", ""); a.status != 404 || a.message(t) != "Fn not found" {
		t.Errorf("unknown: %+v", a)
	}
}

func TestBusyFnAnswersWithRetryAfter(t *testing.T) {
	g := openGate(t)
	n := startFn(t, withGate, func(c *config.Config) { c.Memory = 40 * faas.MB })
	first, second := n.gateFn(g, "first", ""), n.fn("second", `,"memory":32,"timeout":1`)
	var running sync.WaitGroup
	running.Go(func() {
		if a := n.invoke(first, ""); a.status != 200 {
			t.Errorf("the one that runs: %+v", a)
		}
	})
	v := g.next()
	if a := n.invoke(second, "count"); a.status != 503 || a.header.Get("Retry-After") != "15" || a.message(t) != "Timed out - server too busy" {
		t.Errorf("no room: %+v", a)
	}
	v.say("say done")
	running.Wait()
	if a := n.invoke(second, "count"); a.body != "1" { // the idle one makes room
		t.Errorf("room again: %+v", a)
	}
}

func TestManyClientsUpdateOneFnAndLoseNothing(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			if a := n.ask("PUT", "/v2/fns/"+fn, fmt.Sprintf(`{"config":{"C%d":"%d"}}`, i, i)); a.status != 200 {
				t.Errorf("update %d: %+v", i, a)
			}
		})
	}
	all.Wait()
	var got struct{ Config map[string]string }
	if a := n.ask("GET", "/v2/fns/"+fn, ""); json.Unmarshal([]byte(a.body), &got) != nil || len(got.Config) != 32 {
		t.Errorf("of 32 keys %d are there: %s", len(got.Config), a.body)
	}
	if env := n.invoke(fn, "env").body; strings.Count(env, "\nC")+strings.Count(env[:2], "C") < 32 {
		t.Errorf("the function has the environment %s", env)
	}
}

func TestFnAppRemovedWhileItsFunctionsRun(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	n.trigger(fn, "t", "/s")
	var running sync.WaitGroup
	running.Go(func() { n.invoke(fn, "sleep 2000") })
	until(t, "it runs", func() bool { return n.busy() == 1 })
	if a := n.ask("DELETE", "/v2/apps/"+n.app, ""); a.status != 204 || a.body != "" {
		t.Errorf("delete: %+v", a)
	}
	running.Wait()
	for _, path := range []string{"/v2/apps/" + n.app, "/v2/fns/" + fn, "/t/a/s"} {
		if a := n.ask("GET", path, ""); a.status != 404 {
			t.Errorf("%s: %+v", path, a)
		}
	}
	until(t, "nothing lives", func() bool { return len(n.live()) == 0 })
}

func TestFunctionsCallEachOther(t *testing.T) {
	n := startFn(t, func(c *config.Config) { c.Insecure = true })
	one, two := n.fn("one", ""), n.fn("two", "")
	if a := n.ask("PATCH", "/api/apps/a/functions/one", `{"network":"host"}`); a.status != 200 {
		t.Fatalf("network: %+v", a)
	}
	if a := n.invoke(one, "invoke http://"+n.addr+"/invoke/"+two); a.body != "it says 200 1" {
		t.Errorf("the call of a call: %+v", a)
	}
}

// TestFnRunsAgainWithItsNewConfig is that a change is seen by the next call.
func TestFnRunsAgainWithItsNewConfig(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	for i := range 5 {
		n.ask("PUT", "/v2/fns/"+fn, fmt.Sprintf(`{"config":{"N":"%d"}}`, i))
		if a := n.invoke(fn, "env"); !strings.Contains(a.body, fmt.Sprintf("\nN=%d", i)) {
			t.Errorf("config %d: %s", i, a.body)
		}
	}
	n.ask("PUT", "/v2/apps/"+n.app, `{"config":{"N":"","A":"new"}}`)
	if a := n.invoke(fn, "env"); !bytes.Contains([]byte(a.body), []byte("A=new")) {
		t.Errorf("config of the app: %s", a.body)
	}
}
