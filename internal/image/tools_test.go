package image_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/internal/image"
	"hob/internal/testenv"
)

// sh runs a program and fails the test if it fails.
func sh(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestEveryCompressionOfSkopeoIsPulled asks a real program for layers in each
// compression that registries hold.
func TestEveryCompressionOfSkopeoIsPulled(t *testing.T) {
	skopeo := testenv.NeedTool(t, "skopeo")
	reg := serve(t)
	src := reg.push(t, "app:v1", build(t, v1.Config{Cmd: []string{"/x"}}, files(t, file("f", strings.Repeat("text ", 1000)))))
	plain := "dir:" + t.TempDir()
	sh(t, skopeo, "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-decompress", "docker://"+src, plain)
	for _, format := range []string{"gzip", "zstd"} {
		dst := serve(t).host + "/app:" + format
		sh(t, skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", "--format=oci", "--dest-compress-format="+format, plain, "docker://"+dst)
		s := open(t)
		got, err := s.Pull(t.Context(), dst, image.PullOptions{})
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if !strings.HasSuffix(got.Layers[0].MediaType, format) || read(t, s, got.Digest, "f") != strings.Repeat("text ", 1000) {
			t.Errorf("%s: layers %+v", format, got.Layers)
		}
	}
}

// TestUnpackedLayersAreWhatTheirMakerHad makes an image of two layers with
// umoci, out of a tree with all that a layer can have, and compares the tree
// with an overlay of what we unpacked.
func TestUnpackedLayersAreWhatTheirMakerHad(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay)
	umoci := testenv.NeedTool(t, "umoci")
	work := t.TempDir()
	oci, bundle := filepath.Join(work, "oci"), filepath.Join(work, "bundle")
	tree := filepath.Join(bundle, "rootfs")
	sh(t, umoci, "init", "--layout", oci)
	sh(t, umoci, "new", "--image", oci+":a")
	sh(t, umoci, "unpack", "--image", oci+":a", bundle)
	sh(t, "/bin/sh", "-ec", `cd "$1"
		mkdir -p dir/sub gone opaque bin closed "$(printf 'l%.0s' $(seq 200))"
		echo one > dir/one; ln dir/one dir/hard; ln -s ../dir/one bin/link; ln -s /etc/passwd bin/abs
		echo su > bin/su; chown 12:34 bin/su; chmod 6755 bin/su; touch -d 2001-02-03T04:05:06Z bin/su
		echo gone > gone/file; echo old > opaque/old; echo x > closed/x; chmod 1510 closed; chown 70000 closed
		mkfifo pipe; truncate -s 10M sparse; printf end >> sparse; echo dot > .hidden; echo was > was-file; mkdir was-dir; echo x > was-dir/x`, "sh", tree)
	if err := syscall.Setxattr(filepath.Join(tree, "dir/one"), "user.note", []byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	sh(t, umoci, "repack", "--image", oci+":b", bundle)
	os.RemoveAll(bundle)
	sh(t, umoci, "unpack", "--image", oci+":b", bundle)
	sh(t, "/bin/sh", "-ec", `cd "$1"
		rm -r gone dir/hard opaque was-file was-dir; mkdir opaque was-file; echo new > opaque/new; echo file > was-dir; echo y > was-file/y; chmod 600 bin/su
		touch -d 2005-06-07T08:09:10Z opaque/new was-dir was-file/y`, "sh", tree)
	sh(t, umoci, "repack", "--image", oci+":c", bundle)
	sh(t, umoci, "rm", "--image", oci+":a")
	sh(t, umoci, "rm", "--image", oci+":b")

	s := open(t)
	images, err := s.LoadPath(t.Context(), oci, "tree")
	if err != nil || len(images) != 1 || len(images[0].Layers) != 2 {
		t.Fatalf("loaded %+v, %v", images, err)
	}
	root, err := s.RootFS(t.Context(), images[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Release()
	mnt := t.TempDir()
	if err := syscall.Mount("overlay", mnt, "overlay", syscall.MS_RDONLY, "lowerdir="+strings.Join(root.Layers, ":")); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(mnt, 0)
	want, got := describe(t, tree), describe(t, mnt)
	for name, line := range want {
		if got[name] != line {
			t.Errorf("%s is\n\t%s, want\n\t%s", name, got[name], line)
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s is there and should not be", name)
		}
	}
	if len(want) < 15 {
		t.Errorf("only %d files were compared", len(want))
	}
}

// describe returns what can be seen of every file of a tree.
func describe(t *testing.T, tree string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			note := make([]byte, 64)
			n, _ := syscall.Getxattr(path, "user.note", note)
			line += fmt.Sprintf(" %d links, %v, %d bytes %.20q, note %q", st.Nlink, info.ModTime().UTC().Truncate(time.Second), len(data), strings.Trim(string(data), "\x00"), note[:max(n, 0)])
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " to " + to
		}
		rel, _ := filepath.Rel(tree, path)
		if rel != "." {
			out[rel] = line
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
