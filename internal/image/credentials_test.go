package image_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/image"
)

// known opens a store with these credentials.
func known(t *testing.T, auth string) *image.Store {
	t.Helper()
	keys, err := image.Credentials(auth)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, func(c *image.Config) { c.Keychain = keys })
}

func TestCredentialsOfTheNodeOpenARegistry(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "team/secret:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	reg.spoil = guard("bob", "right")
	kept := filepath.Join(t.TempDir(), "auth.json")
	entry := `"username":"bob","password":"right"`
	if err := os.WriteFile(kept, fmt.Appendf(nil, `{"auths":{%q:{%s}}}`, reg.host, entry), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, auth := range map[string]string{
		"name and password":    fmt.Sprintf(`{"auths":{%q:{%s}}}`, reg.host, entry),
		"both in one":          fmt.Sprintf(`{"auths":{%q:{"auth":"Ym9iOnJpZ2h0"}}}`, reg.host),
		"by URL":               fmt.Sprintf(`{"auths":{"http://%s/v1/":{%s}}}`, reg.host, entry),
		"of the repository":    fmt.Sprintf(`{"auths":{"%[1]s/team/secret":{%[2]s},%[1]q:{"username":"eve","password":"x"}}}`, reg.host, entry),
		"the oldest form":      fmt.Sprintf("\n{%q:{\"auth\":\"Ym9iOnJpZ2h0\",\"email\":\"\"}}\n", reg.host),
		"in a file":            kept,
		"beside other entries": fmt.Sprintf(`{"auths":{"other.example":{},%q:{%s}},"detachKeys":"x","plugins":{"a":{"b":"c"}}}`, reg.host, entry),
	} {
		if _, err := known(t, auth).Pull(t.Context(), ref, image.PullOptions{}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, auth := range map[string]string{
		"wrong password":   fmt.Sprintf(`{"auths":{%q:{"username":"bob","password":"hush"}}}`, reg.host),
		"another registry": fmt.Sprintf(`{"auths":{"other.example":{%s}}}`, entry),
		"nothing":          `{}`,
		"no entries":       `{"auths":null}`,
	} {
		_, err := known(t, auth).Pull(t.Context(), ref, image.PullOptions{})
		fails(t, err, faas.Denied, reg.host, "docker login")
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error tells the password: %v", what, err)
		}
	}

	s := known(t, kept)
	if err := os.WriteFile(kept, []byte(`{"auths":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Denied, reg.host)
}

func TestIdentityTokenIsExchangedForATokenOfTheRepository(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "secret:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if r.FormValue("grant_type") != "refresh_token" || r.FormValue("refresh_token") != "REFRESH" {
				http.Error(w, "{}", http.StatusUnauthorized)
				return true
			}
			fmt.Fprint(w, `{"access_token":"T0KEN"}`)
			return true
		}
		if r.Header.Get("Authorization") == "Bearer T0KEN" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
		http.Error(w, "{}", http.StatusUnauthorized)
		return true
	}
	auth := fmt.Sprintf(`{"auths":{%q:{"identitytoken":"REFRESH"}}}`, reg.host)
	if _, err := known(t, auth).Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Error(err)
	}
}

func TestDockerHubHasSeveralNamesInCredentials(t *testing.T) {
	repo, err := name.NewRepository("busybox")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"} {
		keys, err := image.Credentials(fmt.Sprintf(`{"auths":{%q:{"auth":"Ym9iOnJpZ2h0"}}}`, key))
		if err != nil {
			t.Fatal(err)
		}
		found, err := authn.Resolve(t.Context(), keys, repo)
		if err != nil {
			t.Fatal(err)
		}
		if cfg, err := authn.Authorization(t.Context(), found); err != nil || cfg.Username != "bob" || cfg.Password != "right" {
			t.Errorf("%s: %+v, %v", key, cfg, err)
		}
	}
}

func TestCredentialsThatCannotBeReadAreRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for auth, word := range map[string]string{
		`{"auths":{"r.example":{"auth":"h u s h"}}}`:    "base64",
		`{"auths":{"r.example":{"auth":"aHVzaA=="}}}`:   "credentials",
		`{"auths":["hush"]}`:                            "credentials",
		`{"auths":{}} hush`:                             "credentials",
		write("bad", "hush"):                            filepath.Join(dir, "bad"),
		write("large", strings.Repeat(" ", 1<<20)+`{}`): "limit of 1 MB",
		filepath.Join(dir, "none"):                      filepath.Join(dir, "none"),
		dir:                                             dir,
		"not-json":                                      "not-json",
	} {
		_, err := image.Credentials(auth)
		fails(t, err, faas.Invalid, word)
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	if keys, err := image.Credentials(" "); err != nil || keys != authn.DefaultKeychain {
		t.Errorf("without credentials: %v, %v", keys, err)
	}
}
