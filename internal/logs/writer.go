package logs

import (
	"bytes"
	"io"
	"sync"
	"time"
	"unicode/utf8"
)

// slowDisk is why a writer drops lines for which there is no room.
const slowDisk = "the disk did not keep up"

// tellEvery is how long a writer that is over the limit may keep to itself how
// many lines it has dropped.
const tellEvery = time.Second

// Writer returns a writer whose lines become those of a function's log, each
// with the time at which it was complete. A line that is longer than 64 KiB is
// cut into several; the last one needs no line end, Close completes it. Write
// never fails: a line that the disk cannot take in time (100 ms), or that is over
// the limit of Config.PerSecond, is dropped, and a line of stream "hob" says how
// many were, a second later at the most. When Close has returned, whoever reads
// the log finds everything that was written.
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

	mu     sync.Mutex
	log    *function   // guarded by mu, as all below; nil until the first line
	from   Source      // what Config.Syslog said during this Write; asked tells whether it did
	asked  bool        //
	part   []byte      // of a line that has not ended
	late   int         // lines for which there was no room, and no line says so yet
	over   int         // lines over the limit, and no line says so yet
	teller *time.Timer // runs while over is not 0; nil until it first is
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, n := time.Now(), len(p)
	lines := false
	w.asked = false
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
	if w.teller != nil {
		w.teller.Stop()
	}
	now := time.Now()
	w.note(now, &w.late, slowDisk)
	w.note(now, &w.over, w.store.overLimit)
	if n := w.late + w.over; n > 0 {
		w.log.lose(n)
	}
	w.late, w.over = 0, 0
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
	if w.keep(now, text) {
		w.forward(now, text)
	}
}

// keep brings a line to the log. It reports whether that is within the limit of
// Config.PerSecond. Precondition: w.mu is held.
func (w *writer) keep(now time.Time, text []byte) bool {
	w.note(now, &w.late, slowDisk)
	if w.late > 0 {
		w.late++
		return true
	}
	switch w.log.add(now, kindLine, w.call, w.stream, text) {
	case "":
	case slowDisk:
		w.late++
	default:
		if w.over++; w.over == 1 {
			w.startTeller()
		}
		return false
	}
	return true
}

// forward sends a line to the syslog server of its function, if it has one, and to
// the daemon's log, if that is wanted.
// Precondition: w.mu is held.
func (w *writer) forward(now time.Time, text []byte) {
	if w.store.config.Syslog == nil || w.stream == streamHob {
		return
	}
	if !w.asked {
		w.from, w.asked = w.store.config.Syslog(w.id), true
	}
	if w.from.Syslog != "" {
		w.store.syslog.send(&message{from: w.from, funcID: w.id, call: w.call, at: now, stream: w.stream, text: text})
	}
	w.echo(text)
}

// echo sends a line to the daemon's log, if that is wanted. Precondition: w.mu is held.
func (w *writer) echo(text []byte) {
	if w.store.echo != nil {
		w.store.echo.send(message{from: w.from, funcID: w.id, call: w.call, text: text})
	}
}

// note says how many lines were dropped, if there are any and there is room for
// it; then n becomes 0. Precondition: w.mu is held, and w.log is set.
func (w *writer) note(now time.Time, n *int, why string) {
	if *n == 0 {
		return
	}
	if text := droppedText(*n, why); w.log.add(now, kindLine, w.call, streamHob, text) == "" {
		*n = 0
		w.echo(text)
	}
}

// startTeller lets tell be called in tellEvery. Precondition: w.mu is held.
func (w *writer) startTeller() {
	if w.teller == nil {
		w.teller = time.AfterFunc(tellEvery, w.tell)
	} else {
		w.teller.Reset(tellEvery)
	}
}

// tell says how many lines were over the limit: who writes no more would not.
func (w *writer) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over == 0 {
		return // it has been closed
	}
	if w.note(time.Now(), &w.over, w.store.overLimit); w.over > 0 {
		w.startTeller()
	}
	w.log.wakeFollowers()
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
