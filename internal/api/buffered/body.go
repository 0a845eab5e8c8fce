package buffered

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"hob/faas"
	"hob/internal/api"
)

// A Body is that of a request. It remembers what is wrong with it, which who reads it
// says in words of its own.
type Body struct {
	io.ReadCloser
	Waits  bool  // the client does, to be asked for it
	Over   bool  // the limit
	Broken error // of its chunks, if it has come in such

	size  int64 // -1: not known
	read  int64
	ended bool
	asked bool
}

// BodyOf is the body of r, which ends with an error above the limit; 0: there is none.
// One whose length says that it is larger is not fit to be read.
func BodyOf(w http.ResponseWriter, r *http.Request, limit faas.Bytes) (b *Body, fits bool) {
	b = &Body{ReadCloser: r.Body, size: r.ContentLength, Waits: Waits(r)}
	if limit <= 0 {
		return b, true
	}
	if r.ContentLength > int64(limit) {
		return b, false
	}
	b.ReadCloser = http.MaxBytesReader(w, r.Body, int64(limit))
	return b, true
}

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	b.asked = true
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	b.ended = err == io.EOF
	if err != nil && err != io.EOF {
		if _, b.Over = errors.AsType[*http.MaxBytesError](err); !b.Over && isMalformed(err) {
			b.Broken = err
		}
	}
	return n, err
}

// Sound reports whether nothing is wrong with what was read of it.
func (b *Body) Sound() bool { return !b.Over && b.Broken == nil }

// left reports whether some of it was not read. Whoever asks has waited for who reads.
func (b *Body) left() bool { return !b.ended && b.read != b.size }

// isMalformed reports whether err, of reading a body, is about what has come. net/http
// has no type for such errors: they are those that no connection and no end has.
func isMalformed(err error) bool {
	_, ofConn := errors.AsType[net.Error](err)
	return !ofConn && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) &&
		!errors.Is(err, http.ErrBodyReadAfterClose) && !errors.Is(err, http.ErrHijacked) && !errors.Is(err, context.Canceled)
}

// Waits reports whether the client of r sends its body when it is asked for it.
func Waits(r *http.Request) bool { return r.Header["Expect"] != nil }

// HearOut takes what the client of r still sends of a body that nobody wants: else
// it would find its connection closed, and not the answer.
func HearOut(w http.ResponseWriter, r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody {
		api.HearOut(w, r)
		r.Body = http.NoBody // once is enough
	}
}

// restTime is how long the client of a call that is over may rest in its body.
const restTime = 10 * time.Second

// limitSender bounds how long net/http waits, before it answers, for the rest of a
// body that is not large. It is not for every call: a deadline wakes whoever waits for
// the network, to be told of an earlier one. The answer of a call does not wait for all of one that is.
func limitSender(w http.ResponseWriter, r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(restTime)) // not every writer has one
		r.Body = http.NoBody
	}
}
