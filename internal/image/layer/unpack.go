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
	"os"
	"path"
	"strings"
	"time"
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
