package api_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"hob/internal/api"
)

func status(w http.ResponseWriter, f api.Fault) {
	w.WriteHeader(f.Status)
	fmt.Fprintf(w, "%s %s", f.Kind, f.Message)
}

func TestGuardWithAKeyWantsAToken(t *testing.T) {
	good := token(t, jwt.SigningMethodHS256, []byte(tokenKey), jwt.MapClaims{"exp": time.Now().Unix() + 3600})
	other := token(t, jwt.SigningMethodHS256, []byte("another key"), nil)
	locked, pushed := api.Guard{Key: tokenKey}, api.Guard{Key: tokenKey, Basic: true}
	for name, tt := range map[string]struct {
		guard     api.Guard
		host      string
		header    []string
		status    int
		challenge string
	}{
		"no key":                        {api.Guard{}, "localhost", nil, 200, ""},
		"good":                          {locked, "localhost", []string{"Authorization", good}, 200, ""},
		"none":                          {locked, "localhost", nil, 401, `Bearer realm="hob"`},
		"of another key":                {locked, "localhost", []string{"Authorization", other}, 401, `Bearer realm="hob"`},
		"as a password, where it is no": {locked, "localhost", []string{"Basic", good}, 401, `Bearer realm="hob"`},
		"as a password":                 {pushed, "localhost", []string{"Basic", good}, 200, ""},
		"another as a password":         {pushed, "localhost", []string{"Basic", other}, 401, `Basic realm="hob"`},
		"where a password may be":       {pushed, "localhost", []string{"Authorization", good}, 200, ""},
		"none where a password may be":  {pushed, "localhost", nil, 401, `Basic realm="hob"`},
		"another host":                  {locked, "evil.example", []string{"Authorization", good}, 403, ""},
		"page of another origin":        {locked, "localhost", []string{"Authorization", good, "Origin", "http://evil.example"}, 403, ""},
	} {
		r := httptest.NewRequest("POST", "http://"+tt.host+"/v2/apps", nil)
		for i := 0; i < len(tt.header); i += 2 {
			if tt.header[i] == "Basic" {
				r.SetBasicAuth("anybody", strings.TrimPrefix(tt.header[i+1], "Bearer "))
			} else {
				r.Header.Set(tt.header[i], tt.header[i+1])
			}
		}
		w := httptest.NewRecorder()
		served := false
		tt.guard.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }), status).ServeHTTP(w, r)
		if w.Code != tt.status || served != (tt.status == 200) || w.Header().Get("WWW-Authenticate") != tt.challenge {
			t.Errorf("%s: %d %s, challenge %q; want %d, %q", name, w.Code, w.Body, w.Header().Get("WWW-Authenticate"), tt.status, tt.challenge)
		}
	}
}

// TestRefusalReachesWhoSendsMuch: a client that still writes would find its connection
// reset if nobody read on.
func TestRefusalReachesWhoSendsMuch(t *testing.T) {
	s := httptest.NewServer(api.Guard{Key: tokenKey}.Wrap(http.NotFoundHandler(), status))
	defer s.Close()
	resp, err := http.Post(s.URL, "", io.LimitReader(zeros{}, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 401 || !strings.HasPrefix(string(body), "denied a token is wanted") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestTokenOfManagementReachesNoFunction(t *testing.T) {
	good := token(t, jwt.SigningMethodHS256, []byte(tokenKey), nil)
	for name, tt := range map[string]struct{ key, given, want string }{
		"ours":          {tokenKey, good, ""},
		"another's":     {tokenKey, "Bearer of the function", "Bearer of the function"},
		"none":          {tokenKey, "", ""},
		"without a key": {"", good, good},
	} {
		r := httptest.NewRequest("POST", "/", nil)
		if tt.given != "" {
			r.Header.Set("Authorization", tt.given)
		}
		got := "not served"
		h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get("Authorization") })
		api.WithoutToken(h, tt.key).ServeHTTP(httptest.NewRecorder(), r)
		if got != tt.want {
			t.Errorf("%s: the function has %q, want %q", name, got, tt.want)
		}
	}
}
