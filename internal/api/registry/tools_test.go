package registry_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"hob/internal/build"
	"hob/internal/testenv"
)

// run runs a tool and returns what it printed.
func run(t *testing.T, tool string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// policy is a policy file that lets skopeo copy anything.
func policy(t *testing.T) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(f, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSkopeoPushesWhatUmociMade(t *testing.T) {
	testenv.NeedRoot(t) // umoci writes owners
	umoci, skopeo := testenv.NeedTool(t, "umoci"), testenv.NeedTool(t, "skopeo")
	n := newNode(t)
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "etc", "motd"), []byte("made by umoci\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, umoci, "init", "--layout", dir+"/oci")
	run(t, umoci, "new", "--image", dir+"/oci:1")
	run(t, umoci, "insert", "--image", dir+"/oci:1", tree, "/")
	run(t, umoci, "config", "--image", dir+"/oci:1", "--config.cmd", "/bin/none", "--architecture", runtime.GOARCH)

	to := "docker://" + n.host + "/made/by-umoci:1"
	run(t, skopeo, "--policy", policy(t), "copy", "--dest-tls-verify=false", "oci:"+dir+"/oci:1", to)
	img, err := n.images.Get("hob.local/made/by-umoci:1")
	if err != nil {
		t.Fatal(err)
	}
	fs, err := n.images.RootFS(t.Context(), img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Release()
	found := false
	for _, l := range fs.Layers {
		data, err := os.ReadFile(filepath.Join(l, "etc", "motd"))
		found = found || err == nil && string(data) == "made by umoci\n"
	}
	if !found {
		t.Errorf("the file is in none of %v", fs.Layers)
	}

	// As schema 2 of Docker, and back out again.
	run(t, skopeo, "--policy", policy(t), "copy", "--format", "v2s2", "--dest-tls-verify=false", "oci:"+dir+"/oci:1", "docker://"+n.host+"/made/v2s2:1")
	if _, err := n.images.Get("hob.local/made/v2s2:1"); err != nil {
		t.Error(err)
	}
	run(t, skopeo, "--policy", policy(t), "copy", "--src-tls-verify=false", to, "oci:"+dir+"/back:1")
	if out := run(t, skopeo, "list-tags", "--tls-verify=false", "docker://"+n.host+"/made/by-umoci"); !strings.Contains(out, `"1"`) {
		t.Errorf("list-tags printed %s", out)
	}
	if out := run(t, skopeo, "inspect", "--tls-verify=false", to); !strings.Contains(out, img.Digest) {
		t.Errorf("inspect printed %s", out)
	}
	fs.Release()
	run(t, skopeo, "delete", "--tls-verify=false", to)
	if _, err := n.images.Get("hob.local/made/by-umoci:1"); err == nil {
		t.Error("skopeo delete left the image")
	}
}

func TestSkopeoPushesWhatWeBuilt(t *testing.T) {
	skopeo := testenv.NeedTool(t, "skopeo")
	n := newNode(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tree", "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	img, err := build.FromDir(t.Context(), build.Options{Dir: filepath.Join(dir, "tree")})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "img.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := build.WriteTar(f, "hob.local/built:1", img); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for i, from := range []string{"oci-archive:" + f.Name(), "docker-archive:" + f.Name()} {
		to := n.host + "/built:" + string(rune('1'+i))
		run(t, skopeo, "--policy", policy(t), "copy", "--dest-tls-verify=false", from, "docker://"+to)
		got, err := n.images.Get("hob.local/built:" + string(rune('1'+i)))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && got.Digest != digest(t, img) {
			t.Errorf("it came as %s, built was %s", got.Digest, digest(t, img))
		}
	}
	if err := n.images.Remove(t.Context(), "hob.local/built:1"); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	loaded, err := n.images.Load(t.Context(), in, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded) != 1 || loaded[0].Digest != digest(t, img) {
		t.Errorf("loaded %+v", loaded)
	}
	if _, err := n.images.Get("hob.local/built:1"); err != nil {
		t.Error(err)
	}
}

func TestDockerPushesWhatWeBuilt(t *testing.T) {
	testenv.NeedFeature(t, testenv.Docker)
	docker := testenv.NeedTool(t, "docker")
	n := newNode(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tree", "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	to := n.host + "/from/docker:1" // 127.0.0.1, which Docker speaks plain HTTP to
	img, err := build.FromDir(t.Context(), build.Options{Dir: filepath.Join(dir, "tree"), Cmd: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "img.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := build.WriteTar(f, to, img); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	run(t, docker, "load", "--input", f.Name())
	run(t, docker, "push", to)
	if _, err := n.images.Get("hob.local/from/docker:1"); err != nil {
		t.Fatal(err)
	}
	run(t, docker, "rmi", "--force", to)
	run(t, docker, "pull", to)
}
