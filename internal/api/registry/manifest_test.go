package registry_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"

	"hob/faas"
	"hob/internal/image/content"
)

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
