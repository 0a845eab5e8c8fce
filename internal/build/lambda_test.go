package build_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"hob/faas"
	"hob/internal/build"
)

// zipEntry is one entry of a hand-made zip file.
type zipEntry struct {
	name, body string
	mode       fs.FileMode // 0: the archive says nothing of modes
	flags      uint16
	bare       bool       // no content, whatever it says of its size
	size       faas.Bytes // of a bare one
}

func zipOf(t *testing.T, entries ...zipEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Flags: e.flags}
		if e.mode != 0 {
			h.SetMode(e.mode)
		}
		if e.bare {
			h.UncompressedSize64 = uint64(e.size)
			if _, err := w.CreateRaw(h); err != nil {
				t.Fatal(err)
			}
			continue
		}
		out, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// lambdaBase is a tar file of an image as Lambda's own are; start is its entrypoint.
func lambdaBase(t *testing.T, start, cmd []string) string {
	t.Helper()
	img := baseOf(t, runtime.GOARCH, layerOf(t,
		tarEntry{name: "lambda-entrypoint.sh", body: "x"},
		tarEntry{name: "var/task/", kind: tar.TypeDir}))
	cf := config(t, img).DeepCopy()
	cf.Config.Entrypoint, cf.Config.Cmd = start, cmd
	img, err := mutate.ConfigFile(img, cf)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "base.tar")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := build.WriteTar(out, "hob.local/base:latest", img); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestZipOfLambdaLiesOnItsBase(t *testing.T) {
	zipped := zipOf(t,
		zipEntry{name: "app.py", body: "def handler(event, context): pass", mode: 0o644},
		zipEntry{name: "bin/", mode: fs.ModeDir | 0o755},
		zipEntry{name: "bin/tool", body: "tool", mode: 0o750 | fs.ModeSetuid},
		zipEntry{name: "lib/a/b.so", body: "b", mode: 0o444},
		zipEntry{name: "latest", body: "lib/a", mode: fs.ModeSymlink | 0o777},
		zipEntry{name: "out", body: "/opt/model", mode: fs.ModeSymlink | 0o777},
		zipEntry{name: "windows.txt", body: "w"})
	img, err := build.FromLambda(t.Context(), build.Lambda{
		From: "-", In: bytes.NewReader(zipped), Base: lambdaBase(t, []string{"/lambda-entrypoint.sh"}, nil), Handler: "app.handler", Platform: "linux/" + runtime.GOARCH,
	})
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, img)
	var got []string
	for _, h := range listing(t, img) {
		got = append(got, fmt.Sprintf("%s %o %d %s", h.Name, h.Mode, h.Size, h.Linkname))
	}
	want := []string{
		"var/task/app.py 644 33 ", "var/task/bin/ 755 0 ", "var/task/bin/tool 750 4 ", "var/task/latest 777 0 lib/a",
		"var/task/lib/ 755 0 ", "var/task/lib/a/ 755 0 ", "var/task/lib/a/b.so 444 1 ", "var/task/out 777 0 /opt/model", "var/task/windows.txt 755 1 ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got the layer\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	cf := config(t, img).Config
	if !slices.Equal(cf.Entrypoint, []string{"/lambda-entrypoint.sh"}) || !slices.Equal(cf.Cmd, []string{"app.handler"}) || cf.WorkingDir != build.TaskDir {
		t.Errorf("it starts %q %q in %s", cf.Entrypoint, cf.Cmd, cf.WorkingDir)
	}
}

func TestCustomRuntimeNeedsNoBase(t *testing.T) {
	zipped := zipOf(t, zipEntry{name: "bootstrap", body: string(hostProgram()), mode: 0o755})
	file := write(t, filepath.Join(t.TempDir(), "f.zip"), zipped, 0o644)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "bootstrap"), hostProgram(), 0o755)
	var digests []string
	for _, from := range []string{file, dir} {
		img, err := build.FromLambda(t.Context(), build.Lambda{From: from})
		digests = append(digests, digestOf(t, img, err))
		if cf := config(t, img).Config; !slices.Equal(cf.Entrypoint, []string{"/var/task/bootstrap"}) || cf.Cmd != nil || cf.WorkingDir != build.TaskDir {
			t.Errorf("%s starts %q %q in %s", from, cf.Entrypoint, cf.Cmd, cf.WorkingDir)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("the zip file makes %s, the directory %s", digests[0], digests[1])
	}
	img, err := build.FromLambda(t.Context(), build.Lambda{From: file, Base: lambdaBase(t, []string{"/lambda-entrypoint.sh"}, nil), Handler: "main"})
	if err != nil {
		t.Fatal(err)
	}
	if cf := config(t, img).Config; cf.Entrypoint[0] != "/var/task/bootstrap" || cf.Cmd != nil || !slices.Contains(cf.Env, "_HANDLER=main") {
		t.Errorf("on a base it starts %q %q with %q", cf.Entrypoint, cf.Cmd, cf.Env)
	}
}

func TestLambdaThatCannotBeAnImageIsRefused(t *testing.T) {
	app := zipOf(t, zipEntry{name: "app.py", body: "x", mode: 0o644})
	base := lambdaBase(t, []string{"/lambda-entrypoint.sh"}, nil)
	program := string(hostProgram())
	other := elfProgram(arm64, exec, "")
	if runtime.GOARCH == "arm64" {
		other = elfProgram(amd64, exec, "")
	}
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	many := make([]zipEntry, build.MaxLambdaFiles+1)
	for i := range many {
		many[i] = zipEntry{name: fmt.Sprint(i), bare: true}
	}
	long := make([]zipEntry, 300)
	for i := range long {
		long[i] = zipEntry{name: fmt.Sprint(strings.Repeat("x", 60<<10), i), bare: true}
	}
	for _, c := range []struct {
		zip  []byte
		l    build.Lambda
		kind faas.Kind
		want string
	}{
		{app, build.Lambda{}, faas.Invalid, "holds no bootstrap, so it is for a runtime of Lambda: name an image that has it with --base"},
		{app, build.Lambda{Base: base}, faas.Invalid, "names no handler: give that of the function with --handler, such as app.handler"},
		{app, build.Lambda{Base: lambdaBase(t, nil, []string{"sh"})}, faas.Invalid, "has no entrypoint that speaks the Runtime API: name the program with --entrypoint"},
		{app, build.Lambda{Base: "./none"}, faas.NotFound, "base image ./none: no such file or directory"},
		{app, build.Lambda{Base: base, Entrypoint: []string{"/bin/none"}}, faas.Invalid, "the image would start /bin/none, and there is no such file in it"},
		{[]byte("hello"), build.Lambda{}, faas.Invalid, "the zip file on standard input is no zip file"},
		{app[:len(app)/2], build.Lambda{}, faas.Invalid, "is no zip file"},
		{nil, build.Lambda{}, faas.Invalid, "is no zip file"},
		{zipOf(t), build.Lambda{}, faas.Invalid, "holds nothing"},
		{zipOf(t, many...), build.Lambda{}, faas.TooLarge, "holds 50001 files, over the limit of 50000"},
		{zipOf(t, long...), build.Lambda{}, faas.TooLarge, "with the names of its files, is over the limit of 16 MB"},
		{zipOf(t, zipEntry{name: "../x"}), build.Lambda{}, faas.Invalid, `holds the name "../x"`},
		{zipOf(t, zipEntry{name: "a/../../x"}), build.Lambda{}, faas.Invalid, `holds the name`},
		{zipOf(t, zipEntry{name: "/etc/x"}), build.Lambda{}, faas.Invalid, `holds the name "/etc/x"`},
		{zipOf(t, zipEntry{name: `a\b`}), build.Lambda{}, faas.Invalid, `holds the name "a\\b"`},
		{zipOf(t, zipEntry{name: "a\xff"}), build.Lambda{}, faas.Invalid, `holds the name`},
		{zipOf(t, zipEntry{name: "a"}, zipEntry{name: "a"}), build.Lambda{}, faas.Invalid, "holds a twice"},
		{zipOf(t, zipEntry{name: "a/"}, zipEntry{name: "a"}), build.Lambda{}, faas.Invalid, "holds a twice"},
		{zipOf(t, zipEntry{name: "a", body: "x"}, zipEntry{name: "a/b", body: "x"}), build.Lambda{}, faas.Invalid, "a/b in the zip file on standard input"},
		{zipOf(t, zipEntry{name: "a", flags: 1}), build.Lambda{}, faas.Unsupported, "is encrypted"},
		{zipOf(t, zipEntry{name: "a", bare: true, size: build.MaxLambdaBytes}, zipEntry{name: "b", bare: true, size: 1}), build.Lambda{}, faas.TooLarge, "unpacks to more than the limit of 250 MB"},
		{zipOf(t, zipEntry{name: "etc", body: "/etc", mode: fs.ModeSymlink | 0o777}, zipEntry{name: "etc/passwd", body: "x", mode: 0o644}), build.Lambda{}, faas.Invalid, "etc/passwd"},
		{zipOf(t, zipEntry{name: "link", mode: fs.ModeSymlink | 0o777}), build.Lambda{}, faas.Invalid, "its target is not a name of 1 to 4096 bytes"},
		{zipOf(t, zipEntry{name: "pipe", mode: fs.ModeNamedPipe | 0o644}), build.Lambda{}, faas.Invalid, "pipe is a named pipe"},
		{zipOf(t, zipEntry{name: "bootstrap", body: program, mode: 0o644}), build.Lambda{}, faas.Invalid, "is not executable: chmod +x it before it is packed"},
		{zipOf(t, zipEntry{name: "bootstrap", body: string(other), mode: 0o755}), build.Lambda{Platform: "linux/" + runtime.GOARCH}, faas.Invalid, "/var/task/bootstrap is a program for linux/"},
		{zipOf(t, zipEntry{name: "bootstrap", body: "#!/bin/sh\n", mode: 0o755}), build.Lambda{}, faas.Invalid, "the script the zip file on standard input/bootstrap needs /bin/sh"},
	} {
		c.l.From, c.l.In = "-", bytes.NewReader(c.zip)
		var img v1.Image
		img, err := build.FromLambda(t.Context(), c.l)
		if img != nil || faas.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v (%s), want %q (%s)", err, faas.KindOf(err), c.want, c.kind)
		}
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	if _, err := build.FromLambda(t.Context(), build.Lambda{From: "none.zip"}); faas.KindOf(err) != faas.NotFound || err.Error() != "there is no file or directory none.zip" {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestZipThatLiesOfItsSizeIsRefused changes the size in the list of a zip file.
func TestZipThatLiesOfItsSizeIsRefused(t *testing.T) {
	zipped := zipOf(t, zipEntry{name: "bootstrap", body: strings.Repeat("\x00", 100_000), mode: 0o755})
	size := []byte{0xa0, 0x86, 0x01, 0}
	at := bytes.LastIndex(zipped, size)
	copy(zipped[at:], []byte{10, 0, 0, 0})
	if _, err := build.FromLambda(t.Context(), build.Lambda{From: "-", In: bytes.NewReader(zipped)}); faas.KindOf(err) != faas.Invalid {
		t.Errorf("got %v", err)
	}
}

// FuzzLambda looks that no zip file does harm.
func FuzzLambda(f *testing.F) {
	f.Add([]byte("PK\x05\x06" + strings.Repeat("\x00", 18)))
	f.Fuzz(func(t *testing.T, zipped []byte) {
		if _, err := build.FromLambda(t.Context(), build.Lambda{From: "-", In: bytes.NewReader(zipped)}); err != nil && faas.KindOf(err) == faas.Internal {
			t.Errorf("%v", err)
		}
	})
}
