// Package content keeps blobs by digest on this node: ingest, verification,
// commit, leases, sweep.
//
// A blob is a file named by the SHA-256 of its bytes. It appears under its name
// complete, verified and synced to disk, or not at all: whatever is being
// written lives under tmp/ until then, and Open removes what a dead process
// left there, except the beginnings of blobs whose digest is known, which the
// next Resume continues.
//
// The package knows nothing of images, registries or who needs which blob:
// those who need one say so with a Lease, or to Sweep.
package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Store is a directory of blobs. Its methods may be called from many
// goroutines. Only one process may have a directory open.
type Store struct {
	dir  string
	disk disk

	mu      sync.Mutex         // guards leases and writers; held while a blob is removed, so that a lease and a removal cannot cross
	leases  map[string]int     // digest → number of leases
	writers map[string]*Writer // open writers by ID

	turns Turns // one ingest of a digest at a time
}

// PartialAge is how long the beginning of a blob is kept to be continued.
const PartialAge = 24 * time.Hour

// Open opens the store in dir, which is made if it is missing, and removes the
// temporaries of an earlier process.
func Open(dir string) (*Store, error) { return OpenHooked(dir, nil) }

// OpenHooked is Open with a hook that is asked before every change to the disk.
func OpenHooked(dir string, hook Hook) (*Store, error) {
	s := &Store{
		dir:     dir,
		disk:    disk{hook: hook, dir: dir},
		leases:  make(map[string]int),
		writers: make(map[string]*Writer),
	}
	for _, d := range []string{s.dir, s.blobs(), s.tmp()} {
		if err := s.disk.mkdirAll(d); err != nil {
			return nil, fmt.Errorf("open the content store: %w", err)
		}
	}
	return s, s.sweepTemporaries()
}

func (s *Store) blobs() string { return filepath.Join(s.dir, "blobs", "sha256") }
func (s *Store) tmp() string   { return filepath.Join(s.dir, "tmp") }

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

// sweepTemporaries removes what no process of now can be writing.
func (s *Store) sweepTemporaries() error {
	entries, err := os.ReadDir(s.tmp())
	if err != nil {
		return fmt.Errorf("sweep temporaries: %w", err)
	}
	for _, e := range entries {
		if hex, ok := strings.CutPrefix(e.Name(), partialPrefix); ok {
			info, err := e.Info()
			if err == nil && time.Since(info.ModTime()) < PartialAge && !s.Has("sha256:"+hex) {
				continue
			}
		}
		if err := s.disk.removeAll(filepath.Join(s.tmp(), e.Name())); err != nil {
			return fmt.Errorf("sweep temporaries: %w", err)
		}
	}
	return nil
}

// CheckDigest reports whether digest is one that the store can hold:
// "sha256:" and 64 lower-case hexadecimal digits.
func CheckDigest(digest string) error {
	h, err := v1.NewHash(digest)
	if err != nil || h.Algorithm != "sha256" {
		return &DigestError{Digest: digest}
	}
	return nil
}

// path returns the file of the blob with this digest.
func (s *Store) path(digest string) (string, error) {
	if err := CheckDigest(digest); err != nil {
		return "", err
	}
	return filepath.Join(s.blobs(), strings.TrimPrefix(digest, "sha256:")), nil
}

// Open opens a blob for reading and reports its size. The error of a blob that
// is not there is fs.ErrNotExist. The caller closes it; a blob that is removed
// meanwhile can still be read.
func (s *Store) Open(digest string) (io.ReadSeekCloser, int64, error) {
	p, err := s.path(digest)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, 0, missing(digest, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// Read returns a whole blob, checked against its digest. A blob of more than
// limit bytes is an error.
func (s *Store) Read(digest string, limit int64) ([]byte, error) {
	f, size, err := s.Open(digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("blob %s of %d bytes is over the limit of %d", digest, size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if got := Digest(data); got != digest {
		return nil, &MismatchError{Want: digest, Got: got}
	}
	return data, nil
}

// Stat returns the size of a blob. The error of a blob that is not there is
// fs.ErrNotExist.
func (s *Store) Stat(digest string) (int64, error) {
	p, err := s.path(digest)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(p)
	if err != nil {
		return 0, missing(digest, err)
	}
	return info.Size(), nil
}

// Has reports whether the blob is there.
func (s *Store) Has(digest string) bool {
	_, err := s.Stat(digest)
	return err == nil
}

// Touch makes the age of a blob zero, so that Sweep spares it for a while, and
// reports whether it is there: for those who tell a stranger that it is.
func (s *Store) Touch(digest string) bool {
	p, err := s.path(digest)
	if err != nil {
		return false
	}
	now := time.Now()
	return os.Chtimes(p, now, now) == nil
}

func missing(digest string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no blob %s: %w", digest, fs.ErrNotExist)
	}
	return err
}

// A Blob is one blob as List shows it.
type Blob struct {
	Digest   string
	Size     int64
	Modified time.Time // when it was committed
}

// List yields every blob, by digest. A blob that comes or goes meanwhile may be
// in the list or not.
func (s *Store) List() iter.Seq2[Blob, error] {
	return func(yield func(Blob, error) bool) {
		entries, err := os.ReadDir(s.blobs())
		if err != nil {
			yield(Blob{}, err)
			return
		}
		for _, e := range entries {
			digest := "sha256:" + e.Name()
			info, err := e.Info()
			if err != nil || CheckDigest(digest) != nil {
				continue // gone meanwhile, or not ours
			}
			if !yield(Blob{Digest: digest, Size: info.Size(), Modified: info.ModTime()}, nil) {
				return
			}
		}
	}
}

// Delete removes a blob. A leased one stays, with ErrLeased. A blob that is not
// there is no error.
func (s *Store) Delete(digest string) error {
	p, err := s.path(digest)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[digest] > 0 {
		return fmt.Errorf("remove blob %s: %w", digest, ErrLeased)
	}
	if err := s.disk.remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove blob %s: %w", digest, err)
	}
	return nil
}

// Sweep removes every blob that keep does not want, that nobody leases and that
// was committed more than age ago, every abandoned upload (no byte for age) and
// every beginning of a blob older than PartialAge. It returns the number of
// bytes freed, also with an error.
func (s *Store) Sweep(ctx context.Context, keep func(digest string) bool, age time.Duration) (int64, error) {
	var freed int64
	for b, err := range s.List() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return freed, fmt.Errorf("sweep the content store: %w", err)
		}
		if keep(b.Digest) || time.Since(b.Modified) < age {
			continue
		}
		switch err := s.Delete(b.Digest); {
		case err == nil:
			freed += b.Size
		case !errors.Is(err, ErrLeased):
			return freed, err
		}
	}
	for _, w := range s.idleWriters(age) {
		freed += w.Size()
		w.Abort()
	}
	n, err := s.sweepPartials()
	return freed + n, err
}

// sweepPartials removes the beginnings of blobs that nobody has continued for
// PartialAge and that nobody writes.
func (s *Store) sweepPartials() (int64, error) {
	entries, err := os.ReadDir(s.tmp())
	if err != nil {
		return 0, fmt.Errorf("sweep partial blobs: %w", err)
	}
	var freed int64
	for _, e := range entries {
		hex, ok := strings.CutPrefix(e.Name(), partialPrefix)
		info, err := e.Info()
		if !ok || err != nil || time.Since(info.ModTime()) < PartialAge {
			continue
		}
		if unlock, ok := s.turns.Try("sha256:" + hex); ok {
			err := s.disk.remove(filepath.Join(s.tmp(), e.Name()))
			unlock()
			if err != nil {
				return freed, fmt.Errorf("sweep partial blobs: %w", err)
			}
			freed += info.Size()
		}
	}
	return freed, nil
}
