package logs

import (
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
	ids     segment       // only first and last: of the lines in buf
	queued  bool          // the store knows that there are some
	stalled bool          // a writer has waited for room in vain: until there is some, nobody waits
	room    chan struct{} // closed when buf has been taken; nil until someone waits
	changed chan struct{} // closed when there is something to read; nil until someone waits
	failed  int           // lines that the disk did not take, and no line says so yet; they were before buf
	why     string        // of failed
	credit  float64       // bytes that may be written now: the limit of Config.PerSecond
	counted time.Time     // when credit was brought up to date
	late    int           // lines for which there was no room, and no line says so yet; they were behind buf
	gone    bool          // the function was deleted
}

// add puts a line or an event into the buffer. While there is no room it waits
// for up to writerPatience, unless somebody has just done so in vain. It returns
// why the line is dropped, if it is; what hob writes has no limit.
func (f *function) add(at time.Time, kind byte, call string, stream byte, text []byte) (dropped string) {
	size := lineSize(call, text)
	limited := kind == kindLine && stream != streamHob
	f.mu.Lock()
	defer f.mu.Unlock()
	if limited && !f.mayWrite(at, size) {
		return f.store.overLimit
	}
	for len(f.buf)+size > bufferSize && !f.stalled && !f.gone {
		f.stalled = !f.waitForRoom()
	}
	switch {
	case f.gone:
		return ""
	case f.stalled:
		return slowDisk
	}
	if !f.queued && !f.store.queue(f) {
		return ""
	}
	if limited {
		f.credit -= float64(size)
	}
	f.queued = true
	if f.buf == nil {
		f.buf = f.store.takeBuffer()
	}
	f.buf = appendEntry(f.buf, kind, at, call, stream, text)
	f.lines++
	if call != "" {
		f.ids.addID(callOf(call))
	}
	if len(f.buf) > bufferSize/2 {
		signal(f.store.hurry)
	}
	return ""
}

// mayWrite reports whether size bytes are within the limit now.
// Precondition: f.mu is held.
func (f *function) mayWrite(now time.Time, size int) bool {
	perSecond := float64(f.store.config.PerSecond)
	if passed := now.Sub(f.counted); passed > 0 {
		f.credit = min(2*perSecond, f.credit+perSecond*passed.Seconds())
		f.counted = now
	}
	return f.credit >= float64(size)
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

// lose notes that n lines were dropped for which there was no room.
func (f *function) lose(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late += n
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

// waiting is what is on its way to the disk.
type waiting struct {
	frames       []byte
	lines        int
	ids          segment
	failed, late int // as in function
	why          string
}

// take empties the buffer.
func (f *function) take() waiting {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := waiting{f.buf, f.lines, f.ids, f.failed, f.late, f.why}
	f.buf, f.lines, f.ids, f.failed, f.late, f.queued, f.stalled = nil, 0, segment{}, 0, 0, false, false
	if f.room != nil {
		close(f.room)
		f.room = nil
	}
	return w
}

// flush brings the lines in the buffer to the disk. Those that the disk does not
// take are dropped and counted; the next that it takes have a line before them
// that says so.
func (f *function) flush() {
	f.flushing.Lock()
	defer f.flushing.Unlock()
	w := f.take()
	if w.lines == 0 {
		f.giveBack(w)
		return
	}
	defer f.store.giveBuffer(w.frames)
	now := time.Now()
	b := batch{frames: w.frames, count: uint64(w.lines), ids: w.ids}
	if w.failed > 0 {
		b.frames = append(appendLine(nil, now, "", streamHob, droppedText(w.failed, w.why)), b.frames...)
		b.count++
	}
	if w.late > 0 {
		b.frames = appendLine(b.frames[:len(b.frames):len(b.frames)], now, "", streamHob, droppedText(w.late, slowDisk))
		b.count++
	}
	err := f.series.append(b, now)
	f.store.health.report(err, w.lines)
	if err != nil {
		w.failed, w.late, w.why = w.failed+w.lines+w.late, 0, inWords(err)
		f.giveBack(w)
	}
	if f.store.used.Load() > int64(f.store.config.Total) {
		signal(f.store.tooBig)
	}
}

// giveBack keeps what was dropped for the next flush.
func (f *function) giveBack(w waiting) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late += w.late
	if f.failed += w.failed; w.failed > 0 {
		f.why = w.why
	}
}

// forget drops the lines in the buffer and all that come later.
func (f *function) forget() {
	f.mu.Lock()
	f.gone = true
	f.mu.Unlock()
	f.store.giveBuffer(f.take().frames)
	f.wakeFollowers()
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
