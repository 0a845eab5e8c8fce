package main

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lambdaZip is the zip file of a function with a runtime of its own, as AWS's own
// tools make it: the program, and a file that it reads.
func lambdaZip(t *testing.T, greeting string) []byte {
	t.Helper()
	program := filepath.Join(t.TempDir(), "bootstrap")
	tool(t, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-o", program, "testdata/lambda/bootstrap.go")
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, content := range map[string][]byte{"bootstrap": data, "data/greeting": []byte(greeting)} {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(0o755)
		out, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestZipOfLambdaIsImportedAndCalled(t *testing.T) {
	s := serve(t)
	s.run(nil, "app", "create", "shop")
	file := filepath.Join(t.TempDir(), "hello.zip")
	if err := os.WriteFile(file, lambdaZip(t, "hi"), 0o644); err != nil {
		t.Fatal(err)
	}
	made := string(s.run(nil, "lambda", "import", "shop/hello", file, "--handler", "main", "-e", "LEVEL=3", "--memory", "64m"))
	if !strings.HasPrefix(made, "shop/hello is created") {
		t.Errorf("hob lambda import says %q", made)
	}
	s.says(`{"args":1,"calls":1,"event":{"a":1},"greeting":"hi","handler":"main","level":"3"}`, `{"a":1}`, "shop/hello")
	s.says(`{"args":1,"calls":2,"event":{"a":2},"greeting":"hi","handler":"main","level":"3"}`, `{"a":2}`, "shop/hello")

	// Again, from a stream, on a base: the bootstrap is started, whatever the base starts.
	s.run(nil, "image", "build", "-t", "base", busyboxRoot(t))
	s.run(lambdaZip(t, "hello"), "lambda", "import", "shop/hello", "-", "--base", "hob.local/base", "--handler", "other", "--update")
	s.says(`{"args":1,"calls":1,"event":null,"greeting":"hello","handler":"other","level":"3"}`, "null", "shop/hello")

	// The same program as a container image of Lambda.
	dir := filepath.Join(t.TempDir(), "image")
	files, err := zip.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if err := os.CopyFS(filepath.Join(dir, "var/task"), files); err != nil {
		t.Fatal(err)
	}
	s.run(nil, "image", "build", "-t", "hello", "--entrypoint", "/var/task/bootstrap", "--cmd", "app.handler", dir)
	s.run(nil, "create", "--name", "image", "--format", "lambda", "hob.local/hello")
	s.says(`{"args":2,"calls":1,"event":[],"greeting":"hi","handler":"app.handler","level":""}`, "[]", "image")
}
