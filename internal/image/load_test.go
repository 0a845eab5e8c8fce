package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/image/content"
	"hob/internal/testenv"
)

// member is one entry of a hand-made archive.
type member struct {
	name, body, link string
}

func archive(t testing.TB, members ...member) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.body)), Typeflag: tar.TypeReg}
		if m.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, m.link
		}
		if strings.HasSuffix(m.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, m.body)
	}
	w.Close()
	return buf.Bytes()
}

// plainTar is the uncompressed tar of one file.
func plainTar(t testing.TB, name, body string) string {
	t.Helper()
	return string(archive(t, member{name: name, body: body}))
}

func configJSON(t testing.TB, layers ...string) string {
	t.Helper()
	c := v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}, Config: v1.Config{Cmd: []string{"/x"}}}
	for _, l := range layers {
		h, err := v1.NewHash(content.Digest([]byte(l)))
		if err != nil {
			t.Fatal(err)
		}
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, h)
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// oldSave is an archive as docker save wrote it before version 25: layers in
// directories of their own, one of them a link to another, descriptions last.
func oldSave(t testing.TB) []byte {
	t.Helper()
	a, b := plainTar(t, "a", "1"), plainTar(t, "b", "2")
	config := configJSON(t, a, b, a)
	return archive(t,
		member{name: "l1/"}, member{name: "l1/VERSION", body: "1.0"}, member{name: "l1/json", body: "{}"}, member{name: "l1/layer.tar", body: a},
		member{name: "l2/layer.tar", body: b},
		member{name: "l3/layer.tar", link: "../l1/layer.tar"},
		member{name: "c0ffee.json", body: config},
		member{name: "manifest.json", body: `[{"Config":"c0ffee.json","RepoTags":["app:v1","example.com/app:v1"],"Layers":["l1/layer.tar","l2/layer.tar","l3/layer.tar"]}]`},
		member{name: "repositories", body: `{"app":{"v1":"l2"}}`})
}

func compressed(data []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(data)
	z.Close()
	return buf.Bytes()
}

func TestDockerSaveArchiveIsLoaded(t *testing.T) {
	for name, data := range map[string][]byte{"plain": oldSave(t), "compressed": compressed(oldSave(t))} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			images, err := s.Load(t.Context(), bytes.NewReader(data), "")
			if err != nil || len(images) != 1 {
				t.Fatalf("loaded %v, %v", images, err)
			}
			if want := []string{"docker.io/library/app:v1", "example.com/app:v1"}; !slices.Equal(images[0].Refs, want) {
				t.Errorf("names %v, want %v", images[0].Refs, want)
			}
			if len(images[0].Layers) != 3 || read(t, s, images[0].Digest, "b") != "2" {
				t.Errorf("layers %v", images[0].Layers)
			}
			if got, err := s.Pull(t.Context(), "app:v1", image.PullOptions{}); err != nil || got.Digest != images[0].Digest {
				t.Errorf("a loaded image is pulled again: %v", err)
			}
			// Nothing but the image is kept: two layers, config, manifest.
			n := 0
			for range s.Content().List() {
				n++
			}
			if n != 4 {
				t.Errorf("%d blobs are kept, want 4", n)
			}
		})
	}
}

func TestArchiveLoadsTheSameImageEachTime(t *testing.T) {
	s := open(t)
	first, err := s.Load(t.Context(), bytes.NewReader(oldSave(t)), "")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Load(t.Context(), bytes.NewReader(oldSave(t)), "other:v2")
	if err != nil || again[0].Digest != first[0].Digest {
		t.Fatalf("again %v, %v", again, err)
	}
	if want := "docker.io/library/other:v2"; !slices.Contains(again[0].Refs, want) || len(again[0].Refs) != 3 {
		t.Errorf("names %v, want also %s", again[0].Refs, want)
	}
}

// ociLayout writes an image layout.
func ociLayout(t testing.TB, annotations map[string]string, what ...mutate.Appendable) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range what {
		switch w := w.(type) {
		case v1.Image:
			err = p.AppendImage(w, layout.WithAnnotations(annotations))
		case v1.ImageIndex:
			err = p.AppendIndex(w, layout.WithAnnotations(annotations))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// pack makes a tar of a directory.
func packDir(t testing.TB, dir string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return buf.Bytes()
}

func TestImageLayoutIsLoaded(t *testing.T) {
	img := build(t, v1.Config{}, files(t, file("f", "1")))
	multi, images := index(t, "linux/arm64", "linux/amd64")
	for name, c := range map[string]struct {
		annotations map[string]string
		what        mutate.Appendable
		override    string
		digest      string
		refs        []string
	}{
		"tag only":    {map[string]string{"org.opencontainers.image.ref.name": "v1"}, img, "", digest(t, img), nil},
		"full name":   {map[string]string{"org.opencontainers.image.ref.name": "example.com/a:v1"}, img, "", digest(t, img), []string{"example.com/a:v1"}},
		"containerd":  {map[string]string{"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": "docker.io/library/a:v1"}, img, "", digest(t, img), []string{"docker.io/library/a:v1"}},
		"named":       {nil, img, "b", digest(t, img), []string{"docker.io/library/b:latest"}},
		"list inside": {nil, multi, "b", digest(t, images["linux/amd64"]), []string{"docker.io/library/b:latest"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := ociLayout(t, c.annotations, c.what)
			s := open(t)
			for how, load := range map[string]func() ([]image.Image, error){
				"directory": func() ([]image.Image, error) { return s.LoadPath(t.Context(), dir, c.override) },
				"tar": func() ([]image.Image, error) {
					return s.Load(t.Context(), bytes.NewReader(packDir(t, dir)), c.override)
				},
			} {
				got, err := load()
				if err != nil || len(got) != 1 || got[0].Digest != c.digest || !slices.Equal(got[0].Refs, c.refs) {
					t.Errorf("%s: %+v, %v; want %s named %v", how, got, err, c.digest, c.refs)
				}
			}
		})
	}
}

// TestArchiveOfTwoFormsUsesTheLayout: docker save since version 25 writes an
// image layout and beside it the old description.
func TestArchiveOfTwoFormsUsesTheLayout(t *testing.T) {
	img := build(t, v1.Config{}, files(t, file("f", "1")))
	dir := ociLayout(t, nil, img)
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	desc := `[{"Config":"blobs/sha256/` + config.Hex + `","RepoTags":["app:v2"],"Layers":["blobs/sha256/` + digest(t, layers[0])[7:] + `"]}]`
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(desc), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t)
	got, err := s.LoadPath(t.Context(), dir, "")
	if err != nil || len(got) != 1 || got[0].Digest != digest(t, img) || !slices.Equal(got[0].Refs, []string{"docker.io/library/app:v2"}) {
		t.Errorf("loaded %+v, %v", got, err)
	}
}

func TestArchiveOfSeveralImages(t *testing.T) {
	a, b := build(t, v1.Config{}, files(t, file("f", "a"))), build(t, v1.Config{}, files(t, file("f", "b")))
	tags := make(map[name.Tag]v1.Image)
	for ref, img := range map[string]v1.Image{"a:1": a, "b:1": b} {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		tags[tag] = img
	}
	var buf bytes.Buffer
	if err := tarball.MultiWrite(tags, &buf); err != nil {
		t.Fatal(err)
	}
	s := open(t)
	got, err := s.Load(t.Context(), bytes.NewReader(buf.Bytes()), "")
	if err != nil || len(got) != 2 {
		t.Fatalf("loaded %v, %v", got, err)
	}
	if len(s.List()) != 2 || s.List()[0].Refs[0] != "docker.io/library/a:1" {
		t.Errorf("list %v", s.List())
	}
	_, err = open(t).Load(t.Context(), bytes.NewReader(buf.Bytes()), "one")
	fails(t, err, faas.Invalid, "2 images", "one")
}

func TestBadArchiveIsRefused(t *testing.T) {
	layer := plainTar(t, "a", "1")
	config := configJSON(t, layer)
	manifest := `[{"Config":"c.json","RepoTags":["app:v1"],"Layers":["l.tar"]}]`
	good := []member{{name: "c.json", body: config}, {name: "l.tar", body: layer}, {name: "manifest.json", body: manifest}}
	with := func(i int, body string) []byte {
		m := slices.Clone(good)
		m[i].body = body
		return archive(t, m...)
	}
	arm := ociLayout(t, nil)
	idx, _ := index(t, "linux/arm64")
	p, err := layout.FromPath(arm)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendIndex(idx, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64"})); err != nil {
		t.Fatal(err)
	}
	damaged := ociLayout(t, nil, build(t, v1.Config{}, files(t, file("f", "1"))))
	blobs, err := filepath.Glob(filepath.Join(damaged, "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(err)
	}
	os.Chmod(blobs[0], 0o600)
	if err := os.WriteFile(blobs[0], []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		kind faas.Kind
		word string
	}{
		"empty":                {nil, faas.Invalid, "empty"},
		"no tar":               {bytes.Repeat([]byte("text "), 500), faas.Invalid, "archive"},
		"xz":                   {[]byte("\xfd7zXZ\x00rest"), faas.Invalid, "xz"},
		"nothing known":        {archive(t, member{name: "readme", body: "x"}), faas.Invalid, "neither"},
		"ends in the middle":   {oldSave(t)[:3000], faas.Invalid, "ends in the middle"},
		"gzip cut off":         {compressed(oldSave(t))[:200], faas.Invalid, "ends in the middle"},
		"no such layer":        {archive(t, good[0], good[2]), faas.Invalid, `"l.tar"`},
		"no such config":       {archive(t, good[1], good[2]), faas.Invalid, `"c.json"`},
		"link in a circle":     {archive(t, good[0], member{name: "l.tar", link: "l.tar"}, good[2]), faas.Invalid, `"l.tar"`},
		"bad description":      {with(2, `{"no": "list"}`), faas.Invalid, "manifest.json"},
		"no image":             {with(2, `[]`), faas.Invalid, "no image"},
		"bad name":             {with(2, strings.Replace(manifest, "app:v1", "App", 1)), faas.Invalid, "App"},
		"bad config":           {with(0, `{`), faas.Invalid, "bad config"},
		"other layer":          {with(1, plainTar(t, "a", "other")), faas.Invalid, "digest mismatch"},
		"layer that climbs":    {archive(t, member{name: "c.json", body: configJSON(t, plainTar(t, "../a", ""))}, member{name: "l.tar", body: plainTar(t, "../a", "")}, good[2]), faas.Invalid, "climbs out"},
		"description too long": {with(2, strings.Repeat(" ", 5<<20)), faas.Invalid, "4 MB"},
		"other platform":       {packDir(t, arm), faas.Unsupported, "linux/arm64"},
		"damaged blob":         {packDir(t, damaged), faas.Invalid, ""},
		"bad blob name":        {archive(t, member{name: "blobs/sha256/zz", body: "x"}), faas.Invalid, "blobs/sha256/zz"},
		"bad index":            {archive(t, member{name: "index.json", body: "{"}), faas.Invalid, "index.json"},
		"empty index":          {archive(t, member{name: "index.json", body: `{"schemaVersion":2,"manifests":[]}`}), faas.Invalid, "no image"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, in(dir))
			_, err := s.Load(t.Context(), bytes.NewReader(c.data), "")
			fails(t, err, c.kind, c.word)
			for b := range s.Content().List() {
				t.Errorf("blob %s is left", b.Digest)
			}
			s.Close()
			wholeImages(t, dir)
		})
	}
	_, err = open(t).LoadPath(t.Context(), "/no/such/file", "")
	fails(t, err, faas.NotFound, "/no/such/file")
}

func TestLoadOnAFullDiskIsBusyAndLeavesNothing(t *testing.T) {
	var full bool
	s := open(t, func(c *image.Config) {
		c.Hook = func(op content.Op, path string) error {
			if full && op == content.OpSync && strings.HasPrefix(path, "tmp/unpack-") {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	full = true
	_, err := s.Load(t.Context(), bytes.NewReader(oldSave(t)), "")
	fails(t, err, faas.Busy, "no space left")
	for b := range s.Content().List() {
		t.Errorf("blob %s is left", b.Digest)
	}
	full = false
	if _, err := s.Load(t.Context(), bytes.NewReader(oldSave(t)), ""); err != nil {
		t.Error(err)
	}
}

func TestCanceledLoadStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	data := oldSave(t)
	r := io.MultiReader(bytes.NewReader(data[:2000]), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }), bytes.NewReader(data[2000:]))
	_, err := open(t).Load(ctx, r, "")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestImagesOfOtherToolsAreLoaded asks real programs for archives.
func TestImagesOfOtherToolsAreLoaded(t *testing.T) {
	skopeo := testenv.NeedTool(t, "skopeo")
	img := build(t, v1.Config{Cmd: []string{"/x"}}, files(t, file("f", "1")))
	src := serve(t).push(t, "app:v1", img)
	for _, format := range []string{"docker-archive:%s:app:v1", "oci-archive:%s:app:v1"} {
		file := filepath.Join(t.TempDir(), "out.tar")
		dst := strings.Replace(format, "%s", file, 1)
		if out, err := exec.CommandContext(t.Context(), skopeo, "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+src, dst).CombinedOutput(); err != nil {
			t.Fatalf("skopeo copy: %v\n%s", err, out)
		}
		s := open(t)
		got, err := s.LoadPath(t.Context(), file, "")
		if err != nil || len(got) != 1 || !slices.Equal(got[0].Refs, []string{"docker.io/library/app:v1"}) {
			t.Errorf("%s: %+v, %v", dst, got, err)
			continue
		}
		if read(t, s, got[0].Digest, "f") != "1" {
			t.Errorf("%s: wrong file", dst)
		}
	}
}
