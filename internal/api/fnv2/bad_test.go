package fnv2_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/fnv2"
)

func TestBodiesThatAreNoJSONOfOurs(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	fn := n.newFn(app, "f")
	trigger := n.newTrigger(app, fn, "t", "/t")
	before := fmt.Sprint(n.must("GET", "/v2/apps/"+app, ""), n.must("GET", "/v2/fns/"+fn, ""), n.must("GET", "/v2/triggers/"+trigger, ""))
	for _, path := range []string{"POST /v2/apps", "PUT /v2/apps/" + app, "POST /v2/fns", "PUT /v2/fns/" + fn, "POST /v2/triggers", "PUT /v2/triggers/" + trigger} {
		method, path, _ := strings.Cut(path, " ")
		for name, body := range map[string]string{
			"nothing": "", "blanks": " \n", "half an object": `{"name":"x"`, "a list": "[]", "a string": `"x"`, "a number": "1",
			"two values": `{} {}`, "a tail": `{"name":"x"}x`, "a comment": `{} // x`, "a name that is no string": `{"name":1}`,
			"an ID that is no string": `{"id":1}`, "annotations that are no object": `{"annotations":[1]}`, "no UTF-8": "{\"name\":\"\xff\"}", "no UTF-8 in an annotation": "{\"annotations\":{\"a\":\"\xc0\xaf\"}}",
			"a mark of the order of bytes": "\xef\xbb\xbf{}", "a time that is none": `{"created_at":"now"}`, "a time that is a number": `{"updated_at":1}`,
			"deep lists": `{"annotations":{"a":` + deep(100_000) + `}}`, "deeper than it is long": `{"x":` + strings.Repeat(`{"a":`, 20_000),
			"NaN": `{"annotations":{"a":NaN}}`, "a number that is none": `{"annotations":{"a":01}}`, "a control character": "{\"name\":\"a\nb\"}",
		} {
			status, answer := n.do(method, path, body)
			if status != http.StatusBadRequest || answer != `{"message":"Invalid JSON"}`+"\n" {
				t.Errorf("%s %s with %s: %d %s", method, path, name, status, answer)
			}
		}
		if !strings.HasPrefix(path, "/v2/triggers") {
			n.refused(method, path, `{"config":["A=1"]}`, http.StatusBadRequest, "Invalid JSON")
			n.refused(method, path, `{"config":{"A":1}}`, http.StatusBadRequest, "Invalid JSON")
		}
		n.refused(method, path, `{"name":"`+strings.Repeat("x", 1<<20)+`"}`, http.StatusRequestEntityTooLarge, "Request content too large")
	}
	if after := fmt.Sprint(n.must("GET", "/v2/apps/"+app, ""), n.must("GET", "/v2/fns/"+fn, ""), n.must("GET", "/v2/triggers/"+trigger, "")); after != before {
		t.Errorf("something has changed:\n%s\n%s", before, after)
	}
}

func TestBodiesThatAreOddAndTaken(t *testing.T) {
	n := newNode(t)
	for i, tt := range []struct{ body, want string }{
		{`{"name":"x","name":"n%d"}`, `{}`}, // the last counts
		{`{"NAME":"n%d"}`, `{}`},
		{`{"name":"n%d","unknown":{"a":[1]},"created_at":"2001-01-01T00:00:00Z","updated_at":null}`, `{}`},
		{`{"name":"n%d","config":{"A":"1","A":"2"}}`, `{"config":{"A":"2"}}`},
		{`{"name":"n%d","config":{"A":"1"},"config":{"B":"2"}}`, `{"config":{"A":"1","B":"2"}}`}, // as encoding/json has it
		{`{"name":"n%d","config":null,"annotations":null,"syslog_url":null,"shape":null,"id":null}`, `{}`},
		{`{"name":"n%d","config":{"A":null}}`, `{"config":{"A":""}}`},
		{`{"name":"n%d","annotations":{"a":"\ud800"}}`, `{"annotations":{"a":"�"}}`},
		{" \n{\"name\":\"n%d\"}\n ", `{}`},
		{`{"name":"n%d","annotations":{"a":` + strings.Replace(deep(255), "%", "%%", -1) + `}}`, `{"annotations":{"a":` + deep(255) + `}}`},
		{`{"name":"n%d","syslog_url":""}`, `{}`},
	} {
		got := n.must("POST", "/v2/apps", fmt.Sprintf(tt.body, i))
		if got["name"] != fmt.Sprintf("n%d", i) {
			t.Errorf("%s: the name is %v", tt.body, got["name"])
		}
		for _, field := range []string{"id", "name", "created_at", "updated_at"} {
			delete(got, field)
		}
		if b, _ := json.Marshal(got); string(b) != tt.want {
			t.Errorf("%.200s: %.200s, want %.200s", tt.body, b, tt.want)
		}
	}
}

// TestBodyOf100MBIsRefused sends it as clients do, which read the answer when they
// have sent all.
func TestBodyOf100MBIsRefused(t *testing.T) {
	n := newNode(t)
	server := httptest.NewServer(n.handler)
	defer server.Close()
	for _, length := range []int64{100 << 20, -1} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+"/v2/apps", io.LimitReader(zeros{}, 100<<20))
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = length
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || string(body) != `{"message":"Request content too large"}`+"\n" {
			t.Errorf("%d %s %v", resp.StatusCode, body, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestPathsThatAreNothing(t *testing.T) {
	n := newNode(t)
	n.NoInvoke = true
	app := n.newApp("a")
	for _, path := range []string{
		"/nope", "/v2", "/v2/", "/v2/apps/", "/v2//apps", "/v2/../v2/apps", "/v2/./apps", "//v2/apps", "/v2/apps/" + app + "/", "/v2/apps/" + app + "/fns",
		"/v2/apps/a/b/c", "/v2/fns/x/calls/", "/v2/fns/x/calls/y/z", "/v2/fns/x/calls/y/log/", "/v2/runner/apps//triggerBySource/http/s", "/v2/runner/apps/a/triggerBySource",
		"/V2/apps", "/v1/apps", "/t", "/t/", "/t/a", "/t/a/b", "/invoke", "/invoke/", "/invoke/x", "/apps", "/index.html",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"} {
			status, header, body := n.header(method, path, nil)
			want := `{"message":"Path not found: ` + method + " " + path + "\"}\n"
			if status != http.StatusNotFound || body != want || header.Get("Location") != "" {
				t.Errorf("%s %s: %d %s %v", method, path, status, body, header)
			}
		}
	}
	n.refused("GET", "/v2/apps/a%2Fb", "", 404, "Path not found: GET /v2/apps/a/b") // as Fn: paths are taken decoded
	n.refused("GET", "/v2/apps/a%20%3Cb%3E%22", "", 404, "App not found")
	n.refused("GET", "/v2/apps/%00", "", 404, "App not found")
	n.refused("GET", "/v2/fns/"+strings.Repeat("x", 10_000), "", 404, "Fn not found")
	n.refused("GET", "/v2/triggers/%FF", "", 404, "Trigger not found")
	n.refused("GET", "/%3Cscript%3E", "", 404, "Path not found: GET /<script>")
}

func TestVerbsThatAreWrong(t *testing.T) {
	n := newNode(t)
	for path, allowed := range map[string]string{
		"/": "GET", "/v2/apps": "GET POST", "/v2/fns": "GET POST", "/v2/triggers": "GET POST",
		"/v2/apps/x": "GET PUT DELETE", "/v2/fns/x": "GET PUT DELETE", "/v2/triggers/x": "GET PUT DELETE",
		"/v2/fns/x/calls": "GET", "/v2/fns/x/calls/y": "GET", "/v2/fns/x/calls/y/log": "GET",
		"/v2/runner/apps/x/triggerBySource/http/s": "GET", "/invoke/x": "POST",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"} {
			status, header, body := n.header(method, path, nil)
			refused := status == http.StatusMethodNotAllowed
			if refused == strings.Contains(" "+allowed+" ", " "+method+" ") || refused && body != `{"message":"Method not allowed: `+method+" "+path+"\"}\n" || header.Get("Location") != "" {
				t.Errorf("%s %s: %d %s", method, path, status, body)
			}
		}
	}
}

func TestPathsOfThisAPI(t *testing.T) {
	s := &fnv2.Server{}
	for path, want := range map[string]string{
		"/": "management", "/v2/apps": "management", "/v2": "management", "/v2/": "management", "/v2/nope": "management", "/v2/fns/x/calls": "management",
		"/invoke/x": "call", "/invoke/": "call", "/t/a": "call", "/t/a/b/c": "call", "/t//": "call",
		"/invoke": "", "/t": "", "/tt/a": "", "/v1/apps": "", "/v22/apps": "", "/api/apps": "", "/nope": "", "/version": "", "/funcs": "",
	} {
		got := ""
		switch match, call := s.Match(httptest.NewRequest("GET", path, nil)); {
		case match && call:
			got = "call"
		case match:
			got = "management"
		}
		if got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestErrorThatNobodyKnowsIsForTheOperator(t *testing.T) {
	w := httptest.NewRecorder()
	fnv2.WriteFault(w, api.Fault{Status: 500, Kind: faas.Internal, Message: "internal error; quote request 7"})
	if got := w.Body.String(); w.Code != 500 || got != `{"message":"internal server error"}`+"\n" {
		t.Errorf("%d %s", w.Code, got)
	}
	w = httptest.NewRecorder()
	fnv2.WriteFault(w, api.Fault{Status: 403, Kind: faas.Denied, Message: "not from there"})
	if got := w.Body.String(); w.Code != 403 || got != `{"message":"not from there"}`+"\n" || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("%d %s", w.Code, got)
	}
	n := newNode(t)
	n.Catalog = nil // a defect
	n.refused("GET", "/v2/apps", "", 500, "internal server error")
}

// FuzzBodies sends any bytes to all that reads a body. Whatever they are, the answer
// is one of a client's success or mistake, JSON that ends, and what was made can be
// read, sent back and listed.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{"name":"a1","config":{"K":"V"},"annotations":{"x/y":{"a":1}},"syslog_url":"tcp://h:1","shape":"GENERIC_X86"}`,
		`{"name":"f","app_id":"APP","image":"x/y:1","memory":256,"timeout":3,"idle_timeout":7,"config":{"A":"","B":null}}`,
		`{"name":"t","app_id":"APP","fn_id":"FN","type":"http","source":"/s","created_at":"0001-01-01T00:00:00.000Z"}`,
		`null`, `{}`, ``, `[]`, `{"name":"x","name":"y"}`, "{\"name\":\"\xff\"}", `{"annotations":{"hob/hosts":["a.b"],"hob/patterns":true}}`,
		`{"memory":-1}`, `{"memory":1e3}`, `{"timeout":2147483648}`, `{"source":"//"}`, `{"name":"\u0000"}`, `{"config":{"":"1"}}`, `{"config":{"A\u0000":"1"}}`, deep(50),
	} {
		f.Add([]byte(seed))
	}
	n := newNode(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		n.t = t
		app := n.newApp("app" + faas.NewID())
		fn := n.newFn(app, "fn")
		trigger := n.newTrigger(app, fn, "trigger", "/trigger")
		text := strings.NewReplacer("APP", app, "FN", fn).Replace(string(body))
		for _, target := range []string{"POST /v2/apps", "PUT /v2/apps/" + app, "POST /v2/fns", "PUT /v2/fns/" + fn, "POST /v2/triggers", "PUT /v2/triggers/" + trigger} {
			method, path, _ := strings.Cut(target, " ")
			status, answer := n.do(method, path, text)
			var object map[string]any
			if err := json.Unmarshal([]byte(answer), &object); err != nil || status != 200 && (status < 400 || status >= 500 || object["message"] == "") {
				t.Fatalf("%s: %d %s", target, status, answer)
			}
			if status != 200 {
				continue
			}
			kind := strings.Join(strings.Split(path, "/")[:3], "/")
			whole, _ := json.Marshal(n.must("GET", kind+"/"+object["id"].(string), ""))
			n.must("PUT", kind+"/"+object["id"].(string), string(whole))
			n.must("GET", kind+"?per_page=100&app_id="+app, "")
			if method == "POST" && kind == "/v2/apps" {
				n.want("DELETE", kind+"/"+object["id"].(string), "", 204, "")
			}
		}
		n.want("DELETE", "/v2/apps/"+app, "", 204, "")
	})
}
