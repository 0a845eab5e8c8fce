package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A series is a directory of segments: entries (lines or records) in the order
// in which they were appended, numbered from the first on. The name of a segment
// is the number of its first entry. No file is open but while it is written or
// read.
type series struct {
	dir         string
	segmentSize int64                                  // a segment that would grow over it gets no more entries
	limit       int64                                  // of all segments together
	age         time.Duration                          // a segment whose last entry is older may go; 0: none
	id          func(rest []byte) (id string, ok bool) // of the call of an entry
	exact       bool                                   // the IDs of each segment must be known, if it must be read for that
	note        func(bytes int64) []byte               // the entry that stands where a torn end was cut off; nil: none does
	used        *atomic.Int64                          // counts the bytes of many series; may be nil
	log         *slog.Logger

	mu       sync.Mutex
	loaded   bool      // guarded by mu, as all below
	gone     bool      // the directory was removed for good
	segments []segment // the oldest first
	next     uint64    // number of the next entry
}

// A segment is one file of a series.
type segment struct {
	base        uint64 // number of its first entry
	size        int64  // bytes that hold frames, with the head of the file
	count       uint64 // entries; not known of closed segments that are not ranged
	begun       time.Time
	closed      bool   // gets no more entries
	ranged      bool   // first and last are known
	first, last string // the least and the greatest ID in it; "" if entries have none
}

// mayHave reports whether there may be entries with this ID in g.
func (g *segment) mayHave(id string) bool {
	return !g.ranged || g.first != "" && g.first <= id && id <= g.last
}

const segmentSuffix = ".seg"

func (s *series) file(base uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%020d", base)+segmentSuffix)
}

// segmentBase is the number in the name of a segment file.
func segmentBase(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	base, err := strconv.ParseUint(digits, 10, 64)
	return base, ok && len(digits) == 20 && err == nil
}

// load finds out what is on disk, and cuts a torn end off the last segment: what
// the death of the daemon left of a write. Precondition: s.mu is held.
func (s *series) load() error {
	if s.loaded {
		return nil
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var segments []segment
	var next uint64
	for _, e := range entries { // in the order of their names
		base, ok := segmentBase(e.Name())
		if !ok || base < next {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // it has gone meanwhile
		}
		segments = append(segments, segment{base: base, size: info.Size(), closed: true, begun: info.ModTime()})
		next = base
	}
	for i := range segments {
		if err := s.examine(&segments[i], i == len(segments)-1); err != nil {
			return err
		}
	}
	segments = slices.DeleteFunc(segments, func(g segment) bool { return g.size == 0 })
	if n := len(segments); n > 0 {
		next = segments[n-1].base + segments[n-1].count
	}
	s.segments, s.next, s.loaded = segments, next, true
	return nil
}

// examine reads what load must know of a segment: of the last how far it is
// good and how much is in it, of the others the IDs. One with nothing in it is
// removed, and has size 0 afterwards. Precondition: s.mu is held.
func (s *series) examine(g *segment, last bool) error {
	f, err := os.OpenFile(s.file(g.base), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// What stands at the end of the last one may be the text of a line.
	if (s.exact || !last) && readSeal(f, g) || !s.exact && !last {
		return nil
	}
	end, err := s.scan(f, g)
	if err != nil || !last {
		return err
	}
	if end < g.size {
		if end, err = s.cut(f, g, end); err != nil {
			return err
		}
	}
	if g.size = end; g.count == 0 {
		g.size = 0
		return os.Remove(f.Name())
	}
	g.closed = false
	return nil
}

// cut cuts what is behind end off a segment, and puts the note in its place. It
// returns the new end. Precondition: s.mu is held.
func (s *series) cut(f *os.File, g *segment, end int64) (int64, error) {
	torn := g.size - end
	s.log.Warn("torn end of a log segment cut off", "file", f.Name(), "bytes", torn)
	if err := f.Truncate(end); err != nil || s.note == nil || torn <= 0 {
		return end, err
	}
	var b []byte
	if end == 0 {
		b = append(b, segmentMagic...)
	}
	b = append(b, s.note(torn)...)
	if _, err := f.WriteAt(b, end); err != nil {
		return end, f.Truncate(end) // the note is done without
	}
	g.count++
	return end + int64(len(b)), nil
}

// scan reads all of a segment and returns where the last good frame in it ends;
// it fills in count, begun, first and last.
func (s *series) scan(f *os.File, g *segment) (end int64, err error) {
	r, err := openFrames(f, g.size)
	if err == nil && r.off <= g.size {
		end = r.off
	}
	for err == nil {
		var fr frame
		if fr, err = r.next(); err != nil || fr.lost > 0 {
			continue
		}
		if end = r.off; fr.kind == kindSeal {
			continue
		}
		if g.count++; g.count == 1 {
			g.begun = time.Unix(0, fr.at)
		}
		if id, ok := s.id(fr.rest); ok {
			g.addID(id)
		}
	}
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	g.ranged = true
	return end, nil
}

// openFrames reads the head of a segment file and returns a reader of its
// frames. A head that is damaged is a loss before them.
func openFrames(f io.ReaderAt, size int64) (*frameReader, error) {
	head := make([]byte, len(segmentMagic))
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	r := &frameReader{from: f, end: size}
	if string(head) == segmentMagic {
		r.off = int64(len(head))
	}
	return r, nil
}

func (g *segment) addID(id string) {
	if g.first == "" || id < g.first {
		g.first = id
	}
	if id > g.last {
		g.last = id
	}
}

// A seal is the last frame of a closed segment: the least and the greatest ID in
// it, each of sealedID bytes filled up with zeros, and an uint64, how many entries
// there are.
const (
	sealedID = 32
	sealSize = headSize + bodyHead + 2*sealedID + 8
)

// appendSeal appends the seal of g to dst, unless an ID does not fit.
func appendSeal(dst []byte, g segment, now time.Time) []byte {
	if len(g.first) > sealedID || len(g.last) > sealedID || g.first == "" {
		return dst
	}
	dst, start := beginFrame(dst, kindSeal, now)
	for _, id := range []string{g.first, g.last} {
		dst = append(dst, id...)
		dst = append(dst, make([]byte, sealedID-len(id))...)
	}
	return endFrame(binary.LittleEndian.AppendUint64(dst, g.count), start)
}

// readSeal fills in what the seal of g says, and reports whether there is one.
func readSeal(f io.ReaderAt, g *segment) bool {
	b := make([]byte, sealSize)
	if g.size < sealSize {
		return false
	}
	if _, err := f.ReadAt(b, g.size-sealSize); err != nil {
		return false
	}
	fr, size, err := parseFrame(b)
	if err != nil || fr.kind != kindSeal || size != sealSize {
		return false
	}
	id := func(b []byte) string { return strings.TrimRight(string(b), "\x00") }
	g.first, g.last = id(fr.rest[:sealedID]), id(fr.rest[sealedID:2*sealedID])
	g.count = binary.LittleEndian.Uint64(fr.rest[2*sealedID:])
	g.ranged = true
	return true
}

// A batch is a number of frames on their way to a series.
type batch struct {
	frames []byte
	count  uint64
	ids    segment // only first and last
}

// append writes a batch at the end, all of it or, with an error, nothing.
func (s *series) append(b batch, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil
	}
	if err := s.load(); err != nil {
		return err
	}
	err := s.appendTo(b, now)
	if errors.Is(err, fs.ErrNotExist) { // somebody has removed the file or the directory
		if n := len(s.segments); n > 0 {
			s.segments[n-1].closed = true
		}
		err = s.appendTo(b, now)
	}
	return err
}

// appendTo is append once the state is known. Precondition: s.mu is held.
func (s *series) appendTo(b batch, now time.Time) error {
	n := len(s.segments)
	if n == 0 || s.full(s.segments[n-1], len(b.frames), now) {
		return s.begin(b, now)
	}
	g := &s.segments[n-1]
	f, err := os.OpenFile(s.file(g.base), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b.frames, g.size); err != nil {
		if err := f.Truncate(g.size); err != nil {
			g.closed = true // what was written stays behind the end; the next segment begins clean
		}
		return err
	}
	s.grew(g, b)
	return nil
}

// full reports whether g is not to get another size bytes.
func (s *series) full(g segment, size int, now time.Time) bool {
	return g.closed || g.size+int64(size)+sealSize > s.segmentSize || s.age > 0 && now.Sub(g.begun) > s.age/8
}

// begin writes a batch into a new segment, and drops the oldest ones when there
// is too much. Precondition: s.mu is held.
func (s *series) begin(b batch, now time.Time) error {
	s.seal(now)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	name := s.file(s.next)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append([]byte(segmentMagic), b.frames...))
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	s.segments = append(s.segments, segment{base: s.next, size: int64(len(segmentMagic)), begun: now, ranged: true})
	s.count(int64(len(segmentMagic)))
	s.grew(&s.segments[len(s.segments)-1], b)
	grows := max(0, s.segmentSize-s.segments[len(s.segments)-1].size)
	for len(s.segments) > 1 && s.size()+grows > s.limit {
		if err := s.drop(0); err != nil {
			s.log.Warn("old log segment cannot be removed", "err", err)
			break
		}
	}
	return nil
}

// grew says that b has been written to g, the last segment. Precondition: s.mu is held.
func (s *series) grew(g *segment, b batch) {
	g.size += int64(len(b.frames))
	g.count += b.count
	s.next += b.count
	s.count(int64(len(b.frames)))
	if b.ids.first != "" {
		g.addID(b.ids.first)
		g.addID(b.ids.last)
	}
}

// seal closes the last segment. A seal that cannot be written is done without.
// Precondition: s.mu is held.
func (s *series) seal(now time.Time) {
	n := len(s.segments)
	if n == 0 || s.segments[n-1].closed {
		return
	}
	g := &s.segments[n-1]
	g.closed = true
	b := appendSeal(nil, *g, now)
	f, err := os.OpenFile(s.file(g.base), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if _, err := f.WriteAt(b, g.size); err != nil {
		_ = f.Truncate(g.size) // else a torn end, which no reader looks at
		return
	}
	g.size += int64(len(b))
	s.count(int64(len(b)))
}

func (s *series) count(bytes int64) {
	if s.used != nil {
		s.used.Add(bytes)
	}
}

// size is the size of all segments. Precondition: s.mu is held.
func (s *series) size() (all int64) {
	for _, g := range s.segments {
		all += g.size
	}
	return all
}

// drop removes segment i. Precondition: s.mu is held.
func (s *series) drop(i int) error {
	if err := os.Remove(s.file(s.segments[i].base)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.count(-s.segments[i].size)
	s.segments = slices.Delete(s.segments, i, i+1)
	return nil
}

// remove removes the segment with this base, of size bytes, whether or not the
// series has been loaded.
func (s *series) remove(base uint64, size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.segments, func(g segment) bool { return g.base == base }); i >= 0 {
		return s.drop(i)
	}
	if err := os.Remove(s.file(base)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	s.count(-size)
	return nil
}

// removeAll removes the series for good: what is appended later goes nowhere.
func (s *series) removeAll() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(-s.size())
	s.gone, s.segments = true, nil
	return os.RemoveAll(s.dir)
}

// state returns the segments as they are now, the oldest first, and the number
// of the next entry.
func (s *series) state() ([]segment, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, s.next, nil
	}
	if err := s.load(); err != nil {
		return nil, 0, err
	}
	return slices.Clone(s.segments), s.next, nil
}

// open opens a segment for reading; fs.ErrNotExist if it has been dropped.
func (s *series) open(g segment) (*os.File, error) { return os.Open(s.file(g.base)) }
