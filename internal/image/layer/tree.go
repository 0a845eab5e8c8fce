package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// parent opens the directory that name is in and returns its path without
// links. With create, directories that are missing are made. What it returns is
// good until the next call.
func (u *unpacker) parent(name string, create bool) (*os.File, string, error) {
	dir := path.Dir(name)
	at := dir
	if _, ok := u.dirs[dir]; !ok {
		var err error
		if at, err = u.resolve(dir, create); err != nil {
			return nil, "", err
		}
	}
	f, err := u.open(at)
	return f, at, err
}

// open opens a directory by its path without links.
func (u *unpacker) open(at string) (*os.File, error) {
	if at == "." {
		return u.root, nil
	}
	if u.last != nil && u.lastPath == at {
		return u.last, nil
	}
	f := u.root
	for part := range strings.SplitSeq(at, "/") {
		fd, err := unix.Openat(int(f.Fd()), part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if f != u.root {
			f.Close()
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: at, Err: err}
		}
		f = os.NewFile(uintptr(fd), at)
	}
	u.close()
	u.last, u.lastPath = f, at
	return f, nil
}

// forget drops what is known of a directory that is removed, and of all in it.
func (u *unpacker) forget(at string) {
	maps.DeleteFunc(u.dirs, func(d string, _ *dirMeta) bool {
		return d == at || strings.HasPrefix(d, at+"/")
	})
	if u.last != nil {
		u.last.Close()
		u.last = nil
	}
}

// resolve follows the symbolic links in the directory dir, as the kernel would
// if the layer were the root, except that it refuses to climb above it.
func (u *unpacker) resolve(dir string, create bool) (string, error) {
	at, rest, hops := ".", dir, 0
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			if at == "." {
				return "", bad("a symbolic link on its way climbs out of the layer")
			}
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		if _, ok := u.dirs[next]; ok {
			at = next
			continue
		}
		d, err := u.open(at)
		if err != nil {
			return "", err
		}
		st, err := lstat(d, part)
		switch {
		case errors.Is(err, unix.ENOENT) && create:
			if err := u.mkdir(d, next); err != nil {
				return "", err
			}
		case errors.Is(err, unix.ENOENT):
			return "", bad("%q is not in this layer", next)
		case err != nil:
			return "", err
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			if hops++; hops > maxHops {
				return "", bad("more than %d symbolic links on its way", maxHops)
			}
			target, err := readlink(d, part)
			if err != nil {
				return "", err
			}
			if strings.HasPrefix(target, "/") {
				at = "."
			}
			rest = target + "/" + rest
			continue
		case isWhiteout(st) && create:
			if err := u.remove(d, next, st); err != nil {
				return "", err
			}
			if err := u.mkdir(d, next); err != nil {
				return "", err
			}
			if d, err = u.open(next); err != nil {
				return "", err
			}
			if err := u.opaque(d, next); err != nil {
				return "", err
			}
		default:
			return "", &BadError{Reason: fmt.Sprintf("%q is not a directory", next), notDir: true}
		}
		at = next
	}
	return at, nil
}

// mkdir makes a directory that no entry has described yet.
func (u *unpacker) mkdir(parent *os.File, at string) error {
	if len(u.dirs) > u.lim.Entries {
		return bad("the layer is over the limit of %d directories", u.lim.Entries)
	}
	if u.paths += len(at); u.paths > maxPaths {
		return bad("the names of the layer's directories are over the limit of %d bytes", maxPaths)
	}
	if err := unix.Mkdirat(int(parent.Fd()), path.Base(at), 0o700); err != nil {
		return err
	}
	u.dirs[at] = &dirMeta{}
	u.info.Size += 4096
	return nil
}

// remove removes whatever is at a path.
func (u *unpacker) remove(parent *os.File, at string, st unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.Unlinkat(int(parent.Fd()), path.Base(at), 0)
	}
	root, err := os.OpenRoot(u.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u.forget(at)
	return root.RemoveAll(at)
}

// clear makes place for an entry. It reports whether something was there.
func (u *unpacker) clear(parent *os.File, at string) (was bool, err error) {
	st, err := lstat(parent, path.Base(at))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err == nil {
		err = u.remove(parent, at, st)
	}
	return true, err
}

func lstat(dir *os.File, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

func readlink(dir *os.File, name string) (string, error) {
	buf := make([]byte, MaxPath+1)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func dupDir(d *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(d.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), d.Name()), nil
}

func isWhiteout(st unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}
