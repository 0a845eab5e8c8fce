package layer_test

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hob/internal/image/layer"
)

// FuzzUnpack feeds anything to Unpack. It must not panic, must write nothing
// outside the directory, and what it makes must be what a layer may have.
func FuzzUnpack(f *testing.F) {
	xattr := file("x", "x")
	xattr.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
	for _, entries := range [][]entry{
		{dir("d/"), file("d/f", "hello"), hardlink("d/g", "d/f"), symlink("l", "d/f")},
		{file("../evil", "x")},
		{file("/etc/passwd", "x")},
		{symlink("l", "../.."), file("l/evil", "x")},
		{symlink("l", "/"), file("l/f", "x"), hardlink("m", "l/f")},
		{symlink("a", "b"), symlink("b", "a"), file("a/f", "x")},
		{file(".wh.x", ""), dir("x/"), file("x/.wh..wh..opq", ""), file(".wh..", "")},
		{dir("d/"), symlink("d", ".."), file("d/evil", "")},
		{hardlink("l", "../../etc/passwd")},
		{entry{Header: tar.Header{Name: "dev", Typeflag: tar.TypeChar}}, entry{Header: tar.Header{Name: "p", Typeflag: tar.TypeFifo}}},
		{xattr, file(strings.Repeat("long/", 30)+"f", "x")},
	} {
		f.Add(pack(f, entries...))
	}
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cage := t.TempDir()
		root := filepath.Join(cage, "a", "b")
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := layer.Unpack(t.Context(), bytes.NewReader(data), root, layer.Limits{Bytes: 1 << 20, Entries: 200, Free: 1 << 20})
		for dir, only := range map[string]string{cage: "a", filepath.Join(cage, "a"): "b"} {
			entries, rerr := os.ReadDir(dir)
			if rerr != nil || len(entries) != 1 || entries[0].Name() != only {
				t.Fatalf("something was written outside the layer: %v, %v", entries, rerr)
			}
		}
		filepath.WalkDir(root, func(path string, d fs.DirEntry, werr error) error {
			if werr != nil {
				return nil
			}
			if d.Type()&fs.ModeDevice != 0 && d.Type()&fs.ModeCharDevice == 0 {
				t.Errorf("a block device %s came out", path)
			}
			if err == nil && d.Type()&fs.ModeCharDevice != 0 && !isWhiteoutFile(d) {
				t.Errorf("a device %s came out that is no whiteout", path)
			}
			return nil
		})
	})
}
