package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.uber.org/goleak"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/image/content"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// open opens a store on a temporary directory.
func open(t testing.TB, change ...func(*image.Config)) *image.Store {
	t.Helper()
	cfg := image.Config{
		Dir:       t.TempDir(),
		Platform:  "linux/amd64",
		Keychain:  authn.NewMultiKeychain(),
		RetryWait: time.Millisecond,
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := image.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return s
}

// in opens the store in dir.
func in(dir string) func(*image.Config) { return func(c *image.Config) { c.Dir = dir } }

// server is a real registry in the test process, whose answers a test may spoil.
type server struct {
	*httptest.Server
	host  string
	spoil func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
}

func serve(t testing.TB) *server {
	t.Helper()
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.spoil == nil || !s.spoil(w, r) {
			reg.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

// push stores an image or an index and returns its reference.
func (s *server) push(t testing.TB, repo string, what remote.Taggable) string {
	t.Helper()
	ref, err := name.ParseReference(s.host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	defer tr.CloseIdleConnections()
	switch what := what.(type) {
	case v1.Image:
		err = remote.Write(ref, what, remote.WithTransport(tr))
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, what, remote.WithTransport(tr))
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

// files is a layer in gzip with these files.
func files(t testing.TB, entries ...tar.Header) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, h := range entries {
		body := ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			body = h.PAXRecords["body"]
			h.PAXRecords = nil
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	w.Close()
	z.Close()
	return gzipped(t, buf.Bytes())
}

func file(name, body string) tar.Header {
	return tar.Header{Name: name, PAXRecords: map[string]string{"body": body}}
}

// gzipped is a layer of compressed bytes whose diffID is computed.
func gzipped(t testing.TB, gz []byte) v1.Layer {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(gz))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	h, err := v1.NewHash(content.Digest(plain))
	if err != nil {
		t.Fatal(err)
	}
	return &fixedLayer{Layer: static.NewLayer(gz, types.DockerLayer), diffID: h}
}

type fixedLayer struct {
	v1.Layer
	diffID v1.Hash
}

func (l *fixedLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// build makes an image for linux/amd64.
func build(t testing.TB, cfg v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	return buildFor(t, "linux/amd64", cfg, layers...)
}

func buildFor(t testing.TB, platform string, cfg v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.Config = cfg
	f.OS, f.Architecture, _ = strings.Cut(platform, "/")
	f.Architecture, f.Variant, _ = strings.Cut(f.Architecture, "/")
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t testing.TB, d interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// read returns a file of an image's root filesystem.
func read(t testing.TB, s *image.Store, digest, name string) string {
	t.Helper()
	root, err := s.RootFS(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Release()
	for _, dir := range root.Layers {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return string(data)
		}
	}
	t.Fatalf("no file %s in %v", name, root.Layers)
	return ""
}

// fails checks the kind of an error and that its words hold all of these.
func fails(t testing.TB, err error, kind faas.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", kind)
	}
	if got := faas.KindOf(err); got != kind {
		t.Errorf("kind %s, want %s: %v", got, kind, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// wholeImages checks that a directory, opened anew, has just these images, each whole.
func wholeImages(t testing.TB, dir string, want ...string) {
	t.Helper()
	s := open(t, in(dir))
	var got []string
	for _, img := range s.List() {
		got = append(got, img.Digest)
		root, err := s.RootFS(t.Context(), img.Digest)
		if err != nil {
			t.Errorf("image %v is not whole: %v", img.Refs, err)
			continue
		}
		root.Release()
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("images %v, want %v", got, want)
	}
}

func TestPulledImageIsReadyToRun(t *testing.T) {
	reg := serve(t)
	img := build(t, v1.Config{Entrypoint: []string{"/bin/app"}, Cmd: []string{"-x"}, Env: []string{"A=b"}, WorkingDir: "/w", User: "nobody", Labels: map[string]string{"l": "1"}},
		files(t, file("etc/passwd", "nobody:x:65534:65534::/:/bin/false\n"), file("lower", "1")),
		files(t, file("lower", "2")))
	ref := reg.push(t, "app:v1", img)
	s := open(t)
	var last image.Progress
	got, err := s.Pull(t.Context(), ref, image.PullOptions{Progress: func(p image.Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if want := digest(t, img); got.Digest != want || !slices.Equal(got.Refs, []string{ref}) || got.Platform != "linux/amd64" {
		t.Errorf("pulled %+v, want digest %s and reference %s", got, want, ref)
	}
	if got.Config.Workdir != "/w" || got.Config.User != "nobody" || !slices.Equal(got.Config.Entrypoint, []string{"/bin/app"}) {
		t.Errorf("config %+v", got.Config)
	}
	if last.Done != last.Total || last.Total == 0 || len(last.Layers) != 2 || last.Layers[0].State != image.LayerDone {
		t.Errorf("last progress %+v, want all done", last)
	}
	if got := read(t, s, got.Digest, "lower"); got != "2" {
		t.Errorf("file of the upper layer is %q, want 2", got)
	}
	root, err := s.RootFS(t.Context(), got.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Release()
	uid, gid, groups, err := root.LookupUser("nobody")
	if uid != 65534 || gid != 65534 || len(groups) != 0 || err != nil {
		t.Errorf("nobody is %d:%d %v, %v", uid, gid, groups, err)
	}
	if len(root.Layers) != 2 || root.Key == "" {
		t.Errorf("root %+v", root)
	}
}
