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
	kindErased byte = 5
)

// errTorn says that the bytes at this place are no whole and true frame.
var errTorn = errors.New("torn or damaged frame")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A frame is one entry of a segment.
type frame struct {
	kind byte
	at   int64  // nanoseconds since 1970
	rest []byte // of the body; valid until the next step of its reader
	lost int64  // if not 0: this is no frame, but so many damaged bytes
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
// to tell, and errTorn, with the number of bytes that were checked in vain, if
// there is no frame here.
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
		return frame{}, size, errTorn
	}
	return frame{kind: body[0], at: int64(binary.LittleEndian.Uint64(body[1:])), rest: body[bodyHead:]}, size, nil
}

// frameReader reads the frames of a segment file one after another.
type frameReader struct {
	from    io.ReaderAt
	off     int64 // of the next frame in the file
	end     int64 // of what may be read
	buf     []byte
	have    []byte // read and not yet parsed; a part of buf; begins at off
	missing int64  // bytes before end that the file does not have
	vain    int    // bytes whose checksum was wrong
}

const (
	// readSize is how much a frameReader asks for at once.
	readSize = 64 << 10
	// maxVain is how many bytes a frameReader checks in vain while it looks for the
	// end of damage: more than there are by chance, and little enough where somebody
	// has made them.
	maxVain = 64 << 20
)

// next returns the frame at r.off and steps over it; io.EOF at r.end. What is
// damaged is passed over up to the next good frame, and comes as one of its own
// that has only lost.
func (r *frameReader) next() (frame, error) {
	begin := r.off
	for {
		f, size, err := parseFrame(r.have)
		left := r.end - r.off - int64(len(r.have))
		switch {
		case err == nil && r.off > begin: // it comes next
			return frame{lost: r.off - begin}, nil
		case err == nil:
			r.skip(size)
			return f, nil
		case errors.Is(err, io.ErrUnexpectedEOF) && left > 0 && int64(size) <= int64(len(r.have))+left:
			if err := r.fill(size, left); err != nil {
				return frame{}, err
			}
		case len(r.have) > 0 && r.vain <= maxVain:
			r.vain += size
			r.seek()
		default: // the end, or the end of our patience
			r.off, r.have, r.missing = r.end+r.missing, nil, 0
			r.end = r.off
			if r.off > begin {
				return frame{lost: r.off - begin}, nil
			}
			return frame{}, io.EOF
		}
	}
}

func (r *frameReader) skip(n int) {
	r.have = r.have[n:]
	r.off += int64(n)
}

// seek steps forward to where a frame may begin: at least one byte, and at most
// to where too little has been read to tell.
func (r *frameReader) seek() {
	n := 1
	for n+headSize < len(r.have) && !plausible(r.have[n:]) {
		n++
	}
	r.skip(n)
}

// plausible reports whether a frame may begin with b, of which there are more
// than headSize bytes.
func plausible(b []byte) bool {
	length := binary.LittleEndian.Uint32(b)
	return length >= bodyHead && length <= maxBody && b[headSize] > 0 && b[headSize] < 16 // 16: some kinds that are yet to come
}

// fill reads on, so that at least want bytes are there. left is how many there
// are in the file behind those that are there.
func (r *frameReader) fill(want int, left int64) error {
	want = max(want, int(min(readSize, int64(len(r.have))+left)))
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
		r.missing = left
		r.end -= left
		return nil
	}
	return err
}
