package content_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"hob/internal/image/content"
)

func open(t *testing.T, dir string, hook content.Hook) *content.Store {
	t.Helper()
	s, err := content.OpenHooked(dir, hook)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// holds checks that a blob is there and is what its digest says.
func holds(t *testing.T, s *content.Store, digest string, want []byte) {
	t.Helper()
	got, err := s.Read(digest, 1<<20)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("blob %s is %q, %v; want %q", digest, got, err, want)
	}
}

// temporaries returns the names under tmp.
func temporaries(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestIngestedBlobIsThereAfterReopening(t *testing.T) {
	dir, data := t.TempDir(), []byte("hello")
	digest := content.Digest(data)
	s := open(t, dir, nil)
	if err := s.Ingest(t.Context(), digest, 5, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if left := temporaries(t, dir); len(left) > 0 {
		t.Errorf("temporaries %v are left", left)
	}
	s = open(t, dir, nil)
	holds(t, s, digest, data)
	if size, err := s.Stat(digest); size != 5 || err != nil {
		t.Errorf("size %d, %v", size, err)
	}
	info, err := os.Stat(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:")))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestBlobThatIsThereIsNotRead(t *testing.T) {
	s, data := open(t, t.TempDir(), nil), []byte("x")
	digest := content.Digest(data)
	if err := s.Ingest(t.Context(), digest, -1, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := s.Ingest(t.Context(), digest, 1, iotest.ErrReader(errors.New("read"))); err != nil {
		t.Errorf("second ingest: %v", err)
	}
}

func TestWrongBlobIsRefused(t *testing.T) {
	data := []byte("hello")
	digest := content.Digest(data)
	cases := map[string]struct {
		digest string
		size   int64
		data   string
		want   any
	}{
		"other bytes":      {digest, 5, "hellp", new(*content.MismatchError)},
		"other, size open": {digest, -1, "other", new(*content.MismatchError)},
		"too short":        {digest, 5, "hell", new(*content.SizeError)},
		"too long":         {digest, 5, "hello!", new(*content.SizeError)},
		"no digest":        {"latest", 5, "hello", new(*content.DigestError)},
		"sha512":           {"sha512:" + strings.Repeat("a", 128), 5, "hello", new(*content.DigestError)},
		"a path":           {"sha256:../../../etc/passwd", 5, "hello", new(*content.DigestError)},
		"upper case":       {strings.ToUpper(digest[7:]), 5, "hello", new(*content.DigestError)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), nil)
			err := s.Ingest(t.Context(), c.digest, c.size, strings.NewReader(c.data))
			if !errors.As(err, c.want) {
				t.Errorf("error %v, want a %T", err, c.want)
			}
			if s.Has(digest) {
				t.Error("the blob is visible")
			}
		})
	}
}

func TestCutOffBlobIsContinuedAfterRestart(t *testing.T) {
	dir, data := t.TempDir(), []byte("hello world")
	digest := content.Digest(data)
	s := open(t, dir, nil)
	in, err := s.Resume(t.Context(), digest, 11)
	if err != nil {
		t.Fatal(err)
	}
	in.Write(data[:4])
	if err := in.Commit(); err == nil {
		t.Error("half a blob was committed")
	}
	in.Close()

	s = open(t, dir, nil)
	if in, err = s.Resume(t.Context(), digest, 11); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if in.Offset() != 4 {
		t.Fatalf("offset %d, want 4", in.Offset())
	}
	in.Write(data[4:])
	if err := in.Commit(); err != nil {
		t.Fatal(err)
	}
	holds(t, s, digest, data)
}

func TestDamagedBeginningIsThrownAway(t *testing.T) {
	s, data := open(t, t.TempDir(), nil), []byte("hello world")
	digest := content.Digest(data)
	in, err := s.Resume(t.Context(), digest, 11)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	in.Write([]byte("jello"))
	in.Write(data[5:])
	if _, ok := errors.AsType[*content.MismatchError](in.Commit()); !ok {
		t.Fatal("no mismatch")
	}
	if in.Offset() != 0 {
		t.Errorf("offset %d after a mismatch, want 0", in.Offset())
	}
	in.Write(data)
	if err := in.Commit(); err != nil {
		t.Errorf("second attempt: %v", err)
	}
}

func TestOldBeginningsAndUploadsAreSweptAtOpen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	w, err := s.Writer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("lost"))
	for i, data := range []string{"old", "new"} {
		in, err := s.Resume(t.Context(), content.Digest([]byte(data)), 3)
		if err != nil {
			t.Fatal(err)
		}
		in.Write([]byte(data[:1]))
		in.Close()
		if i == 0 {
			old := time.Now().Add(-content.PartialAge - time.Hour)
			os.Chtimes(filepath.Join(dir, "tmp", temporaries(t, dir)[0]), old, old)
		}
	}
	open(t, dir, nil)
	want := "partial-" + content.Digest([]byte("new"))[7:]
	if left := temporaries(t, dir); len(left) != 1 || left[0] != want {
		t.Errorf("left %v, want %s", left, want)
	}
}

func TestSecondIngestOfABlobWaitsForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, data := open(t, t.TempDir(), nil), []byte("hello")
		digest := content.Digest(data)
		first, err := s.Resume(t.Context(), digest, 5)
		if err != nil {
			t.Fatal(err)
		}
		second := make(chan error)
		go func() { second <- s.Ingest(t.Context(), digest, 5, iotest.ErrReader(errors.New("read"))) }()
		synctest.Wait()
		first.Write(data)
		if err := first.Commit(); err != nil {
			t.Fatal(err)
		}
		first.Close()
		if err := <-second; err != nil {
			t.Errorf("second ingest: %v", err)
		}
		third, err := s.Resume(t.Context(), content.Digest([]byte("b")), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer third.Close()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
		defer cancel()
		if _, err := s.Resume(ctx, content.Digest([]byte("b")), 1); err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("a wait that is given up answers %v", err)
		}
	})
}

func TestUploadIsFoundByItsIDUntilItIsOver(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	w, err := s.Writer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("he"))
	again, ok := s.Upload(w.ID())
	if !ok || again.Size() != 2 {
		t.Fatalf("upload %v, %v", again, ok)
	}
	again.Write([]byte("llo"))
	digest := content.Digest([]byte("hello"))
	if again.Digest() != digest {
		t.Errorf("digest %s", again.Digest())
	}
	if err := again.Commit(digest); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Upload(w.ID()); ok {
		t.Error("the upload is still there")
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, content.ErrClosed) {
		t.Errorf("write after commit: %v", err)
	}
	holds(t, s, digest, []byte("hello"))

	w, _ = s.Writer(t.Context())
	w.Write([]byte("x"))
	if _, ok := errors.AsType[*content.MismatchError](w.Commit(digest)); !ok {
		t.Error("an upload with another digest was committed")
	}
	w, _ = s.Writer(t.Context())
	w.Abort()
	w.Abort()
	if left := temporaries(t, dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestLeasedAndYoungBlobsAreNotSwept(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	put := func(data string, age time.Duration) string {
		d := content.Digest([]byte(data))
		if err := s.Ingest(t.Context(), d, -1, strings.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		os.Chtimes(filepath.Join(s.Dir(), "blobs", "sha256", d[7:]), at, at)
		return d
	}
	leased, kept, young, old := put("leased", 2*time.Hour), put("kept", 2*time.Hour), put("young", 0), put("old", 2*time.Hour)
	touched := put("touched", 2*time.Hour)
	if !s.Touch(touched) || s.Touch(content.Digest([]byte("none"))) {
		t.Error("Touch is wrong about what is there")
	}
	lease := s.Lease()
	lease.Add(leased)
	lease.Add(leased)
	freed, err := s.Sweep(t.Context(), func(d string) bool { return d == kept }, time.Hour)
	if err != nil || freed != 3 {
		t.Errorf("freed %d, %v; want 3", freed, err)
	}
	for d, want := range map[string]bool{leased: true, kept: true, young: true, touched: true, old: false} {
		if s.Has(d) != want {
			t.Errorf("blob %s there: %v, want %v", d, !want, want)
		}
	}
	if err := s.Delete(leased); !errors.Is(err, content.ErrLeased) {
		t.Errorf("delete of a leased blob: %v", err)
	}
	lease.Release()
	lease.Release()
	lease.Add(leased)
	if err := s.Delete(leased); err != nil || s.Has(leased) {
		t.Errorf("delete after release: %v", err)
	}
	if _, _, err := s.Open(leased); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of a blob that is gone: %v", err)
	}
}

func TestAbandonedUploadIsSwept(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	w, err := s.Writer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("left"))
	if freed, err := s.Sweep(t.Context(), nil, 0); freed != 4 || err != nil {
		t.Errorf("freed %d, %v", freed, err)
	}
	if left := temporaries(t, dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestFullDiskSaysWhereAndHowMuch(t *testing.T) {
	dir, data := t.TempDir(), bytes.Repeat([]byte("x"), 100)
	full := func(op content.Op, _ string) error {
		if op == content.OpWrite {
			return fmt.Errorf("write: %w", syscall.ENOSPC)
		}
		return nil
	}
	s := open(t, dir, full)
	err := s.Ingest(t.Context(), content.Digest(data), 100, bytes.NewReader(data))
	e, ok := errors.AsType[*content.SpaceError](err)
	if !ok || e.Need != 50 || !strings.Contains(err.Error(), dir) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v, want a SpaceError for %s and 50 bytes", err, dir)
	}
	if left := temporaries(t, dir); len(left) > 0 {
		t.Errorf("left %v on a full disk", left)
	}
}

var errCrash = errors.New("power cut")

// crashAt returns a hook that lets n operations pass and refuses all after, as
// if the machine had lost its power; passed reports whether it came to that.
func crashAt(n int) (hook content.Hook, crashed func() bool) {
	var count int
	return func(content.Op, string) error {
		if count++; count > n {
			return errCrash
		}
		return nil
	}, func() bool { return count > n }
}

// TestCrashLeavesWholeBlobsOrNone ends the life of the store at each operation
// in turn. After reopening, a blob whose ingest returned nil is there, every
// blob that is there is whole, and trying again succeeds.
func TestCrashLeavesWholeBlobsOrNone(t *testing.T) {
	a, b := []byte("first blob"), []byte("second blob")
	for n := 0; ; n++ {
		if n > 100 {
			t.Fatal("the scenario never ends")
		}
		dir := t.TempDir()
		hook, crashed := crashAt(n)
		promised := make(map[string][]byte)
		if s, err := content.OpenHooked(dir, hook); err == nil {
			if s.Ingest(t.Context(), content.Digest(a), int64(len(a)), bytes.NewReader(a)) == nil {
				promised[content.Digest(a)] = a
			}
			if w, err := s.Writer(t.Context()); err == nil {
				_, werr := w.Write(b)
				if w.Commit(content.Digest(b)) == nil && werr == nil {
					promised[content.Digest(b)] = b
				}
			}
		}
		s := open(t, dir, nil)
		for d, data := range promised {
			holds(t, s, d, data)
		}
		for blob, err := range s.List() {
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Read(blob.Digest, 1<<20); err != nil {
				t.Errorf("crash at operation %d: %v", n, err)
			}
		}
		for _, data := range [][]byte{a, b} {
			if err := s.Ingest(t.Context(), content.Digest(data), int64(len(data)), bytes.NewReader(data)); err != nil {
				t.Errorf("crash at operation %d, then again: %v", n, err)
			}
		}
		if !crashed() {
			break
		}
	}
}

// TestNameComesAfterTheBytesAreSynced watches the order that makes a commit
// survive a power cut.
func TestNameComesAfterTheBytesAreSynced(t *testing.T) {
	var ops []string
	s := open(t, t.TempDir(), func(op content.Op, _ string) error {
		ops = append(ops, string(op))
		return nil
	})
	ops = nil
	if err := s.Ingest(t.Context(), content.Digest([]byte("x")), 1, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(ops, " "), "create write sync rename syncdir"; got != want {
		t.Errorf("operations %q, want %q", got, want)
	}
}

func TestFileIsReplacedAsAWholeOrNotAtAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	if err := content.WriteFile(path, []byte("old"), nil); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		hook, crashed := crashAt(n)
		err := content.WriteFile(path, []byte("new"), hook)
		got, rerr := os.ReadFile(path)
		if rerr != nil || string(got) != "new" && (err == nil || string(got) != "old") {
			t.Fatalf("crash at operation %d: %q, %v, %v", n, got, err, rerr)
		}
		if !crashed() {
			break
		}
		os.WriteFile(path, []byte("old"), 0o600)
	}
}

func TestCanceledIngestKeepsItsBeginning(t *testing.T) {
	s, data := open(t, t.TempDir(), nil), bytes.Repeat([]byte("y"), 100_000)
	digest := content.Digest(data)
	ctx, cancel := context.WithCancel(t.Context())
	r := io.MultiReader(bytes.NewReader(data[:50_000]), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }), bytes.NewReader(data[50_000:]))
	if err := s.Ingest(ctx, digest, int64(len(data)), r); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want canceled", err)
	}
	in, err := s.Resume(t.Context(), digest, int64(len(data)))
	if err != nil || in.Offset() != 50_000 {
		t.Fatalf("offset %d, %v", in.Offset(), err)
	}
	in.Close()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
