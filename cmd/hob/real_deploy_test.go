package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hob/internal/testenv"
)

// The tests of this file write functions with hob init, test them with hob test,
// and bring them to a server, as docs/deploy.md says.

// fromInit makes a function of a runtime on a base, tests it in a process of its own
// and deploys it.
func (s *realServer) fromInit(runtime, base string) (dir string) {
	s.t.Helper()
	dir = filepath.Join(s.t.TempDir(), runtime)
	args := []string{"init", "--runtime", runtime, "--trigger", "http", "--memory", "256", dir}
	if base != "" {
		args = append(args, "--base", base)
	}
	s.run(nil, args...)
	if out := string(s.run(nil, "test", dir)); strings.Count(out, "ok  ") != 2 {
		s.t.Errorf("hob test of runtime %s says\n%s", runtime, out)
	}
	s.run(nil, "deploy", "--app", "made", "--create-app", dir)
	return dir
}

func TestFunctionOfEachRuntimeIsWrittenTestedAndDeployed(t *testing.T) {
	s := serve(t)
	busybox := busyboxRoot(t)
	for _, tool := range []string{"sh", "tar"} {
		if err := os.Symlink("busybox", filepath.Join(busybox, "bin", tool)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	s.run(nil, "image", "build", "-t", "busybox", busybox)

	dir := s.fromInit("go", "")
	s.says("{\"message\":\"Hello Ada\"}\n", `{"name":"Ada"}`, "made/go")
	if got := string(s.run([]byte(`{"name":"Bob"}`), "run", dir)); got != "{\"message\":\"Hello Bob\"}\n" {
		t.Errorf("hob run says %q", got)
	}
	resp, err := http.Post("http://"+s.addr+"/t/made/go", "application/json", strings.NewReader(`{"name":"Eve"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, _ := io.ReadAll(resp.Body); string(got) != "{\"message\":\"Hello Eve\"}\n" {
		t.Errorf("the trigger answers %s %q", resp.Status, got)
	}

	dir = s.fromInit("shell", "hob.local/busybox")
	s.says("Hello Ada\n", "Ada", "made/shell")
	program, err := os.ReadFile(filepath.Join(dir, "func.sh"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "func.sh"), []byte(strings.Replace(string(program), "Hello", "Goodbye", 1)), 0o755); err != nil {
		t.Fatal(err)
	}
	s.run(nil, "deploy", "--app", "made", "--no-bump", dir)
	s.says("Goodbye Ada\n", "Ada", "made/shell")

	// An image that writes the files of a function.
	if err := os.WriteFile(filepath.Join(busybox, "func.init.yaml"), []byte("runtime: shell\nentrypoint: ./func.sh\nformat: default\nrun_image: hob.local/busybox\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(busybox, "func.sh"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	s.run(nil, "image", "build", "-t", "boilerplate", "--workdir", "/", "--entrypoint", `["/bin/tar","-c","func.init.yaml","func.sh"]`, busybox)
	dir = filepath.Join(t.TempDir(), "mine")
	s.run(nil, "init", "--init-image", "hob.local/boilerplate", "--config", "LEVEL=3", dir)
	s.run(nil, "deploy", "--app", "made", dir)
	s.says("Hello Ada\n", "Ada", "made/mine")
	if out := string(s.run(nil, "ls")); strings.Contains(out, "init-") {
		t.Errorf("the init-image is left as a function:\n%s", out)
	}
}

// copies is a shell that copies a program and the libraries that it needs.
const copies = `set -euo pipefail
root=$1; shift
for file; do
	mkdir -p "$root$(dirname "$file")"
	cp -L "$file" "$root$file"
	{ ldd "$file" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -L "$library" "$root$library"
	done
done`

func TestNodeFunctionIsWrittenTestedAndDeployed(t *testing.T) {
	node := testenv.NeedTool(t, "node")
	s := serve(t)
	root := filepath.Join(t.TempDir(), "root")
	tool(t, "bash", "-c", copies, "copies", root, node)
	inPath(t, root, "node", node)
	s.run(nil, "image", "build", "-t", "node", root)
	s.fromInit("node", "hob.local/node")
	s.says("{\"message\":\"Hello Ada\"}\n", `{"name":"Ada"}`, "made/node")
	s.says("{\"message\":\"Hello World\"}\n", "", "made/node")
}

func TestPythonFunctionIsWrittenTestedAndDeployed(t *testing.T) {
	python := testenv.NeedTool(t, "python3")
	s := serve(t)
	root := filepath.Join(t.TempDir(), "root")
	said := string(tool(t, python, "-c", "import os, sys, sysconfig; print(os.path.realpath(sys.executable)); print(sysconfig.get_path('stdlib'))"))
	real, library, _ := strings.Cut(strings.TrimSpace(said), "\n")
	modules, err := filepath.Glob(library + "/lib-dynload/*.so")
	if err != nil {
		t.Fatal(err)
	}
	tool(t, append([]string{"bash", "-c", copies, "copies", root, real}, modules...)...)
	tool(t, "bash", "-c", `tar -C / -c --exclude=test --exclude=site-packages --exclude=dist-packages --exclude='config-*' --exclude=__pycache__ ".$2" | tar -C "$1" -x`, "library", root, library)
	inPath(t, root, "python3", real)
	s.run(nil, "image", "build", "-t", "python", root)
	s.fromInit("python", "hob.local/python")
	s.says("{\"message\":\"Hello Ada\"}\n", `{"name":"Ada"}`, "made/python")
	s.says("{\"message\":\"Hello World\"}\n", "", "made/python")
}

// inPath makes file, which is in root, be found under name.
func inPath(t *testing.T, root, name, file string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(root, "usr/bin", name)); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
}

func TestExampleOfAProjectIsDeployedWhole(t *testing.T) {
	s := serve(t)
	dir := filepath.Join(t.TempDir(), "project")
	if err := os.CopyFS(dir, os.DirFS("../../examples/project")); err != nil {
		t.Fatal(err)
	}
	for name, tests := range map[string]int{"hello": 1, "count": 2} {
		if out := string(s.run(nil, "test", filepath.Join(dir, name))); strings.Count(out, "ok  ") != tests {
			t.Errorf("hob test %s says\n%s", name, out)
		}
	}
	for _, version := range []string{"0.0.2", "0.0.3"} {
		if out := string(s.run(nil, "deploy", "--all", dir)); !strings.Contains(out, "greetings/hello "+version) {
			t.Errorf("hob deploy --all says\n%s", out)
		}
	}
	s.says("Good morning, Ada!\n", "Ada", "greetings/hello")
	s.says("call 1\n", "", "greetings/count") // format: http, and that's it
	s.says("call 2\n", "", "greetings/count")
	if got := string(s.run(nil, "inspect", "greetings/count", "--format", "{{.Format}} {{.IdleTimeout}}")); got != "http 1m0s\n" {
		t.Errorf("the function of version 1 has %s", got)
	}
}

func TestDockerfileIsBuiltAndPushed(t *testing.T) {
	testenv.NeedTool(t, "buildah")
	s := serve(t)
	dir := filepath.Join(t.TempDir(), "built")
	s.run(nil, "init", "--runtime", "go", dir)
	cmd := fmt.Sprintf("cd %s && CGO_ENABLED=0 go build -o func . && rm func.yaml", dir)
	tool(t, "bash", "-c", cmd)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nARG LEVEL=1\nENV LEVEL=$LEVEL\nCOPY func /func\nENTRYPOINT [\"/func\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("STORAGE_DRIVER", "vfs")
	s.run(nil, "init", dir)
	s.run(nil, "deploy", "--engine", "buildah", "--build-arg", "LEVEL=7", dir)
	defer tool(t, "buildah", "rmi", s.addr+"/built:0.0.2")
	s.says("{\"message\":\"Hello Ada\"}\n", `{"name":"Ada"}`, "built")
	if got := string(s.run(nil, "image", "inspect", "hob.local/built:0.0.2", "--format", "{{.Config.Env}}")); !strings.Contains(got, "LEVEL=7") {
		t.Errorf("the environment of the image is %s", got)
	}
}
