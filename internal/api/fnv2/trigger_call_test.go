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

	"hob/faas"
	"hob/internal/api/fnv2"
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
