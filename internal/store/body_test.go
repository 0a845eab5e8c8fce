package store_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"hob/internal/store"
	"hob/internal/testenv"
)

// bytesOf is size bytes that differ.
func bytesOf(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

// written is a Body of these bytes, written in two pieces.
func written(t *testing.T, dir string, content []byte) *store.Body {
	t.Helper()
	b := store.NewBody(dir)
	for _, p := range [][]byte{content[:len(content)/3], content[len(content)/3:]} {
		if n, err := b.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write of %d bytes = %d, %v", len(p), n, err)
		}
	}
	return b
}

// wantFiles wants so many files in dir.
func wantFiles(t *testing.T, dir string, want int) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != want {
		t.Errorf("%d files in the directory, want %d", len(files), want)
	}
}

func TestBodyIsAFileAboveItsLimit(t *testing.T) {
	for _, c := range []struct{ size, files int }{
		{0, 0}, {1, 0}, {store.InMemory, 0}, {store.InMemory + 1, 1}, {3*store.InMemory + 5, 1},
	} {
		dir, content := t.TempDir(), bytesOf(c.size)
		b := written(t, dir, content)
		wantFiles(t, dir, c.files)
		if b.Size() != int64(c.size) {
			t.Errorf("Size = %d, want %d", b.Size(), c.size)
		}
		if mem, ok := b.Bytes(); ok != (c.files == 0) || ok && !bytes.Equal(mem, content) {
			t.Errorf("Bytes of %d = %d bytes, in memory %t; want them in memory up to the limit", c.size, len(mem), ok)
		}
		for range 2 { // each reads it from the beginning
			if got, err := io.ReadAll(b.Reader()); !bytes.Equal(got, content) || err != nil {
				t.Errorf("read %d other bytes, %v; want the %d that were written", len(got), err, c.size)
			}
		}
		b.Discard()
		wantFiles(t, dir, 0)
	}
}

func TestBodyGrowsWhileItIsRead(t *testing.T) {
	b := written(t, t.TempDir(), bytesOf(store.InMemory-1))
	defer b.Discard()
	early := b.Reader()
	if _, err := b.Write([]byte("and more")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(early); len(got) != store.InMemory-1 || err != nil {
		t.Errorf("a reader made before reads %d bytes, %v; want what was written until then", len(got), err)
	}
	if got, err := io.ReadAll(b.Reader()); !bytes.HasSuffix(got, []byte("and more")) || len(got) != store.InMemory+7 || err != nil {
		t.Errorf("a reader made after reads %d bytes, %v; want all", len(got), err)
	}
}

func TestBodyIsAFileOnceThatIsWanted(t *testing.T) {
	for _, size := range []int{0, 10} {
		dir := t.TempDir()
		b := written(t, dir, bytesOf(size))
		for range 2 { // once is enough
			if err := b.Spill(); err != nil {
				t.Fatal(err)
			}
			wantFiles(t, dir, 1)
		}
		if _, err := b.Write([]byte("and more")); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(b.Reader()); string(got) != string(bytesOf(size))+"and more" || b.Size() != int64(size)+8 || err != nil {
			t.Errorf("read %q, %v; want what was written before and after", got, err)
		}
		if _, ok := b.Bytes(); ok {
			t.Error("it is in memory")
		}
		b.Discard()
		wantFiles(t, dir, 0)
	}
	if err := store.NewBody("").Spill(); err != nil {
		t.Errorf("Spill of what stays in memory = %v", err)
	}
	if err := store.NewBody(filepath.Join(t.TempDir(), "missing")).Spill(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Spill to a missing directory = %v", err)
	}
}

func TestBodyWithoutADirectoryStaysInMemory(t *testing.T) {
	content := bytesOf(2*store.InMemory + 1)
	b := written(t, "", content)
	if mem, ok := b.Bytes(); !ok || !bytes.Equal(mem, content) {
		t.Errorf("Bytes = %d bytes, in memory %t; want all of them", len(mem), ok)
	}
	b.Discard()
}

func TestNoBodyIsEmpty(t *testing.T) {
	var b *store.Body
	mem, ok := b.Bytes()
	got, err := io.ReadAll(b.Reader())
	if b.Size() != 0 || len(mem) > 0 || !ok || len(got) > 0 || err != nil {
		t.Errorf("a nil Body has %d, %d and %d bytes, %v; want it empty", b.Size(), len(mem), len(got), err)
	}
	b.Discard()
}

func TestDiscardedBodyLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	b := written(t, dir, bytesOf(store.InMemory+1))
	for range 2 {
		b.Discard()
		wantFiles(t, dir, 0)
		if b.Size() != 0 {
			t.Errorf("Size = %d, want 0", b.Size())
		}
	}
}

func TestKeptBodyHasAName(t *testing.T) {
	dir, content := t.TempDir(), bytesOf(store.InMemory+1)
	b := written(t, dir, content)
	name := filepath.Join(dir, "kept")
	if err := b.Keep(name); err != nil {
		t.Fatal(err)
	}
	if kept, ok := b.Kept(); kept != name || !ok || b.Size() != int64(len(content)) {
		t.Errorf("Kept = %q, %v, of %d bytes", kept, ok, b.Size())
	}
	b.Release()
	b.Discard() // nothing is left to discard
	wantFiles(t, dir, 1)
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has the mode %v, %v; want it for the owner alone", info.Mode(), err)
	}
	r, err := store.FileReader(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); !bytes.Equal(got, content) || r.Size() != int64(len(content)) || err != nil {
		t.Errorf("read %d other bytes of %d, %v", len(got), r.Size(), err)
	}
}

func TestKeptBodyThatNobodyTakesIsDiscarded(t *testing.T) {
	dir := t.TempDir()
	b := written(t, dir, bytesOf(store.InMemory+1))
	if err := b.Keep(filepath.Join(dir, "kept")); err != nil {
		t.Fatal(err)
	}
	b.Discard()
	wantFiles(t, dir, 0)
}

func TestMissingDirectoryIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	b := store.NewBody(dir)
	if _, err := b.Write(bytesOf(store.InMemory)); err != nil {
		t.Fatalf("Write of what stays in memory = %v", err)
	}
	if n, err := b.Write([]byte("x")); n != 0 || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Write = %d, %v; want an error that the directory is missing", n, err)
	}
	b.Discard()

	b = written(t, t.TempDir(), bytesOf(store.InMemory+1))
	if err := b.Keep(filepath.Join(dir, "kept")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Keep in a missing directory = %v, want an error", err)
	}
	b.Discard()
	if _, err := store.FileReader(filepath.Join(dir, "kept")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("FileReader of a missing file = %v, want an error", err)
	}
}

func TestFullDirectoryIsAnError(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	for _, first := range []int{1, store.InMemory, 3 * store.InMemory / 2} { // it fails in the first write to the file, or in a later one
		b := written(t, dir, bytesOf(first))
		var err error
		for range 3 {
			if _, err = b.Write(bytesOf(store.InMemory)); err != nil {
				break
			}
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Write to a full directory = %v, want that no space is left", err)
		}
		b.Discard()
		wantFiles(t, dir, 0)
	}
	b := written(t, dir, bytesOf(store.InMemory+1)) // there is room again
	if err := b.Keep(filepath.Join(dir, "kept")); err != nil {
		t.Error(err)
	}
}
