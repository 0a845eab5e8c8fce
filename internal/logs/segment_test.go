package logs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
)

func openTest(t *testing.T, config Config) *Store {
	t.Helper()
	s, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func textsOf(t *testing.T, s *Store, function string) []string {
	t.Helper()
	return textsOfSelection(t, s, Selection{Function: function, Tail: -1})
}

func textsOfSelection(t *testing.T, s *Store, sel Selection) (all []string) {
	t.Helper()
	for line, err := range s.Follow(t.Context(), sel) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, line.Text)
	}
	return all
}

func writeLines(t *testing.T, s *Store, function string, lines ...string) {
	t.Helper()
	w := s.Writer(function, "c", "stderr")
	for _, line := range lines {
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// onlySegment returns the one segment file of a directory.
func onlySegment(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(names) != 1 {
		t.Fatalf("segments %v, %v; want one", names, err)
	}
	return names[0]
}

func TestRunBringsLinesToTheDiskByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		writeLines(t, s, "f", "one")
		s.Record(faas.Call{ID: faas.NewID()})
		time.Sleep(flushDelay) // of the bubble's clock
		synctest.Wait()
		for _, name := range []string{"functions/f", "journal"} {
			if info, err := os.Stat(onlySegment(t, filepath.Join(dir, name))); err != nil || info.Size() <= int64(len(segmentMagic)) {
				t.Errorf("%s: %v, %v; want something in it", name, info, err)
			}
		}
		writeLines(t, s, "f", "two")
		cancel() // the rest is written on the way out
		<-ended
		if f, err := s.function("f"); err != nil || len(f.buf) > 0 {
			t.Errorf("%d bytes are left in memory after Run, %v", len(f.buf), err)
		}
		s.Close()
	})
}

func TestOldSegmentsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Config{Dir: dir, MaxAge: time.Hour, JournalAge: time.Hour})
	writeLines(t, s, "old", "old")
	writeLines(t, s, "new", "new")
	s.Record(faas.Call{ID: "01OLD"})
	s.flush()
	s.journal.flush()
	past := time.Now().Add(-2 * time.Hour)
	for _, name := range []string{"functions/old", "journal"} {
		if err := os.Chtimes(onlySegment(t, filepath.Join(dir, name)), past, past); err != nil {
			t.Fatal(err)
		}
	}
	s.sweep(t.Context(), time.Now())
	if got := textsOf(t, s, "old"); len(got) != 0 {
		t.Errorf("old lines %q, want none", got)
	}
	if got := textsOf(t, s, "new"); !slices.Equal(got, []string{"new"}) {
		t.Errorf("new lines %q", got)
	}
	if _, err := s.Call("01OLD"); faas.KindOf(err) != faas.NotFound {
		t.Errorf("old record: %v, want not found", err)
	}
	writeLines(t, s, "old", "again")
	if got := textsOf(t, s, "old"); !slices.Equal(got, []string{"again"}) {
		t.Errorf("lines %q after the sweep, want again", got)
	}
}

func TestOldestLinesOfAllFunctionsGoFirst(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Config{Dir: dir, Total: faas.MB})
	text := strings.Repeat("x", 50_000)
	for i, name := range []string{"oldest", "middle", "newest"} {
		for range 10 {
			writeLines(t, s, name, text)
			s.flush()
		}
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(onlySegment(t, filepath.Join(dir, "functions", name)), at, at); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-s.tooBig:
	default:
		t.Error("1.5 MB are on the disk, and nobody says that it is over the limit of 1 MB")
	}
	s.sweep(t.Context(), time.Now())
	for name, want := range map[string]int{"oldest": 0, "middle": 0, "newest": 10} {
		if name == "middle" {
			continue // 1 MB less what is kept free decides
		}
		if got := len(textsOf(t, s, name)); got != want {
			t.Errorf("%d lines of %s, want %d", got, name, want)
		}
	}
	if used := s.used.Load(); used > int64(faas.MB) || used < 500_000 {
		t.Errorf("%d bytes counted, want at most 1 MB", used)
	}
}

func TestSegmentIsClosedBeforeItSpansTooLongATime(t *testing.T) {
	s := openTest(t, Config{Dir: t.TempDir(), MaxAge: 8 * time.Hour})
	f, err := s.function("f")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i, at := range []time.Time{now, now.Add(59 * time.Minute), now.Add(61 * time.Minute)} {
		if err := f.series.append(batch{frames: appendLine(nil, at, "c", streamStderr, nil), count: 1}, at); err != nil {
			t.Fatal(err)
		}
		if segments, _, err := f.series.state(); err != nil || len(segments) != 1+i/2 {
			t.Errorf("%d segments after line %d, %v; want %d", len(segments), i, err, 1+i/2)
		}
	}
}

func TestSealSparesReadingAJournalSegment(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Config{Dir: dir, JournalBytes: faas.MB})
	for range 2000 {
		s.Record(faas.Call{ID: faas.NewID(), Error: strings.Repeat("x", 100)})
		if len(s.journal.pending) == 200 {
			s.journal.flush()
		}
	}
	want, _, err := s.journal.series.state()
	if err != nil || len(want) < 3 {
		t.Fatalf("%d segments, %v; want at least 3", len(want), err)
	}
	s.Close()
	for _, g := range want[:len(want)-1] {
		f, err := os.Open(s.journal.series.file(g.base))
		if err != nil {
			t.Fatal(err)
		}
		sealed := segment{size: g.size}
		if !readSeal(f, &sealed) || sealed.first != g.first || sealed.last != g.last || sealed.count != g.count {
			t.Errorf("seal of segment %d = %+v, want %+v", g.base, sealed, g)
		}
		f.Close()
	}
	again := openTest(t, Config{Dir: dir, JournalBytes: faas.MB})
	got, _, err := again.journal.series.state()
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d segments after opening again, %v; want %d", len(got), err, len(want))
	}
	for i := range got {
		if got[i].first != want[i].first || got[i].last != want[i].last || got[i].count != want[i].count || got[i].size != want[i].size {
			t.Errorf("segment %d = %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestZerosAreNoFrame(t *testing.T) {
	for n := range 40 {
		if _, _, err := parseFrame(make([]byte, n)); err == nil {
			t.Errorf("%d zero bytes are a frame", n)
		}
	}
}

func FuzzFrames(f *testing.F) {
	good := appendLine(nil, time.Unix(0, 1), "call", streamStderr, []byte("text"))
	record := appendRecord(nil, time.Unix(0, 1), &faas.Call{ID: "01ABC", App: "a", Function: "f", State: faas.CallFailed, Error: "x"})
	f.Add([]byte{})
	f.Add(good)
	f.Add(record)
	f.Add(append(bytes.Clone(good), record...))
	f.Add(good[:len(good)-1])
	f.Add(appendEntry(nil, kindEvent, time.Unix(0, 1), "call", 4, appendEvent(nil, faas.Event{Attempt: 300, Stdout: "out", Message: "why"})))
	f.Add(append(bytes.Clone(good), make([]byte, 100)...))
	f.Add(appendSeal(nil, segment{first: "01ABC", last: "01XYZ", count: 3}, time.Unix(0, 1)))
	f.Add(slices.Concat(good, []byte("damage"), record, make([]byte, 50), good))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := frameReader{from: bytes.NewReader(b), end: int64(len(b))}
		var again []byte
		damaged := false
		for {
			off := r.off
			fr, err := r.next()
			if err != nil {
				if !errors.Is(err, io.EOF) || r.off != int64(len(b)) {
					t.Errorf("next = %v at %d of %d", err, r.off, len(b))
				}
				break
			}
			if r.off <= off || r.off > int64(len(b)) {
				t.Fatalf("a step from %d to %d of %d", off, r.off, len(b))
			}
			if fr.lost > 0 {
				if fr.lost != r.off-off || damaged {
					t.Fatalf("%d bytes lost from %d to %d, behind others: %v", fr.lost, off, r.off, damaged)
				}
				again, damaged = append(again, b[off:r.off]...), true
				continue
			}
			damaged = false
			var start int
			again, start = beginFrame(again, fr.kind, time.Unix(0, fr.at))
			again = endFrame(append(again, fr.rest...), start)
			if c := (cursor{}); c.wants(fr) {
				logLine(fr)
			}
			if k, ok := parseKeys(fr.rest); ok {
				k.call()
			}
		}
		if !bytes.Equal(again, b[:r.off]) {
			t.Errorf("frames written again differ:\n got %x\nwant %x", again, b[:r.off])
		}
		g := segment{size: int64(len(b))}
		readSeal(bytes.NewReader(b), &g)
	})
}

// A segment that is not read in one go, with frames of all sizes.
func TestFramesAcrossReadsAreWhole(t *testing.T) {
	var b []byte
	var want []int
	for i := range 400 {
		n := i * i % 70_000
		want = append(want, n)
		b = appendLine(b, time.Now(), "c", streamStderr, bytes.Repeat([]byte{'x'}, n))
	}
	b = appendLine(b, time.Now(), "c", streamStderr, make([]byte, maxBody-bodyHead-3))
	r := frameReader{from: bytes.NewReader(b), end: int64(len(b))}
	for _, n := range want {
		fr, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, text, ok := parseLine(fr.rest); !ok || len(text) != n {
			t.Fatalf("a line of %d bytes, want %d", len(text), n)
		}
	}
	if _, err := r.next(); err != nil {
		t.Errorf("the largest frame: %v", err)
	}
	if _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}
