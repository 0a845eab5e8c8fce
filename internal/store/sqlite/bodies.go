package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hob/faas"
	"hob/internal/store"
)

// bodies is the directory of the bodies that are files. A file is on the disk
// with its name before the row that names it is committed, and is removed after
// the removal of that row is committed: what a crash leaves is a file too many,
// never one too few. Open sweeps those.
type bodies struct {
	dir string
	// fail, if it is set, is asked before each operation: tests.
	fail func(operation string) error
}

// Operations on files, as fail knows them.
const (
	opKeep    = "keep" // sync, and rename
	opKept    = "kept" // after it
	opSyncDir = "sync directory"
	opRemove  = "remove"
)

func (b *bodies) try(operation string) error {
	if b.fail == nil {
		return nil
	}
	return b.fail(operation)
}

// open makes the directory if there is none.
func (b *bodies) open() error {
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		return os.Chmod(b.dir, 0o700)
	}
	return syncDir(filepath.Dir(b.dir))
}

// A placed is a body on its way into a row: bytes, or the name of a file.
type placed struct {
	size  int64
	bytes []byte
	file  string
}

// name is the column file.
func (p placed) name() any {
	if p.file == "" {
		return nil
	}
	return p.file
}

// keep makes what is in body durable as far as it is no row. A body that was kept
// before stays where it is: its row is tried once more.
func (b *bodies) keep(body *store.Body) (placed, error) {
	p := placed{size: body.Size()}
	if bytes, ok := body.Bytes(); ok {
		p.bytes = bytes
		return p, nil
	}
	name, kept := body.Kept()
	if !kept {
		if err := b.try(opKeep); err != nil {
			return p, err
		}
		name = filepath.Join(b.dir, faas.NewID())
		if err := body.Keep(name); err != nil {
			return p, err
		}
	}
	p.file = filepath.Base(name)
	err := b.try(opKept)
	if err == nil {
		err = b.try(opSyncDir)
	}
	if err == nil {
		err = syncDir(b.dir)
	}
	return p, err
}

// remove removes files; the next Open sweeps one that stays.
func (b *bodies) remove(files ...string) {
	for _, file := range files {
		if b.try(opRemove) == nil && file != "" {
			_ = os.Remove(filepath.Join(b.dir, file))
		}
	}
}

// abandon discards a body whose row was refused with err. Where it is not certain
// that the row will not come back after a crash, its file stays for the next Open
// to decide.
func (b *bodies) abandon(body *store.Body, err error) {
	if faas.KindOf(err) != faas.Internal {
		body.Discard()
	}
	body.Release()
}

// reader reads a body of so many bytes from the columns of its row.
func (b *bodies) reader(bytes []byte, file string, size int64) (store.Reader, error) {
	r := store.BytesReader(bytes)
	if file != "" {
		var err error
		if r, err = store.FileReader(filepath.Join(b.dir, file)); err != nil {
			return nil, err
		}
	}
	if r.Size() != size {
		_ = r.Close()
		return nil, fmt.Errorf("%w: a body %s has %d bytes, and had %d when it was kept", errDamaged, file, r.Size(), size)
	}
	return r, nil
}

// sweep removes the files that no row names.
func (s *Store) sweepBodies() error {
	names := make(map[string]bool)
	for _, table := range []string{"payload", "kept"} {
		if err := s.w.each("SELECT file FROM "+table+" WHERE file IS NOT NULL", func(r row) error {
			names[r.text(0)] = true
			return nil
		}); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(s.bodies.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !names[entry.Name()] {
			s.bodies.remove(entry.Name())
		}
	}
	return nil
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// NewBody implements store.Calls.
func (s *Store) NewBody() *store.Body { return store.NewBody(s.bodies.dir) }
