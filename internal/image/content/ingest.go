package content

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Digest returns the digest of data.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func digestOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

const (
	partialPrefix = "partial-"
	uploadPrefix  = "upload-"
)

// Ingest is the writing of one blob whose digest is known.
//
//	writing ──Commit──▶ committed
//	   │ ▲
//	 Close Resume        what was written is kept, to be continued
//	   ▼ │
//	 partial ──wrong digest, or PartialAge──▶ gone
//
// It belongs to one goroutine. Others who want the same blob wait in Resume
// until it is closed.
type Ingest struct {
	store  *Store
	digest string
	want   int64 // size; -1: unknown
	file   *file // nil once committed or closed
	hash   hash.Hash
	offset int64
	full   bool // the disk was, and what was written is only in the way
	unlock func()
}

// Resume begins to write the blob, or continues where an earlier attempt, of
// this process or a dead one, was cut off: the next byte to write is the one at
// Offset. It waits while somebody else writes the same blob. If the blob is
// there, it returns nil and no error. The caller closes what it gets.
func (s *Store) Resume(ctx context.Context, digest string, size int64) (*Ingest, error) {
	if err := CheckDigest(digest); err != nil {
		return nil, err
	}
	unlock, err := s.turns.Take(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("ingest %s: %w", digest, err)
	}
	if s.Has(digest) {
		unlock()
		return nil, nil
	}
	name := filepath.Join(s.tmp(), partialPrefix+strings.TrimPrefix(digest, "sha256:"))
	f, err := s.disk.openFile(name, os.O_CREATE|os.O_RDWR)
	if err != nil {
		unlock()
		return nil, fmt.Errorf("ingest %s: %w", digest, NoSpace(err, s.dir, size))
	}
	in := &Ingest{store: s, digest: digest, want: size, file: f, hash: sha256.New(), unlock: unlock}
	in.offset, err = io.Copy(in.hash, f.f)
	if err == nil && size >= 0 && in.offset > size {
		err = in.Restart()
	}
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("ingest %s: %w", digest, err)
	}
	return in, nil
}

// Offset is the number of bytes that need not be written again.
func (in *Ingest) Offset() int64 { return in.offset }

// Restart throws away what has been written.
func (in *Ingest) Restart() error {
	in.hash.Reset()
	in.offset = 0
	return in.file.truncate(0)
}

// Write appends to the blob. A byte beyond the announced size is a SizeError.
func (in *Ingest) Write(p []byte) (int, error) {
	if in.want >= 0 && in.offset+int64(len(p)) > in.want {
		return 0, &SizeError{Digest: in.digest, Want: in.want, Got: in.offset + int64(len(p))}
	}
	n, err := in.file.Write(p)
	in.hash.Write(p[:n])
	in.offset += int64(n)
	if err != nil {
		need := int64(-1)
		if in.want >= 0 {
			need = in.want - in.offset
		}
		err = NoSpace(err, in.store.dir, need)
		_, in.full = errors.AsType[*SpaceError](err)
		return n, err
	}
	return n, nil
}

// Commit verifies what was written and makes it visible. When it returns nil
// the blob survives a power cut. Bytes that do not hash to the digest are
// thrown away, with a MismatchError; too few are kept, with a SizeError.
func (in *Ingest) Commit() error {
	if in.want >= 0 && in.offset < in.want {
		return &SizeError{Digest: in.digest, Want: in.want, Got: in.offset}
	}
	if got := digestOf(in.hash); got != in.digest {
		return errors.Join(&MismatchError{Want: in.digest, Got: got}, in.Restart())
	}
	err := in.store.commit(in.file, in.digest)
	if err != nil {
		return fmt.Errorf("commit %s: %w", in.digest, err)
	}
	return nil
}

// Close ends the ingest. What was written without being committed stays for the
// next Resume, unless the disk is full. It may be called again.
func (in *Ingest) Close() error {
	if in.file == nil {
		return nil
	}
	err := in.file.Close()
	in.file = nil
	if in.offset == 0 || in.full {
		os.Remove(filepath.Join(in.store.tmp(), partialPrefix+strings.TrimPrefix(in.digest, "sha256:")))
	}
	in.unlock()
	return err
}

// commit gives a complete temporary its name.
func (s *Store) commit(f *file, digest string) error {
	to, err := s.path(digest)
	if err != nil {
		return err
	}
	if err := f.sync(); err != nil {
		return NoSpace(err, s.dir, -1)
	}
	if err := s.disk.rename(f.f.Name(), to); err != nil {
		return NoSpace(err, s.dir, -1)
	}
	return s.disk.syncDir(filepath.Dir(to))
}

// Ingest stores the blob that r holds from its first byte. Size is checked too
// unless it is -1. A blob that is there already is not read. When it returns nil
// the blob survives a power cut; else nothing is visible.
func (s *Store) Ingest(ctx context.Context, digest string, size int64, r io.Reader) error {
	in, err := s.Resume(ctx, digest, size)
	if in == nil || err != nil {
		return err
	}
	defer in.Close()
	if in.offset > 0 {
		if err := in.Restart(); err != nil {
			return fmt.Errorf("ingest %s: %w", digest, err)
		}
	}
	if _, err := io.Copy(in, contextReader{ctx, r}); err != nil {
		return fmt.Errorf("ingest %s: %w", digest, err)
	}
	return in.Commit()
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// Writer takes a blob whose digest is known only at its end. It stays open
// between the requests of an upload, which find it by its ID; after a crash it
// is gone. Its methods may be called from many goroutines.
type Writer struct {
	id    string
	store *Store
	path  string

	mu   sync.Mutex // guards what follows
	file *file      // nil once committed or aborted
	hash hash.Hash
	size int64
	last time.Time // of the last byte
}

// ErrClosed is the error of a Writer that was committed or aborted.
var ErrClosed = errors.New("the upload is over")

// Writer opens a Writer. The caller commits or aborts it.
func (s *Store) Writer(ctx context.Context) (*Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	id := strings.ToLower(rand.Text())
	p := filepath.Join(s.tmp(), uploadPrefix+id)
	f, err := s.disk.openFile(p, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("begin an upload: %w", NoSpace(err, s.dir, -1))
	}
	w := &Writer{id: id, store: s, path: p, file: f, hash: sha256.New(), last: time.Now()}
	s.mu.Lock()
	s.writers[id] = w
	s.mu.Unlock()
	return w, nil
}

// Upload returns the open Writer with this ID.
func (s *Store) Upload(id string) (*Writer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.writers[id]
	return w, ok
}

// idleWriters returns the writers that have not taken a byte for age.
func (s *Store) idleWriters(age time.Duration) []*Writer {
	s.mu.Lock()
	all := make([]*Writer, 0, len(s.writers))
	for _, w := range s.writers {
		all = append(all, w)
	}
	s.mu.Unlock()
	var idle []*Writer
	for _, w := range all {
		w.mu.Lock()
		if time.Since(w.last) >= age {
			idle = append(idle, w)
		}
		w.mu.Unlock()
	}
	return idle
}

// ID names the upload; it cannot be guessed.
func (w *Writer) ID() string { return w.id }

// Size is the number of bytes written.
func (w *Writer) Size() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size
}

// Digest is the digest of the bytes written so far.
func (w *Writer) Digest() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return digestOf(w.hash)
}

// Write appends to the blob.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return 0, ErrClosed
	}
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	w.last = time.Now()
	return n, NoSpace(err, w.store.dir, -1)
}

// Commit makes the blob visible under its digest, which must be expect unless
// that is empty; else the answer is a MismatchError. Either way the Writer is
// closed. When it returns nil the blob survives a power cut.
func (w *Writer) Commit(expect string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return ErrClosed
	}
	defer w.close()
	got := digestOf(w.hash)
	if expect != "" && got != expect {
		if err := CheckDigest(expect); err != nil {
			return err
		}
		return &MismatchError{Want: expect, Got: got}
	}
	if err := w.store.commit(w.file, got); err != nil {
		return fmt.Errorf("commit %s: %w", got, err)
	}
	return nil
}

// Abort throws away what was written. After Commit it does nothing.
func (w *Writer) Abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil {
		w.close()
	}
}

// close removes the temporary, if Commit has not renamed it. Precondition: w.mu
// is held and w.file is not nil.
func (w *Writer) close() {
	w.file.Close()
	w.file = nil
	w.store.disk.remove(w.path)
	w.store.mu.Lock()
	delete(w.store.writers, w.id)
	w.store.mu.Unlock()
}
