package api

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// send has h answer a request with these headers, "Name", "value" and so on.
func send(h http.Handler, method string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://localhost/v2/apps", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const (
	page  = "https://ui.example.org"
	other = "https://evil.example.com"
)

func TestBrowsersAreToldWhoMayRead(t *testing.T) {
	served := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, tt := range []struct {
		name            string
		cors            CORS
		method          string
		headers         []string
		status          int
		origin, method2 string // that the answer allows
		wants           string // headers that it allows
	}{
		{"off", CORS{}, "GET", []string{"Origin", page}, 418, "", "", ""},
		{"off, before a request", CORS{}, "OPTIONS", []string{"Origin", page, "Access-Control-Request-Method", "PUT"}, 418, "", "", ""},
		{"a page", CORS{Origins: []string{page}}, "POST", []string{"Origin", page}, 418, page, "", ""},
		{"another page", CORS{Origins: []string{page}}, "GET", []string{"Origin", other}, 418, "", "", ""},
		{"no page", CORS{Origins: []string{page}}, "GET", nil, 418, "", "", ""},
		{"every page", CORS{Origins: []string{"*"}}, "GET", []string{"Origin", other}, 418, "*", "", ""},
		{"a family", CORS{Origins: []string{"https://*.example.org"}}, "GET", []string{"Origin", page}, 418, page, "", ""},
		{"before a request", CORS{Origins: []string{page}}, "OPTIONS", []string{"Origin", page, "Access-Control-Request-Method", "DELETE"}, 204, page, "DELETE", ""},
		{"before one of another page", CORS{Origins: []string{page}}, "OPTIONS", []string{"Origin", other, "Access-Control-Request-Method", "DELETE"}, 204, "", "", ""},
		{"before one with a method that none may use", CORS{Origins: []string{page}}, "OPTIONS", []string{"Origin", page, "Access-Control-Request-Method", "PATCH"}, 204, "", "", ""},
		{"before one with headers", CORS{Origins: []string{page}, Headers: []string{"X-B", "authorization"}}, "OPTIONS",
			[]string{"Origin", page, "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "X-B, Content-Type,Authorization"}, 204, page, "PUT", "authorization,content-type,x-b"},
		{"before one with a header that none may have", CORS{Origins: []string{page}}, "OPTIONS",
			[]string{"Origin", page, "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "x-b"}, 204, "", "", ""},
		{"a call of OPTIONS", CORS{Origins: []string{page}}, "OPTIONS", []string{"Origin", page}, 418, page, "", ""},
	} {
		h := send(tt.cors.Wrap(served), tt.method, tt.headers...).Result()
		if h.StatusCode != tt.status || h.Header.Get("Access-Control-Allow-Origin") != tt.origin || h.Header.Get("Access-Control-Allow-Methods") != tt.method2 ||
			h.Header.Get("Access-Control-Allow-Headers") != tt.wants {
			t.Errorf("%s: %d %v", tt.name, h.StatusCode, h.Header)
		}
	}
}

func TestGuardLetsInThePagesOfCORS(t *testing.T) {
	served := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {})
	for _, tt := range []struct {
		name    string
		origins []string
		headers []string
		status  int
	}{
		{"a page of ours", []string{page}, []string{"Origin", page, "Sec-Fetch-Site", "cross-site"}, 200},
		{"a page of ours in an old browser", []string{page}, []string{"Origin", page}, 200},
		{"another page", []string{page}, []string{"Origin", other, "Sec-Fetch-Site", "cross-site"}, 403},
		{"one that says nothing of itself", []string{page}, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a page without an origin", []string{page}, []string{"Origin", "null"}, 403},
		{"any page", []string{"*"}, []string{"Origin", other, "Sec-Fetch-Site", "cross-site"}, 403},
		{"any page of a domain", []string{"https://*.example.org"}, []string{"Origin", page, "Sec-Fetch-Site", "cross-site"}, 403},
		{"a page of ours among any", []string{"*", page}, []string{"Origin", page, "Sec-Fetch-Site", "cross-site"}, 200},
		{"another page among any", []string{"*", page}, []string{"Origin", other, "Sec-Fetch-Site", "cross-site"}, 403},
		{"a page without an origin among any", []string{"*"}, []string{"Origin", "null"}, 403},
		{"a page, and CORS is off", nil, []string{"Origin", page, "Sec-Fetch-Site", "cross-site"}, 403},
		{"no page", nil, nil, 200},
	} {
		if got := send(Guard{CORS: CORS{Origins: tt.origins}}.Wrap(served, plain), "DELETE", tt.headers...).Code; got != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.status)
		}
	}
	r := httptest.NewRequest("DELETE", "http://evil.example.com/v2/apps", nil)
	r.Header.Set("Origin", page)
	w := httptest.NewRecorder()
	Guard{CORS: CORS{Origins: []string{page}}}.Wrap(served, plain).ServeHTTP(w, r)
	if w.Code != 403 {
		t.Errorf("a name that is not the node's: %d", w.Code)
	}
}

func TestGuardKeepsPagesFromRequestsThatAct(t *testing.T) {
	served := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	acts := Guard{CORS: CORS{Origins: []string{page}}, Acts: func(r *http.Request) bool { return r.URL.Path == "/v2/apps" }}
	for name, tt := range map[string]struct {
		headers     []string
		acts, reads int
	}{
		"an image in another page": {[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403, 200},
		"a script of another page": {[]string{"Origin", other, "Sec-Fetch-Site", "cross-site"}, 403, 200},
		"a page of ours":           {[]string{"Origin", page, "Sec-Fetch-Site", "cross-site"}, 200, 200},
		"no page":                  {nil, 200, 200},
	} {
		for _, guard := range []Guard{acts, {CORS: acts.CORS}} {
			want := tt.reads
			if guard.Acts != nil {
				want = tt.acts
			}
			if got := send(guard.Wrap(served, plain), "GET", tt.headers...).Code; got != want {
				t.Errorf("%s: %d, want %d", name, got, want)
			}
		}
	}
}
