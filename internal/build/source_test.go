package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hob/faas"
)

func TestPatternsOfFilesThatAreLeftAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), ".fnignore")
	if err := os.WriteFile(file, []byte("# logs\n*.log\n!keep.log\n\n/build\ntmp/\ndocs/*.md\n**/x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ig, err := ReadIgnore(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"a.log": true, "a/b.log": true, "keep.log": false, "a/keep.log": false, "build": true, "a/build": false,
		"tmp/": true, "tmp": false, "a/tmp/": true, "docs/a.md": true, "docs/b/a.md": false, "a.md": false, "a/x": true,
	} {
		plain := strings.TrimSuffix(name, "/")
		if got := ig.Match(plain, plain != name); got != want {
			t.Errorf("%s is left alone: %t", name, got)
		}
	}
	if err := os.WriteFile(file, []byte("[a\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadIgnore(file); faas.KindOf(err) != faas.Invalid {
		t.Errorf("a pattern that is none: %v", err)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("a\n", MaxIgnore+1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadIgnore(file); faas.KindOf(err) != faas.TooLarge {
		t.Errorf("too many patterns: %v", err)
	}
	if _, err := ReadIgnore(filepath.Dir(file)); faas.KindOf(err) != faas.Invalid {
		t.Errorf("a directory: %v", err)
	}
}

func TestDirectoryBecomesAFunction(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"func.sh": "#!/bin/sh\n", "notes.txt": "mine", "data/x": "x", ".git/HEAD": "ref", ".dockerignore": "notes.txt\n",
	} {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	_, err := FromSource(t.Context(), Source{
		Dir: dir, Runtime: "shell", Commands: []string{"echo made >made; echo building"}, Entrypoint: []string{"./func.sh", "-v"}, Out: &said,
		Base: "scratch",
	})
	if err == nil || !strings.Contains(err.Error(), "the script") {
		t.Errorf("a script without a shell: %v", err)
	}
	if said.String() != "building\n" {
		t.Errorf("the commands said %q", said.String())
	}
	_, err = FromSource(t.Context(), Source{Dir: dir, Runtime: "shell", Entrypoint: []string{"./made"}, Cmd: []string{"x"}, Out: &said})
	if err == nil || !strings.Contains(err.Error(), "neither an ELF program nor a script") {
		t.Errorf("a text is started: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "func.sh"), 0o644); err != nil {
		t.Fatal(err)
	}
	img, err := FromSource(t.Context(), Source{Dir: dir, Runtime: "data", Out: &said})
	if err != nil {
		t.Fatal(err)
	}
	tree := newTree()
	if err := tree.readImage(t.Context(), img, 100); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"/function/func.sh": true, "/function/data/x": true, "/function/made": true, "/function/notes.txt": false, "/function/.git/HEAD": false} {
		if n, _ := tree.resolve(name); (n != nil) != want {
			t.Errorf("%s is in the image: %t", name, n != nil)
		}
	}
	if cf, err := img.ConfigFile(); err != nil || cf.Config.WorkingDir != SourceDir {
		t.Errorf("the working directory is %q, %v", cf.Config.WorkingDir, err)
	}
	if _, err := FromSource(t.Context(), Source{Dir: dir, Runtime: "shell", Commands: []string{"exit 3"}, Out: &said}); faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), "sh -c exit 3 failed") {
		t.Errorf("a command that fails: %v", err)
	}
}
