package image_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/image/content"
	"hob/internal/image/layer"
)

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
