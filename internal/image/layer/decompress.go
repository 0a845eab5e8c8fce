package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compression is how a stream is compressed.
type Compression string

const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

// maxWindow is the most memory that a zstd stream may ask for, in bytes: what
// the zstd program allows without an option.
const maxWindow = 128 << 20

// Decompress looks at the first bytes of r and returns its uncompressed stream.
// What is neither gzip nor zstd is taken as it is, except for the compressions
// that are known and not supported. The caller closes what it gets; r stays the
// caller's.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, Plain, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, Gzip, fmt.Errorf("bad gzip data: %w", err)
		}
		return z, Gzip, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, Zstd, fmt.Errorf("bad zstd data: %w", err)
		}
		return z.IOReadCloser(), Zstd, nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return nil, Plain, errors.New("it is compressed with bzip2; use gzip, zstd or no compression")
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, Plain, errors.New("it is compressed with xz; use gzip, zstd or no compression")
	}
	return io.NopCloser(br), Plain, nil
}
