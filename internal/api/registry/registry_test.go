package registry_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"hob/faas"
	"hob/internal/image/content"
)

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
