package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"hob/faas"
)

// Limits of what a function answers with, apart from its body.
const (
	maxHead    = 256 << 10
	maxChunk   = 256     // of the line before a chunk
	maxTrailer = 2 << 10 // of what follows the last chunk
)

// headOver is the error of a head over its limit. Every other error of a reader
// that is not one of reading is a malformed.
func headOver(limit int) error {
	return reason{faas.ErrHeaderTooLarge, fmt.Sprintf("the function answered with a header of more than %v", faas.Bytes(limit))}
}

// malformed says why what a function wrote is no answer that can be passed on.
type malformed string

func (m malformed) Error() string { return string(m) }
func (m malformed) Unwrap() error { return faas.ErrMalformed }

func answeredWith(format string, args ...any) error {
	return malformed("the function answered with " + fmt.Sprintf(format, args...))
}

// reader takes HTTP/1.1 responses apart as they arrive (RFC 9112). It is stricter
// than net/http wherever two readers could disagree on where a body ends.
type reader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] has arrived and was not taken
	most int // bytes of the head and the interim ones before it

	head head
	left int64 // of the body or the chunk
	last bool  // chunk: the data of one was taken, its line end was not
	over int   // chunk lines beyond what their data is worth
	done bool

	trailer []byte // lines behind the last chunk
}

// head is the first part of a response.
type head struct {
	status int
	text   []byte // its header lines, valid until the next read; names are canonical
	fields int    // how many there are

	framing   framing
	length    int64    // Content-Length; -1: none
	close     bool     // the connection ends behind the body
	named     []string // headers that Connection names
	typed     bool     // has a Content-Type
	oldSchool bool     // HTTP/1.0
}

type framing string

const (
	framingNone   framing = ""
	framingLength framing = "length"
	framingChunks framing = "chunks"
	framingEnd    framing = "end" // of the stream
)

// fill reads more. It is called only when nothing that has arrived is of use
// without it, and makes every slice handed out before invalid.
func (b *reader) fill() error {
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
	if b.w == len(b.buf) {
		if b.r > 0 {
			b.w = copy(b.buf, b.buf[b.r:b.w])
			b.r = 0
		} else {
			grown := make([]byte, 2*len(b.buf))
			copy(grown, b.buf)
			b.buf = grown
		}
	}
	for {
		n, err := b.src.Read(b.buf[b.w:])
		b.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

const protocolName = "HTTP/1."

// readHead takes the head of the next response, the interim ones before it, and
// white space before each. bodiless says that the request was HEAD. io.EOF means
// that not a byte has arrived.
func (b *reader) readHead(bodiless bool) error {
	taken := 0 // bytes of interim responses
	b.done, b.last, b.over, b.trailer = false, false, 0, nil
	for {
		for b.r < b.w && isSpace(b.buf[b.r]) {
			b.r++
		}
		end := -1
		for scanned := 0; ; {
			got := b.buf[b.r:b.w]
			if n := min(len(got), len(protocolName)); string(got[:n]) != protocolName[:n] {
				return answeredWith("something that is not HTTP: %q", excerpt(got))
			}
			if end = headEnd(got, scanned); end >= 0 || taken+len(got) > b.most {
				break
			}
			scanned = max(0, len(got)-3)
			if err := b.fill(); err != nil {
				if err == io.EOF && len(got) > 0 {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			for len(got) == 0 && b.r < b.w && isSpace(b.buf[b.r]) {
				b.r++
			}
		}
		if end < 0 || taken+end > b.most {
			return headOver(b.most)
		}
		if err := b.head.parse(b.buf[b.r:b.r+end], bodiless); err != nil {
			return err
		}
		b.r += end
		b.left = 0
		if b.head.framing == framingLength {
			b.left = b.head.length
		}
		if b.head.status >= 200 {
			return nil
		}
		taken += end
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func excerpt(b []byte) []byte { return b[:min(len(b), 64)] }

// headEnd returns the length of the head at the start of b, with its empty line,
// or -1. The first from bytes hold no end.
func headEnd(b []byte, from int) int {
	for i := from; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return -1
		}
		i += n + 1
		if i < len(b) && b[i] == '\n' {
			return i + 1
		}
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return i + 2
		}
	}
}

// cutLine returns the first line of b without its end, and what is behind it.
func cutLine(b []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(b, []byte{'\n'})
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, rest
}

// parse reads a whole head. Header names become canonical where they stand.
func (h *head) parse(b []byte, bodiless bool) error {
	*h = head{length: -1}
	line, rest := cutLine(b)
	// HTTP/1.x SP 3DIGIT [ SP text ]
	const least = len("HTTP/1.1 200")
	if len(line) < least || line[7] != '1' && line[7] != '0' || line[8] != ' ' || len(line) > least && line[least] != ' ' || bytes.IndexByte(line, '\r') >= 0 {
		return answeredWith("something that is not HTTP: %q", excerpt(line))
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return answeredWith("a status line without a status: %q", excerpt(line))
		}
		h.status = 10*h.status + int(c-'0')
	}
	if h.status < 100 {
		return answeredWith("the status %d, which HTTP does not have", h.status)
	}
	h.oldSchool = line[7] == '0'
	h.text = rest
	chunked, keep := false, false
	for {
		line, rest = cutLine(rest)
		if len(line) == 0 {
			break
		}
		name, value, err := cutField(line)
		if err != nil {
			return err
		}
		h.fields++
		switch {
		case is(name, "Content-Length"):
			n, ok := decimal(value)
			if !ok {
				return answeredWith("a Content-Length that is no number: %q", excerpt(value))
			}
			if h.length >= 0 && n != h.length {
				return answeredWith("two Content-Lengths: %d and %d", h.length, n)
			}
			h.length = n
		case is(name, "Transfer-Encoding"):
			if chunked || h.oldSchool || !bytes.EqualFold(value, []byte("chunked")) {
				return answeredWith("the Transfer-Encoding %q: only chunked is understood", excerpt(value))
			}
			chunked = true
		case is(name, "Connection"):
			for _, word := range bytes.Split(value, []byte{','}) {
				switch word = bytes.Trim(word, " \t"); {
				case bytes.EqualFold(word, []byte("close")):
					h.close = true
				case bytes.EqualFold(word, []byte("keep-alive")):
					keep = true
				case len(word) > 0:
					h.named = append(h.named, string(word))
				}
			}
		case is(name, "Trailer"):
			for _, word := range bytes.Split(value, []byte{','}) {
				if s := string(bytes.Trim(word, " \t")); strings.EqualFold(s, "Transfer-Encoding") || strings.EqualFold(s, "Content-Length") || strings.EqualFold(s, "Trailer") {
					return answeredWith("a trailer that cannot be one: %q", s)
				}
			}
		case is(name, "Content-Type"):
			h.typed = true
		}
	}
	h.close = h.close || h.oldSchool && !keep
	switch {
	case chunked && h.length >= 0:
		return answeredWith("both Content-Length and Transfer-Encoding: chunked")
	case h.status < 200 && (chunked || h.length >= 0):
		return answeredWith("a body behind the status %d", h.status)
	case h.status == http.StatusSwitchingProtocols:
		return answeredWith("another protocol, for which it was not asked")
	case bodiless || h.status < 200 || h.status == http.StatusNoContent || h.status == http.StatusNotModified:
	case chunked:
		h.framing = framingChunks
	case h.length >= 0:
		h.framing = framingLength
	case h.close:
		h.framing = framingEnd
	default:
		return answeredWith("neither Content-Length nor Transfer-Encoding: chunked, so its end cannot be seen")
	}
	return nil
}

func is(name []byte, want string) bool { return string(name) == want }

// cutField takes a header line apart and makes its name canonical in place.
func cutField(line []byte) (name, value []byte, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return nil, nil, answeredWith("a header line without a name: %q", excerpt(line))
	}
	name, value = line[:colon], bytes.Trim(line[colon+1:], " \t")
	upper := true
	for i, c := range name {
		if !isTokenByte(c) {
			return nil, nil, answeredWith("a header with a bad name: %q", excerpt(name))
		}
		if upper && c >= 'a' && c <= 'z' || !upper && c >= 'A' && c <= 'Z' {
			name[i] ^= 0x20
		}
		upper = c == '-'
	}
	for _, c := range value {
		if !isValueByte(c) {
			return nil, nil, answeredWith("a header %s with a control character", name)
		}
	}
	return name, value, nil
}

// decimal reads a number of at most 18 digits.
func decimal(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// copyTo adds the header to that of an answer, without what is about one
// connection. The length stays, so that the answer has the same framing.
func (h *head) copyTo(to http.Header) {
	text := string(h.text)
	values := make([]string, h.fields)
	for len(text) > 0 {
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			break // the empty line
		}
		if isHop(name) && name != "Content-Length" || contains(h.named, name) || strings.HasPrefix(name, "Hob-") {
			continue
		}
		value = strings.Trim(value, " \t\r")
		old := to[name]
		there := len(old) > 0
		if name == "Content-Length" {
			if h.status == http.StatusNoContent {
				continue
			}
			there = false // several are equal
		}
		if there {
			to[name] = append(old, value)
			continue
		}
		values[0] = value
		to[name] = values[:1:1]
		values = values[1:]
	}
}

// next returns what has arrived of the body, and reads only if that is nothing.
// What it returned is valid until the next call. io.EOF is the end of a whole
// body, io.ErrUnexpectedEOF that of a part of one.
func (b *reader) next() ([]byte, error) {
	if b.done {
		return nil, io.EOF
	}
	switch b.head.framing {
	case framingChunks:
		if b.left == 0 {
			if err := b.nextChunk(); err != nil {
				return nil, err
			}
		}
	case framingEnd:
		b.left = 1 << 62
	}
	if b.left == 0 {
		b.done = true
		return nil, io.EOF
	}
	if b.r == b.w {
		if err := b.fill(); err != nil {
			if err == io.EOF && b.head.framing != framingEnd {
				return nil, io.ErrUnexpectedEOF
			}
			b.done = err == io.EOF
			return nil, err
		}
	}
	n := int(min(int64(b.w-b.r), b.left))
	p := b.buf[b.r : b.r+n]
	b.r += n
	b.left -= int64(n)
	b.last = b.head.framing == framingChunks && b.left == 0
	return p, nil
}

// nextChunk reads up to the data of the next chunk, or up to the end of all.
func (b *reader) nextChunk() error {
	if b.last {
		if line, err := b.line(2); err != nil || len(line) > 0 {
			return chunkError(err)
		}
		b.last = false
	}
	line, err := b.line(maxChunk)
	if err != nil {
		return chunkError(err)
	}
	size, _, _ := bytes.Cut(line, []byte{';'})
	size = bytes.TrimRight(size, " \t")
	if len(size) == 0 || len(size) > 15 {
		return chunkError(nil)
	}
	for _, c := range size {
		d := int64(0)
		switch {
		case c >= '0' && c <= '9':
			d = int64(c - '0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			d = int64(c|0x20-'a') + 10
		default:
			return chunkError(nil)
		}
		b.left = b.left<<4 | d
	}
	// Many bytes of lines for few of data are an attack, or a mistake.
	if b.over += len(line) + 2 - 16; b.left < 1<<20 {
		b.over -= 2 * int(b.left)
	} else {
		b.over = 0
	}
	if b.over = max(b.over, 0); b.over > 16<<10 {
		return answeredWith("chunks with too little in them")
	}
	if b.left > 0 {
		return nil
	}
	for rest := maxTrailer; ; {
		line, err := b.line(rest)
		if err != nil {
			return chunkError(err)
		}
		if len(line) == 0 {
			return nil // left is 0: next ends
		}
		if _, _, err := cutField(line); err != nil {
			return err
		}
		b.trailer = append(append(b.trailer, line...), '\n')
		if rest -= len(line) + 2; rest < 2 {
			return answeredWith("too long a trailer")
		}
	}
}

func chunkError(err error) error {
	if m := (malformed)(""); err != nil && !errors.As(err, &m) {
		return err
	}
	return answeredWith("a broken chunk")
}

// line takes a line that ends with CR LF, both included at most so long.
func (b *reader) line(most int) ([]byte, error) {
	for {
		got := b.buf[b.r:b.w]
		n := bytes.IndexByte(got, '\n')
		if n+1 > most || n < 0 && len(got) >= most || n == 0 || n > 0 && bytes.IndexByte(got[:n], '\r') != n-1 {
			return nil, answeredWith("a broken line")
		}
		if n > 0 {
			b.r += n + 1
			return got[:n-1], nil
		}
		if err := b.fill(); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// copyTrailerTo makes what followed the last chunk the trailer of the answer.
func (b *reader) copyTrailerTo(to http.Header) {
	for line := range strings.SplitSeq(string(b.trailer), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && !isHop(name) && !strings.HasPrefix(name, "Hob-") {
			to.Add(http.TrailerPrefix+name, strings.Trim(value, " \t"))
		}
	}
}

// rest returns what has arrived behind the response, without white space.
func (b *reader) rest() []byte {
	return bytes.TrimLeft(b.buf[b.r:b.w], " \t\r\n")
}
