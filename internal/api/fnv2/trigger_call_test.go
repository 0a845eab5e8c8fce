package fnv2_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"hob/faas"
	"hob/internal/api/buffered"
	"hob/internal/api/fnv2"
	"hob/internal/store"
)

func TestTriggeredFunctionIsToldOfTheRequest(t *testing.T) {
	var got string
	n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		body, err := io.ReadAll(req.Body)
		got = lines(req.Header) + "\n" + string(body)
		return err
	}, nil)
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "LINK"} {
		resp, body := n.do(method, "/t/photos/http-stream?a=1&b=%20", strings.NewReader("cat"),
			"Content-Type: text/x-cat", "X-A: 1", "X-A: 2", "Cookie: c", "Fn-Http-Method: FORGED", "Fn-Call-Id: FORGED", "Param-Id: 1", "Fn-Intent: cloudevent",
			"Connection: X-Mine", "X-Mine: 1", "Te: trailers", "Upgrade: h2c", "Proxy-Authorization: x")
		n.says(method, resp, body, 200, "")
		want := []string{
			"Content-Type: text/x-cat", "Fn-Http-H-Content-Length: 3", "Fn-Http-H-Cookie: c", "Fn-Http-H-Fn-Call-Id: FORGED", "Fn-Http-H-Fn-Http-Method: FORGED",
			"Fn-Http-H-Fn-Intent: cloudevent", "Fn-Http-H-Param-Id: 1", "Fn-Http-H-Te: trailers", "Fn-Http-H-X-A: 1", "Fn-Http-H-X-A: 2",
			"Fn-Http-Method: " + method, "Fn-Http-Request-Url: " + n.url + "/t/photos/http-stream?a=1&b=%20", "Fn-Intent: httprequest", "cat",
		}
		if got != strings.Join(want, "\n") {
			t.Errorf("%s: the function saw\n%s\nwant\n%s", method, got, strings.Join(want, "\n"))
		}
	}
}

func TestAnswerOfATriggerIsWhatTheFunctionSaysItIs(t *testing.T) {
	for _, tt := range []struct {
		name   string
		says   map[string][]string
		status int
		header []string // besides Content-Length and Fn-Call-Id
	}{
		{"nothing", nil, 200, nil},
		{"a header", map[string][]string{"Fn-Http-H-X-A": {"1", "2"}, "X-B": {"1"}, "Fn-Fdk-Version": {"x"}, "Hob-Start": {"hot"}}, 200, []string{"X-A: 1", "X-A: 2"}},
		{"a type", map[string][]string{"Content-Type": {"text/x-cat"}}, 200, []string{"Content-Type: text/x-cat"}},
		{"two types", map[string][]string{"Content-Type": {"application/octet-stream"}, "Fn-Http-H-Content-Type": {"text/x-dog"}}, 200, []string{"Content-Type: text/x-dog"}},
		{"a status", map[string][]string{"Fn-Http-Status": {"418"}, "Fn-Http-H-X-A": {"1"}}, 418, []string{"X-A: 1"}},
		{"an error", map[string][]string{"Fn-Http-Status": {"503"}}, 503, nil},
		{"a redirect", map[string][]string{"Fn-Http-Status": {"302"}, "Fn-Http-H-Location": {"/x"}}, 302, []string{"Location: /x"}},
		{"a rare status", map[string][]string{"Fn-Http-Status": {"999"}}, 999, nil},
		{"a word for a status", map[string][]string{"Fn-Http-Status": {"abc"}}, 200, nil},
		{"no status", map[string][]string{"Fn-Http-Status": {""}}, 200, nil},
		{"a status below all", map[string][]string{"Fn-Http-Status": {"-1"}}, 200, nil},
		{"headers of a connection", map[string][]string{
			"Fn-Http-H-": {"x"}, "Fn-Http-H-Connection": {"close"}, "Fn-Http-H-Content-Length": {"1"}, "Fn-Http-H-Transfer-Encoding": {"x"}, "Fn-Http-H-Upgrade": {"x"},
			"Fn-Http-H-Fn-Call-Id": {"x"}, "Fn-Http-H-Trailer": {"X"}, http.TrailerPrefix + "X": {"y"},
		}, 200, nil},
		{"cookies", map[string][]string{"Fn-Http-H-Set-Cookie": {"a=1", "b=2"}}, 200, []string{"Set-Cookie: a=1", "Set-Cookie: b=2"}},
	} {
		n := serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
			maps.Copy(w.Header(), tt.says)
			_, err := io.WriteString(w, "meow")
			return err
		}, nil)
		for _, method := range []string{"GET", "HEAD"} {
			resp, body := n.do(method, "/t/photos/http-stream", nil)
			want := "meow"
			if method == "HEAD" {
				want = ""
			}
			if resp.StatusCode != tt.status || body != want || resp.ContentLength != 4 {
				t.Errorf("%s %s: %d %q, length %d, want %d %q", method, tt.name, resp.StatusCode, body, resp.ContentLength, tt.status, want)
			}
			id := resp.Header.Get("Fn-Call-Id")
			header := slices.Sorted(slices.Values(append([]string{"Content-Length: 4", "Fn-Call-Id: " + id}, tt.header...)))
			if resp.Header.Get("Content-Type") == "text/plain; charset=utf-8" { // a guess of net/http
				delete(resp.Header, "Content-Type")
			}
			if got := lines(resp.Header); got != strings.Join(header, "\n") {
				t.Errorf("%s %s: header\n%s\nwant %q", method, tt.name, got, header)
			}
		}
	}
}

func TestStatusThatNoAnswerCanHave(t *testing.T) {
	for _, status := range []string{"1", "99", "100", "101", "103", "199", "1000", "99999"} {
		n := serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
			w.Header().Set("Fn-Http-Status", status)
			w.Header().Set("Fn-Http-H-X-A", "1")
			return nil
		}, nil)
		resp, body := n.do("GET", "/t/photos/http-stream", nil)
		n.says(status, resp, body, 502, "invalid function response")
		if resp.Header.Get("X-A") != "" || resp.Header.Get("Fn-Call-Id") == "" {
			t.Errorf("%s: header %v", status, resp.Header)
		}
	}
}

func TestStatusWithoutABody(t *testing.T) {
	for _, status := range []int{204, 304} {
		n := serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
			w.Header().Set("Fn-Http-Status", fmt.Sprint(status))
			w.Header().Set("Fn-Http-H-Etag", `"1"`)
			_, err := io.WriteString(w, "no place for this")
			return err
		}, nil)
		for range 2 { // the connection is used again
			resp, body := n.do("GET", "/t/photos/http-stream", nil)
			n.says("answer", resp, body, status, "")
			if h := resp.Header; h.Get("Etag") == "" || h.Get("Fn-Call-Id") == "" || h.Get("Content-Length") != "" {
				t.Errorf("%d: header %v", status, h)
			}
		}
	}
}

func TestHeadOfAnAnswerWithoutABodyHasNoLength(t *testing.T) {
	n := serve(t, text(""), nil)
	if resp, _ := n.do("HEAD", "/t/photos/http-stream", nil); resp.Header.Get("Content-Length") != "" {
		t.Errorf("header %v", resp.Header)
	}
	if resp, _ := n.do("GET", "/t/photos/http-stream", nil); resp.Header.Get("Content-Length") != "0" {
		t.Errorf("header %v", resp.Header)
	}
}

// route is a function that says which trigger and parameters it was called with.
func route(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	fmt.Fprint(w, req.Route, req.Params)
	for name, values := range req.Header {
		if name, is := strings.CutPrefix(name, "Fn-Http-H-Param"); is {
			fmt.Fprintf(w, " %s=%s", name, values)
		}
	}
	return nil
}

func TestSourceIsThePath(t *testing.T) {
	n := serve(t, route, nil, "/", "/a", "/a/", "/a//b", "/a/../b", "/größe", "/a b", "/c%20d", "/:id", "/static/*", "/t/photos")
	for path, want := range map[string]string{
		"/t/photos": "/", "/t/photos/": "/", "/t/photos?x": "/", "/t/photos/a": "/a", "/t/photos/a/": "/a/", "/t/photos/a//b": "/a//b", "/t/photos/a/../b": "/a/../b",
		"/t/photos/gr%C3%B6%C3%9Fe": "/größe", "/t/photos/a%20b": "/a b", "/t/photos/c%20d": "/c%20d", "/t/photos/c%2520d": "/c%20d", "/t/photos/%61": "/a",
		"/t/photos/:id": "/:id", "/t/photos/7": "", "/t/photos/static/*": "/static/*", "/t/photos/static/x": "", "/t/photos/A": "", "/t/photos/t/photos": "/t/photos",
		"/t//photos": "", "/t/Photos/a": "",
	} {
		resp, body := n.do("GET", path, nil)
		switch {
		case want != "":
			n.says(path, resp, body, 200, want+"map[]")
		case resp.StatusCode != 404 || resp.Header.Get("Location") != "":
			t.Errorf("%s: %d %s, want no trigger", path, resp.StatusCode, body)
		}
	}
}

func TestSourceThatIsUncleanIsReachedAsItIsWritten(t *testing.T) {
	n := serve(t, route, func(s *fnv2.Server) { s.Patterns = true }, "/r//x", "/r/:id", "/r/./y", "/x/:é/:a b/:c")
	for path, want := range map[string]string{
		"/r//x": "/r//xmap[]", "/r/./y": "/r/./ymap[]", "/r/x": "/r/:idmap[id:x] -Id=[x]", "/r///x": "/r/:idmap[id:x] -Id=[x]",
		"/x/1/2/3": "/x/:é/:a b/:cmap[a b:2 c:3 é:1]",
	} {
		resp, body := n.do("GET", "/t/photos"+path, nil)
		if path == "/x/1/2/3" { // what cannot be a header's name is in none
			if !strings.HasPrefix(body, want) || strings.Count(body, "=") != 1 || !strings.Contains(body, " -C=[3]") {
				t.Errorf("%s: %q", path, body)
			}
			continue
		}
		n.says(path, resp, body, 200, want)
	}
}

func TestPatternsAreOnWhereTheyAreAskedFor(t *testing.T) {
	const source = "/users/:id"
	n := serve(t, route, func(s *fnv2.Server) { s.Patterns = true }, source, "/static/*rest", "/any/*", "/a/:größe")
	for path, want := range map[string]string{
		"/t/photos/users/7":                 "/users/:idmap[id:7] -Id=[7]",
		"/t/photos//users/./7":              "/users/:idmap[id:7] -Id=[7]",
		"/t/photos/static/../users/7":       "/users/:idmap[id:7] -Id=[7]",
		"/t/photos/users/a%20%C3%B6":        "/users/:idmap[id:a ö] -Id=[a ö]",
		"/t/photos/static/css/a.css":        "/static/*restmap[rest:css/a.css] -Rest=[css/a.css]",
		"/t/photos/static/%2e%2e/users/7":   "/users/:idmap[id:7] -Id=[7]",
		"/t/photos/static/..%2f..%2fany/x":  "/any/*map[*:x] -*=[x]",
		"/t/photos/static/%2e%2e%2fusers/7": "/users/:idmap[id:7] -Id=[7]",
	} {
		resp, body := n.do("GET", path, nil, "Param-Id: forged", "Param-Other: forged", "Param_id: forged", "Param: kept")
		n.says(path, resp, strings.Replace(body, " =[kept]", "", 1), 200, want)
		if !strings.Contains(body, " =[kept]") {
			t.Errorf("%s: a header that only begins alike is dropped: %s", path, body)
		}
	}
	if resp, _ := n.do("GET", "/t/photos/users", nil); resp.StatusCode != 404 {
		t.Errorf("without its parameter a path is found: %d", resp.StatusCode)
	}
	if resp, _ := n.do("GET", "/t/photos/static/..%2f..%2f..%2fetc", nil); resp.StatusCode != 404 {
		t.Errorf("a path leads out of a wildcard: %d", resp.StatusCode)
	}
	for _, tt := range []struct {
		annotation     string
		setting, found bool
	}{{"", false, false}, {"", true, true}, {"true", false, true}, {"false", true, false}} {
		n.Patterns = tt.setting
		app := n.app.Clone()
		app.Annotations = nil
		if tt.annotation != "" {
			app.Annotations = map[string]string{faas.AnnotationPatterns: tt.annotation}
		}
		var err error
		if n.app, err = n.catalog.PutApp(t.Context(), app, n.app.Revision); err != nil {
			t.Fatal(err)
		}
		if resp, _ := n.do("GET", "/t/photos/users/7", nil); (resp.StatusCode == 200) != tt.found {
			t.Errorf("annotation %q, setting %t: %d", tt.annotation, tt.setting, resp.StatusCode)
		}
	}
}

func TestOtherFormatsSeeTheRequestOfATriggerAsItCame(t *testing.T) {
	for _, format := range faas.Formats() {
		if format == faas.FormatHTTPStream {
			continue
		}
		var got string
		n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
			got = req.Method + " " + req.Target + " " + lines(req.Header)
			w.Header().Set("X-B", "2")
			w.WriteHeader(http.StatusTeapot)
			return nil
		}, nil)
		resp, _ := n.do("DELETE", "/t/photos/"+string(format)+"?a=%20", nil, "X-A: 1", "Connection: upgrade", "Upgrade: websocket")
		if want := "DELETE /" + string(format) + "?a=%20 X-A: 1"; got != want || resp.StatusCode != 418 || resp.Header.Get("X-B") != "2" || resp.Header.Get("Fn-Call-Id") == "" {
			t.Errorf("%s saw %q, want %q; the answer is %d %v", format, got, want, resp.StatusCode, resp.Header)
		}
	}
}

// put makes a trigger of fn as t says.
func (n *edge) put(fn faas.Function, t faas.Trigger) {
	n.Helper()
	t.App, t.Function, t.Name, t.Type = fn.App, fn.ID, faas.NewID(), faas.TriggerHTTP
	if _, err := n.catalog.PutTrigger(n.Context(), t, store.IfNew); err != nil {
		n.Fatal(err)
	}
}

func TestTriggerThatQueuesIsAccepted(t *testing.T) {
	var got *faas.Call
	var header http.Header
	n := serve(t, func(_ context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		if got, header = call, req.Header; w != nil {
			t.Error("it was run")
		}
		_, err := io.Copy(io.Discard, req.Body)
		return err
	}, func(s *fnv2.Server) { s.Domain = "example.org" })
	n.put(n.fn, faas.Trigger{Source: "/later", Async: true, Header: map[string][]string{"X-A": {"1"}}})
	for _, host := range []string{"", "photos.example.org"} {
		path := "/t/photos/later"
		if host != "" {
			path = "/later"
		}
		resp, body := n.do("PUT", path, strings.NewReader("x"), "Host: "+host, "Hob-Priority: 7", "X-B: 2")
		n.says(path, resp, body, 202, "")
		if resp.Header.Get("Fn-Call-Id") != got.ID || got.Kind != faas.CallAsync || got.Priority != 7 || header.Get("Fn-Http-H-X-B") != "2" || header.Get("Fn-Http-H-Hob-Priority") != "" {
			t.Errorf("%s: %v %+v %v", path, resp.Header, got, header)
		}
		resp, body = n.do("PUT", path, nil, "Host: "+host, "Hob-Delay: soon")
		n.says(path, resp, body, 400, `header Hob-Delay is "soon": it must be a duration between 0s and 8760h0m0s, as 10s or 1h30m`)
	}
}

func TestHeaderOfATriggerIsOfEveryAnswerOfAFunctionThatRan(t *testing.T) {
	own := map[string][]string{"X-A": {"1", "2"}, "Content-Type": {"text/x-own"}, "Content-Length": {"7"}, "Connection": {"close"}, "Fn-Call-Id": {"forged"}, "Hob-Start": {"x"}, "Access-Control-Allow-Origin": {"*"}}
	for _, tt := range []struct {
		name   string
		ran    bool
		says   map[string][]string
		err    error
		status int
		a      []string // header X-A
		kind   string
	}{
		{"nothing", true, nil, nil, 200, []string{"1", "2"}, "text/x-own"},
		{"the same header", true, map[string][]string{"X-A": {"3"}, "Content-Type": {"text/x-fn"}}, nil, 200, []string{"1", "2", "3"}, "text/x-fn"},
		{"out of time", true, nil, faas.Errorf(faas.TimedOut, "late"), 504, []string{"1", "2"}, "application/json; charset=utf-8"},
		{"it failed", true, nil, faas.Errorf(faas.FuncFailed, "exit code 1"), 502, []string{"1", "2"}, "application/json; charset=utf-8"},
		{"it did not run", false, nil, faas.Errorf(faas.Busy, "no room"), 503, nil, "application/json; charset=utf-8"},
	} {
		n := serve(t, func(_ context.Context, call *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
			if tt.ran {
				call.Started = time.Now()
			}
			for name, values := range tt.says {
				for _, prefix := range []string{"Fn-Http-H-", ""} {
					w.Header()[prefix+name] = values
				}
			}
			return tt.err
		}, nil)
		for _, fn := range []string{"http-stream", "http", "default"} {
			f, err := n.catalog.Function("photos", fn)
			if err != nil {
				t.Fatal(err)
			}
			n.put(f, faas.Trigger{Source: "/own/" + fn, Header: own})
			resp, _ := n.do("GET", "/t/photos/own/"+fn, nil)
			h := resp.Header
			if resp.StatusCode != tt.status || !slices.Equal(h["X-A"], tt.a) || h.Get("Content-Type") != tt.kind || len(h["Content-Type"]) != 1 ||
				len(h["Fn-Call-Id"]) != 1 || h.Get("Fn-Call-Id") == "forged" || h.Get("Hob-Start") != "" || resp.Close {
				t.Errorf("%s of %s: %d %v", tt.name, fn, resp.StatusCode, h)
			}
		}
	}
	if !slices.Equal(own["X-A"], []string{"1", "2"}) {
		t.Errorf("the trigger has changed: %v", own)
	}
}

func TestTriggerWithAKeyWantsAToken(t *testing.T) {
	n := serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		if w != nil {
			io.WriteString(w, "x")
		}
		return nil
	}, func(s *fnv2.Server) { s.Domain = "example.org" })
	n.put(n.fn, faas.Trigger{Source: "/locked", Key: "secret"})
	n.put(n.fn, faas.Trigger{Source: "/locked/later", Key: "secret", Async: true})
	signed := func(key string) string {
		token, err := jwt.New(jwt.SigningMethodHS256).SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return "Authorization: Bearer " + token
	}
	for _, to := range []struct {
		path, host string
		status     int
		says       string
	}{{"/t/photos/locked", "", 200, "x"}, {"/locked", "photos.example.org", 200, "x"}, {"/t/photos/locked/later", "", 202, ""}} {
		resp, body := n.do("POST", to.path, strings.NewReader("y"), "Host: "+to.host, signed("secret"))
		n.says(to.path, resp, body, to.status, to.says)
		for _, header := range []string{"X-A: 1", "Authorization: Basic eDp5", signed("another")} {
			resp, body := n.do("POST", to.path, strings.NewReader("y"), "Host: "+to.host, header)
			if h := resp.Header; resp.StatusCode != 401 || h.Get("WWW-Authenticate") != `Bearer realm=""` || !strings.Contains(body, `{"message":"`) || strings.Contains(body, "secret") || h.Get("Fn-Call-Id") != "" {
				t.Errorf("%s with %s: %d %v %s", to.path, header, resp.StatusCode, h, body)
			}
		}
	}
	resp, body := n.do("POST", "/t/photos/http-stream", nil)
	n.says("another trigger", resp, body, 200, "x")
}

func TestRoutesAreAnsweredByAnotherAPIWhereTheHostLeadsToThem(t *testing.T) {
	n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		fmt.Fprint(w, req.Convention)
		return nil
	}, func(s *fnv2.Server) {
		s.Domain, s.MaxRequest = "example.org", 10
		s.Route = func(w http.ResponseWriter, r *http.Request, app faas.App, to *buffered.Route) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, "route ", app.Name, to.Trigger.Source, " ", len(body))
		}
	})
	n.put(n.fn, faas.Trigger{Source: "/iron", Convention: faas.ConventionFn})
	for _, tt := range []struct{ host, path, want string }{
		{"photos.example.org", "/iron", "route photos/iron 20"}, {"photos.example.org", "/http-stream", "413"}, {"", "/t/photos/iron", "413"}, {"photos.example.org", "/none", "413"},
	} {
		resp, body := n.do("POST", tt.path, strings.NewReader(strings.Repeat("x", 20)), "Host: "+tt.host)
		if got := fmt.Sprint(resp.StatusCode); body != tt.want && got != tt.want {
			t.Errorf("%s%s: %d %s", tt.host, tt.path, resp.StatusCode, body)
		}
	}
	resp, body := n.do("POST", "/t/photos/iron", nil)
	n.says("by its path", resp, body, 200, string(faas.ConventionFn))
	n.Route = nil
	resp, body = n.do("POST", "/iron", nil, "Host: photos.example.org")
	n.says("nobody else", resp, body, 200, string(faas.ConventionFn))
}
