package image_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/image/content"
)

// load puts an image into the store under a name.
func load(t testing.TB, s *image.Store, name string, img v1.Image) image.Image {
	t.Helper()
	got, err := s.LoadPath(t.Context(), ociLayout(t, nil, img), name)
	if err != nil {
		t.Fatal(err)
	}
	return got[0]
}

// onDisk counts blobs and unpacked layers.
func onDisk(t testing.TB, dir string) (blobs, layers int) {
	t.Helper()
	count := func(parts ...string) int {
		entries, err := os.ReadDir(filepath.Join(append([]string{dir}, parts...)...))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	return count("content", "blobs", "sha256"), count("layers", "sha256")
}

func TestRemovedImageLeavesTheDiskButNotWhatOthersShare(t *testing.T) {
	dir := t.TempDir()
	s := open(t, in(dir))
	shared := files(t, file("shared", "1"))
	load(t, s, "a", build(t, v1.Config{}, shared, files(t, file("a", "1"))))
	b := load(t, s, "b", build(t, v1.Config{}, shared, files(t, file("b", "1"))))
	if blobs, layers := onDisk(t, dir); blobs != 7 || layers != 3 {
		t.Errorf("%d blobs, %d layers", blobs, layers)
	}
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if blobs, layers := onDisk(t, dir); blobs != 4 || layers != 2 {
		t.Errorf("%d blobs and %d layers are left, want 4 and 2", blobs, layers)
	}
	if got := read(t, s, b.Digest, "shared"); got != "1" {
		t.Errorf("the other image lost its file: %q", got)
	}
	fails(t, s.Remove(t.Context(), "a"), faas.NotFound, "a:latest")
	if err := s.Remove(t.Context(), b.Digest[7:17]); err != nil {
		t.Fatal(err)
	}
	if blobs, layers := onDisk(t, dir); blobs+layers != 0 {
		t.Errorf("%d blobs and %d layers are left", blobs, layers)
	}
	s.Close()
	wholeImages(t, dir)
}

func TestImageWithTwoNamesLosesOneFirst(t *testing.T) {
	s := open(t)
	img := load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "1"))))
	if err := s.Tag(t.Context(), "b:2", img.Digest); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get("b:2")
	if err != nil || !slices.Equal(got.Refs, []string{"docker.io/library/b:2"}) {
		t.Errorf("got %v, %v", got.Refs, err)
	}
	if err := s.Remove(t.Context(), img.Digest); err != nil || len(s.List()) != 0 {
		t.Errorf("removal by digest: %v", err)
	}
}

func TestImageInUseIsNotRemoved(t *testing.T) {
	inUse := make(map[string]bool)
	s := open(t, func(c *image.Config) {
		c.InUse = func() map[string]bool { return inUse }
		c.Budget, c.Grace = 1, -1
	})
	img := load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "1"))))
	check := func(words ...string) {
		t.Helper()
		fails(t, s.Remove(t.Context(), "a"), faas.Conflict, words...)
		if removed, _, err := s.Prune(t.Context(), nil); len(removed) > 0 || err != nil {
			t.Errorf("pruned %v, %v", removed, err)
		}
		if removed, _, err := s.Collect(t.Context()); len(removed) > 0 || err != nil {
			t.Errorf("collected %v, %v", removed, err)
		}
		if _, err := s.Get("a"); err != nil {
			t.Error(err)
		}
	}
	inUse[img.Digest] = true
	check("function")
	delete(inUse, img.Digest)
	root, err := s.RootFS(t.Context(), img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	check("sandbox")
	root.Release()
	root.Release()
	removed, freed, err := s.Collect(t.Context())
	if err != nil || len(removed) != 1 || freed < img.Size {
		t.Errorf("collected %v, %v, %v; want the image of %v", removed, freed, err, img.Size)
	}
	_, err = s.RootFS(t.Context(), img.Digest)
	fails(t, err, faas.NotFound, img.Digest)
}

func TestMovedNameKeepsTheOldImageOnlyWhileItIsUsed(t *testing.T) {
	s := open(t, func(c *image.Config) { c.Grace = -1 })
	old := load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "old"))))
	root, err := s.RootFS(t.Context(), old.Digest)
	if err != nil {
		t.Fatal(err)
	}
	load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "new"))))
	if removed, _, err := s.Collect(t.Context()); len(removed) > 0 || err != nil {
		t.Errorf("collected %v, %v", removed, err)
	}
	if got := read(t, s, old.Digest, "f"); got != "old" {
		t.Errorf("file %q", got)
	}
	root.Release()
	removed, _, err := s.Collect(t.Context())
	if err != nil || len(removed) != 1 || removed[0].Digest != old.Digest {
		t.Errorf("collected %v, %v", removed, err)
	}
	if len(s.List()) != 1 {
		t.Errorf("list %v", s.List())
	}
}

func TestImageJustAskedForIsSpared(t *testing.T) {
	s := open(t, func(c *image.Config) { c.Budget, c.Grace = 1, time.Hour })
	img := load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "1"))))
	if _, err := s.Pull(t.Context(), "a", image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if removed, _, err := s.Collect(t.Context()); len(removed) > 0 || err != nil {
		t.Errorf("collected %v, %v", removed, err)
	}
	if got, _ := s.Get("a"); !got.Used.After(img.Used) {
		t.Errorf("used %v, loaded %v", got.Used, img.Used)
	}
}

func TestPruneKeepsWhatItIsToldTo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, in(dir))
	a := load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "a"))))
	b := load(t, s, "b", build(t, v1.Config{}, files(t, file("f", "b"))))
	removed, freed, err := s.Prune(t.Context(), func(d string) bool { return d == a.Digest })
	if err != nil || len(removed) != 1 || removed[0].Digest != b.Digest || freed != b.Size {
		t.Errorf("pruned %v, %v, %v; want %s of %v", removed, freed, err, b.Digest, b.Size)
	}
	if blobs, layers := onDisk(t, dir); blobs != 3 || layers != 1 {
		t.Errorf("%d blobs, %d layers", blobs, layers)
	}
}

func TestCollectSweepsWhatNoImageHas(t *testing.T) {
	dir := t.TempDir()
	s := open(t, in(dir))
	load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "a"))))
	for _, age := range []time.Duration{0, 2 * time.Hour} {
		data := []byte("orphan " + age.String())
		if err := s.Content().Ingest(t.Context(), content.Digest(data), -1, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		os.Chtimes(filepath.Join(dir, "content", "blobs", "sha256", content.Digest(data)[7:]), at, at)
	}
	if _, freed, err := s.Collect(t.Context()); err != nil || freed != faas.Bytes(len("orphan 2h0m0s")) {
		t.Errorf("freed %v, %v", freed, err)
	}
	if blobs, _ := onDisk(t, dir); blobs != 4 {
		t.Errorf("%d blobs, want those of the image and the young one", blobs)
	}
}

func TestUseIsRememberedAcrossARestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, in(dir))
	img := load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "a"))))
	read(t, s, img.Digest, "f")
	got, _ := s.Get("a")
	if !got.Used.After(img.Used) {
		t.Errorf("used %v, loaded %v", got.Used, img.Used)
	}
	s.Close()
	again, err := open(t, in(dir)).Get("a")
	if err != nil || !again.Used.Equal(got.Used) || !again.Pulled.Equal(img.Pulled) {
		t.Errorf("used %v after restart, %v; want %v", again.Used, err, got.Used)
	}
}

func TestImageThatIsNoLongerWholeIsDroppedAtStart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, in(dir))
	load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "a"))))
	b := load(t, s, "b", build(t, v1.Config{}, files(t, file("f", "b"))))
	img, _ := s.Get("a")
	s.Close()
	if err := os.Remove(filepath.Join(dir, "content", "blobs", "sha256", img.Layers[0].Digest[7:])); err != nil {
		t.Fatal(err)
	}
	wholeImages(t, dir, b.Digest)
	if err := os.WriteFile(filepath.Join(dir, "images.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := image.Open(image.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "images.json") {
		t.Errorf("a damaged list: %v", err)
	}
}

func TestLayersThatAreGoneAreUnpackedAgain(t *testing.T) {
	dir := t.TempDir()
	s := open(t, in(dir))
	img := load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "a"))))
	s.Close()
	if err := os.RemoveAll(filepath.Join(dir, "layers")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, open(t, in(dir)), img.Digest, "f"); got != "a" {
		t.Errorf("file %q", got)
	}
}

func TestTagNeedsAWholeImage(t *testing.T) {
	s := open(t)
	fails(t, s.Tag(t.Context(), "a", someDigest), faas.NotFound, someDigest)
	config := []byte(configJSON(t, "x"))
	m := manifestOf(config, []byte("not there"))
	for _, b := range [][]byte{config, m} {
		if err := s.Content().Ingest(t.Context(), content.Digest(b), -1, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	err := s.Tag(t.Context(), "hob.local/a", content.Digest(m))
	if err == nil || !strings.Contains(err.Error(), "no blob") {
		t.Errorf("a layer is missing: %v", err)
	}
	if len(s.List()) != 0 {
		t.Error("half an image is in the list")
	}
}

// TestManyAtOnce lets everything happen together: the race detector listens,
// and at the end every image in the list is whole.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, in(dir), func(c *image.Config) { c.Grace, c.Budget = -1, 20<<10 })
	shared := files(t, file("shared", "1"))
	var dirs []string
	for _, name := range []string{"a", "b", "c"} {
		dirs = append(dirs, ociLayout(t, nil, build(t, v1.Config{}, shared, files(t, file("f", name)))))
	}
	var wg sync.WaitGroup
	for i, d := range dirs {
		wg.Go(func() {
			for range 5 {
				images, err := s.LoadPath(t.Context(), d, string(rune('a'+i)))
				if err != nil {
					t.Errorf("load: %v", err)
					continue
				}
				if root, err := s.RootFS(t.Context(), images[0].Digest); err == nil {
					for _, l := range root.Layers {
						if entries, err := os.ReadDir(l); err != nil || len(entries) != 1 {
							t.Errorf("a pinned layer holds %v, %v", entries, err)
						}
					}
					root.Release()
				} else if faas.KindOf(err) != faas.NotFound {
					t.Errorf("root: %v", err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if _, _, err := s.Collect(t.Context()); err != nil {
				t.Errorf("collect: %v", err)
			}
			for _, img := range s.List() {
				s.Remove(t.Context(), img.Digest)
			}
		}
	})
	wg.Wait()
	var want []string
	for _, img := range s.List() {
		want = append(want, img.Digest)
	}
	s.Close()
	wholeImages(t, dir, want...)
}

func TestUsersAreLookedUpInTheImage(t *testing.T) {
	s := open(t)
	img := load(t, s, "a", build(t, v1.Config{},
		files(t, file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1001:1002::/:/bin/sh\nbad:x:-1:5::/:\nold:x:5:5::/:\n"), file("etc/group", "root:x:0:\napp:x:1002:\nextra:x:2000:root,app\nmore:x:2001:app\n")),
		files(t, file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1001:1002::/:/bin/sh\n"))))
	root, err := s.RootFS(t.Context(), img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Release()
	for _, c := range []struct {
		user     string
		uid, gid uint32
		groups   []uint32
	}{
		{"root", 0, 0, []uint32{2000}},
		{"app", 1001, 1002, []uint32{2000, 2001}},
		{"1001", 1001, 1002, []uint32{2000, 2001}},
		{"app:extra", 1001, 2000, nil},
		{"app:0", 1001, 0, nil},
		{"4711", 4711, 0, nil},
		{"4711:4712", 4711, 4712, nil},
		{"4711:app", 4711, 1002, nil},
		{"app", 1001, 1002, []uint32{2000, 2001}}, // remembered
	} {
		uid, gid, groups, err := root.LookupUser(c.user)
		if err != nil || uid != c.uid || gid != c.gid || !slices.Equal(groups, c.groups) {
			t.Errorf("%s is %d:%d %v, %v; want %d:%d %v", c.user, uid, gid, groups, err, c.uid, c.gid, c.groups)
		}
	}
	for user, word := range map[string]string{"old": `"old"`, "nobody": "/etc/passwd", "app:none": "/etc/group", "": "bad user", ":0": "bad user", "0:": "bad user", "4294967295": "4294967295", "-1": "-1", "99999999999": "no user"} {
		_, _, _, err := root.LookupUser(user)
		fails(t, err, faas.Invalid, word)
	}
}
