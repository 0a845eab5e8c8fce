package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"hob/faas"
)

// InMemory is how much of a Body is held in memory, and in a row of the
// database. What is larger is a file.
const InMemory = 1 << 20

// A Body is bytes on their way into a store: in memory up to InMemory, above it
// in a file that no name leads to until the store takes it. Whoever made it calls
// Discard, unless the Body was handed to Accept or Settle.
type Body struct {
	dir  string // for the file; "": it stays in memory, whatever its size
	mem  []byte
	file *os.File
	kept string // name of the file, after Keep
	size int64
}

// NewBody returns an empty Body whose file will be in dir; with an empty dir it
// stays in memory.
func NewBody(dir string) *Body { return &Body{dir: dir} }

// Write implements io.Writer.
func (b *Body) Write(p []byte) (int, error) {
	if b.size+int64(len(p)) > InMemory {
		if err := b.Spill(); err != nil {
			return 0, err
		}
	}
	if b.file == nil {
		b.mem = append(b.mem, p...)
		b.size += int64(len(p))
		return len(p), nil
	}
	n, err := b.file.Write(p)
	b.size += int64(n)
	if err != nil {
		err = notKept(err)
	}
	return n, err
}

// Spill makes a Body a file, whatever its size, for whoever shall not hold much in
// memory; it does nothing if it is one, or can be none.
func (b *Body) Spill() error {
	if b.file != nil || b.dir == "" {
		return nil
	}
	f, err := os.CreateTemp(b.dir, "new-*")
	if err != nil {
		return notKept(err)
	}
	b.file = f
	if _, err := f.Write(b.mem); err != nil {
		return notKept(err)
	}
	b.mem = nil
	return nil
}

// notKept is why a Body takes no more: Busy, if there is no room on the disk.
func notKept(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return faas.Errorf(faas.Busy, "keep a body: the disk is full: %w", err)
	}
	return fmt.Errorf("keep a body: %w", err)
}

// Size returns how many bytes were written; 0 for a nil Body.
func (b *Body) Size() int64 {
	if b == nil {
		return 0
	}
	return b.size
}

// Bytes returns the whole of a Body that is in memory, and false for one that is
// a file. The bytes are the Body's own.
func (b *Body) Bytes() ([]byte, bool) {
	if b == nil {
		return nil, true
	}
	return b.mem, b.file == nil && b.kept == ""
}

// Reader reads what was written so far, from the beginning. It is good until
// the Body is discarded or handed on.
func (b *Body) Reader() io.Reader {
	if mem, ok := b.Bytes(); ok {
		return bytes.NewReader(mem)
	}
	return io.NewSectionReader(b.file, 0, b.size)
}

// Begin is the beginning of a Body, as an event shows it.
func (b *Body) Begin() string {
	head := make([]byte, faas.ShortBytes)
	n, _ := io.ReadFull(b.Reader(), head)
	return faas.Short(head[:n])
}

// Keep gives the file of a Body, once all of it is on the disk, a name for good,
// which Kept tells from then on. It is for engines. After an error the Body is as
// it was.
func (b *Body) Keep(name string) error {
	if err := b.file.Sync(); err != nil {
		return notKept(err)
	}
	if err := os.Rename(b.file.Name(), name); err != nil {
		return notKept(err)
	}
	_ = b.file.Close() // it is synced
	b.file, b.kept = nil, name
	return nil
}

// Kept returns the name that Keep has given.
func (b *Body) Kept() (name string, ok bool) {
	if b == nil {
		return "", false
	}
	return b.kept, b.kept != ""
}

// Release leaves the file of a Body that was kept to whoever has its name: the Body
// is empty from then on. It is for engines.
func (b *Body) Release() {
	if b != nil && b.file == nil {
		b.kept, b.mem, b.size = "", nil, 0
	}
}

// Discard removes what a Body holds. Called again, or for a nil Body, it does
// nothing.
func (b *Body) Discard() {
	switch {
	case b == nil:
		return
	case b.file != nil:
		_ = os.Remove(b.file.Name()) // what is left is swept at the next start
		_ = b.file.Close()
	case b.kept != "":
		_ = os.Remove(b.kept)
	}
	b.file, b.kept, b.mem, b.size = nil, "", nil, 0
}

// Reader reads a body that a store keeps.
type Reader interface {
	io.ReadCloser
	Size() int64
}

// BytesReader is a Reader of b.
func BytesReader(b []byte) Reader { return memory{bytes.NewReader(b), int64(len(b))} }

type memory struct {
	io.Reader
	size int64
}

func (m memory) Size() int64  { return m.size }
func (m memory) Close() error { return nil }

// FileReader is a Reader of the file name.
func FileReader(name string) (Reader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file{f, info.Size()}, nil
}

type file struct {
	*os.File
	size int64
}

func (f file) Size() int64 { return f.size }
