package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

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

func TestPushedImageIsAnImageOfTheNode(t *testing.T) {
	n := newNode(t)
	img := imageFor(t, runtime.GOARCH)
	if err := remote.Write(n.ref(t, "photos/resize:7"), img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	got, err := n.images.Get("hob.local/photos/resize:7")
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != digest(t, img) || !slices.Equal(got.Refs, []string{"hob.local/photos/resize:7"}) {
		t.Errorf("got %s called %v, want %s", got.Digest, got.Refs, digest(t, img))
	}
	fs, err := n.images.RootFS(t.Context(), got.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Release()
	if len(fs.Layers) != 2 {
		t.Errorf("got the layers %v", fs.Layers)
	}
	back, err := remote.Image(n.ref(t, "photos/resize:7"))
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, back) != got.Digest {
		t.Errorf("pulled %s", digest(t, back))
	}
	readAll(t, back)
	if back, err = remote.Image(n.ref(t, "photos/resize@"+got.Digest)); err != nil {
		t.Fatal(err)
	}
	readAll(t, back)
}

func TestPushedIndexKeepsAllItsPlatforms(t *testing.T) {
	n := newNode(t)
	list, here, there := indexFor(t)
	if err := remote.WriteIndex(n.ref(t, "multi:1"), list); err != nil {
		t.Fatal(err)
	}
	got, err := n.images.Get("hob.local/multi:1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != digest(t, here) || got.Index != digest(t, list) {
		t.Errorf("the image is %s of %s", got.Digest, got.Index)
	}
	check := func() {
		t.Helper()
		back, err := remote.Index(n.ref(t, "multi:1"))
		if err != nil {
			t.Fatal(err)
		}
		if digest(t, back) != digest(t, list) {
			t.Errorf("pulled the index %s, want %s", digest(t, back), digest(t, list))
		}
		for _, img := range []v1.Image{here, there} {
			h, _ := img.Digest()
			part, err := back.Image(h)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, part)
		}
	}
	check()
	// A sweep, a garbage collection and a restart lose nothing.
	if err := n.reg.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.images.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	check()
	n.images.Close()
	n.start(t)
	if err := n.reg.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestIndexWithoutOurPlatformIsRefused(t *testing.T) {
	n := newNode(t)
	there := imageFor(t, otherArch())
	list := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: there, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: otherArch()}}})
	for _, err := range []error{remote.WriteIndex(n.ref(t, "multi:1"), list), remote.Write(n.ref(t, "single:1"), there)} {
		if err == nil || !strings.Contains(err.Error(), "MANIFEST_INVALID") || !strings.Contains(err.Error(), "linux/"+otherArch()) {
			t.Errorf("got %v", err)
		}
	}
	if imgs := n.images.List(); len(imgs) != 0 {
		t.Errorf("it left the images %v", imgs)
	}
}

func TestImageRemovedFromTheNodeIsGoneFromTheRegistry(t *testing.T) {
	n := newNode(t)
	list, _, _ := indexFor(t)
	if err := remote.WriteIndex(n.ref(t, "multi:1"), list); err != nil {
		t.Fatal(err)
	}
	if err := n.images.Remove(t.Context(), "hob.local/multi:1"); err != nil {
		t.Fatal(err)
	}
	if resp, body := n.do(t, "GET", "/v2/multi/manifests/1", ""); resp.StatusCode != 404 || codeOf(t, body) != "MANIFEST_UNKNOWN" {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	if err := n.reg.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if resp, body := n.do(t, "GET", "/v2/_catalog", ""); body != `{"repositories":[]}` {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	if _, _, err := n.images.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for b, err := range n.images.Content().List() {
		t.Errorf("blob %s stayed (%v)", b.Digest, err)
	}
	files, _ := os.ReadDir(filepath.Join(n.dir, "registry"))
	if len(files) != 0 {
		t.Errorf("files stayed: %v", files)
	}
}

func TestTagThatMovesKeepsTheOldManifestForAWhile(t *testing.T) {
	n := newNode(t)
	first, second := imageFor(t, runtime.GOARCH), imageFor(t, runtime.GOARCH)
	for _, img := range []v1.Image{first, second} {
		if err := remote.Write(n.ref(t, "x:1"), img); err != nil {
			t.Fatal(err)
		}
	}
	back, err := remote.Image(n.ref(t, "x:1"))
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, back) != digest(t, second) {
		t.Error("the tag did not move")
	}
	if back, err = remote.Image(n.ref(t, "x@"+digest(t, first))); err != nil {
		t.Fatal(err)
	}
	readAll(t, back)
}

func TestLayerOnTheNodeIsNotSentAgain(t *testing.T) {
	n := newNode(t)
	img := imageFor(t, runtime.GOARCH)
	if err := remote.Write(n.ref(t, "from:1"), img); err != nil {
		t.Fatal(err)
	}
	d := ""
	layers, _ := img.Layers()
	d = digest(t, layers[0])
	resp, _ := n.do(t, "POST", "/v2/to/blobs/uploads/?mount="+d+"&from=from", "")
	if resp.StatusCode != 201 || resp.Header.Get("Location") != "/v2/to/blobs/"+d || resp.Header.Get("Docker-Content-Digest") != d {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := n.do(t, "HEAD", resp.Header.Get("Location"), ""); resp.StatusCode != 200 {
		t.Errorf("HEAD of the mounted blob: %d", resp.StatusCode)
	}
	none := content.Digest([]byte("none"))
	if resp, _ := n.do(t, "POST", "/v2/to/blobs/uploads/?mount="+none+"&from=from", ""); resp.StatusCode != 202 || resp.Header.Get("Location") == "" {
		t.Errorf("mount of what is not there: %d %v", resp.StatusCode, resp.Header)
	}
	// The whole image by mounts.
	src, err := remote.Image(n.ref(t, "from:1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(n.ref(t, "to:1"), src); err != nil {
		t.Fatal(err)
	}
	if got, err := n.images.Get("hob.local/to:1"); err != nil || got.Digest != digest(t, img) {
		t.Errorf("got %v, %v", got.Digest, err)
	}
}

func TestCutOffUploadIsResumed(t *testing.T) {
	n := newNode(t)
	data := strings.Repeat("0123456789", 1000)
	resp, _ := n.do(t, "POST", "/v2/x/blobs/uploads/", "")
	if resp.StatusCode != 202 || resp.Header.Get("Range") != "0-0" || resp.Header.Get("Docker-Upload-UUID") == "" {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	place := resp.Header.Get("Location")

	// The line goes dead after 4,000 of 10,000 bytes.
	conn, err := net.Dial("tcp", n.host)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 10000\r\n\r\n%s", place, n.host, data[:4000])
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, conn) // until the server has seen it
	conn.Close()

	resp, _ = n.do(t, "GET", place, "")
	if resp.StatusCode != 204 || resp.Header.Get("Range") != "0-3999" {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	resp, body := n.do(t, "PATCH", place, data[:100], "Content-Range", "0-99")
	if resp.StatusCode != 416 || codeOf(t, body) != "BLOB_UPLOAD_INVALID" || resp.Header.Get("Range") != "0-3999" {
		t.Errorf("a chunk at the wrong place: %d %s", resp.StatusCode, body)
	}
	resp, body = n.do(t, "PATCH", place, data[4000:8000], "Content-Range", "4000-7999")
	if resp.StatusCode != 202 || resp.Header.Get("Range") != "0-7999" {
		t.Fatalf("got %d %s", resp.StatusCode, body)
	}
	d := content.Digest([]byte(data))
	resp, body = n.do(t, "PUT", place+"?digest="+d, data[8000:], "Content-Range", "8000-9999")
	if resp.StatusCode != 201 || resp.Header.Get("Location") != "/v2/x/blobs/"+d {
		t.Fatalf("got %d %s", resp.StatusCode, body)
	}
	if _, got := n.do(t, "GET", "/v2/x/blobs/"+d, ""); got != data {
		t.Error("the blob is another one")
	}
	if resp, body := n.do(t, "GET", place, ""); resp.StatusCode != 404 || codeOf(t, body) != "BLOB_UPLOAD_UNKNOWN" {
		t.Errorf("a finished upload: %d %s", resp.StatusCode, body)
	}
}

// TestConformance is what the specification asks of a registry, request by request.
func TestConformance(t *testing.T) {
	n := newNode(t)
	const a = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hello := n.blob(t, "x", "hello")
	cfg := n.blob(t, "x", "{}")
	thing := n.thing(t, "x", "data", "")
	n.put(t, "x", "1", ociManifest, thing)
	upload := func() string {
		resp, _ := n.do(t, "POST", "/v2/x/blobs/uploads/", "")
		return resp.Header.Get("Location")
	}
	man := func(config, layers, more string) string {
		return `{"schemaVersion":2,"mediaType":"` + ociManifest + `","config":` + config + `,"layers":[` + layers + `]` + more + `}`
	}
	good := desc(artifact, cfg, 2, "")
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
		want               string // code of the error, or text of the answer
	}{
		{"GET", "/v2/", "", nil, 200, "{}"},
		{"GET", "/v2", "", nil, 200, "{}"},
		{"POST", "/v2/", "", nil, 405, "UNSUPPORTED"},
		{"GET", "/v2/X/tags/list", "", nil, 400, "NAME_INVALID"},
		{"GET", "/v2/" + strings.Repeat("a", 300) + "/tags/list", "", nil, 400, "NAME_INVALID"},
		{"GET", "/v2/none/tags/list", "", nil, 404, "NAME_UNKNOWN"},

		{"GET", "/v2/x/blobs/" + hello, "", nil, 200, "hello"},
		{"HEAD", "/v2/x/blobs/" + hello, "", nil, 200, ""},
		{"GET", "/v2/x/blobs/" + hello, "", []string{"Range", "bytes=1-3"}, 206, "ell"},
		{"GET", "/v2/x/blobs/" + hello, "", []string{"Range", "bytes=-2"}, 206, "lo"},
		{"GET", "/v2/x/blobs/" + hello, "", []string{"Range", "bytes=3-"}, 206, "lo"},
		{"GET", "/v2/x/blobs/" + hello, "", []string{"Range", "bytes=5-"}, 416, "SIZE_INVALID"},
		{"GET", "/v2/x/blobs/" + a, "", nil, 404, "BLOB_UNKNOWN"},
		{"HEAD", "/v2/x/blobs/" + a, "", nil, 404, ""},
		{"GET", "/v2/x/blobs/sha256:xyz", "", nil, 400, "DIGEST_INVALID"},
		{"GET", "/v2/x/blobs/sha512:" + strings.Repeat("a", 128), "", nil, 400, "DIGEST_INVALID"},
		{"DELETE", "/v2/x/blobs/" + hello, "", nil, 405, "UNSUPPORTED"},

		{"POST", "/v2/x/blobs/uploads/?digest=" + a, "hello", nil, 400, "DIGEST_INVALID"},
		{"POST", "/v2/x/blobs/uploads/?digest=md5:1", "hello", nil, 400, "DIGEST_INVALID"},
		{"POST", "/v2/x/blobs/uploads/?mount=md5:1&from=x", "", nil, 400, "DIGEST_INVALID"},
		{"POST", "/v2/x/blobs/uploads/?mount=" + hello + "&from=BAD", "", nil, 400, "NAME_INVALID"},
		{"POST", "/v2/x/blobs/uploads/?mount=" + hello, "", nil, 201, ""},
		{"PUT", upload(), "hello", nil, 400, "DIGEST_INVALID"},
		{"PUT", upload() + "?digest=" + a, "hello", nil, 400, "DIGEST_INVALID"},
		{"PUT", upload() + "?digest=" + hello, "hello", nil, 201, ""},
		{"PUT", upload() + "?digest=" + hello, "hello", []string{"Content-Range", "0-4"}, 201, ""},
		{"PUT", upload() + "?digest=" + hello, "hello", []string{"Content-Range", "0-3"}, 400, "SIZE_INVALID"},
		{"PATCH", upload(), "hello", []string{"Content-Range", "1-5"}, 416, "BLOB_UPLOAD_INVALID"},
		{"PATCH", upload(), "hello", []string{"Content-Range", "x"}, 400, "BLOB_UPLOAD_INVALID"},
		{"PATCH", upload(), "hello", []string{"Content-Range", "0-9223372036854775807"}, 400, "BLOB_UPLOAD_INVALID"},
		{"PATCH", upload(), "hello", nil, 202, ""},
		{"GET", upload(), "", nil, 204, ""},
		{"DELETE", upload(), "", nil, 204, ""},
		{"DELETE", "/v2/x/blobs/uploads/none", "", nil, 404, "BLOB_UPLOAD_UNKNOWN"},
		{"PATCH", "/v2/x/blobs/uploads/none", "", nil, 404, "BLOB_UPLOAD_UNKNOWN"},
		{"PUT", "/v2/x/blobs/uploads/none?digest=" + hello, "", nil, 404, "BLOB_UPLOAD_UNKNOWN"},
		{"GET", strings.Replace(upload(), "/x/", "/y/", 1), "", nil, 404, "BLOB_UPLOAD_UNKNOWN"},

		{"GET", "/v2/x/manifests/1", "", nil, 200, thing},
		{"HEAD", "/v2/x/manifests/1", "", nil, 200, ""},
		{"GET", "/v2/x/manifests/" + content.Digest([]byte(thing)), "", nil, 200, thing},
		{"GET", "/v2/x/manifests/none", "", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/x/manifests/" + a, "", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/x/manifests/" + hello, "", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/y/manifests/1", "", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/x/manifests/.bad", "", nil, 404, "MANIFEST_UNKNOWN"},
		{"PUT", "/v2/x/manifests/.bad", thing, nil, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/x/manifests/" + a, thing, nil, 400, "DIGEST_INVALID"},
		{"PUT", "/v2/x/manifests/" + content.Digest([]byte(thing)), thing, nil, 201, ""},
		{"PUT", "/v2/x/manifests/2", "{", nil, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/x/manifests/2", `{"schemaVersion":1,"fsLayers":[]}`, nil, 400, "schema version 1 is not supported"},
		{"PUT", "/v2/x/manifests/2", thing, []string{"Content-Type", ociIndex}, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/x/manifests/2", `{"schemaVersion":2,"config":` + good + `}`, []string{"Content-Type", "text/plain"}, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/x/manifests/2", man(good, "", `,"manifests":[]`), nil, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/x/manifests/2", `{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[],"layers":[]}`, nil, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/x/manifests/2", `{"schemaVersion":2,"mediaType":"` + ociManifest + `"}`, nil, 400, "it has no config"},
		{"PUT", "/v2/x/manifests/2", man(desc(artifact, a, 2, ""), "", ""), nil, 404, "MANIFEST_BLOB_UNKNOWN"},
		{"PUT", "/v2/x/manifests/2", man(good, desc(artifact, a, 2, ""), ""), nil, 404, "MANIFEST_BLOB_UNKNOWN"},
		{"PUT", "/v2/x/manifests/2", man(good, desc(artifact, hello, 6, ""), ""), nil, 400, "has 6 bytes, it has 5"},
		{"PUT", "/v2/x/manifests/2", man(good, desc(artifact, "sha256:x", 6, ""), ""), nil, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/x/manifests/2", man(good, desc(artifact, hello, -1, ""), ""), nil, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/x/manifests/2", man(good, desc("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", a, 9, `,"urls":["https://example.com/"]`), ""), nil, 201, ""},
		{"PUT", "/v2/x/manifests/2", `{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[` + desc(ociManifest, a, 9, "") + `]}`, nil, 404, "MANIFEST_BLOB_UNKNOWN"},
		{"PUT", "/v2/x/manifests/2", strings.Repeat(" ", 4<<20) + thing, nil, 413, "over the limit of 4194304 bytes"},
		{"DELETE", "/v2/x/manifests/none", "", nil, 404, "MANIFEST_UNKNOWN"},

		{"GET", "/v2/x/referrers/" + a, "", nil, 200, `{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[]}`},
		{"GET", "/v2/none/referrers/" + a, "", nil, 200, `"manifests":[]`},
		{"GET", "/v2/x/referrers/x", "", nil, 400, "DIGEST_INVALID"},
		{"GET", "/v2/x/tags/list?n=x", "", nil, 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/x/tags/list?n=-1", "", nil, 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/apps", "", nil, 404, "UNSUPPORTED"},
	} {
		resp, body := n.do(t, c.method, c.path, c.body, c.header...)
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %.100s %.60q: got %d %s, want %d %s", c.method, c.path, c.body, resp.StatusCode, body, c.status, c.want)
		}
		if resp.StatusCode >= 400 && c.method != "HEAD" {
			codeOf(t, body)
		}
		if v := resp.Header.Get("Docker-Distribution-API-Version"); v != "registry/2.0" {
			t.Errorf("%s %s: API version %q", c.method, c.path, v)
		}
	}
}

func TestManifestComesWithItsTypeAndDigest(t *testing.T) {
	n := newNode(t)
	thing := n.thing(t, "x", "data", "")
	d := content.Digest([]byte(thing))
	resp := n.put(t, "x", "1", ociManifest, thing)
	if resp.Header.Get("Location") != "/v2/x/manifests/"+d || resp.Header.Get("Docker-Content-Digest") != d {
		t.Errorf("push: %v", resp.Header)
	}
	for _, method := range []string{"GET", "HEAD"} {
		resp, _ := n.do(t, method, "/v2/x/manifests/1", "")
		h := resp.Header
		if h.Get("Content-Type") != ociManifest || h.Get("Docker-Content-Digest") != d || resp.ContentLength != int64(len(thing)) {
			t.Errorf("%s: %v", method, h)
		}
	}
}

func TestTagsAndRepositoriesComeInPages(t *testing.T) {
	n := newNode(t)
	for _, repo := range []string{"b", "a/c", "apps"} {
		thing := n.thing(t, repo, "data", "")
		for _, tag := range []string{"v2", "latest", "v1"} {
			n.put(t, repo, tag, ociManifest, thing)
		}
	}
	for _, c := range []struct{ path, want, link string }{
		{"/v2/b/tags/list", `{"name":"b","tags":["latest","v1","v2"]}`, ""},
		{"/v2/b/tags/list?n=2", `{"name":"b","tags":["latest","v1"]}`, `</v2/b/tags/list?last=v1&n=2>; rel="next"`},
		{"/v2/b/tags/list?last=v1&n=2", `{"name":"b","tags":["v2"]}`, ""},
		{"/v2/b/tags/list?last=m", `{"name":"b","tags":["v1","v2"]}`, ""},
		{"/v2/b/tags/list?n=0", `{"name":"b","tags":[]}`, ""},
		{"/v2/_catalog", `{"repositories":["a/c","apps","b"]}`, ""},
		{"/v2/_catalog?n=1&last=a/c", `{"repositories":["apps"]}`, `</v2/_catalog?last=apps&n=1>; rel="next"`},
	} {
		resp, body := n.do(t, "GET", c.path, "")
		if body != c.want || resp.Header.Get("Link") != c.link {
			t.Errorf("%s: got %s, link %s", c.path, body, resp.Header.Get("Link"))
		}
	}
}

func TestReferrersAreListed(t *testing.T) {
	n := newNode(t)
	img := imageFor(t, runtime.GOARCH)
	if err := remote.Write(n.ref(t, "x:1"), img); err != nil {
		t.Fatal(err)
	}
	d := digest(t, img)
	subject := `,"subject":` + desc(ociManifest, d, 100, "")
	sig := n.thing(t, "x", "signature", subject+`,"artifactType":"application/sig","annotations":{"by":"me"}`)
	resp := n.put(t, "x", content.Digest([]byte(sig)), ociManifest, sig)
	if resp.Header.Get("OCI-Subject") != d {
		t.Errorf("OCI-Subject is %q", resp.Header.Get("OCI-Subject"))
	}
	sbom := n.thing(t, "x", "sbom", subject)
	n.put(t, "x", content.Digest([]byte(sbom)), ociManifest, sbom)

	list, err := remote.Referrers(n.ref(t, "x@"+d).(name.Digest))
	if err != nil {
		t.Fatal(err)
	}
	m, err := list.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, e := range m.Manifests {
		kinds = append(kinds, e.ArtifactType)
	}
	slices.Sort(kinds)
	if !slices.Equal(kinds, []string{"application/sig", artifact}) {
		t.Errorf("got %q", kinds)
	}
	resp, body := n.do(t, "GET", "/v2/x/referrers/"+d+"?artifactType=application/sig", "")
	if resp.Header.Get("OCI-Filters-Applied") != "artifactType" || !strings.Contains(body, `"by":"me"`) || strings.Contains(body, artifact) {
		t.Errorf("got %v %s", resp.Header, body)
	}
}

func TestDeleteTakesATagOrAManifestWithItsTags(t *testing.T) {
	n := newNode(t)
	img := imageFor(t, runtime.GOARCH)
	for _, tag := range []string{"1", "2", "3"} {
		if err := remote.Write(n.ref(t, "x:"+tag), img); err != nil {
			t.Fatal(err)
		}
	}
	if resp, body := n.do(t, "DELETE", "/v2/x/manifests/1", ""); resp.StatusCode != 202 {
		t.Fatalf("got %d %s", resp.StatusCode, body)
	}
	if _, body := n.do(t, "GET", "/v2/x/tags/list", ""); body != `{"name":"x","tags":["2","3"]}` {
		t.Errorf("got %s", body)
	}
	if resp, body := n.do(t, "DELETE", "/v2/x/manifests/"+digest(t, img), ""); resp.StatusCode != 202 {
		t.Fatalf("got %d %s", resp.StatusCode, body)
	}
	for _, ref := range []string{"2", "3", digest(t, img)} {
		if resp, body := n.do(t, "GET", "/v2/x/manifests/"+ref, ""); resp.StatusCode != 404 {
			t.Errorf("%s: got %d %s", ref, resp.StatusCode, body)
		}
	}
	if _, err := n.images.Get("hob.local/x:2"); faas.KindOf(err) != faas.NotFound {
		t.Errorf("the node still has the image: %v", err)
	}
}

func TestDamagedLayerIsRefusedAtThePush(t *testing.T) {
	n := newNode(t)
	img, err := mutate.AppendLayers(imageFor(t, runtime.GOARCH), static.NewLayer([]byte("this is not a tar"), types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(n.ref(t, "x:1"), img); err == nil || !strings.Contains(err.Error(), "MANIFEST_INVALID") {
		t.Errorf("got %v", err)
	}
	if resp, _ := n.do(t, "GET", "/v2/x/manifests/1", ""); resp.StatusCode != 404 {
		t.Errorf("the tag is there: %d", resp.StatusCode)
	}
}

func TestBlobOverTheLimitIsRefusedWithTheNumber(t *testing.T) {
	n := &node{dir: t.TempDir(), max: 1000}
	n.start(t)
	big := strings.Repeat("x", 1001)
	d := content.Digest([]byte(big))
	resp, body := n.do(t, "POST", "/v2/x/blobs/uploads/?digest="+d, big)
	if resp.StatusCode != 413 || codeOf(t, body) != "SIZE_INVALID" || !strings.Contains(body, "1000 bytes") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	resp, _ = n.do(t, "POST", "/v2/x/blobs/uploads/", "")
	req, _ := http.NewRequestWithContext(t.Context(), "PATCH", n.url+resp.Header.Get("Location"), io.MultiReader(strings.NewReader(big))) // of unknown length
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("in chunks: got %d", resp.StatusCode)
	}
}

func TestFullDiskIsAnAnswerAndNoDamage(t *testing.T) {
	var full atomic.Bool
	n := &node{dir: t.TempDir(), hook: func(op content.Op, path string) error {
		if full.Load() && op == content.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	}}
	n.start(t)
	before := imageFor(t, runtime.GOARCH)
	if err := remote.Write(n.ref(t, "x:1"), before); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	d := content.Digest([]byte("more"))
	for _, path := range []string{"/v2/x/blobs/uploads/?digest=" + d, ""} {
		method := "POST"
		if path == "" {
			resp, _ := n.do(t, "POST", "/v2/x/blobs/uploads/", "")
			method, path = "PATCH", resp.Header.Get("Location")
		}
		resp, body := n.do(t, method, path, "more")
		if resp.StatusCode != 507 || codeOf(t, body) != "UNKNOWN" || !strings.Contains(body, "no space left on the disk of this node") {
			t.Errorf("%s: got %d %s", method, resp.StatusCode, body)
		}
		if strings.Contains(body, n.dir) {
			t.Errorf("the answer names a directory of the operator: %s", body)
		}
	}
	img := imageFor(t, runtime.GOARCH)
	if err := remote.Write(n.ref(t, "x:1"), img, remote.WithRetryBackoff(remote.Backoff{Steps: 1})); err == nil {
		t.Error("a push to a full disk succeeded")
	}
	if resp, _ := n.do(t, "HEAD", "/v2/x/blobs/"+d, ""); resp.StatusCode != 404 {
		t.Errorf("half a blob is there: %d", resp.StatusCode)
	}
	back, err := remote.Image(n.ref(t, "x:1"))
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, back) != digest(t, before) {
		t.Error("the tag is not what it was")
	}
	readAll(t, back)
	files, err := filepath.Glob(filepath.Join(n.images.Content().Dir(), "tmp", "upload-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files { // one that was begun and has got no byte may be there
		if info, err := os.Stat(f); err != nil || info.Size() != 0 {
			t.Errorf("an upload takes room on the full disk: %v %v", info, err)
		}
	}
	full.Store(false)
	if err := remote.Write(n.ref(t, "x:1"), img); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func TestConcurrentPushesOfTheSameImage(t *testing.T) {
	n := newNode(t)
	img := imageFor(t, runtime.GOARCH)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ref, err := name.ParseReference(fmt.Sprintf("%s/x%d:1", n.host, i%4))
			if err == nil {
				err = remote.Write(ref, img)
			}
			if err != nil {
				t.Errorf("push %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	got, err := n.images.Get(digest(t, img))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Refs) != 4 {
		t.Errorf("got the names %v", got.Refs)
	}
	for i := range 4 {
		back, err := remote.Image(n.ref(t, fmt.Sprintf("x%d:1", i)))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, back)
	}
}

func TestOnlyOneRequestWritesToAnUpload(t *testing.T) {
	n := newNode(t)
	resp, _ := n.do(t, "POST", "/v2/x/blobs/uploads/", "")
	place := resp.Header.Get("Location")
	r, w := io.Pipe()
	done := make(chan int, 1)
	req, _ := http.NewRequestWithContext(t.Context(), "PATCH", n.url+place, r)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}()
	io.WriteString(w, "first")
	for { // until the first request has its turn
		resp, body := n.do(t, "PATCH", place, "", "Content-Range", "7-6")
		if resp.StatusCode == 409 && codeOf(t, body) == "BLOB_UPLOAD_INVALID" {
			break
		}
	}
	w.Close()
	if status := <-done; status != 202 {
		t.Errorf("got %d", status)
	}
}

func TestArtifactIsKeptButIsNoImage(t *testing.T) {
	n := newNode(t)
	thing := n.thing(t, "chart", "data", "")
	n.put(t, "chart", "1", ociManifest, thing)
	cache := `{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[` + desc("application/vnd.oci.image.layer.v1.tar+gzip", n.blob(t, "chart", "layer"), 5, "") + `]}`
	n.put(t, "chart", "cache", ociIndex, cache)
	if imgs := n.images.List(); len(imgs) != 0 {
		t.Errorf("it is an image: %v", imgs)
	}
	n.images.Close()
	n.start(t)
	if err := n.reg.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.images.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{"manifests/1": thing, "manifests/cache": cache, "blobs/" + content.Digest([]byte("data")): "data", "blobs/" + content.Digest([]byte("layer")): "layer"} {
		if resp, body := n.do(t, "GET", "/v2/chart/"+ref, ""); body != want {
			t.Errorf("%s: got %d %s", ref, resp.StatusCode, body)
		}
	}
	// The tag of an artifact may become that of an image, and back.
	if err := remote.Write(n.ref(t, "chart:1"), imageFor(t, runtime.GOARCH)); err != nil {
		t.Fatal(err)
	}
	n.put(t, "chart", "1", ociManifest, thing)
	if _, err := n.images.Get("hob.local/chart:1"); faas.KindOf(err) != faas.NotFound {
		t.Errorf("the image is still there: %v", err)
	}
}

func TestLoadedImageCanBePulled(t *testing.T) {
	n := newNode(t)
	img := imageFor(t, runtime.GOARCH)
	if err := remote.Write(n.ref(t, "x:1"), img); err != nil {
		t.Fatal(err)
	}
	if err := n.images.Tag(t.Context(), "hob.local/other/name:2", digest(t, img)); err != nil { // past the registry
		t.Fatal(err)
	}
	for _, ref := range []string{"other/name:2", "other/name@" + digest(t, img)} {
		back, err := remote.Image(n.ref(t, ref))
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		readAll(t, back)
	}
	if _, body := n.do(t, "GET", "/v2/_catalog", ""); body != `{"repositories":["other/name","x"]}` {
		t.Errorf("got %s", body)
	}
	if _, body := n.do(t, "GET", "/v2/other/name/tags/list", ""); body != `{"name":"other/name","tags":["2"]}` {
		t.Errorf("got %s", body)
	}
}

func TestDamagedListIsLeftAlone(t *testing.T) {
	n := newNode(t)
	n.put(t, "x", "1", ociManifest, n.thing(t, "x", "data", ""))
	files, _ := filepath.Glob(filepath.Join(n.dir, "registry", "*.json"))
	if len(files) != 1 {
		t.Fatalf("got %v", files)
	}
	if err := os.WriteFile(files[0], []byte(`{"name":`), 0o600); err != nil {
		t.Fatal(err)
	}
	n.images.Close()
	n.start(t)
	if resp, _ := n.do(t, "GET", "/v2/x/manifests/1", ""); resp.StatusCode != 404 {
		t.Errorf("got %d", resp.StatusCode)
	}
	n.put(t, "y", "1", ociManifest, n.thing(t, "y", "data", ""))
}

func TestUploadThatNobodyContinuesIsSwept(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		images, err := image.Open(image.Config{Dir: filepath.Join(dir, "images")})
		if err != nil {
			t.Fatal(err)
		}
		defer images.Close()
		reg, err := registry.New(registry.Config{Dir: filepath.Join(dir, "registry"), Images: images, Content: images.Content()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- reg.Run(ctx) }()
		do := func(method, path string, body []byte) *http.Response {
			w := httptest.NewRecorder()
			reg.Handler().ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body)))
			return w.Result()
		}
		place := do("POST", "/v2/x/blobs/uploads/", nil).Header.Get("Location")
		other := do("POST", "/v2/x/blobs/uploads/", nil).Header.Get("Location")
		time.Sleep(50 * time.Minute)
		if got := do("PATCH", other, []byte("x")).StatusCode; got != 202 {
			t.Errorf("after 50 minutes: %d", got)
		}
		time.Sleep(12 * time.Minute)
		synctest.Wait()
		if got := do("GET", place, nil).StatusCode; got != 404 {
			t.Errorf("an upload of an hour ago: %d", got)
		}
		if got := do("GET", other, nil).StatusCode; got != 204 {
			t.Errorf("an upload of 12 minutes ago: %d", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if files, _ := filepath.Glob(filepath.Join(images.Content().Dir(), "tmp", "upload-*")); len(files) != 0 {
			t.Errorf("uploads stayed: %v", files)
		}
	})
}

func TestPushedBlobWaitsForItsManifest(t *testing.T) {
	n := newNode(t)
	d := n.blob(t, "x", "data")
	if _, _, err := n.images.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !n.images.Content().Has(d) {
		t.Error("a blob between its upload and its manifest was collected")
	}
}

func TestUploadOfADeadDaemonIsSweptAtStart(t *testing.T) {
	n := newNode(t)
	resp, _ := n.do(t, "POST", "/v2/x/blobs/uploads/", "")
	place := resp.Header.Get("Location")
	if resp, _ := n.do(t, "PATCH", place, "half"); resp.StatusCode != 202 {
		t.Fatalf("got %d", resp.StatusCode)
	}
	n.start(t) // the first one did not stop in order
	if files, _ := filepath.Glob(filepath.Join(n.images.Content().Dir(), "tmp", "upload-*")); len(files) != 0 {
		t.Errorf("uploads stayed: %v", files)
	}
	if resp, _ := n.do(t, "GET", place, ""); resp.StatusCode != 404 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

// TestIndexWithAnAttestationIsAnImage pushes what docker buildx makes.
func TestIndexWithAnAttestationIsAnImage(t *testing.T) {
	n := newNode(t)
	img := imageFor(t, runtime.GOARCH)
	proof, err := mutate.Append(empty.Image, mutate.Addendum{Layer: static.NewLayer([]byte(`{"predicate":1}`), "application/vnd.in-toto+json")})
	if err != nil {
		t.Fatal(err)
	}
	list := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: proof, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	if err := remote.WriteIndex(n.ref(t, "x:1"), list); err != nil {
		t.Fatal(err)
	}
	if got, err := n.images.Get("hob.local/x:1"); err != nil || got.Digest != digest(t, img) {
		t.Errorf("got %s, %v", got.Digest, err)
	}
	back, err := remote.Image(n.ref(t, "x@"+digest(t, proof)))
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, back) != digest(t, proof) {
		t.Errorf("the attestation came back as %s", digest(t, back))
	}
}

// TestIndexesMayNotBeNestedWithoutEnd pushes indexes of indexes under one name
// and the outermost under another.
func TestIndexesMayNotBeNestedWithoutEnd(t *testing.T) {
	n := newNode(t)
	body := n.thing(t, "deep", "data", "")
	mt, last := ociManifest, ""
	for range 8 {
		d := content.Digest([]byte(body))
		n.put(t, "deep", d, mt, body)
		part := desc(mt, d, len(body), "")
		last = body
		body, mt = `{"schemaVersion":2,"mediaType":"`+ociIndex+`","manifests":[`+part+`,`+part+`]}`, ociIndex
	}
	resp, answer := n.do(t, "PUT", "/v2/other/manifests/1", last, "Content-Type", ociIndex)
	if resp.StatusCode != 400 || codeOf(t, answer) != "MANIFEST_INVALID" || !strings.Contains(answer, "more than 4 deep") {
		t.Errorf("got %d %s", resp.StatusCode, answer)
	}
}
