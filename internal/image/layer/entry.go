package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func (u *unpacker) directory(parent *os.File, at string, h *tar.Header) error {
	hide := false
	if _, ok := u.dirs[at]; !ok {
		// Something else that this layer had here hides what is below it, and
		// so must the directory that takes its place.
		was, err := u.clear(parent, at)
		if err != nil {
			return err
		}
		hide = was
		if err := u.mkdir(parent, at); err != nil {
			return err
		}
	}
	d, err := u.open(at)
	if err != nil {
		return err
	}
	if hide {
		if err := u.opaque(d, at); err != nil {
			return err
		}
	}
	return u.directoryMeta(d, at, h)
}

func (u *unpacker) directoryMeta(d *os.File, at string, h *tar.Header) error {
	u.dirs[at] = &dirMeta{set: true, mode: mode(h), mtime: h.ModTime}
	if u.chown {
		if err := unix.Fchown(int(d.Fd()), h.Uid, h.Gid); err != nil {
			return fmt.Errorf("set the owner: %w", err)
		}
	}
	return u.attributes(d, h)
}

// finish gives directories the modes and times that unpacking into them would
// have changed: the deepest first, because a mode may close the way.
func (u *unpacker) finish() error {
	for _, at := range slices.Backward(slices.Sorted(maps.Keys(u.dirs))) {
		m := u.dirs[at]
		if !m.set {
			m = &dirMeta{mode: 0o755, mtime: time.Unix(0, 0)}
		}
		if at == "." {
			if err := unix.Fchmod(int(u.root.Fd()), m.mode); err != nil {
				return fmt.Errorf("set the mode of the root: %w", err)
			}
			return os.Chtimes(u.dir, clamp(m.mtime), clamp(m.mtime))
		}
		d, err := u.open(path.Dir(at))
		if err != nil {
			return err
		}
		if err := unix.Fchmodat(int(d.Fd()), path.Base(at), m.mode, 0); err != nil {
			return fmt.Errorf("set the mode of %s: %w", at, err)
		}
		if err := times(d, path.Base(at), m.mtime); err != nil {
			return fmt.Errorf("set the time of %s: %w", at, err)
		}
	}
	return nil
}

func (u *unpacker) file(src *meter, parent *os.File, at string, h *tar.Header, r io.Reader) error {
	if u.bytes += h.Size; u.bytes > u.lim.Bytes || h.Size < 0 {
		return bad("its %d bytes take the layer over the limit of %d", h.Size, u.lim.Bytes)
	}
	if _, err := u.clear(parent, at); err != nil {
		return err
	}
	fd, err := unix.Openat(int(parent.Fd()), path.Base(at), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), at)
	defer f.Close()
	if err := u.copy(src, f, r, h.Size); err != nil {
		return err
	}
	if u.chown {
		if err := f.Chown(h.Uid, h.Gid); err != nil {
			return fmt.Errorf("set the owner: %w", err)
		}
	}
	// After the owner: a change of it takes away set-user-ID and capabilities.
	if err := unix.Fchmod(fd, mode(h)); err != nil {
		return fmt.Errorf("set the mode: %w", err)
	}
	if err := u.attributes(f, h); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := times(parent, path.Base(at), h.ModTime); err != nil {
		return fmt.Errorf("set the time: %w", err)
	}
	return nil
}

// copy writes size bytes of r and leaves holes where they are zero.
func (u *unpacker) copy(src *meter, f *os.File, r io.Reader, size int64) error {
	var written, hole int64
	for left := size; left > 0; {
		n, err := io.ReadFull(r, u.buf[:min(left, int64(len(u.buf)))])
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return src.fault(err)
		}
		if src.ctx.Err() != nil {
			return context.Cause(src.ctx)
		}
		left -= int64(n)
		if n >= 4096 && zero(u.buf[:n]) {
			hole += int64(n)
			continue
		}
		if hole > 0 {
			if _, err := f.Seek(hole, io.SeekCurrent); err != nil {
				return err
			}
			hole = 0
		}
		if _, err := f.Write(u.buf[:n]); err != nil {
			return err
		}
		written += int64(n)
	}
	if hole > 0 {
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	u.info.Size += (written + 4095) &^ 4095
	return nil
}

func zero(p []byte) bool {
	for len(p) >= 8 {
		if p[0]|p[1]|p[2]|p[3]|p[4]|p[5]|p[6]|p[7] != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

func (u *unpacker) symlink(parent *os.File, at string, h *tar.Header) error {
	switch {
	case h.Linkname == "":
		return bad("a symbolic link without a target")
	case strings.ContainsRune(h.Linkname, 0):
		return bad("the target of the link holds a zero byte")
	case len(h.Linkname) > MaxPath:
		return bad("the target of the link has %d bytes: over the limit of %d", len(h.Linkname), MaxPath)
	}
	if _, err := u.clear(parent, at); err != nil {
		return err
	}
	base := path.Base(at)
	if err := unix.Symlinkat(h.Linkname, int(parent.Fd()), base); err != nil {
		return err
	}
	return u.ownAndTime(parent, base, h)
}

// link makes a hard link to an entry that this layer already has.
func (u *unpacker) link(parent *os.File, at string, h *tar.Header) error {
	target, err := cleanName(h.Linkname)
	if err != nil {
		return bad("hard link to %q: %v", short(h.Linkname), err)
	}
	if target == "." {
		return bad("a hard link to the root")
	}
	// The cache of open directories holds one, and a link needs two.
	dup, err := dupDir(parent)
	if err != nil {
		return err
	}
	defer dup.Close()
	dir, targetAt, err := u.parent(target, false)
	if err != nil {
		return bad("hard link to %q: %v", short(h.Linkname), err)
	}
	targetAt = path.Join(targetAt, path.Base(target))
	st, err := lstat(dir, path.Base(target))
	switch {
	case errors.Is(err, unix.ENOENT):
		return bad("hard link to %q, which is not in this layer before it", short(h.Linkname))
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return bad("hard link to the directory %q", short(h.Linkname))
	case isWhiteout(st):
		return bad("hard link to %q, which this layer removes", short(h.Linkname))
	case targetAt == at:
		return bad("a hard link to itself")
	}
	if strings.HasPrefix(targetAt, at+"/") {
		return bad("a hard link in place of a directory to a file in it")
	}
	if _, err := u.clear(dup, at); err != nil {
		return err
	}
	if dir, err = u.open(path.Dir(targetAt)); err != nil {
		return err
	}
	return unix.Linkat(int(dir.Fd()), path.Base(targetAt), int(dup.Fd()), path.Base(at), 0)
}

func (u *unpacker) fifo(parent *os.File, at string, h *tar.Header) error {
	if _, err := u.clear(parent, at); err != nil {
		return err
	}
	base := path.Base(at)
	if err := unix.Mknodat(int(parent.Fd()), base, unix.S_IFIFO|0o600, 0); err != nil {
		return err
	}
	if err := u.ownAndTime(parent, base, h); err != nil {
		return err
	}
	if err := unix.Fchmodat(int(parent.Fd()), base, mode(h), 0); err != nil {
		return fmt.Errorf("set the mode: %w", err)
	}
	return nil
}

// ownAndTime sets owner and time of what is not opened.
func (u *unpacker) ownAndTime(parent *os.File, base string, h *tar.Header) error {
	if u.chown {
		if err := unix.Fchownat(int(parent.Fd()), base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set the owner: %w", err)
		}
	}
	if err := times(parent, base, h.ModTime); err != nil {
		return fmt.Errorf("set the time: %w", err)
	}
	return nil
}

// whiteout hides what layers below have under name. What this layer itself has
// there stays: a whiteout speaks of the layers below only.
func (u *unpacker) whiteout(parent *os.File, dir, name string) error {
	if name == "" || name == "." || name == ".." {
		return bad("a whiteout of %q", name)
	}
	st, err := lstat(parent, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		if err := unix.Mknodat(int(parent.Fd()), name, unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("make a whiteout: %w", err)
		}
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		at := path.Join(dir, name)
		d, err := u.open(at)
		if err != nil {
			return err
		}
		return u.opaque(d, at)
	}
	return nil
}

// opaque makes a directory hide those of the layers below.
func (u *unpacker) opaque(d *os.File, at string) error {
	err := unix.Fsetxattr(int(d.Fd()), opaqueAttr, []byte("y"), 0)
	if errors.Is(err, unix.EPERM) && !u.chown {
		u.note("directory %s is not opaque: only root can make it so", short(at))
		return nil
	}
	if err != nil {
		return fmt.Errorf("make a directory opaque: %w", err)
	}
	return nil
}

// attributes sets the extended attributes of a file or directory.
func (u *unpacker) attributes(f *os.File, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		if attr != "security.capability" && !strings.HasPrefix(attr, "user.") {
			u.note("%s: attribute %s left out", short(h.Name), short(attr))
			continue
		}
		switch err := unix.Fsetxattr(int(f.Fd()), attr, []byte(value), 0); {
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM) && !u.chown:
			u.note("%s: attribute %s left out: %v", short(h.Name), short(attr), err)
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.E2BIG):
			return bad("bad attribute %s: %v", short(attr), err)
		case err != nil:
			return fmt.Errorf("set attribute %s: %w", attr, err)
		}
	}
	return nil
}

// mode returns the permission bits of an entry, set-user-ID, set-group-ID and
// sticky included.
func mode(h *tar.Header) uint32 { return uint32(h.Mode) & 0o7777 }

// times sets the time of a name in a directory. A time that a file system
// cannot hold becomes the nearest it can.
func times(dir *os.File, name string, t time.Time) error {
	ts, err := unix.TimeToTimespec(clamp(t))
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(dir.Fd()), name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func clamp(t time.Time) time.Time {
	if t.Unix() < 0 || t.Unix() > 1<<34-1 {
		return time.Unix(min(max(t.Unix(), 0), 1<<34-1), 0)
	}
	return t
}
