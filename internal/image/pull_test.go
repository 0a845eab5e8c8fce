package image_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/image/content"
	"hob/internal/image/layer"
)

// blobRequest reports whether r asks for a blob, and which.
func blobRequest(r *http.Request) (digest string, ok bool) {
	_, digest, ok = strings.Cut(r.URL.Path, "/blobs/")
	return digest, ok && r.Method == http.MethodGet
}

func TestImageIsAliveAfterRestart(t *testing.T) {
	reg, dir := serve(t), t.TempDir()
	img := build(t, v1.Config{Cmd: []string{"x"}}, files(t, file("f", "1")))
	ref := reg.push(t, "app:v1", img)
	s := open(t, in(dir))
	first, err := s.Pull(t.Context(), ref, image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reg.Close()
	s.Close()
	s = open(t, in(dir))
	again, err := s.Pull(t.Context(), ref, image.PullOptions{})
	if err != nil || again.Digest != first.Digest || !slices.Equal(again.Config.Command, []string{"x"}) || again.Size != first.Size {
		t.Errorf("after restart %+v, %v; want %+v", again, err, first)
	}
	if got := read(t, s, first.Digest, "f"); got != "1" {
		t.Errorf("file is %q", got)
	}
	_, err = s.Pull(t.Context(), ref, image.PullOptions{Policy: image.PullAlways})
	fails(t, err, faas.Busy, reg.host, "cannot be reached")
	for _, id := range []string{first.Digest, first.Digest[7:], first.Digest[7:17], ref} {
		if got, err := s.Get(id); err != nil || got.Digest != first.Digest {
			t.Errorf("get %s: %v, %v", id, got.Digest, err)
		}
	}
	_, err = s.Get("sha256:" + strings.Repeat("0", 64))
	fails(t, err, faas.NotFound)
}

func TestPolicyDecidesWhetherTheRegistryIsAsked(t *testing.T) {
	reg, s := serve(t), open(t)
	old := build(t, v1.Config{}, files(t, file("f", "old")))
	ref := reg.push(t, "app:v1", old)
	_, err := s.Pull(t.Context(), ref, image.PullOptions{Policy: image.PullNever})
	fails(t, err, faas.NotFound, ref)
	_, err = s.Pull(t.Context(), ref, image.PullOptions{Policy: "sometimes"})
	fails(t, err, faas.Invalid, "sometimes")
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	moved := build(t, v1.Config{}, files(t, file("f", "new")))
	reg.push(t, "app:v1", moved)
	for policy, want := range map[image.Policy]v1.Image{image.PullMissing: old, image.PullNever: old} {
		if got, err := s.Pull(t.Context(), ref, image.PullOptions{Policy: policy}); err != nil || got.Digest != digest(t, want) {
			t.Errorf("%s: %s, %v", policy, got.Digest, err)
		}
	}
	got, err := s.Pull(t.Context(), ref, image.PullOptions{Policy: image.PullAlways})
	if err != nil || got.Digest != digest(t, moved) {
		t.Errorf("always: %s, %v", got.Digest, err)
	}
	if old, err := s.Get(digest(t, old)); err != nil || len(old.Refs) != 0 {
		t.Errorf("the old image has names %v, %v", old.Refs, err)
	}
}

func TestPullByDigest(t *testing.T) {
	reg, s := serve(t), open(t)
	img := build(t, v1.Config{}, files(t, file("f", "1")))
	reg.push(t, "app:v1", img)
	ref := reg.host + "/app@" + digest(t, img)
	got, err := s.Pull(t.Context(), ref, image.PullOptions{})
	if err != nil || got.Digest != digest(t, img) || !slices.Equal(got.Refs, []string{ref}) {
		t.Errorf("pulled %+v, %v", got, err)
	}
	_, err = s.Pull(t.Context(), reg.host+"/app@"+someDigest, image.PullOptions{})
	fails(t, err, faas.NotFound, someDigest)
}

// index makes a manifest list of one image for each platform.
func index(t *testing.T, platforms ...string) (v1.ImageIndex, map[string]v1.Image) {
	t.Helper()
	images := make(map[string]v1.Image)
	idx := v1.ImageIndex(empty.Index)
	for _, name := range platforms {
		img := buildFor(t, name, v1.Config{}, files(t, file("platform", name)))
		p, err := v1.ParsePlatform(name)
		if err != nil {
			t.Fatal(err)
		}
		images[name] = img
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}})
	}
	// What docker buildx adds.
	att := build(t, v1.Config{}, files(t, file("attestation", "x")))
	return mutate.AppendManifests(idx, mutate.IndexAddendum{Add: att, Descriptor: v1.Descriptor{
		Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"},
	}}), images
}

func TestPlatformOfThisNodeIsChosen(t *testing.T) {
	for node, c := range map[string]struct{ list []string }{
		"linux/amd64":  {[]string{"windows/amd64", "linux/arm64/v8", "linux/amd64", "linux/amd64/v3"}},
		"linux/arm64":  {[]string{"linux/amd64", "linux/arm/v7", "linux/arm64"}},
		"linux/arm/v7": {[]string{"linux/arm/v6", "linux/arm/v7"}},
	} {
		t.Run(node, func(t *testing.T) {
			reg := serve(t)
			idx, images := index(t, c.list...)
			ref := reg.push(t, "multi", idx)
			s := open(t, func(c *image.Config) { c.Platform = node })
			got, err := s.Pull(t.Context(), ref, image.PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Digest != digest(t, images[node]) || got.Index != digest(t, idx) || got.Platform != node {
				t.Errorf("got %s from %s for %s", got.Digest, got.Index, got.Platform)
			}
			if byIndex, err := s.Get(digest(t, idx)); err != nil || byIndex.Digest != got.Digest {
				t.Errorf("by the list's digest: %v, %v", byIndex.Digest, err)
			}
		})
	}
}

func TestImageForOtherPlatformsNamesThem(t *testing.T) {
	reg, s := serve(t), open(t)
	idx, images := index(t, "linux/arm64/v8", "linux/s390x", "linux/amd64/v3")
	_, err := s.Pull(t.Context(), reg.push(t, "multi", idx), image.PullOptions{})
	fails(t, err, faas.Unsupported, "linux/amd64;", "linux/amd64/v3, linux/arm64/v8, linux/s390x")
	_, err = s.Pull(t.Context(), reg.push(t, "single", images["linux/s390x"]), image.PullOptions{})
	fails(t, err, faas.Unsupported, "linux/s390x", "linux/amd64")
	if len(s.List()) != 0 {
		t.Errorf("images %v", s.List())
	}
}

func TestUnknownImageNamesReferenceAndRegistry(t *testing.T) {
	reg, s := serve(t), open(t)
	_, err := s.Pull(t.Context(), reg.host+"/none:v1", image.PullOptions{})
	fails(t, err, faas.NotFound, reg.host+"/none:v1")
	_, err = s.Pull(t.Context(), "hob.local/none", image.PullOptions{})
	fails(t, err, faas.NotFound, "hob.local/none:latest")
	_, err = s.Pull(t.Context(), "No/Such", image.PullOptions{})
	fails(t, err, faas.Invalid, "No/Such")
}

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

func TestTwoPullsOfAReferenceAreOne(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	var manifests atomic.Int32
	gate, arrived := make(chan struct{}), make(chan struct{}, 1)
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			manifests.Add(1)
			arrived <- struct{}{}
			<-gate
		}
		return false
	}
	s := open(t)
	leaver, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.Pull(leaver, ref, image.PullOptions{})
		left <- err
	}()
	<-arrived
	results, joined := make(chan error, 3), make(chan struct{}, 3)
	for range 3 {
		go func() {
			var once sync.Once
			_, err := s.Pull(t.Context(), ref, image.PullOptions{Progress: func(image.Progress) {
				once.Do(func() { joined <- struct{}{} }) // it has joined when it hears of progress
			}})
			results <- err
		}()
	}
	for range 3 {
		<-joined
	}
	leave() // who began it goes; the others get their image
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(gate)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := manifests.Load(); n != 1 {
		t.Errorf("the registry was asked %d times, want once", n)
	}
}

func TestPullEndsWhenAllHaveLeft(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	arrived, gone := make(chan struct{}), make(chan struct{})
	var once sync.Once
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if _, ok := blobRequest(r); ok {
			once.Do(func() { close(arrived) })
			<-r.Context().Done()
			select {
			case <-gone:
			default:
				close(gone)
			}
			return true
		}
		return false
	}
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, err := s.Pull(ctx, ref, image.PullOptions{})
	fails(t, err, faas.Canceled)
	<-gone
	reg.spoil = nil
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Errorf("a new pull: %v", err)
	}
}

func TestCloseEndsPullsUnderWay(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	arrived := make(chan struct{})
	var once sync.Once
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if _, ok := blobRequest(r); ok {
			once.Do(func() { close(arrived) })
			<-r.Context().Done()
			return true
		}
		return false
	}
	s := open(t)
	pulled := make(chan error)
	go func() {
		_, err := s.Pull(t.Context(), ref, image.PullOptions{})
		pulled <- err
	}()
	<-arrived
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	fails(t, <-pulled, faas.Busy, "stopping")
	_, err := s.Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Busy, "stopping")
}

func TestImageIDIsNeverAskedOfARegistry(t *testing.T) {
	s := open(t)
	img := load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "1"))))
	for _, id := range []string{img.Digest, img.Digest[7:], img.Digest[:20]} {
		if got, err := s.Pull(t.Context(), id, image.PullOptions{Policy: image.PullAlways}); err != nil || got.Digest != img.Digest {
			t.Errorf("%s: %v, %v", id, got.Digest, err)
		}
	}
	_, err := s.Pull(t.Context(), someDigest, image.PullOptions{})
	fails(t, err, faas.NotFound, someDigest)
}

// cut answers each blob request with at most n bytes, then breaks off.
func cut(reg *server, ranges bool, n int, asked *sync.Map) func(http.ResponseWriter, *http.Request) bool {
	client := reg.Client()
	return func(w http.ResponseWriter, r *http.Request) bool {
		d, ok := blobRequest(r)
		if !ok || r.Header.Get("X-Whole") != "" {
			return false
		}
		asked.Store(d+" "+r.Header.Get("Range"), true)
		req, _ := http.NewRequestWithContext(r.Context(), http.MethodGet, reg.URL+r.URL.Path, nil)
		req.Header.Set("X-Whole", "1")
		resp, err := client.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		status, from := http.StatusOK, 0
		if h := r.Header.Get("Range"); ranges && h != "" {
			fmt.Sscanf(h, "bytes=%d-", &from)
			status = http.StatusPartialContent
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
		w.WriteHeader(status)
		if ranges {
			w.Write(body[from:min(len(body), from+n)])
			return true // shorter than announced: the connection is broken off
		}
		// Each time a little more, from the start.
		times := 0
		asked.Range(func(any, any) bool { times++; return true })
		w.Write(body[:min(len(body), n*times)])
		return true
	}
}

func TestTransferThatIsCutOffIsContinued(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%v", ranges), func(t *testing.T) {
			reg := serve(t)
			l, err := random.Layer(100_000, types.DockerLayer)
			if err != nil {
				t.Fatal(err)
			}
			ref := reg.push(t, "app:v1", build(t, v1.Config{}, l))
			var asked sync.Map
			reg.spoil = cut(reg, ranges, 30_000, &asked)
			if _, err := open(t).Pull(t.Context(), ref, image.PullOptions{}); err != nil {
				t.Fatal(err)
			}
			continued := false
			asked.Range(func(key, _ any) bool {
				continued = continued || strings.HasPrefix(key.(string), digest(t, l)+" bytes=")
				return true
			})
			if !continued {
				t.Error("the transfer did not go on where it was cut off")
			}
		})
	}
}

func TestTransferThatNeverGoesOnFails(t *testing.T) {
	reg, dir := serve(t), t.TempDir()
	l, err := random.Layer(100_000, types.DockerLayer)
	if err != nil {
		t.Fatal(err)
	}
	img := build(t, v1.Config{}, l)
	ref := reg.push(t, "app:v1", img)
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if d, ok := blobRequest(r); ok && d == digest(t, l) && r.Header.Get("Range") != "" {
			panic(http.ErrAbortHandler)
		} else if ok && d == digest(t, l) {
			w.Header().Set("Content-Length", "100000000")
			w.Write(make([]byte, 1000))
			return true
		}
		return false
	}
	s := open(t, in(dir))
	_, err = s.Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Busy, reg.host)
	s.Close()
	// The next process goes on, finds that the beginning was wrong, and mends it.
	reg.spoil = nil
	s = open(t, in(dir))
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Errorf("after restart: %v", err)
	}
	s.Close()
	wholeImages(t, dir, digest(t, img))
}

func TestWrongBytesAreRefused(t *testing.T) {
	img := build(t, v1.Config{}, files(t, file("f", "1")))
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	bad := func(match func(r *http.Request) bool, body []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if match(r) {
				w.Write(body)
				return true
			}
			return false
		}
	}
	size, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	layerBlob := func(r *http.Request) bool { d, ok := blobRequest(r); return ok && d == digest(t, layers[0]) }
	for name, c := range map[string]struct {
		spoil func(http.ResponseWriter, *http.Request) bool
		ref   string
		word  string
	}{
		"layer":             {bad(layerBlob, bytes.Repeat([]byte("x"), int(size))), ":v1", "digest mismatch"},
		"layer too long":    {bad(layerBlob, bytes.Repeat([]byte("x"), int(size)+1)), ":v1", "longer than"},
		"manifest":          {bad(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/sha") }, []byte(`{"schemaVersion":2}`)), "@" + digest(t, img), "digest mismatch"},
		"no manifest":       {bad(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }, []byte(`<html>`)), ":v1", "bad manifest"},
		"manifest too long": {bad(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }, make([]byte, 5<<20)), ":v1", "4 MB"},
		"schema 1":          {bad(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }, []byte(`{"schemaVersion":1,"fsLayers":[]}`)), ":v1", "schema 1"},
	} {
		t.Run(name, func(t *testing.T) {
			reg, dir := serve(t), t.TempDir()
			reg.push(t, "app:v1", img)
			reg.spoil = c.spoil
			s := open(t, in(dir))
			_, err := s.Pull(t.Context(), reg.host+"/app"+c.ref, image.PullOptions{})
			kind := faas.Invalid
			if name == "schema 1" {
				kind = faas.Unsupported
			}
			fails(t, err, kind, c.word)
			s.Close()
			wholeImages(t, dir)
		})
	}
}

func TestRegistryThatIsOutOfOrderIsTriedAgain(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	var n atomic.Int32
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1)%2 == 1 {
			http.Error(w, "out of order", http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	s := open(t)
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Errorf("every second answer is 503: %v", err)
	}
	for status, word := range map[int]string{http.StatusInternalServerError: "out of order", http.StatusTooManyRequests: "no more pulls"} {
		reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
			http.Error(w, "{}", status)
			return true
		}
		_, err := s.Pull(t.Context(), ref, image.PullOptions{Policy: image.PullAlways})
		fails(t, err, faas.Busy, reg.host, word)
	}
}

// raw is an image of given bytes.
func rawImage(t *testing.T, reg *server, repo, mediaType string, manifest, config []byte, layers ...[]byte) string {
	t.Helper()
	put := func(path, contentType string, data []byte) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, reg.URL+path, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := reg.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			t.Fatalf("PUT %s: %s", path, resp.Status)
		}
	}
	for _, b := range append([][]byte{config}, layers...) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, reg.URL+"/v2/"+repo+"/blobs/uploads/?digest="+content.Digest(b), bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := reg.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	put("/v2/"+repo+"/manifests/v1", mediaType, manifest)
	return reg.host + "/" + repo + ":v1"
}

func manifestOf(config []byte, layers ...[]byte) []byte {
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	desc := func(t types.MediaType, b []byte) v1.Descriptor {
		h, _ := v1.NewHash(content.Digest(b))
		return v1.Descriptor{MediaType: t, Size: int64(len(b)), Digest: h}
	}
	m.Config = desc(types.OCIConfigJSON, config)
	for _, l := range layers {
		m.Layers = append(m.Layers, desc(types.OCILayer, l))
	}
	data, _ := json.Marshal(m)
	return data
}

func TestBrokenConfigIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ config, word string }{
		"no JSON":       {`{`, "bad config"},
		"wrong types":   {`{"config": {"Cmd": 7}}`, "bad config"},
		"layer missing": {`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + someDigest + `"]}}`, "1 layers where the manifest has 0"},
		"zero byte":     {`{"config": {"Cmd": ["a\u0000b"]}}`, "zero byte"},
		"other system":  {`{"os":"windows","architecture":"amd64"}`, "windows/amd64"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := serve(t)
			ref := rawImage(t, reg, "app", string(types.OCIManifestSchema1), manifestOf([]byte(c.config)), []byte(c.config))
			_, err := open(t).Pull(t.Context(), ref, image.PullOptions{})
			kind := faas.Invalid
			if name == "other system" {
				kind = faas.Unsupported
			}
			fails(t, err, kind, c.word, "app")
		})
	}
}

func TestArtifactThatIsNoImageIsRefused(t *testing.T) {
	reg := serve(t)
	config := []byte(`{}`)
	m := bytes.Replace(manifestOf(config), []byte(types.OCIConfigJSON), []byte("application/vnd.cncf.helm.config.v1+json"), 1)
	ref := rawImage(t, reg, "chart", string(types.OCIManifestSchema1), m, config)
	_, err := open(t).Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Unsupported, "not a container image", "helm")
}

func TestBadLayerIsRefusedAndLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		layer v1.Layer
		word  string
	}{
		"climbs out":   {files(t, file("../../evil", "x")), "climbs out"},
		"bomb":         {files(t, file("zeros", strings.Repeat("\x00", 4<<20))), "1048576"},
		"wrong diffID": {&fixedLayer{Layer: files(t, file("f", "1")), diffID: v1.Hash{Algorithm: "sha256", Hex: someDigest[7:]}}, "digest mismatch"},
		"no tar":       {&fixedLayer{Layer: static.NewLayer([]byte("no tar at all"), types.DockerLayer), diffID: v1.Hash{Algorithm: "sha256", Hex: someDigest[7:]}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			reg, dir := serve(t), t.TempDir()
			ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("good", "1")), c.layer))
			s := open(t, in(dir), func(c *image.Config) { c.Limits = layer.Limits{Bytes: 1 << 20} })
			_, err := s.Pull(t.Context(), ref, image.PullOptions{})
			fails(t, err, faas.Invalid, c.word, ref)
			s.Close()
			wholeImages(t, dir)
			if left, _ := os.ReadDir(filepath.Join(dir, "layers", "tmp")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestImageWithoutLayersHasAnEmptyRoot(t *testing.T) {
	reg, dir := serve(t), t.TempDir()
	ref := reg.push(t, "scratch:v1", build(t, v1.Config{Cmd: []string{"/x"}}))
	s := open(t, in(dir))
	img, err := s.Pull(t.Context(), ref, image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		root, err := s.RootFS(t.Context(), img.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(root.Layers[0]); len(root.Layers) != 1 || err != nil || len(entries) != 0 {
			t.Errorf("layers %v hold %v, %v", root.Layers, entries, err)
		}
		root.Release()
	}
}

func TestFullDiskDuringPullIsBusyAndRecovers(t *testing.T) {
	reg, dir := serve(t), t.TempDir()
	img := build(t, v1.Config{}, files(t, file("f", strings.Repeat("data", 1000))))
	ref := reg.push(t, "app:v1", img)
	var full atomic.Bool
	full.Store(true)
	s := open(t, in(dir), func(c *image.Config) {
		c.Hook = func(op content.Op, path string) error {
			if full.Load() && op == content.OpWrite {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	_, err := s.Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Busy, "no space left", dir, "more bytes are needed")
	if left, _ := os.ReadDir(filepath.Join(dir, "content", "tmp")); len(left) > 0 {
		t.Errorf("left %v on a full disk", left)
	}
	full.Store(false)
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestCrashDuringPullLeavesNoHalfImage ends the life of the store at each
// operation of a pull in turn; opened again, it has the image whole or not at
// all, has it if that was promised, and pulls it without complaint.
func TestCrashDuringPullLeavesNoHalfImage(t *testing.T) {
	reg := serve(t)
	img := build(t, v1.Config{}, files(t, file("f", "1")), files(t, file("g", "2")))
	ref := reg.push(t, "app:v1", img)
	for n := int32(0); ; n++ {
		if n > 200 {
			t.Fatal("the scenario never ends")
		}
		dir := t.TempDir()
		var count atomic.Int32
		cfg := image.Config{Dir: dir, Platform: "linux/amd64", Keychain: authn.NewMultiKeychain(), RetryWait: 1, Parallel: 1, Hook: func(content.Op, string) error {
			if count.Add(1) > n {
				return errors.New("power cut")
			}
			return nil
		}}
		promised := false
		if s, err := image.Open(cfg); err == nil {
			_, err := s.Pull(t.Context(), ref, image.PullOptions{})
			promised = err == nil
			s.Close()
		}
		s := open(t, in(dir))
		if _, err := s.Get(ref); promised && err != nil {
			t.Errorf("crash at operation %d: the image is gone: %v", n, err)
		}
		got, err := s.Pull(t.Context(), ref, image.PullOptions{})
		if err != nil {
			t.Errorf("crash at operation %d, then again: %v", n, err)
		} else if read(t, s, got.Digest, "g") != "2" {
			t.Errorf("crash at operation %d: half an image", n)
		}
		s.Close()
		if count.Load() <= n {
			break
		}
	}
}
