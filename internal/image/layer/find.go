package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Find opens the regular file that has this path in the root filesystem made of
// the layers, the topmost first. It sees what a process in it would see:
// whiteouts and opaque directories hide, symbolic links lead on, and none leads
// out. The error of a file that is not there is fs.ErrNotExist; if a directory is
// in its place it is EISDIR, too.
func Find(layers []string, name string) (*os.File, error) {
	roots := make([]*os.Root, 0, len(layers))
	defer func() {
		for _, r := range roots {
			r.Close()
		}
	}()
	for _, dir := range layers {
		r, err := os.OpenRoot(dir)
		if err != nil {
			return nil, err
		}
		roots = append(roots, r)
	}
	at, rest, hops := ".", name, 0
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at) // of the root: the root
			continue
		}
		next := path.Join(at, part)
		root, info, err := visible(roots, next)
		if err != nil {
			return nil, err
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if hops++; hops > maxHops {
				return nil, fmt.Errorf("%s: more than %d symbolic links on its way", name, maxHops)
			}
			target, err := root.Readlink(next)
			if err != nil {
				return nil, err
			}
			if strings.HasPrefix(target, "/") {
				at = "."
			}
			rest = target + "/" + rest
		case info.IsDir():
			at = next
		case info.Mode().IsRegular() && strings.Trim(rest, "/") == "":
			return root.Open(next)
		default:
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
	}
	return nil, fmt.Errorf("%s: %w: %w", name, syscall.EISDIR, fs.ErrNotExist)
}

// visible looks for a path without links in the layers, the topmost first.
func visible(roots []*os.Root, at string) (*os.Root, fs.FileInfo, error) {
	parts := strings.Split(at, "/")
	for _, root := range roots {
		opaque := isOpaque(root, ".")
		for i := range parts {
			p := path.Join(parts[:i+1]...)
			info, err := root.Lstat(p)
			if errors.Is(err, fs.ErrNotExist) {
				break // this layer says nothing of it
			}
			if err != nil {
				return nil, nil, err
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 {
				return nil, nil, fmt.Errorf("%s: %w", at, fs.ErrNotExist)
			}
			if i == len(parts)-1 {
				return root, info, nil
			}
			if !info.IsDir() {
				return nil, nil, fmt.Errorf("%s: %w", at, fs.ErrNotExist)
			}
			opaque = opaque || isOpaque(root, p)
		}
		if opaque {
			break
		}
	}
	return nil, nil, fmt.Errorf("%s: %w", at, fs.ErrNotExist)
}

func isOpaque(root *os.Root, dir string) bool {
	f, err := root.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	var value [8]byte
	n, err := unix.Fgetxattr(int(f.Fd()), opaqueAttr, value[:])
	return err == nil && string(value[:n]) == "y"
}
