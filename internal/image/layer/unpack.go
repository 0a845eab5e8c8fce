package layer

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound what one layer may become. A zero is the default.
type Limits struct {
	Bytes   int64 // of the uncompressed tar, and of all files together, holes counted; 16 GB
	Entries int   // in the tar; one million
	Ratio   int64 // of uncompressed to compressed bytes, looked at above Free; 200
	Free    int64 // uncompressed bytes that Ratio leaves alone; 1 GB
}

// Defaults of Limits.
const (
	DefaultBytes   = 16 << 30
	DefaultEntries = 1_000_000
	DefaultRatio   = 200
	DefaultFree    = 1 << 30
)

// Limits of names, which are those of Linux.
const (
	MaxPath  = 4095      // bytes of a path or link target
	MaxName  = 255       // bytes of one part of a path
	MaxDepth = 255       // parts of a path; not of Linux, but nothing real comes near
	maxPaths = 256 << 20 // bytes of the paths of all directories, which are held in memory
	maxHops  = 40        // symbolic links on the way to one entry
	maxNote  = 20        // notes kept of a layer
)

func (l Limits) withDefaults() Limits {
	l.Bytes = cmp.Or(l.Bytes, DefaultBytes)
	l.Entries = cmp.Or(l.Entries, DefaultEntries)
	l.Ratio = cmp.Or(l.Ratio, DefaultRatio)
	l.Free = cmp.Or(l.Free, DefaultFree)
	return l
}

// BadError is a fault of the layer itself: unpacking it again will not help.
type BadError struct {
	Entry  string // name in the tar; "": the layer as a whole
	Reason string

	notDir bool // a parent of the entry is not a directory
}

func (e *BadError) Error() string {
	if e.Entry == "" {
		return e.Reason
	}
	return fmt.Sprintf("entry %q: %s", e.Entry, e.Reason)
}

// Result is what came out of a tar.
type Result struct {
	DiffID string // digest of the uncompressed bytes
	Info
}

// Whiteouts in a tar, as the OCI image specification names them.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

const opaqueAttr = "trusted.overlay.opaque"

// Unpack unpacks the tar in r, plain or compressed, into dir, which exists and
// is empty. On an error dir holds a part. A process that is not root cannot give
// files away and does without owners and opaque directories.
//
// Names are relative to dir, also if they begin with '/'; one with a ".." is
// refused. An entry whose parents the tar does not have gets them. Entries below
// a symbolic link of the same layer go where it points inside dir; one that
// points out of dir is refused. Devices are left out with a note: a sandbox
// could not open them; one that overlayfs would take for a whiteout is refused.
// Attributes other than user.* and security.capability are left out with a note;
// those of overlayfs are refused.
func Unpack(ctx context.Context, r io.Reader, dir string, lim Limits) (Result, error) {
	lim = lim.withDefaults()
	root, err := os.Open(dir)
	if err != nil {
		return Result{}, err
	}
	defer root.Close()
	packed := &meter{ctx: ctx, r: r}
	plain, _, err := Decompress(packed)
	if err != nil {
		return Result{}, packed.fault(err)
	}
	defer plain.Close()
	hash := sha256.New()
	stream := &bounded{r: plain, lim: lim, packed: packed}
	u := &unpacker{
		dir:   dir,
		root:  root,
		lim:   lim,
		dirs:  map[string]*dirMeta{".": {}},
		chown: os.Geteuid() == 0,
	}
	defer u.close()
	tee := io.TeeReader(stream, hash)
	if err := u.run(packed, tar.NewReader(tee)); err != nil {
		return Result{}, err
	}
	// What follows the end of the archive belongs to the digest, too.
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return Result{}, packed.fault(err)
	}
	if err := u.finish(); err != nil {
		return Result{}, err
	}
	u.info.Owners = u.chown
	return Result{DiffID: "sha256:" + hex.EncodeToString(hash.Sum(nil)), Info: u.info}, nil
}

// meter counts the compressed bytes, ends with the context, and remembers
// whether an error came from the reader rather than from what was read.
type meter struct {
	ctx context.Context
	r   io.Reader
	n   int64
	err error
}

func (m *meter) Read(p []byte) (int, error) {
	if m.ctx.Err() != nil {
		m.err = context.Cause(m.ctx)
		return 0, m.err
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}

// fault says whose fault an error of reading is.
func (m *meter) fault(err error) error {
	if m.err != nil {
		return m.err
	}
	if _, ok := errors.AsType[*BadError](err); ok {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &BadError{Reason: "the layer ends in the middle"}
	}
	return &BadError{Reason: err.Error()}
}

// bounded refuses a stream that grows over the limits.
type bounded struct {
	r      io.Reader
	lim    Limits
	packed *meter
	n      int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	if b.n > b.lim.Bytes {
		return 0, &BadError{Reason: fmt.Sprintf("the layer is over the limit of %d bytes uncompressed", b.lim.Bytes)}
	}
	if b.n > b.lim.Free && b.n/b.lim.Ratio > b.packed.n {
		return 0, &BadError{Reason: fmt.Sprintf("%d compressed bytes became %d: over the limit of %d to 1 (a compression bomb?)", b.packed.n, b.n, b.lim.Ratio)}
	}
	return n, err
}

// unpacker is one run of Unpack. All it does to the disk goes through the
// descriptor of a parent directory and a name without '/', and follows no link.
type unpacker struct {
	dir   string
	root  *os.File
	lim   Limits
	chown bool
	buf   [64 << 10]byte
	bytes int64 // of all files, holes counted
	info  Info

	paths int                 // bytes of the keys of dirs, about
	dirs  map[string]*dirMeta // every directory made, by its path without links; "." is the root

	// The directory that was used last: tars are mostly in order.
	last     *os.File
	lastPath string
}

// dirMeta is what a directory gets when nothing will be put into it any more.
type dirMeta struct {
	set   bool // by an entry of the tar
	mode  uint32
	mtime time.Time
}

func (u *unpacker) close() {
	if u.last != nil {
		u.last.Close()
	}
}

func (u *unpacker) run(src *meter, tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return src.fault(err)
		}
		if src.ctx.Err() != nil {
			return context.Cause(src.ctx)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if u.info.Entries++; u.info.Entries > u.lim.Entries {
			return &BadError{Reason: fmt.Sprintf("the layer is over the limit of %d entries", u.lim.Entries)}
		}
		if err := u.entry(src, h, tr); err != nil {
			if bad, ok := errors.AsType[*BadError](err); ok && bad.Entry == "" {
				return &BadError{Entry: short(h.Name), Reason: bad.Reason}
			}
			return fmt.Errorf("entry %q: %w", short(h.Name), err)
		}
	}
}

func bad(format string, args ...any) error { return &BadError{Reason: fmt.Sprintf(format, args...)} }

// short cuts a name for a message.
func short(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

func (u *unpacker) note(format string, args ...any) {
	if len(u.info.Notes) < maxNote {
		u.info.Notes = append(u.info.Notes, fmt.Sprintf(format, args...))
	}
}

// cleanName returns a name of the tar relative to the root, "." for the root.
func cleanName(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", bad("the name holds a zero byte")
	}
	if len(name) > MaxPath {
		return "", bad("the name of %d bytes is over the limit of %d", len(name), MaxPath)
	}
	if n := strings.Count(name, "/"); n > MaxDepth {
		return "", bad("the name of %d parts is over the limit of %d", n, MaxDepth)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", bad("the name climbs out of the layer with \"..\"")
		}
		if len(part) > MaxName {
			return "", bad("a part of the name has %d bytes: over the limit of %d", len(part), MaxName)
		}
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil
}

// entry unpacks one entry of the tar.
func (u *unpacker) entry(src *meter, h *tar.Header, tr io.Reader) error {
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	for key := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if ok && (strings.HasPrefix(attr, "trusted.overlay.") || strings.HasPrefix(attr, "user.overlay.")) {
			return bad("the attribute %s is not for images", attr)
		}
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return bad("the root of a layer must be a directory")
		}
		return u.directoryMeta(u.root, ".", h)
	}
	base := path.Base(name)
	for part := range strings.SplitSeq(path.Dir(name), "/") {
		if strings.HasPrefix(part, whiteoutMeta) {
			return nil // notes that AUFS made for itself
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return bad("%q is a whiteout, not a directory", part)
		}
	}
	if strings.HasPrefix(base, whiteoutMeta) && base != whiteoutOpaque {
		return nil
	}
	parent, at, err := u.parent(name, true)
	if e, ok := errors.AsType[*BadError](err); ok && e.notDir && strings.HasPrefix(base, whiteoutPrefix) {
		return nil // what this layer has in place of the directory hides all that was in it
	}
	if err != nil {
		return err
	}
	at = path.Join(at, base) // the path without links
	switch {
	case base == whiteoutOpaque:
		return u.opaque(parent, path.Dir(at))
	case strings.HasPrefix(base, whiteoutPrefix):
		return u.whiteout(parent, path.Dir(at), strings.TrimPrefix(base, whiteoutPrefix))
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(parent, at, h)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(src, parent, at, h, tr)
	case tar.TypeSymlink:
		return u.symlink(parent, at, h)
	case tar.TypeLink:
		return u.link(parent, at, h)
	case tar.TypeFifo:
		return u.fifo(parent, at, h)
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor == 0 && h.Devminor == 0 {
			return bad("a device 0/0 is a whiteout of overlayfs and not for images")
		}
		u.note("device %s left out: a sandbox has its own devices", short(name))
		return nil
	}
	return bad("unknown type %q", h.Typeflag)
}

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
