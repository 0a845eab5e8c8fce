package build

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"hob/faas"
)

// A layer is a compressed layer in a temporary file without a name: it is gone
// when the last reference to it is garbage.
type layer struct {
	file           *os.File
	size           int64
	digest, diffID v1.Hash
	mediaType      types.MediaType
}

// writeLayer writes entries, which are sorted, as a layer. The compressor is
// the module's own and not the standard library's, so that a new version of Go
// does not change digests.
func writeLayer(ctx context.Context, entries []entry, mt types.MediaType, maxBytes faas.Bytes) (*layer, error) {
	out, err := nameless()
	if err != nil {
		return nil, err
	}
	done := false
	defer func() {
		if !done {
			out.Close()
		}
	}()
	packed, plain := sha256.New(), sha256.New()
	buf := bufio.NewWriterSize(out, 1<<16)
	zip := gzip.NewWriter(io.MultiWriter(buf, packed))
	tw := tar.NewWriter(io.MultiWriter(zip, plain))
	for _, e := range entries {
		if err := writeEntry(ctx, tw, e); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(tw.Close(), zip.Close(), buf.Flush()); err != nil {
		return nil, fmt.Errorf("write the layer to %s: %w", os.TempDir(), err)
	}
	size, err := out.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, fmt.Errorf("write the layer to %s: %w", os.TempDir(), err)
	}
	done = true
	return &layer{file: out, size: size, digest: sum(packed), diffID: sum(plain), mediaType: mt}, nil
}

func writeEntry(ctx context.Context, tw *tar.Writer, e entry) error {
	hdr := &tar.Header{Name: e.name, ModTime: time.Unix(0, 0), Mode: tarMode(e.node)}
	switch {
	case e.kind == directory:
		hdr.Typeflag, hdr.Name = tar.TypeDir, e.name+"/"
	case e.kind == symlink:
		hdr.Typeflag, hdr.Linkname, hdr.Mode = tar.TypeSymlink, e.link, 0o777
	case e.link != "":
		hdr.Typeflag, hdr.Linkname = tar.TypeLink, e.link
	default:
		hdr.Typeflag, hdr.Size = tar.TypeReg, e.size
	}
	if err := tw.WriteHeader(hdr); err != nil {
		return fmt.Errorf("write %s to the layer: %w", e.from, err)
	}
	if hdr.Typeflag != tar.TypeReg {
		return ctx.Err()
	}
	in, err := e.open()
	if err != nil {
		return faas.Errorf(faas.Invalid, "read %s: %w", e.from, err)
	}
	defer in.Close()
	n, err := io.Copy(tw, &limited{r: in, left: 1<<63 - 1, ctx: ctx})
	switch {
	case errors.Is(err, tar.ErrWriteTooLong), err == nil && n < e.size:
		return faas.Errorf(faas.Conflict, "%s changed while it was read", e.from)
	case err != nil:
		return fmt.Errorf("write %s to the layer: %w", e.from, err)
	}
	return nil
}

func tarMode(n *node) int64 {
	mode := int64(n.mode.Perm())
	for _, bit := range []struct {
		is  os.FileMode
		tar int64
	}{{os.ModeSetuid, 0o4000}, {os.ModeSetgid, 0o2000}, {os.ModeSticky, 0o1000}} {
		if n.mode&bit.is != 0 {
			mode |= bit.tar
		}
	}
	return mode
}

// nameless makes a temporary file that needs no clean-up.
func nameless() (*os.File, error) {
	f, err := os.CreateTemp("", "hob-build-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	return f, nil
}

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

func (l *layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *layer) Size() (int64, error)                { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.mediaType, nil }

func (l *layer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(l.file, 0, l.size)), nil
}

func (l *layer) Uncompressed() (io.ReadCloser, error) {
	return gzip.NewReader(io.NewSectionReader(l.file, 0, l.size))
}
