// Package layer unpacks layers of images into directories that overlayfs can
// stack, and keeps them by the digest of their uncompressed tar (the diffID).
//
// A layer comes from a stranger. Whatever its names and links say, nothing is
// written outside its directory; how large it may become is bounded by Limits;
// what it says of owners, modes, times, links and extended attributes is kept.
// Whiteouts become what overlayfs takes for them: a character device 0/0 in
// place of what is gone, the attribute trusted.overlay.opaque on a directory
// that hides those below.
//
// Which layers an image has, and who still needs them, is for others to know.
package layer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"hob/internal/image/content"
)

// Store is a directory of unpacked layers. Its methods may be called from many
// goroutines. Only one process may have a directory open. A layer is in it
// complete, verified and synced to disk, or not at all.
type Store struct {
	dir   string
	lim   Limits
	hook  content.Hook
	turns content.Turns // one unpacking of a layer at a time
}

// Info is what a store knows of a layer; it lies beside the files.
type Info struct {
	Size    int64    `json:"size"`             // bytes on disk, about
	Entries int      `json:"entries"`          // of the tar
	Notes   []string `json:"notes,omitempty"`  // what could not be kept as it was
	Owners  bool     `json:"owners,omitempty"` // owners and trusted attributes were kept
}

// Open opens the store in dir, which is made if it is missing, and removes the
// temporaries of an earlier process. Zero limits are the defaults.
func Open(dir string, lim Limits) (*Store, error) { return OpenHooked(dir, lim, nil) }

// OpenHooked is Open with a hook that is asked before changes to the disk: not
// before each file of a layer, but before a layer is begun, synced and renamed.
func OpenHooked(dir string, lim Limits, hook content.Hook) (*Store, error) {
	s := &Store{dir: dir, lim: lim, hook: hook}
	for _, d := range []string{s.dir, filepath.Join(s.dir, "sha256"), s.tmp()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open the layer store: %w", err)
		}
	}
	old, err := os.ReadDir(s.tmp())
	if err != nil {
		return nil, fmt.Errorf("open the layer store: %w", err)
	}
	for _, e := range old {
		if err := removeTree(filepath.Join(s.tmp(), e.Name())); err != nil {
			return nil, fmt.Errorf("remove a half unpacked layer: %w", err)
		}
	}
	return s, nil
}

func (s *Store) tmp() string { return filepath.Join(s.dir, "tmp") }

func (s *Store) home(diffID string) string {
	return filepath.Join(s.dir, "sha256", strings.TrimPrefix(diffID, "sha256:"))
}

// Dir returns the directory with the files of a layer, there or not. It fits
// into a list of lower directories of overlayfs.
func (s *Store) Dir(diffID string) string { return filepath.Join(s.home(diffID), "fs") }

// Has reports whether the layer is there as this process would unpack it.
func (s *Store) Has(diffID string) bool {
	_, err := s.Info(diffID)
	return err == nil
}

// Info returns what is known of a layer. The error of one that is not there is
// fs.ErrNotExist. A layer that was unpacked without the right to keep owners is
// not there for a process that has it.
func (s *Store) Info(diffID string) (Info, error) {
	if err := content.CheckDigest(diffID); err != nil {
		return Info{}, err
	}
	data, err := os.ReadFile(filepath.Join(s.home(diffID), "layer.json"))
	var info Info
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err == nil && !info.Owners && os.Geteuid() == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, fmt.Errorf("layer %s: %w", diffID, err)
	}
	return info, nil
}

// Unpack unpacks the layer that r holds as a tar, plain or compressed with gzip
// or zstd. Its uncompressed bytes must hash to diffID. When it returns nil the
// layer is there and survives a power cut; else nothing is. A layer that is
// there already is not read. The fault of a layer is a *BadError, a full disk a
// *content.SpaceError.
func (s *Store) Unpack(ctx context.Context, diffID string, r io.Reader) (Info, error) {
	if err := content.CheckDigest(diffID); err != nil {
		return Info{}, err
	}
	done, err := s.turns.Take(ctx, diffID)
	if err != nil {
		return Info{}, fmt.Errorf("unpack layer %s: %w", diffID, err)
	}
	defer done()
	if info, err := s.Info(diffID); err == nil {
		return info, nil
	}
	info, err := s.unpack(ctx, diffID, r)
	if err != nil {
		return Info{}, fmt.Errorf("unpack layer %s: %w", diffID, content.NoSpace(err, s.dir, -1))
	}
	return info, nil
}

// unpack is Unpack of a layer that is not there, with its turn taken.
func (s *Store) unpack(ctx context.Context, diffID string, r io.Reader) (info Info, err error) {
	if err := s.ask(content.OpMkdir, s.tmp()); err != nil {
		return Info{}, err
	}
	tmp, err := os.MkdirTemp(s.tmp(), "unpack-")
	if err != nil {
		return Info{}, err
	}
	defer func() {
		if err != nil {
			removeTree(tmp)
		}
	}()
	files := filepath.Join(tmp, "fs")
	if err := os.Mkdir(files, 0o755); err != nil {
		return Info{}, err
	}
	res, err := Unpack(ctx, r, files, s.lim)
	if err != nil {
		return Info{}, err
	}
	if res.DiffID != diffID {
		return Info{}, &BadError{Reason: fmt.Sprintf("digest mismatch: its uncompressed bytes hash to %s", res.DiffID)}
	}
	if err := s.ask(content.OpWrite, tmp); err != nil {
		return Info{}, err
	}
	data, err := json.Marshal(res.Info)
	if err != nil {
		return Info{}, err
	}
	if err := os.WriteFile(filepath.Join(tmp, "layer.json"), data, 0o600); err != nil {
		return Info{}, err
	}
	if err := s.publish(tmp, s.home(diffID)); err != nil {
		return Info{}, err
	}
	return res.Info, nil
}

// publish syncs all that was unpacked in one go and gives it its name.
func (s *Store) publish(tmp, home string) error {
	if err := s.ask(content.OpSync, tmp); err != nil {
		return err
	}
	d, err := os.Open(tmp)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(d.Fd()))
	d.Close()
	if err != nil {
		return fmt.Errorf("sync the file system: %w", err)
	}
	if _, err := os.Lstat(home); err == nil { // what Has does not count
		if err := s.bury(home); err != nil {
			return err
		}
	}
	if err := s.ask(content.OpRename, home); err != nil {
		return err
	}
	if err := os.Rename(tmp, home); err != nil {
		return err
	}
	return s.syncDir(filepath.Dir(home))
}

// Delete removes a layer unless busy, which is asked when nobody can be
// unpacking the layer any more, says that somebody needs it. One that is not
// there is no error.
func (s *Store) Delete(ctx context.Context, diffID string, busy func() bool) error {
	if err := content.CheckDigest(diffID); err != nil {
		return err
	}
	done, err := s.turns.Take(ctx, diffID)
	if err == nil {
		if !busy() {
			err = s.bury(s.home(diffID))
		}
		done()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove layer %s: %w", diffID, err)
	}
	return nil
}

// bury takes away the name at once, so that a crash leaves no half layer, and
// then the files.
func (s *Store) bury(home string) error {
	if err := s.ask(content.OpRemove, home); err != nil {
		return err
	}
	grave, err := os.MkdirTemp(s.tmp(), "remove-")
	if err != nil {
		return err
	}
	if err := os.Rename(home, filepath.Join(grave, "layer")); err != nil {
		os.Remove(grave)
		return err
	}
	return removeTree(grave)
}

// List returns the diffIDs of all layers that are there.
func (s *Store) List() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "sha256"))
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		if id := "sha256:" + e.Name(); content.CheckDigest(id) == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *Store) ask(op content.Op, path string) error {
	if s.hook == nil {
		return nil
	}
	rel, err := filepath.Rel(s.dir, path)
	if err != nil {
		rel = path
	}
	return s.hook(op, rel)
}

func (s *Store) syncDir(dir string) error {
	if err := s.ask(content.OpSyncDir, dir); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// removeTree is os.RemoveAll, also for a tree with directories that their owner
// may not write, when that owner is not root.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || os.Geteuid() == 0 {
		return err
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
