package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hob/faas"
)

// lines are the lines of a stream, one at a time.
func lines(r io.Reader) func(t *testing.T) string {
	in := bufio.NewScanner(r)
	return func(t *testing.T) string {
		t.Helper()
		if !in.Scan() {
			t.Fatalf("the output ends: %v", in.Err())
		}
		return in.Text()
	}
}

func TestWatchDeploysAgainWithEachChangeUntilItIsInterrupted(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(image, tinyProgram("amd64"), 0o755); err != nil {
		t.Fatal(err)
	}
	server := newServer(t)
	env, _, stderr := testEnv(map[string]string{"HOB_SERVER": server}, "")
	if code := run(t.Context(), env, []string{"image", "build", "-t", "tiny", "--platform", "linux/amd64", image}); code != 0 {
		t.Fatalf("image build: %s", stderr)
	}
	put("func.yaml", "name: f\nversion: 0.0.1\nimage: hob.local/tiny\n")
	put(".fnignore", "*.log\n")
	out, w := io.Pipe()
	told, wErr := io.Pipe()
	env.Stdout, env.Stderr = w, wErr
	ctx, interrupt := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, env, []string{"deploy", "--watch", "--debounce", "1ms", "--ignore", "*.tmp", dir})
	}()
	notes := lines(told)
	go func() { // standard error is looked at by nobody but for the watching
		_, _ = io.Copy(io.Discard, out)
	}()
	watching := func() (all []string) {
		t.Helper()
		for {
			line := notes(t)
			if strings.HasPrefix(line, "watching ") {
				return all
			}
			all = append(all, line)
		}
	}
	if all := watching(); !slices.Contains(all, "created function f using image hob.local/tiny") {
		t.Errorf("at first it says %q", all)
	}
	put("x.log", "left alone")
	put("x.tmp", "left alone")
	put("func.yaml", "name: f\nversion: 0.0.1\nimage: hob.local/tiny\nmemory: lots\n")
	for all := watching(); !strings.Contains(strings.Join(all, "\n"), "memory is \"lots\""); all = watching() {
		t.Logf("in between it says %q", all) // the file was seen while it was being written
	}
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	put("func.yaml", "name: f\nversion: 0.0.1\nimage: hob.local/tiny\nmemory: 64\n")
	for all := watching(); !slices.Contains(all, "updated function f using image hob.local/tiny"); all = watching() {
		t.Logf("in between it says %q", all)
	}
	go func() { _, _ = io.Copy(io.Discard, told) }()
	interrupt()
	if code := <-ended; code != 0 {
		t.Errorf("an interrupted watch ends with %d", code)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "func.yaml")); !strings.Contains(string(data), "version: 0.0.1\n") {
		t.Errorf("the watch has changed the version:\n%s", data)
	}
}

func TestNothingOfAnArchiveLeavesTheDirectory(t *testing.T) {
	for _, c := range []struct {
		header tar.Header
		want   faas.Kind
	}{
		{tar.Header{Name: "./a/b.sh", Mode: 0o4755, Size: 2}, faas.OK},
		{tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o700}, faas.OK},
		{tar.Header{Name: "../b", Size: 2}, faas.Invalid},
		{tar.Header{Name: "/etc/b", Size: 2}, faas.Invalid},
		{tar.Header{Name: "a/../../b", Size: 2}, faas.Invalid},
		{tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, faas.Invalid},
		{tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: "there"}, faas.Invalid},
		{tar.Header{Name: "dev", Typeflag: tar.TypeChar}, faas.Invalid},
		{tar.Header{Name: "there", Size: 2}, faas.Conflict},
		{tar.Header{Name: "out/passwd", Size: 2}, faas.Invalid},
		{tar.Header{Name: "big", Size: int64(maxInitBytes) + 1}, faas.TooLarge},
	} {
		dir := t.TempDir()
		outside := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "there"), []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		if err := w.WriteHeader(&c.header); err != nil {
			t.Fatal(err)
		}
		if c.header.Size == 2 {
			_, _ = io.WriteString(w, "hi")
			_ = w.Close()
		}
		_, err = unpack(&archive, root)
		root.Close()
		if faas.KindOf(err) != c.want {
			t.Errorf("%s: %v, want %s", c.header.Name, err, c.want)
		}
		if mine, _ := os.ReadFile(filepath.Join(dir, "there")); string(mine) != "mine" {
			t.Errorf("%s: a file that was there is now %q", c.header.Name, mine)
		}
		if left, _ := os.ReadDir(outside); len(left) > 0 {
			t.Errorf("%s left %v outside", c.header.Name, left)
		}
	}
}

func TestNameOfAFunctionBecomesThatOfAnImage(t *testing.T) {
	for name, want := range map[string]string{"hello": "hello", "Hello.World": "hello-world", "a--b_c": "a-b-c", "é": "function", "x=1+": "x-1"} {
		if got := repository(name); got != want {
			t.Errorf("repository(%q) = %q, want %q", name, got, want)
		}
	}
	for version, want := range map[string]string{"": "latest", "0.0.1": "0.0.1", "1.0+b 2": "1.0_b_2", "..": "latest"} {
		if got := tagOf(version); got != want {
			t.Errorf("tagOf(%q) = %q, want %q", version, got, want)
		}
	}
}

func TestRunningHereNeedsRoot(t *testing.T) {
	env, _, stderr := testEnv(nil, "")
	if code := run(t.Context(), env, []string{"run", "tiny.tar"}); code != 5 || !strings.Contains(stderr.String(), "only root can make") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

func TestFileOfVersionOneWithoutPathGetsARoute(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(image, tinyProgram("amd64"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "func.yml")
	if err := os.WriteFile(file, []byte("name: ada/nopath\nversion: 0.0.1\nimage: hob.local/tiny\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	server := newServer(t)
	hob := func(args ...string) (out, said string) {
		t.Helper()
		env, stdout, stderr := testEnv(map[string]string{"HOB_SERVER": server}, "")
		if code := run(t.Context(), env, args); code != 0 {
			t.Fatalf("hob %s: %s", args, stderr)
		}
		return stdout.String(), stderr.String()
	}
	hob("image", "build", "-t", "tiny", "--platform", "linux/amd64", image)
	deploy := []string{"deploy", "--app", "old", "--create-app", dir}

	out, said := hob(deploy...)
	if !strings.Contains(out, "\n  nopath at "+server+"/t/old/nopath\n") || !strings.Contains(said, file+" names no path: the route is /nopath\n") {
		t.Errorf("it says\n%s%s", out, said)
	}
	hob("trigger", "update", "old/nopath", "nopath", "--source", "/moved")
	if out, said := hob(deploy...); !strings.Contains(out, "/t/old/moved\n") || !strings.Contains(said, "the route is /moved\n") {
		t.Errorf("where the route was moved it says\n%s%s", out, said)
	}
	hob("trigger", "rm", "old/nopath", "nopath")
	hob("trigger", "create", "old/nopath", "other", "--source", "/nopath")
	if out, said := hob(deploy...); strings.Contains(out, " at ") || !strings.Contains(said, file+" names no path, and it gets no route: ") {
		t.Errorf("where the path is another's it says\n%s%s", out, said)
	}
}
