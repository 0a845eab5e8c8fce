package ironv1_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/ironv1"
)

const tooLarge = "Request content too large: a JSON body has at most 1 MB"

func TestBodiesThatAreNoJSONOfOurs(t *testing.T) {
	n := newNode(t)
	before := n.newRoute("a", "/r", "")
	for _, path := range []string{"POST /v1/apps", "PATCH /v1/apps/a", "POST /v1/apps/a/routes", "PUT /v1/apps/a/routes/r", "PUT /v1/apps/a/routes/new", "PATCH /v1/apps/a/routes/r"} {
		method, path, _ := strings.Cut(path, " ")
		for name, body := range map[string]string{
			"nothing": "", "blanks": " \n", "half an object": `{"app":{"name":"x"}`, "a list": "[]", "a string": `"x"`, "a number": "1", "two values": `{} {}`, "a tail": `{}x`,
			"a comment": `{} // x`, "a wrapper that is a list": `{"app":[],"route":[]}`, "a wrapper that is a string": `{"app":"a","route":"r"}`,
			"an image that is no string": `{"app":{"name":1},"route":{"image":1}}`, "config that is a list": `{"app":{"config":["A=1"]},"route":{"config":["A=1"]}}`,
			"config of numbers": `{"app":{"config":{"A":1}},"route":{"config":{"A":1}}}`, "annotations that are no object": `{"app":{"annotations":[1]},"route":{"annotations":[1]}}`,
			"no UTF-8": "{\"app\":{\"name\":\"\xff\"},\"route\":{\"path\":\"\xff\"}}", "a mark of the order of bytes": "\xef\xbb\xbf{}", "deep lists": strings.Repeat("[", 100_000),
			"a time that is none": `{"app":{"created_at":"now"},"route":{"created_at":"now"}}`, "NaN": `{"app":NaN}`, "a control character": "{\"app\":{\"name\":\"a\nb\"}}", "a form": "name=x&app=y",
		} {
			if status, answer := n.do(method, path, body); status != 400 || answer != `{"error":{"message":"Invalid JSON"}}`+"\n" {
				t.Errorf("%s %s with %s: %d %s", method, path, name, status, answer)
			}
		}
		n.refused(method, path, `{"app":{"name":"`+strings.Repeat("x", 1<<20)+`"}}`, 413, tooLarge)
	}
	n.holds(n.getRoute("a", "/r"), before)
	if names := n.names("a"); len(names) != 1 {
		t.Errorf("functions %v", names)
	}
}

func TestBodiesThatAreOddAndTaken(t *testing.T) {
	n := newNode(t)
	n.newRoute("a", "/r", "")
	for _, tt := range []struct{ fields, field, want string }{
		{`"image":"x","image":"y"`, "image", `"y"`}, // the last counts
		{`"IMAGE":"z"`, "image", `"z"`},
		{`"unknown":{"a":[1]},"memory":64`, "memory", "64"},
		{`"config":{"A":"1"},"config":{"B":"2"}`, "config", `{"A":"1","B":"2"}`},
		{`"max_concurrency":"0003"`, "max_concurrency", "3"},
		{`"max_concurrency":null`, "max_concurrency", "3"},
		{`"headers":{"x-a":["1"],"X-A":["2"],"X-a":"3"}`, "headers", `{"X-A":["2","3","1"]}`}, // one header, in the order of the names
		{`"headers":null`, "headers", `{"X-A":["2","3","1"]}`},
		{`"headers":{"X-A":null}`, "headers", `{}`},
		{`"cpus":".5"`, "cpus", `"500m"`},
		{`"cpus":"0"`, "cpus", `"500m"`},
		{`"cpus":"1024"`, "cpus", `"1024000m"`},
		{`"tmpfs_size":4294967295`, "tmpfs_size", "4294967295"},
		{`"created_at":null,"updated_at":"","timeout":300`, "timeout", "300"},
	} {
		got, err := json.Marshal(n.patch("a", "/r", tt.fields)[tt.field])
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %s is %s, want %s", tt.fields, tt.field, got, tt.want)
		}
	}
	n.must("PATCH", "/v1/apps/a/routes/r", " \n{\"message\":\"x\",\"route\":{}}\n ")
}

// TestBodyOf100MBIsRefused sends it as clients do, which read the answer when they
// have sent all.
func TestBodyOf100MBIsRefused(t *testing.T) {
	n := newNode(t)
	server := httptest.NewServer(n.handler)
	defer server.Close()
	for _, target := range []string{"/v1/apps", "/v1/apps/a/routes", "/v1/nope"} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+target, io.LimitReader(zeros{}, 100<<20))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		want := map[string]string{"/v1/nope": "Path not found: /v1/nope"}[target]
		if want == "" {
			want = tooLarge
		}
		if err != nil || string(body) != `{"error":{"message":"`+want+`"}}`+"\n" {
			t.Errorf("%s: %d %s %v", target, resp.StatusCode, body, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestUnknownPathsAndWrongVerbsAreNotFound(t *testing.T) {
	n := newNode(t)
	n.newRoute("a", "/r", "")
	known := map[string]string{
		"/v1/apps": "GET POST", "/v1/apps/a": "GET PATCH DELETE", "/v1/apps/a/routes": "GET POST", "/v1/apps/a/routes/r": "GET PUT PATCH DELETE", "/v1/routes": "GET",
	}
	for _, path := range []string{
		"/v1", "/v1/", "/v1/apps/", "/v1//apps", "/v1/../v1/apps", "//v1/apps", "/v1/apps/a/", "/v1/apps/a/nope", "/v1/apps//routes", "/v1/apps/a%2Fb", "/v1/nope", "/v1/routes/", "/v1/version",
		"/v1/apps", "/v1/apps/a", "/v1/apps/a/routes", "/v1/apps/a/routes/r", "/v1/routes",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"} {
			if strings.Contains(known[path], method) {
				continue
			}
			decoded := strings.ReplaceAll(path, "%2F", "/")
			status, answer := n.do(method, path, "")
			if status != 404 || answer != `{"error":{"message":"Path not found: `+decoded+`"}}`+"\n" {
				t.Errorf("%s %s: %d %s", method, path, status, answer)
			}
		}
	}
	n.refused("GET", "/v1/apps/%00", "", 404, "App not found")
	n.refused("GET", "/v1/apps/"+strings.Repeat("x", 10_000), "", 404, "App not found")
	n.refused("GET", "/v1/apps/a/routes/%FF", "", 404, "Route not found")
}

func TestErrorThatNobodyKnowsIsForTheOperator(t *testing.T) {
	w := httptest.NewRecorder()
	ironv1.WriteFault(w, api.Fault{Status: 500, Kind: faas.Internal, Message: "internal error; quote request 7"})
	if got := w.Body.String(); w.Code != 500 || got != `{"error":{"message":"internal server error"}}`+"\n" {
		t.Errorf("%d %s", w.Code, got)
	}
	n := newNode(t)
	n.Catalog = nil // a defect
	n.refused("GET", "/v1/apps", "", 500, "internal server error")
}

// FuzzBodies sends any bytes to all that reads a body. Whatever they are, the answer
// is one of a client's success or mistake, JSON that ends, and what was made can be
// read, sent back, listed and removed.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{"app":{"name":"n","config":{"K":"V"},"annotations":{"x/y":{"a":1}},"syslog_url":"tcp://h:1","runner":"external"}}`,
		`{"route":{"path":"/p","image":"i","memory":64,"cpus":"100m","headers":{"X":["1"],"Y":"2"},"type":"async","format":"http","max_concurrency":"2","timeout":3600,"tmpfs_size":1}}`,
		`{"route":{"path":"//p/../q","image":"i","config":{"A":""},"jwt_key":"k","annotations":{"a":[]}}}`, `null`, `{}`, ``, `[]`, `{"route":{"image":"I/i"}}`,
		`{"route":{"path":"/\u0000","image":"i"}}`, `{"route":{"path":"/%41?x#y","image":"i","max_concurrency":9223372036854775807}}`, `{"route":{"headers":{"":""}}}`, `{"route":{"headers":{"x\u0000":"\n"}}}`,
		`{"route":{"memory":18446744073709551615}}`, `{"route":{"memory":1e3}}`, `{"app":{"config":{"":"1"}}}`, `{"route":{"format":"port"}}`, `{"route":{"format":"lambda","type":"sync"}}`,
	} {
		f.Add([]byte(seed))
	}
	n := newNode(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		n.t = t
		app := "a" + faas.NewID()
		routes := "/v1/apps/" + app + "/routes"
		n.newRoute(app, "/r", "")
		for _, target := range []string{"PATCH /v1/apps/" + app, "PATCH " + routes + "/r", "PUT " + routes + "/r", "PUT " + routes + "/new", "POST " + routes, "POST /v1/apps"} {
			method, path, _ := strings.Cut(target, " ")
			status, answer := n.do(method, path, string(body))
			var object struct {
				Error *struct{ Message string }
				App   struct{ Name string }
				Route json.RawMessage
			}
			if err := json.Unmarshal([]byte(answer), &object); err != nil || status != 200 && (status < 400 || status >= 500 || object.Error == nil || object.Error.Message == "") {
				t.Fatalf("%s: %d %s", target, status, answer)
			}
			if status == 200 && strings.Contains(path, "/routes") {
				var route struct{ Path string }
				if err := json.Unmarshal(object.Route, &route); err != nil {
					t.Fatal(err)
				}
				n.must("PATCH", routes+"/"+escaped(route.Path), `{"route":`+string(object.Route)+`}`)
			}
			if status == 200 && target == "POST /v1/apps" {
				n.must("DELETE", "/v1/apps/"+escaped(object.App.Name), "")
			}
		}
		n.must("GET", routes, "")
		n.must("DELETE", "/v1/apps/"+app+"?force=true", "")
	})
}

// escaped is a path as the client of IronFunctions writes it into a URL.
func escaped(path string) string { return url.PathEscape(path) }
