package registry_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"hob/faas"
	"hob/internal/api/registry"
	"hob/internal/image"
	"hob/internal/image/content"
)

// node is a registry over a real image store.
type node struct {
	dir    string
	hook   content.Hook
	images *image.Store
	reg    *registry.Server
	url    string
	host   string
	max    faas.Bytes
}

// start opens the node, again after stop.
func (n *node) start(t *testing.T) {
	t.Helper()
	var err error
	n.images, err = image.Open(image.Config{Dir: filepath.Join(n.dir, "images"), Hook: n.hook, Grace: -1})
	if err != nil {
		t.Fatal(err)
	}
	n.reg, err = registry.New(registry.Config{
		Dir: filepath.Join(n.dir, "registry"), Images: n.images, Content: n.images.Content(), Log: slog.New(slog.DiscardHandler), MaxBlob: n.max,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(n.reg.Handler())
	n.url, n.host = srv.URL, strings.TrimPrefix(srv.URL, "http://")
	t.Cleanup(func() {
		srv.Close()
		n.images.Close()
	})
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{dir: t.TempDir()}
	n.start(t)
	return n
}

func (n *node) ref(t *testing.T, s string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(n.host + "/" + s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// do sends one request and returns the answer with its body.
func (n *node) do(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = n.url + path
	}
	req, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

// codeOf is the code of an error body, which must be of the form of the specification.
func codeOf(t *testing.T, body string) string {
	t.Helper()
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Message == "" {
		t.Errorf("%q is no error body: %v", body, err)
		return ""
	}
	return e.Errors[0].Code
}

// imageFor makes an image that says its platform.
func imageFor(t *testing.T, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(2000, 2)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

// indexFor makes an index of images for this machine and another.
func indexFor(t *testing.T) (list v1.ImageIndex, here, there v1.Image) {
	t.Helper()
	here, there = imageFor(t, runtime.GOARCH), imageFor(t, otherArch())
	list = empty.Index
	for arch, img := range map[string]v1.Image{otherArch(): there, runtime.GOARCH: here} {
		list = mutate.AppendManifests(list, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return list, here, there
}

type digester interface{ Digest() (v1.Hash, error) }

func digest(t *testing.T, d digester) string {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// readAll pulls all of img and compares it with its manifest.
func readAll(t *testing.T, img v1.Image) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		h, _, err := v1.SHA256(rc)
		rc.Close()
		if err != nil || h.String() != digest(t, l) {
			t.Errorf("layer %s came as %v: %v", digest(t, l), h, err)
		}
	}
	if _, err := img.ConfigFile(); err != nil {
		t.Error(err)
	}
}

// push pushes what a table needs by plain requests and returns its digest.
func (n *node) blob(t *testing.T, repo, data string) string {
	t.Helper()
	d := content.Digest([]byte(data))
	resp, body := n.do(t, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d, data)
	if resp.StatusCode != 201 {
		t.Fatalf("push of a blob: %d %s", resp.StatusCode, body)
	}
	return d
}

func desc(mt, digest string, size int, more string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d%s}`, mt, digest, size, more)
}

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	artifact    = "application/vnd.example.thing"
)

// thing makes the manifest of an artifact with one blob, which it pushes.
func (n *node) thing(t *testing.T, repo, data, more string) string {
	t.Helper()
	cfg := n.blob(t, repo, "{}")
	return `{"schemaVersion":2,"mediaType":"` + ociManifest + `","config":` + desc(artifact, cfg, 2, "") +
		`,"layers":[` + desc(artifact+".part", n.blob(t, repo, data), len(data), "") + `]` + more + `}`
}

func (n *node) put(t *testing.T, repo, ref, mt, body string) *http.Response {
	t.Helper()
	resp, answer := n.do(t, "PUT", "/v2/"+repo+"/manifests/"+ref, body, "Content-Type", mt)
	if resp.StatusCode != 201 {
		t.Fatalf("push of manifest %s: %d %s", ref, resp.StatusCode, answer)
	}
	return resp
}
