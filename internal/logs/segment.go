package logs

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"time"
)

// A segment file is the eight bytes of segmentMagic and then frames, each:
//
//	0  uint32  length of the body, 9 to maxBody
//	4  uint32  CRC-32C of the four bytes above and the body
//	8  byte    kind                                    \
//	9  int64   time, nanoseconds since 1970             > body
//	17 …       what the kind says (line.go, record.go) /
//
// Numbers are little endian. The checksum covers the length, so a run of zero
// bytes, which a power cut may leave, is no frame.
const (
	segmentMagic = "hobseg1\n"
	headSize     = 8
	bodyHead     = 9
	maxBody      = 1 << 20
)

// Kinds of frames. A reader passes over one that it does not know.
const (
	kindLine   byte = 1
	kindRecord byte = 2
	kindSeal   byte = 3
	kindEvent  byte = 4
)

// errTorn says that the bytes at this place are no whole and true frame.
var errTorn = errors.New("torn or damaged frame")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A frame is one entry of a segment.
type frame struct {
	kind byte
	at   int64  // nanoseconds since 1970
	rest []byte // of the body; valid until the next step of its reader
}

// beginFrame appends the head of a frame to dst; what follows it up to endFrame
// is the rest of the body. start is what endFrame needs.
func beginFrame(dst []byte, kind byte, at time.Time) (_ []byte, start int) {
	start = len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0, kind)
	return binary.LittleEndian.AppendUint64(dst, uint64(at.UnixNano())), start
}

// endFrame completes the frame that began at start and goes to the end of dst.
func endFrame(dst []byte, start int) []byte {
	head, body := dst[start:start+headSize], dst[start+headSize:]
	binary.LittleEndian.PutUint32(head, uint32(len(body)))
	binary.LittleEndian.PutUint32(head[4:], checksum(head, body))
	return dst
}

func checksum(head, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[:4], castagnoli), castagnoli, body)
}

// parseFrame reads the frame at the beginning of b and says how long it is. It
// returns io.ErrUnexpectedEOF with the length that is needed if b ends too early
// to tell, and errTorn if there is no frame here.
func parseFrame(b []byte) (f frame, size int, err error) {
	if len(b) < headSize {
		return frame{}, headSize, io.ErrUnexpectedEOF
	}
	length := binary.LittleEndian.Uint32(b)
	if length < bodyHead || length > maxBody {
		return frame{}, 0, errTorn
	}
	size = headSize + int(length)
	if len(b) < size {
		return frame{}, size, io.ErrUnexpectedEOF
	}
	body := b[headSize:size]
	if checksum(b, body) != binary.LittleEndian.Uint32(b[4:]) {
		return frame{}, 0, errTorn
	}
	return frame{kind: body[0], at: int64(binary.LittleEndian.Uint64(body[1:])), rest: body[bodyHead:]}, size, nil
}

// frameReader reads the frames of a segment file one after another.
type frameReader struct {
	from io.ReaderAt
	off  int64 // of the next frame in the file
	end  int64 // of what may be read
	buf  []byte
	have []byte // read and not yet parsed; a part of buf; begins at off
}

// readSize is how much a frameReader asks for at once.
const readSize = 64 << 10

// next returns the frame at r.off and steps over it: io.EOF at r.end, errTorn if
// there is no whole and true frame before it.
func (r *frameReader) next() (frame, error) {
	for {
		f, size, err := parseFrame(r.have)
		if err == nil {
			r.have = r.have[size:]
			r.off += int64(size)
			return f, nil
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			return frame{}, err
		}
		left := r.end - r.off - int64(len(r.have))
		if left <= 0 {
			if len(r.have) == 0 {
				return frame{}, io.EOF
			}
			return frame{}, errTorn
		}
		if err := r.fill(max(size, readSize), left); err != nil {
			return frame{}, err
		}
	}
}

// fill reads on, so that up to want bytes are there, but no more than left.
func (r *frameReader) fill(want int, left int64) error {
	if cap(r.buf) < want {
		r.buf = make([]byte, want)
	}
	r.buf = r.buf[:cap(r.buf)]
	n := copy(r.buf, r.have)
	ask := int(min(int64(len(r.buf)-n), left))
	got, err := r.from.ReadAt(r.buf[n:n+ask], r.off+int64(n))
	r.have = r.buf[:n+got]
	switch {
	case got > 0:
		return nil
	case err == nil || errors.Is(err, io.EOF): // the file is shorter than it was
		return errTorn
	}
	return err
}
