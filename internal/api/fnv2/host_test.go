package fnv2_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"hob/faas"
	"hob/internal/api/fnv2"
)

func TestAppIsFoundByTheHostOfARequest(t *testing.T) {
	n := serve(t, route, func(s *fnv2.Server) { s.Domain, s.Hosts = "Fn.example.org", []string{"api.fn.example.org", "node"} }, "/", "/v2/apps", "/a//b")
	n.putApp("a.b", nil)
	n.putApp("Big", nil)
	n.putApp("api", nil)
	n.putApp("own", map[string]string{faas.AnnotationHosts: `["own.example.com","node","x.fn.example.org","photos.fn.example.org"]`})
	for host, want := range map[string]string{
		"photos.fn.example.org": "photos", "PHOTOS.FN.EXAMPLE.ORG:8080": "photos", "photos.fn.example.org.": "photos", "photos.fn.example.org.:80": "photos",
		"a.b.fn.example.org": "a.b", "Big.fn.example.org": "Big", "own.example.com": "own", "Own.Example.com:443": "own", "x.fn.example.org": "own",
		"nope.fn.example.org": "nobody", ".fn.example.org": "nobody",
		"fn.example.org": "", "photos": "", "photosfn.example.org": "", "photos.fn.example.org.evil.com": "", "api.fn.example.org": "", "API.fn.example.org:1": "",
		"localhost": "", "LocalHost:8080": "", "127.0.0.1": "", "127.0.0.1:80": "", "[::1]": "", "[::1]:8080": "", "[fe80::1%25eth0]:80": "", "::1": "", "node": "", "": "", ":80": "",
	} {
		hosted := n.Hosted(&http.Request{Host: host})
		if hosted != (want != "") {
			t.Errorf("%q is hosted: %t, want %t", host, hosted, want != "")
		}
		if want == "" || strings.HasPrefix(host, ".") {
			continue
		}
		resp, body := n.do("GET", "/", nil, "Host: "+host)
		switch want {
		case "photos":
			n.says(host, resp, body, 200, "/map[]")
		case "nobody":
			n.says(host, resp, body, 404, "App not found")
		default: // it has no triggers
			n.says(host, resp, body, 404, "Trigger not found")
		}
	}
}

func TestHostOfAnAppLeadsNowhereElse(t *testing.T) {
	n := serve(t, route, func(s *fnv2.Server) { s.Domain = "example.org" }, "/v2/apps", "/a//b")
	for path, want := range map[string]string{
		"/v2/apps": "/v2/apps", "/a//b": "/a//b", "/v2/apps/" + n.app.ID: "", n.invoke(): "", "/t/photos/v2/apps": "", "/": "", "//v2/apps": "", "/v2/../v2/apps": "", "/api/apps": "",
	} {
		for _, method := range []string{"GET", "DELETE"} {
			resp, body := n.do(method, path, nil, "Host: photos.example.org")
			if want == "" {
				n.says(path, resp, body, 404, "Trigger not found")
			} else {
				n.says(path, resp, body, 200, want+"map[]")
			}
		}
	}
	if status, body := n.raw("OPTIONS * HTTP/1.1\r\nHost: photos.example.org\r\nConnection: close\r\n\r\n"); status == 200 && body != "" {
		t.Errorf("OPTIONS *: %d %q", status, body)
	}
	if status, _ := n.raw("GET http://photos.example.org HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n"); status != 404 {
		t.Errorf("an absolute address: %d", status)
	}
	n.NoInvoke = true
	resp, body := n.do("GET", "/v2/apps", nil, "Host: photos.example.org")
	n.says("a node that manages only", resp, body, 404, "Path not found: GET /v2/apps")
}

func TestUrlOfAHostIsTheFunctions(t *testing.T) {
	n := serve(t, nil, func(s *fnv2.Server) { s.Domain = "example.org" }, "/x")
	var got string
	n.Caller = caller(func(_ context.Context, _ *faas.Call, req *faas.Request, _ http.ResponseWriter) error {
		got = req.Header.Get("Fn-Http-Request-Url")
		return nil
	})
	n.do("GET", "/x?a=1", nil, "Host: photos.example.org:8080")
	if got != "http://photos.example.org:8080/x?a=1" {
		t.Errorf("the function sees %s", got)
	}
}

func TestTokenOfManagementReachesNoTriggerWithoutAKey(t *testing.T) {
	var got string
	n := serve(t, nil, func(s *fnv2.Server) { s.Domain, s.TokenKey = "example.org", "of the node" }, "/x")
	n.Caller = caller(func(_ context.Context, _ *faas.Call, req *faas.Request, _ http.ResponseWriter) error {
		got = req.Header.Get("Fn-Http-H-Authorization")
		return nil
	})
	n.put(n.fn, faas.Trigger{Source: "/locked", Key: "its own"})
	bearer := func(key string) string {
		signed, err := jwt.New(jwt.SigningMethodHS256).SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + signed
	}
	node, own := bearer("of the node"), bearer("its own")
	for _, tt := range []struct{ path, host, sent, want string }{
		{"/t/photos/x", "", node, ""}, {"/x", "photos.example.org", node, ""}, {"/x", "photos.example.org", own, own},
		{"/t/photos/locked", "", own, own}, {"/locked", "photos.example.org", own, own},
	} {
		headers := []string{"Authorization: " + tt.sent}
		if tt.host != "" {
			headers = append(headers, "Host: "+tt.host)
		}
		got = "not called"
		if resp, body := n.do("POST", tt.path, nil, headers...); resp.StatusCode != 200 || got != tt.want {
			t.Errorf("%s of %q: %d %s, the function has %q, want %q", tt.path, tt.host, resp.StatusCode, body, got, tt.want)
		}
	}
}
