package logs

import (
	"bytes"
	"io"
	"sync"
	"time"
	"unicode/utf8"
)

// slowDisk is why a writer drops lines.
const slowDisk = "the disk did not keep up"

// Writer returns a writer whose lines become those of a function's log, each
// with the time at which it was complete. A line that is longer than 64 KiB is
// cut into several; the last one needs no line end, Close completes it. Write
// never fails: a line that the disk cannot take in time (100 ms) is dropped, and
// a line of stream "hob" says how many were. When Close has returned, whoever
// reads the log finds everything that was written.
//
// A Writer costs next to nothing until its first line. stream is "stdout",
// "stderr" or "hob".
func (s *Store) Writer(funcID, callID, stream string) io.WriteCloser {
	return &writer{store: s, id: funcID, call: callID, stream: streamByte(stream)}
}

type writer struct {
	store    *Store
	id, call string
	stream   byte

	mu      sync.Mutex
	log     *function // guarded by mu, as all below; nil until the first line
	part    []byte    // of a line that has not ended
	dropped int       // lines, and no line says so yet
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, n := time.Now(), len(p)
	lines := false
	for len(p) > 0 {
		piece, rest, ended := bytes.Cut(p, []byte{'\n'})
		for len(w.part)+len(piece) > maxLine {
			k := maxLine - len(w.part)
			w.part = append(w.part, piece[:k]...)
			piece = piece[k:]
			cut := runeCut(w.part)
			w.line(now, w.part[:cut])
			w.part = append(w.part[:0], w.part[cut:]...)
			lines = true
		}
		switch {
		case !ended:
			w.part = append(w.part, piece...)
		case len(w.part) == 0:
			w.line(now, withoutCR(piece))
		default:
			w.part = append(w.part, piece...)
			w.line(now, withoutCR(w.part))
			w.part = w.part[:0]
		}
		lines = lines || ended
		p = rest
	}
	if lines && w.log != nil {
		w.log.wakeFollowers()
	}
	return n, nil
}

// Close implements io.Closer. It never fails.
func (w *writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.part) > 0 {
		w.line(time.Now(), withoutCR(w.part))
	}
	w.part = nil
	if w.log == nil {
		return nil
	}
	if w.dropped > 0 && !w.log.add(time.Now(), kindLine, w.call, streamHob, droppedText(w.dropped, slowDisk)) {
		w.log.lose(w.dropped)
	}
	w.dropped = 0
	w.log.wakeFollowers()
	return nil
}

// line hands on a complete line. Precondition: w.mu is held.
func (w *writer) line(now time.Time, text []byte) {
	if w.log == nil {
		log, err := w.store.function(w.id)
		if err != nil {
			return // a function without an ID has no log
		}
		w.log = log
	}
	if w.dropped > 0 && w.log.add(now, kindLine, w.call, streamHob, droppedText(w.dropped, slowDisk)) {
		w.dropped = 0
	}
	if w.dropped > 0 || !w.log.add(now, kindLine, w.call, w.stream, text) {
		w.dropped++
	}
}

func withoutCR(line []byte) []byte { return bytes.TrimSuffix(line, []byte{'\r'}) }

// runeCut is where to cut a line that is too long, so that no character is cut.
func runeCut(b []byte) int {
	for back := 1; back < utf8.UTFMax && back < len(b); back++ {
		if at := len(b) - back; utf8.RuneStart(b[at]) {
			if !utf8.FullRune(b[at:]) {
				return at
			}
			break
		}
	}
	return len(b)
}
