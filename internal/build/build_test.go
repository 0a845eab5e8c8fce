package build_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
	"hob/internal/build"
)

// elfProgram is the smallest ELF file that says what a build asks of one.
func elfProgram(machine uint16, kind uint16, interp string) []byte {
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	le := func(vs ...any) {
		for _, v := range vs {
			binary.Write(&b, binary.LittleEndian, v)
		}
	}
	segs, entry := uint16(0), uint64(0x1000)
	if interp != "" {
		segs = 1
	}
	if kind == 3 && interp == "" {
		entry = 0
	}
	le(kind, machine, uint32(1), entry, uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), segs, uint16(64), uint16(0), uint16(0))
	if interp != "" {
		n := uint64(len(interp) + 1)
		le(uint32(3), uint32(4), uint64(120), uint64(0), uint64(0), n, n, uint64(1))
		b.WriteString(interp + "\x00")
	}
	return b.Bytes()
}

const (
	amd64 = 62
	arm64 = 183
	exec  = 2
	dyn   = 3
)

// hostProgram is a static program for the machine of the test.
func hostProgram() []byte {
	if runtime.GOARCH == "arm64" {
		return elfProgram(arm64, exec, "")
	}
	return elfProgram(amd64, exec, "")
}

func write(t *testing.T, name string, data []byte, mode fs.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

// tarEntry is one entry of a hand-made layer.
type tarEntry struct {
	name, body, link string
	kind             byte
}

func layerOf(t *testing.T, entries ...tarEntry) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Size: int64(len(e.body)), Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tw, e.body)
	}
	tw.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// baseOf is a base image for linux/arch.
func baseOf(t *testing.T, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", arch
	cf.Config.Env = []string{"PATH=/usr/bin:/bin", "LANG=C"}
	cf.Config.Cmd = []string{"sh"}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

// debianLike has the links that a Debian image has.
func debianLike(t *testing.T) v1.Image {
	return baseOf(t, "amd64",
		layerOf(t,
			tarEntry{name: "bin", link: "usr/bin", kind: tar.TypeSymlink},
			tarEntry{name: "lib64", link: "usr/lib64", kind: tar.TypeSymlink},
			tarEntry{name: "usr/bin/", kind: tar.TypeDir},
			tarEntry{name: "usr/bin/env", body: "env"},
			tarEntry{name: "usr/bin/dash", body: "dash"},
			tarEntry{name: "usr/bin/sh", link: "dash", kind: tar.TypeSymlink},
			tarEntry{name: "usr/bin/gone", body: "x"},
			tarEntry{name: "usr/lib64/ld-linux-x86-64.so.2", link: "../lib/ld.so", kind: tar.TypeSymlink},
			tarEntry{name: "usr/lib/ld.so", body: "ld"},
			tarEntry{name: "tmp/", kind: tar.TypeDir},
			tarEntry{name: "old/hidden", body: "x"}),
		layerOf(t,
			tarEntry{name: "usr/bin/.wh.gone"},
			tarEntry{name: "old/.wh..wh..opq"}))
}

func digestOf(t *testing.T, img v1.Image, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// listing is the content of the top layer of img.
func listing(t *testing.T, img v1.Image) []*tar.Header {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[len(layers)-1].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	var all []*tar.Header
	for tr := tar.NewReader(rc); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, hdr)
	}
}

// checkImage reads all of img and compares it with what its manifest says.
func checkImage(t *testing.T, img v1.Image) {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	cf := config(t, img)
	if len(layers) != len(m.Layers) || len(layers) != len(cf.RootFS.DiffIDs) {
		t.Fatalf("%d layers, %d in the manifest, %d in the configuration", len(layers), len(m.Layers), len(cf.RootFS.DiffIDs))
	}
	for i, l := range layers {
		packed, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		digest, size, err := v1.SHA256(packed)
		packed.Close()
		if err != nil || digest != m.Layers[i].Digest || size != m.Layers[i].Size {
			t.Errorf("layer %d is %v of %d bytes, the manifest says %v of %d: %v", i, digest, size, m.Layers[i].Digest, m.Layers[i].Size, err)
		}
		plain, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		diffID, _, err := v1.SHA256(plain)
		plain.Close()
		if err != nil || diffID != cf.RootFS.DiffIDs[i] {
			t.Errorf("layer %d unpacks to %v, the configuration says %v: %v", i, diffID, cf.RootFS.DiffIDs[i], err)
		}
	}
}

func config(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return cf
}

func TestProgramOnScratchIsAnImageThatStartsIt(t *testing.T) {
	prog := write(t, filepath.Join(t.TempDir(), "hello"), elfProgram(arm64, exec, ""), 0o600)
	img, err := build.FromProgram(t.Context(), build.Options{
		Program: prog, Cmd: []string{"-x"}, Env: []string{"A=1"}, Workdir: "/work/", User: "7:8",
		Labels: map[string]string{"k": "v"}, Ports: []string{"8080", "53/udp"},
	})
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, img)
	cf := config(t, img)
	if cf.Architecture != "arm64" || cf.OS != "linux" {
		t.Errorf("platform is %s/%s, want the program's linux/arm64", cf.OS, cf.Architecture)
	}
	c := cf.Config
	if !slices.Equal(c.Entrypoint, []string{"/hello"}) || !slices.Equal(c.Cmd, []string{"-x"}) || !slices.Equal(c.Env, []string{"A=1"}) ||
		c.WorkingDir != "/work" || c.User != "7:8" || c.Labels["k"] != "v" || len(c.ExposedPorts) != 2 {
		t.Errorf("got the configuration %+v", c)
	}
	if !cf.Created.Equal(time.Unix(0, 0)) {
		t.Errorf("created %v, want the epoch", cf.Created)
	}
	got := listing(t, img)
	if len(got) != 1 || got[0].Name != "hello" || got[0].Mode != 0o755 || got[0].Uid != 0 || !got[0].ModTime.Equal(time.Unix(0, 0)) {
		t.Errorf("got the layer %+v", got)
	}
}

func TestRealProgramIsUnderstood(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	img, err := build.FromProgram(t.Context(), build.Options{Program: self, Name: "test", Base: baseOf(t, runtime.GOARCH,
		layerOf(t, tarEntry{name: "lib64/ld-linux-x86-64.so.2", body: "x"}, tarEntry{name: "lib/ld-linux-aarch64.so.1", body: "x"}))})
	if err != nil {
		t.Fatal(err)
	}
	if arch := config(t, img).Architecture; arch != runtime.GOARCH {
		t.Errorf("got %s, want %s", arch, runtime.GOARCH)
	}
}

func TestSameInputGivesTheSameDigest(t *testing.T) {
	make := func(names []string, when time.Time, umask fs.FileMode) string {
		dir := t.TempDir()
		for _, n := range names {
			write(t, filepath.Join(dir, n), []byte("content of "+n), 0o644|umask)
		}
		write(t, filepath.Join(dir, "run"), hostProgram(), 0o755|umask)
		os.Symlink("run", filepath.Join(dir, "link"))
		filepath.WalkDir(dir, func(p string, d fs.DirEntry, _ error) error {
			if d.IsDir() {
				os.Chmod(p, 0o755|umask)
			}
			if p != filepath.Join(dir, "link") {
				os.Chtimes(p, when, when)
			}
			return nil
		})
		img, err := build.FromDir(t.Context(), build.Options{Dir: dir, Entrypoint: []string{"/run"}, Labels: map[string]string{"a": "1", "b": "2", "c": "3"}})
		return digestOf(t, img, err)
	}
	names := []string{"b/2", "a", "b/1", "b-c", "z/y/x"}
	first := make(names, time.Unix(1e9, 0), 0)
	slices.Reverse(names)
	if second := make(names, time.Unix(1.5e9, 5), 0o020); second != first {
		t.Errorf("other times, order and umask made %s of what was %s", second, first)
	}
	if third := make(append(names, "more"), time.Unix(1e9, 0), 0); third == first {
		t.Error("another file made no difference")
	}
}

func TestSourceDateEpochIsTheTimeOfTheImage(t *testing.T) {
	prog := write(t, filepath.Join(t.TempDir(), "hello"), hostProgram(), 0o755)
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	img, err := build.FromProgram(t.Context(), build.Options{Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	if got := config(t, img).Created.Unix(); got != 1700000000 {
		t.Errorf("created at %d", got)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, err := build.FromProgram(t.Context(), build.Options{Program: prog}); faas.KindOf(err) != faas.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestDirectoryKeepsLinksAndModes(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "bin/su"), []byte("x"), 0o755|fs.ModeSetuid)
	write(t, filepath.Join(dir, "data/secret"), []byte("x"), 0o600)
	write(t, filepath.Join(dir, "öäü \n"+strings.Repeat("long", 40)), nil, 0o644)
	os.Symlink("../outside", filepath.Join(dir, "up"))
	os.Link(filepath.Join(dir, "data/secret"), filepath.Join(dir, "again"))
	os.Mkdir(filepath.Join(dir, "tmp"), 0o755)
	os.Chmod(filepath.Join(dir, "tmp"), 0o777|fs.ModeSticky)
	img, err := build.FromDir(t.Context(), build.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]*tar.Header)
	var order []string
	for _, h := range listing(t, img) {
		got[h.Name] = h
		order = append(order, strings.TrimSuffix(h.Name, "/"))
	}
	if !slices.IsSorted(order) {
		t.Errorf("entries are not sorted: %q", order)
	}
	for name, check := range map[string]func(*tar.Header) bool{
		"bin/su":                              func(h *tar.Header) bool { return h.Mode == 0o4755 },
		"again":                               func(h *tar.Header) bool { return h.Typeflag == tar.TypeReg && h.Mode == 0o600 },
		"data/secret":                         func(h *tar.Header) bool { return h.Typeflag == tar.TypeLink && h.Linkname == "again" },
		"up":                                  func(h *tar.Header) bool { return h.Typeflag == tar.TypeSymlink && h.Linkname == "../outside" },
		"tmp/":                                func(h *tar.Header) bool { return h.Typeflag == tar.TypeDir && h.Mode == 0o1777 },
		"öäü \n" + strings.Repeat("long", 40): func(h *tar.Header) bool { return h.Size == 0 },
	} {
		if h := got[name]; h == nil || !check(h) {
			t.Errorf("%q is %+v", name, h)
		}
	}
	warn, err := build.Warnings(img)
	if err != nil || len(warn) != 1 || !strings.Contains(warn[0], "neither entrypoint nor command") {
		t.Errorf("got the warnings %q, %v", warn, err)
	}
}

func TestDirectoryOnABaseFollowsTheLinksOfTheBase(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "bin/tool"), []byte("#!/bin/sh\n"), 0o755)
	write(t, filepath.Join(dir, "tmp/x"), nil, 0o644)
	write(t, filepath.Join(dir, "new/x"), nil, 0o644)
	img, err := build.FromDir(t.Context(), build.Options{Dir: dir, Base: debianLike(t), Entrypoint: []string{"tool"}, Env: []string{"LANG=de", "B=2"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range listing(t, img) {
		names = append(names, h.Name)
	}
	if want := []string{"new/", "new/x", "tmp/x", "usr/bin/tool"}; !slices.Equal(names, want) {
		t.Errorf("got the layer %q, want %q", names, want)
	}
	cf := config(t, img)
	if want := []string{"PATH=/usr/bin:/bin", "LANG=de", "B=2"}; !slices.Equal(cf.Config.Env, want) {
		t.Errorf("got the environment %q, want %q", cf.Config.Env, want)
	}
	if cf.Config.Cmd != nil {
		t.Errorf("the command %q of the base stayed behind a new entrypoint", cf.Config.Cmd)
	}
	if len(cf.RootFS.DiffIDs) != 3 {
		t.Errorf("got %d layers", len(cf.RootFS.DiffIDs))
	}
}

func TestInterpreterInTheBaseIsEnough(t *testing.T) {
	for name, data := range map[string][]byte{
		"dynamic": elfProgram(amd64, dyn, "/lib64/ld-linux-x86-64.so.2"),
		"script":  []byte("#!/bin/sh\necho"),
		"env":     []byte("#! /usr/bin/env sh\necho"),
	} {
		prog := write(t, filepath.Join(t.TempDir(), name), data, 0o644)
		if _, err := build.FromProgram(t.Context(), build.Options{Program: prog, Base: debianLike(t)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	any := write(t, filepath.Join(t.TempDir(), "code.py"), []byte("print(1)"), 0o644)
	if _, err := build.FromProgram(t.Context(), build.Options{Program: any, Base: debianLike(t), Entrypoint: []string{"sh", "/code.py"}}); err != nil {
		t.Errorf("a file for another entrypoint: %v", err)
	}
}

func TestProgramThatCannotStartIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		opt  build.Options
		want string
	}{
		{"dynamic", elfProgram(amd64, dyn, "/lib64/ld-linux-x86-64.so.2"), build.Options{}, "needs /lib64/ld-linux-x86-64.so.2, which is not in the image: link it statically"},
		{"musl", elfProgram(amd64, dyn, "/lib/ld-musl-x86_64.so.1"), build.Options{Base: debianLike(t)}, "needs /lib/ld-musl-x86_64.so.1, which the base image does not have"},
		{"script", []byte("#!/bin/sh\n"), build.Options{}, "needs /bin/sh, which is not in the image: choose a base"},
		{"python", []byte("#!/usr/bin/env python3\n"), build.Options{Base: debianLike(t)}, "needs the program python3"},
		{"gone", []byte("#!/usr/bin/gone\n"), build.Options{Base: debianLike(t)}, "needs /usr/bin/gone"},
		{"hidden", []byte("#!/old/hidden\n"), build.Options{Base: debianLike(t)}, "needs /old/hidden"},
		{"dos", []byte("#!/bin/sh\r\n"), build.Options{Base: debianLike(t)}, "Windows line ends"},
		{"relative", []byte("#!sh\n"), build.Options{Base: debianLike(t)}, "no interpreter by an absolute path"},
		{"text", []byte("hello"), build.Options{}, "neither an ELF program nor a script"},
		{"empty", nil, build.Options{}, "empty file"},
		{"exe", []byte("MZ\x90"), build.Options{}, "Windows program"},
		{"mac", []byte("\xcf\xfa\xed\xfe"), build.Options{}, "macOS program"},
		{"library", elfProgram(amd64, dyn, ""), build.Options{}, "shared library"},
		{"object", elfProgram(amd64, 1, ""), build.Options{}, "has not been linked"},
		{"core", elfProgram(amd64, 4, ""), build.Options{}, "not a program"},
		{"cut", elfProgram(amd64, exec, "")[:40], build.Options{}, "damaged ELF"},
		{"sparc", elfProgram(43, exec, ""), build.Options{}, "no image platform names"},
		{"platform", elfProgram(arm64, exec, ""), build.Options{Platform: "linux/amd64"}, "is a program for linux/arm64, not for linux/amd64"},
		{"base", elfProgram(arm64, exec, ""), build.Options{Base: debianLike(t)}, "the base image is for linux/amd64, what goes on it is for linux/arm64"},
		{"bin", elfProgram(amd64, exec, ""), build.Options{Base: baseOf(t, "amd64", layerOf(t, tarEntry{name: "bin/", kind: tar.TypeDir}))}, "has a directory /bin where"},
		{"other", elfProgram(amd64, exec, ""), build.Options{Entrypoint: []string{"/absent"}}, "would start /absent, and there is no such file"},
		{"big", hostProgram(), build.Options{MaxBytes: 10}, "over the limit of 10 bytes"},
		{"plat", hostProgram(), build.Options{Platform: "windows/amd64"}, "bad platform"},
		{"env0", hostProgram(), build.Options{Env: []string{"A"}}, "bad environment entry"},
		{"env1", hostProgram(), build.Options{Env: []string{"=x"}}, "bad environment variable"},
		{"wd", hostProgram(), build.Options{Workdir: "x"}, "not an absolute path"},
		{"user", hostProgram(), build.Options{User: "a b"}, "bad user"},
		{"port", hostProgram(), build.Options{Ports: []string{"70000"}}, "bad port"},
		{"label", hostProgram(), build.Options{Labels: map[string]string{"": "x"}}, "a label has no name"},
		{"arg", hostProgram(), build.Options{Cmd: []string{"a\x00"}}, "zero byte"},
		{"first", hostProgram(), build.Options{Entrypoint: []string{""}}, "empty word"},
		{"sp ace", hostProgram(), build.Options{}, "bad program name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opt.Program = write(t, filepath.Join(t.TempDir(), c.name), c.data, 0o755)
			_, err := build.FromProgram(t.Context(), c.opt)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if k := faas.KindOf(err); k != faas.Invalid && k != faas.TooLarge {
				t.Errorf("kind is %q", k)
			}
		})
	}
}

func TestInputThatIsNotThereIsNotFound(t *testing.T) {
	dir := t.TempDir()
	_, err := build.FromProgram(t.Context(), build.Options{Program: dir + "/no"})
	_, err2 := build.FromDir(t.Context(), build.Options{Dir: dir + "/no"})
	_, err3 := build.FromProgram(t.Context(), build.Options{Program: write(t, dir+"/p", hostProgram(), 0o755), From: "./no.tar"})
	for _, err := range []error{err, err2, err3} {
		if faas.KindOf(err) != faas.NotFound {
			t.Errorf("got %v", err)
		}
	}
}

func TestDirectoryThatCannotBeAnImageIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		opt  build.Options
		want string
	}{
		{"empty", func(*testing.T, string) {}, build.Options{}, "is empty"},
		{"pipe", func(t *testing.T, dir string) { syscall.Mkfifo(dir+"/p", 0o600) }, build.Options{}, "is a named pipe"},
		{"whiteout", func(t *testing.T, dir string) { write(t, dir+"/.wh.x", nil, 0o600) }, build.Options{}, "means a deletion"},
		{"files", func(t *testing.T, dir string) { write(t, dir+"/a/b", nil, 0o600) }, build.Options{MaxFiles: 1}, "more than the limit of 1 files"},
		{"bytes", func(t *testing.T, dir string) { write(t, dir+"/a", []byte("12345"), 0o600) }, build.Options{MaxBytes: 4}, "more than the limit of 4 bytes"},
		{"mode", func(t *testing.T, dir string) { write(t, dir+"/a", hostProgram(), 0o644) }, build.Options{Entrypoint: []string{"/a"}}, "not executable: chmod +x"},
		{"dir", func(t *testing.T, dir string) { os.Mkdir(dir+"/a", 0o755) }, build.Options{Entrypoint: []string{"/a"}}, "which is a directory"},
		{"loop", func(t *testing.T, dir string) { os.Symlink("a", dir+"/a") }, build.Options{Entrypoint: []string{"/a"}}, "no such file"},
		{"twice", func(t *testing.T, dir string) {
			write(t, dir+"/bin/x", nil, 0o644)
			write(t, dir+"/usr/bin/x", nil, 0o644)
		}, build.Options{Base: debianLike(t)}, "would both be /usr/bin/x"},
		{"overlay", func(t *testing.T, dir string) { write(t, dir+"/usr/bin/env/x", nil, 0o644) }, build.Options{Base: debianLike(t)}, "which is no directory"},
		{"scripts", func(t *testing.T, dir string) { write(t, dir+"/a", []byte("#!/a\n"), 0o755) }, build.Options{Entrypoint: []string{"/a"}}, "interpreted by a script"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opt.Dir = t.TempDir()
			c.make(t, c.opt.Dir)
			_, err := build.FromDir(t.Context(), c.opt)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if k := faas.KindOf(err); k != faas.Invalid && k != faas.TooLarge {
				t.Errorf("kind is %q", k)
			}
		})
	}
}

func TestCanceledBuildEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	write(t, dir+"/a", nil, 0o644)
	if _, err := build.FromDir(ctx, build.Options{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestArchiveReadsBackTheSame(t *testing.T) {
	prog := write(t, filepath.Join(t.TempDir(), "hello"), hostProgram(), 0o755)
	img, err := build.FromProgram(t.Context(), build.Options{Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	want := digestOf(t, img, nil)
	file := filepath.Join(t.TempDir(), "img.tar")
	var first, second bytes.Buffer
	for _, b := range []*bytes.Buffer{&first, &second} {
		if err := build.WriteTar(b, "127.0.0.1:8080/hello", img); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of the same image differ")
	}
	write(t, file, first.Bytes(), 0o644)

	tag, _ := name.NewTag("127.0.0.1:8080/hello:latest")
	saved, err := tarball.ImageFromPath(file, &tag)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, saved)
	back, err := build.OpenBase(t.Context(), file, build.Remote{})
	if got := digestOf(t, back, err); got != want {
		t.Errorf("got %s back, want %s", got, want)
	}
	if err := build.WriteTar(io.Discard, "Bad Name", img); faas.KindOf(err) != faas.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestBaseComesFromAFileALayoutOrARegistry(t *testing.T) {
	base := debianLike(t)
	dir := t.TempDir()
	tag, _ := name.NewTag("example.com/base:1")
	if err := tarball.WriteToFile(dir+"/save.tar", tag, base); err != nil {
		t.Fatal(err)
	}
	lay, err := layout.Write(dir+"/layout", empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := lay.AppendImage(base); err != nil {
		t.Fatal(err)
	}
	var oci bytes.Buffer
	if err := build.WriteTar(&oci, "example.com/base:1", base); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/oci.tar", oci.Bytes(), 0o644)

	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ref, err := name.ParseReference(host + "/base:1")
	if err != nil {
		t.Fatal(err)
	}
	arm := baseOf(t, "arm64", layerOf(t, tarEntry{name: "x"}))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: base, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	if err := lay.AppendIndex(mutate.AppendManifests(empty.Index)); err != nil {
		t.Fatal(err)
	}

	prog := write(t, dir+"/script", []byte("#!/bin/sh\n"), 0o755)
	digests := make(map[string][]string)
	for _, from := range []string{dir + "/save.tar", dir + "/layout", dir + "/oci.tar", host + "/base:1", "hob.local/base:1"} {
		img, err := build.FromProgram(t.Context(), build.Options{Program: prog, From: from, Platform: "linux/amd64", Remote: build.Remote{Self: host}})
		if err != nil {
			t.Errorf("%s: %v", from, err)
			continue
		}
		checkImage(t, img)
		d := digestOf(t, img, nil)
		digests[d] = append(digests[d], from)
	}
	if len(digests) != 1 {
		t.Errorf("the same base gave several images: %v", digests)
	}
	img, err := build.FromProgram(t.Context(), build.Options{Program: write(t, dir+"/arm", elfProgram(arm64, exec, ""), 0o755), From: host + "/base:1"})
	if err != nil {
		t.Fatal(err)
	}
	if got := config(t, img).Architecture; got != "arm64" {
		t.Errorf("the base for %s was chosen for an arm64 program", got)
	}
}

func TestBadBaseIsRefusedWithItsReason(t *testing.T) {
	dir := t.TempDir()
	prog := write(t, dir+"/p", elfProgram(amd64, exec, ""), 0o755)
	write(t, dir+"/text", []byte(strings.Repeat("no tar ", 200)), 0o644)
	arm := baseOf(t, "arm64", layerOf(t, tarEntry{name: "x"}))
	lay, err := layout.Write(dir+"/arm", empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := lay.AppendImage(arm); err != nil {
		t.Fatal(err)
	}
	lay, err = layout.Write(dir+"/damaged", empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	good := debianLike(t)
	if err := lay.AppendImage(good); err != nil {
		t.Fatal(err)
	}
	layers, _ := good.Layers()
	h, _ := layers[0].Digest()
	write(t, filepath.Join(dir, "damaged/blobs/sha256", h.Hex), []byte("flipped"), 0o644)
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	const down = "127.0.0.1:1" // a port at which nobody listens, and that nobody is given

	for _, c := range []struct {
		from, want string
		kind       faas.Kind
	}{
		{dir, "no OCI layout", faas.Invalid},
		{dir + "/text", "neither a docker save archive nor an OCI layout", faas.Invalid},
		{dir + "/arm", "has nothing for linux/amd64: it has linux/arm64", faas.Invalid},
		{dir + "/damaged", "is damaged", faas.Invalid},
		{host + "/none:1", "does not have it", faas.NotFound},
		{"hob.local/x", "no server is named", faas.Invalid},
		{"Not A Reference", "neither a file nor a reference", faas.Invalid},
		{down + "/x", "cannot be read", faas.Invalid},
	} {
		_, err := build.FromProgram(t.Context(), build.Options{Program: prog, From: c.from})
		if err == nil || !strings.Contains(err.Error(), c.want) || faas.KindOf(err) != c.kind {
			t.Errorf("%s: got %v (%s), want %q (%s)", c.from, err, faas.KindOf(err), c.want, c.kind)
		}
	}

	odd, err := mutate.AppendLayers(baseOf(t, "amd64"), static.NewLayer([]byte("no tar at all, but long enough to be read as a block of one"), types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := build.FromProgram(t.Context(), build.Options{Program: prog, Base: odd}); faas.KindOf(err) != faas.Invalid {
		t.Errorf("a layer that is no tar: %v", err)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(elfProgram(amd64, exec, ""))
	f.Add(elfProgram(arm64, dyn, "/lib/ld.so"))
	f.Add([]byte("#!/usr/bin/env -S a b\n"))
	f.Add([]byte("#!"))
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "p")
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		img, err := build.FromProgram(t.Context(), build.Options{Program: name})
		if (img == nil) == (err == nil) {
			t.Errorf("got %v and %v", img, err)
		}
		if err != nil && faas.KindOf(err) == faas.Internal {
			t.Errorf("bad input is called an internal error: %v", err)
		}
	})
}
