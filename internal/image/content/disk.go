package content

import (
	"os"
	"path/filepath"
)

// An Op names a change to the disk.
type Op string

const (
	OpMkdir   Op = "mkdir"
	OpCreate  Op = "create" // make or open for writing
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpRename  Op = "rename"
	OpSyncDir Op = "syncdir"
	OpRemove  Op = "remove"
)

// A Hook is asked before each change to the disk, and an error of it becomes
// the error of the change. Tests use it to fail the Nth operation, or all from
// the Nth on, as a crash does. The path is relative to the directory of the
// store. A nil Hook allows everything.
type Hook func(op Op, path string) error

// disk makes changes to the disk, each announced to the hook.
type disk struct {
	hook Hook
	dir  string
}

func (d disk) ask(op Op, path string) error {
	if d.hook == nil {
		return nil
	}
	rel, err := filepath.Rel(d.dir, path)
	if err != nil {
		rel = path
	}
	return d.hook(op, rel)
}

func (d disk) mkdirAll(path string) error {
	if err := d.ask(OpMkdir, path); err != nil {
		return err
	}
	return os.MkdirAll(path, 0o700)
}

func (d disk) openFile(path string, flag int) (*file, error) {
	if err := d.ask(OpCreate, path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return &file{disk: d, f: f}, nil
}

func (d disk) rename(from, to string) error {
	if err := d.ask(OpRename, to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (d disk) remove(path string) error {
	if err := d.ask(OpRemove, path); err != nil {
		return err
	}
	return os.Remove(path)
}

func (d disk) removeAll(path string) error {
	if err := d.ask(OpRemove, path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// syncDir makes the names in a directory survive a power cut.
func (d disk) syncDir(path string) error {
	if err := d.ask(OpSyncDir, path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// file is an open file whose changes are announced. A write that is refused
// leaves its first half on disk, as a crash may.
type file struct {
	disk disk
	f    *os.File
}

func (f *file) Write(p []byte) (int, error) {
	if err := f.disk.ask(OpWrite, f.f.Name()); err != nil {
		n, _ := f.f.Write(p[:len(p)/2])
		return n, err
	}
	return f.f.Write(p)
}

func (f *file) truncate(size int64) error {
	if err := f.disk.ask(OpWrite, f.f.Name()); err != nil {
		return err
	}
	if err := f.f.Truncate(size); err != nil {
		return err
	}
	_, err := f.f.Seek(size, 0)
	return err
}

func (f *file) sync() error {
	if err := f.disk.ask(OpSync, f.f.Name()); err != nil {
		return err
	}
	return f.f.Sync()
}

func (f *file) Close() error { return f.f.Close() }

// WriteFile replaces the file at path with data so that after a crash it holds
// either the old or the new bytes: write beside it, sync, rename, sync the
// directory. The hook may be nil; its paths are relative to the file's directory.
func WriteFile(path string, data []byte, hook Hook) error {
	d := disk{hook: hook, dir: filepath.Dir(path)}
	tmp := path + ".tmp"
	f, err := d.openFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC)
	if err != nil {
		return NoSpace(err, d.dir, int64(len(data)))
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return NoSpace(err, d.dir, int64(len(data)))
	}
	return d.syncDir(d.dir)
}
