package image_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/image"
)

// guard asks for basic authentication.
func guard(user, password string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		u, p, _ := r.BasicAuth()
		if u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
		return true
	}
}

func TestBasicAuthentication(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "secret:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	reg.spoil = guard("bob", "right")
	s := open(t)
	_, err := s.Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Denied, reg.host, "docker login "+reg.host)
	_, err = s.Pull(t.Context(), ref, image.PullOptions{Credentials: &image.Auth{Username: "bob", Password: "wrong"}})
	fails(t, err, faas.Denied, reg.host, `"bob"`, "docker login "+reg.host)
	if strings.Contains(err.Error(), "wrong") {
		t.Errorf("the error holds the password: %v", err)
	}
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{Credentials: &image.Auth{Username: "bob", Password: "right"}}); err != nil {
		t.Error(err)
	}
}

func TestCredentialsComeFromTheDockerConfigAndItsHelpers(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "secret:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	reg.spoil = guard("bob", "right")
	for name, config := range map[string]string{
		"file":   fmt.Sprintf(`{"auths": {%q: {"username": "bob", "password": "right"}}}`, reg.host),
		"helper": fmt.Sprintf(`{"credHelpers": {%q: "hobtest"}}`, reg.host),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("DOCKER_CONFIG", dir)
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			helper := "#!/bin/sh\necho '{\"Username\": \"bob\", \"Secret\": \"right\"}'\n"
			if err := errors.Join(
				os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600),
				os.WriteFile(filepath.Join(dir, "docker-credential-hobtest"), []byte(helper), 0o700),
			); err != nil {
				t.Fatal(err)
			}
			s := open(t, func(c *image.Config) { c.Keychain = authn.DefaultKeychain })
			if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTokenAuthentication(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "secret:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	var scopes sync.Map
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if u, p, _ := r.BasicAuth(); u != "bob" || p != "right" {
				http.Error(w, "{}", http.StatusUnauthorized)
				return true
			}
			scopes.Store(r.URL.Query().Get("scope"), true)
			io.WriteString(w, `{"token": "T0KEN"}`)
			return true
		}
		if r.Header.Get("Authorization") == "Bearer T0KEN" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
		http.Error(w, "{}", http.StatusUnauthorized)
		return true
	}
	s := open(t)
	_, err := s.Pull(t.Context(), ref, image.PullOptions{Credentials: &image.Auth{Username: "bob", Password: "wrong"}})
	fails(t, err, faas.Denied, reg.host)
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{Credentials: &image.Auth{Username: "bob", Password: "right"}}); err != nil {
		t.Fatal(err)
	}
	if _, ok := scopes.Load("repository:secret:pull"); !ok {
		t.Error("the token was not asked for the repository")
	}
}

func TestPlainHTTPNeedsLeaveOffLoopback(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	_, port, _ := strings.Cut(reg.host, ":")
	// A name that is not loopback's, by a proxy that knows where it is.
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			http.Error(w, "no TLS here", http.StatusBadGateway)
			return
		}
		req, _ := http.NewRequestWithContext(r.Context(), r.Method, reg.URL+r.URL.Path, nil)
		req.Header = r.Header
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	}))
	defer proxy.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	dial := func(c *image.Config) { c.Proxy = proxy.URL }
	host := "registry.internal:" + port
	ref = strings.Replace(ref, reg.host, host, 1)
	_, err := open(t, dial).Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Busy, host)
	for _, allowed := range []string{host, "Registry.Internal"} {
		s := open(t, dial, func(c *image.Config) { c.PlainHTTP = []string{allowed} })
		if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
			t.Errorf("allowed as %s: %v", allowed, err)
		}
	}
}
