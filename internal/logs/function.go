package logs

import (
	"fmt"
	"sync"
	"time"
)

// function is the log of one function: its series, and the lines on their way there.
type function struct {
	store  *Store
	series *series

	flushing sync.Mutex // held by who takes lines to the disk, so that they keep their order

	mu      sync.Mutex
	buf     []byte        // guarded by mu, as all below; frames for the disk, at most bufferSize
	lines   int           // in buf
	queued  bool          // the store knows that there are some
	stalled bool          // a writer has waited for room in vain: the next do not wait
	room    chan struct{} // closed when buf has been taken; nil until someone waits
	changed chan struct{} // closed when there is something to read; nil until someone waits
	lost    int           // lines that were dropped, and no line says so yet
	why     string        // of lost
	gone    bool          // the function was deleted
}

// add puts a line into the buffer. While there is no room it waits for up to
// writerPatience, unless somebody has just done so in vain; then it reports
// false, and the line is dropped.
func (f *function) add(at time.Time, call string, stream byte, text []byte) bool {
	size := lineSize(call, text)
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.buf)+size > bufferSize && !f.gone {
		if f.stalled {
			return false
		}
		f.stalled = !f.waitForRoom()
	}
	if f.gone {
		return true
	}
	f.stalled = false
	if !f.queued && !f.store.queue(f) {
		return true
	}
	f.queued = true
	if f.buf == nil {
		f.buf = f.store.takeBuffer()
	}
	f.buf = appendLine(f.buf, at, call, stream, text)
	f.lines++
	if len(f.buf) > bufferSize/2 {
		signal(f.store.hurry)
	}
	return true
}

// waitForRoom waits until the buffer has been taken, and reports whether that
// was in time. Precondition: f.mu is held; it is given up meanwhile.
func (f *function) waitForRoom() bool {
	if f.room == nil {
		f.room = make(chan struct{})
	}
	room := f.room
	f.mu.Unlock()
	defer f.mu.Lock()
	signal(f.store.hurry)
	patience := time.NewTimer(writerPatience)
	defer patience.Stop()
	select {
	case <-room:
		return true
	case <-patience.C:
		return false
	}
}

// lose notes that n lines were dropped.
func (f *function) lose(n int, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost += n
	f.why = why
}

// wakeFollowers lets those who wait for lines look again.
func (f *function) wakeFollowers() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// more returns a channel that closes when there is something new to read, or
// nil if there never will be.
func (f *function) more() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		return nil
	}
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// take empties the buffer.
func (f *function) take() (buf []byte, lines, lost int, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	buf, lines, lost, why = f.buf, f.lines, f.lost, f.why
	f.buf, f.lines, f.lost, f.queued = nil, 0, 0, false
	if f.room != nil {
		close(f.room)
		f.room = nil
	}
	return buf, lines, lost, why
}

// flush brings the lines in the buffer to the disk. Those that the disk does not
// take are dropped and counted; the next that it takes have a line before them
// that says so.
func (f *function) flush() {
	f.flushing.Lock()
	defer f.flushing.Unlock()
	buf, lines, lost, why := f.take()
	if lines == 0 {
		if lost > 0 {
			f.lose(lost, why)
		}
		return
	}
	defer f.store.giveBuffer(buf)
	now := time.Now()
	b := batch{frames: buf, count: uint64(lines)}
	if lost > 0 {
		b.frames = append(appendLine(nil, now, "", streamHob, droppedText(lost, why)), buf...)
		b.count++
	}
	err := f.series.append(b, now)
	f.store.health.report(err, lines)
	if err != nil {
		f.lose(lost+lines, inWords(err))
	}
	if f.store.used.Load() > int64(f.store.config.Total) {
		signal(f.store.tooBig)
	}
}

// forget drops the lines in the buffer and all that come later.
func (f *function) forget() {
	f.mu.Lock()
	f.gone = true
	f.mu.Unlock()
	buf, _, _, _ := f.take()
	f.store.giveBuffer(buf)
	f.wakeFollowers()
}

// droppedText is the line that stands where lines were dropped.
func droppedText(n int, why string) []byte {
	lines := "lines"
	if n == 1 {
		lines = "line"
	}
	return fmt.Appendf(nil, "… %d %s dropped: %s", n, lines, why)
}

func (s *Store) takeBuffer() []byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 1<<10)
}

func (s *Store) giveBuffer(b []byte) {
	if b != nil {
		s.buffers.Put(&b)
	}
}
