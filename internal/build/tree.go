package build

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
)

// A tree is a root filesystem as far as a build looks at it: names, kinds and
// links, and of the caller's own files also how to read them.
type tree struct{ root *node }

type kind byte

const (
	directory kind = iota
	file
	symlink
	other // only in a base: devices and pipes
)

// A node is one name in a tree.
type node struct {
	kind     kind
	link     string // target of a symlink as it is written; of a file, the name it is a hard link to
	mode     fs.FileMode
	size     int64
	children map[string]*node // of a directory

	own   bool   // comes from the caller, not from the base
	from  string // where the caller has it, for messages
	group string // equal for all names of a file that has several
	open  func() (io.ReadCloser, error)
}

func newTree() *tree { return &tree{root: &node{mode: 0o755}} }

// An entry is a node under its full name, without a leading slash.
type entry struct {
	name string
	*node
}

// put sets the node with a clean name, making the directories above it. A
// directory that is there already keeps its children.
func (t *tree) put(name string, n *node) {
	dir := t.root
	parts := strings.Split(name, "/")
	for _, part := range parts[:len(parts)-1] {
		next := dir.children[part]
		if next == nil || next.kind != directory {
			next = &node{mode: 0o755}
			dir.set(part, next)
		}
		dir = next
	}
	last := parts[len(parts)-1]
	if old := dir.children[last]; old != nil && old.kind == directory && n.kind == directory {
		n.children = old.children
	}
	dir.set(last, n)
}

func (n *node) set(name string, child *node) {
	if n.children == nil {
		n.children = make(map[string]*node)
	}
	n.children[name] = child
}

// resolve follows name from the root through every link and returns what is
// there and its real name, or nil.
func (t *tree) resolve(name string) (*node, string) {
	left := strings.Split(path.Clean("/" + name)[1:], "/")
	stack, names := []*node{t.root}, []string{}
	for links := 0; len(left) > 0; {
		part := left[0]
		left = left[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(names) > 0 {
				stack, names = stack[:len(stack)-1], names[:len(names)-1]
			}
			continue
		}
		next := stack[len(stack)-1].children[part]
		if next == nil {
			return nil, ""
		}
		if next.kind == symlink {
			if links++; links > 40 {
				return nil, ""
			}
			if path.IsAbs(next.link) {
				stack, names = stack[:1], names[:0]
			}
			left = append(strings.Split(next.link, "/"), left...)
			continue
		}
		stack, names = append(stack, next), append(names, part)
	}
	return stack[len(stack)-1], strings.Join(names, "/")
}

// lay puts the entries of own on t and returns those that the new layer has to
// hold, sorted by name.
func (t *tree) lay(own *tree) ([]entry, error) {
	var entries []entry
	var walk func(from *node, at string) error
	walk = func(from *node, at string) error {
		for _, name := range slices.Sorted(maps.Keys(from.children)) { // in order: what is laid decides what links mean
			n, to := from.children[name], path.Join(at, name)
			have, real := t.resolve(to)
			there := t.literal(to)
			switch {
			case n.kind == directory && have != nil && have.kind == directory:
				if err := walk(n, real); err != nil {
					return err
				}
				continue
			case there != nil && there.own:
				return faas.Errorf(faas.Invalid, "%s and %s would both be /%s in the image", there.from, n.from, to)
			case n.kind == directory && there != nil:
				return faas.Errorf(faas.Invalid, "the base image has /%s, which is no directory, where %s has one", to, n.from)
			case there != nil && there.kind == directory:
				return faas.Errorf(faas.Invalid, "the base image has a directory /%s where %s would go", to, n.from)
			}
			laid := *n
			laid.children = nil
			t.put(to, &laid)
			entries = append(entries, entry{to, &laid})
			if n.kind == directory {
				if err := walk(n, to); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := walk(own.root, ""); err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	first := make(map[string]string)
	for _, e := range entries {
		if e.group == "" {
			continue
		}
		if at, ok := first[e.group]; ok {
			e.link = at
		} else {
			first[e.group] = e.name
		}
	}
	return entries, nil
}

// readDir reads a directory into a tree of the caller's own.
func readDir(ctx context.Context, dir *os.Root, opt Options) (*tree, error) {
	type inode struct{ dev, ino uint64 }
	t, seen := newTree(), make(map[inode]string)
	var count int
	var total faas.Bytes
	err := fs.WalkDir(dir.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if name == "." {
			return nil
		}
		if opt.Skip != nil && opt.Skip(name, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if count++; count > opt.MaxFiles {
			return faas.Errorf(faas.TooLarge, "directory %s holds more than the limit of %d files", opt.Shown, opt.MaxFiles)
		}
		if len(name) > maxPath {
			return faas.Errorf(faas.Invalid, "a name of %d bytes in %s is over the limit of %d", len(name), opt.Shown, maxPath)
		}
		from := path.Join(opt.Shown, name)
		if strings.HasPrefix(d.Name(), ".wh.") {
			return faas.Errorf(faas.Invalid, "%s: a name that begins with .wh. means a deletion in an image", from)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n := &node{mode: modeOf(info.Mode()), own: true, from: from}
		switch mode := info.Mode(); {
		case mode.IsDir():
			n.kind = directory
		case mode&fs.ModeSymlink != 0:
			n.kind = symlink
			if n.link, err = dir.Readlink(name); err != nil {
				return err
			}
		case mode.IsRegular():
			n.kind, n.size = file, info.Size()
			// The directory is opened anew for each file: root is closed by then.
			n.open = func() (io.ReadCloser, error) { return os.OpenInRoot(opt.Dir, name) }
			if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
				id := inode{st.Dev, st.Ino}
				first, known := seen[id]
				if known {
					n.group = first
					break
				}
				seen[id], n.group = name, name
			}
			if total += faas.Bytes(n.size); total > opt.MaxBytes {
				return faas.Errorf(faas.TooLarge, "directory %s holds more than the limit of %v", opt.Shown, opt.MaxBytes)
			}
		case mode&fs.ModeDevice != 0 && strings.HasPrefix(name, "dev/"):
			return nil // what mmdebstrap and its like make there: a sandbox has a /dev of its own
		default:
			return faas.Errorf(faas.Invalid, "%s is %s: an image is made of files, directories and links only", from, kindOfFile(mode))
		}
		t.put(path.Join(path.Clean("/" + opt.Into)[1:], name), n)
		return nil
	})
	if err != nil {
		if _, ok := errors.AsType[*faas.Error](err); ok || ctx.Err() != nil {
			return nil, err
		}
		return nil, faas.Errorf(faas.Invalid, "read directory %s: %w", opt.Shown, err)
	}
	if count == 0 {
		return nil, faas.Errorf(faas.Invalid, "directory %s is empty", opt.Shown)
	}
	return t, nil
}

// modeOf keeps permissions, setuid, setgid and sticky. Write permission of the
// group without that of others is what a umask of 002 leaves: it goes.
func modeOf(m fs.FileMode) fs.FileMode {
	m &= fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if m&0o022 == 0o020 {
		m &^= 0o020
	}
	return m
}

func kindOfFile(m fs.FileMode) string {
	switch {
	case m&fs.ModeDevice != 0:
		return "a device"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a special file"
}

// readImage reads the names in an image, with deletions done. It needs all
// bytes of all layers once.
func (t *tree) readImage(ctx context.Context, img v1.Image, maxFiles int) error {
	layers, err := img.Layers()
	if err != nil {
		return faas.Errorf(faas.Invalid, "read the base image: %w", err)
	}
	count := 0
	for i, l := range layers {
		if err := t.readLayer(ctx, l, &count, maxFiles); err != nil {
			if _, ok := errors.AsType[*faas.Error](err); ok || ctx.Err() != nil {
				return err
			}
			return faas.Errorf(faas.Invalid, "read layer %d of the base image: %w", i+1, err)
		}
	}
	return nil
}

func (t *tree) readLayer(ctx context.Context, l v1.Layer, count *int, maxFiles int) error {
	rc, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	fresh := newTree() // what this layer brings: an opaque directory hides only what is below
	in := tar.NewReader(&limited{r: rc, left: int64(MaxBytes) * 2, ctx: ctx})
	for {
		hdr, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if *count++; *count > maxFiles {
			return faas.Errorf(faas.TooLarge, "the base image holds more than the limit of %d files", maxFiles)
		}
		name := path.Clean("/" + hdr.Name)[1:]
		if name == "" {
			continue
		}
		if len(name) > maxPath {
			return faas.Errorf(faas.TooLarge, "a name of %d bytes is over the limit of %d", len(name), maxPath)
		}
		dir, last := path.Split(name)
		if last == ".wh..wh..opq" {
			if n := t.literal(strings.TrimSuffix(dir, "/")); n != nil {
				n.children = nil
			}
			continue
		}
		if gone, ok := strings.CutPrefix(last, ".wh."); ok {
			if n := t.literal(strings.TrimSuffix(dir, "/")); n != nil {
				delete(n.children, gone)
			}
			continue
		}
		n := &node{mode: hdr.FileInfo().Mode(), size: hdr.Size}
		switch hdr.Typeflag {
		case tar.TypeDir:
		case tar.TypeSymlink:
			n.kind, n.link = symlink, hdr.Linkname
		case tar.TypeReg, tar.TypeLink, tar.TypeGNUSparse:
			n.kind = file
		default:
			n.kind = other
		}
		fresh.put(name, n)
	}
	merge(t.root, fresh.root)
	return nil
}

// literal finds a name without following links.
func (t *tree) literal(name string) *node {
	n := t.root
	if name == "" {
		return n
	}
	for part := range strings.SplitSeq(name, "/") {
		if n = n.children[part]; n == nil {
			return nil
		}
	}
	return n
}

// merge puts the children of over on under.
func merge(under, over *node) {
	for name, n := range over.children {
		if have := under.children[name]; have != nil && have.kind == directory && n.kind == directory {
			have.mode = n.mode
			merge(have, n)
			continue
		}
		under.set(name, n)
	}
}

// limited ends a read with an error when it has gone on for too long.
type limited struct {
	r    io.Reader
	left int64
	ctx  context.Context
}

func (l *limited) Read(p []byte) (int, error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, faas.Errorf(faas.TooLarge, "a layer of the base image unpacks to more than the limit of %v", 2*MaxBytes)
	}
	return n, err
}
